//! Random schedules: records over partitions, repeated and late deliveries, open transactions,
//! answers that arrive late, unreachable brokers, new partitions, refused batches, lost replies and
//! kills. After every step the replica must be what the events below its positions say, and no
//! fresher than the truth.

mod disasters;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tempfile::TempDir;

use super::support::{
    Daemon, Delivery, Logged, START_MS, Shared, World, at, catalog, config, memory_store, sqlite_settings,
};
use crate::config::{Config, RowEncoding};
use crate::domain::catalog::Catalog;
use crate::domain::checkpoint::TopicPartition;
use crate::domain::retry::RetryReason;
use crate::domain::value::Value;
use crate::store::{
    Fault, MemoryStore, Reader, RedisReader, RedisSettings, RedisStore, RowLookup, SqliteReader, SqliteStore,
    Status, Store, heartbeat_limit, redis_server,
};

pub(super) const MAPPING: &str = "
kafka: { brokers: 'localhost:9092' }
replica: { name: test, sqlite: { path: /nowhere/replica.db } }
dead_letters: { max: 100000 }
topics:
  orders: { format: json, event_type: .type, version: .v }
  users: { format: json }
tables:
  # Ordered by version.
  orders:
    topic: orders
    key: id
    columns: { id: integer, n: integer }
    events:
      Set: { upsert: { id: .id, n: .n } }
      Gone: { delete: { id: .id } }
  # Both ordered by position; the second refuses some of what the first takes.
  users: { topic: users, key: id, columns: { id: integer, n: integer } }
  names: { topic: users, key: id, columns: { id: integer, name: text } }
";
pub(super) const ORDERS: usize = 0;
pub(super) const USERS: usize = 1;
pub(super) const KEYS: u64 = 6;
const STEPS: u64 = 60;

