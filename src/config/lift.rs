//! Upcasting, done to the mapping instead of to the events: what a mapping reads of the current version
//! of a schema is rewritten to what it has to read of an older one.
//!
//! A path stays a path wherever that is possible. Only what takes a whole document that an older version
//! has in another shape (a `json` column, other jq) becomes a program that gives the document its new
//! shape first.

use std::fmt::Write as _;

use super::model::{Change, Expression, Jq, Path, Root, Upcast};
use crate::jq::{Program, Wrong};

/// What an expression is for an older version.
#[derive(Debug, Clone, PartialEq)]
pub enum Lifted {
    /// There is no such thing in that version.
    Absent,
    Plain(Expression),
    /// The first that is neither absent nor null.
    Or(Box<Lifted>, Box<Lifted>),
}

/// What an expression of the current version is for the version that `steps` begin with; they are in
/// ascending order. `event`: the type of the events that it is for, where one is known. `row_is_event`:
/// `.` and `$event` are the same.
pub fn lift(
    steps: &[&Upcast],
    expression: &Expression,
    event: Option<&str>,
    row_is_event: bool,
) -> Result<Lifted, Wrong> {
    let mut lifted = Lifted::Plain(expression.clone());
    for step in steps.iter().rev().filter(|step| step.is_for(event)) {
        lifted = Step { step, row_is_event }.lifted(lifted)?;
    }
    Ok(lifted)
}

/// The same for a condition, which is jq in any case.
pub fn lift_program(
    steps: &[&Upcast],
    text: &str,
    event: Option<&str>,
    row_is_event: bool,
) -> Result<Jq, Wrong> {
    let mut text = text.to_owned();
    for step in steps.iter().rev().filter(|step| step.is_for(event)) {
        text = Step { step, row_is_event }.program(&text);
    }
    compiled(text)
}

/// The same for what the rows of a list's elements are made of: `.` is an element, which is not upcast, and
/// `$event` the event that it is in.
pub fn lift_element(
    steps: &[&Upcast],
    expression: &Expression,
    event: Option<&str>,
    row_is_event: bool,
) -> Result<Lifted, Wrong> {
    if !row_is_event || !steps.iter().any(|step| step.is_for(event)) {
        return Ok(Lifted::Plain(expression.clone()));
    }
    match expression {
        Expression::Path(path) if path.root == Root::Event => {
            let of_row = Expression::Path(Path { root: Root::Row, fields: path.fields.clone() });
            of_event(lift(steps, &of_row, event, row_is_event)?)
        }
        Expression::Jq(program) if !program.reads.event.is_empty() => {
            let whole = lift_program(steps, ".", event, row_is_event)?.text;
            let text =
                format!(". as $__element | ($event | {whole}) as $event | $__element | {}", program.text);
            compiled(text).map(|program| Lifted::Plain(Expression::Jq(program)))
        }
        other => Ok(Lifted::Plain(other.clone())),
    }
}

/// What reads the event as `.` reads it as `$event`.
fn of_event(lifted: Lifted) -> Result<Lifted, Wrong> {
    Ok(match lifted {
        Lifted::Or(first, second) => Lifted::Or(Box::new(of_event(*first)?), Box::new(of_event(*second)?)),
        Lifted::Plain(Expression::Path(Path { root: Root::Row, fields })) => {
            Lifted::Plain(Expression::Path(Path { root: Root::Event, fields }))
        }
        Lifted::Plain(Expression::Jq(program)) => {
            Lifted::Plain(Expression::Jq(compiled(format!("$event | {}", program.text))?))
        }
        other => other,
    })
}

impl Upcast {
    fn is_for(&self, event: Option<&str>) -> bool {
        match (&self.events, event) {
            (None, _) => true,
            (Some(types), Some(event)) => types.iter().any(|known| known == event),
            (Some(_), None) => false,
        }
    }
}

fn compiled(text: String) -> Result<Jq, Wrong> {
    let reads = Program::compile(&text)?.reads().clone();
    Ok(Jq { text, reads })
}

struct Step<'s> {
    step: &'s Upcast,
    row_is_event: bool,
}

