//! The checkpoint: where in the log the replica stands. It is stored with the rows, nowhere else.

use std::collections::{BTreeMap, BTreeSet};

use super::dead_letter::Kept;
use super::event_ids::EventId;
use super::snapshot::{Snapshot, Unlisted};
use super::version::Version;

/// One partition of one topic of the catalog.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicPartition {
    /// Index into [`super::catalog::Catalog::topics`].
    pub topic: usize,
    pub partition: i32,
}

/// What has to survive a restart to go on in a partition exactly there.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Position {
    /// Offset of the first record that is not in the replica. Control records count: after an
    /// end-of-partition at offset n this is n.
    pub next_offset: i64,
    /// Leader epoch of the last record, -1 while unknown (KIP-320).
    pub leader_epoch: i32,
    pub memory: PartitionMemory,
}

impl Position {
    pub fn start() -> Position {
        Position { next_offset: 0, leader_epoch: -1, memory: PartitionMemory::default() }
    }
}

/// What decoding remembers from one record of a partition to the next.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PartitionMemory {
    /// Highest record timestamp so far, ms since 1970; see [`super::version::VersionKind::Position`].
    pub max_timestamp_ms: i64,
    /// Set while the last record was a delete event: the tombstone that follows it shares its
    /// version and its fate.
    pub after_delete: Option<AfterDelete>,
    /// Whole snapshots of which records may have led to no row.
    pub unlisted: Option<Unlisted>,
}

impl PartitionMemory {
    /// A record, perhaps of a whole snapshot, has led to no row; with its version if it tells one.
    pub fn leave_unlisted(&mut self, version: Option<Version>) {
        self.unlisted = Some(Unlisted::with(self.unlisted, version));
    }

    /// A record with this version was read.
    pub fn pass(&mut self, version: Version) {
        if self.unlisted == Some(Unlisted::Unknown) {
            self.leave_unlisted(Some(version));
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AfterDelete {
    /// The record key, byte for byte.
    pub key: Vec<u8>,
    pub version: Version,
}

/// Positions of all partitions the replica knows, with the identity of what they count in.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Checkpoint {
    /// Cluster id as the brokers report it; `None` until the first contact.
    pub cluster_id: Option<String>,
    /// Topic id (KIP-516) by topic index; absent until the first contact.
    pub topic_ids: BTreeMap<usize, String>,
    pub positions: BTreeMap<TopicPartition, Position>,
    /// Fresh-as-of per partition, ms since 1970, as last stored.
    pub fresh_as_of_ms: BTreeMap<TopicPartition, i64>,
    /// Remembered ids by topic index, oldest first; only of topics with `event_id`.
    pub event_ids: BTreeMap<usize, Vec<EventId>>,
    /// Tables, by index, that are known to lack events.
    pub missing_events: BTreeSet<usize>,
    /// The newest whole snapshot by table index, where one was ever heard of.
    pub snapshots: BTreeMap<usize, Snapshot>,
    /// When a batch was written last, ms since 1970.
    pub heartbeat_ms: Option<i64>,
    /// Every kept dead letter, in order.
    pub dead_letters: Vec<Kept>,
    /// True once every partition reached the end captured at start.
    pub complete: bool,
}
