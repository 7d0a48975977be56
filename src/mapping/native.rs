//! Values of formats that are not text, into columns. The table is in docs/FORMATS.md.

use super::convert::{
    Refusal, Target, article, from_epoch, from_json_string, from_number, from_string, from_text, opaque_text,
};
use crate::config::Encoding;
use crate::decode::native::{Native, write_json};
use crate::decode::{Logical, decimal, time};
use crate::domain::dead_letter::Reason;
use crate::domain::value::{ColumnType, Value};

pub fn convert(native: Native<'_>, target: &Target) -> Result<Value, Refusal> {
    match (native, target.ty) {
        (Native::Integer(number), ColumnType::Integer) => Ok(Value::Integer(number)),
        (Native::Text(text), ColumnType::Text) => from_plain_text(text),
        (Native::Text(text), ColumnType::Json) if target.json_in_text => from_json_string(text),
        (Native::Opaque(bytes), ColumnType::Blob) => Ok(Value::Blob(bytes.to_vec())),
        (Native::Opaque(bytes), _) => from_text(opaque_text(bytes)?, target),
        (native, ColumnType::Json) => {
            let mut text = String::new();
            write_json(native, &mut text).map_err(|why| Refusal::new(Reason::OutOfRange, why.message()))?;
            Ok(Value::Text(text))
        }
        (Native::Integer(number), _) => number_text(&number.to_string(), native, target),
        (Native::Unsigned(number), _) => number_text(&number.to_string(), native, target),
        (Native::Real(number), ColumnType::Real) if number.is_finite() => Ok(Value::Real(number)),
        (Native::Real(_), ColumnType::Real) => {
            Err(Refusal::new(Reason::OutOfRange, "is infinite or not a number"))
        }
        (Native::Boolean(value), ColumnType::Boolean) => Ok(Value::Integer(i64::from(value))),
        (Native::Text(text), _) => {
            from_string(text.to_owned().into(), target).unwrap_or_else(|| Err(wrong_type(native, target)))
        }
        (Native::Bytes(bytes), ColumnType::Blob) => Ok(Value::Blob(bytes.to_vec())),
        (Native::Decimal { unscaled, scale }, ColumnType::Decimal) => {
            decimal::from_bytes(unscaled, scale).map(Value::Text).ok_or_else(|| {
                Refusal::new(
                    Reason::OutOfRange,
                    format!(
                        "is a decimal of {} bytes and scale {scale}, too long to convert",
                        unscaled.len()
                    ),
                )
            })
        }
        (Native::Since(_, number), ColumnType::Integer) => Ok(Value::Integer(number)),
        (Native::Since(logical, number), ColumnType::Date | ColumnType::Time | ColumnType::Timestamp) => {
            let unit = match (logical, target.ty) {
                (Logical::Date, ColumnType::Date) => Encoding::Days,
                (Logical::Time(unit), ColumnType::Time)
                | (Logical::Timestamp(unit), ColumnType::Timestamp) => unit,
                // One kind of time must not be read as another.
                _ => return Err(wrong_type(native, target)),
            };
            from_epoch(number, unit, &number.to_string(), target)
        }
        (Native::Instant { seconds, nanos }, ColumnType::Timestamp) => {
            let text = time::timestamp_from_instant(seconds, nanos);
            text.map(Value::Text).map_err(|flaw| match flaw {
                time::Flaw::Range(why) => Refusal::new(Reason::OutOfRange, why),
                time::Flaw::Shape => wrong_type(native, target),
            })
        }
        _ => Err(wrong_type(native, target)),
    }
}

fn from_plain_text(text: &str) -> Result<Value, Refusal> {
    if text.contains('\0') {
        let message = format!("is a text of {} bytes that holds a NUL character", text.len());
        return Err(Refusal::new(Reason::WrongType, message));
    }
    Ok(Value::Text(text.to_owned()))
}

fn number_text(text: &str, native: Native<'_>, target: &Target) -> Result<Value, Refusal> {
    from_number(text, target).unwrap_or_else(|| Err(wrong_type(native, target)))
}

fn wrong_type(native: Native<'_>, target: &Target) -> Refusal {
    Refusal::new(Reason::WrongType, format!("is {}, not {}", describe(native), article(target.ty)))
}

