//! A shelf: whole rows of a batch that is larger than memory should be.
//!
//! What comes again within such a batch is written once, and what is written goes in the order of keys,
//! page by page; when that is worth it, [`super::shelving`] says. This is an external merge sort: rows are
//! collected as bytes ([`super::packed`]), sorted in *runs* that fit into memory, which go to a [`Spill`]
//! one behind the other, and read again side by side when the batch is written. A batch that fits into
//! one run never leaves memory.
//!
//! The newest version of each row wins, wherever it lies. What depends on the row that is there when it
//! comes ends a *set*: rows before it and rows behind it are not mixed.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;
use std::fmt::Debug;
use std::io;
use std::ops::Range;

use super::catalog::Table;
use super::change::Effect;
use super::packed::{PackedRow, pack};
use super::value::{Value, push_key_bytes};
use super::version::Version;

/// Bytes of a run.
const RUN_BYTES: usize = 512 << 10;
/// Room for the row that is one too many.
const ARENA_BYTES: usize = RUN_BYTES + (64 << 10);
/// From here on what one poll brings may be too much for memory.
const ALMOST_RUN_BYTES: usize = RUN_BYTES / 8 * 7;
/// Rows of a run: each takes 16 bytes besides its own.
const RUN_ROWS: usize = 16 << 10;
/// Memory of what is read side by side.
const MERGE_BYTES: usize = 1 << 20;
/// Of which a run gets at least so much.
const WINDOW_BYTES: usize = 4 << 10;

/// Where rows are put aside: bytes that are appended and read again, and mean nothing after a crash.
pub trait Spill: Debug + Send {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Bytes that were appended, wherever they are by now. What could not be appended is not there.
    fn read(&self, at: u64, into: &mut [u8]) -> io::Result<()>;

    /// Forgets everything.
    fn clear(&mut self) -> io::Result<()>;
}

/// When a shelf is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fill {
    /// What fits into memory is enough.
    Run,
    /// So many bytes are.
    Bytes(u64),
}

#[derive(Debug)]
pub struct Shelf {
    spill: Box<dyn Spill>,
    /// Bytes of a run.
    run_bytes: usize,
    /// Bytes in the spill.
    spilled: u64,
    /// Rows that are not in the spill, one behind the other; see [`Row`].
    arena: Vec<u8>,
    /// Where each of them begins, run by run.
    places: Vec<Place>,
    /// Places that are in a run already.
    sorted: usize,
    /// Of ascending sets.
    runs: Vec<Run>,
    /// The set in the making.
    set: u32,
    /// Bytes of the longest row.
    longest: usize,
    /// Events in the rows by topic, table and [`Effect`].
    counts: Vec<(usize, usize, [u64; Effect::ALL.len()])>,
}

/// What tells rows apart and orders them without a look at their bytes, mostly.
#[derive(Debug, Clone, Copy)]
struct Place {
    table: u16,
    at: u32,
    head: u64,
}

/// Rows of one set in the order of table and key, each key once.
#[derive(Debug)]
struct Run {
    set: u32,
    rows: Rows,
}

#[derive(Debug)]
enum Rows {
    /// These of [`Shelf::places`].
    InMemory(Range<usize>),
    /// These bytes of the spill.
    Spilled(Range<u64>),
}

/// A change of a row that is complete.
pub struct Whole<'a> {
    pub table: usize,
    pub topic: usize,
    pub values: &'a [Value],
    pub version: Version,
}

/// A row as it lies on a shelf.
#[derive(Debug, Clone, Copy)]
pub struct Row<'a> {
    pub table: usize,
    /// Of table and key.
    pub hash: u32,
    /// See [`key_head`].
    head: u64,
    /// Empty where the head says all of it.
    key: &'a [u8],
    packed: PackedRow<'a>,
}

/// What a row begins with, little-endian: bytes in all (4), bytes of the key (4), hash (4), table (2), head of
/// the key (8).
const HEADER: usize = 22;

impl<'a> Row<'a> {
    /// Of bytes that begin with it.
    pub fn read(bytes: &'a [u8]) -> Option<Row<'a>> {
        let (header, rest) = bytes.get(..length(bytes)?)?.split_first_chunk::<HEADER>()?;
        let four = |at: usize| Some(u32::from_le_bytes(*header[at..].first_chunk()?));
        let (key, packed) = rest.split_at_checked(four(4)? as usize)?;
        let table = u16::from_le_bytes(*header[12..].first_chunk()?);
        let head = u64::from_le_bytes(*header[14..].first_chunk()?);
        Some(Row { table: table.into(), hash: four(8)?, head, key, packed: PackedRow::read(packed)? })
    }

    pub fn packed(&self) -> PackedRow<'a> {
        self.packed
    }

