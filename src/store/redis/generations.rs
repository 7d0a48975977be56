//! The life of a generation: begun beside the live one, switched to, and put out of use.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::RedisStore;
use super::change::{Change, Owner, retired};
use super::copying;
use super::described::{self, Described, Role, numbers};
use super::error::foreign;
use super::lease;
use super::ledger::Ledger;
use super::names::{Names, Spot, literal};
use super::open::check_catalog;
use super::pulse::Pulse;
use super::replica::{Home, Inside, RedisReplica};
use super::room;
use crate::domain::batch::Observed;
use crate::domain::catalog::Catalog;
use crate::store::{Completion, Rebuild, StoreError};

impl RedisReplica {
    /// Nothing is there: the first generation begins, in a dedicated Redis out of readers' sight.
    pub(super) fn create_first(
        &self,
        inside: &mut Inside,
        catalog: &Catalog,
    ) -> Result<Described, StoreError> {
        let home = &self.home;
        refuse_strangers(home, Spot::Live)?;
        let dedicated = home.settings.redis.dedicated;
        let spot = if dedicated { Spot::Elsewhere } else { Spot::Live };
        let mut remains = None;
        if dedicated {
            remains = home.described(spot)?;
            if remains.is_none() {
                refuse_strangers(home, spot)?;
            }
        }
        let number = remains.as_ref().map_or(1, |remains| remains.last.max(remains.number) + 1);
        home.took(remains.as_ref().map_or(0, |remains| remains.epoch) + 1);
        let names = home.names(spot);
        let mut change = Change::default().if_nobody(home.database(Spot::Live), &home.names(Spot::Live).meta);
        change = match &remains {
            None => change.if_nobody(home.database(spot), &names.meta),
            Some(remains) => {
                change.by(Owner { writer: None, ..home.owner(spot, remains.number, remains.role) })
            }
        };
        self.define(&mut change, spot, (number, Role::Live), (catalog, remains.as_ref()));
        change.set_fields(&names.meta, &[("last", number.to_string())]);
        change.run(&mut home.link(spot))?;
        (inside.live, inside.dropped) = (spot, Vec::new());
        home.described(spot)?.ok_or_else(|| super::error::lost("is gone (flushed while it was opened)"))
    }

    /// Writes the bookkeeping of a new generation; what was in its place is forgotten, apart from
    /// rows, which go slice by slice before the first new one is written.
    fn define(
        &self,
        change: &mut Change,
        spot: Spot,
        (number, role): (u32, Role),
        (catalog, remains): (&Catalog, Option<&Described>),
    ) {
        let home = &self.home;
        let names = home.names(spot);
        change.select(home.database(spot));
        if let Some(remains) = remains {
            for key in names.bookkeeping(&remains.catalog) {
                change.command(["UNLINK", &key]);
            }
        }
        change.set_fields(&names.meta, &described::fields(&home.settings, number, role, catalog));
        if remains.is_some() {
            change.set_fields(&names.meta, &[("clearing", "1".to_owned())]);
        }
        lease::own(home, change, spot);
    }

    /// See [`crate::store::Replica::start_over`].
    pub fn start_over(&self, catalog: Arc<Catalog>) -> Result<RedisStore, StoreError> {
        self.at(self.begin_again(catalog))
    }

    fn begin_again(&self, catalog: Arc<Catalog>) -> Result<RedisStore, StoreError> {
        {
            check_catalog(&catalog)?;
            let home = &self.home;
            let mut inside = home.inside();
            let live = home.live(&inside)?;
            let spot = inside.live;
            let number = live.last + 1;
            let mut change = Change::default().by(home.owner(spot, live.number, Role::Live));
            let mut dropped = live.dropped.clone();
            if spot == Spot::Live {
                change.select(home.database(spot));
                put_aside(home, &mut change, &live);
                dropped.push(live.number);
                self.define(&mut change, spot, (number, Role::Live), (&catalog, None));
            } else {
                self.define(&mut change, spot, (number, Role::Live), (&catalog, Some(&live)));
            }
            let fields = [("last", number.to_string()), ("dropped", numbers(&dropped))];
            change.set_fields(&home.names(spot).meta, &fields);
            change.run(&mut home.link(spot))?;
            inside.dropped = dropped;
            drop(inside);
            self.open_spot(catalog, spot)
        }
    }

