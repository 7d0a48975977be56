//! The compiled projections: one decoder per format, from record bytes to the fields a mapping asked for.
//!
//! A format is one file that fills *slots*: the mapping says once which paths it wants
//! ([`Wanted`]), and for every record gets one [`Field`] per wanted path, borrowed from the record.
//! What a field becomes in a column is not decided here but in the mapping room, so that all
//! formats share one table of conversions.

pub(crate) mod avro;
mod body;
mod canal;
mod cloudevents;
mod connect;
mod debezium;
pub mod decimal;
mod elements;
mod facts;
pub(crate) mod flattened;
mod framed;
mod headers;
mod json;
mod json_schema;
mod maxwell;
pub mod native;
mod projection;
mod protobuf;
pub mod registry;
mod scratch;
pub mod shapes;
pub mod time;
mod wanted;

pub use canal::RowOf;
pub use debezium::{Placeholder, deleted_row};
pub use elements::ElementDecoder;
pub use flattened::FLATTENED_VERSIONS;
pub use framed::Pending;
pub use headers::{header, headers_json};
pub use native::Native;
pub use scratch::Scratch;

use std::fmt::Write as _;

use crate::config::{Encoding, Format, Path, Topic};
use crate::domain::dead_letter::Reason;
use crate::domain::record::Headers;
use crate::domain::snapshot::Phase;
use body::Body;
use registry::Registry;

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
    /// A value of a format that is not text.
    Native(Native<'a>),
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
    Integers {
        pair: [i64; 2],
        /// Of a row that was read beside the log: when, in ms since 1970.
        read_ms: Option<i64>,
    },
    Unusable(DecodeError),
}

/// A field that no record can have: the name of the record's type, in formats whose schema has one.
pub const TYPE_FIELD: &str = "$type";

/// Another: it has what a registry knows of the record's schema, `id` and `version`.
pub const SCHEMA_FIELD: &str = "$schema";

/// The header of a delete event of Debezium's whose row lives on under another key: that key, as JSON.
const NEW_KEY: &str = "__debezium.newkey";

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

    fn schema(path: &str, message: impl Into<String>) -> DecodeError {
        DecodeError { path: path.to_owned(), reason: Reason::Schema, message: message.into() }
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

/// What a decoder may use besides the bytes of a value; lives as long as the record.
#[derive(Clone, Copy)]
pub struct Surroundings<'a> {
    pub headers: Headers<'a>,
    pub scratch: &'a Scratch,
}

/// One decoder per topic, chosen at start-up.
#[derive(Debug)]
pub struct Decoder {
    value: Value,
    /// Of keys that are not plain text.
    key: Body,
    /// Of the key that a row will have, or had, in formats that tell.
    other_key: Option<connect::Document>,
    reads_key: bool,
}

#[derive(Debug)]
enum Value {
    Json(json::Decoder),
    Debezium(debezium::Decoder),
    Flattened(flattened::Decoder),
    Maxwell(maxwell::Decoder),
    Canal(canal::Decoder),
    CloudEvents(cloudevents::Decoder),
    /// Every record is a row or an event, and all of it can be read.
    Body(Body),
    /// Number of slots, each of which takes all of the value.
    Raw(usize),
}

