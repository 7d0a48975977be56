//! `tables`: columns, key, indexes and the topics that feed them.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::config::fields::{Fields, Given, entries, few, items, one_or_many, scalar};
use crate::config::model::{
    Column, Condition, Expression, Freshness, Mapping, Personal, Root, Rule, Table, TableSource, Test, When,
};
use crate::config::problem::{Place, Problem, Report};
use crate::config::scalar::{duration, table_name, text, topic_name};
use crate::config::sections::{SOURCE, TABLE};
use crate::config::tree::{Entry, Node};
use crate::domain::change::IfMissing;
use crate::domain::value::ColumnType;

use super::columns::{Columns, condition};
use super::events::{self, Target};
use super::personal::Declared;
use super::sources::source;
use super::topics::{Order, Topics, Use};
use super::{Defaults, staleness};

const TABLES_MAX: usize = 1_000;
const SOURCES_MAX: usize = 100;
const INDEXES_MAX: usize = 64;

/// A table whose topics are names yet, because indexes are known when all tables are read.
pub(super) struct Draft {
    name: String,
    /// Of its name.
    place: Place,
    columns: Vec<Column>,
    key: Vec<usize>,
    indexes: Vec<Vec<usize>>,
    sources: Vec<Source>,
    max_staleness: Option<Given<Duration>>,
    delete_marks: Duration,
}

struct Source {
    topic: String,
    place: Place,
    mapping: Mapping,
    key_from: BTreeMap<usize, Expression>,
    when: When,
}

pub(super) fn lower(
    report: &mut Report,
    node: &Node,
    topics: &mut Topics,
    personal: &mut Declared,
) -> Option<Vec<Draft>> {
    let tables = entries(report, node, "`tables`")?;
    if tables.is_empty() {
        report.error(&node.place, "`tables` needs at least one table");
        return None;
    }
    if !few(report, node, tables, TABLES_MAX, "tables") {
        return None;
    }
    let mut drafts = Vec::new();
    for (index, entry) in tables.iter().enumerate() {
        if let Err(wrong) = table_name(&entry.key) {
            report.push(Problem::new(&entry.key_place, wrong.message).about(&entry.key));
        }
        if tables.iter().take(index).any(|earlier| earlier.key.eq_ignore_ascii_case(&entry.key)) {
            let message = "another table has this name, apart from upper and lower case";
            report.push(Problem::new(&entry.key_place, message).about(&entry.key));
        }
        drafts.extend(lower_table(report, entry, topics, personal));
    }
    (drafts.len() == tables.len()).then_some(drafts)
}

fn lower_table(
    report: &mut Report,
    entry: &Entry,
    topics: &mut Topics,
    personal: &mut Declared,
) -> Option<Draft> {
    let fields = Fields::open(report, &entry.value, &TABLE)?;
    let columns = match fields.require(report, "columns") {
        Some(node) => Columns::lower(report, node, personal),
        None => Columns::default(),
    };
    let key = fields.require(report, "key").map(|node| lower_key(report, node, &columns));
    let key = key.unwrap_or_default();
    let indexes = fields.get("indexes").map(|node| lower_indexes(report, node, &columns, &key));
    let target = Target { columns: &columns, key: &key };
    let sources = lower_sources(report, entry, &fields, &target, topics);
    let max_staleness = fields.value(report, "max_staleness", duration).and_then(|given| {
        let place = given.place.clone();
        Some(Given { value: staleness(report, given)?, place })
    });
    let delete_marks = fields.value(report, "delete_marks", duration);
    Some(Draft {
        name: entry.key.clone(),
        place: entry.key_place.clone(),
        columns: columns.finish()?,
        key,
        indexes: indexes.unwrap_or_default(),
        sources,
        max_staleness,
        delete_marks: delete_marks?.value,
    })
}

impl Draft {
    /// By one of these names the rows of a key are told apart where it is there more than once.
    pub fn check_row_numbers(&self, report: &mut Report) {
        let taken = |name: &&str| self.columns.iter().any(|column| column.name.eq_ignore_ascii_case(name));
        if ["rowid", "oid", "_rowid_"].iter().all(taken) {
            let message = "SQLite tells rows apart as `rowid`, `oid` or `_rowid_`, and this table has columns of all \
                           three names: rename one";
            report.push(Problem::new(&self.place, message).about(&self.name));
        }
    }

