//! A broker inside the process, for the demo and for tests: librdkafka's mock cluster.
//!
//! It speaks the real protocol over TCP on the loopback interface. It keeps at most 5 MiB or
//! 100,000 batches a partition and drops the oldest beyond that, has no transaction markers and
//! cannot create topics on request, hence the list at the start.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::Message;
use rdkafka::config::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseRecord, DeliveryResult, Producer as _, ProducerContext, ThreadedProducer};

/// How long a full queue of the producer may stay full.
const QUEUE_WAIT_MAX: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
pub enum MockError {
    #[error("cannot start the in-process broker: {0}")]
    Start(#[source] KafkaError),
    #[error("cannot start a thread for the in-process broker: {0}")]
    Thread(#[source] std::io::Error),
    #[error("the in-process broker ended while it started")]
    Ended,
    #[error("cannot send to topic {topic}: {error}")]
    Send { topic: String, error: KafkaError },
    #[error("{failed} records were not taken by the broker; the last error: {error}")]
    Undelivered { failed: u64, error: KafkaError },
    #[error("the broker did not take all records in time: {0}")]
    Flush(#[source] KafkaError),
}

/// A mock cluster of one broker. It ends when this is dropped; drop its clients first.
#[derive(Debug)]
pub struct MockBroker {
    bootstrap: String,
    /// Dropping it ends the thread.
    alive: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl MockBroker {
    /// Starts the broker with these topics (name and number of partitions).
    pub fn start(topics: &[(&str, i32)]) -> Result<MockBroker, MockError> {
        let topics: Vec<(String, i32)> =
            topics.iter().map(|(name, partitions)| ((*name).to_owned(), *partitions)).collect();
        let (started_tx, started) = mpsc::sync_channel(1);
        let (alive, until_dropped) = mpsc::channel::<()>();
        // The cluster cannot move between threads, so it lives and dies on this one.
        let thread = std::thread::Builder::new()
            .name("mock-broker".into())
            .spawn(move || {
                let cluster = match cluster_with(&topics) {
                    Ok(cluster) => cluster,
                    Err(error) => {
                        let _ = started_tx.send(Err(MockError::Start(error)));
                        return;
                    }
                };
                let _ = started_tx.send(Ok(cluster.bootstrap_servers()));
                // Nothing is ever sent: this returns when the other end is dropped.
                let _ = until_dropped.recv();
            })
            .map_err(MockError::Thread)?;
        let bootstrap = started.recv().map_err(|_| MockError::Ended)??;
        Ok(MockBroker { bootstrap, alive: Some(alive), thread: Some(thread) })
    }

    /// `host:port`, for `kafka.brokers`.
    pub fn bootstrap(&self) -> &str {
        &self.bootstrap
    }

    pub fn producer(&self) -> Result<Producer, MockError> {
        let inner = ClientConfig::new()
            .set("bootstrap.servers", &self.bootstrap)
            // Retries must neither reorder nor duplicate: duplicates are for the caller to make.
            .set("enable.idempotence", "true")
            .set("linger.ms", "5")
            .create_with_context(Deliveries::default())
            .map_err(MockError::Start)?;
        Ok(Producer { inner })
    }
}

impl Drop for MockBroker {
    fn drop(&mut self) {
        self.alive = None;
        if let Some(thread) = self.thread.take() {
            // A panic there has been printed already and must not become a second one here.
            let _ = thread.join();
        }
    }
}

type Cluster = MockCluster<'static, rdkafka::producer::DefaultProducerContext>;

fn cluster_with(topics: &[(String, i32)]) -> Result<Cluster, KafkaError> {
    let cluster = MockCluster::new(1)?;
    for (name, partitions) in topics {
        cluster.create_topic(name, *partitions, 1)?;
    }
    Ok(cluster)
}

/// A record to be sent. Records with the same key go to the same partition.
#[derive(Debug, Clone, Copy)]
pub struct Outgoing<'a> {
    pub topic: &'a str,
    pub key: &'a [u8],
    /// `None` is a tombstone.
    pub value: Option<&'a [u8]>,
    pub headers: &'a [(&'a str, &'a [u8])],
}

/// Sends records in order from a thread of its own.
pub struct Producer {
    inner: ThreadedProducer<Deliveries>,
}

impl Producer {
    /// Queues a record; waits for room when the queue is full.
    pub fn send(&self, record: Outgoing<'_>) -> Result<(), MockError> {
        let mut headers = OwnedHeaders::new_with_capacity(record.headers.len());
        for (key, value) in record.headers {
            headers = headers.insert(Header { key, value: Some(*value) });
        }
        let mut outgoing: BaseRecord<'_, [u8], [u8]> =
            BaseRecord::to(record.topic).key(record.key).headers(headers);
        if let Some(value) = record.value {
            outgoing = outgoing.payload(value);
        }
        let begun = Instant::now();
        loop {
            match self.inner.send(outgoing) {
                Ok(()) => return Ok(()),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back))
                    if begun.elapsed() < QUEUE_WAIT_MAX =>
                {
                    outgoing = back;
                    // Times out or not: the queue is shorter afterwards.
                    let _ = self.inner.flush(Duration::from_millis(100));
                }
                Err((error, _)) => return Err(MockError::Send { topic: record.topic.to_owned(), error }),
            }
        }
    }

    /// Waits until the broker has taken everything sent so far. Returns the end of each partition
    /// that was written to: the offset of the record that would come next.
    pub fn flush(&self, timeout: Duration) -> Result<BTreeMap<(String, i32), i64>, MockError> {
        self.inner.flush(timeout).map_err(MockError::Flush)?;
        let log = self.inner.client().context().lock();
        match &log.last_error {
            Some(error) => Err(MockError::Undelivered { failed: log.failed, error: error.clone() }),
            None => Ok(log.ends.clone()),
        }
    }
}

/// What the broker said about the records sent.
#[derive(Debug, Default)]
struct DeliveryLog {
    ends: BTreeMap<(String, i32), i64>,
    failed: u64,
    last_error: Option<KafkaError>,
}

#[derive(Debug, Default)]
struct Deliveries(Mutex<DeliveryLog>);

impl Deliveries {
    fn lock(&self) -> std::sync::MutexGuard<'_, DeliveryLog> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClientContext for Deliveries {}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        let mut log = self.lock();
        match result {
            Ok(message) => {
                let end = message.offset() + 1;
                let partition = (message.topic().to_owned(), message.partition());
                let known = log.ends.entry(partition).or_insert(end);
                *known = end.max(*known);
            }
            Err((error, _)) => {
                log.failed += 1;
                log.last_error = Some(error.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::PATIENCE;
    use rdkafka::consumer::{BaseConsumer, Consumer};
    use rdkafka::message::Headers;
    use rdkafka::{Offset, TopicPartitionList};

    #[test]
    fn what_is_produced_can_be_read_back() {
        let broker = MockBroker::start(&[("fruit", 3)]).unwrap();
        let producer = broker.producer().unwrap();
        let headers: &[(&str, &[u8])] = &[("from", b"orchard")];
        producer.send(Outgoing { topic: "fruit", key: b"1", value: Some(b"apple"), headers }).unwrap();
        producer.send(Outgoing { topic: "fruit", key: b"1", value: None, headers: &[] }).unwrap();
        let ends = producer.flush(PATIENCE).unwrap();
        assert_eq!(ends.len(), 1, "one key lies in one partition");
        let ((topic, partition), end) = ends.first_key_value().unwrap();
        assert_eq!(*end, 2);
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", broker.bootstrap())
            .set("group.id", "none")
            .create()
            .unwrap();
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(topic, *partition, Offset::Beginning).unwrap();
        consumer.assign(&list).unwrap();
        let next = || {
            let until = Instant::now() + PATIENCE;
            loop {
                match consumer.poll(Duration::from_millis(100)) {
                    Some(Ok(message)) => return message.detach(),
                    // Errors are of connections, which are made again.
                    other => assert!(Instant::now() < until, "not seen in time: {other:?}"),
                }
            }
        };
        let (first, second) = (next(), next());
        assert_eq!((first.key(), first.payload()), (Some(&b"1"[..]), Some(&b"apple"[..])));
        let header = first.headers().unwrap().get(0);
        assert_eq!((header.key, header.value), ("from", Some(&b"orchard"[..])));
        assert_eq!((second.offset(), second.payload()), (1, None));
    }
}
