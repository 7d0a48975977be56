//! What the events of one version of a topic's schema do to its tables. Most topics have one.

use super::Outcome;
use super::condition::Condition;
use super::convert::Refusal;
use super::event_id::IdSource;
use super::row::{Inputs, Row, Source, rejection};
use super::snapshots::Snapshots;
use super::topic::{Passage, refused};
use super::types::{Found, Types};
use super::version::{self, Integers, kind_name};
use crate::decode::{Decoder, EventKind, Field, OwnVersion};
use crate::domain::change::{self, Change, Cleared, IfMissing, Skip};
use crate::domain::dead_letter::{Reason, Rejection};
use crate::domain::event_ids::{EventId, EventIds};
use crate::domain::value::Value;
use crate::domain::version::{Version, VersionKind};

/// By how much the clocks of a database and its connector may differ. A row that an incremental snapshot
/// has read so long before its key changed is the row whose key has changed; of one that was read later
/// nobody knows: it may be another row, which has got the key since.
const CLOCKS_MS: i64 = 60_000;

#[derive(Debug)]
pub struct Face {
    pub version: VersionSource,
    pub rows: Vec<TableRows>,
    pub events: Option<Types>,
    pub event_id: Option<IdSource>,
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
    /// By the row that was, in formats that have it: for records without a key.
    pub deleted: Option<Row>,
    /// The row that was is the better one to delete by in any case.
    pub has_deleted: bool,
    pub old: Option<OldKey>,
    /// Of whose source table a record has to be to concern this one at all.
    pub origin: Option<Condition>,
    pub filter: Option<Filter>,
    /// What a whole snapshot does not list is gone: no other topic feeds the table.
    pub hears_snapshots: bool,
    /// All of the table.
    pub sources: usize,
    /// Column indexes.
    pub key: Vec<usize>,
}

/// The key that a row had before an update, in formats that tell.
#[derive(Debug)]
pub struct OldKey {
    pub row: Row,
    /// Slots of what was changed of it.
    pub changed: Vec<usize>,
}

/// Which rows a table wants.
#[derive(Debug)]
pub struct Filter {
    pub when: Condition,
    /// The key of a row that it does not want.
    pub unwanted: Row,
}

/// What an event is made of, and what was applied lately.
pub struct Given<'d> {
    pub decoder: &'d mut Decoder,
    pub snapshots: &'d mut Snapshots,
    /// Where repeated events are recognised.
    pub applied: Option<&'d EventIds>,
    /// `None`: a record without a value.
    pub event: Option<EventKind>,
}

