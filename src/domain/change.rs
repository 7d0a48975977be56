//! A change: what one event does to one row of one table.

use super::snapshot::Phase;
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
    /// `Truncate`, where the list is empty, and for `Clear`); what the operation does not carry is
    /// `Absent`.
    pub values: Vec<Value>,
    /// For `Carry`: a row of the same table with its key set; otherwise empty.
    pub from: Vec<Value>,
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
    /// As `Truncate`, for the rows whose key begins with the key columns that are set: the first of
    /// them, but not all. One of the table's [`prefixes`](super::catalog::Table::prefixes).
    Clear(Cleared),
    /// The key of a row has changed, from that of `from` to that of `values`: what is known of it there
    /// is true here as well, as of the version. It fills what the event that sets the new row leaves
    /// out because it did not change. What was read beside the log at `read_before_ms` or later may be
    /// of the row that has got the key since, and is left behind.
    Carry { read_before_ms: i64 },
    /// A row of a whole snapshot was read, or the last of them; see [`super::snapshot`]. The list of
    /// values is empty, and the version is where the snapshot begins.
    Snapshot(Phase),
}

/// Why the rows with a prefix go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cleared {
    /// Their owner is gone.
    Deleted,
    /// The same event sets them anew.
    Replaced,
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
    /// A set of rows was set anew; the rows that are in it count as upserts.
    Replace,
}

impl Effect {
    pub const ALL: [Effect; 5] =
        [Effect::Upsert, Effect::Patch, Effect::Delete, Effect::Truncate, Effect::Replace];

    pub fn name(self) -> &'static str {
        match self {
            Effect::Upsert => "upsert",
            Effect::Patch => "patch",
            Effect::Delete => "delete",
            Effect::Truncate => "truncate",
            Effect::Replace => "replace",
        }
    }
}

impl Change {
    pub fn effect(&self) -> Effect {
        match self.operation {
            Operation::Write { .. } if self.values.iter().any(Value::is_absent) => Effect::Patch,
            Operation::Write { .. } => Effect::Upsert,
            Operation::Delete | Operation::Tombstone | Operation::Clear(Cleared::Deleted) => Effect::Delete,
            Operation::Clear(Cleared::Replaced) => Effect::Replace,
            // Beside the changes of the same event.
            Operation::Carry { .. } | Operation::Snapshot(_) => Effect::Patch,
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
