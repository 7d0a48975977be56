//! What the log knows of a record, as columns, versions, types and ids.

use super::super::Outcome;
use super::support::*;
use crate::config::{EventIds, Format};
use crate::domain::change::{Operation, Skip};
use crate::domain::dead_letter::Reason;
use crate::domain::value::Value;
use crate::domain::version::VersionKind;

#[test]
fn columns_take_what_the_log_knows() {
    let columns = [
        "id integer",
        "origin text $topic",
        "part integer $partition",
        "nr integer $offset",
        "at timestamp? $timestamp",
        "at_ms integer? $timestamp",
        "trace text? $headers.trace",
        "count integer? $headers.count",
        "bytes blob? $headers.trace",
        "headers json $headers",
    ];
    let mut feed = Feed::new(topic("t", Format::Json), vec![table("t", 1, &columns)]);
    feed.set_headers([("trace", "old"), ("count", "17"), ("trace", "a\"b")]);
    let row = feed.row("1", r#"{"id":1}"#);
    let expected = [
        int(1),
        text("t"),
        int(3),
        int(0),
        text("1970-01-01T00:00:01.000000Z"),
        int(1000),
        text("a\"b"),
        int(17),
        Value::Blob(b"a\"b".to_vec()),
        text(r#"{"count":"17","trace":"a\"b"}"#),
    ];
    assert_eq!(row, expected);
    feed.set_headers([]);
    feed.timestamp_ms = None;
    let row = feed.row("1", r#"{"id":1}"#);
    assert_eq!(row[3..9], [int(1), Value::Null, Value::Null, Value::Null, Value::Null, Value::Null]);
    assert_eq!(row[9], text("{}"));
}

#[test]
fn what_a_header_is_not_is_refused() {
    let columns = ["id integer", "count integer $headers.count"];
    let mut feed = Feed::new(topic("t", Format::Json), vec![table("t", 1, &columns)]);
    for (count, expected) in
        [("one", Reason::WrongType), ("1.5", Reason::WrongType), ("9223372036854775808", Reason::OutOfRange)]
    {
        feed.set_headers([("count", count)]);
        assert_eq!(refusal(&feed.value(r#"{"id":1}"#)), (expected, "$headers.count"), "{count}");
    }
    feed.headers = vec![("count".to_owned(), vec![0xFF])];
    assert_eq!(refusal(&feed.value(r#"{"id":1}"#)), (Reason::Malformed, "$headers.count"));
    feed.headers.clear();
    assert_eq!(refusal(&feed.value(r#"{"id":1}"#)), (Reason::MissingValue, "$headers.count"));
}

/// Every record is a row of its own, and one without a value takes the row of its own place away, which
/// is nobody's.
#[test]
fn a_key_may_be_the_place_in_the_log() {
    let columns = ["part integer $partition", "nr integer $offset", "what text .what"];
    let mut feed = Feed::new(topic("t", Format::Json), vec![table("t", 2, &columns)]);
    assert_eq!(feed.row("x", r#"{"what":"a"}"#), [int(3), int(0), text("a")]);
    assert_eq!(feed.row("x", r#"{"what":"b"}"#), [int(3), int(1), text("b")]);
    assert_eq!(feed.tombstone("x"), Outcome::Changes);
    assert_eq!(feed.only().values, [int(3), int(2), Value::Absent]);
    // The topic's name in the key tells rows of several topics apart.
    let mut topic = topic("shop.eu", Format::Json);
    topic.key_format = Some(crate::config::KeyFormat::Text);
    let mut feed = Feed::new(topic, vec![table("t", 2, &["origin text $topic", "id integer"])]);
    assert_eq!(feed.row("7", r#"{"id":7}"#), [text("shop.eu"), int(7)]);
    assert_eq!(feed.tombstone("7"), Outcome::Changes);
    assert_eq!(feed.only().values, [text("shop.eu"), int(7)]);
}

#[test]
fn versions_may_be_in_headers_or_the_record_timestamp() {
    let mut of_header = topic("t", Format::Json);
    of_header.version = Some(expression("$headers.seq"));
    let mut feed = Feed::new(of_header, vec![table("t", 1, &["id integer"])]);
    feed.set_headers([("seq", "5")]);
    assert_eq!(feed.value(r#"{"id":1}"#), Outcome::Changes);
    assert_eq!(feed.version(), (VersionKind::Integer, vec![5]));
    // Also of a record without a value; one without the header is ordered by its place.
    assert_eq!(feed.tombstone("1"), Outcome::Changes);
    assert_eq!(feed.only().operation, Operation::Delete);
    assert_eq!(feed.version(), (VersionKind::Integer, vec![5]));
    feed.set_headers([]);
    assert_eq!(feed.tombstone("1"), Outcome::Changes);
    assert_eq!(feed.only().operation, Operation::Tombstone);
    feed.set_headers([("seq", "soon")]);
    assert_eq!(refusal(&feed.value(r#"{"id":1}"#)), (Reason::Version, "$headers.seq"));
    feed.set_headers([]);
    assert_eq!(refusal(&feed.value(r#"{"id":1}"#)), (Reason::Version, "$headers.seq"));

    let mut of_time = topic("t", Format::Json);
    of_time.version = Some(expression("$headers.at"));
    let mut feed = Feed::new(of_time, vec![table("t", 1, &["id integer"])]);
    feed.set_headers([("at", "1970-01-01T00:00:01.5Z")]);
    assert_eq!(feed.value(r#"{"id":1}"#), Outcome::Changes);
    assert_eq!(feed.version(), (VersionKind::Time, vec![1, 500_000_000]));

    let mut of_timestamp = topic("t", Format::Json);
    of_timestamp.version = Some(expression("$timestamp"));
    let mut feed = Feed::new(of_timestamp, vec![table("t", 1, &["id integer"])]);
    assert!(!feed.plan.catalog().tables[0].ordered_by_position);
    assert_eq!(feed.value(r#"{"id":1}"#), Outcome::Changes);
    assert_eq!(feed.version(), (VersionKind::Integer, vec![1000]));
    feed.timestamp_ms = None;
    assert_eq!(refusal(&feed.value(r#"{"id":1}"#)), (Reason::Version, "$timestamp"));
}

#[test]
fn types_in_headers_name_a_rule_also_without_a_value() {
    let mut typed = topic("t", Format::Json);
    typed.event_type = Some(expression("$headers.type"));
    typed.event_ids = Some(EventIds { source: expression("$headers.id"), window: 10 });
    let mut people = table("t", 1, &["id text", "name text?"]);
    people.sources[0].mapping =
        events([("Changed", upsert([(0, "$key"), (1, ".name")])), ("Erased", delete([(0, "$key")]))]);
    let mut feed = Feed::new(typed, vec![people]);
    feed.set_headers([("type", "Changed"), ("id", "e1")]);
    assert_eq!(feed.row("a", r#"{"name":"Ada"}"#), [text("a"), text("Ada")]);
    assert_eq!(feed.record("a", r#"{"name":"Ada"}"#), Outcome::Skipped(Skip::Duplicate));
    feed.set_headers([("type", "Erased"), ("id", "e2")]);
    assert_eq!(feed.tombstone("a"), Outcome::Changes);
    assert_eq!(feed.only().operation, Operation::Delete);
    assert_eq!(feed.only().values, [text("a"), Value::Absent]);
    assert_eq!(feed.tombstone("a"), Outcome::Skipped(Skip::Duplicate));
    feed.set_headers([("type", "Other"), ("id", "e3")]);
    assert_eq!(refusal(&feed.tombstone("a")), (Reason::UnknownType, "$headers.type"));
    feed.set_headers([]);
    assert_eq!(refusal(&feed.tombstone("a")), (Reason::UnknownType, "$headers.type"));
    feed.headers = vec![("type".to_owned(), vec![0xFF])];
    assert_eq!(refusal(&feed.record("a", "{}")), (Reason::Malformed, "$headers.type"));
}

/// Its id is where there is nothing.
#[test]
fn a_record_without_a_value_needs_no_id_of_one() {
    let mut typed = topic("t", Format::Json);
    typed.event_type = Some(expression("$headers.type"));
    typed.event_ids = Some(EventIds { source: expression(".id"), window: 10 });
    let mut people = table("t", 1, &["id text"]);
    people.sources[0].mapping =
        events([("Changed", upsert([(0, "$key")])), ("Erased", delete([(0, "$key")]))]);
    let mut feed = Feed::new(typed, vec![people]);
    feed.set_headers([("type", "Erased")]);
    assert_eq!(feed.tombstone("a"), Outcome::Changes);
    assert_eq!(feed.only().operation, Operation::Delete);
    assert_eq!(feed.tombstone("b"), Outcome::Changes);
    assert_eq!(refusal(&feed.record("a", "{}")), (Reason::EventId, ".id"));
}
