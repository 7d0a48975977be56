//! A first copy of flat events, Kafka to SQLite, next to `sqlite3 .import` (WAL) of the same rows.
//!
//! `cargo bench --bench first_copy` runs both in turn, on the same machine and in the same run, and
//! prints medians with their spread and the ratio pair by pair. `READSIDE_BENCH_ROWS`,
//! `READSIDE_BENCH_ROUNDS` and `READSIDE_BENCH_KEYS=integer|uuid` change the work.

#[path = "../tests/it/children.rs"]
mod children;
#[path = "../tests/it/daemon.rs"]
#[allow(dead_code, unused_imports)]
mod daemon;
#[path = "../tests/it/kafka/mod.rs"]
#[allow(dead_code, unused_imports)]
mod kafka;

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::Instant;

use daemon::{Daemon, header, reader, rows};
use kafka::Message;

const PARTITIONS: i32 = 4;
const CHUNK: usize = 50_000;

fn main() {
    let number = |name: &str, default: usize| {
        std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
    };
    let total = number("READSIDE_BENCH_ROWS", 1_000_000);
    let rounds = number("READSIDE_BENCH_ROUNDS", 3);
    let uuid = std::env::var("READSIDE_BENCH_KEYS").is_ok_and(|keys| keys == "uuid");
    let Some(broker) = kafka::private("benchmark") else { return };
    let dir = tempfile::tempdir().expect("a directory");
    let topic = kafka::topic_name("bench");
    broker.create_topic(&topic, PARTITIONS, &[]);
    let csv = dir.path().join("rows.csv");
    let mut file = std::io::BufWriter::new(std::fs::File::create(&csv).expect("a file"));
    let mut bytes = 0;
    for start in (0..total).step_by(CHUNK) {
        let chunk: Vec<Message> = (start..(start + CHUNK).min(total))
            .map(|id| {
                let (json, line) = row(id, uuid);
                bytes += json.len();
                file.write_all(line.as_bytes()).expect("disk space");
                Message::new(id.to_string(), json)
            })
            .collect();
        broker.produce(&topic, chunk);
    }
    file.flush().expect("disk space");
    drop(file);
    println!(
        "{total} events of {} bytes, {} keys",
        bytes / total.max(1),
        if uuid { "UUID" } else { "integer" }
    );

    let mut ours = Vec::new();
    let mut theirs = Vec::new();
    for round in 1..=rounds {
        let theirs_now = import(dir.path(), &csv, uuid, total);
        let ours_now = first_copy(&broker, &topic, uuid, total);
        println!(
            "round {round}: readside {:.2} s ({:.0} rows/s, cpu {:.2} s, peak {:.1} MB), .import {theirs_now:.2} s \
             ({:.0} rows/s), rate ratio {:.2}",
            ours_now.seconds,
            total as f64 / ours_now.seconds,
            ours_now.cpu_seconds,
            ours_now.peak_kib as f64 / 1024.0,
            total as f64 / theirs_now,
            theirs_now / ours_now.seconds
        );
        theirs.push(theirs_now);
        ours.push(ours_now);
    }
    let rates: Vec<f64> = ours.iter().map(|run| total as f64 / run.seconds).collect();
    let imports: Vec<f64> = theirs.iter().map(|seconds| total as f64 / seconds).collect();
    let ratios: Vec<f64> = ours.iter().zip(&theirs).map(|(run, seconds)| seconds / run.seconds).collect();
    let peaks: Vec<f64> = ours.iter().map(|run| run.peak_kib as f64 / 1024.0).collect();
    println!("\n| figure | median | min | max |\n| --- | --- | --- | --- |");
    for (name, values, digits) in [
        ("readside, rows/s, process start to ready", rates, 0),
        ("sqlite3 .import (WAL), rows/s", imports, 0),
        ("ratio", ratios, 2),
        ("readside, peak resident MB (VmHWM)", peaks, 1),
    ] {
        let (median, min, max) = spread(values);
        println!("| {name} | {median:.digits$} | {min:.digits$} | {max:.digits$} |");
    }
}

struct Run {
    seconds: f64,
    cpu_seconds: f64,
    peak_kib: u64,
}

