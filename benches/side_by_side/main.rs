//! readside and what else there is, side by side: the same events from the same broker in one run, in turn.
//!
//! `make bench`, or `cargo bench --bench side_by_side -- [copy | redis | catch-up | latency | restart | idle | scale]…`;
//! `copy alone` leaves the others out, to compare builds or to profile one.
//! Prints Markdown, and writes it with the figures as JSON and a plot to `target/bench`.
//! `READSIDE_BENCH_ROUNDS` (3) and `READSIDE_BENCH_ROWS` (1,000,000) change the work; `READSIDE_PROGRAM`
//! measures another build. Method and results: docs/PERFORMANCE.md.

#[path = "../store/busy.rs"]
mod busy;
#[path = "../../tests/it/children.rs"]
mod children;
#[path = "../../tests/it/daemon.rs"]
#[allow(dead_code, unused_imports)]
mod daemon;
mod data;
#[path = "../../tests/it/kafka/mod.rs"]
#[allow(dead_code, unused_imports)]
mod kafka;
mod latency;
mod peers;
mod report;
mod scale;

use std::path::Path;
use std::time::{Duration, Instant};

use daemon::{Daemon, header, reader, rows};
use data::{COLUMNS, Events, Keys, Shape};
use peers::{GlobalTable, Run};
use report::{Measure, Report};

const PARTITIONS: i32 = 4;
/// Events that the naive consumer is given: it would need minutes for all.
const NAIVE: usize = 50_000;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if peers::serve(&arguments) {
        return;
    }
    let asked: Vec<&str> =
        arguments.iter().map(String::as_str).filter(|word| !word.starts_with('-')).collect();
    let alone = asked.contains(&"alone");
    let wants = |work: &str| asked.contains(&work) || asked.is_empty() && work != "scale";
    let Some(broker) = kafka::private("benchmark") else { return };
    let bench = Bench {
        brokers: broker.bootstrap(),
        broker: &broker,
        directory: tempfile::tempdir().expect("a directory"),
        rounds: number("READSIDE_BENCH_ROUNDS", 3),
        rows: number("READSIDE_BENCH_ROWS", 1_000_000),
        alone,
    };
    let mut report = Report::default();
    type Part = fn(&Bench<'_>, &mut Report);
    let parts: [(&str, Part); 7] = [
        ("copy", |bench, report| bench.copies(report)),
        ("redis", |bench, report| bench.redis(report)),
        ("catch-up", |bench, report| bench.catch_up(report)),
        ("latency", latency::run),
        ("restart", |bench, report| bench.restarts(report)),
        ("idle", |bench, report| bench.idle(report)),
        ("scale", scale::run),
    ];
    for (_, part) in parts.into_iter().filter(|(name, _)| wants(name)) {
        part(&bench, &mut report);
        // After each: what fails later loses nothing.
        report.write(&Path::new(env!("CARGO_MANIFEST_DIR")).join("target/bench"));
    }
    println!("\n{}", report.markdown());
}

fn number(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

struct Bench<'b> {
    brokers: String,
    broker: &'b kafka::Broker,
    directory: tempfile::TempDir,
    rounds: usize,
    rows: usize,
    /// Without the others.
    alone: bool,
}