    fn open_spot(&self, catalog: Arc<Catalog>, spot: Spot) -> Result<RedisStore, StoreError> {
        let described = self.home.described(spot)?;
        let described =
            described.ok_or_else(|| super::error::lost("is gone (flushed while it was opened)"))?;
        RedisStore::open_at(&self.home, catalog, (spot, described))
    }

    /// See [`crate::store::Replica::begin`].
    pub fn begin(
        &self,
        catalog: Arc<Catalog>,
        rebuild: &Rebuild,
    ) -> Result<Result<RedisStore, String>, StoreError> {
        let begin = || {
            check_catalog(&catalog)?;
            let home = &self.home;
            if home.inside().live == Spot::Elsewhere {
                // The first copy is where a second one would be.
                if rebuild.live_is_frozen {
                    return self.begin_again(Arc::clone(&catalog)).map(Ok);
                }
                let lack = "the first copy is being built in the database that a second one needs: ask again when \
                            it is whole";
                return Ok(Err(lack.into()));
            }
            if let Err(lack) = room::check(home)? {
                return Ok(Err(lack));
            }
            let mut inside = home.inside();
            self.put_next_out_of_use(&mut inside)?;
            let live = home.live(&inside)?;
            let number = live.last + 1;
            let spot = Spot::of_next(&home.settings.redis, number);
            let remains = if spot == Spot::Elsewhere { home.described(spot)? } else { None };
            if spot == Spot::Elsewhere && remains.is_none() {
                refuse_strangers(home, spot)?;
            }
            let mut change = Change::default().by(home.owner(inside.live, live.number, Role::Live));
            change.select(home.database(inside.live));
            // What was dropped there goes with the first slices of the new one.
            let mut dropped = live.dropped.clone();
            dropped.retain(|number| remains.as_ref().is_none_or(|remains| remains.number != *number));
            let fields =
                [("next", number.to_string()), ("last", number.to_string()), ("dropped", numbers(&dropped))];
            change.set_fields(&home.names(inside.live).meta, &fields);
            let carries_live = rebuild.live_is_frozen;
            let role = Role::Next { carries_live };
            self.define(&mut change, spot, (number, role), (&catalog, remains.as_ref()));
            let flag = |flag: bool| u8::from(flag).to_string();
            let fields = [
                ("reason", rebuild.reason.clone()),
                ("may_go_back", flag(rebuild.may_go_back)),
                ("accepts_loss", flag(rebuild.accepts_loss)),
                ("carries_live", flag(carries_live)),
            ];
            change.set_fields(&home.names(spot).meta, &fields);
            let from_live = carries_live && rebuild.from_live && {
                let known = Ledger::read(&mut home.link(inside.live), &home.names(inside.live), None)?;
                known.is_some_and(|(live, ledger)| copying::is_possible(&live, &ledger, &catalog))
            };
            if rebuild.from_live && !from_live {
                let lack = "the copy that serves does not have everything any more that the mapping asks for";
                return Ok(Err(lack.into()));
            }
            if from_live {
                change.set_fields(&home.names(spot).meta, &copying::begun());
            }
            change.run(&mut home.link(spot))?;
            copying::copy_books(home, &inside, spot)?;
            inside.dropped = dropped;
            inside.frozen = if rebuild.live_is_frozen { Some(home.read_frozen(inside.live)?) } else { None };
            home.rebuilding.store(true, Ordering::Release);
            drop(inside);
            self.open_spot(Arc::clone(&catalog), spot).map(Ok)
        };
        self.at(begin())
    }

    /// See [`crate::store::Replica::abandon`].
    pub fn abandon(&self) -> Result<(), StoreError> {
        self.home.turns.let_go();
        let abandoned = self.put_next_out_of_use(&mut self.home.inside());
        self.at(abandoned)
    }

    fn put_next_out_of_use(&self, inside: &mut Inside) -> Result<(), StoreError> {
        let home = &self.home;
        let live = home.live(inside)?;
        if let Some(number) = live.next {
            let mut change = Change::default().by(home.owner(inside.live, live.number, Role::Live));
            let mut dropped = live.dropped.clone();
            dropped.push(number);
            change.select(home.database(inside.live));
            let fields = [("next", String::new()), ("dropped", numbers(&dropped))];
            change.set_fields(&home.names(inside.live).meta, &fields);
            if let Some((spot, _)) = home.next(&live)? {
                change.select(home.database(spot));
                change.set_fields(&home.names(spot).meta, &[("role", Role::Dropped.name().to_owned())]);
            }
            change.run(&mut home.link(inside.live))?;
            inside.dropped = dropped;
        }
        inside.frozen = None;
        home.rebuilding.store(false, Ordering::Release);
        Ok(())
    }

