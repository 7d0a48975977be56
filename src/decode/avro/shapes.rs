//! What the records of an Avro schema can have at a path.

use super::schema::{self, Meaning, NodeId, Schema, Type};
use crate::decode::Logical;
use crate::decode::registry;
use crate::decode::shapes::{Kind, Shape};

#[derive(Debug)]
pub struct Shapes(Schema);

impl Shapes {
    pub fn of(found: &registry::Schema) -> Result<Shapes, String> {
        let references: Vec<&str> = found.references.iter().map(|reference| &*reference.text).collect();
        schema::parse(&found.text, &references).map(Shapes).map_err(|error| error.to_string())
    }

    pub fn name(&self) -> &str {
        match &self.0.nodes[self.0.root].ty {
            Type::Record { name, .. } => name,
            _ => "",
        }
    }

    pub fn at(&self, path: &[String], through: usize) -> Shape {
        // Names that are left where the row is; none where the whole event is the row.
        let row_names = if through == 0 { usize::MAX } else { path.len() - through.min(path.len()) };
        self.walk(self.0.root, path, row_names)
    }

    fn walk(&self, node: NodeId, path: &[String], row_names: usize) -> Shape {
        let found = &self.0.nodes[node];
        if let Type::Union { branches } = &found.ty {
            // What leads to the row is null in events that have none.
            let leads = path.len() == row_names;
            let is_null = |branch: &NodeId| self.0.nodes[*branch].ty == Type::Null;
            let branches = branches.iter().filter(|branch| !(leads && is_null(branch)));
            let branches = branches.map(|branch| self.walk(*branch, path, row_names));
            return branches.fold(Shape::default(), Shape::join);
        }
        let Some((name, rest)) = path.split_first() else { return self.whole(node) };
        match &found.ty {
            Type::Record { fields, .. } => match fields.iter().find(|field| field.name == *name) {
                Some(field) => self.walk(field.node, rest, row_names),
                None => Shape::of(Kind::Absent),
            },
            Type::Map { values } => self.walk(*values, rest, row_names).or(Kind::Absent),
            Type::Null => Shape::of(Kind::Null),
            _ => Shape::of(Kind::NotAnObject),
        }
    }

    fn whole(&self, node: NodeId) -> Shape {
        let found = &self.0.nodes[node];
        let kind = match (&found.ty, found.meaning) {
            (Type::Null, _) => Kind::Null,
            (Type::Int | Type::Long, Some(Meaning::Logical(logical))) => Kind::Since(logical),
            (Type::Int | Type::Long, _) => Kind::Integer,
            (Type::Boolean, _) => Kind::Boolean,
            (Type::Float | Type::Double, _) => Kind::Real,
            (Type::String | Type::Enum { .. }, _) => Kind::Text,
            (Type::Bytes | Type::Fixed { .. }, Some(Meaning::Logical(Logical::Decimal { .. }))) => {
                Kind::Decimal
            }
            (Type::Fixed { size: 16 }, Some(Meaning::Uuid)) => Kind::Text,
            (Type::Bytes | Type::Fixed { .. }, _) => Kind::Bytes,
            (Type::Record { .. }, Some(Meaning::Logical(Logical::ScaledDecimal))) => Kind::Decimal,
            (Type::Record { .. } | Type::Array { .. } | Type::Map { .. }, _) => Kind::Composite,
            // Its branches were walked.
            (Type::Union { .. }, _) => Kind::Anything,
        };
        Shape::of(kind)
    }
}
