//! The plan of one topic: what a record of it does to the tables it feeds.

use std::borrow::Cow;

use super::Outcome;
use super::convert::Refusal;
use super::face::{Face, Given};
use super::program::Documents;
use super::row::{Inputs, LogEntry, rejection};
use super::schema::Versions;
use super::snapshots::Snapshots;
use crate::decode::{Decoder, EventKind, Field, OwnVersion, Pending, Scratch, Surroundings};
use crate::domain::change::{Change, Skip};
use crate::domain::checkpoint::{AfterDelete, PartitionMemory};
use crate::domain::dead_letter::{Reason, Rejection};
use crate::domain::event_ids::{EventId, EventIds};
use crate::domain::record::Record;
use crate::domain::value::Value;
use crate::domain::version::{Coordinates, Version, VersionKind};

/// What the rows of one record may take in memory.
const BYTES_MAX: usize = 32 << 20;

#[derive(Debug)]
pub struct TopicPlan {
    decoder: Decoder,
    /// One per version of the schema; the first is the current one.
    faces: Vec<Face>,
    /// Where there is more than one.
    versions: Option<Versions>,
    /// Of the whole table, in formats that mark them.
    pub snapshots: Snapshots,
    /// Ids of applied events, where repeated ones are recognised.
    pub event_ids: Option<EventIds>,
    /// Kept between records for their memory.
    value_fields: Vec<Field<'static>>,
    key_fields: Vec<Field<'static>>,
    scratch: Scratch,
}

/// A record on its way, with what it reads and writes.
pub struct Passage<'r, 'a> {
    pub record: &'r Record<'a>,
    pub memory: &'r mut PartitionMemory,
    /// The delete event just before this record.
    pub after_delete: Option<AfterDelete>,
    pub kinds: &'r mut [Option<VersionKind>],
    pub changes: &'r mut Vec<Change>,
    /// Tables, of rows that got another key and whose events leave something out.
    pub incomplete: &'r mut Vec<usize>,
    /// What the rows of a record that has several take in memory.
    pub bytes: usize,
}

impl TopicPlan {
    /// `faces` has at least the current one.
    pub fn new(
        decoder: Decoder,
        faces: Vec<Face>,
        versions: Option<Versions>,
        event_ids: Option<EventIds>,
    ) -> TopicPlan {
        let (value_fields, key_fields) = (Vec::new(), Vec::new());
        let scratch = Scratch::default();
        TopicPlan {
            decoder,
            faces,
            versions,
            snapshots: Snapshots::default(),
            event_ids,
            value_fields,
            key_fields,
            scratch,
        }
    }

    /// Why no record of the topic can be read.
    pub fn problem(&self) -> Option<String> {
        self.decoder.problem().map(|error| error.message.clone())
    }

    /// Sees to it that the schemas of a record are at hand.
    pub fn prepare(&mut self, record: &Record<'_>) -> Result<(), Pending> {
        self.decoder.prepare(record.key, record.value)
    }

    /// The type of a record's event, if it says one.
    pub fn event_type(&mut self, record: &Record<'_>) -> Option<String> {
        let scratch = Scratch::default();
        let mut inputs = Inputs {
            key_bytes: record.key,
            around: Surroundings { headers: record.headers, scratch: &scratch },
            log: LogEntry::of(record),
            value: Vec::new(),
            key: Vec::new(),
            key_is_read: false,
            element: Vec::new(),
            element_text: "null",
            documents: Documents::default(),
        };
        let value = match record.value {
            Some(bytes) => self.decoder.value(bytes, inputs.around, &mut inputs.value).ok(),
            None => None,
        };
        let face = match (&self.versions, value) {
            (Some(versions), Some(_)) => versions.face(&mut inputs, &mut self.decoder).ok()?,
            _ => 0,
        };
        let types = self.faces.get(face)?.events.as_ref()?;
        types.name(&mut self.decoder, &mut inputs).ok()?.map(Cow::into_owned)
    }

    /// `Err` for outcomes that leave no change behind; the caller takes back what was appended.
    pub fn translate(&mut self, passage: Passage<'_, '_>) -> Result<Outcome, Outcome> {
        let mut scratch = std::mem::take(&mut self.scratch);
        let outcome = self.translate_with(passage, &scratch);
        scratch.clear();
        self.scratch = scratch;
        outcome
    }

