//! The life of a generation: begun beside the live one, switched to, and dropped.

use std::collections::BTreeMap;

use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params};

use super::error::damaged;
use super::layout::{self, APPLICATION_ID, FIRST, LAYOUT, TableSql, quote};
use super::{Role, Settings, SqliteStore, views};
use crate::domain::catalog::Catalog;
use crate::domain::checkpoint::{Position, TopicPartition};
use crate::store::rules::{Floors, Standing};
use crate::store::{Completion, Rebuild, StopCode, StoreError};

/// Rows of a dropped generation that go in one transaction.
const DROPPED_PER_SLICE: i64 = 4_000;

pub(super) fn transaction(conn: &Connection) -> Result<Transaction<'_>, rusqlite::Error> {
    Transaction::new_unchecked(conn, TransactionBehavior::Immediate)
}

/// The whole layout in one transaction with a rollback journal: afterwards the file is ours, or as
/// empty as before.
pub(super) fn create_first(
    conn: &Connection,
    catalog: &Catalog,
    settings: &Settings,
) -> Result<(), StoreError> {
    conn.pragma_update(None, "page_size", 4096)?;
    let tx = transaction(conn)?;
    tx.pragma_update(None, "application_id", APPLICATION_ID)?;
    tx.pragma_update(None, "user_version", LAYOUT)?;
    tx.execute_batch(layout::META)?;
    for view in views::definitions() {
        tx.execute_batch(&view)?;
    }
    tx.execute(
        "INSERT INTO _readside_meta_replica (id, name, heartbeat_limit_ms, live, last_generation) \
         VALUES (1, ?1, ?2, ?3, ?3)",
        params![settings.replica_name, settings.heartbeat_limit_ms(), FIRST],
    )?;
    define(&tx, catalog, FIRST, Begin::FirstCopy)?;
    tx.commit()?;
    Ok(())
}

/// A copy nobody has seen gives way to the first one of another mapping.
pub(super) fn replace_unfinished(conn: &Connection, catalog: &Catalog) -> Result<i64, StoreError> {
    let tx = transaction(conn)?;
    tx.execute("UPDATE _readside_meta_generations SET role = 'dropped'", [])?;
    let number = take_number(&tx)?;
    tx.execute("UPDATE _readside_meta_replica SET live = ?1", [number])?;
    define(&tx, catalog, number, Begin::FirstCopy)?;
    tx.commit()?;
    Ok(number)
}

/// A half-built one is put out of use.
pub(super) fn create_next(
    conn: &Connection,
    catalog: &Catalog,
    rebuild: &Rebuild,
) -> Result<i64, StoreError> {
    let tx = transaction(conn)?;
    tx.execute("UPDATE _readside_meta_generations SET role = 'dropped' WHERE role = 'next'", [])?;
    let number = take_number(&tx)?;
    define(&tx, catalog, number, Begin::Next { alone: rebuild.live_is_frozen })?;
    tx.execute(
        "UPDATE _readside_meta_generations SET reason = ?2, may_go_back = ?3, accepts_loss = ?4, \
         carries_live = ?5 WHERE generation = ?1",
        params![number, rebuild.reason, rebuild.may_go_back, rebuild.accepts_loss, rebuild.live_is_frozen],
    )?;
    if !rebuild.live_is_frozen {
        // Building an index locks the file for as long as it takes: not while somebody else writes.
        for (_, sql) in layout::secondary_indexes(catalog, number) {
            tx.execute_batch(&sql)?;
        }
    }
    tx.commit()?;
    Ok(number)
}

pub(super) fn abandon_next(conn: &Connection) -> Result<(), StoreError> {
    conn.execute("UPDATE _readside_meta_generations SET role = 'dropped' WHERE role = 'next'", [])?;
    Ok(())
}

/// Numbers are not used again, so that nothing of a dropped generation can be taken for a new one.
fn take_number(tx: &Connection) -> Result<i64, StoreError> {
    Ok(tx.query_row(
        "UPDATE _readside_meta_replica SET last_generation = last_generation + 1 RETURNING last_generation",
        [],
        |row| row.get(0),
    )?)
}

/// What a new generation is.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Begin {
    FirstCopy,
    /// `alone`: nobody else writes the file.
    Next {
        alone: bool,
    },
}

