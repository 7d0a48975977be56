//! Redis's errors by what the caller does next.

use redis::{ErrorKind, RedisError, ServerErrorKind};

use crate::domain::retry::RetryReason;
use crate::store::{StopCode, StoreError};

pub(super) fn from_redis(error: &RedisError) -> StoreError {
    let retry = |reason, hint: &str| StoreError::Retry { reason, message: format!("{error}{hint}") };
    if error.kind() == ErrorKind::AuthenticationFailed {
        return retry(RetryReason::Io, "; correct the user or the password file, which is read each time");
    }
    if error.kind() == ErrorKind::Server(ServerErrorKind::NoPerm) {
        return stop_io(format!("{error}; give the user the rights of the writer's ACL line"));
    }
    match code(error).as_deref() {
        Some("OOM") => retry(RetryReason::OutOfMemory, "; Redis is at its maxmemory: raise it or make room"),
        // A script that was forgotten behind the first of several: the next attempt brings it.
        Some("BUSY" | "LOADING" | "NOSCRIPT") => retry(RetryReason::Busy, ""),
        Some("NOAUTH" | "WRONGPASS") => {
            retry(RetryReason::Io, "; correct the user or the password file, which is read each time")
        }
        // The server cannot write for the moment: a replica after a failover, a snapshot that
        // cannot be saved, missing replicas.
        Some("MISCONF" | "READONLY" | "MASTERDOWN" | "NOREPLICAS" | "CLUSTERDOWN" | "TRYAGAIN") => {
            retry(RetryReason::Io, "")
        }
        _ if is_full(error) => retry(RetryReason::Io, "; raise maxclients"),
        Some("WRONGTYPE") => foreign(format!(
            "{error}; a key that begins with the replica's prefix belongs to another program: choose another \
             replica.redis.prefix or delete the key"
        )),
        Some(_) => stop_io(error.to_string()),
        None => retry(RetryReason::Io, ""),
    }
}

/// Whether the connection can be used on: the server answered, and is the one to ask. After a failover
/// another one is behind the same address.
pub(super) fn keeps_connection(error: &RedisError) -> bool {
    let elsewhere = ["READONLY", "MASTERDOWN", "NOREPLICAS", "CLUSTERDOWN", "LOADING"];
    code(error).is_some_and(|code| !elsewhere.contains(&code.as_str())) && !is_full(error)
}

/// It says so and hangs up, without a code of its own.
fn is_full(error: &RedisError) -> bool {
    error.detail().is_some_and(|detail| detail.starts_with("max number of clients"))
}

/// The first word of the server's answer, also of one of several commands.
fn code(error: &RedisError) -> Option<String> {
    let several = error.clone().into_server_errors();
    match several.as_deref() {
        Some([(_, first), ..]) => Some(first.code().to_owned()),
        _ => error.code().map(str::to_owned),
    }
}

pub(super) fn stop_io(message: String) -> StoreError {
    StoreError::Stop { exit: StopCode::Io, message }
}

pub(super) fn foreign(message: String) -> StoreError {
    StoreError::Stop { exit: StopCode::Foreign, message }
}

pub(super) fn lost(message: &str) -> StoreError {
    StoreError::Stop { exit: StopCode::Lost, message: format!("the replica {message}") }
}

pub(super) fn rival() -> StoreError {
    foreign(
        "another readside has taken over this replica; stop one of them or give each its own \
         replica.redis.prefix"
            .into(),
    )
}

/// Something else came first, and nothing was changed.
pub(super) fn overtaken() -> StoreError {
    StoreError::Retry {
        reason: RetryReason::Busy,
        message: "the replica was changed at the same moment".into(),
    }
}

/// Stored bytes that are not what this program writes.
pub(super) fn damaged(what: &str, of: &str) -> StoreError {
    foreign(format!(
        "{what} of {of} is not what readside wrote: somebody changed the replica; delete every key with its \
         prefix to build it anew"
    ))
}

/// Says where, once, at the boundary.
pub(super) fn at<T>(place: &str, result: Result<T, StoreError>) -> Result<T, StoreError> {
    result.map_err(|error| match error {
        StoreError::Retry { reason, message } => {
            StoreError::Retry { reason, message: format!("replica {place}: {message}") }
        }
        StoreError::Stop { exit, message } => {
            StoreError::Stop { exit, message: format!("replica {place}: {message}") }
        }
    })
}
