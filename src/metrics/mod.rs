//! Metrics: every name, help text and label in one place, and methods named for what happened.
//!
//! Every series exists from the start, as far as the catalog can name it; a partition's series
//! appear with the partition. What is unknown is NaN and never 0. Gauges that depend on the time
//! are computed when they are read, so that they turn bad by themselves.

pub mod names;

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus::core::Collector;
use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounterVec, Opts, Registry, TextEncoder,
};

use crate::domain::catalog::Catalog;
use crate::domain::change::{Effect, Skip};
use crate::domain::checkpoint::TopicPartition;
use crate::domain::dead_letter::Reason;
use crate::domain::freshness::worst;
use crate::domain::retry::RetryReason;
use crate::domain::state::{Facts, State, believable, state};
use names::Family;

/// From a millisecond to five minutes: an idle daemon applies within milliseconds, and beyond five
/// minutes the lag gauges tell more.
const EVENT_TO_VISIBLE_BUCKETS: &[f64] =
    &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0];
const APPLY_DURATION_BUCKETS: &[f64] =
    &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];
const BATCH_EVENTS_BUCKETS: &[f64] =
    &[1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1_000.0, 3_000.0, 10_000.0, 30_000.0, 100_000.0];

/// The `reason` label of `readside_source_errors_total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SourceErrorKind {
    Unreachable,
    TopicMissing,
    /// The brokers refuse to tell about a topic, or do not know enough about it for now.
    TopicRefused,
    OutOfRange,
    /// A partition had more to read and did not move; it was started again.
    Stalled,
    Fatal,
}

impl SourceErrorKind {
    pub const ALL: [SourceErrorKind; 6] = [
        SourceErrorKind::Unreachable,
        SourceErrorKind::TopicMissing,
        SourceErrorKind::TopicRefused,
        SourceErrorKind::OutOfRange,
        SourceErrorKind::Stalled,
        SourceErrorKind::Fatal,
    ];

    pub fn name(self) -> &'static str {
        match self {
            SourceErrorKind::Unreachable => "unreachable",
            SourceErrorKind::TopicMissing => "topic_missing",
            SourceErrorKind::TopicRefused => "topic_refused",
            SourceErrorKind::OutOfRange => "out_of_range",
            SourceErrorKind::Stalled => "stalled",
            SourceErrorKind::Fatal => "fatal",
        }
    }
}

/// The `reason` label of `readside_gaps_total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum GapReason {
    /// The log starts behind the replica's position.
    Retention,
    /// The topic has another id.
    Recreated,
    /// The log ends before the replica's position.
    Truncated,
    /// The brokers belong to another cluster.
    Cluster,
    /// The topic was not read for longer than it keeps tombstones.
    Tombstones,
}

impl GapReason {
    pub const ALL: [GapReason; 5] = [
        GapReason::Retention,
        GapReason::Recreated,
        GapReason::Truncated,
        GapReason::Cluster,
        GapReason::Tombstones,
    ];

    pub fn name(self) -> &'static str {
        match self {
            GapReason::Retention => "retention",
            GapReason::Recreated => "recreated",
            GapReason::Truncated => "truncated",
            GapReason::Cluster => "cluster",
            GapReason::Tombstones => "tombstones",
        }
    }
}

/// The `result` label of `readside_dead_letters_retried_total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RetryResult {
    Applied,
    /// The replica has newer.
    Superseded,
    /// The mapping does not want it, or an event with its id was applied.
    Skipped,
    /// It is a dead letter still.
    Refused,
    /// The log no longer has the record.
    Gone,
    /// The log could not be read.
    Unreachable,
    /// Its order among the events of its row can no longer be told.
    TooOld,
}

impl RetryResult {
    pub const ALL: [RetryResult; 7] = [
        RetryResult::Applied,
        RetryResult::Superseded,
        RetryResult::Skipped,
        RetryResult::Refused,
        RetryResult::Gone,
        RetryResult::Unreachable,
        RetryResult::TooOld,
    ];

