//! Columns with personal data: what is hashed, masked or dropped is so everywhere, keys of deletes included.

use super::super::{Outcome, Plan};
use super::support::*;
use crate::config::{Config, Format, KeyFormat, Personal};
use crate::domain::dead_letter::Reason;
use crate::domain::value::Value;

fn with_key(mut config: Config, personal: &[(usize, Personal)]) -> Feed {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("key");
    std::fs::write(&file, "0123456789abcdef\n").unwrap();
    config.personal.hash_key_file = Some(file);
    for (column, personal) in personal {
        config.tables[0].columns[*column].personal = Some(*personal);
    }
    let feed = Feed::of(&config);
    assert_eq!(feed.plan.problems(), [""; 0]);
    feed
}

#[test]
fn values_are_protected_wherever_they_come_from() {
    let columns =
        ["mail text", "again text .mail | ascii_downcase", "phone text?", "born date?", "kind text \"a\""];
    let mut people = table("people", 1, &columns);
    people.sources[0].key_from = [(0, expression("$key"))].into();
    let mut topic = topic("t", Format::Json);
    topic.key_format = Some(KeyFormat::Text);
    let personal = [
        (0, Personal::Hash),
        (1, Personal::Hash),
        (2, Personal::Mask),
        (3, Personal::Drop),
        (4, Personal::Hash),
    ];
    let mut feed = with_key(config(vec![topic], vec![people]), &personal);
    let row = feed.row("a@x", r#"{"mail":"a@x","phone":"030 12","born":"not even a date"}"#);
    let Value::Text(hash) = &row[0] else { panic!() };
    assert!(hash.len() == 64 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()), "{hash}");
    assert_eq!(row[1], row[0]);
    assert_eq!(row[2..4], [text("*** **"), Value::Null]);
    assert!(matches!(&row[4], Value::Text(kind) if kind.len() == 64));
    // The key of a delete is hashed alike.
    let hash = row[0].clone();
    assert_eq!(feed.tombstone("a@x"), Outcome::Changes);
    assert_eq!(feed.only().values[0], hash);
    let outcome = feed.record("k", r#"{"mail":["canary"],"phone":"1"}"#);
    assert_eq!(refusal(&outcome), (Reason::WrongType, ".mail"));
    assert!(!format!("{outcome:?}").contains("canary"));
}

#[test]
fn without_its_key_nothing_is_mapped() {
    let mut config =
        config(vec![topic("t", Format::Json)], vec![table("t", 1, &["id integer", "mail text?"])]);
    config.tables[0].columns[1].personal = Some(Personal::Hash);
    config.personal.hash_key_file = Some("/nowhere/hash-key".into());
    let problems = Plan::compile(&config).problems();
    assert!(problems.len() == 1 && problems[0].contains("/nowhere/hash-key"), "{problems:?}");
    let mut feed = Feed::of(&config);
    assert_eq!(refusal(&feed.value(r#"{"id":1,"mail":"canary"}"#)), (Reason::WrongType, ".mail"));
    // Nobody asks for a key that no column needs.
    config.tables[0].columns[1].personal = Some(Personal::Clear);
    assert_eq!(Plan::compile(&config).problems(), [""; 0]);
}
