//! A librdkafka client: created from properties, with its logs and errors caught, and destroyed
//! without waiting for brokers.
//!
//! This is the FFI, not the safe wrapper, because the wrapper drops the topic and offset of
//! end-of-partition and the topic and partition of out-of-range, and copies through a slower path.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::ptr::{self, NonNull};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::bindings as sys;

use crate::config::Kafka;

use super::SourceError;
use super::settings::{self, Property};

/// Broker and librdkafka error codes as numbers: a broker may send one that the bindings' enum
/// does not know.
pub(super) mod code {
    use super::sys::rd_kafka_resp_err_t as err;

    pub const NONE: i32 = 0;
    pub const END_OF_PARTITION: i32 = err::RD_KAFKA_RESP_ERR__PARTITION_EOF as i32;
    pub const OUT_OF_RANGE: i32 = err::RD_KAFKA_RESP_ERR__AUTO_OFFSET_RESET as i32;
    pub const LOCAL_UNKNOWN_PARTITION: i32 = err::RD_KAFKA_RESP_ERR__UNKNOWN_PARTITION as i32;
    pub const LOCAL_UNKNOWN_TOPIC: i32 = err::RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC as i32;
    pub const UNKNOWN_TOPIC_OR_PART: i32 = err::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART as i32;
    pub const TOPIC_AUTHORIZATION: i32 = err::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED as i32;
    pub const IN_PROGRESS: i32 = err::RD_KAFKA_RESP_ERR__IN_PROGRESS as i32;
    pub const FATAL: i32 = err::RD_KAFKA_RESP_ERR__FATAL as i32;
    pub const ALL_BROKERS_DOWN: i32 = err::RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN as i32;
    pub const AUTHENTICATION: i32 = err::RD_KAFKA_RESP_ERR__AUTHENTICATION as i32;
}

pub(super) struct Client {
    ptr: NonNull<sys::rd_kafka_t>,
    /// Its address is the opaque of the client, which dies first.
    notices: Box<Notices>,
}

// SAFETY: librdkafka's handles are thread-safe; `Notices` is Sync.
unsafe impl Send for Client {}
unsafe impl Sync for Client {}

/// What librdkafka told us about a client as a whole.
#[derive(Default)]
struct Notices {
    heard: Mutex<Heard>,
}

#[derive(Default)]
struct Heard {
    /// The most telling error since it was last taken.
    error: Option<ClientError>,
    fatal: Option<String>,
    /// By log facility: when it last reached our log as a warning.
    warned: BTreeMap<String, Instant>,
}

struct ClientError {
    code: i32,
    reason: String,
}

const WARN_EVERY: Duration = Duration::from_secs(60);
const FACILITIES_MAX: usize = 64;

impl Client {
    /// `purpose` is appended to the client id, so that brokers' logs tell our clients apart.
    pub fn new(config: &Kafka, purpose: Option<&str>) -> Result<Client, SourceError> {
        Client::with(config, purpose, &[])
    }

    /// With properties laid over those of the configuration.
    pub fn with(config: &Kafka, purpose: Option<&str>, over: &[(&str, &str)]) -> Result<Client, SourceError> {
        let mut properties = settings::properties(config)?;
        properties.extend(over.iter().map(|(name, value)| settings::plain(name, value)));
        if let Some(purpose) = purpose {
            let id = properties.iter().rev().find(|property| property.name == "client.id");
            let value = format!("{}-{purpose}", id.map_or("readside", |id| id.value.as_str()));
            properties.push(Property { name: "client.id".into(), value, secret: false });
        }
        let notices = Box::<Notices>::default();
        let mut reason = [0 as c_char; 512];
        // SAFETY: the configuration is owned here until rd_kafka_new takes it (only on success);
        // the opaque outlives the client (see Drop and the field order).
        let ptr = unsafe {
            let conf = sys::rd_kafka_conf_new();
            if let Err(error) = set_all(conf, &properties) {
                sys::rd_kafka_conf_destroy(conf);
                return Err(error);
            }
            sys::rd_kafka_conf_set_opaque(conf, (&raw const *notices).cast_mut().cast());
            sys::rd_kafka_conf_set_log_cb(conf, Some(on_log));
            sys::rd_kafka_conf_set_error_cb(conf, Some(on_error));
            let ptr = sys::rd_kafka_new(
                sys::rd_kafka_type_t::RD_KAFKA_CONSUMER,
                conf,
                reason.as_mut_ptr(),
                reason.len(),
            );
            match NonNull::new(ptr) {
                Some(ptr) => ptr,
                None => {
                    sys::rd_kafka_conf_destroy(conf);
                    return Err(SourceError::Client { reason: text(reason.as_ptr()) });
                }
            }
        };
        Ok(Client { ptr, notices })
    }

