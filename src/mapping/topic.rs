//! The plan of one topic: what a record of it does to the tables it feeds.

use std::collections::HashSet;

use super::Outcome;
use super::compile::RulesByType;
use super::condition::Condition;
use super::convert::{Refusal, opaque_text, string};
use super::event_id::IdsOfTopic;
use super::program::Documents;
use super::row::{Inputs, LogEntry, Row, Source, rejection};
use super::version::{self, Integers, kind_name};
use crate::config::Otherwise;
use crate::decode::{Decoder, EventKind, Field, Native, OwnVersion, Pending, Scratch, Surroundings};
use crate::domain::change::{self, Change, IfMissing, Skip};
use crate::domain::checkpoint::{AfterDelete, PartitionMemory};
use crate::domain::dead_letter::{Reason, Rejection};
use crate::domain::record::Record;
use crate::domain::version::{Coordinates, Version, VersionKind};

#[derive(Debug)]
pub struct TopicPlan {
    decoder: Decoder,
    version: VersionSource,
    rows: Vec<TableRows>,
    events: Option<Types>,
    /// Where repeated events are recognised.
    pub event_ids: Option<IdsOfTopic>,
    /// Kept between records for their memory.
    value_fields: Vec<Field<'static>>,
    key_fields: Vec<Field<'static>>,
    scratch: Scratch,
}

#[derive(Debug)]
pub enum VersionSource {
    Path {
        source: Source,
        path: String,
    },
    /// The format's own.
    Format,
    Position,
}

/// A table whose rows the records are.
#[derive(Debug)]
pub struct TableRows {
    pub upsert: Row,
    /// By the record key.
    pub delete: Row,
    /// For records that have none, in formats that know the old row.
    pub delete_without_key: Option<Row>,
    pub filter: Option<Filter>,
}

/// Which rows a table wants.
#[derive(Debug)]
pub struct Filter {
    pub when: Condition,
    /// The key of a row that it does not want.
    pub unwanted: Row,
}

/// What one event type does to one table.
#[derive(Debug)]
pub struct TableRule {
    pub operation: Operation,
    pub row: Row,
    pub when: Option<Condition>,
    /// The key of a row that is not wanted, where the rule writes whole rows.
    pub unwanted: Option<Row>,
}

#[derive(Debug, Clone, Copy)]
pub enum Operation {
    Write { if_missing: IfMissing },
    Delete,
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

/// A record on its way, with what it reads and writes.
pub struct Passage<'r, 'a> {
    pub record: &'r Record<'a>,
    pub memory: &'r mut PartitionMemory,
    /// The delete event just before this record.
    pub after_delete: Option<AfterDelete>,
    pub kinds: &'r mut [Option<VersionKind>],
    pub changes: &'r mut Vec<Change>,
}

impl TopicPlan {
    pub fn new(
        decoder: Decoder,
        version: VersionSource,
        rows: Vec<TableRows>,
        events: Option<Types>,
        event_ids: Option<IdsOfTopic>,
    ) -> TopicPlan {
        let (value_fields, key_fields) = (Vec::new(), Vec::new());
        let scratch = Scratch::default();
        TopicPlan { decoder, version, rows, events, event_ids, value_fields, key_fields, scratch }
    }

    /// Why no record of the topic can be read.
    pub fn problem(&self) -> Option<String> {
        self.decoder.problem().map(|error| error.message.clone())
    }

