//! The log in Apache Kafka, read through librdkafka.
//!
//! Every partition is read by itself from the position the replica holds: no consumer group, no
//! rebalance, nothing committed to Kafka. They share a few small queues, which are read in turns.
//!
//! - `read_committed`; an end of partition is what librdkafka reports at the last stable offset, so
//!   control records and compacted tails count as read.
//! - A position with a leader epoch is validated before the first record (KIP-320), so that a log
//!   that was truncated and grew again is a gap and not a silent difference.
//! - librdkafka goes on behind a batch that it cannot read (checksum, compression, unknown
//!   version). We do not: the partition is sent back to its position until it can be read.

mod assignment;
mod client;
pub mod fetch;
mod inbox;
mod lane;
pub mod mock;
mod observer;
mod probe;
pub mod produce;
mod questions;
mod repeats;
mod requests;
pub mod sample;
mod settings;

use std::collections::BTreeMap;
use std::ffi::{CStr, CString, c_char, c_void};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{ptr, slice};

use rdkafka::bindings as sys;

use crate::config::Kafka;
use crate::domain::checkpoint::{Position, TopicPartition};
use crate::domain::record::{HeaderList, Headers, Record};

use self::assignment::{Assignment, Refused};
use self::client::{Client, PartitionList, Topic, code};
use self::inbox::Turns;
use self::lane::{Lane, Which};
use self::observer::{Consumer, Observer};
use self::repeats::Repeats;
use super::{Source, SourceEvent, Waker};

pub use self::probe::{FoundTopic, Probe, probe, probe_writable};
pub use self::requests::Writable;

/// Records taken from librdkafka at once.
const BATCH: usize = 1024;
/// Records of one queue before the others have their turn.
const TURN: usize = 128;

/// Why a source cannot be started. Brokers that do not answer are no reason.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    #[error("kafka property {name}: {reason}")]
    Property { name: String, reason: String },
    #[error("kafka.secrets.{property}: cannot read {}: {source}", path.display())]
    Secret { property: String, path: PathBuf, source: std::io::Error },
    #[error("topic {topic}: {reason}")]
    Topic { topic: String, reason: String },
    #[error("no kafka client: {reason}")]
    Client { reason: String },
}

pub struct KafkaSource {
    observer: Observer,
    /// By [`Which`].
    lanes: [Lane; 2],
    turns: Arc<Turns>,
    assignment: Assignment,
    /// Partitions that reached their end in the last poll and are to be read with the others there.
    at_end: Vec<TopicPartition>,
    /// Partitions of which the last poll has heard what is to be asked once more.
    doubted: Vec<TopicPartition>,
    /// By partition with an error.
    errors: BTreeMap<TopicPartition, Repeats>,
    /// Messages of one poll; empty between polls.
    batch: Vec<*mut sys::rd_kafka_message_t>,
}

// SAFETY: librdkafka's handles are thread-safe, and the batch is empty whenever a caller could move
// the source.
unsafe impl Send for KafkaSource {}

impl KafkaSource {
    /// Starts to connect and to ask, every `interval`, where the logs end. The index of a topic is
    /// its place in `topics`.
    pub fn start(config: &Kafka, topics: &[String], interval: Duration) -> Result<KafkaSource, SourceError> {
        let turns = Arc::new(Turns::default());
        let lane = |which| Lane::new(config, which, topics, &turns);
        let lanes = [lane(Which::Behind)?, lane(Which::AtEnd)?];
        let clients = lanes.each_ref().map(|lane| Arc::clone(&lane.client));
        let consumer = Consumer { turns: Arc::clone(&turns), clients };
        let observer = Observer::start(config, topics, interval, consumer)?;
        Ok(KafkaSource {
            observer,
            lanes,
            turns,
            assignment: Assignment::default(),
            at_end: Vec::new(),
            doubted: Vec::new(),
            errors: BTreeMap::new(),
            batch: Vec::with_capacity(BATCH),
        })
    }

    /// What is wrong with a partition, while something is.
    fn error(&self, at: TopicPartition) -> Option<&str> {
        self.errors.get(&at)?.last()
    }

