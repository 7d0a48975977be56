//! Mapping: the compiled plan from a record of a topic to changes of rows.
//!
//! [`Plan::compile`] turns the checked configuration into one decoder per topic and one list of
//! column sources per table; [`Plan::translate`] is what the pipeline calls for every record.
//! What a value becomes in a column is the table at the head of `convert.rs`.

pub mod compatibility;
mod compile;
mod condition;
mod convert;
mod elements;
mod event_id;
mod face;
mod fingerprint;
mod json_text;
mod native;
mod program;
mod protection;
mod row;
mod schema;
mod snapshots;
mod topic;
mod types;
mod version;

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::config::Config;
use crate::decode::Pending;
use crate::decode::registry::Registry;
use crate::domain::catalog::{Catalog, Column, Table};
use crate::domain::change::{Change, Skip};
use crate::domain::checkpoint::PartitionMemory;
use crate::domain::dead_letter::Rejection;
use crate::domain::event_ids::{EventId, NewEventIds};
use crate::domain::record::Record;
use crate::domain::version::VersionKind;
use compile::Outside;
use protection::HashKey;
use topic::{Passage, TopicPlan};

pub use crate::decode::time::instant_from_text;
pub use convert::key_value;
pub use fingerprint::keeps_rows;

/// What became of a record. One record is applied to all its tables or to none.
#[derive(Debug, PartialEq)]
pub enum Outcome {
    /// At least one change was appended.
    Changes,
    /// Nothing to do; counted under this reason.
    Skipped(Skip),
    /// Goes to the dead letters, or stops the daemon, as the topic's `on_error` says.
    Rejected(Rejection),
    /// An event type that nobody names on a topic with `otherwise: stop`.
    Stop(Rejection),
    /// Cannot be read yet: its schema has to be fetched. To be translated again, and nothing behind
    /// it before.
    Waits(Pending),
}

/// A compiled mapping. Owned by one thread: it keeps buffers between records.
#[derive(Debug)]
pub struct Plan {
    catalog: Arc<Catalog>,
    /// By topic index.
    topics: Vec<TopicPlan>,
    /// By table index: the kind of its first version, which all others must have.
    kinds: Vec<Option<VersionKind>>,
    registry: Option<Registry>,
    /// See [`Plan::take_incomplete`].
    incomplete: Vec<usize>,
    /// Why hashed columns cannot be hashed.
    key_problem: Option<String>,
}

impl Plan {
    /// `config` is already checked: its indexes point at what is there.
    pub fn compile(config: &Config) -> Plan {
        let registry = |settings| match config.needs_schema_versions() {
            true => Registry::with_versions(settings),
            false => Registry::new(settings),
        };
        Plan::with_registry(config, config.schema_registry.as_ref().map(registry))
    }

    /// The same with schemas from elsewhere than `schema_registry` says.
    pub fn with_registry(config: &Config, registry: Option<Registry>) -> Plan {
        let (key, key_problem) = match HashKey::of(config) {
            Ok(key) => (key, None),
            Err(problem) => (None, Some(problem)),
        };
        let outside = Outside { registry: registry.as_ref(), key: key.as_ref() };
        let topic = |index| compile::topic(config, index, &outside);
        let topics = (0..config.topics.len()).map(topic).collect();
        let catalog = Arc::new(catalog_with(config, key.as_ref()));
        let kinds = vec![None; config.tables.len()];
        Plan { catalog, topics, kinds, registry, incomplete: Vec::new(), key_problem }
    }

    /// What makes it impossible to map: files that cannot be used, of schemas and of the key of hashes.
    pub fn problems(&self) -> Vec<String> {
        let topics = self.catalog.topics.iter().zip(&self.topics);
        let of_topics =
            topics.filter_map(|(name, topic)| Some(format!("topic {name}: {}", topic.problem()?)));
        self.key_problem.iter().cloned().chain(of_topics).collect()
    }

    /// Where schemas are fetched, if anywhere.
    pub fn registry(&self) -> Option<&Registry> {
        self.registry.as_ref()
    }

    /// Whether a record that had to wait can be translated now.
    pub fn can_go_on(&self, pending: &Pending) -> bool {
        self.registry.as_ref().is_none_or(|registry| registry.is_settled(pending.schema_id))
    }

    pub fn catalog(&self) -> &Arc<Catalog> {
        &self.catalog
    }

    /// The kind of the versions that a table already has, as its store knows after a start.
    pub fn set_version_kind(&mut self, table: usize, kind: VersionKind) {
        if let Some(known) = self.kinds.get_mut(table) {
            *known = Some(kind);
        }
        // It has rows, of whatever age.
        for topic in self.catalog.tables.get(table).into_iter().flat_map(|table| &table.topics) {
            self.topics[*topic].snapshots.go_on();
        }
    }

