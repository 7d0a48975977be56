//! One document, a key or a value, in one of the encodings.

use super::registry::Registry;
use super::scratch::Scratch;
use super::{DecodeError, Field, Pending, Wanted, avro, connect, json_schema, protobuf};
use crate::config::{KeyFormat, Topic};

#[derive(Debug)]
pub enum Body {
    Json(connect::Document),
    Avro(avro::Document),
    Protobuf(protobuf::Document),
    JsonSchema(json_schema::Document),
}

impl Body {
    /// The decoder of a topic's keys.
    pub fn of_key(topic: &Topic, wanted: &Wanted, registry: &Registry) -> Body {
        let paths = || wanted.key.iter().map(|path| path.fields.clone()).collect::<Vec<_>>();
        let subject = format!("{}-key", topic.name);
        // Text keys are not read here. A key with more than one column is never text by default.
        match topic.key_format_of(2) {
            KeyFormat::Avro => Body::Avro(avro::Document::of_registry("$key", &paths(), registry, &subject)),
            KeyFormat::Protobuf => {
                Body::Protobuf(protobuf::Document::of_registry("$key", &paths(), registry, &subject))
            }
            KeyFormat::JsonSchema => {
                Body::JsonSchema(json_schema::Document::new("$key", paths(), registry, &subject))
            }
            _ if topic.format.is_debezium() => Body::Json(connect::Document::with_schema("$key", paths())),
            _ => Body::Json(connect::Document::plain("$key", wanted.key.iter().map(|path| &path.fields[..]))),
        }
    }

    /// Why no document can be read.
    pub fn problem(&self) -> Option<&DecodeError> {
        match self {
            Body::Json(_) | Body::JsonSchema(_) => None,
            Body::Avro(document) => document.problem(),
            Body::Protobuf(document) => document.problem(),
        }
    }

    /// See [`super::Decoder::prepare`].
    pub fn prepare(&mut self, bytes: &[u8]) -> Result<(), Pending> {
        match self {
            Body::Json(_) => Ok(()),
            Body::Avro(document) => document.prepare(bytes),
            Body::Protobuf(document) => document.prepare(bytes),
            Body::JsonSchema(document) => document.prepare(bytes),
        }
    }

    pub fn read<'a>(
        &mut self,
        bytes: &'a [u8],
        scratch: &'a Scratch,
        fields: &mut Vec<Field<'a>>,
    ) -> Result<(), DecodeError> {
        match self {
            Body::Json(document) => document.read(bytes, fields),
            Body::Avro(document) => document.read(bytes, scratch, fields),
            Body::Protobuf(document) => document.read(bytes, scratch, fields),
            Body::JsonSchema(document) => document.read(bytes, fields),
        }
    }

    /// Refuses a document whose root has no fields.
    pub fn require_object(&self) -> Result<(), DecodeError> {
        match self {
            Body::Json(document) => document.require_object(),
            Body::Avro(document) => document.require_object(),
            // It is always a message.
            Body::Protobuf(_) => Ok(()),
            Body::JsonSchema(document) => document.require_object(),
        }
    }
}
