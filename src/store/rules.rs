//! Rules that every store follows, so that all of them say and do the same.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;

use super::{LossLimit, StopCode, StoreError};
use crate::domain::batch::{Batch, Sweep};
use crate::domain::catalog::{Catalog, Table};
use crate::domain::checkpoint::{Position, TopicPartition};
use crate::domain::dead_letter::{DeadLetter, Origin, Reason, Rejection};
use crate::domain::freshness::worst;
use crate::domain::retry::RetryReason;
use crate::domain::row::RowState;
use crate::domain::shelf::Merge;
use crate::domain::snapshot::Phase;
use crate::domain::value::Value;
use crate::domain::version::Version;

/// How far behind a table's freshness a delete mark is kept where order is that of positions:
/// covers clocks of brokers and daemon that differ.
pub(super) const MARK_MARGIN_MS: i64 = 60_000;

/// Delete marks made before this may go; `None`: none of them yet.
///
/// A mark matters while an older event of its key can still arrive. Where versions come from events,
/// it may have been committed up to `delete_marks` later, and time in which nothing was read does not
/// count: `delete_marks` goes by freshness, not by the clock. Where the order is that of positions, all of
/// those were committed before the mark was, and are in the replica once it is fresh as of a later time, or
/// among its dead letters: `oldest_letter_ms` is the time of the oldest of the table, for a retry is an old
/// event that arrives late. No mark is kept for longer than `delete_marks` on their account; a retry after
/// that is refused, see [`super::is_forgotten`].
pub(super) fn marks_before_ms(
    table: &Table,
    fresh_as_of_ms: Option<i64>,
    oldest_letter_ms: Option<i64>,
    now_ms: i64,
) -> Option<i64> {
    let fresh_as_of_ms = fresh_as_of_ms?;
    let old = now_ms.saturating_sub(table.delete_marks_ms);
    if !table.ordered_by_position {
        return Some(old.min(fresh_as_of_ms.saturating_sub(table.delete_marks_ms)));
    }
    let fresh = fresh_as_of_ms.saturating_sub(MARK_MARGIN_MS);
    Some(match oldest_letter_ms {
        Some(letter_ms) => fresh.min(letter_ms.saturating_sub(MARK_MARGIN_MS).max(old)),
        None => fresh,
    })
}

/// The time of a dead letter that delete marks are compared with: a delete that is newer than it was
/// applied after this.
pub(super) fn letter_ms(first_seen_ms: i64, order_ms: i64) -> i64 {
    first_seen_ms.min(order_ms)
}

/// Whether a dead letter takes the place of one that is known at its coordinates: behind a gap the log
/// may have another record there, and then the one before can never be read again.
pub(super) fn takes_place_of(new: &DeadLetter, table: Option<usize>, known: Origin) -> bool {
    let is_another = matches!((new.origin.digest, known.digest), (Some(new), Some(known)) if new != known);
    // What went on behind a gap has another place in the order, even with the same bytes.
    is_another || new.rejection.table == table && new.origin != known
}

/// The row of a key nobody has heard of. `values` has the key columns set.
pub(super) fn nothing_known(table: &Table, values: &[Value]) -> RowState {
    let mut known = vec![Value::Absent; table.columns.len()];
    for &column in &table.key {
        known[column] = values[column].clone();
    }
    RowState::unknown(known)
}

/// Where a row is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Visible,
    /// A patch whose row is not there yet.
    Held,
    /// Only a delete is known.
    Mark,
}

/// `None`: nothing is known, so nothing is kept.
pub(super) fn place(shape: &Table, row: &RowState) -> Option<Place> {
    if row.is_visible(shape) {
        Some(Place::Visible)
    } else if row.version.is_some() {
        Some(Place::Held)
    } else {
        row.deleted.map(|_| Place::Mark)
    }
}

/// What a replica knows of the log.
pub(super) struct Log<'a> {
    pub positions: &'a BTreeMap<TopicPartition, Position>,
    pub fresh_as_of_ms: &'a BTreeMap<TopicPartition, i64>,
    pub end_offsets: &'a BTreeMap<TopicPartition, i64>,
}