impl Bench<'_> {
    fn topic(&self, about: &str, partitions: i32, events: &Events) -> String {
        let topic = kafka::topic_name(about);
        self.broker.create_topic(&topic, partitions, &[]);
        events.produce(&self.brokers, &topic);
        topic
    }

    /// First copies into SQLite.
    fn copies(&self, report: &mut Report) {
        let alone = self.alone;
        let flat = Events { count: self.rows, rows: self.rows, keys: Keys::Integer, shape: Shape::Flat };
        let works = [
            ("integer keys", flat, Some(2.0)),
            ("integer keys in no order", Events { keys: Keys::Scattered, ..flat }, None),
            ("UUID keys", Events { keys: Keys::Uuid, ..flat }, Some(4.0)),
            ("updates of a tenth", Events { count: self.rows * 2, rows: self.rows / 5, ..flat }, None),
            ("Debezium JSON, integer keys", Events { shape: Shape::Debezium, ..flat }, None),
        ];
        let jars = GlobalTable::jars().filter(|_| !alone);
        if jars.is_none() && !alone {
            println!("without GlobalKTable: its jars are not there (`make bench` gets them)");
        }
        for (name, events, aim) in works {
            let topic = self.topic("bench", PARTITIONS, &events);
            let csv = self.directory.path().join("rows.csv");
            events.write_csv(&csv);
            let measure =
                |who: &str| Measure::new(&format!("{} events, {name}", events.count), who, events.count);
            let mut ours = measure("readside → SQLite");
            let mut wire = measure("raw librdkafka");
            let mut import = measure("sqlite3 .import (WAL)").counting(events.rows);
            let mut naive = measure("naive consumer").counting(NAIVE.min(events.count));
            let mut streams = measure("GlobalKTable");
            for round in 1..=self.rounds {
                println!("{name}: round {round} of {}", self.rounds);
                if !alone {
                    wire.add(peers::raw(&self.brokers, &topic, events.count));
                }
                if !alone && events.shape == Shape::Flat {
                    import.add(peers::import(&csv, events.keys, events.rows, self.directory.path()));
                }
                if !alone && round == 1 && events.shape == Shape::Flat {
                    naive.add(peers::naive(&self.brokers, &topic, naive.events, self.directory.path()));
                }
                if let Some(jars) = &jars {
                    let state = tempfile::tempdir().expect("a directory");
                    let (table, seconds) =
                        GlobalTable::start(jars, &self.brokers, &topic, state.path(), None);
                    streams.add(Run { seconds, ..table.finish() });
                }
                let (daemon, run) = self.first_copy(&topic, &events);
                ours.add(run);
                assert!(daemon.terminate().0.success());
            }
            ours.compare(&import, aim);
            ours.compare(&wire, (name.starts_with("updates")).then_some(0.75));
            ours.compare_cpu(&wire, 5.0);
            ours.compare(&streams, Some(2.0));
            ours.compare_memory(&streams, 1.0 / 6.0);
            report.extend([ours, import, wire, naive, streams]);
        }
        report.compare("Debezium JSON, integer keys", "integer keys", 0.7);
    }

    /// Of a topic with the columns of [`data`], until the start-up gate is open.
    fn first_copy(&self, topic: &str, events: &Events) -> (Daemon, Run) {
        let directory = self.directory.path().join("copy");
        let _ = std::fs::remove_dir_all(&directory);
        std::fs::create_dir(&directory).expect("a directory");
        let format = match events.shape {
            Shape::Flat => "json",
            Shape::Debezium => "debezium-json",
        };
        let yaml = self.yaml(&header(&self.brokers, &directory), topic, events.keys, format);
        let (daemon, run) = start(&directory, &yaml);
        let rows = rows(&reader(&directory), "SELECT count(*) FROM users");
        // Keys that no event was about are not among the updates.
        assert!(rows[0].parse::<usize>().is_ok_and(|rows| rows * 10 >= events.rows.min(events.count) * 9));
        (daemon, run)
    }

    fn yaml(&self, header: &str, topic: &str, keys: Keys, format: &str) -> String {
        let key = if keys == Keys::Uuid { "text" } else { "integer" };
        format!(
            "{header}topics: {{ {topic}: {{ format: {format} }} }}\ntables:\n  users:\n    topic: {topic}\n    key: id\n    \
             columns: {{ id: {key}, {COLUMNS} }}\n"
        )
    }

    fn redis(&self, report: &mut Report) {
        let events = Events { count: self.rows, rows: self.rows, keys: Keys::Integer, shape: Shape::Flat };
        let topic = self.topic("redis", PARTITIONS, &events);
        for encoding in ["hash", "json"] {
            let work = format!("{} events, into Redis ({encoding})", self.rows);
            let mut ours = Measure::new(&work, "readside → Redis", self.rows);
            let mut theirs = Measure::new(&work, "redis-benchmark HSET, P=500", self.rows);
            let (mut memory, mut busy) = (f64::NAN, Vec::new());
            for round in 1..=self.rounds {
                println!("redis, {encoding}: round {round} of {}", self.rounds);
                theirs.add(self.redis_benchmark());
                let server = Redis::start();
                let directory = tempfile::tempdir().expect("a directory");
                let yaml = self.yaml(&self.redis_header(&server, encoding), &topic, Keys::Integer, "json");
                let before = server.busy();
                let (daemon, run) = start(directory.path(), &yaml);
                busy.push(Busy::of(&server, before, &run));
                ours.add(run);
                memory = server.used_memory();
                assert!(daemon.terminate().0.success());
            }
            ours.compare(&theirs, (encoding == "hash").then_some(0.8));
            report.note(Busy::note(&work, &busy, self.rows));
            report.extend([ours, theirs]);
            let server = Redis::start();
            events.write_redis(&server.socket(), encoding == "json");
            let plain = server.used_memory();
            report.note(format!(
                "Memory of Redis, {encoding}: {:.0} bytes a row, {:.0} where the same rows are written without \
                 bookkeeping: {:.3} of it, for rows of this one size (`--bench store -- redis-memory`: of all sizes).",
                memory / self.rows as f64,
                plain / self.rows as f64,
                memory / plain
            ));
            report.figure(&format!("memory of Redis / plain rows, {encoding}"), memory / plain);
        }
    }

    fn redis_header(&self, server: &Redis, encoding: &str) -> String {
        format!(
            "kafka: {{ brokers: '{}' }}\nreplica: {{ redis: {{ url: 'unix:{}', encoding: {encoding} }} }}\n",
            self.brokers,
            server.socket().display()
        )
    }

    fn redis_benchmark(&self) -> Run {
        let server = Redis::start();
        let rate = peers::redis_benchmark(&server.socket(), self.rows);
        Run { seconds: self.rows as f64 / rate, cpu_seconds: f64::NAN, peak_mb: f64::NAN }
    }

    /// Updates of rows in no order that were missed by a copy that is complete: with all guards, and for
    /// SQLite with its usual durability, as readers may be there.
    fn catch_up(&self, report: &mut Report) {
        let inserts = Events { count: self.rows, rows: self.rows, keys: Keys::Integer, shape: Shape::Flat };
        let updates = Events { count: self.rows, rows: self.rows - 1, ..inserts };
        let topic = self.topic("catch-up", PARTITIONS, &inserts);
        // A copy that has lived has delete marks, which are looked for whenever a row comes.
        self.broker.produce(&topic, [kafka::Message::tombstone(self.rows.to_string())]);
        let directory = self.directory.path().join("caught-up");
        std::fs::create_dir(&directory).expect("a directory");
        let servers = [Redis::start(), Redis::start()];
        let headers = [
            ("SQLite", header(&self.brokers, &directory), None),
            ("Redis (hash)", self.redis_header(&servers[0], "hash"), Some(&servers[0])),
            ("Redis (json)", self.redis_header(&servers[1], "json"), Some(&servers[1])),
        ];
        let mut places = headers.map(|(name, header, server)| {
            let header = header + "startup: { gate: caught_up }\n";
            let yaml = self.yaml(&header, &topic, Keys::Integer, "json");
            let log = tempfile::tempdir().expect("a directory");
            assert!(start(log.path(), &yaml).0.terminate().0.success());
            let work = format!("{} missed updates, into {name}", self.rows);
            (Measure::new(&work, &format!("readside → {name}"), self.rows), yaml, log, (server, Vec::new()))
        });
        let mut theirs = Measure::new("", "redis-benchmark HSET, P=500", self.rows);
        for round in 1..=self.rounds {
            println!("catching up: round {round} of {}", self.rounds);
            updates.produce(&self.brokers, &topic);
            theirs.add(self.redis_benchmark());
            for (ours, yaml, log, (server, busy)) in &mut places {
                let before = server.map(|server| (server, server.busy()));
                let (daemon, run) = start(log.path(), yaml);
                busy.extend(before.map(|(server, before)| Busy::of(server, before, &run)));
                ours.add(run);
                assert!(daemon.terminate().0.success());
            }
        }
        for (mut ours, _, _, (server, busy)) in places {
            if server.is_some() {
                report.note(Busy::note(&ours.work, &busy, self.rows));
                ours.compare(&theirs, ours.who.contains("hash").then_some(0.45));
            }
            report.extend([ours]);
        }
    }

    /// Ready again after kill -9, with a complete copy.
    fn restarts(&self, report: &mut Report) {
        let events = Events { count: self.rows, rows: self.rows, keys: Keys::Integer, shape: Shape::Flat };
        let topic = self.topic("restart", PARTITIONS, &events);
        let work = format!("ready again after kill -9, {} rows", self.rows);
        let mut ours = Measure::new(&work, "readside → SQLite", 1);
        let (mut daemon, _) = self.first_copy(&topic, &events);
        let directory = self.directory.path().join("copy");
        let yaml = self.yaml(&header(&self.brokers, &directory), &topic, Keys::Integer, "json");
        for _ in 0..self.rounds {
            daemon.kill();
            let (again, run) = start(&directory, &yaml);
            ours.add(run);
            daemon = again;
        }
        drop(daemon);
        let mut theirs = Measure::new(&work, "GlobalKTable", 1);
        if let Some(jars) = GlobalTable::jars() {
            let state = tempfile::tempdir().expect("a directory");
            let run = || GlobalTable::start(&jars, &self.brokers, &topic, state.path(), None);
            let (mut table, _) = run();
            for _ in 0..self.rounds {
                table.kill();
                let (again, seconds) = run();
                theirs.add(Run { seconds, cpu_seconds: f64::NAN, peak_mb: f64::NAN });
                table = again;
            }
            table.kill();
        }
        ours.compare(&theirs, Some(5.0));
        report.extend([ours, theirs]);
    }

    /// Nothing happens in 64 partitions.
    fn idle(&self, report: &mut Report) {
        const SECONDS: u64 = 30;
        let events = Events { count: 6_400, rows: 6_400, keys: Keys::Integer, shape: Shape::Flat };
        let topic = self.topic("idle", 64, &events);
        let (daemon, _) = self.first_copy(&topic, &events);
        // What the start has left is given back by then.
        std::thread::sleep(Duration::from_secs(5));
        let before = used(&daemon);
        std::thread::sleep(Duration::from_secs(SECONDS));
        let after = used(&daemon);
        report.note(format!(
            "Idle, 64 partitions, {SECONDS} s: {:.2}% of one core (aim: below 0.3%), {:.1} MB resident (aim: below 20).",
            (after.0 - before.0) / SECONDS as f64 * 100.0,
            after.1
        ));
    }
}

