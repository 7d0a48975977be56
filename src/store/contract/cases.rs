//! The contract, case by case.

use std::ops::RangeInclusive;
use std::sync::Arc;

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use super::*;
use crate::domain::dead_letter::{
    DeadLetter, Kept, Origin, Produced, Reason, RecordBytes, Rejection, Retried,
};
use crate::domain::event_ids::{EventId, NewEventIds};
use crate::domain::state::State;
use crate::store::{Applied, Completion, Letter, LetterFilter, LetterQuery, LettersMoved, StopCode};

contract! {
    a_replay_is_stale_and_changes_nothing,
    a_deleted_row_stays_away_from_late_updates,
    a_patch_before_its_insert_is_held,
    a_held_patch_becomes_visible_when_nothing_required_is_missing,
    a_late_insert_fills_what_a_patch_left_open,
    an_absent_column_keeps_its_old_value,
    a_patch_of_a_missing_row_is_ignored_or_a_dead_letter,
    a_tombstone_takes_only_what_its_partition_wrote,
    a_truncate_takes_what_is_older_now_and_later,
    a_position_that_is_not_as_expected_refuses_the_batch,
    a_refused_batch_leaves_nothing_behind,
    a_batch_sent_again_is_recognised,
    another_cluster_or_topic_stops,
    a_dead_letter_of_another_record_takes_the_place,
    going_on_behind_a_gap_is_stored_with_its_batch,
    freshness_can_become_unknown_again,
    event_ids_come_and_go_with_their_batch,
    dead_letters_are_kept_once,
    a_retried_record_ends_its_dead_letters_with_its_rows,
    a_record_refused_again_keeps_one_dead_letter_with_the_new_reason,
    a_retried_patch_without_its_row_stays_a_dead_letter,
    dropped_dead_letters_are_gone,
    what_was_produced_is_known_and_stays_so,
    dead_letters_are_shown_in_pages,
    delete_marks_wait_for_dead_letters,
    delete_marks_go_when_they_are_old,
    delete_marks_by_position_wait_for_freshness,
    versions_show_their_kind,
    states_follow_from_what_is_stored,
    what_was_stored_is_there_after_opening_again,
    a_first_copy_is_completed_once_and_is_generation_one,
    rows_of_every_size_arrive_whole,
}

/// The first `entries` entries were stale.
fn stale(entries: usize) -> Applied {
    Applied { stale: (0..entries).collect(), ..Applied::default() }
}

fn a_replay_is_stale_and_changes_nothing(bench: &impl Bench) {
    let mut store = bench.open();
    let changes = [upsert(1, 10), upsert(2, 11), delete(3, 12)];
    assert_eq!(store.apply(&batch(changes.clone())).unwrap(), Applied::default());
    let figures = store.figures().rows;
    assert_eq!(store.apply(&batch(changes)).unwrap(), stale(3));
    assert_eq!(store.apply(&batch([upsert(1, 9), upsert(1, 10)])).unwrap(), stale(1));
    assert_eq!(store.figures().rows, figures);
    assert_eq!(look(bench, 1), visible(1, 10));
    assert_eq!(store.apply(&batch([upsert(1, 13)])).unwrap(), Applied::default());
    assert_eq!(look(bench, 1), visible(1, 13));
}

fn a_deleted_row_stays_away_from_late_updates(bench: &impl Bench) {
    let mut store = bench.open();
    store.apply(&batch([upsert(1, 10)])).unwrap();
    store.apply(&batch([delete(1, 20)])).unwrap();
    assert_eq!(look(bench, 1), RowLookup::Deleted { version: version(20, 0, 20) });
    assert_eq!((store.figures().rows[0], store.figures().delete_marks[0]), (0, 1));
    assert_eq!(store.apply(&batch([upsert(1, 15)])).unwrap(), stale(1));
    assert_eq!(store.apply(&batch([delete(1, 12)])).unwrap(), stale(1));
    assert_eq!(look(bench, 1), RowLookup::Deleted { version: version(20, 0, 20) });
    // Something newer is a new row, not a merge with the old one.
    store.apply(&batch([upsert(1, 21)])).unwrap();
    assert_eq!(look(bench, 1), visible(1, 21));
    assert_eq!((store.figures().rows[0], store.figures().delete_marks[0]), (1, 0));
}

fn a_patch_before_its_insert_is_held(bench: &impl Bench) {
    let mut store = bench.open();
    store.apply(&batch([patch(1, 20, 0b0100, IfMissing::Hold)])).unwrap();
    assert_eq!(look(bench, 1), RowLookup::Missing);
    assert_eq!((store.figures().rows[0], store.figures().held[0]), (0, 1));
    store.apply(&batch([upsert(1, 10)])).unwrap();
    let mut values = upsert(1, 10).values;
    values[2] = upsert(1, 20).values[2].clone();
    assert_eq!(look(bench, 1), RowLookup::Visible { values, version: version(20, 0, 20) });
    assert_eq!((store.figures().rows[0], store.figures().held[0]), (1, 0));
}

fn a_held_patch_becomes_visible_when_nothing_required_is_missing(bench: &impl Bench) {
    let mut store = bench.open();
    store.apply(&batch([delete(1, 5)])).unwrap();
    store.apply(&batch([patch(1, 20, 0b0100, IfMissing::Hold)])).unwrap();
    assert_eq!(look(bench, 1), RowLookup::Deleted { version: version(5, 0, 5) });
    store.apply(&batch([patch(1, 21, 0b0010, IfMissing::Hold)])).unwrap();
    let values = vec![
        upsert(1, 0).values[0].clone(),
        upsert(1, 21).values[1].clone(),
        upsert(1, 20).values[2].clone(),
        Value::Null,
    ];
    assert_eq!(look(bench, 1), RowLookup::Visible { values, version: version(21, 0, 21) });
}

fn a_late_insert_fills_what_a_patch_left_open(bench: &impl Bench) {
    let mut store = bench.open();
    store.apply(&batch([patch(1, 20, 0b0010, IfMissing::Hold)])).unwrap();
    assert_eq!(store.figures().rows[0], 1);
    assert_eq!(store.apply(&batch([upsert(1, 10)])).unwrap(), Applied::default());
    let mut values = upsert(1, 10).values;
    values[1] = upsert(1, 20).values[1].clone();
    assert_eq!(look(bench, 1), RowLookup::Visible { values, version: version(20, 0, 20) });
}

