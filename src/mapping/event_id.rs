//! The ids of one topic's events: read from the event, and looked up among the remembered ones.

use super::Outcome;
use super::convert::{Refusal, describe, opaque_text, string};
use super::row::{Inputs, Source, rejection};
use super::topic::refused;
use crate::decode::{Decoder, Field, Native};
use crate::domain::change::Skip;
use crate::domain::dead_letter::Reason;
use crate::domain::event_ids::{EventId, EventIds};

#[derive(Debug)]
pub struct IdSource {
    pub source: Source,
    pub path: String,
}

impl IdSource {
    /// The id of an event that was not applied yet. Not remembered before its changes are made: an
    /// event that is rejected may come again.
    pub fn of_new_event<'a>(
        &self,
        applied: &EventIds,
        inputs: &mut Inputs<'a>,
        decoder: &mut Decoder,
    ) -> Result<EventId, Outcome> {
        let field = inputs.read(&self.source, decoder);
        let field = field.map_err(|error| Outcome::Rejected(rejection(error, None)))?;
        let id = read(field).map_err(|refusal| Outcome::Rejected(refused(refusal, &self.path)))?;
        if applied.contains(id) {
            return Err(Outcome::Skipped(Skip::Duplicate));
        }
        Ok(id)
    }
}

/// A string that is not empty or an integer of any size. An empty one is what a producer sends that
/// has none: taken for an id, all such events but the first would vanish.
fn read(field: Field<'_>) -> Result<EventId, Refusal> {
    let missing =
        |what: &str| Err(Refusal::new(Reason::EventId, format!("{what} and should hold the event's id")));
    let text = match field {
        Field::Absent | Field::Json("null") => return missing("is missing"),
        Field::Unavailable => return missing("was left out as unchanged"),
        Field::Text("") | Field::Json("\"\"") => return missing("is an empty text"),
        Field::Text(text) => return Ok(EventId::of_text(text)),
        Field::Native(Native::Opaque(b"")) => return missing("is an empty text"),
        Field::Native(Native::Opaque(bytes)) => return Ok(EventId::of_text(opaque_text(bytes)?)),
        Field::Native(Native::Text("")) => return missing("is an empty text"),
        Field::Native(Native::Text(text)) => return Ok(EventId::of_text(text)),
        Field::Native(Native::Integer(number)) => return Ok(EventId::of_integer(&number.to_string())),
        Field::Native(Native::Unsigned(number)) => return Ok(EventId::of_integer(&number.to_string())),
        Field::Native(_) => {
            let message = "is neither a string nor an integer and should hold the event's id";
            return Err(Refusal::new(Reason::WrongType, message));
        }
        Field::Json(text) | Field::Typed(_, text) => text,
        Field::NotAnObject => {
            return Err(Refusal::new(
                Reason::WrongType,
                "cannot be reached: a part of the path is not an object",
            ));
        }
    };
    if text.starts_with('"') {
        return Ok(EventId::of_text(&string(text)?));
    }
    let digits = text.strip_prefix('-').unwrap_or(text);
    if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(EventId::of_integer(text));
    }
    Err(Refusal::new(
        Reason::WrongType,
        format!("is {} and should hold the event's id: a string or an integer", describe(text)),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_texts_and_integers() {
        let text = |text: &str| Ok(EventId::of_text(text));
        assert_eq!(read(Field::Json(r#""a-1""#)), text("a-1"));
        assert_eq!(read(Field::Json(r#""a\u002d1""#)), text("a-1"));
        assert_eq!(read(Field::Text("a-1")), text("a-1"));
        assert_eq!(read(Field::Json("7")), Ok(EventId::of_integer("7")));
        let wide = "340282366920938463463374607431768211456";
        assert_eq!(read(Field::Json(wide)), Ok(EventId::of_integer(wide)));
        assert_ne!(read(Field::Json("7")), read(Field::Json("-7")));
        for (field, reason) in [
            (Field::Absent, Reason::EventId),
            (Field::Json("null"), Reason::EventId),
            (Field::Json(r#""""#), Reason::EventId),
            (Field::Text(""), Reason::EventId),
            (Field::Unavailable, Reason::EventId),
            (Field::Json("1.0"), Reason::WrongType),
            (Field::Json("1e3"), Reason::WrongType),
            (Field::Json("true"), Reason::WrongType),
            (Field::Json("{}"), Reason::WrongType),
            (Field::Json("[1]"), Reason::WrongType),
            (Field::NotAnObject, Reason::WrongType),
            (Field::Json(r#""\ud800""#), Reason::Malformed),
        ] {
            assert_eq!(read(field).map_err(|refusal| refusal.reason), Err(reason), "{field:?}");
        }
    }
}
