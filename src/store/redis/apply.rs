//! One batch: one atomic step, or a few where a table is truncated in its middle.

use std::collections::hash_map::Entry as Slot;
use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::Ordering;

use super::described::Role;
use super::error::damaged;
use super::known::{Known, Wanted};
use super::ledger::{Ledger, TableLedger, partition_field};
use super::names::{Spot, key_text};
use super::step::{Answer, Step, WORDS_MAX, WholeRow, WholeRows};
use super::{PIECE_ROWS, RedisStore, Unconfirmed};
use crate::domain::batch::{AfterGap, Batch, Entry, Step as Change};
use crate::domain::change::IfMissing;
use crate::domain::checkpoint::TopicPartition;
use crate::domain::row::RowState;
use crate::domain::value::Value;
use crate::domain::version::Version;
use crate::store::{Applied, StoreError, rules};

/// What is left to be done at the end of a batch, beside its rows.
type Finish<'f> = &'f dyn Fn(&RedisStore, &mut Step, &mut Ledger, &mut Applied);

impl RedisStore {
    pub(super) fn apply_batch(&mut self, batch: &Batch) -> Result<Applied, StoreError> {
        self.ready()?;
        let ledger = self.known_ledger()?;
        let there = |(at, to): (&TopicPartition, i64)| {
            ledger.positions.get(at).map(|position| position.next_offset) == Some(to)
        };
        if batch.id != 0
            && ledger.last_batch == batch.id
            && batch.advances.iter().all(|(at, advance)| there((at, advance.to.next_offset)))
        {
            return Ok(self.confirm(batch.id));
        }
        for (at, advance) in &batch.advances {
            let found = ledger.positions.get(at).map(|position| position.next_offset);
            if found != advance.from {
                let topic = &self.catalog.topics[at.topic];
                return Err(rules::another_writer(topic, at.partition, found, advance.from));
            }
        }
        self.check_identity(batch)?;
        self.finish_clearing()?;
        self.finish_copying(&batch.observed)?;
        self.finish_truncates(batch.observed.heartbeat_ms)?;

        let mut applied = Applied::default();
        let mut first = 0;
        for (nth, entry) in batch.entries.iter().enumerate() {
            let Change::Cut { ref prefix, version } = entry.step else {
                if matches!(entry.step, Change::Carry { .. } | Change::Snapshot(_) | Change::Sweep { .. }) {
                    return Err(damaged("a step", "a table"));
                }
                continue;
            };
            if !prefix.is_empty() {
                return Err(damaged("a prefix", "a table"));
            }
            if self.known_ledger()?.tables[entry.table].truncated >= Some(version) {
                applied.stale.push(nth);
                continue;
            }
            // What comes before it is joined again if the daemon dies before the positions move.
            self.apply_entries(batch, first..nth, &mut applied, None)?;
            first = nth + 1;
            self.begin_truncate(entry.table, version)?;
            self.finish_truncates(batch.observed.heartbeat_ms)?;
        }
        let letters = self.letters_of(batch)?;
        let finish = |store: &RedisStore, step: &mut Step, ledger: &mut Ledger, applied: &mut Applied| {
            store.move_letters((batch, &letters), step, ledger, applied);
            store.finish_batch(batch, step, ledger, applied);
        };
        self.apply_entries(batch, first..batch.entries.len(), &mut applied, Some(&finish))?;
        self.unconfirmed = None;
        self.floors.pass(&batch.observed.fresh_as_of_ms);
        Ok(applied)
    }

    /// The batch is in Redis, and its answer was lost.
    fn confirm(&mut self, id: u64) -> Applied {
        let kept = self.ledger.as_ref().map_or(0, |ledger| ledger.letters.len() as u64);
        match self.unconfirmed.take() {
            Some(last) if last.batch == id => Applied { dead_letters_kept: kept, ..last.applied },
            _ => Applied { dead_letters_kept: kept, ..Applied::default() },
        }
    }

