//! Whole snapshots that are taken again, and have rows that cannot be applied.

use tempfile::TempDir;

use super::support::{Daemon, Delivery, Shared, at, catalog, config, memory_store, sqlite_settings};
use crate::config::Config;
use crate::domain::snapshot::Phase;
use crate::domain::value::Value;
use crate::store::{Reader, RowLookup, SqliteReader, SqliteStore, Store};

const ITEMS: &str = "
kafka: { brokers: 'localhost:9092' }
replica: { name: test, sqlite: { path: /nowhere/replica.db } }
topics: { shop.items: { format: debezium-json } }
tables:
  items: { topic: shop.items, key: id, columns: { id: integer, n: integer } }
";

fn skipping() -> Config {
    config(&ITEMS.replace("debezium-json }", "debezium-json, on_error: skip }"))
}

fn small() -> Config {
    config(&ITEMS.replace("'localhost:9092'", "'localhost:9092', max_record_bytes: 1KiB"))
}

/// A row of the snapshot that was taken at `lsn`.
fn row(id: i64, n: &str, lsn: i64, mark: &str) -> String {
    event(id, n, &format!(r#"[null,\"{lsn}\"]"#), ('r', mark))
}

fn streamed(id: i64, n: &str, lsn: i64) -> String {
    event(id, n, &format!(r#"[\"{lsn}\",\"{lsn}\"]"#), ('u', "false"))
}

fn event(id: i64, n: &str, sequence: &str, (op, mark): (char, &str)) -> String {
    format!(
        r#"{{"before":null,"after":{{"id":{id},"n":{n}}},"source":{{"snapshot":"{mark}","sequence":"{sequence}"}},"op":"{op}","ts_ms":1}}"#
    )
}

/// A replica of a topic with two partitions: rows with even ids lie in the first.
struct Copy<'o, S> {
    config: Config,
    shared: Shared,
    open: &'o dyn Fn() -> S,
    reader: &'o dyn Reader,
    daemon: Option<Daemon>,
}

impl<'o, S: Store + 'static> Copy<'o, S> {
    /// With the rows 1 to 6 of a first snapshot.
    fn begin(config: Config, open: &'o dyn Fn() -> S, reader: &'o dyn Reader) -> Copy<'o, S> {
        Copy::begin_in(Shared::new(), config, open, reader)
    }

    /// The same where there are other topics.
    fn begin_in(
        shared: Shared,
        config: Config,
        open: &'o dyn Fn() -> S,
        reader: &'o dyn Reader,
    ) -> Copy<'o, S> {
        (0..2).for_each(|partition| shared.world().add_partition(at(0, partition)));
        let mut copy = Copy { config, shared, open, reader, daemon: None };
        for id in 1..=6 {
            copy.send(id, &row(id, "1", 10, if id == 6 { "last" } else { "true" }));
        }
        copy.restart();
        copy.settle();
        assert_eq!(copy.rows(), [(1, 1), (2, 1), (3, 1), (4, 1), (5, 1), (6, 1)]);
        copy
    }

    fn send(&self, id: i64, value: &str) {
        self.shared.world().append(at(0, (id % 2) as i32), &format!(r#"{{"id":{id}}}"#), Some(value));
    }

    fn restart(&mut self) {
        if let Some(daemon) = self.daemon.take() {
            daemon.kill();
        }
        let mut daemon = Daemon::start(&self.config, &self.shared, (self.open)());
        daemon.observe(&self.shared).unwrap();
        self.daemon = Some(daemon);
    }

    fn read(&mut self) {
        self.shared.world().deliver_all();
        self.daemon.as_mut().unwrap().settle(&self.shared).unwrap();
    }

    /// Everything is read, and the ends behind it are asked for and passed.
    fn settle(&mut self) {
        for _ in 0..4 {
            self.read();
            self.shared.advance_clock(3_000);
            self.daemon.as_mut().unwrap().observe(&self.shared).unwrap();
        }
    }

    fn rows(&self) -> Vec<(i64, i64)> {
        let number = |value: &Value| match value {
            Value::Integer(number) => *number,
            other => panic!("{other:?}"),
        };
        let found = (1..=6).filter_map(|id| match self.reader.row(0, &[Value::Integer(id)]).unwrap() {
            RowLookup::Visible { values, .. } => Some((number(&values[0]), number(&values[1]))),
            _ => None,
        });
        found.collect()
    }

    fn phase(&mut self) -> Phase {
        self.daemon.take().unwrap().kill();
        let phase = (self.open)().checkpoint().unwrap().snapshots[&0].phase;
        self.restart();
        phase
    }
}

/// Of a second snapshot row 2 cannot be applied, and row 4 is gone.
fn has_a_row_that_cannot_be_applied<S: Store + 'static>(
    config: Config,
    (bad, restarts): (&str, bool),
    (open, reader): (&dyn Fn() -> S, &dyn Reader),
) {
    let mut copy = Copy::begin(config, open, reader);
    // The first that is read of it.
    copy.send(2, bad);
    copy.read();
    if restarts {
        copy.restart();
    }
    for id in [6, 1, 3] {
        copy.send(id, &row(id, "2", 20, "true"));
    }
    copy.read();
    if restarts {
        copy.restart();
    }
    copy.send(5, &row(5, "2", 20, "last"));
    copy.settle();
    assert_eq!(copy.rows(), [(1, 2), (2, 1), (3, 2), (4, 1), (5, 2), (6, 2)], "{bad}");
    assert_eq!(copy.phase(), Phase::Incomplete, "{bad}");
    // Another one, without such a row.
    for id in [2, 6, 1, 3] {
        copy.send(id, &row(id, "3", 30, "true"));
    }
    copy.send(5, &row(5, "3", 30, "last"));
    copy.settle();
    if copy.phase() == Phase::Incomplete {
        // Of a record that says nothing of itself nobody knows that it was not of this one.
        assert!(!bad.contains("\"lsn"), "{bad}");
        copy.send(2, &row(2, "3", 40, "first"));
        for id in [6, 1, 3] {
            copy.send(id, &row(id, "3", 40, "true"));
        }
        copy.send(5, &row(5, "3", 40, "last"));
        copy.settle();
    }
    assert_eq!(copy.rows(), [(1, 3), (2, 3), (3, 3), (5, 3), (6, 3)], "{bad}");
    assert_eq!(copy.phase(), Phase::Swept, "{bad}");
}

/// In all the ways in which a row cannot be applied.
fn bad_rows() -> Vec<(Config, String)> {
    let wrong = row(2, "\"two\"", 20, "true");
    let large = format!("{{\"large\":\"{}\"}}", "x".repeat(2_000));
    vec![
        (config(ITEMS), wrong.clone()),
        (skipping(), wrong),
        (config(ITEMS), row(2, "2", 20, "true").replace("null,\\\"20\\\"", "")),
        (config(ITEMS), "no json".to_owned()),
        (skipping(), "no json".to_owned()),
        (small(), large),
    ]
}

#[test]
fn a_snapshot_with_a_row_that_cannot_be_applied_takes_nothing_away() {
    for (config, bad) in bad_rows() {
        for restarts in [false, true] {
            let store = memory_store(&config);
            let reader = store.reader();
            has_a_row_that_cannot_be_applied(config.clone(), (&bad, restarts), (&|| store.clone(), &reader));
        }
    }
}

#[test]
fn nor_does_it_in_sqlite() {
    for (config, bad) in bad_rows() {
        let catalog = catalog(&config);
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("replica.db");
        let reader = SqliteReader::new(&path, catalog.clone());
        let settings = || sqlite_settings(&config);
        let open = || SqliteStore::open(&path, catalog.clone(), settings()).expect("a replica");
        has_a_row_that_cannot_be_applied(config.clone(), (&bad, true), (&open, &reader));
    }
}

/// A sweep that was due was forgotten with the batch that it was in.
#[test]
fn a_sweep_in_a_batch_that_is_dropped_is_due_still() {
    let text = ITEMS.replace("debezium-json } }", "debezium-json }, z: { format: json } }")
        + "  z: { topic: z, key: id, columns: { id: integer } }\ndefaults: { on_gap: continue }\n";
    let config = config(&text);
    let store = memory_store(&config);
    let reader = store.reader();
    let open = || store.clone();
    let shared = Shared::new();
    shared.world().add_partition(at(1, 0));
    let mut copy = Copy::begin_in(shared, config, &open, &reader);
    for id in [2, 6, 1, 3] {
        copy.send(id, &row(id, "2", 20, "true"));
    }
    copy.send(5, &row(5, "2", 20, "last"));
    copy.read();
    copy.shared.advance_clock(3_000);
    {
        // Of two rounds in one poll the first makes it due.
        let mut world = copy.shared.world();
        world.details = true;
        let first = world.ask();
        world.recreate(1, "another", 1);
        let second = world.ask();
        world.deliveries.extend([first, second].map(Delivery::Observation));
    }
    copy.daemon.as_mut().unwrap().settle(&copy.shared).unwrap();
    copy.settle();
    assert_eq!(copy.rows(), [(1, 2), (2, 2), (3, 2), (5, 2), (6, 2)]);
    assert_eq!(copy.phase(), Phase::Swept);
}

#[test]
fn a_streamed_event_that_cannot_be_applied_is_none_of_a_snapshot() {
    let config = config(ITEMS);
    let store = memory_store(&config);
    let reader = store.reader();
    let open = || store.clone();
    let mut copy = Copy::begin(config, &open, &reader);
    copy.send(2, &streamed(2, "\"two\"", 15));
    // Neither is one that cannot be read, where an event before the snapshot follows it.
    copy.send(2, "no json");
    copy.send(2, &streamed(2, "3", 16));
    for id in [2, 6, 1, 3] {
        copy.send(id, &row(id, "4", 20, "true"));
    }
    copy.send(5, &row(5, "4", 20, "last"));
    copy.send(1, &streamed(1, "\"one\"", 25));
    copy.settle();
    assert_eq!(copy.rows(), [(1, 4), (2, 4), (3, 4), (5, 4), (6, 4)]);
    assert_eq!(copy.phase(), Phase::Swept);
}

#[test]
fn a_snapshot_that_takes_nothing_away_is_complete_whatever_became_of_its_rows() {
    let config = config(ITEMS);
    let store = memory_store(&config);
    let reader = store.reader();
    let open = || store.clone();
    let mut copy = Copy::begin(config, &open, &reader);
    copy.send(2, &row(2, "\"two\"", 20, "true"));
    // It has got there by itself since.
    copy.send(2, &streamed(2, "3", 25));
    for id in [4, 6, 1, 3] {
        copy.send(id, &row(id, "2", 20, "true"));
    }
    copy.send(5, &row(5, "2", 20, "last"));
    copy.settle();
    assert_eq!(copy.rows(), [(1, 2), (2, 3), (3, 2), (4, 2), (5, 2), (6, 2)]);
    assert_eq!(copy.phase(), Phase::Swept);
}
