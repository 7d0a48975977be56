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

/// Such that equal keys, and only those, have equal bytes.
pub fn key_bytes<'v>(key: impl IntoIterator<Item = &'v Value>) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(32);
    push_key_bytes(key, &mut bytes);
    bytes
}

/// As [`key_bytes`], behind what is there.
pub fn push_key_bytes<'v>(key: impl IntoIterator<Item = &'v Value>, bytes: &mut Vec<u8>) {
    for part in key {
        let (class, part): (u8, &[u8]) = match part {
            Value::Absent | Value::Null => (0, &[]),
            Value::Integer(number) => (1, &number.to_be_bytes()),
            Value::Real(number) => (2, &number.to_bits().to_be_bytes()),
            Value::Text(text) => (3, text.as_bytes()),
            Value::Blob(part) => (4, part),
        };
        bytes.push(class);
        bytes.extend_from_slice(&(part.len() as u64).to_be_bytes());
        bytes.extend_from_slice(part);
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
