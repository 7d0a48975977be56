//! A rehearsal: records go through the same intake, batches and guard as in the daemon, into the
//! reference model, without a log, a clock or a thread.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use super::intake::Intake;
use super::writer::Committed;
use super::{Context, Failure, GateRule};
use crate::config::Config;
use crate::decode::registry::Registry;
use crate::domain::change::Skip;
use crate::domain::checkpoint::TopicPartition;
use crate::domain::dead_letter::DeadLetter;
use crate::domain::record::OwnedRecord;
use crate::domain::value::Value;
use crate::mapping::Plan;
use crate::metrics::Metrics;
use crate::source::{Ends, Observation, SourceEvent, TopicObservation};
use crate::store::{MemoryStore, Store, heartbeat_limit};

/// When the rehearsal takes place: what it shows must not depend on the day.
const NOW_MS: i64 = 4_000_000_000_000;
/// By then whole snapshots have settled.
const LATER_MS: i64 = 5_000;

/// One record on its way; offsets are given in the order in which they come.
#[derive(Debug, Clone, Copy)]
pub struct Delivery<'a> {
    pub at: TopicPartition,
    pub record: &'a OwnedRecord,
    /// A batch ends behind it.
    pub ends_batch: bool,
}

/// What readers would see.
#[derive(Debug, Default)]
pub struct Outcome {
    /// By table index, in the order of the keys.
    pub rows: Vec<Vec<Vec<Value>>>,
    /// Rows that wait for the event that makes them visible, by table index.
    pub held: Vec<u64>,
    pub dead_letters: Vec<DeadLetter>,
    /// Events by the reason for which they were skipped, without those that are 0.
    pub skipped: BTreeMap<&'static str, u64>,
    /// Why the daemon would have stopped; the rest is as it was then.
    pub stopped: Option<String>,
}

/// `Err` where nothing can be mapped at all: files that cannot be read.
pub fn rehearse(
    config: &Config,
    registry: &Registry,
    deliveries: &[Delivery<'_>],
) -> Result<Outcome, String> {
    let (mut store, skipped, stopped) = rehearsed(config, registry, deliveries)?;
    Ok(Outcome {
        skipped,
        rows: (0..config.tables.len()).map(|table| store.rows(table)).collect(),
        held: store.figures().held,
        dead_letters: store.dead_letters(),
        stopped,
    })
}

/// The same; gives the store, and why the daemon would have stopped.
pub fn rehearse_into(
    config: &Config,
    registry: &Registry,
    deliveries: &[Delivery<'_>],
) -> Result<(MemoryStore, Option<String>), String> {
    rehearsed(config, registry, deliveries).map(|(store, _, stopped)| (store, stopped))
}

type Rehearsed = (MemoryStore, BTreeMap<&'static str, u64>, Option<String>);

fn rehearsed(config: &Config, registry: &Registry, deliveries: &[Delivery<'_>]) -> Result<Rehearsed, String> {
    let plan = Plan::with_registry(config, Some(registry.clone()));
    if let [problem, ..] = plan.problems().as_slice() {
        return Err(problem.clone());
    }
    let catalog = Arc::clone(plan.catalog());
    let clock = Arc::new(AtomicI64::new(NOW_MS));
    let metrics = Arc::new(Metrics::new(&catalog));
    let context = Context {
        clock: Arc::new({
            let clock = Arc::clone(&clock);
            move || clock.load(Ordering::Relaxed)
        }),
        metrics: Arc::clone(&metrics),
        progress: Arc::default(),
        stop: Arc::default(),
    };
    let mut store = MemoryStore::new(catalog, heartbeat_limit(config.freshness.interval));
    let checkpoint = store.checkpoint().map_err(|error| error.to_string())?;
    let gate = GateRule { complete: false, open_at_once: false };
    let intake = Intake::new(config, plan, checkpoint, gate, context);
    let mut rehearsal = Rehearsal { intake, store: store.clone(), metrics, now_ms: NOW_MS };
    let stopped = rehearsal.run(config.topics.len(), deliveries, &clock).err();
    let counts = Skip::ALL.into_iter().map(|skip| (skip.name(), rehearsal.metrics.skipped(skip)));
    let skipped = counts.filter(|(_, count)| *count > 0).collect();
    Ok((store, skipped, stopped.map(|failure| failure.reason)))
}

struct Rehearsal {
    intake: Intake,
    store: MemoryStore,
    metrics: Arc<Metrics>,
    now_ms: i64,
}

impl Rehearsal {
    fn run(&mut self, topics: usize, deliveries: &[Delivery<'_>], clock: &AtomicI64) -> Result<(), Failure> {
        let mut ends: BTreeMap<TopicPartition, i64> =
            (0..topics).map(|topic| (TopicPartition { topic, partition: 0 }, 0)).collect();
        for delivery in deliveries {
            *ends.entry(delivery.at).or_default() += 1;
        }
        self.observe(&ends)?;
        let mut offsets: BTreeMap<TopicPartition, i64> = BTreeMap::new();
        for Delivery { at, record, ends_batch } in deliveries {
            let offset = offsets.entry(*at).or_default();
            self.intake.take(SourceEvent::Record(record.as_record(*at, *offset)));
            *offset += 1;
            if let Err(failure) = self.intake.outcome() {
                // What was complete is in the replica, as when the daemon stops.
                self.commit()?;
                return Err(failure);
            }
            if *ends_batch {
                self.commit()?;
            }
        }
        self.commit()?;
        // Twice: the first one asks for the ends that the second one finds passed.
        for _ in 0..2 {
            self.now_ms += LATER_MS;
            clock.store(self.now_ms, Ordering::Relaxed);
            self.observe(&ends)?;
            self.commit()?;
        }
        Ok(())
    }

    fn observe(&mut self, ends: &BTreeMap<TopicPartition, i64>) -> Result<(), Failure> {
        let mut topics: BTreeMap<usize, TopicObservation> = BTreeMap::new();
        for (at, end) in ends {
            let topic = topics.entry(at.topic).or_default();
            topic.id = format!("topic-{}", at.topic);
            let ends =
                Ends { log_start: Some(0), high_watermark: *end, last_stable: Some(*end), leader_epoch: -1 };
            topic.partitions.insert(at.partition, ends);
        }
        let seen = Observation { asked_ms: self.now_ms, cluster_id: "rehearsal".into(), topics };
        self.intake.take(SourceEvent::Observation(seen));
        self.intake.outcome()?;
        self.intake.take_assignments();
        Ok(())
    }

    fn commit(&mut self) -> Result<(), Failure> {
        let batch = Box::new(self.intake.seal(self.now_ms));
        let applied = self.store.apply(&batch)?;
        // As the writer counts them.
        for (indexes, skip) in [(&applied.stale, Skip::Stale), (&applied.missing_row, Skip::MissingRow)] {
            for entry in indexes.iter().filter_map(|index| batch.entries.get(*index)) {
                self.metrics.events_skipped(entry.topic, skip, entry.event_count());
            }
        }
        let committed = Committed { batch, applied, took: Duration::ZERO };
        self.intake.committed(&committed);
        self.intake.swept(&committed.applied.swept);
        self.intake.check_dead_letters(&committed.applied)
    }
}
