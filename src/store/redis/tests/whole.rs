//! All or nothing.

use super::*;
use crate::domain::retry::RetryReason;
use crate::store::{RowLookup, Store};

/// A batch in which every kind of write comes before row 9, the last.
fn mixed() -> Batch {
    let hold = IfMissing::Hold;
    let mut changes =
        vec![upsert(1, 20), delete(2, 21), patch(3, 22, 0b0100, hold), patch(4, 23, 0b0010, hold)];
    // Tables without indexes, whose rows the script guards by itself.
    changes.extend((0..3).map(|nth| order(nth, 24)));
    changes.push(upsert(9, 25));
    moving(Some(10), 30, batch(changes))
}

fn begun(bench: &InRedis) -> crate::store::RedisStore {
    let mut store = bench.open();
    let rows = [1, 2, 3, 9].map(|nth| upsert(nth, 10 + nth));
    store.apply(&moving(None, 10, batch(rows))).unwrap();
    store
}

fn refuses(bench: &InRedis, client: &mut redis::Connection, key: &str) {
    let mut store = begun(bench);
    let prefix = &bench.settings.redis.prefix;
    let before = if key.starts_with("readside") { prefix } else { &rows(&bench.settings) };
    let wrong = format!("{before}{key}");
    let () = redis::cmd("RENAME").arg(&wrong).arg("aside").query(client).unwrap_or_default();
    let () = redis::cmd("ZADD").arg(&wrong).arg(1).arg("other").query(client).unwrap();
    let before = everything(client, prefix);
    stopped(store.apply(&mixed()), StopCode::Foreign);
    assert_eq!(everything(client, prefix), before);
    // Without the obstacle the same batch goes through.
    let () = redis::cmd("DEL").arg(&wrong).query(client).unwrap();
    let () = redis::cmd("RENAME").arg("aside").arg(&wrong).query(client).unwrap_or_default();
    store.apply(&mixed()).unwrap();
    assert_eq!(look(bench, 9), visible(9, 25));
}

#[test]
fn a_key_of_another_type_changes_nothing() {
    if !available() {
        return;
    }
    let server = Server::start();
    let mut client = server.client();
    for encoding in ENCODINGS {
        // The last row; an index entry that the last row leaves, one that it comes to; the hidden
        // rows; a row that the script guards by itself; what is written at the end.
        let email = |number| match &upsert(9, number).values[2] {
            crate::domain::value::Value::Text(email) => email.clone(),
            other => panic!("{other:?}"),
        };
        let (old, new) = (format!("users@email:{}", email(19)), format!("users@email:{}", email(25)));
        let guarded = "Order:k\u{0}2é";
        for key in [
            "users:7",
            &old,
            &new,
            "readside:deleted:users",
            guarded,
            "readside:positions",
            "readside:partitions",
        ] {
            refuses(&bench(server.settings(encoding)), &mut client, key);
        }
    }
}

#[test]
fn out_of_memory_changes_nothing_and_is_tried_again() {
    if !available() {
        return;
    }
    let server = Server::start();
    let mut client = server.client();
    for encoding in ENCODINGS {
        let bench = bench(server.settings(encoding));
        let mut store = begun(&bench);
        let before = everything(&mut client, &bench.settings.redis.prefix);
        let limit = |client: &mut redis::Connection, bytes: &str| {
            let () = redis::cmd("CONFIG").arg("SET").arg("maxmemory").arg(bytes).query(client).unwrap();
        };
        limit(&mut client, "1mb");
        for _ in 0..2 {
            match store.apply(&mixed()) {
                Err(StoreError::Retry { reason, message }) => {
                    assert_eq!(reason, RetryReason::OutOfMemory);
                    assert!(message.contains("maxmemory"), "{message}");
                }
                other => panic!("{other:?}"),
            }
            assert_eq!(everything(&mut client, &bench.settings.redis.prefix), before);
        }
        limit(&mut client, "0");
        store.apply(&mixed()).unwrap();
        assert_eq!(look(&bench, 9), visible(9, 25));
        assert!(matches!(look(&bench, 2), RowLookup::Deleted { .. }));
    }
}

#[test]
fn a_row_that_somebody_changed_is_refused() {
    if !available() {
        return;
    }
    let bench = bench(server::shared().settings(RowEncoding::Hash));
    let mut client = server::shared().client();
    let mut store = begun(&bench);
    let key = format!("{}users:-1", rows(&bench.settings));
    let () = redis::cmd("HSET").arg(&key).arg("_v").arg("mine").query(&mut client).unwrap();
    let before = everything(&mut client, &bench.settings.redis.prefix);
    let message = stopped(store.apply(&mixed()), StopCode::Foreign);
    assert!(message.contains("users") && message.contains("somebody"), "{message}");
    assert_eq!(everything(&mut client, &bench.settings.redis.prefix), before);
}