/// Tables and bookkeeping of a new generation.
fn define(tx: &Connection, catalog: &Catalog, generation: i64, begin: Begin) -> Result<(), StoreError> {
    let described = described(catalog)?;
    let role = if begin == Begin::FirstCopy { "live" } else { "next" };
    tx.execute(
        "INSERT INTO _readside_meta_generations (generation, role, fingerprint, catalog) VALUES (?1, ?2, ?3, ?4)",
        params![generation, role, catalog.fingerprint, described],
    )?;
    for topic in &catalog.topics {
        tx.execute(
            "INSERT INTO _readside_meta_topics (generation, topic) VALUES (?1, ?2)",
            params![generation, topic],
        )?;
    }
    for (ordinal, table) in catalog.tables.iter().enumerate() {
        tx.execute(
            "INSERT INTO _readside_meta_tables (generation, table_name, ordinal, fingerprint, max_staleness_ms, \
             rows, held, delete_marks, missing_events) VALUES (?1, ?2, ?3, ?4, ?5, 0, 0, 0, 0)",
            params![generation, table.name, ordinal as i64, table.fingerprint, table.max_staleness_ms],
        )?;
        for &topic in &table.topics {
            tx.execute(
                "INSERT INTO _readside_meta_sources (generation, table_name, topic) VALUES (?1, ?2, ?3)",
                params![generation, table.name, catalog.topics[topic]],
            )?;
        }
        let sql = TableSql::new(table, generation);
        for definition in &sql.create {
            tx.execute_batch(definition)?;
        }
        // Otherwise at the end; see `append`. That locks the file for as long as it takes, and is of no
        // use where steps depend on rows.
        if begin == (Begin::Next { alone: false }) || !table.prefixes.is_empty() {
            for index in &sql.key_indexes {
                tx.execute_batch(index)?;
            }
        }
    }
    Ok(())
}

/// As the file keeps it.
pub(super) fn described(catalog: &Catalog) -> Result<String, StoreError> {
    serde_json::to_string(catalog)
        .map_err(|error| damaged(&format!("the mapping ({error})"), "_readside_meta_generations"))
}

/// The mapping a generation was built under.
pub(super) fn catalog_of(conn: &Connection, generation: i64) -> Result<Catalog, StoreError> {
    let text: String = conn.query_row(
        "SELECT catalog FROM _readside_meta_generations WHERE generation = ?1",
        [generation],
        |row| row.get(0),
    )?;
    serde_json::from_str(&text).map_err(|_| damaged("a mapping", "_readside_meta_generations"))
}

/// What the store finds about its generation when it is about to write.
pub(super) fn retired(generation: i64) -> StoreError {
    StoreError::Stop {
        exit: StopCode::Retired,
        message: format!("generation {generation} is not in use any more"),
    }
}

impl SqliteStore {
    /// Makes this generation the live one, in one transaction: views, freshness, number. Refuses as
    /// long as a position would go back, and for good when the copy is suspiciously small.
    pub(super) fn switch(&mut self) -> Result<Completion, StoreError> {
        if self.role == Role::Live {
            return Ok(Completion::Done);
        }
        if matches!(self.role, Role::Next { carries_live: true }) {
            self.end_appending()?;
            self.adjust_indexes()?;
        }
        let turn = self.home.turns.second();
        let tx = transaction(&self.conn)?;
        let live: i64 = tx.query_row("SELECT live FROM _readside_meta_replica", [], |row| row.get(0))?;
        // The reply to an earlier attempt may have been lost.
        let mut floors = Floors::default();
        if live != self.generation {
            let Some(rules) = self.rules_of_switch(&tx)? else { return Err(retired(self.generation)) };
            let (mine, theirs) = (Stand::of(&tx, self.generation)?, Stand::of(&tx, live)?);
            let (mine, theirs) = (mine.standing(), theirs.standing());
            if !rules.may_go_back && mine.is_behind(&theirs) {
                drop(tx);
                drop(turn);
                self.home.turns.hold();
                return Ok(Completion::Behind);
            }
            if !rules.accepts_loss
                && let Some(reason) = mine.suspicious_loss(&theirs, self.settings.loss)
            {
                drop(tx);
                self.home.turns.let_go();
                return Ok(Completion::Refused { reason });
            }
            floors = mine.floors(&theirs);
            self.keep_freshness(&tx, &floors)?;
            self.replace_views(&tx, live)?;
            tx.execute(
                "UPDATE _readside_meta_tables SET built_at_ms = (SELECT heartbeat_ms FROM \
                 _readside_meta_generations WHERE generation = ?1) WHERE generation = ?1",
                [self.generation],
            )?;
            tx.execute(
                "UPDATE _readside_meta_generations SET role = 'dropped' WHERE generation = ?1",
                [live],
            )?;
            tx.execute(
                "UPDATE _readside_meta_generations SET role = 'live', complete = 1 WHERE generation = ?1",
                [self.generation],
            )?;
            tx.execute("UPDATE _readside_meta_replica SET live = ?1", [self.generation])?;
        }
        tx.commit()?;
        self.role = Role::Live;
        self.complete = true;
        self.floors = floors;
        self.home.turns.let_go();
        Ok(Completion::Done)
    }

