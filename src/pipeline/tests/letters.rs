//! Dead letters: retried, dropped, limited.

use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use super::support::{Daemon, Delivery, START_MS, Shared, at, config, memory_store};
use super::{USERS, live, live_with, stopped, user};
use crate::domain::change::Skip;
use crate::domain::checkpoint::TopicPartition;
use crate::domain::dead_letter::{LetterId, Reason};
use crate::domain::record::OwnedRecord;
use crate::domain::value::Value;
use crate::mapping::Plan;
use crate::metrics::{Metrics, RetryResult};
use crate::pipeline::letters::{
    Done, Found, LettersError, Outcome, Selection, Sides, Work, drop_letters, retry,
};
use crate::source::kafka::fetch::{Fetched, Place};
use crate::store::{Fault, MemoryStore, Reader};

const EVENTS: &str = "
kafka: { brokers: 'localhost:9092' }
replica: { name: test, sqlite: { path: /nowhere/replica.db } }
topics:
  users: { format: json, event_type: .type, event_id: .event, version: .v }
tables:
  users:
    topic: users
    key: id
    columns: { id: integer, n: integer }
    events: { Set: { upsert: { id: .id } } }
  log:
    topic: users
    key: id
    columns: { id: integer, n: integer, note: text }
    events: { Set: { upsert: { id: .id } } }
";

fn rows(store: &MemoryStore, table: usize) -> Vec<(i64, i64)> {
    let number = |value: &Value| match value {
        Value::Integer(number) => *number,
        other => panic!("{other:?}"),
    };
    store.rows(table).iter().map(|row| (number(&row[0]), number(&row[1]))).collect()
}

/// Everything that was appended is read and applied.
pub(super) fn read_on(daemon: &mut Daemon, shared: &Shared) {
    shared.world().deliver_all();
    daemon.settle(shared).unwrap();
}

pub(super) fn record(value: &str) -> OwnedRecord {
    OwnedRecord {
        timestamp_ms: Some(START_MS),
        key: Some(b"k".to_vec()),
        value: Some(value.as_bytes().to_vec()),
        headers: Vec::new(),
    }
}

fn found(offset: i64, value: &str) -> Found {
    Found { at: at(0, 0), offset, order_ms: START_MS, record: record(value) }
}

fn ask(daemon: &Daemon, work: Work) -> Receiver<Done> {
    daemon.progress.letters.open();
    daemon.progress.letters.ask(work).expect("a place in the queue")
}

fn try_again(daemon: &mut Daemon, shared: &Shared, records: Vec<Found>) -> Vec<Outcome> {
    let done = ask(daemon, Work::Retry(records));
    daemon.settle(shared).unwrap();
    done.try_recv().expect("it is settled").outcomes
}

#[test]
fn a_retried_record_is_applied_in_its_own_place_and_moves_no_position() {
    let (_, shared, store, mut daemon) = live();
    let lost = shared.world().append(at(0, 0), "7", Some("no json"));
    read_on(&mut daemon, &shared);
    let before = crate::store::Store::checkpoint(&mut store.clone()).unwrap();
    let outcomes = try_again(&mut daemon, &shared, vec![found(lost, &user(7, 1))]);
    assert_eq!(outcomes, [Outcome::Applied]);
    assert_eq!(rows(&store, 0), [(0, 0), (7, 1)]);
    assert!(store.dead_letters().is_empty());
    let after = crate::store::Store::checkpoint(&mut store.clone()).unwrap();
    assert_eq!((before.positions, before.dead_letters.len()), (after.positions, 1));
    // A second time, as after an answer that was lost.
    let outcomes = try_again(&mut daemon, &shared, vec![found(lost, &user(7, 1))]);
    assert_eq!(outcomes, [Outcome::Superseded]);
    assert_eq!(rows(&store, 0), [(0, 0), (7, 1)]);
    daemon.kill();
}

