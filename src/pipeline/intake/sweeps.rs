//! Whole snapshots that were sent again: what they do not list goes, once all of them was read.
//!
//! The mark of the last row lies in one partition, and rows that were sent before it may lie in others.
//! When it has been read, the ends of all partitions are captured; when they are passed, whatever is
//! older than the snapshot is not in it. See [`crate::domain::snapshot`].

use std::collections::BTreeMap;

use tracing::{info, warn};

use super::{Intake, Positions};
use crate::domain::batch::Sweep;
use crate::domain::catalog::Catalog;
use crate::domain::change::{Change, Operation};
use crate::domain::checkpoint::TopicPartition;
use crate::domain::snapshot::{Phase, Snapshot};
use crate::domain::version::Version;
use crate::source::Observation;
use crate::store::Swept;

/// A producer may still be sending rows to other partitions when the last one has arrived.
const SETTLES_MS: i64 = 2_000;
/// How long a first copy waits for a sweep before it counts as whole. A transaction that hangs keeps the
/// ends from being passed, and must not keep a service from starting.
const START_WAITS_MS: i64 = 10_000;

/// Snapshots by table index.
#[derive(Debug, Default)]
pub(super) struct Sweeps {
    known: BTreeMap<usize, Snapshot>,
    listed: BTreeMap<usize, Listed>,
}

/// One whose last row was read.
#[derive(Debug)]
struct Listed {
    begin: Version,
    since_ms: i64,
    /// Of all partitions of its topic, once they were asked for.
    ends: Option<Positions>,
}

impl Sweeps {
    pub fn restored(known: BTreeMap<usize, Snapshot>, now_ms: i64) -> Sweeps {
        let mut sweeps = Sweeps::default();
        for (table, snapshot) in known {
            sweeps.hear(table, snapshot, now_ms);
        }
        sweeps
    }

    /// What a change says of a snapshot, if it is about one.
    pub fn hear_of(&mut self, change: &Change, now_ms: i64) {
        if let Operation::Snapshot(phase) = change.operation {
            self.hear(change.table, Snapshot { begin: change.version, phase }, now_ms);
        }
    }

    /// What a record says of the snapshot it belongs to.
    fn hear(&mut self, table: usize, heard: Snapshot, now_ms: i64) {
        let Some(snapshot) = Snapshot::after(self.known.get(&table).copied(), heard) else { return };
        self.known.insert(table, snapshot);
        self.listed.remove(&table);
        if snapshot.phase == Phase::Listed {
            self.listed.insert(table, Listed { begin: snapshot.begin, since_ms: now_ms, ends: None });
        }
    }

    /// A round that tells about all partitions of the topics in it.
    pub fn observe(&mut self, catalog: &Catalog, seen: &Observation) {
        for (table, listed) in &mut self.listed {
            let topics = &catalog.tables[*table].topics;
            if listed.ends.is_some()
                || seen.asked_ms < listed.since_ms + SETTLES_MS
                || topics.iter().any(|topic| !seen.topics.contains_key(topic))
            {
                continue;
            }
            let partitions = topics.iter().flat_map(|topic| {
                let ends = seen.topics.get(topic).into_iter().flat_map(|observed| &observed.partitions);
                ends.map(|(partition, ends)| {
                    (TopicPartition { topic: *topic, partition: *partition }, ends.high_watermark)
                })
            });
            listed.ends = Some(partitions.collect());
        }
    }

    /// Tables whose snapshot was read as a whole by now, each once.
    fn take_due(&mut self, committed: &Positions) -> Vec<(usize, Version)> {
        let passed = |ends: &Positions| ends.iter().all(|(at, end)| committed.get(at) >= Some(end));
        let due = |listed: &Listed| listed.ends.as_ref().is_some_and(passed);
        let tables: Vec<usize> =
            self.listed.iter().filter(|(_, listed)| due(listed)).map(|(table, _)| *table).collect();
        tables.into_iter().filter_map(|table| Some((table, self.listed.remove(&table)?.begin))).collect()
    }

    /// One that was due, in a batch that was dropped: it is due still.
    pub fn put_back(&mut self, table: usize, begin: Version, now_ms: i64) {
        let ends = Some(Positions::new());
        self.listed.entry(table).or_insert(Listed { begin, since_ms: now_ms, ends });
    }

