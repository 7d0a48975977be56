//! The reference model: what a replica is, said with maps and the domain's functions only.
//!
//! The contract suite compares every other store with it, and the simulation uses it as a store
//! that can refuse a batch or lose the reply.

use std::cmp::Ordering;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::letters::{after_retry, split_off};
use super::rules;
use super::{
    Applied, BatchLimits, Completion, Figures, Letter, LetterPage, LetterQuery, LossLimit, Maintenance,
    PositionStatus, Reader, RowLookup, Status, Store, StoreError, Swept, TableStatus,
};
use crate::domain::batch::{AfterGap, Batch, Entry, Observed, Step, Sweep};
use crate::domain::catalog::{Catalog, Table};
use crate::domain::change::IfMissing;
use crate::domain::checkpoint::{Checkpoint, TopicPartition};
use crate::domain::dead_letter::{DeadLetter, Kept};
use crate::domain::retry::RetryReason;
use crate::domain::row::RowState;
use crate::domain::shelving::Shelves;
use crate::domain::snapshot::{Phase, Snapshot};
use crate::domain::state::{Facts, State, believable, state};
use crate::domain::value::Value;
use crate::domain::version::{Version, VersionKind};

/// A replica in memory. Clones share it, as two openings of one file would.
#[derive(Debug, Clone)]
pub struct MemoryStore {
    catalog: Arc<Catalog>,
    heartbeat_limit_ms: i64,
    replica: Arc<Mutex<Replica>>,
}

/// What goes wrong with a coming batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing is applied.
    Refuse(RetryReason),
    /// The batch is applied, but the caller hears of an error.
    LoseReply,
}

#[derive(Debug, Clone, Default)]
struct Replica {
    tables: Vec<MemoryTable>,
    checkpoint: Checkpoint,
    end_offsets: BTreeMap<TopicPartition, i64>,
    dead_letters: BTreeMap<(TopicPartition, i64, Option<usize>), DeadLetter>,
    connected: bool,
    stopped: Option<String>,
    last_batch: u64,
    faults: VecDeque<Fault>,
}

#[derive(Debug, Clone, Default, PartialEq)]
struct MemoryTable {
    rows: BTreeMap<Key, MemoryRow>,
    truncated: Option<Version>,
    /// By prefix: the mark, and the heartbeat of the batch that set it.
    cleared: BTreeMap<Key, (Version, i64)>,
}

#[derive(Debug, Clone, PartialEq)]
struct MemoryRow {
    state: RowState,
    /// Heartbeat of the batch that last changed it.
    at_ms: i64,
}

/// A key with an order, so that maps and comparisons are repeatable.
#[derive(Debug, Clone, PartialEq)]
struct Key(Vec<Value>);

impl Eq for Key {}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Key {
    fn cmp(&self, other: &Self) -> Ordering {
        let mut parts = self.0.iter().zip(&other.0).map(|(a, b)| match (a, b) {
            (Value::Integer(a), Value::Integer(b)) => a.cmp(b),
            (Value::Real(a), Value::Real(b)) => a.total_cmp(b),
            (Value::Text(a), Value::Text(b)) => a.cmp(b),
            (Value::Blob(a), Value::Blob(b)) => a.cmp(b),
            // Columns are typed: two keys of one table never get here.
            _ => Ordering::Equal,
        });
        parts.find(|order| order.is_ne()).unwrap_or_else(|| self.0.len().cmp(&other.0.len()))
    }
}

impl Key {
    fn of(table: &Table, values: &[Value]) -> Key {
        Key(table.key_of(values).cloned().collect())
    }
}

impl MemoryStore {
    pub fn new(catalog: Arc<Catalog>, heartbeat_limit: std::time::Duration) -> MemoryStore {
        let tables = vec![MemoryTable::default(); catalog.tables.len()];
        MemoryStore {
            catalog,
            heartbeat_limit_ms: heartbeat_limit.as_millis() as i64,
            replica: Arc::new(Mutex::new(Replica { tables, ..Replica::default() })),
        }
    }

    pub fn reader(&self) -> MemoryReader {
        MemoryReader(self.clone())
    }

    /// Something goes wrong with the next batch that has nothing planned for it yet.
    pub fn plan(&self, fault: Fault) {
        self.replica().faults.push_back(fault);
    }

