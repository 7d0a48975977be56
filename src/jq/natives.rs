//! Functions of programs that are written in Rust.

use jaq_core::box_iter::box_once;
use jaq_core::native::{Fun, bome, unary, v};
use jaq_core::{Cv, Native, RunPtr};

use super::budget::{exhausted, flaw, spend, spend_bytes, take};
use super::number::{Num, Rounding};
use super::value::{Error, Object, Val, ValR, an};
use super::{Data, json, text};

/// What every evaluation that is repeated goes through; see `rewrite`.
pub const TICK: &str = "__tick";

pub fn all() -> impl Iterator<Item = Fun<Data>> {
    // The interpreter's own: `path`, `first`, `limit`, `range`, `error_empty` and the like.
    let own = own().into_iter().map(|(name, args, run): Own| (name, args, Native::<Data>::new(run)));
    own.chain([tick()]).chain(jaq_core::funs())
}

fn tick() -> Fun<Data> {
    let native = Native::new(|cv: Cv<'_, Data>| box_once(spend(1).map(|()| cv.1).map_err(Into::into)));
    let native = native.with_paths(|cv| box_once(spend(1).map(|()| cv.1).map_err(Into::into)));
    let native = native.with_update(|cv, update| match take(1) {
        true => update(cv.1),
        false => box_once(Err(exhausted().into())),
    });
    (TICK, v(0), native)
}

type Own = (&'static str, Box<[jaq_core::Bind]>, RunPtr<Data>);

fn own() -> Vec<Own> {
    vec![
        ("type", v(0), |cv| bome(Val::text(cv.1.kind()))),
        ("length", v(0), |cv| bome(length(&cv.1))),
        ("utf8bytelength", v(0), |cv| bome(cv.1.as_str().map(|text| count(text.len())))),
        ("keys", v(0), |cv| bome(keys(&cv.1))),
        ("has", v(1), |cv| unary(cv, |value, key| has(&value, &key).map(Val::Bool))),
        ("contains", v(1), |cv| unary(cv, |value, part| contains(&value, &part).map(Val::Bool))),
        ("add", v(0), |cv| bome(add(cv.1))),
        ("reverse", v(0), |cv| bome(reverse(cv.1))),
        ("flatten", v(1), |cv| unary(cv, flatten)),
        ("indices", v(1), |cv| unary(cv, |value, part| indices(&value, &part))),
        ("__sorted", v(0), |cv| bome(sorted(cv.1).and_then(values_of))),
        ("__grouped", v(0), |cv| bome(grouped(cv.1))),
        ("floor", v(0), |cv| bome(rounded(&cv.1, Rounding::Floor))),
        ("ceil", v(0), |cv| bome(rounded(&cv.1, Rounding::Ceil))),
        ("round", v(0), |cv| bome(rounded(&cv.1, Rounding::Nearest))),
        ("trunc", v(0), |cv| bome(rounded(&cv.1, Rounding::Truncate))),
        ("abs", v(0), |cv| bome(abs(&cv.1))),
        ("tonumber", v(0), |cv| bome(to_number(cv.1))),
        ("tostring", v(0), |cv| bome(to_text(cv.1))),
        ("tojson", v(0), |cv| bome(cv.1.json().and_then(|text| Val::text(&text)))),
        ("fromjson", v(0), |cv| bome(cv.1.as_str().and_then(|text| json::from_text(text)))),
        ("join", v(1), |cv| unary(cv, |value, separator| join(&value, &separator))),
        ("split", v(1), |cv| unary(cv, |value, separator| text::split(&value, &separator))),
        ("startswith", v(1), |cv| unary(cv, |value, part| text::starts_with(&value, &part))),
        ("endswith", v(1), |cv| unary(cv, |value, part| text::ends_with(&value, &part))),
        ("ltrimstr", v(1), |cv| unary(cv, text::without_beginning)),
        ("rtrimstr", v(1), |cv| unary(cv, text::without_end)),
        ("trim", v(0), |cv| bome(text::changed(&cv.1, |text| text.trim().to_owned()))),
        ("ltrim", v(0), |cv| bome(text::changed(&cv.1, |text| text.trim_start().to_owned()))),
        ("rtrim", v(0), |cv| bome(text::changed(&cv.1, |text| text.trim_end().to_owned()))),
        ("ascii_downcase", v(0), |cv| bome(text::changed(&cv.1, str::to_ascii_lowercase))),
        ("ascii_upcase", v(0), |cv| bome(text::changed(&cv.1, str::to_ascii_uppercase))),
        ("explode", v(0), |cv| bome(text::explode(&cv.1))),
        ("implode", v(0), |cv| bome(text::implode(&cv.1))),
        ("@text", v(0), |cv| bome(to_text(cv.1))),
        ("@json", v(0), |cv| bome(cv.1.json().and_then(|text| Val::text(&text)))),
        ("@base64", v(0), |cv| bome(text::to_base64(cv.1))),
        ("@base64d", v(0), |cv| bome(text::from_base64(cv.1))),
        ("@uri", v(0), |cv| bome(text::to_uri(cv.1))),
        ("__matches", v(2), |mut cv| {
            let flags = cv.0.pop_var();
            let pattern = cv.0.pop_var();
            bome(text::matches(&cv.1, &pattern, &flags))
        }),
        ("__pieces", v(2), |mut cv| {
            let flags = cv.0.pop_var();
            let pattern = cv.0.pop_var();
            bome(text::pieces(&cv.1, &pattern, &flags))
        }),
    ]
}

pub fn count(number: usize) -> Val {
    Val::Num(Num::Int(number as i64))
}

/// As text stands in a text: strings as they are, everything else as JSON.
pub fn to_text(value: Val) -> ValR {
    match value {
        Val::Str(_) => Ok(value),
        other => Val::text(&other.json()?),
    }
}

fn length(value: &Val) -> ValR {
    Ok(match value {
        Val::Null => count(0),
        Val::Bool(_) => return Err(flaw("a boolean has no length")),
        Val::Num(_) => abs(value)?,
        Val::Str(text) => {
            spend(text.len() as u64 / 32)?;
            count(text.chars().count())
        }
        Val::Arr(array) => count(array.len()),
        Val::Obj(object) => count(object.len()),
    })
}

fn abs(value: &Val) -> ValR {
    spend_bytes(value.digits())?;
    Ok(Val::Num(value.as_number()?.abs()))
}

fn keys(value: &Val) -> ValR {
    match value {
        Val::Arr(array) => Val::array((0..array.len()).map(count).collect()),
        Val::Obj(object) => Val::array(object.keys().cloned().map(Val::Str).collect()),
        other => Err(flaw(format!("{} has no keys", an(other.kind())))),
    }
}

fn has(value: &Val, key: &Val) -> Result<bool, Error> {
    match (value, key) {
        (Val::Obj(object), Val::Str(name)) => Ok(object.contains_key(name)),
        (Val::Arr(array), Val::Num(number)) => {
            spend_bytes(number.size())?;
            let at = number.truncated().and_then(|at| usize::try_from(at).ok());
            Ok(at.is_some_and(|at| at < array.len()))
        }
        _ => Err(flaw(format!("cannot tell whether {} has {}", an(value.kind()), an(key.kind())))),
    }
}

fn contains(value: &Val, part: &Val) -> Result<bool, Error> {
    spend(1)?;
    match (value, part) {
        (Val::Obj(object), Val::Obj(parts)) => {
            for (name, part) in parts.iter() {
                match object.get(name) {
                    Some(value) if contains(value, part)? => {}
                    _ => return Ok(false),
                }
            }
            Ok(true)
        }
        (Val::Arr(array), Val::Arr(parts)) => {
            for part in parts.iter() {
                let mut found = false;
                for value in array.iter() {
                    // Of another kind it is simply another value.
                    found = found || value.kind() == part.kind() && contains(value, part)?;
                }
                if !found {
                    return Ok(false);
                }
            }
            Ok(true)
        }
        (Val::Str(text), Val::Str(part)) => {
            spend(text.len() as u64 / 16)?;
            Ok(text.contains(&**part))
        }
        (value, part) if value.kind() == part.kind() => Ok(value == part),
        (value, part) => Err(flaw(format!("{} cannot contain {}", an(value.kind()), an(part.kind())))),
    }
}

fn add(value: Val) -> ValR {
    let items = match value {
        Val::Obj(object) => object.values().cloned().collect(),
        value => value.into_items()?,
    };
    // Not one by one: each would copy all those before it.
    if let [Val::Str(_), ..] = items[..] {
        let mut sum = String::new();
        for item in &items {
            if !matches!(item, Val::Null) {
                let text = item.as_str()?;
                spend_bytes(text.len())?;
                sum.push_str(text);
            }
        }
        return Val::text(&sum);
    }
    let mut sum = Val::Null;
    for item in items {
        sum = (sum + item)?;
    }
    Ok(sum)
}

fn reverse(value: Val) -> ValR {
    match value {
        Val::Null => Val::array(Vec::new()),
        Val::Str(text) => Val::text(&text.chars().rev().collect::<String>()),
        value => {
            let mut items = value.into_items()?;
            items.reverse();
            Val::array(items)
        }
    }
}

fn flatten(value: Val, depth: Val) -> ValR {
    spend_bytes(depth.digits())?;
    let depth = depth.as_number()?.truncated().unwrap_or(i64::MAX);
    if depth < 0 {
        return Err(flaw("a depth cannot be negative"));
    }
    let mut flat = Vec::new();
    flatten_into(value.as_array()?, depth, &mut flat)?;
    Val::array(flat)
}

fn flatten_into(items: &[Val], depth: i64, flat: &mut Vec<Val>) -> Result<(), Error> {
    for item in items {
        spend(1)?;
        match item {
            Val::Arr(inner) if depth > 0 => flatten_into(inner, depth - 1, flat)?,
            other => flat.push(other.clone()),
        }
    }
    Ok(())
}

fn indices(value: &Val, part: &Val) -> ValR {
    let mut found = Vec::new();
    match (value, part) {
        (Val::Null, _) => return Ok(Val::Null),
        (Val::Str(text), Val::Str(part)) => {
            // At each place that it fits into it may be there but for its end.
            let places = text.len().saturating_sub(part.len()) as u64;
            spend(1 + text.len() as u64 + places.saturating_mul(part.len() as u64 / 32))?;
            if part.is_empty() {
                return Ok(Val::Null);
            }
            for (index, (at, _)) in text.char_indices().enumerate() {
                if text[at..].starts_with(&**part) {
                    found.push(count(index));
                }
            }
        }
        (Val::Arr(array), Val::Arr(part)) if !part.is_empty() => {
            for (index, window) in array.windows(part.len()).enumerate() {
                if window.iter().eq(part.iter()) {
                    found.push(count(index));
                }
            }
        }
        (Val::Arr(_), Val::Arr(_)) => return Ok(Val::Null),
        (Val::Arr(array), item) => {
            for (index, value) in array.iter().enumerate() {
                if value == item {
                    found.push(count(index));
                }
            }
        }
        _ => {
            return Err(flaw(format!("cannot look for {} in {}", an(part.kind()), an(value.kind()))));
        }
    }
    Val::array(found)
}

/// Pairs of a key and a value, by their keys; equal ones stay in their order.
fn sorted(pairs: Val) -> Result<Vec<Val>, Error> {
    let mut pairs = pairs.into_items()?;
    let logarithm = u64::from(usize::BITS - pairs.len().leading_zeros());
    spend(pairs.len() as u64 * logarithm)?;
    // Comparisons stop telling apart when the budget is used up, which the sort takes as it comes.
    pairs.sort_by(|a, b| key_of(a).cmp(key_of(b)));
    if super::budget::met().is_some() { Err(exhausted()) } else { Ok(pairs) }
}

fn key_of(pair: &Val) -> &Val {
    pair.as_array().ok().and_then(|pair| pair.first()).unwrap_or(const { &Val::Null })
}

fn value_of(pair: &Val) -> Val {
    pair.as_array().ok().and_then(|pair| pair.get(1)).cloned().unwrap_or_default()
}

fn values_of(pairs: Vec<Val>) -> ValR {
    Val::array(pairs.iter().map(value_of).collect())
}

fn grouped(pairs: Val) -> ValR {
    let mut groups: Vec<Val> = Vec::new();
    let mut rest = &sorted(pairs)?[..];
    while let Some(first) = rest.first() {
        let key = key_of(first);
        let same = rest.iter().take_while(|pair| key_of(pair) == key).count().max(1);
        let (group, others) = rest.split_at(same);
        groups.push(values_of(group.to_vec())?);
        rest = others;
    }
    Val::array(groups)
}

fn rounded(value: &Val, rounding: Rounding) -> ValR {
    spend_bytes(value.digits())?;
    value.as_number()?.round(rounding).map(Val::Num).map_err(flaw)
}

fn to_number(value: Val) -> ValR {
    match value {
        Val::Num(_) => Ok(value),
        Val::Str(text) => json::to_number(&text),
        other => Err(flaw(format!("{} is not a number and does not stand for one", an(other.kind())))),
    }
}

fn join(value: &Val, separator: &Val) -> ValR {
    let separator = separator.as_str()?;
    let mut joined = String::new();
    for (index, item) in value.as_array()?.iter().enumerate() {
        let text = match item {
            Val::Null => Val::text("")?,
            Val::Arr(_) | Val::Obj(_) => {
                return Err(flaw(format!("cannot join {}", an(item.kind()))));
            }
            item => to_text(item.clone())?,
        };
        let text = text.as_str()?;
        spend_bytes(text.len() + separator.len())?;
        if index > 0 {
            joined.push_str(separator);
        }
        joined.push_str(text);
    }
    Val::text(&joined)
}

/// An object of a few fields.
pub fn object<const N: usize>(fields: [(&str, Val); N]) -> ValR {
    Val::object(fields.into_iter().map(|(name, value)| (name.into(), value)).collect::<Object>())
}
