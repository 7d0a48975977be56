//! While nobody reads a copy, a batch is written in pieces that are sent without waiting: whatever
//! comes in between, it is there once in the end.

use super::proxy::Proxy;
use super::*;
use crate::domain::batch::BatchBuilder;
use crate::store::{MemoryStore, RedisReader, Store};

fn orders(rows: std::ops::Range<i64>, number: i64, from: Option<i64>, to: i64) -> Batch {
    moving(from, to, batch(rows.map(|nth| order(nth, number))))
}

#[test]
fn a_connection_that_breaks_at_any_byte_leaves_every_row_once() {
    if !available() {
        return;
    }
    let server = Server::start();
    Proxy::cut_at_any_byte(97, |encoding, cut| {
        let direct = bench(server.settings(encoding));
        let proxy = Proxy::before(&direct.settings);
        let mut store = bench(proxy.settings.clone()).open();
        store.apply(&orders(0..10, 1, None, 10)).unwrap();
        let next = Batch { id: 7, ..orders(5..30, 2, Some(10), 20) };
        // Rows that were encoded before go the same way.
        if cut % 2 == 0 {
            store.preparer().unwrap()(&next);
        }
        let failed = proxy.apply_cut_after(cut, &mut store, &next);
        assert_eq!(store.figures().rows[2], 30, "cut after {cut} bytes");
        assert_eq!(store.checkpoint().unwrap().positions[&AT].next_offset, 20);
        let reader = RedisReader::new(&direct.settings, Arc::new(catalog()));
        let status = crate::store::Reader::status(&reader, NOW_MS).unwrap();
        assert_eq!(status.tables[2].rows, 30);
        store.apply(&orders(0..30, 3, Some(20), 30)).unwrap();
        assert_eq!(store.figures().rows[2], 30);
        failed
    });
}

/// Rows with versions by column are joined by the caller: one in each piece.
#[test]
fn rows_that_have_to_be_joined_are_found_in_every_piece() {
    if !available() {
        return;
    }
    for encoding in ENCODINGS {
        let shape = Arc::new(catalog());
        let mut model = MemoryStore::new(Arc::clone(&shape), HEARTBEAT_LIMIT);
        let mut store = bench(server::shared().settings(encoding)).open();
        let patched = |nth: i64, number: i64| Change {
            values: row(&catalog().tables[1], nth, number, 0b0010),
            ..users_hidden(nth, number)
        };
        let mut changes: Vec<Change> = (0..30).map(|nth| users_hidden(nth, 10)).collect();
        // Nearly all of them, so that what takes their place in a piece has to be joined as well.
        changes.extend((3..30).map(|nth| patched(nth, 40)));
        // Of several tables, older and newer ones, some of them twice.
        let mut later: Vec<Change> = (0..40).map(|nth| users_hidden(nth, 8 + nth % 5)).collect();
        later.extend((0..20).map(|nth| order(nth, 20)));
        later.extend([users_hidden(3, 50), users_hidden(3, 51)]);
        for changes in [changes, later.clone(), later] {
            let mut both = [BatchBuilder::default(), BatchBuilder::default()];
            let [one, other] = both.each_mut().map(|builder| {
                changes.iter().for_each(|change| builder.push(&shape, change.clone()));
                builder.seal(observed())
            });
            let (expected, applied) = (model.apply(&one).unwrap(), store.apply(&other).unwrap());
            assert_eq!(applied, expected);
            assert_eq!(store.figures().rows, model.figures().rows);
        }
    }
}

fn users_hidden(nth: i64, number: i64) -> Change {
    let values = row(&catalog().tables[1], nth, number, 0xFF);
    Change { table: 1, topic: 0, values, version: version(number, 0, number), ..order(nth, number) }
}

