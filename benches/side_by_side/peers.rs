//! What readside is measured against. Each is a process of its own.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{ClientConfig, Message as _, Offset, TopicPartitionList};

use super::data::{Keys, SQL_COLUMNS};

/// What one run took.
#[derive(Debug, Clone, Copy)]
pub struct Run {
    pub seconds: f64,
    pub cpu_seconds: f64,
    pub peak_mb: f64,
}

/// Waits for a child and says what the kernel has counted for it. The most memory that it had is looked up
/// while it runs: what the kernel counts for a child begins with the memory of its parent.
pub fn finish(mut child: Child, begin: Instant) -> Run {
    drop(child.stdin.take());
    let (done, ended) = std::sync::mpsc::channel::<()>();
    let process = child.id();
    let watch = std::thread::spawn(move || {
        let mut most = 0.0;
        loop {
            most = peak_mb(process).unwrap_or(most);
            if ended.recv_timeout(Duration::from_millis(20)) != Err(RecvTimeoutError::Timeout) {
                return most;
            }
        }
    });
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    let mut status = 0;
    // SAFETY: a child of this process that nobody else waits for; the kernel fills what it is given.
    let usage = unsafe {
        assert_eq!(libc::wait4(child.id() as i32, &mut status, 0, usage.as_mut_ptr()), child.id() as i32);
        usage.assume_init()
    };
    let seconds = begin.elapsed().as_secs_f64();
    drop(done);
    assert!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0, "a child ended with {status}");
    let time = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
    Run {
        seconds,
        cpu_seconds: time(usage.ru_utime) + time(usage.ru_stime),
        peak_mb: watch.join().expect("a number"),
    }
}

/// `None`: it has ended.
fn peak_mb(process: u32) -> Option<f64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<f64>().ok()? / 1024.0)
}

/// Reads the topic with librdkafka and does nothing with it: the limit of the wire. Its defaults, but for
/// the waits that would make it slower than the wire is.
pub fn raw(brokers: &str, topic: &str, count: usize) -> Run {
    itself("raw", &[brokers, topic, &count.to_string()])
}

/// A consumer of the kind that is written at home, over the first `count` events.
pub fn naive(brokers: &str, topic: &str, count: usize, directory: &Path) -> Run {
    let database = directory.join("naive.db");
    remove(&database);
    itself("naive", &[brokers, topic, &count.to_string(), &database.display().to_string()])
}

fn itself(mode: &str, arguments: &[&str]) -> Run {
    let begin = Instant::now();
    let program = std::env::current_exe().expect("a program");
    let child = Command::new(program).arg(mode).args(arguments).spawn().expect("a process");
    finish(child, begin)
}

/// In the child: what [`raw`] and [`naive`] start. False: it is not for one of them.
pub fn serve(arguments: &[String]) -> bool {
    match arguments {
        [mode, brokers, topic, count] if mode == "raw" => {
            let count: usize = count.parse().expect("a number");
            consume(brokers, topic, count, |_, _| {});
            true
        }
        [mode, brokers, topic, count, database] if mode == "naive" => {
            consume_naively(brokers, topic, count.parse().expect("a number"), database);
            true
        }
        _ => false,
    }
}

fn consume(brokers: &str, topic: &str, count: usize, mut each: impl FnMut(&str, &[u8])) {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("group.id", "bench")
        .set("enable.auto.commit", "false")
        .set("fetch.queue.backoff.ms", "2")
        .set("fetch.wait.max.ms", "10")
        .create()
        .expect("a consumer");
    let metadata = consumer.fetch_metadata(Some(topic), Duration::from_secs(10)).expect("metadata");
    let mut all = TopicPartitionList::new();
    for partition in metadata.topics()[0].partitions() {
        all.add_partition_offset(topic, partition.id(), Offset::Beginning).expect("a partition");
    }
    consumer.assign(&all).expect("assigned");
    let mut seen = 0;
    while seen < count {
        if let Some(message) = consumer.poll(Duration::from_secs(10)) {
            let message = message.expect("a record");
            let key = std::str::from_utf8(message.key().unwrap_or_default()).expect("text");
            each(key, message.payload().unwrap_or_default());
            seen += 1;
        }
    }
}

