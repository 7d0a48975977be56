//! One round of questions to the brokers: which cluster, which topics, where their logs end.
//!
//! The order matters. Offsets are asked first and identities after them: topic ids never come back,
//! so an id that is still the known one was the id when the offsets were read. Partitions that the
//! identities show beyond those that were asked for are asked for too, before the round counts.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::source::{Ends, Observation, TopicObservation};

use super::SourceError;
use super::client::{Client, PartitionList, Topic, code, describe};
use super::requests::{self, Failure, Limit, Spec, TopicIdentity};

/// One try to find a broker that answers.
const FIND: Duration = Duration::from_millis(300);
/// All tries of a round: longer silence is worth telling.
const FIND_MAX: Duration = Duration::from_secs(2);

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
    /// Topics, ids or partitions are not those of the round before.
    pub changed: bool,
}

pub(super) type Offsets = BTreeMap<(usize, i32), i64>;
/// By topic index: identity, or the broker's error code.
pub(super) type Identities = BTreeMap<usize, Result<TopicIdentity, i32>>;

impl Asker {
    pub fn new(client: Client, names: &[String]) -> Result<Asker, SourceError> {
        let topics = super::topic_handles(&client, names)?;
        Ok(Asker { topics, broker: None, known: BTreeMap::new(), last: BTreeMap::new(), client })
    }

    /// All answered, or nothing. A broker or topic that went away since the last round costs a
    /// second try, not the round.
    pub fn round(&mut self, extras: Extras, limit: Limit<'_>) -> Result<Round, Failure> {
        let remembered = self.broker.is_some();
        match self.attempt(extras, limit) {
            Err(Failure::Failed(_)) if remembered => {
                self.forget();
                self.attempt(extras, limit)
            }
            result => result,
        }
        .inspect_err(|_| self.forget())
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
            let ends = self.ends(&self.known, extras, limit)?;
            let cluster_id = requests::cluster_id(&self.client, broker, limit)?;
            let (found, missing) = self.existing(broker, limit)?;
            let asked = std::mem::replace(&mut self.known, found);
            if self.known != asked {
                // A log that is new to us: where it begins is news as well.
                extras.log_start = true;
                continue;
            }
            let changed = self.known != self.last;
            self.last.clone_from(&self.known);
            let topics = self.known.iter().map(|(index, topic)| {
                let ends = topic.partitions.iter().filter_map(|partition| {
                    let ends = ends.get(&(*index, *partition))?;
                    Some((*partition, *ends))
                });
                (*index, TopicObservation { id: topic.id.clone(), partitions: ends.collect() })
            });
            let observation = Observation { asked_ms, cluster_id, topics: topics.collect() };
            return Ok(Round { observation, missing, changed });
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

    fn ends(
        &self,
        topics: &BTreeMap<usize, TopicIdentity>,
        extras: Extras,
        limit: Limit<'_>,
    ) -> Result<BTreeMap<(usize, i32), Ends>, Failure> {
        let high = self.offsets(topics, Spec::Latest, limit)?;
        let stable = match extras.last_stable {
            true => self.offsets(topics, Spec::LatestStable, limit)?,
            false => Offsets::new(),
        };
        let start = match extras.log_start {
            true => self.offsets(topics, Spec::Earliest, limit)?,
            false => Offsets::new(),
        };
        let ends = high.into_iter().map(|(at, high_watermark)| {
            // Asked for later, so it may have passed.
            let last_stable = stable.get(&at).map(|stable| *stable.min(&high_watermark));
            (at, Ends { log_start: start.get(&at).copied(), high_watermark, last_stable })
        });
        Ok(ends.collect())
    }

    /// The offsets of all partitions of these topics.
    pub fn offsets(
        &self,
        topics: &BTreeMap<usize, TopicIdentity>,
        spec: Spec,
        limit: Limit<'_>,
    ) -> Result<Offsets, Failure> {
        let mut list = PartitionList::new();
        let mut asked = 0;
        for (index, topic) in topics {
            let Some(name) = self.name(*index) else { continue };
            for partition in &topic.partitions {
                list.add(name, *partition, spec.offset(), -1);
                asked += 1;
            }
        }
        let mut found = Offsets::new();
        if asked == 0 {
            return Ok(found);
        }
        for listed in requests::list_offsets(&self.client, &list, spec, limit)? {
            if listed.error != code::NONE {
                let (topic, partition) = (listed.topic, listed.partition);
                let reason = explain(listed.error);
                return Err(Failure::Failed(format!("offsets of {topic} [{partition}]: {reason}")));
            }
            if let Some(index) = self.index(&listed.topic) {
                found.insert((index, listed.partition), listed.offset);
            }
        }
        match found.len() == asked {
            true => Ok(found),
            false => Err(Failure::Failed("not all offsets were answered".into())),
        }
    }

    /// Topics that exist, and the indexes of those that do not.
    fn existing(
        &self,
        broker: i32,
        limit: Limit<'_>,
    ) -> Result<(BTreeMap<usize, TopicIdentity>, Vec<usize>), Failure> {
        let (mut found, mut missing) = (BTreeMap::new(), Vec::new());
        for (index, identity) in self.identities(broker, limit)? {
            match identity {
                Ok(identity) => drop(found.insert(index, identity)),
                Err(code::UNKNOWN_TOPIC_OR_PART) => missing.push(index),
                Err(error) => {
                    let name = self.name(index).unwrap_or_default().to_string_lossy();
                    return Err(Failure::Failed(format!("topic {name}: {}", explain(error))));
                }
            }
        }
        Ok((found, missing))
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
