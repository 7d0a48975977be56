//! Requests of librdkafka's admin API, one function each: send, wait for the answer, copy it out.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{CStr, c_char};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rdkafka::bindings as sys;
use sys::rd_kafka_admin_op_t as op;

use super::client::{Client, PartitionList, Queue, code, millis, text};

/// One request; a round may need several.
const REQUEST: Duration = Duration::from_millis(2500);
/// How often a wait looks whether it should end.
const SLICE: Duration = Duration::from_millis(100);

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
    pub fn remaining(&self) -> Result<Duration, Failure> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(Failure::Stopped);
        }
        match self.deadline.checked_duration_since(Instant::now()) {
            Some(left) if !left.is_zero() => Ok(left),
            _ => Err(Failure::Failed("no answer in time".into())),
        }
    }
}

/// What makes a topic the one it was.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct TopicIdentity {
    /// Empty for brokers before 2.8, which have no topic ids: there a topic that was deleted and
    /// created again cannot be told from the one before.
    pub id: String,
    pub partitions: BTreeSet<i32>,
}

/// Which end of the log.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Spec {
    Earliest,
    /// The high watermark: as `read_uncommitted` sees it.
    Latest,
    /// The last stable offset: as `read_committed` sees it.
    LatestStable,
}

impl Spec {
    /// As the offset of a partition in a [`PartitionList`].
    pub fn offset(self) -> i64 {
        use sys::rd_kafka_OffsetSpec_t as spec;
        match self {
            Spec::Earliest => spec::RD_KAFKA_OFFSET_SPEC_EARLIEST as i64,
            Spec::Latest | Spec::LatestStable => spec::RD_KAFKA_OFFSET_SPEC_LATEST as i64,
        }
    }

    fn isolation(self) -> sys::rd_kafka_IsolationLevel_t {
        use sys::rd_kafka_IsolationLevel_t as level;
        match self {
            Spec::LatestStable => level::RD_KAFKA_ISOLATION_LEVEL_READ_COMMITTED,
            _ => level::RD_KAFKA_ISOLATION_LEVEL_READ_UNCOMMITTED,
        }
    }
}

/// One partition of a ListOffsets answer.
pub(super) struct Listed {
    pub topic: String,
    pub partition: i32,
    pub offset: i64,
    /// Leader epoch (KIP-320), -1 where the broker does not tell.
    pub epoch: i32,
    pub error: i32,
}

/// KIP-396 ListOffsets; librdkafka sends one request to each leader.
pub(super) fn list_offsets(
    client: &Client,
    partitions: &PartitionList,
    spec: Spec,
    limit: Limit<'_>,
) -> Result<Vec<Listed>, Failure> {
    let options = Options::new(client, op::RD_KAFKA_ADMIN_OP_LISTOFFSETS, limit)?;
    options.set_isolation(spec.isolation());
    let event = ask(client, limit, |queue| {
        // SAFETY: librdkafka copies list and options.
        unsafe { sys::rd_kafka_ListOffsets(client.ptr(), partitions.ptr(), options.ptr(), queue) };
    })?;
    // SAFETY: the array has `count` elements, all of which live as long as the event.
    unsafe {
        let result = sys::rd_kafka_event_ListOffsets_result(event.ptr());
        let mut count = 0;
        let infos = sys::rd_kafka_ListOffsets_result_infos(result, &mut count);
        let listed = (0..count).map(|nth| {
            let at = sys::rd_kafka_ListOffsetsResultInfo_topic_partition(*infos.add(nth));
            let error = (&raw const (*at).err).cast::<i32>().read();
            let epoch = sys::rd_kafka_topic_partition_get_leader_epoch(at);
            let (topic, partition, offset) = (text((*at).topic), (*at).partition, (*at).offset);
            Listed { topic, partition, offset, epoch, error }
        });
        Ok(listed.collect())
    }
}

/// The cluster id as this broker reports it.
pub(super) fn cluster_id(client: &Client, broker: i32, limit: Limit<'_>) -> Result<String, Failure> {
    let options = Options::new(client, op::RD_KAFKA_ADMIN_OP_DESCRIBECLUSTER, limit)?;
    options.set_broker(broker);
    let event = ask(client, limit, |queue| {
        // SAFETY: librdkafka copies the options.
        unsafe { sys::rd_kafka_DescribeCluster(client.ptr(), options.ptr(), queue) };
    })?;
    // SAFETY: the result lives as long as the event.
    Ok(unsafe {
        let result = sys::rd_kafka_event_DescribeCluster_result(event.ptr());
        text(sys::rd_kafka_DescribeCluster_result_cluster_id(result))
    })
}

