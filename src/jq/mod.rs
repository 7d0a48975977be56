//! jq for what a path cannot say: programs that are checked when the configuration is, and whose runs
//! are bounded, depend on the event alone and keep the digits of numbers.
//!
//! The language is parsed and interpreted by jaq. Ours are the values (`value`, `number`), the functions
//! (`natives`, `prelude.jq`), the white list (`check`) and the fuel (`rewrite`, `budget`).

mod access;
mod budget;
mod check;
pub mod condition;
mod depth;
mod json;
mod natives;
mod number;
mod reads;
mod rewrite;
mod text;
mod value;
mod visit;

use std::fmt;

use jaq_core::load::parse::{Def, Term};
use jaq_core::load::{Arena, File, Loader};
use jaq_core::{Compiler, Ctx, Filter, Vars, data};

pub use budget::THREAD_STACK;
pub use json::Unreadable;
pub use reads::{Place, Reads};
pub use value::Val;

type Data = data::JustLut<Val>;

/// What a program may name besides its input, `.`.
pub const VARIABLES: [&str; 7] =
    ["$event", "$key", "$topic", "$partition", "$offset", "$timestamp", "$headers"];

const PRELUDE: &str = include_str!("prelude.jq");

/// Why a text is not a program that is taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wrong {
    /// A sentence.
    pub message: String,
    /// The name that was not found, and what may have been meant.
    pub found: String,
    pub valid: Vec<&'static str>,
}

impl<T: Into<String>> From<T> for Wrong {
    fn from(message: T) -> Wrong {
        Wrong { message: message.into(), found: String::new(), valid: Vec::new() }
    }
}

/// Why a run came to no result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// It met a bound.
    pub is_limit: bool,
    /// A sentence's end, without contents: "cannot add a string and a number".
    pub message: String,
}

/// A compiled program.
pub struct Program {
    filter: Filter<Data>,
    reads: Reads,
}

/// What a program is run on. Variables that it does not name may be null.
#[derive(Debug, Clone, Default)]
pub struct Input {
    pub row: Val,
    /// By [`VARIABLES`].
    pub variables: [Val; VARIABLES.len()],
    /// Length of the JSON text behind it all, which decides what the run may cost.
    pub bytes: usize,
}

impl Program {
    pub fn compile(text: &str) -> Result<Program, Wrong> {
        let prelude = prelude();
        let term = check::parse(text)?;
        check::check(&term, &check::Known::new(&prelude))?;
        let reads = Reads::of(&term);
        Ok(Program { filter: compile(term, prelude)?, reads })
    }

    pub fn reads(&self) -> &Reads {
        &self.reads
    }

    /// The only output; `None` where there is none.
    pub fn run(&self, input: &Input) -> Result<Option<Val>, Failure> {
        budget::begin(input.bytes);
        let variables = Vars::new(input.variables.iter().cloned());
        let context = Ctx::<Data>::new(&self.filter.lut, variables);
        let mut outputs = self.filter.id.run((context, input.row.clone()));
        let first = outputs.next().transpose();
        let second = if matches!(first, Ok(Some(_))) { outputs.next() } else { None };
        // Whatever it gave after that is worth nothing.
        if let Some(limit) = budget::met() {
            return Err(Failure { is_limit: true, message: limit.message().to_owned() });
        }
        let failure = |message: &str| Failure { is_limit: false, message: message.to_owned() };
        let raised = |exception: jaq_core::Exn<'_, Val>| {
            let own = exception.get_err().ok().and_then(budget::own_message);
            failure(own.as_deref().unwrap_or("ends with an error of its own"))
        };
        match (first, second) {
            (Err(exception), _) | (_, Some(Err(exception))) => Err(raised(exception)),
            (Ok(_), Some(Ok(_))) => Err(failure("gives more than one value")),
            (Ok(output), None) => Ok(output),
        }
    }
}

impl fmt::Debug for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Program").finish_non_exhaustive()
    }
}

/// Reads a document, of which runs will be made.
pub fn read(text: &str) -> Result<Val, Unreadable> {
    budget::begin(text.len());
    json::read(text)
}

/// The JSON text of a result.
pub fn write(value: &Val, document: usize) -> Result<String, Failure> {
    budget::begin(document);
    value.json().map_err(|_| Failure { is_limit: true, message: budget::Limit::Bytes.message().to_owned() })
}

fn prelude() -> Vec<Def<&'static str>> {
    // It is ours, and a test reads it.
    jaq_core::load::parse(PRELUDE, |parser| parser.defs()).unwrap_or_default()
}

fn compile<'t>(term: Term<&'t str>, prelude: Vec<Def<&'t str>>) -> Result<Filter<Data>, Wrong> {
    const MAIN: &str = "__main";
    let defs = needed(&term, prelude);
    let mut defs: Vec<Def<&str>> = defs.into_iter().map(rewrite::definition).collect();
    let term = rewrite::counted(term);
    depth::check(&term, &defs)?;
    defs.push(Def { name: MAIN, args: Vec::new(), body: term });
    let arena = Arena::default();
    let loaded = Loader::new(defs).load(&arena, File { code: MAIN, path: () });
    let compiler = Compiler::default().with_funs(natives::all()).with_global_vars(VARIABLES);
    // What could be wrong was looked for before.
    let unexpected = || Wrong::from("this is not jq");
    compiler.compile(loaded.map_err(|_| unexpected())?).map_err(|_| unexpected())
}

/// The definitions that a term calls, and those that they call: each program has its own.
fn needed<'t>(term: &Term<&'t str>, prelude: Vec<Def<&'t str>>) -> Vec<Def<&'t str>> {
    let mut names: Vec<&str> = Vec::new();
    visit::calls(term, &mut |name| names.push(name));
    // A definition calls those before it only.
    let mut kept: Vec<Def<&str>> = Vec::new();
    for def in prelude.into_iter().rev() {
        if names.contains(&def.name) {
            visit::calls(&def.body, &mut |name| names.push(name));
            kept.push(def);
        }
    }
    kept.reverse();
    kept
}

#[cfg(test)]
mod tests;
