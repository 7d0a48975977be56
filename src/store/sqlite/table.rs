//! One table of the live generation: the guard as SQL where a whole row meets a whole row, and
//! [`RowState`] for everything else.
//!
//! A key is in the main table if readers see its row, in the hidden one if only a delete mark or a
//! held patch is known, and never in both.

use rusqlite::types::{ToSql, ToSqlOutput, ValueRef};
use rusqlite::{CachedStatement, Connection, Row};

use super::TableMemory;
use super::direct::{Direct, TOGETHER};
use super::error::damaged;
use super::layout::{STATEMENTS, Sql, TableSql};
use crate::domain::batch::{Step, Sweep};
use crate::domain::catalog::Table;
use crate::domain::change::IfMissing;
use crate::domain::packed::{PackedRow, PackedValue};
use crate::domain::row::RowState;
use crate::domain::snapshot::{Phase, Snapshot};
use crate::domain::value::{Value, key_bytes};
use crate::domain::version::{Coordinates, Version};
use crate::store::rules::{Place, place};
use crate::store::{LossLimit, StoreError, rules};

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
    /// So many rows were swept, or stay for a reason.
    Swept {
        rows: u64,
        snapshot: Snapshot,
    },
}

/// Where some of the rows that are written together were there already, so many that follow go alone.
const ONE_BY_ONE: usize = 64 * TOGETHER;

