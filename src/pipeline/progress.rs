//! What the rest of the program may know about the running pipeline.
//!
//! Written by the pipeline's and the writer's threads, read by probes, `wait` and the progress
//! display. Everything in it describes what is committed in the replica, not what is in flight.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Mutex, PoisonError};

use tokio::sync::watch;

use super::letters::LetterDesk;
use crate::domain::checkpoint::TopicPartition;

#[derive(Debug)]
pub struct Progress {
    gate: watch::Sender<bool>,
    /// Another generation is being built beside this one.
    rebuilding: AtomicBool,
    started: AtomicBool,
    /// When the pipeline's loop and the writer's loop last came round, ms since 1970.
    pipeline_tick_ms: AtomicI64,
    writer_tick_ms: AtomicI64,
    /// The writer is inside a call of the store since its last tick.
    in_store: AtomicBool,
    /// See [`Progress::note_switched`].
    switched: AtomicBool,
    shared: Mutex<Shared>,
    /// Where dead letters are retried and dropped.
    pub letters: LetterDesk,
    /// Counts commits; waiters look again when it moves.
    commits: watch::Sender<u64>,
}

#[derive(Debug, Default, Clone)]
pub struct Shared {
    /// Committed next offsets.
    pub positions: BTreeMap<TopicPartition, i64>,
    pub build: Option<Build>,
    /// Whether the last round of observations was answered.
    pub connected: bool,
    /// Set while the store refuses batches and they are retried.
    pub store_failing: Option<String>,
    /// Why `dead_letters.topic` does not take dead letters; they are tried again.
    pub letters_failing: Option<String>,
    /// Transactions that hold back what lies behind them.
    pub open_transactions: Vec<OpenTransaction>,
    /// Set while a read transaction keeps the write-ahead log for too long.
    pub long_reader: Option<LongReader>,
    /// Set when the daemon stopped applying for good.
    pub stopped: Option<String>,
}

/// When the loops last came round, ms since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Loops {
    pub pipeline_ms: i64,
    pub writer_ms: i64,
    /// The writer is inside a call of the store since then.
    pub in_store: bool,
}

/// A transaction of a producer that holds a partition back.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct OpenTransaction {
    pub topic: String,
    pub partition: i32,
    /// From here on nothing can be read: the last stable offset.
    pub offset: i64,
    /// How long the partition has stood there.
    pub seconds: u64,
}

/// A read transaction that keeps the write-ahead log of the replica from being reused.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct LongReader {
    /// How long it has been seen.
    pub seconds: u64,
    /// What of the log it keeps.
    pub pages: u64,
    /// Ids of processes that read; only those that can be seen from here.
    pub processes: Vec<u32>,
}

/// How far the start has come; `None` in [`Shared`] until the ends at start are known.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct Build {
    pub remaining_records: u64,
    pub total_records: u64,
    /// Records per second so far.
    pub rate: f64,
    pub eta_seconds: Option<f64>,
}

impl Default for Progress {
    fn default() -> Self {
        Progress {
            gate: watch::Sender::new(false),
            rebuilding: AtomicBool::new(false),
            started: AtomicBool::new(false),
            pipeline_tick_ms: AtomicI64::new(0),
            writer_tick_ms: AtomicI64::new(0),
            in_store: AtomicBool::new(false),
            switched: AtomicBool::new(false),
            shared: Mutex::new(Shared::default()),
            letters: LetterDesk::default(),
            commits: watch::Sender::new(0),
        }
    }
}

impl Progress {
    /// Readers may use the copy. Open until [`Progress::start_over`].
    pub fn open_gate(&self) {
        self.started.store(true, Ordering::Release);
        self.gate.send_if_modified(|is_open| !std::mem::replace(is_open, true));
        self.commits.send_modify(|count| *count += 1);
    }

    pub fn is_gate_open(&self) -> bool {
        *self.gate.borrow()
    }

    pub fn set_rebuilding(&self, yes: bool) {
        self.rebuilding.store(yes, Ordering::Relaxed);
    }

    pub fn is_rebuilding(&self) -> bool {
        self.rebuilding.load(Ordering::Relaxed)
    }

    /// Latched: whether the gate was ever open in this process.
    pub fn has_started(&self) -> bool {
        self.started.load(Ordering::Acquire)
    }

    /// What was committed is lost: the gate closes, and nothing is known until the next pipeline says.
    pub fn start_over(&self) {
        self.gate.send_if_modified(|is_open| std::mem::replace(is_open, false));
        self.update(|shared| {
            *shared = Shared { connected: shared.connected, ..Shared::default() };
        });
    }

    /// The store has made this generation the one that readers see. The writer says so itself, because
    /// its pipeline may have ended while the store was at it.
    pub fn note_switched(&self) {
        self.switched.store(true, Ordering::Release);
    }

    pub fn has_switched(&self) -> bool {
        self.switched.load(Ordering::Acquire)
    }

    pub fn tick_pipeline(&self, now_ms: i64) {
        self.pipeline_tick_ms.store(now_ms, Ordering::Relaxed);
    }

    /// Its loop has ended and does not hang, however long the writer is inside the store yet.
    pub fn end_pipeline(&self) {
        self.tick_pipeline(i64::MAX);
    }

    pub fn tick_writer(&self, now_ms: i64) {
        self.writer_tick_ms.store(now_ms, Ordering::Relaxed);
    }

    /// The writer calls the store, which may take long, or is back.
    pub fn enter_store(&self, now_ms: i64) {
        self.tick_writer(now_ms);
        self.in_store.store(true, Ordering::Relaxed);
    }

    pub fn leave_store(&self, now_ms: i64) {
        self.tick_writer(now_ms);
        self.in_store.store(false, Ordering::Relaxed);
    }

    /// How the two loops stand.
    pub fn loops(&self) -> Loops {
        Loops {
            pipeline_ms: self.pipeline_tick_ms.load(Ordering::Relaxed),
            writer_ms: self.writer_tick_ms.load(Ordering::Relaxed),
            in_store: self.in_store.load(Ordering::Relaxed),
        }
    }

    /// The loops of another one stand for its own.
    pub fn tick_as(&self, loops: Loops) {
        self.pipeline_tick_ms.store(loops.pipeline_ms, Ordering::Relaxed);
        self.writer_tick_ms.store(loops.writer_ms, Ordering::Relaxed);
        self.in_store.store(loops.in_store, Ordering::Relaxed);
    }

    /// The older of the two loops' last rounds, ms since 1970.
    pub fn last_tick_ms(&self) -> i64 {
        self.pipeline_tick_ms.load(Ordering::Relaxed).min(self.writer_tick_ms.load(Ordering::Relaxed))
    }

    /// Changes the shared part and wakes everybody who waits.
    pub fn update(&self, change: impl FnOnce(&mut Shared)) {
        change(&mut self.shared.lock().unwrap_or_else(PoisonError::into_inner));
        self.commits.send_modify(|count| *count += 1);
    }

    pub fn read<T>(&self, look: impl FnOnce(&Shared) -> T) -> T {
        look(&self.shared.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether readers may use the copy; moves with that only.
    pub fn watch_gate(&self) -> watch::Receiver<bool> {
        self.gate.subscribe()
    }

    /// Moves with every commit and every other update.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.commits.subscribe()
    }
}
