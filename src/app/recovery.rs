//! A replica that lost data while it was written: the daemon goes on from what is left.
//!
//! Only a Redis can lose what it had and still answer (flushed, restarted without persistence,
//! restored from an old snapshot, failed over). The store notices it at the next batch or heartbeat
//! and writes nothing more; here it is opened again, and a new pipeline follows the log from the
//! checkpoint that is there now, from the beginning of the log if nothing is. Meanwhile the gate is
//! closed and readers see `building`. `on_gap: stop` leaves it to a person.

use std::sync::Arc;
use std::time::Duration;

use tracing::{error, info, warn};

use super::replica::{Replica, pause};
use crate::config::{Config, OnGap};
use crate::domain::catalog::Catalog;
use crate::domain::retry::Backoff;
use crate::pipeline::{Context, Failure, Outcome, Pipeline, Writer};
use crate::source::kafka::KafkaSource;

/// Losses in a row, without a whole copy between them, after which something must be wrong that
/// going on does not cure.
const LOSSES_MAX: u32 = 10;
const WAIT_FIRST: Duration = Duration::from_millis(100);
const WAIT_MAX: Duration = Duration::from_secs(10);

/// One pipeline and the writer that it feeds.
pub struct Run {
    pub pipeline: Pipeline<KafkaSource>,
    pub writer: Writer,
}

pub struct Recovery {
    pub config: Config,
    pub catalog: Arc<Catalog>,
    pub context: Context,
}

impl Recovery {
    /// Runs until the daemon is told to stop or cannot go on. The store is closed then.
    pub fn run(self, mut run: Run) -> Result<(), Failure> {
        let mut backoff = Backoff::new(WAIT_FIRST, WAIT_MAX);
        loop {
            let outcome = run.pipeline.run();
            run.writer.join();
            let Outcome::Lost(reason) = outcome? else { return Ok(()) };
            if self.context.progress.is_gate_open() {
                backoff = Backoff::new(WAIT_FIRST, WAIT_MAX);
            }
            self.judge(&reason, backoff.attempts())?;
            self.context.metrics.replica_lost();
            self.context.progress.start_over();
            warn!(%reason, "the replica lost data; going on from what the log and the replica still have");
            if !pause(backoff.next(0), &|| self.goes_on()) {
                return Ok(());
            }
            match self.begin_again()? {
                Some(again) => run = again,
                None => return Ok(()),
            }
        }
    }

    /// Whether the daemon may go on by itself.
    fn judge(&self, reason: &str, losses: u32) -> Result<(), Failure> {
        let stops = self.config.topics.iter().find(|topic| topic.on_gap == OnGap::Stop);
        let why = match stops {
            Some(topic) => format!("{reason}; topic {:?} has `on_gap: stop`", topic.name),
            None if losses >= LOSSES_MAX => {
                format!("{reason}; {LOSSES_MAX} times without a whole copy between")
            }
            None => return Ok(()),
        };
        let failure =
            Failure::foreign(format!("{why}: start again when the replica is to be filled from the log"));
        error!(reason = %failure, exit_code = failure.exit_code, "stopping: a person is needed");
        self.context.progress.update(|shared| shared.stopped = Some(failure.reason.clone()));
        Err(failure)
    }

    /// `None` when it was told to stop while the replica could not be opened.
    fn begin_again(&self) -> Result<Option<Run>, Failure> {
        let Some(mut replica) = Replica::open(&self.config, &self.catalog, &|| self.goes_on())? else {
            return Ok(None);
        };
        let plan = replica.plan(&self.config)?;
        let checkpoint = replica.checkpoint()?;
        info!(
            complete = checkpoint.complete,
            partitions = checkpoint.positions.len(),
            "replica opened again"
        );
        let source =
            KafkaSource::start(&self.config.kafka, &self.catalog.topics, self.config.freshness.interval)
                .map_err(|error| Failure::other(format!("kafka: {error}")))?;
        let mut writer = replica
            .start_writer(self.context.clone())
            .map_err(|error| Failure::other(format!("cannot start a thread: {error}")))?;
        let pipeline = Pipeline::new(&self.config, plan, source, checkpoint, &mut writer);
        Ok(Some(Run { pipeline, writer }))
    }

    /// Asked while waiting: a daemon that waits is alive.
    fn goes_on(&self) -> bool {
        let now = self.context.now_ms();
        self.context.progress.tick_pipeline(now);
        self.context.progress.tick_writer(now);
        !self.context.stop.load(std::sync::atomic::Ordering::Relaxed)
    }
}
