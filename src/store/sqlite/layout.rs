//! What is in the file: names, definitions and the statements over the tables of a generation.
//!
//! Everything a reader can touch works on SQLite 3.31 (2020): no `STRICT`, no newer functions.

use rusqlite::{Connection, params};

use super::direct::TOGETHER;
use crate::domain::catalog::{Catalog, Table};
use crate::domain::value::ColumnType;

/// `PRAGMA application_id`: "rdsd".
pub(super) const APPLICATION_ID: i32 = 0x7264_7364;
/// `PRAGMA user_version`.
pub(super) const LAYOUT: i32 = 6;
/// The number of the first copy; each rebuild takes the next one, and none is used again.
pub(super) const FIRST: i64 = 1;

/// The bookkeeping tables. Readers look at the views in [`super::views`].
pub(super) const META: &str = "
CREATE TABLE _readside_meta_replica (
  id INTEGER PRIMARY KEY CHECK (id = 1),
  name TEXT NOT NULL,
  heartbeat_limit_ms INTEGER NOT NULL,
  live INTEGER NOT NULL,
  last_generation INTEGER NOT NULL
);
CREATE TABLE _readside_meta_generations (
  generation INTEGER PRIMARY KEY,
  role TEXT NOT NULL CHECK (role IN ('live', 'next', 'dropped')),
  fingerprint TEXT NOT NULL,
  catalog TEXT NOT NULL,
  cluster_id TEXT,
  complete INTEGER NOT NULL DEFAULT 0,
  connected INTEGER NOT NULL DEFAULT 0,
  heartbeat_ms INTEGER,
  stopped TEXT,
  last_batch INTEGER NOT NULL DEFAULT 0,
  reason TEXT,
  may_go_back INTEGER NOT NULL DEFAULT 0,
  accepts_loss INTEGER NOT NULL DEFAULT 0,
  carries_live INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE _readside_meta_tables (
  generation INTEGER NOT NULL,
  table_name TEXT NOT NULL,
  ordinal INTEGER NOT NULL,
  fingerprint TEXT NOT NULL,
  max_staleness_ms INTEGER NOT NULL,
  rows INTEGER NOT NULL,
  held INTEGER NOT NULL,
  delete_marks INTEGER NOT NULL,
  truncated BLOB,
  snapshot BLOB,
  snapshot_phase TEXT,
  missing_events INTEGER NOT NULL,
  built_at_ms INTEGER,
  PRIMARY KEY (generation, table_name)
) WITHOUT ROWID;
CREATE TABLE _readside_meta_topics (
  generation INTEGER NOT NULL,
  topic TEXT NOT NULL,
  topic_id TEXT,
  PRIMARY KEY (generation, topic)
) WITHOUT ROWID;
CREATE TABLE _readside_meta_sources (
  generation INTEGER NOT NULL,
  table_name TEXT NOT NULL,
  topic TEXT NOT NULL,
  PRIMARY KEY (generation, table_name, topic)
) WITHOUT ROWID;
CREATE TABLE _readside_meta_partitions (
  generation INTEGER NOT NULL,
  topic TEXT NOT NULL,
  \"partition\" INTEGER NOT NULL,
  next_offset INTEGER,
  leader_epoch INTEGER NOT NULL DEFAULT -1,
  max_timestamp_ms INTEGER NOT NULL DEFAULT 0,
  after_delete_key BLOB,
  after_delete_version BLOB,
  unlisted BLOB,
  end_offset INTEGER,
  fresh_as_of_ms INTEGER,
  PRIMARY KEY (generation, topic, \"partition\")
) WITHOUT ROWID;
CREATE TABLE _readside_meta_event_ids (
  generation INTEGER NOT NULL,
  topic_index INTEGER NOT NULL,
  nth INTEGER NOT NULL,
  event_id BLOB NOT NULL,
  PRIMARY KEY (generation, topic_index, nth)
) WITHOUT ROWID;
CREATE TABLE _readside_meta_dead_letters (
  generation INTEGER NOT NULL,
  topic TEXT NOT NULL,
  \"partition\" INTEGER NOT NULL,
  \"offset\" INTEGER NOT NULL,
  table_name TEXT NOT NULL,
  path TEXT NOT NULL,
  reason TEXT NOT NULL,
  message TEXT NOT NULL,
  first_seen_ms INTEGER NOT NULL,
  order_ms INTEGER NOT NULL,
  digest BLOB,
  \"key\" BLOB,
  \"value\" BLOB,
  headers TEXT,
  produced_ms INTEGER,
  PRIMARY KEY (generation, topic, \"partition\", \"offset\", table_name)
);";

/// An identifier, whatever is in it.
pub(super) fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Rows that readers see.
pub(super) fn main_table(generation: i64, table: &str) -> String {
    format!("_readside_g{generation}_{table}")
}

/// Delete marks and patches that wait for their row.
pub(super) fn hidden_table(generation: i64, table: &str) -> String {
    format!("_readside_g{generation}h_{table}")
}

/// When the rows with a prefix were cleared; for tables with prefixes only.
pub(super) fn marks_table(generation: i64, table: &str) -> String {
    format!("_readside_g{generation}c_{table}")
}

/// Every table of a generation that holds something of a configured one.
pub(super) fn tables_of(generation: i64, table: &Table) -> Vec<String> {
    let mut names = vec![main_table(generation, &table.name), hidden_table(generation, &table.name)];
    if !table.prefixes.is_empty() {
        names.push(marks_table(generation, &table.name));
    }
    names
}

pub(super) fn drop_view(table: &str) -> String {
    format!("DROP VIEW IF EXISTS {}", quote(table))
}

/// The statements over one table of one generation.
///
/// Parameters 1 to n are the columns in declared order, n+1 the version, n+2 the details and n+3
/// the time, in every statement that takes a row; lookups take the key columns in key order.
#[derive(Debug)]
pub(super) struct TableSql {
    pub create: Vec<String>,
    /// What keeps each key once; empty where the key is the row's number. Made when appending ends.
    pub key_indexes: Vec<String>,
    /// The name of the first of them.
    pub key_index: String,
    pub view: String,
    pub drop_view: String,
    pub statements: [String; STATEMENTS],
    /// [`TOGETHER`] whole rows, each of which is left out if its key is there.
    pub insert_together: String,
    /// Of the whole table first, then of each of [`Table::prefixes`].
    pub cuts: Vec<CutSql>,
}

/// The statements over the rows whose key begins with a prefix.
///
/// Parameters 1 to n are the prefix; n+1 is the version, or what follows it is the rest of a key.
#[derive(Debug)]
pub(super) struct CutSql {
    /// Key columns of the prefix.
    pub columns: usize,
    /// Every row that is not newer than a version.
    pub delete: String,
    /// Rows with details, and hidden rows, in pages by key: the first page, and those behind a key.
    pub detailed: [String; 2],
    pub hidden: [String; 2],
}

/// Index into [`TableSql::statements`].
#[derive(Debug, Clone, Copy)]
pub(super) enum Sql {
    /// A whole row whose key is not there.
    Insert,
    /// A whole row over an older one.
    Update,
    /// A row as it is, whatever is there.
    Put,
    /// A row, if it is not newer than the version.
    DeleteOld,
    Delete,
    Find,
    /// Whether the row has details; no row if the key is not there.
    HasDetails,
    PutHidden,
    DeleteHidden,
    FindHidden,
    /// Delete marks made before a time, at most so many.
    DropMarks,
    AnyVersion,
    /// A row behind all others, whatever is there.
    Append,
    AppendHidden,
    /// Every key with the number of its row, negative for the hidden ones, in the order of keys.
    AllKeys,
    Nth,
    NthHidden,
    DeleteNth,
    DeleteNthHidden,
    /// The mark of a prefix; only for tables that have prefixes, as the others of this kind.
    FindMark,
    PutMark,
    /// Marks of prefixes made before a time, at most so many.
    DropPrefixMarks,
    /// Marks between two that are not newer than a version.
    DropOlderMarks,
    CountMarks,
    /// Rows, and rows that wait, that were last written before a snapshot.
    CountOlder,
    DropOlder,
    DropOlderHidden,
}

pub(super) const STATEMENTS: usize = Sql::DropOlderHidden as usize + 1;

/// Rows a truncate looks at together.
pub(super) const PAGE: usize = 256;

impl TableSql {
    pub fn new(table: &Table, generation: i64) -> TableSql {
        let main = quote(&main_table(generation, &table.name));
        let hidden = quote(&hidden_table(generation, &table.name));
        let marks = quote(&marks_table(generation, &table.name));
        let columns: Vec<String> = table.columns.iter().map(|column| quote(&column.name)).collect();
        let listed = columns.join(", ");
        let n = columns.len();
        let numbered = |from: usize, to: usize| {
            (from..=to).map(|index| format!("?{index}")).collect::<Vec<_>>().join(", ")
        };
        let key = table.key.iter().map(|&index| columns[index].clone()).collect::<Vec<_>>().join(", ");
        // The key among the parameters of a whole row, and alone.
        let own_key: Vec<String> =
            table.key.iter().map(|&index| format!("{} = ?{}", columns[index], index + 1)).collect();
        let own_key = own_key.join(" AND ");
        let given_key: Vec<String> = table
            .key
            .iter()
            .enumerate()
            .map(|(at, &index)| format!("{} = ?{}", columns[index], at + 1))
            .collect();
        let given_key = given_key.join(" AND ");
        let keys = table.key.len();
        let nth = free_rowid_name(table);
        let set: String = (0..n)
            .filter(|&index| !table.is_key(index))
            .map(|index| format!("{} = ?{}, ", columns[index], index + 1))
            .collect();
        let (v, d, t) = (n + 1, n + 2, n + 3);
        let row = format!("{listed}, _readside_v, _readside_d");
        let statements = [
            format!(
                "INSERT INTO {main} ({listed}, _readside_v) VALUES ({}) ON CONFLICT DO NOTHING",
                numbered(1, v)
            ),
            format!(
                "UPDATE {main} SET {set}_readside_v = ?{v}, _readside_d = NULL \
                 WHERE {own_key} AND _readside_v < ?{v}"
            ),
            format!(
                "INSERT INTO {main} ({row}) VALUES ({}) ON CONFLICT ({key}) DO UPDATE SET \
                 {set}_readside_v = ?{v}, _readside_d = ?{d}",
                numbered(1, d)
            ),
            format!("DELETE FROM {main} WHERE {given_key} AND _readside_v <= ?{}", keys + 1),
            format!("DELETE FROM {main} WHERE {given_key}"),
            format!("SELECT {row} FROM {main} WHERE {given_key}"),
            format!("SELECT _readside_d IS NOT NULL FROM {main} WHERE {given_key}"),
            format!(
                "INSERT INTO {hidden} ({row}, _readside_at_ms) VALUES ({}) ON CONFLICT ({key}) DO UPDATE SET \
                 {set}_readside_v = ?{v}, _readside_d = ?{d}, _readside_at_ms = ?{t}",
                numbered(1, t)
            ),
            format!("DELETE FROM {hidden} WHERE {given_key}"),
            format!("SELECT {row} FROM {hidden} WHERE {given_key}"),
            format!(
                "DELETE FROM {hidden} WHERE ({key}) IN (SELECT {key} FROM {hidden} \
                 WHERE _readside_v IS NULL AND _readside_at_ms < ?1 LIMIT ?2)"
            ),
            format!(
                "SELECT * FROM (SELECT {row} FROM {main} LIMIT 1) UNION ALL \
                 SELECT * FROM (SELECT {row} FROM {hidden} LIMIT 1) LIMIT 1"
            ),
            format!("INSERT INTO {main} ({row}) VALUES ({})", numbered(1, d)),
            format!("INSERT INTO {hidden} ({row}, _readside_at_ms) VALUES ({})", numbered(1, t)),
            format!(
                "SELECT {key}, {nth} FROM {main} UNION ALL SELECT {key}, -{nth} FROM {hidden} ORDER BY {}",
                (1..=keys).map(|place| place.to_string()).collect::<Vec<_>>().join(", ")
            ),
            format!("SELECT {row} FROM {main} WHERE {nth} = ?1"),
            format!("SELECT {row} FROM {hidden} WHERE {nth} = ?1"),
            format!("DELETE FROM {main} WHERE {nth} = ?1"),
            format!("DELETE FROM {hidden} WHERE {nth} = ?1"),
            format!("SELECT _readside_v FROM {marks} WHERE prefix = ?1"),
            format!(
                "INSERT INTO {marks} (prefix, _readside_v, at_ms) VALUES (?1, ?2, ?3) \
                 ON CONFLICT DO UPDATE SET _readside_v = ?2, at_ms = ?3"
            ),
            format!(
                "DELETE FROM {marks} WHERE prefix IN (SELECT prefix FROM {marks} WHERE at_ms < ?1 LIMIT ?2)"
            ),
            format!("DELETE FROM {marks} WHERE prefix > ?1 AND prefix < ?2 AND _readside_v <= ?3"),
            format!("SELECT COUNT(*) FROM {marks}"),
            format!("SELECT COUNT(*) FROM {main} WHERE _readside_v < ?1"),
            format!("DELETE FROM {main} WHERE _readside_v < ?1"),
            format!("DELETE FROM {hidden} WHERE _readside_v < ?1"),
        ];
        let cuts = std::iter::once(0).chain(table.prefixes.iter().copied()).map(|columns| {
            cut(table, columns, &CutNames { main: &main, hidden: &hidden, row: &row, key: &key })
        });
        let key_index = |letters| format!("_readside_g{generation}{letters}_{}", table.name);
        let key_indexes = match table.has_integer_key() {
            true => Vec::new(),
            false => [("k", &main), ("hk", &hidden)]
                .map(|(letters, of)| {
                    format!("CREATE UNIQUE INDEX {} ON {of} ({key})", quote(&key_index(letters)))
                })
                .into(),
        };
        let insert_together = format!(
            "INSERT INTO {main} ({listed}, _readside_v) VALUES {} ON CONFLICT DO NOTHING",
            (0..TOGETHER)
                .map(|nth| format!("({})", numbered(nth * v + 1, (nth + 1) * v)))
                .collect::<Vec<_>>()
                .join(", ")
        );
        TableSql {
            create: definitions(table, generation, &main, &hidden, &columns),
            key_indexes,
            key_index: key_index("k"),
            view: format!("CREATE VIEW {} AS SELECT {listed} FROM {main}", quote(&table.name)),
            drop_view: drop_view(&table.name),
            cuts: cuts.collect(),
            statements,
            insert_together,
        }
    }
}

struct CutNames<'a> {
    main: &'a str,
    hidden: &'a str,
    row: &'a str,
    /// All key columns.
    key: &'a str,
}

fn cut(table: &Table, columns: usize, names: &CutNames<'_>) -> CutSql {
    let CutNames { main, hidden, row, key } = names;
    let of_prefix: String = table
        .key
        .iter()
        .take(columns)
        .enumerate()
        .map(|(at, &index)| format!("{} = ?{} AND ", quote(&table.columns[index].name), at + 1))
        .collect();
    let version = columns + 1;
    let delete = format!("DELETE FROM {main} WHERE {of_prefix}_readside_v <= ?{version}");
    let page = |of: &str, which: &str| {
        let rest: Vec<String> =
            (columns + 1..=columns + table.key.len()).map(|place| format!("?{place}")).collect();
        let ordered = format!("ORDER BY {key} LIMIT {PAGE}");
        [
            format!("SELECT {row} FROM {of} WHERE {of_prefix}{which} {ordered}"),
            format!(
                "SELECT {row} FROM {of} WHERE {of_prefix}{which} AND ({key}) > ({}) {ordered}",
                rest.join(", ")
            ),
        ]
    };
    let detailed = page(main, "_readside_d IS NOT NULL");
    let hidden = page(hidden, "1");
    CutSql { columns, delete, detailed, hidden }
}

/// Tables, without the indexes of their keys.
fn definitions(table: &Table, generation: i64, main: &str, hidden: &str, columns: &[String]) -> Vec<String> {
    let define = |visible: bool| {
        let columns: Vec<String> = table
            .columns
            .iter()
            .zip(columns)
            .enumerate()
            .map(|(index, (column, name))| {
                let ty = declared_type(column.ty);
                // A single integer key is SQLite's rowid: only the exact words make it one.
                let primary =
                    if table.has_integer_key() && table.is_key(index) { " PRIMARY KEY" } else { "" };
                let required = table.is_key(index) || visible && !column.nullable;
                format!("{name} {ty}{primary}{}", if required { " NOT NULL" } else { "" })
            })
            .collect();
        columns.join(", ")
    };
    let mut all = vec![
        format!("CREATE TABLE {main} ({}, _readside_v BLOB NOT NULL, _readside_d BLOB)", define(true)),
        format!(
            "CREATE TABLE {hidden} ({}, _readside_v BLOB, _readside_d BLOB NOT NULL, \
             _readside_at_ms INTEGER NOT NULL)",
            define(false)
        ),
        format!(
            "CREATE INDEX {} ON {hidden} (_readside_at_ms) WHERE _readside_v IS NULL",
            quote(&format!("_readside_g{generation}m_{}", table.name))
        ),
    ];
    if !table.prefixes.is_empty() {
        let marks = quote(&marks_table(generation, &table.name));
        all.push(format!(
            "CREATE TABLE {marks} (prefix BLOB NOT NULL PRIMARY KEY, _readside_v BLOB NOT NULL, at_ms INTEGER NOT NULL)"
        ));
        let by_time = quote(&format!("_readside_g{generation}cm_{}", table.name));
        all.push(format!("CREATE INDEX {by_time} ON {marks} (at_ms)"));
    }
    all
}

/// SQLite knows a row's number as `rowid`, `oid` and `_rowid_`, unless a column has that name. One of them
/// is free: the configuration is refused otherwise.
pub(super) fn free_rowid_name(table: &Table) -> &'static str {
    let taken = |name: &str| table.columns.iter().any(|column| column.name.eq_ignore_ascii_case(name));
    ["rowid", "oid", "_rowid_"].into_iter().find(|name| !taken(name)).unwrap_or("rowid")
}

/// Columns of a main table as SQLite tells them: name, declared type, whether they may not be null,
/// and whether they are the table's rowid.
pub(super) fn expected_columns(table: &Table) -> std::collections::BTreeSet<(String, String, bool, bool)> {
    let own = table.columns.iter().enumerate().map(|(index, column)| {
        let required = table.is_key(index) || !column.nullable;
        let primary = table.has_integer_key() && table.is_key(index);
        (column.name.clone(), declared_type(column.ty).to_owned(), required, primary)
    });
    let ours = [("_readside_v", true), ("_readside_d", false)];
    own.chain(ours.map(|(name, required)| (name.into(), "BLOB".into(), required, false))).collect()
}

/// Only the four that no driver converts by.
fn declared_type(ty: ColumnType) -> &'static str {
    match ty {
        ColumnType::Integer | ColumnType::Boolean => "INTEGER",
        ColumnType::Real => "REAL",
        ColumnType::Blob => "BLOB",
        ColumnType::Text
        | ColumnType::Decimal
        | ColumnType::Date
        | ColumnType::Time
        | ColumnType::Timestamp
        | ColumnType::Uuid
        | ColumnType::Json => "TEXT",
    }
}