    fn version(&self) -> &'a [u8] {
        self.packed.version_bytes()
    }

    /// In which order rows are given: that of tables and keys.
    fn order(&self) -> (usize, u64, &'a [u8]) {
        (self.table, self.head, self.key)
    }
}

/// Of a row that begins so.
fn length(bytes: &[u8]) -> Option<usize> {
    bytes.first_chunk().map(|length| u32::from_le_bytes(*length) as usize)
}

/// Of the row that begins there.
fn bytes_at(arena: &[u8], at: usize) -> Option<&[u8]> {
    let from = arena.get(at..)?;
    from.get(..length(from)?)
}

fn row_at<'a>(arena: &'a [u8], place: &Place) -> Option<Row<'a>> {
    Row::read(bytes_at(arena, place.at as usize)?)
}

impl Shelf {
    pub fn new(spill: Box<dyn Spill>) -> Shelf {
        Shelf {
            spill,
            run_bytes: RUN_BYTES,
            spilled: 0,
            arena: Vec::new(),
            places: Vec::new(),
            sorted: 0,
            runs: Vec::new(),
            set: 0,
            longest: 0,
            counts: Vec::new(),
        }
    }

    /// With runs of so many bytes.
    #[cfg(test)]
    pub fn with_runs_of(run_bytes: usize, spill: Box<dyn Spill>) -> Shelf {
        Shelf { run_bytes, ..Shelf::new(spill) }
    }

    /// An empty one over the same spill, for another batch.
    pub fn emptied(mut self) -> io::Result<Shelf> {
        self.spill.clear()?;
        self.spilled = 0;
        self.forget_arena();
        self.runs.clear();
        self.set = 0;
        self.longest = 0;
        self.counts.clear();
        Ok(self)
    }

    pub fn is_empty(&self) -> bool {
        self.runs.is_empty() && self.places.is_empty()
    }

    pub fn is_full(&self, fill: Fill) -> bool {
        match fill {
            Fill::Run => {
                self.spilled > 0 || self.arena.len() >= ALMOST_RUN_BYTES || self.places.len() >= RUN_ROWS
            }
            Fill::Bytes(bytes) => {
                let runs = self.runs.iter().rev().take_while(|run| run.set == self.set).count();
                self.spilled + self.arena.len() as u64 >= bytes
                    || (runs + 1) * self.longest.max(WINDOW_BYTES) >= MERGE_BYTES
            }
        }
    }

    /// Events by topic, table and effect.
    pub fn counts(&self) -> &[(usize, usize, [u64; Effect::ALL.len()])] {
        &self.counts
    }

    /// Puts a row aside. Returns the set that it begins, if it does.
    pub fn put(&mut self, table: &Table, row: &Whole<'_>, hash: u64) -> io::Result<Option<u32>> {
        if self.arena.capacity() == 0 {
            // At once: growing would take half as much again.
            self.arena.reserve_exact(ARENA_BYTES);
        }
        let at = self.arena.len();
        let head = self.write(table, row, hash);
        let length = self.arena.len() - at;
        if at > 0 && (self.arena.len() > self.run_bytes || self.places.len() >= RUN_ROWS) {
            let bytes = self.arena.split_off(at);
            self.spill()?;
            self.arena.extend_from_slice(&bytes);
        }
        let begins =
            self.sorted == self.places.len() && self.runs.last().is_none_or(|run| run.set < self.set);
        let at = (self.arena.len() - length) as u32;
        self.places.push(Place { table: row.table as u16, at, head });
        self.longest = self.longest.max(length);
        self.count(row);
        Ok(begins.then_some(self.set))
    }

