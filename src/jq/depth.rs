//! How deep a program nests while it runs: the interpreter takes some kilobytes of stack for each level,
//! and a definition nests what it is given.

use std::rc::Rc;

use jaq_core::load::lex::StrPart;
use jaq_core::load::parse::{BinaryOp, Def, Pattern, Term};
use jaq_core::path::Part;

use super::Wrong;

/// About 4 KiB of stack each.
const LEVELS_MAX: u32 = 150;
/// Of a native function.
const NATIVE: u32 = 3;
/// Terms that are looked at, each as often as it is used.
const LOOKS_MAX: u32 = 50_000;

/// Names in scope, the innermost first.
type Env<'a, 't> = Option<Rc<Scope<'a, 't>>>;

struct Scope<'a, 't> {
    binding: Binding<'a, 't>,
    outer: Env<'a, 't>,
}

enum Binding<'a, 't> {
    Def(&'a Def<&'t str>),
    /// An argument that is a filter, with what is in scope where it was written.
    Filter(&'t str, &'a Term<&'t str>, Env<'a, 't>),
}

/// Refuses a program that nests too deep; `defs` are in scope, each behind those it calls.
pub fn check<'t>(term: &Term<&'t str>, defs: &[Def<&'t str>]) -> Result<(), Wrong> {
    let mut env: Env<'_, 't> = None;
    for def in defs {
        env = Some(Rc::new(Scope { binding: Binding::Def(def), outer: env }));
    }
    let mut looks = 0;
    match depth(term, &env, &mut looks, 0) {
        Some(_) => Ok(()),
        None if looks > LOOKS_MAX => Err("the definitions in this call each other too often".into()),
        None => Err(format!("this nests too deep: more than {LEVELS_MAX} levels while it runs").into()),
    }
}

/// Levels below and with this term; `None`: too many in all, `above` being those around it.
fn depth<'a, 't>(term: &'a Term<&'t str>, env: &Env<'a, 't>, looks: &mut u32, above: u32) -> Option<u32> {
    *looks += 1;
    if *looks > LOOKS_MAX || above >= LEVELS_MAX {
        return None;
    }
    let mut below = 0;
    let mut take = |term: &'a Term<&'t str>, env: &Env<'a, 't>, more: u32| {
        below = below.max(more + depth(term, env, looks, above + 1 + more)?);
        Some(())
    };
    match term {
        Term::Id | Term::Recurse | Term::Num(_) | Term::Arr(None) | Term::Break(_) | Term::Var(_) => {}
        Term::Str(_, parts) => {
            // A sum of its parts, which nests to the right.
            for (index, part) in parts.iter().enumerate() {
                if let StrPart::Term(term) = part {
                    take(term, env, 1 + index as u32)?;
                }
            }
        }
        Term::Arr(Some(inner)) | Term::Neg(inner) | Term::Label(_, inner) => take(inner, env, 0)?,
        Term::Obj(fields) => {
            for (index, (name, value)) in fields.iter().enumerate() {
                take(name, env, 1 + index as u32)?;
                if let Some(value) = value {
                    take(value, env, 1 + index as u32)?;
                }
            }
        }
        Term::BinOp(left, op, right) => {
            take(left, env, 0)?;
            if let BinaryOp::Pipe(Some(pattern)) = op {
                names(pattern, &mut |name| take(name, env, 1))?;
            }
            take(right, env, 0)?;
        }
        Term::Fold(_, source, pattern, args) => {
            take(source, env, 0)?;
            names(pattern, &mut |name| take(name, env, 1))?;
            args.iter().try_for_each(|arg| take(arg, env, 1))?;
        }
        Term::TryCatch(inner, catch) => {
            take(inner, env, 0)?;
            catch.iter().try_for_each(|catch| take(catch, env, 0))?;
        }
        Term::IfThenElse(branches, otherwise) => {
            for (index, (condition, then)) in branches.iter().enumerate() {
                take(condition, env, index as u32)?;
                take(then, env, index as u32)?;
            }
            let last = branches.len() as u32;
            otherwise.iter().try_for_each(|otherwise| take(otherwise, env, last))?;
        }
        Term::Def(defs, inner) => {
            let mut env = env.clone();
            for def in defs {
                env = Some(Rc::new(Scope { binding: Binding::Def(def), outer: env }));
            }
            take(inner, &env, 0)?;
        }
        Term::Call(name, args) => match find(env, name, args.len()) {
            Some((Binding::Filter(_, term, of), _)) => take(term, of, 0)?,
            Some((Binding::Def(def), outer)) => {
                let mut inner = outer.clone();
                for (arg, given) in def.args.iter().zip(args) {
                    if arg.starts_with('$') {
                        take(given, env, 1)?;
                    } else {
                        let binding = Binding::Filter(arg, given, env.clone());
                        inner = Some(Rc::new(Scope { binding, outer: inner }));
                    }
                }
                take(&def.body, &inner, 1)?;
            }
            None => {
                args.iter().try_for_each(|arg| take(arg, env, NATIVE))?;
                below = below.max(NATIVE);
            }
        },
        Term::Path(inner, path) => {
            take(inner, env, 0)?;
            for (index, (part, _)) in path.0.iter().enumerate() {
                match part {
                    Part::Index(term) => take(term, env, 1 + index as u32)?,
                    Part::Range(from, to) => {
                        [from, to].into_iter().flatten().try_for_each(|term| take(term, env, 2))?;
                    }
                }
            }
        }
    }
    Some(below + 1)
}

fn names<'a, 't>(
    pattern: &'a Pattern<&'t str>,
    take: &mut impl FnMut(&'a Term<&'t str>) -> Option<()>,
) -> Option<()> {
    match pattern {
        Pattern::Var(_) => Some(()),
        Pattern::Arr(list) => list.iter().try_for_each(|pattern| names(pattern, take)),
        Pattern::Obj(fields) => fields.iter().try_for_each(|(name, pattern)| {
            take(name)?;
            names(pattern, take)
        }),
    }
}

/// What a call calls, and what is in scope around a definition: those before it.
fn find<'e, 'a, 't>(
    mut env: &'e Env<'a, 't>,
    name: &str,
    arity: usize,
) -> Option<(&'e Binding<'a, 't>, &'e Env<'a, 't>)> {
    while let Some(scope) = env {
        let found = match &scope.binding {
            Binding::Def(def) => def.name == name && def.args.len() == arity,
            Binding::Filter(known, ..) => *known == name && arity == 0,
        };
        if found {
            return Some((&scope.binding, &scope.outer));
        }
        env = &scope.outer;
    }
    None
}
