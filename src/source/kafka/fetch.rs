//! Single records, read again from where they lie in the log.
//!
//! A client of its own for each call: it is rare, takes part in nothing else, and is gone afterwards.

use std::ffi::CString;
use std::time::{Duration, Instant};

use rdkafka::bindings as sys;

use crate::config::Kafka;
use crate::domain::checkpoint::TopicPartition;
use crate::domain::record::OwnedRecord;

use super::client::{Client, Queue, Topic, code, millis};
use super::{Outline, RawHeaders, SourceError, outline, reason, record, topic_handles};

/// Longest wait for one message, so that the deadline is kept.
const STEP: Duration = Duration::from_millis(100);
/// One partition that does not answer must not take the time of the others.
const PARTITION_MAX: Duration = Duration::from_secs(if cfg!(test) { 60 } else { 5 });
/// Records that are read over rather than sought past.
const READ_OVER: i64 = 100;

/// A record to be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub topic: String,
    pub partition: i32,
    pub offset: i64,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Fetched {
    Record(OwnedRecord),
    /// Not in the log (any more): why.
    Gone(String),
    /// Nobody answers in time, or the answer is an error.
    Unreachable(String),
    /// Time or room were used up before it.
    NotTried,
}

#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub deadline: Instant,
    /// Of all records together; the first one always fits.
    pub bytes: usize,
}

/// Reads the records at these places; the answers are in the same order. Fast where places are in
/// the order of their partitions.
pub fn fetch(config: &Kafka, places: &[Place], limits: Limits) -> Result<Vec<Fetched>, SourceError> {
    let mut names: Vec<String> = places.iter().map(|place| place.topic.clone()).collect();
    names.sort();
    names.dedup();
    let client = Client::new(config, Some("retry"))?;
    let topics = topic_handles(&client, &names)?;
    let queue = Queue::new(&client);
    let mut fetch = Fetch { client: &client, topics: &topics, queue: &queue, limits, bytes: 0 };
    let mut all = Vec::with_capacity(places.len());
    let same =
        |a: &Place, b: &Place| (&a.topic, a.partition) == (&b.topic, b.partition) && a.offset < b.offset;
    for run in places.chunk_by(same) {
        let Some(first) = run.first() else { continue };
        match names.binary_search(&first.topic) {
            Ok(topic) => fetch.run(TopicPartition { topic, partition: first.partition }, run, &mut all),
            Err(_) => all.extend(run.iter().map(|_| Fetched::NotTried)),
        }
    }
    Ok(all)
}

struct Fetch<'a> {
    client: &'a Client,
    topics: &'a [(CString, Topic)],
    queue: &'a Queue,
    limits: Limits,
    /// Of the records that were read.
    bytes: usize,
}

/// What the next message says about the partition that is read.
enum Said {
    /// A record; `None` without room for it.
    Record(i64, Option<OwnedRecord>),
    /// There is nothing at or behind this offset yet.
    End(i64),
    OutOfRange,
    Failed(String),
    Nothing,
}

