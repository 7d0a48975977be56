use std::fs;

use super::*;
use crate::commands::exit_code;

/// Events of one table, by rules that are given.
fn with_rules(rules: &str, version: &str, cases: &str) -> String {
    format!(
        "config:\n  topics: {{ t: {{ format: json, event_type: .type{version} }} }}\n  tables:\n    users:\n      topic: t\n      key: id\n\
         \x20     columns: {{ id: integer, name: text?, note: text? }}\n      events:\n{rules}cases:\n{cases}"
    )
}

const ROWS: &str = "config: { tables: { users: { topic: t, key: id, columns: { id: integer, name: text, at: timestamp?, extra: json?, on: boolean? } } } }\n";

fn tested(text: &str) -> Vec<Tested> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("f.yaml");
    fs::write(&path, text).unwrap();
    let mut tested = test_file(&path);
    tested.file = "f.yaml".to_owned();
    vec![tested]
}

#[test]
fn a_case_that_holds_says_in_how_many_ways() {
    let found = tested(&format!(
        "{ROWS}cases:\n  - name: all types\n    events:\n      - key: 1\n        value: {{ id: 1, name: \"1\", at: 2026-01-01T01:00:00+01:00, extra: {{ b: 1, a: [2] }}, on: true }}\n\
         \x20   rows:\n      users:\n        - {{ id: 1, name: 1, at: 2026-01-01T00:00:00Z, extra: {{ a: [2], b: 1 }}, on: true }}\n"
    ));
    assert_eq!(
        report::text(&found),
        "ok      f.yaml:3: all types (1 event, 4 ways of delivery)\n1 case, 0 failed\n"
    );
    assert_eq!(code(&found), DONE);
    assert_eq!(report::json(&found)["files"][0]["cases"][0]["passed"], true);
}

#[test]
fn what_differs_is_said_row_by_row_and_column_by_column() {
    let found = tested(&format!(
        "{ROWS}cases:\n  - name: wrong\n    events:\n      - {{ key: 1, value: {{ id: 1, name: Ada }} }}\n      - {{ key: 2, value: {{ id: 2, name: \"B<b>\" }} }}\n\
         \x20     - {{ key: 3, value: {{ id: 3 }} }}\n    rows:\n      users:\n        - {{ id: 1, name: Bob, on: false }}\n        - {{ id: 4, name: Dan }}\n\
         \x20   dead_letters: [{{ reason: wrong_type, event: 2 }}]\n"
    ));
    let expected = "\
FAILED  f.yaml:3: wrong
        users, id 1: name is `Ada`, expected `Bob` (line 10)
        users, id 1: on is `null`, expected `false` (line 10)
        users, id 4: the row is missing, with name Dan (line 11)
        users, id 2: this row is not expected, with name B<b>
        no dead letter is like this: event 2, wrong_type (line 12)
        a dead letter is not expected: event 3, table users: missing_value at .name: is missing and the column may not be null
1 case, 1 failed
";
    assert_eq!(report::text(&found), expected);
    assert_eq!(code(&found), FAILED);
    let json = report::json(&found);
    let differences = &json["files"][0]["cases"][0]["differences"];
    assert_eq!(json["passed"], false);
    assert_eq!((&differences[0]["column"], &differences[0]["found"]), (&"name".into(), &"Ada".into()));
    let junit = report::junit(&found);
    assert!(junit.contains("<testsuite name=\"f.yaml\" tests=\"1\" failures=\"1\" errors=\"0\""), "{junit}");
    assert!(junit.contains("name=\"wrong\"") && junit.contains("with name B&lt;b&gt;"), "{junit}");
}

const IGNORING: &str = "        Made: { upsert: { id: .id, name: .name } }\n        Noted: { patch: { id: .id, note: .note }, if_missing: ignore }\n";

/// The patch is in another partition than the row, so that it may come first.
const NOTED: &str = "  - name: noted\n    events:\n      - { partition: 0, value: { type: Made, v: 1, id: 1, name: Ada } }\n      - { partition: 1, value: { type: Noted, v: 2, id: 1, note: x } }\n    rows: { users: [{ id: 1, name: Ada, note: x }] }\n";

