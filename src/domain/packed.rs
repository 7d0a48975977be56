//! A whole row and its version as a few bytes: a third of what the same takes as values.

use super::value::Value;
use super::version::Version;

const NULL: u8 = 0;
const INTEGER: u8 = 1;
const REAL: u8 = 2;
const TEXT: u8 = 3;
const BLOB: u8 = 4;

/// The version as a length byte and that many bytes; then for each column a byte for its class, and
/// eight bytes little-endian for a number, or the length in four and that many bytes.
#[derive(Debug, Clone, Copy)]
pub struct PackedRow<'a> {
    version: &'a [u8],
    values: &'a [u8],
}

/// One column of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum PackedValue<'a> {
    Null,
    Integer(i64),
    Real(f64),
    /// UTF-8: it was text when it was packed.
    Text(&'a [u8]),
    Blob(&'a [u8]),
}

/// Appends a row none of whose columns is absent.
pub fn pack(values: &[Value], version: &Version, out: &mut Vec<u8>) {
    out.push(version.as_bytes().len() as u8);
    out.extend_from_slice(version.as_bytes());
    for value in values {
        match value {
            Value::Absent | Value::Null => out.push(NULL),
            Value::Integer(number) => {
                out.push(INTEGER);
                out.extend_from_slice(&number.to_le_bytes());
            }
            Value::Real(number) => {
                out.push(REAL);
                out.extend_from_slice(&number.to_bits().to_le_bytes());
            }
            Value::Text(text) => push_bytes(TEXT, text.as_bytes(), out),
            Value::Blob(bytes) => push_bytes(BLOB, bytes, out),
        }
    }
}

fn push_bytes(class: u8, bytes: &[u8], out: &mut Vec<u8>) {
    // A record has less than 4 GiB.
    let length = bytes.len() as u32;
    out.push(class);
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(bytes);
}

impl<'a> PackedRow<'a> {
    /// `None`: these bytes are not what [`pack`] makes.
    pub fn read(bytes: &'a [u8]) -> Option<PackedRow<'a>> {
        let (&length, rest) = bytes.split_first()?;
        let (version, values) = rest.split_at_checked(usize::from(length))?;
        Some(PackedRow { version, values })
    }

    pub fn version(&self) -> Option<Version> {
        Version::from_bytes(self.version)
    }

    pub fn version_bytes(&self) -> &'a [u8] {
        self.version
    }

    /// Column by column; it ends early where the bytes are not what they should be.
    pub fn values(&self) -> impl Iterator<Item = PackedValue<'a>> + use<'a> {
        let mut rest = self.values;
        std::iter::from_fn(move || take(&mut rest))
    }

    pub fn unpack(&self) -> Option<(Vec<Value>, Version)> {
        let values = self.values().map(|value| {
            Some(match value {
                PackedValue::Null => Value::Null,
                PackedValue::Integer(number) => Value::Integer(number),
                PackedValue::Real(number) => Value::Real(number),
                PackedValue::Text(text) => Value::Text(String::from_utf8(text.to_vec()).ok()?),
                PackedValue::Blob(bytes) => Value::Blob(bytes.to_vec()),
            })
        });
        Some((values.collect::<Option<_>>()?, self.version()?))
    }
}

fn take<'a>(rest: &mut &'a [u8]) -> Option<PackedValue<'a>> {
    let (&class, tail) = rest.split_first()?;
    let (value, tail) = match class {
        NULL => (PackedValue::Null, tail),
        INTEGER => {
            let (number, tail) = tail.split_first_chunk()?;
            (PackedValue::Integer(i64::from_le_bytes(*number)), tail)
        }
        REAL => {
            let (number, tail) = tail.split_first_chunk()?;
            (PackedValue::Real(f64::from_bits(u64::from_le_bytes(*number))), tail)
        }
        TEXT | BLOB => {
            let (length, tail) = tail.split_first_chunk()?;
            let (bytes, tail) = tail.split_at_checked(u32::from_le_bytes(*length) as usize)?;
            (if class == TEXT { PackedValue::Text(bytes) } else { PackedValue::Blob(bytes) }, tail)
        }
        _ => return None,
    };
    *rest = tail;
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::version::{Coordinates, VersionKind};
    use proptest::prelude::*;

    fn value() -> impl Strategy<Value = Value> {
        prop_oneof![
            Just(Value::Null),
            any::<i64>().prop_map(Value::Integer),
            (-1e300f64..1e300).prop_map(Value::Real),
            ".{0,9}".prop_map(Value::Text),
            prop::collection::vec(any::<u8>(), 0..9).prop_map(Value::Blob),
        ]
    }

    proptest! {
        #[test]
        fn a_row_survives_being_packed(values in prop::collection::vec(value(), 0..6), number in any::<i64>()) {
            let at = Coordinates { topic: 3, partition: 2, offset: 1 };
            let version = Version::new(VersionKind::Integer, &[number], at).unwrap();
            let mut bytes = Vec::new();
            pack(&values, &version, &mut bytes);
            let row = PackedRow::read(&bytes).unwrap();
            prop_assert_eq!(row.version_bytes(), version.as_bytes());
            prop_assert_eq!(row.unpack(), Some((values, version)));
        }

        #[test]
        fn foreign_bytes_are_refused_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            if let Some(row) = PackedRow::read(&bytes) {
                row.unpack();
            }
        }
    }
}
