//! Records nobody should send: each is a dead letter with a reason and a path, and nothing else is
//! lost.

use crate::daemon::{Daemon, header, reader, rows};
use crate::kafka::{self, Message, eventually};

fn deep() -> String {
    format!(r#"{{"id":50,"name":"x","payload":{}{}}}"#, "[".repeat(10_000), "]".repeat(10_000))
}

#[test]
fn every_bad_record_is_a_dead_letter_with_its_path() {
    let Some(broker) = kafka::shared() else { return };
    let dir = tempfile::tempdir().unwrap();
    let topic = kafka::topic_name("bad");
    broker.create_topic(&topic, 1, &[("max.message.bytes", "5000000")]);
    let huge = format!(r#"{{"id":51,"name":"{}"}}"#, "x".repeat(2_000_000));
    let bad: Vec<(Vec<u8>, &str, &str)> = vec![
        (b"not json".to_vec(), "malformed", ""),
        (b"".to_vec(), "malformed", ""),
        (br#"{"id":1,"name":"x"} trailing"#.to_vec(), "malformed", ""),
        (br#"{"id":1,"name":"unterminated"#.to_vec(), "malformed", ""),
        (br#"[1,2,3]"#.to_vec(), "malformed", ""),
        (br#"{"id":"1","name":"x"}"#.to_vec(), "wrong_type", ".id"),
        (br#"{"id":1.5,"name":"x"}"#.to_vec(), "wrong_type", ".id"),
        (br#"{"id":18446744073709551616,"name":"x"}"#.to_vec(), "out_of_range", ".id"),
        (br#"{"name":"x"}"#.to_vec(), "missing_key", ".id"),
        (br#"{"id":null,"name":"x"}"#.to_vec(), "missing_key", ".id"),
        (br#"{"id":2}"#.to_vec(), "missing_value", ".name"),
        (br#"{"id":2,"name":null}"#.to_vec(), "missing_value", ".name"),
        (br#"{"id":2,"name":{"first":"x"}}"#.to_vec(), "wrong_type", ".name"),
        (b"{\"id\":2,\"name\":\"\xff\xfe\"}".to_vec(), "malformed", ""),
        (br#"{"id":2,"name":"a\u0000b"}"#.to_vec(), "", ".name"),
        (br#"{"id":2,"id":3,"name":"x"}"#.to_vec(), "malformed", ".id"),
        (br#"{"id":2,"name":"\ud800"}"#.to_vec(), "malformed", ""),
        (huge.into_bytes(), "too_large", ""),
    ];
    let mut messages: Vec<Message> = vec![Message::new("0", r#"{"id":0,"name":"good"}"#)];
    messages.extend(bad.iter().map(|(value, _, _)| Message::new("0", value)));
    messages.push(Message::new("50", deep()));
    messages.push(Message::new("99", r#"{"id":99,"name":"good"}"#));
    broker.produce(&topic, messages);
    let yaml = format!(
        "{}tables:\n  users:\n    topic: {topic}\n    key: id\n    columns: {{ id: integer, name: text }}\n",
        header(&broker.bootstrap(), dir.path())
    );
    let mut daemon = Daemon::start(dir.path(), &yaml);
    daemon.started();
    let connection = reader(dir.path());
    let letters = rows(
        &connection,
        "SELECT \"offset\", reason, path, table_name FROM _readside_dead_letters ORDER BY \"offset\"",
    );
    for (index, (value, reason, path)) in bad.iter().enumerate() {
        let offset = format!("{}|", index + 1);
        let letter = letters.iter().find(|letter| letter.starts_with(&offset));
        let shown = String::from_utf8_lossy(&value[..value.len().min(60)]).into_owned();
        let letter = letter.unwrap_or_else(|| panic!("no dead letter for {shown}\n{letters:#?}"));
        assert!(letter.contains(reason) && letter.contains(path), "{shown}: {letter}");
    }
    // Deep nesting in a field that nobody asked for may be passed over; it must not crash.
    let ids = rows(&connection, "SELECT id FROM users ORDER BY id");
    assert!(ids.first().is_some_and(|id| id == "0") && ids.last().is_some_and(|id| id == "99"), "{ids:?}");
    assert!(!ids.contains(&"1".to_owned()) && !ids.contains(&"2".to_owned()), "{ids:?}");
    let counted = daemon.metric_sum("readside_dead_letters_total").unwrap();
    assert_eq!(counted as usize, letters.len());
    let shown = rows(&connection, "SELECT dead_letters FROM _readside_status WHERE table_name = 'users'");
    assert_eq!(shown, [letters.len().to_string()]);
    // No value of a record is kept or logged unless asked for.
    assert_eq!(
        rows(&connection, "SELECT count(*) FROM _readside_dead_letters WHERE value IS NOT NULL"),
        ["0"]
    );
    assert!(!daemon.log().contains("unterminated"), "a log line shows contents of a record");
}

#[test]
fn bytes_are_kept_when_asked_for() {
    let Some(broker) = kafka::shared() else { return };
    let dir = tempfile::tempdir().unwrap();
    let topic = kafka::topic_name("bytes");
    broker.create_topic(&topic, 1, &[]);
    broker.produce(&topic, [Message::new("k", "broken").header("trace", b"t-1")]);
    let yaml = format!(
        "{}dead_letters: {{ keep: bytes }}\ntables:\n  users:\n    topic: {topic}\n    key: id\n    columns: {{ id: integer }}\n",
        header(&broker.bootstrap(), dir.path())
    );
    let mut daemon = Daemon::start(dir.path(), &yaml);
    daemon.started();
    let kept = rows(
        &reader(dir.path()),
        "SELECT CAST(key AS TEXT), CAST(value AS TEXT), headers FROM _readside_dead_letters",
    );
    assert_eq!(kept, [r#"k|broken|{"trace":"t-1"}"#]);
}

#[test]
fn a_policy_to_stop_keeps_the_position_before_the_event() {
    let Some(broker) = kafka::shared() else { return };
    let dir = tempfile::tempdir().unwrap();
    let topic = kafka::topic_name("stop");
    broker.create_topic(&topic, 1, &[]);
    broker.produce(
        &topic,
        [Message::new("1", r#"{"id":1}"#), Message::new("2", "broken"), Message::new("3", r#"{"id":3}"#)],
    );
    let yaml = format!(
        "{}defaults: {{ on_error: stop }}\ntables:\n  users:\n    topic: {topic}\n    key: id\n    columns: {{ id: integer }}\n",
        header(&broker.bootstrap(), dir.path())
    );
    for _ in 0..2 {
        let mut daemon = Daemon::start(dir.path(), &yaml);
        assert_eq!(daemon.wait().code(), Some(1), "{}", daemon.log());
        assert!(daemon.log().contains("offset 1"), "{}", daemon.log());
        let position = rows(&reader(dir.path()), "SELECT next_offset FROM _readside_positions");
        assert_eq!(position, ["1"]);
    }
    assert_eq!(
        rows(&reader(dir.path()), "SELECT state FROM _readside_status WHERE table_name IS NULL"),
        ["stopped"]
    );
    // Repaired by a person: skip it.
    let mut daemon = Daemon::start(dir.path(), &yaml.replace("on_error: stop", "on_error: skip"));
    daemon.started();
    assert_eq!(rows(&reader(dir.path()), "SELECT id FROM users ORDER BY 1"), ["1", "3"]);
}

#[test]
fn too_many_dead_letters_stop_the_daemon() {
    let Some(broker) = kafka::shared() else { return };
    let dir = tempfile::tempdir().unwrap();
    let topic = kafka::topic_name("many");
    broker.create_topic(&topic, 1, &[]);
    broker.produce(&topic, (0..20).map(|_| Message::new("k", "broken")));
    let yaml = format!(
        "{}dead_letters: {{ max: 10 }}\ntables:\n  users:\n    topic: {topic}\n    key: id\n    columns: {{ id: integer }}\n",
        header(&broker.bootstrap(), dir.path())
    );
    let mut daemon = Daemon::start(dir.path(), &yaml);
    assert_eq!(daemon.wait().code(), Some(1), "{}", daemon.log());
    assert!(daemon.log().contains("dead_letters.max"), "{}", daemon.log());
}

#[test]
fn a_wrong_configuration_ends_with_64_and_names_every_problem() {
    let dir = tempfile::tempdir().unwrap();
    let mut daemon = Daemon::start(
        dir.path(),
        "kafka: { broker: x }\nreplica: { sqlite: { pth: /tmp/x } }\ntables: { users: { topik: t } }\n",
    );
    assert_eq!(daemon.wait().code(), Some(64));
    let log = daemon.log();
    for found in ["brokers", "path", "topic", "readside.yaml:1:", "readside.yaml:2:", "readside.yaml:3:"] {
        assert!(log.contains(found), "{found} is missing in:\n{log}");
    }
    eventually("nothing is left behind", || (!dir.path().join("replica").exists()).then_some(()));
}
