//! The Kafka source against a real broker.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use readside::config::Kafka;
use readside::domain::checkpoint::{Position, TopicPartition};
use readside::source::kafka::{KafkaSource, probe};
use readside::source::{Ends, Observation, Source, SourceEvent};

use crate::kafka::{self, Broker, Message, Transaction, WAIT_MAX};

const INTERVAL: Duration = Duration::from_millis(50);

/// An event that outlives its callback.
#[derive(Debug, Clone, PartialEq)]
enum Seen {
    Record(Received),
    End(TopicPartition, i64),
    Observation(Observation),
    Unreachable(String),
    OutOfRange(TopicPartition, i64, Option<i64>),
    Missing(usize),
    Refused(usize, String),
    Fatal(String),
}

#[derive(Debug, Clone, PartialEq)]
struct Received {
    at: TopicPartition,
    offset: i64,
    leader_epoch: i32,
    timestamp_ms: Option<i64>,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    headers: Vec<(String, Option<Vec<u8>>)>,
}

struct Reader {
    source: KafkaSource,
    /// Not yet looked at.
    seen: Vec<Seen>,
}

impl Reader {
    fn start(brokers: &str, topics: &[&str]) -> Reader {
        let topics: Vec<String> = topics.iter().map(|topic| topic.to_string()).collect();
        let source = KafkaSource::start(&config(brokers), &topics, INTERVAL).expect("a source");
        Reader { source, seen: Vec::new() }
    }

    fn assign(&mut self, partition: i32, next_offset: i64, leader_epoch: i32) {
        let position = Position { next_offset, leader_epoch, ..Position::start() };
        self.source.assign(at(partition), &position);
    }

    /// Reads until an event gives something; what came before it is passed over.
    fn until<T>(&mut self, what: &str, wanted: impl FnMut(&Seen) -> Option<T>) -> T {
        self.collect(what, wanted).1
    }

    /// As [`Reader::until`], with all records that came before it.
    fn collect<T>(&mut self, what: &str, mut wanted: impl FnMut(&Seen) -> Option<T>) -> (Vec<Received>, T) {
        let (start, mut records) = (Instant::now(), Vec::new());
        loop {
            let pending = std::mem::take(&mut self.seen);
            let mut pending = pending.into_iter();
            while let Some(event) = pending.next() {
                if let Some(found) = wanted(&event) {
                    self.seen = pending.collect();
                    return (records, found);
                }
                match event {
                    Seen::Record(record) => records.push(record),
                    Seen::Fatal(reason) => panic!("fatal: {reason}"),
                    _ => {}
                }
            }
            assert!(start.elapsed() < WAIT_MAX, "not seen: {what}; records so far: {}", records.len());
            let seen = &mut self.seen;
            self.source.poll(Duration::from_millis(200), 1000, &mut |event| seen.push(own(event)));
        }
    }

    fn until_end(&mut self, partition: i32) -> (Vec<Received>, i64) {
        self.collect("end of partition", |event| match event {
            Seen::End(end, offset) if *end == at(partition) => Some(*offset),
            _ => None,
        })
    }

    fn observation(&mut self) -> Observation {
        self.until("observation", |event| match event {
            Seen::Observation(observation) => Some(observation.clone()),
            _ => None,
        })
    }
}

fn own(event: SourceEvent<'_>) -> Seen {
    match event {
        SourceEvent::Record(record) => {
            let mut headers = Vec::new();
            if let Some(list) = record.headers.0 {
                list.each(&mut |name, value| headers.push((name.to_owned(), value.map(<[u8]>::to_vec))));
            }
            Seen::Record(Received {
                at: record.at,
                offset: record.offset,
                leader_epoch: record.leader_epoch,
                timestamp_ms: record.timestamp_ms,
                key: record.key.map(<[u8]>::to_vec),
                value: record.value.map(<[u8]>::to_vec),
                headers,
            })
        }
        SourceEvent::EndOfPartition { at, offset } => Seen::End(at, offset),
        SourceEvent::Observation(observation) => Seen::Observation(observation),
        SourceEvent::Unreachable { reason } => Seen::Unreachable(reason),
        SourceEvent::OutOfRange { at, position, diverges } => Seen::OutOfRange(at, position, diverges),
        SourceEvent::TopicRefused { topic, reason } => Seen::Refused(topic, reason),
        SourceEvent::TopicMissing { topic } => Seen::Missing(topic),
        SourceEvent::Fatal { reason } => Seen::Fatal(reason),
    }
}

