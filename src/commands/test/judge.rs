//! One case: as it is written, and in all other ways of delivery.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::compare::{self, Difference, FoundLetter};
use super::deliveries::{self, Way};
use crate::config::fixture::{Case, SchemaFile, SchemaKind};
use crate::config::{Config, Expression, Mapping, Path, Root, Rule, Table, Topic, Word};
use crate::decode::registry::{Kind, Reference, Registry, Schema};
use crate::domain::catalog::Catalog;
use crate::domain::checkpoint::TopicPartition;
use crate::mapping;
use crate::pipeline::rehearsal::{Delivery, Outcome, rehearse};

#[derive(Debug, Clone)]
pub struct Verdict {
    pub case: String,
    /// Line of the file.
    pub line: Option<usize>,
    pub events: usize,
    /// In how many ways they were delivered.
    pub ways: usize,
    pub differences: Vec<Difference>,
    /// The first way of delivery that leads to other rows, with what differs.
    pub depends: Option<(String, Vec<Difference>)>,
    /// What a configuration cannot promise, and did not keep here.
    pub notes: Vec<String>,
    pub took: Duration,
}

impl Verdict {
    pub fn passed(&self) -> bool {
        self.differences.is_empty() && self.depends.is_none()
    }
}

pub fn judge(case: &Case) -> Verdict {
    let started = Instant::now();
    let mut verdict = Verdict {
        case: case.name.clone(),
        line: case.place.line(),
        events: case.events.len(),
        ways: 0,
        differences: Vec::new(),
        depends: None,
        notes: Vec::new(),
        took: Duration::ZERO,
    };
    let registry = registry(&case.schemas);
    let catalog = mapping::catalog(&case.config);
    let written = deliveries::as_written(&case.events);
    match deliver(case, &registry, &written) {
        Err(problem) => verdict.differences.push(Difference::about("error", problem)),
        Ok(outcome) => {
            verdict.ways = 1;
            verdict.differences = differences(case, &catalog, &outcome);
            match &outcome.stopped {
                // What comes after the stop is not read in any order.
                Some(_) => {}
                None => others(case, &registry, &catalog, &outcome, &mut verdict),
            }
        }
    }
    verdict.took = started.elapsed();
    verdict
}

pub fn registry(schemas: &[SchemaFile]) -> Registry {
    Registry::fixed(schemas.iter().map(|schema| {
        let SchemaFile { id, kind, text, references, subject, version } = schema;
        let kind = match kind {
            SchemaKind::Avro => Kind::Avro,
            SchemaKind::Protobuf => Kind::Protobuf,
            SchemaKind::Json => Kind::Json,
        };
        let references =
            references.iter().map(|(name, text)| Reference { name: name.clone(), text: text.clone() });
        let versions = subject.iter().map(|subject| (subject.clone(), *version)).collect();
        (*id, Schema { kind, text: text.clone(), references: references.collect(), versions })
    }))
}

fn deliver(case: &Case, registry: &Registry, way: &Way) -> Result<Outcome, String> {
    let deliveries: Vec<Delivery<'_>> = way
        .events
        .iter()
        .map(|(event, ends_batch)| {
            let event = &case.events[*event];
            Delivery { at: event.at, record: &event.record, ends_batch: *ends_batch }
        })
        .collect();
    rehearse(&case.config, registry, &deliveries)
}

fn differences(case: &Case, catalog: &Catalog, outcome: &Outcome) -> Vec<Difference> {
    let mut differences = Vec::new();
    match (&case.stops, &outcome.stopped) {
        (None, Some(reason)) => differences.push(Difference::about("stopped", reason.clone())),
        (Some(words), None) => differences.push(Difference {
            expected: Some(words.clone()),
            found: None,
            ..Difference::about("stopped", "")
        }),
        (Some(words), Some(reason)) if !reason.contains(words.as_str()) => differences.push(Difference {
            expected: Some(words.clone()),
            ..Difference::about("stopped", reason.clone())
        }),
        _ => {}
    }
    for (index, table) in catalog.tables.iter().enumerate() {
        let expected = case.rows.get(&index).map_or(&[][..], Vec::as_slice);
        let mut found = compare::rows(table, expected, &outcome.rows[index]);
        let held = outcome.held.get(index).copied().unwrap_or(0);
        if held > 0 && found.iter().any(|difference| difference.what == "missing") {
            let rows = if held == 1 { "1 row waits" } else { &format!("{held} rows wait") };
            let text = format!("{rows} for the event that sets its columns without `?`, and cannot be seen");
            found.push(Difference { table: Some(table.name.clone()), ..Difference::about("held", text) });
        }
        differences.extend(found);
    }
    let mut offsets = BTreeMap::<TopicPartition, i64>::new();
    let coordinates: Vec<(TopicPartition, i64)> = case
        .events
        .iter()
        .map(|event| {
            let offset = offsets.entry(event.at).or_default();
            *offset += 1;
            (event.at, *offset - 1)
        })
        .collect();
    let found: Vec<FoundLetter<'_>> = outcome
        .dead_letters
        .iter()
        .map(|letter| FoundLetter {
            event: coordinates.iter().position(|at| *at == (letter.at, letter.offset)),
            topic: letter.at.topic,
            rejection: &letter.rejection,
        })
        .collect();
    differences.extend(compare::letters(catalog, &case.dead_letters, &found));
    if let Some(expected) = case.skipped.as_ref().filter(|expected| **expected != outcome.skipped) {
        let words = |counts: &BTreeMap<&'static str, u64>| match counts.is_empty() {
            true => "none".to_owned(),
            false => {
                counts.iter().map(|(name, count)| format!("{name} {count}")).collect::<Vec<_>>().join(", ")
            }
        };
        differences.push(Difference {
            expected: Some(words(expected)),
            ..Difference::about("skipped", words(&outcome.skipped))
        });
    }
    differences
}

