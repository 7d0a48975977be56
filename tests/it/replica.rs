//! Kafka to SQLite, end to end: what a service sees.

use std::time::Duration;

use crate::daemon::{Daemon, header, reader, replica, rows, try_rows};
use crate::kafka::{self, Message, Transaction, eventually};

fn users(topic: &str) -> String {
    format!(
        "tables:\n  users:\n    topic: {topic}\n    key: id\n    columns: {{ id: integer, name: text, email: 'text?' }}\n    indexes: [[email]]\n"
    )
}

fn user(id: u32, name: &str) -> Message {
    Message::new(id.to_string(), format!(r#"{{"id":{id},"name":"{name}","unmapped":[1,2,{{"x":null}}]}}"#))
}

const FRESH: &str = "SELECT fresh_as_of_ms FROM _readside_status WHERE table_name = 'users'";
const STATE: &str = "SELECT state FROM _readside_status WHERE table_name = 'users'";

fn now_ms() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    since.as_millis() as i64
}

#[test]
fn rows_arrive_change_and_go() {
    let Some(broker) = kafka::shared() else { return };
    let dir = tempfile::tempdir().unwrap();
    let topic = kafka::topic_name("rows");
    broker.create_topic(&topic, 3, &[("cleanup.policy", "compact")]);
    broker.produce(&topic, (1..=100).map(|id| user(id, "first")));
    let mut daemon = Daemon::start(dir.path(), &(header(&broker.bootstrap(), dir.path()) + &users(&topic)));
    daemon.started();
    let connection = reader(dir.path());
    assert_eq!(rows(&connection, "SELECT count(*), min(name), max(name) FROM users"), ["100|first|first"]);
    broker.produce(&topic, [user(7, "second"), Message::tombstone("8")]);
    eventually("the change is visible", || {
        (rows(&connection, "SELECT * FROM users WHERE id IN (7, 8)") == ["7|second|NULL"]).then_some(())
    });
    // A lookup goes through the view to the key and to the declared index.
    let plan = rows(&connection, "EXPLAIN QUERY PLAN SELECT name FROM users WHERE id = 7").join("\n");
    assert!(plan.contains("INTEGER PRIMARY KEY"), "{plan}");
    let plan = rows(&connection, "EXPLAIN QUERY PLAN SELECT name FROM users WHERE email = 'x'").join("\n");
    assert!(plan.contains("USING INDEX"), "{plan}");
    let (status, took) = daemon.terminate();
    assert!(status.success(), "{status}");
    assert!(took < Duration::from_secs(60), "shutdown took {took:?}");
}

#[test]
fn a_reader_cannot_write_and_cannot_stop_the_writer() {
    let Some(broker) = kafka::shared() else { return };
    let dir = tempfile::tempdir().unwrap();
    let topic = kafka::topic_name("reader");
    broker.create_topic(&topic, 1, &[]);
    broker.produce(&topic, [user(1, "first")]);
    let mut daemon = Daemon::start(dir.path(), &(header(&broker.bootstrap(), dir.path()) + &users(&topic)));
    daemon.started();
    let long = reader(dir.path());
    assert!(long.execute("DELETE FROM _readside_g1_users", []).is_err());
    assert!(long.execute("INSERT INTO users VALUES (9, 'x', NULL)", []).is_err());
    long.execute_batch("BEGIN").unwrap();
    assert_eq!(rows(&long, "SELECT name FROM users"), ["first"]);
    broker.produce(&topic, [user(1, "second")]);
    eventually("the writer goes on", || {
        (rows(&reader(dir.path()), "SELECT name FROM users") == ["second"]).then_some(())
    });
    // One read transaction is one moment.
    assert_eq!(rows(&long, "SELECT name FROM users"), ["first"]);
    long.execute_batch("COMMIT").unwrap();
    assert_eq!(rows(&long, "SELECT name FROM users"), ["second"]);
    // Readers go on while the daemon is down, also after a kill.
    daemon.kill();
    assert_eq!(rows(&reader(dir.path()), "SELECT name FROM users"), ["second"]);
    eventually("its death shows", || (rows(&reader(dir.path()), STATE) == ["disconnected"]).then_some(()));
}

#[test]
fn a_clean_stop_leaves_a_copy_that_read_only_readers_can_open() {
    let Some(broker) = kafka::shared() else { return };
    let dir = tempfile::tempdir().unwrap();
    let topic = kafka::topic_name("stop");
    broker.create_topic(&topic, 1, &[]);
    broker.produce(&topic, [user(1, "only")]);
    let mut daemon = Daemon::start(dir.path(), &(header(&broker.bootstrap(), dir.path()) + &users(&topic)));
    daemon.started();
    assert!(daemon.terminate().0.success());
    let wal = replica(dir.path()).with_extension("db-wal");
    assert!(wal.exists(), "the WAL persists, or a reader with a read-only mount could not open the file");
    assert_eq!(rows(&reader(dir.path()), "SELECT name FROM users"), ["only"]);
}

#[test]
fn the_first_copy_is_not_served_before_it_is_whole() {
    let Some(broker) = kafka::private("half-built copy") else { return };
    let dir = tempfile::tempdir().unwrap();
    let topic = kafka::topic_name("whole");
    broker.create_topic(&topic, 2, &[]);
    broker.produce(&topic, (1..=10).map(|id| user(id, "x")));
    let other = kafka::topic_name("missing");
    let tables = users(&topic)
        + &format!(
            "  others:\n    topic: {other}\n    key: id\n    columns: {{ id: integer, name: text }}\n"
        );
    let mut daemon = Daemon::start(dir.path(), &(header(&broker.bootstrap(), dir.path()) + &tables));
    eventually("the first topic is read", || {
        let found =
            try_rows(&reader_if_there(dir.path())?, "SELECT sum(next_offset) FROM _readside_positions");
        (found.ok()?.first()? == "10").then_some(())
    });
    // One topic is missing: the copy is not whole, nobody may start on it.
    let (code, body) = daemon.get("/startupz").unwrap();
    assert_eq!(code, 503, "{body}");
    assert!(try_rows(&reader(dir.path()), "SELECT * FROM users").is_err(), "half a copy was served");
    assert_eq!(rows(&reader(dir.path()), STATE), ["building"]);
    assert_eq!(daemon.get("/livez").unwrap().0, 200);
    assert!(daemon.log().contains(&other), "the missing topic is named in the log");
    broker.create_topic(&other, 1, &[]);
    daemon.started();
    assert_eq!(rows(&reader(dir.path()), "SELECT count(*) FROM users"), ["10"]);
}

fn reader_if_there(dir: &std::path::Path) -> Option<rusqlite::Connection> {
    replica(dir).exists().then(|| reader(dir))
}

#[test]
fn freshness_advances_when_idle_and_stands_still_when_the_broker_is_silent() {
    let Some(broker) = kafka::private("freshness") else { return };
    let dir = tempfile::tempdir().unwrap();
    let topic = kafka::topic_name("idle");
    broker.create_topic(&topic, 2, &[]);
    broker.produce(&topic, [user(1, "x")]);
    let yaml = header(&broker.bootstrap(), dir.path())
        + "freshness: { interval: 200ms }\ndefaults: { max_staleness: 4s }\n"
        + &users(&topic);
    let mut daemon = Daemon::start(dir.path(), &yaml);
    daemon.started();
    let connection = reader(dir.path());
    let fresh = || rows(&connection, FRESH)[0].parse::<i64>().ok();
    let first = eventually("fresh", fresh);
    let second = eventually("fresher, although nothing happens", || fresh().filter(|now| *now > first));
    assert!(second <= now_ms());
    eventually("live", || (rows(&connection, STATE) == ["live"]).then_some(()));
    let lag = format!("readside_replication_lag_seconds{{topic=\"{topic}\"}}");
    eventually("little lag", || daemon.metric(&lag).filter(|lag| (0.0..5.0).contains(lag)));

    broker.freeze();
    let frozen_ms = now_ms();
    // Longer than every request in flight may take: from then on nothing can be proven.
    eventually("the silence shows", || {
        matches!(rows(&connection, STATE)[0].as_str(), "stale" | "disconnected").then_some(())
    });
    let until = now_ms() + 2_000;
    while now_ms() < until {
        assert!(fresh().is_some_and(|fresh| fresh <= frozen_ms), "a proof without a broker");
        std::thread::park_timeout(Duration::from_millis(50));
    }
    assert_eq!(daemon.get("/livez").unwrap().0, 200);
    assert_eq!(daemon.get("/startupz").unwrap().0, 200, "latched");
    broker.thaw();
    eventually("fresh again", || fresh().filter(|now| *now > frozen_ms));
    eventually("live again", || (rows(&connection, STATE) == ["live"]).then_some(()));
}

#[test]
fn an_open_transaction_holds_freshness_back_but_not_the_start() {
    let Some(broker) = kafka::shared() else { return };
    let dir = tempfile::tempdir().unwrap();
    let topic = kafka::topic_name("transaction");
    broker.create_topic(&topic, 1, &[]);
    broker.produce(&topic, [user(1, "before")]);
    let open = Transaction::begin(broker, &kafka::topic_name("open"));
    open.produce(&topic, [user(2, "inside")]);
    // Committed behind the open transaction: it exists, and cannot be read yet.
    broker.produce(&topic, [user(3, "behind")]);
    let committed_ms = now_ms();
    let yaml = header(&broker.bootstrap(), dir.path()) + "freshness: { interval: 200ms }\n" + &users(&topic);
    let mut daemon = Daemon::start(dir.path(), &yaml);
    daemon.started();
    let connection = reader(dir.path());
    assert_eq!(rows(&connection, "SELECT id FROM users"), ["1"]);
    let until = now_ms() + 1_500;
    while now_ms() < until {
        let fresh = rows(&connection, FRESH)[0].parse::<i64>().ok();
        assert!(fresh.is_none_or(|at| at < committed_ms), "claims to hold what cannot be read yet");
        let state = rows(&connection, STATE);
        assert_ne!(state, ["live"]);
        std::thread::park_timeout(Duration::from_millis(50));
    }
    open.abort();
    eventually("fresh after the abort, although its marker is the last record", || {
        rows(&connection, FRESH)[0].parse::<i64>().ok().filter(|at| *at > committed_ms)
    });
    assert_eq!(rows(&connection, "SELECT id FROM users ORDER BY 1"), ["1", "3"]);
    assert_eq!(daemon.metric("readside_caught_up"), Some(1.0));
}

#[test]
fn added_partitions_are_read_and_part_of_the_proof() {
    let Some(broker) = kafka::shared() else { return };
    let dir = tempfile::tempdir().unwrap();
    let topic = kafka::topic_name("grow");
    broker.create_topic(&topic, 1, &[]);
    broker.produce(&topic, [user(1, "old").to(0).at(1_000)]);
    let yaml = header(&broker.bootstrap(), dir.path()) + "freshness: { interval: 200ms }\n" + &users(&topic);
    let mut daemon = Daemon::start(dir.path(), &yaml);
    daemon.started();
    broker.add_partitions(&topic, 3);
    broker.produce(&topic, [user(1, "moved").to(2).at(2_000), user(2, "new").to(1).at(2_000)]);
    let acknowledged_ms = now_ms();
    let connection = reader(dir.path());
    eventually("fresh as of after the growth", || {
        rows(&connection, FRESH)[0].parse::<i64>().ok().filter(|at| *at > acknowledged_ms)
    });
    assert_eq!(rows(&connection, "SELECT id, name FROM users ORDER BY 1"), ["1|moved", "2|new"]);
    drop(daemon);
}

#[test]
fn nothing_joins_a_consumer_group() {
    let Some(broker) = kafka::shared() else { return };
    let dir = tempfile::tempdir().unwrap();
    let topic = kafka::topic_name("groups");
    broker.create_topic(&topic, 2, &[]);
    broker.produce(&topic, [user(1, "x")]);
    let mut daemon = Daemon::start(dir.path(), &(header(&broker.bootstrap(), dir.path()) + &users(&topic)));
    daemon.started();
    assert_eq!(broker.groups(), Vec::<String>::new());
}

#[test]
fn a_lost_replica_is_built_again_from_the_log() {
    let Some(broker) = kafka::shared() else { return };
    let dir = tempfile::tempdir().unwrap();
    let topic = kafka::topic_name("lost");
    broker.create_topic(&topic, 2, &[]);
    broker.produce(&topic, (1..=50).map(|id| user(id, "x")));
    let yaml = header(&broker.bootstrap(), dir.path()) + &users(&topic);
    let mut daemon = Daemon::start(dir.path(), &yaml);
    daemon.started();
    daemon.kill();
    std::fs::remove_dir_all(replica(dir.path()).parent().unwrap()).unwrap();
    let mut daemon = Daemon::start(dir.path(), &yaml);
    daemon.started();
    assert_eq!(rows(&reader(dir.path()), "SELECT count(*) FROM users"), ["50"]);
}

#[test]
fn a_complete_copy_starts_without_a_broker_if_it_is_young_enough() {
    let Some(broker) = kafka::private("start without a broker") else { return };
    let dir = tempfile::tempdir().unwrap();
    let topic = kafka::topic_name("alone");
    broker.create_topic(&topic, 1, &[]);
    broker.produce(&topic, [user(1, "x")]);
    let yaml = header(&broker.bootstrap(), dir.path()) + &users(&topic);
    let mut daemon = Daemon::start(dir.path(), &yaml);
    daemon.started();
    eventually("freshness is stored", || rows(&reader(dir.path()), FRESH)[0].parse::<i64>().ok());
    assert!(daemon.terminate().0.success());
    broker.kill();
    let mut daemon = Daemon::start(dir.path(), &yaml);
    daemon.started();
    assert_eq!(rows(&reader(dir.path()), "SELECT name FROM users"), ["x"]);
    eventually("it says that nobody answers", || {
        (rows(&reader(dir.path()), STATE) == ["disconnected"]).then_some(())
    });
    daemon.kill();
    // Too old: it waits for the broker.
    let mut daemon = Daemon::start(dir.path(), &(yaml + "startup: { max_age: 1ms }\n"));
    eventually("it answers", || daemon.get("/livez").filter(|(code, _)| *code == 200));
    assert_eq!(daemon.get("/startupz").unwrap().0, 503);
}

#[test]
fn a_service_reads_its_own_writes() {
    let Some(broker) = kafka::shared() else { return };
    let dir = tempfile::tempdir().unwrap();
    let topic = kafka::topic_name("wait");
    broker.create_topic(&topic, 1, &[]);
    let yaml = format!(
        "{}topics:\n  {topic}: {{ format: json, version: .seq }}\n{}",
        header(&broker.bootstrap(), dir.path()),
        users(&topic)
    );
    let mut daemon = Daemon::start(dir.path(), &yaml);
    daemon.started();
    let value = |seq: u32| format!(r#"{{"id":1,"name":"n{seq}","seq":{seq}}}"#);
    let written = broker.produce(&topic, [Message::new("1", value(5))])[0];
    let (code, body) = daemon
        .admin(&format!("/wait?topic={topic}&partition={}&offset={}&timeout=170s", written.0, written.1))
        .unwrap();
    assert_eq!(code, 200, "{body}");
    assert_eq!(rows(&reader(dir.path()), "SELECT name FROM users"), ["n5"]);
    let (code, body) = daemon.admin("/wait?table=users&key=%5B1%5D&version=5&timeout=170s").unwrap();
    assert_eq!(code, 200, "{body}");
    let (code, _) = daemon.admin("/wait?table=users&key=%5B1%5D&version=6&timeout=100ms").unwrap();
    assert_eq!(code, 504);
    broker.produce(&topic, [Message::new("1", value(7))]);
    let (code, body) = daemon.admin("/wait?table=users&key=%5B1%5D&version=6&timeout=170s").unwrap();
    assert_eq!(code, 200, "{body}");
}
