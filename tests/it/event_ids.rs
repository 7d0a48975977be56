//! Events that their producer sends again at a later offset, on topics where only the log gives an
//! order.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;

use crate::daemon::{Daemon, header, reader, replica, rows, try_rows};
use crate::kafka::{self, Broker, Message, eventually};

const KEYS: u64 = 150;
const WINDOW: usize = 300;
/// Repeated is one of so many last events: within the window, whatever comes between.
const RECENT: usize = 200;

fn config(broker: &Broker, dir: &Path, topic: &str) -> String {
    format!(
        r#"{}
topics:
  {topic}: {{ event_type: .type, event_id: .id, event_id_window: {WINDOW} }}
tables:
  items:
    topic: {topic}
    key: item
    columns: {{ item: integer, name: text, amount: 'integer?' }}
    events:
      Set: {{ upsert: {{ item: .item, name: .name, amount: .amount }} }}
      Priced: {{ patch: {{ item: .item, amount: .amount }} }}
      Gone: {{ delete: {{ item: .item }} }}
"#,
        header(&broker.bootstrap(), dir)
    )
}

/// The producer's own idea of the rows: name and amount.
type Items = BTreeMap<u64, (Option<String>, Option<u64>)>;

#[derive(Clone)]
enum Event {
    Set { name: String, amount: u64 },
    Priced { amount: u64 },
    Gone,
}

impl Event {
    fn apply(&self, item: u64, items: &mut Items) {
        let row = items.entry(item).or_default();
        match self {
            Event::Set { name, amount } => *row = (Some(name.clone()), Some(*amount)),
            Event::Priced { amount } => row.1 = Some(*amount),
            Event::Gone => *row = (None, None),
        }
    }

