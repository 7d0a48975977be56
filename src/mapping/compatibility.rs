//! Whether a mapping can read the records of a schema: each place that it reads, compared with what the
//! schema has there. What fits a column is asked of the conversion itself, with a value of that kind.

use serde::Serialize;

use super::convert::{Target, convert};
use crate::config::lift::{Lifted, lift};
use crate::config::{
    Column, Condition, Config, Encoding, Expression, Jq, KeyFormat, Mapping, Path, Personal, Root, Rule,
    Table, Test, Topic, Unknown, Upcast,
};
use crate::decode::native::Native;
use crate::decode::shapes::{Kind, Shape, Shapes};
use crate::decode::{FLATTENED_VERSIONS, Field, Logical};
use crate::domain::value::ColumnType;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    Fine,
    /// Events that the schema allows may become dead letters, or a column stays null.
    Warning,
    /// Every event becomes a dead letter.
    Breaks,
}

/// One place that the mapping reads.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Reading {
    pub path: String,
    /// `None`: for all tables, as the type of an event.
    pub table: Option<String>,
    pub event_type: Option<String>,
    /// `None`: a condition, or what decides about the event.
    pub column: Option<String>,
    pub verdict: Verdict,
    /// What the schema has there, and why that is not fine.
    pub message: String,
}

/// A schema, seen by a mapping.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Compatibility {
    pub verdict: Verdict,
    /// The version of `schema.current` and `upcast` as which it is read.
    pub read_as: Option<String>,
    pub readings: Vec<Reading>,
}

/// Which part of records a schema describes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    Value,
    Key,
}

/// The parts of a topic's records whose schemas a registry has.
pub fn parts(config: &Config, topic: usize) -> Vec<Part> {
    let Some(found) = config.topics.get(topic) else { return Vec::new() };
    let mut parts = Vec::new();
    if found.format.names_schema() && found.schema_file.is_none() {
        parts.push(Part::Value);
    }
    let of_topic = config
        .tables
        .iter()
        .filter_map(|table| Some((table, table.sources.iter().find(|s| s.topic == topic)?)));
    for (table, source) in of_topic {
        let format = found.key_format_of(table.key.len());
        let framed = matches!(format, KeyFormat::Avro | KeyFormat::Protobuf | KeyFormat::JsonSchema);
        if framed && source.mapping == Mapping::Rows && !parts.contains(&Part::Key) {
            parts.push(Part::Key);
        }
    }
    parts
}

/// `version`: the one under the topic's subject, where it is known.
pub fn judge(
    config: &Config,
    topic: usize,
    part: Part,
    shapes: &Shapes,
    version: Option<i64>,
) -> Compatibility {
    let Some(found) = config.topics.get(topic) else {
        return Compatibility { verdict: Verdict::Fine, read_as: None, readings: Vec::new() };
    };
    let judge = |steps: &[&Upcast], read_as: Option<&str>| {
        let mut judge = Judge { config, topic, found, part, steps, readings: Vec::new() };
        judge.all(shapes);
        let verdict = judge.readings.iter().map(|reading| reading.verdict).max().unwrap_or(Verdict::Fine);
        Compatibility { verdict, read_as: read_as.map(str::to_owned), readings: judge.readings }
    };
    let Some(evolution) = found.evolution.as_ref().filter(|_| part == Part::Value) else {
        return judge(&[], None);
    };
    let faces = evolution.versions();
    let by_registry = matches!(&evolution.version, Expression::Path(Path { root: Root::Schema, fields })
        if fields.first().is_some_and(|fact| fact == "version"));
    if let (true, Some(version)) = (by_registry, version) {
        let name = version.to_string();
        return match faces.iter().find(|(known, _)| *known == name) {
            Some((known, steps)) => judge(steps, Some(known)),
            None => undeclared(evolution.unknown, &name, || judge(&[], Some(&evolution.current))),
        };
    }
    // Events say their versions themselves: which of them have this schema is not known.
    let judged = faces.iter().map(|(known, steps)| judge(steps, Some(known)));
    judged.min_by_key(|compatibility| compatibility.verdict).unwrap_or_else(|| judge(&[], None))
}

