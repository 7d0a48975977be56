//! Each gap under each policy, with the scripted log.

use std::sync::mpsc::TryRecvError;
use std::time::Duration;

use super::support::{Daemon, Delivery, Shared, at, memory_store};
use super::{USERS, fresh_as_of_ms, live_with, user};
use crate::config::Config;
use crate::domain::state::State;
use crate::domain::value::Value;
use crate::pipeline::letters::Work;
use crate::pipeline::{Ended, Failure, Halt};
use crate::source::Cleanup;
use crate::store::{MemoryStore, Reader, Status, Store};

fn with(policy: &str) -> String {
    format!("{USERS}defaults: {{ on_gap: {policy} }}\n")
}

/// The same with a second topic and its table.
fn with_another(policy: &str) -> String {
    let text = with(policy).replace("tables:", "  z: { format: json }\ntables:");
    text.replace("defaults:", "  z: { topic: z, key: id, columns: { id: integer, n: integer } }\ndefaults:")
}

struct Run {
    config: Config,
    shared: Shared,
    store: MemoryStore,
    daemon: Daemon,
}

/// A whole copy with one row per partition, each written at offset 0 with `n` 0, and three more
/// records of key 0, read: partition 0 stands at 4.
fn run(text: &str, partitions: i32) -> Run {
    let (config, shared, store, mut daemon) = live_with(text, partitions);
    shared.advance_clock(1_000);
    for n in 1..=3 {
        shared.world().append(at(0, 0), "0", Some(&user(0, n)));
    }
    shared.world().deliver_all();
    daemon.settle(&shared).unwrap();
    let mut run = Run { config, shared, store, daemon };
    run.rounds(1).unwrap();
    assert_eq!(run.position(0), 4);
    run
}

impl Run {
    /// Rounds of questions, a second apart, with everything that can be read after each.
    fn rounds(&mut self, count: usize) -> Result<(), Halt> {
        for _ in 0..count {
            self.shared.advance_clock(1_000);
            self.daemon.observe_or_halt(&self.shared)?;
            self.shared.world().deliver_all();
            self.daemon.settle_or_halt(&self.shared)?;
        }
        Ok(())
    }

    /// The failure or the rebuild that ends it within a few rounds.
    fn halt(&mut self) -> Halt {
        self.rounds(8).expect_err("it ends")
    }

    fn restart(mut self) -> Run {
        self.daemon.kill();
        self.daemon = Daemon::start(&self.config, &self.shared, self.store.clone());
        self
    }

    fn status(&self) -> Status {
        self.store.reader().status(self.shared.now_ms()).unwrap()
    }

    fn position(&self, partition: i32) -> i64 {
        self.store.clone().checkpoint().unwrap().positions[&at(0, partition)].next_offset
    }

    fn gaps(&self, reason: &str) -> f64 {
        let text = self.daemon.pipeline.context.metrics.render(self.shared.now_ms());
        let series = format!("readside_gaps_total{{reason=\"{reason}\"}} ");
        let line = text.lines().find_map(|line| line.strip_prefix(&series)).expect("a series");
        line.parse().unwrap()
    }

    fn n_of(&self, id: i64) -> Option<Value> {
        let rows = self.store.rows(0);
        rows.into_iter().find(|row| row[0] == Value::Integer(id)).map(|row| row[1].clone())
    }

    /// It went on, was counted once, and says so; also after a restart.
    fn ends_incomplete(self, reason: &str) {
        assert_eq!(self.gaps(reason), 1.0);
        let mut run = self;
        for _ in 0..2 {
            let status = run.status();
            assert!(status.tables[0].missing_events && status.complete);
            assert_eq!(status.state, State::Incomplete);
            assert_eq!(status.fresh_as_of_ms, Some(run.shared.now_ms()));
            run = run.restart();
            run.rounds(2).unwrap();
            assert_eq!(run.gaps(reason), 0.0, "it was decided about");
        }
        run.daemon.kill();
    }
}

fn stopped(halt: Halt, because: &str) {
    match halt {
        Halt::Failed(Failure { exit_code: 78, reason }) => assert!(reason.contains(because), "{reason}"),
        other => panic!("{other:?}"),
    }
}

