//! Fingerprints: what decides the rows of a table, as a short text that is the same on every
//! machine and under every later release that would make the same rows.
//!
//! It is made of digests of canonical JSON texts.
//!
//! Left out is what can change without a rebuild: indexes, `max_staleness`, `delete_marks`,
//! `event_id_window`, and the policies for events that are not applied (`on_error`, `on_gap`,
//! `ignore`, `otherwise`).

use serde_json::{Value, json};

use crate::config::{
    Change, Config, Encoding, Evolution, Expression, Format, KeyFormat, Mapping, Personal, Rule, Table,
    TableSource, Unknown, Upcast, UpcastRule,
};
use crate::decode::path_text;
use crate::domain::change::IfMissing;
use crate::domain::digest::Digest;

/// Raised when this program makes other rows of the same events.
const CONVERSIONS: u32 = 2;

/// Of one table: a digest of what concerns all its columns, then, behind a colon, one of each column
/// in declared order, with commas. See [`keeps_rows`].
/// `key`: which key hashes have.
pub fn table(config: &Config, table: &Table, key: Option<&str>) -> String {
    let sources: Vec<Value> = table.sources.iter().map(|each| source(config, table, each)).collect();
    let key_columns: Vec<&str> =
        table.key.iter().map(|&column| table.columns[column].name.as_str()).collect();
    let mut whole = json!({
        "conversions": CONVERSIONS,
        "name": table.name,
        "key": key_columns,
        "sources": sources,
    });
    // A row under another key of hashes is another row.
    let is_hashed = |&&column: &&usize| table.columns[column].personal == Some(Personal::Hash);
    if table.key.iter().any(|column| is_hashed(&column)) {
        whole["hash_key"] = json!(key);
    }
    let whole = digest(&whole);
    let columns: Vec<String> =
        (0..table.columns.len()).map(|column| self::column(table, column, key)).collect();
    format!("{whole}:{}", columns.join(","))
}

/// Whether a table of fingerprint `new` has the rows of one of fingerprint `old` without reading the
/// log again, but for columns that are left out or in another place.
pub fn keeps_rows(old: &str, new: &str) -> bool {
    let (Some((old, before)), Some((new, after))) = (old.split_once(':'), new.split_once(':')) else {
        return false;
    };
    let before: Vec<&str> = before.split(',').collect();
    old == new && after.split(',').all(|column| before.contains(&column))
}

