//! Versions of a schema: older events are read as if they were of the current one.

use super::super::{Outcome, Plan};
use super::support::*;
use crate::config::{Change, EventIds, Evolution, Expression, Format, Unknown, Upcast, UpcastRule};
use crate::decode::registry::{Kind, Registry, Schema};
use crate::domain::change::{Operation, Skip};
use crate::domain::checkpoint::PartitionMemory;
use crate::domain::dead_letter::Reason;
use crate::domain::value::Value;
use crate::domain::version::VersionKind;

/// `target < old` renames, `target ? value` gives a default, `target = value` sets.
pub fn upcast(from: &str, to: &str, rules: &[&str]) -> Upcast {
    let fields = |path: &str| match expression(path) {
        Expression::Path(path) => path.fields,
        other => panic!("{other}"),
    };
    let rule = |text: &&str| {
        let op = [" < ", " ? ", " = "].into_iter().find(|op| text.contains(op)).unwrap();
        let (target, rest) = text.split_once(op).unwrap();
        let change = match op {
            " < " => Change::Rename(fields(rest)),
            " ? " => Change::Default(expression(rest)),
            _ => Change::Set(expression(rest)),
        };
        UpcastRule { target: fields(target), change }
    };
    Upcast { from: from.into(), to: to.into(), events: None, rules: rules.iter().map(rule).collect() }
}

pub fn versions(current: &str, upcasts: &[Upcast]) -> Evolution {
    Evolution {
        version: expression(".v"),
        current: current.to_owned(),
        missing: None,
        unknown: Unknown::DeadLetter,
        upcasts: upcasts.to_vec(),
    }
}

fn feed(evolution: Evolution, columns: &[&str]) -> Feed {
    let mut topic = topic("t", Format::Json);
    topic.evolution = Some(evolution);
    Feed::new(topic, vec![table("t", 1, columns)])
}

fn two_steps() -> Evolution {
    let first = upcast("1", "2", &[".customer.name < .name", ".currency ? \"EUR\"", ".kind = \"order\""]);
    let second = upcast(
        "2",
        "3",
        &[".amount.value < .total", ".amount.currency < .currency", ".grams = (.kilos // empty) * 1000"],
    );
    versions("3", &[first, second])
}

