//! Random schedules with a generation that is built beside the live one: both read the same log,
//! each at its own pace; rebuilds begin, are given up, are killed with the process and resumed, and
//! switch. Readers must never see anything go back.

use std::collections::BTreeMap;
use std::sync::Arc;

use tempfile::TempDir;

use super::simulation::{
    KEYS, MAPPING, ORDERS, Random, USERS, model, or_say_how, positions, redis_settings, seeds, stored_rows,
};
use super::support::{Daemon, Delivery, START_MS, Shared, at, catalog, config, sqlite_settings};
use crate::config::{Config, RowEncoding};
use crate::domain::catalog::Catalog;
use crate::domain::checkpoint::TopicPartition;
use crate::pipeline::{Ended, Halt};
use crate::store::contract::asked_for;
use crate::store::{
    Reader, RedisReader, RedisReplica, RedisSettings, Replica, Settings, SqliteReader, SqliteReplica, Store,
    redis_server,
};

const STEPS: u64 = 120;

/// A pipeline with the client it reads through.
struct Running {
    daemon: Daemon,
    client: Shared,
}

/// Where a replica is kept.
trait Ground {
    fn open(&self) -> Box<dyn Replica>;
    fn reader(&self, catalog: Arc<Catalog>) -> Box<dyn Reader>;
}

struct File {
    directory: TempDir,
    settings: Settings,
}

impl Ground for File {
    fn open(&self) -> Box<dyn Replica> {
        let path = self.directory.path().join("replica.db");
        Box::new(SqliteReplica::open(&path, self.settings.clone()).unwrap())
    }

    fn reader(&self, catalog: Arc<Catalog>) -> Box<dyn Reader> {
        Box::new(SqliteReader::new(&self.directory.path().join("replica.db"), catalog))
    }
}

struct Server {
    settings: RedisSettings,
    _server: redis_server::Server,
}

impl Ground for Server {
    fn open(&self) -> Box<dyn Replica> {
        Box::new(RedisReplica::open(&self.settings).unwrap())
    }

    fn reader(&self, catalog: Arc<Catalog>) -> Box<dyn Reader> {
        Box::new(RedisReader::new(&self.settings, catalog))
    }
}

struct Run {
    random: Random,
    config: Config,
    catalog: Arc<Catalog>,
    ground: Box<dyn Ground>,
    replica: Option<Box<dyn Replica>>,
    /// The brokers.
    shared: Shared,
    live: Option<Running>,
    next: Option<Running>,
    seen: Seen,
    switches: u64,
    history: Vec<String>,
}

/// What readers have seen so far.
#[derive(Default)]
struct Seen {
    generation: u32,
    positions: BTreeMap<TopicPartition, i64>,
    fresh_as_of_ms: BTreeMap<String, i64>,
    complete: bool,
}

impl Run {
    fn run(&self, store: Box<dyn Store>) -> Running {
        let client = self.shared.another_client();
        Running { daemon: Daemon::start(&self.config, &client, store), client }
    }

    /// A process starts on whatever is there.
    fn start(&mut self) {
        let replica = self.ground.open();
        let survey = replica.survey(&self.catalog).unwrap();
        self.live = Some(self.run(replica.open_live(Arc::clone(&self.catalog)).unwrap()));
        if let Some(next) = survey.next {
            assert!(next.same);
            self.next = Some(self.run(replica.resume(Arc::clone(&self.catalog)).unwrap()));
        }
        self.replica = Some(replica);
    }

    fn kill(&mut self) {
        for running in [self.next.take(), self.live.take()].into_iter().flatten() {
            let mut running = running;
            if self.random.below(2) == 0 {
                // With something in hand, which the store may have taken or not.
                running.client.world().deliver_all();
                let _ = running.daemon.pipeline.round();
            }
            running.daemon.kill();
        }
        self.replica = None;
    }

    fn begin(&mut self) {
        let Some(replica) = &self.replica else { return };
        // Only whole copies are rebuilt.
        if self.next.is_some() || !self.seen.complete {
            return;
        }
        let store = replica.begin(Arc::clone(&self.catalog), &asked_for()).unwrap().unwrap();
        self.next = Some(self.run(store));
        // The ends that it has to reach are known early, and the live one goes on behind them.
        self.observe(false);
    }

