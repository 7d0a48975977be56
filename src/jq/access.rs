//! How programs reach into values and change them: `.a`, `.[0]`, `.[2:]`, `.[]`, `|=`.

use jaq_core::box_iter::{BoxIter, box_once};
use jaq_core::path::Opt;
use jaq_core::val::Range;
use jaq_core::{ValT, ValX};

use super::budget::{flaw, spend, spend_bytes};
use super::number::Num;
use super::value::{Error, Object, Val, ValR, an};

impl ValT for Val {
    fn from_num(text: &str) -> ValR {
        spend(1)?;
        let number = Num::parse(text).or_else(|| {
            // `1.` and `007` are numbers in a program.
            let text = text.trim_start_matches('0');
            Num::parse(text).or_else(|| Num::parse(&format!("0{text}")))
        });
        number.map(Val::Num).ok_or_else(|| flaw("is not a number"))
    }

    fn from_map<I: IntoIterator<Item = (Val, Val)>>(fields: I) -> ValR {
        let mut object = Object::new();
        for (name, value) in fields {
            spend(1)?;
            object.insert(name.as_str()?.clone(), value);
        }
        Val::object(object)
    }

    fn key_values(self) -> BoxIter<'static, Result<(Val, Val), Error>> {
        match self {
            Val::Arr(array) => {
                let mut next = 0;
                Box::new(std::iter::from_fn(move || {
                    let item = array.get(next)?.clone();
                    next += 1;
                    let index = Val::Num(Num::Int(next as i64 - 1));
                    Some(paid((index, item), &mut next))
                }))
            }
            Val::Obj(object) => {
                let names: Vec<_> = object.keys().cloned().collect();
                let mut next = 0;
                Box::new(std::iter::from_fn(move || {
                    let name = names.get(next)?.clone();
                    next += 1;
                    let value = object.get(&name).cloned().unwrap_or_default();
                    Some(paid((Val::Str(name), value), &mut next))
                }))
            }
            other => box_once(Err(cannot_iterate(&other))),
        }
    }

    fn values(self) -> Box<dyn Iterator<Item = ValR>> {
        match self {
            Val::Arr(array) => {
                let mut next = 0;
                Box::new(std::iter::from_fn(move || {
                    let item = array.get(next)?.clone();
                    next += 1;
                    Some(paid(item, &mut next))
                }))
            }
            object @ Val::Obj(_) => Box::new(object.key_values().map(|field| field.map(|(_, value)| value))),
            other => Box::new(std::iter::once(Err(cannot_iterate(&other)))),
        }
    }

    fn index(self, index: &Val) -> ValR {
        spend(1)?;
        match (&self, index) {
            (Val::Null, Val::Null | Val::Str(_) | Val::Num(_)) => Ok(Val::Null),
            (Val::Obj(object), Val::Str(name)) => Ok(object.get(name).cloned().unwrap_or_default()),
            (Val::Arr(array), Val::Num(number)) => {
                let at = position(number, array.len())?;
                Ok(at.and_then(|at| array.get(at)).cloned().unwrap_or_default())
            }
            (Val::Null | Val::Arr(_) | Val::Str(_), Val::Obj(bounds)) => {
                let bound = |name| bounds.get(name).filter(|bound| !matches!(bound, Val::Null));
                self.range(bound("start")..bound("end"))
            }
            _ => Err(flaw(format!("cannot index {} with {}", an(self.kind()), an(index.kind())))),
        }
    }

    fn range(self, range: Range<&Val>) -> ValR {
        spend(1)?;
        match &self {
            Val::Null => Ok(Val::Null),
            Val::Arr(array) => {
                let (start, end) = limits(&range, array.len())?;
                spend((end - start) as u64)?;
                Val::array(array[start..end].to_vec())
            }
            Val::Str(text) => {
                spend(text.len() as u64 / 16)?;
                let (start, end) = limits(&range, text.chars().count())?;
                Val::text(&text.chars().skip(start).take(end - start).collect::<String>())
            }
            other => Err(cannot_slice(other)),
        }
    }

    fn map_values<'a, I: Iterator<Item = ValX<'a, Val>>>(
        self,
        opt: Opt,
        f: impl Fn(Val) -> I,
    ) -> ValX<'a, Val> {
        match self {
            Val::Arr(_) => {
                let mut items = Vec::new();
                for item in self.into_items()? {
                    spend(1)?;
                    // Nothing in its place: it goes.
                    if let Some(item) = f(item).next() {
                        items.push(item?);
                    }
                }
                Ok(Val::array(items)?)
            }
            Val::Obj(object) => {
                let mut fields = Object::new();
                for (name, value) in object.iter() {
                    spend(1)?;
                    if let Some(value) = f(value.clone()).next() {
                        fields.insert(name.clone(), value?);
                    }
                }
                Ok(Val::object(fields)?)
            }
            other => Ok(opt.fail(other, |other| cannot_iterate(&other))?),
        }
    }

    fn map_index<'a, I: Iterator<Item = ValX<'a, Val>>>(
        self,
        index: &Val,
        opt: Opt,
        f: impl Fn(Val) -> I,
    ) -> ValX<'a, Val> {
        spend(1)?;
        match (self, index) {
            (value @ (Val::Null | Val::Obj(_)), Val::Str(name)) => {
                let mut fields = match value {
                    Val::Obj(object) => {
                        spend(object.len() as u64 / 8)?;
                        (**object).clone()
                    }
                    _ => Object::new(),
                };
                match f(fields.get(name).cloned().unwrap_or_default()).next() {
                    Some(value) => drop(fields.insert(name.clone(), value?)),
                    None => drop(fields.remove(name)),
                }
                Ok(Val::object(fields)?)
            }
            (value @ (Val::Null | Val::Arr(_)), Val::Num(number)) => {
                let mut items = if matches!(value, Val::Null) { Vec::new() } else { value.into_items()? };
                let Some(at) = position(number, items.len())? else {
                    return Err(flaw("an index in front of the array").into());
                };
                match f(items.get(at).cloned().unwrap_or_default()).next() {
                    Some(value) => {
                        let value = value?;
                        if at >= items.len() {
                            // Before it is made: the index may be anything.
                            spend_bytes(at.saturating_mul(32))?;
                            items.resize(at + 1, Val::Null);
                        }
                        items[at] = value;
                    }
                    None if at < items.len() => drop(items.remove(at)),
                    None => {}
                }
                Ok(Val::array(items)?)
            }
            (value @ (Val::Null | Val::Arr(_)), Val::Obj(bounds)) => {
                let bound = |name| bounds.get(name).filter(|bound| !matches!(bound, Val::Null));
                value.map_range(bound("start")..bound("end"), opt, f)
            }
            (value, index) => Ok(opt.fail(value, |value| {
                flaw(format!("cannot index {} with {}", an(value.kind()), an(index.kind())))
            })?),
        }
    }

    fn map_range<'a, I: Iterator<Item = ValX<'a, Val>>>(
        self,
        range: Range<&Val>,
        opt: Opt,
        f: impl Fn(Val) -> I,
    ) -> ValX<'a, Val> {
        let items = match self {
            Val::Null => Vec::new(),
            Val::Arr(_) => self.into_items()?,
            other => return Ok(opt.fail(other, |other| cannot_slice(&other))?),
        };
        let (start, end) = limits(&range, items.len())?;
        spend(items.len() as u64)?;
        let middle = Val::array(items[start..end].to_vec())?;
        let new = match f(middle).next() {
            Some(new) => new?.into_items()?,
            None => Vec::new(),
        };
        let mut list = items;
        list.splice(start..end, new);
        Ok(Val::array(list)?)
    }

    fn as_bool(&self) -> bool {
        self.is_true()
    }

    fn into_string(self) -> Val {
        match self {
            Val::Str(_) => self,
            // Where it cannot be paid for, nothing is: the run has met its bound.
            other => other.json().ok().and_then(|text| Val::text(&text).ok()).unwrap_or_default(),
        }
    }
}