    /// Behind what is in the arena. Returns the head of its key.
    fn write(&mut self, table: &Table, row: &Whole<'_>, hash: u64) -> u64 {
        let head = table.key.first().map_or(0, |&column| key_head(&row.values[column]));
        let arena = &mut self.arena;
        let at = arena.len();
        arena.extend_from_slice(&[0; HEADER]);
        if !is_told_by_head(table, row.values) {
            push_key_bytes(table.key_of(row.values), arena);
        }
        let key = arena.len() - at - HEADER;
        pack(row.values, &row.version, arena);
        // A record has less than 4 GiB, and there are far fewer tables than 2^16: see the configuration.
        let length = arena.len() - at;
        let header = &mut arena[at..at + HEADER];
        header[0..4].copy_from_slice(&(length as u32).to_le_bytes());
        header[4..8].copy_from_slice(&(key as u32).to_le_bytes());
        header[8..12].copy_from_slice(&((hash >> 32) as u32 ^ hash as u32).to_le_bytes());
        header[12..14].copy_from_slice(&(row.table as u16).to_le_bytes());
        header[14..22].copy_from_slice(&head.to_le_bytes());
        head
    }

    /// Rows that come later are applied behind those that are there.
    pub fn end_set(&mut self) {
        self.end_run();
        if self.runs.last().is_some_and(|run| run.set == self.set) {
            self.set += 1;
        }
    }

    /// What is in the making becomes a run: sorted, each key once. To be called when no more rows come.
    pub fn end_run(&mut self) {
        let (arena, places) = (&self.arena, &mut self.places[self.sorted..]);
        if places.is_empty() {
            return;
        }
        let key = |place: &Place| row_at(arena, place).map_or(&[][..], |row| row.key);
        let version = |place: &Place| row_at(arena, place).map_or(&[][..], |row| row.version());
        places.sort_unstable_by(|a, b| {
            let heads = (a.table, a.head).cmp(&(b.table, b.head));
            heads.then_with(|| key(a).cmp(key(b)).then(a.at.cmp(&b.at)))
        });
        let mut last = 0;
        for next in 1..places.len() {
            let (known, place) = (places[last], places[next]);
            if (known.table, known.head) != (place.table, place.head) || key(&known) != key(&place) {
                last += 1;
                places[last] = place;
            } else if version(&place) > version(&known) {
                places[last] = place;
            }
        }
        let run = self.sorted..self.sorted + last + 1;
        self.places.truncate(run.end);
        self.sorted = run.end;
        self.runs.push(Run { set: self.set, rows: Rows::InMemory(run) });
    }

    /// All runs that are in memory go to the spill. Where that fails those that did not stay.
    fn spill(&mut self) -> io::Result<()> {
        self.end_run();
        for run in &mut self.runs {
            let Rows::InMemory(places) = &run.rows else { continue };
            let from = self.spilled;
            for place in &self.places[places.clone()] {
                let bytes = bytes_at(&self.arena, place.at as usize).ok_or_else(damaged)?;
                self.spill.append(bytes)?;
                self.spilled += bytes.len() as u64;
            }
            run.rows = Rows::Spilled(from..self.spilled);
        }
        self.forget_arena();
        Ok(())
    }

    /// Gives back the memory that an empty one has kept.
    pub fn rest(&mut self) {
        if self.is_empty() {
            self.arena = Vec::new();
            self.places = Vec::new();
        }
    }

    fn forget_arena(&mut self) {
        self.arena.clear();
        self.arena.shrink_to(ARENA_BYTES);
        self.places.clear();
        self.sorted = 0;
    }

    /// The rows of a set in the order of table and key, each with the newest of its versions.
    pub fn set(&self, set: u32) -> io::Result<Merge<'_>> {
        let first = self.runs.partition_point(|run| run.set < set);
        let behind = self.runs.partition_point(|run| run.set <= set);
        let runs = &self.runs[first..behind];
        let window = (MERGE_BYTES / runs.len().max(1)).clamp(WINDOW_BYTES, 64 << 10);
        let mut cursors = BinaryHeap::with_capacity(runs.len());
        for (nth, run) in runs.iter().enumerate() {
            let rest = match &run.rows {
                Rows::InMemory(places) => Rest::InMemory(self.places[places.clone()].iter()),
                Rows::Spilled(bytes) => Rest::Spilled(bytes.clone()),
            };
            let (read, row, head) = (Vec::new(), 0..0, (0, 0));
            let mut cursor = Box::new(Cursor { shelf: self, nth, rest, window, read, row, head });
            if cursor.advance()? {
                cursors.push(cursor);
            }
        }
        Ok(Merge { cursors })
    }

    fn count(&mut self, row: &Whole<'_>) {
        let known =
            self.counts.iter_mut().find(|(topic, table, _)| (*topic, *table) == (row.topic, row.table));
        match known {
            Some((_, _, counts)) => counts[Effect::Upsert as usize] += 1,
            None => {
                let mut counts = [0; Effect::ALL.len()];
                counts[Effect::Upsert as usize] = 1;
                self.counts.push((row.topic, row.table, counts));
            }
        }
    }
}

