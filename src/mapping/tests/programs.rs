//! jq where a path is not enough: in columns, versions, types, ids and keys of deletes.

use super::super::Outcome;
use super::support::*;
use crate::config::{EventIds, Format, KeyFormat};
use crate::domain::change::{Operation, Skip};
use crate::domain::dead_letter::Reason;
use crate::domain::value::Value;
use crate::domain::version::VersionKind;

#[test]
fn columns_are_calculated() {
    let columns = [
        "id integer",
        "total decimal? .lines | map(.n * .price) | add",
        "first text? .lines[0].sku",
        "skus json [.lines[].sku]",
        "big integer .big + 1",
        "at timestamp? .at // $event.created",
        "who text \"\\(.name | ascii_upcase)@\\($topic)/\\($partition)/\\($offset)\"",
        "key text? $key | ltrimstr(\"k-\")",
        "trace text? $headers.trace // \"none\"",
        "when integer? $timestamp / 1000 | floor",
        "mails json? [.mails[]? | select(.primary) | .mail]",
    ];
    let mut feed = Feed::new(topic("t", Format::Json), vec![table("t", 1, &columns)]);
    feed.timestamp_ms = Some(5_999);
    let event = r#"{"id":1,"name":"ada","big":9007199254740993,"created":"2024-10-04T00:00:00Z",
        "lines":[{"sku":"a","n":3,"price":19.99},{"sku":"b","n":1,"price":0.10}],
        "mails":[{"mail":"a@x"},{"mail":"b@x","primary":true}]}"#;
    let expected = [
        int(1),
        text("60.07"),
        text("a"),
        text(r#"["a","b"]"#),
        int(9_007_199_254_740_994),
        text("2024-10-04T00:00:00.000000Z"),
        text("ADA@t/3/0"),
        text("7"),
        text("none"),
        int(5),
        text(r#"["b@x"]"#),
    ];
    assert_eq!(feed.row("k-7", event), expected);
    // No output is nothing.
    let row = feed.row("7", r#"{"id":2,"name":"b","big":1,"lines":[],"at":"2024-10-04T01:00:00Z"}"#);
    assert_eq!(row[1..4], [Value::Null, Value::Null, text("[]")]);
    assert_eq!(row[5], text("2024-10-04T01:00:00.000000Z"));
}

#[test]
fn what_fails_is_a_dead_letter_with_a_reason_of_its_own() {
    for (column, reason) in [
        ("v integer .a + \"canary\"", Reason::Expression),
        ("v integer .list[]", Reason::Expression),
        ("v text error(.secret)", Reason::Expression),
        ("v text .secret | tonumber", Reason::Expression),
        ("v integer [range(1e9)] | length", Reason::ExpressionLimit),
        ("v text .secret * 100000000", Reason::ExpressionLimit),
        ("v integer .secret | length | tostring", Reason::WrongType),
        ("v integer .list | map(. / 2) | add", Reason::WrongType),
        ("v integer .nothing | select(. != null)", Reason::MissingValue),
        ("v integer .big * 10", Reason::OutOfRange),
    ] {
        let mut feed = Feed::new(topic("t", Format::Json), vec![table("t", 1, &["id integer", column])]);
        let outcome =
            feed.value(r#"{"id":1,"a":1,"list":[1,2],"secret":"canary","big":9223372036854775807}"#);
        let (found, path) = refusal(&outcome);
        assert_eq!(found, reason, "{column}");
        assert_eq!(path, column.splitn(3, ' ').nth(2).unwrap(), "the program says where");
        let Outcome::Rejected(rejection) = &outcome else { unreachable!() };
        assert!(!rejection.message.contains("canary"), "{}", rejection.message);
        // The next event is read as if nothing had been.
        assert_eq!(refusal(&feed.value("{}")).1, ".id");
    }
    let mut feed =
        Feed::new(topic("t", Format::Json), vec![table("t", 1, &["id integer", "v json? .a | [.]"])]);
    let deep = format!("{{\"id\":1,\"a\":{}1{}}}", "[".repeat(200), "]".repeat(200));
    assert_eq!(refusal(&feed.value(&deep)), (Reason::OutOfRange, "."));
    assert_eq!(refusal(&feed.value(r#"{"id":1,"b":{"x":1,"x":2}}"#)), (Reason::Malformed, "."));
    assert_eq!(refusal(&feed.value(r#"{"id":1,"b":"\ud800"}"#)), (Reason::Malformed, "."));
}

#[test]
fn versions_types_and_ids_are_calculated() {
    let mut typed = topic("t", Format::Json);
    typed.event_type = Some(expression(".meta.name | split(\".\") | .[-1]"));
    typed.version = Some(expression("[.meta.epoch, .meta.seq]"));
    typed.event_ids = Some(EventIds { source: expression("\"\\(.meta.source)/\\(.meta.id)\""), window: 10 });
    let mut orders = table("t", 1, &["id integer", "status text?"]);
    orders.sources[0].mapping = events([
        ("Placed", upsert([(0, ".id"), (1, ".state // \"new\" | ascii_downcase")])),
        ("Gone", delete([(0, ".id")])),
    ]);
    let mut feed = Feed::new(typed, vec![orders]);
    let event = |name: &str, seq: u32, id: &str| {
        format!(
            r#"{{"id":1,"state":"OPEN","meta":{{"name":"shop.{name}","epoch":2,"seq":{seq},"source":"s","id":"{id}"}}}}"#
        )
    };
    assert_eq!(feed.row("", &event("Placed", 7, "a")), [int(1), text("open")]);
    assert_eq!(feed.version(), (VersionKind::Integers, vec![2, 7]));
    assert_eq!(feed.value(&event("Placed", 8, "a")), Outcome::Skipped(Skip::Duplicate));
    assert_eq!(feed.value(&event("Gone", 8, "b")), Outcome::Changes);
    assert_eq!(feed.only().operation, Operation::Delete);
    assert_eq!(refusal(&feed.value(&event("Lost", 8, "c"))).0, Reason::UnknownType);
    assert_eq!(
        refusal(&feed.value(r#"{"meta":{"name":7}}"#)),
        (Reason::Expression, ".meta.name | split(\".\") | .[-1]")
    );
}

#[test]
fn keys_of_deletes_are_calculated_from_the_record_key() {
    let mut users = table("t", 1, &["id text .id | ascii_downcase", "name text?"]);
    users.sources[0].key_from = [(0, expression("$key | ascii_downcase"))].into();
    let mut feed = Feed::new(topic("t", Format::Json), vec![users]);
    assert_eq!(feed.row("ADA", r#"{"id":"ADA"}"#)[0], text("ada"));
    assert_eq!(feed.tombstone("ADA"), Outcome::Changes);
    assert_eq!(feed.only().values[0], text("ada"));
    // What reads nothing but the record key needs no more to be said.
    let columns =
        ["tenant text $key.name | split(\":\")[0]", "id integer $key.name | split(\":\")[1] | tonumber"];
    let mut json_keys = topic("t", Format::Json);
    json_keys.key_format = Some(KeyFormat::Json);
    let mut feed = Feed::new(json_keys, vec![table("t", 2, &columns)]);
    assert_eq!(feed.row(r#"{"name":"acme:7"}"#, "{}"), [text("acme"), int(7)]);
    assert_eq!(feed.tombstone(r#"{"name":"acme:7"}"#), Outcome::Changes);
    assert_eq!(feed.only().values, [text("acme"), int(7)]);
    assert_eq!(refusal(&feed.tombstone(r#"{"name":"acme"}"#)).0, Reason::Expression);
}

const BEHIND: &str = r#""op":"u","source":{"sequence":"[\"1\",\"2\"]","ts_ms":5}"#;

/// A value that the source left out is not a text to calculate with.
#[test]
fn placeholders_are_not_calculated_with() {
    let left_out = "\"__debezium_unavailable_value\"";
    let feed = |column: &str| {
        Feed::new(topic("t", Format::DebeziumJson), vec![table("t", 1, &["id integer", column])])
    };
    let event =
        |body: &str| format!(r#"{{"after":{{"id":1,"small":"s","body":{body},"list":[1]}},{BEHIND}}}"#);
    let mut of_one = feed("v text? .body | ascii_upcase");
    assert_eq!(of_one.row("{\"id\":1}", &event("\"long\""))[1], text("LONG"));
    assert_eq!(of_one.row("{\"id\":1}", &event(left_out))[1], Value::Absent);
    assert_eq!(of_one.row("{\"id\":1}", &event("[\"__debezium_unavailable_value\"]"))[1], Value::Absent);
    let map = format!("{{{left_out}:{left_out}}}");
    assert_eq!(of_one.row("{\"id\":1}", &event(&map))[1], Value::Absent);
    for column in [
        "v text? .body + .small",
        "v json? to_entries",
        "v json? .",
        "v json? [$event.after.body, .small]",
        "v json? $event | .after | [.]",
        "v text? \"\\(.body)\\($offset)\"",
    ] {
        let mut feed = feed(column);
        let outcome = feed.record("{\"id\":1}", &event(left_out));
        if column == "v json? ." {
            // A path, as it is sent.
            assert_eq!(outcome, Outcome::Changes);
            continue;
        }
        assert_eq!(refusal(&outcome).0, Reason::MissingValue, "{column}");
        assert_eq!(feed.record("{\"id\":1}", &event("\"long\"")), Outcome::Changes, "{column}");
    }
    let mut other = feed("v integer? .list[0] + $event.source.ts_ms");
    assert_eq!(other.row("{\"id\":1}", &event(left_out))[1], int(6));
    // The row as it was, where there is no record key.
    let mut feed =
        Feed::new(topic("t", Format::DebeziumJson), vec![table("t", 1, &["id text .id | tostring"])]);
    let deleted = r#"{"before":{"id":7},"after":null,"op":"d","source":{"sequence":"[\"1\",\"2\"]"}}"#;
    assert_eq!(feed.bytes(None, Some(deleted.as_bytes())), Outcome::Changes);
    assert_eq!(feed.only().values, [text("7")]);
}

/// A flattened row is the event.
#[test]
fn placeholders_in_flattened_rows_are_not_calculated_with() {
    let event = |body: &str| {
        format!(r#"{{"id":1,"small":"s","after":"s","body":"{body}","__source_sequence":"[\"1\",\"2\"]"}}"#)
    };
    let left_out = event("__debezium_unavailable_value");
    let feed = |column: &str| {
        Feed::new(topic("t", Format::DebeziumFlat), vec![table("t", 1, &["id integer", column])])
    };
    for column in ["v text? $event.body | ascii_upcase", "v text? $event.body + .body"] {
        let mut feed = feed(column);
        assert_ne!(feed.row("{\"id\":1}", &event("long"))[1], Value::Absent, "{column}");
        assert_eq!(feed.row("{\"id\":1}", &left_out)[1], Value::Absent, "{column}");
    }
    for column in
        ["v text? $event.body + $event.small", "v json? $event | [.]", "v text? .small + $event.body"]
    {
        let mut feed = feed(column);
        assert_eq!(refusal(&feed.record("{\"id\":1}", &left_out)).0, Reason::MissingValue, "{column}");
        assert_eq!(feed.record("{\"id\":1}", &event("long")), Outcome::Changes, "{column}");
    }
    assert_eq!(feed("v text? $event.after | ascii_upcase").row("{\"id\":1}", &left_out)[1], text("S"));
}

/// What a program reads is there when it runs.
#[test]
fn a_function_with_one_argument_less_reads_its_input() {
    let columns =
        ["id integer $key | tonumber", "first text? .lines | nth(0)", "any boolean? .lines | any(true)"];
    let mut feed = Feed::new(topic("t", Format::Json), vec![table("t", 1, &columns)]);
    assert_eq!(feed.row("1", r#"{"lines":["a","b"]}"#), [int(1), text("a"), int(1)]);
}

#[test]
fn text_of_a_database_is_text_until_it_is_read() {
    let columns = ["id integer", "a json? .doc", "b json? .doc | fromjson | .x", "c json? .doc | ."];
    let mut feed = Feed::new(topic("t", Format::DebeziumJson), vec![table("t", 1, &columns)]);
    let event = format!(r#"{{"after":{{"id":1,"doc":"{{\"x\": 1}}"}},{BEHIND}}}"#);
    let row = feed.row("{\"id\":1}", &event);
    assert_eq!(row[1..], [text(r#"{"x": 1}"#), text("1"), text(r#""{\"x\": 1}""#)]);
}

#[test]
fn raw_values_are_texts_to_programs() {
    let columns = [
        "id text $key",
        "first text . | split(\";\") | .[0]",
        "n integer . | split(\";\") | .[1] | tonumber",
    ];
    let mut feed = Feed::new(topic("t", Format::Raw), vec![table("t", 1, &columns)]);
    assert_eq!(feed.row("k", "a;7"), [text("k"), text("a"), int(7)]);
    assert_eq!(refusal(&feed.bytes(Some(b"k"), Some(&[0xFF]))), (Reason::Malformed, "."));
}
