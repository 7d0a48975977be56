//! How many records a second one core decodes, and turns into changes, in every format:
//! `cargo bench --bench decode`, or `-- PART` for the cases whose name has that part.
//!
//! Every case works on the same thousand records over and over and prints the best of many short
//! rounds, which on a shared machine is the least disturbed one. *Decode* reads the fields that the
//! mapping asks for; *mapped* makes changes of them, decoding included. Ratios are to the flat row in
//! JSON.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::time::{Duration, Instant};

use readside::config::{
    Column, Config, DeadLetters, Expression, Format, Freshness, Gate, Kafka, Keep, Listener, Log, LogFormat,
    Mapping, OnConfigChange, OnError, OnGap, Otherwise, Path, PersonalData, Rebuild, RebuildPolicy, Replica,
    Root, Rule, Snapshots, Sqlite, Startup, Table, TableSource, Target, Topic, When,
};
use readside::decode::registry::{Kind, Registry, Schema};
use readside::decode::{Decoder, Scratch, Surroundings, Wanted};
use readside::domain::checkpoint::{PartitionMemory, TopicPartition};
use readside::domain::record::{Headers, Record};
use readside::domain::value::ColumnType;
use readside::mapping::{Outcome, Plan};

const RECORDS: usize = 1000;
const ROUNDS: usize = 200;
const PER_ROUND: usize = 10;