/// A placeholder of Debezium, for one.
fn an_absent_column_keeps_its_old_value(bench: &impl Bench) {
    let mut store = bench.open();
    store.apply(&batch([upsert(1, 10), patch(1, 11, 0b1011, IfMissing::Hold)])).unwrap();
    store.apply(&batch([patch(1, 13, 0b1011, IfMissing::Hold)])).unwrap();
    let mut values = upsert(1, 13).values;
    values[2] = upsert(1, 10).values[2].clone();
    assert_eq!(look(bench, 1), RowLookup::Visible { values, version: version(13, 0, 13) });
}

fn a_patch_of_a_missing_row_is_ignored_or_a_dead_letter(bench: &impl Bench) {
    let mut store = bench.open();
    let ignored = store.apply(&batch([patch(1, 10, 0b0010, IfMissing::Ignore)])).unwrap();
    assert_eq!(ignored, Applied { missing_row: vec![0], ..Applied::default() });
    let refused = store.apply(&batch([patch(1, 11, 0b0010, IfMissing::DeadLetter)])).unwrap();
    assert_eq!(refused.dead_letters_kept, 1);
    let letter = &refused.dead_letters[0];
    assert_eq!((letter.at, letter.offset), (AT, 11));
    assert_eq!((letter.rejection.table, letter.rejection.reason), (Some(0), Reason::MissingRow));
    assert_eq!(look(bench, 1), RowLookup::Missing);
    store.apply(&batch([upsert(1, 12)])).unwrap();
    store.apply(&batch([patch(1, 13, 0xFF, IfMissing::DeadLetter)])).unwrap();
    assert_eq!(look(bench, 1), visible(1, 13));
    // Behind the delete an old patch is a replay, not a failure.
    store.apply(&batch([delete(1, 14)])).unwrap();
    let replayed = store.apply(&batch([patch(1, 13, 0b0010, IfMissing::DeadLetter)])).unwrap();
    assert_eq!((replayed.stale, replayed.dead_letters), (vec![0], vec![]));
}

fn a_tombstone_takes_only_what_its_partition_wrote(bench: &impl Bench) {
    let tombstone = |partition, offset| Change {
        operation: Operation::Tombstone,
        version: version(0, partition, offset),
        ..delete(1, 0)
    };
    let mut store = bench.open();
    store.apply(&batch([upsert(1, 10)])).unwrap();
    assert_eq!(store.apply(&batch([tombstone(1, 99)])).unwrap(), stale(1));
    assert_eq!(store.apply(&batch([tombstone(0, 10)])).unwrap(), stale(1));
    assert_eq!(look(bench, 1), visible(1, 10));
    assert_eq!(store.apply(&batch([tombstone(0, 11)])).unwrap(), Applied::default());
    assert_eq!(look(bench, 1), RowLookup::Deleted { version: version(10, 0, 10) });
    assert_eq!(store.apply(&batch([upsert(1, 10)])).unwrap(), stale(1));
    // In one batch the order of the partition is kept.
    store.apply(&batch([upsert(1, 20), tombstone(0, 21), upsert(1, 22)])).unwrap();
    assert_eq!(look(bench, 1), visible(1, 22));
}

fn a_truncate_takes_what_is_older_now_and_later(bench: &impl Bench) {
    let truncate = |number| Change { operation: Operation::Truncate, values: vec![], ..delete(0, number) };
    let mut store = bench.open();
    let patched = [upsert(3, 5), patch(3, 20, 0b0100, IfMissing::Hold)];
    store.apply(&batch([upsert(1, 10), upsert(2, 30), delete(4, 6), delete(0, 31)])).unwrap();
    store.apply(&batch(patched)).unwrap();
    store.apply(&batch([truncate(15)])).unwrap();
    assert_eq!(look(bench, 1), RowLookup::Missing);
    assert_eq!(look(bench, 2), visible(2, 30));
    // Its name is older than the truncate: what is left of it is held.
    assert_eq!(look(bench, 3), RowLookup::Missing);
    let figures = store.figures();
    assert_eq!((figures.rows[0], figures.held[0], figures.delete_marks[0]), (1, 1, 1));
    assert_eq!(store.apply(&batch([upsert(4, 14), delete(1, 15), truncate(14)])).unwrap(), stale(3));
    drop(store);
    let mut store = bench.open();
    assert_eq!(store.apply(&batch([upsert(4, 14)])).unwrap(), stale(1));
    store.apply(&batch([upsert(4, 16)])).unwrap();
    assert_eq!(look(bench, 4), visible(4, 16));
}

fn a_position_that_is_not_as_expected_refuses_the_batch(bench: &impl Bench) {
    let mut store = bench.open();
    let moving = |from, to| Batch { advances: advance(from, to), ..batch([upsert(1, to)]) };
    store.apply(&moving(None, 10)).unwrap();
    for wrong in [moving(None, 20), moving(Some(9), 20), moving(Some(11), 20)] {
        let refused = store.apply(&wrong);
        assert!(matches!(refused, Err(StoreError::Stop { exit: StopCode::Foreign, .. })), "{refused:?}");
    }
    assert_eq!(look(bench, 1), visible(1, 10));
    store.apply(&moving(Some(10), 20)).unwrap();
    assert_eq!(store.checkpoint().unwrap().positions[&AT].next_offset, 20);
    // A partition nobody has stored yet cannot stand anywhere.
    let mut unknown = moving(Some(0), 1);
    unknown.advances = unknown
        .advances
        .into_values()
        .map(|advance| (TopicPartition { topic: 1, partition: 5 }, advance))
        .collect();
    assert!(store.apply(&unknown).is_err());
}

