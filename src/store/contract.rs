//! The contract of [`Store`] and [`Reader`]: one suite, run against every store, compared with the
//! reference model.

/// Makes of each case a test for each store.
macro_rules! contract {
    ($($case:ident),* $(,)?) => {
        mod memory {
            $(#[test] fn $case() { super::$case(&super::fresh::<super::InMemory>()) })*
        }
        mod sqlite {
            $(#[test] fn $case() { super::$case(&super::fresh::<super::InSqlite>()) })*
        }
        mod redis {
            $(#[test] fn $case() {
                if super::server::available() {
                    super::$case(&super::fresh::<super::InRedis>())
                }
            })*
        }
        mod redis_json {
            $(#[test] fn $case() {
                if super::server::available() {
                    super::$case(&super::fresh::<super::InRedisJson>())
                }
            })*
        }
    };
}

mod cases;
mod generations;
mod histories;
mod sets;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;

use super::around::Around;
use super::redis::tests::server;
use super::{
    LossLimit, MemoryStore, Reader, Rebuild, RedisReader, RedisSettings, RedisStore, RowLookup, Settings,
    SqliteReader, SqliteStore, Store, StoreError,
};
use crate::config::RowEncoding;
use crate::domain::batch::{Advance, AfterGap, Batch, BatchBuilder, Entry, Observed, Step, Sweep};
use crate::domain::catalog::{Catalog, Column, Table};
use crate::domain::change::{Change, IfMissing, Operation};
use crate::domain::checkpoint::{Position, TopicPartition};
use crate::domain::snapshot::Phase;
use crate::domain::value::{ColumnType, Value};
use crate::domain::version::{Coordinates, Version, VersionKind};

pub(super) const HEARTBEAT_LIMIT: Duration = Duration::from_secs(4);
/// Heartbeat of every batch that says nothing else.
pub(super) const NOW_MS: i64 = 1_700_000_000_000;

/// Without anything in it.
fn fresh<B: Bench>() -> B {
    B::new(Arc::new(catalog()))
}

/// A replica that can be opened, closed and opened again.
pub(super) trait Bench {
    type Opened: Store;
    fn new(catalog: Arc<Catalog>) -> Self;
    fn open(&self) -> Self::Opened;
    fn reader(&self) -> Box<dyn Reader>;
}

pub(super) struct InMemory(MemoryStore);

impl Bench for InMemory {
    type Opened = MemoryStore;

    fn new(catalog: Arc<Catalog>) -> InMemory {
        InMemory(MemoryStore::new(catalog, HEARTBEAT_LIMIT))
    }

    fn open(&self) -> MemoryStore {
        self.0.clone()
    }

    fn reader(&self) -> Box<dyn Reader> {
        Box::new(self.0.reader())
    }
}

pub(super) struct InSqlite {
    directory: TempDir,
    catalog: Arc<Catalog>,
}

impl InSqlite {
    pub fn path(&self) -> std::path::PathBuf {
        self.directory.path().join("replica.db")
    }

    pub fn try_open(&self) -> Result<SqliteStore, StoreError> {
        SqliteStore::open(&self.path(), self.catalog.clone(), settings())
    }
}

pub(super) fn settings() -> Settings {
    Settings {
        replica_name: "orders".into(),
        heartbeat_limit: HEARTBEAT_LIMIT,
        dead_letter_bytes_max: 1_000,
        loss: LossLimit::default(),
        min_free_bytes: 0,
        wal_max_bytes: u64::MAX,
    }
}

impl Bench for InSqlite {
    type Opened = SqliteStore;

    fn new(catalog: Arc<Catalog>) -> InSqlite {
        InSqlite { directory: TempDir::new().unwrap(), catalog }
    }

    /// A first copy that looks at what is there; one that appends is compared by what it ends with,
    /// in `histories`.
    fn open(&self) -> SqliteStore {
        let mut store = self.try_open().unwrap();
        store.end_appending().unwrap();
        store
    }

    fn reader(&self) -> Box<dyn Reader> {
        Box::new(SqliteReader::new(&self.path(), self.catalog.clone()))
    }
}

