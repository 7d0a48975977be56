//! What a service sees that opens the file with the client it has.

use std::process::Command;
use std::time::Duration;

use rusqlite::params;

use super::*;
use crate::domain::dead_letter::{DeadLetter, Reason, RecordBytes, Rejection};
use crate::domain::state::{Facts, State, state};
use crate::store::sqlite::views::state_rank;
use crate::store::{Reader, sqlite_status};
use crate::testing::skip_without;

#[test]
fn tables_appear_when_the_first_copy_is_complete() {
    let bench = bench();
    let mut store = bench.open();
    store.apply(&batch([upsert(1, 10)])).unwrap();
    let reader = reading(&bench.path());
    assert!(reader.prepare("SELECT * FROM users").is_err());
    let state: String = reader
        .query_row("SELECT state FROM _readside_status WHERE table_name IS NULL", [], |row| row.get(0))
        .unwrap();
    assert_eq!(state, "building");
    store.complete().unwrap();
    let columns = |table: &str| -> Vec<String> {
        let statement = reader.prepare(&format!("SELECT * FROM {table}")).unwrap();
        statement.column_names().map(str::to_owned).collect()
    };
    assert_eq!(columns("users"), ["id", "name", "email", "score"]);
    assert_eq!(columns("\"Order\""), ["group", "rowid"]);
    assert_eq!(columns("\"odd \"\"name\"\"\""), ["it's", "key"]);
    let name: String = reader.query_row("SELECT name FROM users", [], |row| row.get(0)).unwrap();
    assert!(name.starts_with("text 10"), "{name}");
}

/// A view costs nothing: the key and the declared indexes of the table below it are used.
#[test]
fn a_view_is_as_good_as_its_table() {
    let bench = bench();
    bench.open().complete().unwrap();
    let reader = reading(&bench.path());
    for (condition, word) in [
        ("users WHERE id = 1", "INTEGER PRIMARY KEY"),
        ("users WHERE email = 'x'", "_readside_g1i2_users (email=?)"),
        ("users WHERE name = 'x' AND email = 'y'", "_readside_g1i1-2_users (name=? AND email=?)"),
        ("users_hidden WHERE tenant = 1 AND sku = 'x'", "_readside_g1k_users_hidden (tenant=? AND sku=?)"),
    ] {
        let plan: String = reader
            .query_row(&format!("EXPLAIN QUERY PLAN SELECT * FROM {condition}"), [], |row| row.get("detail"))
            .unwrap();
        assert!(plan.contains("SEARCH") && plan.contains(word), "{condition}: {plan}");
    }
}

/// `docs/REFERENCE.md` has a heading for each of our views, and a table with its columns in order.
#[test]
fn the_reference_has_every_column_of_every_view() {
    let text = include_str!("../../../../docs/REFERENCE.md");
    let bench = bench();
    let _store = bench.open();
    let reader = reading(&bench.path());
    let mut views = 0;
    for section in text.split("\n### `_readside_").skip(1) {
        views += 1;
        let (name, rest) = section.split_once('`').unwrap();
        let rest = rest.split("\n#").next().unwrap();
        let cells = rest.lines().filter_map(|line| line.strip_prefix("| `")?.split(" | ").next());
        let described: Vec<&str> =
            cells.flat_map(|cell| cell.split(", ")).map(|name| name.trim_matches('`')).collect();
        let statement = reader.prepare(&format!("SELECT * FROM _readside_{name}")).unwrap();
        assert_eq!(described, statement.column_names().collect::<Vec<_>>(), "{name}");
    }
    assert_eq!(views, 4);
}

