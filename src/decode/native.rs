//! Values of formats that are not text, and what they look like inside JSON.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::time::{self, Flaw};
use super::{Logical, decimal};
use crate::config::Encoding;

/// A value that is not JSON text. Null is `Field::Json("null")` in every format.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Native<'a> {
    Integer(i64),
    Unsigned(u64),
    Real(f64),
    Boolean(bool),
    Text(&'a str),
    Bytes(&'a [u8]),
    /// `unscaled · 10^-scale`, big-endian two's complement.
    Decimal {
        unscaled: &'a [u8],
        scale: i32,
    },
    /// A date, a time or a timestamp; never one of the decimals.
    Since(Logical, i64),
    /// Since 1970; `nanos` are less than a second, and not negative.
    Instant {
        seconds: i64,
        nanos: u32,
    },
    /// Bytes of no known type, which stand for a value of whatever type the column has.
    Opaque(&'a [u8]),
}

/// Why a value cannot be written as JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unwritable {
    /// NaN and the infinities.
    NotFinite,
    TooLong,
    Time(&'static str),
    NotText,
}

impl Unwritable {
    pub fn message(self) -> &'static str {
        match self {
            Unwritable::NotFinite => "is infinite or not a number, which JSON cannot say",
            Unwritable::TooLong => "is a decimal that is too long to convert",
            Unwritable::Time(why) => why,
            Unwritable::NotText => "is not valid UTF-8",
        }
    }
}

/// Appends a value as JSON: bytes as base64, decimals as text with all their digits, dates and times
/// in the form of their columns.
pub fn write_json(value: Native<'_>, out: &mut String) -> Result<(), Unwritable> {
    use std::fmt::Write as _;
    // Writing to a string cannot fail.
    match value {
        Native::Integer(number) => drop(write!(out, "{number}")),
        Native::Unsigned(number) => drop(write!(out, "{number}")),
        Native::Real(number) => match serde_json::Number::from_f64(number) {
            Some(number) => drop(write!(out, "{number}")),
            None => return Err(Unwritable::NotFinite),
        },
        Native::Boolean(value) => out.push_str(if value { "true" } else { "false" }),
        Native::Text(text) => write_string(text, out),
        Native::Bytes(bytes) => {
            out.push('"');
            STANDARD.encode_string(bytes, out);
            out.push('"');
        }
        Native::Decimal { unscaled, scale } => {
            let text = decimal::from_bytes(unscaled, scale).ok_or(Unwritable::TooLong)?;
            write_string(&text, out);
        }
        Native::Since(logical, number) => write_string(&since(logical, number)?, out),
        Native::Instant { seconds, nanos } => {
            write_string(&time::timestamp_from_instant(seconds, nanos).map_err(unwritable)?, out);
        }
        Native::Opaque(bytes) => {
            write_string(std::str::from_utf8(bytes).map_err(|_| Unwritable::NotText)?, out);
        }
    }
    Ok(())
}

pub fn write_string(text: &str, out: &mut String) {
    // Most texts need no escape.
    if text.bytes().all(|byte| byte >= 0x20 && byte != b'"' && byte != b'\\') {
        out.push('"');
        out.push_str(text);
        out.push('"');
    } else {
        // Quoting a string cannot fail.
        out.push_str(&serde_json::to_string(text).unwrap_or_default());
    }
}

fn since(logical: Logical, number: i64) -> Result<String, Unwritable> {
    let read = match logical {
        Logical::Date => time::date_from_number(number, Encoding::Days),
        Logical::Time(unit) => time::time_from_number(number, unit),
        Logical::Timestamp(unit) => time::timestamp_from_number(number, unit),
        Logical::Decimal { .. } | Logical::ScaledDecimal => return Ok(number.to_string()),
    };
    read.map_err(unwritable)
}

fn unwritable(flaw: Flaw) -> Unwritable {
    match flaw {
        Flaw::Shape => Unwritable::Time("is no date or time"),
        Flaw::Range(why) => Unwritable::Time(why),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(value: Native<'_>) -> Result<String, Unwritable> {
        let mut out = String::new();
        write_json(value, &mut out).map(|()| out)
    }

    #[test]
    fn values_keep_their_digits_inside_json() {
        let cases = [
            (Native::Integer(i64::MIN), "-9223372036854775808"),
            (Native::Unsigned(u64::MAX), "18446744073709551615"),
            (Native::Real(0.1), "0.1"),
            (Native::Real(1e300), "1e+300"),
            (Native::Boolean(true), "true"),
            (Native::Text("a\"\u{1}ü"), "\"a\\\"\\u0001ü\""),
            (Native::Bytes(&[0, 255]), "\"AP8=\""),
            (Native::Decimal { unscaled: &[0x04, 0xD2], scale: 2 }, "\"12.34\""),
            (Native::Since(Logical::Date, 19_000), "\"2022-01-08\""),
            (Native::Since(Logical::Time(Encoding::Millis), 1_500), "\"00:00:01.500000\""),
            (Native::Since(Logical::Timestamp(Encoding::Micros), 1), "\"1970-01-01T00:00:00.000001Z\""),
            (Native::Instant { seconds: -1, nanos: 1_000 }, "\"1969-12-31T23:59:59.000001Z\""),
        ];
        for (value, expected) in cases {
            assert_eq!(json(value).as_deref(), Ok(expected));
            let read: serde_json::Value = serde_json::from_str(expected).unwrap();
            drop(read);
        }
        assert_eq!(json(Native::Real(f64::NAN)), Err(Unwritable::NotFinite));
        assert_eq!(json(Native::Decimal { unscaled: &[], scale: 0 }), Err(Unwritable::TooLong));
        assert!(json(Native::Since(Logical::Date, i64::MAX)).is_err());
        assert!(json(Native::Instant { seconds: 0, nanos: 1 }).is_err());
    }
}
