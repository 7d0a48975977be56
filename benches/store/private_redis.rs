//! The same rows into Redis over a unix socket, next to what a client gets that guards nothing.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use readside::config::{Redis, RedisServer, RedisUrl, RowEncoding};
use readside::domain::batch::{BatchBuilder, Observed, Sweep};
use readside::domain::catalog::Catalog;
use readside::domain::change::{Change, Cleared, Operation};
use readside::domain::checkpoint::Position;
use readside::domain::snapshot::Phase;
use readside::domain::value::Value;
use readside::store::{LossLimit, Rebuild, RedisReplica, RedisSettings, RedisStore, Store};

use super::busy::busy;
use super::{AT, catalog, change};

struct Server {
    process: Child,
    directory: tempfile::TempDir,
}

impl Server {
    fn start() -> Server {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let process = Command::new(
            std::env::var("READSIDE_REDIS_SERVER").unwrap_or_else(|_| "redis-server".to_owned()),
        )
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

    /// Time of its own, whatever else the machine does.
    fn cpu(&self) -> f64 {
        let path = format!("/proc/{}/stat", self.process.id());
        let stat = std::fs::read_to_string(path).expect("a process");
        // Behind the name, which is in brackets: user and system time, in hundredths of a second.
        let ticks = stat.rsplit(')').next().unwrap_or("").split_whitespace().skip(11).take(2);
        ticks.filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / 100.0
    }

    /// Time on a processor: what one batch took is the difference.
    fn busy(&self) -> Duration {
        busy(self.process.id())
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
    let before = benchmark(rows);
    println!("{:36} {:10} {before:>9.0} rows/s", "redis-benchmark HSET, P=500", "insert");
    plain(rows, 0, "HSET alone, pipelines of 500", RowEncoding::Hash);
    plain(rows, 0, "SET of JSON, pipelines of 500", RowEncoding::Json);
    for encoding in [RowEncoding::Hash, RowEncoding::Json] {
        memory(rows.min(200_000), encoding);
        for indexes in [0, 3] {
            compared(encoding, indexes, rows, PASSES.len());
        }
    }
}

/// For a profile: one thing, for long.
pub fn building(rows: i64) {
    case(RowEncoding::Hash, 0, rows);
}

/// Only what has an aim: rows without indexes, next to `redis-benchmark`, three times.
pub fn rows(rows: i64) {
    for _ in 0..3 {
        for encoding in [RowEncoding::Hash, RowEncoding::Json] {
            compared(encoding, 0, rows, 2);
        }
    }
}

/// Only rows with three indexes, next to `redis-benchmark`.
pub fn indexed(rows: i64) {
    for encoding in [RowEncoding::Hash, RowEncoding::Json] {
        compared(encoding, 3, rows, PASSES.len());
    }
}

/// The first passes next to what is measured around them: the machine has other things to do.
fn compared(encoding: RowEncoding, indexes: usize, rows: i64, passes: usize) {
    let before = benchmark(rows);
    let rates = case(encoding, indexes, rows);
    let hset = (before + benchmark(rows)) / 2.0;
    for (what, rate) in rates.into_iter().take(passes) {
        println!("{:36} {what:10} {:>9.2} of redis-benchmark HSET ({hset:.0}/s)", "", rate / hset);
    }
}

/// Name, how much newer than the first, whether the rows are deleted.
const PASSES: [(&str, i64, bool); 4] =
    [("building", 0, false), ("update", 1, false), ("stale", 0, false), ("delete", 2, true)];

/// Rates by pass.
fn case(encoding: RowEncoding, indexes: usize, rows: i64) -> Vec<(&'static str, f64)> {
    let server = Server::start();
    let empty = server.used_kb();
    let mut shape = catalog(false);
    shape.tables[0].indexes = [2, 3, 4][..indexes].iter().map(|&column| vec![column]).collect();
    let shape = Arc::new(shape);
    let mut store =
        RedisStore::open(&settings(&server.socket(), encoding), shape.clone()).expect("a new replica");
    let size = i64::try_from(store.batch_limits().records).expect("a small number");
    let prepare = store.preparer().expect("it prepares batches");
    let name = format!("{encoding:?}, {indexes} indexes, batches of {size}");
    let mut next = 0;
    let mut rates = Vec::new();
    for (what, newer, deleted) in PASSES {
        if what == "update" {
            let bytes = (server.used_kb() - empty) as f64 * 1024.0 / rows as f64;
            println!("{name:36} {:10} {bytes:>9.0} bytes/row", "memory");
            store.complete().expect("a copy that is whole");
        }
        let (mut spent, mut most) = (Duration::ZERO, Duration::ZERO);
        let cpu = server.cpu();
        let waits = Waits::while_doing(&server, || {
            let mut builder = BatchBuilder::default();
            for first in (0..rows).step_by(size as usize) {
                for nth in first..(first + size).min(rows) {
                    builder.push(&shape, change(false, nth, newer, deleted));
                }
                let from = (next > 0).then_some(next);
                next += size;
                builder.advance(AT, from, &Position { next_offset: next, ..Position::start() });
                let batch = builder.seal(Observed { heartbeat_ms: 1, ..Observed::default() });
                // Another thread's work in the daemon.
                prepare(&batch);
                let (start, busy) = (Instant::now(), server.busy());
                store.apply(&batch).expect("a batch that fits");
                spent += start.elapsed();
                most = most.max(server.busy() - busy);
            }
        });
        let rate = rows as f64 / spent.as_secs_f64();
        let micros = (server.cpu() - cpu) / rows as f64 * 1e6;
        println!(
            "{name:36} {what:10} {rate:>9.0} rows/s, {micros:.2} us of Redis a row, {waits}, {}",
            busiest(most)
        );
        rates.push((what, rate));
    }
    rates
}

fn busiest(most: Duration) -> String {
    format!("at most {:.2} ms of Redis a batch", most.as_secs_f64() * 1e3)
}

/// What others had to wait for.
struct Waits {
    /// The slowest `PING` of a second client: with everything that the machine did meanwhile.
    ping: Duration,
    /// The slowest command by the server's own clock.
    command: Duration,
    which: String,
}

impl std::fmt::Display for Waits {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        write!(
            f,
            "longest wait of another client {:.2} ms, longest command {:.2} ms ({})",
            ms(self.ping),
            ms(self.command),
            self.which
        )
    }
}

impl Waits {
    fn while_doing(server: &Server, work: impl FnOnce()) -> Waits {
        let mut client = server.client();
        let mut config = |name: &str, value: i64| {
            redis::cmd("CONFIG").arg("SET").arg(name).arg(value).exec(&mut client).expect("an answer");
        };
        config("slowlog-log-slower-than", 500);
        config("slowlog-max-len", 100_000);
        redis::cmd("SLOWLOG").arg("RESET").exec(&mut client).expect("an answer");
        let over = AtomicBool::new(false);
        let ping = std::thread::scope(|scope| {
            let waits = scope.spawn(|| longest_wait(server, &over));
            work();
            over.store(true, Ordering::Relaxed);
            waits.join().expect("the waits")
        });
        type Entry = (u64, u64, u64, Vec<Vec<u8>>);
        let slow: Vec<redis::Value> =
            redis::cmd("SLOWLOG").arg("GET").arg(-1).query(&mut client).expect("an answer");
        let entries = slow.into_iter().filter_map(|entry| match entry {
            redis::Value::Array(fields) => {
                redis::from_redis_value::<Entry>(redis::Value::Array(fields.into_iter().take(4).collect()))
                    .ok()
            }
            _ => None,
        });
        // Reading and clearing a long log is long itself.
        let others = entries.filter(|(.., words)| words.first().is_none_or(|word| word != b"SLOWLOG"));
        let slowest = others.max_by_key(|(_, _, micros, _)| *micros);
        let (micros, words) = slowest.map_or((0, Vec::new()), |(_, _, micros, words)| (micros, words));
        let which = words.first().map_or("none".into(), |word| String::from_utf8_lossy(word).into_owned());
        Waits { ping, command: Duration::from_micros(micros), which }
    }
}

/// How long Redis is kept from serving others by the largest steps there are: rows of 100 kB with
/// three indexes, in batches as large as the limits and one poll beyond them allow; truncates and
/// sweeps of old delete marks.
pub fn blocking(rows: i64) {
    for encoding in [RowEncoding::Hash, RowEncoding::Json] {
        blocking_case(encoding, "rows of 100 kB", rows.min(2_000), 100_000);
        blocking_case(encoding, "small rows", rows, 10);
        blocking_sets(encoding, rows);
    }
}

/// What takes many rows away beside truncates: a prefix that half of them have, and a whole snapshot that
/// does not list one in twelve.
fn blocking_sets(encoding: RowEncoding, rows: i64) {
    let server = Server::start();
    let mut shape = catalog(false);
    (shape.tables[0].key, shape.tables[0].prefixes) = (vec![6, 0], vec![1]);
    let shape = Arc::new(shape);
    let mut store =
        RedisStore::open(&settings(&server.socket(), encoding), shape.clone()).expect("a new replica");
    let limit = store.batch_limits().records;
    let name = format!("{encoding:?}, {rows} small rows, a prefix");
    let begin = change(false, 0, 2, false).version.first_of_its_kind();
    for what in ["building", "prefix", "snapshot", "ghosts"] {
        let waits = Waits::while_doing(&server, || {
            let mut builder = BatchBuilder::default();
            let mut count = 0;
            let mut push = |builder: &mut BatchBuilder, store: &mut RedisStore, change: Change| {
                builder.push(&shape, change);
                count += 1;
                if count % limit == 0 {
                    store.apply(&builder.seal(Observed::default())).expect("a batch that fits");
                }
            };
            match what {
                "building" => {
                    (0..rows).for_each(|nth| push(&mut builder, &mut store, change(false, nth, 0, false)));
                }
                "prefix" => {
                    let mut cleared = change(false, 1, 1, true);
                    (cleared.values[0], cleared.values[6]) = (Value::Absent, Value::Integer(1));
                    cleared.operation = Operation::Clear(Cleared::Deleted);
                    builder.push(&shape, cleared);
                }
                "snapshot" => {
                    let listed = (0..rows).filter(|nth| nth % 2 == 0 && nth % 24 != 0);
                    listed.for_each(|nth| push(&mut builder, &mut store, change(false, nth, 2, false)));
                    let operation = Operation::Snapshot(Phase::Listed);
                    let heard = change(false, 0, 2, false);
                    builder.push(&shape, Change { operation, values: Vec::new(), version: begin, ..heard });
                }
                _ => builder.push_sweep(0, 0, Sweep { begin, is_whole: true }),
            }
            let applied = store.apply(&builder.seal(Observed::default())).expect("a batch that fits");
            assert_eq!(applied.swept.len(), usize::from(what == "ghosts"));
            if what == "building" {
                store.complete().expect("a copy that is whole");
            }
        });
        println!("{name:36} {what:10} {waits}, {} rows left", store.figures().rows[0]);
    }
}

fn blocking_case(encoding: RowEncoding, about: &str, rows: i64, bytes: usize) {
    let server = Server::start();
    let mut shape = catalog(false);
    shape.tables[0].indexes = [2, 3, 4].iter().map(|&column| vec![column]).collect();
    shape.tables[0].delete_marks_ms = 1;
    let shape = Arc::new(shape);
    let mut store =
        RedisStore::open(&settings(&server.socket(), encoding), shape.clone()).expect("a new replica");
    let limits = store.batch_limits();
    let name = format!("{encoding:?}, {about}, 3 indexes");
    let mut next = 0;
    let mut now_ms = 1;
    let long = "x".repeat(bytes);
    for (what, newer) in
        [("building", 0), ("update", 1), ("delete", 2), ("sweep", 0), ("again", 3), ("truncate", 4)]
    {
        let mut most = Duration::ZERO;
        let waits = Waits::while_doing(&server, || {
            let mut builder = BatchBuilder::default();
            let mut flush = |builder: &mut BatchBuilder, store: &mut RedisStore, later_ms: i64| {
                let from = (next > 0).then_some(next);
                next += 1;
                now_ms += 1 + later_ms;
                builder.advance(AT, from, &Position { next_offset: next, ..Position::start() });
                let mut observed = Observed { heartbeat_ms: now_ms, ..Observed::default() };
                observed.fresh_as_of_ms.insert(AT, now_ms);
                let (batch, busy) = (builder.seal(observed), server.busy());
                store.apply(&batch).expect("a batch that fits");
                most = most.max(server.busy() - busy);
            };
            match what {
                "sweep" => {
                    flush(&mut builder, &mut store, 1_000_000_000);
                    while store.maintain(now_ms).expect("a sweep").delete_marks_dropped > 0 {}
                }
                "truncate" => {
                    let operation = Operation::Truncate;
                    let change = change(false, 0, newer, false);
                    builder.push(&shape, Change { operation, values: Vec::new(), ..change });
                    flush(&mut builder, &mut store, 0);
                }
                _ => {
                    for nth in 0..rows {
                        let mut change = change(false, nth, newer, what == "delete");
                        if what != "delete" {
                            change.values[1] = Value::Text(long.clone());
                            // Another entry of each index with each pass.
                            change.values[2] = Value::Text(format!("customer{nth}@example{newer}.org"));
                            change.values[3] = Value::Text(format!("Country {}", (nth + newer) % 200));
                            change.values[4] = Value::Text(format!("City {}", (nth + newer) % 2_000));
                        }
                        builder.push(&shape, change);
                        // One poll may hand over a megabyte beyond the limit.
                        let full = (nth + 1) % limits.records as i64 == 0;
                        if full || builder.bytes() >= limits.bytes + (1 << 20) {
                            flush(&mut builder, &mut store, 0);
                        }
                    }
                    flush(&mut builder, &mut store, 0);
                }
            }
        });
        // A truncate is many steps, one after the other.
        let most = if what == "truncate" { String::new() } else { format!(", {}", busiest(most)) };
        println!("{name:36} {what:10} {waits}{most}");
    }
    drop(store);
    second_generation(&server, encoding, &name, (&shape, rows, bytes));
}

/// What a rebuild adds: a copy that is made of the live one, the switch, and the old one's end.
fn second_generation(
    server: &Server,
    encoding: RowEncoding,
    name: &str,
    (shape, rows, bytes): (&Arc<Catalog>, i64, usize),
) {
    let replica = RedisReplica::open(&settings(&server.socket(), encoding)).expect("a replica");
    let mut live = replica.open_live(shape.clone()).expect("a copy");
    let long = "x".repeat(bytes);
    let from = live.checkpoint().expect("a checkpoint").positions[&AT].next_offset;
    let mut builder = BatchBuilder::default();
    for nth in 0..rows {
        let mut change = change(false, nth, 5, false);
        change.values[1] = Value::Text(long.clone());
        builder.push(shape, change);
        if (nth + 1) % 128 == 0 || builder.bytes() > 512 << 10 || nth + 1 == rows {
            let batch = builder.seal(Observed { heartbeat_ms: 1, ..Observed::default() });
            live.apply(&batch).expect("a batch that fits");
        }
    }
    live.complete().expect("a copy that is whole");
    drop(live);
    let mut other = (**shape).clone();
    other.tables[0].indexes = vec![vec![2], vec![5]];
    let rebuild = Rebuild {
        reason: "another index".into(),
        may_go_back: false,
        accepts_loss: false,
        live_is_frozen: true,
        from_live: true,
    };
    let begun = replica.begin(Arc::new(other), &rebuild).expect("a second generation");
    let mut next = begun.expect("room for it");
    let begun = Instant::now();
    let waits = Waits::while_doing(server, || {
        builder.advance(AT, Some(from), &Position { next_offset: from + 1, ..Position::start() });
        let batch = builder.seal(Observed { heartbeat_ms: 1, ..Observed::default() });
        next.apply(&batch).expect("a copy of the live one");
    });
    let rate = rows as f64 / begun.elapsed().as_secs_f64();
    println!("{name:36} {:10} {waits}, {rate:.0} rows/s", "copied");
    let waits = Waits::while_doing(server, || {
        next.complete().expect("a switch");
    });
    println!("{name:36} {:10} {waits}", "switch");
    let begun = Instant::now();
    let waits = Waits::while_doing(server, || while next.maintain(1).expect("a slice").more {});
    let rate = rows as f64 / begun.elapsed().as_secs_f64();
    println!("{name:36} {:10} {waits}, {rate:.0} rows/s", "dropped");
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
        redis: Redis {
            url: RedisUrl { server: RedisServer::Unix { path: socket.to_owned() }, database: 0 },
            username: None,
            password_file: None,
            ca_file: None,
            prefix: "bench:".into(),
            dedicated: false,
            encoding,
        },
        replica_name: "bench".into(),
        heartbeat_limit: Duration::from_secs(60),
        dead_letter_bytes_max: 0,
        loss: LossLimit::default(),
        min_free_bytes: 0,
    }
}

