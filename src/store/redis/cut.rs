//! Truncates and prefixes that are cleared: their marks, and rows that they take away in slices.
//!
//! A whole table, or a prefix with more rows than one script should take, gets its mark first: from then
//! on what is older is stale. What is there goes slice by slice, also when the process dies in between,
//! and the positions move behind the last of them.

use std::collections::{BTreeMap, BTreeSet};

use redis::Cmd;

use super::RedisStore;
use super::codec;
use super::error::damaged;
use super::known::{Known, Wanted};
use super::ledger::{Ledger, cutting_field};
use super::names::{Listed, TableNames, prefix_text, prefixes_of, to_hex};
use super::plan::Cuts;
use super::pulse::Pulse;
use super::step::{Step, WORDS_MAX};
use crate::domain::catalog::Table;
use crate::domain::value::Value;
use crate::domain::version::Version;
use crate::store::StoreError;

/// Keys that one scan looks at.
const SLICE: usize = 500;
/// Rows that a step takes: all of them are read, and may be large.
pub(super) const ROWS_AT_ONCE: usize = 64;

/// Hidden rows by the text of their key.
pub(super) type Hidden = Vec<(Vec<u8>, Vec<u8>)>;

impl Listed {
    /// Asks for members of [`TableNames::keys`] that begin with a text, behind another one if there is.
    pub fn page(self, keys: &str, text: &[u8], after: Option<&[u8]>, count: usize) -> Cmd {
        let begin = self.member(text);
        let mut end = begin.clone();
        // The letter, or the colon that a prefix ends with: neither is the highest byte.
        if let Some(last) = end.last_mut() {
            *last += 1;
        }
        let from = match after {
            Some(text) => [b"(", &self.member(text)[..]].concat(),
            None => [b"[", &begin[..]].concat(),
        };
        let mut cmd = redis::cmd("ZRANGE");
        cmd.arg(keys).arg(from).arg([b"(", &end[..]].concat());
        cmd.arg("BYLEX").arg("LIMIT").arg(0).arg(count);
        cmd
    }
}

/// Marks of prefixes, as far as a step looks at them.
#[derive(Debug, Clone, Default)]
pub(super) struct Marks {
    /// By table: texts of prefixes.
    tables: Vec<BTreeMap<Vec<u8>, Mark>>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Mark {
    /// As it was read.
    before: Option<Version>,
    after: Option<Version>,
}

impl Marks {
    /// What was taken away of rows with the text, or the prefix: by a prefix, or with the whole table.
    pub fn of(
        &self,
        shape: &Table,
        table: usize,
        truncated: Option<Version>,
        text: &[u8],
    ) -> Option<Version> {
        let Some(marks) = self.tables.get(table).filter(|marks| !marks.is_empty()) else { return truncated };
        let prefixes = prefixes_of(text, &shape.prefixes).into_iter();
        prefixes.filter_map(|prefix| marks.get(prefix)?.after).max().max(truncated)
    }

    pub fn set(&mut self, table: usize, text: &[u8], version: Version) {
        let marks = &mut self.tables[table];
        let behind = marks.range_mut(text.to_vec()..);
        for (_, mark) in behind.take_while(|(key, _)| key.starts_with(text)) {
            // What it says follows from the new one.
            mark.after = mark.after.filter(|mark| *mark > version);
        }
        marks.entry(text.to_vec()).or_insert(Mark { before: None, after: None }).after = Some(version);
    }

