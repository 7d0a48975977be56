//! A generation that serves as it is: under a mapping or a log that is not the one of now.

use std::time::{Duration, Instant};

use crate::admin;
use crate::config::{Config, Gate};
use crate::domain::checkpoint::TopicPartition;
use crate::domain::state::Facts;
use crate::metrics::Sizes;
use crate::pipeline::progress::{Loops, Progress, Shared};
use crate::store::{Status, heartbeat_limit};

/// How often its figures are published.
const LOOK_EVERY: Duration = Duration::from_millis(500);

pub struct Frozen {
    pub serving: admin::Context,
    pub generation: u32,
    /// Its positions mean nothing in the log of now; see [`crate::store::Rebuild::may_go_back`].
    pub may_go_back: bool,
    heartbeat_limit: Duration,
    looked: Option<Instant>,
}

impl Frozen {
    /// A copy that this process has not written to. The start-up gate opens as it would for one that
    /// is: at once if the copy is young enough, unless the configuration wants it caught up.
    pub fn new(
        config: &Config,
        serving: admin::Context,
        (generation, may_go_back): (u32, bool),
        now_ms: i64,
    ) -> Frozen {
        let mut frozen = Frozen::going_on(config, serving, generation, may_go_back);
        if let Some(status) = frozen.look(now_ms) {
            let oldest = now_ms - config.startup.max_age.as_millis() as i64;
            let young = status.complete && status.fresh_as_of_ms.is_some_and(|at| at >= oldest);
            if young && config.startup.gate != Gate::CaughtUp {
                frozen.serving.progress.open_gate();
            }
        }
        frozen
    }

    /// A copy whose pipeline has just ended.
    pub fn going_on(config: &Config, serving: admin::Context, generation: u32, may_go_back: bool) -> Frozen {
        let heartbeat_limit = heartbeat_limit(config.freshness.interval);
        Frozen { serving, generation, may_go_back, heartbeat_limit, looked: None }
    }

    /// Looks at the replica again with the next round.
    pub fn look_soon(&mut self) {
        self.looked = None;
    }

    /// Publishes what the replica says of itself, now and then. `building` tells how far the
    /// generation is that will take its place; its threads are the ones that have to be alive.
    pub fn keep_up(&mut self, building: Option<&Progress>, now_ms: i64) {
        let nobody = Loops { pipeline_ms: now_ms, writer_ms: now_ms, in_store: false };
        self.serving.progress.tick_as(building.map_or(nobody, Progress::loops));
        if self.looked.is_some_and(|at| at.elapsed() < LOOK_EVERY) {
            return;
        }
        // Those of its own pipeline's rounds.
        self.serving.metrics.forget_open_transactions();
        match building.map(|building| building.read(Shared::clone)) {
            Some(Shared { build, connected, store_failing, open_transactions, .. }) => {
                self.serving.metrics.kafka_connected(connected);
                self.serving.metrics.store_connected(store_failing.is_none());
                self.serving.progress.update(|shared| {
                    shared.build = build;
                    shared.connected = connected;
                    shared.store_failing = store_failing;
                    shared.open_transactions = open_transactions;
                });
            }
            // Nobody asks the brokers.
            None => {
                self.serving.metrics.kafka_connected(false);
                self.serving.progress.update(|shared| {
                    shared.connected = false;
                    shared.open_transactions.clear();
                });
            }
        }
        self.look(now_ms);
    }

    fn look(&mut self, now_ms: i64) -> Option<Status> {
        self.looked = Some(Instant::now());
        // It is read again soon.
        let status = self.serving.reader.status(now_ms).ok()?;
        let connected = self.serving.progress.read(|shared| shared.connected);
        let mut rows = Vec::new();
        for (index, table) in status.tables.iter().enumerate() {
            rows.push(table.rows);
            let facts = Facts {
                stopped: status.stopped.is_some(),
                complete: table.complete,
                connected,
                heartbeat_ms: Some(self.serving.progress.last_tick_ms()),
                heartbeat_limit_ms: self.heartbeat_limit.as_millis() as i64,
                fresh_as_of_ms: table.fresh_as_of_ms,
                max_staleness_ms: table.max_staleness_ms,
                missing_events: table.missing_events,
                rebuilding: table.rebuilding,
            };
            self.serving.metrics.facts(index, facts);
        }
        self.serving.metrics.sizes(Sizes {
            rows: &rows,
            held: &[],
            delete_marks: &[],
            replica_bytes: None,
            wal_bytes: None,
        });
        for position in status.positions.iter().filter(|at| at.generation == self.generation) {
            let Ok(topic) = self.serving.catalog.topics.binary_search(&position.topic) else { continue };
            let at = TopicPartition { topic, partition: position.partition };
            self.serving.metrics.partition(
                at,
                position.next_offset,
                position.end_offset,
                position.fresh_as_of_ms,
            );
            self.serving.progress.update(|shared| {
                shared.positions.insert(at, position.next_offset);
            });
        }
        let stopped = status.stopped.clone();
        self.serving.progress.update(|shared| shared.stopped = stopped);
        Some(status)
    }
}
