//! From the configuration to one [`TopicPlan`] per topic.

use std::collections::{BTreeMap, HashMap};

use super::condition::{Condition, Test};
use super::convert::{Refusal, Target, convert};
use super::elements::Elements;
use super::event_id::IdSource;
use super::face::{Face, Filter, OldKey, TableRows, VersionSource};
use super::program::{Around, Calculated, KeyAs, RowAs, short};
use super::protection::{HashKey, Protection};
use super::row::{Assignment, Row, Source};
use super::schema::Versions;
use super::topic::TopicPlan;
use super::types::{TableRule, Types};
use crate::config::lift::{Lifted, lift, lift_element, lift_program};
use crate::config::{
    self, Column, Config, Encoding, Expression, Format, Jq, KeyFormat, Mapping, Path, Personal, Root, Rule,
    Snapshots, Table, TableSource, Topic, Upcast,
};
use crate::decode::registry::Registry;
use crate::decode::{Decoder, Field, Placeholder, SCHEMA_FIELD, TYPE_FIELD, Wanted, deleted_row, path_text};
use crate::domain::change::{Cleared, IfMissing, Operation};
use crate::domain::dead_letter::Reason;
use crate::domain::event_ids::EventIds;
use crate::domain::value::{ColumnType, Value};
use crate::jq::condition;

/// What a mapping takes from elsewhere than the configuration.
pub(super) struct Outside<'a> {
    pub registry: Option<&'a Registry>,
    pub key: Option<&'a HashKey>,
}

pub(super) fn topic(config: &Config, index: usize, outside: &Outside<'_>) -> TopicPlan {
    let topic = &config.topics[index];
    let mut compiler = Compiler {
        topic,
        wanted: Wanted::default(),
        row_is_before: false,
        element: None,
        key: outside.key,
        steps: Vec::new(),
        event: None,
    };
    let mut faces = Vec::new();
    let mut versions = None;
    if let Some(evolution) = &topic.evolution {
        let mut indexes = HashMap::new();
        for (version, steps) in evolution.versions() {
            indexes.insert(version.to_owned(), faces.len());
            compiler.steps = steps;
            faces.push(compiler.face(config, index));
        }
        compiler.steps = Vec::new();
        versions = Some(Versions {
            source: compiler.source(&evolution.version, compiler.has_text_keys()),
            path: text_of(&evolution.version),
            missing: evolution.missing.as_ref().and_then(|version| indexes.get(version)).copied(),
            faces: indexes,
            unknown: evolution.unknown,
        });
    } else {
        faces.push(compiler.face(config, index));
    }
    let event_ids = topic.event_ids.as_ref().map(|ids| EventIds::new(ids.window));
    let decoder = Decoder::compile(topic, &compiler.wanted, outside.registry);
    TopicPlan::new(decoder, faces, versions, event_ids)
}

fn envelope_type(format: Format) -> &'static str {
    match format {
        Format::CloudEvents => "type",
        Format::Avro | Format::Protobuf => TYPE_FIELD,
        _ => "op",
    }
}

/// How many columns of its key a table's rows are cleared by; see [`crate::domain::catalog::Table::prefixes`].
pub(super) fn prefixes(table: &Table) -> Vec<usize> {
    let rules = table.sources.iter().filter_map(|source| match &source.mapping {
        Mapping::Rows => None,
        Mapping::Events(rules) => Some(rules.values()),
    });
    let mut prefixes: Vec<usize> = rules.flatten().filter_map(|rule| rule.prefix(table)).collect();
    prefixes.sort_unstable();
    prefixes.dedup();
    prefixes
}

struct At<'a> {
    table: &'a Table,
    index: usize,
    source: &'a TableSource,
}

struct Compiler<'a> {
    topic: &'a Topic,
    wanted: Wanted,
    /// For programs: `.` is the row as it was before it was deleted.
    row_is_before: bool,
    /// The paths that are read of the element of a list, while what its rows are made of is compiled.
    element: Option<Vec<Path>>,
    /// Of hashes.
    key: Option<&'a HashKey>,
    /// From the version that is compiled to the current one.
    steps: Vec<&'a Upcast>,
    /// The event type that is compiled.
    event: Option<String>,
}