    /// Writes down what has changed, and counts it.
    pub fn keep(&self, tables: &[TableNames], step: &mut Step<'_>, ledger: &mut Ledger, at_ms: i64) {
        for (table, marks) in self.tables.iter().enumerate() {
            let TableNames { cleared, keys, .. } = &tables[table];
            for (text, mark) in marks.iter().filter(|(_, mark)| mark.before != mark.after) {
                step.typed(cleared.as_bytes(), "hash");
                match mark.after {
                    Some(version) => {
                        let mark = codec::mark(&version, at_ms);
                        step.command([b"HSET", cleared.as_bytes(), text, &mark]);
                    }
                    None => step.command([b"HDEL", cleared.as_bytes(), text]),
                }
                let count = &mut ledger.tables[table].prefix_marks;
                match (mark.before, mark.after) {
                    (None, Some(_)) => {
                        step.listed(keys).came.push(Listed::Mark.member(text));
                        *count += 1;
                    }
                    (Some(_), None) => {
                        step.listed(keys).left.push(Listed::Mark.member(text));
                        *count -= 1;
                    }
                    _ => {}
                }
            }
        }
    }
}

impl RedisStore {
    /// Marks of the prefixes of some keys, of prefixes themselves, and some more.
    pub(super) fn read_marks(
        &mut self,
        texts: impl Iterator<Item = (usize, Vec<u8>)>,
        cuts: &Cuts,
    ) -> Result<Marks, StoreError> {
        let mut wanted = vec![BTreeSet::new(); self.tables.len()];
        for (table, text) in texts {
            let prefixes = prefixes_of(&text, &self.catalog.tables[table].prefixes);
            wanted[table].extend(prefixes.into_iter().map(<[u8]>::to_vec));
        }
        for (table, text) in &cuts.marks {
            wanted[*table].insert(text.clone());
        }
        let mut marks = Marks { tables: vec![BTreeMap::new(); self.tables.len()] };
        for (table, texts) in wanted.into_iter().enumerate() {
            if self.known_ledger()?.tables[table].prefix_marks == 0 {
                continue;
            }
            let texts: Vec<Vec<u8>> = texts.into_iter().collect();
            for texts in texts.chunks(WORDS_MAX) {
                for (text, version) in texts.iter().zip(self.marks_of(table, texts)?) {
                    let mark = Mark { before: version, after: version };
                    marks.tables[table].insert(text.clone(), mark);
                }
            }
        }
        Ok(marks)
    }

    fn marks_of(&mut self, table: usize, texts: &[Vec<u8>]) -> Result<Vec<Option<Version>>, StoreError> {
        let mut cmd = redis::cmd("HMGET");
        cmd.arg(&self.tables[table].cleared).arg(texts);
        let found: Vec<Option<Vec<u8>>> = self.link.query(&cmd)?;
        let read = |bytes: Vec<u8>| {
            let mark = codec::from_mark(&bytes);
            mark.ok_or_else(|| damaged("the mark of a prefix", &self.catalog.tables[table].name))
        };
        found.into_iter().map(|bytes| Ok(bytes.map(read).transpose()?.map(|(version, _)| version))).collect()
    }

    /// Takes away a whole table, or all rows with a prefix, slice by slice. False: that is done already.
    pub(super) fn cut_away(
        &mut self,
        table: usize,
        (prefix, mark): (&[Value], Version),
        pulse: &mut Pulse<'_>,
    ) -> Result<bool, StoreError> {
        let text = prefix_text(prefix);
        let known = self.read_marks(std::iter::once((table, text.clone())), &Cuts::default())?;
        let truncated = self.known_ledger()?.tables[table].truncated;
        if known.of(&self.catalog.tables[table], table, truncated, &text) >= Some(mark) {
            return Ok(false);
        }
        self.begin_cut(table, text, mark, pulse.now_ms())?;
        self.finish_cuts(pulse)?;
        Ok(true)
    }

    /// From now on what is older is stale; what is there goes slice by slice.
    pub(super) fn begin_cut(
        &mut self,
        table: usize,
        text: Vec<u8>,
        mark: Version,
        now_ms: i64,
    ) -> Result<(), StoreError> {
        let texts = std::iter::once((table, text.clone()));
        let mut marks = self.read_marks(texts, &Cuts::default())?;
        let mut next = self.known_ledger()?.clone();
        let name = &self.catalog.tables[table].name;
        let mut step = Step::default();
        let mut fields = Vec::new();
        if text.is_empty() {
            next.tables[table].truncated = Some(mark);
            fields.push((format!("truncated/{name}"), to_hex(mark.as_bytes())));
        } else {
            marks.set(table, &text, mark);
            marks.keep(&self.tables, &mut step, &mut next, now_ms);
        }
        step.set_fields(&self.names.meta, fields);
        let cutting = [b"=", &text[..]].concat();
        step.command([b"HSET", self.names.meta.as_bytes(), cutting_field(name).as_bytes(), &cutting]);
        next.tables[table].cutting = Some(text);
        self.count_in(&mut step, &next, table);
        self.do_it(&step, next)
    }

    /// Also of what a process which died had begun.
    pub(super) fn finish_cuts(&mut self, pulse: &mut Pulse<'_>) -> Result<(), StoreError> {
        for table in 0..self.tables.len() {
            let ledger = self.known_ledger()?.tables[table].clone();
            let Some(text) = ledger.cutting else { continue };
            let name = self.catalog.tables[table].name.clone();
            let mark = match text.is_empty() {
                true => ledger.truncated,
                false => self.marks_of(table, std::slice::from_ref(&text))?.pop().flatten(),
            };
            let mark = mark.ok_or_else(|| damaged("the mark of what is taken away", &name))?;
            if self.catalog.tables[table].prefixes.is_empty() {
                self.cut_scanned(table, mark, pulse)?;
                self.cut_hidden(table, mark, pulse)?;
            } else {
                self.cut_listed(table, &text, mark, pulse)?;
                self.drop_marks_below(table, &text, mark, pulse)?;
            }
            let mut next = self.known_ledger()?.clone();
            next.tables[table].cutting = None;
            let mut step = Step::default();
            step.command([b"HDEL", self.names.meta.as_bytes(), cutting_field(&name).as_bytes()]);
            self.do_it(&step, next)?;
        }
        Ok(())
    }

