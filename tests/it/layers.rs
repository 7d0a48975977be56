//! The rooms of docs/ARCHITECTURE.md: imports point one way, and a driver is named in one place.

use std::path::{Path, PathBuf};

/// Left to right; rooms of one group may import each other's left neighbours only.
const ROOMS: [&[&str]; 11] = [
    &["domain", "jq"],
    &["config"],
    &["metrics"],
    &["decode"],
    &["mapping"],
    &["store"],
    &["source"],
    &["pipeline"],
    &["telemetry", "admin"],
    &["app"],
    &["commands", "cli"],
];

fn files(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

fn sources() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    files(&root, &mut found);
    assert!(found.len() > 20, "the sources were found");
    found
        .into_iter()
        .map(|path| {
            let name = path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
            (name, std::fs::read_to_string(path).unwrap())
        })
        .collect()
}

fn rank(room: &str) -> Option<usize> {
    ROOMS.iter().position(|group| group.contains(&room))
}

/// The rooms named behind `crate::` in a text; a braced list names several.
fn imported(text: &str) -> Vec<&str> {
    text.match_indices("crate::")
        .flat_map(|(start, found)| {
            let rest = &text[start + found.len()..];
            let list = match rest.strip_prefix('{') {
                Some(inner) => inner.split('}').next().unwrap_or(""),
                None => rest.split(|c: char| !(c.is_alphanumeric() || c == '_')).next().unwrap_or(""),
            };
            list.split(',').map(|item| item.trim().split(':').next().unwrap_or("")).collect::<Vec<_>>()
        })
        .collect()
}

#[test]
fn imports_point_left() {
    let mut wrong = Vec::new();
    for (name, text) in sources() {
        let room = name.split(['/', '.']).next().unwrap();
        let Some(own) = rank(room) else { continue };
        for target in imported(&text) {
            if let Some(other) = rank(target)
                && (other > own || (other == own && target != room && room != "cli"))
            {
                wrong.push(format!("{name} imports {target}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_driver_is_named_in_one_place() {
    let homes = [
        ("rdkafka", "source/kafka"),
        ("rusqlite", "store/sqlite"),
        ("redis", "store/redis"),
        ("axum", "admin/"),
        ("jaq_core", "jq/"),
        ("regex_lite", "jq/"),
    ];
    let mut wrong = Vec::new();
    for (name, text) in sources() {
        for (driver, home) in homes {
            let named = text.lines().any(|line| {
                let code = line.split("//").next().unwrap_or("");
                // Behind `::` it is a module of ours with the same name.
                code.match_indices(&format!("{driver}::")).any(|(at, _)| !code[..at].ends_with("::"))
            });
            if named && !name.starts_with(home) {
                wrong.push(format!("{name} names {driver}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_arrow_that_runs_back_is_found() {
    assert_eq!(imported("use crate::store::Store;"), ["store"]);
    assert_eq!(imported("use crate::{admin, config::Config};"), ["admin", "config"]);
    assert!(rank("domain") < rank("pipeline"));
}
