//! One table of the live generation: the guard as SQL where a whole row meets a whole row, and
//! [`RowState`] for everything else.
//!
//! A key is in the main table if readers see its row, in the hidden one if only a delete mark or a
//! held patch is known, and never in both.

use rusqlite::types::{ToSql, ToSqlOutput, ValueRef};
use rusqlite::{CachedStatement, Connection, Row};

use super::TableMemory;
use super::error::damaged;
use super::layout::{STATEMENTS, Sql, TableSql};
use crate::domain::batch::Step;
use crate::domain::catalog::Table;
use crate::domain::change::IfMissing;
use crate::domain::row::RowState;
use crate::domain::value::Value;
use crate::domain::version::{Coordinates, Version};
use crate::store::rules::{Place, place};
use crate::store::{StoreError, rules};

/// What became of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Changed,
    /// The replica had newer.
    Stale,
    /// A patch whose row is not there, and that may be forgotten.
    Ignored,
    /// A patch whose row is not there, and that may not.
    MissingRow(Version),
}

/// Writes one table within one transaction.
pub(super) struct TableWriter<'c> {
    pub(super) conn: &'c Connection,
    pub(super) shape: &'c Table,
    pub(super) sql: &'c TableSql,
    statements: [Option<CachedStatement<'c>>; STATEMENTS],
    /// Heartbeat of the batch.
    now_ms: i64,
}

