//! What the records of a schema can have at the places that a mapping reads, told without a record.

use super::Logical;
use super::registry::{Kind as SchemaKind, Schema};
use super::{avro, json_schema, protobuf};

/// One thing that may be at a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The place may be left out. Alone: the schema has no such place.
    Absent,
    /// The path runs through a value that has no parts.
    NotAnObject,
    Null,
    Integer,
    Unsigned,
    Real,
    Boolean,
    Text,
    Bytes,
    Decimal,
    Since(Logical),
    /// A timestamp that is no number.
    Instant,
    /// An object, a list or a map.
    Composite,
    /// A JSON number that may have a fraction.
    JsonNumber,
    /// The schema does not say.
    Anything,
}

impl Kind {
    /// For messages.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Absent => "nothing",
            Kind::NotAnObject => "a value without parts on the way",
            Kind::Null => "null",
            Kind::Integer => "an integer",
            Kind::Unsigned => "an unsigned integer",
            Kind::Real => "a floating-point number",
            Kind::Boolean => "a boolean",
            Kind::Text => "a text",
            Kind::Bytes => "bytes",
            Kind::Decimal => "a decimal",
            Kind::Since(Logical::Date) => "a date",
            Kind::Since(Logical::Time(_)) => "a time of day",
            Kind::Since(_) | Kind::Instant => "a timestamp",
            Kind::Composite => "an object, a list or a map",
            Kind::JsonNumber => "a number",
            Kind::Anything => "anything",
        }
    }
}

/// All that may be at one place, each once.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Shape(pub Vec<Kind>);

impl Shape {
    pub fn of(kind: Kind) -> Shape {
        Shape(vec![kind])
    }

    pub fn or(mut self, kind: Kind) -> Shape {
        self.add(kind);
        self
    }

    pub fn add(&mut self, kind: Kind) {
        if !self.0.contains(&kind) {
            self.0.push(kind);
        }
    }

    pub fn join(mut self, other: Shape) -> Shape {
        for kind in other.0 {
            self.add(kind);
        }
        self
    }

    /// Whether the schema has no such place.
    pub fn is_missing(&self) -> bool {
        self.0.iter().all(|kind| *kind == Kind::Absent)
    }
}

/// The kinds of records that one schema describes.
#[derive(Debug)]
pub struct Shapes {
    kind: Known,
}

#[derive(Debug)]
enum Known {
    Avro(avro::Shapes),
    Protobuf(protobuf::Shapes),
    Json(serde_json::Value),
}

impl Shapes {
    /// `Err`: the schema cannot be used, for this reason.
    pub fn of(schema: &Schema) -> Result<Shapes, String> {
        let kind = match schema.kind {
            SchemaKind::Avro => Known::Avro(avro::Shapes::of(schema)?),
            SchemaKind::Protobuf => Known::Protobuf(protobuf::Shapes::of(schema)?),
            SchemaKind::Json => {
                Known::Json(serde_json::from_str(&schema.text).map_err(|_| "is not JSON".to_owned())?)
            }
            SchemaKind::Other => return Err("is of a kind that readside does not know".to_owned()),
        };
        Ok(Shapes { kind })
    }

    /// Names of the records: one, or in Protobuf one per message of the file.
    pub fn names(&self) -> Vec<String> {
        match &self.kind {
            Known::Avro(shapes) => vec![shapes.name().to_owned()],
            Known::Protobuf(shapes) => shapes.names(),
            Known::Json(schema) => {
                vec![schema.get("title").and_then(|title| title.as_str()).unwrap_or_default().to_owned()]
            }
        }
    }

    /// What may be at `path`, in the records of that place in [`Shapes::names`]. `through`: how many of the
    /// path's first names lead to the row; null there stands for another kind of event.
    pub fn at(&self, record: usize, path: &[String], through: usize) -> Shape {
        let shape = match &self.kind {
            Known::Avro(shapes) => shapes.at(path, through),
            Known::Protobuf(shapes) => shapes.at(record, path),
            Known::Json(schema) => json_schema::shape(schema, path, through),
        };
        // Nothing at all would be a schema that cannot have records.
        if shape.0.is_empty() { Shape::of(Kind::Absent) } else { shape }
    }
}
