//! Event ids: how an event is told from a repetition of it where nothing else does.
//!
//! Where order is that of positions, an event that its producer sends again at a later offset looks
//! like news and would set old values back. A topic with `event_id` remembers the ids of the last
//! events it applied, over all its partitions, in the order in which they were applied.
//!
//! Remembered are the ids of events that made changes, and only those: what was skipped had no
//! effect that could be repeated, and what was rejected must be free to come again and be applied.
//! A change that the replica then finds stale, or drops by `if_missing: ignore`, counts as made:
//! what becomes of it is decided. Ids are stored in the step that stores the changes, so that after
//! a crash an event is known exactly if the replica has it.

use std::collections::{HashSet, VecDeque};

use super::digest::Digest;

/// Ids a topic remembers unless it says otherwise.
pub const WINDOW_DEFAULT: usize = 10_000;
/// Each takes about 50 bytes of memory and 30 in the replica.
pub const WINDOW_MAX: usize = 1_000_000;

/// A digest: what the id says is not kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EventId(u128);

impl EventId {
    pub fn of_text(text: &str) -> EventId {
        EventId(Digest::new().with(b"t").with(text.as_bytes()).value())
    }

    /// Of its decimal digits, with `-` before them if it is negative. Another id than the text of
    /// the same digits.
    pub fn of_integer(digits: &str) -> EventId {
        EventId(Digest::new().with(b"i").with(digits.as_bytes()).value())
    }

    pub fn from_bytes(bytes: [u8; 16]) -> EventId {
        EventId(u128::from_be_bytes(bytes))
    }

    pub fn to_bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }
}

/// The remembered ids of one topic: those in the replica and those on their way to it.
#[derive(Debug)]
pub struct EventIds {
    window: usize,
    /// Oldest first, at most `window`.
    order: VecDeque<EventId>,
    /// The same ids.
    known: HashSet<EventId>,
    /// Remembered since [`EventIds::take_news`].
    news: Vec<EventId>,
    /// What made room since then, oldest first.
    evicted: Vec<EventId>,
}

impl EventIds {
    /// A window of at least one id.
    pub fn new(window: usize) -> EventIds {
        EventIds {
            window: window.max(1),
            order: VecDeque::new(),
            known: HashSet::new(),
            news: Vec::new(),
            evicted: Vec::new(),
        }
    }

    /// Goes on with what a replica has, oldest first; of more than fit the newest are kept.
    pub fn restore(&mut self, stored: Vec<EventId>) {
        for id in stored {
            self.add(id);
        }
        self.evicted.clear();
    }

    pub fn contains(&self, id: EventId) -> bool {
        self.known.contains(&id)
    }

    /// For an event whose changes go into the batch in the making. The oldest id makes room.
    pub fn remember(&mut self, id: EventId) {
        if self.add(id) {
            self.news.push(id);
        }
    }

    fn add(&mut self, id: EventId) -> bool {
        if !self.known.insert(id) {
            return false;
        }
        if self.order.len() == self.window
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
            self.evicted.push(oldest);
        }
        self.order.push_back(id);
        true
    }

    /// The batch in the making is dropped: its events will come again, or never existed.
    pub fn forget_news(&mut self) {
        let before = self.evicted.len() + self.order.len() - self.news.len();
        self.order = self.evicted.drain(..).chain(self.order.drain(..)).take(before).collect();
        self.known = self.order.iter().copied().collect();
        self.news.clear();
    }

    /// Forgets everything: the topic begins anew.
    pub fn clear(&mut self) {
        *self = EventIds::new(self.window);
    }

    /// What the batch that is being sealed has to bring into the replica.
    pub fn take_news(&mut self) -> Option<NewEventIds> {
        self.evicted.clear();
        if self.news.is_empty() {
            return None;
        }
        Some(NewEventIds { window: self.window, ids: std::mem::take(&mut self.news) })
    }
}

/// Ids of one topic that go into the replica with the changes of their events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewEventIds {
    /// The replica keeps so many, the newest. At least 1.
    pub window: usize,
    /// In the order of their events; may be more than the window.
    pub ids: Vec<EventId>,
}

impl NewEventIds {
    /// The ids that are in the replica afterwards.
    pub fn kept(&self) -> &[EventId] {
        &self.ids[self.ids.len().saturating_sub(self.window)..]
    }

