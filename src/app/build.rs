//! A build: one generation with everything that keeps it going, or that serves it as it is.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::thread::JoinHandle;

use tracing::{info, warn};

use crate::admin;
use crate::config::Config;
use crate::domain::catalog::Catalog;
use crate::mapping::Plan;
use crate::metrics::Metrics;
use crate::pipeline::progress::Progress;
use crate::pipeline::{Clock, Context, Ended, Failure, Pipeline, start_writer};
use crate::source::kafka::KafkaSource;
use crate::store::{Reader, Store};

/// What a build has ended with.
#[derive(Debug)]
pub struct Report {
    pub build: u64,
    pub outcome: Result<Ended, Failure>,
}

/// A compiled mapping, a source, a pipeline and a writer that fill one generation.
pub struct Build {
    pub id: u64,
    pub catalog: Arc<Catalog>,
    pub metrics: Arc<Metrics>,
    pub progress: Arc<Progress>,
    pub generation: u32,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

/// What is needed to start one.
pub struct Parts<'a> {
    pub config: &'a Config,
    pub clock: Clock,
    pub metrics: Arc<Metrics>,
    pub progress: Arc<Progress>,
    /// Where its end is told.
    pub reports: Sender<Report>,
}

impl Build {
    /// `plan` is the compiled mapping of what `store` writes.
    pub fn start(
        id: u64,
        mut plan: Plan,
        mut store: Box<dyn Store>,
        parts: Parts<'_>,
    ) -> Result<Build, Failure> {
        let Parts { config, clock, metrics, progress, reports } = parts;
        for (table, kind) in store.version_kinds()?.into_iter().enumerate() {
            if let Some(kind) = kind {
                plan.set_version_kind(table, kind);
            }
        }
        let catalog = Arc::clone(plan.catalog());
        if let Some(registry) = plan.registry() {
            registry.report_to(&metrics);
        }
        let stop = Arc::new(AtomicBool::new(false));
        let context = Context {
            clock,
            metrics: Arc::clone(&metrics),
            progress: Arc::clone(&progress),
            stop: Arc::clone(&stop),
        };
        progress.tick_pipeline(context.now_ms());
        progress.tick_writer(context.now_ms());
        let checkpoint = store.checkpoint()?;
        let generation = store.generation();
        info!(
            replica = %config.replica.target,
            generation,
            complete = checkpoint.complete,
            partitions = checkpoint.positions.len(),
            "replica opened"
        );
        let source = KafkaSource::start(&config.kafka, &catalog.topics, config.freshness.interval)
            .map_err(|error| Failure::other(format!("kafka: {error}")))?;
        let no_thread = |error| Failure::other(format!("cannot start a thread: {error}"));
        let mut writer = start_writer(store, context).map_err(no_thread)?;
        let pipeline = Pipeline::new(config, plan, source, checkpoint, &mut writer);
        let telling = Telling { build: id, outcome: None, reports };
        let shown = Arc::clone(&progress);
        let thread = std::thread::Builder::new()
            .name("pipeline".into())
            .stack_size(crate::jq::THREAD_STACK)
            .spawn(move || {
                let mut telling = telling;
                let outcome = pipeline.run();
                shown.end_pipeline();
                // The store is closed when the writer has ended.
                writer.join();
                telling.outcome = Some(outcome);
            })
            .map_err(no_thread)?;
        Ok(Build { id, catalog, metrics, progress, generation, stop, thread })
    }

    /// Asks both loops to commit what is complete and end.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Whether [`Build::join`] would wait for nothing.
    pub fn has_ended(&self) -> bool {
        self.thread.is_finished()
    }

    pub fn join(self) {
        if self.thread.join().is_err() {
            warn!("the pipeline thread panicked");
        }
    }

    pub fn serving(&self, reader: Arc<dyn Reader>) -> admin::Context {
        admin::Context {
            catalog: Arc::clone(&self.catalog),
            metrics: Arc::clone(&self.metrics),
            progress: Arc::clone(&self.progress),
            reader,
        }
    }
}

/// Tells the end also of a thread that panics.
struct Telling {
    build: u64,
    outcome: Option<Result<Ended, Failure>>,
    reports: Sender<Report>,
}

impl Drop for Telling {
    fn drop(&mut self) {
        let unexpected = || Err(Failure::other("the pipeline ended unexpectedly"));
        let outcome = self.outcome.take().unwrap_or_else(unexpected);
        // Nobody listens any more when the process ends.
        let _ = self.reports.send(Report { build: self.build, outcome });
    }
}