/// All rows of a set.
#[derive(Debug)]
pub struct Merge<'s> {
    /// Those with the least key first.
    cursors: BinaryHeap<Box<Cursor<'s>>>,
}

impl Merge<'_> {
    /// The next row, which lies in `bytes` then; `None`: there are no more.
    pub fn next<'b>(&mut self, bytes: &'b mut Vec<u8>) -> io::Result<Option<Row<'b>>> {
        let Some(first) = self.cursors.peek() else { return Ok(None) };
        bytes.clear();
        bytes.extend_from_slice(first.bytes());
        self.advance()?;
        while let Some(again) = self.cursors.peek() {
            let (known, other) = (Row::read(bytes).ok_or_else(damaged)?, again.row().ok_or_else(damaged)?);
            if known.order() != other.order() {
                break;
            }
            if other.version() > known.version() {
                bytes.clear();
                bytes.extend_from_slice(again.bytes());
            }
            self.advance()?;
        }
        Row::read(bytes).ok_or_else(damaged).map(Some)
    }

    /// The first cursor goes on.
    fn advance(&mut self) -> io::Result<()> {
        if let Some(mut first) = self.cursors.peek_mut()
            && !first.advance()?
        {
            PeekMut::pop(first);
        }
        Ok(())
    }
}

/// Where the reading of a run is.
#[derive(Debug)]
struct Cursor<'s> {
    shelf: &'s Shelf,
    /// Earlier runs come first where keys are equal.
    nth: usize,
    rest: Rest<'s>,
    /// Bytes that are read at once, if no row is longer.
    window: usize,
    /// Those of a run that was spilled.
    read: Vec<u8>,
    /// The row: where it is in what was read, or in the arena.
    row: Range<usize>,
    /// Its table and the head of its key, which mostly tell which of two comes first.
    head: (usize, u64),
}

/// What comes behind it.
#[derive(Debug)]
enum Rest<'s> {
    InMemory(std::slice::Iter<'s, Place>),
    Spilled(Range<u64>),
}

impl Cursor<'_> {
    fn bytes(&self) -> &[u8] {
        let all = match self.rest {
            Rest::InMemory(_) => &self.shelf.arena,
            Rest::Spilled(_) => &self.read,
        };
        all.get(self.row.clone()).unwrap_or_default()
    }

    fn row(&self) -> Option<Row<'_>> {
        Row::read(self.bytes())
    }

    /// To the next row, if there is one.
    fn advance(&mut self) -> io::Result<bool> {
        let (from, length) = match &mut self.rest {
            Rest::InMemory(places) => {
                let Some(place) = places.next() else { return Ok(false) };
                let from = place.at as usize;
                (from, bytes_at(&self.shelf.arena, from).map(<[u8]>::len))
            }
            Rest::Spilled(rest) => {
                let mut from = self.row.end;
                while {
                    let known = &self.read[from..];
                    length(known).is_none_or(|length| length > known.len())
                } {
                    if rest.is_empty() {
                        return if self.read.len() == from { Ok(false) } else { Err(damaged()) };
                    }
                    self.read.drain(..from);
                    from = 0;
                    // As much as usual, or all of a row that is longer.
                    let known = self.read.len();
                    let wanted = length(&self.read).unwrap_or(0).max(self.window);
                    let more = (rest.end - rest.start).min((wanted - known) as u64);
                    self.read.resize(known + more as usize, 0);
                    self.shelf.spill.read(rest.start, &mut self.read[known..])?;
                    rest.start += more;
                }
                (from, length(&self.read[from..]))
            }
        };
        self.row = from..from + length.ok_or_else(damaged)?;
        let row = self.row().ok_or_else(damaged)?;
        self.head = (row.table, row.head);
        Ok(true)
    }
}

/// Such that the greatest of a heap is what comes first.
impl Ord for Cursor<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        let in_full = || other.row().map(|row| row.order()).cmp(&self.row().map(|row| row.order()));
        other.head.cmp(&self.head).then_with(in_full).then(other.nth.cmp(&self.nth))
    }
}

impl PartialOrd for Cursor<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Cursor<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Cursor<'_> {}

