//! The pipeline: the one loop that turns records into batches and hands them to the store.
//!
//! Two threads share the work: this loop polls, decodes, maps and coalesces; the `writer` owns
//! the store and applies one batch at a time. A batch goes out at once when the writer has nothing
//! to do and grows while it is busy: throughput under load and low latency otherwise come from one
//! rule.

mod gaps;
mod gate;
mod identity;
mod intake;
pub mod letters;
mod limits;
mod notices;
pub mod producing;
pub mod progress;
pub mod rebuild;
pub mod rehearsal;
mod watchdog;
mod writer;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError};
use std::time::{Duration, Instant};

use tracing::{error, info};

use crate::config::{Config, Gate};
use crate::domain::checkpoint::{Checkpoint, TopicPartition};
use crate::domain::freshness;
use crate::domain::state::believable;
use crate::mapping::Plan;
use crate::metrics::Metrics;
use crate::source::Source;
use crate::store::{BatchLimits, Completion, Preparer, StopCode, Store, StoreError};

pub use gate::GateRule;
use intake::{Intake, PendingErrand};
use progress::Progress;
use writer::{Committed, Done, Work};
pub use writer::{Writer, random};

/// Batches handed over and not yet reported back. Only a full one is handed to a busy writer.
const IN_FLIGHT_MAX: usize = 2;
/// Records of one poll.
const POLL_RECORDS_MAX: usize = 1024;
/// Wait for records when there is nothing to write: bounds the delay of everything else in the loop.
const IDLE_WAIT: Duration = Duration::from_millis(250);
/// Wait for records while a batch waits for the writer.
const BUSY_WAIT: Duration = Duration::from_millis(1);
/// Wait for the writer when nothing more fits.
const FULL_WAIT: Duration = Duration::from_millis(20);
/// How long a shutdown waits for the store to take what is complete.
const FLUSH_MAX: Duration = Duration::from_millis(if cfg!(test) { 15_000 } else { 1_500 });

/// Wall clock, ms since 1970; an argument so that tests and simulations own time.
pub type Clock = Arc<dyn Fn() -> i64 + Send + Sync>;

/// What both threads share.
#[derive(Clone)]
pub struct Context {
    pub clock: Clock,
    pub metrics: Arc<Metrics>,
    pub progress: Arc<Progress>,
    /// Set once to end both loops.
    pub stop: Arc<AtomicBool>,
}

impl Context {
    pub fn now_ms(&self) -> i64 {
        (self.clock)()
    }

    fn is_stopping(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

/// Why the pipeline cannot go on. The process ends with this exit code.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Failure {
    pub exit_code: u8,
    pub reason: String,
}

impl Failure {
    pub fn foreign(reason: impl Into<String>) -> Failure {
        Failure { exit_code: 78, reason: reason.into() }
    }

    pub fn other(reason: impl Into<String>) -> Failure {
        Failure { exit_code: 1, reason: reason.into() }
    }

    pub fn unavailable(reason: impl Into<String>) -> Failure {
        Failure { exit_code: 69, reason: reason.into() }
    }
}

/// How a pipeline ended that did not fail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// It was told to stop; what is complete is in the replica.
    Stopped,
    /// Another generation is the live one now: nothing more may be written to this one.
    Retired,
    /// It cannot go on from its positions, and the policy is to build a new generation beside this
    /// one, which serves on as it is.
    Rebuild { reason: String },
    /// The store no longer has what it had, and nothing was written since. One that is opened again has
    /// a checkpoint from which a new pipeline goes on.
    Lost { reason: String },
    /// The copy it has built is whole and will not take the place of the live one.
    Refused { reason: String },
}

/// Why the loop does not come round again.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Halt {
    Ended(Ended),
    Failed(Failure),
}

