//! A database, the connector that reads its log, and a replica of it. What the connector sends is what was
//! seen of Debezium's for PostgreSQL: transactions in the order of their commits, so that log positions go
//! back; deletes with their tombstones; keys that change from one partition to another; values that are
//! left out because they did not change; truncates in whatever partition; rows that are read again in
//! between; events that are sent again behind newer ones; and whole snapshots that say nothing of what was
//! deleted before them. In whatever order the partitions are read, in the end the replica has the rows of
//! the database.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use tempfile::TempDir;

use super::simulation::{Random, or_say_how, seeds};
use super::support::{Daemon, Delivery, Shared, at, catalog, config, memory_store, sqlite_settings};
use crate::domain::value::Value;
use crate::store::{Reader, RowLookup, SqliteReader, SqliteStore, Store};

const MAPPING: &str = "
kafka: { brokers: 'localhost:9092' }
replica: { name: test, sqlite: { path: /nowhere/replica.db } }
topics: { shop.items: { format: debezium-json } }
tables:
  items: { topic: shop.items, key: id, columns: { id: integer, n: integer, body: text?, note: text } }
";
const KEYS: u64 = 6;
const STEPS: u64 = 40;
/// What was read by an incremental snapshot is carried over when the key changed so much later.
const CLOCKS_MS: i64 = 60_000;
const PLACEHOLDER: &str = "__debezium_unavailable_value";

/// A value that is stored out of line.
#[derive(Debug, Clone)]
struct Large {
    text: Option<String>,
    /// How often the key of its row has changed since it was sent last. Once, it can be carried over; of a
    /// second time the replica may hear before the first, and then does not know it.
    moves: u32,
    /// The key it was sent with. Should another row get that one, the replica may hear of it before what
    /// was there has moved on, and does not know it either: that counts as a second move.
    sent_with: i64,
    /// When an incremental snapshot has read it last, by the connector's clock. If that may have been after
    /// a change of the key, the replica does not carry it over: it may be the value of the row that has got
    /// the key since.
    read_ms: Option<i64>,
}

#[derive(Debug, Clone)]
struct Item {
    n: u64,
    body: Large,
    note: Large,
}

/// One record, without its place.
#[derive(Debug, Clone)]
struct Sent {
    /// `None`: any partition.
    key: Option<i64>,
    value: Option<String>,
    headers: Vec<(String, Vec<u8>)>,
}

/// What a transaction has written.
#[derive(Debug, Clone)]
struct Written {
    lsn: i64,
    op: char,
    key: Option<i64>,
    after: String,
    /// The key that the row gets, for a delete, or had.
    other: Option<i64>,
}

#[derive(Debug, Default)]
struct Transaction {
    written: Vec<Written>,
    commit: i64,
    committed_ms: i64,
}

#[derive(Debug, Default)]
struct Database {
    rows: BTreeMap<i64, Item>,
    lsn: i64,
    /// Committed, and not sent yet.
    pending: VecDeque<Transaction>,
    /// The last commit that was sent since the connector has begun.
    sent_commit: Option<i64>,
    /// Of the last event that was sent.
    position: i64,
    /// Streamed events that the connector may send again.
    streamed: Vec<Sent>,
    values: u64,
    now_ms: i64,
    /// How far the connector's clock is ahead.
    ahead_ms: i64,
}

impl Database {
    fn next_lsn(&mut self, random: &mut Random) -> i64 {
        self.lsn += 1 + random.below(50) as i64;
        self.lsn
    }

    fn large(&mut self) -> Large {
        self.values += 1;
        Large { text: Some(format!("large-{}", self.values)), moves: 0, sent_with: -1, read_ms: None }
    }

    fn item(&mut self, random: &mut Random) -> Item {
        let mut body = self.large();
        if random.below(4) == 0 {
            body.text = None;
        }
        Item { n: random.below(1_000), body, note: self.large() }
    }

