//! `debezium-json` and `debezium-avro`: Debezium's change envelope, in JSON with or without embedded
//! schemas, or in Avro.
//!
//! Rows come from `after` alone: `before` of a delete holds invented values. Paths of the mapping
//! start at `after`; `$event` is the envelope.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::body::Body;
use super::native::Native;
use super::scratch::Scratch;
use super::time;
use super::{DecodeError, EventKind, Field, OwnVersion, Wanted};
use crate::config::{Encoding, Path, Root};
use crate::domain::dead_letter::Reason;
use crate::domain::snapshot::Phase;

const SEQUENCE: &str = "$event.source.sequence";

#[derive(Debug)]
pub struct Decoder {
    value: Body,
    op: usize,
    sequence: usize,
    snapshot: usize,
    /// When the connector has made the event.
    made: usize,
    committed: usize,
    /// Slots of the row: where a placeholder can stand.
    row: Vec<usize>,
    /// Slots of what is in a column, each with the slot of what the placeholder is in one that is a map.
    inside: Vec<(usize, usize)>,
    placeholder: Placeholder,
}

impl Decoder {
    /// `body` makes the decoder of the envelope from the paths that are read of it.
    pub fn new(wanted: &Wanted, placeholder: &str, body: impl FnOnce(Vec<Vec<String>>) -> Body) -> Decoder {
        let mut paths: Vec<Vec<String>> = wanted.value.iter().map(|path| path.from_event("after")).collect();
        let row = (0..paths.len()).filter(|&slot| paths[slot].first().is_some_and(|first| first == "after"));
        let row: Vec<usize> = row.collect();
        let inside = Placeholder::inside(placeholder, &mut paths, &row, 2);
        let op = paths.len();
        paths.push(vec!["op".to_owned()]);
        let sequence = paths.len();
        paths.push(vec!["source".to_owned(), "sequence".to_owned()]);
        let snapshot = paths.len();
        paths.push(vec!["source".to_owned(), "snapshot".to_owned()]);
        let made = paths.len();
        paths.push(vec!["ts_ms".to_owned()]);
        let committed = paths.len();
        paths.push(vec!["source".to_owned(), "ts_ms".to_owned()]);
        Decoder {
            value: body(paths),
            op,
            sequence,
            snapshot,
            made,
            committed,
            row,
            inside,
            placeholder: Placeholder::new(placeholder),
        }
    }

