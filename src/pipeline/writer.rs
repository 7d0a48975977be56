//! The writer: the one thread that owns the store.

use std::collections::{BTreeMap, HashMap};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tracing::{info, warn};

use super::progress::LongReader;
use super::{Context, Failure, IN_FLIGHT_MAX, pause};
use crate::domain::batch::{Batch, Observed};
use crate::domain::change::{Effect, Skip};
use crate::domain::checkpoint::TopicPartition;
use crate::domain::retry::Backoff;
use crate::domain::shelf::Shelf;
use crate::domain::shelving::Shelves;
use crate::metrics::Sizes;
use crate::source::Waker;
use crate::store::{
    Applied, BatchLimits, Completion, LONG_READER, Maintenance, Preparer, StopCode, Store, StoreError,
};

/// Wait for work before housekeeping gets its turn.
const IDLE: Duration = Duration::from_millis(500);
/// Housekeeping comes at least this often, also under load.
const MAINTAIN_EVERY: Duration = Duration::from_secs(5);
/// The same while there is much to be tidied up.
const TIDYING_IDLE: Duration = Duration::from_millis(10);
const TIDYING_EVERY: Duration = Duration::from_millis(100);
const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(5);
/// A failure that goes on is logged this often.
const RETRY_LOG_EVERY: Duration = Duration::from_secs(30);

pub enum Work {
    Batch(Box<Batch>),
    /// The first copy is whole.
    Complete,
}

pub enum Done {
    Applied(Committed),
    Completed(Completion),
    Failed(Failure),
    /// Refused: another generation is the live one now.
    Retired,
    /// The replica lost what it had; a store that is opened again goes on from what is there.
    Lost(String),
    /// Not done, because something before it failed.
    Dropped,
}

/// What readers see now.
pub struct Committed {
    /// Given back, so that the pipeline's thread frees what it allocated: the writer is the busier
    /// of the two.
    pub batch: Box<Batch>,
    pub applied: Applied,
    /// How long the store took.
    pub took: Duration,
}

impl Committed {
    pub fn positions(&self) -> impl Iterator<Item = (TopicPartition, i64)> {
        self.batch.advances.iter().map(|(at, advance)| (*at, advance.to.next_offset))
    }
}

/// Handle of the writer's thread. Dropping the work channel ends it.
pub struct Writer {
    pub context: Context,
    /// How much the store takes in one batch.
    pub(super) limits: BatchLimits,
    /// See [`Store::shelves`].
    pub(super) shelves: Shelves,
    /// See [`Store::preparer`].
    pub(super) preparer: Option<Preparer>,
    channels: Option<(SyncSender<Work>, Receiver<Done>)>,
    /// Called when something is done: the pipeline may be waiting for records.
    wake: Arc<OnceLock<Waker>>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    pub fn spawn<T: Store + 'static>(store: T, context: Context) -> std::io::Result<Writer> {
        let (work_tx, work_rx) = sync_channel(IN_FLIGHT_MAX);
        let (done_tx, done_rx) = sync_channel(IN_FLIGHT_MAX);
        let inside = context.clone();
        let (limits, shelves, preparer) = (store.batch_limits(), store.shelves(), store.preparer());
        let wake = Arc::new(OnceLock::new());
        let wakes = Arc::clone(&wake);
        let thread = std::thread::Builder::new().name("writer".into()).spawn(move || {
            WriterLoop {
                store,
                context: inside,
                work: work_rx,
                done: done_tx,
                wakes,
                maintained: Instant::now(),
                more: false,
                topics: HashMap::new(),
                failed: false,
                broken: None,
                long_reader: false,
            }
            .run();
        })?;
        Ok(Writer {
            context,
            limits,
            shelves,
            preparer,
            channels: Some((work_tx, done_rx)),
            wake,
            thread: Some(thread),
        })
    }

    /// The two ends for the pipeline; they exist once. `wake` ends its wait for records.
    pub(super) fn channels(&mut self, wake: Waker) -> (SyncSender<Work>, Receiver<Done>) {
        let _ = self.wake.set(wake);
        self.channels.take().unwrap_or_else(|| {
            // A second pipeline on one writer finds a writer that ended.
            let (work, _) = sync_channel(0);
            let (_, done) = sync_channel(0);
            (work, done)
        })
    }

    /// Waits for the thread after the pipeline has ended: the store is closed then.
    pub fn join(mut self) {
        drop(self.channels.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            warn!("the writer thread panicked");
        }
    }
}

struct WriterLoop<T: Store> {
    store: T,
    context: Context,
    work: Receiver<Work>,
    done: SyncSender<Done>,
    wakes: Arc<OnceLock<Waker>>,
    maintained: Instant,
    /// The store has more to tidy up.
    more: bool,
    /// Dead letters by topic that were counted so far, to count only new ones.
    topics: HashMap<usize, u64>,
    /// Something was not written for good. What comes later counts on it, at least with its
    /// freshness, and is not written either.
    failed: bool,
    /// What housekeeping found and the next piece of work ends with.
    broken: Option<StoreError>,
    /// A reader has been there for too long, and that was said.
    long_reader: bool,
}

