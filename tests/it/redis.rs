//! The replica in Redis, end to end: a real Kafka, the real daemon, a real redis-server.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use redis::{Connection, cmd};

use crate::children;
use crate::daemon::{Daemon, output};
use crate::history::{self, History, PARTITIONS, Random, TABLES};
use crate::kafka::{self, Broker, Message, WAIT_MAX, eventually};
use crate::redis_server::{self, RedisServer, indexes, keys};

const PREFIX: &str = "shop:";
/// Before the names of tables, in a Redis that is not dedicated.
const ROWS: &str = "shop:1:";
/// So that a writer that died lets go within a second and a half.
const FRESHNESS: &str = "freshness: { interval: 100ms }\n";

#[derive(Debug, Clone, Copy, PartialEq)]
enum Encoding {
    Hash,
    Json,
}

/// `kafka:`, `replica:` and `freshness:`; `more` goes into the section of Redis.
fn header(broker: &Broker, server: &RedisServer, more: &str) -> String {
    let brokers = broker.bootstrap();
    let url = server.url();
    format!(
        "kafka: {{ brokers: '{brokers}' }}\n\
         replica: {{ redis: {{ url: '{url}', prefix: '{PREFIX}'{more} }} }}\n{FRESHNESS}"
    )
}

const USERS: &str = "\
tables:
  users:
    topic: @TOPIC@
    key: [tenant, id]
    columns: { tenant: text, id: integer, name: text, email: text?, score: real?, photo: blob?, active: boolean? }
    indexes: [[email], [tenant, name]]
";

fn users(topic: &str) -> String {
    USERS.replace("@TOPIC@", topic)
}

/// A row as a reader sees it, by column; columns that are null are not there.
fn row(connection: &mut Connection, encoding: Encoding, key: &str) -> BTreeMap<String, String> {
    let mut found: BTreeMap<String, String> = match encoding {
        Encoding::Hash => {
            let fields: BTreeMap<String, Vec<u8>> = cmd("HGETALL").arg(key).query(connection).unwrap();
            fields
                .into_iter()
                .map(|(name, value)| (name, String::from_utf8_lossy(&value).into_owned()))
                .collect()
        }
        Encoding::Json => {
            let text: Option<String> = cmd("GET").arg(key).query(connection).unwrap();
            let object: serde_json::Map<String, serde_json::Value> =
                text.map(|text| serde_json::from_str(&text).unwrap()).unwrap_or_default();
            let plain = |value: serde_json::Value| match value {
                serde_json::Value::String(text) => text,
                other => other.to_string(),
            };
            object.into_iter().map(|(name, value)| (name, plain(value))).collect()
        }
    };
    found.remove("_v");
    found
}

