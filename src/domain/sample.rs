//! How often keys come again, found out by some of them. Only decides what is tried first.

use std::collections::HashSet;

use super::value::Value;

/// One key in so many is remembered, at first.
const ONE_IN: u64 = 64;
const REMEMBERED_MAX: usize = 8_192;
/// Keys looked at before a share means anything.
const LOOKED_MIN: u64 = 1_024;

#[derive(Debug)]
pub struct Sample {
    one_in: u64,
    seen: HashSet<u64>,
    looked: u64,
    again: u64,
}

impl Default for Sample {
    fn default() -> Sample {
        Sample { one_in: ONE_IN, seen: HashSet::new(), looked: 0, again: 0 }
    }
}

impl Sample {
    pub fn look<'v>(&mut self, key: impl Iterator<Item = &'v Value>) {
        self.look_at(key.fold(0_u64, |hash, value| {
            let part = match value {
                Value::Text(text) => tail(text.as_bytes()),
                Value::Blob(bytes) => tail(bytes),
                Value::Integer(number) => *number as u64,
                _ => 0,
            };
            (hash ^ part).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(32)
        }));
    }

    /// A key by its hash.
    pub fn look_at(&mut self, hash: u64) {
        if !hash.is_multiple_of(self.one_in) {
            return;
        }
        self.looked += 1;
        self.again += u64::from(!self.seen.insert(hash));
        if self.seen.len() > REMEMBERED_MAX {
            *self = Sample { one_in: self.one_in * 8, ..Sample::default() };
        }
    }

    /// Whether any key is known to have come again.
    pub fn is_any_again(&self) -> bool {
        self.again > 0
    }

    /// Whether one in four comes again.
    pub fn is_often_again(&self) -> bool {
        self.looked >= LOOKED_MIN && self.again * 4 > self.looked
    }

    /// Whether the same keys come again and again.
    pub fn is_mostly_again(&self) -> bool {
        self.looked >= LOOKED_MIN && self.again * 2 > self.looked
    }
}

/// The last eight bytes, which tell keys apart best.
fn tail(bytes: &[u8]) -> u64 {
    bytes.iter().rev().take(8).fold(bytes.len() as u64, |tail, byte| tail << 8 | u64::from(*byte))
}
