//! What is fuzzed: everything that outsiders' bytes reach before they are typed rows.
//!
//! `make fuzz` feeds these functions from libFuzzer; `tests/it/fuzz.rs` feeds them, on the stable
//! toolchain, the corpus and what a few thousand mutations make of it. They panic when something is
//! wrong.

use std::borrow::Cow;
use std::cell::RefCell;
use std::fs;
use std::path::{Path, PathBuf};

use readside::config::{self, Config};
use readside::decode::registry::{Kind, Registry, Schema};
use readside::domain::batch::BatchBuilder;
use readside::domain::change::Change;
use readside::domain::checkpoint::{PartitionMemory, TopicPartition};
use readside::domain::record::{HeaderList, Headers, Record};
use readside::mapping::{Outcome, Plan};

/// A configuration file and what follows from it: the compiled mapping.
pub fn config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match config::parse(text, "fuzz.yaml", std::iter::empty()) {
        Ok(loaded) => drop(Plan::compile(&loaded.config)),
        Err(errors) => assert!(!errors.problems.is_empty(), "refused without a reason"),
    }
}

/// A record of an example's topic, on its way to rows.
///
/// The first byte chooses the example, the second the topic; the third says what there is (1: no key,
/// 2: no value, 4: no timestamp, 8: a header); the fourth is the length of the key; key and value
/// follow.
pub fn record(data: &[u8]) {
    let [example, topic, parts, key_length, rest @ ..] = data else { return };
    let (key, value) = rest.split_at((*key_length as usize).min(rest.len()));
    EXAMPLES.with_borrow(|examples| {
        let config = &examples[*example as usize % examples.len()];
        let header = Header(String::from_utf8_lossy(key), value);
        let record = Record {
            at: TopicPartition { topic: *topic as usize % config.topics.len(), partition: 3 },
            offset: 42,
            leader_epoch: 0,
            timestamp_ms: (parts & 4 == 0).then_some(1_700_000_000_000),
            key: (parts & 1 == 0).then_some(key),
            value: (parts & 2 == 0).then_some(value),
            headers: Headers((parts & 8 != 0).then_some(&header as &dyn HeaderList)),
        };
        let plan = || Plan::with_registry(config, Some(registry()));
        let (mut first, mut second) = (plan(), plan());
        let changes = translate(&mut first, &record);
        assert_eq!(changes, translate(&mut second, &record), "the same record means the same");
        let catalog = first.catalog();
        let mut batch = BatchBuilder::default();
        for change in changes {
            assert!(change.values.len() <= catalog.tables[change.table].columns.len());
            batch.push(catalog, change);
        }
    });
}

/// Schemas for every kind of record that names one, so that nobody is asked.
fn registry() -> Registry {
    let avro = r#"{"type":"record","name":"R","fields":[{"name":"sku","type":"string"},
        {"name":"type","type":{"type":"enum","name":"T","symbols":["OrderPlaced","OrderShipped","OrderErased"]}},
        {"name":"price","type":{"type":"bytes","logicalType":"decimal","precision":9,"scale":2}},
        {"name":"attributes","type":["null",{"type":"map","values":["null","string","R"]}]},
        {"name":"after","type":["null","R"]},{"name":"op","type":"string"}]}"#;
    let flattened = r#"{"type":"record","name":"R","fields":[{"name":"id","type":"int"},
        {"name":"status","type":"string"},{"name":"total","type":["null","bytes"]},{"name":"invoice","type":["null","bytes"]},
        {"name":"__op","type":["null","string"]},{"name":"__table","type":["null","string"]},
        {"name":"__lsn","type":["null","long","string"]},{"name":"__source_sequence","type":["null","string"]},
        {"name":"__source_snapshot","type":["null","string"]},{"name":"__deleted","type":["null","string","boolean"]}]}"#;
    let proto = r#"syntax = "proto3"; package shop;
        message OrderPlaced { int64 order_id = 1; string status = 2; map<string, string> labels = 3; OrderPlaced customer = 4; }"#;
    let schema = |kind, text: &str| Schema {
        kind,
        text: text.to_owned(),
        references: Vec::new(),
        versions: Vec::new(),
    };
    Registry::fixed([
        (1, schema(Kind::Avro, avro)),
        (2, schema(Kind::Protobuf, proto)),
        (3, schema(Kind::Json, "{}")),
        (4, schema(Kind::Avro, flattened)),
    ])
}

struct Header<'a>(Cow<'a, str>, &'a [u8]);

impl HeaderList for Header<'_> {
    fn each(&self, visit: &mut dyn FnMut(&str, Option<&[u8]>)) {
        visit(&self.0, Some(self.1));
    }
}

fn translate(plan: &mut Plan, record: &Record<'_>) -> Vec<Change> {
    let mut changes = Vec::new();
    let outcome = plan.translate(record, &mut PartitionMemory::default(), &mut changes);
    assert_eq!(outcome == Outcome::Changes, !changes.is_empty(), "{outcome:?}");
    changes
}

thread_local! {
    static EXAMPLES: RefCell<Vec<Config>> = RefCell::new(examples());
}

/// The shipped examples, first the one that most of the corpus is for.
fn examples() -> Vec<Config> {
    let project = Path::new(env!("CARGO_MANIFEST_DIR"));
    let directory = [project.join("config/examples"), project.join("../config/examples")];
    let directory = directory.iter().find(|path| path.is_dir()).expect("the examples");
    let mut files: Vec<PathBuf> =
        fs::read_dir(directory).expect("the examples").map(|entry| entry.expect("a file").path()).collect();
    files.sort_by_key(|path| (!path.ends_with("debezium.yaml"), path.clone()));
    let parse = |path: &PathBuf| {
        let text = fs::read_to_string(path).ok()?;
        Some(config::parse(&text, "example", std::iter::empty()).expect("a valid example").config)
    };
    files.iter().filter_map(parse).collect()
}
