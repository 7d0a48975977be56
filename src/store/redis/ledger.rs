//! The bookkeeping: read as a whole when a connection is made, then kept equal step by step.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};

use super::described::Described;
use super::error::damaged;
use super::link::Link;
use super::names::{Names, from_hex, to_hex};
use crate::domain::catalog::{Catalog, Table};
use crate::domain::checkpoint::{AfterDelete, PartitionMemory, Position, TopicPartition};
use crate::domain::snapshot::{Phase, Snapshot, Unlisted};
use crate::domain::state::{Facts, State, believable, state};
use crate::domain::version::Version;
use crate::store::rules::{Log, Place, Standing};
use crate::store::{PositionStatus, Status, StoreError, TableStatus, rules};

#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Ledger {
    pub replica: String,
    pub generation: u32,
    /// Another one is being built beside it.
    pub rebuilding: bool,
    pub writer: String,
    pub epoch: u64,
    /// Counts the steps that changed anything.
    pub sequence: u64,
    pub last_batch: u64,
    pub complete: bool,
    pub connected: bool,
    pub heartbeat_ms: Option<i64>,
    pub heartbeat_limit_ms: i64,
    pub stopped: Option<String>,
    pub cluster_id: Option<String>,
    pub topic_ids: BTreeMap<usize, String>,
    pub positions: BTreeMap<TopicPartition, Position>,
    pub fresh_as_of_ms: BTreeMap<TopicPartition, i64>,
    pub end_offsets: BTreeMap<TopicPartition, i64>,
    /// By table index.
    pub tables: Vec<TableLedger>,
    /// Names of kept dead letters: `topic/partition/offset/table`.
    pub letters: BTreeSet<String>,
    pub letter_bytes: u64,
}

#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct TableLedger {
    /// Visible rows.
    pub rows: i64,
    /// Rows that readers do not see yet.
    pub held: i64,
    pub marks: i64,
    /// Marks of prefixes that were cleared.
    pub prefix_marks: i64,
    pub truncated: Option<Version>,
    /// Events are known to be missing.
    pub missing_events: bool,
    /// The text of a prefix whose mark is set, while the rows that it takes are not all gone yet.
    pub cutting: Option<Vec<u8>>,
    pub snapshot: Option<Snapshot>,
}

impl TableLedger {
    pub fn count(&mut self, place: Place) -> &mut i64 {
        match place {
            Place::Visible => &mut self.rows,
            Place::Held => &mut self.held,
            Place::Mark => &mut self.marks,
        }
    }

    pub fn hidden(&self) -> bool {
        self.held + self.marks > 0
    }

    /// Nothing is kept of it.
    pub fn is_empty(&self) -> bool {
        self.rows + self.held + self.marks + self.prefix_marks == 0
    }

