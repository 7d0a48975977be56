//! One round of questions to the brokers: which cluster, which topics, where their logs end.
//!
//! The order matters. Offsets are asked first and identities after them: topic ids never come back,
//! so an id that is still the known one was the id when the offsets were read. Partitions that the
//! identities show beyond those that were asked for are asked for too, before the round counts.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{CStr, CString, c_char};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rdkafka::bindings as sys;
use sys::rd_kafka_admin_op_t as op;

use crate::source::{Ends, Observation, TopicObservation};

use super::client::{Client, PartitionList, Queue, Topic, code, describe, millis, text};

/// One request; a round may need several.
const REQUEST: Duration = Duration::from_millis(2500);
/// How often a wait looks whether it should end.
const SLICE: Duration = Duration::from_millis(100);

pub(super) struct Asker {
    // Dropped before the client.
    topics: Vec<(String, CString, Topic)>,
    /// The broker asked for identities: any will do, but one that answers. Asking "the controller",
    /// librdkafka's default, fails where there is none.
    broker: Option<i32>,
    /// What to ask the ends of; empty after a failure.
    known: BTreeMap<usize, TopicIdentity>,
    /// As of the last round that was answered.
    last: BTreeMap<usize, TopicIdentity>,
    pub client: Client,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct TopicIdentity {
    pub id: String,
    pub partitions: BTreeSet<i32>,
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

#[derive(Debug, PartialEq)]
pub(super) enum Failure {
    /// Told to stop.
    Stopped,
    Failed(String),
}

/// Until when, unless told to stop.
#[derive(Clone, Copy)]
pub(super) struct Limit<'a> {
    pub deadline: Instant,
    pub stop: &'a AtomicBool,
}

impl Limit<'_> {
    fn remaining(&self) -> Result<Duration, Failure> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(Failure::Stopped);
        }
        match self.deadline.checked_duration_since(Instant::now()) {
            Some(left) if !left.is_zero() => Ok(left),
            _ => Err(Failure::Failed("no answer in time".into())),
        }
    }
}

type Offsets = BTreeMap<(usize, i32), i64>;

