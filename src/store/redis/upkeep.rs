//! The end of the first copy, and what has to be done between batches.

use std::sync::Arc;
use std::time::Instant;

use super::RedisStore;
use super::change::Change;
use super::codec;
use super::described::Role;
use super::error::{damaged, foreign};
use super::ledger::{Ledger, TableLedger};
use super::names::{Listed, Spot};
use super::step::{Answer, Replica, Step, WORDS_MAX};
use crate::domain::row::RowState;
use crate::domain::value::Value;
use crate::domain::version::VersionKind;
use crate::store::{Figures, Maintenance, StoreError, rules};

/// Hidden rows looked at in one housekeeping, over all tables.
const HIDDEN_PER_CALL: usize = 5_000;
/// Rows read in search of a version, of those that one scan finds.
const KEYS_TRIED: usize = 10;

impl RedisStore {
    pub(super) fn count_in(&self, step: &mut Step, ledger: &Ledger, table: usize) {
        let name = &self.catalog.tables[table].name;
        let counts = &ledger.tables[table];
        let all = std::iter::once(("rows", counts.rows)).chain(counts.counts());
        let fields = all.map(|(what, count)| (format!("{name}.{what}"), count.to_string()));
        step.set_fields(&self.names.status, fields.collect());
    }

    /// Writes what readers may know of a replica that was just opened, and leaves this sequence.
    pub(super) fn show_status(&mut self, sequence: u64) -> Result<Answer, StoreError> {
        let next = self.known_ledger()?.clone();
        let mut step = Step::default();
        step.leaves = Some(sequence);
        step.set_fields(&self.names.status, self.shown(&next));
        self.run(&step, next)
    }

    /// Readers look at the live database, where nothing else is while the first copy is built.
    pub(super) fn show_elsewhere(&mut self) -> Result<(), StoreError> {
        if !self.is_elsewhere() {
            return Ok(());
        }
        let fields = self.shown(self.known_ledger()?);
        let mut link = self.home.link(Spot::Live);
        link.query(redis::cmd("HSET").arg(&self.names.status).arg(fields))
    }

    fn shown(&self, ledger: &Ledger) -> Vec<(String, String)> {
        let mut fields = ledger.status_fields(&self.catalog, &self.names);
        for (shape, table) in self.catalog.tables.iter().zip(&ledger.tables) {
            fields.push((format!("{}.rows", shape.name), table.rows.to_string()));
        }
        fields
    }

    pub(super) fn finish_first_copy(&mut self) -> Result<(), StoreError> {
        self.ready()?;
        let mut next = self.known_ledger()?.clone();
        if !next.complete {
            next.complete = true;
            let built = next.heartbeat_ms.unwrap_or(0).to_string();
            let mut step = Step::default();
            step.command([b"HSET", self.names.meta.as_bytes(), b"built_at_ms", built.as_bytes()]);
            step.set_fields(&self.names.status, next.status_fields(&self.catalog, &self.names));
            self.do_it(&step, next)?;
        }
        if self.is_elsewhere() {
            self.exchange()?;
        }
        Ok(())
    }

    /// Puts the database that was built in the place of the live one. Clients that are connected to
    /// it see the new keys at once.
    fn exchange(&mut self) -> Result<(), StoreError> {
        let home = Arc::clone(&self.home);
        let mut inside = home.inside();
        let (live, built) = (home.database(Spot::Live), home.database(self.spot));
        let mut change = Change::default()
            .by(home.owner(self.spot, self.generation, self.role))
            .if_nobody(live, &self.names.meta);
        change.select(live);
        // What readers saw of the build.
        change.command(["DEL", &self.names.status, &self.names.lease, &self.names.alive]);
        change.command(["SWAPDB", &live.to_string(), &built.to_string()]);
        change.run(&mut self.link)?;
        inside.live = Spot::Live;
        self.become_live();
        Ok(())
    }

    pub(super) fn is_elsewhere(&self) -> bool {
        self.role == Role::Live && self.spot == Spot::Elsewhere
    }

