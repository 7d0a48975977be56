//! One round of questions to the brokers: which cluster, which topics, where their logs end.
//!
//! The order matters. Offsets are asked first and identities after them: topic ids never come back,
//! so an id that is still the known one was the id when the offsets were read. Partitions that the
//! identities show beyond those that were asked for are asked for too, before the round counts.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{CStr, CString};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::source::{Cleanup, Ends, Observation, TopicObservation};

use super::SourceError;
use super::client::{Client, PartitionList, Topic, code, describe};
use super::requests::{self, Failure, Limit, Spec, TopicIdentity};

/// One try to find a broker that answers.
const FIND: Duration = Duration::from_millis(300);
/// All tries of a round: longer silence is worth telling.
const FIND_MAX: Duration = Duration::from_secs(if cfg!(test) { 200 } else { 2 });
/// How long the cleanup policies of topics count as known.
const CLEANUP_AGE: Duration = Duration::from_secs(30);

pub(super) struct Asker {
    /// Dropped before the client.
    topics: Vec<(CString, Topic)>,
    /// The broker asked for identities: any will do, but one that answers. Asking "the controller",
    /// librdkafka's default, fails where there is none.
    broker: Option<i32>,
    /// What to ask the ends of; empty after a failure.
    known: BTreeMap<usize, TopicIdentity>,
    /// As of the last round that was answered.
    last: BTreeMap<usize, TopicIdentity>,
    last_refused: Refused,
    cleanups: Option<(Instant, BTreeMap<usize, Cleanup>)>,
    pub client: Client,
}

/// What to ask for besides high watermarks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Extras {
    pub log_start: bool,
    pub last_stable: bool,
}

pub(super) struct Round {
    pub observation: Observation,
    pub missing: Vec<usize>,
    /// Topics about which nothing was told.
    pub refused: Refused,
    /// Topics, ids or partitions are not those of the round before.
    pub changed: bool,
}

/// What one of a partition's ends is, and the epoch of the leader that says so, -1 if it does not.
#[derive(Debug, Clone, Copy)]
pub(super) struct Offset {
    pub offset: i64,
    pub epoch: i32,
}

/// By topic index and partition.
pub(super) type Offsets = BTreeMap<(usize, i32), Offset>;
/// By topic index and partition.
type EndsByPartition = BTreeMap<(usize, i32), Ends>;
/// Why, by topic index.
pub(super) type Refused = BTreeMap<usize, String>;
/// By topic index: identity, or the broker's error code.
pub(super) type Identities = BTreeMap<usize, Result<TopicIdentity, i32>>;

impl Asker {
    pub fn new(client: Client, names: &[String]) -> Result<Asker, SourceError> {
        let topics = super::topic_handles(&client, names)?;
        Ok(Asker {
            topics,
            broker: None,
            known: BTreeMap::new(),
            last: BTreeMap::new(),
            last_refused: Refused::new(),
            cleanups: None,
            client,
        })
    }

    /// All answered, or nothing; a topic that the brokers refuse to tell about is left out, so that
    /// the others go on. A broker, leader or topic that went away since the last round costs a
    /// second try, not the round.
    pub fn round(&mut self, extras: Extras, limit: Limit<'_>) -> Result<Round, Failure> {
        let remembered = self.broker.is_some();
        let mut result = self.attempt(extras, limit);
        let again = match &result {
            Err(Failure::Failed(_)) => true,
            Err(Failure::Stopped) => false,
            // What was refused before will be refused again.
            Ok(round) => round.refused.keys().ne(self.last_refused.keys()),
        };
        if again && remembered {
            self.forget();
            result = self.attempt(extras, limit);
        }
        match &result {
            Ok(round) => self.last_refused.clone_from(&round.refused),
            Err(_) => self.forget(),
        }
        result
    }

    /// After a failure nothing is taken for granted: the broker may be gone, and so may a topic.
    fn forget(&mut self) {
        self.broker = None;
        self.known.clear();
    }

    fn attempt(&mut self, mut extras: Extras, limit: Limit<'_>) -> Result<Round, Failure> {
        let asked_ms = now_ms();
        let broker = self.find_broker(limit)?;
        for _ in 0..3 {
            let (ends, mut refused) = self.ends(&self.known, extras, limit)?;
            let cluster_id = requests::cluster_id(&self.client, broker, limit)?;
            let existing = self.existing(broker, limit)?;
            let asked = std::mem::replace(&mut self.known, existing.found);
            if self.known != asked {
                // A log that is new to us: where it begins is news as well.
                extras.log_start = true;
                self.cleanups = None;
                continue;
            }
            refused.extend(existing.refused);
            let changed = self.known != self.last;
            self.last.clone_from(&self.known);
            let cleanups = match extras.log_start {
                true => self.known_cleanups(broker, limit),
                false => BTreeMap::new(),
            };
            let told = self.known.iter().filter(|(index, _)| !refused.contains_key(index));
            let topics = told.map(|(index, topic)| {
                let ends = topic.partitions.iter().filter_map(|partition| {
                    let ends = ends.get(&(*index, *partition))?;
                    Some((*partition, *ends))
                });
                let cleanup = cleanups.get(index).cloned();
                (*index, TopicObservation { id: topic.id.clone(), partitions: ends.collect(), cleanup })
            });
            let observation = Observation { asked_ms, cluster_id, topics: topics.collect() };
            return Ok(Round { observation, missing: existing.missing, refused, changed });
        }
        Err(Failure::Failed("topics change while they are described".into()))
    }

