use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value as Json;

use super::*;

const NOW_MS: i64 = 1_795_434_797_275;

fn history(seed: u64, steps: i64) -> (Shop, Vec<Message>) {
    let mut shop = Shop::new(seed);
    let mut messages = shop.open(NOW_MS);
    for step in 0..steps {
        messages.extend(shop.step(NOW_MS + step * 50));
    }
    messages.extend(shop.close());
    (shop, messages)
}

/// Non-empty values of a topic, parsed.
fn events<'a>(messages: &'a [Message], topic: &'a str) -> impl Iterator<Item = Json> + 'a {
    let of_topic = messages.iter().filter(move |message| message.topic == topic);
    of_topic.filter_map(|message| message.value.as_ref()).map(|text| serde_json::from_str(text).unwrap())
}

fn value(json: &Json) -> Value {
    match json {
        Json::Null => Value::Null,
        Json::Bool(value) => boolean(*value),
        Json::Number(number) => Value::Integer(number.as_i64().unwrap()),
        Json::String(text) => Value::Text(text.clone()),
        other => panic!("no column holds {other}"),
    }
}

fn row(object: &Json, columns: &[&str]) -> Row {
    columns.iter().map(|column| value(&object[column])).collect()
}

/// `source.sequence` as the pair of integers it means.
fn sequence(event: &Json) -> (i64, i64) {
    let text = event["source"]["sequence"].as_str().unwrap();
    let (commit, own): (Option<String>, String) = serde_json::from_str(text).unwrap();
    let own: i64 = own.parse().unwrap();
    (commit.map_or(own, |commit| commit.parse().unwrap()), own)
}

fn users_from_their_events(messages: &[Message]) -> Vec<Row> {
    let mut once = BTreeMap::new();
    for event in events(messages, users::TOPIC) {
        let row = if event["op"] == "d" { &event["before"] } else { &event["after"] };
        let id = row["id"].as_i64().unwrap();
        once.insert((id, sequence(&event)), event);
    }
    let mut rows: BTreeMap<i64, Json> = BTreeMap::new();
    for ((id, _), mut event) in once {
        if event["op"] == "d" {
            rows.remove(&id);
            continue;
        }
        let mut after = event["after"].take();
        if after["bio"] == users::PLACEHOLDER {
            after["bio"] = rows[&id]["bio"].clone();
        }
        rows.insert(id, after);
    }
    let columns =
        ["id", "email", "full_name", "country", "plan", "balance", "newsletter", "bio", "created_at"];
    rows.values().map(|object| row(object, &columns)).collect()
}

fn products_from_their_records(messages: &[Message]) -> Vec<Row> {
    let mut rows = BTreeMap::new();
    for message in messages.iter().filter(|message| message.topic == products::TOPIC) {
        match &message.value {
            Some(text) => {
                let object: Json = serde_json::from_str(text).unwrap();
                let columns = ["sku", "name", "category", "price", "stock", "updated_at"];
                rows.insert(&message.key, row(&object, &columns));
            }
            None => {
                rows.remove(&message.key);
            }
        }
    }
    rows.into_values().collect()
}

fn orders_from_their_events(messages: &[Message]) -> Vec<Row> {
    let mut once = BTreeMap::new();
    for event in events(messages, orders::TOPIC).filter(|event| event["type"] != "OrderViewed") {
        let id = event["order_id"].as_i64().or_else(|| event["order"]["id"].as_i64()).unwrap();
        once.insert((id, event["sequence"].as_i64().unwrap()), event);
    }
    let mut rows: BTreeMap<i64, Row> = BTreeMap::new();
    for ((id, _), event) in once {
        match event["type"].as_str().unwrap() {
            "OrderPlaced" => {
                let mut row = row(&event["order"], &["id", "user_id", "sku", "quantity", "total"]);
                row.extend([Value::Text("placed".into()), Value::Null, value(&event["at"]), Value::Null]);
                rows.insert(id, row);
            }
            "OrderShipped" => {
                let row = rows.get_mut(&id).unwrap();
                row[5] = Value::Text("shipped".into());
                row[6] = value(&event["carrier"]);
                row[8] = value(&event["at"]);
            }
            "OrderCancelled" => {
                rows.remove(&id).unwrap();
            }
            other => panic!("unknown type {other}"),
        }
    }
    rows.into_values().collect()
}

#[test]
fn the_same_seed_tells_the_same_story() {
    let (_, first) = history(7, 500);
    assert_eq!(first, history(7, 500).1);
    assert_ne!(first, history(8, 500).1);
}

#[test]
fn the_books_agree_with_the_events_applied_once_and_in_order() {
    for seed in 1..=5 {
        let (shop, messages) = history(seed, 3_000);
        let [users, products, orders] = shop.expected();
        assert_eq!(users.rows, users_from_their_events(&messages), "users, seed {seed}");
        assert_eq!(products.rows, products_from_their_records(&messages), "products, seed {seed}");
        assert_eq!(orders.rows, orders_from_their_events(&messages), "orders, seed {seed}");
        assert_eq!(shop.sent().records, messages.len() as u64);
    }
}

#[test]
fn the_story_has_everything_that_goes_wrong_in_practice() {
    let (shop, messages) = history(1, 3_000);
    let sent = shop.sent();
    assert!(sent.repeated > 50 && sent.late > 50, "{sent:?}");
    for topic in [users::TOPIC, products::TOPIC] {
        assert!(messages.iter().any(|message| message.topic == topic && message.value.is_none()), "{topic}");
    }
    let ops: BTreeSet<String> =
        events(&messages, users::TOPIC).map(|event| event["op"].as_str().unwrap().to_owned()).collect();
    assert_eq!(ops, ["c", "d", "r", "u"].map(String::from).into());
    let placeholders =
        events(&messages, users::TOPIC).filter(|event| event["after"]["bio"] == users::PLACEHOLDER).count();
    assert!(placeholders > 0);
    // Within one key of the users an older sequence comes behind a newer one.
    let mut newest: BTreeMap<i64, (i64, i64)> = BTreeMap::new();
    let mut went_back = 0;
    for event in events(&messages, users::TOPIC).filter(|event| event["op"] != "d") {
        let newest = newest.entry(event["after"]["id"].as_i64().unwrap()).or_insert((0, 0));
        went_back += u32::from(sequence(&event) < *newest);
        *newest = sequence(&event).max(*newest);
    }
    assert!(went_back > 0);
}

#[test]
fn the_opening_fits_into_what_the_in_process_broker_keeps() {
    let messages = Shop::new(1).open(NOW_MS);
    for (topic, partitions) in TOPICS {
        let bytes: usize = messages
            .iter()
            .filter(|message| message.topic == topic)
            .map(|message| {
                let headers = message.headers.iter().map(|(name, value)| name.len() + value.len());
                message.key.len()
                    + message.value.as_ref().map_or(0, String::len)
                    + headers.sum::<usize>()
                    + 32
            })
            .sum();
        // 5 MiB a partition, keys spread evenly give or take a third.
        assert!(bytes * 4 / 3 < partitions as usize * 5 * 1024 * 1024, "{topic}: {bytes}");
    }
}
