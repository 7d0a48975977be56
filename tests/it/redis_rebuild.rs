//! A new generation beside the live one in Redis: readers see no half-built copy, no mixture, and
//! nothing goes back. `rebuild.rs` has the same for a file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Instant;

use redis::{Connection, Script, cmd};

use crate::daemon::{self, Daemon};
use crate::history::{self, History, PARTITIONS, Random, TABLES};
use crate::kafka::{self, Broker, Message, WAIT_MAX, eventually};
use crate::redis_server::{self, RedisServer, indexes, keys};

const PREFIX: &str = "shop:";
const STATUS: &str = "shop:readside:status";
const FRESHNESS: &str = "freshness: { interval: 100ms }\n";
/// How a replica may be kept.
const WAYS: [&str; 3] = ["", ", dedicated: true", ", encoding: json"];

fn header(broker: &Broker, server: &RedisServer, more: &str) -> String {
    format!(
        "kafka: {{ brokers: '{}' }}\nreplica: {{ redis: {{ url: '{}', prefix: '{PREFIX}'{more} }} }}\n{FRESHNESS}",
        broker.bootstrap(),
        server.url()
    )
}

fn users(topic: &str, columns: &str) -> String {
    format!(
        "tables:\n  users:\n    topic: {topic}\n    key: id\n    columns: {{ id: integer, {columns} }}\n    \
         indexes: [[name]]\n"
    )
}

