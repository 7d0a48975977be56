//! Expressions: what a plain projection can do, and the rest of jq.
//!
//! A path (`.user.name`, `."odd name"`, `.["odd name"]`, `.`, `$event.source.ts_ms`, `$key.id`,
//! `$headers.trace`) or a literal (`"placed"`, `42`, `true`, `null`), spelt as jq spells them, and
//! meaning the same. Everything else is a program for `crate::jq`: checked here, and compiled with the
//! mapping.

use std::fmt;

use super::model::{Condition, Expression, Jq, Path, Root, Test};
use crate::jq::condition::simple;
use crate::jq::{Program, Wrong};

/// What can be known of the schema that a record was written with.
const SCHEMA_FACTS: [&str; 3] = ["name", "id", "version"];

/// Why a text is not an expression; a sentence without the text itself.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum ExpressionError {
    #[error("an expression is missing")]
    Empty,
    #[error("an expression is text, not a list or a mapping; quote it")]
    NotText,
    #[error("{}", .0.message)]
    Jq(Wrong),
    #[error(
        "unknown variable; there are `$event` (the whole event), `$key` (the record key), `$topic`, `$partition`, `$offset`, `$timestamp`, `$headers` and `$schema`"
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
    #[error("of the schema there are `$schema.name`, `$schema.id` and `$schema.version`")]
    SchemaFact,
    #[error("a header is text and has no fields; a name with dots is quoted: $headers.\"a.b\"")]
    HeaderFields,
    #[error("this needs a path such as `.name`, not a literal")]
    NotAPath,
    #[error("this is no condition; one compares something, such as `.status == \"active\"`")]
    NoCondition,
    #[error("this needs a plain path such as `.name`")]
    NotPlain,
}

impl ExpressionError {
    /// What was not found in a text, and what may have been meant.
    pub fn suggestion<'e>(&'e self, text: &'e str) -> (&'e str, Vec<&'static str>) {
        let variable = text.trim().split(['.', '[']).next().unwrap_or_default();
        match self {
            ExpressionError::Jq(wrong) => (&wrong.found, wrong.valid.clone()),
            _ => (variable, self.valid()),
        }
    }

    fn valid(&self) -> Vec<&'static str> {
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

/// As in a configuration; an error is a sentence.
impl std::str::FromStr for Expression {
    type Err = String;

    fn from_str(text: &str) -> Result<Expression, String> {
        parse(text).map_err(|error| error.to_string())
    }
}

/// As it was written, apart from quotes and space.
impl fmt::Display for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Expression::Path(path) => path.fmt(f),
            Expression::Literal(text) => f.write_str(text),
            Expression::Jq(program) => f.write_str(&program.text),
        }
    }
}

/// Reads an expression.
pub(super) fn parse(text: &str) -> Result<Expression, ExpressionError> {
    let text = text.trim();
    match plain(text) {
        Ok(Some(expression)) => Ok(expression),
        Ok(None) => jq(text).map_err(ExpressionError::Jq),
        Err(error) if text.chars().all(|c| c.is_ascii_digit() || c == '.') => Err(error),
        // More of jq than it looks like: `.a-1`, `empty`. Else what it looks like is what was meant.
        Err(error @ (ExpressionError::Neither | ExpressionError::MalformedName)) => match jq(text) {
            Ok(program) => Ok(program),
            // What is there in jq, and not here, says so.
            Err(wrong)
                if wrong.valid.is_empty() && text.starts_with(is_name) && text.chars().all(is_letter) =>
            {
                Err(ExpressionError::Jq(wrong))
            }
            Err(wrong)
                if text.contains(['(', '|', '.', '[', '{', ' ']) && error == ExpressionError::Neither =>
            {
                Err(ExpressionError::Jq(wrong))
            }
            Err(_) => Err(error),
        },
        Err(error) => Err(error),
    }
}

fn jq(text: &str) -> Result<Expression, Wrong> {
    let program = Program::compile(text)?;
    Ok(Expression::Jq(Jq { text: text.to_owned(), reads: program.reads().clone() }))
}

/// A path or a literal; `None`: more of jq.
fn plain(text: &str) -> Result<Option<Expression>, ExpressionError> {
    Ok(match text.chars().next() {
        None => return Err(ExpressionError::Empty),
        Some('.' | '$') => path(text)?.map(Expression::Path),
        Some('"') => match take_text(text) {
            Some((text, "")) => Some(Expression::Literal(serde_json::Value::String(text).to_string())),
            // jq reads `\(` inside a text as interpolation.
            None if text.contains("\\(") => None,
            Some(_) => None,
            None => return Err(ExpressionError::MalformedText),
        },
        Some('-' | '0'..='9') => match serde_json::from_str::<&serde_json::value::RawValue>(text) {
            // The text, not the number: digits must not be lost.
            Ok(_) => Some(Expression::Literal(text.to_owned())),
            Err(_) => return Err(ExpressionError::Neither),
        },
        _ if matches!(text, "true" | "false" | "null") => Some(Expression::Literal(text.to_owned())),
        _ => return Err(ExpressionError::Neither),
    })
}

/// Reads a path.
pub(super) fn parse_path(text: &str) -> Result<Path, ExpressionError> {
    match parse(text)? {
        Expression::Path(path) => Ok(path),
        Expression::Literal(_) => Err(ExpressionError::NotAPath),
        Expression::Jq(_) => Err(ExpressionError::NotPlain),
    }
}