    fn rules_of_switch(&self, tx: &Connection) -> Result<Option<SwitchRules>, StoreError> {
        let found = tx
            .query_row(
                "SELECT may_go_back, accepts_loss FROM _readside_meta_generations \
                 WHERE generation = ?1 AND role = 'next'",
                [self.generation],
                |row| Ok(SwitchRules { may_go_back: row.get(0)?, accepts_loss: row.get(1)? }),
            )
            .optional()?;
        Ok(found)
    }

    /// Fresh-as-of does not go back with the switch.
    fn keep_freshness(&self, tx: &Connection, floors: &Floors) -> Result<(), StoreError> {
        let mut statement = tx.prepare(
            "INSERT INTO _readside_meta_partitions (generation, topic, \"partition\", fresh_as_of_ms) \
             VALUES (?1, ?2, ?3, ?4) \
             ON CONFLICT (generation, topic, \"partition\") DO UPDATE SET fresh_as_of_ms = excluded.fresh_as_of_ms",
        )?;
        for (at, fresh_as_of_ms) in &floors.partitions {
            let topic = &self.catalog.topics[at.topic];
            statement.execute(params![self.generation, topic, at.partition, fresh_as_of_ms])?;
        }
        Ok(())
    }

    /// Readers with open statements finish them on what they began with.
    fn replace_views(&self, tx: &Connection, live: i64) -> Result<(), StoreError> {
        for table in &catalog_of(tx, live)?.tables {
            tx.execute_batch(&layout::drop_view(&table.name))?;
        }
        for sql in &self.sql {
            tx.execute_batch(&sql.drop_view)?;
            tx.execute_batch(&sql.view)?;
        }
        Ok(())
    }

    /// Frees a little of what a generation that is out of use holds. True when there may be more.
    pub(super) fn drop_slice(&mut self) -> Result<bool, StoreError> {
        let dropped: Option<i64> = self
            .conn
            .prepare_cached("SELECT MIN(generation) FROM _readside_meta_generations WHERE role = 'dropped'")?
            .query_row([], |row| row.get(0))?;
        let Some(generation) = dropped else { return Ok(false) };
        let catalog = catalog_of(&self.conn, generation)?;
        let _turn = self.home.turns.first();
        let tx = transaction(&self.conn)?;
        if !drop_something(&tx, &catalog, generation)? {
            for table in [
                "_readside_meta_tables",
                "_readside_meta_topics",
                "_readside_meta_sources",
                "_readside_meta_partitions",
                "_readside_meta_generations",
            ] {
                tx.execute(&format!("DELETE FROM {table} WHERE generation = ?1"), [generation])?;
            }
        }
        tx.commit()?;
        Ok(true)
    }
}