fn user(id: i64) -> Message {
    Message::new(id.to_string(), format!(r#"{{"id":{id},"name":"n{id}","email":"{id}@x.org"}}"#))
}

/// A reader's look: what it asked for, and the status, of one moment.
struct Look {
    live: String,
    status: BTreeMap<String, String>,
    rows: Vec<BTreeMap<String, String>>,
}

/// As documented: where the rows are, then all of it in one `MULTI`, or in one script.
fn look(connection: &mut Connection, table: &str, ids: &[i64], by_script: bool) -> redis::RedisResult<Look> {
    let found: Option<String> = cmd("HGET").arg(STATUS).arg("live").query(connection)?;
    let live = found.unwrap_or_default();
    let names: Vec<String> = ids.iter().map(|id| format!("{live}{table}:{id}")).collect();
    let (status, rows): (BTreeMap<String, String>, Vec<redis::Value>) = if by_script {
        const TEXT: &str = "#!lua flags=no-writes\nlocal rows = {}\nfor i = 2, #KEYS do\n\
            local kind = redis.call('TYPE', KEYS[i]).ok\n\
            rows[i - 1] = kind == 'string' and redis.call('GET', KEYS[i]) or redis.call('HGETALL', KEYS[i])\nend\n\
            return { redis.call('HGETALL', KEYS[1]), rows }";
        let script = Script::new(TEXT);
        let mut asked = script.prepare_invoke();
        asked.key(STATUS);
        names.iter().for_each(|name| {
            asked.key(name);
        });
        asked.invoke(connection)?
    } else {
        let json = connection_says_json(connection, &names)?;
        let mut all = redis::pipe();
        all.atomic().cmd("HGETALL").arg(STATUS);
        for name in &names {
            all.cmd(if json { "GET" } else { "HGETALL" }).arg(name);
        }
        let mut answers: Vec<redis::Value> = all.query(connection)?;
        let rows = answers.split_off(1);
        (redis::from_redis_value(answers.remove(0))?, rows)
    };
    let rows = rows.into_iter().map(fields).collect();
    Ok(Look { live, status, rows })
}

fn connection_says_json(connection: &mut Connection, names: &[String]) -> redis::RedisResult<bool> {
    let Some(name) = names.first() else { return Ok(false) };
    Ok(cmd("TYPE").arg(name).query::<String>(connection)? == "string")
}

/// A row by column, whichever way it is kept.
fn fields(value: redis::Value) -> BTreeMap<String, String> {
    let mut row: BTreeMap<String, String> = match value {
        redis::Value::BulkString(json) => {
            let object: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(&json).unwrap();
            let plain = |value: serde_json::Value| value.as_str().map_or(value.to_string(), str::to_owned);
            object.into_iter().map(|(name, value)| (name, plain(value))).collect()
        }
        redis::Value::Nil => BTreeMap::new(),
        other => {
            let fields: BTreeMap<String, Vec<u8>> = redis::from_redis_value(other).unwrap();
            let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
            fields.into_iter().map(|(name, value)| (name, text(value))).collect()
        }
    };
    row.remove("_v");
    row
}

struct Watcher {
    stop: Arc<AtomicBool>,
    /// How often it has looked so far.
    count: Arc<AtomicU64>,
    thread: JoinHandle<Looks>,
}

#[derive(Default)]
struct Looks {
    /// Looks that a switch came into, so that the reader asked again.
    again: u64,
    /// By generation and columns of its rows.
    seen: BTreeMap<String, u64>,
}

/// Reads users 1 to `least` again and again over a connection that stays: every row is there, all of
/// one moment have the columns of one mapping, and nothing goes back. Returns when it has looked once.
fn watch(socket: PathBuf, least: i64) -> Watcher {
    let (stop, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let (told, looked) = (Arc::clone(&stop), Arc::clone(&count));
    let thread = std::thread::spawn(move || {
        let mut connection = redis_server::connect_to(&socket).unwrap();
        let mut random = Random(11);
        let mut looks = Looks::default();
        let (mut generation, mut fresh) = (0, 0);
        while !told.load(Ordering::Relaxed) {
            let ids: Vec<i64> = (0..20).map(|_| 1 + random.below(least as u64) as i64).collect();
            let Look { live, status, rows } =
                look(&mut connection, "users", &ids, looked.load(Ordering::Relaxed) % 2 == 1)
                    .expect("a look");
            if status["live"] != live {
                looks.again += 1;
                continue;
            }
            let number = |name: &str| status[name].parse::<i64>().unwrap_or(0);
            let columns: Vec<&String> = rows[0].keys().collect();
            for (id, row) in ids.iter().zip(&rows) {
                assert_eq!(
                    row.get("id"),
                    Some(&id.to_string()),
                    "user {id} in {live}: {row:?} of {status:?}"
                );
                assert_eq!(row.keys().collect::<Vec<_>>(), columns, "a mixture");
                assert_eq!(row["name"], format!("n{id}"));
            }
            assert_eq!(status["complete"], "1");
            assert!(number("users.rows") >= least, "{} rows", number("users.rows"));
            let (now, as_of) = (number("generation"), number("users.fresh_as_of_ms"));
            assert!(now >= generation, "generation {now} after {generation}");
            assert!(as_of >= fresh, "fresh as of {as_of} after {fresh}");
            (generation, fresh) = (now, as_of);
            *looks.seen.entry(format!("{now}: {}", rows[0].len())).or_default() += 1;
            looked.fetch_add(1, Ordering::Relaxed);
        }
        looks
    });
    let watcher = Watcher { stop, count, thread };
    watcher.has_looked(1);
    watcher
}

impl Watcher {
    /// Waits until it has looked so often, or has seen something wrong.
    fn has_looked(&self, often: u64) {
        eventually("the reader has looked often enough", || {
            (self.count.load(Ordering::Relaxed) >= often || self.thread.is_finished()).then_some(())
        });
    }

    fn finish(self) -> Looks {
        self.has_looked(50);
        self.stop.store(true, Ordering::Relaxed);
        let looks = self.thread.join().expect("the reader saw nothing wrong");
        println!("{:?} looks, {} begun again, {:?}", self.count, looks.again, looks.seen);
        looks
    }
}

fn status(server: &RedisServer, field: &str) -> String {
    let found: Option<String> = cmd("HGET").arg(STATUS).arg(field).query(&mut server.connect()).unwrap();
    found.unwrap_or_default()
}

fn serves(server: &RedisServer, wanted: u32) {
    eventually("the new generation serves", || {
        (status(server, "generation") == wanted.to_string()).then_some(())
    });
}

fn row(server: &RedisServer, id: i64) -> BTreeMap<String, String> {
    look(&mut server.connect(), "users", &[id], true).unwrap().rows.remove(0)
}

/// Everything that is stored in either database belongs to the generation that serves.
fn nothing_is_left_of_others(server: &RedisServer) {
    let left = || {
        let live = status(server, "live");
        let mut connection = server.connect();
        let is_bookkeeping = |key: &String| {
            let rest = key.strip_prefix("shop:readside:");
            rest.is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_digit()))
        };
        let is_live =
            |key: &String| key.strip_prefix(&live).is_some_and(|rest| rest.starts_with(char::is_alphabetic));
        let mut left = keys(&mut connection, "*");
        left.retain(|key| !is_bookkeeping(key) && !is_live(key));
        cmd("SELECT").arg(1).query::<()>(&mut connection).unwrap();
        left.extend(keys(&mut connection, "*").into_iter().map(|key| format!("{key} of the other database")));
        left
    };
    let said = || {
        let left = left();
        let some: Vec<_> = left.iter().take(9).collect();
        format!("nothing of another generation is left, but {}: {some:?}", left.len())
    };
    kafka::eventually_or(said, || left().is_empty().then_some(()));
}

fn command(daemon: &mut Daemon, arguments: &[&str]) -> Output {
    let (_, admin) = daemon.listeners();
    let mut command = Command::new(env!("CARGO_BIN_EXE_readside"));
    daemon::output(command.args(arguments).args(["--admin", &admin]))
}

#[test]
fn a_changed_mapping_is_built_beside_the_old_copy_and_no_reader_notices() {
    let Some(broker) = kafka::shared() else { return };
    for (nth, way) in WAYS.into_iter().enumerate() {
        let Some(server) = redis_server::start(&[]) else { return };
        let dir = tempfile::tempdir().unwrap();
        let topic = kafka::topic_name("redis-rebuild");
        broker.create_topic(&topic, 3, &[]);
        broker.produce(&topic, (1..=20_000).map(user));
        let head = header(broker, &server, way);
        let mut daemon = Daemon::start(dir.path(), &format!("{head}{}", users(&topic, "name: text")));
        daemon.started();
        assert!(daemon.terminate().0.success());

        let watcher = watch(server.socket(), 20_000);
        let yaml = format!("{head}{}", users(&topic, "name: text, email: 'text?'"));
        let mut daemon = Daemon::start(dir.path(), &yaml);
        // Young enough: it serves while it is rebuilt.
        daemon.started();
        broker.produce(&topic, (20_001..=20_500).map(user));
        serves(&server, 2);
        eventually("events that came meanwhile", || (status(&server, "users.rows") == "20500").then_some(()));
        let looks = watcher.finish();
        assert!(looks.seen.contains_key("1: 2"), "{:?}", looks.seen);
        assert!(looks.seen.keys().all(|seen| ["1: 2", "2: 3"].contains(&seen.as_str())), "{:?}", looks.seen);
        assert_eq!(row(&server, 7)["email"], "7@x.org");
        let live = status(&server, "live");
        assert_eq!(live, if nth == 1 { "shop:" } else { "shop:2:" });
        assert_eq!(indexes(&mut server.connect(), &live, "users").len(), 20_500);
        eventually("live", || (status(&server, "state") == "live").then_some(()));
        eventually("the daemon has noticed, too", || {
            (daemon.metric("readside_generation") == Some(2.0)).then_some(())
        });
        assert_eq!(daemon.metric("readside_rebuilds_total{result=\"switched\"}"), Some(1.0));
        assert_eq!(daemon.metric("readside_rebuild_running"), Some(0.0));
        nothing_is_left_of_others(&server);
        // What follows is an ordinary start.
        drop(daemon);
        let mut daemon = Daemon::start(dir.path(), &yaml);
        daemon.started();
        assert_eq!(status(&server, "generation"), "2");
        assert!(daemon.terminate().0.success());
    }
}

/// Both tables are exactly what the history leads to, and so are their indexes.
fn assert_equal(server: &RedisServer, history: &History) {
    let live = status(server, "live");
    let mut reader = server.connect();
    for table in TABLES {
        let before = format!("{live}{table}:");
        let ids: Vec<i64> = keys(&mut reader, &format!("{before}*"))
            .iter()
            .map(|key| key[before.len()..].parse().unwrap())
            .collect();
        let rows = look(&mut reader, table, &ids, false).unwrap().rows;
        let mut found: BTreeMap<i64, String> = BTreeMap::new();
        let mut entries = 0;
        for (id, row) in ids.iter().zip(&rows) {
            let cell = |name: &str| row.get(name).map_or("NULL", String::as_str).to_owned();
            entries += 2 * usize::from(row.contains_key("amount"));
            found.insert(*id, format!("{id}|{}|{}", cell("name"), cell("amount")));
        }
        assert_eq!(found.into_values().collect::<Vec<_>>(), history.expected(), "{table}");
        let indexed: usize = indexes(&mut reader, &live, table).values().map(|set| set.len()).sum();
        assert_eq!(indexed, entries, "the indexes of {table} are not in step");
    }
}

/// Rows that a reader of both tables has to see.
const SEEN_LEAST: u64 = 100;

/// Looks at both tables at one moment, which the same records fill, until told to stop, and until it has
/// seen enough.
fn watch_twins(socket: PathBuf, stop: Arc<AtomicBool>) -> JoinHandle<u64> {
    std::thread::spawn(move || {
        let mut random = Random(7);
        let (mut looks, mut connection, begin) = (0, None, Instant::now());
        while !stop.load(Ordering::Relaxed) || (looks < SEEN_LEAST && begin.elapsed() < WAIT_MAX) {
            // The server comes and goes.
            let Some(reader) = connection.as_mut() else {
                std::thread::park_timeout(std::time::Duration::from_millis(5));
                connection = redis_server::connect_to(&socket).ok();
                continue;
            };
            let mut pairs = || -> redis::RedisResult<Option<u64>> {
                let found: Option<String> = cmd("HGET").arg(STATUS).arg("live").query(reader)?;
                let Some(live) = found.filter(|live| !live.is_empty()) else { return Ok(None) };
                let ids: Vec<u64> = (0..20).map(|_| random.below(2_000)).collect();
                let mut all = redis::pipe();
                all.atomic().cmd("HGET").arg(STATUS).arg("live");
                for id in &ids {
                    for table in TABLES {
                        all.cmd("HMGET").arg(format!("{live}{table}:{id}")).arg(&["name", "amount", "seq"]);
                    }
                }
                let mut answers: Vec<redis::Value> = all.query(reader)?;
                let rows = answers.split_off(1);
                let now: Option<String> = redis::from_redis_value(answers.remove(0))?;
                if now.as_ref() != Some(&live) {
                    return Ok(None);
                }
                let rows: Vec<Vec<Option<String>>> =
                    rows.into_iter().map(|row| redis::from_redis_value(row).unwrap()).collect();
                for (id, pair) in ids.iter().zip(rows.chunks(2)) {
                    assert_eq!(pair[0], pair[1], "a reader saw half a batch of row {id}");
                }
                Ok(Some(rows.iter().filter(|row| row[0].is_some()).count() as u64))
            };
            match pairs() {
                Ok(seen) => looks += seen.unwrap_or(0),
                Err(_) => connection = None,
            }
        }
        looks
    })
}

/// What `/wait` says of a record.
fn wait_for(daemon: &mut Daemon, topic: &str, (partition, offset): (i32, i64), timeout: &str) -> u16 {
    let path = format!("/wait?topic={topic}&partition={partition}&offset={offset}&timeout={timeout}");
    daemon.admin(&path).unwrap().0
}

#[test]
fn a_rebuild_under_load_lets_nothing_go_back() {
    let Some(broker) = kafka::shared() else { return };
    for way in ["", ", dedicated: true"] {
        let Some(server) = redis_server::start(&[]) else { return };
        let dir = tempfile::tempdir().unwrap();
        let topic = kafka::topic_name("redis-under-load");
        broker.create_topic(&topic, PARTITIONS, &[]);
        let yaml = format!("{}{}", header(broker, &server, way), history::tables(&topic));
        let mut history = History::new(2_000, 7);
        broker.produce(&topic, history.take(15_000));
        let mut daemon = Daemon::start(dir.path(), &yaml);
        daemon.started();
        let stop = Arc::new(AtomicBool::new(false));
        let watcher = watch_twins(server.socket(), Arc::clone(&stop));
        let generation = || status(&server, "generation").parse::<u64>().unwrap();
        let mut wanted = 1;
        for _ in 0..2 {
            let (code, body) = daemon.post("/rebuild").unwrap();
            assert_eq!(code, 202, "{body}");
            wanted += 1;
            let (code, body) = daemon.post("/rebuild").unwrap();
            if code != 409 {
                // It is over already, and another one has begun.
                assert!(code == 202 && generation() == wanted, "{code} {body}");
                wanted += 1;
            }
            let mut last = (0, 0);
            while generation() < wanted {
                last = *broker.produce(&topic, history.take(200)).last().unwrap();
                assert_eq!(wait_for(&mut daemon, &topic, last, "170s"), 200, "{}", daemon.log());
            }
            // What could be waited for once is there for good.
            assert_eq!(wait_for(&mut daemon, &topic, last, "0s"), 200);
            eventually("the daemon has noticed, too", || {
                let rebuild = &daemon.status()["rebuild"];
                (rebuild["generation"] == wanted && rebuild["running"].is_null()).then_some(())
            });
        }
        let end: i64 = (0..PARTITIONS).map(|partition| broker.end_offset(&topic, partition)).sum();
        eventually("everything is applied", || {
            let positions: BTreeMap<String, i64> =
                cmd("HGETALL").arg("shop:readside:positions").query(&mut server.connect()).unwrap();
            (positions.values().sum::<i64>() == end).then_some(())
        });
        stop.store(true, Ordering::Relaxed);
        assert!(watcher.join().expect("the reader saw nothing wrong") >= SEEN_LEAST);
        assert_equal(&server, &history);
        nothing_is_left_of_others(&server);
        assert!(daemon.terminate().0.success());
    }
}

/// Positions of the generation that is being built, summed; `None` while there is none.
fn built(server: &RedisServer, number: u32, dedicated: bool) -> Option<i64> {
    let mut connection = server.try_connect(Default::default()).ok()?;
    let key = if dedicated {
        cmd("SELECT").arg(1).query::<()>(&mut connection).ok()?;
        "shop:readside:positions".to_owned()
    } else {
        format!("shop:readside:{number}:positions")
    };
    let positions: BTreeMap<String, i64> = cmd("HGETALL").arg(key).query(&mut connection).ok()?;
    (!positions.is_empty()).then(|| positions.values().sum())
}

#[test]
fn a_killed_rebuild_goes_on_where_it_was() {
    let Some(broker) = kafka::shared() else { return };
    for way in ["", ", dedicated: true"] {
        let Some(server) = redis_server::start(&[]) else { return };
        let dir = tempfile::tempdir().unwrap();
        let topic = kafka::topic_name("redis-killed-rebuild");
        broker.create_topic(&topic, 2, &[]);
        broker.produce(&topic, (1..=30_000).map(user));
        let head = header(broker, &server, way);
        let mut daemon = Daemon::start(dir.path(), &format!("{head}{}", users(&topic, "name: text")));
        daemon.started();
        assert!(daemon.terminate().0.success());
        let watcher = watch(server.socket(), 30_000);
        let (mut kills, mut number) = (0, 1);
        // Where it was built faster than it could be killed, another one is built.
        while kills < 3 {
            number += 1;
            let columns = format!("name: text, email: 'text?', more_{number}: 'text?'");
            let yaml = format!("{head}{}", users(&topic, &columns));
            let switched = || status(&server, "generation") == number.to_string();
            let mut before = 0;
            for _ in 0..40 {
                let daemon = Daemon::start(dir.path(), &yaml);
                eventually("a little more is built", || {
                    (switched() || built(&server, number, !way.is_empty()) > Some(before + 2_000))
                        .then_some(())
                });
                daemon.kill();
                if switched() {
                    break;
                }
                kills += 1;
                if let Some(now) = built(&server, number, !way.is_empty()) {
                    assert!(now >= before, "built {now} after {before}");
                    before = now;
                }
            }
            let mut daemon = Daemon::start(dir.path(), &yaml);
            serves(&server, number);
            daemon.started();
            assert_eq!(status(&server, "users.rows"), "30000");
            nothing_is_left_of_others(&server);
            assert!(daemon.terminate().0.success());
        }
        watcher.finish();
    }
}

#[test]
fn a_second_change_of_the_mapping_drops_what_was_half_built() {
    let Some(broker) = kafka::shared() else { return };
    let Some(server) = redis_server::start(&[]) else { return };
    let dir = tempfile::tempdir().unwrap();
    let topic = kafka::topic_name("redis-changed-again");
    broker.create_topic(&topic, 1, &[]);
    broker.produce(&topic, (1..=20_000).map(user));
    let head = header(broker, &server, "");
    let first = format!("{head}{}", users(&topic, "name: text"));
    let mut daemon = Daemon::start(dir.path(), &first);
    daemon.started();
    assert!(daemon.terminate().0.success());
    let daemon = Daemon::start(dir.path(), &format!("{head}{}", users(&topic, "name: text, email: 'text?'")));
    eventually("it is being built", || built(&server, 2, false).map(drop));
    daemon.kill();
    if status(&server, "generation") != "1" {
        // Faster than the kill: nothing is half-built.
        return;
    }
    // Back to the first mapping: it goes on as if nothing had been.
    let mut daemon = Daemon::start(dir.path(), &first);
    daemon.started();
    eventually("live", || (status(&server, "state") == "live").then_some(()));
    nothing_is_left_of_others(&server);
    assert!(daemon.terminate().0.success());
    // Another encoding and another index are another mapping, too.
    let head = header(broker, &server, ", encoding: json");
    let mut daemon =
        Daemon::start(dir.path(), &format!("{head}{}", users(&topic, "email: text, name: text")));
    serves(&server, 3);
    daemon.started();
    assert_eq!(row(&server, 7)["email"], "7@x.org");
    nothing_is_left_of_others(&server);
}

#[test]
fn a_copy_that_has_lost_much_does_not_replace_a_fuller_one() {
    let Some(broker) = kafka::shared() else { return };
    let Some(server) = redis_server::start(&[]) else { return };
    let dir = tempfile::tempdir().unwrap();
    let topic = kafka::topic_name("redis-poorer");
    broker.create_topic(&topic, 1, &[]);
    broker.produce(&topic, (1..=1_000).map(user));
    let yaml = format!("{}{}", header(broker, &server, ""), users(&topic, "name: text"));
    let mut daemon = Daemon::start(dir.path(), &yaml);
    daemon.started();
    broker.delete_records(&topic, 0, 600);
    let refused = command(&mut daemon, &["rebuild", "--wait"]);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("400 rows instead of 1000") && said.contains("--accept-loss"), "{said}");
    assert_eq!(daemon.metric("readside_rebuilds_total{result=\"refused\"}"), Some(1.0));
    assert_eq!(daemon.status()["rebuild"]["last"]["result"], "refused");
    assert_eq!(status(&server, "users.rows"), "1000");
    // The live one has never stopped.
    broker.produce(&topic, [user(1_001)]);
    eventually("it goes on", || (status(&server, "users.rows") == "1001").then_some(()));
    nothing_is_left_of_others(&server);

    let accepted = command(&mut daemon, &["rebuild", "--wait", "--accept-loss"]);
    assert_eq!(accepted.status.code(), Some(0), "{accepted:?}");
    assert_eq!(status(&server, "users.rows"), "401");
    assert!(row(&server, 600).is_empty() && !row(&server, 601).is_empty());
}

