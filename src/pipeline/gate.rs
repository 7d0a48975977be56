//! The start-up gate: when may the service start on this copy?
//!
//! A first copy has to reach the ends that the log had when it was first seen. Those are the last
//! stable offsets: a transaction that hangs must not keep every pod from starting. A complete copy
//! that is young enough opens the gate at once, also when no broker answers.

use std::collections::BTreeMap;

use crate::domain::checkpoint::TopicPartition;
use crate::pipeline::progress::Build;

/// How the gate stands at the start of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GateRule {
    /// The replica holds a complete copy.
    pub complete: bool,
    /// Open without waiting for the log.
    pub open_at_once: bool,
}

#[derive(Debug)]
pub struct StartupGate {
    complete: bool,
    open: bool,
    /// Ends captured at start and the positions at that moment; `None` until the first complete
    /// observation.
    targets: Option<Targets>,
    /// The ends at start were reached once.
    caught_up: bool,
    completion_asked: bool,
    /// The store could not complete the copy yet; another batch has to come first.
    early: bool,
}

/// Rounds in a row that must show an end below the one captured before it counts as cut off: a new
/// leader may report an old one for a moment (KIP-207).
const SHORT_ROUNDS: u32 = 5;

#[derive(Debug)]
struct Targets {
    ends: BTreeMap<TopicPartition, i64>,
    /// How many rounds in a row the log ended before.
    short: BTreeMap<TopicPartition, u32>,
    total: u64,
    captured_ms: i64,
}

impl StartupGate {
    pub fn new(rule: GateRule) -> StartupGate {
        StartupGate {
            complete: rule.complete,
            open: rule.open_at_once,
            targets: None,
            caught_up: false,
            completion_asked: false,
            early: false,
        }
    }

    pub fn is_open(&self) -> bool {
        self.open
    }

    /// Whether the ends at start are still to be captured.
    pub fn wants_ends(&self) -> bool {
        self.targets.is_none()
    }

    /// `remaining` is what lies between the positions and the ends.
    pub fn capture(&mut self, ends: BTreeMap<TopicPartition, i64>, remaining: u64, now_ms: i64) {
        let short = BTreeMap::new();
        self.targets = Some(Targets { ends, short, total: remaining, captured_ms: now_ms });
    }

    /// Where a log ends now. One that was cut off before we have read so far, and stays so, has less
    /// to give than was captured.
    pub fn observe(&mut self, at: TopicPartition, end: i64) {
        let Some(targets) = self.targets.as_mut().filter(|_| !self.caught_up) else { return };
        let Some(target) = targets.ends.get_mut(&at) else { return };
        if end >= *target {
            targets.short.remove(&at);
            return;
        }
        let rounds = targets.short.entry(at).or_default();
        *rounds += 1;
        if *rounds >= SHORT_ROUNDS {
            *target = end;
        }
    }

    /// The log is another one in part: the ends at start have to be found out again, unless they
    /// were reached.
    pub fn forget_ends(&mut self) {
        if !self.caught_up {
            self.targets = None;
        }
    }

    /// Records between the committed positions and the ends at start; `None` while unknown.
    pub fn remaining(&self, committed: &BTreeMap<TopicPartition, i64>) -> Option<u64> {
        let targets = self.targets.as_ref()?;
        // Positions may go back behind a gap.
        Some(if self.caught_up { 0 } else { remaining(&targets.ends, committed) })
    }

    /// Called with what is committed; true when the gate opens by it.
    pub fn check(&mut self, committed: &BTreeMap<TopicPartition, i64>) -> bool {
        self.early = false;
        self.caught_up = self.caught_up || self.remaining(committed) == Some(0);
        if self.open || !self.complete || !self.caught_up {
            return false;
        }
        self.open = true;
        true
    }

    /// Whether a copy has everything and is to be completed by the store. Says so once.
    pub fn wants_completion(&mut self) -> bool {
        let asks = !self.complete && self.caught_up && !self.completion_asked && !self.early;
        self.completion_asked |= asks;
        asks
    }

    /// The store wants to be asked again behind the next batch.
    pub fn completion_is_early(&mut self) {
        self.completion_asked = false;
        self.early = true;
    }

    /// The store has completed the copy.
    pub fn completed(&mut self) {
        self.complete = true;
        self.open = true;
    }

