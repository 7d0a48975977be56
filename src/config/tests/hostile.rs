//! No file and no variable makes the configuration panic or think for long.

use std::fs;

use proptest::prelude::*;

use super::super::*;
use super::{files, minimal, no_variables};

fn any_example() -> impl Strategy<Value = Vec<u8>> {
    let texts: Vec<Vec<u8>> = files("examples", "yaml")
        .into_iter()
        .chain(files("invalid", "yaml"))
        .map(|file| fs::read(file).unwrap())
        .collect();
    prop::sample::select(texts)
}

/// Pieces that mean something to YAML or to the configuration.
const PIECES: &[&str] = &[
    "\n",
    "  ",
    "- ",
    ": ",
    "? ",
    "{",
    "}",
    "[",
    "]",
    "\"",
    "'",
    "|\n",
    ">\n",
    "&a ",
    "*a",
    "!t ",
    "#",
    "---\n",
    "...\n",
    "%YAML 1.2\n",
    "~",
    "null",
    "\t",
    "\u{feff}",
    "\0",
    "topic: x\n",
    "key: []",
    "sources: [{topic: a}, {topic: b}]",
    "<<: ",
    "99999999999999999999d",
    ".a[0]",
    "$key",
    "events: {a: {patch: {}}}",
    "columns: {}",
    "é",
    "\r",
];

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = parse_bytes(&bytes, "f.yaml", no_variables());
    }

    #[test]
    fn no_yaml_like_text_makes_it_panic(pieces in prop::collection::vec(prop::sample::select(PIECES), 0..60)) {
        let _ = parse(&pieces.concat(), "f.yaml", no_variables());
    }

    /// What is cut out of a good file, or put into it, gives a configuration or located errors.
    #[test]
    fn no_mutated_file_makes_it_panic(
        text in any_example(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), 0usize..12, prop::sample::select(PIECES)), 1..6),
    ) {
        let mut bytes = text;
        for (at, cut, piece) in edits {
            let start = at.index(bytes.len() + 1);
            let end = (start + cut).min(bytes.len());
            bytes.splice(start..end, piece.bytes());
        }
        if let Err(errors) = parse_bytes(&bytes, "f.yaml", no_variables()) {
            prop_assert!(!errors.problems.is_empty());
            for problem in &errors.problems {
                prop_assert!(problem.to_string().starts_with("f.yaml:"), "{}", problem);
            }
        }
    }

    #[test]
    fn no_variable_makes_it_panic(name in "[A-Z_.a-z]{0,20}", value in any::<String>()) {
        let name = format!("READSIDE__{name}");
        let _ = parse(&minimal(), "f.yaml", [(name, value)].into_iter());
    }
}

/// Whatever is in 4 MiB, the answer comes soon: no step compares each line with each.
#[test]
fn a_large_wrong_file_is_answered() {
    let rows = |line: &str| (0..60_000).map(|n| line.replace('#', &n.to_string())).collect::<String>();
    for text in [
        rows("key#: x\n"),
        format!("tables:\n{}", rows("  t#: x\n")),
        format!("topics:\n{}", rows("  t#: x\n")),
        format!("topics: {{ a: {{ ignore: [{}] }} }}\n", rows("e#, ")),
        format!("tables: {{ a: {{ columns: {{ {} }} }} }}\n", rows("c#: text, ")),
        format!("tables: {{ a: {{ columns: {{ id: text }}, key: [{}] }} }}\n", rows("c#, ")),
        format!("kafka: {{ properties: {{ {} }} }}\n", rows("p.#: x, ")),
    ] {
        let found = parse(&text, "f.yaml", no_variables()).unwrap_err();
        assert!(found.problems.len() <= 101, "{}", found.problems.len());
    }
}
