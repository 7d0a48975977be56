//! What entries do to rows that were read, in order.

use std::collections::BTreeMap;

use super::cut::Marks;
use super::known::Known;
use super::ledger::TableLedger;
use super::names::{key_text, prefix_text};
use crate::domain::batch::{Entry, Step as Change};
use crate::domain::catalog::{Catalog, Table};
use crate::domain::change::IfMissing;
use crate::domain::row::RowState;
use crate::domain::snapshot::Snapshot;
use crate::domain::value::Value;
use crate::domain::version::Version;
use crate::store::Swept;

/// What became of an entry.
pub(super) enum Outcome {
    Changed,
    /// The replica had newer.
    Stale,
    /// A patch whose row is not there, and that may be forgotten.
    Ignored,
    /// A patch whose row is not there, and that may not.
    MissingRow(Version),
}

/// All that the entries of one step may look at.
pub(super) struct Joining<'j> {
    pub catalog: &'j Catalog,
    pub known: Vec<Known>,
    /// By table: texts of keys, and where they are in `known`.
    places: Vec<BTreeMap<Vec<u8>, usize>>,
    pub marks: Marks,
    /// By table index, as they will be.
    pub tables: Vec<TableLedger>,
}

impl<'j> Joining<'j> {
    pub fn new(catalog: &'j Catalog, known: Vec<Known>, marks: Marks, tables: Vec<TableLedger>) -> Self {
        let mut places = vec![BTreeMap::new(); catalog.tables.len()];
        for (place, known) in known.iter().enumerate() {
            places[known.table].insert(known.key.clone(), place);
        }
        Joining { catalog, known, places, marks, tables }
    }

    pub fn step(&mut self, entry: &Entry) -> Outcome {
        let table = entry.table;
        let shape = &self.catalog.tables[table];
        match &entry.step {
            Change::Row(row) => self.absorb(table, row),
            Change::PatchIfPresent { patch, if_missing } => self.patch(table, patch, *if_missing),
            Change::Tombstone { values, at } => match self.find(table, values) {
                Some(place) if self.known[place].state.bury(shape, *at) => Outcome::Changed,
                _ => Outcome::Stale,
            },
            Change::Carry(carry) => {
                let from = self.find(table, &carry.from);
                match from.and_then(|place| self.known[place].state.carried(shape, carry)) {
                    Some(carried) => self.absorb(table, &carried),
                    None => Outcome::Stale,
                }
            }
            Change::Cut { prefix, version } => self.cut_away(table, prefix, *version),
            Change::Snapshot(heard) => match Snapshot::after(self.tables[table].snapshot, *heard) {
                None => Outcome::Stale,
                snapshot => {
                    self.tables[table].snapshot = snapshot;
                    Outcome::Changed
                }
            },
            // What is done is done before this, and rows are not put aside.
            Change::Sweep(_) | Change::Shelved { .. } => Outcome::Stale,
        }
    }

    /// A sweep that was done before this.
    pub fn swept(&mut self, swept: &Swept) {
        self.tables[swept.table].snapshot = Some(swept.snapshot);
    }

    fn find(&self, table: usize, values: &[Value]) -> Option<usize> {
        self.places[table].get(&key_text(&self.catalog.tables[table], values)).copied()
    }

    fn shape(&self, table: usize) -> &'j Table {
        &self.catalog.tables[table]
    }

    /// Without what was taken away before it came.
    fn cut(&self, place: usize, row: &RowState) -> RowState {
        let Known { table, key, .. } = &self.known[place];
        let mut row = row.clone();
        if let Some(mark) = self.marks.of(self.shape(*table), *table, self.tables[*table].truncated, key) {
            row.truncate(self.shape(*table), mark);
        }
        row
    }

    fn absorb(&mut self, table: usize, row: &RowState) -> Outcome {
        let Some(place) = self.find(table, &row.values) else { return Outcome::Stale };
        let (shape, row) = (self.shape(table), self.cut(place, row));
        match self.known[place].state.absorb(shape, row) {
            true => Outcome::Changed,
            false => Outcome::Stale,
        }
    }

    fn patch(&mut self, table: usize, patch: &RowState, if_missing: IfMissing) -> Outcome {
        let shape = self.shape(table);
        let Some(place) = self.find(table, &patch.values) else { return Outcome::Stale };
        let visible = self.known[place].state.is_visible(shape);
        let mut state = self.known[place].state.clone();
        // Stale comes first: a replay must not become a dead letter.
        if !state.absorb(shape, self.cut(place, patch)) {
            return Outcome::Stale;
        }
        if visible {
            self.known[place].state = state;
            return Outcome::Changed;
        }
        match (if_missing, patch.version) {
            (IfMissing::DeadLetter, Some(version)) => Outcome::MissingRow(version),
            _ => Outcome::Ignored,
        }
    }

    fn cut_away(&mut self, table: usize, prefix: &[Value], version: Version) -> Outcome {
        let shape = self.shape(table);
        let text = prefix_text(prefix);
        let mark = self.marks.of(shape, table, self.tables[table].truncated, &text);
        if mark >= Some(version) {
            return Outcome::Stale;
        }
        self.marks.set(table, &text, version);
        let behind = self.places[table].range(text.clone()..);
        for (_, &place) in behind.take_while(|(key, _)| key.starts_with(&text)) {
            self.known[place].state.truncate(shape, version);
        }
        Outcome::Changed
    }
}
