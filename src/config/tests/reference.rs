//! The configuration's part of `docs/REFERENCE.md` is made from the description of the sections;
//! its examples are taken from `config/examples`. `READSIDE_BLESS=1` writes it.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path as FilePath, PathBuf};

use super::super::environment::settable;
use super::super::sections::{Key, Presence, ROOT, Section, Shape};
use super::super::words::words;
use super::super::*;
use super::files;
use crate::domain::value::ColumnType;

const BEGIN: &str =
    "<!-- Made from src/config/sections.rs: READSIDE_BLESS=1 cargo test --lib reference -->\n";
const END: &str = "<!-- Up to here -->\n";
/// Entries of a mapping that an example shows.
const ENTRIES_MAX: usize = 2;

fn path() -> PathBuf {
    FilePath::new(env!("CARGO_MANIFEST_DIR")).join("docs/REFERENCE.md")
}

#[test]
fn the_reference_has_every_key_with_its_type_default_and_an_example() {
    let text = fs::read_to_string(path()).unwrap();
    let (before, rest) = text.split_once(BEGIN).expect("the line that begins the generated part");
    let (found, after) = rest.split_once(END).expect("the line that ends the generated part");
    let expected = configuration();
    if std::env::var_os("READSIDE_BLESS").is_some() {
        fs::write(path(), format!("{before}{BEGIN}{expected}{END}{after}")).unwrap();
        return;
    }
    assert!(found == expected, "docs/REFERENCE.md is not what READSIDE_BLESS=1 would write");
}

#[test]
fn the_configuration_in_the_readme_is_valid() {
    let text = fs::read_to_string(FilePath::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let blocks: Vec<&str> = text.split("```yaml\n").skip(1).collect();
    assert!(!blocks.is_empty());
    for block in blocks {
        let yaml = block.split("```").next().unwrap();
        let loaded =
            parse(yaml, "README.md", super::no_variables()).unwrap_or_else(|errors| panic!("{errors}"));
        assert!(loaded.warnings.iter().all(|warning| warning.message.starts_with("looks personal")));
    }
}

#[test]
fn the_reference_has_every_column_type_and_encoding() {
    let text = fs::read_to_string(path()).unwrap();
    for word in words::<ColumnType>().into_iter().chain(words::<Encoding>()) {
        assert!(text.contains(&format!("`{word}`")), "{word}");
    }
}

/// Tables of all sections, then the variables of the environment.
fn configuration() -> String {
    let examples = Examples::collect();
    let mut out = String::new();
    // Groups of keys that several sections share, and the path under which they were shown.
    let mut shown: Vec<(*const Key, String)> = Vec::new();
    let mut seen: Vec<&str> = Vec::new();
    let mut todo: Vec<(String, &'static Section)> = vec![(String::new(), &ROOT)];
    while let Some((path, section)) = todo.pop() {
        let title = if path.is_empty() { "Top level".to_owned() } else { format!("`{path}`") };
        let _ = writeln!(out, "\n### {title}\n\n{}\n", section.help);
        let mut rows = String::new();
        for group in section.keys {
            if let Some((_, home)) = shown.iter().find(|(keys, _)| *keys == group.as_ptr()) {
                let names: Vec<String> = group.iter().map(|key| format!("`{}`", key.name)).collect();
                let _ = writeln!(out, "As under `{home}`: {}.\n", names.join(", "));
                continue;
            }
            shown.push((group.as_ptr(), path.clone()));
            for key in *group {
                let _ = writeln!(
                    rows,
                    "| `{}` | {} | {} | {} | {} |",
                    key.name,
                    type_of(&key.shape),
                    default_of(key),
                    key.help.replace('|', "\\|"),
                    code(&examples.of(section, key)),
                );
            }
        }
        if !rows.is_empty() {
            let _ = writeln!(
                out,
                "| key | type | default | meaning | example |\n| --- | --- | --- | --- | --- |"
            );
            out.push_str(&rows);
        }
        // The last one pushed comes next: sections in the order of their keys.
        let keys: Vec<&'static Key> = section.keys().collect();
        for key in keys.into_iter().rev() {
            let at = if path.is_empty() { key.name.to_owned() } else { format!("{path}.{}", key.name) };
            let mut found = Vec::new();
            inner(&key.shape, at, &mut found);
            // Shown once, where it is nearest to the top.
            found.retain(|(_, section)| !seen.contains(&section.name));
            seen.extend(found.iter().map(|(_, section)| section.name));
            todo.extend(found);
        }
    }
    let mut variables = settable();
    variables.sort();
    let _ = writeln!(out, "\n### Environment\n");
    let _ = writeln!(
        out,
        "A variable wins over the file. Its name is the path of the key in upper case, with `__` between the names. \
         What has free names (`tables`, `topics`, `kafka.properties`) is set in the file only; \
         `READSIDE__KAFKA__SECRETS__SASL__PASSWORD` is `kafka.secrets` with the property `sasl.password`. \
         A variable with the prefix `READSIDE__` that sets nothing is an error.\n"
    );
    for variable in variables {
        let _ = writeln!(out, "* `{variable}`");
    }
    out.push('\n');
    out
}

/// The sections that a key holds, with where they are.
fn inner(shape: &'static Shape, path: String, found: &mut Vec<(String, &'static Section)>) {
    match shape {
        Shape::Section(section) => found.push((path, section)),
        Shape::Map { names, value } => inner(value, format!("{path}.<{names}>"), found),
        Shape::List(item) => inner(item, format!("{path}[]"), found),
        Shape::OneOf(shapes) => shapes.iter().for_each(|shape| inner(shape, path.clone(), found)),
        _ => {}
    }
}

fn type_of(shape: &Shape) -> String {
    match shape {
        Shape::Text => "text".to_owned(),
        Shape::Duration => "duration".to_owned(),
        Shape::Size => "size".to_owned(),
        Shape::Count => "whole number".to_owned(),
        Shape::Rate => "rate".to_owned(),
        Shape::Percent => "percentage".to_owned(),
        Shape::Address => "address".to_owned(),
        Shape::File => "file".to_owned(),
        Shape::RedisUrl => "Redis URL".to_owned(),
        Shape::RegistryUrl => "URL".to_owned(),
        Shape::Bool => "`true`, `false`".to_owned(),
        Shape::Word(words) => words().iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", "),
        Shape::Condition => "condition".to_owned(),
        Shape::Path => "path".to_owned(),
        Shape::Expression => "expression".to_owned(),
        Shape::ColumnType => "column type".to_owned(),
        Shape::Section(_) => "section".to_owned(),
        Shape::Map { names, value } => format!("{names} → {}", type_of(value)),
        Shape::List(item) => format!("list of {}", type_of(item)),
        Shape::OneOf(shapes) => shapes.iter().map(type_of).collect::<Vec<_>>().join(" or "),
    }
}