/// Under a prefix of its own, in a server that others use too.
pub(super) struct InRedis {
    pub settings: RedisSettings,
    catalog: Arc<Catalog>,
}

impl InRedis {
    pub fn at(settings: RedisSettings, catalog: Arc<Catalog>) -> InRedis {
        InRedis { settings, catalog }
    }

    pub fn try_open(&self) -> Result<RedisStore, StoreError> {
        RedisStore::open(&self.settings, self.catalog.clone())
    }
}

impl Bench for InRedis {
    type Opened = RedisStore;

    fn new(catalog: Arc<Catalog>) -> InRedis {
        InRedis::at(server::shared().settings(RowEncoding::Hash), catalog)
    }

    fn open(&self) -> RedisStore {
        self.try_open().unwrap()
    }

    fn reader(&self) -> Box<dyn Reader> {
        Box::new(RedisReader::new(&self.settings, self.catalog.clone()))
    }
}

/// The same with rows as JSON, and with the first batch prepared and every other one after it.
pub(super) struct InRedisJson(InRedis);

impl Bench for InRedisJson {
    type Opened = Around<RedisStore>;

    fn new(catalog: Arc<Catalog>) -> InRedisJson {
        InRedisJson(InRedis::at(server::shared().settings(RowEncoding::Json), catalog))
    }

    fn open(&self) -> Around<RedisStore> {
        let store = self.0.open();
        let (prepare, mut batches) = (store.preparer().unwrap(), 0..);
        Around::new(store).before_apply(move |batch| {
            if batches.next().is_some_and(|nth| nth % 2 == 0) {
                prepare(batch);
            }
            Ok(())
        })
    }

    fn reader(&self) -> Box<dyn Reader> {
        self.0.reader()
    }
}

/// Tables with every kind of key, and names that need care.
pub(super) fn catalog() -> Catalog {
    use ColumnType::*;
    let table = |name: &str, columns: &[(&str, ColumnType, bool)], key: &[usize], topics: &[usize]| Table {
        name: name.into(),
        columns: columns
            .iter()
            .map(|&(name, ty, nullable)| Column { name: name.into(), ty, nullable })
            .collect(),
        key: key.to_vec(),
        indexes: vec![],
        prefixes: vec![],
        topics: topics.to_vec(),
        max_staleness_ms: 30_000,
        ordered_by_position: false,
        delete_marks_ms: 60_000,
        fingerprint: format!("fingerprint of {name}"),
    };
    let mut users = table(
        "users",
        &[("id", Integer, false), ("name", Text, false), ("email", Text, true), ("score", Real, true)],
        &[0],
        &[0],
    );
    users.indexes = vec![vec![2], vec![1, 2]];
    Catalog {
        topics: vec!["shop.events".into(), "users.events".into()],
        tables: vec![
            users,
            table(
                "users_hidden",
                &[
                    ("sku", Text, false),
                    ("photo", Blob, true),
                    ("tenant", Integer, false),
                    ("price", Decimal, false),
                ],
                &[2, 0],
                &[0, 1],
            ),
            table("Order", &[("group", Uuid, false), ("rowid", Boolean, true)], &[0], &[1]),
            table("odd \"name\"", &[("it's", Blob, false), ("key", Text, false)], &[0, 1], &[1]),
        ],
        fingerprint: "fingerprint".into(),
    }
}

/// With rows that are cleared by prefixes, in one table by prefixes of two lengths.
pub(super) fn with_prefixes() -> Catalog {
    let mut catalog = catalog();
    catalog.tables[3].prefixes = vec![1];
    let column = |name: &str, ty, nullable| Column { name: name.into(), ty, nullable };
    let lines = Table {
        name: "lines".into(),
        columns: vec![
            column("shop", ColumnType::Text, false),
            column("order", ColumnType::Integer, false),
            column("line", ColumnType::Integer, false),
            column("sku", ColumnType::Text, true),
        ],
        key: vec![0, 1, 2],
        prefixes: vec![1, 2],
        ..catalog.tables[2].clone()
    };
    catalog.tables.push(lines);
    catalog
}