    fn observe(&mut self, live: bool) {
        let Some(running) = (if live { &mut self.live } else { &mut self.next }) else { return };
        let mut world = running.client.world();
        let asked = world.ask();
        world.deliveries.push_back(Delivery::Observation(asked));
        drop(world);
        self.settle(live);
    }

    fn give_up(&mut self) {
        if let (Some(next), Some(replica)) = (self.next.take(), &self.replica) {
            replica.abandon().unwrap();
            next.daemon.kill();
        }
    }

    fn append(&mut self) {
        let all: Vec<TopicPartition> = self.shared.world().logs.keys().copied().collect();
        let at = all[self.random.below(all.len() as u64) as usize];
        let id = self.random.below(KEYS).to_string();
        let n = self.random.below(1_000);
        let value = match (at.topic, self.random.below(6)) {
            (ORDERS, 0) => Some("no json".to_owned()),
            (ORDERS, 1) => Some(format!(r#"{{"type":"Gone","id":{id},"v":{}}}"#, self.random.below(40))),
            (ORDERS, _) => {
                Some(format!(r#"{{"type":"Set","id":{id},"n":{n},"v":{}}}"#, self.random.below(40)))
            }
            (_, 0) => None,
            (_, 1) => Some(format!(r#"{{"id":{id},"n":{n},"name":null}}"#)),
            (_, _) => Some(format!(r#"{{"id":{id},"n":{n},"name":"n{n}"}}"#)),
        };
        self.shared.world().append(at, &id, value.as_deref());
    }

    /// One of the two takes a little, or asks where the log ends.
    fn move_one(&mut self, live: bool) {
        let all: Vec<TopicPartition> = self.shared.world().logs.keys().copied().collect();
        let at = all[self.random.below(all.len() as u64) as usize];
        let (what, count) = (self.random.below(8), 1 + self.random.below(8) as usize);
        let Some(running) = (if live { &mut self.live } else { &mut self.next }) else { return };
        running.client.catch_up_with(&self.shared);
        {
            let mut world = running.client.world();
            match what {
                0 => world.deliveries.push_back(Delivery::Again(at, count)),
                1 => world.deliveries.push_back(Delivery::Unreachable),
                2 | 3 => {
                    let asked = world.ask();
                    world.deliveries.push_back(Delivery::Observation(asked));
                }
                4 => world.deliver_all(),
                _ => {
                    world.deliveries.push_back(Delivery::Records(at, count));
                    world.deliveries.push_back(Delivery::End(at));
                }
            }
        }
        self.settle(live);
    }

    fn settle(&mut self, live: bool) {
        let Some(running) = (if live { &mut self.live } else { &mut self.next }) else { return };
        match running.daemon.settle_or_halt(&running.client) {
            Ok(()) => {}
            Err(Halt::Ended(Ended::Retired)) => assert!(live && self.next.is_some(), "retired by nobody"),
            Err(other) => panic!("{other:?}"),
        }
        if self.next.as_ref().is_some_and(|next| next.daemon.progress.is_gate_open()) {
            let old = std::mem::replace(&mut self.live, self.next.take());
            old.unwrap().daemon.kill();
            self.switches += 1;
        }
    }

    fn step(&mut self) {
        self.shared.advance_clock(1);
        let choice = self.random.below(24);
        self.history.push(format!("{choice} at +{}", self.shared.now_ms() - START_MS));
        match choice {
            0..=4 => (0..=self.random.below(5)).for_each(|_| self.append()),
            5..=10 => self.move_one(true),
            11..=17 => self.move_one(false),
            18 | 19 => self.begin(),
            20 if self.random.below(3) == 0 => self.give_up(),
            21 => self.shared.advance_clock(self.random.below(3_000) as i64),
            22 => {
                let topic = self.random.below(2) as usize;
                let mut world = self.shared.world();
                let known = world.logs.keys().filter(|at| at.topic == topic).count() as i32;
                if known < 4 {
                    world.add_partition(at(topic, known));
                }
            }
            23 => {
                self.kill();
                self.check();
                self.start();
            }
            _ => {}
        }
        self.check();
    }

    fn check(&mut self) {
        let reader = self.ground.reader(Arc::clone(&self.catalog));
        let status = reader.status(self.shared.now_ms()).unwrap();
        let now = positions(&status);
        let world = self.shared.world();
        assert_eq!(stored_rows(&*reader), model(&world, &now), "rows at {now:?}");
        let generation = status.tables[0].generation;
        assert!(generation >= self.seen.generation, "generation {generation} after {}", self.seen.generation);
        for (at, before) in &self.seen.positions {
            let after = now.get(at).copied().unwrap_or(0);
            assert!(after >= *before, "{at:?} went back from {before} to {after}");
        }
        for (table, topic) in [(0, ORDERS), (1, USERS), (2, USERS)] {
            let table = &status.tables[table];
            let Some(fresh) = table.fresh_as_of_ms else { continue };
            let before = self.seen.fresh_as_of_ms.insert(table.table_name.clone(), fresh).unwrap_or(0);
            assert!(fresh >= before, "{} was fresh as of {before}, now {fresh}", table.table_name);
            for (at, log) in world.logs.iter().filter(|(at, _)| at.topic == topic) {
                let position = now.get(at).copied().unwrap_or(0);
                let missing =
                    log.records.iter().find(|logged| logged.offset >= position && logged.at_ms < fresh);
                assert!(missing.is_none(), "fresh as of {fresh}, but {at:?} lacks {missing:?}");
            }
        }
        assert!(status.complete || !self.seen.complete, "a whole copy was given up");
        self.seen.generation = generation;
        self.seen.positions = now;
        self.seen.complete = status.complete;
    }

    /// Everything is delivered to both, until nothing is being built any more.
    fn finish(&mut self) {
        for _ in 0..6 {
            for live in [true, false] {
                let running = if live { &mut self.live } else { &mut self.next };
                let Some(running) = running else { continue };
                running.client.catch_up_with(&self.shared);
                {
                    let mut world = running.client.world();
                    let asked = world.ask();
                    world.deliveries.push_back(Delivery::Observation(asked));
                    world.deliver_all();
                }
                self.settle(live);
                self.check();
            }
            self.shared.advance_clock(1);
        }
        assert!(self.next.is_none(), "a rebuild that has everything does not switch");
        let ends: BTreeMap<TopicPartition, i64> =
            self.shared.world().logs.iter().map(|(at, log)| (*at, log.end)).collect();
        assert_eq!(self.seen.positions, ends);
        self.kill();
    }
}

fn let_readers_see_nothing_go_back(count: u64, ground: impl Fn(u64, &Config) -> Box<dyn Ground>) {
    let mut switches = 0;
    for seed in seeds(count) {
        let config = config(MAPPING);
        let shared = Shared::new();
        for place in [at(ORDERS, 0), at(USERS, 0), at(USERS, 1)] {
            shared.world().add_partition(place);
        }
        let mut run = Run {
            random: Random(seed),
            catalog: catalog(&config),
            ground: ground(seed, &config),
            config,
            replica: None,
            shared,
            live: None,
            next: None,
            seen: Seen::default(),
            switches: 0,
            history: Vec::new(),
        };
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            run.start();
            run.observe(true);
            for _ in 0..STEPS {
                run.step();
            }
            run.finish();
        }));
        or_say_how(outcome, seed, &run.history);
        switches += run.switches;
    }
    assert!(switches > 0 || std::env::var_os("SEED").is_some(), "nothing was ever switched");
    println!("{switches} switches");
}

#[test]
fn any_schedule_of_rebuilds_lets_readers_see_nothing_go_back() {
    let_readers_see_nothing_go_back(16, |_, config| {
        let settings = sqlite_settings(config);
        Box::new(File { directory: TempDir::new().unwrap(), settings })
    });
}

#[test]
fn any_schedule_of_rebuilds_in_redis_lets_readers_see_nothing_go_back() {
    if !redis_server::available() {
        return;
    }
    let_readers_see_nothing_go_back(16, |seed, config| {
        let server = redis_server::Server::start();
        let encoding = if seed % 4 == 1 { RowEncoding::Json } else { RowEncoding::Hash };
        let mut settings = redis_settings(config, &server, encoding);
        settings.redis.dedicated = seed % 2 == 0;
        Box::new(Server { settings, _server: server })
    });
}
