//! When whole rows are put aside on a [`Shelf`], and how many of them in a batch.
//!
//! While nobody reads a copy yet, or what is read is far behind, large batches are worth waiting for; how
//! large, the keys say. Everywhere else batches are as small as ever.

use std::time::Duration;

use super::catalog::Table;
use super::change::Change;
use super::sample::{Order, Sample};
use super::shelf::{Fill, Shelf, Whole, key_head};

/// Bytes of a batch of a first copy whose keys come again and again. What is written has each of them once.
pub const BYTES_MAX: u64 = 128 << 20;
/// Of one whose keys come in no order where they are looked for: several rows for each page, and still
/// writing goes on beside reading.
const BYTES_NO_ORDER: u64 = 32 << 20;
/// Of one whose keys come in order, for each partition: about what is fetched of it at a time.
const BYTES_A_PARTITION: u64 = 512 << 10;
/// Of a batch of a copy that is read, at most; see [`Pace`].
const LIVE_BYTES_MAX: u64 = 32 << 20;
const LIVE_BYTES_MIN: u64 = 1 << 20;
/// Records that lead to a batch, at most: what a crash has read again.
const RECORDS_MAX: u64 = 1 << 20;
/// Of so many partitions a run has enough from each.
const FEW_PARTITIONS: usize = 4;

/// What a store has to put rows aside.
#[derive(Debug, Default)]
pub struct Shelves {
    /// One for the batch in the making, one for the batch that is written, or none.
    pub shelves: Vec<Shelf>,
    pub stage: Stage,
    /// Bytes of a batch once it is read, at most.
    pub live_bytes_max: u64,
}

/// Who would wait for a batch that takes long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Stage {
    /// Nobody: the copy is being built, and there is no other.
    First,
    /// The writer of the copy that is read, beside which this one is being built.
    Beside,
    /// Who reads it.
    #[default]
    Live,
}

/// How large a batch should be for readers to see a step every second or two.
#[derive(Debug)]
pub struct Pace {
    bytes: u64,
    bytes_max: u64,
}

impl Pace {
    pub fn new(bytes_max: u64) -> Pace {
        Pace { bytes: LIVE_BYTES_MIN, bytes_max: bytes_max.clamp(LIVE_BYTES_MIN, LIVE_BYTES_MAX) }
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How long it took to write a batch.
    pub fn learn(&mut self, took: Duration) {
        if took > Duration::from_secs(1) {
            self.bytes = (self.bytes / 2).max(LIVE_BYTES_MIN);
        } else if took < Duration::from_millis(500) {
            self.bytes = (self.bytes * 2).min(self.bytes_max);
        }
    }
}

/// Whole rows can be put aside, on one shelf a batch.
#[derive(Debug)]
pub(super) struct Shelving {
    stage: Stage,
    /// Much is in the log that was not read.
    is_far_behind: bool,
    /// That are read.
    partitions: usize,
    pace: Pace,
    /// For the batch in the making.
    shelf: Option<Shelf>,
    spare: Vec<Shelf>,
    /// All that can be used, those of batches that are written included.
    usable: usize,
    /// Whether keys come again, and in which order.
    sample: Sample,
    order: Order,
    /// Rows whose keys are not integers are appended, in whichever order they come.
    appends: bool,
    /// Something could not be put aside: the batch ends with that.
    failed: bool,
}

impl Shelving {
    /// `None`: there is nothing to put rows on.
    pub fn new(shelves: Shelves) -> Option<Shelving> {
        let Shelves { shelves: mut spare, stage, live_bytes_max } = shelves;
        Some(Shelving {
            stage,
            is_far_behind: false,
            partitions: 0,
            pace: Pace::new(live_bytes_max),
            usable: spare.len(),
            shelf: Some(spare.pop()?),
            spare,
            sample: Sample::default(),
            order: Order::default(),
            appends: true,
            failed: false,
        })
    }

    /// Whether rows are put aside now.
    pub fn is_on(&self) -> bool {
        self.fill().is_some()
    }

    /// Whether readers see the copy, and rows are put aside because it is far behind.
    pub fn is_catching_up(&self) -> bool {
        self.stage == Stage::Live && self.is_far_behind
    }

    /// Puts a whole row aside: what [`Shelf::put`] says; `None`: it could not be.
    pub fn put(&mut self, table: &Table, change: &Change, hash: u64) -> Option<Option<u32>> {
        let shelf = self.shelf.as_mut()?;
        let Change { table: of, topic, values, version, .. } = change;
        let row = Whole { table: *of, topic: *topic, values, version: *version };
        self.sample.look_at(hash);
        if table.has_integer_key() || !self.appends {
            self.order.look(*of, key_head(&values[table.key[0]]));
        }
        let put = shelf.put(table, &row, hash);
        // The batch is not made longer.
        self.failed |= put.is_err();
        put.ok()
    }

