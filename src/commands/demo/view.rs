//! The running pipeline as the demo looks at it.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use super::proof::{Comparison, compare};
use super::shop::Expected;
use super::words;
use crate::admin;
use crate::app::Running;
use crate::domain::checkpoint::TopicPartition;
use crate::pipeline::{Clock, Failure};
use crate::store::Status;

/// For the first copy. It takes a second; longer than this and something is wrong.
const GATE_MAX: Duration = Duration::from_secs(60);
/// Between two updates of the status line.
const STATUS_EVERY: Duration = Duration::from_secs(1);

pub struct View {
    /// Another generation when a rebuild has switched.
    serving: watch::Receiver<admin::Context>,
    clock: Clock,
}

impl View {
    pub fn new(running: &Running, clock: Clock) -> View {
        View { serving: running.serving.clone(), clock }
    }

    fn serving(&self) -> admin::Context {
        self.serving.borrow().clone()
    }

    pub fn now_ms(&self) -> i64 {
        (self.clock)()
    }

    pub fn is_gate_open(&self) -> bool {
        self.serving().progress.is_gate_open()
    }

    /// Waits for the first copy, says what to try, and then keeps a status line up to date on a
    /// terminal. Returns at the deadline, or never.
    pub async fn show(&self, guide: &str, deadline: Option<Instant>) -> Result<(), Failure> {
        let begun = Instant::now();
        if timeout(GATE_MAX, self.gate_opened()).await.is_err() {
            let seconds = GATE_MAX.as_secs();
            return Err(Failure::other(format!("the first copy was not complete within {seconds} s")));
        }
        let took = begun.elapsed();
        words::say(&words::first_copy(&self.status().await?, took));
        if deadline.is_none() || std::io::stdout().is_terminal() {
            words::say(guide);
        }
        match deadline {
            Some(deadline) => match tokio::time::timeout_at(deadline, self.keep_status()).await {
                Ok(failed) => failed,
                Err(_) => Ok(()),
            },
            None => self.keep_status().await,
        }
    }

    /// Never returns but with an error.
    async fn keep_status(&self) -> Result<(), Failure> {
        if !std::io::stdout().is_terminal() {
            return std::future::pending().await;
        }
        let mut ticks = interval(STATUS_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let line = words::status_line(&self.status().await?, self.now_ms());
            words::replace_line(&line);
        }
    }

    async fn gate_opened(&self) {
        self.until(|serving| serving.progress.is_gate_open()).await;
    }

    /// Waits until everything below these offsets is committed in the replica.
    pub async fn reached(&self, ends: &BTreeMap<(String, i32), i64>) {
        self.until(|serving| {
            serving.progress.read(|shared| {
                ends.iter().all(|((topic, partition), end)| {
                    let topic = serving.catalog.topics.iter().position(|name| name == topic);
                    let position = topic.and_then(|topic| {
                        shared.positions.get(&TopicPartition { topic, partition: *partition })
                    });
                    position.is_some_and(|position| position >= end)
                })
            })
        })
        .await;
    }

    async fn until(&self, holds: impl Fn(&admin::Context) -> bool) {
        let mut replaced = self.serving.clone();
        loop {
            let serving = replaced.borrow_and_update().clone();
            let mut moved = serving.progress.subscribe();
            if holds(&serving) {
                return;
            }
            let goes_on = tokio::select! {
                moved = moved.changed() => moved.is_ok(),
                replaced = replaced.changed() => replaced.is_ok(),
            };
            if !goes_on {
                // Nothing will move any more; who waits has a limit.
                return std::future::pending().await;
            }
        }
    }

    pub async fn status(&self) -> Result<Status, Failure> {
        let (reader, now_ms) = (self.serving().reader, self.now_ms());
        let answer = tokio::task::spawn_blocking(move || reader.status(now_ms)).await;
        answer.map_err(|error| Failure::other(format!("status: {error}")))?.map_err(Failure::from)
    }

    pub async fn compare(&self, expected: Vec<Expected>) -> Result<Vec<Comparison>, Failure> {
        let (admin::Context { reader, catalog, .. }, now_ms) = (self.serving(), self.now_ms());
        let answer =
            tokio::task::spawn_blocking(move || compare(&expected, &catalog, reader.as_ref(), now_ms)).await;
        answer.map_err(|error| Failure::other(format!("comparison: {error}")))?.map_err(Failure::from)
    }
}