#[test]
fn the_views_have_the_promised_columns() {
    let bench = bench();
    let _store = bench.open();
    let reader = reading(&bench.path());
    for (view, columns) in [
        (
            "_readside_status",
            "table_name, state, fresh_as_of, fresh_as_of_ms, lag_records, max_staleness_ms, rows, dead_letters, \
             generation, complete, rebuilding, missing_events",
        ),
        (
            "_readside_positions",
            "generation, topic, partition, next_offset, end_offset, leader_epoch, topic_id, cluster_id, \
             fresh_as_of_ms",
        ),
        (
            "_readside_dead_letters",
            "topic, partition, offset, table_name, path, reason, first_seen, key, value, headers, message, produced",
        ),
        ("_readside_tables", "table_name, generation, fingerprint, rows, built_at, snapshot"),
    ] {
        let all = reader.prepare(&format!("SELECT * FROM {view}")).unwrap();
        assert_eq!(all.column_names().collect::<Vec<_>>().join(", "), columns, "{view}");
        // Names that are keywords elsewhere need no quotes.
        reader.prepare(&format!("SELECT {columns} FROM {view}")).unwrap();
    }
}

/// The state in SQL and the function are one rule, down to the millisecond.
#[test]
fn sql_and_rust_agree_on_every_state() {
    let conn = Connection::open_in_memory().unwrap();
    let sql = format!(
        "SELECT {} FROM (SELECT ?1 AS stopped, ?2 AS complete, ?3 AS connected, ?4 AS heartbeat_ms, \
         ?5 AS heartbeat_limit_ms, ?6 AS fresh_as_of_ms, ?7 AS max_staleness_ms, ?8 AS missing_events, \
         ?9 AS rebuilding)",
        state_rank("10000")
    );
    let mut statement = conn.prepare(&sql).unwrap();
    let mut seen = std::collections::BTreeSet::new();
    let heartbeats = [None, Some(10_000), Some(7_000), Some(6_999), Some(20_000)];
    let freshness = [None, Some(9_000), Some(8_000), Some(7_999), Some(20_000)];
    for bits in 0..32u8 {
        for heartbeat_ms in heartbeats {
            for fresh_as_of_ms in freshness {
                let bit = |nth: u8| bits & (1 << nth) != 0;
                let facts = Facts {
                    stopped: bit(0),
                    complete: bit(1),
                    connected: bit(2),
                    heartbeat_ms,
                    heartbeat_limit_ms: 3_000,
                    fresh_as_of_ms,
                    max_staleness_ms: 2_000,
                    missing_events: bit(3),
                    rebuilding: bit(4),
                };
                let rank: usize = statement
                    .query_row(
                        params![
                            facts.stopped.then_some("why"),
                            facts.complete,
                            facts.connected,
                            facts.heartbeat_ms,
                            facts.heartbeat_limit_ms,
                            facts.fresh_as_of_ms,
                            facts.max_staleness_ms,
                            facts.missing_events,
                            facts.rebuilding
                        ],
                        |row| row.get::<_, i64>(0).map(|rank| rank as usize),
                    )
                    .unwrap();
                assert_eq!(State::ALL[rank], state(&facts, 10_000), "{facts:?}");
                seen.insert(State::ALL[rank]);
            }
        }
    }
    assert_eq!(seen.len(), State::ALL.len());
}

const HOUR: Duration = Duration::from_secs(3_600);

/// One whose state does not change while a test looks at it: it takes an hour to become old.
fn slowly_aging() -> (InSqlite, SqliteStore) {
    let mut catalog = catalog();
    catalog.tables.iter_mut().for_each(|table| table.max_staleness_ms = HOUR.as_millis() as i64);
    let catalog = Arc::new(catalog);
    let bench = InSqlite::new(Arc::clone(&catalog));
    let settings = Settings { heartbeat_limit: HOUR, ..settings() };
    let mut store = SqliteStore::open(&bench.path(), catalog, settings).unwrap();
    store.end_appending().unwrap();
    (bench, store)
}

fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

/// A batch that makes everything fresh as of now.
fn fresh() -> Batch {
    let mut batch = batch([]);
    batch.observed.heartbeat_ms = now_ms();
    for topic in 0..2 {
        let at = crate::domain::checkpoint::TopicPartition { topic, partition: 0 };
        batch.observed.fresh_as_of_ms.insert(at, now_ms());
    }
    batch
}

