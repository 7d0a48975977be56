//! How fast a replica takes rows: `cargo bench --bench store -- [redis | redis-rows | redis-indexed | redis-memory | redis-blocking] [rows]`.
//!
//! Plain timing, one line a case; each case runs on a new file in the temporary directory, or in a
//! private redis-server that has nothing else to do.

#[path = "store/busy.rs"]
mod busy;
#[path = "store/private_redis.rs"]
mod private_redis;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use readside::domain::batch::{Batch, BatchBuilder, Observed};
use readside::domain::catalog::{Catalog, Column, Table};
use readside::domain::change::{Change, IfMissing, Operation};
use readside::domain::checkpoint::{Position, TopicPartition};
use readside::domain::value::{ColumnType, Value};
use readside::domain::version::{Coordinates, Version};
use readside::store::{LossLimit, Settings, SqliteStore, Store};

const AT: TopicPartition = TopicPartition { topic: 0, partition: 0 };

fn main() {
    let rows: i64 = std::env::args().filter_map(|word| word.parse().ok()).next().unwrap_or(500_000);
    let asked = |mode: &str| std::env::args().any(|word| word == mode);
    if asked("redis") {
        return private_redis::run(rows);
    }
    if asked("redis-building") {
        return private_redis::building(rows);
    }
    if asked("redis-indexed") {
        return private_redis::indexed(rows);
    }
    if asked("redis-rows") {
        return private_redis::rows(rows);
    }
    if asked("redis-memory") {
        return private_redis::memories(rows);
    }
    if asked("redis-blocking") {
        return private_redis::blocking(rows);
    }
    for (name, uuid_key) in [("integer key", false), ("uuid key", true)] {
        for size in [100, 1_000, 5_000] {
            // Random keys cost the same per row only until the tree is larger than the cache.
            run(
                &format!("{name}, batches of {size}"),
                uuid_key,
                if uuid_key { rows / 5 } else { rows },
                size,
            );
        }
    }
}

fn run(name: &str, uuid_key: bool, rows: i64, size: i64) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("replica.db");
    let catalog = Arc::new(catalog(uuid_key));
    let mut store = open(&path, &catalog);
    let mut next = 0;
    let mut pass = |store: &mut SqliteStore, what: &str, newer: i64, deleted: bool| {
        let mut spent = Duration::ZERO;
        let mut builder = BatchBuilder::default();
        for first in (0..rows).step_by(size as usize) {
            for nth in first..(first + size).min(rows) {
                builder.push(&catalog, change(uuid_key, nth, newer, deleted));
            }
            let from = (next > 0).then_some(next);
            next += size;
            builder.advance(AT, from, &Position { next_offset: next, ..Position::start() });
            let batch: Batch = builder.seal(Observed { heartbeat_ms: 1, ..Observed::default() });
            let start = Instant::now();
            store.apply(&batch).expect("a batch that fits");
            spent += start.elapsed();
        }
        println!("{name:32} {what:16} {:>9.0} rows/s", rows as f64 / spent.as_secs_f64());
    };
    pass(&mut store, "insert", 0, false);
    let start = Instant::now();
    store.complete().expect("a copy that can be completed");
    println!("{name:32} {:16} {:>9} ms", "complete", start.elapsed().as_millis());
    pass(&mut store, "update", 1, false);
    pass(&mut store, "stale", 0, false);
    pass(&mut store, "delete", 2, true);
    let figures = store.figures();
    println!(
        "{name:32} {:16} {:>9} kB, peak memory {} kB",
        "size",
        figures.replica_bytes.unwrap_or(0) / 1024,
        peak_kb()
    );
}

fn open(path: &Path, catalog: &Arc<Catalog>) -> SqliteStore {
    let settings = Settings {
        replica_name: "bench".into(),
        heartbeat_limit: Duration::from_secs(4),
        dead_letter_bytes_max: 0,
        loss: LossLimit::default(),
        min_free_bytes: 0,
        wal_max_bytes: u64::MAX,
    };
    SqliteStore::open(path, catalog.clone(), settings).expect("a new replica")
}

fn catalog(uuid_key: bool) -> Catalog {
    use ColumnType::*;
    let key = if uuid_key { Uuid } else { Integer };
    let columns = [
        ("id", key, false),
        ("name", Text, false),
        ("email", Text, true),
        ("country", Text, false),
        ("city", Text, false),
        ("balance", Decimal, false),
        ("active", Boolean, false),
        ("score", Real, true),
        ("updated_at", Timestamp, false),
    ];
    let columns = columns.map(|(name, ty, nullable)| Column { name: name.into(), ty, nullable });
    Catalog {
        topics: vec!["users".into()],
        tables: vec![Table {
            name: "users".into(),
            columns: columns.to_vec(),
            key: vec![0],
            indexes: vec![],
            prefixes: vec![],
            topics: vec![0],
            max_staleness_ms: 30_000,
            ordered_by_position: true,
            delete_marks_ms: 0,
            fingerprint: "users".into(),
        }],
        fingerprint: "bench".into(),
    }
}

/// About 220 bytes as JSON.
fn change(uuid_key: bool, nth: i64, newer: i64, deleted: bool) -> Change {
    let text = |text: String| Value::Text(text);
    let random = (nth as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let key = if uuid_key {
        text(format!(
            "{:08x}-{:04x}-4{:03x}-8000-{nth:012x}",
            random >> 32,
            random >> 16 & 0xFFFF,
            random & 0xFFF
        ))
    } else {
        Value::Integer(nth)
    };
    let mut values = vec![
        key,
        text(format!("Customer number {nth}")),
        text(format!("customer{nth}@example.org")),
        text("Germany".into()),
        text("Frankfurt am Main".into()),
        text(format!("{}.{:02}", nth % 100_000, nth % 100)),
        Value::Integer(nth & 1),
        Value::Real(nth as f64 / 3.0),
        text("2024-05-06T07:08:09.123456Z".into()),
    ];
    if deleted {
        values[1..].fill(Value::Absent);
    }
    let at = Coordinates { topic: 0, partition: 0, offset: nth };
    Change {
        from: vec![],
        table: 0,
        topic: 0,
        operation: if deleted { Operation::Delete } else { Operation::Write { if_missing: IfMissing::Hold } },
        values,
        version: Version::position(1_715_000_000_000 + newer, at),
    }
}

fn peak_kb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmHWM"));
    line.and_then(|line| line.split_whitespace().nth(1)).and_then(|kb| kb.parse().ok()).unwrap_or(0)
}
