//! PostgreSQL's types as Debezium sends them, in the three ways that its connector can be set to: A with
//! everything as text, B with its defaults, whose meaning the embedded schema gives, C with `double`,
//! `connect` and `hex`.

use super::super::Outcome;
use super::debezium::{FIRST, envelope, typed_field, with_schema};
use super::support::*;
use crate::config::Format;
use crate::domain::dead_letter::Reason::{self, OutOfRange, WrongType};
use crate::domain::value::Value;

const DECIMAL: &str = "org.apache.kafka.connect.data.Decimal";
const SCALED: &str = "io.debezium.data.VariableScaleDecimal";
const MICROS: &str = "io.debezium.time.MicroTimestamp";
const MICRO_TIME: &str = "io.debezium.time.MicroTime";
const DATE: &str = "io.debezium.time.Date";

/// What becomes of one value in one encoding.
fn into(column: &str, schema: Option<&str>, json: &str) -> Result<Value, Reason> {
    let columns = ["id integer", &format!("c {column}")];
    let mut feed = Feed::new(topic("t", Format::DebeziumJson), vec![table("t", 1, &columns)]);
    let after = format!(r#"{{"id":1,"c":{json}}}"#);
    let value = match schema {
        None => envelope("u", "null", &after, FIRST),
        Some(name) => {
            let id = r#"{"type":"int32","optional":false,"field":"id"}"#;
            with_schema(&format!("{id},{}", typed_field("c", "any", name)), &after)
        }
    };
    match feed.value(&value) {
        Outcome::Changes => Ok(feed.only().values[1].clone()),
        refused => Err(refusal(&refused).0),
    }
}

fn same(text: &str) -> Result<Value, Reason> {
    Ok(Value::Text(text.to_owned()))
}

#[test]
fn texts_of_everything() {
    for (column, json, expected) in [
        ("decimal", r#""558756592.03""#, same("558756592.03")),
        ("decimal", r#""100000000000000000000""#, same("100000000000000000000")),
        ("decimal?", r#""NAN""#, Err(OutOfRange)),
        ("decimal?", r#""POSITIVE_INFINITY""#, Err(OutOfRange)),
        ("decimal?", r#""NEGATIVE_INFINITY""#, Err(OutOfRange)),
        ("real", "0.1", Ok(Value::Real(0.1))),
        ("real", "5e-324", Ok(Value::Real(5e-324))),
        ("real", "-0.0", Ok(Value::Real(-0.0))),
        ("real?", r#""NaN""#, Err(OutOfRange)),
        ("real?", r#""-Infinity""#, Err(OutOfRange)),
        ("timestamp", r#""2017-04-25T09:01:35.123000Z""#, same("2017-04-25T09:01:35.123000Z")),
        ("timestamp", r#""1994-08-21T22:14:40.750002Z""#, same("1994-08-21T22:14:40.750002Z")),
        ("timestamp", r#""1994-08-21T22:14:40Z""#, same("1994-08-21T22:14:40.000000Z")),
        ("date", r#""2524-05-01Z""#, same("2524-05-01")),
        ("time", r#""12:00:00.5Z""#, same("12:00:00.500000")),
        ("time", r#""00:00:00Z""#, same("00:00:00.000000")),
        ("time", r#""18:29:59.123456Z""#, same("18:29:59.123456")),
        ("text", r#""P0Y0M0DT0H0M-0.000001S""#, same("P0Y0M0DT0H0M-0.000001S")),
        ("boolean", "true", Ok(int(1))),
        ("integer", "9223372036854775807", Ok(int(i64::MAX))),
        ("json", r#""{\"a\": 1}""#, same("{\"a\": 1}")),
        ("json?", r#""null""#, same("null")),
        ("json?", "null", Ok(Value::Null)),
        ("uuid", r#""6F9619FF-8B86-D011-B42D-00CF4FC964FF""#, same("6f9619ff-8b86-d011-b42d-00cf4fc964ff")),
        ("text", r#""10.0.0.1""#, same("10.0.0.1")),
        ("text", r#""US ""#, same("US ")),
        ("blob", r#""AP8=""#, Ok(Value::Blob(vec![0, 255]))),
        ("blob", r#""""#, Ok(Value::Blob(Vec::new()))),
        ("json", r#"["a",null]"#, same(r#"["a",null]"#)),
        ("json", r#"["1.10",null,"-2.00"]"#, same(r#"["1.10",null,"-2.00"]"#)),
        ("json", "[null,null]", same("[null,null]")),
        ("decimal", r#""-1234.56""#, same("-1234.56")),
        ("blob", r#""FQ==""#, Ok(Value::Blob(vec![0b1_0101]))),
        ("json", r#"{"x":1.5,"y":-2.0,"srid":null}"#, same(r#"{"x":1.5,"y":-2.0,"srid":null}"#)),
        ("timestamp?", r#""-infinity""#, Err(OutOfRange)),
        ("timestamp?", r#""+294247-01-10T04:00:25.2Z""#, Err(OutOfRange)),
        ("date?", r#""-5877611-06-21Z""#, Err(OutOfRange)),
        ("date?", r#""+292278994-08-16Z""#, Err(OutOfRange)),
        ("timestamp?", r#""-0043-03-15T12:00:00Z""#, Err(OutOfRange)),
        ("date?", r#""-0043-03-15Z""#, Err(OutOfRange)),
        // Of 44 BC, read in a snapshot: nobody can tell.
        ("date?", r#""0044-03-15Z""#, same("0044-03-15")),
    ] {
        assert_eq!(into(column, None, json), expected, "{column} {json}");
    }
}

#[test]
fn defaults_with_their_schema() {
    for (column, schema, json, expected) in [
        ("decimal", DECIMAL, r#""DQJy5cM=""#, same("558756592.03")),
        ("decimal", SCALED, r#"{"scale":21,"value":"AQ=="}"#, same("0.000000000000000000001")),
        // NaN and infinity, silently.
        ("decimal?", DECIMAL, "null", Ok(Value::Null)),
        ("real?", "", r#""NaN""#, Err(OutOfRange)),
        (
            "timestamp",
            "io.debezium.time.ZonedTimestamp",
            r#""2017-04-25T09:01:35.123000Z""#,
            same("2017-04-25T09:01:35.123000Z"),
        ),
        ("timestamp", MICROS, "777507280750002", same("1994-08-21T22:14:40.750002Z")),
        ("timestamp", "io.debezium.time.Timestamp", "777507280750", same("1994-08-21T22:14:40.750000Z")),
        ("date", DATE, "202474", same("2524-05-10")),
        ("time", MICRO_TIME, "43200500000", same("12:00:00.500000")),
        ("time", MICRO_TIME, "86400000000", same("24:00:00.000000")),
        ("time", "io.debezium.time.ZonedTime", r#""18:29:59.123456Z""#, same("18:29:59.123456")),
        ("integer", "io.debezium.time.MicroDuration", "2629800000000", Ok(int(2_629_800_000_000))),
        ("json", "io.debezium.data.Json", r#""{\"a\": 1}""#, same("{\"a\": 1}")),
        ("blob", "", r#""AP8=""#, Ok(Value::Blob(vec![0, 255]))),
        ("json", "", r#"["bg==",null,"/zg="]"#, same(r#"["bg==",null,"/zg="]"#)),
        ("decimal", DECIMAL, r#""/h3A""#, same("-1234.56")),
        ("blob", "io.debezium.data.Bits", r#""FQ==""#, Ok(Value::Blob(vec![0b1_0101]))),
        ("timestamp?", "io.debezium.time.ZonedTimestamp", r#""-infinity""#, Err(OutOfRange)),
        ("timestamp?", MICROS, "9223372036825200000", Err(OutOfRange)),
        ("date?", DATE, "-2147472692", Err(OutOfRange)),
        ("date?", DATE, "-735160", Err(OutOfRange)),
    ] {
        assert_eq!(into(column, Some(schema), json), expected, "{column} {schema} {json}");
    }
}

#[test]
fn doubles_connect_and_hex() {
    for (column, json, expected) in [
        ("decimal", "558756592.03", same("558756592.03")),
        // Digits are lost already; what is left is kept.
        ("decimal", "1.0E20", same("1.0E20")),
        ("real", "558756592.03", Ok(Value::Real(558_756_592.03))),
        ("decimal?", r#""NaN""#, Err(OutOfRange)),
        ("decimal?", r#""Infinity""#, Err(OutOfRange)),
        ("timestamp @millis", "777507280750", same("1994-08-21T22:14:40.750000Z")),
        ("timestamp", "777507280750", Err(WrongType)),
        ("date", "202474", same("2524-05-10")),
        ("time @millis", "43200500", same("12:00:00.500000")),
        ("text", r#""P1Y2M3DT4H5M6.789S""#, same("P1Y2M3DT4H5M6.789S")),
        ("blob @hex", r#""00ff""#, Ok(Value::Blob(vec![0, 255]))),
        ("json", "[1.1,null,-2.0]", same("[1.1,null,-2.0]")),
        ("timestamp? @millis", "9223372036825200", Err(OutOfRange)),
        ("date?", "-735160", Err(OutOfRange)),
    ] {
        assert_eq!(into(column, None, json), expected, "{column} {json}");
    }
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