    pub fn name(self) -> &'static str {
        match self {
            RetryResult::Applied => "applied",
            RetryResult::Superseded => "superseded",
            RetryResult::Skipped => "skipped",
            RetryResult::Refused => "refused",
            RetryResult::Gone => "gone",
            RetryResult::Unreachable => "unreachable",
            RetryResult::TooOld => "too_old",
        }
    }
}

/// The `result` label of `readside_dead_letters_produced_total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ProduceResult {
    /// With the record as it came.
    Whole,
    /// The topic refused it as too large; its coordinates are there.
    TooLarge,
    /// The log no longer had the record; its coordinates are there.
    Gone,
    /// Not written; it is tried again.
    Failed,
}

impl ProduceResult {
    pub const ALL: [ProduceResult; 4] =
        [ProduceResult::Whole, ProduceResult::TooLarge, ProduceResult::Gone, ProduceResult::Failed];

    pub fn name(self) -> &'static str {
        match self {
            ProduceResult::Whole => "whole",
            ProduceResult::TooLarge => "too_large",
            ProduceResult::Gone => "gone",
            ProduceResult::Failed => "failed",
        }
    }
}

/// The `outcome` label of `readside_schema_registry_requests_total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RegistryOutcome {
    Found,
    /// The registry has no such schema.
    Unknown,
    /// It wants other credentials.
    Refused,
    /// It answers with an error.
    Failed,
    Unreachable,
    /// The answer is not that of a schema registry.
    Malformed,
}

impl RegistryOutcome {
    pub const ALL: [RegistryOutcome; 6] = [
        RegistryOutcome::Found,
        RegistryOutcome::Unknown,
        RegistryOutcome::Refused,
        RegistryOutcome::Failed,
        RegistryOutcome::Unreachable,
        RegistryOutcome::Malformed,
    ];

    pub fn name(self) -> &'static str {
        match self {
            RegistryOutcome::Found => "found",
            RegistryOutcome::Unknown => "unknown",
            RegistryOutcome::Refused => "refused",
            RegistryOutcome::Failed => "failed",
            RegistryOutcome::Unreachable => "unreachable",
            RegistryOutcome::Malformed => "malformed",
        }
    }
}

/// The `result` label of `readside_rebuilds_total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RebuildResult {
    /// The new generation serves.
    Switched,
    /// It was not good enough to serve, or there was no room to build it.
    Refused,
    Failed,
}

impl RebuildResult {
    pub const ALL: [RebuildResult; 3] =
        [RebuildResult::Switched, RebuildResult::Refused, RebuildResult::Failed];

    pub fn name(self) -> &'static str {
        match self {
            RebuildResult::Switched => "switched",
            RebuildResult::Refused => "refused",
            RebuildResult::Failed => "failed",
        }
    }
}

/// All metrics of one generation; what is counted belongs to the process. Topics and tables are given by their index in the catalog; an index
/// that is not in it is ignored.
pub struct Metrics {
    registry: Registry,
    topics: Vec<String>,
    tables: Vec<String>,
    known: Mutex<Known>,

    state: GaugeVec,
    fresh_as_of: GaugeVec,
    lag_seconds: GaugeVec,
    lag_records: GaugeVec,
    caught_up: Gauge,
    bootstrap_remaining: Gauge,
    event_to_visible: HistogramVec,
    events_applied: IntCounterVec,
    events_skipped: IntCounterVec,
    dead_letters_total: IntCounterVec,
    dead_letters: GaugeVec,
    dead_letters_retried: IntCounterVec,
    dead_letters_dropped: IntCounterVec,
    dead_letters_produced: IntCounterVec,
    dead_letters_unproduced: Gauge,
    dead_letter_topic_breaker_open: Gauge,
    apply_duration: Histogram,
    batch_events: Histogram,
    store_retries: IntCounterVec,
    source_errors: IntCounterVec,
    gaps: IntCounterVec,
    registry_requests: IntCounterVec,
    registry_breaker_open: Gauge,
    waiting_partitions: GaugeVec,
    open_transaction_seconds: GaugeVec,
    rebuilds: IntCounterVec,
    generation: Gauge,
    rebuild_running: Gauge,
    rebuild_remaining: Gauge,
    kafka_connected: Gauge,
    store_connected: Gauge,
    table_rows: GaugeVec,
    held_rows: GaugeVec,
    snapshot_unfinished: GaugeVec,
    rows_swept: IntCounterVec,
    moved_rows_incomplete: IntCounterVec,
    delete_marks: GaugeVec,
    delete_marks_dropped: IntCounterVec,
    replica_size: Gauge,
    wal_size: Gauge,
    wal_pages_pinned: Gauge,
    wal_pinned_seconds: Gauge,
    long_readers: IntCounterVec,
    config_reload_success: Gauge,
    replica_losses: IntCounterVec,
}