#[test]
fn what_a_configuration_cannot_promise_is_said_and_is_no_failure() {
    let found = tested(&with_rules(IGNORING, ", version: .v", NOTED));
    let text = report::text(&found);
    assert!(text.starts_with("ok "), "{text}");
    assert!(text.contains("note: users depends on the order (partitions interleaved, "), "{text}");
    assert!(text.contains("Noted has `if_missing: ignore`"), "{text}");
    assert!(report::junit(&found).contains("<system-out>note: users depends"));
    // Held patches do not.
    let held = IGNORING.replace("ignore", "hold");
    let text = report::text(&tested(&with_rules(&held, ", version: .v", NOTED)));
    assert!(text.starts_with("ok ") && !text.contains("note:"), "{text}");
}

#[test]
fn events_without_versions_in_several_partitions_are_named_as_the_reason() {
    let rules = "        Made: { upsert: { id: .id, name: .name } }\n";
    // The record of the second one is older.
    let cases = "  - name: moved\n    events:\n      - { partition: 0, timestamp: 1000, value: { type: Made, id: 1, name: old } }\n      - { partition: 0, timestamp: 9000, value: { type: Made, id: 2, name: x } }\n      - { partition: 1, timestamp: 5000, value: { type: Made, id: 1, name: new } }\n    rows: { users: [{ id: 1, name: new }, { id: 2, name: x }] }\n";
    let text = report::text(&tested(&with_rules(rules, "", cases)));
    assert!(text.starts_with("ok "), "{text}");
    assert!(
        text.contains("note: users depends on the order (") && text.contains("have no `version`"),
        "{text}"
    );
}

#[test]
fn a_dependence_that_nothing_explains_fails() {
    let table = "config: { topics: { t: { format: json, version: .v, event_id: .e } }, tables: { users: { topic: t, key: id, columns: { id: integer, name: text } } } }\n";
    // A producer that gives two events one id: whichever is read first is applied.
    let cases = "cases:\n  - name: one id twice\n    events:\n      - { partition: 0, value: { e: x, v: 1, id: 1, name: a } }\n      - { partition: 1, value: { e: x, v: 2, id: 1, name: b } }\n    rows: { users: [{ id: 1, name: a }] }\n";
    let found = tested(&format!("{table}{cases}"));
    let text = report::text(&found);
    assert!(text.contains("the rows depend on how events are delivered; partitions interleaved, "), "{text}");
    assert!(text.contains("  users, id 1: name is `b`, as written `a`"), "{text}");
    assert_eq!(code(&found), FAILED);
    assert!(!report::json(&found)["files"][0]["cases"][0]["depends_on_delivery"]["differences"][0].is_null());
    let other = cases
        .replace("e: x, v: 2", "e: y, v: 2")
        .replace("rows: { users: [{ id: 1, name: a }", "rows: { users: [{ id: 1, name: b }");
    assert_eq!(code(&tested(&format!("{table}{other}"))), DONE);
}

#[test]
fn a_row_that_waits_is_a_hint() {
    let rules = "        Made: { upsert: { id: .id, name: .name } }\n        Noted: { patch: { id: .id, note: .note } }\n";
    let text = with_rules(
        rules,
        ", version: .v",
        "  - name: a\n    events: [{ value: { type: Noted, v: 1, id: 1, note: x } }]\n    rows: { users: [{ id: 1, note: x }] }\n",
    );
    // `name` has a question mark: nothing is lacking then.
    assert!(report::text(&tested(&text)).starts_with("ok "));
    let text = report::text(&tested(&text.replace("name: text?", "name: text")));
    assert!(text.contains("users, id 1: the row is missing, with note x"), "{text}");
    assert!(text.contains("users: 1 row waits for the event that sets its columns without `?`"), "{text}");
}

#[test]
fn a_stop_is_expected_or_a_failure() {
    let table = "config: { topics: { t: { format: json, on_error: stop } }, tables: { users: { topic: t, key: id, columns: { id: integer } } } }\n";
    let cases = "cases:\n  - name: a\n    events: [{ value: { id: 1 } }, { value: { id: x } }, { value: { id: 2 } }]\n    rows: { users: [{ id: 1 }] }\n";
    let text = report::text(&tested(&format!("{table}{cases}")));
    assert!(text.contains("the daemon stops: topic t partition 0 offset 1: wrong_type at .id"), "{text}");
    for (stops, passes) in [("wrong_type at .id", true), ("wrong_type at .name", false)] {
        let found = tested(&format!("{table}{cases}    stops: {stops}\n"));
        assert_eq!(code(&found) == DONE, passes, "{}", report::text(&found));
    }
    let calm = cases.replace("{ value: { id: x } }, ", "").replace("[{ id: 1 }]", "[{ id: 1 }, { id: 2 }]");
    let text = report::text(&tested(&format!("{table}{calm}    stops: x\n")));
    assert!(text.contains("the daemon does not stop; expected `x`"), "{text}");
}