fn config(brokers: &str) -> Kafka {
    Kafka {
        brokers: vec![brokers.to_owned()],
        properties: BTreeMap::new(),
        secrets: BTreeMap::new(),
        max_record_bytes: 1 << 20,
    }
}

fn at(partition: i32) -> TopicPartition {
    TopicPartition { topic: 0, partition }
}

fn ends(observation: &Observation, partition: i32) -> Ends {
    observation.topics[&0].partitions[&partition]
}

fn offsets(records: &[Received]) -> Vec<i64> {
    records.iter().map(|record| record.offset).collect()
}

fn numbered(count: usize) -> impl Iterator<Item = Message> {
    (0..count).map(|nth| Message::new(format!("k{nth}"), format!("v{nth}")).to(0))
}

fn topic(broker: &Broker, about: &str, partitions: i32, configs: &[(&str, &str)]) -> String {
    let topic = kafka::topic_name(about);
    broker.create_topic(&topic, partitions, configs);
    topic
}

#[test]
fn a_record_comes_with_all_its_parts() {
    let Some(broker) = kafka::shared() else { return };
    let topic = topic(broker, "parts", 1, &[]);
    broker.produce(
        &topic,
        [
            Message::new("k", "v").at(1_700_000_000_123).header("a", b"1").header("a", b"\xFF").to(0),
            Message::tombstone("k").at(5).to(0),
            Message::new("", "").at(6).to(0),
            Message::without_key("v").at(7).to(0),
        ],
    );
    let mut reader = Reader::start(&broker.bootstrap(), &[&topic]);
    reader.assign(0, 0, -1);
    let (records, end) = reader.until_end(0);
    assert_eq!((end, offsets(&records)), (4, vec![0, 1, 2, 3]));
    let first = Received {
        at: at(0),
        offset: 0,
        leader_epoch: 0,
        timestamp_ms: Some(1_700_000_000_123),
        key: Some(b"k".to_vec()),
        value: Some(b"v".to_vec()),
        headers: vec![("a".into(), Some(b"1".to_vec())), ("a".into(), Some(b"\xFF".to_vec()))],
    };
    assert_eq!(records[0], first);
    let parts = |nth: usize| (records[nth].key.as_deref(), records[nth].value.as_deref());
    assert_eq!(parts(1), (Some(&b"k"[..]), None), "a tombstone");
    assert_eq!(parts(2), (Some(&b""[..]), Some(&b""[..])), "empty is not absent");
    assert_eq!(parts(3), (None, Some(&b"v"[..])));
}

#[test]
fn reading_goes_on_exactly_at_the_position() {
    let Some(broker) = kafka::shared() else { return };
    let topic = topic(broker, "position", 1, &[]);
    broker.produce(&topic, numbered(10));
    for epoch in [-1, 0] {
        let mut reader = Reader::start(&broker.bootstrap(), &[&topic]);
        reader.assign(0, 7, epoch);
        assert_eq!(offsets(&reader.until_end(0).0), [7, 8, 9]);
        reader.assign(0, 9, epoch);
        assert_eq!(offsets(&reader.until_end(0).0), [9], "assigned again");
    }
}

#[test]
fn the_end_is_reached_behind_aborted_records_and_control_records() {
    let Some(broker) = kafka::shared() else { return };
    let topic = topic(broker, "aborted", 1, &[]);
    let committed = Transaction::begin(broker, &kafka::topic_name("transaction"));
    committed.produce(&topic, numbered(3));
    committed.commit();
    let aborted = Transaction::begin(broker, &kafka::topic_name("transaction"));
    aborted.produce(&topic, numbered(5));
    aborted.abort();
    kafka::eventually("both markers are written", || (broker.end_offset(&topic, 0) == 10).then_some(()));
    let mut reader = Reader::start(&broker.bootstrap(), &[&topic]);
    reader.assign(0, 0, -1);
    let (records, end) = reader.until_end(0);
    assert_eq!((offsets(&records), end), (vec![0, 1, 2], 10));
    // What is stored after the end reads on from the end.
    reader.assign(0, 10, 0);
    assert_eq!(reader.until_end(0), (vec![], 10));
}

