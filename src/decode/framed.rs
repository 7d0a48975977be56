//! The wire format of Confluent's serializers: a zero byte, the schema's id as four bytes (big-endian),
//! then the value ("Wire format" in the documentation of Schema Registry).

use std::time::Duration;

use super::facts::Facts;
use super::registry::{Answer, Kind, Registry, Schema};
use super::{DecodeError, Field};

/// Compiled schemas kept per document.
const SCHEMAS_MAX: usize = 64;
/// How long a record waits for a registry that answers before its partition is put aside. The thread
/// that waits serves all partitions, and the heartbeat.
const PATIENCE: Duration = Duration::from_millis(250);

/// A record cannot be read before the registry has answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pending {
    pub schema_id: u32,
    /// What keeps it, for a person.
    pub reason: String,
}

/// Schemas by id, each compiled for what is read of it.
#[derive(Debug)]
pub struct Framed<T> {
    root_name: &'static str,
    kind: Kind,
    registry: Registry,
    facts: Facts,
    /// The most recent last.
    known: Vec<Known<T>>,
}

#[derive(Debug)]
struct Known<T> {
    id: u32,
    version: Option<i64>,
    compiled: Result<T, DecodeError>,
}

impl<T> Framed<T> {
    pub fn new(root_name: &'static str, kind: Kind, registry: &Registry, facts: Facts) -> Framed<T> {
        Framed { root_name, kind, registry: registry.clone(), facts, known: Vec::new() }
    }

    /// Compiles the schema of a record if it is not known yet. What is wrong with a record is said by
    /// [`Framed::get`]; only a registry that has not answered is an error here.
    pub fn prepare(
        &mut self,
        bytes: &[u8],
        compile: impl FnOnce(&Schema) -> Result<T, String>,
    ) -> Result<(), Pending> {
        let Ok((id, _)) = header(bytes) else { return Ok(()) };
        if self.position(id).is_some() {
            return Ok(());
        }
        let mut version = None;
        let compiled = match self.registry.get(id, PATIENCE) {
            Answer::Found(schema) if schema.kind == self.kind => {
                version = self.facts.version_of(&schema.versions);
                compile(&schema).map_err(|why| self.error(format!("the schema {id} cannot be used: {why}")))
            }
            Answer::Found(schema) => {
                let (found, wanted) = (&schema.kind, &self.kind);
                Err(self.error(format!("the schema {id} is of the type {found}, not {wanted}")))
            }
            // Not remembered: it may be registered yet.
            Answer::Unknown => return Ok(()),
            Answer::Pending { reason } => return Err(Pending { schema_id: id, reason }),
        };
        if self.known.len() >= SCHEMAS_MAX {
            drop(self.known.remove(0));
        }
        self.known.push(Known { id, version, compiled });
        Ok(())
    }

    /// The schema of a record, and its value behind the header.
    pub fn get<'a>(&mut self, bytes: &'a [u8]) -> Result<(&mut T, &'a [u8]), DecodeError> {
        let (id, rest) = header(bytes).map_err(|why| DecodeError::malformed(self.root_name, why))?;
        let Some(at) = self.position(id) else {
            return Err(self.error(format!("the registry knows no schema {id}")));
        };
        // So that the usual one is found at once, and the one that was not used for long goes first.
        if at + 1 < self.known.len() {
            let used = self.known.remove(at);
            self.known.push(used);
        }
        match self.known.last_mut() {
            Some(Known { compiled: Ok(compiled), .. }) => Ok((compiled, rest)),
            Some(Known { compiled: Err(error), .. }) => Err(error.clone()),
            None => Err(DecodeError::schema(self.root_name, "is not known")),
        }
    }

    /// Adds to the fields of the record that was got last what is known of its schema.
    pub fn fill(&self, fields: &mut [Field<'_>]) {
        if let Some(Known { id, version, .. }) = self.known.last() {
            self.facts.fill(*id, *version, fields);
        }
    }

    fn position(&self, id: u32) -> Option<usize> {
        self.known.iter().rposition(|known| known.id == id)
    }

    fn error(&self, message: String) -> DecodeError {
        DecodeError::schema(self.root_name, message)
    }
}

/// Schema id, and what comes behind the header.
pub fn header(bytes: &[u8]) -> Result<(u32, &[u8]), String> {
    let Some(([magic, id @ ..], rest)) = bytes.split_first_chunk::<5>() else {
        return Err(format!("has {} bytes, too few for the header of a schema registry", bytes.len()));
    };
    if *magic != 0 {
        return Err(format!(
            "begins with the byte {magic}, not with 0: it was not written with a schema registry"
        ));
    }
    match i32::from_be_bytes(*id) {
        // Registries count in positive numbers of 32 bits with a sign; asking for others gets no answer
        // that could be believed.
        id @ 1.. => Ok((id.unsigned_abs(), rest)),
        _ => Err("names a schema by an id that no registry gives".to_owned()),
    }
}
