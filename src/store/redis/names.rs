//! The names of keys.
//!
//! A row is `{rows}users:42`, where `{rows}` is the prefix in a dedicated Redis and `{prefix}1:` in a
//! shared one: the generation is in it, and `readside:status` says in `live` what it is once the copy
//! is whole. What is known of the live generation is below `{prefix}readside:`; of one that is built
//! beside it or that is out of use, below `{prefix}readside:2:`, and a switch renames the keys. In a
//! dedicated Redis the other generation is in the next logical database, under the same names, and a
//! switch exchanges the databases. The parts of a composite key are joined by `:`, with `\` before a
//! `:` or `\` in them; a key of one column is written as it is. An index on `email` is the sets
//! `{rows}users@email:value` of the texts behind `users:`, so that
//! `SORT {rows}users@email:a@x.org BY nosort GET {rows}users:*->name` works. A row whose indexed column is null
//! is in none of them. No table is named like a generation: names begin with a letter or `_`.

use std::fmt::Write as _;

use super::codec::field;
use crate::config::Redis;
use crate::domain::catalog::{Catalog, Table};
use crate::domain::value::Value;

/// Where a generation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Spot {
    /// Where readers look.
    Live,
    /// In a dedicated Redis: under the same names in the next logical database.
    Elsewhere,
    /// In a shared one: in the same database, under names with its number.
    Beside(u32),
}

impl Spot {
    /// Where a generation is built while there is a live one.
    pub fn of_next(redis: &Redis, number: u32) -> Spot {
        if redis.dedicated { Spot::Elsewhere } else { Spot::Beside(number) }
    }

    pub fn database(self, redis: &Redis) -> i64 {
        i64::from(redis.url.database) + i64::from(self == Spot::Elsewhere)
    }
}

/// Before the names of tables of a generation that is built now.
pub(super) fn rows_of(redis: &Redis, number: u32) -> String {
    if redis.dedicated { redis.prefix.clone() } else { format!("{}{number}:", redis.prefix) }
}

/// The bookkeeping keys of one generation.
#[derive(Debug, Clone)]
pub(super) struct Names {
    pub prefix: String,
    /// Before everything that belongs to the generation and is no row.
    before: String,
    /// Before the names of tables.
    pub rows: String,
    /// Whose replica it is and who writes it.
    pub meta: String,
    /// What readers may know: what states follow from, counts by table.
    pub status: String,
    /// `topic/partition` to the next offset.
    pub positions: String,
    /// `topic/partition` to everything else that is known of it, as JSON.
    pub partitions: String,
    /// `topic/partition/offset/table` to JSON.
    pub dead_letters: String,
    /// The same names to `first_seen_ms order_ms`: what is asked often, without the rest.
    pub dead_letter_times: String,
    /// Expires when nobody proves that the copy follows the log.
    pub alive: String,
    /// Expires when the writer is dead.
    pub lease: String,
    /// There for a moment when a store is opened.
    pub probe: String,
}

impl Names {
    /// Of the generation that is in `spot`, with its rows behind `rows`.
    pub fn new(redis: &Redis, spot: Spot, rows: String) -> Names {
        let prefix = &redis.prefix;
        let before = match spot {
            Spot::Live | Spot::Elsewhere => format!("{prefix}readside:"),
            Spot::Beside(number) => format!("{prefix}readside:{number}:"),
        };
        let name = |name: &str| format!("{before}{name}");
        let of_all = |name: &str| format!("{prefix}readside:{name}");
        Names {
            prefix: prefix.to_owned(),
            rows,
            meta: name("meta"),
            status: name("status"),
            positions: name("positions"),
            partitions: name("partitions"),
            dead_letters: name("dead_letters"),
            dead_letter_times: name("dead_letter_times"),
            alive: of_all("alive"),
            lease: of_all("lease"),
            probe: of_all("probe"),
            before,
        }
    }

    /// Remembered event ids of a topic, oldest first.
    pub fn event_ids(&self, topic: &str) -> String {
        format!("{}event_ids:{topic}", self.before)
    }

    /// What readers must not see of a table.
    fn hidden(&self, table: &str) -> String {
        format!("{}deleted:{table}", self.before)
    }

    /// When the rows with a prefix were cleared.
    fn cleared(&self, table: &str) -> String {
        format!("{}cleared:{table}", self.before)
    }