    fn observed(&self, max: usize, each: &mut dyn FnMut(SourceEvent<'_>)) -> usize {
        let mut handed = 0;
        while handed < max {
            let Some(event) = self.observer.next() else { break };
            each(event);
            handed += 1;
        }
        handed
    }

    /// Reads what has arrived, waiting for the first of it.
    fn fill(&mut self, wait: Duration, max: usize) {
        let max = max.min(BATCH);
        self.read(max);
        if self.batch.is_empty() && !wait.is_zero() && max > 0 {
            self.turns.wait(wait);
            self.read(max);
        }
    }

    /// Reads what is there, by turns.
    fn read(&mut self, max: usize) {
        while self.batch.len() < max {
            let Some(turn) = self.turns.next() else { return };
            let Some(inbox) = lane::inbox(&self.lanes, turn) else { continue };
            let room = (max - self.batch.len()).min(TURN).min(self.batch.capacity() - self.batch.len());
            // SAFETY: librdkafka writes at most `room` pointers behind the ones that are there, and
            // says how many.
            let count = unsafe {
                let end = self.batch.as_mut_ptr().add(self.batch.len());
                let count = sys::rd_kafka_consume_batch_queue(inbox.queue().ptr(), 0, end, room);
                let count = usize::try_from(count).unwrap_or(0);
                self.batch.set_len(self.batch.len() + count);
                count
            };
            // An empty queue announces what arrives next.
            if count > 0 {
                self.turns.add(turn);
            }
        }
    }

    /// What a message means. `None`: nothing to hand over.
    ///
    /// # Safety
    /// `message` must be a live message of this client.
    unsafe fn interpret<'a>(
        &mut self,
        message: *const sys::rd_kafka_message_t,
        headers: &'a RawHeaders,
    ) -> Option<SourceEvent<'a>> {
        // SAFETY: a live message.
        let Outline { error, topic, partition, offset } = unsafe { outline(message) };
        let Some(topic) = topic else {
            // About the client as a whole; the observer says what is wrong with the brokers.
            tracing::debug!(error = client::describe(error), "consumer error");
            return None;
        };
        let at = TopicPartition { topic, partition };
        match error {
            code::NONE => {
                // SAFETY: a live message.
                let leader_epoch = unsafe { sys::rd_kafka_message_leader_epoch(message) };
                if !self.assignment.take(at, offset, leader_epoch) {
                    return None;
                }
                self.well(at);
                // SAFETY: the record's slices live as long as the message, which outlives the
                // callback, as do the headers.
                Some(SourceEvent::Record(unsafe { record(message, at, leader_epoch, headers) }))
            }
            code::END_OF_PARTITION => {
                let counts = self.assignment.end(at, offset);
                self.well(at);
                if counts && self.assignment.may_wait(at, Instant::now()) {
                    self.at_end.push(at);
                }
                counts.then_some(SourceEvent::EndOfPartition { at, offset })
            }
            code::OUT_OF_RANGE => {
                // SAFETY: a live message with an error; its text lives as long.
                let why = unsafe { client::text(sys::rd_kafka_message_errstr(message)) };
                let diverges = divergence(&why);
                match self.assignment.out_of_range(at, diverges.is_some())? {
                    Refused::Told { position } => Some(SourceEvent::OutOfRange { at, position, diverges }),
                    Refused::Doubted => {
                        self.doubted.push(at);
                        None
                    }
                }
            }
            // It may appear yet, or its topic is being recreated: the observer tells.
            code::LOCAL_UNKNOWN_PARTITION | code::LOCAL_UNKNOWN_TOPIC | code::UNKNOWN_TOPIC_OR_PART => None,
            _ => {
                let now = Instant::now();
                self.assignment.hold(at, now);
                let name = self.lanes[0].name(topic).map(CStr::to_string_lossy).unwrap_or_default();
                // SAFETY: a live message.
                let why = unsafe { reason(message) };
                let reason = format!("{name} [{partition}]: {why}");
                let due = self.errors.entry(at).or_default().is_due(&reason, now);
                due.then_some(SourceEvent::Unreachable { reason })
            }
        }
    }

    fn well(&mut self, at: TopicPartition) {
        if !self.errors.is_empty() {
            self.errors.remove(&at);
        }
    }

    /// Sends partitions back to their positions, where that is due.
    fn send_back(&mut self) {
        let now = Instant::now();
        if self.assignment.next_due().is_none_or(|due| due > now) {
            return;
        }
        for which in Which::ALL {
            let lane = &self.lanes[which as usize];
            let mut list = PartitionList::new();
            let mut listed = Vec::new();
            for (at, next, epoch) in self.assignment.due(which, now) {
                let Some(name) = lane.name(at.topic) else { continue };
                list.add(name, at.partition, next, epoch);
                listed.push(at);
            }
            if listed.is_empty() {
                continue;
            }
            // SAFETY: handle and list live. Without a timeout it does not wait: what arrived before is
            // outdated as soon as the call returns.
            unsafe {
                let error = sys::rd_kafka_seek_partitions(lane.client.ptr(), list.ptr(), 0);
                if !error.is_null() {
                    sys::rd_kafka_error_destroy(error);
                }
            }
            for (at, error) in listed.into_iter().zip(list.errors()) {
                let taken = error == code::NONE || error == code::IN_PROGRESS;
                self.assignment.sent_back(at, taken, now);
            }
        }
    }

    /// Has each partition read by the client it belongs to; see [`lane`]. Between two polls, when no
    /// message is under way to the caller.
    fn change_lanes(&mut self) {
        let now = Instant::now();
        for at in std::mem::take(&mut self.at_end) {
            self.change_lane(at, Which::AtEnd, now);
        }
        let lane = &self.lanes[Which::AtEnd as usize];
        for at in self.assignment.behind(|at| lane.known_end(at)) {
            self.change_lane(at, Which::Behind, now);
        }
    }

    /// Starts partitions anew where they are, which is what makes librdkafka ask about them again. Between
    /// two polls, as above.
    fn ask_again(&mut self) {
        let now = Instant::now();
        for at in std::mem::take(&mut self.doubted) {
            if let Some((which, next)) = self.assignment.again(at, now) {
                tracing::debug!(
                    topic = at.topic,
                    partition = at.partition,
                    next,
                    "asking again about its epoch"
                );
                let lane = &self.lanes[which as usize];
                lane.stop(at);
                lane.start(at, self.assignment.nth(at), next);
            }
        }
    }

    fn change_lane(&mut self, at: TopicPartition, to: Which, now: Instant) {
        if let Some(moved) = self.assignment.change(at, to, now) {
            self.lanes[moved.from as usize].stop(at);
            self.lanes[to as usize].start(at, self.assignment.nth(at), moved.next);
        }
    }
}

