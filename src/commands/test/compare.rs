//! Rows and dead letters, expected and found: row by row, column by column.

use std::collections::{HashMap, HashSet};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;

use crate::config::fixture::{Expected, ExpectedLetter, ExpectedRow};
use crate::domain::catalog::{Catalog, Column, Table};
use crate::domain::dead_letter::Rejection;
use crate::domain::value::{ColumnType, Value};
use crate::mapping::key_value;

/// One thing that is not as it should be.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Difference {
    /// `missing`, `unexpected`, `differs`, `held`, `dead_letter`, `skipped`, `stopped`, `error`.
    pub what: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub table: Option<String>,
    /// `id 1`: the key of the row.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub column: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub found: Option<String>,
    /// Of what was expected.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<usize>,
}

impl Difference {
    pub fn about(what: &'static str, found: impl Into<String>) -> Difference {
        Difference {
            what,
            table: None,
            key: None,
            column: None,
            expected: None,
            found: Some(found.into()),
            line: None,
        }
    }
}

/// What is wrong with the rows of one table.
pub fn rows(table: &Table, expected: &[ExpectedRow], found: &[Vec<Value>]) -> Vec<Difference> {
    let mut differences = Vec::new();
    let mut taken = vec![false; found.len()];
    for row in expected {
        let wants = |column: usize| row.columns.get(&column).unwrap_or(&Expected::Null);
        let same_key =
            |values: &[Value]| table.key.iter().all(|&key| is(wants(key), &values[key], &table.columns[key]));
        let at = found.iter().enumerate().position(|(at, values)| !taken[at] && same_key(values));
        let key: Vec<String> = table
            .key
            .iter()
            .map(|&key| format!("{} {}", table.columns[key].name, shown_expected(wants(key))))
            .collect();
        let about = |what, column: Option<usize>| Difference {
            what,
            table: Some(table.name.clone()),
            key: Some(key.join(", ")),
            column: column.map(|column| table.columns[column].name.clone()),
            expected: None,
            found: None,
            line: row.place.line(),
        };
        let Some(at) = at else {
            let columns = (0..table.columns.len()).filter(|column| !table.is_key(*column));
            let columns = columns
                .filter(|column| *wants(*column) != Expected::Null)
                .map(|column| format!("{} {}", table.columns[column].name, shown_expected(wants(column))));
            let wanted: Vec<String> = columns.collect();
            differences.push(Difference { expected: Some(wanted.join(", ")), ..about("missing", None) });
            continue;
        };
        taken[at] = true;
        for (column, shape) in table.columns.iter().enumerate() {
            let value = &found[at][column];
            if !is(wants(column), value, shape) {
                differences.push(Difference {
                    expected: Some(shown_expected(wants(column))),
                    found: Some(shown(value, shape.ty)),
                    ..about("differs", Some(column))
                });
            }
        }
    }
    for values in found.iter().zip(&taken).filter(|(_, taken)| !**taken).map(|(values, _)| values) {
        let rest: Vec<String> = (0..table.columns.len())
            .filter(|column| !table.is_key(*column) && values[*column] != Value::Null)
            .map(|column| named(table, values, column))
            .collect();
        differences
            .push(Difference { found: Some(rest.join(", ")), ..unexpected("unexpected", table, values) });
    }
    differences
}

fn unexpected(what: &'static str, table: &Table, values: &[Value]) -> Difference {
    let key: Vec<String> = table.key.iter().map(|&column| named(table, values, column)).collect();
    Difference {
        what,
        table: Some(table.name.clone()),
        key: Some(key.join(", ")),
        column: None,
        expected: None,
        found: None,
        line: None,
    }
}

/// In what another way of delivery has led to other rows; both are in the order of their keys.
pub fn between(
    table: &Table,
    once: &[Vec<Value>],
    now: &[Vec<Value>],
    left_out: &[usize],
) -> Vec<Difference> {
    let mut differences = Vec::new();
    if once == now {
        return differences;
    }
    // Keys of one table have one form each.
    let key = |values: &[Value]| format!("{:?}", table.key_of(values).collect::<Vec<_>>());
    let before: HashSet<String> = once.iter().map(|values| key(values)).collect();
    let after: HashMap<String, &Vec<Value>> = now.iter().map(|values| (key(values), values)).collect();
    for values in once {
        match after.get(&key(values)) {
            None => differences.push(unexpected("missing", table, values)),
            Some(other) => {
                let columns = table.columns.iter().enumerate();
                for (column, shape) in columns.filter(|(column, _)| !left_out.contains(column)) {
                    if other[column] != values[column] {
                        differences.push(Difference {
                            column: Some(shape.name.clone()),
                            expected: Some(shown(&values[column], shape.ty)),
                            found: Some(shown(&other[column], shape.ty)),
                            ..unexpected("differs", table, values)
                        });
                    }
                }
            }
        }
    }
    let more = now.iter().filter(|values| !before.contains(&key(values)));
    differences.extend(more.map(|values| unexpected("unexpected", table, values)));
    differences
}

fn named(table: &Table, values: &[Value], column: usize) -> String {
    let Column { name, ty, .. } = &table.columns[column];
    format!("{name} {}", shown(&values[column], *ty))
}

