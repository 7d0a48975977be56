//! Repeated events: recognised by their id, and only if they were applied.

use super::super::Outcome;
use super::support::*;
use crate::config::{EventIds, Format, KeyFormat, Topic};
use crate::domain::change::Skip;
use crate::domain::dead_letter::Reason;
use crate::domain::event_ids::EventId;

const REPEATED: Outcome = Outcome::Skipped(Skip::Duplicate);

fn with_ids(mut topic: Topic, from: &str, window: usize) -> Topic {
    topic.event_ids = Some(EventIds { source: expression(from), window });
    topic
}

fn orders(window: usize) -> Feed {
    let mut topic = with_ids(topic("orders.events", Format::Json), ".id", window);
    topic.event_type = Some(expression(".type"));
    topic.ignore = vec!["Viewed".to_owned()];
    let mut orders = table("orders", 1, &["order integer", "status text", "note text?"]);
    orders.sources[0].mapping =
        events([("Placed", upsert([(1, ".status")])), ("Changed", patch([(1, ".status")]))]);
    let mut notes = table("notes", 1, &["order integer", "note text"]);
    notes.sources[0].mapping =
        events([("Noted", upsert([(1, ".note")])), ("Placed", upsert([(1, ".note")]))]);
    Feed::new(topic, vec![orders, notes])
}

fn changed(id: &str, status: &str) -> String {
    format!(r#"{{"id":{id},"type":"Changed","order":7,"status":"{status}"}}"#)
}

#[test]
fn a_repeated_event_is_skipped_whatever_is_in_it() {
    let mut feed = orders(10);
    assert_eq!(feed.value(&changed("1", "paid")), Outcome::Changes);
    assert_eq!(feed.value(&changed("2", "sent")), Outcome::Changes);
    assert_eq!(feed.value(&changed("1", "paid")), REPEATED);
    assert_eq!(feed.value(r#"{"id":1,"type":"Changed"}"#), REPEATED);
    assert_eq!(feed.value(&changed("\"1\"", "paid")), Outcome::Changes);
}

#[test]
fn an_id_is_remembered_once_for_all_tables_of_its_event() {
    let mut feed = orders(10);
    let placed = r#"{"id":"a","type":"Placed","order":7,"status":"new","note":"n"}"#;
    assert_eq!(feed.value(placed), Outcome::Changes);
    assert_eq!(feed.changes.len(), 2);
    assert_eq!(feed.value(placed), REPEATED);
    let news = feed.plan.take_event_ids();
    assert_eq!(news[&0].ids, [EventId::of_text("a")]);
    assert_eq!(news[&0].window, 10);
    assert!(feed.plan.take_event_ids().is_empty());
}

#[test]
fn an_event_that_was_not_applied_may_come_again() {
    let mut feed = orders(10);
    // The second of its tables refuses it.
    let refused = r#"{"id":"a","type":"Placed","order":7,"status":"new","note":5}"#;
    assert_eq!(refusal(&feed.value(refused)), (Reason::WrongType, ".note"));
    assert_eq!(feed.value(r#"{"id":"a","type":"Viewed"}"#), IGNORED);
    assert_eq!(refusal(&feed.value(r#"{"id":"a","type":"Other"}"#)), (Reason::UnknownType, ".type"));
    assert!(feed.plan.take_event_ids().is_empty());
    assert_eq!(feed.value(&refused.replace('5', "\"n\"")), Outcome::Changes);
    assert_eq!(feed.value(&refused.replace('5', "\"n\"")), REPEATED);
}

#[test]
fn an_event_without_an_id_is_refused() {
    let mut feed = orders(10);
    for (id, reason) in [
        (r#""id":null,"#, Reason::EventId),
        (r#""id":"","#, Reason::EventId),
        ("", Reason::EventId),
        (r#""id":{},"#, Reason::WrongType),
        (r#""id":1.5,"#, Reason::WrongType),
    ] {
        let event = format!(r#"{{{id}"type":"Changed","order":7,"status":"x"}}"#);
        assert_eq!(refusal(&feed.value(&event)), (reason, ".id"), "{id}");
    }
    // What nobody wants needs none.
    assert_eq!(feed.value(r#"{"type":"Viewed"}"#), IGNORED);
}

#[test]
fn the_window_bounds_what_is_remembered() {
    let mut feed = orders(2);
    for id in ["1", "2", "3"] {
        assert_eq!(feed.value(&changed(id, "x")), Outcome::Changes);
    }
    assert_eq!(feed.value(&changed("2", "x")), REPEATED);
    assert_eq!(feed.value(&changed("1", "x")), Outcome::Changes);
}

#[test]
fn what_the_store_has_is_remembered_after_a_start() {
    let mut feed = orders(10);
    feed.plan.restore_event_ids(0, vec![EventId::of_integer("1")]);
    feed.plan.restore_event_ids(9, vec![EventId::of_integer("2")]);
    assert_eq!(feed.value(&changed("1", "x")), REPEATED);
    assert_eq!(feed.value(&changed("2", "x")), Outcome::Changes);
    assert_eq!(feed.plan.take_event_ids()[&0].ids, [EventId::of_integer("2")]);
}

#[test]
fn rows_have_ids_and_records_without_a_value_have_none() {
    let rows = || vec![table("users", 1, &["id integer", "name text"])];
    let row = |event: u32| format!(r#"{{"id":7,"name":"x","meta":{{"event":{event}}}}}"#);
    let mut feed = Feed::new(with_ids(topic("t", Format::Json), "$event.meta.event", 10), rows());
    assert_eq!(feed.record("7", &row(1)), Outcome::Changes);
    assert_eq!(feed.tombstone("7"), Outcome::Changes);
    assert_eq!(feed.tombstone("7"), Outcome::Changes);
    assert_eq!(feed.record("7", &row(1)), REPEATED);
    assert_eq!(refusal(&feed.record("7", r#"{"id":7,"name":"x"}"#)), (Reason::EventId, "$event.meta.event"));
}

#[test]
fn the_record_key_can_hold_the_id() {
    let rows = || vec![table("users", 1, &["id integer", "name text"])];
    let mut feed = Feed::new(with_ids(topic("t", Format::Json), "$key", 10), rows());
    let row = r#"{"id":7,"name":"x"}"#;
    assert_eq!(feed.record("e-1", row), Outcome::Changes);
    assert_eq!(feed.record("e-1", row), REPEATED);
    assert_eq!(refusal(&feed.value(row)), (Reason::EventId, "$key"));
    assert_eq!(feed.plan.take_event_ids()[&0].ids, [EventId::of_text("e-1")]);

    let mut topic = with_ids(topic("t", Format::Json), "$key.event", 10);
    topic.key_format = Some(KeyFormat::Json);
    let mut feed = Feed::new(topic, rows());
    assert_eq!(feed.record(r#"{"event":5}"#, row), Outcome::Changes);
    assert_eq!(feed.record(r#"{"event":5,"try":2}"#, row), REPEATED);
    assert_eq!(refusal(&feed.record("{", row)).0, Reason::Malformed);
}

#[test]
fn topics_without_event_ids_remember_nothing() {
    let mut feed = Feed::new(topic("t", Format::Json), vec![table("users", 1, &["id integer"])]);
    assert_eq!(feed.record("7", r#"{"id":7}"#), Outcome::Changes);
    assert_eq!(feed.record("7", r#"{"id":7}"#), Outcome::Changes);
    feed.plan.restore_event_ids(0, vec![EventId::of_integer("7")]);
    assert_eq!(feed.record("7", r#"{"id":7}"#), Outcome::Changes);
    assert!(feed.plan.take_event_ids().is_empty());
}
