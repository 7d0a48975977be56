//! Keys, versions and durations as people write them in a query or on a command line.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::value::RawValue;

use crate::domain::catalog::Table;
use crate::domain::value::Value;
use crate::domain::version::{MAX_PARTS, Parts, VersionKind};
use crate::mapping::{instant_from_text, key_value};

/// `500ms`, `30s`, `5m`, `1h 30m`. The error is a sentence.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let unreadable = || format!("{text:?} is not a duration; write 500ms, 30s or 5m");
    let duration: SignedDuration = text.parse().map_err(|_| unreadable())?;
    Duration::try_from(duration).map_err(|_| unreadable())
}

/// A key: a JSON array with one value per key column, in key order.
pub fn parse_key(table: &Table, text: &str) -> Result<Vec<Value>, String> {
    let columns: Vec<_> = table.key.iter().filter_map(|&column| table.columns.get(column)).collect();
    let shape = || {
        let names: Vec<_> = columns.iter().map(|column| format!("{} ({})", column.name, column.ty)).collect();
        format!("key must be a JSON array of the key columns in this order: {}", names.join(", "))
    };
    // Raw values, because a decimal is compared as it was sent.
    let parts: Vec<&RawValue> = serde_json::from_str(text).map_err(|_| shape())?;
    if parts.len() != columns.len() {
        return Err(shape());
    }
    let mut key = Vec::with_capacity(columns.len());
    for (column, part) in columns.iter().zip(parts) {
        let value = key_value(column.ty, part.get())
            .map_err(|refusal| format!("key column {} ({}) {}", column.name, column.ty, refusal.message))?;
        key.push(value);
    }
    Ok(key)
}

/// A version somebody waits for, to be compared with the integers of a row's version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) kind: VersionKind,
    pub(super) integers: Vec<i64>,
}

/// An integer, an RFC 3339 time or a JSON array of integers; also Debezium's `source.sequence` as it
/// is: two strings, where null stands for the second.
pub(super) fn parse_version(text: &str) -> Result<Wanted, String> {
    if let Ok(integer) = text.parse() {
        return Ok(Wanted { kind: VersionKind::Integer, integers: vec![integer] });
    }
    if let Ok(instant) = instant_from_text(text) {
        return Ok(Wanted { kind: VersionKind::Time, integers: instant.to_vec() });
    }
    if let Ok(integers) = serde_json::from_str::<Vec<i64>>(text)
        && (1..=MAX_PARTS).contains(&integers.len())
    {
        return Ok(Wanted { kind: VersionKind::Integers, integers });
    }
    if let Ok((first, second)) = serde_json::from_str::<(Option<String>, String)>(text)
        && let (Ok(first), Ok(second)) = (first.as_ref().unwrap_or(&second).parse(), second.parse())
    {
        return Ok(Wanted { kind: VersionKind::Integers, integers: vec![first, second] });
    }
    Err(format!(
        "version must be an integer, a time such as 2026-01-31T10:30:00Z, or a JSON array of one to {MAX_PARTS} integers"
    ))
}

