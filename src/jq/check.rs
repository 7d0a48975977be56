//! Which programs are taken: those that depend on the event alone, whose every step can be counted, and
//! that do not nest without bound.
//!
//! A term is walked against a white list. Not on it: what asks the world (`now`, `env`, `input`), what
//! could go on for ever (definitions that call themselves, `repeat`, `until`), and what this program
//! does not have.

use jaq_core::load::lex::{Lexer, StrPart, Tok, Token};
use jaq_core::load::parse::{BinaryOp, Def, Parser, Pattern, Term};
use jaq_core::path::Part;

use super::{VARIABLES, Wrong, text};

/// Longer programs are refused.
const TEXT_MAX: usize = 4_096;
/// Brackets, operators and keywords: each may be a level of nesting.
const TOKENS_MAX: usize = 400;

const KEYWORDS: [&str; 12] =
    ["if", "then", "elif", "def", "try", "catch", "label", "reduce", "foreach", "as", "and", "or"];

/// Functions of jq that are not there, and why.
const REFUSED: [(&[&str], &str); 4] = [
    (
        &[
            "now",
            "env",
            "input",
            "inputs",
            "debug",
            "stderr",
            "input_filename",
            "input_line_number",
            "halt",
            "halt_error",
            "localtime",
            "strflocaltime",
        ],
        "is not available here: an expression depends on nothing but the event",
    ),
    (&["repeat", "until", "while"], "could go on for ever"),
    (
        &[
            "infinite",
            "nan",
            "isinfinite",
            "isnan",
            "isnormal",
            "isfinite",
            "sqrt",
            "pow",
            "pow10",
            "log",
            "log2",
            "log10",
            "exp",
            "exp2",
            "exp10",
            "sin",
            "cos",
            "tan",
            "significand",
            "logb",
            "gamma",
        ],
        "is not available here: numbers are exact decimals",
    ),
    (
        &[
            "mktime",
            "gmtime",
            "strftime",
            "strptime",
            "todate",
            "fromdate",
            "date",
            "dateadd",
            "datesub",
            "todateiso8601",
            "fromdateiso8601",
            "tostream",
            "fromstream",
            "truncate_stream",
            "combinations",
            "transpose",
            "ascii",
            "@csv",
            "@tsv",
            "@html",
            "@sh",
        ],
        "is not available here",
    ),
];

