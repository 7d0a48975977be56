use proptest::prelude::*;
use serde_json::Value;

use super::*;

/// The same answer by way of a whole document in memory.
fn oracle(document: &Value, path: &[String]) -> Field<'static> {
    let mut at = document;
    for name in path {
        at = match at {
            Value::Object(fields) => match fields.get(name) {
                Some(value) => value,
                None => return Field::Absent,
            },
            Value::Null => &Value::Null,
            _ => return Field::NotAnObject,
        };
    }
    Field::Json(at.to_string().leak())
}

fn documents() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "[a-z\"\\\\ü\n]{0,6}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 48, 12, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(name(), inner, 0..12)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

fn name() -> impl Strategy<Value = String> {
    // Few names, so that paths meet fields, with some that need escapes.
    prop::sample::select(vec!["a", "b", "c", "aa", "ab", "ba", "bb", "cc", "\"", "ü", "x y", ""])
        .prop_map(str::to_owned)
}

proptest! {
    #[test]
    fn it_finds_what_a_document_in_memory_holds(
        documents in prop::collection::vec(documents(), 1..4),
        paths in prop::collection::vec(prop::collection::vec(name(), 0..4), 0..14),
        pretty: bool,
    ) {
        let mut projection = Projection::new(".", paths.iter().map(|path| &path[..]));
        // Several in a row: what is remembered of one must not show in the next.
        for document in &documents {
            let text = if pretty { format!("{document:#}") } else { document.to_string() };
            let mut fields = Vec::new();
            projection.read(text.as_bytes(), &mut fields).unwrap();
            prop_assert_eq!(fields.len(), paths.len());
            for (path, found) in paths.iter().zip(&fields) {
                let found = match found {
                    // As values: the text is as sent, with its spaces.
                    Field::Json(text) => Field::Json(
                        serde_json::from_str::<Value>(text).unwrap().to_string().leak(),
                    ),
                    other => *other,
                };
                prop_assert_eq!(found, oracle(document, path), "{:?} in {}", path, document);
            }
            prop_assert_eq!(matches!(projection.root(), RootShape::Object { .. }), document.is_object());
        }
    }
}

#[test]
fn values_are_borrowed_as_sent() {
    let paths = [vec!["n".to_owned()], vec!["s".to_owned()]];
    let mut projection = Projection::new(".", paths.iter().map(|path| &path[..]));
    let text = r#" { "n" : 1.00e+2 , "\u0073" : "a\u0062" } "#;
    let mut fields = Vec::new();
    projection.read(text.as_bytes(), &mut fields).unwrap();
    assert_eq!(fields, [Field::Json("1.00e+2"), Field::Json(r#""a\u0062""#)]);
    assert_eq!(projection.root(), RootShape::Object { fields: 2 });
}

#[test]
fn messages_say_where_and_not_what() {
    let paths = [vec!["n".to_owned()]];
    let mut projection = Projection::new("$event", paths.iter().map(|path| &path[..]));
    let mut fields = Vec::new();
    let error = projection.read(br#"{"n":secret}"#, &mut fields).unwrap_err();
    assert_eq!(error.to_string(), "$event: is not valid JSON, line 1, column 6");
    let error = projection.read(br#"{"n":1"#, &mut fields).unwrap_err();
    assert_eq!(error.to_string(), "$event: ends in the middle of a value, line 1, column 6");
    let error = projection.read(b"{\"n\":\"\xFF\"}", &mut fields).unwrap_err();
    assert_eq!(error.to_string(), "$event: is not valid UTF-8 at byte 6");
    let error = projection.read(&[0, 0, 0, 0, 7, 0xFF], &mut fields).unwrap_err();
    let expected =
        "$event: begins with a zero byte: it was written with a schema registry, and is read as JSON";
    assert_eq!(error.to_string(), expected);
}
