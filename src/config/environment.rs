//! `READSIDE__KAFKA__BROKERS=…`: single values from the environment, laid over the file.
//!
//! Variables reach what is written once (decision: not `tables`, `topics` and `kafka.properties`,
//! whose names are free and would be lower-cased). A value from a variable is read and checked
//! exactly like one from the file, except that its problems name the variable.

use std::collections::HashMap;

use ::config::{Environment, Source};

use super::problem::{Place, Problem, Report};
use super::sections::{ROOT, Section, Shape};
use super::tree::{Content, Entry, Node};

const PREFIX: &str = "READSIDE";
const SEPARATOR: &str = "__";
/// Its entries are named after librdkafka properties, whose dots become separators.
const SECRETS: &str = "kafka.secrets";

/// Lays the variables over `root`; other variables than `READSIDE__…` are left alone.
pub(super) fn overlay(root: &mut Node, env: impl Iterator<Item = (String, String)>, report: &mut Report) {
    let mut own: HashMap<String, String> = HashMap::new();
    for (name, value) in env.filter(|(name, _)| is_own(name)) {
        // Names are read without regard to case; which of two spellings wins would be chance.
        if own.insert(name.to_uppercase(), value).is_some() {
            report.error(&Place::Variable(name.into()), "this variable is given in two spellings");
        }
    }
    let variables =
        Environment::with_prefix(PREFIX).prefix_separator(SEPARATOR).separator(SEPARATOR).source(Some(own));
    let found = match variables.collect() {
        Ok(found) => found,
        Err(error) => {
            let place = Place::Variable(format!("{PREFIX}{SEPARATOR}…").into());
            report.error(&place, error.to_string());
            return;
        }
    };
    for (path, value) in found {
        let place = Place::Variable(variable(&path).into());
        let Ok(text) = value.into_string() else {
            report.error(&place, "expected a single value");
            continue;
        };
        match target(&path) {
            Ok(path) => set(root, &path, Node::scalar(place.clone(), text), &place),
            Err(message) => {
                let known = settable();
                let problem = Problem::new(&place, message);
                report.push(problem.suggest(&variable(&path), known.iter().map(String::as_str)));
            }
        }
    }
}

/// The variables of this process that begin with the prefix; text that is not UTF-8 is replaced,
/// so that checking the value finds it rather than ignoring it.
pub fn process_environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os()
        .map(|(name, value)| (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned()))
        .filter(|(name, _)| is_own(name))
}

fn is_own(name: &str) -> bool {
    name.to_uppercase().starts_with(&format!("{PREFIX}{SEPARATOR}"))
}

fn variable(path: &str) -> String {
    format!("{PREFIX}{SEPARATOR}{}", path.replace('.', SEPARATOR).to_uppercase())
}

/// The keys that lead to what a variable sets, or why it sets nothing.
fn target(path: &str) -> Result<Vec<&str>, &'static str> {
    if let Some(property) = path.strip_prefix(SECRETS).and_then(|rest| rest.strip_prefix('.')) {
        return Ok(vec!["kafka", "secrets", property]);
    }
    let mut section: &'static Section = &ROOT;
    let names: Vec<&str> = path.split('.').collect();
    for (depth, name) in names.iter().enumerate() {
        let Some(key) = section.key(name) else {
            return Err(match section.unsupported.contains(name) {
                true => "this version does not support what this variable sets",
                false => "this variable sets nothing that readside knows",
            });
        };
        match &key.shape {
            Shape::Section(inner) => section = inner,
            Shape::Map { .. } => return Err("this can only be set in the file, not by a variable"),
            _ if depth + 1 == names.len() => return Ok(names),
            _ => break,
        }
    }
    Err("this variable sets nothing that readside knows")
}

/// The names of all variables, without those for secrets.
pub(super) fn settable() -> Vec<String> {
    let mut names = Vec::new();
    let mut todo: Vec<(String, &'static Section)> = vec![(PREFIX.to_owned(), &ROOT)];
    while let Some((prefix, section)) = todo.pop() {
        for key in section.keys() {
            let name = format!("{prefix}{SEPARATOR}{}", key.name.to_uppercase());
            match &key.shape {
                Shape::Section(inner) => todo.push((name, inner)),
                Shape::Map { .. } => {}
                _ => names.push(name),
            }
        }
    }
    names
}

/// Puts `value` at `path`, making the mappings on the way. A node that is in the way and no
/// mapping stays, and is reported when it is read.
fn set(node: &mut Node, path: &[&str], value: Node, place: &Place) {
    let Some((name, rest)) = path.split_first() else {
        *node = value;
        return;
    };
    if node.is_null() {
        node.content = Content::Mapping(Vec::new());
    }
    let Content::Mapping(entries) = &mut node.content else {
        return;
    };
    let index = match entries.iter().position(|entry| entry.key == *name) {
        Some(index) => index,
        None => {
            let empty = Node { place: place.clone(), content: Content::Mapping(Vec::new()) };
            entries.push(Entry { key: (*name).to_owned(), key_place: place.clone(), value: empty });
            entries.len() - 1
        }
    };
    if let Some(entry) = entries.get_mut(index) {
        set(&mut entry.value, rest, value, place);
    }
}
