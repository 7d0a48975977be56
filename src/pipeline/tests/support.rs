//! A log, a broker and a clock that a test moves by hand, and a pipeline between them and a store.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::config::{self, Config};
use crate::domain::catalog::Catalog;
use crate::domain::checkpoint::{Position, TopicPartition};
use crate::domain::record::{HeaderList, Headers, Record};
use crate::domain::shelf::{Scrap, Shelf};
use crate::domain::shelving::{Shelves, Stage};
use crate::mapping::Plan;
use crate::metrics::Metrics;
use crate::pipeline::progress::Progress;
use crate::pipeline::writer::Work;
use crate::pipeline::{Context, Ended, Failure, Halt, Pipeline, Writer, start_writer};
use crate::source::{Cleanup, Ends, Observation, Source, SourceEvent, TopicObservation, Waker};
use crate::store::{LossLimit, MemoryStore, Settings, Store, heartbeat_limit};

pub const START_MS: i64 = 1_700_000_000_000;

pub fn at(topic: usize, partition: i32) -> TopicPartition {
    TopicPartition { topic, partition }
}

pub fn config(text: &str) -> Config {
    match config::parse(text, "test.yaml", std::iter::empty()) {
        Ok(loaded) => loaded.config,
        Err(errors) => panic!("{errors}"),
    }
}

#[derive(Debug, Clone)]
pub struct Logged {
    pub offset: i64,
    pub key: String,
    pub value: Option<String>,
    pub headers: Vec<(String, Vec<u8>)>,
    /// When it was appended, which is its timestamp too.
    pub at_ms: i64,
    pub epoch: i32,
    /// What it counts as where order is that of positions: the highest timestamp so far.
    pub version_ms: i64,
}

impl HeaderList for Logged {
    fn each(&self, visit: &mut dyn FnMut(&str, Option<&[u8]>)) {
        self.headers[..].each(visit);
    }
}

/// One partition of the log.
#[derive(Debug, Clone, Default)]
pub struct Log {
    pub records: Vec<Logged>,
    pub end: i64,
    /// Everything below is committed.
    pub stable: i64,
    pub start: i64,
    /// Of the records that are appended next.
    pub epoch: i32,
    /// Where each epoch begins, but the first.
    pub epochs: BTreeMap<i32, i64>,
    /// Records that come count as newer than this.
    pub floor_ms: i64,
}

impl Log {
    /// Where what was written up to an epoch ends.
    pub fn end_of_epoch(&self, epoch: i32) -> i64 {
        self.epochs.range(epoch + 1..).next().map_or(self.end, |(_, start)| *start)
    }

    /// What a record of this time would count as.
    pub fn version_ms(&self, at_ms: i64) -> i64 {
        let last = self.records.last().map_or(self.floor_ms, |last| last.version_ms);
        last.max(self.floor_ms).max(at_ms)
    }
}

/// What the source hands over next.
#[derive(Debug, Clone)]
pub enum Delivery {
    /// The next records of a partition, at most so many, and never beyond what is committed.
    Records(TopicPartition, usize),
    /// Goes back by so many records first: a source that repeats itself.
    Again(TopicPartition, usize),
    End(TopicPartition),
    Observation(Observation),
    /// The position is not in the log; with where it diverges, if epochs tell.
    OutOfRange(TopicPartition, Option<i64>),
    Unreachable,
}

/// The brokers and their client, as the test moves them.
#[derive(Debug, Default)]
pub struct World {
    pub cluster_id: String,
    pub topic_ids: BTreeMap<usize, String>,
    pub logs: BTreeMap<TopicPartition, Log>,
    /// Records that the replica has and the log has not any more, in the order in which they went.
    pub past: Vec<(TopicPartition, Logged)>,
    /// What brokers tell about old records, by topic.
    pub cleanups: BTreeMap<usize, Cleanup>,
    pub deliveries: VecDeque<Delivery>,
    /// Next offset of each partition that is read.
    pub reading: BTreeMap<TopicPartition, i64>,
    /// How far each was read, however often it was gone back.
    reached: BTreeMap<TopicPartition, i64>,
    pub details: bool,
    /// From so many unread records on whole rows are put aside, also for stores that do not by themselves.
    pub far_behind: Option<i64>,
    /// How often a wait for records was ended.
    pub wakes: u64,
    pub now_ms: i64,
}

