//! `schema` and `upcast`: versions of a topic's events.

use std::collections::BTreeMap;

use crate::config::expression::{ExpressionError, parse, parse_path};
use crate::config::fields::{Fields, Given, entries, few, items, scalar, scalar_text};
use crate::config::lift::{lift, lift_element, lift_program};
use crate::config::model::{
    Change, Column, Evolution, Expression, Format, Mapping, Path, Root, Rule, Table, TableSource, Topic,
    Unknown, Upcast, UpcastRule,
};
use crate::config::problem::{Place, Problem, Report};
use crate::config::scalar::{text, word};
use crate::config::sections::{SCHEMA, UPCAST};
use crate::config::tree::Node;
use crate::config::words::Word as _;
use crate::jq::Wrong;

use super::columns::wrong_expression;
use super::sources::source;

const UPCASTS_MAX: usize = 100;

/// `schema`, before the steps are known.
#[derive(Debug, Clone)]
pub(super) struct Schema {
    pub version: Expression,
    pub version_place: Place,
    current: Given<String>,
    missing: Option<Given<String>>,
    unknown: Unknown,
}

impl PartialEq for Schema {
    /// Wherever it was written.
    fn eq(&self, other: &Schema) -> bool {
        let missing = |schema: &Schema| schema.missing.as_ref().map(|given| given.value.clone());
        self.version == other.version
            && self.current.value == other.current.value
            && missing(self) == missing(other)
            && self.unknown == other.unknown
    }
}

#[derive(Debug, Clone)]
pub(super) struct Upcasts {
    list: Vec<(Upcast, Place)>,
}

impl PartialEq for Upcasts {
    fn eq(&self, other: &Upcasts) -> bool {
        self.list.iter().map(|(upcast, _)| upcast).eq(other.list.iter().map(|(upcast, _)| upcast))
    }
}

impl Schema {
    pub fn with(self, upcasts: Option<Upcasts>) -> Evolution {
        let upcasts = upcasts.map(|upcasts| upcasts.list).unwrap_or_default();
        Evolution {
            version: self.version,
            current: self.current.value,
            missing: self.missing.map(|given| given.value),
            unknown: self.unknown,
            upcasts: upcasts.into_iter().map(|(upcast, _)| upcast).collect(),
        }
    }
}

impl Upcasts {
    /// What they read, and where each upcast is.
    pub fn expressions(&self) -> impl Iterator<Item = (&Expression, &Place)> {
        self.list.iter().flat_map(|(upcast, place)| upcast.expressions().map(move |from| (from, place)))
    }
}

pub(super) fn lower_schema(report: &mut Report, node: &Node) -> Option<Given<Schema>> {
    let fields = Fields::open(report, node, &SCHEMA)?;
    let version = fields.require(report, "version").and_then(|node| {
        source(report, node, |from| match from {
            Expression::Path(Path { root: Root::Row | Root::Event | Root::Headers | Root::Schema, fields })
                if !fields.is_empty() =>
            {
                Ok(())
            }
            Expression::Path(_) => Err(
                "expected a path to a field of the event, such as `.schema`, to a header, `$headers.schema`, or `$schema.version`",
            ),
            _ => Ok(()),
        })
    });
    let current = fields.value(report, "current", text);
    let missing = fields.get("missing").map(|node| scalar(report, node, text));
    let unknown = fields.value(report, "unknown", word::<Unknown>);
    let version = version?;
    let value = Schema {
        version: version.value,
        version_place: version.place,
        current: current?,
        missing: match missing {
            Some(missing) => Some(missing?),
            None => None,
        },
        unknown: unknown?.value,
    };
    Some(Given { value, place: node.place.clone() })
}

pub(super) fn lower_upcasts(report: &mut Report, node: &Node) -> Option<Given<Upcasts>> {
    let list = items(report, node, "`upcast`")?;
    if !few(report, node, list, UPCASTS_MAX, "upcasts") {
        return None;
    }
    let found: Vec<_> = list.iter().filter_map(|node| lower_upcast(report, node)).collect();
    let complete = found.len() == list.len();
    complete.then(|| Given { value: Upcasts { list: found }, place: node.place.clone() })
}

