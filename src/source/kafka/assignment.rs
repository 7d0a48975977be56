//! Which partitions are read, and how far each has come.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::lane::Which;
use crate::domain::checkpoint::TopicPartition;

/// A partition that had an error is read again after this, doubled each time up to the second.
const AGAIN: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(30));
/// How soon to look again whether a partition became known.
const LOOK: Duration = Duration::from_millis(50);
/// A partition that was read up to its end is behind when it lacks so many records.
const BEHIND_RECORDS: i64 = 4_096;
/// Records handed over before it is looked at how many there are left.
const LOOK_RECORDS: u32 = 1_024;
/// One that fell behind is not taken for one at its end again before this: each move costs a fetch.
const STAYS: Duration = Duration::from_secs(10);

#[derive(Debug, Default)]
pub(super) struct Assignment {
    partitions: BTreeMap<TopicPartition, Reading>,
}

#[derive(Debug)]
pub(super) struct Reading {
    /// How many were assigned before it.
    nth: usize,
    /// Offset of the next record to hand over.
    pub next: i64,
    /// Leader epoch of what lies before `next`, -1 while unknown.
    pub epoch: i32,
    phase: Phase,
    /// The position of which it was said last that its log is another one.
    doubted: Option<i64>,
    /// Errors since the last record or end.
    errors: u32,
    /// By whom it is read.
    lane: Which,
    /// Since it last fell behind.
    fell_behind: Option<Instant>,
    /// Records since it was last looked at how many there are left.
    unlooked: u32,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Phase {
    Reading,
    /// What arrives is dropped until the client was sent back to `next`: the position is not
    /// validated yet, or an error made librdkafka skip something.
    SendBack {
        at: Instant,
    },
    /// Out of range: nothing until it is assigned again.
    Stopped,
}

impl Phase {
    fn at_start(next: i64, epoch: i32, now: Instant) -> Phase {
        let validate = epoch >= 0 && next > 0;
        if validate { Phase::SendBack { at: now } } else { Phase::Reading }
    }
}

/// A partition that another lane reads from now on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Moved {
    pub from: Which,
    /// Offset of the next record to hand over.
    pub next: i64,
}

/// What a position means that is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    Told {
        position: i64,
    },
    /// It may have been said of another position: to be asked [again](Assignment::again).
    Doubted,
}

impl Assignment {
    /// Returns who read it before, if anybody did.
    ///
    /// librdkafka validates the leader epoch (KIP-320) of a seek, but not of a start
    /// (librdkafka#5158): a position with an epoch is sought before anything is handed over.
    pub fn put(&mut self, at: TopicPartition, next: i64, epoch: i32, now: Instant) -> Option<Which> {
        let nth = self.nth(at);
        let reading = Reading {
            nth,
            next,
            epoch,
            phase: Phase::at_start(next, epoch, now),
            doubted: None,
            errors: 0,
            // Until its end is reached.
            lane: Which::Behind,
            fell_behind: None,
            unlooked: 0,
        };
        self.partitions.insert(at, reading).map(|before| before.lane)
    }

    /// Its number in the order of first assignments; the next free one if it is not assigned yet.
    pub fn nth(&self, at: TopicPartition) -> usize {
        self.partitions.get(&at).map_or(self.partitions.len(), |reading| reading.nth)
    }

    /// Returns who read it, if anybody did.
    pub fn remove(&mut self, at: TopicPartition) -> Option<Which> {
        self.partitions.remove(&at).map(|reading| reading.lane)
    }

    pub fn all(&self) -> impl Iterator<Item = (TopicPartition, Which)> {
        self.partitions.iter().map(|(at, reading)| (*at, reading.lane))
    }

    /// Has it read by the other lane from where it is; returns from where, unless it is not read now.
    pub fn change(&mut self, at: TopicPartition, to: Which, now: Instant) -> Option<Moved> {
        let reading = self.reading(at)?;
        let from = std::mem::replace(&mut reading.lane, to);
        if from == to {
            return None;
        }
        if to == Which::Behind {
            reading.fell_behind = Some(now);
        }
        reading.phase = Phase::at_start(reading.next, reading.epoch, now);
        Some(Moved { from, next: reading.next })
    }

