//! The supervisor between a broker in this process and a file, with a replica that does what a test wants.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::AtomicU32;
use std::sync::mpsc::SyncSender;

use tempfile::TempDir;

use super::*;
use crate::domain::catalog::Catalog;
use crate::domain::retry::RetryReason;
use crate::domain::value::Value;
use crate::source::kafka::mock::{MockBroker, Outgoing};
use crate::store::around::Around;
use crate::store::{Completion, RowLookup, StoreError, Survey, redis_server};
use crate::testing::PATIENCE;

/// What a generation does instead of becoming whole, or before it.
enum Whole {
    Refused,
    /// Tells that it is about to be, and waits until the other end is dropped.
    Held(SyncSender<()>, Receiver<()>),
}

/// What the replica does, and what was asked of it.
#[derive(Default)]
struct Script {
    /// Of the generations that are begun, in this order.
    whole: Mutex<VecDeque<Whole>>,
    lacks_room: AtomicBool,
    /// Attempts that are to fail.
    abandon_fails: AtomicU32,
    freeze_fails: AtomicU32,
    abandons: AtomicU32,
    freezes: AtomicU32,
    begun: Mutex<Vec<Rebuild>>,
}

struct Scripted {
    replica: Box<dyn Replica>,
    script: Arc<Script>,
}

fn count(attempts: &AtomicU32, fails: &AtomicU32) -> Result<(), StoreError> {
    attempts.fetch_add(1, Ordering::SeqCst);
    let fails = fails.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
    match fails {
        Ok(_) => Err(StoreError::Retry { reason: RetryReason::Busy, message: "as planned".into() }),
        Err(_) => Ok(()),
    }
}

impl Replica for Scripted {
    fn survey(&self, catalog: &Catalog) -> Result<Survey, StoreError> {
        self.replica.survey(catalog)
    }

    fn live_catalog(&self) -> Result<Option<Catalog>, StoreError> {
        self.replica.live_catalog()
    }

    fn adapt(&self, catalog: &Catalog) -> Result<bool, StoreError> {
        self.replica.adapt(catalog)
    }

    fn open_live(&self, catalog: Arc<Catalog>) -> Result<Box<dyn Store>, StoreError> {
        self.replica.open_live(catalog)
    }

    fn start_over(&self, catalog: Arc<Catalog>) -> Result<Box<dyn Store>, StoreError> {
        self.replica.start_over(catalog)
    }

    fn begin(
        &self,
        catalog: Arc<Catalog>,
        rebuild: &Rebuild,
    ) -> Result<Result<Box<dyn Store>, String>, StoreError> {
        self.script.begun.lock().unwrap().push(rebuild.clone());
        let Ok(store) = self.replica.begin(catalog, rebuild)? else { panic!("there is room") };
        let mut whole = self.script.whole.lock().unwrap().pop_front();
        let store = Around::new(store).before_complete(move || match whole.take()? {
            Whole::Refused => Some(Completion::Refused { reason: "as planned".into() }),
            Whole::Held(tell, held) => {
                tell.send(()).unwrap();
                // Nothing is ever sent.
                let _ = held.recv();
                None
            }
        });
        Ok(Ok(Box::new(store)))
    }

    fn resume(&self, catalog: Arc<Catalog>) -> Result<Box<dyn Store>, StoreError> {
        self.replica.resume(catalog)
    }

    fn abandon(&self) -> Result<(), StoreError> {
        count(&self.script.abandons, &self.script.abandon_fails)?;
        self.replica.abandon()
    }

    fn freeze(&self, stopped: Option<&str>) -> Result<(), StoreError> {
        count(&self.script.freezes, &self.script.freeze_fails)?;
        self.replica.freeze(stopped)
    }

    fn lacks_room(&self) -> Result<Option<String>, StoreError> {
        Ok(self.script.lacks_room.load(Ordering::SeqCst).then(|| "the volume is full".to_owned()))
    }

    fn keep(&self) -> Result<(), StoreError> {
        self.replica.keep()
    }

    fn let_go(&self) {
        self.replica.let_go();
    }
}

