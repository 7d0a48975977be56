//! The replica as a whole: whose it is, who writes it, and the generations in it.
//!
//! A process opens it once, as a [`RedisReplica`], and its generations from that: at most the live
//! one and the next. Both have a connection and a thread of their own; the lease, the writer's id and
//! the order in which they write are shared.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::change::{Change, Owner};
use super::described::{Described, Role};
use super::error::{at, foreign, lost};
use super::ledger::Ledger;
use super::link::Link;
use super::names::{Names, Spot, to_hex};
use super::open::{check_catalog, check_server, place};
use super::settings::RedisSettings;
use super::step::Carried;
use super::{RedisStore, copying, lease};
use crate::domain::batch::Observed;
use crate::domain::catalog::Catalog;
use crate::store::turns::Turns;
use crate::store::{Live, Next, Rebuild, Replica, Store, StoreError, Survey};

/// A replica in Redis, held by this process. See [`RedisStore`] for its generations.
#[derive(Clone)]
pub struct RedisReplica {
    pub(super) home: Arc<Home>,
}

/// What the generations of one replica share.
pub(super) struct Home {
    pub settings: RedisSettings,
    /// Of this process, as long as it holds the replica.
    pub writer: String,
    epoch: AtomicU64,
    pub turns: Turns,
    /// Another generation is being built beside the live one.
    pub rebuilding: AtomicBool,
    inside: Mutex<Inside>,
}

/// Held while generations are begun, switched, or put out of use.
pub(super) struct Inside {
    /// Where the live generation is: a first copy is built out of sight in a dedicated Redis.
    pub live: Spot,
    /// Numbers of generations that are out of use and not gone yet.
    pub dropped: Vec<u32>,
    /// What the live generation last said, while nothing else writes it.
    pub frozen: Option<FrozenLive>,
}

/// A generation that is served as it is, and for which another one's heartbeat counts.
#[derive(Clone)]
pub(super) struct FrozenLive {
    pub catalog: Catalog,
    pub names: Names,
    pub ledger: Ledger,
}

impl Home {
    pub fn inside(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    pub fn took(&self, epoch: u64) {
        self.epoch.store(epoch, Ordering::Release);
    }

    pub fn database(&self, spot: Spot) -> i64 {
        spot.database(&self.settings.redis)
    }

    pub fn link(&self, spot: Spot) -> Link {
        Link::new(&self.settings, self.database(spot))
    }

    /// Names whose rows are not asked for.
    pub fn names(&self, spot: Spot) -> Names {
        Names::new(&self.settings.redis, spot, String::new())
    }

    /// What is said of the generation that is in a spot; `None`: there is none.
    pub fn described(&self, spot: Spot) -> Result<Option<Described>, StoreError> {
        let mut link = self.link(spot);
        let fields = link.query(redis::cmd("HGETALL").arg(self.names(spot).meta))?;
        if std::collections::HashMap::is_empty(&fields) {
            Ok(None)
        } else {
            Described::parse(&fields).map(Some)
        }
    }

    /// This process, as the owner of a generation.
    pub fn owner(&self, spot: Spot, generation: u32, role: Role) -> Owner {
        Owner {
            database: self.database(spot),
            meta: self.names(spot).meta,
            writer: Some((self.writer.clone(), self.epoch())),
            generation,
            role: role.name(),
            sequence: None,
        }
    }

    /// The live generation, which has to be there.
    pub fn live(&self, inside: &Inside) -> Result<Described, StoreError> {
        self.described(inside.live)?
            .ok_or_else(|| lost("is gone (flushed, or restarted without persistence)"))
    }

    /// Where the next generation is and what is said of it, if one is being built.
    pub fn next(&self, live: &Described) -> Result<Option<(Spot, Described)>, StoreError> {
        let Some(number) = live.next else { return Ok(None) };
        let spot = Spot::of_next(&self.settings.redis, number);
        let found = self.described(spot)?;
        let is_next = |found: &Described| found.number == number && matches!(found.role, Role::Next { .. });
        Ok(found.filter(is_next).map(|found| (spot, found)))
    }

    /// What the live generation says, for whoever writes its heartbeat.
    pub fn read_frozen(&self, spot: Spot) -> Result<FrozenLive, StoreError> {
        let (described, mut ledger) = Ledger::read(&mut self.link(spot), &self.names(spot), None)?
            .ok_or_else(|| lost("is gone (flushed, or restarted without persistence)"))?;
        ledger.heartbeat_limit_ms = self.settings.heartbeat_limit_ms();
        let names = Names::new(&self.settings.redis, spot, described.rows);
        Ok(FrozenLive { catalog: described.catalog, names, ledger })
    }
}

impl FrozenLive {
    /// What readers find of it in its status.
    pub fn fields(&self) -> Vec<(String, String)> {
        self.ledger.status_fields(&self.catalog, &self.names)
    }
}

impl Home {
    /// Of the live generation.
    pub fn keep_lease(&self) -> Result<(), StoreError> {
        let inside = self.inside();
        let live = self.live(&inside)?;
        let mut change = Change::default().by(self.owner(inside.live, live.number, Role::Live));
        change.select(self.database(inside.live));
        lease::renew(self, &mut change);
        change.run(&mut self.link(inside.live))
    }

