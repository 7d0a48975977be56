//! The replica in Redis.
//!
//! - `settings`, `link`: where it is, and the connection to it
//! - `open`: whether the server can keep it, whose it is, who writes it
//! - `names`, `codec`, `payload`: what is in it
//! - `step`, `words`, `apply.lua`: one atomic step, sent while it is made
//! - `apply`, `known`: one batch; rows that are read before they are written
//! - `letters`: dead letters
//! - `upkeep`: truncates, the end of the first copy, old delete marks
//! - `ledger`: the bookkeeping, equal to what Redis has
//! - `reader`: the reading side
//!
//! A script that fails half-way keeps what it wrote, so `apply.lua` checks writer, epoch, sequence,
//! positions and the types of all keys it will touch, and then only writes what cannot fail. It
//! guards whole rows over whole rows by itself, comparing the bytes of their versions. Everything
//! else is read first and joined by [`RowState`](crate::domain::row::RowState); the script is given
//! the outcome and refuses if what was read has changed.
//!
//! While the first copy is built readers find `complete` 0 and `state` building in the hash
//! `readside:status`. In a dedicated Redis they find no rows before it is whole: it is built in the
//! next logical database, and the two are exchanged. Otherwise rows are written under their names as
//! they come, and a reader that does not look at the status sees part of a copy.

mod apply;
mod codec;
mod error;
mod known;
mod ledger;
mod letters;
mod link;
mod names;
mod open;
mod payload;
mod reader;
mod settings;
mod step;
mod upkeep;
mod words;

#[cfg(test)]
pub(super) mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

pub use reader::{RedisReader, redis_check};
pub use settings::RedisSettings;

use super::{Applied, BatchLimits, Completion, Figures, Maintenance, Store, StoreError};
use crate::domain::batch::Batch;
use crate::domain::catalog::Catalog;
use crate::domain::checkpoint::Checkpoint;
use crate::domain::event_ids::EventId;
use crate::domain::version::VersionKind;
use codec::Form;
use error::at;
use ledger::Ledger;
use link::Link;
use names::{Names, TableNames};

/// Records a batch should have at most: Redis serves nobody else while it applies one, for 2 ms with
/// so many rows of ten columns.
const BATCH_RECORDS: u64 = 512;
/// The same where rows have index entries, each of which takes longer than a row.
const BATCH_RECORDS_INDEXED: u64 = 128;
/// Event ids read by one command.
const IDS_AT_ONCE: usize = 5_000;
/// Bytes of a batch: copying a megabyte takes Redis about as long as a thousand small rows.
const BATCH_BYTES: usize = 512 << 10;

/// The writer of a replica in Redis. See [`Store`].
pub struct RedisStore {
    settings: RedisSettings,
    catalog: Arc<Catalog>,
    names: Names,
    tables: Vec<TableNames>,
    link: Link,
    form: Form,
    writer: String,
    epoch: u64,
    /// Equal to what Redis has; `None` after an error, until it is read again.
    ledger: Option<Ledger>,
    /// Of the last step whose answer was heard.
    sequence: u64,
    /// A step was sent whose answer was not heard.
    in_flight: bool,
    /// Outcome of the last batch that was sent, in case that the answer gets lost.
    unconfirmed: Option<Unconfirmed>,
    /// Where the search for old delete marks goes on, by table.
    cursors: Vec<u64>,
}

#[derive(Debug)]
struct Unconfirmed {
    batch: u64,
    applied: Applied,
}

/// A replica that is ours to write.
struct Taken {
    epoch: u64,
}

impl fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisStore").field("at", &self.place()).field("epoch", &self.epoch).finish()
    }
}

impl Store for RedisStore {
    fn checkpoint(&mut self) -> Result<Checkpoint, StoreError> {
        let checkpoint = self.read_checkpoint();
        self.at(checkpoint)
    }

    fn apply(&mut self, batch: &Batch) -> Result<Applied, StoreError> {
        let applied = self.apply_batch(batch);
        self.at(applied)
    }

    fn complete(&mut self) -> Result<Completion, StoreError> {
        let completed = self.finish_first_copy();
        self.at(completed).map(|()| Completion::Done)
    }

    fn maintain(&mut self, now_ms: i64) -> Result<Maintenance, StoreError> {
        let maintained = self.keep_up(now_ms);
        self.at(maintained)
    }

    fn figures(&mut self) -> Figures {
        self.measure()
    }

    fn batch_limits(&self) -> BatchLimits {
        let indexed = self.catalog.tables.iter().any(|table| !table.indexes.is_empty());
        let records = if indexed { BATCH_RECORDS_INDEXED } else { BATCH_RECORDS };
        BatchLimits { records, bytes: BATCH_BYTES }
    }
}

impl RedisStore {
    /// What kind of version each table's rows carry, found by looking at one of them; `None` while
    /// a table has none.
    pub fn version_kinds(&mut self) -> Result<Vec<Option<VersionKind>>, StoreError> {
        let kinds = (0..self.tables.len()).map(|table| self.version_kind(table)).collect();
        self.at(kinds)
    }

    fn read_checkpoint(&mut self) -> Result<Checkpoint, StoreError> {
        self.ready()?;
        let mut event_ids = BTreeMap::new();
        for (index, topic) in self.catalog.topics.iter().enumerate() {
            let mut ids: Vec<[u8; 16]> = Vec::new();
            loop {
                let mut cmd = redis::cmd("LRANGE");
                cmd.arg(self.names.event_ids(topic)).arg(ids.len()).arg(ids.len() + IDS_AT_ONCE - 1);
                let some: Vec<Vec<u8>> = self.link.query(&cmd)?;
                let before = ids.len();
                ids.extend(some.into_iter().filter_map(|id| <[u8; 16]>::try_from(id).ok()));
                if ids.len() - before < IDS_AT_ONCE {
                    break;
                }
            }
            if !ids.is_empty() {
                event_ids.insert(index, ids.into_iter().map(EventId::from_bytes).collect());
            }
        }
        let dead_letters = self.kept_letters()?;
        let ledger = self.known_ledger()?;
        Ok(Checkpoint {
            snapshots: Default::default(),
            dead_letters,
            cluster_id: ledger.cluster_id.clone(),
            topic_ids: ledger.topic_ids.clone(),
            positions: ledger.positions.clone(),
            fresh_as_of_ms: ledger.fresh_as_of_ms.clone(),
            event_ids,
            missing_events: ledger.missing_events(),
            heartbeat_ms: ledger.heartbeat_ms,
            complete: ledger.complete && !self.is_elsewhere(),
        })
    }

    /// The bookkeeping after [`RedisStore::ready`].
    fn known_ledger(&self) -> Result<&Ledger, StoreError> {
        self.ledger.as_ref().ok_or_else(|| error::lost("was lost from sight"))
    }

    fn place(&self) -> String {
        open::place(&self.settings)
    }

    /// Says where, and forgets what may no longer be true.
    fn at<T>(&mut self, result: Result<T, StoreError>) -> Result<T, StoreError> {
        if result.is_err() {
            self.ledger = None;
        }
        at(&self.place(), result)
    }
}

impl Drop for RedisStore {
    /// The next writer need not wait, and readers see that nobody follows the log. What a dead
    /// process leaves behind expires.
    fn drop(&mut self) {
        if !self.link.is_connected() {
            return;
        }
        let mut cmd = redis::cmd("EVAL");
        cmd.arg(
            "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1], KEYS[2]) end",
        )
        .arg(2)
        .arg(&self.names.lease)
        .arg(&self.names.alive)
        .arg(&self.writer);
        let _ = self.link.query::<redis::Value>(&cmd);
    }
}
