//! Random histories: whatever happens to a log on its way, every store ends like the model.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::domain::change::Cleared;
use crate::domain::event_ids::{EventId, NewEventIds};
use crate::domain::shelf::{Scrap, Shelf};
use crate::domain::shelving::{Shelves, Stage};
use crate::domain::snapshot::Phase;
use crate::store::Figures;

/// Keys per table: few, so that histories meet.
const KEYS: i64 = 3;

#[derive(Debug, Clone)]
struct Event {
    table: usize,
    key: i64,
    kind: u8,
    mask: u8,
    number: i64,
    partition: i32,
    /// Delivered again after so many further events.
    again_after: Option<u8>,
    end_batch: bool,
    reopen: bool,
}

fn history() -> impl Strategy<Value = Vec<Event>> {
    let usual = events(prop_oneof![3 => Just(0), 1 => 1usize..5], 0u8..38);
    // Of tables with prefixes, with much that takes away.
    let sets = events(3usize..5, prop_oneof![0u8..17, 21u8..23, 21u8..38]);
    prop_oneof![2 => usual, 1 => sets]
}

fn events(
    table: impl Strategy<Value = usize>,
    kind: impl Strategy<Value = u8>,
) -> impl Strategy<Value = Vec<Event>> {
    let event = (
        (table, 0..KEYS, kind, any::<u8>(), 0i64..60, 0i32..3),
        prop::option::weighted(0.2, 0u8..12),
        prop::bool::weighted(0.1),
        prop::bool::weighted(0.2),
    )
        .prop_map(|((table, key, kind, mask, number, partition), again_after, end_batch, reopen)| Event {
            table,
            key,
            kind,
            mask,
            number,
            partition,
            again_after,
            end_batch,
            reopen,
        });
    prop::collection::vec(event, 1..80)
}

impl Event {
    fn depends_on_rows(&self) -> bool {
        matches!(self.kind, 17..=22 | 25..)
    }

    fn change(&self, catalog: &Catalog, offset: i64) -> Change {
        let table = &catalog.tables[self.table];
        let mut version = version(self.number, self.partition, offset);
        let mut from = vec![];
        match self.kind {
            21 | 22 => version = version.just_before(),
            32 | 33 => from = key_row(table, (self.key + 1) % KEYS),
            // Few, so that what is said of one meets it.
            34.. => version = super::version(self.number / 20 * 20, 0, 0).first_of_its_kind(),
            _ => {}
        }
        let seed = self.number * 1_000 + offset;
        let whole = row(table, self.key, seed, 0xFF);
        let part = row(table, self.key, seed, self.mask);
        let key = key_row(table, self.key);
        let (operation, values) = match self.kind {
            0..=8 => (Operation::Write { if_missing: IfMissing::Hold }, whole),
            9..=15 => (Operation::Write { if_missing: IfMissing::Hold }, part),
            16 => (Operation::Write { if_missing: IfMissing::Create }, part),
            17 | 18 => (Operation::Write { if_missing: IfMissing::Ignore }, part),
            19 | 20 => (Operation::Write { if_missing: IfMissing::DeadLetter }, part),
            21 | 22 if !table.prefixes.is_empty() => {
                let prefix = table.prefixes[usize::from(self.mask) % table.prefixes.len()];
                (clear(self.kind), prefix_row(table, self.key, prefix))
            }
            21..=24 => (Operation::Delete, key),
            25..=30 => (Operation::Tombstone, key),
            31 => (Operation::Truncate, vec![]),
            32 | 33 => (Operation::Carry { read_before_ms: self.number }, key),
            34 => (Operation::Snapshot(Phase::UnderWay), vec![]),
            35 => (Operation::Snapshot(Phase::Listed), vec![]),
            // Stand for sweeps, which are no changes.
            36 => (Operation::Snapshot(Phase::Incomplete), vec![]),
            _ => (Operation::Snapshot(Phase::Swept), vec![]),
        };
        Change { table: self.table, topic: 0, operation, values, from, version }
    }
}

fn clear(kind: u8) -> Operation {
    Operation::Clear(if kind == 21 { Cleared::Deleted } else { Cleared::Replaced })
}

