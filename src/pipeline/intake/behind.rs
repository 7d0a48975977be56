//! Gaps: found, decided about, and gone on behind.

use std::collections::BTreeSet;

use tracing::{debug, warn};

use super::Intake;
use crate::domain::batch::{AfterGap, Step};
use crate::domain::checkpoint::{Position, TopicPartition};
use crate::domain::freshness::PartitionFreshness;
use crate::metrics::SourceErrorKind;
use crate::pipeline::Failure;
use crate::pipeline::gaps::{self, Decision, Gap};
use crate::source::{Ends, Observation};

impl Intake {
    /// Why it is so, a round with all details tells that is asked from now on.
    pub(super) fn take_out_of_range(&mut self, at: TopicPartition, position: i64, diverges: Option<i64>) {
        self.context.metrics.source_error(SourceErrorKind::OutOfRange);
        let topic = &self.catalog.topics[at.topic];
        debug!(%topic, partition = at.partition, position, ?diverges, "the position is not in the log");
        if let Some(partition) = self.partitions.get_mut(&at) {
            partition.lose(diverges, self.now_ms);
        }
        self.suspicious = true;
    }

    /// Finds the gaps that a round shows, beside those that were `found` already, and does what the
    /// policies say. False when there are none, and the round counts.
    pub(super) fn meets_gap(&mut self, mut found: Vec<Gap>, seen: &Observation) -> Result<bool, Failure> {
        let known: BTreeSet<TopicPartition> = found.iter().filter_map(Gap::partition).collect();
        let renewed: BTreeSet<usize> = found.iter().filter_map(Gap::renewed_topic).collect();
        let mut more = self.diverged(seen);
        more.extend(self.begun_late(seen));
        more.extend(self.tombstones_gone(seen));
        found.extend(more.into_iter().filter(|gap| {
            gap.partition().is_none_or(|at| !known.contains(&at))
                && gap.topic().is_none_or(|topic| !renewed.contains(&topic))
        }));
        if found.is_empty() {
            return Ok(false);
        }
        if found.iter().any(Gap::is_of_another_log) {
            // What was taken and not handed over yet may come from the other log.
            self.discard();
        }
        let details = has_details(&self.catalog.topics, seen);
        let whole = details.then(|| gaps::can_give_all_back(&self.catalog.topics, seen));
        let Some(decision) = gaps::decide(&found, &self.gap_policies, whole) else {
            self.doubt = true;
            for partition in self.partitions.values_mut() {
                partition.freshness.distrust();
            }
            return Ok(true);
        };
        self.tell(&found, decision);
        let reasons: Vec<String> = found.iter().map(|gap| gap.describe(&self.catalog)).collect();
        let reason = reasons.join("; ");
        match decision {
            Decision::Stop => Err(Failure::foreign(format!(
                "{reason}; on_gap is to stop here: point kafka.brokers at the right cluster if it is not, or \
                 choose on_gap: rebuild, which builds the copy anew from what the log still holds, or \
                 on_gap: continue, which keeps it and calls it incomplete"
            ))),
            Decision::Rebuild => {
                self.rebuild = Some(reason);
                Ok(true)
            }
            Decision::Continue => {
                self.go_on(&found, seen);
                Ok(true)
            }
        }
    }

    /// Counts and logs each, once: what was decided about is not found again.
    fn tell(&self, found: &[Gap], decision: Decision) {
        for gap in found {
            self.context.metrics.gap(gap.reason());
            let (reason, policy) = (gap.reason().name(), decision.name());
            warn!(reason, decision = policy, gap = %gap.describe(&self.catalog), "gap in the log");
        }
    }

    /// Partitions whose log is not the one that was read, as leader epochs have shown.
    fn diverged(&self, seen: &Observation) -> Vec<Gap> {
        let lost = self.partitions.iter().filter_map(|(at, partition)| {
            let lost = partition.lost.filter(|lost| lost.since_ms <= seen.asked_ms)?;
            let ends = ends_of(seen, *at)?;
            let start = ends.log_start?;
            let from = lost.diverges?.max(start);
            let position = partition.position.next_offset;
            // Otherwise it was said of an earlier position; or retention has passed it, which is found
            // by itself.
            (position >= start && from < position).then_some(Gap::Truncated { at: *at, position, from })
        });
        lost.collect()
    }

