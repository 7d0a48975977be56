//! The contract of what takes many rows away at once, and of rows whose key changes.

use super::*;
use crate::domain::change::Cleared;
use crate::domain::snapshot::Snapshot;
use crate::store::{Applied, Swept};

contract! {
    rows_with_a_cleared_prefix_go_now_and_later,
    a_prefix_takes_what_is_below_it_and_nothing_beside_it,
    a_set_that_is_set_anew_has_the_new_rows_only,
    marks_of_prefixes_go_when_they_are_old,
    a_key_change_carries_what_the_new_row_leaves_out,
    a_snapshot_sent_again_takes_what_it_does_not_list,
    a_sweep_that_takes_suspiciously_much_is_refused,
    a_snapshot_that_is_not_whole_takes_nothing,
}

/// The table with prefixes of one and of two columns.
const LINES: usize = 4;

fn line(shop: &str, order: i64, line: i64, number: i64) -> Change {
    let values = vec![
        Value::Text(shop.into()),
        Value::Integer(order),
        Value::Integer(line),
        Value::Text(number.to_string()),
    ];
    Change { table: LINES, values, version: version(number, 0, number), ..upsert(0, 0) }
}

fn cleared(shop: &str, order: Option<i64>, number: i64) -> Change {
    let mut change = line(shop, 0, 0, number);
    change.values[1] = order.map_or(Value::Absent, Value::Integer);
    change.values[2..].fill(Value::Absent);
    Change { operation: Operation::Clear(Cleared::Deleted), ..change }
}

/// One that holds back what its row needs.
fn removed(shop: &str, order: i64, nth: i64, number: i64) -> Change {
    let mut change = line(shop, order, nth, number);
    change.values[3] = Value::Absent;
    Change { operation: Operation::Delete, ..change }
}

fn of(changes: impl IntoIterator<Item = Change>) -> Batch {
    let catalog = with_prefixes();
    let mut builder = BatchBuilder::default();
    changes.into_iter().for_each(|change| push(&mut builder, &catalog, &change));
    builder.seal(observed())
}

fn with<B: Bench>(_: &B) -> B {
    B::new(Arc::new(with_prefixes()))
}

fn is_there(bench: &impl Bench, shop: &str, order: i64, nth: i64) -> bool {
    let key = [Value::Text(shop.into()), Value::Integer(order), Value::Integer(nth)];
    matches!(bench.reader().row(LINES, &key).unwrap(), RowLookup::Visible { .. })
}

fn rows_with_a_cleared_prefix_go_now_and_later(bench: &impl Bench) {
    let bench = with(bench);
    let mut store = bench.open();
    store.apply(&of([line("a", 1, 1, 10), line("a", 1, 2, 30), line("a", 2, 1, 10)])).unwrap();
    store.apply(&of([cleared("a", Some(1), 20)])).unwrap();
    let there = |bench| [(1, 1), (1, 2), (2, 1)].map(|(order, nth)| is_there(bench, "a", order, nth));
    assert_eq!(there(&bench), [false, true, true]);
    let figures = store.figures();
    assert_eq!((figures.rows[LINES], figures.delete_marks[LINES]), (2, 1));
    let late = of([line("a", 1, 3, 19), cleared("a", Some(1), 15), removed("a", 1, 1, 20)]);
    assert_eq!(store.apply(&late).unwrap(), Applied { stale: vec![0, 1, 2], ..Applied::default() });
    drop(store);
    let mut store = bench.open();
    assert_eq!(store.apply(&of([line("a", 1, 1, 20)])).unwrap().stale, [0]);
    store.apply(&of([line("a", 1, 1, 21)])).unwrap();
    assert_eq!(there(&bench), [true, true, true]);
    assert_eq!(store.figures().rows[LINES], 3);
}

/// Against the model, with more rows than one step of any store takes.
fn a_prefix_takes_what_is_below_it_and_nothing_beside_it(bench: &impl Bench) {
    let bench = with(bench);
    let model = InMemory::new(Arc::new(with_prefixes()));
    let (mut store, mut expected) = (bench.open(), model.open());
    // Names that look like several parts, or like the beginning of one another.
    let shops = ["a", "a:1", "a\\", "a\\:1", "", ":", "ab"];
    let mut changes = Vec::new();
    for (nth, shop) in (0..).zip(shops) {
        for order in 0..3 {
            changes.extend((0..80).map(|line_| line(shop, order, line_, 10 + line_ % 5)));
            changes.push(removed(shop, order, 100 + nth, 12));
        }
    }
    let mut batches: Vec<Batch> = changes.chunks(60).map(|some| of(some.to_vec())).collect();
    batches.push(of([cleared("a", Some(1), 12), cleared("", Some(0), 12), cleared(":", Some(2), 14)]));
    // The mark of a shorter prefix says what those of longer ones said, unless they are newer.
    batches.push(of([cleared("a\\", Some(0), 11), cleared("a\\", Some(1), 30), cleared("a\\", None, 13)]));
    batches.push(of([
        line("a", 1, 0, 5),
        cleared("a", None, 12),
        line("a", 1, 0, 14),
        cleared("ab", None, 40),
    ]));
    batches.push(of([
        line("a\\", 1, 5, 29),
        line("a\\", 2, 5, 13),
        line("a\\", 2, 6, 15),
        line("a:1", 1, 5, 9),
    ]));
    let truncate = Change { operation: Operation::Truncate, values: vec![], ..line("", 0, 0, 13) };
    batches.push(of([truncate, line("ab", 1, 1, 39), line("ab", 1, 2, 41)]));
    for batch in &batches {
        assert_eq!(store.apply(batch).unwrap(), expected.apply(batch).unwrap());
        let (found, wanted) = (store.figures(), expected.figures());
        assert_eq!(found.rows, wanted.rows);
        assert_eq!((found.held, found.delete_marks), (wanted.held, wanted.delete_marks));
        for shop in shops {
            for (order, nth) in (0..3).flat_map(|order| (0..80).step_by(13).map(move |nth| (order, nth))) {
                assert_eq!(
                    is_there(&bench, shop, order, nth),
                    is_there(&model, shop, order, nth),
                    "{shop} {order} {nth}"
                );
            }
        }
    }
}