fn lower_upcast(report: &mut Report, node: &Node) -> Option<(Upcast, Place)> {
    let fields = Fields::open(report, node, &UPCAST)?;
    let (from, to) = (fields.value(report, "from", text), fields.value(report, "to", text));
    let events = match fields.get("events") {
        None => Some(None),
        Some(node) => {
            let list = items(report, node, "`events`")?;
            let types: Option<Vec<String>> =
                list.iter().map(|item| scalar(report, item, text).map(|given| given.value)).collect();
            types.map(Some)
        }
    };
    let mut rules: Vec<(UpcastRule, Place)> = Vec::new();
    let mut complete = true;
    for key in ["rename", "default", "set"] {
        let Some(node) = fields.get(key) else { continue };
        for entry in entries(report, node, &format!("`{key}`")).unwrap_or_default() {
            let target = row_path(report, &entry.key, &entry.key_place);
            let change = match key {
                "rename" => scalar_text(report, &entry.value)
                    .and_then(|old| row_path(report, old, &entry.value.place))
                    .map(Change::Rename),
                "default" => value(report, &entry.value).map(Change::Default),
                _ => value(report, &entry.value).map(Change::Set),
            };
            match (target, change) {
                (Some(target), Some(change)) => {
                    rules.push((UpcastRule { target, change }, entry.key_place.clone()));
                }
                _ => complete = false,
            }
        }
    }
    check_targets(report, &rules);
    if rules.is_empty() && complete {
        report.error(&node.place, "an upcast needs `rename`, `default` or `set`");
    }
    let rules = rules.into_iter().map(|(rule, _)| rule).collect();
    let upcast = Upcast { from: from?.value, to: to?.value, events: events?, rules };
    complete.then(|| (upcast, node.place.clone()))
}

/// A path from `.` to a field.
fn row_path(report: &mut Report, text: &str, place: &Place) -> Option<Vec<String>> {
    match parse_path(text) {
        Ok(Path { root: Root::Row, fields }) if !fields.is_empty() => return Some(fields),
        Ok(_) => {
            let message = "expected a path to a field, such as `.order.total`";
            report.push(Problem::new(place, message).about(text));
        }
        Err(error) => report.push(Problem::new(place, error.to_string()).about(text)),
    }
    None
}

fn value(report: &mut Report, node: &Node) -> Option<Expression> {
    let text = match scalar_text(report, node)? {
        "~" => {
            report.error(&node.place, ExpressionError::Empty.to_string());
            return None;
        }
        text => text,
    };
    match parse(text) {
        Ok(value) => Some(value),
        Err(error) => {
            report.push(wrong_expression(node, text, &error));
            None
        }
    }
}

/// No rule's target may be, or lie below, that of another: which one counts could not be told.
fn check_targets(report: &mut Report, rules: &[(UpcastRule, Place)]) {
    for (index, (rule, place)) in rules.iter().enumerate() {
        let clash = rules.iter().take(index).find(|(earlier, _)| {
            earlier.target.starts_with(&rule.target) || rule.target.starts_with(&earlier.target)
        });
        if let Some((earlier, _)) = clash {
            let path = |fields: &[String]| Path { root: Root::Row, fields: fields.to_vec() }.to_string();
            let message = format!("is, or is a part of, what another rule gives: {}", path(&earlier.target));
            report.push(Problem::new(place, message).about(&path(&rule.target)));
        }
    }
}

/// What `schema` and `upcast` of a topic have to do with each other and with the rest.
pub(super) fn check(
    report: &mut Report,
    topic: &str,
    format: Format,
    (schema, upcasts): (Option<&Given<Schema>>, Option<&Given<Upcasts>>),
    types: &[&str],
) {
    let Some(schema) = schema else {
        if let Some(upcasts) = upcasts {
            report.error(&upcasts.place, "`upcast` needs `schema: { version: …, current: … }`");
        }
        return;
    };
    if matches!(format, Format::Raw) || format.is_debezium() || format.is_mysql() {
        let message = format!(
            "`schema` cannot be given for `{topic}`: records in the format `{}` have no versions of their own",
            format.word()
        );
        report.error(&schema.place, message);
        return;
    }
    let none = Vec::new();
    let list = upcasts.map_or(&none, |upcasts| &upcasts.value.list);
    let current = &schema.value.current.value;
    for (index, (upcast, place)) in list.iter().enumerate() {
        if list.iter().take(index).any(|(earlier, _)| earlier.from == upcast.from) {
            report.error(place, format!("another upcast begins with version `{}`", upcast.from));
        }
        if upcast.from == *current {
            report.error(place, format!("the current version is `{current}`: nothing comes behind it"));
        }
        check_way(report, upcast, place, list, current);
        for event in upcast.events.iter().flatten().filter(|event| !types.contains(&event.as_str())) {
            let problem = Problem::new(place, format!("no table of `{topic}` names this event type"));
            report.push(problem.about(event).suggest(event, types.iter().copied()));
        }
    }
    if let Some(missing) = &schema.value.missing
        && missing.value != *current
        && !list.iter().any(|(upcast, _)| upcast.from == missing.value)
    {
        let known = list.iter().map(|(upcast, _)| upcast.from.as_str()).chain([current.as_str()]);
        let problem = Problem::new(&missing.place, "is neither the current version nor one that is upcast");
        report.push(problem.about(&missing.value).suggest(&missing.value, known));
    }
}