    /// Renews the lease, which also tells whether the replica is still ours, and drops old marks.
    pub(super) fn keep_up(&mut self, now_ms: i64) -> Result<Maintenance, StoreError> {
        let home = Arc::clone(&self.home);
        let turn = match self.role {
            Role::Live => home.turns.first(),
            _ => home.turns.second(),
        };
        self.ready()?;
        let ledger = self.known_ledger()?.clone();
        self.do_it(&Step::default(), ledger)?;
        let mut left = HIDDEN_PER_CALL;
        let mut dropped = 0;
        for table in 0..self.tables.len() {
            dropped += self.drop_marks(table, now_ms, &mut left)?;
            dropped += self.drop_prefix_marks(table, now_ms, &mut left)?;
        }
        drop(turn);
        // The first writer tidies up, or the only one.
        let tidies = matches!(self.role, Role::Live | Role::Next { carries_live: true });
        let more = tidies && self.sweep_slice()?;
        Ok(Maintenance { delete_marks_dropped: dropped, more, ..Maintenance::default() })
    }

    fn drop_marks(&mut self, table: usize, now_ms: i64, left: &mut usize) -> Result<u64, StoreError> {
        let mut dropped = 0;
        let Some(before_ms) = self.marks_before_ms(table, now_ms)? else { return Ok(0) };
        while *left > 0 && self.known_ledger()?.tables[table].marks > 0 {
            let mut next = self.known_ledger()?.clone();
            let (cursor, rows) = self.scan_hidden(table, self.cursors[table].marks)?;
            *left = left.saturating_sub(rows.len().max(1));
            let old = |bytes: &[u8]| codec::mark_made_at(bytes).is_some_and(|made| made < before_ms);
            let old: Vec<Vec<u8>> =
                rows.into_iter().filter(|(_, bytes)| old(bytes)).map(|(key, _)| key).collect();
            if !old.is_empty() {
                next.tables[table].marks -= old.len() as i64;
                dropped += old.len() as u64;
                let mut step = Step::default();
                for keys in old.chunks(WORDS_MAX) {
                    let mut words = vec![b"HDEL".to_vec(), self.tables[table].hidden.clone().into_bytes()];
                    words.extend_from_slice(keys);
                    step.commands.push(words);
                }
                if !self.catalog.tables[table].prefixes.is_empty() {
                    let members = old.iter().map(|key| Listed::Row.member(key));
                    step.listed(&self.tables[table].keys).left.extend(members);
                }
                self.count_in(&mut step, &next, table);
                self.do_it(&step, next)?;
            }
            self.cursors[table].marks = cursor;
            if cursor == 0 {
                break;
            }
        }
        Ok(dropped)
    }

    fn drop_prefix_marks(&mut self, table: usize, now_ms: i64, left: &mut usize) -> Result<u64, StoreError> {
        let mut dropped = 0;
        let Some(before_ms) = self.marks_before_ms(table, now_ms)? else { return Ok(0) };
        while *left > 0 && self.known_ledger()?.tables[table].prefix_marks > 0 {
            let key = self.tables[table].cleared.clone();
            let (cursor, marks) = self.scan_hash(&key, self.cursors[table].prefix_marks)?;
            *left = left.saturating_sub(marks.len().max(1));
            // What is still being taken away is known by its mark.
            let cutting = self.known_ledger()?.tables[table].cutting.clone();
            let old = |(text, bytes): &(Vec<u8>, Vec<u8>)| {
                cutting.as_ref() != Some(text)
                    && codec::from_mark(bytes).is_some_and(|(_, made)| made < before_ms)
            };
            let old: Vec<Vec<u8>> = marks.into_iter().filter(old).map(|(text, _)| text).collect();
            dropped += old.len() as u64;
            self.forget_marks(table, old)?;
            self.cursors[table].prefix_marks = cursor;
            if cursor == 0 {
                break;
            }
        }
        Ok(dropped)
    }

    fn marks_before_ms(&mut self, table: usize, now_ms: i64) -> Result<Option<i64>, StoreError> {
        let shape = &self.catalog.clone().tables[table];
        let counts = &self.known_ledger()?.tables[table];
        if counts.marks + counts.prefix_marks == 0 {
            return Ok(None);
        }
        let letter = self.oldest_letter_ms(shape)?;
        let fresh = self.known_ledger()?.log().fresh_as_of(&shape.topics);
        Ok(rules::marks_before_ms(shape, fresh, letter, now_ms))
    }

