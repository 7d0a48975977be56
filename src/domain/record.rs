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

/// A record that outlives its fetch. Its `Debug` shows sizes only, as that of [`Record`].
#[derive(Clone, PartialEq, Eq, Default)]
pub struct OwnedRecord {
    pub timestamp_ms: Option<i64>,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    /// In their order; names may come twice.
    pub headers: Vec<(String, Option<Vec<u8>>)>,
}

impl OwnedRecord {
    pub fn of(record: &Record<'_>) -> OwnedRecord {
        let mut headers = Vec::new();
        if let Some(list) = record.headers.0 {
            list.each(&mut |name, value| headers.push((name.to_owned(), value.map(<[u8]>::to_vec))));
        }
        OwnedRecord {
            timestamp_ms: record.timestamp_ms,
            key: record.key.map(<[u8]>::to_vec),
            value: record.value.map(<[u8]>::to_vec),
            headers,
        }
    }

    pub fn size(&self) -> usize {
        let length = |bytes: &Option<Vec<u8>>| bytes.as_ref().map_or(0, Vec::len);
        let headers: usize = self.headers.iter().map(|(name, value)| name.len() + length(value)).sum();
        length(&self.key) + length(&self.value) + headers
    }

    pub fn as_record(&self, at: TopicPartition, offset: i64) -> Record<'_> {
        Record {
            at,
            offset,
            leader_epoch: -1,
            timestamp_ms: self.timestamp_ms,
            key: self.key.as_deref(),
            value: self.value.as_deref(),
            headers: Headers(Some(self)),
        }
    }
}

impl HeaderList for OwnedRecord {
    fn each(&self, visit: &mut dyn FnMut(&str, Option<&[u8]>)) {
        for (name, value) in &self.headers {
            visit(name, value.as_deref());
        }
    }
}

impl std::fmt::Debug for OwnedRecord {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OwnedRecord").field("bytes", &self.size()).finish_non_exhaustive()
    }
}
