//! Gaps: the log does not continue where the replica stands. What kinds there are, and what the
//! policies (`on_gap`) decide.

use crate::config::OnGap;
use crate::domain::catalog::Catalog;
use crate::domain::checkpoint::TopicPartition;
use crate::metrics::GapReason;
use crate::source::Observation;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Gap {
    /// Another cluster answers.
    Cluster { stored: String, seen: String },
    /// The topic was deleted and created again: its offsets mean other records.
    Recreated { topic: usize, stored: String, seen: String },
    /// The log begins behind the position.
    Retention { at: TopicPartition, position: i64, start: i64 },
    /// Records that were read are not in the log any more; it has others from `from` on.
    Truncated { at: TopicPartition, position: i64, from: i64 },
    /// Compaction may have removed tombstones that were not read.
    Tombstones { topic: usize, behind_ms: i64, kept_ms: i64 },
}

impl Gap {
    pub fn reason(&self) -> GapReason {
        match self {
            Gap::Cluster { .. } => GapReason::Cluster,
            Gap::Recreated { .. } => GapReason::Recreated,
            Gap::Retention { .. } => GapReason::Retention,
            Gap::Truncated { .. } => GapReason::Truncated,
            Gap::Tombstones { .. } => GapReason::Tombstones,
        }
    }

    /// `None`: all of them.
    pub fn topic(&self) -> Option<usize> {
        match self {
            Gap::Cluster { .. } => None,
            Gap::Recreated { topic, .. } | Gap::Tombstones { topic, .. } => Some(*topic),
            Gap::Retention { at, .. } | Gap::Truncated { at, .. } => Some(at.topic),
        }
    }

    pub fn partition(&self) -> Option<TopicPartition> {
        match self {
            Gap::Retention { at, .. } | Gap::Truncated { at, .. } => Some(*at),
            _ => None,
        }
    }

    pub fn renewed_topic(&self) -> Option<usize> {
        match self {
            Gap::Recreated { topic, .. } => Some(*topic),
            _ => None,
        }
    }

    /// Whether records that were taken lately may be of a log that is not ours.
    pub fn is_of_another_log(&self) -> bool {
        matches!(self, Gap::Cluster { .. } | Gap::Recreated { .. })
    }

    /// What happened, for a person.
    pub fn describe(&self, catalog: &Catalog) -> String {
        let name = |topic: &usize| catalog.topics.get(*topic).map_or("", String::as_str);
        match self {
            Gap::Cluster { stored, seen } => {
                format!(
                    "the brokers belong to cluster {seen}, but the replica was built from cluster {stored}"
                )
            }
            Gap::Recreated { topic, stored, seen } => format!(
                "topic {} was deleted and created again (id {stored} is now {seen}), so stored positions mean \
                 nothing",
                name(topic)
            ),
            Gap::Retention { at, position, start } => format!(
                "topic {} partition {}: records {position} to {} were removed by retention before they were \
                 read",
                name(&at.topic),
                at.partition,
                start - 1
            ),
            Gap::Truncated { at, position, from } => format!(
                "topic {} partition {}: the log was truncated: records {from} to {} were read before and are \
                 not in it any more",
                name(&at.topic),
                at.partition,
                position - 1
            ),
            Gap::Tombstones { topic, behind_ms, kept_ms } => format!(
                "topic {} was not read for {} s, and compaction keeps tombstones for {} s: rows may be there \
                 that were deleted",
                name(topic),
                behind_ms / 1000,
                kept_ms / 1000
            ),
        }
    }
}

/// What is done, the stronger the later: of several gaps the strongest decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Decision {
    /// Go on with what the log has; the tables are incomplete.
    Continue,
    /// Build a new generation; this one stays as it is.
    Rebuild,
    /// A person is needed.
    Stop,
}

impl Decision {
    pub fn name(self) -> &'static str {
        match self {
            Decision::Continue => "continue",
            Decision::Rebuild => "rebuild",
            Decision::Stop => "stop",
        }
    }
}

/// `whole` says whether a rebuild would restore everything; `None` when that is not known yet, and
/// with it where logs begin. `None`: it has to be found out first.
///
/// Another cluster is most often a mistake in the address: only `rebuild` of every topic takes it.
pub fn decide(found: &[Gap], policies: &[OnGap], whole: Option<bool>) -> Option<Decision> {
    let mut strongest = Some(Decision::Continue);
    for gap in found {
        let decision = match gap.topic().and_then(|topic| policies.get(topic)) {
            None if policies.iter().all(|policy| *policy == OnGap::Rebuild) => Some(Decision::Rebuild),
            None | Some(OnGap::Stop) => Some(Decision::Stop),
            Some(OnGap::Rebuild) => Some(Decision::Rebuild),
            Some(OnGap::Continue) => whole.map(|_| Decision::Continue),
            Some(OnGap::Auto) => {
                whole.map(|whole| if whole { Decision::Rebuild } else { Decision::Continue })
            }
        };
        if decision == Some(Decision::Stop) {
            return decision;
        }
        strongest = strongest.zip(decision).map(|(a, b)| a.max(b));
    }
    strongest
}

