//! Rows of a first copy whose keys are not numbers.
//!
//! Keys such as UUIDs come in no order, and an index over them touches another page for every row: that
//! is most of the time of a first copy. While nobody reads, what is known of a key is therefore just
//! appended, once for each batch that knows something of it, and the index that keeps keys apart is
//! built at the end, in the order of keys. What is there twice by then is joined: a [`RowState`] joins
//! in any order, so duplicates, late rows, patches and deletes end as if each had met its row.
//!
//! A step that depends on the row that is there (a tombstone, a patch that needs its row, a truncate)
//! ends appending first, for its table; so does a table most of whose rows come again, because it would
//! grow with the log instead of with its keys. A killed process goes on appending.

use rusqlite::types::ValueRef;
use rusqlite::{ErrorCode, params};

use super::error::damaged;
use super::generations::transaction;
use super::layout::Sql;
use super::table::{Outcome, TableWriter, read_row};
use super::{SqliteStore, TableMemory};
use crate::domain::row::RowState;
use crate::store::StoreError;
use crate::store::rules::{Place, place};

impl SqliteStore {
    /// What was appended becomes tables with each key once.
    pub(in crate::store) fn end_appending(&mut self) -> Result<(), StoreError> {
        for index in 0..self.catalog.tables.len() {
            if !self.memory.tables[index].appending {
                continue;
            }
            let tx = transaction(&self.conn)?;
            let mut memory = self.memory.tables[index].clone();
            let now_ms: Option<i64> = tx.query_row(
                "SELECT heartbeat_ms FROM _readside_meta_generations WHERE generation = ?1",
                [self.generation],
                |row| row.get(0),
            )?;
            let shape = &self.catalog.tables[index];
            let mut writer =
                TableWriter::new(&tx, shape, &self.sql[index], now_ms.unwrap_or(0), self.settings.loss);
            writer.end_appending(&mut memory, self.samples[index].is_any_again())?;
            drop(writer);
            tx.execute(
                "UPDATE _readside_meta_tables SET rows = ?3, held = ?4, delete_marks = ?5 \
                 WHERE generation = ?1 AND table_name = ?2",
                params![
                    self.generation,
                    self.catalog.tables[index].name,
                    memory.rows,
                    memory.held,
                    memory.marks
                ],
            )?;
            tx.commit()?;
            self.memory.tables[index] = memory;
        }
        Ok(())
    }
}

impl TableWriter<'_> {
    pub(super) fn append(&mut self, memory: &mut TableMemory, row: &RowState) -> Result<Outcome, StoreError> {
        let Some(place) = place(self.shape, row) else { return Ok(Outcome::Stale) };
        *memory.count(place) += 1;
        self.put(place, if place == Place::Visible { Sql::Append } else { Sql::AppendHidden }, row)?;
        Ok(Outcome::Changed)
    }

    /// Joins what is there of the same key and makes the index that keeps keys apart from now on.
    /// `repeated`: some keys are known to be there twice.
    pub(super) fn end_appending(
        &mut self,
        memory: &mut TableMemory,
        repeated: bool,
    ) -> Result<(), StoreError> {
        let only_rows = memory.held + memory.marks == 0;
        if repeated || !only_rows || !self.make_key_index()? {
            self.join_repeated(memory)?;
            if !self.make_key_index()? {
                return Err(damaged("a key", &self.shape.name));
            }
        }
        memory.appending = false;
        Ok(())
    }

    /// False if a key is there twice.
    fn make_key_index(&self) -> Result<bool, StoreError> {
        for index in &self.sql.key_indexes {
            match self.conn.execute_batch(index) {
                Ok(()) => {}
                Err(error) if error.sqlite_error_code() == Some(ErrorCode::ConstraintViolation) => {
                    return Ok(false);
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(true)
    }

    /// Goes through all keys in order. The sort has read everything before it gives the first key, so
    /// what changes meanwhile is not met.
    fn join_repeated(&mut self, memory: &mut TableMemory) -> Result<(), StoreError> {
        let mut all = self.conn.prepare(&self.sql.statements[Sql::AllKeys as usize])?;
        let mut rows = all.query([])?;
        let keys = self.shape.key.len();
        let (mut key, mut last) = (Vec::new(), Vec::new());
        let mut last_nth = None;
        let mut joined: Option<RowState> = None;
        while let Some(row) = rows.next()? {
            key.clear();
            for part in 0..keys {
                push_part(&mut key, row.get_ref(part)?);
            }
            let nth: i64 = row.get(keys)?;
            match last_nth {
                Some(before) if key == last => {
                    let mut state = match joined.take() {
                        Some(state) => state,
                        None => self.take(memory, before)?,
                    };
                    state.absorb(self.shape, self.take(memory, nth)?);
                    joined = Some(state);
                }
                _ => {
                    if let Some(state) = joined.take() {
                        self.append(memory, &state)?;
                    }
                    std::mem::swap(&mut last, &mut key);
                }
            }
            last_nth = Some(nth);
        }
        if let Some(state) = joined {
            self.append(memory, &state)?;
        }
        Ok(())
    }

    /// What one row says, which goes. Hidden rows have negative numbers.
    fn take(&mut self, memory: &mut TableMemory, nth: i64) -> Result<RowState, StoreError> {
        let (find, delete) =
            if nth < 0 { (Sql::NthHidden, Sql::DeleteNthHidden) } else { (Sql::Nth, Sql::DeleteNth) };
        let shape = self.shape;
        let statement = self.statement(find)?;
        statement.raw_bind_parameter(1, nth.abs())?;
        let state = match statement.raw_query().next()? {
            Some(row) => read_row(shape, row)?,
            None => return Err(damaged("a row", &shape.name)),
        };
        let statement = self.statement(delete)?;
        statement.raw_bind_parameter(1, nth.abs())?;
        statement.raw_execute()?;
        if let Some(place) = place(shape, &state) {
            *memory.count(place) -= 1;
        }
        Ok(state)
    }
}

/// Such that equal keys, and only those, have equal bytes.
fn push_part(key: &mut Vec<u8>, part: ValueRef<'_>) {
    let (class, bytes): (u8, &[u8]) = match part {
        ValueRef::Null => (0, &[]),
        ValueRef::Integer(number) => {
            key.push(1);
            key.extend_from_slice(&number.to_be_bytes());
            return;
        }
        ValueRef::Real(number) => {
            key.push(2);
            key.extend_from_slice(&number.to_bits().to_be_bytes());
            return;
        }
        ValueRef::Text(text) => (3, text),
        ValueRef::Blob(bytes) => (4, bytes),
    };
    key.push(class);
    key.extend_from_slice(&(bytes.len() as u64).to_be_bytes());
    key.extend_from_slice(bytes);
}