/// Reads what is not a constant.
pub(super) fn parse_source(text: &str) -> Result<Expression, ExpressionError> {
    match parse(text)? {
        Expression::Literal(_) => Err(ExpressionError::NotAPath),
        source => Ok(source),
    }
}

/// Reads a condition.
pub(super) fn parse_condition(text: &str) -> Result<Condition, ExpressionError> {
    let text = text.trim();
    let always = match parse(text)? {
        Expression::Literal(_) => true,
        Expression::Path(path) => path.root.is_value() && path.fields.is_empty(),
        // It is always the same.
        Expression::Jq(program) if !program.reads.value() && program.reads.variables.is_empty() => {
            return Err(ExpressionError::NoCondition);
        }
        Expression::Jq(program) => {
            let test = match simple(text) {
                Some(condition) => Test::Simple(condition),
                None => Test::Jq(program),
            };
            return Ok(Condition { text: text.to_owned(), test });
        }
    };
    match simple(text) {
        Some(condition) if !always => Ok(Condition { text: text.to_owned(), test: Test::Simple(condition) }),
        _ => Err(ExpressionError::NoCondition),
    }
}

/// `None`: more than a path.
fn path(text: &str) -> Result<Option<Path>, ExpressionError> {
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
        let Some((field, tail)) = segment(rest)? else { return Ok(None) };
        if fields.len() == root.depth_max() {
            return Err(match root.depth_max() {
                1 if root == Root::Schema => ExpressionError::SchemaFact,
                0 => ExpressionError::NoFields,
                1 => ExpressionError::HeaderFields,
                max => ExpressionError::TooLong(max),
            });
        }
        fields.push(field);
        rest = tail;
    }
    if root == Root::Schema && !matches!(&fields[..], [fact] if SCHEMA_FACTS.contains(&fact.as_str())) {
        return Err(ExpressionError::SchemaFact);
    }
    Ok(Some(Path { root, fields }))
}

/// One of `.name`, `."name"`, `.["name"]`, `["name"]` and what follows it; `None`: more of jq.
fn segment(text: &str) -> Result<Option<(String, &str)>, ExpressionError> {
    let (dotted, rest) = match text.strip_prefix('.') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    match rest.chars().next() {
        Some('"') if dotted => take_text(rest).map(Some).ok_or(ExpressionError::MalformedName),
        Some('[') => {
            let inside = rest[1..].trim_start();
            if !inside.starts_with('"') {
                // `.[0]`, `.[]`, `.[2:3]`
                return Ok(None);
            }
            let (name, tail) = take_text(inside).ok_or(ExpressionError::MalformedName)?;
            Ok(tail.trim_start().strip_prefix(']').map(|tail| (name, tail)))
        }
        Some(c) if dotted && is_name(c) && !c.is_ascii_digit() => {
            let end = rest.find(|c: char| !is_name(c)).unwrap_or(rest.len());
            Ok(Some((rest[..end].to_owned(), &rest[end..])))
        }
        // `.a?`, `.a | f`, `.a + 1`, `..`
        Some('?' | '|' | '+' | '*' | '/' | '%' | ',' | '=' | '<' | '>' | '!' | '(' | ')' | ' ' | '.') => {
            Ok(None)
        }
        // `. | f`
        None if dotted => Ok(None),
        _ => Err(ExpressionError::MalformedName),
    }
}

fn is_letter(c: char) -> bool {
    c.is_ascii_alphabetic() || c == '_'
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
            ("$schema.version", of(Root::Schema, &["version"])),
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
    fn the_rest_of_jq_is_a_program() {
        for text in [
            ".a[0]",
            "[.[]]",
            ".[1:2]",
            ".a?",
            ".a | length",
            ".a + 1",
            ".a-1",
            ".a // 0",
            "[..]",
            "length",
            "[.a]",
            "{a: .b}",
            r#""a" + "b""#,
            r#""\(.a)""#,
            "if .a then 1 else 2 end",
            r#".["a"]?"#,
            "1 + .a",
            "-.a",
            "(.a)",
            ". | .a",
            "$key | ascii_downcase",
        ] {
            assert!(matches!(parse(text), Ok(Expression::Jq(program)) if program.text == text), "{text}");
        }
        for (text, expected) in [
            (".a |", "this is not jq: expected term at its end"),
            (".a | now", "`now` is not available here: an expression depends on nothing but the event"),
            ("now", "`now` is not available here: an expression depends on nothing but the event"),
            (
                ".a | ascii_downcas",
                "there is no function `ascii_downcas` (a text is written in double quotes)",
            ),
            ("lenght(.a)", "there is no function `lenght`"),
            (".[", "this is not jq: expected closing bracket at its end"),
        ] {
            let Err(error @ ExpressionError::Jq(_)) = parse(text) else {
                panic!("{text}: {:?}", parse(text))
            };
            assert_eq!(error.to_string(), expected, "{text}");
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
            ("$schema", ExpressionError::SchemaFact),
            ("$schema.nr", ExpressionError::SchemaFact),
            ("$schema.id.x", ExpressionError::SchemaFact),
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
        assert_eq!(parse_source("42"), Err(ExpressionError::NotAPath));
        assert_eq!(parse_path(".a | .b"), Err(ExpressionError::NotPlain));
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
            let fields = match root {
                Root::Schema => vec!["id".to_owned()],
                _ => fields.into_iter().take(root.depth_max()).collect(),
            };
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