/// Kind and length, the most that messages tell of a value.
fn describe(native: Native<'_>) -> String {
    match native {
        Native::Integer(_) | Native::Unsigned(_) => "an integer".to_owned(),
        Native::Real(_) => "a floating-point number".to_owned(),
        Native::Boolean(_) => "a boolean".to_owned(),
        Native::Text(text) => format!("a text of {} bytes", text.len()),
        Native::Bytes(bytes) | Native::Opaque(bytes) => format!("{} bytes", bytes.len()),
        Native::Decimal { .. } => "a decimal".to_owned(),
        Native::Since(logical, _) => match logical {
            Logical::Date => "a date",
            Logical::Time(_) => "a time of day",
            _ => "a timestamp",
        }
        .to_owned(),
        Native::Instant { .. } => "a timestamp".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Reason::{Malformed, OutOfRange, WrongType};

    fn into(native: Native<'_>, ty: ColumnType) -> Result<Value, Reason> {
        let target =
            Target { ty, nullable: true, key: false, encoding: None, json_in_text: false, is_mysql: false };
        convert(native, &target).map_err(|refusal| {
            assert!(!refusal.message.contains("canary"), "{}", refusal.message);
            refusal.reason
        })
    }

    fn text(text: &str) -> Result<Value, Reason> {
        Ok(Value::Text(text.to_owned()))
    }

    /// The table of docs/FORMATS.md, line by line.
    #[test]
    fn the_table_of_types() {
        use ColumnType::{Blob, Boolean, Date, Decimal, Integer, Json, Real, Text, Time, Timestamp, Uuid};
        let day = Native::Since(Logical::Date, 20_000);
        let noon = Native::Since(Logical::Time(Encoding::Millis), 43_200_000);
        let at = Native::Since(Logical::Timestamp(Encoding::Nanos), 1_000);
        let finer = Native::Since(Logical::Timestamp(Encoding::Nanos), 1);
        let instant = Native::Instant { seconds: 1, nanos: 1_000 };
        let price = Native::Decimal { unscaled: &[0xFB, 0x2E], scale: 2 };
        let id = "6F9619FF-8B86-D011-B42D-00CF4FC964FF";
        for (native, ty, expected) in [
            (Native::Integer(i64::MIN), Integer, Ok(Value::Integer(i64::MIN))),
            (Native::Integer(3), Real, Ok(Value::Real(3.0))),
            (Native::Integer(3), Decimal, text("3")),
            (Native::Integer(3), Text, Err(WrongType)),
            (Native::Integer(1), Boolean, Err(WrongType)),
            (Native::Integer(1), Timestamp, Err(WrongType)),
            (Native::Integer(3), Json, text("3")),
            (Native::Unsigned(3), Integer, Ok(Value::Integer(3))),
            (Native::Unsigned(u64::MAX), Integer, Err(OutOfRange)),
            (Native::Unsigned(u64::MAX), Decimal, text("18446744073709551615")),
            (Native::Real(0.5), Real, Ok(Value::Real(0.5))),
            (Native::Real(f64::NAN), Real, Err(OutOfRange)),
            (Native::Real(f64::INFINITY), Json, Err(OutOfRange)),
            (Native::Real(0.5), Decimal, Err(WrongType)),
            (Native::Real(1.0), Integer, Err(WrongType)),
            (Native::Boolean(true), Boolean, Ok(Value::Integer(1))),
            (Native::Boolean(true), Integer, Err(WrongType)),
            (Native::Text("canary"), Text, text("canary")),
            (Native::Text("a\0canary"), Text, Err(WrongType)),
            (Native::Text("canary"), Integer, Err(WrongType)),
            (Native::Text("5"), Integer, Err(WrongType)),
            (Native::Text("1.50"), Decimal, text("1.50")),
            (Native::Text("NaN"), Decimal, Err(OutOfRange)),
            (Native::Text(id), Uuid, text(&id.to_lowercase())),
            (Native::Text("2024-10-04"), Date, text("2024-10-04")),
            (Native::Text("2024-13-04"), Date, Err(WrongType)),
            (Native::Text("aGk="), Blob, Ok(Value::Blob(b"hi".to_vec()))),
            (Native::Text("a\"b"), Json, text("\"a\\\"b\"")),
            (Native::Bytes(&[0, 255]), Blob, Ok(Value::Blob(vec![0, 255]))),
            (Native::Bytes(b"canary"), Text, Err(WrongType)),
            (Native::Bytes(&[0, 255]), Json, text("\"AP8=\"")),
            (price, Decimal, text("-12.34")),
            (price, Real, Err(WrongType)),
            (price, Json, text("\"-12.34\"")),
            (Native::Decimal { unscaled: &[], scale: 0 }, Decimal, Err(OutOfRange)),
            (day, Date, text("2024-10-04")),
            (day, Integer, Ok(Value::Integer(20_000))),
            (day, Timestamp, Err(WrongType)),
            (day, Json, text("\"2024-10-04\"")),
            (noon, Time, text("12:00:00.000000")),
            (noon, Date, Err(WrongType)),
            (at, Timestamp, text("1970-01-01T00:00:00.000001Z")),
            (finer, Timestamp, Err(OutOfRange)),
            (finer, Integer, Ok(Value::Integer(1))),
            (instant, Timestamp, text("1970-01-01T00:00:01.000001Z")),
            (instant, Integer, Err(WrongType)),
            (instant, Date, Err(WrongType)),
            (Native::Instant { seconds: 1, nanos: 1 }, Timestamp, Err(OutOfRange)),
            (Native::Since(Logical::Date, i64::MAX), Date, Err(OutOfRange)),
            (Native::Opaque(b"5"), Integer, Ok(Value::Integer(5))),
            (Native::Opaque(b"five"), Integer, Err(WrongType)),
            (Native::Opaque(&[0xFF]), Text, Err(Malformed)),
            (Native::Opaque(&[0xFF]), Blob, Ok(Value::Blob(vec![0xFF]))),
            (Native::Opaque(b"[1, 2]"), Json, text("[1, 2]")),
        ] {
            assert_eq!(into(native, ty), expected, "{native:?} into {ty}");
        }
    }
}