/// The names and arities that a program may call.
pub struct Known {
    functions: Vec<(&'static str, usize)>,
}

impl Known {
    pub fn new(prelude: &[Def<&'static str>]) -> Known {
        let defined = prelude.iter().map(|def| (def.name, def.args.len()));
        let native = super::natives::all().map(|(name, args, _)| (name, args.len()));
        let internal = ["error_empty", "path_value", "key_values"];
        let public = |(name, _): &(&'static str, usize)| !name.starts_with("__") && !internal.contains(name);
        Known { functions: defined.chain(native).filter(public).collect() }
    }

    pub fn names(&self) -> Vec<&'static str> {
        let mut names: Vec<&str> = self.functions.iter().map(|(name, _)| *name).collect();
        names.sort_unstable();
        names.dedup();
        names
    }
}

/// The term of a text.
pub fn parse(text: &str) -> Result<Term<&str>, Wrong> {
    if text.len() > TEXT_MAX {
        return Err(format!("an expression cannot be longer than {TEXT_MAX} bytes").into());
    }
    // The lexer goes one level down at each, and both it and the parser recurse.
    if text.bytes().filter(|byte| matches!(byte, b'(' | b'[' | b'{')).count() > TOKENS_MAX {
        return Err(too_long());
    }
    let tokens = Lexer::new(text).lex().map_err(|errors| match errors.first() {
        Some((expected, rest)) => expectation(expected.as_str(), rest),
        None => "this is not jq".into(),
    })?;
    if weight(&tokens) > TOKENS_MAX {
        return Err(too_long());
    }
    Parser::new(&tokens).parse(|parser| parser.term()).map_err(|errors| match errors.first() {
        Some((expected, found)) => expectation(expected.as_str(), found.map_or("", |token| token.0)),
        None => "this is not jq".into(),
    })
}

fn too_long() -> Wrong {
    format!("an expression cannot have more than {TOKENS_MAX} brackets, operators and keywords").into()
}

fn expectation(expected: &str, found: &str) -> Wrong {
    let found: String = found.chars().take(20).collect();
    match found.trim() {
        "" => format!("this is not jq: expected {expected} at its end").into(),
        found => format!("this is not jq: expected {expected} before `{found}`").into(),
    }
}

fn weight(tokens: &[Token<&str>]) -> usize {
    tokens
        .iter()
        .map(|Token(text, token)| match token {
            Tok::Word => usize::from(KEYWORDS.contains(text)),
            Tok::Sym => usize::from(text.len() == 1 || !text.starts_with('.')),
            Tok::Str(parts) => {
                let inner = |part: &StrPart<&str, Token<&str>>| match part {
                    StrPart::Term(token) => 1 + weight(std::slice::from_ref(token)),
                    _ => 0,
                };
                parts.iter().map(inner).sum()
            }
            Tok::Block(inner) => 1 + weight(inner),
            _ => 0,
        })
        .sum()
}

pub fn check(term: &Term<&str>, known: &Known) -> Result<(), Wrong> {
    Walk { known, scope: Vec::new() }.term(term)
}

enum Name<'t> {
    /// `open` while its own body is looked at.
    Def {
        name: &'t str,
        arity: usize,
        open: bool,
    },
    /// An argument of a definition that is a filter.
    Filter(&'t str),
    Variable(&'t str),
    Label(&'t str),
}

struct Walk<'k, 't> {
    known: &'k Known,
    scope: Vec<Name<'t>>,
}

impl<'t> Walk<'_, 't> {
    fn term(&mut self, term: &Term<&'t str>) -> Result<(), Wrong> {
        match term {
            Term::Id | Term::Recurse | Term::Num(_) | Term::Arr(None) => Ok(()),
            Term::Str(format, parts) => {
                if let Some(format) = format {
                    self.call(format, &[])?;
                }
                parts.iter().try_for_each(|part| match part {
                    StrPart::Term(term) => self.term(term),
                    _ => Ok(()),
                })
            }
            Term::Arr(Some(inner)) | Term::Neg(inner) => self.term(inner),
            Term::Obj(fields) => fields.iter().try_for_each(|(name, value)| {
                self.term(name)?;
                value.as_ref().map_or(Ok(()), |value| self.term(value))
            }),
            Term::BinOp(left, op, right) => {
                self.term(left)?;
                let depth = self.scope.len();
                if let BinaryOp::Pipe(Some(pattern)) = op {
                    self.pattern(pattern)?;
                }
                self.term(right)?;
                self.scope.truncate(depth);
                Ok(())
            }
            Term::Label(name, inner) => {
                self.scope.push(Name::Label(name));
                self.term(inner)?;
                self.scope.pop();
                Ok(())
            }
            Term::Break(label) => {
                let known = |name: &Name<'_>| matches!(name, Name::Label(known) if known == label);
                match self.scope.iter().any(known) {
                    true => Ok(()),
                    false => Err(format!("there is no label {label} around this `break`").into()),
                }
            }
            Term::Fold(kind, source, pattern, args) => self.fold(kind, source, pattern, args),
            Term::TryCatch(inner, catch) => {
                self.term(inner)?;
                catch.as_ref().map_or(Ok(()), |catch| self.term(catch))
            }
            Term::IfThenElse(branches, otherwise) => {
                for (condition, then) in branches {
                    self.term(condition)?;
                    self.term(then)?;
                }
                otherwise.as_ref().map_or(Ok(()), |otherwise| self.term(otherwise))
            }
            Term::Def(defs, inner) => {
                let depth = self.scope.len();
                for def in defs {
                    self.def(def)?;
                }
                self.term(inner)?;
                self.scope.truncate(depth);
                Ok(())
            }
            Term::Call(name, args) => self.call(name, args),
            Term::Var(name) => self.variable(name),
            Term::Path(inner, path) => {
                self.term(inner)?;
                path.0.iter().try_for_each(|(part, _)| match part {
                    Part::Index(index) => self.term(index),
                    Part::Range(from, to) => {
                        [from, to].into_iter().flatten().try_for_each(|bound| self.term(bound))
                    }
                })
            }
        }
    }

    fn pattern(&mut self, pattern: &Pattern<&'t str>) -> Result<(), Wrong> {
        match pattern {
            Pattern::Var(name) => self.scope.push(Name::Variable(name)),
            Pattern::Arr(list) => list.iter().try_for_each(|pattern| self.pattern(pattern))?,
            Pattern::Obj(fields) => {
                for (name, pattern) in fields {
                    self.term(name)?;
                    self.pattern(pattern)?;
                }
            }
        }
        Ok(())
    }

    fn fold(
        &mut self,
        kind: &str,
        source: &Term<&'t str>,
        pattern: &Pattern<&'t str>,
        args: &[Term<&'t str>],
    ) -> Result<(), Wrong> {
        if !(args.len() == 2 || args.len() == 3 && kind == "foreach") {
            return Err(
                format!("`{kind}` takes what it begins with and what it does, with a semicolon").into()
            );
        }
        self.term(source)?;
        self.term(&args[0])?;
        let depth = self.scope.len();
        self.pattern(pattern)?;
        args[1..].iter().try_for_each(|arg| self.term(arg))?;
        self.scope.truncate(depth);
        Ok(())
    }

    fn def(&mut self, def: &Def<&'t str>) -> Result<(), Wrong> {
        let own = self.scope.len();
        self.scope.push(Name::Def { name: def.name, arity: def.args.len(), open: true });
        for arg in &def.args {
            self.scope.push(if arg.starts_with('$') { Name::Variable(arg) } else { Name::Filter(arg) });
        }
        self.term(&def.body)?;
        self.scope.truncate(own);
        self.scope.push(Name::Def { name: def.name, arity: def.args.len(), open: false });
        Ok(())
    }

    fn call(&mut self, name: &str, args: &[Term<&'t str>]) -> Result<(), Wrong> {
        args.iter().try_for_each(|arg| self.term(arg))?;
        let local = self.scope.iter().rev().find_map(|known| match known {
            Name::Def { name: known, arity, open } if *known == name && *arity == args.len() => Some(*open),
            Name::Filter(known) if *known == name && args.is_empty() => Some(false),
            _ => None,
        });
        match local {
            Some(true) => {
                Err(format!("the definition of `{name}` calls itself, which could go on for ever").into())
            }
            Some(false) => Ok(()),
            None if self.known.functions.contains(&(name, args.len())) => check_literals(name, args),
            None => Err(self.unknown(name, args.len())),
        }
    }

    fn unknown(&self, name: &str, arity: usize) -> Wrong {
        if let Some((_, why)) = REFUSED.iter().find(|(names, _)| names.contains(&name)) {
            return format!("`{name}` {why}").into();
        }
        let arities: Vec<String> = self
            .known
            .functions
            .iter()
            .filter(|(known, _)| *known == name)
            .map(|(_, arity)| arity.to_string())
            .collect();
        match arities.as_slice() {
            [] => Wrong {
                message: match arity {
                    0 => format!("there is no function `{name}` (a text is written in double quotes)"),
                    _ => format!("there is no function `{name}`"),
                },
                found: name.to_owned(),
                valid: self.known.names(),
            },
            _ if name == "recurse" => "`recurse` with a filter could go on for ever".into(),
            _ => format!("`{name}` takes {} arguments, not {arity}", arities.join(" or ")).into(),
        }
    }

    fn variable(&mut self, name: &str) -> Result<(), Wrong> {
        if self.scope.iter().any(|known| matches!(known, Name::Variable(known) if *known == name)) {
            return Ok(());
        }
        match VARIABLES.into_iter().find(|known| *known == name) {
            Some(_) => Ok(()),
            None if name == "$ENV" => {
                Err("`$ENV` is not available here: an expression depends on nothing but the event".into())
            }
            None => Err(Wrong {
                message: format!("there is no variable `{name}`"),
                found: name.to_owned(),
                valid: VARIABLES.into(),
            }),
        }
    }
}

/// A pattern that is written in the program can be looked at before it is used.
fn check_literals(name: &str, args: &[Term<&str>]) -> Result<(), Wrong> {
    let takes_pattern = match name {
        "test" | "match" | "capture" | "scan" | "splits" | "sub" | "gsub" => true,
        "split" => args.len() == 2,
        _ => false,
    };
    let Some(pattern) = args.first().and_then(literal) else { return Ok(()) };
    if !takes_pattern {
        return Ok(());
    }
    let flags = match (name, args) {
        ("sub" | "gsub", [_, _, flags])
        | ("test" | "match" | "capture" | "scan" | "split" | "splits", [_, flags]) => {
            literal(flags).unwrap_or_default()
        }
        _ => String::new(),
    };
    text::check_pattern(&pattern, &flags).map_err(Wrong::from)
}

/// The text of a string without anything to fill in.
pub fn literal(term: &Term<&str>) -> Option<String> {
    let Term::Str(None, parts) = term else { return None };
    let mut text = String::new();
    for part in parts {
        match part {
            StrPart::Str(part) => text.push_str(part),
            StrPart::Char(char) => text.push(*char),
            StrPart::Term(_) => return None,
        }
    }
    Some(text)
}
