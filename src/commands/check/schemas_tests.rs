use super::*;
use crate::config;

fn config(topics: &str, tables: &str) -> Config {
    let yaml = format!(
        "kafka: {{ brokers: 'k:1' }}\nreplica: {{ sqlite: {{ path: /r.db }} }}\nschema_registry: {{ url: 'http://r:1' }}\n\
         topics: {{ {topics} }}\ntables: {{ {tables} }}\n"
    );
    config::parse(&yaml, "f.yaml", std::iter::empty()).unwrap_or_else(|errors| panic!("{errors}")).config
}

fn schema(kind: Kind, text: &str) -> Schema {
    Schema { kind, text: text.to_owned(), references: Vec::new(), versions: Vec::new() }
}

/// `path: verdict: message`, of what is not fine.
fn judged(config: &Config, schema: &Schema, version: Option<i64>) -> (Verdict, Vec<String>) {
    match compare(config, 0, Part::Value, schema, version) {
        Outcome::Judged(Compatibility { verdict, readings, .. }) => {
            let not_fine = readings.iter().filter(|reading| reading.verdict != Verdict::Fine);
            let line = |reading: &crate::mapping::compatibility::Reading| {
                let column = reading.column.as_deref().unwrap_or("-");
                format!("{column} {}: {:?}: {}", reading.path, reading.verdict, reading.message)
            };
            (verdict, not_fine.map(line).collect())
        }
        other => panic!("{other:?}"),
    }
}

const ROWS: &str = "users: { topic: t, key: id, columns: { id: integer, name: text, mail: text?, paid: decimal?, at: { type: 'timestamp?', from: .meta.at } } }";