    fn translate_with<'a>(
        &mut self,
        mut passage: Passage<'_, 'a>,
        scratch: &'a Scratch,
    ) -> Result<Outcome, Outcome> {
        let mut inputs = Inputs {
            key_bytes: passage.record.key,
            around: Surroundings { headers: passage.record.headers, scratch },
            log: LogEntry::of(passage.record),
            value: recycled(std::mem::take(&mut self.value_fields)),
            key: recycled(std::mem::take(&mut self.key_fields)),
            key_is_read: false,
            element: Vec::new(),
            element_text: "null",
            documents: Documents::default(),
        };
        let outcome = self.translate_inputs(&mut passage, &mut inputs);
        self.value_fields = recycled(inputs.value);
        self.key_fields = recycled(inputs.key);
        outcome
    }

    fn translate_inputs<'a>(
        &mut self,
        passage: &mut Passage<'_, 'a>,
        inputs: &mut Inputs<'a>,
    ) -> Result<Outcome, Outcome> {
        let event = match passage.record.value {
            Some(bytes) => {
                let kind = self.decoder.value(bytes, inputs.around, &mut inputs.value);
                Some(kind.map_err(|error| {
                    passage.memory.leave_unlisted(None);
                    Outcome::Rejected(rejection(error, None))
                })?)
            }
            None if passage.is_behind_its_delete() => return Ok(Outcome::Skipped(Skip::Tombstone)),
            None => None,
        };
        if event == Some(EventKind::Ignored) {
            return Ok(Outcome::Skipped(Skip::Ignored));
        }
        let face = match (&self.versions, event) {
            (Some(versions), Some(_)) => versions.face(inputs, &mut self.decoder),
            // A record without a value has no schema: what there is to read is its key.
            _ => Ok(0),
        };
        let face = match face {
            Ok(face) => face,
            Err(outcome) => {
                self.leave_unlisted(passage, inputs);
                return Err(outcome);
            }
        };
        let id = match self.translate_event((event, face), passage, inputs) {
            Err(outcome @ Outcome::Rejected(_)) => {
                self.leave_unlisted(passage, inputs);
                return Err(outcome);
            }
            translated => translated?,
        };
        if let (Some(ids), Some(id)) = (&mut self.event_ids, id) {
            ids.remember(id);
        }
        Ok(Outcome::Changes)
    }

    fn translate_event<'a>(
        &mut self,
        (event, face): (Option<EventKind>, usize),
        passage: &mut Passage<'_, 'a>,
        inputs: &mut Inputs<'a>,
    ) -> Result<Option<EventId>, Outcome> {
        let Some(face) = self.faces.get(face) else { return Err(Outcome::Skipped(Skip::Ignored)) };
        let applied = self.event_ids.as_ref();
        let mut given = Given { decoder: &mut self.decoder, snapshots: &mut self.snapshots, applied, event };
        face.translate(&mut given, passage, inputs)
    }

    /// What should be a row of a whole snapshot has led to none.
    fn leave_unlisted(&self, passage: &mut Passage<'_, '_>, inputs: &Inputs<'_>) {
        if self.decoder.snapshot(&inputs.value).is_none() {
            return;
        }
        let version = match self.decoder.own_version(&inputs.value) {
            OwnVersion::Integers { pair, .. } => Version::new(VersionKind::Integers, &pair, passage.at()),
            _ => None,
        };
        passage.memory.leave_unlisted(version);
    }
}

impl Passage<'_, '_> {
    fn is_behind_its_delete(&self) -> bool {
        let Some(deleted) = &self.after_delete else { return false };
        self.record.key == Some(&deleted.key[..])
    }

    pub fn remember_delete(&mut self, version: Option<Version>) {
        if let (Some(key), Some(version)) = (self.record.key, version) {
            self.memory.after_delete = Some(AfterDelete { key: key.to_vec(), version });
        }
    }

    /// The last change is one of many of its record, each of which may repeat a part of it.
    pub fn count_bytes(&mut self) -> Result<(), Rejection> {
        let Some(change) = self.changes.last() else { return Ok(()) };
        self.bytes += change.values.iter().map(Value::size).sum::<usize>();
        if self.bytes <= BYTES_MAX {
            return Ok(());
        }
        Err(Rejection {
            table: Some(change.table),
            path: ".".to_owned(),
            reason: Reason::OutOfRange,
            message: format!("is one row too many: those of one record take at most {} MiB", BYTES_MAX >> 20),
        })
    }

    pub fn at(&self) -> Coordinates {
        // The index of a topic of the configuration: far below 2^32.
        let topic = self.record.at.topic as u32;
        Coordinates { topic, partition: self.record.at.partition, offset: self.record.offset }
    }
}

pub(super) fn refused(refusal: Refusal, path: &str) -> Rejection {
    let Refusal { reason, message } = refusal;
    Rejection { table: None, path: path.to_owned(), reason, message }
}

/// The memory of a list of fields, for the next record with its own lifetime. The standard library
/// collects a list into one of the same layout in place.
fn recycled<'a>(mut fields: Vec<Field<'_>>) -> Vec<Field<'a>> {
    fields.clear();
    fields.into_iter().map_while(|_| None).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_fields_keep_their_memory() {
        let text = "1".to_owned();
        let mut fields = vec![Field::Json(&text)];
        fields.reserve(100);
        let (at, capacity) = (fields.as_ptr() as usize, fields.capacity());
        let again: Vec<Field<'static>> = recycled(fields);
        drop(text);
        assert!(again.is_empty());
        assert_eq!((again.as_ptr() as usize, again.capacity()), (at, capacity));
    }
}
