//! The values that programs work on: as JSON has them, with numbers that keep their digits, objects in
//! the order of their names, and a count of all that is made (`budget`).

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;

use super::budget::{exhausted, flaw, make, nest, spend, spend_bytes};
use super::json;
use super::number::Num;

pub type Error = jaq_core::Error<Val>;
pub type ValR = Result<Val, Error>;
pub type Object = BTreeMap<Rc<str>, Val>;

/// Of an array's item and of an object's field, about.
const ITEM_BYTES: usize = 24;
const FIELD_BYTES: usize = 64;

#[derive(Debug, Clone, Default)]
pub enum Val {
    #[default]
    Null,
    Bool(bool),
    Num(Num),
    Str(Rc<str>),
    Arr(Rc<Nested<Vec<Val>>>),
    Obj(Rc<Nested<Object>>),
}

/// What is in an array or an object, and how deep it nests, itself included.
#[derive(Debug, Clone, Default)]
pub struct Nested<T> {
    depth: u32,
    inner: T,
}

impl<T> std::ops::Deref for Nested<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.inner
    }
}

impl Val {
    /// A text that no run has to pay for.
    pub fn plain(text: &str) -> Val {
        Val::Str(text.into())
    }

    pub fn integer(number: i64) -> Val {
        Val::Num(Num::Int(number))
    }

    /// The fields of an object; nothing else has any.
    pub fn fields(&self) -> impl Iterator<Item = (&str, &Val)> {
        let object = match self {
            Val::Obj(object) => Some(object.iter()),
            _ => None,
        };
        object.into_iter().flatten().map(|(name, value)| (&**name, value))
    }

    pub fn field(&self, name: &str) -> Option<&Val> {
        match self {
            Val::Obj(object) => object.get(name),
            _ => None,
        }
    }

    pub fn text(text: &str) -> ValR {
        spend_bytes(text.len())?;
        Ok(Val::Str(text.into()))
    }

    pub fn array(items: Vec<Val>) -> ValR {
        Val::made_array(items).ok_or_else(exhausted)
    }

    pub fn object(object: Object) -> ValR {
        Val::made_object(object).ok_or_else(exhausted)
    }

    fn made_array(items: Vec<Val>) -> Option<Val> {
        let depth = 1 + items.iter().map(Val::depth).max().unwrap_or(0);
        (make(items.len().saturating_mul(ITEM_BYTES)) && nest(depth))
            .then(|| Val::Arr(Rc::new(Nested { depth, inner: items })))
    }

    fn made_object(inner: Object) -> Option<Val> {
        let depth = 1 + inner.values().map(Val::depth).max().unwrap_or(0);
        (make(inner.len().saturating_mul(FIELD_BYTES)) && nest(depth))
            .then(|| Val::Obj(Rc::new(Nested { depth, inner })))
    }

    fn depth(&self) -> u32 {
        match self {
            Val::Arr(array) => array.depth,
            Val::Obj(object) => object.depth,
            _ => 0,
        }
    }

    /// Kind, the most that messages tell of it.
    pub fn kind(&self) -> &'static str {
        match self {
            Val::Null => "null",
            Val::Bool(_) => "boolean",
            Val::Num(_) => "number",
            Val::Str(_) => "string",
            Val::Arr(_) => "array",
            Val::Obj(_) => "object",
        }
    }

    pub fn is_true(&self) -> bool {
        !matches!(self, Val::Null | Val::Bool(false))
    }

    pub fn as_str(&self) -> Result<&Rc<str>, Error> {
        match self {
            Val::Str(text) => Ok(text),
            other => Err(flaw(format!("{} where a string is needed", an(other.kind())))),
        }
    }

    pub fn as_array(&self) -> Result<&Vec<Val>, Error> {
        match self {
            Val::Arr(array) => Ok(array),
            other => Err(flaw(format!("{} where an array is needed", an(other.kind())))),
        }
    }

    pub fn as_number(&self) -> Result<&Num, Error> {
        match self {
            Val::Num(number) => Ok(number),
            other => Err(flaw(format!("{} where a number is needed", an(other.kind())))),
        }
    }

    /// Bytes of a number to calculate with.
    pub fn digits(&self) -> usize {
        if let Val::Num(number) = self { number.size() } else { 0 }
    }

    /// Its JSON text.
    pub fn json(&self) -> Result<String, Error> {
        let mut out = String::new();
        json::write(self, &mut out)?;
        Ok(out)
    }

    fn rank(&self) -> u8 {
        match self {
            Val::Null => 0,
            Val::Bool(false) => 1,
            Val::Bool(true) => 2,
            Val::Num(_) => 3,
            Val::Str(_) => 4,
            Val::Arr(_) => 5,
            Val::Obj(_) => 6,
        }
    }

    /// The owned items of an array, without copying where nobody else has it.
    pub fn into_items(self) -> Result<Vec<Val>, Error> {
        match self {
            Val::Arr(array) => {
                spend(1 + array.len() as u64 / 8)?;
                Ok(Rc::try_unwrap(array).unwrap_or_else(|shared| (*shared).clone()).inner)
            }
            other => Err(flaw(format!("{} where an array is needed", an(other.kind())))),
        }
    }

    fn into_fields(self) -> Result<Object, Error> {
        match self {
            Val::Obj(object) => {
                spend(1)?;
                match Rc::try_unwrap(object) {
                    Ok(own) => Ok(own.inner),
                    Err(shared) => {
                        spend(shared.len() as u64)?;
                        Ok(shared.inner.clone())
                    }
                }
            }
            other => Err(flaw(format!("{} where an object is needed", an(other.kind())))),
        }
    }
}

