//! The description of the sections, what is read, and the JSON Schema say the same.

use std::fs;

use serde_json::Value;

use super::super::sections::{Key, Presence, ROOT, Section, Shape, for_each_section};
use super::super::*;
use super::{example, files, minimal, name_of, no_variables};

/// The key is the only one of its section that is wrong: it is read, and its problem is found there.
#[test]
fn every_described_key_is_read() {
    let mut seen = 0;
    let mut visit = |path: &[&str], key: &'static Key| {
        seen += 1;
        // A mapping where a value is expected, a value where a mapping is expected.
        let wrong = match key.shape {
            Shape::Section(_) | Shape::Map { .. } => "\"a text\"",
            _ => "{ a: { b: c } }",
        };
        let mut text = String::new();
        for (depth, name) in path.iter().enumerate() {
            text.push_str(&format!("{}{name}:\n", "  ".repeat(depth)));
        }
        text.push_str(&format!("{}{}: {wrong}\n", "  ".repeat(path.len()), key.name));
        let line = path.len() + 1;
        let found = parse(&text, "f.yaml", no_variables()).unwrap_err();
        let here: Vec<&Problem> = found
            .problems
            .iter()
            .filter(|problem| problem.place.line() == Some(line) && !problem.message.contains("is missing"))
            .collect();
        assert!(!here.is_empty(), "{text}\n{found}");
        assert!(here.iter().all(|problem| !problem.message.contains("unknown key")), "{text}\n{found}");
    };
    let mut todo: Vec<(Vec<&str>, &'static Section)> = vec![(vec![], &ROOT)];
    while let Some((path, section)) = todo.pop() {
        for key in section.keys() {
            visit(&path, key);
            let mut inner = path.clone();
            inner.push(key.name);
            match &key.shape {
                Shape::Section(section) => todo.push((inner, section)),
                Shape::Map { value: Shape::Section(section), .. } => {
                    inner.push("x");
                    todo.push((inner, section));
                }
                _ => {}
            }
        }
    }
    assert!(seen > 50, "{seen}");
}

#[test]
fn every_described_default_is_valid_and_every_section_is_described() {
    for_each_section(&mut |section| {
        assert!(!section.help.is_empty());
        for key in section.keys() {
            assert!(key.help.ends_with('.') || key.help.ends_with('`'), "{}.{}", section.name, key.name);
            if let Presence::Default(text) = key.presence {
                assert!(!text.is_empty());
            }
            assert!(!section.unsupported.contains(&key.name));
        }
    });
    // The minimal file uses all defaults; a wrong one would be missing from the result.
    example("minimal.yaml");
}

/// Checks a YAML tree against the schema: names by `properties`, shapes by `type` and `anyOf`.
fn check_schema(root: &Value, schema: &Value, node: &tree::Node, at: &str) -> Result<(), String> {
    if let Some(reference) = schema["$ref"].as_str() {
        let name = reference.strip_prefix("#/$defs/").unwrap();
        return check_schema(root, &root["$defs"][name], node, at);
    }
    if let Some(any) = schema["anyOf"].as_array() {
        let all: Vec<_> = any.iter().map(|schema| check_schema(root, schema, node, at)).collect();
        return match all.iter().any(Result::is_ok) {
            true => Ok(()),
            false => Err(format!("{at}: {all:?}")),
        };
    }
    let types: Vec<&str> = match &schema["type"] {
        Value::String(one) => vec![one],
        Value::Array(many) => many.iter().filter_map(Value::as_str).collect(),
        _ => vec!["string"],
    };
    match &node.content {
        tree::Content::Mapping(entries) => {
            if !types.contains(&"object") {
                return Err(format!("{at}: a mapping"));
            }
            for required in schema["required"].as_array().into_iter().flatten() {
                if !entries.iter().any(|entry| required == &Value::from(entry.key.as_str())) {
                    return Err(format!("{at}: {required} is missing"));
                }
            }
            for entry in entries {
                let inner = match &schema["properties"][&entry.key] {
                    Value::Null => &schema["additionalProperties"],
                    found => found,
                };
                let at = format!("{at}.{}", entry.key);
                if !inner.is_object() {
                    return Err(format!("{at}: unknown"));
                }
                check_schema(root, inner, &entry.value, &at)?;
            }
            Ok(())
        }
        tree::Content::Sequence(items) => {
            if !types.contains(&"array") {
                return Err(format!("{at}: a list"));
            }
            items.iter().try_for_each(|item| check_schema(root, &schema["items"], item, at))
        }
        tree::Content::Scalar { text, .. } => {
            if let Some(words) = schema["enum"].as_array() {
                return match words.contains(&Value::from(text.as_str())) {
                    true => Ok(()),
                    false => Err(format!("{at}: {text} is none of {words:?}")),
                };
            }
            match types.iter().any(|ty| matches!(*ty, "string" | "integer" | "number" | "boolean")) {
                true => Ok(()),
                false => Err(format!("{at}: a value")),
            }
        }
    }
}

#[test]
fn the_schema_knows_every_example() {
    let schema = schema::json_schema();
    for file in files("examples", "yaml") {
        let text = fs::read_to_string(&file).unwrap();
        let mut report = Report::default();
        let root = tree::read(&text, &"f.yaml".into(), &mut report).unwrap();
        check_schema(&schema, &schema, &root, &name_of(&file)).unwrap();
    }
}

#[test]
fn the_schema_has_every_key_that_is_read_and_no_other() {
    let schema = schema::json_schema();
    let definitions = schema["$defs"].as_object().unwrap();
    let mut sections = 0;
    for_each_section(&mut |section| {
        sections += 1;
        let described = match section.name {
            "the configuration" => &schema,
            name => &definitions[name.strip_prefix("a ").unwrap_or(name)],
        };
        let mut found: Vec<&String> = described["properties"].as_object().unwrap().keys().collect();
        let mut expected: Vec<&str> = section.keys().map(|key| key.name).collect();
        found.sort();
        expected.sort();
        assert_eq!(found, expected, "{}", section.name);
        assert_eq!(described["additionalProperties"], false);
    });
    assert_eq!(definitions.len() + 1, sections);
}

#[test]
fn an_invalid_name_is_refused_by_the_schema_check_too() {
    let schema = schema::json_schema();
    let mut report = Report::default();
    let root = tree::read(&minimal().replace("topic:", "topik:"), &"f.yaml".into(), &mut report).unwrap();
    assert_eq!(check_schema(&schema, &schema, &root, "f"), Err("f.tables.users.topik: unknown".into()));
}
