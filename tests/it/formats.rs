//! Formats with a schema, against a real broker and a real registry: the examples of
//! `config/examples`, bad records, and a registry that goes away.

use serde_json::{Value, json};

use crate::daemon::{Daemon, header, reader, rows};
use crate::examples::{dead_letters, example, feed, start};
use crate::kafka::{self, Message, eventually};
use crate::registry;

/// Writes Avro's binary encoding.
#[derive(Default, Clone)]
struct Avro(Vec<u8>);

impl Avro {
    /// Behind the header that names a schema.
    fn of(schema: u32) -> Avro {
        let mut bytes = vec![0];
        bytes.extend(schema.to_be_bytes());
        Avro(bytes)
    }

    fn long(mut self, number: i64) -> Avro {
        let mut rest = ((number << 1) ^ (number >> 63)) as u64;
        while rest >= 0x80 {
            self.0.push(rest as u8 | 0x80);
            rest >>= 7;
        }
        self.0.push(rest as u8);
        self
    }

    fn bytes(self, bytes: impl AsRef<[u8]>) -> Avro {
        let mut this = self.long(bytes.as_ref().len() as i64);
        this.0.extend_from_slice(bytes.as_ref());
        this
    }

    fn double(mut self, number: f64) -> Avro {
        self.0.extend(number.to_le_bytes());
        self
    }

    fn boolean(mut self, value: bool) -> Avro {
        self.0.push(u8::from(value));
        self
    }
}

const PRICE: &str = r#"{"type":"record","name":"Price","namespace":"shop","fields":[
  {"name":"sku","type":"string"},
  {"name":"internal","type":{"type":"array","items":"long"},"default":[]},
  {"name":"price","type":{"type":"bytes","logicalType":"decimal","precision":12,"scale":2}},
  {"name":"currency","type":{"type":"enum","name":"Currency","symbols":["EUR","USD"]}},
  {"name":"valid_from","type":["null",{"type":"int","logicalType":"date"}],"default":null},
  {"name":"updated_at","type":{"type":"long","logicalType":"timestamp-micros"}},
  {"name":"supplier","type":["null",{"type":"record","name":"Supplier","fields":[
     {"name":"id","type":"long"},{"name":"name","type":"string"}]}],"default":null},
  {"name":"attributes","type":["null",{"type":"map","values":["null","string","shop.Supplier"]}],"default":null},
  {"name":"picture","type":["null","bytes"],"default":null},
  {"name":"rating","type":["null","double"],"default":null}]}"#;

fn price(schema: u32, sku: &str, cents: i64) -> Avro {
    Avro::of(schema)
        .bytes(sku)
        .long(2)
        .long(7)
        .long(-8)
        .long(0)
        .bytes(cents.to_be_bytes())
        .long(1)
        .long(1)
        .long(20_000)
        .long(1_700_000_000_123_456)
        .long(1)
        .long(5)
        .bytes("Größe & Co")
        .long(1)
        .long(1)
        .bytes("colour")
        .long(1)
        .bytes("\"red\"")
        .long(0)
        .long(1)
        .bytes([1, 2])
        .long(1)
        .double(4.5)
}

