//! Versions from events: from a declared path, from the format, or from the position.

use serde::Deserialize;

use super::convert::{Refusal, describe, opaque_text, string};
use crate::decode::{Field, Native, time};
use crate::domain::dead_letter::Reason;
use crate::domain::version::{MAX_PARTS, VersionKind};

/// The version at a declared path: a JSON integer, an RFC 3339 string, or an array of one to four
/// integers. Anything else is an error of the event.
pub fn read(field: Field<'_>) -> Result<(VersionKind, Integers), Refusal> {
    let text = match field {
        // A number of days or microseconds since 1970 is an integer like any other.
        Field::Json(text) | Field::Typed(_, text) => text,
        Field::Text(text) => return from_text(text),
        Field::Native(Native::Opaque(bytes)) => return from_text(opaque_text(bytes)?),
        Field::Native(native) => return from_native(native),
        Field::Absent => return Err(refused("is missing and should hold the version")),
        Field::Unavailable => return Err(refused("was left out as unchanged and should hold the version")),
        Field::NotAnObject => {
            return Err(refused("cannot be reached: a part of the path is not an object"));
        }
    };
    match text.as_bytes().first() {
        Some(b'"') => time_of(&string(text)?),
        Some(b'[') => {
            let integers = Integers::from_array(text)
                .ok_or_else(|| refused(format!("is an array, but not of 1 to {MAX_PARTS} integers")))?;
            Ok((VersionKind::Integers, integers))
        }
        _ => integer(text).map(|number| (VersionKind::Integer, Integers::one(number))),
    }
}

fn from_text(text: &str) -> Result<(VersionKind, Integers), Refusal> {
    integer(text)
        .map(|number| (VersionKind::Integer, Integers::one(number)))
        .or_else(|refusal| time_of(text).map_err(|_| refusal))
}

/// A timestamp of the format's own is an integer like any other: the number that was sent. One that is
/// sent as seconds and a part of them is a time.
fn from_native(native: Native<'_>) -> Result<(VersionKind, Integers), Refusal> {
    match native {
        Native::Integer(number) | Native::Since(_, number) => {
            Ok((VersionKind::Integer, Integers::one(number)))
        }
        Native::Instant { seconds, nanos } => {
            Ok((VersionKind::Time, Integers { len: 2, parts: [seconds, nanos.into(), 0, 0] }))
        }
        Native::Unsigned(number) => match i64::try_from(number) {
            Ok(number) => Ok((VersionKind::Integer, Integers::one(number))),
            Err(_) => Err(refused("is an integer beyond 63 bits, not a version")),
        },
        Native::Text(text) => time_of(text),
        _ => Err(refused("is neither an integer nor a time, not a version")),
    }
}

fn time_of(text: &str) -> Result<(VersionKind, Integers), Refusal> {
    let [seconds, nanos] = time::instant_from_text(text)
        .map_err(|_| refused(format!("is a string of {} bytes, not an RFC 3339 time", text.len())))?;
    Ok((VersionKind::Time, Integers { len: 2, parts: [seconds, nanos, 0, 0] }))
}

fn integer(text: &str) -> Result<i64, Refusal> {
    text.parse().map_err(|_| refused(format!("is {}, not a version", describe(text))))
}

fn refused(message: impl Into<String>) -> Refusal {
    Refusal::new(Reason::Version, message)
}

/// One to four integers, without an allocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Integers {
    len: usize,
    parts: [i64; MAX_PARTS],
}

impl Integers {
    pub fn one(number: i64) -> Integers {
        Integers { len: 1, parts: [number, 0, 0, 0] }
    }

    /// Of a format's own version.
    pub fn of_pair([first, second]: [i64; 2], read_ms: Option<i64>) -> Integers {
        let len = if read_ms.is_some() { 3 } else { 2 };
        Integers { len, parts: [first, second, read_ms.unwrap_or(0), 0] }
    }

    fn from_array(text: &str) -> Option<Integers> {
        let mut json = serde_json::Deserializer::from_str(text);
        let list = Vec::<i64>::deserialize(&mut json).ok()?;
        let mut integers = Integers { len: list.len(), parts: [0; MAX_PARTS] };
        integers.parts.get_mut(..list.len())?.copy_from_slice(&list);
        (!list.is_empty()).then_some(integers)
    }

    pub fn as_slice(&self) -> &[i64] {
        &self.parts[..self.len]
    }
}

pub fn kind_name(kind: VersionKind) -> &'static str {
    match kind {
        VersionKind::Position => "positions",
        VersionKind::Integer => "integers",
        VersionKind::Time => "times",
        VersionKind::Integers => "lists of integers",
    }
}