fn undeclared(unknown: Unknown, version: &str, as_current: impl FnOnce() -> Compatibility) -> Compatibility {
    let (verdict, becomes) = match unknown {
        Unknown::Accept => return as_current(),
        Unknown::Ignore => (Verdict::Warning, "is ignored"),
        Unknown::DeadLetter => (Verdict::Breaks, "becomes a dead letter"),
        Unknown::Stop => (Verdict::Breaks, "stops the daemon"),
    };
    let reading = Reading {
        path: "$schema.version".to_owned(),
        table: None,
        event_type: None,
        column: None,
        verdict,
        message: format!("version {version} is neither current nor upcast: each of its events {becomes}"),
    };
    Compatibility { verdict, read_as: None, readings: vec![reading] }
}

struct Judge<'c> {
    config: &'c Config,
    topic: usize,
    found: &'c Topic,
    part: Part,
    steps: &'c [&'c Upcast],
    readings: Vec<Reading>,
}

/// The records that are looked at.
#[derive(Clone, Copy)]
struct Seen<'s> {
    shapes: &'s Shapes,
    /// Which of the schema's.
    record: usize,
}

impl Seen<'_> {
    fn at(self, path: &[String], through: usize) -> Shape {
        self.shapes.at(self.record, path, through)
    }
}

/// For what a place is read.
#[derive(Clone, Copy)]
struct For<'c> {
    table: Option<&'c Table>,
    event: Option<&'c str>,
    column: Option<usize>,
}

impl<'c> Judge<'c> {
    fn all(&mut self, shapes: &Shapes) {
        let (config, topic) = (self.config, self.topic);
        let seen = Seen { shapes, record: 0 };
        let nothing = For { table: None, event: None, column: None };
        if self.part == Part::Value {
            let found = self.found;
            let decisive = [&found.event_type, &found.version].into_iter().flatten();
            for expression in decisive.chain(found.event_ids.as_ref().map(|ids| &ids.source)) {
                self.needed(seen, expression, nothing);
            }
            self.flattened_version(seen, nothing);
        }
        for table in &config.tables {
            for source in table.sources.iter().filter(|source| source.topic == topic) {
                match (&source.mapping, self.part) {
                    (Mapping::Rows, Part::Value) => {
                        let of = For { table: Some(table), ..nothing };
                        if let Some(when) = &source.when.rows {
                            self.condition(seen, when, of);
                        }
                        for index in 0..table.columns.len() {
                            self.column(seen, table, index, (None, None));
                        }
                    }
                    (Mapping::Rows, Part::Key) => {
                        for &index in &table.key {
                            self.key_column(seen, table, index, source.key_from.get(&index));
                        }
                    }
                    (Mapping::Events(rules), Part::Value) => {
                        for (name, rule) in rules {
                            let Some(record) = self.record_of(shapes, name) else { continue };
                            let seen = Seen { shapes, record };
                            let of = For { table: Some(table), event: Some(name), column: None };
                            if let Some(when) = source.when.events.get(name) {
                                self.condition(seen, when, of);
                            }
                            self.rule(seen, table, name, rule);
                        }
                    }
                    (Mapping::Events(_), Part::Key) => {}
                }
            }
        }
    }

    /// The record of the schema that events of this type are; `None`: they are of another schema.
    fn record_of(&self, shapes: &Shapes, event: &str) -> Option<usize> {
        let by_name = match &self.found.event_type {
            Some(Expression::Path(Path { root: Root::Schema, .. })) | None => true,
            Some(_) => false,
        };
        match by_name {
            true => {
                shapes.names().iter().position(|name| name == event || name.rsplit('.').next() == Some(event))
            }
            false => Some(0),
        }
    }

