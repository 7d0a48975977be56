//! A shelf: whole rows of a batch that is larger than memory should be.
//!
//! While nobody reads a copy yet, a batch may be large: what comes again within it is written once, and
//! what is written goes in the order of keys, page by page. Its rows are put aside as bytes
//! ([`super::packed`]) in a [`Spill`], and only where they lie is kept in memory.

use std::fmt::Debug;
use std::io;

use hashbrown::HashTable;

use super::catalog::Table;
use super::change::Effect;
use super::packed::{PackedRow, pack};
use super::row::RowState;
use super::value::Value;
use super::version::Version;

/// Rows on a shelf at most: what a table of hashes with 2^15 places takes. Each row takes about 40 bytes of
/// memory with what finds it.
pub const ROWS_MAX: usize = 28 << 10;
/// Bytes on a shelf after which it counts as full.
pub const BYTES_MAX: u64 = 32 << 20;
/// Records that lead to a shelf after which it counts as full: what a crash has read again.
pub const RECORDS_MAX: u64 = 1 << 20;

/// Where rows are put aside: bytes that are appended and read again, and mean nothing after a crash.
pub trait Spill: Debug + Send {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Bytes that were appended, wherever they are by now. What could not be appended is not there.
    fn read(&self, at: u64, into: &mut [u8]) -> io::Result<()>;

    /// Forgets everything.
    fn clear(&mut self) -> io::Result<()>;
}

#[derive(Debug)]
pub struct Shelf {
    spill: Box<dyn Spill>,
    /// In the order in which their keys came first. A row that went has no bytes.
    rows: Vec<ShelvedRow>,
    /// Indexes into `rows` by hash of table and key.
    index: HashTable<u32>,
    /// Bytes in the spill.
    bytes: u64,
    /// Events in the rows by topic, table and [`Effect`].
    counts: Vec<(usize, usize, [u64; Effect::ALL.len()])>,
    scratch: Vec<u8>,
}

#[derive(Debug, Clone, Copy)]
pub struct ShelvedRow {
    /// Far below 2^16: see the bound on tables in the configuration.
    pub table: u16,
    pub hash: u32,
    at: u32,
    length: u32,
    /// The first eight bytes of its version: mostly they tell which of two is newer.
    version: u64,
    /// The same of its key, in its order.
    pub key: u64,
}

/// A change of a row that is complete.
pub struct Whole<'a> {
    pub table: usize,
    pub topic: usize,
    pub values: &'a [Value],
    pub version: Version,
}

impl Shelf {
    pub fn new(spill: Box<dyn Spill>) -> Shelf {
        Shelf {
            spill,
            rows: Vec::new(),
            index: HashTable::new(),
            bytes: 0,
            counts: Vec::new(),
            scratch: Vec::new(),
        }
    }

    /// An empty one over the same spill, for another batch.
    pub fn emptied(mut self) -> io::Result<Shelf> {
        self.spill.clear()?;
        self.rows.clear();
        self.counts.clear();
        self.index.clear();
        self.bytes = 0;
        Ok(self)
    }

