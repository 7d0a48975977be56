//! Rows as bytes: fields of a hash, a JSON object, and what readers must not see.
//!
//! The reserved field `_v` holds the version as a [`stamp`]; where columns have versions of their own, are
//! unknown, or a delete mark matters, it also holds [`RowState::details`].

use std::borrow::Cow;
use std::io::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::value::RawValue;

use super::error::damaged;
use super::payload::Payload;
use super::stamp;
use crate::domain::catalog::Table;
use crate::domain::row::RowState;
use crate::domain::value::{ColumnType, Value};
use crate::domain::version::Version;
use crate::store::StoreError;

/// The reserved field of a row.
pub(super) const RESERVED: &str = "_v";

/// How a store writes rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// A hash by `RESTORE`: see [`super::payload`].
    Restore,
    /// A hash by `HSET`, where the server or the user's rights do not allow `RESTORE`.
    Fields,
    Json,
}

impl Form {
    pub fn name(self) -> &'static str {
        match self {
            Form::Restore => "restore",
            Form::Fields => "fields",
            Form::Json => "json",
        }
    }
}

/// Begins what holds details behind the version. No stamp begins like this.
const DETAILED: u8 = 0;

/// A value as the field of a hash; `None`: no field.
pub(super) fn field(value: &Value) -> Option<Cow<'_, [u8]>> {
    Some(match value {
        Value::Absent | Value::Null => return None,
        Value::Integer(number) => number.to_string().into_bytes().into(),
        Value::Real(number) => format!("{number:?}").into_bytes().into(),
        Value::Text(text) => text.as_bytes().into(),
        Value::Blob(bytes) => bytes.as_slice().into(),
    })
}

fn from_field(ty: ColumnType, bytes: Vec<u8>) -> Option<Value> {
    Some(match ty {
        ColumnType::Blob => Value::Blob(bytes),
        ColumnType::Integer | ColumnType::Boolean => {
            Value::Integer(std::str::from_utf8(&bytes).ok()?.parse().ok()?)
        }
        ColumnType::Real => Value::Real(std::str::from_utf8(&bytes).ok()?.parse().ok()?),
        _ => Value::Text(String::from_utf8(bytes).ok()?),
    })
}

/// The content of [`RESERVED`] in a hash.
pub(super) fn header(shape: &Table, row: &RowState, version: Version) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(24);
    push_header(shape, row, &version, &mut bytes);
    bytes
}

pub(super) fn push_header(shape: &Table, row: &RowState, version: &Version, out: &mut Vec<u8>) {
    if !row.needs_details() {
        return stamp::push(version, out);
    }
    out.extend([DETAILED, version.as_bytes().len() as u8]);
    out.extend_from_slice(version.as_bytes());
    out.extend(row.details(shape));
}

fn from_header(shape: &Table, values: Vec<Value>, header: &[u8]) -> Option<RowState> {
    if header.first() != Some(&DETAILED) {
        return Some(RowState::written(values, stamp::read(header)?));
    }
    let length = usize::from(*header.get(1)?);
    let version = Version::from_bytes(header.get(2..2 + length)?)?;
    RowState::from_details(shape, values, Some(version), &header[2 + length..])
}

/// How much of a row's JSON holds its version: two characters for thirteen bits of the longest one,
/// behind two bytes that say that details follow.
pub(super) const JSON_HEAD: usize = JSON_BEFORE.len() + (2 + 63) * 8 * 2 / 13 + 2;
const JSON_BEFORE: &str = "{\"_v\":\"";

/// The version at the beginning of what [`RESERVED`] holds in a hash.
pub(super) fn version_of(shape: &Table, header: &[u8]) -> Result<Version, StoreError> {
    let version = match header.strip_prefix(&[DETAILED]) {
        None => stamp::read(header),
        Some(rest) => rest
            .split_first()
            .and_then(|(&length, rest)| Version::from_bytes(rest.get(..usize::from(length))?)),
    };
    version.ok_or_else(|| damaged("a version", &shape.name))
}