    /// Tries until one answers; librdkafka picks which to try.
    pub fn find_broker(&mut self, limit: Limit<'_>) -> Result<i32, Failure> {
        if let Some(broker) = self.broker {
            return Ok(broker);
        }
        let limit = Limit { deadline: limit.deadline.min(Instant::now() + FIND_MAX), ..limit };
        loop {
            self.client.serve();
            let wait = limit.remaining()?.min(FIND);
            let start = Instant::now();
            let reason = match self.client.refresh(wait) {
                Ok(broker) => {
                    self.broker = Some(broker);
                    return Ok(broker);
                }
                Err(reason) => reason,
            };
            self.client.serve();
            if let Err(failure) = limit.remaining() {
                return Err(match failure {
                    Failure::Failed(_) => Failure::Failed(reason),
                    Failure::Stopped => Failure::Stopped,
                });
            }
            // It may have failed at once.
            thread::park_timeout(wait.saturating_sub(start.elapsed()));
        }
    }

    /// Ends of all partitions of the topics about which the brokers tell.
    fn ends(
        &self,
        topics: &BTreeMap<usize, TopicIdentity>,
        extras: Extras,
        limit: Limit<'_>,
    ) -> Result<(EndsByPartition, Refused), Failure> {
        let (high, mut refused) = self.offsets(topics, Spec::Latest, limit)?;
        let mut extra = |wanted: bool, spec: Spec| {
            if !wanted {
                return Ok(Offsets::new());
            }
            let (offsets, more) = self.offsets(topics, spec, limit)?;
            refused.extend(more);
            Ok(offsets)
        };
        let stable = extra(extras.last_stable, Spec::LatestStable)?;
        let start = extra(extras.log_start, Spec::Earliest)?;
        let ends = high.into_iter().map(|(at, high)| {
            let high_watermark = high.offset;
            // Asked for later, so it may have passed.
            let last_stable = stable.get(&at).map(|stable| stable.offset.min(high_watermark));
            let log_start = start.get(&at).map(|start| start.offset);
            (at, Ends { log_start, high_watermark, last_stable, leader_epoch: high.epoch })
        });
        Ok((ends.collect(), refused))
    }

    /// The offsets of all partitions of these topics, but of those that have a partition about which
    /// the brokers do not tell.
    pub fn offsets(
        &self,
        topics: &BTreeMap<usize, TopicIdentity>,
        spec: Spec,
        limit: Limit<'_>,
    ) -> Result<(Offsets, Refused), Failure> {
        let mut list = PartitionList::new();
        let mut asked = BTreeSet::new();
        for (index, topic) in topics {
            let Some(name) = self.name(*index) else { continue };
            for partition in &topic.partitions {
                list.add(name, *partition, spec.offset(), -1);
                asked.insert((*index, *partition));
            }
        }
        let (mut found, mut refused) = (Offsets::new(), Refused::new());
        if asked.is_empty() {
            return Ok((found, refused));
        }
        for listed in requests::list_offsets(&self.client, &list, spec, limit)? {
            let Some(index) = self.index(&listed.topic) else { continue };
            if listed.error == code::NONE {
                let offset = Offset { offset: listed.offset, epoch: listed.epoch };
                found.insert((index, listed.partition), offset);
            } else {
                let (topic, partition) = (listed.topic, listed.partition);
                let reason = explain(listed.error);
                refused.insert(index, format!("offsets of {topic} [{partition}]: {reason}"));
            }
        }
        let told = asked.iter().all(|at| found.contains_key(at) || refused.contains_key(&at.0));
        if !told {
            return Err(Failure::Failed("not all offsets were answered".into()));
        }
        if refused.len() == topics.len() && topics.len() > 1 {
            // Not about one topic: more likely a broker is going away.
            let reason = refused.into_values().next().unwrap_or_default();
            return Err(Failure::Failed(reason));
        }
        found.retain(|(index, _), _| !refused.contains_key(index));
        Ok((found, refused))
    }