fn a_set_that_is_set_anew_has_the_new_rows_only(bench: &impl Bench) {
    let bench = with(bench);
    let mut store = bench.open();
    let replaced = |lines: std::ops::Range<i64>, number: i64| {
        let before = cleared("a", Some(7), number);
        let clear = Change {
            operation: Operation::Clear(Cleared::Replaced),
            version: before.version.just_before(),
            ..before
        };
        of(std::iter::once(clear).chain(lines.map(move |nth| line("a", 7, nth, number))))
    };
    store.apply(&replaced(0..4, 10)).unwrap();
    store.apply(&replaced(2..7, 20)).unwrap();
    let there = || (0..8).filter(|nth| is_there(&bench, "a", 7, *nth)).collect::<Vec<_>>();
    assert_eq!(there(), [2, 3, 4, 5, 6]);
    let again = store.apply(&replaced(2..7, 20)).unwrap();
    assert_eq!(again.stale, (0..6).collect::<Vec<_>>());
    // One that comes late changes nothing.
    store.apply(&replaced(0..8, 15)).unwrap();
    assert_eq!((there(), store.figures().rows[LINES]), (vec![2, 3, 4, 5, 6], 5));
    store.apply(&replaced(0..0, 30)).unwrap();
    assert_eq!((there(), store.figures().rows[LINES]), (vec![], 0));
}

fn marks_of_prefixes_go_when_they_are_old(bench: &impl Bench) {
    let bench = with(bench);
    let mut store = bench.open();
    let all = (0..30).map(|order| cleared("a", Some(order), 10));
    store.apply(&of(all.chain([removed("b", 1, 1, 10)]))).unwrap();
    assert_eq!(store.figures().delete_marks[LINES], 31);
    store.apply(&fresh_as_of(TopicPartition { topic: 1, partition: 0 }, NOW_MS + 60_001)).unwrap();
    assert_eq!(store.maintain(NOW_MS + 60_000).unwrap().delete_marks_dropped, 0);
    assert_eq!(store.maintain(NOW_MS + 60_001).unwrap().delete_marks_dropped, 31);
    assert_eq!(store.figures().delete_marks[LINES], 0);
    drop(store);
    let mut store = bench.open();
    assert_eq!(store.figures().delete_marks[LINES], 0);
    store.apply(&of([line("a", 1, 1, 5), line("b", 1, 1, 5), cleared("a", None, 4)])).unwrap();
    assert!(is_there(&bench, "a", 1, 1) && is_there(&bench, "b", 1, 1));
}

fn a_key_change_carries_what_the_new_row_leaves_out(bench: &impl Bench) {
    let mut store = bench.open();
    let carry = |from: i64, to: i64, number: i64| Change {
        operation: Operation::Carry { read_before_ms: i64::MAX },
        from: key_row(&catalog().tables[0], from),
        version: version(number, 0, number).just_before(),
        ..delete(to, number)
    };
    store.apply(&batch([upsert(1, 11)])).unwrap();
    // Its new row has no email, which did not change.
    let moved = [carry(1, 2, 20), delete(1, 20), patch(2, 20, 0b1011, IfMissing::Hold)];
    store.apply(&batch(moved.clone())).unwrap();
    let mut values = upsert(2, 20).values;
    values[2] = upsert(1, 11).values[2].clone();
    assert_eq!(look(bench, 2), RowLookup::Visible { values: values.clone(), version: version(20, 0, 20) });
    assert!(matches!(look(bench, 1), RowLookup::Deleted { .. }));
    let figures = store.figures();
    assert_eq!((figures.rows[0], figures.held[0], figures.delete_marks[0]), (1, 0, 1));
    assert_eq!(store.apply(&batch(moved)).unwrap().stale, [0, 1, 2]);
    // What is known better there stays.
    store.apply(&batch([upsert(3, 30), carry(3, 2, 25)])).unwrap();
    assert_eq!(look(bench, 2), RowLookup::Visible { values, version: version(20, 0, 20) });
    assert_eq!(store.apply(&batch([carry(4, 2, 40)])).unwrap().stale, [0]);
}

