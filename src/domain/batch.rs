//! A batch: changes in order, coalesced per key, with the positions they lead to.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{BuildHasher, BuildHasherDefault, Hasher, RandomState};
use std::time::Duration;

use super::catalog::{Catalog, Table};
use super::change::{Change, Effect, IfMissing, Operation};
use super::checkpoint::{Position, TopicPartition};
use super::dead_letter::{DeadLetter, LetterId, Produced, Retried};
use super::event_ids::NewEventIds;
use super::row::RowState;
use super::shelf::Shelf;
use super::shelving::{Shelves, Shelving};
use super::snapshot::Snapshot;
use super::value::Value;
use super::version::{Coordinates, Version};

/// What a store applies in one atomic step. Immutable once it is handed over, so that a retry
/// applies the same thing.
#[derive(Debug, Default)]
pub struct Batch {
    /// Tells a retry of a batch whose reply was lost from another writer's batch; 0: never a retry.
    pub id: u64,
    /// To be applied in this order.
    pub entries: Vec<Entry>,
    /// Rows that were put aside; `entries` say when which of them are applied.
    pub shelf: Option<Shelf>,
    /// Where each touched partition stood before and stands after this batch.
    pub advances: BTreeMap<TopicPartition, Advance>,
    pub dead_letters: Vec<DeadLetter>,
    /// Kept dead letters whose records are in this batch, at most one of each record.
    pub retried: Vec<Retried>,
    /// Kept dead letters that a person has given up.
    pub dropped: Vec<LetterId>,
    /// Kept dead letters that are in `dead_letters.topic` now.
    pub produced: Vec<Produced>,
    /// Ids to be remembered of the events in it, by topic index.
    pub event_ids: BTreeMap<usize, NewEventIds>,
    /// Set when this batch goes on behind a gap.
    pub after_gap: Option<Box<AfterGap>>,
    /// What the log looked like, to be stored with the rows.
    pub observed: Observed,
    /// Records that lead to this batch, skipped ones included.
    pub records: u64,
    /// Approximate memory, in bytes.
    pub bytes: usize,
    /// Record timestamps (topic index, ms) of applied changes, for event-to-visible; at most one a
    /// partition and poll, the oldest.
    pub timestamps: Vec<(usize, i64)>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    pub table: usize,
    pub step: Step,
    /// Topic index of the newest event in it.
    pub topic: usize,
    /// Events folded into this entry, by [`Effect`] (`Effect as usize`).
    pub events: [u32; Effect::ALL.len()],
}

impl Entry {
    pub fn new(table: usize, topic: usize, effect: Effect, step: Step) -> Entry {
        let mut events = [0; Effect::ALL.len()];
        events[effect as usize] = 1;
        Entry { table, step, topic, events }
    }

    /// That counts as no event: what follows from others.
    pub fn silent(table: usize, topic: usize, step: Step) -> Entry {
        Entry { table, step, topic, events: [0; Effect::ALL.len()] }
    }

    /// All events in it.
    pub fn event_count(&self) -> u64 {
        self.events.iter().map(|count| u64::from(*count)).sum()
    }
}

#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// Join this with the row of the same key.
    Row(RowState),
    /// A patch that is dropped or becomes a dead letter when its row is not visible.
    PatchIfPresent { patch: RowState, if_missing: IfMissing },
    /// [`RowState::bury`]; `values` has the key columns set.
    Tombstone { values: Vec<Value>, at: Coordinates },
    /// Remember the version as the mark of the prefix if it is higher; remove what is not newer among
    /// the rows whose key begins with it. An empty prefix is the whole table.
    Cut { prefix: Vec<Value>, version: Version },
    /// [`RowState::carried`].
    Carry(Carry),
    /// Remember a whole snapshot, or how far it has come, unless a later one is known.
    Snapshot(Snapshot),
    /// See [`Sweep`].
    Sweep(Sweep),
    /// The rows of a set of the batch's shelf, in any order.
    Shelved { set: u32 },
}