    /// Every visible row of a table, in key order.
    pub fn rows(&self, table: usize) -> Vec<Vec<Value>> {
        let shape = &self.catalog.tables[table];
        let replica = self.replica();
        let states = replica.tables[table].rows.values().map(|row| &row.state);
        states.filter(|state| state.is_visible(shape)).map(|state| shown(&state.values)).collect()
    }

    /// Everything known about a key, readers' view or not.
    pub fn state_of(&self, table: usize, key: &[Value]) -> Option<RowState> {
        self.replica().tables[table].rows.get(&Key(key.to_vec())).map(|row| row.state.clone())
    }

    /// Kept dead letters in the order of their coordinates.
    pub fn dead_letters(&self) -> Vec<DeadLetter> {
        self.replica().dead_letters.values().cloned().collect()
    }

    fn replica(&self) -> MutexGuard<'_, Replica> {
        self.replica.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What readers see of a row: an unknown column is null.
fn shown(values: &[Value]) -> Vec<Value> {
    values.iter().map(|value| if value.is_absent() { Value::Null } else { value.clone() }).collect()
}

impl Store for MemoryStore {
    fn generation(&self) -> u32 {
        1
    }

    fn version_kinds(&mut self) -> Result<Vec<Option<VersionKind>>, StoreError> {
        let replica = self.replica();
        let first = |table: &MemoryTable| table.rows.values().find_map(|row| row.state.newest());
        Ok(replica.tables.iter().map(|table| first(table).map(|version| version.kind())).collect())
    }

    fn checkpoint(&mut self) -> Result<Checkpoint, StoreError> {
        let replica = self.replica();
        let mut dead_letters: Vec<Kept> = replica.dead_letters.values().map(DeadLetter::kept).collect();
        dead_letters.sort();
        Ok(Checkpoint { dead_letters, ..replica.checkpoint.clone() })
    }

    fn apply(&mut self, batch: &Batch) -> Result<Applied, StoreError> {
        let mut replica = self.replica();
        let fault = replica.faults.pop_front();
        if let Some(Fault::Refuse(reason)) = fault {
            return Err(StoreError::Retry { reason, message: "refused as planned".into() });
        }
        let mut next = replica.clone();
        let applied = next.apply(&self.catalog, batch)?;
        *replica = next;
        if fault == Some(Fault::LoseReply) {
            return Err(StoreError::Retry {
                reason: RetryReason::Io,
                message: "reply lost as planned".into(),
            });
        }
        Ok(applied)
    }

    fn complete(&mut self) -> Result<Completion, StoreError> {
        self.replica().checkpoint.complete = true;
        Ok(Completion::Done)
    }

    fn maintain(&mut self, now_ms: i64) -> Result<Maintenance, StoreError> {
        let mut replica = self.replica();
        let mut dropped = 0;
        for (index, shape) in self.catalog.tables.iter().enumerate() {
            let fresh = replica.log().fresh_as_of(&shape.topics);
            let letters =
                replica.dead_letters.values().filter(|letter| shape.topics.contains(&letter.at.topic));
            let times = letters.map(|letter| rules::letter_ms(letter.first_seen_ms, letter.origin.order_ms));
            let oldest = times.min();
            let Some(before_ms) = rules::marks_before_ms(shape, fresh, oldest, now_ms) else { continue };
            let MemoryTable { rows, cleared, .. } = &mut replica.tables[index];
            let all = rows.len() + cleared.len();
            rows.retain(|_, row| row.state.version.is_some() || row.at_ms >= before_ms);
            cleared.retain(|_, (_, at_ms)| *at_ms >= before_ms);
            dropped += (all - rows.len() - cleared.len()) as u64;
        }
        Ok(Maintenance { delete_marks_dropped: dropped, ..Maintenance::default() })
    }

    fn batch_limits(&self) -> BatchLimits {
        BatchLimits::default()
    }

    fn shelves(&self) -> Shelves {
        Shelves::default()
    }