impl World {
    pub fn add_partition(&mut self, at: TopicPartition) {
        self.topic_ids.entry(at.topic).or_insert_with(|| format!("id-{}", at.topic));
        self.logs.entry(at).or_default();
    }

    /// The topic is deleted and created again, with so many partitions; nothing of it is read before
    /// it is assigned.
    pub fn recreate(&mut self, topic: usize, id: &str, partitions: i32) {
        self.logs.retain(|at, _| at.topic != topic);
        self.reading.retain(|at, _| at.topic != topic);
        self.topic_ids.insert(topic, id.to_owned());
        for partition in 0..partitions {
            self.add_partition(at(topic, partition));
        }
    }

    /// The first records go.
    pub fn retain_from(&mut self, at: TopicPartition, start: i64) {
        let log = self.logs.get_mut(&at).expect("a partition");
        log.start = start;
        log.records.retain(|logged| logged.offset >= start);
        if self.reading.get(&at).is_some_and(|next| *next < start) {
            self.reading.remove(&at);
            self.deliveries.push_back(Delivery::OutOfRange(at, None));
        }
    }

    /// The last records go, and others will come with another epoch.
    pub fn truncate(&mut self, at: TopicPartition, end: i64) {
        let log = self.logs.get_mut(&at).expect("a partition");
        (log.end, log.stable, log.epoch) = (end, log.stable.min(end), log.epoch + 1);
        log.epochs.retain(|_, start| *start < end);
        log.epochs.insert(log.epoch, end);
        log.records.retain(|logged| logged.offset < end);
        // What was read before is validated, also by a client that was sent back since.
        if self.reading.contains_key(&at) && self.reached.get(&at).is_some_and(|next| *next > end) {
            self.reading.remove(&at);
            self.deliveries.push_back(Delivery::OutOfRange(at, Some(end)));
        }
    }

    /// Another broker leads the partition; nothing is lost.
    pub fn elect(&mut self, at: TopicPartition) {
        let log = self.logs.get_mut(&at).expect("a partition");
        log.epoch += 1;
        log.epochs.insert(log.epoch, log.end);
    }

    /// The end of a transaction: an offset without a record.
    pub fn control(&mut self, at: TopicPartition) {
        self.logs.get_mut(&at).expect("a partition").end += 1;
        self.commit(at);
    }

    /// Appends a committed record.
    pub fn append(&mut self, at: TopicPartition, key: &str, value: Option<&str>) -> i64 {
        let offset = self.append_open(at, key, value);
        self.commit(at);
        offset
    }

    /// Of the record that was appended last.
    pub fn set_headers(&mut self, at: TopicPartition, headers: Vec<(String, Vec<u8>)>) {
        if let Some(last) = self.logs.get_mut(&at).and_then(|log| log.records.last_mut()) {
            last.headers = headers;
        }
    }

    /// Appends a record of a transaction that is still open.
    pub fn append_open(&mut self, at: TopicPartition, key: &str, value: Option<&str>) -> i64 {
        let at_ms = self.now_ms;
        let log = self.logs.get_mut(&at).expect("a partition");
        let offset = log.end;
        log.end += 1;
        let (epoch, version_ms) = (log.epoch, log.version_ms(at_ms));
        let (key, value) = (key.into(), value.map(str::to_owned));
        let headers = Vec::new();
        log.records.push(Logged { offset, key, value, headers, at_ms, epoch, version_ms });
        offset
    }

