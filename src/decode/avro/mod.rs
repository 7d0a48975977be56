//! Avro: records that name their schema in a registry, or all have the one of a file.
//!
//! A record is read with the schema that it was written with; fields are found by name. A field
//! that this schema does not have is absent: the defaults of Avro belong to readers, and the mapping
//! says by itself what may be missing.

mod projection;
mod reader;
mod schema;
mod shapes;
#[cfg(test)]
pub mod written;

use std::path::Path as FilePath;

use super::facts::Facts;
use super::framed::{Framed, Pending};
use super::registry::{self, Registry};
use super::scratch::Scratch;
use super::wanted::Tree;
use super::{DecodeError, Field};
use projection::Projection;
pub use shapes::Shapes;

/// The value or the key of a topic's records.
#[derive(Debug)]
pub struct Document {
    root_name: &'static str,
    tree: Tree,
    schemas: Schemas,
    is_record: bool,
}

#[derive(Debug)]
enum Schemas {
    Registry(Framed<Projection>),
    File(Result<Projection, DecodeError>),
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
        Document {
            root_name,
            tree: Tree::new(root_name, paths),
            schemas: Schemas::Registry(Framed::new(root_name, registry::Kind::Avro, registry, facts)),
            is_record: false,
        }
    }

    pub fn of_file(root_name: &'static str, paths: &[Vec<String>], file: &FilePath) -> Document {
        let tree = Tree::new(root_name, paths);
        let read = super::read_schema_file(file).and_then(|bytes| {
            let text = String::from_utf8(bytes).map_err(|_| "is not UTF-8 text".to_owned())?;
            schema::parse(&text, &[]).map_err(|error| error.to_string())
        });
        let projection = read.map(|schema| Projection::new(schema, &tree)).map_err(|why| {
            DecodeError::schema(root_name, format!("the schema in {}: {why}", file.display()))
        });
        Document { root_name, tree, schemas: Schemas::File(projection), is_record: false }
    }

    /// Why no record can be read.
    pub fn problem(&self) -> Option<&DecodeError> {
        match &self.schemas {
            Schemas::File(Err(error)) => Some(error),
            _ => None,
        }
    }

    /// Sees to it that the schema of a record is at hand.
    pub fn prepare(&mut self, bytes: &[u8]) -> Result<(), Pending> {
        let Schemas::Registry(schemas) = &mut self.schemas else { return Ok(()) };
        schemas.prepare(bytes, |found| {
            let references: Vec<&str> = found.references.iter().map(|reference| &*reference.text).collect();
            let schema = schema::parse(&found.text, &references).map_err(|error| error.to_string())?;
            Ok(Projection::new(schema, &self.tree))
        })
    }

    pub fn read<'a>(
        &mut self,
        bytes: &'a [u8],
        scratch: &'a Scratch,
        fields: &mut Vec<Field<'a>>,
    ) -> Result<(), DecodeError> {
        let (projection, bytes) = match &mut self.schemas {
            Schemas::Registry(schemas) => {
                let (projection, bytes) = schemas.get(bytes)?;
                (&*projection, bytes)
            }
            Schemas::File(projection) => (projection.as_ref().map_err(Clone::clone)?, bytes),
        };
        self.is_record = projection.is_record();
        projection.read(self.root_name, bytes, scratch, fields)?;
        if let Schemas::Registry(schemas) = &self.schemas {
            schemas.fill(fields);
        }
        Ok(())
    }

    pub fn require_object(&self) -> Result<(), DecodeError> {
        if self.is_record {
            return Ok(());
        }
        Err(DecodeError::malformed(self.root_name, "is not an Avro record"))
    }
}
