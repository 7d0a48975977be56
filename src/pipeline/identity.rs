//! Identity: is this still the log the positions count in?
//!
//! A Kafka client does not notice by itself that a topic was deleted and created again, or that
//! another cluster answers under the same address; both would be read on silently from offsets
//! that mean nothing. So every round of observations is compared with what the replica has stored
//! (KIP-516 topic ids, cluster id), and an end below our own position is never taken as proof.

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
    behind: BTreeMap<TopicPartition, u32>,
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
            behind: BTreeMap::new(),
        }
    }

    /// `position` tells where a known partition stands.
    pub fn judge(
        &mut self,
        catalog: &Catalog,
        seen: &Observation,
        position: impl Fn(TopicPartition) -> Option<i64>,
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
        for (topic, observed) in &seen.topics {
            for (partition, ends) in &observed.partitions {
                let at = TopicPartition { topic: *topic, partition: *partition };
                let Some(position) = position(at) else { continue };
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
    use crate::source::{Ends, TopicObservation};

    fn catalog() -> Catalog {
        Catalog { topics: vec!["users".into()], tables: Vec::new(), fingerprint: String::new() }
    }

    fn seen(cluster: &str, id: &str, log_start: i64, end: i64) -> Observation {
        let ends = Ends { log_start: Some(log_start), high_watermark: end, last_stable: None };
        let topic = TopicObservation { id: id.into(), partitions: BTreeMap::from([(0, ends)]) };
        Observation { asked_ms: 1, cluster_id: cluster.into(), topics: BTreeMap::from([(0, topic)]) }
    }

    fn reason(verdict: Verdict) -> Option<GapReason> {
        match verdict {
            Verdict::Gap { reason, .. } => Some(reason),
            _ => None,
        }
    }

    #[test]
    fn the_first_contact_is_remembered_and_later_ones_must_agree() {
        let mut identity = Identity::default();
        let first = identity.judge(&catalog(), &seen("c1", "t1", 0, 10), |_| Some(5));
        assert!(
            matches!(first, Verdict::Same { new_cluster_id: Some(_), ref new_topic_ids } if new_topic_ids.len() == 1)
        );
        let again = identity.judge(&catalog(), &seen("c1", "t1", 0, 10), |_| Some(5));
        assert!(
            matches!(again, Verdict::Same { new_cluster_id: None, ref new_topic_ids } if new_topic_ids.is_empty())
        );
        assert_eq!(
            reason(identity.judge(&catalog(), &seen("c2", "t1", 0, 10), |_| Some(5))),
            Some(GapReason::Cluster)
        );
        // Also when the new topic has grown past our offset.
        assert_eq!(
            reason(identity.judge(&catalog(), &seen("c1", "t2", 0, 99), |_| Some(5))),
            Some(GapReason::Recreated)
        );
    }

    #[test]
    fn records_removed_before_they_were_read_are_a_gap_and_read_ones_are_not() {
        let mut identity = Identity::default();
        assert_eq!(reason(identity.judge(&catalog(), &seen("c", "t", 5, 10), |_| Some(5))), None);
        assert_eq!(
            reason(identity.judge(&catalog(), &seen("c", "t", 6, 10), |_| Some(5))),
            Some(GapReason::Retention)
        );
    }

    #[test]
    fn an_end_below_the_position_is_suspect_at_once_and_a_gap_when_it_stays() {
        let mut identity = Identity::default();
        for _ in 1..BEHIND_ROUNDS {
            assert!(matches!(
                identity.judge(&catalog(), &seen("c", "t", 0, 4), |_| Some(5)),
                Verdict::Suspect
            ));
        }
        assert_eq!(
            reason(identity.judge(&catalog(), &seen("c", "t", 0, 4), |_| Some(5))),
            Some(GapReason::Truncated)
        );
    }

    #[test]
    fn a_high_watermark_that_lags_for_a_moment_is_forgiven() {
        let mut identity = Identity::default();
        for _ in 0..20 {
            assert!(matches!(
                identity.judge(&catalog(), &seen("c", "t", 0, 4), |_| Some(5)),
                Verdict::Suspect
            ));
            assert!(matches!(
                identity.judge(&catalog(), &seen("c", "t", 0, 5), |_| Some(5)),
                Verdict::Same { .. }
            ));
        }
    }
}
