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
