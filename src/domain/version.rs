//! Versions: the total order of everything that happens to one row.
//!
//! A version is an order-preserving byte string, so that "newer" is a plain byte comparison in
//! Rust, in SQLite (`BLOB` comparison is `memcmp`) and in any other store. It holds the version
//! from the event (one to four integers) and behind it the coordinates (topic index, partition,
//! offset) that break ties: for equal versions of one partition the offset decides, across
//! partitions the greater coordinates win, so that two replicas agree.

use std::fmt;

/// Integers a version may hold at most.
pub const MAX_PARTS: usize = 4;

const CAPACITY: usize = 63;
const END: u8 = 0x00;
/// Prefix of zero; `ZERO + n` introduces an n-byte positive number, `ZERO - n` a negative one.
const ZERO: u8 = 0x80;

/// What kind of version a table's events carry. One kind a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum VersionKind {
    /// No version in the events: the highest record timestamp seen in the partition so far, then
    /// the coordinates. Within one partition this is the order of offsets; across partitions it
    /// is an estimate that is as good as the producers' clocks.
    Position,
    Integer,
    /// Seconds and nanoseconds since 1970 of an RFC 3339 time.
    Time,
    /// Several integers compared in order, such as Debezium's `source.sequence`; see [`Version::read_ms`].
    Integers,
}

impl VersionKind {
    fn tag(self) -> u8 {
        match self {
            VersionKind::Position => 1,
            VersionKind::Integer => 2,
            VersionKind::Time => 3,
            VersionKind::Integers => 4,
        }
    }

    fn from_tag(tag: u8) -> Option<VersionKind> {
        match tag {
            1 => Some(VersionKind::Position),
            2 => Some(VersionKind::Integer),
            3 => Some(VersionKind::Time),
            4 => Some(VersionKind::Integers),
            _ => None,
        }
    }
}

/// Where a record lies in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Coordinates {
    /// Index into [`super::catalog::Catalog::topics`].
    pub topic: u32,
    pub partition: i32,
    pub offset: i64,
}

/// An encoded version; see the module's documentation. Compare with `<`.
#[derive(Clone, Copy)]
pub struct Version {
    len: u8,
    bytes: [u8; CAPACITY],
}

impl Version {
    /// `parts` holds one to [`MAX_PARTS`] integers; more are an error of the caller and refused.
    pub fn new(kind: VersionKind, parts: &[i64], at: Coordinates) -> Option<Version> {
        if parts.is_empty() || parts.len() > MAX_PARTS {
            return None;
        }
        let mut version = Version { len: 0, bytes: [0; CAPACITY] };
        version.push(kind.tag());
        for part in parts {
            version.push_integer(*part);
        }
        version.push(END);
        version.push_integer(i64::from(at.topic));
        version.push_integer(i64::from(at.partition));
        version.push_integer(at.offset);
        Some(version)
    }

    /// The version of a record whose event has none: see [`VersionKind::Position`].
    pub fn position(max_timestamp_ms: i64, at: Coordinates) -> Version {
        let mut version = Version { len: 0, bytes: [0; CAPACITY] };
        version.push(VersionKind::Position.tag());
        version.push_integer(max_timestamp_ms);
        version.push(END);
        version.push_integer(i64::from(at.topic));
        version.push_integer(i64::from(at.partition));
        version.push_integer(at.offset);
        version
    }

    /// The greatest version below this one: what is not newer than it is older than this one.
    pub fn just_before(&self) -> Version {
        let Parts { kind, integers, mut at } = self.parts();
        at.offset = at.offset.saturating_sub(1);
        Version::new(kind, &integers, at).unwrap_or(*self)
    }

    /// The least version with the same integers: what is older than this is older than all of them.
    pub fn first_of_its_kind(&self) -> Version {
        let Parts { kind, integers, .. } = self.parts();
        let least = Coordinates { topic: 0, partition: 0, offset: i64::MIN };
        Version::new(kind, &integers, least).unwrap_or(*self)
    }

    /// Whether it is the version of a record; those of a kind's beginning are of none.
    pub fn is_of_a_record(&self) -> bool {
        *self != self.first_of_its_kind() && *self != self.second_of_its_kind()
    }

    /// The next one behind that: what is known of a row from elsewhere, and less than what any event with
    /// the same integers says itself.
    pub fn second_of_its_kind(&self) -> Version {
        let Parts { kind, integers, .. } = self.parts();
        let least = Coordinates { topic: 0, partition: 0, offset: i64::MIN + 1 };
        Version::new(kind, &integers, least).unwrap_or(*self)
    }

