//! `cloudevents`: CloudEvents 1.0 in the Kafka protocol binding, in structured and in binary mode.
//!
//! Paths start at the event's data, which is JSON; `$event` is the event, its attributes by name and
//! the data as `data`. A record whose `content-type` begins with `application/cloudevents` is in
//! structured mode, one with a header `ce_specversion` in binary mode (sections 3.2 and 3.3 of the
//! binding). Attributes of the binary mode are texts and stand for whatever the column is.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::connect::Document;
use super::{DecodeError, EventKind, Field, Surroundings, Wanted};

const DATA: &str = "data";

#[derive(Debug)]
pub struct Decoder {
    /// Of the event as one document.
    event: Document,
    specversion: usize,
    data_base64: usize,
    content_type: usize,
    slots: usize,
    /// Of the data by itself.
    data: Document,
    /// The slot of the event for each slot of the data.
    data_slots: Vec<usize>,
    /// Name of the attribute and its slot.
    attributes: Vec<(String, usize)>,
    /// Slots that take the event as a whole.
    whole: Vec<usize>,
}

impl Decoder {
    pub fn new(wanted: &Wanted) -> Decoder {
        let mut paths: Vec<Vec<String>> = wanted.value.iter().map(|path| path.from_event(DATA)).collect();
        let slots = paths.len();
        let in_data: Vec<usize> =
            (0..slots).filter(|&slot| paths[slot].first().is_some_and(|first| first == DATA)).collect();
        let data = Document::plain(".", in_data.iter().filter_map(|&slot| paths[slot].get(1..)));
        let attributes = paths.iter().enumerate().filter_map(|(slot, path)| match &path[..] {
            [name] if name != DATA => Some((name.clone(), slot)),
            _ => None,
        });
        let attributes = attributes.collect();
        let whole = (0..slots).filter(|&slot| paths[slot].is_empty()).collect();
        for own in ["specversion", "data_base64", "datacontenttype"] {
            paths.push(vec![own.to_owned()]);
        }
        Decoder {
            event: Document::plain("$event", paths.iter().map(|path| &path[..])),
            specversion: slots,
            data_base64: slots + 1,
            content_type: slots + 2,
            slots,
            data,
            data_slots: in_data,
            attributes,
            whole,
        }
    }

    pub fn value<'a>(
        &mut self,
        bytes: &'a [u8],
        around: Surroundings<'a>,
        fields: &mut Vec<Field<'a>>,
    ) -> Result<EventKind, DecodeError> {
        let headers = Attributes::of(around);
        match headers.content_type {
            Some(mode) if mode.starts_with("application/cloudevents") => {
                if media_type(mode) != "application/cloudevents+json" {
                    let message =
                        "is a CloudEvent in an event format other than JSON, which is not supported";
                    return Err(DecodeError::malformed("$event", message));
                }
                self.structured(bytes, around, fields)?;
            }
            _ if headers.specversion.is_some() => self.binary(bytes, around, &headers, fields)?,
            // Some producers of the structured mode set no header.
            None => self.structured(bytes, around, fields)?,
            Some(_) => {
                let message = "has no header ce_specversion, nor the content type of a CloudEvent";
                return Err(DecodeError::malformed("$event", message));
            }
        }
        Ok(EventKind::Row)
    }

    fn structured<'a>(
        &mut self,
        bytes: &'a [u8],
        around: Surroundings<'a>,
        fields: &mut Vec<Field<'a>>,
    ) -> Result<(), DecodeError> {
        self.event.read(bytes, fields)?;
        self.event.require_object()?;
        match fields.get(self.specversion) {
            Some(Field::Json(text)) => check_version(text.trim_matches('"'))?,
            _ => return Err(DecodeError::malformed("$event.specversion", "is missing: not a CloudEvent")),
        }
        let encoded = match fields.get(self.data_base64) {
            Some(Field::Json(text)) if *text != "null" => *text,
            _ => return Ok(()),
        };
        if let Some(Field::Json(content_type)) = fields.get(self.content_type) {
            check_is_json(content_type.trim_matches('"'))?;
        }
        let encoded = encoded.trim_matches('"');
        let decoded = STANDARD
            .decode(encoded)
            .map_err(|_| DecodeError::malformed("$event.data_base64", "is not base64"))?;
        self.read_data(around.scratch.bytes(&decoded), fields)
    }

    fn binary<'a>(
        &mut self,
        bytes: &'a [u8],
        around: Surroundings<'a>,
        headers: &Attributes<'a>,
        fields: &mut Vec<Field<'a>>,
    ) -> Result<(), DecodeError> {
        check_version(headers.specversion.unwrap_or_default())?;
        if let Some(content_type) = headers.content_type {
            check_is_json(content_type)?;
        }
        fields.clear();
        fields.resize(self.slots, Field::Absent);
        let mut wrong = None;
        if let Some(list) = around.headers.0 {
            list.each(&mut |name, value| {
                let attribute = match name {
                    "content-type" => "datacontenttype",
                    _ => name.strip_prefix("ce_").unwrap_or_default(),
                };
                let (Some(value), false) = (value, attribute.is_empty()) else { return };
                for (_, slot) in self.attributes.iter().filter(|(known, _)| known == attribute) {
                    match std::str::from_utf8(value) {
                        Ok(text) => fields[*slot] = Field::Text(around.scratch.text(text)),
                        Err(_) => wrong = Some(attribute.to_owned()),
                    }
                }
            });
        }
        if let Some(attribute) = wrong {
            return Err(DecodeError::malformed(&format!("$event.{attribute}"), "is not valid UTF-8"));
        }
        // Else it is an event without data.
        if !bytes.is_empty() {
            self.read_data(bytes, fields)?;
        }
        if !self.whole.is_empty() {
            let event = Field::Json(around.scratch.text(&structured(bytes, around)));
            self.whole.iter().for_each(|&slot| fields[slot] = event);
        }
        Ok(())
    }

    fn read_data<'a>(&mut self, bytes: &'a [u8], fields: &mut [Field<'a>]) -> Result<(), DecodeError> {
        let mut found = Vec::with_capacity(self.data_slots.len());
        self.data.read(bytes, &mut found)?;
        for (field, slot) in found.into_iter().zip(&self.data_slots) {
            fields[*slot] = field;
        }
        Ok(())
    }
}

