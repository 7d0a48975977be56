//! The store: a replica that takes batches, each in one atomic step.
//!
//! Behind [`Store`] stand SQLite (`sqlite/`), Redis (`redis/`) and the in-memory reference model
//! (`memory.rs`) that the contract suite compares them with.

mod adapt;
mod letters;
mod memory;
mod redis;
mod rules;
mod sqlite;
mod turns;

#[cfg(test)]
pub(crate) mod around;
#[cfg(test)]
pub(crate) mod contract;
#[cfg(test)]
pub(crate) use self::redis::tests::server as redis_server;

use std::sync::Arc;
use std::time::Duration;

pub use self::redis::{
    RedisReader, RedisReplica, RedisSettings, RedisStore, redis_check, redis_dead_letters, redis_status,
};
pub use letters::{
    LETTERS_PER_PAGE_MAX, Letter, LetterCursor, LetterFilter, LetterPage, LetterQuery, is_forgotten,
};
pub use memory::{Fault, MemoryReader, MemoryStore};
pub use sqlite::{Settings, SqliteReader, SqliteReplica, SqliteStore, sqlite_dead_letters, sqlite_status};

use crate::domain::batch::Batch;
use crate::domain::catalog::Catalog;
use crate::domain::checkpoint::{Checkpoint, TopicPartition};
use crate::domain::dead_letter::{DeadLetter, Kept};
use crate::domain::retry::RetryReason;
use crate::domain::row::RowState;
use crate::domain::shelving::Shelves;
use crate::domain::snapshot::Snapshot;
use crate::domain::state::State;
use crate::domain::value::Value;
use crate::domain::version::{Version, VersionKind};

/// The writing side of one generation. Owned by one thread.
pub trait Store: Send {
    /// The number of the generation this writes.
    fn generation(&self) -> u32;

    /// What kind of version each table's rows carry, found by looking at one of them; `None` while
    /// a table has none.
    fn version_kinds(&mut self) -> Result<Vec<Option<VersionKind>>, StoreError>;

    /// Positions and identity as stored.
    fn checkpoint(&mut self) -> Result<Checkpoint, StoreError>;

    /// Applies the batch: rows, versions, marks, dead letters, event ids, positions, freshness,
    /// all or nothing. Refuses (`Stop`) when a stored position is not the batch's `from`.
    fn apply(&mut self, batch: &Batch) -> Result<Applied, StoreError>;

    /// The copy is whole: builds what was left for the end (indexes) and makes it durable and
    /// visible to readers in one transaction; a generation that was built beside the live one takes
    /// its place by that. Doing it twice does nothing.
    fn complete(&mut self) -> Result<Completion, StoreError>;

    /// Housekeeping between batches: checkpoints the WAL, drops old delete marks. Bounded work.
    fn maintain(&mut self, now_ms: i64) -> Result<Maintenance, StoreError>;

    /// Sizes and counts for metrics; cheap.
    fn figures(&mut self) -> Figures;

    /// How much one batch may hold; the same as long as the store is open.
    fn batch_limits(&self) -> BatchLimits;

    /// Where whole rows can be put aside, so that batches may be larger than memory should be; nothing
    /// where the store has no use for that.
    fn shelves(&self) -> Shelves;

    /// What prepares batches, where that makes [`Store::apply`] faster.
    fn preparer(&self) -> Option<Preparer> {
        None
    }
}

/// Prepares a batch: does what the store's thread need not do. Called by another thread with each batch
/// that is going to be applied, in their order; the batch is not changed afterwards. Nothing depends
/// on it.
pub type Preparer = Arc<dyn Fn(&Batch) + Send + Sync>;

impl<T: Store + ?Sized> Store for Box<T> {
    fn generation(&self) -> u32 {
        (**self).generation()
    }

    fn version_kinds(&mut self) -> Result<Vec<Option<VersionKind>>, StoreError> {
        (**self).version_kinds()
    }

    fn checkpoint(&mut self) -> Result<Checkpoint, StoreError> {
        (**self).checkpoint()
    }

