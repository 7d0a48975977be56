//! CPU and memory of the daemon while it builds a first copy, while nothing happens, and under a steady
//! load; the source of the table in docs/KUBERNETES.md.
//!
//! `cargo bench --bench footprint`. `READSIDE_PROGRAM` measures another build (the program of the image);
//! `READSIDE_BENCH_ROWS`, `READSIDE_BENCH_RATE` and `READSIDE_BENCH_SECONDS` change the work.

#[path = "../tests/it/children.rs"]
mod children;
#[path = "../tests/it/daemon.rs"]
#[allow(dead_code, unused_imports)]
mod daemon;
#[path = "../tests/it/kafka/mod.rs"]
#[allow(dead_code, unused_imports)]
mod kafka;

use std::time::{Duration, Instant};

use daemon::{Daemon, header, replica};
use kafka::Message;

const PARTITIONS: i32 = 4;
const CHUNK: usize = 50_000;

/// CPU time so far in seconds, resident memory in MiB.
fn used(daemon: &Daemon) -> (f64, f64) {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", daemon.pid())).expect("it runs");
    // Behind the name, which may hold blanks: fields 14 and 15 are ticks in user and kernel mode.
    let fields: Vec<&str> = stat[stat.rfind(')').expect("a name")..].split_whitespace().collect();
    let ticks: f64 = fields[12].parse::<f64>().expect("ticks") + fields[13].parse::<f64>().expect("ticks");
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).expect("it runs");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("memory");
    let resident: f64 = line.split_whitespace().nth(1).expect("a number").parse().expect("a number");
    // SAFETY: no memory is involved.
    (ticks / unsafe { libc::sysconf(libc::_SC_CLK_TCK) } as f64, resident / 1024.0)
}

fn row(id: usize, turn: usize) -> Message {
    let json = format!(
        r#"{{"id":{id},"tenant":"tenant-{}","name":"customer number {id}","email":"customer.{id}@example.org","status":"active","score":{turn}.5,"city":"Springfield","created_at":"2026-03-01T12:00:00Z"}}"#,
        id % 100
    );
    Message::new(id.to_string(), json)
}

/// Prints one line: what the daemon used since `begin`.
fn report(phase: &str, daemon: &Daemon, begin: Instant, cpu_before: f64) {
    let (cpu, resident) = used(daemon);
    let seconds = begin.elapsed().as_secs_f64();
    println!(
        "{phase}: {seconds:.1} s, {:.1} millicores, resident {resident:.1} MiB, peak {:.1} MiB",
        (cpu - cpu_before) / seconds * 1000.0,
        daemon.peak_kib() as f64 / 1024.0
    );
}

fn main() {
    let number = |name: &str, default: usize| {
        std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
    };
    let total = number("READSIDE_BENCH_ROWS", 1_000_000);
    let rate = number("READSIDE_BENCH_RATE", 1_000);
    let length = Duration::from_secs(number("READSIDE_BENCH_SECONDS", 30) as u64);
    let Some(broker) = kafka::private("benchmark") else { return };
    let dir = tempfile::tempdir().expect("a directory");
    let topic = kafka::topic_name("footprint");
    broker.create_topic(&topic, PARTITIONS, &[]);
    for start in (0..total).step_by(CHUNK) {
        broker.produce(&topic, (start..(start + CHUNK).min(total)).map(|id| row(id, 0)));
    }
    let yaml = format!(
        "{}tables:\n  customers:\n    topic: {topic}\n    key: id\n    columns: {{ id: integer, tenant: text, name: text, email: text, status: text, \
         score: real, city: text, created_at: timestamp }}\n    indexes: [[email]]\n",
        header(&broker.bootstrap(), dir.path())
    );

    let begin = Instant::now();
    let mut daemon = Daemon::start(dir.path(), &yaml);
    daemon.started();
    report(&format!("first copy of {total} rows"), &daemon, begin, 0.0);
    let size = std::fs::metadata(replica(dir.path())).expect("a replica").len();
    println!("replica: {:.0} MiB", size as f64 / f64::from(1 << 20));

    // What is left to be done behind the first copy is not idleness.
    std::thread::park_timeout(Duration::from_secs(3));
    let (cpu, _) = used(&daemon);
    let begin = Instant::now();
    std::thread::park_timeout(length);
    report("idle", &daemon, begin, cpu);

    let (cpu, _) = used(&daemon);
    let begin = Instant::now();
    let mut sent = 0;
    while begin.elapsed() < length {
        let due = (begin.elapsed().as_secs_f64() * rate as f64) as usize;
        broker.produce(&topic, (sent..due).map(|turn| row(turn * 7919 % total.max(1), turn)));
        sent = due;
        std::thread::park_timeout(Duration::from_millis(20));
    }
    report(&format!("{rate} changes a second"), &daemon, begin, cpu);

    // A restart with a complete copy, as after a rollout with a claim.
    daemon.terminate();
    let begin = Instant::now();
    let mut daemon = Daemon::start(dir.path(), &yaml);
    daemon.started();
    report("restart", &daemon, begin, 0.0);
}