    /// What the heartbeat of the generation in `spot` says of the live one.
    pub fn carry(&self, spot: Spot, observed: &Observed) -> Option<Carried> {
        let mut inside = self.inside();
        let (there, here) = (self.database(inside.live), self.database(spot));
        let frozen = inside.frozen.as_mut()?;
        frozen.ledger.heartbeat_ms = Some(observed.heartbeat_ms);
        frozen.ledger.connected = observed.connected;
        if let Some(reason) = &observed.stopped {
            frozen.ledger.stopped = Some(reason.clone()).filter(|reason| !reason.is_empty());
        }
        Some(Carried {
            meta: frozen.names.meta.clone(),
            generation: frozen.ledger.generation,
            databases: (there != here).then_some((there, here)),
            status: frozen.names.status.clone(),
            alive: frozen.names.alive.clone(),
            fields: frozen.fields(),
        })
    }
}

impl Drop for Home {
    /// The next writer need not wait, and readers see that nobody follows the log. What a dead
    /// process leaves behind expires.
    fn drop(&mut self) {
        lease::give_back(self);
    }
}

impl RedisReplica {
    /// Takes the replica, which need not exist. Refuses (`Stop`) a server that evicts keys, a replica
    /// of another name or layout, and one that another process writes; waits until the lease of a
    /// writer that died has expired, at most [`RedisSettings::heartbeat_limit`].
    pub fn open(settings: &RedisSettings) -> Result<RedisReplica, StoreError> {
        let open = || {
            check_server(&mut Link::new(settings, i64::from(settings.redis.url.database)))?;
            let home = Home {
                settings: settings.clone(),
                writer: to_hex(&RandomState::new().build_hasher().finish().to_be_bytes()),
                epoch: AtomicU64::new(0),
                turns: Turns::default(),
                rebuilding: AtomicBool::new(false),
                inside: Mutex::new(Inside { live: Spot::Live, dropped: Vec::new(), frozen: None }),
            };
            let replica = RedisReplica { home: Arc::new(home) };
            replica.take()?;
            Ok(replica)
        };
        at(&place(settings), open())
    }

    /// Takes the lease of what is there.
    fn take(&self) -> Result<(), StoreError> {
        let home = &self.home;
        let mut inside = home.inside();
        for spot in [Spot::Live, Spot::Elsewhere] {
            if spot == Spot::Elsewhere && !home.settings.redis.dedicated {
                continue;
            }
            let Some(epoch) = lease::take(home, spot)? else { continue };
            home.took(epoch);
            let Some(described) = home.described(spot)? else { continue };
            if described.role == Role::Dropped {
                // It is in nobody's way until something is built there.
                continue;
            }
            if described.role != Role::Live {
                // The copy that it was to replace has gone: it is the first one now.
                let mut change = Change::default().by(home.owner(spot, described.number, described.role));
                change.select(home.database(spot));
                let meta = home.names(spot).meta;
                change.set_fields(
                    &meta,
                    &[("role", Role::Live.name().to_owned()), ("carries_live", "0".into())],
                );
                change.run(&mut home.link(spot))?;
            }
            inside.live = spot;
            inside.dropped = described.dropped.clone();
            home.rebuilding.store(described.next.is_some(), Ordering::Release);
            return Ok(());
        }
        Ok(())
    }

    pub fn survey(&self, catalog: &Catalog) -> Result<Survey, StoreError> {
        self.at(self.look(catalog))
    }

    fn look(&self, catalog: &Catalog) -> Result<Survey, StoreError> {
        let home = &self.home;
        let inside = home.inside();
        let Some(live) = home.described(inside.live)?.filter(|live| live.role == Role::Live) else {
            return Ok(Survey { live: Live::Same, next: None });
        };
        let next = home.next(&live)?.map(|(_, next)| Next {
            generation: next.number,
            same: next.is_under(catalog, &home.settings),
            reason: next.rebuild.reason.clone(),
            may_go_back: next.rebuild.may_go_back,
            live_is_frozen: next.rebuild.live_is_frozen,
        });
        if live.is_under(catalog, &home.settings) {
            return Ok(Survey { live: Live::Same, next });
        }
        let status = home.names(inside.live).status;
        let complete: Option<String> =
            home.link(inside.live).query(redis::cmd("HGET").arg(status).arg("complete"))?;
        let complete = inside.live == Spot::Live && complete.as_deref() == Some("1");
        let known = Ledger::read(&mut home.link(inside.live), &home.names(inside.live), None)?;
        let needs_log = !known.is_some_and(|(live, ledger)| copying::is_possible(&live, &ledger, catalog));
        let tables = live.differing(catalog, &home.settings);
        Ok(Survey { live: Live::Changed { tables, complete, needs_log }, next })
    }