#[test]
fn an_open_transaction_holds_the_end_but_not_the_high_watermark() {
    let Some(broker) = kafka::shared() else { return };
    let topic = topic(broker, "open", 1, &[]);
    broker.produce(&topic, numbered(2));
    let open = Transaction::begin(broker, &kafka::topic_name("transaction"));
    open.produce(&topic, numbered(3));
    let mut reader = Reader::start(&broker.bootstrap(), &[&topic]);
    reader.assign(0, 0, -1);
    let (records, end) = reader.until_end(0);
    assert_eq!((records.len(), end), (2, 2));
    let seen = ends(&reader.observation(), 0);
    assert_eq!((seen.high_watermark, seen.last_stable), (5, Some(2)));
    reader.source.want_details(false);
    let seen = reader.until("a round without details", |event| match event {
        Seen::Observation(observation) => {
            Some(ends(observation, 0)).filter(|ends| ends.last_stable.is_none())
        }
        _ => None,
    });
    assert_eq!(seen, Ends { log_start: None, high_watermark: 5, last_stable: None, leader_epoch: 0 });
    open.commit();
    let (records, ()) = reader.collect("the end behind the marker", |event| match event {
        Seen::End(end, 6) if *end == at(0) => Some(()),
        _ => None,
    });
    assert_eq!(offsets(&records), [2, 3, 4]);
}

#[test]
fn empty_and_compacted_partitions_reach_their_end() {
    let Some(broker) = kafka::shared() else { return };
    let eager = [
        ("cleanup.policy", "compact"),
        ("segment.ms", "100"),
        ("min.cleanable.dirty.ratio", "0.01"),
        ("delete.retention.ms", "0"),
    ];
    let topic = topic(broker, "compacted", 2, &eager);
    broker.produce(&topic, (0..50).map(|nth| Message::new("same", nth.to_string()).to(0)));
    let records = kafka::eventually("the log is compacted", || {
        // A new segment lets the old one be cleaned.
        broker.produce(&topic, [Message::new("same", "last").to(0)]);
        let mut reader = Reader::start(&broker.bootstrap(), &[&topic]);
        reader.assign(0, 0, -1);
        reader.assign(1, 0, -1);
        let (records, end) = reader.until_end(0);
        assert_eq!(records.last().map(|record| record.offset), Some(end - 1));
        (records.len() < 10).then_some(records)
    });
    assert!(records[0].offset > 0, "the first offsets are gone, and no gap was reported");
    let mut reader = Reader::start(&broker.bootstrap(), &[&topic]);
    reader.assign(1, 0, -1);
    assert_eq!(reader.until_end(1), (vec![], 0));
}

#[test]
fn an_observation_says_what_is_there_and_goes_on_while_nothing_happens() {
    let Some(broker) = kafka::shared() else { return };
    let topic = topic(broker, "observed", 2, &[]);
    broker.produce(&topic, numbered(4));
    broker.delete_records(&topic, 0, 1);
    let before = readside_now_ms();
    let mut reader = Reader::start(&broker.bootstrap(), &[&topic]);
    let first = reader.observation();
    assert!(first.asked_ms >= before && first.asked_ms <= readside_now_ms());
    assert!(!first.cluster_id.is_empty());
    assert_eq!(first.topics[&0].id.len(), 22, "a topic id in base64");
    assert_eq!(
        ends(&first, 0),
        Ends { log_start: Some(1), high_watermark: 4, last_stable: Some(4), leader_epoch: 0 }
    );
    assert_eq!(
        ends(&first, 1),
        Ends { log_start: Some(0), high_watermark: 0, last_stable: Some(0), leader_epoch: 0 }
    );
    reader.source.want_details(false);
    let second = reader.until("a round without details", |event| match event {
        Seen::Observation(observation) => {
            ends(observation, 0).log_start.is_none().then(|| observation.clone())
        }
        _ => None,
    });
    assert!(second.asked_ms > first.asked_ms);
    assert_eq!(
        ends(&second, 0),
        Ends { log_start: None, high_watermark: 4, last_stable: None, leader_epoch: 0 }
    );
    assert_eq!(second.topics[&0].id, first.topics[&0].id);
}

