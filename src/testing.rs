//! What tests of several modules need.

use std::time::Duration;

/// What has to come is waited for so long; this says nothing about how fast it is.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A test needs what is missing, and is skipped, unless all was promised: then it fails. `what` also says
/// how to get it.
pub fn skip_without(what: &str) {
    let promised = std::env::var("READSIDE_REQUIRE_SERVICES").is_ok_and(|value| value == "1");
    assert!(!promised, "READSIDE_REQUIRE_SERVICES=1, but there is no {what}");
    eprintln!("SKIPPED, no {what}");
}

/// How long this thread has been at work: what others do meanwhile does not count.
pub fn cpu_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: it is only written to.
    let outcome = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    assert_eq!(outcome, 0);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
