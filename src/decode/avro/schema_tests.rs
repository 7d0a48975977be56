use super::*;

fn error(text: &str) -> String {
    parse(text, &[]).map(|_| ()).unwrap_err().to_string()
}

fn field_of(schema: &Schema, name: &str) -> NodeId {
    let Type::Record { fields, .. } = &schema.nodes[schema.root].ty else { panic!("no record") };
    fields.iter().find(|field| field.name == name).unwrap().node
}

#[test]
fn names_are_found_in_their_namespaces_and_inside_themselves() {
    let schema = parse(
        r#"{"type":"record","name":"a.b.List","fields":[
            {"name":"value","type":{"type":"enum","name":"Kind","symbols":["X"]}},
            {"name":"again","type":"Kind"},{"name":"full","type":"a.b.Kind"},
            {"name":"next","type":["null","List"]}]}"#,
        &[],
    )
    .unwrap();
    let kind = field_of(&schema, "value");
    assert_eq!((field_of(&schema, "again"), field_of(&schema, "full")), (kind, kind));
    let Type::Union { branches } = &schema.nodes[field_of(&schema, "next")].ty else { panic!("no union") };
    assert_eq!(branches[1], schema.root);
    assert!(matches!(parse("string", &[]).unwrap().nodes[..], [Node { ty: Type::String, .. }]));
}

#[test]
fn references_are_read_in_whatever_order_they_come() {
    let text = r#"{"type":"record","name":"C","fields":[{"name":"b","type":"x.B"}]}"#;
    let b = r#"{"type":"record","name":"B","namespace":"x","fields":[{"name":"a","type":"x.A"}]}"#;
    let a = r#"{"type":"fixed","name":"A","namespace":"x","size":2}"#;
    assert!(parse(text, &[b, a]).is_ok());
    assert!(parse(text, &[a, b]).is_ok());
    let missing = parse(text, &[b]).unwrap_err().to_string();
    assert!(missing.contains("x.A"), "{missing}");
}

