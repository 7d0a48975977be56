//! Everything in a term, one after the other.

use jaq_core::load::lex::StrPart;
use jaq_core::load::parse::{BinaryOp, Pattern, Term};
use jaq_core::path::Part;

/// Names of the functions that a term calls, with or without arguments.
pub fn calls<'t>(term: &Term<&'t str>, found: &mut dyn FnMut(&'t str)) {
    visit(term, &mut |term| match term {
        Term::Call(name, _) => found(name),
        Term::Str(Some(format), _) => found(format),
        _ => {}
    });
}

/// Calls `visit` for a term and everything in it.
fn visit<'t>(term: &Term<&'t str>, each: &mut dyn FnMut(&Term<&'t str>)) {
    each(term);
    match term {
        Term::Id | Term::Recurse | Term::Num(_) | Term::Arr(None) | Term::Break(_) | Term::Var(_) => {}
        Term::Str(_, parts) => {
            for part in parts {
                if let StrPart::Term(term) = part {
                    visit(term, each);
                }
            }
        }
        Term::Arr(Some(inner)) | Term::Neg(inner) | Term::Label(_, inner) => visit(inner, each),
        Term::Obj(fields) => {
            for (name, value) in fields {
                visit(name, each);
                value.iter().for_each(|value| visit(value, each));
            }
        }
        Term::BinOp(left, op, right) => {
            visit(left, each);
            if let BinaryOp::Pipe(Some(pattern)) = op {
                visit_pattern(pattern, each);
            }
            visit(right, each);
        }
        Term::Fold(_, source, pattern, args) => {
            visit(source, each);
            visit_pattern(pattern, each);
            args.iter().for_each(|arg| visit(arg, each));
        }
        Term::TryCatch(inner, catch) => {
            visit(inner, each);
            catch.iter().for_each(|catch| visit(catch, each));
        }
        Term::IfThenElse(branches, otherwise) => {
            for (condition, then) in branches {
                visit(condition, each);
                visit(then, each);
            }
            otherwise.iter().for_each(|otherwise| visit(otherwise, each));
        }
        Term::Def(defs, inner) => {
            defs.iter().for_each(|def| visit(&def.body, each));
            visit(inner, each);
        }
        Term::Call(_, args) => args.iter().for_each(|arg| visit(arg, each)),
        Term::Path(inner, path) => {
            visit(inner, each);
            for (part, _) in &path.0 {
                match part {
                    Part::Index(index) => visit(index, each),
                    Part::Range(from, to) => {
                        [from, to].into_iter().flatten().for_each(|bound| visit(bound, each))
                    }
                }
            }
        }
    }
}

fn visit_pattern<'t>(pattern: &Pattern<&'t str>, each: &mut dyn FnMut(&Term<&'t str>)) {
    match pattern {
        Pattern::Var(_) => {}
        Pattern::Arr(list) => list.iter().for_each(|pattern| visit_pattern(pattern, each)),
        Pattern::Obj(fields) => {
            for (name, pattern) in fields {
                visit(name, each);
                visit_pattern(pattern, each);
            }
        }
    }
}
