//! Opening a generation: settings of the connection, then what is kept in memory.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, params};

use super::error::damaged;
use super::layout::{self, Sql, TableSql};
use super::owner;
use super::replica::SqliteReplica;
use super::{Memory, Role, Settings, SqliteStore, TableMemory};
use crate::domain::catalog::Catalog;
use crate::domain::sample::Sample;
use crate::domain::snapshot::{Phase, Snapshot};
use crate::domain::version::Version;
use crate::store::StoreError;
use crate::store::rules::Floors;

/// Pages of WAL after which a commit copies them into the file.
const CHECKPOINT_PAGES: i64 = 1_000;
/// What the WAL file is cut to when it is reset.
const WAL_KEEP_BYTES: i64 = 8 << 20;
const CACHE_KIB: i64 = 2 << 10;

impl SqliteStore {
    /// Opens or creates the replica at `path` for its live generation. Refuses (`Stop`) what
    /// [`SqliteReplica::open`] refuses and a copy under another mapping, without having touched it.
    pub fn open(path: &Path, catalog: Arc<Catalog>, settings: Settings) -> Result<SqliteStore, StoreError> {
        SqliteReplica::open(path, settings)?.open_live(catalog)
    }
}

/// A generation that is in the file.
pub(super) fn generation(
    replica: &SqliteReplica,
    conn: Connection,
    catalog: Arc<Catalog>,
    generation: i64,
    role: Role,
) -> Result<SqliteStore, StoreError> {
    let home = Arc::clone(&replica.home);
    let settings = replica.settings.clone();
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false)?;
    let complete: bool = conn.query_row(
        "SELECT complete FROM _readside_meta_generations WHERE generation = ?1",
        [generation],
        |row| row.get(0),
    )?;
    // A crash of the machine during the first copy starts it over; with something to lose, NORMAL
    // keeps rows and positions consistent, and what power loss takes comes again from the log.
    let durable = complete || role != Role::Live;
    if role == Role::Live {
        match complete {
            true => home.lock().mark_clean()?,
            false => home.lock().mark_building()?,
        }
    }
    configure(&conn, &home.path, durable)?;
    conn.set_prepared_statement_cache_capacity(36 + layout::STATEMENTS * catalog.tables.len());
    adopt_settings(&conn, &catalog, &settings, generation)?;
    let sql: Vec<TableSql> = catalog.tables.iter().map(|table| TableSql::new(table, generation)).collect();
    let memory = load(&conn, &catalog, &sql, generation)?;
    let mut store = SqliteStore {
        conn,
        path: home.path.clone(),
        home,
        generation,
        role,
        sql,
        samples: catalog.tables.iter().map(|_| Sample::default()).collect(),
        catalog,
        settings,
        memory,
        complete,
        floors: Floors::default(),
        unconfirmed: None,
        pinned: None,
        wal_inode: None,
    };
    store.look_at_wal()?;
    // Of a rebuild that goes on, too: where somebody else writes, its indexes are made before its rows and
    // not at the switch.
    if complete || role == (Role::Next { carries_live: false }) {
        store.adjust_indexes()?;
    }
    Ok(store)
}

fn configure(conn: &Connection, path: &Path, durable: bool) -> Result<(), StoreError> {
    conn.pragma_update(None, "journal_mode", "WAL")?;
    conn.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)?;
    conn.pragma_update(None, "journal_size_limit", WAL_KEEP_BYTES)?;
    conn.pragma_update(None, "cache_size", -CACHE_KIB)?;
    conn.pragma_update(None, "mmap_size", 0)?;
    conn.pragma_update(None, "trusted_schema", false)?;
    conn.pragma_update(None, "synchronous", if durable { "NORMAL" } else { "OFF" })?;
    // Sorting for indexes needs room, and the root file system may be read-only. The pragma is
    // deprecated for being process-wide, which suits a process with one replica.
    let directory = owner::directory_of(path);
    if let Some(directory) = directory.to_str() {
        conn.pragma_update(None, "temp_store_directory", directory)?;
    }
    Ok(())
}