/// How large the replica is; counts by table index.
#[derive(Debug, Clone, Copy)]
pub struct Sizes<'a> {
    pub rows: &'a [u64],
    pub held: &'a [u64],
    pub delete_marks: &'a [u64],
    pub replica_bytes: Option<u64>,
    pub wal_bytes: Option<u64>,
}

/// What the gauges that depend on the time are computed from.
struct Known {
    partitions: BTreeMap<TopicPartition, Partition>,
    /// By table index.
    facts: Vec<Facts>,
}

struct Partition {
    next_offset: i64,
    end_offset: Option<i64>,
    fresh_as_of_ms: Option<i64>,
}

impl Metrics {
    /// Creates every series the catalog can name.
    ///
    /// Until the first [`Metrics::facts`] a table counts as `building`: nothing is known to be
    /// complete yet, and a start that hangs must look like one.
    pub fn new(catalog: &Catalog) -> Metrics {
        Metrics::create(catalog, None)
    }

    /// For a generation that is built beside this one: the gauges are its own, what is counted goes
    /// into the same series, so that nothing starts again from zero when it takes over.
    pub fn beside(&self, catalog: &Catalog) -> Metrics {
        Metrics::create(catalog, Some(self))
    }

    fn create(catalog: &Catalog, earlier: Option<&Metrics>) -> Metrics {
        let registry = Registry::new();
        let metrics = Metrics {
            topics: catalog.topics.clone(),
            tables: catalog.tables.iter().map(|table| table.name.clone()).collect(),
            known: Mutex::new(Known {
                partitions: BTreeMap::new(),
                facts: catalog.tables.iter().map(|table| nothing_known(table.max_staleness_ms)).collect(),
            }),
            state: gauges(&registry, &names::STATE),
            fresh_as_of: gauges(&registry, &names::FRESH_AS_OF),
            lag_seconds: gauges(&registry, &names::LAG_SECONDS),
            lag_records: gauges(&registry, &names::LAG_RECORDS),
            caught_up: gauge(&registry, &names::CAUGHT_UP, 0.0),
            bootstrap_remaining: gauge(&registry, &names::BOOTSTRAP_REMAINING, f64::NAN),
            event_to_visible: match earlier {
                Some(earlier) => share(&registry, &earlier.event_to_visible),
                None => histograms(&registry, &names::EVENT_TO_VISIBLE, EVENT_TO_VISIBLE_BUCKETS),
            },
            events_applied: shared_counters(
                &registry,
                &names::EVENTS_APPLIED,
                earlier.map(|earlier| &earlier.events_applied),
            ),
            events_skipped: shared_counters(
                &registry,
                &names::EVENTS_SKIPPED,
                earlier.map(|earlier| &earlier.events_skipped),
            ),
            dead_letters_total: shared_counters(
                &registry,
                &names::DEAD_LETTERS_TOTAL,
                earlier.map(|earlier| &earlier.dead_letters_total),
            ),
            dead_letters: gauges(&registry, &names::DEAD_LETTERS),
            dead_letters_retried: shared_counters(
                &registry,
                &names::DEAD_LETTERS_RETRIED,
                earlier.map(|earlier| &earlier.dead_letters_retried),
            ),
            dead_letters_dropped: shared_counters(
                &registry,
                &names::DEAD_LETTERS_DROPPED,
                earlier.map(|earlier| &earlier.dead_letters_dropped),
            ),
            dead_letters_produced: shared_counters(
                &registry,
                &names::DEAD_LETTERS_PRODUCED,
                earlier.map(|earlier| &earlier.dead_letters_produced),
            ),
            dead_letters_unproduced: gauge(&registry, &names::DEAD_LETTERS_UNPRODUCED, f64::NAN),
            dead_letter_topic_breaker_open: gauge(&registry, &names::DEAD_LETTER_TOPIC_BREAKER_OPEN, 0.0),
            apply_duration: match earlier {
                Some(earlier) => share(&registry, &earlier.apply_duration),
                None => histogram(&registry, &names::APPLY_DURATION, APPLY_DURATION_BUCKETS),
            },
            batch_events: match earlier {
                Some(earlier) => share(&registry, &earlier.batch_events),
                None => histogram(&registry, &names::BATCH_EVENTS, BATCH_EVENTS_BUCKETS),
            },
            store_retries: shared_counters(
                &registry,
                &names::STORE_RETRIES,
                earlier.map(|earlier| &earlier.store_retries),
            ),
            source_errors: shared_counters(
                &registry,
                &names::SOURCE_ERRORS,
                earlier.map(|earlier| &earlier.source_errors),
            ),
            gaps: shared_counters(&registry, &names::GAPS, earlier.map(|earlier| &earlier.gaps)),
            rebuilds: shared_counters(&registry, &names::REBUILDS, earlier.map(|earlier| &earlier.rebuilds)),
            generation: gauge(&registry, &names::GENERATION, f64::NAN),
            rebuild_running: gauge(&registry, &names::REBUILD_RUNNING, 0.0),
            rebuild_remaining: gauge(&registry, &names::REBUILD_REMAINING, f64::NAN),
            registry_requests: shared_counters(
                &registry,
                &names::REGISTRY_REQUESTS,
                earlier.map(|earlier| &earlier.registry_requests),
            ),
            registry_breaker_open: gauge(&registry, &names::REGISTRY_BREAKER_OPEN, 0.0),
            waiting_partitions: gauges(&registry, &names::WAITING_PARTITIONS),
            open_transaction_seconds: gauges(&registry, &names::OPEN_TRANSACTION_SECONDS),
            kafka_connected: gauge(&registry, &names::KAFKA_CONNECTED, 0.0),
            store_connected: gauge(&registry, &names::STORE_CONNECTED, 0.0),
            table_rows: gauges(&registry, &names::TABLE_ROWS),
            held_rows: gauges(&registry, &names::HELD_ROWS),
            snapshot_unfinished: gauges(&registry, &names::SNAPSHOT_UNFINISHED),
            rows_swept: shared_counters(
                &registry,
                &names::ROWS_SWEPT,
                earlier.map(|earlier| &earlier.rows_swept),
            ),
            moved_rows_incomplete: shared_counters(
                &registry,
                &names::MOVED_ROWS_INCOMPLETE,
                earlier.map(|earlier| &earlier.moved_rows_incomplete),
            ),
            delete_marks: gauges(&registry, &names::DELETE_MARKS),
            delete_marks_dropped: shared_counters(
                &registry,
                &names::DELETE_MARKS_DROPPED,
                earlier.map(|earlier| &earlier.delete_marks_dropped),
            ),
            replica_size: gauge(&registry, &names::REPLICA_SIZE, f64::NAN),
            wal_size: gauge(&registry, &names::WAL_SIZE, f64::NAN),
            wal_pages_pinned: gauge(&registry, &names::WAL_PAGES_PINNED, f64::NAN),
            wal_pinned_seconds: gauge(&registry, &names::WAL_PINNED_SECONDS, f64::NAN),
            long_readers: shared_counters(
                &registry,
                &names::LONG_READERS,
                earlier.map(|earlier| &earlier.long_readers),
            ),
            replica_losses: shared_counters(
                &registry,
                &names::REPLICA_LOSSES,
                earlier.map(|earlier| &earlier.replica_losses),
            ),
            // A process that runs has read its configuration.
            config_reload_success: match earlier {
                Some(earlier) => share(&registry, &earlier.config_reload_success),
                None => gauge(&registry, &names::CONFIG_RELOAD_SUCCESS, 1.0),
            },
            registry,
        };
        metrics.create_series(catalog);
        metrics
    }