impl Fetch<'_> {
    /// Ascending offsets of one partition.
    fn run(&mut self, at: TopicPartition, places: &[Place], all: &mut Vec<Fetched>) {
        let done = all.len() + places.len();
        let deadline = self.limits.deadline.min(Instant::now() + PARTITION_MAX);
        let mut reading: Option<i64> = None;
        let mut failed = "no answer in time".to_owned();
        let mut left = places.iter().map(|place| place.offset).peekable();
        while let Some(&wanted) = left.peek() {
            if self.is_full() {
                break;
            }
            if Instant::now() >= deadline {
                // What the call had no time for is not to be taken for lost.
                if Instant::now() < self.limits.deadline || all.is_empty() {
                    all.extend(left.by_ref().map(|_| Fetched::Unreachable(failed.clone())));
                }
                break;
            }
            if reading.is_none_or(|next| wanted.saturating_sub(next) > READ_OVER) {
                self.start(at, wanted, reading.is_some());
                reading = Some(wanted);
            }
            match self.next(at, wanted) {
                Said::Record(offset, _) if offset < wanted => reading = Some(offset + 1),
                Said::Record(offset, record) if offset == wanted => {
                    // Without room it is not tried, and neither is what follows.
                    let Some(record) = record else { break };
                    self.bytes += record.size();
                    all.push(Fetched::Record(record));
                    left.next();
                    reading = Some(offset + 1);
                }
                Said::Record(offset, _) => {
                    while left.next_if(|wanted| *wanted < offset).is_some() {
                        all.push(Fetched::Gone("compaction or retention has removed it from the log".into()));
                    }
                    // It may be the next one that is wanted.
                    if let Some(&next) = left.peek() {
                        self.start(at, next, true);
                        reading = Some(next);
                    }
                }
                Said::End(offset) => {
                    while left.next_if(|wanted| *wanted < offset).is_some() {
                        all.push(Fetched::Gone("it has been removed from the log".into()));
                    }
                    all.extend(left.by_ref().map(|_| Fetched::Gone("the log ends before it".into())));
                }
                Said::OutOfRange => {
                    all.push(Fetched::Gone("retention has removed it, or the log ends before it".into()));
                    left.next();
                    // The next one may be there.
                    self.stop(at, reading.is_some());
                    reading = None;
                }
                Said::Failed(reason) => failed = reason,
                Said::Nothing => {}
            }
        }
        self.stop(at, reading.is_some());
        all.resize(done, Fetched::NotTried);
    }

    fn is_full(&self) -> bool {
        self.bytes >= self.limits.bytes
    }

    fn start(&self, at: TopicPartition, offset: i64, again: bool) {
        self.stop(at, again);
        let Some((_, topic)) = self.topics.get(at.topic) else { return };
        // SAFETY: topic and queue live; a refusal shows as silence.
        unsafe {
            sys::rd_kafka_consume_start_queue(topic.ptr(), at.partition, offset, self.queue.ptr());
        }
    }

    fn stop(&self, at: TopicPartition, is_reading: bool) {
        if let (true, Some((_, topic))) = (is_reading, self.topics.get(at.topic)) {
            // SAFETY: the topic lives. It waits for librdkafka's own thread, not for a broker.
            unsafe { sys::rd_kafka_consume_stop(topic.ptr(), at.partition) };
        }
    }

    fn next(&self, at: TopicPartition, wanted: i64) -> Said {
        self.client.serve();
        if let Some(reason) = self.client.take_fatal() {
            return Said::Failed(reason);
        }
        // SAFETY: the queue lives.
        let message = unsafe { sys::rd_kafka_consume_queue(self.queue.ptr(), millis(STEP)) };
        if message.is_null() {
            return self.client.take_error().map_or(Said::Nothing, Said::Failed);
        }
        // SAFETY: a live message until it is destroyed below; what is kept of it is copied.
        unsafe {
            let said = self.interpret(message, at, wanted);
            sys::rd_kafka_message_destroy(message);
            said
        }
    }

    /// # Safety
    /// `message` must be a live message of this client.
    unsafe fn interpret(
        &self,
        message: *const sys::rd_kafka_message_t,
        at: TopicPartition,
        wanted: i64,
    ) -> Said {
        // SAFETY: a live message.
        let Outline { error, topic, partition, offset } = unsafe { outline(message) };
        if topic != Some(at.topic) || partition != at.partition {
            // Of a partition that was read before, or about the client as a whole.
            return Said::Nothing;
        }
        match error {
            code::NONE if offset == wanted => {
                let headers = RawHeaders(message);
                // SAFETY: a live message without error.
                let record = unsafe { record(message, at, -1, &headers) };
                let size = record.key.map_or(0, <[u8]>::len) + record.value.map_or(0, <[u8]>::len);
                let fits = self.bytes == 0 || self.bytes.saturating_add(size) <= self.limits.bytes;
                Said::Record(offset, fits.then(|| OwnedRecord::of(&record)))
            }
            code::NONE => Said::Record(offset, None),
            code::END_OF_PARTITION => Said::End(offset),
            code::OUT_OF_RANGE => Said::OutOfRange,
            code::LOCAL_UNKNOWN_PARTITION | code::LOCAL_UNKNOWN_TOPIC | code::UNKNOWN_TOPIC_OR_PART => {
                Said::Failed("the topic or partition is not there".into())
            }
            _ => {
                // SAFETY: a live message with an error.
                Said::Failed(unsafe { reason(message) })
            }
        }
    }
}