    fn existing(&self, broker: i32, limit: Limit<'_>) -> Result<Existing, Failure> {
        let mut existing = Existing::default();
        for (index, identity) in self.identities(broker, limit)? {
            match identity {
                Ok(identity) => drop(existing.found.insert(index, identity)),
                Err(code::UNKNOWN_TOPIC_OR_PART) => existing.missing.push(index),
                Err(error) => {
                    let name = self.name(index).unwrap_or_default().to_string_lossy();
                    existing.refused.insert(index, format!("topic {name}: {}", explain(error)));
                }
            }
        }
        Ok(existing)
    }

    fn known_cleanups(&mut self, broker: i32, limit: Limit<'_>) -> BTreeMap<usize, Cleanup> {
        if let Some((asked, cleanups)) = &self.cleanups
            && asked.elapsed() < CLEANUP_AGE
        {
            return cleanups.clone();
        }
        let cleanups = self.cleanups(&self.known, broker, limit);
        self.cleanups = Some((Instant::now(), cleanups.clone()));
        cleanups
    }

    /// What becomes of old records, where the brokers tell: it needs DESCRIBE_CONFIGS on the topic.
    pub fn cleanups(
        &self,
        topics: &BTreeMap<usize, TopicIdentity>,
        broker: i32,
        limit: Limit<'_>,
    ) -> BTreeMap<usize, Cleanup> {
        let names: Vec<&CStr> = topics.keys().filter_map(|index| self.name(*index)).collect();
        if names.is_empty() {
            return BTreeMap::new();
        }
        let configs = requests::topic_configs(&self.client, broker, &names, limit).unwrap_or_default();
        let cleanups =
            configs.iter().filter_map(|(name, configs)| Some((self.index(name)?, cleanup(configs))));
        cleanups.collect()
    }

    pub fn identities(&self, broker: i32, limit: Limit<'_>) -> Result<Identities, Failure> {
        let names: Vec<&CStr> = self.topics.iter().map(|(name, _)| name.as_c_str()).collect();
        let described = requests::describe_topics(&self.client, broker, &names, limit)?;
        let indexed = described.into_iter().filter_map(|(name, found)| Some((self.index(&name)?, found)));
        let indexed: Identities = indexed.collect();
        match indexed.len() == self.topics.len() {
            true => Ok(indexed),
            false => Err(Failure::Failed("not all topics were described".into())),
        }
    }

    pub fn name(&self, index: usize) -> Option<&CStr> {
        self.topics.get(index).map(|(name, _)| name.as_c_str())
    }

    fn index(&self, name: &str) -> Option<usize> {
        self.topics.iter().position(|(known, _)| known.as_bytes() == name.as_bytes())
    }
}

/// What the brokers say about the configured topics.
#[derive(Default)]
struct Existing {
    found: BTreeMap<usize, TopicIdentity>,
    missing: Vec<usize>,
    refused: Refused,
}

fn cleanup(configs: &BTreeMap<String, String>) -> Cleanup {
    let policy = configs.get("cleanup.policy").map_or("", String::as_str);
    let has = |wanted: &str| policy.split(',').any(|policy| policy.trim() == wanted);
    let (compacts, deletes) = (has("compact"), has("delete"));
    // -1 is "no limit".
    let number = |name: &str| configs.get(name)?.parse::<u64>().ok();
    Cleanup {
        compacts,
        deletes_after: number("retention.ms").filter(|_| deletes).map(Duration::from_millis),
        deletes_beyond_bytes: number("retention.bytes").filter(|_| deletes),
        keeps_tombstones: number("delete.retention.ms").filter(|_| compacts).map(Duration::from_millis),
    }
}

/// What an error code of a broker means, and what to do about it where that is clear.
pub(super) fn explain(error: i32) -> String {
    match error {
        code::TOPIC_AUTHORIZATION => "not authorized: the user needs DESCRIBE and READ on the topic".into(),
        _ => describe(error),
    }
}

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_policy_that_deletes_makes_retention_count() {
        let configs = |policy: &str, ms: &str| {
            let configs = [
                ("cleanup.policy", policy),
                ("retention.ms", ms),
                ("retention.bytes", "-1"),
                ("delete.retention.ms", "1000"),
            ];
            cleanup(&configs.map(|(name, value)| (name.to_owned(), value.to_owned())).into())
        };
        let week = Some(Duration::from_secs(7 * 24 * 3600));
        let deleted = Cleanup {
            compacts: false,
            deletes_after: week,
            deletes_beyond_bytes: None,
            keeps_tombstones: None,
        };
        assert_eq!(configs("delete", "604800000"), deleted);
        assert!(!deleted.keeps_every_key());
        assert_eq!(configs("delete", "-1").deletes_after, None);
        let compacted = configs("compact", "604800000");
        assert_eq!((compacted.deletes_after, compacted.keeps_every_key()), (None, true));
        assert_eq!(compacted.keeps_tombstones, Some(Duration::from_secs(1)));
        let both = configs("compact,delete", "604800000");
        assert!(both.compacts && both.deletes_after == week && !both.keeps_every_key());
    }
}