    fn create_series(&self, catalog: &Catalog) {
        let max_staleness = gauges(&self.registry, &names::MAX_STALENESS);
        for table in &catalog.tables {
            max_staleness.with_label_values(&[&table.name]).set(seconds(table.max_staleness_ms));
            for family in [&self.table_rows, &self.held_rows, &self.delete_marks] {
                family.with_label_values(&[&table.name]).set(f64::NAN);
            }
            self.snapshot_unfinished.with_label_values(&[&table.name]).set(0.0);
            self.rows_swept.with_label_values(&[&table.name]);
            self.moved_rows_incomplete.with_label_values(&[&table.name]);
            for topic in table.topics.iter().filter_map(|&topic| catalog.topics.get(topic)) {
                for effect in Effect::ALL {
                    self.events_applied.with_label_values(&[topic, table.name.as_str(), effect.name()]);
                }
            }
        }
        for topic in &catalog.topics {
            self.event_to_visible.with_label_values(&[topic]);
            self.waiting_partitions.with_label_values(&[topic]).set(0.0);
            self.open_transaction_seconds.with_label_values(&[topic]).set(f64::NAN);
            self.dead_letters.with_label_values(&[topic]).set(f64::NAN);
            for skip in Skip::ALL {
                self.events_skipped.with_label_values(&[topic, skip.name()]);
            }
            self.dead_letters_dropped.with_label_values(&[topic]);
            for result in RetryResult::ALL {
                self.dead_letters_retried.with_label_values(&[topic, result.name()]);
            }
            for result in ProduceResult::ALL {
                self.dead_letters_produced.with_label_values(&[topic, result.name()]);
            }
            for reason in Reason::ALL {
                self.dead_letters_total.with_label_values(&[topic, reason.name()]);
            }
        }
        for reason in RetryReason::ALL {
            self.store_retries.with_label_values(&[reason.name()]);
        }
        for reason in SourceErrorKind::ALL {
            self.source_errors.with_label_values(&[reason.name()]);
        }
        for outcome in RegistryOutcome::ALL {
            self.registry_requests.with_label_values(&[outcome.name()]);
        }
        self.delete_marks_dropped.with_label_values(&[] as &[&str]);
        self.replica_losses.with_label_values(&[] as &[&str]);
        self.long_readers.with_label_values(&[] as &[&str]);
        for result in RebuildResult::ALL {
            self.rebuilds.with_label_values(&[result.name()]);
        }
        for reason in GapReason::ALL {
            self.gaps.with_label_values(&[reason.name()]);
        }
        gauges(&self.registry, &names::BUILD_INFO)
            .with_label_values(&[env!("CARGO_PKG_VERSION"), std::env::consts::OS, std::env::consts::ARCH])
            .set(1.0);
    }

