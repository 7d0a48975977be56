//! Configurations in a few words, and records fed through a plan.

use std::collections::BTreeMap;
use std::time::Duration;

use super::super::{Outcome, Plan};
use crate::config::{
    Column, Condition, Config, DeadLetters, Encoding, Expression, Format, Freshness, Gate, Kafka, Keep,
    KeyFormat, Listener, Log, LogFormat, Mapping, OnConfigChange, OnError, OnGap, Otherwise, PersonalData,
    Rebuild, RebuildPolicy, Replica, Rule, Snapshots, Sqlite, Startup, Table, TableSource, Target, Test,
    Topic, When,
};
use crate::domain::change::{Change, IfMissing, Operation, Skip};
use crate::domain::checkpoint::{PartitionMemory, TopicPartition};
use crate::domain::dead_letter::{Reason, Rejection};
use crate::domain::record::{HeaderList, Headers, Record};
use crate::domain::value::{ColumnType, Value};
use crate::domain::version::VersionKind;
use crate::jq::condition::simple;

pub fn config(topics: Vec<Topic>, tables: Vec<Table>) -> Config {
    let listen = "127.0.0.1:0".parse().unwrap();
    Config {
        kafka: Kafka {
            brokers: vec!["localhost:9092".to_owned()],
            properties: BTreeMap::new(),
            secrets: BTreeMap::new(),
            max_record_bytes: 1 << 20,
        },
        schema_registry: None,
        replica: Replica {
            name: "test".to_owned(),
            target: Target::Sqlite(Sqlite { path: "replica.db".into(), max_wal_bytes: u64::MAX }),
            rebuild_when_mapping_changes: RebuildPolicy::Auto,
            rebuild: Rebuild { max_loss: 0.1, min_rows: 100, min_free_bytes: 0 },
        },
        topics,
        tables,
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

pub fn topic(name: &str, format: Format) -> Topic {
    Topic {
        name: name.to_owned(),
        format,
        key_format: None::<KeyFormat>,
        event_type: None,
        version: None,
        by_position: false,
        event_ids: None,
        ignore: Vec::new(),
        otherwise: Otherwise::DeadLetter,
        on_error: OnError::DeadLetter,
        on_gap: OnGap::Auto,
        placeholder: "__debezium_unavailable_value".to_owned(),
        snapshots: Snapshots::Sweep,
        schema_file: None,
        message: None,
        evolution: None,
    }
}

/// A table whose key is its first `keys` columns, fed with rows by topic 0. A column is
/// `name type`, `?` behind the type for nullable, then perhaps an expression, then perhaps `@` and
/// an encoding: `seen timestamp? .at @millis`.
pub fn table(name: &str, keys: usize, columns: &[&str]) -> Table {
    Table {
        name: name.to_owned(),
        columns: columns.iter().map(|spec| column(spec)).collect(),
        key: (0..keys).collect(),
        indexes: Vec::new(),
        sources: vec![TableSource {
            topic: 0,
            mapping: Mapping::Rows,
            key_from: BTreeMap::new(),
            when: When::default(),
        }],
        max_staleness: Duration::from_secs(30),
        delete_marks: Duration::from_secs(7 * 86_400),
    }
}

fn column(spec: &str) -> Column {
    let (spec, encoding) = match spec.split_once(" @") {
        Some((spec, encoding)) => (spec, Some(encoding)),
        None => (spec, None),
    };
    let mut words = spec.splitn(3, ' ');
    let name = words.next().unwrap().to_owned();
    let ty = words.next().unwrap();
    Column {
        name,
        ty: ColumnType::from_name(ty.trim_end_matches('?')).unwrap(),
        nullable: ty.ends_with('?'),
        from: words.next().map(expression),
        personal: None,
        show_last: 0,
        encoding: encoding.map(|name| match name {
            "seconds" => Encoding::Seconds,
            "millis" => Encoding::Millis,
            "micros" => Encoding::Micros,
            "nanos" => Encoding::Nanos,
            "days" => Encoding::Days,
            "base64" => Encoding::Base64,
            "hex" => Encoding::Hex,
            other => panic!("no encoding {other}"),
        }),
    }
}

pub fn expression(text: &str) -> Expression {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

pub fn condition(text: &str) -> Condition {
    let test = match simple(text) {
        Some(condition) => Test::Simple(condition),
        None => match expression(text) {
            Expression::Jq(program) => Test::Jq(program),
            other => panic!("{other:?}"),
        },
    };
    Condition { text: text.to_owned(), test }
}

/// Rules by event type, columns by their index in the table.
pub fn events<const N: usize>(rules: [(&str, Rule); N]) -> Mapping {
    Mapping::Events(rules.into_iter().map(|(name, rule)| (name.to_owned(), rule)).collect())
}

pub fn set<const N: usize>(columns: [(usize, &str); N]) -> BTreeMap<usize, Expression> {
    columns.into_iter().map(|(index, text)| (index, expression(text))).collect()
}

pub fn upsert<const N: usize>(columns: [(usize, &str); N]) -> Rule {
    Rule::Upsert { columns: set(columns) }
}

pub fn patch<const N: usize>(columns: [(usize, &str); N]) -> Rule {
    Rule::Patch { columns: set(columns), if_missing: IfMissing::Hold }
}

pub fn delete<const N: usize>(key: [(usize, &str); N]) -> Rule {
    Rule::Delete { key: set(key) }
}

struct HeaderSlice<'h>(&'h [(String, Vec<u8>)]);

impl HeaderList for HeaderSlice<'_> {
    fn each(&self, visit: &mut dyn FnMut(&str, Option<&[u8]>)) {
        self.0.each(visit);
    }
}

/// A plan with one partition of one topic before it.
pub struct Feed {
    pub plan: Plan,
    pub memory: PartitionMemory,
    pub changes: Vec<Change>,
    /// Of every record from here on.
    pub headers: Vec<(String, Vec<u8>)>,
    /// Of the next record.
    pub timestamp_ms: Option<i64>,
    offset: i64,
}

impl Feed {
    pub fn new(topic: Topic, tables: Vec<Table>) -> Feed {
        Feed::of(&config(vec![topic], tables))
    }

    pub fn of(config: &Config) -> Feed {
        let plan = Plan::compile(config);
        Feed {
            plan,
            memory: PartitionMemory::default(),
            changes: Vec::new(),
            headers: Vec::new(),
            timestamp_ms: Some(1000),
            offset: 0,
        }
    }

    /// The next record, at timestamp 1000 + offset unless `timestamp_ms` was changed.
    pub fn bytes(&mut self, key: Option<&[u8]>, value: Option<&[u8]>) -> Outcome {
        let headers = HeaderSlice(&self.headers);
        let record = Record {
            at: TopicPartition { topic: 0, partition: 3 },
            offset: self.offset,
            leader_epoch: -1,
            timestamp_ms: self.timestamp_ms.map(|first| first + self.offset),
            key,
            value,
            headers: Headers(Some(&headers)),
        };
        self.offset += 1;
        self.changes.clear();
        let outcome = self.plan.translate(&record, &mut self.memory, &mut self.changes);
        assert_eq!(outcome == Outcome::Changes, !self.changes.is_empty(), "all or nothing");
        outcome
    }

    pub fn set_headers<const N: usize>(&mut self, headers: [(&str, &str); N]) {
        self.headers = headers.map(|(name, value)| (name.to_owned(), value.as_bytes().to_vec())).into();
    }

    pub fn record(&mut self, key: &str, value: &str) -> Outcome {
        self.bytes(Some(key.as_bytes()), Some(value.as_bytes()))
    }

    pub fn value(&mut self, value: &str) -> Outcome {
        self.bytes(None, Some(value.as_bytes()))
    }

    pub fn tombstone(&mut self, key: &str) -> Outcome {
        self.bytes(Some(key.as_bytes()), None)
    }

    /// The values of the only change, which must have come of that record.
    pub fn row(&mut self, key: &str, value: &str) -> Vec<Value> {
        assert_eq!(self.record(key, value), Outcome::Changes);
        self.only().values.clone()
    }

    pub fn only(&self) -> &Change {
        assert_eq!(self.changes.len(), 1);
        &self.changes[0]
    }

    /// Kind and integers of the version of the only change.
    pub fn version(&self) -> (VersionKind, Vec<i64>) {
        let parts = self.only().version.parts();
        assert_eq!((parts.at.partition, parts.at.offset), (3, self.offset - 1));
        (parts.kind, parts.integers)
    }
}

pub const WRITE: Operation = Operation::Write { if_missing: IfMissing::Hold };
pub const IGNORED: Outcome = Outcome::Skipped(Skip::Ignored);

/// Reason and path of a rejection.
pub fn refusal(outcome: &Outcome) -> (Reason, &str) {
    let Outcome::Rejected(Rejection { path, reason, .. }) = outcome else { panic!("{outcome:?}") };
    (*reason, path)
}

pub fn text(text: &str) -> Value {
    Value::Text(text.to_owned())
}

pub fn int(number: i64) -> Value {
    Value::Integer(number)
}
