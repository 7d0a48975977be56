//! The elements of a list in an event, and the fields of each.

use serde_json::value::RawValue;

use super::projection::Projection;
use super::{DecodeError, Field, Native};
use crate::domain::dead_letter::Reason;

#[derive(Debug)]
pub struct ElementDecoder {
    projection: Projection,
}

impl ElementDecoder {
    /// `paths[slot]` is the path of that slot from an element.
    pub fn new<'p>(paths: impl IntoIterator<Item = &'p [String]>) -> ElementDecoder {
        ElementDecoder { projection: Projection::new(".", paths) }
    }

    /// The elements of a list, each as JSON. `path` is where it is, for messages.
    pub fn split<'a>(list: Field<'a>, path: &str) -> Result<Vec<&'a str>, DecodeError> {
        let error = |reason, message: &str| {
            Err(DecodeError { path: path.to_owned(), reason, message: message.to_owned() })
        };
        let text = match list {
            Field::Json(text) | Field::Typed(_, text) => text,
            Field::Text(text) | Field::Native(Native::Text(text)) => {
                return error(Reason::WrongType, &format!("is a text of {} bytes, not a list", text.len()));
            }
            Field::Absent => {
                return error(Reason::MissingValue, "is missing: a set without rows is an empty list");
            }
            Field::Unavailable => return error(Reason::MissingValue, "was left out as unchanged"),
            Field::Native(_) => return error(Reason::WrongType, "is not a list"),
            Field::NotAnObject => {
                return error(Reason::WrongType, "cannot be reached: a part of the path is not an object");
            }
        };
        match text.trim_ascii_start().as_bytes().first() {
            Some(b'n') => error(Reason::MissingValue, "is null: a set without rows is an empty list"),
            Some(b'[') => match serde_json::from_str::<Vec<&RawValue>>(text) {
                Ok(elements) => Ok(elements.into_iter().map(RawValue::get).collect()),
                Err(_) => error(Reason::Malformed, "is not valid JSON"),
            },
            _ => error(Reason::WrongType, "is not a list"),
        }
    }

    /// Fills one field per slot from an element.
    pub fn read<'a>(&mut self, element: &'a str, fields: &mut Vec<Field<'a>>) -> Result<(), DecodeError> {
        self.projection.read_text(element, fields)
    }
}
