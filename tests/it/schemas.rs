//! `readside check` against a real registry: is the mapping right for every version of the schemas that
//! it reads?

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::daemon::{header, output, said};
use crate::kafka;
use crate::registry;

pub fn check(file: &Path, arguments: &[&str]) -> (i32, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_readside"));
    said(&output(command.args(["check", "--timeout", "60s", "--config"]).arg(file).args(arguments)))
}

fn record(fields: &str) -> String {
    format!(r#"{{"type":"record","name":"User","fields":[{{"name":"id","type":"long"}},{fields}]}}"#)
}

#[test]
fn check_compares_the_mapping_with_every_registered_version() {
    let Some(registry) = registry::shared() else { return };
    let dir = tempfile::tempdir().unwrap();
    let topic = kafka::topic_name("compatible");
    let file = dir.path().join("readside.yaml");
    // Nobody answers there: with `--schemas` nobody is asked.
    let yaml = format!(
        "{}schema_registry: {{ url: \"{}\" }}\ntopics: {{ {topic}: {{ format: avro }} }}\n\
         tables: {{ users: {{ topic: {topic}, key: id, columns: {{ id: integer, name: text, mail: text? }} }} }}\n",
        header("127.0.0.1:1", dir.path()),
        registry.url()
    );
    std::fs::write(&file, &yaml).unwrap();
    let (code, said) = check(&file, &["--schemas"]);
    assert!(code == 0 && said.contains("the registry has no such subject"), "{code}: {said}");

    let (value, key) = (format!("{topic}-value"), format!("{topic}-key"));
    let name = r#"{"name":"name","type":"string"}"#;
    let mail = r#"{"name":"mail","type":["null","string"],"default":null}"#;
    registry.register(&key, "AVRO", r#""long""#, &[]);
    registry.register(&value, "AVRO", &record(name), &[]);
    registry.register(&value, "AVRO", &record(&format!("{name},{mail}")), &[]);
    let (code, said) = check(&file, &["--schemas"]);
    assert_eq!(code, 0, "{said}");
    assert!(said.contains(&format!("warning schema {value} version 1: 3 places are read")), "{said}");
    assert!(
        said.contains("note: users.mail reads .mail: this schema does not have it: the column is null"),
        "{said}"
    );
    assert!(said.contains(&format!("ok      schema {value} version 2")), "{said}");
    assert!(said.contains(&format!("ok      schema {key} version 1")), "{said}");

    // Somebody renames a field: found before it is registered, and after.
    let renamed = record(r#"{"name":"full_name","type":"string"},{"name":"mail","type":"long"}"#);
    let candidate = dir.path().join("next.avsc");
    std::fs::write(&candidate, &renamed).unwrap();
    let schema = format!("{topic}={}", candidate.display());
    let (code, said) = check(&file, &["--schema", &schema]);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("breaks: users.name reads .name: this schema does not have it"), "{said}");
    assert!(said.contains("breaks: users.mail reads .mail: is an integer, and no text"), "{said}");
    registry.register(&value, "AVRO", &renamed, &[]);
    let (code, said) = check(&file, &["--schemas", "-o", "json"]);
    assert_eq!(code, 1, "{said}");
    let json: Value = serde_json::from_str(&said).unwrap();
    let schemas = json["schemas"].as_array().unwrap();
    let verdicts: Vec<&str> = schemas.iter().map(|schema| schema["verdict"].as_str().unwrap()).collect();
    assert_eq!(verdicts, ["warning", "fine", "breaks", "fine"], "{said}");
    assert!(json["ok"] == false && schemas[2]["version"] == 3 && schemas[2]["id"].is_u64(), "{said}");
    let broken =
        schemas[2]["readings"].as_array().unwrap().iter().find(|reading| reading["column"] == "name");
    assert_eq!(broken.unwrap()["path"], ".name");
    let (code, said) = check(&file, &["--schema", "nobody=next.avsc"]);
    assert!(code == 64 && said.contains("the configuration reads no topic \"nobody\""), "{code}: {said}");

    // A registry that is away is not a schema that breaks.
    let gate = registry.gate();
    gate.close();
    std::fs::write(&file, yaml.replace(&registry.url(), &gate.url())).unwrap();
    let (code, said) = check(&file, &["--schemas"]);
    assert!(code == 69 && said.contains("skipped schema"), "{code}: {said}");
}