    /// Opens the live generation, or makes the first one. See [`Replica::open_live`].
    pub fn open_live(&self, catalog: Arc<Catalog>) -> Result<RedisStore, StoreError> {
        let open = || {
            check_catalog(&catalog)?;
            let home = &self.home;
            let mut inside = home.inside();
            match home.described(inside.live)?.filter(|live| live.role == Role::Live) {
                Some(live) if !live.is_under(&catalog, &home.settings) => {
                    Err(another_mapping(&live, &catalog, &home.settings))
                }
                Some(live) => {
                    let spot = inside.live;
                    drop(inside);
                    RedisStore::open_at(home, catalog, (spot, live))
                }
                None => {
                    let live = self.create_first(&mut inside, &catalog)?;
                    let spot = inside.live;
                    drop(inside);
                    RedisStore::open_at(home, catalog, (spot, live))
                }
            }
        };
        self.at(open())
    }

    /// Goes on with a generation that an earlier process began. See [`Replica::resume`].
    pub fn resume(&self, catalog: Arc<Catalog>) -> Result<RedisStore, StoreError> {
        let resume = || {
            let home = &self.home;
            let mut inside = home.inside();
            let live = home.live(&inside)?;
            let Some((spot, next)) = home.next(&live)? else {
                return Err(lost("has no half-built generation any more"));
            };
            let mut change = Change::default()
                .by(home.owner(inside.live, live.number, Role::Live))
                .by(Owner { writer: None, ..home.owner(spot, next.number, next.role) });
            change.select(home.database(spot));
            lease::own(home, &mut change, spot);
            change.run(&mut home.link(spot))?;
            copying::copy_books(home, &inside, spot)?;
            if next.rebuild.live_is_frozen {
                inside.frozen = Some(home.read_frozen(inside.live)?);
            }
            home.rebuilding.store(true, Ordering::Release);
            drop(inside);
            RedisStore::open_at(home, catalog, (spot, next))
        };
        self.at(resume())
    }

    pub(super) fn at<T>(&self, result: Result<T, StoreError>) -> Result<T, StoreError> {
        at(&place(&self.home.settings), result)
    }
}

impl Replica for RedisReplica {
    fn survey(&self, catalog: &Catalog) -> Result<Survey, StoreError> {
        self.survey(catalog)
    }

    fn live_catalog(&self) -> Result<Option<Catalog>, StoreError> {
        let live = self.home.described(self.home.inside().live);
        self.at(live.map(|live| live.map(|live| live.catalog)))
    }

    /// Rows would have to be written anew, one by one, before the eyes of readers: see
    /// [`Rebuild::from_live`].
    fn adapt(&self, _: &Catalog) -> Result<bool, StoreError> {
        Ok(false)
    }

    fn open_live(&self, catalog: Arc<Catalog>) -> Result<Box<dyn Store>, StoreError> {
        Ok(Box::new(self.open_live(catalog)?))
    }

    fn start_over(&self, catalog: Arc<Catalog>) -> Result<Box<dyn Store>, StoreError> {
        Ok(Box::new(self.start_over(catalog)?))
    }

    fn begin(
        &self,
        catalog: Arc<Catalog>,
        rebuild: &Rebuild,
    ) -> Result<Result<Box<dyn Store>, String>, StoreError> {
        Ok(self.begin(catalog, rebuild)?.map(|store| Box::new(store) as Box<dyn Store>))
    }

    fn resume(&self, catalog: Arc<Catalog>) -> Result<Box<dyn Store>, StoreError> {
        Ok(Box::new(self.resume(catalog)?))
    }

    fn abandon(&self) -> Result<(), StoreError> {
        self.abandon()
    }

    fn freeze(&self, stopped: Option<&str>) -> Result<(), StoreError> {
        self.freeze(stopped)
    }

    fn lacks_room(&self) -> Result<Option<String>, StoreError> {
        self.at(super::room::lack(&self.home))
    }

    fn keep(&self) -> Result<(), StoreError> {
        self.at(self.home.keep_lease())
    }

    fn let_go(&self) {
        lease::give_back(&self.home);
    }
}

/// For a replica that is not to be rebuilt.
fn another_mapping(live: &Described, catalog: &Catalog, settings: &RedisSettings) -> StoreError {
    let again = "or delete every key with its prefix to build it anew";
    if live.encoding != settings.redis.encoding {
        return foreign(format!(
            "its rows are kept as {}: set replica.redis.encoding to that, {again}",
            live.encoding.name()
        ));
    }
    let tables = live.differing(catalog, settings).join(", ");
    if live.catalog.fingerprint == catalog.fingerprint
        && live.rows == super::names::rows_of(&settings.redis, live.number)
    {
        return foreign(format!("it was built with other indexes of {tables}: restore them, {again}"));
    }
    let of = if tables.is_empty() { String::new() } else { format!(" of {tables}") };
    foreign(format!("it was built under another mapping{of}: restore the mapping, {again}"))
}