/// A row is looked up and written for each event, in a transaction of its own.
fn consume_naively(brokers: &str, topic: &str, count: usize, database: &str) {
    let db = rusqlite::Connection::open(database).expect("a database");
    db.execute_batch(&format!(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; CREATE TABLE users (id TEXT PRIMARY KEY, {SQL_COLUMNS})"
    ))
    .expect("a table");
    consume(brokers, topic, count, |key, value| {
        let event: serde_json::Value = serde_json::from_slice(value).expect("JSON");
        let known = db
            .prepare_cached("SELECT updated_at FROM users WHERE id = ?1")
            .and_then(|mut statement| statement.exists([key]))
            .expect("a lookup");
        let sql = if known {
            "UPDATE users SET tenant = ?2, name = ?3, email = ?4, city = ?5, balance = ?6, score = ?7, active = ?8, \
             updated_at = ?9 WHERE id = ?1"
        } else {
            "INSERT INTO users VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)"
        };
        let text = |name: &str| event[name].as_str();
        db.prepare_cached(sql)
            .and_then(|mut statement| {
                statement.execute(rusqlite::params![
                    key,
                    event["tenant"].as_i64(),
                    text("name"),
                    text("email"),
                    text("city"),
                    text("balance"),
                    event["score"].as_f64(),
                    event["active"].as_bool(),
                    text("updated_at"),
                ])
            })
            .expect("a row");
    });
}

/// `sqlite3 .import` of the same rows in WAL mode: the limit of the store, as most people know it.
pub fn import(csv: &Path, keys: Keys, rows: usize, directory: &Path) -> Run {
    let database = directory.join("import.db");
    remove(&database);
    let key = if keys == Keys::Uuid { "TEXT" } else { "INTEGER" };
    let script = format!(
        "PRAGMA journal_mode=WAL;\nCREATE TABLE users (id {key} PRIMARY KEY, {SQL_COLUMNS});\n.import --csv {} users\n",
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
    let run = finish(child, begin);
    let check = rusqlite::Connection::open(&database).expect("the database");
    let found: i64 = check.query_row("SELECT count(*) FROM users", [], |row| row.get(0)).expect("a count");
    assert_eq!(found as usize, rows);
    run
}

fn remove(database: &Path) {
    for suffix in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(format!("{}{suffix}", database.display()));
    }
}

/// A Kafka Streams `GlobalKTable` with RocksDB. Where Java or its jars are missing it is left out.
pub struct GlobalTable {
    child: Child,
    input: Option<ChildStdin>,
    pub output: BufReader<ChildStdout>,
    begin: Instant,
}

impl GlobalTable {
    pub fn jars() -> Option<PathBuf> {
        let jars = Path::new(env!("CARGO_MANIFEST_DIR")).join(".cache/streams/lib");
        jars.join(".complete").exists().then_some(jars)
    }

    /// Returns when the table is restored, with the seconds that took.
    pub fn start(
        jars: &Path,
        brokers: &str,
        topic: &str,
        state: &Path,
        latencies: Option<usize>,
    ) -> (GlobalTable, f64) {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("bench/globalktable/GlobalTable.java");
        let begin = Instant::now();
        let mut child = Command::new("java")
            .arg("-cp")
            .arg(format!("{}/*", jars.display()))
            .arg(source)
            .args([brokers, topic, &state.display().to_string()])
            .args(latencies.map(|count| count.to_string()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("java is installed");
        let input = child.stdin.take();
        let mut output = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut line = String::new();
        output.read_line(&mut line).expect("a line");
        assert_eq!(line.trim(), "ready");
        (GlobalTable { child, input, output, begin }, begin.elapsed().as_secs_f64())
    }

    pub fn finish(mut self) -> Run {
        drop(self.input.take());
        finish(self.child, self.begin)
    }

    pub fn kill(mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `redis-benchmark HSET` with as many fields of the same lengths, pipelines of 500: rows a second.
pub fn redis_benchmark(socket: &Path, rows: usize) -> f64 {
    let output = Command::new("redis-benchmark")
        .args(["-s", &socket.display().to_string(), "-n", &rows.to_string(), "-P", "500", "-c", "1", "--csv"])
        .args(["-r", &rows.to_string()])
        .args([
            "HSET",
            "users:__rand_int__",
            "id",
            "123456",
            "tenant",
            "42",
            "name",
            "Customer number 123456",
        ])
        .args([
            "email",
            "customer.123456@mail.example",
            "city",
            "Lisbon",
            "balance",
            "12345.67",
            "score",
            "12.5",
        ])
        .args(["active", "1", "updated_at", "2026-01-01T12:00:00.000000Z"])
        .output()
        .expect("redis-benchmark is installed");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = text.lines().last().unwrap_or_default();
    let rate = line.rsplit('"').find_map(|_| line.split(',').nth(1)).unwrap_or_default();
    rate.trim_matches('"').parse().unwrap_or_else(|_| panic!("no rate in {text}"))
}
