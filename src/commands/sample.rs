//! `readside check --sample`: real records become the beginning of fixtures, with the rows that the
//! mapping makes of them now.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context;
use serde_json::json;

use super::test::shown;
use super::{DONE, Exit, UNAVAILABLE, print, printable};
use crate::config::Config;
use crate::config::fixture::{Recorded, SchemaFile, SchemaKind};
use crate::decode::registry::{Answer, Kind, Registry, Schema};
use crate::domain::catalog::Catalog;
use crate::domain::value::{ColumnType, Value};
use crate::mapping;
use crate::pipeline::rehearsal::{Delivery, Outcome, rehearse};
use crate::source::kafka::sample::{Sampled, sample};

/// Schemas that are asked for.
const SCHEMAS_MAX: usize = 100;
const WARNING: &str = "these are real records: they may hold personal data; look at them and replace it before you share the files";

#[derive(Debug, Clone)]
pub struct Asked {
    /// Records of each topic.
    pub count: usize,
    pub into: PathBuf,
    pub timeout: Duration,
}

/// 0 when the files are written, 64 when there are some already, 69 when nobody answers.
pub fn run(config_path: &Path, config: &Config, asked: &Asked, json: bool) -> anyhow::Result<u8> {
    let (cases, records) = (asked.into.join("sample.yaml"), asked.into.join("sample.jsonl"));
    for file in [&cases, &records] {
        if file.exists() {
            let message = format!("{} is there already; remove it or choose another --into", file.display());
            return Err(Exit::usage(message).into());
        }
    }
    let deadline = Instant::now() + asked.timeout;
    let topics: Vec<String> = config.topics.iter().map(|topic| topic.name.clone()).collect();
    let sampled = sample(&config.kafka, &topics, asked.count, asked.timeout)?;
    let sampled = sampled.map_err(|reason| Exit {
        code: UNAVAILABLE,
        message: format!("{}: {reason}", config.kafka.brokers.join(", ")),
    })?;
    let schemas = schemas(config, &sampled.records, deadline);
    let rehearsed = rehearsed(config, &schemas, &sampled.records);

    fs::create_dir_all(&asked.into).with_context(|| asked.into.display().to_string())?;
    let mut lines = String::new();
    for Sampled { at, offset, record } in &sampled.records {
        let recorded = Recorded::of(&config.topics[at.topic].name, at.partition, *offset, record);
        lines.push_str(&serde_json::to_string(&recorded)?);
        lines.push('\n');
    }
    write(&records, &lines)?;
    for schema in &schemas {
        for (name, text) in files_of(schema) {
            let file = asked.into.join(name);
            if let Some(folder) = file.parent() {
                fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
            }
            // The same one may be there from an earlier sample.
            if !file.exists() {
                write(&file, &text)?;
            }
        }
    }
    let configuration = beside(&asked.into, config_path)?;
    let text = fixture(&configuration, &mapping::catalog(config), &schemas, &rehearsed);
    write(&cases, &text)?;

    let problems: BTreeMap<&str, &String> = sampled
        .problems
        .iter()
        .filter_map(|(topic, why)| Some((topics.get(*topic)?.as_str(), why)))
        .collect();
    if json {
        let written = json!({
            "records": sampled.records.len(), "fixture": cases.display().to_string(),
            "recorded": records.display().to_string(), "problems": problems, "warning": WARNING,
        });
        print(&format!("{written:#}\n"))?;
    } else {
        let mut said = format!("{} records in {}\n", sampled.records.len(), records.display());
        let _ = writeln!(said, "what the mapping makes of them, as a case, in {}", cases.display());
        for (topic, why) in problems {
            let _ = writeln!(said, "topic {}: {}", printable(topic), printable(why));
        }
        let _ = writeln!(said, "{WARNING}");
        print(&said)?;
    }
    Ok(DONE)
}

/// For nobody else to read, and never over another one.
fn write(file: &Path, text: &str) -> anyhow::Result<()> {
    let opened = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file);
    opened.and_then(|mut file| file.write_all(text.as_bytes())).with_context(|| file.display().to_string())
}

