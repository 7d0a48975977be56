//! Expressions: the part of jq that a plain projection can do.
//!
//! A path (`.user.name`, `."odd name"`, `.["odd name"]`, `.`, `$event.source.ts_ms`, `$key.id`,
//! `$headers.trace`) or a literal (`"placed"`, `42`, `true`, `null`), spelt as jq spells them. What is valid here means
//! the same in jq, so that a later version may accept more of it without changing a file.

use std::fmt;

use super::model::{Expression, Path, Root};

/// Why a text is not an expression; a sentence without the text itself.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum ExpressionError {
    #[error("an expression is missing")]
    Empty,
    #[error("this needs more of jq than plain paths and literals, which this version does not support")]
    Unsupported,
    #[error(
        "unknown variable; there are `$event` (the whole event), `$key` (the record key), `$topic`, `$partition`, `$offset`, `$timestamp` and `$headers`"
    )]
    UnknownVariable,
    #[error(
        "this is neither a path nor a literal; a path begins with a dot, a text constant is written '\"…\"'"
    )]
    Neither,
    #[error("a name in this path is malformed; unusual names are quoted: .\"odd name\"")]
    MalformedName,
    #[error("this text constant is not closed or holds an invalid escape")]
    MalformedText,
    #[error("a path cannot have more than {0} names")]
    TooLong(usize),
    #[error("this variable is a single value and has no fields")]
    NoFields,
    #[error("a header is text and has no fields; a name with dots is quoted: $headers.\"a.b\"")]
    HeaderFields,
    #[error("this needs a path such as `.name`, not a literal")]
    NotAPath,
}

impl ExpressionError {
    /// What may have been meant.
    pub fn valid(&self) -> Vec<&'static str> {
        match self {
            ExpressionError::UnknownVariable => {
                Root::ALL.into_iter().filter(|root| *root != Root::Row).map(Root::name).collect()
            }
            _ => Vec::new(),
        }
    }
}

/// As jq spells it; reading it gives the same path.
impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.root {
            Root::Row if !self.fields.is_empty() => {}
            root => f.write_str(root.name())?,
        }
        for field in &self.fields {
            let plain = field.chars().all(is_name) && !field.starts_with(|c: char| c.is_ascii_digit());
            if plain && !field.is_empty() {
                write!(f, ".{field}")?;
            } else {
                write!(f, ".{}", serde_json::Value::String(field.clone()))?;
            }
        }
        Ok(())
    }
}

/// Reads a path or a literal.
pub(super) fn parse(text: &str) -> Result<Expression, ExpressionError> {
    let text = text.trim();
    match text.chars().next() {
        None => Err(ExpressionError::Empty),
        Some('.' | '$') => path(text).map(Expression::Path),
        Some('"') => match take_text(text) {
            Some((text, "")) => Ok(Expression::Literal(serde_json::Value::String(text).to_string())),
            // jq reads `\(` inside a text as interpolation.
            None if text.contains("\\(") => Err(ExpressionError::Unsupported),
            Some(_) => Err(ExpressionError::Unsupported),
            None => Err(ExpressionError::MalformedText),
        },
        Some('-' | '0'..='9') => match serde_json::from_str::<&serde_json::value::RawValue>(text) {
            // The text, not the number: digits must not be lost.
            Ok(_) => Ok(Expression::Literal(text.to_owned())),
            Err(_) => Err(ExpressionError::Neither),
        },
        _ if matches!(text, "true" | "false" | "null") => Ok(Expression::Literal(text.to_owned())),
        _ if text.contains(['(', '|', '.', '[', '{']) => Err(ExpressionError::Unsupported),
        _ => Err(ExpressionError::Neither),
    }
}

/// Reads a path.
pub(super) fn parse_path(text: &str) -> Result<Path, ExpressionError> {
    match parse(text)? {
        Expression::Path(path) => Ok(path),
        Expression::Literal(_) => Err(ExpressionError::NotAPath),
    }
}

