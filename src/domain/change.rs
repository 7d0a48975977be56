//! A change: what one event does to one row of one table.

use super::value::Value;
use super::version::Version;

#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// Index into [`super::catalog::Catalog::tables`].
    pub table: usize,
    /// Index into [`super::catalog::Catalog::topics`] of the topic it came from.
    pub topic: usize,
    pub operation: Operation,
    /// One value per column of the table, in declared order. Key columns are set (except for
    /// `Truncate`, where the list is empty); what the operation does not carry is `Absent`.
    pub values: Vec<Value>,
    pub version: Version,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Sets every column that is not `Absent`. With no absent column it is an upsert: the row is
    /// replaced. With some it is a patch; `if_missing` says what happens when there is no row.
    Write { if_missing: IfMissing },
    /// The row goes; its version is remembered so that an older event cannot bring it back.
    Delete,
    /// A delete without a version of its own (a record without a value on a topic whose versions
    /// come from the events). It deletes the row only if that was last written from the same
    /// partition at a lower offset. Only the coordinates of `version` count.
    Tombstone,
    /// Every row older than the version goes, now and when it arrives later.
    Truncate,
}

/// What a patch does when the row is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub enum IfMissing {
    /// Keep it, invisible to readers, until every column that may not be null has a value.
    #[default]
    Hold,
    /// Make the row; allowed where every other column may be null.
    Create,
    /// Forget it: the end then depends on the order of arrival.
    Ignore,
    DeadLetter,
}

impl IfMissing {
    /// Whether the patch is only meaningful if the row is there when it arrives.
    pub fn needs_row(self) -> bool {
        matches!(self, IfMissing::Ignore | IfMissing::DeadLetter)
    }
}

/// The `op` label of metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Effect {
    Upsert,
    Patch,
    Delete,
    Truncate,
}

impl Effect {
    pub const ALL: [Effect; 4] = [Effect::Upsert, Effect::Patch, Effect::Delete, Effect::Truncate];

    pub fn name(self) -> &'static str {
        match self {
            Effect::Upsert => "upsert",
            Effect::Patch => "patch",
            Effect::Delete => "delete",
            Effect::Truncate => "truncate",
        }
    }
}

impl Change {
    pub fn effect(&self) -> Effect {
        match self.operation {
            Operation::Write { .. } if self.values.iter().any(Value::is_absent) => Effect::Patch,
            Operation::Write { .. } => Effect::Upsert,
            Operation::Delete | Operation::Tombstone => Effect::Delete,
            Operation::Truncate => Effect::Truncate,
        }
    }
}

/// The `reason` label of `readside_events_skipped_total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Skip {
    /// Below the stored position, or with the id of an event that was applied.
    Duplicate,
    /// Not newer than the row.
    Stale,
    /// An event type that is ignored, by name or by `otherwise: ignore`.
    Ignored,
    /// The tombstone behind a delete event.
    Tombstone,
    /// Refused, on a topic with `on_error: skip`.
    Rejected,
    /// A patch for a missing row with `if_missing: ignore`.
    MissingRow,
    /// Events that no rule's `when` lets pass.
    Filtered,
}

impl Skip {
    pub const ALL: [Skip; 7] = [
        Skip::Duplicate,
        Skip::Stale,
        Skip::Ignored,
        Skip::Tombstone,
        Skip::Rejected,
        Skip::MissingRow,
        Skip::Filtered,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Skip::Duplicate => "duplicate",
            Skip::Stale => "stale",
            Skip::Ignored => "ignored",
            Skip::Tombstone => "tombstone",
            Skip::Rejected => "rejected",
            Skip::MissingRow => "missing_row",
            Skip::Filtered => "filtered",
        }
    }
}