    fn figures(&mut self) -> Figures {
        let replica = self.replica();
        let count = |index: usize, wanted: &dyn Fn(&Table, &RowState) -> bool| {
            let shape = &self.catalog.tables[index];
            replica.tables[index].rows.values().filter(|row| wanted(shape, &row.state)).count() as u64
        };
        let each = |wanted: &dyn Fn(&Table, &RowState) -> bool| -> Vec<u64> {
            (0..self.catalog.tables.len()).map(|index| count(index, wanted)).collect()
        };
        let mut dead_letters = vec![0; self.catalog.topics.len()];
        for (at, _, _) in replica.dead_letters.keys() {
            dead_letters[at.topic] += 1;
        }
        Figures {
            rows: each(&|shape, state| state.is_visible(shape)),
            held: each(&|shape, state| state.version.is_some() && !state.is_visible(shape)),
            delete_marks: each(&|_, state| state.version.is_none())
                .into_iter()
                .zip(&replica.tables)
                .map(|(marks, table)| marks + table.cleared.len() as u64)
                .collect(),
            dead_letters,
            replica_bytes: None,
            wal_bytes: None,
        }
    }
}

impl Replica {
    fn apply(&mut self, catalog: &Catalog, batch: &Batch) -> Result<Applied, StoreError> {
        let stored = |at: &TopicPartition| self.checkpoint.positions.get(at);
        if batch.id != 0
            && batch.id == self.last_batch
            && batch.advances.iter().all(|(at, advance)| stored(at) == Some(&advance.to))
        {
            let kept = self.dead_letters.len() as u64;
            return Ok(Applied { dead_letters_kept: kept, ..Applied::default() });
        }
        for (at, advance) in &batch.advances {
            let found = stored(at).map(|position| position.next_offset);
            if found != advance.from {
                return Err(rules::another_writer(
                    &catalog.topics[at.topic],
                    at.partition,
                    found,
                    advance.from,
                ));
            }
        }
        if let Some(after) = &batch.after_gap {
            self.go_on(after);
        }
        self.identify(catalog, &batch.observed)?;
        let mut applied = Applied::default();
        for (index, entry) in batch.entries.iter().enumerate() {
            if let Step::Shelved { set } = entry.step {
                self.unshelve(catalog, batch, set)?;
                continue;
            }
            let shape = &catalog.tables[entry.table];
            if let Step::Sweep(sweep) = entry.step {
                match self.sweep(shape, entry.table, sweep) {
                    Some(swept) => applied.swept.push(swept),
                    None => applied.stale.push(index),
                }
                continue;
            }
            match self.step(shape, entry, batch.observed.heartbeat_ms) {
                Outcome::Changed => {}
                Outcome::Stale => applied.stale.push(index),
                Outcome::Ignored => applied.missing_row.push(index),
                Outcome::Rejected(letter) => applied.dead_letters.push(*letter),
            }
        }
        self.move_dead_letters(batch, &mut applied);
        applied.dead_letters_kept = self.dead_letters.len() as u64;
        for (at, advance) in &batch.advances {
            self.checkpoint.positions.insert(*at, advance.to.clone());
        }
        for (topic, news) in &batch.event_ids {
            news.join(self.checkpoint.event_ids.entry(*topic).or_default());
        }
        self.observe(&batch.observed);
        self.last_batch = batch.id;
        Ok(applied)
    }

    fn move_dead_letters(&mut self, batch: &Batch, applied: &mut Applied) {
        for produced in &batch.produced {
            let id = produced.id;
            if let Some(letter) = self.dead_letters.get_mut(&(id.at, id.offset, id.table)) {
                letter.produced_ms = Some(produced.at_ms);
            }
        }
        for id in &batch.dropped {
            if let Some(letter) = self.dead_letters.remove(&(id.at, id.offset, id.table)) {
                applied.letters.removed.push(letter.kept());
                applied.letters.dropped += 1;
            }
        }
        for (nth, retried) in batch.retried.iter().enumerate() {
            let of = |letter: &DeadLetter| (letter.at, letter.offset) == (retried.at, retried.offset);
            let found = split_off(&mut applied.dead_letters, of);
            let there: Vec<DeadLetter> =
                self.dead_letters.values().filter(|letter| of(letter)).cloned().collect();
            self.dead_letters.retain(|_, letter| !of(letter));
            let refused = retried.refused.as_ref();
            for letter in after_retry(there, refused, found, &mut applied.letters, nth) {
                self.keep(&letter);
            }
        }
        for letter in batch.dead_letters.iter().chain(&applied.dead_letters) {
            let gives_way = |known: &DeadLetter| {
                (known.at, known.offset) == (letter.at, letter.offset)
                    && rules::takes_place_of(letter, known.rejection.table, known.origin)
            };
            let gone = self.dead_letters.extract_if(.., |_, known| gives_way(known));
            applied.letters.removed.extend(gone.map(|(_, known)| known.kept()));
            self.keep(letter);
        }
    }

    fn keep(&mut self, letter: &DeadLetter) {
        let id = (letter.at, letter.offset, letter.rejection.table);
        self.dead_letters.entry(id).or_insert_with(|| letter.clone());
    }

