//! Mapping: the compiled plan from a record of a topic to changes of rows.
//!
//! [`Plan::compile`] turns the checked configuration into one decoder per topic and one list of
//! column sources per table; [`Plan::translate`] is what the pipeline calls for every record.

use crate::domain::change::Skip;
use crate::domain::dead_letter::Rejection;

/// What became of a record. One record is applied to all its tables or to none.
#[derive(Debug, PartialEq)]
pub enum Outcome {
    /// At least one change was appended.
    Changes,
    /// Nothing to do; counted under this reason.
    Skipped(Skip),
    /// Goes to the dead letters, or stops the daemon, as the topic's `on_error` says.
    Rejected(Rejection),
    /// An event type that nobody names on a topic with `otherwise: stop`.
    Stop(Rejection),
}
