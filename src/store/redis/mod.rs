//! The replica in Redis.
//!
//! - `settings`, `link`: where it is, and the connection to it
//! - `replica`, `lease`, `open`: whether the server can keep it, whose it is, who writes it
//! - `generations`, `sweep`, `room`: building one beside the live one, switching, what is left behind
//! - `copying`: a generation that is made of the live one
//! - `change`, `change.lua`: a change of the bookkeeping as a whole
//! - `names`, `described`, `codec`, `stamp`, `payload`: what is in it
//! - `step`, `words`, `apply.lua`: one atomic step, sent while it is put together
//! - `apply`, `plan`, `known`, `join`: one batch; rows that are read before they are written
//! - `prepared`: what is made of a batch before its turn, by another thread
//! - `cut`, `ghosts`, `pulse`: truncates, prefixes that are cleared, whole snapshots: what takes many rows
//!   away, slice by slice
//! - `letters`: dead letters
//! - `upkeep`: the end of the first copy, old marks
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
//! `readside:status`, and no rows where it says that they are. What is built beside a live copy is
//! under other names or in another database until it takes its place in one step.

mod apply;
mod change;
mod codec;
mod copying;
mod cut;
mod described;
mod error;
mod generations;
mod ghosts;
mod join;
mod known;
mod lease;
mod ledger;
mod letters;
mod link;
mod names;
mod open;
mod payload;
mod plan;
mod prepared;
mod pulse;
mod reader;
mod replica;
mod room;
mod settings;
mod stamp;
mod step;
mod sweep;
mod upkeep;
mod words;

#[cfg(test)]
pub(super) mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

pub use reader::{RedisReader, redis_check, redis_dead_letters, redis_status};
pub use replica::RedisReplica;
pub use settings::RedisSettings;

use super::{Applied, BatchLimits, Completion, Figures, Maintenance, Preparer, StopCode, Store, StoreError};
use crate::domain::batch::Batch;
use crate::domain::catalog::{Catalog, Table};
use crate::domain::checkpoint::Checkpoint;
use crate::domain::event_ids::EventId;
use crate::domain::shelving::Shelves;
use crate::domain::version::VersionKind;
use crate::store::rules::Floors;
use codec::Form;
use described::Role;
use error::at;
use ledger::Ledger;
use link::Link;
use names::{Names, Spot, TableNames};
use prepared::Prepared;
use replica::Home;
use sweep::Sweep;

/// Records a batch should have at most: Redis serves nobody else while it applies one, for 2 ms with
/// so many rows of ten columns.
const BATCH_RECORDS: u64 = 512;
/// The same where rows have index entries, each of which takes longer than a row.
const BATCH_RECORDS_INDEXED: u64 = 96;
/// Rows of one script while nobody reads the copy: the next ones are on their way while Redis is at
/// work on these.
const PIECE_ROWS: usize = if cfg!(test) { 4 } else { 256 };
/// Event ids read by one command.
const IDS_AT_ONCE: usize = 5_000;
/// Bytes of a batch: copying a megabyte takes Redis about as long as a thousand small rows.
const BATCH_BYTES: usize = 512 << 10;

/// The writer of one generation of a replica in Redis. See [`Store`].
pub struct RedisStore {
    home: Arc<Home>,
    generation: u32,
    role: Role,
    spot: Spot,
    settings: RedisSettings,
    catalog: Arc<Catalog>,
    names: Names,
    tables: Vec<TableNames>,
    link: Link,
    form: Form,
    prepared: Arc<Prepared>,
    hidden_met: HiddenMet,
    /// Equal to what Redis has; `None` after an error, until it is read again.
    ledger: Option<Ledger>,
    /// Of the last step whose answer was heard.
    sequence: u64,
    /// Steps that were sent and whose answers were not heard.
    in_flight: u64,
    /// Outcome of the last batch that was sent, in case that the answer gets lost.
    unconfirmed: Option<Unconfirmed>,
    /// Where the search for old marks goes on, by table.
    cursors: Vec<Cursors>,
    /// Rows of an earlier generation have to go from this place before the first is written.
    clearing: bool,
    /// Rows of the live generation have to come before the first batch.
    copying: bool,
    floors: Floors,
    /// What is being removed of a generation that is out of use.
    sweep: Option<Sweep>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Cursors {
    marks: u64,
    prefix_marks: u64,
}

/// Whether the script meets rows that are hidden, which it can only refuse to join.
#[derive(Debug, Default)]
struct HiddenMet {
    /// Batches before which it is asked what is hidden.
    left: u32,
}

impl HiddenMet {
    /// A refused script costs about as much as asking first costs so many batches.
    const BATCHES: u32 = 16;

