//! The rows of other databases, as their change events come, against a real broker: Debezium's with and
//! without an envelope, Maxwell's and Canal's.

use crate::daemon::{Daemon, header, output, reader, rows, said};
use crate::examples::{dead_letters, example, feed, start};
use crate::kafka::{self, Message, eventually};

/// A change event of Debezium's, without a schema.
pub fn change(op: &str, snapshot: &str, sequence: &str, after: &str) -> String {
    format!(
        r#"{{"before":null,"after":{after},"source":{{"snapshot":"{snapshot}","sequence":"[{}]"}},"op":"{op}","ts_ms":1}}"#,
        sequence.replace('"', "\\\"")
    )
}

#[test]
fn what_a_second_snapshot_does_not_list_goes_from_all_partitions() {
    let Some(broker) = kafka::shared() else { return };
    let dir = tempfile::tempdir().unwrap();
    let topic = "ghosts.public.items";
    broker.create_topic(topic, 3, &[]);
    let key = |id: i32| format!(r#"{{"id":{id}}}"#);
    let row = |id: i32, name: &str| format!(r#"{{"id":{id},"name":"{name}"}}"#);
    let read = |id: i32, mark: &str, lsn: u32, name: &str| {
        Message::new(key(id), change("r", mark, &format!("null,\"{lsn}\""), &row(id, name))).to(id % 3)
    };
    // The connector dies before it has stored that it is done, and 2, 3 and 4 are deleted meanwhile.
    broker.produce(
        topic,
        [
            read(1, "first", 100, "one"),
            read(2, "true", 100, "two"),
            read(3, "true", 100, "three"),
            read(4, "true", 100, "four"),
            read(5, "true", 100, "five"),
        ],
    );
    let yaml = format!(
        "{}topics: {{ {topic}: {{ format: debezium-json }} }}\ntables:\n  items: {{ topic: {topic}, key: id, columns: {{ id: integer, name: text }} }}\n",
        header(&broker.bootstrap(), dir.path())
    );
    let mut daemon = Daemon::start(dir.path(), &yaml);
    daemon.started();
    let connection = reader(dir.path());
    let items = "SELECT id, name FROM items ORDER BY id";
    assert_eq!(rows(&connection, items).len(), 5);
    let again = [
        read(1, "first", 200, "one"),
        read(5, "true", 200, "five again"),
        Message::new(key(6), change("c", "false", r#"null,"210""#, &row(6, "six"))).to(0),
        // The last row is not in the partition with the ghosts.
        read(7, "last_in_data_collection", 200, "seven"),
    ];
    feed(&mut daemon, broker, topic, again);
    let expected = ["1|one", "5|five again", "6|six", "7|seven"];
    eventually("ghosts go", || (rows(&connection, items) == expected).then_some(()));
    let swept = "readside_rows_swept_total{table=\"items\"}";
    eventually("they are counted", || (daemon.metric(swept) == Some(3.0)).then_some(()));
    let unfinished = "readside_snapshot_unfinished{table=\"items\"}";
    eventually("all of it was read", || (daemon.metric(unfinished) == Some(0.0)).then_some(()));
    assert_eq!(rows(&connection, "SELECT snapshot FROM _readside_tables"), ["swept"]);
}

#[test]
fn a_key_that_changes_takes_along_what_its_event_leaves_out() {
    let Some(broker) = kafka::shared() else { return };
    let dir = tempfile::tempdir().unwrap();
    let topic = "keys.public.items";
    broker.create_topic(topic, 2, &[]);
    let key = |id: i32| format!(r#"{{"id":{id}}}"#);
    let row = |id: i32, body: &str| format!(r#"{{"id":{id},"body":"{body}"}}"#);
    let moved = |from: i32, to: i32, lsn: u32| {
        let sequence = format!("\"100\",\"{lsn}\"");
        let gone = Message::new(key(from), change("d", "false", &sequence, "null"));
        let here =
            Message::new(key(to), change("c", "false", &sequence, &row(to, "__debezium_unavailable_value")));
        [
            gone.header("__debezium.newkey", key(to).as_bytes()),
            here.header("__debezium.oldkey", key(from).as_bytes()),
        ]
    };
    let large = "x".repeat(3_000);
    let [gone, here] = moved(1, 2, 300);
    broker.produce(
        topic,
        [
            // The new key is read first, of whichever of the two partitions.
            here.to(1),
            Message::new(key(1), change("c", "false", r#""100","200""#, &row(1, &large))).to(0),
            gone.to(0),
            Message::tombstone(key(1)).header("__debezium.newkey", key(2).as_bytes()).to(0),
            Message::new(key(11), change("c", "false", r#""100","201""#, &row(11, &large))).to(1),
        ],
    );
    let [gone, here] = moved(11, 12, 301);
    broker.produce(topic, [here.to(0), gone.to(1), Message::tombstone(key(11)).to(1)]);
    let yaml = format!(
        "{}topics: {{ {topic}: {{ format: debezium-json }} }}\ntables:\n  items: {{ topic: {topic}, key: id, columns: {{ id: integer, body: text }} }}\n",
        header(&broker.bootstrap(), dir.path())
    );
    let mut daemon = Daemon::start(dir.path(), &yaml);
    daemon.started();
    assert_eq!(
        rows(&reader(dir.path()), "SELECT id, length(body) FROM items ORDER BY id"),
        ["2|3000", "12|3000"]
    );
    assert_eq!(dead_letters(dir.path()), [""; 0]);
}

#[test]
fn flattened_debezium_events() {
    let Some(broker) = kafka::shared() else { return };
    let dir = tempfile::tempdir().unwrap();
    let topic = "shop.flat.products";
    broker.create_topic(topic, 1, &[]);
    let key = |id: u32| format!(r#"{{"id":{id}}}"#);
    let row = |id: u32, name: &str, description: &str, more: &str| {
        format!(r#"{{"id":{id},"name":"{name}","price":"1.50","description":{description},{more}}}"#)
    };
    let at = |op: &str, lsn: u32, deleted: &str| {
        format!(
            r#""__op":"{op}","__lsn":{lsn},"__source_sequence":"[\"100\",\"{lsn}\"]","__source_snapshot":"false","__deleted":"{deleted}""#
        )
    };
    broker.produce(
        topic,
        [
            Message::new(key(1), row(1, "old", r#""long""#, &at("c", 200, "false"))),
            Message::new(key(1), row(1, "new", r#""__debezium_unavailable_value""#, &at("u", 210, "false"))),
            // Sent again behind it.
            Message::new(key(1), row(1, "old", r#""long""#, &at("c", 200, "false"))),
            Message::new(key(2), row(2, "gone", "null", &at("c", 220, "false"))),
            Message::new(key(2), row(2, "", "null", &at("d", 230, "true"))),
            Message::new(key(3), row(3, "no order", "null", r#""__op":"r","__lsn":null"#)),
        ],
    );
    let mut daemon = start(dir.path(), &example("debezium-flat.yaml"), &broker.bootstrap(), &[]);
    daemon.started();
    let products = "SELECT id, name, price, description FROM products ORDER BY id";
    assert_eq!(rows(&reader(dir.path()), products), ["1|new|1.50|long"]);
    assert_eq!(dead_letters(dir.path()), ["shop.flat.products|version|.__lsn"]);
    feed(&mut daemon, broker, topic, [Message::new(key(1), row(1, "", "null", &at("d", 240, "true")))]);
    assert_eq!(rows(&reader(dir.path()), products), [""; 0]);
}

#[test]
fn maxwells_rows() {
    let Some(broker) = kafka::shared() else { return };
    let dir = tempfile::tempdir().unwrap();
    let topic = "maxwell.shop.products";
    broker.create_topic(topic, 2, &[]);
    let key = |id: u32| format!(r#"{{"database":"shop","table":"products","pk.id":{id}}}"#);
    let record = |kind: &str, id: u32, name: &str, old: &str| {
        let data = format!(
            r#"{{"id":{id},"name":"{name}","price":12.50,"active":1,"updated_at":"2016-10-21 05:33:37.523000"}}"#
        );
        let value = format!(
            r#"{{"database":"shop","table":"products","type":"{kind}","ts":1477053217,"xid":23396,"commit":true,"data":{data}{old}}}"#
        );
        Message::new(key(id), value)
    };
    let ddl = r#"{"type":"table-alter","database":"shop","table":"products","old":{},"def":{},"ts":1477053308000,"sql":"alter table …"}"#;
    broker.produce(
        topic,
        [
            Message::without_key(
                r#"{"database":"shop","table":"products","type":"bootstrap-start","ts":1450557598,"data":{}}"#,
            )
            .to(0),
            record("bootstrap-insert", 1, "one", "").to(0),
            record("bootstrap-insert", 2, "two", "").to(0),
            Message::without_key(ddl).to(0),
            record("update", 1, "uno", r#","old":{"name":"one"}"#).to(0),
            // From 2 to 3.
            record("update", 3, "three", r#","old":{"id":2,"name":"two"}"#).to(0),
            record("insert", 4, "four", "").to(1),
            record("delete", 4, "four", "").to(1),
            Message::new(key(5), r#"{"database":"shop","table":"products","type":"insert","ts":1,"data":{"id":5,"name":"bad","price":1,"active":1,"updated_at":"0000-00-00 00:00:00"}}"#).to(1),
        ],
    );
    let mut daemon = start(dir.path(), &example("maxwell.yaml"), &broker.bootstrap(), &[]);
    daemon.started();
    let products = "SELECT id, name, price, active, updated_at FROM products ORDER BY id";
    let at = "2016-10-21T05:33:37.523000Z";
    assert_eq!(
        rows(&reader(dir.path()), products),
        [format!("1|uno|12.50|1|{at}"), format!("3|three|12.50|1|{at}")]
    );
    assert_eq!(dead_letters(dir.path()), ["maxwell.shop.products|wrong_type|.updated_at"]);
    feed(&mut daemon, broker, topic, [record("delete", 3, "three", "").to(0)]);
    assert_eq!(rows(&reader(dir.path()), "SELECT id FROM products"), ["1"]);
}

#[test]
fn canals_rows() {
    let Some(broker) = kafka::shared() else { return };
    let dir = tempfile::tempdir().unwrap();
    let (topic, prices) = ("canal.shop.products", "ticdc.shop.prices");
    broker.create_topic(topic, 1, &[]);
    broker.create_topic(prices, 2, &[]);
    let row = |id: u32, name: &str| {
        format!(
            r#"{{"id":"{id}","name":"{name}","price":"12.50","active":"1","updated_at":"2026-03-01 12:00:00","attributes":"{{\"a\": 1}}"}}"#
        )
    };
    let record = |kind: &str, is_ddl: bool, data: &str, old: &str| {
        Message::without_key(format!(
            r#"{{"data":{data},"database":"shop","es":1588748884000,"id":24,"isDdl":{is_ddl},"mysqlType":{{"id":"bigint(20)"}},"old":{old},"pkNames":["id"],"sql":"","sqlType":{{"id":-5}},"table":"products","ts":1588748884545,"type":"{kind}"}}"#
        ))
    };
    broker.produce(
        topic,
        [
            record(
                "INSERT",
                false,
                &format!("[{},{},{}]", row(1, "one"), row(2, "two"), row(3, "three")),
                "null",
            ),
            record("ALTER", true, "null", "null"),
            record(
                "UPDATE",
                false,
                &format!("[{},{}]", row(1, "uno"), row(4, "four")),
                r#"[{"name":"one"},{"id":"2","name":"two"}]"#,
            ),
            record("DELETE", false, &format!("[{}]", row(3, "three")), "null"),
            record("INSERT", false, r#"[{"id":"x"}]"#, "null"),
        ],
    );
    let price = |kind: &str, commit: u64, price: &str| {
        Message::without_key(format!(
            r#"{{"id":0,"database":"shop","table":"prices","pkNames":["sku"],"isDdl":false,"type":"{kind}","es":1,"ts":1,"sql":"","data":[{{"sku":"a","price":"{price}"}}],"old":null,"_tidb":{{"commitTs":{commit}}}}}"#
        ))
    };
    broker.produce(
        prices,
        [
            price("UPDATE", 3, "3.00").to(0),
            price("INSERT", 2, "2.00").to(1),
            Message::without_key(r#"{"id":0,"database":"","table":"","isDdl":false,"type":"TIDB_WATERMARK","es":1,"ts":1,"data":null,"old":null,"_tidb":{"watermarkTs":4}}"#).to(1),
        ],
    );
    let mut daemon = start(dir.path(), &example("canal.yaml"), &broker.bootstrap(), &[]);
    daemon.started();
    let products = "SELECT id, name, price, active, updated_at, attributes FROM products ORDER BY id";
    let rest = r#"12.50|1|2026-03-01T12:00:00.000000Z|{"a": 1}"#;
    let connection = reader(dir.path());
    assert_eq!(rows(&connection, products), [format!("1|uno|{rest}"), format!("4|four|{rest}")]);
    assert_eq!(rows(&connection, "SELECT sku, price FROM prices"), ["a|3.00"]);
    assert_eq!(dead_letters(dir.path()), ["canal.shop.products|wrong_type|.id"]);
    let more = [
        record("TRUNCATE", true, "null", "null"),
        record("INSERT", false, &format!("[{}]", row(9, "nine")), "null"),
    ];
    feed(&mut daemon, broker, topic, more);
    assert_eq!(rows(&connection, products), [format!("9|nine|{rest}")]);
}

/// As Debezium's connector for MySQL sends them: no sequence, but a file of the binlog and a place in it.
#[test]
fn debezium_events_of_mysql_in_the_order_of_the_log() {
    let Some(broker) = kafka::shared() else { return };
    let dir = tempfile::tempdir().unwrap();
    let topic = "shop.mysql.customers";
    broker.create_topic(topic, 2, &[]);
    let key = |id: i32| format!(r#"{{"id":{id}}}"#);
    let row = |id: i32, name: &str| {
        format!(
            r#"{{"id":{id},"name":"{name}","price":"1.50","seen":"2026-11-29T23:28:18.407044Z","opened":1795994898407044,"born":20786,"active":1,"doc":"{{\"a\": 1}}"}}"#
        )
    };
    let event = |op: &str, mark: &str, (file, pos): (u32, u32), after: &str| {
        format!(
            r#"{{"before":null,"after":{after},"source":{{"version":"3.6.1.Final","connector":"mysql","name":"m","ts_ms":1795994901000,"snapshot":"{mark}","db":"shop","sequence":null,"table":"customers","server_id":7,"gtid":null,"file":"bin.{file:06}","pos":{pos},"row":0,"thread":0,"query":null}},"transaction":null,"op":"{op}","ts_ms":1795994901304}}"#
        )
    };
    let stream = || {
        let gone = Message::new(key(2), event("d", "false", (3, 1465), "null"));
        let here = Message::new(key(3), event("c", "false", (3, 1465), &row(3, "x")));
        [
            Message::new(key(1), event("u", "false", (3, 1044), &row(1, "x"))).to(0),
            Message::new(key(2), event("u", "false", (3, 1044), &row(2, "x"))).to(1),
            gone.header("__debezium.newkey", key(3).as_bytes()).to(1),
            Message::tombstone(key(2)).header("__debezium.newkey", key(3).as_bytes()).to(1),
            here.header("__debezium.oldkey", key(2).as_bytes()).to(0),
            Message::new(key(1), event("d", "false", (3, 1778), "null")).to(0),
            Message::tombstone(key(1)).to(0),
        ]
    };
    let snapshot = [
        Message::new(key(1), event("r", "first", (3, 881), &row(1, "a"))).to(0),
        Message::new(key(2), event("r", "last", (3, 881), &row(2, "b"))).to(1),
    ];
    // The connector died and sends again what it sent; then another server goes on, with files of its own.
    broker.produce(topic, snapshot.into_iter().chain(stream()).chain(stream()));
    broker.produce(topic, [Message::new(key(3), event("u", "false", (1, 4), &row(3, "after"))).to(0)]);
    let yaml = |version: &str| {
        format!(
            "{}topics: {{ {topic}: {{ format: debezium-json{version} }} }}\ntables:\n  customers:\n    topic: {topic}\n    key: id\n    columns:\n      id: integer\n      name: text\n      price: decimal\n      seen: timestamp\n      opened: {{ type: timestamp, encoding: micros }}\n      born: date\n      active: integer\n      doc: json?\n",
            header(&broker.bootstrap(), dir.path())
        )
    };
    // Without a word about the order they are refused, with advice.
    let mut daemon = Daemon::start(dir.path(), &yaml(""));
    daemon.started();
    assert_eq!(rows(&reader(dir.path()), "SELECT count(*) FROM customers"), ["0"]);
    assert!(daemon.log().contains("say `version: position`"), "{}", daemon.log());
    daemon.terminate();

    let daemon = Daemon::start(dir.path(), &yaml(", version: position"));
    let connection = reader(dir.path());
    let expected =
        [r#"3|after|1.50|2026-11-29T23:28:18.407044Z|2026-11-29T23:28:18.407044Z|2026-11-29|1|{"a": 1}"#];
    let columns = "SELECT id, name, price, seen, opened, born, active, doc FROM customers";
    eventually("another order is another copy", || (rows(&connection, columns) == expected).then_some(()));
    assert_eq!(dead_letters(dir.path()), [""; 0]);
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_readside"));
    command.args(["explain", "customers", "3", "--config"]).arg(dir.path().join("readside.yaml"));
    let (_, text) = said(&output(&mut command));
    assert!(text.contains("ordered by position in the log"), "{text}");
    daemon.terminate();
}