    /// Whether the record is the next to hand over; if so, the position is behind it.
    pub fn take(&mut self, at: TopicPartition, offset: i64, epoch: i32) -> bool {
        let Some(reading) = self.reading(at) else { return false };
        if offset < reading.next {
            return false;
        }
        reading.next = offset.saturating_add(1);
        reading.epoch = epoch;
        reading.errors = 0;
        reading.unlooked = reading.unlooked.saturating_add(1);
        true
    }

    /// Whether the end counts; if so, the position is at it.
    pub fn end(&mut self, at: TopicPartition, offset: i64) -> bool {
        let Some(reading) = self.reading(at) else { return false };
        if offset < reading.next {
            return false;
        }
        if offset > reading.next {
            // Markers of transactions, which may be of a newer epoch than the last record.
            reading.epoch = -1;
        }
        reading.next = offset;
        reading.errors = 0;
        reading.unlooked = 0;
        true
    }

    /// Whether a partition that has reached its end should be read with those that are there.
    pub fn may_wait(&self, at: TopicPartition, now: Instant) -> bool {
        self.partitions.get(&at).is_some_and(|reading| {
            let stays = reading.fell_behind.is_some_and(|since| now.duration_since(since) < STAYS);
            reading.lane == Which::Behind && !stays
        })
    }

    /// Partitions that were at their end and have fallen behind. `end` tells where one ends, as far
    /// as it is known without asking.
    pub fn behind(&mut self, mut end: impl FnMut(TopicPartition) -> Option<i64>) -> Vec<TopicPartition> {
        let mut behind = Vec::new();
        for (at, reading) in &mut self.partitions {
            if reading.lane == Which::AtEnd && reading.unlooked >= LOOK_RECORDS {
                reading.unlooked = 0;
                if end(*at).is_some_and(|end| end - reading.next >= BEHIND_RECORDS) {
                    behind.push(*at);
                }
            }
        }
        behind
    }

    /// Stops a partition whose position is not in the log, or not in this log (`diverges`); returns what
    /// is to be done, once.
    ///
    /// librdkafka has one question about epochs under way at a time. While the answer to one is awaited,
    /// a seek changes the position that this answer is compared with, but not the epoch that was asked
    /// about: a later position of a newer epoch looks as if its log had been cut off. What is asked after
    /// that is about the position itself. Without an epoch nothing would be asked.
    pub fn out_of_range(&mut self, at: TopicPartition, diverges: bool) -> Option<Refused> {
        let reading = self.partitions.get_mut(&at)?;
        if reading.phase == Phase::Stopped {
            return None;
        }
        reading.phase = Phase::Stopped;
        if diverges && reading.epoch >= 0 && reading.next > 0 && reading.doubted != Some(reading.next) {
            reading.doubted = Some(reading.next);
            return Some(Refused::Doubted);
        }
        Some(Refused::Told { position: reading.next })
    }

    /// Has it read once more from where it is, after [`Refused::Doubted`]; returns by whom and from where.
    pub fn again(&mut self, at: TopicPartition, now: Instant) -> Option<(Which, i64)> {
        let reading = self.partitions.get_mut(&at).filter(|reading| reading.phase == Phase::Stopped)?;
        reading.phase = Phase::at_start(reading.next, reading.epoch, now);
        Some((reading.lane, reading.next))
    }

    /// After an error librdkafka may go on behind it. We do not: what follows is dropped, and the
    /// client is sent back to where we are.
    pub fn hold(&mut self, at: TopicPartition, now: Instant) {
        let Some(reading) = self.reading(at) else { return };
        let wait = AGAIN.0.saturating_mul(1 << reading.errors.min(16)).min(AGAIN.1);
        reading.errors = reading.errors.saturating_add(1);
        reading.phase = Phase::SendBack { at: now + wait };
    }

