//! Who reads a partition: one client those that are behind, another those at their end.
//!
//! librdkafka has one fetch under way to each broker, and leaves a partition out of it while that has
//! enough in its queue. A broker holds a fetch back for `fetch.wait.max.ms` when none of its partitions
//! has anything. With one client for all, a large partition would be left out of a fetch of partitions
//! at their end, and stand still until the broker gives up waiting, again and again: one queue full of
//! records each time.

use std::ffi::{CStr, CString};
use std::sync::Arc;

use rdkafka::bindings as sys;

use super::client::{Client, Topic};
use super::inbox::{Inbox, Turns};
use super::{SourceError, topic_handles};
use crate::config::Kafka;
use crate::domain::checkpoint::TopicPartition;

/// Queues; each holds what one fetch brings of its partitions, so their number bounds memory.
const INBOXES: usize = 4;
/// How long a broker holds a fetch back that finds nothing, where something is expected.
const BEHIND_WAIT_MS: &str = "10";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Which {
    /// Has more to give than we have taken.
    Behind,
    AtEnd,
}

impl Which {
    pub const ALL: [Which; 2] = [Which::Behind, Which::AtEnd];
}

/// One client with its queues.
pub(super) struct Lane {
    // In the order in which they are dropped: librdkafka's client last.
    topics: Vec<(CString, Topic)>,
    inboxes: Vec<Inbox>,
    pub client: Arc<Client>,
}

impl Lane {
    /// The queues of a lane have their turns by numbers of their own.
    pub fn new(
        config: &Kafka,
        which: Which,
        topics: &[String],
        turns: &Arc<Turns>,
    ) -> Result<Lane, SourceError> {
        let client = Arc::new(match which {
            // A partition is read by it for a moment after it has reached its end.
            Which::Behind => Client::with(config, None, &[("fetch.wait.max.ms", BEHIND_WAIT_MS)])?,
            Which::AtEnd => Client::new(config, Some("tail"))?,
        });
        let topics = topic_handles(&client, topics)?;
        let first = which as usize * INBOXES;
        let inboxes = (first..first + INBOXES).map(|turn| Inbox::new(&client, turn, turns)).collect();
        Ok(Lane { topics, inboxes, client })
    }

    pub fn name(&self, topic: usize) -> Option<&CStr> {
        self.topics.get(topic).map(|(name, _)| name.as_c_str())
    }

    /// `nth`: the number of the partition among all.
    pub fn start(&self, at: TopicPartition, nth: usize, offset: i64) {
        let Some((name, topic)) = self.topics.get(at.topic) else {
            tracing::error!(topic = at.topic, "assigned a topic that is not configured");
            return;
        };
        let queue = self.inboxes[nth % INBOXES].queue();
        // SAFETY: topic and queue live.
        let started =
            unsafe { sys::rd_kafka_consume_start_queue(topic.ptr(), at.partition, offset, queue.ptr()) };
        if started != 0 {
            let name = name.to_string_lossy();
            tracing::error!(%name, partition = at.partition, offset, "cannot be read");
        }
    }

    /// What arrived before is outdated when this returns.
    pub fn stop(&self, at: TopicPartition) {
        if let Some((_, topic)) = self.topics.get(at.topic) {
            // SAFETY: the topic lives. It waits for librdkafka's own thread, not for a broker.
            unsafe { sys::rd_kafka_consume_stop(topic.ptr(), at.partition) };
        }
    }

    /// Where a partition ended when it was last fetched: its high watermark.
    pub fn known_end(&self, at: TopicPartition) -> Option<i64> {
        let name = self.name(at.topic)?;
        let (mut low, mut high) = (-1, -1);
        // SAFETY: the handle lives, the name is terminated; nothing is asked of a broker.
        let error = unsafe {
            let (client, name) = (self.client.ptr(), name.as_ptr());
            sys::rd_kafka_get_watermark_offsets(client, name, at.partition, &mut low, &mut high)
        };
        (error as i32 == super::code::NONE && high >= 0).then_some(high)
    }
}

/// The queue whose turn it is.
pub(super) fn inbox(lanes: &[Lane; 2], turn: usize) -> Option<&Inbox> {
    lanes.get(turn / INBOXES)?.inboxes.get(turn % INBOXES)
}
