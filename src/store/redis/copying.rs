//! A new generation that is made of the live one, without the log: columns and tables that are left
//! out, columns in another order, other indexes, another encoding, another place.
//!
//! The live generation is left as it is meanwhile. The bookkeeping is copied when the new one begins;
//! rows and delete marks are copied slice by slice before its first batch, and whoever is killed goes
//! on where it was. A row that was copied already is joined with itself, which changes nothing.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::RedisStore;
use super::change::Change;
use super::codec;
use super::described::Described;
use super::error::lost;
use super::known::{self, Known};
use super::ledger::{Ledger, cutting_field, snapshot_field};
use super::letters::{has_table, record_bytes};
use super::link::Link;
use super::names::{Names, Spot, TableNames, literal, to_hex};
use super::pulse::Pulse;
use super::replica::{Home, Inside};
use super::settings::RowEncoding;
use super::step::Step;
use crate::domain::batch::{Batch, Entry, Observed, Step as Event};
use crate::domain::catalog::Catalog;
use crate::domain::change::Effect;
use crate::domain::row::RowState;
use crate::domain::value::Value;
use crate::domain::version::VersionKind;
use crate::store::{StoreError, adapt, rules};

/// Keys that one scan looks at.
const SLICE: usize = 500;
/// Rows that are written at once, and their bytes: where they have index entries as many as a batch
/// has at most.
const ROWS_AT_ONCE: usize = 128;
const BYTES_AT_ONCE: usize = 512 << 10;
/// How often readers and others are told that somebody is at work.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// What is copied at a time of lists and hashes.
const ITEMS_AT_ONCE: usize = 2_000;

/// What is said in `copying` before the bookkeeping is there.
const BOOKS: &str = "books";

/// Whether a generation under this mapping can be made of the live one.
pub(super) fn is_possible(live: &Described, ledger: &Ledger, catalog: &Catalog) -> bool {
    let changes = adapt::changes(&live.catalog, catalog, |table| {
        let old = live.catalog.tables.iter().position(|known| known.name == table.name);
        let held = old.is_some_and(|old| ledger.tables[old].held > 0);
        let topics: Vec<&String> = table.topics.iter().map(|&topic| &live.catalog.topics[topic]).collect();
        let of_its = |name: &String| topics.iter().any(|topic| name.starts_with(&format!("{topic}/")));
        Ok::<bool, StoreError>(held || ledger.letters.iter().any(of_its))
    });
    matches!(changes, Ok(Some(_)))
}