    fn check_identity(&self, batch: &Batch) -> Result<(), StoreError> {
        let ledger = self.known_ledger()?;
        if let (Some(stored), Some(seen)) = (&ledger.cluster_id, &batch.observed.cluster_id)
            && stored != seen
        {
            return Err(rules::another_cluster(stored, seen));
        }
        for (topic, seen) in &batch.observed.topic_ids {
            if let Some(stored) = ledger.topic_ids.get(topic)
                && stored != seen
            {
                return Err(rules::another_topic(&self.catalog.topics[*topic], stored, seen));
            }
        }
        Ok(())
    }

    pub(super) fn apply_entries(
        &mut self,
        batch: &Batch,
        range: std::ops::Range<usize>,
        applied: &mut Applied,
        finish: Option<Finish<'_>>,
    ) -> Result<(), StoreError> {
        if range.is_empty() && finish.is_none() {
            return Ok(());
        }
        let mut tries = Tries::default();
        // A row found with versions per column is read and joined; it cannot be found so twice. What
        // is written in pieces may find one in each.
        for _ in 0..3 + range.len() / PIECE_ROWS {
            let part = Part { batch, range: range.clone(), finish };
            if self.try_entries(part, &mut tries, applied)? {
                return Ok(());
            }
        }
        Err(damaged("a row", "a table"))
    }

    /// False: entries have to be read first, and what is left has to be tried again.
    fn try_entries(
        &mut self,
        part: Part<'_>,
        tries: &mut Tries,
        applied: &mut Applied,
    ) -> Result<bool, StoreError> {
        let Part { batch, range, finish } = part;
        let catalog = self.catalog.clone();
        let ledger = self.known_ledger()?.clone();
        let mut outcome = applied.clone();
        let mut step = Step::default();
        let plan = self.sort_out(&ledger, batch, range, tries)?;
        let mut all = self.find(&plan.wanted, plan.hidden)?;
        let places: HashMap<(usize, Vec<u8>), usize> =
            all.iter().enumerate().map(|(nth, known)| ((known.table, known.key.clone()), nth)).collect();
        for &nth in &plan.joined {
            let entry = &batch.entries[nth];
            let shape = &catalog.tables[entry.table];
            let Some(values) = values_of(entry) else { continue };
            let Some(&place) = places.get(&(entry.table, key_text(shape, values))) else { continue };
            let truncated = ledger.tables[entry.table].truncated;
            match join(shape, truncated, &mut all[place], &entry.step) {
                Outcome::Changed => {}
                Outcome::Stale => outcome.stale.push(nth),
                Outcome::Ignored => outcome.missing_row.push(nth),
                Outcome::MissingRow(version) => {
                    let now_ms = batch.observed.heartbeat_ms;
                    outcome.dead_letters.push(rules::missing_row(entry.table, shape, version, now_ms));
                }
            }
        }
        outcome.stale.extend(plan.stale);

        let mut next = ledger;
        for known in &all {
            self.keep(&mut step, &mut next, known, batch.observed.heartbeat_ms)?;
        }
        step.whole = plan.whole;
        for (index, table) in next.tables.iter().enumerate() {
            if !step.whole.iter().any(|group| group.table == index) {
                let field = format!("{}.rows", catalog.tables[index].name);
                step.command([
                    b"HSET",
                    self.names.status.as_bytes(),
                    field.as_bytes(),
                    table.rows.to_string().as_bytes(),
                ]);
            }
        }
        if let Some(finish) = finish {
            finish(self, &mut step, &mut next, &mut outcome);
            self.unconfirmed = Some(Unconfirmed { batch: batch.id, applied: outcome.clone() });
        }
        let steps = in_pieces(step, next.complete);
        let last = self.run_all(&steps, next)?;
        let mut moved = false;
        for (step, answer) in steps.iter().zip(&last) {
            let rows = step.whole.iter().flat_map(|group| group.rows.iter().map(|row| (group.table, row)));
            match answer {
                Answer::Done(letters) => {
                    for ((table, whole), letter) in rows.zip(letters) {
                        tries.done.insert(whole.entry);
                        match letter {
                            b'i' => self.count_insert(table),
                            b's' => outcome.stale.push(whole.entry),
                            _ => {}
                        }
                    }
                }
                // Nothing was changed by it, nor by those behind it.
                Answer::Join(letters) => {
                    let joined = rows.zip(letters).filter(|(_, letter)| **letter == b'j');
                    tries.read_first.extend(joined.map(|((_, row), _)| row.entry));
                }
                Answer::Moved => moved = true,
            }
        }
        if moved {
            return Err(self.moved());
        }
        let is_done = last.len() == steps.len() && matches!(last.last(), Some(Answer::Done(_)));
        if is_done {
            outcome.stale.sort_unstable();
            outcome.missing_row.sort_unstable();
            *applied = outcome;
        } else {
            // What is tried again begins with what is known of those that are done.
            let known: BTreeSet<usize> = applied.stale.iter().copied().collect();
            let news = outcome.stale.into_iter();
            applied.stale.extend(news.filter(|entry| tries.done.contains(entry) && !known.contains(entry)));
        }
        Ok(is_done)
    }

