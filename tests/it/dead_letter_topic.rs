//! `dead_letters.topic`: what could not be applied is produced to a topic as well, at least once, and
//! nothing waits for it.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Headers as _, Message as _};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

use crate::daemon::{Daemon, header, output, reader, rows, said};
use crate::kafka::{self, Broker, Message, eventually};
use crate::redis_server;

/// A record of the topic.
#[derive(Debug, Clone)]
struct Found {
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    headers: BTreeMap<String, String>,
}

impl Found {
    fn offset(&self) -> i64 {
        self.headers["readside.offset"].parse().unwrap()
    }
}

/// What is in partition 0, by the offset of the record that could not be applied, once these are there.
/// Each may be there more than once.
fn produced(broker: &Broker, topic: &str, wanted: impl IntoIterator<Item = i64>) -> BTreeMap<i64, Found> {
    let wanted: BTreeSet<i64> = wanted.into_iter().collect();
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", broker.bootstrap())
        .set("group.id", "nobody")
        .set("enable.auto.commit", "false")
        .create()
        .unwrap();
    let mut at = TopicPartitionList::new();
    at.add_partition_offset(topic, 0, Offset::Beginning).unwrap();
    consumer.assign(&at).unwrap();
    let mut found = BTreeMap::new();
    eventually("the topic has every dead letter", || {
        let message = consumer.poll(std::time::Duration::from_millis(100))?.ok()?;
        let headers = message.headers().map(|headers| {
            let text = |value: Option<&[u8]>| String::from_utf8_lossy(value.unwrap_or_default()).into_owned();
            headers.iter().map(|header| (header.key.to_owned(), text(header.value))).collect()
        });
        let message = Found {
            key: message.key().map(<[u8]>::to_vec),
            value: message.payload().map(<[u8]>::to_vec),
            headers: headers.unwrap_or_default(),
        };
        let offset = message.offset();
        assert!(wanted.contains(&offset), "nobody asked for {message:?}");
        found.insert(offset, message);
        (found.len() == wanted.len()).then_some(())
    });
    found
}

fn tables(topic: &str, dead: &str) -> String {
    format!(
        "dead_letters: {{ topic: {dead} }}\ntables:\n  users:\n    topic: {topic}\n    key: id\n    columns: {{ id: integer, name: text }}\n"
    )
}

fn check(config: &std::path::Path) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_readside"));
    let (code, said) = said(&output(command.args(["check", "--timeout", "60s", "--config"]).arg(config)));
    (Some(code), said)
}