#[test]
fn a_rebuild_that_redis_has_no_memory_for_does_not_begin() {
    let Some(broker) = kafka::shared() else { return };
    let Some(server) = redis_server::start(&["--maxmemory", "200mb"]) else { return };
    let dir = tempfile::tempdir().unwrap();
    let topic = kafka::topic_name("redis-no-room");
    broker.create_topic(&topic, 1, &[]);
    broker.produce(&topic, (1..=50).map(user));
    let head = header(broker, &server, "") + "rebuild: { min_free: 250MiB }\n";
    let yaml = format!("{head}{}", users(&topic, "name: text"));
    let mut daemon = Daemon::start(dir.path(), &yaml);
    daemon.started();
    let (code, body) = daemon.post("/rebuild").unwrap();
    assert_eq!(code, 507, "{body}");
    assert!(body.contains("below maxmemory") && body.contains("rebuild.min_free"), "{body}");
    assert_eq!(daemon.status()["rebuild"]["last"]["result"], "refused");
    assert_eq!(daemon.metric("readside_rebuilds_total{result=\"refused\"}"), Some(1.0));
    broker.produce(&topic, [user(51)]);
    eventually("the live one goes on", || (status(&server, "users.rows") == "51").then_some(()));
    eventually("live", || (status(&server, "state") == "live").then_some(()));
}

