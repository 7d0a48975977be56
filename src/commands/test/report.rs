//! What was found, for people, for programs and for CI.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::Tested;
use super::compare::Difference;
use super::judge::Verdict;
use crate::commands::printable;
use crate::config::Problem;

pub fn text(tested: &[Tested]) -> String {
    let mut out = String::new();
    for Tested { file, cases } in tested {
        match cases {
            Ok(cases) => {
                for verdict in cases {
                    out.push_str(&case_text(file, verdict));
                }
            }
            Err(errors) => {
                for problem in &errors.problems {
                    let _ = writeln!(out, "{problem}");
                }
            }
        }
    }
    let cases: Vec<&Verdict> = tested.iter().flat_map(|tested| tested.cases.iter().flatten()).collect();
    let failed = cases.iter().filter(|verdict| !verdict.passed()).count();
    let wrong = tested.iter().filter(|tested| tested.cases.is_err()).count();
    let plural = |count: usize, word: &str| format!("{count} {word}{}", if count == 1 { "" } else { "s" });
    let _ = write!(out, "{}, {failed} failed", plural(cases.len(), "case"));
    if wrong > 0 {
        let _ = write!(out, ", {} cannot be read", plural(wrong, "file"));
    }
    out.push('\n');
    out
}

fn case_text(file: &str, verdict: &Verdict) -> String {
    let mut out = String::new();
    let word = if verdict.passed() { "ok" } else { "FAILED" };
    let line = verdict.line.map_or(String::new(), |line| format!(":{line}"));
    let _ = write!(out, "{word:<8}{file}{line}: {}", printable(&verdict.case));
    if verdict.passed() {
        let plural = |count: usize| if count == 1 { "" } else { "s" };
        let Verdict { events, ways, .. } = verdict;
        let _ = write!(out, " ({events} event{}, {ways} way{} of delivery)", plural(*events), plural(*ways));
    }
    out.push('\n');
    for line in details(verdict) {
        let _ = writeln!(out, "        {line}");
    }
    out
}

/// A line for each thing that is wrong or worth a word.
fn details(verdict: &Verdict) -> Vec<String> {
    let mut lines: Vec<String> =
        verdict.differences.iter().map(|difference| described(difference, false)).collect();
    if let Some((way, differences)) = &verdict.depends {
        lines.push(format!("the rows depend on how events are delivered; {way}:"));
        lines.extend(differences.iter().map(|difference| format!("  {}", described(difference, true))));
    }
    lines.extend(verdict.notes.iter().map(|note| format!("note: {}", printable(note))));
    lines
}

/// `again`: compared with the rows of the events as written, not with what somebody expects.
fn described(difference: &Difference, again: bool) -> String {
    let Difference { what, table, key, column, expected, found, line } = difference;
    let show = |text: &Option<String>| printable(text.as_deref().unwrap_or_default());
    let row = match (table, key) {
        (Some(table), Some(key)) => format!("{table}, {}", printable(key)),
        (Some(table), None) => table.clone(),
        (None, _) => String::new(),
    };
    let at = line.map_or(String::new(), |line| format!(" (line {line})"));
    let (expected_word, once) = if again { ("as written", " as written") } else { ("expected", "") };
    match (*what, found) {
        ("missing", _) if again => format!("{row}: the row is missing"),
        ("missing", _) => format!("{row}: the row is missing, with {}{at}", show(expected)),
        ("unexpected", Some(_)) => format!("{row}: this row is not expected, with {}", show(found)),
        ("unexpected", None) => format!("{row}: this row is not there{once}"),
        ("differs", _) => {
            format!("{row}: {} is `{}`, {expected_word} `{}`{at}", show(column), show(found), show(expected))
        }
        ("dead_letter", Some(_)) => format!("a dead letter is not expected: {}", show(found)),
        ("dead_letter", None) => format!("no dead letter is like this: {}{at}", show(expected)),
        ("skipped", _) => format!("skipped events: {}, expected {}", show(found), show(expected)),
        ("stopped", None) => format!("the daemon does not stop; expected `{}`", show(expected)),
        ("stopped", Some(_)) if expected.is_some() => {
            format!("the daemon stops, but not because of `{}`: {}", show(expected), show(found))
        }
        ("stopped", Some(_)) => format!("the daemon stops: {}", show(found)),
        _ if row.is_empty() => show(found),
        _ => format!("{row}: {}", show(found)),
    }
}

