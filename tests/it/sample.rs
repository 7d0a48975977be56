//! `readside check --sample`: real records become fixtures that hold at once.

use std::path::Path;
use std::process::Command;

use crate::daemon::{header, output, said};
use crate::formats::Avro;
use crate::kafka::{self, Message};
use crate::registry;

fn readside(dir: &Path, arguments: &[&str]) -> (i32, String) {
    said(&output(Command::new(env!("CARGO_BIN_EXE_readside")).args(arguments).current_dir(dir)))
}

#[test]
fn real_records_become_fixtures_that_hold() {
    let (Some(broker), Some(registry)) = (kafka::shared(), registry::shared()) else { return };
    let dir = tempfile::tempdir().unwrap();
    let (users, people, missing) =
        (kafka::topic_name("sample"), kafka::topic_name("sample-avro"), kafka::topic_name("sample-missing"));
    broker.create_topic(&users, 2, &[]);
    broker.create_topic(&people, 1, &[]);
    let user = |id: u32| {
        Message::new(id.to_string(), format!(r#"{{"id":{id},"name":"n: {id}"}}"#)).to((id % 2) as i32)
    };
    broker.produce(
        &users,
        (1..=20).map(user).chain([Message::tombstone("19").to(1), Message::new("20", "{").to(0)]),
    );
    let schema = r#"{"type":"record","name":"Person","fields":[{"name":"id","type":"long"}]}"#;
    let id = registry.register(&format!("{people}-value"), "AVRO", schema, &[]);
    broker.produce(&people, [Message::new("1", Avro::of(id).long(1).0)]);
    let yaml = format!(
        "{}schema_registry: {{ url: \"{}\" }}\ntopics: {{ {people}: {{ format: avro, key_format: text }} }}\ntables:\n  \
         users: {{ topic: {users}, key: id, columns: {{ id: integer, name: text }} }}\n  \
         people: {{ topic: {people}, key: id, columns: {{ id: integer }} }}\n  \
         missing: {{ topic: {missing}, key: id, columns: {{ id: integer }} }}\n",
        header(&broker.bootstrap(), dir.path()),
        registry.url()
    );
    std::fs::write(dir.path().join("readside.yaml"), yaml).unwrap();
    let sample = ["check", "-c", "readside.yaml", "--sample", "6", "--timeout", "30s"];
    let (code, said) = readside(dir.path(), &sample);
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("7 records in fixtures/sample.jsonl"), "{said}");
    assert!(said.contains("may hold personal data"), "{said}");
    assert!(said.contains(&format!("topic {missing}: it does not exist")), "{said}");
    let fixture = std::fs::read_to_string(dir.path().join("fixtures/sample.yaml")).unwrap();
    assert!(
        fixture.contains("config: \"../readside.yaml\"") || fixture.contains("config: ../readside.yaml"),
        "{fixture}"
    );
    assert!(fixture.contains("reason: malformed") && fixture.contains("name: \"n: 18\""), "{fixture}");
    assert!(dir.path().join(format!("fixtures/schemas/{id}.avsc")).exists());

    // No broker and no registry is needed any more.
    let (code, said) = readside(dir.path(), &["test"]);
    assert!(code == 0 && said.contains("1 case, 0 failed"), "{code}: {said}");
    let file = dir.path().join("fixtures/sample.yaml");
    std::fs::write(&file, fixture.replace("n: 18", "n: 81")).unwrap();
    let (code, said) = readside(dir.path(), &["test"]);
    assert!(code == 1 && said.contains("name is `n: 18`, expected `n: 81`"), "{code}: {said}");
    // What somebody has worked on is not replaced.
    let (code, said) = readside(dir.path(), &sample);
    assert!(code == 64 && said.contains("is there already"), "{code}: {said}");
    let other = ["check", "-c", "readside.yaml", "--sample", "1", "--into", "more", "-o", "json"];
    let (code, said) = readside(dir.path(), &other);
    let json: serde_json::Value =
        serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}"));
    assert!(code == 0 && json["records"] == 3, "{said}");
}
