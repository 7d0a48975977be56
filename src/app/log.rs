//! What the log can give back: asked before a copy is rebuilt without anybody having said so.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::config::Config;
use crate::source::kafka::{KafkaSource, probe};
use crate::source::{Observation, Source, SourceEvent};

/// For one attempt to ask.
const PATIENCE: Duration = Duration::from_secs(20);

/// Why the log cannot give everything back, topic by topic; empty when it can: every topic is
/// compacted and nothing else removes its records, or it still begins at offset 0 everywhere.
/// `Err`: nobody could say.
pub fn what_is_gone(config: &Config, topics: &[String], stop: &AtomicBool) -> Result<Vec<String>, String> {
    let seen = observe(config, topics, stop)?;
    let mut suspects = Vec::new();
    for (index, observed) in &seen.topics {
        let gone =
            observed.partitions.iter().filter_map(|(partition, ends)| Some((partition, ends.log_start?)));
        if let Some((partition, start)) = gone.filter(|(_, start)| *start > 0).max_by_key(|(_, start)| *start)
        {
            suspects.push((*index, *partition, start));
        }
    }
    if suspects.is_empty() {
        return Ok(Vec::new());
    }
    let probed = probe(&config.kafka, topics, PATIENCE).map_err(|error| error.to_string())?;
    probed.cluster?;
    let mut gone = Vec::new();
    for (index, partition, start) in suspects {
        let found = probed.topics.get(index).and_then(|topic| topic.as_ref().ok());
        let cleanup = found.and_then(|topic| topic.cleanup.as_ref());
        let keeps_every_key = cleanup.is_some_and(|cleanup| {
            cleanup.compacts && cleanup.deletes_after.is_none() && cleanup.deletes_beyond_bytes.is_none()
        });
        if !keeps_every_key {
            let topic = topics.get(index).map_or("", String::as_str);
            gone.push(format!(
                "{topic}/{partition} begins at offset {start}, and the topic is not only compacted"
            ));
        }
    }
    Ok(gone)
}

/// One round about every topic, with the starts of their logs.
fn observe(config: &Config, topics: &[String], stop: &AtomicBool) -> Result<Observation, String> {
    let interval = config.freshness.interval;
    let mut source =
        KafkaSource::start(&config.kafka, topics, interval).map_err(|error| error.to_string())?;
    source.want_details(true);
    let until = Instant::now() + PATIENCE;
    let mut last = None;
    let mut reason = "no answer from the brokers".to_owned();
    while Instant::now() < until && !stop.load(Ordering::Relaxed) {
        source.poll(Duration::from_millis(100), 100, &mut |event| match event {
            SourceEvent::Observation(seen) => last = Some(seen),
            SourceEvent::Unreachable { reason: why } | SourceEvent::Fatal { reason: why } => reason = why,
            SourceEvent::TopicMissing { topic } => {
                reason = format!("topic {} does not exist", topics.get(topic).map_or("", String::as_str));
            }
            _ => {}
        });
        let whole = |seen: &Observation| {
            let mut ends = seen.topics.values().flat_map(|topic| topic.partitions.values());
            seen.topics.len() == topics.len() && ends.all(|ends| ends.log_start.is_some())
        };
        if let Some(seen) = last.take_if(|seen| whole(seen)) {
            return Ok(seen);
        }
    }
    Err(reason)
}