/// SplitMix64 (Steele et al., 2014): small, and the same everywhere.
pub(super) struct Random(pub u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

/// A replica that survives its daemon.
trait Disk {
    type Opened: Store + 'static;
    fn open(&self) -> Self::Opened;
    fn reader(&self) -> Box<dyn Reader>;
    /// Whether it takes rows that were put aside.
    const TAKES_SHELVES: bool = true;

    /// Something goes wrong with a coming batch, where that can be planned.
    fn plan(&self, _: Fault) {}
}

impl Disk for MemoryStore {
    type Opened = MemoryStore;

    fn open(&self) -> MemoryStore {
        self.clone()
    }

    fn reader(&self) -> Box<dyn Reader> {
        Box::new(MemoryStore::reader(self))
    }

    fn plan(&self, fault: Fault) {
        MemoryStore::plan(self, fault);
    }
}

struct SqliteDisk {
    directory: TempDir,
    catalog: Arc<Catalog>,
    config: Config,
}

impl Disk for SqliteDisk {
    type Opened = SqliteStore;

    fn open(&self) -> SqliteStore {
        let settings = sqlite_settings(&self.config);
        let path = self.directory.path().join("replica.db");
        SqliteStore::open(&path, Arc::clone(&self.catalog), settings).expect("a replica")
    }

    fn reader(&self) -> Box<dyn Reader> {
        let path = self.directory.path().join("replica.db");
        Box::new(SqliteReader::new(&path, Arc::clone(&self.catalog)))
    }
}

/// Under a prefix of its own in a server that others use, too.
struct RedisDisk {
    settings: RedisSettings,
    catalog: Arc<Catalog>,
}

impl RedisDisk {
    fn new(config: &Config, encoding: RowEncoding) -> RedisDisk {
        RedisDisk {
            settings: redis_settings(config, redis_server::shared(), encoding),
            catalog: catalog(config),
        }
    }
}

pub(super) fn redis_settings(
    config: &Config,
    server: &redis_server::Server,
    encoding: RowEncoding,
) -> RedisSettings {
    RedisSettings {
        replica_name: "test".into(),
        heartbeat_limit: heartbeat_limit(config.freshness.interval),
        ..server.settings(encoding)
    }
}

impl Disk for RedisDisk {
    type Opened = RedisStore;

    const TAKES_SHELVES: bool = false;

    fn open(&self) -> RedisStore {
        RedisStore::open(&self.settings, Arc::clone(&self.catalog)).expect("a replica")
    }

    fn reader(&self) -> Box<dyn Reader> {
        Box::new(RedisReader::new(&self.settings, Arc::clone(&self.catalog)))
    }
}

/// What is expected of the rows, from the events alone.
pub(super) type Rows = BTreeMap<(usize, i64), Value>;

/// Version, partition, offset.
type Order = (i64, i32, i64);

/// An event as the model reads it.
struct Event {
    version: Order,
    id: i64,
    /// By table; `None` deletes.
    values: Vec<(usize, Option<Value>)>,
}

/// The newest event of each key below the positions; every event is looked at anew.
pub(super) fn model(world: &World, positions: &BTreeMap<TopicPartition, i64>) -> Rows {
    let mut newest: BTreeMap<(usize, i64), (Order, Option<Value>)> = BTreeMap::new();
    let past = world.past.iter().map(|(at, logged)| (*at, logged));
    let present = world.logs.iter().flat_map(|(at, log)| {
        let position = positions.get(at).copied().unwrap_or(0);
        let below = log.records.iter().filter(move |logged| logged.offset < position);
        below.map(|logged| (*at, logged))
    });
    for (at, logged) in past.chain(present) {
        let Some(event) = read(at, logged) else { continue };
        for (table, value) in event.values {
            let known = newest.entry((table, event.id)).or_insert((event.version, value.clone()));
            // The same coordinates in two logs: what was first stays, but a delete wins.
            if event.version > known.0 || event.version == known.0 && value.is_none() {
                *known = (event.version, value);
            }
        }
    }
    newest.into_iter().filter_map(|(key, (_, value))| Some((key, value?))).collect()
}

/// `None`: an event that some table of its topic refuses, and so no table takes.
fn read(at: TopicPartition, logged: &Logged) -> Option<Event> {
    let json: serde_json::Value = match &logged.value {
        Some(text) => serde_json::from_str(text).ok()?,
        None => serde_json::Value::Null,
    };
    let id = logged.key.parse().ok()?;
    if at.topic == ORDERS {
        let value = (json["type"] == "Set").then(|| Value::Integer(json["n"].as_i64().unwrap()));
        let version = (json["v"].as_i64()?, at.partition, logged.offset);
        return Some(Event { version, id, values: vec![(0, value)] });
    }
    let version = (logged.version_ms, at.partition, logged.offset);
    let values = match &logged.value {
        None => vec![(1, None), (2, None)],
        Some(_) => {
            let name = json["name"].as_str()?;
            vec![(1, json["n"].as_i64().map(Value::Integer)), (2, Some(Value::Text(name.into())))]
        }
    };
    Some(Event { version, id, values })
}

pub(super) fn stored_rows(reader: &dyn Reader) -> Rows {
    let mut rows = Rows::new();
    for table in 0..3 {
        for id in 0..KEYS as i64 {
            if let RowLookup::Visible { values, .. } = reader.row(table, &[Value::Integer(id)]).unwrap() {
                rows.insert((table, id), values[1].clone());
            }
        }
    }
    rows
}

pub(super) fn positions(status: &Status) -> BTreeMap<TopicPartition, i64> {
    let topic = |name: &str| if name == "orders" { ORDERS } else { USERS };
    let place = |position: &crate::store::PositionStatus| at(topic(&position.topic), position.partition);
    let live = status.tables[0].generation;
    let of_live = status.positions.iter().filter(|position| position.generation == live);
    of_live.map(|position| (place(position), position.next_offset)).collect()
}

struct Run<'d, D: Disk> {
    random: Random,
    config: Config,
    disk: &'d D,
    shared: Shared,
    daemon: Option<Daemon>,
    /// Answers on their way.
    late: Vec<Delivery>,
    /// Ends of what could be read when this process started.
    starts: BTreeMap<TopicPartition, i64>,
    was_complete: bool,
    /// Whether the log loses records, topics and its end, and the clock goes back.
    disasters: bool,
    history: Vec<String>,
}