pub fn json(tested: &[Tested]) -> Value {
    let files: Vec<Value> = tested
        .iter()
        .map(|Tested { file, cases }| match cases {
            Ok(cases) => {
                let cases: Vec<Value> = cases.iter().map(case_json).collect();
                json!({ "file": file, "problems": [], "cases": cases })
            }
            Err(errors) => {
                let problems: Vec<Value> = errors.problems.iter().map(problem_json).collect();
                json!({ "file": file, "problems": problems, "cases": [] })
            }
        })
        .collect();
    let passed = tested.iter().all(|tested| tested.cases.is_ok() && tested.failed() == 0);
    json!({ "passed": passed, "files": files })
}

fn case_json(verdict: &Verdict) -> Value {
    let depends = verdict
        .depends
        .as_ref()
        .map(|(way, differences)| json!({ "delivery": way, "differences": differences }));
    json!({
        "name": verdict.case,
        "line": verdict.line,
        "passed": verdict.passed(),
        "events": verdict.events,
        "deliveries": verdict.ways,
        "differences": verdict.differences,
        "depends_on_delivery": depends,
        "notes": verdict.notes,
        "seconds": verdict.took.as_secs_f64(),
    })
}

fn problem_json(problem: &Problem) -> Value {
    json!({
        "place": problem.place.to_string(),
        "line": problem.place.line(),
        "column": problem.place.column(),
        "text": problem.text,
        "message": problem.message,
        "suggestion": problem.suggestion,
    })
}

/// As CI systems read it: a suite per file, a test per case.
pub fn junit(tested: &[Tested]) -> String {
    let mut out =
        String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites name=\"readside test\">\n");
    for Tested { file, cases } in tested {
        let name = escaped(file);
        match cases {
            Ok(cases) => {
                let failures = cases.iter().filter(|verdict| !verdict.passed()).count();
                let seconds: f64 = cases.iter().map(|verdict| verdict.took.as_secs_f64()).sum();
                let _ = writeln!(
                    out,
                    "  <testsuite name=\"{name}\" tests=\"{}\" failures=\"{failures}\" errors=\"0\" time=\"{seconds:.3}\">",
                    cases.len()
                );
                for verdict in cases {
                    out.push_str(&testcase(&name, verdict));
                }
            }
            Err(errors) => {
                let text = escaped(&errors.to_string());
                let _ = writeln!(
                    out,
                    "  <testsuite name=\"{name}\" tests=\"1\" failures=\"0\" errors=\"1\">\n    \
                     <testcase classname=\"{name}\" name=\"the file\"><error message=\"the file is wrong\">{text}</error></testcase>"
                );
            }
        }
        out.push_str("  </testsuite>\n");
    }
    out.push_str("</testsuites>\n");
    out
}

fn testcase(file: &str, verdict: &Verdict) -> String {
    let case = escaped(&verdict.case);
    let start = format!(
        "    <testcase classname=\"{file}\" name=\"{case}\" time=\"{:.3}\"",
        verdict.took.as_secs_f64()
    );
    let details = details(verdict);
    let text = escaped(&details.join("\n"));
    if !verdict.passed() {
        let first = details.first().map_or(String::new(), |line| escaped(line));
        format!("{start}><failure message=\"{first}\">{text}</failure></testcase>\n")
    } else if details.is_empty() {
        format!("{start}/>\n")
    } else {
        format!("{start}><system-out>{text}</system-out></testcase>\n")
    }
}

/// For XML 1.0, which has no way to write most control characters.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\n' | '\t' => out.push(char),
            char if char.is_control() || matches!(char, '\u{fffe}' | '\u{ffff}') => out.push('\u{fffd}'),
            char => out.push(char),
        }
    }
    out
}
