//! Bounded exponential backoff with jitter.

use std::time::Duration;

/// Waits of a retry: `base`, doubled each time up to `max`, each shortened by up to a half.
///
/// The jitter keeps a fleet from retrying in step ("Exponential Backoff And Jitter", AWS
/// Architecture Blog, 2015). The random number is an argument, so that a simulation is repeatable.
#[derive(Debug, Clone)]
pub struct Backoff {
    base: Duration,
    max: Duration,
    attempt: u32,
}

impl Backoff {
    pub fn new(base: Duration, max: Duration) -> Backoff {
        Backoff { base, max, attempt: 0 }
    }

    /// The next wait. `random` is any number; its low 16 bits are used.
    pub fn next(&mut self, random: u64) -> Duration {
        let full = self.base.saturating_mul(1u32 << self.attempt.min(20)).min(self.max);
        self.attempt = self.attempt.saturating_add(1);
        let share = (random & 0xFFFF) as u32;
        full - full * share / (2 * 0xFFFF)
    }

    /// Attempts since the last success.
    pub fn attempts(&self) -> u32 {
        self.attempt
    }

    pub fn reset(&mut self) {
        self.attempt = 0;
    }
}

/// The `reason` label of `readside_store_retries_total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RetryReason {
    Busy,
    DiskFull,
    /// Of a store that keeps the replica in memory.
    OutOfMemory,
    /// A reader keeps more of the write-ahead log than is allowed.
    WalFull,
    Io,
}

impl RetryReason {
    pub const ALL: [RetryReason; 5] = [
        RetryReason::Busy,
        RetryReason::DiskFull,
        RetryReason::OutOfMemory,
        RetryReason::WalFull,
        RetryReason::Io,
    ];

    pub fn name(self) -> &'static str {
        match self {
            RetryReason::Busy => "busy",
            RetryReason::DiskFull => "disk_full",
            RetryReason::OutOfMemory => "out_of_memory",
            RetryReason::WalFull => "wal_full",
            RetryReason::Io => "io",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_the_maximum_and_start_over_after_a_success() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
        let waits: Vec<_> = (0..7).map(|_| backoff.next(0).as_millis()).collect();
        assert_eq!(waits, [100, 200, 400, 800, 1600, 2000, 2000]);
        backoff.reset();
        assert_eq!(backoff.next(0).as_millis(), 100);
    }

    #[test]
    fn jitter_takes_at_most_half() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
        assert_eq!(backoff.next(u64::MAX).as_millis(), 50);
    }

    #[test]
    fn many_attempts_do_not_overflow() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));
        for _ in 0..1000 {
            assert!(backoff.next(0) <= Duration::from_secs(30));
        }
    }
}
