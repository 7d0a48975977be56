//! Avro schemas (specification 1.12, "Schema Declaration"): JSON text in, a checked list of nodes out.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value};

use crate::config::Encoding;
use crate::decode::Logical;

pub type NodeId = usize;

/// Types of one schema, named ones included; a schema that needs more is refused.
const NODES_MAX: usize = 100_000;
/// Nesting of the schema's own text.
const DEPTH_MAX: usize = 64;
/// Values, with the branches of unions that are tried, of all defaults together.
const DEFAULT_STEPS_MAX: usize = 1_000_000;
const TOO_LONG: &str = "takes too long to look at";

#[derive(Debug)]
pub struct Schema {
    pub nodes: Vec<Node>,
    pub root: NodeId,
}

#[derive(Debug)]
pub struct Node {
    pub ty: Type,
    pub meaning: Option<Meaning>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Type {
    Null,
    Boolean,
    Int,
    Long,
    Float,
    Double,
    Bytes,
    String,
    Fixed { size: usize },
    Enum { symbols: Vec<String> },
    Array { items: NodeId },
    Map { values: NodeId },
    Union { branches: Vec<NodeId> },
    Record { name: String, fields: Vec<Field> },
}

#[derive(Debug, Clone, PartialEq)]
pub struct Field {
    pub name: String,
    pub node: NodeId,
}

/// What a type stands for beyond its encoding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meaning {
    Logical(Logical),
    /// 16 bytes, or text.
    Uuid,
}

/// Why a schema cannot be used: a sentence that names places in the schema, never data.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{0}")]
pub struct SchemaError(String);

fn wrong<T>(message: impl Into<String>) -> Result<T, SchemaError> {
    Err(SchemaError(message.into()))
}

/// Reads a schema and the schemas that it refers to, in any order.
pub fn parse(text: &str, references: &[&str]) -> Result<Schema, SchemaError> {
    let mut parser = Parser::default();
    // A referenced schema may refer to others: as long as one can be read, go on.
    let mut waiting: Vec<&str> = references.to_vec();
    while !waiting.is_empty() {
        let before = waiting.len();
        let mut last = None;
        waiting.retain(|text| match parser.attempt(text) {
            Ok(_) => false,
            Err(error) => {
                last = Some(error);
                true
            }
        });
        if let (true, Some(error)) = (waiting.len() == before, last) {
            return wrong(format!("a schema that it refers to cannot be used: {error}"));
        }
    }
    let root = parser.attempt(text)?;
    let schema = Schema { nodes: parser.finish()?, root };
    let mut steps = DEFAULT_STEPS_MAX;
    for (node, default) in &parser.defaults {
        if let Err(why) = check_default(&schema, *node, &default.value, 0, &mut steps) {
            return wrong(format!("the default of {} {why}", default.of));
        }
    }
    Ok(schema)
}

#[derive(Default)]
struct Parser {
    nodes: Vec<Option<Node>>,
    named: HashMap<String, NodeId>,
    defaults: Vec<(NodeId, Default_)>,
}

struct Default_ {
    of: String,
    value: Value,
}

impl Parser {
    /// Takes back what a schema that cannot be read has declared.
    fn attempt(&mut self, text: &str) -> Result<NodeId, SchemaError> {
        // A bare name (`string`) is not JSON, and some producers register it like that.
        let value = match serde_json::from_str(text) {
            Ok(value) => value,
            Err(_) if primitive(text.trim()).is_some() => Value::String(text.trim().to_owned()),
            Err(error) => {
                return wrong(format!("is not JSON, line {} column {}", error.line(), error.column()));
            }
        };
        let (nodes, named, defaults) = (self.nodes.len(), self.named.clone(), self.defaults.len());
        self.node(&value, "", 0).inspect_err(|_| {
            self.nodes.truncate(nodes);
            self.named = named;
            self.defaults.truncate(defaults);
        })
    }

    fn finish(&mut self) -> Result<Vec<Node>, SchemaError> {
        let nodes: Option<Vec<Node>> = self.nodes.drain(..).collect();
        nodes.ok_or_else(|| SchemaError("a type is named and never declared".to_owned()))
    }