fn rebuilds(halt: Halt, because: &str) {
    match halt {
        Halt::Ended(Ended::Rebuild { reason }) => assert!(reason.contains(because), "{reason}"),
        other => panic!("{other:?}"),
    }
}

fn cleanup(compacts: bool, keeps_tombstones: Option<Duration>) -> Cleanup {
    let deletes_after = (!compacts).then_some(Duration::from_secs(600));
    Cleanup { compacts, deletes_after, deletes_beyond_bytes: None, keeps_tombstones }
}

/// The four ways to end up, for something that happens to a copy.
fn under_each_policy(what: &dyn Fn(&mut Run), reason: &str, because: &str) {
    let happened = |policy: &str, compacts: bool| {
        let mut run = run(&with(policy), 2);
        run.shared.world().cleanups.insert(0, cleanup(compacts, Some(Duration::from_secs(86_400))));
        what(&mut run);
        run
    };
    let mut run = happened("stop", true);
    let (before, halt) = (run.store.rows(0), run.halt());
    stopped(halt, because);
    assert_eq!(run.gaps(reason), 1.0);
    assert_eq!(run.store.rows(0), before);
    run.daemon.kill();
    let mut run = happened("rebuild", false);
    rebuilds(run.halt(), because);
    assert_eq!(run.gaps(reason), 1.0);
    run.daemon.kill();
    let mut run = happened("auto", true);
    rebuilds(run.halt(), because);
    assert!(!run.status().tables[0].missing_events);
    run.daemon.kill();
    let mut run = happened("continue", true);
    run.rounds(8).unwrap();
    run.ends_incomplete(reason);
}

#[test]
fn retention_that_passed_the_position() {
    let removed = |run: &mut Run| {
        let mut world = run.shared.world();
        for n in 4..=9 {
            world.append(at(0, 0), "0", Some(&user(0, n)));
        }
        world.retain_from(at(0, 0), 7);
    };
    under_each_policy(&removed, "retention", "records 4 to 6");
    // A log that has lost records and does not keep every key cannot give everything back.
    let mut run = run(&with("auto"), 2);
    run.shared.world().cleanups.insert(0, cleanup(false, None));
    removed(&mut run);
    run.rounds(3).unwrap();
    assert_eq!((run.position(0), run.n_of(0)), (10, Some(Value::Integer(9))));
    run.ends_incomplete("retention");
}

#[test]
fn retention_of_a_partition_that_was_added_meanwhile() {
    let added = |run: &mut Run| {
        let mut world = run.shared.world();
        world.add_partition(at(0, 2));
        for n in 0..9 {
            world.append(at(0, 2), "7", Some(&user(7, n)));
        }
        world.retain_from(at(0, 2), 7);
    };
    under_each_policy(&added, "retention", "records 0 to 6");
}

#[test]
fn a_topic_that_was_recreated() {
    for (partitions, records) in [(2, 2), (2, 20), (1, 3), (3, 20)] {
        let recreated = |run: &mut Run| {
            // Taken, not handed over, and never to be committed.
            let mut world = run.shared.world();
            world.recreate(0, "another", partitions);
            for n in 0..records {
                world.append(at(0, 0), "0", Some(&user(0, 100 + n)));
                world.append(at(0, partitions - 1), "5", Some(&user(5, n)));
            }
        };
        under_each_policy(&recreated, "recreated", "created again");
        let mut run = run(&with("continue"), 2);
        recreated(&mut run);
        run.rounds(3).unwrap();
        assert_eq!(run.n_of(0), Some(Value::Integer(99 + records)), "the new topic's record is newer");
        assert_eq!(run.n_of(5), Some(Value::Integer(records - 1)));
        assert_eq!(run.n_of(1), Some(Value::Integer(0)), "what the old topic had is kept");
        let checkpoint = run.store.clone().checkpoint().unwrap();
        assert_eq!(checkpoint.topic_ids[&0], "another");
        assert_eq!(checkpoint.positions.len() as i32, partitions);
        run.daemon.kill();
    }
}

