//! Identity: is this still the log the positions count in?
//!
//! A Kafka client does not notice by itself that a topic was deleted and created again, or that
//! another cluster answers under the same address; both would be read on silently from offsets
//! that mean nothing. So every round of observations is compared with what the replica has stored
//! (KIP-516 topic ids, cluster id), and an end below what was read before the question was asked is
//! never taken as proof. What was read since says nothing: a log that grows is ahead of an answer
//! that is on its way.

use std::collections::BTreeMap;

use super::Failure;
use crate::domain::catalog::Catalog;
use crate::domain::checkpoint::{Checkpoint, TopicPartition};
use crate::metrics::GapReason;
use crate::source::Observation;

/// Rounds in a row that must show an end below our position before the log counts as truncated:
/// a new leader may report an old high watermark for a moment (KIP-207).
const BEHIND_ROUNDS: u32 = 5;

#[derive(Debug, Default)]
pub struct Identity {
    cluster_id: Option<String>,
    topic_ids: BTreeMap<usize, String>,
    /// What was read by then. Kept until a round that was asked later has been compared with it.
    read: Read,
    behind: BTreeMap<TopicPartition, u32>,
}

#[derive(Debug, Default)]
struct Read {
    /// Wall clock, ms since 1970.
    by_ms: i64,
    positions: BTreeMap<TopicPartition, i64>,
}

/// What a round says about the log.
#[derive(Debug)]
pub enum Verdict {
    /// The same log. `new` ids are to be stored.
    Same {
        new_cluster_id: Option<String>,
        new_topic_ids: BTreeMap<usize, String>,
    },
    /// Not proven otherwise, but freshness must stand still.
    Suspect,
    Gap {
        reason: GapReason,
        failure: Failure,
    },
}

impl Identity {
    pub fn restored(checkpoint: &Checkpoint) -> Identity {
        Identity {
            cluster_id: checkpoint.cluster_id.clone(),
            topic_ids: checkpoint.topic_ids.clone(),
            read: Read {
                // Read by an earlier process, whatever its clock was.
                by_ms: i64::MIN,
                positions: checkpoint
                    .positions
                    .iter()
                    .map(|(at, position)| (*at, position.next_offset))
                    .collect(),
            },
            behind: BTreeMap::new(),
        }
    }

    /// `positions` tells where the known partitions stand at `now_ms`.
    pub fn judge(
        &mut self,
        catalog: &Catalog,
        seen: &Observation,
        positions: BTreeMap<TopicPartition, i64>,
        now_ms: i64,
    ) -> Verdict {
        if let Some(stored) = &self.cluster_id
            && *stored != seen.cluster_id
        {
            return gap(
                GapReason::Cluster,
                format!(
                    "the brokers belong to cluster {}, but the replica was built from cluster {stored}; \
                     point kafka.brokers at the right cluster, or remove the replica to build it anew",
                    seen.cluster_id
                ),
            );
        }
        for (topic, observed) in &seen.topics {
            if let Some(stored) = self.topic_ids.get(topic)
                && !observed.id.is_empty()
                && *stored != observed.id
            {
                return gap(
                    GapReason::Recreated,
                    format!(
                        "topic {} was deleted and created again (id {stored} is now {}), so stored \
                         positions mean nothing; remove the replica to build it anew",
                        catalog.topics[*topic], observed.id
                    ),
                );
            }
        }
        let mut suspect = false;
        let asked_later = self.read.by_ms < seen.asked_ms;
        for (topic, observed) in &seen.topics {
            for (partition, ends) in &observed.partitions {
                let at = TopicPartition { topic: *topic, partition: *partition };
                let Some(&position) = positions.get(&at) else { continue };
                if let Some(start) = ends.log_start
                    && position < start
                {
                    return gap(
                        GapReason::Retention,
                        format!(
                            "topic {} partition {partition}: records {position} to {} were removed by \
                             retention before they were read; remove the replica to build it anew from \
                             what the log still holds",
                            catalog.topics[*topic],
                            start - 1
                        ),
                    );
                }
                if !asked_later {
                    continue;
                }
                let Some(&position) = self.read.positions.get(&at) else { continue };
                if ends.high_watermark >= position {
                    self.behind.remove(&at);
                    continue;
                }
                suspect = true;
                let rounds = self.behind.entry(at).or_default();
                *rounds += 1;
                if *rounds >= BEHIND_ROUNDS {
                    return gap(
                        GapReason::Truncated,
                        format!(
                            "topic {} partition {partition} ends at {} but {position} was read before: the \
                             log was truncated; remove the replica to build it anew",
                            catalog.topics[*topic], ends.high_watermark
                        ),
                    );
                }
            }
        }
        // A clock that was set back must not keep rounds from ever being asked later.
        if asked_later || now_ms < self.read.by_ms {
            self.read = Read { by_ms: now_ms, positions };
        }
        if suspect {
            return Verdict::Suspect;
        }
        let new_cluster_id = self.cluster_id.is_none().then(|| seen.cluster_id.clone());
        self.cluster_id.get_or_insert_with(|| seen.cluster_id.clone());
        let mut new_topic_ids = BTreeMap::new();
        for (topic, observed) in &seen.topics {
            if !observed.id.is_empty() && !self.topic_ids.contains_key(topic) {
                self.topic_ids.insert(*topic, observed.id.clone());
                new_topic_ids.insert(*topic, observed.id.clone());
            }
        }
        Verdict::Same { new_cluster_id, new_topic_ids }
    }
}