/// A row whose name is as long as its number says, up to `widths`: allocators round sizes up, so that
/// rows of one size say little.
fn wide(nth: i64, widths: i64) -> Change {
    let mut change = change(false, nth, 0, false);
    if widths > 0 {
        change.values[1] = Value::Text("x".repeat((nth % widths) as usize));
    }
    change
}

/// Only what the bookkeeping takes: nothing is timed, so that any build tells it.
pub fn memories(rows: i64) {
    for encoding in [RowEncoding::Hash, RowEncoding::Json] {
        memory(rows, encoding);
    }
}

/// What the bookkeeping takes, over rows of many sizes.
fn memory(rows: i64, encoding: RowEncoding) {
    // Beyond 64 bytes HSET gives up the compact form, which RESTORE keeps.
    const WIDTHS: i64 = 64;
    let server = Server::start();
    let empty = server.used_kb();
    let shape = Arc::new(catalog(false));
    let mut store =
        RedisStore::open(&settings(&server.socket(), encoding), shape.clone()).expect("a new replica");
    let mut builder = BatchBuilder::default();
    for first in (0..rows).step_by(500) {
        for nth in first..(first + 500).min(rows) {
            builder.push(&shape, wide(nth, WIDTHS));
        }
        let from = (first > 0).then_some(first);
        builder.advance(AT, from, &Position { next_offset: first + 500, ..Position::start() });
        let batch = builder.seal(Observed { heartbeat_ms: 1, ..Observed::default() });
        store.apply(&batch).expect("a batch that fits");
    }
    // What a connection holds is not the data's.
    drop(store);
    let bytes = (server.used_kb() - empty) as f64 * 1024.0 / rows as f64;
    let name = format!("{encoding:?}, rows of many sizes");
    let bare = plain(rows, WIDTHS, &format!("{name}, alone"), encoding);
    println!(
        "{name:36} {:10} {bytes:>9.0} bytes/row, {:+.1}% by readside",
        "memory",
        (bytes / bare - 1.0) * 100.0
    );
}