impl<'c> TableWriter<'c> {
    pub fn new(conn: &'c Connection, shape: &'c Table, sql: &'c TableSql, now_ms: i64) -> TableWriter<'c> {
        TableWriter { conn, shape, sql, statements: [const { None }; STATEMENTS], now_ms }
    }

    pub fn step(&mut self, memory: &mut TableMemory, step: &Step) -> Result<Outcome, StoreError> {
        if memory.appending {
            match step {
                Step::Row(row) => return self.append(memory, row),
                _ => self.end_appending(memory, true)?,
            }
        }
        match step {
            Step::Row(row) => match (row.version, row.deleted) {
                (Some(version), _) if !row.needs_details() => self.whole_row(memory, row, version),
                (None, Some(mark)) => self.delete(memory, row, mark),
                _ => self.join(memory, row.clone()),
            },
            Step::PatchIfPresent { patch, if_missing } => self.patch(memory, patch, *if_missing),
            Step::Tombstone { values, at } => self.bury(memory, values, *at),
            Step::Truncate { version } => self.truncate(memory, *version),
        }
    }

    /// The usual case. A whole row wins over everything that is older, and the version of a visible
    /// row is the newest thing known about its key, so the comparison is one of bytes in SQL.
    fn whole_row(
        &mut self,
        memory: &mut TableMemory,
        row: &RowState,
        version: Version,
    ) -> Result<Outcome, StoreError> {
        if memory.truncated >= Some(version) {
            return Ok(Outcome::Stale);
        }
        if memory.held + memory.marks > 0 && self.find(Sql::FindHidden, &row.values)?.is_some() {
            return self.join(memory, row.clone());
        }
        if !memory.update_first && self.write_whole(Sql::Insert, row, version)? {
            memory.rows += 1;
            return Ok(Outcome::Changed);
        }
        if self.write_whole(Sql::Update, row, version)? {
            memory.update_first = true;
            return Ok(Outcome::Changed);
        }
        match self.has_details(&row.values)? {
            None => {
                memory.update_first = false;
                memory.rows += i64::from(self.write_whole(Sql::Insert, row, version)?);
                Ok(Outcome::Changed)
            }
            Some(false) => {
                memory.update_first = true;
                Ok(Outcome::Stale)
            }
            // The row is newer, but may have columns that this one knows better.
            Some(true) => self.join(memory, row.clone()),
        }
    }

    fn write_whole(&mut self, sql: Sql, row: &RowState, version: Version) -> Result<bool, StoreError> {
        let statement = self.statement(sql)?;
        bind_row(statement, &row.values, Some(version))?;
        Ok(statement.raw_execute()? > 0)
    }

    fn has_details(&mut self, values: &[Value]) -> Result<Option<bool>, StoreError> {
        let shape = self.shape;
        let statement = self.statement(Sql::HasDetails)?;
        bind_key(statement, shape, values)?;
        let mut rows = statement.raw_query();
        Ok(match rows.next()? {
            Some(row) => Some(row.get(0)?),
            None => None,
        })
    }

    fn delete(
        &mut self,
        memory: &mut TableMemory,
        row: &RowState,
        mark: Version,
    ) -> Result<Outcome, StoreError> {
        if memory.truncated >= Some(mark) {
            return Ok(Outcome::Stale);
        }
        let keys = self.shape.key.len();
        let shape = self.shape;
        let statement = self.statement(Sql::DeleteOld)?;
        bind_key(statement, shape, &row.values)?;
        statement.raw_bind_parameter(keys + 1, mark.as_bytes())?;
        if statement.raw_execute()? == 0 {
            return self.join(memory, row.clone());
        }
        memory.rows -= 1;
        self.keep(memory, None, row)?;
        Ok(Outcome::Changed)
    }

    fn patch(
        &mut self,
        memory: &mut TableMemory,
        patch: &RowState,
        if_missing: IfMissing,
    ) -> Result<Outcome, StoreError> {
        let (mut row, place) = self.load(memory, &patch.values)?;
        // Stale comes first: a replay must not become a dead letter.
        if !row.absorb(self.shape, self.cut(memory, patch.clone())) {
            return Ok(Outcome::Stale);
        }
        if place == Some(Place::Visible) {
            self.keep(memory, place, &row)?;
            return Ok(Outcome::Changed);
        }
        match (if_missing, patch.version) {
            (IfMissing::DeadLetter, Some(version)) => Ok(Outcome::MissingRow(version)),
            _ => Ok(Outcome::Ignored),
        }
    }

    fn bury(
        &mut self,
        memory: &mut TableMemory,
        values: &[Value],
        at: Coordinates,
    ) -> Result<Outcome, StoreError> {
        let (mut row, place) = self.load(memory, values)?;
        if !row.bury(self.shape, at) {
            return Ok(Outcome::Stale);
        }
        self.keep(memory, place, &row)?;
        Ok(Outcome::Changed)
    }

    fn truncate(&mut self, memory: &mut TableMemory, mark: Version) -> Result<Outcome, StoreError> {
        if memory.truncated >= Some(mark) {
            return Ok(Outcome::Stale);
        }
        memory.truncated = Some(mark);
        let statement = self.statement(Sql::Truncate)?;
        statement.raw_bind_parameter(1, mark.as_bytes())?;
        memory.rows -= statement.raw_execute()? as i64;
        for (first, next) in [(Sql::FirstDetailed, Sql::NextDetailed), (Sql::FirstHidden, Sql::NextHidden)] {
            let mut page = self.page(first, None)?;
            while let Some(last) = page.last().map(|row| row.values.clone()) {
                for mut row in page {
                    let place = place(self.shape, &row);
                    if row.truncate(self.shape, mark) {
                        self.keep(memory, place, &row)?;
                    }
                }
                page = self.page(next, Some(&last))?;
            }
        }
        Ok(Outcome::Changed)
    }

    /// The guard in full: join with what is there, and keep the result where it belongs.
    fn join(&mut self, memory: &mut TableMemory, incoming: RowState) -> Result<Outcome, StoreError> {
        let (mut row, before) = self.load(memory, &incoming.values)?;
        if !row.absorb(self.shape, self.cut(memory, incoming)) {
            return Ok(Outcome::Stale);
        }
        self.keep(memory, before, &row)?;
        Ok(Outcome::Changed)
    }

    fn cut(&self, memory: &TableMemory, mut incoming: RowState) -> RowState {
        if let Some(mark) = memory.truncated {
            incoming.truncate(self.shape, mark);
        }
        incoming
    }

    fn load(
        &mut self,
        memory: &TableMemory,
        values: &[Value],
    ) -> Result<(RowState, Option<Place>), StoreError> {
        let mut found = self.find(Sql::Find, values)?;
        if found.is_none() && memory.held + memory.marks > 0 {
            found = self.find(Sql::FindHidden, values)?;
        }
        Ok(match found {
            Some(row) => {
                let place = place(self.shape, &row);
                (row, place)
            }
            None => (rules::nothing_known(self.shape, values), None),
        })
    }

    /// Stores a row that was at `before` where it belongs now.
    fn keep(
        &mut self,
        memory: &mut TableMemory,
        before: Option<Place>,
        row: &RowState,
    ) -> Result<(), StoreError> {
        let after = place(self.shape, row);
        let shape = self.shape;
        let visible = |place: Option<Place>| place == Some(Place::Visible);
        if let Some(place) = before {
            *memory.count(place) -= 1;
            if after.is_none() || visible(before) != visible(after) {
                let sql = if visible(before) { Sql::Delete } else { Sql::DeleteHidden };
                let statement = self.statement(sql)?;
                bind_key(statement, shape, &row.values)?;
                statement.raw_execute()?;
            }
        }
        let Some(place) = after else { return Ok(()) };
        *memory.count(place) += 1;
        self.put(place, if visible(after) { Sql::Put } else { Sql::PutHidden }, row)
    }

    /// Runs a statement that takes a row as it is.
    pub(super) fn put(&mut self, place: Place, sql: Sql, row: &RowState) -> Result<(), StoreError> {
        let (n, shape, now_ms) = (row.values.len(), self.shape, self.now_ms);
        let statement = self.statement(sql)?;
        bind_row(statement, &row.values, row.version)?;
        if place != Place::Visible {
            statement.raw_bind_parameter(n + 2, row.details(shape))?;
            statement.raw_bind_parameter(n + 3, now_ms)?;
        } else if row.needs_details() {
            statement.raw_bind_parameter(n + 2, row.details(shape))?;
        } else {
            statement.raw_bind_parameter(n + 2, rusqlite::types::Null)?;
        }
        statement.raw_execute()?;
        Ok(())
    }

    fn find(&mut self, sql: Sql, values: &[Value]) -> Result<Option<RowState>, StoreError> {
        let shape = self.shape;
        let statement = self.statement(sql)?;
        bind_key(statement, shape, values)?;
        let mut rows = statement.raw_query();
        match rows.next()? {
            Some(row) => read_row(shape, row).map(Some),
            None => Ok(None),
        }
    }

    fn page(&mut self, sql: Sql, after: Option<&[Value]>) -> Result<Vec<RowState>, StoreError> {
        let shape = self.shape;
        let statement = self.statement(sql)?;
        if let Some(values) = after {
            bind_key(statement, shape, values)?;
        }
        let mut page = Vec::new();
        let mut rows = statement.raw_query();
        while let Some(row) = rows.next()? {
            page.push(read_row(shape, row)?);
        }
        Ok(page)
    }

    /// Looked up in the connection's cache once a transaction, not once a row.
    pub(super) fn statement(&mut self, sql: Sql) -> Result<&mut CachedStatement<'c>, rusqlite::Error> {
        let slot = &mut self.statements[sql as usize];
        if slot.is_none() {
            *slot = Some(self.conn.prepare_cached(&self.sql.statements[sql as usize])?);
        }
        slot.as_mut().ok_or(rusqlite::Error::InvalidQuery)
    }
}