impl Decoder {
    /// `registry`: where the schemas are, for formats that have them there.
    pub fn compile(topic: &Topic, wanted: &Wanted, registry: Option<&Registry>) -> Decoder {
        // Checked when the configuration was: without a registry nothing can be asked for.
        let nobody = Registry::fixed([]);
        let registry = registry.unwrap_or(&nobody);
        let own: Vec<Vec<String>> = wanted.value.iter().map(|path| path.fields.clone()).collect();
        let file = topic.schema_file.as_deref();
        let subject = format!("{}-value", topic.name);
        // Of Debezium's, whose decoders know only then what they read.
        let in_json = |root| move |paths| Body::Json(connect::Document::with_schema(root, paths));
        let in_avro = |root| {
            let subject = &subject;
            move |paths: Vec<_>| Body::Avro(avro::Document::of_registry(root, &paths, registry, subject))
        };
        let value = match topic.format {
            Format::Json => Value::Json(json::Decoder::new(wanted)),
            Format::DebeziumJson => {
                Value::Debezium(debezium::Decoder::new(wanted, &topic.placeholder, in_json("$event")))
            }
            Format::DebeziumAvro => {
                Value::Debezium(debezium::Decoder::new(wanted, &topic.placeholder, in_avro("$event")))
            }
            Format::DebeziumFlat => {
                Value::Flattened(flattened::Decoder::new(wanted, &topic.placeholder, in_json(".")))
            }
            Format::DebeziumFlatAvro => {
                Value::Flattened(flattened::Decoder::new(wanted, &topic.placeholder, in_avro(".")))
            }
            Format::Maxwell => Value::Maxwell(maxwell::Decoder::new(wanted)),
            Format::Canal => Value::Canal(canal::Decoder::new(wanted)),
            Format::CloudEvents => Value::CloudEvents(cloudevents::Decoder::new(wanted)),
            Format::Avro => Value::Body(Body::Avro(match file {
                Some(file) => avro::Document::of_file(".", &own, file),
                None => avro::Document::of_registry(".", &own, registry, &subject),
            })),
            Format::Protobuf => Value::Body(Body::Protobuf(match (file, &topic.message) {
                (Some(file), Some(message)) => protobuf::Document::of_file(".", &own, file, message),
                _ => protobuf::Document::of_registry(".", &own, registry, &subject),
            })),
            Format::JsonSchema => {
                Value::Body(Body::JsonSchema(json_schema::Document::new(".", own, registry, &subject)))
            }
            Format::Raw => Value::Raw(wanted.value.len()),
        };
        let key = Body::of_key(topic, wanted, registry);
        let reads_key = !wanted.key.is_empty();
        let other_key = (topic.format.is_debezium() && reads_key).then(|| {
            let paths = wanted.key.iter().map(|path| path.fields.clone());
            connect::Document::with_schema(NEW_KEY, paths.collect())
        });
        Decoder { value, key, other_key, reads_key }
    }

    /// Why no record of the topic can be read: its schema file.
    pub fn problem(&self) -> Option<&DecodeError> {
        match &self.value {
            Value::Body(body) => body.problem(),
            _ => None,
        }
    }

    /// Sees to it that the schemas of a record are at hand; to be called before anything is read of
    /// it. An error means: not now, and not out of order.
    #[inline]
    pub fn prepare(&mut self, key: Option<&[u8]>, value: Option<&[u8]>) -> Result<(), Pending> {
        if let (Some(bytes), true) = (key, self.reads_key) {
            self.key.prepare(bytes)?;
        }
        let Some(bytes) = value else { return Ok(()) };
        match &mut self.value {
            Value::Json(_) | Value::Maxwell(_) | Value::Canal(_) | Value::CloudEvents(_) | Value::Raw(_) => {
                Ok(())
            }
            Value::Debezium(decoder) => decoder.body().prepare(bytes),
            Value::Flattened(decoder) => decoder.body().prepare(bytes),
            Value::Body(body) => body.prepare(bytes),
        }
    }

