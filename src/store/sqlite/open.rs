//! Opening: identity first, then settings, then what is kept in memory.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, FileControl, MAIN_DB, OpenFlags, OptionalExtension, TransactionBehavior, params};

use super::error::{at, damaged, foreign};
use super::layout::{self, APPLICATION_ID, GENERATION, LAYOUT, TableSql};
use super::owner::{self, Lock};
use super::{Memory, Settings, SqliteStore, TableMemory, views};
use crate::domain::catalog::Catalog;
use crate::domain::version::Version;
use crate::store::StoreError;

/// How long a statement waits for a lock of another program before the batch is retried.
const BUSY_TIMEOUT: Duration = Duration::from_millis(200);
/// Pages of WAL after which a commit copies them into the file.
const CHECKPOINT_PAGES: i64 = 1_000;
/// What the WAL file is cut to when it is reset.
const WAL_KEEP_BYTES: i64 = 8 << 20;
const CACHE_KIB: i64 = 4 << 10;

impl SqliteStore {
    /// Opens or creates the replica at `path`. Refuses (`Stop`) a file of another program, of
    /// another replica, of a newer layout or another mapping, without having touched it, and a
    /// replica that another process writes.
    pub fn open(path: &Path, catalog: Arc<Catalog>, settings: Settings) -> Result<SqliteStore, StoreError> {
        at(path, open(path, catalog, settings))
    }
}

fn open(path: &Path, catalog: Arc<Catalog>, settings: Settings) -> Result<SqliteStore, StoreError> {
    owner::inspect(path)?;
    let mut lock = Lock::acquire(path)?;
    let sql: Vec<TableSql> = catalog.tables.iter().map(TableSql::new).collect();

    let flags =
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(path, flags)?;
    // A file that turns out to be foreign must not even be tidied up on closing.
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    conn.file_control(Some(MAIN_DB), FileControl::PersistWal(&mut 1))?;
    conn.busy_timeout(BUSY_TIMEOUT)?;
    owner::refuse_read_only(&conn)?;

    let tables: i64 = conn.query_row("SELECT COUNT(*) FROM sqlite_schema", [], |row| row.get(0))?;
    if tables == 0 {
        create(&conn, &catalog, &sql, &settings)?;
    } else {
        identify(&conn, &catalog, &sql, &settings)?;
    }
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false)?;

    let complete: bool =
        conn.query_row("SELECT complete FROM _readside_meta_replica", [], |row| row.get(0))?;
    if complete {
        lock.mark_clean()?;
    } else {
        lock.mark_building()?;
    }
    configure(&conn, path, complete)?;
    conn.set_prepared_statement_cache_capacity(28 + layout::STATEMENTS * catalog.tables.len());
    adopt_settings(&conn, &catalog, &settings)?;
    adopt_views(&conn)?;
    let memory = load(&conn, &catalog)?;
    let store = SqliteStore {
        conn,
        lock,
        path: path.to_owned(),
        catalog,
        sql,
        settings,
        memory,
        complete,
        unconfirmed: None,
    };
    if complete {
        store.adjust_indexes()?;
    }
    Ok(store)
}

/// The whole layout in one transaction with a rollback journal: afterwards the file is ours, or as
/// empty as before.
fn create(
    conn: &Connection,
    catalog: &Catalog,
    sql: &[TableSql],
    settings: &Settings,
) -> Result<(), StoreError> {
    conn.pragma_update(None, "page_size", 4096)?;
    let tx = rusqlite::Transaction::new_unchecked(conn, TransactionBehavior::Immediate)?;
    tx.pragma_update(None, "application_id", APPLICATION_ID)?;
    tx.pragma_update(None, "user_version", LAYOUT)?;
    tx.execute_batch(layout::META)?;
    for view in views::definitions() {
        tx.execute_batch(&view)?;
    }
    tx.execute(
        "INSERT INTO _readside_meta_replica (id, name, fingerprint, generation, complete, rebuilding, connected, \
         heartbeat_limit_ms, last_batch) VALUES (1, ?1, ?2, ?3, 0, 0, 0, ?4, 0)",
        params![settings.replica_name, catalog.fingerprint, GENERATION, settings.heartbeat_limit_ms()],
    )?;
    for topic in &catalog.topics {
        tx.execute(
            "INSERT INTO _readside_meta_topics (generation, topic) VALUES (?1, ?2)",
            params![GENERATION, topic],
        )?;
    }
    for (ordinal, (table, sql)) in catalog.tables.iter().zip(sql).enumerate() {
        tx.execute(
            "INSERT INTO _readside_meta_tables (generation, table_name, ordinal, fingerprint, max_staleness_ms, \
             rows, held, delete_marks, missing_events) VALUES (?1, ?2, ?3, ?4, ?5, 0, 0, 0, 0)",
            params![GENERATION, table.name, ordinal as i64, table.fingerprint, table.max_staleness_ms],
        )?;
        for &topic in &table.topics {
            tx.execute(
                "INSERT INTO _readside_meta_sources (generation, table_name, topic) VALUES (?1, ?2, ?3)",
                params![GENERATION, table.name, catalog.topics[topic]],
            )?;
        }
        for definition in &sql.create {
            tx.execute_batch(definition)?;
        }
    }
    tx.commit()?;
    Ok(())
}