    pub fn ptr(&self) -> *mut sys::rd_kafka_t {
        self.ptr.as_ptr()
    }

    /// Lets librdkafka call our callbacks; does not wait.
    pub fn serve(&self) {
        // SAFETY: the handle lives.
        unsafe { sys::rd_kafka_poll(self.ptr(), 0) };
    }

    /// The most telling error since the last call.
    pub fn take_error(&self) -> Option<String> {
        self.notices.lock().error.take().map(|error| error.reason)
    }

    pub fn take_fatal(&self) -> Option<String> {
        self.notices.lock().fatal.take()
    }

    /// Asks for the metadata of our topics, which also updates what this client knows. Returns the
    /// id of the broker that answered.
    pub fn refresh(&self, limit: Duration) -> Result<i32, String> {
        let mut metadata = ptr::null();
        // SAFETY: the handle lives; no topic means all that have a handle; the metadata is freed
        // after its last use.
        unsafe {
            let error = sys::rd_kafka_metadata(self.ptr(), 0, ptr::null_mut(), &mut metadata, millis(limit));
            if error as i32 != code::NONE {
                return Err(describe(error as i32));
            }
            let broker = (*metadata).orig_broker_id;
            sys::rd_kafka_metadata_destroy(metadata);
            Ok(broker)
        }
    }

    /// Replaces SASL user and password for the next connections.
    pub fn set_credentials(&self, user: &str, password: &str) {
        let (Ok(user), Ok(password)) = (CString::new(user), CString::new(password)) else { return };
        // SAFETY: librdkafka copies both.
        unsafe {
            let error = sys::rd_kafka_sasl_set_credentials(self.ptr(), user.as_ptr(), password.as_ptr());
            if !error.is_null() {
                sys::rd_kafka_error_destroy(error);
            }
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // SAFETY: queues and topics of this client are dropped before it by their owners. No group
        // was joined, so there is nothing to leave and no broker to wait for.
        unsafe { sys::rd_kafka_destroy_flags(self.ptr(), sys::RD_KAFKA_DESTROY_F_NO_CONSUMER_CLOSE) };
    }
}

impl Notices {
    fn lock(&self) -> std::sync::MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A topic as a client knows it; messages point back to its index.
pub(super) struct Topic {
    ptr: NonNull<sys::rd_kafka_topic_t>,
}

// SAFETY: librdkafka's handles are thread-safe.
unsafe impl Send for Topic {}
unsafe impl Sync for Topic {}

impl Topic {
    /// Must be dropped before the client.
    pub fn new(client: &Client, name: &CStr, index: usize) -> Result<Topic, SourceError> {
        // SAFETY: rd_kafka_topic_new takes the configuration.
        let ptr = unsafe {
            let conf = sys::rd_kafka_default_topic_conf_dup(client.ptr());
            sys::rd_kafka_topic_conf_set_opaque(conf, ptr::without_provenance_mut(index));
            sys::rd_kafka_topic_new(client.ptr(), name.as_ptr(), conf)
        };
        NonNull::new(ptr).map(|ptr| Topic { ptr }).ok_or_else(|| {
            // SAFETY: reads a thread-local.
            let error = unsafe { sys::rd_kafka_last_error() };
            SourceError::Topic { topic: name.to_string_lossy().into_owned(), reason: describe(error as i32) }
        })
    }

