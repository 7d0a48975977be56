//! The commands as people and scripts run them: processes, exit codes, what they print.

use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::daemon::{Daemon, header, output, reader, replica, rows};
use crate::kafka::{self, Message, eventually};

/// What a command left.
#[derive(Debug)]
struct Ended {
    code: Option<i32>,
    stdout: String,
    stderr: String,
    took: Duration,
}

impl Ended {
    fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// Runs `readside` to its end.
fn readside(arguments: &[&str]) -> Ended {
    let begin = Instant::now();
    let output = output(Command::new(env!("CARGO_BIN_EXE_readside")).args(arguments));
    Ended {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
        took: begin.elapsed(),
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn config(dir: &Path, brokers: &str, topic: &str) -> String {
    format!(
        "{}http: {{ listen: '127.0.0.1:0' }}\nadmin: {{ listen: '127.0.0.1:0' }}\ntables:\n  users:\n    topic: {topic}\n    key: id\n    columns: {{ id: integer, name: text }}\n",
        header(brokers, dir)
    )
}

#[test]
fn validate_tells_right_from_wrong_for_people_and_programs() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("readside.yaml");
    let valid = config(dir.path(), "kafka:9092", "users");
    std::fs::write(&file, &valid).unwrap();
    let ended = readside(&["validate", "-c", text(&file)]);
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{ended:?}");
    assert!(ended.stdout.contains("is valid"), "{ended:?}");
    let json = readside(&["validate", "-c", text(&file), "-o", "json"]).json();
    assert_eq!((&json["valid"], &json["tables"][0]["name"]), (&true.into(), &"users".into()));

    std::fs::write(&file, valid.replace("key: id", "kye: id")).unwrap();
    let ended = readside(&["validate", "-c", text(&file)]);
    assert_eq!(ended.code, Some(64), "{ended:?}");
    assert!(ended.stdout.contains(&format!("{}:8:5: `kye`", file.display())), "{ended:?}");
    let ended = readside(&["validate", "-c", text(&file), "-o", "json"]);
    assert_eq!(ended.code, Some(64));
    assert_eq!(ended.json()["valid"], false);
    assert!(!dir.path().join("replica").exists(), "validating made something");
}

#[test]
fn what_this_version_does_not_do_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("readside.yaml");
    let redis = "kafka: { brokers: 'kafka:9092' }\nreplica: { redis: { url: 'redis://localhost' } }\n\
                 rebuild_when_mapping_changes: always\n\
                 tables: { users: { topic: users, key: id, columns: { id: integer } } }\n";
    std::fs::write(&file, redis).unwrap();
    let ended = readside(&["validate", "-c", text(&file)]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert_eq!(ended.stdout.matches("is not rebuilt by itself").count(), 1, "{ended:?}");
}

#[test]
fn a_configuration_that_cannot_be_read_is_a_usage_error_of_every_command() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("missing.yaml");
    for path in [missing.as_path(), dir.path()] {
        for command in ["run", "validate", "check", "status", "health"] {
            let ended = readside(&[command, "--config", text(path)]);
            assert_eq!(ended.code, Some(64), "{command}: {ended:?}");
            let said = format!("{}{}", ended.stdout, ended.stderr);
            assert!(said.contains(text(path)) && said.contains("cannot be read"), "{command}: {ended:?}");
        }
    }
    for wrong in [&["rnu"][..], &[], &["wait"], &["run", "--confg", "x"]] {
        assert_eq!(readside(wrong).code, Some(64), "{wrong:?}");
    }
}

#[test]
fn check_names_what_is_missing_and_ends_in_time() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("readside.yaml");
    // Takes connections and never says a word.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap().to_string();
    std::fs::write(&file, config(dir.path(), &address, "users")).unwrap();
    let ended = readside(&["check", "-c", text(&file), "--timeout", "1s"]);
    assert_eq!(ended.code, Some(69), "{ended:?}");
    assert!(ended.stdout.contains(&address), "{ended:?}");
    assert!(ended.took < Duration::from_secs(60), "{:?}", ended.took);

