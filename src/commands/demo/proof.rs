//! The demo proves itself: the rows of the replica next to the rows the shop knows to be right.

use super::shop::{Expected, Row};
use crate::domain::catalog::Catalog;
use crate::store::{Reader, RowLookup, StoreError};

/// Differences named at most; the count tells the rest.
const NAMED_MAX: usize = 3;

/// How one table of the replica compares.
#[derive(Debug, Clone, PartialEq)]
pub struct Comparison {
    pub table: &'static str,
    pub expected: u64,
    /// Rows a reader counts.
    pub rows: u64,
    /// Expected rows that are missing or not the same.
    pub differing: u64,
    /// Some of them, for a person.
    pub examples: Vec<String>,
}

impl Comparison {
    /// As many rows as expected, and every expected row is there as it should be.
    pub fn is_equal(&self) -> bool {
        self.differing == 0 && self.rows == self.expected
    }
}

/// Looks up every row. Blocks.
pub fn compare(
    expected: &[Expected],
    catalog: &Catalog,
    reader: &dyn Reader,
    now_ms: i64,
) -> Result<Vec<Comparison>, StoreError> {
    let status = reader.status(now_ms)?;
    let mut comparisons = Vec::with_capacity(expected.len());
    for Expected { table: name, rows } in expected {
        let counted = status.tables.iter().find(|table| table.table_name == *name);
        let mut comparison = Comparison {
            table: name,
            expected: rows.len() as u64,
            rows: counted.map_or(0, |table| table.rows),
            differing: 0,
            examples: Vec::new(),
        };
        let index = catalog.tables.iter().position(|table| table.name == *name);
        for row in rows {
            let difference = match index {
                Some(index) => differs(row, catalog, index, reader)?,
                None => Some("the replica has no such table".to_owned()),
            };
            if let Some(difference) = difference {
                comparison.differing += 1;
                if comparison.examples.len() < NAMED_MAX {
                    comparison.examples.push(format!("{name}: {difference}"));
                }
            }
        }
        comparisons.push(comparison);
    }
    Ok(comparisons)
}

fn differs(
    row: &Row,
    catalog: &Catalog,
    index: usize,
    reader: &dyn Reader,
) -> Result<Option<String>, StoreError> {
    let table = &catalog.tables[index];
    let key: Vec<_> = table.key_of(row).cloned().collect();
    let difference = match reader.row(index, &key)? {
        RowLookup::Visible { values, .. } if values == *row => None,
        RowLookup::Visible { values, .. } => Some(format!("row {key:?} is {values:?} and should be {row:?}")),
        RowLookup::Deleted { .. } => Some(format!("row {key:?} is deleted and should be {row:?}")),
        RowLookup::Missing => Some(format!("row {key:?} is missing and should be {row:?}")),
    };
    Ok(difference)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::domain::catalog::{Column, Table};
    use crate::domain::checkpoint::TopicPartition;
    use crate::domain::row::RowState;
    use crate::domain::state::State;
    use crate::domain::value::{ColumnType, Value};
    use crate::domain::version::{Coordinates, Version};
    use crate::store::{LetterPage, LetterQuery, Status, TableStatus};

    /// A replica of one table whose rows are their numbers, doubled.
    struct Doubles(BTreeMap<i64, i64>);

    impl Reader for Doubles {
        fn status(&self, _now_ms: i64) -> Result<Status, StoreError> {
            let table = TableStatus {
                table_name: "doubles".into(),
                state: State::Live,
                complete: true,
                rebuilding: false,
                missing_events: false,
                fresh_as_of: None,
                fresh_as_of_ms: None,
                lag_records: None,
                max_staleness_ms: 30_000,
                rows: self.0.len() as u64,
                dead_letters: 0,
                generation: 1,
            };
            Ok(Status {
                replica: "test".into(),
                state: State::Live,
                complete: true,
                fresh_as_of: None,
                fresh_as_of_ms: None,
                lag_records: None,
                dead_letters: 0,
                stopped: None,
                cluster_id: None,
                tables: vec![table],
                positions: Vec::new(),
            })
        }

        fn state_of(&self, _: usize, _: &[Value]) -> Result<Option<RowState>, StoreError> {
            Ok(None)
        }

        fn is_dead_letter(&self, _: TopicPartition, _: i64) -> Result<bool, StoreError> {
            Ok(false)
        }

        fn dead_letters(&self, _: &LetterQuery) -> Result<LetterPage, StoreError> {
            Ok(LetterPage::default())
        }

        fn row(&self, _table: usize, key: &[Value]) -> Result<RowLookup, StoreError> {
            let [Value::Integer(number)] = key else { return Ok(RowLookup::Missing) };
            let version = Version::position(0, Coordinates { topic: 0, partition: 0, offset: 0 });
            Ok(match self.0.get(number) {
                Some(double) => {
                    let values = vec![Value::Integer(*number), Value::Integer(*double)];
                    RowLookup::Visible { values, version }
                }
                None if *number < 0 => RowLookup::Deleted { version },
                None => RowLookup::Missing,
            })
        }
    }

    fn catalog() -> Catalog {
        let column = |name: &str| Column { name: name.into(), ty: ColumnType::Integer, nullable: false };
        let table = Table {
            name: "doubles".into(),
            columns: vec![column("number"), column("double")],
            key: vec![0],
            indexes: Vec::new(),
            prefixes: vec![],
            topics: vec![0],
            max_staleness_ms: 30_000,
            ordered_by_position: true,
            delete_marks_ms: 0,
            fingerprint: String::new(),
        };
        Catalog { topics: vec!["numbers".into()], tables: vec![table], fingerprint: String::new() }
    }

    fn compared(expected: &[i64], replica: &[(i64, i64)]) -> Comparison {
        let rows = expected.iter().map(|n| vec![Value::Integer(*n), Value::Integer(n * 2)]).collect();
        let expected = [Expected { table: "doubles", rows }];
        let replica = Doubles(replica.iter().copied().collect());
        compare(&expected, &catalog(), &replica, 0).unwrap().remove(0)
    }

    #[test]
    fn equal_rows_are_equal() {
        assert!(compared(&[1, 2, 3], &[(1, 2), (2, 4), (3, 6)]).is_equal());
    }

    #[test]
    fn whatever_differs_is_noticed() {
        let cases = [
            ("a wrong value", compared(&[1, 2], &[(1, 2), (2, 5)]), 1),
            ("a missing row", compared(&[1, 2], &[(1, 2)]), 1),
            ("a deleted row", compared(&[-1], &[]), 1),
            ("one row for another", compared(&[1, 2], &[(1, 2), (3, 6)]), 1),
            ("a row too many", compared(&[1], &[(1, 2), (2, 4)]), 0),
        ];
        for (what, comparison, differing) in cases {
            assert!(!comparison.is_equal(), "{what}");
            assert_eq!(comparison.differing, differing, "{what}");
            assert_eq!(comparison.examples.len() as u64, differing, "{what}");
        }
        let many = compared(&(1..=100).collect::<Vec<_>>(), &[]);
        assert_eq!((many.differing, many.examples.len()), (100, NAMED_MAX));
    }
}
