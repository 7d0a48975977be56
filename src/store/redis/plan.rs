//! What a part of a batch needs: which rows the script guards by itself, and what has to be read first.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;

use super::RedisStore;
use super::apply::Tries;
use super::error::damaged;
use super::known::Wanted;
use super::ledger::{Ledger, TableLedger};
use super::names::{Listed, prefix_text};
use super::prepared::Named;
use super::step::{WholeRow, WholeRows};
use crate::domain::batch::{Batch, Step as Change};
use crate::store::StoreError;

/// Rows and marks that prefixes take away in one script at most. A prefix that takes more of them is cut
/// in slices.
pub(super) const CUT_AT_ONCE: usize = if cfg!(test) { 2 } else { 512 };
/// Prefixes whose rows are asked for at once: each may have as many as one script takes.
const PREFIXES_AT_ONCE: usize = 16;

/// Entries that are applied in one step, and why the step ends there.
pub(super) struct Stretch {
    pub range: Range<usize>,
    pub cuts: Cuts,
    pub then: Then,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Then {
    /// That was all.
    Finish,
    /// There is more, and enough for one script.
    GoOn,
    /// This entry takes away more than one script can.
    Cut(usize),
    /// This entry is a sweep.
    Sweep(usize),
}

/// What prefixes that are cleared by a part of a batch may take away, by table and text.
#[derive(Debug, Default)]
pub(super) struct Cuts {
    pub rows: Vec<(usize, Vec<u8>)>,
    /// Of longer prefixes.
    pub marks: Vec<(usize, Vec<u8>)>,
}

#[derive(Default)]
pub(super) struct Plan<'b> {
    pub whole: Vec<WholeRows<'b>>,
    /// Entries that are joined with what is read, in order.
    pub joined: Vec<usize>,
    pub wanted: Vec<Wanted<'b>>,
    /// By place in `wanted`.
    pub hidden: HashMap<usize, Vec<u8>>,
    /// Entries that a truncate has taken already.
    pub stale: Vec<usize>,
}

impl RedisStore {
    /// How far the entries go, from the first on, that one script can take. `swept`: the first is a sweep
    /// that is done.
    pub(super) fn stretch(
        &mut self,
        batch: &Batch,
        first: usize,
        swept: bool,
    ) -> Result<Stretch, StoreError> {
        let ledger = self.known_ledger()?;
        let (mut end, mut then) = (batch.entries.len(), Then::Finish);
        let mut asked: Vec<(usize, usize, Vec<u8>)> = Vec::new();
        let mut seen = BTreeSet::new();
        for (nth, entry) in batch.entries.iter().enumerate().skip(first) {
            match &entry.step {
                Change::Sweep(_) if nth > first || !swept => (end, then) = (nth, Then::Sweep(nth)),
                Change::Cut { prefix, .. } if prefix.is_empty() => (end, then) = (nth, Then::Cut(nth)),
                Change::Cut { prefix, .. } => {
                    let shape = &self.catalog.tables[entry.table];
                    if !shape.prefixes.contains(&prefix.len()) {
                        return Err(damaged("a prefix that the mapping does not have", &shape.name));
                    }
                    let text = prefix_text(prefix);
                    if !ledger.tables[entry.table].is_empty() && seen.insert((entry.table, text.clone())) {
                        asked.push((nth, entry.table, text));
                    }
                    continue;
                }
                Change::Shelved { .. } => return Err(damaged("rows that were put aside", "a table")),
                _ => continue,
            }
            break;
        }
        let mut cuts = Cuts::default();
        for some in asked.chunks(PREFIXES_AT_ONCE) {
            for ((nth, table, _), [rows, marks]) in some.iter().zip(self.list_prefixes(some)?) {
                let found = rows.len() + marks.len();
                let taken = cuts.rows.len() + cuts.marks.len();
                if found > CUT_AT_ONCE {
                    return Ok(Stretch { range: first..*nth, cuts, then: Then::Cut(*nth) });
                }
                if taken + found > CUT_AT_ONCE {
                    return Ok(Stretch { range: first..*nth, cuts, then: Then::GoOn });
                }
                cuts.rows.extend(rows.into_iter().map(|text| (*table, text)));
                cuts.marks.extend(marks.into_iter().map(|text| (*table, text)));
            }
        }
        Ok(Stretch { range: first..end, cuts, then })
    }