impl Face {
    /// Appends the changes of one record; gives its id, where it is to be remembered.
    pub fn translate<'a>(
        &self,
        given: &mut Given<'_>,
        passage: &mut Passage<'_, 'a>,
        inputs: &mut Inputs<'a>,
    ) -> Result<Option<EventId>, Outcome> {
        let start = passage.changes.len();
        let event = given.event;
        // Read when the first change asks for it: an event nobody wants needs no version, nor an id.
        // A record without a value is no event and has no id.
        let mut stamp = None;
        let mut id = None;
        if event.is_some() && !self.rows.is_empty() {
            id = self.new_id(given, inputs)?;
        }
        let list = match event {
            Some(EventKind::Row | EventKind::Delete) => given.decoder.rows(&inputs.value),
            _ => Ok(None),
        };
        match list.map_err(|error| Outcome::Rejected(rejection(error, None)))? {
            None => {
                for rows in &self.rows {
                    self.row(rows, given, (passage, inputs), &mut stamp)?;
                }
            }
            Some(list) => {
                for row in list {
                    let read = given.decoder.row(row, inputs.around.scratch, &mut inputs.value);
                    read.map_err(|error| Outcome::Rejected(rejection(error, None)))?;
                    inputs.documents.forget_row();
                    // The version may be in the row.
                    stamp = None;
                    for rows in &self.rows {
                        let before = passage.changes.len();
                        self.row(rows, given, (passage, inputs), &mut stamp)?;
                        if passage.changes.len() > before {
                            passage.count_bytes().map_err(Outcome::Rejected)?;
                        }
                    }
                }
            }
        }
        match event {
            Some(EventKind::Row) => self.snapshot(given, (passage, inputs), stamp, start),
            Some(EventKind::Delete) => passage.remember_delete(stamp.map(|Stamp { version, .. }| version)),
            _ => {}
        }
        if let Some(types) = &self.events {
            let known = match event {
                None if types.source.reads_value() => Found::Nothing,
                // The type may be in a header, also of a record without a value.
                _ => types.find(given.decoder, inputs)?,
            };
            if let Found::Rules(_) = known {
                id = match &self.event_id {
                    Some(id) if event.is_none() && id.source.reads_value() => None,
                    _ => self.new_id(given, inputs)?,
                };
                self.rules(&known, given, (passage, inputs), &mut stamp)?;
                if passage.changes.len() == start {
                    return Err(Outcome::Skipped(Skip::Filtered));
                }
            }
            if passage.changes.len() == start {
                return Err(types.unhandled(&known, event.is_some()).unwrap_or_else(|refused| refused));
            }
        }
        if passage.changes.len() == start {
            // A topic of the configuration that feeds no table.
            return Err(Outcome::Skipped(Skip::Ignored));
        }
        if let Some(Stamp { kind: Some(kind), .. }) = stamp {
            for change in &passage.changes[start..] {
                passage.kinds[change.table] = Some(kind);
            }
        }
        Ok(id)
    }

    fn new_id<'a>(&self, given: &mut Given<'_>, inputs: &mut Inputs<'a>) -> Result<Option<EventId>, Outcome> {
        match (&self.event_id, given.applied) {
            (Some(source), Some(applied)) => source.of_new_event(applied, inputs, given.decoder).map(Some),
            _ => Ok(None),
        }
    }

    /// What a record is for a table of rows.
    fn row<'a>(
        &self,
        rows: &TableRows,
        given: &mut Given<'_>,
        (passage, inputs): (&mut Passage<'_, 'a>, &mut Inputs<'a>),
        stamp: &mut Option<Stamp>,
    ) -> Result<(), Outcome> {
        if let Some(origin) = &rows.origin {
            // A record without a value does not say.
            if given.event.is_none() || !wants(origin, rows.upsert.table, inputs, given.decoder)? {
                return Ok(());
            }
        }
        let (row, operation) = match given.event {
            Some(EventKind::Row) => match &rows.filter {
                Some(filter) if !wants(&filter.when, rows.upsert.table, inputs, given.decoder)? => {
                    (&filter.unwanted, change::Operation::Delete)
                }
                _ => (&rows.upsert, change::Operation::Write { if_missing: IfMissing::default() }),
            },
            Some(EventKind::Delete) => {
                if self.carry(rows, given, (passage, inputs), stamp)? {
                    return Ok(());
                }
                (rows.deleted(inputs.key_bytes.is_some()), change::Operation::Delete)
            }
            Some(EventKind::Truncate) if rows.sources > 1 => return Err(rows.truncated_in_part()),
            Some(EventKind::Truncate) => (&rows.delete, change::Operation::Truncate),
            None if self.version.is_of_record(inputs) => (&rows.delete, change::Operation::Delete),
            _ => (&rows.delete, change::Operation::Tombstone),
        };
        let step = Step { decoder: given.decoder, version: &self.version, row, operation };
        step.append(passage, inputs, stamp)?;
        if let Some(Change { operation: change::Operation::Write { .. }, values, .. }) =
            passage.changes.last()
            && values.iter().any(Value::is_absent)
            && given.decoder.is_insert(&inputs.value)
        {
            begin_anew(passage.changes);
            passage.incomplete.push(rows.upsert.table);
        }
        match &rows.old {
            Some(old) if given.event == Some(EventKind::Row) => {
                self.leave_old_key(rows, old, passage, inputs)
            }
            _ => Ok(()),
        }
    }

    /// The change that was made last is of a row that may have had another key before.
    fn leave_old_key(
        &self,
        rows: &TableRows,
        old: &OldKey,
        passage: &mut Passage<'_, '_>,
        inputs: &Inputs<'_>,
    ) -> Result<(), Outcome> {
        let is_there = |slot: &usize| !matches!(inputs.value.get(*slot), None | Some(Field::Absent));
        if !old.changed.iter().any(is_there) {
            return Ok(());
        }
        let values = old.row.values(inputs).map_err(Outcome::Rejected)?;
        let Some(last) = passage.changes.last() else { return Ok(()) };
        if rows.key.iter().any(|&column| last.values[column] != values[column]) {
            let (table, topic, version) = (last.table, last.topic, last.version);
            let operation = change::Operation::Delete;
            passage.changes.push(Change { table, topic, operation, values, from: Vec::new(), version });
        }
        Ok(())
    }

    /// The key of a row changes: what is known of the row goes with it. Whether it is the same row to
    /// this table, whose key has not all that was changed.
    fn carry<'a>(
        &self,
        rows: &TableRows,
        given: &mut Given<'_>,
        (passage, inputs): (&mut Passage<'_, 'a>, &mut Inputs<'a>),
        stamp: &mut Option<Stamp>,
    ) -> Result<bool, Outcome> {
        let table = rows.delete.table;
        if !rows.delete.reads_key() || inputs.key_bytes.is_none() {
            return Ok(false);
        }
        let refused = |error| Outcome::Rejected(rejection(error, Some(table)));
        let mut fields = Vec::new();
        if !given.decoder.new_key(inputs.around, &mut fields).map_err(refused)? {
            return Ok(false);
        }
        inputs.read_key(given.decoder).map_err(refused)?;
        let from = rows.delete.values(inputs).map_err(Outcome::Rejected)?;
        std::mem::swap(&mut inputs.key, &mut fields);
        inputs.documents.forget_key();
        let to = rows.delete.values(inputs);
        std::mem::swap(&mut inputs.key, &mut fields);
        inputs.documents.forget_key();
        // A record key that somebody has made another one on the way is not the source's.
        let Ok(to) = to else { return Ok(false) };
        let mut step = Step {
            decoder: given.decoder,
            version: &self.version,
            row: &rows.delete,
            operation: change::Operation::Delete,
        };
        let Stamp { version, .. } = step.stamped(passage, inputs, stamp)?;
        if rows.key.iter().all(|&column| from[column] == to[column]) {
            return Ok(true);
        }
        if matches!(self.version, VersionSource::Position) {
            // The two events of a change of key have nothing in common that says which of them sets what.
            return Ok(false);
        }
        // Older than whatever this event and that of the new key set themselves.
        let version = version.second_of_its_kind();
        let topic = passage.record.at.topic;
        let read_before_ms = match self.version {
            VersionSource::Format => given
                .decoder
                .committed_ms(&inputs.value)
                .map_or(i64::MIN, |committed_ms| committed_ms.saturating_sub(CLOCKS_MS)),
            _ => i64::MAX,
        };
        let operation = change::Operation::Carry { read_before_ms };
        passage.changes.push(Change { table, topic, operation, values: to, from, version });
        Ok(false)
    }

    /// What the event says of a whole snapshot, where it is of one.
    fn snapshot<'a>(
        &self,
        given: &mut Given<'_>,
        (passage, inputs): (&mut Passage<'_, 'a>, &Inputs<'a>),
        stamp: Option<Stamp>,
        start: usize,
    ) {
        let (VersionSource::Format, Some(Stamp { version, integers: Some(integers), .. })) =
            (&self.version, stamp)
        else {
            return;
        };
        passage.memory.pass(version);
        let partition = passage.record.at.partition;
        let heard = given.snapshots.hear(partition, integers, given.decoder.snapshot(&inputs.value));
        let Some(phase) = heard else { return };
        let end = passage.changes.len();
        for rows in self.rows.iter().filter(|rows| rows.hears_snapshots) {
            let is_of_record = |change: &Change| change.table == rows.upsert.table;
            if !passage.changes[start..end].iter().any(is_of_record) {
                continue;
            }
            passage.changes.push(Change {
                table: rows.upsert.table,
                topic: passage.record.at.topic,
                operation: change::Operation::Snapshot(phase),
                values: Vec::new(),
                from: Vec::new(),
                version: version.first_of_its_kind(),
            });
        }
    }

    /// What an event of a known type does.
    fn rules<'a>(
        &self,
        known: &Found<'_>,
        given: &mut Given<'_>,
        (passage, inputs): (&mut Passage<'_, 'a>, &mut Inputs<'a>),
        stamp: &mut Option<Stamp>,
    ) -> Result<(), Outcome> {
        let Found::Rules(rules) = known else { return Ok(()) };
        for rule in *rules {
            let wanted = match &rule.when {
                Some(when) => wants(when, rule.row.table, inputs, given.decoder)?,
                None => true,
            };
            let (row, operation) = match (wanted, &rule.unwanted) {
                (true, _) => (&rule.row, rule.operation),
                (false, Some((operation, unwanted))) => (unwanted, *operation),
                (false, None) => continue,
            };
            let step = Step { decoder: given.decoder, version: &self.version, row, operation };
            step.append(passage, inputs, stamp)?;
            if let (true, Some(elements)) = (wanted, &rule.elements) {
                elements.append(given.decoder, &self.version, (passage, inputs), stamp)?;
            }
        }
        Ok(())
    }
}

