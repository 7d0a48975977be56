//! `readside explain` against both stores, while the daemon runs and after it: which events made a row.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::daemon::{Daemon, header, output, said};
use crate::examples::feed;
use crate::kafka::{self, Broker, Message};
use crate::redis_server;

/// Exit code and what was said.
fn explain(dir: &Path, arguments: &[&str]) -> (i32, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_readside"));
    command.arg("explain").args(arguments).arg("--config").arg(dir.join("readside.yaml"));
    said(&output(&mut command))
}

fn json(dir: &Path, arguments: &[&str]) -> Value {
    let (code, said) = explain(dir, &[arguments, &["-o", "json"]].concat());
    assert_eq!(code, 0, "{said}");
    serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}"))
}

fn tables(topic: &str) -> String {
    format!(
        "dead_letters: {{ keep: coordinates }}\n\
         topics: {{ {topic}: {{ format: json, event_type: .type, version: .v }} }}\n\
         tables:\n  orders:\n    topic: {topic}\n    key: id\n    \
         columns: {{ id: integer, status: text, total: decimal, note: text? }}\n    events:\n      \
         Placed: {{ upsert: {{ id: .id, status: '\"placed\"', total: .total, note: .note }} }}\n      \
         Shipped: {{ patch: {{ id: .id, status: '\"shipped\"' }} }}\n      \
         Erased: {{ delete: {{ id: .id }} }}\n"
    )
}

fn event(value: &str) -> Message {
    Message::without_key(value).to(0)
}

/// The same history in whichever store `replica` names.
fn both_speak_alike(broker: &Broker, replica: impl Fn(&Path) -> String, gone: impl Fn(&Path)) {
    let dir = tempfile::tempdir().unwrap();
    let topic = kafka::topic_name("explain");
    broker.create_topic(&topic, 1, &[]);
    let yaml = format!("{}{}", replica(dir.path()), tables(&topic));
    let mut daemon = Daemon::start(dir.path(), &yaml);
    daemon.started();
    let events = [
        event(r#"{"type":"Placed","v":1,"id":1,"total":10.50,"note":"n"}"#),
        event(r#"{"type":"Shipped","v":2,"id":1}"#),
        event(r#"{"type":"Shipped","v":3,"id":2}"#),
        event(r#"{"type":"Placed","v":4,"id":3,"total":1}"#),
        event(r#"{"type":"Erased","v":5,"id":3}"#),
        event(r#"{"type":"Placed","v":6,"id":1,"total":"much"}"#),
    ];
    feed(&mut daemon, broker, &topic, events);

    let row = json(dir.path(), &["orders", "1"]);
    assert_eq!((&row["state"], &row["key"]["id"]), (&"visible".into(), &"1".into()), "{row}");
    let set_by = |row: &Value, column: usize| {
        let column = &row["columns"][column];
        (
            column["name"].clone(),
            column["value"].clone(),
            column["set_by"]["offset"].clone(),
            column["set_by"]["version"].clone(),
        )
    };
    assert_eq!(set_by(&row, 1), ("status".into(), "shipped".into(), 1.into(), 2.into()));
    assert_eq!(set_by(&row, 2), ("total".into(), "10.50".into(), 0.into(), 1.into()));
    assert_eq!(row["events"][0]["topic"], topic);
    assert_eq!(row["events"][1]["columns"], serde_json::json!(["total", "note"]));
    // The refused event: nothing but its place is kept.
    assert_eq!(row["dead_letters"]["of_unknown_key"][0]["offset"], 5);
    assert_eq!(row["mapping"][0]["rules"].as_array().unwrap().len(), 3);

    let fetched = json(dir.path(), &["orders", "1", "--fetch", "--timeout", "30s"]);
    let original = |event: usize| fetched["events"][event]["original"]["event_type"].clone();
    assert_eq!((original(0), original(1)), ("Shipped".into(), "Placed".into()), "{fetched}");
    assert!(fetched["events"][0]["original"]["timestamp"].is_string(), "{fetched}");
    assert_eq!(fetched["dead_letters"]["of_this_key"][0]["offset"], 5, "{fetched}");
    let other = json(dir.path(), &["orders", "2", "--fetch", "--timeout", "30s"]);
    assert_eq!(
        (&other["state"], &other["lacks"]),
        (&"held".into(), &serde_json::json!(["total"])),
        "{other}"
    );
    assert_eq!(other["dead_letters"]["of_this_key"].as_array().unwrap().len(), 0, "of another row: {other}");

    // Also when no daemon runs.
    drop(daemon);
    let deleted = json(dir.path(), &["orders", "3"]);
    assert_eq!(
        (&deleted["state"], &deleted["deleted"]["offset"]),
        (&"deleted".into(), &4.into()),
        "{deleted}"
    );
    let (code, said) = explain(dir.path(), &["orders", "1"]);
    assert_eq!(code, 0, "{said}");
    assert!(said.starts_with("orders, id 1: visible\n"), "{said}");
    assert!(said.contains(&format!("{topic} 0/1, version 2")), "{said}");
    let (code, said) = explain(dir.path(), &["orders", "99"]);
    assert!(code == 1 && said.starts_with("orders, id 99: unknown\n"), "{code}: {said}");
    for (wrong, words) in
        [(&["oders", "1"][..], "did you mean \"orders\"?"), (&["orders", "x"], "key column id")]
    {
        let (code, said) = explain(dir.path(), wrong);
        assert!(code == 64 && said.contains(words), "{code}: {said}");
    }
    // A broker that does not answer costs the events' times, and no more time than was given.
    let file = dir.path().join("readside.yaml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace(&broker.bootstrap(), "127.0.0.1:1")).unwrap();
    let row = json(dir.path(), &["orders", "1", "--fetch", "--timeout", "1s"]);
    assert_eq!(row["state"], "visible", "{row}");
    let missing = row["events"][0]["original"]["missing"].as_str().unwrap_or_default();
    assert!(missing.contains("do not answer") || missing.contains("no time left"), "{row}");
    // Under another mapping the copy is not guessed at.
    std::fs::write(&file, text.replace("note: .note", "note: .remark")).unwrap();
    let (code, said) = explain(dir.path(), &["orders", "1"]);
    assert!(code == 69 && said.contains("under another mapping"), "{code}: {said}");
    std::fs::write(&file, text).unwrap();
    gone(dir.path());
    let (code, said) = explain(dir.path(), &["orders", "1"]);
    assert_eq!(code, 69, "{said}");
}

#[test]
fn a_row_in_sqlite_says_which_events_made_it() {
    let Some(broker) = kafka::shared() else { return };
    both_speak_alike(
        broker,
        |dir| header(&broker.bootstrap(), dir),
        |dir| std::fs::remove_dir_all(crate::daemon::replica(dir).parent().unwrap()).unwrap(),
    );
}

#[test]
fn a_row_in_redis_says_which_events_made_it() {
    let Some(broker) = kafka::shared() else { return };
    let Some(server) = redis_server::start(&[]) else { return };
    let url = server.url();
    let server = std::cell::RefCell::new(server);
    both_speak_alike(
        broker,
        |_| {
            format!(
                "kafka: {{ brokers: '{}' }}\nreplica: {{ redis: {{ url: '{url}', prefix: 'shop:' }} }}\n",
                broker.bootstrap()
            )
        },
        |_| server.borrow_mut().kill(),
    );
}