/// From one row to another, which both have their key columns set; see [`Operation::Carry`].
#[derive(Debug, Clone, PartialEq)]
pub struct Carry {
    pub from: Vec<Value>,
    pub to: Vec<Value>,
    pub version: Version,
    pub read_before_ms: i64,
}

/// All of the table's snapshot that begins there was read: forget every row that was last written before
/// it, without a mark, so that one that is still on its way comes back. Refuse that, and remember so, where
/// they are suspiciously many, or there are any and the snapshot is not whole. Nothing if another snapshot
/// is the newest, or the end of this one was not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sweep {
    pub begin: Version,
    /// Every record of it has led to what it lists.
    pub is_whole: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advance {
    /// The stored position must equal this, or the store refuses the batch: somebody else wrote.
    /// `None`: the partition must not be stored yet.
    pub from: Option<i64>,
    pub to: Position,
}

/// What going on behind a gap changes besides positions, which are advanced as ever, also backwards.
/// A store does this before anything else of the batch but the comparison of positions.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct AfterGap {
    /// Partitions that do not exist any more: all that is stored of them goes.
    pub gone: BTreeSet<TopicPartition>,
    /// Topic ids by topic index that replace the stored ones.
    pub topic_ids: BTreeMap<usize, String>,
    /// Topics, by index, whose remembered event ids go: their events come again, in another order.
    pub forgotten_ids: BTreeSet<usize>,
    /// Tables, by index, that lack events from now on, until another generation is built.
    pub missing_events: BTreeSet<usize>,
}

/// Freshness and identity that go into the replica with a batch. Empty maps leave what is stored.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Observed {
    /// Wall clock at which the batch was sealed, ms since 1970: the heartbeat.
    pub heartbeat_ms: i64,
    /// Whether the last round of observations reached the brokers.
    pub connected: bool,
    /// Fresh-as-of of partitions whose proof was reached, ms since 1970.
    pub fresh_as_of_ms: BTreeMap<TopicPartition, i64>,
    /// Partitions whose stored fresh-as-of is not known to be true any more; it becomes unknown,
    /// unless `fresh_as_of_ms` has a new one.
    pub freshness_lost: BTreeSet<TopicPartition>,
    /// High watermarks as last observed.
    pub end_offsets: BTreeMap<TopicPartition, i64>,
    /// Topic ids by topic index; stored when seen for the first time.
    pub topic_ids: BTreeMap<usize, String>,
    pub cluster_id: Option<String>,
    /// Set when a person is needed; stored so that readers see state `stopped`. The empty string
    /// clears it.
    pub stopped: Option<String>,
}

/// Collects changes into a [`Batch`].
#[derive(Debug)]
pub struct BatchBuilder {
    batch: Batch,
    /// Hash of (table, key) to the entry that a further change of the key may be folded into.
    open: HashMap<u64, usize, BuildHasherDefault<AsIs>>,
    /// Fast, and not proof against chosen keys: two that share a hash are merely not folded.
    keys: foldhash::quality::RandomState,
    /// For ids of batches.
    hasher: RandomState,
    /// Batches sealed so far.
    sealed: u64,
    shelving: Option<Shelving>,
}

impl Default for BatchBuilder {
    fn default() -> Self {
        BatchBuilder {
            batch: Batch::default(),
            open: HashMap::default(),
            keys: foldhash::quality::RandomState::default(),
            hasher: RandomState::new(),
            sealed: 0,
            shelving: None,
        }
    }
}

