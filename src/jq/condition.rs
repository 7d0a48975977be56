//! Conditions that need no program: comparisons of a path with a constant, and what `and`, `or` and
//! `not` make of them. They mean what jq makes of the same text.

use std::cmp::Ordering;

use jaq_core::load::lex::StrPart;
use jaq_core::load::parse::{BinaryOp, Term};
use jaq_core::ops::Cmp;
use jaq_core::path::{Opt, Part};

use super::check::{self, literal};
use super::value::Val;
use super::{VARIABLES, budget, json};

/// More comparisons are left to the interpreter.
const TESTS_MAX: usize = 64;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Condition {
    /// The value at a path is neither null nor false.
    Is(From),
    Compare(From, Comparison, Constant),
    Not(Box<Condition>),
    All(Vec<Condition>),
    Any(Vec<Condition>),
}

/// A path from `.` or from a variable.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct From {
    /// One of [`VARIABLES`]; `None`: `.`.
    pub variable: Option<&'static str>,
    pub fields: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Comparison {
    Equal,
    Unequal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// A scalar as JSON text.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Constant(String);

impl Condition {
    /// In two: of what has to hold, that which looks at nothing but paths of the one kind, and the rest.
    pub fn split(self, is_one: &impl Fn(&From) -> bool) -> [Option<Condition>; 2] {
        let mut parts = [Vec::new(), Vec::new()];
        self.sort(is_one, &mut parts);
        parts.map(|mut list| if list.len() > 1 { Some(Condition::All(list)) } else { list.pop() })
    }

    fn sort(self, is_one: &impl Fn(&From) -> bool, parts: &mut [Vec<Condition>; 2]) {
        match self {
            Condition::All(list) => list.into_iter().for_each(|each| each.sort(is_one, parts)),
            other => parts[usize::from(!other.reads_only(is_one))].push(other),
        }
    }

    fn reads_only(&self, is_one: &impl Fn(&From) -> bool) -> bool {
        match self {
            Condition::Is(from) | Condition::Compare(from, ..) => is_one(from),
            Condition::Not(inner) => inner.reads_only(is_one),
            Condition::All(list) | Condition::Any(list) => list.iter().all(|each| each.reads_only(is_one)),
        }
    }

    /// Whether it looks at the value of a record.
    pub fn reads_value(&self) -> bool {
        match self {
            Condition::Is(from) | Condition::Compare(from, ..) => {
                from.variable.is_none_or(|variable| variable == "$event")
            }
            Condition::Not(inner) => inner.reads_value(),
            Condition::All(list) | Condition::Any(list) => list.iter().any(Condition::reads_value),
        }
    }
}

impl Constant {
    pub fn json(&self) -> &str {
        &self.0
    }

    /// How a JSON value compares with it; `None`: the value cannot be read.
    pub fn compare(&self, value: &str) -> Option<Ordering> {
        // Most are the same text, or another one without escapes.
        if value == self.0 {
            return Some(Ordering::Equal);
        }
        budget::begin(value.len() + self.0.len());
        let (value, constant) = (json::read(value).ok()?, json::read(&self.0).ok()?);
        let order = value.cmp(&constant);
        budget::met().is_none().then_some(order)
    }
}

impl Comparison {
    pub fn holds(self, order: Ordering) -> bool {
        match self {
            Comparison::Equal => order.is_eq(),
            Comparison::Unequal => order.is_ne(),
            Comparison::Less => order.is_lt(),
            Comparison::LessOrEqual => order.is_le(),
            Comparison::Greater => order.is_gt(),
            Comparison::GreaterOrEqual => order.is_ge(),
        }
    }

    /// As seen from the other side.
    fn turned(self) -> Comparison {
        match self {
            Comparison::Less => Comparison::Greater,
            Comparison::LessOrEqual => Comparison::GreaterOrEqual,
            Comparison::Greater => Comparison::Less,
            Comparison::GreaterOrEqual => Comparison::LessOrEqual,
            same => same,
        }
    }
}

/// The condition that a valid program is; `None`: it takes an interpreter.
pub fn simple(text: &str) -> Option<Condition> {
    let mut left = TESTS_MAX;
    condition(&check::parse(text).ok()?, &mut left)
}

fn condition(term: &Term<&str>, left: &mut usize) -> Option<Condition> {
    *left = left.checked_sub(1)?;
    if let Some(from) = from(term) {
        return Some(Condition::Is(from));
    }
    let Term::BinOp(a, op, b) = term else { return None };
    Some(match op {
        BinaryOp::Pipe(None) if matches!(&**b, Term::Call("not", args) if args.is_empty()) => {
            Condition::Not(Box::new(condition(a, left)?))
        }
        BinaryOp::And => Condition::All(joined(a, b, left, |condition| match condition {
            Condition::All(list) => Ok(list),
            other => Err(other),
        })?),
        BinaryOp::Or => Condition::Any(joined(a, b, left, |condition| match condition {
            Condition::Any(list) => Ok(list),
            other => Err(other),
        })?),
        BinaryOp::Cmp(op) => {
            let comparison = comparison(*op);
            match (from(a), constant(b)) {
                (Some(from), Some(constant)) => Condition::Compare(from, comparison, constant),
                _ => Condition::Compare(from(b)?, comparison.turned(), constant(a)?),
            }
        }
        _ => return None,
    })
}

fn joined(
    a: &Term<&str>,
    b: &Term<&str>,
    left: &mut usize,
    list: impl Fn(Condition) -> Result<Vec<Condition>, Condition>,
) -> Option<Vec<Condition>> {
    let mut all = list(condition(a, left)?).unwrap_or_else(|one| vec![one]);
    all.extend(list(condition(b, left)?).unwrap_or_else(|one| vec![one]));
    Some(all)
}

fn comparison(op: Cmp) -> Comparison {
    match op {
        Cmp::Eq => Comparison::Equal,
        Cmp::Ne => Comparison::Unequal,
        Cmp::Lt => Comparison::Less,
        Cmp::Le => Comparison::LessOrEqual,
        Cmp::Gt => Comparison::Greater,
        Cmp::Ge => Comparison::GreaterOrEqual,
    }
}

fn from(term: &Term<&str>) -> Option<From> {
    let (root, path) = match term {
        Term::Path(root, path) => (&**root, &path.0[..]),
        root => (root, &[][..]),
    };
    let variable = match root {
        // `.` alone is no field.
        Term::Id if !path.is_empty() => None,
        Term::Var(name) => Some(VARIABLES.into_iter().find(|known| known == name)?),
        _ => return None,
    };
    let field = |(part, opt): &(Part<Term<&str>>, Opt)| match (part, opt) {
        (Part::Index(index), Opt::Essential) => literal(index),
        _ => None,
    };
    Some(From { variable, fields: path.iter().map(field).collect::<Option<_>>()? })
}

fn constant(term: &Term<&str>) -> Option<Constant> {
    let json = match term {
        Term::Call(word @ ("true" | "false" | "null"), args) if args.is_empty() => (*word).to_owned(),
        Term::Num(number) => super::number::Num::parse(number)?.to_string(),
        Term::Neg(inner) => match &**inner {
            Term::Num(number) => super::number::Num::parse(&format!("-{number}"))?.to_string(),
            _ => return None,
        },
        Term::Str(None, parts) if parts.iter().all(|part| !matches!(part, StrPart::Term(_))) => {
            // Quoting a string cannot fail.
            serde_json::to_string(&literal(term)?).ok()?
        }
        _ => return None,
    };
    Some(Constant(json))
}

/// Whether a JSON value is neither null nor false.
pub fn is_true(value: &str) -> bool {
    !matches!(value, "null" | "false")
}

/// The value that a program gave, as a condition has it.
pub fn holds(value: Option<&Val>) -> bool {
    value.is_some_and(Val::is_true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jq::{Input, Program, read};
    use proptest::prelude::*;

    /// Of `.` alone.
    fn meets(condition: &Condition, event: &serde_json::Value) -> bool {
        let at = |from: &From| {
            let found = from.fields.iter().fold(event, |at, name| &at[name.as_str()]);
            found.to_string()
        };
        match condition {
            Condition::Is(from) => is_true(&at(from)),
            Condition::Compare(from, comparison, constant) => {
                comparison.holds(constant.compare(&at(from)).unwrap())
            }
            Condition::Not(inner) => !meets(inner, event),
            Condition::All(all) => all.iter().all(|each| meets(each, event)),
            Condition::Any(any) => any.iter().any(|each| meets(each, event)),
        }
    }

    #[test]
    fn what_needs_no_program_is_recognised() {
        for text in [
            ".a",
            ".a.b == \"x\"",
            "\"x\" != .a[\"b c\"]",
            ".a > -1.5 and .b <= 10",
            "(.a or .b == null) and (.c | not)",
            "$headers.kind == \"x\"",
            "$topic == \"t\"",
            "$event.op != \"d\"",
            ".a == true or .a == false",
        ] {
            assert!(Program::compile(text).is_ok());
            assert!(simple(text).is_some(), "{text}");
        }
        for text in [
            ".",
            ".a == .b",
            ".a[0] == 1",
            ".a? == 1",
            ".a | length > 1",
            ".a + 1 == 2",
            "\"\\(.a)\" == \"x\"",
            ".a == (1, 2)",
            ".a == [1]",
            "if .a then .b else .c end",
            "any(.a[]; . > 1)",
            ".a as $x | $x == 1",
            "1 == 1",
        ] {
            assert!(simple(text).is_none(), "{text}");
        }
    }

    fn condition() -> impl Strategy<Value = String> {
        let constant = prop::sample::select(vec![
            "1",
            "1.0",
            "-2",
            "0.5",
            "10",
            "\"a\"",
            "\"ab\"",
            "\"a\\\"b\"",
            "true",
            "false",
            "null",
            "9007199254740993",
        ]);
        let path = prop::sample::select(vec![".a", ".b", ".c.d", ".x"]);
        let op = prop::sample::select(vec!["==", "!=", "<", "<=", ">", ">="]);
        let test = prop_oneof![
            (path.clone(), op.clone(), constant.clone()).prop_map(|(a, op, b)| format!("{a} {op} {b}")),
            (constant, op, path.clone()).prop_map(|(a, op, b)| format!("{a} {op} {b}")),
            path.prop_map(str::to_owned),
        ];
        test.prop_recursive(3, 8, 2, |inner| {
            prop_oneof![
                (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a}) and ({b})")),
                (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("{a} or {b}")),
                inner.prop_map(|a| format!("({a} | not)")),
            ]
        })
    }

    fn scalar() -> impl Strategy<Value = serde_json::Value> {
        prop::sample::select(vec![
            "1",
            "-2",
            "0.5",
            "10",
            "\"a\"",
            "\"a\\\"b\"",
            "\"b\"",
            "true",
            "false",
            "null",
            "[1]",
            "{}",
            "9007199254740993",
        ])
        .prop_map(|text| serde_json::from_str(text).unwrap())
    }

    proptest! {
        /// The interpreter says the same of the same text.
        #[test]
        fn a_condition_is_what_jq_makes_of_it(text in condition(), a in scalar(), b in scalar(), d in scalar()) {
            let event = serde_json::json!({ "a": a, "b": b, "c": { "d": d } });
            let Some(condition) = simple(&text) else { return Err(TestCaseError::fail(text)) };
            let input = Input { row: read(&event.to_string()).unwrap(), ..Input::default() };
            let output = Program::compile(&text).unwrap().run(&input).unwrap();
            prop_assert_eq!(meets(&condition, &event), holds(output.as_ref()), "{} {}", text, event);
        }
    }
}
