//! Dead letters that may be why a row is not what somebody expects.

use serde::Serialize;

use crate::domain::catalog::{Catalog, Table};
use crate::domain::value::{ColumnType, Value};
use crate::store::{LETTERS_PER_PAGE_MAX, Letter, LetterFilter, LetterQuery, Reader, StoreError};

/// Pages of a topic that are looked through.
const PAGES_MAX: usize = 10;

#[derive(Debug, Default, Serialize)]
pub struct Letters {
    /// Of records with the row's key.
    pub of_this_key: Vec<LetterText>,
    /// Whose key is not kept: any of them may be of this row.
    pub of_unknown_key: Vec<LetterText>,
    /// There were more than were looked through.
    pub more: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LetterText {
    pub topic: String,
    pub partition: i32,
    pub offset: i64,
    pub reason: String,
    pub path: String,
    pub message: String,
    pub first_seen: Option<String>,
}

impl Letters {
    /// Among those of the topics that feed the table.
    pub fn of(
        reader: &dyn Reader,
        catalog: &Catalog,
        table: &Table,
        key: &[Value],
    ) -> Result<Letters, StoreError> {
        let mut letters = Letters::default();
        for topic in table.topics.iter().filter_map(|topic| catalog.topics.get(*topic)) {
            let filter = LetterFilter { topic: Some(topic.clone()), ..LetterFilter::default() };
            let mut after = None;
            for page in 0..=PAGES_MAX {
                if page == PAGES_MAX {
                    letters.more = true;
                    break;
                }
                let query =
                    LetterQuery { filter: filter.clone(), after, limit: LETTERS_PER_PAGE_MAX, bytes: true };
                let found = reader.dead_letters(&query)?;
                after = found.letters.last().map(Letter::cursor);
                for letter in found.letters {
                    letters.take(letter, table, key);
                }
                if !found.more {
                    break;
                }
            }
        }
        Ok(letters)
    }

    fn take(&mut self, letter: Letter, table: &Table, key: &[Value]) {
        if letter.table.as_ref().is_some_and(|name| *name != table.name) {
            return;
        }
        let record = letter.record.as_ref();
        let kept = record.filter(|record| record.key.is_some() || record.value.is_some());
        let text = LetterText {
            topic: letter.topic,
            partition: letter.partition,
            offset: letter.offset,
            reason: letter.reason,
            path: letter.path,
            message: letter.message,
            first_seen: letter.first_seen,
        };
        match kept {
            Some(record) if has_key(table, key, record.key.as_deref(), record.value.as_deref()) => {
                self.of_this_key.push(text);
            }
            Some(_) => {}
            None => self.of_unknown_key.push(text),
        }
    }
}

/// Whether a record that could not be mapped is about this row, as far as that can be seen: each part of
/// the row's key is a value somewhere in its key, or else in its value.
pub fn has_key(table: &Table, key: &[Value], of_record: Option<&[u8]>, value: Option<&[u8]>) -> bool {
    [of_record, value].into_iter().flatten().any(|bytes| {
        let Ok(text) = std::str::from_utf8(bytes) else { return false };
        let parts = || table.key.iter().zip(key).map(|(&column, part)| (table.columns[column].ty, part));
        if table.key.len() == 1 && parts().all(|(ty, part)| super::shown(part, ty) == text) {
            return true;
        }
        let Ok(json) = serde_json::from_str(text) else { return false };
        parts().all(|(ty, part)| holds(&json, ty, part, 0))
    })
}

/// Deeper values are not looked at.
const DEPTH_MAX: usize = 8;

fn holds(json: &serde_json::Value, ty: ColumnType, part: &Value, depth: usize) -> bool {
    use serde_json::Value as Json;
    match json {
        _ if depth > DEPTH_MAX => false,
        Json::Object(fields) => fields.values().any(|field| holds(field, ty, part, depth + 1)),
        Json::Array(items) => items.iter().any(|item| holds(item, ty, part, depth + 1)),
        // Of another type than the column's, which may be why it was refused.
        Json::String(text) => text.eq_ignore_ascii_case(&super::shown(part, ty)),
        other => {
            let text = other.to_string();
            text == super::shown(part, ty)
        }
    }
}
