//! What is made of a batch before its turn, on the thread that hands it over: the keys it speaks of, and
//! its rows as they are sent.
//!
//! The writer's thread wakes Redis and is woken by it, so that both share a processor and only one of
//! them is at work at a time (docs/PERFORMANCE.md). What the writer need not do makes Redis faster.

use std::collections::hash_map::Entry as Slot;
use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::codec::Form;
use super::names::{TableNames, key_text};
use super::plan::Cuts;
use super::step::tell_row;
use super::words::Wire;
use crate::domain::batch::{Batch, Carry, Entry, Step as Change};
use crate::domain::catalog::Catalog;
use crate::domain::row::RowState;
use crate::domain::value::Value;
use crate::domain::version::Version;
use crate::store::Preparer;

/// Batches that are ready at most; of more, the oldest are not going to be asked for.
const BATCHES_MAX: usize = 3;

/// What is ready, between the two threads. Everything that a row is told with stays as it is while a
/// generation is open.
pub(super) struct Ahead {
    catalog: Arc<Catalog>,
    form: Form,
    tables: Vec<TableNames>,
    batches: Mutex<VecDeque<Ready>>,
}

struct Ready {
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
    /// What is told of rows.
    pub bytes: Vec<u8>,
}

/// A key, and what is said of it.
pub(super) struct Named {
    pub table: usize,
    /// Its text.
    pub key: Vec<u8>,
    /// The first entry that speaks of it, and as which of its rows; none where a prefix may take it away.
    pub first: Option<(usize, usize)>,
    /// The other entries.
    pub later: Vec<usize>,
    /// Where in [`Spoken::bytes`] it is told; empty if it is not.
    pub words: Range<usize>,
}

impl Ahead {
    pub fn new(catalog: Arc<Catalog>, form: Form, tables: Vec<TableNames>) -> Ahead {
        Ahead { catalog, form, tables, batches: Mutex::default() }
    }

    fn batches(&self) -> MutexGuard<'_, VecDeque<Ready>> {
        self.batches.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was made of a batch, once; and no longer what was made of those before it.
    pub fn take(&self, batch: &Batch) -> Option<Spoken> {
        let mut batches = self.batches();
        let place = batches.iter().position(|ready| ready.batch == batch.id)?;
        let ready = batches.drain(..=place).next_back()?;
        (ready.entries == batch.entries.len()).then_some(ready.spoken)
    }
}

impl Preparer for Ahead {
    fn prepare(&self, batch: &Batch) {
        let entries = batch.entries.len();
        if entries == 0 {
            return;
        }
        let mut spoken = Spoken::of(&self.catalog, batch, 0..entries, &Cuts::default());
        spoken.tell(self, batch);
        let mut batches = self.batches();
        batches.push_back(Ready { batch: batch.id, entries, spoken });
        if batches.len() > BATCHES_MAX {
            batches.pop_front();
        }
    }
}

impl Spoken {
    /// Of some entries, and of what their prefixes take away. Nothing is told yet.
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

    /// Tells the rows that the script may guard by itself.
    fn tell(&mut self, of: &Ahead, batch: &Batch) {
        let mut wire = Wire::with_capacity(self.keys.len() * 256);
        let mut scratch = Vec::with_capacity(64);
        for named in &mut self.keys {
            let Some((_, row, version)) = named.whole(&of.catalog, batch) else { continue };
            let names = (of.form, &of.catalog.tables[named.table], &of.tables[named.table]);
            let begin = wire.bytes.len();
            tell_row(&mut wire, &mut scratch, names, (&named.key, row, &version));
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

/// What is said of the same key comes under the first of them.
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