/// No topic, then no broker, then a topic that refuses what is too large for it; a kill in between.
#[test]
fn dead_letters_wait_for_their_topic_and_nothing_waits_for_them() {
    let Some(broker) = kafka::private("dead letter topic") else { return };
    let dir = tempfile::tempdir().unwrap();
    let (topic, dead) = ("users", "users.dead");
    broker.create_topic(topic, 1, &[]);
    broker.produce(
        topic,
        [
            Message::new("1", r#"{"id":1,"name":7}"#).header("trace", b"abc"),
            Message::new("2", "x".repeat(5_000)),
            Message::new("3", r#"{"id":3,"name":"c"}"#),
        ],
    );
    let text = format!("{}{}", header(&broker.bootstrap(), dir.path()), tables(topic, dead));
    let mut daemon = Daemon::start(dir.path(), &text);
    daemon.started();
    // Rows are there, whatever becomes of the others.
    assert_eq!(rows(&reader(dir.path()), "SELECT id FROM users"), ["3"]);
    eventually("the trouble is seen", || (daemon.status()["dead_letters_failing"].is_string()).then_some(()));
    eventually("the gauge says how many", || {
        (daemon.metric("readside_dead_letters_unproduced") == Some(2.0)).then_some(())
    });
    let unproduced =
        || rows(&reader(dir.path()), "SELECT count(*) FROM _readside_dead_letters WHERE produced IS NULL");
    assert_eq!(unproduced(), ["2"]);
    let config = dir.path().join("readside.yaml");
    let (code, said) = check(&config);
    assert!(code == Some(69) && said.contains("dead_letters.topic"), "{code:?} {said}");

    broker.stop();
    eventually("nobody answers", || (daemon.metric("readside_kafka_connected") == Some(0.0)).then_some(()));
    daemon.kill();
    let mut daemon = Daemon::start(dir.path(), &text);
    eventually("it serves without a broker", || daemon.get("/livez").filter(|(code, _)| *code == 200));
    broker.restart();
    broker.create_topic(dead, 1, &[("max.message.bytes", "2000")]);
    let found = produced(&broker, dead, [0, 1]);
    let first = &found[&0];
    assert_eq!(first.key.as_deref(), Some(&b"1"[..]));
    assert_eq!(first.value.as_deref(), Some(&br#"{"id":1,"name":7}"#[..]));
    for (name, value) in [
        ("trace", "abc"),
        ("readside.topic", topic),
        ("readside.partition", "0"),
        ("readside.table", "users"),
        ("readside.path", ".name"),
        ("readside.reason", "wrong_type"),
        ("readside.record", "whole"),
    ] {
        assert_eq!(first.headers.get(name).map(String::as_str), Some(value), "{name} in {first:?}");
    }
    let second = &found[&1];
    assert_eq!((&second.key, &second.value), (&None, &None));
    assert_eq!(
        (&*second.headers["readside.record"], &*second.headers["readside.reason"]),
        ("too_large", "malformed")
    );
    eventually("the replica knows", || (unproduced() == ["0"]).then_some(()));
    eventually("the trouble is over", || daemon.status()["dead_letters_failing"].is_null().then_some(()));
    let none_is_left =
        |daemon: &mut Daemon| (daemon.metric("readside_dead_letters_unproduced") == Some(0.0)).then_some(());
    eventually("the gauge says so, too", || none_is_left(&mut daemon));
    let counted = |daemon: &mut Daemon, result: &str| {
        daemon
            .metric(&format!("readside_dead_letters_produced_total{{result=\"{result}\",topic=\"{topic}\"}}"))
    };
    for result in ["whole", "too_large"] {
        assert!(counted(&mut daemon, result).is_some_and(|count| count >= 1.0), "{result}");
    }
    let (code, said) = check(&config);
    assert!(code == Some(0) && said.contains("can be written"), "{code:?} {said}");

    // One that comes later goes there by itself, and a start sends nothing again.
    broker.produce(topic, [Message::tombstone("no number")]);
    produced(&broker, dead, [0, 1, 3]);
    eventually("the replica knows", || (unproduced() == ["0"]).then_some(()));
    daemon.terminate();
    let before = broker.end_offset(dead, 0);
    let mut daemon = Daemon::start(dir.path(), &text);
    eventually("it has looked", || none_is_left(&mut daemon));
    assert_eq!(broker.end_offset(dead, 0), before);
}

#[test]
fn dead_letters_of_a_replica_in_redis_are_produced_once() {
    let Some(broker) = kafka::shared() else { return };
    let Some(server) = redis_server::start(&[]) else { return };
    let dir = tempfile::tempdir().unwrap();
    let (topic, dead) = (kafka::topic_name("redis"), kafka::topic_name("redis.dead"));
    for topic in [&topic, &dead] {
        broker.create_topic(topic, 1, &[]);
    }
    broker.produce(&topic, (0..150).map(|n| Message::new(n.to_string(), format!("broken {n}"))));
    let text = format!(
        "kafka: {{ brokers: '{}' }}\nreplica: {{ redis: {{ url: '{}' }} }}\n{}",
        broker.bootstrap(),
        server.url(),
        tables(&topic, &dead).replace("topic: redis.dead", "max_rate: none, topic: redis.dead")
    );
    let mut daemon = Daemon::start(dir.path(), &text);
    daemon.started();
    produced(broker, &dead, 0..150);
    let done =
        |daemon: &mut Daemon| (daemon.metric("readside_dead_letters_unproduced") == Some(0.0)).then_some(());
    eventually("Redis knows", || done(&mut daemon));
    daemon.terminate();
    let before = broker.end_offset(&dead, 0);
    let mut daemon = Daemon::start(dir.path(), &text);
    eventually("it has looked", || done(&mut daemon));
    assert_eq!(broker.end_offset(&dead, 0), before);
}