fn a_refused_batch_leaves_nothing_behind(bench: &impl Bench) {
    let mut store = bench.open();
    store.apply(&Batch { advances: advance(None, 10), ..batch([upsert(1, 10)]) }).unwrap();
    let before = (store.checkpoint().unwrap(), store.figures().rows, bench.reader().status(NOW_MS).unwrap());
    let mut wrong = Batch { advances: advance(Some(5), 20), ..batch([upsert(2, 20), delete(1, 21)]) };
    wrong.observed.cluster_id = Some("seen too early".into());
    wrong.observed.stopped = Some("no".into());
    wrong.event_ids = event_ids(0, 5, 1..=2);
    store.apply(&wrong).unwrap_err();
    let after = (store.checkpoint().unwrap(), store.figures().rows, bench.reader().status(NOW_MS).unwrap());
    assert_eq!(before, after);
    assert_eq!(look(bench, 2), RowLookup::Missing);
}

fn a_batch_sent_again_is_recognised(bench: &impl Bench) {
    let mut store = bench.open();
    let first = Batch { advances: advance(None, 10), ..batch([upsert(1, 10), upsert(1, 9)]) };
    store.apply(&first).unwrap();
    store.apply(&first).unwrap();
    drop(store);
    let mut store = bench.open();
    store.apply(&first).unwrap();
    assert_eq!(store.figures().rows[0], 1);
    // The same move by somebody else is not ours.
    let rival = Batch { advances: advance(None, 10), ..batch([upsert(1, 10)]) };
    assert_ne!(first.id, rival.id);
    assert!(matches!(store.apply(&rival), Err(StoreError::Stop { exit: StopCode::Foreign, .. })));
    store.apply(&Batch { advances: advance(Some(10), 20), ..batch([]) }).unwrap();
    assert!(store.apply(&first).is_err(), "an older batch is not the last one");
}

fn another_cluster_or_topic_stops(bench: &impl Bench) {
    let mut store = bench.open();
    let seen = |cluster: &str, topic: &str| {
        let mut batch = batch([]);
        batch.observed.cluster_id = Some(cluster.into());
        batch.observed.topic_ids.insert(1, topic.into());
        batch
    };
    store.apply(&seen("C", "T")).unwrap();
    store.apply(&seen("C", "T")).unwrap();
    drop(store);
    let mut store = bench.open();
    for (wrong, word) in [(seen("D", "T"), "kafka.brokers"), (seen("C", "U"), "users.events")] {
        match store.apply(&wrong) {
            Err(StoreError::Stop { exit: StopCode::Foreign, message }) => {
                assert!(message.contains(word), "{message}");
            }
            other => panic!("{other:?}"),
        }
    }
    let checkpoint = store.checkpoint().unwrap();
    assert_eq!(checkpoint.cluster_id.as_deref(), Some("C"));
    assert_eq!(checkpoint.topic_ids[&1], "T");
}

fn going_on_behind_a_gap_is_stored_with_its_batch(bench: &impl Bench) {
    let mut store = bench.open();
    let other = TopicPartition { topic: 0, partition: 1 };
    let mut first = batch([]);
    first.advances = advance(None, 100);
    first
        .advances
        .insert(other, Advance { from: None, to: Position { next_offset: 7, ..Position::start() } });
    first.observed.topic_ids = BTreeMap::from([(0, "old".into()), (1, "kept".into())]);
    first.observed.fresh_as_of_ms = BTreeMap::from([(AT, NOW_MS), (other, NOW_MS)]);
    first.observed.end_offsets = BTreeMap::from([(AT, 100), (other, 7)]);
    first.event_ids = event_ids(0, 10, 1..=3);
    first.event_ids.extend(event_ids(1, 10, 1..=3));
    store.apply(&first).unwrap();
    store.complete().unwrap();
    assert!(store.checkpoint().unwrap().missing_events.is_empty());

    let mut second = batch([]);
    // Back to the beginning.
    second.advances = advance(Some(100), 0);
    second.after_gap = Some(Box::new(AfterGap {
        gone: BTreeSet::from([other]),
        topic_ids: BTreeMap::from([(0, "new".into())]),
        forgotten_ids: BTreeSet::from([0]),
        missing_events: BTreeSet::from([0, 1]),
    }));
    second.event_ids = event_ids(0, 10, 9..=9);
    let mut rival = batch([]);
    rival.advances = advance(Some(99), 0);
    rival.after_gap.clone_from(&second.after_gap);
    assert!(store.apply(&rival).is_err(), "all or nothing");
    assert_eq!(store.checkpoint().unwrap().topic_ids[&0], "old");
    assert!(store.checkpoint().unwrap().missing_events.is_empty());
    store.apply(&second).unwrap();
    drop(store);
    let mut store = bench.open();
    let checkpoint = store.checkpoint().unwrap();
    assert_eq!(checkpoint.positions.keys().collect::<Vec<_>>(), [&AT]);
    assert_eq!(checkpoint.positions[&AT].next_offset, 0);
    assert_eq!(checkpoint.fresh_as_of_ms, BTreeMap::from([(AT, NOW_MS)]));
    assert_eq!(checkpoint.topic_ids, BTreeMap::from([(0, "new".into()), (1, "kept".into())]));
    assert_eq!(checkpoint.event_ids[&0], [event_id(9)]);
    assert_eq!(checkpoint.event_ids[&1].len(), 3);
    assert_eq!(checkpoint.missing_events, BTreeSet::from([0, 1]));
    assert_eq!(checkpoint.heartbeat_ms, Some(NOW_MS));
    // The new id is the one that later batches are compared with.
    let mut third = batch([]);
    third.observed.topic_ids.insert(0, "new".into());
    third.observed.fresh_as_of_ms.insert(TopicPartition { topic: 1, partition: 0 }, NOW_MS);
    store.apply(&third).unwrap();
    let status = bench.reader().status(NOW_MS).unwrap();
    let states: Vec<_> = status.tables.iter().map(|table| (table.state, table.missing_events)).collect();
    let (incomplete, live) = ((State::Incomplete, true), (State::Live, false));
    assert_eq!(states, [incomplete, incomplete, live, live]);
    assert_eq!(status.positions.len(), 1);
}

