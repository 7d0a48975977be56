//! Freshness: what it takes to say "fresh as of T".
//!
//! A round asks every broker for the ends of all partitions; `asked_ms` is taken before the
//! request leaves. The reply `end` proves that whatever was committed before `asked_ms` has an
//! offset below `end`. When the applied position reaches `end`, the partition is fresh as of
//! `asked_ms`. No clock but our own is needed, idle topics advance, and silence proves nothing.

use std::collections::VecDeque;

/// Proofs a partition waits for at most. When more arrive every second one is dropped: a replica
/// that is far behind needs a coarse sequence of targets, not each of them.
const PENDING_MAX: usize = 32;

/// Replies in a row that must show a lower end before it is believed.
const SHORT_ROUNDS: u32 = 5;

#[derive(Debug, Clone, Default)]
pub struct PartitionFreshness {
    /// (asked_ms, end) in order of arrival, none of them reached.
    pending: VecDeque<(i64, i64)>,
    fresh_as_of_ms: Option<i64>,
    /// Replies in a row with an end below the last one that waits.
    short: u32,
}

impl PartitionFreshness {
    /// Starts from what the replica has stored.
    pub fn restored(fresh_as_of_ms: Option<i64>) -> PartitionFreshness {
        PartitionFreshness { pending: VecDeque::new(), fresh_as_of_ms, short: 0 }
    }

    /// A counted reply: the high watermark `end`, asked for at `asked_ms`. Never replaces one that
    /// has not been reached, or a busy topic would never prove anything. A clock that was set back
    /// is taken as it is.
    ///
    /// An end below one that waits is no proof: a new leader may report an old end for a moment
    /// (KIP-207). When it stays so the log was cut off before it was read, and what waits for its
    /// old end would wait for ever.
    pub fn observe(&mut self, asked_ms: i64, end: i64) {
        if self.pending.back().is_some_and(|(_, last)| end < *last) {
            self.short += 1;
            if self.short < SHORT_ROUNDS {
                return;
            }
            self.pending.clear();
        }
        self.short = 0;
        if self.pending.len() >= PENDING_MAX {
            let mut nth = 0;
            self.pending.retain(|_| {
                nth += 1;
                nth % 2 == 1
            });
        }
        self.pending.push_back((asked_ms, end));
    }

    /// The position that will be in the replica: every proof it reaches becomes freshness.
    pub fn reach(&mut self, position: i64) {
        while let Some(&(asked_ms, end)) = self.pending.front() {
            if end > position {
                break;
            }
            self.fresh_as_of_ms = Some(asked_ms);
            self.pending.pop_front();
        }
    }

    /// ms since 1970; `None` while unknown.
    pub fn fresh_as_of_ms(&self) -> Option<i64> {
        self.fresh_as_of_ms
    }

    /// The clock says less than it did. What it said before means nothing any more: a claim that
    /// lies in the future now is dropped, and so are questions. True when the claim was.
    pub fn clock_set_back(&mut self, now_ms: i64) -> bool {
        self.pending.clear();
        self.fresh_as_of_ms.take_if(|at| *at > now_ms).is_some()
    }

    /// Forgets proofs that were not reached: their log is in doubt.
    pub fn distrust(&mut self) {
        self.pending.clear();
    }
}

/// The worst speaks for all; one unknown makes the whole unknown, and so does having none.
pub fn worst(parts: impl IntoIterator<Item = Option<i64>>) -> Option<i64> {
    let mut worst = None;
    for part in parts {
        let part = part?;
        worst = Some(worst.map_or(part, |so_far: i64| so_far.min(part)));
    }
    worst
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_unknown_until_a_proof_is_reached() {
        let mut freshness = PartitionFreshness::default();
        freshness.reach(100);
        assert_eq!(freshness.fresh_as_of_ms(), None);
        freshness.observe(1_000, 101);
        freshness.reach(100);
        assert_eq!(freshness.fresh_as_of_ms(), None);
        freshness.reach(101);
        assert_eq!(freshness.fresh_as_of_ms(), Some(1_000));
    }

    #[test]
    fn it_advances_on_an_idle_partition() {
        let mut freshness = PartitionFreshness::default();
        for asked in [1_000, 2_000, 3_000] {
            freshness.observe(asked, 0);
            freshness.reach(0);
            assert_eq!(freshness.fresh_as_of_ms(), Some(asked));
        }
    }

    #[test]
    fn a_busy_partition_that_never_reaches_the_newest_end_still_advances() {
        let mut freshness = PartitionFreshness::default();
        for second in 0..1_000 {
            freshness.observe(second * 1_000, second * 100 + 50);
            freshness.reach(second * 100);
            if second > 0 {
                assert_eq!(freshness.fresh_as_of_ms(), Some((second - 1) * 1_000));
            }
        }
    }

    #[test]
    fn a_long_backlog_is_bounded_and_loses_no_truth() {
        let mut freshness = PartitionFreshness::default();
        for second in 0..10_000 {
            freshness.observe(second, second * 10);
        }
        assert!(freshness.pending.len() <= PENDING_MAX);
        let mut last = None;
        for position in 0..=99_990 {
            freshness.reach(position);
            let now = freshness.fresh_as_of_ms();
            assert!(now >= last);
            // Never later than the truth: the end asked for at that second was reached.
            assert!(now.is_none_or(|at| at * 10 <= position));
            last = now;
        }
        assert_eq!(last, Some(9_999));
    }

    #[test]
    fn an_end_that_goes_back_is_believed_when_it_stays() {
        let mut freshness = PartitionFreshness::default();
        freshness.observe(1_000, 9);
        for round in 2..=5 {
            freshness.observe(round * 1_000, 4);
            freshness.reach(4);
            assert_eq!(freshness.fresh_as_of_ms(), None, "perhaps only for a moment");
        }
        freshness.observe(6_000, 4);
        freshness.reach(4);
        assert_eq!(freshness.fresh_as_of_ms(), Some(6_000));
    }

    #[test]
    fn a_claim_of_a_clock_that_was_set_back_is_dropped() {
        let mut freshness = PartitionFreshness::restored(Some(9_000));
        freshness.observe(9_500, 1);
        assert!(!freshness.clock_set_back(9_400));
        freshness.reach(1);
        assert_eq!(freshness.fresh_as_of_ms(), Some(9_000), "the question was asked by the other clock");
        assert!(freshness.clock_set_back(8_999));
        assert_eq!(freshness.fresh_as_of_ms(), None);
    }

    #[test]
    fn a_clock_that_was_set_back_is_taken_as_it_is() {
        let mut freshness = PartitionFreshness::default();
        freshness.observe(5_000, 1);
        freshness.observe(2_000, 1);
        freshness.reach(1);
        assert_eq!(freshness.fresh_as_of_ms(), Some(2_000));
    }

    #[test]
    fn the_worst_partition_speaks_and_unknown_stays_unknown() {
        assert_eq!(worst([Some(5), Some(3), Some(9)]), Some(3));
        assert_eq!(worst([Some(5), None]), None);
        assert_eq!(worst([]), None);
    }
}