    /// Fields of [`Names::status`] beside the number of visible rows.
    pub fn counts(&self) -> [(&'static str, i64); 3] {
        [("held", self.held), ("delete_marks", self.marks), ("prefix_marks", self.prefix_marks)]
    }
}

/// The field of [`Names::meta`] with a table's snapshot, and what is in it.
pub(super) fn snapshot_field(table: &str, snapshot: &Snapshot) -> (String, String) {
    let begin = to_hex(snapshot.begin.as_bytes());
    (format!("snapshot/{table}"), format!("{} {begin}", snapshot.phase.name()))
}

fn read_snapshot(text: &str) -> Option<Snapshot> {
    let (phase, begin) = text.split_once(' ')?;
    Some(Snapshot { begin: read_version(begin)?, phase: Phase::from_name(phase)? })
}

fn read_version(hex: &str) -> Option<Version> {
    Version::from_bytes(&from_hex(hex.as_bytes())?)
}

/// The field of [`Names::meta`] that says which rows of a table are still being taken away. The text of
/// the prefix is behind an equals sign: no text of it means the whole table.
pub(super) fn cutting_field(table: &str) -> String {
    format!("cutting/{table}")
}

/// What is stored of a partition beside its next offset.
#[derive(Debug, Serialize, Deserialize)]
struct Partition {
    leader_epoch: i32,
    max_timestamp_ms: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    after_delete_key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    after_delete_version: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unlisted: Option<String>,
    end_offset: Option<i64>,
    fresh_as_of_ms: Option<i64>,
}

pub(super) type Fields = HashMap<String, Vec<u8>>;

pub(super) fn text(fields: &Fields, name: &str) -> Option<String> {
    let bytes = fields.get(name).filter(|bytes| !bytes.is_empty())?;
    String::from_utf8(bytes.clone()).ok()
}

pub(super) fn number<T: std::str::FromStr>(fields: &Fields, name: &str) -> Option<T> {
    text(fields, name)?.parse().ok()
}

impl Ledger {
    /// All of it at one moment, with what is said of the generation itself, by whose mapping the rest is understood unless
    /// `catalog` is given. `None`: there is none.
    pub fn read(
        link: &mut Link,
        names: &Names,
        catalog: Option<&Catalog>,
    ) -> Result<Option<(Described, Ledger)>, StoreError> {
        type All = (Fields, Fields, Fields, Fields, Vec<String>);
        let (meta, status, positions, partitions, letters): All = link.read(&[
            &[b"HGETALL", names.meta.as_bytes()],
            &[b"HGETALL", names.status.as_bytes()],
            &[b"HGETALL", names.positions.as_bytes()],
            &[b"HGETALL", names.partitions.as_bytes()],
            &[b"HKEYS", names.dead_letters.as_bytes()],
        ])?;
        if meta.is_empty() {
            return Ok(None);
        }
        let described = Described::parse(&meta)?;
        let catalog = catalog.unwrap_or(&described.catalog);
        let mut ledger = Ledger {
            replica: text(&meta, "name").unwrap_or_default(),
            generation: described.number,
            rebuilding: described.next.is_some(),
            writer: text(&meta, "writer").unwrap_or_default(),
            epoch: number(&meta, "epoch").unwrap_or(0),
            sequence: number(&meta, "sequence").unwrap_or(0),
            last_batch: number(&meta, "last_batch").unwrap_or(0),
            complete: number::<u8>(&status, "complete") == Some(1),
            connected: number::<u8>(&status, "connected") == Some(1),
            heartbeat_ms: number(&status, "heartbeat_ms"),
            heartbeat_limit_ms: number(&status, "heartbeat_limit_ms").unwrap_or(0),
            stopped: text(&status, "stopped"),
            cluster_id: text(&status, "cluster_id"),
            letters: letters.into_iter().collect(),
            letter_bytes: number(&meta, "dead_letter_bytes").unwrap_or(0),
            ..Ledger::default()
        };
        for (index, topic) in catalog.topics.iter().enumerate() {
            if let Some(id) = text(&status, &format!("topic/{topic}.id")) {
                ledger.topic_ids.insert(index, id);
            }
        }
        for (field, json) in &partitions {
            let Some(at) = partition_of(catalog, field) else { continue };
            ledger.adopt(at, number(&positions, field), json).ok_or_else(|| damaged("a position", field))?;
        }
        for table in &catalog.tables {
            let count = |what: &str| number(&status, &format!("{}.{what}", table.name)).unwrap_or(0);
            let truncated = text(&meta, &format!("truncated/{}", table.name))
                .map(|hex| read_version(&hex).ok_or_else(|| damaged("the truncate mark", &table.name)));
            let snapshot = text(&meta, &format!("snapshot/{}", table.name))
                .map(|text| read_snapshot(&text).ok_or_else(|| damaged("the latest snapshot", &table.name)));
            let cutting = meta.get(&cutting_field(&table.name)).and_then(|text| text.strip_prefix(b"="));
            ledger.tables.push(TableLedger {
                rows: count("rows"),
                held: count("held"),
                marks: count("delete_marks"),
                prefix_marks: count("prefix_marks"),
                truncated: truncated.transpose()?,
                missing_events: count("missing_events") == 1,
                cutting: cutting.map(<[u8]>::to_vec),
                snapshot: snapshot.transpose()?,
            });
        }
        Ok(Some((described, ledger)))
    }

    /// What of this holds for another generation of the log, by names that both know.
    pub fn standing<'l>(&'l self, catalog: &'l Catalog) -> Standing<'l> {
        Standing {
            catalog,
            topic_ids: &self.topic_ids,
            positions: &self.positions,
            fresh_as_of_ms: &self.fresh_as_of_ms,
            rows: self.tables.iter().map(|table| table.rows).collect(),
            complete: self.complete,
        }
    }

    /// Tables, by index, that are known to lack events.
    pub fn missing_events(&self) -> BTreeSet<usize> {
        let tables = self.tables.iter().enumerate();
        tables.filter(|(_, table)| table.missing_events).map(|(index, _)| index).collect()
    }

