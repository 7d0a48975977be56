//! From a field of an event to the value of a column: the one table of types.
//!
//! | column | takes | becomes |
//! | --- | --- | --- |
//! | `integer` | a JSON number without fraction and exponent, within 64 bits | integer |
//! | `real` | a JSON number whose nearest double is finite | real |
//! | `text` | a string without NUL characters (C readers would see it cut off) | text |
//! | `boolean` | `true`, `false` | integer 1, 0 |
//! | `blob` | a string of base64 (padded), or of hex with `encoding: hex` | blob |
//! | `decimal` | a number or a string in the form of one, any length | text, the digits as sent |
//! | `date` | `YYYY-MM-DD`, also with `Z`; a number with `encoding` | text `YYYY-MM-DD` |
//! | `time` | `HH:MM:SS[.f]`, also with `Z`, up to `24:00:00`; a number with `encoding` | text `HH:MM:SS.ffffff` |
//! | `timestamp` | RFC 3339 with any offset; a number with `encoding` | text `YYYY-MM-DDTHH:MM:SS.ffffffZ` |
//! | `uuid` | 8-4-4-4-12 hex digits | text, lower case |
//! | `json` | any value, up to 1000 levels deep | its text without the space between tokens |
//!
//! Everything else is refused, never cast: a string does not become a number nor a number a
//! string, and what would have to be rounded (a fraction finer than a microsecond), is infinite,
//! NaN, BC or beyond 64 bits is out of range. `encoding` says how a *number* is read and changes
//! nothing for strings.
//!
//! Null, and a field that is not there, become NULL where the column may be null; otherwise the
//! event is refused. In a patch too, a named column whose field is not there becomes NULL.
//!
//! Record keys with `key_format: text` stand for a value of the column's type: `42` is an integer
//! for an `integer` column and text for a `text` column.
//!
//! From `debezium-json`:
//!
//! - a string in a `json` column is the text that the database holds: it must be JSON, and is kept
//!   byte for byte;
//! - a number in a `date` column is days since 1970 unless `encoding` says otherwise;
//! - with an embedded schema, `Decimal` and `VariableScaleDecimal` (base64) become `decimal`, and
//!   only that; `Date`, `Time`, `MicroTime`, `NanoTime`, `Timestamp`, `MicroTimestamp` and
//!   `NanoTimestamp` become `date`, `time` and `timestamp` without an `encoding`, or an `integer` as
//!   sent;
//! - the placeholder of an unchanged value keeps what the replica has.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use super::{json_text, native};
use crate::config::Encoding;
use crate::decode::time::{self, Flaw};
use crate::decode::{Field, Logical, decimal};
use crate::domain::dead_letter::Reason;
use crate::domain::value::{ColumnType, Value};

/// What a column takes.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    pub ty: ColumnType,
    pub nullable: bool,
    pub key: bool,
    pub encoding: Option<Encoding>,
    /// A string in a `json` column holds the JSON text.
    pub json_in_text: bool,
    /// A boolean is 0 or 1, and a timestamp has a space in its middle and no zone.
    pub is_mysql: bool,
}

/// Why a field is not a value of its column; the path is the caller's to add.
#[derive(Debug, Clone, PartialEq)]
pub struct Refusal {
    pub reason: Reason,
    pub message: String,
}

impl Refusal {
    pub fn new(reason: Reason, message: impl Into<String>) -> Refusal {
        Refusal { reason, message: message.into() }
    }
}

/// A value of a key column from the text of one JSON value, in the form rows have it. What is
/// asked for by key has to be read as events are.
pub fn key_value(ty: ColumnType, json: &str) -> Result<Value, Refusal> {
    let target =
        Target { ty, nullable: false, key: true, encoding: None, json_in_text: false, is_mysql: false };
    convert(Field::Json(json), &target)
}

