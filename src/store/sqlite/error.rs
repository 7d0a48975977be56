//! SQLite's errors by what the caller does next.

use std::io;
use std::path::Path;

use rusqlite::ErrorCode;

use crate::domain::retry::RetryReason;
use crate::store::{StopCode, StoreError};

impl From<rusqlite::Error> for StoreError {
    /// Busy, full and I/O may go away; a file that cannot be written, is damaged or does not hold
    /// what this program put into it does not. Codes: <https://sqlite.org/rescode.html>.
    fn from(error: rusqlite::Error) -> StoreError {
        let code = match &error {
            rusqlite::Error::SqliteFailure(code, _) => Some(code.code),
            _ => None,
        };
        let retry = |reason, hint| StoreError::Retry { reason, message: format!("{error}{hint}") };
        match code {
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
                retry(RetryReason::Busy, "; another program holds a lock on it")
            }
            Some(ErrorCode::DiskFull) => retry(RetryReason::DiskFull, "; make room on its volume"),
            Some(
                ErrorCode::SystemIoFailure
                | ErrorCode::CannotOpen
                | ErrorCode::OutOfMemory
                | ErrorCode::OperationInterrupted
                | ErrorCode::FileLockingProtocolFailed,
            ) => retry(RetryReason::Io, ""),
            Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => {
                stop_io(format!("it cannot be written ({error}); mount its volume writable for readside"))
            }
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
                stop_io(format!("the file is damaged ({error}); delete it to build it anew"))
            }
            _ => stop_io(format!(
                "it does not hold what readside put there ({error}); delete it to build it anew"
            )),
        }
    }
}

pub(super) fn stop_io(message: String) -> StoreError {
    StoreError::Stop { exit: StopCode::Io, message }
}

pub(super) fn foreign(message: String) -> StoreError {
    StoreError::Stop { exit: StopCode::Foreign, message }
}

/// Stored bytes that are not what this program writes.
pub(super) fn damaged(what: &str, table: &str) -> StoreError {
    stop_io(format!("{what} in {table} cannot be read; the file is damaged: delete it to build it anew"))
}

/// An error of the file system, outside SQLite.
pub(super) fn from_io(error: &io::Error, what: &Path) -> StoreError {
    use io::ErrorKind::*;
    let message = format!("{}: {error}", what.display());
    match error.kind() {
        PermissionDenied | ReadOnlyFilesystem | NotADirectory | IsADirectory | AlreadyExists => {
            stop_io(message)
        }
        StorageFull | QuotaExceeded => StoreError::Retry { reason: RetryReason::DiskFull, message },
        _ => StoreError::Retry { reason: RetryReason::Io, message },
    }
}

/// Says where, once, at the boundary.
pub(super) fn at<T>(path: &Path, result: Result<T, StoreError>) -> Result<T, StoreError> {
    result.map_err(|error| match error {
        StoreError::Retry { reason, message } => {
            StoreError::Retry { reason, message: format!("replica {}: {message}", path.display()) }
        }
        StoreError::Stop { exit, message } => {
            StoreError::Stop { exit, message: format!("replica {}: {message}", path.display()) }
        }
    })
}