/// One slice, or nothing because nothing is left.
fn drop_something(tx: &Connection, catalog: &Catalog, generation: i64) -> Result<bool, StoreError> {
    for table in &catalog.tables {
        for name in layout::tables_of(generation, table) {
            let exists: bool = tx.query_row(
                "SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = ?1)",
                [&name],
                |row| row.get(0),
            )?;
            if !exists {
                continue;
            }
            let index: Option<String> = tx
                .query_row(
                    "SELECT name FROM sqlite_schema WHERE type = 'index' AND tbl_name = ?1 AND sql IS NOT NULL \
                     LIMIT 1",
                    [&name],
                    |row| row.get(0),
                )
                .optional()?;
            // Without its indexes a table empties faster.
            if let Some(index) = index {
                tx.execute_batch(&format!("DROP INDEX {}", quote(&index)))?;
                return Ok(true);
            }
            let name = quote(&name);
            // By whatever a column may be called, the row's number has one name that is free.
            let rowid = layout::free_rowid_name(table);
            let gone = tx.execute(
                &format!("DELETE FROM {name} WHERE {rowid} IN (SELECT {rowid} FROM {name} LIMIT ?1)"),
                [DROPPED_PER_SLICE],
            )?;
            if gone == 0 {
                tx.execute_batch(&format!("DROP TABLE {name}"))?;
            }
            return Ok(true);
        }
    }
    for table in ["_readside_meta_event_ids", "_readside_meta_dead_letters"] {
        let gone = match table {
            "_readside_meta_event_ids" => tx.execute(
                "DELETE FROM _readside_meta_event_ids WHERE generation = ?1 AND (topic_index, nth) IN (SELECT \
                 topic_index, nth FROM _readside_meta_event_ids WHERE generation = ?1 LIMIT ?2)",
                [generation, DROPPED_PER_SLICE],
            )?,
            _ => tx.execute(
                "DELETE FROM _readside_meta_dead_letters WHERE rowid IN (SELECT rowid FROM \
                 _readside_meta_dead_letters WHERE generation = ?1 LIMIT ?2)",
                [generation, DROPPED_PER_SLICE],
            )?,
        };
        if gone > 0 {
            return Ok(true);
        }
    }
    Ok(false)
}

/// What is compared before a switch, of one generation.
struct Stand {
    catalog: Catalog,
    topic_ids: BTreeMap<usize, String>,
    positions: BTreeMap<TopicPartition, Position>,
    fresh_as_of_ms: BTreeMap<TopicPartition, i64>,
    rows: Vec<i64>,
    complete: bool,
}

impl Stand {
    fn of(tx: &Connection, generation: i64) -> Result<Stand, StoreError> {
        let catalog = catalog_of(tx, generation)?;
        let mut stand = Stand {
            topic_ids: BTreeMap::new(),
            positions: BTreeMap::new(),
            fresh_as_of_ms: BTreeMap::new(),
            rows: Vec::new(),
            complete: tx.query_row(
                "SELECT complete FROM _readside_meta_generations WHERE generation = ?1",
                [generation],
                |row| row.get(0),
            )?,
            catalog,
        };
        let topic = |name: String| stand.catalog.topics.binary_search(&name).ok();
        let mut statement = tx.prepare(
            "SELECT topic, topic_id FROM _readside_meta_topics WHERE generation = ?1 AND topic_id IS NOT NULL",
        )?;
        let mut rows = statement.query([generation])?;
        while let Some(row) = rows.next()? {
            if let Some(topic) = topic(row.get(0)?) {
                stand.topic_ids.insert(topic, row.get(1)?);
            }
        }
        let mut statement = tx.prepare(
            "SELECT topic, \"partition\", next_offset, fresh_as_of_ms FROM _readside_meta_partitions \
             WHERE generation = ?1",
        )?;
        let mut rows = statement.query([generation])?;
        while let Some(row) = rows.next()? {
            let Some(topic) = topic(row.get(0)?) else { continue };
            let at = TopicPartition { topic, partition: row.get(1)? };
            if let Some(next_offset) = row.get(2)? {
                stand.positions.insert(at, Position { next_offset, ..Position::start() });
            }
            if let Some(fresh_as_of_ms) = row.get(3)? {
                stand.fresh_as_of_ms.insert(at, fresh_as_of_ms);
            }
        }
        let mut statement =
            tx.prepare("SELECT rows FROM _readside_meta_tables WHERE generation = ?1 AND table_name = ?2")?;
        for table in &stand.catalog.tables {
            stand.rows.push(statement.query_row(params![generation, table.name], |row| row.get(0))?);
        }
        Ok(stand)
    }

    fn standing(&self) -> Standing<'_> {
        Standing {
            catalog: &self.catalog,
            topic_ids: &self.topic_ids,
            positions: &self.positions,
            fresh_as_of_ms: &self.fresh_as_of_ms,
            rows: self.rows.clone(),
            complete: self.complete,
        }
    }
}

struct SwitchRules {
    may_go_back: bool,
    accepts_loss: bool,
}
