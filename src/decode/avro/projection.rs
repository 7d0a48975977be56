//! What a mapping reads, laid over the schema that a record was written with: the rest is skipped.

use crate::decode::native::{self, Native, Unwritable};
use crate::decode::scratch::Scratch;
use crate::decode::wanted::{Tree, WantedNode};
use crate::decode::{DecodeError, Field, Logical, TYPE_FIELD};
use crate::domain::dead_letter::Reason;

use super::reader::{Flaw, Reader};
use super::schema::{Meaning, NodeId, Schema, Type};

/// JSON that one nested value may become.
const JSON_BYTES_MAX: usize = 16 << 20;

#[derive(Debug)]
pub struct Projection {
    schema: Schema,
    root: Action,
    slots: usize,
    /// Slots that take the name of the record's type.
    type_slots: Vec<usize>,
}

/// What to do with the value at one place.
#[derive(Debug)]
enum Action {
    Skip(NodeId),
    /// The value is wanted as a whole, and perhaps parts of it too.
    Take {
        node: NodeId,
        slots: Vec<usize>,
        path: String,
        parts: Option<Box<Action>>,
    },
    Record(Vec<Action>),
    Union(Vec<Action>, Vec<NodeId>),
    Map {
        values: NodeId,
        entries: Vec<(String, Action)>,
    },
    /// Parts of null are null, as in jq.
    Null(Vec<usize>),
    /// Parts are wanted of what has none.
    NotAnObject(NodeId, Vec<usize>),
}

/// Why a record cannot be read.
enum Stop {
    Flaw(Flaw),
    Unwritable(Unwritable, String),
    TooLong(String),
    Twice(String),
}

impl From<Flaw> for Stop {
    fn from(flaw: Flaw) -> Stop {
        Stop::Flaw(flaw)
    }
}

impl Projection {
    pub fn new(schema: Schema, tree: &Tree) -> Projection {
        let root = build(&schema, schema.root, tree.root());
        let type_slots =
            tree.root().child(TYPE_FIELD).map(|child| child.slots().to_vec()).unwrap_or_default();
        Projection { root, schema, slots: tree.slots(), type_slots }
    }

    /// Whether values have fields.
    pub fn is_record(&self) -> bool {
        matches!(self.schema.nodes[self.schema.root].ty, Type::Record { .. } | Type::Map { .. })
    }

    pub fn read<'a>(
        &self,
        root_name: &str,
        bytes: &'a [u8],
        scratch: &'a Scratch,
        fields: &mut Vec<Field<'a>>,
    ) -> Result<(), DecodeError> {
        fields.clear();
        fields.resize(self.slots, Field::Absent);
        let mut walk = Walk { schema: &self.schema, reader: Reader::new(bytes), scratch, fields };
        let walked = walk.action(&self.root);
        if let (false, Type::Record { name, .. }) =
            (self.type_slots.is_empty(), &self.schema.nodes[self.schema.root].ty)
        {
            let name = scratch.text(name);
            walk.fill(&self.type_slots, Field::Native(Native::Text(name)));
        }
        match (walked, walk.reader.left()) {
            (Ok(()), 0) => Ok(()),
            (Ok(()), left) => {
                Err(DecodeError::malformed(root_name, format!("has {left} bytes behind its end")))
            }
            (Err(Stop::Flaw(flaw)), _) => Err(DecodeError::malformed(root_name, flaw.message())),
            (Err(Stop::Unwritable(why, path)), _) => Err(DecodeError {
                path,
                reason: Reason::OutOfRange,
                message: format!("holds a value that {}", why.message()),
            }),
            (Err(Stop::TooLong(path)), _) => Err(DecodeError::malformed(
                &path,
                format!("becomes more than {JSON_BYTES_MAX} bytes of JSON"),
            )),
            (Err(Stop::Twice(path)), _) => Err(DecodeError::malformed(&path, "appears twice in one map")),
        }
    }
}

fn build(schema: &Schema, node: NodeId, wanted: WantedNode<'_>) -> Action {
    let parts = wanted.has_children().then(|| build_parts(schema, node, wanted));
    if wanted.slots().is_empty() {
        return parts.unwrap_or(Action::Skip(node));
    }
    Action::Take {
        node,
        slots: wanted.slots().to_vec(),
        path: wanted.path().to_owned(),
        parts: parts.map(Box::new),
    }
}