    /// The keys of a table that can be cleared by prefix, in their order.
    fn keys(&self, table: &str) -> String {
        format!("{}keys:{table}", self.before)
    }

    /// Every key of a generation that is no row, in an order that depends on the catalog only.
    pub fn bookkeeping(&self, catalog: &Catalog) -> Vec<String> {
        let mut names = vec![
            self.status.clone(),
            self.positions.clone(),
            self.partitions.clone(),
            self.dead_letters.clone(),
            self.dead_letter_times.clone(),
        ];
        names.extend(catalog.tables.iter().map(|table| self.hidden(&table.name)));
        let cleared = catalog.tables.iter().filter(|table| !table.prefixes.is_empty());
        names.extend(cleared.flat_map(|table| [self.cleared(&table.name), self.keys(&table.name)]));
        names.extend(catalog.topics.iter().map(|topic| self.event_ids(topic)));
        // Last: what is there without it belongs to nobody.
        names.push(self.meta.clone());
        names
    }
}

/// The names of one table's keys.
#[derive(Debug, Clone)]
pub(super) struct TableNames {
    /// Before the text of a key.
    pub row: Vec<u8>,
    /// What readers must not see: delete marks and held patches, by the text of their key.
    pub hidden: String,
    /// For tables with prefixes: the mark of each that was cleared, by its text.
    pub cleared: String,
    /// For tables with prefixes: what is known of them, in the order of texts; see [`Listed`].
    pub keys: String,
    /// Before the text of a value, by index.
    indexes: Vec<Vec<u8>>,
    /// For `SCAN`.
    pub pattern: String,
}

impl TableNames {
    pub fn new(names: &Names, table: &Table) -> TableNames {
        let rows = &names.rows;
        let indexes = table.indexes.iter().map(|columns| {
            let columns: Vec<&str> =
                columns.iter().map(|&column| table.columns[column].name.as_str()).collect();
            format!("{rows}{}@{}:", table.name, columns.join(",")).into_bytes()
        });
        let row = format!("{rows}{}:", table.name);
        TableNames {
            hidden: names.hidden(&table.name),
            cleared: names.cleared(&table.name),
            keys: names.keys(&table.name),
            indexes: indexes.collect(),
            pattern: format!("{}*", literal(&row)),
            row: row.into_bytes(),
        }
    }

    pub fn row_key(&self, key: &[u8]) -> Vec<u8> {
        [&self.row, key].concat()
    }

    /// The sets that a row is in.
    pub fn index_keys(&self, table: &Table, values: &[Value]) -> Vec<Vec<u8>> {
        let mut keys = Vec::with_capacity(self.indexes.len());
        for (prefix, columns) in self.indexes.iter().zip(&table.indexes) {
            let parts: Vec<&Value> = columns.iter().map(|&column| &values[column]).collect();
            if parts.iter().all(|part| !matches!(part, Value::Null | Value::Absent)) {
                let mut key = prefix.clone();
                push_joined(&mut key, &parts);
                keys.push(key);
            }
        }
        keys
    }
}

/// What [`TableNames::keys`] lists: texts behind a letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Listed {
    /// Keys of rows, of those that readers do not see as well.
    Row,
    /// Prefixes that have a mark.
    Mark,
}

impl Listed {
    pub fn member(self, text: &[u8]) -> Vec<u8> {
        let letter = match self {
            Listed::Row => b'r',
            Listed::Mark => b'm',
        };
        [&[letter], text].concat()
    }
}

/// The text of a prefix of a key: the texts of the keys that have it begin with this, and no others.
pub(super) fn prefix_text(prefix: &[Value]) -> Vec<u8> {
    // Keys with prefixes have more than one part.
    let mut text = Vec::with_capacity(16);
    for part in prefix {
        push_part(&mut text, part, true);
        text.push(b':');
    }
    text
}

/// The texts of the prefixes that a text of a key has, or that of a prefix, by their numbers of parts.
pub(super) fn prefixes_of<'t>(text: &'t [u8], counts: &[usize]) -> Vec<&'t [u8]> {
    let (mut found, mut parts, mut escaped) = (Vec::with_capacity(counts.len()), 0, false);
    for (at, &byte) in text.iter().enumerate() {
        if byte == b':' && !escaped {
            parts += 1;
            if counts.contains(&parts) {
                found.push(&text[..=at]);
            }
        }
        escaped = byte == b'\\' && !escaped;
    }
    found
}

