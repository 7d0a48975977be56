//! A partition that has more to read and does not move: a Kafka client can stall without an error,
//! after a topic was created late or a leader moved. It is then started again from its position.

/// How long a partition may stand still while its log goes on, ms.
const STALLED_MS: i64 = 30_000;
/// From then on rounds ask for the last stable offset too.
const SUSPICIOUS_MS: i64 = 10_000;

/// Watches one partition from round to round.
#[derive(Debug, Default)]
pub struct Watchdog {
    /// Where it stood, and the wall clock of the first round that found it there with more to read.
    standing: Option<(i64, i64)>,
    suspicious: bool,
}

impl Watchdog {
    /// `end` is the last stable offset: what lies behind it cannot be read yet, so standing there is
    /// no stall. True when the partition is to be started again, at most once in [`STALLED_MS`].
    pub fn is_stalled(&mut self, position: i64, end: i64, asked_ms: i64) -> bool {
        self.suspicious = false;
        if end <= position {
            self.standing = None;
            return false;
        }
        match self.standing {
            Some((stood, since_ms)) if stood == position && asked_ms >= since_ms => {
                self.suspicious = asked_ms - since_ms >= SUSPICIOUS_MS;
                let stalled = asked_ms - since_ms >= STALLED_MS;
                if stalled {
                    self.standing = Some((position, asked_ms));
                }
                stalled
            }
            _ => {
                self.standing = Some((position, asked_ms));
                false
            }
        }
    }

    /// Whether it has stood still for a while, so that the next round has to ask for the last stable
    /// offset.
    pub fn is_suspicious(&self) -> bool {
        self.suspicious
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn standing_still_before_the_end_is_a_stall_after_a_while_and_then_again() {
        let mut watchdog = Watchdog::default();
        let found: Vec<i64> = (0..=70).filter(|second| watchdog.is_stalled(5, 9, second * 1_000)).collect();
        assert_eq!(found, [30, 60]);
    }

    #[test]
    fn moving_reaching_the_end_or_a_clock_set_back_starts_the_watch_anew() {
        let mut watchdog = Watchdog::default();
        for second in 0..100 {
            assert!(!watchdog.is_stalled(second / 20, 9, second * 1_000), "it moves");
        }
        for second in 100..200 {
            assert!(!watchdog.is_stalled(9, 9, second * 1_000), "it is at the end");
        }
        assert!(!watchdog.is_stalled(9, 10, 200_000));
        assert!(!watchdog.is_stalled(9, 10, 100_000), "the clock was set back");
        assert!(!watchdog.is_stalled(9, 10, 129_999));
        assert!(watchdog.is_stalled(9, 10, 130_000));
    }
}
