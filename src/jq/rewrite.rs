//! Fuel: wherever a program may evaluate something again, it goes through [`TICK`] first, which fails
//! when the budget is used up.
//!
//! What repeats is a comma, a call, the body of a `reduce` or `foreach`, and what iterates over values;
//! the last is counted by the values themselves (`access`). Everything between two of these costs no
//! more than the program is long.

use jaq_core::load::lex::StrPart;
use jaq_core::load::parse::{BinaryOp, Def, Pattern, Term};
use jaq_core::path::{Part, Path};

use super::natives::TICK;

fn tick(term: Term<&str>) -> Term<&str> {
    Term::BinOp(Box::new(Term::Call(TICK, Vec::new())), BinaryOp::Pipe(None), Box::new(term))
}

pub fn definition(def: Def<&str>) -> Def<&str> {
    Def { name: def.name, args: def.args, body: counted(def.body) }
}

/// The same program, counted.
pub fn counted<'t>(term: Term<&'t str>) -> Term<&'t str> {
    match term {
        Term::Id | Term::Recurse | Term::Num(_) | Term::Arr(None) | Term::Break(_) | Term::Var(_) => term,
        Term::Str(format, parts) => {
            let parts = parts.into_iter().map(|part| match part {
                StrPart::Term(term) => StrPart::Term(counted(term)),
                StrPart::Str(text) => StrPart::Str(text),
                StrPart::Char(char) => StrPart::Char(char),
            });
            Term::Str(format, parts.collect())
        }
        Term::Arr(Some(inner)) => Term::Arr(Some(boxed(inner))),
        Term::Neg(inner) => Term::Neg(boxed(inner)),
        Term::Obj(fields) => {
            let field = |(name, value): (Term<&'t str>, Option<Term<&'t str>>)| match (name, value) {
                // `{$x}` takes the name of the variable.
                (name @ Term::Var(_), None) => (name, None),
                (name, value) => (counted(name), value.map(counted)),
            };
            Term::Obj(fields.into_iter().map(field).collect())
        }
        Term::BinOp(left, BinaryOp::Comma, right) => {
            let side = |term: Box<Term<&'t str>>| Box::new(tick(counted(*term)));
            Term::BinOp(side(left), BinaryOp::Comma, side(right))
        }
        Term::BinOp(left, BinaryOp::Pipe(Some(binding)), right) => {
            Term::BinOp(boxed(left), BinaryOp::Pipe(Some(pattern(binding))), boxed(right))
        }
        Term::BinOp(left, op, right) => Term::BinOp(boxed(left), op, boxed(right)),
        Term::Label(name, inner) => Term::Label(name, boxed(inner)),
        Term::Fold(kind, source, binding, args) => {
            let args = args.into_iter().enumerate().map(|(index, arg)| match index {
                0 => counted(arg),
                _ => tick(counted(arg)),
            });
            let args = args.collect();
            Term::Fold(kind, boxed(source), pattern(binding), args)
        }
        Term::TryCatch(inner, catch) => Term::TryCatch(boxed(inner), catch.map(boxed)),
        Term::IfThenElse(branches, otherwise) => {
            let branch = |(condition, then)| (counted(condition), counted(then));
            Term::IfThenElse(branches.into_iter().map(branch).collect(), otherwise.map(boxed))
        }
        Term::Def(defs, inner) => Term::Def(defs.into_iter().map(definition).collect(), boxed(inner)),
        Term::Call(name, args) => tick(Term::Call(name, args.into_iter().map(counted).collect())),
        Term::Path(inner, path) => {
            let part = |part: Part<Term<&'t str>>| match part {
                Part::Index(index) => Part::Index(counted(index)),
                Part::Range(from, to) => Part::Range(from.map(counted), to.map(counted)),
            };
            let parts = path.0.into_iter().map(|(each, opt)| (part(each), opt));
            Term::Path(boxed(inner), Path(parts.collect()))
        }
    }
}

fn boxed(mut term: Box<Term<&str>>) -> Box<Term<&str>> {
    *term = counted(std::mem::take(&mut *term));
    term
}

fn pattern(pattern: Pattern<&str>) -> Pattern<&str> {
    match pattern {
        Pattern::Var(name) => Pattern::Var(name),
        Pattern::Arr(list) => Pattern::Arr(list.into_iter().map(self::pattern).collect()),
        Pattern::Obj(fields) => {
            let field = |(name, inner)| (counted(name), self::pattern(inner));
            Pattern::Obj(fields.into_iter().map(field).collect())
        }
    }
}