    pub fn value<'a>(
        &mut self,
        bytes: &'a [u8],
        scratch: &'a Scratch,
        fields: &mut Vec<Field<'a>>,
    ) -> Result<EventKind, DecodeError> {
        self.value.read(bytes, scratch, fields)?;
        self.value.require_object()?;
        let Some(op) = word(fields[self.op]) else {
            return Err(DecodeError::malformed("$event.op", "is missing: not a Debezium change event"));
        };
        match op {
            "c" | "r" | "u" => {
                self.placeholder.mark(fields, self.row.iter().copied(), &self.inside);
                Ok(EventKind::Row)
            }
            "d" => Ok(EventKind::Delete),
            "t" => Ok(EventKind::Truncate),
            // A logical decoding message (`pg_logical_emit_message`): not about a row.
            "m" => Ok(EventKind::Ignored),
            _ => Err(DecodeError {
                path: "$event.op".to_owned(),
                reason: Reason::UnknownType,
                message: "is not an operation of Debezium's (c, r, u, d, t, m)".to_owned(),
            }),
        }
    }

    pub fn body(&mut self) -> &mut Body {
        &mut self.value
    }

    /// Whether there was no row with this key before.
    pub fn is_insert(&self, fields: &[Field<'_>]) -> bool {
        fields.get(self.op).is_some_and(|op| word(*op) == Some("c"))
    }

    pub fn committed_ms(&self, fields: &[Field<'_>]) -> Option<i64> {
        fields.get(self.committed).and_then(integer)
    }

    /// How far a snapshot of the whole table has come with this row, if it belongs to one. Incremental
    /// ones, which only send rows again, are none.
    pub fn snapshot(&self, fields: &[Field<'_>]) -> Option<Phase> {
        phase(*fields.get(self.snapshot)?)
    }

    /// `source.sequence`: a string that holds a JSON array of two decimal strings, the first null
    /// until the first commit after a start. Null is read as the second, so that a later whole
    /// snapshot sorts behind everything before it. The LSN alone goes back within a partition.
    pub fn own_version(&self, fields: &[Field<'_>]) -> OwnVersion {
        let read_ms = read_ms(fields.get(self.snapshot), fields.get(self.made));
        match fields.get(self.sequence).copied().and_then(sequence) {
            Some(Ok(pair)) => OwnVersion::Integers { pair, read_ms },
            Some(Err(why)) => OwnVersion::Unusable(no_version(why)),
            None => OwnVersion::Unusable(no_version(
                "is missing: this connector sends no sequence; say `version: position` for the topic, or name another field (docs/FORMATS.md)",
            )),
        }
    }
}

/// When a row of an incremental snapshot was read; one that does not say so counts as read late.
pub(super) fn read_ms(mark: Option<&Field<'_>>, made: Option<&Field<'_>>) -> Option<i64> {
    (word(*mark?)? == "incremental").then(|| made.and_then(integer).unwrap_or(i64::MAX))
}

/// Of a field that is one, in JSON or not.
pub(super) fn integer(field: &Field<'_>) -> Option<i64> {
    match field {
        Field::Json(text) => text.parse().ok(),
        Field::Native(Native::Integer(number)) => Some(*number),
        _ => None,
    }
}

/// What `source.snapshot` says.
pub(super) fn phase(mark: Field<'_>) -> Option<Phase> {
    match word(mark)? {
        "true" | "first" | "first_in_data_collection" => Some(Phase::UnderWay),
        "last" | "last_in_data_collection" => Some(Phase::Listed),
        _ => None,
    }
}

/// The text of a field, in JSON or not; in JSON that of a number or a flag, too.
pub(super) fn word(field: Field<'_>) -> Option<&str> {
    match field {
        Field::Json(text) => Some(text.trim_matches('"')),
        Field::Native(Native::Text(text)) => Some(text),
        _ => None,
    }
}

fn no_version(message: &str) -> DecodeError {
    DecodeError { path: SEQUENCE.to_owned(), reason: Reason::Version, message: message.to_owned() }
}

/// Where a column of the deleted row stands, for events without a record key: the table then has
/// no primary key and its replica identity is the whole row, so that `before` is real.
pub fn deleted_row(fields: &[String]) -> Path {
    let fields = std::iter::once("before".to_owned()).chain(fields.iter().cloned()).collect();
    Path { root: Root::Event, fields }
}

/// What `source.sequence` says, in JSON or not; `None`: nothing. An error says what it is not.
pub(super) fn sequence(field: Field<'_>) -> Option<Result<[i64; 2], &'static str>> {
    let pair = match field {
        Field::Json("null") => return None,
        Field::Json(text) => quoted_positions(text),
        Field::Native(Native::Text(text)) => positions(text),
        Field::Native(_) => None,
        _ => return None,
    };
    Some(pair.ok_or("is not a pair of log positions"))
}

/// Of a JSON string.
fn quoted_positions(text: &str) -> Option<[i64; 2]> {
    let inner: Cow<'_, str> = match text.strip_prefix('"')?.strip_suffix('"')? {
        plain if !plain.contains('\\') => Cow::Borrowed(plain),
        _ => Cow::Owned(serde_json::from_str::<String>(text).ok()?),
    };
    positions(&inner)
}

/// Of the text `["135184360","135188664"]`.
fn positions(text: &str) -> Option<[i64; 2]> {
    let (first, second): (Option<&str>, &str) = serde_json::from_str(text).ok()?;
    let second = position(second)?;
    let first = match first {
        Some(first) => position(first)?,
        None => second,
    };
    Some([first, second])
}

fn position(text: &str) -> Option<i64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

/// What stands for a value that was stored out of line and not touched (`unavailable.value.placeholder`),
/// in the forms the column types give it.
#[derive(Debug, Clone)]
pub struct Placeholder {
    /// As it is configured: text and bytes that are not in JSON.
    plain: String,
    /// `hstore`: a map of the text to itself. Also as text, with `hstore.handling.mode=json`.
    map: String,
    /// JSON strings: text, JSON and hex columns; base64 of `bytea`; `map` as text.
    strings: [String; 3],
    /// In arrays: one text, or as many numbers as the text has bytes.
    arrays: Vec<String>,
}

/// `unavailable.value.placeholder` unless it is set, and the UUID that is made of it for arrays of UUIDs.
const USUAL: (&str, &str) = ("__debezium_unavailable_value", "b68a35a7-17ad-35b3-af2a-ae46edb4545a");

impl Placeholder {
    pub fn new(text: &str) -> Placeholder {
        // Quoting a string cannot fail.
        let quote = |text: &str| serde_json::to_string(text).unwrap_or_default();
        let (quoted, base64) = (quote(text), quote(&STANDARD.encode(text)));
        let map = format!("{{{quoted}:{quoted}}}");
        let numbers =
            |form: fn(u8) -> String| format!("[{}]", text.bytes().map(form).collect::<Vec<_>>().join(","));
        let mut arrays = vec![
            format!("[{quoted}]"),
            format!("[{base64}]"),
            numbers(|byte| byte.to_string()),
            numbers(|byte| format!("{byte}.0")),
            // Days since 1970, where the schema says that they are: Avro.
            numbers(|day| {
                format!("\"{}\"", time::date_from_number(day.into(), Encoding::Days).unwrap_or_default())
            }),
        ];
        if text == USUAL.0 {
            arrays.push(format!("[\"{}\"]", USUAL.1));
        }
        Placeholder { plain: text.to_owned(), strings: [quoted, base64, quote(&map)], map, arrays }
    }

    /// Adds the paths of what a placeholder is inside a column that is a map, for each of these slots whose
    /// path goes into a column: paths of columns have `column` names.
    pub fn inside(
        text: &str,
        paths: &mut Vec<Vec<String>>,
        slots: &[usize],
        column: usize,
    ) -> Vec<(usize, usize)> {
        let mut inside = Vec::new();
        for &slot in slots {
            if paths[slot].len() > column {
                let mut path = paths[slot][..column].to_vec();
                path.push(text.to_owned());
                inside.push((slot, paths.len()));
                paths.push(path);
            }
        }
        inside
    }

    /// Marks what the source has left out: columns, and what is in them.
    pub fn mark(
        &self,
        fields: &mut [Field<'_>],
        columns: impl Iterator<Item = usize>,
        inside: &[(usize, usize)],
    ) {
        for slot in columns {
            if self.is_in(fields[slot]) {
                fields[slot] = Field::Unavailable;
            }
        }
        for &(slot, entry) in inside {
            if fields[slot] == Field::Absent && self.is_in(fields[entry]) {
                fields[slot] = Field::Unavailable;
            }
        }
    }

    fn is_in(&self, field: Field<'_>) -> bool {
        match field {
            Field::Json(text) => self.is(text),
            Field::Native(Native::Text(text)) => text == self.plain || text == self.map,
            Field::Native(Native::Bytes(bytes)) => bytes == self.plain.as_bytes(),
            _ => false,
        }
    }

    /// Whether a JSON text is one of its forms.
    pub fn is(&self, value: &str) -> bool {
        let same = |form: &String| without_space(value).eq(without_space(form));
        match value.as_bytes().first() {
            Some(b'[') => self.arrays.iter().any(same),
            Some(b'{') => same(&self.map),
            _ => self.strings.iter().any(|form| form == value),
        }
    }
}

fn without_space(text: &str) -> impl Iterator<Item = u8> {
    text.bytes().filter(|byte| !byte.is_ascii_whitespace())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sequence_is_a_pair_of_numbers_in_every_encoding() {
        let cases = [
            (r#""[\"135184360\",\"135188664\"]""#, Some([135_184_360, 135_188_664])),
            (r#""[null,\"144443824\"]""#, Some([144_443_824, 144_443_824])),
            (r#""[\"1\",null]""#, None),
            (r#""[\"1\"]""#, None),
            (r#""[\"1\",\"2\",\"3\"]""#, None),
            (r#""[1,2]""#, None),
            (r#""[\"-1\",\"+2\"]""#, None),
            (r#""[\"\",\"2\"]""#, None),
            (r#""[\"1\",\"9223372036854775808\"]""#, None),
            ("[1,2]", None),
            ("17", None),
        ];
        for (json, expected) in cases {
            assert_eq!(sequence(Field::Json(json)).unwrap().ok(), expected, "{json}");
            if let Ok(text) = serde_json::from_str::<String>(json) {
                let native = Field::Native(Native::Text(&text));
                assert_eq!(sequence(native).unwrap().ok(), expected, "{text}");
            }
        }
        assert!(sequence(Field::Native(Native::Integer(17))).unwrap().is_err());
        for nothing in [Field::Absent, Field::Json("null"), Field::NotAnObject] {
            assert_eq!(sequence(nothing), None, "{nothing:?}");
        }
    }

    #[test]
    fn a_placeholder_is_known_in_every_form() {
        let placeholder = Placeholder::new("__debezium_unavailable_value");
        let forms = [
            r#""__debezium_unavailable_value""#,
            r#""X19kZWJleml1bV91bmF2YWlsYWJsZV92YWx1ZQ==""#,
            r#"["__debezium_unavailable_value"]"#,
            "[95,95,100,101,98,101,122,105,117,109,95,117,110,97,118,97,105,108,97,98,108,101,95,118,97,108,117,101]",
            r#"{ "__debezium_unavailable_value": "__debezium_unavailable_value" }"#,
            r#""{\"__debezium_unavailable_value\":\"__debezium_unavailable_value\"}""#,
            r#"["X19kZWJleml1bV91bmF2YWlsYWJsZV92YWx1ZQ=="]"#,
            r#"["b68a35a7-17ad-35b3-af2a-ae46edb4545a"]"#,
            "[95, 95, 100,101,98,101,122,105,117,109,95,117,110,97,118,97,105,108,97,98,108,101,95,118,97,108,117,101]",
        ];
        for form in forms {
            assert!(placeholder.is(form), "{form}");
        }
        for other in [
            r#""__debezium""#,
            "[]",
            "[95]",
            "null",
            "{}",
            r#"{"__debezium_unavailable_value":null}"#,
            r#"["__debezium_unavailable_value",null]"#,
        ] {
            assert!(!placeholder.is(other), "{other}");
        }
        assert!(Placeholder::new("gone").is("\"gone\""));
    }
}