/// The same rows, written by pipelined commands without anything else; bytes a row.
fn plain(rows: i64, widths: i64, name: &str, encoding: RowEncoding) -> f64 {
    let server = Server::start();
    let empty = server.used_kb();
    let shape = catalog(false);
    let mut client = server.client();
    let mut spent = Duration::ZERO;
    for first in (0..rows).step_by(500) {
        let mut pipe = redis::pipe();
        for nth in first..(first + 500).min(rows) {
            let values = wide(nth, widths).values.into_iter().map(|value| match value {
                Value::Integer(number) => number.to_string(),
                Value::Real(number) => format!("{number:?}"),
                Value::Text(text) => text,
                _ => String::new(),
            });
            let fields = shape.tables[0].columns.iter().map(|column| column.name.clone()).zip(values);
            let key = format!("bench:users:{nth}");
            if encoding == RowEncoding::Hash {
                pipe.cmd("HSET").arg(key).arg(fields.collect::<Vec<_>>()).ignore();
            } else {
                let members: Vec<String> = fields
                    .map(|(name, value)| match name.as_str() {
                        "active" => format!("\"{name}\":{}", value == "1"),
                        "id" | "score" => format!("\"{name}\":{value}"),
                        _ => format!("\"{name}\":\"{value}\""),
                    })
                    .collect();
                pipe.cmd("SET").arg(key).arg(format!("{{{}}}", members.join(","))).ignore();
            }
        }
        let start = Instant::now();
        pipe.exec(&mut client).expect("answers");
        spent += start.elapsed();
    }
    println!("{name:36} {:10} {:>9.0} rows/s", "insert", rows as f64 / spent.as_secs_f64());
    let bytes = (server.used_kb() - empty) as f64 * 1024.0 / rows as f64;
    println!("{name:36} {:10} {bytes:>9.0} bytes/row", "memory");
    bytes
}

/// `redis-benchmark` with the same fields: rows a second.
fn benchmark(rows: i64) -> f64 {
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
    let micros = server.cpu() / rows as f64 * 1e6;
    println!("{:36} {:10} {micros:>9.2} us of Redis a row", "redis-benchmark HSET, P=500", "insert");
    let rate = last.rsplit_once(": ").and_then(|(_, rate)| rate.split_whitespace().next()?.parse().ok());
    rate.expect("a rate")
}