#[test]
fn a_mapping_that_the_log_cannot_fill_waits_for_a_person() {
    let Some(broker) = kafka::shared() else { return };
    let Some(server) = redis_server::start(&[]) else { return };
    let dir = tempfile::tempdir().unwrap();
    let topic = kafka::topic_name("redis-cannot-fill");
    broker.create_topic(&topic, 1, &[("cleanup.policy", "delete")]);
    broker.produce(&topic, (1..=50).map(user));
    // A lease of ten seconds, which is renewed every three: seven before it is lost.
    let head = header(broker, &server, "").replace(FRESHNESS, "freshness: { interval: 3s }\n");
    let mut daemon = Daemon::start(dir.path(), &format!("{head}{}", users(&topic, "name: text")));
    daemon.started();
    assert!(daemon.terminate().0.success());
    broker.delete_records(&topic, 0, 20);
    let yaml = format!("{head}{}", users(&topic, "name: text, email: 'text?'"));
    let mut daemon = Daemon::start(dir.path(), &yaml);
    daemon.started();
    eventually("it says that a person is needed", || (status(&server, "state") == "stopped").then_some(()));
    let reason = status(&server, "stopped");
    assert!(reason.contains("begins at offset 20") && reason.contains("readside rebuild"), "{reason}");
    assert_eq!(status(&server, "users.rows"), "50", "the old copy serves");
    eventually("the metrics say it, too", || {
        let series = "readside_state{state=\"stopped\",table=\"users\"}";
        (daemon.metric(series) == Some(1.0)).then_some(())
    });
    // It stays its own although nothing is written: longer than the lease lasts.
    let other = tempfile::tempdir().unwrap();
    let mut second = Daemon::start(other.path(), &yaml);
    assert_eq!(second.wait().code(), Some(78), "{}", second.log());
    assert!(second.log().contains("another readside writes this replica"), "{}", second.log());
    let begun = command(&mut daemon, &["rebuild", "--wait"]);
    assert_eq!(begun.status.code(), Some(0), "{begun:?}");
    assert_eq!(
        (status(&server, "users.rows"), row(&server, 21)["email"].clone()),
        ("30".into(), "21@x.org".into())
    );
    eventually("live", || (status(&server, "state") == "live").then_some(()));
}