impl BatchBuilder {
    /// Adds a change; folds it into an earlier one of the same key where that keeps its meaning.
    pub fn push(&mut self, catalog: &Catalog, change: Change) {
        let table = &catalog.tables[change.table];
        let topic = change.topic;
        let effect = change.effect();
        if matches!(change.operation, Operation::Truncate | Operation::Clear(_)) {
            // Versions tell what it takes, wherever it stands: rows may be folded past it.
            let prefix = match change.operation {
                Operation::Truncate => Vec::new(),
                _ => table.prefix_of(&change.values),
            };
            let step = Step::Cut { prefix, version: change.version };
            self.append(Entry::new(change.table, topic, effect, step));
            return;
        }
        if let Operation::Snapshot(phase) = change.operation {
            let snapshot = Snapshot { begin: change.version, phase };
            self.append(Entry::silent(change.table, topic, Step::Snapshot(snapshot)));
            return;
        }
        let hash = self.hash_of(catalog, change.table, &change.values);
        if self.shelve(table, &change, hash) {
            return;
        }
        let incoming = match change.operation {
            Operation::Write { if_missing } => {
                let row = RowState::written(change.values, change.version);
                if if_missing.needs_row() && !row.is_full() {
                    // Depends on the row that is there: later changes must come behind it.
                    self.part(hash);
                    let step = Step::PatchIfPresent { patch: row, if_missing };
                    self.append(Entry::new(change.table, topic, effect, step));
                    return;
                }
                row
            }
            Operation::Delete => RowState::deleted(table, change.values, change.version),
            Operation::Tombstone => {
                self.part(hash);
                let step = Step::Tombstone { values: change.values, at: change.version.at() };
                self.append(Entry::new(change.table, topic, effect, step));
                return;
            }
            Operation::Carry { read_before_ms } => {
                // Depends on the one row, and later changes of both must come behind it.
                let from = self.hash_of(catalog, change.table, &change.from);
                self.part(hash);
                self.part(from);
                let Change { from, values: to, version, .. } = change;
                let step = Step::Carry(Carry { from, to, version, read_before_ms });
                self.append(Entry::silent(change.table, topic, step));
                return;
            }
            Operation::Truncate | Operation::Clear(_) | Operation::Snapshot(_) => return,
        };
        if let Some(&index) = self.open.get(&hash) {
            let entry = &mut self.batch.entries[index];
            // Two keys may share a hash: then the later change just gets an entry of its own.
            if let Step::Row(state) = &mut entry.step
                && entry.table == change.table
                && table.key_of(&state.values).eq(table.key_of(&incoming.values))
            {
                let before: usize = state.values.iter().map(Value::size).sum();
                state.absorb(table, incoming);
                entry.events[effect as usize] += 1;
                entry.topic = topic;
                let after: usize = state.values.iter().map(Value::size).sum();
                self.batch.bytes = (self.batch.bytes + after).saturating_sub(before);
                return;
            }
        }
        self.open.insert(hash, self.batch.entries.len());
        self.append(Entry::new(change.table, topic, effect, Step::Row(incoming)));
    }

    fn hash_of(&self, catalog: &Catalog, table: usize, values: &[Value]) -> u64 {
        self.keys.hash_one(KeyHash { table, catalog, values })
    }

    /// Later changes of the row come behind what is there of it.
    fn part(&mut self, hash: u64) {
        self.open.remove(&hash);
        self.end_set();
    }

    /// Rows that are put aside from now on come behind what is there.
    fn end_set(&mut self) {
        if let Some(shelving) = &mut self.shelving {
            shelving.end_set();
        }
    }

    /// Puts a whole row aside, if rows are put aside and this one is not under way otherwise. What else is
    /// known of its key is joined with it in the replica, in whichever order.
    fn shelve(&mut self, table: &Table, change: &Change, hash: u64) -> bool {
        if self.batch.shelf.is_some() {
            return false;
        }
        let Some(shelving) = self.shelving.as_mut().filter(|shelving| shelving.is_on()) else { return false };
        if !matches!(change.operation, Operation::Write { .. })
            || self.open.contains_key(&hash)
            || change.values.iter().any(Value::is_absent)
        {
            return false;
        }
        // What cannot be put aside stays in memory.
        let Some(begun) = shelving.put(table, change, hash) else { return false };
        if let Some(set) = begun {
            self.batch.entries.push(Entry::silent(change.table, change.topic, Step::Shelved { set }));
        }
        true
    }

