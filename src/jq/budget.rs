//! What one run of a program may cost. A filter that runs in this process cannot be killed, so that
//! everything it does counts down, and fails when nothing is left.
//!
//! Counted is work, not time: the same event has the same end on every machine.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use super::value::{Error, Val};

/// Of a run, and for each byte of the document it begins with.
const STEPS: u64 = 100_000;
const STEPS_PER_BYTE: u64 = 4;
/// Bytes of all values that a run makes, whether or not it keeps them.
const BYTES: u64 = 16 << 20;
/// What it takes to hold a document of many small values.
const BYTES_PER_BYTE: u64 = 32;
/// Bytes of work that count as one step.
const BYTES_PER_STEP: u64 = 32;
/// Levels of arrays and objects in one value.
pub const DEPTH_MAX: u32 = 128;
/// The stack that a run may take; what `depth` lets pass takes less. Without optimisations each level
/// takes ten times as much.
const STACK: usize = if cfg!(debug_assertions) { 7 << 20 } else { 1 << 20 };
/// What a thread that runs programs should have.
pub const THREAD_STACK: usize = if cfg!(debug_assertions) { 16 << 20 } else { 2 << 20 };

/// Which bound a run has met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    Steps,
    Bytes,
    Depth,
    Stack,
}

impl Limit {
    pub fn message(self) -> &'static str {
        match self {
            Limit::Steps => "takes too many steps",
            Limit::Bytes => "makes too many or too large values",
            Limit::Depth => "makes a value that nests deeper than 128 levels",
            Limit::Stack => "nests too deep while it runs",
        }
    }
}

struct Budget {
    steps: Cell<u64>,
    bytes: Cell<u64>,
    /// Where the stack was when the run began.
    stack: Cell<usize>,
    met: Cell<Option<Limit>>,
    /// The text of the last error that is ours, and so holds no contents.
    said: RefCell<Option<Rc<str>>>,
}

thread_local! {
    static BUDGET: Budget = const {
        Budget {
            steps: Cell::new(0),
            bytes: Cell::new(0),
            stack: Cell::new(0),
            met: Cell::new(None),
            said: RefCell::new(None),
        }
    };
}

/// Begins a run on a document of so many bytes.
pub fn begin(document: usize) {
    BUDGET.with(|budget| {
        let document = document as u64;
        budget.steps.set(STEPS.saturating_add(document.saturating_mul(STEPS_PER_BYTE)));
        budget.bytes.set(BYTES.saturating_add(document.saturating_mul(BYTES_PER_BYTE)));
        budget.stack.set(stack());
        budget.met.set(None);
        budget.said.replace(None);
    });
}

/// The bound that the run has met, if any: whatever it gave is worth nothing then.
pub fn met() -> Option<Limit> {
    BUDGET.with(|budget| budget.met.get())
}

#[inline(never)]
fn stack() -> usize {
    let here = 0u8;
    std::ptr::from_ref(&here).addr()
}

/// False once a bound was met, now or before.
pub fn take(steps: u64) -> bool {
    BUDGET.with(|budget| {
        if budget.met.get().is_some() {
            return false;
        }
        let met = match budget.steps.get().checked_sub(steps) {
            None => Limit::Steps,
            Some(_) if budget.stack.get().abs_diff(stack()) > STACK => Limit::Stack,
            Some(left) => {
                budget.steps.set(left);
                return true;
            }
        };
        budget.met.set(Some(met));
        false
    })
}

/// The same for a value of so many bytes that is about to be made.
pub fn make(bytes: usize) -> bool {
    let bytes = bytes as u64;
    BUDGET.with(|budget| match budget.bytes.get().checked_sub(bytes) {
        Some(left) => {
            budget.bytes.set(left);
            take(1 + bytes / BYTES_PER_STEP)
        }
        None => {
            budget.met.set(budget.met.get().or(Some(Limit::Bytes)));
            false
        }
    })
}

/// The same for a value of so many levels.
pub fn nest(depth: u32) -> bool {
    if depth <= DEPTH_MAX {
        return met().is_none();
    }
    BUDGET.with(|budget| budget.met.set(budget.met.get().or(Some(Limit::Depth))));
    false
}

pub fn spend(steps: u64) -> Result<(), Error> {
    if take(steps) { Ok(()) } else { Err(exhausted()) }
}

pub fn spend_bytes(bytes: usize) -> Result<(), Error> {
    if make(bytes) { Ok(()) } else { Err(exhausted()) }
}

/// The error of everything that comes after a bound was met. A program may catch it, and goes nowhere.
#[cold]
pub fn exhausted() -> Error {
    Error::new(Val::Null)
}

/// An error whose message holds no contents, only kinds.
#[cold]
pub fn flaw(message: impl Into<Rc<str>>) -> Error {
    let message = message.into();
    BUDGET.with(|budget| budget.said.replace(Some(Rc::clone(&message))));
    Error::new(Val::Str(message))
}

/// The message of an error, if it is one of ours.
pub fn own_message(error: Error) -> Option<Rc<str>> {
    let Val::Str(text) = error.into_val() else { return None };
    BUDGET.with(|budget| {
        let said = budget.said.borrow();
        said.as_ref().filter(|said| Rc::ptr_eq(said, &text)).cloned()
    })
}
