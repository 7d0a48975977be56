//! Laws of the join: whatever the order, the repetition or the grouping of changes, the same row.

use proptest::prelude::*;

use super::batch::Carry;
use super::catalog::{Column, Table};
use super::row::RowState;
use super::value::{ColumnType, Value};
use super::version::{Coordinates, Version, VersionKind};

pub(super) fn table(columns: usize) -> Table {
    let columns: Vec<Column> = (0..=columns)
        .map(|index| Column { name: format!("c{index}"), ty: ColumnType::Integer, nullable: index % 2 == 1 })
        .collect();
    Table {
        name: "t".into(),
        columns,
        key: vec![0],
        indexes: vec![],
        prefixes: vec![],
        topics: vec![0],
        max_staleness_ms: 30_000,
        ordered_by_position: false,
        delete_marks_ms: 0,
        fingerprint: String::new(),
    }
}

/// An event whose content follows from its version, as in a log.
#[derive(Debug, Clone)]
enum Event {
    /// Sets the columns whose bit is set.
    Write {
        version: i64,
        columns: u8,
    },
    Delete {
        version: i64,
    },
}

impl Event {
    fn version(&self) -> i64 {
        match self {
            Event::Write { version, .. } | Event::Delete { version } => *version,
        }
    }

    fn state(&self, table: &Table) -> RowState {
        let mut values = vec![Value::Absent; table.columns.len()];
        values[0] = Value::Integer(7);
        match self {
            Event::Delete { version } => RowState::deleted(table, values, number(*version)),
            Event::Write { version, columns } => {
                for (index, value) in values.iter_mut().enumerate().skip(1) {
                    if columns & (1 << index) != 0 {
                        *value = if (version + index as i64) % 5 == 0 {
                            Value::Null
                        } else {
                            Value::Integer(version * 100 + index as i64)
                        };
                    }
                }
                RowState::written(values, number(*version))
            }
        }
    }
}

fn number(version: i64) -> Version {
    let at = Coordinates { topic: 0, partition: 0, offset: version };
    Version::new(VersionKind::Integer, &[version], at).unwrap()
}

/// A log of one key with distinct versions; about half of the writes are whole rows.
fn log() -> impl Strategy<Value = Vec<Event>> {
    prop::collection::vec((any::<u8>(), 0u8..8), 1..12).prop_map(|events| {
        events
            .into_iter()
            .enumerate()
            .map(|(index, (columns, kind))| {
                let version = index as i64 + 1;
                match kind {
                    0 | 1 => Event::Delete { version },
                    2..=4 => Event::Write { version, columns: 0xFF },
                    _ => Event::Write { version, columns },
                }
            })
            .collect()
    })
}

/// Indexes into a log, in any order, with repetitions.
fn picks() -> impl Strategy<Value = Vec<prop::sample::Index>> {
    prop::collection::vec(any::<prop::sample::Index>(), 0..16)
}

fn join(table: &Table, events: impl IntoIterator<Item = Event>) -> RowState {
    let mut row = RowState::unknown(unknown(table));
    for event in events {
        row.absorb(table, event.state(table));
    }
    row
}

fn unknown(table: &Table) -> Vec<Value> {
    let mut values = vec![Value::Absent; table.columns.len()];
    values[0] = Value::Integer(7);
    values
}

fn pick(log: &[Event], picks: &[prop::sample::Index]) -> Vec<Event> {
    picks.iter().map(|index| index.get(log).clone()).collect()
}