    /// The text format of Prometheus (0.0.4).
    pub fn render(&self, now_ms: i64) -> String {
        let known = self.known();
        for (name, facts) in self.tables.iter().zip(&known.facts) {
            let current = state(facts, now_ms);
            for possible in State::ALL {
                let holds = f64::from(u8::from(possible == current));
                self.state.with_label_values(&[name.as_str(), possible.name()]).set(holds);
            }
            let fresh_as_of_ms = believable(facts.fresh_as_of_ms, now_ms, facts.heartbeat_limit_ms);
            self.fresh_as_of.with_label_values(&[name]).set(or_nan(fresh_as_of_ms.map(seconds)));
        }
        for (index, name) in self.topics.iter().enumerate() {
            let partitions = known.partitions.iter().filter(|(at, _)| at.topic == index);
            let fresh_as_of_ms = worst(partitions.map(|(_, partition)| partition.fresh_as_of_ms));
            let limit_ms = known.facts.first().map_or(0, |facts| facts.heartbeat_limit_ms);
            let fresh_as_of_ms = believable(fresh_as_of_ms, now_ms, limit_ms);
            let lag = fresh_as_of_ms.map(|at| seconds(now_ms.saturating_sub(at)).max(0.0));
            self.lag_seconds.with_label_values(&[name]).set(or_nan(lag));
        }
        for (at, partition) in &known.partitions {
            let Some(topic) = self.topics.get(at.topic) else { continue };
            // The position may be ahead of an end that was observed before it moved.
            let lag = partition.end_offset.map(|end| end.saturating_sub(partition.next_offset).max(0) as f64);
            self.lag_records.with_label_values(&[topic, &at.partition.to_string()]).set(or_nan(lag));
        }
        // Under the lock, so that two readers cannot mix their times in one answer.
        let mut text = String::with_capacity(16 * 1024);
        if let Err(error) = TextEncoder::new().encode_utf8(&self.registry.gather(), &mut text) {
            tracing::error!(%error, "cannot encode the metrics");
        }
        text
    }