fn heard(number: i64, phase: Phase) -> Change {
    let version = version(number, 0, 0).first_of_its_kind();
    Change { operation: Operation::Snapshot(phase), values: vec![], version, ..upsert(0, 0) }
}

fn swept(rows: u64, number: i64, phase: Phase) -> Swept {
    Swept { table: 0, rows, snapshot: Snapshot { begin: heard(number, phase).version, phase } }
}

fn a_snapshot_sent_again_takes_what_it_does_not_list(bench: &impl Bench) {
    let mut store = bench.open();
    let held = patch(5, 11, 0b0100, IfMissing::Hold);
    store.apply(&batch([upsert(1, 10), upsert(2, 10), upsert(3, 30), delete(4, 12), held])).unwrap();
    let sweep = || heard(20, Phase::Swept);
    // Not before its end was read.
    assert_eq!(store.apply(&of([sweep()])).unwrap().stale, [0]);
    store.apply(&of([heard(20, Phase::UnderWay), upsert(2, 20)])).unwrap();
    assert_eq!(store.apply(&of([sweep()])).unwrap().stale, [0]);
    store.apply(&of([heard(20, Phase::Listed)])).unwrap();
    let snapshots = store.checkpoint().unwrap().snapshots;
    assert_eq!(
        snapshots[&0],
        Snapshot { begin: version(20, 0, 0).first_of_its_kind(), phase: Phase::Listed }
    );
    drop(store);
    let mut store = bench.open();
    assert_eq!(store.checkpoint().unwrap().snapshots, snapshots);
    let applied = store.apply(&of([upsert(6, 15), sweep(), upsert(7, 16)])).unwrap();
    assert_eq!(applied.swept, [swept(2, 20, Phase::Swept)]);
    assert_eq!((look(bench, 1), look(bench, 6)), (RowLookup::Missing, RowLookup::Missing));
    assert_eq!(
        (look(bench, 2), look(bench, 3), look(bench, 7)),
        (visible(2, 20), visible(3, 30), visible(7, 16))
    );
    assert!(matches!(look(bench, 4), RowLookup::Deleted { .. }), "what was deleted stays so");
    let figures = store.figures();
    assert_eq!((figures.rows[0], figures.held[0], figures.delete_marks[0]), (3, 0, 1));
    assert_eq!(store.checkpoint().unwrap().snapshots[&0].phase, Phase::Swept);
    assert_eq!(store.apply(&of([sweep()])).unwrap().stale, [0]);
    // It was still on its way.
    store.apply(&of([upsert(1, 14)])).unwrap();
    assert_eq!(look(bench, 1), visible(1, 14));
}

fn a_sweep_that_takes_suspiciously_much_is_refused(bench: &impl Bench) {
    let mut store = bench.open();
    store.apply(&of((0..200).map(|nth| upsert(nth, 10)))).unwrap();
    // One in ten may go.
    for (number, listed, expected) in [(20, 179, Phase::Refused), (40, 180, Phase::Swept)] {
        let rows = (0..listed).map(|nth| upsert(nth, number));
        store.apply(&of(rows.chain([heard(number, Phase::Listed)]))).unwrap();
        let applied = store.apply(&of([heard(number, Phase::Swept)])).unwrap();
        assert_eq!(applied.swept, [swept(200 - listed as u64, number, expected)]);
        let left = if expected == Phase::Swept { 180 } else { 200 };
        assert_eq!(store.checkpoint().unwrap().snapshots[&0].phase, expected);
        assert_eq!(store.figures().rows[0], left);
        drop(store);
        store = bench.open();
        assert_eq!(store.checkpoint().unwrap().snapshots[&0].phase, expected);
        assert_eq!(store.figures().rows[0], left);
    }
}

fn a_snapshot_that_is_not_whole_takes_nothing(bench: &impl Bench) {
    let mut store = bench.open();
    store.apply(&batch([upsert(1, 10), upsert(2, 10), patch(5, 11, 0b0100, IfMissing::Hold)])).unwrap();
    for (number, rows, expected) in [(20, 1, Phase::Incomplete), (30, 0, Phase::Swept)] {
        let listed = (1..=2 - rows).map(|nth| upsert(nth, number));
        store.apply(&of(listed.chain([heard(number, Phase::Listed)]))).unwrap();
        let applied = store.apply(&of([heard(number, Phase::Incomplete)])).unwrap();
        assert_eq!(applied.swept, [swept(rows as u64, number, expected)]);
        assert_eq!(store.figures().rows[0], 2);
        // It is decided.
        assert_eq!(store.apply(&of([heard(number, Phase::Swept)])).unwrap().stale, [0]);
        drop(store);
        store = bench.open();
        assert_eq!(store.checkpoint().unwrap().snapshots[&0].phase, expected);
        assert_eq!(store.figures().rows[0], 2);
    }
}
