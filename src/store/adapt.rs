//! A changed mapping that needs no other rows: columns and tables that are left out, columns in
//! another order. What each store makes of it is its own affair.

use crate::domain::catalog::{Catalog, Table};
use crate::mapping::keeps_rows;

/// One table as it is and as it is to be.
pub(super) struct Change<'a> {
    pub old: &'a Table,
    pub new: &'a Table,
    /// Where each new column is among the old ones.
    pub from: Vec<usize>,
}

impl Change<'_> {
    pub fn is_needed(&self) -> bool {
        self.from.iter().enumerate().any(|(new, &old)| new != old) || self.leaves_out()
    }

    pub fn leaves_out(&self) -> bool {
        self.from.len() < self.old.columns.len()
    }
}

/// What each table of the new mapping is made of; `None` if the log has to be read.
/// `depends_on_columns` says of an old table whether a column may be the reason why something is not
/// in it: a row that waits for it, or an event that could not be applied.
pub(super) fn changes<'a, E>(
    old: &'a Catalog,
    new: &'a Catalog,
    depends_on_columns: impl Fn(&Table) -> Result<bool, E>,
) -> Result<Option<Vec<Change<'a>>>, E> {
    // Versions hold topic indexes.
    if old.topics != new.topics {
        return Ok(None);
    }
    let mut changes = Vec::new();
    for table in &new.tables {
        let Some(before) = old.tables.iter().find(|before| before.name == table.name) else {
            return Ok(None);
        };
        if before.fingerprint != table.fingerprint && !keeps_rows(&before.fingerprint, &table.fingerprint) {
            return Ok(None);
        }
        let place = |name: &str| before.columns.iter().position(|column| column.name == name);
        let from: Option<Vec<usize>> = table.columns.iter().map(|column| place(&column.name)).collect();
        let Some(from) = from else { return Ok(None) };
        let change = Change { old: before, new: table, from };
        if change.leaves_out() && depends_on_columns(before)? {
            return Ok(None);
        }
        changes.push(change);
    }
    Ok(Some(changes))
}