#[inline]
pub fn convert(field: Field<'_>, target: &Target) -> Result<Value, Refusal> {
    match field {
        Field::Json(text) => from_json(text, target),
        Field::Absent => missing(target, "is missing"),
        Field::Typed(logical, text) => from_typed(logical, text, target),
        Field::Text(text) => from_text(text, target),
        Field::Native(native) => native::convert(native, target),
        Field::Unavailable if target.key => Err(Refusal::new(
            Reason::MissingKey,
            "is a key column, and the source left its value out as unchanged",
        )),
        Field::Unavailable => Ok(Value::Absent),
        Field::NotAnObject => {
            Err(Refusal::new(Reason::WrongType, "cannot be reached: a part of the path is not an object"))
        }
    }
}

pub(super) fn missing(target: &Target, what: &str) -> Result<Value, Refusal> {
    if target.key {
        Err(Refusal::new(Reason::MissingKey, format!("{what} and belongs to the key")))
    } else if target.nullable {
        Ok(Value::Null)
    } else {
        Err(Refusal::new(Reason::MissingValue, format!("{what} and the column may not be null")))
    }
}

fn from_json(text: &str, target: &Target) -> Result<Value, Refusal> {
    let first = text.as_bytes().first().copied().unwrap_or(b'n');
    if first == b'n' {
        return missing(target, "is null");
    }
    if target.ty == ColumnType::Json {
        return match first {
            b'"' if target.json_in_text => from_json_string(&string(text)?),
            _ => json_text::compact(text).map(Value::Text),
        };
    }
    match first {
        b'"' => from_string(string(text)?, target).unwrap_or_else(|| Err(wrong_type(text, target))),
        b't' | b'f' if target.ty == ColumnType::Boolean => Ok(Value::Integer(i64::from(first == b't'))),
        b'-' | b'0'..=b'9' => from_number(text, target).unwrap_or_else(|| Err(wrong_type(text, target))),
        _ => Err(wrong_type(text, target)),
    }
}

/// `None` where the column takes no number.
pub(super) fn from_number(text: &str, target: &Target) -> Option<Result<Value, Refusal>> {
    Some(match target.ty {
        ColumnType::Boolean if target.is_mysql && matches!(text, "0" | "1") => {
            Ok(Value::Integer(i64::from(text == "1")))
        }
        ColumnType::Integer => integer(text).map(Value::Integer),
        ColumnType::Real => match text.parse::<f64>() {
            Ok(number) if number.is_finite() => Ok(Value::Real(number)),
            _ => Err(out_of_range(text, "is beyond the largest double")),
        },
        ColumnType::Decimal => Ok(Value::Text(text.to_owned())),
        ColumnType::Date | ColumnType::Time | ColumnType::Timestamp => {
            let Some(unit) = target.encoding else {
                return Some(Err(Refusal::new(
                    Reason::WrongType,
                    format!("is a number, and the {} column has no `encoding` to read it by", target.ty),
                )));
            };
            integer(text).and_then(|number| from_epoch(number, unit, text, target))
        }
        _ => return None,
    })
}

pub(super) fn from_epoch(number: i64, unit: Encoding, text: &str, target: &Target) -> Result<Value, Refusal> {
    let read = match target.ty {
        ColumnType::Date => time::date_from_number(number, unit),
        ColumnType::Time => time::time_from_number(number, unit),
        _ => time::timestamp_from_number(number, unit),
    };
    read.map(Value::Text).map_err(|flaw| from_flaw(flaw, text, target))
}

fn integer(text: &str) -> Result<i64, Refusal> {
    text.parse().map_err(|_| {
        if text.contains(['.', 'e', 'E']) {
            let what = describe(text);
            Refusal::new(
                Reason::WrongType,
                format!("is {what} with a fraction or an exponent, not an integer"),
            )
        } else {
            out_of_range(text, "does not fit into 64 bits")
        }
    })
}

