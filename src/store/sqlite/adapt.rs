//! A changed mapping that needs no other rows: columns and tables that are left out, columns in
//! another order.

use rusqlite::types::Null;
use rusqlite::{Connection, params};

use super::generations::{catalog_of, transaction};
use super::layout::{self, TableSql, quote};
use super::replica::live_generation;
use super::table::{bind_key, read_row};
use crate::domain::catalog::{Catalog, Table};
use crate::store::StoreError;
use crate::store::adapt::{Change, changes};

/// See [`super::SqliteReplica::adapt`].
pub(super) fn adapt(conn: &Connection, catalog: &Catalog) -> Result<bool, StoreError> {
    let tx = transaction(conn)?;
    let generation = live_generation(&tx)?;
    let old = catalog_of(&tx, generation)?;
    let depends = |table: &Table| depends_on_columns(&tx, generation, table);
    let Some(changes) = changes(&old, catalog, depends)? else { return Ok(false) };
    for change in changes.iter().filter(|change| change.is_needed()) {
        rearrange(&tx, generation, change)?;
    }
    for table in old.tables.iter().filter(|table| !catalog.tables.iter().any(|new| new.name == table.name)) {
        tx.execute_batch(&layout::drop_view(&table.name))?;
        for name in layout::tables_of(generation, table) {
            tx.execute_batch(&format!("DROP TABLE {}", quote(&name)))?;
        }
        // Nobody could retry or drop its dead letters, and they would count against other tables.
        for of in ["_readside_meta_tables", "_readside_meta_sources", "_readside_meta_dead_letters"] {
            let sql = format!("DELETE FROM {of} WHERE generation = ?1 AND table_name = ?2");
            tx.execute(&sql, params![generation, table.name])?;
        }
    }
    for (ordinal, table) in catalog.tables.iter().enumerate() {
        tx.execute(
            "UPDATE _readside_meta_tables SET fingerprint = ?3, ordinal = ?4 WHERE generation = ?1 AND table_name = ?2",
            params![generation, table.name, table.fingerprint, ordinal as i64],
        )?;
    }
    tx.execute("UPDATE _readside_meta_generations SET role = 'dropped' WHERE role = 'next'", [])?;
    tx.execute(
        "UPDATE _readside_meta_generations SET fingerprint = ?2, catalog = ?3, stopped = NULL WHERE generation = ?1",
        params![generation, catalog.fingerprint, super::generations::described(catalog)?],
    )?;
    tx.commit()?;
    Ok(true)
}

/// Whether a column may be the reason why something is not in the table: a row that waits for it,
/// or an event that could not be applied.
fn depends_on_columns(tx: &Connection, generation: i64, table: &Table) -> Result<bool, StoreError> {
    Ok(tx.query_row(
        "SELECT EXISTS (SELECT 1 FROM _readside_meta_tables WHERE generation = ?1 AND table_name = ?2 AND held > 0) \
         OR EXISTS (SELECT 1 FROM _readside_meta_dead_letters d JOIN _readside_meta_sources s \
           ON s.generation = d.generation AND s.topic = d.topic WHERE d.generation = ?1 AND s.table_name = ?2)",
        params![generation, table.name],
        |row| row.get(0),
    )?)
}

fn rearrange(tx: &Connection, generation: i64, change: &Change<'_>) -> Result<(), StoreError> {
    let Change { old, new, from } = change;
    tx.execute_batch(&layout::drop_view(&old.name))?;
    drop_indexes(tx, generation, old)?;
    let before = TableSql::new(old, generation);
    let (main, hidden) =
        (layout::main_table(generation, &old.name), layout::hidden_table(generation, &old.name));
    let all = &before.cuts[0];
    for (name, [first, next]) in [(&main, &all.detailed), (&hidden, &all.hidden)] {
        renumber(tx, change, name, first, next)?;
    }
    for (index, column) in old.columns.iter().enumerate() {
        if !from.contains(&index) {
            for name in [&main, &hidden] {
                tx.execute_batch(&format!(
                    "ALTER TABLE {} DROP COLUMN {}",
                    quote(name),
                    quote(&column.name)
                ))?;
            }
        }
    }
    tx.execute_batch(&TableSql::new(new, generation).view)?;
    Ok(())
}

/// Those of the file: another list of indexes is adopted without a word in the stored catalog. Their
/// names tell columns by number, and what is declared is built when the copy is opened.
fn drop_indexes(tx: &Connection, generation: i64, table: &Table) -> Result<(), StoreError> {
    let main = layout::main_table(generation, &table.name);
    for name in layout::indexes_there(tx, generation, Some(&main))? {
        tx.execute_batch(&format!("DROP INDEX {}", quote(&name)))?;
    }
    Ok(())
}

/// Details tell versions by the number of their column.
fn renumber(
    tx: &Connection,
    change: &Change<'_>,
    name: &str,
    first: &str,
    next: &str,
) -> Result<(), StoreError> {
    let Change { old, new, from } = change;
    let key: Vec<String> = old
        .key
        .iter()
        .enumerate()
        .map(|(at, &column)| format!("{} = ?{}", quote(&old.columns[column].name), at + 1))
        .collect();
    let details = old.key.len() + 1;
    let mut update = tx.prepare_cached(&format!(
        "UPDATE {} SET _readside_d = ?{details} WHERE {}",
        quote(name),
        key.join(" AND ")
    ))?;
    let mut last: Option<Vec<crate::domain::value::Value>> = None;
    loop {
        let mut page = Vec::new();
        {
            let mut statement = tx.prepare_cached(if last.is_some() { next } else { first })?;
            if let Some(values) = &last {
                bind_key(&mut statement, old, values)?;
            }
            let mut rows = statement.raw_query();
            while let Some(row) = rows.next()? {
                page.push(read_row(old, row)?);
            }
        }
        let Some(end) = page.last() else { return Ok(()) };
        last = Some(end.values.clone());
        for row in &page {
            let moved = row.rearranged(from);
            bind_key(&mut update, old, &row.values)?;
            // A hidden row has details always.
            if moved.needs_details() || moved.version.is_none() {
                update.raw_bind_parameter(details, moved.details(new))?;
            } else {
                update.raw_bind_parameter(details, Null)?;
            }
            update.raw_execute()?;
        }
    }
}