    fn identify(&mut self, catalog: &Catalog, observed: &Observed) -> Result<(), StoreError> {
        if let Some(seen) = &observed.cluster_id {
            let stored = self.checkpoint.cluster_id.get_or_insert_with(|| seen.clone());
            if stored != seen {
                return Err(rules::another_cluster(stored, seen));
            }
        }
        for (topic, seen) in &observed.topic_ids {
            let stored = self.checkpoint.topic_ids.entry(*topic).or_insert_with(|| seen.clone());
            if stored != seen {
                return Err(rules::another_topic(&catalog.topics[*topic], stored, seen));
            }
        }
        Ok(())
    }

    fn go_on(&mut self, after: &AfterGap) {
        for at in &after.gone {
            self.checkpoint.positions.remove(at);
            self.checkpoint.fresh_as_of_ms.remove(at);
            self.end_offsets.remove(at);
        }
        self.checkpoint.topic_ids.extend(after.topic_ids.iter().map(|(topic, id)| (*topic, id.clone())));
        self.checkpoint.event_ids.retain(|topic, _| !after.forgotten_ids.contains(topic));
        self.checkpoint.missing_events.extend(&after.missing_events);
    }

    fn observe(&mut self, observed: &Observed) {
        self.checkpoint.heartbeat_ms = Some(observed.heartbeat_ms);
        self.connected = observed.connected;
        self.checkpoint.fresh_as_of_ms.retain(|at, _| !observed.freshness_lost.contains(at));
        self.checkpoint.fresh_as_of_ms.extend(&observed.fresh_as_of_ms);
        self.end_offsets.extend(&observed.end_offsets);
        match observed.stopped.as_deref() {
            None => {}
            Some("") => self.stopped = None,
            Some(reason) => self.stopped = Some(reason.into()),
        }
    }

    fn step(&mut self, shape: &Table, entry: &Entry, now_ms: i64) -> Outcome {
        let table = &mut self.tables[entry.table];
        match &entry.step {
            Step::Cut { prefix, version } => {
                if Some(*version) <= table.mark(prefix) {
                    return Outcome::Stale;
                }
                // What they say follows from the new one.
                table.cleared.retain(|key, (mark, _)| !key.0.starts_with(prefix) || *mark > *version);
                match prefix.is_empty() {
                    true => table.truncated = Some(*version),
                    false => drop(table.cleared.insert(Key(prefix.clone()), (*version, now_ms))),
                }
                table.rows.retain(|key, row| {
                    if key.0.starts_with(prefix) {
                        row.state.truncate(shape, *version);
                    }
                    !row.state.is_unknown()
                });
                Outcome::Changed
            }
            Step::Row(incoming) => {
                let incoming = table.cut(shape, incoming);
                let mut state = table.state(shape, &incoming.values);
                if !state.absorb(shape, incoming) {
                    return Outcome::Stale;
                }
                table.put(shape, state, now_ms);
                Outcome::Changed
            }
            Step::PatchIfPresent { patch, if_missing } => {
                let incoming = table.cut(shape, patch);
                let mut state = table.state(shape, &incoming.values);
                let visible = state.is_visible(shape);
                // Stale comes first: a replay must not become a dead letter.
                if !state.absorb(shape, incoming) {
                    return Outcome::Stale;
                }
                if visible {
                    table.put(shape, state, now_ms);
                    return Outcome::Changed;
                }
                match (if_missing, patch.version) {
                    (IfMissing::DeadLetter, Some(version)) => {
                        Outcome::Rejected(Box::new(rules::missing_row(entry.table, shape, version, now_ms)))
                    }
                    _ => Outcome::Ignored,
                }
            }
            Step::Carry(carry) => {
                let from = table.state(shape, &carry.from);
                let Some(incoming) = from.carried(shape, carry) else { return Outcome::Stale };
                let incoming = table.cut(shape, &incoming);
                let mut state = table.state(shape, &carry.to);
                if !state.absorb(shape, incoming) {
                    return Outcome::Stale;
                }
                table.put(shape, state, now_ms);
                Outcome::Changed
            }
            Step::Snapshot(heard) => {
                let known = self.checkpoint.snapshots.get(&entry.table).copied();
                let Some(snapshot) = Snapshot::after(known, *heard) else { return Outcome::Stale };
                self.checkpoint.snapshots.insert(entry.table, snapshot);
                Outcome::Changed
            }
            Step::Sweep(_) | Step::Shelved { .. } => Outcome::Stale,
            Step::Tombstone { values, at } => {
                let mut state = table.state(shape, values);
                if !state.bury(shape, *at) {
                    return Outcome::Stale;
                }
                table.put(shape, state, now_ms);
                Outcome::Changed
            }
        }
    }
}

impl Replica {
    fn unshelve(&mut self, catalog: &Catalog, batch: &Batch, set: u32) -> Result<(), StoreError> {
        let mut rows = rules::set_of(batch, set)?;
        let mut bytes = Vec::new();
        while let Some(row) = rows.next(&mut bytes).map_err(rules::not_on_the_shelf)? {
            let (values, version) =
                row.packed().unpack().ok_or_else(|| rules::not_on_the_shelf("one is no row"))?;
            let entry = Entry::silent(row.table, 0, Step::Row(RowState::written(values, version)));
            self.step(&catalog.tables[row.table], &entry, batch.observed.heartbeat_ms);
        }
        Ok(())
    }