/// Starts the daemon and waits until the gate is open.
fn start(directory: &Path, yaml: &str) -> (Daemon, Run) {
    let begin = Instant::now();
    let mut daemon = Daemon::start(directory, yaml);
    daemon.started();
    let seconds = begin.elapsed().as_secs_f64();
    let run = Run { seconds, cpu_seconds: used(&daemon).0, peak_mb: daemon.peak_kib() as f64 / 1024.0 };
    (daemon, run)
}

/// CPU seconds so far, and resident memory in MB.
fn used(daemon: &Daemon) -> (f64, f64) {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", daemon.pid())).expect("a running process");
    // Behind the name, which is in brackets: user and system time, in hundredths of a second.
    let fields = stat.rsplit(')').next().unwrap_or("").split_whitespace().skip(11).take(2);
    let cpu = fields.filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / 100.0;
    let status =
        std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).expect("a running process");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("memory");
    let resident: f64 = line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number");
    (cpu, resident / 1024.0)
}

/// How long Redis was at work while a copy was made.
struct Busy {
    seconds: f64,
    /// Of the whole.
    share: f64,
}

impl Busy {
    fn of(server: &Redis, before: f64, run: &Run) -> Busy {
        let seconds = server.busy() - before;
        Busy { seconds, share: seconds / run.seconds }
    }