    fn add(&mut self, node: Option<Node>) -> Result<NodeId, SchemaError> {
        if self.nodes.len() >= NODES_MAX {
            return wrong(format!("has more than {NODES_MAX} types"));
        }
        self.nodes.push(node);
        Ok(self.nodes.len() - 1)
    }

    fn node(&mut self, value: &Value, namespace: &str, depth: usize) -> Result<NodeId, SchemaError> {
        if depth > DEPTH_MAX {
            return wrong(format!("nests deeper than {DEPTH_MAX} types"));
        }
        match value {
            Value::String(name) => self.by_name(name, namespace),
            Value::Array(branches) => {
                let id = self.add(None)?;
                let mut nodes = Vec::with_capacity(branches.len());
                for branch in branches {
                    nodes.push(self.node(branch, namespace, depth + 1)?);
                }
                self.check_union(&nodes)?;
                self.nodes[id] = Some(Node { ty: Type::Union { branches: nodes }, meaning: None });
                Ok(id)
            }
            Value::Object(object) => self.complex(object, namespace, depth),
            _ => wrong("has a type that is neither a name, nor a list, nor an object"),
        }
    }

    fn check_union(&self, branches: &[NodeId]) -> Result<(), SchemaError> {
        if branches.is_empty() {
            return wrong("has a union without branches");
        }
        // A union directly in a union would make its branches ambiguous.
        let is_union = |node: &&NodeId| {
            matches!(self.nodes.get(**node), Some(Some(Node { ty: Type::Union { .. }, .. })))
        };
        if branches.iter().any(|node| is_union(&node)) {
            return wrong("has a union in a union");
        }
        Ok(())
    }

    fn by_name(&mut self, name: &str, namespace: &str) -> Result<NodeId, SchemaError> {
        if let Some(ty) = primitive(name) {
            return self.add(Some(Node { ty, meaning: None }));
        }
        let full = full_name(name, namespace);
        match self.named.get(&full).or_else(|| self.named.get(name)) {
            Some(node) => Ok(*node),
            None => wrong(format!("names the unknown type {full}")),
        }
    }

    fn complex(
        &mut self,
        object: &Map<String, Value>,
        namespace: &str,
        depth: usize,
    ) -> Result<NodeId, SchemaError> {
        let ty = match object.get("type") {
            Some(Value::String(ty)) => ty.as_str(),
            // `{"type": {"type": "string"}}`
            Some(nested @ (Value::Object(_) | Value::Array(_))) => {
                return self.node(nested, namespace, depth + 1);
            }
            _ => return wrong("has a type without `type`"),
        };
        match ty {
            "record" | "error" => self.record(object, namespace, depth),
            "enum" => {
                let (id, name) = self.declare(object, namespace)?;
                let symbols = strings(object.get("symbols"))
                    .ok_or_else(|| SchemaError(format!("the enum {name} has no list of symbols")))?;
                if let Some(default) = object.get("default")
                    && !default.as_str().is_some_and(|default| symbols.iter().any(|known| known == default))
                {
                    return wrong(format!("the default of the enum {name} is not one of its symbols"));
                }
                self.nodes[id] = Some(Node { ty: Type::Enum { symbols }, meaning: None });
                Ok(id)
            }
            "fixed" => {
                let (id, name) = self.declare(object, namespace)?;
                let size = object.get("size").and_then(Value::as_u64).and_then(|size| size.try_into().ok());
                let size = size.ok_or_else(|| SchemaError(format!("the fixed {name} has no size")))?;
                let ty = Type::Fixed { size };
                let meaning = meaning(object, &ty);
                self.nodes[id] = Some(Node { ty, meaning });
                Ok(id)
            }
            "array" => {
                let id = self.add(None)?;
                let items =
                    object.get("items").ok_or_else(|| SchemaError("has an array without items".into()))?;
                let items = self.node(items, namespace, depth + 1)?;
                self.nodes[id] = Some(Node { ty: Type::Array { items }, meaning: None });
                Ok(id)
            }
            "map" => {
                let id = self.add(None)?;
                let values =
                    object.get("values").ok_or_else(|| SchemaError("has a map without values".into()))?;
                let values = self.node(values, namespace, depth + 1)?;
                self.nodes[id] = Some(Node { ty: Type::Map { values }, meaning: None });
                Ok(id)
            }
            name => match primitive(name) {
                Some(ty) => {
                    let meaning = meaning(object, &ty);
                    self.add(Some(Node { ty, meaning }))
                }
                None => self.by_name(name, namespace),
            },
        }
    }

