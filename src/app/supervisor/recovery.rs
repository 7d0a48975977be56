//! A replica that lost data while it was written: the daemon goes on from what is left.
//!
//! Only a Redis can lose what it had and still answer (flushed, restarted without persistence,
//! restored from an old snapshot, failed over). The store notices it at the next batch or heartbeat
//! and writes nothing more; here it is opened again, and a new pipeline follows the log from the
//! checkpoint that is there now, from the beginning of the log if nothing is. Meanwhile the gate is
//! closed and readers see `building`. `on_gap: stop` leaves it to a person.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tracing::{error, warn};

use super::{Live, Owed, Start, Supervisor, TakenUp};
use crate::app::replica::{Found, Place};
use crate::config::{Config, OnGap};
use crate::domain::retry::Backoff;
use crate::mapping::Plan;
use crate::metrics::RebuildResult;
use crate::pipeline::{Failure, pause};

/// Losses in a row, without a whole copy between them, after which something must be wrong that
/// going on does not cure.
const LOSSES_MAX: u32 = 10;
const WAIT_FIRST: Duration = Duration::from_millis(100);
const WAIT_MAX: Duration = Duration::from_secs(10);

pub(super) fn patience() -> Backoff {
    Backoff::new(WAIT_FIRST, WAIT_MAX)
}

impl Supervisor {
    /// Opens the replica again and goes on with what is there now, which may be a copy under another
    /// mapping, or a rebuild that had begun.
    pub(super) fn start_over(&mut self, reason: &str) -> Result<(), Failure> {
        let serving = self.live.serving(&Place::of(&self.config));
        let (metrics, progress) = (Arc::clone(&serving.metrics), Arc::clone(&serving.progress));
        if progress.is_gate_open() {
            self.losses = patience();
        }
        if let Err(failure) = judge(&self.config, reason, self.losses.attempts()) {
            error!(reason = %failure, exit_code = failure.exit_code, "stopping: a person is needed");
            progress.update(|shared| shared.stopped = Some(failure.reason.clone()));
            return Err(failure);
        }
        metrics.replica_lost();
        progress.start_over();
        warn!(reason, "the replica lost data; going on from what the log and the replica still have");
        if let Some(next) = self.next.take() {
            next.build.stop();
            let generation = next.build.generation;
            next.build.join();
            self.ended(Some(generation), RebuildResult::Failed, Some(reason.to_owned()));
        }
        let wait = self.losses.next(0);
        // Asked while waiting: a daemon that waits is alive.
        let goes_on = || {
            let now = (self.clock)();
            progress.tick_pipeline(now);
            progress.tick_writer(now);
            !self.stop.load(Ordering::Relaxed)
        };
        if !pause(wait, &goes_on) {
            return Ok(());
        }
        self.replica.let_go();
        let plan = Plan::compile(&self.config);
        let Some(found) = Found::open(&self.config, plan.catalog(), &goes_on)? else { return Ok(()) };
        let mut start = Start {
            config: &self.config,
            clock: &self.clock,
            reports: &self.reports.0,
            builds: self.builds,
            kept: Some((metrics, progress)),
        };
        let TakenUp { live, next, wanted } = start.take_up(plan, found.serves, found.next)?;
        self.builds = start.builds;
        self.replica = found.replica;
        (self.next, self.wanted, self.asked) = (next, wanted, None);
        if let Live::Applying(old) = std::mem::replace(&mut self.live, live) {
            old.stop();
            self.ending.push(old);
        }
        (self.owed, self.unwritten) = (Owed::default(), false);
        self.desk.update(|status| status.frozen = None);
        self.serving.send_replace(self.live.serving(&Place::of(&self.config)));
        Ok(())
    }
}

/// Whether the daemon may go on by itself.
fn judge(config: &Config, reason: &str, losses: u32) -> Result<(), Failure> {
    let stops = config.topics.iter().find(|topic| topic.on_gap == OnGap::Stop);
    let why = match stops {
        Some(topic) => format!("{reason}; topic {:?} has `on_gap: stop`", topic.name),
        None if losses >= LOSSES_MAX => format!("{reason}; {LOSSES_MAX} times without a whole copy between"),
        None => return Ok(()),
    };
    Err(Failure::foreign(format!("{why}: start again when the replica is to be filled from the log")))
}
