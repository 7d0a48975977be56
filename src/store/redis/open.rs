//! Opening: whether the server can keep a replica, whose it is, and who writes it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tracing::info;

use super::change::{self, Change};
use super::codec::{Form, RESERVED};
use super::described::{self, Described, Role};
use super::error::{foreign, lost, overtaken, rival};
use super::ledger::Ledger;
use super::link::Link;
use super::names::{Names, Spot, TableNames};
use super::payload::Payload;
use super::prepared::Prepared;
use super::replica::{Home, RedisReplica};
use super::settings::RedisSettings;
use super::settings::RowEncoding;
use super::step::Answer;
use super::{Cursors, HiddenMet, RedisStore};
use crate::domain::catalog::{Catalog, Table};
use crate::store::rules::Floors;
use crate::store::{StopCode, StoreError};

/// The first version whose scripts can be refused as a whole when memory is out.
const REDIS_MIN: u32 = 7;

pub(super) fn place(settings: &RedisSettings) -> String {
    format!("{} ({}*)", settings.redis.url, settings.redis.prefix)
}

/// Names that readside needs for itself.
pub(super) fn check_catalog(catalog: &Catalog) -> Result<(), StoreError> {
    if let Some(table) = catalog.tables.iter().find(|table| table.name == "readside") {
        return Err(foreign(format!(
            "table {:?} would have the keys of readside's bookkeeping; rename it",
            table.name
        )));
    }
    let reserved = |table: &&Table| table.columns.iter().any(|column| column.name == RESERVED);
    if let Some(table) = catalog.tables.iter().find(reserved) {
        return Err(foreign(format!(
            "column {RESERVED:?} of table {:?} would have the name of the version's field; rename it",
            table.name
        )));
    }
    Ok(())
}

/// Version and eviction, which no replica survives.
pub(super) fn check_server(link: &mut Link) -> Result<String, StoreError> {
    let (server, memory): (String, String) =
        link.pipe(redis::pipe().cmd("INFO").arg("server").cmd("INFO").arg("memory"))?;
    let value = |info: &str, name: &str| {
        info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':').map(str::to_owned))
    };
    let version = value(&server, "redis_version").unwrap_or_default();
    if version
        .split('.')
        .next()
        .and_then(|major| major.parse().ok())
        .is_some_and(|major: u32| major < REDIS_MIN)
    {
        return Err(foreign(format!("Redis {version} is too old; readside needs {REDIS_MIN}.0 or newer")));
    }
    match value(&memory, "maxmemory_policy").as_deref() {
        None | Some("noeviction") => Ok(version),
        Some(policy) => Err(foreign(format!(
            "maxmemory-policy {policy} lets Redis drop keys of the replica; set it to noeviction, or use another \
             Redis"
        ))),
    }
}

/// How rows are to be written: `RESTORE` only if this server makes of a payload what it should.
fn find_form(link: &mut Link, settings: &RedisSettings, names: &Names) -> Result<Form, StoreError> {
    if settings.redis.encoding == RowEncoding::Json {
        return Ok(Form::Json);
    }
    let long = "x".repeat(100);
    let fields = [("_v", "\u{1}v"), ("id", "-70000"), ("name", "a"), ("empty", ""), ("long", &long)];
    let mut bytes = Vec::new();
    let mut payload = Payload::new(&mut bytes);
    for text in fields.iter().flat_map(|(name, value)| [name, value]) {
        payload.push(text.as_bytes());
    }
    payload.finish();
    let mut pipe = redis::pipe();
    pipe.cmd("RESTORE").arg(&names.probe).arg(1_000).arg(bytes).arg("REPLACE").ignore();
    pipe.cmd("HGETALL").arg(&names.probe);
    pipe.cmd("DEL").arg(&names.probe).ignore();
    let tried: Result<(HashMap<String, String>,), StoreError> = link.pipe(&pipe);
    match tried {
        Ok((found,)) if found == HashMap::from(fields.map(|(name, value)| (name.into(), value.into()))) => {
            Ok(Form::Restore)
        }
        // Nothing that the server said of the payload: it is not there, or has no memory.
        Err(StoreError::Retry { reason, message }) => Err(StoreError::Retry { reason, message }),
        found => {
            info!(?found, "rows are written with HSET: this Redis does not take them with RESTORE");
            Ok(Form::Fields)
        }
    }
}

impl RedisStore {
    /// Opens or creates the replica for its live generation.
    pub fn open(settings: &RedisSettings, catalog: Arc<Catalog>) -> Result<RedisStore, StoreError> {
        RedisReplica::open(settings)?.open_live(catalog)
    }

