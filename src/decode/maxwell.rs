//! `maxwell`: row changes of MySQL as Maxwell's daemon writes them.
//!
//! `data` is the row: as it is now, or, of a delete, as it was. Paths of the mapping start there; `$event`
//! is the whole record, in which `old` has what an update has changed.

use super::connect::Document;
use super::{DecodeError, EventKind, Field, Wanted};
use crate::domain::dead_letter::Reason;

#[derive(Debug)]
pub struct Decoder {
    value: Document,
    kind: usize,
}

impl Decoder {
    pub fn new(wanted: &Wanted) -> Decoder {
        let mut paths: Vec<Vec<String>> = wanted.value.iter().map(|path| path.from_event("data")).collect();
        let kind = paths.len();
        paths.push(vec!["type".to_owned()]);
        Decoder { value: Document::plain("$event", paths.iter().map(|path| &path[..])), kind }
    }

    pub fn value<'a>(
        &mut self,
        bytes: &'a [u8],
        fields: &mut Vec<Field<'a>>,
    ) -> Result<EventKind, DecodeError> {
        self.value.read(bytes, fields)?;
        self.value.require_object()?;
        let Field::Json(kind) = fields[self.kind] else {
            return Err(DecodeError::malformed("$event.type", "is missing: not a record of Maxwell's"));
        };
        match kind.trim_matches('"') {
            "insert" | "update" | "bootstrap-insert" => Ok(EventKind::Row),
            "delete" => Ok(EventKind::Delete),
            "bootstrap-start" | "bootstrap-complete" => Ok(EventKind::Ignored),
            // With `output_ddl`.
            kind if kind.starts_with("table-") || kind.starts_with("database-") => Ok(EventKind::Ignored),
            _ => Err(DecodeError {
                path: "$event.type".to_owned(),
                reason: Reason::UnknownType,
                message: "is not a kind of record of Maxwell's (insert, update, delete, …)".to_owned(),
            }),
        }
    }
}