/// The same of the first [`JSON_HEAD`] bytes of a row as JSON.
pub(super) fn version_of_json(shape: &Table, head: &[u8]) -> Result<Version, StoreError> {
    let text = head.strip_prefix(JSON_BEFORE.as_bytes()).unwrap_or_default();
    let whole = text.iter().position(|byte| *byte == b'"');
    // Of one that is cut off, what two characters hold together.
    let bytes = match whole {
        Some(end) => from_text(&text[..end]),
        None => read_text(&text[..text.len() / 2 * 2]).map(|(bytes, _)| bytes),
    };
    version_of(shape, &bytes.unwrap_or_default())
}

/// A row of a hash: the reserved field first, then one per column.
pub(super) fn row_of_fields(
    shape: &Table,
    fields: Vec<Option<Vec<u8>>>,
) -> Result<Option<RowState>, StoreError> {
    let mut fields = fields.into_iter();
    let Some(Some(header)) = fields.next() else {
        if fields.any(|field| field.is_some()) {
            return Err(damaged("a row", &shape.name));
        }
        return Ok(None);
    };
    let mut values = Vec::with_capacity(shape.columns.len());
    for (column, field) in shape.columns.iter().zip(fields) {
        values.push(match field {
            None => Value::Null,
            Some(bytes) => from_field(column.ty, bytes).ok_or_else(|| damaged("a value", &shape.name))?,
        });
    }
    if values.len() != shape.columns.len() {
        return Err(damaged("a row", &shape.name));
    }
    from_header(shape, values, &header).map(Some).ok_or_else(|| damaged("a version", &shape.name))
}

/// What a row is written as: one text that [`Form`] tells how to take.
pub(super) fn body(
    form: Form,
    shape: &Table,
    row: &RowState,
    header: &[u8],
    out: &mut Vec<u8>,
) -> Result<(), StoreError> {
    match form {
        Form::Json => return to_json(shape, row, header, out),
        Form::Restore => to_payload(shape, row, header, out),
        Form::Fields => for_fields(shape, row, header, |text| push_packed(out, text)),
    }
    Ok(())
}

/// Names and values of a hash, one after the other.
pub(super) fn for_fields(shape: &Table, row: &RowState, header: &[u8], mut give: impl FnMut(&[u8])) {
    give(RESERVED.as_bytes());
    give(header);
    for (column, value) in shape.columns.iter().zip(&row.values) {
        if let Some(value) = field(value) {
            give(column.name.as_bytes());
            give(&value);
        }
    }
}

fn to_payload(shape: &Table, row: &RowState, header: &[u8], out: &mut Vec<u8>) {
    let mut payload = Payload::new(out);
    payload.push_text(RESERVED.as_bytes());
    payload.push_text(header);
    for (column, value) in shape.columns.iter().zip(&row.values) {
        match value {
            Value::Absent | Value::Null => {}
            Value::Integer(number) => {
                payload.push_text(column.name.as_bytes());
                payload.push_integer(*number);
            }
            value => {
                if let Some(value) = field(value) {
                    payload.push_text(column.name.as_bytes());
                    payload.push(&value);
                }
            }
        }
    }
    payload.finish();
}

/// A text in MessagePack, as `cmsgpack.unpack` takes it.
fn push_packed(out: &mut Vec<u8>, text: &[u8]) {
    match text.len() {
        length @ 0..32 => out.push(0xA0 | length as u8),
        length @ 32..256 => out.extend([0xD9, length as u8]),
        length @ 256..0x1_0000 => {
            out.push(0xDA);
            out.extend((length as u16).to_be_bytes());
        }
        length => {
            out.push(0xDB);
            out.extend((length as u32).to_be_bytes());
        }
    }
    out.extend_from_slice(text);
}

/// The beginning of a row's JSON, up to and with its version.
pub(super) fn json_head(header: &[u8]) -> String {
    format!("{{\"{RESERVED}\":\"{}\"", to_text(header))
}

/// Every character that JSON leaves as it is, in the order of their codes. Two of them hold thirteen
/// bits, the last may hold six: texts have the order of the bytes, and one character less than with
/// six bits each.
const DIGITS: &[u8; 92] =
    b"!#$%&'()*+,-./0123456789:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[]^_`abcdefghijklmnopqrstuvwxyz{|}~";