/// `None` where the column takes no string.
pub(super) fn from_string(text: Cow<'_, str>, target: &Target) -> Option<Result<Value, Refusal>> {
    let flawed = |flaw| from_flaw(flaw, &text, target);
    Some(match target.ty {
        ColumnType::Text => match text {
            // Straight out of JSON, where a NUL character would be an escape.
            Cow::Borrowed(plain) => Ok(Value::Text(plain.to_owned())),
            Cow::Owned(text) if text.contains('\0') => Err(Refusal::new(
                Reason::WrongType,
                format!("is {} that holds a NUL character", describe_string(&text)),
            )),
            Cow::Owned(text) => Ok(Value::Text(text)),
        },
        ColumnType::Blob => {
            let bytes = match target.encoding {
                Some(Encoding::Hex) => hex(&text),
                _ => STANDARD.decode(text.as_bytes()).ok(),
            };
            bytes.map(Value::Blob).ok_or_else(|| wrong_string(&text, target))
        }
        ColumnType::Decimal if decimal::is_decimal(&text) => Ok(Value::Text(text.into_owned())),
        ColumnType::Decimal | ColumnType::Real | ColumnType::Integer if decimal::is_not_finite(&text) => {
            Err(Refusal::new(Reason::OutOfRange, "is infinite or not a number"))
        }
        ColumnType::Date => time::date_from_text(&text).map(Value::Text).map_err(flawed),
        ColumnType::Time => time::time_from_text(&text).map(Value::Text).map_err(flawed),
        ColumnType::Timestamp if target.is_mysql => {
            time::timestamp_from_text(&with_zone(&text)).map(Value::Text).map_err(flawed)
        }
        ColumnType::Timestamp => time::timestamp_from_text(&text).map(Value::Text).map_err(flawed),
        ColumnType::Uuid if is_uuid(&text) => Ok(Value::Text(text.to_ascii_lowercase())),
        _ => return None,
    })
}

/// As MySQL writes a timestamp, `2026-03-01 12:00:00`, in the form of RFC 3339; it counts as UTC.
fn with_zone(text: &str) -> Cow<'_, str> {
    match text.split_once(' ') {
        Some((date, time)) if !text.contains(['T', 'Z', '+']) => Cow::Owned(format!("{date}T{time}Z")),
        _ => Cow::Borrowed(text),
    }
}

/// Text that is not JSON and stands for a value of the column's type.
pub(super) fn from_text(text: &str, target: &Target) -> Result<Value, Refusal> {
    let numeric = match target.ty {
        // Not everything Rust reads as a number is one in JSON (`+1`, `1.`, `infinity`).
        ColumnType::Integer | ColumnType::Real => decimal::is_decimal(text),
        ColumnType::Boolean => target.is_mysql && matches!(text, "0" | "1"),
        ColumnType::Date | ColumnType::Time | ColumnType::Timestamp => {
            target.encoding.is_some() && text.parse::<i64>().is_ok()
        }
        _ => false,
    };
    match target.ty {
        _ if numeric => match from_number(text, target) {
            Some(result) => result,
            None => Err(wrong_string(text, target)),
        },
        ColumnType::Boolean if text == "true" => Ok(Value::Integer(1)),
        ColumnType::Boolean if text == "false" => Ok(Value::Integer(0)),
        ColumnType::Json => from_json_string(text),
        _ => {
            let owned = Cow::Owned(text.to_owned());
            from_string(owned, target).unwrap_or_else(|| Err(wrong_string(text, target)))
        }
    }
}

pub(super) fn from_json_string(text: &str) -> Result<Value, Refusal> {
    json_text::checked(text).map(|()| Value::Text(text.to_owned()))
}

fn from_typed(logical: Logical, text: &str, target: &Target) -> Result<Value, Refusal> {
    match (logical, target.ty) {
        (Logical::Decimal { scale }, ColumnType::Decimal) => base64_decimal(&string(text)?, scale),
        (Logical::ScaledDecimal, ColumnType::Decimal) => {
            #[derive(Deserialize)]
            struct Scaled {
                scale: i32,
                value: String,
            }
            let Scaled { scale, value } = serde_json::from_str(text).map_err(|_| {
                Refusal::new(Reason::Malformed, "is not the scale and value that its schema says it is")
            })?;
            base64_decimal(&value, scale)
        }
        (Logical::Decimal { .. } | Logical::ScaledDecimal, _) => {
            Err(Refusal::new(Reason::WrongType, format!("is a decimal, not {}", article(target.ty))))
        }
        (Logical::Date, ColumnType::Date) => from_epoch(integer(text)?, Encoding::Days, text, target),
        (Logical::Time(unit), ColumnType::Time) | (Logical::Timestamp(unit), ColumnType::Timestamp) => {
            from_epoch(integer(text)?, unit, text, target)
        }
        // One kind of time must not be read as another.
        (_, ColumnType::Date | ColumnType::Time | ColumnType::Timestamp) => {
            let kind = match logical {
                Logical::Date => "date",
                Logical::Time(_) => "time of day",
                _ => "timestamp",
            };
            Err(Refusal::new(Reason::WrongType, format!("is a {kind}, not {}", article(target.ty))))
        }
        _ => from_json(text, target),
    }
}