    /// Whole rows can be put aside, and are where nobody has to wait for them.
    pub fn take_shelves(&mut self, shelves: Shelves) {
        self.shelving = Shelving::new(shelves);
    }

    /// A shelf that was written can be used again.
    pub fn give_back(&mut self, shelf: Shelf) {
        if let Some(shelving) = &mut self.shelving {
            shelving.give_back(shelf);
        }
    }

    /// Readers see the copy from now on. What is aside already stays there until the batch is sealed.
    pub fn go_live(&mut self) {
        if let Some(shelf) = self.shelving.as_mut().and_then(Shelving::go_live) {
            self.batch.shelf = Some(shelf);
        }
    }

    /// How many partitions there are, and whether much of them was not read. To be said between batches.
    pub fn note_log(&mut self, partitions: usize, is_far_behind: bool) {
        if let Some(shelving) = &mut self.shelving {
            shelving.note_log(partitions, is_far_behind);
        }
    }

    /// Whether readers see the copy, and rows are put aside because it is far behind.
    pub fn is_catching_up(&self) -> bool {
        self.shelving.as_ref().is_some_and(Shelving::is_catching_up)
    }

    /// How long the store took for a batch that was put aside, and whether it appends rows.
    pub fn learn(&mut self, took: Duration, appends: bool) {
        if let Some(shelving) = &mut self.shelving {
            shelving.learn(took, appends);
        }
    }

    /// Whether the batch should not be made longer.
    pub fn is_full(&self, records: u64, bytes: usize) -> bool {
        // It has its shelf, and there is none for what comes.
        if self.batch.shelf.is_some() {
            return true;
        }
        let of_batch = self.batch.records;
        let aside = self.shelving.as_ref().and_then(|shelving| shelving.is_full(of_batch));
        aside.unwrap_or(of_batch >= records) || self.batch.bytes >= bytes
    }

    /// Records that may come before it is full, if they are small.
    pub fn room(&self, records: u64) -> u64 {
        let aside = self.shelving.as_ref().and_then(Shelving::records_max);
        aside.unwrap_or(records).saturating_sub(self.batch.records)
    }

    /// Adds a change as an entry of its own, into which nothing is folded; returns its index.
    pub fn push_alone(&mut self, catalog: &Catalog, change: Change) -> usize {
        if change.values.len() == catalog.tables[change.table].columns.len() {
            // Later changes of the row must come behind it.
            let hash = self.hash_of(catalog, change.table, &change.values);
            self.part(hash);
        }
        if !change.from.is_empty() {
            let hash = self.hash_of(catalog, change.table, &change.from);
            self.part(hash);
        }
        let before = (std::mem::take(&mut self.open), self.shelving.take());
        self.push(catalog, change);
        (self.open, self.shelving) = before;
        self.batch.entries.len() - 1
    }

    /// Beside what records say: all of a snapshot was read.
    pub fn push_sweep(&mut self, table: usize, topic: usize, sweep: Sweep) {
        // An old row that comes behind it stays.
        self.open.clear();
        self.end_set();
        self.append(Entry::silent(table, topic, Step::Sweep(sweep)));
    }

    /// A kept dead letter whose changes, if any, were pushed.
    pub fn push_retried(&mut self, retried: Retried) {
        self.batch.retried.push(retried);
    }

    pub fn push_dropped(&mut self, dropped: LetterId) {
        self.batch.dropped.push(dropped);
    }

    pub fn push_produced(&mut self, produced: Produced) {
        self.batch.produced.push(produced);
    }

