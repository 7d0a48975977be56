//! `json-schema`: JSON behind the header of a schema registry.
//!
//! JSON says by itself what is in it. The schema adds what Kafka Connect's converter had to leave to
//! it: types that are written as base64 and as numbers (`title` and `connect.parameters`).

use serde_json::Value;

use super::connect::Document as Json;
use super::facts::Facts;
use super::framed::{Framed, Pending};
use super::registry::{self, Registry};
use super::shapes::{Kind, Shape};
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

/// What records of a schema may have at a path; `through`: how many of its names lead to the row.
pub(super) fn shape(schema: &Value, path: &[String], through: usize) -> Shape {
    let row_names = if through == 0 { usize::MAX } else { path.len() - through.min(path.len()) };
    Walk { root: schema, row_names }.at(schema, path, 0)
}

struct Walk<'s> {
    root: &'s Value,
    row_names: usize,
}

impl Walk<'_> {
    fn at(&self, schema: &Value, path: &[String], depth: usize) -> Shape {
        let Some(object) = schema.as_object() else { return Shape::of(Kind::Anything) };
        if depth > DEPTH_MAX {
            return Shape::of(Kind::Anything);
        }
        if let Some(pointer) = object.get("$ref").and_then(Value::as_str) {
            let found = pointer.strip_prefix('#').and_then(|pointer| self.root.pointer(pointer));
            return found.map_or(Shape::of(Kind::Anything), |found| self.at(found, path, depth + 1));
        }
        for branches in ["oneOf", "anyOf"] {
            if let Some(Value::Array(branches)) = object.get(branches) {
                let branches = branches.iter().map(|branch| self.at(branch, path, depth + 1));
                return self.without_null(branches.fold(Shape::default(), Shape::join), path);
            }
        }
        if object.contains_key("allOf") {
            return Shape::of(Kind::Anything);
        }
        let types: Vec<&str> = match object.get("type") {
            Some(Value::String(name)) => vec![name],
            Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).collect(),
            _ if object.contains_key("properties") => vec!["object"],
            _ => return Shape::of(Kind::Anything),
        };
        let mut shape = Shape::default();
        for name in types {
            let one = match (name, path.split_first()) {
                ("null", _) => Shape::of(Kind::Null),
                ("object", Some((name, rest))) => self.property(object, name, rest, depth),
                (_, Some(_)) => Shape::of(Kind::NotAnObject),
                _ if logical(schema).is_some() => match logical(schema) {
                    Some(Logical::Decimal { .. } | Logical::ScaledDecimal) => Shape::of(Kind::Decimal),
                    Some(logical) => Shape::of(Kind::Since(logical)),
                    None => Shape::default(),
                },
                ("integer", None) => Shape::of(Kind::Integer),
                ("number", None) => Shape::of(Kind::JsonNumber),
                ("boolean", None) => Shape::of(Kind::Boolean),
                ("string", None) => Shape::of(Kind::Text),
                ("object" | "array", None) => Shape::of(Kind::Composite),
                _ => Shape::of(Kind::Anything),
            };
            shape = shape.join(one);
        }
        self.without_null(shape, path)
    }

    /// What leads to the row is null in events that have none.
    fn without_null(&self, mut shape: Shape, path: &[String]) -> Shape {
        if path.len() == self.row_names {
            shape.0.retain(|kind| *kind != Kind::Null);
        }
        shape
    }

    fn property(
        &self,
        object: &serde_json::Map<String, Value>,
        name: &str,
        rest: &[String],
        depth: usize,
    ) -> Shape {
        let required = object.get("required").and_then(Value::as_array);
        let required = required.is_some_and(|names| names.iter().any(|known| known.as_str() == Some(name)));
        match object.get("properties").and_then(|properties| properties.get(name)) {
            Some(property) => {
                let shape = self.at(property, rest, depth + 1);
                let leads = rest.len() == self.row_names;
                if required || leads { shape } else { shape.or(Kind::Absent) }
            }
            None => match object.get("additionalProperties") {
                Some(Value::Object(values)) => {
                    self.at(&Value::Object(values.clone()), rest, depth + 1).or(Kind::Absent)
                }
                _ => Shape::of(Kind::Absent),
            },
        }
    }
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
