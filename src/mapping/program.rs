//! jq where a path is not enough: a program run on the event as a document.
//!
//! The document is the same JSON that a `json` column would have of it. It is made once a record, for all
//! programs that look at it.

use std::cell::RefCell;

use super::row::Inputs;
use crate::config::Jq;
use crate::decode::native::{Unwritable, write_json, write_string};
use crate::decode::{DecodeError, Field, Placeholder, headers_json, text_key};
use crate::domain::dead_letter::Reason;
use crate::jq::{Failure, Input, Program, Reads, Unreadable, VARIABLES, Val, read, write};

/// Longer programs are cut in messages.
const TEXT_MAX: usize = 80;

#[derive(Debug)]
pub struct Calculated {
    program: Result<Program, String>,
    reads: Reads,
    /// For messages.
    text: String,
    around: Around,
}

/// Where a program finds what it reads.
#[derive(Debug)]
pub struct Around {
    pub topic: String,
    pub row: RowAs,
    /// Slot of the whole event.
    pub event: Option<usize>,
    /// Records have no envelope: `.` and `$event` are the same.
    pub row_is_event: bool,
    pub key: KeyAs,
    /// Of formats that leave out what did not change.
    pub placeholder: Option<Placeholder>,
}

/// What `.` is to a program.
#[derive(Debug, Clone, Copy)]
pub enum RowAs {
    /// It is not read.
    Nothing,
    /// The slot of the whole row.
    Slot(usize),
    /// The slot of the row as it was.
    Before(usize),
    /// The element of a list.
    Element,
}

/// How a program has the record key.
#[derive(Debug, Clone, Copy)]
pub enum KeyAs {
    /// It does not name it.
    Nothing,
    Text,
    /// The slot of the whole key.
    Slot(usize),
}

/// The documents of one record, each made when a program first asks for it.
#[derive(Debug, Default)]
pub struct Documents {
    row: RefCell<Option<Document>>,
    before: RefCell<Option<Document>>,
    event: RefCell<Option<Document>>,
    element: RefCell<Option<Document>>,
    key: RefCell<Option<Document>>,
    headers: RefCell<Option<Document>>,
}

#[derive(Debug, Clone, Default)]
struct Document {
    value: Val,
    /// Of the text that it was made of.
    bytes: usize,
}

impl Documents {
    /// Another key takes the place of the record's.
    pub fn forget_key(&mut self) {
        *self.key.get_mut() = None;
    }

    /// Another row of the same record comes.
    pub fn forget_row(&mut self) {
        *self.row.get_mut() = None;
    }

    /// Another element of the same record comes.
    pub fn forget_element(&mut self) {
        *self.element.get_mut() = None;
    }
}

impl Calculated {
    pub fn new(program: &Jq, around: Around) -> Calculated {
        // Checked when the configuration was; should it not compile, every event that uses it says so.
        let compiled = Program::compile(&program.text).map_err(|wrong| wrong.message);
        Calculated { program: compiled, reads: program.reads.clone(), text: short(&program.text), around }
    }

    pub fn reads_value(&self) -> bool {
        self.reads.value()
    }

    pub fn reads_key(&self) -> bool {
        matches!(self.around.key, KeyAs::Slot(_))
    }

