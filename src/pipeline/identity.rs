//! Identity: is this still the log the positions count in?
//!
//! A Kafka client does not notice by itself that a topic was deleted and created again, or that
//! another cluster answers under the same address; both would be read on silently from offsets
//! that mean nothing. So every round of observations is compared with what the replica has stored
//! (KIP-516 topic ids, cluster id), and an end below what was read before the question was asked is
//! never taken as proof. What was read since says nothing: a log that grows is ahead of an answer
//! that is on its way.

use std::collections::{BTreeMap, VecDeque};

use super::gaps::Gap;
use crate::domain::checkpoint::{Checkpoint, TopicPartition};
use crate::source::Observation;

/// Rounds in a row that must show an end below our position before the log counts as truncated:
/// a new leader may report an old high watermark for a moment (KIP-207).
const BEHIND_ROUNDS: u32 = 5;
/// By then it is not for a moment, and its epochs are worth a question.
const VALIDATE_ROUND: u32 = 3;

/// Ids of earlier topics that are remembered.
const LEFT_MAX: usize = 256;

#[derive(Debug, Default)]
pub struct Identity {
    cluster_id: Option<String>,
    topic_ids: BTreeMap<usize, String>,
    /// What was read by then. Kept until a round that was asked later has been compared with it.
    read: Read,
    behind: BTreeMap<TopicPartition, u32>,
    /// Ids of topics that were gone on from, the newest last. Ids never come back: an answer that
    /// has one is from a broker that has not heard of the new topic yet.
    left: VecDeque<String>,
}

#[derive(Debug, Default)]
struct Read {
    /// Wall clock, ms since 1970.
    by_ms: i64,
    positions: BTreeMap<TopicPartition, i64>,
}

