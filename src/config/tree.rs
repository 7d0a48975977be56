//! YAML into a tree in which every node knows where it was written.
//!
//! Built from the parser's events by hand rather than by a ready-made loader, because a loader
//! recurses without a bound, copies aliases without a bound and drops duplicate keys silently.

use std::collections::HashMap;
use std::sync::Arc;

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, Tag};

use super::problem::{Place, Problem, Report, printable};

/// Deeper nesting is refused; a configuration needs about ten levels.
const DEPTH_MAX: usize = 64;
/// More nodes are refused, those that aliases repeat included.
const NODES_MAX: usize = 100_000;

#[derive(Debug, Clone)]
pub(super) struct Node {
    pub place: Place,
    pub content: Content,
}

#[derive(Debug, Clone)]
pub(super) enum Content {
    /// `plain`: written without quotes, so that `null` and `~` mean nothing.
    Scalar {
        text: String,
        plain: bool,
    },
    Sequence(Vec<Node>),
    Mapping(Vec<Entry>),
}

#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub key: String,
    pub key_place: Place,
    pub value: Node,
}

impl Node {
    pub fn scalar(place: Place, text: impl Into<String>) -> Node {
        Node { place, content: Content::Scalar { text: text.into(), plain: true } }
    }

    /// Nothing was written, or YAML's word for nothing.
    pub fn is_null(&self) -> bool {
        match &self.content {
            Content::Scalar { text, plain: true } => {
                matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL")
            }
            _ => false,
        }
    }

    /// What kind of node this is, for messages.
    pub fn kind(&self) -> &'static str {
        match &self.content {
            _ if self.is_null() => "nothing",
            Content::Scalar { .. } => "a single value",
            Content::Sequence(_) => "a list",
            Content::Mapping(_) => "a mapping",
        }
    }

    pub fn entry(&self, key: &str) -> Option<&Entry> {
        match &self.content {
            Content::Mapping(entries) => entries.iter().find(|entry| entry.key == key),
            _ => None,
        }
    }
}

/// Reads the one document of `text`. What can be said without stopping (duplicate keys) goes to
/// the report; `None` when there is no tree, with at least one problem reported.
pub(super) fn read(text: &str, file: &Arc<str>, report: &mut Report) -> Option<Node> {
    let mut builder = Builder { file, report, open: Vec::new(), anchors: HashMap::new(), nodes: 0 };
    match builder.run(text) {
        Ok(Some(root)) => Some(root),
        Ok(None) => {
            report.error(
                &start_of(file),
                "the configuration is empty; it needs at least `kafka`, `replica` and `tables`",
            );
            None
        }
        Err(problem) => {
            report.push(problem);
            None
        }
    }
}

pub(super) fn start_of(file: &Arc<str>) -> Place {
    Place::Position { file: file.clone(), line: 1, column: 1 }
}

struct Builder<'a> {
    file: &'a Arc<str>,
    report: &'a mut Report,
    /// Collections that have begun and not ended, outermost first.
    open: Vec<Open>,
    /// Anchored nodes with their number of nodes.
    anchors: HashMap<usize, (Node, usize)>,
    nodes: usize,
}

struct Open {
    node: Node,
    anchor: usize,
    /// The key whose value comes next.
    key: Option<(String, Place)>,
    /// Lines of the keys seen, so that a duplicate can name the first.
    seen: HashMap<String, usize>,
    nodes: usize,
}