impl Asker {
    pub fn new(client: Client, topics: &[String]) -> Result<Asker, super::SourceError> {
        let mut handles = Vec::new();
        for (index, name) in topics.iter().enumerate() {
            let topic = Topic::new(&client, name, index)?;
            // Topic::new refuses a NUL.
            handles.push((name.clone(), CString::new(name.as_str()).unwrap_or_default(), topic));
        }
        Ok(Asker { topics: handles, broker: None, known: BTreeMap::new(), last: BTreeMap::new(), client })
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
            let asked = self.known.clone();
            let ends = self.ends(&asked, extras, limit)?;
            let cluster_id = self.cluster_id(broker, limit)?;
            let (topics, missing) = self.identities(broker, limit)?;
            self.known = topics;
            if self.known != asked {
                // A new log: its beginning is news as well.
                extras.log_start = true;
                continue;
            }
            let changed = self.known != self.last;
            self.last = self.known.clone();
            let topics = self.known.iter().map(|(index, topic)| {
                let partitions = topic
                    .partitions
                    .iter()
                    .filter_map(|partition| ends.get(&(*index, *partition)).map(|ends| (*partition, *ends)));
                let partitions = partitions.collect();
                (*index, TopicObservation { id: topic.id.clone(), partitions })
            });
            let observation = Observation { asked_ms, cluster_id, topics: topics.collect() };
            return Ok(Round { observation, missing, changed });
        }
        Err(Failure::Failed("topics change while they are described".into()))
    }

    fn find_broker(&mut self, limit: Limit<'_>) -> Result<i32, Failure> {
        if let Some(broker) = self.broker {
            return Ok(broker);
        }
        loop {
            self.client.serve();
            let wait = limit.remaining()?.min(SLICE * 3);
            let start = Instant::now();
            match self.client.refresh(wait) {
                Ok(broker) => {
                    self.broker = Some(broker);
                    return Ok(broker);
                }
                Err(reason) => {
                    self.client.serve();
                    limit.remaining().map_err(|failure| match failure {
                        Failure::Failed(_) => Failure::Failed(reason),
                        stopped => stopped,
                    })?;
                    // It may have failed at once.
                    std::thread::park_timeout(wait.saturating_sub(start.elapsed()));
                }
            }
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

    /// KIP-396 ListOffsets; one request per leader.
    fn offsets(
        &self,
        topics: &BTreeMap<usize, TopicIdentity>,
        spec: Spec,
        limit: Limit<'_>,
    ) -> Result<Offsets, Failure> {
        let mut list = PartitionList::new();
        let mut asked = 0;
        for (index, topic) in topics {
            let Some((_, name, _)) = self.topics.get(*index) else { continue };
            for partition in &topic.partitions {
                list.add(name, *partition, spec.offset(), -1);
                asked += 1;
            }
        }
        if asked == 0 {
            return Ok(Offsets::new());
        }
        let options = Options::new(&self.client, op::RD_KAFKA_ADMIN_OP_LISTOFFSETS, limit.remaining()?);
        options.set_isolation(spec);
        let event = self.ask(limit, |queue| {
            // SAFETY: librdkafka copies list and options.
            unsafe { sys::rd_kafka_ListOffsets(self.client.ptr(), list.ptr(), options.ptr(), queue.ptr()) };
        })?;
        let mut found = Offsets::new();
        // SAFETY: the result and everything in it live as long as the event.
        for info in unsafe { event.list_offsets() } {
            let (name, partition, offset, error) = info;
            let index = self.topics.iter().position(|(_, known, _)| known.as_c_str() == name);
            if error != code::NONE {
                // Its leader may have moved: the next round starts with fresh metadata.
                let reason = explain(error);
                let name = name.to_string_lossy();
                return Err(Failure::Failed(format!("offsets of {name} [{partition}]: {reason}")));
            }
            if let Some(index) = index {
                found.insert((index, partition), offset);
            }
        }
        if found.len() != asked {
            return Err(Failure::Failed("not all offsets were answered".into()));
        }
        Ok(found)
    }

    fn cluster_id(&self, broker: i32, limit: Limit<'_>) -> Result<String, Failure> {
        let options = Options::new(&self.client, op::RD_KAFKA_ADMIN_OP_DESCRIBECLUSTER, limit.remaining()?);
        options.set_broker(broker);
        let event = self.ask(limit, |queue| {
            // SAFETY: librdkafka copies the options.
            unsafe { sys::rd_kafka_DescribeCluster(self.client.ptr(), options.ptr(), queue.ptr()) };
        })?;
        // SAFETY: the result lives as long as the event.
        Ok(unsafe {
            let result = sys::rd_kafka_event_DescribeCluster_result(event.ptr());
            text(sys::rd_kafka_DescribeCluster_result_cluster_id(result))
        })
    }

    /// Existing topics, and the indexes of those that do not exist.
    fn identities(
        &self,
        broker: i32,
        limit: Limit<'_>,
    ) -> Result<(BTreeMap<usize, TopicIdentity>, Vec<usize>), Failure> {
        let mut names: Vec<*const c_char> = self.topics.iter().map(|(_, name, _)| name.as_ptr()).collect();
        let options = Options::new(&self.client, op::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS, limit.remaining()?);
        options.set_broker(broker);
        let event = self.ask(limit, |queue| {
            // SAFETY: librdkafka copies names and options.
            unsafe {
                let topics = sys::rd_kafka_TopicCollection_of_topic_names(names.as_mut_ptr(), names.len());
                sys::rd_kafka_DescribeTopics(self.client.ptr(), topics, options.ptr(), queue.ptr());
                sys::rd_kafka_TopicCollection_destroy(topics);
            }
        })?;
        let (mut found, mut missing) = (BTreeMap::new(), Vec::new());
        // SAFETY: the result and everything in it live as long as the event.
        for (name, described) in unsafe { event.topics() } {
            let Some(index) = self.topics.iter().position(|(_, known, _)| known.as_c_str() == name) else {
                continue;
            };
            match described {
                Ok(identity) => {
                    found.insert(index, identity);
                }
                Err(code::UNKNOWN_TOPIC_OR_PART) => missing.push(index),
                Err(error) => {
                    let name = name.to_string_lossy();
                    return Err(Failure::Failed(format!("topic {name}: {}", explain(error))));
                }
            }
        }
        if found.len() + missing.len() != self.topics.len() {
            return Err(Failure::Failed("not all topics were described".into()));
        }
        Ok((found, missing))
    }

    /// Sends one request and waits for its result. A queue of its own, so that the late answer to
    /// an earlier question is never taken for this one's.
    fn ask(&self, limit: Limit<'_>, send: impl FnOnce(&Queue)) -> Result<Event, Failure> {
        let queue = Queue::new(&self.client);
        send(&queue);
        loop {
            self.client.serve();
            let wait = limit.remaining()?.min(SLICE);
            // SAFETY: the queue lives.
            let event = unsafe { sys::rd_kafka_queue_poll(queue.ptr(), millis(wait)) };
            let Some(event) = NonNull::new(event).map(Event) else { continue };
            // SAFETY: the event lives.
            let (error, reason) = unsafe {
                let error = sys::rd_kafka_event_error(event.ptr()) as i32;
                (error, text(sys::rd_kafka_event_error_string(event.ptr())))
            };
            return match error {
                code::NONE => Ok(event),
                _ => Err(Failure::Failed(reason)),
            };
        }
    }
}

/// Which end of the log.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Spec {
    Earliest,
    /// The high watermark: as `read_uncommitted` sees it.
    Latest,
    /// The last stable offset: as `read_committed` sees it.
    LatestStable,
}

