//! Index entries are exactly those of the rows.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::domain::change::{Change, IfMissing, Operation};
use crate::domain::value::Value;
use crate::store::{RowLookup, Store};

type Sets = BTreeMap<String, BTreeSet<String>>;

fn stored(client: &mut redis::Connection, prefix: &str) -> Sets {
    let keys: Vec<String> = redis::cmd("KEYS").arg(format!("{prefix}users@*")).query(client).unwrap();
    let members = |key: &String, client: &mut redis::Connection| {
        redis::cmd("SMEMBERS").arg(key).query::<BTreeSet<String>>(client).unwrap()
    };
    keys.iter().map(|key| (key[prefix.len()..].to_owned(), members(key, client))).collect()
}

/// Of the rows that readers see, said again in plain words.
fn expected(bench: &InRedis) -> Sets {
    let mut sets = Sets::new();
    for nth in 0..4 {
        let RowLookup::Visible { values, .. } = look(bench, nth) else { continue };
        let Value::Text(email) = &values[2] else { continue };
        let Value::Text(name) = &values[1] else { panic!("a name is never null") };
        let id = (nth - 2).to_string();
        let escaped = |text: &str| text.replace('\\', "\\\\").replace(':', "\\:");
        sets.entry(format!("users@email:{email}")).or_default().insert(id.clone());
        let both = format!("users@name,email:{}:{}", escaped(name), escaped(email));
        sets.entry(both).or_default().insert(id);
    }
    sets
}

fn change() -> impl Strategy<Value = Change> {
    let text = prop_oneof![Just("a"), Just("b"), Just(""), Just("a:b"), Just("a\\")];
    (0i64..4, 0u8..12, 0i64..40, text.clone(), prop::option::of(text)).prop_map(
        |(nth, kind, number, name, email)| {
            let mut change = upsert(nth, number);
            change.values[1] = Value::Text(name.into());
            change.values[2] = email.map_or(Value::Null, |email| Value::Text(email.into()));
            let hold = Operation::Write { if_missing: IfMissing::Hold };
            match kind {
                0..=4 => {}
                5 => change.values[1] = Value::Absent,
                6 => change.values[2] = Value::Absent,
                7..=9 => change = delete(nth, number),
                10 => change = Change { operation: Operation::Tombstone, ..delete(nth, number) },
                _ => {
                    change = Change { operation: Operation::Truncate, values: vec![], ..delete(nth, number) }
                }
            }
            match change.operation {
                Operation::Write { .. } => Change { operation: hold, ..change },
                _ => change,
            }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn they_follow_their_rows(batches in prop::collection::vec(prop::collection::vec(change(), 1..12), 1..8)) {
        if !available() {
            return Ok(());
        }
        let mut client = server::shared().client();
        for encoding in ENCODINGS {
            let bench = bench(server::shared().settings(encoding));
            let mut store = bench.open();
            for changes in &batches {
                store.apply(&batch(changes.clone())).unwrap();
                prop_assert_eq!(stored(&mut client, &rows(&bench.settings)), expected(&bench));
            }
        }
    }
}

#[test]
fn an_entry_finds_its_rows() {
    if !available() {
        return;
    }
    let bench = bench(server::shared().settings(RowEncoding::Hash));
    let mut client = server::shared().client();
    let mut store = bench.open();
    let mut rows = [upsert(3, 1), upsert(4, 2)];
    for row in &mut rows {
        row.values[2] = Value::Text("a@x.org".into());
    }
    rows[0].values[1] = Value::Text("Ann".into());
    rows[1].values[1] = Value::Text("Bob".into());
    store.apply(&batch(rows)).unwrap();
    let prefix = super::rows(&bench.settings);
    let names: Vec<String> = redis::cmd("SORT")
        .arg(format!("{prefix}users@email:a@x.org"))
        .arg("GET")
        .arg(format!("{prefix}users:*->name"))
        .query(&mut client)
        .unwrap();
    assert_eq!(names, ["Ann", "Bob"]);
}