    fn rule(&mut self, seen: Seen<'_>, table: &'c Table, event: &'c str, rule: &Rule) {
        let columns: Vec<(usize, Option<&Expression>)> = match rule {
            Rule::Upsert { columns } => {
                (0..table.columns.len()).map(|index| (index, columns.get(&index))).collect()
            }
            Rule::Patch { columns, .. } => (0..table.columns.len())
                .filter(|index| table.key.contains(index) || columns.contains_key(index))
                .map(|index| (index, columns.get(&index)))
                .collect(),
            Rule::Delete { key } => {
                let columns = rule.prefix(table).unwrap_or(table.key.len());
                table.key[..columns].iter().map(|index| (*index, key.get(index))).collect()
            }
            Rule::Replace { prefix, each, row } => {
                let of = For { table: Some(table), event: Some(event), column: None };
                self.needed(seen, each, of);
                // Paths into an element are not followed: only what is outside of it is compared.
                let outside = |from: &&Expression| {
                    !matches!(from, Expression::Path(Path { root: Root::Row, .. }) | Expression::Jq(_))
                };
                let named = row.iter().filter(|(_, from)| outside(from));
                prefix.iter().chain(named).map(|(index, from)| (*index, Some(from))).collect()
            }
        };
        for (index, from) in columns {
            self.column(seen, table, index, (Some(event), from));
        }
    }