fn freshness_can_become_unknown_again(bench: &impl Bench) {
    let mut store = bench.open();
    store.complete().unwrap();
    let fresh = |at_ms: i64| {
        let mut batch = batch([]);
        batch.observed.fresh_as_of_ms.insert(AT, at_ms);
        batch
    };
    let fresh_as_of_ms = |now_ms: i64| bench.reader().status(now_ms).unwrap().tables[0].fresh_as_of_ms;
    store.apply(&fresh(NOW_MS)).unwrap();
    assert_eq!(fresh_as_of_ms(NOW_MS - 4_000), Some(NOW_MS), "clocks differ a little");
    assert_eq!(fresh_as_of_ms(NOW_MS - 4_001), None, "it lies in the future");
    let mut lost = batch([]);
    lost.observed.freshness_lost.insert(AT);
    store.apply(&lost).unwrap();
    assert_eq!(fresh_as_of_ms(NOW_MS), None);
    let mut both = fresh(NOW_MS - 100);
    both.observed.freshness_lost.insert(AT);
    store.apply(&both).unwrap();
    assert_eq!(fresh_as_of_ms(NOW_MS), Some(NOW_MS - 100));
    drop(store);
    assert_eq!(bench.open().checkpoint().unwrap().fresh_as_of_ms[&AT], NOW_MS - 100);
}

fn event_id(nth: u64) -> EventId {
    EventId::of_integer(&nth.to_string())
}

fn event_ids(topic: usize, window: usize, nth: RangeInclusive<u64>) -> BTreeMap<usize, NewEventIds> {
    BTreeMap::from([(topic, NewEventIds { window, ids: nth.map(event_id).collect() })])
}

fn event_ids_come_and_go_with_their_batch(bench: &impl Bench) {
    let mut store = bench.open();
    let stored = |store: &mut dyn Store| store.checkpoint().unwrap().event_ids;
    let ids = |nth: RangeInclusive<u64>| nth.map(event_id).collect::<Vec<_>>();
    assert_eq!(stored(&mut store), BTreeMap::new());
    let mut from = None;
    let mut moving = |event_ids| {
        let to = from.unwrap_or(0) + 10;
        Batch { advances: advance(from.replace(to), to), event_ids, ..batch([]) }
    };
    store.apply(&moving(event_ids(0, 5, 1..=3))).unwrap();
    let second = moving(event_ids(0, 5, 4..=7));
    store.apply(&second).unwrap();
    assert_eq!(stored(&mut store), BTreeMap::from([(0, ids(3..=7))]));
    // Sent again because its reply was lost, also to a store that was opened since.
    store.apply(&second).unwrap();
    drop(store);
    let mut store = bench.open();
    assert_eq!(stored(&mut store), BTreeMap::from([(0, ids(3..=7))]));
    store.apply(&second).unwrap();
    // Refused: the position is another.
    store
        .apply(&Batch { event_ids: event_ids(0, 5, 8..=9), advances: advance(Some(1), 2), ..batch([]) })
        .unwrap_err();
    assert_eq!(stored(&mut store), BTreeMap::from([(0, ids(3..=7))]));
    // Topics do not push out each other's; a batch without ids changes nothing.
    store.apply(&moving(event_ids(1, 2, 20..=29))).unwrap();
    store.apply(&moving(BTreeMap::new())).unwrap();
    assert_eq!(stored(&mut store), BTreeMap::from([(0, ids(3..=7)), (1, ids(28..=29))]));
    // A window that was made smaller, and one that was made larger.
    store.apply(&moving(event_ids(0, 3, 8..=8))).unwrap();
    store.apply(&moving(event_ids(1, 9, 30..=31))).unwrap();
    drop(store);
    let mut store = bench.open();
    assert_eq!(stored(&mut store), BTreeMap::from([(0, ids(6..=8)), (1, ids(28..=31))]));
}

fn letter(offset: i64, table: Option<usize>, bytes: usize) -> DeadLetter {
    DeadLetter {
        at: AT,
        offset,
        rejection: Rejection { table, path: ".id".into(), reason: Reason::WrongType, message: "no".into() },
        first_seen_ms: NOW_MS,
        origin: Default::default(),
        record: Some(RecordBytes { key: None, value: Some(vec![7; bytes]), headers: None }),
        produced_ms: None,
    }
}

fn dead_letters_are_kept_once(bench: &impl Bench) {
    let mut store = bench.open();
    let dead = |letters| Batch { dead_letters: letters, ..batch([]) };
    let applied = store.apply(&dead(vec![letter(1, Some(0), 10), letter(2, None, 10)])).unwrap();
    assert_eq!(applied.dead_letters_kept, 2);
    let applied = store.apply(&dead(vec![letter(2, None, 10), letter(3, Some(1), 10)])).unwrap();
    assert_eq!(applied.dead_letters_kept, 3);
    drop(store);
    assert_eq!(bench.open().figures().dead_letters, [3, 0]);
    let status = bench.reader().status(NOW_MS).unwrap();
    assert_eq!(status.dead_letters, 3);
    // One that failed before any table concerns every table of its topic.
    let counts: Vec<u64> = status.tables.iter().map(|table| table.dead_letters).collect();
    assert_eq!(counts, [2, 2, 0, 0]);
}

fn retried(offset: i64, refused: Option<Rejection>) -> Retried {
    Retried { at: AT, offset, refused }
}

fn all_letters(bench: &impl Bench) -> Vec<Letter> {
    let query = LetterQuery { filter: LetterFilter::default(), after: None, limit: 1_000, bytes: true };
    bench.reader().dead_letters(&query).unwrap().letters
}

fn kept(table: Option<usize>) -> Kept {
    Kept { topic: 0, table, order_ms: 0 }
}