    fn sweep(&mut self, shape: &Table, index: usize, sweep: Sweep) -> Option<Swept> {
        let begin = sweep.begin;
        let snapshot = self.checkpoint.snapshots.get_mut(&index)?;
        if *snapshot != (Snapshot { begin, phase: Phase::Listed }) {
            return None;
        }
        let rows = &mut self.tables[index].rows;
        let shown = || rows.values().filter(|row| row.state.is_visible(shape));
        let all = shown().count() as i64;
        let ghosts = shown().filter(|row| row.state.version < Some(begin)).count() as i64;
        snapshot.phase = rules::after_sweep(sweep, LossLimit::default(), ghosts, all);
        if snapshot.phase == Phase::Swept {
            rows.retain(|_, row| row.state.version.is_none_or(|version| version >= begin));
        }
        Some(Swept { table: index, rows: ghosts as u64, snapshot: *snapshot })
    }
}

enum Outcome {
    Changed,
    Stale,
    Ignored,
    Rejected(Box<DeadLetter>),
}

impl MemoryTable {
    fn state(&self, shape: &Table, values: &[Value]) -> RowState {
        match self.rows.get(&Key::of(shape, values)) {
            Some(row) => row.state.clone(),
            None => rules::nothing_known(shape, values),
        }
    }

    /// What has been taken from rows with the prefix, by it, a shorter one, or with the whole table.
    fn mark(&self, prefix: &[Value]) -> Option<Version> {
        let longest = prefix.len();
        let marks = (1..=longest).map(|count| self.cleared.get(&Key(prefix[..count].to_vec())));
        self.truncated.max(marks.flatten().map(|(version, _)| *version).max())
    }

    /// Without what was taken before it came.
    fn cut(&self, shape: &Table, incoming: &RowState) -> RowState {
        let mut row = incoming.clone();
        if let Some(mark) = self.mark(&Key::of(shape, &incoming.values).0) {
            row.truncate(shape, mark);
        }
        row
    }

    fn put(&mut self, shape: &Table, state: RowState, at_ms: i64) {
        self.rows.insert(Key::of(shape, &state.values), MemoryRow { state, at_ms });
    }
}

impl Replica {
    fn log(&self) -> rules::Log<'_> {
        rules::Log {
            positions: &self.checkpoint.positions,
            fresh_as_of_ms: &self.checkpoint.fresh_as_of_ms,
            end_offsets: &self.end_offsets,
        }
    }
}

/// Reads a [`MemoryStore`] while it works.
#[derive(Debug, Clone)]
pub struct MemoryReader(MemoryStore);