    /// Names that SQLite takes and keys in Redis do not.
    pub fn check_keys(&self, report: &mut Report) {
        let mut refuse = |name: &str, message: String| {
            report.push(Problem::new(&self.place, message).about(name));
        };
        if self.name == "readside" {
            refuse(
                &self.name,
                "the keys of this table would be those of readside's bookkeeping: rename it".into(),
            );
        }
        for (nth, Column { name, .. }) in self.columns.iter().enumerate() {
            if name == "_v" {
                refuse(
                    name,
                    format!(
                        "a row in Redis has its version under this name: rename the column of `{}`",
                        self.name
                    ),
                );
            }
            if name.contains([',', ':']) && self.indexes.iter().flatten().any(|&indexed| indexed == nth) {
                let message = format!(
                    "keys of indexes in Redis join names of columns by `,` and end them with `:`: rename the column of \
                     `{}`, or leave out its index",
                    self.name
                );
                refuse(name, message);
            }
        }
    }

    /// `topics` are all topics in ascending order.
    pub fn finish(
        self,
        report: &mut Report,
        topics: &[String],
        defaults: &Defaults,
        freshness: &Freshness,
    ) -> Option<Table> {
        let max_staleness = match self.max_staleness {
            Some(given) => {
                if given.value <= freshness.interval {
                    let message = format!(
                        "`max_staleness` is not longer than `freshness.interval`: `{}` would look stale most of the time",
                        self.name
                    );
                    report.warn(&given.place, message);
                }
                given.value
            }
            None => defaults.max_staleness,
        };
        let mut sources = Vec::with_capacity(self.sources.len());
        for Source { topic, mapping, key_from, when, .. } in self.sources {
            sources.push(TableSource { topic: topics.binary_search(&topic).ok()?, mapping, key_from, when });
        }
        Some(Table {
            name: self.name,
            columns: self.columns,
            key: self.key,
            indexes: self.indexes,
            sources,
            max_staleness,
            delete_marks: self.delete_marks,
        })
    }
}

/// The columns that one name or a list of names stand for.
fn column_list(report: &mut Report, node: &Node, columns: &Columns) -> Vec<usize> {
    let mut list = Vec::new();
    for item in one_or_many(node) {
        let Some(name) = scalar(report, item, text) else { continue };
        let Some(column) = columns.find(report, &name.value, &name.place) else { continue };
        if list.contains(&column) {
            report.push(Problem::new(&name.place, "this column is listed twice").about(&name.value));
            continue;
        }
        list.push(column);
    }
    if one_or_many(node).is_empty() {
        report.error(&node.place, "at least one column is needed here");
    }
    list
}

fn lower_key(report: &mut Report, node: &Node, columns: &Columns) -> Vec<usize> {
    let key = column_list(report, node, columns);
    for &column in &key {
        let name = columns.name(column);
        if columns.ty(column).is_some() && columns.is_nullable(column) {
            let message = "a column of the key cannot be null: take the `?` from its type";
            report.push(Problem::new(&node.place, message).about(name));
        }
        if let Some(Personal::Mask | Personal::Drop) = columns.personal(column) {
            let message = "a column of the key identifies rows: it can be hashed, not masked or dropped";
            report.push(Problem::new(&node.place, message).about(name));
        }
        if let Some(ty @ (ColumnType::Real | ColumnType::Decimal | ColumnType::Json)) = columns.ty(column) {
            let message = format!(
                "the column `{name}` of the key has the type {ty}: equal values that are written differently (1.0, 1.00) are different keys"
            );
            report.warn(&node.place, message);
        }
    }
    key
}

fn lower_indexes(report: &mut Report, node: &Node, columns: &Columns, key: &[usize]) -> Vec<Vec<usize>> {
    let mut indexes: Vec<Vec<usize>> = Vec::new();
    let list = items(report, node, "`indexes`").unwrap_or_default();
    if !few(report, node, list, INDEXES_MAX, "indexes of one table") {
        return indexes;
    }
    for item in list {
        let index = column_list(report, item, columns);
        if index.is_empty() {
            continue;
        }
        for &column in &index {
            if columns.ty(column) == Some(ColumnType::Decimal) {
                let message = format!(
                    "the index on `{0}` orders decimals as text (`10` before `9`); compare with CAST({0} AS REAL)",
                    columns.name(column)
                );
                report.warn(&item.place, message);
            }
        }
        if index == key {
            report.warn(&item.place, "the key has an index already");
            continue;
        }
        if indexes.contains(&index) {
            report.error(&item.place, "this index is listed twice");
        }
        indexes.push(index);
    }
    indexes
}