/// Identity, or the broker's error code, of each topic by name.
pub(super) fn describe_topics(
    client: &Client,
    broker: i32,
    names: &[&CStr],
    limit: Limit<'_>,
) -> Result<BTreeMap<String, Result<TopicIdentity, i32>>, Failure> {
    let options = Options::new(client, op::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS, limit)?;
    options.set_broker(broker);
    let event = ask_topics(client, names, &options, limit)?;
    // SAFETY: the array has `count` elements, all of which live as long as the event.
    unsafe {
        let result = sys::rd_kafka_event_DescribeTopics_result(event.ptr());
        let mut count = 0;
        let topics = sys::rd_kafka_DescribeTopics_result_topics(result, &mut count);
        let described = (0..count).map(|nth| {
            let topic = *topics.add(nth);
            let error = sys::rd_kafka_TopicDescription_error(topic);
            let error = if error.is_null() { code::NONE } else { sys::rd_kafka_error_code(error) as i32 };
            let found = if error == code::NONE { Ok(identity(topic)) } else { Err(error) };
            (text(sys::rd_kafka_TopicDescription_name(topic)), found)
        });
        Ok(described.collect())
    }
}

fn ask_topics(
    client: &Client,
    names: &[&CStr],
    options: &Options,
    limit: Limit<'_>,
) -> Result<Event, Failure> {
    let mut names: Vec<*const c_char> = names.iter().map(|name| name.as_ptr()).collect();
    ask(client, limit, |queue| {
        // SAFETY: librdkafka copies names and options.
        unsafe {
            let topics = sys::rd_kafka_TopicCollection_of_topic_names(names.as_mut_ptr(), names.len());
            sys::rd_kafka_DescribeTopics(client.ptr(), topics, options.ptr(), queue);
            sys::rd_kafka_TopicCollection_destroy(topics);
        }
    })
}

/// A topic as one who writes to it sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Writable {
    pub partitions: usize,
    /// `None`: the broker does not say (before 2.3).
    pub may_write: Option<bool>,
}

/// Or the broker's error code.
pub(super) fn writable(
    client: &Client,
    broker: i32,
    name: &CStr,
    limit: Limit<'_>,
) -> Result<Result<Writable, i32>, Failure> {
    let options = Options::new(client, op::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS, limit)?;
    options.set_broker(broker);
    options.include_rights();
    let event = ask_topics(client, &[name], &options, limit)?;
    // SAFETY: the arrays have as many elements as they say, all of which live as long as the event; a
    // right is read as the number it is.
    unsafe {
        let result = sys::rd_kafka_event_DescribeTopics_result(event.ptr());
        let mut count = 0;
        let topics = sys::rd_kafka_DescribeTopics_result_topics(result, &mut count);
        if count == 0 {
            return Ok(Err(code::UNKNOWN_TOPIC_OR_PART));
        }
        let topic = *topics;
        let error = sys::rd_kafka_TopicDescription_error(topic);
        if !error.is_null() && sys::rd_kafka_error_code(error) as i32 != code::NONE {
            return Ok(Err(sys::rd_kafka_error_code(error) as i32));
        }
        let mut rights_count = 0;
        let rights = sys::rd_kafka_TopicDescription_authorized_operations(topic, &mut rights_count);
        let write = sys::rd_kafka_AclOperation_t::RD_KAFKA_ACL_OPERATION_WRITE as i32;
        let may_write = (!rights.is_null())
            .then(|| (0..rights_count).any(|nth| rights.add(nth).cast::<i32>().read() == write));
        Ok(Ok(Writable { partitions: identity(topic).partitions.len(), may_write }))
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
        let id = if zero { String::new() } else { text(sys::rd_kafka_Uuid_base64str(id)) };
        TopicIdentity { id, partitions }
    }
}

