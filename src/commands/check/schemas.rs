//! The mapping against schemas: those that a registry has for its topics, or one that somebody is about
//! to register.

use std::fmt::Write as _;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::commands::{DONE, Exit, FAILED, UNAVAILABLE, printable};
use crate::config::{Config, Format};
use crate::decode::registry::{self, Kind, Registered, Schema};
use crate::decode::shapes::Shapes;
use crate::mapping::compatibility::{Compatibility, Part, Verdict, judge, parts};

/// Of each subject so many of the latest are looked at.
const VERSIONS_MAX: usize = 100;
const FILE_MAX: u64 = 4 << 20;

/// What was found about all schemas.
#[derive(Debug, Default)]
pub struct Judged {
    schemas: Vec<Found>,
    /// The registry did not answer.
    unavailable: bool,
}

#[derive(Debug)]
struct Found {
    topic: String,
    /// Subject or file.
    source: String,
    version: Option<i64>,
    id: Option<u32>,
    result: Outcome,
}

#[derive(Debug)]
enum Outcome {
    Judged(Compatibility),
    /// There is none to be compared with, or it could not be asked for.
    Skipped(String),
    Unusable(String),
}

/// Every version of every subject that the mapping reads.
pub fn registered(config: &Config, timeout: Duration) -> Judged {
    let mut judged = Judged::default();
    let Some(settings) = &config.schema_registry else { return judged };
    let deadline = Instant::now() + timeout;
    for (topic, found) in config.topics.iter().enumerate() {
        for part in parts(config, topic) {
            let suffix = if part == Part::Value { "value" } else { "key" };
            let subject = format!("{}-{suffix}", found.name);
            let skipped = |why: String| Found {
                topic: found.name.clone(),
                source: subject.clone(),
                version: None,
                id: None,
                result: Outcome::Skipped(why),
            };
            let left = deadline.saturating_duration_since(Instant::now());
            match registry::subject(settings, &subject, VERSIONS_MAX, left.max(Duration::from_millis(1))) {
                Ok(Some(versions)) => {
                    judged.schemas.extend(versions.iter().map(|each| one(config, topic, part, &subject, each)));
                }
                Ok(None) => judged.schemas.push(skipped(
                    "the registry has no such subject: nothing was registered yet, or subjects have other names"
                        .to_owned(),
                )),
                Err(reason) => {
                    judged.unavailable = true;
                    judged.schemas.push(skipped(reason));
                }
            }
        }
    }
    judged
}

/// Files of schemas for the values of topics; an [`Exit`] with code 64 for what makes no sense.
pub fn candidates(config: &Config, candidates: &[(String, PathBuf)]) -> anyhow::Result<Judged> {
    let mut judged = Judged::default();
    for (name, file) in candidates {
        let Some(topic) = config.topics.iter().position(|topic| topic.name == *name) else {
            let names: Vec<&str> = config.topics.iter().map(|topic| topic.name.as_str()).collect();
            let message =
                format!("the configuration reads no topic {name:?}; there are {}", names.join(", "));
            return Err(Exit::usage(message).into());
        };
        let kind = match config.topics[topic].format {
            Format::Avro | Format::DebeziumAvro | Format::DebeziumFlatAvro => Kind::Avro,
            Format::Protobuf => Kind::Protobuf,
            Format::JsonSchema => Kind::Json,
            other => {
                let message = format!("records of {name} have no schema (format {})", other.name());
                return Err(Exit::usage(message).into());
            }
        };
        let text = read(file).map_err(|why| Exit::usage(format!("{}: {why}", file.display())))?;
        let schema = Schema { kind, text, references: Vec::new(), versions: Vec::new() };
        let source = file.display().to_string();
        judged.schemas.push(Found {
            topic: name.clone(),
            source,
            version: None,
            id: None,
            result: compare(config, topic, Part::Value, &schema, None),
        });
    }
    Ok(judged)
}

fn read(file: &Path) -> Result<String, String> {
    let mut text = String::new();
    let read = File::open(file).and_then(|file| file.take(FILE_MAX + 1).read_to_string(&mut text));
    match read {
        Err(error) => Err(error.to_string()),
        Ok(_) if text.len() as u64 > FILE_MAX => Err(format!("is larger than {} MiB", FILE_MAX >> 20)),
        Ok(_) => Ok(text),
    }
}