    fn append(&mut self, entry: Entry) {
        let values: &[Value] = match &entry.step {
            Step::Row(row) | Step::PatchIfPresent { patch: row, .. } => &row.values,
            Step::Tombstone { values, .. } => values,
            Step::Cut { prefix, .. } => prefix,
            Step::Carry(Carry { from, to, .. }) => {
                self.batch.bytes += to.iter().map(Value::size).sum::<usize>();
                from
            }
            Step::Snapshot(_) | Step::Sweep { .. } | Step::Shelved { .. } => &[],
        };
        self.batch.bytes += size_of::<Entry>() + values.iter().map(Value::size).sum::<usize>();
        self.batch.entries.push(entry);
    }

    pub fn push_dead_letter(&mut self, letter: DeadLetter) {
        self.batch.bytes += size_of::<DeadLetter>()
            + letter.rejection.message.len()
            + letter.record.as_ref().map_or(0, |record| record.size());
        self.batch.dead_letters.push(letter);
    }

    /// Moves a partition on. `from` is where it stood; kept from the first call of a batch.
    pub fn advance(&mut self, at: TopicPartition, from: Option<i64>, to: &Position) {
        match self.batch.advances.get_mut(&at) {
            Some(advance) => advance.to.clone_from(to),
            None => {
                self.batch.advances.insert(at, Advance { from, to: to.clone() });
            }
        }
    }

    /// Of the events that were pushed since the last batch; at most one a record.
    pub fn remember(&mut self, topic: usize, ids: NewEventIds) {
        self.batch.event_ids.insert(topic, ids);
    }

    pub fn count_record(&mut self) {
        self.batch.records += 1;
    }

    pub fn note_timestamp(&mut self, topic: usize, timestamp_ms: i64) {
        self.batch.timestamps.push((topic, timestamp_ms));
    }

    pub fn records(&self) -> u64 {
        self.batch.records
    }

    pub fn bytes(&self) -> usize {
        self.batch.bytes
    }

    /// Whether there is anything that moves the replica.
    pub fn is_empty(&self) -> bool {
        self.batch.advances.is_empty()
            && self.batch.entries.is_empty()
            && self.batch.dead_letters.is_empty()
            && self.batch.retried.is_empty()
            && self.batch.dropped.is_empty()
            && self.batch.produced.is_empty()
    }

    /// Drops what was collected and starts anew; gives back what that was, without what was put aside.
    pub fn discard(&mut self) -> Batch {
        let mut dropped = self.seal(Observed::default());
        if let Some(shelf) = dropped.shelf.take() {
            self.give_back(shelf);
        }
        dropped
    }

    /// Hands over what was collected and starts anew.
    pub fn seal(&mut self, observed: Observed) -> Batch {
        self.open.clear();
        let mut batch = std::mem::take(&mut self.batch);
        batch.observed = observed;
        if let Some(shelf) = self.shelving.as_mut().and_then(Shelving::seal) {
            batch.shelf = Some(shelf);
        }
        // The hasher's keys are random per process, so ids of two writers do not meet.
        self.sealed += 1;
        batch.id = self.hasher.hash_one(self.sealed).max(1);
        batch
    }
}

/// For keys that are hashes already.
#[derive(Debug, Default)]
struct AsIs(u64);

impl Hasher for AsIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }
}

/// Hashes the key of a row without copying it.
struct KeyHash<'a> {
    table: usize,
    catalog: &'a Catalog,
    values: &'a [Value],
}