#[test]
fn added_partitions_are_in_the_next_observation_and_can_be_read_at_once() {
    let Some(broker) = kafka::shared() else { return };
    let topic = topic(broker, "grown", 1, &[]);
    let mut reader = Reader::start(&broker.bootstrap(), &[&topic]);
    reader.source.want_details(false);
    reader.assign(0, 0, -1);
    reader.until_end(0);
    broker.add_partitions(&topic, 3);
    broker.produce(&topic, [Message::new("a", "1").to(2)]);
    let grown = reader.until("three partitions", |event| match event {
        Seen::Observation(observation) => {
            // It is left out of a round in which its leaders are not known yet.
            let topic = observation.topics.get(&0)?;
            (topic.partitions.len() == 3).then(|| observation.clone())
        }
        _ => None,
    });
    assert_eq!(ends(&grown, 2).log_start, Some(0), "a new partition's beginning is asked for");
    let start = Instant::now();
    reader.assign(2, 0, -1);
    let (records, end) = reader.until_end(2);
    assert_eq!((records.len(), end), (1, 1));
    assert!(start.elapsed() < Duration::from_secs(60), "it took {:?}", start.elapsed());
}

#[test]
fn a_position_that_retention_has_passed_is_out_of_range_and_only_that_partition_stops() {
    let Some(broker) = kafka::shared() else { return };
    let topic = topic(broker, "retention", 2, &[]);
    broker.produce(&topic, numbered(10));
    broker.produce(&topic, (0..3).map(|_| Message::new("a", "1").to(1)));
    broker.delete_records(&topic, 0, 6);
    let mut reader = Reader::start(&broker.bootstrap(), &[&topic]);
    reader.assign(0, 3, -1);
    reader.assign(1, 0, -1);
    let (mut end, mut gap) = (None, None);
    reader.until("a gap in one, the end of the other", |event| {
        match event {
            Seen::End(partition, offset) => end = Some((*partition, *offset)),
            Seen::OutOfRange(partition, position, None) => gap = Some((*partition, *position)),
            _ => {}
        }
        end.zip(gap)
    });
    assert_eq!((end, gap), (Some((at(1), 3)), Some((at(0), 3))));
    reader.assign(0, 6, -1);
    assert_eq!(offsets(&reader.until_end(0).0), [6, 7, 8, 9]);
    // Behind the end is as wrong as before the beginning.
    reader.assign(0, 11, -1);
    let position = reader.until("a gap at the end", |event| match event {
        Seen::OutOfRange(_, position, _) => Some(*position),
        _ => None,
    });
    assert_eq!(position, 11);
}

#[test]
fn a_recreated_topic_has_another_id() {
    let Some(broker) = kafka::shared() else { return };
    let name = topic(broker, "recreated", 1, &[]);
    let mut reader = Reader::start(&broker.bootstrap(), &[&name]);
    let before = reader.observation().topics[&0].id.clone();
    broker.delete_topic(&name);
    reader.until("the topic is gone", |event| match event {
        Seen::Observation(observation) => observation.topics.is_empty().then_some(()),
        _ => None,
    });
    broker.create_topic(&name, 1, &[]);
    let after = reader.until("the topic is back", |event| match event {
        Seen::Observation(observation) => observation.topics.get(&0).map(|topic| topic.id.clone()),
        _ => None,
    });
    assert_ne!(after, before);
}

#[test]
fn a_missing_topic_is_named_and_found_when_it_is_created() {
    let Some(broker) = kafka::shared() else { return };
    let there = topic(broker, "there", 1, &[]);
    let missing = kafka::topic_name("missing");
    let mut reader = Reader::start(&broker.bootstrap(), &[&missing, &there]);
    let named = reader.until("the missing topic is named", |event| match event {
        Seen::Missing(topic) => Some(*topic),
        _ => None,
    });
    assert_eq!(named, 0);
    assert_eq!(reader.observation().topics.keys().copied().collect::<Vec<_>>(), [1]);
    broker.create_topic(&missing, 1, &[]);
    reader.until("both topics", |event| match event {
        Seen::Observation(observation) => (observation.topics.len() == 2).then_some(()),
        _ => None,
    });
    reader.assign(0, 0, -1);
    assert_eq!(reader.until_end(0), (vec![], 0));
}

#[test]
fn a_record_larger_than_a_fetch_is_handed_over() {
    let Some(broker) = kafka::shared() else { return };
    let topic = topic(broker, "large", 1, &[("max.message.bytes", "10000000")]);
    let large = vec![b'x'; 3 << 20];
    broker.produce(&topic, [Message::new("a", "1"), Message::new("b", &large), Message::new("c", "3")]);
    let mut reader = Reader::start(&broker.bootstrap(), &[&topic]);
    reader.assign(0, 0, -1);
    let (records, end) = reader.until_end(0);
    let sizes: Vec<_> = records.iter().map(|record| record.value.as_ref().map_or(0, Vec::len)).collect();
    assert_eq!((sizes, end), (vec![1, 3 << 20, 1], 3));
}

