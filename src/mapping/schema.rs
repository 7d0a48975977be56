//! Versions of a topic's schema: which face an event has.

use std::collections::HashMap;

use super::Outcome;
use super::convert::{Refusal, describe, opaque_text, string};
use super::row::{Inputs, Source, rejection};
use super::topic::refused;
use crate::config::Unknown;
use crate::decode::{Decoder, Field, Native};
use crate::domain::change::Skip;
use crate::domain::dead_letter::Reason;

/// The face of the current version.
const CURRENT: usize = 0;

#[derive(Debug)]
pub struct Versions {
    pub source: Source,
    pub path: String,
    /// Index of the face of each version.
    pub faces: HashMap<String, usize>,
    /// Of events that do not say.
    pub missing: Option<usize>,
    pub unknown: Unknown,
}

impl Versions {
    pub fn face<'a>(&self, inputs: &mut Inputs<'a>, decoder: &mut Decoder) -> Result<usize, Outcome> {
        let field = inputs.read(&self.source, decoder);
        let field = field.map_err(|error| Outcome::Rejected(rejection(error, None)))?;
        let wrong = |refusal: Refusal| Outcome::Rejected(refused(refusal, &self.path));
        let found = match field {
            Field::Absent | Field::Unavailable | Field::Json("null") => match self.missing {
                Some(face) => return Ok(face),
                None => return self.unknown("is missing and should hold the version of the schema"),
            },
            Field::Text(text) | Field::Native(Native::Text(text)) => self.faces.get(text),
            Field::Native(Native::Opaque(bytes)) => self.faces.get(opaque_text(bytes).map_err(wrong)?),
            Field::Native(Native::Integer(number)) => self.faces.get(&number.to_string()),
            Field::Native(Native::Unsigned(number)) => self.faces.get(&number.to_string()),
            Field::Json(text) | Field::Typed(_, text) if text.starts_with('"') => {
                self.faces.get(&*string(text).map_err(wrong)?)
            }
            Field::Json(text) | Field::Typed(_, text) if !text.starts_with(['{', '[']) => {
                self.faces.get(text)
            }
            Field::Json(text) | Field::Typed(_, text) => {
                let message = format!("is {} and should hold the version of the schema", describe(text));
                return Err(wrong(Refusal::new(Reason::SchemaVersion, message)));
            }
            Field::Native(_) | Field::NotAnObject => {
                let message = "is neither a text nor a number and should hold the version of the schema";
                return Err(wrong(Refusal::new(Reason::SchemaVersion, message)));
            }
        };
        match found {
            Some(face) => Ok(*face),
            None => self.unknown("is a version of the schema that nobody has declared"),
        }
    }

    fn unknown(&self, message: &str) -> Result<usize, Outcome> {
        let rejection = refused(Refusal::new(Reason::SchemaVersion, message), &self.path);
        match self.unknown {
            Unknown::DeadLetter => Err(Outcome::Rejected(rejection)),
            Unknown::Stop => Err(Outcome::Stop(rejection)),
            Unknown::Ignore => Err(Outcome::Skipped(Skip::Ignored)),
            Unknown::Accept => Ok(CURRENT),
        }
    }
}