#[test]
fn avro_rows_and_events_with_schemas_from_a_registry() {
    let (Some(broker), Some(registry)) = (kafka::shared(), registry::shared()) else { return };
    let dir = tempfile::tempdir().unwrap();
    let (prices, orders) = ("prices.current.avro", "orders.events.avro");
    // Names of topics are the tests' own; the example's are in use elsewhere.
    let text = std::fs::read_to_string(example("avro.yaml")).unwrap();
    let text = text.replace("prices.current", prices).replace("orders.events", orders);
    let config = dir.path().join("avro.yaml");
    std::fs::write(&config, text).unwrap();
    for topic in [prices, orders] {
        broker.create_topic(topic, 2, &[]);
    }
    let schema = registry.register("prices.current-value", "AVRO", PRICE, &[]);
    // The next version of the producer's: a field more, the order changed, one is gone.
    let second: &str = r#"{"type":"record","name":"Price","namespace":"shop","fields":[
      {"name":"updated_at","type":{"type":"long","logicalType":"timestamp-millis"}},
      {"name":"discount","type":["null","int"],"default":null},
      {"name":"currency","type":"string"},
      {"name":"price","type":{"type":"fixed","name":"Money","size":3,"logicalType":"decimal","precision":6,"scale":3}},
      {"name":"sku","type":"string"}]}"#;
    let newer = registry.register("prices.current.v2-value", "AVRO", second, &[]);
    let newer_price = |sku: &str| {
        let mut avro = Avro::of(newer).long(1_700_000_000_123).long(0).bytes("CHF");
        avro.0.extend([0xFF, 0xFF, 0x85]);
        avro.bytes(sku)
    };
    broker.produce(
        prices,
        [
            Message::new("a", price(schema, "a", 1234).0),
            Message::new("b", price(schema, "b", -5).0),
            Message::new("c", newer_price("c").0),
            Message::tombstone("b"),
        ],
    );
    let event = r#"{"type":"record","name":"OrderEvent","fields":[
      {"name":"type","type":"string"},{"name":"sequence","type":"long"},{"name":"order_id","type":"long"},
      {"name":"at","type":["null",{"type":"long","logicalType":"timestamp-millis"}]}]}"#;
    let event = registry.register("orders.events-value", "AVRO", event, &[]);
    let order = |kind: &str, sequence: i64, id: i64| {
        Message::without_key(Avro::of(event).bytes(kind).long(sequence).long(id).long(1).long(0).0)
    };
    broker.produce(
        orders,
        [
            order("OrderShipped", 2, 1).to(1),
            order("OrderPlaced", 1, 1).to(0),
            order("OrderErased", 3, 2).to(0),
        ],
    );
    let url = registry.url();
    let registry_at = [("READSIDE__SCHEMA_REGISTRY__URL", url.as_str())];
    let mut daemon = start(dir.path(), &config, &broker.bootstrap(), &registry_at);
    daemon.started();
    let connection = reader(dir.path());
    assert_eq!(dead_letters(dir.path()), [""; 0]);
    assert_eq!(
        rows(
            &connection,
            "SELECT sku, price, currency, valid_from, updated_at, supplier, attributes, picture, rating FROM prices ORDER BY sku"
        ),
        [
            "a|12.34|USD|2024-10-04|2023-11-14T22:13:20.123456Z|Größe & Co|{\"colour\":\"\\\"red\\\"\"}|[1, 2]|4.5",
            "c|-0.123|CHF|NULL|2023-11-14T22:13:20.123000Z|NULL|NULL|NULL|NULL",
        ]
    );
    let all = "SELECT id, status, placed_at FROM orders ORDER BY id";
    assert_eq!(rows(&connection, all), ["1|shipped|1970-01-01T00:00:00.000000Z"]);
    feed(&mut daemon, broker, orders, [order("OrderPlaced", 2, 2).to(1), order("OrderPlaced", 4, 3).to(1)]);
    assert_eq!(rows(&connection, all).len(), 2, "the erased order stays erased");
    let found = daemon.metric("readside_schema_registry_requests_total{outcome=\"found\"}");
    assert_eq!(found, Some(3.0), "each schema is fetched once");
}

/// A topic of rows with an integer key and a text, in Avro.
fn people(brokers: &str, dir: &std::path::Path, url: &str, topics: &[&str]) -> String {
    let mut yaml = format!("{}schema_registry: {{ url: \"{url}\" }}\ntopics:\n", header(brokers, dir));
    for topic in topics {
        yaml.push_str(&format!("  {topic}: {{ format: avro, key_format: text }}\n"));
    }
    yaml.push_str("tables:\n");
    for topic in topics {
        let table = topic.replace(['-', '.'], "_");
        yaml.push_str(&format!(
            "  {table}: {{ topic: {topic}, key: id, columns: {{ id: integer, name: text }} }}\n"
        ));
    }
    yaml
}