    fn adopt(&mut self, at: TopicPartition, next_offset: Option<i64>, json: &[u8]) -> Option<()> {
        let stored: Partition = serde_json::from_slice(json).ok()?;
        if let Some(end) = stored.end_offset {
            self.end_offsets.insert(at, end);
        }
        if let Some(fresh) = stored.fresh_as_of_ms {
            self.fresh_as_of_ms.insert(at, fresh);
        }
        if let Some(next_offset) = next_offset {
            let after_delete = match (stored.after_delete_key, stored.after_delete_version) {
                (Some(key), Some(version)) => Some(AfterDelete {
                    key: BASE64.decode(key).ok()?,
                    version: Version::from_bytes(&from_hex(version.as_bytes())?)?,
                }),
                _ => None,
            };
            let unlisted = match stored.unlisted {
                Some(hex) => Some(Unlisted::from_bytes(&from_hex(hex.as_bytes())?)?),
                None => None,
            };
            let memory =
                PartitionMemory { max_timestamp_ms: stored.max_timestamp_ms, after_delete, unlisted };
            self.positions.insert(at, Position { next_offset, leader_epoch: stored.leader_epoch, memory });
        }
        Some(())
    }

    /// What [`Names::partitions`] holds of one.
    pub fn partition_json(&self, at: TopicPartition) -> String {
        let position = self.positions.get(&at).cloned().unwrap_or(Position::start());
        let after = position.memory.after_delete.as_ref();
        let stored = Partition {
            leader_epoch: position.leader_epoch,
            max_timestamp_ms: position.memory.max_timestamp_ms,
            after_delete_key: after.map(|after| BASE64.encode(&after.key)),
            after_delete_version: after.map(|after| to_hex(after.version.as_bytes())),
            unlisted: position.memory.unlisted.as_ref().map(|unlisted| to_hex(unlisted.as_bytes())),
            end_offset: self.end_offsets.get(&at).copied(),
            fresh_as_of_ms: self.fresh_as_of_ms.get(&at).copied(),
        };
        serde_json::to_string(&stored).unwrap_or_default()
    }

    pub fn log(&self) -> Log<'_> {
        Log {
            positions: &self.positions,
            fresh_as_of_ms: &self.fresh_as_of_ms,
            end_offsets: &self.end_offsets,
        }
    }

    fn facts(&self, index: usize, shape: &Table) -> Facts {
        Facts {
            stopped: self.stopped.is_some(),
            complete: self.complete,
            connected: self.connected,
            heartbeat_ms: self.heartbeat_ms,
            heartbeat_limit_ms: self.heartbeat_limit_ms,
            fresh_as_of_ms: self.log().fresh_as_of(&shape.topics),
            max_staleness_ms: shape.max_staleness_ms,
            missing_events: self.tables[index].missing_events,
            rebuilding: self.rebuilding,
        }
    }

    fn letters_of(&self, catalog: &Catalog, shape: &Table) -> u64 {
        let counts = |name: &&String| {
            let mut parts = name.splitn(4, '/');
            let (topic, table) = (parts.next(), parts.nth(2));
            match table {
                Some("") => shape.topics.iter().any(|&index| Some(catalog.topics[index].as_str()) == topic),
                table => table == Some(&shape.name),
            }
        };
        self.letters.iter().filter(counts).count() as u64
    }

    /// Kept dead letters by topic index.
    pub fn letters_by_topic(&self, catalog: &Catalog) -> Vec<u64> {
        let mut counts = vec![0; catalog.topics.len()];
        for name in &self.letters {
            let topic = name.split('/').next().unwrap_or_default();
            if let Some(index) = catalog.topics.iter().position(|known| known == topic) {
                counts[index] += 1;
            }
        }
        counts
    }