struct Stage {
    script: Arc<Script>,
    supervisor: Option<Supervisor>,
    sent: i64,
    directory: TempDir,
    /// Instead of a file.
    redis: Option<redis_server::Server>,
    /// Behind its clients.
    broker: MockBroker,
}

impl Stage {
    /// With a copy that is whole.
    fn new() -> Stage {
        Stage::with(None)
    }

    fn with(redis: Option<redis_server::Server>) -> Stage {
        let mut stage = Stage {
            script: Arc::default(),
            supervisor: None,
            sent: 0,
            directory: TempDir::new().unwrap(),
            redis,
            broker: MockBroker::start(&[("users", 1)]).unwrap(),
        };
        stage.start("n: integer");
        stage.is_applied_to();
        stage.until("the copy is whole", |supervisor| supervisor.live.progress().is_gate_open());
        stage
    }

    fn start(&mut self, columns: &str) {
        let brokers = self.broker.bootstrap();
        let target = match &self.redis {
            None => format!("sqlite: {{ path: {} }}", self.directory.path().join("replica.db").display()),
            Some(server) => format!("redis: {{ url: 'unix:{}' }}", server.socket().display()),
        };
        let text = format!(
            "kafka: {{ brokers: '{brokers}' }}\n\
             freshness: {{ interval: 100ms }}\n\
             replica: {{ name: test, {target} }}\n\
             rebuild_when_mapping_changes: always\n\
             topics:\n  users: {{ format: json }}\n\
             tables:\n  users: {{ topic: users, key: id, columns: {{ id: integer, {columns} }} }}\n"
        );
        let config = match crate::config::parse(&text, "test.yaml", std::iter::empty()) {
            Ok(loaded) => loaded.config,
            Err(errors) => panic!("{errors}"),
        };
        let plan = Plan::compile(&config);
        let mut found = Found::open(&config, plan.catalog(), &|| true).unwrap().unwrap();
        found.replica = Box::new(Scripted { replica: found.replica, script: Arc::clone(&self.script) });
        let setting =
            Setting { config, clock: crate::app::clock(), stop: Arc::default(), desk: Arc::default() };
        let (supervisor, _) = Supervisor::start(setting, plan, found).unwrap();
        self.supervisor = Some(supervisor);
    }

    fn supervisor(&mut self) -> &mut Supervisor {
        self.supervisor.as_mut().expect("it runs")
    }

    /// Of the next generation: whether it is about to become whole, and what lets it.
    fn hold(&self) -> (Receiver<()>, Sender<()>) {
        let (tell, told) = std::sync::mpsc::sync_channel(1);
        let (release, held) = channel();
        self.script.whole.lock().unwrap().push_back(Whole::Held(tell, held));
        (told, release)
    }

    fn until(&mut self, what: &str, mut is_so: impl FnMut(&Supervisor) -> bool) {
        let begun = Instant::now();
        while !is_so(self.supervisor()) {
            assert!(begun.elapsed() < PATIENCE, "not in time: {what}");
            self.supervisor().round().unwrap();
        }
    }