/// Key columns of the `nth` key of a table, everything else absent. Where a table has prefixes, two
/// neighbours share all but the last column.
pub(super) fn key_row(table: &Table, nth: i64) -> Vec<Value> {
    let value = |index: usize, column: &Column| {
        if !table.is_key(index) {
            return Value::Absent;
        }
        let shared = !table.prefixes.is_empty() && table.key.last() != Some(&index);
        let nth = if shared { nth / 2 } else { nth };
        match column.ty {
            ColumnType::Integer => Value::Integer(nth - 2),
            ColumnType::Blob => Value::Blob(vec![nth as u8, 0, 255]),
            _ => Value::Text(format!("k\0{nth}é")),
        }
    };
    table.columns.iter().enumerate().map(|(index, column)| value(index, column)).collect()
}

/// The first columns of the `nth` key of a table with prefixes, everything else absent.
pub(super) fn prefix_row(table: &Table, nth: i64, columns: usize) -> Vec<Value> {
    let mut values = key_row(table, nth);
    for &column in &table.key[columns..] {
        values[column] = Value::Absent;
    }
    values
}

pub(super) fn key(table: &Table, nth: i64) -> Vec<Value> {
    let row = key_row(table, nth);
    table.key_of(&row).cloned().collect()
}

/// A row whose content follows from `seed`; columns whose bit in `mask` is clear are absent.
pub(super) fn row(table: &Table, nth: i64, seed: i64, mask: u8) -> Vec<Value> {
    let mut values = key_row(table, nth);
    for (index, column) in table.columns.iter().enumerate() {
        if table.is_key(index) || mask & (1 << index) == 0 {
            continue;
        }
        values[index] = if column.nullable && (seed + index as i64) % 4 == 0 {
            Value::Null
        } else {
            match column.ty {
                ColumnType::Integer => Value::Integer(seed),
                ColumnType::Boolean => Value::Integer(seed & 1),
                ColumnType::Real => Value::Real(seed as f64 / 8.0),
                ColumnType::Blob => Value::Blob(seed.to_be_bytes().to_vec()),
                _ => Value::Text(format!("text {seed} of {index}")),
            }
        };
    }
    values
}

pub(super) fn version(number: i64, partition: i32, offset: i64) -> Version {
    Version::new(VersionKind::Integer, &[number], Coordinates { topic: 0, partition, offset }).unwrap()
}

/// An upsert of the first table's `nth` row.
pub(super) fn upsert(nth: i64, number: i64) -> Change {
    let table = &catalog().tables[0];
    Change {
        table: 0,
        topic: 0,
        operation: Operation::Write { if_missing: IfMissing::Hold },
        values: row(table, nth, number, 0xFF),
        from: vec![],
        version: version(number, 0, number),
    }
}

pub(super) fn patch(nth: i64, number: i64, mask: u8, if_missing: IfMissing) -> Change {
    let values = row(&catalog().tables[0], nth, number, mask);
    Change { operation: Operation::Write { if_missing }, values, ..upsert(nth, number) }
}

pub(super) fn delete(nth: i64, number: i64) -> Change {
    let values = key_row(&catalog().tables[0], nth);
    Change { operation: Operation::Delete, values, ..upsert(nth, number) }
}

pub(super) fn observed() -> Observed {
    Observed { heartbeat_ms: NOW_MS, connected: true, ..Observed::default() }
}

/// A rebuild that is wanted for its own sake.
pub(crate) fn asked_for() -> Rebuild {
    Rebuild {
        reason: "asked for".into(),
        may_go_back: false,
        accepts_loss: false,
        live_is_frozen: false,
        from_live: false,
    }
}

/// A batch that moves no partition.
pub(super) fn batch(changes: impl IntoIterator<Item = Change>) -> Batch {
    let catalog = catalog();
    let mut builder = BatchBuilder::default();
    for change in changes {
        builder.push(&catalog, change);
    }
    builder.seal(observed())
}

/// A batch that says of a partition only that nothing older is missing.
pub(super) fn fresh_as_of(at: TopicPartition, fresh_as_of_ms: i64) -> Batch {
    let mut batch = batch([]);
    batch.observed.fresh_as_of_ms.insert(at, fresh_as_of_ms);
    batch
}

