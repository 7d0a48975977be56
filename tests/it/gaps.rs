//! The log is not what it was: each such thing stops the daemon safely, says why, and leaves the
//! copy readable.

use crate::daemon::{Daemon, header, reader, rows};
use crate::kafka::{self, Broker, Message, eventually};

const STATE: &str = "SELECT state FROM _readside_status WHERE table_name = 'users'";

fn yaml(broker: &Broker, dir: &std::path::Path, topic: &str) -> String {
    format!(
        "{}freshness: {{ interval: 200ms }}\ntables:\n  users:\n    topic: {topic}\n    key: id\n    columns: {{ id: integer, name: text }}\n",
        header(&broker.bootstrap(), dir)
    )
}

fn user(id: u32) -> Message {
    Message::new(id.to_string(), format!(r#"{{"id":{id},"name":"n{id}"}}"#))
}

/// Builds a copy of five rows and stops.
fn built(broker: &Broker, dir: &std::path::Path, topic: &str) -> String {
    broker.create_topic(topic, 1, &[]);
    broker.produce(topic, (1..=5).map(user));
    let yaml = yaml(broker, dir, topic);
    let mut daemon = Daemon::start(dir, &yaml);
    daemon.started();
    assert!(daemon.terminate().0.success());
    yaml
}

fn stops(dir: &std::path::Path, yaml: &str, because: &str) {
    let mut daemon = Daemon::start(dir, yaml);
    let status = daemon.wait(30);
    assert_eq!(status.code(), Some(78), "{}", daemon.log());
    assert!(daemon.log().contains(because), "the log does not say {because:?}:\n{}", daemon.log());
    let connection = reader(dir);
    assert_eq!(rows(&connection, STATE), ["stopped"]);
    assert_eq!(rows(&connection, "SELECT count(*) FROM users"), ["5"], "the old copy still serves");
}

#[test]
fn retention_that_passed_our_position_is_noticed() {
    let Some(broker) = kafka::shared() else { return };
    let dir = tempfile::tempdir().unwrap();
    let topic = kafka::topic_name("retention");
    let yaml = built(broker, dir.path(), &topic);
    broker.produce(&topic, (6..=9).map(user));
    broker.delete_records(&topic, 0, 8);
    stops(dir.path(), &yaml, "removed");
}

#[test]
fn a_recreated_topic_is_noticed_also_when_it_has_grown_past_our_position() {
    let Some(broker) = kafka::shared() else { return };
    let dir = tempfile::tempdir().unwrap();
    let topic = kafka::topic_name("recreated");
    let yaml = built(broker, dir.path(), &topic);
    broker.delete_topic(&topic);
    eventually("the topic can be created again", 30, || {
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| broker.create_topic(&topic, 1, &[]))).ok()
    });
    broker.produce(&topic, (100..=150).map(user));
    stops(dir.path(), &yaml, "created again");
}

#[test]
fn a_topic_recreated_while_running_is_noticed() {
    let Some(broker) = kafka::shared() else { return };
    let dir = tempfile::tempdir().unwrap();
    let topic = kafka::topic_name("recreated-live");
    broker.create_topic(&topic, 1, &[]);
    broker.produce(&topic, (1..=5).map(user));
    let mut daemon = Daemon::start(dir.path(), &yaml(broker, dir.path(), &topic));
    daemon.started();
    broker.delete_topic(&topic);
    eventually("the topic can be created again", 30, || {
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| broker.create_topic(&topic, 1, &[]))).ok()
    });
    broker.produce(&topic, (1..=3).map(user));
    let status = daemon.wait(60);
    assert_eq!(status.code(), Some(78), "{}", daemon.log());
    assert_eq!(rows(&reader(dir.path()), STATE), ["stopped"]);
}

#[test]
fn another_cluster_behind_the_same_address_is_noticed() {
    let (Some(broker), Some(other)) = (kafka::shared(), kafka::private("another cluster")) else { return };
    let dir = tempfile::tempdir().unwrap();
    let topic = kafka::topic_name("cluster");
    built(broker, dir.path(), &topic);
    other.create_topic(&topic, 1, &[]);
    other.produce(&topic, (1..=50).map(user));
    stops(dir.path(), &yaml(&other, dir.path(), &topic), "cluster");
}

#[test]
fn another_mapping_or_another_name_does_not_touch_the_file() {
    let Some(broker) = kafka::shared() else { return };
    let dir = tempfile::tempdir().unwrap();
    let topic = kafka::topic_name("mapping");
    let yaml = built(broker, dir.path(), &topic);
    let mapping =
        yaml.replace("name: text", "name: text, email: 'text?'") + "rebuild_when_mapping_changes: never\n";
    let mut daemon = Daemon::start(dir.path(), &mapping);
    assert_eq!(daemon.wait(20).code(), Some(78), "{}", daemon.log());
    assert!(daemon.log().contains("mapping"), "{}", daemon.log());
    let named = yaml.replace("replica: {", "replica: { name: somebody-else,");
    let mut daemon = Daemon::start(dir.path(), &named);
    assert_eq!(daemon.wait(20).code(), Some(78), "{}", daemon.log());
    // The file still works with its own configuration.
    let mut daemon = Daemon::start(dir.path(), &yaml);
    daemon.started();
    assert_eq!(rows(&reader(dir.path()), "SELECT count(*) FROM users"), ["5"]);
    // And a second daemon on the same file is refused.
    let second = tempfile::tempdir().unwrap();
    let mut rival = Daemon::start(second.path(), &yaml);
    assert_eq!(rival.wait(20).code(), Some(78), "{}", rival.log());
}
