//! Writing to the broker: producers and the admin API. Everything here waits until it is done and
//! panics when it fails.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::time::Duration;

use rdkafka::admin::{
    AdminClient, AdminOptions, AlterConfig, NewPartitions, NewTopic, ResourceSpecifier, TopicReplication,
};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer, ProducerContext};
use rdkafka::{ClientConfig, ClientContext, Message as _, Offset, TopicPartitionList};

use super::Broker;

const LIMIT: Duration = Duration::from_secs(60);

/// One record to write.
#[derive(Debug, Clone, Default)]
pub struct Message {
    partition: Option<i32>,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    headers: Vec<(String, Vec<u8>)>,
    timestamp_ms: Option<i64>,
}

impl Message {
    pub fn new(key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Message {
        let (key, value) = (Some(key.as_ref().to_vec()), Some(value.as_ref().to_vec()));
        Message { key, value, ..Message::default() }
    }

    pub fn tombstone(key: impl AsRef<[u8]>) -> Message {
        Message { key: Some(key.as_ref().to_vec()), ..Message::default() }
    }

    pub fn without_key(value: impl AsRef<[u8]>) -> Message {
        Message { value: Some(value.as_ref().to_vec()), ..Message::default() }
    }

    /// The partition; by the key's hash otherwise.
    pub fn to(self, partition: i32) -> Message {
        Message { partition: Some(partition), ..self }
    }

    /// Bytes of key and value.
    pub fn size(&self) -> usize {
        let length = |bytes: &Option<Vec<u8>>| bytes.as_ref().map_or(0, Vec::len);
        length(&self.key) + length(&self.value)
    }

    /// CreateTime, ms since 1970.
    pub fn at(self, timestamp_ms: i64) -> Message {
        Message { timestamp_ms: Some(timestamp_ms), ..self }
    }

    pub fn header(mut self, name: &str, value: &[u8]) -> Message {
        self.headers.push((name.to_owned(), value.to_vec()));
        self
    }
}

impl Broker {
    pub fn create_topic(&self, topic: &str, partitions: i32, configs: &[(&str, &str)]) {
        let mut new = NewTopic::new(topic, partitions, TopicReplication::Fixed(1));
        for (name, value) in configs {
            new = new.set(name, value);
        }
        for result in wait(self.admin().create_topics([&new], &options())).expect("create topics") {
            result.unwrap_or_else(|error| panic!("create topic: {error:?}"));
        }
        self.shows(topic, Some(partitions as usize));
    }

    pub fn delete_topic(&self, topic: &str) {
        for result in wait(self.admin().delete_topics(&[topic], &options())).expect("delete topics") {
            result.unwrap_or_else(|error| panic!("delete topic: {error:?}"));
        }
        self.shows(topic, None);
    }

    /// Waits until the broker shows the topic with so many partitions that have a leader, or not at all:
    /// it hears later than the controller what was done.
    fn shows(&self, topic: &str, partitions: Option<usize>) {
        let consumer: BaseConsumer = self.client_config().create().expect("a client");
        super::eventually_or(
            || format!("topic {topic} with partitions: {partitions:?}"),
            || {
                let metadata = consumer.fetch_metadata(None, LIMIT).ok()?;
                let found = metadata.topics().iter().find(|found| found.name() == topic).map(|found| {
                    found.partitions().iter().filter(|partition| partition.leader() >= 0).count()
                });
                (found == partitions).then_some(())
            },
        );
    }

    /// Sets the topic's configuration to exactly this.
    pub fn alter_topic(&self, topic: &str, configs: &[(&str, &str)]) {
        let mut all = AlterConfig::new(ResourceSpecifier::Topic(topic));
        for (name, value) in configs {
            all = all.set(name, value);
        }
        for result in wait(self.admin().alter_configs([&all], &options())).expect("alter configs") {
            result.unwrap_or_else(|error| panic!("alter topic: {error:?}"));
        }
        let specifier = ResourceSpecifier::Topic(topic);
        super::eventually("the topic's new configuration shows", || {
            let described = wait(self.admin().describe_configs([&specifier], &options())).ok()?;
            let described = described.into_iter().next()?.ok()?;
            let is_there = |(name, value): &(&str, &str)| {
                described.get(name).and_then(|entry| entry.value.as_deref()) == Some(*value)
            };
            configs.iter().all(is_there).then_some(())
        });
    }