    fn cut_scanned(&mut self, table: usize, mark: Version, pulse: &mut Pulse<'_>) -> Result<(), StoreError> {
        let mut cursor = 0u64;
        loop {
            self.beat(pulse)?;
            let (next, keys) = self.scan_rows(table, cursor)?;
            let keys: Vec<(usize, &[u8])> = keys.iter().map(|key| (table, &key[..])).collect();
            for keys in keys.chunks(ROWS_AT_ONCE) {
                self.beat(pulse)?;
                let mut all = Vec::with_capacity(keys.len());
                for ((_, key), row) in keys.iter().zip(self.read_rows(keys)?) {
                    let Some(row) = row else { continue };
                    let beginning = self.beginning_of(&self.catalog.tables[table], &row)?;
                    all.push(Known::new(table, key.to_vec(), row, beginning));
                }
                self.cut_known(table, mark, pulse.now_ms(), all)?;
            }
            if next == 0 {
                return Ok(());
            }
            cursor = next;
        }
    }

    fn cut_hidden(&mut self, table: usize, mark: Version, pulse: &mut Pulse<'_>) -> Result<(), StoreError> {
        let mut cursor = 0u64;
        loop {
            self.beat(pulse)?;
            let (next, rows) = self.scan_hidden(table, cursor)?;
            let shape = &self.catalog.tables[table];
            let mut all = Vec::with_capacity(rows.len());
            for (key, bytes) in rows {
                let values = vec![Value::Absent; shape.columns.len()];
                let (row, _) = codec::unhide(shape, values, &bytes)?;
                all.push(Known::new(table, key, row, Vec::new()));
            }
            self.cut_known(table, mark, pulse.now_ms(), all)?;
            if next == 0 {
                return Ok(());
            }
            cursor = next;
        }
    }

    /// Rows of a table whose keys are listed, hidden ones as well.
    fn cut_listed(
        &mut self,
        table: usize,
        text: &[u8],
        mark: Version,
        pulse: &mut Pulse<'_>,
    ) -> Result<(), StoreError> {
        let mut after: Option<Vec<u8>> = None;
        loop {
            self.beat(pulse)?;
            let keys = self.list((table, Listed::Row), text, after.as_deref(), ROWS_AT_ONCE)?;
            let Some(last) = keys.last().cloned() else { return Ok(()) };
            let named: Vec<(usize, &[u8])> = keys.iter().map(|key| (table, &key[..])).collect();
            let ledger = self.known_ledger()?.clone();
            let hidden = self.find_hidden(&ledger, &named)?;
            let wanted: Vec<Wanted<'_>> =
                keys.into_iter().map(|key| Wanted { table, key, values: None }).collect();
            let all = self.find(&wanted, hidden)?;
            self.cut_known(table, mark, pulse.now_ms(), all)?;
            after = Some(last);
        }
    }

    /// What they say follows from the mark of a shorter prefix.
    fn drop_marks_below(
        &mut self,
        table: usize,
        text: &[u8],
        mark: Version,
        pulse: &mut Pulse<'_>,
    ) -> Result<(), StoreError> {
        let mut after: Option<Vec<u8>> = None;
        while self.known_ledger()?.tables[table].prefix_marks > 0 {
            self.beat(pulse)?;
            let mut texts = self.list((table, Listed::Mark), text, after.as_deref(), SLICE)?;
            after = texts.last().cloned();
            if after.is_none() {
                break;
            }
            texts.retain(|below| below != text);
            let versions = match texts.is_empty() {
                true => Vec::new(),
                false => self.marks_of(table, &texts)?,
            };
            let older = texts.into_iter().zip(versions).filter(|(_, version)| *version <= Some(mark));
            self.forget_marks(table, older.map(|(text, _)| text).collect())?;
        }
        Ok(())
    }

