//! What must force a rebuild changes the fingerprint, and what need not does not.

use std::collections::BTreeSet;
use std::time::Duration;

use super::super::Plan;
use super::support::*;
use crate::config::{Config, Encoding, EventIds, Format, KeyFormat, OnError, Personal, Word};
use crate::domain::change::IfMissing;
use crate::domain::value::ColumnType;

fn base() -> Config {
    let mut orders = table("orders", 1, &["id integer", "status text", "note text?"]);
    orders.sources[0].mapping =
        events([("Placed", upsert([(1, "\"placed\"")])), ("Noted", patch([(2, ".note")]))]);
    let mut topic = topic("t", Format::Json);
    topic.event_type = Some(expression(".type"));
    config(vec![topic], vec![orders])
}

fn fingerprint(change: impl FnOnce(&mut Config)) -> (String, String) {
    let mut config = base();
    change(&mut config);
    let plan = Plan::compile(&config);
    (plan.catalog().fingerprint.clone(), plan.catalog().tables[0].fingerprint.clone())
}

#[test]
fn whatever_decides_rows_changes_it() {
    let unchanged = fingerprint(|_| {});
    let changes: [fn(&mut Config); 19] = [
        |config| config.tables[0].columns[1].name = "state".to_owned(),
        |config| config.tables[0].columns[1].ty = ColumnType::Json,
        |config| config.tables[0].columns[1].nullable = true,
        |config| config.tables[0].columns[1].from = Some(expression(".other")),
        |config| config.tables[0].columns[1].encoding = Some(Encoding::Hex),
        |config| config.tables[0].columns[1].from = Some(expression(".other | length")),
        |config| config.tables[0].sources[0].when.rows = Some(condition(".a")),
        |config| drop(config.tables[0].sources[0].when.events.insert("Placed".into(), condition(".a"))),
        |config| config.topics[0].evolution = Some(super::evolution::versions("1", &[])),
        |config| {
            let upcast = super::evolution::upcast("1", "2", &[".a < .b"]);
            config.topics[0].evolution = Some(super::evolution::versions("2", &[upcast]));
        },
        |config| config.tables[0].key = vec![0, 1],
        |config| config.tables[0].name = "other".to_owned(),
        |config| config.topics[0].version = Some(expression(".v")),
        |config| config.topics[0].event_type = Some(expression(".kind")),
        |config| config.topics[0].event_ids = Some(EventIds { source: expression(".id"), window: 1 }),
        |config| config.topics[0].key_format = Some(KeyFormat::Json),
        |config| config.tables[0].sources[0].key_from = [(0, expression("$key"))].into(),
        |config| config.tables[0].sources[0].mapping = events([("Placed", upsert([(1, "\"new\"")]))]),
        |config| {
            let mut rule = patch([(2, ".note")]);
            if let crate::config::Rule::Patch { if_missing, .. } = &mut rule {
                *if_missing = IfMissing::Ignore;
            }
            config.tables[0].sources[0].mapping =
                events([("Placed", upsert([(1, "\"placed\"")])), ("Noted", rule)]);
        },
    ];
    for (index, change) in changes.into_iter().enumerate() {
        let changed = fingerprint(change);
        assert_ne!(changed.0, unchanged.0, "change {index}");
        assert_ne!(changed.1, unchanged.1, "change {index}");
    }
    // Versions hold topic indexes: another list of topics is another mapping.
    assert_ne!(fingerprint(|config| config.topics.push(topic("u", Format::Json))).0, unchanged.0);
}

#[test]
fn each_format_is_another_mapping() {
    let of = |format| {
        let config = config(vec![topic("t", format)], vec![table("t", 1, &["id integer"])]);
        Plan::compile(&config).catalog().fingerprint.clone()
    };
    let all: BTreeSet<String> = Format::WORDS.iter().map(|(_, format)| of(*format)).collect();
    assert_eq!(all.len(), Format::WORDS.len());
}

/// A changed key is a changed mapping, and the key is not in it.
#[test]
fn hashes_have_the_fingerprint_of_their_key() {
    let dir = tempfile::tempdir().unwrap();
    let with_key = |key: &str, change: fn(&mut Config)| {
        let file = dir.path().join(key);
        std::fs::write(&file, key).unwrap();
        fingerprint(|config| {
            config.personal.hash_key_file = Some(file);
            config.tables[0].columns[1].personal = Some(Personal::Hash);
            change(config);
        })
    };
    let (one, other) = ("0123456789abcdef-one", "0123456789abcdef-other");
    let first = with_key(one, |_| {});
    assert_eq!(with_key(one, |_| {}), first);
    assert_ne!(with_key(other, |_| {}), first);
    assert_ne!(fingerprint(|_| {}), first);
    let parts =
        |(_, table): (String, String)| table.split_once(':').map(|(whole, _)| whole.to_owned()).unwrap();
    assert_eq!(parts(with_key(one, |_| {})), parts(with_key(other, |_| {})), "only the column differs");
    let in_key: fn(&mut Config) = |config| config.tables[0].columns[0].personal = Some(Personal::Hash);
    assert_ne!(parts(with_key(one, in_key)), parts(with_key(other, in_key)), "other keys are other rows");
    // What is in clear is in clear, whether that was said or not.
    for personal in [Personal::Clear, Personal::No] {
        let mut config = base();
        config.tables[0].columns[1].personal = Some(personal);
        assert_eq!(Plan::compile(&config).catalog().fingerprint, fingerprint(|_| {}).0);
    }
    for (personal, show_last) in [(Personal::Mask, 0), (Personal::Mask, 4), (Personal::Drop, 0)] {
        let mut config = base();
        config.tables[0].columns[1].personal = Some(personal);
        config.tables[0].columns[1].show_last = show_last;
        assert_ne!(Plan::compile(&config).catalog().fingerprint, fingerprint(|_| {}).0);
    }
}