fn avro(fields: &str) -> Schema {
    schema(
        Kind::Avro,
        &format!(r#"{{"type":"record","name":"User","namespace":"shop","fields":[{fields}]}}"#),
    )
}

const ID: &str = r#"{"name":"id","type":"long"}"#;
const REST: &str = r#"{"name":"name","type":"string"},{"name":"mail","type":["null","string"]},
    {"name":"paid","type":["null",{"type":"bytes","logicalType":"decimal","precision":9,"scale":2}]},
    {"name":"meta","type":{"type":"record","name":"Meta","fields":[{"name":"at","type":{"type":"long","logicalType":"timestamp-millis"}}]}}"#;

#[test]
fn a_schema_that_has_everything_is_fine() {
    let config = config("t: { format: avro, key_format: text }", ROWS);
    assert_eq!(judged(&config, &avro(&format!("{ID},{REST}")), None), (Verdict::Fine, vec![]));
}

#[test]
fn what_is_missing_or_of_another_type_is_named() {
    let config = config("t: { format: avro, key_format: text }", ROWS);
    let fields = r#"{"name":"id","type":"string"},{"name":"name","type":["null","string"]},
        {"name":"paid","type":["double","string"]},{"name":"meta","type":"string"}"#;
    let (verdict, found) = judged(&config, &avro(fields), None);
    assert_eq!(verdict, Verdict::Breaks);
    assert_eq!(
        found,
        [
            "id .id: Breaks: is a text, and no integer",
            "name .name: Warning: is null or a text; it may be null, and the column may not",
            "mail .mail: Warning: this schema does not have it: the column is null",
            "paid .paid: Warning: is a floating-point number or a text, of which a floating-point number is no decimal",
            "at .meta.at: Breaks: is a value without parts on the way, and no timestamp",
        ]
    );
}

#[test]
fn each_event_type_is_compared_with_the_record_of_its_name() {
    let config = config(
        "t: { format: protobuf, version: .sequence }",
        "orders: { topic: t, key: id, columns: { id: integer, status: text, at: timestamp? }, events: { \
         OrderPlaced: { upsert: { id: .order_id, status: '\"placed\"' } }, OrderGone: { delete: { id: .id } } } }",
    );
    let proto = "syntax = \"proto3\"; package shop; import \"google/protobuf/timestamp.proto\"; \
                 message OrderPlaced { uint64 order_id = 1; int64 sequence = 2; google.protobuf.Timestamp at = 3; } \
                 message OrderGone { string id = 1; int64 sequence = 2; }";
    let (verdict, found) = judged(&config, &schema(Kind::Protobuf, proto), None);
    assert_eq!(
        (verdict, found.as_slice()),
        (Verdict::Breaks, &["id .id: Breaks: is a text, and no integer".to_owned()][..])
    );
    let without = proto.replace("int64 sequence = 2; google", "google");
    let (_, found) = judged(&config, &schema(Kind::Protobuf, &without), None);
    assert_eq!(found[0], "- .sequence: Breaks: this schema does not have it");
}

#[test]
fn the_row_of_debezium_is_behind_null() {
    let config = config(
        "t: { format: debezium-avro, key_format: json }",
        ROWS.replace("from: .meta.at", "from: .at").as_str(),
    );
    let row = r#"{"type":"record","name":"Value","fields":[{"name":"id","type":"long"},{"name":"name","type":"string"},{"name":"mail","type":["null","string"]},{"name":"paid","type":["null","string"]},{"name":"at","type":["null",{"type":"long","connect.name":"io.debezium.time.MicroTimestamp"}]}]}"#;
    let envelope = |after: &str| {
        avro(&format!(
            r#"{{"name":"before","type":["null",{row}]}},{{"name":"after","type":{after}}},{{"name":"op","type":"string"}}"#
        ))
    };
    assert_eq!(judged(&config, &envelope(r#"["null","Value"]"#), None), (Verdict::Fine, vec![]));
    let (verdict, found) = judged(&config, &envelope(r#""string""#), None);
    assert!(verdict == Verdict::Breaks && found.len() == 5, "{found:?}");
}

#[test]
fn a_flattened_row_of_debezium_is_the_record_and_has_a_version() {
    let columns = "users: { topic: t, key: id, when: '.__table == \"users\"', columns: { id: integer, day: date?, note: json? } }";
    let of = |topic: &str| config(topic, columns);
    let flattened = of("t: { format: debezium-flat-avro }");
    let row = r#"{"name":"id","type":"long"},{"name":"day","type":["null",{"type":"int","connect.name":"io.debezium.time.Date"}]},
        {"name":"note","type":["null",{"type":"string","connect.name":"io.debezium.data.Json"}]}"#;
    let table = r#"{"name":"__table","type":["null","string"]}"#;
    for version in ["__source_sequence", "__sequence", "__lsn", "__source_lsn"] {
        let schema = avro(&format!(r#"{row},{table},{{"name":"{version}","type":["null","long"]}}"#));
        assert_eq!(judged(&flattened, &schema, None), (Verdict::Fine, vec![]), "{version}");
    }
    let (verdict, found) = judged(&flattened, &avro(row), None);
    assert_eq!(verdict, Verdict::Breaks);
    assert_eq!(
        found,
        [
            "- .__source_sequence, .__sequence, .__lsn, .__source_lsn: Breaks: this schema has none of them; have the connector add `lsn` and `source.sequence`, or say `version: position`",
            "- .__table == \"users\": Warning: reads .__table, which this schema does not have: null there",
        ]
    );
    // The topic's own version takes their place.
    let own = of("t: { format: debezium-flat-avro, version: .id }");
    assert_eq!(judged(&own, &avro(&format!("{row},{table}")), None), (Verdict::Fine, vec![]));
    let by_position = of("t: { format: debezium-flat-avro, version: position }");
    assert_eq!(judged(&by_position, &avro(&format!("{row},{table}")), None), (Verdict::Fine, vec![]));
    // Nobody has flattened it.
    let envelope = avro(&format!(
        r#"{{"name":"after","type":["null",{{"type":"record","name":"Value","fields":[{row}]}}]}}"#
    ));
    assert_eq!(judged(&flattened, &envelope, None).0, Verdict::Breaks);
}

#[test]
fn json_schema_says_what_is_required_and_what_is_not() {
    let config = config("t: { format: json-schema, key_format: text }", ROWS);
    let text = r##"{"type":"object","required":["id","meta"],"properties":{"id":{"oneOf":[{"type":"integer"}]},"name":{"$ref":"#/definitions/name"},
        "mail":{"type":["string","null"]},"paid":{"type":"number"},"meta":{"type":"object","properties":{"at":{"type":"boolean"}}}},
        "definitions":{"name":{"type":"string"}}}"##;
    let (verdict, found) = judged(&config, &schema(Kind::Json, text), None);
    assert_eq!(verdict, Verdict::Breaks);
    assert_eq!(
        found,
        [
            "name .name: Warning: is a text or nothing; it may be left out, and the column may not",
            "at .meta.at: Breaks: is a boolean, and no timestamp",
        ]
    );
}

#[test]
fn versions_of_the_registry_choose_how_a_schema_is_read() {
    let config = config(
        "t: { format: avro, key_format: text, schema: { version: $schema.version, current: 2 }, upcast: [{ from: 1, to: 2, rename: { .name: .title } }] }",
        "users: { topic: t, key: id, columns: { id: integer, name: text } }",
    );
    let (title, name) = (r#"{"name":"title","type":"string"}"#, r#"{"name":"name","type":"string"}"#);
    let judge = |field: &str, version| judged(&config, &avro(&format!("{ID},{field}")), version).0;
    assert_eq!(judge(title, Some(1)), Verdict::Fine);
    assert_eq!(judge(name, Some(2)), Verdict::Fine);
    assert_eq!(judge(title, Some(2)), Verdict::Breaks);
    assert_eq!(judge(name, Some(3)), Verdict::Breaks, "nobody has declared it");
    // A candidate has no version yet: one of them is enough.
    assert_eq!(judge(title, None), Verdict::Fine);
}

#[test]
fn what_jq_reads_is_looked_for() {
    let config = config(
        "t: { format: avro, key_format: text }",
        "users: { topic: t, key: id, when: .active and .old != true, columns: { id: integer, name: { type: text, from: .name | ascii_downcase } } }",
    );
    let fields = format!(r#"{ID},{{"name":"active","type":"boolean"}}"#);
    let (verdict, found) = judged(&config, &avro(&fields), None);
    assert_eq!(verdict, Verdict::Warning);
    assert!(
        found.iter().any(|line| line.contains("reads .old, which this schema does not have")),
        "{found:?}"
    );
    assert!(found.iter().any(|line| line.contains("reads .name, which")), "{found:?}");
}

#[test]
fn what_makes_no_sense_is_a_usage_error_and_a_broken_schema_breaks() {
    let config = config(
        "t: { format: avro, key_format: text }, j: { format: json }",
        &format!("{ROWS}, others: {{ topic: j, key: id, columns: {{ id: integer }} }}"),
    );
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("s.avsc");
    std::fs::write(&file, "{").unwrap();
    let judged = candidates(&config, &[("t".into(), file.clone())]).unwrap();
    assert_eq!(judged.code(), FAILED);
    assert!(
        judged.as_text().starts_with("FAILED  schema ") && judged.as_text().contains("cannot be used"),
        "{}",
        judged.as_text()
    );
    assert_eq!(judged.as_json()["ok"], false);
    for (topic, file) in [("x", file.clone()), ("j", file), ("t", dir.path().join("nowhere"))] {
        let error = candidates(&config, &[(topic.into(), file)]).unwrap_err();
        assert_eq!(crate::commands::exit_code(&error), crate::commands::USAGE);
    }
}

/// The last step of docs/EVOLUTION.md.
#[test]
fn step_10_a_schema_that_would_break_the_mapping_is_found_before_it_is_used() {
    let config = config(
        "orders: { format: avro, key_format: text }",
        "orders: { topic: orders, key: id, columns: { id: integer, total: decimal } }",
    );
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("next.avsc");
    let total = r#"{"name":"total","type":"string"}"#;
    for (field, code) in [(total.to_owned(), DONE), (total.replace("total", "amount"), FAILED)] {
        std::fs::write(&file, avro(&format!("{ID},{field}")).text).unwrap();
        let judged = candidates(&config, &[("orders".into(), file.clone())]).unwrap();
        assert_eq!(judged.code(), code, "{}", judged.as_text());
    }
}