    /// Marks of another generation, as they are there.
    pub(super) fn adopt_marks(
        &mut self,
        table: usize,
        marks: &BTreeMap<Vec<u8>, Vec<u8>>,
    ) -> Result<(), StoreError> {
        if marks.is_empty() {
            return Ok(());
        }
        let TableNames { cleared, keys, .. } = self.tables[table].clone();
        let texts: Vec<Vec<u8>> = marks.keys().cloned().collect();
        let known = self.marks_of(table, &texts)?;
        let mut next = self.known_ledger()?.clone();
        next.tables[table].prefix_marks += known.iter().filter(|known| known.is_none()).count() as i64;
        let mut step = Step::default();
        step.typed(cleared.as_bytes(), "hash");
        for texts in texts.chunks(WORDS_MAX / 2) {
            let mut words = vec![b"HSET".to_vec(), cleared.clone().into_bytes()];
            words.extend(texts.iter().flat_map(|text| [text.clone(), marks[text].clone()]));
            step.commands.push(words);
        }
        step.listed(&keys).came.extend(texts.iter().map(|text| Listed::Mark.member(text)));
        self.count_in(&mut step, &next, table);
        self.do_it(&step, next)
    }

    pub(super) fn forget_marks(&mut self, table: usize, texts: Vec<Vec<u8>>) -> Result<(), StoreError> {
        if texts.is_empty() {
            return Ok(());
        }
        let TableNames { cleared, keys, .. } = self.tables[table].clone();
        let mut next = self.known_ledger()?.clone();
        next.tables[table].prefix_marks -= texts.len() as i64;
        let mut step = Step::default();
        step.typed(cleared.as_bytes(), "hash");
        for texts in texts.chunks(WORDS_MAX) {
            let mut words = vec![b"HDEL".to_vec(), cleared.clone().into_bytes()];
            words.extend_from_slice(texts);
            step.commands.push(words);
        }
        step.listed(&keys).left.extend(texts.iter().map(|text| Listed::Mark.member(text)));
        self.count_in(&mut step, &next, table);
        self.do_it(&step, next)
    }

    /// Texts of what is listed of a table, in order.
    pub(super) fn list(
        &mut self,
        (table, listed): (usize, Listed),
        text: &[u8],
        after: Option<&[u8]>,
        count: usize,
    ) -> Result<Vec<Vec<u8>>, StoreError> {
        let cmd = listed.page(&self.tables[table].keys, text, after, count);
        let members: Vec<Vec<u8>> = self.link.query(&cmd)?;
        Ok(members.into_iter().filter_map(|member| Some(member.get(1..)?.to_vec())).collect())
    }

    /// Texts of the keys of some rows, each once, and where to go on.
    pub(super) fn scan_rows(
        &mut self,
        table: usize,
        cursor: u64,
    ) -> Result<(u64, BTreeSet<Vec<u8>>), StoreError> {
        let names = &self.tables[table];
        let (next, keys) = self.link.scan(&names.pattern, cursor, SLICE)?;
        let texts = keys.iter().filter_map(|key| key.get(names.row.len()..)).map(<[u8]>::to_vec);
        Ok((next, texts.collect()))
    }

    /// Some hidden rows by the text of their key, and where to go on.
    pub(super) fn scan_hidden(&mut self, table: usize, cursor: u64) -> Result<(u64, Hidden), StoreError> {
        let hidden = self.tables[table].hidden.clone();
        self.scan_hash(&hidden, cursor)
    }

    /// Fields of a hash, each once, and where to go on.
    pub(super) fn scan_hash(&mut self, key: &str, cursor: u64) -> Result<(u64, Hidden), StoreError> {
        let (next, flat): (u64, Vec<Vec<u8>>) =
            self.link.query(redis::cmd("HSCAN").arg(key).arg(cursor).arg("COUNT").arg(SLICE))?;
        let mut fields = BTreeMap::new();
        let mut flat = flat.into_iter();
        while let (Some(name), Some(bytes)) = (flat.next(), flat.next()) {
            fields.insert(name, bytes);
        }
        Ok((next, fields.into_iter().collect()))
    }

    fn cut_known(
        &mut self,
        table: usize,
        mark: Version,
        at_ms: i64,
        mut all: Vec<Known>,
    ) -> Result<(), StoreError> {
        let shape = &self.catalog.clone().tables[table];
        for known in &mut all {
            known.state.truncate(shape, mark);
        }
        self.keep_all(table, &all, at_ms)
    }

    /// Writes down what became of some rows of one table.
    pub(super) fn keep_all(&mut self, table: usize, all: &[Known], at_ms: i64) -> Result<(), StoreError> {
        let mut step = Step::default();
        let mut next = self.known_ledger()?.clone();
        for known in all {
            self.keep(&mut step, &mut next, known, at_ms)?;
        }
        if step.is_empty() {
            return Ok(());
        }
        self.count_in(&mut step, &next, table);
        self.do_it(&step, next)
    }
}
