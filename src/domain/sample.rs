//! What keys are like, found out by some of them: how often they come again, and whether they come in an
//! order. Only decides what is tried first.

use std::collections::HashSet;

use super::value::Value;

/// One key in so many is remembered, at first.
const ONE_IN: u64 = 64;
const REMEMBERED_MAX: usize = 8_192;
/// Keys looked at before a share means anything.
const LOOKED_MIN: u64 = 1_024;

/// How often keys come again.
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

/// Keys looked at after which older ones count half.
const RECENT: u64 = 1 << 16;

/// Whether keys come in order, more or less: several partitions that are each in order are.
#[derive(Debug, Default)]
pub struct Order {
    /// By table: the last key.
    last: Vec<u64>,
    looked: u64,
    /// So many were lower than the one before.
    back: u64,
}

impl Order {
    /// `head`: see [`super::shelf::key_head`].
    pub fn look(&mut self, table: usize, head: u64) {
        if self.last.len() <= table {
            self.last.resize(table + 1, 0);
        }
        let before = std::mem::replace(&mut self.last[table], head);
        if self.looked >= RECENT {
            (self.looked, self.back) = (self.looked / 2, self.back / 2);
        }
        self.looked += 1;
        self.back += u64::from(head < before);
    }

    /// Whether keys were looked at.
    pub fn matters(&self) -> bool {
        self.looked > 0
    }

    /// Half of the keys go back where there is no order.
    pub fn is_none(&self) -> bool {
        self.looked >= LOOKED_MIN && self.back * 4 > self.looked
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_again_is_told_from_what_does_not() {
        let spread = |nth: u64| nth.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29);
        let looked = |keys: u64| {
            let mut sample = Sample::default();
            (0..300_000_u64).for_each(|nth| sample.look_at(spread(nth % keys)));
            (sample.is_any_again(), sample.is_often_again(), sample.is_mostly_again())
        };
        assert_eq!(looked(u64::MAX), (false, false, false));
        assert_eq!(looked(200_000), (true, true, false));
        assert_eq!(looked(20_000), (true, true, true));
    }

    #[test]
    fn an_order_is_seen_also_where_partitions_and_tables_take_turns() {
        let mut order = Order::default();
        let mut tables = Order::default();
        for nth in 0..10_000_u64 {
            // Four partitions, a hundred records at a time.
            order.look(0, nth / 400 * 100 + nth % 100 + nth / 100 % 4 * 1_000_000);
            tables.look((nth % 2) as usize, if nth % 2 == 0 { nth } else { 1 << 40 | nth });
        }
        assert!(!order.is_none() && !tables.is_none());
        let mut none = Order::default();
        assert!(!none.is_none());
        for nth in 0..10_000_u64 {
            none.look(0, nth.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        }
        assert!(none.is_none());
        for nth in 0..300_000 {
            none.look(0, nth);
        }
        assert!(!none.is_none(), "it has an order now");
    }
}