    pub fn commit(&mut self, at: TopicPartition) {
        let log = self.logs.get_mut(&at).expect("a partition");
        log.stable = log.end;
    }

    /// A round of questions, asked and answered now.
    pub fn ask(&self) -> Observation {
        let mut topics: BTreeMap<usize, TopicObservation> = BTreeMap::new();
        for (at, log) in &self.logs {
            let ends = Ends {
                log_start: self.details.then_some(log.start),
                high_watermark: log.end,
                last_stable: self.details.then_some(log.stable),
                leader_epoch: log.epoch,
            };
            let topic = topics.entry(at.topic).or_default();
            topic.id.clone_from(&self.topic_ids[&at.topic]);
            topic.cleanup = self.cleanups.get(&at.topic).filter(|_| self.details).cloned();
            topic.partitions.insert(at.partition, ends);
        }
        Observation { asked_ms: self.now_ms, cluster_id: self.cluster_id.clone(), topics }
    }

    /// Everything that can be read, and the ends, to be delivered after what is planned already.
    pub fn deliver_all(&mut self) {
        for at in self.logs.keys().copied().collect::<Vec<_>>() {
            self.deliveries.push_back(Delivery::Records(at, usize::MAX));
            self.deliveries.push_back(Delivery::End(at));
        }
    }
}

/// Shared by the test and the source.
#[derive(Clone)]
pub struct Shared(Arc<Mutex<World>>, Arc<AtomicI64>);

impl Shared {
    pub fn new() -> Shared {
        let world = World { cluster_id: "c".into(), now_ms: START_MS, details: true, ..World::default() };
        Shared(Arc::new(Mutex::new(world)), Arc::new(AtomicI64::new(START_MS)))
    }

    /// Another client of the same brokers, which has read nothing yet.
    pub fn another_client(&self) -> Shared {
        let other = Shared(Arc::default(), Arc::clone(&self.1));
        other.catch_up_with(self);
        other
    }

    /// Takes over what the brokers have and the time it is.
    pub fn catch_up_with(&self, other: &Shared) {
        let theirs = other.world();
        let mut ours = self.world();
        ours.cluster_id.clone_from(&theirs.cluster_id);
        ours.topic_ids.clone_from(&theirs.topic_ids);
        ours.logs.clone_from(&theirs.logs);
        ours.now_ms = theirs.now_ms;
    }