    /// What the program gives of a record, as JSON.
    pub fn field<'a>(&self, inputs: &Inputs<'a>) -> Result<Field<'a>, DecodeError> {
        let program = match &self.program {
            Ok(program) => program,
            Err(message) => return Err(self.error(Reason::Expression, message.clone())),
        };
        let input = self.input(inputs)?;
        if let Some(placeholder) = &self.around.placeholder
            && self.is_unavailable(&input, placeholder)?
        {
            return Ok(Field::Unavailable);
        }
        let failed = |failure: Failure| {
            let reason = if failure.is_limit { Reason::ExpressionLimit } else { Reason::Expression };
            self.error(reason, failure.message)
        };
        match program.run(&input).map_err(failed)? {
            None => Ok(Field::Absent),
            Some(value) => {
                let text = write(&value, input.bytes).map_err(failed)?;
                Ok(Field::Json(inputs.around.scratch.text(&text)))
            }
        }
    }

    fn input(&self, inputs: &Inputs<'_>) -> Result<Input, DecodeError> {
        let mut input = Input::default();
        let documents = &inputs.documents;
        let slot = |slot: usize| inputs.value.get(slot).copied().unwrap_or_default();
        let row = match self.around.row {
            RowAs::Nothing => None,
            RowAs::Slot(row) => Some((&documents.row, slot(row))),
            RowAs::Before(row) => Some((&documents.before, slot(row))),
            RowAs::Element => Some((&documents.element, Field::Json(inputs.element_text))),
        };
        if let Some((kept, field)) = row {
            let Document { value, bytes } = document(kept, ".", || Ok(field))?;
            input.bytes += bytes;
            input.row = value;
        }
        if let Some(event) = self.around.event {
            let document = document(&documents.event, "$event", || Ok(slot(event)))?;
            set(&mut input, "$event", document);
        }
        let key = || match self.around.key {
            KeyAs::Nothing => Ok(Field::Absent),
            KeyAs::Text => inputs.key_bytes.map_or(Ok(Field::Absent), text_key),
            KeyAs::Slot(slot) => Ok(inputs.key.get(slot).copied().unwrap_or_default()),
        };
        if !matches!(self.around.key, KeyAs::Nothing) {
            set(&mut input, "$key", document(&documents.key, "$key", key)?);
        }
        if self.reads.names("$headers") {
            let all = || Ok(headers_json(inputs.around));
            set(&mut input, "$headers", document(&documents.headers, "$headers", all)?);
        }
        let log = &inputs.log;
        for (name, value) in [
            ("$topic", Val::plain(&self.around.topic)),
            ("$partition", Val::integer(log.partition.into())),
            ("$offset", Val::integer(log.offset)),
            ("$timestamp", log.timestamp_ms.map_or(Val::Null, Val::integer)),
        ] {
            set(&mut input, name, Document { value, bytes: 0 });
        }
        Ok(input)
    }

    /// Whether the source has left out all that the program reads. Where it has left out some of it, what
    /// the program would give cannot be known.
    fn is_unavailable(&self, input: &Input, placeholder: &Placeholder) -> Result<bool, DecodeError> {
        let left_out = |row: &Val, name: &str| row.field(name).is_some_and(|value| is_in(value, placeholder));
        let any_left_out = |row: &Val| row.fields().any(|(_, value)| is_in(value, placeholder));
        let event = &input.variables[0];
        let within = if self.around.row_is_event { Some(event) } else { event.field("after") };
        let within = within.unwrap_or(&Val::Null);
        let of_row = self.reads.row.iter().map(|place| (&input.row, &place[..]));
        let of_event = self.reads.event.iter().filter_map(|place| Some((within, self.in_row(place)?)));
        let (mut lacking, mut wholes) = (0, false);
        for (row, place) in of_row.chain(of_event) {
            wholes |= place.is_empty();
            lacking += usize::from(match place.first() {
                Some(name) => left_out(row, name),
                None => any_left_out(row),
            });
        }
        if lacking == 0 {
            Ok(false)
        } else if lacking == self.reads.row.len() + self.reads.event.len()
            && !wholes
            && self.reads.variables.is_empty()
        {
            Ok(true)
        } else {
            let message = "reads a field that the source left out as unchanged, and others: what it gives cannot be known";
            Err(self.error(Reason::MissingValue, message.to_owned()))
        }
    }

    /// A place from `$event` down as one in the row, which is a part of an envelope.
    fn in_row<'p>(&self, place: &'p [String]) -> Option<&'p [String]> {
        match place {
            [] => Some(place),
            _ if self.around.row_is_event => Some(place),
            [first, rest @ ..] => (first == "after").then_some(rest),
        }
    }

    fn error(&self, reason: Reason, message: String) -> DecodeError {
        DecodeError { path: self.text.clone(), reason, message }
    }
}

fn is_in(value: &Val, placeholder: &Placeholder) -> bool {
    matches!(value, Val::Str(_) | Val::Arr(_) | Val::Obj(_))
        && write(value, 0).is_ok_and(|json| placeholder.is(&json))
}

fn set(input: &mut Input, name: &str, document: Document) {
    if let Some(index) = VARIABLES.iter().position(|known| *known == name) {
        input.variables[index] = document.value;
        input.bytes += document.bytes;
    }
}

fn document<'a>(
    kept: &RefCell<Option<Document>>,
    path: &str,
    field: impl FnOnce() -> Result<Field<'a>, DecodeError>,
) -> Result<Document, DecodeError> {
    if let Some(document) = &*kept.borrow() {
        return Ok(document.clone());
    }
    let error =
        |reason, message: &str| DecodeError { path: path.to_owned(), reason, message: message.to_owned() };
    let mut made = String::new();
    let text = match field()? {
        Field::Absent | Field::Unavailable => "null",
        Field::Json(json) | Field::Typed(_, json) => json,
        Field::Text(plain) => {
            write_string(plain, &mut made);
            &made
        }
        Field::Native(native) => {
            write_json(native, &mut made).map_err(|why| match why {
                Unwritable::NotText => error(Reason::Malformed, why.message()),
                why => error(Reason::OutOfRange, why.message()),
            })?;
            &made
        }
        Field::NotAnObject => {
            return Err(error(Reason::WrongType, "cannot be reached: a part of the path is not an object"));
        }
    };
    let value = read(text).map_err(|why| match why {
        Unreadable::Malformed | Unreadable::Twice => error(Reason::Malformed, why.message()),
        Unreadable::TooDeep => error(Reason::OutOfRange, why.message()),
        Unreadable::Exhausted => error(Reason::ExpressionLimit, why.message()),
    })?;
    let document = Document { value, bytes: text.len() };
    *kept.borrow_mut() = Some(document.clone());
    Ok(document)
}

/// A program as messages name it.
pub fn short(text: &str) -> String {
    match text.char_indices().nth(TEXT_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