    /// Sees to it that the schemas of a record are at hand.
    pub fn prepare(&mut self, record: &Record<'_>) -> Result<(), Pending> {
        self.decoder.prepare(record.key, record.value)
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
        let start = passage.changes.len();
        let event = match passage.record.value {
            Some(bytes) => {
                let kind = self.decoder.value(bytes, inputs.around, &mut inputs.value);
                Some(kind.map_err(|error| Outcome::Rejected(rejection(error, None)))?)
            }
            None if passage.is_behind_its_delete() => return Ok(Outcome::Skipped(Skip::Tombstone)),
            None => None,
        };
        if event == Some(EventKind::Ignored) {
            return Ok(Outcome::Skipped(Skip::Ignored));
        }
        // Read when the first change asks for it: an event nobody wants needs no version, nor an id.
        // A record without a value is no event and has no id.
        let mut stamp = None;
        let mut id = None;
        if let (Some(ids), Some(_), false) = (&self.event_ids, event, self.rows.is_empty()) {
            id = Some(ids.of_new_event(inputs, &mut self.decoder)?);
        }
        for rows in &self.rows {
            let (row, operation) = match event {
                Some(EventKind::Row) => match &rows.filter {
                    Some(filter) if !wants(&filter.when, rows.upsert.table, inputs, &mut self.decoder)? => {
                        (&filter.unwanted, change::Operation::Delete)
                    }
                    _ => {
                        let if_missing = IfMissing::default();
                        (&rows.upsert, change::Operation::Write { if_missing })
                    }
                },
                Some(EventKind::Delete) => {
                    (rows.deleted(inputs.key_bytes.is_some()), change::Operation::Delete)
                }
                Some(EventKind::Truncate) => (&rows.delete, change::Operation::Truncate),
                None if self.version.is_of_record(inputs) => (&rows.delete, change::Operation::Delete),
                _ => (&rows.delete, change::Operation::Tombstone),
            };
            let step = Step { decoder: &mut self.decoder, version: &self.version, row, operation };
            step.append(passage, inputs, &mut stamp)?;
        }
        if event == Some(EventKind::Delete) {
            passage.remember_delete(stamp);
        }
        if let Some(types) = &self.events {
            let known = match event {
                None if types.source.reads_value() => Found::Nothing,
                // The type may be in a header, also of a record without a value.
                _ => types.find(&mut self.decoder, inputs)?,
            };
            if let Found::Rules(rules) = known {
                if let Some(ids) = &self.event_ids {
                    id = Some(ids.of_new_event(inputs, &mut self.decoder)?);
                }
                for rule in rules {
                    let wanted = match &rule.when {
                        Some(when) => wants(when, rule.row.table, inputs, &mut self.decoder)?,
                        None => true,
                    };
                    let (row, operation) = match (wanted, &rule.unwanted) {
                        (true, _) => (&rule.row, rule.operation.of_change()),
                        (false, Some(unwanted)) => (unwanted, change::Operation::Delete),
                        (false, None) => continue,
                    };
                    let step = Step { decoder: &mut self.decoder, version: &self.version, row, operation };
                    step.append(passage, inputs, &mut stamp)?;
                }
                if passage.changes.len() == start {
                    return Ok(Outcome::Skipped(Skip::Filtered));
                }
            }
            if passage.changes.len() == start {
                return types.unhandled(&known, event.is_some());
            }
        }
        if passage.changes.len() == start {
            // A topic of the configuration that feeds no table.
            return Ok(Outcome::Skipped(Skip::Ignored));
        }
        if let Some(Stamp { kind: Some(kind), .. }) = stamp {
            for change in &passage.changes[start..] {
                passage.kinds[change.table] = Some(kind);
            }
        }
        if let (Some(ids), Some(id)) = (&mut self.event_ids, id) {
            ids.remembered.remember(id);
        }
        Ok(Outcome::Changes)
    }
}

impl Operation {
    fn of_change(self) -> change::Operation {
        match self {
            Operation::Write { if_missing } => change::Operation::Write { if_missing },
            Operation::Delete => change::Operation::Delete,
        }
    }
}

fn wants(
    when: &Condition,
    table: usize,
    inputs: &mut Inputs<'_>,
    decoder: &mut Decoder,
) -> Result<bool, Outcome> {
    when.holds(inputs, decoder).map_err(|error| Outcome::Rejected(rejection(error, Some(table))))
}

impl TableRows {
    fn deleted(&self, has_key: bool) -> &Row {
        match &self.delete_without_key {
            Some(row) if !has_key => row,
            _ => &self.delete,
        }
    }
}

impl Passage<'_, '_> {
    fn is_behind_its_delete(&self) -> bool {
        let Some(deleted) = &self.after_delete else { return false };
        self.record.key == Some(&deleted.key[..])
    }

    fn remember_delete(&mut self, stamp: Option<Stamp>) {
        if let (Some(key), Some(Stamp { version, .. })) = (self.record.key, stamp) {
            self.memory.after_delete = Some(AfterDelete { key: key.to_vec(), version });
        }
    }

    fn at(&self) -> Coordinates {
        // The index of a topic of the configuration: far below 2^32.
        let topic = self.record.at.topic as u32;
        Coordinates { topic, partition: self.record.at.partition, offset: self.record.offset }
    }
}

/// The version of a record; without a kind where only the coordinates count.
#[derive(Debug, Clone, Copy)]
struct Stamp {
    kind: Option<VersionKind>,
    version: Version,
}

/// One change of one table about to be made.
struct Step<'p> {
    decoder: &'p mut Decoder,
    version: &'p VersionSource,
    row: &'p Row,
    operation: change::Operation,
}