    pub fn world(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn advance_clock(&self, by_ms: i64) {
        self.world().now_ms += by_ms;
        self.1.fetch_add(by_ms, Ordering::Relaxed);
    }

    pub fn now_ms(&self) -> i64 {
        self.1.load(Ordering::Relaxed)
    }
}

pub struct ScriptedSource(Shared);

impl Source for ScriptedSource {
    /// Never waits: what is not delivered yet is a matter of the script.
    fn poll(&mut self, _: Duration, max: usize, each: &mut dyn FnMut(SourceEvent<'_>)) -> usize {
        let mut handed = 0;
        while handed < max {
            let Some(delivery) = self.0.world().deliveries.pop_front() else { break };
            handed += self.deliver(delivery, max - handed, each);
        }
        handed
    }

    /// As librdkafka: a position with an epoch is validated, and one that is not in the log refused.
    fn assign(&mut self, at: TopicPartition, from: &Position) {
        let mut world = self.0.world();
        let Some(log) = world.logs.get(&at) else { return };
        let end = log.end_of_epoch(from.leader_epoch);
        let refused = if from.leader_epoch >= 0 && from.next_offset > end {
            Some(Delivery::OutOfRange(at, Some(end)))
        } else if from.next_offset > log.end || from.next_offset < log.start {
            Some(Delivery::OutOfRange(at, None))
        } else {
            None
        };
        match refused {
            Some(refused) => {
                world.reading.remove(&at);
                world.deliveries.push_back(refused);
            }
            None => {
                world.reading.insert(at, from.next_offset);
                world.reached.insert(at, from.next_offset);
            }
        }
    }

    fn pause(&mut self, at: TopicPartition) {
        self.0.world().reading.remove(&at);
    }

    fn waker(&self) -> Waker {
        let shared = self.0.clone();
        Arc::new(move || shared.world().wakes += 1)
    }

    fn want_details(&mut self, wanted: bool) {
        self.0.world().details = wanted;
    }
}

impl ScriptedSource {
    fn deliver(&self, delivery: Delivery, max: usize, each: &mut dyn FnMut(SourceEvent<'_>)) -> usize {
        match delivery {
            Delivery::Records(at, count) => {
                let records = self.next_records(at, count.min(max));
                for logged in &records {
                    each(SourceEvent::Record(Record {
                        at,
                        offset: logged.offset,
                        leader_epoch: logged.epoch,
                        timestamp_ms: Some(logged.at_ms),
                        key: Some(logged.key.as_bytes()),
                        value: logged.value.as_deref().map(str::as_bytes),
                        headers: Headers(Some(logged)),
                    }));
                }
                if records.len() == max && count > max {
                    self.0.world().deliveries.push_front(Delivery::Records(at, count - max));
                }
                records.len()
            }
            Delivery::Again(at, count) => {
                let mut world = self.0.world();
                if let Some(next) = world.reading.get_mut(&at) {
                    *next = (*next - count as i64).max(0);
                }
                0
            }
            Delivery::End(at) => {
                let end = {
                    let world = self.0.world();
                    let stable = world.logs.get(&at).map_or(0, |log| log.stable);
                    world.reading.get(&at).filter(|next| **next >= stable).map(|_| stable)
                };
                let Some(offset) = end else { return 0 };
                each(SourceEvent::EndOfPartition { at, offset });
                1
            }
            Delivery::Observation(observation) => {
                each(SourceEvent::Observation(observation));
                1
            }
            Delivery::OutOfRange(at, diverges) => {
                each(SourceEvent::OutOfRange { at, position: 0, diverges });
                1
            }
            Delivery::Unreachable => {
                each(SourceEvent::Unreachable { reason: "as planned".into() });
                1
            }
        }
    }

    fn next_records(&self, at: TopicPartition, count: usize) -> Vec<Logged> {
        let mut world = self.0.world();
        let Some(next) = world.reading.get(&at).copied() else { return Vec::new() };
        let Some(log) = world.logs.get(&at) else { return Vec::new() };
        let stable = log.stable;
        let due = log.records.iter().filter(|logged| logged.offset >= next && logged.offset < stable);
        let due: Vec<Logged> = due.take(count).cloned().collect();
        // Control records behind the last one are passed, too.
        let reached =
            if due.len() < count { stable } else { due.last().map_or(next, |last| last.offset + 1) };
        world.reading.insert(at, next.max(reached));
        let furthest = world.reached.entry(at).or_default();
        *furthest = (*furthest).max(reached);
        due
    }
}

/// A running daemon without its process: the pipeline is moved by the test, round by round.
pub struct Daemon {
    pub pipeline: Pipeline<ScriptedSource>,
    pub writer: Option<Writer>,
    pub progress: Arc<Progress>,
    pub stop: Arc<AtomicBool>,
}

impl Daemon {
    pub fn start<T: Store + 'static>(config: &Config, shared: &Shared, mut store: T) -> Daemon {
        {
            let mut world = shared.world();
            world.deliveries.clear();
            world.reading.clear();
            world.details = true;
        }
        let plan = Plan::compile(config);
        let checkpoint = store.checkpoint().expect("a checkpoint");
        let progress = Arc::new(Progress::default());
        let stop = Arc::new(AtomicBool::new(false));
        let clock = shared.clone();
        let context = Context {
            clock: Arc::new(move || clock.now_ms()),
            metrics: Arc::new(Metrics::new(plan.catalog())),
            progress: Arc::clone(&progress),
            stop: Arc::clone(&stop),
        };
        let mut writer = start_writer(store, context).expect("a thread");
        let source = ScriptedSource(shared.clone());
        let far_behind = shared.world().far_behind;
        if far_behind.is_some() && writer.shelves.shelves.is_empty() {
            // Few rows fit into a run.
            let shelf = |_| Shelf::with_runs_of(200, Box::new(Scrap::default()));
            let stage = if checkpoint.complete { Stage::Live } else { Stage::First };
            writer.shelves = Shelves { shelves: (0..2).map(shelf).collect(), stage, live_bytes_max: 0 };
        }
        let mut pipeline = Pipeline::new(config, plan, source, checkpoint, &mut writer);
        pipeline.intake.far_behind = far_behind.unwrap_or(i64::MAX);
        Daemon { pipeline, writer: Some(writer), progress, stop }
    }

