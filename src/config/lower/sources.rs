//! Where a topic's events say what they are: type, version, id.

use crate::config::expression::parse_source;
use crate::config::fields::{Given, few, items, scalar, scalar_text};
use crate::config::model::{Expression, OnGap, Path, Root};
use crate::config::problem::{Problem, Report};
use crate::config::scalar::{count, text, word};
use crate::config::tree::Node;
use crate::domain::event_ids::WINDOW_MAX;

use super::columns::wrong_expression;

const IGNORED_MAX: usize = 1_000;

pub(super) fn on_gap(report: &mut Report, node: &Node) -> Option<Given<OnGap>> {
    scalar(report, node, word)
}

pub(super) fn event_type(report: &mut Report, node: &Node) -> Option<Given<Expression>> {
    let expected =
        "expected a path to a field of the event, such as `.type`, or to a header, `$headers.type`";
    source_at(report, node, |path| match path.root {
        Root::Row | Root::Event | Root::Headers if !path.fields.is_empty() => Ok(()),
        _ => Err(expected),
    })
}

pub(super) fn version(report: &mut Report, node: &Node) -> Option<Given<Expression>> {
    let expected = "expected a path to a field of the event, such as `.sequence`, to a header, `$headers.sequence`, `$timestamp`, or the word `position`";
    source_at(report, node, |path| match path.root {
        Root::Row | Root::Event | Root::Headers if !path.fields.is_empty() => Ok(()),
        Root::Timestamp => Ok(()),
        Root::Offset => Err(
            "offsets of different partitions say nothing about order; without `version`, events of one partition are ordered by their offsets",
        ),
        _ => Err(expected),
    })
}

pub(super) fn event_id(report: &mut Report, node: &Node) -> Option<Given<Expression>> {
    let expected = "expected a path to a field of the event, such as `.id`, to a header, `$headers.id`, or to the record key, `$key`";
    source_at(report, node, |path| match path.root {
        Root::Row | Root::Event | Root::Headers if !path.fields.is_empty() => Ok(()),
        Root::Key => Ok(()),
        Root::Offset => Err("an event that is sent again has another offset"),
        _ => Err(expected),
    })
}

/// A path for which `check` has nothing to say, or any jq.
fn source_at(
    report: &mut Report,
    node: &Node,
    check: impl Fn(&Path) -> Result<(), &'static str>,
) -> Option<Given<Expression>> {
    source(report, node, |source| match source {
        Expression::Path(path) => check(path),
        _ => Ok(()),
    })
}

/// An expression that is no constant, and that `check` has nothing to say of.
pub(super) fn source(
    report: &mut Report,
    node: &Node,
    check: impl Fn(&Expression) -> Result<(), &'static str>,
) -> Option<Given<Expression>> {
    let text = scalar_text(report, node)?;
    match parse_source(text) {
        Err(error) => report.push(wrong_expression(node, text, &error)),
        Ok(value) => match check(&value) {
            Ok(()) => return Some(Given { value, place: node.place.clone() }),
            Err(message) => report.push(Problem::new(&node.place, message).about(text)),
        },
    }
    None
}

pub(super) fn window(report: &mut Report, node: &Node) -> Option<Given<usize>> {
    let given = scalar(report, node, count)?;
    match usize::try_from(given.value) {
        Ok(value @ 1..=WINDOW_MAX) => Some(Given { value, place: given.place }),
        _ => {
            report.error(&given.place, format!("`event_id_window` is between 1 and {WINDOW_MAX}"));
            None
        }
    }
}

pub(super) fn event_types(report: &mut Report, node: &Node) -> Option<Given<Vec<String>>> {
    let mut types: Vec<String> = Vec::new();
    let mut complete = true;
    let list = items(report, node, "`ignore`")?;
    if !few(report, node, list, IGNORED_MAX, "event types") {
        return None;
    }
    for item in list {
        match scalar(report, item, text) {
            Some(given) if types.contains(&given.value) => {
                report
                    .push(Problem::new(&given.place, "this event type is listed twice").about(&given.value));
            }
            Some(given) => types.push(given.value),
            None => complete = false,
        }
    }
    complete.then(|| Given { value: types, place: node.place.clone() })
}
