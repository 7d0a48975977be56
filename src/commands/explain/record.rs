//! The events themselves, read from the log again: their time, their type, whether they are still there.

use std::time::{Duration, Instant};

use serde::Serialize;

use super::letters::{LetterText, Letters, has_key};
use super::{Coordinates, EventText};
use crate::config::Config;
use crate::domain::catalog::Table;
use crate::domain::checkpoint::TopicPartition;
use crate::domain::record::OwnedRecord;
use crate::domain::value::Value;
use crate::mapping::Plan;
use crate::source::kafka::fetch::{Fetched, Limits, Place, fetch as fetch_records};

/// Dead letters whose records are read to see whether they are of this row.
const LETTERS_MAX: usize = 100;
const BYTES_MAX: usize = 64 << 20;
/// Between two looks at whether a schema has come.
const SCHEMA_WAIT: Duration = Duration::from_millis(100);

/// What the log has of an event.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Original {
    /// `None`: it cannot be read, for the reason in `missing`.
    pub timestamp: Option<String>,
    /// In formats and topics with event types.
    pub event_type: Option<String>,
    pub key_bytes: Option<usize>,
    pub value_bytes: Option<usize>,
    pub missing: Option<String>,
}

impl Original {
    fn missing(why: impl Into<String>) -> Original {
        let missing = Some(why.into());
        Original { timestamp: None, event_type: None, key_bytes: None, value_bytes: None, missing }
    }
}

/// Fills in what the log has; ends by the deadline.
pub fn fetch(
    config: &Config,
    events: &mut [EventText],
    letters: &mut Letters,
    (table, key): (&Table, &[Value]),
    deadline: Instant,
) {
    let of_letters = letters.of_unknown_key.iter().take(LETTERS_MAX);
    let mut places: Vec<Place> = events
        .iter()
        .filter_map(|event| event.stamp.record.as_ref())
        .map(|Coordinates { topic, partition, offset }| Place {
            topic: topic.clone(),
            partition: *partition,
            offset: *offset,
        })
        .chain(of_letters.map(place_of))
        .collect();
    places.sort_by(|a, b| (&a.topic, a.partition, a.offset).cmp(&(&b.topic, b.partition, b.offset)));
    places.dedup();
    if places.is_empty() {
        return;
    }
    let limits = Limits { deadline, bytes: BYTES_MAX };
    let fetched: Vec<Fetched> = match fetch_records(&config.kafka, &places, limits) {
        Ok(fetched) => fetched,
        Err(error) => places.iter().map(|_| Fetched::Unreachable(error.to_string())).collect(),
    };
    let of = |topic: &str, partition: i32, offset: i64| {
        let at = places.iter().position(|place| {
            (place.topic.as_str(), place.partition, place.offset) == (topic, partition, offset)
        });
        at.and_then(|at| fetched.get(at))
    };
    let mut plan = Plan::compile(config);
    for event in events.iter_mut() {
        let Some(Coordinates { topic, partition, offset }) = &event.stamp.record else { continue };
        let at = (*partition, *offset);
        event.original = Some(match of(topic, at.0, at.1) {
            Some(Fetched::Record(record)) => original(config, &mut plan, (topic, at), record, deadline),
            Some(Fetched::Gone(why)) => Original::missing(why.clone()),
            Some(Fetched::Unreachable(why)) => Original::missing(format!("the brokers do not answer: {why}")),
            Some(Fetched::NotTried) | None => Original::missing("there was no time left to read it"),
        });
    }
    let mut unknown = Vec::new();
    for letter in std::mem::take(&mut letters.of_unknown_key) {
        match of(&letter.topic, letter.partition, letter.offset) {
            Some(Fetched::Record(record)) => {
                if has_key(table, key, record.key.as_deref(), record.value.as_deref()) {
                    letters.of_this_key.push(letter);
                }
            }
            _ => unknown.push(letter),
        }
    }
    letters.of_unknown_key = unknown;
}

fn place_of(letter: &LetterText) -> Place {
    Place { topic: letter.topic.clone(), partition: letter.partition, offset: letter.offset }
}

fn original(
    config: &Config,
    plan: &mut Plan,
    (topic, (partition, offset)): (&str, (i32, i64)),
    record: &OwnedRecord,
    deadline: Instant,
) -> Original {
    let timestamp = record.timestamp_ms.and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    let event_type = config.topics.iter().position(|known| known.name == topic).and_then(|topic| {
        let record = record.as_record(TopicPartition { topic, partition }, offset);
        loop {
            match plan.event_type(&record) {
                Ok(found) => return found,
                Err(pending) => {
                    if Instant::now() >= deadline {
                        return None;
                    }
                    if !plan.can_go_on(&pending) {
                        std::thread::sleep(SCHEMA_WAIT);
                    }
                }
            }
        }
    });
    Original {
        timestamp: timestamp.map(|timestamp| timestamp.to_string()),
        event_type,
        key_bytes: record.key.as_ref().map(Vec::len),
        value_bytes: record.value.as_ref().map(Vec::len),
        missing: None,
    }
}
