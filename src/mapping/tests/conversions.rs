//! The table of types, line by line: a JSON value into a column, through the whole plan.

use super::super::Outcome;
use super::support::*;
use crate::config::Format;
use crate::domain::dead_letter::Reason::{self, Malformed, MissingValue, OutOfRange, WrongType};
use crate::domain::value::Value;
use crate::domain::version::VersionKind;

/// What the value `json` of a field becomes in a column of this type.
fn check(column: &str, json: &str, expected: Result<Value, Reason>) {
    check_in(Format::Json, column, json, expected);
}

fn check_in(format: Format, column: &str, json: &str, expected: Result<Value, Reason>) {
    let mut feed =
        Feed::new(topic("t", format), vec![table("t", 1, &["id integer", &format!("c {column}")])]);
    let row = format!(r#"{{"id":1,"c":{json}}}"#);
    let value = match format {
        Format::DebeziumJson => {
            format!(r#"{{"before":null,"after":{row},"op":"c","source":{{"sequence":"[\"1\",\"2\"]"}}}}"#)
        }
        _ => row,
    };
    let outcome = feed.record("{\"id\":1}", &value);
    match expected {
        Ok(value) => {
            assert_eq!(outcome, super::super::Outcome::Changes, "{column} {json}");
            assert_eq!(feed.only().values[1], value, "{column} {json}");
        }
        Err(reason) => {
            assert_eq!(refusal(&outcome), (reason, ".c"), "{column} {json}");
            let super::super::Outcome::Rejected(rejection) = outcome else { unreachable!() };
            assert_eq!(rejection.table, Some(0));
            // Kind and length only.
            let secret = json.trim_matches('"');
            assert!(secret.len() < 5 || !rejection.message.contains(secret), "{}", rejection.message);
        }
    }
}

fn ok(value: &str) -> Result<Value, Reason> {
    Ok(text(value))
}

#[test]
fn null_goes_where_null_may_go() {
    for ty in
        ["integer", "real", "text", "boolean", "blob", "decimal", "date", "time", "timestamp", "uuid", "json"]
    {
        check(&format!("{ty}?"), "null", Ok(Value::Null));
        check(ty, "null", Err(MissingValue));
    }
}

#[test]
fn integers_keep_every_digit() {
    check("integer", "0", Ok(int(0)));
    check("integer", "-7", Ok(int(-7)));
    check("integer", "9223372036854775807", Ok(int(i64::MAX)));
    check("integer", "-9223372036854775808", Ok(int(i64::MIN)));
    check("integer", "9007199254740993", Ok(int(9_007_199_254_740_993)));
    check("integer", "9223372036854775808", Err(OutOfRange));
    check("integer", "18446744073709551615", Err(OutOfRange));
    check("integer", "-9223372036854775809", Err(OutOfRange));
    check("integer", "100000000000000000000000000000000000000000", Err(OutOfRange));
    for wrong in ["1.0", "1.5", "1e3", "\"42\"", "true", "{}", "[1]", "\"\""] {
        check("integer", wrong, Err(WrongType));
    }
}

#[test]
fn reals_are_finite() {
    check("real", "0.1", Ok(Value::Real(0.1)));
    check("real", "-3", Ok(Value::Real(-3.0)));
    check("real", "5e-324", Ok(Value::Real(5e-324)));
    check("real", "-0.0", Ok(Value::Real(-0.0)));
    check("real", "1e400", Err(OutOfRange));
    for infinite in ["\"NaN\"", "\"Infinity\"", "\"-Infinity\""] {
        check("real", infinite, Err(OutOfRange));
    }
    check("real", "\"0.1\"", Err(WrongType));
    check("real", "true", Err(WrongType));
}

#[test]
fn texts_are_strings_and_nothing_else() {
    check("text", r#""zürich 😀""#, ok("zürich 😀"));
    check("text", r#""""#, ok(""));
    check("text", r#""a\"b\\c\u0041\ud83d\ude00\/""#, ok("a\"b\\cA😀/"));
    check("text", r#""a\u0000b""#, Err(WrongType));
    for lone in [r#""\ud800""#, r#""\ud800x""#, r#""\ude00""#, r#""\ud800\ud800""#] {
        check("text", lone, Err(Malformed));
    }
    for wrong in ["1", "true", "{}", "[\"a\"]"] {
        check("text", wrong, Err(WrongType));
    }
}

#[test]
fn booleans_become_0_and_1() {
    check("boolean", "true", Ok(int(1)));
    check("boolean", "false", Ok(int(0)));
    for wrong in ["1", "0", "\"true\"", "[]"] {
        check("boolean", wrong, Err(WrongType));
    }
}

#[test]
fn blobs_are_base64_or_hex() {
    check("blob", r#""AAEC/w==""#, Ok(Value::Blob(vec![0, 1, 2, 255])));
    check("blob", r#""AAEC\/w==""#, Ok(Value::Blob(vec![0, 1, 2, 255])));
    check("blob", r#""""#, Ok(Value::Blob(vec![])));
    check("blob @hex", r#""00fF""#, Ok(Value::Blob(vec![0, 255])));
    check("blob @base64", r#""AA==""#, Ok(Value::Blob(vec![0])));
    for wrong in [r#""AAEC/w""#, r#""not base64!""#, "1", "[1,2]"] {
        check("blob", wrong, Err(WrongType));
    }
    for wrong in [r#""0""#, r#""0g""#, r#""ää""#] {
        check("blob @hex", wrong, Err(WrongType));
    }
}

#[test]
fn decimals_stay_as_sent() {
    for sent in ["12.50", "-0.00", "100000000000000000000", "1e+20", "0.1000"] {
        check("decimal", sent, ok(sent));
        check("decimal", &format!("\"{sent}\""), ok(sent));
    }
    for infinite in ["NAN", "NaN", "POSITIVE_INFINITY", "NEGATIVE_INFINITY", "Infinity", "-Infinity"] {
        check("decimal", &format!("\"{infinite}\""), Err(OutOfRange));
    }
    for wrong in ["\"\"", "\"1,5\"", "\"DQJy5cM=\"", "true", "{}"] {
        check("decimal", wrong, Err(WrongType));
    }
}

#[test]
fn dates() {
    check("date", r#""2524-05-01""#, ok("2524-05-01"));
    check("date", r#""2524-05-01Z""#, ok("2524-05-01"));
    check("date", r#""2024-02-29""#, ok("2024-02-29"));
    check("date @days", "0", ok("1970-01-01"));
    check("date @days", "-719162", ok("0001-01-01"));
    check("date @millis", "86400000", ok("1970-01-02"));
    check("date @millis", "86400001", Err(OutOfRange));
    for range in ["-719163", "-735160", "-2147472692", "2932897", "9223372036854775807"] {
        check("date @days", range, Err(OutOfRange));
    }
    for range in
        ["-0043-03-15Z", "-5877611-06-21Z", "+292278994-08-16Z", "0000-01-01", "infinity", "-infinity"]
    {
        check("date", &format!("\"{range}\""), Err(OutOfRange));
    }
    for wrong in ["1", "\"2023-02-29\"", "\"2023-13-01\"", "\"23-01-01\"", "\"2023-01-01T00:00:00Z\"", "\"\""]
    {
        check("date", wrong, Err(WrongType));
    }
}

#[test]
fn times_have_one_width() {
    check("time", r#""12:00:00.5Z""#, ok("12:00:00.500000"));
    check("time", r#""00:00:00""#, ok("00:00:00.000000"));
    check("time", r#""24:00:00""#, ok("24:00:00.000000"));
    check("time", r#""18:29:59.123456Z""#, ok("18:29:59.123456"));
    check("time", r#""18:29:59.123456000Z""#, ok("18:29:59.123456"));
    check("time @micros", "86400000000", ok("24:00:00.000000"));
    check("time @millis", "43200500", ok("12:00:00.500000"));
    check("time @seconds", "1", ok("00:00:01.000000"));
    check("time @nanos", "1000", ok("00:00:00.000001"));
    check("time @nanos", "1", Err(OutOfRange));
    check("time @micros", "86400000001", Err(OutOfRange));
    check("time @micros", "-1", Err(OutOfRange));
    check("time @seconds", "9223372036854775807", Err(OutOfRange));
    check("time", r#""18:29:59.1234567Z""#, Err(OutOfRange));
    check("time", r#""23:59:60Z""#, Err(OutOfRange));
    for wrong in ["24:00:01", "25:00:00", "12:60:00", "12:00", "12:00:00+02:00", "12:00:00.", "1:00:00"] {
        check("time", &format!("\"{wrong}\""), Err(WrongType));
    }
    check("time", "1", Err(WrongType));
}

#[test]
fn timestamps_are_moved_to_utc() {
    check("timestamp", r#""2017-04-25T09:01:35.123000Z""#, ok("2017-04-25T09:01:35.123000Z"));
    check("timestamp", r#""2017-04-25T09:01:35Z""#, ok("2017-04-25T09:01:35.000000Z"));
    check("timestamp", r#""2017-04-25T09:01:35.1Z""#, ok("2017-04-25T09:01:35.100000Z"));
    check("timestamp", r#""2017-04-25T00:30:00+02:00""#, ok("2017-04-24T22:30:00.000000Z"));
    check("timestamp", r#""2016-12-31T23:30:00.25-01:30""#, ok("2017-01-01T01:00:00.250000Z"));
    check("timestamp", r#""2017-04-25t09:01:35.1234560000z""#, ok("2017-04-25T09:01:35.123456Z"));
    for range in [
        "2017-04-25T09:01:35.1234567Z",
        "2016-12-31T23:59:60Z",
        "-0043-03-15T12:00:00Z",
        "+294247-01-10T04:00:25.2Z",
        "0000-06-01T00:00:00Z",
        "0001-01-01T00:00:00+01:00",
        "9999-12-31T23:59:59-01:00",
        "infinity",
        "-infinity",
    ] {
        check("timestamp", &format!("\"{range}\""), Err(OutOfRange));
    }
    for wrong in [
        "2017-04-25T09:01:35",
        "2017-04-25",
        "2017-04-25T24:00:00Z",
        "2017-04-31T00:00:00Z",
        "2017-04-25T09:01Z",
        "2017-04-25T09:01:35+0200",
        "2017-04-25T09:01:35Z[UTC]",
        "",
        "yesterday",
    ] {
        check("timestamp", &format!("\"{wrong}\""), Err(WrongType));
    }
}

#[test]
fn numbers_are_timestamps_only_with_an_encoding() {
    check("timestamp", "1500000000", Err(WrongType));
    check("timestamp @seconds", "1500000000", ok("2017-07-14T02:40:00.000000Z"));
    check("timestamp @millis", "1500000000001", ok("2017-07-14T02:40:00.001000Z"));
    check("timestamp @micros", "-1", ok("1969-12-31T23:59:59.999999Z"));
    check("timestamp @nanos", "-1000", ok("1969-12-31T23:59:59.999999Z"));
    check("timestamp @days", "1", ok("1970-01-02T00:00:00.000000Z"));
    check("timestamp @nanos", "1", Err(OutOfRange));
    check("timestamp @millis", "1.5", Err(WrongType));
    for range in ["9223372036825200000", "-9223372036832400000"] {
        check("timestamp @micros", range, Err(OutOfRange));
    }
    check("timestamp @seconds", "253402300799", ok("9999-12-31T23:59:59.000000Z"));
    check("timestamp @seconds", "253402300800", Err(OutOfRange));
    // A string is what it says, whatever the encoding of numbers.
    check("timestamp @millis", r#""2017-04-25T09:01:35Z""#, ok("2017-04-25T09:01:35.000000Z"));
}

#[test]
fn uuids_are_lower_case() {
    check("uuid", r#""123E4567-e89b-12d3-A456-426614174000""#, ok("123e4567-e89b-12d3-a456-426614174000"));
    for wrong in [
        "\"123e4567e89b12d3a456426614174000\"",
        "\"{123e4567-e89b-12d3-a456-426614174000}\"",
        "\"123e4567-e89b-12d3-a456-42661417400g\"",
        "\"\"",
        "1",
    ] {
        check("uuid", wrong, Err(WrongType));
    }
}

#[test]
fn json_is_kept_without_its_spaces() {
    check("json", r#"{"b": 1.50, "a" : [ 1 , "x y\" z" ]}"#, ok(r#"{"b":1.50,"a":[1,"x y\" z"]}"#));
    check("json", "12345678901234567890.10", ok("12345678901234567890.10"));
    check("json", r#""a""#, ok(r#""a""#));
    check("json", "true", ok("true"));
    check("json", r#"["\ud83d\ude00","\u0000"]"#, ok(r#"["\ud83d\ude00","\u0000"]"#));
    check("json", r#"{"a":"\ud83d"}"#, Err(Malformed));
    check("json", r#"["\ud83d","\ude00"]"#, Err(Malformed));
    let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    check("json", &nested(1000), ok(&nested(1000)));
    check("json", &nested(1001), Err(OutOfRange));
}

#[test]
fn debezium_sends_json_as_text_and_dates_as_days() {
    let check = |column: &str, json: &str, expected| check_in(Format::DebeziumJson, column, json, expected);
    check("json", r#""{\"a\": 1}""#, ok(r#"{"a": 1}"#));
    check("json", r#""null""#, ok("null"));
    check("json", r#""\"text\"""#, ok("\"text\""));
    check("json", r#"["a",null]"#, ok(r#"["a",null]"#));
    check("json", r#""{not json""#, Err(WrongType));
    check("json", r#""{} {}""#, Err(WrongType));
    check("date", "202457", ok("2524-04-23"));
    check("date", r#""2524-05-01Z""#, ok("2524-05-01"));
    check("date", "-735160", Err(OutOfRange));
    check("timestamp", "1500000000000000", Err(WrongType));
    check("timestamp @micros", "1500000000000000", ok("2017-07-14T02:40:00.000000Z"));
    check("timestamp", r#""1994-08-21T22:14:40.750002Z""#, ok("1994-08-21T22:14:40.750002Z"));
    check("decimal", r#""NAN""#, Err(OutOfRange));
    check("decimal", "558756592.03", ok("558756592.03"));
    check("text", r#""US ""#, ok("US "));
    check("blob @hex", r#""00ff""#, Ok(Value::Blob(vec![0, 255])));
}

/// The same unit for all events of a topic, whatever their digits.
#[test]
fn instants_of_protobuf_order_events_and_are_no_numbers() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("t.proto");
    let schema = "syntax = \"proto3\"; import \"google/protobuf/timestamp.proto\"; \
                  message Row { int64 id = 1; google.protobuf.Timestamp at = 2; }";
    std::fs::write(&file, schema).unwrap();
    let feed = |column: &str| {
        let mut topic = topic("t", Format::Protobuf);
        (topic.schema_file, topic.message) = (Some(file.clone()), Some("Row".to_owned()));
        topic.version = Some(expression(".at"));
        Feed::new(topic, vec![table("t", 1, &["id integer", column])])
    };
    let varint = |field: u8, mut number: u64| {
        let mut out = vec![field << 3];
        while number >= 0x80 {
            out.push(number as u8 | 0x80);
            number >>= 7;
        }
        out.push(number as u8);
        out
    };
    let row = |seconds: i64, nanos: u64| {
        let at = [varint(1, seconds as u64), varint(2, nanos)].concat();
        [varint(1, 1), vec![2 << 3 | 2, at.len() as u8], at].concat()
    };
    let mut of_time = feed("at timestamp? .missing");
    let mut last = None;
    // The years 1, 1969, 1970 and 9999.
    for (seconds, nanos) in
        [(-62_135_596_800, 0), (-1, 999_999_999), (1, 1), (1, 1_000), (2, 0), (253_402_300_799, 999_999_999)]
    {
        assert_eq!(of_time.bytes(None, Some(&row(seconds, nanos))), Outcome::Changes);
        let version = of_time.only().version;
        assert!(last.is_none_or(|last| last < version), "{seconds} {nanos}");
        last = Some(version);
    }
    assert_eq!(of_time.version(), (VersionKind::Time, vec![253_402_300_799, 999_999_999]));
    assert_eq!(refusal(&of_time.bytes(None, Some(&row(i64::MAX, 1_000_000_000)))), (OutOfRange, ".at"));
    let mut of_column = feed("c timestamp .at");
    for (seconds, nanos, expected) in
        [(-1, 1_000, "1969-12-31T23:59:59.000001Z"), (16_725_225_600, 5_000, "2500-01-01T00:00:00.000005Z")]
    {
        assert_eq!(of_column.bytes(None, Some(&row(seconds, nanos))), Outcome::Changes);
        assert_eq!(of_column.only().values[1], text(expected));
    }
    for (seconds, nanos) in [(1, 1), (253_402_300_800, 0)] {
        assert_eq!(refusal(&of_column.bytes(None, Some(&row(seconds, nanos)))), (OutOfRange, ".at"));
    }
    for nanos in [0, 1] {
        assert_eq!(refusal(&feed("c integer .at").bytes(None, Some(&row(1, nanos)))), (WrongType, ".at"));
    }
}