/// Whether a column holds what was written.
fn is(expected: &Expected, value: &Value, column: &Column) -> bool {
    match (expected, value) {
        (Expected::Null, Value::Null) => true,
        (Expected::Null, _) | (_, Value::Null) => false,
        (Expected::Json(json), Value::Text(text)) => column.ty == ColumnType::Json && same_json(json, text),
        (Expected::Json(_), _) => false,
        (Expected::Text(text), value) => {
            if *text == shown(value, column.ty) {
                return true;
            }
            if let (ColumnType::Json, Value::Text(json)) = (column.ty, value) {
                return same_json(text, json);
            }
            if let Value::Real(real) = value {
                return text.parse() == Ok(*real);
            }
            // In another form of the same: an offset of a time, upper case in a UUID.
            let quoted = serde_json::Value::from(text.as_str()).to_string();
            column.ty != ColumnType::Text && key_value(column.ty, &quoted).is_ok_and(|read| read == *value)
        }
    }
}

fn same_json(one: &str, other: &str) -> bool {
    let read = |text: &str| serde_json::from_str::<serde_json::Value>(text);
    matches!((read(one), read(other)), (Ok(one), Ok(other)) if one == other)
}

fn shown_expected(expected: &Expected) -> String {
    match expected {
        Expected::Null => "null".to_owned(),
        Expected::Text(text) | Expected::Json(text) => text.clone(),
    }
}

/// A value as it would be written in a fixture.
pub fn shown(value: &Value, ty: ColumnType) -> String {
    match value {
        Value::Absent | Value::Null => "null".to_owned(),
        Value::Integer(number) if ty == ColumnType::Boolean => (*number != 0).to_string(),
        Value::Integer(number) => number.to_string(),
        Value::Real(number) => number.to_string(),
        Value::Text(text) => text.clone(),
        Value::Blob(bytes) => STANDARD.encode(bytes),
    }
}

/// One that was found, and of which event it is.
#[derive(Debug, Clone)]
pub struct FoundLetter<'a> {
    pub event: Option<usize>,
    pub topic: usize,
    pub rejection: &'a Rejection,
}

/// Each expected one takes one that was found.
pub fn letters(catalog: &Catalog, expected: &[ExpectedLetter], found: &[FoundLetter<'_>]) -> Vec<Difference> {
    let mut differences = Vec::new();
    let mut taken = vec![false; found.len()];
    // What says most chooses first.
    let mut order: Vec<&ExpectedLetter> = expected.iter().collect();
    order.sort_by_key(|letter| std::cmp::Reverse(said(letter)));
    for letter in order {
        let fits = |found: &FoundLetter<'_>| {
            letter.event.is_none_or(|event| found.event == Some(event))
                && letter.topic.is_none_or(|topic| found.topic == topic)
                && letter.table.is_none_or(|table| found.rejection.table == Some(table))
                && letter.reason.is_none_or(|reason| found.rejection.reason == reason)
                && letter.path.as_ref().is_none_or(|path| found.rejection.path == *path)
        };
        match found.iter().enumerate().position(|(at, found)| !taken[at] && fits(found)) {
            Some(at) => taken[at] = true,
            None => differences.push(Difference {
                what: "dead_letter",
                expected: Some(wanted(catalog, letter)),
                found: None,
                line: letter.place.line(),
                ..Difference::about("dead_letter", "")
            }),
        }
    }
    for letter in found.iter().zip(&taken).filter(|(_, taken)| !**taken).map(|(letter, _)| letter) {
        let FoundLetter { event, topic, rejection: Rejection { table, path, reason, message } } = letter;
        let mut text = match event {
            Some(event) => format!("event {}", event + 1),
            None => format!("an event of {}", catalog.topics.get(*topic).map_or("", |name| name)),
        };
        if let Some(table) = table.and_then(|table| catalog.tables.get(table)) {
            text.push_str(&format!(", table {}", table.name));
        }
        let at = if path.is_empty() { String::new() } else { format!(" at {path}") };
        text.push_str(&format!(": {}{at}: {message}", reason.name()));
        differences.push(Difference::about("dead_letter", text));
    }
    differences
}

fn said(letter: &ExpectedLetter) -> usize {
    let ExpectedLetter { event, topic, table, reason, path, .. } = letter;
    [event.is_some(), topic.is_some(), table.is_some(), reason.is_some(), path.is_some()]
        .into_iter()
        .filter(|said| *said)
        .count()
}

fn wanted(catalog: &Catalog, letter: &ExpectedLetter) -> String {
    let ExpectedLetter { event, topic, table, reason, path, .. } = letter;
    let words = [
        event.map(|event| format!("event {}", event + 1)),
        topic.and_then(|topic| Some(format!("topic {}", catalog.topics.get(topic)?))),
        table.and_then(|table| Some(format!("table {}", catalog.tables.get(table)?.name))),
        reason.map(|reason| reason.name().to_owned()),
        path.as_ref().map(|path| format!("at {path}")),
    ];
    words.into_iter().flatten().collect::<Vec<_>>().join(", ")
}
