//! Rounds of observations: proof of freshness, new partitions, the ends that the start waits for.

use std::collections::BTreeMap;

use tracing::{info, warn};

use super::{Intake, Partition};
use crate::domain::checkpoint::{Position, TopicPartition};
use crate::domain::freshness;
use crate::metrics::SourceErrorKind;
use crate::pipeline::watchdog::{Finding, Watchdog};
use crate::pipeline::{Failure, gate};
use crate::source::{Ends, Observation, TopicObservation};

impl Intake {
    pub(super) fn take_observation(&mut self, seen: &Observation) -> Result<(), Failure> {
        self.look_at_clock(self.context.now_ms());
        if !self.connected {
            info!(cluster_id = %seen.cluster_id, "connected");
            self.connected_ms = seen.asked_ms;
        }
        self.connected = true;
        self.outage_told = false;
        self.context.metrics.kafka_connected(true);
        for (topic, observed) in &seen.topics {
            if let Some(cleanup) = &observed.cleanup {
                self.cleanups.insert(*topic, cleanup.clone());
            }
        }
        if seen.asked_ms > self.now_ms {
            // Asked before the clock was set back: it is no proof as of any time.
            self.news.any = true;
            return Ok(());
        }
        let positions = self.positions();
        let judged = self.identity.judge(seen, positions, self.now_ms);
        if self.meets_gap(judged.gaps, seen)? {
            return Ok(());
        }
        if judged.suspect {
            for partition in self.partitions.values_mut() {
                partition.freshness.distrust();
            }
            self.validate(&judged.behind);
            return Ok(());
        }
        let (new_cluster_id, new_topic_ids) = self.identity.adopt(seen);
        self.news.cluster_id = new_cluster_id.or(self.news.cluster_id.take());
        self.news.topic_ids.extend(new_topic_ids);
        if !self.verified || self.doubt {
            self.verified = true;
            self.doubt = false;
            self.assign_all();
        }
        self.lacks_log_start = false;
        self.suspicious = false;
        self.find_again(seen);
        for (topic, observed) in &seen.topics {
            // A round is proof only of a topic all of whose partitions are being read.
            if self.can_count(*topic, observed) {
                for (partition, ends) in &observed.partitions {
                    self.meet(TopicPartition { topic: *topic, partition: *partition }, ends, seen.asked_ms);
                }
                self.counted_ms.insert(*topic, seen.asked_ms);
            }
        }
        self.capture_gate(seen);
        self.sweeps.observe(&self.catalog, seen);
        self.sweep();
        self.news.any = true;
        self.news.clear_stopped = true;
        Ok(())
    }

    /// Starts to read, or reads anew, everything that is known, from where it stands.
    pub(super) fn assign_all(&mut self) {
        let known = self.partitions.iter().filter(|(_, known)| known.lost.is_none());
        for at in known.map(|(at, _)| *at).collect::<Vec<_>>() {
            self.assign(at);
        }
    }

    /// Whether every partition of the topic is known or can be started now, and none is missing.
    fn can_count(&mut self, topic: usize, observed: &TopicObservation) -> bool {
        if observed.partitions.is_empty() {
            // No topic is like that: an answer given while it was being made.
            return false;
        }
        let known = self.partitions.keys().filter(|at| at.topic == topic);
        if known.clone().any(|at| !observed.partitions.contains_key(&at.partition)) {
            return false;
        }
        let startable = observed.partitions.iter().all(|(partition, ends)| {
            ends.log_start.is_some()
                || self.partitions.contains_key(&TopicPartition { topic, partition: *partition })
        });
        self.lacks_log_start |= !startable;
        startable
    }

    /// Takes a partition's ends as proof; starts reading it when it is new.
    fn meet(&mut self, at: TopicPartition, ends: &Ends, asked_ms: i64) {
        if let (false, Some(log_start)) = (self.partitions.contains_key(&at), ends.log_start) {
            // It did not exist in the last round that counted, so nothing committed before that
            // round can be missing from it.
            let fresh = self.counted_ms.get(&at.topic).copied().or_else(|| self.worst_fresh_ms(at.topic));
            let position = Position { next_offset: log_start, ..Position::start() };
            if self.gate.is_complete() {
                info!(topic = %self.catalog.topics[at.topic], partition = at.partition, "new partition");
            }
            self.partitions.insert(at, Partition::new(position, false, fresh, asked_ms));
            self.assign(at);
        }
        if let Some(partition) = self.partitions.get_mut(&at)
            && partition.lost.is_none()
        {
            partition.freshness.observe(asked_ms, ends.high_watermark);
            self.gate.observe(at, ends.high_watermark);
            partition.end = Some(ends.high_watermark);
            let is_led_anew = partition.is_led_anew(ends);
            partition.learn_epoch(ends);
            let position = partition.position.next_offset;
            // Who waits for a schema has a reason of its own to stand still.
            let finding = match partition.waits_for {
                None => partition.watchdog.look(position, ends, asked_ms),
                Some(_) => {
                    partition.watchdog = Watchdog::default();
                    Finding::Well
                }
            };
            self.suspicious |= partition.watchdog.is_suspicious();
            if finding == Finding::Stalled {
                let topic = &self.catalog.topics[at.topic];
                let end = ends.high_watermark;
                warn!(%topic, partition = at.partition, position, end, "no progress; reading it anew");
                self.context.metrics.source_error(SourceErrorKind::Stalled);
                self.assign(at);
            } else if is_led_anew {
                self.assign(at);
            }
            self.note_held(at, position, finding, asked_ms);
            self.news.ends.insert(at, ends.high_watermark);
        }
    }

    /// Of the known partitions of a topic.
    pub(super) fn worst_fresh_ms(&self, topic: usize) -> Option<i64> {
        let of_topic = self.partitions.iter().filter(|(at, _)| at.topic == topic);
        freshness::worst(of_topic.map(|(_, partition)| partition.freshness.fresh_as_of_ms()))
    }

    /// The first round in which every topic exists and every partition is known tells the ends
    /// that the start-up gate waits for.
    fn capture_gate(&mut self, seen: &Observation) {
        if !self.gate.wants_ends() || seen.topics.len() < self.catalog.topics.len() {
            return;
        }
        let mut ends = BTreeMap::new();
        for (topic, observed) in &seen.topics {
            for (partition, found) in &observed.partitions {
                let at = TopicPartition { topic: *topic, partition: *partition };
                if !self.partitions.contains_key(&at) {
                    return;
                }
                ends.insert(at, found.last_stable.unwrap_or(found.high_watermark));
            }
            if observed.partitions.is_empty() {
                return;
            }
        }
        let positions = self.positions();
        if positions.len() != ends.len() {
            // The broker that answered has not heard of a partition that we read already.
            return;
        }
        let remaining = gate::remaining(&ends, &positions);
        info!(partitions = ends.len(), remaining_records = remaining, "reading up to the end of the log");
        self.gate.capture(ends, remaining, self.context.now_ms());
        self.publish_gate();
    }
}
