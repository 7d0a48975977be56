//! What only a file can do wrong; the rest is in the contract suite.

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