const PERSON: &str = r#"{"type":"record","name":"Person","fields":[
  {"name":"id","type":"long"},{"name":"name","type":"string"}]}"#;

#[test]
fn every_bad_avro_record_is_a_dead_letter_and_nothing_else_is_lost() {
    let (Some(broker), Some(registry)) = (kafka::shared(), registry::shared()) else { return };
    let dir = tempfile::tempdir().unwrap();
    let topic = kafka::topic_name("bad-avro");
    broker.create_topic(&topic, 1, &[]);
    let schema = registry.register(&format!("{topic}-value"), "AVRO", PERSON, &[]);
    let text = registry.register(&format!("{topic}-text"), "AVRO", "\"string\"", &[]);
    let json_schema = registry.register(
        &format!("{topic}-json"),
        "JSON",
        r#"{"$schema":"http://json-schema.org/draft-07/schema#","type":"object"}"#,
        &[],
    );
    let good = |id: i64| Avro::of(schema).long(id).bytes("x").0;
    let bad: Vec<(Vec<u8>, &str)> = vec![
        (vec![], "malformed"),
        (vec![0, 0], "malformed"),
        ([vec![1], good(1)[1..].to_vec()].concat(), "malformed"),
        (b"{\"id\":1}".to_vec(), "malformed"),
        (good(1)[..6].to_vec(), "malformed"),
        ([good(1), vec![0]].concat(), "malformed"),
        (Avro::of(schema).long(1).bytes([0xFF]).0, "malformed"),
        (Avro::of(schema).long(1).long(-3).0, "malformed"),
        ([Avro::of(schema).0, vec![0xFF; 11]].concat(), "malformed"),
        (Avro::of(4_000_000_000).long(1).0, "schema"),
        (Avro::of(text).bytes("x").0, "malformed"),
        (Avro::of(json_schema).bytes("x").0, "schema"),
    ];
    let mut messages = vec![Message::new("0", good(0))];
    messages.extend(bad.iter().map(|(value, _)| Message::new("0", value)));
    messages.push(Message::new("99", good(99)));
    broker.produce(&topic, messages);
    let yaml = people(&broker.bootstrap(), dir.path(), &registry.url(), &[&topic]);
    let mut daemon = Daemon::start(dir.path(), &yaml);
    daemon.started();
    let connection = reader(dir.path());
    let letters =
        rows(&connection, "SELECT \"offset\", reason FROM _readside_dead_letters ORDER BY \"offset\"");
    let expected: Vec<String> =
        bad.iter().enumerate().map(|(index, (_, reason))| format!("{}|{reason}", index + 1)).collect();
    assert_eq!(letters, expected);
    let table = topic.replace('-', "_");
    assert_eq!(rows(&connection, &format!("SELECT id FROM {table} ORDER BY id")), ["0", "99"]);
    let asked = daemon.metric("readside_schema_registry_requests_total{outcome=\"unknown\"}");
    assert_eq!(asked, Some(2.0), "an unknown id is asked for twice, and then believed");
}

