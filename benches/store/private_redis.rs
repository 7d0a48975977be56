//! The same rows into Redis over a unix socket, next to what a client gets that guards nothing.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use readside::config::{RedisServer, RedisUrl, RowEncoding};
use readside::domain::batch::{BatchBuilder, Observed};
use readside::domain::checkpoint::Position;
use readside::domain::value::Value;
use readside::store::{RedisSettings, RedisStore, Store};

use super::{AT, catalog, change};

struct Server {
    process: Child,
    directory: tempfile::TempDir,
}

impl Server {
    fn start() -> Server {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let process = Command::new("redis-server")
            .args(["--port", "0", "--save", "", "--appendonly", "no", "--unixsocket", "redis.sock"])
            .current_dir(directory.path())
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server");
        let server = Server { process, directory };
        while UnixStream::connect(server.socket()).is_err() {
            std::thread::sleep(Duration::from_millis(5));
        }
        server
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("redis.sock")
    }

    fn client(&self) -> redis::Connection {
        let client = redis::Client::open(format!("unix:{}", self.socket().display())).expect("a url");
        client.get_connection().expect("a connection")
    }

    /// What the data takes, in kB.
    fn used_kb(&self) -> i64 {
        let info: String = redis::cmd("INFO").arg("memory").query(&mut self.client()).expect("an answer");
        let used =
            info.lines().find_map(|line| line.strip_prefix("used_memory:")?.trim().parse::<i64>().ok());
        used.unwrap_or(0) / 1024
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

pub fn run(rows: i64) {
    for size in [128, 256] {
        for (name, encoding) in [("hash", RowEncoding::Hash), ("json", RowEncoding::Json)] {
            for indexes in [0, 3] {
                case(
                    &format!("{name}, {indexes} indexes, batches of {size}"),
                    encoding,
                    indexes,
                    (rows, size),
                );
            }
        }
    }
    plain(rows);
    benchmark(rows);
}

fn case(name: &str, encoding: RowEncoding, indexes: usize, (rows, size): (i64, i64)) {
    let server = Server::start();
    let empty = server.used_kb();
    let mut shape = catalog(false);
    shape.tables[0].indexes = [2, 3, 4][..indexes].iter().map(|&column| vec![column]).collect();
    let shape = Arc::new(shape);
    let settings = settings(&server.socket(), encoding);
    let mut store = RedisStore::open(&settings, shape.clone()).expect("a new replica");
    let mut next = 0;
    for (what, newer, deleted) in
        [("insert", 0, false), ("update", 1, false), ("stale", 0, false), ("delete", 2, true)]
    {
        if what == "delete" {
            let kb = server.used_kb() - empty;
            println!("{name:36} {:10} {:>9.0} bytes/row", "memory", kb as f64 * 1024.0 / rows as f64);
        }
        let over = AtomicBool::new(false);
        let (mut spent, mut longest) = (Duration::ZERO, Duration::ZERO);
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| longest_wait(&server, &over));
            let mut builder = BatchBuilder::default();
            for first in (0..rows).step_by(size as usize) {
                for nth in first..(first + size).min(rows) {
                    builder.push(&shape, change(false, nth, newer, deleted));
                }
                let from = (next > 0).then_some(next);
                next += size;
                builder.advance(AT, from, &Position { next_offset: next, ..Position::start() });
                let batch = builder.seal(Observed { heartbeat_ms: 1, ..Observed::default() });
                let start = Instant::now();
                store.apply(&batch).expect("a batch that fits");
                spent += start.elapsed();
            }
            over.store(true, Ordering::Relaxed);
            longest = waits.join().expect("the waits");
        });
        println!(
            "{name:36} {what:10} {:>9.0} rows/s, longest wait of another client {:>6.2} ms",
            rows as f64 / spent.as_secs_f64(),
            longest.as_secs_f64() * 1e3
        );
    }
}

fn longest_wait(server: &Server, over: &AtomicBool) -> Duration {
    let mut client = server.client();
    let mut longest = Duration::ZERO;
    while !over.load(Ordering::Relaxed) {
        let start = Instant::now();
        let _: String = redis::cmd("PING").query(&mut client).expect("an answer");
        longest = longest.max(start.elapsed());
        std::thread::sleep(Duration::from_millis(1));
    }
    longest
}

fn settings(socket: &Path, encoding: RowEncoding) -> RedisSettings {
    RedisSettings {
        url: RedisUrl { server: RedisServer::Unix { path: socket.to_owned() }, database: 0 },
        username: None,
        password_file: None,
        ca_file: None,
        prefix: "bench:".into(),
        dedicated: false,
        encoding,
        replica_name: "bench".into(),
        heartbeat_limit: Duration::from_secs(4),
        dead_letter_bytes_max: 0,
    }
}

/// The same fields, written by pipelined `HSET` without anything else.
fn plain(rows: i64) {
    let server = Server::start();
    let empty = server.used_kb();
    let shape = catalog(false);
    let mut client = server.client();
    let mut spent = Duration::ZERO;
    for first in (0..rows).step_by(500) {
        let mut pipe = redis::pipe();
        for nth in first..(first + 500).min(rows) {
            pipe.cmd("HSET").arg(format!("bench:users:{nth}")).ignore();
            for (column, value) in shape.tables[0].columns.iter().zip(change(false, nth, 0, false).values) {
                pipe.arg(&column.name).arg(match value {
                    Value::Integer(number) => number.to_string(),
                    Value::Real(number) => number.to_string(),
                    Value::Text(text) => text,
                    _ => String::new(),
                });
            }
        }
        let start = Instant::now();
        pipe.exec(&mut client).expect("answers");
        spent += start.elapsed();
    }
    let name = "HSET alone, pipelines of 500";
    println!("{name:36} {:10} {:>9.0} rows/s", "insert", rows as f64 / spent.as_secs_f64());
    let bytes = (server.used_kb() - empty) as f64 * 1024.0 / rows as f64;
    println!("{name:36} {:10} {bytes:>9.0} bytes/row", "memory");
}

/// `redis-benchmark` with the same fields.
fn benchmark(rows: i64) {
    let server = Server::start();
    let shape = catalog(false);
    let mut command = Command::new("redis-benchmark");
    command.arg("-s").arg(server.socket());
    command.args(["-P", "500", "-c", "1", "-r", "1000000", "-q", "-n", &rows.to_string()]);
    command.args(["HSET", "bench:users:__rand_int__"]);
    for (column, value) in shape.tables[0].columns.iter().zip(change(false, 12_345, 0, false).values) {
        command.arg(&column.name).arg(match value {
            Value::Integer(number) => number.to_string(),
            Value::Real(number) => number.to_string(),
            Value::Text(text) => text,
            _ => String::new(),
        });
    }
    let output = command.output().expect("redis-benchmark");
    let text = String::from_utf8_lossy(&output.stdout).replace('\r', "\n");
    let last = text.lines().rfind(|line| line.contains("requests per second")).unwrap_or("");
    let rate = last.rsplit_once(": ").map_or(last, |(_, rate)| rate);
    println!("redis-benchmark HSET, P=500: {rate}");
}
