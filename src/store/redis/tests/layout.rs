//! What readers find.

use std::collections::BTreeMap;
use std::time::Duration;

use super::*;
use crate::domain::change::IfMissing;
use crate::domain::value::Value;
use crate::store::{RowLookup, Store};

type Fields = BTreeMap<String, Vec<u8>>;

fn hash(client: &mut redis::Connection, key: &str) -> Fields {
    redis::cmd("HGETALL").arg(key).query(client).unwrap()
}

fn text(fields: &Fields, name: &str) -> String {
    String::from_utf8(fields.get(name).cloned().unwrap_or_default()).unwrap()
}

#[test]
fn a_hash_loses_the_fields_that_an_update_no_longer_has() {
    if !available() {
        return;
    }
    let bench = bench(server::shared().settings(RowEncoding::Hash));
    let mut client = server::shared().client();
    let mut store = bench.open();
    let key = format!("{}users:3", rows(&bench.settings));
    let mut full = upsert(5, 10);
    full.values[2] = Value::Text("a@x.org".into());
    full.values[3] = Value::Real(0.5);
    store.apply(&batch([full.clone()])).unwrap();
    let fields = hash(&mut client, &key);
    assert_eq!(fields.keys().collect::<Vec<_>>(), ["_v", "email", "id", "name", "score"]);
    assert_eq!((text(&fields, "id"), text(&fields, "score")), ("3".into(), "0.5".into()));
    let mut less = upsert(5, 11);
    less.values[2] = Value::Null;
    less.values[3] = Value::Null;
    store.apply(&batch([less])).unwrap();
    assert_eq!(hash(&mut client, &key).keys().collect::<Vec<_>>(), ["_v", "id", "name"]);
    store.apply(&batch([delete(5, 12)])).unwrap();
    assert_eq!(hash(&mut client, &key), Fields::new());
    // The same for a table without indexes, whose rows the script guards by itself.
    let table = &catalog().tables[1];
    let write = |number: i64, photo: Value| {
        let mut values = row(table, 4, number, 0xFF);
        values[1] = photo;
        crate::domain::change::Change {
            table: 1,
            values,
            version: version(number, 0, number),
            ..upsert(0, 0)
        }
    };
    store.apply(&batch([write(20, Value::Blob(vec![0, 255]))])).unwrap();
    let key = format!("{}users_hidden:2:k\04é", rows(&bench.settings));
    assert_eq!(hash(&mut client, &key)["photo"], [0, 255]);
    store.apply(&batch([write(21, Value::Null)])).unwrap();
    assert_eq!(hash(&mut client, &key).keys().collect::<Vec<_>>(), ["_v", "price", "sku", "tenant"]);
}

#[test]
fn json_rows_are_objects() {
    if !available() {
        return;
    }
    let bench = bench(server::shared().settings(RowEncoding::Json));
    let mut client = server::shared().client();
    let mut store = bench.open();
    let mut change = upsert(5, 10);
    change.values[1] = Value::Text("a \"name\"\n".into());
    change.values[2] = Value::Null;
    store.apply(&batch([change])).unwrap();
    let text: String =
        redis::cmd("GET").arg(format!("{}users:3", rows(&bench.settings))).query(&mut client).unwrap();
    let mut json: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert!(json.as_object_mut().unwrap().remove("_v").is_some());
    let score = json["score"].take();
    assert!(score.is_f64() || score.is_null());
    assert_eq!(json, serde_json::json!({"id": 3, "name": "a \"name\"\n", "score": null}));
}

