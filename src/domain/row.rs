//! The one guard: what a row is, and how a change moves it.
//!
//! A [`RowState`] is a set of last-writer-wins registers, one per column, and a delete mark. Its
//! join ([`RowState::absorb`]) is commutative, associative and idempotent, so duplication and
//! reordering of changes end in the same row (Shapiro et al., "Conflict-free Replicated Data
//! Types", 2011). The coalescer joins changes with each other, a store joins the result with what
//! it has; a store that expresses part of this in its own language (SQL) is held to it by the
//! contract suite.
//!
//! Two operations are not joins, because they depend on the row that is there: a
//! [`Operation::Tombstone`](super::change::Operation::Tombstone) and a patch that needs its row.
//! They keep their place in the order of their partition and are never folded.

use super::batch::Carry;
use super::catalog::Table;
use super::value::Value;
use super::version::{Coordinates, Version};

#[derive(Debug, Clone, PartialEq)]
pub struct RowState {
    /// One value per column; key columns are always set, the others are `Absent` while unknown.
    pub values: Vec<Value>,
    /// Version of the newest write that a delete has not undone.
    pub version: Option<Version>,
    /// Versions per column where they differ from `version`; `None` for key columns and for
    /// columns that are `Absent`. When the option itself is `None`, every known column has `version`.
    pub column_versions: Option<Box<[Option<Version>]>>,
    /// Newest delete. Dropped when every column is newer, since it can then decide nothing.
    pub deleted: Option<Version>,
}

impl RowState {
    /// A row of which nothing is known but its key; `values` has the key columns set.
    pub fn unknown(values: Vec<Value>) -> RowState {
        RowState { values, version: None, column_versions: None, deleted: None }
    }

    pub fn written(values: Vec<Value>, version: Version) -> RowState {
        RowState { values, version: Some(version), column_versions: None, deleted: None }
    }

    /// `values` needs only the key columns.
    pub fn deleted(table: &Table, mut values: Vec<Value>, version: Version) -> RowState {
        for (column, value) in values.iter_mut().enumerate() {
            if !table.is_key(column) {
                *value = Value::Absent;
            }
        }
        RowState { values, version: None, column_versions: None, deleted: Some(version) }
    }

    /// Whether readers see the row: it was written after its last delete and every column that may
    /// not be null has a value.
    pub fn is_visible(&self, table: &Table) -> bool {
        self.version.is_some()
            && self
                .values
                .iter()
                .zip(&table.columns)
                .enumerate()
                .all(|(index, (value, column))| !value.is_absent() || column.nullable || table.is_key(index))
    }

    /// Whether every column is known: such a row replaces what is older as a whole.
    pub fn is_full(&self) -> bool {
        self.version.is_some() && self.values.iter().all(|value| !value.is_absent())
    }

    /// The version of one column; `None` while it is unknown.
    pub fn column_version(&self, table: &Table, column: usize) -> Option<Version> {
        if table.is_key(column) || self.values[column].is_absent() {
            return None;
        }
        match &self.column_versions {
            Some(versions) => versions[column],
            None => self.version,
        }
    }

    /// Newest version of anything known about the row.
    pub fn newest(&self) -> Option<Version> {
        self.version.max(self.deleted)
    }

    /// Joins what `other` knows into this row. Returns whether anything changed.
    pub fn absorb(&mut self, table: &Table, mut other: RowState) -> bool {
        if self.is_uniform() && other.is_uniform() && other.deleted.is_none() && other.is_full() {
            // The usual case, a whole row over a whole row: the newer one wins.
            if other.version > self.newest() {
                *self = other;
                return true;
            }
            // An older one may still fill what a patch left open.
            if self.is_full() || other.version <= self.deleted {
                return false;
            }
        }
        let before = self.clone();
        let deleted = self.deleted.max(other.deleted);
        let mut version = self.version.max(other.version);
        if version <= deleted {
            version = None;
        }
        let mut versions = vec![None; table.columns.len()].into_boxed_slice();
        let mut uniform = true;
        let mut full = version.is_some();
        for column in 0..table.columns.len() {
            if table.is_key(column) {
                continue;
            }
            let ours = self.column_version(table, column);
            let theirs = other.column_version(table, column);
            let newest = ours.max(theirs);
            if newest.is_none() || newest <= deleted {
                self.values[column] = Value::Absent;
                full = false;
                continue;
            }
            if theirs > ours {
                self.values[column] = std::mem::take(&mut other.values[column]);
            }
            uniform &= newest == version;
            versions[column] = newest;
        }
        self.version = version;
        self.deleted = if full { None } else { deleted };
        self.column_versions = if uniform { None } else { Some(versions) };
        *self != before
    }