const BITS: u32 = 13;
/// Bits that one character holds.
const HALF: u32 = 6;

fn to_text(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 5 / 4 + 2);
    let mut push = |digit: u32| text.push(char::from(DIGITS[digit as usize]));
    let (mut held, mut bits) = (0u32, 0);
    for byte in bytes {
        (held, bits) = (held << 8 | u32::from(*byte), bits + 8);
        if bits >= BITS {
            bits -= BITS;
            let two = held >> bits;
            push(two / 92);
            push(two % 92);
            held &= (1 << bits) - 1;
        }
    }
    match bits {
        0 => {}
        1..=HALF => push(held << (HALF - bits)),
        _ => {
            let two = held << (BITS - bits);
            push(two / 92);
            push(two % 92);
        }
    }
    text
}

fn from_text(text: &[u8]) -> Option<Vec<u8>> {
    // What is left fills up the last character, and there is no character more.
    let (bytes, left) = read_text(text)?;
    (left == 0 && text.len() == text_length(bytes.len())).then_some(bytes)
}

/// Characters that so many bytes take.
fn text_length(bytes: usize) -> usize {
    let (whole, rest) = (bytes * 8 / BITS as usize, bytes * 8 % BITS as usize);
    whole * 2 + rest.div_ceil(HALF as usize)
}

/// Bytes, and bits that are less than one.
fn read_text(text: &[u8]) -> Option<(Vec<u8>, u32)> {
    let mut bytes = Vec::with_capacity(text.len());
    let digit = |digit: u8| DIGITS.binary_search(&digit).ok().map(|place| place as u32);
    let (mut held, mut bits) = (0u32, 0);
    for two in text.chunks(2) {
        let (more, width) = match two {
            [high, low] => (digit(*high)? * 92 + digit(*low)?, BITS),
            one => (digit(*one.first()?)?, HALF),
        };
        if more >> width != 0 {
            return None;
        }
        (held, bits) = (held << width | more, bits + width);
        while bits >= 8 {
            bits -= 8;
            bytes.push((held >> bits) as u8);
            held &= (1 << bits) - 1;
        }
    }
    Some((bytes, held))
}

/// A row as a JSON object, the reserved member first. Blobs are base64, null columns absent, and
/// columns of type `json` are what they hold; booleans are `true` and `false`.
fn to_json(shape: &Table, row: &RowState, header: &[u8], out: &mut Vec<u8>) -> Result<(), StoreError> {
    out.extend_from_slice(json_head(header).as_bytes());
    for (column, value) in shape.columns.iter().zip(&row.values) {
        if matches!(value, Value::Absent | Value::Null) {
            continue;
        }
        out.push(b',');
        push_quoted(out, &column.name, shape)?;
        out.push(b':');
        let _ = match value {
            Value::Absent | Value::Null => Ok(()),
            Value::Integer(number @ (0 | 1)) if column.ty == ColumnType::Boolean => {
                write!(out, "{}", *number == 1)
            }
            Value::Integer(number) => write!(out, "{number}"),
            Value::Real(number) if number.is_finite() => write!(out, "{number:?}"),
            Value::Real(number) => write!(out, "\"{number:?}\""),
            Value::Text(text) if column.ty == ColumnType::Json && is_json(text) => {
                out.extend_from_slice(text.as_bytes());
                Ok(())
            }
            Value::Text(text) => {
                push_quoted(out, text, shape)?;
                Ok(())
            }
            Value::Blob(bytes) => {
                push_quoted(out, &BASE64.encode(bytes), shape)?;
                Ok(())
            }
        };
    }
    out.push(b'}');
    Ok(())
}

fn push_quoted(out: &mut Vec<u8>, text: &str, shape: &Table) -> Result<(), StoreError> {
    serde_json::to_writer(out, text).map_err(|_| damaged("a text", &shape.name))
}

fn is_json(text: &str) -> bool {
    serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok()
}