    /// Another record reaches what readers see.
    fn is_applied_to(&mut self) {
        self.sent += 1;
        let id = self.sent;
        let value = format!(r#"{{"id":{id},"n":1}}"#);
        let producer = self.broker.producer().unwrap();
        let (key, value) = (id.to_string(), value.as_bytes());
        producer
            .send(Outgoing { topic: "users", key: key.as_bytes(), value: Some(value), headers: &[] })
            .unwrap();
        producer.flush(PATIENCE).unwrap();
        self.until("a new row is there", |supervisor| {
            let reader = supervisor.serving.borrow().reader.clone();
            matches!(reader.row(0, &[Value::Integer(id)]), Ok(RowLookup::Visible { .. }))
        });
    }

    /// As a pipeline does that finds a gap.
    fn meet_gap(&mut self) {
        if let Live::Applying(build) = &self.supervisor().live {
            build.stop();
        }
        self.supervisor().freeze("the log was truncated".into()).unwrap();
        // The brokers have told of it.
        self.supervisor().live.progress().update(|shared| shared.connected = true);
    }

    fn end(&mut self) {
        if let Some(supervisor) = self.supervisor.take() {
            supervisor.close(Ok(())).unwrap();
        }
    }
}

/// The room is short while the store makes the generation whole, which nobody can keep it from: it was
/// served and nothing was applied to it.
#[test]
fn a_generation_that_switches_while_it_is_given_up_is_gone_on_with() {
    it_is_gone_on_with(&|| None);
}

#[test]
fn so_is_one_in_redis() {
    if redis_server::available() {
        it_is_gone_on_with(&|| Some(redis_server::Server::start()));
    }
}

fn it_is_gone_on_with(redis: &dyn Fn() -> Option<redis_server::Server>) {
    for mapping_changes in [false, true] {
        let mut stage = Stage::with(redis());
        let (whole, release) = stage.hold();
        stage.script.abandon_fails.store(1, Ordering::SeqCst);
        if mapping_changes {
            stage.end();
            stage.start("n: integer, m: { type: integer, from: .n }");
        } else {
            drop(stage.supervisor().desk.ask(false));
        }
        stage.until("it is about to be whole", |_| whole.try_recv().is_ok());
        let next = stage.supervisor().next.as_ref().unwrap();
        let (generation, progress) = (next.build.generation, Arc::clone(&next.build.progress));
        stage.script.lacks_room.store(true, Ordering::SeqCst);
        stage.until("its pipeline has ended", |_| !progress.letters.is_open());
        stage.until("it does not look as if it hung", |_| progress.loops().pipeline_ms == i64::MAX);
        drop(release);
        stage.until("it serves", |supervisor| {
            supervisor.next.is_none() && supervisor.live.generation() == generation
        });
        stage.is_applied_to();
        stage.until("all that ended is gone", |supervisor| supervisor.ending.is_empty());
        stage.end();
    }
}

/// As the message of the refusal advises. Before the log has grown past where the copy stood no copy of it
/// can get there.
#[test]
fn a_rebuild_that_a_person_asks_for_behind_a_truncated_log_may_go_back() {
    let mut stage = Stage::new();
    stage.script.whole.lock().unwrap().push_back(Whole::Refused);
    let (whole, release) = stage.hold();
    stage.meet_gap();
    let refused =
        |supervisor: &Supervisor| supervisor.desk.status().last.is_some_and(|last| last.result == "refused");
    stage.until("it is refused", refused);
    stage.until("nobody asks the brokers", |supervisor| {
        !supervisor.live.progress().read(|shared| shared.connected)
    });
    drop(stage.supervisor().desk.ask(true));
    stage.until("it is about to be whole", |_| whole.try_recv().is_ok());
    let begun = stage.script.begun.lock().unwrap().clone();
    assert!(begun[0].may_go_back && !begun[0].accepts_loss);
    assert!(begun[1].may_go_back && begun[1].accepts_loss, "{begun:?}");
    // One that is begun again is what it was.
    let progress = Arc::clone(&stage.supervisor().next.as_ref().unwrap().build.progress);
    stage.script.lacks_room.store(true, Ordering::SeqCst);
    stage.until("its pipeline has ended", |_| !progress.letters.is_open());
    let wanted = stage.supervisor().wanted.as_ref().map(|wanted| wanted.rebuild.clone());
    assert_eq!(wanted, Some(begun[1].clone()));
    drop(release);
    stage.end();
}

#[test]
fn what_the_replica_does_not_take_at_once_it_is_told_again() {
    let mut stage = Stage::new();
    stage.script.whole.lock().unwrap().push_back(Whole::Refused);
    stage.script.freeze_fails.store(3, Ordering::SeqCst);
    stage.script.abandon_fails.store(1, Ordering::SeqCst);
    stage.meet_gap();
    // That it is left as it is, and that a rebuild of it has begun; then, that a person is needed.
    stage.until("readers are told", |supervisor| {
        let reader = supervisor.serving.borrow().reader.clone();
        let status = reader.status((supervisor.clock)()).unwrap();
        status.stopped.is_some_and(|reason| reason.contains("--accept-loss"))
    });
    let script = Arc::clone(&stage.script);
    stage.until("what was built is dropped", |_| script.abandons.load(Ordering::SeqCst) >= 2);
    stage.end();
}