/// The integers of a version as they are written in answers, in the form `parse_version` reads.
pub fn version_as_json(parts: &Parts) -> serde_json::Value {
    match (parts.kind, parts.integers.as_slice()) {
        (VersionKind::Integer, [integer]) => (*integer).into(),
        (VersionKind::Time, [second, nanosecond]) => i32::try_from(*nanosecond)
            .ok()
            .and_then(|nanosecond| Timestamp::new(*second, nanosecond).ok())
            .map(|time| time.to_string())
            .into(),
        (_, integers) => integers.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::catalog::Column;
    use crate::domain::value::ColumnType;

    fn table(types: &[ColumnType]) -> Table {
        let column = |ty: &ColumnType| Column { name: format!("{ty}_column"), ty: *ty, nullable: false };
        Table {
            name: "t".to_owned(),
            columns: types.iter().map(column).collect(),
            key: (0..types.len()).collect(),
            indexes: vec![],
            prefixes: vec![],
            topics: vec![0],
            max_staleness_ms: 1,
            ordered_by_position: false,
            delete_marks_ms: 1,
            fingerprint: String::new(),
        }
    }

    #[test]
    fn durations_have_a_unit() {
        for (text, ms) in [("500ms", 500), ("30s", 30_000), ("5m", 300_000), ("0s", 0), ("1h 30m", 5_400_000)]
        {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for text in ["", "5", "-5s", "5 parsecs", "99999999999999999999h"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_key_takes_the_form_its_columns_are_kept_in() {
        let text = |text: &str| Value::Text(text.to_owned());
        for (ty, json, expected) in [
            (ColumnType::Integer, "-7", Value::Integer(-7)),
            (ColumnType::Real, "1.5", Value::Real(1.5)),
            (ColumnType::Boolean, "true", Value::Integer(1)),
            (ColumnType::Text, r#""a\"b""#, text("a\"b")),
            (ColumnType::Blob, r#""AQI=""#, Value::Blob(vec![1, 2])),
            (ColumnType::Decimal, "12.50", text("12.50")),
            (ColumnType::Decimal, r#""12.50""#, text("12.50")),
            (ColumnType::Date, r#""2026-01-31""#, text("2026-01-31")),
            (ColumnType::Time, r#""10:30:00""#, text("10:30:00.000000")),
            (ColumnType::Timestamp, r#""2026-01-31T10:30:00+02:00""#, text("2026-01-31T08:30:00.000000Z")),
            (
                ColumnType::Uuid,
                r#""00112233-4455-6677-8899-AABBCCDDEEFF""#,
                text("00112233-4455-6677-8899-aabbccddeeff"),
            ),
            (ColumnType::Json, r#"{ "a": 1 }"#, text(r#"{"a":1}"#)),
        ] {
            assert_eq!(parse_key(&table(&[ty]), &format!("[{json}]")), Ok(vec![expected]), "{ty} {json}");
        }
    }

    #[test]
    fn a_key_that_does_not_fit_says_what_would() {
        let composite = table(&[ColumnType::Text, ColumnType::Integer]);
        for text in ["", "7", "[7", r#"["a"]"#, r#"["a",1,2]"#, r#"{"a":1}"#] {
            let message = parse_key(&composite, text).unwrap_err();
            assert!(message.contains("text_column (text), integer_column (integer)"), "{message}");
        }
        for text in [r#"["a", "1"]"#, r#"["a", null]"#, r#"["a", 1.5]"#, r#"["a", 99999999999999999999]"#] {
            let message = parse_key(&composite, text).unwrap_err();
            assert!(message.starts_with("key column integer_column (integer) "), "{message}");
        }
        for ty in ColumnType::ALL {
            assert!(parse_key(&table(&[ty]), "[null]").is_err(), "{ty}");
        }
    }

    #[test]
    fn a_version_is_an_integer_a_time_or_several_integers() {
        let wanted = |kind, integers: &[i64]| Ok(Wanted { kind, integers: integers.to_vec() });
        assert_eq!(parse_version("-3"), wanted(VersionKind::Integer, &[-3]));
        assert_eq!(parse_version("1970-01-01T00:01:00.5Z"), wanted(VersionKind::Time, &[60, 500_000_000]));
        assert_eq!(parse_version("[1, 2]"), wanted(VersionKind::Integers, &[1, 2]));
        assert_eq!(parse_version(r#"["1", "2"]"#), wanted(VersionKind::Integers, &[1, 2]));
        assert_eq!(parse_version(r#"[null, "2"]"#), wanted(VersionKind::Integers, &[2, 2]));
        assert_eq!(parse_version("1969-12-31T23:59:59.5Z"), wanted(VersionKind::Time, &[-1, 500_000_000]));
        for text in ["", "newest", "1.5", "[]", "[1,2,3,4,5]", "[null]", "99999999999999999999", "2026-01-31"]
        {
            assert!(parse_version(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_version_is_answered_in_the_form_it_is_asked_in() {
        for (text, expected) in [
            ("42", serde_json::json!(42)),
            ("2026-01-31T10:30:00Z", serde_json::json!("2026-01-31T10:30:00Z")),
            ("[1,2]", serde_json::json!([1, 2])),
        ] {
            let Wanted { kind, integers } = parse_version(text).unwrap();
            let at = crate::domain::version::Coordinates { topic: 0, partition: 0, offset: 0 };
            assert_eq!(version_as_json(&Parts { kind, integers, at }), expected);
        }
    }
}