    /// Decides for each entry whether the script can guard it or its row has to be read.
    fn sort_out<'b>(
        &mut self,
        ledger: &Ledger,
        batch: &'b Batch,
        range: std::ops::Range<usize>,
        tries: &Tries,
    ) -> Result<Plan<'b>, StoreError> {
        let catalog = self.catalog.clone();
        let mut plan = Plan::default();
        let entries = range.filter(|nth| !tries.done.contains(nth)).filter_map(|nth| {
            let entry = &batch.entries[nth];
            Some((nth, entry.table, key_text(&catalog.tables[entry.table], values_of(entry)?)))
        });
        let mut entries: Vec<(usize, usize, Vec<u8>)> = entries.collect();
        // Keys in the order of their first entries; mostly they have no other.
        let mut keys: Vec<SameKey> = Vec::with_capacity(entries.len());
        let mut places: HashMap<(usize, &[u8]), usize> = HashMap::with_capacity(entries.len());
        for (place, (nth, table, key)) in entries.iter().enumerate() {
            match places.entry((*table, key)) {
                Slot::Occupied(known) => keys[*known.get()].later.push(*nth),
                Slot::Vacant(slot) => {
                    slot.insert(keys.len());
                    keys.push(SameKey { place, later: Vec::new() });
                }
            }
        }
        let mut hidden = HashMap::new();
        if ledger.tables.iter().any(TableLedger::hidden) {
            let named = |key: &SameKey| (entries[key.place].1, &entries[key.place].2[..]);
            let listed: Vec<(usize, &[u8])> = keys.iter().map(named).collect();
            hidden = self.find_hidden(ledger, &listed)?;
        }
        let mut groups: HashMap<usize, Vec<WholeRow<'b>>> = HashMap::new();
        for (place, SameKey { place: first, later }) in keys.into_iter().enumerate() {
            let (nth, table, ref mut key) = entries[first];
            let key = std::mem::take(key);
            let shape = &catalog.tables[table];
            let hidden = hidden.remove(&place);
            if later.is_empty()
                && hidden.is_none()
                && shape.indexes.is_empty()
                && !tries.read_first.contains(&nth)
                && let Change::Row(row) = &batch.entries[nth].step
                && let Some(version) = row.version
                && !row.needs_details()
            {
                if ledger.tables[table].truncated >= Some(version) {
                    plan.stale.push(nth);
                    continue;
                }
                groups.entry(table).or_default().push(WholeRow { entry: nth, key, row, version });
                continue;
            }
            let Some(values) = values_of(&batch.entries[nth]) else { continue };
            if let Some(bytes) = hidden {
                plan.hidden.insert(plan.wanted.len(), bytes);
            }
            plan.wanted.push(Wanted { table, key, values });
            plan.joined.push(nth);
            plan.joined.extend(later);
        }
        plan.joined.sort_unstable();
        plan.whole = groups.into_iter().map(|(table, rows)| WholeRows { table, rows }).collect();
        plan.whole.sort_by_key(|group| group.table);
        Ok(plan)
    }

    /// Everything of a batch beside its rows.
    fn finish_batch(&self, batch: &Batch, step: &mut Step, ledger: &mut Ledger, applied: &mut Applied) {
        let catalog = &self.catalog;
        let text = |offset: Option<i64>| offset.map_or(String::new(), |offset| offset.to_string());
        let mut touched = BTreeSet::new();
        for (at, advance) in &batch.advances {
            let to = advance.to.next_offset.to_string();
            step.positions.push((partition_field(catalog, *at), text(advance.from), to));
            ledger.positions.insert(*at, advance.to.clone());
            touched.insert(*at);
        }
        if let Some(after) = &batch.after_gap {
            self.go_on(after, step, ledger);
        }
        let observed = &batch.observed;
        ledger.fresh_as_of_ms.retain(|at, _| !observed.freshness_lost.contains(at));
        touched.extend(&observed.freshness_lost);
        ledger.heartbeat_ms = Some(observed.heartbeat_ms);
        ledger.connected = observed.connected;
        for (at, fresh) in &observed.fresh_as_of_ms {
            // An older proof may have been on its way when another generation's was taken over.
            if let Some(fresh) = self.floors.raise(*at, *fresh) {
                ledger.fresh_as_of_ms.insert(*at, fresh);
            }
        }
        ledger.rebuilding = self.role == Role::Live && self.home.rebuilding.load(Ordering::Acquire);
        ledger.end_offsets.extend(&observed.end_offsets);
        touched.extend(observed.fresh_as_of_ms.keys().chain(observed.end_offsets.keys()));
        if let Some(reason) = &observed.stopped {
            ledger.stopped = Some(reason.clone()).filter(|reason| !reason.is_empty());
        }
        if ledger.cluster_id.is_none() {
            ledger.cluster_id.clone_from(&observed.cluster_id);
        }
        for (topic, id) in &observed.topic_ids {
            ledger.topic_ids.entry(*topic).or_insert_with(|| id.clone());
        }

        let partitions = touched.iter().map(|at| (partition_field(catalog, *at), ledger.partition_json(*at)));
        let partitions: Vec<_> = partitions.collect();
        step.typed(self.names.partitions.as_bytes(), "hash");
        step.set_fields(&self.names.partitions, partitions);

        for letter in batch.dead_letters.iter().chain(&applied.dead_letters) {
            self.keep_dead_letter(step, ledger, letter);
        }
        applied.dead_letters_kept = ledger.letters.len() as u64;
        for (topic, news) in &batch.event_ids {
            let key = self.names.event_ids(&catalog.topics[*topic]);
            step.typed(key.as_bytes(), "list");
            for ids in news.kept().chunks(WORDS_MAX) {
                let mut words = vec![b"RPUSH".to_vec(), key.clone().into_bytes()];
                words.extend(ids.iter().map(|id| id.to_bytes().to_vec()));
                step.commands.push(words);
            }
            let first = format!("-{}", news.window);
            step.command([b"LTRIM", key.as_bytes(), first.as_bytes(), b"-1"]);
        }
        step.set_fields(&self.names.status, ledger.status_fields(catalog, &self.names));
        ledger.last_batch = batch.id;
        step.batch = Some(batch.id);
        step.alive = match (self.role, self.spot) {
            // The live one, which goes on, says so itself.
            (Role::Next { carries_live: false }, Spot::Beside(_)) => None,
            _ => Some(observed.connected),
        };
        if self.role == (Role::Next { carries_live: true }) {
            step.carried = self.home.carry(self.spot, observed);
        }
    }

    fn go_on(&self, after: &AfterGap, step: &mut Step<'_>, ledger: &mut Ledger) {
        for at in &after.gone {
            ledger.positions.remove(at);
            ledger.fresh_as_of_ms.remove(at);
            ledger.end_offsets.remove(at);
            let field = partition_field(&self.catalog, *at);
            for key in [&self.names.positions, &self.names.partitions] {
                step.command([b"HDEL", key.as_bytes(), field.as_bytes()]);
            }
        }
        for (topic, id) in &after.topic_ids {
            ledger.topic_ids.insert(*topic, id.clone());
        }
        for topic in &after.forgotten_ids {
            let key = self.names.event_ids(&self.catalog.topics[*topic]);
            step.typed(key.as_bytes(), "list");
            step.command([b"DEL", key.as_bytes()]);
        }
        for table in &after.missing_events {
            ledger.tables[*table].missing_events = true;
        }
    }

    fn count_insert(&mut self, table: usize) {
        if let Some(ledger) = &mut self.ledger {
            ledger.tables[table].rows += 1;
        }
    }
}