/// Reads only.
fn identify(
    conn: &Connection,
    catalog: &Catalog,
    sql: &[TableSql],
    settings: &Settings,
) -> Result<(), StoreError> {
    let pragma = |name: &str| conn.pragma_query_value(None, name, |row| row.get::<_, i32>(0));
    if pragma("application_id")? != APPLICATION_ID {
        return Err(foreign(
            "the file is the database of another program; choose another replica.sqlite.path".into(),
        ));
    }
    let layout = pragma("user_version")?;
    if layout != LAYOUT {
        return Err(foreign(format!(
            "the file has layout {layout} and this readside knows layout {LAYOUT}: use the version of readside \
             that wrote it, or delete the file to build it anew"
        )));
    }
    let (name, fingerprint): (String, String) =
        conn.query_row("SELECT name, fingerprint FROM _readside_meta_replica WHERE id = 1", [], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })?;
    if name != settings.replica_name {
        return Err(foreign(format!(
            "the file belongs to replica {name:?}, and replica.name is {:?}: correct one of them or choose \
             another replica.sqlite.path",
            settings.replica_name
        )));
    }
    let differs = differing_tables(conn, catalog, sql)?;
    if fingerprint != catalog.fingerprint || !differs.is_empty() {
        let which = if differs.is_empty() { String::new() } else { format!(" of {}", differs.join(", ")) };
        return Err(foreign(format!(
            "the file was built under another mapping{which}: restore the mapping, or delete the file to build \
             it anew"
        )));
    }
    Ok(())
}

/// Names of tables that are not there, or not as the catalog has them, and of those that are too many.
fn differing_tables(
    conn: &Connection,
    catalog: &Catalog,
    sql: &[TableSql],
) -> Result<Vec<String>, StoreError> {
    let mut stored = conn
        .prepare("SELECT table_name, fingerprint FROM _readside_meta_tables WHERE generation = ?1")?
        .query_map([GENERATION], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)))?
        .collect::<Result<Vec<_>, _>>()?;
    let mut differing = Vec::new();
    for (table, sql) in catalog.tables.iter().zip(sql) {
        let known = stored.iter().position(|(name, _)| *name == table.name).map(|at| stored.swap_remove(at));
        let definition: Option<String> = conn
            .query_row(
                "SELECT sql FROM sqlite_schema WHERE type = 'table' AND name = ?1",
                [format!("_readside_g{GENERATION}_{}", table.name)],
                |row| row.get(0),
            )
            .optional()?;
        if known.is_none_or(|(_, fingerprint)| fingerprint != table.fingerprint)
            || definition.as_ref() != sql.create.first()
        {
            differing.push(table.name.clone());
        }
    }
    differing.extend(stored.into_iter().map(|(name, _)| name));
    Ok(differing)
}

fn configure(conn: &Connection, path: &Path, complete: bool) -> Result<(), StoreError> {
    conn.pragma_update(None, "journal_mode", "WAL")?;
    conn.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)?;
    conn.pragma_update(None, "journal_size_limit", WAL_KEEP_BYTES)?;
    conn.pragma_update(None, "cache_size", -CACHE_KIB)?;
    conn.pragma_update(None, "mmap_size", 0)?;
    conn.pragma_update(None, "trusted_schema", false)?;
    // A crash of the machine during the first copy starts it over; afterwards NORMAL keeps rows and
    // positions consistent, and what power loss takes comes again from the log.
    conn.pragma_update(None, "synchronous", if complete { "NORMAL" } else { "OFF" })?;
    // Sorting for indexes needs room, and the root file system may be read-only. The pragma is
    // deprecated for being process-wide, which suits a process with one replica.
    let directory = owner::directory_of(path);
    if let Some(directory) = directory.to_str() {
        conn.pragma_update(None, "temp_store_directory", directory)?;
    }
    Ok(())
}