    /// The clock says less than it did: nothing waits until it has made that up.
    pub fn clock_set_back(&mut self, now_ms: i64) {
        for listed in self.listed.values_mut() {
            listed.since_ms = listed.since_ms.min(now_ms);
        }
    }

    /// Offsets mean something else from now on.
    pub fn forget_ends(&mut self) {
        for listed in self.listed.values_mut() {
            listed.ends = None;
        }
    }

    /// Whether the copy should not count as whole yet.
    pub fn hold_start(&self, now_ms: i64) -> bool {
        self.listed.values().any(|listed| now_ms - listed.since_ms < START_WAITS_MS)
    }

    /// Whether a table may hold rows that its source does not have any more.
    pub fn may_leave_ghosts(&self, table: usize) -> bool {
        self.known.get(&table).is_some_and(|snapshot| snapshot.phase.may_leave_ghosts())
    }
}

impl Intake {
    /// Has the store forget what snapshots do not list, where that is due.
    pub(super) fn sweep(&mut self) {
        for (table, begin) in self.sweeps.take_due(&self.committed) {
            let topics = &self.catalog.tables[table].topics;
            let topic = topics.first().copied().unwrap_or(0);
            let is_whole = !self.partitions.iter().any(|(at, partition)| {
                let unlisted = partition.position.memory.unlisted;
                topics.contains(&at.topic) && unlisted.is_some_and(|unlisted| unlisted.may_be_of(begin))
            });
            self.builder.push_sweep(table, topic, Sweep { begin, is_whole });
            self.news.any = true;
        }
    }