    /// One change by a transaction, of one of the keys that it may touch.
    fn write(&mut self, random: &mut Random, keys: &[i64], transaction: &mut Transaction) {
        let key = keys[random.below(keys.len() as u64) as usize];
        let other = keys[random.below(keys.len() as u64) as usize];
        let lsn = self.next_lsn(random);
        let mut push = |op, key, after, other| {
            transaction.written.push(Written { lsn, op, key: Some(key), after, other });
        };
        let Some(mut item) = self.rows.remove(&key) else {
            let item = self.item(random);
            push('c', key, json(key, &item, [true; 2]), None);
            self.rows.insert(key, item);
            return;
        };
        match random.below(10) {
            0..=2 => push('d', key, "null".to_owned(), None),
            3..=5 if other != key && !self.rows.contains_key(&other) => {
                let whole = self.change(random, &mut item);
                for (large, whole) in [&mut item.body, &mut item.note].into_iter().zip(whole) {
                    if whole {
                        large.moves = 0;
                    } else {
                        if large.moves == 0 {
                            large.sent_with = key;
                        }
                        large.moves += 1;
                        if large.read_ms.take().is_some_and(|read_ms| read_ms + CLOCKS_MS > self.now_ms) {
                            large.moves += 1;
                        }
                    }
                }
                for large in self.rows.values_mut().flat_map(|item| [&mut item.body, &mut item.note]) {
                    if large.moves > 0 && large.sent_with == other {
                        large.moves += 1;
                    }
                }
                push('d', key, "null".to_owned(), Some(other));
                push('c', other, json(other, &item, whole), Some(key));
                self.rows.insert(other, item);
            }
            _ => {
                let whole = self.change(random, &mut item);
                push('u', key, json(key, &item, whole), None);
                self.rows.insert(key, item);
            }
        }
    }

    /// Which large values were written.
    fn change(&mut self, random: &mut Random, item: &mut Item) -> [bool; 2] {
        item.n = random.below(1_000);
        let mut whole = [item.body.text.is_none(), false];
        if random.below(3) == 0 {
            (item.body, whole[0]) = (self.large(), true);
        }
        if random.below(5) == 0 {
            (item.body.text, whole[0]) = (None, true);
            item.body.moves = 0;
        }
        if random.below(3) == 0 {
            (item.note, whole[1]) = (self.large(), true);
        }
        whole
    }

    /// One or two transactions at a time, on rows of their own.
    fn transactions(&mut self, random: &mut Random) {
        let keys: Vec<i64> = (0..KEYS as i64).collect();
        let (first, second) = keys.split_at(1 + random.below(KEYS - 1) as usize);
        let mut open = [Transaction::default(), Transaction::default()];
        if random.below(12) == 0 {
            let lsn = self.next_lsn(random);
            self.rows.clear();
            let after = "null".to_owned();
            open[0].written.push(Written { lsn, op: 't', key: None, after, other: None });
            for _ in 0..random.below(4) {
                self.write(random, &keys, &mut open[0]);
            }
        } else {
            for _ in 0..=random.below(5) {
                match random.below(2) {
                    0 => self.write(random, first, &mut open[0]),
                    _ => self.write(random, second, &mut open[1]),
                }
            }
        }
        if random.below(2) == 0 {
            open.reverse();
        }
        for mut transaction in open {
            transaction.commit = self.next_lsn(random);
            transaction.committed_ms = self.now_ms;
            self.pending.push_back(transaction);
        }
    }

