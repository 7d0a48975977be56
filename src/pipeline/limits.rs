//! How many dead letters a table may have: above that the daemon stops rather than losing data in a
//! quiet way.

use std::collections::BTreeMap;

use crate::config::{DeadLetters, Rate};
use crate::domain::catalog::Catalog;
use crate::domain::dead_letter::Kept;

/// Times remembered of one topic and table; a rate counts no more than that.
const TIMES_MAX: usize = 10_000;

/// What is kept, as the batch in the making will leave it.
///
/// The rate is counted by the times of the records in the log: a backlog that is read in a second
/// counts as the days it took to come about, and a restart, which finds the same dead letters in the
/// replica, comes to the same conclusion at the same record.
#[derive(Debug)]
pub struct LetterLimits {
    max: u64,
    rate: Option<Rate>,
    groups: BTreeMap<Group, Letters>,
}

/// A topic, and a table unless it came before any.
type Group = (usize, Option<usize>);

#[derive(Debug, Default)]
struct Letters {
    count: u64,
    /// Times (ms since 1970) and how many have each; the oldest go when there are too many.
    times: BTreeMap<i64, u64>,
}

/// Whose limit it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Owner {
    Table(usize),
    /// One that feeds no table.
    Topic(usize),
}

impl LetterLimits {
    pub fn new(config: &DeadLetters, kept: &[Kept]) -> LetterLimits {
        let mut limits = LetterLimits { max: config.max, rate: config.max_rate, groups: BTreeMap::new() };
        for letter in kept {
            limits.add(*letter);
        }
        limits
    }

    pub fn add(&mut self, letter: Kept) {
        let letters = self.groups.entry((letter.topic, letter.table)).or_default();
        letters.count += 1;
        *letters.times.entry(letter.order_ms).or_default() += 1;
        if letters.times.len() > TIMES_MAX {
            letters.times.pop_first();
        }
    }

    pub fn remove(&mut self, letter: Kept) {
        let Some(letters) = self.groups.get_mut(&(letter.topic, letter.table)) else { return };
        letters.count = letters.count.saturating_sub(1);
        if let Some(count) = letters.times.get_mut(&letter.order_ms) {
            *count -= 1;
            if *count == 0 {
                letters.times.remove(&letter.order_ms);
            }
        }
    }

    /// Counts one more, unless it is one too many: then it says which limit that would pass.
    pub fn admit(&mut self, catalog: &Catalog, letter: Kept) -> Result<(), String> {
        for owner in owners(catalog, letter) {
            let count = self.count(catalog, owner);
            if count >= self.max {
                return Err(format!(
                    "{} would have more than dead_letters.max: {}",
                    name(catalog, owner),
                    self.max
                ));
            }
            let Some(Rate { count, within }) = self.rate else { continue };
            let within_ms = i64::try_from(within.as_millis()).unwrap_or(i64::MAX);
            let (from, to) =
                (letter.order_ms.saturating_sub(within_ms), letter.order_ms.saturating_add(within_ms));
            // Partitions are not read in step: one may be behind the other by more than the time.
            let before =
                self.between(catalog, owner, from.saturating_add(1), letter.order_ms.saturating_add(1));
            let after = self.between(catalog, owner, letter.order_ms, to);
            if before.max(after) >= count {
                return Err(format!(
                    "{} would have more than dead_letters.max_rate: {count} within {within:?} of the log",
                    name(catalog, owner),
                ));
            }
        }
        self.add(letter);
        Ok(())
    }

    /// Which limit is passed already, if one is: it was made lower, or the replica itself found more.
    pub fn passed(&self, catalog: &Catalog) -> Option<String> {
        let owners = (0..catalog.tables.len()).map(Owner::Table);
        let owners = owners.chain((0..catalog.topics.len()).map(Owner::Topic));
        for owner in owners {
            let count = self.count(catalog, owner);
            if count > self.max {
                let name = name(catalog, owner);
                return Some(format!("{name} has {count}, more than dead_letters.max: {}", self.max));
            }
        }
        None
    }

    fn count(&self, catalog: &Catalog, owner: Owner) -> u64 {
        self.of(catalog, owner).map(|letters| letters.count).sum()
    }

    fn between(&self, catalog: &Catalog, owner: Owner, from: i64, to: i64) -> u64 {
        self.of(catalog, owner)
            .flat_map(|letters| letters.times.range(from..to.max(from)))
            .map(|(_, n)| n)
            .sum()
    }

    fn of<'s>(&'s self, catalog: &'s Catalog, owner: Owner) -> impl Iterator<Item = &'s Letters> + 's {
        let theirs = move |(topic, table): &Group| match (owner, table) {
            (Owner::Table(wanted), Some(table)) => wanted == *table,
            (Owner::Table(wanted), None) => catalog.tables[wanted].topics.contains(topic),
            (Owner::Topic(wanted), _) => wanted == *topic && feeds_nothing(catalog, *topic),
        };
        self.groups.iter().filter(move |(group, _)| theirs(group)).map(|(_, letters)| letters)
    }
}

/// Every table that lacks the event; its topic where there is none.
fn owners(catalog: &Catalog, letter: Kept) -> Vec<Owner> {
    if let Some(table) = letter.table {
        return vec![Owner::Table(table)];
    }
    let tables = catalog.tables.iter().enumerate().filter(|(_, table)| table.topics.contains(&letter.topic));
    let owners: Vec<Owner> = tables.map(|(index, _)| Owner::Table(index)).collect();
    if owners.is_empty() { vec![Owner::Topic(letter.topic)] } else { owners }
}

