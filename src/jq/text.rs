//! Functions on strings.

use std::cell::RefCell;
use std::ops::Range;
use std::rc::Rc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use regex_lite::{Regex, RegexBuilder};

use super::budget::{flaw, spend, spend_bytes};
use super::natives::{count, object, to_text};
use super::number::Num;
use super::value::{self, Error, Val, ValR};

/// Longer patterns are nobody's, and what they match takes time in their length.
const PATTERN_MAX: usize = 1_000;
/// Compiled patterns that a thread keeps.
const PATTERNS_MAX: usize = 16;

pub fn split(value: &Val, separator: &Val) -> ValR {
    value::split(value.as_str()?, separator.as_str()?)
}

pub fn starts_with(value: &Val, part: &Val) -> ValR {
    let part = part.as_str()?;
    spend(part.len() as u64 / 32)?;
    Ok(Val::Bool(value.as_str()?.starts_with(&**part)))
}

pub fn ends_with(value: &Val, part: &Val) -> ValR {
    let part = part.as_str()?;
    spend(part.len() as u64 / 32)?;
    Ok(Val::Bool(value.as_str()?.ends_with(&**part)))
}

/// What is not a string stays as it is, as in jq.
pub fn without_beginning(value: Val, part: Val) -> ValR {
    if let (Val::Str(text), Val::Str(part)) = (&value, &part)
        && let Some(rest) = text.strip_prefix(&**part)
    {
        return Val::text(rest);
    }
    Ok(value)
}

pub fn without_end(value: Val, part: Val) -> ValR {
    if let (Val::Str(text), Val::Str(part)) = (&value, &part)
        && let Some(rest) = text.strip_suffix(&**part)
    {
        return Val::text(rest);
    }
    Ok(value)
}

pub fn changed(value: &Val, change: impl Fn(&str) -> String) -> ValR {
    let text = value.as_str()?;
    spend_bytes(text.len())?;
    Val::text(&change(text))
}

pub fn explode(value: &Val) -> ValR {
    let text = value.as_str()?;
    spend_bytes(text.len())?;
    Val::array(text.chars().map(|char| count(char as usize)).collect())
}

pub fn implode(value: &Val) -> ValR {
    let mut text = String::new();
    for item in value.as_array()? {
        spend_bytes(item.digits())?;
        let point = item.as_number()?.truncated().and_then(|number| u32::try_from(number).ok());
        text.push(point.and_then(char::from_u32).ok_or_else(|| flaw("a number that is no character"))?);
    }
    Val::text(&text)
}

pub fn to_base64(value: Val) -> ValR {
    let text = to_text(value)?;
    let text = text.as_str()?;
    spend_bytes(text.len() * 4 / 3)?;
    Val::text(&STANDARD.encode(text.as_bytes()))
}

pub fn from_base64(value: Val) -> ValR {
    let text = to_text(value)?;
    let decoded = STANDARD.decode(text.as_str()?.as_bytes()).ok();
    match decoded.map(String::from_utf8) {
        Some(Ok(text)) => Val::text(&text),
        Some(Err(_)) => Err(flaw("base64 of what is not UTF-8 text")),
        None => Err(flaw("a text that is not base64")),
    }
}

pub fn to_uri(value: Val) -> ValR {
    let text = to_text(value)?;
    let mut out = String::new();
    for byte in text.as_str()?.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(byte.into()),
            byte => out.push_str(&format!("%{byte:02X}")),
        }
    }
    Val::text(&out)
}

/// A pattern as it is used; the flags are those of jq: `g` all matches, `i` without regard to case, `x`
/// with spaces and comments, `s` a dot takes line ends, `n` no empty matches.
struct Pattern {
    regex: Regex,
    all: bool,
    empty: bool,
    /// A match is known where it ends, so that all matches together look at the text once.
    stops: bool,
}

/// Why a pattern or its flags cannot be used.
pub fn check_pattern(pattern: &str, flags: &str) -> Result<(), String> {
    Pattern::new(pattern, flags).map(|_| ())
}

impl Pattern {
    fn new(pattern: &str, flags: &str) -> Result<Pattern, String> {
        if pattern.len() > PATTERN_MAX {
            return Err(format!("a pattern cannot be longer than {PATTERN_MAX} bytes"));
        }
        let mut builder = RegexBuilder::new(pattern);
        let (mut all, mut empty) = (false, true);
        for flag in flags.chars() {
            match flag {
                'g' => all = true,
                'n' => empty = false,
                'i' => drop(builder.case_insensitive(true)),
                'x' => drop(builder.ignore_whitespace(true)),
                's' => drop(builder.dot_matches_new_line(true)),
                _ => return Err("the flags of a pattern are g, i, n, s and x".to_owned()),
            }
        }
        let regex = builder.size_limit(1 << 20).build();
        let regex = regex.map_err(|error| format!("this pattern cannot be used: {error}"))?;
        Ok(Pattern { regex, all, empty, stops: stops(pattern) })
    }
}