    pub(super) fn measure(&mut self) -> Figures {
        let Some(ledger) = self.ledger.as_ref() else { return Figures::default() };
        let count =
            |of: fn(&TableLedger) -> i64| ledger.tables.iter().map(|table| of(table).max(0) as u64).collect();
        let mut figures = Figures {
            rows: count(|table| table.rows),
            held: count(|table| table.held),
            delete_marks: count(|table| table.marks + table.prefix_marks),
            dead_letters: ledger.letters_by_topic(&self.catalog),
            ..Figures::default()
        };
        // Of the whole server: nothing cheaper knows what a prefix takes.
        let info: Result<String, StoreError> = self.link.query(redis::cmd("INFO").arg("memory"));
        let used = |info: String| {
            info.lines().find_map(|line| line.strip_prefix("used_memory_dataset:")?.trim().parse().ok())
        };
        figures.replica_bytes = info.ok().and_then(used);
        figures
    }

    /// The kind of version of any row or mark of a table.
    pub(super) fn version_kind(&mut self, table: usize) -> Result<Option<VersionKind>, StoreError> {
        self.ready()?;
        let counts = self.known_ledger()?.tables[table].clone();
        if counts.hidden() {
            let (_, rows) = self.scan_hidden(table, 0)?;
            let shape = &self.catalog.tables[table];
            if let Some((_, bytes)) = rows.into_iter().next() {
                let values = vec![Value::Absent; shape.columns.len()];
                return Ok(kind(&codec::unhide(shape, values, &bytes)?.0));
            }
        }
        if counts.rows == 0 {
            return if self.copying { self.kind_to_come(table) } else { Ok(None) };
        }
        let (mut cursor, mut told) = (0u64, Instant::now());
        loop {
            self.keep_lease(&mut told)?;
            let (next, keys) = self.scan_rows(table, cursor)?;
            let keys: Vec<(usize, &[u8])> =
                keys.iter().take(KEYS_TRIED).map(|key| (table, &key[..])).collect();
            if let Some(row) = self.read_rows(&keys)?.into_iter().flatten().next() {
                return Ok(kind(&row));
            }
            // They may have been counted wrong, which keeps nobody from going on.
            if next == 0 {
                return Ok(None);
            }
            cursor = next;
        }
    }

    /// Runs a step; afterwards `next` is what Redis has.
    pub(super) fn run(&mut self, step: &Step, next: Ledger) -> Result<Answer, StoreError> {
        let answers = self.run_all(std::slice::from_ref(step), next)?;
        answers.into_iter().next().ok_or_else(|| damaged("the answer of a script", "a step"))
    }

    /// Runs steps that follow each other; once the last is done, `next` is what Redis has. There are
    /// answers up to the first that is not done.
    pub(super) fn run_all(&mut self, steps: &[Step], next: Ledger) -> Result<Vec<Answer>, StoreError> {
        if next.sequence != self.sequence {
            return Err(foreign("the bookkeeping is not in step".into()));
        }
        self.in_flight = steps.len() as u64;
        let replica = Replica {
            names: &self.names,
            tables: &self.tables,
            catalog: &self.catalog,
            settings: &self.settings,
            form: self.form,
            role: self.role,
            ledger: &next,
        };
        let answers = Step::run(steps, &mut self.link, replica)?;
        self.in_flight = 0;
        let mut heard = Vec::with_capacity(answers.len());
        for (step, answer) in steps.iter().zip(answers) {
            // Those before it are done, and known to be once the bookkeeping is read again.
            let answer = answer?;
            if let Answer::Done(_) = answer {
                self.sequence = step.leaves.unwrap_or(self.sequence + 1);
            }
            heard.push(answer);
        }
        if heard.len() == steps.len() && matches!(heard.last(), Some(Answer::Done(_))) {
            self.ledger = Some(Ledger { sequence: self.sequence, ..next });
        } else if let Some(ledger) = &mut self.ledger {
            ledger.sequence = self.sequence;
        }
        Ok(heard)
    }

    /// A step that nothing stands in the way of.
    pub(super) fn do_it(&mut self, step: &Step, next: Ledger) -> Result<(), StoreError> {
        match self.run(step, next)? {
            Answer::Done(_) => Ok(()),
            Answer::Moved => Err(self.moved()),
            Answer::Join(_) => Err(damaged("a row", "a table")),
        }
    }
}

fn kind(row: &RowState) -> Option<VersionKind> {
    row.newest().map(|version| version.kind())
}
