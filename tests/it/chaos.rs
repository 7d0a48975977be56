//! Everything breaks in turn under one running daemon: the network, the broker, the daemon itself, the
//! disk. Two readers poll throughout: one fails on half a transaction and on a row that goes back in
//! version (`crash::watch`), the other on a claim of freshness that the log contradicts
//! (`freshness::Watch`).

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::crash;
use crate::daemon::{Daemon, header, reader, replica, rows};
use crate::freshness::{Oracle, Watch, keep_on, now_ms};
use crate::history::{self, History, PARTITIONS};
use crate::kafka::{self, Broker, Message, Transaction, eventually, eventually_or};
use crate::proxy::{Network, Proxy};

const STATE: &str = "SELECT state FROM _readside_status WHERE table_name IS NULL";

/// A writer of both topics, who is not behind the network that fails.
struct Writers<'a> {
    broker: &'a Broker,
    history: History,
    items: &'static str,
    users: &'static str,
    oracle: Oracle,
}

impl Writers<'_> {
    fn write(&mut self) {
        self.broker.produce(self.items, self.history.take(40));
        self.oracle.write(self.broker, self.users, 5);
        let aborted = Transaction::begin(self.broker, &kafka::topic_name("chaos"));
        aborted.produce(self.items, [Message::new("1", r#"{"type":"Gone","seq":999999999,"id":1}"#)]);
        aborted.abort();
    }
}

fn fresh(dir: &Path) -> Option<i64> {
    let sql = "SELECT fresh_as_of_ms FROM _readside_status WHERE table_name IS NULL";
    rows(&reader(dir), sql)[0].parse().ok()
}

/// Fails with where each partition stands and ends.
fn fresh_again(dir: &Path, broker: &Broker) {
    let at = now_ms();
    let what = || {
        let read = rows(&reader(dir), "SELECT topic, partition, next_offset FROM _readside_positions");
        format!("fresh again; read {read:?}, {:?}", Ends::of(broker))
    };
    eventually_or(what, || fresh(dir).filter(|fresh| *fresh > at));
}

/// A broker that dies between the answer to an abort and its marker comes back without a leader for the
/// partition, takes it for deleted, and calls the transaction complete (4.3.1): nobody who reads what is
/// committed ever gets past it. What readside does then is another test,
/// `freshness::a_transaction_that_stays_open_is_told`.
fn markers_are_there(broker: &Broker) {
    let are_there = || Ends::of(broker).are_stable().then_some(());
    eventually_or(|| format!("every marker is there: {:?}", Ends::of(broker)), are_there);
}

/// Topic, partition, last stable offset and high watermark.
#[derive(Debug)]
struct Ends(Vec<(&'static str, i32, i64, i64)>);

impl Ends {
    fn of(broker: &Broker) -> Ends {
        let partitions = [("items", PARTITIONS), ("users", 2)];
        let all = partitions.iter().flat_map(|(topic, count)| (0..*count).map(move |at| (*topic, at)));
        let end = |(topic, at)| (topic, at, broker.stable_offset(topic, at), broker.end_offset(topic, at));
        Ends(all.map(end).collect())
    }

    fn are_stable(&self) -> bool {
        self.0.iter().all(|(_, _, stable, end)| stable == end)
    }
}

#[test]
fn no_reader_sees_a_lie_whatever_breaks() {
    let mut proxy = Proxy::new();
    let Some(broker) = kafka::private_behind("chaos", proxy.port()) else { return };
    proxy.pass_on_to(broker.hidden());
    let keep = tempfile::tempdir().unwrap();
    let dir = keep.path();
    let (items, users) = ("items", "users");
    broker.create_topic(items, PARTITIONS, &[]);
    broker.create_topic(users, 2, &[]);
    let mut writers =
        Writers { broker: &broker, history: History::new(200, 7), items, users, oracle: Oracle::default() };
    writers.write();
    let yaml = format!(
        "{}freshness: {{ interval: 100ms }}\n{}  users: {{ topic: {users}, key: id, columns: {{ id: integer }} }}\n",
        header(&format!("127.0.0.1:{}", proxy.port()), dir),
        history::tables(items)
    );
    let mut daemon = Daemon::start(dir, &yaml);
    daemon.started();
    let stop = Arc::new(AtomicBool::new(false));
    let transactions = {
        let (dir, stop) = (dir.to_owned(), Arc::clone(&stop));
        std::thread::spawn(move || crash::watch(dir, stop))
    };
    let claims = Watch::start(dir, &writers.oracle);

    for network in [
        Network::Cut,
        Network::Silent,
        Network::Slow { bytes: 700, pause: Duration::from_millis(5) },
        Network::Slow { bytes: 64 << 10, pause: Duration::from_millis(150) },
        Network::Cut,
    ] {
        proxy.is_now(network);
        let broken_ms = now_ms();
        writers.write();
        keep_on(0.7, |_| writers.write());
        if matches!(network, Network::Cut | Network::Silent) {
            // A question that was asked before it broke may still be answered: by nobody.
            assert!(fresh(dir).is_none_or(|fresh| fresh <= broken_ms), "a proof without a network");
        }
        proxy.is_now(Network::Fine);
        writers.write();
        fresh_again(dir, &broker);
    }

    // Stopped in its tracks, it says by itself that nobody follows the log.
    daemon.signal(libc::SIGSTOP);
    writers.write();
    eventually("it shows", || (rows(&reader(dir), STATE) == ["disconnected"]).then_some(()));
    daemon.signal(libc::SIGCONT);
    fresh_again(dir, &broker);

    // What is read already is taken from the log.
    for partition in 0..2 {
        broker.delete_records(users, partition, broker.end_offset(users, partition));
    }
    broker.freeze();
    let frozen_ms = now_ms();
    keep_on(0.7, |_| std::thread::park_timeout(Duration::from_millis(20)));
    assert!(fresh(dir).is_none_or(|fresh| fresh <= frozen_ms), "a proof without a broker");
    broker.thaw();
    writers.write();
    fresh_again(dir, &broker);

    // Two at a time: it is killed while the network is silent, and begins without one.
    proxy.is_now(Network::Silent);
    let silent_ms = now_ms();
    writers.write();
    daemon.kill();
    let mut daemon = Daemon::start(dir, &yaml);
    writers.write();
    daemon.started();
    assert_eq!(daemon.metric("readside_kafka_connected"), Some(0.0));
    assert!(fresh(dir).is_none_or(|fresh| fresh <= silent_ms), "a proof without a network");
    markers_are_there(&broker);
    broker.kill();
    proxy.is_now(Network::Fine);
    broker.restart();
    writers.write();
    fresh_again(dir, &broker);

    let found = rows(&reader(dir), "SELECT id, name, amount FROM items ORDER BY id");
    assert_eq!(found, writers.history.expected());
    let held = rows(&reader(dir), "SELECT id FROM users ORDER BY id");
    assert_eq!(held, writers.oracle.all().iter().map(u32::to_string).collect::<Vec<_>>());
    assert_eq!(daemon.metric_sum("readside_gaps_total"), Some(0.0));
    stop.store(true, Ordering::Relaxed);
    let looks = transactions.join().expect("no reader saw half a transaction or an older row");
    assert!(looks >= crash::LOOKS_LEAST, "only {looks} looks");
    claims.ends(10);
}

/// A file system of its own, with so much room.
struct Volume(PathBuf);

impl Volume {
    /// `None`: skip the test.
    fn mount(at: &Path, kib: u32) -> Option<Volume> {
        std::fs::create_dir_all(at).unwrap();
        match mount(&["-t", "tmpfs", "-o", &format!("size={kib}k"), "tmpfs"], at) {
            Ok(()) => Some(Volume(at.to_owned())),
            Err(why) => {
                // Also where CI promises all services: a container without this right has none.
                eprintln!("SKIPPED, no small volume can be mounted (are we root?): {why}");
                None
            }
        }
    }

    fn grow(&self, kib: u32) {
        mount(&["-o", &format!("remount,size={kib}k")], &self.0).unwrap();
    }
}

fn mount(arguments: &[&str], at: &Path) -> Result<(), String> {
    let done = Command::new("mount").args(arguments).arg(at).output().map_err(|error| error.to_string())?;
    match done.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&done.stderr).trim().to_owned()),
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        // Lazily: a reader may have the file open still.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_volume_that_is_full_is_waited_for_and_readers_go_on() {
    let Some(broker) = kafka::shared() else { return };
    let keep = tempfile::tempdir().unwrap();
    let dir = keep.path();
    let Some(volume) = Volume::mount(&dir.join("replica"), 8 << 10) else { return };
    let topic = kafka::topic_name("full");
    broker.create_topic(&topic, 1, &[]);
    let note =
        |id: i64| Message::new(id.to_string(), format!(r#"{{"id":{id},"note":"{}"}}"#, "n".repeat(10_000)));
    broker.produce(&topic, (0..10).map(note));
    let yaml = format!(
        "{}tables: {{ notes: {{ topic: {topic}, key: id, columns: {{ id: integer, note: text }} }} }}\n",
        header(&broker.bootstrap(), dir)
    );
    let mut daemon = Daemon::start(dir, &yaml);
    daemon.started();
    let count = || rows(&reader(dir), "SELECT count(*) FROM notes")[0].parse::<i64>().unwrap();
    assert_eq!(count(), 10);
    for chunk in 0..20 {
        broker.produce(&topic, (0..100).map(|nth| note(10 + chunk * 100 + nth)));
    }
    eventually("it is full", || {
        let full = daemon.metric("readside_store_retries_total{reason=\"disk_full\"}")? > 0.0;
        (full && daemon.metric("readside_store_connected") == Some(0.0)).then_some(())
    });
    let there = count();
    assert!((10..2_010).contains(&there), "{there} rows");
    eventually("and why", || daemon.status()["store_failing"].is_string().then_some(()));
    eventually("nobody takes it for fresh", || (rows(&reader(dir), STATE) != ["live"]).then_some(()));
    volume.grow(128 << 10);
    eventually("it goes on where it was", || (count() == 2_010).then_some(()));
    eventually("it is well again", || (rows(&reader(dir), STATE) == ["live"]).then_some(()));
    eventually("the gauge says so, too", || {
        (daemon.metric("readside_store_connected") == Some(1.0)).then_some(())
    });
    daemon.terminate();
}

/// What is taken away under a running daemon is said, and writing ends; the next start finds what is
/// there, or builds it again.
#[test]
fn a_replica_that_is_taken_away_ends_the_daemon_and_the_next_start_builds_it_again() {
    let Some(broker) = kafka::shared() else { return };
    let keep = tempfile::tempdir().unwrap();
    let dir = keep.path();
    let topic = kafka::topic_name("taken");
    broker.create_topic(&topic, 1, &[]);
    broker.produce(&topic, (0..50).map(|id| Message::new(id.to_string(), format!(r#"{{"id":{id}}}"#))));
    let yaml = format!(
        "{}tables: {{ users: {{ topic: {topic}, key: id, columns: {{ id: integer }} }} }}\n",
        header(&broker.bootstrap(), dir)
    );
    let file = replica(dir);
    let directory = file.parent().unwrap().to_owned();
    let takes: [(&str, &dyn Fn()); 3] = [
        ("the directory is removed", &|| std::fs::remove_dir_all(&directory).unwrap()),
        ("the directory is moved away", &|| std::fs::rename(&directory, dir.join("elsewhere")).unwrap()),
        ("another file is put in its place", &|| {
            std::fs::copy(&file, dir.join("other.db")).unwrap();
            std::fs::rename(dir.join("other.db"), &file).unwrap();
        }),
    ];
    for (what, take) in takes {
        let mut daemon = Daemon::start(dir, &yaml);
        daemon.started();
        assert_eq!(rows(&reader(dir), "SELECT count(*) FROM users"), ["50"], "{what}");
        take();
        assert_eq!(daemon.wait().code(), Some(74), "{what}: {}", daemon.log());
        assert!(daemon.log().contains("moved or deleted"), "{what}: {}", daemon.log());
    }
    let mut daemon = Daemon::start(dir, &yaml);
    daemon.started();
    assert_eq!(rows(&reader(dir), "SELECT count(*) FROM users"), ["50"]);
}