/// What is known of entries from an attempt to write them.
#[derive(Default)]
struct Tries {
    /// Their rows have to be read before they are written.
    read_first: BTreeSet<usize>,
    /// Written, or found to be stale.
    done: BTreeSet<usize>,
}

/// A step as several that follow each other, where nobody sees the one without the other: only whole
/// rows of a copy that is being built. Everything else comes with the last.
fn in_pieces(mut step: Step<'_>, complete: bool) -> Vec<Step<'_>> {
    let mut pieces = Vec::new();
    if !complete {
        let mut piece = Step::default();
        for group in std::mem::take(&mut step.whole) {
            let mut rows = group.rows.into_iter().peekable();
            while rows.peek().is_some() {
                let room = PIECE_ROWS - piece.whole_rows();
                let some = rows.by_ref().take(room).collect();
                piece.whole.push(WholeRows { table: group.table, rows: some });
                if piece.whole_rows() == PIECE_ROWS {
                    pieces.push(std::mem::take(&mut piece));
                }
            }
        }
        step.whole = match piece.whole.is_empty() {
            true => pieces.pop().map(|piece: Step| piece.whole).unwrap_or_default(),
            false => piece.whole,
        };
    }
    pieces.push(step);
    pieces
}

/// Entries of a batch with the same key.
struct SameKey {
    /// Of the first, in the list that is sorted out.
    place: usize,
    /// The others, by their index in the batch.
    later: Vec<usize>,
}

/// Entries of a batch between two truncates.
struct Part<'p> {
    batch: &'p Batch,
    range: std::ops::Range<usize>,
    /// Only behind the last.
    finish: Option<Finish<'p>>,
}

