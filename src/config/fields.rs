//! Reading a mapping against the description of its section.

use super::problem::{Place, Problem, Report};
use super::scalar::Wrong;
use super::sections::{Key, Presence, ROOT, Section, TABLE, TOPIC, for_each_section};
use super::tree::{Content, Entry, Node};

/// A value and where it was written.
#[derive(Debug, Clone)]
pub(super) struct Given<T> {
    pub value: T,
    pub place: Place,
}

/// The entries of one mapping, with unknown and unsupported keys already reported.
pub(super) struct Fields<'a> {
    pub section: &'static Section,
    /// Where the mapping begins.
    pub place: Place,
    /// A key of a later version is there, so that what else is missing may be its part.
    pub has_unsupported: bool,
    entries: &'a [Entry],
}

impl<'a> Fields<'a> {
    /// Nothing at all (`kafka:` with no value) is read as an empty mapping.
    pub fn open(report: &mut Report, node: &'a Node, section: &'static Section) -> Option<Fields<'a>> {
        let entries = entries(report, node, &in_prose(section))?;
        let mut has_unsupported = false;
        for entry in entries {
            if section.key(&entry.key).is_none() {
                has_unsupported |= section.unsupported.contains(&entry.key.as_str());
                report.push(unknown_key(section, entry));
            }
        }
        Some(Fields { section, place: node.place.clone(), has_unsupported, entries })
    }

    /// A section that is not written: everything in it has its default.
    pub fn absent(section: &'static Section, place: &Place) -> Fields<'static> {
        Fields { section, place: place.clone(), has_unsupported: false, entries: &[] }
    }

    pub fn key(&self, name: &str) -> Option<&'static Key> {
        let key = self.section.key(name);
        debug_assert!(key.is_some(), "the key {name} is not described in {}", self.section.name);
        key
    }

    /// The node of a key, if it is written.
    pub fn get(&self, name: &str) -> Option<&'a Node> {
        let key = self.key(name)?;
        self.entries.iter().find(|entry| entry.key == key.name).map(|entry| &entry.value)
    }

    /// The node of a key; reported when it is not written.
    pub fn require(&self, report: &mut Report, name: &str) -> Option<&'a Node> {
        let found = self.get(name);
        if found.is_none() {
            report.error(&self.place, format!("`{name}` is missing in {}", in_prose(self.section)));
        }
        found
    }

    /// A single value, or the default that the section describes. `None` when there is neither,
    /// or when what is there is wrong (and reported).
    pub fn value<T>(
        &self,
        report: &mut Report,
        name: &str,
        parse: fn(&str) -> Result<T, Wrong>,
    ) -> Option<Given<T>> {
        let presence = self.key(name)?.presence;
        match (self.get(name), presence) {
            (Some(node), _) => scalar(report, node, parse),
            (None, Presence::Required) => {
                self.require(report, name);
                None
            }
            (None, Presence::Optional) => None,
            (None, Presence::Default(text)) => match parse(text) {
                Ok(value) => Some(Given { value, place: self.place.clone() }),
                Err(wrong) => {
                    debug_assert!(false, "the default of {name} is wrong: {wrong:?}");
                    None
                }
            },
        }
    }
}

/// The entries of a mapping with free names; nothing at all is read as an empty one.
pub(super) fn entries<'a>(report: &mut Report, node: &'a Node, what: &str) -> Option<&'a [Entry]> {
    match &node.content {
        Content::Mapping(entries) => Some(entries),
        _ if node.is_null() => Some(&[]),
        _ => {
            report.push(about(
                node,
                format!("expected a mapping (`name: value`) for {what}, found {}", node.kind()),
            ));
            None
        }
    }
}

/// A list, or a single value as a list of one.
pub(super) fn one_or_many(node: &Node) -> &[Node] {
    match &node.content {
        Content::Sequence(items) => items,
        _ => std::slice::from_ref(node),
    }
}

/// A list of so many things is an accident, and comparing each with each would take long.
pub(super) fn few<T>(report: &mut Report, node: &Node, list: &[T], max: usize, what: &str) -> bool {
    if list.len() > max {
        report.error(&node.place, format!("more than {max} {what}"));
    }
    list.len() <= max
}

/// A list.
pub(super) fn items<'a>(report: &mut Report, node: &'a Node, what: &str) -> Option<&'a [Node]> {
    match &node.content {
        Content::Sequence(items) => Some(items),
        _ => {
            report.push(about(node, format!("expected a list for {what}, found {}", node.kind())));
            None
        }
    }
}

/// A single value.
pub(super) fn scalar<T>(
    report: &mut Report,
    node: &Node,
    parse: fn(&str) -> Result<T, Wrong>,
) -> Option<Given<T>> {
    let text = scalar_text(report, node)?;
    match parse(text) {
        Ok(value) => Some(Given { value, place: node.place.clone() }),
        Err(wrong) => {
            report.push(wrong_value(node, text, wrong));
            None
        }
    }
}

pub(super) fn scalar_text<'a>(report: &mut Report, node: &'a Node) -> Option<&'a str> {
    match &node.content {
        Content::Scalar { .. } if node.is_null() => {
            report.error(&node.place, "a value is missing");
            None
        }
        Content::Scalar { text, .. } => Some(text),
        _ => {
            report.error(&node.place, format!("expected a single value, found {}", node.kind()));
            None
        }
    }
}

pub(super) fn wrong_value(node: &Node, text: &str, wrong: Wrong) -> Problem {
    Problem::new(&node.place, wrong.message).about(text).suggest(text, wrong.valid)
}

fn about(node: &Node, message: String) -> Problem {
    let problem = Problem::new(&node.place, message);
    match &node.content {
        Content::Scalar { text, .. } if !node.is_null() => problem.about(text),
        _ => problem,
    }
}

fn unknown_key(section: &'static Section, entry: &Entry) -> Problem {
    let prose = in_prose(section);
    if section.unsupported.contains(&entry.key.as_str()) {
        return Problem::new(&entry.key_place, format!("this version does not support this key in {prose}"))
            .about(&entry.key);
    }
    let mut message = format!("unknown key in {prose}");
    if entry.key == "<<" {
        message = format!("merge keys mean nothing in {prose}");
    } else if let Some(home) = home_of(&entry.key, section) {
        message.push_str(&format!(" (it belongs to {home})"));
        return Problem::new(&entry.key_place, message).about(&entry.key);
    }
    Problem::new(&entry.key_place, message)
        .about(&entry.key)
        .suggest(&entry.key, section.keys().map(|key| key.name))
}

/// The other sections in which a key of this name is at home.
fn home_of(name: &str, section: &'static Section) -> Option<String> {
    if std::ptr::eq(section, &TABLE) && TOPIC.key(name).is_some() {
        return Some("the topic; write it under `topics`".to_owned());
    }
    let mut homes = Vec::new();
    for_each_section(&mut |section| {
        if section.key(name).is_some() {
            homes.push(if std::ptr::eq(section, &ROOT) {
                "the top level".to_owned()
            } else {
                in_prose(section)
            });
        }
    });
    if homes.is_empty() { None } else { Some(homes.join(" or ")) }
}

/// `kafka` in quotes, "a table" without.
fn in_prose(section: &Section) -> String {
    if section.name.contains(' ') { section.name.to_owned() } else { format!("`{}`", section.name) }
}
