//! Whole snapshots of a table, sent again: what is not in one is gone.
//!
//! Some connectors send every row of a table when they begin, and do so again when they lose their
//! place. Rows that were deleted in between are never mentioned again: what is older than such a
//! snapshot, and not in it, has to go once all of it has been read. A snapshot is known by its version,
//! which all of its rows have.

use serde::{Deserialize, Serialize};

use super::version::Version;

/// The newest whole snapshot that a table has heard of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Snapshot {
    /// What is older than this was written before it; see [`Version::first_of_its_kind`].
    pub begin: Version,
    pub phase: Phase,
}

/// How far a snapshot has come. The order is that in which it goes through them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Some of its rows were read.
    UnderWay,
    /// So was the one that it marks as its last; others may lie in other partitions.
    Listed,
    /// What was not in it is gone.
    Swept,
    /// Suspiciously many rows were not in it: they stay.
    Refused,
    /// Rows were not in it, and rows of it could not be applied, which may be the same: they stay.
    Incomplete,
}

impl Phase {
    pub const ALL: [Phase; 5] =
        [Phase::UnderWay, Phase::Listed, Phase::Swept, Phase::Refused, Phase::Incomplete];

    pub fn name(self) -> &'static str {
        match self {
            Phase::UnderWay => "underway",
            Phase::Listed => "listed",
            Phase::Swept => "swept",
            Phase::Refused => "refused",
            Phase::Incomplete => "incomplete",
        }
    }

    pub fn from_name(name: &str) -> Option<Phase> {
        Phase::ALL.into_iter().find(|phase| phase.name() == name)
    }

    /// Whether rows may be there that the source does not have any more.
    pub fn may_leave_ghosts(self) -> bool {
        self != Phase::Swept
    }
}

impl Snapshot {
    /// What is known after hearing of another one, or of more of the same; `None`: nothing new.
    pub fn after(known: Option<Snapshot>, heard: Snapshot) -> Option<Snapshot> {
        let is_new = known.is_none_or(|known| (heard.begin, heard.phase) > (known.begin, known.phase));
        is_new.then_some(heard)
    }
}

/// Records of a partition that did not lead to a row: which whole snapshots they may have been of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unlisted {
    /// Of whichever the next record that can be read is, or one before it: within a partition versions
    /// do not go back from a snapshot to an earlier one.
    Unknown,
    /// Of none that begins later than this; see [`Version::first_of_its_kind`].
    UpTo(Version),
}

impl Unlisted {
    /// What is known behind another record, with its version if it tells one.
    pub fn with(known: Option<Unlisted>, version: Option<Version>) -> Unlisted {
        match (known, version.map(|version| version.first_of_its_kind())) {
            (_, None) => Unlisted::Unknown,
            (Some(Unlisted::UpTo(known)), Some(version)) => Unlisted::UpTo(known.max(version)),
            (_, Some(version)) => Unlisted::UpTo(version),
        }
    }

    /// Whether a row that such a snapshot lists may not be in the replica as it lists it.
    pub fn may_be_of(self, begin: Version) -> bool {
        match self {
            Unlisted::Unknown => true,
            Unlisted::UpTo(version) => begin <= version,
        }
    }

    /// For stores; empty: unknown.
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Unlisted::Unknown => &[],
            Unlisted::UpTo(version) => version.as_bytes(),
        }
    }

    /// `None`: it is not one.
    pub fn from_bytes(bytes: &[u8]) -> Option<Unlisted> {
        match bytes {
            [] => Some(Unlisted::Unknown),
            bytes => Some(Unlisted::UpTo(Version::from_bytes(bytes)?)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::version::{Coordinates, VersionKind};

    #[test]
    fn a_later_snapshot_takes_the_place_of_an_earlier_one_and_none_goes_back() {
        let begin = |number| {
            let at = Coordinates { topic: 0, partition: 0, offset: 5 };
            Version::new(VersionKind::Integers, &[number, number], at).unwrap().first_of_its_kind()
        };
        let snapshot = |number, phase| Snapshot { begin: begin(number), phase };
        let (one, two) = (snapshot(1, Phase::Swept), snapshot(2, Phase::UnderWay));
        assert_eq!(Snapshot::after(None, two), Some(two));
        assert_eq!(Snapshot::after(Some(one), two), Some(two));
        assert_eq!(Snapshot::after(Some(two), snapshot(1, Phase::Listed)), None, "an old one is sent again");
        assert_eq!(Snapshot::after(Some(two), two), None);
        assert_eq!(Snapshot::after(Some(two), snapshot(2, Phase::Listed)), Some(snapshot(2, Phase::Listed)));
        for phase in Phase::ALL {
            assert_eq!(Phase::from_name(phase.name()), Some(phase));
        }
    }

    #[test]
    fn what_is_unlisted_is_bounded_by_what_is_read_later() {
        let version = |number| {
            let at = Coordinates { topic: 0, partition: 0, offset: 5 };
            Version::new(VersionKind::Integers, &[number, number], at).unwrap()
        };
        let begin = |number| version(number).first_of_its_kind();
        let unknown = Unlisted::with(None, None);
        assert!(unknown.may_be_of(begin(9)));
        let bounded = Unlisted::with(Some(unknown), Some(version(5)));
        assert!(bounded.may_be_of(begin(5)) && !bounded.may_be_of(begin(6)));
        assert_eq!(Unlisted::with(Some(bounded), Some(version(3))), bounded);
        assert_eq!(Unlisted::with(Some(bounded), None), unknown);
        for unlisted in [unknown, bounded] {
            assert_eq!(Unlisted::from_bytes(unlisted.as_bytes()), Some(unlisted));
        }
        assert_eq!(Unlisted::from_bytes(b"x"), None);
    }
}
