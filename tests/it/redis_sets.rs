//! What takes or moves many rows at once, into Redis, end to end: lists in events, whole snapshots, keys
//! that change, truncates.

use std::collections::BTreeSet;

use redis::{Connection, cmd};

use crate::daemon::Daemon;
use crate::databases::change;
use crate::kafka::{self, Broker, Message, eventually};
use crate::redis_server::{self, RedisServer, indexes, keys};

/// Before the names of tables, in a Redis that is not dedicated.
const ROWS: &str = "sets:1:";

fn header(broker: &Broker, server: &RedisServer, encoding: &str) -> String {
    format!(
        "kafka: {{ brokers: '{}' }}\nreplica: {{ redis: {{ url: '{}', prefix: 'sets:', encoding: {encoding} }} }}\n",
        broker.bootstrap(),
        server.url()
    )
}

/// Names of a table's rows, behind the table's.
fn ids(connection: &mut Connection, table: &str) -> BTreeSet<String> {
    let before = format!("{ROWS}{table}:");
    keys(connection, &format!("{before}*")).into_iter().map(|key| key[before.len()..].to_owned()).collect()
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn field(connection: &mut Connection, encoding: &str, key: &str, name: &str) -> Option<String> {
    let key = format!("{ROWS}{key}");
    if encoding == "hash" {
        return cmd("HGET").arg(key).arg(name).query(connection).unwrap();
    }
    let text: Option<String> = cmd("GET").arg(key).query(connection).unwrap();
    let row: serde_json::Value = serde_json::from_str(&text?).unwrap();
    Some(row[name].as_str()?.to_owned())
}

fn lists_are_replaced(encoding: &str) {
    let Some(broker) = kafka::shared() else { return };
    let Some(server) = redis_server::start(&[]) else { return };
    let (dir, topic) = (tempfile::tempdir().unwrap(), kafka::topic_name("lists"));
    broker.create_topic(&topic, 2, &[]);
    let yaml = format!(
        "{}topics: {{ {topic}: {{ format: json, event_type: .type, version: .n }} }}\n\
         tables:\n  lines:\n    topic: {topic}\n    key: [order_id, line]\n    columns: {{ order_id: integer, line: integer, sku: text }}\n    \
         indexes: [[sku]]\n    events:\n      Placed: {{ replace: {{ order_id: .order }}, each: .lines, row: {{ line: .no }} }}\n      \
         Cancelled: {{ delete: {{ order_id: .order }} }}\n",
        header(broker, &server, encoding)
    );
    let placed = |order: u32, n: u32, lines: &[(u32, &str)]| {
        let lines: Vec<String> =
            lines.iter().map(|(no, sku)| format!(r#"{{"no":{no},"sku":"{sku}"}}"#)).collect();
        let lines = lines.join(",");
        Message::without_key(format!(r#"{{"type":"Placed","n":{n},"order":{order},"lines":[{lines}]}}"#))
    };
    let cancelled = |order: u32, n: u32| {
        Message::without_key(format!(r#"{{"type":"Cancelled","n":{n},"order":{order}}}"#))
    };
    broker.produce(
        &topic,
        [
            placed(1, 1, &[(1, "a"), (2, "b")]).to(0),
            placed(1, 2, &[(2, "c")]).to(1),
            placed(2, 2, &[(1, "x")]).to(0),
            // What the other partition has replaced already.
            placed(2, 1, &[(1, "w"), (7, "w")]).to(1),
            cancelled(3, 2).to(0),
            placed(3, 1, &[(1, "gone")]).to(1),
        ],
    );
    let mut daemon = Daemon::start(dir.path(), &yaml);
    daemon.started();
    let mut connection = server.connect();
    assert_eq!(ids(&mut connection, "lines"), set(&["1:2", "2:1"]));
    // A killed daemon goes on with what the prefixes have taken.
    daemon.kill();
    let many: Vec<(u32, String)> = (0..900).map(|no| (no, format!("m{}", no % 3))).collect();
    let many: Vec<(u32, &str)> = many.iter().map(|(no, sku)| (*no, sku.as_str())).collect();
    broker.produce(
        &topic,
        [placed(1, 1, &[(9, "late")]).to(0), placed(4, 1, &many).to(0), placed(5, 1, &[(1, "y")]).to(1)],
    );
    let mut daemon = Daemon::start(dir.path(), &yaml);
    wait(&mut daemon, broker, &topic, 2);
    assert_eq!(ids(&mut connection, "lines").len(), 903);
    assert_eq!(field(&mut connection, encoding, "lines:4:899", "sku").as_deref(), Some("m2"));
    broker.produce(&topic, [placed(4, 2, &[(5, "z")]).to(1), cancelled(5, 2).to(0)]);
    wait(&mut daemon, broker, &topic, 2);
    assert_eq!(ids(&mut connection, "lines"), set(&["1:2", "2:1", "4:5"]));
    let found = indexes(&mut connection, ROWS, "lines");
    let names: Vec<&str> = found.keys().map(String::as_str).collect();
    assert_eq!(names, ["sku:c", "sku:x", "sku:z"], "no entry of a row that went");
}

/// Waits until the daemon has committed everything that is in the topic.
fn wait(daemon: &mut Daemon, broker: &Broker, topic: &str, partitions: i32) {
    for partition in 0..partitions {
        let last = broker.end_offset(topic, partition) - 1;
        let path = format!("/wait?topic={topic}&partition={partition}&offset={last}&timeout=170s");
        let answer = eventually("an answer", || daemon.admin(&path).filter(|(status, _)| *status != 503));
        assert_eq!(answer.0, 200, "{answer:?}\n{}", daemon.log());
    }
}

#[test]
fn lists_are_replaced_in_hashes() {
    lists_are_replaced("hash");
}

#[test]
fn lists_are_replaced_in_json() {
    lists_are_replaced("json");
}

#[test]
fn snapshots_changed_keys_and_truncates_arrive_as_in_sqlite() {
    let Some(broker) = kafka::shared() else { return };
    let Some(server) = redis_server::start(&[]) else { return };
    let (dir, topic) = (tempfile::tempdir().unwrap(), kafka::topic_name("sets"));
    broker.create_topic(&topic, 2, &[]);
    let yaml = format!(
        "{}topics: {{ {topic}: {{ format: debezium-json }} }}\ntables:\n  items: {{ topic: {topic}, key: id, columns: {{ id: integer, body: text }} }}\n",
        header(broker, &server, "hash")
    );
    let key = |id: u32| format!(r#"{{"id":{id}}}"#);
    let row = |id: u32, body: &str| format!(r#"{{"id":{id},"body":"{body}"}}"#);
    let read = |id: u32, mark: &str, lsn: u32| {
        let event = change("r", mark, &format!("null,\"{lsn}\""), &row(id, "body"));
        Message::new(key(id), event).to((id % 2) as i32)
    };
    broker.produce(&topic, [read(1, "first", 100), read(2, "true", 100), read(3, "true", 100)]);
    let mut daemon = Daemon::start(dir.path(), &yaml);
    daemon.started();
    let mut connection = server.connect();
    assert_eq!(ids(&mut connection, "items"), set(&["1", "2", "3"]));
    broker.produce(&topic, [read(1, "first", 200), read(4, "last", 200)]);
    eventually("ghosts go", || (ids(&mut connection, "items") == set(&["1", "4"])).then_some(()));
    // 4 becomes 5, which is read first, and its large value is left out.
    let sequence = r#""250","300""#;
    let here = change("c", "false", sequence, &row(5, "__debezium_unavailable_value"));
    let gone = change("d", "false", sequence, "null");
    broker.produce(&topic, [Message::new(key(5), here).header("__debezium.oldkey", key(4).as_bytes()).to(1)]);
    broker.produce(&topic, [Message::new(key(4), gone).header("__debezium.newkey", key(5).as_bytes()).to(0)]);
    wait(&mut daemon, broker, &topic, 2);
    assert_eq!(ids(&mut connection, "items"), set(&["1", "5"]));
    assert_eq!(field(&mut connection, "hash", "items:5", "body").as_deref(), Some("body"));
    let truncate = change("t", "false", r#""300","400""#, "null");
    let refill = change("c", "false", r#""300","410""#, &row(6, "new"));
    broker.produce(&topic, [Message::new(key(6), refill).to(0)]);
    broker.produce(&topic, [Message::without_key(truncate).to(1)]);
    wait(&mut daemon, broker, &topic, 2);
    assert_eq!(ids(&mut connection, "items"), set(&["6"]));
}