/// All other ways must lead to the same rows.
fn others(case: &Case, registry: &Registry, catalog: &Catalog, once: &Outcome, verdict: &mut Verdict) {
    let reasons: Vec<Vec<String>> = case.config.tables.iter().map(|table| reasons(case, table)).collect();
    let left_out: Vec<Vec<usize>> = case.config.tables.iter().map(offset_columns).collect();
    for way in deliveries::others(&case.events) {
        verdict.ways += 1;
        let now = match deliver(case, registry, &way) {
            Ok(now) => now,
            Err(problem) => {
                verdict.depends = Some((way.name, vec![Difference::about("error", problem)]));
                return;
            }
        };
        let mut found = Vec::new();
        if let Some(reason) = &now.stopped {
            found.push(Difference::about("stopped", reason.clone()));
        }
        for (index, table) in catalog.tables.iter().enumerate() {
            let differs = compare::between(table, &once.rows[index], &now.rows[index], &left_out[index]);
            if differs.is_empty() {
                continue;
            }
            match reasons[index].as_slice() {
                [] => found.extend(differs),
                reasons => {
                    for reason in reasons {
                        let note = format!("{} depends on the order ({}): {reason}", table.name, way.name);
                        if !verdict.notes.iter().any(|known| known.ends_with(reason.as_str())) {
                            verdict.notes.push(note);
                        }
                    }
                }
            }
        }
        if !found.is_empty() {
            verdict.depends = Some((way.name, found));
            return;
        }
    }
    for ((table, columns), rows) in catalog.tables.iter().zip(&left_out).zip(&once.rows) {
        for column in columns.iter().filter(|_| !rows.is_empty()) {
            verdict.notes.push(format!(
                "{}.{} is not compared where events come again: it reads `$offset`, which is another one then",
                table.name, table.columns[*column].name
            ));
        }
    }
}

/// Why the rows of a table may depend on the order in which its events come.
fn reasons(case: &Case, table: &Table) -> Vec<String> {
    let mut reasons = Vec::new();
    for source in &table.sources {
        let Mapping::Events(rules) = &source.mapping else { continue };
        for (name, rule) in rules {
            let Rule::Patch { if_missing, .. } = rule else { continue };
            if !if_missing.needs_row() {
                continue;
            }
            let word = if_missing.word();
            reasons.push(format!("{name} has `if_missing: {word}`, so that it counts only behind its row"));
        }
    }
    let by_offset = offset_columns(table);
    if let Some(&column) = table.key.iter().find(|column| by_offset.contains(column)) {
        let name = &table.columns[column].name;
        reasons.push(format!(
            "its key column {name} reads `$offset`, so that an event that comes again is another row"
        ));
    }
    let feeds = |topic: usize| table.sources.iter().any(|source| source.topic == topic);
    let mut partitions: Vec<TopicPartition> =
        case.events.iter().map(|event| event.at).filter(|at| feeds(at.topic)).collect();
    partitions.sort_unstable();
    partitions.dedup();
    if partitions.len() > 1 && !is_versioned(&case.config, table) {
        reasons.push(
            "its events have no `version`: those of several partitions are ordered by the times of their records, \
             and one that is sent again counts as new"
                .to_owned(),
        );
    }
    reasons
}

fn is_versioned(config: &Config, table: &Table) -> bool {
    let topics = table.sources.iter().filter_map(|source| config.topics.get(source.topic));
    topics.into_iter().all(Topic::has_versions)
}

fn offset_columns(table: &Table) -> Vec<usize> {
    let reads_offset = |from: &Expression| match from {
        Expression::Path(Path { root, .. }) => *root == Root::Offset,
        Expression::Jq(program) => program.text.contains("$offset"),
        Expression::Literal(_) => false,
    };
    let in_rules = |index: usize| {
        table.sources.iter().any(|source| match &source.mapping {
            Mapping::Events(rules) => rules
                .values()
                .filter(|rule| !matches!(rule, Rule::Delete { .. }))
                .any(|rule| rule.expressions().any(|(column, from)| column == index && reads_offset(from))),
            Mapping::Rows => false,
        })
    };
    let columns = table.columns.iter().enumerate();
    columns
        .filter(|(index, column)| column.from.as_ref().is_some_and(reads_offset) || in_rules(*index))
        .map(|(index, _)| index)
        .collect()
}