    /// Lets [`super::STRANGER`] read the topic, and nothing else.
    pub fn allow_stranger(&self, topic: &str) {
        use rdkafka::bindings as sys;
        use sys::rd_kafka_AclOperation_t as operation;
        let text = |text: &str| std::ffi::CString::new(text).expect("no NUL");
        let (name, principal, host) = (text(topic), text(&format!("User:{}", super::STRANGER)), text("*"));
        let admin = self.admin();
        let client = admin.inner().native_ptr();
        for wanted in [operation::RD_KAFKA_ACL_OPERATION_READ, operation::RD_KAFKA_ACL_OPERATION_DESCRIBE] {
            // SAFETY: all pointers live until they are destroyed at the end, each once; the strings
            // are copied; without options the defaults hold.
            unsafe {
                let mut binding = sys::rd_kafka_AclBinding_new(
                    sys::rd_kafka_ResourceType_t::RD_KAFKA_RESOURCE_TOPIC,
                    name.as_ptr(),
                    sys::rd_kafka_ResourcePatternType_t::RD_KAFKA_RESOURCE_PATTERN_LITERAL,
                    principal.as_ptr(),
                    host.as_ptr(),
                    wanted,
                    sys::rd_kafka_AclPermissionType_t::RD_KAFKA_ACL_PERMISSION_TYPE_ALLOW,
                    std::ptr::null_mut(),
                    0,
                );
                let queue = sys::rd_kafka_queue_new(client);
                sys::rd_kafka_CreateAcls(client, &mut binding, 1, std::ptr::null(), queue);
                let event = sys::rd_kafka_queue_poll(queue, LIMIT.as_millis() as i32);
                assert!(!event.is_null(), "no answer to CreateAcls");
                let error = sys::rd_kafka_event_error(event) as i32;
                sys::rd_kafka_event_destroy(event);
                sys::rd_kafka_queue_destroy(queue);
                sys::rd_kafka_AclBinding_destroy(binding);
                assert_eq!(error, 0, "CreateAcls");
            }
        }
    }

    /// Raises the number of partitions to `total`.
    pub fn add_partitions(&self, topic: &str, total: usize) {
        let new = NewPartitions::new(topic, total);
        for result in wait(self.admin().create_partitions([&new], &options())).expect("create partitions") {
            result.unwrap_or_else(|error| panic!("add partitions: {error:?}"));
        }
        self.shows(topic, Some(total));
    }

    /// Moves the start of the log to `before`, as retention does.
    pub fn delete_records(&self, topic: &str, partition: i32, before: i64) {
        let mut upto = TopicPartitionList::new();
        upto.add_partition_offset(topic, partition, Offset::Offset(before)).expect("an offset");
        let consumer: BaseConsumer = self.client_config().create().expect("a client");
        let answer = std::cell::RefCell::new(String::new());
        super::eventually_or(
            || format!("the log begins at {before}: {}", answer.borrow()),
            || {
                // Refused while the partition's leader does not know yet that its topic deletes.
                *answer.borrow_mut() = format!("{:?}", wait(self.admin().delete_records(&upto, &options())));
                let (start, _) = consumer.fetch_watermarks(topic, partition, LIMIT).ok()?;
                (start >= before).then_some(())
            },
        );
    }

    /// Writes the messages, in order, and returns (partition, offset) of each.
    pub fn produce(&self, topic: &str, messages: impl IntoIterator<Item = Message>) -> Vec<(i32, i64)> {
        produce(&self.producer(&[]), topic, messages)
    }

    /// High watermark.
    pub fn end_offset(&self, topic: &str, partition: i32) -> i64 {
        self.end(topic, partition, "read_uncommitted")
    }

    /// Behind which a transaction is open, or the end.
    pub fn stable_offset(&self, topic: &str, partition: i32) -> i64 {
        self.end(topic, partition, "read_committed")
    }

    fn end(&self, topic: &str, partition: i32, isolation: &str) -> i64 {
        let consumer: BaseConsumer =
            self.client_config().set("isolation.level", isolation).create().expect("a client");
        super::eventually("the end offset", || {
            consumer.fetch_watermarks(topic, partition, LIMIT).ok().map(|(_, end)| end)
        })
    }

    /// Names of all topics.
    pub fn topics(&self) -> BTreeSet<String> {
        let consumer: BaseConsumer = self.client_config().create().expect("a client");
        let metadata = super::eventually("the list of topics", || consumer.fetch_metadata(None, LIMIT).ok());
        metadata.topics().iter().map(|topic| topic.name().to_owned()).collect()
    }

