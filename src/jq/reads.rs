//! Which parts of an event a program looks at, as far as can be told without running it; where it cannot
//! be told, all of it.

use jaq_core::load::lex::StrPart;
use jaq_core::load::parse::{BinaryOp, Pattern, Term};
use jaq_core::path::{Part, Path};

use super::VARIABLES;
use super::check::literal;

/// Names of fields from `.` or `$event` down.
pub type Place = Vec<String>;

/// What a program reads. A place stands for everything below it; the empty one for the whole.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Reads {
    pub row: Vec<Place>,
    pub event: Vec<Place>,
    /// The other variables of the record that it names.
    pub variables: Vec<&'static str>,
}

impl Reads {
    pub fn of(term: &Term<&str>) -> Reads {
        let mut walk = Walk { reads: Reads::default(), bound: Vec::new(), own: Vec::new() };
        let output = walk.flow(term, &At::Row(Vec::new()));
        walk.use_all(&output);
        walk.reads
    }

    /// Whether it looks at the value of a record at all.
    pub fn value(&self) -> bool {
        !self.row.is_empty() || !self.event.is_empty()
    }

    pub fn names(&self, variable: &str) -> bool {
        self.variables.contains(&variable) || variable == "$event" && !self.event.is_empty()
    }
}

/// Where a value that flows through a program comes from.
#[derive(Debug, Clone, PartialEq)]
enum At {
    Row(Place),
    Event(Place),
    /// Made by the program, or used already.
    Other,
}

struct Walk<'t> {
    reads: Reads,
    bound: Vec<(&'t str, At)>,
    /// Names that the program defines somewhere: whatever else they are called, they are its own.
    own: Vec<&'t str>,
}

/// Functions that look at their arguments alone, and how many those are. The arguments are of the input.
const OF_ARGUMENTS: [(&str, usize); 11] = [
    ("first", 1),
    ("last", 1),
    ("limit", 2),
    ("skip", 2),
    ("nth", 2),
    ("isempty", 1),
    ("add", 1),
    ("range", 1),
    ("range", 2),
    ("range", 3),
    ("error", 1),
];

impl<'t> Walk<'t> {
    fn use_all(&mut self, at: &At) {
        let (list, place) = match at {
            At::Row(place) => (&mut self.reads.row, place),
            At::Event(place) => (&mut self.reads.event, place),
            At::Other => return,
        };
        if list.iter().any(|known| place.starts_with(known)) {
            return;
        }
        list.retain(|known| !known.starts_with(place));
        list.push(place.clone());
    }

    /// Everything that a term gives is looked at.
    fn used(&mut self, term: &Term<&'t str>, at: &At) {
        let output = self.flow(term, at);
        self.use_all(&output);
    }

