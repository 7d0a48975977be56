//! PostgreSQL's types as Debezium sends them, in all three encodings, with the envelope and without, and
//! in the three ways that its connector can be set to: everything as text, its defaults, and `double`,
//! `connect` and `hex`.

use serde_json::json;

use super::super::{Outcome, Plan};
use super::avro;
use super::debezium::{FIRST, envelope};
use super::support::*;
use crate::config::{Format, KeyFormat, Table};
use crate::decode::registry::{Kind, Registry, Schema};
use crate::domain::change::{Change, Operation, Skip};
use crate::domain::dead_letter::Reason::{self, Malformed, OutOfRange, WrongType};
use crate::domain::snapshot::Phase;
use crate::domain::value::Value;
use crate::domain::version::VersionKind;

type Becomes = Result<Value, Reason>;

const DECIMAL: &str = "bytes org.apache.kafka.connect.data.Decimal scale=2 connect.decimal.precision=12";
const DECIMALS: &str = "[] bytes org.apache.kafka.connect.data.Decimal scale=2 connect.decimal.precision=6";
const SCALED: &str = "io.debezium.data.VariableScaleDecimal scale:int32 value:bytes";
const SCALEDS: &str = "[] io.debezium.data.VariableScaleDecimal scale:int32 value:bytes";
const POINT: &str = "io.debezium.data.geometry.Point x:double y:double wkb:bytes? srid:int32?";
const GEOMETRY: &str = "io.debezium.data.geometry.Geometry wkb:bytes srid:int32?";
const DATE: &str = "int32 io.debezium.time.Date";
const MICROS: &str = "int64 io.debezium.time.MicroTimestamp";
const MICRO_TIME: &str = "int64 io.debezium.time.MicroTime";
const ZONED: &str = "string io.debezium.time.ZonedTimestamp";
const ISO: &str = "string io.debezium.time.IsoTimestamp";
const ISO_DATE: &str = "string io.debezium.time.IsoDate";
const ISO_TIME: &str = "string io.debezium.time.IsoTime";
const JSON: &str = "string io.debezium.data.Json";

/// A schema of Connect's in a few words: `int64`, `int64 its.name parameter=value`, `its.name field:type`,
/// `[]` in front of an array's and `{}` in front of a map's.
fn connect(words: &str, optional: bool) -> serde_json::Value {
    let mut schema = match words.split_once(' ') {
        Some(("[]", items)) => json!({"type": "array", "items": connect(items, true)}),
        Some(("{}", values)) => {
            json!({"type": "map", "keys": connect("string", false), "values": connect(values, true)})
        }
        Some((name, fields)) if name.contains('.') => {
            let fields = fields.split(' ').map(|field| {
                let (field, ty) = field.split_once(':').unwrap();
                let mut schema = connect(ty.trim_end_matches('?'), ty.ends_with('?'));
                schema["field"] = json!(field);
                schema
            });
            json!({"type": "struct", "name": name, "version": 1, "fields": fields.collect::<Vec<_>>()})
        }
        Some((ty, named)) => {
            let mut words = named.split(' ');
            let mut schema = json!({"type": ty, "name": words.next(), "version": 1});
            for parameter in words {
                let (key, value) = parameter.split_once('=').unwrap();
                schema["parameters"][key] = json!(value);
            }
            schema
        }
        None => json!({"type": words}),
    };
    schema["optional"] = json!(optional);
    schema
}

/// The envelope's schema, with a row that has one column besides its key.
fn schema_of(column: &str) -> serde_json::Value {
    let field = |name: &str, mut schema: serde_json::Value| {
        schema["field"] = json!(name);
        schema
    };
    let of = |name: &str, optional, fields: Vec<serde_json::Value>| json!({"type": "struct", "name": name, "optional": optional, "fields": fields});
    let row = || {
        of(
            "p.public.t.Value",
            true,
            vec![field("id", connect("int32", false)), field("c", connect(column, true))],
        )
    };
    let source = of(
        "io.debezium.connector.postgresql.Source",
        false,
        vec![
            field("version", connect("string", false)),
            field("ts_ms", connect("int64", false)),
            field("sequence", connect("string", true)),
            field("lsn", connect("int64", true)),
        ],
    );
    let transaction = of("event.block", true, vec![field("id", connect("string", false))]);
    of(
        "p.public.t.Envelope",
        false,
        vec![
            field("before", row()),
            field("after", row()),
            field("source", source),
            field("transaction", transaction),
            field("op", connect("string", false)),
            field("ts_ms", connect("int64", true)),
        ],
    )
}

/// The schema of the row alone, with its version.
fn flattened_schema_of(column: &str) -> serde_json::Value {
    let mut row = schema_of(column)["fields"][1].take();
    row["optional"] = json!(false);
    let mut sequence = connect("string", true);
    sequence["field"] = json!("__source_sequence");
    row["fields"].as_array_mut().unwrap().push(sequence);
    row
}