#[test]
fn a_recreated_topic_is_built_anew_while_the_old_copy_serves() {
    let Some(broker) = kafka::shared() else { return };
    for way in ["", ", dedicated: true"] {
        let Some(server) = redis_server::start(&[]) else { return };
        let dir = tempfile::tempdir().unwrap();
        let topic = kafka::topic_name("redis-recreated");
        broker.create_topic(&topic, 1, &[]);
        broker.produce(&topic, (1..=90).map(user));
        let head = header(broker, &server, way) + "defaults: { on_gap: rebuild }\n";
        let yaml = format!("{head}{}", users(&topic, "name: text"));
        let mut daemon = Daemon::start(dir.path(), &yaml);
        daemon.started();
        broker.delete_topic(&topic);
        eventually("the topic is made again", || {
            std::panic::catch_unwind(|| broker.create_topic(&topic, 1, &[])).ok()
        });
        broker.produce(&topic, (51..=120).map(user));
        serves(&server, 2);
        eventually("the rows of the new topic", || (status(&server, "users.rows") == "70").then_some(()));
        assert!(row(&server, 7).is_empty() && !row(&server, 120).is_empty());
        assert_eq!(daemon.metric("readside_gaps_total{reason=\"recreated\"}"), Some(1.0));
        broker.produce(&topic, [user(121)]);
        eventually("it goes on", || (status(&server, "users.rows") == "71").then_some(()));
        nothing_is_left_of_others(&server);
        assert!(daemon.terminate().0.success());
    }
}