fn a_retried_record_ends_its_dead_letters_with_its_rows(bench: &impl Bench) {
    let mut store = bench.open();
    let letters = vec![letter(5, Some(0), 10), letter(6, None, 10), letter(6, Some(1), 10)];
    store.apply(&Batch { dead_letters: letters, ..batch([upsert(2, 30)]) }).unwrap();
    // One is applied; the replica has newer than the other.
    let mut work = batch([upsert(1, 5), upsert(2, 6)]);
    work.retried = vec![retried(5, None), retried(6, None)];
    let applied = store.apply(&work).unwrap();
    assert_eq!((applied.stale, applied.dead_letters_kept), (vec![1], 0));
    let mut removed = applied.letters.removed.clone();
    removed.sort();
    assert_eq!(removed, [kept(None), kept(Some(0)), kept(Some(1))]);
    assert_eq!((applied.letters.refused, applied.letters.again), (vec![], vec![]));
    assert_eq!((look(bench, 1), look(bench, 2)), (visible(1, 5), visible(2, 30)));
    assert_eq!(all_letters(bench), []);
    // A second time it does nothing.
    let mut again = batch([upsert(1, 5)]);
    again.retried = vec![retried(5, None), retried(6, Some(letter(6, None, 0).rejection))];
    let applied = store.apply(&again).unwrap();
    assert_eq!((applied.stale, applied.letters), (vec![0], LettersMoved::default()));
    assert_eq!(all_letters(bench), []);
    drop(store);
    let mut store = bench.open();
    assert_eq!(
        (store.figures().dead_letters, store.checkpoint().unwrap().dead_letters),
        (vec![0, 0], vec![])
    );
}

fn a_record_refused_again_keeps_one_dead_letter_with_the_new_reason(bench: &impl Bench) {
    let mut store = bench.open();
    let first = DeadLetter {
        origin: Origin { order_ms: 77, digest: Some(u128::MAX - 1) },
        first_seen_ms: NOW_MS - 5,
        ..letter(5, Some(0), 600)
    };
    store.apply(&Batch { dead_letters: vec![first], ..batch([]) }).unwrap();
    let reason =
        Rejection { table: None, path: String::new(), reason: Reason::Malformed, message: "worse".into() };
    let work = Batch { retried: vec![retried(5, Some(reason))], ..batch([]) };
    let applied = store.apply(&work).unwrap();
    let moved = |table| Kept { order_ms: 77, ..kept(table) };
    let expected = LettersMoved {
        removed: vec![moved(Some(0))],
        again: vec![moved(None)],
        refused: vec![0],
        dropped: 0,
    };
    assert_eq!((applied.letters, applied.dead_letters_kept), (expected, 1));
    drop(store);
    let mut store = bench.open();
    assert_eq!(store.checkpoint().unwrap().dead_letters, [moved(None)]);
    let letters = all_letters(bench);
    let found = &letters[0];
    assert_eq!((letters.len(), found.table.as_ref(), found.reason.as_str()), (1, None, "malformed"));
    assert_eq!((found.message.as_str(), found.first_seen_ms, found.order_ms), ("worse", NOW_MS - 5, 77));
    assert_eq!(found.digest, Some(u128::MAX - 1));
    assert_eq!(found.record.as_ref().unwrap().value, Some(vec![7; 600]));
}

fn a_retried_patch_without_its_row_stays_a_dead_letter(bench: &impl Bench) {
    let mut store = bench.open();
    store.apply(&batch([patch(1, 11, 0b0010, IfMissing::DeadLetter)])).unwrap();
    let work =
        || Batch { retried: vec![retried(11, None)], ..batch([patch(1, 11, 0b0010, IfMissing::DeadLetter)]) };
    let applied = store.apply(&work()).unwrap();
    // It is not a new one.
    assert_eq!((applied.dead_letters, applied.dead_letters_kept), (vec![], 1));
    assert_eq!(applied.letters.refused, [0]);
    store.apply(&batch([upsert(1, 9)])).unwrap();
    let applied = store.apply(&work()).unwrap();
    assert_eq!((applied.stale, applied.dead_letters_kept, applied.letters.refused), (vec![], 0, vec![]));
    let RowLookup::Visible { version: found, .. } = look(bench, 1) else { panic!("no row") };
    assert_eq!(found, version(11, 0, 11));
}

fn what_was_produced_is_known_and_stays_so(bench: &impl Bench) {
    let mut store = bench.open();
    let letters =
        vec![letter(1, Some(0), 10), letter(1, Some(1), 10), letter(2, None, 10), letter(3, None, 10)];
    store.apply(&Batch { dead_letters: letters, ..batch([]) }).unwrap();
    let offsets = |produced| {
        let filter = LetterFilter { produced: Some(produced), ..LetterFilter::default() };
        let query = LetterQuery { filter, after: None, limit: 1_000, bytes: false };
        let letters = bench.reader().dead_letters(&query).unwrap().letters;
        letters.iter().map(|letter| (letter.offset, letter.table.is_some())).collect::<Vec<_>>()
    };
    assert_eq!(offsets(false), [(1, true), (1, true), (2, false), (3, false)]);
    let before = all_letters(bench);
    // One of them is not there (any more).
    let produced = [letter(1, Some(0), 0), letter(2, None, 0), letter(9, None, 0)]
        .map(|letter| Produced { id: letter.id(), at_ms: NOW_MS });
    store.apply(&Batch { produced: produced.to_vec(), ..batch([]) }).unwrap();
    assert_eq!(offsets(true), [(1, true), (2, false)]);
    let mut after = all_letters(bench);
    assert_eq!(after.iter().filter_map(|letter| letter.produced.clone()).count(), 2);
    // Nothing else of it changes, and what is counted stays.
    after.iter_mut().for_each(|letter| letter.produced = None);
    assert_eq!(after, before);
    assert_eq!(store.figures().dead_letters, [4, 0]);
    // The same dead letter once more is the one that is known.
    store.apply(&Batch { dead_letters: vec![letter(2, None, 10)], ..batch([]) }).unwrap();
    drop(store);
    let mut store = bench.open();
    assert_eq!(offsets(true), [(1, true), (2, false)]);
    // Refused again it is still the one that the topic has; where it only had one of two, it has none.
    let refused = |offset| retried(offset, Some(letter(offset, None, 0).rejection));
    store.apply(&Batch { retried: vec![refused(1), refused(2)], ..batch([]) }).unwrap();
    assert_eq!((offsets(true), offsets(false)), (vec![(2, false)], vec![(1, false), (3, false)]));
}

