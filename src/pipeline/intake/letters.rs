//! Dead letters that are retried or dropped, on their way into the batch in the making.

use super::Intake;
use crate::domain::batch::Batch;
use crate::domain::checkpoint::PartitionMemory;
use crate::domain::dead_letter::{Reason, Rejection, Retried};
use crate::domain::record::Record;
use crate::mapping;
use crate::pipeline::letters::{Done, Errand, Found, Outcome, Work};
use crate::store::LettersMoved;

/// An errand that is in a batch.
pub struct PendingErrand {
    errand: Errand,
    tried: Vec<Tried>,
}

/// What the mapping said of a record.
struct Tried {
    outcome: Outcome,
    /// Its entries in the batch.
    entries: Vec<usize>,
    /// Its place in the batch's `retried`, if it is there.
    nth: Option<usize>,
}

impl Intake {
    /// Maps the records of an errand and adds what they do to the batch in the making.
    pub fn take_errand(&mut self, mut errand: Errand) {
        let mut tried = Vec::new();
        match &mut errand.work {
            Work::Drop(ids) => std::mem::take(ids).into_iter().for_each(|id| self.builder.push_dropped(id)),
            Work::Produced(all) => {
                std::mem::take(all).into_iter().for_each(|one| self.builder.push_produced(one))
            }
            Work::Retry(records) => {
                for found in std::mem::take(records) {
                    tried.push(self.try_again(&found));
                }
            }
        }
        self.errands.push(PendingErrand { errand, tried });
    }

    fn try_again(&mut self, found: &Found) -> Tried {
        let record = found.record.as_record(found.at, found.offset);
        // As it was when the record was first read: nothing of what came since.
        let mut memory = PartitionMemory { max_timestamp_ms: found.order_ms, ..PartitionMemory::default() };
        let mut entries = Vec::new();
        let translated = match self.too_large(&record) {
            Some(rejection) => mapping::Outcome::Rejected(rejection),
            None => self.plan.translate(&record, &mut memory, &mut self.changes),
        };
        let outcome = match translated {
            mapping::Outcome::Changes => {
                for change in self.changes.drain(..) {
                    self.sweeps.hear_of(&change, self.now_ms);
                    entries.push(self.builder.push_alone(&self.catalog, change));
                }
                Outcome::Applied
            }
            mapping::Outcome::Skipped(skip) => Outcome::Skipped(skip),
            mapping::Outcome::Rejected(rejection) | mapping::Outcome::Stop(rejection) => {
                Outcome::Refused(rejection)
            }
            mapping::Outcome::Waits(pending) => Outcome::Waits(format!(
                "schema {} is being fetched ({}): ask again",
                pending.schema_id, pending.reason
            )),
        };
        self.changes.clear();
        let refused = match &outcome {
            Outcome::Refused(rejection) => Some(rejection.clone()),
            _ => None,
        };
        if matches!(outcome, Outcome::Waits(_)) {
            return Tried { outcome, entries, nth: None };
        }
        self.builder.push_retried(Retried { at: found.at, offset: found.offset, refused });
        self.retried += 1;
        Tried { outcome, entries, nth: Some(self.retried - 1) }
    }

    /// Why a record is not even looked at, if so.
    pub(super) fn too_large(&self, record: &Record<'_>) -> Option<Rejection> {
        let size = record.key.map_or(0, <[u8]>::len) + record.value.map_or(0, <[u8]>::len);
        (size > self.max_record_bytes).then(|| Rejection {
            table: None,
            path: String::new(),
            reason: Reason::TooLarge,
            message: format!(
                "the record has {size} bytes, kafka.max_record_bytes allows {}",
                self.max_record_bytes
            ),
        })
    }

    pub fn has_errands(&self) -> bool {
        !self.errands.is_empty()
    }

    /// The errands of the batch that was just sealed.
    pub fn take_errands(&mut self) -> Vec<PendingErrand> {
        self.retried = 0;
        std::mem::take(&mut self.errands)
    }
}

impl PendingErrand {
    /// Tells whoever asked that it is in the replica.
    pub fn answer(self, batch: &Batch, stale: &[usize], moved: &LettersMoved) {
        let is_stale = |entry: &usize| stale.binary_search(entry).is_ok();
        let mut outcomes = Vec::with_capacity(self.tried.len());
        for Tried { outcome, entries, nth } in self.tried {
            let refused = nth.is_some_and(|nth| moved.refused.binary_search(&nth).is_ok());
            outcomes.push(match outcome {
                Outcome::Applied if refused => Outcome::Refused(missing_row()),
                Outcome::Applied if entries.iter().all(is_stale) => Outcome::Superseded,
                outcome => outcome,
            });
        }
        let dropped = if batch.dropped.is_empty() { 0 } else { moved.dropped };
        // Whoever asked may have gone.
        let _ = self.errand.reply.try_send(Done { outcomes, dropped });
    }
}

/// The store has kept the details.
fn missing_row() -> Rejection {
    Rejection {
        table: None,
        path: String::new(),
        reason: Reason::MissingRow,
        message: "a patch whose row is still not there".into(),
    }
}
