//! Typed events: upsert, patch and delete, unknown types, several tables.

use super::super::Outcome;
use super::support::*;
use crate::config::{Format, Otherwise, Topic};
use crate::domain::change::{IfMissing, Operation};
use crate::domain::dead_letter::Reason::{self, MissingKey, MissingValue, UnknownType, WrongType};
use crate::domain::value::Value;
use crate::domain::version::VersionKind;

fn orders_topic() -> Topic {
    let mut topic = topic("orders.events", Format::Json);
    topic.event_type = Some(expression(".type"));
    topic.version = Some(expression(".sequence"));
    topic.ignore = vec!["OrderViewed".to_owned()];
    topic
}

fn orders(topic: Topic) -> Feed {
    let mut orders = table("orders", 1, &["id integer", "status text", "note text?"]);
    orders.sources[0].mapping = events([
        ("OrderPlaced", upsert([(0, ".order.id"), (1, "\"placed\""), (2, ".order.note")])),
        ("OrderShipped", patch([(0, ".order_id"), (1, "\"shipped\"")])),
        ("OrderNoted", patch([(0, ".order_id"), (2, ".note")])),
        ("OrderCancelled", delete([(0, ".order_id")])),
    ]);
    let mut customers = table("customers", 1, &["customer text", "last integer"]);
    customers.sources[0].mapping =
        events([("OrderPlaced", upsert([(0, ".order.customer"), (1, "$event.order.id")]))]);
    Feed::new(topic, vec![orders, customers])
}

#[test]
fn each_type_has_its_rule() {
    let mut feed = orders(orders_topic());
    let placed = r#"{"type":"OrderPlaced","sequence":1,"order":{"id":7,"customer":"ada"}}"#;
    assert_eq!(feed.value(placed), Outcome::Changes);
    assert_eq!(feed.changes[0].values, [int(7), text("placed"), Value::Null]);
    assert_eq!(feed.changes[1].values, [text("ada"), int(7)]);
    assert_eq!(feed.changes[0].operation, WRITE);
    assert_eq!(feed.changes[0].version.parts().integers, [1]);
    assert_eq!(feed.changes[0].version, feed.changes[1].version);

    assert_eq!(feed.value(r#"{"type":"OrderShipped","sequence":2,"order_id":7}"#), Outcome::Changes);
    assert_eq!(feed.only().values, [int(7), text("shipped"), Value::Absent]);
    assert_eq!(feed.only().operation, Operation::Write { if_missing: IfMissing::Hold });
    assert_eq!(feed.version(), (VersionKind::Integer, vec![2]));

    assert_eq!(feed.value(r#"{"type":"OrderCancelled","sequence":3,"order_id":7}"#), Outcome::Changes);
    assert_eq!(feed.only().operation, Operation::Delete);
    assert_eq!(feed.only().values, [int(7), Value::Absent, Value::Absent]);
}

#[test]
fn a_patch_sets_what_it_names() {
    let mut feed = orders(orders_topic());
    for (note, expected) in [
        (r#","note":"n""#, text("n")),
        (r#","note":null"#, Value::Null),
        // Named and not there: null, as everywhere else.
        ("", Value::Null),
    ] {
        let value = format!(r#"{{"type":"OrderNoted","sequence":1,"order_id":7{note}}}"#);
        assert_eq!(feed.value(&value), Outcome::Changes);
        assert_eq!(feed.only().values, [int(7), Value::Absent, expected]);
    }
}

#[test]
fn one_bad_table_refuses_the_whole_event() {
    let mut feed = orders(orders_topic());
    let cases: [(&str, (Reason, &str)); 6] = [
        (r#"{"type":"OrderPlaced","sequence":1,"order":{"id":7}}"#, (MissingKey, ".order.customer")),
        (r#"{"type":"OrderPlaced","sequence":1,"order":{"customer":"ada"}}"#, (MissingKey, ".order.id")),
        (r#"{"type":"OrderPlaced","order":{"id":7,"customer":"ada"}}"#, (Reason::Version, ".sequence")),
        (r#"{"type":"OrderShipped","sequence":1}"#, (MissingKey, ".order_id")),
        (r#"{"type":7,"sequence":1}"#, (WrongType, ".type")),
        (r#"{"type":["OrderShipped"]}"#, (WrongType, ".type")),
    ];
    for (value, expected) in cases {
        assert_eq!(refusal(&feed.value(value)), expected, "{value}");
    }
}

#[test]
fn what_nobody_names_follows_otherwise() {
    for otherwise in [Otherwise::Ignore, Otherwise::DeadLetter, Otherwise::Stop] {
        let mut topic = orders_topic();
        topic.otherwise = otherwise;
        let mut feed = orders(topic);
        assert_eq!(feed.value(r#"{"type":"OrderViewed"}"#), IGNORED);
        for (key, value) in [
            (None, Some(r#"{"type":"Odd"}"#)),
            (None, Some("{}")),
            (None, Some(r#"{"type":null}"#)),
            (Some("7"), None),
        ] {
            let outcome = feed.bytes(key.map(str::as_bytes), value.map(str::as_bytes));
            match otherwise {
                Otherwise::Ignore => assert_eq!(outcome, IGNORED),
                Otherwise::DeadLetter => assert_eq!(refusal(&outcome), (UnknownType, ".type")),
                Otherwise::Stop => assert!(matches!(outcome, Outcome::Stop(_)), "{outcome:?}"),
            }
        }
    }
}

#[test]
fn unknown_types_are_no_reason_to_read_a_version() {
    let mut feed = orders(orders_topic());
    assert_eq!(feed.value(r#"{"type":"OrderViewed","sequence":"odd"}"#), IGNORED);
}

#[test]
fn escaped_type_names_are_the_same_names() {
    let mut feed = orders(orders_topic());
    let value = r#"{"\u0074ype":"Order\u0053hipped","sequence":2,"order_id":7}"#;
    assert_eq!(feed.value(value), Outcome::Changes);
}

#[test]
fn unnamed_columns_take_the_field_of_their_name() {
    let mut users = table("users", 1, &["id integer .user_id", "name text"]);
    users.sources[0].mapping =
        events([("Renamed", patch([(1, ".new")])), ("Seen", upsert([])), ("Gone", delete([]))]);
    let mut topic = topic("t", Format::Json);
    topic.event_type = Some(expression(".type"));
    let mut feed = Feed::new(topic, vec![users]);
    assert_eq!(feed.row("", r#"{"type":"Seen","user_id":1,"name":"a"}"#), [int(1), text("a")]);
    assert_eq!(feed.row("", r#"{"type":"Renamed","user_id":1,"new":"b"}"#), [int(1), text("b")]);
    assert_eq!(feed.row("", r#"{"type":"Gone","user_id":1}"#), [int(1), Value::Absent]);
    assert_eq!(refusal(&feed.value(r#"{"type":"Renamed","user_id":1}"#)), (MissingValue, ".new"));
}

#[test]
fn a_literal_that_does_not_fit_refuses_each_event() {
    let mut users = table("users", 1, &["id integer", "age integer"]);
    users.sources[0].mapping = events([("Seen", upsert([(1, "\"old\"")]))]);
    let mut topic = topic("t", Format::Json);
    topic.event_type = Some(expression(".type"));
    let mut feed = Feed::new(topic, vec![users]);
    assert_eq!(refusal(&feed.value(r#"{"type":"Seen","id":1}"#)), (WrongType, "\"old\""));
}
