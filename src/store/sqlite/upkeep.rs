//! The end of the first copy, and what has to be done between batches.

use std::fs;

use rusqlite::{FileControl, MAIN_DB, Transaction, TransactionBehavior, params};

use super::error::stop_io;
use super::layout::{self, Sql};
use super::table::read_row;
use super::{Role, SqliteStore, owner};
use crate::domain::catalog::Table;
use crate::domain::version::VersionKind;
use crate::store::{Figures, Maintenance, StoreError, rules};

/// Delete marks dropped in one call, over all tables.
const MARKS_PER_CALL: usize = 2_000;

impl SqliteStore {
    /// A kill anywhere in here leaves a copy that is still building and can be finished again.
    pub(super) fn finish_first_copy(&mut self) -> Result<(), StoreError> {
        if self.complete {
            return Ok(());
        }
        self.end_appending()?;
        self.adjust_indexes()?;
        // From here on commits are ordered, and what was written before goes to the disk.
        self.conn.pragma_update(None, "synchronous", "FULL")?;
        self.conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
        owner::sync(&self.conn, &self.path)?;

        let tx = Transaction::new_unchecked(&self.conn, TransactionBehavior::Immediate)?;
        for sql in &self.sql {
            tx.execute_batch(&sql.drop_view)?;
            tx.execute_batch(&sql.view)?;
        }
        tx.execute(
            "UPDATE _readside_meta_tables SET built_at_ms = (SELECT heartbeat_ms FROM _readside_meta_generations \
             WHERE generation = ?1) WHERE generation = ?1",
            [self.generation],
        )?;
        tx.execute(
            "UPDATE _readside_meta_generations SET complete = 1 WHERE generation = ?1",
            [self.generation],
        )?;
        tx.commit()?;
        self.home.lock().mark_clean()?;
        self.conn.pragma_update(None, "synchronous", "NORMAL")?;
        // Until here all of it is done again.
        self.complete = true;
        Ok(())
    }

    /// Builds the secondary indexes that are declared and missing, drops those that are not declared.
    pub(super) fn adjust_indexes(&self) -> Result<(), StoreError> {
        let existing = layout::indexes_there(&self.conn, self.generation, None)?;
        let declared = layout::secondary_indexes(&self.catalog, self.generation);
        for name in existing.iter().filter(|name| !declared.iter().any(|(known, _)| known == *name)) {
            self.conn.execute_batch(&format!("DROP INDEX {}", layout::quote(name)))?;
        }
        for (_, sql) in declared.iter().filter(|(name, _)| !existing.contains(name)) {
            self.conn.execute_batch(sql)?;
        }
        Ok(())
    }

    pub(super) fn keep_up(&mut self, now_ms: i64) -> Result<Maintenance, StoreError> {
        let mut moved = 0;
        self.conn.file_control(Some(MAIN_DB), FileControl::HasMoved(&mut moved))?;
        if moved != 0 {
            return Err(stop_io(
                "the file was moved or deleted while readside writes it; put it back, or restart to build it \
                 anew"
                    .into(),
            ));
        }
        self.look_at_wal()?;
        if !self.is_in_use()? {
            return Ok(Maintenance::default());
        }
        let delete_marks_dropped = self.drop_marks(now_ms)?;
        // The first writer tidies up, or the only one.
        let more = match self.role {
            Role::Live => self.drop_slice()?,
            Role::Next { carries_live } => carries_live && self.drop_slice()?,
        };
        let wal = self.tend_wal(now_ms)?;
        Ok(Maintenance {
            delete_marks_dropped,
            wal_pages_pinned: wal.pages_pinned,
            wal_pinned_for: wal.pinned_for,
            wal_readers: wal.processes,
            more,
        })
    }

    /// Whether this generation has not been put out of use: what it holds may be gone then.
    fn is_in_use(&self) -> Result<bool, StoreError> {
        let dropped = self
            .conn
            .prepare_cached(
                "SELECT 1 FROM _readside_meta_generations WHERE generation = ?1 AND role <> 'dropped'",
            )?
            .exists([self.generation])?;
        Ok(dropped)
    }