impl Compiler<'_> {
    /// What the events of one version of the topic's schema do.
    fn face(&mut self, config: &Config, index: usize) -> Face {
        let topic = self.topic;
        let mut rows = Vec::new();
        let mut rules = RulesByType::new();
        let mut has_events = false;
        for (table_index, table) in config.tables.iter().enumerate() {
            for source in table.sources.iter().filter(|source| source.topic == index) {
                let at = At { table, index: table_index, source };
                match &source.mapping {
                    Mapping::Rows => rows.push(self.rows(&at)),
                    Mapping::Events(by_type) => {
                        has_events = true;
                        for (event, rule) in by_type {
                            self.event = Some(event.clone());
                            rules.entry(event.clone()).or_default().push(self.rule(&at, event, rule));
                        }
                        self.event = None;
                    }
                }
            }
        }
        let events = has_events.then(|| {
            // A format with an envelope has its own idea of a type.
            let of_envelope = || {
                let fields = vec![envelope_type(topic.format).to_owned()];
                Expression::Path(Path { root: Root::Event, fields })
            };
            let from = topic.event_type.clone().unwrap_or_else(of_envelope);
            Types {
                source: self.source(&from, self.has_text_keys()),
                path: text_of(&from),
                rules,
                ignore: topic.ignore.iter().cloned().collect(),
                otherwise: topic.otherwise,
            }
        });
        let version = match &topic.version {
            Some(from) => {
                let source = self.source(from, self.has_text_keys());
                VersionSource::Path { source, path: text_of(from) }
            }
            None if topic.has_own_order() => VersionSource::Format,
            None => VersionSource::Position,
        };
        let event_id = topic.event_ids.as_ref().map(|ids| IdSource {
            source: self.source(&ids.source, self.has_text_keys()),
            path: text_of(&ids.source),
        });
        Face { version, rows, events, event_id }
    }

    fn rows(&mut self, at: &At<'_>) -> TableRows {
        let none = BTreeMap::new();
        let upsert = self.row(at, |compiler, index, column| {
            Some(compiler.assignment(at, index, &own(&none, index, column)))
        });
        let delete = self.row(at, |compiler, index, column| {
            at.table.key.contains(&index).then(|| compiler.deleted_key(at, index, column))
        });
        let format = self.topic.format;
        let of_before = |compiler: &mut Self| {
            compiler.row(at, |compiler, index, column| {
                let from = match own(&none, index, column) {
                    Expression::Path(Path { root: Root::Row, fields }) => {
                        Expression::Path(deleted_row(&fields))
                    }
                    other => other,
                };
                at.table.key.contains(&index).then(|| {
                    compiler.row_is_before = true;
                    let assignment = compiler.assignment(at, index, &from);
                    compiler.row_is_before = false;
                    assignment
                })
            })
        };
        let deleted = match format {
            format if format.has_before_and_after() => Some(of_before(self)),
            format if format.is_debezium() || format.is_mysql() => Some(self.key_row(at, &none)),
            _ => None,
        };
        let old = format.is_mysql().then(|| self.old_key(at));
        let [origin, when] = parts_of(format, at.source.when.rows.as_ref());
        let origin = origin.map(|origin| self.condition(&origin, self.has_text_key(at)));
        let filter = when.map(|when| Filter {
            when: self.condition(&when, self.has_text_key(at)),
            unwanted: self.key_row(at, &none),
        });
        let hears_snapshots = at.table.sources.len() == 1 && self.topic.snapshots == Snapshots::Sweep;
        TableRows {
            upsert,
            delete,
            deleted,
            has_deleted: format.is_mysql(),
            old,
            origin,
            filter,
            hears_snapshots,
            sources: at.table.sources.len(),
            key: at.table.key.clone(),
        }
    }

    /// The key that a row had before an update, where that has changed it.
    fn old_key(&mut self, at: &At<'_>) -> OldKey {
        let mut changed = Vec::new();
        let row = self.row(at, |compiler, index, column| {
            if !at.table.key.contains(&index) {
                return None;
            }
            let from = own(&BTreeMap::new(), index, column);
            let mut assignment = compiler.assignment(at, index, &from);
            if let Expression::Path(Path { root: Root::Row, fields }) = &from {
                let fields = std::iter::once("old".to_owned()).chain(fields.iter().cloned()).collect();
                let was = slot(&mut compiler.wanted.value, &Path { root: Root::Event, fields });
                changed.push(was);
                assignment.source = Source::Or(Box::new(Source::Value(was)), Box::new(assignment.source));
            }
            Some(assignment)
        });
        OldKey { row, changed }
    }

    fn rule(&mut self, at: &At<'_>, event: &str, rule: &Rule) -> TableRule {
        let when = at.source.when.events.get(event);
        let when = when.map(|when| self.condition(when, self.has_text_key(at)));
        match rule {
            Rule::Upsert { columns } => TableRule {
                operation: Operation::Write { if_missing: IfMissing::default() },
                row: self.row(at, |compiler, index, column| {
                    Some(compiler.assignment(at, index, &own(columns, index, column)))
                }),
                unwanted: when.is_some().then(|| (Operation::Delete, self.key_row(at, columns))),
                elements: None,
                when,
            },
            Rule::Patch { columns, if_missing } => TableRule {
                operation: Operation::Write { if_missing: *if_missing },
                row: self.row(at, |compiler, index, column| {
                    let named = columns.contains_key(&index) || at.table.key.contains(&index);
                    named.then(|| compiler.assignment(at, index, &own(columns, index, column)))
                }),
                elements: None,
                when,
                unwanted: None,
            },
            Rule::Delete { key } => {
                let (operation, row) = match rule.prefix(at.table) {
                    None => (Operation::Delete, self.key_row(at, key)),
                    Some(columns) => (Operation::Clear(Cleared::Deleted), self.prefix_row(at, key, columns)),
                };
                TableRule { operation, row, elements: None, when, unwanted: None }
            }
            Rule::Replace { prefix, each, row } => {
                let cleared = |compiler: &mut Self| compiler.prefix_row(at, prefix, prefix.len());
                let unwanted = when.is_some().then(|| (Operation::Clear(Cleared::Deleted), cleared(self)));
                TableRule {
                    operation: Operation::Clear(Cleared::Replaced),
                    row: cleared(self),
                    elements: Some(self.elements(at, prefix, each, row)),
                    when,
                    unwanted,
                }
            }
        }
    }

    fn elements(
        &mut self,
        at: &At<'_>,
        prefix: &BTreeMap<usize, Expression>,
        each: &Expression,
        row: &BTreeMap<usize, Expression>,
    ) -> Elements {
        let list = self.source(each, self.has_text_key(at));
        let mut paths = Vec::new();
        let row = self.row(at, |compiler, index, column| {
            Some(match prefix.get(&index) {
                Some(from) => compiler.assignment(at, index, from),
                None => {
                    compiler.element = Some(std::mem::take(&mut paths));
                    let assignment = compiler.assignment(at, index, &own(row, index, column));
                    paths = compiler.element.take().unwrap_or_default();
                    assignment
                }
            })
        });
        Elements::new((list, text_of(each)), &paths, (row, at.table.key.clone()))
    }

    /// The first columns of the key alone.
    fn prefix_row(&mut self, at: &At<'_>, from: &BTreeMap<usize, Expression>, columns: usize) -> Row {
        let prefix = &at.table.key[..columns.min(at.table.key.len())];
        self.row(at, |compiler, index, column| {
            prefix.contains(&index).then(|| compiler.assignment(at, index, &own(from, index, column)))
        })
    }

    /// The key columns alone, from the value of an event.
    fn key_row(&mut self, at: &At<'_>, from: &BTreeMap<usize, Expression>) -> Row {
        self.row(at, |compiler, index, column| {
            let is_key = at.table.key.contains(&index);
            is_key.then(|| compiler.assignment(at, index, &own(from, index, column)))
        })
    }

    fn condition(&mut self, condition: &config::Condition, text_key: bool) -> Condition {
        let test = match &condition.test {
            config::Test::Simple(simple) => self.test(simple, text_key),
            config::Test::Jq(program) => {
                let row_is_event = self.topic.format.row_is_event();
                let lifted = lift_program(&self.steps, &program.text, self.event.as_deref(), row_is_event);
                // Looked at when the configuration was checked.
                Test::Program(Box::new(self.calculated(lifted.as_ref().unwrap_or(program), text_key)))
            }
        };
        Condition { test, text: short(&condition.text) }
    }

    fn test(&mut self, condition: &condition::Condition, text_key: bool) -> Test {
        use condition::Condition as Simple;
        let mut from = |from: &condition::From| {
            let root = from.variable.unwrap_or(".");
            let root = Root::ALL.into_iter().find(|known| known.name() == root).unwrap_or(Root::Row);
            self.source(&Expression::Path(Path { root, fields: from.fields.clone() }), text_key)
        };
        match condition {
            Simple::Is(path) => Test::Is(from(path)),
            Simple::Compare(path, comparison, constant) => {
                Test::Compare(from(path), *comparison, constant.clone())
            }
            Simple::Not(inner) => Test::Not(Box::new(self.test(inner, text_key))),
            Simple::All(list) => Test::All(list.iter().map(|each| self.test(each, text_key)).collect()),
            Simple::Any(list) => Test::Any(list.iter().map(|each| self.test(each, text_key)).collect()),
        }
    }

    fn row(
        &mut self,
        at: &At<'_>,
        mut each: impl FnMut(&mut Self, usize, &Column) -> Option<Assignment>,
    ) -> Row {
        let columns = at.table.columns.iter().enumerate();
        let assignments: Vec<_> = columns.map(|(index, column)| each(self, index, column)).collect();
        Row::new(at.index, assignments)
    }

    fn assignment(&mut self, at: &At<'_>, index: usize, from: &Expression) -> Assignment {
        let mut target = self.target(at, index);
        let column = &at.table.columns[index];
        let protection = match column.personal {
            Some(Personal::Hash) => self.key.cloned().map(Protection::Hash),
            Some(Personal::Mask) => Some(Protection::Mask { show_last: column.show_last }),
            _ => None,
        };
        // Never in clear: without its key a hash is nothing, and nothing is read to be dropped.
        let nothing = match column.personal {
            Some(Personal::Drop) => Some(Ok(Value::Null)),
            Some(Personal::Hash) if protection.is_none() => {
                Some(Err(Refusal::new(Reason::WrongType, "cannot be hashed: there is no key")))
            }
            _ => None,
        };
        let source = match (nothing, self.lifted(from)) {
            (Some(value), _) => Source::Literal(value),
            (None, Ok(Lifted::Plain(Expression::Literal(text)))) => {
                target.json_in_text = false;
                let field = Field::Json(text.trim());
                // Converted once. A literal that does not fit is refused when the configuration is
                // checked; should one get here, every event that uses it says so.
                Source::Literal(match &protection {
                    Some(protection) => protection.convert(field, &target),
                    None => convert(field, &target),
                })
            }
            (None, Ok(lifted)) => {
                // jq gives values, not the text that a database holds.
                target.json_in_text &= !matches!(lifted, Lifted::Plain(Expression::Jq(_)));
                self.source_of(&lifted, self.has_text_key(at))
            }
            (None, Err(refusal)) => Source::Literal(Err(refusal)),
        };
        Assignment { source, path: text_of(from), target, protection }
    }

    /// Where a key column of a deleted row stands: in the record key.
    fn deleted_key(&mut self, at: &At<'_>, index: usize, column: &Column) -> Assignment {
        let key = |fields: Vec<String>| Expression::Path(Path { root: Root::Key, fields });
        if let Some(from) = at.source.key_from.get(&index) {
            return self.assignment(at, index, from);
        }
        let from_envelope = |path: &Path| {
            self.topic.format.has_before_and_after()
                && !matches!(path.fields.first().map(String::as_str), None | Some("before" | "after"))
        };
        match &column.from {
            Some(literal @ Expression::Literal(_)) => self.assignment(at, index, literal),
            Some(program @ Expression::Jq(_)) if !program.reads_value() => {
                self.assignment(at, index, program)
            }
            Some(Expression::Path(path)) if path.root == Root::Key || path.root.is_metadata() => {
                self.assignment(at, index, &Expression::Path(path.clone()))
            }
            Some(Expression::Path(path)) if path.root == Root::Event && from_envelope(path) => {
                self.assignment(at, index, &Expression::Path(path.clone()))
            }
            // The record key has the source's names.
            Some(Expression::Path(path)) if path.root == Root::Row && self.topic.format.is_debezium() => {
                self.assignment(at, index, &key(path.fields.clone()))
            }
            Some(Expression::Path(path))
                if path.root == Root::Row && self.topic.format == Format::Maxwell =>
            {
                self.assignment(at, index, &key(vec![format!("pk.{}", path.fields.join("."))]))
            }
            None if self.topic.format == Format::Maxwell => {
                self.assignment(at, index, &key(vec![format!("pk.{}", column.name)]))
            }
            _ if self.has_text_key(at) => self.assignment(at, index, &key(Vec::new())),
            _ => {
                let mut assignment = self.assignment(at, index, &key(vec![column.name.clone()]));
                if at.table.key.len() == 1
                    && let Source::Key(field) = assignment.source
                {
                    let whole = self.key_slot(&Path { root: Root::Key, fields: Vec::new() });
                    assignment.source = Source::KeyFieldOrWhole { field, whole };
                }
                assignment
            }
        }
    }

    /// `key_format`, or its default: text for one key column of a `json` topic, else JSON.
    fn has_text_key(&self, at: &At<'_>) -> bool {
        self.topic.key_format_of(at.table.key.len()) == KeyFormat::Text
    }

    /// The same, where no table is asked.
    fn has_text_keys(&self) -> bool {
        self.topic.key_format_of(1) == KeyFormat::Text
    }

    fn source(&mut self, from: &Expression, text_key: bool) -> Source {
        match self.lifted(from) {
            Ok(lifted) => self.source_of(&lifted, text_key),
            Err(refusal) => Source::Literal(Err(refusal)),
        }
    }

    /// What an expression is for the version that is compiled.
    fn lifted(&self, from: &Expression) -> Result<Lifted, Refusal> {
        let row_is_event = self.topic.format.row_is_event();
        let lift = if self.element.is_some() { lift_element } else { lift };
        // Looked at when the configuration was checked.
        lift(&self.steps, from, self.event.as_deref(), row_is_event)
            .map_err(|wrong| Refusal::new(Reason::Expression, wrong.message))
    }

    fn source_of(&mut self, lifted: &Lifted, text_key: bool) -> Source {
        match lifted {
            Lifted::Absent => Source::Nothing,
            Lifted::Plain(Expression::Path(path)) => self.path(path, text_key),
            Lifted::Plain(Expression::Jq(program)) => self.program(program, text_key),
            Lifted::Plain(Expression::Literal(text)) => Source::Constant(text.clone()),
            Lifted::Or(first, second) => {
                let (first, second) = (self.source_of(first, text_key), self.source_of(second, text_key));
                Source::Or(Box::new(first), Box::new(second))
            }
        }
    }

    fn program(&mut self, program: &Jq, text_key: bool) -> Source {
        Source::Jq(Box::new(self.calculated(program, text_key)))
    }

    fn calculated(&mut self, program: &Jq, text_key: bool) -> Calculated {
        let reads = &program.reads;
        let root = |root: Root| Path { root, fields: Vec::new() };
        let row = match (reads.row.is_empty(), &self.element, self.row_is_before) {
            (true, ..) => RowAs::Nothing,
            (false, Some(_), _) => RowAs::Element,
            (false, None, true) => RowAs::Before(slot(&mut self.wanted.value, &deleted_row(&[]))),
            (false, None, false) => RowAs::Slot(slot(&mut self.wanted.value, &root(Root::Row))),
        };
        let around = Around {
            topic: self.topic.name.clone(),
            row,
            event: (!reads.event.is_empty()).then(|| slot(&mut self.wanted.value, &root(Root::Event))),
            row_is_event: self.topic.format.row_is_event(),
            key: match (reads.names("$key"), text_key) {
                (false, _) => KeyAs::Nothing,
                (true, true) => KeyAs::Text,
                (true, false) => KeyAs::Slot(self.key_slot(&root(Root::Key))),
            },
            placeholder: self.topic.format.is_debezium().then(|| Placeholder::new(&self.topic.placeholder)),
        };
        Calculated::new(program, around)
    }

    fn path(&mut self, path: &Path, text_key: bool) -> Source {
        match path.root {
            Root::Key if path.fields.is_empty() && text_key => Source::TextKey,
            Root::Key => Source::Key(self.key_slot(path)),
            Root::Row | Root::Event => match &mut self.element {
                Some(paths) if path.root == Root::Row => Source::Element(slot(paths, path)),
                _ => Source::Value(slot(&mut self.wanted.value, path)),
            },
            Root::Topic => Source::Topic(self.topic.name.clone()),
            Root::Partition => Source::Partition,
            Root::Offset => Source::Offset,
            Root::Timestamp => Source::Timestamp,
            // Decoders have it as fields that no event can have.
            Root::Schema => match path.fields.first().map(String::as_str) {
                Some("name") => self.event_slot(&[TYPE_FIELD]),
                Some(fact) => self.event_slot(&[SCHEMA_FIELD, fact]),
                None => Source::Nothing,
            },
            Root::Headers => match path.fields.first() {
                Some(name) => Source::Header(name.clone()),
                None => Source::Headers,
            },
        }
    }

    fn event_slot(&mut self, fields: &[&str]) -> Source {
        let fields = fields.iter().map(|&field| field.to_owned()).collect();
        Source::Value(slot(&mut self.wanted.value, &Path { root: Root::Event, fields }))
    }

    fn key_slot(&mut self, path: &Path) -> usize {
        slot(&mut self.wanted.key, path)
    }

    fn target(&self, at: &At<'_>, index: usize) -> Target {
        let column = &at.table.columns[index];
        let debezium = self.topic.format.is_debezium();
        let days = (debezium && column.ty == ColumnType::Date).then_some(Encoding::Days);
        let key = at.table.key.contains(&index);
        Target {
            ty: column.ty,
            nullable: column.nullable && !key,
            key,
            encoding: column.encoding.or(days),
            json_in_text: debezium,
            is_mysql: self.topic.format.is_mysql(),
        }
    }
}