    /// New partitions whose first records are gone. A first copy is of what the log holds; a whole
    /// copy has missed something.
    fn begun_late(&self, seen: &Observation) -> Vec<Gap> {
        let mut late = Vec::new();
        if !self.gate.is_complete() {
            return late;
        }
        for (topic, observed) in &seen.topics {
            for (partition, ends) in &observed.partitions {
                let at = TopicPartition { topic: *topic, partition: *partition };
                if let Some(start) = ends.log_start.filter(|start| *start > 0)
                    && !self.partitions.contains_key(&at)
                {
                    late.push(Gap::Retention { at, position: 0, start });
                }
            }
        }
        late
    }

    /// Topics that were not read up to date for longer than compaction keeps tombstones: rows whose
    /// deletes are gone would stay for ever. Up to date is a partition that was fresh since the
    /// brokers were reached.
    fn tombstones_gone(&self, seen: &Observation) -> Vec<Gap> {
        let mut gone = Vec::new();
        for (topic, cleanup) in &self.cleanups {
            let Some(kept) = cleanup.keeps_tombstones else { continue };
            if self.tombstones_told.contains(topic) || !seen.topics.contains_key(topic) {
                continue;
            }
            let kept_ms = i64::try_from(kept.as_millis()).unwrap_or(i64::MAX);
            let of_topic = self.partitions.iter().filter(|(at, known)| at.topic == *topic && known.stored);
            let behind = of_topic.filter_map(|(_, partition)| {
                let fresh = partition.freshness.fresh_as_of_ms();
                if fresh.is_some_and(|at| at >= self.connected_ms) {
                    return None;
                }
                Some(seen.asked_ms.saturating_sub(fresh.unwrap_or(partition.reading_since_ms)))
            });
            if let Some(behind_ms) = behind.max().filter(|behind_ms| *behind_ms > kept_ms) {
                gone.push(Gap::Tombstones { topic: *topic, behind_ms, kept_ms });
            }
        }
        gone
    }

    /// Forgets what was taken and not handed over yet.
    fn discard(&mut self) {
        let dropped = self.builder.discard();
        for letter in &dropped.dead_letters {
            self.limits.remove(letter.kept());
        }
        for entry in &dropped.entries {
            if let Step::Sweep(sweep) = &entry.step {
                self.sweeps.put_back(entry.table, sweep.begin, self.now_ms);
            }
        }
        // Whoever waits for them hears that nothing came of it.
        drop(self.take_errands());
        self.plan.drop_news();
        for partition in self.partitions.values_mut() {
            partition.position.clone_from(&partition.sealed);
            partition.moved = !partition.stored;
            partition.freshness.distrust();
        }
        // The source has passed it: everything has to be assigned again.
        self.doubt = true;
    }

    /// Goes on with what the log has; that events are missing is stored in the same step.
    fn go_on(&mut self, found: &[Gap], seen: &Observation) {
        // There may have been another gap since the last batch was sealed.
        let mut after = self.news.after_gap.take().unwrap_or_default();
        for gap in found {
            match gap {
                // Never decided so.
                Gap::Cluster { .. } => {}
                Gap::Recreated { topic, seen: id, .. } => self.begin_anew(*topic, id, seen, &mut after),
                Gap::Retention { at, start, .. } => {
                    // Without an epoch: that of the last record read may have ended before the start.
                    let mut position = Position { next_offset: *start, ..Position::start() };
                    position.memory.leave_unlisted(None);
                    self.resume(*at, position, 0);
                }
                Gap::Truncated { at, from, .. } => {
                    let position = Position { next_offset: *from, ..Position::start() };
                    self.resume(*at, position, 1);
                    self.plan.clear_event_ids(at.topic);
                    after.forgotten_ids.insert(at.topic);
                }
                Gap::Tombstones { topic, .. } => drop(self.tombstones_told.insert(*topic)),
            }
            let topic = gap.topic();
            let fed = self.catalog.tables.iter().enumerate();
            let fed = fed.filter(|(_, table)| topic.is_some_and(|topic| table.topics.contains(&topic)));
            after.missing_events.extend(fed.map(|(index, _)| index));
        }
        self.identity.went_on(&after.topic_ids, self.positions(), self.now_ms);
        self.gate.forget_ends();
        self.sweeps.forget_ends();
        self.news.after_gap = Some(after);
        self.news.any = true;
        self.news.clear_stopped = true;
        self.doubt = false;
        self.verified = true;
        self.assign_all();
    }

