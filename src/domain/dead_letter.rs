//! Dead letters: events that could not be applied, kept with what a person needs to act.

use super::checkpoint::TopicPartition;

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
}

impl Reason {
    pub const ALL: [Reason; 11] = [
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
    ];

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
    /// Only with `dead_letters.keep: bytes`.
    pub record: Option<RecordBytes>,
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