#[test]
fn a_batch_that_was_damaged_on_disk_is_not_skipped() {
    let Some(broker) = kafka::shared() else { return };
    let topic = topic(broker, "damaged", 1, &[]);
    broker.produce(&topic, [Message::new("a", "1")]);
    broker.produce(&topic, [Message::new("b", "2")]);
    broker.produce(&topic, [Message::new("c", "3")]);
    let segment = broker.log_dir().join(format!("{topic}-0/00000000000000000000.log"));
    let whole = std::fs::metadata(&segment).expect("the segment").len();
    // Three batches of the same size; the value is the last byte but one.
    let place = whole / 3 * 2 - 2;
    write_byte(&segment, place, b'X');
    let mut reader = Reader::start(&broker.bootstrap(), &[&topic]);
    reader.assign(0, 0, -1);
    let (records, reason) = reader.collect("the damage is told", |event| match event {
        Seen::Unreachable(reason) if reason.contains("CRC") => Some(reason.clone()),
        _ => None,
    });
    assert_eq!(offsets(&records), [0]);
    assert!(reason.contains(&topic), "{reason}");
    write_byte(&segment, place, b'2');
    let (records, end) = reader.until_end(0);
    assert_eq!((offsets(&records), end), (vec![1, 2], 3));
}

fn write_byte(path: &std::path::Path, place: u64, byte: u8) {
    use std::os::unix::fs::FileExt;
    let file = std::fs::OpenOptions::new().write(true).open(path).expect("the segment");
    file.write_all_at(&[byte], place).expect("written");
}

#[test]
fn a_broker_that_goes_away_and_comes_back_is_told_and_reading_goes_on() {
    let Some(broker) = kafka::private("outage") else { return };
    let topic = topic(&broker, "outage", 1, &[]);
    broker.produce(&topic, numbered(2));
    let mut reader = Reader::start(&broker.bootstrap(), &[&topic]);
    reader.source.want_details(false);
    reader.assign(0, 0, -1);
    reader.until_end(0);
    reader.observation();
    broker.kill();
    let unreachable = |event: &Seen| match event {
        Seen::Unreachable(reason) => Some(reason.clone()),
        _ => None,
    };
    let reason = reader.until("unreachable", unreachable);
    assert!(!reason.is_empty());
    broker.restart();
    broker.produce(&topic, numbered(2));
    // Asked again after a failure, and only then.
    let (mut log_start, mut end) = (None, None);
    let (records, log_start) = reader.collect("the end, and where the log begins", |event| {
        match event {
            // The topic is left out of a round in which its leader is not known yet.
            Seen::Observation(seen) if log_start.is_none() => {
                log_start = seen.topics.get(&0).and_then(|topic| topic.partitions.get(&0)?.log_start);
            }
            Seen::End(_, 4) => end = Some(()),
            _ => {}
        }
        end.and(log_start)
    });
    assert_eq!((offsets(&records), log_start), (vec![2, 3], 0));

    broker.freeze();
    reader.until("unreachable again", unreachable);
    broker.thaw();
    reader.observation();
    broker.freeze();
    reader.until("unreachable for the third time", unreachable);
    let start = Instant::now();
    drop(reader);
    assert!(start.elapsed() < Duration::from_secs(4), "closing took {:?}", start.elapsed());
}

#[test]
fn brokers_that_never_answer_are_told_and_closing_is_quick() {
    // A port that nobody listens on.
    let mut reader = Reader::start("127.0.0.1:1", &["nothing"]);
    reader.assign(0, 5, 2);
    reader.until("the connection is refused", |event| match event {
        Seen::Unreachable(reason) => reason.contains("refused").then_some(()),
        _ => None,
    });
    let start = Instant::now();
    drop(reader);
    assert!(start.elapsed() < Duration::from_secs(4), "closing took {:?}", start.elapsed());
}