/// What a round says about the log.
#[derive(Debug, Default)]
pub struct Judged {
    pub gaps: Vec<Gap>,
    /// Not proven otherwise, but freshness must stand still.
    pub suspect: bool,
    /// Partitions that have ended too early for a while, to be asked for their epochs.
    pub behind: Vec<TopicPartition>,
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
            left: VecDeque::new(),
        }
    }

    /// `positions` tells where the known partitions stand at `now_ms`. Learns nothing from the
    /// round; that is for [`Identity::adopt`], when it counts.
    pub fn judge(
        &mut self,
        seen: &Observation,
        positions: BTreeMap<TopicPartition, i64>,
        now_ms: i64,
    ) -> Judged {
        let mut judged = Judged::default();
        if let Some(stored) = &self.cluster_id
            && *stored != seen.cluster_id
        {
            judged.gaps.push(Gap::Cluster { stored: stored.clone(), seen: seen.cluster_id.clone() });
            return judged;
        }
        let asked_later = self.read.by_ms < seen.asked_ms;
        for (&topic, observed) in &seen.topics {
            if let Some(stored) = self.topic_ids.get(&topic)
                && !observed.id.is_empty()
                && *stored != observed.id
            {
                if self.left.contains(&observed.id) {
                    judged.suspect = true;
                    continue;
                }
                let (stored, seen) = (stored.clone(), observed.id.clone());
                judged.gaps.push(Gap::Recreated { topic, stored, seen });
                continue;
            }
            for (&partition, ends) in &observed.partitions {
                let at = TopicPartition { topic, partition };
                let Some(&position) = positions.get(&at) else { continue };
                if let Some(start) = ends.log_start
                    && position < start
                {
                    judged.gaps.push(Gap::Retention { at, position, start });
                    continue;
                }
                if !asked_later {
                    continue;
                }
                let Some(&read) = self.read.positions.get(&at) else { continue };
                if ends.high_watermark >= read {
                    self.behind.remove(&at);
                    continue;
                }
                judged.suspect = true;
                let rounds = self.behind.entry(at).or_default();
                *rounds += 1;
                if *rounds >= BEHIND_ROUNDS {
                    judged.gaps.push(Gap::Truncated {
                        at,
                        position,
                        from: ends.high_watermark.min(position),
                    });
                } else if *rounds == VALIDATE_ROUND {
                    judged.behind.push(at);
                }
            }
        }
        // A clock that was set back must not keep rounds from ever being asked later.
        if asked_later || now_ms < self.read.by_ms {
            self.read = Read { by_ms: now_ms, positions };
        }
        judged
    }

    /// Remembers the identities of a round that counts; gives those that are new, to be stored.
    pub fn adopt(&mut self, seen: &Observation) -> (Option<String>, BTreeMap<usize, String>) {
        let new_cluster_id = self.cluster_id.is_none().then(|| seen.cluster_id.clone());
        self.cluster_id.get_or_insert_with(|| seen.cluster_id.clone());
        let mut new_topic_ids = BTreeMap::new();
        for (topic, observed) in &seen.topics {
            if !observed.id.is_empty() && !self.topic_ids.contains_key(topic) {
                self.topic_ids.insert(*topic, observed.id.clone());
                new_topic_ids.insert(*topic, observed.id.clone());
            }
        }
        (new_cluster_id, new_topic_ids)
    }

    /// Behind a gap: other topics under known names, other positions.
    pub fn went_on(
        &mut self,
        topic_ids: &BTreeMap<usize, String>,
        positions: BTreeMap<TopicPartition, i64>,
        now_ms: i64,
    ) {
        for (topic, id) in topic_ids {
            self.left.extend(self.topic_ids.insert(*topic, id.clone()));
        }
        while self.left.len() > LEFT_MAX {
            self.left.pop_front();
        }
        self.read = Read { by_ms: now_ms, positions };
        self.behind.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::checkpoint::Position;
    use crate::metrics::GapReason;
    use crate::source::{Ends, TopicObservation};

    /// Rounds are asked, and judged, one second after the other.
    fn judge(identity: &mut Identity, mut seen: Observation) -> Judged {
        seen.asked_ms = if identity.read.by_ms == i64::MIN { 1_000 } else { identity.read.by_ms + 1_000 };
        let now_ms = seen.asked_ms + 10;
        identity.judge(&seen, at_five(), now_ms)
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
        let ends =
            Ends { log_start: Some(log_start), high_watermark: end, last_stable: None, leader_epoch: 0 };
        let topic =
            TopicObservation { id: id.into(), partitions: BTreeMap::from([(0, ends)]), cleanup: None };
        Observation { asked_ms: 0, cluster_id: cluster.into(), topics: BTreeMap::from([(0, topic)]) }
    }

    fn reason(judged: Judged) -> Option<GapReason> {
        judged.gaps.first().map(Gap::reason)
    }

    #[test]
    fn the_first_contact_is_remembered_and_later_ones_must_agree() {
        let mut identity = restored();
        let round = seen("c1", "t1", 0, 10);
        assert_eq!(reason(judge(&mut identity, round.clone())), None);
        assert_eq!(identity.adopt(&round), (Some("c1".into()), BTreeMap::from([(0, "t1".into())])));
        assert_eq!(reason(judge(&mut identity, round.clone())), None);
        assert_eq!(identity.adopt(&round), (None, BTreeMap::new()));
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
        let mut asked_for_epochs = 0;
        for _ in 1..BEHIND_ROUNDS {
            let judged = judge(&mut identity, seen("c", "t", 0, 4));
            assert!(judged.suspect && judged.gaps.is_empty());
            asked_for_epochs += judged.behind.len();
        }
        assert_eq!(asked_for_epochs, 1);
        let at = TopicPartition { topic: 0, partition: 0 };
        let gap = Gap::Truncated { at, position: 5, from: 4 };
        assert_eq!(judge(&mut identity, seen("c", "t", 0, 4)).gaps, [gap]);
    }

    #[test]
    fn a_high_watermark_that_lags_for_a_moment_is_forgiven() {
        let mut identity = restored();
        for _ in 0..20 {
            assert!(judge(&mut identity, seen("c", "t", 0, 4)).suspect);
            assert!(!judge(&mut identity, seen("c", "t", 0, 5)).suspect);
        }
    }

    #[test]
    fn what_was_read_after_the_question_is_no_reason_for_doubt() {
        let mut identity = restored();
        assert!(!judge(&mut identity, seen("c", "t", 0, 5)).suspect);
        let by_ms = identity.read.by_ms;
        // Asked before we stood at five, however often such an answer comes.
        for asked_ms in by_ms - 10..=by_ms {
            let old = Observation { asked_ms, ..seen("c", "t", 0, 4) };
            assert!(!identity.judge(&old, at_five(), by_ms + 5).suspect);
        }
        let later = Observation { asked_ms: by_ms + 1, ..seen("c", "t", 0, 4) };
        assert!(identity.judge(&later, at_five(), by_ms + 5).suspect);
    }

    #[test]
    fn a_clock_that_was_set_back_does_not_end_the_watch() {
        let mut identity = restored();
        judge(&mut identity, seen("c", "t", 0, 5));
        let back = identity.read.by_ms - 3_600_000;
        let first = Observation { asked_ms: back, ..seen("c", "t", 0, 5) };
        identity.judge(&first, at_five(), back + 10);
        let next = Observation { asked_ms: back + 1_000, ..seen("c", "t", 0, 4) };
        assert!(identity.judge(&next, at_five(), back + 1_010).suspect);
    }
}
