//! The pure core: values, versions, row states, batches, freshness, state and retry rules.
//!
//! Nothing in this room does I/O, awaits, or reads a clock: `now` is always an argument.
//! Everything that is hard to get right lives here, so that it can be tested exhaustively.

pub mod batch;
pub mod breaker;
pub mod catalog;
pub mod change;
pub mod checkpoint;
pub mod dead_letter;
pub mod digest;
pub mod event_ids;
pub mod freshness;
pub mod packed;
pub mod record;
pub mod retry;
pub mod row;
pub mod sample;
pub mod shelf;
pub mod shelving;
pub mod snapshot;
pub mod state;
pub mod value;
pub mod version;

#[cfg(test)]
mod tests;