    pub fn events_applied(&self, topic: usize, table: usize, effect: Effect, count: u64) {
        if let (Some(topic), Some(table)) = (self.topics.get(topic), self.tables.get(table)) {
            self.events_applied.with_label_values(&[topic, table, effect.name()]).inc_by(count);
        }
    }

    pub fn events_skipped(&self, topic: usize, skip: Skip, count: u64) {
        if let Some(topic) = self.topics.get(topic) {
            self.events_skipped.with_label_values(&[topic, skip.name()]).inc_by(count);
        }
    }

    /// How many were skipped for a reason, of all topics.
    pub fn skipped(&self, skip: Skip) -> u64 {
        let of = |topic: &String| self.events_skipped.with_label_values(&[topic, skip.name()]).get();
        self.topics.iter().map(of).sum()
    }

    pub fn dead_letter(&self, topic: usize, reason: Reason) {
        if let Some(topic) = self.topics.get(topic) {
            self.dead_letters_total.with_label_values(&[topic, reason.name()]).inc();
        }
    }

    pub fn dead_letters_kept(&self, topic: usize, count: u64) {
        if let Some(topic) = self.topics.get(topic) {
            self.dead_letters.with_label_values(&[topic]).set(count as f64);
        }
    }

    pub fn dead_letter_retried(&self, topic: usize, result: RetryResult) {
        if let Some(topic) = self.topics.get(topic) {
            self.dead_letters_retried.with_label_values(&[topic, result.name()]).inc();
        }
    }

    pub fn dead_letter_dropped(&self, topic: usize) {
        if let Some(topic) = self.topics.get(topic) {
            self.dead_letters_dropped.with_label_values(&[topic]).inc();
        }
    }

    /// One was written to `dead_letters.topic`, or was not.
    pub fn dead_letter_produced(&self, topic: usize, result: ProduceResult) {
        if let Some(topic) = self.topics.get(topic) {
            self.dead_letters_produced.with_label_values(&[topic, result.name()]).inc();
        }
    }

    pub fn dead_letters_unproduced(&self, count: u64) {
        self.dead_letters_unproduced.set(count as f64);
    }

    pub fn dead_letter_topic_breaker(&self, open: bool) {
        self.dead_letter_topic_breaker_open.set(f64::from(u8::from(open)));
    }

    /// One batch is committed.
    pub fn batch_applied(&self, events: u64, took: Duration) {
        self.batch_events.observe(events as f64);
        self.apply_duration.observe(took.as_secs_f64());
    }

    /// From a record's timestamp to its commit. A producer whose clock is ahead of ours counts as 0.
    pub fn became_visible(&self, topic: usize, seconds: f64) {
        if let Some(topic) = self.topics.get(topic) {
            self.event_to_visible.with_label_values(&[topic]).observe(seconds.max(0.0));
        }
    }

    pub fn store_retried(&self, reason: RetryReason) {
        self.store_retries.with_label_values(&[reason.name()]).inc();
    }

    pub fn source_error(&self, reason: SourceErrorKind) {
        self.source_errors.with_label_values(&[reason.name()]).inc();
    }

