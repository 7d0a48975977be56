//! Maxwell's and Canal's records, and Debezium's without their envelope.

use super::super::Outcome;
use super::support::*;
use crate::config::{Format, Topic};
use crate::domain::change::{Operation, Skip};
use crate::domain::dead_letter::Reason::{Malformed, MissingKey, UnknownType, Version, WrongType};
use crate::domain::snapshot::Phase;
use crate::domain::value::Value;
use crate::domain::version::VersionKind;

const COLUMNS: [&str; 6] =
    ["id integer", "name text", "price decimal?", "seen timestamp?", "active boolean?", "tags json?"];

fn feed(format: Format) -> Feed {
    Feed::new(topic("shop.items", format), vec![table("items", 1, &COLUMNS)])
}

fn row() -> Vec<Value> {
    vec![
        int(7),
        text("Ada \"A\""),
        text("1.50"),
        text("2026-03-01T12:00:00.250000Z"),
        int(1),
        text("[\"a\"]"),
    ]
}

fn maxwell(kind: &str, data: &str, more: &str) -> String {
    format!(
        r#"{{"database":"shop","table":"items","type":"{kind}","ts":1477053217,"xid":23396,"commit":true,"data":{data}{more}}}"#
    )
}

const MAXWELL: &str =
    r#"{"id":7,"name":"Ada \"A\"","price":1.50,"seen":"2026-03-01 12:00:00.25","active":1,"tags":["a"]}"#;