    /// Reads stored bytes back; `None` when they are not a version.
    pub fn from_bytes(bytes: &[u8]) -> Option<Version> {
        if bytes.len() > CAPACITY {
            return None;
        }
        let mut version = Version { len: bytes.len() as u8, bytes: [0; CAPACITY] };
        version.bytes[..bytes.len()].copy_from_slice(bytes);
        version.decode().map(|_| version)
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    pub fn kind(&self) -> VersionKind {
        self.parts().kind
    }

    pub fn at(&self) -> Coordinates {
        self.parts().at
    }

    /// When the row was read, ms since 1970, of one that was read beside the log, perhaps ahead of what
    /// was sent of it: the third integer. It is newer than an event with the same two.
    pub fn read_ms(&self) -> Option<i64> {
        match self.parts() {
            Parts { kind: VersionKind::Integers, integers, .. } => integers.get(2).copied(),
            _ => None,
        }
    }

    /// What the bytes say. A `Version` is only ever made from bytes that decode.
    pub fn parts(&self) -> Parts {
        self.decode().unwrap_or(Parts {
            kind: VersionKind::Position,
            integers: Vec::new(),
            at: Coordinates { topic: 0, partition: 0, offset: -1 },
        })
    }

    fn push(&mut self, byte: u8) {
        self.bytes[usize::from(self.len)] = byte;
        self.len += 1;
    }

    /// Minimal big-endian bytes behind a prefix that tells sign and length.
    fn push_integer(&mut self, number: i64) {
        let magnitude = if number < 0 { !(number as u64) } else { number as u64 };
        let width = (64 - magnitude.leading_zeros()).div_ceil(8) as u8;
        if number < 0 {
            self.push(ZERO - 1 - width);
        } else {
            self.push(ZERO + width);
        }
        let bytes = (number as u64).to_be_bytes();
        for byte in &bytes[8 - usize::from(width)..] {
            self.push(*byte);
        }
    }

    fn decode(&self) -> Option<Parts> {
        let mut rest = self.as_bytes();
        let (&tag, tail) = rest.split_first()?;
        let kind = VersionKind::from_tag(tag)?;
        rest = tail;
        let mut integers = Vec::with_capacity(2);
        while *rest.first()? != END {
            integers.push(take_integer(&mut rest)?);
        }
        rest = &rest[1..];
        let at = Coordinates {
            topic: take_integer(&mut rest)?.try_into().ok()?,
            partition: take_integer(&mut rest)?.try_into().ok()?,
            offset: take_integer(&mut rest)?,
        };
        rest.is_empty().then_some(Parts { kind, integers, at })
    }
}

fn take_integer(rest: &mut &[u8]) -> Option<i64> {
    let (&prefix, tail) = rest.split_first()?;
    let negative = prefix < ZERO;
    let width = usize::from(if negative { (ZERO - 1).checked_sub(prefix)? } else { prefix - ZERO });
    if width > 8 || tail.len() < width {
        return None;
    }
    let mut bytes = if negative { [0xFF; 8] } else { [0; 8] };
    bytes[8 - width..].copy_from_slice(&tail[..width]);
    *rest = &tail[width..];
    Some(i64::from_be_bytes(bytes))
}

/// A version taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parts {
    pub kind: VersionKind,
    pub integers: Vec<i64>,
    pub at: Coordinates,
}

impl PartialEq for Version {
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl Eq for Version {}

impl PartialOrd for Version {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Version {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.as_bytes().cmp(other.as_bytes())
    }
}

impl fmt::Debug for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Parts { kind, integers, at } = self.parts();
        write!(f, "{kind:?}{integers:?}@{}/{}/{}", at.topic, at.partition, at.offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(topic: u32, partition: i32, offset: i64) -> Coordinates {
        Coordinates { topic, partition, offset }
    }

    proptest! {
        /// The order of the bytes is the order of (integers, topic, partition, offset).
        #[test]
        fn byte_order_is_numeric_order(
            a in (prop::collection::vec(any::<i64>(), 1..=4), 0u32..300, 0i32..1000, any::<i64>()),
            b in (prop::collection::vec(any::<i64>(), 1..=4), 0u32..300, 0i32..1000, any::<i64>()),
        ) {
            let x = Version::new(VersionKind::Integers, &a.0, at(a.1, a.2, a.3)).unwrap();
            let y = Version::new(VersionKind::Integers, &b.0, at(b.1, b.2, b.3)).unwrap();
            prop_assert_eq!(x.cmp(&y), a.cmp(&b));
        }

        #[test]
        fn a_version_survives_its_bytes(
            integers in prop::collection::vec(any::<i64>(), 1..=4),
            topic in 0u32..70_000, partition in 0i32..i32::MAX, offset in any::<i64>(),
        ) {
            let version = Version::new(VersionKind::Integers, &integers, at(topic, partition, offset)).unwrap();
            let again = Version::from_bytes(version.as_bytes()).unwrap();
            prop_assert_eq!(again.parts(), Parts {
                kind: VersionKind::Integers, integers, at: at(topic, partition, offset),
            });
        }

        #[test]
        fn nothing_lies_between_a_version_and_the_one_just_before(
            integers in prop::collection::vec(any::<i64>(), 1..=4), other in prop::collection::vec(any::<i64>(), 1..=4),
            offset in 0i64..5, other_offset in 0i64..5,
        ) {
            let version = Version::new(VersionKind::Integers, &integers, at(1, 2, offset)).unwrap();
            let before = version.just_before();
            prop_assert!(before < version);
            prop_assert!(version.first_of_its_kind() < version.second_of_its_kind());
            prop_assert!(version.second_of_its_kind() < before);
            for parts in [&integers, &other] {
                let other = Version::new(VersionKind::Integers, parts, at(1, 2, other_offset)).unwrap();
                prop_assert!(other <= before || other >= version);
                prop_assert_eq!(other < version.first_of_its_kind(), *parts < integers);
            }
        }

        #[test]
        fn foreign_bytes_are_refused_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            if let Some(version) = Version::from_bytes(&bytes) {
                prop_assert_eq!(version.as_bytes(), &bytes[..]);
            }
        }
    }

    #[test]
    fn the_largest_version_fits() {
        let version =
            Version::new(VersionKind::Integers, &[i64::MIN; 4], at(u32::MAX, i32::MAX, i64::MAX)).unwrap();
        assert!(version.as_bytes().len() <= CAPACITY);
    }

    #[test]
    fn no_parts_or_too_many_are_refused() {
        assert!(Version::new(VersionKind::Integers, &[], at(0, 0, 0)).is_none());
        assert!(Version::new(VersionKind::Integers, &[1; 5], at(0, 0, 0)).is_none());
    }
}
