//! The shape of a replica: its topics and tables, as a store needs to know them.

use serde::{Deserialize, Serialize};

use super::value::{ColumnType, Value};

/// Topics and tables of one compiled mapping.
///
/// Topic indexes are stable because topics are sorted by name: versions carry the index as a
/// tie-breaker and two replicas of one configuration must agree.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Catalog {
    /// Topic names in ascending order. An index into this list is called a *topic index*.
    pub topics: Vec<String>,
    /// Tables in the order of the configuration.
    pub tables: Vec<Table>,
    /// Hex digest of everything in the compiled mapping that decides which rows result.
    pub fingerprint: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Table {
    pub name: String,
    /// Columns in declared order; every row has one value per column in this order.
    pub columns: Vec<Column>,
    /// Column indexes of the key, in key order. Never empty; key columns are never nullable.
    pub key: Vec<usize>,
    /// Secondary indexes as lists of column indexes.
    pub indexes: Vec<Vec<usize>>,
    /// How many key columns a prefix has by which rows are cleared, ascending, each once; usually none.
    #[serde(default)]
    pub prefixes: Vec<usize>,
    /// Topic indexes of the topics that feed this table.
    pub topics: Vec<usize>,
    /// Beyond this age readers see the table as stale.
    pub max_staleness_ms: i64,
    /// True when no version comes from the events, so that order is known per partition only.
    pub ordered_by_position: bool,
    /// How long a delete mark is kept when versions come from the events.
    pub delete_marks_ms: i64,
    /// Hex digest of what decides the rows of this table.
    pub fingerprint: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Column {
    pub name: String,
    pub ty: ColumnType,
    pub nullable: bool,
}

impl Table {
    pub fn is_key(&self, column: usize) -> bool {
        self.key.contains(&column)
    }

    /// The key values of a row, in key order.
    pub fn key_of<'a>(&'a self, values: &'a [Value]) -> impl Iterator<Item = &'a Value> {
        self.key.iter().map(|&column| &values[column])
    }

    /// The key columns of a prefix, of rows whose first key columns are set; see [`Table::prefixes`].
    pub fn prefix_of(&self, values: &[Value]) -> Vec<Value> {
        self.key_of(values).take_while(|value| !value.is_absent()).cloned().collect()
    }

    /// True for a table whose key is one integer column: it can be SQLite's rowid.
    pub fn has_integer_key(&self) -> bool {
        matches!(self.key.as_slice(), [only] if self.columns[*only].ty == ColumnType::Integer)
    }
}
