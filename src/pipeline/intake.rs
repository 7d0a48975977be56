//! Intake: what the source hands over becomes a batch in the making.
//!
//! Everything here is arithmetic on values; the threads and channels are in the parent module.

mod letters;

use std::collections::BTreeMap;
use std::sync::Arc;

use tracing::{info, warn};

pub use letters::PendingErrand;

use super::gate::{GateRule, StartupGate};
use super::identity::{Identity, Verdict};
use super::limits::{self, LetterLimits};
use super::watchdog::Watchdog;
use super::writer::Committed;
use super::{Context, Failure, Positions};
use crate::config::{Config, Keep, OnError};
use crate::decode::Pending;
use crate::domain::batch::{Batch, BatchBuilder, Observed};
use crate::domain::catalog::Catalog;
use crate::domain::change::{Change, Skip};
use crate::domain::checkpoint::{Checkpoint, Position, TopicPartition};
use crate::domain::dead_letter::{DeadLetter, Origin, Reason, RecordBytes, Rejection};
use crate::domain::freshness::{self, PartitionFreshness};
use crate::domain::record::{Headers, Record};
use crate::domain::state::Facts;
use crate::mapping::{Outcome, Plan};
use crate::metrics::{GapReason, SourceErrorKind};
use crate::source::{Ends, Observation, SourceEvent, TopicObservation};
use crate::store::Applied;

pub struct Intake {
    plan: Plan,
    catalog: Arc<Catalog>,
    context: Context,
    policies: Vec<OnError>,
    keep: Keep,
    limits: LetterLimits,
    /// In the batch in the making.
    errands: Vec<PendingErrand>,
    /// Records retried in it.
    retried: usize,
    max_record_bytes: usize,
    heartbeat_limit_ms: i64,
    builder: BatchBuilder,
    partitions: BTreeMap<TopicPartition, Partition>,
    /// Positions and freshness as the store has them; what metrics show.
    committed: Positions,
    committed_fresh_ms: BTreeMap<TopicPartition, i64>,
    pub gate: StartupGate,
    identity: Identity,
    /// To be written with the next batch.
    news: News,
    /// Set when the daemon stops for good; written with the last batch.
    pub stopped: Option<String>,
    /// Set when the log cannot be read on from here and the policy is to build a new generation:
    /// why.
    pub rebuild: Option<String>,
    assignments: Vec<(TopicPartition, Position)>,
    /// Partitions to stop reading until they are assigned again.
    pauses: Vec<TopicPartition>,
    /// How many partitions wait for a schema.
    waiting: usize,
    /// The first thing that went wrong in a poll; what follows in that poll is left alone.
    failure: Option<Failure>,
    connected: bool,
    /// A round has shown that the log is the one the stored positions count in.
    verified: bool,
    /// A new partition could not be started because the start of its log is not known.
    lacks_log_start: bool,
    /// A partition has stood still for a while.
    suspicious: bool,
    /// `asked_ms` of the last round that counted, by topic.
    counted_ms: BTreeMap<usize, i64>,
    /// Scratch, kept for its memory.
    changes: Vec<Change>,
}

/// One partition as the batch in the making will leave it.
struct Partition {
    position: Position,
    /// Position of the last sealed batch; `None` when the store does not know the partition.
    sealed: Option<i64>,
    freshness: PartitionFreshness,
    end: Option<i64>,
    watchdog: Watchdog,
    /// The record at `position` cannot be read before its schema was fetched.
    waits_for: Option<Pending>,
    moved: bool,
    /// A timestamp was noted for this batch.
    timed: bool,
}

#[derive(Default)]
struct News {
    any: bool,
    ends: BTreeMap<TopicPartition, i64>,
    cluster_id: Option<String>,
    topic_ids: BTreeMap<usize, String>,
    clear_stopped: bool,
}