fn damaged() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "what was put aside is not what is read")
}

fn head(bytes: &[u8]) -> u64 {
    let mut first = [0; 8];
    let length = bytes.len().min(8);
    first[..length].copy_from_slice(&bytes[..length]);
    u64::from_be_bytes(first)
}

/// Never greater for a smaller value of the same class.
pub fn key_head(value: &Value) -> u64 {
    match value {
        Value::Absent | Value::Null | Value::Real(_) => 0,
        Value::Integer(number) => (*number as u64) ^ (1 << 63),
        Value::Text(text) => head(text.as_bytes()),
        Value::Blob(bytes) => head(bytes),
    }
}

/// Whether the head of a key says all of it.
fn is_told_by_head(shape: &Table, values: &[Value]) -> bool {
    matches!(shape.key.as_slice(), [only] if matches!(values[*only], Value::Integer(_)))
}

/// In memory, and now and then nowhere.
#[cfg(test)]
#[derive(Debug, Default)]
pub struct Scrap {
    bytes: Vec<u8>,
    calls: std::cell::Cell<u32>,
    /// Every so many calls one fails, up to the third; 0: none.
    fails_every: u32,
}

#[cfg(test)]
impl Scrap {
    pub fn failing_every(calls: u32) -> Scrap {
        Scrap { fails_every: calls, ..Scrap::default() }
    }