/// The field that says so, until everything is copied.
pub(super) fn begun() -> [(&'static str, String); 1] {
    [("copying", BOOKS.to_owned())]
}

/// Everything of the live generation that is no row, under the names of the new one.
pub(super) fn copy_books(home: &Home, inside: &Inside, spot: Spot) -> Result<(), StoreError> {
    let Some(next) = home.described(spot)? else { return Err(lost("is gone (flushed while it was opened)")) };
    if next.copying.as_deref() != Some(BOOKS) {
        return Ok(());
    }
    let (old, new) = (home.names(inside.live), home.names(spot));
    let mut source = home.link(inside.live);
    let Some((live, known)) = Ledger::read(&mut source, &old, None)? else {
        return Err(lost("is gone (flushed while it was opened)"));
    };
    let catalog = &next.catalog;
    let mut target = home.link(spot);
    let owned = || Change::default().by(home.owner(spot, next.number, next.role));
    for topic in &catalog.topics {
        let (from, to) = (old.event_ids(topic), new.event_ids(topic));
        let mut change = owned();
        change.command(["DEL", &to]);
        change.run(&mut target)?;
        for at in (0..).step_by(ITEMS_AT_ONCE) {
            let mut cmd = redis::cmd("LRANGE");
            cmd.arg(&from).arg(at).arg(at + ITEMS_AT_ONCE - 1);
            let some: Vec<Vec<u8>> = source.query(&cmd)?;
            if some.is_empty() {
                break;
            }
            let mut change = owned();
            let words = [b"RPUSH".to_vec(), to.clone().into_bytes()].into_iter().chain(some);
            change.command(words);
            change.run(&mut target)?;
        }
    }
    let pairs = [
        (&old.positions, &new.positions),
        (&old.partitions, &new.partitions),
        (&old.dead_letters, &new.dead_letters),
        (&old.dead_letter_times, &new.dead_letter_times),
    ];
    let mut change = owned();
    let mut letter_bytes = known.letter_bytes;
    for (from, to) in pairs {
        let mut fields: BTreeMap<Vec<u8>, Vec<u8>> = source.query(redis::cmd("HGETALL").arg(from))?;
        // Nobody could retry or drop those of a table that is left out, and they would count against others.
        if [&old.dead_letters, &old.dead_letter_times].contains(&from) {
            let left_out = |name: &Vec<u8>, _: &mut _| !has_table(catalog, &String::from_utf8_lossy(name));
            for (name, json) in fields.extract_if(.., left_out).filter(|_| *from == old.dead_letters) {
                let bytes = record_bytes(&String::from_utf8_lossy(&name), &json)?;
                letter_bytes = letter_bytes.saturating_sub(bytes);
            }
        }
        let fields: Vec<_> = fields.into_iter().collect();
        for fields in fields.chunks(ITEMS_AT_ONCE) {
            let words = fields.iter().flat_map(|(name, value)| [name.clone(), value.clone()]);
            change.command([b"HSET".to_vec(), to.clone().into_bytes()].into_iter().chain(words));
        }
    }
    let mut meta = vec![("dead_letter_bytes".to_owned(), letter_bytes.to_string())];
    let mut books = Ledger {
        complete: false,
        rebuilding: false,
        stopped: None,
        generation: next.number,
        replica: home.settings.replica_name.clone(),
        heartbeat_limit_ms: home.settings.heartbeat_limit_ms(),
        tables: Vec::new(),
        letter_bytes,
        ..known.clone()
    };
    books.letters.retain(|name| has_table(catalog, name));
    for table in &catalog.tables {
        let before = live.catalog.tables.iter().position(|before| before.name == table.name);
        let mut ledger = before.map(|before| known.tables[before].clone()).unwrap_or_default();
        (ledger.rows, ledger.held, ledger.marks, ledger.prefix_marks) = (0, 0, 0, 0);
        if let Some(mark) = ledger.truncated {
            meta.push((format!("truncated/{}", table.name), to_hex(mark.as_bytes())));
        }
        if let Some(snapshot) = &ledger.snapshot {
            meta.push(snapshot_field(&table.name, snapshot));
        }
        books.tables.push(ledger);
    }
    let names = Names::new(&home.settings.redis, spot, next.rows.clone());
    change.set_fields(&new.status, &books.status_fields(catalog, &names));
    for (table, ledger) in catalog.tables.iter().zip(&books.tables) {
        if let Some(text) = &ledger.cutting {
            let field = cutting_field(&table.name);
            change.command([b"HSET", new.meta.as_bytes(), field.as_bytes(), &[b"=", &text[..]].concat()]);
        }
    }
    meta.push(("copying".to_owned(), "0".to_owned()));
    change.set_fields(&new.meta, &meta);
    change.run(&mut target)
}

/// The live generation, to be read row by row.
struct Source {
    link: Link,
    catalog: Catalog,
    encoding: RowEncoding,
    rows: String,
    tables: Vec<TableNames>,
    /// By table of the new mapping: the old one, and where its columns are there.
    from: Vec<(usize, Vec<usize>)>,
}

impl Source {
    fn open(home: &Home, catalog: &Catalog) -> Result<Source, StoreError> {
        let inside = home.inside();
        let live = home.live(&inside)?;
        let names = Names::new(&home.settings.redis, inside.live, live.rows.clone());
        let changes = adapt::changes(&live.catalog, catalog, |_| Ok::<bool, StoreError>(false))?;
        let changes =
            changes.ok_or_else(|| lost("has another copy now than the one it was to be made of"))?;
        let old = |name: &str| live.catalog.tables.iter().position(|table| table.name == name);
        let from = changes.into_iter().filter_map(|change| Some((old(&change.old.name)?, change.from)));
        Ok(Source {
            link: home.link(inside.live),
            tables: live.catalog.tables.iter().map(|table| TableNames::new(&names, table)).collect(),
            encoding: live.encoding,
            rows: live.rows.clone(),
            from: from.collect(),
            catalog: live.catalog,
        })
    }

    /// Rows as the new mapping has them.
    fn read(&mut self, table: usize, keys: &[&[u8]]) -> Result<Vec<RowState>, StoreError> {
        let (old, from) = &self.from[table];
        let keys: Vec<(usize, &[u8])> = keys.iter().map(|key| (*old, *key)).collect();
        let rows = known::read_rows(&mut self.link, (&self.tables, &self.catalog, self.encoding), &keys)?;
        Ok(rows.into_iter().flatten().map(|row| row.rearranged(from)).collect())
    }
}

impl RedisStore {
    /// The kind of version of any row of a table that is still to be copied.
    pub(super) fn kind_to_come(&mut self, table: usize) -> Result<Option<VersionKind>, StoreError> {
        let mut source = Source::open(&self.home, &self.catalog)?;
        let names = &source.tables[source.from[table].0];
        let (pattern, begin) = (names.pattern.clone(), names.row.clone());
        let (mut cursor, mut told) = (0u64, Instant::now());
        loop {
            self.keep_lease(&mut told)?;
            let (next, keys) = source.link.scan(&pattern, cursor, SLICE)?;
            let keys: Vec<&[u8]> = keys.iter().filter_map(|key| key.strip_prefix(&begin[..])).collect();
            let keys = &keys[..keys.len().min(1)];
            if let Some(version) = source.read(table, keys)?.iter().find_map(RowState::newest) {
                return Ok(Some(version.kind()));
            }
            if next == 0 {
                return Ok(None);
            }
            cursor = next;
        }
    }

    /// Rows of the live generation come before anything else.
    pub(super) fn finish_copying(&mut self, pulse: &mut Pulse<'_>) -> Result<(), StoreError> {
        if !self.copying {
            return Ok(());
        }
        let observed = pulse.observed();
        let mut source = Source::open(&self.home, &self.catalog)?;
        let run: String = source.link.query(redis::cmd("INFO").arg("server"))?;
        let run =
            run.lines().find_map(|line| line.strip_prefix("run_id:")).unwrap_or_default().trim().to_owned();
        let mut cursor = self.copied_up_to(&run)?;
        let (started, mut told) = (Instant::now(), None::<Instant>);
        let pattern = format!("{}*", literal(&source.rows));
        loop {
            let now_ms = observed.heartbeat_ms + started.elapsed().as_millis() as i64;
            if told.is_none_or(|at| at.elapsed() >= HEARTBEAT) {
                told = Some(Instant::now());
                self.tell_copied(
                    &format!("{cursor} {run}"),
                    &Observed { heartbeat_ms: now_ms, ..observed.clone() },
                )?;
            }
            let (next, keys) = source.link.scan(&pattern, cursor, SLICE)?;
            self.copy_rows(&mut source, &keys, now_ms)?;
            cursor = next;
            if cursor == 0 {
                break;
            }
        }
        for table in 0..self.catalog.tables.len() {
            self.copy_hidden(&mut source, table, pulse)?;
            self.copy_marks(&mut source, table, pulse)?;
        }
        let mut step = Step::default();
        step.command([b"HDEL", self.names.meta.as_bytes(), b"copying"]);
        let next = self.known_ledger()?.clone();
        self.do_it(&step, next)?;
        self.copying = false;
        Ok(())
    }

    /// Cursors mean something to the process that gave them.
    fn copied_up_to(&mut self, run: &str) -> Result<u64, StoreError> {
        let mut cmd = redis::cmd("HGET");
        cmd.arg(&self.names.meta).arg("copying");
        let stored: Option<String> = self.link.query(&cmd)?;
        let stored = stored.unwrap_or_default();
        let cursor = stored.split_once(' ').filter(|(_, of)| *of == run).map(|(cursor, _)| cursor);
        Ok(cursor.and_then(|cursor| cursor.parse().ok()).unwrap_or(0))
    }

    fn tell_copied(&mut self, copied: &str, observed: &Observed) -> Result<(), StoreError> {
        let mut step = Step::default();
        step.command([b"HSET", self.names.meta.as_bytes(), b"copying", copied.as_bytes()]);
        step.alive = Some(observed.connected);
        step.carried = self.home.carry(self.spot, observed);
        let next = self.known_ledger()?.clone();
        self.do_it(&step, next)
    }

    fn copy_rows(&mut self, source: &mut Source, keys: &[Vec<u8>], now_ms: i64) -> Result<(), StoreError> {
        for table in 0..self.catalog.tables.len() {
            let begin = source.tables[source.from[table].0].row.clone();
            let theirs: Vec<&[u8]> = keys.iter().filter_map(|key| key.strip_prefix(&begin[..])).collect();
            for keys in theirs.chunks(ROWS_AT_ONCE) {
                let mut rows = source.read(table, keys)?.into_iter().peekable();
                while rows.peek().is_some() {
                    let (mut entries, mut bytes) = (Vec::new(), 0);
                    while let Some(row) = rows.next_if(|_| bytes < BYTES_AT_ONCE) {
                        bytes += row.values.iter().map(size).sum::<usize>();
                        entries.push(Entry::new(table, 0, Effect::Upsert, Event::Row(row)));
                    }
                    let observed = Observed { heartbeat_ms: now_ms, ..Observed::default() };
                    let batch = Batch { entries, observed, ..Batch::default() };
                    self.apply_rows(&batch)?;
                }
            }
        }
        Ok(())
    }

    /// Delete marks, and patches that wait for their row.
    fn copy_hidden(
        &mut self,
        source: &mut Source,
        table: usize,
        pulse: &mut Pulse<'_>,
    ) -> Result<(), StoreError> {
        let (old, from) = source.from[table].clone();
        let shape = self.catalog.clone().tables[table].clone();
        let before = source.catalog.tables[old].clone();
        let mut cursor = 0u64;
        loop {
            self.beat(pulse)?;
            let mut cmd = redis::cmd("HSCAN");
            cmd.arg(&source.tables[old].hidden).arg(cursor).arg("COUNT").arg(SLICE);
            let (next, flat): (u64, Vec<Vec<u8>>) = source.link.query(&cmd)?;
            let pairs: BTreeMap<Vec<u8>, Vec<u8>> =
                flat.chunks_exact(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect();
            let keys: Vec<(usize, &[u8])> = pairs.keys().map(|key| (table, &key[..])).collect();
            let mut there = self.hidden_of(table, &keys)?;
            let mut step = Step::default();
            let mut ledger = self.known_ledger()?.clone();
            for (nth, (key, bytes)) in pairs.iter().enumerate() {
                let absent = |columns: usize| vec![Value::Absent; columns];
                let (row, at_ms) = codec::unhide(&before, absent(before.columns.len()), bytes)?;
                let state = match there.remove(&nth) {
                    Some(bytes) => codec::unhide(&shape, absent(shape.columns.len()), &bytes)?.0,
                    None => rules::nothing_known(&shape, &absent(shape.columns.len())),
                };
                let mut known = Known::new(table, key.clone(), state, Vec::new());
                known.state.absorb(&shape, row.rearranged(&from));
                self.keep(&mut step, &mut ledger, &known, at_ms)?;
            }
            if !step.commands.is_empty() {
                self.count_in(&mut step, &ledger, table);
                self.do_it(&step, ledger)?;
            }
            cursor = next;
            if cursor == 0 {
                return Ok(());
            }
        }
    }

    /// Marks of prefixes.
    fn copy_marks(
        &mut self,
        source: &mut Source,
        table: usize,
        pulse: &mut Pulse<'_>,
    ) -> Result<(), StoreError> {
        let old = source.from[table].0;
        if self.catalog.tables[table].prefixes.is_empty() || source.catalog.tables[old].prefixes.is_empty() {
            return Ok(());
        }
        let mut cursor = 0u64;
        loop {
            self.beat(pulse)?;
            let mut cmd = redis::cmd("HSCAN");
            cmd.arg(&source.tables[old].cleared).arg(cursor).arg("COUNT").arg(SLICE);
            let (next, flat): (u64, Vec<Vec<u8>>) = source.link.query(&cmd)?;
            let pairs: BTreeMap<Vec<u8>, Vec<u8>> =
                flat.chunks_exact(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect();
            self.adopt_marks(table, &pairs)?;
            cursor = next;
            if cursor == 0 {
                return Ok(());
            }
        }
    }

    /// What is hidden here of some keys, whether or not the bookkeeping says that anything is.
    fn hidden_of(
        &mut self,
        table: usize,
        keys: &[(usize, &[u8])],
    ) -> Result<std::collections::HashMap<usize, Vec<u8>>, StoreError> {
        let ledger = self.known_ledger()?.clone();
        if !ledger.tables[table].hidden() {
            return Ok(std::collections::HashMap::new());
        }
        self.find_hidden(&ledger, keys)
    }
}

fn size(value: &Value) -> usize {
    match value {
        Value::Text(text) => text.len(),
        Value::Blob(bytes) => bytes.len(),
        _ => 8,
    }
}