    /// Whether the ends captured at start were reached by this process.
    pub fn is_caught_up(&self) -> bool {
        self.caught_up
    }

    pub fn is_complete(&self) -> bool {
        self.complete
    }

    pub fn build(&self, committed: &BTreeMap<TopicPartition, i64>, now_ms: i64) -> Option<Build> {
        let targets = self.targets.as_ref()?;
        let remaining = if self.caught_up { 0 } else { remaining(&targets.ends, committed) };
        let seconds = (now_ms - targets.captured_ms).max(1) as f64 / 1000.0;
        let rate = targets.total.saturating_sub(remaining) as f64 / seconds;
        let eta = (rate > 0.0).then(|| remaining as f64 / rate);
        Some(Build { remaining_records: remaining, total_records: targets.total, rate, eta_seconds: eta })
    }
}

/// Offsets between `committed` and `ends`; control records and compacted gaps count, so it is an
/// upper bound of the records.
pub fn remaining(ends: &BTreeMap<TopicPartition, i64>, committed: &BTreeMap<TopicPartition, i64>) -> u64 {
    ends.iter().map(|(at, end)| end.saturating_sub(*committed.get(at).unwrap_or(&0)).max(0) as u64).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(partition: i32) -> TopicPartition {
        TopicPartition { topic: 0, partition }
    }

    fn ends(list: &[(i32, i64)]) -> BTreeMap<TopicPartition, i64> {
        list.iter().map(|(partition, end)| (at(*partition), *end)).collect()
    }

    #[test]
    fn a_first_copy_opens_only_after_every_partition_and_the_completion() {
        let mut gate = StartupGate::new(GateRule { complete: false, open_at_once: false });
        assert!(!gate.check(&ends(&[(0, 5), (1, 5)])), "ends at start are unknown");
        gate.capture(ends(&[(0, 5), (1, 7)]), 12, 0);
        assert!(!gate.check(&ends(&[(0, 5), (1, 6)])));
        assert!(!gate.wants_completion());
        assert!(!gate.check(&ends(&[(0, 5), (1, 7)])), "not before the store has completed it");
        assert!(gate.wants_completion());
        assert!(!gate.wants_completion(), "asked once");
        assert!(!gate.is_open());
        gate.completion_is_early();
        assert!(!gate.wants_completion(), "not before another batch");
        gate.check(&ends(&[(0, 5), (1, 8)]));
        assert!(gate.wants_completion());
        gate.completed();
        assert!(gate.is_open());
    }

    #[test]
    fn a_complete_copy_opens_at_once_or_when_caught_up_as_the_rule_says() {
        assert!(StartupGate::new(GateRule { complete: true, open_at_once: true }).is_open());
        let mut gate = StartupGate::new(GateRule { complete: true, open_at_once: false });
        gate.capture(ends(&[(0, 5)]), 2, 0);
        assert!(!gate.check(&ends(&[(0, 4)])));
        assert!(gate.check(&ends(&[(0, 5)])));
        assert!(!gate.check(&ends(&[(0, 5)])), "opens once");
    }

    #[test]
    fn a_log_that_was_cut_off_before_it_was_read_has_less_to_give() {
        let mut gate = StartupGate::new(GateRule { complete: false, open_at_once: false });
        gate.capture(ends(&[(0, 9)]), 9, 0);
        for round in 1..=SHORT_ROUNDS {
            assert!(!gate.check(&ends(&[(0, 4)])) && !gate.is_caught_up());
            gate.observe(at(0), if round == 3 { 9 } else { 4 });
        }
        assert!(!gate.check(&ends(&[(0, 4)])) && !gate.is_caught_up(), "it was back for a moment");
        for _ in 0..SHORT_ROUNDS {
            gate.observe(at(0), 4);
        }
        gate.check(&ends(&[(0, 4)]));
        assert!(gate.is_caught_up());
    }

    #[test]
    fn the_build_tells_rate_and_time_left() {
        let mut gate = StartupGate::new(GateRule { complete: false, open_at_once: false });
        gate.capture(ends(&[(0, 1_000)]), 1_000, 10_000);
        let build = gate.build(&ends(&[(0, 250)]), 11_000).unwrap();
        assert_eq!((build.remaining_records, build.total_records), (750, 1_000));
        assert_eq!((build.rate, build.eta_seconds), (250.0, Some(3.0)));
    }
}
