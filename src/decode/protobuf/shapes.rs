//! What the messages of a Protobuf schema can have at a path.

use super::schema::{self, Field, Known, MessageId, Schema, Type};
use crate::config::Encoding;
use crate::decode::Logical;
use crate::decode::registry;
use crate::decode::shapes::{Kind, Shape};

/// Messages of one file that are looked at.
const MESSAGES_MAX: usize = 64;

#[derive(Debug)]
pub struct Shapes {
    schema: Schema,
    /// The messages that records may be.
    tops: Vec<MessageId>,
}

impl Shapes {
    pub fn of(found: &registry::Schema) -> Result<Shapes, String> {
        let imports: Vec<(&str, &str)> =
            found.references.iter().map(|each| (each.name.as_str(), each.text.as_str())).collect();
        let schema = schema::parse(&found.text, &imports)?;
        let tops: Vec<MessageId> = (0..MESSAGES_MAX).map_while(|index| schema.by_indexes(&[index])).collect();
        if tops.is_empty() {
            return Err("has no message".to_owned());
        }
        Ok(Shapes { schema, tops })
    }

    pub fn names(&self) -> Vec<String> {
        self.tops.iter().map(|top| self.schema.messages[*top].name.clone()).collect()
    }

    pub fn at(&self, top: usize, path: &[String]) -> Shape {
        match self.tops.get(top) {
            Some(message) => self.message(*message, path),
            None => Shape::of(Kind::Absent),
        }
    }

    fn message(&self, message: MessageId, path: &[String]) -> Shape {
        let found = &self.schema.messages[message];
        let Some((name, rest)) = path.split_first() else { return self.whole(message) };
        match found.known {
            Some(Known::Struct | Known::Value) => return Shape::of(Kind::Anything).or(Kind::Absent),
            Some(_) => return Shape::of(Kind::NotAnObject),
            None => {}
        }
        match found.fields.iter().find(|field| field.name == *name) {
            Some(field) => {
                let shape = self.field(field, rest);
                if field.presence && !field.required { shape.or(Kind::Absent) } else { shape }
            }
            None => Shape::of(Kind::Absent),
        }
    }

    fn field(&self, field: &Field, path: &[String]) -> Shape {
        if field.repeated {
            let entry = match field.ty {
                Type::Message(message) if self.schema.messages[message].is_map_entry => Some(message),
                _ => None,
            };
            return match (path.split_first(), entry) {
                (None, _) => Shape::of(Kind::Composite),
                (Some((_, rest)), Some(entry)) => {
                    let value = self.schema.messages[entry].fields.iter().find(|field| field.number == 2);
                    value.map_or(Shape::of(Kind::Anything), |value| self.field(value, rest)).or(Kind::Absent)
                }
                (Some(_), None) => Shape::of(Kind::NotAnObject),
            };
        }
        if let Type::Message(message) = field.ty {
            return self.message(message, path);
        }
        if !path.is_empty() {
            return Shape::of(Kind::NotAnObject);
        }
        Shape::of(match field.ty {
            Type::Double | Type::Float => Kind::Real,
            Type::Int64 | Type::Int32 | Type::Sfixed32 | Type::Sfixed64 | Type::Sint32 | Type::Sint64 => {
                Kind::Integer
            }
            Type::Uint64 | Type::Fixed64 | Type::Fixed32 | Type::Uint32 => Kind::Unsigned,
            Type::Bool => Kind::Boolean,
            Type::String | Type::Enum(_) => Kind::Text,
            Type::Bytes => Kind::Bytes,
            Type::Group | Type::Message(_) => Kind::Composite,
        })
    }

    fn whole(&self, message: MessageId) -> Shape {
        let found = &self.schema.messages[message];
        Shape::of(match found.known {
            None => Kind::Composite,
            Some(Known::Timestamp) => Kind::Instant,
            Some(Known::Date) => Kind::Since(Logical::Date),
            Some(Known::TimeOfDay) => Kind::Since(Logical::Time(Encoding::Nanos)),
            Some(Known::Duration) => Kind::Text,
            Some(Known::Decimal) => Kind::Decimal,
            Some(Known::Struct | Known::List) => Kind::Composite,
            Some(Known::Value) => Kind::Anything,
            Some(Known::Wrapper) => {
                let value = found.fields.iter().find(|field| field.number == 1);
                return value.map_or(Shape::of(Kind::Anything), |value| self.field(value, &[]));
            }
        })
    }
}
