//! Input that means harm, or looks as if it did.

use proptest::prelude::*;

use super::super::Outcome;
use super::support::*;
use crate::config::Format;
use crate::domain::dead_letter::Reason::{Malformed, OutOfRange};
use crate::domain::value::Value;

fn feed(format: Format) -> Feed {
    let columns = [
        "id integer",
        "a text?",
        "b json?",
        "c timestamp? .deep.er.c",
        "d decimal?",
        "e blob?",
        "k text? $key.id",
    ];
    Feed::new(topic("t", format), vec![table("t", 1, &columns)])
}

#[test]
fn bytes_that_are_not_json() {
    let mut feed = feed(Format::Json);
    let cases: [&[u8]; 14] = [
        b"",
        b" ",
        b"{",
        b"{\"id\":1",
        b"{\"id\":1}}",
        b"{\"id\":1} {}",
        b"{\"id\":1}\0",
        b"{'id':1}",
        b"{\"id\":01}",
        b"{\"id\":1,}",
        b"\xEF\xBB\xBF{\"id\":1}",
        b"{\"id\":1,\"a\":\"\xFF\"}",
        b"{\"id\":1,\"unmapped\":\"\xC3\x28\"}",
        b"{\"id\":1,\"a\":\"raw\ntab\"}",
    ];
    for bytes in cases {
        assert_eq!(refusal(&feed.bytes(None, Some(bytes))), (Malformed, "."), "{bytes:?}");
    }
}

#[test]
fn a_mapped_field_that_comes_twice_is_named() {
    let mut feed = feed(Format::Json);
    for (value, path) in [
        (r#"{"id":1,"id":1}"#, ".id"),
        (r#"{"id":1,"a":"x","\u0061":"y"}"#, ".a"),
        (r#"{"id":1,"deep":{"er":{}},"deep":{}}"#, ".deep"),
        (r#"{"id":1,"deep":{"er":{"c":null,"c":null}}}"#, ".deep.er.c"),
        (r#"{"id":1,"b":{},"b":null}"#, ".b"),
    ] {
        assert_eq!(refusal(&feed.value(value)), (Malformed, path), "{value}");
    }
    assert_eq!(feed.value(r#"{"id":1,"z":1,"z":2}"#), Outcome::Changes, "nobody reads it");
    // The next record is a new document.
    assert_eq!(feed.value(r#"{"id":1}"#), Outcome::Changes);
}

#[test]
fn ten_thousand_levels() {
    for (open, close) in [("[", "]"), ("{\"x\":", "}")] {
        let nested = |depth| format!("{}1{}", open.repeat(depth), close.repeat(depth));
        let deep = nested(10_000);
        let mut feed = feed(Format::Json);
        assert_eq!(feed.value(&format!(r#"{{"id":1,"unmapped":{deep}}}"#)), Outcome::Changes);
        assert_eq!(refusal(&feed.value(&format!(r#"{{"id":1,"b":{deep}}}"#))), (OutOfRange, ".b"));
        assert_eq!(
            refusal(&feed.value(&deep)).0,
            if open == "[" { Malformed } else { crate::domain::dead_letter::Reason::MissingKey }
        );
        let through = feed.value(&format!(r#"{{"id":1,"deep":{deep}}}"#));
        assert!(matches!(through, Outcome::Rejected(_) | Outcome::Changes));
        assert!(matches!(feed.value(&open.repeat(10_000)), Outcome::Rejected(_)));

        let mut feed = self::feed(Format::DebeziumJson);
        for value in [
            format!(r#"{{"op":"c","after":{{"id":1,"b":{deep}}},"source":{{"sequence":"[\"1\",\"2\"]"}}}}"#),
            format!(r#"{{"op":"c","after":{deep}}}"#),
            format!(r#"{{"schema":{deep},"payload":{{}}}}"#),
            format!(r#"{{"schema":{{"fields":{deep}}},"payload":{deep}}}"#),
        ] {
            assert!(matches!(feed.record(&deep, &value), Outcome::Rejected(_)));
        }
    }
}

const FORMATS: [Format; 5] =
    [Format::Json, Format::DebeziumJson, Format::DebeziumFlat, Format::Maxwell, Format::Canal];

fn json() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("null".to_owned()),
        Just("true".to_owned()),
        any::<i64>().prop_map(|number| number.to_string()),
        any::<f64>()
            .prop_filter("finite", |number| number.is_finite())
            .prop_map(|number| format!("{number:e}")),
        any::<String>().prop_map(|text| serde_json::to_string(&text).unwrap()),
        Just("\"2017-04-25T09:01:35Z\"".to_owned()),
        Just("\"__debezium_unavailable_value\"".to_owned()),
        Just(r#""[\"1\",\"2\"]""#.to_owned()),
        prop::sample::select(vec![
            "\"c\"",
            "\"u\"",
            "\"d\"",
            "\"t\"",
            "\"insert\"",
            "\"update\"",
            "\"UPDATE\"",
            "\"DELETE\""
        ])
        .prop_map(str::to_owned),
    ];
    let name = prop::sample::select(vec![
        "id",
        "a",
        "b",
        "c",
        "d",
        "e",
        "deep",
        "er",
        "before",
        "after",
        "op",
        "source",
        "sequence",
        "schema",
        "payload",
        "fields",
        "name",
        "x",
        "data",
        "old",
        "type",
        "__deleted",
        "__lsn",
        "__op",
    ]);
    leaf.prop_recursive(5, 64, 8, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(|list| format!("[{}]", list.join(","))),
            prop::collection::vec((name.clone(), inner), 0..8).prop_map(|fields| {
                let fields: Vec<_> =
                    fields.iter().map(|(name, value)| format!("\"{name}\": {value}")).collect();
                format!("{{{}}}", fields.join(","))
            }),
        ]
    })
}

/// Whatever comes out is a whole row whose values have their column's type.
fn well_formed(feed: &Feed) {
    for change in &feed.changes {
        if change.values.is_empty() {
            continue;
        }
        assert_eq!(change.values.len(), 7);
        assert!(matches!(change.values[0], Value::Integer(_)));
        for value in &change.values[1..] {
            assert!(matches!(value, Value::Absent | Value::Null | Value::Text(_) | Value::Blob(_)));
            if let Value::Text(text) = value {
                assert!(!text.contains('\0'));
            }
        }
    }
}

proptest! {
    #[test]
    fn any_bytes_are_survived(key in prop::option::of(any::<Vec<u8>>()), value in any::<Vec<u8>>()) {
        for format in FORMATS {
            let mut feed = feed(format);
            feed.bytes(key.as_deref(), Some(&value));
            well_formed(&feed);
        }
    }

    #[test]
    fn any_json_is_survived(key in json(), value in json()) {
        for format in FORMATS {
            let mut feed = feed(format);
            feed.record(&key, &value);
            well_formed(&feed);
            feed.tombstone(&key);
            well_formed(&feed);
        }
    }

    #[test]
    fn a_flipped_byte_is_survived(after in json(), at in any::<prop::sample::Index>(), byte: u8) {
        let value = format!(
            r#"{{"before":null,"after":{after},"op":"c","source":{{"sequence":"[\"1\",\"2\"]"}}}}"#
        );
        let mut bytes = value.into_bytes();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        let mut feed = feed(Format::DebeziumJson);
        feed.bytes(Some(&bytes), Some(&bytes));
        well_formed(&feed);
    }
}
