use proptest::prelude::*;

use super::super::schema::parse;
use super::super::written::{bytes, long};
use super::*;

const ALL: &str = r#"{"type":"record","name":"All","fields":[
  {"name":"id","type":"long"},
  {"name":"flag","type":"boolean"},
  {"name":"small","type":"float"},
  {"name":"text","type":"string"},
  {"name":"bytes","type":"bytes"},
  {"name":"uuid","type":{"type":"fixed","name":"U","size":16,"logicalType":"uuid"}},
  {"name":"kind","type":{"type":"enum","name":"K","symbols":["A","B"]}},
  {"name":"price","type":{"type":"bytes","logicalType":"decimal","precision":9,"scale":2}},
  {"name":"day","type":{"type":"int","logicalType":"date"}},
  {"name":"maybe","type":["null","string","long"]},
  {"name":"tags","type":{"type":"array","items":"string"}},
  {"name":"by_name","type":{"type":"map","values":["null","int","All"]}},
  {"name":"inner","type":["null",{"type":"record","name":"Inner","fields":[
     {"name":"at","type":{"type":"long","logicalType":"timestamp-millis"}},{"name":"nothing","type":"null"}]}]}]}"#;

fn paths(wanted: &[&str]) -> Vec<Vec<String>> {
    wanted
        .iter()
        .map(|path| path.split('.').filter(|name| !name.is_empty()).map(str::to_owned).collect())
        .collect()
}

fn projection(schema: &str, wanted: &[&str]) -> Projection {
    Projection::new(parse(schema, &[]).unwrap(), &Tree::new(".", &paths(wanted)))
}

fn record() -> Vec<u8> {
    let mut out = Vec::new();
    long(&mut out, i64::MIN);
    out.push(1);
    out.extend(1.5f32.to_le_bytes());
    bytes(&mut out, "Größe".as_bytes());
    bytes(&mut out, &[0, 255]);
    out.extend((0..16).collect::<Vec<u8>>());
    long(&mut out, 1);
    bytes(&mut out, &[0xFB, 0x2E]);
    long(&mut out, 20_000);
    long(&mut out, 2);
    long(&mut out, -7);
    // Two blocks, one of which tells its size.
    long(&mut out, -1);
    long(&mut out, 2);
    bytes(&mut out, b"x");
    long(&mut out, 1);
    bytes(&mut out, b"\"y");
    long(&mut out, 0);
    long(&mut out, 2);
    bytes(&mut out, b"a");
    long(&mut out, 1);
    long(&mut out, 9);
    bytes(&mut out, b"b");
    long(&mut out, 0);
    long(&mut out, 0);
    long(&mut out, 1);
    long(&mut out, 1_500);
    out
}

fn read<'a>(
    projection: &Projection,
    bytes: &'a [u8],
    scratch: &'a Scratch,
) -> Result<Vec<Field<'a>>, DecodeError> {
    let mut fields = Vec::new();
    projection.read(".", bytes, scratch, &mut fields).map(|()| fields)
}

