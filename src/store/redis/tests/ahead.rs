//! What is made of a batch before its turn is used for that batch, once, and for no other.

use super::*;
use crate::domain::change::{Change, IfMissing, Operation};
use crate::store::Store;

/// A row of a table without indexes, whose rows the script guards by itself.
fn order(nth: i64, number: i64) -> Change {
    let values = row(&catalog().tables[2], nth, number, 0xFF);
    Change {
        from: vec![],
        table: 2,
        topic: 1,
        operation: Operation::Write { if_missing: IfMissing::Hold },
        values,
        version: version(number, 0, number),
    }
}

fn orders(id: u64, number: i64, count: i64) -> Batch {
    Batch { id, ..batch((0..count).map(|nth| order(nth, number))) }
}

#[test]
fn what_is_ready_is_taken_once_and_what_is_older_goes() {
    if !available() {
        return;
    }
    let server = Server::start();
    let store = bench(server.settings(RowEncoding::Hash)).open();
    let (ahead, preparer) = (store.ahead.clone(), store.preparer().unwrap());
    let batches: Vec<Batch> = (1..=5).map(|id| orders(id, 1, 3)).collect();
    let is_ready = |batch: &Batch| ahead.take(batch).is_some_and(|spoken| spoken.keys.len() == 3);

    batches[..2].iter().for_each(|batch| preparer.prepare(batch));
    assert!(is_ready(&batches[0]));
    // A second attempt at the same batch takes nothing that is the next one's.
    assert!(!is_ready(&batches[0]));
    assert!(is_ready(&batches[1]));

    batches.iter().for_each(|batch| preparer.prepare(batch));
    // Of those that nobody asks for, as after a failure, no more than three are kept.
    assert!(!is_ready(&batches[0]) && !is_ready(&batches[1]));
    assert!(is_ready(&batches[3]));
    assert!(!is_ready(&batches[2]));

    // The same id with other entries: what is left of a batch behind a failed one.
    preparer.prepare(&batches[0]);
    assert!(!is_ready(&orders(1, 1, 2)));
    assert!(!is_ready(&batches[0]));
}

/// Rows that must be read first, keys that come twice and keys of two tables beside rows that are told.
#[test]
fn what_is_told_ahead_is_what_would_be_told() {
    if !available() {
        return;
    }
    for encoding in ENCODINGS {
        let server = Server::start();
        let left: Vec<_> = [false, true]
            .map(|is_prepared| {
                let mut settings = server.settings(encoding);
                settings.redis.prefix = format!("{is_prepared}:");
                let mut store = bench(settings.clone()).open();
                let preparer = store.preparer().unwrap();
                for (nth, changes) in rounds().into_iter().enumerate() {
                    let (from, to) = (nth as i64, nth as i64 + 1);
                    let next = moving((nth > 0).then_some(from), to, batch(changes.into_iter()));
                    let next = Batch { id: to as u64, ..next };
                    if is_prepared {
                        preparer.prepare(&next);
                    }
                    store.apply(&next).unwrap();
                    assert!(store.ahead.take(&next).is_none(), "not used");
                    if nth == 2 {
                        store.complete().unwrap();
                    }
                }
                drop(store);
                let begin = format!("{is_prepared}:");
                let all = everything(&mut server.client(), &begin);
                let mine = all.into_iter().map(|(key, content)| (key[begin.len()..].to_owned(), content));
                // What says whose it is differs.
                mine.filter(|(key, _)| !key.starts_with("readside:")).collect::<BTreeMap<_, _>>()
            })
            .into();
        assert_eq!(left[0], left[1]);
        assert!(left[0].len() > 60, "{} keys", left[0].len());
    }
}

fn rounds() -> Vec<Vec<Change>> {
    let patch = |nth: i64, number: i64| Change {
        values: row(&catalog().tables[2], nth, number, 0b11),
        operation: Operation::Write { if_missing: IfMissing::Hold },
        ..order(nth, number)
    };
    let other = |nth: i64, number: i64| Change {
        values: row(&catalog().tables[0], nth, number, 0xFF),
        table: 0,
        topic: 0,
        ..order(nth, number)
    };
    vec![
        (0..20).map(|nth| order(nth, 1)).collect(),
        (10..40).flat_map(|nth| [order(nth, 2), patch(nth % 13, 2)]).collect(),
        (0..40).map(|nth| order(nth, if nth % 3 == 0 { 0 } else { 3 })).collect(),
        (0..60).flat_map(|nth| [order(nth % 50, 4 + nth), other(nth, 4)]).collect(),
        (0..30).map(|nth| order(nth, 100)).collect(),
    ]
}
