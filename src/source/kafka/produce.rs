//! Records written to a topic: the dead letters.
//!
//! As with [`super::fetch`], a client of its own for each call: it is rare, and one that has failed
//! leaves nothing behind that a later one could trip over.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer as _, ProducerContext};
use rdkafka::{ClientConfig, ClientContext};

use crate::config::Kafka;

use super::{SourceError, settings};

/// How long one record may be under way, and so the longest call.
pub const DELIVERY_MAX: Duration = Duration::from_secs(15);
/// How often a call looks whether it should end.
const STEP: Duration = Duration::from_millis(100);

/// A record to be written; the broker gives it its timestamp and, by its key, its partition.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Outgoing {
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    /// In their order; names may come twice.
    pub headers: Vec<(String, Option<Vec<u8>>)>,
}

impl std::fmt::Debug for Outgoing {
    /// Sizes only: contents never reach a log by accident.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Outgoing")
            .field("key_bytes", &self.key.as_ref().map(Vec::len))
            .field("value_bytes", &self.value.as_ref().map(Vec::len))
            .field("headers", &self.headers.len())
            .finish()
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotWritten {
    /// It is larger than the topic, or we, allow.
    TooLarge,
    Failed(String),
}

/// Writes the records, in order; the answers are in the same order. `goes_on` is asked a few times a
/// second; after a no, what was not confirmed counts as failed.
pub fn produce(
    config: &Kafka,
    topic: &str,
    records: &[Outgoing],
    goes_on: &dyn Fn() -> bool,
) -> Result<Vec<Result<(), NotWritten>>, SourceError> {
    let mut client = ClientConfig::new();
    client.set_log_level(RDKafkaLogLevel::Warning);
    for property in settings::producer_properties(config)? {
        client.set(property.name, property.value);
    }
    let producer: BaseProducer<Deliveries> = client
        .create_with_context(Deliveries::default())
        // The error may name a property's value, which may be a secret.
        .map_err(|error| SourceError::Client {
            reason: match error {
                KafkaError::ClientConfig(_, _, name, _) => {
                    format!("property {name} is refused for a producer")
                }
                other => other.to_string(),
            },
        })?;
    let unanswered = || Err(NotWritten::Failed("no broker has confirmed it in time".into()));
    let mut answers: Vec<_> = records.iter().map(|_| unanswered()).collect();
    let mut open = 0;
    for (nth, record) in records.iter().enumerate() {
        match producer.send(sendable(topic, nth, record)) {
            Ok(()) => open += 1,
            Err((error, _)) => {
                if let Some(answer) = answers.get_mut(nth) {
                    *answer = Err(not_written(&error));
                }
            }
        }
    }
    let deadline = Instant::now() + DELIVERY_MAX + STEP;
    while open > 0 && Instant::now() < deadline && goes_on() {
        producer.poll(STEP);
        for (nth, result) in producer.context().take() {
            open -= 1;
            if let Some(answer) = answers.get_mut(nth) {
                *answer = result;
            }
        }
    }
    // "Timed out" says less than what the client has heard meanwhile.
    if let Some(heard) = producer.context().heard() {
        for answer in &mut answers {
            if let Err(NotWritten::Failed(reason)) = answer {
                *reason = format!("{reason} ({heard})");
            }
        }
    }
    Ok(answers)
}

fn sendable<'a>(topic: &'a str, nth: usize, record: &'a Outgoing) -> BaseRecord<'a, [u8], [u8], Box<usize>> {
    let mut sendable = BaseRecord::<[u8], [u8], _>::with_opaque_to(topic, Box::new(nth));
    sendable.key = record.key.as_deref();
    sendable.payload = record.value.as_deref();
    let mut headers = OwnedHeaders::new_with_capacity(record.headers.len());
    for (key, value) in &record.headers {
        headers = headers.insert(Header { key, value: value.as_ref() });
    }
    sendable.headers = Some(headers);
    sendable
}

fn not_written(error: &KafkaError) -> NotWritten {
    match error.rdkafka_error_code() {
        // The second is a broker's: larger than a segment of the log.
        Some(RDKafkaErrorCode::MessageSizeTooLarge | RDKafkaErrorCode::MessageBatchTooLarge) => {
            NotWritten::TooLarge
        }
        Some(code) => NotWritten::Failed(code.to_string()),
        None => NotWritten::Failed(error.to_string()),
    }
}

/// By the place in the call.
type Delivered = (usize, Result<(), NotWritten>);

#[derive(Default)]
struct Deliveries {
    done: Mutex<Vec<Delivered>>,
    heard: Mutex<Option<String>>,
}

impl Deliveries {
    fn take(&self) -> Vec<Delivered> {
        std::mem::take(&mut *self.done.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn heard(&self) -> Option<String> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl ClientContext for Deliveries {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        // What matters is in the answers, which are logged with their backoff.
        tracing::debug!(target: "readside::librdkafka", ?level, facility, "{line}");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        // "All brokers are down" says less than why one of them is.
        if error.rdkafka_error_code() != Some(RDKafkaErrorCode::AllBrokersDown) {
            *self.heard.lock().unwrap_or_else(PoisonError::into_inner) = Some(reason.to_owned());
        }
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = Box<usize>;

    fn delivery(&self, result: &DeliveryResult<'_>, nth: Box<usize>) {
        let result = match result {
            Ok(_) => Ok(()),
            Err((error, _)) => Err(not_written(error)),
        };
        self.done.lock().unwrap_or_else(PoisonError::into_inner).push((*nth, result));
    }
}