impl From<Failure> for Halt {
    fn from(failure: Failure) -> Halt {
        Halt::Failed(failure)
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Failure {
        let exit_code = match &error {
            StoreError::Retry { .. } => 74,
            StoreError::Stop { exit: StopCode::Io, .. } => 74,
            StoreError::Stop { exit: StopCode::Foreign | StopCode::Lost | StopCode::Retired, .. } => 78,
        };
        Failure { exit_code, reason: error.to_string() }
    }
}

pub struct Pipeline<S: Source> {
    source: S,
    intake: Intake,
    context: Context,
    work: SyncSender<Work>,
    done: Receiver<Done>,
    /// Handed over and not yet reported back, at most [`IN_FLIGHT_MAX`].
    in_flight: usize,
    limits: BatchLimits,
    preparer: Option<Preparer>,
    /// By batch that was handed over: who waits for what is in it.
    errands: VecDeque<(u64, Vec<PendingErrand>)>,
    /// The writer's thread has ended.
    writer_gone: bool,
    heartbeat_ms: i64,
    interval_ms: i64,
}

impl<S: Source> Pipeline<S> {
    /// `checkpoint` is what the store that stands behind `writer` has.
    pub fn new(
        config: &Config,
        plan: Plan,
        source: S,
        checkpoint: Checkpoint,
        writer: &mut Writer,
    ) -> Pipeline<S> {
        let context = writer.context.clone();
        let fresh = freshness::worst(
            checkpoint.positions.keys().map(|at| checkpoint.fresh_as_of_ms.get(at).copied()),
        );
        let limit_ms = crate::store::heartbeat_limit(config.freshness.interval).as_millis() as i64;
        let fresh = believable(fresh, context.now_ms(), limit_ms);
        let gate = GateRule {
            complete: checkpoint.complete,
            open_at_once: match config.startup.gate {
                Gate::CaughtUp => false,
                Gate::CompleteCopy | Gate::Auto => {
                    let oldest = context.now_ms() - config.startup.max_age.as_millis() as i64;
                    checkpoint.complete && fresh.is_some_and(|at| at >= oldest)
                }
            },
        };
        let (work, done) = writer.channels(source.waker());
        let mut intake = Intake::new(config, plan, checkpoint, gate, context.clone());
        intake.take_shelves(std::mem::take(&mut writer.shelves));
        Pipeline {
            source,
            intake,
            context,
            work,
            done,
            in_flight: 0,
            limits: writer.limits,
            preparer: writer.preparer.clone(),
            errands: VecDeque::new(),
            writer_gone: false,
            heartbeat_ms: 0,
            interval_ms: config.freshness.interval.as_millis().max(1) as i64,
        }
    }

    /// Runs until it is told to stop, another generation takes over, or it cannot go on. What is
    /// complete is in the replica then.
    pub fn run(mut self) -> Result<Ended, Failure> {
        self.context.progress.letters.open();
        let halt = loop {
            if let Err(halt) = self.round() {
                break halt;
            }
        };
        let outcome = match halt {
            // The store would refuse it.
            Halt::Ended(ended @ (Ended::Retired | Ended::Lost { .. })) => Ok(ended),
            Halt::Ended(Ended::Stopped) => {
                self.intake.leave();
                self.flush(None).map_or(Ok(Ended::Stopped), Err)
            }
            Halt::Ended(ended) => self.flush(None).map_or(Ok(ended), Err),
            Halt::Failed(failure) => {
                self.announce(&failure);
                self.flush(Some(failure)).map_or(Ok(Ended::Stopped), Err)
            }
        };
        self.context.progress.letters.close();
        // A writer whose store refuses would go on trying, and nobody would see the end.
        self.context.stop.store(true, Ordering::Relaxed);
        outcome
    }

    fn announce(&mut self, failure: &Failure) {
        error!(reason = %failure, exit_code = failure.exit_code, "stopping: a person is needed");
        self.context.progress.update(|shared| shared.stopped = Some(failure.reason.clone()));
        self.intake.stopped = Some(failure.reason.clone());
    }

    /// One round of the loop.
    fn round(&mut self) -> Result<(), Halt> {
        let now = self.context.now_ms();
        self.context.progress.tick_pipeline(now);
        self.intake.look_at_clock(now);
        self.take_done()?;
        if self.context.is_stopping() {
            return Err(Halt::Ended(Ended::Stopped));
        }
        let letters = &self.context.progress.letters;
        if letters.has_errands()
            && !self.intake.has_errands()
            && let Some(errand) = letters.take()
        {
            self.intake.take_errand(errand);
        }
        let full = self.is_full();
        let idle = if full && self.in_flight >= IN_FLIGHT_MAX {
            self.wait_done(FULL_WAIT)?;
            false
        } else if full {
            false
        } else {
            let wait = match (self.intake.has_changes(), self.in_flight) {
                (false, _) => IDLE_WAIT,
                (true, 0) => Duration::ZERO,
                (true, _) => BUSY_WAIT,
            };
            let room = self.intake.room(self.limits).min(POLL_RECORDS_MAX as u64) as usize;
            let intake = &mut self.intake;
            let events = self.source.poll(wait, room, &mut |event| intake.take(event));
            self.intake.outcome()?;
            if let Some(reason) = self.intake.rebuild.take() {
                return Err(Halt::Ended(Ended::Rebuild { reason }));
            }
            for at in self.intake.take_pauses() {
                self.source.pause(at);
            }
            for (at, position) in self.intake.take_assignments() {
                self.source.assign(at, &position);
            }
            self.source.want_details(self.intake.wants_details());
            events == 0
        };
        self.hand_over(idle)?;
        Ok(())
    }

    fn is_full(&self) -> bool {
        self.intake.is_full(self.limits)
    }

    /// Seals and hands over when it is worth it and the writer can take it.
    fn hand_over(&mut self, idle: bool) -> Result<(), Failure> {
        if self.in_flight >= IN_FLIGHT_MAX {
            return Ok(());
        }
        // First of all: a log that grows as fast as we write must not put it off.
        if self.intake.wants_completion() {
            info!("every partition reached its end: completing the copy");
            return self.send(Work::Complete);
        }
        if self.in_flight > 0 && !self.is_full() {
            return Ok(());
        }
        let now = self.context.now_ms();
        let overdue = now - self.heartbeat_ms >= self.interval_ms || now < self.heartbeat_ms;
        // While nobody reads yet, or what is read is old, larger batches are worth waiting for.
        let waits = !self.context.progress.is_gate_open() || self.intake.is_catching_up();
        let ripe = self.intake.has_changes() && (idle || self.is_full() || !waits);
        if ripe || overdue || self.intake.has_news() || self.intake.has_errands() {
            self.heartbeat_ms = now;
            return self.send_batch(now);
        }
        Ok(())
    }

