//! A new generation beside the live one: readers see no error, no mixture, and nothing goes back.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use crate::daemon::{Daemon, header, output, reader, replica, rows, try_rows};
use crate::history::{self, History, PARTITIONS};
use crate::kafka::{self, Message, eventually};

const STATE: &str = "SELECT state FROM _readside_status WHERE table_name IS NULL";
const GENERATION: &str = "SELECT generation FROM _readside_status WHERE table_name IS NULL";

fn tables(topic: &str, columns: &str) -> String {
    format!(
        "freshness: {{ interval: 200ms }}\ntables:\n  users:\n    topic: {topic}\n    key: id\n    \
         columns: {{ id: integer, {columns} }}\n"
    )
}

fn user(id: i64) -> Message {
    Message::new(id.to_string(), format!(r#"{{"id":{id},"name":"n{id}","email":"{id}@x.org"}}"#))
}

/// What a reader may see at a time: the number of columns, and the rows.
struct Watcher {
    stop: Arc<AtomicBool>,
    /// How often it has looked so far.
    count: Arc<AtomicU64>,
    thread: JoinHandle<Looks>,
}

/// By generation.
type Looks = BTreeMap<String, i64>;

/// Reads `users` again and again over one connection with a statement that stays prepared, and over
/// new ones. Every look must show whole rows of one mapping, and at least `rows` of them. Returns when it
/// has looked once.
fn watch(dir: &Path, least: i64) -> Watcher {
    let (stop, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let dir: PathBuf = dir.to_owned();
    let (told, looked) = (Arc::clone(&stop), Arc::clone(&count));
    let thread = std::thread::spawn(move || {
        let mut looks = Looks::default();
        let kept = reader(&dir);
        let mut prepared = kept.prepare("SELECT count(*), count(name) FROM users").unwrap();
        let (mut generation, mut fresh, mut most) = (0, 0, least);
        while !told.load(Ordering::Relaxed) {
            let (all, named): (i64, i64) =
                prepared.query_row([], |row| Ok((row.get(0)?, row.get(1)?))).expect("a look");
            assert!(all >= most && named == all, "{named} of {all} rows after {most}");
            most = all;
            let connection = reader(&dir);
            connection.execute_batch("BEGIN").unwrap();
            let status = rows(
                &connection,
                "SELECT generation, coalesce(fresh_as_of_ms, 0), rows FROM _readside_status WHERE table_name = 'users'",
            );
            let columns = connection.prepare("SELECT * FROM users").unwrap().column_count();
            let count = rows(&connection, "SELECT count(*) FROM users");
            let mut cells = status[0].split('|').map(|cell| cell.parse::<i64>().unwrap());
            let mut next = || cells.next().unwrap();
            let (now, as_of, counted) = (next(), next(), next());
            assert!(now >= generation, "generation {now} after {generation}");
            assert!(as_of >= fresh, "fresh as of {as_of} after {fresh}");
            assert_eq!(count[0], counted.to_string(), "rows and status of one moment");
            (generation, fresh) = (now, as_of);
            *looks.entry(format!("{now} with {columns} columns")).or_default() += 1;
            looked.fetch_add(1, Ordering::Relaxed);
        }
        looks
    });
    let watcher = Watcher { stop, count, thread };
    watcher.has_looked(1);
    watcher
}

impl Watcher {
    /// Waits until it has looked so often, or has seen something wrong.
    fn has_looked(&self, often: u64) {
        eventually("the reader has looked often enough", || {
            (self.count.load(Ordering::Relaxed) >= often || self.thread.is_finished()).then_some(())
        });
    }

    fn finish(self) -> Looks {
        self.has_looked(10);
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the reader saw nothing wrong")
    }
}

fn generation(dir: &Path) -> i64 {
    rows(&reader(dir), GENERATION)[0].parse().unwrap()
}

fn serves(dir: &Path, wanted: i64) {
    eventually("the new generation serves", || (generation(dir) == wanted).then_some(()));
}

fn command(daemon: &mut Daemon, arguments: &[&str]) -> std::process::Output {
    let (_, admin) = daemon.listeners();
    output(Command::new(env!("CARGO_BIN_EXE_readside")).args(arguments).args(["--admin", &admin]))
}

#[test]
fn a_changed_mapping_is_built_beside_the_old_copy_and_no_reader_notices() {
    let Some(broker) = kafka::shared() else { return };
    let dir = tempfile::tempdir().unwrap();
    let topic = kafka::topic_name("rebuild");
    broker.create_topic(&topic, 3, &[]);
    broker.produce(&topic, (1..=40_000).map(user));
    let head = header(&broker.bootstrap(), dir.path());
    let mut daemon = Daemon::start(dir.path(), &format!("{head}{}", tables(&topic, "name: text")));
    daemon.started();
    assert!(daemon.terminate().0.success());

    let watcher = watch(dir.path(), 40_000);
    let mut daemon =
        Daemon::start(dir.path(), &format!("{head}{}", tables(&topic, "name: text, email: 'text?'")));
    // Young enough: it serves while it is rebuilt.
    daemon.started();
    broker.produce(&topic, (40_001..=40_500).map(user));
    serves(dir.path(), 2);
    eventually("events that came meanwhile", || {
        (rows(&reader(dir.path()), "SELECT count(*), count(email) FROM users") == ["40500|40500"])
            .then_some(())
    });
    let looks = watcher.finish();
    assert!(looks.contains_key("1 with 2 columns"), "{looks:?}");
    let known = ["1 with 2 columns", "2 with 3 columns"];
    assert!(looks.keys().all(|seen| known.contains(&seen.as_str())), "{looks:?}");
    eventually("live", || (rows(&reader(dir.path()), STATE) == ["live"]).then_some(()));
    eventually("the daemon has noticed, too", || {
        (daemon.metric("readside_generation") == Some(2.0)).then_some(())
    });
    assert_eq!(daemon.metric("readside_rebuilds_total{result=\"switched\"}"), Some(1.0));
    assert_eq!(daemon.metric("readside_rebuild_running"), Some(0.0));
    eventually("nothing of the old generation is left", || {
        let left =
            rows(&reader(dir.path()), "SELECT name FROM sqlite_schema WHERE name LIKE '%readside_g1%'");
        left.is_empty().then_some(())
    });
    // What follows is an ordinary start.
    drop(daemon);
    let mut daemon =
        Daemon::start(dir.path(), &format!("{head}{}", tables(&topic, "name: text, email: 'text?'")));
    daemon.started();
    assert_eq!(generation(dir.path()), 2);
}

#[test]
fn a_rebuild_under_load_lets_nothing_go_back() {
    let Some(broker) = kafka::shared() else { return };
    let dir = tempfile::tempdir().unwrap();
    let topic = kafka::topic_name("under-load");
    broker.create_topic(&topic, PARTITIONS, &[]);
    let yaml = format!(
        "{}freshness: {{ interval: 200ms }}\n{}",
        header(&broker.bootstrap(), dir.path()),
        history::tables(&topic)
    );
    let mut history = History::new(2_000, 7);
    broker.produce(&topic, history.take(40_000));
    let mut daemon = Daemon::start(dir.path(), &yaml);
    daemon.started();

    let stop = Arc::new(AtomicBool::new(false));
    let watcher = {
        let (dir, stop) = (dir.path().to_owned(), Arc::clone(&stop));
        std::thread::spawn(move || crate::crash::watch(dir, stop))
    };
    let mut wanted = 1;
    for _ in 0..2 {
        let (code, body) = daemon.post("/rebuild").unwrap();
        assert_eq!(code, 202, "{body}");
        wanted += 1;
        let (code, body) = daemon.post("/rebuild").unwrap();
        if code != 409 {
            // It is over already, and another one has begun.
            assert!(code == 202 && generation(dir.path()) == wanted, "{code} {body}");
            wanted += 1;
        }
        let mut last = (0, 0);
        while generation(dir.path()) < wanted {
            last = *broker.produce(&topic, history.take(300)).last().unwrap();
            let path = format!("/wait?topic={topic}&partition={}&offset={}&timeout=170s", last.0, last.1);
            let (code, body) = daemon.admin(&path).unwrap();
            assert_eq!(code, 200, "{body}");
        }
        // What could be waited for once is there for good.
        let path = format!("/wait?topic={topic}&partition={}&offset={}&timeout=0s", last.0, last.1);
        assert_eq!(daemon.admin(&path).unwrap().0, 200);
        eventually("the daemon has noticed, too", || {
            let rebuild = &daemon.status()["rebuild"];
            (rebuild["generation"] == wanted && rebuild["running"].is_null()).then_some(())
        });
    }
    let end: i64 = (0..PARTITIONS).map(|partition| broker.end_offset(&topic, partition)).sum();
    eventually("everything is applied", || {
        let sum = format!("SELECT sum(next_offset) FROM _readside_positions WHERE generation = {wanted}");
        (rows(&reader(dir.path()), &sum) == [end.to_string()]).then_some(())
    });
    assert_eq!(
        rows(&reader(dir.path()), "SELECT id, name, amount FROM items ORDER BY id"),
        history.expected()
    );
    stop.store(true, Ordering::Relaxed);
    assert!(watcher.join().expect("the reader saw nothing wrong") >= crate::crash::LOOKS_LEAST);
    assert!(daemon.terminate().0.success());
}

#[test]
fn a_killed_rebuild_goes_on_where_it_was() {
    let Some(broker) = kafka::shared() else { return };
    let dir = tempfile::tempdir().unwrap();
    let topic = kafka::topic_name("killed-rebuild");
    broker.create_topic(&topic, 2, &[]);
    broker.produce(&topic, (1..=60_000).map(user));
    let head = header(&broker.bootstrap(), dir.path());
    let mut daemon = Daemon::start(dir.path(), &format!("{head}{}", tables(&topic, "name: text")));
    daemon.started();
    assert!(daemon.terminate().0.success());
    let watcher = watch(dir.path(), 60_000);
    let (mut kills, mut number) = (0, 1);
    // Where it was built faster than it could be killed, another one is built.
    while kills < 3 {
        number += 1;
        let columns = format!("name: text, email: 'text?', more_{number}: 'text?'");
        let yaml = format!("{head}{}", tables(&topic, &columns));
        let read = || -> i64 {
            let sum = "SELECT coalesce(sum(next_offset), 0) FROM _readside_positions WHERE generation =";
            try_rows(&reader(dir.path()), &format!("{sum} {number}")).unwrap()[0].parse().unwrap()
        };
        let mut before = 0;
        for _ in 0..40 {
            let daemon = Daemon::start(dir.path(), &yaml);
            eventually("a little more is built", || {
                (read() > before + 4_000 || generation(dir.path()) == number).then_some(())
            });
            daemon.kill();
            if generation(dir.path()) == number {
                break;
            }
            kills += 1;
            let now = read();
            assert!(now >= before, "built {now} after {before}");
            before = now;
        }
        let mut daemon = Daemon::start(dir.path(), &yaml);
        serves(dir.path(), number);
        daemon.started();
        assert_eq!(rows(&reader(dir.path()), "SELECT count(*), count(email) FROM users"), ["60000|60000"]);
    }
    watcher.finish();
}

#[test]
fn a_second_change_of_the_mapping_drops_what_was_half_built() {
    let Some(broker) = kafka::shared() else { return };
    let dir = tempfile::tempdir().unwrap();
    let topic = kafka::topic_name("changed-again");
    broker.create_topic(&topic, 1, &[]);
    broker.produce(&topic, (1..=30_000).map(user));
    let head = header(&broker.bootstrap(), dir.path());
    let first = format!("{head}{}", tables(&topic, "name: text"));
    let mut daemon = Daemon::start(dir.path(), &first);
    daemon.started();
    assert!(daemon.terminate().0.success());
    let daemon =
        Daemon::start(dir.path(), &format!("{head}{}", tables(&topic, "name: text, email: 'text?'")));
    eventually("it is being built", || {
        let sql = "SELECT count(*) FROM _readside_positions WHERE generation = 2";
        (rows(&reader(dir.path()), sql) != ["0"]).then_some(())
    });
    daemon.kill();
    if generation(dir.path()) != 1 {
        // Faster than the kill: nothing is half-built.
        return;
    }
    // Back to the first mapping: it goes on as if nothing had been.
    let mut daemon = Daemon::start(dir.path(), &first);
    daemon.started();
    eventually("live", || (rows(&reader(dir.path()), STATE) == ["live"]).then_some(()));
    assert!(daemon.terminate().0.success());
    let mut daemon =
        Daemon::start(dir.path(), &format!("{head}{}", tables(&topic, "email: text, name: text")));
    serves(dir.path(), 3);
    daemon.started();
    assert_eq!(rows(&reader(dir.path()), "SELECT email, name FROM users WHERE id = 7"), ["7@x.org|n7"]);
}

#[test]
fn a_copy_that_has_lost_much_does_not_replace_a_fuller_one() {
    let Some(broker) = kafka::shared() else { return };
    let dir = tempfile::tempdir().unwrap();
    let topic = kafka::topic_name("poorer");
    broker.create_topic(&topic, 1, &[]);
    broker.produce(&topic, (1..=1_000).map(user));
    let head = header(&broker.bootstrap(), dir.path());
    let mut daemon = Daemon::start(dir.path(), &format!("{head}{}", tables(&topic, "name: text")));
    daemon.started();
    broker.delete_records(&topic, 0, 600);
    let refused = command(&mut daemon, &["rebuild", "--wait"]);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("400 rows instead of 1000") && said.contains("--accept-loss"), "{said}");
    assert_eq!(daemon.metric("readside_rebuilds_total{result=\"refused\"}"), Some(1.0));
    assert_eq!(daemon.status()["rebuild"]["last"]["result"], "refused");
    assert_eq!(rows(&reader(dir.path()), "SELECT count(*) FROM users"), ["1000"]);
    // The live one has never stopped.
    broker.produce(&topic, [user(1_001)]);
    eventually("it goes on", || {
        (rows(&reader(dir.path()), "SELECT count(*) FROM users") == ["1001"]).then_some(())
    });
    let status = String::from_utf8(command(&mut daemon, &["status"]).stdout).unwrap();
    assert!(status.contains("the last rebuild was refused"), "{status}");

    let accepted = command(&mut daemon, &["rebuild", "--wait", "--accept-loss"]);
    assert_eq!(accepted.status.code(), Some(0), "{accepted:?}");
    assert_eq!(rows(&reader(dir.path()), "SELECT count(*), min(id) FROM users"), ["401|601"]);
}

#[test]
fn a_mapping_that_the_log_cannot_fill_waits_for_a_person() {
    let Some(broker) = kafka::shared() else { return };
    let dir = tempfile::tempdir().unwrap();
    let topic = kafka::topic_name("cannot-fill");
    broker.create_topic(&topic, 1, &[("cleanup.policy", "delete")]);
    broker.produce(&topic, (1..=50).map(user));
    let head = header(&broker.bootstrap(), dir.path());
    let mut daemon = Daemon::start(dir.path(), &format!("{head}{}", tables(&topic, "name: text")));
    daemon.started();
    assert!(daemon.terminate().0.success());
    broker.delete_records(&topic, 0, 20);
    let yaml = format!("{head}{}", tables(&topic, "name: text, email: 'text?'"));
    let mut daemon = Daemon::start(dir.path(), &yaml);
    daemon.started();
    eventually("it says that a person is needed", || {
        (rows(&reader(dir.path()), STATE) == ["stopped"]).then_some(())
    });
    let reason = daemon.status()["stopped"].as_str().unwrap().to_owned();
    assert!(reason.contains("begins at offset 20") && reason.contains("readside rebuild"), "{reason}");
    assert_eq!(rows(&reader(dir.path()), "SELECT count(*) FROM users"), ["50"], "the old copy serves");
    eventually("the metrics say it, too", || {
        let series = "readside_state{state=\"stopped\",table=\"users\"}";
        (daemon.metric(series) == Some(1.0)).then_some(())
    });
    let begun = command(&mut daemon, &["rebuild", "--wait"]);
    assert_eq!(begun.status.code(), Some(0), "{begun:?}");
    assert_eq!(rows(&reader(dir.path()), "SELECT count(*), count(email) FROM users"), ["30|30"]);
    eventually("live", || (rows(&reader(dir.path()), STATE) == ["live"]).then_some(()));
}

#[test]
fn a_rebuild_that_the_volume_has_no_room_for_does_not_begin() {
    let Some(broker) = kafka::shared() else { return };
    let dir = tempfile::tempdir().unwrap();
    let topic = kafka::topic_name("no-room");
    broker.create_topic(&topic, 1, &[]);
    broker.produce(&topic, (1..=50).map(user));
    let head = header(&broker.bootstrap(), dir.path()) + "rebuild: { min_free: 4000000GiB }\n";
    let mut daemon = Daemon::start(dir.path(), &format!("{head}{}", tables(&topic, "name: text")));
    daemon.started();
    let (code, body) = daemon.post("/rebuild").unwrap();
    assert_eq!(code, 507, "{body}");
    assert!(body.contains("MiB free") && body.contains("rebuild.min_free"), "{body}");
    assert_eq!(daemon.status()["rebuild"]["last"]["result"], "refused");
    assert_eq!(daemon.metric("readside_rebuilds_total{result=\"refused\"}"), Some(1.0));
    broker.produce(&topic, [user(51)]);
    eventually("the live one goes on", || {
        (rows(&reader(dir.path()), "SELECT count(*) FROM users") == ["51"]).then_some(())
    });
    eventually("live", || (rows(&reader(dir.path()), STATE) == ["live"]).then_some(()));
}

#[test]
fn a_rebuild_adds_a_bounded_amount_of_memory() {
    let Some(broker) = kafka::shared() else { return };
    let dir = tempfile::tempdir().unwrap();
    let topic = kafka::topic_name("rebuild-memory");
    broker.create_topic(&topic, 2, &[]);
    let long = "x".repeat(600);
    let wide = |id: i64| Message::new(id.to_string(), format!(r#"{{"id":{id},"name":"{long}"}}"#));
    broker.produce(&topic, (1..=60_000).map(wide));
    let yaml = format!("{}{}", header(&broker.bootstrap(), dir.path()), tables(&topic, "name: text"));
    let mut daemon = Daemon::start(dir.path(), &yaml);
    daemon.started();
    let before = daemon.peak_kib();
    assert_eq!(command(&mut daemon, &["rebuild", "--wait"]).status.code(), Some(0));
    let after = daemon.peak_kib();
    println!("peak before the rebuild {before} KiB, with it {after} KiB");
    assert!(after < before + 48 * 1024, "{before} KiB before, {after} KiB after");
    assert!(replica(dir.path()).exists());
}

#[test]
fn a_column_less_in_another_order_needs_no_log() {
    let Some(broker) = kafka::shared() else { return };
    let dir = tempfile::tempdir().unwrap();
    let topic = kafka::topic_name("in-place");
    broker.create_topic(&topic, 1, &[]);
    broker.produce(&topic, (1..=500).map(user));
    let head = header(&broker.bootstrap(), dir.path());
    let mut daemon = Daemon::start(
        dir.path(),
        &format!("{head}{}", tables(&topic, "name: text, email: text, more: 'text?'")),
    );
    daemon.started();
    assert!(daemon.terminate().0.success());
    // Nothing of it can be read any more.
    broker.delete_records(&topic, 0, 500);
    let mut daemon =
        Daemon::start(dir.path(), &format!("{head}{}", tables(&topic, "email: text, name: text")));
    daemon.started();
    broker.produce(&topic, [user(501)]);
    eventually("it goes on", || {
        (rows(&reader(dir.path()), "SELECT count(*) FROM users") == ["501"]).then_some(())
    });
    assert_eq!(
        rows(&reader(dir.path()), "SELECT * FROM users WHERE id IN (7, 501)"),
        ["7|7@x.org|n7", "501|501@x.org|n501"]
    );
    assert_eq!(generation(dir.path()), 1);
    assert!(daemon.log().contains("without reading the log"), "{}", daemon.log());
}