fn path(text: &str) -> Result<Path, ExpressionError> {
    let (root, mut rest) = match text.strip_prefix('$') {
        Some(variable) => {
            let end = variable.find(|c: char| !is_name(c)).unwrap_or(variable.len());
            let name = &text[..=end];
            let root = Root::ALL.into_iter().find(|root| root.name() == name);
            (root.ok_or(ExpressionError::UnknownVariable)?, &variable[end..])
        }
        None if text == "." => (Root::Row, ""),
        None => (Root::Row, text),
    };
    let mut fields = Vec::new();
    while !rest.is_empty() {
        let (field, tail) = segment(rest)?;
        if fields.len() == root.depth_max() {
            return Err(match root.depth_max() {
                0 => ExpressionError::NoFields,
                1 => ExpressionError::HeaderFields,
                max => ExpressionError::TooLong(max),
            });
        }
        fields.push(field);
        rest = tail;
    }
    Ok(Path { root, fields })
}

/// One of `.name`, `."name"`, `.["name"]`, `["name"]` and what follows it.
fn segment(text: &str) -> Result<(String, &str), ExpressionError> {
    let (dotted, rest) = match text.strip_prefix('.') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    match rest.chars().next() {
        Some('"') if dotted => take_text(rest).ok_or(ExpressionError::MalformedName),
        Some('[') => {
            let inside = rest[1..].trim_start();
            if !inside.starts_with('"') {
                // `.[0]`, `.[]`, `.[2:3]`
                return Err(ExpressionError::Unsupported);
            }
            let (name, tail) = take_text(inside).ok_or(ExpressionError::MalformedName)?;
            match tail.trim_start().strip_prefix(']') {
                Some(tail) => Ok((name, tail)),
                None => Err(ExpressionError::Unsupported),
            }
        }
        Some(c) if dotted && is_name(c) && !c.is_ascii_digit() => {
            let end = rest.find(|c: char| !is_name(c)).unwrap_or(rest.len());
            Ok((rest[..end].to_owned(), &rest[end..]))
        }
        // `.a?`, `.a | f`, `.a + 1`, `..`
        Some('?' | '|' | '+' | '*' | '/' | '%' | ',' | '=' | '<' | '>' | '!' | '(' | ')' | ' ' | '.') => {
            Err(ExpressionError::Unsupported)
        }
        _ => Err(ExpressionError::MalformedName),
    }
}