    pub fn gap(&self, reason: GapReason) {
        self.gaps.with_label_values(&[reason.name()]).inc();
    }

    /// The schema registry was asked once.
    pub fn registry_asked(&self, outcome: RegistryOutcome, breaker_open: bool) {
        self.registry_requests.with_label_values(&[outcome.name()]).inc();
        self.registry_breaker_open.set(f64::from(u8::from(breaker_open)));
    }

    /// How many partitions of a topic wait for a schema.
    pub fn waiting_partitions(&self, topic: usize, count: u64) {
        if let Some(topic) = self.topics.get(topic) {
            self.waiting_partitions.with_label_values(&[topic]).set(count as f64);
        }
    }

    /// How long an open transaction has held a partition of the topic back; `None`: unknown.
    pub fn open_transaction(&self, topic: usize, seconds: Option<u64>) {
        if let Some(topic) = self.topics.get(topic) {
            let seconds = or_nan(seconds.map(|seconds| seconds as f64));
            self.open_transaction_seconds.with_label_values(&[topic]).set(seconds);
        }
    }

    /// Nobody asks the brokers about them.
    pub fn forget_open_transactions(&self) {
        for topic in 0..self.topics.len() {
            self.open_transaction(topic, None);
        }
    }

    /// A rebuild has ended.
    pub fn rebuilt(&self, result: RebuildResult) {
        self.rebuilds.with_label_values(&[result.name()]).inc();
    }

    /// Which generation serves, and whether another one is being built: then with the records that
    /// remain to be read, where that is known.
    pub fn generations(&self, live: Option<u32>, rebuilding: bool, remaining: Option<u64>) {
        self.generation.set(or_nan(live.map(f64::from)));
        self.rebuild_running.set(f64::from(u8::from(rebuilding)));
        self.rebuild_remaining.set(or_nan(remaining.map(|records| records as f64)));
    }

    /// What was known of the replica no longer holds.
    pub fn replica_lost(&self) {
        self.replica_losses.with_label_values(&[] as &[&str]).inc();
        let mut known = self.known();
        known.partitions.clear();
        for facts in &mut known.facts {
            *facts = nothing_known(facts.max_staleness_ms);
        }
    }

    pub fn kafka_connected(&self, yes: bool) {
        self.kafka_connected.set(f64::from(u8::from(yes)));
    }

    /// The configuration file was read again, and is what a daemon can start with.
    pub fn config_read(&self, accepted: bool) {
        self.config_reload_success.set(f64::from(u8::from(accepted)));
    }

    pub fn store_connected(&self, yes: bool) {
        self.store_connected.set(f64::from(u8::from(yes)));
    }

    /// Where a partition stands in the replica and what is known about its log. A topic is as fresh
    /// as its worst partition, so every partition has to be named, also those that are empty.
    pub fn partition(
        &self,
        at: TopicPartition,
        next_offset: i64,
        end_offset: Option<i64>,
        fresh_as_of_ms: Option<i64>,
    ) {
        self.known().partitions.insert(at, Partition { next_offset, end_offset, fresh_as_of_ms });
    }

    /// The partition does not exist any more.
    pub fn partition_gone(&self, at: TopicPartition) {
        self.known().partitions.remove(&at);
        if let Some(topic) = self.topics.get(at.topic) {
            // It has no series if nobody has asked for the metrics since it was met.
            let _ = self.lag_records.remove_label_values(&[topic, &at.partition.to_string()]);
        }
    }

    /// `remaining`: records up to the ends captured at start; `None` while these are unknown.
    pub fn gate(&self, caught_up: bool, remaining: Option<u64>) {
        self.caught_up.set(f64::from(u8::from(caught_up)));
        self.bootstrap_remaining.set(or_nan(remaining.map(|records| records as f64)));
    }

    /// What the state and the freshness of a table follow from; they are computed when somebody asks.
    pub fn facts(&self, table: usize, facts: Facts) {
        if let Some(stored) = self.known().facts.get_mut(table) {
            *stored = facts;
        }
    }