fn column(table: &Table, index: usize, key: Option<&str>) -> String {
    let column = &table.columns[index];
    let rules: Vec<Value> = table
        .sources
        .iter()
        .map(|source| match &source.mapping {
            Mapping::Rows => Value::Null,
            Mapping::Events(rules) => {
                let set = rules.iter().filter_map(|(event, rule)| {
                    let columns = match rule {
                        Rule::Upsert { columns } | Rule::Patch { columns, .. } => columns,
                        Rule::Replace { row, .. } => row,
                        Rule::Delete { .. } => return None,
                    };
                    Some((event.clone(), expression(columns.get(&index)?)))
                });
                Value::Object(set.collect())
            }
        })
        .collect();
    let mut description = json!({
        "name": column.name,
        "type": column.ty.name(),
        "nullable": column.nullable,
        "from": column.from.as_ref().map(expression),
        "encoding": column.encoding.map(encoding),
        "rules": rules,
    });
    match column.personal {
        Some(Personal::Hash) => description["hash"] = json!(key),
        Some(Personal::Mask) => description["mask"] = json!(column.show_last),
        Some(Personal::Drop) => description["drop"] = json!(true),
        // In clear, whether that was said or not.
        Some(Personal::No | Personal::Clear) | None => {}
    }
    let mut digest = digest(&description);
    digest.truncate(16);
    digest
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
    let key_from = source.key_from.iter().map(|(&column, from)| (named(column), plain(from)));
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
            Format::DebeziumFlat => "debezium-flat",
            Format::DebeziumFlatAvro => "debezium-flat-avro",
            Format::Maxwell => "maxwell",
            Format::Canal => "canal",
        },
        "key_format": topic.key_format.map(|format| match format {
            KeyFormat::Text => "text",
            KeyFormat::Json => "json",
            KeyFormat::Avro => "avro",
            KeyFormat::Protobuf => "protobuf",
            KeyFormat::JsonSchema => "json-schema",
        }),
        "event_type": topic.event_type.as_ref().map(plain),
        "version": topic.version.as_ref().map(plain),
        // Means nothing elsewhere, where it must not force a rebuild.
        "placeholder": topic.format.is_debezium().then_some(&topic.placeholder),
        "mapping": mapping,
        "key_from": Value::Object(key_from.collect()),
    });
    if topic.by_position && topic.format.is_debezium() {
        description["by_position"] = json!(true);
    }
    if let Some(when) = &source.when.rows {
        description["when"] = json!(when.text);
    }
    if !source.when.events.is_empty() {
        let when = source.when.events.iter().map(|(event, when)| (event.clone(), json!(when.text)));
        description["when_events"] = Value::Object(when.collect());
    }
    if let Some(found) = &topic.evolution {
        description["evolution"] = evolution(found);
    }
    // Where the file is says nothing of the rows, and neither does where the registry is.
    if let Some(message) = &topic.message {
        description["message"] = json!(message);
    }
    if let Some(ids) = &topic.event_ids {
        description["event_id"] = plain(&ids.source);
    }
    description
}

/// Without the columns that it sets: they are in the digests of these.
fn rule(rule: &Rule, named: &dyn Fn(usize) -> String) -> Value {
    match rule {
        Rule::Upsert { .. } => json!("upsert"),
        Rule::Patch { if_missing, .. } => json!({
            "patch": match if_missing {
                IfMissing::Hold => "hold",
                IfMissing::Create => "create",
                IfMissing::Ignore => "ignore",
                IfMissing::DeadLetter => "dead_letter",
            },
        }),
        Rule::Delete { key } => {
            let key = key.iter().map(|(&column, from)| (named(column), expression(from)));
            json!({ "delete": Value::Object(key.collect()) })
        }
        Rule::Replace { prefix, each, .. } => {
            let prefix = prefix.iter().map(|(&column, from)| (named(column), expression(from)));
            json!({ "replace": Value::Object(prefix.collect()), "each": expression(each) })
        }
    }
}

fn expression(expression: &Expression) -> Value {
    match expression {
        Expression::Path(path) => json!({ "path": path_text(path) }),
        Expression::Literal(text) => json!({ "literal": text }),
        Expression::Jq(program) => json!({ "jq": program.text }),
    }
}

/// Policies for events that are not applied are left out, as elsewhere.
fn evolution(evolution: &Evolution) -> Value {
    let upcast = |upcast: &Upcast| {
        let rule = |rule: &UpcastRule| match &rule.change {
            Change::Rename(old) => json!({ "to": rule.target, "rename": old }),
            Change::Default(value) => json!({ "to": rule.target, "default": expression(value) }),
            Change::Set(value) => json!({ "to": rule.target, "set": expression(value) }),
        };
        let rules: Vec<Value> = upcast.rules.iter().map(rule).collect();
        json!({ "from": upcast.from, "to": upcast.to, "events": upcast.events, "rules": rules })
    };
    json!({
        "version": expression(&evolution.version),
        "current": evolution.current,
        "missing": evolution.missing,
        "accept": evolution.unknown == Unknown::Accept,
        "upcasts": evolution.upcasts.iter().map(upcast).collect::<Vec<_>>(),
    })
}

/// Where only paths used to be: a path as its text.
fn plain(from: &Expression) -> Value {
    match from {
        Expression::Path(path) => json!(path_text(path)),
        other => expression(other),
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