#[test]
fn records_of_the_new_topic_that_came_before_the_round_do_no_harm() {
    let text = with("continue").replace("{ format: json }", "{ format: json, event_id: .n }");
    let mut run = run(&text, 1);
    {
        let mut world = run.shared.world();
        world.recreate(0, "another", 1);
        for n in 10..18 {
            world.append(at(0, 0), &(n % 2).to_string(), Some(&user(n % 2, n)));
        }
        // The client goes on at the old offset as if nothing had happened.
        world.reading.insert(at(0, 0), 4);
        world.deliver_all();
    }
    run.daemon.settle(&run.shared).unwrap();
    assert_eq!(run.position(0), 8);
    // And some more, which are taken and not sealed yet.
    {
        let mut world = run.shared.world();
        world.append(at(0, 0), "0", Some(&user(0, 20)));
        let observation = world.ask();
        world.deliveries.push_back(Delivery::Records(at(0, 0), 1));
        world.deliveries.push_back(Delivery::Observation(observation));
    }
    run.rounds(3).unwrap();
    assert_eq!((run.n_of(0), run.n_of(1)), (Some(Value::Integer(20)), Some(Value::Integer(17))));
    assert_eq!(run.position(0), 9);
    run.ends_incomplete("recreated");
}

#[test]
fn a_log_that_was_truncated_and_grew_again() {
    for grown in [0, 1, 10] {
        let truncated = |run: &mut Run| {
            let mut world = run.shared.world();
            world.truncate(at(0, 0), 2);
            for n in 0..grown {
                world.append(at(0, 0), "0", Some(&user(0, 100 + n)));
            }
        };
        under_each_policy(&truncated, "truncated", "records 2 to 3");
        let mut run = run(&with("continue"), 1);
        truncated(&mut run);
        run.rounds(8).unwrap();
        assert_eq!(run.position(0), 2 + grown);
        let newest = if grown == 0 { 3 } else { 99 + grown };
        assert_eq!(run.n_of(0), Some(Value::Integer(newest)));
        run.daemon.kill();
    }
}

/// A transaction that was begun under one leader and ended under the next: its marker is the first of
/// the new epoch, and no record tells of that.
#[test]
fn the_end_of_a_transaction_under_a_new_leader_is_no_gap() {
    for policy in ["stop", "rebuild", "continue"] {
        let mut run = run(&with(policy), 1);
        {
            let mut world = run.shared.world();
            world.elect(at(0, 0));
            world.control(at(0, 0));
            world.deliver_all();
        }
        run.daemon.settle(&run.shared).unwrap();
        assert_eq!(run.position(0), 5);
        let mut run = run.restart();
        run.rounds(3).unwrap();
        assert_eq!(run.gaps("truncated"), 0.0);
        run.shared.world().append(at(0, 0), "0", Some(&user(0, 9)));
        run.rounds(1).unwrap();
        assert_eq!((run.position(0), run.n_of(0)), (6, Some(Value::Integer(9))));
        run.daemon.kill();
    }
}

/// Behind such a marker a log that loses its end and grows again is noticed all the same.
#[test]
fn a_log_that_was_truncated_behind_the_end_of_a_transaction_and_grew_again() {
    let truncated = |run: &mut Run| {
        {
            let mut world = run.shared.world();
            world.elect(at(0, 0));
            world.control(at(0, 0));
            world.deliver_all();
        }
        run.rounds(1).unwrap();
        let mut world = run.shared.world();
        world.truncate(at(0, 0), 2);
        // What librdkafka does not compare: it knows no epoch of such a position.
        world.deliveries.clear();
        world.reading.insert(at(0, 0), 5);
        for n in 0..9 {
            world.append(at(0, 0), "0", Some(&user(0, 100 + n)));
        }
    };
    under_each_policy(&truncated, "truncated", "records 2 to 4");
    let mut run = run(&with("continue"), 1);
    truncated(&mut run);
    run.rounds(3).unwrap();
    assert_eq!((run.position(0), run.n_of(0)), (11, Some(Value::Integer(108))));
    run.daemon.kill();
}