    fn apply(&mut self, batch: &Batch) -> Result<Applied, StoreError> {
        (**self).apply(batch)
    }

    fn complete(&mut self) -> Result<Completion, StoreError> {
        (**self).complete()
    }

    fn maintain(&mut self, now_ms: i64) -> Result<Maintenance, StoreError> {
        (**self).maintain(now_ms)
    }

    fn figures(&mut self) -> Figures {
        (**self).figures()
    }

    fn batch_limits(&self) -> BatchLimits {
        (**self).batch_limits()
    }

    fn shelves(&self) -> Shelves {
        (**self).shelves()
    }

    fn preparer(&self) -> Option<Preparer> {
        (**self).preparer()
    }
}

/// A replica as one process holds it to write it: whose it is, and its generations. At most two of
/// them are open at a time, the live one and the next, each written by a thread of its own.
pub trait Replica: Send {
    /// What is there, compared with the mapping of now. Reads only.
    fn survey(&self, catalog: &Catalog) -> Result<Survey, StoreError>;

    /// The mapping under which the live generation was built; `None` while there is none.
    fn live_catalog(&self) -> Result<Option<Catalog>, StoreError>;

    /// Brings a whole copy under this mapping without the log, if that is possible; false, and
    /// nothing has changed, where it is not.
    fn adapt(&self, catalog: &Catalog) -> Result<bool, StoreError>;

    /// Opens the live generation, or makes the first one. The mapping must be the one it was built
    /// under ([`Live::Same`]); otherwise this refuses (`Stop`) without having touched it.
    fn open_live(&self, catalog: Arc<Catalog>) -> Result<Box<dyn Store>, StoreError>;

    /// Puts a first copy that nobody has seen yet out of use, to begin another under this mapping.
    fn start_over(&self, catalog: Arc<Catalog>) -> Result<Box<dyn Store>, StoreError>;

    /// Begins to build a generation beside the live one. A half-built one is put out of use.
    /// `Err` inside: there is no room for a second copy, as a sentence.
    fn begin(
        &self,
        catalog: Arc<Catalog>,
        rebuild: &Rebuild,
    ) -> Result<Result<Box<dyn Store>, String>, StoreError>;

    /// Goes on with a generation that an earlier process began under this mapping.
    fn resume(&self, catalog: Arc<Catalog>) -> Result<Box<dyn Store>, StoreError>;

    /// Puts a half-built generation out of use; what it holds is dropped later.
    fn abandon(&self) -> Result<(), StoreError>;

    /// What is left of the live generation is served as it is. `stopped` says why, for readers;
    /// `None`: because the next one is being built.
    fn freeze(&self, stopped: Option<&str>) -> Result<(), StoreError>;

    /// While a rebuild runs: a sentence about what is missing if it takes room that the copy that
    /// serves needs.
    fn lacks_room(&self) -> Result<Option<String>, StoreError>;

    /// Keeps others from taking over while no generation is written.
    fn keep(&self) -> Result<(), StoreError>;

    /// Lets go of it, so that this process can open it again. Its stores are closed.
    fn let_go(&self);
}

/// What a place holds, compared with the mapping of now.
#[derive(Debug, Clone, PartialEq)]
pub struct Survey {
    pub live: Live,
    /// A generation that was being built beside the live one.
    pub next: Option<Next>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Live {
    /// Nothing yet, or a copy under this mapping.
    Same,
    /// A copy under another mapping: tables that are not as this one has them, whether it is
    /// whole, and whether a new one can only be made by reading the log.
    Changed { tables: Vec<String>, complete: bool, needs_log: bool },
}

#[derive(Debug, Clone, PartialEq)]
pub struct Next {
    pub generation: u32,
    /// It is built under the mapping of now, so that it can be gone on with.
    pub same: bool,
    pub reason: String,
    /// See [`Rebuild::may_go_back`].
    pub may_go_back: bool,
    /// The live generation must not be written meanwhile.
    pub live_is_frozen: bool,
}

/// The reading side: what `status`, `wait` and `explain` ask while the writer works. Each call is
/// one read transaction. Used from threads that may block.
pub trait Reader: Send + Sync {
    fn status(&self, now_ms: i64) -> Result<Status, StoreError>;

