//! What was prepared of a batch is used for that batch, once, and leaves what would be left without it.

use super::super::codec::Form;
use super::*;
use crate::store::{Completion, RedisReplica, RowLookup, Store};

fn orders(id: u64, count: i64) -> Batch {
    Batch { id, ..batch((0..count).map(|nth| order(nth, 1))) }
}

#[test]
fn what_was_prepared_is_taken_once_and_what_is_older_goes() {
    if !available() {
        return;
    }
    let store = bench(server::shared().settings(RowEncoding::Hash)).open();
    let prepare = store.preparer().unwrap();
    let batches: Vec<Batch> = (1..=5).map(|id| orders(id, 3)).collect();
    let is_there = |batch: &Batch| {
        let spoken = store.prepared.take(batch);
        spoken.is_some_and(|spoken| {
            assert_eq!(spoken.keys.len(), 3);
            spoken.keys.iter().all(|named| !named.words.is_empty())
        })
    };

    batches[..2].iter().for_each(|batch| prepare(batch));
    assert!(is_there(&batches[0]));
    // A second attempt at the same batch takes nothing that is the next one's.
    assert!(!is_there(&batches[0]));
    assert!(is_there(&batches[1]));

    batches.iter().for_each(|batch| prepare(batch));
    // Of those that nobody asks for, as after a failure, no more than three are kept.
    assert!(!is_there(&batches[0]) && !is_there(&batches[1]));
    assert!(is_there(&batches[3]));
    assert!(!is_there(&batches[2]));

    // The same id with other entries: what is left of a batch behind a failed one.
    prepare(&batches[0]);
    assert!(!is_there(&orders(1, 2)));
    assert!(!is_there(&batches[0]));
    // Without an id it could be taken for another one.
    prepare(&orders(0, 3));
    assert!(!is_there(&orders(0, 3)));
}

/// Rows that must be read first, keys that come twice and keys of other tables beside rows that are
/// encoded ahead.
#[test]
fn what_is_prepared_leaves_what_would_be_left_without() {
    if !available() {
        return;
    }
    for form in [Form::Restore, Form::Fields, Form::Json] {
        let server = Server::start();
        if form == Form::Fields {
            let mut cmd = redis::cmd("ACL");
            cmd.arg("SETUSER").arg("default").arg("-restore").exec(&mut server.client()).unwrap();
        }
        let left = ["plain:", "ready:"].map(|prefix| {
            let encoding = if form == Form::Json { RowEncoding::Json } else { RowEncoding::Hash };
            let mut settings = server.settings(encoding);
            settings.redis.prefix = prefix.into();
            let mut store = bench(settings).open();
            assert_eq!(store.form, form);
            let prepare = store.preparer().unwrap();
            for (nth, changes) in rounds().into_iter().enumerate() {
                let (from, to) = (nth as i64, nth as i64 + 1);
                let next = moving((nth > 0).then_some(from), to, batch(changes));
                if prefix == "ready:" {
                    prepare(&next);
                }
                store.apply(&next).unwrap();
                assert!(store.prepared.take(&next).is_none(), "not used");
                if nth == 2 {
                    store.complete().unwrap();
                }
            }
            drop(store);
            let all = everything(&mut server.client(), prefix);
            let bare = |content: Vec<Vec<u8>>| {
                let texts = content.iter().map(|part| String::from_utf8_lossy(part).replace(prefix, ""));
                texts.collect::<Vec<_>>()
            };
            let all = all.into_iter().map(|(key, content)| (key[prefix.len()..].to_owned(), bare(content)));
            // It says whose it is, and which batch was the last.
            all.filter(|(key, _)| key != "readside:meta").collect::<BTreeMap<_, _>>()
        });
        assert_eq!(left[0], left[1]);
        assert!(left[0].len() > 60, "{} keys", left[0].len());
    }
}

fn rounds() -> Vec<Vec<Change>> {
    let patch = |nth: i64, number: i64| Change {
        values: row(&catalog().tables[2], nth, number, 0b11),
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

/// The pipeline hands over the next batch while a copy is completed, or takes the place of another.
#[test]
fn what_was_prepared_before_a_switch_is_written_where_readers_look_after_it() {
    if !available() {
        return;
    }
    let server = Server::start();
    for settings in both(&server) {
        let replica = RedisReplica::open(&settings).unwrap();
        let shape = Arc::new(catalog());
        let switch = |mut store: Box<dyn Store>, number: i64| {
            store.apply(&moving(None, number, batch((0..5).map(|nth| order(nth, number))))).unwrap();
            let next = moving(Some(number), number + 10, batch((3..8).map(|nth| order(nth, number + 1))));
            store.preparer().unwrap()(&next);
            assert_eq!(store.complete().unwrap(), Completion::Done);
            store.apply(&next).unwrap();
            let reader = bench(settings.clone()).reader();
            for (nth, number) in [(0, number), (3, number + 1), (7, number + 1)] {
                let expected = row(&shape.tables[2], nth, number, 0xFF);
                match reader.row(2, &key(&shape.tables[2], nth)).unwrap() {
                    RowLookup::Visible { values, .. } => assert_eq!(values, expected),
                    other => panic!("{other:?}"),
                }
            }
            store
        };
        let _live = switch(Box::new(replica.open_live(shape.clone()).unwrap()), 10);
        switch(Box::new(replica.begin(shape.clone(), &asked_for()).unwrap().unwrap()), 20);
    }
}
