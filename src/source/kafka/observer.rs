//! The thread that asks the brokers, every interval, how the world stands. It has a client of its
//! own: on the consumer's connections a question would queue behind a long-polling fetch.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::config::Kafka;
use crate::source::{Observation, SourceEvent};

use super::client::Client;
use super::inbox::Turns;
use super::questions::{Asker, Extras, Round};
use super::repeats::Repeats;
use super::requests::{Failure, Limit};
use super::{SourceError, settings};

/// Hard limit of one round.
const ROUND: Duration = Duration::from_secs(if cfg!(test) { 200 } else { 5 });
/// Events that wait for the next poll; when they are not fetched, nothing is asked.
const WAITING_MAX: usize = 16;
/// How long the consumer may take to learn about new partitions.
const REFRESH: Duration = Duration::from_millis(500);

pub(super) struct Observer {
    /// `None` only while dropping: the thread ends when nobody listens any more.
    inbox: Option<Receiver<Finding>>,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    stop: AtomicBool,
    /// See [`crate::source::Source::want_details`].
    details: AtomicBool,
}

/// The consumer, as far as the observer touches it.
pub(super) struct Consumer {
    pub turns: Arc<Turns>,
    /// Of its lanes.
    pub clients: [Arc<Client>; 2],
}

impl Observer {
    pub fn start(
        config: &Kafka,
        topics: &[String],
        interval: Duration,
        consumer: Consumer,
    ) -> Result<Observer, SourceError> {
        let asker = Asker::new(Client::new(config, Some("observer"))?, topics)?;
        let (outbox, inbox) = sync_channel(WAITING_MAX);
        let shared = Arc::new(Shared { stop: AtomicBool::new(false), details: AtomicBool::new(true) });
        let work = Work {
            asker,
            config: config.clone(),
            credentials: settings::credentials(config)?,
            interval,
            consumer,
            outbox,
            shared: Arc::clone(&shared),
            failures: Repeats::default(),
            missing: vec![Repeats::default(); topics.len()],
            refused: vec![Repeats::default(); topics.len()],
            error: None,
            reconnected: true,
        };
        let thread = thread::Builder::new().name("kafka-observer".into()).spawn(move || work.run());
        let thread = thread.map_err(|error| SourceError::Client { reason: error.to_string() })?;
        Ok(Observer { inbox: Some(inbox), shared, thread: Some(thread) })
    }

    pub fn next(&self) -> Option<SourceEvent<'static>> {
        let finding = self.inbox.as_ref()?.try_recv().ok()?;
        Some(match finding {
            Finding::Observation(observation) => SourceEvent::Observation(observation),
            Finding::Unreachable { reason } => SourceEvent::Unreachable { reason },
            Finding::TopicMissing { topic } => SourceEvent::TopicMissing { topic },
            Finding::TopicRefused { topic, reason } => SourceEvent::TopicRefused { topic, reason },
        })
    }

    pub fn want_details(&self, wanted: bool) {
        self.shared.details.store(wanted, Ordering::Relaxed);
    }
}

impl Drop for Observer {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.inbox = None;
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // A panic there was already reported by the panic hook.
            let _ = thread.join();
        }
    }
}

struct Work {
    asker: Asker,
    config: Kafka,
    credentials: Option<(String, String)>,
    interval: Duration,
    consumer: Consumer,
    outbox: SyncSender<Finding>,
    shared: Arc<Shared>,
    failures: Repeats,
    /// By topic.
    missing: Vec<Repeats>,
    /// By topic.
    refused: Vec<Repeats>,
    /// Why the client says the brokers cannot be reached.
    error: Option<String>,
    /// The next round is the first after a start or a failure.
    reconnected: bool,
}

/// The part of [`SourceEvent`] that is found here.
enum Finding {
    Observation(Observation),
    Unreachable { reason: String },
    TopicMissing { topic: usize },
    TopicRefused { topic: usize, reason: String },
}

/// Nobody listens any more.
struct Gone;

impl Work {
    fn run(mut self) {
        while !self.shared.stop.load(Ordering::Relaxed) {
            let start = Instant::now();
            let details = self.shared.details.load(Ordering::Relaxed);
            let extras = Extras { log_start: details || self.reconnected, last_stable: details };
            let limit = Limit { deadline: start + ROUND, stop: &self.shared.stop };
            let told = match self.asker.round(extras, limit) {
                Ok(round) => self.report(round),
                Err(Failure::Stopped) => return,
                Err(Failure::Failed(reason)) => self.report_failure(&reason),
            };
            if told.is_err() {
                return;
            }
            self.wait_until(start + self.interval);
        }
    }

    fn report(&mut self, round: Round) -> Result<(), Gone> {
        self.reconnected = false;
        self.failures.over();
        self.asker.client.take_error();
        self.error = None;
        if round.changed {
            // Else the consumer would notice a new partition at its next refresh, minutes later. It
            // does not matter when this fails: it looks again by itself every ten seconds.
            for client in &self.consumer.clients {
                let _ = client.refresh(REFRESH);
            }
        }
        let now = Instant::now();
        for (topic, repeats) in self.missing.iter_mut().enumerate() {
            if !round.missing.contains(&topic) {
                repeats.over();
            } else if repeats.is_due("", now) {
                self.outbox.send(Finding::TopicMissing { topic }).map_err(|_| Gone)?;
            }
        }
        for (topic, repeats) in self.refused.iter_mut().enumerate() {
            let Some(reason) = round.refused.get(&topic) else {
                repeats.over();
                continue;
            };
            if repeats.is_due(reason, now) {
                let finding = Finding::TopicRefused { topic, reason: reason.clone() };
                self.outbox.send(finding).map_err(|_| Gone)?;
            }
        }
        self.send(Finding::Observation(round.observation))
    }

    fn report_failure(&mut self, reason: &str) -> Result<(), Gone> {
        self.reconnected = true;
        self.renew_credentials();
        // librdkafka tells an error once in 30 s: until the outage is over the last one holds.
        self.error = self.asker.client.take_error().or(self.error.take());
        let reason = self.error.clone().unwrap_or_else(|| reason.to_owned());
        match self.failures.is_due(&reason, Instant::now()) {
            true => self.send(Finding::Unreachable { reason }),
            false => Ok(()),
        }
    }

    /// Passwords are rotated while we run: when nobody answers, the files may hold a new one.
    fn renew_credentials(&mut self) {
        match settings::credentials(&self.config) {
            Ok(Some(now)) if self.credentials.as_ref() != Some(&now) => {
                tracing::info!("credentials changed, using the new ones");
                self.asker.client.set_credentials(&now.0, &now.1);
                for client in &self.consumer.clients {
                    client.set_credentials(&now.0, &now.1);
                }
                self.credentials = Some(now);
            }
            Ok(_) => {}
            Err(error) => tracing::debug!(%error, "credentials cannot be read again"),
        }
    }

    fn send(&self, finding: Finding) -> Result<(), Gone> {
        self.outbox.send(finding).map_err(|_| Gone)?;
        self.consumer.turns.wake();
        Ok(())
    }

    fn wait_until(&self, then: Instant) {
        while !self.shared.stop.load(Ordering::Relaxed) {
            match then.checked_duration_since(Instant::now()) {
                Some(left) if !left.is_zero() => thread::park_timeout(left),
                _ => return,
            }
        }
    }
}