fn is_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// The JSON string at the beginning of `text`, and what follows it.
fn take_text(text: &str) -> Option<(String, &str)> {
    let mut strings = serde_json::Deserializer::from_str(text).into_iter::<String>();
    let value = strings.next()?.ok()?;
    let rest = text.get(strings.byte_offset()..)?;
    Some((value, rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn row(fields: &[&str]) -> Expression {
        of(Root::Row, fields)
    }

    fn of(root: Root, fields: &[&str]) -> Expression {
        Expression::Path(Path { root, fields: fields.iter().map(|field| field.to_string()).collect() })
    }

    #[test]
    fn paths() {
        for (text, expected) in [
            (".", row(&[])),
            (".id", row(&["id"])),
            (" .user.name ", row(&["user", "name"])),
            (r#"."odd name""#, row(&["odd name"])),
            (r#".["odd name"]"#, row(&["odd name"])),
            (r#".[ "odd name" ].x"#, row(&["odd name", "x"])),
            (r#".a["b"]"#, row(&["a", "b"])),
            (r#".a.["b"]."c\u0041\"""#, row(&["a", "b", "cA\""])),
            (r#"."Größe""#, row(&["Größe"])),
            (r#".["a]b"]"#, row(&["a]b"])),
            ("._x9", row(&["_x9"])),
            ("$event", of(Root::Event, &[])),
            ("$event.source.ts_ms", of(Root::Event, &["source", "ts_ms"])),
            ("$key", of(Root::Key, &[])),
            ("$key.id", of(Root::Key, &["id"])),
            (r#"$key["odd name"]"#, of(Root::Key, &["odd name"])),
            ("$topic", of(Root::Topic, &[])),
            ("$partition", of(Root::Partition, &[])),
            ("$offset", of(Root::Offset, &[])),
            ("$timestamp", of(Root::Timestamp, &[])),
            ("$headers", of(Root::Headers, &[])),
            ("$headers.trace", of(Root::Headers, &["trace"])),
            (r#"$headers["ce-id"]"#, of(Root::Headers, &["ce-id"])),
        ] {
            assert_eq!(parse(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn literals_keep_their_digits() {
        for (text, expected) in [
            (r#""placed""#, r#""placed""#),
            (r#" "a\u0041" "#, r#""aA""#),
            ("42", "42"),
            ("-1.10", "-1.10"),
            ("12345678901234567890123", "12345678901234567890123"),
            ("true", "true"),
            ("false", "false"),
            ("null", "null"),
        ] {
            assert_eq!(parse(text), Ok(Expression::Literal(expected.into())), "{text}");
        }
    }

    #[test]
    fn the_rest_of_jq_is_refused_as_unsupported() {
        for text in [
            ".a[0]",
            ".[]",
            ".[1:2]",
            ".a?",
            ".a | length",
            ".a + 1",
            ".a // 0",
            "..",
            ".a, .b",
            "length(.)",
            "[.a]",
            "{a: .b}",
            r#""a" + "b""#,
            r#""\(.a)""#,
            "if .a then 1 else 2 end",
            r#".["a"?]"#,
        ] {
            assert_eq!(parse(text), Err(ExpressionError::Unsupported), "{text}");
        }
    }

    #[test]
    fn what_is_no_expression_says_why() {
        for (text, expected) in [
            ("", ExpressionError::Empty),
            ("  ", ExpressionError::Empty),
            ("placed", ExpressionError::Neither),
            ("0x1f", ExpressionError::Neither),
            ("01", ExpressionError::Neither),
            ("$header.x", ExpressionError::UnknownVariable),
            ("$topic.x", ExpressionError::NoFields),
            ("$timestamp.x", ExpressionError::NoFields),
            ("$headers.x.y", ExpressionError::HeaderFields),
            ("$", ExpressionError::UnknownVariable),
            (".1a", ExpressionError::MalformedName),
            (".größe", ExpressionError::MalformedName),
            (".odd-name", ExpressionError::MalformedName),
            (r#"."open"#, ExpressionError::MalformedName),
            (r#""open"#, ExpressionError::MalformedText),
        ] {
            assert_eq!(parse(text), Err(expected), "{text}");
        }
        assert_eq!(parse_path("42"), Err(ExpressionError::NotAPath));
        assert_eq!(parse(&".a".repeat(33)), Err(ExpressionError::TooLong(32)));
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in ".{0,40}") {
            let _ = parse(&text);
        }

        #[test]
        fn expression_like_text_does_not_make_it_panic(text in r#"[.$"\[\]\\ a-e0-9|?ü-]{0,24}"#) {
            let _ = parse(&text);
        }

        #[test]
        fn a_path_is_spelt_as_it_is_read(root in 0..Root::ALL.len(), fields in prop::collection::vec(".{0,3}|[a-z_0-9]{0,3}", 0..5)) {
            let root = Root::ALL[root];
            let fields: Vec<String> = fields;
            let fields = fields.into_iter().take(root.depth_max()).collect();
            let path = Path { root, fields };
            prop_assert_eq!(parse_path(&path.to_string()), Ok(path));
        }

        /// Any field name can be written, quoted as JSON.
        #[test]
        fn every_name_can_be_quoted(name in any::<String>()) {
            let text = format!(".{}", serde_json::Value::String(name.clone()));
            prop_assert_eq!(parse(&text), Ok(row(&[name.as_str()])));
        }
    }
}
