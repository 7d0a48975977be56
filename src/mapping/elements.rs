//! One event, many rows: those of the elements of a list.

use std::cell::RefCell;
use std::collections::HashSet;

use super::Outcome;
use super::face::{Stamp, Step, VersionSource};
use super::row::{Inputs, Row, Source, rejection};
use super::topic::Passage;
use crate::config::Path;
use crate::decode::{Decoder, ElementDecoder};
use crate::domain::change::{IfMissing, Operation};
use crate::domain::dead_letter::{Reason, Rejection};
use crate::domain::value::key_bytes;

#[derive(Debug)]
pub struct Elements {
    list: Source,
    /// Where the list is, for messages.
    path: String,
    /// Changes with every element only in what it remembers to be fast.
    decoder: RefCell<ElementDecoder>,
    row: Row,
    /// Column indexes.
    key: Vec<usize>,
}

impl Elements {
    /// `list` and where it is; what is read of an element; the row, and which columns are its key.
    pub fn new((list, path): (Source, String), paths: &[Path], (row, key): (Row, Vec<usize>)) -> Elements {
        let decoder = ElementDecoder::new(paths.iter().map(|path| &path.fields[..]));
        Elements { list, path, decoder: RefCell::new(decoder), row, key }
    }

    /// Appends one change per element; no two may have the same key.
    pub fn append<'a>(
        &self,
        decoder: &mut Decoder,
        version: &VersionSource,
        (passage, inputs): (&mut Passage<'_, 'a>, &mut Inputs<'a>),
        stamp: &mut Option<Stamp>,
    ) -> Result<(), Outcome> {
        let table = Some(self.row.table);
        let refused = |error| Outcome::Rejected(rejection(error, table));
        let list = inputs.read(&self.list, decoder).map_err(refused)?;
        let elements = ElementDecoder::split(list, &self.path).map_err(refused)?;
        let mut keys = HashSet::with_capacity(elements.len());
        for (index, element) in elements.into_iter().enumerate() {
            let read = self.decoder.borrow_mut().read(element, &mut inputs.element);
            read.map_err(|error| self.of_element(index, refused(error)))?;
            inputs.element_text = element;
            inputs.documents.forget_element();
            let operation = Operation::Write { if_missing: IfMissing::default() };
            let step = Step { decoder: &mut *decoder, version, row: &self.row, operation };
            step.append(passage, inputs, stamp).map_err(|refused| self.of_element(index, refused))?;
            let Some(change) = passage.changes.last() else { continue };
            let wrong = |reason, message: String| {
                let path = ".".to_owned();
                self.of_element(index, Outcome::Rejected(Rejection { table, path, reason, message }))
            };
            if !keys.insert(key_bytes(self.key.iter().map(|&column| &change.values[column]))) {
                return Err(wrong(Reason::Malformed, "has the key of an earlier element".to_owned()));
            }
            let counted = passage.count_bytes();
            counted.map_err(|rejection| self.of_element(index, Outcome::Rejected(rejection)))?;
        }
        Ok(())
    }

    /// A path that begins at an element begins at the event.
    fn of_element(&self, index: usize, refused: Outcome) -> Outcome {
        match refused {
            Outcome::Rejected(rejection) if rejection.path.starts_with('.') => {
                let below = if rejection.path == "." { "" } else { &rejection.path };
                let path = format!("{}[{index}]{below}", self.path);
                Outcome::Rejected(Rejection { path, ..rejection })
            }
            other => other,
        }
    }
}
