//! The ways in which the events of a case are delivered.

use std::collections::BTreeMap;

use crate::config::fixture::Event;
use crate::domain::checkpoint::TopicPartition;

/// Ways to interleave the partitions.
const INTERLEAVINGS: u64 = 6;
/// Of longer cases so many prefixes are sent again, evenly spread.
const PREFIXES_MAX: usize = 100;
/// Of a case with many events fewer prefixes are sent again, but so many at least.
const PREFIXES_MIN: usize = 10;
const DELIVERIES_MAX: usize = 200_000;
/// The reference model copies itself for each batch.
const BATCHES_MAX: usize = 200;

#[derive(Debug, Clone)]
pub struct Way {
    pub name: String,
    /// Indexes of events, and whether a batch ends behind each.
    pub events: Vec<(usize, bool)>,
}

/// As they are written, each a batch of its own unless there are many.
pub fn as_written(events: &[Event]) -> Way {
    let each = (events.len() / BATCHES_MAX).max(1);
    let events = (0..events.len()).map(|event| (event, event.is_multiple_of(each)));
    Way { name: "as written".to_owned(), events: events.collect() }
}

/// All others. Each keeps the order within a partition.
pub fn others(events: &[Event]) -> Vec<Way> {
    let mut ways = Vec::new();
    let count = events.len();
    if count == 0 {
        return ways;
    }
    let twice: Vec<usize> = (0..count).flat_map(|event| [event, event]).collect();
    ways.push(way("every event delivered twice", &twice, &mut Dice::new(1)));
    for seed in 1..=INTERLEAVINGS {
        let mut dice = Dice::new(seed);
        let order = interleaved(events, &mut dice);
        // All in one batch, too.
        let name = format!("partitions interleaved, {seed}");
        if order.iter().enumerate().any(|(at, event)| at != *event) {
            ways.push(way(&name, &order, &mut dice));
            let twice: Vec<usize> = order.iter().flat_map(|event| [*event, *event]).collect();
            ways.push(way(&format!("{name}, every event twice"), &twice, &mut dice));
        }
    }
    let prefixes = PREFIXES_MAX.min(PREFIXES_MIN.max(DELIVERIES_MAX / count)).min(count);
    for nth in 1..=prefixes {
        let length = nth * count / prefixes;
        let order: Vec<usize> = (0..length).chain(0..count).collect();
        ways.push(way(&format!("the first {length} delivered again"), &order, &mut Dice::new(length as u64)));
    }
    let order: Vec<usize> = (0..count).collect();
    ways.push(Way {
        name: "all in one batch".to_owned(),
        events: order.into_iter().map(|event| (event, false)).collect(),
    });
    ways
}

fn way(name: &str, order: &[usize], dice: &mut Dice) -> Way {
    // A few events a batch, and few batches.
    let sides = (order.len() * 4 / BATCHES_MAX).max(4);
    let events = order.iter().map(|event| (*event, dice.roll(sides) == 0)).collect();
    Way { name: name.to_owned(), events }
}

fn interleaved(events: &[Event], dice: &mut Dice) -> Vec<usize> {
    let mut partitions: BTreeMap<TopicPartition, Vec<usize>> = BTreeMap::new();
    for (index, event) in events.iter().enumerate().rev() {
        partitions.entry(event.at).or_default().push(index);
    }
    let mut queues: Vec<Vec<usize>> = partitions.into_values().collect();
    let mut order = Vec::with_capacity(events.len());
    while !queues.is_empty() {
        let chosen = dice.roll(queues.len());
        // A few from one partition, as a fetch brings them.
        for _ in 0..=dice.roll(3) {
            order.extend(queues[chosen].pop());
        }
        if queues[chosen].is_empty() {
            queues.swap_remove(chosen);
        }
    }
    order
}

/// Numbers that look like chance and are the same every time (splitmix64).
struct Dice(u64);

impl Dice {
    fn new(seed: u64) -> Dice {
        Dice(seed)
    }

    /// Below `sides`, which is not 0.
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut number = self.0;
        number = (number ^ (number >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        number = (number ^ (number >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((number ^ (number >> 31)) % sides as u64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::fixture::Event;
    use crate::config::{self};

    fn events(partitions: &[i32]) -> Vec<Event> {
        let place = config::Place::File("f".into());
        let at = |partition| TopicPartition { topic: 0, partition };
        partitions
            .iter()
            .map(|partition| Event { place: place.clone(), at: at(*partition), record: Default::default() })
            .collect()
    }

    #[test]
    fn every_way_has_every_event_and_keeps_the_order_of_a_partition() {
        let events = events(&[0, 1, 0, 2, 1, 0]);
        let ways = others(&events);
        assert!(ways.iter().any(|way| way.name.starts_with("partitions interleaved")));
        assert!((1..=6).all(|n| ways.iter().any(|way| way.name == format!("the first {n} delivered again"))));
        for Way { name, events: order } in &ways {
            let mut seen = vec![false; events.len()];
            for partition in 0..3 {
                let of_partition = order.iter().filter(|(event, _)| events[*event].at.partition == partition);
                let mut news = Vec::new();
                for (event, _) in of_partition {
                    if !std::mem::replace(&mut seen[*event], true) {
                        news.push(*event);
                    }
                }
                assert!(news.is_sorted(), "{name}: {order:?}");
            }
            assert!(seen.iter().all(|seen| *seen), "{name}");
        }
    }

    #[test]
    fn one_partition_has_one_order_and_a_long_case_is_bounded() {
        assert!(!others(&events(&[0, 0, 0])).iter().any(|way| way.name.contains("interleaved")));
        assert!(others(&events(&[0; 5000])).len() < 130);
        assert_eq!(others(&[]).len(), 0);
    }
}