impl<T: Store> WriterLoop<T> {
    fn run(mut self) {
        self.publish_figures();
        // It was opened: until it refuses a batch it accepts them, also where none comes.
        self.context.metrics.store_connected(true);
        loop {
            self.context.progress.tick_writer(self.context.now_ms());
            // What is left to be tidied up is done in small steps between batches.
            let (idle, every) =
                if self.more { (TIDYING_IDLE, TIDYING_EVERY) } else { (IDLE, MAINTAIN_EVERY) };
            match self.work.recv_timeout(idle) {
                Ok(work) => {
                    let done = match self.carry_out(work) {
                        Ok(Some(done)) => done,
                        // Told to stop while the store refused: the log has it still.
                        Ok(None) => return,
                        Err(error) => {
                            self.failed = true;
                            match error {
                                StoreError::Stop { exit: StopCode::Retired, .. } => Done::Retired,
                                StoreError::Stop { exit: StopCode::Lost, message } => Done::Lost(message),
                                error => Done::Failed(error.into()),
                            }
                        }
                    };
                    if self.done.send(done).is_err() {
                        return;
                    }
                    if let Some(wake) = self.wakes.get() {
                        wake();
                    }
                }
                Err(RecvTimeoutError::Timeout) => self.maintain(),
                Err(RecvTimeoutError::Disconnected) => return,
            }
            if self.maintained.elapsed() >= every {
                self.maintain();
            }
        }
    }

    fn carry_out(&mut self, work: Work) -> Result<Option<Done>, StoreError> {
        if let Some(error) = self.broken.take() {
            return Err(error);
        }
        match work {
            Work::Batch(batch) if self.failed => self.note_stop(*batch),
            Work::Batch(batch) => self.apply(batch),
            Work::Complete if self.failed => Ok(Some(Done::Dropped)),
            Work::Complete => {
                let completed = self.retrying(|store| store.complete())?;
                if completed == Some(Completion::Done) {
                    self.context.progress.note_switched();
                }
                Ok(completed.map(Done::Completed))
            }
        }
    }

    /// Of a batch behind a failed one, only why it stopped: readers are to see that.
    fn note_stop(&mut self, batch: Batch) -> Result<Option<Done>, StoreError> {
        let Observed { heartbeat_ms, connected, stopped, .. } = batch.observed;
        if stopped.as_ref().is_some_and(|reason| !reason.is_empty()) {
            let observed = Observed { heartbeat_ms, connected, stopped, ..Observed::default() };
            let note = Batch { id: batch.id, observed, ..Batch::default() };
            if self.retrying(|store| store.apply(&note))?.is_none() {
                return Ok(None);
            }
        }
        Ok(Some(Done::Dropped))
    }

    fn apply(&mut self, batch: Box<Batch>) -> Result<Option<Done>, StoreError> {
        let started = Instant::now();
        let Some(applied) = self.retrying(|store| store.apply(&batch))? else { return Ok(None) };
        let took = started.elapsed();
        self.count(&batch, &applied, took);
        if !batch.retried.is_empty() || !batch.dropped.is_empty() {
            self.publish_figures();
        }
        if !(batch.dead_letters.is_empty() && applied.dead_letters.is_empty() && batch.retried.is_empty()) {
            self.context.progress.letters.note_arrivals();
        }
        let committed = Committed { batch, applied, took };
        self.context.progress.update(|shared| {
            if let Some(after) = &committed.batch.after_gap {
                shared.positions.retain(|at, _| !after.gone.contains(at));
            }
            shared.positions.extend(committed.positions());
            shared.connected = committed.batch.observed.connected;
        });
        Ok(Some(Done::Applied(committed)))
    }

    /// Retries with backoff until it works, cannot work, or the daemon stops (`None`).
    fn retrying<R>(
        &mut self,
        mut call: impl FnMut(&mut T) -> Result<R, StoreError>,
    ) -> Result<Option<R>, StoreError> {
        let mut backoff = Backoff::new(RETRY_FIRST, RETRY_MAX);
        let mut logged: Option<Instant> = None;
        loop {
            match self.in_store(&mut call) {
                Ok(result) => {
                    if backoff.attempts() > 0 {
                        info!(attempts = backoff.attempts(), "the store takes batches again");
                        self.context.metrics.store_connected(true);
                        self.context.progress.update(|shared| shared.store_failing = None);
                    }
                    return Ok(Some(result));
                }
                Err(StoreError::Retry { reason, message }) => {
                    self.context.metrics.store_retried(reason);
                    self.context.metrics.store_connected(false);
                    if logged.is_none_or(|at| at.elapsed() >= RETRY_LOG_EVERY) {
                        logged = Some(Instant::now());
                        warn!(reason = reason.name(), error = %message, "the store refuses; trying again");
                        self.context.progress.update(|shared| shared.store_failing = Some(message.clone()));
                    }
                    // Who waits is alive.
                    let goes_on = || {
                        self.context.progress.tick_writer(self.context.now_ms());
                        !self.context.is_stopping()
                    };
                    if !pause(backoff.next(random()), &goes_on) {
                        return Ok(None);
                    }
                }
                Err(error @ StoreError::Stop { .. }) => return Err(error),
            }
        }
    }

