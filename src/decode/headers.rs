//! Headers of a record as fields.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::{Field, Native, Surroundings};

const NULL: Field<'static> = Field::Json("null");

/// The last header of a name, as Kafka's own clients read it. Its bytes are of no known type: text that
/// stands for a value of whatever type the column has, and bytes for a `blob`.
pub fn header<'a>(around: Surroundings<'a>, name: &str) -> Field<'a> {
    let mut found = Field::Absent;
    if let Some(list) = around.headers.0 {
        list.each(&mut |header, value| {
            if header == name {
                found = match value {
                    Some(bytes) => Field::Native(Native::Opaque(around.scratch.bytes(bytes))),
                    None => NULL,
                };
            }
        });
    }
    found
}

/// All headers as a JSON object of texts; of a name that comes twice the last one, and what is not UTF-8
/// as `base64:…`.
pub fn headers_json(around: Surroundings<'_>) -> Field<'_> {
    let mut object = serde_json::Map::new();
    if let Some(list) = around.headers.0 {
        list.each(&mut |name, value| {
            let value = match value.map(|bytes| std::str::from_utf8(bytes).map_err(|_| bytes)) {
                None => serde_json::Value::Null,
                Some(Ok(text)) => text.into(),
                Some(Err(bytes)) => format!("base64:{}", STANDARD.encode(bytes)).into(),
            };
            object.insert(name.to_owned(), value);
        });
    }
    Field::Json(around.scratch.text(&serde_json::Value::Object(object).to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::Scratch;
    use crate::domain::record::{Headers, OwnedRecord};

    #[test]
    fn the_last_header_of_a_name_counts() {
        let headers = [("a", Some(&b"1"[..])), ("b", Some(b"\xFF\"")), ("a", Some(b"2\"")), ("n", None)];
        let headers = headers.map(|(name, value)| (name.to_owned(), value.map(<[u8]>::to_vec)));
        let record = OwnedRecord { headers: headers.into(), ..OwnedRecord::default() };
        let scratch = Scratch::default();
        let around = Surroundings { headers: Headers(Some(&record)), scratch: &scratch };
        assert_eq!(header(around, "a"), Field::Native(Native::Opaque(b"2\"")));
        assert_eq!(header(around, "n"), NULL);
        assert_eq!(header(around, "A"), Field::Absent);
        let all = r#"{"a":"2\"","b":"base64:/yI=","n":null}"#;
        assert_eq!(headers_json(around), Field::Json(all));
        let none = Surroundings { headers: Headers(None), scratch: &scratch };
        assert_eq!((header(none, "a"), headers_json(none)), (Field::Absent, Field::Json("{}")));
    }
}