    /// Rows, and marks of longer prefixes, below each prefix: up to one more than a script takes.
    fn list_prefixes(
        &mut self,
        asked: &[(usize, usize, Vec<u8>)],
    ) -> Result<Vec<[Vec<Vec<u8>>; 2]>, StoreError> {
        let mut pipe = redis::pipe();
        for (_, table, text) in asked {
            let keys = &self.tables[*table].keys;
            for listed in [Listed::Row, Listed::Mark] {
                pipe.add_command(listed.page(keys, text, None, CUT_AT_ONCE + 1));
            }
        }
        let answers: Vec<Vec<Vec<u8>>> = self.link.pipe(&pipe)?;
        let mut texts = answers.into_iter().map(|members| {
            members.into_iter().filter_map(|member| Some(member.get(1..)?.to_vec())).collect::<Vec<_>>()
        });
        let mut listed = Vec::with_capacity(asked.len());
        for (_, _, text) in asked {
            let (rows, mut marks) = (texts.next().unwrap_or_default(), texts.next().unwrap_or_default());
            marks.retain(|mark| mark != text);
            listed.push([rows, marks]);
        }
        Ok(listed)
    }

    /// Decides for each key whether the script can guard it or its row has to be read. `others` and
    /// `bytes` are as in [`super::prepared::Spoken`].
    pub(super) fn sort_out<'b>(
        &mut self,
        ledger: &Ledger,
        (batch, tries): (&'b Batch, &Tries),
        (keys, others, bytes): (Vec<Named>, Vec<usize>, &'b [u8]),
    ) -> Result<Plan<'b>, StoreError> {
        let catalog = self.catalog.clone();
        let mut plan = Plan { joined: others, ..Plan::default() };
        // What the script guards by itself.
        let guarded = |named: &Named| {
            named.whole(&catalog, batch).filter(|(entry, ..)| !tries.read_first.contains(entry))
        };
        let guarded: Vec<_> = keys.iter().map(guarded).collect();
        let mut hidden = HashMap::new();
        if ledger.tables.iter().any(TableLedger::hidden) {
            // It looks for itself at what is hidden of those.
            let asks_all = self.hidden_met.asks_first();
            let asked = keys.iter().enumerate().filter(|(place, _)| asks_all || guarded[*place].is_none());
            let (places, listed): (Vec<_>, Vec<_>) =
                asked.map(|(place, named)| (place, (named.table, &named.key[..]))).unzip();
            let found = self.find_hidden(ledger, &listed)?;
            hidden.extend(found.into_iter().map(|(nth, bytes)| (places[nth], bytes)));
            self.hidden_met.note(asks_all && !hidden.is_empty());
        }
        let mut groups: BTreeMap<usize, Vec<WholeRow<'b>>> = BTreeMap::new();
        for ((place, named), guarded) in keys.into_iter().enumerate().zip(guarded) {
            let hidden = hidden.remove(&place);
            if hidden.is_none()
                && let Some((entry, row, version)) = guarded
            {
                if ledger.tables[named.table].truncated >= Some(version) {
                    plan.stale.push(entry);
                    continue;
                }
                let words = Some(&bytes[named.words]).filter(|words| !words.is_empty());
                let whole = WholeRow { entry, key: named.key, row, version, words };
                groups.entry(named.table).or_default().push(whole);
                continue;
            }
            if let Some(bytes) = hidden {
                plan.hidden.insert(plan.wanted.len(), bytes);
            }
            plan.joined.extend(named.first.map(|(entry, _)| entry));
            plan.joined.extend(&named.later);
            let values = named.values(batch);
            plan.wanted.push(Wanted { table: named.table, key: named.key, values });
        }
        plan.joined.sort_unstable();
        // What depends on two rows is there twice.
        plan.joined.dedup();
        let whole = |(table, rows)| WholeRows { table, rows, joined: 0 };
        plan.whole = groups.into_iter().map(whole).collect();
        Ok(plan)
    }
}
