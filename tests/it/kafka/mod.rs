//! A real Apache Kafka for tests: KRaft, one node, on free ports and in a directory of its own.
//!
//! [`shared`] is the broker that all tests of the process share (topic names must be unique:
//! [`topic_name`]); [`Broker::start`] starts a private one for tests that stop, freeze or kill it.
//! Where Java or the jars are missing (`make services` gets them) a test skips and says so on
//! stderr, unless `READSIDE_REQUIRE_SERVICES=1`, which makes it fail.

mod broker;
mod client;

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::children;

pub use broker::{Broker, PASSWORD, STRANGER, USER};
pub use client::{Message, Transaction};

/// The broker of this test process, started when first asked for; `None`: skip the test.
pub fn shared() -> Option<&'static Broker> {
    shared_cell().get_or_init(|| private("shared")).as_ref()
}

fn shared_cell() -> &'static OnceLock<Option<Broker>> {
    static SHARED: OnceLock<Option<Broker>> = OnceLock::new();
    // Statics are not dropped: what the shared broker leaves is removed when the process exits.
    extern "C" fn at_exit() {
        if let Some(Some(broker)) = SHARED.get() {
            broker.discard();
        }
    }
    static REGISTERED: OnceLock<()> = OnceLock::new();
    REGISTERED.get_or_init(|| {
        // SAFETY: a plain function without arguments, called once on the way out.
        unsafe { libc::atexit(at_exit) };
    });
    &SHARED
}

/// A broker of the caller's own; `None`: skip the test. `what` names it in messages.
pub fn private(what: &str) -> Option<Broker> {
    is_there(what).then(Broker::start)
}

/// As [`private`], with a listener that says it is at the port `advertised`.
pub fn private_behind(what: &str, advertised: u16) -> Option<Broker> {
    is_there(what).then(|| Broker::start_behind(Some(advertised)))
}

fn is_there(what: &str) -> bool {
    if let Err(missing) = broker::available() {
        children::skip_without(&format!("Kafka ({what}): {missing}"));
        return false;
    }
    true
}

/// A topic name that no other test of this process uses.
pub fn topic_name(about: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("{about}-{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

/// After this a test gives up waiting for what has to come. Far more than any machine needs: it ends a
/// test that hangs, and is no statement about speed.
pub const WAIT_MAX: Duration = Duration::from_secs(180);

/// Asks again until `done` gives something; panics after [`WAIT_MAX`]. Between two questions it lets
/// other threads run: for states that nothing announces (a broker coming up, a log being cleaned).
pub fn eventually<T>(what: &str, done: impl FnMut() -> Option<T>) -> T {
    eventually_or(|| what.to_owned(), done)
}

/// The same with words that are found when it has failed.
pub fn eventually_or<T>(what: impl FnOnce() -> String, mut done: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = done() {
            return value;
        }
        assert!(start.elapsed() < WAIT_MAX, "not within {WAIT_MAX:?}: {}", what());
        std::thread::park_timeout(Duration::from_millis(10));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shared_broker_takes_records_transactions_and_deletions() {
        let Some(broker) = shared() else { return };
        let topic = topic_name("harness");
        broker.create_topic(&topic, 2, &[("cleanup.policy", "compact")]);
        let written = broker.produce(
            &topic,
            [
                Message::new("a", "1").to(1).at(1_700_000_000_000).header("h", b"v"),
                Message::tombstone("a").to(1),
                Message::new("b", "2").to(0),
            ],
        );
        assert_eq!(written, [(1, 0), (1, 1), (0, 0)]);
        let aborted = Transaction::begin(broker, &topic_name("transaction"));
        aborted.produce(&topic, [Message::new("c", "3").to(0)]);
        aborted.abort();
        eventually("the abort's marker takes an offset", || {
            (broker.end_offset(&topic, 0) == 3).then_some(())
        });
        broker.add_partitions(&topic, 3);
        assert_eq!(broker.end_offset(&topic, 2), 0);
        broker.delete_topic(&topic);
    }

    #[test]
    fn a_private_broker_keeps_its_log_over_a_kill_and_a_restart() {
        let Some(broker) = private("restart") else { return };
        let topic = topic_name("harness");
        broker.create_topic(&topic, 1, &[]);
        broker.produce(&topic, [Message::new("a", "1")]);
        broker.kill();
        broker.restart();
        assert_eq!(broker.end_offset(&topic, 0), 1);
    }
}
