//! The JSON projection: a tree of wanted field names that is laid over a document.
//!
//! Only what is wanted is looked at; the rest is skipped by `serde_json` without recursion, so a
//! document may nest as deep as it likes. A wanted value is borrowed as its text, so numbers keep
//! every digit. Nothing is allocated per field.

use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::{DecodeError, Field, fields_text, utf8};

const ROOT: usize = 0;
/// Children are searched by comparison up to here, and by halving beyond.
const FEW: usize = 8;
const NULL: &str = "null";

#[derive(Debug)]
pub struct Projection {
    /// Parents come before their children; the first is the root.
    nodes: Vec<Node>,
    /// Number of slots.
    slots: usize,
    /// Per node, the document in which it was met last: a second time in one is a duplicate.
    met: Vec<u64>,
    document: u64,
    /// How the root of the last document is named in messages.
    root_name: &'static str,
    root: RootShape,
    /// Path of a duplicate field, set just before the parse is given up.
    duplicate: Option<String>,
}

/// What the root of the last document was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RootShape {
    /// Number of its fields, wanted or not; unknown (0) where nothing below the root is wanted.
    Object {
        fields: usize,
    },
    Other,
}

#[derive(Debug, Default)]
struct Node {
    path: String,
    /// In ascending order of (length, name).
    children: Vec<Child>,
    /// Slots that take this node's text.
    slots: Vec<usize>,
    /// Slots of everything below.
    below: Vec<usize>,
    /// By position of the last matched child plus one: which child came next the last time.
    /// Producers write fields in one order, so this is nearly always right.
    next: Vec<usize>,
}

#[derive(Debug)]
struct Child {
    name: Box<str>,
    node: usize,
}

impl Projection {
    /// `paths[slot]` is the path of that slot from the root of the document.
    pub fn new<'p>(root_name: &'static str, paths: impl IntoIterator<Item = &'p [String]>) -> Projection {
        let mut nodes = vec![Node { path: root_name.to_owned(), ..Node::default() }];
        let mut slots = 0;
        for path in paths {
            let mut at = ROOT;
            for (depth, name) in path.iter().enumerate() {
                nodes[at].below.push(slots);
                at = match nodes[at].children.iter().find(|child| *child.name == **name) {
                    Some(child) => child.node,
                    None => {
                        let node = nodes.len();
                        nodes.push(Node { path: fields_text(root_name, &path[..=depth]), ..Node::default() });
                        nodes[at].children.push(Child { name: name.as_str().into(), node });
                        node
                    }
                };
            }
            nodes[at].slots.push(slots);
            slots += 1;
        }
        for node in &mut nodes {
            node.children.sort_by(|a, b| (a.name.len(), &a.name).cmp(&(b.name.len(), &b.name)));
            node.next = (0..=node.children.len()).collect();
        }
        let met = vec![0; nodes.len()];
        let root = RootShape::Other;
        Projection { nodes, slots, met, document: 0, root_name, root, duplicate: None }
    }

    /// Fills one field per slot from a document.
    pub fn read<'a>(&mut self, bytes: &'a [u8], fields: &mut Vec<Field<'a>>) -> Result<(), DecodeError> {
        if bytes.first() == Some(&0) {
            let message =
                "begins with a zero byte: it was written with a schema registry, and is read as JSON";
            return Err(DecodeError::malformed(self.root_name, message));
        }
        let text = utf8(bytes, self.root_name)?;
        self.read_text(text, fields)
    }

    pub fn read_text<'a>(&mut self, text: &'a str, fields: &mut Vec<Field<'a>>) -> Result<(), DecodeError> {
        self.document += 1;
        fields.clear();
        fields.resize(self.slots, Field::Absent);
        let mut json = serde_json::Deserializer::from_str(text);
        let seed = Seed { projection: self, fields, node: ROOT };
        match seed.deserialize(&mut json).and_then(|()| json.end()) {
            Ok(()) => Ok(()),
            Err(error) => Err(self.describe(&error)),
        }
    }

    pub fn root(&self) -> RootShape {
        self.root
    }

    fn describe(&mut self, error: &serde_json::Error) -> DecodeError {
        if let Some(path) = self.duplicate.take() {
            return DecodeError::malformed(&path, "appears twice in one object");
        }
        let what = match error.classify() {
            serde_json::error::Category::Eof => "ends in the middle of a value",
            _ => "is not valid JSON",
        };
        let (line, column) = (error.line(), error.column());
        DecodeError::malformed(self.root_name, format!("{what}, line {line}, column {column}"))
    }
}