/// The last change is of a row that was not there before, and leaves something out: only its own key change
/// can know it. What the replica has under this key is of an earlier row, that nobody has deleted yet.
fn begin_anew(changes: &mut Vec<Change>) {
    let Some(write) = changes.pop() else { return };
    let version = write.version.first_of_its_kind();
    changes.push(Change { operation: change::Operation::Delete, version, ..write.clone() });
    changes.push(write);
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
    /// Rows do not say which source they are of: those of the others would go, too.
    fn truncated_in_part(&self) -> Outcome {
        let message = format!(
            "is a TRUNCATE of one of the {} sources of this table, whose rows do not say which one they are of: none \
             was removed; delete them with DELETE at the source, or give each source a table of its own",
            self.sources
        );
        let table = Some(self.upsert.table);
        Outcome::Rejected(Rejection { table, path: String::new(), reason: Reason::UnknownType, message })
    }

    fn deleted(&self, has_key: bool) -> &Row {
        match &self.deleted {
            Some(row) if self.has_deleted || !has_key => row,
            _ => &self.delete,
        }
    }
}

/// The version of a record; without a kind where only the coordinates count.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stamp {
    kind: Option<VersionKind>,
    version: Version,
    /// Of a version of the format's own.
    integers: Option<[i64; 2]>,
}

