//! Typed column values and the column types of the configuration.

use std::fmt;

use serde::{Deserialize, Serialize};

/// One column of one row, already checked against its [`ColumnType`].
///
/// `decimal`, `date`, `time`, `timestamp`, `uuid` and `json` are canonical text; `boolean` is the
/// integer 0 or 1. A store therefore needs only SQLite's four storage classes and null.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum Value {
    /// The change says nothing about this column: what the replica has stays.
    #[default]
    Absent,
    Null,
    Integer(i64),
    Real(f64),
    Text(String),
    Blob(Vec<u8>),
}

impl Value {
    pub fn is_absent(&self) -> bool {
        matches!(self, Value::Absent)
    }

    /// Approximate heap and inline size in bytes, for the bound on a batch.
    pub fn size(&self) -> usize {
        size_of::<Value>()
            + match self {
                Value::Text(text) => text.len(),
                Value::Blob(bytes) => bytes.len(),
                _ => 0,
            }
    }
}

/// The type a column is declared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ColumnType {
    Integer,
    Real,
    Text,
    Boolean,
    Blob,
    Decimal,
    Date,
    Time,
    Timestamp,
    Uuid,
    Json,
}

impl ColumnType {
    pub const ALL: [ColumnType; 11] = [
        ColumnType::Integer,
        ColumnType::Real,
        ColumnType::Text,
        ColumnType::Boolean,
        ColumnType::Blob,
        ColumnType::Decimal,
        ColumnType::Date,
        ColumnType::Time,
        ColumnType::Timestamp,
        ColumnType::Uuid,
        ColumnType::Json,
    ];

    /// The name in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            ColumnType::Integer => "integer",
            ColumnType::Real => "real",
            ColumnType::Text => "text",
            ColumnType::Boolean => "boolean",
            ColumnType::Blob => "blob",
            ColumnType::Decimal => "decimal",
            ColumnType::Date => "date",
            ColumnType::Time => "time",
            ColumnType::Timestamp => "timestamp",
            ColumnType::Uuid => "uuid",
            ColumnType::Json => "json",
        }
    }

    pub fn from_name(name: &str) -> Option<ColumnType> {
        ColumnType::ALL.into_iter().find(|ty| ty.name() == name)
    }
}

impl fmt::Display for ColumnType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
