//! Fingerprints: what decides the rows of a table, as a short text that is the same on every
//! machine and under every later release that would make the same rows.
//!
//! It is the digest of a canonical JSON text.
//!
//! Left out is what can change without a rebuild: indexes, `max_staleness`, `delete_marks`,
//! `event_id_window`, and the policies for events that are not applied (`on_error`, `on_gap`,
//! `ignore`, `otherwise`).

use serde_json::{Value, json};

use crate::config::{Config, Encoding, Expression, Format, KeyFormat, Mapping, Rule, Table, TableSource};
use crate::decode::path_text;
use crate::domain::change::IfMissing;
use crate::domain::digest::Digest;

/// Raised when this program makes other rows of the same events.
const CONVERSIONS: u32 = 1;

/// Of one table.
pub fn table(config: &Config, table: &Table) -> String {
    let columns: Vec<Value> = table
        .columns
        .iter()
        .map(|column| {
            json!({
                "name": column.name,
                "type": column.ty.name(),
                "nullable": column.nullable,
                "from": column.from.as_ref().map(expression),
                "encoding": column.encoding.map(encoding),
            })
        })
        .collect();
    let sources: Vec<Value> = table.sources.iter().map(|each| source(config, table, each)).collect();
    digest(&json!({
        "conversions": CONVERSIONS,
        "name": table.name,
        "columns": columns,
        "key": table.key,
        "sources": sources,
    }))
}

/// Of the whole mapping. The topic names belong to it: versions hold indexes into their list.
pub fn catalog(topics: &[String], tables: impl Iterator<Item = String>) -> String {
    digest(&json!({ "topics": topics, "tables": tables.collect::<Vec<_>>() }))
}

fn source(config: &Config, table: &Table, source: &TableSource) -> Value {
    let topic = &config.topics[source.topic];
    let named = |column: usize| table.columns[column].name.clone();
    let mapping = match &source.mapping {
        Mapping::Rows => json!("rows"),
        Mapping::Events(rules) => {
            let rules = rules.iter().map(|(event, rule)| (event.clone(), self::rule(rule, &named)));
            Value::Object(rules.collect())
        }
    };
    let key_from = source.key_from.iter().map(|(&column, path)| (named(column), json!(path_text(path))));
    let mut description = json!({
        "topic": topic.name,
        "topic_index": source.topic,
        "format": match topic.format {
            Format::Json => "json",
            Format::DebeziumJson => "debezium-json",
            Format::CloudEvents => "cloudevents",
            Format::Avro => "avro",
            Format::DebeziumAvro => "debezium-avro",
            Format::Protobuf => "protobuf",
            Format::JsonSchema => "json-schema",
            Format::Raw => "raw",
        },
        "key_format": topic.key_format.map(|format| match format {
            KeyFormat::Text => "text",
            KeyFormat::Json => "json",
            KeyFormat::Avro => "avro",
            KeyFormat::Protobuf => "protobuf",
            KeyFormat::JsonSchema => "json-schema",
        }),
        "event_type": topic.event_type.as_ref().map(path_text),
        "version": topic.version.as_ref().map(path_text),
        // Means nothing elsewhere, where it must not force a rebuild.
        "placeholder": topic.format.is_debezium().then_some(&topic.placeholder),
        "mapping": mapping,
        "key_from": Value::Object(key_from.collect()),
    });
    // Where the file is says nothing of the rows, and neither does where the registry is.
    if let Some(message) = &topic.message {
        description["message"] = json!(message);
    }
    if let Some(ids) = &topic.event_ids {
        description["event_id"] = json!(path_text(&ids.path));
    }
    description
}

fn rule(rule: &Rule, named: &dyn Fn(usize) -> String) -> Value {
    let columns = |columns: &std::collections::BTreeMap<usize, Expression>| {
        Value::Object(columns.iter().map(|(&column, from)| (named(column), expression(from))).collect())
    };
    match rule {
        Rule::Upsert { columns: set } => json!({ "upsert": columns(set) }),
        Rule::Patch { columns: set, if_missing } => json!({
            "patch": columns(set),
            "if_missing": match if_missing {
                IfMissing::Hold => "hold",
                IfMissing::Create => "create",
                IfMissing::Ignore => "ignore",
                IfMissing::DeadLetter => "dead_letter",
            },
        }),
        Rule::Delete { key } => json!({ "delete": columns(key) }),
    }
}

fn expression(expression: &Expression) -> Value {
    match expression {
        Expression::Path(path) => json!({ "path": path_text(path) }),
        Expression::Literal(text) => json!({ "literal": text }),
    }
}

fn encoding(encoding: Encoding) -> &'static str {
    match encoding {
        Encoding::Seconds => "seconds",
        Encoding::Millis => "millis",
        Encoding::Micros => "micros",
        Encoding::Nanos => "nanos",
        Encoding::Days => "days",
        Encoding::Base64 => "base64",
        Encoding::Hex => "hex",
    }
}

/// Objects of `serde_json` are ordered by name, so the text is canonical.
fn digest(description: &Value) -> String {
    format!("{:032x}", Digest::new().with(description.to_string().as_bytes()).value())
}
