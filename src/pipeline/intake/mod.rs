//! Intake: what the source hands over becomes a batch in the making.
//!
//! - `records`: one record
//! - `rounds`: one round of observations, which proves freshness and meets new partitions
//! - `letters`: what is asked about dead letters
//! - `waits`: records whose schema is not there yet
//! - `sweeps`: what whole snapshots do not list
//! - `transactions`: what open ones hold back
//! - `behind`: where the log does not continue where the replica stands
//!
//! Everything here is arithmetic on values; the threads and channels are in the parent module.

mod behind;
mod letters;
mod records;
mod rounds;
mod sweeps;
mod transactions;
mod waits;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tracing::{info, warn};

pub use letters::PendingErrand;
use sweeps::Sweeps;

use super::gate::{GateRule, StartupGate};
use super::identity::Identity;
use super::limits::{self, LetterLimits};
use super::notices::LetterNotices;
use super::watchdog::Watchdog;
use super::writer::Committed;
use super::{Context, Failure, Positions};
use crate::config::{Config, Keep, OnError, OnGap};
use crate::decode::Pending;
use crate::domain::batch::{AfterGap, Batch, BatchBuilder, Observed};
use crate::domain::catalog::Catalog;
use crate::domain::change::Change;
use crate::domain::checkpoint::{Checkpoint, Position, TopicPartition};
use crate::domain::dead_letter::DeadLetter;
use crate::domain::freshness::{self, PartitionFreshness};
use crate::domain::shelf::Shelf;
use crate::domain::shelving::Shelves;
use crate::domain::state::Facts;
use crate::mapping::Plan;
use crate::metrics::SourceErrorKind;
use crate::source::{Cleanup, Ends, SourceEvent};
use crate::store::{Applied, BatchLimits};

/// From so many records on that were not read larger batches are worth their while: about what small
/// ones take a second for.
const FAR_BEHIND: i64 = 32 << 10;

pub struct Intake {
    plan: Plan,
    catalog: Arc<Catalog>,
    context: Context,
    policies: Vec<OnError>,
    gap_policies: Vec<OnGap>,
    keep: Keep,
    limits: LetterLimits,
    notices: LetterNotices,
    /// In the batch in the making.
    errands: Vec<PendingErrand>,
    /// Records retried in it.
    retried: usize,
    max_record_bytes: usize,
    interval_ms: i64,
    heartbeat_limit_ms: i64,
    builder: BatchBuilder,
    /// See [`FAR_BEHIND`].
    pub far_behind: i64,
    partitions: BTreeMap<TopicPartition, Partition>,
    /// Positions and freshness as the store has them; what metrics show.
    committed: Positions,
    committed_fresh_ms: BTreeMap<TopicPartition, i64>,
    /// Tables, by index, that are known to lack events, as the store has them.
    missing_events: BTreeSet<usize>,
    pub gate: StartupGate,
    sweeps: Sweeps,
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
    held: transactions::Held,
    /// The first thing that went wrong in a poll; what follows in that poll is left alone.
    failure: Option<Failure>,
    connected: bool,
    /// It was said that they do not answer, since they last did.
    outage_told: bool,
    /// A round has shown that the log is the one the stored positions count in.
    verified: bool,
    /// A new partition could not be started because the start of its log is not known.
    lacks_log_start: bool,
    /// A partition has stood still for a while, or its position is not in the log.
    suspicious: bool,
    /// A gap was found and what to do about it is not decided yet: nothing is taken meanwhile.
    doubt: bool,
    /// `asked_ms` of the last round that counted, by topic.
    counted_ms: BTreeMap<usize, i64>,
    /// `asked_ms` of the first round since the brokers were reached.
    connected_ms: i64,
    /// What becomes of old records, by topic, where the brokers told.
    cleanups: BTreeMap<usize, Cleanup>,
    /// Topics of which it was said that tombstones may be missing.
    tombstones_told: BTreeSet<usize>,
    /// The clock when it was last looked at.
    now_ms: i64,
    /// Gauges have to be written with the next commit.
    unpublished: bool,
    published_ms: i64,
    /// Scratch, kept for its memory.
    changes: Vec<Change>,
}