impl Spec {
    fn offset(self) -> i64 {
        match self {
            Spec::Earliest => sys::rd_kafka_OffsetSpec_t::RD_KAFKA_OFFSET_SPEC_EARLIEST as i64,
            Spec::Latest | Spec::LatestStable => {
                sys::rd_kafka_OffsetSpec_t::RD_KAFKA_OFFSET_SPEC_LATEST as i64
            }
        }
    }
}

struct Options(NonNull<sys::rd_kafka_AdminOptions_t>);

impl Options {
    fn new(client: &Client, request: op, remaining: Duration) -> Options {
        // SAFETY: never null; the error text may be null.
        unsafe {
            let options = NonNull::new_unchecked(sys::rd_kafka_AdminOptions_new(client.ptr(), request));
            let limit = millis(remaining.min(REQUEST)).max(1);
            sys::rd_kafka_AdminOptions_set_request_timeout(options.as_ptr(), limit, ptr::null_mut(), 0);
            Options(options)
        }
    }

    fn set_broker(&self, broker: i32) {
        // SAFETY: the options live; the error text may be null.
        unsafe { sys::rd_kafka_AdminOptions_set_broker(self.ptr(), broker, ptr::null_mut(), 0) };
    }

    fn set_isolation(&self, spec: Spec) {
        let level = match spec {
            Spec::LatestStable => sys::rd_kafka_IsolationLevel_t::RD_KAFKA_ISOLATION_LEVEL_READ_COMMITTED,
            _ => sys::rd_kafka_IsolationLevel_t::RD_KAFKA_ISOLATION_LEVEL_READ_UNCOMMITTED,
        };
        // SAFETY: the options live; an error is freed.
        unsafe {
            let error = sys::rd_kafka_AdminOptions_set_isolation_level(self.ptr(), level);
            if !error.is_null() {
                sys::rd_kafka_error_destroy(error);
            }
        }
    }