    fn column(
        &mut self,
        seen: Seen<'_>,
        table: &'c Table,
        index: usize,
        (event, rule): (Option<&'c str>, Option<&Expression>),
    ) {
        let column = &table.columns[index];
        if column.personal == Some(Personal::Drop) {
            return;
        }
        let own = own_field(Root::Row, column);
        let expression = rule.or(column.from.as_ref()).unwrap_or(&own);
        let of = For { table: Some(table), event, column: Some(index) };
        self.expression(seen, expression, of);
    }

    fn key_column(&mut self, seen: Seen<'_>, table: &'c Table, index: usize, from: Option<&Expression>) {
        let column = &table.columns[index];
        let own = own_field(Root::Key, column);
        let expression = from.unwrap_or(&own);
        let of = For { table: Some(table), event: None, column: Some(index) };
        let Expression::Path(path) = expression else { return };
        if path.root == Root::Key {
            // A key that is one value and no record stands for the only key column.
            let whole = seen.at(&[], 0);
            let shape = match (table.key.len(), whole.0.contains(&Kind::Composite)) {
                (1, false) => whole,
                _ => seen.at(&path.fields, 0),
            };
            let (verdict, message) = self.fits(&shape, table, index);
            self.push(path.to_string(), of, verdict, message);
        }
    }

    fn expression(&mut self, seen: Seen<'_>, expression: &Expression, of: For<'c>) {
        let row_is_event = self.found.format.row_is_event();
        match lift(self.steps, expression, of.event, row_is_event) {
            Ok(lifted) => {
                if let Some((path, verdict, message)) = self.lifted(seen, &lifted, of) {
                    self.push(path, of, verdict, message);
                }
            }
            Err(wrong) => self.push(expression.to_string(), of, Verdict::Breaks, wrong.message),
        }
    }

    /// `None`: nothing of the value is read.
    fn lifted(&self, seen: Seen<'_>, lifted: &Lifted, of: For<'c>) -> Option<(String, Verdict, String)> {
        match lifted {
            Lifted::Absent => {
                let (verdict, message) = self.missing(of);
                Some(("(not in this version)".to_owned(), verdict, message))
            }
            Lifted::Or(first, second) => {
                let first = self.lifted(seen, first, of);
                match first {
                    Some((_, Verdict::Fine, _)) => first,
                    // What the first one lacks the second one has, and nothing else counts.
                    _ => self.lifted(seen, second, of).or(first),
                }
            }
            Lifted::Plain(Expression::Literal(_)) => None,
            Lifted::Plain(Expression::Path(path)) => {
                let (fields, through) = self.absolute(path)?;
                let shape = seen.at(&fields, through);
                let (verdict, message) = match (of.table, of.column) {
                    (Some(table), Some(index)) => self.fits(&shape, table, index),
                    _ if shape.is_missing() => self.missing(of),
                    _ => (Verdict::Fine, described(&shape)),
                };
                Some((path.to_string(), verdict, message))
            }
            Lifted::Plain(Expression::Jq(program)) => self.program(seen, program),
        }
    }

    /// Of a program only what it reads is known, not what it makes of it.
    fn program(&self, seen: Seen<'_>, program: &Jq) -> Option<(String, Verdict, String)> {
        let row = program.reads.row.iter().map(|fields| (Root::Row, fields));
        let event = program.reads.event.iter().map(|fields| (Root::Event, fields));
        let mut lacks = Vec::new();
        let mut any = false;
        for (root, fields) in row.chain(event).filter(|(_, fields)| !fields.is_empty()) {
            any = true;
            let path = Path { root, fields: fields.clone() };
            let Some((fields, through)) = self.absolute(&path) else { continue };
            if seen.at(&fields, through).is_missing() {
                lacks.push(path.to_string());
            }
        }
        match (any, lacks.is_empty()) {
            (false, _) => None,
            (true, true) => {
                Some((program.text.clone(), Verdict::Fine, "all that it reads is there".to_owned()))
            }
            (true, false) => {
                let message =
                    format!("reads {}, which this schema does not have: null there", lacks.join(", "));
                Some((program.text.clone(), Verdict::Warning, message))
            }
        }
    }

    fn condition(&mut self, seen: Seen<'_>, when: &Condition, of: For<'c>) {
        let Test::Jq(program) = &when.test else {
            // The simple ones are jq as well.
            if let Ok(Expression::Jq(program)) = when.text.parse() {
                let found = self.program(seen, &program);
                self.push_found(found, of);
            }
            return;
        };
        let found = self.program(seen, program);
        self.push_found(found, of);
    }

    fn push_found(&mut self, found: Option<(String, Verdict, String)>, of: For<'c>) {
        if let Some((path, verdict, message)) = found {
            self.push(path, of, verdict, message);
        }
    }

    /// What decides about an event must be there.
    fn needed(&mut self, seen: Seen<'_>, expression: &Expression, of: For<'c>) {
        self.expression(seen, expression, of);
    }

    /// A flattened row has a version only where the connector was asked for one.
    fn flattened_version(&mut self, seen: Seen<'_>, of: For<'c>) {
        if !self.found.format.is_flattened() || self.found.version.is_some() || self.found.by_position {
            return;
        }
        let is_there = |name: &&str| !seen.at(&[(*name).to_owned()], 0).is_missing();
        if FLATTENED_VERSIONS.iter().any(is_there) {
            return;
        }
        let path = format!(".{}", FLATTENED_VERSIONS.join(", ."));
        let message = "this schema has none of them; have the connector add `lsn` and `source.sequence`, or say `version: position`";
        self.push(path, of, Verdict::Breaks, message.to_owned());
    }

    /// Where a path leads in the value, and how many of its names lead to the row; `None`: not there.
    fn absolute(&self, path: &Path) -> Option<(Vec<String>, usize)> {
        match path.root {
            Root::Row if self.found.format.has_before_and_after() => Some((path.from_event("after"), 1)),
            Root::Row | Root::Event => Some((path.fields.clone(), 0)),
            _ => None,
        }
    }

    fn missing(&self, of: For<'c>) -> (Verdict, String) {
        let (Some(table), Some(index)) = (of.table, of.column) else {
            return (Verdict::Breaks, "this schema does not have it".to_owned());
        };
        let column = &table.columns[index];
        match column.nullable && !table.key.contains(&index) {
            true => (Verdict::Warning, "this schema does not have it: the column is null".to_owned()),
            false => {
                (Verdict::Breaks, "this schema does not have it, and the column may not be null".to_owned())
            }
        }
    }

    /// Whether what may be at a place goes into a column.
    fn fits(&self, shape: &Shape, table: &Table, index: usize) -> (Verdict, String) {
        let key = table.key.contains(&index);
        let column = &table.columns[index];
        let nullable = column.nullable && !key;
        if shape.is_missing() {
            return self.missing(For { table: Some(table), event: None, column: Some(index) });
        }
        let mut fitting = false;
        let mut wrong = Vec::new();
        let mut nothing = None;
        for kind in &shape.0 {
            match kind {
                Kind::Absent | Kind::Null if nullable => {}
                Kind::Absent => nothing = Some("may be left out"),
                Kind::Null => nothing = Some("may be null"),
                kind if self.takes(column, key, *kind) => fitting = true,
                kind => wrong.push(kind.name()),
            }
        }
        let ty = column.ty;
        let is = described(shape);
        match (fitting, wrong.as_slice(), nothing) {
            (true, [], None) => (Verdict::Fine, is),
            (true, [], Some(how)) => (Verdict::Warning, format!("{is}; it {how}, and the column may not")),
            (true, wrong, _) => {
                (Verdict::Warning, format!("{is}, of which {} is no {ty}", wrong.join(" and ")))
            }
            (false, [], _) if nullable => (Verdict::Warning, format!("{is}: the column is always null")),
            (false, [], _) => (Verdict::Breaks, format!("{is}, and the column may not be null")),
            (false, wrong, _) => (Verdict::Breaks, format!("is {}, and no {ty}", wrong.join(" or "))),
        }
    }

    fn takes(&self, column: &Column, key: bool, kind: Kind) -> bool {
        if matches!(column.personal, Some(Personal::Hash | Personal::Mask)) {
            return !matches!(kind, Kind::Composite | Kind::NotAnObject);
        }
        let debezium = self.found.format.is_debezium();
        let days = (debezium && column.ty == ColumnType::Date).then_some(Encoding::Days);
        let target = Target {
            ty: column.ty,
            nullable: column.nullable && !key,
            key,
            encoding: column.encoding.or(days),
            json_in_text: debezium,
            // No format with schemas is one of MySQL's.
            is_mysql: false,
        };
        let native = |native| convert(Field::Native(native), &target).is_ok();
        match kind {
            Kind::Anything => true,
            Kind::Absent | Kind::Null | Kind::NotAnObject => false,
            Kind::Integer => native(Native::Integer(1)),
            Kind::Unsigned => native(Native::Unsigned(1)),
            Kind::Real => native(Native::Real(0.5)),
            Kind::Boolean => native(Native::Boolean(true)),
            Kind::Text => native(Native::Text(sample(column))),
            Kind::Bytes => native(Native::Bytes(&[0])),
            Kind::Decimal => native(Native::Decimal { unscaled: &[1], scale: 0 }),
            Kind::Since(logical @ Logical::Date) => native(Native::Since(logical, 1)),
            Kind::Since(logical) => native(Native::Since(logical, 1_000)),
            Kind::Instant => native(Native::Instant { seconds: 1, nanos: 0 }),
            Kind::Composite => convert(Field::Json("{}"), &target).is_ok(),
            Kind::JsonNumber => {
                convert(Field::Json("1.5"), &target).is_ok() || convert(Field::Json("1"), &target).is_ok()
            }
        }
    }

    fn push(&mut self, path: String, of: For<'c>, verdict: Verdict, message: String) {
        let column = of.table.zip(of.column).map(|(table, index)| table.columns[index].name.clone());
        let reading = Reading {
            path,
            table: of.table.map(|table| table.name.clone()),
            event_type: of.event.map(str::to_owned),
            column,
            verdict,
            message,
        };
        if !self.readings.contains(&reading) {
            self.readings.push(reading);
        }
    }
}

/// A text that a column of this type takes, if it takes texts.
fn sample(column: &Column) -> &'static str {
    match (column.ty, column.encoding) {
        (ColumnType::Date, _) => "2026-01-31",
        (ColumnType::Time, _) => "10:30:00",
        (ColumnType::Timestamp, _) => "2026-01-31T10:30:00Z",
        (ColumnType::Uuid, _) => "00000000-0000-4000-8000-000000000000",
        (ColumnType::Decimal, _) => "1",
        (ColumnType::Json, _) => "{}",
        // Base64 as well as hex.
        (ColumnType::Blob, _) => "AAAA",
        _ => "x",
    }
}

fn own_field(root: Root, column: &Column) -> Expression {
    Expression::Path(Path { root, fields: vec![column.name.clone()] })
}

fn described(shape: &Shape) -> String {
    let kinds: Vec<&str> = shape.0.iter().map(|kind| kind.name()).collect();
    format!("is {}", kinds.join(" or "))
}