impl Step<'_> {
    fn lifted(&self, lifted: Lifted) -> Result<Lifted, Wrong> {
        Ok(match lifted {
            Lifted::Absent => Lifted::Absent,
            Lifted::Or(first, second) => {
                Lifted::Or(Box::new(self.lifted(*first)?), Box::new(self.lifted(*second)?))
            }
            Lifted::Plain(Expression::Literal(text)) => Lifted::Plain(Expression::Literal(text)),
            Lifted::Plain(Expression::Jq(program)) if !program.reads.value() => {
                Lifted::Plain(Expression::Jq(program))
            }
            Lifted::Plain(Expression::Jq(program)) => self.as_program(&program.text)?,
            Lifted::Plain(Expression::Path(path)) if self.is_in_row(&path) => self.path(&path)?,
            Lifted::Plain(Expression::Path(path)) => Lifted::Plain(Expression::Path(path)),
        })
    }

    fn is_in_row(&self, path: &Path) -> bool {
        path.root == Root::Row || path.root == Root::Event && self.row_is_event
    }

    fn path(&self, path: &Path) -> Result<Lifted, Wrong> {
        let fields = &path.fields[..];
        let rule = self.step.rules.iter().find(|rule| fields.starts_with(&rule.target));
        if let Some(rule) = rule {
            let rest = &fields[rule.target.len()..];
            return self.rule(path, &rule.change, rest);
        }
        let is_around = |other: &Vec<String>| other.starts_with(fields);
        let touched = self.step.rules.iter().any(|rule| {
            is_around(&rule.target)
                || matches!(&rule.change, Change::Rename(old) if old.len() > fields.len() && is_around(old))
        });
        if touched {
            // A part of it has another place in this version.
            return self.as_program(&Path { root: Root::Row, fields: fields.to_vec() }.to_string());
        }
        // What was there has become something else.
        let moved = |change: &Change| matches!(change, Change::Rename(old) if fields.starts_with(old));
        if self.step.rules.iter().any(|rule| moved(&rule.change)) {
            return Ok(Lifted::Absent);
        }
        Ok(Lifted::Plain(Expression::Path(path.clone())))
    }

    /// Of a path to, or below, the target of a rule.
    fn rule(&self, path: &Path, change: &Change, rest: &[String]) -> Result<Lifted, Wrong> {
        Ok(match change {
            Change::Rename(old) => {
                let fields = old.iter().chain(rest).cloned().collect();
                Lifted::Plain(Expression::Path(Path { root: path.root, fields }))
            }
            Change::Set(Expression::Path(from))
                if from.fields.len() + rest.len() <= from.root.depth_max() =>
            {
                let fields = from.fields.iter().chain(rest).cloned().collect();
                Lifted::Plain(Expression::Path(Path { root: from.root, fields }))
            }
            Change::Set(value) if rest.is_empty() => Lifted::Plain(value.clone()),
            Change::Default(value) if rest.is_empty() => Lifted::Or(
                Box::new(Lifted::Plain(Expression::Path(path.clone()))),
                Box::new(Lifted::Plain(value.clone())),
            ),
            Change::Set(_) | Change::Default(_) => {
                return self.as_program(&Path { root: Root::Row, fields: path.fields.clone() }.to_string());
            }
        })
    }

    fn as_program(&self, text: &str) -> Result<Lifted, Wrong> {
        compiled(self.program(text)).map(|program| Lifted::Plain(Expression::Jq(program)))
    }

    /// jq that gives the document its shape of the next version, and then does what it did.
    fn program(&self, text: &str) -> String {
        let row = |fields: &Vec<String>| Path { root: Root::Row, fields: fields.clone() }.to_string();
        let mut out = String::from(". as $__old");
        let moved: Vec<String> = self
            .step
            .rules
            .iter()
            .filter_map(|rule| match &rule.change {
                Change::Rename(old) => Some(row(old)),
                _ => None,
            })
            .collect();
        if !moved.is_empty() {
            let _ = write!(out, " | del({})", moved.join(", "));
        }
        for rule in &self.step.rules {
            let target = row(&rule.target);
            // Writing to a string cannot fail.
            let _ = match &rule.change {
                Change::Rename(old) => {
                    let old = row(old);
                    write!(out, " | if ($__old | {old}) == null then . else {target} = ($__old | {old}) end")
                }
                Change::Set(value) => write!(out, " | {target} = ($__old | {value})"),
                Change::Default(value) => {
                    write!(out, " | if {target} == null then {target} = ($__old | {value}) else . end")
                }
            };
        }
        match self.row_is_event {
            true => format!("({out}) as $event | $event | {text}"),
            false => format!("({out}) | {text}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::model::UpcastRule;
    use crate::jq::{Input, read, write};

    fn fields(path: &str) -> Vec<String> {
        match path.parse().unwrap() {
            Expression::Path(path) => path.fields,
            other => panic!("{other}"),
        }
    }

    /// `target < old` renames, `target ? value` gives a default, `target = value` sets.
    fn step(from: u32, rules: &[&str]) -> Upcast {
        let rule = |text: &&str| {
            let (target, change) = [" < ", " ? ", " = "]
                .into_iter()
                .find_map(|op| Some((text.split_once(op)?, op)))
                .map(|((target, rest), op)| match op {
                    " < " => (target, Change::Rename(fields(rest))),
                    " ? " => (target, Change::Default(rest.parse().unwrap())),
                    _ => (target, Change::Set(rest.parse().unwrap())),
                })
                .unwrap();
            let target = fields(target);
            UpcastRule { target, change }
        };
        let rules = rules.iter().map(rule).collect();
        Upcast { from: from.to_string(), to: (from + 1).to_string(), events: None, rules }
    }

    fn said(lifted: &Lifted) -> String {
        match lifted {
            Lifted::Absent => "nothing".to_owned(),
            Lifted::Plain(Expression::Jq(program)) => format!("jq {}", program.text),
            Lifted::Plain(plain) => plain.to_string(),
            Lifted::Or(first, second) => format!("{} or {}", said(first), said(second)),
        }
    }

    #[test]
    fn paths_stay_paths_where_they_can() {
        let rules = [
            ".total < .sum",
            ".customer.id < .user",
            ".currency ? \"EUR\"",
            ".channel = \"web\"",
            ".weight = .grams / 1000",
            ".place = .meta.origin",
            ".place.x = .never",
        ];
        // The last rule lies below another: what a configuration may not say.
        let step = step(1, &rules[..6]);
        let lifted = |text: &str| said(&lift(&[&step], &text.parse().unwrap(), None, true).unwrap());
        for (text, expected) in [
            (".id", ".id"),
            (".total", ".sum"),
            (".total.x", ".sum.x"),
            ("$event.total", "$event.sum"),
            (".customer.id", ".user"),
            (".customer.name", ".customer.name"),
            (".currency", ".currency or \"EUR\""),
            (".channel", "\"web\""),
            (".weight", "jq .grams / 1000"),
            (".place", ".meta.origin"),
            (".place.lat", ".meta.origin.lat"),
            (".sum", "nothing"),
            (".sum.x", "nothing"),
            (".user", "nothing"),
            ("$key.total", "$key.total"),
            ("$headers.total", "$headers.total"),
            ("42", "42"),
            ("$offset + 1", "jq $offset + 1"),
        ] {
            assert_eq!(lifted(text), expected, "{text}");
        }
        // A part of these has another place.
        for text in [".", ".customer", ".lines | length", ".total + 1", "$event", ".currency.x"] {
            assert!(lifted(text).starts_with("jq (. as $__old | del(.sum, .user) "), "{}", lifted(text));
        }
        let only_row = said(&lift(&[&step], &"$event.total".parse().unwrap(), None, false).unwrap());
        assert_eq!(only_row, "$event.total", "an envelope is not upcast");
    }

    #[test]
    fn a_lifted_program_sees_the_new_shape() {
        let first = step(1, &[".total < .sum", ".currency ? \"EUR\"", ".customer.id < .user"]);
        let second =
            step(2, &[".amount.value < .total", ".amount.currency < .currency", ".kind = \"order\""]);
        let run = |text: &str, event: &str| {
            let Lifted::Plain(Expression::Jq(program)) =
                lift(&[&first, &second], &text.parse().unwrap(), None, true).unwrap()
            else {
                panic!("{text}")
            };
            let row = read(event).unwrap();
            let mut input = Input { row: row.clone(), bytes: event.len(), ..Input::default() };
            input.variables[0] = row;
            let output = Program::compile(&program.text).unwrap().run(&input);
            output.unwrap().map(|value| write(&value, 1_000).unwrap()).unwrap_or_default()
        };
        let whole = r#"{"amount":{"currency":"EUR","value":1.50},"customer":{"id":7},"id":1,"kind":"order"}"#;
        assert_eq!(run(".", r#"{"id":1,"sum":1.50,"user":7}"#), whole);
        assert_eq!(run("$event", r#"{"id":1,"sum":1.50,"user":7,"currency":null}"#), whole);
        assert_eq!(run(".amount", r#"{"id":1,"currency":"CHF"}"#), r#"{"currency":"CHF"}"#);
        assert_eq!(run(".amount.value * 2 + $event.id", r#"{"id":1,"sum":1.50}"#), "4");
        // Paths go through both steps.
        let path = |text: &str| said(&lift(&[&first, &second], &text.parse().unwrap(), None, true).unwrap());
        assert_eq!(path(".amount.value"), ".sum");
        assert_eq!(path(".amount.currency"), ".currency or \"EUR\"");
        assert_eq!(path(".total"), "nothing");
        assert_eq!(path(".kind"), "\"order\"");
    }

    #[test]
    fn elements_keep_their_shape_and_their_event_gets_the_new_one() {
        let step =
            step(1, &[".total < .sum", ".currency ? \"EUR\"", ".weight = .grams / 1000", ".place = .origin"]);
        let lifted = |text: &str| lift_element(&[&step], &text.parse().unwrap(), None, true).unwrap();
        for (text, expected) in [
            (".total", ".total"),
            (".", "."),
            ("$event.id", "$event.id"),
            ("$event.total", "$event.sum"),
            ("$event.sum", "nothing"),
            ("$event.place.lat", "$event.origin.lat"),
            ("$event.currency", "$event.currency or \"EUR\""),
            ("$event.weight", "jq $event | .grams / 1000"),
            (".total + 1", "jq .total + 1"),
        ] {
            assert_eq!(said(&lifted(text)), expected, "{text}");
        }
        let run = |text: &str, element: &str, event: &str| {
            let Lifted::Plain(Expression::Jq(program)) = lifted(text) else { panic!("{text}") };
            let mut input = Input { row: read(element).unwrap(), bytes: 1_000, ..Input::default() };
            input.variables[0] = read(event).unwrap();
            let output = Program::compile(&program.text).unwrap().run(&input).unwrap();
            output.map(|value| write(&value, 1_000).unwrap()).unwrap_or_default()
        };
        assert_eq!(run(".total + $event.total", r#"{"total":2}"#, r#"{"sum":5,"grams":1}"#), "7");
        assert_eq!(
            run("$event", "{}", r#"{"sum":5,"grams":1000}"#),
            r#"{"currency":"EUR","grams":1000,"place":null,"total":5,"weight":1}"#
        );
    }

    #[test]
    fn steps_may_be_for_some_types_only() {
        let mut only = step(1, &[".total < .sum"]);
        only.events = Some(vec!["Placed".into()]);
        let lifted = |event| said(&lift(&[&only], &".total".parse().unwrap(), event, true).unwrap());
        assert_eq!(lifted(Some("Placed")), ".sum");
        assert_eq!(lifted(Some("Shipped")), ".total");
        assert_eq!(lifted(None), ".total");
    }

    #[test]
    fn odd_names_are_quoted() {
        let step = step(1, &[r#"."new name" < ."old \"name\"""#, ".b < .a"]);
        let Lifted::Plain(Expression::Jq(program)) =
            lift(&[&step], &".".parse().unwrap(), None, true).unwrap()
        else {
            panic!()
        };
        let row = read(r#"{"old \"name\"":1,"a":2}"#).unwrap();
        let output = Program::compile(&program.text).unwrap().run(&Input { row, ..Input::default() });
        assert_eq!(write(&output.unwrap().unwrap(), 100).unwrap(), r#"{"b":2,"new name":1}"#);
    }
}
