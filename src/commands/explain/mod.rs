//! `readside explain`: which events made a row what it is, what stands in its way, and how the mapping
//! makes a row of an event. The replica itself is read; the daemon need not run.

mod letters;
mod plan;
mod record;
mod show;

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::test::shown;
use super::{DONE, Exit, FAILED, UNAVAILABLE, print};
use crate::admin::{parse_key, version_as_json};
use crate::app::replica::Place;
use crate::config::{Config, Target};
use crate::domain::catalog::{Catalog, Table};
use crate::domain::row::RowState;
use crate::domain::value::Value;
use crate::domain::version::{Parts, Version, VersionKind};
use crate::mapping::{self, key_value};
use crate::store::{Reader, StoreError};
use letters::Letters;
use plan::SourceText;
use record::Original;

#[derive(Debug, Clone, Copy)]
pub struct Options {
    pub json: bool,
    /// Read the events themselves from the log again.
    pub fetch: bool,
    /// For that.
    pub timeout: Duration,
}

/// Everything that can be said of a row.
#[derive(Debug, Serialize)]
struct Explanation {
    table: String,
    /// By key column.
    key: serde_json::Map<String, serde_json::Value>,
    state: RowStanding,
    /// A sentence about the state.
    says: String,
    columns: Vec<ColumnText>,
    /// Each record that something of the row is from, the newest first.
    events: Vec<EventText>,
    /// What is not newer than this is gone.
    deleted: Option<Stamp>,
    /// Columns without `?` that have no value yet.
    lacks: Vec<String>,
    dead_letters: Letters,
    /// How the mapping makes rows of this table.
    mapping: Vec<SourceText>,
    notes: Vec<&'static str>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum RowStanding {
    /// Readers see it.
    Visible,
    /// It waits for an event that sets the columns it lacks.
    Held,
    Deleted,
    /// Nothing is kept of it.
    Unknown,
}

#[derive(Debug, Serialize)]
struct ColumnText {
    name: String,
    #[serde(rename = "type")]
    ty: String,
    /// As a fixture would say it; `None`: not known.
    value: Option<String>,
    is_key: bool,
    /// Where it was set; `None` for the key and for what is not known.
    set_by: Option<Stamp>,
}

/// A version, and the record that it came with.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Stamp {
    /// Missing for what no record says of the row itself: it was carried over from another key, or the
    /// row began anew when it got this key.
    #[serde(flatten)]
    record: Option<Coordinates>,
    /// `position`, `integer`, `time` or `integers`.
    version_kind: &'static str,
    version: serde_json::Value,
}

/// Of a record.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Coordinates {
    topic: String,
    partition: i32,
    offset: i64,
}

#[derive(Debug, Serialize)]
struct EventText {
    #[serde(flatten)]
    stamp: Stamp,
    columns: Vec<String>,
    /// Of the record, where it was asked for.
    original: Option<Original>,
}

/// 0 when something is kept of the row, 1 when nothing is, 64 for what cannot be asked, 69 when the
/// replica cannot be read.
pub fn run(config: &Config, table: &str, key: &[String], options: Options) -> anyhow::Result<u8> {
    let catalog = Arc::new(mapping::catalog(config));
    let (index, shape) = find(&catalog, table)?;
    let key = read_key(shape, key).map_err(Exit::usage)?;
    if let Target::Sqlite(sqlite) = &config.replica.target
        && !sqlite.path.exists()
    {
        let message = format!("there is no replica at {}", sqlite.path.display());
        return Err(Exit::unavailable(message).into());
    }
    let reader = Place::of(config).reader(&catalog);
    let explained = explain(config, &catalog, &*reader, (index, &key), options);
    let explanation = explained.map_err(|error| Exit { code: UNAVAILABLE, message: unreadable(&error) })?;
    let text = match options.json {
        true => format!("{}\n", serde_json::to_string_pretty(&explanation)?),
        false => show::text(&explanation),
    };
    print(&text)?;
    Ok(if explanation.state == RowStanding::Unknown { FAILED } else { DONE })
}