/// A leader tells an end before records of its predecessor are committed: they come behind it, with
/// the older epoch.
#[test]
fn records_of_the_leader_before_are_taken_behind_an_end_that_the_next_one_told() {
    let mut run = run(&with("stop"), 1);
    {
        let mut world = run.shared.world();
        world.control(at(0, 0));
        world.deliver_all();
    }
    run.daemon.settle(&run.shared).unwrap();
    {
        let mut world = run.shared.world();
        world.append_open(at(0, 0), "0", Some(&user(0, 50)));
        world.elect(at(0, 0));
        // So far nobody reads further than this.
        let log = world.logs.get_mut(&at(0, 0)).unwrap();
        let end = std::mem::replace(&mut log.end, log.stable);
        let told = world.ask();
        world.logs.get_mut(&at(0, 0)).unwrap().end = end;
        world.deliveries.push_back(Delivery::Observation(told));
    }
    run.daemon.settle(&run.shared).unwrap();
    run.shared.world().commit(at(0, 0));
    run.rounds(4).unwrap();
    assert_eq!((run.position(0), run.n_of(0)), (6, Some(Value::Integer(50))));
    assert_eq!(run.gaps("truncated"), 0.0);
    run.daemon.kill();
}

#[test]
fn a_log_that_ends_too_early_without_an_epoch_that_says_where() {
    let cut = |run: &mut Run| {
        let mut world = run.shared.world();
        let log = world.logs.get_mut(&at(0, 0)).unwrap();
        (log.end, log.stable) = (2, 2);
        log.records.truncate(2);
    };
    under_each_policy(&cut, "truncated", "records 2 to 3");
}

#[test]
fn records_with_an_older_epoch_are_not_taken() {
    let mut run = run(&with("continue"), 1);
    {
        let mut world = run.shared.world();
        world.logs.get_mut(&at(0, 0)).unwrap().epoch = 5;
        world.append(at(0, 0), "0", Some(&user(0, 5)));
        world.deliver_all();
    }
    run.daemon.settle(&run.shared).unwrap();
    assert_eq!((run.position(0), run.n_of(0)), (5, Some(Value::Integer(5))));
    {
        let mut world = run.shared.world();
        world.recreate(0, "another", 1);
        for n in 10..20 {
            world.append(at(0, 0), "0", Some(&user(0, n)));
        }
        world.reading.insert(at(0, 0), 5);
        world.deliver_all();
    }
    run.daemon.settle(&run.shared).unwrap();
    assert_eq!((run.position(0), run.n_of(0)), (5, Some(Value::Integer(5))), "not before a round has told");
    run.rounds(3).unwrap();
    assert_eq!((run.position(0), run.n_of(0)), (10, Some(Value::Integer(19))));
    run.ends_incomplete("recreated");
}

/// Dead letters that are read again counted twice, and a retry was answered as if it were applied.
#[test]
fn of_a_batch_that_is_dropped_nothing_counts_as_done() {
    let (config, shared) = (super::support::config(&with_another("continue")), Shared::new());
    shared.world().add_partition(at(0, 0));
    shared.world().add_partition(at(1, 0));
    let store = memory_store(&config);
    let daemon = Daemon::start(&config, &shared, store.clone());
    let mut run = Run { config, shared, store, daemon };
    run.rounds(3).unwrap();
    {
        let mut world = run.shared.world();
        for _ in 0..2 {
            world.append(at(1, 0), "k", Some("no json"));
        }
        world.recreate(0, "another", 1);
        world.details = true;
        let seen = world.ask();
        world.deliveries.push_back(Delivery::Records(at(1, 0), 2));
        world.deliveries.push_back(Delivery::Observation(seen));
    }
    run.daemon.progress.letters.open();
    let dropped = run.daemon.progress.letters.ask(Work::Drop(Vec::new())).unwrap();
    run.daemon.settle_or_halt(&run.shared).unwrap();
    assert_eq!(dropped.try_recv(), Err(TryRecvError::Disconnected));
    run.rounds(2).unwrap();
    assert_eq!(run.store.dead_letters().len(), 2);
    // Three are allowed.
    run.shared.world().append(at(1, 0), "k", Some("no json"));
    run.rounds(2).unwrap();
    assert_eq!(run.store.dead_letters().len(), 3);
    run.daemon.kill();
}

