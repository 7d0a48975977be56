//! A producer's history with updates, patches, deletes, duplicates and keys that move between
//! partitions, and the rows it must lead to: for tests that kill.

use std::collections::BTreeMap;

use crate::kafka::Message;

pub const PARTITIONS: i32 = 4;
/// Both tables of [`tables`].
pub const TABLES: [&str; 2] = ["items", "twins"];

/// splitmix64: repeatable, and good enough to choose keys.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % bound
    }
}

/// The producer's own idea of the truth, kept in the order in which it made it: not taken from the
/// code under test.
#[derive(Default, Clone)]
struct Item {
    name: Option<String>,
    amount: Option<u64>,
}

pub struct History {
    keys: u64,
    random: Random,
    sequence: u64,
    items: BTreeMap<u64, Item>,
    /// Recent events, to be sent again later.
    recent: Vec<(u64, String)>,
}

impl History {
    /// Over so many keys.
    pub fn new(keys: u64, seed: u64) -> History {
        History { keys, random: Random(seed), sequence: 0, items: BTreeMap::new(), recent: Vec::new() }
    }

    /// The next record: any partition, sometimes an old event again.
    pub fn next(&mut self) -> Message {
        if !self.recent.is_empty() && self.random.below(20) == 0 {
            let index = self.random.below(self.recent.len() as u64) as usize;
            let (key, value) = self.recent[index].clone();
            return self.record(key, &value);
        }
        let key = self.random.below(self.keys);
        self.sequence += 1;
        let sequence = self.sequence;
        let item = self.items.entry(key).or_default();
        let value = match self.random.below(10) {
            0 => {
                *item = Item::default();
                format!(r#"{{"type":"Gone","seq":{sequence},"id":{key}}}"#)
            }
            1..=3 => {
                item.amount = Some(sequence * 7);
                format!(r#"{{"type":"Priced","seq":{sequence},"id":{key},"amount":{}}}"#, sequence * 7)
            }
            _ => {
                let name = format!("name {sequence} of {key}");
                item.name = Some(name.clone());
                item.amount = Some(sequence * 3);
                format!(
                    r#"{{"type":"Set","seq":{sequence},"id":{key},"name":"{name}","amount":{}}}"#,
                    sequence * 3
                )
            }
        };
        if self.recent.len() < 500 {
            self.recent.push((key, value.clone()));
        } else {
            let index = self.random.below(500) as usize;
            self.recent[index] = (key, value.clone());
        }
        self.record(key, &value)
    }

    fn record(&mut self, key: u64, value: &str) -> Message {
        let partition = self.random.below(PARTITIONS as u64) as i32;
        Message::new(key.to_string(), value).to(partition)
    }

    /// `count` more records.
    pub fn take(&mut self, count: u64) -> Vec<Message> {
        (0..count).map(|_| self.next()).collect()
    }

    /// Rows a reader must see in the end, as `id|name|amount` in the order of their ids: a name is
    /// needed, an amount may be missing.
    pub fn expected(&self) -> Vec<String> {
        self.items
            .iter()
            .filter_map(|(key, item)| {
                let name = item.name.as_ref()?;
                let amount = item.amount.map_or("NULL".to_owned(), |amount| amount.to_string());
                Some(format!("{key}|{name}|{amount}"))
            })
            .collect()
    }
}

/// `topics:` and `tables:` of a configuration. Two tables from the same records: a reader that sees
/// them differ has seen half a transaction.
pub fn tables(topic: &str) -> String {
    let table = |name: &str| {
        format!(
            r#"
  {name}:
    topic: {topic}
    key: id
    columns: {{ id: integer, name: text, amount: 'integer?', seq: integer }}
    indexes: [[amount], [name, amount]]
    events:
      Set: {{ upsert: {{ id: .id, name: .name, amount: .amount, seq: .seq }} }}
      Priced: {{ patch: {{ id: .id, amount: .amount, seq: .seq }} }}
      Gone: {{ delete: {{ id: .id }} }}"#
        )
    };
    let tables = TABLES.map(table).concat();
    format!("topics:\n  {topic}: {{ format: json, event_type: .type, version: .seq }}\ntables:{tables}\n")
}
