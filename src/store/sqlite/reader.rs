//! The reading side: connections of its own, which the writer never waits for.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, Transaction, TransactionBehavior};

use super::error::{at, foreign};
use super::layout::{APPLICATION_ID, LAYOUT, Sql, TableSql};
use super::letters;
use super::table::{bind_values, read_row};
use crate::domain::catalog::Catalog;
use crate::domain::checkpoint::TopicPartition;
use crate::domain::retry::RetryReason;
use crate::domain::row::RowState;
use crate::domain::state::{Facts, State, believable, state};
use crate::domain::value::Value;
use crate::store::{
    LetterPage, LetterQuery, PositionStatus, Reader, RowLookup, Status, StoreError, TableStatus,
};

/// Reads a SQLite replica while its daemon writes it, or while there is none: always the live
/// generation, whichever that is when it is asked.
#[derive(Debug)]
pub struct SqliteReader {
    path: PathBuf,
    catalog: Arc<Catalog>,
    /// Opened when first needed; given up after an error, in case that the file was replaced.
    open: Mutex<Option<Open>>,
}

#[derive(Debug)]
struct Open {
    conn: Connection,
    /// The generation that was asked last, and the statements over its tables.
    asked: Option<(i64, Vec<TableSql>)>,
}

impl SqliteReader {
    /// `catalog` is the mapping under which the live generation was built.
    pub fn new(path: &Path, catalog: Arc<Catalog>) -> SqliteReader {
        SqliteReader { path: path.to_owned(), catalog, open: Mutex::new(None) }
    }

    /// Runs `look` in one read transaction.
    fn read<T>(
        &self,
        look: impl FnOnce(&Connection, &mut Option<(i64, Vec<TableSql>)>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let mut slot = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let attempt = || {
            let Open { conn, mut asked } = match slot.take() {
                Some(open) => open,
                None => Open { conn: connect(&self.path)?, asked: None },
            };
            let tx = Transaction::new_unchecked(&conn, TransactionBehavior::Deferred)?;
            let found = look(&tx, &mut asked)?;
            drop(tx);
            *slot = Some(Open { conn, asked });
            Ok(found)
        };
        at(&self.path, attempt())
    }

    /// Statements over the live generation. One under another mapping cannot be read with this one:
    /// whoever asks is to be told of the switch first.
    fn statements<'a>(
        &self,
        conn: &Connection,
        asked: &'a mut Option<(i64, Vec<TableSql>)>,
    ) -> Result<&'a [TableSql], StoreError> {
        let (live, fingerprint): (i64, String) = conn
            .prepare_cached(
                "SELECT g.generation, g.fingerprint FROM _readside_meta_replica r \
                 JOIN _readside_meta_generations g ON g.generation = r.live",
            )?
            .query_row([], |row| Ok((row.get(0)?, row.get(1)?)))?;
        if fingerprint != self.catalog.fingerprint {
            return Err(StoreError::Retry {
                reason: RetryReason::Busy,
                message: "the copy has just been replaced by one under another mapping".into(),
            });
        }
        if asked.as_ref().is_none_or(|(generation, _)| *generation != live) {
            let sql = self.catalog.tables.iter().map(|table| TableSql::new(table, live)).collect();
            *asked = Some((live, sql));
        }
        Ok(asked.as_ref().map_or(&[], |(_, sql)| sql))
    }
}

impl Reader for SqliteReader {
    fn status(&self, now_ms: i64) -> Result<Status, StoreError> {
        self.read(|conn, _| read_status(conn, now_ms))
    }

    fn row(&self, table: usize, key: &[Value]) -> Result<RowLookup, StoreError> {
        let Some(shape) = self.catalog.tables.get(table) else { return Ok(RowLookup::Missing) };
        let Some(row) = self.state_of(table, key)? else { return Ok(RowLookup::Missing) };
        Ok(match (row.version, row.deleted) {
            (Some(version), _) if row.is_visible(shape) => {
                let null = |value| if value == Value::Absent { Value::Null } else { value };
                RowLookup::Visible { values: row.values.into_iter().map(null).collect(), version }
            }
            (_, Some(version)) => RowLookup::Deleted { version },
            _ => RowLookup::Missing,
        })
    }

    fn state_of(&self, table: usize, key: &[Value]) -> Result<Option<RowState>, StoreError> {
        let Some(shape) = self.catalog.tables.get(table) else { return Ok(None) };
        self.read(|conn, asked| {
            let Some(sql) = self.statements(conn, asked)?.get(table) else { return Ok(None) };
            for lookup in [Sql::Find, Sql::FindHidden] {
                let mut statement = conn.prepare_cached(&sql.statements[lookup as usize])?;
                bind_values(&mut statement, key.iter().take(shape.key.len()))?;
                let mut rows = statement.raw_query();
                if let Some(row) = rows.next()? {
                    return read_row(shape, row).map(Some);
                }
            }
            Ok(None)
        })
    }

    fn is_dead_letter(&self, at: TopicPartition, offset: i64) -> Result<bool, StoreError> {
        let Some(topic) = self.catalog.topics.get(at.topic) else { return Ok(false) };
        self.read(|conn, _| {
            let mut statement = conn.prepare_cached(
                "SELECT 1 FROM _readside_meta_dead_letters WHERE generation = (SELECT live FROM \
                 _readside_meta_replica) AND topic = ?1 AND \"partition\" = ?2 AND \"offset\" = ?3",
            )?;
            Ok(statement.exists((topic, at.partition, offset))?)
        })
    }

