//! Records that cannot be read yet, because their schema has to be fetched: their partition stands
//! still, the others go on.

use tracing::{info, warn};

use super::Intake;
use crate::decode::Pending;
use crate::domain::checkpoint::TopicPartition;

impl Intake {
    /// Partitions to stop reading, before anything is assigned.
    pub fn take_pauses(&mut self) -> Vec<TopicPartition> {
        std::mem::take(&mut self.pauses)
    }

    pub(super) fn wait_for(&mut self, at: TopicPartition, pending: Pending) {
        let Some(partition) = self.partitions.get_mut(&at) else { return };
        let topic = &self.catalog.topics[at.topic];
        let (offset, schema) = (partition.position.next_offset, pending.schema_id);
        let reason = pending.reason.as_str();
        warn!(%topic, partition = at.partition, offset, schema, reason, "waiting for a schema");
        partition.waits_for = Some(pending);
        self.pauses.push(at);
        self.waiting += 1;
        self.publish_waiting(at.topic);
    }

    /// Reads partitions again whose schema is there, or is known not to be.
    pub(super) fn end_waits(&mut self) {
        if self.waiting == 0 {
            return;
        }
        let mut ended = Vec::new();
        for (at, partition) in &mut self.partitions {
            if partition.waits_for.as_ref().is_some_and(|pending| self.plan.can_go_on(pending)) {
                partition.waits_for = None;
                ended.push((*at, partition.position.clone()));
            }
        }
        self.waiting -= ended.len();
        for (at, position) in ended {
            info!(topic = %self.catalog.topics[at.topic], partition = at.partition, "going on with a schema");
            self.assignments.push((at, position));
            self.publish_waiting(at.topic);
        }
    }

    fn publish_waiting(&self, topic: usize) {
        let waiting = self
            .partitions
            .iter()
            .filter(|(at, partition)| at.topic == topic && partition.waits_for.is_some());
        self.context.metrics.waiting_partitions(topic, waiting.count() as u64);
    }
}