/// Names of secondary indexes begin with this.
fn index_prefix(generation: i64) -> String {
    format!("_readside_g{generation}i")
}

/// Secondary indexes that the file has, of one table or of all.
pub(super) fn indexes_there(
    conn: &Connection,
    generation: i64,
    table: Option<&str>,
) -> Result<Vec<String>, rusqlite::Error> {
    let prefix = index_prefix(generation);
    conn.prepare(
        "SELECT name FROM sqlite_schema WHERE type = 'index' AND substr(name, 1, ?2) = ?1 \
         AND (?3 IS NULL OR tbl_name = ?3)",
    )?
    .query_map(params![prefix, prefix.len() as i64, table], |row| row.get(0))?
    .collect()
}

/// Name and definition of every secondary index. The name says the columns, so that it changes
/// with them.
pub(super) fn secondary_indexes(catalog: &Catalog, generation: i64) -> Vec<(String, String)> {
    let mut all = Vec::new();
    for table in &catalog.tables {
        for index in &table.indexes {
            let numbers: Vec<String> = index.iter().map(usize::to_string).collect();
            let name = format!("{}{}_{}", index_prefix(generation), numbers.join("-"), table.name);
            let columns: Vec<String> =
                index.iter().map(|&column| quote(&table.columns[column].name)).collect();
            let main = quote(&main_table(generation, &table.name));
            let sql = format!("CREATE INDEX {} ON {main} ({})", quote(&name), columns.join(", "));
            if !all.iter().any(|(known, _)| *known == name) {
                all.push((name, sql));
            }
        }
    }
    all
}
