//! `json` topics whose records are rows: keys, tombstones, versions, paths.

use super::super::Outcome;
use super::support::*;
use crate::config::{Format, KeyFormat};
use crate::domain::change::Operation;
use crate::domain::dead_letter::Reason::{Malformed, MissingKey, MissingValue, Version, WrongType};
use crate::domain::value::Value;
use crate::domain::version::VersionKind;

fn users() -> Feed {
    Feed::new(
        topic("users", Format::Json),
        vec![table("users", 1, &["id integer", "name text", "mail text? .contact.mail"])],
    )
}

#[test]
fn an_object_is_a_row_and_no_value_a_delete() {
    let mut feed = users();
    let row = feed.row("1", r#"{"name":"Ada","id":1,"contact":{"mail":"a@x.org"},"more":[1,2]}"#);
    assert_eq!(row, [int(1), text("Ada"), text("a@x.org")]);
    assert_eq!(feed.only().operation, WRITE);
    assert_eq!(feed.tombstone("1"), Outcome::Changes);
    assert_eq!(feed.only().operation, Operation::Delete);
    assert_eq!(feed.only().values, [int(1), Value::Absent, Value::Absent]);
    // The record key does not matter for a row.
    assert_eq!(feed.value(r#"{"name":"Ada","id":1}"#), Outcome::Changes);
}

#[test]
fn absent_and_null_are_null_or_refused() {
    let mut feed = users();
    for value in [
        r#"{"id":1,"name":"Ada"}"#,
        r#"{"id":1,"name":"Ada","contact":null}"#,
        r#"{"id":1,"name":"Ada","contact":{}}"#,
        r#"{"id":1,"name":"Ada","contact":{"mail":null}}"#,
    ] {
        assert_eq!(feed.row("1", value)[2], Value::Null, "{value}");
    }
    for (value, expected) in [
        (r#"{"id":1}"#, (MissingValue, ".name")),
        (r#"{"id":1,"name":null}"#, (MissingValue, ".name")),
        (r#"{"name":"Ada"}"#, (MissingKey, ".id")),
        (r#"{"id":null,"name":"Ada"}"#, (MissingKey, ".id")),
        (r#"{"id":1,"name":"Ada","contact":"a@x.org"}"#, (WrongType, ".contact.mail")),
        (r#"{"id":1,"name":"Ada","contact":[{"mail":1}]}"#, (WrongType, ".contact.mail")),
        (r#"{"id":1,"name":"Ada","contact":17}"#, (WrongType, ".contact.mail")),
        ("[1]", (Malformed, ".")),
        ("null", (Malformed, ".")),
        ("\"text\"", (Malformed, ".")),
    ] {
        assert_eq!(refusal(&feed.value(value)), expected, "{value}");
    }
}

#[test]
fn a_key_is_text_for_one_column() {
    let mut feed = users();
    for (key, expected) in [("42", 42), ("-7", -7)] {
        assert_eq!(feed.tombstone(key), Outcome::Changes);
        assert_eq!(feed.only().values[0], int(expected));
    }
    for key in ["", "\"42\"", "x", "4 2", "+1", "{\"id\":1}", "1.0"] {
        assert_eq!(refusal(&feed.tombstone(key)), (WrongType, "$key"), "{key}");
    }
    assert_eq!(refusal(&feed.bytes(None, None)), (MissingKey, "$key"));
    assert_eq!(refusal(&feed.bytes(Some(b"\xFF"), None)), (Malformed, "$key"));

    let mut feed = Feed::new(topic("t", Format::Json), vec![table("t", 1, &["id text"])]);
    for key in ["42", "\"quoted\"", "", "null"] {
        assert_eq!(feed.tombstone(key), Outcome::Changes);
        assert_eq!(feed.only().values, [text(key)]);
    }
    assert_eq!(refusal(&feed.tombstone("a\0b")), (WrongType, "$key"));
}

#[test]
fn text_keys_take_every_type() {
    for (column, key, expected) in [
        ("boolean", "true", int(1)),
        ("real", "0.5", Value::Real(0.5)),
        ("decimal", "1.50", text("1.50")),
        ("uuid", "123E4567-E89B-12D3-A456-426614174000", text("123e4567-e89b-12d3-a456-426614174000")),
        ("timestamp", "2017-04-25T09:01:35Z", text("2017-04-25T09:01:35.000000Z")),
        ("timestamp @seconds", "1500000000", text("2017-07-14T02:40:00.000000Z")),
        ("date", "2017-04-25", text("2017-04-25")),
        ("blob", "AA==", Value::Blob(vec![0])),
        ("json", "[1]", text("[1]")),
    ] {
        let mut feed = Feed::new(topic("t", Format::Json), vec![table("t", 1, &[&format!("id {column}")])]);
        assert_eq!(feed.tombstone(key), Outcome::Changes, "{column}");
        assert_eq!(feed.only().values, [expected], "{column}");
        assert_eq!(refusal(&feed.tombstone("no such thing")).0, WrongType, "{column}");
    }
}

#[test]
fn a_key_is_an_object_for_several_columns() {
    let mut feed = Feed::new(
        topic("t", Format::Json),
        vec![table("t", 2, &["tenant text", "id integer .nr", "name text?"])],
    );
    assert_eq!(feed.row("", r#"{"tenant":"a","nr":1}"#), [text("a"), int(1), Value::Null]);
    assert_eq!(feed.tombstone(r#"{"id":1,"tenant":"","x":[]}"#), Outcome::Changes);
    assert_eq!(feed.only().values, [text(""), int(1), Value::Absent]);
    for (key, expected) in [
        (r#"{"tenant":"a"}"#, (MissingKey, "$key.id")),
        (r#"{"tenant":"a","id":"1"}"#, (WrongType, "$key.id")),
        (r#"{"tenant":"a","id":1,"id":2}"#, (Malformed, "$key.id")),
        ("17", (WrongType, "$key.tenant")),
        ("null", (MissingKey, "$key.tenant")),
        ("", (Malformed, "$key")),
        ("a:1", (Malformed, "$key")),
    ] {
        assert_eq!(refusal(&feed.tombstone(key)), expected, "{key}");
    }
}

#[test]
fn a_json_key_of_one_column_is_an_object_or_the_value() {
    let mut topic = topic("t", Format::Json);
    topic.key_format = Some(KeyFormat::Json);
    let mut feed = Feed::new(topic, vec![table("t", 1, &["id text"])]);
    for key in ["\"a\"", "{\"id\":\"a\"}", " \"\\u0061\" "] {
        assert_eq!(feed.tombstone(key), Outcome::Changes, "{key}");
        assert_eq!(feed.only().values, [text("a")]);
    }
    for (key, expected) in [("1", WrongType), ("null", MissingKey), ("{}", MissingKey), ("a", Malformed)] {
        assert_eq!(refusal(&feed.tombstone(key)).0, expected, "{key}");
    }
}

#[test]
fn key_from_names_other_fields() {
    let mut source = table("t", 2, &["tenant text", "id integer"]);
    source.sources[0].key_from = [(0, expression("$key.org.name")), (1, expression("$key.nr"))].into();
    let mut feed = Feed::new(topic("t", Format::Json), vec![source]);
    assert_eq!(feed.tombstone(r#"{"org":{"name":"a"},"nr":5}"#), Outcome::Changes);
    assert_eq!(feed.only().values, [text("a"), int(5)]);

    let mut source = table("t", 1, &["id integer .user.id"]);
    source.sources[0].key_from = [(0, expression("$key"))].into();
    let mut feed = Feed::new(topic("t", Format::Json), vec![source]);
    assert_eq!(feed.tombstone("5"), Outcome::Changes);
    assert_eq!(feed.only().values, [int(5)]);
}

#[test]
fn columns_may_come_from_the_key_the_whole_event_or_a_literal() {
    let columns =
        ["id integer $key", "all json .", "inner text? .a.b", "kind text \"row\"", "n integer? null"];
    let mut feed = Feed::new(topic("t", Format::Json), vec![table("t", 1, &columns)]);
    assert_eq!(
        feed.row("7", r#"{ "a": {"b": "c"} }"#),
        [int(7), text(r#"{"a":{"b":"c"}}"#), text("c"), text("row"), Value::Null]
    );
    // Wanted as a whole and in part, at a place that is not an object.
    let mut feed =
        Feed::new(topic("t", Format::Json), vec![table("t", 1, &["id integer", "a json?", "b text? .a.b"])]);
    assert_eq!(feed.row("", r#"{"id":1,"a":null}"#), [int(1), Value::Null, Value::Null]);
    assert_eq!(feed.row("", r#"{"id":1,"a":{"b":"x"}}"#), [int(1), text(r#"{"b":"x"}"#), text("x")]);
    assert_eq!(refusal(&feed.value(r#"{"id":1,"a":[]}"#)), (WrongType, ".a.b"));
    assert_eq!(refusal(&feed.value(r#"{"id":1,"a":{"b":"x","b":"y"}}"#)), (Malformed, ".a.b"));
}

#[test]
fn without_a_version_the_position_orders() {
    let mut feed = users();
    assert!(feed.plan.catalog().tables[0].ordered_by_position);
    assert_eq!(feed.value(r#"{"id":1,"name":"Ada"}"#), Outcome::Changes);
    assert_eq!(feed.version(), (VersionKind::Position, vec![1000]));
    // A record refused or stamped earlier does not take the clock back.
    feed.memory.max_timestamp_ms = 5000;
    let before = feed.only().version;
    assert_eq!(feed.tombstone("1"), Outcome::Changes);
    assert_eq!(feed.version(), (VersionKind::Position, vec![5000]));
    assert!(feed.only().version > before);
    assert_eq!(feed.memory.max_timestamp_ms, 5000);
}

#[test]
fn declared_versions_have_one_kind_a_table() {
    let make = || {
        let mut topic = topic("t", Format::Json);
        topic.version = Some(expression(".v"));
        Feed::new(topic, vec![table("t", 1, &["id integer"])])
    };
    let row = |version: &str| format!(r#"{{"id":1,"v":{version}}}"#);
    for (version, kind, integers) in [
        ("17", VersionKind::Integer, vec![17]),
        ("-1", VersionKind::Integer, vec![-1]),
        ("[1,-2,3]", VersionKind::Integers, vec![1, -2, 3]),
        ("[5]", VersionKind::Integers, vec![5]),
        ("\"1970-01-01T00:00:01.5Z\"", VersionKind::Time, vec![1, 500_000_000]),
        ("\"1970-01-01T02:00:01.000000001+02:00\"", VersionKind::Time, vec![1, 1]),
    ] {
        let mut feed = make();
        assert!(!feed.plan.catalog().tables[0].ordered_by_position);
        assert_eq!(feed.value(&row(version)), Outcome::Changes, "{version}");
        assert_eq!(feed.version(), (kind, integers), "{version}");
        // Another kind from then on is an error of that event.
        let other = if kind == VersionKind::Integer { "[1]" } else { "1" };
        assert_eq!(refusal(&feed.value(&row(other))), (Version, ".v"), "{version}");
        assert_eq!(feed.value(&row(version)), Outcome::Changes);
    }
    for wrong in
        ["null", "1.5", "true", "\"soon\"", "[]", "[1,2,3,4,5]", "[\"1\"]", "{}", "99999999999999999999"]
    {
        assert_eq!(refusal(&make().value(&row(wrong))), (Version, ".v"), "{wrong}");
    }
    assert_eq!(refusal(&make().value(r#"{"id":1}"#)), (Version, ".v"));

    let mut feed = make();
    feed.plan.set_version_kind(0, VersionKind::Time);
    assert_eq!(refusal(&feed.value(&row("17"))), (Version, ".v"));
}

#[test]
fn a_tombstone_is_lone_where_versions_come_from_events() {
    let mut topic = topic("t", Format::Json);
    topic.version = Some(expression(".v"));
    let mut feed = Feed::new(topic, vec![table("t", 1, &["id integer"])]);
    assert_eq!(feed.value(r#"{"id":1,"v":3}"#), Outcome::Changes);
    assert_eq!(feed.tombstone("1"), Outcome::Changes);
    assert_eq!(feed.only().operation, Operation::Tombstone);
    assert_eq!(feed.only().version.at().offset, 1);
    assert_eq!(feed.value(r#"{"id":1,"v":4}"#), Outcome::Changes);
}

#[test]
fn one_topic_feeds_several_tables_all_or_none() {
    let tables = vec![
        table("names", 1, &["id integer", "name text"]),
        table("mails", 2, &["id integer", "mail text", "name text?"]),
    ];
    let mut feed = Feed::new(topic("t", Format::Json), tables);
    assert_eq!(feed.value(r#"{"id":1,"name":"Ada","mail":"a@x"}"#), Outcome::Changes);
    let tables: Vec<_> = feed.changes.iter().map(|change| change.table).collect();
    assert_eq!(tables, [0, 1]);
    let outcome = feed.value(r#"{"id":1,"name":"Ada"}"#);
    let Outcome::Rejected(rejection) = &outcome else { panic!() };
    assert_eq!((rejection.table, rejection.reason), (Some(1), MissingKey));
}
