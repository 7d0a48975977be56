use super::*;
use crate::config::fixture;
use crate::domain::checkpoint::TopicPartition;
use crate::domain::record::OwnedRecord;
use crate::pipeline::rehearsal::{Delivery, rehearse_into};
use crate::store::MemoryReader;

const ORDERS: &str = "
tables:
  orders:
    topic: orders
    key: id
    columns: { id: integer, status: text, total: decimal, note: text? }
    events:
      Placed: { upsert: { id: .id, status: '\"placed\"', note: null } }
      Shipped: { patch: { id: .id, status: '\"shipped\"' }, if_missing: hold }
      Erased: { delete: { id: .id } }
topics:
  orders: { format: json, event_type: .type, version: .v }
dead_letters: { keep: bytes }
";

fn record(value: &str) -> OwnedRecord {
    OwnedRecord {
        timestamp_ms: Some(1_767_225_600_000),
        value: Some(value.as_bytes().to_vec()),
        ..Default::default()
    }
}

/// The replica that these records lead to, all in partition 3.
fn fed(yaml: &str, records: &[OwnedRecord]) -> (Config, MemoryReader) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c.yaml");
    std::fs::write(&path, yaml).unwrap();
    let config = fixture::load_mapping(&path).unwrap_or_else(|errors| panic!("{errors}")).config;
    let at = TopicPartition { topic: 0, partition: 3 };
    let deliveries: Vec<_> = records.iter().map(|record| Delivery { at, record, ends_batch: true }).collect();
    let registry = crate::decode::registry::Registry::fixed([]);
    let (store, stopped) = rehearse_into(&config, &registry, &deliveries).unwrap();
    assert_eq!(stopped, None);
    (config, store.reader())
}

fn explained(values: &[&str], key: i64) -> Explanation {
    let records: Vec<_> = values.iter().map(|value| record(value)).collect();
    explained_of(ORDERS, &records, key)
}

fn explained_of(yaml: &str, records: &[OwnedRecord], key: i64) -> Explanation {
    let (config, reader) = fed(yaml, records);
    let options = Options { json: false, fetch: false, timeout: Duration::ZERO };
    explain(&config, &mapping::catalog(&config), &reader, (0, &[Value::Integer(key)]), options).unwrap()
}

const PLACED: &str = r#"{"type":"Placed","v":1,"id":7,"total":10.50}"#;
const SHIPPED: &str = r#"{"type":"Shipped","v":2,"id":7}"#;

#[test]
fn each_column_says_which_event_set_it() {
    let explanation = explained(&[PLACED, SHIPPED], 7);
    assert_eq!(explanation.state, RowStanding::Visible);
    let text = show::text(&explanation);
    let expected = "\
orders, id 7: visible
readers see it; several events made it

COLUMN  TYPE     VALUE    SET BY
id      integer  7        (key)
status  text     shipped  orders 3/1, version 2
total   decimal  10.50    orders 3/0, version 1
note    text?    null     orders 3/0, version 1

from orders (json, ordered by .v)
  Erased: delete
    id integer <- .id
  Placed: upsert
    id integer <- .id
    status text <- \"placed\"
    total decimal <- .total
    note text? <- null
  Shipped: patch, if missing hold
    id integer <- .id
    status text <- \"shipped\"
";
    assert!(text.starts_with(expected), "{text}");
    let json = serde_json::to_value(&explanation).unwrap();
    assert_eq!(json["events"].as_array().unwrap().len(), 2);
    assert_eq!(json["events"][0]["columns"], serde_json::json!(["status"]));
    assert_eq!((&json["events"][0]["partition"], &json["events"][0]["offset"]), (&3.into(), &1.into()));
    assert_eq!(json["columns"][2]["set_by"]["version"], 1);
}

#[test]
fn what_waits_says_for_what() {
    let explanation = explained(&[SHIPPED], 7);
    assert_eq!((explanation.state, explanation.lacks.clone()), (RowStanding::Held, vec!["total".to_owned()]));
    let text = show::text(&explanation);
    assert!(
        text.contains("orders, id 7: held\nreaders do not see it yet: nothing has set total\n"),
        "{text}"
    );
    assert!(text.contains("status  text     shipped  orders 3/0, version 2"), "{text}");
    assert!(text.contains("total   decimal  -        (nothing yet)"), "{text}");
}