/// An item, if a step is left for it; else the last there is.
fn paid<T>(item: T, next: &mut usize) -> Result<T, Error> {
    spend(1).map(|()| item).inspect_err(|_| *next = usize::MAX)
}

#[cold]
fn cannot_iterate(value: &Val) -> Error {
    flaw(format!("cannot iterate over {}", an(value.kind())))
}

/// Where an index points, from the end if it is negative; `None`: in front of the first.
fn position(number: &Num, len: usize) -> Result<Option<usize>, Error> {
    spend_bytes(number.size())?;
    let Some(at) = number.truncated() else { return Ok(None) };
    let size = usize::try_from(at.unsigned_abs()).ok();
    Ok(if at >= 0 { size } else { size.and_then(|size| len.checked_sub(size)) })
}

#[cold]
fn cannot_slice(value: &Val) -> Error {
    flaw(format!("cannot slice {}", an(value.kind())))
}

/// Beginning and end of a slice of something of this length.
fn limits(range: &Range<&Val>, len: usize) -> Result<(usize, usize), Error> {
    let limit = |bound: Option<&Val>, default: usize| match bound {
        None | Some(Val::Null) => Ok(default),
        Some(bound) => {
            let number = bound.as_number()?;
            // In front of the beginning is the beginning.
            Ok(position(number, len)?.map_or(0, |at| at.min(len)))
        }
    };
    let start = limit(range.start, 0)?;
    Ok((start, limit(range.end, len)?.max(start)))
}
