//! Formats with a schema, against a real broker and a real registry: the examples of
//! `config/examples`, bad records, and a registry that goes away.

use crate::daemon::{Daemon, header, reader, rows};
use crate::examples::{dead_letters, example, feed, start};
use crate::kafka::{self, Message, eventually};
use crate::registry;
use crate::schemas::check;

/// Writes Avro's binary encoding.
#[derive(Default, Clone)]
pub struct Avro(pub Vec<u8>);

impl Avro {
    /// Behind the header that names a schema.
    pub fn of(schema: u32) -> Avro {
        let mut bytes = vec![0];
        bytes.extend(schema.to_be_bytes());
        Avro(bytes)
    }

    pub fn long(mut self, number: i64) -> Avro {
        let mut rest = ((number << 1) ^ (number >> 63)) as u64;
        while rest >= 0x80 {
            self.0.push(rest as u8 | 0x80);
            rest >>= 7;
        }
        self.0.push(rest as u8);
        self
    }

    pub fn bytes(self, bytes: impl AsRef<[u8]>) -> Avro {
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
        (Avro::of(2_000_000_000).long(1).0, "schema"),
        (Avro::of(4_000_000_000).long(1).0, "malformed"),
        (Avro::of(0).long(1).0, "malformed"),
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
    eventually("a partition waits", || (daemon.metric(&waiting) == Some(1.0)).then_some(()));
    feed(&mut daemon, broker, &topic, [person(6, 1)]);
    assert_eq!(rows(&connection, &all), ["1|first", "2|first", "5|first", "6|first"]);
    let breaker = "readside_schema_registry_breaker_open";
    eventually("the breaker opens", || (daemon.metric(breaker) == Some(1.0)).then_some(()));
    // Left alone, but not forgotten.
    let before = gate.requests();
    let (status, _) = daemon.get("/livez").expect("an answer");
    assert_eq!((status, dead_letters(dir.path())), (200, vec![]));
    let position =
        format!("SELECT next_offset FROM _readside_positions WHERE topic = '{topic}' AND partition = 0");
    assert_eq!(rows(&connection, &position), ["1"], "the position does not pass the record");
    gate.reopen();
    eventually("the record is read", || (rows(&connection, &all).len() == 6).then_some(()));
    assert!(gate.requests() > before);
    assert_eq!(rows(&connection, &all)[2..4], ["3|second", "4|first"]);
    eventually("all is well again", || {
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
    eventually("all partitions wait", || (daemon.metric(&waiting) == Some(3.0)).then_some(()));
    assert_eq!(daemon.get("/startupz").map(|(status, _)| status), Some(503));
    gate.reopen();
    daemon.started();
    let table = topic.replace('-', "_");
    assert_eq!(rows(&reader(dir.path()), &format!("SELECT count(*) FROM {table}")), ["300"]);
    assert_eq!(dead_letters(dir.path()), [""; 0]);
}

/// An example whose topics and registry are the tests' own, since examples of other tests run at the
/// same time.
fn adapted(dir: &std::path::Path, name: &str, changes: &[(&str, &str)]) -> std::path::PathBuf {
    let mut text = std::fs::read_to_string(example(name)).unwrap();
    for (written, ours) in changes {
        assert!(text.contains(written), "{name}: {written}");
        text = text.replace(written, ours);
    }
    let config = dir.join(name);
    std::fs::write(&config, text).unwrap();
    config
}

#[test]
fn debezium_events_in_avro_lead_to_the_rows_of_the_source() {
    let (Some(broker), Some(registry)) = (kafka::shared(), registry::shared()) else { return };
    let dir = tempfile::tempdir().unwrap();
    let topic = "shop.public.customers";
    broker.create_topic(topic, 1, &[]);
    // As Confluent's converter makes them of Debezium's schemas.
    let row = r#"{"type":"record","name":"Value","fields":[
      {"name":"id","type":"int"},{"name":"name","type":"string"},
      {"name":"balance","type":["null",{"type":"bytes","scale":2,"precision":12,"connect.version":1,"connect.parameters":{"scale":"2","connect.decimal.precision":"12"},"connect.name":"org.apache.kafka.connect.data.Decimal","logicalType":"decimal"}],"default":null},
      {"name":"rate","type":["null",{"type":"record","name":"VariableScaleDecimal","namespace":"io.debezium.data","fields":[{"name":"scale","type":"int"},{"name":"value","type":"bytes"}],"connect.name":"io.debezium.data.VariableScaleDecimal","connect.version":1}],"default":null},
      {"name":"born","type":["null",{"type":"int","connect.version":1,"connect.name":"io.debezium.time.Date"}],"default":null},
      {"name":"seen_at","type":["null",{"type":"long","connect.version":1,"connect.name":"io.debezium.time.MicroTimestamp"}],"default":null},
      {"name":"profile","type":["null",{"type":"string","connect.version":1,"connect.name":"io.debezium.data.Json"}],"default":null},
      {"name":"photo","type":["null","bytes"],"default":null}],
      "connect.name":"shop.public.customers.Value"}"#;
    let envelope = format!(
        r#"{{"type":"record","name":"Envelope","namespace":"shop.public.customers","fields":[
      {{"name":"before","type":["null",{row}],"default":null}},{{"name":"after","type":["null","Value"],"default":null}},
      {{"name":"source","type":{{"type":"record","name":"Source","namespace":"io.debezium.connector.postgresql","fields":[
        {{"name":"db","type":"string"}},{{"name":"sequence","type":["null","string"],"default":null}},{{"name":"lsn","type":["null","long"],"default":null}}]}}}},
      {{"name":"op","type":"string"}},{{"name":"ts_ms","type":["null","long"],"default":null}}],"connect.name":"shop.public.customers.Envelope"}}"#
    );
    let value = registry.register("shop.public.customers-value", "AVRO", &envelope, &[]);
    let key = r#"{"type":"record","name":"Key","namespace":"shop.public.customers","fields":[{"name":"id","type":"int"}],"connect.name":"shop.public.customers.Key"}"#;
    let key = registry.register("shop.public.customers-key", "AVRO", key, &[]);
    let key = |id: i64| Avro::of(key).long(id).0;
    let customer = |avro: Avro, id: i64, name: &str, photo: &[u8]| {
        let avro = avro.long(1).long(id).bytes(name).long(1).bytes([0x04, 0xD2]);
        let avro =
            avro.long(1).long(3).bytes([0xFF]).long(1).long(20_000).long(1).long(1_700_000_000_123_456);
        avro.long(1).bytes("{\"a\": 1}").long(1).bytes(photo)
    };
    let source = |avro: Avro, op: &str, sequence: &str| {
        avro.bytes("shop").long(1).bytes(sequence).long(1).long(9).bytes(op).long(0).0
    };
    let change = |op: &str, sequence: &str, id: i64, name: &str, photo: &[u8]| {
        source(customer(Avro::of(value).long(0), id, name, photo), op, sequence)
    };
    let deleted =
        |sequence: &str, id: i64| source(customer(Avro::of(value), id, "", b"").long(0), "d", sequence);
    let unavailable = b"__debezium_unavailable_value";
    broker.produce(
        topic,
        [
            Message::new(key(1), change("r", r#"[null,"100"]"#, 1, "old", b"photo")),
            // The photo was stored out of line, and not touched.
            Message::new(key(1), change("u", r#"["100","200"]"#, 1, "new", unavailable)),
            Message::new(key(1), change("r", r#"[null,"100"]"#, 1, "old", b"photo")),
            Message::new(key(2), change("c", r#"["200","210"]"#, 2, "gone", b"")),
            Message::new(key(2), deleted(r#"["210","220"]"#, 2)),
            Message::tombstone(key(2)),
        ],
    );
    let changes = [
        ("  username: readside\n", ""),
        ("  password_file: /run/secrets/registry/password   # read again for every request\n", ""),
        ("  ca_file: /run/secrets/registry/ca.pem           # instead of the system's certificates\n", ""),
    ];
    let config = adapted(dir.path(), "debezium-avro.yaml", &changes);
    let url = registry.url();
    let registry_at = [("READSIDE__SCHEMA_REGISTRY__URL", url.as_str())];
    let mut daemon = start(dir.path(), &config, &broker.bootstrap(), &registry_at);
    daemon.started();
    assert_eq!(dead_letters(dir.path()), [""; 0]);
    let all =
        "SELECT id, name, balance, discount, born, seen_at, profile, CAST(photo AS TEXT) FROM customers";
    assert_eq!(
        rows(&reader(dir.path()), all),
        ["1|new|12.34|-0.001|2024-10-04|2023-11-14T22:13:20.123456Z|{\"a\": 1}|photo"]
    );
    feed(&mut daemon, broker, topic, [Message::new(key(1), deleted(r#"["220","300"]"#, 1))]);
    assert_eq!(rows(&reader(dir.path()), all), [""; 0]);
}

#[test]
fn flattened_debezium_events_in_avro_lead_to_the_rows_of_the_source() {
    let (Some(broker), Some(registry)) = (kafka::shared(), registry::shared()) else { return };
    let dir = tempfile::tempdir().unwrap();
    let topic = "shop.flat.orders";
    broker.create_topic(topic, 2, &[]);
    // As Confluent's converter makes them of what the transform leaves.
    let row = r#"{"type":"record","name":"Value","namespace":"shop.public.orders","fields":[
      {"name":"id","type":"int"},{"name":"status","type":"string"},
      {"name":"total","type":["null",{"type":"bytes","scale":2,"precision":12,"connect.version":1,"connect.parameters":{"scale":"2","connect.decimal.precision":"12"},"connect.name":"org.apache.kafka.connect.data.Decimal","logicalType":"decimal"}],"default":null},
      {"name":"placed_at","type":["null",{"type":"long","connect.version":1,"connect.name":"io.debezium.time.MicroTimestamp"}],"default":null},
      {"name":"details","type":["null",{"type":"string","connect.version":1,"connect.name":"io.debezium.data.Json"}],"default":null},
      {"name":"invoice","type":["null","bytes"],"default":null},
      {"name":"__op","type":["null","string"],"default":null},{"name":"__table","type":["null","string"],"default":null},
      {"name":"__lsn","type":["null","long"],"default":null},{"name":"__source_sequence","type":["null","string"],"default":null},
      {"name":"__source_snapshot","type":[{"type":"string","connect.version":1,"connect.parameters":{"allowed":"true,first,first_in_data_collection,last_in_data_collection,last,false,incremental"},"connect.default":"false","connect.name":"io.debezium.data.Enum"},"null"],"default":"false"},
      {"name":"__ts_ms","type":["null","long"],"default":null},{"name":"__source_ts_ms","type":["null","long"],"default":null},
      {"name":"__deleted","type":["null","string"],"default":null}],"connect.name":"shop.public.orders.Value"}"#;
    let value = registry.register("shop.flat.orders-value", "AVRO", row, &[]);
    let key = r#"{"type":"record","name":"Key","namespace":"shop.public.orders","fields":[{"name":"id","type":"int"}],"connect.name":"shop.public.orders.Key"}"#;
    let key = registry.register("shop.flat.orders-key", "AVRO", key, &[]);
    let key = |id: i64| Avro::of(key).long(id).0;
    let row = |id: i64, status: &str, invoice: &[u8]| {
        let avro = Avro::of(value).long(id).bytes(status).long(1).bytes([0x04, 0xD2]);
        let avro = avro.long(1).long(1_700_000_000_123_456).long(1).bytes("{\"a\": 1}");
        avro.long(1).bytes(invoice)
    };
    let deleted = |id: i64| Avro::of(value).long(id).bytes("").long(0).long(0).long(0).long(0);
    let fields = |avro: Avro, op: &str, table: &str, lsn: i64, sequence: &str, mark: &str| {
        let avro = avro.long(1).bytes(op).long(1).bytes(table).long(1).long(lsn).long(1).bytes(sequence);
        let avro = avro.long(0).bytes(mark).long(1).long(1_700_000_000_500).long(1).long(1_700_000_000_124);
        avro.long(1).bytes(if op == "d" { "true" } else { "false" }).0
    };
    let read = |id: i64, lsn: i64, mark: &str| {
        let row = fields(row(id, "placed", b"pdf"), "r", "orders", lsn, &format!("[null,\"{lsn}\"]"), mark);
        Message::new(key(id), row).to((id % 2) as i32)
    };
    let streamed = |op: &str, lsn: i64, id: i64, avro: Avro| {
        let row = fields(avro, op, "orders", lsn, &format!("[\"{}\",\"{lsn}\"]", lsn - 5), "false");
        Message::new(key(id), row).to((id % 2) as i32)
    };
    let unavailable = b"__debezium_unavailable_value";
    broker.produce(
        topic,
        [
            read(1, 100, "first"),
            read(2, 100, "true"),
            read(3, 100, "last"),
            // The invoice was stored out of line, and not touched.
            streamed("u", 200, 1, row(1, "shipped", unavailable)),
            // Sent again behind it.
            read(1, 100, "first"),
            streamed("c", 210, 4, row(4, "gone", b"")),
            streamed("d", 220, 4, deleted(4)),
            // Of another table behind the same router.
            Message::new(key(1), fields(deleted(1), "d", "refunds", 230, "[\"225\",\"230\"]", "false")).to(1),
        ],
    );
    let url = registry.url();
    // One table of several that are routed into the topic.
    let with_origin = "key: id\n    when: .__table == \"orders\"\n";
    let changes = [("http://registry:8081", url.as_str()), ("key: id\n", with_origin)];
    let config = adapted(dir.path(), "debezium-flat-avro.yaml", &changes);
    let (code, said) = check(&config, &["--schemas"]);
    assert_eq!(code, 0, "{said}");
    for part in ["value", "key"] {
        assert!(said.contains(&format!("ok      schema {topic}-{part} version 1")), "{said}");
    }
    let mut daemon = start(dir.path(), &config, &broker.bootstrap(), &[]);
    daemon.started();
    let connection = reader(dir.path());
    let all = "SELECT id, status, total, placed_at, details, CAST(invoice AS TEXT) FROM orders ORDER BY id";
    let order =
        |id: u8, status: &str| format!("{id}|{status}|12.34|2023-11-14T22:13:20.123456Z|{{\"a\": 1}}|pdf");
    assert_eq!(rows(&connection, all), [order(1, "shipped"), order(2, "placed"), order(3, "placed")]);
    feed(&mut daemon, broker, topic, [streamed("d", 240, 1, deleted(1))]);
    assert_eq!(rows(&connection, all), [order(2, "placed"), order(3, "placed")]);
    assert_eq!(dead_letters(dir.path()), [""; 0]);
    // Another whole snapshot, which does not mention 3 any more.
    feed(&mut daemon, broker, topic, [read(2, 300, "last")]);
    eventually("the ghost goes", || (rows(&connection, all) == [order(2, "placed")]).then_some(()));
    let swept = "readside_rows_swept_total{table=\"orders\"}";
    eventually("it is counted", || (daemon.metric(swept) == Some(1.0)).then_some(()));
    // A key that changes takes along what its event leaves out.
    let moved = [
        streamed("d", 310, 2, deleted(2)).header("__debezium.newkey", br#"{"id":5}"#),
        streamed("c", 310, 5, row(5, "moved", unavailable)).header("__debezium.oldkey", br#"{"id":2}"#),
    ];
    feed(&mut daemon, broker, topic, moved);
    assert_eq!(rows(&connection, all), [order(5, "moved")]);
    // Nothing says which of two rows is newer.
    let unordered = row(6, "placed", b"").long(0).long(1).bytes("orders").long(0).long(0).long(1);
    let unordered = unordered.long(0).long(0).long(0).0;
    feed(&mut daemon, broker, topic, [Message::new(key(6), unordered).to(0)]);
    assert_eq!(dead_letters(dir.path()), ["shop.flat.orders|version|.__lsn"]);
    assert_eq!(rows(&connection, all), [order(5, "moved")]);
}

#[test]
fn cloudevents_in_both_modes() {
    let Some(broker) = kafka::shared() else { return };
    let dir = tempfile::tempdir().unwrap();
    let topic = "billing.invoices";
    broker.create_topic(topic, 1, &[]);
    let [first, second] = ["6f9619ff-8b86-d011-b42d-00cf4fc964ff", "00000000-0000-4000-8000-000000000001"];
    let structured = |kind: &str, id: &str, sequence: u32, data: &str| {
        let value = format!(
            r#"{{"specversion":"1.0","type":"com.example.invoice.{kind}","source":"/billing","id":"{id}","time":"2026-03-01T12:00:00Z","sequence":{sequence},{data}}}"#
        );
        Message::without_key(value).header("content-type", b"application/cloudevents+json; charset=UTF-8")
    };
    let binary = |kind: &str, id: &str, sequence: u32, data: &str| {
        Message::without_key(data)
            .header("ce_specversion", b"1.0")
            .header("ce_type", format!("com.example.invoice.{kind}").as_bytes())
            .header("ce_source", b"/billing/two")
            .header("ce_id", id.as_bytes())
            .header("ce_time", b"2026-03-02T12:00:00Z")
            .header("ce_sequence", sequence.to_string().as_bytes())
            .header("content-type", b"application/json")
    };
    let invoice = |id: &str, total: &str| format!(r#"{{"invoice":{{"id":"{id}","total":{total}}}}}"#);
    use base64::Engine as _;
    let encoded = base64::engine::general_purpose::STANDARD.encode(invoice(second, "7"));
    broker.produce(
        topic,
        [
            structured("issued", "e1", 1, &format!(r#""data":{}"#, invoice(first, "\"10.50\""))),
            binary("paid", "e2", 2, &invoice(first, "null")),
            // The same event once more, and an older one.
            binary("issued", "e2", 2, &invoice(first, "99")),
            structured("issued", "e3", 3, &format!(r#""data_base64":"{encoded}""#)),
            binary("viewed", "e4", 4, "{}"),
            // Not what they should be.
            Message::without_key(invoice(first, "1")).header("content-type", b"application/json"),
            binary("issued", "e5", 5, "not json"),
            structured("issued", "e6", 6, r#""datacontenttype":"text/xml","data_base64":"PGEvPg==""#),
            Message::without_key("{}").header("content-type", b"application/cloudevents+avro"),
        ],
    );
    let mut daemon = start(dir.path(), &example("cloudevents.yaml"), &broker.bootstrap(), &[]);
    daemon.started();
    let all = "SELECT id, status, total, changed_at, source FROM invoices ORDER BY id DESC";
    assert_eq!(
        rows(&reader(dir.path()), all),
        [
            format!("{first}|paid|10.50|2026-03-02T12:00:00.000000Z|/billing"),
            format!("{second}|issued|7|2026-03-01T12:00:00.000000Z|/billing"),
        ]
    );
    assert_eq!(
        dead_letters(dir.path()),
        [
            "billing.invoices|malformed|$event",
            "billing.invoices|malformed|.",
            "billing.invoices|malformed|$event.datacontenttype",
            "billing.invoices|malformed|$event",
        ]
    );
    feed(&mut daemon, broker, topic, [binary("deleted", "e9", 9, &invoice(first, "null"))]);
    assert_eq!(rows(&reader(dir.path()), all).len(), 1);
}

#[test]
fn raw_keys_and_values_become_columns() {
    let Some(broker) = kafka::shared() else { return };
    let dir = tempfile::tempdir().unwrap();
    let (settings, pictures) = ("settings.current", "thumbnails.current");
    for topic in [settings, pictures] {
        broker.create_topic(topic, 1, &[("cleanup.policy", "compact")]);
    }
    let id = "6f9619ff-8b86-d011-b42d-00cf4fc964ff";
    broker.produce(
        settings,
        [
            Message::new("limit", "5"),
            Message::new("limit", "7"),
            Message::new("old", "1"),
            Message::tombstone("old"),
            Message::new("wrong", "seven"),
            Message::new("wrong", [0xFF]),
            Message::new([0xFF], "1"),
        ],
    );
    broker.produce(pictures, [Message::new(id, [0, 255, 1])]);
    let mut daemon = start(dir.path(), &example("raw.yaml"), &broker.bootstrap(), &[]);
    daemon.started();
    let connection = reader(dir.path());
    assert_eq!(rows(&connection, "SELECT name, value FROM settings"), ["limit|7"]);
    assert_eq!(rows(&connection, "SELECT id, picture FROM thumbnails"), [format!("{id}|[0, 255, 1]")]);
    assert_eq!(
        dead_letters(dir.path()),
        ["settings.current|wrong_type|.", "settings.current|malformed|.", "settings.current|malformed|$key"]
    );
    feed(&mut daemon, broker, pictures, [Message::tombstone(id)]);
    assert_eq!(rows(&connection, "SELECT count(*) FROM thumbnails"), ["0"]);
}

/// Writes Protobuf's wire format.
#[derive(Default, Clone)]
struct Proto(Vec<u8>);

impl Proto {
    /// Behind the header that names a schema and the place of a message in it.
    fn of(schema: u32, indexes: &[i64]) -> Proto {
        let mut avro = Avro::of(schema);
        // The first message has a form of its own.
        if indexes == [0] {
            avro = avro.long(0);
        } else {
            avro = indexes.iter().fold(avro.long(indexes.len() as i64), |avro, index| avro.long(*index));
        }
        Proto(avro.0)
    }

    fn raw(mut self, mut number: u64) -> Proto {
        while number >= 0x80 {
            self.0.push(number as u8 | 0x80);
            number >>= 7;
        }
        self.0.push(number as u8);
        self
    }

    fn varint(self, field: u64, number: i64) -> Proto {
        self.raw(field << 3).raw(number as u64)
    }

    fn bytes(self, field: u64, bytes: impl AsRef<[u8]>) -> Proto {
        let mut this = self.raw(field << 3 | 2).raw(bytes.as_ref().len() as u64);
        this.0.extend_from_slice(bytes.as_ref());
        this
    }
}

const CUSTOMER_PROTO: &str =
    r#"syntax = "proto3"; package shop; message Customer { int64 id = 1; string name = 2; }"#;

const ORDERS_PROTO: &str = r#"syntax = "proto3";
package shop;
import "shop/customer.proto";
import "google/protobuf/timestamp.proto";
import "google/protobuf/wrappers.proto";

message OrderPlaced {
  enum Status { UNKNOWN = 0; PLACED = 1; }
  int64 order_id = 1;
  Status status = 2;
  Customer customer = 3;
  google.protobuf.StringValue coupon = 4;
  Amount total = 5;
  google.protobuf.Timestamp placed_at = 6;
  map<string, string> labels = 7;
  repeated sint32 not_wanted = 8;
  int64 sequence = 9;
  message Amount { bytes value = 1; uint32 precision = 2; int32 scale = 3; }
}

message Shop {
  message Other { int32 x = 1; }
  message OrderCancelled { int64 order_id = 1; int64 sequence = 9; }
}
"#;

#[test]
fn protobuf_events_with_schemas_from_a_registry() {
    let (Some(broker), Some(registry)) = (kafka::shared(), registry::shared()) else { return };
    let dir = tempfile::tempdir().unwrap();
    let topic = "shop.orders";
    broker.create_topic(topic, 1, &[]);
    registry.register("shop-customer", "PROTOBUF", CUSTOMER_PROTO, &[]);
    let schema = registry.register(
        "shop.orders-value",
        "PROTOBUF",
        ORDERS_PROTO,
        &[("shop/customer.proto", "shop-customer")],
    );
    let placed = |id: i64| {
        Proto::of(schema, &[0])
            .varint(1, id)
            .varint(2, 1)
            .bytes(3, Proto::default().varint(1, 5).bytes(2, "Größe").0)
            .bytes(6, Proto::default().varint(1, 1_700_000_000).varint(2, 123_456_000).0)
            .bytes(8, [1, 2, 3])
            .varint(9, 1)
            .bytes(7, Proto::default().bytes(1, "b").bytes(2, "2").0)
            .bytes(7, Proto::default().bytes(1, "priority").bytes(2, "high").0)
            // A field of a later version.
            .bytes(99, "new")
    };
    let cancelled = |id: i64, sequence: i64| Proto::of(schema, &[1, 1]).varint(1, id).varint(9, sequence).0;
    broker.produce(
        topic,
        [
            Message::new("1", placed(1).0),
            Message::new("2", placed(2).bytes(4, Proto::default().bytes(1, "SAVE").0).0),
            Message::new("2", cancelled(2, 7)),
            // Without anything but its version: defaults where there is no presence, null where there is.
            Message::new("0", Proto::of(schema, &[0]).varint(9, 1).0),
            // An enum value of a later version, a group, a cut one, and a message of no rule.
            Message::new("3", placed(3).varint(2, 9).0),
            Message::new("3", placed(3).raw(20 << 3 | 3).raw(20 << 3 | 4).0),
            Message::new("3", {
                let all = placed(3).0;
                all[..all.len() - 1].to_vec()
            }),
            Message::new("3", Proto::of(schema, &[1, 0]).varint(1, 1).0),
            Message::new("3", Proto::of(schema, &[5]).varint(1, 1).0),
        ],
    );
    let config = adapted(
        dir.path(),
        "protobuf.yaml",
        // Its type is in no file that the registry of the tests has.
        &[(
            "      total: { type: \"decimal?\", from: .total }       # confluent.type.Decimal\n",
            "      total: { type: \"json?\", from: .total }\n",
        )],
    );
    let url = registry.url();
    let registry_at = [("READSIDE__SCHEMA_REGISTRY__URL", url.as_str())];
    let mut daemon = start(dir.path(), &config, &broker.bootstrap(), &registry_at);
    daemon.started();
    let all =
        "SELECT id, status, customer, coupon, total, placed_at, labels, priority FROM orders ORDER BY id";
    let labels = r#"{"b":"2","priority":"high"}"#;
    let at = "2023-11-14T22:13:20.123456Z";
    assert_eq!(
        rows(&reader(dir.path()), all),
        [
            "0|UNKNOWN|NULL|NULL|NULL|NULL|{}|NULL".to_owned(),
            format!("1|PLACED|Größe|NULL|NULL|{at}|{labels}|high"),
            format!("2|cancelled|Größe|SAVE|NULL|{at}|{labels}|high"),
        ]
    );
    assert_eq!(
        dead_letters(dir.path()),
        [
            "shop.orders|out_of_range|.status",
            "shop.orders|malformed|.",
            "shop.orders|malformed|.",
            "shop.orders|unknown_type|$event.\"$type\"",
            "shop.orders|schema|.",
        ]
    );
    feed(&mut daemon, broker, topic, [Message::new("1", cancelled(1, 2))]);
    assert_eq!(rows(&reader(dir.path()), "SELECT status FROM orders WHERE id = 1"), ["cancelled"]);
}

#[test]
fn json_schema_rows_with_keys_of_the_registry_too() {
    let (Some(broker), Some(registry)) = (kafka::shared(), registry::shared()) else { return };
    let dir = tempfile::tempdir().unwrap();
    let topic = "stock.current";
    broker.create_topic(topic, 1, &[("cleanup.policy", "compact")]);
    let draft = r#""$schema":"http://json-schema.org/draft-07/schema#""#;
    let value = format!(
        r#"{{{draft},"type":"object","properties":{{"warehouse":{{"type":"string"}},"sku":{{"type":"string"}},"quantity":{{"type":"integer"}},
           "value":{{"oneOf":[{{"type":"null"}},{{"type":"number","title":"org.apache.kafka.connect.data.Decimal","connect.type":"bytes","connect.parameters":{{"scale":"2"}}}}]}}}}}}"#
    );
    let value = registry.register("stock.current-value", "JSON", &value, &[]);
    let key = format!(
        r#"{{{draft},"type":"object","properties":{{"warehouse":{{"type":"string"}},"sku":{{"type":"string"}}}}}}"#
    );
    let key = registry.register("stock.current-key", "JSON", &key, &[]);
    let framed = |schema: u32, text: &str| [&Avro::of(schema).0[..], text.as_bytes()].concat();
    let stock_key = |sku: &str| framed(key, &format!(r#"{{"warehouse":"ROT","sku":"{sku}"}}"#));
    let stock = |sku: &str, rest: &str| {
        Message::new(stock_key(sku), framed(value, &format!(r#"{{"warehouse":"ROT","sku":"{sku}",{rest}}}"#)))
    };
    broker.produce(
        topic,
        [
            stock("a", r#""quantity":3,"value":"BNI=""#),
            stock("b", r#""quantity":4,"value":null"#),
            stock("c", r#""quantity":5"#),
            Message::tombstone(stock_key("b")),
            Message::new(stock_key("d"), r#"{"warehouse":"ROT","sku":"d","quantity":1}"#),
            Message::new(stock_key("d"), framed(value, r#"{"warehouse":"ROT""#)),
        ],
    );
    let url = registry.url();
    let registry_at = [("READSIDE__SCHEMA_REGISTRY__URL", url.as_str())];
    let mut daemon = start(dir.path(), &example("json-schema.yaml"), &broker.bootstrap(), &registry_at);
    daemon.started();
    let all = "SELECT warehouse, sku, quantity, value FROM stock ORDER BY sku";
    assert_eq!(rows(&reader(dir.path()), all), ["ROT|a|3|12.34", "ROT|c|5|NULL"]);
    assert_eq!(dead_letters(dir.path()), ["stock.current|malformed|.", "stock.current|malformed|."]);
    feed(&mut daemon, broker, topic, [Message::tombstone(stock_key("a"))]);
    assert_eq!(rows(&reader(dir.path()), all), ["ROT|c|5|NULL"]);
}

#[test]
fn avro_and_protobuf_with_schemas_from_files() {
    let Some(broker) = kafka::shared() else { return };
    let dir = tempfile::tempdir().unwrap();
    let (readings, sensors) = ("sensors.readings", "sensors.current");
    for topic in [readings, sensors] {
        broker.create_topic(topic, 1, &[]);
    }
    let avro = dir.path().join("reading.avsc");
    let reading = r#"{"type":"record","name":"Reading","fields":[{"name":"sensor","type":"string"},
      {"name":"valid","type":"boolean"},{"name":"at","type":{"type":"long","logicalType":"timestamp-millis"}},{"name":"celsius","type":"double"}]}"#;
    std::fs::write(&avro, reading).unwrap();
    let proto = dir.path().join("sensor.proto");
    let sensor = r#"syntax = "proto3"; package sensors.v1; import "google/type/date.proto";
      message Sensor { string id = 1; Kind kind = 2; google.type.Date installed_on = 3; }
      enum Kind { KIND_UNSPECIFIED = 0; KIND_INDOOR = 1; }"#;
    std::fs::write(&proto, sensor).unwrap();
    let sample = |sensor: &str, at: i64| Avro::default().bytes(sensor).boolean(true).long(at).double(-1.5).0;
    broker.produce(readings, [Message::new("s1", sample("s1", 0)), Message::new("s1", sample("s1", 1_000))]);
    let day = Proto::default().varint(1, 2026).varint(2, 3).varint(3, 1).0;
    let indoor = Proto::default().bytes(1, "s1").varint(2, 1).bytes(3, day).0;
    broker.produce(
        sensors,
        [
            Message::new("s1", indoor),
            Message::new("s2", Proto::default().bytes(1, "s2").0),
            Message::new("s3", Proto::default().bytes(1, "s3").0),
            Message::tombstone("s3"),
        ],
    );
    let (avro, proto) = (avro.display().to_string(), proto.display().to_string());
    let changes =
        [("/etc/readside/reading.avsc", avro.as_str()), ("/etc/readside/sensor.proto", proto.as_str())];
    let config = adapted(dir.path(), "schema-files.yaml", &changes);
    let mut daemon = start(dir.path(), &config, &broker.bootstrap(), &[]);
    daemon.started();
    let connection = reader(dir.path());
    assert_eq!(
        rows(&connection, "SELECT sensor, at, celsius FROM readings ORDER BY at"),
        ["s1|1970-01-01T00:00:00.000000Z|-1.5", "s1|1970-01-01T00:00:01.000000Z|-1.5"]
    );
    assert_eq!(
        rows(&connection, "SELECT id, kind, installed FROM sensors ORDER BY id"),
        ["s1|KIND_INDOOR|2026-03-01", "s2|KIND_UNSPECIFIED|NULL"]
    );
    assert_eq!(dead_letters(dir.path()), [""; 0]);
    drop(daemon);
    // A file that cannot be used is found before anything is read.
    std::fs::write(&avro, "{\"type\":\"record\"}").unwrap();
    let mut daemon = start(dir.path(), &config, &broker.bootstrap(), &[]);
    assert_eq!(daemon.wait().code(), Some(64));
    assert!(daemon.log().contains("reading.avsc"), "{}", daemon.log());
}
