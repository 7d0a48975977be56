//! The replica that the configuration names, in SQLite or in Redis: the one place that chooses.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::warn;

use crate::config::{Config, Target};
use crate::domain::catalog::Catalog;
use crate::domain::checkpoint::Checkpoint;
use crate::domain::retry::Backoff;
use crate::domain::version::VersionKind;
use crate::mapping::Plan;
use crate::pipeline::{Context, Failure, Writer, start_writer};
use crate::store::{
    Reader, RedisReader, RedisSettings, RedisStore, Settings, SqliteReader, SqliteStore, Status, Store,
    StoreError, heartbeat_limit, sqlite_status,
};

/// A replica that is open for writing.
pub enum Replica {
    Sqlite(Box<SqliteStore>),
    Redis(Box<RedisStore>),
}

impl Replica {
    /// Opens it; what may go away (a full disk, a directory not mounted yet, a server that does not
    /// answer) is waited for. `None` when `goes_on` said no meanwhile.
    pub fn open(
        config: &Config,
        catalog: &Arc<Catalog>,
        goes_on: &dyn Fn() -> bool,
    ) -> Result<Option<Replica>, Failure> {
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));
        loop {
            match Replica::try_open(config, catalog) {
                Ok(replica) => return Ok(Some(replica)),
                Err(StoreError::Retry { message, .. }) => {
                    if backoff.attempts() == 0 {
                        warn!(error = %message, "the replica cannot be opened; trying again");
                    }
                    if !pause(backoff.next(0), goes_on) {
                        return Ok(None);
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn try_open(config: &Config, catalog: &Arc<Catalog>) -> Result<Replica, StoreError> {
        let catalog = Arc::clone(catalog);
        Ok(match Place::of(config) {
            Place::Sqlite(path) => {
                let settings = Settings {
                    replica_name: config.replica.name.clone(),
                    heartbeat_limit: heartbeat_limit(config.freshness.interval),
                    dead_letter_bytes_max: config.dead_letters.max_bytes,
                };
                Replica::Sqlite(Box::new(SqliteStore::open(&path, catalog, settings)?))
            }
            Place::Redis(settings) => Replica::Redis(Box::new(RedisStore::open(&settings, catalog)?)),
        })
    }

    pub fn checkpoint(&mut self) -> Result<Checkpoint, StoreError> {
        match self {
            Replica::Sqlite(store) => store.checkpoint(),
            Replica::Redis(store) => store.checkpoint(),
        }
    }

    /// The mapping, with the kind of versions that each table has seen so far.
    pub fn plan(&mut self, config: &Config) -> Result<Plan, StoreError> {
        let mut plan = Plan::compile(config);
        for (table, kind) in self.version_kinds()?.into_iter().enumerate() {
            if let Some(kind) = kind {
                plan.set_version_kind(table, kind);
            }
        }
        Ok(plan)
    }

    fn version_kinds(&mut self) -> Result<Vec<Option<VersionKind>>, StoreError> {
        match self {
            Replica::Sqlite(store) => store.version_kinds(),
            Replica::Redis(store) => store.version_kinds(),
        }
    }

    /// Gives it to the thread that will own it.
    pub fn start_writer(self, context: Context) -> std::io::Result<Writer> {
        match self {
            Replica::Sqlite(store) => start_writer(*store, context),
            Replica::Redis(store) => start_writer(*store, context),
        }
    }
}

/// Sleeps in slices; false as soon as `goes_on` says no.
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

/// Where a replica is, with what it takes to read it.
#[derive(Debug, Clone)]
pub enum Place {
    Sqlite(PathBuf),
    Redis(Box<RedisSettings>),
}

impl Place {
    pub fn of(config: &Config) -> Place {
        match &config.replica.target {
            Target::Sqlite(sqlite) => Place::Sqlite(sqlite.path.clone()),
            Target::Redis(redis) => Place::Redis(Box::new(RedisSettings {
                redis: redis.clone(),
                replica_name: config.replica.name.clone(),
                heartbeat_limit: heartbeat_limit(config.freshness.interval),
                dead_letter_bytes_max: config.dead_letters.max_bytes,
            })),
        }
    }

    pub fn reader(&self, catalog: &Arc<Catalog>) -> Arc<dyn Reader> {
        let catalog = Arc::clone(catalog);
        match self {
            Place::Sqlite(path) => Arc::new(SqliteReader::new(path, catalog)),
            Place::Redis(settings) => Arc::new(RedisReader::new(settings, catalog)),
        }
    }
}

/// What the replica itself says about itself, for when no daemon answers; `None` where there is
/// nothing to ask. A file is read without the mapping, so that it speaks whatever the mapping is now.
pub fn status_without_daemon(config: &Config, now_ms: i64) -> Option<Result<Status, StoreError>> {
    match Place::of(config) {
        Place::Sqlite(path) => path.exists().then(|| sqlite_status(&path, now_ms)),
        place @ Place::Redis(_) => {
            let catalog = Arc::clone(Plan::compile(config).catalog());
            Some(place.reader(&catalog).status(now_ms))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[test]
    fn a_wait_ends_when_it_was_told_to_stop() {
        let stop = Arc::new(AtomicBool::new(false));
        let goes_on = |stop: &AtomicBool| !stop.load(Ordering::Relaxed);
        assert!(pause(Duration::from_millis(1), &|| goes_on(&stop)));
        let waiting = {
            let stop = Arc::clone(&stop);
            std::thread::spawn(move || pause(Duration::from_secs(3_600), &|| goes_on(&stop)))
        };
        stop.store(true, Ordering::Relaxed);
        assert!(!waiting.join().unwrap());
    }
}