fn main() {
    yardstick();
    let rows = || Mapping::Rows;
    let placed = || {
        let status = BTreeMap::from([(1, Expression::Literal("\"placed\"".to_owned()))]);
        Mapping::Events(BTreeMap::from([("Placed".to_owned(), Rule::Upsert { columns: status })]))
    };
    let text = |value: String| value.into_bytes();
    let framed = |value: Vec<u8>| [&[0, 0, 0, 0, 1][..], &value].concat();
    let mut report = Report::default();
    report.run("json, flat row, 9 of 11 fields", Format::Json, rows(), &|nr| text(flat(nr, "")));
    report.run("json, flat event, 9 of 12 fields", Format::Json, placed(), &|nr| {
        text(flat(nr, r#","type":"Placed""#))
    });
    report.run("debezium-json, without schema", Format::DebeziumJson, rows(), &|nr| text(debezium(nr)));
    report.run("debezium-json, with schema", Format::DebeziumJson, rows(), &|nr| {
        text(format!(r#"{{"schema":{SCHEMA},"payload":{}}}"#, debezium(nr)))
    });
    report.run("debezium-flat, 9 of 14 fields", Format::DebeziumFlat, rows(), &|nr| {
        text(flat(nr, r#","__op":"u","__lsn":135188664,"__deleted":"false""#))
    });
    report.run("maxwell, 9 of 11 fields", Format::Maxwell, rows(), &|nr| {
        text(format!(
            r#"{{"database":"shop","table":"orders","type":"update","ts":1477053217,"xid":23396,"commit":true,"data":{},"old":{{"items":1}}}}"#,
            flat(nr, "")
        ))
    });
    report.run("canal, one row, 9 of 11 fields", Format::Canal, rows(), &|nr| {
        text(format!(
            r#"{{"data":[{}],"database":"shop","es":1588748884000,"id":24,"isDdl":false,"mysqlType":{{"id":"bigint(20)"}},"old":[{{"items":1}}],"pkNames":["id"],"sql":"","sqlType":{{"id":-5}},"table":"orders","ts":1588748884545,"type":"UPDATE"}}"#,
            flat(nr, "")
        ))
    });
    report.run("cloudevents, structured, flat row", Format::CloudEvents, rows(), &|nr| {
        text(format!(
            r#"{{"specversion":"1.0","type":"Placed","source":"/shop","id":"{nr}","data":{}}}"#,
            flat(nr, "")
        ))
    });
    report.run("avro, flat row, 9 of 11 fields", Format::Avro, rows(), &|nr| framed(avro(nr)));
    report
        .run("debezium-avro, 9 of 11 fields", Format::DebeziumAvro, rows(), &|nr| framed(debezium_avro(nr)));
    report.run("debezium-flat-avro, 9 of 14 fields", Format::DebeziumFlatAvro, rows(), &|nr| {
        framed(flat_avro(nr))
    });
    report.run("protobuf, flat row, 9 of 11 fields", Format::Protobuf, rows(), &|nr| framed(protobuf(nr)));
    report.run("json-schema, flat row", Format::JsonSchema, rows(), &|nr| framed(text(flat(nr, ""))));
    report.run("raw, one text", Format::Raw, rows(), &|nr| text(flat(nr, "")));
}

/// What the machine makes of parsing alone, into a document in memory.
fn yardstick() {
    let values: Vec<String> = (0..RECORDS).map(|nr| flat(nr, "")).collect();
    let best = best_round(|| {
        for value in &values {
            let document: serde_json::Value = serde_json::from_str(black_box(value)).expect("valid JSON");
            black_box(document);
        }
    });
    println!("serde_json::Value of the flat row: {} ns/record\n", nanos(best));
    println!(
        "{:36} {:>6}  {:>9} {:>10} {:>6}  {:>9} {:>10} {:>6}",
        "format", "bytes", "decode ns", "records/s", "ratio", "mapped ns", "records/s", "ratio"
    );
}

/// The fastest round, each of which does its work for all records several times.
fn best_round(mut work: impl FnMut()) -> Duration {
    let mut best = Duration::MAX;
    for _ in 0..ROUNDS {
        let start = Instant::now();
        for _ in 0..PER_ROUND {
            work();
        }
        best = best.min(start.elapsed());
    }
    best
}

/// Of one record.
fn nanos(best: Duration) -> u128 {
    (best.as_nanos() / (RECORDS * PER_ROUND) as u128).max(1)
}

#[derive(Default)]
struct Report {
    /// Decoding and mapping of the first case that ran.
    json: Option<(u128, u128)>,
}

impl Report {
    fn run(&mut self, name: &str, format: Format, mapping: Mapping, value: &dyn Fn(usize) -> Vec<u8>) {
        let wanted = std::env::args().nth(1).filter(|argument| !argument.starts_with('-'));
        // The first one is what the others are compared with.
        if wanted.is_some_and(|wanted| !name.contains(&wanted)) && self.json.is_some() {
            return;
        }
        let config = config(format, mapping);
        let values: Vec<Vec<u8>> = (0..RECORDS).map(value).collect();
        let (decoded, mapped) =
            (nanos(decode(&config, format, &values)), nanos(map(&config, format, &values)));
        let (decoded_json, mapped_json) = *self.json.get_or_insert((decoded, mapped));
        let bytes = values.iter().map(Vec::len).sum::<usize>() / RECORDS;
        let per_second = |nanos: u128| 1_000_000_000 / nanos;
        let ratio = |nanos: u128, json: u128| nanos as f64 / json as f64;
        println!(
            "{name:36} {bytes:6}  {decoded:9} {:10} {:6.2}  {mapped:9} {:10} {:6.2}",
            per_second(decoded),
            ratio(decoded, decoded_json),
            per_second(mapped),
            ratio(mapped, mapped_json)
        );
    }
}

/// The fields that the mapping asks for, and nothing made of them.
fn decode(config: &Config, format: Format, values: &[Vec<u8>]) -> Duration {
    let own = |column: &Column| match &column.from {
        Some(Expression::Path(path)) => path.clone(),
        _ => Path { root: Root::Row, fields: vec![column.name.clone()] },
    };
    let columns = config.tables[0].columns.iter().map(own).filter(|path| path.root == Root::Row);
    let mut value: Vec<Path> = columns.collect();
    value.extend(config.topics[0].event_type.iter().filter_map(|from| match from {
        Expression::Path(path) => Some(path.clone()),
        _ => None,
    }));
    let wanted = Wanted { value, key: Vec::new() };
    let mut decoder = Decoder::compile(&config.topics[0], &wanted, Some(&registry(format)));
    best_round(|| {
        let scratch = Scratch::default();
        let mut fields = Vec::new();
        for value in values {
            assert!(decoder.prepare(None, Some(value)).is_ok());
            let around = Surroundings { headers: Headers(None), scratch: &scratch };
            let kind = decoder.value(black_box(value), around, &mut fields);
            assert!(kind.is_ok());
            black_box(&fields);
        }
    })
}

/// All the way to changes.
fn map(config: &Config, format: Format, values: &[Vec<u8>]) -> Duration {
    let mut plan = Plan::with_registry(config, Some(registry(format)));
    let mut memory = PartitionMemory::default();
    let mut changes = Vec::new();
    best_round(|| {
        for (offset, value) in values.iter().enumerate() {
            let record = Record {
                at: TopicPartition { topic: 0, partition: 0 },
                offset: offset as i64,
                leader_epoch: 0,
                timestamp_ms: Some(1_700_000_000_000),
                key: Some(b"{\"id\":1}"),
                value: Some(black_box(value)),
                headers: Headers(None),
            };
            let outcome = plan.translate(&record, &mut memory, &mut changes);
            assert_eq!(outcome, Outcome::Changes);
        }
        black_box(&changes);
        changes.clear();
    })
}

fn flat(nr: usize, more: &str) -> String {
    format!(
        r#"{{"id":{},"status":"shipped","customer":"customer {nr:07}","mail":"person{nr}@example.org","city":"Köln","total":"{}.{:02}","items":{},"paid":{},"updated_at":"2026-03-0{}T12:34:56.{:06}Z","warehouse":"ROT-4711","trace":"0af7651916cd43dd8448eb211c80319c"{more}}}"#,
        1_000_000 + nr,
        nr * 7 % 1000,
        nr % 100,
        nr % 12,
        nr.is_multiple_of(2),
        nr % 9 + 1,
        nr * 997 % 1_000_000,
    )
}

fn debezium(nr: usize) -> String {
    format!(
        r#"{{"before":null,"after":{},"source":{{"version":"3.6.1.Final","connector":"postgresql","name":"shop","ts_ms":1795435949113,"snapshot":null,"db":"shop","sequence":"[\"135184360\",\"{}\"]","schema":"public","table":"orders","txId":11326,"lsn":135188664,"xmin":null}},"transaction":null,"op":"u","ts_ms":1795435949683}}"#,
        flat(nr, ""),
        135_188_664 + nr
    )
}

/// As long as a real one; what it says of `after` is only that nothing in it is special.
const SCHEMA: &str = r#"{"type":"struct","fields":[{"type":"struct","fields":[{"type":"int64","optional":false,"field":"id"},{"type":"string","optional":false,"field":"status"},{"type":"string","optional":false,"field":"customer"},{"type":"string","optional":true,"field":"mail"},{"type":"string","optional":true,"field":"city"},{"type":"string","optional":true,"field":"total"},{"type":"int32","optional":true,"field":"items"},{"type":"boolean","optional":true,"field":"paid"},{"type":"string","optional":true,"name":"io.debezium.time.ZonedTimestamp","version":1,"field":"updated_at"},{"type":"string","optional":true,"field":"warehouse"},{"type":"string","optional":true,"field":"trace"}],"optional":true,"name":"shop.public.orders.Value","field":"after"},{"type":"string","optional":false,"field":"op"}],"optional":false,"name":"shop.public.orders.Envelope","version":2}"#;

fn registry(format: Format) -> Registry {
    let (kind, text) = match format {
        Format::Protobuf => (Kind::Protobuf, PROTO.to_owned()),
        Format::JsonSchema => (Kind::Json, "{}".to_owned()),
        Format::DebeziumAvro => (Kind::Avro, AVRO_ENVELOPE.replace("ROW", AVRO_ROW)),
        Format::DebeziumFlatAvro => (Kind::Avro, format!("{}{FLAT_FIELDS}", &AVRO_ROW[..AVRO_ROW.len() - 2])),
        _ => (Kind::Avro, AVRO_ROW.to_owned()),
    };
    Registry::fixed([(1, Schema { kind, text, references: Vec::new(), versions: Vec::new() })])
}

const AVRO_ROW: &str = r#"{"type":"record","name":"Row","fields":[{"name":"id","type":"long"},{"name":"status","type":"string"},{"name":"customer","type":"string"},{"name":"mail","type":["null","string"]},{"name":"city","type":["null","string"]},{"name":"total","type":["null",{"type":"bytes","logicalType":"decimal","precision":12,"scale":2}]},{"name":"items","type":["null","int"]},{"name":"paid","type":["null","boolean"]},{"name":"updated_at","type":["null",{"type":"long","logicalType":"timestamp-micros"}]},{"name":"warehouse","type":["null","string"]},{"name":"trace","type":["null","string"]}]}"#;

const AVRO_ENVELOPE: &str = r#"{"type":"record","name":"Envelope","fields":[{"name":"before","type":["null",ROW]},{"name":"after","type":["null","Row"]},{"name":"source","type":{"type":"record","name":"Source","fields":[{"name":"db","type":"string"},{"name":"sequence","type":["null","string"]},{"name":"lsn","type":["null","long"]}]}},{"name":"op","type":"string"},{"name":"ts_ms","type":["null","long"]}]}"#;

/// Behind the fields of the row, in place of its last two brackets.
const FLAT_FIELDS: &str = r#",{"name":"__op","type":["null","string"]},{"name":"__lsn","type":["null","long"]},{"name":"__deleted","type":["null","string"]}]}"#;

const PROTO: &str = r#"syntax = "proto3"; import "google/protobuf/timestamp.proto"; import "confluent/type/decimal.proto";
message Row { int64 id = 1; string status = 2; string customer = 3; string mail = 4; string city = 5; confluent.type.Decimal total = 6; int32 items = 7; bool paid = 8; google.protobuf.Timestamp updated_at = 9; string warehouse = 10; string trace = 11; }"#;

fn varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn avro_long(out: &mut Vec<u8>, number: i64) {
    varint(out, ((number << 1) ^ (number >> 63)) as u64);
}

fn avro_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    avro_long(out, bytes.len() as i64);
    out.extend(bytes);
}

/// The same row as [`flat`].
fn avro(nr: usize) -> Vec<u8> {
    let mut out = Vec::new();
    avro_long(&mut out, (1_000_000 + nr) as i64);
    avro_bytes(&mut out, b"shipped");
    avro_bytes(&mut out, format!("customer {nr:07}").as_bytes());
    let mut some = |bytes: &[u8]| {
        avro_long(&mut out, 1);
        avro_bytes(&mut out, bytes);
    };
    some(format!("person{nr}@example.org").as_bytes());
    some("Köln".as_bytes());
    some(&(nr as i32 * 700).to_be_bytes());
    avro_long(&mut out, 1);
    avro_long(&mut out, (nr % 12) as i64);
    avro_long(&mut out, 1);
    out.push(u8::from(nr.is_multiple_of(2)));
    avro_long(&mut out, 1);
    avro_long(&mut out, 1_772_000_000_000_000 + nr as i64);
    avro_long(&mut out, 1);
    avro_bytes(&mut out, b"ROT-4711");
    avro_long(&mut out, 1);
    avro_bytes(&mut out, b"0af7651916cd43dd8448eb211c80319c");
    out
}

fn debezium_avro(nr: usize) -> Vec<u8> {
    let mut out = vec![0, 2];
    out.extend(avro(nr));
    avro_bytes(&mut out, b"shop");
    avro_long(&mut out, 1);
    avro_bytes(&mut out, format!("[\"135184360\",\"{}\"]", 135_188_664 + nr).as_bytes());
    out.push(0);
    avro_bytes(&mut out, b"u");
    out.push(0);
    out
}

fn flat_avro(nr: usize) -> Vec<u8> {
    let mut out = avro(nr);
    avro_long(&mut out, 1);
    avro_bytes(&mut out, b"u");
    avro_long(&mut out, 1);
    avro_long(&mut out, 135_188_664);
    avro_long(&mut out, 1);
    avro_bytes(&mut out, b"false");
    out
}

/// The same row as [`flat`], behind the index of its message.
fn protobuf(nr: usize) -> Vec<u8> {
    let mut out = vec![0];
    let number = |out: &mut Vec<u8>, field: u64, number: u64| {
        varint(out, field << 3);
        varint(out, number);
    };
    let bytes = |out: &mut Vec<u8>, field: u64, bytes: &[u8]| {
        varint(out, field << 3 | 2);
        varint(out, bytes.len() as u64);
        out.extend(bytes);
    };
    number(&mut out, 1, (1_000_000 + nr) as u64);
    bytes(&mut out, 2, b"shipped");
    bytes(&mut out, 3, format!("customer {nr:07}").as_bytes());
    bytes(&mut out, 4, format!("person{nr}@example.org").as_bytes());
    bytes(&mut out, 5, "Köln".as_bytes());
    let mut total = Vec::new();
    bytes(&mut total, 1, &(nr as i32 * 700).to_be_bytes());
    number(&mut total, 3, 2);
    bytes(&mut out, 6, &total);
    number(&mut out, 7, (nr % 12) as u64);
    number(&mut out, 8, u64::from(nr.is_multiple_of(2)));
    let mut at = Vec::new();
    number(&mut at, 1, 1_772_000_000);
    number(&mut at, 2, (nr * 1000) as u64);
    bytes(&mut out, 9, &at);
    bytes(&mut out, 10, b"ROT-4711");
    bytes(&mut out, 11, b"0af7651916cd43dd8448eb211c80319c");
    out
}

fn config(format: Format, mapping: Mapping) -> Config {
    let event_type = matches!(mapping, Mapping::Events(_))
        .then(|| Expression::Path(Path { root: Root::Row, fields: vec!["type".to_owned()] }));
    let column = |name: &str, ty, nullable| Column {
        name: name.to_owned(),
        ty,
        nullable,
        from: None,
        encoding: None,
        personal: None,
        show_last: 0,
    };
    let from = |root: Root| Some(Expression::Path(Path { root, fields: Vec::new() }));
    let raw = vec![
        Column { from: from(Root::Key), ..column("id", ColumnType::Text, false) },
        Column { from: from(Root::Row), ..column("value", ColumnType::Text, false) },
    ];
    let columns = vec![
        column("id", ColumnType::Integer, false),
        column("status", ColumnType::Text, false),
        column("customer", ColumnType::Text, false),
        column("mail", ColumnType::Text, true),
        column("city", ColumnType::Text, true),
        column("total", ColumnType::Decimal, true),
        column("items", ColumnType::Integer, true),
        column("paid", ColumnType::Boolean, true),
        column("updated_at", ColumnType::Timestamp, true),
    ];
    let listen = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
    Config {
        kafka: Kafka {
            brokers: Vec::new(),
            properties: BTreeMap::new(),
            secrets: BTreeMap::new(),
            max_record_bytes: 1 << 20,
        },
        schema_registry: None,
        replica: Replica {
            name: "bench".to_owned(),
            target: Target::Sqlite(Sqlite { path: "replica.db".into(), max_wal_bytes: u64::MAX }),
            rebuild_when_mapping_changes: RebuildPolicy::Auto,
            rebuild: Rebuild { max_loss: 0.1, min_rows: 100, min_free_bytes: 0 },
        },
        topics: vec![Topic {
            name: "orders".to_owned(),
            format,
            key_format: None,
            event_type,
            event_ids: None,
            version: None,
            by_position: false,
            ignore: Vec::new(),
            otherwise: Otherwise::DeadLetter,
            on_error: OnError::DeadLetter,
            on_gap: OnGap::Auto,
            placeholder: "__debezium_unavailable_value".to_owned(),
            snapshots: Snapshots::Sweep,
            schema_file: None,
            message: None,
            evolution: None,
        }],
        tables: vec![Table {
            name: "orders".to_owned(),
            columns: if format == Format::Raw { raw } else { columns },
            key: vec![0],
            indexes: Vec::new(),
            sources: vec![TableSource {
                topic: 0,
                mapping,
                key_from: BTreeMap::new(),
                when: When::default(),
            }],
            max_staleness: Duration::from_secs(30),
            delete_marks: Duration::from_secs(3600),
        }],
        freshness: Freshness { interval: Duration::from_secs(1) },
        startup: Startup { gate: Gate::Auto, max_age: Duration::from_secs(3600) },
        personal: PersonalData::default(),
        dead_letters: DeadLetters {
            max: 1000,
            max_rate: None,
            keep: Keep::Coordinates,
            max_bytes: 1 << 24,
            topic: None,
        },
        http: Listener { listen },
        admin: Listener { listen },
        log: Log { level: "info".to_owned(), format: LogFormat::Auto },
        on_config_change: OnConfigChange::Wait,
    }
}