impl TableMemory {
    pub(super) fn count(&mut self, place: Place) -> &mut i64 {
        match place {
            Place::Visible => &mut self.rows,
            Place::Held => &mut self.held,
            Place::Mark => &mut self.marks,
        }
    }
}

/// A row of a statement that selects all columns, the version and the details.
pub(super) fn read_row(shape: &Table, row: &Row<'_>) -> Result<RowState, StoreError> {
    let n = shape.columns.len();
    let mut values = Vec::with_capacity(n);
    for index in 0..n {
        values.push(match row.get_ref(index)? {
            ValueRef::Null => Value::Null,
            ValueRef::Integer(number) => Value::Integer(number),
            ValueRef::Real(number) => Value::Real(number),
            ValueRef::Text(text) => {
                Value::Text(String::from_utf8(text.to_vec()).map_err(|_| damaged("a text", &shape.name))?)
            }
            ValueRef::Blob(bytes) => Value::Blob(bytes.to_vec()),
        });
    }
    let version = match row.get_ref(n)? {
        ValueRef::Null => None,
        ValueRef::Blob(bytes) => {
            Some(Version::from_bytes(bytes).ok_or_else(|| damaged("a version", &shape.name))?)
        }
        _ => return Err(damaged("a version", &shape.name)),
    };
    match (row.get_ref(n + 1)?, version) {
        (ValueRef::Null, Some(version)) => Ok(RowState::written(values, version)),
        (ValueRef::Blob(details), _) => RowState::from_details(shape, values, version, details)
            .ok_or_else(|| damaged("the details of a row", &shape.name)),
        _ => Err(damaged("the details of a row", &shape.name)),
    }
}

struct Bound<'a>(&'a Value);

impl ToSql for Bound<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self.0 {
            Value::Absent | Value::Null => ValueRef::Null,
            Value::Integer(number) => ValueRef::Integer(*number),
            Value::Real(number) => ValueRef::Real(*number),
            Value::Text(text) => ValueRef::Text(text.as_bytes()),
            Value::Blob(bytes) => ValueRef::Blob(bytes),
        }))
    }
}

fn bind_row(
    statement: &mut CachedStatement<'_>,
    values: &[Value],
    version: Option<Version>,
) -> rusqlite::Result<()> {
    for (index, value) in values.iter().enumerate() {
        statement.raw_bind_parameter(index + 1, Bound(value))?;
    }
    statement.raw_bind_parameter(values.len() + 1, version.as_ref().map(Version::as_bytes))
}

pub(super) fn bind_key(
    statement: &mut CachedStatement<'_>,
    shape: &Table,
    values: &[Value],
) -> rusqlite::Result<()> {
    bind_values(statement, shape.key_of(values))
}

pub(super) fn bind_values<'v>(
    statement: &mut CachedStatement<'_>,
    values: impl Iterator<Item = &'v Value>,
) -> rusqlite::Result<()> {
    for (index, value) in values.enumerate() {
        statement.raw_bind_parameter(index + 1, Bound(value))?;
    }
    Ok(())
}
