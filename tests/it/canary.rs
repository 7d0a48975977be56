//! Secrets and values that were planted must not show up anywhere: logs, status, metrics, errors.

use std::path::Path;
use std::process::Command;

use crate::daemon::{Daemon, output, reader, replica, rows};
use crate::kafka::{self, Message, eventually};

const SECRET: &str = "canary-7d1f-secret";
/// In a record that is refused: what is personal must not get out by the way of an error message.
const VALUE: &str = "canary-93ab-value";

/// Both streams of a command of ours.
fn said(dir: &Path, arguments: &[&str], variables: &[(&str, &str)]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_readside"));
    let done = output(command.args(arguments).current_dir(dir).envs(variables.iter().copied()));
    format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr))
}

fn silent(what: &str, text: &str) {
    assert!(!text.is_empty(), "{what} says nothing, so it proves nothing");
    assert!(!text.contains(SECRET), "the secret is in {what}:\n{text}");
    assert!(!text.contains(VALUE), "the value is in {what}:\n{text}");
}

#[test]
fn a_planted_password_and_a_refused_value_show_up_nowhere() {
    let Some(broker) = kafka::shared() else { return };
    let dir = tempfile::tempdir().unwrap();
    let topic = kafka::topic_name("canary");
    broker.create_topic(&topic, 1, &[]);
    broker.produce(
        &topic,
        [
            Message::new("1", r#"{"id":1,"name":"Ada"}"#),
            Message::new("2", format!(r#"{{"id":"{VALUE}","name":"x"}}"#)),
            Message::new("3", format!(r#"{{"id":3,"name":"{VALUE}""#)),
            Message::new(VALUE, "null and void"),
        ],
    );
    let password = dir.path().join("password");
    std::fs::write(&password, format!("{SECRET}\n")).unwrap();
    let config = dir.path().join("readside.yaml");
    let yaml = format!(
        "kafka:\n  brokers: '{}'\n  properties: {{ security.protocol: SASL_PLAINTEXT, sasl.mechanism: PLAIN, \
         sasl.username: '{}' }}\n  secrets: {{ sasl.password: {} }}\n\
         replica: {{ sqlite: {{ path: {} }} }}\nhttp: {{ listen: '127.0.0.1:0' }}\nadmin: {{ listen: '127.0.0.1:0' }}\n\
         log: {{ level: trace }}\n\
         tables:\n  users: {{ topic: {topic}, key: id, columns: {{ id: integer, name: text }} }}\n",
        broker.sasl_bootstrap(),
        kafka::USER,
        password.display(),
        replica(dir.path()).display(),
    );
    std::fs::write(&config, yaml).unwrap();
    let file = config.to_str().unwrap();

    // The password is refused: that is an error about the secret.
    let mut daemon = Daemon::start_with(dir.path(), &config, &[]);
    eventually("the password is refused", || {
        daemon.log().to_lowercase().contains("authentication").then_some(())
    });
    let (http, admin) = daemon.listeners();
    for path in ["/metrics", "/startupz", "/readyz", "/livez"] {
        silent(path, &daemon.get(path).unwrap().1);
    }
    for path in ["/status", "/"] {
        silent(path, &daemon.admin(path).unwrap().1);
    }
    silent("check", &said(dir.path(), &["check", "--config", file, "--timeout", "3s"], &[]));
    silent("validate", &said(dir.path(), &["validate", "--config", file], &[]));
    silent("the log", &daemon.log());

    // Then the right one, and records that are refused.
    std::fs::write(&password, kafka::PASSWORD).unwrap();
    daemon.started();
    eventually("three dead letters", || (daemon.metric_sum("readside_dead_letters")? == 3.0).then_some(()));
    for path in ["/metrics", "/startupz"] {
        let (_, body) = daemon.get(path).unwrap();
        silent(path, &body);
        assert!(!body.contains(kafka::PASSWORD), "{path}");
    }
    silent("/status", &daemon.admin("/status").unwrap().1);
    silent("status", &said(dir.path(), &["status", "--verbose", "--admin", &admin], &[]));
    silent("health", &said(dir.path(), &["health", "--http", &http], &[]));
    let letters = rows(
        &reader(dir.path()),
        "SELECT topic, path, reason, message, key, value, headers FROM _readside_dead_letters",
    );
    assert_eq!(letters.len(), 3);
    silent("the dead letters", &letters.join("\n"));
    silent("the log", &daemon.log());
    assert!(!daemon.log().contains(kafka::PASSWORD));
}

/// Where secrets are put by mistake: the message says so without quoting them.
#[test]
fn a_secret_in_the_wrong_place_is_refused_without_being_quoted() {
    let dir = tempfile::tempdir().unwrap();
    let place = "replica: { sqlite: { path: /replica/replica.db } }\n";
    let table = "tables: { t: { topic: t, key: id, columns: { id: integer } } }\n";
    let wrong = [
        format!("kafka: {{ brokers: 'a:1', properties: {{ sasl.password: {SECRET} }} }}\n{place}{table}"),
        format!("kafka: {{ brokers: 'a:1', properties: {{ ssl.key.password: {SECRET} }} }}\n{place}{table}"),
        format!("kafka: {{ brokers: 'a:1', sasl_password: {SECRET} }}\n{place}{table}"),
        format!(
            "kafka: {{ brokers: 'a:1' }}\nreplica: {{ redis: {{ url: 'redis://u:{SECRET}@h:1' }} }}\n{table}"
        ),
    ];
    for (number, yaml) in wrong.iter().enumerate() {
        let config = dir.path().join(format!("{number}.yaml"));
        std::fs::write(&config, yaml).unwrap();
        let file = config.to_str().unwrap();
        for command in
            [&["validate", "--config", file][..], &["run", "--config", file], &["check", "--config", file]]
        {
            let text = said(dir.path(), command, &[]);
            assert!(text.contains(&format!("{number}.yaml")), "{yaml}: {text}");
            silent(&format!("{}: {yaml}", command[0]), &text);
        }
    }
    // A variable that sets nothing is named, its value is not.
    let config = dir.path().join("good.yaml");
    std::fs::write(&config, format!("kafka: {{ brokers: 'a:1' }}\n{place}{table}")).unwrap();
    let file = config.to_str().unwrap();
    for name in ["READSIDE__KAFKA__SASL_PASSWORD", "READSIDE__KAFKA__PROPERTIES__SASL__PASSWORD"] {
        let text = said(dir.path(), &["validate", "--config", file], &[(name, SECRET)]);
        assert!(text.contains(name), "{text}");
        silent(name, &text);
    }
    let text = said(
        dir.path(),
        &["validate", "--config", file],
        &[("READSIDE__KAFKA__SECRETS__SASL__PASSWORD", SECRET)],
    );
    // Meant as a path, but somebody will put the password there: `validate` does not look, `check` does.
    assert!(text.contains("is valid"), "{text}");
    silent("check", &said(dir.path(), &["check", "--config", file, "--timeout", "1s"], &[]));
}