pub(super) fn row_of_json(shape: &Table, json: &[u8]) -> Result<RowState, StoreError> {
    let mut members: std::collections::HashMap<String, Box<RawValue>> =
        serde_json::from_slice(json).map_err(|_| damaged("a row", &shape.name))?;
    let header = members
        .remove(RESERVED)
        .and_then(|raw| serde_json::from_str::<String>(raw.get()).ok())
        .and_then(|text| from_text(text.as_bytes()))
        .ok_or_else(|| damaged("a version", &shape.name))?;
    let mut values = Vec::with_capacity(shape.columns.len());
    for column in &shape.columns {
        values.push(match members.remove(&column.name) {
            None => Value::Null,
            Some(raw) => from_member(column.ty, raw.get()).ok_or_else(|| damaged("a value", &shape.name))?,
        });
    }
    from_header(shape, values, &header).ok_or_else(|| damaged("a version", &shape.name))
}

fn from_member(ty: ColumnType, raw: &str) -> Option<Value> {
    let text = || serde_json::from_str::<String>(raw).ok();
    Some(match ty {
        ColumnType::Boolean if raw == "true" => Value::Integer(1),
        ColumnType::Boolean if raw == "false" => Value::Integer(0),
        ColumnType::Integer | ColumnType::Boolean => Value::Integer(raw.parse().ok()?),
        ColumnType::Real => match raw.parse() {
            Ok(number) => Value::Real(number),
            Err(_) => Value::Real(text()?.parse().ok()?),
        },
        ColumnType::Blob => Value::Blob(BASE64.decode(text()?).ok()?),
        ColumnType::Json => Value::Text(raw.to_owned()),
        _ => Value::Text(text()?),
    })
}

const MARK: u8 = 1;
const HELD: u8 = 2;

/// A row that readers must not see, with the time of its last change. Key columns are left out:
/// they are in the name of the field.
pub(super) fn hide(shape: &Table, row: &RowState, at_ms: i64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(48);
    match (row.version, row.deleted) {
        (None, Some(mark)) => {
            bytes.push(MARK);
            bytes.extend(at_ms.to_be_bytes());
            bytes.extend_from_slice(mark.as_bytes());
        }
        (version, _) => {
            bytes.push(HELD);
            bytes.extend(at_ms.to_be_bytes());
            push_chunk(&mut bytes, version.as_ref().map_or(&[], Version::as_bytes));
            push_chunk(&mut bytes, &row.details(shape));
            for (column, value) in row.values.iter().enumerate() {
                if !shape.is_key(column) {
                    push_value(&mut bytes, value);
                }
            }
        }
    }
    bytes
}

/// The opposite of [`hide`]; `values` has the key columns set, or nothing where they do not matter.
pub(super) fn unhide(shape: &Table, values: Vec<Value>, bytes: &[u8]) -> Result<(RowState, i64), StoreError> {
    read_hidden(shape, values, bytes).ok_or_else(|| damaged("a delete mark or held patch", &shape.name))
}

fn read_hidden(shape: &Table, mut values: Vec<Value>, bytes: &[u8]) -> Option<(RowState, i64)> {
    let (kind, rest) = bytes.split_first()?;
    let (at_ms, mut rest) = rest.split_first_chunk::<8>()?;
    let at_ms = i64::from_be_bytes(*at_ms);
    match *kind {
        MARK => Some((RowState::deleted(shape, values, Version::from_bytes(rest)?), at_ms)),
        HELD => {
            let version = take_chunk(&mut rest)?;
            let version = if version.is_empty() { None } else { Some(Version::from_bytes(version)?) };
            let details = take_chunk(&mut rest)?;
            for (column, value) in values.iter_mut().enumerate() {
                if !shape.is_key(column) {
                    *value = take_value(&mut rest)?;
                }
            }
            let row = RowState::from_details(shape, values, version, details)?;
            rest.is_empty().then_some((row, at_ms))
        }
        _ => None,
    }
}