/// What happens to a server, or to the daemon, while it rebuilds.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Blow {
    KillRedis,
    ShutDownRedis,
    FlushAll,
    FlushTheBuild,
    Sleep,
    CutConnections,
    KillDaemon,
}

fn strike(server: &mut RedisServer, blow: Blow) {
    match blow {
        Blow::KillRedis => {
            server.kill();
            server.restart();
        }
        Blow::ShutDownRedis => {
            server.shut_down();
            server.restart();
        }
        Blow::FlushAll => cmd("FLUSHALL").query::<()>(&mut server.connect()).unwrap(),
        Blow::FlushTheBuild => {
            let mut connection = server.connect();
            cmd("SELECT").arg(1).query::<()>(&mut connection).unwrap();
            cmd("FLUSHDB").query::<()>(&mut connection).unwrap();
        }
        Blow::Sleep => cmd("DEBUG").arg("SLEEP").arg(2).query::<()>(&mut server.connect()).unwrap(),
        Blow::CutConnections => {
            let mut admin = server.connect();
            for _ in 0..10 {
                cmd("CLIENT").arg("KILL").arg("TYPE").arg("normal").query::<()>(&mut admin).unwrap();
                std::thread::park_timeout(std::time::Duration::from_millis(5));
            }
        }
        Blow::KillDaemon => {}
    }
}