    /// Rows that are put aside from now on come behind what is there.
    pub fn end_set(&mut self) {
        if let Some(shelf) = &mut self.shelf {
            shelf.end_set();
        }
    }

    /// Whether a batch of so many records has enough of them, if rows are put aside.
    pub fn is_full(&self, records: u64) -> Option<bool> {
        let fill = self.fill()?;
        let is_full = |shelf: &Shelf| shelf.is_full(fill) || records >= RECORDS_MAX;
        Some(self.failed || self.shelf.as_ref().is_none_or(is_full))
    }

    /// Records that a batch may have, if rows are put aside.
    pub fn records_max(&self) -> Option<u64> {
        self.is_on().then_some(RECORDS_MAX)
    }

    /// A batch ends here: what was put aside for it.
    pub fn seal(&mut self) -> Option<Shelf> {
        self.failed = false;
        self.hand_over()
    }

    /// A shelf that was written can be used again.
    pub fn give_back(&mut self, shelf: Shelf) {
        match shelf.emptied() {
            Ok(shelf) if self.shelf.is_none() => self.shelf = Some(shelf),
            Ok(shelf) => self.spare.push(shelf),
            // What was on it is written; rows stay in memory when it was the last.
            Err(_) => self.usable -= 1,
        }
        self.rest();
    }

    /// Readers see the copy from now on: what was put aside for the batch in the making.
    pub fn go_live(&mut self) -> Option<Shelf> {
        let shelf = self.hand_over();
        self.stage = Stage::Live;
        self.rest();
        shelf
    }

    /// How many partitions there are, and whether much of them was not read.
    pub fn note_log(&mut self, partitions: usize, is_far_behind: bool) {
        self.partitions = partitions;
        self.is_far_behind = is_far_behind;
        self.rest();
    }

    /// How long the store took for a batch that was put aside, and whether it appends rows.
    pub fn learn(&mut self, took: Duration, appends: bool) {
        self.appends = appends;
        if self.stage == Stage::Live {
            self.pace.learn(took);
        }
    }

    /// When the shelf is full, if rows are put aside.
    fn fill(&self) -> Option<Fill> {
        if self.usable == 0 {
            return None;
        }
        match self.stage {
            Stage::First if self.sample.is_often_again() => Some(Fill::Bytes(BYTES_MAX)),
            Stage::First if self.order.is_none() => Some(Fill::Bytes(BYTES_NO_ORDER)),
            // Each partition has a row for the same page, and what is fetched of one comes in one piece.
            Stage::First if self.order.matters() && self.partitions > FEW_PARTITIONS => {
                let bytes = self.partitions as u64 * BYTES_A_PARTITION;
                Some(Fill::Bytes(bytes.min(BYTES_NO_ORDER)))
            }
            Stage::First => Some(Fill::Run),
            Stage::Live if self.is_far_behind => Some(Fill::Bytes(self.pace.bytes())),
            Stage::Live | Stage::Beside => None,
        }
    }

    /// What was put aside, if anything was; another shelf takes its place.
    fn hand_over(&mut self) -> Option<Shelf> {
        let mut shelf = self.shelf.take_if(|shelf| !shelf.is_empty())?;
        shelf.end_run();
        self.shelf = self.spare.pop();
        Some(shelf)
    }

    /// Gives back what is not used.
    fn rest(&mut self) {
        if !self.is_on() {
            self.shelf.iter_mut().chain(&mut self.spare).for_each(Shelf::rest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_of_a_live_copy_is_as_large_as_the_disk_is_fast() {
        let mut pace = Pace::new(u64::MAX);
        assert_eq!(pace.bytes(), LIVE_BYTES_MIN, "a slow disk is not known to be one yet");
        for _ in 0..9 {
            pace.learn(Duration::from_millis(300));
        }
        assert_eq!(pace.bytes(), LIVE_BYTES_MAX);
        pace.learn(Duration::from_millis(700));
        assert_eq!(pace.bytes(), LIVE_BYTES_MAX);
        pace.learn(Duration::from_millis(1_700));
        assert_eq!(pace.bytes(), LIVE_BYTES_MAX / 2);
        for _ in 0..9 {
            pace.learn(Duration::from_secs(9));
        }
        assert_eq!(pace.bytes(), LIVE_BYTES_MIN);
        let mut least = Pace::new(0);
        least.learn(Duration::ZERO);
        assert_eq!(least.bytes(), LIVE_BYTES_MIN);
    }
}