/// What is joined comes with the last piece, and counts then: not again with each attempt.
#[test]
fn a_connection_that_breaks_at_any_byte_leaves_counts_of_what_is_joined() {
    if !available() {
        return;
    }
    let server = Server::start();
    let gone = |table: usize, nth: i64, change: Change| {
        let values = key_row(&catalog().tables[table], nth);
        Change { operation: Operation::Delete, values, ..change }
    };
    Proxy::cut_at_any_byte(97, |encoding, cut| {
        let direct = bench(server.settings(encoding));
        let proxy = Proxy::before(&direct.settings);
        let mut store = bench(proxy.settings.clone()).open();
        let before = (0..4).map(|nth| users_hidden(nth, 1)).chain((0..10).map(|nth| order(nth, 1)));
        store.apply(&moving(None, 10, batch(before))).unwrap();
        // Rows of the one table end before the last piece, those of the other begin behind the first.
        let changes = (4..10).map(|nth| users_hidden(nth, 2)).chain((10..30).map(|nth| order(nth, 2)));
        let deletes = (0..2).map(|nth| gone(1, nth, users_hidden(nth, 2)));
        let deletes = deletes.chain((0..5).map(|nth| gone(2, nth, order(nth, 2))));
        let next = Batch { id: 7, ..moving(Some(10), 20, batch(changes.chain(deletes))) };
        let failed = proxy.apply_cut_after(cut, &mut store, &next);
        assert_eq!(store.figures().rows[1..3], [8, 25], "cut after {cut} bytes");
        assert_eq!(store.figures().delete_marks[1..3], [2, 5]);
        let reader = RedisReader::new(&direct.settings, Arc::new(catalog()));
        let status = crate::store::Reader::status(&reader, NOW_MS).unwrap();
        assert_eq!([1, 2].map(|table| status.tables[table].rows), [8, 25], "cut after {cut} bytes");
        store.apply(&orders(0..30, 3, Some(20), 30)).unwrap();
        assert_eq!(store.figures().rows[2], 30);
        failed
    });
}

/// A copy of which an earlier readside has counted too many rows.
#[test]
fn a_wrong_number_of_rows_keeps_nothing_from_starting() {
    if !available() {
        return;
    }
    let bench = bench(server::shared().settings(RowEncoding::Hash));
    let mut store = bench.open();
    store.apply(&moving(None, 10, batch([]))).unwrap();
    drop(store);
    let status = format!("{}readside:status", bench.settings.redis.prefix);
    let mut client = server::shared().client();
    let () = redis::cmd("HSET").arg(status).arg("Order.rows").arg(-3).query(&mut client).unwrap();
    assert_eq!(bench.open().version_kinds().unwrap(), [None; 4]);
}

#[test]
fn a_server_that_forgets_the_script_between_two_pieces_gets_it_again() {
    if !available() {
        return;
    }
    let server = Server::start();
    let settings = server.settings(RowEncoding::Hash);
    let proxy = Proxy::before(&settings);
    let mut store = bench(proxy.settings.clone()).open();
    store.apply(&orders(0..10, 1, None, 10)).unwrap();
    let meta = format!("{}readside:meta", settings.redis.prefix);
    let mut client = server.client();
    let mut sequence =
        move || -> u64 { redis::cmd("HGET").arg(&meta).arg("sequence").query(&mut client).unwrap() };
    let (before, mut other) = (sequence(), server.client());
    proxy.between(1, move || {
        while sequence() == before {}
        let () = redis::cmd("SCRIPT").arg("FLUSH").query(&mut other).unwrap();
    });
    let next = orders(5..30, 2, Some(10), 20);
    let failed = store.apply(&next);
    assert!(matches!(failed, Err(StoreError::Retry { .. })), "{failed:?}");
    store.apply(&next).unwrap();
    assert_eq!(store.figures().rows[2], 30);
}

#[test]
fn a_server_that_forgot_the_script_gets_it_again() {
    if !available() {
        return;
    }
    let bench = bench(server::shared().settings(RowEncoding::Hash));
    let mut store = bench.open();
    let () = redis::cmd("SCRIPT").arg("FLUSH").query(&mut server::shared().client()).unwrap();
    store.apply(&orders(0..30, 1, None, 10)).unwrap();
    assert_eq!(store.figures().rows[2], 30);
}