/// Table name and state of every row of `_readside_status`.
fn states(reader: &Connection) -> Vec<(Option<String>, String)> {
    let mut statement = reader.prepare("SELECT table_name, state FROM _readside_status").unwrap();
    statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap().map(Result::unwrap).collect()
}

#[test]
fn the_view_and_the_reader_show_the_same() {
    let (bench, mut store) = slowly_aging();
    store.complete().unwrap();
    let reader = reading(&bench.path());
    let old_ms = now_ms() - 2 * HOUR.as_millis() as i64;
    let mut stale = fresh();
    stale.observed.fresh_as_of_ms.insert(AT, old_ms);
    let mut silent = fresh();
    silent.observed.heartbeat_ms = old_ms;
    let mut alone = fresh();
    alone.observed.connected = false;
    for (batch, worst) in [
        (fresh(), State::Live),
        (stale, State::Stale),
        (silent, State::Disconnected),
        (alone, State::Disconnected),
        (fresh(), State::Live),
    ] {
        store.apply(&batch).unwrap();
        let shown = states(&reader);
        let status = sqlite_status(&bench.path(), now_ms()).unwrap();
        assert_eq!(status.replica, "orders");
        let names: Vec<_> = status.tables.iter().map(|t| Some(t.table_name.clone())).collect();
        let found: Vec<_> = shown.iter().map(|(name, _)| name.clone()).collect();
        assert_eq!(found, [names, vec![None]].concat(), "the replica comes last");
        for (table, (_, state)) in status.tables.iter().zip(&shown) {
            assert_eq!(table.state.name(), state);
        }
        assert_eq!(shown.last().unwrap().1, worst.name());
        assert_eq!(status.state, worst);
    }
    let (text, ms): (String, i64) = reader
        .query_row(
            "SELECT fresh_as_of, fresh_as_of_ms FROM _readside_status WHERE table_name IS NULL",
            [],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
        .unwrap();
    assert_eq!(text.parse::<jiff::Timestamp>().unwrap().as_millisecond(), ms);
}

#[test]
fn rows_and_freshness_are_of_one_moment() {
    let bench = bench();
    let mut store = bench.open();
    store.apply(&batch([upsert(1, 1)])).unwrap();
    store.complete().unwrap();
    let reader = reading(&bench.path());
    let mut look = || -> (i64, i64, Option<i64>) {
        let tx = reader.unchecked_transaction().unwrap();
        let before = tx.query_row("SELECT COUNT(*) FROM users", [], |row| row.get(0)).unwrap();
        let mut next = batch([upsert(before + 1, before + 1)]);
        next.observed.fresh_as_of_ms.insert(AT, before + 1);
        store.apply(&next).unwrap();
        let sql = "SELECT rows, fresh_as_of_ms FROM _readside_status WHERE table_name = 'users'";
        let (rows, fresh) = tx.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
        (before, rows, fresh)
    };
    assert_eq!(look(), (1, 1, None));
    assert_eq!(look(), (2, 2, Some(2)));
    assert_eq!(look(), (3, 3, Some(3)));
}

#[test]
fn a_reader_without_write_access_goes_on_when_the_writer_is_gone() {
    let bench = bench();
    let mut store = bench.open();
    store.apply(&batch([upsert(1, 1)])).unwrap();
    store.complete().unwrap();
    store.apply(&batch([upsert(1, 2)])).unwrap();
    drop(store);
    // With both files there, a reader on a read-only mount has nothing to create.
    for suffix in ["-wal", "-shm"] {
        assert!(owner::sibling(&bench.path(), suffix).exists(), "{suffix}");
    }
    let reader = reading(&bench.path());
    let name: String = reader.query_row("SELECT name FROM users", [], |row| row.get(0)).unwrap();
    assert!(name.starts_with("text 2 "), "{name}");
    assert!(reader.execute("DELETE FROM _readside_g1_users", []).is_err());
    drop(reader);
    assert!(owner::sibling(&bench.path(), "-wal").exists(), "a reader must not tidy up");
    assert_eq!(look(&bench, 1), visible(1, 2));
}

#[test]
fn a_reader_notices_that_the_file_was_replaced() {
    let bench = bench();
    let reader = SqliteReader::new(&bench.path(), Arc::new(catalog()));
    reader.status(NOW_MS).unwrap_err();
    let store = bench.open();
    assert_eq!(reader.status(NOW_MS).unwrap().state, State::Building);
    drop(store);
}

#[test]
fn dead_letters_can_be_read_and_their_bytes_are_bounded() {
    let bench = bench();
    let mut store = bench.open();
    let letter = |offset, size: usize| DeadLetter {
        at: AT,
        offset,
        rejection: Rejection {
            table: (offset > 1).then_some(0),
            path: ".user.id".into(),
            reason: Reason::WrongType,
            message: "a text of 3 characters where an integer is needed".into(),
        },
        first_seen_ms: NOW_MS,
        origin: Default::default(),
        record: Some(RecordBytes { key: Some(vec![1]), value: Some(vec![7; size]), headers: None }),
        produced_ms: None,
    };
    let letters = vec![letter(1, 600), letter(2, 600), letter(3, 300)];
    store.apply(&Batch { dead_letters: letters, ..batch([]) }).unwrap();
    let reader = reading(&bench.path());
    let mut statement = reader
        .prepare(
            "SELECT offset, table_name, path, reason, first_seen, LENGTH(key), LENGTH(value) \
             FROM _readside_dead_letters ORDER BY offset",
        )
        .unwrap();
    let found: Vec<String> = statement
        .query_map([], |row| {
            let table: Option<String> = row.get(1)?;
            let sizes: (Option<i64>, Option<i64>) = (row.get(5)?, row.get(6)?);
            let rest: [String; 3] = [row.get(2)?, row.get(3)?, row.get(4)?];
            Ok(format!("{} {table:?} {} {sizes:?}", row.get::<_, i64>(0)?, rest.join(" ")))
        })
        .unwrap()
        .map(Result::unwrap)
        .collect();
    assert_eq!(
        found,
        [
            "1 None .user.id wrong_type 2023-11-14T22:13:20.000Z (Some(1), Some(600))",
            "2 Some(\"users\") .user.id wrong_type 2023-11-14T22:13:20.000Z (None, None)",
            "3 Some(\"users\") .user.id wrong_type 2023-11-14T22:13:20.000Z (Some(1), Some(300))",
        ]
    );
}

/// The client of another process, of another version: Debian's.
#[test]
fn the_sqlite3_shell_reads_rows_and_status_in_one_transaction() {
    let (bench, mut store) = slowly_aging();
    store.apply(&batch([upsert(1, 1), upsert(2, 2)])).unwrap();
    store.complete().unwrap();
    store.apply(&fresh()).unwrap();
    let shell =
        |script: &str| Command::new("sqlite3").arg("-readonly").arg(bench.path()).arg(script).output();
    let script = "BEGIN; SELECT COUNT(*) FROM users; SELECT rows, state FROM _readside_status; COMMIT;";
    let output = match shell(script) {
        Ok(output) => output,
        Err(error) => return skip_without(&format!("sqlite3 shell: {error}")),
    };
    let text = String::from_utf8(output.stdout).unwrap();
    let expected = "2\n2|live\n0|live\n0|live\n0|live\n2|live\n";
    assert_eq!(text, expected, "{}", String::from_utf8_lossy(&output.stderr));
    drop(store);
    let output = shell("SELECT COUNT(*) FROM users").unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "2\n", "without a writer");
    let refused = shell("DELETE FROM _readside_g1_users").unwrap();
    assert!(!refused.status.success());
}