impl Step<'_> {
    fn append<'a>(
        mut self,
        passage: &mut Passage<'_, 'a>,
        inputs: &mut Inputs<'a>,
        stamp: &mut Option<Stamp>,
    ) -> Result<(), Outcome> {
        let table = self.row.table;
        let is_truncate = self.operation == change::Operation::Truncate;
        if self.row.reads_key() && !is_truncate {
            let read = inputs.read_key(self.decoder);
            read.map_err(|error| Outcome::Rejected(rejection(error, Some(table))))?;
        }
        let values = match is_truncate {
            true => Vec::new(),
            false => self.row.values(inputs).map_err(Outcome::Rejected)?,
        };
        let Stamp { kind, version } = match stamp {
            Some(stamp) => *stamp,
            None => {
                let read = self.stamp(passage, inputs);
                *stamp.insert(
                    read.map_err(|refused| Outcome::Rejected(Rejection { table: Some(table), ..refused }))?,
                )
            }
        };
        if let (Some(kind), Some(usual)) = (kind, passage.kinds[table])
            && kind != usual
        {
            return Err(Outcome::Rejected(Rejection {
                table: Some(table),
                path: self.version.path().to_owned(),
                reason: Reason::Version,
                message: format!(
                    "is one of {}, but the table's versions are {}",
                    kind_name(kind),
                    kind_name(usual)
                ),
            }));
        }
        passage.changes.push(Change {
            table,
            topic: passage.record.at.topic,
            operation: self.operation,
            values,
            version,
        });
        Ok(())
    }

    fn stamp<'a>(&mut self, passage: &Passage<'_, 'a>, inputs: &mut Inputs<'a>) -> Result<Stamp, Rejection> {
        let at = passage.at();
        let by_position =
            |kind| Stamp { kind, version: Version::position(passage.memory.max_timestamp_ms, at) };
        let (kind, integers) = match self.version {
            _ if self.operation == change::Operation::Tombstone => return Ok(by_position(None)),
            VersionSource::Position => return Ok(by_position(Some(VersionKind::Position))),
            VersionSource::Format => match self.decoder.own_version(&inputs.value) {
                OwnVersion::Integers(pair) => (VersionKind::Integers, Integers::two(pair)),
                OwnVersion::Unusable(error) => return Err(rejection(error, None)),
                OwnVersion::None => return Ok(by_position(Some(VersionKind::Position))),
            },
            VersionSource::Path { source, path } => {
                let field = inputs.read(source, self.decoder).map_err(|error| rejection(error, None))?;
                version::read(field).map_err(|refusal| refused(refusal, path))?
            }
        };
        let version = Version::new(kind, integers.as_slice(), at).ok_or_else(|| {
            refused(Refusal::new(Reason::Version, "has no or too many parts"), self.version.path())
        })?;
        Ok(Stamp { kind: Some(kind), version })
    }
}

impl VersionSource {
    /// Whether a record has a version also without a value.
    fn is_of_record(&self, inputs: &Inputs<'_>) -> bool {
        match self {
            VersionSource::Position => true,
            VersionSource::Path { source, .. } if !source.reads_value() => {
                !matches!(inputs.field(source), Ok(Field::Absent | Field::Json("null")))
            }
            _ => false,
        }
    }

    fn path(&self) -> &str {
        match self {
            VersionSource::Path { path, .. } => path,
            VersionSource::Format => "$event",
            VersionSource::Position => "",
        }
    }
}

/// What the mapping says of an event's type.
enum Found<'t> {
    Rules(&'t [TableRule]),
    /// `ignore` names it.
    Ignored,
    /// Nobody names it, or there is none.
    Nothing,
}

impl Types {
    fn find<'a>(&self, decoder: &mut Decoder, inputs: &mut Inputs<'a>) -> Result<Found<'_>, Outcome> {
        let field = inputs.read(&self.source, decoder);
        let text = match field.map_err(|error| Outcome::Rejected(rejection(error, None)))? {
            Field::Json("null") | Field::Absent | Field::Unavailable => return Ok(Found::Nothing),
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
        };
        Ok(match self.rules.get(&*text) {
            Some(rules) => Found::Rules(rules),
            None if self.ignore.contains(&*text) => Found::Ignored,
            None => Found::Nothing,
        })
    }

    /// What becomes of a record that no table takes.
    fn unhandled(&self, found: &Found<'_>, has_value: bool) -> Result<Outcome, Outcome> {
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
