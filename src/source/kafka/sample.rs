//! The last records of topics, for a person who asked for them.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use crate::config::Kafka;
use crate::domain::checkpoint::{Position, TopicPartition};
use crate::domain::record::OwnedRecord;
use crate::source::{Source, SourceEvent};

use super::client::{Client, code};
use super::probe::reason;
use super::questions::{Asker, explain};
use super::requests::{Limit, Spec};
use super::{KafkaSource, SourceError};

/// Of all records together.
const BYTES_MAX: usize = 64 << 20;

/// A record and where it lies; the topic is by its place among those that were asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampled {
    pub at: TopicPartition,
    pub offset: i64,
    pub record: OwnedRecord,
}

/// What was read of each topic, or why nothing was.
#[derive(Debug)]
pub struct Sample {
    /// In the order of their timestamps, and of their offsets within a partition.
    pub records: Vec<Sampled>,
    /// By topic.
    pub problems: BTreeMap<usize, String>,
}

/// About `count` records of each topic, the last of each partition, within `timeout`. `Err` inside: no
/// broker answers.
pub fn sample(
    config: &Kafka,
    topics: &[String],
    count: usize,
    timeout: Duration,
) -> Result<Result<Sample, String>, SourceError> {
    let deadline = Instant::now() + timeout;
    let never = AtomicBool::new(false);
    let limit = Limit { deadline, stop: &never };
    let mut asker = Asker::new(Client::new(config, Some("sample"))?, topics)?;
    let mut sample = Sample { records: Vec::new(), problems: BTreeMap::new() };
    let starts = loop {
        let failure = match starts(&mut asker, count, limit, &mut sample.problems) {
            Ok(starts) => break starts,
            Err(failure) => failure,
        };
        let told = asker.client.take_error();
        if told.is_some() || limit.remaining().is_err() {
            return Ok(Err(told.unwrap_or(failure)));
        }
    };
    let mut source = KafkaSource::start(config, topics, Duration::from_secs(3600))?;
    let mut waiting: BTreeMap<TopicPartition, usize> = BTreeMap::new();
    for (at, (start, each)) in starts {
        source.assign(at, &Position { next_offset: start, ..Position::start() });
        waiting.insert(at, each);
    }
    let mut bytes = 0;
    while !waiting.is_empty() && Instant::now() < deadline && bytes < BYTES_MAX {
        source.poll(Duration::from_millis(100), 100, &mut |event| match event {
            SourceEvent::Record(record) => {
                let Some(left) = waiting.get_mut(&record.at) else { return };
                let (at, offset, owned) = (record.at, record.offset, OwnedRecord::of(&record));
                bytes += owned.size();
                sample.records.push(Sampled { at, offset, record: owned });
                *left -= 1;
                if *left == 0 {
                    waiting.remove(&at);
                }
            }
            SourceEvent::EndOfPartition { at, .. } | SourceEvent::OutOfRange { at, .. } => {
                waiting.remove(&at);
            }
            _ => {}
        });
        let failed: Vec<(TopicPartition, String)> =
            waiting.keys().filter_map(|at| Some((*at, source.error(*at)?.to_owned()))).collect();
        for (at, error) in failed {
            waiting.remove(&at);
            sample.problems.insert(at.topic, error);
        }
    }
    for at in waiting.into_keys() {
        sample.problems.entry(at.topic).or_insert_with(|| "not all of it was answered in time".into());
    }
    // Stable: a partition keeps its order where times are equal; where they go back, it does not, so
    // that the partition's highest time so far counts.
    let mut highest: BTreeMap<TopicPartition, i64> = BTreeMap::new();
    sample.records.sort_by_key(|sampled| (sampled.at, sampled.offset));
    sample.records.sort_by_cached_key(|sampled| {
        let highest = highest.entry(sampled.at).or_insert(i64::MIN);
        *highest = (*highest).max(sampled.record.timestamp_ms.unwrap_or(i64::MIN));
        *highest
    });
    Ok(Ok(sample))
}

/// Where to begin in each partition that has something, and how many records to take there.
type Starts = BTreeMap<TopicPartition, (i64, usize)>;

fn starts(
    asker: &mut Asker,
    count: usize,
    limit: Limit<'_>,
    problems: &mut BTreeMap<usize, String>,
) -> Result<Starts, String> {
    let broker = asker.find_broker(limit).map_err(reason)?;
    let mut starts = Starts::new();
    for (index, identity) in asker.identities(broker, limit).map_err(reason)? {
        let identity = match identity {
            Ok(identity) => identity,
            Err(code::UNKNOWN_TOPIC_OR_PART) => {
                problems.insert(index, "it does not exist".to_owned());
                continue;
            }
            Err(error) => {
                problems.insert(index, explain(error));
                continue;
            }
        };
        let topic = BTreeMap::from([(index, identity)]);
        let (firsts, _) = asker.offsets(&topic, Spec::Earliest, limit).map_err(reason)?;
        let first = |at| firsts.get(&at).map(|first| first.offset);
        let (ends, refused) = asker.offsets(&topic, Spec::LatestStable, limit).map_err(reason)?;
        problems.extend(refused);
        let filled: Vec<((usize, i32), i64)> = ends
            .into_iter()
            .map(|(at, end)| (at, end.offset))
            .filter(|(at, end)| first(*at) < Some(*end))
            .collect();
        let each = count.div_ceil(filled.len().max(1)).max(1);
        for ((topic, partition), end) in filled {
            let first = first((topic, partition)).unwrap_or(0);
            let start = end.saturating_sub(i64::try_from(each).unwrap_or(i64::MAX)).max(first);
            starts.insert(TopicPartition { topic, partition }, (start, each));
        }
    }
    Ok(starts)
}