#[test]
fn older_versions_are_lifted_step_by_step() {
    let columns = [
        "id integer",
        "name text? .customer.name",
        "value decimal? .amount.value",
        "currency text? .amount.currency",
        "kind text?",
        "grams integer?",
        "amount json?",
        "twice decimal? .amount.value * 2",
    ];
    let mut feed = feed(two_steps(), &columns);
    let expected = [int(1), text("Ada"), text("1.50"), text("EUR"), text("order"), text("1"), int(500)];
    let now = r#"{"id":1,"customer":{"name":"Ada"},"amount":{"currency":"EUR","value":1.50},"kind":"order","grams":500,"v":3}"#;
    let before = r#"{"id":1,"customer":{"name":"Ada"},"total":1.50,"currency":"EUR","kind":"order","kilos":0.5,"v":2}"#;
    let first = r#"{"id":1,"name":"Ada","total":1.50,"kilos":0.5,"v":1}"#;
    for event in [now, before, first, &first.replace("\"v\":1", "\"v\":\"1\"")] {
        let row = feed.row("1", event);
        assert_eq!(row[..5], expected[..5], "{event}");
        assert_eq!(row[5], int(500), "{event}");
        assert_eq!(row[6], text(r#"{"currency":"EUR","value":1.50}"#), "{event}");
        assert_eq!(row[7], text("3"), "{event}");
    }
    // What older versions had elsewhere is not there in their new shape.
    let row = feed.row("1", r#"{"id":1,"amount":{"value":9},"grams":9,"v":2}"#);
    assert_eq!(row[2], Value::Null);
    assert_eq!(refusal(&feed.value(r#"{"id":1,"v":2,"kilos":{}}"#)).0, Reason::Expression);
    // A tombstone has no version.
    assert_eq!(feed.tombstone("1"), Outcome::Changes);
    assert_eq!(feed.only().operation, Operation::Delete);
}

#[test]
fn versions_that_nobody_declared_follow_the_policy() {
    let of = |unknown, missing: Option<&str>| {
        let mut evolution = versions("2", &[upcast("1", "2", &[".name < .title"])]);
        evolution.unknown = unknown;
        evolution.missing = missing.map(str::to_owned);
        feed(evolution, &["id integer", "name text?"])
    };
    let newer = r#"{"id":1,"name":"a","v":3}"#;
    let (unversioned, null) = (r#"{"id":1,"title":"a"}"#, r#"{"id":1,"title":"a","v":null}"#);
    let mut feed = of(Unknown::DeadLetter, None);
    for event in [newer, unversioned, null, r#"{"id":1,"v":2.0}"#, r#"{"id":1,"v":true}"#] {
        assert_eq!(refusal(&feed.value(event)), (Reason::SchemaVersion, ".v"), "{event}");
    }
    assert_eq!(refusal(&feed.value(r#"{"id":1,"v":[1]}"#)), (Reason::SchemaVersion, ".v"));
    assert!(matches!(of(Unknown::Stop, None).value(newer), Outcome::Stop(_)));
    assert_eq!(of(Unknown::Ignore, None).value(newer), Outcome::Skipped(Skip::Ignored));
    assert_eq!(of(Unknown::Accept, None).row("", newer), [int(1), text("a")]);
    for event in [unversioned, null] {
        assert_eq!(of(Unknown::DeadLetter, Some("1")).row("", event), [int(1), text("a")]);
        assert_eq!(of(Unknown::DeadLetter, Some("2")).row("", event), [int(1), Value::Null]);
    }
}

#[test]
fn types_versions_ids_and_conditions_are_lifted_too() {
    let mut placed = upcast("1", "2", &[".order.total < .order.sum"]);
    placed.events = Some(vec!["Placed".to_owned()]);
    let all = upcast("0", "1", &[".type < .kind", ".seq < .meta.nr", ".id < .meta.id"]);
    let mut typed = topic("t", Format::Json);
    typed.event_type = Some(expression(".type"));
    typed.version = Some(expression(".seq"));
    typed.event_ids = Some(EventIds { source: expression(".id"), window: 10 });
    typed.evolution = Some(versions("2", &[placed, all]));
    let mut orders = table("orders", 1, &["id integer", "total decimal?"]);
    orders.sources[0].mapping = events([
        ("Placed", upsert([(0, ".order.id"), (1, ".order.total")])),
        ("Priced", patch([(0, ".order.id"), (1, ".order.sum")])),
    ]);
    let when = [("Placed", ".order.total > 1"), ("Priced", ".order.sum | tostring | length > 0")];
    orders.sources[0].when.events = when.map(|(event, text)| (event.to_owned(), condition(text))).into();
    let mut feed = Feed::new(typed, vec![orders]);
    let row = feed.row("", r#"{"v":2,"type":"Placed","seq":5,"id":"a","order":{"id":1,"total":2}}"#);
    assert_eq!(row, [int(1), text("2")]);
    let row = feed.row("", r#"{"v":1,"type":"Placed","seq":6,"id":"b","order":{"id":1,"sum":3}}"#);
    assert_eq!(row, [int(1), text("3")]);
    let row = feed.row("", r#"{"v":0,"kind":"Placed","meta":{"nr":7,"id":"c"},"order":{"id":1,"sum":4}}"#);
    assert_eq!(row, [int(1), text("4")]);
    assert_eq!(feed.version(), (VersionKind::Integer, vec![7]));
    let again = r#"{"v":0,"kind":"Placed","meta":{"nr":8,"id":"c"},"order":{"id":1,"sum":4}}"#;
    assert_eq!(feed.value(again), Outcome::Skipped(Skip::Duplicate));
    let cheap = r#"{"v":1,"type":"Placed","seq":9,"id":"d","order":{"id":1,"sum":1,"total":5}}"#;
    assert_eq!(feed.value(cheap), Outcome::Changes);
    assert_eq!(feed.only().operation, Operation::Delete, "the condition is that of the current version");
    // The rename is not for this type.
    let row = feed.row("", r#"{"v":1,"type":"Priced","seq":10,"id":"e","order":{"id":1,"sum":8}}"#);
    assert_eq!(row, [int(1), text("8")]);
}

/// The schema names its record and has a version in the registry.
#[test]
fn versions_come_from_the_registry() {
    let record = |name: &str, fields: &str| {
        format!(
            r#"{{"type":"record","name":"{name}","namespace":"shop","fields":[{{"name":"id","type":"long"}},{fields}]}}"#
        )
    };
    let schema = |text: String, versions: &[(&str, i64)]| Schema {
        kind: Kind::Avro,
        text,
        references: Vec::new(),
        versions: versions.iter().map(|(subject, version)| ((*subject).to_owned(), *version)).collect(),
    };
    let name = r#"{"name":"name","type":"string"}"#;
    let title = r#"{"name":"title","type":"string"}"#;
    let registry = Registry::fixed([
        (7, schema(record("UserV1", title), &[("other-value", 9), ("t-value", 1)])),
        (8, schema(record("UserV2", name), &[("whatever", 2)])),
        (9, schema(record("UserV3", name), &[("a", 2), ("b", 3)])),
    ]);
    let bytes = |id: u8| [&[0, 0, 0, 0, id][..], &[2, 6], b"Ada"].concat();
    for (from, older, current) in [
        ("$schema.version", "1", "2"),
        ("$schema.id", "7", "8"),
        ("$schema.name", "shop.UserV1", "shop.UserV2"),
    ] {
        let mut topic = topic("t", Format::Avro);
        let mut evolution = versions(current, &[upcast(older, current, &[".name < .title"])]);
        evolution.version = expression(from);
        topic.evolution = Some(evolution);
        let columns =
            ["id integer", "name text", "schema integer? $schema.version", "record text $schema.name"];
        let config = config(vec![topic], vec![table("t", 1, &columns)]);
        assert!(config.needs_schema_versions());
        let mut plan = Plan::with_registry(&config, Some(registry.clone()));
        let mut translate = |id: u8| {
            let bytes = bytes(id);
            let record = crate::domain::record::OwnedRecord { value: Some(bytes), ..Default::default() };
            let at = crate::domain::checkpoint::TopicPartition { topic: 0, partition: 0 };
            let mut changes = Vec::new();
            let outcome =
                plan.translate(&record.as_record(at, 0), &mut PartitionMemory::default(), &mut changes);
            (outcome, changes)
        };
        let (outcome, changes) = translate(7);
        assert_eq!(outcome, Outcome::Changes, "{from}");
        assert_eq!(changes[0].values, [int(1), text("Ada"), int(1), text("shop.UserV1")], "{from}");
        let (_, changes) = translate(8);
        assert_eq!(changes[0].values, [int(1), text("Ada"), int(2), text("shop.UserV2")], "{from}");
        let (outcome, _) = translate(9);
        assert_eq!(refusal(&outcome).0, Reason::SchemaVersion, "{from}: of two subjects none is the topic's");
    }
}

/// The registry is asked for versions also where only an upcast reads them.
#[test]
fn an_upcast_may_read_the_version_of_the_registry() {
    for (rule, needed) in
        [(".v = $schema.version", true), (".v ? $schema.version", true), (".v = $schema.id", false)]
    {
        let mut topic = topic("t", Format::Avro);
        topic.evolution = Some(versions("2", &[upcast("1", "2", &[rule])]));
        let config = config(vec![topic], vec![table("t", 1, &["id integer", "v integer?"])]);
        assert_eq!(config.needs_schema_versions(), needed, "{rule}");
    }
}
