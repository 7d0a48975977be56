//! Dead letters as they are looked at, and what every store does with those that are retried.

use std::cmp::Ordering;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Serialize, Serializer};

use super::LettersMoved;
use super::rules::MARK_MARGIN_MS;
use crate::domain::catalog::Table;
use crate::domain::dead_letter::{DeadLetter, RecordBytes, Rejection};

/// Dead letters of one page, at most.
pub const LETTERS_PER_PAGE_MAX: usize = 1_000;

/// Which dead letters are meant; what is `None` does not matter.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LetterFilter {
    pub topic: Option<String>,
    pub partition: Option<i32>,
    pub offset: Option<i64>,
    /// A dead letter that came before any table is of none.
    pub table: Option<String>,
    pub reason: Option<String>,
    /// Whether `dead_letters.topic` has it.
    pub produced: Option<bool>,
}

impl LetterFilter {
    pub(super) fn takes(&self, letter: &Letter) -> bool {
        self.takes_place(&letter.cursor())
            && self.reason.as_ref().is_none_or(|reason| *reason == letter.reason)
            && self.produced.is_none_or(|produced| produced == letter.produced.is_some())
    }

    /// Everything but the reason and whether it was produced.
    pub(super) fn takes_place(&self, place: &LetterCursor) -> bool {
        self.topic.as_ref().is_none_or(|topic| *topic == place.topic)
            && self.partition.is_none_or(|partition| partition == place.partition)
            && self.offset.is_none_or(|offset| offset == place.offset)
            && self.table.as_ref().is_none_or(|table| *table == place.table)
    }
}

/// A page of what a filter takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LetterQuery {
    pub filter: LetterFilter,
    /// Behind this one.
    pub after: Option<LetterCursor>,
    /// At most this many, and at most [`LETTERS_PER_PAGE_MAX`].
    pub limit: usize,
    /// Kept records, too: they may be large.
    pub bytes: bool,
}

impl LetterQuery {
    pub(super) fn limit(&self) -> usize {
        self.limit.clamp(1, LETTERS_PER_PAGE_MAX)
    }
}

/// A dead letter's place among the others. Written `topic/partition/offset/table`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LetterCursor {
    pub topic: String,
    pub partition: i32,
    pub offset: i64,
    /// Empty for one that came before any table.
    pub table: String,
}

impl LetterCursor {
    /// `None`: it is not one.
    pub fn parse(text: &str) -> Option<LetterCursor> {
        // A topic has no slash in its name; a table may have.
        let mut parts = text.splitn(4, '/');
        let (topic, partition, offset) = (parts.next()?, parts.next()?, parts.next()?);
        Some(LetterCursor {
            topic: topic.to_owned(),
            partition: partition.parse().ok()?,
            offset: offset.parse().ok()?,
            table: parts.next()?.to_owned(),
        })
    }

    fn parts(&self) -> (&str, i32, i64, &str) {
        (&self.topic, self.partition, self.offset, &self.table)
    }
}

impl std::fmt::Display for LetterCursor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (topic, partition, offset, table) = self.parts();
        write!(f, "{topic}/{partition}/{offset}/{table}")
    }
}

impl PartialOrd for LetterCursor {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for LetterCursor {
    fn cmp(&self, other: &Self) -> Ordering {
        self.parts().cmp(&other.parts())
    }
}

#[derive(Debug, Clone, PartialEq, Default)]
pub struct LetterPage {
    pub letters: Vec<Letter>,
    /// There are more behind the last of them.
    pub more: bool,
}

/// A kept dead letter as people see it; the columns of `_readside_dead_letters`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Letter {
    pub topic: String,
    pub partition: i32,
    pub offset: i64,
    #[serde(rename = "table_name")]
    pub table: Option<String>,
    pub path: String,
    pub reason: String,
    pub message: String,
    pub first_seen: Option<String>,
    pub first_seen_ms: i64,
    /// When `dead_letters.topic` had it.
    pub produced: Option<String>,
    /// See [`crate::domain::dead_letter::Origin`].
    #[serde(skip)]
    pub order_ms: i64,
    #[serde(skip)]
    pub digest: Option<u128>,
    /// `None` unless asked for, kept and within their bound.
    #[serde(flatten, serialize_with = "readable")]
    pub record: Option<RecordBytes>,
}

