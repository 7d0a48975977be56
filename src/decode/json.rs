//! `json`: one JSON object per record, as a row or as a typed event.

use super::connect::Document;
use super::{DecodeError, EventKind, Field, Wanted};

#[derive(Debug)]
pub struct Decoder {
    value: Document,
}

impl Decoder {
    pub fn new(wanted: &Wanted) -> Decoder {
        // The row is the event: both roots are the document.
        Decoder { value: Document::plain(".", wanted.value.iter().map(|path| &path.fields[..])) }
    }

    pub fn value<'a>(
        &mut self,
        bytes: &'a [u8],
        fields: &mut Vec<Field<'a>>,
    ) -> Result<EventKind, DecodeError> {
        self.value.read(bytes, fields)?;
        self.value.require_object()?;
        Ok(EventKind::Row)
    }
}