fn dropped_dead_letters_are_gone(bench: &impl Bench) {
    let mut store = bench.open();
    store
        .apply(&Batch { dead_letters: vec![letter(1, None, 0), letter(2, Some(1), 0)], ..batch([]) })
        .unwrap();
    let drop_both = || Batch { dropped: vec![letter(1, None, 0).id(), letter(2, None, 0).id()], ..batch([]) };
    let applied = store.apply(&drop_both()).unwrap();
    // The other one is of a table.
    assert_eq!((applied.letters.dropped, applied.letters.removed), (1, vec![kept(None)]));
    assert_eq!(store.apply(&drop_both()).unwrap().letters.dropped, 0);
    assert_eq!(store.figures().dead_letters, [1, 0]);
    assert_eq!(bench.reader().status(NOW_MS).unwrap().dead_letters, 1);
}

/// The model keeps whatever it is given.
fn bytes_of_what_is_dropped_make_room(bench: &impl Bench) {
    let mut store = bench.open();
    let with_bytes = |bench| all_letters(bench).iter().filter(|letter| letter.record.is_some()).count();
    store
        .apply(&Batch { dead_letters: vec![letter(1, None, 900), letter(2, None, 900)], ..batch([]) })
        .unwrap();
    assert_eq!(with_bytes(bench), 1, "the second is beyond the bound");
    store.apply(&Batch { dropped: vec![letter(1, None, 0).id()], ..batch([]) }).unwrap();
    store.apply(&Batch { dead_letters: vec![letter(3, None, 900)], ..batch([]) }).unwrap();
    assert_eq!(with_bytes(bench), 1);
    // A retry gives them back, too.
    store.apply(&Batch { retried: vec![retried(3, None)], ..batch([]) }).unwrap();
    drop(store);
    bench.open().apply(&Batch { dead_letters: vec![letter(4, None, 900)], ..batch([]) }).unwrap();
    assert_eq!(with_bytes(bench), 1);
}

#[test]
fn bytes_of_what_is_dropped_make_room_in_sqlite() {
    bytes_of_what_is_dropped_make_room(&fresh::<InSqlite>());
}

#[test]
fn bytes_of_what_is_dropped_make_room_in_redis() {
    if server::available() {
        bytes_of_what_is_dropped_make_room(&fresh::<InRedis>());
    }
}

/// Behind a gap, at the coordinates of letters of the log before.
fn a_dead_letter_of_another_record_takes_the_place(bench: &impl Bench) {
    let mut store = bench.open();
    let of = |offset, table, digest, order_ms| DeadLetter {
        origin: Origin { order_ms, digest },
        first_seen_ms: NOW_MS + order_ms,
        ..letter(offset, table, 900)
    };
    let dead = |letters: &[DeadLetter]| Batch { dead_letters: letters.to_vec(), ..batch([]) };
    let before = [
        of(2, Some(0), Some(2), 5),
        of(1, Some(0), Some(1), 5),
        of(3, Some(0), Some(3), 5),
        of(4, Some(0), None, 5),
        of(4, Some(1), None, 5),
    ];
    store.apply(&dead(&before)).unwrap();
    let after = [
        // The same record; another one; another one that another table refuses; the same bytes, later;
        // and a patch without its row, of one of two tables.
        of(1, Some(0), Some(1), 5),
        of(2, Some(0), Some(20), 7),
        of(3, Some(1), Some(30), 7),
        of(4, Some(0), None, 7),
    ];
    let applied = store.apply(&dead(&after)).unwrap();
    let mut removed = applied.letters.removed;
    removed.sort();
    assert_eq!(removed, [5; 3].map(|order_ms| Kept { order_ms, ..kept(Some(0)) }));
    assert_eq!(applied.dead_letters_kept, 5);
    assert_eq!(store.figures().dead_letters, [5, 0]);
    drop(store);
    let mut store = bench.open();
    let letters = all_letters(bench);
    let found =
        letters.iter().map(|letter| (letter.offset, letter.table.as_deref(), letter.digest, letter.order_ms));
    let hidden = Some("users_hidden");
    let expected = [
        (1, Some("users"), Some(1), 5),
        (2, Some("users"), Some(20), 7),
        (3, hidden, Some(30), 7),
        (4, Some("users"), None, 7),
        (4, hidden, None, 5),
    ];
    assert_eq!(found.collect::<Vec<_>>(), expected);
    assert_eq!(store.checkpoint().unwrap().dead_letters.len(), 5);
    let with_bytes = |letter: &&Letter| letter.record.is_some();
    assert!(letters.iter().filter(with_bytes).any(|letter| letter.offset == 2), "there is room for it");
}

fn dead_letters_are_shown_in_pages(bench: &impl Bench) {
    let mut store = bench.open();
    let other = TopicPartition { topic: 1, partition: 10 };
    let mut letters: Vec<DeadLetter> = (0..70).map(|offset| letter(offset, Some(0), 0)).collect();
    letters.push(letter(7, None, 0));
    letters.push(DeadLetter { at: other, ..letter(7, Some(1), 0) });
    store.apply(&Batch { dead_letters: letters, ..batch([]) }).unwrap();
    let reader = bench.reader();
    let mut query = LetterQuery { filter: LetterFilter::default(), after: None, limit: 30, bytes: false };
    let mut seen = Vec::new();
    loop {
        let page = reader.dead_letters(&query).unwrap();
        assert!(page.letters.len() == 30 || !page.more, "{}", page.letters.len());
        seen.extend(page.letters.iter().map(Letter::cursor));
        query.after = seen.last().cloned();
        if !page.more {
            break;
        }
    }
    assert_eq!(seen.len(), 72);
    assert!(seen.is_sorted(), "{seen:?}");
    assert_eq!(
        (seen[7].to_string(), seen[8].to_string()),
        ("shop.events/0/7/".into(), "shop.events/0/7/users".into())
    );
    let count = |filter: LetterFilter| {
        let query = LetterQuery { filter, after: None, limit: 1_000, bytes: true };
        reader.dead_letters(&query).unwrap().letters.len()
    };
    let any = LetterFilter::default;
    assert_eq!(count(LetterFilter { topic: Some("users.events".into()), ..any() }), 1);
    assert_eq!(count(LetterFilter { table: Some("users".into()), ..any() }), 70);
    assert_eq!(count(LetterFilter { offset: Some(7), ..any() }), 3);
    assert_eq!(count(LetterFilter { offset: Some(7), partition: Some(0), ..any() }), 2);
    assert_eq!(count(LetterFilter { reason: Some("wrong_type".into()), ..any() }), 72);
    assert_eq!(count(LetterFilter { reason: Some("malformed".into()), ..any() }), 0);
}