    /// While it is inside the store it is not the loop that hangs, whatever that takes: an index of a
    /// large table, many rows that go.
    fn in_store<R>(&mut self, call: impl FnOnce(&mut T) -> R) -> R {
        let Context { progress, clock, .. } = &self.context;
        progress.enter_store(clock());
        let result = call(&mut self.store);
        progress.leave_store(clock());
        result
    }

    fn maintain(&mut self) {
        self.maintained = Instant::now();
        let now_ms = self.context.now_ms();
        match self.in_store(|store| store.maintain(now_ms)) {
            Ok(done) => {
                self.context.metrics.delete_marks_dropped(done.delete_marks_dropped);
                self.note_reader(&done);
                self.more = done.more;
            }
            // Of what goes away by itself the next batch makes its own. What does not has to end the
            // writing, also where a batch would not notice: a file that was deleted takes all of them.
            Err(error) => {
                self.more = false;
                if self.broken.is_none() {
                    warn!(%error, "housekeeping of the store failed");
                }
                if matches!(error, StoreError::Stop { .. }) {
                    self.broken = Some(error);
                }
            }
        }
        self.publish_figures();
    }

    /// Says once of each reader that has been there for too long that it is, and that it has gone.
    fn note_reader(&mut self, done: &Maintenance) {
        let Maintenance { wal_pages_pinned: pages, wal_pinned_for: age, .. } = *done;
        self.context.metrics.wal_pinned(pages, age);
        let is_long = age >= LONG_READER;
        if is_long && !self.long_reader {
            self.context.metrics.long_reader();
            warn!(
                seconds = age.as_secs(),
                pages,
                processes = ?done.wal_readers,
                "a read transaction keeps the write-ahead log from being reused: it grows until that ends"
            );
        } else if self.long_reader && !is_long {
            info!("the write-ahead log is reused again");
        }
        if is_long || self.long_reader {
            let reader = is_long.then(|| LongReader {
                seconds: age.as_secs(),
                pages,
                processes: done.wal_readers.clone(),
            });
            self.context.progress.update(|shared| shared.long_reader = reader);
        }
        self.long_reader = is_long;
    }

    fn publish_figures(&mut self) {
        let figures = self.in_store(|store| store.figures());
        let metrics = &self.context.metrics;
        metrics.sizes(Sizes {
            rows: &figures.rows,
            held: &figures.held,
            delete_marks: &figures.delete_marks,
            replica_bytes: figures.replica_bytes,
            wal_bytes: figures.wal_bytes,
        });
        for (topic, kept) in figures.dead_letters.iter().enumerate() {
            if self.topics.insert(topic, *kept) != Some(*kept) {
                metrics.dead_letters_kept(topic, *kept);
            }
        }
    }

    fn count(&self, batch: &Batch, applied: &Applied, took: Duration) {
        let metrics = &self.context.metrics;
        let now = self.context.now_ms();
        let mut counts: BTreeMap<(usize, usize), [u64; Effect::ALL.len()]> = BTreeMap::new();
        let mut stale = applied.stale.iter().copied().peekable();
        let mut missing = applied.missing_row.iter().copied().peekable();
        for (index, entry) in batch.entries.iter().enumerate() {
            if stale.next_if_eq(&index).is_some() {
                metrics.events_skipped(entry.topic, Skip::Stale, entry.event_count());
            } else if missing.next_if_eq(&index).is_some() {
                metrics.events_skipped(entry.topic, Skip::MissingRow, entry.event_count());
            } else {
                let sums = counts.entry((entry.topic, entry.table)).or_default();
                for (sum, events) in sums.iter_mut().zip(entry.events) {
                    *sum += u64::from(events);
                }
            }
        }
        for (topic, table, events) in batch.shelf.iter().flat_map(Shelf::counts) {
            let sums = counts.entry((*topic, *table)).or_default();
            for (sum, events) in sums.iter_mut().zip(events) {
                *sum += events;
            }
        }
        for ((topic, table), sums) in counts {
            for (effect, events) in Effect::ALL.into_iter().zip(sums) {
                if events > 0 {
                    metrics.events_applied(topic, table, effect, events);
                }
            }
        }
        for letter in batch.dead_letters.iter().chain(&applied.dead_letters) {
            metrics.dead_letter(letter.at.topic, letter.rejection.reason);
        }
        for (topic, timestamp_ms) in &batch.timestamps {
            metrics.became_visible(*topic, (now - timestamp_ms).max(0) as f64 / 1000.0);
        }
        metrics.batch_applied(batch.records, took);
    }
}

/// Jitter only: the address of a new allocation and the time are random enough.
pub fn random() -> u64 {
    use std::hash::{BuildHasher, Hasher, RandomState};
    RandomState::new().build_hasher().finish()
}