fn fields(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn sets(pairs: &[(&str, &[&str])]) -> BTreeMap<String, BTreeSet<String>> {
    let set = |members: &[&str]| members.iter().map(|member| (*member).to_owned()).collect();
    pairs.iter().map(|(name, members)| ((*name).to_owned(), set(members))).collect()
}

/// Waits until the daemon has committed everything that is in the topic.
fn caught_up(daemon: &mut Daemon, broker: &Broker, topic: &str, partitions: i32) {
    for partition in 0..partitions {
        let end = broker.end_offset(topic, partition);
        if end == 0 {
            continue;
        }
        let path = format!("/wait?topic={topic}&partition={partition}&offset={}&timeout=170s", end - 1);
        let answer = daemon.admin(&path);
        assert!(matches!(answer, Some((200, _))), "{answer:?}\n{}", daemon.log());
    }
}

fn run(dir: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_readside"));
    output(command.args(arguments).arg("--config").arg(dir.join("readside.yaml")))
}

fn rows_come_change_and_go(encoding: Encoding, more: &str) {
    let Some(broker) = kafka::shared() else { return };
    let Some(server) = redis_server::start(&[]) else { return };
    let dir = tempfile::tempdir().unwrap();
    let topic = kafka::topic_name("redis-rows");
    broker.create_topic(&topic, 1, &[]);
    let value = |rest: &str| format!(r#"{{"tenant":"a:b","id":7,{rest}}}"#);
    let full = value(r#""name":"Ada","email":"ada@x.org","score":1.5,"photo":"AP8=","active":true"#);
    broker.produce(
        &topic,
        [
            Message::new(r#"{"tenant":"a:b","id":7}"#, full),
            Message::new("k", r#"{"tenant":"c","id":8,"name":"Bob"}"#),
        ],
    );
    let mut daemon =
        Daemon::start(dir.path(), &format!("{}{}", header(broker, &server, more), users(&topic)));
    daemon.started();
    let mut reader = server.connect();
    // What a reader does: one look says where the rows are.
    let live: String = cmd("HGET").arg("shop:readside:status").arg("live").query(&mut reader).unwrap();
    let rows = live.as_str();
    assert_eq!(rows, if more.contains("dedicated") { PREFIX } else { ROWS });
    let key = &format!(r"{rows}users:a\:b:7");
    let photo = if encoding == Encoding::Json { "AP8=" } else { "\0\u{fffd}" };
    assert_eq!(
        row(&mut reader, encoding, key),
        fields(&[
            ("tenant", "a:b"),
            ("id", "7"),
            ("name", "Ada"),
            ("email", "ada@x.org"),
            ("score", "1.5"),
            ("photo", photo),
            ("active", if encoding == Encoding::Json { "true" } else { "1" }),
        ])
    );
    assert_eq!(
        indexes(&mut reader, rows, "users"),
        sets(&[
            ("email:ada@x.org", &[r"a\:b:7"]),
            (r"tenant,name:a\:b:Ada", &[r"a\:b:7"]),
            ("tenant,name:c:Bob", &["c:8"]),
        ])
    );

    // A row without what it had before: the fields and the index entries go, too.
    broker.produce(&topic, [Message::new("k", value(r#""name":"Eve","score":null"#))]);
    caught_up(&mut daemon, broker, &topic, 1);
    assert_eq!(row(&mut reader, encoding, key), fields(&[("tenant", "a:b"), ("id", "7"), ("name", "Eve")]));
    assert_eq!(
        indexes(&mut reader, rows, "users"),
        sets(&[(r"tenant,name:a\:b:Eve", &[r"a\:b:7"]), ("tenant,name:c:Bob", &["c:8"])])
    );

    broker.produce(&topic, [Message::tombstone(r#"{"tenant":"a:b","id":7}"#)]);
    caught_up(&mut daemon, broker, &topic, 1);
    assert!(row(&mut reader, encoding, key).is_empty());
    assert_eq!(indexes(&mut reader, rows, "users"), sets(&[("tenant,name:c:Bob", &["c:8"])]));
    // A Redis has no write-ahead log, and unknown is not zero.
    assert!(daemon.metric("readside_wal_size_bytes").unwrap().is_nan());
    eventually("the rows are counted", || {
        (daemon.metric(r#"readside_table_rows{table="users"}"#) == Some(1.0)).then_some(())
    });

    // The same from all sides: the daemon, the replica without it, a check.
    let status = daemon.admin("/status").unwrap();
    assert_eq!(status.0, 200, "{status:?}");
    let status: serde_json::Value = serde_json::from_str(&status.1).unwrap();
    assert_eq!((&status["tables"][0]["rows"], &status["complete"]), (&1.into(), &true.into()), "{status}");
    let checked = run(dir.path(), &["check", "--timeout", "60s"]);
    assert!(checked.status.success(), "{checked:?}");
    let (ended, _) = daemon.terminate();
    assert!(ended.success());
    let offline = run(dir.path(), &["status", "-o", "json"]);
    assert!(offline.status.success(), "{offline:?}");
    let offline: serde_json::Value = serde_json::from_slice(&offline.stdout).unwrap();
    assert_eq!((&offline["daemon"], &offline["tables"][0]["rows"]), (&false.into(), &1.into()), "{offline}");
    assert_eq!(offline["positions"][0]["next_offset"], 4, "{offline}");
    // Everything it wrote is below the prefix.
    assert_eq!(keys(&mut reader, "*"), keys(&mut reader, "shop:*"));
}

#[test]
fn rows_come_change_and_go_as_hashes() {
    rows_come_change_and_go(Encoding::Hash, "");
}

#[test]
fn rows_come_change_and_go_as_json() {
    rows_come_change_and_go(Encoding::Json, ", encoding: json");
}

#[test]
fn rows_come_change_and_go_in_a_dedicated_redis() {
    rows_come_change_and_go(Encoding::Hash, ", dedicated: true");
}

/// `id|name|amount` of a table of [`history`], in the order of the ids.
fn item(id: &str, row: &BTreeMap<String, String>) -> String {
    let cell = |name: &str| row.get(name).map_or("NULL", String::as_str).to_owned();
    format!("{id}|{}|{}", cell("name"), cell("amount"))
}

/// Both tables are exactly what the history leads to, and so are their indexes.
fn assert_equal(server: &RedisServer, history: &History) {
    let mut reader = server.connect();
    let live: String = cmd("HGET").arg("shop:readside:status").arg("live").query(&mut reader).unwrap();
    let expected = history.expected();
    for table in TABLES {
        let before = format!("{live}{table}:");
        let mut found: BTreeMap<u64, String> = BTreeMap::new();
        let mut entries: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for key in keys(&mut reader, &format!("{before}*")) {
            let id = &key[before.len()..];
            let row = row(&mut reader, Encoding::Hash, &key);
            assert_eq!(row["id"], id);
            if let Some(amount) = row.get("amount") {
                let name = row["name"].replace('\\', r"\\").replace(':', r"\:");
                entries.entry(format!("amount:{amount}")).or_default().insert(id.to_owned());
                entries.entry(format!("name,amount:{name}:{amount}")).or_default().insert(id.to_owned());
            }
            found.insert(id.parse().unwrap(), item(id, &row));
        }
        assert_eq!(found.into_values().collect::<Vec<_>>(), expected, "{table}");
        assert!(indexes(&mut reader, &live, table) == entries, "the indexes of {table} are not in step");
    }
}

/// Rows that a reader has to see.
const SEEN_LEAST: u64 = 100;

/// Looks at random rows of both tables in one step until told to stop: a reader that sees them
/// differ has seen half a batch. Returns how often it saw a row, which is [`SEEN_LEAST`] at least: if need
/// be it goes on for that.
fn watch(login: impl Fn() -> Option<Connection>, keys: u64, stop: &AtomicBool) -> u64 {
    let mut random = Random(7);
    let (mut looks, begin) = (0, Instant::now());
    let mut connection = None;
    while !stop.load(Ordering::Relaxed) || (looks < SEEN_LEAST && begin.elapsed() < WAIT_MAX) {
        std::thread::park_timeout(std::time::Duration::from_millis(1));
        // The server comes and goes.
        let Some(reader) = connection.as_mut() else {
            connection = login();
            continue;
        };
        let mut both = redis::pipe();
        both.atomic();
        let ids: Vec<u64> = (0..20).map(|_| random.below(keys)).collect();
        for id in &ids {
            for table in TABLES {
                both.cmd("HMGET").arg(format!("{ROWS}{table}:{id}")).arg(&["name", "amount", "seq"]);
            }
        }
        let Ok(rows) = both.query::<Vec<Vec<Option<String>>>>(reader) else {
            connection = None;
            continue;
        };
        for (id, pair) in ids.iter().zip(rows.chunks(2)) {
            assert_eq!(pair[0], pair[1], "a reader saw half a batch of row {id}");
            looks += u64::from(pair[0][0].is_some());
        }
    }
    looks
}

/// The sum of all stored positions; `None` while there is no replica or no server.
fn stored_records(server: &RedisServer) -> Option<i64> {
    let mut reader = server.try_connect(Default::default()).ok()?;
    let positions: BTreeMap<String, i64> =
        cmd("HGETALL").arg(format!("{PREFIX}readside:positions")).query(&mut reader).ok()?;
    Some(positions.values().sum())
}

/// Runs `test` while a reader looks on; gives how often it saw a row.
fn with_watcher(socket: PathBuf, keys: u64, test: impl FnOnce()) -> u64 {
    let stop = Arc::new(AtomicBool::new(false));
    let watcher = {
        let stop = Arc::clone(&stop);
        std::thread::spawn(move || watch(|| redis_server::connect_to(&socket).ok(), keys, &stop))
    };
    test();
    stop.store(true, Ordering::Relaxed);
    watcher.join().expect("the reader saw nothing wrong")
}

#[test]
fn fifteen_kills_leave_exactly_the_expected_rows() {
    const KEYS: u64 = 2_000;
    let Some(broker) = kafka::shared() else { return };
    let Some(server) = redis_server::start(&[]) else { return };
    let dir = tempfile::tempdir().unwrap();
    let topic = kafka::topic_name("redis-crash");
    broker.create_topic(&topic, PARTITIONS, &[]);
    let yaml = format!("{}{}", header(broker, &server, ""), history::tables(&topic));
    let mut history = History::new(KEYS, 20_261_124);
    broker.produce(&topic, history.take(40_000));
    let looks = with_watcher(server.socket(), KEYS, || {
        for round in 0..15i64 {
            if round == 5 {
                let mut daemon = Daemon::start(dir.path(), &yaml);
                daemon.started();
                daemon.kill();
                continue;
            }
            if round > 5 {
                broker.produce(&topic, history.take(400));
            }
            let more = if round < 5 { 1 + round * 1_500 } else { 1 + (round % 3) * 150 };
            let before = stored_records(&server).unwrap_or(0);
            let daemon = Daemon::start(dir.path(), &yaml);
            eventually("the daemon commits something", || {
                let moved = stored_records(&server)? - before;
                assert!(moved >= 0, "positions went back by {}", -moved);
                (moved >= more).then_some(())
            });
            daemon.kill();
        }
        let mut daemon = Daemon::start(dir.path(), &yaml);
        daemon.started();
        caught_up(&mut daemon, broker, &topic, PARTITIONS);
        assert!(daemon.terminate().0.success());
    });
    assert!(looks >= SEEN_LEAST, "the reader saw {looks} rows only");
    assert_equal(&server, &history);
}

/// A daemon on the history's tables, with what a test of faults needs.
struct Scene<'a> {
    broker: &'a Broker,
    server: RedisServer,
    dir: tempfile::TempDir,
    topic: String,
    yaml: String,
    history: History,
}

impl<'a> Scene<'a> {
    const KEYS: u64 = 500;

    /// `None`: skip the test.
    fn new(about: &str, arguments: &[&str], more: &str) -> Option<Scene<'a>> {
        let broker = kafka::shared()?;
        let server = redis_server::start(arguments)?;
        let topic = kafka::topic_name(about);
        broker.create_topic(&topic, PARTITIONS, &[]);
        let yaml = format!("{}{}", header(broker, &server, more), history::tables(&topic));
        let dir = tempfile::tempdir().unwrap();
        let mut scene =
            Scene { broker, server, dir, topic, yaml, history: History::new(Scene::KEYS, 20_261_125) };
        scene.produce(2_000);
        Some(scene)
    }

    fn produce(&mut self, count: u64) {
        self.broker.produce(&self.topic, self.history.take(count));
    }

    fn start(&self) -> Daemon {
        Daemon::start(self.dir.path(), &self.yaml)
    }

    fn end(&self) -> i64 {
        (0..PARTITIONS).map(|partition| self.broker.end_offset(&self.topic, partition)).sum()
    }

    /// Waits until everything is committed (`true`), or the daemon has stopped as documented.
    fn settles(&self, daemon: &mut Daemon) -> bool {
        let end = self.end();
        eventually("everything is committed or the daemon stops", || {
            if let Some(status) = daemon.ended() {
                assert_eq!(status.code(), Some(78), "{}", daemon.log());
                return Some(false);
            }
            (stored_records(&self.server)? == end).then_some(true)
        })
    }
}

type ServerFault = fn(&mut RedisServer);
type SceneFault<'a> = &'a dyn Fn(&mut Scene);

#[test]
fn what_redis_survives_the_copy_survives() {
    let Some(mut scene) = Scene::new("redis-faults", &["--appendonly", "yes"], "") else { return };
    let mut daemon = scene.start();
    daemon.started();
    let mut random = Random(3);
    let faults: [(&str, ServerFault); 5] = [
        ("kill -9", |server| {
            server.kill();
            server.restart();
        }),
        ("a long command of somebody else", |server| {
            cmd("DEBUG").arg("SLEEP").arg(3).query::<()>(&mut server.connect()).unwrap();
        }),
        ("connections that are cut", |server| {
            let mut admin = server.connect();
            for _ in 0..20 {
                cmd("CLIENT").arg("KILL").arg("TYPE").arg("normal").query::<()>(&mut admin).unwrap();
                std::thread::park_timeout(std::time::Duration::from_millis(5));
            }
        }),
        ("scripts that are forgotten", |server| {
            cmd("SCRIPT").arg("FLUSH").query::<()>(&mut server.connect()).unwrap();
        }),
        ("kill -9 again", |server| {
            server.kill();
            server.restart();
        }),
    ];
    let looks = with_watcher(scene.server.socket(), Scene::KEYS, || {
        for (name, fault) in faults {
            let before = stored_records(&scene.server).unwrap();
            scene.produce(1_500);
            let some = i64::try_from(random.below(600)).unwrap();
            eventually("some are committed", || {
                (stored_records(&scene.server)? >= before + some).then_some(())
            });
            fault(&mut scene.server);
            scene.produce(200);
            assert!(scene.settles(&mut daemon), "stopped at {name}:\n{}", daemon.log());
            assert_equal(&scene.server, &scene.history);
        }
    });
    assert!(looks >= SEEN_LEAST, "the reader saw {looks} rows only");
    assert!(daemon.terminate().0.success());
}

#[test]
fn what_redis_forgets_is_noticed_and_never_mixed() {
    let Some(mut scene) = Scene::new("redis-forgets", &[], "") else { return };
    let mut daemon = scene.start();
    daemon.started();
    let snapshot = |server: &RedisServer| server.dir().join("dump.rdb");
    let faults: [(&str, SceneFault); 4] = [
        ("FLUSHALL", &|scene| {
            cmd("FLUSHALL").query::<()>(&mut scene.server.connect()).unwrap();
        }),
        ("kill -9 without persistence", &|scene| {
            scene.server.kill();
            scene.server.restart();
        }),
        ("SHUTDOWN NOSAVE", &|scene| {
            scene.server.shut_down();
            scene.server.restart();
        }),
        ("an old snapshot", &|scene| {
            cmd("SAVE").query::<()>(&mut scene.server.connect()).unwrap();
            let before = stored_records(&scene.server).unwrap();
            scene.produce(300);
            eventually("news are committed", || (stored_records(&scene.server)? > before).then_some(()));
            scene.server.kill();
            scene.server.restart();
            std::fs::remove_file(snapshot(&scene.server)).unwrap();
        }),
    ];
    let mut random = Random(5);
    let mut losses = 0.0;
    let looks = with_watcher(scene.server.socket(), Scene::KEYS, || {
        for (name, fault) in faults {
            // Under load at a random moment, and when nothing is being written.
            for load in [1_500, 1_500, 0] {
                let before = stored_records(&scene.server).unwrap();
                scene.produce(load);
                let some = i64::try_from(random.below(load.max(2) / 2)).unwrap();
                eventually("some are committed", || {
                    (stored_records(&scene.server)? >= before + some).then_some(())
                });
                fault(&mut scene);
                if load > 0 {
                    scene.produce(200);
                }
                losses += 1.0;
                eventually("the loss is noticed", || {
                    assert!(daemon.ended().is_none(), "stopped at {name}:\n{}", daemon.log());
                    (daemon.metric("readside_replica_losses_total")? == losses).then_some(())
                });
                assert!(scene.settles(&mut daemon), "stopped at {name}:\n{}", daemon.log());
                eventually("it is ready again", || (daemon.get("/readyz")?.0 == 200).then_some(()));
                assert_equal(&scene.server, &scene.history);
            }
        }
    });
    assert_eq!(daemon.log().matches("the replica lost data").count(), losses as usize);
    assert!(looks >= SEEN_LEAST, "the reader saw {looks} rows only");
    assert!(daemon.terminate().0.success());
}

#[test]
fn a_loss_is_left_to_a_person_where_a_gap_is() {
    let more = "defaults: { on_gap: stop }\n";
    let Some(mut scene) = Scene::new("redis-loss-stops", &[], "") else { return };
    scene.yaml.push_str(more);
    let mut daemon = scene.start();
    daemon.started();
    scene.produce(500);
    cmd("FLUSHALL").query::<()>(&mut scene.server.connect()).unwrap();
    assert_eq!(daemon.wait().code(), Some(78), "{}", daemon.log());
    assert!(daemon.log().contains("on_gap: stop"), "{}", daemon.log());
    assert!(keys(&mut scene.server.connect(), "*").is_empty(), "never a mixture");
}

#[test]
fn without_memory_batches_are_retried_and_seen() {
    let Some(mut scene) = Scene::new("redis-memory", &["--maxmemory-policy", "noeviction"], "") else {
        return;
    };
    let mut daemon = scene.start();
    daemon.started();
    let mut admin = scene.server.connect();
    let mut limit = |bytes: u64| {
        cmd("CONFIG").arg("SET").arg("maxmemory").arg(bytes).query::<()>(&mut admin).unwrap();
    };
    limit(1);
    let before = stored_records(&scene.server).unwrap();
    scene.produce(500);
    eventually("the retries are counted", || {
        (daemon.metric("readside_store_connected")? == 0.0
            && daemon.metric_sum("readside_store_retries_total")? > 0.0)
            .then_some(())
    });
    assert_eq!(stored_records(&scene.server), Some(before));
    assert_eq!(daemon.get("/livez").unwrap().0, 200);
    limit(0);
    assert!(scene.settles(&mut daemon));
    assert_equal(&scene.server, &scene.history);
    assert!(daemon.terminate().0.success());
}

#[test]
fn of_two_daemons_the_stale_one_stops() {
    let Some(mut scene) = Scene::new("redis-two", &[], "") else { return };
    // A lease of ten seconds, which is renewed every three: seven before it is lost.
    scene.yaml = scene.yaml.replace(FRESHNESS, "freshness: { interval: 3s }\n");
    let mut first = scene.start();
    first.started();
    scene.produce(300);
    let other = tempfile::tempdir().unwrap();
    let mut second = Daemon::start(other.path(), &scene.yaml);
    assert_eq!(second.wait().code(), Some(78), "{}", second.log());
    assert!(second.log().contains("another readside writes this replica"), "{}", second.log());

    first.signal(libc::SIGSTOP);
    let mut reader = scene.server.connect();
    eventually("the lease runs out", || {
        let held: bool = cmd("EXISTS").arg("shop:readside:lease").query(&mut reader).unwrap();
        (!held).then_some(())
    });
    let mut second = Daemon::start(other.path(), &scene.yaml);
    second.started();
    assert!(scene.settles(&mut second));
    // Nothing is being written, and still it notices.
    first.signal(libc::SIGCONT);
    assert_eq!(first.wait().code(), Some(78), "{}", first.log());
    scene.produce(300);
    assert!(scene.settles(&mut second), "{}", second.log());
    assert_equal(&scene.server, &scene.history);
    assert!(second.terminate().0.success());
}

#[test]
fn a_redis_that_may_evict_rows_is_refused() {
    let arguments = ["--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"];
    let Some(scene) = Scene::new("redis-evicts", &arguments, "") else { return };
    let mut daemon = scene.start();
    assert_eq!(daemon.wait().code(), Some(78), "{}", daemon.log());
    assert!(daemon.log().contains("maxmemory-policy"), "{}", daemon.log());
    let checked = run(scene.dir.path(), &["check", "--timeout", "60s"]);
    assert_eq!(checked.status.code(), Some(78), "{checked:?}");
    assert!(String::from_utf8_lossy(&checked.stdout).contains("maxmemory-policy"), "{checked:?}");
    assert!(keys(&mut scene.server.connect(), "*").is_empty());
}

#[test]
fn a_server_that_is_not_there_is_waited_for_and_named_by_check() {
    let Some(mut scene) = Scene::new("redis-later", &["--appendonly", "yes"], "") else { return };
    scene.server.kill();
    let mut daemon = scene.start();
    eventually("it says that it waits", || {
        daemon.log().contains("the replica cannot be opened; trying again").then_some(())
    });
    let checked = run(scene.dir.path(), &["check", "--timeout", "2s"]);
    assert_eq!(checked.status.code(), Some(69), "{checked:?}");
    scene.server.restart();
    daemon.started();
    assert!(scene.settles(&mut daemon));
    assert_equal(&scene.server, &scene.history);
    // Somebody who asks without daemon and server is told.
    assert!(daemon.terminate().0.success());
    scene.server.kill();
    assert_eq!(run(scene.dir.path(), &["status"]).status.code(), Some(69));
}

/// The shipped users, with passwords of the test.
fn users_acl() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/redis/users.acl");
    let text = std::fs::read_to_string(path).unwrap();
    assert!(text.contains(">writer-password") && text.contains(">reader-password"));
    text
}

#[test]
fn the_shipped_users_are_enough_and_no_more() {
    for (name, more) in [("redis-acl", ""), ("redis-acl-dedicated", ", dedicated: true")] {
        let acl = tempfile::tempdir().unwrap();
        let (file, password) = (acl.path().join("users.acl"), acl.path().join("password"));
        std::fs::write(&file, users_acl()).unwrap();
        std::fs::write(&password, "writer-password\n").unwrap();
        let more = format!("{more}, username: readside, password_file: {}", password.display());
        let arguments = ["--aclfile", file.to_str().unwrap()];
        let Some(mut scene) = Scene::new(name, &arguments, &more) else { return };
        let mut daemon = scene.start();
        daemon.started();
        scene.produce(200);
        assert!(scene.settles(&mut daemon), "{}", daemon.log());
        assert!(run(scene.dir.path(), &["check", "--timeout", "60s"]).status.success());
        // Also for a second generation, and to remove the first.
        assert_eq!(daemon.post("/rebuild").unwrap().0, 202);
        eventually("it has switched", || (daemon.metric("readside_generation") == Some(2.0)).then_some(()));
        eventually("the first is gone", || {
            let mut admin = scene.server.connect();
            let dropped: String =
                cmd("HGET").arg("shop:readside:meta").arg("dropped").query(&mut admin).unwrap();
            cmd("SELECT").arg(1).query::<()>(&mut admin).unwrap();
            let beside: u64 = cmd("DBSIZE").query(&mut admin).unwrap();
            (dropped.is_empty() && beside == 0 && keys(&mut scene.server.connect(), "shop:1:*").is_empty())
                .then_some(())
        });

        let mut reader = scene.server.connect_as("reader", "reader-password");
        let key = keys(&mut scene.server.connect(), "shop:*items:*").pop_first().unwrap();
        let mut both = redis::pipe();
        both.atomic().cmd("HGETALL").arg(&key).cmd("HGETALL").arg("shop:readside:status");
        let (row, status): (BTreeMap<String, Vec<u8>>, BTreeMap<String, Vec<u8>>) =
            both.query(&mut reader).unwrap();
        assert!(row.contains_key("name") && !status.is_empty(), "{row:?} {status:?}");
        let refused: [&[&str]; 7] = [
            &["HSET", &key, "name", "x"],
            &["DEL", &key],
            &["FLUSHALL"],
            &["GET", "other:key"],
            &["EVAL", "return 1", "0"],
            &["SCAN", "0"],
            &["CONFIG", "GET", "*"],
        ];
        for words in refused {
            let mut command = cmd(words[0]);
            words[1..].iter().for_each(|word| {
                command.arg(*word);
            });
            let error = command.query::<redis::Value>(&mut reader).unwrap_err();
            assert_eq!(error.code(), Some("NOPERM"), "{words:?}: {error}");
        }

        // A new password is read from its file when the connection is made again.
        std::fs::write(&password, "another-password\n").unwrap();
        let mut admin = scene.server.connect();
        cmd("ACL")
            .arg(&["SETUSER", "readside", "resetpass", ">another-password"])
            .query::<()>(&mut admin)
            .unwrap();
        cmd("CLIENT").arg(&["KILL", "USER", "readside"]).query::<i64>(&mut admin).unwrap();
        scene.produce(200);
        assert!(scene.settles(&mut daemon), "{}", daemon.log());
        assert!(!daemon.log().contains("-password"), "{}", daemon.log());
        assert!(daemon.terminate().0.success());
        assert_equal(&scene.server, &scene.history);
    }
}

#[test]
fn the_demo_keeps_its_replica_in_a_redis_of_its_own() {
    if redis_server::start(&[]).is_none() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().join("demo");
    let (said, complained) = (dir.path().join("stdout"), dir.path().join("stderr"));
    let read = |path: &Path| std::fs::read_to_string(path).unwrap();
    let demo = |path: Option<&str>| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_readside"));
        command.args(["demo", "--redis", "--dir"]).arg(&home).stdin(Stdio::null());
        command.stdout(std::fs::File::create(&said).unwrap());
        command.stderr(std::fs::File::create(&complained).unwrap());
        // As a shell starts it: Ctrl-C goes to the whole group.
        command.process_group(0);
        if let Some(path) = path {
            command.env("PATH", path);
        }
        children::spawn(&mut command).unwrap()
    };
    let mut running = demo(None);
    // The copy that serves in the end is another one than in the beginning.
    eventually("it was built anew", || {
        let ended = running.try_wait().unwrap();
        assert!(ended.is_none(), "{ended:?} {} {}", read(&said), read(&complained));
        let mut command = Command::new(env!("CARGO_BIN_EXE_readside"));
        command.args(["rebuild", "--wait", "--config"]).arg(home.join("readside.yaml"));
        output(&mut command).status.success().then_some(())
    });
    // SAFETY: a signal to the group of a child that nobody has reaped.
    unsafe { libc::kill(-(running.id() as i32), libc::SIGINT) };
    let ended = eventually("it has ended", || running.try_wait().unwrap());
    assert_eq!(ended.code(), Some(0), "{} {}", read(&said), read(&complained));
    assert_eq!(read(&said).matches("every row equal").count(), 3, "{}", read(&said));
    assert!(!home.join("replica.db").exists() && !home.join("redis.sock").exists());
    // Where none is installed it says how to get one.
    let mut refused = demo(Some("/nowhere"));
    let ended = eventually("it was refused", || refused.try_wait().unwrap());
    assert_eq!(ended.code(), Some(69), "{} {}", read(&said), read(&complained));
    assert!(read(&complained).contains("apt-get install redis-server"), "{}", read(&complained));
}