    fn record(
        &mut self,
        object: &Map<String, Value>,
        namespace: &str,
        depth: usize,
    ) -> Result<NodeId, SchemaError> {
        let (id, name) = self.declare(object, namespace)?;
        let inner = name.rsplit_once('.').map_or("", |(space, _)| space).to_owned();
        let Some(Value::Array(list)) = object.get("fields") else {
            return wrong(format!("the record {name} has no list of fields"));
        };
        let mut fields: Vec<Field> = Vec::with_capacity(list.len());
        let mut names: HashSet<&str> = HashSet::with_capacity(list.len());
        for field in list {
            let (Some(Value::String(field_name)), Some(ty)) = (field.get("name"), field.get("type")) else {
                return wrong(format!("a field of the record {name} has no name or no type"));
            };
            if !names.insert(field_name) {
                return wrong(format!("the record {name} has the field {field_name} twice"));
            }
            let node = self.node(ty, &inner, depth + 1)?;
            if let Some(default) = field.get("default") {
                let of = format!("the field {field_name} of {name}");
                self.defaults.push((node, Default_ { of, value: default.clone() }));
            }
            fields.push(Field { name: field_name.clone(), node });
        }
        // `VariableScaleDecimal` of Debezium: a struct of a scale and a value.
        let meaning =
            connect_name(object).and_then(|name| Logical::of_connect(name, None)).map(Meaning::Logical);
        self.nodes[id] = Some(Node { ty: Type::Record { name, fields }, meaning });
        Ok(id)
    }

    /// A named type, known from here on, also inside itself.
    fn declare(
        &mut self,
        object: &Map<String, Value>,
        namespace: &str,
    ) -> Result<(NodeId, String), SchemaError> {
        let Some(Value::String(name)) = object.get("name") else {
            return wrong("has a named type without a name");
        };
        let own = object.get("namespace").and_then(Value::as_str).unwrap_or(namespace);
        let full = full_name(name, own);
        if self.named.contains_key(&full) {
            return wrong(format!("declares the type {full} twice"));
        }
        let id = self.add(None)?;
        self.named.insert(full.clone(), id);
        Ok((id, full))
    }
}

fn full_name(name: &str, namespace: &str) -> String {
    if name.contains('.') || namespace.is_empty() {
        name.trim_start_matches('.').to_owned()
    } else {
        format!("{namespace}.{name}")
    }
}

fn strings(value: Option<&Value>) -> Option<Vec<String>> {
    value?.as_array()?.iter().map(|item| item.as_str().map(str::to_owned)).collect()
}

fn primitive(name: &str) -> Option<Type> {
    Some(match name {
        "null" => Type::Null,
        "boolean" => Type::Boolean,
        "int" => Type::Int,
        "long" => Type::Long,
        "float" => Type::Float,
        "double" => Type::Double,
        "bytes" => Type::Bytes,
        "string" => Type::String,
        _ => return None,
    })
}

fn connect_name(object: &Map<String, Value>) -> Option<&str> {
    object.get("connect.name").and_then(Value::as_str)
}

