//! Protobuf: records that name their schema in a registry, or all have the message of a file.
//!
//! Fields are found by their names in the schema. A field without presence (proto3's plain ones) that
//! is not on the wire has its default value, as everybody who reads it has to see it; one with
//! presence is absent.

mod projection;
mod schema;
mod shapes;
mod wire;

use std::path::Path as FilePath;

use super::facts::Facts;
use super::framed::{Framed, Pending};
use super::registry::{self, Registry};
use super::scratch::Scratch;
use super::wanted::Tree;
use super::{DecodeError, Field};
use projection::Plan;
use schema::{MessageId, Schema};
pub use shapes::Shapes;

/// Nesting of the message that a record's header names, and message types of one schema that are kept.
const INDEXES_MAX: usize = 32;
const PLANS_MAX: usize = 64;

/// The value or the key of a topic's records.
#[derive(Debug)]
pub struct Document {
    root_name: &'static str,
    tree: Tree,
    schemas: Schemas,
}

#[derive(Debug)]
enum Schemas {
    Registry(Framed<Compiled>),
    File(Box<Result<(Schema, Plan), DecodeError>>),
}

/// A schema and what is read of its messages, as far as records of them have come.
#[derive(Debug)]
struct Compiled {
    schema: Schema,
    plans: Vec<(Vec<usize>, Plan)>,
}

impl Document {
    /// `paths[slot]` is the path of that slot from the root.
    pub fn of_registry(
        root_name: &'static str,
        paths: &[Vec<String>],
        registry: &Registry,
        subject: &str,
    ) -> Document {
        let facts = Facts::of(paths, subject.to_owned());
        let schemas = Framed::new(root_name, registry::Kind::Protobuf, registry, facts);
        Document { root_name, tree: Tree::new(root_name, paths), schemas: Schemas::Registry(schemas) }
    }

    pub fn of_file(
        root_name: &'static str,
        paths: &[Vec<String>],
        file: &FilePath,
        message: &str,
    ) -> Document {
        let tree = Tree::new(root_name, paths);
        let read = super::read_schema_file(file).and_then(|bytes| schema::parse_file_bytes(&bytes, message));
        let compiled = read
            .map(|(schema, id)| {
                let plan = Plan::new(&schema, id, &tree);
                (schema, plan)
            })
            .map_err(|why| {
                DecodeError::schema(root_name, format!("the schema in {}: {why}", file.display()))
            });
        Document { root_name, tree, schemas: Schemas::File(Box::new(compiled)) }
    }

    /// Why no record can be read.
    pub fn problem(&self) -> Option<&DecodeError> {
        match &self.schemas {
            Schemas::File(compiled) => (**compiled).as_ref().err(),
            Schemas::Registry(_) => None,
        }
    }

    /// Sees to it that the schema of a record is at hand.
    pub fn prepare(&mut self, bytes: &[u8]) -> Result<(), Pending> {
        let Schemas::Registry(schemas) = &mut self.schemas else { return Ok(()) };
        schemas.prepare(bytes, |found| {
            let imports: Vec<(&str, &str)> =
                found.references.iter().map(|each| (each.name.as_str(), each.text.as_str())).collect();
            Ok(Compiled { schema: schema::parse(&found.text, &imports)?, plans: Vec::new() })
        })
    }

    pub fn read<'a>(
        &mut self,
        bytes: &'a [u8],
        scratch: &'a Scratch,
        fields: &mut Vec<Field<'a>>,
    ) -> Result<(), DecodeError> {
        let (schema, plan, bytes) = match &mut self.schemas {
            Schemas::File(compiled) => {
                let (schema, plan) = (**compiled).as_ref().map_err(Clone::clone)?;
                (schema, plan, bytes)
            }
            Schemas::Registry(schemas) => {
                let (compiled, mut bytes) = schemas.get(bytes)?;
                let indexes =
                    indexes(&mut bytes).map_err(|why| DecodeError::malformed(self.root_name, why))?;
                let Some(id) = compiled.schema.by_indexes(&indexes) else {
                    let message = "names a message that its schema does not have";
                    return Err(DecodeError::schema(self.root_name, message));
                };
                let (schema, plan) = compiled.plan(indexes, id, &self.tree);
                (schema, plan, bytes)
            }
        };
        fields.clear();
        fields.resize(self.tree.slots(), Field::Absent);
        plan.read(schema, bytes, scratch, fields)?;
        if let Schemas::Registry(schemas) = &self.schemas {
            schemas.fill(fields);
        }
        Ok(())
    }
}

impl Compiled {
    fn plan(&mut self, indexes: Vec<usize>, id: MessageId, tree: &Tree) -> (&Schema, &Plan) {
        let at = match self.plans.iter().position(|(known, _)| *known == indexes) {
            Some(at) => at,
            None => {
                if self.plans.len() >= PLANS_MAX {
                    self.plans.clear();
                }
                self.plans.push((indexes, Plan::new(&self.schema, id, tree)));
                self.plans.len() - 1
            }
        };
        (&self.schema, &self.plans[at].1)
    }
}

/// The message's place in its schema, which comes behind the header: how many indexes, then each; none
/// stands for the first message. All are zig-zag encoded.
fn indexes(bytes: &mut &[u8]) -> Result<Vec<usize>, &'static str> {
    const WRONG: &str = "has no indexes of its message behind the header";
    let mut next = || wire::varint(bytes).map(wire::zigzag).map_err(|_| WRONG);
    let count = usize::try_from(next()?).ok().filter(|count| *count <= INDEXES_MAX).ok_or(WRONG)?;
    if count == 0 {
        return Ok(vec![0]);
    }
    (0..count).map(|_| usize::try_from(next()?).map_err(|_| WRONG)).collect()
}

#[cfg(test)]
mod tests;
