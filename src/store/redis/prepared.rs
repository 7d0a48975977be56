//! A batch is prepared before its turn, by the thread that hands it over: the keys it speaks of are
//! found, and the rows that the script guards by itself are encoded as they are sent.
//!
//! The writer's thread wakes Redis and is woken by it, so that both share a processor and only one of
//! them is at work at a time (decision 22). What the writer need not do makes Redis faster.

use std::collections::hash_map::Entry as Slot;
use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::codec::Form;
use super::names::key_text;
use super::plan::Cuts;
use super::step::tell_row;
use super::words::Wire;
use crate::domain::batch::{Batch, Carry, Entry, Step as Change};
use crate::domain::catalog::Catalog;
use crate::domain::row::RowState;
use crate::domain::value::Value;
use crate::domain::version::Version;

/// Batches that are kept at most; of more, the oldest are not going to be asked for.
const BATCHES_MAX: usize = 3;
/// What a row takes, to begin with.
const ROW_BYTES: usize = 256;

/// Prepared batches, between the two threads.
///
/// What a row is encoded with stays as it is while a generation is open, also when it becomes the live
/// one: its names, too, begin with the number of the generation ([`super::names::Names::rows`]).
pub(super) struct Prepared {
    catalog: Arc<Catalog>,
    form: Form,
    /// By table, what comes before the text of a key.
    begins: Vec<Vec<u8>>,
    batches: Mutex<VecDeque<One>>,
}

struct One {
    batch: u64,
    entries: usize,
    spoken: Spoken,
}

/// What entries speak of.
pub(super) struct Spoken {
    /// In the order in which they are first spoken of.
    pub keys: Vec<Named>,
    /// Entries that speak of no row.
    pub others: Vec<usize>,
    /// Rows as they are sent.
    pub bytes: Vec<u8>,
}

/// A key, and what is said of it.
pub(super) struct Named {
    pub table: usize,
    /// Its text.
    pub key: Vec<u8>,
    /// The first entry that speaks of it, and as which of its rows; none where only a prefix takes it away.
    pub first: Option<(usize, usize)>,
    /// Entries that speak of it again.
    pub later: Vec<usize>,
    /// Where its row is in [`Spoken::bytes`]; empty if it is not.
    pub words: Range<usize>,
}

impl Prepared {
    pub fn new(catalog: Arc<Catalog>, form: Form, begins: Vec<Vec<u8>>) -> Prepared {
        Prepared { catalog, form, begins, batches: Mutex::default() }
    }

    fn batches(&self) -> MutexGuard<'_, VecDeque<One>> {
        self.batches.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// See [`crate::store::Preparer`].
    pub fn prepare(&self, batch: &Batch) {
        // What is not written in one go asks for nothing that was prepared.
        let is_in_parts = |entry: &Entry| {
            matches!(entry.step, Change::Cut { .. } | Change::Sweep(_) | Change::Shelved { .. })
        };
        if batch.id == 0 || batch.entries.is_empty() || batch.entries.iter().any(is_in_parts) {
            return;
        }
        let entries = batch.entries.len();
        let mut spoken = Spoken::of(&self.catalog, batch, 0..entries, &Cuts::default());
        spoken.encode(self, batch);
        let mut batches = self.batches();
        batches.push_back(One { batch: batch.id, entries, spoken });
        if batches.len() > BATCHES_MAX {
            batches.pop_front();
        }
    }

    /// What was prepared of a batch, once; what was of those before it goes.
    pub fn take(&self, batch: &Batch) -> Option<Spoken> {
        let mut batches = self.batches();
        let place = batches.iter().position(|one| one.batch == batch.id)?;
        let one = batches.drain(..=place).next_back()?;
        (one.entries == batch.entries.len()).then_some(one.spoken)
    }
}