    fn note(work: &str, runs: &[Busy], rows: usize) -> String {
        let micros = report::spread(runs.iter().map(|run| run.seconds * 1e6 / rows as f64).collect());
        let [share, least, most] = report::spread(runs.iter().map(|run| run.share * 100.0).collect());
        format!(
            "{work}: {:.2} us of Redis a row, which is at work for {share:.0}% ({least:.0} to {most:.0}) of the time.",
            micros[0]
        )
    }
}

/// A redis-server that has nothing else to do.
struct Redis {
    process: std::process::Child,
    directory: tempfile::TempDir,
}

impl Redis {
    fn start() -> Redis {
        let directory = tempfile::tempdir().expect("a directory");
        let mut command = std::process::Command::new("redis-server");
        command
            .args(["--port", "0", "--save", "", "--appendonly", "no", "--unixsocket", "redis.sock"])
            .current_dir(directory.path())
            .stdout(std::process::Stdio::null());
        let server = Redis { process: children::spawn(&mut command).expect("redis-server"), directory };
        kafka::eventually("Redis answers", || {
            std::os::unix::net::UnixStream::connect(server.socket()).ok().map(drop)
        });
        server
    }

    fn socket(&self) -> std::path::PathBuf {
        self.directory.path().join("redis.sock")
    }

    /// Seconds on a processor so far.
    fn busy(&self) -> f64 {
        busy::busy(self.process.id()).as_secs_f64()
    }

    /// Bytes.
    fn used_memory(&self) -> f64 {
        let output = std::process::Command::new("redis-cli")
            .args(["-s", &self.socket().display().to_string(), "INFO", "memory"])
            .output()
            .expect("redis-cli is installed");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let used = text.lines().find_map(|line| line.strip_prefix("used_memory:"));
        used.and_then(|bytes| bytes.trim().parse().ok()).expect("a number")
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