#[test]
fn a_delete_mark_says_whose_it_is() {
    let explanation = explained(&[PLACED, r#"{"type":"Erased","v":5,"id":7}"#, SHIPPED], 7);
    assert_eq!(explanation.state, RowStanding::Deleted);
    let text = show::text(&explanation);
    assert!(text.contains("deleted by orders 3/1, version 5; what is not newer than that is gone"), "{text}");
}

/// Neither the beginning of a row under a new key nor what it brought along is of a record of its own.
#[test]
fn a_row_that_got_another_key_says_what_it_brought_along() {
    let yaml = "
topics: { s.public.notes: { format: debezium-json } }
tables: { notes: { topic: s.public.notes, key: id, columns: { id: integer, title: text, body: text? } } }
";
    let change = |key: i64, op: &str, lsn: u32, after: &str, header: Option<(&str, &str)>| OwnedRecord {
        key: Some(format!(r#"{{"id":{key}}}"#).into_bytes()),
        headers: header
            .map(|(name, key)| (name.to_owned(), Some(key.as_bytes().to_vec())))
            .into_iter()
            .collect(),
        ..record(&format!(
            r#"{{"before":{{"id":{key}}},"after":{after},"op":"{op}","source":{{"sequence":"[null,\"{lsn}\"]"}}}}"#
        ))
    };
    let records = [
        change(1, "c", 10, r#"{"id":1,"title":"t","body":"long"}"#, None),
        change(1, "d", 20, "null", Some(("__debezium.newkey", r#"{"id":2}"#))),
        change(
            2,
            "c",
            20,
            r#"{"id":2,"title":"t","body":"__debezium_unavailable_value"}"#,
            Some(("__debezium.oldkey", r#"{"id":1}"#)),
        ),
    ];
    let explanation = explained_of(yaml, &records, 2);
    assert_eq!(explanation.state, RowStanding::Visible);
    let text = show::text(&explanation);
    for line in [
        "title   text     t      s.public.notes 3/2, version [20,20]",
        "body    text?    long   (another key), version [20,20]",
    ] {
        assert!(text.contains(line), "{text}");
    }
    let json = serde_json::to_value(&explanation).unwrap();
    assert_eq!(json["events"].as_array().unwrap().len(), 1);
    assert!(json["columns"][2]["set_by"].get("offset").is_none(), "{json}");

    // Before anything is heard of the other key.
    let explanation = explained_of(yaml, &records[2..], 2);
    let text = show::text(&explanation);
    assert!(text.contains("body    text?    -      (nothing yet)"), "{text}");
    assert!(text.contains("it began anew at version [20,20]; what is older than that is gone"), "{text}");
    assert_eq!(explanation.events.len(), 1);
}

#[test]
fn dead_letters_with_the_key_are_named_and_others_are_not() {
    let wrong = [
        r#"{"type":"Placed","v":1,"id":7,"total":"much"}"#,
        r#"{"type":"Placed","v":1,"id":"7","total":1}"#,
        r#"{"type":"Placed","v":1,"id":8,"total":"much"}"#,
    ];
    let explanation = explained(&wrong, 7);
    assert_eq!(explanation.state, RowStanding::Unknown);
    let offsets: Vec<i64> = explanation.dead_letters.of_this_key.iter().map(|letter| letter.offset).collect();
    assert_eq!(offsets, [0, 1]);
    assert!(explanation.dead_letters.of_unknown_key.is_empty());
    let text = show::text(&explanation);
    assert!(text.contains("dead letters with this key\norders 3/0: wrong_type at .total: "), "{text}");
}

#[test]
fn a_key_is_a_word_per_column_or_a_json_array() {
    use crate::domain::value::ColumnType;
    let column = |name: &str, ty| crate::domain::catalog::Column { name: name.into(), ty, nullable: false };
    let table = Table {
        name: "t".into(),
        columns: vec![
            column("a", ColumnType::Text),
            column("b", ColumnType::Integer),
            column("c", ColumnType::Boolean),
        ],
        key: vec![0, 1, 2],
        indexes: vec![],
        prefixes: vec![],
        topics: vec![0],
        max_staleness_ms: 1,
        ordered_by_position: false,
        delete_marks_ms: 1,
        fingerprint: String::new(),
    };
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let expected = vec![Value::Text("7".into()), Value::Integer(-3), Value::Integer(1)];
    assert_eq!(read_key(&table, &words(&["7", "-3", "true"])), Ok(expected.clone()));
    assert_eq!(read_key(&table, &words(&[r#"["7", -3, true]"#])), Ok(expected));
    for wrong in [&["7"][..], &["7", "x", "true"], &["7", "1", "yes"], &["[1"]] {
        assert!(read_key(&table, &words(wrong)).is_err(), "{wrong:?}");
    }
    let message = read_key(&table, &words(&["7"])).unwrap_err();
    assert_eq!(message, "the key of t is a (text), b (integer), c (boolean)");
}

#[test]
fn a_table_that_is_not_there_is_asked_back() {
    let (config, _) = fed(ORDERS, &[]);
    let catalog = mapping::catalog(&config);
    let message = |name| find(&catalog, name).unwrap_err().message;
    assert_eq!(message("oders"), "there is no table \"oders\"; did you mean \"orders\"?");
    assert_eq!(message("zzz"), "there is no table \"zzz\"; there are orders");
}
