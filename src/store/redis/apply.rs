//! One batch: one atomic step, or a few where many rows are taken away in its middle.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::atomic::Ordering;

use super::described::Role;
use super::error::damaged;
use super::join::{Joining, Outcome};
use super::ledger::{Ledger, partition_field, snapshot_field};
use super::names::prefix_text;
use super::plan::{Cuts, Stretch, Then};
use super::prepared::Spoken;
use super::pulse::Pulse;
use super::step::{Answer, Step, WORDS_MAX, WholeRows};
use super::{PIECE_ROWS, RedisStore, Unconfirmed};
use crate::domain::batch::{AfterGap, Batch, Entry, Step as Change};
use crate::domain::checkpoint::TopicPartition;
use crate::store::{Applied, StoreError, Swept, rules};

/// What is left to be done at the end of a batch, beside its rows.
type Finish<'f> = &'f dyn Fn(&RedisStore, &mut Step, &mut Ledger, &mut Applied);

impl RedisStore {
    pub(super) fn apply_batch(&mut self, batch: &Batch) -> Result<Applied, StoreError> {
        self.floors.forget(&batch.observed.freshness_lost);
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
        let mut pulse = Pulse::new(&batch.observed);
        self.finish_clearing(&mut pulse)?;
        self.finish_copying(&mut pulse)?;
        self.finish_cuts(&mut pulse)?;

        let mut applied = Applied::default();
        let (mut first, mut swept) = (0, None);
        loop {
            let Stretch { range, cuts, then } = self.stretch(batch, first, swept.is_some())?;
            first = range.end;
            let part = Part { batch, range, cuts, swept: swept.take(), finish: None };
            if then == Then::Finish {
                let letters = self.letters_of(batch)?;
                let finish =
                    |store: &RedisStore, step: &mut Step, ledger: &mut Ledger, applied: &mut Applied| {
                        store.move_letters((batch, &letters), step, ledger, applied);
                        store.give_way((batch, &letters), step, ledger, applied);
                        store.finish_batch(batch, step, ledger, applied);
                    };
                self.apply_part(&Part { finish: Some(&finish), ..part }, &mut applied)?;
                break;
            }
            // What comes before it is joined again if the daemon dies before the positions move.
            self.apply_part(&part, &mut applied)?;
            match then {
                Then::Cut(nth) => {
                    first = nth + 1;
                    if let Change::Cut { prefix, version } = &batch.entries[nth].step
                        && !self.cut_away(batch.entries[nth].table, (prefix, *version), &mut pulse)?
                    {
                        applied.stale.push(nth);
                    }
                }
                Then::Sweep(nth) => swept = Some(self.sweep_entry(batch, nth, &mut pulse)?),
                Then::GoOn | Then::Finish => {}
            }
        }
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

    fn sweep_entry(
        &mut self,
        batch: &Batch,
        nth: usize,
        pulse: &mut Pulse<'_>,
    ) -> Result<SweptEntry, StoreError> {
        let entry = &batch.entries[nth];
        let swept = match entry.step {
            Change::Sweep(sweep) => self.sweep_ghosts(entry.table, sweep, pulse)?,
            _ => None,
        };
        Ok((nth, swept))
    }

    /// Rows of another generation, as the entries of a batch.
    pub(super) fn apply_rows(&mut self, batch: &Batch) -> Result<(), StoreError> {
        let range = 0..batch.entries.len();
        let part = Part { batch, range, cuts: Cuts::default(), swept: None, finish: None };
        self.apply_part(&part, &mut Applied::default())
    }

    fn apply_part(&mut self, part: &Part<'_>, applied: &mut Applied) -> Result<(), StoreError> {
        if part.range.is_empty() && part.finish.is_none() {
            return Ok(());
        }
        let mut tries = Tries::default();
        // What the script cannot join by itself is read first the next time; it cannot be found so twice.
        loop {
            let known = tries.known();
            if self.try_part(part, &mut tries, applied)? {
                return Ok(());
            }
            if tries.known() == known {
                return Err(damaged("a row", "a table"));
            }
        }
    }

    /// False: entries have to be read first, and what is left has to be tried again.
    fn try_part(
        &mut self,
        part: &Part<'_>,
        tries: &mut Tries,
        applied: &mut Applied,
    ) -> Result<bool, StoreError> {
        let batch = part.batch;
        let now_ms = batch.observed.heartbeat_ms;
        let catalog = self.catalog.clone();
        let ledger = self.known_ledger()?.clone();
        let mut outcome = applied.clone();
        let mut step = Step::default();
        let Spoken { keys, others, bytes } = self.spoken(part, tries);
        let plan = self.sort_out(&ledger, (batch, tries), (keys, others, &bytes))?;
        let known = self.find(&plan.wanted, plan.hidden)?;
        let cut = part.range.clone().filter_map(|nth| match &batch.entries[nth] {
            Entry { table, step: Change::Cut { prefix, .. }, .. } => Some((*table, prefix_text(prefix))),
            _ => None,
        });
        let texts = plan.wanted.iter().map(|wanted| (wanted.table, wanted.key.clone())).chain(cut);
        let marks = self.read_marks(texts, &part.cuts)?;
        let mut joining = Joining::new(&catalog, known, marks, ledger.tables.clone());
        for &nth in &plan.joined {
            let entry = &batch.entries[nth];
            if let Some((of, Some(swept))) = &part.swept
                && *of == nth
            {
                joining.swept(swept);
                outcome.swept.push(swept.clone());
                continue;
            }
            match joining.step(entry) {
                Outcome::Changed => {}
                Outcome::Stale => outcome.stale.push(nth),
                Outcome::Ignored => outcome.missing_row.push(nth),
                Outcome::MissingRow(version) => {
                    let shape = &catalog.tables[entry.table];
                    outcome.dead_letters.push(rules::missing_row(entry.table, shape, version, now_ms));
                }
            }
        }
        outcome.stale.extend(plan.stale);

        let before = ledger.tables.clone();
        let Joining { known, marks, tables, .. } = joining;
        let mut next = Ledger { tables, ..ledger };
        for known in &known {
            self.keep(&mut step, &mut next, known, now_ms)?;
        }
        marks.keep(&self.tables, &mut step, &mut next, now_ms);
        step.whole = plan.whole;
        for (index, table) in next.tables.iter().enumerate() {
            let name = &catalog.tables[index].name;
            let mut fields = Vec::new();
            // The script counts what it inserts.
            match step.whole.iter_mut().find(|group| group.table == index) {
                Some(group) => group.joined = table.rows - before[index].rows,
                None => fields.push((format!("{name}.rows"), table.rows.to_string())),
            }
            if part.finish.is_none() && before[index].counts() != table.counts() {
                let counts = table.counts().into_iter();
                fields.extend(counts.map(|(what, count)| (format!("{name}.{what}"), count.to_string())));
            }
            step.set_fields(&self.names.status, fields);
            if let Some(snapshot) = table.snapshot.filter(|_| before[index].snapshot != table.snapshot) {
                step.set_fields(&self.names.meta, vec![snapshot_field(name, &snapshot)]);
            }
        }
        if let Some(finish) = part.finish {
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
                    self.hidden_met.note(letters.contains(&b'h'));
                    let joined = rows.zip(letters).filter(|(_, letter)| matches!(letter, b'j' | b'h'));
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

    /// What the entries speak of that are left to be written.
    fn spoken(&self, part: &Part<'_>, tries: &Tries) -> Spoken {
        let is_all = part.range == (0..part.batch.entries.len()) && part.cuts.rows.is_empty();
        let prepared = match is_all && tries.is_first() {
            true => self.prepared.take(part.batch),
            false => None,
        };
        prepared.unwrap_or_else(|| {
            let left = part.range.clone().filter(|nth| !tries.done.contains(nth));
            Spoken::of(&self.catalog, part.batch, left, &part.cuts)
        })
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
        self.say_alive(step, observed);
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
pub(super) struct Tries {
    /// Their rows have to be read before they are written.
    pub read_first: BTreeSet<usize>,
    /// Written, or found to be stale.
    pub done: BTreeSet<usize>,
}

impl Tries {
    fn is_first(&self) -> bool {
        self.known() == 0
    }

    /// Grows with every attempt that is of use.
    fn known(&self) -> usize {
        self.read_first.len() + self.done.len()
    }
}

/// A step as several that follow each other, where nobody sees the one without the other: only whole
/// rows of a copy that is being built. Everything else comes with the last, and counts there: the
/// others stay if that is never heard of.
fn in_pieces(mut step: Step<'_>, complete: bool) -> Vec<Step<'_>> {
    let mut pieces = Vec::new();
    if !complete {
        let mut piece = Step::default();
        let mut joined = Vec::new();
        for group in std::mem::take(&mut step.whole) {
            joined.push((group.table, group.joined));
            let mut rows = group.rows.into_iter().peekable();
            while rows.peek().is_some() {
                let room = PIECE_ROWS - piece.whole_rows();
                let some = rows.by_ref().take(room).collect();
                piece.whole.push(WholeRows { table: group.table, rows: some, joined: 0 });
                if piece.whole_rows() == PIECE_ROWS {
                    pieces.push(std::mem::take(&mut piece));
                }
            }
        }
        step.whole = match piece.whole.is_empty() {
            true => pieces.pop().map(|piece: Step| piece.whole).unwrap_or_default(),
            false => piece.whole,
        };
        for (table, joined) in joined.into_iter().filter(|(_, joined)| *joined != 0) {
            match step.whole.iter_mut().find(|group| group.table == table) {
                Some(group) => group.joined = joined,
                None => step.whole.push(WholeRows { table, rows: Vec::new(), joined }),
            }
        }
    }
    pieces.push(step);
    pieces
}

/// What became of a sweep that is an entry of a batch, with its index.
type SweptEntry = (usize, Option<Swept>);

/// Entries of a batch that are applied in one step.
pub(super) struct Part<'p> {
    pub batch: &'p Batch,
    pub range: Range<usize>,
    pub cuts: Cuts,
    /// Of the first entry.
    swept: Option<SweptEntry>,
    /// Only behind the last.
    finish: Option<Finish<'p>>,
}