    /// Seals and hands over.
    fn send_batch(&mut self, now: i64) -> Result<(), Failure> {
        let batch = self.intake.seal(now);
        if self.intake.has_errands() {
            self.errands.push_back((batch.id, self.intake.take_errands()));
        }
        if let Some(prepare) = &self.preparer {
            prepare(&batch);
        }
        self.send(Work::Batch(Box::new(batch)))
    }

    fn send(&mut self, work: Work) -> Result<(), Failure> {
        // The channel has room for all that may be in flight.
        match self.work.try_send(work) {
            Ok(()) => {
                self.in_flight += 1;
                Ok(())
            }
            Err(_) => self.writer_ended(),
        }
    }

    /// Told to stop while the store refused, it ends with what it has in hand.
    fn writer_ended(&mut self) -> Result<(), Failure> {
        self.writer_gone = true;
        self.in_flight = 0;
        if self.context.is_stopping() {
            return Ok(());
        }
        Err(Failure::other("the writer thread ended unexpectedly"))
    }

    fn take_done(&mut self) -> Result<(), Halt> {
        loop {
            match self.done.try_recv() {
                Ok(done) => self.on_done(done)?,
                Err(TryRecvError::Empty) => return Ok(()),
                Err(TryRecvError::Disconnected) => return Ok(self.writer_ended()?),
            }
        }
    }

    fn wait_done(&mut self, wait: Duration) -> Result<(), Halt> {
        match self.done.recv_timeout(wait) {
            Ok(done) => self.on_done(done),
            Err(RecvTimeoutError::Timeout) => Ok(()),
            Err(RecvTimeoutError::Disconnected) => Ok(self.writer_ended()?),
        }
    }

    fn on_done(&mut self, done: Done) -> Result<(), Halt> {
        self.in_flight -= 1;
        match done {
            Done::Applied(mut committed) => {
                if let Some(shelf) = committed.batch.shelf.take() {
                    self.intake.give_back(shelf, &committed);
                }
                self.intake.committed(&committed);
                self.answer(&committed);
                self.intake.swept(&committed.applied.swept);
                Ok(self.intake.check_dead_letters(&committed.applied)?)
            }
            Done::Completed(Completion::Done) => {
                self.intake.go_live();
                self.intake.gate.completed();
                self.intake.open_gate();
                Ok(())
            }
            Done::Completed(Completion::Behind) => {
                self.intake.gate.completion_is_early();
                Ok(())
            }
            Done::Completed(Completion::Refused { reason }) => Err(Halt::Ended(Ended::Refused { reason })),
            Done::Failed(failure) => Err(failure.into()),
            Done::Lost(reason) => Err(Halt::Ended(Ended::Lost { reason })),
            Done::Retired => Err(Halt::Ended(Ended::Retired)),
            Done::Dropped => Ok(()),
        }
    }

    fn answer(&mut self, Committed { batch, applied, .. }: &Committed) {
        while let Some((_, errands)) = self.errands.pop_front_if(|(id, _)| *id == batch.id) {
            for errand in errands {
                errand.answer(batch, &applied.stale, &applied.letters);
            }
        }
    }

    /// Gives the writer what is complete, with the reason of the end, and waits, within bounds,
    /// until it has it. The first failure is the cause; what comes up then only follows from it.
    fn flush(&mut self, mut failure: Option<Failure>) -> Option<Failure> {
        let deadline = Instant::now() + FLUSH_MAX;
        let mut sealed = false;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || self.writer_gone {
                info!("the store did not take the last batch in time; the log has it still");
                return failure;
            }
            let step = if self.in_flight > 0 {
                self.wait_done(left)
            } else if sealed {
                return failure;
            } else {
                sealed = true;
                self.send_batch(self.context.now_ms()).map_err(Halt::from)
            };
            if let (Err(Halt::Failed(found)), None) = (step, &failure) {
                self.announce(&found);
                failure = Some(found);
            }
        }
    }
}

/// Sleeps in slices; false as soon as `goes_on` says no, which is asked before each.
pub fn pause(wait: Duration, goes_on: &dyn Fn() -> bool) -> bool {
    let until = Instant::now() + wait;
    loop {
        if !goes_on() {
            return false;
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return true;
        }
        std::thread::sleep(left.min(Duration::from_millis(100)));
    }
}

/// Positions by topic and partition, as committed.
pub type Positions = BTreeMap<TopicPartition, i64>;

/// Spawns the thread that owns the store.
pub fn start_writer<T: Store + 'static>(store: T, context: Context) -> std::io::Result<Writer> {
    Writer::spawn(store, context)
}

#[cfg(test)]
mod tests;