/// Writes one table within one transaction.
pub(super) struct TableWriter<'c> {
    pub(super) conn: &'c Connection,
    pub(super) shape: &'c Table,
    pub(super) sql: &'c TableSql,
    statements: [Option<CachedStatement<'c>>; STATEMENTS],
    /// For rows that were put aside.
    direct: [Option<Direct<'c>>; DIRECT],
    /// So many of them go one by one, because some of their like were there already.
    one_by_one: usize,
    /// Heartbeat of the batch.
    now_ms: i64,
    loss: LossLimit,
}

impl<'c> TableWriter<'c> {
    pub fn new(
        conn: &'c Connection,
        shape: &'c Table,
        sql: &'c TableSql,
        now_ms: i64,
        loss: LossLimit,
    ) -> TableWriter<'c> {
        let (statements, direct) = ([const { None }; STATEMENTS], [const { None }; DIRECT]);
        TableWriter { conn, shape, sql, statements, direct, one_by_one: 0, now_ms, loss }
    }

    pub fn step(&mut self, memory: &mut TableMemory, step: &Step) -> Result<Outcome, StoreError> {
        if memory.appending {
            match step {
                Step::Row(row) => return self.append(memory, row),
                Step::Snapshot(_) => {}
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
            Step::Cut { prefix, version } => self.cut_away(memory, prefix, *version),
            Step::Carry(carry) => match self.load(memory, &carry.from)?.0.carried(self.shape, carry) {
                Some(carried) => self.join(memory, carried),
                None => Ok(Outcome::Stale),
            },
            Step::Snapshot(heard) => Ok(match Snapshot::after(memory.snapshot, *heard) {
                Some(snapshot) => {
                    memory.snapshot = Some(snapshot);
                    Outcome::Changed
                }
                None => Outcome::Stale,
            }),
            Step::Sweep(sweep) => self.sweep(memory, *sweep),
            // Of several tables.
            Step::Shelved { .. } => Ok(Outcome::Stale),
        }
    }

    /// Rows that were put aside, at most [`TOGETHER`].
    pub fn shelved(&mut self, memory: &mut TableMemory, rows: &[PackedRow<'_>]) -> Result<(), StoreError> {
        let only_rows = memory.truncated.is_none() && memory.held + memory.marks + memory.prefix_marks == 0;
        let are_new = memory.appending || only_rows && !memory.update_first && self.one_by_one == 0;
        if rows.len() == TOGETHER && are_new {
            let inserted = self.direct(Kind::InsertTogether)?.run(rows)?;
            memory.rows += inserted as i64;
            if inserted == rows.len() {
                return Ok(());
            }
            // Which were there already is not said; those that were not are now, and are met as such.
            self.one_by_one = ONE_BY_ONE;
        }
        self.one_by_one = self.one_by_one.saturating_sub(rows.len());
        for row in rows {
            self.shelved_row(memory, *row, only_rows)?;
        }
        Ok(())
    }

    fn shelved_row(
        &mut self,
        memory: &mut TableMemory,
        row: PackedRow<'_>,
        only_rows: bool,
    ) -> Result<Outcome, StoreError> {
        if memory.appending {
            memory.rows += 1;
            self.direct(Kind::Insert)?.run(&[row])?;
            return Ok(Outcome::Changed);
        }
        if !only_rows {
            let state = Whole::Packed(row).state(&self.shape.name)?;
            let version = state.version.ok_or_else(|| damaged("a version", &self.shape.name))?;
            return self.whole_row(memory, &state, version);
        }
        self.write(memory, Whole::Packed(row))
    }

    /// The usual case. A whole row wins over everything that is older, and the version of a visible
    /// row is the newest thing known about its key, so the comparison is one of bytes in SQL.
    fn whole_row(
        &mut self,
        memory: &mut TableMemory,
        row: &RowState,
        version: Version,
    ) -> Result<Outcome, StoreError> {
        if self.mark_of_row(memory, &row.values)? >= Some(version) {
            return Ok(Outcome::Stale);
        }
        if memory.held + memory.marks > 0 && self.find(Sql::FindHidden, &row.values)?.is_some() {
            return self.join(memory, row.clone());
        }
        self.write(memory, Whole::Row(row, version))
    }

    /// A whole row of whose key only a visible row can be known.
    fn write(&mut self, memory: &mut TableMemory, row: Whole<'_>) -> Result<Outcome, StoreError> {
        if !memory.update_first && self.write_whole(Kind::Insert, row)? {
            memory.rows += 1;
            return Ok(Outcome::Changed);
        }
        if self.write_whole(Kind::Update, row)? {
            memory.update_first = true;
            return Ok(Outcome::Changed);
        }
        match self.has_details(row)? {
            None => {
                memory.update_first = false;
                memory.rows += i64::from(self.write_whole(Kind::Insert, row)?);
                Ok(Outcome::Changed)
            }
            Some(false) => {
                memory.update_first = true;
                Ok(Outcome::Stale)
            }
            // The row is newer, but may have columns that this one knows better.
            Some(true) => {
                let state = row.state(&self.shape.name)?;
                self.join(memory, state)
            }
        }
    }

    /// Whether it changed anything.
    fn write_whole(&mut self, kind: Kind, row: Whole<'_>) -> Result<bool, StoreError> {
        match row {
            Whole::Packed(row) => Ok(self.direct(kind)?.run(&[row])? > 0),
            Whole::Row(row, version) => {
                let statement = self.statement(kind.sql())?;
                bind_row(statement, &row.values, Some(version))?;
                Ok(statement.raw_execute()? > 0)
            }
        }
    }

    fn has_details(&mut self, row: Whole<'_>) -> Result<Option<bool>, StoreError> {
        let shape = self.shape;
        let statement = self.statement(Sql::HasDetails)?;
        row.bind_key(statement, shape)?;
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
        if self.mark_of_row(memory, &row.values)? >= Some(mark) {
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
        if !row.absorb(self.shape, self.cut(memory, patch.clone())?) {
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

    fn cut_away(
        &mut self,
        memory: &mut TableMemory,
        prefix: &[Value],
        mark: Version,
    ) -> Result<Outcome, StoreError> {
        let Some(sql) = self.sql.cuts.iter().find(|cut| cut.columns == prefix.len()) else {
            return Err(damaged("a prefix that the mapping does not have", &self.shape.name));
        };
        if self.mark(memory, prefix)? >= Some(mark) {
            return Ok(Outcome::Stale);
        }
        self.remember(memory, prefix, mark)?;
        let mut delete = self.conn.prepare_cached(&sql.delete)?;
        bind_values(&mut delete, prefix.iter())?;
        delete.raw_bind_parameter(prefix.len() + 1, mark.as_bytes())?;
        memory.rows -= delete.raw_execute()? as i64;
        for [first, next] in [&sql.detailed, &sql.hidden] {
            let mut page = self.page(first, prefix, None)?;
            while let Some(last) = page.last().map(|row| row.values.clone()) {
                for mut row in page {
                    let place = place(self.shape, &row);
                    if row.truncate(self.shape, mark) {
                        self.keep(memory, place, &row)?;
                    }
                }
                page = self.page(next, prefix, Some(&last))?;
            }
        }
        Ok(Outcome::Changed)
    }

    fn sweep(&mut self, memory: &mut TableMemory, sweep: Sweep) -> Result<Outcome, StoreError> {
        let begin = sweep.begin;
        let Some(snapshot) = memory.snapshot.as_mut() else { return Ok(Outcome::Stale) };
        if *snapshot != (Snapshot { begin, phase: Phase::Listed }) {
            return Ok(Outcome::Stale);
        }
        let statement = self.statement(Sql::CountOlder)?;
        statement.raw_bind_parameter(1, begin.as_bytes())?;
        let ghosts: i64 = statement.raw_query().next()?.map_or(Ok(0), |row| row.get(0))?;
        let phase = rules::after_sweep(sweep, self.loss, ghosts, memory.rows);
        snapshot.phase = phase;
        if phase == Phase::Swept {
            for (sql, count) in [(Sql::DropOlder, &mut memory.rows), (Sql::DropOlderHidden, &mut memory.held)]
            {
                let statement = self.statement(sql)?;
                statement.raw_bind_parameter(1, begin.as_bytes())?;
                *count -= statement.raw_execute()? as i64;
            }
        }
        Ok(Outcome::Swept { rows: ghosts.max(0) as u64, snapshot: Snapshot { begin, phase } })
    }

    /// The guard in full: join with what is there, and keep the result where it belongs.
    fn join(&mut self, memory: &mut TableMemory, incoming: RowState) -> Result<Outcome, StoreError> {
        let (mut row, before) = self.load(memory, &incoming.values)?;
        if !row.absorb(self.shape, self.cut(memory, incoming)?) {
            return Ok(Outcome::Stale);
        }
        self.keep(memory, before, &row)?;
        Ok(Outcome::Changed)
    }

    /// Without what was taken away before it came.
    fn cut(&mut self, memory: &TableMemory, mut incoming: RowState) -> Result<RowState, StoreError> {
        if let Some(mark) = self.mark_of_row(memory, &incoming.values)? {
            incoming.truncate(self.shape, mark);
        }
        Ok(incoming)
    }

    /// What is not newer than this was taken away: with the table, or with a prefix of the key.
    fn mark_of_row(&mut self, memory: &TableMemory, values: &[Value]) -> Result<Option<Version>, StoreError> {
        if memory.prefix_marks == 0 {
            return Ok(memory.truncated);
        }
        let key: Vec<Value> = self.shape.key_of(values).cloned().collect();
        self.mark(memory, &key)
    }

    /// The same of rows whose key begins so.
    fn mark(&mut self, memory: &TableMemory, prefix: &[Value]) -> Result<Option<Version>, StoreError> {
        let mut mark = memory.truncated;
        if memory.prefix_marks > 0 {
            for &count in self.shape.prefixes.iter().filter(|&&count| count <= prefix.len()) {
                mark = mark.max(self.find_mark(&prefix[..count])?);
            }
        }
        Ok(mark)
    }

    fn remember(
        &mut self,
        memory: &mut TableMemory,
        prefix: &[Value],
        mark: Version,
    ) -> Result<(), StoreError> {
        let (bytes, now_ms) = (key_bytes(prefix), self.now_ms);
        if memory.prefix_marks > 0 && self.shape.prefixes.last() > Some(&prefix.len()) {
            // What older marks of longer prefixes say follows from the new one. No part of a key begins
            // with a byte as high as that.
            let behind = [&bytes[..], &[0xFF]].concat();
            let statement = self.statement(Sql::DropOlderMarks)?;
            statement.raw_bind_parameter(1, &bytes[..])?;
            statement.raw_bind_parameter(2, behind)?;
            statement.raw_bind_parameter(3, mark.as_bytes())?;
            memory.prefix_marks -= statement.raw_execute()? as i64;
        }
        if prefix.is_empty() {
            memory.truncated = Some(mark);
            return Ok(());
        }
        let is_new = self.find_mark(prefix)?.is_none();
        let statement = self.statement(Sql::PutMark)?;
        statement.raw_bind_parameter(1, bytes)?;
        statement.raw_bind_parameter(2, mark.as_bytes())?;
        statement.raw_bind_parameter(3, now_ms)?;
        statement.raw_execute()?;
        memory.prefix_marks += i64::from(is_new);
        Ok(())
    }

    fn find_mark(&mut self, prefix: &[Value]) -> Result<Option<Version>, StoreError> {
        let damaged = || damaged("a version", &self.shape.name);
        let statement = self.statement(Sql::FindMark)?;
        statement.raw_bind_parameter(1, key_bytes(prefix))?;
        let mut rows = statement.raw_query();
        let Some(row) = rows.next()? else { return Ok(None) };
        let bytes = row.get_ref(0)?.as_blob().map_err(|_| damaged())?;
        Version::from_bytes(bytes).map(Some).ok_or_else(damaged)
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

    fn page(
        &self,
        sql: &str,
        prefix: &[Value],
        after: Option<&[Value]>,
    ) -> Result<Vec<RowState>, StoreError> {
        let mut statement = self.conn.prepare_cached(sql)?;
        let after = after.into_iter().flat_map(|values| self.shape.key_of(values));
        bind_values(&mut statement, prefix.iter().chain(after))?;
        let mut page = Vec::new();
        let mut rows = statement.raw_query();
        while let Some(row) = rows.next()? {
            page.push(read_row(self.shape, row)?);
        }
        Ok(page)
    }

    /// Prepared once a transaction.
    fn direct(&mut self, kind: Kind) -> Result<&mut Direct<'c>, StoreError> {
        let slot = &mut self.direct[kind as usize];
        if slot.is_none() {
            let sql = match kind {
                Kind::InsertTogether => &self.sql.insert_together,
                kind => &self.sql.statements[kind.sql() as usize],
            };
            *slot = Some(Direct::prepare(self.conn, sql)?);
        }
        slot.as_mut().ok_or_else(|| rusqlite::Error::InvalidQuery.into())
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

/// How whole rows are written.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Insert,
    Update,
    /// [`TOGETHER`] of them; otherwise as `Insert`.
    InsertTogether,
}

const DIRECT: usize = Kind::InsertTogether as usize + 1;

impl Kind {
    fn sql(self) -> Sql {
        match self {
            Kind::Insert | Kind::InsertTogether => Sql::Insert,
            Kind::Update => Sql::Update,
        }
    }
}

/// A whole row, as values or as it was put aside.
#[derive(Clone, Copy)]
enum Whole<'a> {
    Row(&'a RowState, Version),
    Packed(PackedRow<'a>),
}

impl Whole<'_> {
    fn bind_key(self, statement: &mut CachedStatement<'_>, shape: &Table) -> Result<(), StoreError> {
        match self {
            Whole::Row(row, _) => bind_key(statement, shape, &row.values)?,
            Whole::Packed(row) => {
                for (column, value) in row.values().enumerate() {
                    if let Some(part) = shape.key.iter().position(|key| *key == column) {
                        statement.raw_bind_parameter(part + 1, BoundPacked(value))?;
                    }
                }
            }
        }
        Ok(())
    }

    fn state(self, table: &str) -> Result<RowState, StoreError> {
        match self {
            Whole::Row(row, _) => Ok(row.clone()),
            Whole::Packed(row) => {
                let (values, version) = row.unpack().ok_or_else(|| damaged("a row", table))?;
                Ok(RowState::written(values, version))
            }
        }
    }
}

struct BoundPacked<'a>(PackedValue<'a>);

impl ToSql for BoundPacked<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self.0 {
            PackedValue::Null => ValueRef::Null,
            PackedValue::Integer(number) => ValueRef::Integer(number),
            PackedValue::Real(number) => ValueRef::Real(number),
            PackedValue::Text(text) => ValueRef::Text(text),
            PackedValue::Blob(bytes) => ValueRef::Blob(bytes),
        }))
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
