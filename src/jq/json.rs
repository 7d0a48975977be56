//! JSON text to values and back.

use std::rc::Rc;

use super::budget::{DEPTH_MAX, Limit, exhausted, flaw, spend, spend_bytes};
use super::number::{Num, is_number};
use super::value::{Error, Object, Val};

/// Why a text cannot be read as a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unreadable {
    /// Not JSON, or half of a surrogate pair in a string.
    Malformed,
    /// An object has a field twice.
    Twice,
    TooDeep,
    /// The run has met a bound.
    Exhausted,
}

impl Unreadable {
    pub fn message(self) -> &'static str {
        match self {
            Unreadable::Malformed => "is not valid JSON",
            Unreadable::Twice => "has a field twice in one object",
            Unreadable::TooDeep => "nests deeper than 128 levels",
            Unreadable::Exhausted => Limit::Bytes.message(),
        }
    }
}

impl From<Error> for Unreadable {
    /// Only what has to be paid for can fail.
    fn from(_: Error) -> Unreadable {
        Unreadable::Exhausted
    }
}

pub fn read(text: &str) -> Result<Val, Unreadable> {
    let mut reader = Reader { text, at: 0 };
    let value = reader.value(0)?;
    reader.space();
    if reader.at == text.len() { Ok(value) } else { Err(Unreadable::Malformed) }
}

struct Reader<'t> {
    text: &'t str,
    at: usize,
}

impl<'t> Reader<'t> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn take(&mut self, byte: u8) -> bool {
        self.space();
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    fn value(&mut self, depth: u32) -> Result<Val, Unreadable> {
        spend(1)?;
        self.space();
        match self.peek() {
            Some(b'{') => self.object(depth + 1),
            Some(b'[') => self.array(depth + 1),
            Some(b'"') => {
                let text = self.string()?;
                spend_bytes(text.len())?;
                Ok(Val::Str(text))
            }
            Some(b'-' | b'0'..=b'9') => {
                let text = self.word(|byte| matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E'));
                let number = Num::parse(text).ok_or(Unreadable::Malformed)?;
                spend_bytes(number.size())?;
                Ok(Val::Num(number))
            }
            _ => match self.word(|byte| byte.is_ascii_alphabetic()) {
                "null" => Ok(Val::Null),
                "true" => Ok(Val::Bool(true)),
                "false" => Ok(Val::Bool(false)),
                _ => Err(Unreadable::Malformed),
            },
        }
    }

    fn word(&mut self, belongs: impl Fn(u8) -> bool) -> &'t str {
        let start = self.at;
        while self.peek().is_some_and(&belongs) {
            self.at += 1;
        }
        &self.text[start..self.at]
    }

    fn array(&mut self, depth: u32) -> Result<Val, Unreadable> {
        self.open(depth)?;
        let mut items = Vec::new();
        if !self.take(b']') {
            loop {
                items.push(self.value(depth)?);
                if self.take(b']') {
                    break;
                }
                self.comma()?;
            }
        }
        Ok(Val::array(items)?)
    }

    fn object(&mut self, depth: u32) -> Result<Val, Unreadable> {
        self.open(depth)?;
        let mut fields = Object::new();
        if !self.take(b'}') {
            loop {
                self.space();
                let name = self.string()?;
                spend_bytes(name.len())?;
                if !self.take(b':') {
                    return Err(Unreadable::Malformed);
                }
                let value = self.value(depth)?;
                if fields.insert(name, value).is_some() {
                    return Err(Unreadable::Twice);
                }
                if self.take(b'}') {
                    break;
                }
                self.comma()?;
            }
        }
        Ok(Val::object(fields)?)
    }

    fn open(&mut self, depth: u32) -> Result<(), Unreadable> {
        self.at += 1;
        if depth > DEPTH_MAX { Err(Unreadable::TooDeep) } else { Ok(()) }
    }

    fn comma(&mut self) -> Result<(), Unreadable> {
        if self.take(b',') { Ok(()) } else { Err(Unreadable::Malformed) }
    }

    fn string(&mut self) -> Result<Rc<str>, Unreadable> {
        let start = self.at;
        if self.peek() != Some(b'"') {
            return Err(Unreadable::Malformed);
        }
        self.at += 1;
        let mut plain = true;
        loop {
            match self.peek() {
                Some(b'"') => break,
                Some(b'\\') => {
                    plain = false;
                    self.at += 2;
                }
                Some(0x20..) => self.at += 1,
                _ => return Err(Unreadable::Malformed),
            }
        }
        self.at += 1;
        if plain {
            return Ok(self.text[start + 1..self.at - 1].into());
        }
        let quoted = self.text.get(start..self.at).ok_or(Unreadable::Malformed)?;
        serde_json::from_str::<String>(quoted).map(Rc::from).map_err(|_| Unreadable::Malformed)
    }
}

/// Appends the JSON text of a value.
pub fn write(value: &Val, out: &mut String) -> Result<(), Error> {
    spend(1)?;
    match value {
        Val::Null => out.push_str("null"),
        Val::Bool(true) => out.push_str("true"),
        Val::Bool(false) => out.push_str("false"),
        Val::Num(number) => {
            spend_bytes(number.size())?;
            use std::fmt::Write as _;
            // Writing to a string cannot fail.
            let _ = write!(out, "{number}");
        }
        Val::Str(text) => {
            spend_bytes(text.len())?;
            // Quoting a string cannot fail.
            out.push_str(&serde_json::to_string(&**text).unwrap_or_default());
        }
        Val::Arr(array) => {
            out.push('[');
            for (index, item) in array.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                write(item, out)?;
            }
            out.push(']');
        }
        Val::Obj(object) => {
            out.push('{');
            for (index, (name, value)) in object.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                spend_bytes(name.len())?;
                out.push_str(&serde_json::to_string(&**name).unwrap_or_default());
                out.push(':');
                write(value, out)?;
            }
            out.push('}');
        }
    }
    Ok(())
}

/// `fromjson`.
pub fn from_text(text: &str) -> Result<Val, Error> {
    spend_bytes(text.len())?;
    read(text).map_err(|why| match why {
        Unreadable::Exhausted => exhausted(),
        why => flaw(format!("a text that {}", why.message())),
    })
}

/// `tonumber`.
pub fn to_number(text: &str) -> Result<Val, Error> {
    spend_bytes(text.len())?;
    match Num::parse(text) {
        Some(number) if is_number(text) => Ok(Val::Num(number)),
        _ => Err(flaw("a text that is not a number")),
    }
}