    /// What the connector sends of the transactions that it has not sent.
    fn stream(&mut self, count: usize) -> Vec<Sent> {
        let mut sent = Vec::new();
        for _ in 0..count {
            let Some(transaction) = self.pending.pop_front() else { break };
            for written in transaction.written {
                self.position = written.lsn;
                let sequence = self.sequence(written.lsn);
                let times = [transaction.committed_ms, self.now_ms + self.ahead_ms];
                let value = envelope(written.op, &written.after, &sequence, ("false", times));
                let header = match (written.op, written.other) {
                    ('d', Some(other)) => {
                        vec![("__debezium.newkey".to_owned(), key_json(other).into_bytes())]
                    }
                    ('c', Some(other)) => {
                        vec![("__debezium.oldkey".to_owned(), key_json(other).into_bytes())]
                    }
                    _ => Vec::new(),
                };
                let record = |value| Sent { key: written.key, value, headers: header.clone() };
                sent.push(record(Some(value)));
                if written.op == 'd' {
                    sent.push(record(None));
                }
            }
            self.sent_commit = Some(transaction.commit);
        }
        self.streamed.extend(sent.iter().cloned());
        sent
    }

    fn sequence(&self, lsn: i64) -> String {
        match self.sent_commit {
            Some(commit) => format!(r#"[\"{commit}\",\"{lsn}\"]"#),
            None => format!(r#"[null,\"{lsn}\"]"#),
        }
    }

    /// The connector has crashed, and sends what it has sent since its last stored offset.
    fn again(&mut self, random: &mut Random) -> Vec<Sent> {
        let count = self.streamed.len();
        let mut from = (random.below(count as u64 + 1) as usize).max(count.saturating_sub(30));
        // A delete and its tombstone have one offset.
        if self.streamed.get(from).is_some_and(|sent| sent.value.is_none()) {
            from -= 1;
        }
        self.streamed.split_off(from)
    }

    /// Rows are read in between, as they are now, whatever of that was not sent yet: of a key that goes from
    /// one row to another, perhaps the later row before.
    fn incremental(&mut self, random: &mut Random) -> Vec<Sent> {
        let sequence = self.sequence(self.position);
        let written = self.pending.iter().flat_map(|transaction| &transaction.written);
        let left = written.filter(|written| written.op == 'd' && written.other.is_some());
        let left: BTreeSet<i64> = left.filter_map(|written| written.key).collect();
        let now_ms = self.now_ms + self.ahead_ms;
        let mut sent = Vec::new();
        let mut read = BTreeSet::new();
        for (key, item) in &mut self.rows {
            if random.below(3) == 0 {
                continue;
            }
            for large in [&mut item.body, &mut item.note] {
                large.read_ms = Some(now_ms);
                if self.pending.is_empty() {
                    large.moves = 0;
                }
            }
            let after = json(*key, item, [true; 2]);
            let value = Some(envelope('r', &after, &sequence, ("incremental", [now_ms; 2])));
            sent.push(Sent { key: Some(*key), value, headers: Vec::new() });
            read.insert(*key);
        }
        for large in self.rows.values_mut().flat_map(|item| [&mut item.body, &mut item.note]) {
            let key = large.sent_with;
            if large.moves > 0 && left.contains(&key) && read.contains(&key) {
                large.moves += 1;
            }
        }
        sent
    }

    /// The connector has lost its place and reads all rows; perhaps it does not come to the end.
    fn snapshot(&mut self, random: &mut Random, whole: bool) -> Vec<Sent> {
        // What was not sent is in it, or is gone.
        self.pending.clear();
        self.streamed.clear();
        self.sent_commit = None;
        if self.rows.is_empty() {
            // Nothing would be sent, and nobody can know.
            let item = self.item(random);
            self.rows.insert(0, item);
        }
        let lsn = self.next_lsn(random);
        self.position = lsn;
        let count = if whole { self.rows.len() } else { random.below(self.rows.len() as u64) as usize };
        let last = self.rows.len() - 1;
        let mut sent = Vec::new();
        for (nth, (key, item)) in self.rows.iter_mut().enumerate().take(count) {
            let mark = match nth {
                _ if nth == last => ["last_in_data_collection", "last"][random.below(2) as usize],
                0 => ["first", "first_in_data_collection"][random.below(2) as usize],
                _ => "true",
            };
            for large in [&mut item.body, &mut item.note] {
                (large.moves, large.read_ms) = (0, None);
            }
            let after = json(*key, item, [true; 2]);
            let times = [self.now_ms; 2];
            let value = envelope('r', &after, &format!(r#"[null,\"{lsn}\"]"#), (mark, times));
            sent.push(Sent { key: Some(*key), value: Some(value), headers: Vec::new() });
        }
        if !whole {
            sent.extend(self.snapshot(random, true));
        }
        sent
    }
}

fn key_json(key: i64) -> String {
    format!(r#"{{"id":{key}}}"#)
}

fn json(key: i64, item: &Item, whole: [bool; 2]) -> String {
    let large = |large: &Large, whole: bool| match &large.text {
        None => "null".to_owned(),
        Some(text) if whole => format!("{text:?}"),
        Some(_) => format!("{PLACEHOLDER:?}"),
    };
    let (body, note) = (large(&item.body, whole[0]), large(&item.note, whole[1]));
    format!(r#"{{"id":{key},"n":{},"body":{body},"note":{note}}}"#, item.n)
}

fn envelope(op: char, after: &str, sequence: &str, (snapshot, times): (&str, [i64; 2])) -> String {
    let [at_source, at_connector] = times;
    format!(
        r#"{{"before":null,"after":{after},"source":{{"ts_ms":{at_source},"snapshot":"{snapshot}","sequence":"{sequence}"}},"op":"{op}","ts_ms":{at_connector}}}"#
    )
}

struct Run<'o, S> {
    random: Random,
    database: Database,
    shared: Shared,
    partitions: i32,
    open: &'o dyn Fn() -> S,
    daemon: Option<Daemon>,
    history: Vec<String>,
}

impl<S: Store + 'static> Run<'_, S> {
    fn restart(&mut self) {
        if let Some(daemon) = self.daemon.take() {
            daemon.kill();
        }
        self.daemon = Some(Daemon::start(&config(MAPPING), &self.shared, (self.open)()));
        self.observe();
    }

    fn observe(&mut self) {
        let asked = Delivery::Observation(self.shared.world().ask());
        self.deliver(asked);
    }

    fn deliver(&mut self, delivery: Delivery) {
        self.shared.world().deliveries.push_back(delivery);
        if let Some(daemon) = &mut self.daemon {
            daemon.settle(&self.shared).unwrap();
        }
    }

    fn log(&mut self, sent: Vec<Sent>) {
        for Sent { key, value, headers } in sent {
            let partition = match key {
                Some(key) => key as i32 % self.partitions,
                None => self.random.below(self.partitions as u64) as i32,
            };
            let other = headers.iter().map(|(_, key)| String::from_utf8_lossy(key)).collect::<String>();
            let value_text =
                value.as_deref().unwrap_or("tombstone").replace("__debezium_unavailable_value", "~");
            self.history.push(format!("{partition}: {key:?} {other} {value_text}"));
            let mut world = self.shared.world();
            world.append(at(0, partition), &key.map_or_else(String::new, key_json), value.as_deref());
            world.set_headers(at(0, partition), headers);
        }
    }

    fn step(&mut self) {
        self.shared.advance_clock(self.random.below(1_500) as i64);
        let random = &mut self.random;
        self.database.now_ms += random.below(30_000) as i64;
        let sent = match random.below(24) {
            0..=5 => {
                self.database.transactions(random);
                Vec::new()
            }
            6..=11 => {
                let count = 1 + random.below(3) as usize;
                self.database.stream(count)
            }
            12 => self.database.again(random),
            13 => self.database.incremental(random),
            14 if random.below(3) == 0 => {
                let whole = random.below(3) > 0;
                self.database.snapshot(random, whole)
            }
            15 if random.below(2) == 0 => {
                self.history.push("restart".to_owned());
                self.restart();
                return;
            }
            16 | 17 => {
                self.observe();
                return;
            }
            _ => {
                let (partition, count) =
                    (random.below(self.partitions as u64) as i32, 1 + random.below(8) as usize);
                self.history.push(format!("read {count} of {partition}"));
                self.deliver(Delivery::Records(at(0, partition), count));
                return;
            }
        };
        self.log(sent);
    }

    fn finish(&mut self, reader: &dyn Reader) {
        let rest = self.database.stream(usize::MAX);
        self.log(rest);
        // Partitions are read to their ends one by one, and perhaps not in their order.
        let mut partitions: Vec<i32> = (0..self.partitions).collect();
        while !partitions.is_empty() {
            let nth = self.random.below(partitions.len() as u64) as usize;
            self.deliver(Delivery::Records(at(0, partitions.swap_remove(nth)), usize::MAX));
        }
        for _ in 0..4 {
            self.shared.advance_clock(3_000);
            self.observe();
            self.shared.world().deliver_all();
            self.observe();
        }
        let status = reader.status(self.shared.now_ms()).unwrap();
        assert!(status.complete);
        assert_eq!(status.dead_letters, 0);
        assert_eq!(status.lag_records, Some(0));
        self.compare(reader);
    }

    fn compare(&self, reader: &dyn Reader) {
        let mut wrong = BTreeSet::new();
        for key in 0..KEYS as i64 {
            let found = match reader.row(0, &[Value::Integer(key)]).unwrap() {
                RowLookup::Visible { values, .. } => Some(values),
                _ => None,
            };
            let expected = self.database.rows.get(&key);
            let right = match (&found, expected) {
                (None, None) => true,
                (None, Some(item)) => item.note.moves > 1,
                (Some(_), None) => false,
                (Some(found), Some(item)) => {
                    let is = |value: &Value, large: &Large| match (value, &large.text) {
                        (Value::Null, None) => true,
                        (Value::Null, Some(_)) => large.moves > 1,
                        (Value::Text(text), Some(expected)) => text == expected,
                        _ => false,
                    };
                    found[1] == Value::Integer(item.n as i64)
                        && is(&found[2], &item.body)
                        && is(&found[3], &item.note)
                }
            };
            if !right {
                wrong.insert(format!("{key}: {found:?} instead of {expected:?}"));
            }
        }
        assert!(wrong.is_empty(), "{wrong:#?}");
    }
}

fn replicate<S: Store + 'static>(seed: u64, open: &dyn Fn() -> S, reader: &dyn Reader) {
    let shared = Shared::new();
    let mut random = Random(seed);
    let partitions = 1 + random.below(4) as i32;
    (0..partitions).for_each(|partition| shared.world().add_partition(at(0, partition)));
    let ahead_ms = random.below(60_000) as i64 - 30_000;
    let database = Database { now_ms: 1_700_000_000_000, ahead_ms, ..Database::default() };
    let mut run = Run { random, database, shared, partitions, open, daemon: None, history: Vec::new() };
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        for _ in 0..run.random.below(4) {
            run.database.transactions(&mut run.random);
        }
        let first = run.database.snapshot(&mut run.random, true);
        run.log(first);
        run.restart();
        (0..STEPS).for_each(|_| run.step());
        run.finish(reader);
        if let Some(daemon) = run.daemon.take() {
            daemon.kill();
        }
    }));
    or_say_how(outcome, seed, &run.history);
}

#[test]
fn a_replica_ends_with_the_rows_of_the_database() {
    for seed in seeds(400) {
        let store = memory_store(&config(MAPPING));
        let reader = store.reader();
        replicate(seed, &|| store.clone(), &reader);
    }
}

#[test]
fn so_does_one_in_sqlite() {
    for seed in seeds(40) {
        let config = config(MAPPING);
        let catalog = catalog(&config);
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("replica.db");
        let reader = SqliteReader::new(&path, catalog.clone());
        let open = || {
            let settings = sqlite_settings(&config);
            SqliteStore::open(&path, catalog.clone(), settings).expect("a replica")
        };
        replicate(seed, &open, &reader);
    }
}