fn struck_while_rebuilding(way: &str, arguments: &[&str], blows: &[Blow], seed: u64) {
    let Some(broker) = kafka::shared() else { return };
    let Some(mut server) = redis_server::start(arguments) else { return };
    let dir = tempfile::tempdir().unwrap();
    let topic = kafka::topic_name("redis-struck");
    broker.create_topic(&topic, PARTITIONS, &[]);
    let yaml = format!("{}{}", header(broker, &server, way), history::tables(&topic));
    let mut history = History::new(2_000, seed);
    broker.produce(&topic, history.take(6_000));
    let mut daemon = Daemon::start(dir.path(), &yaml);
    daemon.started();
    let stop = Arc::new(AtomicBool::new(false));
    let watcher = watch_twins(server.socket(), Arc::clone(&stop));
    let mut random = Random(seed);
    for blow in blows {
        let number = eventually("the copy has a number", || {
            let serving = daemon.status()["rebuild"]["generation"].as_u64()?;
            Some(serving as u32 + 1)
        });
        let begun = daemon.post("/rebuild");
        println!("{way:?} {blow:?}: {begun:?}");
        broker.produce(&topic, history.take(600));
        let losses = daemon.metric("readside_replica_losses_total").unwrap();
        let some = random.below(5_000) as i64;
        eventually("some of it is built, or it is over", || {
            let over = || status(&server, "generation") == number.to_string();
            (over() || built(&server, number, !way.is_empty()) >= Some(some)).then_some(())
        });
        strike(&mut server, *blow);
        if *blow == Blow::KillDaemon {
            daemon.kill();
            daemon = Daemon::start(dir.path(), &yaml);
            daemon.started();
        }
        broker.produce(&topic, history.take(200));
        let end: i64 = (0..PARTITIONS).map(|partition| broker.end_offset(&topic, partition)).sum();
        eventually("a whole copy has everything, and nothing is being built", || {
            assert!(daemon.ended().is_none(), "stopped at {blow:?}:\n{}", daemon.log());
            let mut connection = server.try_connect(Default::default()).ok()?;
            let positions: BTreeMap<String, i64> =
                cmd("HGETALL").arg("shop:readside:positions").query(&mut connection).ok()?;
            let complete: Option<String> =
                cmd("HGET").arg(STATUS).arg("complete").query(&mut connection).ok()?;
            let is_whole = positions.values().sum::<i64>() == end && complete.as_deref() == Some("1");
            (is_whole && daemon.metric("readside_rebuild_running")? == 0.0).then_some(())
        });
        eventually("it is ready", || (daemon.get("/readyz")?.0 == 200).then_some(()));
        assert_equal(&server, &history);
        if *blow != Blow::KillDaemon {
            // Both generations notice a loss, and it is one nevertheless: to begin again while that has
            // begun already ended in a quarrel about the lease with oneself.
            let now = daemon.metric("readside_replica_losses_total").unwrap();
            assert!(now - losses <= 1.0, "{} losses at {blow:?}:\n{}", now - losses, daemon.log());
        }
    }
    // Whatever came in between: a rebuild goes through in the end.
    let done = command(&mut daemon, &["rebuild", "--wait"]);
    assert_eq!(done.status.code(), Some(0), "{done:?}\n{}", daemon.log());
    stop.store(true, Ordering::Relaxed);
    assert!(watcher.join().expect("the reader saw nothing wrong") >= SEEN_LEAST);
    assert_equal(&server, &history);
    nothing_is_left_of_others(&server);
    assert!(daemon.terminate().0.success());
}

const SURVIVED: [Blow; 6] =
    [Blow::KillRedis, Blow::KillDaemon, Blow::Sleep, Blow::CutConnections, Blow::KillDaemon, Blow::KillRedis];

