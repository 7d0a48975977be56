//! Dead letters: events that could not be applied, kept with what a person needs to act.

use super::checkpoint::TopicPartition;
use super::digest::Digest;
use super::record::Record;
use super::version::{Version, VersionKind};

/// Why an event was refused; the `reason` label of metrics. A closed set, so that series are bounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// The bytes are not of the declared format.
    Malformed,
    /// The schema that the record names does not exist, or cannot be used.
    Schema,
    /// A record larger than `kafka.max_record_bytes`.
    TooLarge,
    /// A key column has no value, or the record key is missing.
    MissingKey,
    /// A column that may not be null has no value.
    MissingValue,
    /// A value that does not fit its column's type.
    WrongType,
    /// A value of the right type outside its range (an integer beyond 64 bits, infinity).
    OutOfRange,
    /// The version is absent or of another kind than the table's.
    Version,
    /// The event has no id, on a topic with `event_id`.
    EventId,
    /// An event type no table of the topic names, with `otherwise: dead_letter`.
    UnknownType,
    /// A patch for a missing row with `if_missing: dead_letter`.
    MissingRow,
    /// A jq expression that ends with an error, or gives more than one value.
    Expression,
    /// A jq expression that takes too many steps or too much memory.
    ExpressionLimit,
    /// A version of the topic's schema that is neither the current one nor upcast.
    SchemaVersion,
}

impl Reason {
    pub const ALL: [Reason; 14] = [
        Reason::Malformed,
        Reason::Schema,
        Reason::TooLarge,
        Reason::MissingKey,
        Reason::MissingValue,
        Reason::WrongType,
        Reason::OutOfRange,
        Reason::Version,
        Reason::EventId,
        Reason::UnknownType,
        Reason::MissingRow,
        Reason::Expression,
        Reason::ExpressionLimit,
        Reason::SchemaVersion,
    ];

    pub fn from_name(name: &str) -> Option<Reason> {
        Reason::ALL.into_iter().find(|reason| reason.name() == name)
    }

    pub fn name(self) -> &'static str {
        match self {
            Reason::Malformed => "malformed",
            Reason::Schema => "schema",
            Reason::TooLarge => "too_large",
            Reason::MissingKey => "missing_key",
            Reason::MissingValue => "missing_value",
            Reason::WrongType => "wrong_type",
            Reason::OutOfRange => "out_of_range",
            Reason::Version => "version",
            Reason::EventId => "event_id",
            Reason::UnknownType => "unknown_type",
            Reason::MissingRow => "missing_row",
            Reason::Expression => "expression",
            Reason::ExpressionLimit => "expression_limit",
            Reason::SchemaVersion => "schema_version",
        }
    }
}

/// Why one event cannot become changes.
#[derive(Debug, Clone, PartialEq)]
pub struct Rejection {
    /// Index of the table whose mapping refused it; `None` when it failed before any table.
    pub table: Option<usize>,
    /// Path in the event (`.user.id`), `$key` for the record key, or empty for the whole record.
    pub path: String,
    pub reason: Reason,
    /// One sentence for a person. Never holds more of the value than its kind and length.
    pub message: String,
}

/// A rejection with the coordinates of its record, as a store keeps it.
#[derive(Debug, Clone, PartialEq)]
pub struct DeadLetter {
    pub at: TopicPartition,
    pub offset: i64,
    pub rejection: Rejection,
    /// ms since 1970 at which it was first seen.
    pub first_seen_ms: i64,
    pub origin: Origin,
    /// Only with `dead_letters.keep: bytes`.
    pub record: Option<RecordBytes>,
    /// ms since 1970 at which `dead_letters.topic` had it; `None`: not yet, or there is no such topic.
    pub produced_ms: Option<i64>,
}

impl DeadLetter {
    pub fn id(&self) -> LetterId {
        LetterId { at: self.at, offset: self.offset, table: self.rejection.table }
    }

    pub fn kept(&self) -> Kept {
        Kept { topic: self.at.topic, table: self.rejection.table, order_ms: self.origin.order_ms }
    }
}

/// What a retry has to know of a record beside its coordinates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Origin {
    /// Highest record timestamp of the partition up to and with this record, ms since 1970: the
    /// record's place in the order of [`VersionKind::Position`]. A retry that took the highest of now
    /// would make an old event look new.
    pub order_ms: i64,
    /// Of the record's key and value, to tell it from another record at the same coordinates (a
    /// topic made anew, a truncated log). `None` where the record was not at hand.
    pub digest: Option<u128>,
}

impl Origin {
    /// `max_timestamp_ms` is that of the partition's memory, this record included.
    pub fn of(record: &Record<'_>, max_timestamp_ms: i64) -> Origin {
        Origin { order_ms: max_timestamp_ms, digest: Some(digest(record.key, record.value)) }
    }

    /// Of an event that was mapped and then refused by the replica.
    pub fn of_version(version: &Version, now_ms: i64) -> Origin {
        let parts = version.parts();
        let order_ms = match (parts.kind, parts.integers.first()) {
            (VersionKind::Position, Some(order_ms)) => *order_ms,
            // Ordered by the event's own version, so that this is only about age.
            _ => now_ms,
        };
        Origin { order_ms, digest: None }
    }
}

/// Tells records apart; absent and empty differ, and so do `ab`, `c` and `a`, `bc`.
pub fn digest(key: Option<&[u8]>, value: Option<&[u8]>) -> u128 {
    let mut digest = Digest::new();
    for part in [key, value] {
        let length = part.map_or(u64::MAX, |bytes| bytes.len() as u64);
        digest = digest.with(&length.to_be_bytes()).with(part.unwrap_or_default());
    }
    digest.value()
}

/// One kept dead letter: a record has at most one for each table, or one for all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LetterId {
    pub at: TopicPartition,
    pub offset: i64,
    pub table: Option<usize>,
}

/// A kept dead letter that was written to `dead_letters.topic`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Produced {
    pub id: LetterId,
    pub at_ms: i64,
}

/// What limits count of a kept dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Kept {
    pub topic: usize,
    pub table: Option<usize>,
    /// See [`Origin::order_ms`].
    pub order_ms: i64,
}

/// A record that is tried again. With the batch that holds its changes its dead letters go; one that
/// is refused again, or whose patch still has no row, keeps one with the new reason.
#[derive(Debug, Clone, PartialEq)]
pub struct Retried {
    pub at: TopicPartition,
    pub offset: i64,
    pub refused: Option<Rejection>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RecordBytes {
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    /// JSON object text of the headers; values that are not UTF-8 as `base64:…`.
    pub headers: Option<String>,
}

impl RecordBytes {
    pub fn size(&self) -> usize {
        self.key.as_ref().map_or(0, Vec::len)
            + self.value.as_ref().map_or(0, Vec::len)
            + self.headers.as_ref().map_or(0, String::len)
    }
}