impl Intake {
    pub fn new(
        config: &Config,
        mut plan: Plan,
        mut checkpoint: Checkpoint,
        gate: GateRule,
        context: Context,
    ) -> Intake {
        let catalog = Arc::clone(plan.catalog());
        for (topic, ids) in std::mem::take(&mut checkpoint.event_ids) {
            plan.restore_event_ids(topic, ids);
        }
        let identity = Identity::restored(&checkpoint);
        let committed: Positions =
            checkpoint.positions.iter().map(|(at, position)| (*at, position.next_offset)).collect();
        let partitions = checkpoint
            .positions
            .into_iter()
            .map(|(at, position)| {
                let fresh = checkpoint.fresh_as_of_ms.get(&at).copied();
                let partition = Partition {
                    sealed: Some(position.next_offset),
                    position,
                    freshness: PartitionFreshness::restored(fresh),
                    end: None,
                    watchdog: Watchdog::default(),
                    waits_for: None,
                    moved: false,
                    timed: false,
                };
                (at, partition)
            })
            .collect();
        let mut intake = Intake {
            plan,
            catalog,
            policies: config.topics.iter().map(|topic| topic.on_error).collect(),
            keep: config.dead_letters.keep,
            limits: LetterLimits::new(&config.dead_letters, &checkpoint.dead_letters),
            errands: Vec::new(),
            retried: 0,
            max_record_bytes: config.kafka.max_record_bytes,
            heartbeat_limit_ms: crate::store::heartbeat_limit(config.freshness.interval).as_millis() as i64,
            builder: BatchBuilder::default(),
            partitions,
            gate: StartupGate::new(gate),
            identity,
            news: News::default(),
            stopped: None,
            rebuild: None,
            assignments: Vec::new(),
            pauses: Vec::new(),
            waiting: 0,
            failure: None,
            connected: false,
            verified: false,
            lacks_log_start: false,
            suspicious: false,
            counted_ms: BTreeMap::new(),
            changes: Vec::new(),
            committed,
            committed_fresh_ms: checkpoint.fresh_as_of_ms,
            context,
        };
        let positions = intake.committed.clone();
        intake.context.progress.update(|shared| shared.positions = positions);
        intake.publish();
        if intake.gate.is_open() {
            intake.open_gate();
        }
        intake
    }

    /// Partitions to start reading, each once. What the replica knows is among them only after the
    /// first round has shown that the log is the one its positions count in: a record of another
    /// log must never be applied.
    pub fn take_assignments(&mut self) -> Vec<(TopicPartition, Position)> {
        self.end_waits();
        std::mem::take(&mut self.assignments)
    }

    /// Partitions to stop reading, before anything is assigned.
    pub fn take_pauses(&mut self) -> Vec<TopicPartition> {
        std::mem::take(&mut self.pauses)
    }

