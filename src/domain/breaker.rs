//! A circuit breaker, of the schema registry and of the dead-letter topic: after a few failures in a
//! row it is left alone for a while, and then asked once.

use std::time::{Duration, Instant};

use super::retry::Backoff;

/// Failures in a row that open it.
const OPENS_AT: u32 = 5;
const FIRST_WAIT: Duration = Duration::from_millis(200);
const LONGEST_WAIT: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub struct Breaker {
    backoff: Backoff,
    not_before: Option<Instant>,
}

impl Default for Breaker {
    fn default() -> Breaker {
        Breaker { backoff: Backoff::new(FIRST_WAIT, LONGEST_WAIT), not_before: None }
    }
}

impl Breaker {
    /// While it is open nobody waits for an answer; the request that may be made after each wait
    /// closes it or does not.
    pub fn is_closed(&self) -> bool {
        self.backoff.attempts() < OPENS_AT
    }

    /// When the next request may be made; `None`: at once.
    pub fn not_before(&self) -> Option<Instant> {
        self.not_before
    }

    pub fn failed(&mut self, now: Instant, random: u64) {
        self.not_before = Some(now + self.backoff.next(random));
    }

    pub fn succeeded(&mut self) {
        self.backoff.reset();
        self.not_before = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_opens_after_failures_in_a_row_and_one_success_closes_it() {
        let now = Instant::now();
        let mut breaker = Breaker::default();
        assert!(breaker.is_closed() && breaker.not_before().is_none());
        for _ in 1..OPENS_AT {
            breaker.failed(now, 0);
            assert!(breaker.is_closed());
        }
        breaker.failed(now, 0);
        assert!(!breaker.is_closed());
        for _ in 0..100 {
            breaker.failed(now, 0);
        }
        assert_eq!(breaker.not_before(), Some(now + LONGEST_WAIT), "the wait is bounded");
        breaker.succeeded();
        assert!(breaker.is_closed() && breaker.not_before().is_none());
    }
}