#[test]
fn the_status_tells_what_a_copy_is_worth() {
    if !available() {
        return;
    }
    // Nothing expires while the test looks at it.
    let heartbeat_limit = Duration::from_secs(3_600);
    let bench = bench(RedisSettings { heartbeat_limit, ..server::shared().settings(RowEncoding::Hash) });
    let mut client = server::shared().client();
    let mut store = bench.open();
    let prefix = bench.settings.redis.prefix.clone();
    let status = |client: &mut redis::Connection| hash(client, &format!("{prefix}readside:status"));
    let alive = |client: &mut redis::Connection| -> i64 {
        redis::cmd("PTTL").arg(format!("{prefix}readside:alive")).query(client).unwrap()
    };
    let fields = status(&mut client);
    assert_eq!((text(&fields, "state"), text(&fields, "complete")), ("building".into(), "0".into()));
    assert_eq!((text(&fields, "users.rows"), text(&fields, "fresh_as_of_ms")), ("0".into(), String::new()));
    assert_eq!(alive(&mut client), -2, "nothing was proven yet");
    let mut full = moving(None, 10, batch([upsert(1, 10), patch(2, 11, 0b0100, IfMissing::Hold)]));
    for topic in 0..2 {
        let at = crate::domain::checkpoint::TopicPartition { topic, partition: 0 };
        full.observed.fresh_as_of_ms.insert(at, NOW_MS);
    }
    store.apply(&full).unwrap();
    store.complete().unwrap();
    let fields = status(&mut client);
    assert_eq!((text(&fields, "state"), text(&fields, "complete")), ("live".into(), "1".into()));
    assert_eq!((text(&fields, "users.rows"), text(&fields, "users.held")), ("1".into(), "1".into()));
    assert_eq!(text(&fields, "users.fresh_as_of_ms"), NOW_MS.to_string());
    let left = alive(&mut client);
    assert!(left > 0 && left <= heartbeat_limit.as_millis() as i64, "{left}");
    let mut cut_off = batch([]);
    cut_off.observed.connected = false;
    store.apply(&cut_off).unwrap();
    assert_eq!(alive(&mut client), -2);
    assert_eq!(text(&status(&mut client), "state"), "disconnected");
}

#[test]
fn a_shared_redis_says_where_the_rows_are_when_they_are_whole() {
    if !available() {
        return;
    }
    let bench = bench(server::shared().settings(RowEncoding::Hash));
    let mut client = server::shared().client();
    let prefix = bench.settings.redis.prefix.clone();
    let mut live = || -> String {
        redis::cmd("HGET").arg(format!("{prefix}readside:status")).arg("live").query(&mut client).unwrap()
    };
    let mut store = bench.open();
    assert_eq!(live(), "");
    store.apply(&moving(None, 10, batch([upsert(1, 10)]))).unwrap();
    assert_eq!(live(), "", "half a copy is not pointed at");
    store.complete().unwrap();
    let rows = live();
    assert_eq!(rows, format!("{prefix}1:"));
    assert!(hash(&mut server::shared().client(), &format!("{rows}users:-1")).contains_key("id"));
    // It stays where it is when the daemon comes back.
    drop(store);
    let mut store = bench.open();
    store.apply(&moving(Some(10), 20, batch([upsert(1, 20)]))).unwrap();
    assert_eq!(live(), rows);
}

#[test]
fn a_dedicated_redis_shows_nothing_before_it_is_whole() {
    if !available() {
        return;
    }
    let server = Server::start();
    let mut client = server.client();
    let mut settings = server.settings(RowEncoding::Hash);
    settings.redis.dedicated = true;
    let bench = bench(settings.clone());
    let key = format!("{}users:-1", settings.redis.prefix);
    let seen =
        |client: &mut redis::Connection| -> bool { redis::cmd("EXISTS").arg(&key).query(client).unwrap() };
    let mut store = bench.open();
    store.apply(&moving(None, 10, batch([upsert(1, 10)]))).unwrap();
    assert!(!seen(&mut client));
    let status = hash(&mut client, &format!("{}readside:status", settings.redis.prefix));
    assert_eq!((text(&status, "state"), text(&status, "complete")), ("building".into(), "0".into()));
    let read = bench.reader().status(NOW_MS).unwrap();
    assert_eq!((read.complete, read.tables[0].rows), (false, 1));
    assert_eq!(look(&bench, 1), RowLookup::Missing);
    // A build goes on where it was.
    drop(store);
    let mut store = bench.open();
    assert_eq!(store.checkpoint().unwrap().positions[&AT].next_offset, 10);
    store.complete().unwrap();
    store.complete().unwrap();
    assert!(seen(&mut client), "a client that was connected all the time");
    assert_eq!(look(&bench, 1), visible(1, 10));
    assert!(store.checkpoint().unwrap().complete && bench.reader().status(NOW_MS).unwrap().complete);
    store.apply(&moving(Some(10), 20, batch([upsert(1, 20)]))).unwrap();
    assert_eq!(look(&bench, 1), visible(1, 20));
    drop(store);
    let mut store = bench.open();
    assert_eq!(store.checkpoint().unwrap().positions[&AT].next_offset, 20);
    let () = redis::cmd("SELECT").arg(1).query(&mut client).unwrap();
    assert_eq!(redis::cmd("DBSIZE").query::<u64>(&mut client).unwrap(), 0, "nothing is left behind");
}