/// Logical types of the specification, then the names that Kafka Connect's converter keeps. A logical
/// type that does not fit its type is ignored, as the specification wants it.
fn meaning(object: &Map<String, Value>, ty: &Type) -> Option<Meaning> {
    let scale =
        || object.get("scale").map_or(Some(0), Value::as_i64).and_then(|scale| i32::try_from(scale).ok());
    let of_spec = object.get("logicalType").and_then(Value::as_str).and_then(|name| {
        Some(match (name, ty) {
            ("decimal", Type::Bytes | Type::Fixed { .. }) => {
                Meaning::Logical(Logical::Decimal { scale: scale()? })
            }
            ("uuid", Type::String | Type::Fixed { size: 16 }) => Meaning::Uuid,
            ("date", Type::Int) => Meaning::Logical(Logical::Date),
            ("time-millis", Type::Int) => Meaning::Logical(Logical::Time(Encoding::Millis)),
            ("time-micros", Type::Long) => Meaning::Logical(Logical::Time(Encoding::Micros)),
            ("timestamp-millis" | "local-timestamp-millis", Type::Long) => {
                Meaning::Logical(Logical::Timestamp(Encoding::Millis))
            }
            ("timestamp-micros" | "local-timestamp-micros", Type::Long) => {
                Meaning::Logical(Logical::Timestamp(Encoding::Micros))
            }
            ("timestamp-nanos" | "local-timestamp-nanos", Type::Long) => {
                Meaning::Logical(Logical::Timestamp(Encoding::Nanos))
            }
            _ => return None,
        })
    });
    of_spec.or_else(|| {
        let parameters = object.get("connect.parameters").and_then(|all| all.get("scale"));
        let scale = parameters.and_then(Value::as_str).and_then(|scale| scale.parse().ok());
        let logical = Logical::of_connect(connect_name(object)?, scale)?;
        let fits = match logical {
            Logical::Decimal { .. } => matches!(ty, Type::Bytes | Type::Fixed { .. }),
            Logical::ScaledDecimal => false,
            _ => matches!(ty, Type::Int | Type::Long),
        };
        fits.then_some(Meaning::Logical(logical))
    })
}

/// Whether a default is a value of its type. Nothing here uses it (a field that the writer left out
/// is absent), but a schema with a wrong one was not made by anything that can write its records.
fn check_default(
    schema: &Schema,
    node: NodeId,
    value: &Value,
    depth: usize,
    steps: &mut usize,
) -> Result<(), &'static str> {
    if depth > DEPTH_MAX {
        return Err("nests too deep");
    }
    let Some(Node { ty, .. }) = schema.nodes.get(node) else { return Ok(()) };
    let more = match (ty, value) {
        (Type::Enum { symbols }, _) => symbols.len(),
        (Type::Record { fields, .. }, _) => fields.len(),
        (Type::Fixed { .. }, Value::String(text)) => text.len(),
        _ => 0,
    };
    *steps = steps.saturating_sub(1 + more / 64);
    if *steps == 0 {
        return Err(TOO_LONG);
    }
    let fits = match (ty, value) {
        (Type::Null, Value::Null) | (Type::Boolean, Value::Bool(_)) => true,
        (Type::Int, Value::Number(number)) => {
            number.as_i64().is_some_and(|number| i32::try_from(number).is_ok())
        }
        (Type::Long, Value::Number(number)) => number.as_i64().is_some(),
        (Type::Float | Type::Double, Value::Number(_)) => true,
        // Java writes what JSON has no number for as text.
        (Type::Float | Type::Double, Value::String(text)) => {
            matches!(text.as_str(), "NaN" | "Infinity" | "-Infinity" | "INF" | "-INF")
        }
        (Type::Bytes | Type::String, Value::String(_)) => true,
        (Type::Fixed { size }, Value::String(text)) => text.chars().count() == *size,
        (Type::Enum { symbols }, Value::String(text)) => symbols.contains(text),
        (Type::Array { items }, Value::Array(list)) => {
            return list.iter().try_for_each(|item| check_default(schema, *items, item, depth + 1, steps));
        }
        (Type::Map { values }, Value::Object(object)) => {
            let mut each = object.values();
            return each.try_for_each(|value| check_default(schema, *values, value, depth + 1, steps));
        }
        // Of the first branch; any branch since 1.12.
        (Type::Union { branches }, value) => {
            let fits =
                branches.iter().any(|branch| check_default(schema, *branch, value, depth + 1, steps).is_ok());
            if !fits && *steps == 0 {
                return Err(TOO_LONG);
            }
            fits
        }
        (Type::Record { fields, .. }, Value::Object(object)) => {
            return fields.iter().try_for_each(|field| match object.get(&field.name) {
                Some(value) => check_default(schema, field.node, value, depth + 1, steps),
                // It may have a default of its own.
                None => Ok(()),
            });
        }
        _ => false,
    };
    if fits { Ok(()) } else { Err("is not a value of its type") }
}

#[cfg(test)]
#[path = "schema_tests.rs"]
mod tests;
