//! `canal`: row changes of MySQL as Canal's flat messages have them, and TiCDC's `canal-json`.
//!
//! A record has several rows, in `data`, each of which is an event of its own here; every value in them is
//! text. Paths of the mapping start at a row; `$event` is the record, in which `$event.old` is what the same
//! row was before an update, as far as that has changed it.

use super::elements::ElementDecoder;
use super::projection::{Projection, RootShape};
use super::scratch::Scratch;
use super::{DecodeError, EventKind, Field, Wanted};
use crate::config::Root;
use crate::domain::dead_letter::Reason;

const OLD: &str = "old";

#[derive(Debug)]
pub struct Decoder {
    envelope: Projection,
    row: ElementDecoder,
    old: ElementDecoder,
    /// By slot.
    places: Vec<Place>,
    /// Slots of the envelope.
    kind: usize,
    is_ddl: usize,
    data: usize,
    before: usize,
}

/// Where a slot is: in the envelope, the row or what the row was, and which one there.
#[derive(Debug, Clone, Copy)]
enum Place {
    Envelope(usize),
    Row(usize),
    Old(usize),
}

/// One row of a record, as JSON, and what it was before.
#[derive(Debug, Clone, Copy)]
pub struct RowOf<'a> {
    pub now: &'a str,
    pub before: Option<&'a str>,
}

impl Decoder {
    pub fn new(wanted: &Wanted) -> Decoder {
        let (mut envelope, mut row, mut old) = (Vec::new(), Vec::new(), Vec::new());
        let mut places = Vec::with_capacity(wanted.value.len());
        for path in &wanted.value {
            places.push(match (path.root, path.fields.split_first()) {
                (Root::Row, _) => {
                    row.push(&path.fields[..]);
                    Place::Row(row.len() - 1)
                }
                (_, Some((first, rest))) if first == OLD => {
                    old.push(rest);
                    Place::Old(old.len() - 1)
                }
                _ => {
                    envelope.push(&path.fields[..]);
                    Place::Envelope(envelope.len() - 1)
                }
            });
        }
        let own = ["type", "isDdl", "data", OLD].map(|name| [name.to_owned()]);
        let kind = envelope.len();
        envelope.extend(own.iter().map(|path| &path[..]));
        Decoder {
            envelope: Projection::new("$event", envelope.iter().copied()),
            row: ElementDecoder::new(row),
            old: ElementDecoder::new(old),
            places,
            kind,
            is_ddl: kind + 1,
            data: kind + 2,
            before: kind + 3,
        }
    }

    /// Fills what is in the envelope, and, behind the slots, the lists of rows.
    pub fn value<'a>(
        &mut self,
        bytes: &'a [u8],
        fields: &mut Vec<Field<'a>>,
    ) -> Result<EventKind, DecodeError> {
        let mut found = Vec::with_capacity(self.before + 1);
        self.envelope.read(bytes, &mut found)?;
        if !matches!(self.envelope.root(), RootShape::Object { .. }) {
            return Err(DecodeError::malformed("$event", "is not an object"));
        }
        fields.clear();
        fields.extend(self.places.iter().map(|place| match place {
            Place::Envelope(slot) => found[*slot],
            Place::Row(_) | Place::Old(_) => Field::Absent,
        }));
        fields.push(found[self.data]);
        fields.push(found[self.before]);
        let Field::Json(kind) = found[self.kind] else {
            return Err(DecodeError::malformed("$event.type", "is missing: not a record of Canal's"));
        };
        match kind.trim_matches('"') {
            "INSERT" | "UPDATE" => Ok(EventKind::Row),
            "DELETE" => Ok(EventKind::Delete),
            "TRUNCATE" => Ok(EventKind::Truncate),
            "CREATE" | "ALTER" | "ERASE" | "RENAME" | "QUERY" | "CINDEX" | "DINDEX" | "GTID" | "XACOMMIT"
            | "XAROLLBACK" | "MHEARTBEAT" | "TIDB_WATERMARK" => Ok(EventKind::Ignored),
            _ if found[self.is_ddl] == Field::Json("true") => Ok(EventKind::Ignored),
            _ => Err(DecodeError {
                path: "$event.type".to_owned(),
                reason: Reason::UnknownType,
                message: "is not a kind of record of Canal's (INSERT, UPDATE, DELETE, …)".to_owned(),
            }),
        }
    }

    /// The rows of the record whose value gave these fields.
    pub fn rows<'a>(&self, fields: &[Field<'a>]) -> Result<Vec<RowOf<'a>>, DecodeError> {
        let list = |behind: usize| fields.get(self.places.len() + behind).copied().unwrap_or_default();
        let now = ElementDecoder::split(list(0), "$event.data")?;
        let before = match list(1) {
            Field::Absent | Field::Json("null") => vec![None; now.len()],
            list => ElementDecoder::split(list, "$event.old")?.into_iter().map(Some).collect(),
        };
        if before.len() != now.len() {
            return Err(DecodeError::malformed("$event.old", "has not as many rows as `data`"));
        }
        Ok(now.into_iter().zip(before).map(|(now, before)| RowOf { now, before }).collect())
    }

    /// Fills what is in a row.
    pub fn row<'a>(
        &mut self,
        row: RowOf<'a>,
        scratch: &'a Scratch,
        fields: &mut [Field<'a>],
    ) -> Result<(), DecodeError> {
        let (mut now, mut before) = (Vec::new(), Vec::new());
        self.row.read(row.now, &mut now)?;
        if let Some(text) = row.before {
            self.old.read(text, &mut before)?;
        }
        for (place, field) in self.places.iter().zip(fields) {
            *field = match place {
                Place::Envelope(_) => continue,
                Place::Row(slot) => text(now.get(*slot).copied().unwrap_or_default(), scratch),
                Place::Old(slot) => text(before.get(*slot).copied().unwrap_or_default(), scratch),
            };
        }
        Ok(())
    }
}

/// A string in a row stands for a value of whatever type the column has.
fn text<'a>(field: Field<'a>, scratch: &'a Scratch) -> Field<'a> {
    let Field::Json(json) = field else { return field };
    match json.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
        None => field,
        Some(plain) if !plain.contains('\\') => Field::Text(plain),
        Some(_) => match serde_json::from_str::<String>(json) {
            Ok(owned) => Field::Text(scratch.text(&owned)),
            // Half of a surrogate pair: whoever converts it says so.
            Err(_) => field,
        },
    }
}
