//! `debezium-flat` and `debezium-flat-avro`: Debezium's events behind `ExtractNewRecordState`, in JSON
//! with or without embedded schemas, or in Avro: the row itself, with what `add.fields` puts beside its
//! columns.

use super::body::Body;
use super::debezium::{Placeholder, integer, phase, read_ms, sequence, word};
use super::native::Native;
use super::scratch::Scratch;
use super::{DecodeError, EventKind, Field, OwnVersion, Wanted};
use crate::domain::dead_letter::Reason;
use crate::domain::snapshot::Phase;

#[derive(Debug)]
pub struct Decoder {
    value: Body,
    placeholder: Placeholder,
    /// Slots of the row: where a placeholder can stand.
    columns: usize,
    /// As in the envelope: slots of what is in a column, and of what the placeholder is there.
    inside: Vec<(usize, usize)>,
}

/// Behind the slots of the row.
pub const FIELDS: [&str; 10] = [
    "__deleted",
    "__op",
    "__source_sequence",
    "__sequence",
    "__lsn",
    "__source_lsn",
    "__source_snapshot",
    "__snapshot",
    "__ts_ms",
    "__source_ts_ms",
];
/// The fields of which one has to be there, or no event has a version.
pub const FLATTENED_VERSIONS: [&str; 4] =
    [FIELDS[SEQUENCES[0]], FIELDS[SEQUENCES[1]], FIELDS[LSNS[0]], FIELDS[LSNS[1]]];
const DELETED: usize = 0;
const OP: usize = 1;
const SEQUENCES: [usize; 2] = [2, 3];
const LSNS: [usize; 2] = [4, 5];
const SNAPSHOTS: [usize; 2] = [6, 7];
const MADE: usize = 8;
const COMMITTED: usize = 9;

impl Decoder {
    /// `body` makes the decoder of the row from the paths that are read of it.
    pub fn new(wanted: &Wanted, placeholder: &str, body: impl FnOnce(Vec<Vec<String>>) -> Body) -> Decoder {
        // The row is the event: both roots are the document.
        let mut paths: Vec<Vec<String>> = wanted.value.iter().map(|path| path.fields.clone()).collect();
        let columns = paths.len();
        paths.extend(FIELDS.map(|name| vec![name.to_owned()]));
        let slots: Vec<usize> = (0..columns).collect();
        let inside = Placeholder::inside(placeholder, &mut paths, &slots, 1);
        Decoder { value: body(paths), placeholder: Placeholder::new(placeholder), columns, inside }
    }

    pub fn value<'a>(
        &mut self,
        bytes: &'a [u8],
        scratch: &'a Scratch,
        fields: &mut Vec<Field<'a>>,
    ) -> Result<EventKind, DecodeError> {
        self.value.read(bytes, scratch, fields)?;
        self.value.require_object()?;
        match (is_true(fields[self.columns + DELETED]), word(fields[self.columns + OP])) {
            (true, _) | (_, Some("d")) => Ok(EventKind::Delete),
            (_, Some("t")) => Ok(EventKind::Truncate),
            _ => {
                self.placeholder.mark(fields, 0..self.columns, &self.inside);
                Ok(EventKind::Row)
            }
        }
    }

    pub fn body(&mut self) -> &mut Body {
        &mut self.value
    }

    /// Whether there was no row with this key before, where the row says so.
    pub fn is_insert(&self, fields: &[Field<'_>]) -> bool {
        fields.get(self.columns + OP).is_some_and(|op| word(*op) == Some("c"))
    }

    /// How far a snapshot of the whole table has come, where the row says so.
    pub fn snapshot(&self, fields: &[Field<'_>]) -> Option<Phase> {
        SNAPSHOTS.into_iter().find_map(|at| phase(*fields.get(self.columns + at)?))
    }

    pub fn committed_ms(&self, fields: &[Field<'_>]) -> Option<i64> {
        fields.get(self.columns + COMMITTED).and_then(integer)
    }

    /// The sequence, where it was asked for; else the LSN, which is an order for each row alone.
    pub fn own_version(&self, fields: &[Field<'_>]) -> OwnVersion {
        let field = |at: usize| fields.get(self.columns + at).copied().unwrap_or_default();
        let unusable = |at: usize, message: &str| {
            OwnVersion::Unusable(DecodeError {
                path: format!(".{}", FIELDS[at]),
                reason: Reason::Version,
                message: message.to_owned(),
            })
        };
        let slot = |at: usize| fields.get(self.columns + at);
        let read_ms = SNAPSHOTS.into_iter().find_map(|at| read_ms(slot(at), slot(MADE)));
        for at in SEQUENCES {
            match sequence(field(at)) {
                Some(Ok(pair)) => return OwnVersion::Integers { pair, read_ms },
                Some(Err(why)) => return unusable(at, why),
                None => {}
            }
        }
        for at in LSNS {
            match field(at) {
                Field::Absent => {}
                Field::Json("null") => {
                    return unusable(
                        at,
                        "is null, as in incremental snapshots; have the connector add `source.sequence`, too",
                    );
                }
                found => {
                    return match integer(&found) {
                        Some(lsn) => OwnVersion::Integers { pair: [lsn, lsn], read_ms },
                        None => unusable(at, "is not a log position"),
                    };
                }
            }
        }
        unusable(
            LSNS[0],
            "is missing; have the connector add it and `source.sequence` (`add.fields=lsn,source.sequence`), name another field in the topic's `version`, or say `version: position`",
        )
    }
}

/// `ExtractNewRecordState` writes a text; a flag of another transform's may be a boolean.
fn is_true(field: Field<'_>) -> bool {
    field == Field::Native(Native::Boolean(true)) || word(field) == Some("true")
}
