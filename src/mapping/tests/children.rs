//! A list in an event as the rows of a child table.

use super::super::Outcome;
use super::evolution::{upcast, versions};
use super::support::*;
use crate::config::{Format, Rule, Topic};
use crate::domain::change::{Change, Cleared, Operation};
use crate::domain::dead_letter::Reason::{Malformed, MissingKey, MissingValue, OutOfRange, WrongType};
use crate::domain::value::Value;

const REPLACED: Operation = Operation::Clear(Cleared::Replaced);
const DELETED: Operation = Operation::Clear(Cleared::Deleted);

fn replace<const N: usize, const M: usize>(
    prefix: [(usize, &str); N],
    each: &str,
    row: [(usize, &str); M],
) -> Rule {
    Rule::Replace { prefix: set(prefix), each: expression(each), row: set(row) }
}

fn orders_topic() -> Topic {
    let mut topic = topic("orders.events", Format::Json);
    topic.event_type = Some(expression(".type"));
    topic.version = Some(expression(".v"));
    topic
}

fn lines(topic: Topic) -> Feed {
    let columns = ["order_id integer", "line integer", "sku text", "at text? $event.at", "tags json?"];
    let mut lines = table("lines", 2, &columns);
    lines.sources[0].mapping = events([
        ("Placed", replace([(0, ".order.id")], ".order.lines", [(1, ".no")])),
        ("Cancelled", delete([(0, ".id")])),
        ("LineGone", delete([(0, ".id"), (1, ".line")])),
    ]);
    Feed::new(topic, vec![lines])
}