/// A registry that knows schemas of Connect's in Avro, by their numbers from 1 on.
fn registry(schemas: &[&serde_json::Value]) -> Registry {
    let registered = |schema: &serde_json::Value| Schema {
        kind: Kind::Avro,
        text: avro::schema(schema, &mut Vec::new()).to_string(),
        references: Vec::new(),
        versions: Vec::new(),
    };
    Registry::fixed((1..).zip(schemas.iter().map(|schema| registered(schema))))
}

/// JSON of one of Connect's schemas in Avro, behind the number of that schema.
fn framed(id: u8, schema: &serde_json::Value, json: &str) -> Vec<u8> {
    let mut bytes = vec![0, 0, 0, 0, id];
    avro::encode(schema, &serde_json::from_str(json).unwrap(), &mut bytes);
    bytes
}

/// What becomes of one value in JSON without a schema, in JSON with one, and in Avro; with the envelope or
/// without makes no difference.
fn into(column: &str, schema: &str, json: &str) -> [Becomes; 3] {
    let (with, without) = (schema_of(schema), flattened_schema_of(schema));
    let event = envelope("u", "null", &format!(r#"{{"id":1,"c":{json}}}"#), FIRST);
    let enveloped = in_all_encodings(column, [Format::DebeziumJson, Format::DebeziumAvro], &with, &event);
    let row = format!(r#"{{"id":1,"c":{json},"__source_sequence":{}}}"#, json!(FIRST));
    let flattened =
        in_all_encodings(column, [Format::DebeziumFlat, Format::DebeziumFlatAvro], &without, &row);
    assert_eq!(flattened, enveloped, "{json} into {column}, without the envelope");
    enveloped
}

fn in_all_encodings(
    column: &str,
    [json, avro]: [Format; 2],
    schema: &serde_json::Value,
    payload: &str,
) -> [Becomes; 3] {
    let embedded = format!(r#"{{"schema":{schema},"payload":{payload}}}"#);
    let framed = framed(1, schema, payload);
    [(json, payload.as_bytes()), (json, embedded.as_bytes()), (avro, &framed)].map(|(format, value)| {
        let config =
            config(vec![topic("t", format)], vec![table("t", 1, &["id integer", &format!("c {column}")])]);
        let mut feed = Feed::of(&config);
        feed.plan = Plan::with_registry(&config, Some(registry(&[schema])));
        match feed.bytes(None, Some(value)) {
            Outcome::Changes => Ok(feed.only().values[1].clone()),
            refused => Err(refusal(&refused).0),
        }
    })
}

fn same(text: &str) -> [Becomes; 3] {
    all(Ok(Value::Text(text.to_owned())))
}

fn number(number: f64) -> [Becomes; 3] {
    all(Ok(Value::Real(number)))
}

fn blob(bytes: &[u8]) -> [Becomes; 3] {
    all(Ok(Value::Blob(bytes.to_vec())))
}

fn all(becomes: Becomes) -> [Becomes; 3] {
    [becomes.clone(), becomes.clone(), becomes]
}

/// JSON alone does not say what it is.
fn with_a_schema([_, embedded, avro]: [Becomes; 3]) -> [Becomes; 3] {
    [Err(WrongType), embedded, avro]
}

/// Avro says more of what is inside arrays.
fn inside(json: &str, avro: &str) -> [Becomes; 3] {
    let text = |text: &str| Ok(Value::Text(text.to_owned()));
    [text(json), text(json), text(avro)]
}

fn check(
    cases: impl IntoIterator<Item = (&'static str, &'static str, &'static str, &'static str, [Becomes; 3])>,
) {
    for (postgres, column, schema, json, expected) in cases {
        assert_eq!(into(column, schema, json), expected, "{postgres} as {json} into {column}");
    }
}

#[test]
fn numbers() {
    check([
        ("boolean", "boolean", "boolean", "true", all(Ok(int(1)))),
        ("bit(1)", "boolean", "boolean", "false", all(Ok(int(0)))),
        ("smallint", "integer", "int16", "-32768", all(Ok(int(-32768)))),
        ("integer", "integer", "int32", "2147483647", all(Ok(int(2_147_483_647)))),
        ("bigint", "integer", "int64", "9223372036854775807", all(Ok(int(i64::MAX)))),
        ("oid", "integer", "int64", "4294967295", all(Ok(int(4_294_967_295)))),
        ("bigint", "decimal", "int64", "-9223372036854775808", same("-9223372036854775808")),
        ("double precision", "real", "double", "5e-324", number(5e-324)),
        ("double precision", "real", "double", "-0.0", number(-0.0)),
        ("double precision", "real?", "double", r#""NaN""#, all(Err(OutOfRange))),
        ("double precision", "real?", "double", r#""-Infinity""#, all(Err(OutOfRange))),
        ("real", "real", "float", "1.5", number(1.5)),
        // JSON has the shortest digits of the single, Avro the single itself, as PostgreSQL casts it.
        (
            "real",
            "real",
            "float",
            "0.1",
            [Ok(Value::Real(0.1)), Ok(Value::Real(0.1)), Ok(Value::Real(f64::from(0.1_f32)))],
        ),
    ]);
}

#[test]
fn decimals() {
    let refused_in_avro = |text: &str| {
        let json = Ok(Value::Text(text.to_owned()));
        [json.clone(), json, Err(WrongType)]
    };
    check([
        ("numeric(12,2) string", "decimal", "string", r#""558756592.03""#, same("558756592.03")),
        ("numeric string", "decimal", "string", r#""100000000000000000000""#, same("100000000000000000000")),
        ("numeric string", "decimal?", "string", r#""NAN""#, all(Err(OutOfRange))),
        ("numeric string", "decimal?", "string", r#""POSITIVE_INFINITY""#, all(Err(OutOfRange))),
        ("numeric string", "decimal?", "string", r#""NEGATIVE_INFINITY""#, all(Err(OutOfRange))),
        ("money string", "decimal", "string", r#""-1234.56""#, same("-1234.56")),
        ("numeric(12,2) precise", "decimal", DECIMAL, r#""DQJy5cM=""#, with_a_schema(same("558756592.03"))),
        ("money precise", "decimal", DECIMAL, r#""/h3A""#, with_a_schema(same("-1234.56"))),
        // NaN and infinity, silently.
        ("numeric(12,2) precise", "decimal?", DECIMAL, "null", all(Ok(Value::Null))),
        (
            "numeric precise",
            "decimal",
            SCALED,
            r#"{"scale":21,"value":"AQ=="}"#,
            with_a_schema(same("0.000000000000000000001")),
        ),
        (
            "numeric precise",
            "decimal",
            SCALED,
            r#"{"scale":0,"value":"BWvHXi1jEAAA"}"#,
            with_a_schema(same("100000000000000000000")),
        ),
        ("numeric precise", "decimal?", SCALED, "null", all(Ok(Value::Null))),
        ("numeric double", "real", "double", "558756592.03", number(558_756_592.03)),
        // A double of Avro's has no digits to keep.
        ("numeric double", "decimal", "double", "558756592.03", refused_in_avro("558756592.03")),
        // Digits are lost already; what is left is kept.
        ("numeric double", "decimal", "double", "1.0E20", refused_in_avro("1.0E20")),
        ("numeric double", "real?", "double", r#""NaN""#, all(Err(OutOfRange))),
        ("numeric double", "real?", "double", r#""Infinity""#, all(Err(OutOfRange))),
    ]);
}

#[test]
fn dates_and_times() {
    let late = all(Err(OutOfRange));
    check([
        (
            "timestamptz",
            "timestamp",
            ZONED,
            r#""2017-04-25T09:01:35.123000Z""#,
            same("2017-04-25T09:01:35.123000Z"),
        ),
        ("timestamptz", "timestamp?", ZONED, r#""-infinity""#, late.clone()),
        (
            "timestamp isostring",
            "timestamp",
            ISO,
            r#""1994-08-21T22:14:40.750002Z""#,
            same("1994-08-21T22:14:40.750002Z"),
        ),
        (
            "timestamp isostring",
            "timestamp",
            ISO,
            r#""1994-08-21T22:14:40Z""#,
            same("1994-08-21T22:14:40.000000Z"),
        ),
        ("timestamp isostring", "timestamp?", ISO, r#""+294247-01-10T04:00:25.2Z""#, late.clone()),
        ("timestamp isostring", "timestamp?", ISO, r#""-0043-03-15T12:00:00Z""#, late.clone()),
        (
            "timestamp adaptive",
            "timestamp",
            MICROS,
            "777507280750002",
            with_a_schema(same("1994-08-21T22:14:40.750002Z")),
        ),
        ("timestamp adaptive", "integer", MICROS, "777507280750002", all(Ok(int(777_507_280_750_002)))),
        (
            "timestamp(3) adaptive",
            "timestamp",
            "int64 io.debezium.time.Timestamp",
            "777507280750",
            with_a_schema(same("1994-08-21T22:14:40.750000Z")),
        ),
        ("timestamp adaptive", "timestamp? @micros", MICROS, "9223372036825200000", late.clone()),
        (
            "timestamp nanoseconds",
            "timestamp @nanos",
            "int64 io.debezium.time.NanoTimestamp",
            "777507280750002000",
            same("1994-08-21T22:14:40.750002Z"),
        ),
        (
            "timestamp connect",
            "timestamp @millis",
            "int64 org.apache.kafka.connect.data.Timestamp",
            "777507280750",
            same("1994-08-21T22:14:40.750000Z"),
        ),
        (
            "timestamp connect",
            "timestamp",
            "int64 org.apache.kafka.connect.data.Timestamp",
            "777507280750",
            with_a_schema(same("1994-08-21T22:14:40.750000Z")),
        ),
        (
            "timestamp connect",
            "timestamp? @millis",
            "int64 org.apache.kafka.connect.data.Timestamp",
            "9223372036825200",
            late.clone(),
        ),
        ("date isostring", "date", ISO_DATE, r#""2524-05-01Z""#, same("2524-05-01")),
        ("date isostring", "date?", ISO_DATE, r#""-5877611-06-21Z""#, late.clone()),
        ("date isostring", "date?", ISO_DATE, r#""+292278994-08-16Z""#, late.clone()),
        ("date isostring", "date?", ISO_DATE, r#""-0043-03-15Z""#, late.clone()),
        // Of 44 BC, read in a snapshot: nobody can tell.
        ("date isostring", "date?", ISO_DATE, r#""0044-03-15Z""#, same("0044-03-15")),
        ("date adaptive", "date", DATE, "202474", same("2524-05-10")),
        ("date adaptive", "date?", DATE, "-2147472692", late.clone()),
        ("date adaptive", "date?", DATE, "-735160", late.clone()),
        ("date connect", "date", "int32 org.apache.kafka.connect.data.Date", "202474", same("2524-05-10")),
        ("time isostring", "time", ISO_TIME, r#""12:00:00.5Z""#, same("12:00:00.500000")),
        ("time isostring", "time", ISO_TIME, r#""00:00:00Z""#, same("00:00:00.000000")),
        ("time adaptive", "time", MICRO_TIME, "43200500000", with_a_schema(same("12:00:00.500000"))),
        ("time adaptive", "time", MICRO_TIME, "86400000000", with_a_schema(same("24:00:00.000000"))),
        (
            "time(3) adaptive",
            "time",
            "int32 io.debezium.time.Time",
            "43200500",
            with_a_schema(same("12:00:00.500000")),
        ),
        (
            "time connect",
            "time @millis",
            "int32 org.apache.kafka.connect.data.Time",
            "43200500",
            same("12:00:00.500000"),
        ),
        (
            "timetz",
            "time",
            "string io.debezium.time.ZonedTime",
            r#""18:29:59.123456Z""#,
            same("18:29:59.123456"),
        ),
        (
            "interval string",
            "text",
            "string io.debezium.time.Interval",
            r#""P0Y0M0DT0H0M-0.000001S""#,
            same("P0Y0M0DT0H0M-0.000001S"),
        ),
        (
            "interval numeric",
            "integer",
            "int64 io.debezium.time.MicroDuration",
            "2629800000000",
            all(Ok(int(2_629_800_000_000))),
        ),
    ]);
}

#[test]
fn texts_and_bytes() {
    check([
        ("char(3)", "text", "string", r#""US ""#, same("US ")),
        ("inet", "text", "string", r#""10.0.0.1""#, same("10.0.0.1")),
        ("int4range", "text", "string", r#""[1,5)""#, same("[1,5)")),
        ("enum", "text", "string io.debezium.data.Enum allowed=new,paid", r#""paid""#, same("paid")),
        ("ltree", "text", "string io.debezium.data.Ltree", r#""Top.Science""#, same("Top.Science")),
        ("xml", "text", "string io.debezium.data.Xml", r#""<a b=\"1\"/>""#, same("<a b=\"1\"/>")),
        ("tsvector", "text", "string io.debezium.data.Tsvector", r#""'a':1""#, same("'a':1")),
        (
            "uuid",
            "uuid",
            "string io.debezium.data.Uuid",
            r#""6F9619FF-8B86-D011-B42D-00CF4FC964FF""#,
            same("6f9619ff-8b86-d011-b42d-00cf4fc964ff"),
        ),
        ("json", "json", JSON, r#""{\"a\": 1}""#, same("{\"a\": 1}")),
        ("jsonb", "json?", JSON, r#""null""#, same("null")),
        ("jsonb", "json?", JSON, "null", all(Ok(Value::Null))),
        ("hstore json", "json", JSON, r#""{\"a\":\"1\",\"b\":null}""#, same(r#"{"a":"1","b":null}"#)),
        ("bytea bytes", "blob", "bytes", r#""AP8=""#, blob(&[0, 255])),
        ("bytea bytes", "blob", "bytes", r#""""#, blob(&[])),
        ("bytea base64", "blob", "string", r#""AP8=""#, blob(&[0, 255])),
        ("bytea hex", "blob @hex", "string", r#""00ff""#, blob(&[0, 255])),
        ("bit(5)", "blob", "bytes io.debezium.data.Bits length=5", r#""FQ==""#, blob(&[0b1_0101])),
    ]);
}

#[test]
fn what_has_parts() {
    check([
        ("hstore map", "json", "{} string", r#"{"a":"1","b":null}"#, same(r#"{"a":"1","b":null}"#)),
        ("text[]", "json", "[] string", r#"["a",null]"#, same(r#"["a",null]"#)),
        ("text[]", "json", "[] string", "[]", same("[]")),
        ("bigint[]", "json", "[] int64", "[9223372036854775807,null]", same("[9223372036854775807,null]")),
        ("boolean[]", "json", "[] boolean", "[true,false]", same("[true,false]")),
        ("double precision[]", "json", "[] double", "[0.1,-2.0]", same("[0.1,-2.0]")),
        ("bytea[]", "json", "[] bytes", r#"["AP8="]"#, same(r#"["AP8="]"#)),
        // Their inner lists are lost.
        ("int[][]", "json", "[] int32", "[null,null]", same("[null,null]")),
        ("numeric[] string", "json", "[] string", r#"["1.10",null]"#, same(r#"["1.10",null]"#)),
        ("numeric[] double", "json", "[] double", "[1.1,null,-2.0]", same("[1.1,null,-2.0]")),
        (
            "numeric(6,2)[] precise",
            "json",
            DECIMALS,
            r#"["bg==",null,"/zg="]"#,
            inside(r#"["bg==",null,"/zg="]"#, r#"["1.10",null,"-2.00"]"#),
        ),
        (
            "numeric[] precise",
            "json",
            SCALEDS,
            r#"[{"scale":1,"value":"Cw=="}]"#,
            inside(r#"[{"scale":1,"value":"Cw=="}]"#, r#"["1.1"]"#),
        ),
        (
            "date[] adaptive",
            "json",
            "[] int32 io.debezium.time.Date",
            "[20000,null]",
            inside("[20000,null]", r#"["2024-10-04",null]"#),
        ),
        (
            "timestamp[] adaptive",
            "json",
            "[] int64 io.debezium.time.MicroTimestamp",
            "[1]",
            inside("[1]", r#"["1970-01-01T00:00:00.000001Z"]"#),
        ),
        ("real[]", "json", "[] float", "[0.1]", inside("[0.1]", "[0.10000000149011612]")),
        (
            "point",
            "json",
            POINT,
            r#"{"x":1.5,"y":-2.0,"wkb":"AQE=","srid":null}"#,
            same(r#"{"x":1.5,"y":-2.0,"wkb":"AQE=","srid":null}"#),
        ),
        (
            "geometry",
            "json",
            GEOMETRY,
            r#"{"wkb":"AQE=","srid":4326}"#,
            same(r#"{"wkb":"AQE=","srid":4326}"#),
        ),
        ("geometry", "json?", GEOMETRY, "null", all(Ok(Value::Null))),
        ("vector", "json", "[] double", "[0.5,1.0]", same("[0.5,1.0]")),
    ]);
}

/// What stands for a large value that did not change, in the forms that the types give it.
#[test]
fn placeholders() {
    const BYTES: &str = r#""X19kZWJleml1bV91bmF2YWlsYWJsZV92YWx1ZQ==""#;
    const TEXT: &str = r#""__debezium_unavailable_value""#;
    let numbers = |form: fn(u8) -> String| {
        let numbers: Vec<String> = "__debezium_unavailable_value".bytes().map(form).collect();
        format!("[{}]", numbers.join(","))
    };
    let map = format!("{{{TEXT}:{TEXT}}}");
    let integers = numbers(|byte| byte.to_string());
    for (postgres, column, schema, json) in [
        ("text", "text", "string", TEXT.to_owned()),
        ("jsonb", "json", JSON, TEXT.to_owned()),
        ("numeric string", "decimal", "string", TEXT.to_owned()),
        ("bytea bytes", "blob", "bytes", BYTES.to_owned()),
        ("bytea hex", "blob @hex", "string", TEXT.to_owned()),
        ("hstore map", "json", "{} string", map.clone()),
        ("hstore map", "text? .c.color", "{} string", map.clone()),
        ("hstore json", "json", JSON, serde_json::to_string(&map).unwrap()),
        ("text[]", "json", "[] string", format!("[{TEXT}]")),
        ("bytea[]", "json", "[] bytes", format!("[{BYTES}]")),
        (
            "uuid[]",
            "json",
            "[] string io.debezium.data.Uuid",
            r#"["b68a35a7-17ad-35b3-af2a-ae46edb4545a"]"#.to_owned(),
        ),
        ("integer[]", "json", "[] int32", integers.clone()),
        ("date[]", "json", "[] int32 io.debezium.time.Date", integers),
        ("double precision[]", "json", "[] double", numbers(|byte| format!("{byte}.0"))),
    ] {
        assert_eq!(into(column, schema, &json), all(Ok(Value::Absent)), "{postgres} as {json} into {column}");
    }
    // A map that has a key of that name is one.
    let other = r#"{"__debezium_unavailable_value":"a","color":"red"}"#;
    assert_eq!(into("json", "{} string", other), same(other));
    assert_eq!(into("text .c.color", "{} string", other), same("red"));
}

/// A flattened row, with what `add.fields` can put beside its columns.
const FLATTENED: &str = "p.public.items.Value id:int64 name:string? photo:bytes? __deleted:string? __op:string? \
                         __table:string? __lsn:int64? __source_sequence:string? __source_snapshot:string? \
                         __ts_ms:int64? __source_ts_ms:int64?";

/// Flattened rows in Avro, and their keys.
struct Flattened {
    feed: Feed,
    row: serde_json::Value,
    key: serde_json::Value,
}

impl Flattened {
    fn new(format: Format, row: &str, tables: Vec<Table>) -> Flattened {
        let mut row = connect(row, false);
        let tags = json!({"type": "map", "keys": connect("string", false), "values": connect("string", true),
            "optional": true, "field": "tags"});
        row["fields"].as_array_mut().unwrap().push(tags);
        let key = connect("p.public.items.Key id:int64", false);
        let config = config(vec![topic("t", format)], tables);
        let mut feed = Feed::of(&config);
        feed.plan = Plan::with_registry(&config, Some(registry(&[&row, &key])));
        Flattened { feed, row, key }
    }

    fn items() -> Flattened {
        let columns = ["id integer", "name text?", "photo blob?", "tags json?", "color text? .tags.color"];
        Flattened::new(Format::DebeziumFlatAvro, FLATTENED, vec![table("items", 1, &columns)])
    }

    fn key(&self, id: i64) -> Vec<u8> {
        framed(2, &self.key, &format!(r#"{{"id":{id}}}"#))
    }

    fn record(&mut self, key: i64, row: &str) -> Outcome {
        let key = self.key(key);
        self.feed.bytes(Some(&key), Some(&framed(1, &self.row, row)))
    }

    fn changes(&mut self, key: i64, row: &str) -> &[Change] {
        assert_eq!(self.record(key, row), Outcome::Changes, "{row}");
        &self.feed.changes
    }

    fn operations(&mut self, key: i64, row: &str) -> Vec<Operation> {
        self.changes(key, row).iter().map(|change| change.operation).collect()
    }
}

#[test]
fn flattened_rows_in_avro_come_change_and_go() {
    let mut items = Flattened::items();
    let row = r#"{"id":1,"name":"a","photo":"AP8=","tags":{"color":"red"},"__deleted":"false","__op":"c","__lsn":7}"#;
    assert_eq!(items.operations(1, row), [WRITE]);
    let tags = text(r#"{"color":"red"}"#);
    let whole = [int(1), text("a"), Value::Blob(vec![0, 255]), tags, text("red")];
    assert_eq!(items.feed.only().values, whole);
    assert_eq!(items.feed.version(), (VersionKind::Integers, vec![7, 7]));
    // What the source left out stays; the sequence counts for more than the position in the log.
    let row = r#"{"id":1,"name":"__debezium_unavailable_value","photo":"X19kZWJleml1bV91bmF2YWlsYWJsZV92YWx1ZQ==",
        "tags":{"__debezium_unavailable_value":"__debezium_unavailable_value"},
        "__op":"u","__lsn":9,"__source_sequence":"[\"5\",\"9\"]"}"#;
    assert_eq!(items.operations(1, row), [WRITE]);
    let left_out = [Value::Absent, Value::Absent, Value::Absent, Value::Absent];
    assert_eq!(items.feed.only().values[1..], left_out);
    assert_eq!(items.feed.version(), (VersionKind::Integers, vec![5, 9]));
    // A row that is new under its key has nothing of the one before.
    assert_eq!(items.operations(1, &row.replace(r#""u""#, r#""c""#)), [Operation::Delete, WRITE]);
    // A deleted row has invented columns, and the key alone counts.
    let gone = r#"{"id":0,"name":"","__deleted":"true","__lsn":60}"#;
    assert_eq!(items.operations(1, gone), [Operation::Delete]);
    assert_eq!(items.feed.only().values[..2], [int(1), Value::Absent]);
    let key = items.key(1);
    assert_eq!(items.feed.bytes(Some(&key), None), Outcome::Skipped(Skip::Tombstone));
    assert_eq!(items.feed.bytes(Some(&key), None), Outcome::Changes);
    assert_eq!(items.feed.only().operation, Operation::Tombstone);
    for (op, operation) in [("d", Operation::Delete), ("t", Operation::Truncate), ("r", WRITE)] {
        let row = format!(r#"{{"id":1,"__op":"{op}","__lsn":61}}"#);
        assert_eq!(items.operations(1, &row), [operation], "{op}");
    }
}

#[test]
fn flattened_rows_in_avro_tell_of_snapshots_and_of_keys_that_change() {
    let mut items = Flattened::items();
    let read = |mark: &str| {
        format!(
            r#"{{"id":1,"name":"a","__ts_ms":7,"__source_snapshot":"{mark}","__source_sequence":"[null,\"9\"]"}}"#
        )
    };
    assert_eq!(items.operations(1, &read("last")), [WRITE, Operation::Snapshot(Phase::Listed)]);
    assert_eq!(items.changes(1, &read("incremental"))[0].version.read_ms(), Some(7));
    items.feed.set_headers([("__debezium.newkey", r#"{"id":2}"#)]);
    let gone = r#"{"id":1,"__deleted":"true","__source_ts_ms":100000,"__source_sequence":"[\"9\",\"10\"]"}"#;
    let carried = Operation::Carry { read_before_ms: 40_000 };
    assert_eq!(items.operations(1, gone), [carried, Operation::Delete]);
    assert_eq!((&items.feed.changes[0].from[0], &items.feed.changes[0].values[0]), (&int(1), &int(2)));
}

#[test]
fn a_flag_of_a_flattened_row_may_be_a_boolean() {
    let row = "p.public.items.Value id:int64 __lsn:int64 __deleted:boolean?";
    let mut items = Flattened::new(Format::DebeziumFlatAvro, row, vec![table("t", 1, &["id integer"])]);
    for (flag, operation) in [("true", Operation::Delete), ("false", WRITE), ("null", WRITE)] {
        let row = format!(r#"{{"id":1,"__lsn":7,"__deleted":{flag}}}"#);
        assert_eq!(items.operations(1, &row), [operation], "{flag}");
        let mut json = Feed::new(topic("t", Format::DebeziumFlat), vec![table("t", 1, &["id integer"])]);
        assert_eq!(json.record(r#"{"id":1}"#, &row), Outcome::Changes);
        assert_eq!(json.only().operation, operation, "{flag}");
    }
}

#[test]
fn flattened_rows_in_avro_need_a_version() {
    for (fields, row, path) in [
        ("", r#"{"id":1}"#, ".__lsn"),
        ("__lsn:int64?", r#"{"id":1}"#, ".__lsn"),
        ("__lsn:string", r#"{"id":1,"__lsn":"7"}"#, ".__lsn"),
        ("__source_lsn:double", r#"{"id":1,"__source_lsn":7.0}"#, ".__source_lsn"),
        ("__sequence:string __lsn:int64", r#"{"id":1,"__sequence":"[\"1\"]","__lsn":7}"#, ".__sequence"),
        ("__sequence:int64 __lsn:int64", r#"{"id":1,"__sequence":1,"__lsn":7}"#, ".__sequence"),
    ] {
        let schema = format!("p.public.items.Value id:int64 {fields}");
        let tables = vec![table("t", 1, &["id integer"])];
        let mut items = Flattened::new(Format::DebeziumFlatAvro, schema.trim_end(), tables);
        assert_eq!(refusal(&items.record(1, row)), (Reason::Version, path), "{fields}");
    }
}

#[test]
fn flattened_rows_in_avro_are_of_the_table_that_they_name() {
    let of = |name: &str, when: &str| {
        let mut table = table(name, 1, &["id integer"]);
        table.sources[0].when.rows = Some(condition(when));
        table
    };
    let tables = vec![
        of("items", r#".__table == "items" and .name != "hidden""#),
        of("orders", r#"$event.__table == "orders""#),
    ];
    let mut both = Flattened::new(Format::DebeziumFlatAvro, FLATTENED, tables);
    let row = |table: &str, name: &str, deleted: bool| {
        format!(r#"{{"id":7,"name":"{name}","__table":"{table}","__deleted":"{deleted}","__lsn":9}}"#)
    };
    for (nth, table) in ["items", "orders"].into_iter().enumerate() {
        for (deleted, operation) in [(false, WRITE), (true, Operation::Delete)] {
            assert_eq!(both.operations(7, &row(table, "a", deleted)), [operation], "{table}");
            assert_eq!(both.feed.only().table, nth);
        }
    }
    // What is said of the row itself deletes.
    assert_eq!(both.operations(7, &row("items", "hidden", false)), [Operation::Delete]);
    assert_eq!(both.record(7, &row("others", "a", true)), IGNORED);
}

/// What a registry knows of a schema is no field of the row.
#[test]
fn flattened_rows_in_avro_name_their_schema() {
    let columns = ["id integer", "schema integer $schema.id", "kind text $schema.name", "all json ."];
    let row = "p.public.items.Value id:int64 __lsn:int64";
    let mut items = Flattened::new(Format::DebeziumFlatAvro, row, vec![table("t", 1, &columns)]);
    assert_eq!(items.operations(1, r#"{"id":1,"__lsn":7}"#), [WRITE]);
    let all = text(r#"{"id":1,"__lsn":7,"tags":null}"#);
    assert_eq!(items.feed.only().values, [int(1), int(1), text("p.public.items.Value"), all]);
}

/// Each of the two formats reads its own encoding of values; keys may be in another.
#[test]
fn flattened_rows_in_another_encoding_are_refused() {
    let json: &[u8] = br#"{"id":1,"name":"a","__lsn":7}"#;
    let tables = || vec![table("t", 1, &["id integer", "name text?"])];
    let mut avro = Flattened::new(Format::DebeziumFlatAvro, FLATTENED, tables());
    let (key, written) = (avro.key(1), framed(1, &avro.row, std::str::from_utf8(json).unwrap()));
    assert_eq!(refusal(&avro.feed.bytes(Some(&key), Some(json))), (Malformed, "."));
    assert_eq!(
        refusal(&avro.feed.bytes(Some(&key), Some(&framed(2, &avro.key, "{\"id\":1}")))).0,
        Reason::Version
    );
    let feed = |format: Format, key_format: KeyFormat| {
        let mut topic = topic("t", format);
        topic.key_format = Some(key_format);
        let config = config(vec![topic], tables());
        let mut feed = Feed::of(&config);
        feed.plan = Plan::with_registry(&config, Some(registry(&[&avro.row, &avro.key])));
        feed
    };
    let deleted = r#"{"id":0,"__lsn":8,"__deleted":"true"}"#;
    let mut flat = feed(Format::DebeziumFlat, KeyFormat::Avro);
    assert_eq!(refusal(&flat.bytes(Some(&key), Some(&written))), (Malformed, "."));
    assert_eq!(flat.bytes(Some(&key), Some(json)), Outcome::Changes);
    assert_eq!(flat.bytes(Some(&key), Some(deleted.as_bytes())), Outcome::Changes);
    assert_eq!((flat.only().operation, &flat.only().values[0]), (Operation::Delete, &int(1)));
    let mut keyed = feed(Format::DebeziumFlatAvro, KeyFormat::Json);
    assert_eq!(keyed.bytes(Some(br#"{"id":1}"#), Some(&framed(1, &avro.row, deleted))), Outcome::Changes);
    assert_eq!((keyed.only().operation, &keyed.only().values[0]), (Operation::Delete, &int(1)));
}

/// With a converter that no format of Debezium's is for, rows and deletes are in order, and that is all.
#[test]
fn flattened_rows_with_json_schema_are_mapped_by_hand() {
    let mut topic = topic("t", Format::JsonSchema);
    topic.version = Some(expression(".__lsn"));
    topic.key_format = Some(KeyFormat::Json);
    let mut items = table("t", 1, &["id integer", "name text?"]);
    items.sources[0].when.rows = Some(condition(".__deleted != \"true\""));
    let config = config(vec![topic], vec![items]);
    let schema =
        Schema { kind: Kind::Json, text: "{}".to_owned(), references: Vec::new(), versions: Vec::new() };
    let mut feed = Feed::of(&config);
    feed.plan = Plan::with_registry(&config, Some(Registry::fixed([(1, schema)])));
    let mut row = |json: &str| {
        let value = [&[0, 0, 0, 0, 1][..], json.as_bytes()].concat();
        assert_eq!(feed.bytes(Some(br#"{"id":1}"#), Some(&value)), Outcome::Changes);
        (feed.only().operation, feed.only().values.clone(), feed.version().1)
    };
    let unchanged = r#"{"id":1,"name":"__debezium_unavailable_value","__lsn":7,"__deleted":"false"}"#;
    assert_eq!(row(unchanged), (WRITE, vec![int(1), text("__debezium_unavailable_value")], vec![7]));
    let gone = r#"{"id":1,"name":"","__lsn":9,"__deleted":"true"}"#;
    assert_eq!(row(gone), (Operation::Delete, vec![int(1), Value::Absent], vec![9]));
}

/// The next row has another shape, and no event says so.
#[test]
fn a_schema_that_changes_in_mid_stream() {
    let columns = ["id integer", "name text?", "price decimal?", "channel text?"];
    let mut feed = Feed::new(topic("t", Format::DebeziumJson), vec![table("t", 1, &columns)]);
    for (after, expected) in [
        (r#"{"id":1,"name":"a","price":"1.50"}"#, [text("a"), text("1.50"), Value::Null]),
        // Added, without a default and with one.
        (r#"{"id":1,"name":"a","price":"1.50","channel":null}"#, [text("a"), text("1.50"), Value::Null]),
        (r#"{"id":1,"name":"a","price":"1.50","channel":"web"}"#, [text("a"), text("1.50"), text("web")]),
        // Another scale, a renamed column, a dropped one, an unknown one.
        (r#"{"id":1,"name":"a","price":"1.5000"}"#, [text("a"), text("1.5000"), Value::Null]),
        (r#"{"id":1,"title":"a","price":"1.5000"}"#, [Value::Null, text("1.5000"), Value::Null]),
        (r#"{"id":1,"name":"b"}"#, [text("b"), Value::Null, Value::Null]),
        (r#"{"id":1,"name":"b","other":[{}]}"#, [text("b"), Value::Null, Value::Null]),
    ] {
        let row = feed.row(r#"{"id":1}"#, &envelope("u", "null", after, FIRST));
        assert_eq!(row[1..], expected, "{after}");
    }
}