/// A retry is an old event that arrives late: the delete behind it must not be forgotten.
fn delete_marks_wait_for_dead_letters(bench: &impl Bench) {
    fn run<B: Bench>(_: &B) {
        let mut catalog = catalog();
        catalog.tables[0].ordered_by_position = true;
        let bench = B::new(Arc::new(catalog));
        let mut store = bench.open();
        let seen_ms = NOW_MS - 1_000;
        let letter = DeadLetter {
            first_seen_ms: seen_ms,
            origin: Origin { order_ms: seen_ms, digest: None },
            ..letter(5, Some(0), 0)
        };
        store.apply(&Batch { dead_letters: vec![letter], ..batch([delete(1, 10)]) }).unwrap();
        let mut fresh = batch([]);
        fresh.observed.fresh_as_of_ms.insert(AT, NOW_MS + 1_000_000);
        store.apply(&fresh).unwrap();
        // `delete_marks` of the table is a minute.
        assert_eq!(store.maintain(NOW_MS + 60_000).unwrap().delete_marks_dropped, 0);
        assert_eq!(
            store.apply(&batch([upsert(1, 5)])).unwrap(),
            Applied { dead_letters_kept: 1, ..stale(1) }
        );
        assert_eq!(store.maintain(NOW_MS + 60_001).unwrap().delete_marks_dropped, 1, "it is bounded");
    }
    run(bench);
}

fn delete_marks_go_when_they_are_old(bench: &impl Bench) {
    let mut store = bench.open();
    store.apply(&batch([delete(1, 10), patch(2, 11, 0b0100, IfMissing::Hold)])).unwrap();
    // Old by the clock, while the topic may have an older event that was not read yet.
    let dropped = |store: &mut dyn Store, now_ms| store.maintain(now_ms).unwrap().delete_marks_dropped;
    assert_eq!(dropped(&mut store, i64::MAX / 2), 0, "freshness is unknown");
    store.apply(&fresh_as_of(AT, NOW_MS + 60_000)).unwrap();
    assert_eq!(dropped(&mut store, i64::MAX / 2), 0);
    store.apply(&fresh_as_of(AT, NOW_MS + 60_001)).unwrap();
    assert_eq!(dropped(&mut store, NOW_MS + 60_000), 0);
    assert_eq!(dropped(&mut store, NOW_MS + 60_001), 1);
    let figures = store.figures();
    assert_eq!((figures.delete_marks[0], figures.held[0]), (0, 1), "a held patch is not a mark");
    assert_eq!(look(bench, 1), RowLookup::Missing);
    drop(store);
    assert_eq!(bench.open().figures().delete_marks[0], 0);
}

fn delete_marks_by_position_wait_for_freshness(bench: &impl Bench) {
    // A bench of its own: the order of its tables is that of positions.
    fn run<B: Bench>(_: &B) {
        let mut catalog = catalog();
        catalog.tables[0].ordered_by_position = true;
        let bench = B::new(Arc::new(catalog));
        let mut store = bench.open();
        store.apply(&batch([delete(1, 10)])).unwrap();
        let dropped = |store: &mut B::Opened| store.maintain(i64::MAX / 2).unwrap().delete_marks_dropped;
        assert_eq!(dropped(&mut store), 0, "freshness is unknown");
        for (fresh, expected) in [(NOW_MS + 60_000, 0), (NOW_MS + 60_001, 1)] {
            let mut batch = batch([]);
            batch.observed.fresh_as_of_ms.insert(AT, fresh);
            store.apply(&batch).unwrap();
            assert_eq!(dropped(&mut store), expected);
        }
    }
    run(bench);
}

fn versions_show_their_kind(bench: &impl Bench) {
    fn run<B: Bench>(bench: &B) {
        let mut store = bench.open();
        assert_eq!(store.version_kinds().unwrap(), [None; 4]);
        store.apply(&batch([delete(1, 10)])).unwrap();
        let mut change = upsert(1, 1);
        change.table = 2;
        change.values = row(&catalog().tables[2], 1, 1, 0xFF);
        change.version = Version::position(5, Coordinates { topic: 1, partition: 0, offset: 1 });
        store.apply(&batch([change])).unwrap();
        let expected = [Some(VersionKind::Integer), None, Some(VersionKind::Position), None];
        assert_eq!(store.version_kinds().unwrap(), expected);
    }
    run(bench);
}