#[test]
fn maxwell_rows_come_change_and_go() {
    for kind in ["insert", "update", "bootstrap-insert"] {
        let mut feed = feed(Format::Maxwell);
        assert_eq!(feed.row(r#"{"pk.id":7}"#, &maxwell(kind, MAXWELL, "")), row(), "{kind}");
        assert_eq!(feed.version().0, VersionKind::Position);
    }
    let mut feed = feed(Format::Maxwell);
    // The row that was says which one goes, whatever the record key is.
    assert_eq!(feed.value(&maxwell("delete", MAXWELL, "")), Outcome::Changes);
    assert_eq!((feed.only().operation, &feed.only().values[0]), (Operation::Delete, &int(7)));
    assert_eq!(feed.tombstone(r#"{"database":"shop","table":"items","pk.id":8}"#), Outcome::Changes);
    assert_eq!((feed.only().operation, &feed.only().values[0]), (Operation::Delete, &int(8)));
    for kind in ["bootstrap-start", "bootstrap-complete", "table-alter", "database-create"] {
        assert_eq!(feed.value(&maxwell(kind, "{}", "")), IGNORED, "{kind}");
    }
    assert_eq!(refusal(&feed.value(&maxwell("upsert", MAXWELL, ""))), (UnknownType, "$event.type"));
    assert_eq!(refusal(&feed.value(MAXWELL)), (Malformed, "$event.type"));
    assert_eq!(refusal(&feed.value(&maxwell("insert", "null", ""))), (MissingKey, ".id"));
}

#[test]
fn a_changed_key_leaves_the_old_row() {
    let mut feed = feed(Format::Maxwell);
    assert_eq!(feed.value(&maxwell("update", MAXWELL, r#","old":{"id":6,"name":"x"}"#)), Outcome::Changes);
    let [write, gone] = &feed.changes[..] else { panic!("{:?}", feed.changes) };
    assert_eq!((write.operation, &write.values[0]), (WRITE, &int(7)));
    assert_eq!((gone.operation, &gone.values[0]), (Operation::Delete, &int(6)));
    assert_eq!(gone.version, write.version);
    assert_eq!(feed.value(&maxwell("update", MAXWELL, r#","old":{"name":"x"}"#)), Outcome::Changes);
    assert_eq!(feed.changes.len(), 1);

    let mut feed = self::feed(Format::Canal);
    let two = r#"[{"id":"1","name":"a"},{"id":"2","name":"b"}]"#;
    let update = canal("UPDATE", two, r#"[{"name":"x"},{"id":"9"}]"#);
    assert_eq!(feed.value(&update), Outcome::Changes);
    let keys: Vec<(Operation, &Value)> =
        feed.changes.iter().map(|change| (change.operation, &change.values[0])).collect();
    assert_eq!(keys, [(WRITE, &int(1)), (WRITE, &int(2)), (Operation::Delete, &int(9))]);
    assert_eq!(refusal(&feed.value(&canal("UPDATE", two, "[{}]"))), (Malformed, "$event.old"));
}

fn canal(kind: &str, data: &str, old: &str) -> String {
    format!(
        r#"{{"data":{data},"database":"shop","es":1588748884000,"id":24,"isDdl":false,"mysqlType":{{"id":"bigint(20)"}},"old":{old},"pkNames":["id"],"sql":"","sqlType":{{"id":-5}},"table":"items","ts":1588748884545,"type":"{kind}"}}"#
    )
}

const CANAL: &str = r#"{"id":"7","name":"Ada \"A\"","price":"1.50","seen":"2026-03-01 12:00:00.25","active":"1","tags":"[\"a\"]"}"#;

#[test]
fn canal_records_have_many_rows_of_text() {
    let mut feed = feed(Format::Canal);
    let more = r#"{"id":"8","name":"null","price":null,"seen":null,"active":"0","tags":null}"#;
    assert_eq!(feed.value(&canal("INSERT", &format!("[{CANAL},{more}]"), "null")), Outcome::Changes);
    assert_eq!(feed.changes[0].values, row());
    assert_eq!(feed.changes[1].values, [int(8), text("null"), Value::Null, Value::Null, int(0), Value::Null]);
    assert_eq!(feed.value(&canal("DELETE", &format!("[{more},{CANAL}]"), "null")), Outcome::Changes);
    let gone: Vec<(Operation, &Value)> =
        feed.changes.iter().map(|change| (change.operation, &change.values[0])).collect();
    assert_eq!(gone, [(Operation::Delete, &int(8)), (Operation::Delete, &int(7))]);
    assert_eq!(feed.value(&canal("TRUNCATE", "null", "null")), Outcome::Changes);
    assert_eq!(feed.only().operation, Operation::Truncate);
    for kind in ["ALTER", "CREATE", "ERASE", "QUERY", "TIDB_WATERMARK"] {
        assert_eq!(feed.value(&canal(kind, "null", "null")), IGNORED, "{kind}");
    }
    assert_eq!(refusal(&feed.value(&canal("MERGE", "[]", "null"))), (UnknownType, "$event.type"));
    assert_eq!(refusal(&feed.value(&canal("INSERT", "{}", "null"))), (WrongType, "$event.data"));
    // All rows of a record or none.
    let wrong = r#"{"id":"9","name":"c","active":"maybe"}"#;
    assert_eq!(
        refusal(&feed.value(&canal("INSERT", &format!("[{CANAL},{wrong}]"), "null"))),
        (WrongType, ".active")
    );
    assert_eq!(feed.value(&canal("INSERT", "[]", "null")), IGNORED);
    assert_eq!(refusal(&feed.value("[]")), (Malformed, "$event"));
}

/// Two tables of one topic, of the source tables of the same names; rows of `items` have to be active.
fn two_tables(format: Format) -> Feed {
    let of = |name: &str, when: &str| {
        let mut table = table(name, 1, &["id integer", "name text"]);
        table.sources[0].when.rows = Some(condition(when));
        table
    };
    let origin = match format.is_debezium() {
        true => "$event.source.table",
        false => "$event.table",
    };
    let inactive = if format == Format::Canal { "\"0\"" } else { "0" };
    let items = of("items", &format!(r#"{origin} == "items" and .active != {inactive}"#));
    Feed::new(topic("shop", format), vec![items, of("orders", &format!(r#"{origin} == "orders""#))])
}

fn done(feed: &Feed) -> Vec<(usize, Operation)> {
    feed.changes.iter().map(|change| (change.table, change.operation)).collect()
}

#[test]
fn a_table_takes_what_is_of_its_own_source_table_and_nothing_else() {
    let data = |format, active: u8| match format {
        Format::Canal => format!(r#"[{{"id":"7","name":"a","active":"{active}"}}]"#),
        _ => format!(r#"{{"id":7,"name":"a","active":{active}}}"#),
    };
    for format in [Format::Maxwell, Format::Canal] {
        let mut feed = two_tables(format);
        let record = |kind: &str, table: &str, active| {
            let data = data(format, active);
            let record = match format {
                Format::Canal => canal(&kind.to_uppercase(), &data, "null"),
                _ => maxwell(kind, &data, ""),
            };
            record.replace(r#""table":"items""#, &format!(r#""table":"{table}""#))
        };
        for (nth, table) in ["items", "orders"].into_iter().enumerate() {
            assert_eq!(feed.value(&record("insert", table, 1)), Outcome::Changes, "{table}");
            assert_eq!(done(&feed), [(nth, WRITE)], "{format:?}");
            assert_eq!(feed.value(&record("delete", table, 1)), Outcome::Changes, "{table}");
            assert_eq!(done(&feed), [(nth, Operation::Delete)], "{format:?}");
        }
        // What is said of the row itself deletes as ever.
        assert_eq!(feed.value(&record("update", "items", 0)), Outcome::Changes);
        assert_eq!(done(&feed), [(0, Operation::Delete)], "{format:?}");
        for kind in ["insert", "update", "delete"] {
            assert_eq!(feed.value(&record(kind, "others", 1)), IGNORED, "{kind}");
        }
        if format == Format::Canal {
            assert_eq!(feed.value(&record("truncate", "orders", 1)), Outcome::Changes);
            assert_eq!(done(&feed), [(1, Operation::Truncate)]);
        }
        // Nobody knows of which table it is.
        assert_eq!(feed.tombstone(r#"{"pk.id":7}"#), IGNORED);
    }
}

#[test]
fn tables_that_debezium_sends_to_one_topic_are_told_apart_too() {
    let mut feed = two_tables(Format::DebeziumJson);
    let record = |op: &str, table: &str, number: u8, mark: &str| {
        format!(
            r#"{{"before":null,"after":{{"id":7,"name":"a"}},"source":{{"snapshot":"{mark}","table":"{table}","sequence":"[null,\"{number}\"]"}},"op":"{op}"}}"#
        )
    };
    let key = r#"{"id":7}"#;
    assert_eq!(feed.record(key, &record("r", "orders", 5, "last_in_data_collection")), Outcome::Changes);
    assert_eq!(done(&feed), [(1, WRITE), (1, Operation::Snapshot(Phase::Listed))]);
    for (nth, table) in ["items", "orders"].into_iter().enumerate() {
        for (op, operation) in [("c", WRITE), ("d", Operation::Delete), ("t", Operation::Truncate)] {
            assert_eq!(feed.record(key, &record(op, table, 6, "false")), Outcome::Changes);
            assert_eq!(done(&feed), [(nth, operation)], "{op} {table}");
        }
    }
    // That of a table which nobody has here lists nothing of theirs.
    assert_eq!(feed.record(key, &record("r", "others", 7, "true")), IGNORED);
    assert_eq!(feed.memory.unlisted, None);
}

#[test]
fn a_version_may_be_in_each_row_or_in_the_record() {
    for (from, expected) in [(".v", [[1], [2]]), ("$event.es", [[1_588_748_884_000]; 2])] {
        let mut topic = topic("shop.items", Format::Canal);
        topic.version = Some(expression(from));
        let mut feed = Feed::new(topic, vec![table("items", 1, &["id integer"])]);
        let data = r#"[{"id":"1","v":"1"},{"id":"2","v":"2"}]"#;
        assert_eq!(feed.value(&canal("INSERT", data, "null")), Outcome::Changes);
        let versions: Vec<Vec<i64>> =
            feed.changes.iter().map(|change| change.version.parts().integers).collect();
        assert_eq!(versions, expected);
    }
}

fn flat() -> Feed {
    let columns = ["id integer", "name text", "body text?", "seen date?"];
    Feed::new(flat_topic(), vec![table("items", 1, &columns)])
}

fn flat_topic() -> Topic {
    topic("shop.public.items", Format::DebeziumFlat)
}

#[test]
fn flattened_events_are_rows_with_a_version() {
    let mut feed = flat();
    let key = r#"{"id":1}"#;
    let row = r#"{"id":1,"name":"a","body":"b","seen":0,"__op":"c","__lsn":52183984,"__deleted":"false"}"#;
    assert_eq!(feed.row(key, row), [int(1), text("a"), text("b"), text("1970-01-01")]);
    assert_eq!(feed.version(), (VersionKind::Integers, vec![52_183_984; 2]));
    let row = r#"{"id":1,"name":"a","body":"__debezium_unavailable_value","__source_sequence":"[\"5\",\"9\"]","__lsn":9}"#;
    assert_eq!(feed.row(key, row), [int(1), text("a"), Value::Absent, Value::Null]);
    assert_eq!(feed.version(), (VersionKind::Integers, vec![5, 9]));
    // A deleted row has invented columns, and the key alone counts.
    let gone = r#"{"id":0,"name":"","body":null,"__deleted":"true","__lsn":60000000}"#;
    assert_eq!(feed.record(key, gone), Outcome::Changes);
    assert_eq!((feed.only().operation, &feed.only().values[0]), (Operation::Delete, &int(1)));
    assert_eq!(feed.tombstone(key), Outcome::Skipped(Skip::Tombstone));
    assert_eq!(feed.tombstone(key), Outcome::Changes);
    assert_eq!(feed.only().operation, Operation::Tombstone);
    for (more, path) in [("", ".__lsn"), (r#","__lsn":null"#, ".__lsn"), (r#","__lsn":"x""#, ".__lsn")] {
        let row = format!(r#"{{"id":1,"name":"a"{more}}}"#);
        assert_eq!(refusal(&feed.record(key, &row)), (Version, path));
    }
}

/// An `hstore` that did not change.
#[test]
fn a_placeholder_in_a_flattened_map_keeps_what_is_in_it() {
    let columns = ["id integer", "all json? .tags", "color text? .tags.color"];
    let mut feed = Feed::new(flat_topic(), vec![table("items", 1, &columns)]);
    let mut row =
        |tags: &str| feed.row(r#"{"id":1}"#, &format!(r#"{{"id":1,"tags":{tags},"__lsn":7}}"#))[1..].to_vec();
    let left_out = r#"{"__debezium_unavailable_value":"__debezium_unavailable_value"}"#;
    assert_eq!(row(left_out), [Value::Absent, Value::Absent]);
    assert_eq!(row(r#"{"color":"red"}"#), [text(r#"{"color":"red"}"#), text("red")]);
    assert_eq!(row("{}"), [text("{}"), Value::Null]);
}

#[test]
fn flattened_events_tell_of_snapshots_and_of_keys_that_change_where_they_are_asked_to() {
    let mut feed = flat();
    let row = |mark: &str| {
        format!(r#"{{"id":1,"name":"a","__source_snapshot":"{mark}","__source_sequence":"[null,\"9\"]"}}"#)
    };
    assert_eq!(feed.record(r#"{"id":1}"#, &row("last")), Outcome::Changes);
    assert_eq!(feed.changes[1].operation, Operation::Snapshot(Phase::Listed));
    feed.set_headers([("__debezium.newkey", r#"{"id":2}"#)]);
    let gone = r#"{"id":1,"name":"","__deleted":"true","__source_sequence":"[\"9\",\"10\"]"}"#;
    assert_eq!(feed.record(r#"{"id":1}"#, gone), Outcome::Changes);
    // Nobody says when it was committed.
    assert_eq!(feed.changes[0].operation, Operation::Carry { read_before_ms: i64::MIN });
    let gone = gone.replace("\"name\"", "\"__source_ts_ms\":100000,\"name\"");
    assert_eq!(feed.record(r#"{"id":1}"#, &gone), Outcome::Changes);
    assert_eq!(feed.changes[0].operation, Operation::Carry { read_before_ms: 40_000 });
    let read = row("incremental").replace("\"name\"", "\"__ts_ms\":7,\"name\"");
    assert_eq!(feed.record(r#"{"id":3}"#, &read), Outcome::Changes);
    assert_eq!(feed.changes[0].version.read_ms(), Some(7));
}

#[test]
fn flattened_events_may_have_their_schema_with_them() {
    let mut feed = Feed::new(flat_topic(), vec![table("items", 1, &["id integer", "at timestamp"])]);
    let value = r#"{"schema":{"type":"struct","fields":[{"type":"int64","field":"id"},
        {"type":"int64","name":"io.debezium.time.MicroTimestamp","field":"at"},{"type":"int64","field":"__lsn"}]},
        "payload":{"id":1,"at":1000000,"__lsn":7}}"#;
    assert_eq!(feed.row("", value), [int(1), text("1970-01-01T00:00:01.000000Z")]);
}