fn joined(table: &Table, a: &RowState, b: &RowState) -> RowState {
    let mut row = a.clone();
    row.absorb(table, b.clone());
    row
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn absorb_is_commutative_associative_and_idempotent(
        width in 0usize..5, log in log(), a in picks(), b in picks(), c in picks(),
    ) {
        let table = table(width);
        let [a, b, c] = [a, b, c].map(|picks| join(&table, pick(&log, &picks)));
        prop_assert_eq!(joined(&table, &a, &b), joined(&table, &b, &a));
        prop_assert_eq!(
            joined(&table, &joined(&table, &a, &b), &c),
            joined(&table, &a, &joined(&table, &b, &c))
        );
        let mut again = a.clone();
        prop_assert!(!again.absorb(&table, a.clone()), "absorbing itself changed {:?}", a);
        prop_assert_eq!(&again, &a);
        let both = joined(&table, &a, &b);
        let mut more = both.clone();
        prop_assert!(!more.absorb(&table, b), "absorbing a part again changed {:?}", both);
        prop_assert_eq!(more, both);
    }

    /// Says what a row is without the join: per column the newest write behind the last delete.
    #[test]
    fn any_order_with_repetitions_leads_to_the_row_the_log_describes(
        width in 0usize..5, log in log(), extra in picks(), shuffle in any::<u64>(),
    ) {
        let table = table(width);
        let mut delivered = log.clone();
        delivered.extend(pick(&log, &extra));
        let mut random = shuffle;
        for index in (1..delivered.len()).rev() {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            delivered.swap(index, (random >> 33) as usize % (index + 1));
        }
        let row = join(&table, delivered);

        let deleted = log.iter().filter(|e| matches!(e, Event::Delete { .. })).map(Event::version).max();
        let alive = || log.iter().filter(|e| Some(e.version()) > deleted);
        prop_assert_eq!(row.version, alive().map(|e| number(e.version())).max());
        for column in 1..table.columns.len() {
            let newest = alive()
                .filter(|e| !e.state(&table).values[column].is_absent())
                .max_by_key(|e| e.version());
            let expected = newest.map_or(Value::Absent, |e| e.state(&table).values[column].clone());
            prop_assert_eq!(&row.values[column], &expected, "column {}", column);
            prop_assert_eq!(row.column_version(&table, column), newest.map(|e| number(e.version())));
        }
        if !row.is_full() {
            prop_assert_eq!(row.deleted, deleted.map(number));
        }
    }

    #[test]
    fn a_truncate_is_a_delete_whose_mark_the_table_keeps(
        width in 0usize..5, log in log(), a in picks(), b in picks(), mark in 0i64..14,
    ) {
        let table = table(width);
        let mark = number(mark);
        let [a, b] = [a, b].map(|picks| join(&table, pick(&log, &picks)));
        let cut = |row: &RowState| {
            let mut row = row.clone();
            row.truncate(&table, mark);
            row
        };
        let before = cut(&joined(&table, &a, &b));
        let after = joined(&table, &cut(&a), &cut(&b));
        prop_assert_eq!(before, after, "a late event must fare as one that came before the truncate");
    }

    #[test]
    fn a_row_survives_being_stored(width in 0usize..5, log in log(), a in picks()) {
        let table = table(width);
        let row = join(&table, pick(&log, &a));
        let stored = row.values.iter().cloned().map(|v| if v.is_absent() { Value::Null } else { v }).collect();
        let details = row.details(&table);
        prop_assert_eq!(RowState::from_details(&table, stored, row.version, &details), Some(row));
    }

    #[test]
    fn foreign_details_are_refused_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let table = table(3);
        let values = vec![Value::Integer(7), Value::Null, Value::Null, Value::Null];
        // Either they are refused, or they are details of such a row.
        if let Some(row) = RowState::from_details(&table, values, Some(number(1)), &bytes) {
            prop_assert_eq!(row.details(&table), bytes);
        }
    }

    /// A tombstone takes a row only from its own partition and from below its own offset, and a
    /// replay of what it took stays away.
    #[test]
    fn a_tombstone_takes_what_its_own_partition_wrote_before(
        offset in 0i64..10, at in 0i64..10, partition in 0i32..2,
    ) {
        let table = table(2);
        let write = Event::Write { version: offset, columns: 0xFF };
        let mut row = join(&table, [write.clone()]);
        let changed = row.bury(&table, Coordinates { topic: 0, partition, offset: at });
        prop_assert_eq!(changed, partition == 0 && offset < at);
        prop_assert_eq!(row.is_visible(&table), !changed);
        let replayed = row.absorb(&table, write.state(&table));
        prop_assert!(!replayed);
        let again = row.bury(&table, Coordinates { topic: 0, partition, offset: at });
        prop_assert!(!again);
    }
}