/// `an object`, `a number`; null has no article.
pub fn an(kind: &str) -> String {
    match kind {
        "null" => kind.to_owned(),
        "array" | "object" => format!("an {kind}"),
        _ => format!("a {kind}"),
    }
}

/// null < false < true < numbers < strings < arrays < objects; objects by their names first.
impl Ord for Val {
    fn cmp(&self, other: &Val) -> Ordering {
        // What cannot be paid for any more is equal: nobody will see it.
        if !make(0) {
            return Ordering::Equal;
        }
        match (self, other) {
            (Val::Num(a), Val::Num(b)) => {
                if !make(a.size() + b.size()) {
                    return Ordering::Equal;
                }
                a.cmp(b)
            }
            (Val::Str(a), Val::Str(b)) => {
                make(a.len().min(b.len()));
                a.cmp(b)
            }
            (Val::Arr(a), Val::Arr(b)) => a.iter().cmp(b.iter()),
            (Val::Obj(a), Val::Obj(b)) => {
                make(8 * a.len().min(b.len()));
                a.keys().cmp(b.keys()).then_with(|| a.values().cmp(b.values()))
            }
            _ => self.rank().cmp(&other.rank()),
        }
    }
}

impl PartialOrd for Val {
    fn partial_cmp(&self, other: &Val) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Val {
    fn eq(&self, other: &Val) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Val {}

impl fmt::Display for Val {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Val::Str(text) => f.write_str(text),
            // Only what the interpreter says of a value by itself comes here, and nobody prints it.
            other => f.write_str(other.kind()),
        }
    }
}

impl From<bool> for Val {
    fn from(value: bool) -> Val {
        Val::Bool(value)
    }
}

impl From<isize> for Val {
    fn from(number: isize) -> Val {
        Val::Num(Num::Int(number as i64))
    }
}

impl From<String> for Val {
    fn from(text: String) -> Val {
        if make(text.len()) { Val::Str(text.into()) } else { Val::Null }
    }
}

/// Bounds of a slice in a path.
impl From<std::ops::Range<Option<Val>>> for Val {
    fn from(range: std::ops::Range<Option<Val>>) -> Val {
        let bounds = [("start", range.start), ("end", range.end)];
        let bounds = bounds.into_iter().filter_map(|(name, bound)| Some((name.into(), bound?)));
        Val::made_object(bounds.collect()).unwrap_or_default()
    }
}

impl FromIterator<Val> for Val {
    fn from_iter<I: IntoIterator<Item = Val>>(items: I) -> Val {
        let mut list = Vec::new();
        for item in items {
            // Stops also what could go on for ever.
            if !make(ITEM_BYTES) {
                return Val::Null;
            }
            list.push(item);
        }
        Val::made_array(list).unwrap_or_default()
    }
}

fn pay_for_digits(a: &Val, b: &Val) -> Result<(), Error> {
    spend_bytes(a.digits() + b.digits())
}

fn number(result: Result<Num, super::number::Flaw>) -> ValR {
    result.map(Val::Num).map_err(flaw)
}

#[cold]
fn no_result(verb: &str, a: &Val, b: &Val) -> Error {
    flaw(format!("cannot {verb} {} and {}", an(a.kind()), an(b.kind())))
}

impl std::ops::Add for Val {
    type Output = ValR;

