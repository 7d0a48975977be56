//! Whole snapshots of a table, as the rows of a topic tell of them; see [`crate::domain::snapshot`].

use std::collections::HashMap;

use crate::domain::snapshot::Phase;

/// What was heard of them, so that not every row has to be followed by a change that says the same.
#[derive(Debug, Default)]
pub struct Snapshots {
    /// By partition: the newest of which a row was read.
    heard: HashMap<i32, [i64; 2]>,
    /// The oldest version that was read.
    oldest: Option<[i64; 2]>,
}

impl Snapshots {
    /// The version of a row, and how far a snapshot has come with it. Gives what the replica has to know.
    ///
    /// A snapshot with nothing before it, as a first one is, can leave nothing behind: only its end counts.
    pub fn hear(&mut self, partition: i32, version: [i64; 2], phase: Option<Phase>) -> Option<Phase> {
        let oldest = self.oldest.map_or(version, |oldest| oldest.min(version));
        self.oldest = Some(oldest);
        let phase = phase?;
        if phase == Phase::Listed {
            return Some(phase);
        }
        if oldest == version || self.heard.get(&partition) == Some(&version) {
            return None;
        }
        self.heard.insert(partition, version);
        Some(phase)
    }

    /// The replica has rows of whatever age.
    pub fn go_on(&mut self) {
        self.oldest = Some([i64::MIN; 2]);
    }

    /// What was heard may have got lost.
    pub fn forget(&mut self) {
        self.heard.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_is_told_of_once_a_partition_and_at_its_end() {
        use Phase::{Listed, UnderWay};
        let mut snapshots = Snapshots::default();
        // The first one.
        assert_eq!(snapshots.hear(0, [5, 5], Some(UnderWay)), None);
        assert_eq!(snapshots.hear(0, [5, 5], Some(Listed)), Some(Listed));
        assert_eq!(snapshots.hear(0, [5, 9], None), None);
        // The second.
        assert_eq!(snapshots.hear(0, [9, 9], Some(UnderWay)), Some(UnderWay));
        assert_eq!(snapshots.hear(0, [9, 9], Some(UnderWay)), None);
        assert_eq!(snapshots.hear(1, [9, 9], Some(UnderWay)), Some(UnderWay));
        assert_eq!(snapshots.hear(1, [9, 9], Some(Listed)), Some(Listed));
        snapshots.forget();
        assert_eq!(snapshots.hear(0, [9, 9], Some(UnderWay)), Some(UnderWay));
    }

    #[test]
    fn a_copy_that_goes_on_may_have_what_is_older() {
        let mut snapshots = Snapshots::default();
        snapshots.go_on();
        assert_eq!(snapshots.hear(0, [5, 5], Some(Phase::UnderWay)), Some(Phase::UnderWay));
    }
}
