//! Documents as Kafka Connect's `JsonConverter` writes them: with `schemas.enable`, every key and
//! value is exactly `{"schema": …, "payload": …}`, and the schema gives meaning to what JSON cannot
//! say (`org.apache.kafka.connect.data.*`, `io.debezium.*`).

use std::sync::Arc;

use serde::Deserialize;

use super::projection::{Projection, RootShape};
use super::{DecodeError, Field, Logical};
use crate::config::Encoding;

/// Schemas kept per document; a topic has one, and one more for every change of its table.
const SCHEMAS_MAX: usize = 8;
/// Longer ones are parsed each time rather than kept.
const SCHEMA_BYTES_MAX: usize = 256 * 1024;

/// A projection that knows how to look into an embedded schema, where the format has one.
#[derive(Debug)]
pub struct Document {
    root_name: &'static str,
    projection: Projection,
    embedded: Option<Embedded>,
}

#[derive(Debug)]
struct Embedded {
    schema: usize,
    payload: usize,
    /// Path of each slot, to find its type in a schema.
    paths: Vec<Vec<String>>,
    /// Newest last.
    known: Vec<Known>,
}

#[derive(Debug)]
struct Known {
    text: Box<str>,
    types: Arc<[(usize, Logical)]>,
}

impl Document {
    pub fn plain<'p>(root_name: &'static str, paths: impl IntoIterator<Item = &'p [String]>) -> Document {
        Document { root_name, projection: Projection::new(root_name, paths), embedded: None }
    }

    /// A document that may or may not carry its schema.
    pub fn with_schema(root_name: &'static str, paths: Vec<Vec<String>>) -> Document {
        let mut all = paths.clone();
        all.push(vec!["schema".to_owned()]);
        all.push(vec!["payload".to_owned()]);
        Document {
            root_name,
            projection: Projection::new(root_name, all.iter().map(|path| &path[..])),
            embedded: Some(Embedded {
                schema: paths.len(),
                payload: paths.len() + 1,
                paths,
                known: Vec::new(),
            }),
        }
    }

    pub fn read<'a>(&mut self, bytes: &'a [u8], fields: &mut Vec<Field<'a>>) -> Result<(), DecodeError> {
        self.projection.read(bytes, fields)?;
        let Some(embedded) = &mut self.embedded else { return Ok(()) };
        // Exactly these two fields, and an object for a schema: a row may have a column `payload`.
        if self.projection.root() != (RootShape::Object { fields: 2 }) {
            return Ok(());
        }
        let (Field::Json(schema), Field::Json(payload)) = (fields[embedded.schema], fields[embedded.payload])
        else {
            return Ok(());
        };
        if !schema.starts_with('{') {
            return Ok(());
        }
        let types = embedded.types(schema, self.root_name)?;
        self.projection.read_text(payload, fields)?;
        for &(slot, logical) in types.iter() {
            if let Field::Json(text) = fields[slot]
                && text != "null"
            {
                fields[slot] = Field::Typed(logical, text);
            }
        }
        Ok(())
    }

    /// Refuses a document whose (unwrapped) root is no object.
    pub fn require_object(&self) -> Result<(), DecodeError> {
        match self.projection.root() {
            RootShape::Object { .. } => Ok(()),
            RootShape::Other => Err(DecodeError::malformed(self.root_name, "is not a JSON object")),
        }
    }
}

impl Embedded {
    /// The slots whose type JSON does not tell.
    fn types(&mut self, text: &str, root_name: &str) -> Result<Arc<[(usize, Logical)]>, DecodeError> {
        if let Some(known) = self.known.iter().rev().find(|known| *known.text == *text) {
            return Ok(Arc::clone(&known.types));
        }
        let schema: Schema = serde_json::from_str(text).map_err(|_| {
            DecodeError::malformed(root_name, "has a schema that is not one of Kafka Connect")
        })?;
        let types: Arc<[_]> = self
            .paths
            .iter()
            .enumerate()
            .filter_map(|(slot, path)| Some((slot, schema.find(path)?.logical()?)))
            .collect();
        if text.len() <= SCHEMA_BYTES_MAX {
            if self.known.len() >= SCHEMAS_MAX {
                self.known.remove(0);
            }
            self.known.push(Known { text: text.into(), types: Arc::clone(&types) });
        }
        Ok(types)
    }
}

/// The parts of a Connect schema that matter here.
#[derive(Debug, Deserialize)]
struct Schema {
    #[serde(default)]
    name: Option<String>,
    /// Its name in the struct around it.
    #[serde(default)]
    field: Option<String>,
    #[serde(default)]
    fields: Option<Vec<Schema>>,
    #[serde(default)]
    parameters: Option<Parameters>,
}

#[derive(Debug, Deserialize)]
struct Parameters {
    #[serde(default)]
    scale: Option<String>,
}

impl Schema {
    fn find(&self, path: &[String]) -> Option<&Schema> {
        let Some((first, rest)) = path.split_first() else { return Some(self) };
        let fields = self.fields.as_deref()?;
        fields.iter().find(|schema| schema.field.as_ref() == Some(first))?.find(rest)
    }

    fn logical(&self) -> Option<Logical> {
        let scale = self.parameters.as_ref().and_then(|parameters| parameters.scale.as_ref()?.parse().ok());
        Logical::of_connect(self.name.as_deref()?, scale)
    }
}

impl Logical {
    /// What a schema name of Kafka Connect's or Debezium's stands for; `scale` is its parameter.
    pub(super) fn of_connect(name: &str, scale: Option<i32>) -> Option<Logical> {
        Some(match name {
            "org.apache.kafka.connect.data.Decimal" => Logical::Decimal { scale: scale? },
            "io.debezium.data.VariableScaleDecimal" => Logical::ScaledDecimal,
            "org.apache.kafka.connect.data.Date" | "io.debezium.time.Date" => Logical::Date,
            "org.apache.kafka.connect.data.Time" | "io.debezium.time.Time" => Logical::Time(Encoding::Millis),
            "io.debezium.time.MicroTime" => Logical::Time(Encoding::Micros),
            "io.debezium.time.NanoTime" => Logical::Time(Encoding::Nanos),
            "org.apache.kafka.connect.data.Timestamp" | "io.debezium.time.Timestamp" => {
                Logical::Timestamp(Encoding::Millis)
            }
            "io.debezium.time.MicroTimestamp" => Logical::Timestamp(Encoding::Micros),
            "io.debezium.time.NanoTimestamp" => Logical::Timestamp(Encoding::Nanos),
            // Zoned and ISO times, UUIDs, enums, JSON, bits: JSON says enough.
            _ => return None,
        })
    }
}
