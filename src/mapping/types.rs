//! Event types: which rules an event's type names.

use std::borrow::Cow;
use std::collections::HashSet;

use super::Outcome;
use super::compile::RulesByType;
use super::condition::Condition;
use super::convert::{Refusal, opaque_text, string};
use super::elements::Elements;
use super::row::{Inputs, Row, Source, rejection};
use super::topic::refused;
use crate::config::Otherwise;
use crate::decode::{Decoder, Field, Native};
use crate::domain::change::{Operation, Skip};
use crate::domain::dead_letter::Reason;

/// What one event type does to one table.
#[derive(Debug)]
pub struct TableRule {
    pub operation: Operation,
    /// For `Clear`: the columns of the prefix.
    pub row: Row,
    /// Rows that take the place of those that were cleared.
    pub elements: Option<Elements>,
    pub when: Option<Condition>,
    /// What an event that is not wanted does, where the rule sets whole rows: the key, or the prefix.
    pub unwanted: Option<(Operation, Row)>,
}

/// The event types of a topic.
#[derive(Debug)]
pub struct Types {
    pub source: Source,
    pub path: String,
    pub rules: RulesByType,
    pub ignore: HashSet<String>,
    pub otherwise: Otherwise,
}

/// What the mapping says of an event's type.
pub enum Found<'t> {
    Rules(&'t [TableRule]),
    /// `ignore` names it.
    Ignored,
    /// Nobody names it, or there is none.
    Nothing,
}

impl Types {
    pub fn find<'a>(&self, decoder: &mut Decoder, inputs: &mut Inputs<'a>) -> Result<Found<'_>, Outcome> {
        let Some(text) = self.name(decoder, inputs)? else { return Ok(Found::Nothing) };
        Ok(match self.rules.get(&*text) {
            Some(rules) => Found::Rules(rules),
            None if self.ignore.contains(&*text) => Found::Ignored,
            None => Found::Nothing,
        })
    }

    /// What an event says its type is.
    pub fn name<'a>(
        &self,
        decoder: &mut Decoder,
        inputs: &mut Inputs<'a>,
    ) -> Result<Option<Cow<'a, str>>, Outcome> {
        let field = inputs.read(&self.source, decoder);
        Ok(Some(match field.map_err(|error| Outcome::Rejected(rejection(error, None)))? {
            Field::Json("null") | Field::Absent | Field::Unavailable => return Ok(None),
            Field::Text(text) | Field::Native(Native::Text(text)) => text.into(),
            Field::Native(Native::Opaque(bytes)) => {
                opaque_text(bytes).map_err(|refusal| Outcome::Rejected(refused(refusal, &self.path)))?.into()
            }
            Field::Json(text) if text.starts_with('"') => {
                string(text).map_err(|refusal| Outcome::Rejected(refused(refusal, &self.path)))?
            }
            _ => {
                let refusal =
                    Refusal::new(Reason::WrongType, "is not a string and should hold the event's type");
                return Err(Outcome::Rejected(refused(refusal, &self.path)));
            }
        }))
    }

    /// What becomes of a record that no table takes.
    pub fn unhandled(&self, found: &Found<'_>, has_value: bool) -> Result<Outcome, Outcome> {
        let message = match (found, has_value || !self.source.reads_value()) {
            (Found::Ignored, _) => return Ok(Outcome::Skipped(Skip::Ignored)),
            (_, true) => "is an event type that no table of the topic names",
            (_, false) => "is not there: the record has no value",
        };
        let rejection = refused(Refusal::new(Reason::UnknownType, message), &self.path);
        match self.otherwise {
            Otherwise::Ignore => Ok(Outcome::Skipped(Skip::Ignored)),
            Otherwise::DeadLetter => Err(Outcome::Rejected(rejection)),
            Otherwise::Stop => Err(Outcome::Stop(rejection)),
        }
    }
}