    fn row(&self, table: usize, key: &[Value]) -> Result<RowLookup, StoreError>;

    /// All that is kept of a key, whether readers see the row or not: versions, delete mark, what waits.
    fn state_of(&self, table: usize, key: &[Value]) -> Result<Option<RowState>, StoreError>;

    /// Whether the record became a dead letter that is still kept.
    fn is_dead_letter(&self, at: TopicPartition, offset: i64) -> Result<bool, StoreError>;

    /// Kept dead letters in the order of topic, partition, offset and table, a page at a time.
    fn dead_letters(&self, query: &LetterQuery) -> Result<LetterPage, StoreError>;
}

#[derive(Debug, Clone, PartialEq, Default)]
pub struct Applied {
    /// Indexes of the batch's entries that changed nothing because the replica had newer, ascending.
    pub stale: Vec<usize>,
    /// Indexes of entries that were patches of a row that is not there.
    pub missing_row: Vec<usize>,
    /// What the batch's sweeps did.
    pub swept: Vec<Swept>,
    /// Dead letters the store itself found (patches with `if_missing: dead_letter`), without those
    /// of records that were retried.
    pub dead_letters: Vec<DeadLetter>,
    /// Kept dead letters after this batch.
    pub dead_letters_kept: u64,
    /// What became of the batch's `retried` and `dropped`.
    pub letters: LettersMoved,
    /// Rows of some table are appended as they come, so that their order does not matter.
    pub appends: bool,
}

/// Rows of a table that are not in a whole snapshot of its source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Swept {
    pub table: usize,
    pub rows: u64,
    /// It is in phase `Swept`, or one that says why they stay.
    pub snapshot: Snapshot,
}

/// What a batch did to dead letters that were kept before it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct LettersMoved {
    /// Those that went, also when another of the same record took their place.
    pub removed: Vec<Kept>,
    /// Those that took the place of others.
    pub again: Vec<Kept>,
    /// Indexes of the batch's `retried` that still have a dead letter.
    pub refused: Vec<usize>,
    /// How many of `dropped` were there.
    pub dropped: u64,
}

/// What became of a copy that is whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Completion {
    /// Readers see it.
    Done,
    /// The live generation is ahead of it: to be tried again behind the next batch, so that nothing
    /// goes back for readers.
    Behind,
    /// It has suspiciously fewer rows than the live one and will not take its place.
    Refused { reason: String },
}

/// Why and how a generation is built beside the live one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rebuild {
    /// For people.
    pub reason: String,
    /// The positions of the live generation mean nothing in the log of now, so the new one need not
    /// have reached them.
    pub may_go_back: bool,
    /// A person has said that the loss of rows is fine.
    pub accepts_loss: bool,
    /// Nothing is applied to the live generation any more; the heartbeat of the next counts for it.
    pub live_is_frozen: bool,
    /// The mapping asks for nothing that the live generation does not have: its rows are copied, and
    /// the log is read on from where it stands. Only with `live_is_frozen`.
    pub from_live: bool,
}

/// From which loss of rows on a rebuilt table is not believed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LossLimit {
    /// Of the rows, from 0 to 1.
    pub max_share: f64,
    /// Tables with fewer rows than this may lose all of them.
    pub min_rows: i64,
}

impl Default for LossLimit {
    fn default() -> LossLimit {
        LossLimit { max_share: 0.1, min_rows: 100 }
    }
}

/// Bounds of a batch. At most three batches exist at a time: one in the making, a full one that
/// waits, one in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchLimits {
    pub records: u64,
    /// Approximate. Looked at between two polls, so a batch may pass it by what one poll hands over:
    /// at most what the Kafka client's queue holds (1 MiB, or one record that is larger).
    pub bytes: usize,
}

impl Default for BatchLimits {
    fn default() -> BatchLimits {
        BatchLimits { records: 1536, bytes: 2 << 20 }
    }
}