impl std::hash::Hash for KeyHash<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_usize(self.table);
        for value in self.catalog.tables[self.table].key_of(self.values) {
            match value {
                Value::Absent | Value::Null => state.write_u8(0),
                Value::Integer(number) => state.write_i64(*number),
                Value::Real(number) => state.write_u64(number.to_bits()),
                Value::Text(text) => text.hash(state),
                Value::Blob(bytes) => bytes.hash(state),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::change::IfMissing;
    use crate::domain::shelf::{Scrap, Spill};
    use crate::domain::shelving::Stage;
    use crate::domain::tests::table;
    use crate::domain::version::VersionKind;

    fn catalog() -> Catalog {
        Catalog { topics: vec!["t".into()], tables: vec![table(1)], fingerprint: String::new() }
    }

    fn push(builder: &mut BatchBuilder, catalog: &Catalog, key: i64) {
        let at = Coordinates { topic: 0, partition: 0, offset: 1 };
        builder.push(
            catalog,
            Change {
                table: 0,
                topic: 0,
                operation: Operation::Write { if_missing: IfMissing::Hold },
                values: vec![Value::Integer(key), Value::Integer(2)],
                from: Vec::new(),
                version: Version::new(VersionKind::Integer, &[1], at).unwrap(),
            },
        );
    }

    /// A batch of one whole row.
    fn batch(builder: &mut BatchBuilder) -> Batch {
        push(builder, &catalog(), 1);
        builder.seal(Observed::default())
    }

    #[test]
    fn rows_are_put_aside_only_where_nobody_would_wait_for_them() {
        for (stage, is_far_behind, are_aside) in [
            (Stage::First, false, true),
            (Stage::First, true, true),
            (Stage::Beside, false, false),
            // The writer of the live copy waits for each batch.
            (Stage::Beside, true, false),
            (Stage::Live, false, false),
            (Stage::Live, true, true),
        ] {
            let shelves = vec![Shelf::new(Box::new(Scrap::default()))];
            let mut builder = BatchBuilder::default();
            builder.take_shelves(Shelves { shelves, stage, live_bytes_max: 0 });
            builder.note_log(1, is_far_behind);
            let sealed = batch(&mut builder);
            assert_eq!(sealed.shelf.is_some(), are_aside, "{stage:?}, far behind: {is_far_behind}");
            sealed.shelf.into_iter().for_each(|shelf| builder.give_back(shelf));
            builder.go_live();
            assert_eq!(batch(&mut builder).shelf.is_some(), is_far_behind, "{stage:?}, then live");
        }
    }

    /// What was put aside before was forgotten for what was put aside behind it.
    #[test]
    fn a_batch_in_which_the_copy_becomes_live_keeps_what_was_put_aside() {
        let shelves = (0..2).map(|_| Shelf::new(Box::new(Scrap::default()))).collect();
        let (mut builder, catalog) = (BatchBuilder::default(), catalog());
        builder.take_shelves(Shelves { shelves, stage: Stage::First, live_bytes_max: 0 });
        builder.note_log(1, true);
        push(&mut builder, &catalog, 1);
        builder.go_live();
        assert!(builder.is_full(100, usize::MAX));
        push(&mut builder, &catalog, 2);
        let sealed = builder.seal(Observed::default());
        let mut found = Vec::new();
        for entry in &sealed.entries {
            match &entry.step {
                Step::Shelved { set } => {
                    let (mut merge, mut bytes) =
                        (sealed.shelf.as_ref().unwrap().set(*set).unwrap(), Vec::new());
                    while let Some(row) = merge.next(&mut bytes).unwrap() {
                        found.push(row.packed().unpack().unwrap().0);
                    }
                }
                Step::Row(row) => found.push(row.values.clone()),
                _ => panic!("{entry:?}"),
            }
        }
        assert_eq!(found, [1, 2].map(|key| vec![Value::Integer(key), Value::Integer(2)]));
        assert!(!builder.is_full(100, usize::MAX));
    }

    /// Where rows are put aside was forgotten with them.
    #[test]
    fn of_what_is_dropped_nothing_stays_aside_and_the_shelf_is_used_again() {
        let shelves = vec![Shelf::new(Box::new(Scrap::default()))];
        let (mut builder, catalog) = (BatchBuilder::default(), catalog());
        builder.take_shelves(Shelves { shelves, stage: Stage::First, live_bytes_max: 0 });
        builder.note_log(1, true);
        push(&mut builder, &catalog, 1);
        builder.discard();
        push(&mut builder, &catalog, 2);
        let sealed = builder.seal(Observed::default());
        let (mut merge, mut bytes) = (sealed.shelf.as_ref().unwrap().set(0).unwrap(), Vec::new());
        let first = merge.next(&mut bytes).unwrap().map(|row| row.packed().unpack().unwrap().0);
        assert_eq!(first, Some(vec![Value::Integer(2), Value::Integer(2)]));
        assert!(merge.next(&mut bytes).unwrap().is_none() && sealed.entries.len() == 1);
    }

    /// Rows stay in memory when there is nothing left to put them on; no batch could be made otherwise.
    #[test]
    fn without_a_shelf_that_can_be_used_again_batches_are_made_in_memory() {
        let shelves = (0..2).map(|_| Shelf::new(Box::new(Uncleared(Scrap::default())))).collect();
        let mut builder = BatchBuilder::default();
        builder.take_shelves(Shelves { shelves, stage: Stage::First, live_bytes_max: 0 });
        builder.note_log(1, true);
        let sealed: Vec<Batch> = (0..2).map(|_| batch(&mut builder)).collect();
        assert!(builder.is_full(100, usize::MAX), "both are being written");
        sealed.into_iter().for_each(|batch| builder.give_back(batch.shelf.unwrap()));
        assert!(!builder.is_full(100, usize::MAX) && builder.room(100) == 100);
        let sealed = batch(&mut builder);
        assert!(sealed.shelf.is_none() && sealed.entries.len() == 1);
    }

    /// It cannot be emptied.
    #[derive(Debug)]
    struct Uncleared(Scrap);

    impl Spill for Uncleared {
        fn append(&mut self, bytes: &[u8]) -> std::io::Result<()> {
            self.0.append(bytes)
        }

        fn read(&self, at: u64, into: &mut [u8]) -> std::io::Result<()> {
            self.0.read(at, into)
        }

        fn clear(&mut self) -> std::io::Result<()> {
            Err(std::io::ErrorKind::StorageFull.into())
        }
    }

    /// Of a first copy whose integer keys come in this order, from so many partitions: the largest of the
    /// first batches.
    fn rows_of_a_batch(partitions: usize, batches: usize, key: fn(i64) -> i64) -> i64 {
        let shelves = vec![Shelf::new(Box::new(Scrap::default()))];
        let mut builder = BatchBuilder::default();
        builder.take_shelves(Shelves { shelves, stage: Stage::First, live_bytes_max: 0 });
        builder.note_log(partitions, true);
        let (catalog, mut nth, mut most) = (catalog(), 0, 0);
        for _ in 0..batches {
            let before = nth;
            while !builder.is_full(1, usize::MAX) && nth < 200_000 {
                push(&mut builder, &catalog, key(nth));
                nth += 1;
            }
            most = most.max(nth - before);
            builder.seal(Observed::default()).shelf.into_iter().for_each(|shelf| builder.give_back(shelf));
        }
        most
    }

    #[test]
    fn a_batch_of_a_first_copy_is_as_large_as_its_keys_need_it() {
        let in_order = rows_of_a_batch(4, 2, |nth| nth);
        assert!((3_000..10_000).contains(&in_order), "{in_order}");
        let of_many = rows_of_a_batch(16, 1, |nth| nth);
        assert!(of_many > 10 * in_order, "{of_many}");
        let in_no_order = rows_of_a_batch(4, 1, |nth| {
            let mixed = nth.wrapping_mul(0x1E37_79B9_7F4A_7C15);
            (mixed ^ mixed >> 29).wrapping_mul(0x3F58_476D_1CE4_E5B9)
        });
        assert!(in_no_order > 10 * in_order, "{in_no_order}");
        // Enough keys for their sample to be no matter of luck: how they are hashed is random.
        let again = rows_of_a_batch(4, 12, |nth| nth % 20_000);
        assert!(again > 10 * in_order, "{again}");
    }
}