    fn add(self, other: Val) -> ValR {
        pay_for_digits(&self, &other)?;
        match (self, other) {
            (Val::Null, value) | (value, Val::Null) => Ok(value),
            (Val::Num(a), Val::Num(b)) => number(a.add(&b)),
            (Val::Str(a), Val::Str(b)) => {
                spend_bytes(a.len() + b.len())?;
                Ok(Val::Str([&*a, &*b].concat().into()))
            }
            (a @ Val::Arr(_), b @ Val::Arr(_)) => {
                let (mut list, more) = (a.into_items()?, b.into_items()?);
                list.extend(more);
                Val::array(list)
            }
            (a @ Val::Obj(_), b @ Val::Obj(_)) => {
                let (mut fields, more) = (a.into_fields()?, b.into_fields()?);
                spend(more.len() as u64)?;
                fields.extend(more);
                // What was there was paid for when it was made.
                let depth = 1 + fields.values().map(Val::depth).max().unwrap_or(0);
                if !nest(depth) {
                    return Err(exhausted());
                }
                spend(1 + fields.len() as u64 / 8)?;
                Ok(Val::Obj(Rc::new(Nested { depth, inner: fields })))
            }
            (a, b) => Err(no_result("add", &a, &b)),
        }
    }
}

impl std::ops::Sub for Val {
    type Output = ValR;

    fn sub(self, other: Val) -> ValR {
        pay_for_digits(&self, &other)?;
        match (self, other) {
            (Val::Num(a), Val::Num(b)) => number(a.sub(&b)),
            (a @ Val::Arr(_), Val::Arr(b)) => {
                let mut left = Vec::new();
                for item in a.into_items()? {
                    spend(b.len() as u64)?;
                    if !b.contains(&item) {
                        left.push(item);
                    }
                }
                Val::array(left)
            }
            (a, b) => Err(no_result("subtract", &a, &b)),
        }
    }
}

impl std::ops::Mul for Val {
    type Output = ValR;

    fn mul(self, other: Val) -> ValR {
        pay_for_digits(&self, &other)?;
        match (self, other) {
            (Val::Num(a), Val::Num(b)) => number(a.mul(&b)),
            (Val::Str(text), Val::Num(times)) | (Val::Num(times), Val::Str(text)) => {
                let times = times.truncated().unwrap_or(i64::MAX);
                if times <= 0 {
                    return Ok(Val::Null);
                }
                let times = usize::try_from(times).unwrap_or(usize::MAX);
                spend_bytes(text.len().saturating_mul(times))?;
                Ok(Val::Str(text.repeat(times).into()))
            }
            (a @ Val::Obj(_), b @ Val::Obj(_)) => merged(a, b),
            (a, b) => Err(no_result("multiply", &a, &b)),
        }
    }
}

fn merged(a: Val, b: Val) -> ValR {
    let (mut fields, more) = (a.into_fields()?, b.into_fields()?);
    for (name, value) in more {
        spend(1)?;
        let value = match (fields.remove(&name), value) {
            (Some(old @ Val::Obj(_)), new @ Val::Obj(_)) => merged(old, new)?,
            (_, new) => new,
        };
        fields.insert(name, value);
    }
    Val::object(fields)
}

impl std::ops::Div for Val {
    type Output = ValR;

    fn div(self, other: Val) -> ValR {
        pay_for_digits(&self, &other)?;
        match (self, other) {
            (Val::Num(a), Val::Num(b)) => number(a.div(&b)),
            (Val::Str(text), Val::Str(separator)) => split(&text, &separator),
            (a, b) => Err(no_result("divide", &a, &b)),
        }
    }
}

/// The parts of a text; its characters, if there is nothing between them.
pub fn split(text: &str, separator: &str) -> ValR {
    spend_bytes(text.len())?;
    let part = |part: &str| Val::text(part);
    let parts: Result<Vec<Val>, Error> = match separator {
        _ if text.is_empty() => Ok(Vec::new()),
        "" => text.char_indices().map(|(at, char)| part(&text[at..at + char.len_utf8()])).collect(),
        separator => text.split(separator).map(part).collect(),
    };
    Val::array(parts?)
}

impl std::ops::Rem for Val {
    type Output = ValR;

    fn rem(self, other: Val) -> ValR {
        pay_for_digits(&self, &other)?;
        match (self, other) {
            (Val::Num(a), Val::Num(b)) => number(a.rem(&b)),
            (a, b) => Err(no_result("take the remainder of", &a, &b)),
        }
    }
}

impl std::ops::Neg for Val {
    type Output = ValR;

    fn neg(self) -> ValR {
        spend_bytes(self.digits())?;
        Ok(Val::Num(self.as_number()?.negated()))
    }
}