/// One partition as the batch in the making will leave it.
struct Partition {
    position: Position,
    /// As the last sealed batch has left it, or where it began.
    sealed: Position,
    /// The store knows the partition, or will with what was sealed.
    stored: bool,
    freshness: PartitionFreshness,
    /// Since when it is being read, as far as is known: what stands for its freshness while that is
    /// unknown.
    reading_since_ms: i64,
    end: Option<i64>,
    watchdog: Watchdog,
    /// The record at `position` cannot be read before its schema was fetched.
    waits_for: Option<Pending>,
    moved: bool,
    /// A timestamp was noted for this batch.
    timed: bool,
    /// Set while its position is not in the log.
    lost: Option<Lost>,
    /// Epochs seemed to go back, and the source has found its position in the log all the same.
    found: bool,
    /// Epoch of the leader that the last round met, -1 before.
    led_in: i32,
    /// It is about to be read from its position; what still comes from elsewhere may lie behind
    /// something that was left out.
    awaited: bool,
    /// Its leader epoch is being compared with the log's: until the source has handed something
    /// over, the log may be another one that has just grown to our position, and proves nothing.
    unproven: bool,
}

/// A position that the log does not have, as the source says.
#[derive(Debug, Clone, Copy)]
struct Lost {
    diverges: Option<i64>,
    /// Only a round that was asked later tells why.
    since_ms: i64,
}

impl Partition {
    fn new(
        position: Position,
        stored: bool,
        fresh_as_of_ms: Option<i64>,
        reading_since_ms: i64,
    ) -> Partition {
        Partition {
            sealed: position.clone(),
            position,
            stored,
            freshness: PartitionFreshness::restored(fresh_as_of_ms),
            reading_since_ms,
            end: None,
            watchdog: Watchdog::default(),
            waits_for: None,
            moved: !stored,
            timed: false,
            lost: None,
            found: false,
            led_in: -1,
            awaited: false,
            unproven: false,
        }
    }

    /// Otherwise what comes is dropped: it comes again when the partition is read on.
    fn is_taken_from(&self) -> bool {
        self.lost.is_none() && !self.awaited && self.waits_for.is_none()
    }

    /// Whether another broker leads it than in the last round, so that the log has to be compared: not every
    /// position that librdkafka goes on from has an epoch that it could compare by itself.
    fn is_led_anew(&mut self, ends: &Ends) -> bool {
        let led_in = std::mem::replace(&mut self.led_in, ends.leader_epoch);
        let is_other = 0 <= led_in && led_in < ends.leader_epoch;
        is_other && self.position.leader_epoch >= 0 && self.waits_for.is_none()
    }

    /// At the end that a leader tells, the epoch is the leader's, also where no record tells it.
    fn learn_epoch(&mut self, ends: &Ends) {
        let is_at_end = self.position.next_offset == ends.high_watermark && self.is_taken_from();
        if is_at_end && self.position.leader_epoch < 0 && ends.leader_epoch >= 0 {
            self.position.leader_epoch = ends.leader_epoch;
            self.moved = true;
        }
    }

    /// The clock says less than it did. True when the claim was dropped; it was read until now all the
    /// same, or a clock that was set back would look like an absence.
    fn clock_set_back(&mut self, now_ms: i64) -> bool {
        let is_dropped = self.freshness.clock_set_back(now_ms);
        self.reading_since_ms = if is_dropped { now_ms } else { self.reading_since_ms.min(now_ms) };
        if let Some(lost) = &mut self.lost {
            lost.since_ms = lost.since_ms.min(now_ms);
        }
        is_dropped
    }

    /// Nothing more is taken from it until it is clear where it goes on.
    fn lose(&mut self, diverges: Option<i64>, since_ms: i64) {
        let known = self.lost.and_then(|lost| lost.diverges);
        self.lost = Some(Lost { diverges: diverges.or(known), since_ms });
        self.freshness.distrust();
    }
}

