//! The replica that the configuration names, in SQLite or in Redis: the one place that chooses.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tracing::{info, warn};

use crate::config::{Config, RebuildPolicy, Target};
use crate::domain::batch::{Batch, Observed};
use crate::domain::catalog::Catalog;
use crate::domain::retry::{Backoff, RetryReason};
use crate::mapping;
use crate::pipeline::letters::letter_id;
use crate::pipeline::{Failure, pause};
use crate::store::{
    LETTERS_PER_PAGE_MAX, LetterFilter, LetterPage, LetterQuery, Live, LossLimit, Next, Reader, RedisReader,
    RedisReplica, RedisSettings, Replica, Settings, SqliteReader, SqliteReplica, Status, Store, StoreError,
    heartbeat_limit, redis_dead_letters, redis_status, sqlite_dead_letters, sqlite_status,
};

/// What the place of the configuration holds.
pub struct Found {
    pub replica: Box<dyn Replica>,
    pub serves: Serves,
    /// A generation that was being built beside the one that serves, to be gone on with.
    pub next: Option<(Box<dyn Store>, Next)>,
}

/// What readers see until another generation takes its place.
pub enum Serves {
    /// A copy under the mapping of now, or the first one.
    Live(Box<dyn Store>),
    /// A copy that nothing is to be applied to: it was built under this other mapping, or its log
    /// cannot be read on. The next one can be made of it unless that needs the log.
    Frozen { catalog: Arc<Catalog>, needs_log: bool },
}

