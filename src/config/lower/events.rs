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
    if let (Some(given), None) = (&if_missing, patch) {
        report.error(&given.place, "`if_missing` is about patches; this rule has no `patch`");
    }
    let event = &entry.key;
    match (upsert, patch, delete) {
        (Some(node), None, None) => {
            let columns = assignments(report, node, target, "`upsert`")?;
            check_key(report, node, event, &columns, target);
            Some(Rule::Upsert { columns })
        }
        (None, Some(node), None) => {
            let columns = assignments(report, node, target, "`patch`")?;
            check_key(report, node, event, &columns, target);
            let if_missing = if_missing.map_or(IfMissing::default(), |given| given.value);
            check_patch(report, &node.place, &columns, target, if_missing);
            Some(Rule::Patch { columns, if_missing })
        }
        (None, None, Some(node)) => {
            let key = assignments(report, node, target, "`delete`")?;
            check_delete(report, node, event, &key, target);
            Some(Rule::Delete { key })
        }
        (None, None, None) if fields.has_unsupported => None,
        _ => {
            let message = "a rule is exactly one of `upsert`, `patch` and `delete`";
            report.push(Problem::new(&entry.key_place, message).about(event));
            None
        }
    }
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
    for column in key.keys().filter(|column| !target.key.contains(column)) {
        let name = target.columns.name(*column);
        let place = node.entry(name).map_or(&node.place, |entry| &entry.key_place);
        report.push(Problem::new(place, "a delete names columns of the key only").about(name));
    }
    let missing = missing_key(key, target);
    if !missing.is_empty() && missing.len() < target.key.len() {
        let message =
            "deleting all rows with a part of the key is not supported by this version; give the whole key";
        report.error(&node.place, message);
    } else {
        check_key(report, node, event, key, target);
    }
}
