//! The source: what comes out of the log, as a closed set of events.
//!
//! [`Source`] has two real implementations: Kafka (`kafka/`) and the scripted one of the
//! simulation. Both are pulled by the pipeline's thread; record bytes are borrowed, not copied.

pub mod kafka;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::domain::checkpoint::{Position, TopicPartition};
use crate::domain::record::Record;

pub trait Source {
    /// Hands over what has arrived, in the order of each partition, waiting at most `wait` for the
    /// first of it and taking at most `max` records. Returns how many events were handed over.
    fn poll(&mut self, wait: Duration, max: usize, each: &mut dyn FnMut(SourceEvent<'_>)) -> usize;

    /// Starts reading a partition at its position, or again from there when it is already read.
    /// Takes effect with the next poll. Only for partitions that an observation has listed.
    fn assign(&mut self, at: TopicPartition, from: &Position);

    /// Stops reading a partition until it is assigned again. Nothing of it is handed over after the
    /// next poll has begun.
    fn pause(&mut self, at: TopicPartition);

    /// Ends the wait of a poll, from any thread, at once or at its next begin.
    fn waker(&self) -> Waker;

    /// Whether the next rounds of observations have to include log starts and last stable offsets.
    fn want_details(&mut self, wanted: bool);
}

pub type Waker = Arc<dyn Fn() + Send + Sync>;

#[derive(Debug)]
pub enum SourceEvent<'a> {
    Record(Record<'a>),
    /// Everything below `offset` that a `read_committed` reader can see has been handed over.
    EndOfPartition {
        at: TopicPartition,
        offset: i64,
    },
    /// One round of questions, all answered.
    Observation(Observation),
    /// A round that failed, or the loss of all brokers. Rate-limited by the source.
    Unreachable {
        reason: String,
    },
    /// The position is not in the log (any more, or not yet), and nothing more comes until the
    /// partition is assigned again.
    OutOfRange {
        at: TopicPartition,
        position: i64,
        /// Where the log is another one than the one that was read, if the leader epochs have shown
        /// that (KIP-320).
        diverges: Option<i64>,
    },
    /// The brokers do not tell about a topic, while they tell about others: not authorized, or a
    /// partition has no leader. It is missing in the round. Rate-limited by the source.
    TopicRefused {
        topic: usize,
        reason: String,
    },
    /// The topic does not exist (yet); retried by the source.
    TopicMissing {
        topic: usize,
    },
    /// Nothing but a person can help: wrong credentials, no authorisation, …
    Fatal {
        reason: String,
    },
}

/// What one round of questions found. `asked_ms` is the wall clock before any request of the round
/// left; identities were read after it.
#[derive(Debug, Clone, PartialEq)]
pub struct Observation {
    pub asked_ms: i64,
    pub cluster_id: String,
    /// By topic index; a topic that does not exist is missing here.
    pub topics: BTreeMap<usize, TopicObservation>,
}

#[derive(Debug, Clone, PartialEq, Default)]
pub struct TopicObservation {
    /// Topic id (KIP-516), as text.
    pub id: String,
    /// By partition number, all partitions of the topic.
    pub partitions: BTreeMap<i32, Ends>,
    /// Asked for together with log starts; `None` also when the brokers do not tell.
    pub cleanup: Option<Cleanup>,
}

/// What happens to old records of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cleanup {
    /// The latest record of each key stays.
    pub compacts: bool,
    /// Records older than this are deleted; `None`: not by age.
    pub deletes_after: Option<Duration>,
    /// The oldest records of a partition beyond this size are deleted.
    pub deletes_beyond_bytes: Option<u64>,
    /// Compaction keeps a tombstone at least this long; `None` where nothing is compacted.
    pub keeps_tombstones: Option<Duration>,
}

impl Cleanup {
    /// Whether the log has the latest record of every key, however old.
    pub fn keeps_every_key(&self) -> bool {
        self.compacts && self.deletes_after.is_none() && self.deletes_beyond_bytes.is_none()
    }
}

/// Offsets of the record that would be written next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ends {
    /// Oldest offset in the log, if it was asked for (first round after start or reconnect).
    pub log_start: Option<i64>,
    /// High watermark.
    pub high_watermark: i64,
    /// Last stable offset (KIP-98), if it was asked for (until the start-up gate has opened, and while
    /// a partition stands still).
    pub last_stable: Option<i64>,
    /// Epoch of the leader that said so (KIP-320), -1 where it did not.
    pub leader_epoch: i32,
}
