//! What Kafka Connect's JSON converter writes with a schema, as its Avro converter would write it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::decode::avro::written::{bytes, long};

/// An Avro schema for one of Connect's, as Confluent's converter makes it. Records that are in
/// `named` are only named.
pub fn schema(connect: &Value, named: &mut Vec<String>) -> Value {
    let name = connect["name"].as_str();
    let mut avro = match (text(&connect["type"]), name) {
        ("struct", Some(name)) if named.iter().any(|known| known == name) => json!(name),
        ("struct", Some(name)) => {
            named.push(name.to_owned());
            let (namespace, own) = name.rsplit_once('.').unwrap_or(("", name));
            let fields: Vec<Value> = list(&connect["fields"]).iter().map(|each| field(each, named)).collect();
            json!({"type": "record", "name": own, "namespace": namespace, "fields": fields})
        }
        ("array", _) => json!({"type": "array", "items": schema(&connect["items"], named)}),
        ("map", _) => json!({"type": "map", "values": schema(&connect["values"], named)}),
        ("int16", _) => json!({"type": "int", "connect.type": "int16"}),
        ("int32", _) => json!({"type": "int"}),
        ("int64", _) => json!({"type": "long"}),
        (same, _) => json!({"type": same}),
    };
    if let (Some(avro), Some(name)) = (avro.as_object_mut(), name) {
        avro.insert("connect.name".to_owned(), json!(name));
        avro.insert("connect.version".to_owned(), json!(1));
        if let Some(parameters) = connect.get("parameters") {
            avro.insert("connect.parameters".to_owned(), parameters.clone());
        }
        let logical = match name {
            "org.apache.kafka.connect.data.Decimal" => "decimal",
            "org.apache.kafka.connect.data.Date" => "date",
            "org.apache.kafka.connect.data.Time" => "time-millis",
            "org.apache.kafka.connect.data.Timestamp" => "timestamp-millis",
            _ => "",
        };
        if !logical.is_empty() {
            avro.insert("logicalType".to_owned(), json!(logical));
        }
        if logical == "decimal" {
            let scale: i32 = text(&connect["parameters"]["scale"]).parse().unwrap();
            avro.insert("scale".to_owned(), json!(scale));
            avro.insert("precision".to_owned(), json!(64));
        }
    }
    match connect["optional"].as_bool() {
        Some(true) => json!(["null", avro]),
        _ => avro,
    }
}

fn field(connect: &Value, named: &mut Vec<String>) -> Value {
    let mut field = json!({"name": connect["field"], "type": schema(connect, named)});
    if connect["optional"] == true {
        field["default"] = Value::Null;
    }
    field
}

/// Appends a value of one of Connect's schemas, given in the form of the JSON converter.
pub fn encode(connect: &Value, value: &Value, out: &mut Vec<u8>) {
    if connect["optional"] == true {
        long(out, i64::from(!value.is_null()));
        if value.is_null() {
            return;
        }
    }
    match text(&connect["type"]) {
        "struct" => list(&connect["fields"])
            .iter()
            .for_each(|field| encode(field, &value[text(&field["field"])], out)),
        "array" => {
            let items = list(value);
            blocks(items.len(), out, |out| {
                items.iter().for_each(|item| encode(&connect["items"], item, out));
            });
        }
        "map" => {
            let entries = value.as_object().unwrap();
            blocks(entries.len(), out, |out| {
                for (key, value) in entries {
                    bytes(out, key.as_bytes());
                    encode(&connect["values"], value, out);
                }
            });
        }
        "boolean" => out.push(u8::from(value.as_bool().unwrap())),
        "int16" | "int32" | "int64" => long(out, value.as_i64().unwrap()),
        "float" => out.extend((real(value) as f32).to_le_bytes()),
        "double" => out.extend(real(value).to_le_bytes()),
        "bytes" => bytes(out, &STANDARD.decode(text(value)).unwrap()),
        "string" => bytes(out, text(value).as_bytes()),
        other => panic!("no type {other}"),
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text"))
}

fn list(value: &Value) -> &[Value] {
    value.as_array().unwrap()
}

fn real(value: &Value) -> f64 {
    match value.as_str() {
        Some(name) => name.parse().unwrap(),
        None => value.as_f64().unwrap(),
    }
}

fn blocks(count: usize, out: &mut Vec<u8>, items: impl FnOnce(&mut Vec<u8>)) {
    if count > 0 {
        long(out, count as i64);
        items(out);
    }
    long(out, 0);
}

/// Word for word what a registry has of Debezium's.
#[test]
fn schemas_are_those_of_the_converter() {
    let point = |optional: bool| {
        json!({"type": "struct", "name": "io.debezium.data.geometry.Point", "optional": optional, "field": "at",
            "fields": [{"type": "double", "field": "x"}, {"type": "bytes", "optional": true, "field": "wkb"}]})
    };
    let connect = json!({"type": "struct", "name": "p.public.t.Value", "fields": [
        {"type": "int16", "field": "id"},
        {"type": "bytes", "name": "org.apache.kafka.connect.data.Decimal", "parameters": {"scale": "2"}, "optional": true, "field": "price"},
        {"type": "array", "items": {"type": "string", "optional": true}, "optional": true, "field": "tags"},
        point(true), point(false)]});
    let expected = r#"{"type":"record","name":"Value","namespace":"p.public.t","connect.name":"p.public.t.Value","connect.version":1,"fields":[
        {"name":"id","type":{"type":"int","connect.type":"int16"}},
        {"name":"price","type":["null",{"type":"bytes","scale":2,"precision":64,"connect.version":1,"connect.parameters":{"scale":"2"},"connect.name":"org.apache.kafka.connect.data.Decimal","logicalType":"decimal"}],"default":null},
        {"name":"tags","type":["null",{"type":"array","items":["null",{"type":"string"}]}],"default":null},
        {"name":"at","type":["null",{"type":"record","name":"Point","namespace":"io.debezium.data.geometry","connect.name":"io.debezium.data.geometry.Point","connect.version":1,"fields":[
            {"name":"x","type":{"type":"double"}},{"name":"wkb","type":["null",{"type":"bytes"}],"default":null}]}],"default":null},
        {"name":"at","type":"io.debezium.data.geometry.Point"}]}"#;
    assert_eq!(schema(&connect, &mut Vec::new()), serde_json::from_str::<Value>(expected).unwrap());
}