    /// Where the outputs of a term come from, for a given input.
    fn flow(&mut self, term: &Term<&'t str>, at: &At) -> At {
        match term {
            Term::Id => return at.clone(),
            Term::Recurse => self.use_all(at),
            Term::Num(_) | Term::Arr(None) | Term::Break(_) => {}
            Term::Str(_, parts) => {
                for part in parts {
                    if let StrPart::Term(term) = part {
                        self.used(term, at);
                    }
                }
            }
            Term::Arr(Some(inner)) | Term::Neg(inner) => self.used(inner, at),
            Term::Obj(fields) => {
                for (name, value) in fields {
                    match (value, literal(name)) {
                        (None, Some(name)) => {
                            let field = below(at, name);
                            self.use_all(&field);
                        }
                        (None, None) => {
                            self.used(name, at);
                            // `{"\(.a)"}` is a field of the input, whichever.
                            if !matches!(name, Term::Var(_)) {
                                self.use_all(at);
                            }
                        }
                        (Some(value), _) => {
                            self.used(name, at);
                            self.used(value, at);
                        }
                    }
                }
            }
            Term::BinOp(left, op, right) => return self.operation(left, op, right, at),
            Term::Label(_, inner) => return self.flow(inner, at),
            Term::Fold(_, source, pattern, args) => {
                self.used(source, at);
                let depth = self.bound.len();
                if let Some(init) = args.first() {
                    self.used(init, at);
                }
                self.bind(pattern, At::Other);
                args.iter().skip(1).for_each(|arg| self.used(arg, &At::Other));
                self.bound.truncate(depth);
            }
            Term::TryCatch(inner, catch) => {
                if let Some(catch) = catch {
                    self.used(catch, &At::Other);
                }
                return self.flow(inner, at);
            }
            Term::IfThenElse(branches, otherwise) => {
                for (condition, then) in branches {
                    self.used(condition, at);
                    self.used(then, at);
                }
                match otherwise {
                    Some(otherwise) => self.used(otherwise, at),
                    None => self.use_all(at),
                }
            }
            Term::Def(defs, inner) => {
                // Called from wherever: what they name by a variable is read, and calls use their input.
                let names = defs.iter().flat_map(|def| def.args.iter().copied().chain([def.name]));
                self.own.extend(names);
                defs.iter().for_each(|def| self.used(&def.body, &At::Other));
                return self.flow(inner, at);
            }
            Term::Call(name, args) => return self.call(name, args, at),
            Term::Var(name) => return self.variable(name),
            Term::Path(inner, path) => return self.path(inner, path, at),
        }
        At::Other
    }

    fn operation(
        &mut self,
        left: &Term<&'t str>,
        op: &BinaryOp<&'t str>,
        right: &Term<&'t str>,
        at: &At,
    ) -> At {
        match op {
            BinaryOp::Pipe(None) => {
                let between = self.flow(left, at);
                return self.flow(right, &between);
            }
            BinaryOp::Pipe(Some(pattern)) => {
                let value = self.flow(left, at);
                let depth = self.bound.len();
                self.bind(pattern, value);
                let output = self.flow(right, at);
                self.bound.truncate(depth);
                return output;
            }
            BinaryOp::Assign | BinaryOp::Update | BinaryOp::UpdateMath(_) | BinaryOp::UpdateAlt => {
                self.use_all(at);
                self.used(left, at);
                self.used(right, at);
            }
            _ => {
                self.used(left, at);
                self.used(right, at);
            }
        }
        At::Other
    }

    fn bind(&mut self, pattern: &Pattern<&'t str>, value: At) {
        match pattern {
            Pattern::Var(name) => self.bound.push((name, value)),
            Pattern::Arr(list) => {
                self.use_all(&value);
                list.iter().for_each(|pattern| self.bind(pattern, At::Other));
            }
            Pattern::Obj(fields) => {
                for (name, pattern) in fields {
                    match literal(name) {
                        Some(name) => self.bind(pattern, below(&value, name)),
                        None => {
                            self.use_all(&value);
                            self.used(name, &At::Other);
                            self.bind(pattern, At::Other);
                        }
                    }
                }
            }
        }
    }