/// What may change without changing a row.
fn adopt_settings(conn: &Connection, catalog: &Catalog, settings: &Settings) -> Result<(), StoreError> {
    let limit = settings.heartbeat_limit_ms();
    conn.execute(
        "UPDATE _readside_meta_replica SET heartbeat_limit_ms = ?1 WHERE heartbeat_limit_ms <> ?1",
        [limit],
    )?;
    for (ordinal, table) in catalog.tables.iter().enumerate() {
        conn.execute(
            "UPDATE _readside_meta_tables SET max_staleness_ms = ?3, ordinal = ?4 \
             WHERE generation = ?1 AND table_name = ?2 AND (max_staleness_ms <> ?3 OR ordinal <> ?4)",
            params![GENERATION, table.name, table.max_staleness_ms, ordinal as i64],
        )?;
    }
    Ok(())
}

/// The views of a file that another build of readside has made say what this one says.
fn adopt_views(conn: &Connection) -> Result<(), StoreError> {
    let stored: Vec<String> = conn
        .prepare("SELECT sql FROM sqlite_schema WHERE type = 'view'")?
        .query_map([], |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    let definitions = views::definitions();
    if definitions.iter().all(|view| stored.contains(view)) {
        return Ok(());
    }
    let tx = rusqlite::Transaction::new_unchecked(conn, TransactionBehavior::Immediate)?;
    for view in &definitions {
        let name = view.split_whitespace().nth(2).unwrap_or_default();
        tx.execute_batch(&format!("DROP VIEW IF EXISTS {name}; {view}"))?;
    }
    tx.commit()?;
    Ok(())
}

fn load(conn: &Connection, catalog: &Catalog) -> Result<Memory, StoreError> {
    let mut tables = Vec::with_capacity(catalog.tables.len());
    for table in &catalog.tables {
        let (rows, held, marks, truncated): (i64, i64, i64, Option<Vec<u8>>) = conn.query_row(
            "SELECT rows, held, delete_marks, truncated FROM _readside_meta_tables \
             WHERE generation = ?1 AND table_name = ?2",
            params![GENERATION, table.name],
            |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)),
        )?;
        let truncated = match truncated {
            None => None,
            Some(bytes) => Some(
                Version::from_bytes(&bytes)
                    .ok_or_else(|| damaged("the truncate mark", "_readside_meta_tables"))?,
            ),
        };
        tables.push(TableMemory { rows, held, marks, truncated, update_first: false });
    }
    let mut dead_letters = vec![0; catalog.topics.len()];
    let mut kept = conn.prepare(
        "SELECT topic, COUNT(*), SUM(COALESCE(LENGTH(\"key\"), 0) + COALESCE(LENGTH(\"value\"), 0) \
         + COALESCE(LENGTH(CAST(headers AS BLOB)), 0)) FROM _readside_meta_dead_letters GROUP BY topic",
    )?;
    let mut dead_letter_bytes = 0;
    let mut rows = kept.query([])?;
    while let Some(row) = rows.next()? {
        let topic: String = row.get(0)?;
        if let Ok(index) = catalog.topics.binary_search(&topic) {
            dead_letters[index] = row.get::<_, i64>(1)?.max(0) as u64;
        }
        dead_letter_bytes += row.get::<_, i64>(2)?;
    }
    let cluster_id = conn.query_row("SELECT cluster_id FROM _readside_meta_replica", [], |row| row.get(0))?;
    let mut topic_ids = std::collections::BTreeMap::new();
    let mut ids = conn.prepare(
        "SELECT topic, topic_id FROM _readside_meta_topics WHERE generation = ?1 AND topic_id IS NOT NULL",
    )?;
    let mut rows = ids.query([GENERATION])?;
    while let Some(row) = rows.next()? {
        if let Ok(index) = catalog.topics.binary_search(&row.get::<_, String>(0)?) {
            topic_ids.insert(index, row.get(1)?);
        }
    }
    Ok(Memory { tables, dead_letters, dead_letter_bytes, cluster_id, topic_ids })
}
