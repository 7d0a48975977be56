//! `events`: what an event of a type does to one table.

use std::collections::BTreeMap;

use crate::config::fields::{Fields, Given, entries};
use crate::config::model::{Condition, Expression, Rule};
use crate::config::problem::{Place, Problem, Report};
use crate::config::scalar::word;
use crate::config::sections::RULE;
use crate::config::tree::{Entry, Node};
use crate::domain::change::IfMissing;

use super::columns::{Columns, condition};
use super::sources::source;

/// What the rules of a table are checked against.
pub(super) struct Target<'a> {
    pub columns: &'a Columns,
    /// Column indexes.
    pub key: &'a [usize],
}

/// Rules and conditions by event type, as far as they could be read, and the types with their places.
pub(super) type Rules = (BTreeMap<String, Rule>, BTreeMap<String, Condition>, Given<Vec<Given<String>>>);

pub(super) fn lower(report: &mut Report, node: &Node, target: &Target) -> Rules {
    let mut rules = BTreeMap::new();
    let mut conditions = BTreeMap::new();
    let mut types = Vec::new();
    let entries = entries(report, node, "`events`");
    if entries.is_some_and(<[Entry]>::is_empty) {
        report.error(&node.place, "`events` needs at least one event type");
    }
    for entry in entries.unwrap_or_default() {
        types.push(Given { value: entry.key.clone(), place: entry.key_place.clone() });
        let Some(fields) = Fields::open(report, &entry.value, &RULE) else { continue };
        if let Some(given) = fields.get("when").and_then(|node| condition(report, node)) {
            conditions.insert(entry.key.clone(), given.value);
        }
        if let Some(rule) = rule(report, entry, &fields, target) {
            rules.insert(entry.key.clone(), rule);
        }
    }
    (rules, conditions, Given { value: types, place: node.place.clone() })
}

fn rule(report: &mut Report, entry: &Entry, fields: &Fields, target: &Target) -> Option<Rule> {
    let if_missing = fields.value(report, "if_missing", word::<IfMissing>);
    let (upsert, patch, delete) = (fields.get("upsert"), fields.get("patch"), fields.get("delete"));
    let replace = fields.get("replace");
    if let (Some(given), None) = (&if_missing, patch) {
        report.error(&given.place, "`if_missing` is about patches; this rule has no `patch`");
    }
    let event = &entry.key;
    if replace.is_none() {
        for name in ["each", "row"] {
            if let Some(node) = fields.get(name) {
                report.error(
                    &node.place,
                    format!("`{name}` belongs to `replace`, which this rule does not have"),
                );
            }
        }
    }
    match (upsert, patch, delete, replace) {
        (Some(node), None, None, None) => {
            let columns = assignments(report, node, target, "`upsert`")?;
            check_key(report, node, event, &columns, target);
            Some(Rule::Upsert { columns })
        }
        (None, Some(node), None, None) => {
            let columns = assignments(report, node, target, "`patch`")?;
            check_key(report, node, event, &columns, target);
            let if_missing = if_missing.map_or(IfMissing::default(), |given| given.value);
            check_patch(report, &node.place, &columns, target, if_missing);
            Some(Rule::Patch { columns, if_missing })
        }
        (None, None, Some(node), None) => {
            let key = assignments(report, node, target, "`delete`")?;
            check_delete(report, node, event, &key, target);
            Some(Rule::Delete { key })
        }
        (None, None, None, Some(node)) => replace_rule(report, node, event, fields, target),
        (None, None, None, None) if fields.has_unsupported => None,
        _ => {
            let message = "a rule is exactly one of `upsert`, `patch`, `delete` and `replace`";
            report.push(Problem::new(&entry.key_place, message).about(event));
            None
        }
    }
}

/// `replace`, `each` and `row`.
fn replace_rule(
    report: &mut Report,
    node: &Node,
    event: &str,
    fields: &Fields,
    target: &Target,
) -> Option<Rule> {
    let prefix = assignments(report, node, target, "`replace`");
    if let Some(prefix) = &prefix {
        check_names_key(report, node, prefix, target, "`replace`");
        let first = target.key.iter().take_while(|column| prefix.contains_key(column)).count();
        if first == 0 || first < prefix.len() || first == target.key.len() {
            let message = match target.key.len() {
                0 | 1 => {
                    "`replace` is for tables whose key has more columns than what their rows have in common"
                        .to_owned()
                }
                _ => format!(
                    "`replace` gives the first columns of the key, and not all of them: {}",
                    first_columns(target)
                ),
            };
            report.error(&node.place, message);
        }
    }
    let each = fields.require(report, "each").and_then(|node| {
        source(report, node, |source| match source {
            _ if !source.reads_value() => Err("expected a path to a list in the event, such as `.lines`"),
            _ => Ok(()),
        })
    });
    let row = fields.require(report, "row").and_then(|node| {
        let row = assignments(report, node, target, "`row`")?;
        for column in
            row.keys().filter(|column| prefix.as_ref().is_some_and(|prefix| prefix.contains_key(column)))
        {
            let name = target.columns.name(*column);
            let place = node.entry(name).map_or(&node.place, |entry| &entry.key_place);
            report.push(Problem::new(place, "`replace` gives this column already, for all rows").about(name));
        }
        let mut all = row.clone();
        all.extend(prefix.iter().flatten().map(|(column, from)| (*column, from.clone())));
        check_key(report, node, event, &all, target);
        Some(row)
    });
    Some(Rule::Replace { prefix: prefix?, each: each?.value, row: row? })
}