impl Source for KafkaSource {
    fn poll(&mut self, wait: Duration, max: usize, each: &mut dyn FnMut(SourceEvent<'_>)) -> usize {
        let mut handed = self.observed(max, each);
        for lane in &self.lanes {
            lane.client.serve();
            if let Some(reason) = lane.client.take_fatal() {
                each(SourceEvent::Fatal { reason });
                handed += 1;
            }
        }
        self.change_lanes();
        self.ask_again();
        self.send_back();
        let until_due = self.assignment.next_due().map(|due| due.saturating_duration_since(Instant::now()));
        let wait = if handed > 0 { Duration::ZERO } else { wait.min(until_due.unwrap_or(wait)) };
        self.fill(wait, max.saturating_sub(handed));
        let mut batch = Batch { messages: std::mem::take(&mut self.batch), next: 0 };
        while let Some(message) = batch.next() {
            let headers = RawHeaders(message);
            // SAFETY: the batch keeps the message alive until it is asked for the next one.
            if let Some(event) = unsafe { self.interpret(message, &headers) } {
                each(event);
                handed += 1;
            }
        }
        self.batch = batch.into_empty();
        if handed == 0 { self.observed(max, each) } else { handed }
    }

    fn assign(&mut self, at: TopicPartition, from: &Position) {
        self.errors.remove(&at);
        if let Some(which) = self.assignment.put(at, from.next_offset, from.leader_epoch, Instant::now()) {
            self.lanes[which as usize].stop(at);
        }
        let nth = self.assignment.nth(at);
        self.lanes[Which::Behind as usize].start(at, nth, from.next_offset);
    }

    fn pause(&mut self, at: TopicPartition) {
        self.errors.remove(&at);
        if let Some(which) = self.assignment.remove(at) {
            self.lanes[which as usize].stop(at);
        }
    }

    fn waker(&self) -> Waker {
        let turns = Arc::clone(&self.turns);
        Arc::new(move || turns.wake())
    }

    fn want_details(&mut self, wanted: bool) {
        self.observer.want_details(wanted);
    }
}

impl Drop for KafkaSource {
    fn drop(&mut self) {
        for (at, which) in self.assignment.all() {
            self.lanes[which as usize].stop(at);
        }
    }
}

/// Name and handle of each topic; the index in the list is the one its messages carry.
fn topic_handles(client: &Client, names: &[String]) -> Result<Vec<(CString, Topic)>, SourceError> {
    let handle = |(index, name): (usize, &String)| {
        let c_name = CString::new(name.as_str()).map_err(|_| SourceError::Topic {
            topic: name.clone(),
            reason: "its name contains a NUL".into(),
        })?;
        let topic = Topic::new(client, &c_name, index)?;
        Ok((c_name, topic))
    };
    names.iter().enumerate().map(handle).collect()
}

/// Where the epochs of the log are no longer those that were read. librdkafka has it from the broker
/// (OffsetForLeaderEpoch) and tells it in its message only; a negative number is a log that has none
/// of the epochs that were read.
fn divergence(why: &str) -> Option<i64> {
    let (_, rest) = why.split_once("broker end offset is ")?;
    let end = rest.find(|letter: char| !letter.is_ascii_digit() && letter != '-').unwrap_or(rest.len());
    rest.get(..end)?.parse::<i64>().ok().map(|offset| offset.max(0))
}

/// Messages that are freed one after the other, the rest also when a callback panics.
struct Batch {
    messages: Vec<*mut sys::rd_kafka_message_t>,
    /// All before this one but the last are freed.
    next: usize,
}

impl Batch {
    /// The next message; the one before it is freed.
    fn next(&mut self) -> Option<*const sys::rd_kafka_message_t> {
        self.free_last();
        let message = *self.messages.get(self.next)?;
        self.next += 1;
        Some(message)
    }

