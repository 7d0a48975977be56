//! docs/RELIABILITY.md names a test for every fault, and `make mutants` takes its faults from patches:
//! each of the tests is there, and each of the patches applies.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// `gaps::a_test` from between the backquotes; `a_test_…` stands for all that begin so.
fn named(text: &str) -> BTreeSet<&str> {
    let is_name = |word: &&str| {
        word.contains("::") && word.chars().all(|c| c.is_ascii_alphanumeric() || "_:…*".contains(c))
    };
    text.split('`').skip(1).step_by(2).filter(is_name).collect()
}

#[test]
fn every_test_that_the_table_names_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(root.join("docs/RELIABILITY.md")).unwrap();
    let mut files = Vec::new();
    sources(&root.join("src"), &mut files);
    sources(&root.join("tests/it"), &mut files);
    let code: Vec<(PathBuf, String)> =
        files.into_iter().map(|path| (path.clone(), std::fs::read_to_string(path).unwrap())).collect();
    let named = named(&text);
    assert!(named.len() > 60, "only {} tests are named", named.len());
    let missing = named.iter().filter(|name| {
        let (rooms, last) = name.rsplit_once("::").unwrap();
        let start = last.trim_end_matches(['…', '*']);
        // The file is named for the last room, or a folder is; a whole room may be meant.
        let room = rooms.rsplit("::").find(|room| *room != "tests").unwrap();
        let is_there = |(path, code): &(PathBuf, String)| {
            let path = path.to_str().unwrap();
            let here = path.contains(&format!("/{room}")) || code.contains(&format!("mod {room}"));
            let ends = if start == last { "(" } else { "" };
            here && (code.contains(&format!("fn {start}{ends}")) || code.contains(&format!("    {start},\n")))
                || path.contains(&format!("/{room}/{last}"))
                || code.contains(&format!("mod {last};"))
        };
        !code.iter().any(is_there)
    });
    let missing: Vec<_> = missing.collect();
    assert!(missing.is_empty(), "docs/RELIABILITY.md names tests that are not there: {missing:?}");
}

/// Whether a test notices them takes an hour to find out; that they are up to date, a moment.
#[test]
fn every_mutant_is_a_change_of_the_code_as_it_is() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut patches = 0;
    for entry in std::fs::read_dir(root.join("tests/mutants")).unwrap() {
        let patch = entry.unwrap().path();
        if patch.extension().is_none_or(|extension| extension != "patch") {
            continue;
        }
        let apply =
            Command::new("git").args(["apply", "--check", "-C1"]).arg(&patch).current_dir(root).output();
        let apply = apply.expect("git, with which the project came");
        let words = String::from_utf8_lossy(&apply.stderr);
        assert!(apply.status.success(), "{} does not apply: {words}", patch.display());
        patches += 1;
    }
    assert!(patches > 30, "only {patches} patches");
}