    /// What [`Names::status`] holds, except for row counts, which the step itself writes. Unknown is
    /// the empty string. States are those at the heartbeat: they hold while [`Names::alive`] exists.
    pub fn status_fields(&self, catalog: &Catalog, names: &Names) -> Vec<(String, String)> {
        let number = |number: Option<i64>| number.map_or(String::new(), |number| number.to_string());
        let flag = |flag: bool| if flag { "1" } else { "0" }.to_owned();
        let now_ms = self.heartbeat_ms.unwrap_or(0);
        let all: Vec<usize> = (0..catalog.topics.len()).collect();
        let mut worst = None;
        let mut fields = Vec::with_capacity(16 + 8 * catalog.tables.len());
        for (index, shape) in catalog.tables.iter().enumerate() {
            let facts = self.facts(index, shape);
            let state = state(&facts, now_ms);
            worst = Some(worst.map_or(state, |worst: State| worst.min(state)));
            let mut push = |what: &str, value: String| fields.push((format!("{}.{what}", shape.name), value));
            push("state", state.name().to_owned());
            push("fresh_as_of_ms", number(facts.fresh_as_of_ms));
            push("lag_records", number(self.log().lag_records(&shape.topics)));
            push("missing_events", flag(facts.missing_events));
            push("max_staleness_ms", shape.max_staleness_ms.to_string());
            let snapshot = self.tables[index].snapshot;
            push("snapshot", snapshot.map_or(String::new(), |snapshot| snapshot.phase.name().to_owned()));
            for (what, count) in self.tables[index].counts() {
                push(what, count.to_string());
            }
            push("dead_letters", self.letters_of(catalog, shape).to_string());
        }
        let mut push = |what: &str, value: String| fields.push((what.to_owned(), value));
        push("replica", self.replica.clone());
        push("state", worst.unwrap_or(State::Building).name().to_owned());
        push("complete", flag(self.complete));
        // In the same step as `complete`: from this moment on readers find the rows.
        push("live", if self.complete { names.rows.clone() } else { String::new() });
        push("connected", flag(self.connected));
        push("heartbeat_ms", number(self.heartbeat_ms));
        push("heartbeat_limit_ms", self.heartbeat_limit_ms.to_string());
        push("stopped", self.stopped.clone().unwrap_or_default());
        push("cluster_id", self.cluster_id.clone().unwrap_or_default());
        push("fresh_as_of_ms", number(self.log().fresh_as_of(&all)));
        push("lag_records", number(self.log().lag_records(&all)));
        push("dead_letters", self.letters.len().to_string());
        push("generation", self.generation.to_string());
        for (topic, id) in &self.topic_ids {
            push(&format!("topic/{}.id", catalog.topics[*topic]), id.clone());
        }
        fields
    }

    pub fn status(&self, catalog: &Catalog, now_ms: i64) -> Status {
        let mut tables = Vec::with_capacity(catalog.tables.len());
        for (index, shape) in catalog.tables.iter().enumerate() {
            let facts = self.facts(index, shape);
            let fresh_as_of_ms = believable(facts.fresh_as_of_ms, now_ms, self.heartbeat_limit_ms);
            tables.push(TableStatus {
                table_name: shape.name.clone(),
                state: state(&facts, now_ms),
                complete: self.complete,
                rebuilding: facts.rebuilding,
                missing_events: facts.missing_events,
                fresh_as_of: fresh_as_of_ms.and_then(rules::rfc3339),
                fresh_as_of_ms,
                lag_records: self.log().lag_records(&shape.topics),
                max_staleness_ms: shape.max_staleness_ms,
                rows: self.tables[index].rows.max(0) as u64,
                dead_letters: self.letters_of(catalog, shape),
                generation: self.generation,
            });
        }
        let all: Vec<usize> = (0..catalog.topics.len()).collect();
        let fresh_as_of_ms = believable(self.log().fresh_as_of(&all), now_ms, self.heartbeat_limit_ms);
        Status {
            replica: self.replica.clone(),
            state: tables.iter().map(|table| table.state).min().unwrap_or(State::Building),
            complete: self.complete,
            fresh_as_of: fresh_as_of_ms.and_then(rules::rfc3339),
            fresh_as_of_ms,
            lag_records: self.log().lag_records(&all),
            dead_letters: self.letters.len() as u64,
            stopped: self.stopped.clone(),
            cluster_id: self.cluster_id.clone(),
            positions: self.position_status(catalog),
            tables,
        }
    }

    pub fn position_status(&self, catalog: &Catalog) -> Vec<PositionStatus> {
        let status = |(at, position): (&TopicPartition, &Position)| PositionStatus {
            generation: self.generation,
            topic: catalog.topics[at.topic].clone(),
            partition: at.partition,
            next_offset: position.next_offset,
            end_offset: self.end_offsets.get(at).copied(),
            leader_epoch: position.leader_epoch,
            topic_id: self.topic_ids.get(&at.topic).cloned(),
            cluster_id: self.cluster_id.clone(),
            fresh_as_of_ms: self.fresh_as_of_ms.get(at).copied(),
        };
        self.positions.iter().map(status).collect()
    }
}

fn partition_of(catalog: &Catalog, field: &str) -> Option<TopicPartition> {
    let (topic, partition) = field.rsplit_once('/')?;
    let topic = catalog.topics.iter().position(|known| known == topic)?;
    Some(TopicPartition { topic, partition: partition.parse().ok()? })
}

pub(super) fn partition_field(catalog: &Catalog, at: TopicPartition) -> String {
    format!("{}/{}", catalog.topics[at.topic], at.partition)
}
