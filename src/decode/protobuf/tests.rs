use proptest::prelude::*;

use super::*;
use crate::decode::TYPE_FIELD;
use crate::decode::native::Native;
use crate::domain::dead_letter::Reason;
use crate::testing::cpu_time;

const ALL: &str = r#"syntax = "proto3";
package test.v1;
import "google/protobuf/timestamp.proto";
import "google/protobuf/duration.proto";
import "google/protobuf/wrappers.proto";
import "google/protobuf/struct.proto";
import "google/type/date.proto";
import "google/type/timeofday.proto";
import "confluent/type/decimal.proto";
import "not/given/options.proto";

message All {
  int64 id = 1;
  uint64 large = 2;
  sint32 signed = 3;
  fixed32 fixed = 4;
  double real = 5;
  bool flag = 6;
  string text = 7;
  bytes bytes = 8;
  Kind kind = 9;
  optional int32 maybe = 10;
  repeated int32 numbers = 11;
  repeated Inner inners = 12;
  map<string, Inner> by_name = 13;
  map<int32, string> by_number = 14;
  oneof choice { string left = 15; Inner right = 16; }
  Inner inner = 17;
  google.protobuf.Timestamp at = 18;
  google.protobuf.Duration took = 19;
  google.protobuf.Int64Value wrapped = 20;
  google.protobuf.Struct free = 21;
  google.type.Date day = 22;
  google.type.TimeOfDay time = 23;
  confluent.type.Decimal price = 24;
  message Inner { int32 x = 1; All.Inner next = 2; repeated string tags = 3; }
  enum Kind { NONE = 0; SOME = 3; }
}
"#;

#[derive(Default, Clone)]
struct Wire(Vec<u8>);

impl Wire {
    fn raw(mut self, mut number: u64) -> Wire {
        while number >= 0x80 {
            self.0.push(number as u8 | 0x80);
            number >>= 7;
        }
        self.0.push(number as u8);
        self
    }

    fn varint(self, field: u64, number: i64) -> Wire {
        self.raw(field << 3).raw(number as u64)
    }

    fn bytes(self, field: u64, bytes: impl AsRef<[u8]>) -> Wire {
        let mut this = self.raw(field << 3 | 2).raw(bytes.as_ref().len() as u64);
        this.0.extend(bytes.as_ref());
        this
    }

    fn message(self, field: u64, message: Wire) -> Wire {
        self.bytes(field, message.0)
    }

    fn fixed(mut self, field: u64, kind: u64, bytes: &[u8]) -> Wire {
        self = self.raw(field << 3 | kind);
        self.0.extend(bytes);
        self
    }
}

fn document(schema: &str, message: &str, wanted: &[&str]) -> Document {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("schema.proto");
    std::fs::write(&file, schema).unwrap();
    let paths: Vec<Vec<String>> = wanted
        .iter()
        .map(|path| path.split('.').filter(|name| !name.is_empty()).map(str::to_owned).collect())
        .collect();
    let document = Document::of_file(".", &paths, &file, message);
    assert_eq!(document.problem(), None);
    document
}

/// The fields of a record of `All`, in words.
fn read(wanted: &[&str], wire: &Wire) -> Result<Vec<String>, DecodeError> {
    let scratch = Scratch::default();
    let mut fields = Vec::new();
    document(ALL, "test.v1.All", wanted).read(&wire.0, &scratch, &mut fields)?;
    Ok(fields.iter().map(|field| format!("{field:?}")).collect())
}

fn native(native: Native<'_>) -> String {
    format!("{:?}", Field::Native(native))
}

fn json(text: &str) -> String {
    format!("{:?}", Field::Json(text))
}

fn absent() -> String {
    format!("{:?}", Field::Absent)
}

fn inner(x: i64) -> Wire {
    Wire::default().varint(1, x)
}