    fn ptr(&self) -> *mut sys::rd_kafka_AdminOptions_t {
        self.0.as_ptr()
    }
}

impl Drop for Options {
    fn drop(&mut self) {
        // SAFETY: dropped once.
        unsafe { sys::rd_kafka_AdminOptions_destroy(self.ptr()) };
    }
}

struct Event(NonNull<sys::rd_kafka_event_t>);

impl Event {
    fn ptr(&self) -> *mut sys::rd_kafka_event_t {
        self.0.as_ptr()
    }

    /// Topic, partition, offset and error of each partition of a ListOffsets result.
    ///
    /// # Safety
    /// The event must be a ListOffsets result.
    unsafe fn list_offsets(&self) -> Vec<(&CStr, i32, i64, i32)> {
        // SAFETY: the array has `count` elements, all of which live as long as the event.
        unsafe {
            let result = sys::rd_kafka_event_ListOffsets_result(self.ptr());
            let mut count = 0;
            let infos = sys::rd_kafka_ListOffsets_result_infos(result, &mut count);
            (0..count)
                .map(|nth| {
                    let at = sys::rd_kafka_ListOffsetsResultInfo_topic_partition(*infos.add(nth));
                    let error = (&raw const (*at).err).cast::<i32>().read();
                    (CStr::from_ptr((*at).topic), (*at).partition, (*at).offset, error)
                })
                .collect()
        }
    }

    /// Name and identity, or error, of each topic of a DescribeTopics result.
    ///
    /// # Safety
    /// The event must be a DescribeTopics result.
    unsafe fn topics(&self) -> Vec<(&CStr, Result<TopicIdentity, i32>)> {
        // SAFETY: the arrays have `count` elements, all of which live as long as the event.
        unsafe {
            let result = sys::rd_kafka_event_DescribeTopics_result(self.ptr());
            let mut count = 0;
            let topics = sys::rd_kafka_DescribeTopics_result_topics(result, &mut count);
            (0..count)
                .map(|nth| {
                    let topic = *topics.add(nth);
                    let name = CStr::from_ptr(sys::rd_kafka_TopicDescription_name(topic));
                    let error = sys::rd_kafka_TopicDescription_error(topic);
                    let error =
                        if error.is_null() { code::NONE } else { sys::rd_kafka_error_code(error) as i32 };
                    (name, if error == code::NONE { Ok(identity(topic)) } else { Err(error) })
                })
                .collect()
        }
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: dropped once.
        unsafe { sys::rd_kafka_event_destroy(self.ptr()) };
    }
}

/// # Safety
/// `topic` must be a live description without error.
unsafe fn identity(topic: *const sys::rd_kafka_TopicDescription_t) -> TopicIdentity {
    // SAFETY: the array has `count` elements; the id lives as long as the description.
    unsafe {
        let mut count = 0;
        let partitions = sys::rd_kafka_TopicDescription_partitions(topic, &mut count);
        let partitions =
            (0..count).map(|nth| sys::rd_kafka_TopicPartitionInfo_partition(*partitions.add(nth)));
        let partitions = partitions.collect();
        let id = sys::rd_kafka_TopicDescription_topic_id(topic);
        let zero = sys::rd_kafka_Uuid_most_significant_bits(id) == 0
            && sys::rd_kafka_Uuid_least_significant_bits(id) == 0;
        // Brokers before 2.8 have no topic ids: a recreated topic cannot be told there.
        let id = if zero { String::new() } else { text(sys::rd_kafka_Uuid_base64str(id)) };
        TopicIdentity { id, partitions }
    }
}

/// What an error code of a broker means.
pub(super) fn explain(error: i32) -> String {
    match error {
        code::TOPIC_AUTHORIZATION => "not authorized: the user needs DESCRIBE and READ on the topic".into(),
        _ => describe(error),
    }
}

pub(super) fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