fn gap(reason: GapReason, message: String) -> Verdict {
    Verdict::Gap { reason, failure: Failure::foreign(message) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::checkpoint::Position;
    use crate::source::{Ends, TopicObservation};

    fn catalog() -> Catalog {
        Catalog { topics: vec!["users".into()], tables: Vec::new(), fingerprint: String::new() }
    }

    /// Rounds are asked, and judged, one second after the other.
    fn judge(identity: &mut Identity, mut seen: Observation) -> Verdict {
        seen.asked_ms = if identity.read.by_ms == i64::MIN { 1_000 } else { identity.read.by_ms + 1_000 };
        let now_ms = seen.asked_ms + 10;
        identity.judge(&catalog(), &seen, at_five(), now_ms)
    }

    fn at_five() -> BTreeMap<TopicPartition, i64> {
        BTreeMap::from([(TopicPartition { topic: 0, partition: 0 }, 5)])
    }

    fn restored() -> Identity {
        let position = |offset| Position { next_offset: offset, ..Position::start() };
        let positions = at_five().into_iter().map(|(at, offset)| (at, position(offset))).collect();
        Identity::restored(&Checkpoint { positions, ..Checkpoint::default() })
    }

    fn seen(cluster: &str, id: &str, log_start: i64, end: i64) -> Observation {
        let ends = Ends { log_start: Some(log_start), high_watermark: end, last_stable: None };
        let topic = TopicObservation { id: id.into(), partitions: BTreeMap::from([(0, ends)]) };
        Observation { asked_ms: 0, cluster_id: cluster.into(), topics: BTreeMap::from([(0, topic)]) }
    }

    fn reason(verdict: Verdict) -> Option<GapReason> {
        match verdict {
            Verdict::Gap { reason, .. } => Some(reason),
            _ => None,
        }
    }

    #[test]
    fn the_first_contact_is_remembered_and_later_ones_must_agree() {
        let mut identity = restored();
        let first = judge(&mut identity, seen("c1", "t1", 0, 10));
        assert!(
            matches!(first, Verdict::Same { new_cluster_id: Some(_), ref new_topic_ids } if new_topic_ids.len() == 1)
        );
        let again = judge(&mut identity, seen("c1", "t1", 0, 10));
        assert!(
            matches!(again, Verdict::Same { new_cluster_id: None, ref new_topic_ids } if new_topic_ids.is_empty())
        );
        assert_eq!(reason(judge(&mut identity, seen("c2", "t1", 0, 10))), Some(GapReason::Cluster));
        // Also when the new topic has grown past our offset.
        assert_eq!(reason(judge(&mut identity, seen("c1", "t2", 0, 99))), Some(GapReason::Recreated));
    }

    #[test]
    fn records_removed_before_they_were_read_are_a_gap_and_read_ones_are_not() {
        let mut identity = restored();
        assert_eq!(reason(judge(&mut identity, seen("c", "t", 5, 10))), None);
        assert_eq!(reason(judge(&mut identity, seen("c", "t", 6, 10))), Some(GapReason::Retention));
    }

    #[test]
    fn an_end_below_the_position_is_suspect_at_once_and_a_gap_when_it_stays() {
        let mut identity = restored();
        for _ in 1..BEHIND_ROUNDS {
            assert!(matches!(judge(&mut identity, seen("c", "t", 0, 4)), Verdict::Suspect));
        }
        assert_eq!(reason(judge(&mut identity, seen("c", "t", 0, 4))), Some(GapReason::Truncated));
    }

    #[test]
    fn a_high_watermark_that_lags_for_a_moment_is_forgiven() {
        let mut identity = restored();
        for _ in 0..20 {
            assert!(matches!(judge(&mut identity, seen("c", "t", 0, 4)), Verdict::Suspect));
            assert!(matches!(judge(&mut identity, seen("c", "t", 0, 5)), Verdict::Same { .. }));
        }
    }

    #[test]
    fn what_was_read_after_the_question_is_no_reason_for_doubt() {
        let mut identity = restored();
        assert!(matches!(judge(&mut identity, seen("c", "t", 0, 5)), Verdict::Same { .. }));
        let by_ms = identity.read.by_ms;
        // Asked before we stood at five, however often such an answer comes.
        for asked_ms in by_ms - 10..=by_ms {
            let old = Observation { asked_ms, ..seen("c", "t", 0, 4) };
            let verdict = identity.judge(&catalog(), &old, at_five(), by_ms + 5);
            assert!(matches!(verdict, Verdict::Same { .. }));
        }
        let later = Observation { asked_ms: by_ms + 1, ..seen("c", "t", 0, 4) };
        assert!(matches!(identity.judge(&catalog(), &later, at_five(), by_ms + 5), Verdict::Suspect));
    }

    #[test]
    fn a_clock_that_was_set_back_does_not_end_the_watch() {
        let mut identity = restored();
        judge(&mut identity, seen("c", "t", 0, 5));
        let back = identity.read.by_ms - 3_600_000;
        let first = Observation { asked_ms: back, ..seen("c", "t", 0, 5) };
        identity.judge(&catalog(), &first, at_five(), back + 10);
        let next = Observation { asked_ms: back + 1_000, ..seen("c", "t", 0, 4) };
        assert!(matches!(identity.judge(&catalog(), &next, at_five(), back + 1_010), Verdict::Suspect));
    }
}