    /// Of a generation that is there and ours to write.
    pub(super) fn open_at(
        home: &Arc<Home>,
        catalog: Arc<Catalog>,
        (spot, described): (Spot, Described),
    ) -> Result<RedisStore, StoreError> {
        let settings = &home.settings;
        let mut link = home.link(spot);
        let names = Names::new(&settings.redis, spot, described.rows);
        let (_, ledger) = Ledger::read(&mut link, &names, Some(&catalog))?
            .ok_or_else(|| lost("is gone (flushed while it was opened)"))?;
        let form = find_form(&mut link, settings, &names)?;
        if described.catalog != *catalog {
            // Settings that change no row.
            let owner = home.owner(spot, described.number, described.role);
            let mut change = Change::default().by(owner);
            change.set_fields(&names.meta, &[("catalog", described::as_text(&catalog))]);
            change.run(&mut link)?;
        }
        let tables: Vec<_> = catalog.tables.iter().map(|table| TableNames::new(&names, table)).collect();
        let begins = tables.iter().map(|names| names.row.clone()).collect();
        let mut store = RedisStore {
            home: Arc::clone(home),
            generation: described.number,
            role: described.role,
            spot,
            form,
            prepared: Arc::new(Prepared::new(catalog.clone(), form, begins)),
            hidden_met: HiddenMet::default(),
            tables,
            names,
            settings: settings.clone(),
            link,
            cursors: vec![Cursors::default(); catalog.tables.len()],
            catalog,
            ledger: None,
            sequence: ledger.sequence,
            in_flight: 0,
            unconfirmed: None,
            clearing: described.clearing,
            copying: described.copying.is_some(),
            floors: Floors::default(),
            sweep: None,
        };
        store.settle(ledger)?;
        Ok(store)
    }

    /// Makes sure that what is kept in memory is what Redis has. After a lost connection the
    /// bookkeeping is read again, and must be as it was left, or further by the steps whose answers
    /// were lost.
    pub(super) fn ready(&mut self) -> Result<(), StoreError> {
        if self.ledger.is_some() && self.link.is_connected() {
            return Ok(());
        }
        self.ledger = None;
        if !self.link.is_connected() {
            // It may be another server, or another one's configuration.
            check_server(&mut self.link)?;
        }
        let (spot, ledger) = self.locate()?;
        if spot != self.spot {
            // The answer to the exchange of databases or names was lost.
            let mut inside = self.home.inside();
            inside.live = Spot::Live;
            inside.frozen = None;
            inside.dropped = self.home.live(&inside)?.dropped;
            self.home.rebuilding.store(false, Ordering::Release);
            drop(inside);
            self.become_live();
        }
        let further = self.in_flight;
        if ledger.epoch < self.epoch()
            || ledger.sequence < self.sequence
            || ledger.sequence > self.sequence + further
        {
            return Err(lost("went back to an older state (restored or failed over)"));
        }
        self.settle(ledger)
    }

    /// Where this generation is now, with its bookkeeping; or why it is nowhere.
    pub(super) fn locate(&mut self) -> Result<(Spot, Ledger), StoreError> {
        let mut spots = vec![self.spot];
        if self.spot != Spot::Live {
            spots.push(Spot::Live);
        }
        let (mut anything, mut retired) = (false, false);
        for spot in spots {
            let names = Names::new(&self.settings.redis, spot, String::new());
            let catalog = Some(&*self.catalog);
            let found = if self.home.database(spot) == self.link.database() {
                Ledger::read(&mut self.link, &names, catalog)?
            } else {
                Ledger::read(&mut self.home.link(spot), &names, catalog)?
            };
            let Some((described, ledger)) = found else { continue };
            let mine = described.number == self.generation;
            let newer = described.number > self.generation;
            if (mine || spot == Spot::Live)
                && (described.epoch > self.epoch()
                    || described.epoch == self.epoch() && described.writer != self.home.writer)
            {
                return Err(rival());
            }
            let role = if spot == self.spot { self.role } else { Role::Live };
            if mine && described.role.name() == role.name() {
                return Ok((spot, ledger));
            }
            anything = true;
            retired |= newer || mine && described.role == Role::Dropped;
        }
        Err(match (retired, anything) {
            (true, _) => change::retired(self.generation),
            (false, false) => lost("is gone (flushed, or restarted without persistence)"),
            (false, true) => lost("went back to an older state (restored or failed over)"),
        })
    }

    /// Why a step found something else than this generation.
    pub(super) fn moved(&mut self) -> StoreError {
        self.ledger = None;
        match self.ready() {
            Err(error) => error,
            // This one is where it was: the live one beside it is not.
            Ok(()) => lost("has lost the copy that serves (flushed, restored, or changed by somebody else)"),
        }
    }

    /// Shows what was read. A step that was given up may still be on its way, over the connection that
    /// it was sent on: Redis reads a large command piece by piece, and others in between. Behind this
    /// none of them finds the sequence that it expects, whichever would be the next.
    fn settle(&mut self, ledger: Ledger) -> Result<(), StoreError> {
        let (heard, further) = (self.sequence, self.in_flight);
        self.sequence = ledger.sequence;
        self.ledger = Some(Ledger {
            replica: self.settings.replica_name.clone(),
            heartbeat_limit_ms: self.settings.heartbeat_limit_ms(),
            rebuilding: self.role == Role::Live && self.home.rebuilding.load(Ordering::Acquire),
            ..ledger
        });
        let error = match self.show_status(heard + further + 1) {
            Ok(Answer::Done(_)) => return self.show_elsewhere(),
            // One of them came in between: the next look finds what it did.
            Ok(_) | Err(StoreError::Stop { exit: StopCode::Lost, .. }) => overtaken(),
            Err(error) => error,
        };
        self.sequence = heard;
        self.in_flight += further;
        Err(error)
    }
}