    /// Goes on with the event ids that the store has after a start, oldest first.
    pub fn restore_event_ids(&mut self, topic: usize, stored: Vec<EventId>) {
        if let Some(ids) = self.topics.get_mut(topic).and_then(|topic| topic.event_ids.as_mut()) {
            ids.restore(stored);
        }
    }

    /// Ids of the events that made changes since the last call, by topic index: they belong into the
    /// same batch.
    pub fn take_event_ids(&mut self) -> BTreeMap<usize, NewEventIds> {
        let topics = self.topics.iter_mut().enumerate();
        topics.filter_map(|(topic, plan)| Some((topic, plan.event_ids.as_mut()?.take_news()?))).collect()
    }

    /// Since the last call, for each row that got another key and whose event leaves large columns out, which
    /// come from the row with the old key if that is known: its table.
    pub fn take_incomplete(&mut self) -> Vec<usize> {
        std::mem::take(&mut self.incomplete)
    }

    /// The batch in the making is dropped, with what was remembered for it.
    pub fn drop_news(&mut self) {
        for topic in &mut self.topics {
            topic.snapshots.forget();
            if let Some(ids) = &mut topic.event_ids {
                ids.forget_news();
            }
        }
    }

    /// A topic begins anew: none of its events was seen before.
    pub fn clear_event_ids(&mut self, topic: usize) {
        if let Some(ids) = self.topics.get_mut(topic).and_then(|topic| topic.event_ids.as_mut()) {
            ids.clear();
        }
    }

    /// The type that a record's event says it has, for a person who asks; `None` where there is none
    /// or it cannot be read.
    pub fn event_type(&mut self, record: &Record<'_>) -> Result<Option<String>, Pending> {
        let Some(topic) = self.topics.get_mut(record.at.topic) else { return Ok(None) };
        topic.prepare(record)?;
        Ok(topic.event_type(record))
    }

    /// Appends the changes of one record to `changes`, those of all its tables or none, and brings
    /// `memory` of the record's partition up to date. With changes the event's id is remembered: the
    /// caller has to bring both into the replica.
    pub fn translate(
        &mut self,
        record: &Record<'_>,
        memory: &mut PartitionMemory,
        changes: &mut Vec<Change>,
    ) -> Outcome {
        let Some(topic) = self.topics.get_mut(record.at.topic) else {
            return Outcome::Skipped(Skip::Ignored);
        };
        // Before anything is remembered: this record comes again.
        if let Err(pending) = topic.prepare(record) {
            return Outcome::Waits(pending);
        }
        if let Some(timestamp_ms) = record.timestamp_ms {
            memory.max_timestamp_ms = memory.max_timestamp_ms.max(timestamp_ms);
        }
        // Whatever this record is, the next one is no longer right behind the delete.
        let after_delete = memory.after_delete.take();
        let start = changes.len();
        let kinds = &mut self.kinds;
        let incomplete = &mut self.incomplete;
        let changes = &mut *changes;
        let passage = Passage { record, memory, after_delete, kinds, changes, incomplete, bytes: 0 };
        topic.translate(passage).unwrap_or_else(|refused| {
            changes.truncate(start);
            refused
        })
    }
}

/// The tables of a configuration, for whoever reads a replica and no record.
pub fn catalog(config: &Config) -> Catalog {
    // Without the key the catalog is not that of any copy, which whoever compares them will say.
    catalog_with(config, HashKey::of(config).unwrap_or_default().as_ref())
}

fn catalog_with(config: &Config, key: Option<&HashKey>) -> Catalog {
    let key = key.map(HashKey::digest);
    let topics: Vec<String> = config.topics.iter().map(|topic| topic.name.clone()).collect();
    let tables: Vec<Table> = config
        .tables
        .iter()
        .map(|table| {
            let mut topics: Vec<usize> = table.sources.iter().map(|source| source.topic).collect();
            topics.sort_unstable();
            topics.dedup();
            let columns = table.columns.iter().enumerate().map(|(index, column)| Column {
                name: column.name.clone(),
                ty: column.ty,
                nullable: column.nullable && !table.key.contains(&index),
            });
            Table {
                name: table.name.clone(),
                columns: columns.collect(),
                key: table.key.clone(),
                indexes: table.indexes.clone(),
                prefixes: compile::prefixes(table),
                ordered_by_position: !topics.iter().any(|&topic| config.topics[topic].has_versions()),
                topics,
                max_staleness_ms: millis(table.max_staleness),
                delete_marks_ms: millis(table.delete_marks),
                fingerprint: fingerprint::table(config, table, key.as_deref()),
            }
        })
        .collect();
    let fingerprint = fingerprint::catalog(&topics, tables.iter().map(|table| table.fingerprint.clone()));
    Catalog { topics, tables, fingerprint }
}

fn millis(duration: std::time::Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
