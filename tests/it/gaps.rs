//! The log is not what it was: each such thing under each policy, with the real daemon and broker.

use std::path::Path;

use crate::daemon::{Daemon, header, reader, replica, rows};
use crate::freshness::now_ms;
use crate::kafka::{self, Broker, Message, Transaction, eventually};

const STATE: &str = "SELECT state FROM _readside_status WHERE table_name = 'users'";

fn yaml(broker: &Broker, dir: &Path, topic: &str) -> String {
    format!(
        "{}freshness: {{ interval: 200ms }}\ntables:\n  users:\n    topic: {topic}\n    key: id\n    columns: {{ id: integer, name: text }}\n",
        header(&broker.bootstrap(), dir)
    )
}

fn user(id: u32) -> Message {
    Message::new(id.to_string(), format!(r#"{{"id":{id},"name":"n{id}"}}"#))
}

/// Builds a copy of five rows, with a policy, and stops.
fn built(broker: &Broker, dir: &Path, topic: &str, policy: &str, configs: &[(&str, &str)]) -> String {
    broker.create_topic(topic, 1, configs);
    broker.produce(topic, (1..=5).map(user));
    let yaml = yaml(broker, dir, topic) + &format!("defaults: {{ on_gap: {policy} }}\n");
    let mut daemon = Daemon::start(dir, &yaml);
    daemon.started();
    eventually("it is proven fresh", || (rows(&reader(dir), STATE) == ["live"]).then_some(()));
    assert!(daemon.terminate().0.success());
    yaml
}

fn recreate(broker: &Broker, topic: &str, configs: &[(&str, &str)]) {
    broker.delete_topic(topic);
    eventually("the topic can be created again", || {
        let create = std::panic::AssertUnwindSafe(|| broker.create_topic(topic, 1, configs));
        std::panic::catch_unwind(create).ok()
    });
}

fn ids(dir: &Path) -> String {
    let connection = reader(dir);
    let sql = "SELECT group_concat(id, ' ') FROM (SELECT id FROM users ORDER BY id)";
    // While a generation is exchanged the old connection's views are the old ones.
    rows(&connection, sql).concat()
}

fn fresh(dir: &Path) -> Option<i64> {
    let sql = "SELECT fresh_as_of_ms FROM _readside_status WHERE table_name = 'users'";
    rows(&reader(dir), sql).first()?.parse().ok()
}

fn gaps(daemon: &mut Daemon, reason: &str) -> Option<f64> {
    daemon.metric(&format!("readside_gaps_total{{reason=\"{reason}\"}}"))
}

fn logged(daemon: &Daemon, decision: &str) -> usize {
    let lines = daemon.log();
    let of_gaps = lines.lines().filter(|line| line.contains("gap in the log"));
    of_gaps.filter(|line| line.contains(&format!("\"decision\":\"{decision}\""))).count()
}

/// 78, with the reason in log and status; the old copy is readable.
fn stops(dir: &Path, daemon: &mut Daemon, because: &str) {
    let status = daemon.wait();
    assert_eq!(status.code(), Some(78), "{}", daemon.log());
    assert!(daemon.log().contains(because), "the log does not say {because:?}:\n{}", daemon.log());
    assert_eq!(logged(daemon, "stop"), 1, "{}", daemon.log());
    assert_eq!(rows(&reader(dir), STATE), ["stopped"]);
    assert_eq!(ids(dir), "1 2 3 4 5", "the old copy still serves");
}

/// Goes on with what the log has, says so, and does not forget it.
fn goes_on(dir: &Path, yaml: &str, mut daemon: Daemon, reason: &str, expected: &str) {
    daemon.started();
    eventually("it goes on", || (ids(dir) == expected).then_some(()));
    let incomplete = || (rows(&reader(dir), STATE) == ["incomplete"]).then_some(());
    eventually("it says that events are missing", incomplete);
    assert_eq!(rows(&reader(dir), "SELECT DISTINCT missing_events FROM _readside_status"), ["1"]);
    assert_eq!(gaps(&mut daemon, reason), Some(1.0), "{}", daemon.log());
    assert_eq!(logged(&daemon, "continue"), 1, "{}", daemon.log());
    let state = "readside_state{state=\"incomplete\",table=\"users\"}";
    eventually("the gauge says so, too", || daemon.metric(state).filter(|holds| *holds == 1.0));
    assert!(daemon.terminate().0.success());
    let stopped_ms = now_ms();
    let mut daemon = Daemon::start(dir, yaml);
    daemon.started();
    // Then it has compared the log with its positions.
    eventually("it is proven fresh again", || fresh(dir).filter(|fresh| *fresh > stopped_ms));
    assert_eq!(rows(&reader(dir), STATE), ["incomplete"], "it remembers");
    assert_eq!(gaps(&mut daemon, reason), Some(0.0), "it was decided about: {}", daemon.log());
    assert_eq!(ids(dir), expected);
    // A whole new copy lacks nothing.
    let (code, body) = daemon.post("/rebuild?accept_loss=true").unwrap();
    assert_eq!(code, 202, "{body}");
    eventually("the new copy is whole", || (rows(&reader(dir), STATE) == ["live"]).then_some(()));
}

fn rebuilds(dir: &Path, mut daemon: Daemon, reason: &str, expected: &str) {
    eventually("the new generation serves", || {
        let generation = "SELECT generation FROM _readside_status WHERE table_name = 'users'";
        (rows(&reader(dir), generation) == ["2"]).then_some(())
    });
    eventually("it is live", || (rows(&reader(dir), STATE) == ["live"]).then_some(()));
    // It may have been built while records still came.
    eventually("it has what the log has", || (ids(dir) == expected).then_some(()));
    assert_eq!(gaps(&mut daemon, reason), Some(1.0), "{}", daemon.log());
    assert_eq!(logged(&daemon, "rebuild"), 1, "{}", daemon.log());
}

const COMPACT: &[(&str, &str)] = &[("cleanup.policy", "compact")];
const DELETE: &[(&str, &str)] = &[("cleanup.policy", "delete"), ("retention.ms", "604800000")];

fn retention(policy: &str, configs: &[(&str, &str)], then: impl Fn(&Path, &str, Daemon)) {
    let Some(broker) = kafka::shared() else { return };
    let dir = tempfile::tempdir().unwrap();
    let topic = kafka::topic_name("retention");
    let yaml = built(broker, dir.path(), &topic, policy, configs);
    broker.produce(&topic, (6..=9).map(user));
    if configs == COMPACT {
        // Only a topic that deletes takes the order.
        broker.alter_topic(&topic, DELETE);
    }
    broker.delete_records(&topic, 0, 8);
    if configs == COMPACT {
        broker.alter_topic(&topic, COMPACT);
    }
    then(dir.path(), &yaml, Daemon::start(dir.path(), &yaml));
}

#[test]
fn retention_that_passed_our_position_stops_if_told_to() {
    retention("stop", DELETE, |dir, _, mut daemon| stops(dir, &mut daemon, "records 5 to 7 were removed"));
}

#[test]
fn retention_that_passed_our_position_is_gone_on_behind() {
    retention("continue", COMPACT, |dir, yaml, daemon| {
        goes_on(dir, yaml, daemon, "retention", "1 2 3 4 5 9")
    });
}

#[test]
fn retention_that_passed_our_position_never_makes_a_fuller_copy_poorer() {
    retention("auto", DELETE, |dir, yaml, daemon| goes_on(dir, yaml, daemon, "retention", "1 2 3 4 5 9"));
}

#[test]
fn retention_that_passed_our_position_rebuilds_if_told_to() {
    retention("rebuild", DELETE, |dir, _, daemon| rebuilds(dir, daemon, "retention", "9"));
}

#[test]
fn a_compacted_log_is_believed_to_have_everything() {
    retention("auto", COMPACT, |dir, _, daemon| rebuilds(dir, daemon, "retention", "9"));
}

#[test]
fn retention_in_a_partition_that_was_added_meanwhile_is_gone_on_behind() {
    let Some(broker) = kafka::shared() else { return };
    let dir = tempfile::tempdir().unwrap();
    let topic = kafka::topic_name("retention-added");
    let yaml = built(broker, dir.path(), &topic, "auto", DELETE);
    broker.add_partitions(&topic, 2);
    broker.produce(&topic, (6..=9).map(|id| user(id).to(1)));
    broker.delete_records(&topic, 1, 3);
    let daemon = Daemon::start(dir.path(), &yaml);
    goes_on(dir.path(), &yaml, daemon, "retention", "1 2 3 4 5 9");
}

fn recreated(policy: &str, records: std::ops::RangeInclusive<u32>, then: impl Fn(&Path, &str, Daemon)) {
    let Some(broker) = kafka::shared() else { return };
    let dir = tempfile::tempdir().unwrap();
    let topic = kafka::topic_name("recreated");
    let yaml = built(broker, dir.path(), &topic, policy, DELETE);
    recreate(broker, &topic, DELETE);
    broker.produce(&topic, records.map(user));
    then(dir.path(), &yaml, Daemon::start(dir.path(), &yaml));
}

#[test]
fn a_recreated_topic_stops_if_told_to_also_when_it_has_grown_past_our_position() {
    recreated("stop", 100..=150, |dir, _, mut daemon| stops(dir, &mut daemon, "created again"));
}

#[test]
fn a_recreated_topic_is_gone_on_with() {
    recreated("continue", 5..=7, |dir, yaml, daemon| {
        goes_on(dir, yaml, daemon, "recreated", "1 2 3 4 5 6 7");
    });
}

#[test]
fn a_recreated_topic_that_has_grown_past_our_position_is_gone_on_with_from_its_beginning() {
    recreated("continue", 5..=14, |dir, yaml, daemon| {
        goes_on(dir, yaml, daemon, "recreated", "1 2 3 4 5 6 7 8 9 10 11 12 13 14");
    });
}

#[test]
fn a_recreated_topic_that_has_everything_is_built_anew() {
    recreated("auto", 100..=107, |dir, _, daemon| {
        rebuilds(dir, daemon, "recreated", "100 101 102 103 104 105 106 107");
    });
}

fn recreated_while_running(policy: &str, then: impl Fn(&Path, &str, Daemon)) {
    let Some(broker) = kafka::shared() else { return };
    let dir = tempfile::tempdir().unwrap();
    let topic = kafka::topic_name("recreated-live");
    let yaml = built(broker, dir.path(), &topic, policy, DELETE);
    let mut daemon = Daemon::start(dir.path(), &yaml);
    daemon.started();
    recreate(broker, &topic, DELETE);
    broker.produce(&topic, (1..=3).map(user));
    then(dir.path(), &yaml, daemon);
}

#[test]
fn a_topic_recreated_while_running_stops_if_told_to() {
    recreated_while_running("stop", |dir, _, mut daemon| stops(dir, &mut daemon, "created again"));
}

#[test]
fn a_topic_recreated_while_running_is_gone_on_with() {
    recreated_while_running("continue", |dir, yaml, daemon| {
        goes_on(dir, yaml, daemon, "recreated", "1 2 3 4 5");
    });
}

#[test]
fn a_topic_recreated_while_running_is_built_anew() {
    recreated_while_running("auto", |dir, _, daemon| rebuilds(dir, daemon, "recreated", "1 2 3"));
}

/// The disk loses the log, or its end, behind a stopped daemon, and other records are written.
fn truncated(policy: &str, then: impl Fn(&Path, &str, Daemon)) {
    let Some(broker) = kafka::private("a truncated log") else { return };
    let dir = tempfile::tempdir().unwrap();
    let topic = kafka::topic_name("truncated");
    let yaml = built(&broker, dir.path(), &topic, policy, DELETE);
    broker.stop();
    let log = broker.log_dir().join(format!("{topic}-0"));
    for entry in std::fs::read_dir(&log).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name().is_some_and(|name| name != "partition.metadata") {
            std::fs::remove_file(path).unwrap();
        }
    }
    broker.restart();
    broker.produce(&topic, (5..=14).map(user));
    then(dir.path(), &yaml, Daemon::start(dir.path(), &yaml));
}

#[test]
fn a_truncated_log_that_grew_again_stops_if_told_to() {
    truncated("stop", |dir, _, mut daemon| stops(dir, &mut daemon, "truncated"));
}

#[test]
fn a_truncated_log_that_grew_again_is_gone_on_with_from_where_it_diverges() {
    truncated("continue", |dir, yaml, daemon| {
        goes_on(dir, yaml, daemon, "truncated", "1 2 3 4 5 6 7 8 9 10 11 12 13 14");
    });
}

#[test]
fn a_truncated_log_that_grew_again_is_built_anew() {
    truncated("auto", |dir, _, daemon| rebuilds(dir, daemon, "truncated", "5 6 7 8 9 10 11 12 13 14"));
}

/// Begun under one leader and ended under the next: the marker of its end is the first thing of the new
/// epoch, and no record tells of that.
#[test]
fn a_transaction_that_ends_under_another_leader_is_no_gap() {
    let Some(broker) = kafka::private("gaps") else { return };
    let dir = tempfile::tempdir().unwrap();
    let (dir, topic) = (dir.path(), "transaction");
    let yaml = built(&broker, dir, topic, "stop", COMPACT);
    let transaction = Transaction::begin(&broker, topic);
    transaction.produce(topic, [user(6)]);
    broker.stop();
    broker.restart();
    transaction.commit();
    for _ in 0..2 {
        let mut daemon = Daemon::start(dir, &yaml);
        daemon.started();
        eventually("the transaction is read", || (ids(dir) == "1 2 3 4 5 6").then_some(()));
        eventually("and its end", || {
            let read = rows(
                &reader(dir),
                "SELECT next_offset = end_offset AND leader_epoch > 0 FROM _readside_positions",
            );
            (rows(&reader(dir), STATE) == ["live"] && read == ["1"]).then_some(())
        });
        assert_eq!(gaps(&mut daemon, "truncated"), Some(0.0), "{}", daemon.log());
        assert!(daemon.terminate().0.success());
    }
}

/// Away for longer than the topic keeps tombstones: not by waiting, or what a build takes could be too long
/// as well, but by a replica that was fresh an hour earlier than it was.
fn away(policy: &str, then: impl Fn(&Path, &str, Daemon)) {
    let Some(broker) = kafka::shared() else { return };
    let dir = tempfile::tempdir().unwrap();
    let topic = kafka::topic_name("tombstones");
    let half_an_hour = [("cleanup.policy", "compact"), ("delete.retention.ms", "1800000")];
    let yaml = built(broker, dir.path(), &topic, policy, &half_an_hour);
    let written = rusqlite::Connection::open(replica(dir.path())).unwrap();
    let earlier = "UPDATE _readside_meta_partitions SET fresh_as_of_ms = fresh_as_of_ms - 3600000";
    assert_eq!(written.execute(earlier, []), Ok(1));
    drop(written);
    broker.produce(&topic, [Message::tombstone("2")]);
    then(dir.path(), &yaml, Daemon::start(dir.path(), &yaml));
}

#[test]
fn tombstones_that_may_be_gone_stop_if_told_to() {
    away("stop", |dir, _, mut daemon| stops(dir, &mut daemon, "tombstones"));
}

#[test]
fn tombstones_that_may_be_gone_are_gone_on_behind() {
    away("continue", |dir, _, mut daemon| {
        daemon.started();
        let incomplete = || (rows(&reader(dir), STATE) == ["incomplete"]).then_some(());
        eventually("it says that rows may be too many", incomplete);
        eventually("the tombstone that is still there is applied", || (ids(dir) == "1 3 4 5").then_some(()));
        assert_eq!(gaps(&mut daemon, "tombstones"), Some(1.0), "{}", daemon.log());
    });
}

#[test]
fn tombstones_that_may_be_gone_are_a_reason_to_build_anew() {
    away("auto", |dir, _, daemon| rebuilds(dir, daemon, "tombstones", "1 3 4 5"));
}

#[test]
fn another_cluster_behind_the_same_address_is_taken_by_a_rebuild_only() {
    let (Some(broker), Some(other)) = (kafka::shared(), kafka::private("another cluster")) else { return };
    let topic = kafka::topic_name("cluster");
    other.create_topic(&topic, 1, &[]);
    other.produce(&topic, (3..=50).map(user));
    let dir = tempfile::tempdir().unwrap();
    let yaml = built(broker, dir.path(), &topic, "auto", &[]);
    let moved = |policy: &str| {
        let yaml = yaml.replace(&broker.bootstrap(), &other.bootstrap());
        yaml.replace("on_gap: auto", &format!("on_gap: {policy}"))
    };
    for policy in ["auto", "continue", "stop"] {
        let mut daemon = Daemon::start(dir.path(), &moved(policy));
        stops(dir.path(), &mut daemon, "cluster");
    }
    let all = (3..=50).map(|id| id.to_string()).collect::<Vec<_>>().join(" ");
    rebuilds(dir.path(), Daemon::start(dir.path(), &moved("rebuild")), "cluster", &all);
}

#[test]
fn added_partitions_are_no_gap() {
    let Some(broker) = kafka::shared() else { return };
    let dir = tempfile::tempdir().unwrap();
    let topic = kafka::topic_name("added");
    let yaml = built(broker, dir.path(), &topic, "stop", DELETE);
    broker.add_partitions(&topic, 3);
    broker.produce(&topic, [user(6).to(2)]);
    let mut daemon = Daemon::start(dir.path(), &yaml);
    daemon.started();
    eventually("it is read", || (ids(dir.path()) == "1 2 3 4 5 6").then_some(()));
    eventually("live", || (rows(&reader(dir.path()), STATE) == ["live"]).then_some(()));
    for reason in ["retention", "recreated", "truncated", "cluster", "tombstones"] {
        assert_eq!(gaps(&mut daemon, reason), Some(0.0));
    }
}

#[test]
fn a_topic_that_may_not_be_read_does_not_hold_the_others_back() {
    let Some(broker) = kafka::shared() else { return };
    let dir = tempfile::tempdir().unwrap();
    let (open, closed) = (kafka::topic_name("allowed"), kafka::topic_name("closed"));
    broker.create_topic(&open, 1, &[]);
    broker.create_topic(&closed, 1, &[]);
    broker.produce(&open, (1..=5).map(user));
    broker.allow_stranger(&open);
    let password = dir.path().join("password");
    std::fs::write(&password, kafka::PASSWORD).unwrap();
    let header = header(&broker.sasl_bootstrap(), dir.path()).replace(
        "kafka: {",
        &format!(
            "kafka: {{ properties: {{ security.protocol: SASL_PLAINTEXT, sasl.mechanism: PLAIN, sasl.username: {} }}, \
             secrets: {{ sasl.password: {} }},",
            kafka::STRANGER,
            password.display()
        ),
    );
    let table = |name: &str, topic: &str| {
        format!("  {name}: {{ topic: {topic}, key: id, columns: {{ id: integer, name: text }} }}\n")
    };
    let yaml = format!(
        "{header}freshness: {{ interval: 200ms }}\ntables:\n{}{}",
        table("users", &open),
        table("others", &closed)
    );
    let mut daemon = Daemon::start(dir.path(), &yaml);
    let fresh = "SELECT fresh_as_of_ms FROM _readside_status WHERE table_name = 'users'";
    let fresh = || {
        let connection = replica(dir.path()).exists().then(|| reader(dir.path()))?;
        crate::daemon::try_rows(&connection, fresh).ok()?.first()?.parse::<i64>().ok()
    };
    let first = eventually("the readable topic is fresh", fresh);
    eventually("and stays so", || fresh().filter(|now| *now > first));
    assert!(daemon.log().contains(&closed), "{}", daemon.log());
    let refused = daemon.metric("readside_source_errors_total{reason=\"topic_refused\"}");
    assert!(refused.is_some_and(|count| count >= 1.0));
    assert_eq!(
        daemon.get("/startupz").map(|(code, _)| code),
        Some(503),
        "a first copy is not whole without it"
    );
}

#[test]
fn another_mapping_or_another_name_does_not_touch_the_file() {
    let Some(broker) = kafka::shared() else { return };
    let dir = tempfile::tempdir().unwrap();
    let topic = kafka::topic_name("mapping");
    let yaml = built(broker, dir.path(), &topic, "stop", &[]);
    let mapping =
        yaml.replace("name: text", "name: text, email: 'text?'") + "rebuild_when_mapping_changes: never\n";
    let mut daemon = Daemon::start(dir.path(), &mapping);
    assert_eq!(daemon.wait().code(), Some(78), "{}", daemon.log());
    assert!(daemon.log().contains("mapping"), "{}", daemon.log());
    let named = yaml.replace("replica: {", "replica: { name: somebody-else,");
    let mut daemon = Daemon::start(dir.path(), &named);
    assert_eq!(daemon.wait().code(), Some(78), "{}", daemon.log());
    // The file still works with its own configuration.
    let mut daemon = Daemon::start(dir.path(), &yaml);
    daemon.started();
    assert_eq!(rows(&reader(dir.path()), "SELECT count(*) FROM users"), ["5"]);
    // And a second daemon on the same file is refused.
    let second = tempfile::tempdir().unwrap();
    let mut rival = Daemon::start(second.path(), &yaml);
    assert_eq!(rival.wait().code(), Some(78), "{}", rival.log());
}