/// Found by the simulation: what came in the same poll as the round that decided was taken from
/// where the source stood, behind records that had been left out while nothing was decided.
#[test]
fn what_was_left_out_in_doubt_is_not_jumped_over() {
    let text = USERS.replace("tables:", "  other: { format: json }\ntables:")
        + "  other: { topic: other, key: id, columns: { id: integer, n: integer } }\n\
           defaults: { on_gap: continue }\n";
    let config = super::support::config(&text);
    let shared = Shared::new();
    // Topics in the order of their names.
    let (other, users) = (at(0, 0), at(1, 0));
    shared.world().add_partition(other);
    shared.world().add_partition(users);
    let store = memory_store(&config);
    let mut daemon = Daemon::start(&config, &shared, store.clone());
    daemon.observe(&shared).unwrap();
    shared.advance_clock(1_000);
    daemon.observe(&shared).unwrap();
    let without_details = {
        let mut world = shared.world();
        assert!(!world.details);
        world.recreate(1, "another", 1);
        for n in 0..6 {
            world.append(other, &n.to_string(), Some(&user(n, n)));
        }
        world.ask()
    };
    {
        let mut world = shared.world();
        world.deliveries.push_back(Delivery::Observation(without_details));
        world.deliveries.push_back(Delivery::Records(other, 3));
    }
    daemon.settle(&shared).unwrap();
    shared.advance_clock(1_000);
    {
        let mut world = shared.world();
        let decides = world.ask();
        world.deliveries.push_back(Delivery::Observation(decides));
        world.deliveries.push_back(Delivery::Records(other, 3));
    }
    daemon.settle(&shared).unwrap();
    shared.world().deliver_all();
    daemon.settle(&shared).unwrap();
    assert_eq!(store.rows(1).len(), 6);
    daemon.kill();
}

#[test]
fn a_position_that_is_in_the_log_after_all_is_read_again() {
    let mut run = run(&with("auto"), 1);
    {
        let mut world = run.shared.world();
        world.reading.clear();
        world.append(at(0, 0), "0", Some(&user(0, 4)));
        world.deliveries.push_back(Delivery::OutOfRange(at(0, 0), None));
    }
    run.daemon.settle(&run.shared).unwrap();
    run.rounds(3).unwrap();
    assert_eq!((run.position(0), run.status().state), (5, State::Live));
    run.daemon.kill();
}

#[test]
fn a_refusal_of_an_earlier_position_is_no_gap() {
    let mut run = run(&with("continue"), 1);
    {
        let mut world = run.shared.world();
        world.recreate(0, "another", 1);
        world.append(at(0, 0), "0", Some(&user(0, 10)));
    }
    run.rounds(2).unwrap();
    assert_eq!(run.position(0), 1);
    // What the client has asked about the old position is answered late.
    {
        let mut world = run.shared.world();
        world.reading.clear();
        world.deliveries.push_back(Delivery::OutOfRange(at(0, 0), Some(1)));
        world.append(at(0, 0), "0", Some(&user(0, 11)));
    }
    run.daemon.settle(&run.shared).unwrap();
    run.rounds(3).unwrap();
    assert_eq!((run.position(0), run.gaps("truncated")), (2, 0.0));
    run.ends_incomplete("recreated");
}

