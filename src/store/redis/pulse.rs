//! Signs of life in the midst of work that takes longer than a heartbeat counts.

use std::time::{Duration, Instant};

use super::RedisStore;
use super::described::Role;
use super::names::Spot;
use super::step::Step;
use crate::domain::batch::Observed;
use crate::store::StoreError;

/// How often readers and others are told that somebody is at work.
const HEARTBEAT: Duration = Duration::from_secs(1);

pub(super) struct Pulse<'o> {
    observed: &'o Observed,
    started: Instant,
    told: Instant,
    every: Duration,
}

impl<'o> Pulse<'o> {
    pub fn new(observed: &Observed) -> Pulse<'_> {
        let now = Instant::now();
        Pulse { observed, started: now, told: now, every: HEARTBEAT }
    }

    /// Each beat is heard.
    #[cfg(test)]
    pub fn loud(observed: &Observed) -> Pulse<'_> {
        Pulse { every: Duration::ZERO, ..Pulse::new(observed) }
    }

    pub fn observed(&self) -> &'o Observed {
        self.observed
    }

    /// The time of the batch, which goes on.
    pub fn now_ms(&self) -> i64 {
        match self.told > self.started {
            true => self.observed.heartbeat_ms + (self.told - self.started).as_millis() as i64,
            false => self.observed.heartbeat_ms,
        }
    }
}

impl RedisStore {
    /// Between two slices: lets the other generation's writer have its turn, and says once in a while
    /// that this one is there.
    pub(super) fn beat(&mut self, pulse: &mut Pulse<'_>) -> Result<(), StoreError> {
        self.home.turns.give_way(self.role == Role::Live);
        if pulse.told.elapsed() < pulse.every {
            return Ok(());
        }
        pulse.told = Instant::now();
        let observed = Observed { heartbeat_ms: pulse.now_ms(), ..pulse.observed.clone() };
        let mut next = self.known_ledger()?.clone();
        next.heartbeat_ms = Some(observed.heartbeat_ms);
        let mut step = Step::default();
        let heartbeat = ("heartbeat_ms".to_owned(), observed.heartbeat_ms.to_string());
        step.set_fields(&self.names.status, vec![heartbeat]);
        self.say_alive(&mut step, &observed);
        self.do_it(&step, next)
    }

    /// The same before anything is known of the log, outside of a turn: the lease is kept.
    pub(super) fn keep_lease(&mut self, told: &mut Instant) -> Result<(), StoreError> {
        if told.elapsed() < HEARTBEAT {
            return Ok(());
        }
        *told = Instant::now();
        let next = self.known_ledger()?.clone();
        self.do_it(&Step::default(), next)?;
        match self.role {
            Role::Next { carries_live: true } => self.home.keep_lease(),
            _ => Ok(()),
        }
    }

    /// Of this generation, or of the live one in its name.
    pub(super) fn say_alive(&self, step: &mut Step<'_>, observed: &Observed) {
        step.alive = match (self.role, self.spot) {
            // The live one, which goes on, says so itself.
            (Role::Next { carries_live: false }, Spot::Beside(_)) => None,
            _ => Some(observed.connected),
        };
        if self.role == (Role::Next { carries_live: true }) {
            step.carried = self.home.carry(self.spot, observed);
        }
    }
}