#[test]
fn skipped_events_are_counted_where_somebody_says_how_many() {
    let rules = "        Made: { upsert: { id: .id, name: .name } }\n";
    let cases = "  - name: a\n    events: [{ value: { type: Made, v: 2, id: 1 } }, { value: { type: Made, v: 1, id: 1 } }]\n    rows: { users: [{ id: 1 }] }\n";
    for (skipped, words) in [
        ("", ""),
        ("    skipped: { stale: 1 }\n", ""),
        ("    skipped: { stale: 2, ignored: 1 }\n", "skipped events: stale 1, expected ignored 1, stale 2"),
        ("    skipped: {}\n", "skipped events: stale 1, expected none"),
        ("    skipped: { stael: 1 }\n", "`stael`: there is no reason of this name; did you mean `stale`?"),
    ] {
        let found = tested(&with_rules(rules, ", version: .v", &format!("{cases}{skipped}")));
        let text = report::text(&found);
        assert!((code(&found) == DONE) == words.is_empty() && text.contains(words), "{skipped}: {text}");
    }
}

#[test]
fn files_that_cannot_be_read_are_exit_code_64_and_the_others_are_tested() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("deeper")).unwrap();
    let good = format!("{ROWS}cases: [{{ name: nothing }}]\n");
    fs::write(dir.path().join("deeper/good.yml"), good).unwrap();
    fs::write(dir.path().join("bad.yaml"), format!("{ROWS}cases: [{{ nam: x }}]\n")).unwrap();
    fs::write(dir.path().join("readside.yaml"), "tables: {}\n").unwrap();
    fs::write(dir.path().join("notes.txt"), "cases").unwrap();
    let paths = files(&[dir.path().to_owned()]).unwrap();
    assert_eq!(paths.len(), 2, "a configuration is no fixture: {paths:?}");
    let tested: Vec<Tested> = paths.iter().map(|path| test_file(path)).collect();
    assert_eq!(code(&tested), USAGE);
    let text = report::text(&tested);
    assert!(text.contains("`nam`: unknown key in a case; did you mean `name`?"), "{text}");
    assert!(text.ends_with("1 case, 0 failed, 1 file cannot be read\n"), "{text}");
    assert!(report::junit(&tested).contains("<error message=\"the file is wrong\">"));
    assert!(!report::json(&tested)["files"][0]["problems"][0]["line"].is_null());

    let junit = dir.path().join("out.xml");
    let options = Options { json: true, junit: Some(junit.clone()) };
    assert_eq!(run(&[dir.path().join("deeper")], &options).unwrap(), DONE);
    assert!(fs::read_to_string(junit).unwrap().starts_with("<?xml"));
    let empty = dir.path().join("empty");
    fs::create_dir(&empty).unwrap();
    for path in [empty, dir.path().join("nowhere")] {
        assert_eq!(exit_code(&run(&[path], &Options::default()).unwrap_err()), USAGE);
    }
}

/// The ones that come with readside, which are its documentation.
#[test]
fn the_example_fixtures_pass() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/fixtures");
    let paths = files(&[folder]).unwrap();
    assert!(paths.len() >= 7, "{paths:?}");
    let tested: Vec<Tested> = paths.iter().map(|path| test_file(path)).collect();
    assert_eq!(code(&tested), DONE, "{}", report::text(&tested));
}

/// docs/EVOLUTION.md says what happens in each step; a case of that name shows it.
#[test]
fn each_step_of_the_evolution_page_is_a_case() {
    let page = include_str!("../../../docs/EVOLUTION.md");
    let steps: Vec<&str> = page.lines().filter_map(|line| line.strip_prefix("### ")).collect();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/fixtures/evolution-steps.yaml");
    let cases = fixture::load(&path).unwrap_or_else(|errors| panic!("{errors}"));
    let names: Vec<&str> = cases.iter().map(|case| case.name.as_str()).collect();
    // The last one is about schemas and has no events: a test of `check` has its name.
    let (last, others) = steps.split_last().unwrap();
    assert_eq!(others, names);
    let name = last.to_lowercase().replace([':', ','], "").replace(' ', "_");
    assert!(include_str!("../check/schemas_tests.rs").contains(&format!("fn {name}()")), "{name}");
}
