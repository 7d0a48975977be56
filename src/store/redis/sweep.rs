//! What is left of generations that are out of use: it goes in slices.

use std::sync::Arc;

use super::RedisStore;
use super::change::{Change, Owner};
use super::described::{Described, Role, numbers};
use super::link::Link;
use super::names::{Names, Spot, literal};
use super::pulse::Pulse;
use super::replica::Home;
use crate::store::{StopCode, StoreError};

/// Keys that one slice looks at.
const SLICE: usize = 1_000;
/// Keys that one script removes: freeing a large string takes ten microseconds.
const REMOVED_AT_ONCE: usize = 200;

/// A generation on its way out.
pub(super) struct Sweep {
    number: u32,
    spot: Spot,
    link: Link,
    names: Names,
    described: Described,
    /// What the names of its rows and index entries begin with.
    begins: Vec<Vec<u8>>,
    cursor: u64,
}

impl Sweep {
    /// `None`: nothing of it is left.
    fn of(home: &Home, number: u32) -> Result<Option<Sweep>, StoreError> {
        let redis = &home.settings.redis;
        for spot in [Spot::Beside(number), Spot::Elsewhere] {
            if spot == Spot::Elsewhere && !redis.dedicated {
                continue;
            }
            let found = home.described(spot)?;
            let Some(described) = found.filter(|it| it.number == number && it.role == Role::Dropped) else {
                continue;
            };
            let rows = described.rows.clone();
            let tables = described.catalog.tables.iter();
            let begins = tables
                .flat_map(|table| [":", "@"].map(|mark| format!("{rows}{}{mark}", table.name).into_bytes()));
            return Ok(Some(Sweep {
                number,
                spot,
                link: home.link(spot),
                begins: begins.collect(),
                names: Names::new(redis, spot, rows),
                described,
                cursor: 0,
            }));
        }
        Ok(None)
    }

    /// Only as long as nothing else has begun in its place.
    fn change(&self, home: &Home) -> Change {
        let owner = home.owner(self.spot, self.number, Role::Dropped);
        Change::default().by(Owner { writer: None, ..owner })
    }

    /// True when there is more.
    fn slice(&mut self, home: &Home) -> Result<bool, StoreError> {
        let pattern = format!("{}*", literal(&self.names.rows));
        // After a failure it begins again: the server may be another process, to which the cursor of
        // the last means nothing.
        let cursor = std::mem::take(&mut self.cursor);
        let (next, keys) = self.link.scan(&pattern, cursor, SLICE)?;
        let theirs = |key: &&Vec<u8>| self.begins.iter().any(|begin| key.starts_with(begin));
        let theirs: Vec<&Vec<u8>> = keys.iter().filter(theirs).collect();
        let theirs: Vec<Vec<u8>> = theirs.into_iter().cloned().collect();
        for keys in theirs.chunks(REMOVED_AT_ONCE) {
            let mut change = self.change(home);
            change.command(std::iter::once(&b"UNLINK"[..]).chain(keys.iter().map(|key| key.as_slice())));
            change.run(&mut self.link)?;
        }
        if next == 0 {
            let mut change = self.change(home);
            for key in self.names.bookkeeping(&self.described.catalog) {
                change.command(["UNLINK", &key]);
            }
            change.run(&mut self.link)?;
        }
        self.cursor = next;
        Ok(next != 0)
    }
}

impl RedisStore {
    /// Frees a little of what a generation that is out of use holds. True when there may be more.
    pub(super) fn sweep_slice(&mut self) -> Result<bool, StoreError> {
        let home = Arc::clone(&self.home);
        let Some(number) = home.inside().dropped.first().copied() else {
            self.sweep = None;
            return Ok(false);
        };
        if self.sweep.as_ref().is_none_or(|sweep| sweep.number != number) {
            self.sweep = Sweep::of(&home, number)?;
        }
        let more = match &mut self.sweep {
            None => false,
            Some(sweep) => match sweep.slice(&home) {
                // Another generation has begun in its place, and clears it first; or somebody was
                // faster.
                Err(StoreError::Stop { exit: StopCode::Retired | StopCode::Lost, .. }) => false,
                sliced => sliced?,
            },
        };
        if !more {
            self.sweep = None;
            self.forget_dropped(number)?;
        }
        Ok(true)
    }

    fn forget_dropped(&self, number: u32) -> Result<(), StoreError> {
        let home = &self.home;
        let mut inside = home.inside();
        if !inside.dropped.contains(&number) {
            return Ok(());
        }
        let live = home.live(&inside)?;
        let mut dropped = inside.dropped.clone();
        dropped.retain(|known| *known != number);
        let mut change = Change::default().by(home.owner(inside.live, live.number, Role::Live));
        change.select(home.database(inside.live));
        change.set_fields(&home.names(inside.live).meta, &[("dropped", numbers(&dropped))]);
        change.run(&mut home.link(inside.live))?;
        inside.dropped = dropped;
        Ok(())
    }

    /// Rows of an earlier generation that are in the place of this one go before it gets its first.
    pub(super) fn finish_clearing(&mut self, pulse: &mut Pulse<'_>) -> Result<(), StoreError> {
        if !self.clearing {
            return Ok(());
        }
        let keep = format!("{}readside:", self.names.prefix).into_bytes();
        let pattern = format!("{}*", literal(&self.names.prefix));
        let mut cursor = 0;
        loop {
            self.beat(pulse)?;
            let (next, keys) = self.link.scan(&pattern, cursor, SLICE)?;
            let keys: Vec<&Vec<u8>> = keys.iter().filter(|key| !key.starts_with(&keep)).collect();
            // The rows that are to come may have the same names: a change that was given up must not
            // run among them.
            let owner = self.home.owner(self.spot, self.generation, self.role);
            let owned = || Change::default().by(Owner { sequence: Some(self.sequence), ..owner.clone() });
            for keys in keys.chunks(REMOVED_AT_ONCE) {
                let mut change = owned();
                change.command(std::iter::once(&b"UNLINK"[..]).chain(keys.iter().map(|key| key.as_slice())));
                change.run(&mut self.link)?;
            }
            if next == 0 {
                let mut change = owned();
                change.command(["HDEL", &self.names.meta, "clearing"]);
                change.run(&mut self.link)?;
                self.clearing = false;
                return Ok(());
            }
            cursor = next;
        }
    }
}