#[test]
fn every_type_is_read_and_the_rest_is_skipped() {
    let wanted = [
        "id",
        "flag",
        "small",
        "text",
        "bytes",
        "uuid",
        "kind",
        "price",
        "day",
        "maybe",
        "tags",
        "by_name",
        "by_name.a",
        "by_name.b.x",
        "by_name.none",
        "inner",
        "inner.at",
        "inner.nothing",
        "text.length",
        "other",
        "$type",
    ];
    let (bytes, scratch) = (record(), Scratch::default());
    let fields = read(&projection(ALL, &wanted), &bytes, &scratch).unwrap();
    let expected = [
        Field::Native(Native::Integer(i64::MIN)),
        Field::Native(Native::Boolean(true)),
        Field::Native(Native::Real(1.5)),
        Field::Native(Native::Text("Größe")),
        Field::Native(Native::Bytes(&[0, 255])),
        Field::Native(Native::Text("00010203-0405-0607-0809-0a0b0c0d0e0f")),
        Field::Native(Native::Text("B")),
        Field::Native(Native::Decimal { unscaled: &[0xFB, 0x2E], scale: 2 }),
        Field::Native(Native::Since(Logical::Date, 20_000)),
        Field::Native(Native::Integer(-7)),
        Field::Json(r#"["x","\"y"]"#),
        Field::Json(r#"{"a":9,"b":null}"#),
        Field::Native(Native::Integer(9)),
        Field::Json("null"),
        Field::Absent,
        Field::Json(r#"{"at":"1970-01-01T00:00:01.500000Z","nothing":null}"#),
        Field::Native(Native::Since(Logical::Timestamp(crate::config::Encoding::Millis), 1_500)),
        Field::Json("null"),
        Field::NotAnObject,
        Field::Absent,
        Field::Native(Native::Text("All")),
    ];
    for ((path, field), expected) in wanted.iter().zip(fields).zip(expected) {
        assert_eq!(field, expected, "{path}");
    }
    // Each alone gives the same: what is skipped has no influence.
    for path in wanted {
        let one = read(&projection(ALL, &[path]), &bytes, &scratch).unwrap();
        let index = wanted.iter().position(|other| *other == path).unwrap();
        assert_eq!(one[0], expected_again(index, &bytes, &wanted, &scratch), "{path}");
    }
}

fn expected_again<'a>(index: usize, bytes: &'a [u8], wanted: &[&str], scratch: &'a Scratch) -> Field<'a> {
    read(&projection(ALL, wanted), bytes, scratch).unwrap()[index]
}

#[test]
fn a_cut_record_is_an_error_wherever_it_is_cut() {
    let bytes = record();
    for wanted in [&["id"][..], &["inner.at", "tags"], &[""]] {
        let projection = projection(ALL, wanted);
        for end in 0..bytes.len() {
            let scratch = Scratch::default();
            assert!(read(&projection, &bytes[..end], &scratch).is_err(), "{wanted:?} cut at {end}");
        }
        let scratch = Scratch::default();
        assert!(read(&projection, &[&bytes[..], &[0]].concat(), &scratch).is_err());
    }
}

/// A few bytes that claim billions of empty values, and values in values without end.
#[test]
fn what_is_larger_than_its_bytes_is_refused() {
    let nulls =
        r#"{"type":"record","name":"R","fields":[{"name":"x","type":{"type":"array","items":"null"}}]}"#;
    let mut bomb = Vec::new();
    long(&mut bomb, i64::MAX);
    let scratch = Scratch::default();
    for wanted in ["x", "other", ""] {
        assert!(read(&projection(nulls, &[wanted]), &bomb, &scratch).is_err(), "{wanted}");
    }
    let list = r#"{"type":"record","name":"R","fields":[{"name":"next","type":["null","R"]}]}"#;
    let deep = vec![2; 100_000];
    for wanted in ["next", "other", "next.next"] {
        assert!(read(&projection(list, &[wanted]), &deep, &scratch).is_err(), "{wanted}");
    }
    let wide = format!(
        r#"{{"type":"record","name":"R","fields":[{{"name":"x","type":{{"type":"array","items":{{"type":"record","name":"I","fields":[{{"name":"{}","type":"null"}}]}}}}}}]}}"#,
        "n".repeat(10_000)
    );
    let mut many = Vec::new();
    long(&mut many, 9_000);
    many.push(0);
    assert!(read(&projection(&wide, &["x"]), &many, &scratch).is_err(), "90 MB of JSON out of 3 bytes");
}

#[test]
fn a_key_twice_in_one_map_is_refused() {
    let mut bytes_twice = Vec::new();
    long(&mut bytes_twice, 2);
    for _ in 0..2 {
        bytes(&mut bytes_twice, b"a");
        long(&mut bytes_twice, 1);
    }
    bytes_twice.push(0);
    let schema = r#"{"type":"map","values":"int"}"#;
    let scratch = Scratch::default();
    for wanted in ["a", ""] {
        assert!(read(&projection(schema, &[wanted]), &bytes_twice, &scratch).is_err(), "{wanted}");
    }
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        for wanted in [&["id", "inner.at", "by_name.a"][..], &["", "by_name"], &["tags"]] {
            let scratch = Scratch::default();
            let _ = read(&projection(ALL, wanted), &bytes, &scratch);
        }
    }

    /// A changed byte gives another record or an error, and valid JSON in any case.
    #[test]
    fn a_changed_byte_is_no_surprise(at in 0..100usize, byte in any::<u8>()) {
        let mut bytes = record();
        let at = at % bytes.len();
        bytes[at] = byte;
        let scratch = Scratch::default();
        if let Ok(fields) = read(&projection(ALL, &["", "by_name", "tags"]), &bytes, &scratch) {
            for field in fields {
                let Field::Json(text) = field else { panic!("{field:?}") };
                prop_assert!(serde_json::from_str::<serde_json::Value>(text).is_ok(), "{text}");
            }
        }
    }
}

/// Nothing takes no bytes, and still is a value.
#[test]
fn nulls_that_nobody_wants_are_counted() {
    let nulls: Vec<String> = (0..1_000).map(|n| format!(r#"{{"name":"n{n}","type":"null"}}"#)).collect();
    let text = format!(
        r#"{{"type":"array","items":{{"type":"record","name":"N","fields":[{}]}}}}"#,
        nulls.join(",")
    );
    let schema = parse(&text, &[]).unwrap();
    let mut record = Vec::new();
    long(&mut record, 4_000);
    long(&mut record, 0);
    assert_eq!(Reader::new(&record).skip(&schema, schema.root), Err(Flaw::TooMany));
}