/// Changes as they arrive, cut into batches; whether the store is opened anew after each.
fn delivery(catalog: &Catalog, history: &[Event]) -> (Vec<Vec<Change>>, Vec<bool>) {
    let mut offsets = [0i64; 3];
    let mut again: BTreeMap<usize, Vec<Change>> = BTreeMap::new();
    let (mut batches, mut reopens) = (vec![vec![]], vec![false]);
    for (index, event) in history.iter().enumerate() {
        let offset = &mut offsets[event.partition as usize];
        let change = event.change(catalog, *offset);
        *offset += 1;
        if let Some(after) = event.again_after {
            again.entry(index + usize::from(after)).or_default().push(change.clone());
        }
        let last = batches.last_mut().unwrap();
        last.push(change);
        last.extend(again.remove(&index).into_iter().flatten());
        if event.end_batch {
            *reopens.last_mut().unwrap() = event.reopen;
            batches.push(vec![]);
            reopens.push(false);
        }
    }
    batches.last_mut().unwrap().extend(again.into_values().flatten());
    (batches, reopens)
}

fn folded(catalog: &Catalog, changes: &[Change]) -> BatchBuilder {
    let mut builder = BatchBuilder::default();
    for change in changes {
        push(&mut builder, catalog, change);
    }
    builder
}

/// Positions that the nth batch moves from and to, and the event ids it brings: none, one or two.
fn seal(mut builder: BatchBuilder, nth: usize) -> Batch {
    let from = nth.checked_sub(1).map(|before| before as i64 * 10);
    let to = Position { next_offset: nth as i64 * 10, leader_epoch: nth as i32, ..Position::start() };
    builder.advance(AT, from, &to);
    let ids: Vec<EventId> = (0..nth % 3).map(|id| EventId::of_text(&format!("{nth}/{id}"))).collect();
    if !ids.is_empty() {
        builder.remember(nth % 2, NewEventIds { window: 3, ids });
    }
    builder.seal(observed())
}

/// Everything a reader and the daemon can know about a replica.
#[derive(Debug, PartialEq)]
struct Picture {
    rows: Vec<RowLookup>,
    figures: Figures,
    checkpoint: crate::domain::checkpoint::Checkpoint,
    status: crate::store::Status,
}

fn picture(catalog: &Catalog, store: &mut impl Store, reader: &dyn Reader) -> Picture {
    let mut rows = vec![];
    for (index, table) in catalog.tables.iter().enumerate() {
        for nth in 0..KEYS {
            rows.push(reader.row(index, &key(table, nth)).unwrap());
        }
    }
    let figures = Figures { replica_bytes: None, wal_bytes: None, ..store.figures() };
    let status = crate::store::Status { replica: String::new(), ..reader.status(NOW_MS).unwrap() };
    Picture { rows, figures, checkpoint: store.checkpoint().unwrap(), status }
}

