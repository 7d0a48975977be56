//! A record: bytes as fetched, with their coordinates.

use super::checkpoint::TopicPartition;

/// One record as fetched. All slices live until the callback returns.
pub struct Record<'a> {
    pub at: TopicPartition,
    pub offset: i64,
    /// Leader epoch of the batch, -1 while unknown.
    pub leader_epoch: i32,
    /// ms since 1970 as in the record; `None` when it has none.
    pub timestamp_ms: Option<i64>,
    pub key: Option<&'a [u8]>,
    /// `None` is a tombstone.
    pub value: Option<&'a [u8]>,
    pub headers: Headers<'a>,
}

impl std::fmt::Debug for Record<'_> {
    /// Coordinates and sizes only: contents never reach a log by accident.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Record")
            .field("at", &self.at)
            .field("offset", &self.offset)
            .field("key_bytes", &self.key.map(<[u8]>::len))
            .field("value_bytes", &self.value.map(<[u8]>::len))
            .finish_non_exhaustive()
    }
}

/// Headers in their order; looked at only when somebody asks.
#[derive(Clone, Copy, Default)]
pub struct Headers<'a>(pub Option<&'a dyn HeaderList>);

pub trait HeaderList {
    /// Name and value (`None`: null) of each header.
    fn each(&self, visit: &mut dyn FnMut(&str, Option<&[u8]>));
}

impl HeaderList for [(String, Vec<u8>)] {
    fn each(&self, visit: &mut dyn FnMut(&str, Option<&[u8]>)) {
        for (name, value) in self {
            visit(name, Some(value));
        }
    }
}