/// From every version there has to be a way to the current one.
fn check_way(report: &mut Report, upcast: &Upcast, place: &Place, list: &[(Upcast, Place)], current: &str) {
    let mut at = upcast.to.as_str();
    for _ in 0..=list.len() {
        if at == current {
            return;
        }
        match list.iter().find(|(next, _)| next.from == at) {
            Some((next, _)) => at = &next.to,
            None => {
                let message = format!("no upcast leads from version `{at}` to the current one, `{current}`");
                report.error(place, message);
                return;
            }
        }
    }
    report.error(place, format!("the upcasts from version `{}` go round in a circle", upcast.from));
}

/// Whether everything that a mapping reads can be read of every version.
pub(super) fn check_lifts(
    report: &mut Report,
    places: &BTreeMap<String, Place>,
    topics: &[Topic],
    tables: &[Table],
) {
    for table in tables {
        for source in &table.sources {
            let Some(topic) = topics.get(source.topic) else { continue };
            let (Some(evolution), Some(place)) = (&topic.evolution, places.get(&topic.name)) else {
                continue;
            };
            if let Some((version, what, wrong)) = first_wrong(evolution, topic, table, source) {
                let message = format!(
                    "{what} of the table `{}` cannot be read of version `{version}`: {}",
                    table.name, wrong.message
                );
                report.error(place, message);
            }
        }
    }
}

fn first_wrong<'e>(
    evolution: &'e Evolution,
    topic: &Topic,
    table: &Table,
    source: &TableSource,
) -> Option<(&'e str, String, Wrong)> {
    let row_is_event = topic.format.row_is_event();
    for (version, steps) in evolution.versions() {
        let check = |what: String, expression: &Expression, event: Option<&str>| {
            lift(&steps, expression, event, row_is_event).err().map(|wrong| (version, what, wrong))
        };
        let column = |index: usize| format!("the column `{}`", table.columns[index].name);
        let own = |column: &Column| {
            let field = || Expression::Path(Path { root: Root::Row, fields: vec![column.name.clone()] });
            column.from.clone().unwrap_or_else(field)
        };
        for (index, found) in table.columns.iter().enumerate() {
            if let Some(wrong) = check(column(index), &own(found), None) {
                return Some(wrong);
            }
        }
        let of_topic = [
            ("`version`", topic.version.as_ref()),
            ("`event_type`", topic.event_type.as_ref()),
            ("`event_id`", topic.event_ids.as_ref().map(|ids| &ids.source)),
        ];
        for (what, from) in of_topic {
            if let Some(wrong) = from.and_then(|from| check(what.to_owned(), from, None)) {
                return Some(wrong);
            }
        }
        let Mapping::Events(rules) = &source.mapping else { continue };
        for (event, rule) in rules {
            let columns = match rule {
                Rule::Upsert { columns } | Rule::Patch { columns, .. } | Rule::Delete { key: columns } => {
                    columns
                }
                Rule::Replace { prefix, each, row } => {
                    if let Some(wrong) = check("`each`".to_owned(), each, Some(event)) {
                        return Some(wrong);
                    }
                    for (&index, from) in prefix {
                        if let Some(wrong) = check(column(index), from, Some(event)) {
                            return Some(wrong);
                        }
                    }
                    for (&index, from) in row {
                        if let Err(wrong) = lift_element(&steps, from, Some(event), row_is_event) {
                            return Some((version, column(index), wrong));
                        }
                    }
                    continue;
                }
            };
            for (index, found) in table.columns.iter().enumerate() {
                let from = columns.get(&index).cloned().unwrap_or_else(|| own(found));
                if let Some(wrong) = check(column(index), &from, Some(event)) {
                    return Some(wrong);
                }
            }
        }
        let conditions = source.when.events.iter().map(|(event, when)| (when, Some(event.as_str())));
        for (when, event) in source.when.rows.iter().map(|when| (when, None)).chain(conditions) {
            if let Err(wrong) = lift_program(&steps, &when.text, event, row_is_event) {
                return Some((version, "`when`".to_owned(), wrong));
            }
        }
    }
    None
}