    fn call(&self) -> io::Result<()> {
        let calls = self.calls.get() + 1;
        self.calls.set(calls);
        let fails = self.fails_every > 0 && calls.is_multiple_of(self.fails_every);
        if fails && calls / self.fails_every <= 3 { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }
}

#[cfg(test)]
impl Spill for Scrap {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.call()?;
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    fn read(&self, at: u64, into: &mut [u8]) -> io::Result<()> {
        self.call()?;
        let from = self.bytes.get(at as usize..).and_then(|from| from.get(..into.len()));
        into.copy_from_slice(from.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn clear(&mut self) -> io::Result<()> {
        self.bytes.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::domain::shelving::BYTES_MAX;
    use crate::domain::tests::table;
    use crate::domain::value::key_bytes;
    use crate::domain::version::{Coordinates, VersionKind};

    /// Keys that their head tells, keys that begin alike, and keys of two columns.
    fn shapes() -> [Table; 3] {
        let of = |key: &[usize]| Table { key: key.to_vec(), ..table(2) };
        [of(&[0]), of(&[1]), of(&[1, 0])]
    }

    fn values(nth: i64, width: usize) -> Vec<Value> {
        vec![Value::Integer(nth), Value::Text(format!("customers-{:03}{}", nth * 7 % 600, ".".repeat(width)))]
    }

    fn version(nth: i64) -> Version {
        let at = Coordinates { topic: 0, partition: 0, offset: 1 };
        Version::new(VersionKind::Integer, &[nth], at).unwrap()
    }

    /// What a set gives: tables, keys and versions, in its order.
    fn given(shelf: &Shelf, set: u32) -> Vec<(usize, Vec<u8>, Version)> {
        let shapes = shapes();
        let (mut rows, mut bytes, mut given) = (shelf.set(set).unwrap(), Vec::new(), Vec::new());
        while let Some(row) = rows.next(&mut bytes).unwrap() {
            let (values, version) = row.packed().unpack().unwrap();
            given.push((row.table, key_bytes(shapes[row.table].key_of(&values)), version));
        }
        given
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// However many runs there are, in memory and in the spill, and also when it is used again.
        #[test]
        fn a_set_gives_the_newest_of_each_row_once_and_in_the_order_of_keys(
            puts in prop::collection::vec((0usize..3, 0i64..60, 0i64..9), 1..400),
            spills in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
            ends in prop::collection::vec(any::<prop::sample::Index>(), 0..4),
        ) {
            let shapes = shapes();
            let mut shelf = Shelf::new(Box::new(Scrap::default()));
            for _ in 0..2 {
                let mut expected: Vec<BTreeMap<(usize, Vec<u8>), Version>> = vec![BTreeMap::new()];
                for (at, (table, key, nth)) in puts.iter().enumerate() {
                    if ends.iter().any(|end| end.index(puts.len()) == at) && !expected.last().unwrap().is_empty() {
                        shelf.end_set();
                        expected.push(BTreeMap::new());
                    }
                    if spills.iter().any(|spill| spill.index(puts.len()) == at) {
                        shelf.spill().unwrap();
                    }
                    let shape = &shapes[*table];
                    let values = values(*key, 0);
                    let row = Whole { table: *table, topic: 0, values: &values, version: version(*nth) };
                    let rows = expected.last_mut().unwrap();
                    let begins = rows.is_empty().then_some(expected.len() as u32 - 1);
                    let rows = expected.last_mut().unwrap();
                    let newest = rows.entry((*table, key_bytes(shape.key_of(&values)))).or_insert(version(*nth));
                    *newest = (*newest).max(version(*nth));
                    prop_assert_eq!(shelf.put(shape, &row, 7).unwrap(), begins);
                }
                shelf.end_run();
                for (set, rows) in expected.iter().enumerate() {
                    let given = given(&shelf, set as u32);
                    let newest: BTreeMap<_, _> =
                        given.iter().map(|(table, key, version)| ((*table, key.clone()), *version)).collect();
                    prop_assert_eq!(&newest, rows);
                    prop_assert_eq!(given.len(), rows.len(), "each once");
                    prop_assert!(given.is_sorted_by_key(|(table, ..)| *table));
                }
                prop_assert_eq!(shelf.counts().iter().flat_map(|(_, _, all)| all).sum::<u64>(), puts.len() as u64);
                shelf = shelf.emptied().unwrap();
                prop_assert!(shelf.is_empty());
            }
        }

        #[test]
        fn bytes_that_are_no_row_are_refused_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            Row::read(&bytes);
        }
    }

    /// Puts rows of so many bytes until it is full or there are no more.
    fn filled(shelf: &mut Shelf, fill: Fill, bytes: usize, rows: i64) -> i64 {
        let shapes = shapes();
        for nth in 0..rows {
            if shelf.is_full(fill) {
                return nth;
            }
            let values = values(nth, bytes);
            let row = Whole { table: 0, topic: 0, values: &values, version: version(nth) };
            shelf.put(&shapes[0], &row, 7).unwrap();
        }
        rows
    }

    #[test]
    fn what_does_not_come_again_stays_in_memory() {
        let mut shelf = Shelf::new(Box::new(Scrap::default()));
        let rows = filled(&mut shelf, Fill::Run, 200, i64::MAX);
        assert!((1_000..8_000).contains(&rows), "{rows}");
        assert_eq!(shelf.spilled, 0);
    }

    #[test]
    fn rows_of_every_size_fill_a_shelf_before_reading_them_takes_much_memory() {
        for (bytes, least) in [(10, 400_000), (300, 200_000), (100_000, 8), (3_000_000, 1)] {
            let mut shelf = Shelf::new(Box::new(Scrap::default()));
            let rows = filled(&mut shelf, Fill::Bytes(BYTES_MAX), bytes, 450_000);
            assert!(rows >= least, "{rows} rows of {bytes}");
            let windows = shelf.runs.len() * shelf.longest.max(WINDOW_BYTES);
            assert!(windows <= MERGE_BYTES.max(shelf.longest * 2), "{windows} for {rows} rows of {bytes}");
            assert!(shelf.arena.capacity() <= ARENA_BYTES.max(2 * shelf.longest + RUN_BYTES));
            shelf.end_run();
            assert_eq!(given(&shelf, 0).len(), rows as usize);
        }
    }

    #[test]
    fn a_long_row_among_many_runs_takes_its_own_memory_and_not_that_of_each_run() {
        let mut shelf = Shelf::new(Box::new(Scrap::default()));
        filled(&mut shelf, Fill::Bytes(64 << 20), 300, i64::MAX);
        let (runs, long) = (shelf.runs.len(), 3 << 20);
        assert!(runs > 50, "{runs}");
        let values = values(-1, long);
        shelf
            .put(&shapes()[0], &Whole { table: 0, topic: 0, values: &values, version: version(1) }, 7)
            .unwrap();
        assert!(shelf.is_full(Fill::Bytes(BYTES_MAX)));
        shelf.spill().unwrap();
        let mut rows = shelf.set(0).unwrap();
        let mut bytes = Vec::new();
        for _ in 0..10_000 {
            assert!(rows.next(&mut bytes).unwrap().is_some());
            let memory: usize = rows.cursors.iter().map(|cursor| cursor.read.capacity()).sum();
            assert!(memory < 2 * MERGE_BYTES + 2 * long, "{memory} bytes for {runs} runs");
        }
    }
}