impl Log<'_> {
    /// Every partition of a topic that the replica has heard of.
    fn partitions(&self, topic: usize) -> BTreeSet<TopicPartition> {
        let all = self.positions.keys().chain(self.fresh_as_of_ms.keys()).chain(self.end_offsets.keys());
        all.filter(|at| at.topic == topic).copied().collect()
    }

    /// The worst partition of the worst topic; a topic without known partitions is unknown.
    pub fn fresh_as_of(&self, topics: &[usize]) -> Option<i64> {
        worst(topics.iter().map(|topic| {
            let partitions = self.partitions(*topic);
            worst(partitions.iter().map(|at| self.fresh_as_of_ms.get(at).copied()))
        }))
    }

    pub fn lag_records(&self, topics: &[usize]) -> Option<i64> {
        let mut lag = 0;
        for topic in topics {
            let partitions = self.partitions(*topic);
            if partitions.is_empty() {
                return None;
            }
            for at in partitions {
                let next = self.positions.get(&at)?.next_offset;
                lag += (self.end_offsets.get(&at)? - next).max(0);
            }
        }
        Some(lag)
    }
}

/// How far a generation is, in terms that another one understands, whose catalog may be another.
pub(super) struct Standing<'a> {
    pub catalog: &'a Catalog,
    pub topic_ids: &'a BTreeMap<usize, String>,
    pub positions: &'a BTreeMap<TopicPartition, Position>,
    pub fresh_as_of_ms: &'a BTreeMap<TopicPartition, i64>,
    /// Visible rows by table index.
    pub rows: Vec<i64>,
    /// Readers have seen it.
    pub complete: bool,
}

impl Standing<'_> {
    /// The same partition in another generation, with the ids of the topic here and there.
    fn in_other(
        &self,
        at: TopicPartition,
        other: &Standing<'_>,
    ) -> Option<(TopicPartition, [Option<String>; 2])> {
        let name = self.catalog.topics.get(at.topic)?;
        let topic = other.catalog.topics.iter().position(|known| known == name)?;
        let ids = [self.topic_ids.get(&at.topic).cloned(), other.topic_ids.get(&topic).cloned()];
        Some((TopicPartition { topic, partition: at.partition }, ids))
    }

    /// Whether a partition of the same topic stands before where `live` has it, or is not known yet:
    /// a switch from `live` would go back.
    pub fn is_behind(&self, live: &Standing<'_>) -> bool {
        live.positions.iter().any(|(at, position)| {
            let Some((here, ids)) = live.in_other(*at, self) else { return false };
            if matches!(&ids, [Some(there), Some(here)] if there != here) {
                return false;
            }
            self.positions.get(&here).is_none_or(|mine| mine.next_offset < position.next_offset)
        })
    }

    /// A sentence about the first table that has lost more rows than is usual.
    /// Of a copy that nobody has seen nothing is lost.
    pub fn suspicious_loss(&self, live: &Standing<'_>, limit: LossLimit) -> Option<String> {
        if !live.complete {
            return None;
        }
        for (table, &new) in self.catalog.tables.iter().zip(&self.rows) {
            let before = live.catalog.tables.iter().position(|before| before.name == table.name);
            let Some(&old) = before.and_then(|before| live.rows.get(before)) else { continue };
            if is_suspicious_loss(limit, new, old) {
                return Some(format!(
                    "table {} would have {new} rows instead of {old}: the log does not hold the rest any more, or the \
                     mapping leaves it out",
                    table.name
                ));
            }
        }
        None
    }

    /// What was proven of the live generation and holds here, too: fresh-as-of does not go back with a
    /// switch.
    pub fn floors(&self, live: &Standing<'_>) -> Floors {
        let mut floors = Floors::default();
        // A partition of which nothing was read yet stands at its start, in either of them.
        let offset = |position: Option<&Position>| position.map_or(0, |position| position.next_offset);
        let mut topics: BTreeMap<usize, Option<i64>> = BTreeMap::new();
        for at in live.partitions() {
            let Some((here, [Some(there), Some(id)])) = live.in_other(at, self) else { continue };
            let reached = offset(self.positions.get(&here)) >= offset(live.positions.get(&at));
            let proven = live.fresh_as_of_ms.get(&at).copied().filter(|_| there == id && reached);
            let topic = topics.entry(here.topic).or_insert(proven);
            *topic = (*topic).min(proven);
            if let Some(proven) = proven
                && self.fresh_as_of_ms.get(&here).is_none_or(|known| *known < proven)
            {
                floors.partitions.insert(here, proven);
            }
        }
        for (topic, proven) in topics {
            let Some(proven) = proven else { continue };
            for here in self.partitions().into_iter().filter(|at| at.topic == topic) {
                // Unknown to the other one: it did not exist when its topic was proven.
                let is_new = self.in_other(here, live).is_some_and(|(there, _)| !live.knows(there));
                if is_new && self.fresh_as_of_ms.get(&here).is_none_or(|known| *known < proven) {
                    floors.partitions.insert(here, proven);
                }
            }
            let known = self.partitions().into_iter().chain(floors.partitions.keys().copied());
            let known = known.filter(|at| at.topic == topic).map(|at| at.partition).collect();
            floors.topics.insert(topic, (proven, known));
        }
        floors
    }

    fn knows(&self, at: TopicPartition) -> bool {
        self.positions.contains_key(&at) || self.fresh_as_of_ms.contains_key(&at)
    }

    /// Every partition that is known by anything.
    fn partitions(&self) -> BTreeSet<TopicPartition> {
        self.positions.keys().chain(self.fresh_as_of_ms.keys()).copied().collect()
    }
}