/// One change of one table about to be made.
pub(super) struct Step<'p> {
    pub decoder: &'p mut Decoder,
    pub version: &'p VersionSource,
    pub row: &'p Row,
    pub operation: change::Operation,
}

impl Step<'_> {
    pub fn append<'a>(
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
        let Stamp { version, .. } = self.stamped(passage, inputs, stamp)?;
        let version = match self.operation {
            // What the same event sets anew stays.
            change::Operation::Clear(Cleared::Replaced) => version.just_before(),
            _ => version,
        };
        passage.changes.push(Change {
            table,
            topic: passage.record.at.topic,
            operation: self.operation,
            values,
            from: Vec::new(),
            version,
        });
        Ok(())
    }

    /// The version of the record, which must be of the kind that the table has.
    fn stamped<'a>(
        &mut self,
        passage: &Passage<'_, 'a>,
        inputs: &mut Inputs<'a>,
        stamp: &mut Option<Stamp>,
    ) -> Result<Stamp, Outcome> {
        let table = self.row.table;
        let found = match stamp {
            Some(stamp) => *stamp,
            None => {
                let read = self.stamp(passage, inputs);
                *stamp.insert(
                    read.map_err(|refused| Outcome::Rejected(Rejection { table: Some(table), ..refused }))?,
                )
            }
        };
        if let (Some(kind), Some(usual)) = (found.kind, passage.kinds[table])
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
        Ok(found)
    }

    fn stamp<'a>(&mut self, passage: &Passage<'_, 'a>, inputs: &mut Inputs<'a>) -> Result<Stamp, Rejection> {
        let at = passage.at();
        let by_position = |kind| {
            let version = Version::position(passage.memory.max_timestamp_ms, at);
            Stamp { kind, version, integers: None }
        };
        let mut own = None;
        let (kind, integers) = match self.version {
            _ if self.operation == change::Operation::Tombstone => return Ok(by_position(None)),
            VersionSource::Position => return Ok(by_position(Some(VersionKind::Position))),
            VersionSource::Format => match self.decoder.own_version(&inputs.value) {
                OwnVersion::Integers { pair, read_ms } => {
                    own = Some(pair);
                    (VersionKind::Integers, Integers::of_pair(pair, read_ms))
                }
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
        Ok(Stamp { kind: Some(kind), version, integers: own })
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
