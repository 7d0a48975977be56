//! Debezium's envelopes, as observed with PostgreSQL.

use super::super::Outcome;
use super::support::*;
use crate::config::{Format, TableSource};
use crate::domain::change::{Operation, Skip};
use crate::domain::dead_letter::Reason::{
    Malformed, MissingKey, MissingValue, OutOfRange, UnknownType, Version, WrongType,
};
use crate::domain::snapshot::Phase;
use crate::domain::value::Value;
use crate::domain::version::VersionKind;

fn customers() -> Feed {
    let columns = ["id integer", "name text", "mail text? .email", "photo blob?", "tags json?", "seen date?"];
    Feed::new(topic("p.public.customers", Format::DebeziumJson), vec![table("customers", 1, &columns)])
}

pub fn envelope(op: &str, before: &str, after: &str, sequence: &str) -> String {
    let sequence = sequence.replace('"', "\\\"");
    format!(
        r#"{{"before":{before},"after":{after},"source":{{"version":"3.6.1.Final","ts_ms":1,"sequence":"{sequence}","lsn":2}},"transaction":null,"op":"{op}","ts_ms":2}}"#
    )
}

pub const FIRST: &str = r#"["100","105"]"#;
const ROW: &str = r#"{"id":31,"name":"Ada","email":"a@x","photo":"AAE=","tags":"{\"a\": 1}","seen":0}"#;
/// What Debezium invents where it knows only the key.
const FILLER: &str = r#"{"id":31,"name":"","email":null,"photo":null,"tags":null,"seen":null}"#;

fn ada() -> Vec<Value> {
    vec![int(31), text("Ada"), text("a@x"), Value::Blob(vec![0, 1]), text("{\"a\": 1}"), text("1970-01-01")]
}

