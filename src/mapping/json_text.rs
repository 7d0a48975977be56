//! JSON kept as JSON: text that every reader's parser takes.

use serde::de::IgnoredAny;

use super::convert::{Refusal, lone_surrogate};
use crate::domain::dead_letter::Reason;

/// SQLite's own JSON functions refuse what nests deeper (`JSON_MAX_DEPTH`).
const DEPTH_MAX: usize = 1000;

/// The text of a valid JSON value without the space between its tokens; everything else, the
/// digits of numbers, escapes and the order of fields, stays as sent.
pub fn compact(text: &str) -> Result<String, Refusal> {
    let spaces = walk(text)?;
    if spaces == 0 {
        return Ok(text.to_owned());
    }
    let mut out = String::with_capacity(text.len() - spaces);
    let mut in_string = false;
    let mut escaped = false;
    for char in text.chars() {
        match char {
            ' ' | '\t' | '\n' | '\r' if !in_string => continue,
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => in_string = !in_string,
            _ => {}
        }
        out.push(char);
    }
    Ok(out)
}

/// Whether a text from elsewhere is JSON that can be kept as it is.
pub fn checked(text: &str) -> Result<(), Refusal> {
    serde_json::from_str::<IgnoredAny>(text).map_err(|_| {
        Refusal::new(Reason::WrongType, format!("is a text of {} bytes that is not JSON", text.len()))
    })?;
    walk(text).map(|_| ())
}

/// Goes once over valid JSON: checks depth and surrogates, counts space between tokens.
fn walk(text: &str) -> Result<usize, Refusal> {
    let mut depth = 0usize;
    let mut spaces = 0;
    let mut rest = text.as_bytes();
    while let [byte, tail @ ..] = rest {
        rest = tail;
        match byte {
            b'"' => walk_string(&mut rest)?,
            b'{' | b'[' => {
                depth += 1;
                if depth > DEPTH_MAX {
                    let why = format!("nests deeper than {DEPTH_MAX} levels");
                    return Err(Refusal::new(Reason::OutOfRange, why));
                }
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            b' ' | b'\t' | b'\n' | b'\r' => spaces += 1,
            _ => {}
        }
    }
    Ok(spaces)
}

/// To behind the closing quote.
fn walk_string(rest: &mut &[u8]) -> Result<(), Refusal> {
    // Whether the escape just before was the first half of a pair.
    let mut half = false;
    while let [byte, tail @ ..] = *rest {
        *rest = tail;
        let unit = match byte {
            b'\\' => match tail {
                [b'u', digits @ ..] => {
                    let digits = digits.get(..4).and_then(|digits| std::str::from_utf8(digits).ok());
                    *rest = tail.get(5..).unwrap_or_default();
                    digits.and_then(|digits| u16::from_str_radix(digits, 16).ok())
                }
                _ => {
                    *rest = tail.get(1..).unwrap_or_default();
                    None
                }
            },
            _ => None,
        };
        let second = matches!(unit, Some(0xDC00..=0xDFFF));
        if second != half {
            return Err(lone_surrogate());
        }
        half = matches!(unit, Some(0xD800..=0xDBFF));
        if *byte == b'"' {
            return Ok(());
        }
    }
    Ok(())
}