    fn record(&self, id: u64, item: u64) -> Message {
        let rest = match self {
            Event::Set { name, amount } => format!(r#""type":"Set","name":"{name}","amount":{amount}"#),
            Event::Priced { amount } => format!(r#""type":"Priced","amount":{amount}"#),
            Event::Gone => r#""type":"Gone""#.to_owned(),
        };
        Message::new(item.to_string(), format!(r#"{{"id":"e-{id}","item":{item},{rest}}}"#))
    }
}

#[derive(Default)]
struct History {
    state: u64,
    events: u64,
    /// Each event once, where it came first.
    expected: Items,
    /// As somebody who takes each record for news.
    fooled: Items,
    recent: VecDeque<(u64, u64, Event)>,
}

impl History {
    /// A linear congruential generator: repeatable, and good enough to choose keys.
    fn below(&mut self, bound: u64) -> u64 {
        self.state =
            self.state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.state >> 33) % bound
    }

    fn next(&mut self) -> Message {
        if !self.recent.is_empty() && self.below(3) == 0 {
            let index = self.below(self.recent.len() as u64) as usize;
            let (id, item, event) = self.recent[index].clone();
            event.apply(item, &mut self.fooled);
            return event.record(id, item);
        }
        self.events += 1;
        let (id, item) = (self.events, self.below(KEYS));
        let event = match self.below(10) {
            0 => Event::Gone,
            1..=5 => Event::Priced { amount: id * 7 },
            _ => Event::Set { name: format!("name {id}"), amount: id },
        };
        event.apply(item, &mut self.expected);
        event.apply(item, &mut self.fooled);
        self.recent.push_back((id, item, event.clone()));
        if self.recent.len() > RECENT {
            self.recent.pop_front();
        }
        event.record(id, item)
    }

    fn take(&mut self, records: usize) -> Vec<Message> {
        (0..records).map(|_| self.next()).collect()
    }
}

/// What a reader sees: an item without a name is not there.
fn visible(items: &Items) -> Vec<String> {
    let row = |(item, (name, amount)): (&u64, &(Option<String>, Option<u64>))| {
        let amount = amount.map_or("NULL".to_owned(), |amount| amount.to_string());
        Some(format!("{item}|{}|{amount}", name.as_ref()?))
    };
    items.iter().filter_map(row).collect()
}

fn stored(dir: &Path) -> i64 {
    if !replica(dir).exists() {
        return 0;
    }
    let sum = try_rows(&reader(dir), "SELECT coalesce(sum(next_offset), 0) FROM _readside_positions");
    sum.ok().and_then(|rows| rows.first()?.parse().ok()).unwrap_or(0)
}

#[test]
fn repeated_patches_and_kills_leave_the_rows_of_each_event_once() {
    let Some(broker) = kafka::shared() else { return };
    let dir = tempfile::tempdir().unwrap();
    let topic = kafka::topic_name("repeated");
    broker.create_topic(&topic, 1, &[]);
    let yaml = config(broker, dir.path(), &topic);
    let mut history = History::default();
    broker.produce(&topic, history.take(30_000));

    // Killed while the first copy is being built, and then with every few records.
    for round in 0..6 {
        let target = (stored(dir.path()) + 1 + round * 1_500).min(30_000);
        let daemon = Daemon::start(dir.path(), &yaml);
        eventually("some records are committed", || (stored(dir.path()) >= target).then_some(()));
        daemon.kill();
    }
    for round in 0..12 {
        let produced = broker.produce(&topic, history.take(RECENT / 2)).len() as i64;
        let target = stored(dir.path()) + produced * (round % 3) / 2;
        let daemon = Daemon::start(dir.path(), &yaml);
        eventually("some records are committed", || (stored(dir.path()) >= target).then_some(()));
        daemon.kill();
    }
    let mut daemon = Daemon::start(dir.path(), &yaml);
    daemon.started();
    let end = broker.end_offset(&topic, 0);
    eventually("everything is applied", || (stored(dir.path()) == end).then_some(()));

    let expected = visible(&history.expected);
    assert_ne!(expected, visible(&history.fooled), "the repetitions make no difference");
    let connection = reader(dir.path());
    assert_eq!(rows(&connection, "SELECT item, name, amount FROM items ORDER BY item"), expected);
    let remembered =
        rows(&connection, "SELECT count(*), count(DISTINCT event_id) FROM _readside_meta_event_ids");
    assert_eq!(remembered, [format!("{WINDOW}|{WINDOW}")]);
    assert_eq!(rows(&connection, "SELECT count(*) FROM _readside_dead_letters"), ["0"]);
    assert!(daemon.terminate().0.success());
}

#[test]
fn only_an_event_that_was_applied_is_known_again() {
    let Some(broker) = kafka::shared() else { return };
    let dir = tempfile::tempdir().unwrap();
    let topic = kafka::topic_name("again");
    broker.create_topic(&topic, 2, &[]);
    let yaml = config(broker, dir.path(), &topic);
    let set = |id: &str, amount: &str| {
        Message::new("1", format!(r#"{{"id":{id},"type":"Set","item":1,"name":"n","amount":{amount}}}"#))
    };
    broker.produce(&topic, [set("7", "1").to(0), set("\"bad\"", "\"x\"").to(0), set("null", "3").to(0)]);
    let mut daemon = Daemon::start(dir.path(), &yaml);
    daemon.started();
    let connection = reader(dir.path());
    let letters = "SELECT reason, path FROM _readside_dead_letters ORDER BY \"offset\"";
    assert_eq!(rows(&connection, letters), ["wrong_type|.amount", "event_id|.id"]);
    assert!(daemon.terminate().0.success());

    let mut daemon = Daemon::start(dir.path(), &yaml);
    daemon.started();
    // Repaired and sent again it is applied, once; the first one is known, in any partition.
    broker.produce(&topic, [set("\"bad\"", "2").to(0), set("\"bad\"", "9").to(0)]);
    broker.produce(&topic, [set("7", "1").to(1)]);
    eventually("all is read", || (stored(dir.path()) == 6).then_some(()));
    assert_eq!(rows(&connection, "SELECT amount FROM items"), ["2"]);
    let skipped = format!("readside_events_skipped_total{{reason=\"duplicate\",topic=\"{topic}\"}}");
    assert_eq!(daemon.metric(&skipped), Some(2.0));
    assert_eq!(rows(&connection, "SELECT count(*) FROM _readside_meta_event_ids"), ["2"]);
    // What an id says is not kept.
    let kept =
        rows(&connection, "SELECT DISTINCT typeof(event_id), length(event_id) FROM _readside_meta_event_ids");
    assert_eq!(kept, ["blob|16"]);
    assert!(daemon.terminate().0.success());
}