/// Either `topic` in the table itself, or `sources`.
fn lower_sources(
    report: &mut Report,
    entry: &Entry,
    table: &Fields,
    target: &Target,
    topics: &mut Topics,
) -> Vec<Source> {
    let Some(list) = table.get("sources") else {
        return lower_source(report, table, target, topics).into_iter().collect();
    };
    for name in ["topic", "events", "key_from", "when"] {
        if let Some(node) = table.get(name) {
            let message = format!("`{name}` belongs into the entries of `sources`, where a table has them");
            report.error(&node.place, message);
        }
    }
    let node = list;
    let Some(list) = items(report, node, "`sources`") else {
        return Vec::new();
    };
    if !few(report, node, list, SOURCES_MAX, "sources of one table") {
        return Vec::new();
    }
    if list.is_empty() {
        report.push(Problem::new(&entry.key_place, "a table needs at least one source").about(&entry.key));
    }
    let mut sources: Vec<Source> = Vec::new();
    for node in list {
        let Some(fields) = Fields::open(report, node, &SOURCE) else { continue };
        let Some(source) = lower_source(report, &fields, target, topics) else { continue };
        if sources.iter().any(|earlier| earlier.topic == source.topic) {
            let message = "this topic feeds the table already; put all of it into one source";
            report.push(Problem::new(&source.place, message).about(&source.topic));
        }
        sources.push(source);
    }
    check_common_order(report, &sources, topics);
    sources
}

/// `fields` are those of a source, or of a table with one topic.
fn lower_source(
    report: &mut Report,
    fields: &Fields,
    target: &Target,
    topics: &mut Topics,
) -> Option<Source> {
    let rules = fields.get("events").map(|node| events::lower(report, node, target));
    let given = fields.get("when").and_then(|node| condition(report, node));
    let key_from = match fields.get("key_from") {
        Some(node) => lower_key_from(report, node, target),
        None => BTreeMap::new(),
    };
    let Some(topic) = fields.get("topic") else {
        let message = "the topic that the rows come from is missing: give `topic`, or `sources` for several";
        report.error(&fields.place, message);
        return None;
    };
    let topic = scalar(report, topic, topic_name)?;
    if std::ptr::eq(fields.section, &SOURCE) {
        topics.settle(report, &topic.value, fields);
    }
    let mut when = When::default();
    if let (Some(given), Some(_)) = (&given, &rules) {
        let message = "where a table has `events`, `when` belongs into the rules: each type has its own";
        report.error(&given.place, message);
    }
    let reads_field = |condition: &Condition| match &condition.test {
        Test::Simple(condition) => condition.reads_value(),
        Test::Jq(_) => false,
    };
    let when_field =
        given.as_ref().filter(|given| reads_field(&given.value)).map(|given| given.place.clone());
    when.rows = given.map(|given| given.value);
    let (mapping, events) = match rules {
        Some((rules, conditions, types)) => {
            when.events = conditions;
            (Mapping::Events(rules), Some(types))
        }
        None => (Mapping::Rows, None),
    };
    // A topic's name is the same in all its records.
    let is_constant = |column: &&usize| match target.columns.from(**column) {
        Some(Expression::Literal(_)) => true,
        Some(Expression::Path(path)) => path.root == Root::Topic,
        Some(Expression::Jq(_)) | None => false,
    };
    let key_columns = target.key.iter().filter(|column| !is_constant(column)).count();
    if !target.key.is_empty() && key_columns == 0 {
        report
            .error(&topic.place, "every column of the key is a constant, so that there can be one row only");
    }
    if events.is_none() {
        check_key_of_deletes(report, &topic.place, target, &key_from);
    }
    let needs_row = |rule: &Rule| matches!(rule, Rule::Patch { if_missing: IfMissing::DeadLetter, .. });
    let patches_need_rows = matches!(&mapping, Mapping::Events(rules) if rules.values().any(needs_row));
    let reads_field = |expression: Option<&Expression>| match expression {
        Some(Expression::Path(path)) => path.root.is_value() && !path.fields.is_empty(),
        Some(Expression::Literal(_) | Expression::Jq(_)) => false,
        None => true,
    };
    let field_column = (0..target.columns.len()).find(|&column| reads_field(target.columns.from(column)));
    let used = Use {
        place: topic.place.clone(),
        events,
        patches_need_rows,
        key_columns,
        schema_facts: schema_facts(target, &topic.place),
        when_field,
        field_column: field_column.map(|column| target.columns.name(column).to_owned()),
        blob_column: (0..target.columns.len())
            .find(|&column| target.columns.ty(column) == Some(ColumnType::Blob))
            .map(|column| target.columns.name(column).to_owned()),
    };
    topics.add_use(&topic.value, used);
    Some(Source { topic: topic.value, place: topic.place, mapping, key_from, when })
}