    /// What became of it.
    pub fn swept(&mut self, swept: &[Swept]) {
        for Swept { table, rows, snapshot } in swept {
            let name = &self.catalog.tables[*table].name;
            // Another one may have been heard of since.
            self.sweeps.hear(*table, *snapshot, self.now_ms);
            match snapshot.phase {
                Phase::Swept => {
                    info!(table = %name, rows, "rows that are not in the latest snapshot of the source are gone");
                    self.context.metrics.rows_swept(*table, *rows);
                }
                Phase::Incomplete => warn!(
                    table = %name,
                    rows,
                    "rows that are not in the latest snapshot of the source stay, because records that may be of it \
                     could not be applied; retry the dead letters, and have the source take another snapshot"
                ),
                _ => warn!(
                    table = %name,
                    rows,
                    "rows that are not in the latest snapshot of the source stay, because they are suspiciously \
                     many; if they are really gone, `readside rebuild --accept-loss`"
                ),
            }
            self.unpublished = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::catalog::Table;
    use crate::domain::version::{Coordinates, VersionKind};
    use crate::source::{Ends, TopicObservation};

    fn snapshot(number: i64, phase: Phase) -> Snapshot {
        let at = Coordinates { topic: 0, partition: 0, offset: 0 };
        let version = Version::new(VersionKind::Integers, &[number, number], at).unwrap();
        Snapshot { begin: version.first_of_its_kind(), phase }
    }

    fn catalog() -> Catalog {
        let table = Table {
            name: "users".into(),
            columns: vec![],
            key: vec![0],
            indexes: vec![],
            prefixes: vec![],
            topics: vec![0],
            max_staleness_ms: 30_000,
            ordered_by_position: false,
            delete_marks_ms: 0,
            fingerprint: String::new(),
        };
        Catalog { topics: vec!["users".into()], tables: vec![table], fingerprint: String::new() }
    }

    fn seen(asked_ms: i64, ends: &[i64]) -> Observation {
        let ends = ends.iter().map(|end| Ends {
            log_start: None,
            high_watermark: *end,
            last_stable: None,
            leader_epoch: 0,
        });
        let topic = TopicObservation { partitions: (0..).zip(ends).collect(), ..TopicObservation::default() };
        Observation { asked_ms, cluster_id: "c".into(), topics: BTreeMap::from([(0, topic)]) }
    }

    fn positions(next: &[i64]) -> Positions {
        (0..).zip(next).map(|(partition, next)| (TopicPartition { topic: 0, partition }, *next)).collect()
    }

    #[test]
    fn a_snapshot_is_swept_when_the_ends_after_its_last_row_are_passed() {
        let catalog = catalog();
        let mut sweeps = Sweeps::default();
        sweeps.hear(0, snapshot(1, Phase::UnderWay), 1_000);
        sweeps.observe(&catalog, &seen(50_000, &[5, 5]));
        assert_eq!(sweeps.take_due(&positions(&[5, 5])), [], "its last row was not read");
        assert!(sweeps.may_leave_ghosts(0) && !sweeps.hold_start(50_000));

        sweeps.hear(0, snapshot(1, Phase::Listed), 60_000);
        assert!(sweeps.hold_start(60_001) && !sweeps.hold_start(60_000 + START_WAITS_MS));
        sweeps.observe(&catalog, &seen(60_000 + SETTLES_MS - 1, &[7, 7]));
        assert_eq!(sweeps.take_due(&positions(&[9, 9])), [], "others may be under way");
        sweeps.observe(&catalog, &seen(60_000 + SETTLES_MS, &[8, 9]));
        sweeps.observe(&catalog, &seen(70_000, &[100, 100]));
        assert_eq!(sweeps.take_due(&positions(&[8, 8])), []);
        sweeps.forget_ends();
        assert_eq!(sweeps.take_due(&positions(&[8, 9])), [], "the topic was made anew");
        sweeps.observe(&catalog, &seen(80_000, &[8, 9]));
        assert_eq!(sweeps.take_due(&positions(&[8, 9])), [(0, snapshot(1, Phase::Listed).begin)]);
        assert_eq!(sweeps.take_due(&positions(&[8, 9])), []);
    }

    #[test]
    fn a_clock_that_is_set_back_holds_nothing_up() {
        let mut sweeps = Sweeps::default();
        sweeps.hear(0, snapshot(1, Phase::Listed), 3_600_000);
        sweeps.clock_set_back(1_000);
        assert!(sweeps.hold_start(1_000) && !sweeps.hold_start(1_000 + START_WAITS_MS));
        sweeps.observe(&catalog(), &seen(1_000 + SETTLES_MS, &[5]));
        assert_eq!(sweeps.take_due(&positions(&[5])).len(), 1);
    }

    #[test]
    fn a_sweep_says_nothing_of_a_snapshot_that_has_begun_since() {
        let catalog = catalog();
        let mut sweeps = Sweeps::default();
        sweeps.hear(0, snapshot(1, Phase::Listed), 0);
        sweeps.observe(&catalog, &seen(SETTLES_MS, &[5]));
        assert_eq!(sweeps.take_due(&positions(&[5])).len(), 1);
        sweeps.hear(0, snapshot(2, Phase::UnderWay), SETTLES_MS);
        sweeps.hear(0, snapshot(1, Phase::Swept), SETTLES_MS);
        sweeps.hear(0, snapshot(2, Phase::Listed), SETTLES_MS);
        sweeps.observe(&catalog, &seen(2 * SETTLES_MS, &[9]));
        assert_eq!(sweeps.take_due(&positions(&[9])), [(0, snapshot(2, Phase::Listed).begin)]);
    }

    #[test]
    fn a_later_snapshot_takes_over_and_a_restart_forgets_nothing() {
        let catalog = catalog();
        let listed = BTreeMap::from([(0, snapshot(1, Phase::Listed))]);
        let mut sweeps = Sweeps::restored(listed, 1_000);
        sweeps.observe(&catalog, &seen(10_000, &[3]));
        assert_eq!(sweeps.take_due(&positions(&[2])), []);
        sweeps.hear(0, snapshot(2, Phase::UnderWay), 11_000);
        assert_eq!(sweeps.take_due(&positions(&[3])), [], "the later one decides");
        sweeps.hear(0, snapshot(1, Phase::Listed), 12_000);
        assert!(!sweeps.hold_start(12_001), "the earlier one is sent again");
        let swept = BTreeMap::from([(0, snapshot(3, Phase::Swept))]);
        assert!(!Sweeps::restored(swept, 0).may_leave_ghosts(0));
    }
}