/// A read transaction that keeps the WAL for so long is worth a person's attention.
pub const LONG_READER: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, PartialEq, Default)]
pub struct Maintenance {
    pub delete_marks_dropped: u64,
    /// Pages of the WAL that could not be checkpointed because a reader still uses them.
    pub wal_pages_pinned: u64,
    /// How long the same reader has been seen to do that.
    pub wal_pinned_for: Duration,
    /// Ids of the processes that read, where they can be known, once that is long.
    pub wal_readers: Vec<u32>,
    /// There is more to be tidied up: call again soon.
    pub more: bool,
}

#[derive(Debug, Clone, PartialEq, Default)]
pub struct Figures {
    /// Visible rows by table index.
    pub rows: Vec<u64>,
    /// Held (invisible) rows by table index.
    pub held: Vec<u64>,
    pub delete_marks: Vec<u64>,
    /// Kept dead letters by topic index.
    pub dead_letters: Vec<u64>,
    /// `None` where it is not known or there is none.
    pub replica_bytes: Option<u64>,
    pub wal_bytes: Option<u64>,
}

/// What `_readside_status` shows, as the JSON of `GET /status`.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Status {
    pub replica: String,
    /// The worst of all tables.
    #[serde(serialize_with = "state_name")]
    pub state: State,
    pub complete: bool,
    pub fresh_as_of: Option<String>,
    pub fresh_as_of_ms: Option<i64>,
    pub lag_records: Option<i64>,
    pub dead_letters: u64,
    /// Why it is `stopped`, for a person.
    pub stopped: Option<String>,
    pub cluster_id: Option<String>,
    pub tables: Vec<TableStatus>,
    pub positions: Vec<PositionStatus>,
}

#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct TableStatus {
    pub table_name: String,
    #[serde(serialize_with = "state_name")]
    pub state: State,
    pub complete: bool,
    pub rebuilding: bool,
    /// The log lost events before they were read; see `on_gap`.
    pub missing_events: bool,
    pub fresh_as_of: Option<String>,
    pub fresh_as_of_ms: Option<i64>,
    pub lag_records: Option<i64>,
    pub max_staleness_ms: i64,
    pub rows: u64,
    pub dead_letters: u64,
    pub generation: u32,
}

#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct PositionStatus {
    pub generation: u32,
    pub topic: String,
    pub partition: i32,
    pub next_offset: i64,
    pub end_offset: Option<i64>,
    pub leader_epoch: i32,
    pub topic_id: Option<String>,
    pub cluster_id: Option<String>,
    pub fresh_as_of_ms: Option<i64>,
}

fn state_name<S: serde::Serializer>(state: &State, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(state.name())
}

/// One row with its version, for `wait` by version.
#[derive(Debug, Clone, PartialEq)]
pub enum RowLookup {
    Visible { values: Vec<Value>, version: Version },
    Deleted { version: Version },
    Missing,
}

/// Errors by what the caller does next.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// May go away: busy, disk full, directory missing. Try the same batch again.
    #[error("{message}")]
    Retry { reason: RetryReason, message: String },
    /// Nothing but a person can help; the exit code says of which kind.
    #[error("{message}")]
    Stop { exit: StopCode, message: String },
}

/// Exit codes of `readside run` (contracts, section 6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopCode {
    /// 74: the file is corrupt, unreadable or read-only.
    Io,
    /// 78: the replica belongs to another configuration, cluster, program or writer.
    Foreign,
    /// 78: the replica went back to an older state or lost its data while it was written (flushed,
    /// restored, failed over). Not a person but a new beginning is needed: a store that is opened
    /// again goes on from whatever is there, and the log fills in the rest. The daemon does so by
    /// itself (`app/recovery.rs`) unless `on_gap: stop` forbids it.
    Lost,
    /// Not an error of the replica: another generation has become the live one, and this one takes
    /// nothing more.
    Retired,
}

/// How long a heartbeat counts: three intervals and a second.
pub fn heartbeat_limit(interval: Duration) -> Duration {
    interval * 3 + Duration::from_secs(1)
}