fn feeds_nothing(catalog: &Catalog, topic: usize) -> bool {
    catalog.tables.iter().all(|table| !table.topics.contains(&topic))
}

fn name(catalog: &Catalog, owner: Owner) -> String {
    match owner {
        Owner::Table(table) => format!("table {}", catalog.tables[table].name),
        Owner::Topic(topic) => format!("topic {}", catalog.topics[topic]),
    }
}

/// What to do about it, for the end of a message.
pub const ADVICE: &str = "events and mapping do not fit: look at them with readside dead-letters list, then repair the \
                          mapping, or give them up with readside dead-letters drop, or raise the limit";

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::Keep;
    use crate::domain::catalog::Table;

    /// Tables 0 and 1 are fed by topic 0, table 1 by topic 1, too; topic 2 feeds nothing.
    fn catalog() -> Catalog {
        let table = |name: &str, topics: &[usize]| Table {
            name: name.into(),
            columns: vec![],
            key: vec![],
            indexes: vec![],
            prefixes: vec![],
            topics: topics.to_vec(),
            max_staleness_ms: 1,
            ordered_by_position: true,
            delete_marks_ms: 1,
            fingerprint: String::new(),
        };
        Catalog {
            topics: vec!["a".into(), "b".into(), "c".into()],
            tables: vec![table("one", &[0]), table("two", &[0, 1])],
            fingerprint: String::new(),
        }
    }

    fn limits(max: u64, max_rate: Option<(u64, u64)>) -> LetterLimits {
        let max_rate = max_rate.map(|(count, seconds)| Rate { count, within: Duration::from_secs(seconds) });
        LetterLimits::new(
            &DeadLetters { max, max_rate, keep: Keep::Coordinates, max_bytes: 0, topic: None },
            &[],
        )
    }

    fn letter(topic: usize, table: Option<usize>, order_ms: i64) -> Kept {
        Kept { topic, table, order_ms }
    }

    #[test]
    fn a_table_has_so_many_and_no_more() {
        let catalog = catalog();
        let mut limits = limits(2, None);
        limits.admit(&catalog, letter(0, Some(0), 1)).unwrap();
        limits.admit(&catalog, letter(1, Some(1), 1)).unwrap();
        // Before any table: both have it.
        limits.admit(&catalog, letter(0, None, 1)).unwrap();
        for refused in [letter(0, Some(0), 9), letter(0, Some(1), 9), letter(1, None, 9), letter(0, None, 9)]
        {
            let message = limits.admit(&catalog, refused).unwrap_err();
            assert!(message.contains("dead_letters.max: 2"), "{message}");
        }
        assert_eq!(limits.passed(&catalog), None);
        limits.remove(letter(0, None, 1));
        limits.admit(&catalog, letter(0, Some(0), 9)).unwrap();
        limits.add(letter(0, Some(0), 9));
        assert!(limits.passed(&catalog).unwrap().contains("table one has 3"));
    }

    #[test]
    fn a_topic_without_a_table_has_a_limit_of_its_own() {
        let catalog = catalog();
        let mut limits = limits(1, None);
        limits.admit(&catalog, letter(2, None, 1)).unwrap();
        assert!(limits.admit(&catalog, letter(2, None, 1)).unwrap_err().contains("topic c"));
        limits.admit(&catalog, letter(0, None, 1)).unwrap();
    }

    #[test]
    fn a_rate_is_that_of_the_log_and_not_of_reading_it() {
        let catalog = catalog();
        let mut limits = limits(1_000, Some((3, 60)));
        for minute in 0..100 {
            limits.admit(&catalog, letter(0, Some(0), minute * 60_000)).unwrap();
        }
        let base = 200 * 60_000;
        for ms in [0, 1, 59_999] {
            limits.admit(&catalog, letter(0, Some(0), base + ms)).unwrap();
        }
        assert!(
            limits.admit(&catalog, letter(0, Some(0), base + 59_999)).unwrap_err().contains("max_rate: 3")
        );
        // Another partition is behind: its records are older than what is there.
        assert!(limits.admit(&catalog, letter(0, Some(0), base)).is_err());
        limits.admit(&catalog, letter(0, Some(0), base + 60_001)).unwrap();
        limits.admit(&catalog, letter(0, Some(1), base)).unwrap();
    }

    #[test]
    fn what_is_dropped_does_not_count_any_more() {
        let catalog = catalog();
        let mut limits = limits(10, Some((1, 60)));
        limits.admit(&catalog, letter(0, Some(0), 5)).unwrap();
        assert!(limits.admit(&catalog, letter(0, Some(0), 6)).is_err());
        limits.remove(letter(0, Some(0), 5));
        limits.remove(letter(0, Some(0), 5));
        limits.admit(&catalog, letter(0, Some(0), 6)).unwrap();
    }

    #[test]
    fn a_restart_finds_the_same() {
        let catalog = catalog();
        let config = DeadLetters {
            max: 10,
            max_rate: Some(Rate { count: 2, within: Duration::from_secs(1) }),
            keep: Keep::Coordinates,
            max_bytes: 0,
            topic: None,
        };
        let kept = [letter(0, Some(0), 5), letter(0, None, 900)];
        let mut limits = LetterLimits::new(&config, &kept);
        assert!(limits.admit(&catalog, letter(0, Some(0), 1_000)).is_err());
        limits.admit(&catalog, letter(0, Some(0), 1_005)).unwrap();
    }
}
