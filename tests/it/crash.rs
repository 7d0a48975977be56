//! kill -9, again and again, on a history with updates, patches, deletes, duplicates and keys that
//! move between partitions, while a reader looks on.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::daemon::{Daemon, header, reader, replica, rows, try_rows};
use crate::kafka::{self, Broker, Message, eventually};

const KEYS: u64 = 3_000;
const PARTITIONS: i32 = 4;
const BACKLOG: u64 = 120_000;
const KILLS_BUILDING: usize = 14;
const KILLS_STEADY: usize = 38;

/// splitmix64: repeatable, and good enough to choose keys.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % bound
    }
}

/// The producer's own idea of the truth, kept in the order in which it made it: not taken from the
/// code under test.
#[derive(Default, Clone)]
struct Item {
    name: Option<String>,
    amount: Option<u64>,
}

struct History {
    random: Random,
    sequence: u64,
    items: BTreeMap<u64, Item>,
    /// Recent events, to be sent again later.
    recent: Vec<(u64, String)>,
}

impl History {
    fn new(seed: u64) -> History {
        History { random: Random(seed), sequence: 0, items: BTreeMap::new(), recent: Vec::new() }
    }

    /// The next record: any partition, sometimes an old event again.
    fn next(&mut self) -> Message {
        if !self.recent.is_empty() && self.random.below(20) == 0 {
            let index = self.random.below(self.recent.len() as u64) as usize;
            let (key, value) = self.recent[index].clone();
            return self.record(key, &value);
        }
        let key = self.random.below(KEYS);
        self.sequence += 1;
        let sequence = self.sequence;
        let item = self.items.entry(key).or_default();
        let value = match self.random.below(10) {
            0 => {
                *item = Item::default();
                format!(r#"{{"type":"Gone","seq":{sequence},"id":{key}}}"#)
            }
            1..=3 => {
                item.amount = Some(sequence * 7);
                format!(r#"{{"type":"Priced","seq":{sequence},"id":{key},"amount":{}}}"#, sequence * 7)
            }
            _ => {
                let name = format!("name {sequence} of {key}");
                item.name = Some(name.clone());
                item.amount = Some(sequence * 3);
                format!(
                    r#"{{"type":"Set","seq":{sequence},"id":{key},"name":"{name}","amount":{}}}"#,
                    sequence * 3
                )
            }
        };
        if self.recent.len() < 500 {
            self.recent.push((key, value.clone()));
        } else {
            let index = self.random.below(500) as usize;
            self.recent[index] = (key, value.clone());
        }
        self.record(key, &value)
    }

    fn record(&mut self, key: u64, value: &str) -> Message {
        let partition = self.random.below(PARTITIONS as u64) as i32;
        Message::new(key.to_string(), value).to(partition)
    }

    /// Rows a reader must see in the end: a name is needed, an amount may be missing.
    fn expected(&self) -> Vec<String> {
        self.items
            .iter()
            .filter_map(|(key, item)| {
                let name = item.name.as_ref()?;
                let amount = item.amount.map_or("NULL".to_owned(), |amount| amount.to_string());
                Some(format!("{key}|{name}|{amount}"))
            })
            .collect()
    }
}

fn config(broker: &Broker, dir: &std::path::Path, topic: &str) -> String {
    // Two tables from the same records: a reader that sees them differ has seen half a transaction.
    let table = |name: &str| {
        format!(
            r#"
  {name}:
    topic: {topic}
    key: id
    columns: {{ id: integer, name: text, amount: 'integer?', seq: integer }}
    events:
      Set: {{ upsert: {{ id: .id, name: .name, amount: .amount, seq: .seq }} }}
      Priced: {{ patch: {{ id: .id, amount: .amount, seq: .seq }} }}
      Gone: {{ delete: {{ id: .id }} }}"#
        )
    };
    format!(
        "{}topics:\n  {topic}: {{ format: json, event_type: .type, version: .seq }}\ntables:{}{}\n",
        header(&broker.bootstrap(), dir),
        table("items"),
        table("twins")
    )
}

/// Polls the replica until told to stop; returns how often it looked.
fn watch(dir: std::path::PathBuf, stop: Arc<AtomicBool>) -> u64 {
    let mut looks = 0;
    let mut newest: BTreeMap<String, i64> = BTreeMap::new();
    while !stop.load(Ordering::Relaxed) {
        std::thread::park_timeout(std::time::Duration::from_millis(3));
        if !replica(&dir).exists() {
            continue;
        }
        let connection = reader(&dir);
        connection.execute_batch("BEGIN").unwrap();
        // Before the first copy is whole there is no such table.
        let Ok(items) = try_rows(&connection, "SELECT id, name, amount, seq FROM items ORDER BY id") else {
            continue;
        };
        let twins = rows(&connection, "SELECT id, name, amount, seq FROM twins ORDER BY id");
        assert_eq!(items, twins, "a reader saw half a transaction");
        for item in items {
            let (id, rest) = item.split_once('|').unwrap();
            let sequence: i64 = rest.rsplit('|').next().unwrap().parse().unwrap();
            let last = newest.entry(id.to_owned()).or_insert(sequence);
            assert!(*last <= sequence, "row {id} went back from version {last} to {sequence}");
            *last = sequence;
        }
        looks += 1;
    }
    looks
}

fn stored_records(dir: &std::path::Path) -> i64 {
    if !replica(dir).exists() {
        return 0;
    }
    let sum = try_rows(&reader(dir), "SELECT coalesce(sum(next_offset), 0) FROM _readside_positions");
    sum.ok().and_then(|rows| rows.first()?.parse().ok()).unwrap_or(0)
}

/// Runs the daemon until about `more` further records are committed or it is idle, and kills it.
/// Checks that it read what lies between the stored positions and not more.
fn run_and_kill(dir: &std::path::Path, yaml: &str, more: i64, counted: &AtomicU64) {
    let before = stored_records(dir);
    let mut daemon = Daemon::start(dir, yaml);
    let mut read = 0.0;
    for _ in 0..400 {
        read = daemon.metric_sum("readside_events_applied_total").unwrap_or(0.0) / 2.0
            + daemon.metric_sum("readside_events_skipped_total").unwrap_or(0.0) / 2.0;
        if stored_records(dir) - before >= more {
            break;
        }
        std::thread::park_timeout(std::time::Duration::from_millis(2));
    }
    daemon.kill();
    let moved = stored_records(dir) - before;
    assert!(moved >= 0, "positions went back by {}", -moved);
    // Each record makes two changes. What was counted before the kill was committed before it.
    assert!(read <= moved as f64 + 1.0, "{read} records counted, but positions moved by {moved} only");
    counted.fetch_add(moved as u64, Ordering::Relaxed);
}

#[test]
fn fifty_kills_leave_exactly_the_expected_rows() {
    let Some(broker) = kafka::shared() else { return };
    let dir = tempfile::tempdir().unwrap();
    let topic = kafka::topic_name("crash");
    broker.create_topic(&topic, PARTITIONS, &[]);
    let yaml = config(broker, dir.path(), &topic);
    let mut history = History::new(20_261_123);
    let backlog: Vec<Message> = (0..BACKLOG).map(|_| history.next()).collect();
    broker.produce(&topic, backlog);

    let stop = Arc::new(AtomicBool::new(false));
    let watcher = {
        let (dir, stop) = (dir.path().to_owned(), Arc::clone(&stop));
        std::thread::spawn(move || watch(dir, stop))
    };
    let committed = AtomicU64::new(0);
    let mut kills = 0;
    // While the first copy is being built: each run may commit a few batches.
    for round in 0..KILLS_BUILDING {
        run_and_kill(dir.path(), &yaml, 1 + (round as i64 % 4) * 3_000, &committed);
        kills += 1;
    }
    let mut daemon = Daemon::start(dir.path(), &yaml);
    daemon.started();
    daemon.kill();
    kills += 1;
    // In steady state: events keep coming, and some runs only start and die.
    for round in 0..KILLS_STEADY {
        let news: Vec<Message> = (0..400).map(|_| history.next()).collect();
        let mut producing = broker.produce(&topic, news).len() as i64;
        if round % 5 == 4 {
            producing = 0;
        }
        run_and_kill(dir.path(), &yaml, producing.min(1 + (round as i64 % 3) * 150), &committed);
        kills += 1;
    }
    assert!(kills >= 50);

    let mut daemon = Daemon::start(dir.path(), &yaml);
    daemon.started();
    let end: i64 = (0..PARTITIONS).map(|partition| broker.end_offset(&topic, partition)).sum();
    eventually("everything is applied", 60, || (stored_records(dir.path()) == end).then_some(()));
    let connection = reader(dir.path());
    assert_eq!(rows(&connection, "SELECT id, name, amount FROM items ORDER BY id"), history.expected());
    let counts = rows(
        &connection,
        "SELECT table_name, rows, dead_letters FROM _readside_status WHERE table_name IS NOT NULL ORDER BY 1",
    );
    let expected = history.expected().len();
    assert_eq!(counts, [format!("items|{expected}|0"), format!("twins|{expected}|0")]);
    stop.store(true, Ordering::Relaxed);
    let looks = watcher.join().expect("the reader saw nothing wrong");
    assert!(looks > 20, "the reader looked {looks} times only");
    let (status, _) = daemon.terminate();
    assert!(status.success());
}