#[test]
fn every_type_is_read() {
    let timestamp = Wire::default().varint(1, 1).varint(2, 500_000_000);
    let free = Wire::default().message(
        1,
        Wire::default().bytes(1, "a").message(2, Wire::default().fixed(2, 1, &1.5f64.to_le_bytes())),
    );
    let record = Wire::default()
        .varint(1, -1)
        .varint(2, -1)
        .raw(3 << 3)
        .raw(3)
        .fixed(4, 5, &[1, 0, 0, 0])
        .fixed(5, 1, &0.5f64.to_le_bytes())
        .varint(6, 1)
        .bytes(7, "Größe")
        .bytes(8, [0, 255])
        .varint(9, 3)
        .varint(10, 0)
        .bytes(11, [1, 2])
        .varint(11, -1)
        .message(12, inner(1))
        .message(12, inner(2))
        .message(13, Wire::default().bytes(1, "k").message(2, inner(7)))
        .message(14, Wire::default().varint(1, -5).bytes(2, "minus"))
        .bytes(15, "left")
        .message(16, inner(9))
        .message(17, inner(4).bytes(3, "a"))
        .message(17, Wire::default().bytes(3, "b"))
        .message(18, timestamp)
        .message(19, Wire::default().varint(1, -1).varint(2, -500_000_000))
        .message(20, Wire::default().varint(1, 5))
        .message(21, free)
        .message(22, Wire::default().varint(1, 2026).varint(2, 3).varint(3, 1))
        .message(23, Wire::default().varint(1, 9).varint(3, 5))
        .message(24, Wire::default().bytes(1, [0x04, 0xD2]).varint(3, 2))
        .bytes(99, "of a later version");
    let expected = [
        ("id", native(Native::Integer(-1))),
        ("large", native(Native::Unsigned(u64::MAX))),
        ("signed", native(Native::Integer(-2))),
        ("fixed", native(Native::Integer(1))),
        ("real", native(Native::Real(0.5))),
        ("flag", native(Native::Boolean(true))),
        ("text", native(Native::Text("Größe"))),
        ("bytes", native(Native::Bytes(&[0, 255]))),
        ("kind", native(Native::Text("SOME"))),
        ("maybe", native(Native::Integer(0))),
        ("numbers", json("[1,2,-1]")),
        ("inners", json(r#"[{"x":1,"tags":[]},{"x":2,"tags":[]}]"#)),
        ("by_name", json(r#"{"k":{"x":7,"tags":[]}}"#)),
        ("by_name.k.x", native(Native::Integer(7))),
        ("by_name.other.x", absent()),
        ("by_number", json(r#"{"-5":"minus"}"#)),
        ("by_number.-5", native(Native::Text("minus"))),
        // Of a `oneof` the last one counts.
        ("left", absent()),
        ("right.x", native(Native::Integer(9))),
        // A message in two pieces is one.
        ("inner", json(r#"{"x":4,"tags":["a","b"]}"#)),
        ("inner.x", native(Native::Integer(4))),
        ("inner.tags", json(r#"["a","b"]"#)),
        ("inner.next.x", absent()),
        ("at", native(Native::Instant { seconds: 1, nanos: 500_000_000 })),
        ("at.seconds", native(Native::Integer(1))),
        ("took", native(Native::Text("-1.5s"))),
        ("wrapped", native(Native::Integer(5))),
        ("free", json(r#"{"a":1.5}"#)),
        ("day", native(Native::Text("2026-03-01"))),
        ("time", native(Native::Text("09:00:05"))),
        ("price", native(Native::Decimal { unscaled: &[0x04, 0xD2], scale: 2 })),
        ("text.length", format!("{:?}", Field::NotAnObject)),
        ("none", absent()),
        (TYPE_FIELD, native(Native::Text("test.v1.All"))),
    ];
    let wanted: Vec<&str> = expected.iter().map(|(path, _)| *path).collect();
    let found = read(&wanted, &record).unwrap();
    for ((path, expected), found) in expected.iter().zip(&found) {
        assert_eq!(found, expected, "{path}");
        assert_eq!(&read(&[path], &record).unwrap()[0], expected, "{path} alone");
    }
    let whole = read(&[""], &record).unwrap();
    assert!(whole[0].contains("right") && !whole[0].contains("left"), "{}", whole[0]);
}

#[test]
fn what_is_not_there_is_a_default_or_absent() {
    let wanted =
        ["id", "text", "kind", "flag", "maybe", "numbers", "by_name", "inner", "inner.x", "at", "left"];
    let expected = [
        native(Native::Integer(0)),
        native(Native::Text("")),
        native(Native::Text("NONE")),
        native(Native::Boolean(false)),
        absent(),
        json("[]"),
        json("{}"),
        absent(),
        absent(),
        absent(),
        absent(),
    ];
    assert_eq!(read(&wanted, &Wire::default()).unwrap(), expected);
    let empty = read(&["inner", "inner.x"], &Wire::default().bytes(17, [])).unwrap();
    assert_eq!(empty, [json(r#"{"x":0,"tags":[]}"#), native(Native::Integer(0))]);
}

#[test]
fn proto2_knows_what_is_required_and_what_is_there() {
    let schema = r#"message Old { required int32 a = 1; optional int32 b = 2 [default = 5]; optional group G = 3 { optional int32 x = 4; } }"#;
    let fields = |wire: Wire, wanted: &[&str]| {
        let scratch = Scratch::default();
        let mut fields = Vec::new();
        document(schema, "Old", wanted).read(&wire.0, &scratch, &mut fields)?;
        Ok::<_, DecodeError>(format!("{:?}", fields[0]))
    };
    assert_eq!(fields(Wire::default().varint(1, 1), &["b"]), Ok(absent()));
    assert!(fields(Wire::default(), &["a"]).is_err());
    let group = Wire::default().varint(1, 1).raw(3 << 3 | 3).varint(4, 1).raw(3 << 3 | 4);
    let error = fields(group, &["b"]).unwrap_err();
    assert!(error.message.contains("group"), "{error}");
}

#[test]
fn an_enum_value_of_a_later_version_is_an_error_where_it_is_wanted() {
    let record = Wire::default().varint(9, 7).varint(1, 1);
    let error = read(&["kind"], &record).unwrap_err();
    assert_eq!((error.reason, error.path.as_str()), (Reason::OutOfRange, ".kind"));
    assert_eq!(read(&["id"], &record).unwrap(), [native(Native::Integer(1))]);
}

#[test]
fn a_message_is_found_by_the_indexes_of_its_place() {
    let text = r#"syntax = "proto3"; message A { map<string, string> m = 1; message B {} message C { message D {} } } message E {}"#;
    let schema = schema::parse(text, &[]).unwrap();
    let name = |bytes: &[u8]| {
        let mut rest = bytes;
        let id = schema.by_indexes(&indexes(&mut rest).unwrap())?;
        assert!(rest.is_empty());
        Some(schema.messages[id].name.as_str())
    };
    assert_eq!(name(&[0]), Some("A"));
    assert_eq!(name(&[2, 0]), Some("A"));
    assert_eq!(name(&[2, 2]), Some("E"));
    assert_eq!(name(&[4, 0, 0]), Some("A.B"), "entries of maps do not count");
    assert_eq!(name(&[6, 0, 2, 0]), Some("A.C.D"));
    assert_eq!(name(&[2, 4]), None);
    for wrong in [&[][..], &[1], &[200, 1], &[4, 0], &[2, 1]] {
        let mut rest = wrong;
        assert!(indexes(&mut rest).is_err(), "{wrong:?}");
    }
}

#[test]
fn types_are_found_from_the_inside_out() {
    let imported = r#"syntax = "proto3"; package other.v1; message Other { int32 a = 1; }"#;
    let text = r#"syntax = "proto3"; package shop.v1; import "o.proto";
        message Other { string inner = 1; }
        message Order { message Other { bool nested = 1; } Other a = 1; v1.Other b = 2; .other.v1.Other c = 3; }"#;
    let schema = schema::parse(text, &[("o.proto", imported)]).unwrap();
    let order = schema.find("shop.v1.Order").unwrap();
    let of = |number| match schema.messages[order].field(number).unwrap().ty {
        schema::Type::Message(id) => schema.messages[id].name.as_str(),
        other => panic!("{other:?}"),
    };
    assert_eq!([of(1), of(2), of(3)], ["shop.v1.Order.Other", "shop.v1.Other", "other.v1.Other"]);
    let missing = schema::parse(text, &[]).unwrap_err();
    assert!(missing.contains("other.v1.Other"), "{missing}");
    assert!(schema::parse("edition = \"2023\"; message A {}", &[]).is_err());
    assert!(schema::parse("message A {", &[]).is_err());
}

fn any_record() -> Wire {
    Wire::default()
        .varint(1, 5)
        .bytes(7, "text")
        .message(13, Wire::default().bytes(1, "k").message(2, inner(7)))
        .message(17, inner(4).message(2, inner(5)))
        .message(18, Wire::default().varint(1, 1))
        .message(21, Wire::default())
        .bytes(11, [1, 2])
}

const SOME: &[&str] = &["id", "text", "by_name", "by_name.k.x", "inner.next.x", "at", "free", "numbers", ""];

#[test]
fn a_cut_record_never_is_more_than_it_was() {
    let bytes = any_record().0;
    let mut document = document(ALL, "test.v1.All", SOME);
    let mut errors = 0;
    for end in 0..bytes.len() {
        let scratch = Scratch::default();
        let mut fields = Vec::new();
        // Between two fields it is a shorter record.
        errors += usize::from(document.read(&bytes[..end], &scratch, &mut fields).is_err());
    }
    assert!(errors > bytes.len() / 2, "{errors} of {}", bytes.len());
}

/// Values in values without end, and a little that becomes much.
#[test]
fn what_is_larger_than_its_bytes_is_refused() {
    let mut nested = Vec::new();
    for _ in 0..300 {
        let length = nested.len() as u64;
        nested = [Wire::default().raw(2 << 3 | 2).raw(length).0, nested].concat();
    }
    let record = Wire::default().bytes(17, &nested);
    for wanted in ["inner", ""] {
        let error = read(&[wanted], &record).unwrap_err();
        assert!(error.message.contains("deep"), "{error}");
    }
    let many = Wire::default().raw(0).0;
    assert!(read(&["id"], &Wire(many)).is_err(), "a field with the number 0");
    let empties = Wire((0..1_000_000).flat_map(|_| [12 << 3 | 2, 0]).collect());
    assert!(read(&["inners"], &empties).is_err(), "16 bytes of JSON for each two");
    assert!(read(&["id"], &empties).is_ok());
}

/// Many members of a `oneof` behind many others take no more than linear time.
#[test]
fn a_record_of_many_fields_takes_its_time_once() {
    let record = Wire(
        (0..200_000)
            .flat_map(|nr| if nr % 2 == 0 { [11 << 3, 1, 0x7A, 0] } else { [0x7A, 0, 0x7A, 0] })
            .collect(),
    );
    let began = cpu_time();
    assert!(read(&["left", "numbers", ""], &record).is_ok());
    let took = cpu_time() - began;
    assert!(took.as_secs() < 10, "{took:?}");
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = read(SOME, &Wire(bytes));
    }

    #[test]
    fn a_changed_byte_is_no_surprise(at in 0..100usize, byte in any::<u8>()) {
        let mut bytes = any_record().0;
        let at = at % bytes.len();
        bytes[at] = byte;
        let scratch = Scratch::default();
        let mut fields = Vec::new();
        if document(ALL, "test.v1.All", &["", "by_name", "free"]).read(&bytes, &scratch, &mut fields).is_ok() {
            for field in fields {
                match field {
                    Field::Json(text) => {
                        prop_assert!(serde_json::from_str::<serde_json::Value>(text).is_ok(), "{text}");
                    }
                    other => prop_assert_eq!(other, Field::Absent),
                }
            }
        }
    }
}