/// What may change without changing a row.
fn adopt_settings(
    conn: &Connection,
    catalog: &Catalog,
    settings: &Settings,
    generation: i64,
) -> Result<(), StoreError> {
    let limit = settings.heartbeat_limit_ms();
    conn.execute(
        "UPDATE _readside_meta_replica SET heartbeat_limit_ms = ?1 WHERE heartbeat_limit_ms <> ?1",
        [limit],
    )?;
    for (ordinal, table) in catalog.tables.iter().enumerate() {
        conn.execute(
            "UPDATE _readside_meta_tables SET max_staleness_ms = ?3, ordinal = ?4 \
             WHERE generation = ?1 AND table_name = ?2 AND (max_staleness_ms <> ?3 OR ordinal <> ?4)",
            params![generation, table.name, table.max_staleness_ms, ordinal as i64],
        )?;
    }
    Ok(())
}

/// What a table remembers of truncates and of whole snapshots.
fn load_marks(
    conn: &Connection,
    table: &str,
    generation: i64,
) -> Result<(Option<Version>, Option<Snapshot>), StoreError> {
    let (truncated, begin, phase): (Option<Vec<u8>>, Option<Vec<u8>>, Option<String>) = conn.query_row(
        "SELECT truncated, snapshot, snapshot_phase FROM _readside_meta_tables \
         WHERE generation = ?1 AND table_name = ?2",
        params![generation, table],
        |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
    )?;
    let version = |bytes: Vec<u8>| {
        Version::from_bytes(&bytes).ok_or_else(|| damaged("a version", "_readside_meta_tables"))
    };
    let snapshot = match (begin.map(version).transpose()?, phase) {
        (Some(begin), Some(phase)) => {
            let phase = Phase::from_name(&phase);
            let phase = phase.ok_or_else(|| damaged("a phase", "_readside_meta_tables"))?;
            Some(Snapshot { begin, phase })
        }
        _ => None,
    };
    Ok((truncated.map(version).transpose()?, snapshot))
}

fn load(
    conn: &Connection,
    catalog: &Catalog,
    sql: &[TableSql],
    generation: i64,
) -> Result<Memory, StoreError> {
    let mut tables = Vec::with_capacity(catalog.tables.len());
    for (table, sql) in catalog.tables.iter().zip(sql) {
        let (rows, held, marks) = conn.query_row(
            "SELECT rows, held, delete_marks FROM _readside_meta_tables WHERE generation = ?1 AND table_name = ?2",
            params![generation, table.name],
            |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
        )?;
        let (truncated, snapshot) = load_marks(conn, &table.name, generation)?;
        let appending = !sql.key_indexes.is_empty()
            && !conn
                .prepare_cached("SELECT 1 FROM sqlite_schema WHERE type = 'index' AND name = ?1")?
                .exists([&sql.key_index])?;
        let prefix_marks = match table.prefixes.is_empty() {
            true => 0,
            false => conn.query_row(&sql.statements[Sql::CountMarks as usize], [], |row| row.get(0))?,
        };
        let update_first = false;
        tables.push(TableMemory {
            rows,
            held,
            marks,
            truncated,
            snapshot,
            prefix_marks,
            appending,
            update_first,
        });
    }
    let mut dead_letters = vec![0; catalog.topics.len()];
    let mut kept = conn.prepare(
        "SELECT topic, COUNT(*), SUM(COALESCE(LENGTH(\"key\"), 0) + COALESCE(LENGTH(\"value\"), 0) \
         + COALESCE(LENGTH(CAST(headers AS BLOB)), 0)) FROM _readside_meta_dead_letters \
         WHERE generation = ?1 GROUP BY topic",
    )?;
    let mut dead_letter_bytes = 0;
    let mut rows = kept.query([generation])?;
    while let Some(row) = rows.next()? {
        let topic: String = row.get(0)?;
        if let Ok(index) = catalog.topics.binary_search(&topic) {
            dead_letters[index] = row.get::<_, i64>(1)?.max(0) as u64;
        }
        dead_letter_bytes += row.get::<_, i64>(2)?;
    }
    let cluster_id = conn.query_row(
        "SELECT cluster_id FROM _readside_meta_generations WHERE generation = ?1",
        [generation],
        |row| row.get(0),
    )?;
    let mut topic_ids = BTreeMap::new();
    let mut ids = conn.prepare(
        "SELECT topic, topic_id FROM _readside_meta_topics WHERE generation = ?1 AND topic_id IS NOT NULL",
    )?;
    let mut rows = ids.query([generation])?;
    while let Some(row) = rows.next()? {
        if let Ok(index) = catalog.topics.binary_search(&row.get::<_, String>(0)?) {
            topic_ids.insert(index, row.get(1)?);
        }
    }
    Ok(Memory { tables, dead_letters, dead_letter_bytes, cluster_id, topic_ids })
}