pub(super) const AT: TopicPartition = TopicPartition { topic: 0, partition: 0 };

pub(super) fn advance(from: Option<i64>, next_offset: i64) -> BTreeMap<TopicPartition, Advance> {
    BTreeMap::from([(AT, Advance { from, to: Position { next_offset, ..Position::start() } })])
}

/// What readers see of the `nth` row of the first table.
pub(super) fn look(bench: &impl Bench, nth: i64) -> RowLookup {
    bench.reader().row(0, &key(&catalog().tables[0], nth)).unwrap()
}

pub(super) fn visible(nth: i64, number: i64) -> RowLookup {
    let change = upsert(nth, number);
    RowLookup::Visible { values: change.values, version: change.version }
}

/// A change; a snapshot that is swept stands for the sweep, an incomplete one for that of one.
fn push(builder: &mut BatchBuilder, catalog: &Catalog, change: &Change) {
    match change.operation {
        Operation::Snapshot(phase @ (Phase::Swept | Phase::Incomplete)) => {
            let sweep = Sweep { begin: change.version, is_whole: phase == Phase::Swept };
            builder.push_sweep(change.table, change.topic, sweep);
        }
        _ => builder.push(catalog, change.clone()),
    }
}

/// One entry per change: nothing is folded.
fn unfolded(catalog: &Catalog, batches: &[Vec<Change>]) -> Vec<Vec<Entry>> {
    let one = |change: &Change| {
        let mut builder = BatchBuilder::default();
        push(&mut builder, catalog, change);
        builder.seal(Observed::default()).entries
    };
    batches.iter().map(|changes| changes.iter().flat_map(one).collect()).collect()
}

fn is_truncate(entry: &Entry) -> bool {
    matches!(entry.step, Step::Cut { .. })
}

/// The catalog with fingerprints as the mapping makes them.
pub(super) fn described() -> Catalog {
    let mut catalog = catalog();
    for table in &mut catalog.tables {
        let columns: Vec<_> = table.columns.iter().map(|column| column.name.as_str()).collect();
        table.fingerprint = format!("{}:{}", table.name, columns.join(","));
    }
    catalog.fingerprint = "described".into();
    catalog
}

/// `users` without `email`, in another order, and one table less.
pub(super) fn narrowed() -> Catalog {
    let mut catalog = described();
    let users = &mut catalog.tables[0];
    users.columns = [3, 0, 1].map(|column| users.columns[column].clone()).to_vec();
    users.key = vec![1];
    users.indexes = vec![vec![2, 0]];
    users.fingerprint = "users:score,id,name".into();
    catalog.tables.remove(2);
    catalog.fingerprint = "narrowed".into();
    catalog
}

/// Events of `users`, as the one or the other mapping makes changes of them: rows, deletes, patches
/// in any order, late ones.
pub(super) fn users_history(catalog: &Catalog, narrow: bool) -> Vec<Batch> {
    let mut changes = Vec::new();
    for nth in 0..400 {
        changes.push(upsert(nth, 10 + nth % 3));
        match nth % 5 {
            0 => changes.push(patch(nth, 20, 0b0010, IfMissing::Hold)),
            1 => changes.push(patch(nth, 21, 0b1010, IfMissing::Hold)),
            2 => changes.push(delete(nth, 22)),
            3 => changes.extend([patch(nth, 25, 0b1000, IfMissing::Hold), delete(nth, 23)]),
            _ => {}
        }
    }
    // A patched row whose older columns were deleted is held: it is made whole again.
    changes.extend((0..400).filter(|nth| nth % 5 == 3).map(|nth| upsert(nth, 30)));
    if narrow {
        for change in &mut changes {
            change.values = [3, 0, 1].map(|column| change.values[column].clone()).to_vec();
        }
    }
    changes
        .chunks(50)
        .map(|chunk| {
            let mut builder = BatchBuilder::default();
            chunk.iter().for_each(|change| builder.push(catalog, change.clone()));
            builder.seal(observed())
        })
        .collect()
}
