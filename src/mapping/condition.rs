//! `when`: whether an event is one that a table wants.

use super::convert::{Refusal, opaque_text};
use super::program::Calculated;
use super::row::{Inputs, Source};
use crate::decode::native::{write_json, write_string};
use crate::decode::{DecodeError, Decoder, Field, Native};
use crate::domain::dead_letter::Reason;
use crate::jq::condition::{Comparison, Constant, is_true};

#[derive(Debug)]
pub struct Condition {
    pub test: Test,
    /// For messages.
    pub text: String,
}

#[derive(Debug)]
pub enum Test {
    Is(Source),
    Compare(Source, Comparison, Constant),
    Not(Box<Test>),
    All(Vec<Test>),
    Any(Vec<Test>),
    Program(Box<Calculated>),
}

impl Condition {
    pub fn holds<'a>(&self, inputs: &mut Inputs<'a>, decoder: &mut Decoder) -> Result<bool, DecodeError> {
        if self.test.reads_key() {
            inputs.read_key(decoder)?;
        }
        let refused = |Refusal { reason, message }| DecodeError { path: self.text.clone(), reason, message };
        self.test.holds(inputs)?.map_err(refused)
    }
}

impl Test {
    fn reads_key(&self) -> bool {
        match self {
            Test::Is(source) | Test::Compare(source, ..) => source.reads_key(),
            Test::Not(inner) => inner.reads_key(),
            Test::All(list) | Test::Any(list) => list.iter().any(Test::reads_key),
            Test::Program(program) => program.reads_key(),
        }
    }

    fn holds(&self, inputs: &Inputs<'_>) -> Result<Result<bool, Refusal>, DecodeError> {
        Ok(match self {
            Test::Is(source) => with_json(field(source, inputs)?, |json| Some(is_true(json))),
            Test::Compare(source, comparison, constant) => with_json(field(source, inputs)?, |json| {
                constant.compare(json).map(|order| comparison.holds(order))
            }),
            Test::Not(inner) => inner.holds(inputs)?.map(|holds| !holds),
            // As jq, the rest is not looked at once it is decided.
            Test::All(list) => return some(list, inputs, false),
            Test::Any(list) => return some(list, inputs, true),
            Test::Program(program) => match program.field(inputs)? {
                Field::Absent => Ok(false),
                Field::Json(json) => Ok(is_true(json)),
                _ => Err(left_out()),
            },
        })
    }
}

/// To jq, the record's timestamp is a number.
fn field<'a>(source: &Source, inputs: &Inputs<'a>) -> Result<Field<'a>, DecodeError> {
    Ok(match (source, inputs.field(source)?) {
        (Source::Timestamp, Field::Native(Native::Since(_, ms))) => Field::Native(Native::Integer(ms)),
        (_, field) => field,
    })
}

/// Whether one of the tests decides, which it does with `decided`.
fn some(list: &[Test], inputs: &Inputs<'_>, decided: bool) -> Result<Result<bool, Refusal>, DecodeError> {
    for test in list {
        match test.holds(inputs)? {
            Ok(holds) if holds != decided => {}
            other => return Ok(other),
        }
    }
    Ok(Ok(!decided))
}

/// Applies a test to a field as the JSON that it is.
fn with_json(field: Field<'_>, test: impl Fn(&str) -> Option<bool>) -> Result<bool, Refusal> {
    let mut made = String::new();
    let json = match field {
        Field::Absent => "null",
        Field::Json(json) | Field::Typed(_, json) => json,
        Field::Text(plain) => {
            write_string(plain, &mut made);
            &made
        }
        Field::Native(Native::Opaque(bytes)) => {
            write_string(opaque_text(bytes)?, &mut made);
            &made
        }
        Field::Native(native) => {
            write_json(native, &mut made).map_err(|why| Refusal::new(Reason::OutOfRange, why.message()))?;
            &made
        }
        Field::Unavailable => return Err(left_out()),
        Field::NotAnObject => {
            let message = "cannot be reached: a part of the path is not an object";
            return Err(Refusal::new(Reason::WrongType, message));
        }
    };
    test(json).ok_or_else(|| Refusal::new(Reason::Malformed, "cannot be compared: it is no valid JSON"))
}

fn left_out() -> Refusal {
    Refusal::new(
        Reason::MissingValue,
        "reads a field that the source left out as unchanged, so that it cannot be told whether the row is wanted",
    )
}