fn base64_decimal(text: &str, scale: i32) -> Result<Value, Refusal> {
    let Ok(bytes) = STANDARD.decode(text) else {
        return Err(Refusal::new(Reason::Malformed, "is not the base64 that its schema says it is"));
    };
    decimal::from_bytes(&bytes, scale).map(Value::Text).ok_or_else(|| {
        Refusal::new(
            Reason::OutOfRange,
            format!("is a decimal of {} bytes and scale {scale}, too long to convert", bytes.len()),
        )
    })
}

/// The characters of a JSON string. Most have no escapes and are borrowed.
pub(super) fn string(text: &str) -> Result<Cow<'_, str>, Refusal> {
    let inner = text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    match inner {
        Some(plain) if !plain.as_bytes().contains(&b'\\') => Ok(Cow::Borrowed(plain)),
        // Only a lone surrogate can be wrong here: the syntax was checked.
        _ => serde_json::from_str(text).map(Cow::Owned).map_err(|_| lone_surrogate()),
    }
}

pub(super) fn lone_surrogate() -> Refusal {
    Refusal::new(Reason::Malformed, "is a string with half of a surrogate pair")
}

/// Bytes of no known type as the text that they should be.
pub(super) fn opaque_text(bytes: &[u8]) -> Result<&str, Refusal> {
    std::str::from_utf8(bytes).map_err(|error| {
        Refusal::new(Reason::Malformed, format!("is not valid UTF-8 at byte {}", error.valid_up_to()))
    })
}

fn hex(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) {
        return None;
    }
    let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
    text.as_bytes().chunks_exact(2).map(|pair| Some(digit(pair[0])? << 4 | digit(pair[1])?)).collect()
}

fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}

fn from_flaw(flaw: Flaw, text: &str, target: &Target) -> Refusal {
    match flaw {
        Flaw::Shape => wrong_string(text, target),
        Flaw::Range(why) => Refusal::new(Reason::OutOfRange, why),
    }
}

fn wrong_type(text: &str, target: &Target) -> Refusal {
    Refusal::new(Reason::WrongType, format!("is {}, not {}", describe(text), article(target.ty)))
}

fn wrong_string(text: &str, target: &Target) -> Refusal {
    Refusal::new(Reason::WrongType, format!("is {}, not {}", describe_string(text), article(target.ty)))
}

fn out_of_range(text: &str, why: &str) -> Refusal {
    Refusal::new(Reason::OutOfRange, format!("is {}, which {why}", describe(text)))
}

/// Kind and length of a JSON value, the most that messages tell of it.
pub(super) fn describe(text: &str) -> String {
    match text.as_bytes().first() {
        Some(b'"') => format!("a string of {} bytes", text.len().saturating_sub(2)),
        Some(b'{') => "an object".to_owned(),
        Some(b'[') => "an array".to_owned(),
        Some(b't' | b'f') => "a boolean".to_owned(),
        Some(b'n') | None => "null".to_owned(),
        Some(_) => format!("a number of {} characters", text.len()),
    }
}

fn describe_string(text: &str) -> String {
    format!("a text of {} bytes", text.len())
}

pub(super) fn article(ty: ColumnType) -> String {
    let article = if ty == ColumnType::Integer { "an" } else { "a" };
    format!("{article} {ty}")
}