#[test]
fn a_log_that_was_truncated_and_grew_again_is_a_gap() {
    let Some(broker) = kafka::private("truncated") else { return };
    let topic = topic(&broker, "truncated", 1, &[]);
    broker.produce(&topic, numbered(10));
    let mut reader = Reader::start(&broker.bootstrap(), &[&topic]);
    reader.assign(0, 0, -1);
    let (records, _) = reader.until_end(0);
    let epoch = records[9].leader_epoch;
    drop(reader);
    // The disk loses the log: what an unclean election leaves behind.
    broker.stop();
    let dir = broker.log_dir().join(format!("{topic}-0"));
    for entry in std::fs::read_dir(&dir).expect("the partition's directory") {
        let path = entry.expect("a file").path();
        if path.file_name().is_some_and(|name| name != "partition.metadata") {
            std::fs::remove_file(path).expect("removed");
        }
    }
    broker.restart();
    broker.produce(&topic, numbered(20));
    let mut reader = Reader::start(&broker.bootstrap(), &[&topic]);
    reader.assign(0, 10, epoch);
    let (records, found) = reader.collect("a gap", |event| match event {
        Seen::OutOfRange(_, position, diverges) => Some((*position, *diverges)),
        _ => None,
    });
    // The log has none of the epochs that were read.
    assert_eq!((records, found), (vec![], (10, Some(0))));
    // From the beginning it can be read.
    reader.assign(0, 0, -1);
    let (records, end) = reader.until_end(0);
    assert_eq!((records.len(), end), (20, 20));
    assert!(records[0].leader_epoch > epoch);
}

#[test]
fn a_probe_tells_each_topic_by_itself() {
    let Some(broker) = kafka::shared() else { return };
    let week = [("cleanup.policy", "delete"), ("retention.ms", "604800000")];
    let pruned = topic(broker, "pruned", 3, &week);
    broker.produce(&pruned, numbered(5));
    let compacted = topic(broker, "kept", 1, &[("cleanup.policy", "compact")]);
    let missing = kafka::topic_name("missing");
    let topics = [pruned, missing, compacted];
    let found = probe(&config(&broker.bootstrap()), &topics, Duration::from_secs(60)).expect("a probe");
    assert!(found.cluster.is_ok_and(|cluster| !cluster.is_empty()));
    let [pruned, missing, compacted] = found.topics.as_slice() else { panic!("three topics") };
    let pruned = pruned.as_ref().expect("there and readable");
    let deletes_after = pruned.cleanup.as_ref().and_then(|cleanup| cleanup.deletes_after);
    assert_eq!((pruned.partitions, deletes_after), (3, Some(Duration::from_secs(604_800))));
    assert_eq!(missing.as_ref().err().map(String::as_str), Some("it does not exist"));
    let cleanup = compacted.as_ref().expect("there and readable").cleanup.as_ref().expect("visible");
    assert!(cleanup.compacts && cleanup.deletes_after.is_none());
}

#[test]
fn a_probe_ends_in_time_when_nobody_answers() {
    // Accepts connections and says nothing.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = silent.local_addr().expect("its address").to_string();
    let start = Instant::now();
    let found = probe(&config(&address), &["t".into()], Duration::from_secs(2)).expect("a probe");
    assert!(found.cluster.is_err() && found.topics.is_empty());
    assert!(start.elapsed() < Duration::from_secs(60), "it took {:?}", start.elapsed());
}

fn secured(broker: &Broker, user: &str, password: &std::path::Path) -> Kafka {
    let mut config = config(&broker.sasl_bootstrap());
    for (name, value) in
        [("security.protocol", "SASL_PLAINTEXT"), ("sasl.mechanism", "PLAIN"), ("sasl.username", user)]
    {
        config.properties.insert(name.into(), value.into());
    }
    config.secrets.insert("sasl.password".into(), password.to_path_buf());
    config
}

#[test]
fn a_refused_password_is_told_and_read_again_when_its_file_changes() {
    let Some(broker) = kafka::shared() else { return };
    let topic = topic(broker, "secured", 1, &[]);
    broker.produce(&topic, numbered(2));
    let dir = tempfile::tempdir().expect("a directory");
    let password = dir.path().join("password");
    std::fs::write(&password, "wrong-canary\n").expect("written");
    let config = secured(broker, kafka::USER, &password);
    let source = KafkaSource::start(&config, &[topic], INTERVAL).expect("a source");
    let mut reader = Reader { source, seen: Vec::new() };
    reader.assign(0, 0, -1);
    reader.until("the password is refused", |event| match event {
        Seen::Unreachable(reason) => {
            assert!(!reason.contains("canary"), "{reason}");
            reason.to_lowercase().contains("authentication failed").then_some(())
        }
        _ => None,
    });
    std::fs::write(&password, format!("{}\n", kafka::PASSWORD)).expect("written");
    assert_eq!(offsets(&reader.until_end(0).0), [0, 1]);
    reader.observation();
}

