//! The JSON Schema of the configuration, for editors.
//!
//! Made from the same description that the configuration is read against. It knows names and
//! shapes; what belongs together (a key's columns, an event's type) only `readside validate` knows.

use serde_json::{Map, Value, json};

use super::sections::{Presence, ROOT, Section, Shape, for_each_section};

/// A schema in draft 2020-12.
pub fn json_schema() -> Value {
    let mut definitions = Map::new();
    for_each_section(&mut |section| {
        if !std::ptr::eq(section, &ROOT) {
            definitions.insert(definition_name(section), section_schema(section));
        }
    });
    let mut schema = Map::new();
    schema.insert("$schema".to_owned(), json!("https://json-schema.org/draft/2020-12/schema"));
    schema.insert("title".to_owned(), json!("readside"));
    if let Value::Object(root) = section_schema(&ROOT) {
        schema.extend(root);
    }
    schema.insert("$defs".to_owned(), Value::Object(definitions));
    Value::Object(schema)
}

/// `a table` is `table`, `replica.sqlite` stays.
fn definition_name(section: &Section) -> String {
    section.name.strip_prefix("a ").unwrap_or(section.name).to_owned()
}

fn section_schema(section: &'static Section) -> Value {
    let mut properties = Map::new();
    let mut required = Vec::new();
    for key in section.keys() {
        let mut schema = shape_schema(&key.shape);
        if let Value::Object(schema) = &mut schema {
            schema.insert("description".to_owned(), json!(key.help));
            if let Presence::Default(text) = key.presence {
                let default = match key.shape {
                    Shape::Count | Shape::Bool => serde_json::from_str(text).unwrap_or_else(|_| json!(text)),
                    _ => json!(text),
                };
                schema.insert("default".to_owned(), default);
            }
        }
        properties.insert(key.name.to_owned(), schema);
        if matches!(key.presence, Presence::Required) {
            required.push(key.name);
        }
    }
    // A section without values may be written with nothing behind it.
    let types = if required.is_empty() { json!(["object", "null"]) } else { json!("object") };
    json!({
        "type": types,
        "description": section.help,
        "properties": properties,
        "required": required,
        "additionalProperties": false,
    })
}

fn shape_schema(shape: &'static Shape) -> Value {
    match shape {
        // YAML reads `8080` and `true` as no text, and they are fine as text here.
        Shape::Text => json!({"type": ["string", "number", "boolean"], "minLength": 1}),
        Shape::Duration => json!({"type": "string", "pattern": "^[0-9]+ *(ms|s|m|h|d)$"}),
        Shape::Size => json!({"type": "string", "pattern": "^[0-9]+ *(B|kB|KB|MB|GB|KiB|MiB|GiB)$"}),
        Shape::Count => json!({"type": "integer", "minimum": 0}),
        Shape::Percent => json!({"type": "string", "pattern": "^(100|[0-9]{1,2}) *%$"}),
        Shape::Rate => json!({"type": "string", "pattern": "^(none|[0-9]+ */ *[0-9]+ *(ms|s|m|h|d))$"}),
        Shape::Address => json!({"type": "string", "pattern": ":[0-9]+$"}),
        Shape::File => json!({"type": "string", "minLength": 1}),
        Shape::RedisUrl => json!({"type": "string", "pattern": "^(rediss?://|unix:|redis\\+unix:)"}),
        Shape::RegistryUrl => json!({"type": "string", "pattern": "^https?://"}),
        Shape::Bool => json!({"type": "boolean"}),
        Shape::Word(words) => json!({"enum": words()}),
        Shape::Path => json!({"type": "string", "pattern": "^ *[.$]"}),
        Shape::Expression => json!({"type": ["string", "number", "boolean", "null"]}),
        Shape::Condition => json!({"type": "string", "minLength": 1}),
        Shape::ColumnType => {
            let types = super::words::words::<crate::domain::value::ColumnType>();
            let all: Vec<String> = types.iter().flat_map(|ty| [(*ty).to_owned(), format!("{ty}?")]).collect();
            json!({"enum": all})
        }
        Shape::Section(section) => json!({"$ref": format!("#/$defs/{}", definition_name(section))}),
        Shape::Map { names, value } => json!({
            "type": ["object", "null"],
            "propertyNames": {"description": format!("The name of a {names}."), "minLength": 1},
            "additionalProperties": shape_schema(value),
        }),
        Shape::List(item) => json!({"type": "array", "items": shape_schema(item)}),
        Shape::OneOf(shapes) => json!({"anyOf": shapes.iter().map(shape_schema).collect::<Vec<_>>()}),
    }
}
