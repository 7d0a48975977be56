//! What is said once, and then rarely.

use std::time::{Duration, Instant};

const AGAIN_AFTER: Duration = Duration::from_secs(60);
/// Another reason is news, but reasons may alternate.
const OTHER_AFTER: Duration = Duration::from_secs(10);

/// One thing that goes on being wrong.
#[derive(Debug, Clone, Default)]
pub(super) struct Repeats {
    said: Option<(String, Instant)>,
}

impl Repeats {
    /// Whether to say it now: the first time, with a new reason, or after a long time.
    pub fn is_due(&mut self, reason: &str, now: Instant) -> bool {
        if let Some((last, at)) = &self.said {
            let wait = if last == reason { AGAIN_AFTER } else { OTHER_AFTER };
            if now.saturating_duration_since(*at) < wait {
                return false;
            }
        }
        self.said = Some((reason.to_owned(), now));
        true
    }

    /// What was said last, unless it is over.
    pub fn last(&self) -> Option<&str> {
        self.said.as_ref().map(|(reason, _)| reason.as_str())
    }

    /// It is well again: the next time is a first time.
    pub fn over(&mut self) {
        self.said = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_said_first_then_rarely_and_anew_after_it_was_well() {
        let (mut repeats, start) = (Repeats::default(), Instant::now());
        assert!(repeats.is_due("refused", start));
        assert!(!repeats.is_due("refused", start + Duration::from_secs(59)));
        assert!(repeats.is_due("refused", start + AGAIN_AFTER));
        assert!(!repeats.is_due("timeout", start + AGAIN_AFTER));
        assert!(repeats.is_due("timeout", start + AGAIN_AFTER + OTHER_AFTER));
        repeats.over();
        assert!(repeats.is_due("timeout", start + AGAIN_AFTER + OTHER_AFTER));
    }
}
