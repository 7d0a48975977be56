//! What has arrived, in a few queues that are read in turns.
//!
//! With one queue for all partitions librdkafka, whenever that was full, starts again at the first
//! partition: with large batches the others would be read when the first is at its end. With several
//! it sees which of them lacks records, and we read them in short turns: partitions advance together,
//! also while there is more to read than we can take. One queue for each would not be bounded: each
//! may hold a whole fetch.

use std::collections::VecDeque;
use std::ffi::c_void;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rdkafka::bindings as sys;

use super::client::{Client, Queue};

/// Queues that may hold something, by index, in the order of their turns.
#[derive(Default)]
pub(super) struct Turns {
    ready: Mutex<Ready>,
    changed: Condvar,
}

#[derive(Default)]
struct Ready {
    /// Each once.
    queues: VecDeque<usize>,
    woken: bool,
}

impl Turns {
    /// Whose turn it is.
    pub fn next(&self) -> Option<usize> {
        self.lock().queues.pop_front()
    }

    /// There is, or may be, something in its queue: it has a turn after all others.
    pub fn add(&self, queue: usize) {
        let mut ready = self.lock();
        if !ready.queues.contains(&queue) {
            ready.queues.push_back(queue);
            self.changed.notify_one();
        }
    }

    /// Ends a wait.
    pub fn wake(&self) {
        self.lock().woken = true;
        self.changed.notify_one();
    }

    /// Waits until a queue has a turn or somebody calls [`Turns::wake`].
    pub fn wait(&self, limit: Duration) {
        let idle = |ready: &mut Ready| ready.queues.is_empty() && !ready.woken;
        let waited = self.changed.wait_timeout_while(self.lock(), limit, idle);
        waited.unwrap_or_else(PoisonError::into_inner).0.woken = false;
    }

    fn lock(&self) -> MutexGuard<'_, Ready> {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One queue. Must be dropped before the client.
pub(super) struct Inbox {
    queue: Queue,
    /// Its address is the opaque of the callback, which ends before it.
    _arrival: Box<Arrival>,
}

struct Arrival {
    index: usize,
    turns: Arc<Turns>,
}

impl Inbox {
    pub fn new(client: &Client, index: usize, turns: &Arc<Turns>) -> Inbox {
        let queue = Queue::new(client);
        let arrival = Box::new(Arrival { index, turns: Arc::clone(turns) });
        let opaque = (&raw const *arrival).cast_mut().cast();
        // SAFETY: the queue lives; the opaque lives until the callback is taken away (see Drop).
        unsafe { sys::rd_kafka_queue_cb_event_enable(queue.ptr(), Some(on_arrival), opaque) };
        Inbox { queue, _arrival: arrival }
    }

    pub fn queue(&self) -> &Queue {
        &self.queue
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        // SAFETY: the queue lives. librdkafka calls back under the lock that this call takes, so no
        // callback runs afterwards.
        unsafe { sys::rd_kafka_queue_cb_event_enable(self.queue.ptr(), None, std::ptr::null_mut()) };
    }
}

/// Called on librdkafka's threads, with the queue locked, when something arrives in an empty queue.
unsafe extern "C" fn on_arrival(_client: *mut sys::rd_kafka_t, opaque: *mut c_void) {
    // SAFETY: the opaque is an `Arrival`, which outlives the callback.
    if let Some(arrival) = unsafe { (opaque as *const Arrival).as_ref() } {
        arrival.turns.add(arrival.index);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_queue_has_one_turn_before_any_has_a_second() {
        let turns = Turns::default();
        for queue in [2, 0, 2, 1] {
            turns.add(queue);
        }
        let first = turns.next();
        assert_eq!(first, Some(2));
        turns.add(2);
        assert_eq!([turns.next(), turns.next(), turns.next()], [Some(0), Some(1), Some(2)]);
        assert_eq!(turns.next(), None);
    }

    #[test]
    fn a_wait_ends_when_something_arrives_or_somebody_wakes_it() {
        let turns = Arc::new(Turns::default());
        turns.wake();
        turns.wait(Duration::from_secs(3_600));
        let other = Arc::clone(&turns);
        let thread = std::thread::spawn(move || other.add(7));
        turns.wait(Duration::from_secs(3_600));
        assert_eq!(turns.next(), Some(7));
        thread.join().unwrap();
        turns.wait(Duration::ZERO);
        assert_eq!(turns.next(), None);
    }
}