    /// See [`crate::store::Replica::freeze`].
    pub fn freeze(&self, stopped: Option<&str>) -> Result<(), StoreError> {
        let freeze = || {
            let home = &self.home;
            let mut inside = home.inside();
            let mut frozen = home.read_frozen(inside.live)?;
            frozen.ledger.stopped = stopped.map(str::to_owned);
            let spot = inside.live;
            let mut change = Change::default().by(home.owner(spot, frozen.ledger.generation, Role::Live));
            change.select(home.database(spot));
            change.set_fields(&frozen.names.status, &frozen.fields());
            change.run(&mut home.link(spot))?;
            if inside.frozen.is_some() {
                inside.frozen = Some(frozen);
            }
            Ok(())
        };
        self.at(freeze())
    }
}

/// The bookkeeping of the live generation gives its names away, in the database that the change has
/// selected.
fn put_aside(home: &Home, change: &mut Change, live: &Described) {
    let (from, to) = (home.names(Spot::Live), home.names(Spot::Beside(live.number)));
    for (from, to) in from.bookkeeping(&live.catalog).iter().zip(to.bookkeeping(&live.catalog)) {
        change.command(["RENAME", from, &to]);
    }
    change
        .set_fields(&to.meta, &[("role", Role::Dropped.name())].map(|(name, role)| (name, role.to_owned())));
}

/// A new replica begins among no keys of its prefix: rows without bookkeeping would never go.
fn refuse_strangers(home: &Home, spot: Spot) -> Result<(), StoreError> {
    let redis = &home.settings.redis;
    let names = home.names(spot);
    let mut link = home.link(spot);
    if link.query::<u64>(&redis::cmd("DBSIZE"))? == 0 {
        return Ok(());
    }
    let pattern = format!("{}*", literal(&redis.prefix));
    let mut cursor = 0u64;
    loop {
        let (next, keys) = link.scan(&pattern, cursor, 5_000)?;
        // Of a build that has not begun to be written, or of one in the other database.
        let ours = [&names.lease, &names.alive, &names.status, &names.probe];
        if let Some(key) = keys.iter().find(|key| !ours.iter().any(|name| name.as_bytes() == key.as_slice()))
        {
            return Err(foreign(format!(
                "there is key {:?} in database {} but no replica; choose another replica.redis.prefix, or delete \
                 every key with this prefix",
                String::from_utf8_lossy(key),
                home.database(spot)
            )));
        }
        if next == 0 {
            return Ok(());
        }
        cursor = next;
    }
}

impl RedisStore {
    /// Makes this generation the live one, in one step: readers find the new rows, status and
    /// positions together. Refuses as long as a position would go back, and for good when the copy is
    /// suspiciously small.
    pub(super) fn switch(&mut self) -> Result<Completion, StoreError> {
        let home = Arc::clone(&self.home);
        let turn = home.turns.second();
        self.ready()?;
        if self.role == Role::Live {
            // The answer to an earlier attempt was lost.
            drop(turn);
            home.turns.let_go();
            return Ok(Completion::Done);
        }
        let heartbeat_ms = self.known_ledger()?.heartbeat_ms.unwrap_or(0);
        let observed = Observed { heartbeat_ms, connected: true, ..Observed::default() };
        let mut pulse = Pulse::new(&observed);
        self.finish_clearing(&mut pulse)?;
        self.finish_copying(&mut pulse)?;
        let mut inside = home.inside();
        let names = home.names(inside.live);
        let live = Ledger::read(&mut home.link(inside.live), &names, None)?;
        let (live, known) = live.ok_or_else(|| super::error::lost("is gone (flushed)"))?;
        let rules = self.rules_of_switch()?;
        let mut next = self.known_ledger()?.clone();
        {
            let (mine, theirs) = (next.standing(&self.catalog), known.standing(&live.catalog));
            if !rules.may_go_back && mine.is_behind(&theirs) {
                drop((inside, turn));
                home.turns.hold();
                return Ok(Completion::Behind);
            }
            if !rules.accepts_loss
                && let Some(reason) = mine.suspicious_loss(&theirs, self.settings.loss)
            {
                drop((inside, turn));
                home.turns.let_go();
                return Ok(Completion::Refused { reason });
            }
            self.floors = mine.floors(&theirs);
        }
        next.fresh_as_of_ms.extend(&self.floors.partitions);
        (next.complete, next.rebuilding, next.stopped) = (true, false, None);
        let switch = self.change_to_live(&inside, (&live, known.sequence), &next);
        self.in_flight = 1;
        switch.run(&mut self.link)?;
        self.in_flight = 0;
        self.sequence += 1;
        next.sequence = self.sequence;
        inside.dropped = live.dropped.clone();
        inside.dropped.push(live.number);
        inside.frozen = None;
        home.rebuilding.store(false, Ordering::Release);
        self.ledger = Some(next);
        self.become_live();
        drop((inside, turn));
        home.turns.let_go();
        Ok(Completion::Done)
    }