impl Found {
    /// Opens it; what may go away (a full disk, a directory not mounted yet, a server that does not
    /// answer) is waited for. `None` when `goes_on` said no meanwhile.
    pub fn open(
        config: &Config,
        catalog: &Arc<Catalog>,
        goes_on: &dyn Fn() -> bool,
    ) -> Result<Option<Found>, Failure> {
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));
        loop {
            match Found::try_open(config, catalog) {
                Ok(found) => return Ok(Some(found)),
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

    fn try_open(config: &Config, catalog: &Arc<Catalog>) -> Result<Found, StoreError> {
        let replica = Place::of(config).open(config)?;
        let never = config.replica.rebuild_when_mapping_changes == RebuildPolicy::Never;
        let mut survey = replica.survey(catalog)?;
        if matches!(survey.live, Live::Changed { complete: true, .. }) && replica.adapt(catalog)? {
            info!("the mapping has changed, and the copy follows without reading the log");
            survey = replica.survey(catalog)?;
        }
        let serves = match survey.live {
            Live::Changed { complete: false, .. } if !never => {
                let store = replica.start_over(Arc::clone(catalog))?;
                return Ok(Found { replica, serves: Serves::Live(store), next: None });
            }
            Live::Changed { needs_log, .. } if !never || !needs_log => frozen(&*replica, needs_log)?,
            Live::Same if survey.next.as_ref().is_some_and(|next| next.same && next.live_is_frozen) => {
                frozen(&*replica, true)?
            }
            // Refuses another mapping.
            _ => Serves::Live(replica.open_live(Arc::clone(catalog))?),
        };
        let next = match survey.next {
            None => None,
            Some(next) if next.same => Some((replica.resume(Arc::clone(catalog))?, next)),
            Some(next) => {
                info!(generation = next.generation, "the mapping has changed again: dropping what was built");
                replica.abandon()?;
                None
            }
        };
        Ok(Found { replica, serves, next })
    }
}

fn frozen(replica: &dyn Replica, needs_log: bool) -> Result<Serves, StoreError> {
    match replica.live_catalog()? {
        Some(catalog) => Ok(Serves::Frozen { catalog: Arc::new(catalog), needs_log }),
        None => {
            Err(StoreError::Retry { reason: RetryReason::Io, message: "the replica has just gone".into() })
        }
    }
}

fn sqlite_settings(config: &Config) -> Settings {
    // Of a replica in Redis nobody asks.
    let wal_max_bytes = match &config.replica.target {
        Target::Sqlite(sqlite) => sqlite.max_wal_bytes,
        Target::Redis(_) => u64::MAX,
    };
    Settings {
        replica_name: config.replica.name.clone(),
        heartbeat_limit: heartbeat_limit(config.freshness.interval),
        dead_letter_bytes_max: config.dead_letters.max_bytes,
        loss: loss_limit(config),
        min_free_bytes: config.replica.rebuild.min_free_bytes,
        wal_max_bytes,
    }
}

fn loss_limit(config: &Config) -> LossLimit {
    let limits = config.replica.rebuild;
    LossLimit { max_share: limits.max_loss, min_rows: i64::try_from(limits.min_rows).unwrap_or(i64::MAX) }
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
                loss: loss_limit(config),
                min_free_bytes: config.replica.rebuild.min_free_bytes,
            })),
        }
    }

    /// Takes it for this process to write. Refuses (`Stop`) what belongs to somebody else.
    fn open(&self, config: &Config) -> Result<Box<dyn Replica>, StoreError> {
        Ok(match self {
            Place::Sqlite(path) => Box::new(SqliteReplica::open(path, sqlite_settings(config))?),
            Place::Redis(settings) => Box::new(RedisReplica::open(settings)?),
        })
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
/// nothing to ask. It is read without the mapping, so that it speaks whatever the mapping is now.
pub fn status_without_daemon(config: &Config, now_ms: i64) -> Option<Result<Status, StoreError>> {
    match Place::of(config) {
        Place::Sqlite(path) => path.exists().then(|| sqlite_status(&path, now_ms)),
        Place::Redis(settings) => Some(redis_status(&settings, now_ms)),
    }
}

/// A page of dead letters, from the replica itself; `None` where there is nothing to ask.
pub fn letters_without_daemon(
    config: &Config,
    query: &LetterQuery,
) -> Option<Result<LetterPage, StoreError>> {
    match Place::of(config) {
        Place::Sqlite(path) => path.exists().then(|| sqlite_dead_letters(&path, query)),
        Place::Redis(settings) => Some(redis_dead_letters(&settings, query)),
    }
}

/// Gives dead letters up where no daemon runs, as its writer; how many. Refused while a daemon holds
/// the replica, and for a replica under another mapping. `None` where there is no replica.
pub fn drop_without_daemon(
    config: &Config,
    filter: &LetterFilter,
    now_ms: i64,
) -> Option<Result<u64, StoreError>> {
    let catalog = Arc::new(mapping::catalog(config));
    let place = Place::of(config);
    if matches!(&place, Place::Sqlite(path) if !path.exists()) {
        return None;
    }
    let store = place.open(config).and_then(|replica| replica.open_live(Arc::clone(&catalog)));
    let reader = place.reader(&catalog);
    Some(store.and_then(|mut store| drop_all(&mut *store, &*reader, &catalog, filter, now_ms)))
}

fn drop_all(
    store: &mut dyn Store,
    reader: &dyn Reader,
    catalog: &Catalog,
    filter: &LetterFilter,
    now_ms: i64,
) -> Result<u64, StoreError> {
    let mut query =
        LetterQuery { filter: filter.clone(), after: None, limit: LETTERS_PER_PAGE_MAX, bytes: false };
    let mut dropped = 0;
    loop {
        let page = reader.dead_letters(&query)?;
        let ids = page.letters.iter().filter_map(|letter| letter_id(catalog, letter)).collect();
        // Nobody follows the log.
        let observed = Observed { heartbeat_ms: now_ms, connected: false, ..Observed::default() };
        dropped += store.apply(&Batch { dropped: ids, observed, ..Batch::default() })?.letters.dropped;
        match page.letters.last() {
            Some(last) if page.more => query.after = Some(last.cursor()),
            _ => return Ok(dropped),
        }
    }
}
