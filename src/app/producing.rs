//! The thread that produces dead letters to `dead_letters.topic`, for the generation that serves.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tracing::{info, warn};

use crate::admin;
use crate::config::Config;
use crate::domain::breaker::Breaker;
use crate::pipeline::letters::{Log, Sides};
use crate::pipeline::producing::{Outlet, Producing, Round};
use crate::pipeline::{Clock, random};
use crate::source::kafka::produce::{NotWritten, produce};

/// How often it looks whether there is something to do; that is one number and a lock.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// A failure that goes on is logged this often.
const LOG_EVERY: Duration = Duration::from_secs(60);

/// What the thread works with.
pub struct Parts {
    pub topic: String,
    pub config: Config,
    pub serving: watch::Receiver<admin::Context>,
    pub log: Arc<Log>,
    pub clock: Clock,
    pub stop: Arc<AtomicBool>,
}

/// Starts it. It ends by itself after `stop`, and nobody needs to wait for that: what it has not noted
/// by then is produced again.
pub fn spawn(parts: Parts) -> std::io::Result<()> {
    std::thread::Builder::new().name("dead-letters".into()).spawn(move || run(&parts)).map(|_| ())
}

fn run(parts: &Parts) {
    let mut thread = Thread { breaker: Breaker::default(), logged: None };
    let mut generation: Option<Generation> = None;
    while !parts.stop.load(Ordering::Relaxed) {
        std::thread::park_timeout(LOOK_EVERY);
        let context = parts.serving.borrow().clone();
        let same = |known: &Generation| Arc::ptr_eq(&known.context.metrics, &context.metrics);
        let generation = match &mut generation {
            Some(known) if same(known) => known,
            other => other.insert(Generation { context, producing: Producing::default(), seen: None }),
        };
        thread.look(parts, generation);
    }
}

/// The one that serves.
struct Generation {
    context: admin::Context,
    producing: Producing,
    /// Of [`crate::pipeline::letters::LetterDesk::arrivals`], before the last round that left nothing.
    seen: Option<u64>,
}

struct Thread {
    breaker: Breaker,
    logged: Option<Instant>,
}

impl Thread {
    fn look(&mut self, parts: &Parts, generation: &mut Generation) {
        let Generation { context, producing, seen } = generation;
        let desk = &context.progress.letters;
        let arrivals = desk.arrivals();
        let waits = self.breaker.not_before().is_some_and(|at| Instant::now() < at);
        if waits || *seen == Some(arrivals) {
            return;
        }
        let sides = Sides {
            catalog: &context.catalog,
            reader: &*context.reader,
            desk,
            metrics: &context.metrics,
            now_ms: (parts.clock)(),
        };
        match producing.round(&sides, &parts.config.replica.name, &*parts.log, &*outlet(parts)) {
            Round::Done => {
                *seen = Some(arrivals);
                self.succeeded(context);
            }
            Round::More => self.succeeded(context),
            Round::Closed => {}
            Round::Failed(reason) => self.failed(&parts.topic, context, reason),
        }
        context.metrics.dead_letter_topic_breaker(!self.breaker.is_closed());
    }

    fn succeeded(&mut self, context: &admin::Context) {
        self.breaker.succeeded();
        if self.logged.take().is_some() {
            info!("dead letters are produced again");
            context.progress.update(|shared| shared.letters_failing = None);
        }
    }

    fn failed(&mut self, topic: &str, context: &admin::Context, reason: String) {
        self.breaker.failed(Instant::now(), random());
        if self.logged.is_none_or(|at| at.elapsed() >= LOG_EVERY) {
            self.logged = Some(Instant::now());
            warn!(topic, error = %reason, "dead letters cannot be produced; they are kept in the replica and tried again");
        }
        context.progress.update(|shared| shared.letters_failing = Some(reason));
    }
}

fn outlet(parts: &Parts) -> Box<Outlet<'static>> {
    let (kafka, topic, stop) = (parts.config.kafka.clone(), parts.topic.clone(), Arc::clone(&parts.stop));
    Box::new(move |records| {
        let goes_on = || !stop.load(Ordering::Relaxed);
        let failed =
            |error: &str| records.iter().map(|_| Err(NotWritten::Failed(error.to_owned()))).collect();
        if !goes_on() {
            return failed("stopping");
        }
        produce(&kafka, &topic, records, &goes_on).unwrap_or_else(|error| failed(&error.to_string()))
    })
}