#[derive(Default)]
struct News {
    any: bool,
    ends: BTreeMap<TopicPartition, i64>,
    cluster_id: Option<String>,
    topic_ids: BTreeMap<usize, String>,
    clear_stopped: bool,
    freshness_lost: BTreeSet<TopicPartition>,
    after_gap: Option<Box<AfterGap>>,
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
        let heartbeat_ms = checkpoint.heartbeat_ms.unwrap_or_else(|| context.now_ms());
        let known = checkpoint.positions.into_iter().map(|(at, position)| {
            let fresh = checkpoint.fresh_as_of_ms.get(&at).copied();
            (at, Partition::new(position, true, fresh, heartbeat_ms))
        });
        let mut intake = Intake {
            plan,
            catalog,
            policies: config.topics.iter().map(|topic| topic.on_error).collect(),
            gap_policies: config.topics.iter().map(|topic| topic.on_gap).collect(),
            keep: config.dead_letters.keep,
            limits: LetterLimits::new(&config.dead_letters, &checkpoint.dead_letters),
            notices: LetterNotices::default(),
            errands: Vec::new(),
            retried: 0,
            max_record_bytes: config.kafka.max_record_bytes,
            interval_ms: config.freshness.interval.as_millis().max(1) as i64,
            heartbeat_limit_ms: crate::store::heartbeat_limit(config.freshness.interval).as_millis() as i64,
            builder: BatchBuilder::default(),
            far_behind: FAR_BEHIND,
            partitions: known.collect(),
            gate: StartupGate::new(gate),
            sweeps: Sweeps::restored(checkpoint.snapshots, context.now_ms()),
            identity,
            news: News::default(),
            stopped: None,
            rebuild: None,
            assignments: Vec::new(),
            pauses: Vec::new(),
            waiting: 0,
            held: transactions::Held::new(),
            failure: None,
            connected: false,
            outage_told: false,
            verified: false,
            lacks_log_start: false,
            suspicious: false,
            doubt: false,
            counted_ms: BTreeMap::new(),
            connected_ms: i64::MAX,
            cleanups: BTreeMap::new(),
            tombstones_told: BTreeSet::new(),
            // Whatever the clock said to an earlier process.
            now_ms: i64::MAX,
            unpublished: false,
            published_ms: i64::MIN,
            changes: Vec::new(),
            committed,
            committed_fresh_ms: checkpoint.fresh_as_of_ms,
            missing_events: checkpoint.missing_events,
            context,
        };
        intake.look_at_clock(intake.context.now_ms());
        let positions = intake.committed.clone();
        intake.context.progress.update(|shared| shared.positions = positions);
        intake.publish();
        if intake.gate.is_open() {
            intake.open_gate();
        }
        intake
    }

    /// To be called often: a clock that was set back is noticed here. Freshness that lies in the
    /// future then would be believed when that time comes.
    pub fn look_at_clock(&mut self, now_ms: i64) {
        if now_ms < self.now_ms {
            for (at, partition) in &mut self.partitions {
                if partition.clock_set_back(now_ms) {
                    self.news.freshness_lost.insert(*at);
                    self.news.any = true;
                }
            }
            self.counted_ms.retain(|_, asked_ms| *asked_ms <= now_ms);
            self.connected_ms = self.connected_ms.min(now_ms);
            self.sweeps.clock_set_back(now_ms);
        }
        self.now_ms = now_ms;
    }

    /// Partitions to start reading, each once. What the replica knows is among them only after the
    /// first round has shown that the log is the one its positions count in: a record of another
    /// log must never be applied.
    pub fn take_assignments(&mut self) -> Vec<(TopicPartition, Position)> {
        self.end_waits();
        for (at, _) in &self.assignments {
            if let Some(partition) = self.partitions.get_mut(at) {
                partition.awaited = false;
            }
        }
        std::mem::take(&mut self.assignments)
    }

    /// Has the partition read from where it stands.
    fn assign(&mut self, at: TopicPartition) {
        if let Some(partition) = self.partitions.get_mut(&at) {
            partition.awaited = true;
            partition.unproven = partition.position.leader_epoch >= 0;
            self.assignments.push((at, partition.position.clone()));
        }
    }

    /// What went wrong in the last poll, if anything.
    pub fn outcome(&mut self) -> Result<(), Failure> {
        self.failure.take().map_or(Ok(()), Err)
    }

    /// Whether the batch in the making should not be made longer.
    pub fn is_full(&self, limits: BatchLimits) -> bool {
        self.builder.is_full(limits.records, limits.bytes)
    }

    /// Records that it has room for, if they are small.
    pub fn room(&self, limits: BatchLimits) -> u64 {
        self.builder.room(limits.records)
    }

    /// Whole rows are put aside while nobody reads the copy, and while it is far behind.
    pub fn take_shelves(&mut self, shelves: Shelves) {
        self.builder.take_shelves(shelves);
    }

    /// The copy is read from now on.
    pub fn go_live(&mut self) {
        self.builder.go_live();
    }

    /// Of a batch that was written.
    pub fn give_back(&mut self, shelf: Shelf, Committed { took, applied, .. }: &Committed) {
        self.builder.learn(*took, applied.appends);
        self.builder.give_back(shelf);
    }

    pub fn is_catching_up(&self) -> bool {
        self.builder.is_catching_up()
    }

    /// Records that are known to be in the log and were not read.
    fn behind(&self) -> i64 {
        let behind = |partition: &Partition| Some((partition.end? - partition.position.next_offset).max(0));
        self.partitions.values().filter_map(behind).sum()
    }

    pub fn has_changes(&self) -> bool {
        self.builder.records() > 0 || self.partitions.values().any(|partition| partition.moved)
    }

    /// Something readers should see although no record came.
    pub fn has_news(&self) -> bool {
        self.news.any
    }

    pub fn take(&mut self, event: SourceEvent<'_>) {
        if self.failure.is_some() || self.rebuild.is_some() {
            return;
        }
        let taken = match event {
            SourceEvent::Record(record) => self.take_record(&record),
            SourceEvent::EndOfPartition { at, offset } => {
                self.take_end(at, offset);
                Ok(())
            }
            SourceEvent::Observation(observation) => {
                let taken = self.take_observation(&observation);
                self.publish_held(observation.asked_ms);
                taken
            }
            SourceEvent::Unreachable { reason } => {
                self.context.metrics.source_error(SourceErrorKind::Unreachable);
                self.disconnected(&reason);
                Ok(())
            }
            SourceEvent::OutOfRange { at, position, diverges } => {
                self.take_out_of_range(at, position, diverges);
                Ok(())
            }
            SourceEvent::TopicMissing { topic } => {
                self.context.metrics.source_error(SourceErrorKind::TopicMissing);
                warn!(topic = %self.catalog.topics[topic], "the topic does not exist; waiting for it");
                Ok(())
            }
            SourceEvent::TopicRefused { topic, reason } => {
                self.context.metrics.source_error(SourceErrorKind::TopicRefused);
                warn!(topic = %self.catalog.topics[topic], reason, "the brokers do not tell about the topic");
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

    fn take_end(&mut self, at: TopicPartition, offset: i64) {
        if self.doubt {
            return;
        }
        // The end lies behind records that a waiting partition has not taken.
        if let Some(partition) = self.partitions.get_mut(&at)
            && partition.is_taken_from()
        {
            // What was asked before counts now.
            self.news.any |= std::mem::take(&mut partition.unproven);
            if offset > partition.position.next_offset {
                partition.position.next_offset = offset;
                // Between the last record and the end may lie markers of transactions, of an epoch
                // that nobody tells: with that of the record the position would not be in the log.
                partition.position.leader_epoch = -1;
                partition.moved = true;
            }
        }
    }

    fn disconnected(&mut self, reason: &str) {
        if !self.outage_told {
            warn!(reason, "no answer from the brokers; trying again");
            self.outage_told = true;
        }
        self.news.any |= self.connected;
        self.connected = false;
        self.unpublished = true;
        self.tombstones_told.clear();
        self.forget_held();
        self.context.metrics.kafka_connected(false);
        self.context.progress.update(|shared| shared.connected = false);
    }

    /// Nobody follows the log from here on; readers are told with the last batch.
    pub fn leave(&mut self) {
        self.connected = false;
    }

    fn positions(&self) -> Positions {
        self.partitions.iter().map(|(at, partition)| (*at, partition.position.next_offset)).collect()
    }

    /// Whether the next rounds have to ask for log starts and last stable offsets too.
    pub fn wants_details(&self) -> bool {
        !self.connected || self.lacks_log_start || self.suspicious || self.doubt || self.gate.wants_ends()
    }

    /// Hands over the batch in the making, with what was observed.
    pub fn seal(&mut self, now_ms: i64) -> Batch {
        self.look_at_clock(now_ms);
        let mut fresh_as_of_ms = BTreeMap::new();
        for (at, partition) in &mut self.partitions {
            if partition.moved {
                let from = partition.stored.then_some(partition.sealed.next_offset);
                self.builder.advance(*at, from, &partition.position);
                partition.sealed.clone_from(&partition.position);
                partition.stored = true;
                partition.moved = false;
            }
            partition.timed = false;
            let before = partition.freshness.fresh_as_of_ms();
            if !partition.unproven {
                partition.freshness.reach(partition.position.next_offset);
            }
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
        let mut batch = self.builder.seal(Observed {
            heartbeat_ms: now_ms,
            connected: self.connected,
            fresh_as_of_ms,
            freshness_lost: news.freshness_lost,
            end_offsets: news.ends,
            topic_ids: news.topic_ids,
            cluster_id: news.cluster_id,
            stopped,
        });
        batch.after_gap = news.after_gap;
        self.builder.note_log(self.partitions.len(), self.behind() >= self.far_behind);
        batch
    }

    /// The store has this now.
    pub fn committed(&mut self, now: &Committed) {
        self.committed.extend(now.positions());
        let observed = &now.batch.observed;
        self.committed_fresh_ms.retain(|at, _| !observed.freshness_lost.contains(at));
        self.committed_fresh_ms.extend(&observed.fresh_as_of_ms);
        if let Some(after) = &now.batch.after_gap {
            for at in &after.gone {
                self.committed.remove(at);
                self.committed_fresh_ms.remove(at);
                self.context.metrics.partition_gone(*at);
            }
            self.missing_events.extend(&after.missing_events);
            self.unpublished = true;
        }
        self.sweep();
        // Gauges move with what was observed, not with every batch.
        self.unpublished |= !observed.end_offsets.is_empty();
        let now_ms = self.context.now_ms();
        let due = now_ms < self.published_ms || now_ms - self.published_ms >= self.interval_ms;
        if self.gate.check(&self.committed) {
            self.open_gate();
        } else if self.unpublished || due || !self.gate.is_open() && self.gate.is_caught_up() {
            self.publish();
        }
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
        for letter in &applied.dead_letters {
            self.notices.take(&self.catalog, letter, self.context.now_ms());
        }
        for letter in again.chain(applied.dead_letters.iter().map(DeadLetter::kept)) {
            self.limits.add(letter);
        }
        match self.limits.passed(&self.catalog) {
            None => Ok(()),
            Some(limit) => Err(Failure::other(format!("{limit}; {}", limits::ADVICE))),
        }
    }

    /// Whether the store is to complete the copy now. Says so once.
    pub fn wants_completion(&mut self) -> bool {
        !self.sweeps.hold_start(self.context.now_ms()) && self.gate.wants_completion()
    }

    pub fn open_gate(&mut self) {
        if !self.context.progress.is_gate_open() {
            info!("the copy may be used: start-up gate open");
        }
        self.context.progress.open_gate();
        self.publish();
    }

    fn publish(&mut self) {
        self.unpublished = false;
        self.published_ms = self.context.now_ms();
        let metrics = &self.context.metrics;
        for (at, partition) in &self.partitions {
            if let Some(next_offset) = self.committed.get(at) {
                let fresh = self.committed_fresh_ms.get(at).copied();
                metrics.partition(*at, *next_offset, partition.end, fresh);
            }
        }
        for (index, table) in self.catalog.tables.iter().enumerate() {
            metrics.snapshot(index, self.sweeps.may_leave_ghosts(index));
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
                    heartbeat_ms: Some(self.published_ms),
                    heartbeat_limit_ms: self.heartbeat_limit_ms,
                    fresh_as_of_ms: freshness::worst(table.topics.iter().map(known)),
                    max_staleness_ms: table.max_staleness_ms,
                    missing_events: self.missing_events.contains(&index),
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
