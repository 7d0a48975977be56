//! One row of one table, put together from the fields of an event.

use super::convert::{Refusal, Target, convert};
use super::program::{Calculated, Documents};
use super::protection::Protection;
use crate::config::Encoding;
use crate::decode::{
    DecodeError, Decoder, Field, Logical, Native, Surroundings, header, headers_json, text_key,
};
use crate::domain::dead_letter::Rejection;
use crate::domain::record::Record;
use crate::domain::value::Value;

/// What a column is set to.
#[derive(Debug)]
pub struct Assignment {
    pub source: Source,
    /// For messages.
    pub path: String,
    pub target: Target,
    pub protection: Option<Protection>,
}

#[derive(Debug)]
pub enum Source {
    /// Slot of the value.
    Value(usize),
    /// Slot of the record key.
    Key(usize),
    /// The record key is an object with this field, or the value itself.
    KeyFieldOrWhole {
        field: usize,
        whole: usize,
    },
    /// The record key as plain text.
    TextKey,
    Topic(String),
    Partition,
    Offset,
    Timestamp,
    /// The last header of this name.
    Header(String),
    /// All headers, as an object.
    Headers,
    Jq(Box<Calculated>),
    /// The first that is neither absent nor null.
    Or(Box<Source>, Box<Source>),
    /// A constant, as JSON.
    Constant(String),
    /// Slot of the element of a list.
    Element(usize),
    /// Always absent.
    Nothing,
    Literal(Result<Value, Refusal>),
}

/// How the values of a change of one table come about.
#[derive(Debug)]
pub struct Row {
    pub table: usize,
    /// One per column; `None` leaves the column as it is.
    assignments: Vec<Option<Assignment>>,
    reads_key: bool,
}

/// The fields of one record. The key is only looked at when a row asks for it.
pub struct Inputs<'a> {
    pub key_bytes: Option<&'a [u8]>,
    pub around: Surroundings<'a>,
    pub log: LogEntry,
    pub value: Vec<Field<'a>>,
    pub key: Vec<Field<'a>>,
    pub key_is_read: bool,
    /// Of the element whose row is made, where an event has several.
    pub element: Vec<Field<'a>>,
    /// The same as JSON.
    pub element_text: &'a str,
    /// For programs.
    pub documents: Documents,
}

/// What the log knows of a record.
#[derive(Debug, Clone, Copy)]
pub struct LogEntry {
    pub partition: i32,
    pub offset: i64,
    pub timestamp_ms: Option<i64>,
}

impl LogEntry {
    pub fn of(record: &Record<'_>) -> LogEntry {
        let Record { at, offset, timestamp_ms, .. } = record;
        LogEntry { partition: at.partition, offset: *offset, timestamp_ms: *timestamp_ms }
    }
}

impl<'a> Inputs<'a> {
    pub fn read_key(&mut self, decoder: &mut Decoder) -> Result<(), DecodeError> {
        if !self.key_is_read {
            self.key_is_read = true;
            if let Some(bytes) = self.key_bytes {
                decoder.key(bytes, self.around.scratch, &mut self.key)?;
            }
        }
        Ok(())
    }

    /// The field a source names, after reading the key if that takes it.
    pub fn read(&mut self, source: &Source, decoder: &mut Decoder) -> Result<Field<'a>, DecodeError> {
        if source.reads_key() {
            self.read_key(decoder)?;
        }
        self.field(source)
    }

    /// The field a source names; `Absent` where the record has no such part.
    pub fn field(&self, source: &Source) -> Result<Field<'a>, DecodeError> {
        let value = |fields: &[Field<'a>], slot: usize| fields.get(slot).copied().unwrap_or_default();
        Ok(match source {
            Source::Value(slot) => value(&self.value, *slot),
            Source::Key(slot) => value(&self.key, *slot),
            Source::KeyFieldOrWhole { field, whole } => match value(&self.key, *field) {
                Field::NotAnObject => value(&self.key, *whole),
                field => field,
            },
            Source::TextKey => match self.key_bytes {
                Some(bytes) => text_key(bytes)?,
                None => Field::Absent,
            },
            Source::Topic(name) => Field::Text(self.around.scratch.text(name)),
            Source::Partition => Field::Native(Native::Integer(self.log.partition.into())),
            Source::Offset => Field::Native(Native::Integer(self.log.offset)),
            Source::Timestamp => match self.log.timestamp_ms {
                Some(number) => Field::Native(Native::Since(Logical::Timestamp(Encoding::Millis), number)),
                None => Field::Absent,
            },
            Source::Header(name) => header(self.around, name),
            Source::Headers => headers_json(self.around),
            Source::Jq(program) => program.field(self)?,
            Source::Or(first, second) => match self.field(first)? {
                Field::Absent | Field::Json("null") => self.field(second)?,
                field => field,
            },
            Source::Constant(json) => Field::Json(self.around.scratch.text(json)),
            Source::Element(slot) => value(&self.element, *slot),
            Source::Literal(_) | Source::Nothing => Field::Absent,
        })
    }
}

impl Row {
    pub fn new(table: usize, assignments: Vec<Option<Assignment>>) -> Row {
        let reads_key = assignments.iter().flatten().any(|assignment| assignment.source.reads_key());
        Row { table, assignments, reads_key }
    }

    /// Whether the record key has to be read first.
    pub fn reads_key(&self) -> bool {
        self.reads_key
    }

    /// One value per column.
    pub fn values(&self, inputs: &Inputs<'_>) -> Result<Vec<Value>, Rejection> {
        let mut values = Vec::with_capacity(self.assignments.len());
        for assignment in &self.assignments {
            values.push(match assignment {
                None => Value::Absent,
                // The usual one, straight through.
                Some(Assignment { source: Source::Value(slot), path, target, protection: None }) => {
                    let field = inputs.value.get(*slot).copied().unwrap_or_default();
                    convert(field, target).map_err(|refusal| self.rejection(refusal, path))?
                }
                Some(Assignment { source: Source::Literal(value), path, .. }) => {
                    value.clone().map_err(|refusal| self.rejection(refusal, path))?
                }
                Some(Assignment { source, path, target, protection }) => {
                    let field = inputs.field(source).map_err(|error| rejection(error, Some(self.table)))?;
                    let value = match protection {
                        Some(protection) => protection.convert(field, target),
                        None => convert(field, target),
                    };
                    value.map_err(|refusal| self.rejection(refusal, path))?
                }
            });
        }
        Ok(values)
    }

    #[cold]
    fn rejection(&self, refusal: Refusal, path: &str) -> Rejection {
        let Refusal { reason, message } = refusal;
        Rejection { table: Some(self.table), path: path.to_owned(), reason, message }
    }
}

impl Source {
    pub fn reads_key(&self) -> bool {
        match self {
            Source::Key(_) | Source::KeyFieldOrWhole { .. } => true,
            Source::Jq(program) => program.reads_key(),
            Source::Or(first, second) => first.reads_key() || second.reads_key(),
            _ => false,
        }
    }

    /// Whether a record without a value has nothing there.
    pub fn reads_value(&self) -> bool {
        match self {
            Source::Value(_) => true,
            Source::Jq(program) => program.reads_value(),
            Source::Or(first, second) => first.reads_value() || second.reads_value(),
            _ => false,
        }
    }
}

pub fn rejection(error: DecodeError, table: Option<usize>) -> Rejection {
    let DecodeError { path, reason, message } = error;
    Rejection { table, path, reason, message }
}