    /// Another topic of the same name, from its beginning.
    fn begin_anew(&mut self, topic: usize, id: &str, seen: &Observation, after: &mut AfterGap) {
        let fresh = self.worst_fresh_ms(topic);
        let newest_ms = self.newest_ms(topic);
        after.topic_ids.insert(topic, id.to_owned());
        after.forgotten_ids.insert(topic);
        self.plan.clear_event_ids(topic);
        let known = self.partitions.keys().filter(|at| at.topic == topic).copied();
        let exist = seen.topics.get(&topic).into_iter().flat_map(|observed| observed.partitions.keys());
        let exist: BTreeSet<TopicPartition> =
            exist.map(|partition| TopicPartition { topic, partition: *partition }).collect();
        for at in known.chain(exist.iter().copied()).collect::<BTreeSet<_>>() {
            if exist.contains(&at) {
                let start = ends_of(seen, at).and_then(|ends| ends.log_start).unwrap_or(0);
                let mut position = Position { next_offset: start, ..Position::start() };
                if start > 0 {
                    position.memory.leave_unlisted(None);
                }
                self.resume(at, position, 1);
            } else if self.partitions.remove(&at).is_some_and(|partition| partition.stored) {
                after.gone.insert(at);
            }
            if let Some(partition) = self.partitions.get_mut(&at) {
                // Every record of this topic is newer than all of the one before, wherever its key was.
                partition.position.memory.max_timestamp_ms = newest_ms.saturating_add(1);
                // All of it was committed after that.
                partition.freshness = PartitionFreshness::restored(fresh);
            }
        }
    }

    /// The highest timestamp that the topic's records count as.
    fn newest_ms(&self, topic: usize) -> i64 {
        let of_topic = self.partitions.iter().filter(|(at, _)| at.topic == topic);
        of_topic.map(|(_, known)| known.position.memory.max_timestamp_ms).max().unwrap_or(0)
    }

    /// Sets a partition to where it goes on. What comes from there counts as newer than what was
    /// read, by `newer_ms`: where order is that of positions, offsets that come again must not lose
    /// against those before.
    fn resume(&mut self, at: TopicPartition, mut position: Position, newer_ms: i64) {
        let Some(partition) = self.partitions.get_mut(&at) else {
            // A new one, which this very round could not start.
            self.partitions.insert(at, super::Partition::new(position, false, None, self.now_ms));
            return;
        };
        let max_timestamp_ms = partition.position.memory.max_timestamp_ms.saturating_add(newer_ms);
        position.memory.max_timestamp_ms = max_timestamp_ms;
        partition.position = position;
        partition.moved = true;
        partition.lost = None;
        partition.freshness.distrust();
    }

    /// Lost positions that are in the log after all are read again: the log has grown past them, or
    /// retention is not what took them. The source compares their epochs.
    pub(super) fn find_again(&mut self, seen: &Observation) {
        let mut found = Vec::new();
        for (at, partition) in &mut self.partitions {
            let Some(lost) = partition.lost else { continue };
            self.suspicious = true;
            let position = partition.position.next_offset;
            if lost.since_ms <= seen.asked_ms
                && let Some(ends) = ends_of(seen, *at)
                && ends.log_start.is_some_and(|start| start <= position)
                && position <= ends.high_watermark
            {
                partition.lost = None;
                partition.found = lost.diverges.is_none();
                found.push(*at);
            }
        }
        for at in found {
            self.assign(at);
        }
    }

    /// Before a log that ends too early counts as truncated, its epochs are asked where it did: it
    /// may have grown again since.
    pub(super) fn validate(&mut self, behind: &[TopicPartition]) {
        for at in behind {
            if let Some(partition) = self.partitions.get(at)
                && partition.position.leader_epoch >= 0
                && partition.lost.is_none_or(|lost| lost.diverges.is_none())
            {
                self.assign(*at);
            }
        }
    }
}

fn ends_of(seen: &Observation, at: TopicPartition) -> Option<&Ends> {
    seen.topics.get(&at.topic)?.partitions.get(&at.partition)
}

/// Whether the round has asked where logs begin, of every topic it tells about.
fn has_details(topics: &[String], seen: &Observation) -> bool {
    let mut all = seen.topics.values().flat_map(|topic| topic.partitions.values());
    !topics.is_empty() && all.all(|ends| ends.log_start.is_some())
}