/// The schemas that the records name, as far as the registry gives them in time.
fn schemas(config: &Config, records: &[Sampled], deadline: Instant) -> Vec<SchemaFile> {
    let Some(settings) = &config.schema_registry else { return Vec::new() };
    let ids: BTreeSet<u32> = records
        .iter()
        .filter(|sampled| config.topics[sampled.at.topic].format.names_schema())
        .flat_map(|sampled| [&sampled.record.value, &sampled.record.key])
        .filter_map(|bytes| match bytes.as_deref()? {
            [0, a, b, c, d, ..] => Some(u32::from_be_bytes([*a, *b, *c, *d])),
            _ => None,
        })
        .collect();
    let registry = match config.needs_schema_versions() {
        true => Registry::with_versions(settings),
        false => Registry::new(settings),
    };
    let mut found = Vec::new();
    for id in ids.into_iter().take(SCHEMAS_MAX) {
        let answer = loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match registry.get(id, left.min(Duration::from_millis(250))) {
                Answer::Pending { .. } if !left.is_zero() => {}
                answer => break answer,
            }
        };
        if let Answer::Found(schema) = answer {
            found.extend(schema_file(id, &schema));
        }
    }
    found
}

fn schema_file(id: u32, schema: &Schema) -> Option<SchemaFile> {
    let kind = match schema.kind {
        Kind::Avro => SchemaKind::Avro,
        Kind::Protobuf => SchemaKind::Protobuf,
        Kind::Json => SchemaKind::Json,
        Kind::Other => return None,
    };
    let references = schema.references.iter().map(|each| (each.name.clone(), each.text.clone()));
    let place = schema.versions.first();
    Some(SchemaFile {
        id,
        kind,
        text: schema.text.clone(),
        references: references.collect(),
        subject: place.map(|(subject, _)| subject.clone()),
        version: place.map_or(1, |(_, version)| *version),
    })
}

fn kind_words(kind: SchemaKind) -> (&'static str, &'static str) {
    match kind {
        SchemaKind::Avro => ("avro", "avsc"),
        SchemaKind::Protobuf => ("protobuf", "proto"),
        SchemaKind::Json => ("json", "json"),
    }
}

/// Names and texts; a name from a registry never becomes the name of a file.
fn files_of(schema: &SchemaFile) -> Vec<(String, String)> {
    let (_, extension) = kind_words(schema.kind);
    let main = (format!("schemas/{}.{extension}", schema.id), schema.text.clone());
    let references = schema.references.iter().enumerate();
    let references = references
        .map(|(nth, (_, text))| (format!("schemas/{}-{}.{extension}", schema.id, nth + 1), text.clone()));
    std::iter::once(main).chain(references).collect()
}

fn rehearsed(config: &Config, schemas: &[SchemaFile], records: &[Sampled]) -> Result<Outcome, String> {
    let mut config = config.clone();
    config.dead_letters.max = u64::MAX;
    config.dead_letters.max_rate = None;
    let deliveries: Vec<Delivery<'_>> = records
        .iter()
        .map(|sampled| Delivery { at: sampled.at, record: &sampled.record, ends_batch: true })
        .collect();
    rehearse(&config, &super::test::registry(schemas), &deliveries)
}

/// The case, as YAML.
fn fixture(
    configuration: &str,
    catalog: &Catalog,
    schemas: &[SchemaFile],
    rehearsed: &Result<Outcome, String>,
) -> String {
    let mut out = format!(
        "# {WARNING}.\n# The rows are those that the mapping makes now: nobody has said yet that they are right.\nconfig: {}\n",
        quoted(configuration)
    );
    if !schemas.is_empty() {
        out.push_str("schemas:\n");
    }
    for schema in schemas {
        let (kind, _) = kind_words(schema.kind);
        let files = files_of(schema);
        let _ = write!(out, "  - {{ id: {}, kind: {kind}, file: {}", schema.id, quoted(&files[0].0));
        if let Some(subject) = &schema.subject {
            let _ = write!(out, ", subject: {}, version: {}", quoted(subject), schema.version);
        }
        if !schema.references.is_empty() {
            let named = schema.references.iter().zip(&files[1..]);
            let named: Vec<String> =
                named.map(|((name, _), (file, _))| format!("{}: {}", quoted(name), quoted(file))).collect();
            let _ = write!(out, ", references: {{ {} }}", named.join(", "));
        }
        out.push_str(" }\n");
    }
    out.push_str("cases:\n  - name: recorded\n    events:\n      - recorded: sample.jsonl\n");
    match rehearsed {
        Err(problem) => {
            let _ = writeln!(out, "    # nothing could be mapped: {}", printable(problem));
        }
        Ok(outcome) => expected(&mut out, catalog, outcome),
    }
    out
}