#[test]
fn a_user_who_may_not_read_a_topic_is_told_which() {
    let Some(broker) = kafka::shared() else { return };
    let topic = topic(broker, "forbidden", 1, &[]);
    let dir = tempfile::tempdir().expect("a directory");
    let password = dir.path().join("password");
    std::fs::write(&password, kafka::PASSWORD).expect("written");
    let config = secured(broker, kafka::STRANGER, &password);
    let source = KafkaSource::start(&config, std::slice::from_ref(&topic), INTERVAL).expect("a source");
    let mut reader = Reader { source, seen: Vec::new() };
    let reason = reader.until("forbidden", |event| match event {
        Seen::Refused(0, reason) => Some(reason.clone()),
        _ => None,
    });
    assert!(reason.contains(&topic) && reason.contains("not authorized"), "{reason}");
    drop(reader);
    let found = probe(&config, std::slice::from_ref(&topic), Duration::from_secs(60)).expect("a probe");
    let refused = found.topics.first().and_then(|topic| topic.as_ref().err());
    assert!(refused.is_some_and(|reason| reason.contains("not authorized")), "{found:?}");
}

fn readside_now_ms() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    i64::try_from(since.as_millis()).expect("before the year 292 million")
}

#[test]
fn partitions_advance_together_also_while_there_is_more_than_is_taken() {
    let Some(broker) = kafka::shared() else { return };
    let topic = topic(broker, "fair", 4, &[]);
    const EACH: i64 = 30_000;
    let value = "x".repeat(200);
    for partition in 0..4 {
        broker.produce(&topic, (0..EACH).map(|_| Message::without_key(&value).to(partition)));
    }
    let mut reader = Reader::start(&broker.bootstrap(), &[&topic]);
    for partition in 0..4 {
        reader.assign(partition, 0, -1);
    }
    let (mut taken, start) = ([0_i64; 4], Instant::now());
    while taken.iter().all(|&taken| taken < EACH / 2) {
        assert!(start.elapsed() < WAIT_MAX, "only {taken:?}");
        // As somebody takes them who is slower than the broker: nothing is waited for here.
        std::thread::sleep(Duration::from_millis(2));
        reader.source.poll(Duration::from_millis(1), 100, &mut |event| {
            if let SourceEvent::Record(record) = event {
                taken[record.at.partition as usize] += 1;
            }
        });
    }
    assert!(taken.iter().all(|&taken| taken > EACH / 5), "{taken:?}");
}

#[test]
fn a_partition_that_is_behind_does_not_wait_for_those_at_their_end() {
    let Some(broker) = kafka::shared() else { return };
    let topic = topic(broker, "skewed", 4, &[]);
    const COUNT: usize = 60_000;
    let value = "x".repeat(200);
    for start in (0..COUNT).step_by(20_000) {
        broker.produce(
            &topic,
            (start..start + 20_000).map(|nth| Message::new(nth.to_string(), value.as_str()).to(0)),
        );
    }
    // Only once an hour: an observation ends a wait, too.
    let hourly = Duration::from_secs(3_600);
    let mut source = KafkaSource::start(&config(&broker.bootstrap()), &[topic], hourly).expect("a source");
    (0..4).for_each(|partition| source.assign(at(partition), &Position::start()));
    let (begin, mut records, mut dry) = (Instant::now(), 0, 0);
    while records < COUNT {
        assert!(begin.elapsed() < WAIT_MAX, "{records} records");
        // Half of what a broker waits that has nothing to give.
        let handed = source.poll(Duration::from_millis(125), 1_000, &mut |event| {
            records += usize::from(matches!(event, SourceEvent::Record(_)));
        });
        // Before the first record it waits for connections.
        dry += usize::from(handed == 0 && records > 0);
    }
    // Three or four for each of about fifty queues full of records if the fetches of the other partitions
    // held it up; forty are five seconds in which the machine did something else.
    assert!(dry <= 40, "{dry} times there was nothing to read");
}