    pub fn ptr(&self) -> *mut sys::rd_kafka_topic_t {
        self.ptr.as_ptr()
    }

    /// The index given to [`Topic::new`].
    ///
    /// # Safety
    /// `ptr` must be a live handle of a topic made by [`Topic::new`].
    pub unsafe fn index_of(ptr: *const sys::rd_kafka_topic_t) -> usize {
        // SAFETY: see above.
        unsafe { sys::rd_kafka_topic_opaque(ptr) }.addr()
    }
}

impl Drop for Topic {
    fn drop(&mut self) {
        // SAFETY: dropped once.
        unsafe { sys::rd_kafka_topic_destroy(self.ptr()) };
    }
}

pub(super) struct Queue {
    ptr: NonNull<sys::rd_kafka_queue_t>,
}

// SAFETY: librdkafka's handles are thread-safe.
unsafe impl Send for Queue {}
unsafe impl Sync for Queue {}

impl Queue {
    /// Must be dropped before the client.
    pub fn new(client: &Client) -> Queue {
        // SAFETY: never null: librdkafka aborts when memory is out.
        let ptr = unsafe { NonNull::new_unchecked(sys::rd_kafka_queue_new(client.ptr())) };
        Queue { ptr }
    }

    pub fn ptr(&self) -> *mut sys::rd_kafka_queue_t {
        self.ptr.as_ptr()
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        // SAFETY: dropped once.
        unsafe { sys::rd_kafka_queue_destroy(self.ptr()) };
    }
}

/// A list of partitions for librdkafka's calls.
pub(super) struct PartitionList {
    ptr: NonNull<sys::rd_kafka_topic_partition_list_t>,
}

impl PartitionList {
    pub fn new() -> PartitionList {
        // SAFETY: never null, see `Queue::new`.
        let ptr = unsafe { NonNull::new_unchecked(sys::rd_kafka_topic_partition_list_new(8)) };
        PartitionList { ptr }
    }

    /// `offset` may be a logical one; `leader_epoch` -1 is none.
    pub fn add(&mut self, topic: &CStr, partition: i32, offset: i64, leader_epoch: i32) {
        // SAFETY: the list lives and copies the name.
        unsafe {
            let added = sys::rd_kafka_topic_partition_list_add(self.ptr(), topic.as_ptr(), partition);
            (*added).offset = offset;
            sys::rd_kafka_topic_partition_set_leader_epoch(added, leader_epoch);
        }
    }

    pub fn ptr(&self) -> *mut sys::rd_kafka_topic_partition_list_t {
        self.ptr.as_ptr()
    }

