//! Values of formats that are not text, into columns. The table is in docs/FORMATS.md.

use super::convert::{
    Refusal, Target, article, from_epoch, from_json_string, from_number, from_string, from_text,
};
use crate::config::Encoding;
use crate::decode::native::{Native, write_json};
use crate::decode::{Logical, decimal};
use crate::domain::dead_letter::Reason;
use crate::domain::value::{ColumnType, Value};

pub fn convert(native: Native<'_>, target: &Target) -> Result<Value, Refusal> {
    match (native, target.ty) {
        (Native::Integer(number), ColumnType::Integer) => Ok(Value::Integer(number)),
        (Native::Text(text), ColumnType::Text) => from_plain_text(text),
        (Native::Text(text), ColumnType::Json) if target.json_in_text => from_json_string(text),
        (Native::Opaque(bytes), ColumnType::Blob) => Ok(Value::Blob(bytes.to_vec())),
        (Native::Opaque(bytes), _) => match std::str::from_utf8(bytes) {
            Ok(text) => from_text(text, target),
            Err(error) => Err(Refusal::new(
                Reason::Malformed,
                format!("is not valid UTF-8 at byte {}", error.valid_up_to()),
            )),
        },
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
    }
}