    let Some(broker) = kafka::shared() else { return };
    let topic = kafka::topic_name("check");
    broker.create_topic(&topic, 2, &[("cleanup.policy", "compact")]);
    std::fs::write(&file, config(dir.path(), &broker.bootstrap(), &topic)).unwrap();
    let check = ["check", "-c", text(&file), "--timeout", "60s"];
    let ended = readside(&check);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.stdout.contains(&topic) && ended.stdout.contains("2 partitions"), "{ended:?}");
    assert!(readside(&[&check[..], &["-o", "json"]].concat()).json().is_object());

    let absent = kafka::topic_name("absent");
    std::fs::write(&file, config(dir.path(), &broker.bootstrap(), &absent)).unwrap();
    let ended = readside(&check);
    assert_eq!(ended.code, Some(69), "{ended:?}");
    assert!(ended.stdout.contains(&absent), "{ended:?}");
}

#[test]
fn a_running_daemon_is_asked_and_waited_for() {
    let Some(broker) = kafka::shared() else { return };
    let dir = tempfile::tempdir().unwrap();
    let topic = kafka::topic_name("asked");
    broker.create_topic(&topic, 1, &[]);
    broker.produce(&topic, [Message::new("1", r#"{"id":1,"name":"a"}"#)]);
    let file = dir.path().join("asked.yaml");
    std::fs::write(&file, config(dir.path(), &broker.bootstrap(), &topic)).unwrap();
    let mut daemon = Daemon::start_with(dir.path(), &file, &[]);
    daemon.started();
    let (http, admin) = daemon.listeners();
    // It has a limit of its own for an answer.
    let status = |more: &[&str]| {
        eventually("the status", || {
            let ended = readside(&[&["status", "--admin", &admin], more].concat());
            (ended.code == Some(0)).then_some(ended)
        })
    };
    let found = eventually("the copy is live", || {
        Some(status(&["-o", "json"]).json()).filter(|status| status["state"] == "live")
    });
    assert_eq!((&found["daemon"], &found["tables"][0]["rows"]), (&true.into(), &1.into()), "{found}");
    let shown = status(&["--verbose"]);
    assert!(shown.stdout.contains("users") && shown.stdout.contains(&topic), "{shown:?}");

    let written = broker.produce(&topic, [Message::new("2", r#"{"id":2,"name":"b"}"#)]);
    let offset = written[0].1.to_string();
    let ask = |more: &[&str]| readside(&[&["wait", "--admin", &admin], more].concat());
    let wait = |offset: &str, more: &[&str]| {
        let record = ["--topic", &topic, "--partition", "0", "--offset", offset];
        ask(&[&record[..], more].concat())
    };
    let long = ["--timeout", "60s"];
    let ended = wait(&offset, &long);
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(0), "applied\n"), "{ended:?}");
    assert_eq!(rows(&reader(dir.path()), "SELECT count(*) FROM users"), ["2"]);
    assert_eq!(wait(&offset, &[&long[..], &["-o", "json"]].concat()).json()["outcome"], "applied");
    eventually("it is told that the record has not come", || {
        let ended = wait("1000", &["--timeout", "200ms"]);
        assert_eq!(ended.code, Some(69), "{ended:?}");
        // Not that there was no answer.
        ended.stderr.contains("not in the replica").then_some(())
    });
    let elsewhere = ["--topic", "elsewhere", "--partition", "0", "--offset", "0"];
    let ended = ask(&[&elsewhere[..], &long].concat());
    assert!(ended.code == Some(64) && ended.stderr.contains("elsewhere"), "{ended:?}");
    let ended = ask(&[&["--table", "users", "--key", "[1]", "--version", "1"][..], &long].concat());
    assert!(ended.code == Some(64) && ended.stderr.contains("no version"), "{ended:?}");
    let refused = broker.produce(&topic, [Message::new("3", r#"{"id":3}"#)]);
    let ended = wait(&refused[0].1.to_string(), &long);
    assert!(ended.code == Some(1) && ended.stderr.contains("_readside_dead_letters"), "{ended:?}");
    for probe in ["startup", "ready", "live"] {
        let asked = ["health", probe, "--http", &http, "--timeout", "60s"];
        assert_eq!(readside(&asked).code, Some(0), "{probe}");
    }

    daemon.terminate();
    // Its own ports may be somebody else's by now.
    let nobody = "127.0.0.1:1";
    let record = ["--topic", &topic, "--partition", "0", "--offset", &offset];
    for arguments in [
        &["status", "--admin", nobody][..],
        &["health", "--http", nobody, "--timeout", "60s"],
        &[&["wait", "--admin", nobody][..], &record].concat(),
    ] {
        let ended = readside(arguments);
        assert_eq!(ended.code, Some(69), "{ended:?}");
        assert!(ended.stderr.contains("is `readside run` running"), "{ended:?}");
    }
    // The replica speaks for itself.
    let found = readside(&["status", "-c", text(&file), "-o", "json"]).json();
    assert_eq!((&found["daemon"], &found["tables"][0]["rows"]), (&false.into(), &2.into()), "{found}");
}

#[test]
fn what_is_printed_for_editors_shells_and_readers() {
    let schema = readside(&["schema"]);
    assert_eq!(schema.code, Some(0));
    assert!(schema.json()["properties"]["tables"].is_object());
    let script = readside(&["completions", "bash"]);
    assert!(script.code == Some(0) && script.stdout.contains("complete -F _readside"), "{script:?}");
    let page = readside(&["man"]);
    assert!(page.code == Some(0) && page.stdout.contains(".TH readside 1"), "{page:?}");
    let version = readside(&["--version"]);
    assert!(version.code == Some(0) && version.stdout.contains(env!("CARGO_PKG_VERSION")), "{version:?}");
}

#[test]
fn the_demo_ends_by_itself_with_a_summary() {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().join("demo");
    let ended = readside(&["demo", "--for", "3s", "--dir", text(&home)]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    for word in ["users", "products", "orders", "replica.db"] {
        assert!(ended.stdout.contains(word), "{word}: {ended:?}");
    }
    assert!(home.join("replica.db").exists());
    assert_eq!(readside(&["validate", "-c", text(&home.join("readside.yaml"))]).code, Some(0));
    // Files of somebody else stay.
    let foreign = dir.path().join("foreign");
    std::fs::create_dir(&foreign).unwrap();
    std::fs::write(foreign.join("readside.yaml"), "kafka: {}\n").unwrap();
    assert_eq!(readside(&["demo", "--for", "1s", "--dir", text(&foreign)]).code, Some(64));
    assert_eq!(std::fs::read_to_string(foreign.join("readside.yaml")).unwrap(), "kafka: {}\n");
}

#[test]
fn what_is_no_replica_is_refused_and_left_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let path = replica(dir.path());
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let file = dir.path().join("readside.yaml");
    std::fs::write(&file, config(dir.path(), "127.0.0.1:1", "users")).unwrap();
    let run = || readside(&["run", "-c", text(&file)]);
    let alone = || std::fs::read_dir(path.parent().unwrap()).unwrap().count() == 1;

    let database = rusqlite::Connection::open(&path).unwrap();
    database.execute_batch("CREATE TABLE users (id INTEGER); INSERT INTO users VALUES (1);").unwrap();
    drop(database);
    let before = std::fs::read(&path).unwrap();
    let ended = run();
    assert!(ended.code == Some(78) && ended.stderr.contains("another program"), "{ended:?}");
    assert!(std::fs::read(&path).unwrap() == before && alone(), "the other program's file was touched");

    std::fs::write(&path, "just text\n").unwrap();
    let ended = run();
    assert!(ended.code == Some(78) && ended.stderr.contains("not a SQLite database"), "{ended:?}");
    assert!(std::fs::read(&path).unwrap() == b"just text\n" && alone(), "the text was touched");

    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    let ended = run();
    assert!(ended.code == Some(74) && ended.stderr.contains(text(&path)), "{ended:?}");
    assert!(path.is_dir() && std::fs::read_dir(&path).unwrap().count() == 0 && alone());
}

/// The first signal waits for the store, which somebody keeps busy; the second does not. It finds both when
/// it goes on: the store gives up soon, too, and then the first one would have ended it.
#[test]
fn a_second_signal_ends_at_once() {
    let Some(broker) = kafka::shared() else { return };
    let dir = tempfile::tempdir().unwrap();
    let topic = kafka::topic_name("signals");
    broker.create_topic(&topic, 1, &[]);
    broker.produce(&topic, [Message::new("1", r#"{"id":1,"name":"a"}"#)]);
    let file = dir.path().join("signals.yaml");
    std::fs::write(&file, config(dir.path(), &broker.bootstrap(), &topic)).unwrap();
    let mut daemon = Daemon::start_with(dir.path(), &file, &[]);
    daemon.started();
    let busy = rusqlite::Connection::open(replica(dir.path())).unwrap();
    busy.execute_batch("BEGIN IMMEDIATE").unwrap();
    broker.produce(&topic, [Message::new("2", r#"{"id":2,"name":"b"}"#)]);
    eventually("the store is busy", || {
        (daemon.metric("readside_store_connected") == Some(0.0)).then_some(())
    });
    daemon.signal(libc::SIGSTOP);
    daemon.signal(libc::SIGTERM);
    daemon.signal(libc::SIGINT);
    daemon.signal(libc::SIGCONT);
    assert_eq!(daemon.wait().code(), Some(1), "{}", daemon.log());
    for said in ["committing what is complete", "second signal"] {
        assert!(daemon.log().contains(said), "{said}: {}", daemon.log());
    }
    busy.execute_batch("ROLLBACK").unwrap();
    drop(busy);
    // Nothing is lost: the next start goes on.
    let mut daemon = Daemon::start_with(dir.path(), &file, &[]);
    daemon.started();
    eventually("the second user is there", || {
        (rows(&reader(dir.path()), "SELECT id FROM users ORDER BY id") == ["1", "2"]).then_some(())
    });
    assert_eq!(daemon.terminate().0.code(), Some(0));
}

#[test]
fn fixtures_are_tested_without_any_service() {
    let dir = tempfile::tempdir().unwrap();
    let fixtures = dir.path().join("fixtures");
    std::fs::create_dir(&fixtures).unwrap();
    let good = "config: { tables: { users: { topic: t, key: id, columns: { id: integer } } } }\n\
                cases: [{ name: one row, events: [{ value: { id: 1 } }], rows: { users: [{ id: 1 }] } }]\n";
    std::fs::write(fixtures.join("users.yaml"), good).unwrap();
    let junit = dir.path().join("junit.xml");
    let ended = readside(&["test", text(&fixtures), "--junit", text(&junit)]);
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{ended:?}");
    assert!(ended.stdout.ends_with("1 case, 0 failed\n"), "{ended:?}");
    assert!(std::fs::read_to_string(&junit).unwrap().contains("tests=\"1\" failures=\"0\""));

    std::fs::write(fixtures.join("users.yaml"), good.replace("[{ id: 1 }] }", "[{ id: 2 }] }")).unwrap();
    let ended = readside(&["test", text(&fixtures), "-o", "json"]);
    assert_eq!((ended.code, &ended.json()["passed"]), (Some(1), &false.into()), "{ended:?}");
    std::fs::write(fixtures.join("users.yaml"), good.replace("cases", "case")).unwrap();
    let ended = readside(&["test", text(&fixtures)]);
    assert!(ended.code == Some(64) && ended.stdout.contains("did you mean `cases`?"), "{ended:?}");
    let ended = readside(&["test", text(&dir.path().join("nowhere"))]);
    assert!(ended.code == Some(64) && ended.stderr.contains("cannot be read"), "{ended:?}");
}