    /// The error codes of its elements, in order.
    pub fn errors(&self) -> Vec<i32> {
        // SAFETY: `cnt` elements exist; the code is read as the number it is.
        unsafe {
            let list = self.ptr.as_ref();
            (0..usize::try_from(list.cnt).unwrap_or(0))
                .map(|nth| (&raw const (*list.elems.add(nth)).err).cast::<i32>().read())
                .collect()
        }
    }
}

impl Drop for PartitionList {
    fn drop(&mut self) {
        // SAFETY: dropped once.
        unsafe { sys::rd_kafka_topic_partition_list_destroy(self.ptr()) };
    }
}

/// # Safety
/// `conf` must be a live configuration.
unsafe fn set_all(conf: *mut sys::rd_kafka_conf_t, properties: &[Property]) -> Result<(), SourceError> {
    for property in properties {
        let refused = |reason: String| SourceError::Property { name: property.name.clone(), reason };
        let (Ok(name), Ok(value)) =
            (CString::new(property.name.as_str()), CString::new(property.value.as_str()))
        else {
            return Err(refused("it contains a NUL".into()));
        };
        let mut reason = [0 as c_char; 512];
        // SAFETY: all strings are terminated; librdkafka copies them.
        let result = unsafe {
            sys::rd_kafka_conf_set(conf, name.as_ptr(), value.as_ptr(), reason.as_mut_ptr(), reason.len())
        };
        if result != sys::rd_kafka_conf_res_t::RD_KAFKA_CONF_OK {
            // librdkafka's message may quote the value.
            let secret = property.secret.then(|| "its value, read from a file, is refused".to_owned());
            // SAFETY: librdkafka terminates what it writes.
            return Err(refused(secret.unwrap_or_else(|| unsafe { text(reason.as_ptr()) })));
        }
    }
    Ok(())
}

/// Copies a C string; null is empty.
///
/// # Safety
/// `ptr` must be null or a terminated string.
pub(super) unsafe fn text(ptr: *const c_char) -> String {
    if ptr.is_null() {
        return String::new();
    }
    // SAFETY: see above.
    unsafe { CStr::from_ptr(ptr) }.to_string_lossy().into_owned()
}

/// librdkafka's text for an error code.
pub(super) fn describe(error: i32) -> String {
    // Declared with the number that it is in C: the bindings' enum cannot hold every code a broker
    // may send.
    unsafe extern "C" {
        fn rd_kafka_err2str(error: c_int) -> *const c_char;
    }
    // SAFETY: takes any number and returns a static or thread-local string.
    unsafe { text(rd_kafka_err2str(error)) }
}

pub(super) fn millis(wait: Duration) -> c_int {
    c_int::try_from(wait.as_millis()).unwrap_or(c_int::MAX)
}

/// Called on librdkafka's threads. Its errors are the reasons of ours, which the pipeline logs;
/// here they are for whoever looks closer.
unsafe extern "C" fn on_log(
    client: *const sys::rd_kafka_t,
    level: c_int,
    facility: *const c_char,
    line: *const c_char,
) {
    // SAFETY: librdkafka passes terminated strings, and the opaque is our `Notices`. While it reads
    // its configuration there is no client yet.
    let (facility, line, notices) = unsafe {
        let known = !client.is_null();
        let opaque = if known { sys::rd_kafka_opaque(client) } else { ptr::null_mut() };
        (text(facility), text(line), (opaque as *const Notices).as_ref())
    };
    // syslog levels: 4 is a warning.
    if level <= 4 && notices.is_some_and(|notices| notices.may_warn(&facility)) {
        tracing::warn!(target: "readside::librdkafka", facility, "{line}");
    } else {
        tracing::debug!(target: "readside::librdkafka", facility, "{line}");
    }
}

impl Notices {
    fn may_warn(&self, facility: &str) -> bool {
        let now = Instant::now();
        let mut heard = self.lock();
        if heard.warned.get(facility).is_some_and(|last| now.duration_since(*last) < WARN_EVERY) {
            return false;
        }
        if heard.warned.len() >= FACILITIES_MAX {
            heard.warned.clear();
        }
        heard.warned.insert(facility.to_owned(), now);
        true
    }
}

/// Called by [`Client::serve`] and while a queue is read.
unsafe extern "C" fn on_error(
    client: *mut sys::rd_kafka_t,
    error: c_int,
    reason: *const c_char,
    opaque: *mut c_void,
) {
    // SAFETY: the opaque is our `Notices`; the reason is terminated.
    let (notices, reason) = unsafe {
        let Some(notices) = (opaque as *const Notices).as_ref() else { return };
        (notices, text(reason))
    };
    let mut heard = notices.lock();
    if error == code::FATAL {
        let mut why = [0 as c_char; 512];
        // SAFETY: librdkafka writes a terminated string of at most that length.
        let why = unsafe {
            sys::rd_kafka_fatal_error(client, why.as_mut_ptr(), why.len());
            text(why.as_ptr())
        };
        heard.fatal = Some(if why.is_empty() { reason } else { why });
        return;
    }
    // "All brokers are down" says less than why one of them is; credentials say most.
    let weight = |code: i32| match code {
        code::ALL_BROKERS_DOWN => 0,
        code::AUTHENTICATION => 2,
        _ => 1,
    };
    if heard.error.as_ref().is_none_or(|known| weight(error) >= weight(known.code)) {
        heard.error = Some(ClientError { code: error, reason });
    }
}
