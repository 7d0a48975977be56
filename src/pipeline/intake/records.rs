//! Records: each becomes changes, a counted skip, a dead letter or a stop.

use super::Intake;
use crate::config::{Keep, OnError};
use crate::domain::change::Skip;
use crate::domain::dead_letter::{DeadLetter, Origin, Reason, RecordBytes, Rejection};
use crate::domain::record::{Headers, Record};
use crate::mapping::Outcome;
use crate::pipeline::{Failure, limits};

impl Intake {
    pub(super) fn take_record(&mut self, record: &Record<'_>) -> Result<(), Failure> {
        if self.doubt {
            return Ok(());
        }
        let too_large = self.too_large(record);
        let Some(partition) = self.partitions.get_mut(&record.at) else { return Ok(()) };
        if !partition.is_taken_from() {
            return Ok(());
        }
        let repeated = record.offset < partition.position.next_offset;
        let epochs = (record.leader_epoch, partition.position.leader_epoch);
        if !partition.found
            && epochs.0 >= 0
            && epochs.1 >= 0
            && (repeated && epochs.0 > epochs.1 || !repeated && epochs.0 < epochs.1)
        {
            // Within one log epochs never go back, so this is another one. Where it diverges the
            // source finds out when it is sent to our position again.
            partition.lose(None, self.now_ms);
            self.suspicious = true;
            return Ok(());
        }
        partition.unproven = false;
        partition.found = false;
        if repeated {
            self.context.metrics.events_skipped(record.at.topic, Skip::Duplicate, 1);
            return Ok(());
        }
        let before = partition.position.memory.clone();
        let memory = &mut partition.position.memory;
        let outcome = match too_large {
            Some(rejection) => {
                // Looked at or not, it has its place in the order: what comes behind it is newer.
                memory.max_timestamp_ms = memory.max_timestamp_ms.max(record.timestamp_ms.unwrap_or(0));
                memory.after_delete = None;
                memory.leave_unlisted(None);
                Outcome::Rejected(rejection)
            }
            None => self.plan.translate(record, memory, &mut self.changes),
        };
        for table in self.plan.take_incomplete() {
            self.context.metrics.moved_row_incomplete(table);
        }
        let passed = self.take_outcome(record, outcome);
        if passed.is_err()
            && let Some(partition) = self.partitions.get_mut(&record.at)
        {
            // What was read before it is still to be stored, at the position that it did not pass.
            partition.position.memory = before;
        }
        passed
    }

    /// Does what a record's outcome asks for and moves its partition past it, unless it has to stay.
    fn take_outcome(&mut self, record: &Record<'_>, outcome: Outcome) -> Result<(), Failure> {
        let Some(partition) = self.partitions.get_mut(&record.at) else { return Ok(()) };
        match outcome {
            Outcome::Changes => {
                for change in self.changes.drain(..) {
                    self.sweeps.hear_of(&change, self.now_ms);
                    self.builder.push(&self.catalog, change);
                }
                if let Some(timestamp_ms) = record.timestamp_ms
                    && !partition.timed
                    && self.gate.is_open()
                {
                    partition.timed = true;
                    self.builder.note_timestamp(record.at.topic, timestamp_ms);
                }
            }
            Outcome::Skipped(skip) => self.context.metrics.events_skipped(record.at.topic, skip, 1),
            Outcome::Rejected(rejection) => match self.policies[record.at.topic] {
                OnError::DeadLetter => {
                    let oversize = rejection.reason == Reason::TooLarge;
                    let letter = DeadLetter {
                        at: record.at,
                        offset: record.offset,
                        rejection,
                        first_seen_ms: self.context.now_ms(),
                        origin: Origin::of(record, partition.position.memory.max_timestamp_ms),
                        record: (self.keep == Keep::Bytes).then(|| bytes_of(record, oversize)),
                        produced_ms: None,
                    };
                    if let Err(limit) = self.limits.admit(&self.catalog, letter.kept()) {
                        return Err(self.one_too_many(&letter, &limit));
                    }
                    self.notices.take(&self.catalog, &letter, self.context.now_ms());
                    self.builder.push_dead_letter(letter);
                }
                OnError::Skip => self.context.metrics.events_skipped(record.at.topic, Skip::Rejected, 1),
                OnError::Stop => return Err(self.refused(record, &rejection)),
            },
            Outcome::Stop(rejection) => return Err(self.refused(record, &rejection)),
            Outcome::Waits(pending) => {
                self.wait_for(record.at, pending);
                return Ok(());
            }
        }
        self.changes.clear();
        if let Some(partition) = self.partitions.get_mut(&record.at) {
            partition.position.next_offset = record.offset + 1;
            if record.leader_epoch >= 0 {
                partition.position.leader_epoch = record.leader_epoch;
            }
            partition.moved = true;
        }
        self.builder.count_record();
        Ok(())
    }

    fn one_too_many(&self, letter: &DeadLetter, limit: &str) -> Failure {
        let Rejection { reason, path, message, .. } = &letter.rejection;
        Failure::other(format!(
            "{limit}; stopped before topic {} partition {} offset {}, which would be the next dead letter ({}{}: \
             {message}); {}",
            self.catalog.topics[letter.at.topic],
            letter.at.partition,
            letter.offset,
            reason.name(),
            if path.is_empty() { String::new() } else { format!(" at {path}") },
            limits::ADVICE,
        ))
    }

    fn refused(&self, record: &Record<'_>, rejection: &Rejection) -> Failure {
        Failure::other(format!(
            "topic {} partition {} offset {}: {}{}: {}; the policy is to stop: repair the event or change \
             on_error (or otherwise) of the topic",
            self.catalog.topics[record.at.topic],
            record.at.partition,
            record.offset,
            rejection.reason.name(),
            if rejection.path.is_empty() { String::new() } else { format!(" at {}", rejection.path) },
            rejection.message
        ))
    }
}

/// What a dead letter keeps of its record; of one that is too large, only the key and only if that
/// is small.
fn bytes_of(record: &Record<'_>, oversize: bool) -> RecordBytes {
    const KEY_MAX: usize = 4096;
    let key = record.key.filter(|key| !oversize || key.len() <= KEY_MAX);
    RecordBytes {
        key: key.map(<[u8]>::to_vec),
        value: if oversize { None } else { record.value.map(<[u8]>::to_vec) },
        headers: headers_json(record.headers),
    }
}

/// Headers as a JSON object text; a name that comes twice keeps its last value.
fn headers_json(headers: Headers<'_>) -> Option<String> {
    let list = headers.0?;
    let mut object = serde_json::Map::new();
    list.each(&mut |name, value| {
        let text = match value.map(std::str::from_utf8) {
            None => serde_json::Value::Null,
            Some(Ok(text)) => text.into(),
            Some(Err(_)) => {
                use base64::Engine;
                let bytes = value.unwrap_or_default();
                format!("base64:{}", base64::engine::general_purpose::STANDARD.encode(bytes)).into()
            }
        };
        object.insert(name.to_owned(), text);
    });
    (!object.is_empty()).then(|| serde_json::Value::Object(object).to_string())
}