/// Found by the law above: the shortcut for whole rows took the older of two for useless.
#[test]
fn a_late_whole_row_fills_what_a_newer_patch_left_open() {
    let table = table(2);
    let row = join(
        &table,
        [Event::Write { version: 5, columns: 0b010 }, Event::Write { version: 3, columns: 0xFF }],
    );
    assert!(row.is_full());
    assert_eq!(row.values[1], Value::Integer(501));
    assert_eq!(row.column_version(&table, 2), Some(number(3)));
}

fn carry(to: &[Value], version: Version) -> Carry {
    Carry { from: Vec::new(), to: to.to_vec(), version, read_before_ms: i64::MAX }
}

/// A key change takes along what the row said when it happened: not what was written after it, and
/// nothing at all of a row that is newer as a whole.
#[test]
fn a_row_is_carried_as_it_was_when_its_key_changed() {
    let table = table(2);
    let mut row = Event::Write { version: 10, columns: 0xFF }.state(&table);
    row.absorb(&table, Event::Write { version: 30, columns: 0b010 }.state(&table));
    let to = [Value::Integer(8), Value::Absent, Value::Absent];
    let carried = row.carried(&table, &carry(&to, number(20))).expect("one column is older");
    assert_eq!(carried.values, [Value::Integer(8), Value::Absent, row.values[2].clone()]);
    assert_eq!(carried.version, Some(number(20)));
    assert_eq!(row.carried(&table, &carry(&to, number(10))), None, "nothing is older");
    assert!(row.carried(&table, &carry(&to, number(40))).is_some_and(|carried| carried.is_full()));
}

/// It may be of the row that has got the key since, ahead of the log.
#[test]
fn what_was_read_beside_the_log_too_late_is_not_carried() {
    let table = table(2);
    let at = Coordinates { topic: 0, partition: 0, offset: 9 };
    let version = |parts: &[i64]| Version::new(VersionKind::Integers, parts, at).unwrap();
    let mut row = Event::Write { version: 1, columns: 0xFF }.state(&table);
    row = RowState::written(row.values, version(&[5, 6, 1_000]));
    assert!(version(&[5, 6]) < version(&[5, 6, 1_000]) && version(&[5, 6, 1_000]) < version(&[5, 7]));
    let to = [Value::Integer(8), Value::Absent, Value::Absent];
    let carry = |read_before_ms| Carry { read_before_ms, ..carry(&to, version(&[7, 8])) };
    assert_eq!(row.carried(&table, &carry(1_000)), None);
    assert!(row.carried(&table, &carry(1_001)).is_some_and(|carried| carried.is_full()));
    // What the log itself says stays known.
    let patch = vec![Value::Integer(8), Value::Integer(9), Value::Absent];
    row.absorb(&table, RowState::written(patch, version(&[6, 7])));
    let carried = row.carried(&table, &carry(1_000)).unwrap();
    assert_eq!(carried.values[1..], [Value::Integer(9), Value::Absent]);
}

#[test]
fn a_lone_tombstone_does_not_take_a_row_that_was_carried_over() {
    let table = table(1);
    let at = Coordinates { topic: 0, partition: 0, offset: 9 };
    let version = Version::new(VersionKind::Integers, &[5, 5], at).unwrap();
    let old = RowState::written(vec![Value::Integer(1), Value::Integer(10)], version);
    let later = Version::new(VersionKind::Integers, &[6, 6], at).unwrap();
    let key = [Value::Integer(2), Value::Absent];
    let mut carried = old.carried(&table, &carry(&key, later.second_of_its_kind())).unwrap();
    // Its version has a partition, in which it never was.
    assert!(!carried.bury(&table, Coordinates { topic: 0, partition: 0, offset: 7 }));
    assert!(carried.is_visible(&table));
    let mut written = old.clone();
    assert!(written.bury(&table, Coordinates { topic: 0, partition: 0, offset: 10 }));
}