/// What a rule says of a column, else what the column says, else the field of its own name.
fn own(rule: &BTreeMap<usize, Expression>, index: usize, column: &Column) -> Expression {
    rule.get(&index)
        .or(column.from.as_ref())
        .cloned()
        .unwrap_or_else(|| Expression::Path(Path { root: Root::Row, fields: vec![column.name.clone()] }))
}

/// An expression as messages name it.
pub(super) fn text_of(from: &Expression) -> String {
    match from {
        Expression::Path(path) => path_text(path),
        Expression::Literal(text) => text.clone(),
        Expression::Jq(program) => short(&program.text),
    }
}

fn slot(wanted: &mut Vec<Path>, path: &Path) -> usize {
    wanted.iter().position(|known| known == path).unwrap_or_else(|| {
        wanted.push(path.clone());
        wanted.len() - 1
    })
}

/// Rules by event type.
pub(super) type RulesByType = HashMap<String, Vec<TableRule>>;

/// What a condition says of where a record comes from, and what it says of the row.
fn parts_of(format: Format, when: Option<&config::Condition>) -> [Option<config::Condition>; 2] {
    let Some(config::Condition { text, test }) = when else { return [None, None] };
    let config::Test::Simple(simple) = test else { return [None, when.cloned()] };
    let parts = simple.clone().split(&|from| is_of_origin(format, from));
    parts.map(|part| {
        part.map(|part| config::Condition { text: text.clone(), test: config::Test::Simple(part) })
    })
}

/// Whether a path names the source table of a record, its database or its schema.
fn is_of_origin(format: Format, from: &condition::From) -> bool {
    const DEBEZIUM: [&str; 5] = ["table", "schema", "db", "name", "connector"];
    const FLAT: [&str; 6] =
        ["__table", "__schema", "__db", "__source_table", "__source_schema", "__source_db"];
    let fields: Vec<&str> = from.fields.iter().map(String::as_str).collect();
    match (from.variable, &fields[..]) {
        (Some("$event"), ["table" | "database"]) => format.is_mysql(),
        (Some("$event"), ["source", field]) => format.has_before_and_after() && DEBEZIUM.contains(field),
        (None | Some("$event"), [field]) => format.is_flattened() && FLAT.contains(field),
        _ => false,
    }
}
