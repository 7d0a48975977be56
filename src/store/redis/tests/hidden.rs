//! Whole rows whose keys have something hidden, a delete mark or a patch that waits: the script meets it
//! and refuses, or it was asked for before. Either way the newer one wins.

use super::*;
use crate::domain::batch::BatchBuilder;
use crate::store::redis::HiddenMet;
use crate::store::{MemoryStore, Store};

#[test]
fn a_row_behind_its_delete_comes_back_only_if_it_is_newer() {
    if !available() {
        return;
    }
    // More than the script asks for at once.
    const ROWS: i64 = 1_100;
    let shape = Arc::new(catalog());
    let delete = |nth: i64, number: i64| {
        let values = row(&catalog().tables[2], nth, number, 0b0001);
        Change { operation: Operation::Delete, values, ..order(nth, number) }
    };
    // While it is built it is written in pieces; afterwards in one go, with a guard for each row.
    for (encoding, is_complete) in
        ENCODINGS.into_iter().flat_map(|encoding| [(encoding, false), (encoding, true)])
    {
        let mut model = MemoryStore::new(Arc::clone(&shape), HEARTBEAT_LIMIT);
        let mut store = bench(server::shared().settings(encoding)).open();
        if is_complete {
            store.complete().unwrap();
            model.complete().unwrap();
        }
        let mut batches = vec![(0..ROWS).map(|nth| order(nth, 10)).collect::<Vec<_>>()];
        batches.push((0..ROWS).step_by(7).map(|nth| delete(nth, 20)).collect());
        for later in 0..4 {
            // Older than the deletes, as old, and newer; some keys that are new, some deleted again.
            batches.push((0..ROWS + 50).map(|nth| order(nth, 18 + later + nth % 3)).collect());
            batches.push((0..ROWS).step_by(11).map(|nth| delete(nth, 19 + later)).collect());
        }
        // None of these has anything hidden.
        batches.push((2_000..2_100).map(|nth| order(nth, 50)).collect());
        for (nth, changes) in batches.into_iter().enumerate() {
            let both = [0, 1].map(|_| {
                let mut builder = BatchBuilder::default();
                changes.iter().for_each(|change| builder.push(&shape, change.clone()));
                builder.seal(observed())
            });
            let (expected, applied) = (model.apply(&both[0]).unwrap(), store.apply(&both[1]).unwrap());
            assert_eq!(applied, expected, "batch {nth}");
            assert_eq!(store.figures().rows, model.figures().rows, "batch {nth}");
            assert_eq!(store.figures().delete_marks, model.figures().delete_marks, "batch {nth}");
        }
    }
}

#[test]
fn it_is_asked_for_as_long_as_something_is_met_and_a_while_longer() {
    let mut met = HiddenMet::default();
    assert!(!met.asks_first());
    met.note(false);
    assert!(!met.asks_first());
    met.note(true);
    for batch in 0..HiddenMet::BATCHES {
        assert!(met.asks_first(), "{batch}");
    }
    assert!(!met.asks_first());
}
