//! In which order the entries of a batch are written.

use std::cmp::Ordering;

use crate::domain::batch::{Entry, Step};
use crate::domain::catalog::Catalog;
use crate::domain::shelf::key_head;
use crate::domain::value::Value;

/// Indexes of all entries, each once. Rows of different keys do not depend on each other, so between
/// two steps that depend on more than their own row they go in the order of table and key:
/// neighbours share pages of the B-tree, and partitions bring them interleaved. Rows of one key stay
/// in their order.
pub(super) fn by_key(catalog: &Catalog, entries: &[Entry]) -> Vec<u32> {
    let mut order = Vec::with_capacity(entries.len());
    let mut run = Vec::new();
    for (index, entry) in entries.iter().enumerate() {
        match &entry.step {
            Step::Row(row) => {
                let table = &catalog.tables[entry.table];
                let first = table.key.first().map_or(0, |&column| key_head(&row.values[column]));
                run.push(Place { table: entry.table, first, index: index as u32 });
            }
            Step::Cut { prefix: of, .. } if !of.is_empty() => {
                run.push(Place { table: entry.table, first: key_head(&of[0]), index: index as u32 });
            }
            _ => {
                flush(catalog, entries, &mut run, &mut order);
                order.push(index as u32);
            }
        }
    }
    flush(catalog, entries, &mut run, &mut order);
    order
}

struct Place {
    table: usize,
    /// Says most of what there is to say about the key, without a look at the row.
    first: u64,
    index: u32,
}

fn flush(catalog: &Catalog, entries: &[Entry], run: &mut Vec<Place>, order: &mut Vec<u32>) {
    // Where a prefix may be cleared, rows keep their order beside that: only the first column counts,
    // which every prefix has.
    let key = |place: &Place| match &entries[place.index as usize].step {
        Step::Row(row) if catalog.tables[place.table].prefixes.is_empty() => {
            Some(catalog.tables[place.table].key_of(&row.values))
        }
        _ => None,
    };
    run.sort_by(|a, b| {
        (a.table, a.first).cmp(&(b.table, b.first)).then_with(|| match (key(a), key(b)) {
            (Some(a), Some(b)) => compare(a, b),
            _ => Ordering::Equal,
        })
    });
    order.extend(run.drain(..).map(|place| place.index));
}

/// A total order; SQLite's own for values of one class, and nothing depends on more.
fn compare<'v>(a: impl Iterator<Item = &'v Value>, b: impl Iterator<Item = &'v Value>) -> Ordering {
    let class = |value: &Value| match value {
        Value::Absent | Value::Null => 0,
        Value::Integer(_) => 1,
        Value::Real(_) => 2,
        Value::Text(_) => 3,
        Value::Blob(_) => 4,
    };
    for (a, b) in a.zip(b) {
        let order = match (a, b) {
            (Value::Integer(a), Value::Integer(b)) => a.cmp(b),
            (Value::Real(a), Value::Real(b)) => a.total_cmp(b),
            (Value::Text(a), Value::Text(b)) => a.cmp(b),
            (Value::Blob(a), Value::Blob(b)) => a.cmp(b),
            _ => class(a).cmp(&class(b)),
        };
        if order != Ordering::Equal {
            return order;
        }
    }
    Ordering::Equal
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::change::Effect;
    use crate::domain::row::RowState;
    use crate::domain::version::{Coordinates, Version, VersionKind};
    use crate::store::contract::{catalog, key_row};

    fn entry(table: usize, step: Step) -> Entry {
        Entry::new(table, 0, Effect::ALL[0], step)
    }

    #[test]
    fn rows_go_by_table_and_key_and_never_past_a_step_that_is_more_than_a_row() {
        let catalog = catalog();
        let at = Coordinates { topic: 0, partition: 0, offset: 1 };
        let version = Version::new(VersionKind::Integer, &[1], at).unwrap();
        let row = |table: usize, nth: i64| {
            let values = key_row(&catalog.tables[table], nth);
            entry(table, Step::Row(RowState::written(values, version)))
        };
        let entries = [
            row(2, 7),
            row(0, -3),
            row(0, 9),
            row(2, 2),
            row(0, -4),
            row(0, 9),
            entry(0, Step::Cut { prefix: vec![], version }),
            row(0, 5),
            row(0, 1),
        ];
        assert_eq!(by_key(&catalog, &entries), [4, 1, 2, 5, 3, 0, 6, 8, 7]);
    }
}
