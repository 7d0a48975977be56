//! A partition that has more in its log and does not move. A Kafka client can stall without an error,
//! after a topic was created late or a leader moved: it is then started again from its position. Or an
//! open transaction holds back what lies behind it: nobody can read that, but somebody should know.

use crate::source::Ends;

/// How long a partition may stand still while there is more to read, ms.
const STALLED_MS: i64 = 30_000;
/// From then on a round asks for the last stable offset too, and again after as long.
const SUSPICIOUS_MS: i64 = 10_000;

/// Watches one partition from round to round.
#[derive(Debug, Default)]
pub struct Watchdog {
    standing: Option<Standing>,
}

#[derive(Debug, Clone, Copy)]
struct Standing {
    position: i64,
    /// The wall clock of the first round that found it there with more in the log.
    since_ms: i64,
    /// Of the last round that is no reason to call it a stall.
    excused_ms: i64,
    /// When an open transaction was last found to hold it back.
    held_ms: Option<i64>,
    /// Of the last round.
    asked_ms: i64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finding {
    /// It moves, is at its end, or has not stood still for long.
    Well,
    /// To be started again; at most once in [`STALLED_MS`].
    Stalled,
    /// Everything that can be read was read; what lies behind belongs to an open transaction, or comes
    /// after one. Since when it stands there, ms since 1970.
    HeldBack { since_ms: i64 },
}

impl Watchdog {
    /// `ends` as a round that was asked at `asked_ms` found them.
    pub fn look(&mut self, position: i64, ends: &Ends, asked_ms: i64) -> Finding {
        if ends.high_watermark <= position {
            self.standing = None;
            return Finding::Well;
        }
        let known = self.standing.filter(|standing| {
            // A clock that was set back starts the watch anew.
            standing.position == position && standing.asked_ms <= asked_ms
        });
        let new = Standing { position, since_ms: asked_ms, excused_ms: asked_ms, held_ms: None, asked_ms };
        let standing = self.standing.insert(known.unwrap_or(new));
        standing.asked_ms = asked_ms;
        match ends.last_stable {
            Some(stable) if stable <= position => {
                standing.excused_ms = asked_ms;
                if asked_ms - standing.since_ms >= SUSPICIOUS_MS {
                    standing.held_ms = Some(asked_ms);
                }
            }
            Some(_) => {
                standing.held_ms = None;
                if asked_ms - standing.excused_ms >= STALLED_MS {
                    standing.excused_ms = asked_ms;
                    return Finding::Stalled;
                }
            }
            // Without the last stable offset an open transaction would look like a stall.
            None => {}
        }
        match standing.held_ms {
            Some(_) => Finding::HeldBack { since_ms: standing.since_ms },
            None => Finding::Well,
        }
    }

    /// Whether the next round has to ask for the last stable offset: it has stood still for a while, and
    /// it is not known, or no longer, that an open transaction is the reason.
    pub fn is_suspicious(&self) -> bool {
        self.standing.is_some_and(|Standing { since_ms, held_ms, asked_ms, .. }| {
            asked_ms - since_ms >= SUSPICIOUS_MS
                && held_ms.is_none_or(|held| asked_ms - held >= SUSPICIOUS_MS)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is found when it stands at 5, each second of `seconds`; the last stable offset is told once
    /// it is asked for.
    fn look(watchdog: &mut Watchdog, stable: i64, seconds: impl Iterator<Item = i64>) -> Vec<(i64, Finding)> {
        let mut found = Vec::new();
        for second in seconds {
            let last_stable = watchdog.is_suspicious().then_some(stable);
            let ends = Ends { log_start: None, high_watermark: 9, last_stable, leader_epoch: 0 };
            let finding = watchdog.look(5, &ends, second * 1_000);
            if finding != Finding::Well {
                found.push((second, finding));
            }
        }
        found
    }

    fn at(watchdog: &mut Watchdog, position: i64, second: i64) -> Finding {
        let ends = Ends { log_start: None, high_watermark: 9, last_stable: Some(9), leader_epoch: 0 };
        watchdog.look(position, &ends, second * 1_000)
    }

    #[test]
    fn standing_still_before_the_end_is_a_stall_after_a_while_and_then_again() {
        let found = look(&mut Watchdog::default(), 9, 0..=70);
        assert_eq!(found, [(30, Finding::Stalled), (60, Finding::Stalled)]);
    }

    #[test]
    fn an_open_transaction_is_told_and_is_no_stall_until_it_has_ended() {
        let mut watchdog = Watchdog::default();
        let held = |second| (second, Finding::HeldBack { since_ms: 0 });
        // It is asked for once it is suspicious, and known a round later.
        assert_eq!(look(&mut watchdog, 5, 0..=60), (11..=60).map(held).collect::<Vec<_>>());
        // It has ended, which the next question shows; from the last one on there was something to read.
        let found = look(&mut watchdog, 9, 61..=100);
        assert_eq!(found.iter().filter(|(_, finding)| *finding == Finding::Stalled).count(), 1, "{found:?}");
        assert!(
            found[..3].iter().all(|(_, finding)| matches!(finding, Finding::HeldBack { .. })),
            "{found:?}"
        );
        assert!(found.len() < 12, "{found:?}");
        assert_eq!(at(&mut watchdog, 9, 101), Finding::Well);
        assert!(!watchdog.is_suspicious());
    }

    #[test]
    fn moving_reaching_the_end_or_a_clock_set_back_starts_the_watch_anew() {
        let mut watchdog = Watchdog::default();
        for second in 0..100 {
            assert_eq!(at(&mut watchdog, second / 20, second), Finding::Well, "it moves");
        }
        for second in 100..200 {
            assert_eq!(at(&mut watchdog, 9, second), Finding::Well, "it is at the end");
        }
        assert_eq!(at(&mut watchdog, 8, 200), Finding::Well);
        assert_eq!(at(&mut watchdog, 8, 100), Finding::Well, "the clock was set back");
        assert_eq!(at(&mut watchdog, 8, 129), Finding::Well);
        assert_eq!(at(&mut watchdog, 8, 130), Finding::Stalled);
    }
}