    /// Applies a delete that has no version of its own: it takes the row if that was last written
    /// from the same partition at a lower offset, and then marks it with the row's version.
    /// Returns whether anything changed.
    pub fn bury(&mut self, table: &Table, at: Coordinates) -> bool {
        let Some(version) = self.version else { return false };
        let last = version.at();
        // Carried over from another key: it was written from no partition.
        if last.offset < 0 {
            return false;
        }
        if (last.topic, last.partition) != (at.topic, at.partition) || last.offset >= at.offset {
            return false;
        }
        let mark = RowState::deleted(table, self.values.clone(), version);
        self.absorb(table, mark)
    }

    /// What this row says about one with another key: `None` if there is nothing that is older than the
    /// version and was not read too late.
    pub fn carried(&self, table: &Table, carry: &Carry) -> Option<RowState> {
        let Carry { to, version, read_before_ms, .. } = carry;
        let is_of_it = |known: Version| {
            known < *version && known.read_ms().is_none_or(|read_ms| read_ms < *read_before_ms)
        };
        let mut values = vec![Value::Absent; table.columns.len()];
        let mut any = false;
        for (column, value) in values.iter_mut().enumerate() {
            if table.is_key(column) {
                value.clone_from(&to[column]);
            } else if self.column_version(table, column).is_some_and(is_of_it) {
                value.clone_from(&self.values[column]);
                any = true;
            }
        }
        any.then(|| RowState::written(values, *version))
    }

    /// Takes away what is not newer than the table's truncate mark. The mark itself is left to the
    /// table, which holds it for all keys. Returns whether anything changed.
    pub fn truncate(&mut self, table: &Table, mark: Version) -> bool {
        let before = self.clone();
        self.absorb(table, RowState::deleted(table, self.values.clone(), mark));
        if self.deleted <= Some(mark) {
            self.deleted = None;
        }
        *self != before
    }

    /// Whether nothing is known but the key: such a row need not be kept.
    pub fn is_unknown(&self) -> bool {
        self.newest().is_none()
    }

    /// The row of a table that has some of the columns of this one, key columns included: `from`
    /// tells where each of them is here.
    pub fn rearranged(&self, from: &[usize]) -> RowState {
        let values: Vec<Value> = from.iter().map(|&column| self.values[column].clone()).collect();
        let versions = self.column_versions.as_ref().map(|versions| {
            let versions: Box<[Option<Version>]> = from.iter().map(|&column| versions[column]).collect();
            versions
        });
        // What differed may have been left out.
        let column_versions = versions
            .filter(|versions| versions.iter().any(|version| version.is_some() && *version != self.version));
        RowState { values, version: self.version, column_versions, deleted: self.deleted }
    }

    fn is_uniform(&self) -> bool {
        self.column_versions.is_none()
    }

    /// Whether the row needs more than its values and its version to be stored: versions that
    /// differ by column, unknown columns, or a delete mark.
    pub fn needs_details(&self) -> bool {
        self.column_versions.is_some() || self.deleted.is_some() || !self.is_full()
    }

    /// Details as bytes, for a store to keep beside the row: the delete mark, then one version per
    /// column, each as a length byte and that many bytes (length 0: none).
    pub fn details(&self, table: &Table) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(64);
        let mut push = |version: Option<Version>| match version {
            Some(version) => {
                bytes.push(version.as_bytes().len() as u8);
                bytes.extend_from_slice(version.as_bytes());
            }
            None => bytes.push(0),
        };
        push(self.deleted);
        for column in 0..table.columns.len() {
            push(self.column_version(table, column));
        }
        bytes
    }

    /// The opposite of [`RowState::details`]. `values` are the stored ones, with `Null` where a
    /// column is unknown. `None` when the bytes are not details of such a table.
    pub fn from_details(
        table: &Table,
        mut values: Vec<Value>,
        version: Option<Version>,
        details: &[u8],
    ) -> Option<RowState> {
        let mut rest = details;
        let deleted = take_version(&mut rest)?;
        let mut versions = vec![None; table.columns.len()].into_boxed_slice();
        let mut uniform = true;
        for column in 0..table.columns.len() {
            let stored = take_version(&mut rest)?;
            if table.is_key(column) {
                continue;
            }
            if stored.is_none() {
                values[column] = Value::Absent;
            }
            uniform &= stored.is_none() || stored == version;
            versions[column] = stored;
        }
        let column_versions = if uniform { None } else { Some(versions) };
        rest.is_empty().then_some(RowState { values, version, column_versions, deleted })
    }
}

/// `None` for bytes that do not fit, `Some(None)` for no version.
fn take_version(rest: &mut &[u8]) -> Option<Option<Version>> {
    let (&len, tail) = rest.split_first()?;
    if tail.len() < usize::from(len) {
        return None;
    }
    let (bytes, tail) = tail.split_at(usize::from(len));
    *rest = tail;
    if bytes.is_empty() { Some(None) } else { Version::from_bytes(bytes).map(Some) }
}