    /// Rounds until nothing is left to deliver, to write or to wait for.
    pub fn settle(&mut self, shared: &Shared) -> Result<(), Failure> {
        self.settle_or_halt(shared).map_err(failed)
    }

    /// The same for a loop that may come to its end.
    pub fn settle_or_halt(&mut self, shared: &Shared) -> Result<(), Halt> {
        let mut quiet = 0;
        while quiet < 2 {
            self.pipeline.round()?;
            while self.pipeline.in_flight > 0 {
                self.pipeline.wait_done(Duration::from_secs(10))?;
            }
            let idle = shared.world().deliveries.is_empty() && !self.pipeline.intake.has_changes();
            quiet = if idle { quiet + 1 } else { 0 };
        }
        Ok(())
    }

    /// Polls once and hands that over as a batch of its own, behind what is under way.
    pub fn hand_over_another(&mut self, shared: &Shared) {
        let intake = &mut self.pipeline.intake;
        self.pipeline.source.poll(Duration::ZERO, usize::MAX, &mut |event| intake.take(event));
        let batch = self.pipeline.intake.seal(shared.now_ms());
        self.pipeline.send(Work::Batch(Box::new(batch))).expect("room for a second batch");
    }

    /// A round of questions, answered at once, and everything that follows from it.
    pub fn observe(&mut self, shared: &Shared) -> Result<(), Failure> {
        self.observe_or_halt(shared).map_err(failed)
    }

    pub fn observe_or_halt(&mut self, shared: &Shared) -> Result<(), Halt> {
        {
            let mut world = shared.world();
            let observation = world.ask();
            world.deliveries.push_back(Delivery::Observation(observation));
        }
        self.settle_or_halt(shared)
    }

    /// The process is killed.
    pub fn kill(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let writer = self.writer.take();
        drop(self.pipeline);
        if let Some(writer) = writer {
            writer.join();
        }
    }

    /// Runs to its end, as the process does; how long it took, too.
    pub fn run(mut self) -> (Result<Ended, Failure>, Duration) {
        let started = Instant::now();
        let outcome = self.pipeline.run();
        if let Some(writer) = self.writer.take() {
            writer.join();
        }
        (outcome, started.elapsed())
    }
}

/// For tests in which nothing else can end the loop.
fn failed(halt: Halt) -> Failure {
    match halt {
        Halt::Failed(failure) => failure,
        Halt::Ended(ended) => panic!("ended without a failure: {ended:?}"),
    }
}

pub fn catalog(config: &Config) -> Arc<Catalog> {
    Arc::clone(Plan::compile(config).catalog())
}

pub fn sqlite_settings(config: &Config) -> Settings {
    Settings {
        replica_name: "test".into(),
        heartbeat_limit: heartbeat_limit(config.freshness.interval),
        dead_letter_bytes_max: 1_000,
        loss: LossLimit::default(),
        min_free_bytes: 0,
        wal_max_bytes: u64::MAX,
    }
}

pub fn memory_store(config: &Config) -> MemoryStore {
    MemoryStore::new(catalog(config), heartbeat_limit(config.freshness.interval))
}
