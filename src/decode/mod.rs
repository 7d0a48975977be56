//! The compiled projections: one decoder per format, from record bytes to the fields a mapping asked for.
//!
//! A format is one file that fills *slots*: the mapping says once which paths it wants
//! ([`Wanted`]), and for every record gets one [`Field`] per wanted path, borrowed from the record.
//! What a field becomes in a column is not decided here but in the mapping room, so that all
//! formats share one table of conversions.

mod connect;
mod debezium;
mod json;
mod projection;

pub use debezium::deleted_row;

use std::fmt::Write as _;

use crate::config::{Encoding, Format, Path, Root, Topic};
use crate::domain::dead_letter::Reason;

/// What was found at one wanted path.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum Field<'a> {
    /// The event has nothing there.
    #[default]
    Absent,
    /// The JSON text of one value, exactly as sent and known to be valid.
    Json(&'a str),
    /// JSON text whose meaning the format's own schema gives.
    Typed(Logical, &'a str),
    /// Plain text that stands for a value of whatever type the column has: a record key with
    /// `key_format: text`.
    Text(&'a str),
    /// The source left the value out because it did not change: the replica keeps what it has.
    Unavailable,
    /// The path runs through a value that is neither an object nor null.
    NotAnObject,
}

/// Types that JSON cannot express and a schema does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Logical {
    /// Base64 of the big-endian two's complement of the unscaled number.
    Decimal { scale: i32 },
    /// An object `{"scale": 2, "value": <base64 as in `Decimal`>}`.
    ScaledDecimal,
    /// Days since 1970-01-01.
    Date,
    /// Since midnight.
    Time(Encoding),
    /// Since 1970-01-01T00:00:00Z.
    Timestamp(Encoding),
}

/// What kind of event a record is, as far as its format knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    /// A row as it is now, or an event whose type a path in it tells.
    Row,
    /// The row is gone; its key is in the record key.
    Delete,
    /// All rows are gone.
    Truncate,
    /// Nothing about rows.
    Ignored,
}

/// The version a format knows by itself, for topics that declare none.
#[derive(Debug, Clone, PartialEq)]
pub enum OwnVersion {
    /// The format has no such thing.
    None,
    Integers([i64; 2]),
    Unusable(DecodeError),
}

/// Why a record is not what its format says. `message` never holds contents.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{path}: {message}")]
pub struct DecodeError {
    pub path: String,
    pub reason: Reason,
    pub message: String,
}

impl DecodeError {
    fn malformed(path: &str, message: impl Into<String>) -> DecodeError {
        DecodeError { path: path.to_owned(), reason: Reason::Malformed, message: message.into() }
    }
}

/// The paths a mapping reads, in the order of the fields it gets.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// Rooted at the row or at the event.
    pub value: Vec<Path>,
    /// Rooted at the record key.
    pub key: Vec<Path>,
}

/// One decoder per topic, chosen at start-up.
#[derive(Debug)]
pub enum Decoder {
    Json(json::Decoder),
    Debezium(debezium::Decoder),
}

impl Decoder {
    pub fn compile(topic: &Topic, wanted: &Wanted) -> Decoder {
        match topic.format {
            Format::Json => Decoder::Json(json::Decoder::new(wanted)),
            Format::DebeziumJson => Decoder::Debezium(debezium::Decoder::new(wanted, &topic.placeholder)),
        }
    }

    /// Reads a record's value; `fields` then holds at least one field per wanted path.
    pub fn value<'a>(
        &mut self,
        bytes: &'a [u8],
        fields: &mut Vec<Field<'a>>,
    ) -> Result<EventKind, DecodeError> {
        match self {
            Decoder::Json(decoder) => decoder.value(bytes, fields),
            Decoder::Debezium(decoder) => decoder.value(bytes, fields),
        }
    }

    /// Reads a record's key that is not plain text.
    pub fn key<'a>(&mut self, bytes: &'a [u8], fields: &mut Vec<Field<'a>>) -> Result<(), DecodeError> {
        match self {
            Decoder::Json(decoder) => decoder.key(bytes, fields),
            Decoder::Debezium(decoder) => decoder.key(bytes, fields),
        }
    }

    /// The format's own version of the record whose value gave these fields.
    pub fn own_version(&self, fields: &[Field<'_>]) -> OwnVersion {
        match self {
            Decoder::Json(_) => OwnVersion::None,
            Decoder::Debezium(decoder) => decoder.own_version(fields),
        }
    }
}

/// A record key with `key_format: text`.
pub fn text_key(bytes: &[u8]) -> Result<Field<'_>, DecodeError> {
    utf8(bytes, "$key").map(Field::Text)
}

fn utf8<'a>(bytes: &'a [u8], root: &str) -> Result<&'a str, DecodeError> {
    std::str::from_utf8(bytes).map_err(|error| {
        DecodeError::malformed(root, format!("is not valid UTF-8 at byte {}", error.valid_up_to()))
    })
}

/// A path as a person writes it: `.user.name`, `."odd name"`, `$event.source.ts_ms`, `$key`.
pub fn path_text(path: &Path) -> String {
    let root = match path.root {
        Root::Row => ".",
        Root::Event => "$event",
        Root::Key => "$key",
    };
    fields_text(root, &path.fields)
}

fn fields_text(root: &str, fields: &[String]) -> String {
    let mut text = root.to_owned();
    for field in fields {
        if text != "." {
            text.push('.');
        }
        let plain = field.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
            && field.chars().all(|each| each.is_ascii_alphanumeric() || each == '_');
        if plain {
            text.push_str(field);
        } else {
            // Writing to a string cannot fail.
            let _ = write!(text, "{field:?}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_read_as_they_are_written() {
        let cases: [(Root, &[&str], &str); 6] = [
            (Root::Row, &[], "."),
            (Root::Row, &["user", "name"], ".user.name"),
            (Root::Row, &["odd name", "Größe"], ".\"odd name\".\"Größe\""),
            (Root::Event, &["source", "ts_ms"], "$event.source.ts_ms"),
            (Root::Key, &[], "$key"),
            (Root::Key, &["id"], "$key.id"),
        ];
        for (root, fields, expected) in cases {
            let path = Path { root, fields: fields.iter().map(|&field| field.to_owned()).collect() };
            assert_eq!(path_text(&path), expected);
        }
    }
}