fn placed(lines: &str) -> String {
    format!(r#"{{"type":"Placed","v":5,"at":"now","order":{{"id":7,"lines":{lines}}}}}"#)
}

#[test]
fn the_set_of_rows_with_the_prefix_is_replaced() {
    let mut feed = lines(orders_topic());
    assert_eq!(feed.plan.catalog().tables[0].prefixes, [1]);
    let two = r#" [ {"no":1,"sku":"a","tags":[1, 2]}, {"no":2,"sku":"b","order_id":9} ]"#;
    assert_eq!(feed.value(&placed(two)), Outcome::Changes);
    let [clear, first, second] = &feed.changes[..] else { panic!("{:?}", feed.changes) };
    assert_eq!(clear.operation, REPLACED);
    assert_eq!(clear.values, [int(7), Value::Absent, Value::Absent, Value::Absent, Value::Absent]);
    assert_eq!((first.operation, second.operation), (WRITE, WRITE));
    assert_eq!(first.values, [int(7), int(1), text("a"), text("now"), text("[1,2]")]);
    assert_eq!(second.values, [int(7), int(2), text("b"), text("now"), Value::Null]);
    assert_eq!(first.version, second.version);
    assert_eq!(clear.version, first.version.just_before(), "what it sets itself stays");
    // No rows, and that is all that is left.
    assert_eq!(feed.value(&placed("[]")), Outcome::Changes);
    assert_eq!(feed.only().operation, REPLACED);
}

#[test]
fn a_part_of_the_key_deletes_all_its_rows() {
    let mut feed = lines(orders_topic());
    assert_eq!(feed.value(r#"{"type":"Cancelled","v":6,"id":7}"#), Outcome::Changes);
    assert_eq!(feed.only().operation, DELETED);
    assert_eq!(feed.only().values[..2], [int(7), Value::Absent]);
    assert_eq!(feed.only().version.parts().at.offset, 0, "all that it knows of is older");
    assert_eq!(feed.value(r#"{"type":"LineGone","v":6,"id":7,"line":2}"#), Outcome::Changes);
    assert_eq!(feed.only().operation, Operation::Delete);
    assert_eq!(refusal(&feed.value(r#"{"type":"Cancelled","v":6}"#)), (MissingKey, ".id"));
}

#[test]
fn a_list_that_is_none_is_an_error_and_changes_nothing() {
    let mut feed = lines(orders_topic());
    for (list, expected) in [
        ("null", (MissingValue, ".order.lines")),
        ("{}", (WrongType, ".order.lines")),
        ("\"[]\"", (WrongType, ".order.lines")),
        ("7", (WrongType, ".order.lines")),
        (r#"[{"no":1,"sku":"a"},{"no":1,"sku":"b"}]"#, (Malformed, ".order.lines[1]")),
        (r#"[{"no":1,"sku":"a"},{"no":2}]"#, (MissingValue, ".order.lines[1].sku")),
        (r#"[{"no":1,"sku":"a"},null]"#, (MissingKey, ".order.lines[1].no")),
        (r#"[{"no":1,"sku":"a"},5]"#, (WrongType, ".order.lines[1].no")),
        (r#"[{"no":"1","sku":"a"}]"#, (WrongType, ".order.lines[0].no")),
        (r#"[{"no":1,"no":2,"sku":"a"}]"#, (Malformed, ".order.lines[0].no")),
    ] {
        assert_eq!(refusal(&feed.value(&placed(list))), expected, "{list}");
    }
    assert_eq!(refusal(&feed.value(r#"{"type":"Placed","v":5,"order":{"id":7}}"#)).0, MissingValue);
    assert_eq!(refusal(&feed.value(r#"{"type":"Placed","v":5,"order":[]}"#)).0, WrongType);
    assert_eq!(feed.value(&placed("[]")), Outcome::Changes);
}

#[test]
fn elements_may_be_plain_values_and_jq_reads_them_too() {
    let mut tags = table("tags", 2, &["id integer", "tag text", "loud text .x"]);
    let row = [(1, "."), (2, "(. | ascii_upcase) + \"/\" + $event.suffix")];
    tags.sources[0].mapping = events([("T", replace([(0, ".id")], ".tags | map(select(. != \"\"))", row))]);
    let mut feed = Feed::new(orders_topic(), vec![tags]);
    let event = r#"{"type":"T","v":1,"id":1,"suffix":"s","tags":["b","","a"]}"#;
    assert_eq!(feed.value(event), Outcome::Changes);
    let rows: Vec<&[Value]> = feed.changes[1..].iter().map(|change| &change.values[..]).collect();
    assert_eq!(rows, [[int(1), text("b"), text("B/s")], [int(1), text("a"), text("A/s")]]);
}

#[test]
fn an_event_that_is_not_wanted_empties_the_set() {
    let mut lines = table("lines", 2, &["order_id integer", "line integer"]);
    lines.sources[0].mapping = events([("Placed", replace([(0, ".id")], ".lines", [(1, ".no")]))]);
    lines.sources[0].when.events.insert("Placed".to_owned(), condition(".market == \"eu\""));
    let mut feed = Feed::new(orders_topic(), vec![lines]);
    let event = |market: &str| {
        format!(r#"{{"type":"Placed","v":1,"id":1,"market":"{market}","lines":[{{"no":1}}]}}"#)
    };
    assert_eq!(feed.value(&event("us")), Outcome::Changes);
    assert_eq!((feed.only().operation, &feed.only().values[0]), (DELETED, &int(1)));
    assert_eq!(feed.value(&event("eu")), Outcome::Changes);
    assert_eq!(feed.changes.len(), 2);
}

#[test]
fn older_versions_have_their_list_elsewhere() {
    let mut topic = orders_topic();
    topic.evolution = Some(versions("2", &[upcast("1", "2", &[".lines < .items", ".head.at < .at"])]));
    topic.version = None;
    let mut lines = table("lines", 2, &["order_id integer", "line integer", "at text $event.head.at"]);
    lines.sources[0].mapping = events([("Placed", replace([(0, ".id")], ".lines", [(1, ".items")]))]);
    let mut feed = Feed::new(topic, vec![lines]);
    let rows =
        |changes: &[Change]| changes[1..].iter().map(|change| change.values.clone()).collect::<Vec<_>>();
    let old = r#"{"type":"Placed","v":1,"id":1,"at":"t","items":[{"items":4}]}"#;
    assert_eq!(feed.value(old), Outcome::Changes);
    assert_eq!(rows(&feed.changes), [[int(1), int(4), text("t")]]);
    let new = r#"{"type":"Placed","v":2,"id":1,"head":{"at":"t"},"lines":[{"items":4}]}"#;
    assert_eq!(feed.value(new), Outcome::Changes);
    assert_eq!(rows(&feed.changes), [[int(1), int(4), text("t")]]);
}

#[test]
fn one_event_cannot_become_more_than_memory_holds() {
    let mut lines = table("lines", 2, &["order_id integer", "line integer", "note text $event.note"]);
    lines.sources[0].mapping = events([("Placed", replace([(0, ".id")], ".lines", [(1, ".")]))]);
    let mut feed = Feed::new(orders_topic(), vec![lines]);
    let numbers: Vec<String> = (0..400).map(|number| number.to_string()).collect();
    let note = "n".repeat(100_000);
    let event =
        format!(r#"{{"type":"Placed","v":1,"id":1,"note":"{note}","lines":[{}]}}"#, numbers.join(","));
    assert_eq!(refusal(&feed.value(&event)).0, OutOfRange);
}