fn states_follow_from_what_is_stored(bench: &impl Bench) {
    let mut store = bench.open();
    let reader = bench.reader();
    let state = |now_ms| reader.status(now_ms).unwrap().state;
    let apply = |store: &mut dyn Store, change: &dyn Fn(&mut Observed)| {
        let mut batch = batch([]);
        change(&mut batch.observed);
        store.apply(&batch).unwrap();
    };
    let other = TopicPartition { topic: 1, partition: 0 };
    apply(&mut store, &|_| {});
    assert_eq!(state(NOW_MS), State::Building);
    store.complete().unwrap();
    store.complete().unwrap();
    assert_eq!(state(NOW_MS), State::Stale, "freshness is unknown");
    apply(&mut store, &|observed| {
        observed.fresh_as_of_ms.insert(AT, NOW_MS - 10);
    });
    assert_eq!(state(NOW_MS), State::Stale, "no partition of the other topic is known");
    assert_eq!(reader.status(NOW_MS).unwrap().tables[0].state, State::Live);
    apply(&mut store, &|observed| {
        observed.fresh_as_of_ms.insert(other, NOW_MS - 20);
    });
    assert_eq!(state(NOW_MS), State::Live);
    let status = reader.status(NOW_MS).unwrap();
    assert_eq!(status.fresh_as_of_ms, Some(NOW_MS - 20));
    assert_eq!(status.fresh_as_of.as_deref(), Some("2023-11-14T22:13:19.980Z"));
    assert_eq!(status.tables[0].fresh_as_of_ms, Some(NOW_MS - 10));
    // A partition that is new is part of the proof from the moment it exists.
    apply(&mut store, &|observed| {
        observed.end_offsets.insert(TopicPartition { topic: 1, partition: 1 }, 7);
    });
    assert_eq!(state(NOW_MS), State::Stale);
    apply(&mut store, &|observed| {
        observed.fresh_as_of_ms.insert(TopicPartition { topic: 1, partition: 1 }, NOW_MS);
    });
    assert_eq!(state(NOW_MS + 4_000), State::Live);
    assert_eq!(state(NOW_MS + 4_001), State::Disconnected, "no daemon");
    apply(&mut store, &|observed| observed.connected = false);
    assert_eq!(state(NOW_MS), State::Disconnected);
    apply(&mut store, &|observed| observed.stopped = Some("look at me".into()));
    assert_eq!(state(NOW_MS), State::Stopped);
    assert_eq!(reader.status(NOW_MS).unwrap().stopped.as_deref(), Some("look at me"));
    apply(&mut store, &|_| {});
    assert_eq!(state(NOW_MS), State::Stopped, "only the empty string clears it");
    apply(&mut store, &|observed| observed.stopped = Some(String::new()));
    assert_eq!(state(NOW_MS), State::Live);
}

fn what_was_stored_is_there_after_opening_again(bench: &impl Bench) {
    use crate::domain::checkpoint::{AfterDelete, PartitionMemory};
    use crate::domain::snapshot::Unlisted;
    let mut store = bench.open();
    let after_delete = AfterDelete { key: vec![0, 1, 255], version: version(7, 1, 3) };
    let to = Position {
        next_offset: 42,
        leader_epoch: 3,
        memory: PartitionMemory {
            max_timestamp_ms: NOW_MS,
            after_delete: Some(after_delete),
            unlisted: Some(Unlisted::UpTo(version(6, 0, 0).first_of_its_kind())),
        },
    };
    let mut batch = batch([upsert(1, 10)]);
    batch.advances.insert(AT, Advance { from: None, to });
    batch.observed.fresh_as_of_ms.insert(AT, NOW_MS);
    batch.observed.end_offsets.insert(AT, 50);
    store.apply(&batch).unwrap();
    store.complete().unwrap();
    let before = (store.checkpoint().unwrap(), store.figures().rows, bench.reader().status(NOW_MS).unwrap());
    drop(store);
    let mut store = bench.open();
    let after = (store.checkpoint().unwrap(), store.figures().rows, bench.reader().status(NOW_MS).unwrap());
    assert_eq!(before, after);
    assert!(after.0.complete);
    assert_eq!(after.0.positions[&AT], batch.advances[&AT].to);
    assert_eq!(after.2.tables[0].lag_records, Some(8));
    assert_eq!(after.2.lag_records, None, "nothing is known of the other topic");
    assert_eq!(look(bench, 1), visible(1, 10));
    let memory = PartitionMemory { unlisted: Some(Unlisted::Unknown), ..PartitionMemory::default() };
    let to = Position { next_offset: 43, leader_epoch: 3, memory };
    let advances = [(AT, Advance { from: Some(42), to: to.clone() })].into();
    store.apply(&Batch { advances, ..super::batch([upsert(1, 11)]) }).unwrap();
    drop(store);
    assert_eq!(bench.open().checkpoint().unwrap().positions[&AT], to);
}

fn a_first_copy_is_completed_once_and_is_generation_one(bench: &impl Bench) {
    let mut store = bench.open();
    let first = Batch { advances: advance(None, 10), ..batch([upsert(1, 10)]) };
    store.apply(&first).unwrap();
    assert!(!bench.reader().status(NOW_MS).unwrap().complete);
    for _ in 0..2 {
        assert_eq!(store.complete().unwrap(), Completion::Done, "nothing is there that it could be behind");
    }
    let status = bench.reader().status(NOW_MS).unwrap();
    assert!(status.complete);
    assert!(status.tables.iter().all(|table| table.generation == 1 && !table.rebuilding));
    assert!(status.positions.iter().all(|position| position.generation == 1));
    assert_eq!(look(bench, 1), visible(1, 10));
}

/// Rows and batches whose sizes lie around those in which stores and clients cut what they write, while
/// the copy is built and afterwards.
fn rows_of_every_size_arrive_whole(bench: &impl Bench) {
    const PIECE: usize = 32 << 10;
    let length = prop_oneof![7 => 0..400_usize, 1 => 0..3 * PIECE];
    let several = prop::collection::vec((0..300_i64, length), 1..30);
    let mut runner = TestRunner::deterministic();
    let mut store = bench.open();
    let mut rows: BTreeMap<i64, Change> = BTreeMap::new();
    let mut number = 0;
    for complete in [false, true] {
        if complete {
            assert_eq!(store.complete().unwrap(), Completion::Done);
        }
        let drawn = (0..12).map(|_| several.new_tree(&mut runner).unwrap().current());
        // Every word of what is sent is once the one that fills a piece.
        let swept = (PIECE - 1_200..PIECE).map(|length| vec![(length as i64 % 300, length)]);
        for drawn in drawn.chain(swept) {
            number += 1;
            let mut changes = Vec::new();
            for (place, (nth, length)) in (0..).zip(drawn) {
                let mut change = upsert(nth, number);
                change.version = version(number, 0, place);
                change.values[1] = Value::Text("x".repeat(length));
                rows.insert(nth, change.clone());
                changes.push(change);
            }
            assert_eq!(store.apply(&batch(changes)).unwrap(), Applied::default(), "batch {number}");
        }
    }
    assert_eq!(store.figures().rows[0], rows.len() as u64);
    for (nth, change) in rows {
        let expected = RowLookup::Visible { values: change.values, version: change.version };
        // Too long to be shown.
        assert!(look(bench, nth) == expected, "row {nth}");
    }
}