#[derive(Default)]
struct Plan<'b> {
    whole: Vec<WholeRows<'b>>,
    /// Entries whose rows are read, in order.
    joined: Vec<usize>,
    wanted: Vec<Wanted<'b>>,
    /// By place in `wanted`.
    hidden: HashMap<usize, Vec<u8>>,
    /// Entries that a truncate has taken already.
    stale: Vec<usize>,
}

/// What became of a step.
enum Outcome {
    Changed,
    /// The replica had newer.
    Stale,
    /// A patch whose row is not there, and that may be forgotten.
    Ignored,
    /// A patch whose row is not there, and that may not.
    MissingRow(Version),
}

fn values_of(entry: &Entry) -> Option<&[Value]> {
    match &entry.step {
        Change::Row(row) | Change::PatchIfPresent { patch: row, .. } => Some(&row.values),
        Change::Tombstone { values, .. } => Some(values),
        _ => None,
    }
}

fn join(
    shape: &crate::domain::catalog::Table,
    truncated: Option<Version>,
    known: &mut Known,
    change: &Change,
) -> Outcome {
    let cut = |row: &RowState| {
        let mut row = row.clone();
        if let Some(mark) = truncated {
            row.truncate(shape, mark);
        }
        row
    };
    match change {
        Change::Row(row) => {
            if known.state.absorb(shape, cut(row)) {
                Outcome::Changed
            } else {
                Outcome::Stale
            }
        }
        Change::PatchIfPresent { patch, if_missing } => {
            let visible = known.state.is_visible(shape);
            let mut state = known.state.clone();
            // Stale comes first: a replay must not become a dead letter.
            if !state.absorb(shape, cut(patch)) {
                return Outcome::Stale;
            }
            if visible {
                known.state = state;
                return Outcome::Changed;
            }
            match (if_missing, patch.version) {
                (IfMissing::DeadLetter, Some(version)) => Outcome::MissingRow(version),
                _ => Outcome::Ignored,
            }
        }
        Change::Tombstone { at, .. } => {
            if known.state.bury(shape, *at) {
                Outcome::Changed
            } else {
                Outcome::Stale
            }
        }
        _ => Outcome::Stale,
    }
}