fn default_of(key: &Key) -> String {
    match key.presence {
        Presence::Required => "required".to_owned(),
        Presence::Optional => "optional".to_owned(),
        Presence::Default(text) => format!("`{text}`"),
    }
}

/// As code in a cell of a table; nothing stays nothing.
fn code(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!("`{}`", text.replace('|', "\\|")) }
}

/// What the files in `config/examples` say of each key.
struct Examples(HashMap<(&'static str, &'static str), String>);

impl Examples {
    fn collect() -> Examples {
        let mut found = HashMap::new();
        for file in files("examples", "yaml") {
            let text = fs::read_to_string(&file).unwrap();
            let mut report = Report::default();
            let root = tree::read(&text, &"f.yaml".into(), &mut report).unwrap();
            visit(&ROOT, &root, &mut found);
        }
        Examples(found)
    }

    /// Sections are shown by their own tables; a word that no example uses is the first one.
    fn of(&self, section: &Section, key: &Key) -> String {
        if let Shape::Section(_)
        | Shape::Map { value: Shape::Section(_), .. }
        | Shape::List(Shape::Section(_)) = key.shape
        {
            return String::new();
        }
        let shared = [section.name, "a topic", "a source"];
        let known = shared.iter().find_map(|section| self.0.get(&(*section, key.name)));
        match (known, &key.shape, key.presence) {
            (Some(value), ..) => format!("{}: {value}", key.name),
            (None, Shape::Word(words), _) => format!("{}: {}", key.name, words()[0]),
            (None, _, Presence::Default(text)) => format!("{}: {text}", key.name),
            _ => panic!("no file in config/examples has `{}` of {}", key.name, section.name),
        }
    }
}

fn visit(
    section: &'static Section,
    node: &tree::Node,
    found: &mut HashMap<(&'static str, &'static str), String>,
) {
    let tree::Content::Mapping(entries) = &node.content else { return };
    for entry in entries {
        let key = section.key(&entry.key).unwrap();
        found.entry((section.name, key.name)).or_insert_with(|| flow(&entry.value));
        visit_shape(&key.shape, &entry.value, found);
    }
}

fn visit_shape(
    shape: &'static Shape,
    node: &tree::Node,
    found: &mut HashMap<(&'static str, &'static str), String>,
) {
    match (shape, &node.content) {
        (Shape::Section(section), _) => visit(section, node, found),
        (Shape::Map { value, .. }, tree::Content::Mapping(entries)) => {
            entries.iter().for_each(|entry| visit_shape(value, &entry.value, found));
        }
        (Shape::List(item), tree::Content::Sequence(items)) => {
            items.iter().for_each(|node| visit_shape(item, node, found));
        }
        (Shape::OneOf(shapes), tree::Content::Mapping(_)) => {
            shapes.iter().for_each(|shape| visit_shape(shape, node, found));
        }
        _ => {}
    }
}

/// On one line, with the first entries only.
fn flow(node: &tree::Node) -> String {
    match &node.content {
        tree::Content::Scalar { text, .. } if needs_quotes(text) => format!("'{text}'"),
        tree::Content::Scalar { text, .. } => text.clone(),
        tree::Content::Sequence(items) => {
            format!("[{}]", items.iter().map(flow).collect::<Vec<_>>().join(", "))
        }
        tree::Content::Mapping(entries) => {
            let mut shown: Vec<String> = entries
                .iter()
                .take(ENTRIES_MAX)
                .map(|entry| format!("{}: {}", entry.key, flow(&entry.value)))
                .collect();
            if entries.len() > ENTRIES_MAX {
                shown.push("…".to_owned());
            }
            format!("{{ {} }}", shown.join(", "))
        }
    }
}

fn needs_quotes(text: &str) -> bool {
    text.contains([',', '{', '}', '[', ']', '#', '"', '?']) || text.is_empty()
}