    fn call(&mut self, name: &str, args: &[Term<&'t str>], at: &At) -> At {
        match (name, args) {
            (name, args) if self.own.contains(&name) => self.call_any(args, at),
            ("empty" | "true" | "false" | "null", []) => {}
            ("select", [condition]) => {
                self.used(condition, at);
                return at.clone();
            }
            // The second is of what the first gives.
            ("any" | "all", [first, second]) => {
                self.used(first, at);
                self.used(second, &At::Other);
            }
            (name, args) if OF_ARGUMENTS.contains(&(name, args.len())) => {
                args.iter().for_each(|arg| self.used(arg, at));
            }
            (_, args) => self.call_any(args, at),
        }
        At::Other
    }

    /// Of a function that may do anything with its input.
    fn call_any(&mut self, args: &[Term<&'t str>], at: &At) {
        self.use_all(at);
        args.iter().for_each(|arg| self.used(arg, &At::Other));
    }

    fn variable(&mut self, name: &str) -> At {
        if let Some((_, at)) = self.bound.iter().rev().find(|(known, _)| *known == name) {
            return at.clone();
        }
        if name == "$event" {
            return At::Event(Vec::new());
        }
        if let Some(known) = VARIABLES.into_iter().find(|known| *known == name)
            && !self.reads.variables.contains(&known)
        {
            self.reads.variables.push(known);
        }
        At::Other
    }

    fn path(&mut self, inner: &Term<&'t str>, path: &Path<Term<&'t str>>, at: &At) -> At {
        let mut place = self.flow(inner, at);
        for (part, _) in &path.0 {
            match part {
                Part::Index(index) => match literal(index) {
                    Some(name) => place = below(&place, name),
                    None => {
                        self.use_all(&place);
                        self.used(index, at);
                        place = At::Other;
                    }
                },
                Part::Range(from, to) => {
                    self.use_all(&place);
                    [from, to].into_iter().flatten().for_each(|bound| self.used(bound, at));
                    place = At::Other;
                }
            }
        }
        place
    }
}

fn below(at: &At, name: String) -> At {
    let longer = |place: &Place| place.iter().cloned().chain([name.clone()]).collect();
    match at {
        At::Row(place) => At::Row(longer(place)),
        At::Event(place) => At::Event(longer(place)),
        At::Other => At::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jq::check;

    fn said(text: &str) -> String {
        let reads = Reads::of(&check::parse(text).unwrap());
        let place = |root: &'static str| move |place: &Place| format!("{root}{}", place.join("."));
        let all = reads.row.iter().map(place(".")).chain(reads.event.iter().map(place("$event.")));
        all.chain(reads.variables.iter().map(|name| (*name).to_owned())).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn what_is_read_is_told_or_all_of_it() {
        for (text, expected) in [
            (".", "."),
            (".a", ".a"),
            (".a.b", ".a.b"),
            (".a.b, .a", ".a"),
            (".a | .b | ascii_downcase", ".a.b"),
            (".a + .b", ".a .b"),
            (".a // \"x\"", ".a"),
            ("$key | ascii_downcase", "$key"),
            ("$event.source.ts_ms / 1000", "$event.source.ts_ms"),
            ("$headers.x + $topic", "$headers $topic"),
            ("\"\\(.a)-\\(.b.c)\"", ".a .b.c"),
            ("if .a == 1 then .b else .c end", ".a .b .c"),
            ("if .a then 1 end", "."),
            (".lines[0].sku", ".lines"),
            ("[.lines[] | .sku]", ".lines"),
            ("any(.lines[]; .n > 1)", ".lines"),
            ("first(.lines[] | select(.n == 1)) | .sku", ".lines"),
            ("select(.a == 1) | .b", ".a .b"),
            (".a as $x | .b | . + $x", ".b .a"),
            (". as {a: $x, b: {c: $y}} | $x + $y", ".a .b.c"),
            ("{a, b: .c, $offset}", ".a .c $offset"),
            ("{(.k): 1}", ".k"),
            ("reduce .l[] as $x (0; . + $x.n)", ".l"),
            ("to_entries", "."),
            (".a |= 1", "."),
            ("def f: .x; .a | f", ".a"),
            ("def f: $event.x; f", ". $event.x"),
            ("length", "."),
            ("\"constant\"", ""),
            ("[1, 2] | length", ""),
            (".[\"a\"][$key]", ".a $key"),
            ("try .a catch .b", ".a"),
            ("..", "."),
            ("$event", "$event."),
            (".lines | nth(0)", ".lines"),
            (".lines | any(.n > 1)", ".lines"),
            (".lines | all($event.x)", ".lines $event.x"),
            ("nth(0; .lines[])", ".lines"),
            ("def nth(a; b): .[0]; .lines | nth(0; 1)", ".lines"),
            ("def first(f): .[0]; .lines | first(1)", ".lines"),
            ("def select(f): .[0]; .lines | select(1)", ".lines"),
            ("def null: .[0]; .lines | null", ".lines"),
            ("def f(empty): $event | empty; f(.[0])", ". $event."),
        ] {
            assert_eq!(said(text), expected, "{text}");
        }
    }
}