    fn free_last(&mut self) {
        let Some(last) = self.next.checked_sub(1).and_then(|last| self.messages.get_mut(last)) else {
            return;
        };
        let message = std::mem::replace(last, ptr::null_mut());
        if !message.is_null() {
            // SAFETY: freed once: its place is null now.
            unsafe { sys::rd_kafka_message_destroy(message) };
        }
    }

    /// The memory of the list, for the next batch.
    fn into_empty(mut self) -> Vec<*mut sys::rd_kafka_message_t> {
        self.free_all();
        std::mem::take(&mut self.messages)
    }

    fn free_all(&mut self) {
        while self.next().is_some() {}
        self.messages.clear();
        self.next = 0;
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        self.free_all();
    }
}

/// What a message is about.
struct Outline {
    error: i32,
    /// `None`: about the client as a whole.
    topic: Option<usize>,
    partition: i32,
    offset: i64,
}

/// # Safety
/// `message` must be a live message of a client with [`topic_handles`].
unsafe fn outline(message: *const sys::rd_kafka_message_t) -> Outline {
    // SAFETY: see above. The error is read as the number it is, because the bindings' enum cannot hold
    // every code.
    unsafe {
        Outline {
            error: (&raw const (*message).err).cast::<i32>().read(),
            topic: (!(*message).rkt.is_null()).then(|| Topic::index_of((*message).rkt)),
            partition: (*message).partition,
            offset: (*message).offset,
        }
    }
}

/// What the error of a message says.
///
/// # Safety
/// `message` must be a live message with an error.
unsafe fn reason(message: *const sys::rd_kafka_message_t) -> String {
    // SAFETY: see above; the text lives as long as the message.
    let (why, error) =
        unsafe { (client::text(sys::rd_kafka_message_errstr(message)), outline(message).error) };
    if why.is_empty() { questions::explain(error) } else { why }
}

/// # Safety
/// `message` must be a live message without error, and live for `'a`.
unsafe fn record<'a>(
    message: *const sys::rd_kafka_message_t,
    at: TopicPartition,
    leader_epoch: i32,
    headers: &'a RawHeaders,
) -> Record<'a> {
    // SAFETY: key and payload have their lengths and live as long as the message.
    unsafe {
        let mut kind = sys::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
        let timestamp = sys::rd_kafka_message_timestamp(message, &mut kind);
        let known = kind != sys::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
        Record {
            at,
            offset: (*message).offset,
            leader_epoch,
            timestamp_ms: (known && timestamp >= 0).then_some(timestamp),
            key: bytes((*message).key, (*message).key_len),
            value: bytes((*message).payload, (*message).len),
            headers: Headers(Some(headers)),
        }
    }
}

/// # Safety
/// `start` must be null or the start of `length` bytes that live for `'a`.
unsafe fn bytes<'a>(start: *const c_void, length: usize) -> Option<&'a [u8]> {
    // SAFETY: see above.
    (!start.is_null()).then(|| unsafe { slice::from_raw_parts(start.cast(), length) })
}

/// The headers of a message, parsed by librdkafka when they are first asked for.
struct RawHeaders(*const sys::rd_kafka_message_t);

impl HeaderList for RawHeaders {
    fn each(&self, visit: &mut dyn FnMut(&str, Option<&[u8]>)) {
        let mut headers = ptr::null_mut();
        // SAFETY: the message outlives the list, and the headers' parts live as long as the message.
        unsafe {
            let none = sys::rd_kafka_message_headers(self.0, &mut headers) as i32 != code::NONE;
            if none || headers.is_null() {
                return;
            }
            for nth in 0.. {
                let (mut name, mut value, mut length) = (ptr::null::<c_char>(), ptr::null(), 0);
                let error = sys::rd_kafka_header_get_all(headers, nth, &mut name, &mut value, &mut length);
                if error as i32 != code::NONE {
                    return;
                }
                visit(&client::text(name), bytes(value, length));
            }
        }
    }
}

#[cfg(test)]
mod tests;
