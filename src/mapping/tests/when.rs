//! `when`: rows that do not match are deleted, rules that do not apply are passed over.

use super::super::Outcome;
use super::support::*;
use crate::config::{Format, Table, When};
use crate::domain::change::{Operation, Skip};
use crate::domain::dead_letter::Reason;
use crate::domain::value::Value;

fn filtered(mut table: Table, when: &str) -> Table {
    table.sources[0].when.rows = Some(condition(when));
    table
}

#[test]
fn a_row_that_is_not_wanted_is_deleted_with_its_version() {
    let mut versioned = topic("t", Format::Json);
    versioned.version = Some(expression(".v"));
    let users = table("users", 1, &["id integer .user.id", "name text"]);
    let mut feed = Feed::new(versioned, vec![filtered(users, ".status == \"active\"")]);
    let row = feed.row("1", r#"{"user":{"id":1},"name":"a","status":"active","v":3}"#);
    assert_eq!(row, [int(1), text("a")]);
    // What else is in it does not matter.
    assert_eq!(feed.record("1", r#"{"user":{"id":1},"status":"closed","v":4}"#), Outcome::Changes);
    assert_eq!(feed.only().operation, Operation::Delete);
    assert_eq!(feed.only().values, [int(1), Value::Absent]);
    assert_eq!(feed.version().1, [4]);
    for status in ["null", "1", "[\"active\"]"] {
        let value = format!(r#"{{"user":{{"id":1}},"status":{status},"v":5}}"#);
        assert_eq!(feed.record("1", &value), Outcome::Changes);
        assert_eq!(feed.only().operation, Operation::Delete);
    }
    // Without a key or a version it is an error like any other.
    assert_eq!(refusal(&feed.value(r#"{"status":"closed","v":4}"#)).0, Reason::MissingKey);
    assert_eq!(refusal(&feed.value(r#"{"user":{"id":1}}"#)).0, Reason::Version);
    assert_eq!(feed.tombstone("1"), Outcome::Changes);
}

#[test]
fn conditions_of_every_kind() {
    for (when, event, wanted) in [
        (".a", r#"{"a":1}"#, true),
        (".a", r#"{"a":false}"#, false),
        (".a", "{}", false),
        (".a | not", "{}", true),
        (".n >= 10 and .n < 20", r#"{"n":10.0}"#, true),
        (".n >= 10 and .n < 20", r#"{"n":20}"#, false),
        (".n >= 10", r#"{"n":"text"}"#, true),
        (".s == \"a\\\"b\"", r#"{"s":"a\"b"}"#, true),
        (".s == \"a\"", r#"{"s":"\u0061"}"#, true),
        (".s != null or .n == 1", r#"{"n":1}"#, true),
        ("\"eu\" == .region.code", r#"{"region":{"code":"eu"}}"#, true),
        ("\"eu\" == .region.code", r#"{"region":null}"#, false),
        ("$key == \"7\"", "{}", true),
        ("$headers.kind != \"test\"", "{}", true),
        ("$partition == 3", "{}", true),
        ("$timestamp > 5000", "{}", false),
        ("$topic == \"t\"", "{}", true),
        ("any(.tags[]?; . == \"x\")", r#"{"tags":["y","x"]}"#, true),
        ("any(.tags[]?; . == \"x\")", r#"{"tags":["y"]}"#, false),
        (".tags | select(. != null) | length > 1", r#"{"tags":["y"]}"#, false),
        (".tags | select(. != null) | length > 1", "{}", false),
    ] {
        let mut feed =
            Feed::new(topic("t", Format::Json), vec![filtered(table("t", 1, &["id text $key"]), when)]);
        assert_eq!(feed.record("7", event), Outcome::Changes, "{when} {event}");
        assert_eq!(feed.only().operation != Operation::Delete, wanted, "{when} {event}");
    }
    for (when, event, reason) in [
        (".a.b == 1", r#"{"a":"text"}"#, Reason::WrongType),
        (".a | length > 1", r#"{"a":true}"#, Reason::Expression),
        (".a[]", r#"{"a":[1,2]}"#, Reason::Expression),
        ("[range(1e9)] | length > 1 and $event.a", r#"{"a":1}"#, Reason::ExpressionLimit),
    ] {
        let mut feed =
            Feed::new(topic("t", Format::Json), vec![filtered(table("t", 1, &["id text $key"]), when)]);
        assert_eq!(refusal(&feed.record("7", event)).0, reason, "{when}");
    }
}

#[test]
fn rules_have_conditions_of_their_own() {
    let mut typed = topic("t", Format::Json);
    typed.event_type = Some(expression(".type"));
    let mut orders = table("orders", 1, &["id integer", "total decimal?", "note text?"]);
    orders.sources[0].mapping = events([
        ("Placed", upsert([(0, ".order.id"), (1, ".order.total")])),
        ("Noted", patch([(0, ".order.id"), (2, ".note")])),
        ("Cancelled", delete([(0, ".order.id")])),
    ]);
    let when =
        [("Placed", ".order.total >= 100"), ("Noted", ".internal | not"), ("Cancelled", ".final == true")];
    let when = when.map(|(event, text)| (event.to_owned(), condition(text)));
    orders.sources[0].when = When { rows: None, events: when.into() };
    let mut other = table("other", 1, &["id integer"]);
    other.sources[0].mapping = events([("Cancelled", upsert([(0, ".order.id")]))]);
    let mut feed = Feed::new(typed, vec![orders, other]);
    let event = |kind: &str, rest: &str| format!(r#"{{"type":"{kind}",{rest}}}"#);
    assert_eq!(feed.value(&event("Placed", r#""order":{"id":1,"total":100.0}"#)), Outcome::Changes);
    assert_eq!(feed.only().operation, WRITE);
    assert_eq!(feed.value(&event("Placed", r#""order":{"id":1,"total":99}"#)), Outcome::Changes);
    assert_eq!(feed.only().operation, Operation::Delete);
    assert_eq!(feed.only().values[0], int(1));
    assert_eq!(feed.value(&event("Noted", r#""order":{"id":1},"note":"x""#)), Outcome::Changes);
    let internal = event("Noted", r#""order":{"id":1},"note":"x","internal":true"#);
    assert_eq!(feed.value(&internal), Outcome::Skipped(Skip::Filtered));
    // Another table takes it.
    assert_eq!(feed.value(&event("Cancelled", r#""order":{"id":1}"#)), Outcome::Changes);
    assert_eq!(feed.changes.len(), 1);
    assert_eq!(feed.changes[0].table, 1);
    assert_eq!(feed.value(&event("Cancelled", r#""order":{"id":1},"final":true"#)), Outcome::Changes);
    assert_eq!(feed.changes.len(), 2);
}

#[test]
fn an_unchanged_value_that_was_left_out_decides_nothing() {
    let users = table("t", 1, &["id integer"]);
    for when in [".status == \"active\"", ".status | ascii_downcase == \"active\""] {
        let mut feed = Feed::new(topic("t", Format::DebeziumJson), vec![filtered(users.clone(), when)]);
        let event = |status: &str| {
            format!(
                r#"{{"after":{{"id":1,"status":"{status}"}},"op":"u","source":{{"sequence":"[\"1\",\"2\"]"}}}}"#
            )
        };
        assert_eq!(feed.value(&event("active")), Outcome::Changes);
        assert_eq!(feed.only().operation, WRITE);
        assert_eq!(feed.value(&event("gone")), Outcome::Changes);
        assert_eq!(feed.only().operation, Operation::Delete);
        assert_eq!(refusal(&feed.value(&event("__debezium_unavailable_value"))).0, Reason::MissingValue);
    }
}