    /// Names of all consumer groups.
    pub fn groups(&self) -> Vec<String> {
        let consumer: BaseConsumer = self.client_config().create().expect("a client");
        let list = super::eventually("the list of groups", || consumer.fetch_group_list(None, LIMIT).ok());
        list.groups().iter().map(|group| group.name().to_owned()).collect()
    }

    /// A producer with acknowledgements and order; `properties` are added.
    fn producer(&self, properties: &[(&str, &str)]) -> BaseProducer<Delivered> {
        let mut config = self.client_config();
        config.set("enable.idempotence", "true").set("linger.ms", "1").set("message.max.bytes", "20000000");
        for (name, value) in properties {
            config.set(*name, *value);
        }
        config.create_with_context(Delivered::default()).expect("a producer")
    }

    fn admin(&self) -> AdminClient<DefaultClientContext> {
        self.client_config().create().expect("an admin client")
    }

    fn client_config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", self.bootstrap()).set("log_level", "3");
        config
    }
}

/// An open transaction; dropped without an end it stays open until the broker times it out.
pub struct Transaction {
    producer: BaseProducer<Delivered>,
}

impl Transaction {
    pub fn begin(broker: &Broker, id: &str) -> Transaction {
        let producer = broker.producer(&[("transactional.id", id)]);
        producer.init_transactions(LIMIT).expect("init transactions");
        producer.begin_transaction().expect("begin");
        Transaction { producer }
    }

    pub fn produce(&self, topic: &str, messages: impl IntoIterator<Item = Message>) -> Vec<(i32, i64)> {
        produce(&self.producer, topic, messages)
    }

    /// The markers reach the partitions a moment later.
    pub fn commit(self) {
        self.producer.commit_transaction(LIMIT).expect("commit");
    }

    /// The markers reach the partitions a moment later.
    pub fn abort(self) {
        self.producer.abort_transaction(LIMIT).expect("abort");
    }
}

/// Collects what became of each message, by its place in the call.
#[derive(Default)]
struct Delivered {
    results: Mutex<Vec<(usize, Delivery)>>,
}

/// Partition and offset, or the error.
type Delivery = Result<(i32, i64), String>;

impl ClientContext for Delivered {}

impl ProducerContext for Delivered {
    type DeliveryOpaque = Box<usize>;

    fn delivery(&self, result: &DeliveryResult<'_>, nth: Box<usize>) {
        let result = match result {
            Ok(message) => Ok((message.partition(), message.offset())),
            Err((error, _)) => Err(error.to_string()),
        };
        self.results.lock().expect("no panic in delivery").push((*nth, result));
    }
}

fn produce(
    producer: &BaseProducer<Delivered>,
    topic: &str,
    messages: impl IntoIterator<Item = Message>,
) -> Vec<(i32, i64)> {
    for (nth, message) in messages.into_iter().enumerate() {
        let mut record = BaseRecord::<[u8], [u8], _>::with_opaque_to(topic, Box::new(nth));
        record.key = message.key.as_deref();
        record.payload = message.value.as_deref();
        record.partition = message.partition;
        record.timestamp = message.timestamp_ms;
        if !message.headers.is_empty() {
            let mut headers = OwnedHeaders::new();
            for (name, value) in &message.headers {
                headers = headers.insert(Header { key: name, value: Some(value) });
            }
            record.headers = Some(headers);
        }
        let mut waiting = Some(record);
        super::eventually("room in the producer's queue", || match producer.send(waiting.take()?) {
            Ok(()) => Some(()),
            Err((error, record)) => {
                assert_eq!(error.rdkafka_error_code(), Some(rdkafka::types::RDKafkaErrorCode::QueueFull));
                waiting = Some(record);
                producer.poll(Duration::from_millis(10));
                None
            }
        });
    }
    producer.flush(LIMIT).expect("flush");
    let mut results = std::mem::take(&mut *producer.context().results.lock().expect("no panic in delivery"));
    results.sort_by_key(|(nth, _)| *nth);
    results.into_iter().map(|(_, result)| result.expect("delivered")).collect()
}

fn options() -> AdminOptions {
    AdminOptions::new().request_timeout(Some(LIMIT)).operation_timeout(Some(LIMIT))
}

fn wait<T>(answer: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().expect("a runtime").block_on(answer)
}
