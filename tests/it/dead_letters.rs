//! Dead letters as a person deals with them: listed, retried, dropped, limited.

use std::path::Path;
use std::process::Command;

use crate::daemon::{Daemon, header, output, reader, rows};
use crate::kafka::{self, Message, eventually};
use crate::redis_server;

struct Ended {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Ended {
    fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|_| panic!("{} {}", self.stdout, self.stderr))
    }
}

fn dead_letters(target: &[&str], arguments: &[&str]) -> Ended {
    let mut command = Command::new(env!("CARGO_BIN_EXE_readside"));
    command.arg("dead-letters").args(arguments).args(target);
    let output = output(command.env_remove("READSIDE_CONFIG").env_remove("READSIDE_ADMIN_URL"));
    Ended {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

fn yaml(bootstrap: &str, dir: &Path, topic: &str, letters: &str, name: &str) -> String {
    format!(
        "{}{letters}tables:\n  users:\n    topic: {topic}\n    key: id\n    columns: {{ id: integer, name: {name} }}\n",
        header(bootstrap, dir)
    )
}

fn users(dir: &Path) -> Vec<String> {
    rows(&reader(dir), "SELECT id || name FROM users ORDER BY id")
}

fn positions(dir: &Path) -> Vec<String> {
    rows(&reader(dir), "SELECT \"partition\", next_offset FROM _readside_positions ORDER BY 1")
}

fn counts(ended: &Ended) -> Vec<(String, u64)> {
    let counts = ended.json()["counts"].clone();
    let counts = counts.as_object().unwrap().iter();
    counts.map(|(result, count)| (result.clone(), count.as_u64().unwrap())).collect()
}

fn counted(expected: &[(&str, u64)]) -> Vec<(String, u64)> {
    expected.iter().map(|(result, count)| ((*result).to_owned(), *count)).collect()
}

/// A size limit that was too small, raised and tried again: no other mapping, so that the copy stays.
#[test]
fn records_are_read_again_from_the_log_and_take_their_own_place() {
    let Some(broker) = kafka::shared() else { return };
    let dir = tempfile::tempdir().unwrap();
    let topic = kafka::topic_name("letters");
    broker.create_topic(&topic, 2, &[("retention.ms", "-1")]);
    let large = |id: i64| format!(r#"{{"id":{id},"name":"L{}"}}"#, "x".repeat(3_000));
    let small = |id: i64, name: &str| format!(r#"{{"id":{id},"name":"{name}"}}"#);
    broker.produce(
        &topic,
        [
            Message::new("1", large(1)).to(0).at(1_000),
            Message::new("2", large(2)).to(0).at(2_000),
            Message::new("2", small(2, "new")).to(0).at(3_000),
            Message::new("3", large(3)).to(1).at(4_000),
            Message::tombstone("3").to(1).at(5_000),
            Message::new("4", "broken").to(1).at(6_000),
            Message::new("5", large(5)).to(1).at(7_000),
        ],
    );
    let bootstrap = broker.bootstrap();
    let text = yaml(&bootstrap, dir.path(), &topic, "", "text");
    let small_limit = |text: &str| text.replace("kafka: {", "kafka: { max_record_bytes: 1KiB,");
    assert_ne!(small_limit(&text), text);
    let mut daemon = Daemon::start(dir.path(), &small_limit(&text));
    daemon.started();
    assert_eq!(users(dir.path()), ["2new"]);
    let (_, admin) = daemon.listeners();
    let target = ["--admin", admin.as_str()];

    // Each kind is in the log once, without a word of what is in the record.
    let log = daemon.log();
    assert_eq!(log.matches("dead letter: ").count(), 2, "{log}");
    assert!(log.contains("readside dead-letters list") && !log.contains("broken"), "{log}");

    let listed = dead_letters(&target, &["list"]);
    assert_eq!(listed.code, Some(0), "{}", listed.stderr);
    let lines: Vec<&str> = listed.stdout.lines().collect();
    assert!(lines.len() == 6 && lines[0].starts_with("TOPIC"), "{}", listed.stdout);
    assert_eq!(listed.stdout.matches("too_large").count(), 4, "{}", listed.stdout);
    let page = dead_letters(&target, &["list", "--limit", "2", "-o", "json"]).json();
    assert_eq!(page["dead_letters"].as_array().unwrap().len(), 2);
    let next = page["next"].as_str().unwrap().to_owned();
    let page =
        dead_letters(&target, &["list", "--after", &next, "--reason", "too_large", "-o", "json"]).json();
    assert_eq!((page["dead_letters"].as_array().unwrap().len(), page["next"].is_null()), (2, true));
    let shown = dead_letters(
        &target,
        &["show", "--topic", &topic, "--partition", "1", "--offset", "2", "-o", "json"],
    );
    assert_eq!(shown.json()["dead_letters"][0]["reason"], "malformed");
    let none = dead_letters(&target, &["show", "--topic", &topic, "--partition", "1", "--offset", "9"]);
    assert_eq!(none.code, Some(1), "{}", none.stdout);

    // Too large still.
    let again = dead_letters(&target, &["retry", "--reason", "too_large", "-o", "json"]);
    assert_eq!((again.code, counts(&again)), (Some(1), counted(&[("refused", 4)])), "{}", again.stderr);
    daemon.terminate();

    let mut daemon = Daemon::start(dir.path(), &text);
    daemon.started();
    let before = positions(dir.path());
    let (_, admin) = daemon.listeners();
    let target = ["--admin", admin.as_str()];
    let again = dead_letters(&target, &["retry", "--topic", &topic, "-o", "json"]);
    let expected = [("applied", 2), ("refused", 1), ("superseded", 2)];
    assert_eq!((again.code, counts(&again)), (Some(1), counted(&expected)), "{}", again.stdout);
    let names: Vec<String> = users(dir.path()).iter().map(|row| row[..2].to_owned()).collect();
    assert_eq!(names, ["1L", "2n", "5L"], "what is newer stays, and what is deleted too");
    assert_eq!(positions(dir.path()), before);
    let left = "SELECT reason FROM _readside_dead_letters";
    assert_eq!(rows(&reader(dir.path()), left), ["malformed"]);
    let series = |result: &str| {
        format!("readside_dead_letters_retried_total{{result=\"{result}\",topic=\"{topic}\"}}")
    };
    assert_eq!(
        (daemon.metric(&series("applied")), daemon.metric(&series("superseded"))),
        (Some(2.0), Some(2.0))
    );
    let kept = format!("readside_dead_letters{{topic=\"{topic}\"}}");
    assert_eq!(daemon.metric(&kept), Some(1.0));

    let usage = dead_letters(&target, &["drop"]);
    assert_eq!(usage.code, Some(64), "{}", usage.stderr);
    let dropped = dead_letters(&target, &["drop", "--all"]);
    assert_eq!((dropped.code, dropped.stdout.as_str()), (Some(0), "1 dropped\n"), "{}", dropped.stderr);
    assert_eq!(rows(&reader(dir.path()), left), [""; 0]);
    eventually("the gauge follows", || (daemon.metric(&kept) == Some(0.0)).then_some(()));
    // It goes on as before.
    broker.produce(&topic, [Message::new("6", small(6, "six")).to(0)]);
    eventually("the pipeline is well", || users(dir.path()).contains(&"6six".to_owned()).then_some(()));
}

#[test]
fn what_the_log_has_lost_comes_from_the_kept_bytes_or_stays() {
    let Some(broker) = kafka::shared() else { return };
    for (keep, result) in [("coordinates", "gone"), ("bytes", "refused")] {
        let dir = tempfile::tempdir().unwrap();
        let topic = kafka::topic_name("lost");
        broker.create_topic(&topic, 1, &[]);
        broker.produce(
            &topic,
            [Message::new("1", r#"{"id":1,"name":7}"#), Message::new("2", r#"{"id":2,"name":"b"}"#)],
        );
        let letters = format!("dead_letters: {{ keep: {keep} }}\n");
        let text = yaml(&broker.bootstrap(), dir.path(), &topic, &letters, "text");
        let mut daemon = Daemon::start(dir.path(), &text);
        daemon.started();
        broker.delete_records(&topic, 0, 1);
        let (_, admin) = daemon.listeners();
        let again = dead_letters(&["--admin", &admin], &["retry", "--all", "-o", "json"]);
        // From the bytes it is mapped again, and refused for what it is.
        assert_eq!(again.json()["records"][0]["result"], result, "{}", again.stdout);
        assert_eq!(again.code, Some(1));
        let left = rows(&reader(dir.path()), "SELECT reason FROM _readside_dead_letters");
        assert_eq!(left, ["wrong_type"]);
    }
}

#[test]
fn a_daemon_that_stops_for_too_many_is_helped_without_one() {
    let Some(broker) = kafka::shared() else { return };
    let dir = tempfile::tempdir().unwrap();
    let topic = kafka::topic_name("toomany");
    broker.create_topic(&topic, 1, &[("retention.ms", "-1")]);
    broker.produce(&topic, (0..12).map(|_| Message::new("k", "broken").at(1_000)));
    broker.produce(&topic, [Message::new("1", r#"{"id":1,"name":"a"}"#).at(2_000)]);
    let text = yaml(&broker.bootstrap(), dir.path(), &topic, "dead_letters: { max_rate: 10/1m }\n", "text");
    for _ in 0..2 {
        let mut daemon = Daemon::start(dir.path(), &text);
        assert_eq!(daemon.wait().code(), Some(1), "{}", daemon.log());
        assert!(daemon.log().contains("dead_letters.max_rate"), "{}", daemon.log());
        assert_eq!(rows(&reader(dir.path()), "SELECT count(*) FROM _readside_dead_letters"), ["10"]);
    }
    let state = "SELECT state, dead_letters FROM _readside_status WHERE table_name = 'users'";
    assert_eq!(rows(&reader(dir.path()), state), ["stopped|10"]);
    let config = dir.path().join("readside.yaml");
    // Port 0 of the configuration is nobody's.
    let target = ["--config", config.to_str().unwrap()];
    let listed = dead_letters(&target, &["list", "--limit", "3", "-o", "json"]);
    assert_eq!(listed.json()["dead_letters"].as_array().map(Vec::len), Some(3), "{}", listed.stderr);
    let dropped = dead_letters(&target, &["drop", "--topic", &topic, "-o", "json"]);
    assert_eq!(dropped.json()["dropped"], 10, "{}", dropped.stderr);
    assert_eq!(dead_letters(&target, &["retry", "--all"]).code, Some(69));
    let mut daemon = Daemon::start(dir.path(), &text);
    daemon.started();
    assert_eq!(users(dir.path()), ["1a"]);
    // While one runs the file is its own.
    let held = dead_letters(&target, &["drop", "--all"]);
    assert_eq!(held.code, Some(78), "{}{}", held.stdout, held.stderr);
}

#[test]
fn dead_letters_in_redis_are_retried_and_dropped() {
    let Some(broker) = kafka::shared() else { return };
    let Some(server) = redis_server::start(&[]) else { return };
    let dir = tempfile::tempdir().unwrap();
    let topic = kafka::topic_name("redisletters");
    broker.create_topic(&topic, 1, &[]);
    let large = format!(r#"{{"id":1,"name":"L{}"}}"#, "x".repeat(3_000));
    broker.produce(&topic, [Message::new("1", large), Message::new("2", "broken")]);
    let text = format!(
        "kafka: {{ brokers: '{}' }}\nreplica: {{ redis: {{ url: '{}' }} }}\ntables:\n  users:\n    topic: {topic}\n    key: id\n    columns: {{ id: integer, name: text }}\n",
        broker.bootstrap(),
        server.url()
    );
    let mut daemon = Daemon::start(dir.path(), &text.replace("kafka: {", "kafka: { max_record_bytes: 1KiB,"));
    daemon.started();
    daemon.terminate();
    let mut daemon = Daemon::start(dir.path(), &text);
    daemon.started();
    let (_, admin) = daemon.listeners();
    let target = ["--admin", admin.as_str()];
    let again = dead_letters(&target, &["retry", "--all", "-o", "json"]);
    assert_eq!(counts(&again), counted(&[("applied", 1), ("refused", 1)]), "{}", again.stdout);
    let mut connection = server.connect();
    let live: String = redis::cmd("HGET").arg("readside:status").arg("live").query(&mut connection).unwrap();
    let row = format!("{live}users:1");
    let name: String = redis::cmd("HGET").arg(row).arg("name").query(&mut connection).unwrap();
    assert!(name.starts_with("Lxx"), "{name}");
    let listed = dead_letters(&target, &["list", "-o", "json"]).json();
    assert_eq!(listed["dead_letters"].as_array().unwrap().len(), 1);
    daemon.terminate();
    let config = dir.path().join("readside.yaml");
    let dropped = dead_letters(&["--config", config.to_str().unwrap()], &["drop", "--all"]);
    assert_eq!(dropped.stdout, "1 dropped\n", "{}", dropped.stderr);
}