/// An event of the binary mode as it would be in the structured one; `data` is valid JSON or empty.
fn structured(data: &[u8], around: Surroundings<'_>) -> String {
    let mut event = serde_json::Map::new();
    if let Some(list) = around.headers.0 {
        list.each(&mut |name, value| {
            let attribute = match name {
                "content-type" => "datacontenttype",
                _ => name.strip_prefix("ce_").unwrap_or_default(),
            };
            if let (Some(Ok(text)), false) = (value.map(std::str::from_utf8), attribute.is_empty()) {
                event.insert(attribute.to_owned(), text.into());
            }
        });
    }
    let mut text = serde_json::Value::Object(event).to_string();
    if let (Ok(data), false) = (std::str::from_utf8(data), data.is_empty()) {
        // As it was sent: its numbers keep their digits.
        text.truncate(text.len() - 1);
        let comma = if text.len() > 1 { "," } else { "" };
        text.push_str(&format!("{comma}\"data\":{data}}}"));
    }
    text
}

/// The headers that decide how the value is read.
struct Attributes<'a> {
    content_type: Option<&'a str>,
    specversion: Option<&'a str>,
}

impl<'a> Attributes<'a> {
    fn of(around: Surroundings<'a>) -> Attributes<'a> {
        let mut found = Attributes { content_type: None, specversion: None };
        if let Some(list) = around.headers.0 {
            list.each(&mut |name, value| {
                let slot = match name {
                    "content-type" => &mut found.content_type,
                    "ce_specversion" => &mut found.specversion,
                    _ => return,
                };
                *slot = value
                    .and_then(|value| std::str::from_utf8(value).ok())
                    .map(|text| around.scratch.text(text));
            });
        }
        found
    }
}

fn media_type(content_type: &str) -> &str {
    content_type.split(';').next().unwrap_or_default().trim()
}

fn check_version(version: &str) -> Result<(), DecodeError> {
    if version == "1.0" || version.starts_with("1.") {
        return Ok(());
    }
    Err(DecodeError::malformed("$event.specversion", "is not 1.0"))
}

fn check_is_json(content_type: &str) -> Result<(), DecodeError> {
    let media = media_type(content_type);
    if media.is_empty() || media.ends_with("/json") || media.ends_with("+json") {
        return Ok(());
    }
    Err(DecodeError::malformed("$event.datacontenttype", "is not JSON: the data cannot be read"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::{Path, Root};
    use crate::decode::Scratch;
    use crate::domain::record::{HeaderList, Headers};

    fn decoder(paths: &[(Root, &[&str])]) -> Decoder {
        let path = |(root, fields): &(Root, &[&str])| Path {
            root: *root,
            fields: fields.iter().map(|&field| field.to_owned()).collect(),
        };
        Decoder::new(&Wanted { value: paths.iter().map(path).collect(), key: Vec::new() })
    }

    struct List<'l>(&'l [(&'l str, &'l [u8])]);

    impl HeaderList for List<'_> {
        fn each(&self, visit: &mut dyn FnMut(&str, Option<&[u8]>)) {
            for (name, value) in self.0 {
                visit(name, Some(value));
            }
        }
    }

    /// The fields in words, or what is wrong.
    fn read(headers: &[(&str, &[u8])], value: &[u8]) -> Result<Vec<String>, DecodeError> {
        let (scratch, list) = (Scratch::default(), List(headers));
        let around = Surroundings { headers: Headers(Some(&list)), scratch: &scratch };
        let mut fields = Vec::new();
        let mut decoder = decoder(&[
            (Root::Row, &["a"]),
            (Root::Row, &[]),
            (Root::Event, &["type"]),
            (Root::Event, &["data", "a"]),
            (Root::Event, &["datacontenttype"]),
            (Root::Event, &[]),
        ]);
        decoder.value(value, around, &mut fields)?;
        Ok(fields[..6].iter().map(|field| format!("{field:?}")).collect())
    }

    const ABSENT: &str = "Absent";

    #[test]
    fn both_modes_have_the_same_fields() {
        let structured: &[(&str, &[u8])] = &[("content-type", b"application/cloudevents+json")];
        let found = read(structured, br#"{"specversion":"1.0","type":"t","data":{"a":1}}"#).unwrap();
        assert_eq!(
            found[..5],
            ["Json(\"1\")", "Json(\"{\\\"a\\\":1}\")", "Json(\"\\\"t\\\"\")", "Json(\"1\")", ABSENT]
        );
        // Without any header, and with the data encoded.
        let found = read(&[], br#"{"specversion":"1.0","type":"t","data_base64":"eyJhIjoxfQ=="}"#).unwrap();
        assert_eq!(found[..2], ["Json(\"1\")", "Json(\"{\\\"a\\\":1}\")"]);
        let binary: &[(&str, &[u8])] = &[
            ("ce_specversion", b"1.0"),
            ("ce_type", b"t"),
            ("content-type", b"application/vnd.x+json; v=1"),
        ];
        let found = read(binary, br#"{"a":1}"#).unwrap();
        let content_type = "Text(\"application/vnd.x+json; v=1\")";
        assert_eq!(
            found[..5],
            ["Json(\"1\")", "Json(\"{\\\"a\\\":1}\")", "Text(\"t\")", "Json(\"1\")", content_type]
        );
        let whole = r#"{"datacontenttype":"application/vnd.x+json; v=1","specversion":"1.0","type":"t","data":{"a":1}}"#;
        assert_eq!(found[5], format!("{:?}", Field::Json(whole)), "the event as a whole is an object too");
        let found = read(binary, b"").unwrap();
        assert_eq!(found[..4], [ABSENT, ABSENT, "Text(\"t\")", ABSENT], "an event without data");
    }

    #[test]
    fn what_is_no_cloudevent_says_so() {
        type Given<'g> = (&'g [(&'g str, &'g [u8])], &'g [u8]);
        let cases: [Given<'_>; 9] = [
            (&[("content-type", b"application/json")], b"{}"),
            (&[], b"{}"),
            (&[], b"[]"),
            (&[], br#"{"specversion":"2.0"}"#),
            (&[], br#"{"specversion":"1.0","data_base64":"?"}"#),
            (&[("content-type", b"application/cloudevents+protobuf")], b""),
            (&[("ce_specversion", b"0.3")], b"{}"),
            (&[("ce_specversion", b"1.0"), ("content-type", b"text/plain")], b"{}"),
            (&[("ce_specversion", b"1.0"), ("ce_type", b"\xFF")], b"{}"),
        ];
        for (headers, value) in cases {
            assert!(read(headers, value).is_err(), "{headers:?} {value:?}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(
            value in prop::collection::vec(any::<u8>(), 0..60),
            version in prop::collection::vec(any::<u8>(), 0..5),
            binary in any::<bool>(),
        ) {
            let name = if binary { "ce_specversion" } else { "content-type" };
            let _ = read(&[(name, &version)], &value);
            let _ = read(&[("ce_specversion", b"1.0"), ("ce_type", &version)], &value);
        }

        #[test]
        fn changed_text_makes_it_panic_neither(at in 0..70usize, byte in any::<u8>()) {
            let mut value = br#"{"specversion":"1.0","type":"t","data_base64":"eyJhIjoxfQ==","x":1}"#.to_vec();
            let at = at % value.len();
            value[at] = byte;
            let _ = read(&[], &value);
        }
    }
}