/// The registry is away: known schemas are read on, a new one holds its partition and no other, and
/// nothing is skipped or becomes a dead letter.
#[test]
fn without_the_registry_a_new_schema_waits_and_everything_else_goes_on() {
    let (Some(broker), Some(registry)) = (kafka::shared(), registry::shared()) else { return };
    let dir = tempfile::tempdir().unwrap();
    let topic = kafka::topic_name("away");
    broker.create_topic(&topic, 2, &[]);
    let first = registry.register(&format!("{topic}-value"), "AVRO", PERSON, &[]);
    let wider = PERSON.replace("]}", r#",{"name":"more","type":["null","string"],"default":null}]}"#);
    let second = registry.register(&format!("{topic}-value-2"), "AVRO", &wider, &[]);
    let person = |id: i64, partition| {
        Message::new(id.to_string(), Avro::of(first).long(id).bytes("first").0).to(partition)
    };
    let new_person = |id: i64, partition| {
        Message::new(id.to_string(), Avro::of(second).long(id).bytes("second").long(0).0).to(partition)
    };
    broker.produce(&topic, [person(1, 0), person(2, 1)]);
    let gate = registry.gate();
    let yaml = people(&broker.bootstrap(), dir.path(), &gate.url(), &[&topic]);
    let mut daemon = Daemon::start(dir.path(), &yaml);
    daemon.started();
    gate.close();
    let table = topic.replace('-', "_");
    let all = format!("SELECT id, name FROM {table} ORDER BY id");
    let connection = reader(dir.path());
    // Partition 0 meets the new schema; behind it is a record that could be read.
    broker.produce(&topic, [new_person(3, 0), person(4, 0), person(5, 1)]);
    let waiting = format!("readside_waiting_partitions{{topic=\"{topic}\"}}");
    eventually("a partition waits", 20, || (daemon.metric(&waiting) == Some(1.0)).then_some(()));
    feed(&mut daemon, broker, &topic, [person(6, 1)]);
    assert_eq!(rows(&connection, &all), ["1|first", "2|first", "5|first", "6|first"]);
    let breaker = "readside_schema_registry_breaker_open";
    eventually("the breaker opens", 30, || (daemon.metric(breaker) == Some(1.0)).then_some(()));
    // Left alone, but not forgotten.
    let before = gate.requests();
    let (status, _) = daemon.get("/livez").expect("an answer");
    assert_eq!((status, dead_letters(dir.path())), (200, vec![]));
    let position =
        format!("SELECT next_offset FROM _readside_positions WHERE topic = '{topic}' AND partition = 0");
    assert_eq!(rows(&connection, &position), ["1"], "the position does not pass the record");
    gate.reopen();
    eventually("the record is read", 60, || (rows(&connection, &all).len() == 6).then_some(()));
    assert!(gate.requests() > before);
    assert_eq!(rows(&connection, &all)[2..4], ["3|second", "4|first"]);
    eventually("all is well again", 20, || {
        (daemon.metric(breaker) == Some(0.0) && daemon.metric(&waiting) == Some(0.0)).then_some(())
    });
    assert_eq!(dead_letters(dir.path()), [""; 0]);
    assert!(daemon.log().contains("waiting for a schema"), "{}", daemon.log());
}

/// Started while the registry is away, a daemon waits with its first copy, and says for what.
#[test]
fn a_first_copy_waits_for_the_registry() {
    let (Some(broker), Some(registry)) = (kafka::shared(), registry::shared()) else { return };
    let dir = tempfile::tempdir().unwrap();
    let topic = kafka::topic_name("late-registry");
    broker.create_topic(&topic, 3, &[]);
    let schema = registry.register(&format!("{topic}-value"), "AVRO", PERSON, &[]);
    let people_of = |ids: std::ops::Range<i64>| {
        ids.map(|id| Message::new(id.to_string(), Avro::of(schema).long(id).bytes("x").0).to((id % 3) as i32))
            .collect::<Vec<_>>()
    };
    broker.produce(&topic, people_of(0..300));
    let gate = registry.gate();
    gate.close();
    let yaml = people(&broker.bootstrap(), dir.path(), &gate.url(), &[&topic]);
    let mut daemon = Daemon::start(dir.path(), &yaml);
    let waiting = format!("readside_waiting_partitions{{topic=\"{topic}\"}}");
    eventually("all partitions wait", 30, || (daemon.metric(&waiting) == Some(3.0)).then_some(()));
    assert_eq!(daemon.get("/startupz").map(|(status, _)| status), Some(503));
    gate.reopen();
    daemon.started();
    let table = topic.replace('-', "_");
    assert_eq!(rows(&reader(dir.path()), &format!("SELECT count(*) FROM {table}")), ["300"]);
    assert_eq!(dead_letters(dir.path()), [""; 0]);
}

#[allow(dead_code)]
fn unused() -> Value {
    let _ = Avro::default().boolean(true);
    json!(null)
}
