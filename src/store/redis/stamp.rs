//! Versions in fewer bytes and in the same order: every row holds one.
//!
//! The kind shares a byte with the length of the first integer, kinds that always have the same number
//! of integers need no end behind them, and topics, partitions and offsets that are small are one byte.
//! No stamp begins with zero.

use crate::domain::version::Version;

/// In [`Version`]: ends the integers.
const END: u8 = 0;
/// The lowest and the highest byte that an integer begins with there; zero, and how many bytes follow a
/// positive number, from the third on.
const FIRST: u8 = 0x77;
const ZERO: u8 = 0x80;
const LAST: u8 = 0x88;
/// Integers of the kinds that always have the same number of them, by their byte.
const FIXED: [(u8, usize); 3] = [(1, 1), (2, 1), (3, 2)];
const INTEGERS: u8 = 4;
const LENGTHS: u8 = LAST - FIRST + 1;
/// Behind the stamps of all kinds: what is written as it is.
const AS_IT_IS: u8 = 1 + INTEGERS * LENGTHS;

/// Coordinates: what negative numbers begin with comes first, then small ones, which are that byte.
const SMALL: u8 = ZERO - FIRST;
const LARGE: u8 = 0xF7;

/// Appends the stamp of a version.
pub(super) fn push(version: &Version, out: &mut Vec<u8>) {
    let bytes = version.as_bytes();
    let before = out.len();
    if pack(bytes, out).is_none() {
        out.truncate(before);
        out.push(AS_IT_IS + bytes.first().copied().unwrap_or_default());
        out.extend_from_slice(bytes.get(1..).unwrap_or_default());
    }
}

/// The opposite; `None` for other bytes.
pub(super) fn read(stamp: &[u8]) -> Option<Version> {
    let (&first, mut rest) = stamp.split_first()?;
    let mut bytes = Vec::with_capacity(24);
    if first >= AS_IT_IS {
        bytes.push(first - AS_IT_IS);
        bytes.extend_from_slice(rest);
        return Version::from_bytes(&bytes);
    }
    let first = first.checked_sub(1)?;
    let (kind, begin) = (first / LENGTHS + 1, FIRST + first % LENGTHS);
    bytes.extend([kind, begin]);
    bytes.extend_from_slice(take(&mut rest, width(begin))?);
    match integers_of(kind) {
        Some(count) => {
            for _ in 1..count {
                copy_integer(&mut rest, &mut bytes)?;
            }
        }
        None => {
            while *rest.first()? != END {
                copy_integer(&mut rest, &mut bytes)?;
            }
            rest = &rest[1..];
        }
    }
    bytes.push(END);
    for _ in 0..3 {
        match take(&mut rest, 1)?[0] {
            negative @ 0..SMALL => {
                bytes.push(FIRST + negative);
                bytes.extend_from_slice(take(&mut rest, width(FIRST + negative))?);
            }
            SMALL => bytes.push(ZERO),
            small @ SMALL..=LARGE => bytes.extend([ZERO + 1, small - SMALL]),
            large => {
                bytes.push(ZERO + (large - LARGE));
                bytes.extend_from_slice(take(&mut rest, usize::from(large - LARGE))?);
            }
        }
    }
    if rest.is_empty() { Version::from_bytes(&bytes) } else { None }
}

/// `None`: it is not as every version of its kind is.
fn pack(version: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let (&kind, mut rest) = version.split_first()?;
    let begin = take(&mut rest, 1)?[0];
    if !(1..=INTEGERS).contains(&kind) || !(FIRST..=LAST).contains(&begin) {
        return None;
    }
    out.push(1 + (kind - 1) * LENGTHS + (begin - FIRST));
    out.extend_from_slice(take(&mut rest, width(begin))?);
    let mut count = 1;
    while *rest.first()? != END {
        copy_integer(&mut rest, out)?;
        count += 1;
    }
    rest = &rest[1..];
    match integers_of(kind) {
        Some(expected) if expected != count => return None,
        Some(_) => {}
        None => out.push(END),
    }
    for _ in 0..3 {
        let begin = take(&mut rest, 1)?[0];
        let bytes = take(&mut rest, width(begin))?;
        match (begin, bytes) {
            (ZERO, _) => out.push(SMALL),
            (..ZERO, _) => {
                out.push(begin - FIRST);
                out.extend_from_slice(bytes);
            }
            (_, [small]) if *small <= LARGE - SMALL => out.push(SMALL + small),
            _ => {
                out.push(LARGE + (begin - ZERO));
                out.extend_from_slice(bytes);
            }
        }
    }
    Some(())
}

fn integers_of(kind: u8) -> Option<usize> {
    FIXED.iter().find(|(of, _)| *of == kind).map(|(_, count)| *count)
}

/// Bytes that follow the first one of an integer.
fn width(begin: u8) -> usize {
    usize::from(if begin < ZERO { (ZERO - 1).saturating_sub(begin) } else { begin - ZERO })
}

fn copy_integer(rest: &mut &[u8], out: &mut Vec<u8>) -> Option<()> {
    let begin = take(rest, 1)?[0];
    out.push(begin);
    out.extend_from_slice(take(rest, width(begin))?);
    Some(())
}

fn take<'a>(rest: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (taken, tail) = rest.split_at_checked(count)?;
    *rest = tail;
    Some(taken)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::version::{Coordinates, VersionKind};

    fn stamp(version: &Version) -> Vec<u8> {
        let mut bytes = Vec::new();
        push(version, &mut bytes);
        bytes
    }

    fn number() -> impl Strategy<Value = i64> {
        prop_oneof![0i64..4, 230i64..300, -3i64..1, any::<i64>(), Just(i64::MIN), Just(i64::MAX)]
    }

    prop_compose! {
        fn versions()(
            kind in 0usize..4,
            parts in prop::collection::vec(number(), 1..5),
            (topic, partition, offset) in (number(), number(), number()),
        ) -> Version {
            let at = Coordinates { topic: topic as u32, partition: partition as i32, offset };
            match kind {
                0 => Version::position(parts[0], at),
                1 => Version::new(VersionKind::Integer, &parts[..1], at).unwrap(),
                2 => Version::new(VersionKind::Time, &[parts[0], *parts.last().unwrap()], at).unwrap(),
                _ => Version::new(VersionKind::Integers, &parts, at).unwrap(),
            }
        }
    }

    proptest! {
        #[test]
        fn stamps_have_the_order_of_versions_and_are_read_back(a in versions(), b in versions()) {
            let (one, other) = (stamp(&a), stamp(&b));
            prop_assert_eq!(read(&one), Some(a));
            prop_assert_eq!(one.cmp(&other), a.cmp(&b));
            prop_assert!(one.len() <= a.as_bytes().len() && one[0] != 0);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            if let Some(version) = read(&bytes) {
                prop_assert_eq!(read(&stamp(&version)), Some(version));
            }
        }
    }

    #[test]
    fn a_stamp_is_short_and_what_is_unusual_is_kept_as_it_is() {
        let at = Coordinates { topic: 3, partition: 11, offset: 1_000_000 };
        let version = Version::position(1_700_000_000_000, at);
        assert_eq!((version.as_bytes().len(), stamp(&version).len()), (17, 13));
        let odd = Version::new(VersionKind::Integer, &[1, 2], at).unwrap();
        assert_eq!(read(&stamp(&odd)), Some(odd));
    }
}