/// Found by the simulation: of two gaps in one poll only the second was stored.
#[test]
fn two_gaps_before_a_batch_is_sealed_are_both_stored() {
    let mut run = run(&with("continue"), 2);
    run.shared.world().details = true;
    run.shared.advance_clock(1_000);
    {
        let mut world = run.shared.world();
        world.recreate(0, "another", 1);
        for n in 10..16 {
            world.append(at(0, 0), "0", Some(&user(0, n)));
        }
        let first = world.ask();
        world.deliveries.push_back(Delivery::Observation(first));
        world.retain_from(at(0, 0), 3);
        let mut second = world.ask();
        second.asked_ms += 1;
        world.deliveries.push_back(Delivery::Observation(second));
    }
    run.shared.advance_clock(10);
    run.daemon.settle(&run.shared).unwrap();
    run.rounds(2).unwrap();
    let checkpoint = run.store.clone().checkpoint().unwrap();
    assert_eq!(checkpoint.topic_ids[&0], "another");
    assert_eq!(checkpoint.positions.keys().collect::<Vec<_>>(), [&at(0, 0)]);
    assert_eq!((run.position(0), run.n_of(0)), (6, Some(Value::Integer(15))));
    assert_eq!((run.gaps("recreated"), run.gaps("retention")), (1.0, 1.0));
    run.daemon.kill();
}

#[test]
fn another_cluster_is_only_taken_by_a_rebuild() {
    for policy in ["stop", "auto", "continue"] {
        let mut run = run(&with(policy), 1);
        run.shared.world().cluster_id = "another".into();
        stopped(run.halt(), "cluster another");
        assert_eq!(run.gaps("cluster"), 1.0);
        run.daemon.kill();
    }
    let mut run = run(&with("rebuild"), 1);
    run.shared.world().cluster_id = "another".into();
    rebuilds(run.halt(), "cluster another");
    run.daemon.kill();
}

#[test]
fn away_for_longer_than_tombstones_are_kept() {
    let away = |policy: &str, seconds: i64, keeps: u64| {
        let run = run(&with(policy), 1);
        run.shared.world().cleanups.insert(0, cleanup(true, Some(Duration::from_secs(keeps))));
        run.shared.advance_clock(seconds * 1_000);
        run.restart()
    };
    let mut at_home = away("auto", 3_000, 3_600);
    at_home.rounds(3).unwrap();
    assert_eq!(at_home.status().state, State::Live);
    at_home.daemon.kill();
    for (policy, rebuild) in [("stop", false), ("rebuild", true), ("auto", true)] {
        let mut run = away(policy, 4_000, 3_600);
        match rebuild {
            true => rebuilds(run.halt(), "compaction keeps tombstones for 3600 s"),
            false => stopped(run.halt(), "compaction keeps tombstones for 3600 s"),
        }
        assert_eq!(run.gaps("tombstones"), 1.0);
        run.daemon.kill();
    }
    let mut run = away("continue", 4_000, 3_600);
    run.rounds(3).unwrap();
    run.ends_incomplete("tombstones");
}

#[test]
fn brokers_that_were_away_for_longer_than_tombstones_are_kept() {
    let mut run = run(&with("continue"), 1);
    run.shared.world().cleanups.insert(0, cleanup(true, Some(Duration::from_secs(60))));
    run.shared.world().deliveries.push_back(Delivery::Unreachable);
    run.daemon.settle(&run.shared).unwrap();
    run.shared.advance_clock(100_000);
    run.rounds(3).unwrap();
    run.ends_incomplete("tombstones");
}

/// It dropped the only claim of freshness, and the uptime took its place.
#[test]
fn a_clock_that_is_set_back_is_no_absence_however_long_the_daemon_has_run() {
    let run = run(&with("stop"), 1);
    run.shared.world().cleanups.insert(0, cleanup(true, Some(Duration::from_secs(60))));
    let mut run = run.restart();
    run.rounds(70).unwrap();
    run.shared.advance_clock(-5_000);
    run.rounds(3).unwrap();
    assert_eq!((run.gaps("tombstones"), run.status().state), (0.0, State::Live));
    // An absence that begins with it is one.
    run.shared.world().deliveries.push_back(Delivery::Unreachable);
    run.shared.advance_clock(-5_000);
    run.daemon.settle(&run.shared).unwrap();
    run.shared.advance_clock(100_000);
    stopped(run.halt(), "compaction keeps tombstones for 60 s");
    run.daemon.kill();
}

#[test]
fn a_clock_that_was_set_back_while_the_daemon_was_away_hides_no_absence_that_it_still_shows() {
    let run = run(&with("stop"), 1);
    run.shared.world().cleanups.insert(0, cleanup(true, Some(Duration::from_secs(60))));
    run.shared.advance_clock(100_000);
    run.shared.advance_clock(-5_000);
    let mut run = run.restart();
    stopped(run.halt(), "compaction keeps tombstones for 60 s");
    run.daemon.kill();
}

