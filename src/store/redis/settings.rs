//! Where a replica in Redis is and how it is kept there.

use std::time::Duration;

pub(super) use crate::config::{Redis, RedisServer, RowEncoding};
use crate::store::LossLimit;

impl RowEncoding {
    pub(super) fn name(self) -> &'static str {
        match self {
            RowEncoding::Hash => "hash",
            RowEncoding::Json => "json",
        }
    }
}

/// What a store and a reader need to know besides the catalog.
#[derive(Debug, Clone)]
pub struct RedisSettings {
    pub redis: Redis,
    /// Stored in the replica; another name means that it belongs to somebody else.
    pub replica_name: String,
    /// Beyond this age of the heartbeat readers see `disconnected`; also how long a writer that
    /// died keeps others from taking over. See [`crate::store::heartbeat_limit`].
    pub heartbeat_limit: Duration,
    /// Bound on the bytes of records kept with dead letters; beyond it only their coordinates are.
    pub dead_letter_bytes_max: u64,
    /// What a generation may lack of the one it replaces.
    pub loss: LossLimit,
    /// A rebuild must leave this much below the server's `maxmemory`.
    pub min_free_bytes: u64,
}

impl RedisSettings {
    pub(super) fn heartbeat_limit_ms(&self) -> i64 {
        i64::try_from(self.heartbeat_limit.as_millis()).unwrap_or(i64::MAX / 4).max(1)
    }
}