    fn drop_marks(&mut self, now_ms: i64) -> Result<u64, StoreError> {
        let mut left = MARKS_PER_CALL;
        for index in 0..self.catalog.tables.len() {
            let (marks, prefix_marks) = {
                let table = &self.memory.tables[index];
                (table.marks, table.prefix_marks)
            };
            // What was appended is joined at the end only: until then a mark is all that is known of a delete.
            if marks + prefix_marks == 0 || left == 0 || self.memory.tables[index].appending {
                continue;
            }
            let shape = &self.catalog.tables[index];
            let fresh = self.table_fresh_as_of(shape)?;
            let letter = super::letters::oldest_ms(&self.conn, shape, self.generation)?;
            let Some(before_ms) = rules::marks_before_ms(shape, fresh, letter, now_ms) else { continue };
            let turn = self.turn();
            let tx = Transaction::new_unchecked(&self.conn, TransactionBehavior::Immediate)?;
            let dropped = tx
                .prepare_cached(&self.sql[index].statements[Sql::DropMarks as usize])?
                .execute(params![before_ms, left as i64])?;
            let of_prefixes = match prefix_marks {
                0 => 0,
                _ => tx
                    .prepare_cached(&self.sql[index].statements[Sql::DropPrefixMarks as usize])?
                    .execute(params![before_ms, (left - dropped) as i64])?,
            };
            if dropped + of_prefixes > 0 {
                tx.prepare_cached(
                    "UPDATE _readside_meta_tables SET delete_marks = ?3 WHERE generation = ?1 AND table_name = ?2",
                )?
                .execute(params![self.generation, shape.name, marks - dropped as i64])?;
                tx.commit()?;
                drop(turn);
                let table = &mut self.memory.tables[index];
                table.marks -= dropped as i64;
                table.prefix_marks -= of_prefixes as i64;
                left -= dropped + of_prefixes;
            }
        }
        Ok((MARKS_PER_CALL - left) as u64)
    }

    fn table_fresh_as_of(&self, shape: &Table) -> Result<Option<i64>, StoreError> {
        let fresh = self
            .conn
            .prepare_cached(
                "SELECT CASE WHEN COUNT(p.fresh_as_of_ms) = COUNT(*) THEN MIN(p.fresh_as_of_ms) END \
                 FROM _readside_meta_sources s LEFT JOIN _readside_meta_partitions p \
                 ON p.generation = s.generation AND p.topic = s.topic \
                 WHERE s.generation = ?1 AND s.table_name = ?2",
            )?
            .query_row(params![self.generation, shape.name], |row| row.get(0))?;
        Ok(fresh)
    }

    pub(super) fn measure(&self) -> Figures {
        let count = |of: fn(&super::TableMemory) -> i64| {
            self.memory.tables.iter().map(|table| of(table).max(0) as u64).collect()
        };
        Figures {
            rows: count(|table| table.rows),
            held: count(|table| table.held),
            delete_marks: count(|table| table.marks + table.prefix_marks),
            dead_letters: self.memory.dead_letters.clone(),
            replica_bytes: fs::metadata(&self.path).ok().map(|found| found.len()),
            wal_bytes: Some(self.wal_bytes()),
        }
    }

    pub(super) fn version_kind(&self, index: usize) -> Result<Option<VersionKind>, StoreError> {
        let mut statement = self.conn.prepare(&self.sql[index].statements[Sql::AnyVersion as usize])?;
        let mut rows = statement.query([])?;
        let Some(row) = rows.next()? else { return Ok(None) };
        let state = read_row(&self.catalog.tables[index], row)?;
        Ok(state.newest().map(|version| version.kind()))
    }
}

impl Drop for SqliteStore {
    /// A first copy that is left in order survives even the machine: only if all of it is on the
    /// disk, of course. A copy that is complete needs nothing here.
    fn drop(&mut self) {
        self.home.turns.let_go();
        if self.complete || self.role != Role::Live {
            return;
        }
        let settled = self
            .conn
            .pragma_update(None, "synchronous", "FULL")
            .and_then(|()| self.conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())));
        if settled.is_ok() && owner::sync(&self.conn, &self.path).is_ok() {
            // If this fails, the copy is merely built again after a crash of the machine.
            let _ = self.home.lock().mark_clean();
        }
    }
}
