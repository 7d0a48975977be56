//! Input that means harm, or looks as if it did.

use proptest::prelude::*;

use super::super::{Outcome, Plan};
use super::support::*;
use crate::config::{Config, Format};
use crate::decode::avro::written::{bytes, long};
use crate::decode::flattened;
use crate::decode::registry::{self, Kind, Registry};
use crate::domain::dead_letter::Reason::{Malformed, OutOfRange, Schema};
use crate::domain::dead_letter::Rejection;
use crate::domain::value::Value;

fn config_of(format: Format) -> Config {
    let columns = [
        "id integer",
        "a text?",
        "b json?",
        "c timestamp? .deep.er.c",
        "d decimal?",
        "e blob?",
        "k text? $key.id",
    ];
    config(vec![topic("t", format)], vec![table("t", 1, &columns)])
}

fn feed(format: Format) -> Feed {
    Feed::of(&config_of(format))
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

const AVRO_FORMATS: [Format; 3] = [Format::Avro, Format::DebeziumAvro, Format::DebeziumFlatAvro];
/// What these formats read of a record, the key first.
fn avro_fields() -> Vec<&'static str> {
    let of_all = ["id", "a", "b", "d", "e", "deep", "op", "source", "after", "__table"];
    of_all.into_iter().chain(flattened::FIELDS).collect()
}

/// What each of them may be; a value says which by its place in the list.
const AVRO_TYPES: &str = r#"["null","boolean","long","double","bytes","string",{"type":"map","values":"string"},{"type":"array","items":"long"},"Any"]"#;
const AVRO_SCHEMA: u8 = 7;

/// The registry knows one record with all of the fields.
fn avro_feed(format: Format) -> Feed {
    let fields = avro_fields().into_iter().map(|name| format!(r#"{{"name":"{name}","type":{AVRO_TYPES}}}"#));
    let fields = fields.collect::<Vec<_>>().join(",");
    let text = format!(r#"{{"type":"record","name":"Any","fields":[{fields}]}}"#);
    let schema = registry::Schema { kind: Kind::Avro, text, references: Vec::new(), versions: Vec::new() };
    let config = config_of(format);
    let mut feed = Feed::of(&config);
    feed.plan = Plan::with_registry(&config, Some(Registry::fixed([(AVRO_SCHEMA.into(), schema)])));
    feed
}

/// A value of one of the types.
fn avro_value() -> impl Strategy<Value = Vec<u8>> {
    let of = |branch: i64, write: &dyn Fn(&mut Vec<u8>)| {
        let mut out = Vec::new();
        long(&mut out, branch);
        write(&mut out);
        out
    };
    let word = prop::sample::select(vec![
        "c",
        "d",
        "t",
        "r",
        "true",
        "last",
        "incremental",
        "__debezium_unavailable_value",
        r#"["1","2"]"#,
        r#"[null,"7"]"#,
        "2026-01-31",
    ]);
    let text = prop_oneof![word.prop_map(str::to_owned), any::<String>()];
    let leaf = prop_oneof![
        Just(of(0, &|_| {})),
        any::<bool>().prop_map(move |value| of(1, &|out| out.push(value.into()))),
        any::<i64>().prop_map(move |number| of(2, &|out| long(out, number))),
        any::<f64>().prop_map(move |number| of(3, &|out| out.extend(number.to_le_bytes()))),
        any::<Vec<u8>>().prop_map(move |value| of(4, &|out| bytes(out, &value))),
        text.clone().prop_map(move |value| of(5, &|out| bytes(out, value.as_bytes()))),
        text.prop_map(move |value| of(6, &|out| {
            long(out, 1);
            bytes(out, value.as_bytes());
            bytes(out, value.as_bytes());
            long(out, 0);
        })),
        any::<i64>().prop_map(move |number| of(7, &|out| {
            long(out, 1);
            long(out, number);
            long(out, 0);
        })),
    ];
    let fields = avro_fields().len();
    leaf.prop_recursive(2, 60, fields as u32, move |inner| {
        prop::collection::vec(inner, fields)
            .prop_map(move |fields| of(8, &|out| fields.iter().for_each(|field| out.extend(field))))
    })
}

/// A whole record, mostly with a key that is one.
fn avro_record() -> impl Strategy<Value = Vec<u8>> {
    let fields = prop::collection::vec(avro_value(), avro_fields().len());
    (prop::option::weighted(0.8, 0..3_i64), fields).prop_map(|(id, mut fields)| {
        if let Some(id) = id {
            fields[0].clear();
            long(&mut fields[0], 2);
            long(&mut fields[0], id);
        }
        framed(&fields.concat())
    })
}

fn framed(bytes: &[u8]) -> Vec<u8> {
    [&[0, 0, 0, 0, AVRO_SCHEMA][..], bytes].concat()
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
    fn any_avro_is_survived(key in avro_record(), value in avro_record()) {
        for format in AVRO_FORMATS {
            let mut feed = avro_feed(format);
            let outcome = feed.bytes(Some(&key), Some(&value));
            if let Outcome::Rejected(Rejection { reason: Malformed | Schema, path, .. }) = &outcome {
                prop_assert_ne!(path, ".", "it is a record of that schema, whatever is in it");
            }
            well_formed(&feed);
            feed.bytes(Some(&key), None);
            well_formed(&feed);
        }
    }

    #[test]
    fn any_bytes_behind_the_number_of_a_schema_are_survived(
        any in any::<Vec<u8>>(),
        mut value in avro_record(),
        at in any::<prop::sample::Index>(),
        byte: u8,
    ) {
        let any = framed(&any);
        let at = at.index(value.len());
        value[at] = byte;
        for format in AVRO_FORMATS {
            let mut feed = avro_feed(format);
            for bytes in [&value, &value[..at], &any] {
                feed.bytes(Some(&any), Some(bytes));
                well_formed(&feed);
            }
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