    /// What every store does with its list, oldest first.
    pub fn join(&self, stored: &mut Vec<EventId>) {
        stored.extend(self.kept());
        stored.drain(..stored.len().saturating_sub(self.window));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ids_are_told_apart_by_kind_and_content() {
        assert_eq!(EventId::of_text("a"), EventId::of_text("a"));
        let ids = [EventId::of_text("12"), EventId::of_integer("12"), EventId::of_integer("-12")];
        assert_eq!(ids.iter().collect::<HashSet<_>>().len(), 3);
        for id in ids {
            assert_eq!(EventId::from_bytes(id.to_bytes()), id);
        }
        // Stored: another digest would forget what every replica remembers.
        let bytes = EventId::of_text("7c9e6679").to_bytes();
        assert_eq!(format!("{:032x}", u128::from_be_bytes(bytes)), "f9af4dfe4b066e16a629c210d6116247");
    }

    #[test]
    fn the_oldest_makes_room() {
        let id = |nth: u64| EventId::of_integer(&nth.to_string());
        let mut ids = EventIds::new(2);
        for nth in 1..=3 {
            ids.remember(id(nth));
        }
        assert_eq!([1, 2, 3].map(|nth| ids.contains(id(nth))), [false, true, true]);
        let news = ids.take_news().unwrap();
        assert_eq!(news.kept(), [id(2), id(3)]);
        assert_eq!(ids.take_news(), None);
        // A smaller window keeps the newest of what is stored.
        let mut smaller = EventIds::new(1);
        smaller.restore(vec![id(2), id(3)]);
        assert_eq!([2, 3].map(|nth| smaller.contains(id(nth))), [false, true]);
        assert_eq!(smaller.take_news(), None, "the replica has it");
    }

    #[derive(Debug, Clone)]
    enum Step {
        /// An event with this id arrives.
        Event(u8),
        Seal,
        /// The oldest sealed batch is committed.
        Commit,
        /// What is not committed is lost, and read again from the log.
        Crash,
        /// The batch in the making is dropped, and read again.
        Drop,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            12 => (0u8..12).prop_map(Step::Event),
            3 => Just(Step::Seal),
            3 => Just(Step::Commit),
            1 => Just(Step::Crash),
            1 => Just(Step::Drop),
        ];
        prop::collection::vec(step, 0..120)
    }

    /// The rule itself: what is applied of a log when every event is looked up among the last
    /// `window` applied ones.
    fn applied(log: &[u8], window: usize) -> Vec<u8> {
        let mut applied: Vec<u8> = Vec::new();
        for id in log {
            if !applied[applied.len().saturating_sub(window)..].contains(id) {
                applied.push(*id);
            }
        }
        applied
    }

    fn id_of(number: u8) -> EventId {
        EventId::of_integer(&number.to_string())
    }

    proptest! {
        /// Whatever the batches and the crashes: each event is applied or skipped as without them,
        /// and what is stored is the end of what was applied, in order.
        #[test]
        fn batches_and_crashes_change_nothing(window in 1usize..8, steps in steps()) {
            let mut log: Vec<u8> = Vec::new();
            // Of the committed replica: position, applied events, stored ids.
            let (mut position, mut rows, mut stored) = (0, Vec::new(), Vec::new());
            let mut sealed: VecDeque<(usize, Vec<u8>, Option<NewEventIds>)> = VecDeque::new();
            let mut making: Vec<u8> = Vec::new();
            let mut read = 0;
            let mut ids = EventIds::new(window);
            for step in steps {
                match step {
                    Step::Event(number) => {
                        log.push(number);
                        take(&mut ids, &mut making, number);
                    }
                    Step::Seal => {
                        read = log.len();
                        sealed.push_back((read, std::mem::take(&mut making), ids.take_news()));
                    }
                    Step::Commit => {
                        let Some((to, events, news)) = sealed.pop_front() else { continue };
                        position = to;
                        rows.extend(events);
                        if let Some(news) = news {
                            news.join(&mut stored);
                        }
                    }
                    Step::Drop => {
                        making.clear();
                        ids.forget_news();
                        for &number in &log[read..] {
                            take(&mut ids, &mut making, number);
                        }
                    }
                    Step::Crash => {
                        read = position;
                        sealed.clear();
                        making.clear();
                        ids = EventIds::new(window);
                        ids.restore(stored.clone());
                        for &number in &log[position..] {
                            take(&mut ids, &mut making, number);
                        }
                    }
                }
                let on_their_way = sealed.iter().flat_map(|(_, events, _)| events).chain(&making);
                let all: Vec<u8> = rows.iter().chain(on_their_way).copied().collect();
                prop_assert_eq!(&all, &applied(&log, window));
                let end = &rows[rows.len().saturating_sub(window)..];
                prop_assert_eq!(&stored, &end.iter().copied().map(id_of).collect::<Vec<_>>());
                prop_assert!(ids.order.len() <= window && ids.known.len() == ids.order.len());
            }
        }
    }

    fn take(ids: &mut EventIds, making: &mut Vec<u8>, number: u8) {
        if !ids.contains(id_of(number)) {
            ids.remember(id_of(number));
            making.push(number);
        }
    }
}