    /// As stored: a person may have said so meanwhile.
    fn rules_of_switch(&mut self) -> Result<Rebuild, StoreError> {
        match self.home.described(self.spot)? {
            Some(described) if described.number == self.generation => Ok(described.rebuild),
            _ => Err(retired(self.generation)),
        }
    }

    fn change_to_live(
        &self,
        inside: &Inside,
        (live, live_sequence): (&Described, u64),
        next: &Ledger,
    ) -> Change {
        let home = &self.home;
        let mine =
            Owner { sequence: Some(self.sequence), ..home.owner(self.spot, self.generation, self.role) };
        let theirs =
            Owner { sequence: Some(live_sequence), ..home.owner(inside.live, live.number, Role::Live) };
        let mut change = Change::default().by(mine).by(theirs);
        let names = Names::new(&self.settings.redis, Spot::Live, self.names.rows.clone());
        let database = home.database(Spot::Live);
        let beside = home.database(self.spot);
        let mut dropped = live.dropped.clone();
        dropped.push(live.number);
        // What somebody else has put there must not be found when half of it is done.
        for key in [&self.names.status, &self.names.partitions] {
            change.typed(beside, key, "hash");
        }
        if self.spot == Spot::Elsewhere {
            change.select(database);
            let old = home.names(Spot::Live);
            change.set_fields(&old.meta, &[("role", Role::Dropped.name().to_owned())]);
            change.command(["DEL", &old.lease, &old.alive]);
            change.select(beside);
        } else {
            change.select(database);
            put_aside(home, &mut change, live);
            let from = self.names.bookkeeping(&self.catalog);
            for (from, to) in from.iter().zip(names.bookkeeping(&self.catalog)) {
                change.command(["RENAME", from, &to]);
            }
        }
        let fields = [
            ("role", Role::Live.name().to_owned()),
            ("sequence", (self.sequence + 1).to_string()),
            ("built_at_ms", next.heartbeat_ms.unwrap_or(0).to_string()),
            ("last", live.last.max(self.generation).to_string()),
            ("dropped", numbers(&dropped)),
            ("next", String::new()),
            ("carries_live", "0".to_owned()),
        ];
        change.set_fields(&names.meta, &fields);
        change.set_fields(&names.status, &next.status_fields(&self.catalog, &names));
        let partitions: BTreeSet<_> = next.positions.keys().chain(next.fresh_as_of_ms.keys()).collect();
        let partitions = partitions
            .into_iter()
            .map(|at| (super::ledger::partition_field(&self.catalog, *at), next.partition_json(*at)));
        change.set_fields(&names.partitions, &partitions.collect::<Vec<_>>());
        lease::renew(home, &mut change);
        let limit = self.settings.heartbeat_limit_ms().to_string();
        if next.connected {
            change.command(["SET", &names.alive, &self.epoch().to_string(), "PX", &limit]);
        } else {
            change.command(["DEL", &names.alive]);
        }
        if self.spot == Spot::Elsewhere {
            change.command(["SWAPDB", &database.to_string(), &beside.to_string()]);
        }
        change
    }

    /// From now on this writes where readers look.
    pub(super) fn become_live(&mut self) {
        self.role = Role::Live;
        self.spot = Spot::Live;
        self.names = Names::new(&self.settings.redis, Spot::Live, self.names.rows.clone());
        self.tables = self
            .catalog
            .tables
            .iter()
            .map(|table| super::names::TableNames::new(&self.names, table))
            .collect();
        self.link.select(self.home.database(Spot::Live));
    }
}