/// The configuration of each topic by name, as far as the broker tells it to this user.
pub(super) fn topic_configs(
    client: &Client,
    broker: i32,
    topics: &[&CStr],
    limit: Limit<'_>,
) -> Result<BTreeMap<String, BTreeMap<String, String>>, Failure> {
    let options = Options::new(client, op::RD_KAFKA_ADMIN_OP_DESCRIBECONFIGS, limit)?;
    options.set_broker(broker);
    let event = ask(client, limit, |queue| {
        // SAFETY: librdkafka copies resources and options.
        unsafe {
            let kind = sys::rd_kafka_ResourceType_t::RD_KAFKA_RESOURCE_TOPIC;
            let new = |name: &&CStr| sys::rd_kafka_ConfigResource_new(kind, name.as_ptr());
            let mut resources: Vec<_> = topics.iter().map(new).collect();
            let count = resources.len();
            sys::rd_kafka_DescribeConfigs(client.ptr(), resources.as_mut_ptr(), count, options.ptr(), queue);
            sys::rd_kafka_ConfigResource_destroy_array(resources.as_mut_ptr(), count);
        }
    })?;
    let mut all = BTreeMap::new();
    // SAFETY: the arrays have as many elements as they say, all of which live as long as the event.
    unsafe {
        let result = sys::rd_kafka_event_DescribeConfigs_result(event.ptr());
        let mut resources_count = 0;
        let resources = sys::rd_kafka_DescribeConfigs_result_resources(result, &mut resources_count);
        for nth in 0..resources_count {
            let resource = *resources.add(nth);
            if sys::rd_kafka_ConfigResource_error(resource) as i32 != code::NONE {
                continue;
            }
            let mut configs = BTreeMap::new();
            let mut count = 0;
            let entries = sys::rd_kafka_ConfigResource_configs(resource, &mut count);
            for nth in 0..count {
                let entry = *entries.add(nth);
                let (name, value) =
                    (sys::rd_kafka_ConfigEntry_name(entry), sys::rd_kafka_ConfigEntry_value(entry));
                configs.insert(text(name), text(value));
            }
            all.insert(text(sys::rd_kafka_ConfigResource_name(resource)), configs);
        }
    }
    Ok(all)
}

/// Sends one request and waits for its result. A queue of its own, so that the late answer to an
/// earlier question is never taken for this one's.
fn ask(
    client: &Client,
    limit: Limit<'_>,
    send: impl FnOnce(*mut sys::rd_kafka_queue_t),
) -> Result<Event, Failure> {
    let queue = Queue::new(client);
    send(queue.ptr());
    loop {
        client.serve();
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

struct Event(NonNull<sys::rd_kafka_event_t>);

impl Event {
    fn ptr(&self) -> *mut sys::rd_kafka_event_t {
        self.0.as_ptr()
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: dropped once.
        unsafe { sys::rd_kafka_event_destroy(self.ptr()) };
    }
}

struct Options(NonNull<sys::rd_kafka_AdminOptions_t>);

impl Options {
    fn new(client: &Client, request: op, limit: Limit<'_>) -> Result<Options, Failure> {
        let timeout = millis(limit.remaining()?.min(REQUEST)).max(1);
        // SAFETY: never null; the error text may be null.
        unsafe {
            let options = NonNull::new_unchecked(sys::rd_kafka_AdminOptions_new(client.ptr(), request));
            sys::rd_kafka_AdminOptions_set_request_timeout(options.as_ptr(), timeout, ptr::null_mut(), 0);
            Ok(Options(options))
        }
    }

    fn set_broker(&self, broker: i32) {
        // SAFETY: the options live; the error text may be null.
        unsafe { sys::rd_kafka_AdminOptions_set_broker(self.ptr(), broker, ptr::null_mut(), 0) };
    }

    fn set_isolation(&self, level: sys::rd_kafka_IsolationLevel_t) {
        // SAFETY: the options live; an error is freed.
        unsafe {
            let error = sys::rd_kafka_AdminOptions_set_isolation_level(self.ptr(), level);
            if !error.is_null() {
                sys::rd_kafka_error_destroy(error);
            }
        }
    }

    fn include_rights(&self) {
        // SAFETY: the options live; an error is freed.
        unsafe {
            let error = sys::rd_kafka_AdminOptions_set_include_authorized_operations(self.ptr(), 1);
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