impl<D: Disk> Run<'_, D> {
    fn partition(&mut self) -> TopicPartition {
        let all: Vec<TopicPartition> = self.shared.world().logs.keys().copied().collect();
        all[self.random.below(all.len() as u64) as usize]
    }

    fn start(&mut self) {
        self.late.clear();
        let aside = D::TAKES_SHELVES && self.random.below(2) == 0;
        self.shared.world().far_behind = aside.then_some(self.random.below(6) as i64);
        let mut store = self.disk.open();
        // Old delete marks go, as they do while nothing else happens.
        store.maintain(self.shared.now_ms()).unwrap();
        let world = self.shared.world();
        self.starts = world.logs.iter().map(|(at, log)| (*at, log.stable)).collect();
        drop(world);
        self.daemon = Some(Daemon::start(&self.config, &self.shared, store));
    }

    fn append(&mut self, open: bool) {
        let at = self.partition();
        let id = self.random.below(KEYS).to_string();
        let n = self.random.below(1_000);
        let value = if at.topic == ORDERS {
            match self.random.below(8) {
                0 => Some("no json".to_owned()),
                1 => Some(format!(r#"{{"type":"Set","id":{id},"n":{n}}}"#)),
                2 | 3 => Some(format!(r#"{{"type":"Gone","id":{id},"v":{}}}"#, self.random.below(40))),
                _ => Some(format!(r#"{{"type":"Set","id":{id},"n":{n},"v":{}}}"#, self.random.below(40))),
            }
        } else {
            match self.random.below(6) {
                0 => None,
                // The first table takes it, the second does not: neither may.
                1 => Some(format!(r#"{{"id":{id},"n":{n},"name":null}}"#)),
                _ => Some(format!(r#"{{"id":{id},"n":{n},"name":"n{n}"}}"#)),
            }
        };
        let mut world = self.shared.world();
        match open {
            true => world.append_open(at, &id, value.as_deref()),
            false => world.append(at, &id, value.as_deref()),
        };
    }

    fn step(&mut self) {
        self.shared.advance_clock(1);
        let choice = self.random.below(if self.disasters { 28 } else { 24 });
        self.history.push(format!("{choice} at +{}", self.shared.now_ms() - START_MS));
        match choice {
            0..=5 => (0..=self.random.below(5)).for_each(|_| self.append(false)),
            6 => self.append(true),
            7 => {
                let (at, what) = (self.partition(), self.random.below(3));
                let mut world = self.shared.world();
                match what {
                    0 => world.commit(at),
                    1 => world.control(at),
                    // Perhaps while a transaction is open, whose end is the first of the new epoch.
                    _ => {
                        world.elect(at);
                        if self.random.below(2) == 0 {
                            world.control(at);
                        }
                    }
                }
            }
            8..=11 => {
                let (at, count) = (self.partition(), 1 + self.random.below(6) as usize);
                self.deliver(Delivery::Records(at, count));
            }
            12 => {
                let (at, count) = (self.partition(), 1 + self.random.below(6) as usize);
                self.deliver(Delivery::Again(at, count));
            }
            13 => {
                let at = self.partition();
                self.deliver(Delivery::End(at));
            }
            14..=16 => {
                let asked = Delivery::Observation(self.shared.world().ask());
                self.late.push(asked);
            }
            17 | 18 if !self.late.is_empty() => {
                let answer = self.late.remove(0);
                self.deliver(answer);
            }
            19 => self.deliver(Delivery::Unreachable),
            20 => self.shared.advance_clock(self.random.below(90_000) as i64),
            21 => {
                let topic = self.random.below(2) as usize;
                // One that is added before a new topic is noticed counts as part of that.
                let met = !self.disasters || self.met(&self.status(), topic).is_some();
                let mut world = self.shared.world();
                let known = world.logs.keys().filter(|at| at.topic == topic).count() as i32;
                if known < 4 && met {
                    world.add_partition(at(topic, known));
                }
            }
            22 if self.random.below(3) == 0 => self.disk.plan(match self.random.below(2) {
                0 => Fault::Refuse(RetryReason::Busy),
                _ => Fault::LoseReply,
            }),
            23 if self.random.below(2) == 0 => {
                if let Some(daemon) = self.daemon.take() {
                    // Perhaps with something in hand, which the store may have taken or not.
                    let mut daemon = daemon;
                    self.shared.world().deliver_all();
                    let _ = daemon.pipeline.round();
                    daemon.kill();
                }
                self.start();
            }
            24..=27 => self.disaster(choice),
            _ => {}
        }
        // Now and then several things are delivered at once.
        if self.random.below(3) > 0 {
            self.settle();
        }
        self.check();
    }

    fn deliver(&mut self, delivery: Delivery) {
        self.shared.world().deliveries.push_back(delivery);
    }

    fn settle(&mut self) {
        if let Some(daemon) = &mut self.daemon {
            daemon.settle(&self.shared).unwrap();
        }
    }

    fn check(&mut self) {
        let reader = self.disk.reader();
        let status = reader.status(self.shared.now_ms()).unwrap();
        let positions = positions(&status);
        let world = self.shared.world();
        let positions = disasters::in_the_log_of_now(&status, &world, positions);
        assert_eq!(stored_rows(&*reader), model(&world, &positions), "rows at {positions:?}");
        let tables = [(ORDERS, 0), (USERS, 1), (USERS, 2)];
        for (topic, table) in tables {
            let Some(fresh) = status.tables[table].fresh_as_of_ms else { continue };
            for (at, log) in world.logs.iter().filter(|(at, _)| at.topic == topic) {
                let position = positions.get(at).copied().unwrap_or(0);
                let missing =
                    log.records.iter().find(|logged| logged.offset >= position && logged.at_ms < fresh);
                assert!(missing.is_none(), "fresh as of {fresh}, but {at:?} lacks {missing:?}");
            }
        }
        let gate_open = self.daemon.as_ref().is_some_and(|daemon| daemon.progress.is_gate_open());
        assert!(!gate_open || status.complete, "open before the copy is whole");
        if status.complete && !self.was_complete {
            for (at, start) in &self.starts {
                assert!(positions.get(at).copied().unwrap_or(0) >= *start, "half a copy: {at:?} of {start}");
            }
        }
        self.was_complete = status.complete;
        let missing = status.tables.iter().any(|table| table.missing_events);
        assert!(self.disasters || !missing, "a gap in a whole log");
    }

    /// Whatever happened: once everything is delivered, everything is there, and known to be.
    fn finish(&mut self) {
        {
            let mut world = self.shared.world();
            let all: Vec<TopicPartition> = world.logs.keys().copied().collect();
            all.into_iter().for_each(|at| world.commit(at));
        }
        // What the source left out by rewinding comes again, and new partitions are met. A log that ends
        // too early counts as truncated after some rounds.
        for _ in 0..if self.disasters { 10 } else { 3 } {
            self.shared.advance_clock(1_000);
            let asked = Delivery::Observation(self.shared.world().ask());
            self.deliver(asked);
            self.settle();
            self.shared.world().deliver_all();
            self.settle();
        }
        self.check();
        let reader = self.disk.reader();
        let status = reader.status(self.shared.now_ms()).unwrap();
        let world = self.shared.world();
        let ends: BTreeMap<TopicPartition, i64> = world.logs.iter().map(|(at, log)| (*at, log.end)).collect();
        assert_eq!(positions(&status), ends);
        assert!(status.complete);
        assert_eq!(status.fresh_as_of_ms, Some(world.now_ms));
        assert_eq!(status.lag_records, Some(0));
        let past = world.past.iter().map(|(at, logged)| (*at, logged));
        let present =
            world.logs.iter().flat_map(|(at, log)| log.records.iter().map(move |logged| (*at, logged)));
        let refused = past.chain(present).filter(|(at, logged)| read(*at, logged).is_none());
        // One that comes to the coordinates of an earlier one is kept beside it only if it concerns
        // another table.
        let refused: BTreeSet<_> = refused.map(|(at, logged)| (at, logged.offset)).collect();
        let refused = refused.len() as u64;
        assert!(status.dead_letters == refused || self.disasters && status.dead_letters > refused);
        drop(world);
        if let Some(daemon) = self.daemon.take() {
            assert!(daemon.progress.is_gate_open());
            daemon.kill();
        }
    }
}

fn simulate<D: Disk>(seed: u64, config: Config, disk: &D, disasters: bool) {
    let shared = Shared::new();
    shared.world().add_partition(at(ORDERS, 0));
    shared.world().add_partition(at(USERS, 0));
    shared.world().add_partition(at(USERS, 1));
    let mut run = Run {
        random: Random(seed),
        config,
        disk,
        shared,
        daemon: None,
        late: Vec::new(),
        starts: BTreeMap::new(),
        was_complete: false,
        disasters,
        history: Vec::new(),
    };
    run.start();
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        for _ in 0..STEPS {
            run.step();
        }
        run.finish();
    }));
    or_say_how(outcome, seed, &run.history);
}

/// Lets a failure go on, with what repeats it.
pub(super) fn or_say_how(outcome: std::thread::Result<()>, seed: u64, history: &impl std::fmt::Debug) {
    if let Err(panic) = outcome {
        eprintln!("SEED={seed} fails after these steps: {history:?}");
        std::panic::resume_unwind(panic);
    }
}

/// `SEED=n` runs that one alone, `READSIDE_SEEDS=a-b` those.
pub(super) fn seeds(count: u64) -> Vec<u64> {
    let number = |text: &str| text.trim().parse::<u64>().expect("a seed");
    if let Ok(seed) = std::env::var("SEED") {
        return vec![number(&seed)];
    }
    match std::env::var("READSIDE_SEEDS") {
        Ok(range) => {
            let (from, to) = range.split_once('-').expect("a range of seeds");
            (number(from)..=number(to)).collect()
        }
        Err(_) => (0..count).collect(),
    }
}

#[test]
fn any_schedule_leaves_the_rows_of_its_positions_and_no_lie_about_freshness() {
    for seed in seeds(1_000) {
        let config = config(MAPPING);
        let store = memory_store(&config);
        simulate(seed, config, &store, false);
    }
}

#[test]
fn any_schedule_leaves_the_same_in_sqlite() {
    for seed in seeds(30) {
        let config = config(MAPPING);
        let directory = TempDir::new().unwrap();
        let disk = SqliteDisk { directory, catalog: catalog(&config), config: config.clone() };
        simulate(seed, config, &disk, false);
    }
}

#[test]
fn any_schedule_leaves_the_same_in_redis() {
    if !redis_server::available() {
        return;
    }
    for seed in seeds(20) {
        let config = config(MAPPING);
        let encoding = if seed % 2 == 0 { RowEncoding::Hash } else { RowEncoding::Json };
        let disk = RedisDisk::new(&config, encoding);
        simulate(seed, config, &disk, false);
    }
}
