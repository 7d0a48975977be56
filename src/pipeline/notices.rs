//! Dead letters in the log of the daemon: each kind when it first comes, then once a minute with how many
//! there were. All of them are in the replica.

use std::collections::BTreeMap;

use tracing::warn;

use crate::domain::catalog::Catalog;
use crate::domain::dead_letter::{DeadLetter, Reason, Rejection};

/// How long a kind is left alone after it was said, ms.
const AGAIN_MS: i64 = 60_000;
/// Kinds that are remembered, and so lines a minute. Paths of a mapping and reasons are few, but places in
/// a list are many: those that there is no room for are one kind.
const KINDS_MAX: usize = 64;

#[derive(Debug, Default)]
pub struct LetterNotices {
    kinds: BTreeMap<Kind, Said>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Kind {
    topic: usize,
    table: Option<usize>,
    reason: Reason,
    path: String,
}

#[derive(Debug)]
struct Said {
    at_ms: i64,
    /// Since then.
    unsaid: u64,
}

impl LetterNotices {
    pub fn take(&mut self, catalog: &Catalog, letter: &DeadLetter, now_ms: i64) {
        let Some(others) = self.is_due(letter, now_ms) else { return };
        let Rejection { table, path, reason, message } = &letter.rejection;
        let (topic, partition, offset) =
            (&catalog.topics[letter.at.topic], letter.at.partition, letter.offset);
        let table = table.map_or("", |table| catalog.tables[table].name.as_str());
        let reason = reason.name();
        warn!(
            %topic, partition, offset, table, reason, path, others,
            "dead letter: {message}; `readside dead-letters list` shows all"
        );
    }

    /// How many of its kind there were since it was last said, if it is to be said now.
    fn is_due(&mut self, letter: &DeadLetter, now_ms: i64) -> Option<u64> {
        let Rejection { table, path, reason, .. } = &letter.rejection;
        let mut kind = Kind { topic: letter.at.topic, table: *table, reason: *reason, path: path.clone() };
        if self.kinds.len() >= KINDS_MAX && !self.kinds.contains_key(&kind) {
            self.kinds.retain(|_, said| said.is_recent(now_ms));
            if self.kinds.len() >= KINDS_MAX {
                kind =
                    Kind { topic: usize::MAX, table: None, reason: Reason::Malformed, path: String::new() };
            }
        }
        if let Some(said) = self.kinds.get_mut(&kind) {
            if said.is_recent(now_ms) {
                said.unsaid += 1;
                return None;
            }
            said.at_ms = now_ms;
            return Some(std::mem::take(&mut said.unsaid));
        }
        self.kinds.insert(kind, Said { at_ms: now_ms, unsaid: 0 });
        Some(0)
    }
}

impl Said {
    /// A clock that was set back is as good as a minute.
    fn is_recent(&self, now_ms: i64) -> bool {
        (0..AGAIN_MS).contains(&(now_ms - self.at_ms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::checkpoint::TopicPartition;
    use crate::domain::dead_letter::Origin;

    fn letter(reason: Reason, path: &str) -> DeadLetter {
        DeadLetter {
            at: TopicPartition { topic: 0, partition: 0 },
            offset: 7,
            rejection: Rejection { table: Some(0), path: path.to_owned(), reason, message: String::new() },
            first_seen_ms: 0,
            origin: Origin::default(),
            record: None,
            produced_ms: None,
        }
    }

    #[test]
    fn each_kind_is_said_at_once_and_then_once_a_minute_with_its_number() {
        let mut notices = LetterNotices::default();
        let (email, id) = (letter(Reason::MissingValue, ".email"), letter(Reason::WrongType, ".id"));
        assert_eq!(notices.is_due(&email, 1_000), Some(0));
        assert_eq!(notices.is_due(&id, 1_000), Some(0), "another kind");
        for _ in 0..5 {
            assert_eq!(notices.is_due(&email, 60_999), None);
        }
        assert_eq!(notices.is_due(&email, 61_000), Some(5));
        assert_eq!(notices.is_due(&email, 61_001), None);
        assert_eq!(notices.is_due(&email, 500), Some(1), "the clock was set back");
    }

    #[test]
    fn paths_that_never_come_twice_are_bounded_in_memory_and_lines() {
        let mut notices = LetterNotices::default();
        let mut lines = 0;
        for nth in 0..10_000 {
            let due = notices.is_due(&letter(Reason::MissingValue, &format!(".[{nth}]")), nth);
            lines += usize::from(due.is_some());
            assert!(notices.kinds.len() <= KINDS_MAX + 1);
        }
        assert_eq!(lines, KINDS_MAX + 1);
        let other = letter(Reason::WrongType, ".id");
        assert_eq!(notices.is_due(&other, 10_000), None, "it is one of the others");
        assert_eq!(notices.is_due(&other, 100_000), Some(0), "a minute later there is room");
    }
}