    pub fn sizes(&self, sizes: Sizes<'_>) {
        for (family, counts) in [
            (&self.table_rows, sizes.rows),
            (&self.held_rows, sizes.held),
            (&self.delete_marks, sizes.delete_marks),
        ] {
            for (name, count) in self.tables.iter().zip(counts) {
                family.with_label_values(&[name]).set(*count as f64);
            }
        }
        let known = |bytes: Option<u64>| bytes.map_or(f64::NAN, |bytes| bytes as f64);
        self.replica_size.set(known(sizes.replica_bytes));
        self.wal_size.set(known(sizes.wal_bytes));
    }

    /// Whether rows may be there that are gone in the source.
    pub fn snapshot(&self, table: usize, unfinished: bool) {
        if let Some(name) = self.tables.get(table) {
            self.snapshot_unfinished.with_label_values(&[name]).set(f64::from(u8::from(unfinished)));
        }
    }

    pub fn rows_swept(&self, table: usize, rows: u64) {
        if let Some(name) = self.tables.get(table) {
            self.rows_swept.with_label_values(&[name]).inc_by(rows);
        }
    }

    pub fn moved_row_incomplete(&self, table: usize) {
        if let Some(name) = self.tables.get(table) {
            self.moved_rows_incomplete.with_label_values(&[name]).inc();
        }
    }

    pub fn delete_marks_dropped(&self, count: u64) {
        self.delete_marks_dropped.with_label_values(&[] as &[&str]).inc_by(count);
    }

    pub fn wal_pinned(&self, pages: u64, since: Duration) {
        self.wal_pages_pinned.set(pages as f64);
        self.wal_pinned_seconds.set(since.as_secs_f64());
    }

    pub fn long_reader(&self) {
        self.long_readers.with_label_values(&[] as &[&str]).inc();
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn nothing_known(max_staleness_ms: i64) -> Facts {
    Facts {
        stopped: false,
        complete: false,
        connected: false,
        heartbeat_ms: None,
        heartbeat_limit_ms: 0,
        fresh_as_of_ms: None,
        max_staleness_ms,
        missing_events: false,
        rebuilding: false,
    }
}

fn seconds(ms: i64) -> f64 {
    ms as f64 / 1000.0
}

fn or_nan(value: Option<f64>) -> f64 {
    value.unwrap_or(f64::NAN)
}

// Names and labels are constants of this room and each is registered once, so that creating a
// family cannot fail; the tests below create all of them.
const CONSTANT: &str = "metric names and labels are valid and unique";

fn register<C: Collector + Clone + 'static>(registry: &Registry, collector: prometheus::Result<C>) -> C {
    let collector = collector.expect(CONSTANT);
    registry.register(Box::new(collector.clone())).expect(CONSTANT);
    collector
}

fn gauges(registry: &Registry, family: &Family) -> GaugeVec {
    register(registry, GaugeVec::new(Opts::new(family.name, family.help), family.labels))
}

fn gauge(registry: &Registry, family: &Family, start: f64) -> Gauge {
    let gauge = gauges(registry, family).with_label_values(&[] as &[&str]);
    gauge.set(start);
    gauge
}

fn counters(registry: &Registry, family: &Family) -> IntCounterVec {
    register(registry, IntCounterVec::new(Opts::new(family.name, family.help), family.labels))
}

/// A family that another registry has, too.
fn share<C: Collector + Clone + 'static>(registry: &Registry, collector: &C) -> C {
    register(registry, Ok(collector.clone()))
}

fn shared_counters(registry: &Registry, family: &Family, earlier: Option<&IntCounterVec>) -> IntCounterVec {
    earlier.map_or_else(|| counters(registry, family), |earlier| share(registry, earlier))
}

fn histograms(registry: &Registry, family: &Family, buckets: &[f64]) -> HistogramVec {
    let options = HistogramOpts::new(family.name, family.help).buckets(buckets.to_vec());
    register(registry, HistogramVec::new(options, family.labels))
}

fn histogram(registry: &Registry, family: &Family, buckets: &[f64]) -> Histogram {
    histograms(registry, family, buckets).with_label_values(&[] as &[&str])
}

#[cfg(test)]
mod tests;