impl Node {
    /// Position of the child with this name, `last` being the position of the one before plus one.
    fn find(&self, name: &str, last: usize) -> Option<usize> {
        let guess = self.next[last];
        if let Some(child) = self.children.get(guess)
            && *child.name == *name
        {
            return Some(guess);
        }
        if self.children.len() <= FEW {
            return self.children.iter().position(|child| *child.name == *name);
        }
        let wanted = (name.len(), name);
        self.children.binary_search_by(|child| (child.name.len(), &*child.name).cmp(&wanted)).ok()
    }
}

/// Takes in the value at one node.
struct Seed<'p, 'f, 'de> {
    projection: &'p mut Projection,
    fields: &'f mut [Field<'de>],
    node: usize,
}

impl<'de> Seed<'_, '_, 'de> {
    fn fill_below(&mut self, field: Field<'de>) {
        for &slot in &self.projection.nodes[self.node].below {
            self.fields[slot] = field;
        }
    }

    fn scalar(mut self) {
        if self.node == ROOT {
            self.projection.root = RootShape::Other;
        }
        self.fill_below(Field::NotAnObject);
    }
}

impl<'de> DeserializeSeed<'de> for Seed<'_, '_, 'de> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(mut self, deserializer: D) -> Result<(), D::Error> {
        let node = &self.projection.nodes[self.node];
        if node.slots.is_empty() && !node.children.is_empty() {
            return deserializer.deserialize_any(self);
        }
        let text = <&RawValue>::deserialize(deserializer)?.get();
        for &slot in &node.slots {
            self.fields[slot] = Field::Json(text);
        }
        let is_object = text.starts_with('{');
        if self.node == ROOT {
            let fields = 0;
            self.projection.root = if is_object { RootShape::Object { fields } } else { RootShape::Other };
        }
        if self.projection.nodes[self.node].children.is_empty() {
            return Ok(());
        }
        // Wanted as a whole and in parts: a second look at the text.
        if is_object {
            serde_json::Deserializer::from_str(text).deserialize_any(self).map_err(D::Error::custom)
        } else {
            self.fill_below(if text == NULL { Field::Json(NULL) } else { Field::NotAnObject });
            Ok(())
        }
    }
}

impl<'de> Visitor<'de> for Seed<'_, '_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Seed { projection, fields, node } = self;
        let mut last = 0;
        let mut count = 0;
        while let Some(found) = map.next_key_seed(Name { node: &projection.nodes[node], last })? {
            count += 1;
            let Some(position) = found else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            let parent = &mut projection.nodes[node];
            parent.next[last] = position;
            last = position + 1;
            let child = parent.children[position].node;
            if projection.met[child] == projection.document {
                projection.duplicate = Some(projection.nodes[child].path.clone());
                return Err(A::Error::custom("duplicate field"));
            }
            projection.met[child] = projection.document;
            map.next_value_seed(Seed { projection: &mut *projection, fields: &mut *fields, node: child })?;
        }
        if node == ROOT {
            projection.root = RootShape::Object { fields: count };
        }
        Ok(())
    }

    fn visit_unit<E>(mut self) -> Result<(), E> {
        if self.node == ROOT {
            self.projection.root = RootShape::Other;
        }
        // As in jq: a field of null is null.
        self.fill_below(Field::Json(NULL));
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        self.scalar();
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        self.scalar();
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        self.scalar();
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        self.scalar();
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        self.scalar();
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<(), A::Error> {
        self.scalar();
        while elements.next_element::<IgnoredAny>()?.is_some() {}
        Ok(())
    }
}

/// Finds the child a field name stands for; escapes in the name are resolved by then.
struct Name<'p> {
    node: &'p Node,
    last: usize,
}

impl<'de> DeserializeSeed<'de> for Name<'_> {
    type Value = Option<usize>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Option<usize>, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Name<'_> {
    type Value = Option<usize>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field name")
    }

    fn visit_str<E>(self, name: &str) -> Result<Option<usize>, E> {
        Ok(self.node.find(name, self.last))
    }
}

#[cfg(test)]
#[path = "projection_tests.rs"]
mod tests;