/// Whether the logs hold everything that a new copy needs: each is compacted, so that it has the
/// last record of every key, or nothing was removed from it yet. All topics count, not only those
/// with the gap, because a rebuild replaces all tables; what the brokers do not tell counts as no.
pub fn can_give_all_back(topics: &[String], seen: &Observation) -> bool {
    (0..topics.len()).all(|topic| {
        seen.topics.get(&topic).is_some_and(|observed| {
            let mut partitions = observed.partitions.values();
            !observed.partitions.is_empty()
                && (observed.cleanup.as_ref().is_some_and(|cleanup| cleanup.keeps_every_key())
                    || partitions.all(|ends| ends.log_start == Some(0)))
        })
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use super::*;
    use crate::source::{Cleanup, Ends, TopicObservation};

    fn retention(topic: usize) -> Gap {
        Gap::Retention { at: TopicPartition { topic, partition: 0 }, position: 3, start: 5 }
    }

    fn cluster() -> Gap {
        Gap::Cluster { stored: "a".into(), seen: "b".into() }
    }

    #[test]
    fn each_policy_decides_and_auto_by_what_the_log_can_give() {
        use Decision::{Continue, Rebuild, Stop};
        let one = |policy, whole| decide(&[retention(0)], &[policy], whole);
        for whole in [None, Some(false), Some(true)] {
            assert_eq!(one(OnGap::Stop, whole), Some(Stop));
            assert_eq!(one(OnGap::Rebuild, whole), Some(Rebuild));
            assert_eq!(one(OnGap::Continue, whole), whole.map(|_| Continue));
        }
        assert_eq!(one(OnGap::Auto, None), None);
        assert_eq!(one(OnGap::Auto, Some(false)), Some(Continue));
        assert_eq!(one(OnGap::Auto, Some(true)), Some(Rebuild));
    }

    #[test]
    fn of_several_gaps_the_strongest_policy_decides() {
        use Decision::{Continue, Rebuild, Stop};
        let two = |policies: [OnGap; 2], whole| decide(&[retention(0), retention(1)], &policies, whole);
        assert_eq!(two([OnGap::Auto, OnGap::Stop], None), Some(Stop));
        assert_eq!(two([OnGap::Rebuild, OnGap::Continue], Some(false)), Some(Rebuild));
        assert_eq!(two([OnGap::Auto, OnGap::Continue], Some(false)), Some(Continue));
        assert_eq!(two([OnGap::Rebuild, OnGap::Auto], None), None);
    }

    #[test]
    fn another_cluster_is_taken_only_when_every_topic_says_rebuild() {
        let of = |policies: &[OnGap]| decide(&[cluster()], policies, Some(true));
        for policy in [OnGap::Auto, OnGap::Continue, OnGap::Stop] {
            assert_eq!(of(&[OnGap::Rebuild, policy]), Some(Decision::Stop));
        }
        assert_eq!(of(&[OnGap::Rebuild, OnGap::Rebuild]), Some(Decision::Rebuild));
    }

    #[test]
    fn everything_can_be_given_back_by_compaction_or_from_offset_zero() {
        let names = ["a".to_owned(), "b".to_owned()];
        let cleanup = |compacts, deletes: bool| Cleanup {
            compacts,
            deletes_after: deletes.then_some(Duration::from_secs(1)),
            deletes_beyond_bytes: None,
            keeps_tombstones: None,
        };
        let topic = |start: i64, cleanup: Option<Cleanup>| {
            let ends = Ends { log_start: Some(start), high_watermark: 9, last_stable: None, leader_epoch: 0 };
            TopicObservation { id: "t".into(), partitions: BTreeMap::from([(0, ends)]), cleanup }
        };
        let all = |first, second: Option<TopicObservation>| {
            let topics = [Some(first), second].into_iter().enumerate();
            let topics = topics.filter_map(|(index, topic)| Some((index, topic?))).collect();
            let seen = Observation { asked_ms: 0, cluster_id: "c".into(), topics };
            can_give_all_back(&names, &seen)
        };
        let kept = || Some(topic(0, None));
        assert!(all(topic(0, None), kept()));
        assert!(all(topic(7, Some(cleanup(true, false))), kept()));
        assert!(!all(topic(7, None), kept()), "what cannot be seen counts as no");
        assert!(!all(topic(7, Some(cleanup(true, true))), kept()));
        assert!(!all(topic(7, Some(cleanup(false, true))), kept()));
        assert!(!all(topic(0, None), Some(topic(1, None))), "another topic would lose its rows");
        assert!(!all(topic(0, None), None));
    }
}
