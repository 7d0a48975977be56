//! The files of `config/examples`, started as they are: only brokers, paths and listeners come from
//! the environment, and each file is fed with events of the kind it is about.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::daemon::{Daemon, reader, replica, rows};
use crate::kafka::{self, Broker, Message};
use crate::redis_server;

pub fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("config/examples").join(name)
}

pub fn start(dir: &Path, config: &Path, brokers: &str, more: &[(&str, &str)]) -> Daemon {
    let replica = replica(dir).display().to_string();
    let mut variables = vec![
        ("READSIDE__KAFKA__BROKERS", brokers),
        ("READSIDE__REPLICA__SQLITE__PATH", &replica),
        ("READSIDE__HTTP__LISTEN", "127.0.0.1:0"),
        ("READSIDE__ADMIN__LISTEN", "127.0.0.1:0"),
    ];
    variables.extend(more);
    Daemon::start_with(dir, config, &variables)
}

/// Writes the messages and waits until the replica is past them.
pub fn feed(daemon: &mut Daemon, broker: &Broker, topic: &str, messages: impl IntoIterator<Item = Message>) {
    let ends: BTreeMap<i32, i64> = broker.produce(topic, messages).into_iter().collect();
    for (partition, offset) in ends {
        let path = format!("/wait?topic={topic}&partition={partition}&offset={offset}&timeout=170s");
        let (status, body) = daemon.admin(&path).expect("an answer");
        // 409: it is among the dead letters, which is where it belongs.
        assert!(matches!(status, 200 | 409), "{topic}: {body}");
    }
}

pub fn dead_letters(dir: &Path) -> Vec<String> {
    rows(&reader(dir), "SELECT topic, reason, path FROM _readside_dead_letters ORDER BY topic, \"offset\"")
}