proptest! {
    // Every case opens files and waits for the disk.
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn sqlite_ends_like_the_model(history in history(), complete_at in 0usize..20) {
        ends_like_the_model::<InSqlite>(&history, complete_at)?;
    }

    #[test]
    fn redis_ends_like_the_model(history in history(), complete_at in 0usize..20) {
        if server::available() {
            ends_like_the_model::<InRedis>(&history, complete_at)?;
        }
    }

    #[test]
    fn redis_with_json_ends_like_the_model(history in history(), complete_at in 0usize..20) {
        if server::available() {
            ends_like_the_model::<InRedisJson>(&history, complete_at)?;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// A first copy that appends knows at its end what one knows that looks at each row.
    #[test]
    fn appended_rows_end_like_the_model(history in history(), calm in any::<bool>(), complete_at in 0usize..20) {
        let catalog = Arc::new(with_prefixes());
        let history: Vec<Event> = history.into_iter().filter(|event| !calm || !event.depends_on_rows()).collect();
        let (batches, reopens) = delivery(&catalog, &history);
        let model = InMemory::new(catalog.clone());
        let bench = InSqlite::new(catalog.clone());
        let mut expected = model.open();
        let mut store = bench.try_open().unwrap();
        let complete_at = complete_at.min(batches.len() - 1);
        for (nth, changes) in batches.iter().enumerate() {
            let batch = seal(folded(&catalog, changes), nth);
            let (applied, usual) = (store.apply(&batch).unwrap(), expected.apply(&batch).unwrap());
            prop_assert_eq!(&applied.dead_letters, &usual.dead_letters);
            prop_assert_eq!(&applied.missing_row, &usual.missing_row);
            prop_assert_eq!(store.apply(&batch).unwrap().dead_letters_kept, applied.dead_letters_kept);
            if reopens[nth] {
                drop(store);
                store = bench.try_open().unwrap();
            }
            if nth == complete_at {
                store.complete().unwrap();
                expected.complete().unwrap();
            }
            if nth >= complete_at {
                prop_assert_eq!(
                    picture(&catalog, &mut store, &*bench.reader()),
                    picture(&catalog, &mut expected, &*model.reader())
                );
            }
        }
    }
}

/// As [`folded`], with whole rows put aside.
fn shelved(catalog: &Catalog, changes: &[Change], fails_every: u32) -> BatchBuilder {
    let mut builder = BatchBuilder::default();
    let scrap = Scrap::failing_every(fails_every);
    // Few rows fit into a run, so that some are spilled.
    let shelves = vec![Shelf::with_runs_of(300, Box::new(scrap))];
    builder.take_shelves(Shelves { shelves, stage: Stage::First, live_bytes_max: 0 });
    for change in changes {
        push(&mut builder, catalog, change);
    }
    builder
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Rows that are put aside mean the same as rows in memory, also where some cannot be.
    #[test]
    fn a_batch_with_rows_put_aside_is_its_changes_in_order(history in history(), fails_every in 0u32..9) {
        let catalog = Arc::new(with_prefixes());
        let (batches, _) = delivery(&catalog, &history);
        let (one, other) = (InMemory::new(catalog.clone()), InMemory::new(catalog.clone()));
        let (mut shelving, mut plain) = (one.open(), other.open());
        for (nth, changes) in batches.iter().enumerate() {
            let batch = seal(shelved(&catalog, changes, fails_every), nth);
            let usual = seal(folded(&catalog, changes), nth);
            // What was put aside can be read in time.
            let applied = loop {
                match shelving.apply(&batch) {
                    Err(StoreError::Retry { .. }) => {}
                    applied => break applied.unwrap(),
                }
            };
            let expected = plain.apply(&usual).unwrap();
            prop_assert_eq!(applied.dead_letters, expected.dead_letters);
            prop_assert_eq!(applied.swept, expected.swept);
            prop_assert_eq!(
                picture(&catalog, &mut shelving, &*one.reader()),
                picture(&catalog, &mut plain, &*other.reader())
            );
            let events = |batch: &Batch| -> u64 {
                let aside = batch.shelf.iter().flat_map(|shelf| shelf.counts().iter().flat_map(|(_, _, all)| *all));
                batch.entries.iter().map(Entry::event_count).sum::<u64>() + aside.sum::<u64>()
            };
            prop_assert_eq!(events(&batch), events(&usual));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// SQLite takes them like the model, while it looks at what is there and while it appends.
    #[test]
    fn sqlite_takes_rows_that_were_put_aside(history in history(), appends in any::<bool>(), calm in any::<bool>()) {
        let catalog = Arc::new(with_prefixes());
        let history: Vec<Event> = history.into_iter().filter(|event| !calm || !event.depends_on_rows()).collect();
        let (batches, _) = delivery(&catalog, &history);
        let model = InMemory::new(catalog.clone());
        let bench = InSqlite::new(catalog.clone());
        let mut expected = model.open();
        let mut store = if appends { bench.try_open().unwrap() } else { bench.open() };
        for (nth, changes) in batches.iter().enumerate() {
            let batch = seal(shelved(&catalog, changes, 0), nth);
            let usual = expected.apply(&seal(folded(&catalog, changes), nth)).unwrap();
            let applied = store.apply(&batch).unwrap();
            prop_assert_eq!(applied.dead_letters, usual.dead_letters);
            if !appends || nth + 1 == batches.len() {
                store.complete().unwrap();
                expected.complete().unwrap();
                prop_assert_eq!(
                    picture(&catalog, &mut store, &*bench.reader()),
                    picture(&catalog, &mut expected, &*model.reader())
                );
            }
        }
    }
}

fn ends_like_the_model<B: Bench>(history: &[Event], complete_at: usize) -> Result<(), TestCaseError> {
    let catalog = Arc::new(with_prefixes());
    let (batches, reopens) = delivery(&catalog, history);
    let model = InMemory::new(catalog.clone());
    let bench = B::new(catalog.clone());
    let mut expected = model.open();
    let mut store = bench.open();
    for (nth, changes) in batches.iter().enumerate() {
        let batch = seal(folded(&catalog, changes), nth);
        let applied = store.apply(&batch).unwrap();
        prop_assert_eq!(&applied, &expected.apply(&batch).unwrap());
        // The reply got lost, and the batch is sent again.
        prop_assert_eq!(store.apply(&batch).unwrap().dead_letters_kept, applied.dead_letters_kept);
        if nth == complete_at {
            store.complete().unwrap();
            expected.complete().unwrap();
        }
        if reopens[nth] {
            drop(store);
            store = bench.open();
        }
        prop_assert_eq!(
            picture(&catalog, &mut store, &*bench.reader()),
            picture(&catalog, &mut expected, &*model.reader())
        );
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// What the coalescer folds means the same as one change after the other.
    #[test]
    fn a_folded_batch_is_its_changes_in_order(history in history()) {
        let catalog = Arc::new(with_prefixes());
        let (batches, _) = delivery(&catalog, &history);
        let (one, other) = (InMemory::new(catalog.clone()), InMemory::new(catalog.clone()));
        let (mut folded_store, mut plain_store) = (one.open(), other.open());
        for (nth, (changes, entries)) in batches.iter().zip(unfolded(&catalog, &batches)).enumerate() {
            let batch = seal(folded(&catalog, changes), nth);
            let events: u64 = batch.entries.iter().map(Entry::event_count).sum();
            let silent = |change: &&Change| {
                matches!(change.operation, Operation::Carry { .. } | Operation::Snapshot(_))
            };
            prop_assert_eq!(events as usize, changes.len() - changes.iter().filter(silent).count());
            let plain = Batch { entries, ..seal(BatchBuilder::default(), nth) };
            let (a, b) = (folded_store.apply(&batch).unwrap(), plain_store.apply(&plain).unwrap());
            prop_assert_eq!(a.dead_letters, b.dead_letters);
            prop_assert_eq!(
                picture(&catalog, &mut folded_store, &*one.reader()),
                picture(&catalog, &mut plain_store, &*other.reader())
            );
        }
    }

    /// Without steps that depend on the row that is there, even the order of arrival is free.
    #[test]
    fn the_order_of_arrival_does_not_matter(history in history(), seed in any::<u64>()) {
        let catalog = Arc::new(with_prefixes());
        let (batches, _) = delivery(&catalog, &history);
        let free = |entry: &Entry| matches!(entry.step, Step::Row(_)) || is_truncate(entry);
        let entries: Vec<Entry> =
            unfolded(&catalog, &batches).into_iter().flatten().filter(free).collect();
        let mut shuffled = entries.clone();
        let mut random = seed;
        for index in (1..shuffled.len()).rev() {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            shuffled.swap(index, (random >> 33) as usize % (index + 1));
        }
        let (one, other) = (InMemory::new(catalog.clone()), InMemory::new(catalog.clone()));
        for (bench, entries) in [(&one, entries), (&other, shuffled)] {
            bench.open().apply(&Batch { entries, observed: observed(), ..Batch::default() }).unwrap();
        }
        prop_assert_eq!(
            picture(&catalog, &mut one.open(), &*one.reader()),
            picture(&catalog, &mut other.open(), &*other.reader())
        );
    }
}
