//! A look at everything the source will need, each thing by itself: for `readside check`.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use crate::config::Kafka;
use crate::domain::checkpoint::{Position, TopicPartition};
use crate::source::{Cleanup, Source, SourceEvent};

use super::client::{Client, code};
use super::questions::{Asker, Identities, explain};
use super::requests::{self, Failure, Limit, Spec, TopicIdentity, Writable};
use super::{KafkaSource, SourceError};

/// What was found.
#[derive(Debug)]
pub struct Probe {
    /// Cluster id, or why no broker could be asked.
    pub cluster: Result<String, String>,
    /// By topic, in the order asked; empty when no broker could be asked.
    pub topics: Vec<Result<FoundTopic, String>>,
}

#[derive(Debug)]
pub struct FoundTopic {
    pub partitions: usize,
    /// `None`: not allowed to see it, which does no harm.
    pub cleanup: Option<Cleanup>,
}

/// Asks the brokers for the topics and reads a little of each, within `timeout`.
pub fn probe(config: &Kafka, topics: &[String], timeout: Duration) -> Result<Probe, SourceError> {
    let deadline = Instant::now() + timeout;
    let never = AtomicBool::new(false);
    let limit = Limit { deadline, stop: &never };
    let mut asker = Asker::new(Client::new(config, Some("check"))?, topics)?;
    let (broker, cluster, identities) = loop {
        let failure = match describe(&mut asker, limit) {
            Ok(described) => break described,
            Err(failure) => reason(failure),
        };
        // Silence may just be slow; an error that was told is an answer.
        let told = asker.client.take_error();
        if told.is_some() || limit.remaining().is_err() {
            return Ok(Probe { cluster: Err(told.unwrap_or(failure)), topics: Vec::new() });
        }
    };
    let mut found = Vec::new();
    for (index, identity) in identities {
        found.push(match identity {
            Ok(identity) => look_closer(&asker, broker, index, &identity, limit),
            Err(code::UNKNOWN_TOPIC_OR_PART) => Err("it does not exist".into()),
            Err(error) => Err(explain(error)),
        });
    }
    read(config, topics, &mut found, deadline)?;
    let found = found.into_iter().map(|topic| topic.map(|(topic, _)| topic)).collect();
    Ok(Probe { cluster: Ok(cluster), topics: found })
}

/// Looks whether a topic is there and may be written to, within `timeout`; writes nothing. `Err` in it:
/// why not.
pub fn probe_writable(
    config: &Kafka,
    topic: &str,
    timeout: Duration,
) -> Result<Result<Writable, String>, SourceError> {
    let never = AtomicBool::new(false);
    let limit = Limit { deadline: Instant::now() + timeout, stop: &never };
    let mut asker = Asker::new(Client::new(config, Some("check"))?, &[topic.to_owned()])?;
    let name = CString::new(topic).unwrap_or_default();
    let asked =
        asker.find_broker(limit).and_then(|broker| requests::writable(&asker.client, broker, &name, limit));
    Ok(match asked {
        Ok(Ok(found)) => Ok(found),
        Ok(Err(code::UNKNOWN_TOPIC_OR_PART)) => Err("it does not exist".into()),
        Ok(Err(error)) => Err(explain(error)),
        Err(failure) => Err(asker.client.take_error().unwrap_or_else(|| reason(failure))),
    })
}

fn describe(asker: &mut Asker, limit: Limit<'_>) -> Result<(i32, String, Identities), Failure> {
    let broker = asker.find_broker(limit)?;
    let cluster = requests::cluster_id(&asker.client, broker, limit)?;
    Ok((broker, cluster, asker.identities(broker, limit)?))
}

/// A topic and the ends of its partitions.
type Closer = (FoundTopic, BTreeMap<i32, i64>);

fn look_closer(
    asker: &Asker,
    broker: i32,
    index: usize,
    identity: &TopicIdentity,
    limit: Limit<'_>,
) -> Result<Closer, String> {
    let topic = BTreeMap::from([(index, identity.clone())]);
    let (ends, refused) = asker.offsets(&topic, Spec::LatestStable, limit).map_err(reason)?;
    if let Some(reason) = refused.into_values().next() {
        return Err(reason);
    }
    let ends = ends.into_iter().map(|((_, partition), end)| (partition, end.offset)).collect();
    let cleanup = asker.cleanups(&topic, broker, limit).remove(&index);
    Ok((FoundTopic { partitions: identity.partitions.len(), cleanup }, ends))
}

/// Fetches from the end of one partition of each topic: being allowed to describe a topic is not
/// being allowed to read it.
fn read(
    config: &Kafka,
    topics: &[String],
    found: &mut [Result<Closer, String>],
    deadline: Instant,
) -> Result<(), SourceError> {
    let mut source = KafkaSource::start(config, topics, Duration::from_secs(3600))?;
    let mut waiting = Vec::new();
    for (topic, closer) in found.iter().enumerate() {
        let Ok((_, ends)) = closer else { continue };
        let Some((partition, end)) = ends.first_key_value() else { continue };
        let at = TopicPartition { topic, partition: *partition };
        source.assign(at, &Position { next_offset: *end, ..Position::start() });
        waiting.push(at);
    }
    while !waiting.is_empty() && Instant::now() < deadline {
        source.poll(Duration::from_millis(100), 100, &mut |event| {
            let answered = match event {
                SourceEvent::Record(record) => record.at,
                // Out of range: written to or cleaned since, and so it was read.
                SourceEvent::EndOfPartition { at, .. } | SourceEvent::OutOfRange { at, .. } => at,
                _ => return,
            };
            waiting.retain(|at| *at != answered);
        });
        waiting.retain(|at| match source.error(*at) {
            Some(error) => {
                set_failed(found, at.topic, error.to_owned());
                false
            }
            None => true,
        });
    }
    for at in waiting {
        set_failed(found, at.topic, "it can be described, but no fetch was answered in time".into());
    }
    Ok(())
}

fn set_failed(found: &mut [Result<Closer, String>], topic: usize, reason: String) {
    if let Some(topic) = found.get_mut(topic) {
        *topic = Err(reason);
    }
}

pub(super) fn reason(failure: Failure) -> String {
    match failure {
        Failure::Failed(reason) => reason,
        Failure::Stopped => "stopped".into(),
    }
}