fn expected(out: &mut String, catalog: &Catalog, outcome: &Outcome) {
    if outcome.rows.iter().any(|rows| !rows.is_empty()) {
        out.push_str("    rows:\n");
    }
    for (table, rows) in catalog.tables.iter().zip(&outcome.rows).filter(|(_, rows)| !rows.is_empty()) {
        let _ = writeln!(out, "      {}:", quoted(&table.name));
        for values in rows {
            let columns = table.columns.iter().zip(values).filter(|(_, value)| **value != Value::Null);
            let columns: Vec<String> = columns
                .map(|(column, value)| format!("{}: {}", quoted(&column.name), scalar(value, column.ty)))
                .collect();
            let _ = writeln!(out, "        - {{ {} }}", columns.join(", "));
        }
    }
    if !outcome.dead_letters.is_empty() {
        out.push_str("    dead_letters:\n");
    }
    for letter in &outcome.dead_letters {
        let rejection = &letter.rejection;
        let topic = catalog.topics.get(letter.at.topic).map_or("", String::as_str);
        let _ = write!(out, "      - {{ topic: {}, reason: {}", quoted(topic), rejection.reason.name());
        if !rejection.path.is_empty() {
            let _ = write!(out, ", path: {}", quoted(&rejection.path));
        }
        out.push_str(" }\n");
    }
    if let Some(reason) = &outcome.stopped {
        let _ = writeln!(out, "    stops: {}", quoted(reason));
    }
}

fn scalar(value: &Value, ty: ColumnType) -> String {
    match value {
        Value::Integer(_) | Value::Real(_) => shown(value, ty),
        _ => quoted(&shown(value, ty)),
    }
}

/// A JSON string is a YAML scalar, too; a plain word needs no quotes.
fn quoted(text: &str) -> String {
    let plain = text.starts_with(|first: char| first.is_ascii_alphabetic())
        && text.chars().all(|char| char.is_ascii_alphanumeric() || matches!(char, '_' | '.' | '-' | '/'))
        && !matches!(
            text.to_ascii_lowercase().as_str(),
            "null" | "true" | "false" | "yes" | "no" | "on" | "off"
        );
    if plain { text.to_owned() } else { serde_json::Value::from(text).to_string() }
}

/// How a file is called from a folder.
fn beside(folder: &Path, file: &Path) -> anyhow::Result<String> {
    let folder = folder.canonicalize().with_context(|| folder.display().to_string())?;
    let file = file.canonicalize().with_context(|| file.display().to_string())?;
    let common = folder.components().zip(file.components()).take_while(|(a, b)| a == b).count();
    let up = folder.components().skip(common).map(|_| Component::ParentDir);
    let path: PathBuf = up.chain(file.components().skip(common)).collect();
    Ok(path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_quoted_where_yaml_would_read_something_else() {
        for (text, written) in [
            ("users", "users"),
            ("2026-01-01", "\"2026-01-01\""),
            ("null", "\"null\""),
            ("a: b", "\"a: b\""),
            ("", "\"\""),
            ("a\"\n", r#""a\"\n""#),
        ] {
            assert_eq!(quoted(text), written);
        }
    }

    #[test]
    fn a_file_is_named_from_where_the_fixtures_are() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("a/b");
        fs::create_dir_all(&folder).unwrap();
        let file = dir.path().join("readside.yaml");
        fs::write(&file, "").unwrap();
        assert_eq!(beside(&folder, &file).unwrap(), "../../readside.yaml");
        assert_eq!(beside(dir.path(), &file).unwrap(), "readside.yaml");
        assert!(beside(dir.path(), &folder.join("nowhere")).is_err());
    }

    #[test]
    fn files_are_for_their_owner_and_are_never_replaced() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("f");
        write(&file, "x").unwrap();
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(write(&file, "y").is_err());
        assert_eq!(fs::read_to_string(&file).unwrap(), "x");
    }
}