#[test]
fn a_retried_record_never_overwrites_what_is_newer() {
    let (_, shared, store, mut daemon) = live();
    let lost = shared.world().append(at(0, 0), "7", Some("no json"));
    shared.advance_clock(5_000);
    shared.world().append(at(0, 0), "7", Some(&user(7, 2)));
    shared.world().append(at(0, 0), "8", Some(&user(8, 2)));
    shared.world().append(at(0, 0), "8", None);
    read_on(&mut daemon, &shared);
    assert_eq!(rows(&store, 0), [(0, 0), (7, 2)]);
    // Not even when the highest timestamp of the partition has grown since.
    let outcomes = try_again(
        &mut daemon,
        &shared,
        vec![found(lost, &user(7, 1)), found(lost, &user(8, 1)), found(lost, &user(9, 1))],
    );
    assert_eq!(outcomes, [Outcome::Superseded, Outcome::Superseded, Outcome::Applied]);
    assert_eq!(rows(&store, 0), [(0, 0), (7, 2), (9, 1)]);
    daemon.kill();
}

/// Its timestamp did not count for what came behind it, and counted for itself when it was retried.
#[test]
fn a_retried_record_that_was_too_large_never_overwrites_what_is_newer() {
    let small = USERS.replace("'localhost:9092'", "'localhost:9092', max_record_bytes: 1KiB");
    let (_, shared, store, mut daemon) = live_with(&small, 1);
    let large = format!(r#"{{"id":7,"n":1,"note":"{}"}}"#, "x".repeat(2_000));
    shared.advance_clock(5_000);
    let lost = shared.world().append(at(0, 0), "7", Some(&large));
    shared.world().append(at(0, 0), "7", Some(&user(7, 2)));
    // A producer whose clock is behind.
    shared.world().logs.get_mut(&at(0, 0)).unwrap().records.last_mut().unwrap().at_ms -= 2_000;
    read_on(&mut daemon, &shared);
    let order_ms = store.dead_letters()[0].origin.order_ms;
    assert_eq!((rows(&store, 0), order_ms), (vec![(0, 0), (7, 2)], shared.now_ms()));
    daemon.kill();
    let mut daemon = Daemon::start(&config(USERS), &shared, store.clone());
    daemon.observe(&shared).unwrap();
    let outcomes = try_again(&mut daemon, &shared, vec![Found { order_ms, ..found(lost, &large) }]);
    assert_eq!(outcomes, [Outcome::Superseded]);
    assert_eq!(rows(&store, 0), [(0, 0), (7, 2)]);
    daemon.kill();
}

#[test]
fn a_record_that_is_not_passed_changes_nothing_of_its_partition() {
    let text = format!("{USERS}defaults: {{ on_error: stop }}\n");
    let (_, shared, store, daemon) = live_with(&text, 1);
    shared.advance_clock(1_000);
    shared.world().append(at(0, 0), "0", Some(&user(0, 1)));
    shared.advance_clock(60_000);
    shared.world().append(at(0, 0), "0", Some("no json"));
    shared.world().deliver_all();
    assert_eq!(daemon.run().0.unwrap_err().exit_code, 1);
    let positions = crate::store::Store::checkpoint(&mut store.clone()).unwrap().positions;
    let position = &positions[&at(0, 0)];
    assert_eq!(position.next_offset, 2);
    assert_eq!(position.memory.max_timestamp_ms, START_MS + 1_000);
    assert_eq!(position.memory.unlisted, None);
}

#[test]
fn the_place_of_a_dead_letter_in_its_partition_is_kept() {
    let (_, shared, store, mut daemon) = live();
    shared.advance_clock(1_000);
    shared.world().append(at(0, 0), "1", Some("no json"));
    shared.advance_clock(60_000);
    shared.world().append(at(0, 0), "1", Some(&user(1, 1)));
    read_on(&mut daemon, &shared);
    let letter = &store.dead_letters()[0];
    assert_eq!(letter.origin.order_ms, START_MS + 1_000);
    assert_eq!(letter.origin.digest, Some(crate::domain::dead_letter::digest(Some(b"1"), Some(b"no json"))));
    daemon.kill();
}

#[test]
fn a_record_that_is_refused_again_stays_with_the_new_reason() {
    let (_, shared, store, mut daemon) = live();
    let lost = shared.world().append(at(0, 0), "7", Some("no json"));
    read_on(&mut daemon, &shared);
    let outcomes = try_again(&mut daemon, &shared, vec![found(lost, r#"{"id":"x","n":1}"#)]);
    assert!(
        matches!(&outcomes[..], [Outcome::Refused(why)] if why.reason == Reason::WrongType),
        "{outcomes:?}"
    );
    let letters = store.dead_letters();
    assert_eq!((letters.len(), letters[0].rejection.reason), (1, Reason::WrongType));
    assert_eq!(rows(&store, 0), [(0, 0)]);
    daemon.kill();
}

#[test]
fn a_record_is_retried_for_all_its_tables_or_for_none_and_its_id_is_remembered() {
    let config = config(EVENTS);
    let shared = Shared::new();
    shared.world().add_partition(at(0, 0));
    let event = |id: i64, v: i64, n: i64, note: &str| {
        format!(r#"{{"type":"Set","event":"e{v}","v":{v},"id":{id},"n":{n},"note":{note}}}"#)
    };
    let lost = shared.world().append(at(0, 0), "1", Some(&event(1, 1, 1, "7")));
    let store = memory_store(&config);
    let mut daemon = Daemon::start(&config, &shared, store.clone());
    daemon.observe(&shared).unwrap();
    read_on(&mut daemon, &shared);
    // `note` is no text: the record is in neither table.
    assert_eq!((rows(&store, 0).len(), store.dead_letters().len()), (0, 1));
    let again = try_again(&mut daemon, &shared, vec![found(lost, &event(1, 1, 1, "7"))]);
    assert!(matches!(again[..], [Outcome::Refused(_)]));
    assert_eq!((rows(&store, 0).len(), store.dead_letters().len()), (0, 1));
    let good = event(1, 1, 1, r#""x""#);
    assert_eq!(try_again(&mut daemon, &shared, vec![found(lost, &good)]), [Outcome::Applied]);
    assert_eq!((rows(&store, 0), rows(&store, 1)), (vec![(1, 1)], vec![(1, 1)]));
    assert!(store.dead_letters().is_empty());
    // The producer sends it once more, and so does the person.
    shared.world().append(at(0, 0), "1", Some(&good));
    read_on(&mut daemon, &shared);
    let outcomes = try_again(&mut daemon, &shared, vec![found(lost, &good)]);
    assert_eq!(outcomes, [Outcome::Skipped(Skip::Duplicate)]);
    let stored = crate::store::Store::checkpoint(&mut store.clone()).unwrap().event_ids;
    assert_eq!(stored[&0].len(), 1);
    daemon.kill();
}

#[test]
fn a_retry_survives_a_store_that_refuses_and_a_reply_that_is_lost() {
    let (_, shared, store, mut daemon) = live();
    let lost = shared.world().append(at(0, 0), "7", Some("no json"));
    read_on(&mut daemon, &shared);
    store.plan(Fault::Refuse(crate::domain::retry::RetryReason::Busy));
    store.plan(Fault::LoseReply);
    try_again(&mut daemon, &shared, vec![found(lost, &user(7, 1))]);
    assert_eq!(rows(&store, 0), [(0, 0), (7, 1)]);
    assert!(store.dead_letters().is_empty());
    daemon.kill();
}

#[test]
fn a_retry_shares_a_batch_with_what_has_just_been_read() {
    let (_, shared, store, mut daemon) = live();
    let lost = shared.world().append(at(0, 0), "7", Some("no json"));
    read_on(&mut daemon, &shared);
    for n in 0..5 {
        shared.world().append(at(0, 0), "7", Some(&user(7, n)));
    }
    shared.world().deliveries.push_back(Delivery::Records(at(0, 0), 5));
    let outcomes = try_again(&mut daemon, &shared, vec![found(lost, &user(7, 99))]);
    assert_eq!(rows(&store, 0), [(0, 0), (7, 4)]);
    assert!(matches!(outcomes[..], [Outcome::Applied | Outcome::Superseded]), "{outcomes:?}");
    daemon.kill();
}

fn sides<'a>(daemon: &'a Daemon, plan: &'a Plan, reader: &'a dyn Reader, metrics: &'a Metrics) -> Sides<'a> {
    Sides { catalog: plan.catalog(), reader, desk: &daemon.progress.letters, metrics, now_ms: START_MS }
}

/// A running daemon whose log has letters at offsets 1 to 4, and what a retry makes of it.
#[test]
fn what_the_log_says_decides_what_a_retry_does() {
    let text = USERS.replace("{ max: 3 }", "{ max: 100, keep: bytes }");
    let (config, shared, store, mut daemon) = live_with(&text, 1);
    for n in 1..=5 {
        shared.world().append(at(0, 0), "k", Some(&format!("bad {n}")));
    }
    read_on(&mut daemon, &shared);
    assert_eq!(store.dead_letters().len(), 5);
    let log = |places: &[Place], _: crate::source::kafka::fetch::Limits| {
        let offsets: Vec<i64> = places.iter().map(|place| place.offset).collect();
        assert_eq!(offsets, [1, 2, 3, 4, 5]);
        vec![
            Fetched::Record(record("bad 1")),
            Fetched::Record(record("somebody else's")),
            Fetched::Gone("retention".into()),
            Fetched::Unreachable("down".into()),
            Fetched::NotTried,
        ]
    };
    let plan = Plan::compile(&config);
    let metrics = Metrics::new(plan.catalog());
    let reader = store.reader();
    daemon.progress.letters.open();
    let report = std::thread::scope(|scope| {
        let sides = sides(&daemon, &plan, &reader, &metrics);
        let asking = scope.spawn(move || retry(&sides, &log, &Selection::default(), false));
        let desk = &daemon.progress.letters;
        let errand = until(|| desk.take());
        let Work::Retry(records) = &errand.work else { panic!("{errand:?}") };
        // What is gone, or is another record now, comes from what was kept.
        let values: Vec<_> = records.iter().map(|found| found.record.value.clone().unwrap()).collect();
        assert_eq!(values, [b"bad 1", b"bad 2", b"bad 3", b"bad 4"]);
        let outcomes = vec![Outcome::Applied, Outcome::Superseded, Outcome::Applied, Outcome::Applied];
        errand.reply.send(Done { outcomes, dropped: 0 }).unwrap();
        asking.join().unwrap().unwrap()
    });
    let results: Vec<RetryResult> = report.records.iter().map(|record| record.result).collect();
    use RetryResult::{Applied, Superseded};
    assert_eq!(results, [Applied, Superseded, Applied, Applied]);
    assert_eq!(report.next.as_deref(), Some("users/0/4/"));
    daemon.kill();
}

#[test]
fn without_bytes_what_the_log_has_lost_stays_and_is_said() {
    let (config, shared, store, mut daemon) = live();
    for n in 1..=3 {
        shared.world().append(at(0, 0), "k", Some(&format!("bad {n}")));
    }
    read_on(&mut daemon, &shared);
    let log = |_: &[Place], _: crate::source::kafka::fetch::Limits| {
        vec![
            Fetched::Record(record("another")),
            Fetched::Gone("retention".into()),
            Fetched::Unreachable("down".into()),
        ]
    };
    let plan = Plan::compile(&config);
    let metrics = Metrics::new(plan.catalog());
    let reader = store.reader();
    let asked = Selection::default();
    let report = retry(&sides(&daemon, &plan, &reader, &metrics), &log, &asked, false).unwrap();
    let results: Vec<RetryResult> = report.records.iter().map(|record| record.result).collect();
    assert_eq!(results, [RetryResult::Gone, RetryResult::Gone, RetryResult::Unreachable]);
    assert!(report.records[0].message.as_ref().unwrap().contains("another record"), "{report:?}");
    assert_eq!(store.dead_letters().len(), 3);
    // So late that a delete may have been forgotten: not without force.
    let late = Sides { now_ms: START_MS + 8 * 86_400_000, ..sides(&daemon, &plan, &reader, &metrics) };
    let unasked = |_: &[Place], _: crate::source::kafka::fetch::Limits| panic!("the log is not asked");
    let report = retry(&late, &unasked, &asked, false).unwrap();
    assert!(report.records.iter().all(|record| record.result == RetryResult::TooOld), "{report:?}");
    let report = retry(&late, &log, &asked, true).unwrap();
    assert!(report.records.iter().all(|record| record.result != RetryResult::TooOld), "{report:?}");
    // No pipeline takes what could be tried.
    let good = |_: &[Place], _: crate::source::kafka::fetch::Limits| {
        (1..=3).map(|n| Fetched::Record(record(&format!("bad {n}")))).collect()
    };
    let refused = retry(&sides(&daemon, &plan, &reader, &metrics), &good, &asked, false);
    assert!(matches!(refused, Err(LettersError::NotTaken)), "{refused:?}");
    daemon.kill();
}

pub(super) fn until<T>(mut look: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(started.elapsed() < Duration::from_secs(20), "not seen in time");
        std::thread::yield_now();
    }
}

#[test]
fn what_is_dropped_is_gone_and_makes_room() {
    let (config, shared, store, mut daemon) = live();
    for n in 1..=3 {
        shared.world().append(at(0, 0), "k", Some(&format!("bad {n}")));
    }
    read_on(&mut daemon, &shared);
    let id = |offset| LetterId { at: TopicPartition { topic: 0, partition: 0 }, offset, table: None };
    let done = ask(&daemon, Work::Drop(vec![id(1), id(2), id(9)]));
    daemon.settle(&shared).unwrap();
    assert_eq!(done.try_recv().unwrap().dropped, 2);
    assert_eq!(store.dead_letters().len(), 1);
    // `dead_letters.max` is 3: two more fit now, and then no more.
    shared.world().append(at(0, 0), "k", Some("bad 4"));
    shared.world().append(at(0, 0), "k", Some("bad 5"));
    read_on(&mut daemon, &shared);
    let plan = Plan::compile(&config);
    let (metrics, reader) = (Metrics::new(plan.catalog()), store.reader());
    daemon.progress.letters.close();
    let refused = drop_letters(&sides(&daemon, &plan, &reader, &metrics), &Selection::default());
    assert!(matches!(refused, Err(LettersError::NotTaken)), "{refused:?}");
    daemon.kill();
}

#[test]
fn the_daemon_stops_before_one_dead_letter_too_many_and_again_at_the_same_place() {
    let (config, shared, store, daemon) = live();
    for n in 1..=5 {
        shared.world().append(at(0, 0), "k", Some(&format!("bad {n}")));
        shared.world().append(at(0, 0), "0", Some(&user(0, n)));
    }
    shared.world().deliver_all();
    let (outcome, _) = daemon.run();
    let failure = outcome.unwrap_err();
    assert_eq!(failure.exit_code, 1);
    for part in ["table users", "dead_letters.max: 3", "offset 7", "readside dead-letters"] {
        assert!(failure.reason.contains(part), "{part}: {failure}");
    }
    for _ in 0..3 {
        // Exactly three, and everything before the fourth is applied.
        assert_eq!((store.dead_letters().len(), rows(&store, 0)), (3, vec![(0, 3)]));
        assert!(stopped(&store, &shared).is_some());
        let mut again = Daemon::start(&config, &shared, store.clone());
        again.observe(&shared).unwrap();
        shared.world().deliver_all();
        assert_eq!(again.run().0.unwrap_err().exit_code, 1);
    }
    // A higher limit, and it goes on where it stopped.
    let higher = crate::config::Config {
        dead_letters: crate::config::DeadLetters { max: 5, ..config.dead_letters.clone() },
        ..config
    };
    let mut again = Daemon::start(&higher, &shared, store.clone());
    again.observe(&shared).unwrap();
    read_on(&mut again, &shared);
    assert_eq!((store.dead_letters().len(), rows(&store, 0)), (5, vec![(0, 5)]));
    again.kill();
}

#[test]
fn too_many_in_a_minute_of_the_log_stop_the_daemon_however_fast_it_reads() {
    let text = USERS.replace("{ max: 3 }", "{ max: 1000, max_rate: 2/1m }");
    let (_, shared, store, mut daemon) = live_with(&text, 1);
    for _ in 0..50 {
        shared.world().append(at(0, 0), "k", Some("bad"));
        shared.advance_clock(31_000);
    }
    read_on(&mut daemon, &shared);
    assert_eq!(store.dead_letters().len(), 50);
    for _ in 0..3 {
        shared.world().append(at(0, 0), "k", Some("bad"));
    }
    shared.world().deliver_all();
    let failure = daemon.settle(&shared).unwrap_err();
    assert!(failure.reason.contains("dead_letters.max_rate: 2 within 60s"), "{failure}");
    daemon.kill();
}