impl Spoken {
    /// Of some entries, and of what their prefixes take away. No row is encoded yet.
    pub fn of(catalog: &Catalog, batch: &Batch, entries: impl Iterator<Item = usize>, cuts: &Cuts) -> Spoken {
        let mut others = Vec::new();
        let mut all: Vec<Named> = Vec::with_capacity(entries.size_hint().1.unwrap_or(0));
        let named = |table, key, first| Named { table, key, first, later: Vec::new(), words: 0..0 };
        for nth in entries {
            let entry = &batch.entries[nth];
            let (before, shape) = (all.len(), &catalog.tables[entry.table]);
            for (which, values) in rows_of(entry).enumerate() {
                all.push(named(entry.table, key_text(shape, values), Some((nth, which))));
            }
            if all.len() == before {
                others.push(nth);
            }
        }
        all.extend(cuts.rows.iter().map(|(table, key)| named(*table, key.clone(), None)));
        Spoken { keys: each_once(all), others, bytes: Vec::new() }
    }

    /// Encodes the rows that the script may guard by itself.
    fn encode(&mut self, of: &Prepared, batch: &Batch) {
        let room = self.keys.len() * ROW_BYTES;
        let (mut wire, mut scratch) = (Wire::with_capacity(0), Vec::with_capacity(64));
        for named in &mut self.keys {
            let Some((_, row, version)) = named.whole(&of.catalog, batch) else { continue };
            let begin = wire.bytes.len();
            if begin == 0 {
                wire.bytes.reserve(room);
            }
            let of = (of.form, &of.catalog.tables[named.table], &of.begins[named.table][..]);
            tell_row(&mut wire, &mut scratch, of, (&named.key, row, &version));
            if wire.made.is_err() {
                // It is tried again when its turn has come, and says then why it cannot be.
                break;
            }
            named.words = begin..wire.bytes.len();
        }
        self.bytes = wire.bytes;
    }
}

impl Named {
    /// Entry, row and version, if that is all there is to it and the script can guard it by itself.
    pub fn whole<'b>(&self, catalog: &Catalog, batch: &'b Batch) -> Option<(usize, &'b RowState, Version)> {
        let shape = &catalog.tables[self.table];
        let (nth, _) = self.first.filter(|_| self.later.is_empty())?;
        if !shape.indexes.is_empty() || !shape.prefixes.is_empty() {
            return None;
        }
        match &batch.entries[nth].step {
            Change::Row(row) if !row.needs_details() => Some((nth, row, row.version?)),
            _ => None,
        }
    }

    /// With the key columns set; `None` where only what is there matters.
    pub fn values<'b>(&self, batch: &'b Batch) -> Option<&'b [Value]> {
        let (nth, which) = self.first?;
        rows_of(&batch.entries[nth]).nth(which)
    }
}

/// Values with the key columns set, of each row that an entry depends on.
fn rows_of(entry: &Entry) -> impl Iterator<Item = &[Value]> {
    let (one, other): (Option<&[Value]>, Option<&[Value]>) = match &entry.step {
        Change::Row(row) | Change::PatchIfPresent { patch: row, .. } => (Some(&row.values), None),
        Change::Tombstone { values, .. } => (Some(values), None),
        Change::Carry(Carry { from, to, .. }) => (Some(from), Some(to)),
        Change::Cut { .. } | Change::Snapshot(_) | Change::Sweep(_) | Change::Shelved { .. } => (None, None),
    };
    one.into_iter().chain(other)
}

/// What is said of the same key comes under the first that says it.
fn each_once(mut all: Vec<Named>) -> Vec<Named> {
    let mut again: Vec<(usize, usize)> = Vec::new();
    let mut places: HashMap<(usize, &[u8]), usize> = HashMap::with_capacity(all.len());
    for (place, Named { table, key, .. }) in all.iter().enumerate() {
        match places.entry((*table, key)) {
            Slot::Occupied(first) => again.push((*first.get(), place)),
            Slot::Vacant(slot) => _ = slot.insert(place),
        }
    }
    if again.is_empty() {
        return all;
    }
    for &(first, place) in &again {
        let entry = all[place].first.map(|(entry, _)| entry);
        all[first].later.extend(entry);
    }
    let mut again = again.into_iter().map(|(_, place)| place).peekable();
    let mut place = 0;
    all.retain(|_| {
        place += 1;
        again.next_if_eq(&(place - 1)).is_none()
    });
    all
}
