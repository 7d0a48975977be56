//! Transactions that stay open: nobody reads past one before it has ended, and freshness stands still.

use std::collections::BTreeMap;

use tracing::{info, warn};

use super::Intake;
use crate::domain::checkpoint::TopicPartition;
use crate::pipeline::progress::OpenTransaction;
use crate::pipeline::watchdog::Finding;

/// By partition.
pub(super) type Held = BTreeMap<TopicPartition, HeldBack>;

/// What a transaction does to a partition.
#[derive(Debug, Clone, Copy)]
pub(super) struct HeldBack {
    /// ms since 1970.
    since_ms: i64,
    /// From here on nothing can be read.
    offset: i64,
    /// Of the last round that found it so.
    seen_ms: i64,
}

impl Intake {
    /// What a round found of a partition; one that begins or ends is logged.
    pub(super) fn note_held(&mut self, at: TopicPartition, offset: i64, finding: Finding, asked_ms: i64) {
        let topic = &self.catalog.topics[at.topic];
        let partition = at.partition;
        if let Finding::HeldBack { since_ms } = finding {
            if self.held.insert(at, HeldBack { since_ms, offset, seen_ms: asked_ms }).is_none() {
                warn!(
                    %topic, partition, offset,
                    "an open transaction holds back what lies behind it: nobody can read on from this offset \
                     until it is committed or aborted"
                );
            }
        } else if let Some(HeldBack { since_ms, .. }) = self.held.remove(&at) {
            let seconds = (asked_ms - since_ms).max(0) / 1000;
            info!(%topic, partition, seconds, "no open transaction holds it back any more");
        }
    }

    /// Shows those that a round has found, which may not have told of all topics.
    pub(super) fn publish_held(&mut self, asked_ms: i64) {
        let there = &self.partitions;
        self.held.retain(|at, _| there.contains_key(at));
        let seconds = |since_ms: i64| u64::try_from(asked_ms - since_ms).unwrap_or(0) / 1000;
        let mut longest = vec![0; self.catalog.topics.len()];
        let mut open = Vec::new();
        for (at, held) in self.held.iter().filter(|(_, held)| held.seen_ms == asked_ms) {
            let seconds = seconds(held.since_ms);
            longest[at.topic] = seconds.max(longest[at.topic]);
            open.push(OpenTransaction {
                topic: self.catalog.topics[at.topic].clone(),
                partition: at.partition,
                offset: held.offset,
                seconds,
            });
        }
        for (topic, seconds) in longest.into_iter().enumerate() {
            self.context.metrics.open_transaction(topic, Some(seconds));
        }
        self.show_held(open);
    }

    /// Nobody tells what is open.
    pub(super) fn forget_held(&mut self) {
        self.held.clear();
        self.context.metrics.forget_open_transactions();
        self.show_held(Vec::new());
    }

    fn show_held(&self, open: Vec<OpenTransaction>) {
        let is_shown = self.context.progress.read(|shared| shared.open_transactions == open);
        if !is_shown {
            self.context.progress.update(|shared| shared.open_transactions = open);
        }
    }
}