/// The text of a row's key.
pub(super) fn key_text(table: &Table, values: &[Value]) -> Vec<u8> {
    joined(&table.key_of(values).collect::<Vec<_>>())
}

pub(super) fn joined(parts: &[&Value]) -> Vec<u8> {
    let mut text = Vec::with_capacity(16);
    push_joined(&mut text, parts);
    text
}

fn push_joined(text: &mut Vec<u8>, parts: &[&Value]) {
    for (nth, part) in parts.iter().enumerate() {
        if nth > 0 {
            text.push(b':');
        }
        push_part(text, part, parts.len() > 1);
    }
}

fn push_part(text: &mut Vec<u8>, part: &Value, among_others: bool) {
    let hex;
    let plain = match part {
        Value::Blob(bytes) => {
            hex = to_hex(bytes);
            hex.as_bytes().into()
        }
        part => field(part).unwrap_or_default(),
    };
    if !among_others {
        text.extend_from_slice(&plain);
        return;
    }
    for &byte in plain.iter() {
        if matches!(byte, b':' | b'\\') {
            text.push(b'\\');
        }
        text.push(byte);
    }
}

pub(super) fn to_hex(bytes: &[u8]) -> String {
    let mut hex = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        let _ = write!(hex, "{byte:02x}");
    }
    hex
}

pub(super) fn from_hex(text: &[u8]) -> Option<Vec<u8>> {
    let digit = |byte: u8| (byte as char).to_digit(16).map(|digit| digit as u8);
    text.chunks(2)
        .map(|pair| match pair {
            [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
            _ => None,
        })
        .collect()
}

/// A text in a glob pattern that means only itself.
pub(super) fn literal(text: &str) -> String {
    let mut pattern = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if matches!(c, '*' | '?' | '[' | ']' | '\\' | '^') {
            pattern.push('\\');
        }
        pattern.push(c);
    }
    pattern
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_readable_and_no_two_rows_share_one() {
        let text = |text: &str| Value::Text(text.into());
        let of = |parts: &[Value]| String::from_utf8(joined(&parts.iter().collect::<Vec<_>>())).unwrap();
        assert_eq!(of(&[Value::Integer(-42)]), "-42");
        assert_eq!(of(&[text("a:b\\c")]), "a:b\\c");
        assert_eq!(of(&[text("acme"), Value::Integer(7)]), "acme:7");
        assert_eq!(of(&[text("a:b"), text("c")]), "a\\:b:c");
        assert_eq!(of(&[text("a"), text("b:c")]), "a:b\\:c");
        assert_ne!(of(&[text("a\\"), text("b")]), of(&[text("a\\:b"), text("")]));
        assert_eq!(of(&[Value::Blob(vec![0, 255]), Value::Real(0.5)]), "00ff:0.5");
    }

    #[test]
    fn a_prefix_is_what_the_keys_that_have_it_begin_with() {
        let text = |text: &str| Value::Text(text.into());
        let parts = [text("a:b\\"), Value::Integer(7), text("x")];
        let key = joined(&parts.iter().collect::<Vec<_>>());
        for (counts, expected) in [(&[1, 2][..], 2), (&[2][..], 1), (&[][..], 0)] {
            let prefixes = prefixes_of(&key, counts);
            assert_eq!(prefixes.len(), expected);
            for (count, prefix) in counts.iter().zip(prefixes) {
                assert_eq!(prefix, prefix_text(&parts[..*count]));
            }
        }
        let two = prefix_text(&parts[..2]);
        assert_eq!(prefixes_of(&two, &[1, 2]), [&prefix_text(&parts[..1])[..], &two]);
        // Neither a longer first part nor one that looks like two.
        for other in [text("a:b\\7"), text("a")] {
            let other = joined(&[&other, &text("b"), &text("7")]);
            assert!(!other.starts_with(&prefix_text(&parts[..1])));
        }
    }

    #[test]
    fn hex_is_read_back() {
        assert_eq!(from_hex(to_hex(&[0, 9, 255]).as_bytes()), Some(vec![0, 9, 255]));
        assert_eq!(from_hex(b"0g"), None);
        assert_eq!(from_hex(b"012"), None);
    }

    #[test]
    fn a_pattern_means_only_the_prefix() {
        assert_eq!(literal("a*[x]:"), "a\\*\\[x\\]:");
    }
}