#[test]
fn creates_updates_and_reads_are_rows() {
    for op in ["c", "u", "r"] {
        let mut feed = customers();
        assert_eq!(feed.row(r#"{"id":31}"#, &envelope(op, "null", ROW, FIRST)), ada());
        assert_eq!(feed.only().operation, WRITE);
        assert_eq!(feed.version(), (VersionKind::Integers, vec![100, 105]));
        assert!(!feed.plan.catalog().tables[0].ordered_by_position);
    }
}

#[test]
fn a_delete_takes_the_key_from_the_record_key_alone() {
    let mut feed = customers();
    let delete = envelope("d", FILLER, "null", FIRST);
    // A key that differs from `before` shows where it comes from.
    assert_eq!(feed.record(r#"{"id":32}"#, &delete), Outcome::Changes);
    assert_eq!(feed.only().operation, Operation::Delete);
    assert_eq!(feed.only().values[0], int(32));
    assert!(feed.only().values[1..].iter().all(Value::is_absent));
    assert_eq!(refusal(&feed.record(r#"{"other":1}"#, &delete)), (MissingKey, "$key.id"));
    assert_eq!(refusal(&feed.record("", &delete)), (Malformed, "$key"));
    // No record key: no primary key, and then the old row is whole.
    assert_eq!(feed.value(&delete), Outcome::Changes);
    assert_eq!(feed.only().values[0], int(31));
}

#[test]
fn renamed_key_columns_have_the_sources_name_in_the_key() {
    let columns = ["user_id integer .id", "db text $event.source.db"];
    let mut feed = Feed::new(topic("t", Format::DebeziumJson), vec![table("t", 2, &columns)]);
    let value =
        r#"{"before":{"id":1},"after":null,"op":"d","source":{"db":"shop","sequence":"[null,\"5\"]"}}"#;
    assert_eq!(feed.record(r#"{"id":1}"#, value), Outcome::Changes);
    assert_eq!(feed.only().values, [int(1), text("shop")]);
    assert_eq!(feed.version(), (VersionKind::Integers, vec![5, 5]));
}

#[test]
fn the_tombstone_behind_its_delete_is_skipped_and_a_lone_one_is_not() {
    let mut feed = customers();
    let delete = envelope("d", FILLER, "null", FIRST);
    let key = r#"{"id":31}"#;
    feed.record(key, &delete);
    let remembered = feed.memory.after_delete.clone().unwrap();
    assert_eq!((&remembered.key[..], remembered.version), (key.as_bytes(), feed.only().version));
    assert_eq!(feed.tombstone(key), Outcome::Skipped(Skip::Tombstone));
    // A second one is not behind the delete any more.
    assert_eq!(feed.tombstone(key), Outcome::Changes);
    assert_eq!(feed.only().operation, Operation::Tombstone);
    assert_eq!(feed.only().values[0], int(31));

    for between in
        [envelope("c", "null", ROW, FIRST), "not json".to_owned(), envelope("m", "null", "null", FIRST)]
    {
        feed.record(key, &delete);
        feed.record(key, &between);
        assert_eq!(feed.memory.after_delete, None);
        assert_eq!(feed.tombstone(key), Outcome::Changes);
    }
    feed.record(key, &delete);
    assert_eq!(feed.tombstone(r#"{"id":32}"#), Outcome::Changes, "another key");
    assert_eq!(refusal(&feed.bytes(None, None)), (MissingKey, "$key.id"));
}

#[test]
fn a_truncate_has_a_version_and_no_key() {
    let mut feed = customers();
    assert_eq!(feed.value(&envelope("t", "null", "null", FIRST)), Outcome::Changes);
    assert_eq!(feed.only().operation, Operation::Truncate);
    assert_eq!(feed.only().values, []);
    assert_eq!(feed.version(), (VersionKind::Integers, vec![100, 105]));
}

#[test]
fn other_operations() {
    let mut feed = customers();
    assert_eq!(feed.value(&envelope("m", "null", "null", FIRST)), IGNORED);
    assert_eq!(refusal(&feed.value(&envelope("x", "null", ROW, FIRST))), (UnknownType, "$event.op"));
    assert_eq!(refusal(&feed.value(r#"{"ts_ms":1795434797275}"#)), (Malformed, "$event.op"));
    assert_eq!(refusal(&feed.value(ROW)), (Malformed, "$event.op"));
    assert_eq!(refusal(&feed.value("[]")), (Malformed, "$event"));
    assert_eq!(refusal(&feed.value(&envelope("c", "null", "null", FIRST))), (MissingKey, ".id"));
}

#[test]
fn the_sequence_orders_as_a_pair_of_numbers() {
    let mut feed = customers();
    let mut last = None;
    for sequence in [r#"[null,"99"]"#, r#"["99","1000"]"#, r#"["1000","200"]"#, r#"["1000","1000"]"#] {
        assert_eq!(feed.value(&envelope("u", "null", ROW, sequence)), Outcome::Changes);
        let version = feed.only().version;
        assert!(last < Some(version), "{sequence}");
        last = Some(version);
    }
    assert_eq!(
        refusal(&feed.value(&envelope("u", "null", ROW, "[1,2]"))),
        (Version, "$event.source.sequence")
    );
    let without = r#"{"after":{"id":1,"name":"a"},"op":"c","source":{"sequence":null}}"#;
    assert_eq!(refusal(&feed.value(without)), (Version, "$event.source.sequence"));
    assert_eq!(refusal(&feed.value(r#"{"after":{"id":1,"name":"a"},"op":"c"}"#)).0, Version);
}

#[test]
fn a_declared_version_replaces_the_sequence() {
    let mut topic = topic("t", Format::DebeziumJson);
    topic.version = Some(expression("$event.source.ts_us"));
    let mut feed = Feed::new(topic, vec![table("t", 1, &["id integer"])]);
    assert_eq!(feed.value(r#"{"after":{"id":1},"op":"c","source":{"ts_us":17}}"#), Outcome::Changes);
    assert_eq!(feed.version(), (VersionKind::Integer, vec![17]));
}

#[test]
fn a_placeholder_keeps_the_old_value() {
    let mut feed = customers();
    let ints =
        "__debezium_unavailable_value".bytes().map(|byte| byte.to_string()).collect::<Vec<_>>().join(",");
    for tags in [
        r#""__debezium_unavailable_value""#.to_owned(),
        r#"["__debezium_unavailable_value"]"#.to_owned(),
        format!("[{ints}]"),
    ] {
        let after = format!(
            r#"{{"id":31,"name":"__debezium_unavailable_value","email":null,"photo":"X19kZWJleml1bV91bmF2YWlsYWJsZV92YWx1ZQ==","tags":{tags}}}"#
        );
        let row = feed.row(r#"{"id":31}"#, &envelope("u", "null", &after, FIRST));
        assert_eq!(row, [int(31), Value::Absent, Value::Null, Value::Absent, Value::Absent, Value::Null]);
        assert_eq!(feed.only().operation, WRITE);
    }

    let mut hex =
        Feed::new(topic("t", Format::DebeziumJson), vec![table("t", 1, &["id text", "b blob? @hex"])]);
    let after = r#"{"id":"a","b":"__debezium_unavailable_value"}"#;
    assert_eq!(hex.row("", &envelope("u", "null", after, FIRST)), [text("a"), Value::Absent]);
    let after = r#"{"id":"__debezium_unavailable_value","b":null}"#;
    assert_eq!(refusal(&hex.value(&envelope("u", "null", after, FIRST))), (MissingKey, ".id"));
}

#[test]
fn another_placeholder_may_be_configured() {
    let mut topic = topic("t", Format::DebeziumJson);
    topic.placeholder = "<unchanged>".to_owned();
    let mut feed = Feed::new(topic, vec![table("t", 1, &["id text", "b text?"])]);
    let after = r#"{"id":"__debezium_unavailable_value","b":"<unchanged>"}"#;
    assert_eq!(
        feed.row("", &envelope("u", "null", after, FIRST)),
        [text("__debezium_unavailable_value"), Value::Absent]
    );
}

/// A value with the schema of its row beside it.
pub fn with_schema(fields: &str, after: &str) -> String {
    let row = |name: &str| {
        format!(
            r#"{{"type":"struct","fields":[{fields}],"optional":true,"name":"p.public.t.Value","field":"{name}"}}"#
        )
    };
    format!(
        r#"{{"schema":{{"type":"struct","fields":[{},{},{{"type":"string","optional":false,"field":"op"}}],"optional":false,"name":"p.public.t.Envelope","version":2}},"payload":{}}}"#,
        row("before"),
        row("after"),
        envelope("c", "null", after, FIRST)
    )
}

pub fn typed_field(name: &str, ty: &str, logical: &str) -> String {
    let parameters = match logical {
        "org.apache.kafka.connect.data.Decimal" => {
            r#","parameters":{"scale":"2","connect.decimal.precision":"12"}"#
        }
        _ => "",
    };
    format!(
        r#"{{"type":"{ty}","optional":true,"name":"{logical}","version":1{parameters},"field":"{name}"}}"#
    )
}

#[test]
fn an_embedded_schema_gives_values_their_meaning() {
    const DECIMAL: &str = "org.apache.kafka.connect.data.Decimal";
    let cases = [
        ("decimal", DECIMAL, r#""DQJy5cM=""#, Ok(text("558756592.03"))),
        ("decimal", DECIMAL, r#""/h3A""#, Ok(text("-1234.56"))),
        ("decimal?", DECIMAL, "null", Ok(Value::Null)),
        ("decimal", DECIMAL, "null", Err(MissingValue)),
        ("decimal", DECIMAL, r#""%%""#, Err(Malformed)),
        ("text", DECIMAL, r#""DQJy5cM=""#, Err(WrongType)),
        ("real", DECIMAL, r#""DQJy5cM=""#, Err(WrongType)),
        (
            "decimal",
            "io.debezium.data.VariableScaleDecimal",
            r#"{"scale":21,"value":"AQ=="}"#,
            Ok(text("0.000000000000000000001")),
        ),
        ("decimal", "io.debezium.data.VariableScaleDecimal", "{}", Err(Malformed)),
        (
            "timestamp",
            "io.debezium.time.MicroTimestamp",
            "777507280750002",
            Ok(text("1994-08-21T22:14:40.750002Z")),
        ),
        ("timestamp", "io.debezium.time.Timestamp", "1500000000001", Ok(text("2017-07-14T02:40:00.001000Z"))),
        (
            "timestamp",
            "org.apache.kafka.connect.data.Timestamp",
            "1500000000001",
            Ok(text("2017-07-14T02:40:00.001000Z")),
        ),
        ("timestamp", "io.debezium.time.NanoTimestamp", "1000", Ok(text("1970-01-01T00:00:00.000001Z"))),
        // The schema knows better than the configuration.
        (
            "timestamp @seconds",
            "io.debezium.time.MicroTimestamp",
            "0",
            Ok(text("1970-01-01T00:00:00.000000Z")),
        ),
        ("timestamp", "io.debezium.time.MicroTimestamp", "9223372036825200000", Err(OutOfRange)),
        (
            "timestamp",
            "io.debezium.time.ZonedTimestamp",
            r#""2017-04-25T09:01:35.123000Z""#,
            Ok(text("2017-04-25T09:01:35.123000Z")),
        ),
        ("timestamp", "io.debezium.time.ZonedTimestamp", r#""-infinity""#, Err(OutOfRange)),
        ("integer", "io.debezium.time.MicroTimestamp", "17", Ok(int(17))),
        ("date", "io.debezium.time.MicroTimestamp", "17", Err(WrongType)),
        ("timestamp", "io.debezium.time.Date", "17", Err(WrongType)),
        ("date", "io.debezium.time.Date", "17", Ok(text("1970-01-18"))),
        ("date", "org.apache.kafka.connect.data.Date", "-735160", Err(OutOfRange)),
        ("time", "io.debezium.time.MicroTime", "86400000000", Ok(text("24:00:00.000000"))),
        ("time", "io.debezium.time.Time", "43200500", Ok(text("12:00:00.500000"))),
        ("time", "org.apache.kafka.connect.data.Time", "1", Ok(text("00:00:00.001000"))),
        ("time", "io.debezium.time.NanoTime", "1000", Ok(text("00:00:00.000001"))),
        ("json", "io.debezium.data.Json", r#""{\"a\": 1}""#, Ok(text("{\"a\": 1}"))),
        (
            "uuid",
            "io.debezium.data.Uuid",
            r#""123E4567-e89b-12d3-a456-426614174000""#,
            Ok(text("123e4567-e89b-12d3-a456-426614174000")),
        ),
    ];
    for (column, logical, json, expected) in cases {
        let columns = ["id integer", &format!("c {column}")];
        let mut feed = Feed::new(topic("t", Format::DebeziumJson), vec![table("t", 1, &columns)]);
        let fields = format!(
            r#"{{"type":"int32","optional":false,"field":"id"}},{}"#,
            typed_field("c", "any", logical)
        );
        // Twice: the second time from what is known of the schema.
        for _ in 0..2 {
            let outcome = feed.value(&with_schema(&fields, &format!(r#"{{"id":1,"c":{json}}}"#)));
            match &expected {
                Ok(value) => {
                    assert_eq!(outcome, Outcome::Changes, "{column} {logical} {json}");
                    assert_eq!(&feed.only().values[1], value, "{column} {logical} {json}");
                }
                Err(reason) => assert_eq!(refusal(&outcome), (*reason, ".c"), "{column} {logical} {json}"),
            }
        }
    }
}

#[test]
fn schemas_may_change_more_often_than_they_are_kept() {
    let mut feed =
        Feed::new(topic("t", Format::DebeziumJson), vec![table("t", 1, &["id integer", "c timestamp?"])]);
    for round in 0..40 {
        let logical =
            if round % 2 == 0 { "io.debezium.time.Timestamp" } else { "io.debezium.time.MicroTimestamp" };
        let fields = format!(
            r#"{{"type":"int32","field":"id"}},{{"type":"string","field":"x{round}"}},{}"#,
            typed_field("c", "int64", logical)
        );
        let row = feed.row("", &with_schema(&fields, r#"{"id":1,"c":1000000}"#));
        let expected =
            if round % 2 == 0 { "1970-01-01T00:16:40.000000Z" } else { "1970-01-01T00:00:01.000000Z" };
        assert_eq!(row[1], text(expected));
    }
}

#[test]
fn placeholders_keys_and_deletes_with_schemas() {
    let mut feed = customers();
    let value = with_schema("", r#"{"id":1,"name":"__debezium_unavailable_value"}"#);
    assert_eq!(feed.record("", &value), Outcome::Changes);
    assert_eq!(feed.changes[1].values[..2], [int(1), Value::Absent]);
    let key = r#"{"schema":{"type":"struct","fields":[{"type":"int32","optional":false,"field":"id"}],"optional":false,"name":"k"},"payload":{"id":9}}"#;
    assert_eq!(feed.tombstone(key), Outcome::Changes);
    assert_eq!(feed.only().values[0], int(9));
    assert_eq!(refusal(&feed.value(r#"{"schema":{"fields":7},"payload":{}}"#)), (Malformed, "$event"));
    assert_eq!(refusal(&feed.value(r#"{"schema":{},"payload":null}"#)), (Malformed, "$event"));
}

#[test]
fn a_column_named_payload_is_only_a_column() {
    let mut feed =
        Feed::new(topic("t", Format::DebeziumJson), vec![table("t", 2, &["schema text", "payload text"])]);
    // As a composite key it even has exactly the two fields.
    assert_eq!(feed.tombstone(r#"{"schema":"a","payload":"b"}"#), Outcome::Changes);
    assert_eq!(feed.only().values, [text("a"), text("b")]);
    let value = envelope("c", "null", r#"{"schema":"a","payload":"b"}"#, FIRST);
    assert_eq!(feed.row("", &value), [text("a"), text("b")]);
}

#[test]
fn odd_column_names_and_big_numbers() {
    let columns = ["Id integer", "größe decimal .\"Größe\"", "long text .\"long\u{a0}text\""];
    let mut feed = Feed::new(topic("t", Format::DebeziumJson), vec![table("t", 1, &columns)]);
    let after = "{\"Id\":9223372036854775807,\"Größe\":\"-52503.332\",\"long\u{a0}text\":\"x\"}";
    assert_eq!(
        feed.row("", &envelope("r", "null", after, FIRST)),
        [int(i64::MAX), text("-52503.332"), text("x")]
    );
}

#[test]
fn a_row_whose_key_changes_is_carried_over() {
    let mut feed = customers();
    feed.set_headers([("__debezium.newkey", r#"{"id":32}"#)]);
    let key = r#"{"id":31}"#;
    assert_eq!(feed.record(key, &envelope("d", FILLER, "null", FIRST)), Outcome::Changes);
    let [carry, delete] = &feed.changes[..] else { panic!("{:?}", feed.changes) };
    assert_eq!(carry.operation, Operation::Carry { read_before_ms: 1 - 60_000 });
    assert_eq!((&carry.from[0], &carry.values[0]), (&int(31), &int(32)));
    assert_eq!((delete.operation, &delete.values[0]), (Operation::Delete, &int(31)));
    // Whatever the row of the new key says itself is newer.
    assert_eq!(carry.version, delete.version.second_of_its_kind());
    assert_eq!(feed.tombstone(key), Outcome::Skipped(Skip::Tombstone));
}

/// What the two events of a change of key are worth next to each other only a version of their own says.
#[test]
fn in_the_order_of_the_log_nothing_is_carried_over() {
    let mut topic = topic("t", Format::DebeziumJson);
    topic.by_position = true;
    let mut feed = Feed::new(topic, vec![table("t", 1, &["id integer", "name text?"])]);
    feed.set_headers([("__debezium.newkey", r#"{"id":32}"#)]);
    let gone = r#"{"before":{"id":31},"after":null,"op":"d","source":{"sequence":null}}"#;
    assert_eq!(feed.record(r#"{"id":31}"#, gone), Outcome::Changes);
    assert_eq!((feed.only().operation, &feed.only().values[0]), (Operation::Delete, &int(31)));
    feed.set_headers([("__debezium.oldkey", r#"{"id":31}"#)]);
    let here = r#"{"before":null,"after":{"id":32,"name":"Ada"},"op":"c","source":{"sequence":null}}"#;
    assert_eq!(feed.record(r#"{"id":32}"#, here), Outcome::Changes);
    assert_eq!(feed.only().values, [int(32), text("Ada")]);
    assert_eq!(feed.version().0, VersionKind::Position);
}

#[test]
fn a_row_that_comes_to_a_key_has_nothing_of_the_one_before() {
    let mut feed = customers();
    let after = r#"{"id":32,"name":"Ada","photo":"__debezium_unavailable_value"}"#;
    assert_eq!(feed.record(r#"{"id":32}"#, &envelope("c", "null", after, FIRST)), Outcome::Changes);
    let [delete, write] = &feed.changes[..] else { panic!("{:?}", feed.changes) };
    assert_eq!((delete.operation, write.operation), (Operation::Delete, WRITE));
    // What is carried over from its old key is newer.
    assert_eq!(delete.version, write.version.first_of_its_kind());
    assert_eq!(feed.record(r#"{"id":32}"#, &envelope("u", "null", after, FIRST)), Outcome::Changes);
    assert_eq!(feed.only().operation, WRITE, "an update keeps what it leaves out");
}

#[test]
fn a_row_that_keeps_its_key_here_is_not_deleted() {
    // The key of the source has more columns than that of the table.
    let mut feed = Feed::new(topic("t", Format::DebeziumJson), vec![table("t", 1, &["id integer"])]);
    feed.set_headers([("__debezium.newkey", r#"{"tenant":"b","id":1}"#)]);
    let key = r#"{"tenant":"a","id":1}"#;
    assert_eq!(feed.record(key, &envelope("d", "null", "null", FIRST)), IGNORED);
    assert_eq!(feed.tombstone(key), Outcome::Skipped(Skip::Tombstone));
}

#[test]
fn a_new_key_that_cannot_be_read_leaves_a_delete() {
    let mut feed = customers();
    for (header, expected) in [(r#"{"other":32}"#, Outcome::Changes), (r#"{"id":"x"}"#, Outcome::Changes)] {
        feed.set_headers([("__debezium.newkey", header)]);
        assert_eq!(feed.record(r#"{"id":31}"#, &envelope("d", FILLER, "null", FIRST)), expected);
        assert_eq!(feed.only().operation, Operation::Delete);
    }
    feed.set_headers([("__debezium.newkey", "{")]);
    let outcome = feed.record(r#"{"id":31}"#, &envelope("d", FILLER, "null", FIRST));
    assert_eq!(refusal(&outcome).0, Malformed);
}

#[test]
fn whole_snapshots_are_told_of_where_they_may_leave_something_behind() {
    let read = |mark: &str, sequence: &str| {
        envelope("r", "null", ROW, sequence)
            .replace("\"ts_ms\":1,", &format!("\"ts_ms\":1,\"snapshot\":{mark},"))
    };
    let phases = |feed: &Feed| -> Vec<Operation> {
        let of_snapshots = feed.changes.iter().filter(|change| change.values.is_empty());
        of_snapshots.map(|change| change.operation).collect()
    };
    let (first, second) = (r#"[null,"100"]"#, r#"[null,"200"]"#);
    let mut feed = customers();
    for (mark, sequence, expected) in [
        ("\"first\"", first, None),
        ("\"true\"", first, None),
        ("\"last_in_data_collection\"", first, Some(Phase::Listed)),
        ("\"incremental\"", r#"["100","150"]"#, None),
        ("null", r#"["100","150"]"#, None),
        ("\"false\"", r#"["100","150"]"#, None),
        ("\"first_in_data_collection\"", second, Some(Phase::UnderWay)),
        ("\"true\"", second, None),
        ("true", second, None),
        ("\"last\"", second, Some(Phase::Listed)),
    ] {
        assert_eq!(feed.record(r#"{"id":31}"#, &read(mark, sequence)), Outcome::Changes);
        let expected: Vec<Operation> = expected.into_iter().map(Operation::Snapshot).collect();
        assert_eq!(phases(&feed), expected, "{mark} {sequence}");
        if let Some(change) = feed.changes.get(1) {
            assert_eq!(change.version, feed.changes[0].version.first_of_its_kind());
        }
    }
    // A version that somebody declares says nothing of when a snapshot was taken.
    let mut declared = topic("t", Format::DebeziumJson);
    declared.version = Some(expression("$event.source.ts_ms"));
    let mut feed = Feed::new(declared, vec![table("t", 1, &["id integer"])]);
    feed.record("{}", &read("\"last\"", first));
    assert!(phases(&feed).is_empty());
}

/// Rows do not say which source they are of: those of the others would go with those of the emptied one.
#[test]
fn a_truncate_of_one_of_several_sources_is_refused() {
    let topics =
        || vec![topic("events_2023", Format::DebeziumJson), topic("events_2024", Format::DebeziumJson)];
    let truncate = envelope("t", "null", "null", FIRST);
    let mut both = table("events", 1, &["id integer"]);
    both.sources.push(TableSource { topic: 1, ..both.sources[0].clone() });
    let mut feed = Feed::of(&config(topics(), vec![both.clone()]));
    let Outcome::Rejected(refused) = feed.value(&truncate) else { panic!("taken") };
    assert_eq!((refused.reason, refused.table), (UnknownType, Some(0)));
    assert!(refused.message.contains("TRUNCATE") && refused.message.contains("2 sources"), "{refused:?}");
    // Of another source table it does not concern this one.
    both.sources[0].when.rows = Some(condition("$event.source.table == \"items\""));
    assert_eq!(Feed::of(&config(topics(), vec![both])).value(&truncate), IGNORED);
}