/// What columns take of the schema itself.
fn schema_facts(target: &Target, place: &Place) -> Vec<(String, Place)> {
    let fact = |column: usize| match target.columns.from(column) {
        Some(Expression::Path(path)) if path.root == Root::Schema => path.fields.first().cloned(),
        _ => None,
    };
    (0..target.columns.len()).filter_map(fact).map(|fact| (fact, place.clone())).collect()
}

/// A record without a value deletes; all that it has is the record key.
fn check_key_of_deletes(
    report: &mut Report,
    place: &Place,
    target: &Target,
    key_from: &BTreeMap<usize, Expression>,
) {
    for column in target.key.iter().filter(|column| !key_from.contains_key(column)) {
        let name = target.columns.name(*column);
        if let Some(from @ Expression::Jq(_)) = target.columns.from(*column)
            && from.reads_value()
        {
            let message = format!(
                "deletes have nothing to calculate `{name}` of: they look for it in the record key as it is; if it has to be calculated there too, give `key_from: {{ {name}: $key | … }}`"
            );
            report.warn(place, message);
            continue;
        }
        let other_name = match target.columns.from(*column) {
            Some(Expression::Path(path)) => {
                path.root.is_value() && path.fields.last().is_none_or(|last| last != name)
            }
            _ => false,
        };
        if other_name && target.key.len() > 1 {
            let message = format!(
                "deletes look for `{name}` in the record key; if it has another name there, give `key_from: {{ {name}: $key.… }}`"
            );
            report.warn(place, message);
        }
    }
}

fn lower_key_from(report: &mut Report, node: &Node, target: &Target) -> BTreeMap<usize, Expression> {
    let mut sources = BTreeMap::new();
    for entry in entries(report, node, "`key_from`").unwrap_or_default() {
        let Some(column) = target.columns.find(report, &entry.key, &entry.key_place) else { continue };
        if !target.key.contains(&column) {
            report.push(Problem::new(&entry.key_place, "this column is not in the key").about(&entry.key));
            continue;
        }
        let found = source(report, &entry.value, |source| match source {
            Expression::Path(path) if path.root != Root::Key => {
                Err("expected a path into the record key, such as `$key` or `$key.id`")
            }
            Expression::Jq(_) if source.reads_value() => {
                Err("a record that deletes has no value, so that this can read `$key` only")
            }
            _ => Ok(()),
        });
        if let Some(found) = found {
            sources.insert(column, found.value);
        }
    }
    sources
}

/// Offsets of several topics say nothing about order: all sources need one kind of version.
fn check_common_order(report: &mut Report, sources: &[Source], topics: &Topics) {
    let [first, rest @ ..] = sources else { return };
    if rest.is_empty() {
        return;
    }
    let orders: Vec<Option<Order>> = sources.iter().map(|source| topics.order(&source.topic)).collect();
    for (source, order) in sources.iter().zip(&orders) {
        if *order == Some(Order::Position) {
            let message = "a table with several sources needs a `version` for each of their topics, or events of different topics have no order";
            report.push(Problem::new(&source.place, message).about(&source.topic));
        }
    }
    if orders.contains(&Some(Order::Declared)) && orders.contains(&Some(Order::Debezium)) {
        let message = "all sources of a table need the same kind of version: give `version` for all of them or, with `debezium-json`, for none";
        report.error(&first.place, message);
    }
}
