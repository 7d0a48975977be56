//! How many records a second one core turns into changes: `cargo bench --bench decode`,
//! or `-- PART` for the cases whose name has that part.
//!
//! Every case translates the same thousand records over and over and prints the best of many
//! short rounds, which on a shared machine is the least disturbed one.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::time::{Duration, Instant};

use readside::config::{
    Column, Config, DeadLetters, Expression, Format, Freshness, Gate, Kafka, Keep, Listener, Log, LogFormat,
    Mapping, OnError, OnGap, Otherwise, Path, Rebuild, RebuildPolicy, Replica, Root, Rule, Sqlite, Startup,
    Table, TableSource, Target, Topic,
};
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
    run("json, flat row, 9 of 11 fields", Format::Json, rows(), &|nr| flat(nr, ""));
    run("json, flat event, 9 of 12 fields", Format::Json, placed(), &|nr| flat(nr, r#","type":"Placed""#));
    run("debezium-json, 9 of 11 fields", Format::DebeziumJson, rows(), &debezium);
    run("debezium-json, embedded schema", Format::DebeziumJson, rows(), &|nr| {
        format!(r#"{{"schema":{SCHEMA},"payload":{}}}"#, debezium(nr))
    });
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
    print("serde_json::Value of the flat row", &values, best);
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

fn print(name: &str, values: &[String], best: Duration) {
    let bytes = values.iter().map(String::len).sum::<usize>() / RECORDS;
    let nanos = best.as_nanos() / (RECORDS * PER_ROUND) as u128;
    println!("{name:34} {bytes:5} B {nanos:6} ns/record {:9} records/s", 1_000_000_000 / nanos.max(1));
}

fn run(name: &str, format: Format, mapping: Mapping, value: &dyn Fn(usize) -> String) {
    let wanted = std::env::args().nth(1).filter(|argument| !argument.starts_with('-'));
    if wanted.is_some_and(|wanted| !name.contains(&wanted)) {
        return;
    }
    let mut plan = Plan::compile(&config(format, mapping));
    let values: Vec<String> = (0..RECORDS).map(value).collect();
    let mut memory = PartitionMemory::default();
    let mut changes = Vec::new();
    let best = best_round(|| {
        for (offset, value) in values.iter().enumerate() {
            let record = Record {
                at: TopicPartition { topic: 0, partition: 0 },
                offset: offset as i64,
                leader_epoch: 0,
                timestamp_ms: Some(1_700_000_000_000),
                key: Some(b"{\"id\":1}"),
                value: Some(black_box(value.as_bytes())),
                headers: Headers(None),
            };
            let outcome = plan.translate(&record, &mut memory, &mut changes);
            assert_eq!(outcome, Outcome::Changes);
        }
        black_box(&changes);
        changes.clear();
    });
    print(name, &values, best);
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

fn config(format: Format, mapping: Mapping) -> Config {
    let event_type = matches!(mapping, Mapping::Events(_))
        .then(|| Path { root: Root::Row, fields: vec!["type".to_owned()] });
    let column =
        |name: &str, ty, nullable| Column { name: name.to_owned(), ty, nullable, from: None, encoding: None };
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
        replica: Replica {
            name: "bench".to_owned(),
            target: Target::Sqlite(Sqlite { path: "replica.db".into() }),
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
            ignore: Vec::new(),
            otherwise: Otherwise::DeadLetter,
            on_error: OnError::DeadLetter,
            on_gap: OnGap::Auto,
            placeholder: "__debezium_unavailable_value".to_owned(),
        }],
        tables: vec![Table {
            name: "orders".to_owned(),
            columns,
            key: vec![0],
            indexes: Vec::new(),
            sources: vec![TableSource { topic: 0, mapping, key_from: BTreeMap::new() }],
            max_staleness: Duration::from_secs(30),
            delete_marks: Duration::from_secs(3600),
        }],
        freshness: Freshness { interval: Duration::from_secs(1) },
        startup: Startup { gate: Gate::Auto, max_age: Duration::from_secs(3600) },
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
    }
}