    fn note(&mut self, met: bool) {
        if met {
            self.left = Self::BATCHES;
        }
    }

    /// Of the next batch.
    fn asks_first(&mut self) -> bool {
        let asks = self.left > 0;
        self.left = self.left.saturating_sub(1);
        asks
    }
}

#[derive(Debug)]
struct Unconfirmed {
    batch: u64,
    applied: Applied,
}

impl fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisStore").field("at", &self.place()).field("generation", &self.generation).finish()
    }
}

impl Store for RedisStore {
    fn generation(&self) -> u32 {
        self.generation
    }

    fn version_kinds(&mut self) -> Result<Vec<Option<VersionKind>>, StoreError> {
        let kinds = (0..self.tables.len()).map(|table| self.version_kind(table)).collect();
        self.at(kinds)
    }

    fn checkpoint(&mut self) -> Result<Checkpoint, StoreError> {
        let checkpoint = self.read_checkpoint();
        self.at(checkpoint)
    }

    fn apply(&mut self, batch: &Batch) -> Result<Applied, StoreError> {
        let home = Arc::clone(&self.home);
        let turn = match self.role {
            Role::Live => home.turns.first(),
            _ => home.turns.second(),
        };
        let applied = self.apply_batch(batch);
        drop(turn);
        self.at(applied)
    }

    fn complete(&mut self) -> Result<Completion, StoreError> {
        let completed = match self.role {
            Role::Live => self.finish_first_copy().map(|()| Completion::Done),
            _ => self.switch(),
        };
        self.at(completed)
    }

    fn maintain(&mut self, now_ms: i64) -> Result<Maintenance, StoreError> {
        let maintained = self.keep_up(now_ms);
        match self.at(maintained) {
            // Another one looks after the replica now.
            Err(StoreError::Stop { exit: StopCode::Retired, .. }) => Ok(Maintenance::default()),
            maintained => maintained,
        }
    }

    /// A step is limited by what a server may be kept busy with, not by memory.
    fn shelves(&self) -> Shelves {
        Shelves::default()
    }

    fn preparer(&self) -> Option<Preparer> {
        let prepared = self.prepared.clone();
        Some(Arc::new(move |batch| prepared.prepare(batch)))
    }

    fn figures(&mut self) -> Figures {
        self.measure()
    }

    fn batch_limits(&self) -> BatchLimits {
        // Keys of tables with prefixes are listed, as those of an index.
        let is_indexed = |table: &Table| !table.indexes.is_empty() || !table.prefixes.is_empty();
        let indexed = self.catalog.tables.iter().any(is_indexed);
        let records = if indexed { BATCH_RECORDS_INDEXED } else { BATCH_RECORDS };
        BatchLimits { records, bytes: BATCH_BYTES }
    }
}

impl RedisStore {
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
            snapshots: ledger
                .tables
                .iter()
                .enumerate()
                .filter_map(|(index, table)| Some((index, table.snapshot?)))
                .collect(),
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

    fn epoch(&self) -> u64 {
        self.home.epoch()
    }

    fn place(&self) -> String {
        open::place(&self.settings)
    }

    /// Says where, and forgets what may no longer be true.
    fn at<T>(&mut self, result: Result<T, StoreError>) -> Result<T, StoreError> {
        let result = result.map_err(|error| {
            self.ledger = None;
            match error {
                // What was read may be another generation's, under names that were this one's.
                StoreError::Stop { exit: StopCode::Foreign | StopCode::Io, .. } => match self.locate() {
                    Err(moved @ StoreError::Stop { exit: StopCode::Retired | StopCode::Lost, .. }) => moved,
                    _ => error,
                },
                error => error,
            }
        });
        at(&self.place(), result)
    }
}