impl Letter {
    pub fn cursor(&self) -> LetterCursor {
        LetterCursor {
            topic: self.topic.clone(),
            partition: self.partition,
            offset: self.offset,
            table: self.table.clone().unwrap_or_default(),
        }
    }
}

/// Bytes as text where they are, else as `base64:…`, as headers are.
fn readable<S: Serializer>(record: &Option<RecordBytes>, serializer: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Readable<'r> {
        key: Option<String>,
        value: Option<String>,
        headers: Option<&'r str>,
    }
    let text = |bytes: &Vec<u8>| match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => format!("base64:{}", BASE64.encode(bytes)),
    };
    record
        .as_ref()
        .map(|record| Readable {
            key: record.key.as_ref().map(text),
            value: record.value.as_ref().map(text),
            headers: record.headers.as_deref(),
        })
        .serialize(serializer)
}

/// Whether a delete of a row that came after an event may have been forgotten: then the event, late as
/// it is, could bring the row back. See `rules::marks_before_ms`.
pub fn is_forgotten(table: &Table, first_seen_ms: i64, now_ms: i64) -> bool {
    let kept_since_ms = now_ms.saturating_sub(table.delete_marks_ms);
    first_seen_ms.saturating_sub(MARK_MARGIN_MS) < kept_since_ms
}

/// What a retried record leaves behind. `there` are its dead letters so far, which have been taken
/// out; `found` are those that the store found in the batch. A record without a dead letter gets
/// none: somebody has dropped it meanwhile.
pub(super) fn after_retry(
    there: Vec<DeadLetter>,
    refused: Option<&Rejection>,
    found: Vec<DeadLetter>,
    moved: &mut LettersMoved,
    nth: usize,
) -> Vec<DeadLetter> {
    let Some(mut first) = there.first().cloned() else { return Vec::new() };
    // One that is not in the topic must not be taken for one that is.
    if there.iter().any(|letter| letter.produced_ms.is_none()) {
        first.produced_ms = None;
    }
    moved.removed.extend(there.iter().map(DeadLetter::kept));
    let rejections: Vec<Rejection> = match refused {
        Some(rejection) => vec![rejection.clone()],
        None => found.into_iter().map(|letter| letter.rejection).collect(),
    };
    // What is known of the record does not change, only why it was refused.
    let again: Vec<DeadLetter> =
        rejections.into_iter().map(|rejection| DeadLetter { rejection, ..first.clone() }).collect();
    if !again.is_empty() {
        moved.refused.push(nth);
        moved.again.extend(again.iter().map(DeadLetter::kept));
    }
    again
}

/// Takes the letters of a record out of those that a store found.
pub(super) fn split_off(found: &mut Vec<DeadLetter>, of: impl Fn(&DeadLetter) -> bool) -> Vec<DeadLetter> {
    let (theirs, others) = std::mem::take(found).into_iter().partition(of);
    *found = others;
    theirs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_read_as_it_is_written() {
        for text in ["t/0/7/", "a.b/12/9223372036854775807/users", "t/0/1/odd/name"] {
            assert_eq!(LetterCursor::parse(text).unwrap().to_string(), text);
        }
        for text in ["", "t", "t/0/7", "t/x/7/", "t/0/x/u", "t/0"] {
            assert_eq!(LetterCursor::parse(text), None, "{text}");
        }
    }

    #[test]
    fn offsets_are_ordered_as_numbers() {
        let cursor = |text: &str| LetterCursor::parse(text).unwrap();
        assert!(cursor("t/0/9/u") < cursor("t/0/10/a"));
        assert!(cursor("t/2/9/u") < cursor("t/10/1/a"));
        assert!(cursor("t/0/9/") < cursor("t/0/9/a"));
    }
}