fn unreadable(error: &StoreError) -> String {
    match error {
        StoreError::Retry { message, .. } if message.contains("another mapping") => {
            "the copy is under another mapping than this configuration: explain it with the one it was built with, \
             or let the daemon build it anew first"
                .to_owned()
        }
        _ => format!("the replica cannot be read: {error}"),
    }
}

fn find<'c>(catalog: &'c Catalog, name: &str) -> Result<(usize, &'c Table), Exit> {
    let found = catalog.tables.iter().enumerate().find(|(_, table)| table.name == name);
    found.ok_or_else(|| {
        let names: Vec<&str> = catalog.tables.iter().map(|table| table.name.as_str()).collect();
        let near =
            names.iter().copied().map(|known| (strsim::normalized_damerau_levenshtein(name, known), known));
        let near = near.filter(|(likeness, _)| *likeness >= 0.6).max_by(|a, b| a.0.total_cmp(&b.0));
        Exit::usage(match near {
            Some((_, known)) => format!("there is no table {name:?}; did you mean {known:?}?"),
            None => format!("there is no table {name:?}; there are {}", names.join(", ")),
        })
    })
}

/// One word per key column, or a JSON array of all.
fn read_key(table: &Table, words: &[String]) -> Result<Vec<Value>, String> {
    if let [only] = words
        && only.trim_start().starts_with('[')
    {
        return parse_key(table, only);
    }
    let names = || {
        let columns = table.key.iter().map(|&column| &table.columns[column]);
        columns.map(|column| format!("{} ({})", column.name, column.ty)).collect::<Vec<_>>().join(", ")
    };
    if words.len() != table.key.len() {
        return Err(format!("the key of {} is {}", table.name, names()));
    }
    let mut key = Vec::with_capacity(words.len());
    for (&column, word) in table.key.iter().zip(words) {
        let column = &table.columns[column];
        let quoted = serde_json::Value::from(word.as_str()).to_string();
        let as_text = key_value(column.ty, &quoted);
        // A number needs no quotes, and a text may look like one.
        let read =
            as_text.or_else(|refusal| match serde_json::from_str::<&serde_json::value::RawValue>(word) {
                Ok(raw) => key_value(column.ty, raw.get()),
                Err(_) => Err(refusal),
            });
        key.push(
            read.map_err(|refusal| {
                format!("key column {} ({}) {}", column.name, column.ty, refusal.message)
            })?,
        );
    }
    Ok(key)
}

fn explain(
    config: &Config,
    catalog: &Catalog,
    reader: &dyn Reader,
    (index, key): (usize, &[Value]),
    options: Options,
) -> Result<Explanation, StoreError> {
    let table = &catalog.tables[index];
    let row = reader.state_of(index, key)?;
    let mut events = row.as_ref().map_or(Vec::new(), |row| events_of(catalog, table, row));
    let mut letters = Letters::of(reader, catalog, table, key)?;
    if options.fetch {
        let deadline = Instant::now() + options.timeout;
        record::fetch(config, &mut events, &mut letters, (table, key), deadline);
    }
    let (state, says) = standing(table, row.as_ref());
    let lacks = match (&row, state) {
        (Some(row), RowStanding::Held) => lacking(table, row),
        _ => Vec::new(),
    };
    let named = table.key.iter().zip(key);
    let key = named.map(|(&column, value)| {
        let column = &table.columns[column];
        (column.name.clone(), shown(value, column.ty).into())
    });
    Ok(Explanation {
        table: table.name.clone(),
        key: key.collect(),
        state,
        says,
        columns: row.as_ref().map_or(Vec::new(), |row| columns_of(catalog, table, row)),
        events,
        deleted: row.as_ref().and_then(|row| row.deleted).map(|mark| stamp(catalog, &mark)),
        lacks,
        dead_letters: letters,
        mapping: plan::describe(config, index),
        notes: vec![
            "events that were older than what the row had when they came, and repeated ones, are counted \
             (readside_events_skipped_total) and not kept",
        ],
    })
}

