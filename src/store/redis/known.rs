//! Keys that were read before they are written: the guard in full, by [`RowState`].

use std::collections::HashMap;

use super::RedisStore;
use super::codec::{self, Form, RESERVED};
use super::error::damaged;
use super::ledger::Ledger;
use super::link::Link;
use super::names::{Listed, TableNames};
use super::settings::RowEncoding;
use super::step::{Step, beginning};
use crate::domain::catalog::{Catalog, Table};
use crate::domain::row::RowState;
use crate::domain::value::Value;
use crate::store::StoreError;
use crate::store::rules::{self, Place, place};

/// What is known of one key, before and after.
#[derive(Debug)]
pub(super) struct Known {
    pub table: usize,
    /// The text of the key.
    pub key: Vec<u8>,
    pub state: RowState,
    /// How the row begins that readers see; empty if there is none.
    pub(super) beginning: Vec<u8>,
    /// As it was read.
    before: RowState,
}

/// A key to be read.
pub(super) struct Wanted<'a> {
    pub table: usize,
    pub key: Vec<u8>,
    /// With the key columns set; `None` where only what is there matters.
    pub values: Option<&'a [Value]>,
}

impl Wanted<'_> {
    fn nothing_known(&self, shape: &Table) -> RowState {
        match self.values {
            Some(values) => rules::nothing_known(shape, values),
            None => RowState::unknown(vec![Value::Absent; shape.columns.len()]),
        }
    }
}

impl Known {
    pub fn new(table: usize, key: Vec<u8>, state: RowState, beginning: Vec<u8>) -> Known {
        Known { table, key, before: state.clone(), state, beginning }
    }

    fn is_changed(&self) -> bool {
        self.state != self.before
    }
}

impl RedisStore {
    /// What is hidden of the keys, by place in the list. Asks nothing of tables that hide nothing.
    pub(super) fn find_hidden(
        &mut self,
        ledger: &Ledger,
        keys: &[(usize, &[u8])],
    ) -> Result<HashMap<usize, Vec<u8>>, StoreError> {
        let mut pipe = redis::pipe();
        let mut asked: Vec<Vec<usize>> = Vec::new();
        for (table, names) in self.tables.iter().enumerate() {
            if !ledger.tables[table].hidden() {
                continue;
            }
            let nths: Vec<usize> = (0..keys.len()).filter(|&nth| keys[nth].0 == table).collect();
            for nths in nths.chunks(super::step::WORDS_MAX) {
                pipe.cmd("HMGET").arg(&names.hidden);
                for &nth in nths {
                    pipe.arg(keys[nth].1);
                }
                asked.push(nths.to_vec());
            }
        }
        let mut found = HashMap::new();
        if asked.is_empty() {
            return Ok(found);
        }
        let answers: Vec<Vec<Option<Vec<u8>>>> = self.link.pipe(&pipe)?;
        for (nths, answer) in asked.into_iter().zip(answers) {
            for (nth, bytes) in nths.into_iter().zip(answer) {
                if let Some(bytes) = bytes {
                    found.insert(nth, bytes);
                }
            }
        }
        Ok(found)
    }

