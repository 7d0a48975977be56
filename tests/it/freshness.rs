//! The freshness promise on a real broker, judged by an oracle of its own: whoever writes an event
//! knows when it was acknowledged, and a reader sees, in one transaction, what the replica claims
//! and what it holds. Nothing of readside is asked what it thinks.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::daemon::{Daemon, header, reader, rows};
use crate::kafka::{self, Broker, Message, Transaction, eventually};

pub fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as i64
}

/// What the writers know.
#[derive(Clone, Default)]
pub struct Oracle {
    next: Arc<AtomicU32>,
    /// When each event was acknowledged, or its transaction committed, ms since 1970.
    acknowledged: Arc<Mutex<BTreeMap<u32, i64>>>,
    /// Events of transactions that were aborted.
    aborted: Arc<Mutex<BTreeSet<u32>>>,
}

impl Oracle {
    fn events(&self, count: u32) -> (Vec<u32>, Vec<Message>) {
        let first = self.next.fetch_add(count, Ordering::Relaxed);
        let ids: Vec<u32> = (first..first + count).collect();
        let message = |id: &u32| Message::new(id.to_string(), format!(r#"{{"id":{id}}}"#));
        let messages = ids.iter().map(message).collect();
        (ids, messages)
    }

    fn acknowledge(&self, ids: Vec<u32>) {
        let at = now_ms();
        self.acknowledged.lock().unwrap().extend(ids.into_iter().map(|id| (id, at)));
    }

    pub fn write(&self, broker: &Broker, topic: &str, count: u32) {
        let (ids, messages) = self.events(count);
        broker.produce(topic, messages);
        self.acknowledge(ids);
    }

    fn write_to(&self, broker: &Broker, topic: &str, partition: i32, count: u32) {
        let (ids, messages) = self.events(count);
        broker.produce(topic, messages.into_iter().map(|message| message.to(partition)));
        self.acknowledge(ids);
    }

    /// Ids of everything that was acknowledged.
    pub fn all(&self) -> BTreeSet<u32> {
        self.acknowledged.lock().unwrap().keys().copied().collect()
    }
}

/// A reader that polls until it is told to stop.
pub struct Watch {
    stop: Arc<AtomicBool>,
    /// How many different claims were checked so far, all of them true.
    claims: Arc<AtomicUsize>,
    thread: JoinHandle<()>,
}

impl Watch {
    pub fn start(dir: &Path, oracle: &Oracle) -> Watch {
        let (stop, claims) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (dir, oracle) = (dir.to_owned(), oracle.clone());
        let (stopping, checked) = (Arc::clone(&stop), Arc::clone(&claims));
        Watch { thread: std::thread::spawn(move || watch(&dir, &oracle, &stopping, &checked)), stop, claims }
    }

    /// Ends when so many different claims were checked, all of them true. The daemon still makes them.
    pub fn ends(self, claims: usize) {
        eventually("claims are made", || {
            let enough = self.claims.load(Ordering::Relaxed) >= claims;
            (enough || self.thread.is_finished()).then_some(())
        });
        self.stop.store(true, Ordering::Relaxed);
        if let Err(panic) = self.thread.join() {
            std::panic::resume_unwind(panic);
        }
    }
}

fn watch(dir: &Path, oracle: &Oracle, stop: &AtomicBool, checked: &AtomicUsize) {
    let mut claims = BTreeSet::new();
    let connection = reader(dir);
    while !stop.load(Ordering::Relaxed) {
        connection.execute_batch("BEGIN").unwrap();
        let claim =
            rows(&connection, "SELECT fresh_as_of_ms FROM _readside_status WHERE table_name = 'users'");
        let held: BTreeSet<u32> =
            rows(&connection, "SELECT id FROM users").iter().map(|id| id.parse().unwrap()).collect();
        connection.execute_batch("COMMIT").unwrap();
        let aborted = oracle.aborted.lock().unwrap();
        assert!(aborted.is_disjoint(&held), "an aborted event is visible");
        drop(aborted);
        let Ok(claim) = claim[0].parse::<i64>() else { continue };
        assert!(claim <= now_ms(), "fresh as of the future");
        // Acknowledgements that are noted after the rows were read are later than any claim.
        for (id, at) in oracle.acknowledged.lock().unwrap().iter().filter(|(_, at)| **at < claim) {
            assert!(held.contains(id), "event {id} was acknowledged at {at}; fresh as of {claim} without it");
        }
        claims.insert(claim);
        checked.store(claims.len(), Ordering::Relaxed);
        std::thread::park_timeout(Duration::from_millis(3));
    }
}

struct Scene {
    dir: PathBuf,
    topic: String,
    oracle: Oracle,
    daemon: Daemon,
    watch: Watch,
    /// Behind the daemon, whose log is in it.
    _keep: tempfile::TempDir,
}

/// A daemon on a topic with some events, and a reader that watches it.
fn scene(broker: &Broker, about: &str, partitions: i32) -> Scene {
    let keep = tempfile::tempdir().unwrap();
    let dir = keep.path().to_owned();
    let topic = kafka::topic_name(about);
    broker.create_topic(&topic, partitions, &[]);
    let oracle = Oracle::default();
    oracle.write(broker, &topic, 20);
    let yaml = format!(
        "{}freshness: {{ interval: 100ms }}\ndefaults: {{ on_gap: continue }}\n\
         tables: {{ users: {{ topic: {topic}, key: id, columns: {{ id: integer }} }} }}\n",
        header(&broker.bootstrap(), &dir)
    );
    let mut daemon = Daemon::start(&dir, &yaml);
    daemon.started();
    let watch = Watch::start(&dir, &oracle);
    Scene { dir, _keep: keep, topic, oracle, daemon, watch }
}

impl Scene {
    fn fresh(&self) -> Option<i64> {
        let sql = "SELECT fresh_as_of_ms FROM _readside_status WHERE table_name = 'users'";
        rows(&reader(&self.dir), sql)[0].parse().ok()
    }

    fn fresh_after(&self, at_ms: i64) {
        eventually("fresh as of later", || self.fresh().filter(|fresh| *fresh > at_ms));
    }

    /// Fresh as of now, with everything that was ever acknowledged, and every claim was true.
    fn ends(self, claims: usize) {
        self.fresh_after(now_ms());
        let held = rows(&reader(&self.dir), "SELECT id FROM users");
        let held: BTreeSet<u32> = held.iter().map(|id| id.parse().unwrap()).collect();
        assert_eq!(held, self.oracle.all());
        self.watch.ends(claims);
    }
}

/// Something that is done again and again for a while.
pub fn keep_on(seconds: f32, mut what: impl FnMut(u32)) {
    let until = Instant::now() + Duration::from_secs_f32(seconds);
    for nth in 0.. {
        what(nth);
        if Instant::now() >= until {
            return;
        }
    }
}

#[test]
fn open_committed_and_aborted_transactions() {
    let Some(broker) = kafka::shared() else { return };
    let scene = scene(broker, "oracle-transactions", 2);
    let (topic, oracle) = (scene.topic.as_str(), &scene.oracle);
    keep_on(3.0, |nth| {
        let transaction = Transaction::begin(broker, &kafka::topic_name("oracle"));
        let (ids, messages) = oracle.events(3);
        if nth % 2 == 1 {
            oracle.aborted.lock().unwrap().extend(&ids);
        }
        transaction.produce(topic, messages);
        // Behind the open transaction: acknowledged, and not to be read yet.
        oracle.write(broker, topic, 2);
        if nth % 2 == 1 {
            transaction.abort();
        } else {
            transaction.commit();
            oracle.acknowledge(ids);
        }
        oracle.write(broker, topic, 1);
    });
    // One that stays open: nothing can be claimed meanwhile.
    let transaction = Transaction::begin(broker, &kafka::topic_name("oracle"));
    let (ids, messages) = oracle.events(2);
    oracle.aborted.lock().unwrap().extend(&ids);
    transaction.produce(topic, messages.into_iter().map(|message| message.to(0)));
    let opened_ms = now_ms();
    keep_on(1.0, |_| oracle.write(broker, topic, 3));
    assert!(scene.fresh().is_none_or(|fresh| fresh <= opened_ms));
    transaction.abort();
    scene.ends(10);
}

/// Of a producer that went away, or of a broker that lost the marker: nobody can read past it, and the
/// daemon says who it is that holds it back.
#[test]
fn a_transaction_that_stays_open_is_told() {
    let Some(broker) = kafka::shared() else { return };
    let mut scene = scene(broker, "oracle-hanging", 2);
    let topic = scene.topic.clone();
    let gauge = format!("readside_open_transaction_seconds{{topic=\"{topic}\"}}");
    eventually("none is open", || (scene.daemon.metric(&gauge) == Some(0.0)).then_some(()));
    let transaction = Transaction::begin(broker, &kafka::topic_name("oracle"));
    let (ids, messages) = scene.oracle.events(2);
    scene.oracle.aborted.lock().unwrap().extend(&ids);
    let written = transaction.produce(&topic, messages.into_iter().map(|message| message.to(1)));
    let told = eventually("it is told", || {
        let status = scene.daemon.status();
        let open = status["open_transactions"].as_array()?.first()?.clone();
        Some(open)
    });
    assert_eq!((&told["topic"], &told["partition"]), (&topic.as_str().into(), &1.into()));
    assert_eq!(told["offset"], written[0].1);
    assert!(told["seconds"].as_u64().is_some_and(|seconds| seconds >= 9), "{told}");
    eventually("the gauge says so, too", || scene.daemon.metric(&gauge).filter(|seconds| *seconds >= 9.0));
    let held = "an open transaction holds back";
    eventually("and the log", || scene.daemon.log().contains(held).then_some(()));
    transaction.abort();
    eventually("it is over", || (scene.daemon.metric(&gauge) == Some(0.0)).then_some(()));
    eventually("none is listed", || {
        (scene.daemon.status()["open_transactions"] == serde_json::json!([])).then_some(())
    });
    let over = "no open transaction holds it back any more";
    eventually("and the log says that, too", || scene.daemon.log().contains(over).then_some(()));
    let log = scene.daemon.log();
    // Each once, unless the brokers were out of sight meanwhile.
    let once = [held, over].map(|words| log.matches(words).count()) == [1, 1];
    assert!(once || log.contains("no answer from the brokers"), "{log}");
    assert_eq!(scene.daemon.metric("readside_source_errors_total{reason=\"stalled\"}"), Some(0.0));
    scene.ends(1);
}

#[test]
fn partitions_that_are_added() {
    let Some(broker) = kafka::shared() else { return };
    let scene = scene(broker, "oracle-added", 1);
    for partitions in 2..=5 {
        keep_on(0.3, |_| scene.oracle.write(broker, &scene.topic, 3));
        broker.add_partitions(&scene.topic, partitions);
        // At once, and only there: the old ones prove nothing about it.
        keep_on(0.3, |_| scene.oracle.write_to(broker, &scene.topic, partitions as i32 - 1, 2));
    }
    scene.ends(10);
}

#[test]
fn a_topic_that_is_recreated_and_grows_past_the_position() {
    let Some(broker) = kafka::shared() else { return };
    let scene = scene(broker, "oracle-recreated", 2);
    for _ in 0..3 {
        // What is not read when the topic is deleted is lost for good.
        scene.fresh_after(now_ms());
        broker.delete_topic(&scene.topic);
        eventually("the topic can be created again", || {
            let create = std::panic::AssertUnwindSafe(|| broker.create_topic(&scene.topic, 2, &[]));
            std::panic::catch_unwind(create).ok()
        });
        scene.oracle.write(broker, &scene.topic, 300);
        keep_on(0.5, |_| scene.oracle.write(broker, &scene.topic, 3));
    }
    // The last one has been noticed then, too.
    scene.fresh_after(now_ms());
    let recreated = scene.daemon.log().matches("created again").count();
    assert_eq!(recreated, 3, "{}", scene.daemon.log());
    scene.ends(10);
}

#[test]
fn an_idle_topic_and_a_broker_that_stands_still() {
    let Some(broker) = kafka::private("oracle") else { return };
    let scene = scene(&broker, "oracle-frozen", 2);
    let idle_ms = now_ms();
    scene.fresh_after(idle_ms + 500);
    for _ in 0..2 {
        scene.oracle.write(&broker, &scene.topic, 50);
        broker.freeze();
        let frozen_ms = now_ms();
        keep_on(1.5, |_| std::thread::park_timeout(Duration::from_millis(20)));
        assert!(scene.fresh().is_none_or(|fresh| fresh <= frozen_ms), "a proof without a broker");
        broker.thaw();
        keep_on(0.5, |_| scene.oracle.write(&broker, &scene.topic, 5));
    }
    scene.ends(10);
}
