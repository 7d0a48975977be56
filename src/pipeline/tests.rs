//! The pipeline between a scripted log and a real store.

mod debezium;
mod gaps;
mod letters;
mod producing;
mod rebuilds;
mod simulation;
mod snapshots;
mod support;

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::progress::Loops;
use super::writer::{Done, Work, Writer};
use super::{Context, Ended};
use crate::config::Config;
use crate::domain::checkpoint::Checkpoint;
use crate::domain::retry::RetryReason;
use crate::domain::state::State;
use crate::domain::value::Value;
use crate::mapping::Plan;
use crate::metrics::Metrics;
use crate::store::around::Around;
use crate::store::{Fault, MemoryStore, Reader, RowLookup, StopCode, Store, StoreError};
use crate::testing::PATIENCE;
use support::{Daemon, Delivery, START_MS, Shared, at, config, memory_store};

const USERS: &str = "
kafka: { brokers: 'localhost:9092' }
replica: { name: test, sqlite: { path: /nowhere/replica.db } }
dead_letters: { max: 3 }
topics:
  users: { format: json }
tables:
  users: { topic: users, key: id, columns: { id: integer, n: integer } }
";

fn user(id: i64, n: i64) -> String {
    format!(r#"{{"id":{id},"n":{n}}}"#)
}

/// With the policy to stop at a gap.
fn stopping() -> String {
    format!("{USERS}defaults: {{ on_gap: stop }}\n")
}

/// A copy of one topic that has become whole, and is idle.
fn live() -> (Config, Shared, MemoryStore, Daemon) {
    live_with(USERS, 1)
}

fn live_with(text: &str, partitions: i32) -> (Config, Shared, MemoryStore, Daemon) {
    let config = config(text);
    let shared = Shared::new();
    for partition in 0..partitions {
        shared.world().add_partition(at(0, partition));
        shared.world().append(at(0, partition), &partition.to_string(), Some(&user(partition.into(), 0)));
    }
    let store = memory_store(&config);
    let mut daemon = Daemon::start(&config, &shared, store.clone());
    daemon.observe(&shared).unwrap();
    shared.world().deliver_all();
    daemon.settle(&shared).unwrap();
    assert!(daemon.progress.is_gate_open());
    (config, shared, store, daemon)
}

fn fresh_as_of_ms(store: &MemoryStore, shared: &Shared) -> Option<i64> {
    store.reader().status(shared.now_ms()).unwrap().fresh_as_of_ms
}

fn stopped(store: &MemoryStore, shared: &Shared) -> Option<String> {
    let status = store.reader().status(shared.now_ms()).unwrap();
    assert_eq!(status.stopped.is_some(), status.state == State::Stopped);
    status.stopped
}

#[test]
fn what_is_committed_does_not_wait_for_the_next_record_to_be_noticed() {
    let (_, shared, _, mut daemon) = live();
    let before = shared.world().wakes;
    shared.world().append(at(0, 0), "1", Some(&user(1, 1)));
    shared.world().deliver_all();
    daemon.settle(&shared).unwrap();
    let deadline = Instant::now() + PATIENCE;
    while shared.world().wakes == before {
        assert!(Instant::now() < deadline, "nobody is told that the batch is done");
        std::thread::yield_now();
    }
}

#[test]
fn a_topic_that_grows_between_question_and_answer_stays_fresh_and_trusted() {
    let (_, shared, store, mut daemon) = live();
    for n in 1..20 {
        shared.advance_clock(1_000);
        let mut world = shared.world();
        let asked = world.ask();
        // What is appended while the answer is on its way is read before it.
        world.append(at(0, 0), "0", Some(&user(0, n)));
        world.deliveries.push_back(Delivery::Records(at(0, 0), 1));
        drop(world);
        daemon.settle(&shared).unwrap();
        shared.advance_clock(10);
        shared.world().deliveries.push_back(Delivery::Observation(asked));
        daemon.settle(&shared).unwrap();
        assert_eq!(fresh_as_of_ms(&store, &shared), Some(shared.now_ms() - 10));
    }
    daemon.kill();
}

/// It is told by the rounds that find it, with the offset at which it holds the partition back.
#[test]
fn an_open_transaction_is_told_as_long_as_rounds_find_it() {
    let (_, shared, _, mut daemon) = live();
    let told = |daemon: &Daemon| {
        daemon.progress.read(|shared| {
            shared.open_transactions.iter().map(|open| (open.offset, open.seconds)).collect::<Vec<_>>()
        })
    };
    let round = |daemon: &mut Daemon| {
        shared.advance_clock(1_000);
        daemon.observe(&shared).unwrap();
    };
    let offset = shared.world().append_open(at(0, 0), "9", Some(&user(9, 1)));
    for _ in 0..10 {
        round(&mut daemon);
        assert_eq!(told(&daemon), []);
    }
    // It is suspicious, and the next round asks what can be read.
    shared.world().details = true;
    round(&mut daemon);
    round(&mut daemon);
    assert_eq!(told(&daemon).len(), 1);
    assert_eq!(told(&daemon)[0].0, offset);
    assert!(told(&daemon)[0].1 >= 10);
    // The brokers do not tell of the topic any more.
    shared.advance_clock(1_000);
    let mut without = shared.world().ask();
    without.topics.clear();
    shared.world().deliveries.push_back(Delivery::Observation(without));
    daemon.settle(&shared).unwrap();
    assert_eq!(told(&daemon), []);
    round(&mut daemon);
    assert_eq!(told(&daemon).len(), 1);
    shared.world().deliveries.push_back(Delivery::Unreachable);
    daemon.settle(&shared).unwrap();
    assert_eq!(told(&daemon), []);
    shared.world().commit(at(0, 0));
    shared.world().deliver_all();
    round(&mut daemon);
    assert_eq!(told(&daemon), []);
    daemon.kill();
}

#[test]
fn a_truncated_log_is_noticed_by_rounds_asked_after_the_records_were_read() {
    let (_, shared, store, mut daemon) = live_with(&stopping(), 1);
    shared.advance_clock(1_000);
    daemon.observe(&shared).unwrap();
    let before = fresh_as_of_ms(&store, &shared);
    {
        let mut world = shared.world();
        let log = world.logs.get_mut(&at(0, 0)).unwrap();
        (log.end, log.stable) = (0, 0);
        log.records.clear();
    }
    let mut rounds = 0;
    let failure = loop {
        shared.advance_clock(1_000);
        if let Err(failure) = daemon.observe(&shared) {
            break failure;
        }
        assert_eq!(fresh_as_of_ms(&store, &shared), before, "freshness stands still meanwhile");
        rounds += 1;
        assert!(rounds < 10);
    };
    assert_eq!(failure.exit_code, 78);
    assert!(failure.reason.contains("truncated"), "{failure}");
    daemon.kill();
}

#[test]
fn old_rounds_that_waited_are_no_proof_against_the_log() {
    let (_, shared, store, mut daemon) = live();
    shared.advance_clock(1_000);
    daemon.observe(&shared).unwrap();
    // The pipeline was busy: eight rounds waited, and behind each of them the log grew.
    for n in 0..8 {
        shared.advance_clock(1_000);
        let mut world = shared.world();
        let asked = world.ask();
        world.append(at(0, 0), "0", Some(&user(0, n)));
        world.deliveries.push_back(Delivery::Observation(asked));
    }
    shared.advance_clock(1_000);
    shared.world().deliveries.push_front(Delivery::Records(at(0, 0), 8));
    daemon.settle(&shared).unwrap();
    assert_eq!(fresh_as_of_ms(&store, &shared), Some(shared.now_ms() - 1_000));
    daemon.kill();
}

#[test]
fn a_stop_while_the_store_refuses_is_quick_and_no_failure() {
    let (_, shared, store, daemon) = live();
    for _ in 0..1_000 {
        store.plan(Fault::Refuse(RetryReason::DiskFull));
    }
    shared.world().append(at(0, 0), "1", Some(&user(1, 1)));
    shared.world().deliver_all();
    let (stop, progress) = (daemon.stop.clone(), daemon.progress.clone());
    let running = std::thread::spawn(move || daemon.run());
    let mut changes = progress.subscribe();
    while progress.read(|shared| shared.store_failing.is_none()) {
        let waiting = changes.changed();
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(waiting).unwrap();
    }
    stop.store(true, Ordering::Relaxed);
    let (outcome, _) = running.join().unwrap();
    assert_eq!(outcome, Ok(Ended::Stopped));
    assert_eq!(stopped(&store, &shared), None);
}

#[test]
fn a_failure_while_the_store_refuses_still_ends_the_process() {
    let (_, shared, store, daemon) = live();
    for _ in 0..1_000 {
        store.plan(Fault::Refuse(RetryReason::DiskFull));
    }
    shared.world().cluster_id = "another".into();
    let observation = shared.world().ask();
    shared.world().append(at(0, 0), "1", Some(&user(1, 1)));
    shared.world().deliver_all();
    shared.world().deliveries.push_back(Delivery::Observation(observation));
    let (sender, ended) = std::sync::mpsc::channel();
    std::thread::spawn(move || sender.send(daemon.run()));
    let (outcome, _) = ended.recv_timeout(PATIENCE).expect("it ends although the store refuses");
    assert_eq!(outcome.unwrap_err().exit_code, 78);
}

#[test]
fn readers_are_told_of_the_stop_when_dead_letters_overflow_with_batches_under_way() {
    let (_, shared, store, mut daemon) = live();
    for n in 0..5 {
        shared.world().append(at(0, 0), "0", Some("no json"));
        shared.world().append(at(0, 0), "0", Some(&user(0, n)));
    }
    shared.world().deliveries.push_back(Delivery::Records(at(0, 0), 4));
    daemon.pipeline.round().unwrap();
    assert_eq!(daemon.pipeline.in_flight, 1);
    shared.world().deliveries.push_back(Delivery::Records(at(0, 0), 2));
    daemon.hand_over_another(&shared);
    // Two batches are on their way when the one too many is read.
    shared.world().deliveries.push_back(Delivery::Records(at(0, 0), 4));
    let (outcome, _) = daemon.run();
    assert_eq!(outcome.unwrap_err().exit_code, 1);
    assert!(stopped(&store, &shared).is_some_and(|reason| reason.contains("dead_letters.max")));
}

#[test]
fn a_live_copy_puts_rows_aside_while_it_is_far_behind_and_no_longer() {
    let (config, shared, store, daemon) = live_with(USERS, 2);
    daemon.kill();
    for n in 1..=40 {
        let id = n % 5;
        shared.world().append(at(0, id % 2), &id.to_string(), Some(&user(id.into(), n.into())));
    }
    shared.world().far_behind = Some(10);
    let mut daemon = Daemon::start(&config, &shared, store.clone());
    assert!(!daemon.pipeline.intake.is_catching_up(), "how far it is behind is not known");
    daemon.observe(&shared).unwrap();
    assert!(daemon.pipeline.intake.is_catching_up());
    shared.world().deliveries.push_back(Delivery::Records(at(0, 0), 24));
    daemon.hand_over_another(&shared);
    assert!(daemon.pipeline.intake.is_catching_up(), "16 records are left");
    shared.world().deliveries.push_back(Delivery::Records(at(0, 1), 10));
    daemon.hand_over_another(&shared);
    assert!(!daemon.pipeline.intake.is_catching_up(), "6 are left");
    shared.world().deliver_all();
    daemon.settle(&shared).unwrap();
    for id in 0..5_i64 {
        let newest = if id == 0 { 40 } else { 35 + id };
        let RowLookup::Visible { values, .. } = store.reader().row(0, &[Value::Integer(id)]).unwrap() else {
            panic!("row {id} is not there");
        };
        assert_eq!(values[1], Value::Integer(newest));
    }
}

/// A store whose first batch with rows hits something that is damaged.
fn damaged(store: MemoryStore, exit: StopCode) -> Around<MemoryStore> {
    let mut damaged = Some(exit);
    Around::new(store).before_apply(move |batch| match damaged.take_if(|_| !batch.entries.is_empty()) {
        Some(exit) => Err(StoreError::Stop { exit, message: "a damaged page".into() }),
        None => Ok(()),
    })
}

/// A daemon that was fresh, with a batch of one record under way that will fail, and behind it the
/// answer to a question that was asked after the record: fresh, if the record were there.
fn about_to_fail(exit: StopCode) -> (Config, Shared, MemoryStore, Daemon) {
    let (config, shared, store, daemon) = live_with(USERS, 2);
    daemon.kill();
    let before = fresh_as_of_ms(&store, &shared);
    assert!(before.is_some());
    let mut daemon = Daemon::start(&config, &shared, damaged(store.clone(), exit));
    shared.advance_clock(1_000);
    daemon.observe(&shared).unwrap();
    // The client is where we are: proofs count.
    shared.world().deliver_all();
    daemon.settle(&shared).unwrap();
    assert_eq!(fresh_as_of_ms(&store, &shared), Some(shared.now_ms()));
    shared.world().append(at(0, 0), "0", Some(&user(0, 1)));
    shared.world().deliveries.push_back(Delivery::Records(at(0, 0), 1));
    daemon.pipeline.round().unwrap();
    assert_eq!(daemon.pipeline.in_flight, 1, "the batch that will fail");
    shared.advance_clock(1_000);
    let observation = shared.world().ask();
    shared.world().deliveries.push_back(Delivery::Observation(observation));
    daemon.hand_over_another(&shared);
    (config, shared, store, daemon)
}

#[test]
fn each_batch_is_prepared_before_its_turn() {
    let (config, shared, store, daemon) = live_with(USERS, 1);
    daemon.kill();
    let (prepared, applied) = <(Arc<Mutex<Vec<u64>>>, Arc<Mutex<Vec<bool>>>)>::default();
    let (preparing, seen, noted) = (prepared.clone(), prepared, applied.clone());
    let store = Around::new(store)
        .prepared_by(Arc::new(move |batch| preparing.lock().unwrap().push(batch.id)))
        .before_apply(move |batch| {
            noted.lock().unwrap().push(seen.lock().unwrap().contains(&batch.id));
            Ok(())
        });
    let mut daemon = Daemon::start(&config, &shared, store);
    shared.advance_clock(1_000);
    daemon.observe(&shared).unwrap();
    for n in 0..3 {
        shared.world().append(at(0, 0), "1", Some(&user(1, n)));
        shared.world().deliver_all();
        daemon.settle(&shared).unwrap();
    }
    daemon.kill();
    let applied = applied.lock().unwrap();
    assert!(applied.len() >= 4 && applied.iter().all(|was_prepared| *was_prepared), "{applied:?}");
}

/// Else a step that takes long would look like a loop that hangs, and be killed and begun again for ever.
#[test]
fn a_writer_that_is_inside_the_store_says_so() {
    let (config, shared, store, daemon) = live();
    daemon.kill();
    let (entered, inside) = std::sync::mpsc::channel();
    let (release, released) = std::sync::mpsc::channel::<()>();
    let store = Around::new(store).before_apply(move |_| {
        entered.send(()).unwrap();
        // Nobody waits any more at the end.
        let _ = released.recv();
        Ok(())
    });
    let mut daemon = Daemon::start(&config, &shared, store);
    shared.world().append(at(0, 0), "1", Some(&user(1, 1)));
    shared.world().deliver_all();
    daemon.pipeline.round().unwrap();
    let entered_ms = shared.now_ms();
    inside.recv().unwrap();
    shared.advance_clock(60_000);
    daemon.pipeline.round().unwrap();
    let loops = Loops { pipeline_ms: shared.now_ms(), writer_ms: entered_ms, in_store: true };
    assert_eq!(daemon.progress.loops(), loops);
    drop(release);
    daemon.settle(&shared).unwrap();
    assert_eq!(daemon.progress.loops().writer_ms, shared.now_ms());
    daemon.kill();
}

/// Batches go on being taken by a file that was deleted, where nobody sees them: found by a run in which
/// the replica's directory was removed.
#[test]
fn what_housekeeping_finds_for_good_ends_the_writing() {
    let (config, _, store, daemon) = live_with(USERS, 1);
    daemon.kill();
    let (moved, looked) = std::sync::mpsc::channel();
    let context = Context {
        clock: Arc::new(|| START_MS),
        metrics: Arc::new(Metrics::new(Plan::compile(&config).catalog())),
        progress: Arc::default(),
        stop: Arc::default(),
    };
    let store = Around::new(store).before_maintain(move || {
        let _ = moved.send(());
        Err(StoreError::Stop { exit: StopCode::Io, message: "the file was deleted".into() })
    });
    let mut writer = Writer::spawn(store, context).unwrap();
    let (work, done) = writer.channels(Arc::new(|| {}));
    looked.recv().unwrap();
    work.send(Work::Batch(Box::default())).unwrap();
    assert!(matches!(done.recv().unwrap(), Done::Failed(failure) if failure.exit_code == 74));
    drop((work, done));
    writer.join();
}

#[test]
fn nothing_that_counts_on_a_failed_batch_is_written_after_it() {
    let (_, shared, store, daemon) = about_to_fail(StopCode::Io);
    let fresh = fresh_as_of_ms(&store, &shared);
    let (outcome, _) = daemon.run();
    assert_eq!(outcome.unwrap_err().exit_code, 74);
    assert_eq!(fresh_as_of_ms(&store, &shared), fresh, "the record is not there");
    assert!(stopped(&store, &shared).is_some_and(|reason| reason.contains("damaged")));
}

#[test]
fn a_lost_replica_ends_the_pipeline_and_not_the_daemon() {
    // What was on its way behind the loss is not written.
    let (config, shared, store, mut daemon) = about_to_fail(StopCode::Lost);
    let fresh = fresh_as_of_ms(&store, &shared);
    assert_eq!(daemon.pipeline.run(), Ok(super::Ended::Lost { reason: "a damaged page".into() }));
    daemon.writer.take().unwrap().join();
    assert_eq!(fresh_as_of_ms(&store, &shared), fresh);
    assert_eq!(stopped(&store, &shared), None, "nobody is needed");
    assert!(daemon.progress.read(|shared| shared.stopped.is_none()));
    // From what the store has, the same records are read again.
    let mut daemon = Daemon::start(&config, &shared, store.clone());
    daemon.observe(&shared).unwrap();
    shared.world().deliver_all();
    shared.advance_clock(1_000);
    daemon.observe(&shared).unwrap();
    assert!(fresh_as_of_ms(&store, &shared) > fresh);
    daemon.kill();
}

#[test]
fn a_new_partition_whose_first_records_are_gone_is_a_gap_of_a_whole_copy() {
    let (_, shared, _, mut daemon) = live_with(&stopping(), 1);
    {
        let mut world = shared.world();
        world.add_partition(at(0, 1));
        let log = world.logs.get_mut(&at(0, 1)).unwrap();
        (log.start, log.end, log.stable) = (7, 9, 9);
    }
    shared.advance_clock(1_000);
    // The first round meets a partition whose beginning it has not asked for.
    daemon.observe(&shared).unwrap();
    shared.advance_clock(1_000);
    let failure = daemon.observe(&shared).unwrap_err();
    assert_eq!(failure.exit_code, 78);
    assert!(failure.reason.contains("records 0 to 6"), "{failure}");
    daemon.kill();
}

#[test]
fn what_was_taken_before_another_log_was_noticed_is_dropped() {
    // With event ids, which are remembered apart from the rows.
    let text = stopping().replace("{ format: json }", "{ format: json, event_id: .n }");
    let (_, shared, store, daemon) = live_with(&text, 1);
    let stored = |store: &MemoryStore| {
        let checkpoint = store.clone().checkpoint().unwrap();
        (store.rows(0), Checkpoint { heartbeat_ms: None, ..checkpoint })
    };
    let before = stored(&store);
    {
        let mut world = shared.world();
        world.append(at(0, 0), "5", Some(&user(5, 5)));
        world.topic_ids.insert(0, "recreated".into());
        let observation = world.ask();
        world.deliveries.push_back(Delivery::Records(at(0, 0), 1));
        world.deliveries.push_back(Delivery::Observation(observation));
    }
    shared.advance_clock(1_000);
    let (outcome, _) = daemon.run();
    assert_eq!(outcome.unwrap_err().exit_code, 78);
    assert_eq!(before, stored(&store));
}

#[test]
fn the_gate_waits_for_partitions_that_a_broker_has_not_heard_of() {
    let config = config(USERS);
    let shared = Shared::new();
    shared.world().add_partition(at(0, 0));
    shared.world().add_partition(at(0, 1));
    let store = memory_store(&config);
    shared.world().append(at(0, 1), "1", Some(&user(1, 1)));
    let mut daemon = Daemon::start(&config, &shared, store.clone());
    daemon.observe(&shared).unwrap();
    // Killed before it was whole: nobody has read the record.
    daemon.kill();
    let mut daemon = Daemon::start(&config, &shared, store.clone());
    let mut partial = shared.world().ask();
    partial.topics.get_mut(&0).unwrap().partitions.remove(&1);
    let empty = {
        let mut empty = partial.clone();
        empty.topics.get_mut(&0).unwrap().partitions.clear();
        empty
    };
    for observation in [empty, partial] {
        shared.world().deliveries.push_back(Delivery::Observation(observation));
        daemon.settle(&shared).unwrap();
        assert!(!daemon.pipeline.intake.gate.is_caught_up());
        assert!(!store.clone().checkpoint().unwrap().complete);
    }
    daemon.kill();
}

#[test]
fn a_topic_that_is_deleted_makes_its_freshness_stand_still() {
    let (_, shared, store, mut daemon) = live();
    let before = fresh_as_of_ms(&store, &shared);
    for _ in 0..60 {
        shared.advance_clock(1_000);
        let mut gone = shared.world().ask();
        gone.topics.clear();
        shared.world().deliveries.push_back(Delivery::Observation(gone));
        daemon.settle(&shared).unwrap();
        assert_eq!(fresh_as_of_ms(&store, &shared), before);
    }
    let status = store.reader().status(shared.now_ms()).unwrap();
    assert_eq!(status.state, State::Stale);
    daemon.kill();
}

#[test]
fn a_record_that_stops_the_daemon_is_not_passed_and_what_came_before_it_is_kept() {
    let text = USERS.replace("{ format: json }", "{ format: json, on_error: stop }");
    let (config, shared, store, daemon) = live_with(&text, 2);
    {
        let mut world = shared.world();
        world.append(at(0, 0), "0", Some(&user(0, 1)));
        world.append(at(0, 0), "0", Some("no json"));
        world.append(at(0, 0), "0", Some(&user(0, 3)));
        world.append(at(0, 1), "1", Some(&user(1, 4)));
        world.deliver_all();
    }
    for daemon in [Some(daemon), None] {
        let daemon = daemon.unwrap_or_else(|| {
            let daemon = Daemon::start(&config, &shared, store.clone());
            let observation = shared.world().ask();
            shared.world().deliveries.push_back(Delivery::Observation(observation));
            // Assigned by the first round, read by the next.
            for _ in 0..2 {
                shared.world().deliveries.push_back(Delivery::Unreachable);
            }
            let mut daemon = daemon;
            daemon.settle(&shared).unwrap();
            shared.world().deliver_all();
            daemon
        });
        let (outcome, _) = daemon.run();
        let failure = outcome.unwrap_err();
        assert_eq!(failure.exit_code, 1);
        assert!(failure.reason.contains("partition 0 offset 2"), "{failure}");
        let positions = store.clone().checkpoint().unwrap().positions;
        assert_eq!((positions[&at(0, 0)].next_offset, positions[&at(0, 1)].next_offset), (2, 1));
        assert_eq!(store.rows(0).len(), 2);
        assert!(stopped(&store, &shared).is_some());
    }
}

#[test]
fn a_log_that_grows_as_fast_as_it_is_read_does_not_put_off_the_first_copy() {
    let config = config(USERS);
    let shared = Shared::new();
    shared.world().add_partition(at(0, 0));
    shared.world().append(at(0, 0), "0", Some(&user(0, 0)));
    let store = memory_store(&config);
    let mut daemon = Daemon::start(&config, &shared, store.clone());
    daemon.observe(&shared).unwrap();
    let mut rounds = 0;
    while !daemon.progress.is_gate_open() {
        {
            let mut world = shared.world();
            for n in 0..2_048 {
                world.append(at(0, 0), "0", Some(&user(0, n)));
            }
            world.deliveries.push_back(Delivery::Records(at(0, 0), 2_048));
        }
        daemon.pipeline.round().unwrap();
        // The writer is never seen without work.
        while daemon.pipeline.in_flight > 1 {
            daemon.pipeline.wait_done(Duration::from_secs(10)).unwrap();
        }
        rounds += 1;
        assert!(rounds < 40, "it opens while the log still grows");
    }
    daemon.kill();
}

#[test]
fn after_a_start_nothing_is_read_before_a_round_has_shown_the_same_log() {
    let (config, shared, store, daemon) = live();
    daemon.kill();
    let end = {
        let mut world = shared.world();
        std::mem::take(&mut world.logs.get_mut(&at(0, 0)).unwrap().end)
    };
    let mut daemon = Daemon::start(&config, &shared, store.clone());
    shared.advance_clock(1_000);
    daemon.observe(&shared).unwrap();
    assert!(shared.world().reading.is_empty(), "the log ends before our position");
    shared.world().logs.get_mut(&at(0, 0)).unwrap().end = end;
    shared.advance_clock(1_000);
    daemon.observe(&shared).unwrap();
    assert_eq!(shared.world().reading.get(&at(0, 0)), Some(&end));
    daemon.kill();
}

#[test]
fn a_topic_without_partitions_is_one_that_is_not_known_yet() {
    let config = config(USERS);
    let shared = Shared::new();
    shared.world().add_partition(at(0, 0));
    let store = memory_store(&config);
    let mut daemon = Daemon::start(&config, &shared, store.clone());
    let mut empty = shared.world().ask();
    empty.topics.get_mut(&0).unwrap().partitions.clear();
    shared.world().deliveries.push_back(Delivery::Observation(empty));
    daemon.settle(&shared).unwrap();
    assert!(!daemon.progress.is_gate_open());
    assert_eq!(fresh_as_of_ms(&store, &shared), None);
    daemon.observe(&shared).unwrap();
    assert!(daemon.progress.is_gate_open());
    daemon.kill();
}

#[test]
fn a_partition_that_stalls_is_read_again_from_its_position() {
    let config = config(USERS);
    let shared = Shared::new();
    shared.world().add_partition(at(0, 0));
    let store = memory_store(&config);
    let mut daemon = Daemon::start(&config, &shared, store.clone());
    daemon.observe(&shared).unwrap();
    shared.world().append(at(0, 0), "1", Some(r#"{"id":1,"name":"x"}"#));
    // The client says nothing any more: it has even forgotten what it was reading.
    shared.world().reading.clear();
    for _ in 0..40 {
        shared.advance_clock(1_000);
        daemon.observe(&shared).unwrap();
    }
    assert_eq!(shared.world().reading.get(&at(0, 0)), Some(&0), "assigned again, from where it stood");
    daemon.kill();
}

#[test]
fn a_wait_ends_when_it_was_told_to_stop() {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    let stop = Arc::new(AtomicBool::new(false));
    let goes_on = |stop: &AtomicBool| !stop.load(Ordering::Relaxed);
    assert!(super::pause(Duration::from_millis(1), &|| goes_on(&stop)));
    let waiting = {
        let stop = Arc::clone(&stop);
        std::thread::spawn(move || super::pause(Duration::from_secs(3_600), &|| goes_on(&stop)))
    };
    stop.store(true, Ordering::Relaxed);
    assert!(!waiting.join().unwrap());
}
