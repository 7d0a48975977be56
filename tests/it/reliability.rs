//! docs/RELIABILITY.md names a test for every fault: each of them is there.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

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