/// What comes about late is not read since the daemon was started.
#[test]
fn a_topic_that_is_made_late_was_not_away() {
    let (config, shared) = (super::support::config(&with_another("stop")), Shared::new());
    shared.world().add_partition(at(0, 0));
    let store = memory_store(&config);
    let daemon = Daemon::start(&config, &shared, store.clone());
    let mut run = Run { config, shared, store, daemon };
    for topic in [0, 1] {
        run.shared.world().cleanups.insert(topic, cleanup(true, Some(Duration::from_secs(60))));
    }
    run.rounds(70).unwrap();
    {
        let mut world = run.shared.world();
        world.add_partition(at(1, 0));
        for n in 0..3 {
            world.append(at(1, 0), "0", Some(&user(0, n)));
        }
    }
    for _ in 0..3 {
        run.shared.advance_clock(1_000);
        run.shared.world().deliveries.push_back(Delivery::Records(at(1, 0), 1));
        run.daemon.observe_or_halt(&run.shared).unwrap();
    }
    run.rounds(2).unwrap();
    assert_eq!((run.gaps("tombstones"), run.status().state), (0.0, State::Live));
    run.daemon.kill();
}

#[test]
fn a_first_copy_that_meets_a_gap_is_incomplete_when_it_is_whole() {
    let config = super::support::config(&with("continue"));
    let shared = Shared::new();
    shared.world().add_partition(at(0, 0));
    for n in 0..9 {
        shared.world().append(at(0, 0), "0", Some(&user(0, n)));
    }
    let store = memory_store(&config);
    let mut daemon = Daemon::start(&config, &shared, store.clone());
    daemon.observe(&shared).unwrap();
    shared.world().deliveries.push_back(Delivery::Records(at(0, 0), 3));
    daemon.settle(&shared).unwrap();
    shared.world().retain_from(at(0, 0), 7);
    let mut run = Run { config, shared, store, daemon };
    run.rounds(3).unwrap();
    assert!(run.daemon.progress.is_gate_open());
    run.ends_incomplete("retention");
}

#[test]
fn a_clock_that_was_set_back_makes_freshness_unknown_until_it_is_proven_again() {
    let mut run = run(&with("auto"), 2);
    run.rounds(1).unwrap();
    // Partition 1 lags from now on.
    run.shared.world().append(at(0, 1), "1", Some(&user(1, 1)));
    run.shared.advance_clock(-3_600_000);
    run.daemon.observe(&run.shared).unwrap();
    assert_eq!(fresh_as_of_ms(&run.store, &run.shared), None, "it would be believed in an hour");
    run.shared.advance_clock(3_700_000);
    let fresh = fresh_as_of_ms(&run.store, &run.shared);
    assert_eq!(fresh, None);
    run.rounds(2).unwrap();
    assert_eq!(fresh_as_of_ms(&run.store, &run.shared), Some(run.shared.now_ms()));
    run.daemon.kill();
}

#[test]
fn a_clock_that_was_set_back_while_the_daemon_was_away_is_noticed_at_its_start() {
    let run = run(&with("auto"), 1);
    run.shared.advance_clock(-3_600_000);
    let mut run = run.restart();
    run.daemon.settle(&run.shared).unwrap();
    assert_eq!(run.store.clone().checkpoint().unwrap().fresh_as_of_ms.get(&at(0, 0)), None);
    run.daemon.kill();
}

#[test]
fn a_clean_stop_is_seen_at_once() {
    let run = run(&with("auto"), 1);
    assert_eq!(run.status().state, State::Live);
    run.daemon.stop.store(true, std::sync::atomic::Ordering::Relaxed);
    let (outcome, _) = run.daemon.run();
    assert_eq!(outcome, Ok(Ended::Stopped));
    let status = run.store.reader().status(run.shared.now_ms()).unwrap();
    assert_eq!((status.state, status.stopped), (State::Disconnected, None));
}