impl Reader for MemoryReader {
    fn status(&self, now_ms: i64) -> Result<Status, StoreError> {
        let catalog = &self.0.catalog;
        let replica = self.0.replica();
        let complete = replica.checkpoint.complete;
        let mut tables = Vec::with_capacity(catalog.tables.len());
        for (index, shape) in catalog.tables.iter().enumerate() {
            let fresh_as_of_ms = replica.log().fresh_as_of(&shape.topics);
            let facts = Facts {
                stopped: replica.stopped.is_some(),
                complete,
                connected: replica.connected,
                heartbeat_ms: replica.checkpoint.heartbeat_ms,
                heartbeat_limit_ms: self.0.heartbeat_limit_ms,
                fresh_as_of_ms,
                max_staleness_ms: shape.max_staleness_ms,
                missing_events: replica.checkpoint.missing_events.contains(&index),
                rebuilding: false,
            };
            let fresh_as_of_ms = believable(fresh_as_of_ms, now_ms, self.0.heartbeat_limit_ms);
            let rows = replica.tables[index].rows.values();
            let letters = replica.dead_letters.keys();
            tables.push(TableStatus {
                table_name: shape.name.clone(),
                state: state(&facts, now_ms),
                complete,
                rebuilding: false,
                missing_events: facts.missing_events,
                fresh_as_of: fresh_as_of_ms.and_then(rules::rfc3339),
                fresh_as_of_ms,
                lag_records: replica.log().lag_records(&shape.topics),
                max_staleness_ms: shape.max_staleness_ms,
                rows: rows.filter(|row| row.state.is_visible(shape)).count() as u64,
                dead_letters: letters
                    .filter(|(at, _, table)| match table {
                        Some(table) => *table == index,
                        None => shape.topics.contains(&at.topic),
                    })
                    .count() as u64,
                generation: 1,
            });
        }
        let topics: Vec<usize> = (0..catalog.topics.len()).collect();
        let fresh_as_of_ms =
            believable(replica.log().fresh_as_of(&topics), now_ms, self.0.heartbeat_limit_ms);
        let positions = replica.checkpoint.positions.iter().map(|(at, position)| PositionStatus {
            generation: 1,
            topic: catalog.topics[at.topic].clone(),
            partition: at.partition,
            next_offset: position.next_offset,
            end_offset: replica.end_offsets.get(at).copied(),
            leader_epoch: position.leader_epoch,
            topic_id: replica.checkpoint.topic_ids.get(&at.topic).cloned(),
            cluster_id: replica.checkpoint.cluster_id.clone(),
            fresh_as_of_ms: replica.checkpoint.fresh_as_of_ms.get(at).copied(),
        });
        Ok(Status {
            replica: "memory".into(),
            state: tables.iter().map(|table| table.state).min().unwrap_or(State::Building),
            complete,
            fresh_as_of: fresh_as_of_ms.and_then(rules::rfc3339),
            fresh_as_of_ms,
            lag_records: replica.log().lag_records(&topics),
            dead_letters: replica.dead_letters.len() as u64,
            stopped: replica.stopped.clone(),
            cluster_id: replica.checkpoint.cluster_id.clone(),
            positions: positions.collect(),
            tables,
        })
    }

    fn row(&self, table: usize, key: &[Value]) -> Result<RowLookup, StoreError> {
        let Some(row) = self.0.state_of(table, key) else { return Ok(RowLookup::Missing) };
        if let Some(version) = row.version
            && row.is_visible(&self.0.catalog.tables[table])
        {
            return Ok(RowLookup::Visible { values: shown(&row.values), version });
        }
        Ok(row.deleted.map_or(RowLookup::Missing, |version| RowLookup::Deleted { version }))
    }

    fn state_of(&self, table: usize, key: &[Value]) -> Result<Option<RowState>, StoreError> {
        Ok(self.0.state_of(table, key))
    }

    fn is_dead_letter(&self, at: TopicPartition, offset: i64) -> Result<bool, StoreError> {
        Ok(self.0.replica().dead_letters.keys().any(|(of, kept, _)| (*of, *kept) == (at, offset)))
    }

    fn dead_letters(&self, query: &LetterQuery) -> Result<LetterPage, StoreError> {
        let catalog = &self.0.catalog;
        let replica = self.0.replica();
        let shown = |letter: &DeadLetter| Letter {
            topic: catalog.topics[letter.at.topic].clone(),
            partition: letter.at.partition,
            offset: letter.offset,
            table: letter.rejection.table.map(|index| catalog.tables[index].name.clone()),
            path: letter.rejection.path.clone(),
            reason: letter.rejection.reason.name().to_owned(),
            message: letter.rejection.message.clone(),
            first_seen: rules::rfc3339(letter.first_seen_ms),
            first_seen_ms: letter.first_seen_ms,
            produced: letter.produced_ms.and_then(rules::rfc3339),
            order_ms: letter.origin.order_ms,
            digest: letter.origin.digest,
            record: letter.record.clone().filter(|_| query.bytes),
        };
        let mut all: Vec<Letter> = replica.dead_letters.values().map(shown).collect();
        all.retain(|letter| {
            query.filter.takes(letter) && query.after.as_ref().is_none_or(|after| letter.cursor() > *after)
        });
        all.sort_by_key(Letter::cursor);
        let more = all.len() > query.limit();
        all.truncate(query.limit());
        Ok(LetterPage { letters: all, more })
    }
}