    /// Reads a record's value; `fields` then holds at least one field per wanted path.
    pub fn value<'a>(
        &mut self,
        bytes: &'a [u8],
        around: Surroundings<'a>,
        fields: &mut Vec<Field<'a>>,
    ) -> Result<EventKind, DecodeError> {
        match &mut self.value {
            Value::Json(decoder) => decoder.value(bytes, fields),
            Value::Debezium(decoder) => decoder.value(bytes, around.scratch, fields),
            Value::Flattened(decoder) => decoder.value(bytes, around.scratch, fields),
            Value::Maxwell(decoder) => decoder.value(bytes, fields),
            Value::Canal(decoder) => decoder.value(bytes, fields),
            Value::CloudEvents(decoder) => decoder.value(bytes, around, fields),
            Value::Body(body) => {
                body.read(bytes, around.scratch, fields)?;
                body.require_object()?;
                Ok(EventKind::Row)
            }
            Value::Raw(slots) => {
                fields.clear();
                fields.resize(*slots, Field::Native(Native::Opaque(bytes)));
                Ok(EventKind::Row)
            }
        }
    }

    /// The rows of a record, in formats whose records have several; each is to be read by [`Decoder::row`].
    pub fn rows<'a>(&self, fields: &[Field<'a>]) -> Result<Option<Vec<RowOf<'a>>>, DecodeError> {
        match &self.value {
            Value::Canal(decoder) => decoder.rows(fields).map(Some),
            _ => Ok(None),
        }
    }

    /// Puts one of the rows of a record into its fields.
    pub fn row<'a>(
        &mut self,
        row: RowOf<'a>,
        scratch: &'a Scratch,
        fields: &mut [Field<'a>],
    ) -> Result<(), DecodeError> {
        match &mut self.value {
            Value::Canal(decoder) => decoder.row(row, scratch, fields),
            _ => Ok(()),
        }
    }

    /// Reads a record's key that is not plain text.
    pub fn key<'a>(
        &mut self,
        bytes: &'a [u8],
        scratch: &'a Scratch,
        fields: &mut Vec<Field<'a>>,
    ) -> Result<(), DecodeError> {
        self.key.read(bytes, scratch, fields)
    }

    /// Reads the key that the row of a delete event has from now on, where the event says so.
    pub fn new_key<'a>(
        &mut self,
        around: Surroundings<'a>,
        fields: &mut Vec<Field<'a>>,
    ) -> Result<bool, DecodeError> {
        let Some(document) = &mut self.other_key else { return Ok(false) };
        match header(around, NEW_KEY) {
            Field::Native(Native::Opaque(bytes)) => document.read(bytes, fields).map(|()| true),
            _ => Ok(false),
        }
    }

    /// Whether the row of the record whose value gave these fields is one that was not there before.
    pub fn is_insert(&self, fields: &[Field<'_>]) -> bool {
        match &self.value {
            Value::Debezium(decoder) => decoder.is_insert(fields),
            Value::Flattened(decoder) => decoder.is_insert(fields),
            _ => false,
        }
    }

    /// When the event was committed at its source, in ms since 1970, if it says so.
    pub fn committed_ms(&self, fields: &[Field<'_>]) -> Option<i64> {
        match &self.value {
            Value::Debezium(decoder) => decoder.committed_ms(fields),
            Value::Flattened(decoder) => decoder.committed_ms(fields),
            _ => None,
        }
    }

    /// How far a snapshot of the whole table has come with the record whose value gave these fields.
    pub fn snapshot(&self, fields: &[Field<'_>]) -> Option<Phase> {
        match &self.value {
            Value::Debezium(decoder) => decoder.snapshot(fields),
            Value::Flattened(decoder) => decoder.snapshot(fields),
            _ => None,
        }
    }

    /// The format's own version of the record whose value gave these fields.
    pub fn own_version(&self, fields: &[Field<'_>]) -> OwnVersion {
        match &self.value {
            Value::Debezium(decoder) => decoder.own_version(fields),
            Value::Flattened(decoder) => decoder.own_version(fields),
            _ => OwnVersion::None,
        }
    }
}

/// Largest schema file that is read.
const SCHEMA_FILE_BYTES_MAX: u64 = 16 << 20;

fn read_schema_file(file: &std::path::Path) -> Result<Vec<u8>, String> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    let read = std::fs::File::open(file)
        .and_then(|file| file.take(SCHEMA_FILE_BYTES_MAX + 1).read_to_end(&mut bytes));
    match read {
        Ok(_) if bytes.len() as u64 > SCHEMA_FILE_BYTES_MAX => {
            Err(format!("is larger than {} MiB", SCHEMA_FILE_BYTES_MAX >> 20))
        }
        Ok(_) => Ok(bytes),
        Err(error) => Err(format!("cannot be read: {error}")),
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
    fields_text(path.root.name(), &path.fields)
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
    use crate::config::Root;

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
