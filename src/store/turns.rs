//! Taking turns: the two writers of a process share one file with one write lock, or one server.
//!
//! The live generation goes first and never waits for more than one batch of the other, which in
//! turn gets every ninth turn at the least. Without this each would find a file locked at
//! random, and the switch could not keep the live one still.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Turns of the live generation after which one of the other is due.
const IN_A_ROW_MAX: u32 = 8;
/// How long the live generation is held back for a switch at most, and how long it is left alone
/// after that.
const HELD_MAX: Duration = if cfg!(test) { Duration::from_millis(60) } else { Duration::from_secs(2) };
const LEFT_ALONE: Duration = Duration::from_secs(if cfg!(test) { 600 } else { 10 });

#[derive(Debug, Default)]
pub(super) struct Turns {
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    busy: bool,
    live_waits: bool,
    next_waits: bool,
    /// Turns of the live generation since the other one's last.
    in_a_row: u32,
    hold: Option<Hold>,
}

#[derive(Debug, Clone, Copy)]
struct Hold {
    until: Instant,
    again_from: Instant,
}

/// Held while one batch is written.
#[derive(Debug)]
pub(super) struct Turn<'a>(&'a Turns);

impl Turns {
    /// Of the live generation.
    pub fn first(&self) -> Turn<'_> {
        let mut queue = self.lock();
        queue.live_waits = true;
        loop {
            let due = queue.next_waits && queue.in_a_row >= IN_A_ROW_MAX;
            let held = queue.hold.map(|hold| hold.until.saturating_duration_since(Instant::now()));
            let held = held.filter(|left| !left.is_zero());
            if !queue.busy && !due && held.is_none() {
                break;
            }
            queue = match held {
                None => self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner),
                Some(left) => {
                    self.changed.wait_timeout(queue, left).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
        queue.live_waits = false;
        queue.busy = true;
        queue.in_a_row += 1;
        Turn(self)
    }

    /// Of the generation that is being built.
    pub fn second(&self) -> Turn<'_> {
        let mut queue = self.lock();
        queue.next_waits = true;
        loop {
            let held = queue.hold.is_some_and(|hold| hold.until > Instant::now());
            if !queue.busy && (!queue.live_waits || held || queue.in_a_row >= IN_A_ROW_MAX) {
                break;
            }
            queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
        queue.next_waits = false;
        queue.busy = true;
        queue.in_a_row = 0;
        Turn(self)
    }

    /// In the midst of a long turn of the live generation, or of the other: whoever waits comes first.
    pub fn give_way(&self, live: bool) {
        let mut queue = self.lock();
        let waits = if live { queue.next_waits } else { queue.live_waits };
        if !waits {
            return;
        }
        queue.busy = false;
        drop(queue);
        self.changed.notify_all();
        // The turn goes on, and ends where it was begun.
        std::mem::forget(if live { self.first() } else { self.second() });
    }

    /// Keeps the live generation where it is for a moment, so that the other can reach it.
    pub fn hold(&self) {
        let now = Instant::now();
        let mut queue = self.lock();
        if queue.hold.is_none_or(|hold| hold.again_from <= now) {
            queue.hold = Some(Hold { until: now + HELD_MAX, again_from: now + HELD_MAX + LEFT_ALONE });
        }
        self.changed.notify_all();
    }

    pub fn let_go(&self) {
        self.lock().hold = None;
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.lock().busy = false;
        self.0.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::mpsc;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    /// Waits until a thread stands in the queue.
    fn queued(turns: &Turns, who: fn(&Queue) -> bool) {
        let until = Instant::now() + PATIENCE;
        while !who(&turns.lock()) {
            assert!(Instant::now() < until, "nobody came");
            std::thread::yield_now();
        }
    }

    #[test]
    fn the_live_generation_waits_for_one_batch_and_then_goes_first() {
        let turns = Arc::new(Turns::default());
        let (order, seen) = mpsc::channel();
        let building = turns.second();
        let mut threads = Vec::new();
        for live in [false, true] {
            let (turns, order) = (Arc::clone(&turns), order.clone());
            threads.push(std::thread::spawn(move || {
                let turn = if live { turns.first() } else { turns.second() };
                order.send(live).unwrap();
                drop(turn);
            }));
        }
        queued(&turns, |queue| queue.live_waits && queue.next_waits);
        drop(building);
        assert!(seen.recv_timeout(PATIENCE).unwrap(), "the live one goes first");
        assert!(!seen.recv_timeout(PATIENCE).unwrap());
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    }

    #[test]
    fn the_other_one_gets_its_turn_however_busy_the_live_one_is() {
        let turns = Arc::new(Turns::default());
        let held = turns.first();
        let building = {
            let turns = Arc::clone(&turns);
            std::thread::spawn(move || drop(turns.second()))
        };
        queued(&turns, |queue| queue.next_waits);
        // As if the live one came back each time before the other has woken up.
        turns.lock().in_a_row = IN_A_ROW_MAX;
        turns.lock().live_waits = true;
        drop(held);
        building.join().unwrap();
        assert_eq!(turns.lock().in_a_row, 0);
    }

    #[test]
    fn a_hold_ends_when_it_is_let_go_and_by_itself_and_is_not_taken_again_at_once() {
        let turns = Turns::default();
        let until = |turns: &Turns| turns.lock().hold.expect("it is held").until;
        turns.hold();
        // Longer than what follows may take.
        turns.lock().hold.as_mut().expect("it is held").until += 10 * PATIENCE;
        std::thread::scope(|scope| {
            let live = scope.spawn(|| drop(turns.first()));
            queued(&turns, |queue| queue.live_waits);
            drop(turns.second());
            turns.let_go();
            live.join().unwrap();
        });
        turns.hold();
        let held_until = until(&turns);
        drop(turns.first());
        assert!(Instant::now() >= held_until);
        turns.hold();
        assert_eq!(until(&turns), held_until, "left alone for a while");
    }

    #[test]
    fn who_waits_in_a_long_turn_has_one_in_between() {
        for live in [true, false] {
            let turns = Arc::new(Turns::default());
            let long = if live { turns.first() } else { turns.second() };
            turns.give_way(live);
            let (ended, other) = mpsc::channel();
            let waiting = Arc::clone(&turns);
            let thread = std::thread::spawn(move || {
                let turn = if live { waiting.second() } else { waiting.first() };
                ended.send(()).unwrap();
                drop(turn);
            });
            queued(&turns, if live { |queue| queue.next_waits } else { |queue| queue.live_waits });
            assert!(other.try_recv().is_err(), "the turn is long");
            // The live one gives way after some turns in a row, as ever.
            for _ in 0..=IN_A_ROW_MAX {
                turns.give_way(live);
            }
            other.recv_timeout(PATIENCE).unwrap();
            assert!(turns.lock().busy, "the long turn goes on");
            drop(long);
            thread.join().unwrap();
            assert!(!turns.lock().busy);
        }
    }
}