fn first_copy(broker: &kafka::Broker, topic: &str, uuid: bool, total: usize) -> Run {
    let dir = tempfile::tempdir().expect("a directory");
    let key = if uuid { "text" } else { "integer" };
    let yaml = format!(
        "{}tables:\n  users:\n    topic: {topic}\n    key: id\n    columns: {{ id: {key}, tenant: integer, name: text, \
         email: text, city: text, balance: decimal, score: real, active: boolean, updated_at: timestamp }}\n",
        header(&broker.bootstrap(), dir.path())
    );
    let begin = Instant::now();
    let mut daemon = Daemon::start(dir.path(), &yaml);
    daemon.started();
    let seconds = begin.elapsed().as_secs_f64();
    let run = Run { seconds, cpu_seconds: cpu_seconds(daemon.pid()), peak_kib: daemon.peak_kib() };
    assert_eq!(rows(&reader(dir.path()), "SELECT count(*) FROM users"), [total.to_string()]);
    assert!(daemon.terminate().0.success());
    run
}

fn import(dir: &std::path::Path, csv: &std::path::Path, uuid: bool, total: usize) -> f64 {
    let database = dir.join("import.db");
    for suffix in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(format!("{}{suffix}", database.display()));
    }
    let key = if uuid { "TEXT" } else { "INTEGER" };
    let script = format!(
        "PRAGMA journal_mode=WAL;\nCREATE TABLE users (id {key} PRIMARY KEY, tenant INTEGER, name TEXT, email TEXT, \
         city TEXT, balance TEXT, score REAL, active INTEGER, updated_at TEXT);\n.import --csv {} users\n",
        csv.display()
    );
    let begin = Instant::now();
    let mut child = Command::new("sqlite3")
        .arg(&database)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .expect("sqlite3 is installed");
    child.stdin.take().expect("a pipe").write_all(script.as_bytes()).expect("sqlite3 reads");
    assert!(child.wait().expect("sqlite3 ends").success());
    let seconds = begin.elapsed().as_secs_f64();
    let check = rusqlite::Connection::open(&database).expect("the database");
    assert_eq!(rows(&check, "SELECT count(*) FROM users"), [total.to_string()]);
    seconds
}

/// One event as JSON and the same row as CSV.
fn row(id: usize, uuid: bool) -> (String, String) {
    let key = if uuid { uuid_of(id as u64) } else { id.to_string() };
    let quote = if uuid { "\"" } else { "" };
    let (tenant, city) = (id % 97, ["Lisbon", "Oslo", "Graz", "Turin", "Leeds"][id % 5]);
    let (cents, active) = (id * 37 % 10_000_000, id.is_multiple_of(3));
    let mut json = String::with_capacity(240);
    let stamp =
        format!("2026-{:02}-{:02}T12:{:02}:{:02}.000000Z", id % 12 + 1, id % 28 + 1, id % 60, id / 60 % 60);
    let balance = format!("{}.{:02}", cents / 100, cents % 100);
    let score = (id % 1000) as f64 / 8.0;
    let _ = write!(
        json,
        r#"{{"id":{quote}{key}{quote},"tenant":{tenant},"name":"Customer number {id}","email":"customer.{id}@mail.example","city":"{city}","balance":"{balance}","score":{score},"active":{active},"updated_at":"{stamp}"}}"#
    );
    let line = format!(
        "{key},{tenant},Customer number {id},customer.{id}@mail.example,{city},{balance},{score},{},{stamp}\n",
        u8::from(active)
    );
    (json, line)
}

/// Random-looking and repeatable.
fn uuid_of(id: u64) -> String {
    let mix = |seed: u64| {
        let mut z = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    };
    let (high, low) = (mix(id * 2 + 1), mix(id * 2 + 2));
    format!(
        "{:08x}-{:04x}-4{:03x}-8{:03x}-{:012x}",
        high >> 32,
        (high >> 16) & 0xFFFF,
        high & 0xFFF,
        low >> 52,
        low & 0xFFFF_FFFF_FFFF
    )
}

fn cpu_seconds(pid: i32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("a running process");
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or("").split(' ').collect();
    let ticks = |index: usize| fields.get(index).and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0);
    // utime and stime are fields 14 and 15; a clock tick is 10 ms on Linux.
    (ticks(11) + ticks(12)) / 100.0
}

/// Median, minimum, maximum.
fn spread(mut values: Vec<f64>) -> (f64, f64, f64) {
    values.sort_by(f64::total_cmp);
    (values[values.len() / 2], values[0], values[values.len() - 1])
}
