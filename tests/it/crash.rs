//! kill -9, again and again, on a history with updates, patches, deletes, duplicates and keys that
//! move between partitions, while a reader looks on.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use crate::daemon::{Daemon, header, reader, replica, rows, try_rows};
use crate::history::{self, History, PARTITIONS};
use crate::kafka::{self, WAIT_MAX, eventually};

const KEYS: u64 = 3_000;
const BACKLOG: u64 = 120_000;
const KILLS_BUILDING: usize = 14;
const KILLS_STEADY: usize = 38;
/// While a live copy catches up with so many records, which it does in large batches.
const KILLS_BEHIND: usize = 8;
const MISSED: u64 = 45_000;

/// How often a reader has to look.
pub const LOOKS_LEAST: u64 = 20;

/// Polls the replica until told to stop, and until it has looked often enough; returns how often it looked.
pub fn watch(dir: std::path::PathBuf, stop: Arc<AtomicBool>) -> u64 {
    let (mut looks, begin) = (0, Instant::now());
    let mut newest: BTreeMap<String, i64> = BTreeMap::new();
    while !stop.load(Ordering::Relaxed) || (looks < LOOKS_LEAST && begin.elapsed() < WAIT_MAX) {
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
    match try_rows(&reader(dir), "SELECT coalesce(sum(next_offset), 0) FROM _readside_positions") {
        Ok(rows) => rows[0].parse().unwrap(),
        // The file is being made.
        Err(error) if error.to_string().contains("no such table") => 0,
        Err(error) => panic!("{error}"),
    }
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
    let yaml = format!("{}{}", header(&broker.bootstrap(), dir.path()), history::tables(&topic));
    let mut history = History::new(KEYS, 20_261_123);
    broker.produce(&topic, history.take(BACKLOG));

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
        let mut producing = broker.produce(&topic, history.take(400)).len() as i64;
        if round % 5 == 4 {
            producing = 0;
        }
        run_and_kill(dir.path(), &yaml, producing.min(1 + (round as i64 % 3) * 150), &committed);
        kills += 1;
    }
    assert!(kills >= 50);
    for round in 0..KILLS_BEHIND {
        broker.produce(&topic, history.take(MISSED));
        run_and_kill(dir.path(), &yaml, 1 + round as i64 % 4 * 15_000, &committed);
    }

    let mut daemon = Daemon::start(dir.path(), &yaml);
    daemon.started();
    let end: i64 = (0..PARTITIONS).map(|partition| broker.end_offset(&topic, partition)).sum();
    eventually("everything is applied", || (stored_records(dir.path()) == end).then_some(()));
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
    assert!(looks >= LOOKS_LEAST, "the reader looked {looks} times only");
    let (status, _) = daemon.terminate();
    assert!(status.success());
}