impl Builder<'_> {
    fn run(&mut self, text: &str) -> Result<Option<Node>, Problem> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let mut root = None;
        let mut documents = 0;
        for event in Parser::new_from_str(text) {
            let (event, span) = event.map_err(|error| {
                Problem::new(
                    &self.place(*error.marker()),
                    format!("not valid YAML: {}", printable(error.info())),
                )
            })?;
            let place = self.place(span.start);
            let done = match event {
                Event::Nothing | Event::StreamStart | Event::DocumentEnd => None,
                Event::StreamEnd => break,
                Event::DocumentStart(_) => {
                    documents += 1;
                    if documents > 1 {
                        let message = "a second document begins here; a configuration is one document";
                        return Err(Problem::new(&place, message));
                    }
                    None
                }
                Event::SequenceStart(anchor, tag) => {
                    self.begin(Content::Sequence(Vec::new()), place, anchor, tag.as_deref())?;
                    None
                }
                Event::MappingStart(anchor, tag) => {
                    self.begin(Content::Mapping(Vec::new()), place, anchor, tag.as_deref())?;
                    None
                }
                Event::SequenceEnd | Event::MappingEnd => self.end()?,
                Event::Scalar(text, style, anchor, tag) => {
                    self.refuse_tag(&place, tag.as_deref());
                    self.count(&place, 1)?;
                    let plain = style == ScalarStyle::Plain;
                    let node = Node { place, content: Content::Scalar { text: text.into_owned(), plain } };
                    self.remember(anchor, &node, 1)?;
                    self.add(node, 1)?
                }
                Event::Alias(anchor) => {
                    let Some((node, nodes)) = self.anchors.get(&anchor).cloned() else {
                        return Err(Problem::new(&place, "an alias cannot be part of what it names"));
                    };
                    self.count(&place, nodes)?;
                    self.add(node, nodes)?
                }
            };
            root = done.or(root);
        }
        // A document of nothing but comments or `~` is as empty as no document.
        Ok(root.filter(|root: &Node| !root.is_null()))
    }

    fn place(&self, marker: Marker) -> Place {
        // The parser counts lines from 1 and columns from 0.
        Place::Position { file: self.file.clone(), line: marker.line().max(1), column: marker.col() + 1 }
    }

    fn refuse_tag(&mut self, place: &Place, tag: Option<&Tag>) {
        if let Some(tag) = tag {
            self.report.push(Problem::new(place, "YAML tags mean nothing here").about(&tag.to_string()));
        }
    }

    fn count(&mut self, place: &Place, nodes: usize) -> Result<(), Problem> {
        self.nodes = self.nodes.saturating_add(nodes);
        if self.nodes > NODES_MAX {
            let message = format!("more than {NODES_MAX} values, counting what aliases repeat");
            return Err(Problem::new(place, message));
        }
        Ok(())
    }

    fn begin(
        &mut self,
        content: Content,
        place: Place,
        anchor: usize,
        tag: Option<&Tag>,
    ) -> Result<(), Problem> {
        self.refuse_tag(&place, tag);
        self.count(&place, 1)?;
        if self.open.len() == DEPTH_MAX {
            return Err(Problem::new(&place, format!("nested deeper than {DEPTH_MAX} levels")));
        }
        self.open.push(Open {
            node: Node { place, content },
            anchor,
            key: None,
            seen: HashMap::new(),
            nodes: 1,
        });
        Ok(())
    }

    fn end(&mut self) -> Result<Option<Node>, Problem> {
        let Some(Open { node, anchor, nodes, .. }) = self.open.pop() else {
            return Ok(None);
        };
        self.remember(anchor, &node, nodes)?;
        self.add(node, nodes)
    }

    fn remember(&mut self, anchor: usize, node: &Node, nodes: usize) -> Result<(), Problem> {
        // Anchors are numbered from 1.
        if anchor > 0 {
            self.count(&node.place, nodes)?;
            self.anchors.insert(anchor, (node.clone(), nodes));
        }
        Ok(())
    }

    /// Puts a complete node into the innermost open collection; gives it back when it is the root.
    fn add(&mut self, node: Node, nodes: usize) -> Result<Option<Node>, Problem> {
        let Some(parent) = self.open.last_mut() else {
            return Ok(Some(node));
        };
        parent.nodes = parent.nodes.saturating_add(nodes);
        match (&mut parent.node.content, parent.key.take()) {
            (Content::Sequence(items), _) => items.push(node),
            (Content::Mapping(entries), Some((key, key_place))) => {
                let line = key_place.line().unwrap_or(0);
                match parent.seen.get(&key) {
                    Some(first) => {
                        let message = format!("this key was already given in line {first}");
                        self.report.push(Problem::new(&key_place, message).about(&key));
                    }
                    None => {
                        parent.seen.insert(key.clone(), line);
                        entries.push(Entry { key, key_place, value: node });
                    }
                }
            }
            (Content::Mapping(_), None) => match node.content {
                Content::Scalar { text, .. } => parent.key = Some((text, node.place)),
                _ => return Err(Problem::new(&node.place, format!("a key cannot be {}", node.kind()))),
            },
            (Content::Scalar { .. }, _) => {}
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(text: &str) -> String {
        let mut report = Report::default();
        let node = read(text, &"f.yaml".into(), &mut report);
        match report.finish(node) {
            Ok(_) => String::new(),
            Err(errors) => errors.to_string(),
        }
    }

    fn tree(text: &str) -> Node {
        let mut report = Report::default();
        let node = read(text, &"f.yaml".into(), &mut report);
        report.finish(node).unwrap().0
    }

    #[test]
    fn nodes_know_their_line_and_column() {
        let root = tree("a: 1\nb:\n  größe: {c: text?}\n");
        let b = &root.entry("b").unwrap().value;
        let size = b.entry("größe").unwrap();
        assert_eq!(size.key_place.to_string(), "f.yaml:3:3");
        assert_eq!(size.value.entry("c").unwrap().value.place.to_string(), "f.yaml:3:14");
    }

    #[test]
    fn nothing_at_all_is_said_to_be_empty() {
        for text in ["", "\n\n", "# only a comment\n", "---\n", "~", "\u{feff}"] {
            assert!(problems(text).starts_with("f.yaml:1:1: the configuration is empty"), "{text:?}");
        }
    }

    #[test]
    fn a_duplicate_key_names_the_first_line() {
        assert_eq!(problems("a: 1\nb: 2\na: 3\n"), "f.yaml:3:1: `a`: this key was already given in line 1");
    }

    #[test]
    fn broken_syntax_is_located() {
        assert!(problems("a: [1, 2\nb: 3\n").starts_with("f.yaml:2:"), "{}", problems("a: [1, 2\nb: 3\n"));
        assert!(problems("a: b: c\n").starts_with("f.yaml:1:"), "{}", problems("a: b: c\n"));
    }

    #[test]
    fn one_document_only() {
        assert_eq!(
            problems("a: 1\n---\nb: 2\n"),
            "f.yaml:2:1: a second document begins here; a configuration is one document"
        );
    }

    #[test]
    fn depth_is_bounded_in_flow_and_block_style() {
        for text in ["[".repeat(100_000), "- ".repeat(100_000), "? ".repeat(100_000), "{a: ".repeat(100_000)]
        {
            let found = problems(&text);
            assert!(
                found.contains("nested deeper than 64 levels") || found.contains("not valid YAML"),
                "{found}"
            );
        }
    }

    #[test]
    fn aliases_repeat_a_node_within_a_bound() {
        let root = tree("a: &x {b: 1}\nc: *x\n");
        assert!(root.entry("c").unwrap().value.entry("b").is_some());

        let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for level in 1..12 {
            let items = vec![format!("*a{}", level - 1); 10].join(", ");
            bomb.push_str(&format!("a{level}: &a{level} [{items}]\n"));
        }
        assert!(problems(&bomb).contains("more than 100000 values"), "{}", problems(&bomb));
        assert!(problems("a: &x [*x]\n").contains("cannot be part of what it names"));
    }

    #[test]
    fn tags_and_odd_keys_are_refused() {
        assert_eq!(problems("a: !env B\n"), "f.yaml:1:4: `!env`: YAML tags mean nothing here");
        assert_eq!(problems("{a: 1}: 2\n"), "f.yaml:1:1: a key cannot be a mapping");
    }
}