    pub fn rows(&self) -> &[ShelvedRow] {
        &self.rows
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    pub fn is_full(&self) -> bool {
        self.rows.len() >= ROWS_MAX || self.bytes >= BYTES_MAX
    }

    /// Events by topic, table and effect.
    pub fn counts(&self) -> &[(usize, usize, [u64; Effect::ALL.len()])] {
        &self.counts
    }

    /// The bytes of a row, for [`PackedRow::read`]; empty: it went.
    pub fn read(&self, row: &ShelvedRow, into: &mut Vec<u8>) -> io::Result<()> {
        into.resize(row.length as usize, 0);
        self.spill.read(row.at.into(), into)
    }

    /// No more changes come: what finds rows by key is for the next one, if there is one.
    pub fn close(&mut self, next: Option<&mut Shelf>) {
        let (mut index, scratch) = (std::mem::take(&mut self.index), std::mem::take(&mut self.scratch));
        if let Some(next) = next {
            index.clear();
            (next.index, next.scratch) = (index, scratch);
        }
    }

    /// From here on rows are found by nobody: later changes of their keys come behind a step that
    /// depends on them.
    pub fn forget_keys(&mut self) {
        self.index.clear();
    }

    /// Puts a row aside, or replaces an older one of the same key. Returns whether it takes a new place,
    /// which is then the last of [`Shelf::rows`].
    pub fn put(&mut self, table: &Table, row: &Whole<'_>, hash: u64) -> io::Result<bool> {
        let hash = short(hash);
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear();
        pack(row.values, &row.version, &mut scratch);
        let put = self.put_packed(table, row, hash, &scratch);
        self.scratch = scratch;
        put
    }

    fn put_packed(&mut self, table: &Table, row: &Whole<'_>, hash: u32, packed: &[u8]) -> io::Result<bool> {
        let found = self.find(table, row.table, row.values, hash)?;
        let version = head(row.version.as_bytes());
        if let Some(place) = found {
            let known = self.rows[place];
            let is_newer = match version.cmp(&known.version) {
                std::cmp::Ordering::Equal => {
                    let mut bytes = Vec::new();
                    self.read(&known, &mut bytes)?;
                    let known = PackedRow::read(&bytes).map_or(&[][..], |known| known.version_bytes());
                    row.version.as_bytes() > known
                }
                order => order.is_gt(),
            };
            if is_newer {
                let at = self.write(packed)?;
                self.rows[place] = ShelvedRow { at, length: packed.len() as u32, version, ..known };
            }
            self.count(row);
            return Ok(false);
        }
        let at = self.write(packed)?;
        if self.rows.capacity() == 0 {
            // At once: growing would take half as much again.
            self.rows.reserve_exact(ROWS_MAX);
            self.index.reserve(ROWS_MAX, |_| 0);
        }
        let place = self.rows.len() as u32;
        let key = table.key.first().map_or(0, |&column| key_head(&row.values[column]));
        let length = packed.len() as u32;
        self.rows.push(ShelvedRow { table: row.table as u16, hash, at, length, version, key });
        let rows = &self.rows;
        self.index.insert_unique(spread(hash), place, |&place| spread(rows[place as usize].hash));
        self.count(row);
        Ok(true)
    }

    /// Takes the row with the key of `values` off the shelf, if it is there.
    pub fn take(
        &mut self,
        shape: &Table,
        (table, values): (usize, &[Value]),
        hash: u64,
    ) -> io::Result<Option<RowState>> {
        let hash = short(hash);
        let Some(place) = self.find(shape, table, values, hash)? else { return Ok(None) };
        let mut bytes = Vec::new();
        self.read(&self.rows[place], &mut bytes)?;
        self.forget(place, hash);
        let row = PackedRow::read(&bytes).and_then(|row| row.unpack()).ok_or_else(damaged)?;
        self.rows[place].length = 0;
        Ok(Some(RowState::written(row.0, row.1)))
    }

    /// Later changes of the key get a place of their own.
    pub fn part(&mut self, shape: &Table, (table, values): (usize, &[Value]), hash: u64) -> io::Result<()> {
        let hash = short(hash);
        if let Some(place) = self.find(shape, table, values, hash)? {
            self.forget(place, hash);
        }
        Ok(())
    }

    fn forget(&mut self, place: usize, hash: u32) {
        if let Ok(found) = self.index.find_entry(spread(hash), |&at| at as usize == place) {
            found.remove();
        }
    }

    /// By hash, then by what the row says: two keys may share a hash.
    fn find(&self, shape: &Table, table: usize, values: &[Value], hash: u32) -> io::Result<Option<usize>> {
        let key = shape.key.first().map_or(0, |&column| key_head(&values[column]));
        let is_alike = |&place: &u32| {
            let row = &self.rows[place as usize];
            (row.hash, row.table as usize, row.key) == (hash, table, key)
        };
        let Some(&place) = self.index.find(spread(hash), is_alike) else { return Ok(None) };
        let place = place as usize;
        if is_told_by_head(shape, values) {
            return Ok(Some(place));
        }
        let mut bytes = Vec::new();
        self.read(&self.rows[place], &mut bytes)?;
        let (known, _) = PackedRow::read(&bytes).and_then(|row| row.unpack()).ok_or_else(damaged)?;
        Ok(shape.key_of(&known).eq(shape.key_of(values)).then_some(place))
    }

    fn write(&mut self, packed: &[u8]) -> io::Result<u32> {
        let at = u32::try_from(self.bytes).map_err(|_| io::ErrorKind::FileTooLarge)?;
        self.spill.append(packed)?;
        self.bytes += packed.len() as u64;
        Ok(at)
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

fn damaged() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "what was put aside is not what is read")
}

fn short(hash: u64) -> u32 {
    (hash >> 32) as u32 ^ hash as u32
}

/// A table of hashes looks at the highest bits and at the lowest.
fn spread(hash: u32) -> u64 {
    u64::from(hash) << 32 | u64::from(hash)
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