#[test]
fn the_rest_does_not() {
    let window = |window| Some(EventIds { source: expression(".id"), window });
    let with_ids = fingerprint(|config| config.topics[0].event_ids = window(10));
    assert_eq!(fingerprint(|config| config.topics[0].event_ids = window(20)), with_ids);
    let unchanged = fingerprint(|_| {});
    let changes: [fn(&mut Config); 6] = [
        |config| config.tables[0].indexes = vec![vec![1]],
        |config| config.tables[0].max_staleness = Duration::from_secs(1),
        |config| config.tables[0].delete_marks = Duration::from_secs(1),
        |config| config.topics[0].on_error = OnError::Stop,
        |config| config.topics[0].ignore = vec!["Viewed".to_owned()],
        |config| config.topics[0].placeholder = "other".to_owned(),
    ];
    for (index, change) in changes.into_iter().enumerate() {
        assert_eq!(fingerprint(change), unchanged, "change {index}");
    }
}

/// A change of this text makes every deployed replica rebuild: raise `CONVERSIONS` and say so in
/// the change log if that is what you want.
#[test]
fn it_is_the_same_in_every_build() {
    assert_eq!(
        fingerprint(|_| {}).1,
        "f5385c9ea0bcff7b2746e11e170120a5:6f41ab93a7eb7e5f,7fc7299de0d2fcba,97bf23ca1f647cda"
    );
}

/// Leaving a column out, or putting it elsewhere, keeps the rows as they are; nothing else does.
#[test]
fn fewer_columns_in_another_order_keep_the_rows() {
    let keeps =
        |change: fn(&mut Config)| crate::mapping::keeps_rows(&fingerprint(|_| {}).1, &fingerprint(change).1);
    assert!(keeps(|_| {}));
    assert!(keeps(|config| config.tables[0].indexes = vec![vec![1]]));
    let swapped: fn(&mut Config) = |config| {
        config.tables[0].columns.swap(1, 2);
        config.tables[0].sources[0].mapping =
            events([("Placed", upsert([(2, "\"placed\"")])), ("Noted", patch([(1, ".note")]))]);
    };
    assert!(keeps(swapped));
    assert_ne!(fingerprint(swapped), fingerprint(|_| {}), "readers see another order");
    assert!(keeps(|config| {
        config.tables[0].columns.remove(1);
        config.tables[0].sources[0].mapping =
            events([("Placed", upsert::<0>([])), ("Noted", patch([(1, ".note")]))]);
    }));
    // The rule of an event that is not applied any more is another matter.
    assert!(!keeps(|config| {
        config.tables[0].columns.remove(2);
        config.tables[0].sources[0].mapping = events([("Placed", upsert([(1, "\"placed\"")]))]);
    }));
    assert!(!keeps(|config| config.tables[0].columns[1].name = "state".to_owned()));
    assert!(!keeps(|config| config.tables[0].columns[2].nullable = false));
    assert!(!keeps(|config| config.tables[0].key = vec![0, 1]));
    assert!(!keeps(|config| {
        let column = config.tables[0].columns[2].clone();
        config.tables[0].columns.push(crate::config::Column { name: "more".to_owned(), ..column });
    }));
    assert!(!keeps(|config| {
        config.tables[0].sources[0].mapping =
            events([("Placed", upsert([(1, "\"new\"")])), ("Noted", patch([(2, ".note")]))]);
    }));
    assert!(!crate::mapping::keeps_rows("", "") && !crate::mapping::keeps_rows("a", "a"), "no fingerprints");
}

/// Where the order is that of the log anyway, saying so changes nothing.
#[test]
fn the_order_of_the_log_is_another_mapping_only_where_the_format_has_one_of_its_own() {
    let of = |format, by_position| {
        let mut topic = topic("t", format);
        topic.by_position = by_position;
        let config = config(vec![topic], vec![table("orders", 1, &["id integer", "status text"])]);
        Plan::compile(&config).catalog().fingerprint.clone()
    };
    assert_ne!(of(Format::DebeziumJson, true), of(Format::DebeziumJson, false));
    assert_eq!(of(Format::Json, true), of(Format::Json, false));
}
