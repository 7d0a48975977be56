//! `json-schema`: JSON behind the header of a schema registry.
//!
//! JSON says by itself what is in it. The schema adds what Kafka Connect's converter had to leave to
//! it: types that are written as base64 and as numbers (`title` and `connect.parameters`).

use serde_json::Value;

use super::connect::Document as Json;
use super::facts::Facts;
use super::framed::{Framed, Pending};
use super::registry::{self, Registry};
use super::{DecodeError, Field, Logical};

const DEPTH_MAX: usize = 64;

#[derive(Debug)]
pub struct Document {
    json: Json,
    paths: Vec<Vec<String>>,
    /// The slots whose type JSON does not tell.
    schemas: Framed<Vec<(usize, Logical)>>,
}

impl Document {
    pub fn new(
        root_name: &'static str,
        paths: Vec<Vec<String>>,
        registry: &Registry,
        subject: &str,
    ) -> Document {
        let facts = Facts::of(&paths, subject.to_owned());
        Document {
            json: Json::plain(root_name, paths.iter().map(|path| &path[..])),
            paths,
            schemas: Framed::new(root_name, registry::Kind::Json, registry, facts),
        }
    }

    /// Sees to it that the schema of a record is at hand.
    pub fn prepare(&mut self, bytes: &[u8]) -> Result<(), Pending> {
        let paths = &self.paths;
        self.schemas.prepare(bytes, |found| {
            let schema: Value = serde_json::from_str(&found.text).map_err(|_| "is not JSON".to_owned())?;
            let slots = paths.iter().enumerate();
            Ok(slots.filter_map(|(slot, path)| Some((slot, logical(find(&schema, path, 0)?)?))).collect())
        })
    }

    pub fn read<'a>(&mut self, bytes: &'a [u8], fields: &mut Vec<Field<'a>>) -> Result<(), DecodeError> {
        let (types, bytes) = self.schemas.get(bytes)?;
        self.json.read(bytes, fields)?;
        for &mut (slot, logical) in types {
            if let Some(Field::Json(text)) = fields.get(slot)
                && *text != "null"
            {
                fields[slot] = Field::Typed(logical, text);
            }
        }
        self.schemas.fill(fields);
        Ok(())
    }

    pub fn require_object(&self) -> Result<(), DecodeError> {
        self.json.require_object()
    }
}

/// The schema of the value at a path, through `oneOf` with null, which stands for an optional one.
fn find<'s>(schema: &'s Value, path: &[String], depth: usize) -> Option<&'s Value> {
    if depth > DEPTH_MAX {
        return None;
    }
    if let Some(Value::Array(branches)) = schema.get("oneOf") {
        return branches.iter().find_map(|branch| find(branch, path, depth + 1));
    }
    match path.split_first() {
        None => (schema.get("type").and_then(Value::as_str) != Some("null")).then_some(schema),
        Some((name, rest)) => find(schema.get("properties")?.get(name)?, rest, depth + 1),
    }
}

fn logical(schema: &Value) -> Option<Logical> {
    schema.get("connect.type")?;
    let scale = schema.get("connect.parameters").and_then(|all| all.get("scale")).and_then(Value::as_str);
    Logical::of_connect(schema.get("title")?.as_str()?, scale.and_then(|scale| scale.parse().ok()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::registry::{Kind, Schema};

    #[test]
    fn types_of_kafka_connect_are_found_in_the_schema() {
        let text = r#"{"type":"object","properties":{
            "price":{"oneOf":[{"type":"null"},{"type":"number","title":"org.apache.kafka.connect.data.Decimal","connect.type":"bytes","connect.parameters":{"scale":"2"}}]},
            "day":{"type":"integer","title":"org.apache.kafka.connect.data.Date","connect.type":"int32"},
            "name":{"type":"string","title":"org.apache.kafka.connect.data.Date"}}}"#;
        let schema =
            Schema { kind: Kind::Json, text: text.to_owned(), references: Vec::new(), versions: Vec::new() };
        let paths: Vec<Vec<String>> =
            ["price", "day", "name", "other"].map(|name| vec![name.to_owned()]).into();
        let mut document = Document::new(".", paths, &Registry::fixed([(7, schema)]), "");
        let record = [&[0, 0, 0, 0, 7][..], br#"{"price":"BNI=","day":20000,"name":"x"}"#].concat();
        document.prepare(&record).unwrap();
        let mut fields = Vec::new();
        document.read(&record, &mut fields).unwrap();
        assert_eq!(
            fields[..4],
            [
                Field::Typed(Logical::Decimal { scale: 2 }, "\"BNI=\""),
                Field::Typed(Logical::Date, "20000"),
                Field::Json("\"x\""),
                Field::Absent
            ]
        );
        let unknown = [&[0, 0, 0, 0, 8][..], b"{}"].concat();
        document.prepare(&unknown).unwrap();
        assert!(document.read(&unknown, &mut fields).is_err());
    }
}
