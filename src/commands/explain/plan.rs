//! The mapping of one table, column by column: from where in an event, to which type.

use serde::Serialize;

use crate::config::{
    Column, Config, Expression, Mapping, Personal, Root, Rule, Table, TableSource, Topic, Word,
};

#[derive(Debug, Serialize)]
pub struct SourceText {
    pub topic: String,
    pub format: &'static str,
    /// What decides which of two events is newer.
    pub ordered_by: String,
    pub rules: Vec<RuleText>,
}

#[derive(Debug, Serialize)]
pub struct RuleText {
    /// `None`: every record is a row.
    pub event_type: Option<String>,
    /// `upsert`, `patch`, `delete` or what else the configuration calls it.
    pub does: &'static str,
    pub when: Option<String>,
    pub if_missing: Option<&'static str>,
    /// The list each of whose elements is a row; `.` of a column is then the element.
    pub each: Option<String>,
    pub columns: Vec<ColumnRule>,
}

#[derive(Debug, Serialize)]
pub struct ColumnRule {
    pub column: String,
    #[serde(rename = "type")]
    pub ty: String,
    pub from: String,
    /// `hash`, `mask`, `drop` and the like.
    pub treated: Option<&'static str>,
    pub encoding: Option<&'static str>,
}

/// Of each source of the table.
pub fn describe(config: &Config, table: usize) -> Vec<SourceText> {
    let Some(table) = config.tables.get(table) else { return Vec::new() };
    let sources = table.sources.iter().filter_map(|source| Some((source, config.topics.get(source.topic)?)));
    sources.map(|(source, topic)| source_text(table, source, topic)).collect()
}

fn source_text(table: &Table, source: &TableSource, topic: &Topic) -> SourceText {
    let condition = |condition: Option<&crate::config::Condition>| condition.map(|when| when.text.clone());
    let rules = match &source.mapping {
        Mapping::Rows => {
            let all = (0..table.columns.len()).map(|index| column_rule(table, index, None));
            let mut rules = vec![RuleText {
                event_type: None,
                does: "upsert",
                when: condition(source.when.rows.as_ref()),
                if_missing: None,
                each: None,
                columns: all.collect(),
            }];
            rules.push(RuleText {
                event_type: None,
                does: "delete",
                when: None,
                if_missing: None,
                each: None,
                columns: table.key.iter().map(|&index| key_rule(table, index, source)).collect(),
            });
            rules
        }
        Mapping::Events(rules) => rules
            .iter()
            .map(|(name, rule)| {
                let when = condition(source.when.events.get(name));
                rule_text(table, name, rule, when)
            })
            .collect(),
    };
    SourceText { topic: topic.name.clone(), format: topic.format.name(), ordered_by: topic.order(), rules }
}

fn rule_text(table: &Table, name: &str, rule: &Rule, when: Option<String>) -> RuleText {
    let named = |columns: &std::collections::BTreeMap<usize, Expression>, indexes: Vec<usize>| {
        indexes.into_iter().map(|index| column_rule(table, index, columns.get(&index))).collect::<Vec<_>>()
    };
    let mut list = None;
    let (does, if_missing, columns) = match rule {
        Rule::Upsert { columns } => ("upsert", None, named(columns, (0..table.columns.len()).collect())),
        Rule::Patch { columns, if_missing } => {
            let set = (0..table.columns.len())
                .filter(|index| table.key.contains(index) || columns.contains_key(index))
                .collect();
            ("patch", Some(if_missing.word()), named(columns, set))
        }
        Rule::Delete { key } => {
            let columns = rule.prefix(table).unwrap_or(table.key.len());
            ("delete", None, named(key, table.key[..columns].to_vec()))
        }
        Rule::Replace { prefix, each, row } => {
            list = Some(each.to_string());
            let all = (0..table.columns.len())
                .map(|index| column_rule(table, index, prefix.get(&index).or(row.get(&index))));
            ("replace", None, all.collect())
        }
    };
    RuleText { event_type: Some(name.to_owned()), does, when, if_missing, each: list, columns }
}

/// `rule`: what the event's rule says, before what the column says.
fn column_rule(table: &Table, index: usize, rule: Option<&Expression>) -> ColumnRule {
    let column = &table.columns[index];
    let from = match rule.or(column.from.as_ref()) {
        Some(expression) => expression.to_string(),
        None => own_field(&column.name),
    };
    described(column, from)
}

fn key_rule(table: &Table, index: usize, source: &TableSource) -> ColumnRule {
    let column = &table.columns[index];
    let from = match source.key_from.get(&index) {
        Some(expression) => expression.to_string(),
        None if table.key.len() == 1 => "$key".to_owned(),
        None => format!("$key{}", own_field(&column.name)),
    };
    described(column, from)
}

fn described(column: &Column, from: String) -> ColumnRule {
    ColumnRule {
        column: column.name.clone(),
        ty: format!("{}{}", column.ty, if column.nullable { "?" } else { "" }),
        from,
        treated: column
            .personal
            .filter(|personal| !matches!(personal, Personal::No | Personal::Clear))
            .map(Word::word),
        encoding: column.encoding.map(Word::word),
    }
}

fn own_field(name: &str) -> String {
    crate::config::Path { root: Root::Row, fields: vec![name.to_owned()] }.to_string()
}