/// Freshness that a generation has taken over, until its own proofs have passed it.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Floors {
    /// What is stored of partitions that it knew, or that the other one knew.
    pub partitions: BTreeMap<TopicPartition, i64>,
    /// A partition that neither knew did not exist when the other one's topic was proven: it had no
    /// event before that time. By topic, with the partitions that were known.
    topics: BTreeMap<usize, (i64, BTreeSet<i32>)>,
}

impl Floors {
    /// What a proof means; `None`: less than what is stored.
    pub fn raise(&self, at: TopicPartition, fresh_as_of_ms: i64) -> Option<i64> {
        if let Some(floor) = self.partitions.get(&at) {
            return Some(fresh_as_of_ms).filter(|fresh| fresh >= floor);
        }
        match self.topics.get(&at.topic) {
            Some((floor, known)) if !known.contains(&at.partition) => Some(fresh_as_of_ms.max(*floor)),
            _ => Some(fresh_as_of_ms),
        }
    }

    /// The clock was set back, and these partitions' freshness lies in the future: so may what was taken
    /// over, and proofs of now would be below it for as long.
    pub fn forget(&mut self, lost: &BTreeSet<TopicPartition>) {
        for at in lost {
            self.partitions.remove(at);
            self.topics.remove(&at.topic);
        }
    }

    /// These proofs are stored now.
    pub fn pass(&mut self, proofs: &BTreeMap<TopicPartition, i64>) {
        for (at, fresh) in proofs {
            if self.partitions.get(at).is_some_and(|floor| fresh >= floor) {
                self.partitions.remove(at);
            }
            if self.topics.get(&at.topic).is_some_and(|(floor, _)| fresh >= floor) {
                self.topics.remove(&at.topic);
            }
        }
    }
}

/// Whether a table of a new generation has lost more rows than is usual.
pub(super) fn is_suspicious_loss(limit: LossLimit, new: i64, old: i64) -> bool {
    old >= limit.min_rows && ((old - new) as f64) > old as f64 * limit.max_share
}

/// What becomes of a snapshot that does not list so many of the rows that are there.
pub(super) fn after_sweep(sweep: Sweep, limit: LossLimit, unlisted: i64, all: i64) -> Phase {
    if unlisted > 0 && !sweep.is_whole {
        Phase::Incomplete
    } else if is_suspicious_loss(limit, all - unlisted, all) {
        Phase::Refused
    } else {
        Phase::Swept
    }
}

/// ms since 1970 as RFC 3339 in UTC.
pub(super) fn rfc3339(ms: i64) -> Option<String> {
    let at = jiff::Timestamp::from_millisecond(ms).ok()?;
    Some(format!("{at:.3}"))
}