fn build_parts(schema: &Schema, node: NodeId, wanted: WantedNode<'_>) -> Action {
    match &schema.nodes[node].ty {
        Type::Record { fields, .. } => {
            let field = |field: &super::schema::Field| match wanted.child(&field.name) {
                Some(child) => build(schema, field.node, child),
                None => Action::Skip(field.node),
            };
            Action::Record(fields.iter().map(field).collect())
        }
        Type::Map { values } => {
            let entry =
                |(name, child): (&str, WantedNode<'_>)| (name.to_owned(), build(schema, *values, child));
            Action::Map { values: *values, entries: wanted.children().map(entry).collect() }
        }
        Type::Union { branches } => {
            let branch = |branch: &NodeId| build_parts(schema, *branch, wanted);
            Action::Union(branches.iter().map(branch).collect(), branches.clone())
        }
        Type::Null => Action::Null(wanted.below()),
        _ => Action::NotAnObject(node, wanted.below()),
    }
}

struct Walk<'p, 'a, 'f> {
    schema: &'p Schema,
    reader: Reader<'a>,
    scratch: &'a Scratch,
    fields: &'f mut [Field<'a>],
}

impl<'a> Walk<'_, 'a, '_> {
    fn action(&mut self, action: &Action) -> Result<(), Stop> {
        match action {
            Action::Skip(node) => self.reader.skip(self.schema, *node)?,
            Action::Take { node, slots, path, parts } => {
                let before = parts.as_ref().map(|_| self.reader.clone());
                let field = self.field(*node, path)?;
                for &slot in slots {
                    self.fields[slot] = field;
                }
                if let (Some(parts), Some(before)) = (parts, before) {
                    self.reader = before;
                    self.action(parts)?;
                }
            }
            Action::Record(fields) => {
                for field in fields {
                    self.action(field)?;
                }
            }
            Action::Union(actions, branches) => {
                let (index, _) = self.reader.branch(branches)?;
                self.action(&actions[index])?;
            }
            Action::Map { values, entries } => self.map(*values, entries)?,
            Action::Null(below) => self.fill(below, Field::Json("null")),
            Action::NotAnObject(node, below) => {
                self.reader.skip(self.schema, *node)?;
                self.fill(below, Field::NotAnObject);
            }
        }
        Ok(())
    }

    fn fill(&mut self, slots: &[usize], field: Field<'a>) {
        for &slot in slots {
            self.fields[slot] = field;
        }
    }

    fn map(&mut self, values: NodeId, entries: &[(String, Action)]) -> Result<(), Stop> {
        let mut met = vec![false; entries.len()];
        while let Some((count, _)) = self.reader.block()? {
            for _ in 0..count {
                self.reader.count()?;
                let name = self.reader.text()?;
                match entries.iter().position(|(wanted, _)| wanted == name) {
                    Some(index) if met[index] => return Err(Stop::Twice(name.to_owned())),
                    Some(index) => {
                        met[index] = true;
                        self.action(&entries[index].1)?;
                    }
                    None => self.reader.skip(self.schema, values)?,
                }
            }
        }
        Ok(())
    }

