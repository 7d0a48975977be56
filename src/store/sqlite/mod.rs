//! The replica in one SQLite file.
//!
//! - `owner`, `replica`, `open`: whose file it is, and opening it and its generations
//! - `adapt`: another mapping that needs no other rows
//! - `generations`, `room`: building one beside the live one, and switching to it
//! - `layout`, `views`: what is in it
//! - `apply`, `order`, `table`, `letters`: one batch, one row, dead letters
//! - `spill`: where rows of large batches are put aside
//! - `append`: rows of a first copy whose keys are not numbers
//! - `upkeep`: the end of the first copy, the WAL, old delete marks
//! - `reader`: the reading side

mod adapt;
mod append;
mod apply;
mod direct;
mod error;
mod generations;
mod layout;
mod letters;
mod open;
mod order;
mod owner;
mod reader;
mod replica;
mod room;
mod spill;
mod table;
mod upkeep;
mod views;
mod wal;

#[cfg(test)]
pub(super) mod tests;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::Connection;

pub use reader::{SqliteReader, sqlite_dead_letters, sqlite_status};
pub use replica::SqliteReplica;

use super::rules::Floors;
use super::{Applied, BatchLimits, Completion, Figures, LossLimit, Maintenance, Store, StoreError, turns};
use crate::domain::batch::Batch;
use crate::domain::catalog::Catalog;
use crate::domain::checkpoint::Checkpoint;
use crate::domain::sample::Sample;
use crate::domain::shelf::Shelf;
use crate::domain::shelving::{Shelves, Stage};
use crate::domain::snapshot::Snapshot;
use crate::domain::version::{Version, VersionKind};

/// A row of a few hundred bytes that is met where it lies takes a page of the write-ahead log.
const WAL_BYTES_A_BYTE: u64 = 16;

/// What a store needs to know besides its catalog.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Stored in the file; another name means that the file belongs to somebody else.
    pub replica_name: String,
    /// Beyond this age of the heartbeat readers see `disconnected`; see [`super::heartbeat_limit`].
    pub heartbeat_limit: Duration,
    /// Bound on the bytes of records kept with dead letters; beyond it only their coordinates are.
    /// Their number is bounded by the pipeline, which stops at `dead_letters.max`.
    pub dead_letter_bytes_max: u64,
    /// What a generation may lack of the one it replaces.
    pub loss: LossLimit,
    /// A rebuild must leave this much of the volume free.
    pub min_free_bytes: u64,
    /// A write-ahead log that a reader keeps longer than this is not written on.
    pub wal_max_bytes: u64,
}

impl Settings {
    fn heartbeat_limit_ms(&self) -> i64 {
        i64::try_from(self.heartbeat_limit.as_millis()).unwrap_or(i64::MAX)
    }
}

/// What a generation is to readers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    /// The one they see, or the first one, which they will see.
    Live,
    /// Built beside the live one. With `carries_live` nothing else writes the file, and the
    /// heartbeat counts for the live one too.
    Next { carries_live: bool },
}

/// The writer of one generation of a SQLite replica. See [`Store`].
#[derive(Debug)]
pub struct SqliteStore {
    // Closed before the lock is given back.
    conn: Connection,
    home: Arc<replica::Home>,
    path: PathBuf,
    generation: i64,
    role: Role,
    catalog: Arc<Catalog>,
    sql: Vec<layout::TableSql>,
    settings: Settings,
    memory: Memory,
    complete: bool,
    floors: Floors,
    /// By table index: how often keys that are appended come again.
    samples: Vec<Sample>,
    /// Outcome of the last batch whose commit was tried, in case that the reply gets lost.
    unconfirmed: Option<Unconfirmed>,
    pinned: Option<wal::Pinned>,
    /// Of the write-ahead log, once it was there.
    wal_inode: Option<u64>,
}

#[derive(Debug)]
struct Unconfirmed {
    batch: u64,
    memory: Memory,
    applied: Applied,
}

/// What would be too slow to ask the file for each time. Equal to what it holds, transaction by
/// transaction.
#[derive(Debug, Clone, PartialEq)]
struct Memory {
    /// By table index.
    tables: Vec<TableMemory>,
    /// Kept dead letters by topic index.
    dead_letters: Vec<u64>,
    dead_letter_bytes: i64,
    cluster_id: Option<String>,
    topic_ids: BTreeMap<usize, String>,
}

#[derive(Debug, Clone, PartialEq)]
struct TableMemory {
    /// Visible rows.
    rows: i64,
    /// Rows that readers do not see yet.
    held: i64,
    marks: i64,
    truncated: Option<Version>,
    snapshot: Option<Snapshot>,
    /// Prefixes of keys that are remembered as cleared.
    prefix_marks: i64,
    /// A key may be there more than once; see [`append`]. Equal to whether its index is missing.
    appending: bool,
    /// The last whole row met one that was there already: the next will probably, too.
    update_first: bool,
}

impl Store for SqliteStore {
    fn generation(&self) -> u32 {
        u32::try_from(self.generation).unwrap_or(u32::MAX)
    }

    fn version_kinds(&mut self) -> Result<Vec<Option<VersionKind>>, StoreError> {
        let kinds = (0..self.catalog.tables.len()).map(|index| self.version_kind(index)).collect();
        error::at(&self.path, kinds)
    }

    fn checkpoint(&mut self) -> Result<Checkpoint, StoreError> {
        let checkpoint = self.read_checkpoint();
        error::at(&self.path, checkpoint)
    }

    fn apply(&mut self, batch: &Batch) -> Result<Applied, StoreError> {
        let applied = self.apply_batch(batch);
        error::at(&self.path, applied)
    }

    fn complete(&mut self) -> Result<Completion, StoreError> {
        let completed = match self.role {
            Role::Live => self.finish_first_copy().map(|()| Completion::Done),
            Role::Next { .. } => self.switch(),
        };
        error::at(&self.path, completed)
    }

    fn maintain(&mut self, now_ms: i64) -> Result<Maintenance, StoreError> {
        let maintained = self.keep_up(now_ms);
        error::at(&self.path, maintained)
    }

    fn figures(&mut self) -> Figures {
        self.measure()
    }

    fn batch_limits(&self) -> BatchLimits {
        BatchLimits::default()
    }

    fn shelves(&self) -> Shelves {
        // Where the file system does not have files without a name, batches are as small as ever.
        let spill = || spill::FileSpill::new(owner::directory_of(&self.path)).ok();
        Shelves {
            shelves: (0..2).map_while(|_| Some(Shelf::new(Box::new(spill()?)))).collect(),
            stage: match self.role {
                Role::Live if self.complete => Stage::Live,
                Role::Live | Role::Next { carries_live: true } => Stage::First,
                Role::Next { carries_live: false } => Stage::Beside,
            },
            live_bytes_max: self.settings.wal_max_bytes / WAL_BYTES_A_BYTE,
        }
    }
}

impl SqliteStore {
    /// Waits for its turn among the writers of this process.
    fn turn(&self) -> turns::Turn<'_> {
        self.home.turn(self.role)
    }

    pub fn path(&self) -> &std::path::Path {
        &self.path
    }
}