#[test]
fn minimal_rows_come_change_and_go() {
    let Some(broker) = kafka::shared() else { return };
    let dir = tempfile::tempdir().unwrap();
    let topic = "users.snapshots";
    broker.create_topic(topic, 3, &[("cleanup.policy", "compact")]);
    broker.produce(
        topic,
        [
            Message::new("1", r#"{"id":1,"name":"Ada","email":"ada@example.org","not mapped":[1]}"#),
            Message::new("2", r#"{"id":2,"name":"Bob","email":null}"#),
            Message::new("3", r#"{"id":3,"name":"Cleo"}"#),
            Message::new("2", r#"{"id":2,"name":"Bob","email":"bob@example.org"}"#),
            Message::tombstone("3"),
            Message::tombstone("4"),
        ],
    );
    let mut daemon = start(dir.path(), &example("minimal.yaml"), &broker.bootstrap(), &[]);
    daemon.started();
    let users = "SELECT id, name, email FROM users ORDER BY id";
    assert_eq!(rows(&reader(dir.path()), users), ["1|Ada|ada@example.org", "2|Bob|bob@example.org"]);
    let more = [
        Message::tombstone("1"),
        Message::new("3", r#"{"id":3,"name":"Cleo again"}"#),
        Message::new("5", r#"{"id":"5","name":"Eve"}"#),
    ];
    feed(&mut daemon, broker, topic, more);
    assert_eq!(rows(&reader(dir.path()), users), ["2|Bob|bob@example.org", "3|Cleo again|NULL"]);
    assert_eq!(dead_letters(dir.path()), ["users.snapshots|wrong_type|.id"]);
}

#[test]
fn events_say_what_happens_in_whatever_order_they_come() {
    let Some(broker) = kafka::shared() else { return };
    let dir = tempfile::tempdir().unwrap();
    for topic in ["orders.events", "customers.events", "customers.contact"] {
        broker.create_topic(topic, 2, &[]);
    }
    let placed = |order: u32, sequence: u32, total: &str| {
        format!(
            r#"{{"type":"OrderPlaced","sequence":{sequence},"at":"2026-03-01T12:00:00+02:00","order":{{"id":{order},"customer":"2F1B7E0C-0000-4000-8000-00000000000{order}","total":{total}}}}}"#
        )
    };
    let shipped = |order: u32, sequence: u32| {
        format!(
            r#"{{"type":"OrderShipped","sequence":{sequence},"at":"2026-03-02T08:00:00Z","order_id":{order},"carrier":"post"}}"#
        )
    };
    let erased = |order: u32, sequence: u32| {
        format!(r#"{{"type":"OrderErased","sequence":{sequence},"order_id":{order}}}"#)
    };
    // Partitions are chosen so that nothing but the version can bring them in order.
    let events = [
        // Shipped before it was placed.
        (shipped(1, 2), 0),
        (placed(1, 1, "10.50"), 0),
        // The erasure overtakes the shipment.
        (placed(2, 1, "1"), 0),
        (erased(2, 3), 1),
        (shipped(2, 2), 0),
        // Never placed.
        (shipped(3, 2), 1),
        // A repeated older event behind a newer one.
        (placed(4, 5, "\"2.00\""), 1),
        (placed(4, 4, "1.00"), 1),
        (r#"{"type":"OrderViewed","sequence":1,"order_id":4}"#.to_owned(), 0),
        (r#"{"type":"OrderLost","sequence":9,"order_id":4}"#.to_owned(), 0),
        (r#"{"type":"OrderShipped","order_id":4,"carrier":"post"}"#.to_owned(), 0),
    ];
    broker.produce(
        "orders.events",
        events.iter().map(|(value, partition)| Message::without_key(value).to(*partition)),
    );
    let mail = |id: u32, sequence: u32, email: &str| {
        Message::without_key(format!(
            r#"{{"type":"EmailChanged","sequence":{sequence},"tenant":"acme","id":{id},"email":"{email}"}}"#
        ))
    };
    let customer = |kind: &str, id: u32, sequence: u32| {
        Message::without_key(format!(
            r#"{{"type":"{kind}","sequence":{sequence},"tenant":"acme","customer":{{"id":{id},"name":"n{id}","email":"first@{id}"}}}}"#
        ))
    };
    broker.produce("customers.contact", [mail(1, 3, "third@1"), mail(1, 2, "second@1"), mail(2, 1, "old@2")]);
    let mut daemon = start(dir.path(), &example("events.yaml"), &broker.bootstrap(), &[]);
    daemon.started();
    let registered = [
        customer("CustomerRegistered", 1, 1),
        customer("CustomerRegistered", 2, 2),
        customer("CustomerErased", 3, 7),
        customer("CustomerRegistered", 3, 6),
        customer("SomethingElse", 1, 9),
    ];
    feed(&mut daemon, broker, "customers.events", registered);
    let connection = reader(dir.path());
    assert_eq!(
        rows(&connection, "SELECT id, status, customer_id, total, placed_at FROM orders ORDER BY id"),
        [
            "1|shipped|2f1b7e0c-0000-4000-8000-000000000001|10.50|2026-03-01T10:00:00.000000Z",
            "4|placed|2f1b7e0c-0000-4000-8000-000000000004|2.00|2026-03-01T10:00:00.000000Z",
        ]
    );
    assert_eq!(
        rows(&connection, "SELECT order_id, carrier, shipped_at FROM shipments ORDER BY order_id"),
        ["1|post|2026-03-02T08:00:00.000000Z", "3|post|2026-03-02T08:00:00.000000Z"]
    );
    assert_eq!(
        rows(&connection, "SELECT tenant, id, name, email FROM customers ORDER BY id"),
        ["acme|1|n1|third@1", "acme|2|n2|first@2"]
    );
    assert_eq!(
        dead_letters(dir.path()),
        ["orders.events|unknown_type|.type", "orders.events|version|.sequence"]
    );
    // The order itself arrives, and the shipment that waited for it shows.
    feed(&mut daemon, broker, "orders.events", [Message::without_key(placed(3, 1, "3")).to(0)]);
    assert_eq!(rows(&connection, "SELECT status, total FROM orders WHERE id = 3"), ["shipped|3"]);
}

/// A change event of Debezium's, without a schema.
fn change(op: &str, sequence: &str, after: &str) -> String {
    format!(
        r#"{{"before":null,"after":{after},"source":{{"db":"shop","sequence":"[{}]"}},"op":"{op}","ts_ms":1}}"#,
        sequence.replace('"', "\\\"")
    )
}

fn product(id: u32, name: &str, price: &str) -> String {
    format!(
        r#"{{"id":{id},"sku":"s{id}","display name":"{name}","price":{price},"attributes":"{{\"a\": 1}}","active":true,"released":20000,"updated_at":1700000000123456}}"#
    )
}

/// The same with the schemas that Kafka Connect embeds; the price is 12.34.
fn product_with_schema(id: u32, sequence: &str) -> (String, String) {
    let key_schema =
        r#"{"type":"struct","fields":[{"type":"int32","optional":false,"field":"id"}],"optional":false}"#;
    let key = format!(r#"{{"schema":{key_schema},"payload":{{"id":{id}}}}}"#);
    let row = r#"[{"type":"int32","field":"id"},{"type":"string","field":"sku"},{"type":"string","field":"display name"},
        {"type":"bytes","name":"org.apache.kafka.connect.data.Decimal","version":1,"parameters":{"scale":"2"},"field":"price"},
        {"type":"boolean","field":"active"},
        {"type":"int32","name":"io.debezium.time.Date","version":1,"field":"released"},
        {"type":"int64","name":"io.debezium.time.MicroTimestamp","version":1,"field":"updated_at"}]"#;
    let schema = format!(
        r#"{{"type":"struct","fields":[{{"type":"struct","fields":{row},"optional":true,"field":"before"}},{{"type":"struct","fields":{row},"optional":true,"field":"after"}}]}}"#
    );
    let payload = change("c", sequence, &product(id, "with schema", "\"BNI=\""));
    (key, format!(r#"{{"schema":{schema},"payload":{payload}}}"#))
}

#[test]
fn debezium_events_lead_to_the_rows_of_the_source() {
    let Some(broker) = kafka::shared() else { return };
    let dir = tempfile::tempdir().unwrap();
    let (products, items, attachments) =
        ("shop.public.products", "shop.public.Order_Items", "shop.public.attachments");
    for topic in [products, items, attachments] {
        broker.create_topic(topic, 1, &[]);
    }
    let key = |id: u32| format!(r#"{{"id":{id}}}"#);
    let (schema_key, schema_value) = product_with_schema(3, r#""100","150""#);
    broker.produce(
        products,
        [
            // Snapshot, change, and the snapshot once more behind it.
            Message::new(key(1), change("r", r#"null,"100""#, &product(1, "old", "1.50"))),
            Message::new(key(1), change("u", r#""100","200""#, &product(1, "new", "1.60"))),
            Message::new(key(1), change("r", r#"null,"100""#, &product(1, "old", "1.50"))),
            // Made and gone; a delete has invented values in `before`.
            Message::new(key(2), change("c", r#""100","210""#, &product(2, "gone", "2"))),
            Message::new(key(2), change("d", r#""210","220""#, "null")),
            Message::tombstone(key(2)),
            Message::new(schema_key.clone(), schema_value),
        ],
    );
    let item = |order: u32, line: u32| {
        format!(r#"{{"order_id":{order},"line":{line},"product_id":1,"quantity":2}}"#)
    };
    let item_key = |order: u32, line: u32| format!(r#"{{"order_id":{order},"line":{line}}}"#);
    broker.produce(
        items,
        [
            Message::new(item_key(1, 1), change("c", r#""1","10""#, &item(1, 1))),
            Message::new(item_key(1, 2), change("c", r#""1","11""#, &item(1, 2))),
            Message::without_key(change("t", r#""11","20""#, "null")),
            Message::new(item_key(2, 1), change("c", r#""20","30""#, &item(2, 1))),
            // From before the truncation.
            Message::new(item_key(1, 2), change("c", r#""1","11""#, &item(1, 2))),
        ],
    );
    let [kept, gone] = ["6f9619ff-8b86-d011-b42d-00cf4fc964ff", "00000000-0000-4000-8000-000000000001"];
    let attachment = |id: &str, content: &str| format!(r#"{{"Id":"{id}","content":"{content}"}}"#);
    let attachment_key = |id: &str| format!(r#"{{"Id":"{id}"}}"#);
    broker.produce(
        attachments,
        [
            Message::new(attachment_key(kept), change("c", r#""1","10""#, &attachment(kept, "aGk="))),
            // `__debezium_unavailable_value`, as bytes: stored out of line, and not touched.
            Message::new(
                attachment_key(kept),
                change("u", r#""1","20""#, &attachment(kept, "X19kZWJleml1bV91bmF2YWlsYWJsZV92YWx1ZQ==")),
            ),
            Message::new(attachment_key(gone), change("c", r#""1","30""#, &attachment(gone, "aGk="))),
            Message::new(attachment_key(gone), change("d", r#""1","40""#, "null")),
            Message::tombstone(attachment_key(gone)),
        ],
    );
    let mut daemon = start(dir.path(), &example("debezium.yaml"), &broker.bootstrap(), &[]);
    daemon.started();
    let connection = reader(dir.path());
    assert_eq!(dead_letters(dir.path()), [""; 0]);
    let all = "SELECT id, sku, name, price, attributes, active, released, updated_at, changed_in FROM products ORDER BY id";
    let rest = r#"{"a": 1}|1|2024-10-04|2023-11-14T22:13:20.123456Z|shop"#;
    assert_eq!(
        rows(&connection, all),
        [format!("1|s1|new|1.60|{rest}"), format!("3|s3|with schema|12.34|{rest}")]
    );
    assert_eq!(
        rows(&connection, "SELECT order_id, line, product_id, quantity FROM order_items"),
        ["2|1|1|2"]
    );
    assert_eq!(
        rows(&connection, "SELECT ref, CAST(content AS TEXT) FROM attachments"),
        [format!("{kept}|hi")]
    );
    // A delete whose key has its schema, and a row that comes back under its old key.
    let more = [
        Message::new(schema_key.clone(), change("d", r#""220","300""#, "null")),
        Message::tombstone(schema_key),
        Message::new(key(2), change("c", r#""300","310""#, &product(2, "back", "2.0"))),
    ];
    feed(&mut daemon, broker, products, more);
    assert_eq!(rows(&connection, "SELECT id, name FROM products ORDER BY id"), ["1|new", "2|back"]);
}

/// With the protocol and the user of the tests' broker, which has no TLS.
#[test]
fn a_secured_cluster_is_read_with_a_password_from_a_file() {
    let Some(broker) = kafka::shared() else { return };
    let dir = tempfile::tempdir().unwrap();
    let mut text = std::fs::read_to_string(example("secured.yaml")).unwrap();
    for (written, ours) in [
        ("SASL_SSL", "SASL_PLAINTEXT"),
        ("SCRAM-SHA-512", "PLAIN"),
        ("sasl.username: orders", &format!("sasl.username: {}", kafka::USER)),
        ("    ssl.ca.location: /run/secrets/kafka/ca.pem\n", ""),
    ] {
        assert!(text.contains(written), "{written}");
        text = text.replace(written, ours);
    }
    let config = dir.path().join("secured.yaml");
    std::fs::write(&config, text).unwrap();
    let password = dir.path().join("password");
    std::fs::write(&password, format!("{}\n", kafka::PASSWORD)).unwrap();
    let topic = "prices.current";
    broker.create_topic(topic, 2, &[("cleanup.policy", "compact")]);
    let price = |sku: &str, price: &str| {
        Message::new(sku, format!(r#"{{"sku":"{sku}","price":{price},"currency":"EUR"}}"#))
    };
    broker.produce(topic, [price("a", "1.10"), price("b", "2"), Message::tombstone("b")]);
    let password = password.display().to_string();
    let secret = [("READSIDE__KAFKA__SECRETS__SASL__PASSWORD", password.as_str())];
    let mut daemon = start(dir.path(), &config, &broker.sasl_bootstrap(), &secret);
    daemon.started();
    let prices = "SELECT sku, price, currency FROM prices ORDER BY sku";
    assert_eq!(rows(&reader(dir.path()), prices), ["a|1.10|EUR"]);
    feed(&mut daemon, broker, topic, [price("c", "3.0"), Message::tombstone("a")]);
    assert_eq!(rows(&reader(dir.path()), prices), ["c|3.0|EUR"]);
    assert!(!daemon.log().contains(kafka::PASSWORD), "the password is in the log");
}

/// The order of events without versions is that of the log; only their ids tell a repetition.
#[test]
fn an_event_that_comes_again_is_known_by_its_id() {
    let Some(broker) = kafka::shared() else { return };
    let dir = tempfile::tempdir().unwrap();
    let topic = "parcels.events";
    broker.create_topic(topic, 1, &[]);
    let sent = r#"{"id":"e1","type":"ParcelSent","parcel":"p1","from":"Bern","carrier":"post"}"#;
    let moved = r#"{"id":2,"type":"ParcelMoved","parcel":"p1","to":"Ulm"}"#;
    let erased = r#"{"id":"e4","type":"ParcelErased","parcel":"p2"}"#;
    broker.produce(
        topic,
        [
            sent,
            moved,
            sent,
            &sent.replace("e1", "e3").replace("p1", "p2"),
            erased,
            &moved.replace("\"id\":2,", ""),
        ]
        .map(Message::without_key),
    );
    let mut daemon = start(dir.path(), &example("event-ids.yaml"), &broker.bootstrap(), &[]);
    daemon.started();
    let all = "SELECT id, place, carrier FROM parcels ORDER BY id";
    assert_eq!(rows(&reader(dir.path()), all), ["p1|Ulm|post"]);
    assert_eq!(dead_letters(dir.path()), ["parcels.events|event_id|.id"]);
    // Also across a start.
    drop(daemon);
    let mut daemon = start(dir.path(), &example("event-ids.yaml"), &broker.bootstrap(), &[]);
    daemon.started();
    let again = [sent, moved, &moved.replace(":2", ":5").replace("Ulm", "Rom")].map(Message::without_key);
    feed(&mut daemon, broker, topic, again);
    assert_eq!(rows(&reader(dir.path()), all), ["p1|Rom|post"]);
}

/// With a socket in place of the network, TLS and the ACL user, which tests/it/redis.rs has.
#[test]
fn the_example_for_redis_keeps_rows_and_indexes_there() {
    let Some(broker) = kafka::shared() else { return };
    let Some(server) = redis_server::start(&[]) else { return };
    let dir = tempfile::tempdir().unwrap();
    let topic = kafka::topic_name("users.snapshots.redis");
    let mut text = std::fs::read_to_string(example("redis.yaml")).unwrap();
    let lines = [
        "    username: readside\n",
        "    password_file: /run/secrets/redis/password\n",
        "    ca_file: /run/secrets/redis/ca.pem\n",
    ];
    let url = server.url();
    let ours =
        [("rediss://redis:6379/0", url.as_str()), ("topic: users.snapshots", &format!("topic: {topic}"))];
    for (written, ours) in lines.into_iter().map(|line| (line, "")).chain(ours) {
        assert!(text.contains(written), "{written}");
        text = text.replace(written, ours);
    }
    let config = dir.path().join("redis.yaml");
    std::fs::write(&config, text).unwrap();
    broker.create_topic(&topic, 2, &[("cleanup.policy", "compact")]);
    let user = |id: u32, mail: &str| {
        Message::new(id.to_string(), format!(r#"{{"id":{id},"name":"n{id}","email":{mail}}}"#))
    };
    broker.produce(
        &topic,
        [user(1, "\"a@x\""), user(2, "\"a@x\""), user(3, "null"), Message::tombstone("2"), user(4, "4")],
    );
    let brokers = broker.bootstrap();
    let variables = [
        ("READSIDE__KAFKA__BROKERS", brokers.as_str()),
        ("READSIDE__HTTP__LISTEN", "127.0.0.1:0"),
        ("READSIDE__ADMIN__LISTEN", "127.0.0.1:0"),
    ];
    let mut daemon = Daemon::start_with(dir.path(), &config, &variables);
    daemon.started();
    let mut connection = server.connect();
    let keys = redis_server::keys(&mut connection, "shop:1:users:*");
    assert_eq!(keys.into_iter().collect::<Vec<_>>(), ["shop:1:users:1", "shop:1:users:3"]);
    let name: String = redis::cmd("HGET").arg("shop:1:users:3").arg("name").query(&mut connection).unwrap();
    assert_eq!(name, "n3");
    let members: Vec<String> =
        redis::cmd("SMEMBERS").arg("shop:1:users@email:a@x").query(&mut connection).unwrap();
    assert_eq!(members, ["1"]);
    let status = daemon.status();
    assert_eq!(status["tables"][0]["dead_letters"], 1, "{status}");
}

/// Whoever adds an example feeds it, too.
#[test]
fn every_example_is_fed_by_a_test() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut tests = String::new();
    for entry in std::fs::read_dir(root.join("tests/it")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "rs") {
            tests.push_str(&std::fs::read_to_string(path).unwrap());
        }
    }
    let mut examples = 0;
    for entry in std::fs::read_dir(root.join("config/examples")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        examples += 1;
        assert!(tests.contains(&format!("\"{name}\"")), "no test feeds config/examples/{name}");
    }
    assert!(examples >= 18, "{examples}");
}