#[test]
fn meanings_are_logical_types_and_names_of_connect() {
    let meaning = |text: &str| parse(text, &[]).unwrap().nodes[0].meaning;
    let logical = |logical| Some(Meaning::Logical(logical));
    for (text, expected) in [
        (
            r#"{"type":"bytes","logicalType":"decimal","precision":4,"scale":2}"#,
            logical(Logical::Decimal { scale: 2 }),
        ),
        (r#"{"type":"bytes","logicalType":"decimal","precision":4}"#, logical(Logical::Decimal { scale: 0 })),
        (r#"{"type":"int","logicalType":"date"}"#, logical(Logical::Date)),
        (r#"{"type":"long","logicalType":"time-micros"}"#, logical(Logical::Time(Encoding::Micros))),
        (r#"{"type":"long","logicalType":"timestamp-nanos"}"#, logical(Logical::Timestamp(Encoding::Nanos))),
        (
            r#"{"type":"long","logicalType":"local-timestamp-millis"}"#,
            logical(Logical::Timestamp(Encoding::Millis)),
        ),
        (r#"{"type":"string","logicalType":"uuid"}"#, Some(Meaning::Uuid)),
        // It does not fit its type, or nobody knows it: the type counts.
        (r#"{"type":"string","logicalType":"date"}"#, None),
        (r#"{"type":"int","logicalType":"moon-phase"}"#, None),
        (
            r#"{"type":"long","connect.name":"io.debezium.time.MicroTimestamp"}"#,
            logical(Logical::Timestamp(Encoding::Micros)),
        ),
        (r#"{"type":"string","connect.name":"io.debezium.time.ZonedTimestamp"}"#, None),
        (r#"{"type":"string","connect.name":"io.debezium.time.Date"}"#, None),
    ] {
        assert_eq!(meaning(text), expected, "{text}");
    }
}

#[test]
fn what_is_no_schema_says_why() {
    for (text, expected) in [
        ("", "not JSON"),
        ("7", "neither a name"),
        ("\"Nobody\"", "unknown type Nobody"),
        ("[]", "without branches"),
        (r#"["null",["int"]]"#, "union in a union"),
        ("{}", "without `type`"),
        (r#"{"type":"record","name":"A"}"#, "list of fields"),
        (r#"{"type":"record","fields":[]}"#, "without a name"),
        (r#"{"type":"record","name":"A","fields":[{"name":"x"}]}"#, "no type"),
        (
            r#"{"type":"record","name":"A","fields":[{"name":"x","type":"int"},{"name":"x","type":"int"}]}"#,
            "twice",
        ),
        (r#"{"type":"enum","name":"A"}"#, "symbols"),
        (r#"{"type":"enum","name":"A","symbols":["X"],"default":"Y"}"#, "default of the enum"),
        (r#"{"type":"fixed","name":"A","size":-1}"#, "no size"),
        (r#"{"type":"array"}"#, "items"),
        (r#"{"type":"map"}"#, "values"),
    ] {
        assert!(error(text).contains(expected), "{text}: {}", error(text));
    }
    let deep = format!("{}\"int\"{}", r#"{"type":"array","items":"#.repeat(100), "}".repeat(100));
    assert!(error(&deep).contains("nests deeper"));
    assert!(!error(&"[".repeat(100_000)).is_empty());
}

/// A default of the wrong type makes a schema unusable.
#[test]
fn defaults_have_to_be_values_of_their_types() {
    let with = |ty: &str, default: &str| {
        let text = format!(
            r#"{{"type":"record","name":"A","fields":[{{"name":"x","type":{ty},"default":{default}}}]}}"#
        );
        parse(&text, &[]).is_ok()
    };
    let point = r#"{"type":"record","name":"P","fields":[{"name":"a","type":"int"}]}"#;
    for (ty, default, fits) in [
        (r#""long""#, "1", true),
        (r#""long""#, "\"1\"", false),
        (r#""int""#, "2147483648", false),
        (r#""boolean""#, "0", false),
        (r#""double""#, "1", true),
        (r#""double""#, "\"NaN\"", true),
        (r#""string""#, "null", false),
        (r#"["null","string"]"#, "null", true),
        (r#"["null","string"]"#, "\"x\"", true),
        (r#"["null","string"]"#, "1", false),
        (r#"{"type":"array","items":"int"}"#, "[]", true),
        (r#"{"type":"array","items":"int"}"#, "[\"x\"]", false),
        (r#"{"type":"map","values":"int"}"#, "{}", true),
        (r#"{"type":"fixed","name":"F","size":2}"#, "\"ab\"", true),
        (r#"{"type":"fixed","name":"F","size":2}"#, "\"abc\"", false),
        (r#"{"type":"enum","name":"E","symbols":["X"]}"#, "\"Y\"", false),
        (point, r#"{"a":1}"#, true),
        (point, r#"{"a":"1"}"#, false),
    ] {
        assert_eq!(with(ty, default), fits, "{ty} {default}");
    }
}

/// Each level of this default fits either branch, until the last fits none.
#[test]
fn a_default_is_looked_at_for_so_many_steps() {
    let union = r#"["null","A","B"]"#;
    let record = |name: &str, of: &str| {
        format!(r#"{{"type":"record","name":"{name}","fields":[{{"name":"n","type":{of}}}]}}"#)
    };
    let b = record("B", union);
    let a = record("A", &format!(r#"["null","A",{b}]"#));
    let default = format!("{}1{}", r#"{"n":"#.repeat(22), "}".repeat(22));
    let text = format!(
        r#"{{"type":"record","name":"R","fields":[{{"name":"a","type":{a}}},{{"name":"x","type":{union},"default":{default}}}]}}"#
    );
    assert!(error(&text).contains("takes too long to look at"), "{}", error(&text));
}

#[test]
fn a_record_of_very_many_fields_is_read() {
    let fields: Vec<String> = (0..50_000).map(|n| format!(r#"{{"name":"f{n}","type":"int"}}"#)).collect();
    let with =
        |more: &str| format!(r#"{{"type":"record","name":"R","fields":[{}{more}]}}"#, fields.join(","));
    assert!(parse(&with(""), &[]).is_ok());
    assert!(error(&with(r#",{"name":"f7","type":"int"}"#)).contains("field f7 twice"));
}