/// Whether nothing of a pattern but its last part may be there more or less often, or be one thing or the
/// other: `\s+`, `[^a-z]`, `, *`. Said of some such patterns only.
fn stops(pattern: &str) -> bool {
    let repeated = pattern.strip_suffix(['+', '*', '?']).unwrap_or(pattern);
    !repeated.contains(['+', '*', '?', '{', '|', '(', '$', '^']) || is_class(repeated)
}

/// A single class: `[^0-9+]`.
fn is_class(pattern: &str) -> bool {
    let inner = pattern.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    inner.is_some_and(|inner| !inner.contains(['[', ']']))
}

/// Every match as `{offset, length, string, captures}`.
pub fn matches(value: &Val, pattern: &Val, flags: &Val) -> ValR {
    let found = found(value.as_str()?, pattern, flags)?;
    Val::array(found.into_iter().map(|(_, found)| found).collect())
}

/// Pairs of what is in front of a match and the match; behind the last one there is null.
pub fn pieces(value: &Val, pattern: &Val, flags: &Val) -> ValR {
    let text = value.as_str()?;
    let (mut pieces, mut from) = (Vec::new(), 0);
    for (at, found) in found(text, pattern, flags)? {
        pieces.push(Val::array(vec![Val::text(&text[from..at.start])?, found])?);
        from = at.end;
    }
    pieces.push(Val::array(vec![Val::text(&text[from..])?, Val::Null])?);
    Val::array(pieces)
}

fn found(text: &str, pattern: &Val, flags: &Val) -> Result<Vec<(Range<usize>, Val)>, Error> {
    let flags = match flags {
        Val::Null => "",
        flags => flags.as_str()?,
    };
    let pattern = compiled(pattern.as_str()?, flags)?;
    // The engine has all of the pattern at each byte that it looks at.
    let work = |bytes: usize| 1 + (bytes as u64).saturating_mul(pattern.regex.as_str().len() as u64) / 16;
    // All of the text, up to each match and behind the last.
    spend(work(text.len()))?;
    let mut found = Vec::new();
    // How many characters are in front of a byte.
    let (mut byte, mut chars) = (0, 0);
    let names: Vec<Option<&str>> = pattern.regex.capture_names().skip(1).collect();
    for captures in pattern.regex.captures_iter(text) {
        let Some(whole) = captures.get(0) else { continue };
        // Where it looks on from a match, it may do so to the end of the text, each time.
        spend(work(if pattern.stops { 1 } else { text.len() - whole.start() }))?;
        if whole.is_empty() && !pattern.empty {
            continue;
        }
        chars += text[byte..whole.start()].chars().count();
        byte = whole.start();
        let mut groups = Vec::new();
        for (index, name) in names.iter().enumerate() {
            let group = captures.get(index + 1);
            let at =
                group.map_or(-1, |group| chars as i64 + text[byte..group.start()].chars().count() as i64);
            let string = group.map_or(Ok(Val::Null), |group| Val::text(group.as_str()));
            let length = group.map_or(0, |group| group.as_str().chars().count());
            let name = name.map_or(Ok(Val::Null), Val::text)?;
            groups.push(object([
                ("offset", Val::Num(Num::Int(at))),
                ("length", count(length)),
                ("string", string?),
                ("name", name),
            ])?);
        }
        let all = object([
            ("offset", count(chars)),
            ("length", count(whole.as_str().chars().count())),
            ("string", Val::text(whole.as_str())?),
            ("captures", Val::array(groups)?),
        ])?;
        found.push((whole.range(), all));
        if !pattern.all {
            break;
        }
    }
    Ok(found)
}

fn compiled(pattern: &str, flags: &str) -> Result<Rc<Pattern>, Error> {
    thread_local! {
        static KNOWN: RefCell<Vec<(String, String, Rc<Pattern>)>> = const { RefCell::new(Vec::new()) };
    }
    KNOWN.with(|known| {
        let mut known = known.borrow_mut();
        if let Some((_, _, found)) = known.iter().find(|(p, f, _)| p == pattern && f == flags) {
            return Ok(Rc::clone(found));
        }
        // The pattern may come from the event: nothing of it is said.
        spend(1_000)?;
        let new = Pattern::new(pattern, flags).map_err(|_| flaw("a pattern or flags that cannot be used"))?;
        let new = Rc::new(new);
        if known.len() >= PATTERNS_MAX {
            known.remove(0);
        }
        known.push((pattern.to_owned(), flags.to_owned(), Rc::clone(&new)));
        Ok(new)
    })
}