fn one(config: &Config, topic: usize, part: Part, subject: &str, each: &Registered) -> Found {
    Found {
        topic: config.topics[topic].name.clone(),
        source: subject.to_owned(),
        version: Some(each.version),
        id: each.id,
        result: compare(config, topic, part, &each.schema, Some(each.version)),
    }
}

fn compare(config: &Config, topic: usize, part: Part, schema: &Schema, version: Option<i64>) -> Outcome {
    match Shapes::of(schema) {
        Ok(shapes) => Outcome::Judged(judge(config, topic, part, &shapes, version)),
        Err(why) => Outcome::Unusable(why),
    }
}

impl Found {
    fn verdict(&self) -> Option<Verdict> {
        match &self.result {
            Outcome::Judged(compatibility) => Some(compatibility.verdict),
            Outcome::Skipped(_) => None,
            Outcome::Unusable(_) => Some(Verdict::Breaks),
        }
    }

    fn word(&self) -> &'static str {
        match self.verdict() {
            None => "skipped",
            Some(Verdict::Fine) => "ok",
            Some(Verdict::Warning) => "warning",
            Some(Verdict::Breaks) => "FAILED",
        }
    }
}

impl Judged {
    /// 1 when a schema would break the mapping, 69 when the registry could not be asked.
    pub fn code(&self) -> u8 {
        if self.schemas.iter().any(|found| found.verdict() == Some(Verdict::Breaks)) {
            FAILED
        } else if self.unavailable {
            UNAVAILABLE
        } else {
            DONE
        }
    }

    pub fn as_text(&self) -> String {
        let mut out = String::new();
        for found in &self.schemas {
            let _ = write!(out, "{:<8}schema {}", found.word(), printable(&found.source));
            if let Some(version) = found.version {
                let _ = write!(out, " version {version}");
            }
            match &found.result {
                Outcome::Skipped(why) => {
                    let _ = writeln!(out, ": {}", printable(why));
                }
                Outcome::Unusable(why) => {
                    let _ = writeln!(out, ": cannot be used: {}", printable(why));
                }
                Outcome::Judged(Compatibility { read_as, readings, .. }) => {
                    let as_version =
                        read_as.as_ref().map_or(String::new(), |name| format!(", as version {name}"));
                    let _ = writeln!(out, ": {} places are read{}", readings.len(), printable(&as_version));
                    for reading in readings.iter().filter(|reading| reading.verdict != Verdict::Fine) {
                        let what = match (&reading.table, &reading.column) {
                            (Some(table), Some(column)) => format!("{table}.{column}"),
                            (Some(table), None) => format!("a condition of {table}"),
                            (None, _) => "every event".to_owned(),
                        };
                        let of =
                            reading.event_type.as_ref().map_or(String::new(), |name| format!(" ({name})"));
                        let word = if reading.verdict == Verdict::Breaks { "breaks" } else { "note" };
                        let line = format!("{word}: {what}{of} reads {}: {}", reading.path, reading.message);
                        let _ = writeln!(out, "        {}", printable(&line));
                    }
                }
            }
        }
        out
    }

    pub fn as_json(&self) -> Value {
        let mut all = json!({ "ok": self.code() == DONE });
        self.add_to(&mut all);
        all
    }

    /// As `schemas`; what is not fine makes the whole not fine.
    pub fn add_to(&self, all: &mut Value) {
        let schemas: Vec<Value> = self
            .schemas
            .iter()
            .map(|found| {
                let (read_as, readings, message) = match &found.result {
                    Outcome::Judged(judged) => (judged.read_as.clone(), json!(judged.readings), None),
                    Outcome::Skipped(why) | Outcome::Unusable(why) => (None, json!([]), Some(why)),
                };
                json!({
                    "topic": found.topic,
                    "schema": found.source,
                    "version": found.version,
                    "id": found.id,
                    "verdict": found.verdict(),
                    "read_as": read_as,
                    "readings": readings,
                    "message": message,
                })
            })
            .collect();
        if self.code() != DONE {
            all["ok"] = false.into();
        }
        all["schemas"] = schemas.into();
    }
}

#[cfg(test)]
#[path = "schemas_tests.rs"]
mod tests;