    /// Reads rows in one round trip; `hidden` by place in the list.
    pub(super) fn find(
        &mut self,
        wanted: &[Wanted<'_>],
        mut hidden: HashMap<usize, Vec<u8>>,
    ) -> Result<Vec<Known>, StoreError> {
        let visible =
            self.read_rows(&wanted.iter().map(|one| (one.table, &one.key[..])).collect::<Vec<_>>())?;
        let mut all = Vec::with_capacity(wanted.len());
        for (nth, (one, visible)) in wanted.iter().zip(visible).enumerate() {
            let shape = &self.catalog.tables[one.table];
            let (state, beginning) = match (visible, hidden.remove(&nth)) {
                (Some(state), None) => {
                    let beginning = self.beginning_of(shape, &state)?;
                    (state, beginning)
                }
                (None, Some(bytes)) => {
                    let known = one.nothing_known(shape).values;
                    (codec::unhide(shape, known, &bytes)?.0, Vec::new())
                }
                (None, None) => (one.nothing_known(shape), Vec::new()),
                (Some(_), Some(_)) => return Err(damaged("a delete mark", &shape.name)),
            };
            all.push(Known::new(one.table, one.key.clone(), state, beginning));
        }
        Ok(all)
    }

    pub(super) fn beginning_of(&self, shape: &Table, state: &RowState) -> Result<Vec<u8>, StoreError> {
        let version = state.version.ok_or_else(|| damaged("a version", &shape.name))?;
        Ok(beginning(self.settings.redis.encoding, &codec::header(shape, state, version)))
    }

    /// Rows that readers see, in the order of the keys.
    pub(super) fn read_rows(&mut self, keys: &[(usize, &[u8])]) -> Result<Vec<Option<RowState>>, StoreError> {
        let encoding = self.settings.redis.encoding;
        read_rows(&mut self.link, (&self.tables, &self.catalog, encoding), keys)
    }

    /// Writes down what became of a key, and counts it.
    pub(super) fn keep(
        &self,
        step: &mut Step,
        ledger: &mut Ledger,
        known: &Known,
        at_ms: i64,
    ) -> Result<(), StoreError> {
        if !known.is_changed() {
            return Ok(());
        }
        let shape = &self.catalog.tables[known.table];
        let names = &self.tables[known.table];
        let row_key = names.row_key(&known.key);
        let (before, after) = (place(shape, &known.before), place(shape, &known.state));
        let (was_visible, is_visible) = (before == Some(Place::Visible), after == Some(Place::Visible));
        for (place, by) in [(before, -1), (after, 1)] {
            if let Some(place) = place {
                *ledger.tables[known.table].count(place) += by;
            }
        }

        step.expected.push((row_key.clone(), known.beginning.clone()));
        if is_visible {
            let version = known.state.version.ok_or_else(|| damaged("a version", &shape.name))?;
            let header = codec::header(shape, &known.state, version);
            if self.form == Form::Fields {
                if was_visible {
                    step.command([b"DEL", &row_key]);
                }
                let mut set = vec![b"HSET".to_vec(), row_key];
                codec::for_fields(shape, &known.state, &header, |text| set.push(text.to_vec()));
                step.commands.push(set);
            } else {
                let mut body = Vec::with_capacity(256);
                codec::body(self.form, shape, &known.state, &header, &mut body)?;
                match self.form {
                    Form::Json => step.command([b"SET", &row_key, &body]),
                    _ => step.command([b"RESTORE", &row_key, b"0", &body, b"REPLACE"]),
                }
            }
        } else if was_visible {
            step.command([b"DEL", &row_key]);
        }

        let hidden = names.hidden.as_bytes();
        if after.is_some() && !is_visible {
            step.typed(hidden, "hash");
            step.command([b"HSET", hidden, &known.key, &codec::hide(shape, &known.state, at_ms)]);
        } else if before.is_some() && !was_visible {
            step.typed(hidden, "hash");
            step.command([b"HDEL", hidden, &known.key]);
        }

        if !shape.prefixes.is_empty() && before.is_some() != after.is_some() {
            let listed = step.listed(&names.keys);
            let moved = if after.is_some() { &mut listed.came } else { &mut listed.left };
            moved.push(Listed::Row.member(&known.key));
        }
        let sets = |visible: bool, state: &RowState| {
            if visible { names.index_keys(shape, &state.values) } else { Vec::new() }
        };
        let (old, new) = (sets(was_visible, &known.before), sets(is_visible, &known.state));
        for key in old.iter().filter(|key| !new.contains(key)) {
            step.entries(key).left.push(known.key.clone());
        }
        for key in new.iter().filter(|key| !old.contains(key)) {
            step.entries(key).came.push(known.key.clone());
        }
        Ok(())
    }
}

/// Rows of a generation with these names, mapping and encoding, in the order of the keys.
pub(super) fn read_rows(
    link: &mut Link,
    (tables, catalog, encoding): (&[TableNames], &Catalog, RowEncoding),
    keys: &[(usize, &[u8])],
) -> Result<Vec<Option<RowState>>, StoreError> {
    let mut rows = Vec::with_capacity(keys.len());
    let mut left = keys;
    while !left.is_empty() {
        let (some, rest) = left.split_at(left.len().min(link.rows_at_once()));
        read_some(link, (tables, catalog, encoding), some, &mut rows)?;
        left = rest;
    }
    Ok(rows)
}

fn read_some(
    link: &mut Link,
    (tables, catalog, encoding): (&[TableNames], &Catalog, RowEncoding),
    keys: &[(usize, &[u8])],
    rows: &mut Vec<Option<RowState>>,
) -> Result<(), StoreError> {
    let mut pipe = redis::pipe();
    for (table, key) in keys {
        let row_key = tables[*table].row_key(key);
        match encoding {
            RowEncoding::Hash => {
                pipe.cmd("HMGET").arg(row_key).arg(RESERVED);
                for column in &catalog.tables[*table].columns {
                    pipe.arg(&column.name);
                }
            }
            RowEncoding::Json => {
                pipe.cmd("GET").arg(row_key);
            }
        }
    }
    let mut bytes = 0;
    match encoding {
        RowEncoding::Hash => {
            let answers: Vec<Vec<Option<Vec<u8>>>> = link.pipe(&pipe)?;
            for ((table, _), fields) in keys.iter().zip(answers) {
                bytes += fields.iter().flatten().map(Vec::len).sum::<usize>();
                rows.push(codec::row_of_fields(&catalog.tables[*table], fields)?);
            }
        }
        RowEncoding::Json => {
            let answers: Vec<Option<Vec<u8>>> = link.pipe(&pipe)?;
            for ((table, _), json) in keys.iter().zip(answers) {
                bytes += json.as_ref().map_or(0, Vec::len);
                let shape = &catalog.tables[*table];
                rows.push(json.map(|json| codec::row_of_json(shape, &json)).transpose()?);
            }
        }
    }
    link.has_read(keys.len(), bytes);
    Ok(())
}