    /// A record that cannot be read yet: its partition stands still, the others go on.
    fn wait_for(&mut self, at: TopicPartition, pending: Pending) {
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
    fn end_waits(&mut self) {
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

    /// What went wrong in the last poll, if anything.
    pub fn outcome(&mut self) -> Result<(), Failure> {
        self.failure.take().map_or(Ok(()), Err)
    }

    pub fn records(&self) -> u64 {
        self.builder.records()
    }

    pub fn bytes(&self) -> usize {
        self.builder.bytes()
    }

    pub fn has_changes(&self) -> bool {
        self.builder.records() > 0 || self.partitions.values().any(|partition| partition.moved)
    }

    /// Something readers should see although no record came.
    pub fn has_news(&self) -> bool {
        self.news.any
    }

    pub fn take(&mut self, event: SourceEvent<'_>) {
        if self.failure.is_some() {
            return;
        }
        let taken = match event {
            SourceEvent::Record(record) => self.take_record(&record),
            SourceEvent::EndOfPartition { at, offset } => {
                self.take_end(at, offset);
                Ok(())
            }
            SourceEvent::Observation(observation) => self.take_observation(&observation),
            SourceEvent::Unreachable { reason } => {
                self.context.metrics.source_error(SourceErrorKind::Unreachable);
                self.disconnected(&reason);
                Ok(())
            }
            SourceEvent::OutOfRange { at, position } => self.take_out_of_range(at, position),
            SourceEvent::TopicMissing { topic } => {
                self.context.metrics.source_error(SourceErrorKind::TopicMissing);
                warn!(topic = %self.catalog.topics[topic], "the topic does not exist; waiting for it");
                Ok(())
            }
            SourceEvent::Fatal { reason } => {
                self.context.metrics.source_error(SourceErrorKind::Fatal);
                Err(Failure::unavailable(format!("the Kafka client cannot go on: {reason}")))
            }
        };
        if let Err(failure) = taken {
            self.failure = Some(failure);
        }
    }

    fn take_record(&mut self, record: &Record<'_>) -> Result<(), Failure> {
        let too_large = self.too_large(record);
        let Some(partition) = self.partitions.get_mut(&record.at) else { return Ok(()) };
        if partition.waits_for.is_some() {
            // It comes again when the partition is read on.
            return Ok(());
        }
        if record.offset < partition.position.next_offset {
            self.context.metrics.events_skipped(record.at.topic, Skip::Duplicate, 1);
            return Ok(());
        }
        let outcome = match too_large {
            Some(rejection) => Outcome::Rejected(rejection),
            None => self.plan.translate(record, &mut partition.position.memory, &mut self.changes),
        };
        match outcome {
            Outcome::Changes => {
                for change in self.changes.drain(..) {
                    self.builder.push(&self.catalog, change);
                }
                if let Some(timestamp_ms) = record.timestamp_ms
                    && !partition.timed
                    && self.gate.is_open()
                {
                    partition.timed = true;
                    self.builder.note_timestamp(record.at.topic, timestamp_ms);
                }
            }
            Outcome::Skipped(skip) => self.context.metrics.events_skipped(record.at.topic, skip, 1),
            Outcome::Rejected(rejection) => match self.policies[record.at.topic] {
                OnError::DeadLetter => {
                    let oversize = rejection.reason == Reason::TooLarge;
                    let letter = DeadLetter {
                        at: record.at,
                        offset: record.offset,
                        rejection,
                        first_seen_ms: self.context.now_ms(),
                        origin: Origin::of(record, partition.position.memory.max_timestamp_ms),
                        record: (self.keep == Keep::Bytes).then(|| bytes_of(record, oversize)),
                    };
                    if let Err(limit) = self.limits.admit(&self.catalog, letter.kept()) {
                        return Err(self.one_too_many(&letter, &limit));
                    }
                    self.builder.push_dead_letter(letter);
                }
                OnError::Skip => self.context.metrics.events_skipped(record.at.topic, Skip::Rejected, 1),
                OnError::Stop => return Err(self.refused(record, &rejection)),
            },
            Outcome::Stop(rejection) => return Err(self.refused(record, &rejection)),
            Outcome::Waits(pending) => {
                self.wait_for(record.at, pending);
                return Ok(());
            }
        }
        self.changes.clear();
        let partition = self.partitions.get_mut(&record.at);
        if let Some(partition) = partition {
            partition.position.next_offset = record.offset + 1;
            if record.leader_epoch >= 0 {
                partition.position.leader_epoch = record.leader_epoch;
            }
            partition.moved = true;
        }
        self.builder.count_record();
        Ok(())
    }

    fn refused(&self, record: &Record<'_>, rejection: &Rejection) -> Failure {
        Failure::other(format!(
            "topic {} partition {} offset {}: {}{}: {}; the policy is to stop: repair the event or change \
             on_error (or otherwise) of the topic",
            self.catalog.topics[record.at.topic],
            record.at.partition,
            record.offset,
            rejection.reason.name(),
            if rejection.path.is_empty() { String::new() } else { format!(" at {}", rejection.path) },
            rejection.message
        ))
    }

    fn one_too_many(&self, letter: &DeadLetter, limit: &str) -> Failure {
        let Rejection { reason, path, message, .. } = &letter.rejection;
        Failure::other(format!(
            "{limit}; stopped before topic {} partition {} offset {}, which would be the next dead letter ({}{}: \
             {message}); {}",
            self.catalog.topics[letter.at.topic],
            letter.at.partition,
            letter.offset,
            reason.name(),
            if path.is_empty() { String::new() } else { format!(" at {path}") },
            limits::ADVICE,
        ))
    }

    fn take_end(&mut self, at: TopicPartition, offset: i64) {
        // The end lies behind records that a waiting partition has not taken.
        if let Some(partition) = self.partitions.get_mut(&at)
            && partition.waits_for.is_none()
            && offset > partition.position.next_offset
        {
            partition.position.next_offset = offset;
            partition.moved = true;
        }
    }

    fn disconnected(&mut self, reason: &str) {
        if self.connected {
            warn!(reason, "no answer from the brokers; trying again");
            self.news.any = true;
        }
        self.connected = false;
        self.context.metrics.kafka_connected(false);
        self.context.progress.update(|shared| shared.connected = false);
    }

    fn take_out_of_range(&mut self, at: TopicPartition, position: i64) -> Result<(), Failure> {
        self.context.metrics.source_error(SourceErrorKind::OutOfRange);
        self.context.metrics.gap(GapReason::Retention);
        Err(Failure::foreign(format!(
            "topic {} partition {}: position {position} is not in the log; records were removed by retention \
             or the log was truncated; remove the replica to build it anew from what the log still holds",
            self.catalog.topics[at.topic], at.partition
        )))
    }

    fn take_observation(&mut self, seen: &Observation) -> Result<(), Failure> {
        if !self.connected {
            info!(cluster_id = %seen.cluster_id, "connected");
        }
        self.connected = true;
        self.context.metrics.kafka_connected(true);
        let positions = self.positions();
        match self.identity.judge(&self.catalog, seen, positions, self.context.now_ms()) {
            Verdict::Gap { reason, failure } => {
                self.context.metrics.gap(reason);
                if reason != GapReason::Retention {
                    self.discard();
                }
                return Err(failure);
            }
            Verdict::Suspect => {
                for partition in self.partitions.values_mut() {
                    partition.freshness.distrust();
                }
                return Ok(());
            }
            Verdict::Same { new_cluster_id, new_topic_ids } => {
                if !self.verified {
                    self.verified = true;
                    let known = self.partitions.iter();
                    self.assignments.extend(known.map(|(at, known)| (*at, known.position.clone())));
                }
                self.news.cluster_id = new_cluster_id.or(self.news.cluster_id.take());
                self.news.topic_ids.extend(new_topic_ids);
            }
        }
        self.lacks_log_start = false;
        self.suspicious = false;
        for (topic, observed) in &seen.topics {
            // A round is proof only of a topic all of whose partitions are being read.
            if self.can_count(*topic, observed) {
                for (partition, ends) in &observed.partitions {
                    self.meet(TopicPartition { topic: *topic, partition: *partition }, ends, seen.asked_ms)?;
                }
                self.counted_ms.insert(*topic, seen.asked_ms);
            }
        }
        self.capture_gate(seen);
        self.news.any = true;
        self.news.clear_stopped = true;
        Ok(())
    }

    fn positions(&self) -> Positions {
        self.partitions.iter().map(|(at, partition)| (*at, partition.position.next_offset)).collect()
    }

    /// Forgets what was taken and not handed over yet: it may come from another log.
    fn discard(&mut self) {
        self.builder = BatchBuilder::default();
        drop(self.plan.take_event_ids());
        for partition in self.partitions.values_mut() {
            partition.moved = false;
            partition.freshness.distrust();
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

    /// Whether the next rounds have to ask for log starts and last stable offsets too.
    pub fn wants_details(&self) -> bool {
        !self.connected || self.lacks_log_start || self.suspicious || self.gate.wants_ends()
    }

    /// Takes a partition's ends as proof; starts reading it when it is new.
    fn meet(&mut self, at: TopicPartition, ends: &Ends, asked_ms: i64) -> Result<(), Failure> {
        if let (false, Some(log_start)) = (self.partitions.contains_key(&at), ends.log_start) {
            if self.gate.is_complete() && log_start > 0 {
                // A first copy is of what the log holds. A whole copy has missed something.
                self.context.metrics.gap(GapReason::Retention);
                return Err(Failure::foreign(format!(
                    "topic {} partition {} is new, and its records 0 to {} were removed by retention before \
                     they were read; remove the replica to build it anew from what the log still holds",
                    self.catalog.topics[at.topic],
                    at.partition,
                    log_start - 1
                )));
            }
            // It did not exist in the last round that counted, so nothing committed before that
            // round can be missing from it.
            let stored = self
                .partitions
                .iter()
                .filter(|(other, _)| other.topic == at.topic)
                .map(|(_, other)| other.freshness.fresh_as_of_ms());
            let fresh = self.counted_ms.get(&at.topic).copied().or_else(|| freshness::worst(stored));
            let position = Position { next_offset: log_start, ..Position::start() };
            if self.gate.is_complete() {
                info!(topic = %self.catalog.topics[at.topic], partition = at.partition, "new partition");
            }
            self.assignments.push((at, position.clone()));
            let partition = Partition {
                position,
                sealed: None,
                freshness: PartitionFreshness::restored(fresh),
                end: None,
                watchdog: Watchdog::default(),
                waits_for: None,
                moved: true,
                timed: false,
            };
            self.partitions.insert(at, partition);
        }
        if let Some(partition) = self.partitions.get_mut(&at) {
            partition.freshness.observe(asked_ms, ends.high_watermark);
            partition.end = Some(ends.high_watermark);
            // Without the last stable offset an open transaction would look like a stall.
            let end = ends.last_stable.unwrap_or(ends.high_watermark);
            let position = partition.position.next_offset;
            // Who waits for a schema is not stalled.
            let stalled =
                partition.waits_for.is_none() && partition.watchdog.is_stalled(position, end, asked_ms);
            self.suspicious |= partition.watchdog.is_suspicious();
            if stalled && ends.last_stable.is_some() {
                let topic = &self.catalog.topics[at.topic];
                warn!(%topic, partition = at.partition, position, end, "no progress; reading it anew");
                self.context.metrics.source_error(SourceErrorKind::Stalled);
                self.assignments.push((at, partition.position.clone()));
            }
            self.news.ends.insert(at, ends.high_watermark);
        }
        Ok(())
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
        let remaining = super::gate::remaining(&ends, &positions);
        info!(partitions = ends.len(), remaining_records = remaining, "reading up to the end of the log");
        self.gate.capture(ends, remaining, self.context.now_ms());
        self.publish_gate();
    }

    /// Hands over the batch in the making, with what was observed.
    pub fn seal(&mut self, now_ms: i64) -> Batch {
        let mut fresh_as_of_ms = BTreeMap::new();
        for (at, partition) in &mut self.partitions {
            if partition.moved {
                self.builder.advance(*at, partition.sealed, &partition.position);
                partition.sealed = Some(partition.position.next_offset);
                partition.moved = false;
            }
            partition.timed = false;
            let before = partition.freshness.fresh_as_of_ms();
            partition.freshness.reach(partition.position.next_offset);
            let after = partition.freshness.fresh_as_of_ms();
            if let Some(after) = after
                && (before != Some(after) || !self.committed.contains_key(at))
            {
                fresh_as_of_ms.insert(*at, after);
            }
        }
        for (topic, ids) in self.plan.take_event_ids() {
            self.builder.remember(topic, ids);
        }
        let news = std::mem::take(&mut self.news);
        let stopped = match (&self.stopped, news.clear_stopped) {
            (Some(reason), _) => Some(reason.clone()),
            (None, true) => Some(String::new()),
            (None, false) => None,
        };
        self.builder.seal(Observed {
            heartbeat_ms: now_ms,
            connected: self.connected,
            fresh_as_of_ms,
            end_offsets: news.ends,
            topic_ids: news.topic_ids,
            cluster_id: news.cluster_id,
            stopped,
        })
    }

    /// The store has this now.
    pub fn committed(&mut self, now: &Committed) {
        self.committed.extend(now.positions());
        self.committed_fresh_ms.extend(&now.batch.observed.fresh_as_of_ms);
        if self.gate.check(&self.committed) {
            self.open_gate();
        }
        self.publish();
    }

    /// What the store did to dead letters by itself, and what went.
    pub fn check_dead_letters(&mut self, applied: &Applied) -> Result<(), Failure> {
        let moved = &applied.letters;
        for letter in &moved.removed {
            self.limits.remove(*letter);
        }
        // They come first.
        for letter in moved.removed.iter().take(usize::try_from(moved.dropped).unwrap_or(usize::MAX)) {
            self.context.metrics.dead_letter_dropped(letter.topic);
        }
        if !moved.removed.is_empty() {
            let (dropped, left) = (moved.dropped, applied.dead_letters_kept);
            info!(dropped, refused_again = moved.again.len(), left, "dead letters were retried or dropped");
        }
        let again = moved.again.iter().copied();
        for letter in again.chain(applied.dead_letters.iter().map(DeadLetter::kept)) {
            self.limits.add(letter);
        }
        match self.limits.passed(&self.catalog) {
            None => Ok(()),
            Some(limit) => Err(Failure::other(format!("{limit}; {}", limits::ADVICE))),
        }
    }

    pub fn open_gate(&mut self) {
        if !self.context.progress.is_gate_open() {
            info!("the copy may be used: start-up gate open");
        }
        self.context.progress.open_gate();
        self.publish();
    }

    fn publish(&self) {
        let metrics = &self.context.metrics;
        for (at, partition) in &self.partitions {
            if let Some(next_offset) = self.committed.get(at) {
                let fresh = self.committed_fresh_ms.get(at).copied();
                metrics.partition(*at, *next_offset, partition.end, fresh);
            }
        }
        for (index, table) in self.catalog.tables.iter().enumerate() {
            let known = |topic: &usize| {
                freshness::worst(
                    self.partitions
                        .keys()
                        .filter(move |at| at.topic == *topic)
                        .map(|at| self.committed_fresh_ms.get(at).copied()),
                )
            };
            metrics.facts(
                index,
                Facts {
                    stopped: self.stopped.is_some(),
                    complete: self.gate.is_complete(),
                    connected: self.connected,
                    heartbeat_ms: Some(self.context.now_ms()),
                    heartbeat_limit_ms: self.heartbeat_limit_ms,
                    fresh_as_of_ms: freshness::worst(table.topics.iter().map(known)),
                    max_staleness_ms: table.max_staleness_ms,
                    missing_events: false,
                    rebuilding: self.context.progress.is_rebuilding(),
                },
            );
        }
        self.publish_gate();
    }

    fn publish_gate(&self) {
        let remaining = self.gate.remaining(&self.committed);
        self.context.metrics.gate(self.gate.is_caught_up() && self.gate.is_complete(), remaining);
        let build = self.gate.build(&self.committed, self.context.now_ms());
        self.context.progress.update(|shared| shared.build = build);
    }
}

/// What a dead letter keeps of its record; of one that is too large, only the key and only if that
/// is small.
fn bytes_of(record: &Record<'_>, oversize: bool) -> RecordBytes {
    const KEY_MAX: usize = 4096;
    let key = record.key.filter(|key| !oversize || key.len() <= KEY_MAX);
    RecordBytes {
        key: key.map(<[u8]>::to_vec),
        value: if oversize { None } else { record.value.map(<[u8]>::to_vec) },
        headers: headers_json(record.headers),
    }
}

/// Headers as a JSON object text; a name that comes twice keeps its last value.
fn headers_json(headers: Headers<'_>) -> Option<String> {
    let list = headers.0?;
    let mut object = serde_json::Map::new();
    list.each(&mut |name, value| {
        let text = match value.map(std::str::from_utf8) {
            None => serde_json::Value::Null,
            Some(Ok(text)) => text.into(),
            Some(Err(_)) => {
                use base64::Engine;
                let bytes = value.unwrap_or_default();
                format!("base64:{}", base64::engine::general_purpose::STANDARD.encode(bytes)).into()
            }
        };
        object.insert(name.to_owned(), text);
    });
    (!object.is_empty()).then(|| serde_json::Value::Object(object).to_string())
}