/// Whether it is a delete mark and nothing else, and when it was made.
pub(super) fn mark_made_at(bytes: &[u8]) -> Option<i64> {
    let (kind, rest) = bytes.split_first()?;
    let (at_ms, _) = rest.split_first_chunk::<8>()?;
    (*kind == MARK).then(|| i64::from_be_bytes(*at_ms))
}

/// The mark of a prefix, with the time at which it was set.
pub(super) fn mark(version: &Version, at_ms: i64) -> Vec<u8> {
    [&at_ms.to_be_bytes()[..], version.as_bytes()].concat()
}

pub(super) fn from_mark(bytes: &[u8]) -> Option<(Version, i64)> {
    let (at_ms, version) = bytes.split_first_chunk::<8>()?;
    Some((Version::from_bytes(version)?, i64::from_be_bytes(*at_ms)))
}

fn push_chunk(bytes: &mut Vec<u8>, chunk: &[u8]) {
    bytes.extend((chunk.len() as u32).to_be_bytes());
    bytes.extend_from_slice(chunk);
}

fn take_chunk<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, tail) = rest.split_first_chunk::<4>()?;
    let (chunk, tail) = tail.split_at_checked(u32::from_be_bytes(*length) as usize)?;
    *rest = tail;
    Some(chunk)
}

fn push_value(bytes: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Absent | Value::Null => bytes.push(0),
        Value::Integer(number) => {
            bytes.push(1);
            push_chunk(bytes, &number.to_be_bytes());
        }
        Value::Real(number) => {
            bytes.push(2);
            push_chunk(bytes, &number.to_bits().to_be_bytes());
        }
        Value::Text(text) => {
            bytes.push(3);
            push_chunk(bytes, text.as_bytes());
        }
        Value::Blob(blob) => {
            bytes.push(4);
            push_chunk(bytes, blob);
        }
    }
}

fn take_value(rest: &mut &[u8]) -> Option<Value> {
    let (kind, tail) = rest.split_first()?;
    *rest = tail;
    if *kind == 0 {
        return Some(Value::Null);
    }
    let chunk = take_chunk(rest)?;
    Some(match kind {
        1 => Value::Integer(i64::from_be_bytes(chunk.try_into().ok()?)),
        2 => Value::Real(f64::from_bits(u64::from_be_bytes(chunk.try_into().ok()?))),
        3 => Value::Text(String::from_utf8(chunk.to_vec()).ok()?),
        4 => Value::Blob(chunk.to_vec()),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_digits_are_in_order_and_need_no_escape() {
        assert!(DIGITS.windows(2).all(|two| two[0] < two[1]));
        let text = std::str::from_utf8(DIGITS).unwrap();
        assert_eq!(serde_json::to_string(text).unwrap(), format!("\"{text}\""));
    }

    #[test]
    fn a_text_with_a_character_too_many_is_none() {
        for length in [1, 6, 11] {
            assert_eq!(from_text("!".repeat(length).as_bytes()), None, "{length}");
        }
    }

    proptest! {
        #[test]
        fn texts_are_read_back_and_have_the_order_of_the_bytes(
            a in prop::collection::vec(any::<u8>(), 0..40),
            b in prop::collection::vec(any::<u8>(), 0..40),
        ) {
            prop_assert_eq!(from_text(to_text(&a).as_bytes()), Some(a.clone()));
            // Versions are never the beginning of one another.
            let same = a.len().min(b.len());
            let (a, b) = (&a[..same], &b[..same]);
            prop_assert_eq!(to_text(a).cmp(&to_text(b)), a.cmp(b));
        }

        #[test]
        fn no_other_text_is_read(text in prop::collection::vec(any::<u8>(), 0..20)) {
            if let Some(bytes) = from_text(&text) {
                prop_assert_eq!(to_text(&bytes).into_bytes(), text);
            }
        }

        /// `apply.lua` tells by the first two characters that details follow.
        #[test]
        fn details_begin_as_nothing_else(first in any::<u8>(), rest in prop::collection::vec(any::<u8>(), 3..20)) {
            let text = to_text(&[&[first], &rest[..]].concat()).into_bytes();
            prop_assert_eq!(text[0] == b'!' && text[1] < 66, first == DETAILED);
        }
    }
}