    /// Partitions of a lane to be sent back now, with position and epoch.
    pub fn due(&self, lane: Which, now: Instant) -> Vec<(TopicPartition, i64, i32)> {
        let due = |reading: &Reading| matches!(reading.phase, Phase::SendBack { at } if at <= now);
        let due = self.partitions.iter().filter(|(_, reading)| reading.lane == lane && due(reading));
        due.map(|(at, reading)| (*at, reading.next, reading.epoch)).collect()
    }

    /// When the next one is due, if one is waiting.
    pub fn next_due(&self) -> Option<Instant> {
        let due = |reading: &Reading| match reading.phase {
            Phase::SendBack { at } => Some(at),
            _ => None,
        };
        self.partitions.values().filter_map(due).min()
    }

    /// The client took the way back; or it does not know the partition yet.
    pub fn sent_back(&mut self, at: TopicPartition, taken: bool, now: Instant) {
        if let Some(reading) = self.partitions.get_mut(&at) {
            reading.phase = if taken { Phase::Reading } else { Phase::SendBack { at: now + LOOK } };
        }
    }

    fn reading(&mut self, at: TopicPartition) -> Option<&mut Reading> {
        self.partitions.get_mut(&at).filter(|reading| reading.phase == Phase::Reading)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: TopicPartition = TopicPartition { topic: 0, partition: 3 };

    #[test]
    fn a_position_with_an_epoch_is_validated_before_anything_is_taken() {
        let now = Instant::now();
        let mut assignment = Assignment::default();
        assert_eq!(assignment.put(AT, 10, 4, now), None);
        assert!(!assignment.take(AT, 10, 4));
        assert_eq!(assignment.due(Which::Behind, now), [(AT, 10, 4)]);
        assignment.sent_back(AT, false, now);
        assert!(assignment.due(Which::Behind, now).is_empty());
        assert_eq!(assignment.due(Which::Behind, now + LOOK), [(AT, 10, 4)]);
        assignment.sent_back(AT, true, now);
        assert!(assignment.take(AT, 10, 4));
        assert_eq!(assignment.next_due(), None);
    }

    #[test]
    fn the_beginning_and_a_position_without_epoch_need_no_validation() {
        let mut assignment = Assignment::default();
        assignment.put(AT, 0, 7, Instant::now());
        assert!(assignment.take(AT, 0, 7));
        assert_eq!(assignment.put(AT, 10, -1, Instant::now()), Some(Which::Behind));
        assert!(assignment.take(AT, 12, 7));
    }

    #[test]
    fn nothing_is_taken_twice_and_an_end_moves_the_position() {
        let mut assignment = Assignment::default();
        assignment.put(AT, 5, -1, Instant::now());
        assert!(!assignment.take(AT, 4, 0));
        assert!(assignment.take(AT, 5, 0));
        assert!(!assignment.take(AT, 5, 0));
        assert!(!assignment.end(AT, 5));
        assert!(assignment.end(AT, 9));
        assert!(!assignment.take(AT, 8, 0));
    }

    #[test]
    fn behind_an_error_nothing_is_taken_until_it_was_sent_back() {
        let now = Instant::now();
        let mut assignment = Assignment::default();
        assignment.put(AT, 5, -1, now);
        assert!(assignment.take(AT, 5, 2));
        assignment.hold(AT, now);
        assert!(!assignment.take(AT, 9, 2));
        assert!(!assignment.end(AT, 10));
        assert!(assignment.due(Which::Behind, now).is_empty());
        assert_eq!(assignment.due(Which::Behind, now + AGAIN.0), [(AT, 6, 2)]);
        assignment.sent_back(AT, true, now);
        assignment.hold(AT, now);
        assert!(assignment.due(Which::Behind, now + AGAIN.0).is_empty(), "the second wait is longer");
        assert_eq!(assignment.due(Which::Behind, now + AGAIN.1).len(), 1);
    }

    #[test]
    fn out_of_range_is_told_once_and_ends_with_a_new_assignment() {
        let now = Instant::now();
        let mut assignment = Assignment::default();
        assignment.put(AT, 5, -1, now);
        assert_eq!(assignment.out_of_range(AT, false), Some(Refused::Told { position: 5 }));
        assert_eq!(assignment.out_of_range(AT, false), None);
        assignment.hold(AT, now);
        assert_eq!(assignment.next_due(), None);
        assert!(!assignment.take(AT, 50, 1));
        assignment.put(AT, 50, -1, now);
        assert!(assignment.take(AT, 50, 1));
    }

    #[test]
    fn a_log_diverges_when_that_is_said_twice_of_one_position() {
        let now = Instant::now();
        let mut assignment = Assignment::default();
        assignment.put(AT, 150, 5, now);
        assignment.sent_back(AT, true, now);
        assert_eq!(assignment.out_of_range(AT, true), Some(Refused::Doubted));
        assert_eq!(assignment.out_of_range(AT, true), None);
        assert!(!assignment.take(AT, 150, 5) && assignment.next_due().is_none());
        assert_eq!(assignment.again(AT, now), Some((Which::Behind, 150)));
        assert_eq!(assignment.again(AT, now), None);
        assert_eq!(assignment.due(Which::Behind, now), [(AT, 150, 5)], "asked about what it is");
        assignment.sent_back(AT, true, now);
        assert_eq!(assignment.out_of_range(AT, true), Some(Refused::Told { position: 150 }));
        // What is behind another record is another position; and one that was assigned anew is not doubted.
        assignment.put(AT, 150, 5, now);
        assignment.sent_back(AT, true, now);
        assert_eq!(assignment.out_of_range(AT, true), Some(Refused::Doubted));
        assert!(assignment.again(AT, now).is_some());
        assignment.sent_back(AT, true, now);
        assert!(assignment.take(AT, 150, 5));
        assert_eq!(assignment.out_of_range(AT, true), Some(Refused::Doubted));
        assignment.put(AT, 0, -1, now);
        assert_eq!(assignment.again(AT, now), None);
        // Behind a transaction's marker we have no epoch to ask about, and librdkafka had one of its own.
        assignment.put(AT, 150, -1, now);
        assert_eq!(assignment.out_of_range(AT, true), Some(Refused::Told { position: 150 }));
    }

    #[test]
    fn who_has_reached_the_end_waits_with_others_until_it_falls_behind() {
        let now = Instant::now();
        let mut assignment = Assignment::default();
        assignment.put(AT, 0, -1, now);
        assert!(assignment.take(AT, 0, 3));
        assert!(assignment.end(AT, 1) && assignment.may_wait(AT, now));
        assert_eq!(assignment.change(AT, Which::AtEnd, now), Some(Moved { from: Which::Behind, next: 1 }));
        assert_eq!(assignment.change(AT, Which::AtEnd, now), None, "it is there");
        assert!(!assignment.take(AT, 1, 3), "its epoch is validated first, as after every start");
        assert_eq!(assignment.due(Which::Behind, now), []);
        assert_eq!(assignment.due(Which::AtEnd, now), [(AT, 1, 3)]);
        assignment.sent_back(AT, true, now);
        assert!(assignment.end(AT, 1) && !assignment.may_wait(AT, now));

        for offset in 1..=i64::from(LOOK_RECORDS) {
            assert_eq!(assignment.behind(|_| panic!("looked too early")), []);
            assert!(assignment.take(AT, offset, 3));
        }
        let next = i64::from(LOOK_RECORDS) + 1;
        assert_eq!(assignment.behind(|_| Some(next + BEHIND_RECORDS - 1)), [], "not far enough");
        for offset in next..next + i64::from(LOOK_RECORDS) {
            assignment.take(AT, offset, 3);
        }
        assert_eq!(assignment.behind(|_| Some(1_000_000)), [AT]);
        assert!(assignment.change(AT, Which::Behind, now).is_some());
        assignment.sent_back(AT, true, now);
        assert!(assignment.end(AT, 1_000_000) && !assignment.may_wait(AT, now), "it may fall behind again");
        assert!(assignment.may_wait(AT, now + STAYS));
    }
}