#[test]
fn a_rebuild_survives_what_redis_survives() {
    struck_while_rebuilding("", &["--appendonly", "yes", "--appendfsync", "always"], &SURVIVED, 31);
}

#[test]
fn a_rebuild_in_a_dedicated_redis_survives_what_redis_survives() {
    let arguments = ["--appendonly", "yes", "--appendfsync", "always"];
    struck_while_rebuilding(", dedicated: true", &arguments, &SURVIVED, 32);
}

const FORGOTTEN: [Blow; 5] =
    [Blow::FlushAll, Blow::KillRedis, Blow::KillDaemon, Blow::ShutDownRedis, Blow::FlushAll];

#[test]
fn what_redis_forgets_during_a_rebuild_is_built_again_and_never_mixed() {
    struck_while_rebuilding("", &[], &FORGOTTEN, 33);
}

#[test]
fn what_a_dedicated_redis_forgets_during_a_rebuild_is_built_again_and_never_mixed() {
    let blows = [&FORGOTTEN[..], &[Blow::FlushTheBuild, Blow::FlushTheBuild]].concat();
    struck_while_rebuilding(", dedicated: true", &[], &blows, 34);
}

#[test]
fn without_leave_to_rebuild_another_mapping_is_refused() {
    let Some(broker) = kafka::shared() else { return };
    let Some(server) = redis_server::start(&[]) else { return };
    let dir = tempfile::tempdir().unwrap();
    let topic = kafka::topic_name("redis-never");
    broker.create_topic(&topic, 1, &[]);
    broker.produce(&topic, (1..=50).map(user));
    let head = header(broker, &server, "") + "rebuild_when_mapping_changes: never\n";
    let mut daemon = Daemon::start(dir.path(), &format!("{head}{}", users(&topic, "name: text")));
    daemon.started();
    assert!(daemon.terminate().0.success());
    let mut daemon =
        Daemon::start(dir.path(), &format!("{head}{}", users(&topic, "name: text, email: 'text?'")));
    assert_eq!(daemon.wait().code(), Some(78), "{}", daemon.log());
    assert!(daemon.log().contains("another mapping of users"), "{}", daemon.log());
    let offline = readside(dir.path(), &["status", "-o", "json"]);
    let offline: serde_json::Value = serde_json::from_slice(&offline.stdout).unwrap();
    assert_eq!(offline["tables"][0]["rows"], 50, "it speaks whatever the mapping is now: {offline}");
}

fn readside(dir: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_readside"));
    daemon::output(command.args(arguments).arg("--config").arg(dir.join("readside.yaml")))
}

#[test]
fn a_column_less_in_another_order_and_another_index_need_no_log() {
    let Some(broker) = kafka::shared() else { return };
    // The last one is kept otherwise from then on.
    for (before, after) in [(WAYS[0], WAYS[0]), (WAYS[1], WAYS[1]), (WAYS[2], WAYS[2]), (WAYS[0], WAYS[2])] {
        let Some(server) = redis_server::start(&[]) else { return };
        let dir = tempfile::tempdir().unwrap();
        let topic = kafka::topic_name("redis-in-place");
        broker.create_topic(&topic, 1, &[("cleanup.policy", "delete")]);
        broker.produce(&topic, (1..=3_000).map(user));
        let never = "rebuild_when_mapping_changes: never\n";
        let yaml = |way: &str, tables: String| format!("{}{never}{tables}", header(broker, &server, way));
        let first = yaml(before, users(&topic, "name: text, email: text, more: 'text?'"));
        let mut daemon = Daemon::start(dir.path(), &first);
        daemon.started();
        assert!(daemon.terminate().0.success());
        // Nothing of it can be read any more.
        broker.delete_records(&topic, 0, 3_000);
        let watcher = watch(server.socket(), 3_000);
        let tables = users(&topic, "email: text, name: text").replace("[[name]]", "[[email], [name, email]]");
        let mut daemon = Daemon::start(dir.path(), &yaml(after, tables));
        daemon.started();
        serves(&server, 2);
        broker.produce(&topic, [user(3_001)]);
        eventually("it goes on", || (status(&server, "users.rows") == "3001").then_some(()));
        assert_eq!(row(&server, 3_001).len(), 3);
        let live = status(&server, "live");
        let entries = indexes(&mut server.connect(), &live, "users");
        assert_eq!(entries.len(), 2 * 3_001);
        assert!(entries["name,email:n7:7@x.org"].contains("7"));
        let looks = watcher.finish();
        assert!(looks.seen.keys().all(|seen| ["1: 3", "2: 3"].contains(&seen.as_str())), "{:?}", looks.seen);
        nothing_is_left_of_others(&server);
        // What needs the log is still refused.
        assert!(daemon.terminate().0.success());
        let mut daemon = Daemon::start(dir.path(), &yaml(after, users(&topic, "name: text, fresh: 'text?'")));
        assert_eq!(daemon.wait().code(), Some(78), "{}", daemon.log());
    }
}
