//! What only a file can do wrong; the rest is in the contract suite.

mod appending;
mod files;
mod generations;
mod readers;
mod trouble;

use std::path::Path;
use std::sync::Arc;

use rusqlite::{Connection, OpenFlags};

use super::{SqliteReader, SqliteStore, owner};
use crate::domain::batch::Batch;
use crate::domain::change::{IfMissing, Operation};
use crate::domain::retry::RetryReason;
use crate::store::contract::*;
use crate::store::{RowLookup, Settings, StopCode, Store, StoreError};

fn bench() -> InSqlite {
    InSqlite::new(Arc::new(catalog()))
}

/// As a service would open it.
fn reading(path: &Path) -> Connection {
    Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap()
}

/// Tables and rows of bookkeeping of generations that neither serve nor are built.
pub(in crate::store) fn leftovers(path: &Path) -> usize {
    let reader = reading(path);
    let mut statement =
        reader.prepare("SELECT generation FROM _readside_meta_generations WHERE role <> 'dropped'").unwrap();
    let used: Vec<i64> = statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
    let mut statement = reader.prepare("SELECT name FROM sqlite_schema").unwrap();
    let names: Vec<String> = statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
    let of = |name: &String| name.strip_prefix("_readside_g")?.split(['_', 'h']).next()?.parse::<i64>().ok();
    let objects = names.iter().filter_map(of).filter(|number| !used.contains(number)).count();
    let rows = ["tables", "topics", "sources", "partitions", "event_ids", "dead_letters"].map(|table| {
        let sql = format!(
            "SELECT COUNT(*) FROM _readside_meta_{table} WHERE generation NOT IN (SELECT generation FROM \
             _readside_meta_generations WHERE role <> 'dropped')"
        );
        reader.query_row(&sql, [], |row| row.get::<_, i64>(0)).unwrap() as usize
    });
    objects + rows.iter().sum::<usize>()
}

fn stopped<T: std::fmt::Debug>(result: Result<T, StoreError>, expected: StopCode) -> String {
    match result {
        Err(StoreError::Stop { exit, message }) => {
            assert_eq!(exit, expected, "{message}");
            message
        }
        other => panic!("not stopped: {other:?}"),
    }
}

fn retried<T: std::fmt::Debug>(result: Result<T, StoreError>, expected: RetryReason) {
    match result {
        Err(StoreError::Retry { reason, .. }) => assert_eq!(reason, expected),
        other => panic!("not to be retried: {other:?}"),
    }
}

/// The files of a replica as a crash would leave them, in a directory of their own. The lock file
/// comes with them.
fn crashed(bench: &InSqlite) -> InSqlite {
    let copy = self::bench();
    for suffix in ["", "-wal", ".lock"] {
        let (from, to) = (owner::sibling(&bench.path(), suffix), owner::sibling(&copy.path(), suffix));
        std::fs::copy(from, to).unwrap();
    }
    copy
}