    fn dead_letters(&self, query: &LetterQuery) -> Result<LetterPage, StoreError> {
        self.read(|conn, _| letters::page(conn, query))
    }
}

/// The status of a replica whose configuration is not at hand.
pub fn sqlite_status(path: &Path, now_ms: i64) -> Result<Status, StoreError> {
    let status = connect(path).and_then(|conn| {
        let tx = Transaction::new_unchecked(&conn, TransactionBehavior::Deferred)?;
        read_status(&tx, now_ms)
    });
    at(path, status)
}

/// The dead letters of a replica whose configuration is not at hand.
pub fn sqlite_dead_letters(path: &Path, query: &LetterQuery) -> Result<LetterPage, StoreError> {
    at(path, connect(path).and_then(|conn| letters::page(&conn, query)))
}

fn connect(path: &Path) -> Result<Connection, StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(path, flags)?;
    conn.busy_timeout(Duration::from_millis(500))?;
    let pragma = |name: &str| conn.pragma_query_value(None, name, |row| row.get::<_, i32>(0));
    if pragma("application_id")? != APPLICATION_ID || pragma("user_version")? != LAYOUT {
        return Err(foreign("the file is not a replica that this version of readside can read".into()));
    }
    Ok(conn)
}

/// The same as `_readside_status` and `_readside_positions` show, at a given time.
fn read_status(conn: &Connection, now_ms: i64) -> Result<Status, StoreError> {
    let mut tables = Vec::new();
    let mut statement = conn.prepare_cached(
        "SELECT table_name, stopped IS NOT NULL, complete, connected, heartbeat_ms, heartbeat_limit_ms, \
         fresh_as_of_ms, max_staleness_ms, missing_events, rebuilding, lag_records, rows, dead_letters, generation, \
         strftime('%Y-%m-%dT%H:%M:%fZ', fresh_as_of_ms / 1000.0, 'unixepoch') FROM _readside_facts ORDER BY ordinal",
    )?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let facts = Facts {
            stopped: row.get(1)?,
            complete: row.get(2)?,
            connected: row.get(3)?,
            heartbeat_ms: row.get(4)?,
            heartbeat_limit_ms: row.get(5)?,
            fresh_as_of_ms: row.get(6)?,
            max_staleness_ms: row.get(7)?,
            missing_events: row.get(8)?,
            rebuilding: row.get(9)?,
        };
        let fresh_as_of_ms = believable(facts.fresh_as_of_ms, now_ms, facts.heartbeat_limit_ms);
        tables.push(TableStatus {
            table_name: row.get(0)?,
            state: state(&facts, now_ms),
            complete: facts.complete,
            rebuilding: facts.rebuilding,
            missing_events: facts.missing_events,
            fresh_as_of: fresh_as_of_ms.and_then(|_| row.get(14).transpose()).transpose()?,
            fresh_as_of_ms,
            lag_records: row.get(10)?,
            max_staleness_ms: facts.max_staleness_ms,
            rows: row.get::<_, i64>(11)?.max(0) as u64,
            dead_letters: row.get::<_, i64>(12)?.max(0) as u64,
            generation: row.get(13)?,
        });
    }
    let mut positions = Vec::new();
    let mut statement = conn.prepare_cached(
        "SELECT generation, topic, \"partition\", next_offset, end_offset, leader_epoch, topic_id, cluster_id, \
         fresh_as_of_ms FROM _readside_positions WHERE next_offset IS NOT NULL ORDER BY 1, 2, 3",
    )?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        positions.push(PositionStatus {
            generation: row.get(0)?,
            topic: row.get(1)?,
            partition: row.get(2)?,
            next_offset: row.get(3)?,
            end_offset: row.get(4)?,
            leader_epoch: row.get(5)?,
            topic_id: row.get(6)?,
            cluster_id: row.get(7)?,
            fresh_as_of_ms: row.get(8)?,
        });
    }
    let worst = tables.iter().map(|table| table.state).min().unwrap_or(State::Building);
    let mut statement = conn.prepare_cached(
        "SELECT r.name, g.complete, g.stopped, g.cluster_id, f.fresh_as_of_ms, f.lag_records, f.dead_letters, \
         strftime('%Y-%m-%dT%H:%M:%fZ', f.fresh_as_of_ms / 1000.0, 'unixepoch'), r.heartbeat_limit_ms \
         FROM _readside_meta_replica r JOIN _readside_meta_generations g ON g.generation = r.live, \
         _readside_replica_facts f",
    )?;
    let status = statement.query_row([], |row| {
        let fresh_as_of_ms = believable(row.get(4)?, now_ms, row.get(8)?);
        Ok(Status {
            replica: row.get(0)?,
            state: worst,
            complete: row.get(1)?,
            fresh_as_of: fresh_as_of_ms.and_then(|_| row.get(7).transpose()).transpose()?,
            fresh_as_of_ms,
            lag_records: row.get(5)?,
            dead_letters: row.get::<_, i64>(6)?.max(0) as u64,
            stopped: row.get(2)?,
            cluster_id: row.get(3)?,
            tables,
            positions,
        })
    })?;
    Ok(status)
}