/// The dead letter of a patch that needs a row and found none.
pub(super) fn missing_row(table: usize, shape: &Table, version: Version, now_ms: i64) -> DeadLetter {
    let at = version.at();
    DeadLetter {
        at: TopicPartition { topic: at.topic as usize, partition: at.partition },
        offset: at.offset,
        rejection: Rejection {
            table: Some(table),
            path: String::new(),
            reason: Reason::MissingRow,
            message: format!("a patch of {}, whose row is not there", shape.name),
        },
        first_seen_ms: now_ms,
        origin: Origin::of_version(&version, now_ms),
        record: None,
        produced_ms: None,
    }
}

/// Rows that a batch has put aside.
pub(super) fn set_of(batch: &Batch, set: u32) -> Result<Merge<'_>, StoreError> {
    let shelf = batch.shelf.as_ref().ok_or_else(|| not_on_the_shelf("there is none"))?;
    shelf.set(set).map_err(not_on_the_shelf)
}

/// What a batch has put aside cannot be read: it is tried again.
pub(super) fn not_on_the_shelf(why: impl Display) -> StoreError {
    StoreError::Retry {
        reason: RetryReason::Io,
        message: format!("rows that were put aside beside the replica cannot be read: {why}"),
    }
}

pub(super) fn another_writer(
    topic: &str,
    partition: i32,
    found: Option<i64>,
    expected: Option<i64>,
) -> StoreError {
    let offset = |offset: Option<i64>| offset.map_or("none".into(), |offset| offset.to_string());
    StoreError::Stop {
        exit: StopCode::Foreign,
        message: format!(
            "the position of {topic}/{partition} in the replica is {}, not {}: another writer uses this \
             replica; stop it or give each its own path",
            offset(found),
            offset(expected),
        ),
    }
}

pub(super) fn another_cluster(stored: &str, seen: &str) -> StoreError {
    StoreError::Stop {
        exit: StopCode::Foreign,
        message: format!(
            "the replica was fed from Kafka cluster {stored}, and kafka.brokers is cluster {seen}: correct \
             kafka.brokers, or delete the replica to build it from the other cluster"
        ),
    }
}

pub(super) fn another_topic(topic: &str, stored: &str, seen: &str) -> StoreError {
    StoreError::Stop {
        exit: StopCode::Foreign,
        message: format!(
            "topic {topic} was deleted and created again (id {stored} in the replica, {seen} now): its offsets \
             mean other records; delete the replica to build it anew"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is old by the clock may be news to a source that has not been read meanwhile.
    #[test]
    fn delete_marks_of_events_with_versions_go_by_freshness() {
        let table = &crate::store::contract::catalog().tables[0];
        let (now_ms, kept_ms) = (1_000_000_000, table.delete_marks_ms);
        assert!(!table.ordered_by_position);
        for (fresh, before) in [
            (None, None),
            (Some(now_ms), Some(now_ms - kept_ms)),
            (Some(now_ms + 5), Some(now_ms - kept_ms)),
            (Some(3_000), Some(3_000 - kept_ms)),
            (Some(i64::MIN), Some(i64::MIN)),
        ] {
            assert_eq!(marks_before_ms(table, fresh, None, now_ms), before, "fresh as of {fresh:?}");
        }
    }

    #[test]
    fn a_loss_is_suspicious_by_its_share_and_only_in_tables_of_some_size() {
        let limit = LossLimit { max_share: 0.1, min_rows: 100 };
        for (new, old, suspicious) in [
            (100, 100, false),
            (90, 100, false),
            (89, 100, true),
            (0, 100, true),
            (0, 99, false),
            (1_000, 100, false),
            (0, 0, false),
        ] {
            assert_eq!(is_suspicious_loss(limit, new, old), suspicious, "{new} of {old}");
        }
        assert!(!is_suspicious_loss(LossLimit { max_share: 1.0, min_rows: 0 }, 0, 5), "anything goes");
        assert!(is_suspicious_loss(LossLimit { max_share: 0.0, min_rows: 1 }, 4, 5));
    }
}