fn standing(table: &Table, row: Option<&RowState>) -> (RowStanding, String) {
    match row {
        Some(row) if row.is_visible(table) => {
            let says = match row.column_versions {
                Some(_) => "readers see it; several events made it",
                None => "readers see it; one event made all of it",
            };
            (RowStanding::Visible, says.to_owned())
        }
        Some(row) if row.version.is_some() => {
            let says =
                format!("readers do not see it yet: nothing has set {}", lacking(table, row).join(", "));
            (RowStanding::Held, says)
        }
        Some(row) if row.deleted.is_some() => {
            let says = "it was deleted; the mark keeps older events from bringing it back".to_owned();
            (RowStanding::Deleted, says)
        }
        _ => {
            let says = "nothing is kept of it: no event has come, it became a dead letter, or it was deleted so long \
                        ago that its mark was dropped (`delete_marks`)";
            (RowStanding::Unknown, says.to_owned())
        }
    }
}

fn lacking(table: &Table, row: &RowState) -> Vec<String> {
    let columns = table.columns.iter().enumerate();
    columns
        .filter(|(index, column)| !column.nullable && !table.is_key(*index) && row.values[*index].is_absent())
        .map(|(_, column)| column.name.clone())
        .collect()
}

fn columns_of(catalog: &Catalog, table: &Table, row: &RowState) -> Vec<ColumnText> {
    let columns = table.columns.iter().enumerate();
    columns
        .map(|(index, column)| ColumnText {
            name: column.name.clone(),
            ty: format!("{}{}", column.ty, if column.nullable { "?" } else { "" }),
            value: (!row.values[index].is_absent()).then(|| shown(&row.values[index], column.ty)),
            is_key: table.is_key(index),
            set_by: row.column_version(table, index).map(|version| stamp(catalog, &version)),
        })
        .collect()
}

fn events_of(catalog: &Catalog, table: &Table, row: &RowState) -> Vec<EventText> {
    let mut versions: Vec<(Version, Vec<String>)> = Vec::new();
    // The newest write of a row may have set no column but its key.
    versions.extend(row.version.map(|version| (version, Vec::new())));
    for (index, column) in table.columns.iter().enumerate() {
        let Some(version) = row.column_version(table, index) else { continue };
        match versions.iter_mut().find(|(known, _)| *known == version) {
            Some((_, columns)) => columns.push(column.name.clone()),
            None => versions.push((version, vec![column.name.clone()])),
        }
    }
    if let Some(mark) = row.deleted {
        versions.push((mark, Vec::new()));
    }
    versions.sort_by_key(|(version, _)| std::cmp::Reverse(*version));
    versions.dedup_by(|a, b| a.0 == b.0);
    versions.retain(|(version, _)| version.is_of_a_record());
    let text = |(version, columns)| EventText { stamp: stamp(catalog, &version), columns, original: None };
    versions.into_iter().map(text).collect()
}

fn stamp(catalog: &Catalog, version: &Version) -> Stamp {
    let parts: Parts = version.parts();
    let version_kind = match parts.kind {
        VersionKind::Position => "position",
        VersionKind::Integer => "integer",
        VersionKind::Time => "time",
        VersionKind::Integers => "integers",
    };
    let topic = usize::try_from(parts.at.topic).ok().and_then(|topic| catalog.topics.get(topic));
    let record = version.is_of_a_record().then(|| Coordinates {
        topic: topic.cloned().unwrap_or_default(),
        partition: parts.at.partition,
        offset: parts.at.offset,
    });
    Stamp { record, version_kind, version: version_as_json(&parts) }
}

#[cfg(test)]
mod tests;