/// The parts of the key by which rows can be cleared, for messages.
fn first_columns(target: &Target) -> String {
    let names: Vec<String> =
        target.key.iter().map(|&column| format!("`{}`", target.columns.name(column))).collect();
    let parts = (1..names.len()).map(|count| names[..count].join(", "));
    parts.collect::<Vec<_>>().join(", or ")
}

/// Column index to expression.
fn assignments(
    report: &mut Report,
    node: &Node,
    target: &Target,
    what: &str,
) -> Option<BTreeMap<usize, Expression>> {
    let mut assigned = BTreeMap::new();
    let mut complete = true;
    for entry in entries(report, node, what)? {
        let column = target.columns.find(report, &entry.key, &entry.key_place);
        let expression = column
            .and_then(|column| Some((column, target.columns.expression(report, column, &entry.value)?)));
        match expression {
            Some((column, expression)) => {
                assigned.insert(column, expression);
            }
            None => complete = false,
        }
    }
    complete.then_some(assigned)
}

/// An event's own `.id` is rarely the row's: the key of a rule has to be written.
fn check_key(
    report: &mut Report,
    node: &Node,
    event: &str,
    columns: &BTreeMap<usize, Expression>,
    target: &Target,
) {
    for column in missing_key(columns, target) {
        let name = target.columns.name(column);
        let message = format!(
            "the rule for `{event}` does not give the key column `{name}`; write where it is, such as `{name}: .{name}`"
        );
        report.error(&node.place, message);
    }
}

fn missing_key(columns: &BTreeMap<usize, Expression>, target: &Target) -> Vec<usize> {
    let given = |column: &usize| columns.contains_key(column) || target.columns.from(*column).is_some();
    target.key.iter().copied().filter(|column| !given(column)).collect()
}

fn check_patch(
    report: &mut Report,
    place: &Place,
    patched: &BTreeMap<usize, Expression>,
    target: &Target,
    if_missing: IfMissing,
) {
    let is_key = |column: &usize| target.key.contains(column);
    if if_missing != IfMissing::Create && patched.keys().all(is_key) {
        report.error(place, "this patch sets no column besides the key");
    }
    match if_missing {
        IfMissing::Create => {
            for column in 0..target.columns.len() {
                if !is_key(&column) && !patched.contains_key(&column) && !target.columns.is_nullable(column) {
                    let message = format!(
                        "`if_missing: create` leaves the column `{}` without a value, and it may not be null",
                        target.columns.name(column)
                    );
                    report.error(place, message);
                }
            }
        }
        IfMissing::Ignore => report.warn(
            place,
            "`if_missing: ignore` gives up independence of order: a patch that arrives before its row is lost",
        ),
        IfMissing::Hold | IfMissing::DeadLetter => {}
    }
}

fn check_delete(
    report: &mut Report,
    node: &Node,
    event: &str,
    key: &BTreeMap<usize, Expression>,
    target: &Target,
) {
    check_names_key(report, node, key, target, "a delete");
    let missing = missing_key(key, target);
    if missing.is_empty() || missing.len() == target.key.len() {
        check_key(report, node, event, key, target);
        return;
    }
    // All rows that have the first columns of the key in common.
    let first = target.key.len() - missing.len();
    if target.key[..first].iter().any(|column| missing.contains(column)) {
        let message = format!(
            "a delete gives the whole key, or its first columns to delete all rows with them: {}",
            first_columns(target)
        );
        report.error(&node.place, message);
    }
}

fn check_names_key(
    report: &mut Report,
    node: &Node,
    named: &BTreeMap<usize, Expression>,
    target: &Target,
    what: &str,
) {
    for column in named.keys().filter(|column| !target.key.contains(column)) {
        let name = target.columns.name(*column);
        let place = node.entry(name).map_or(&node.place, |entry| &entry.key_place);
        report.push(Problem::new(place, format!("{what} names columns of the key only")).about(name));
    }
}