    /// The value at a node as one field.
    fn field(&mut self, node: NodeId, path: &str) -> Result<Field<'a>, Stop> {
        let resolved = self.resolve(node)?;
        if let Some(native) = self.native(resolved)? {
            return Ok(Field::Native(native));
        }
        if self.schema.nodes[resolved].ty == Type::Null {
            return Ok(Field::Json("null"));
        }
        let mut out = String::new();
        self.json(resolved, &mut out, path)?;
        Ok(Field::Json(self.scratch.text(&out)))
    }

    /// The branch of a union that comes next, else the node itself.
    fn resolve(&mut self, node: NodeId) -> Result<NodeId, Stop> {
        match &self.schema.nodes[node].ty {
            Type::Union { branches } => Ok(self.reader.branch(branches)?.1),
            _ => Ok(node),
        }
    }

    /// `None` where the node is null or has parts; nothing is read then.
    fn native(&mut self, node: NodeId) -> Result<Option<Native<'a>>, Stop> {
        let found = &self.schema.nodes[node];
        Ok(Some(match (&found.ty, found.meaning) {
            (Type::Int, Some(Meaning::Logical(logical))) => Native::Since(logical, self.reader.int()?.into()),
            (Type::Long, Some(Meaning::Logical(logical))) => Native::Since(logical, self.reader.long()?),
            (Type::Int, _) => Native::Integer(self.reader.int()?.into()),
            (Type::Long, _) => Native::Integer(self.reader.long()?),
            (Type::Boolean, _) => Native::Boolean(self.reader.boolean()?),
            (Type::Float, _) => Native::Real(f32::from_le_bytes(self.reader.array()?).into()),
            (Type::Double, _) => Native::Real(f64::from_le_bytes(self.reader.array()?)),
            (Type::String, _) => Native::Text(self.reader.text()?),
            (Type::Enum { symbols }, _) => {
                let index = usize::try_from(self.reader.long()?).map_err(|_| Flaw::NoSuchSymbol)?;
                Native::Text(self.scratch.text(symbols.get(index).ok_or(Flaw::NoSuchSymbol)?))
            }
            (Type::Bytes, meaning) => binary(self.reader.bytes()?, meaning, self.scratch),
            (Type::Fixed { size }, meaning) => binary(self.reader.take(*size)?, meaning, self.scratch),
            (Type::Record { fields, .. }, Some(Meaning::Logical(Logical::ScaledDecimal))) => {
                match self.scaled_decimal(fields)? {
                    Some(native) => native,
                    None => return Ok(None),
                }
            }
            _ => return Ok(None),
        }))
    }

    /// A struct `{scale: int, value: bytes}`; `None`, and nothing read, if it is another one.
    fn scaled_decimal(&mut self, fields: &[super::schema::Field]) -> Result<Option<Native<'a>>, Stop> {
        let is = |index: usize, name: &str, ty: &Type| {
            fields
                .get(index)
                .is_some_and(|field| field.name == name && self.schema.nodes[field.node].ty == *ty)
        };
        if fields.len() != 2 || !is(0, "scale", &Type::Int) || !is(1, "value", &Type::Bytes) {
            return Ok(None);
        }
        let scale = self.reader.int()?;
        Ok(Some(Native::Decimal { unscaled: self.reader.bytes()?, scale }))
    }

    fn json(&mut self, node: NodeId, out: &mut String, path: &str) -> Result<(), Stop> {
        if out.len() > JSON_BYTES_MAX {
            return Err(Stop::TooLong(path.to_owned()));
        }
        self.reader.enter()?;
        if let Some(native) = self.native(node)? {
            native::write_json(native, out).map_err(|why| Stop::Unwritable(why, path.to_owned()))?;
            self.reader.leave();
            return Ok(());
        }
        match &self.schema.nodes[node].ty {
            Type::Union { branches } => {
                let (_, branch) = self.reader.branch(branches)?;
                self.json(branch, out, path)?;
            }
            Type::Record { fields, .. } => {
                out.push('{');
                for (index, field) in fields.iter().enumerate() {
                    if index > 0 {
                        out.push(',');
                    }
                    native::write_string(&field.name, out);
                    out.push(':');
                    self.json(field.node, out, path)?;
                }
                out.push('}');
            }
            Type::Array { items } => {
                out.push('[');
                let start = out.len();
                while let Some((count, _)) = self.reader.block()? {
                    for _ in 0..count {
                        if out.len() > start {
                            out.push(',');
                        }
                        self.json(*items, out, path)?;
                    }
                }
                out.push(']');
            }
            Type::Map { values } => {
                out.push('{');
                let mut names: Vec<&str> = Vec::new();
                while let Some((count, _)) = self.reader.block()? {
                    for _ in 0..count {
                        let name = self.reader.text()?;
                        if !names.is_empty() {
                            out.push(',');
                        }
                        names.push(name);
                        native::write_string(name, out);
                        out.push(':');
                        self.json(*values, out, path)?;
                    }
                }
                out.push('}');
                names.sort_unstable();
                if names.windows(2).any(|pair| pair[0] == pair[1]) {
                    return Err(Stop::Twice(path.to_owned()));
                }
            }
            // Null; everything else was native.
            _ => out.push_str("null"),
        }
        self.reader.leave();
        Ok(())
    }
}

fn binary<'a>(bytes: &'a [u8], meaning: Option<Meaning>, scratch: &'a Scratch) -> Native<'a> {
    match (meaning, <[u8; 16]>::try_from(bytes)) {
        (Some(Meaning::Logical(Logical::Decimal { scale })), _) => Native::Decimal { unscaled: bytes, scale },
        (Some(Meaning::Uuid), Ok(bytes)) => Native::Text(scratch.text(&uuid(bytes))),
        _ => Native::Bytes(bytes),
    }
}

fn uuid(bytes: [u8; 16]) -> String {
    let hex = format!("{:032x}", u128::from_be_bytes(bytes));
    let [a, b, c, d, e] = [0..8, 8..12, 12..16, 16..20, 20..32].map(|part| hex.get(part).unwrap_or_default());
    format!("{a}-{b}-{c}-{d}-{e}")
}

#[cfg(test)]
#[path = "projection_tests.rs"]
mod tests;
