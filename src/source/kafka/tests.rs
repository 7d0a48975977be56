//! Against librdkafka's mock cluster, which is what `readside demo` reads: it has no controller,
//! and it can do what a real broker does not do on demand. All else is tested with a real broker.

use std::collections::BTreeMap;

use rdkafka::ClientConfig;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

use super::*;
use crate::source::Observation;
use crate::testing::PATIENCE;

const LIMIT: Duration = PATIENCE;

fn config(brokers: &str) -> Kafka {
    Kafka {
        brokers: brokers.split(',').map(str::to_owned).collect(),
        properties: BTreeMap::new(),
        secrets: BTreeMap::new(),
        max_record_bytes: 1 << 20,
    }
}

fn start(config: &Kafka, topic: &str) -> KafkaSource {
    KafkaSource::start(config, &[topic.to_owned()], Duration::from_millis(50)).expect("a source")
}

fn until<T>(source: &mut KafkaSource, mut wanted: impl FnMut(SourceEvent<'_>) -> Option<T>) -> T {
    let start = Instant::now();
    let mut found = None;
    while found.is_none() {
        assert!(start.elapsed() < LIMIT, "not seen in time");
        source.poll(Duration::from_millis(100), 100, &mut |event| {
            if found.is_none() {
                found = wanted(event);
            }
        });
    }
    found.expect("the loop ends with it")
}

fn observation(event: SourceEvent<'_>) -> Option<Observation> {
    match event {
        SourceEvent::Observation(observation) => Some(observation),
        _ => None,
    }
}

fn produce(brokers: &str, topic: &str, count: usize) {
    let producer: BaseProducer =
        ClientConfig::new().set("bootstrap.servers", brokers).create().expect("a producer");
    for nth in 0..count {
        let (key, value) = (nth.to_string(), "v");
        producer.send(BaseRecord::to(topic).partition(0).key(&key).payload(value)).expect("queued");
    }
    producer.flush(LIMIT).expect("flushed");
}

#[test]
fn the_mock_cluster_is_read_and_observed_although_it_has_no_controller() {
    let cluster = MockCluster::new(3).expect("a cluster");
    cluster.create_topic("t", 2, 3).expect("a topic");
    let brokers = cluster.bootstrap_servers();
    produce(&brokers, "t", 5);
    let mut source = start(&config(&brokers), "t");
    let at = TopicPartition { topic: 0, partition: 0 };
    source.assign(at, &Position::start());
    let mut records = 0;
    let end = until(&mut source, |event| match event {
        SourceEvent::Record(_) => {
            records += 1;
            None
        }
        SourceEvent::EndOfPartition { offset, .. } => Some(offset),
        _ => None,
    });
    assert_eq!((records, end), (5, 5));
    let seen = until(&mut source, observation);
    assert!(!seen.cluster_id.is_empty());
    let partitions = &seen.topics[&0].partitions;
    assert_eq!(partitions.len(), 2);
    assert_eq!((partitions[&0].high_watermark, partitions[&1].high_watermark), (5, 0));
}

#[test]
fn a_leader_that_moves_does_not_stop_observations_or_reading() {
    let cluster = MockCluster::new(2).expect("a cluster");
    cluster.create_topic("t", 1, 2).expect("a topic");
    cluster.partition_leader("t", 0, Some(1)).expect("a leader");
    let brokers = cluster.bootstrap_servers();
    produce(&brokers, "t", 2);
    let mut source = start(&config(&brokers), "t");
    source.assign(TopicPartition { topic: 0, partition: 0 }, &Position::start());
    until(&mut source, observation);
    cluster.partition_leader("t", 0, Some(2)).expect("a leader");
    produce(&brokers, "t", 2);
    until(&mut source, |event| matches!(event, SourceEvent::EndOfPartition { offset: 4, .. }).then_some(()));
    until(&mut source, |event| {
        observation(event).filter(|seen| seen.topics[&0].partitions[&0].high_watermark == 4)
    });
}

#[test]
fn what_librdkafka_refuses_is_said_without_the_value_of_a_secret() {
    let mut config = config("localhost:9092");
    config.properties.insert("no.such.property".into(), "x".into());
    let error = KafkaSource::start(&config, &[], LIMIT).err().expect("refused").to_string();
    assert!(error.contains("no.such.property"), "{error}");
    config.properties.clear();
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("secret");
    std::fs::write(&file, "canary").expect("written");
    config.secrets.insert("security.protocol".into(), file);
    let error = KafkaSource::start(&config, &[], LIMIT).err().expect("refused").to_string();
    assert!(error.contains("security.protocol") && !error.contains("canary"), "{error}");
}

#[test]
fn closing_waits_for_no_broker() {
    let cluster = MockCluster::new(1).expect("a cluster");
    cluster.create_topic("t", 8, 1).expect("a topic");
    // What could be waited for takes longer than the limit, here and where the observer looks for a broker.
    let mut config = config(&cluster.bootstrap_servers());
    config.properties.insert("socket.timeout.ms".into(), "200000".into());
    let mut source = start(&config, "t");
    for partition in 0..8 {
        source.assign(TopicPartition { topic: 0, partition }, &Position::start());
    }
    until(&mut source, observation);
    cluster.broker_down(1).expect("down");
    // Until no observation comes any more: nobody answers.
    let mut quiet_since = Instant::now();
    while quiet_since.elapsed() < Duration::from_secs(1) {
        source.poll(Duration::from_millis(100), 100, &mut |event| {
            if observation(event).is_some() {
                quiet_since = Instant::now();
            }
        });
    }
    // Beside it one that has never found a broker.
    config.brokers = vec!["127.0.0.1:1".into()];
    let lost = start(&config, "t");
    let begun = Instant::now();
    drop((source, lost));
    assert!(begun.elapsed() < LIMIT, "closing took {:?}", begun.elapsed());
}

fn places(topic: &str, offsets: &[i64]) -> Vec<fetch::Place> {
    offsets.iter().map(|&offset| fetch::Place { topic: topic.into(), partition: 0, offset }).collect()
}

fn fetch_keys(brokers: &str, places: &[fetch::Place], bytes: usize) -> Vec<Result<String, &'static str>> {
    fetch_keys_within(LIMIT, brokers, places, bytes)
}

fn fetch_keys_within(
    time: Duration,
    brokers: &str,
    places: &[fetch::Place],
    bytes: usize,
) -> Vec<Result<String, &'static str>> {
    let limits = fetch::Limits { deadline: Instant::now() + time, bytes };
    let fetched = fetch::fetch(&config(brokers), places, limits).expect("a client");
    let shown = fetched.into_iter().map(|fetched| match fetched {
        fetch::Fetched::Record(record) => Ok(String::from_utf8(record.key.expect("a key")).expect("text")),
        fetch::Fetched::Gone(_) => Err("gone"),
        fetch::Fetched::Unreachable(_) => Err("unreachable"),
        fetch::Fetched::NotTried => Err("not tried"),
    });
    shown.collect()
}

#[test]
fn single_records_are_read_from_where_they_lie() {
    let cluster = MockCluster::new(1).expect("a cluster");
    cluster.create_topic("t", 1, 1).expect("a topic");
    let brokers = cluster.bootstrap_servers();
    produce(&brokers, "t", 500);
    let key = |offset: i64| Ok(offset.to_string());
    // Neighbours are read on, others are sought; there is nothing behind the end.
    let found = fetch_keys(&brokers, &places("t", &[3, 4, 40, 300, 499, 500, 9_000]), usize::MAX);
    assert_eq!(found, [key(3), key(4), key(40), key(300), key(499), Err("gone"), Err("gone")]);
    // In any order, and twice.
    assert_eq!(fetch_keys(&brokers, &places("t", &[7, 7, 2]), usize::MAX), [key(7), key(7), key(2)]);
    // The first always fits, and what has no room is not called lost.
    let found = fetch_keys(&brokers, &places("t", &[5, 6, 7]), 1);
    assert_eq!(found, [key(5), Err("not tried"), Err("not tried")]);
    // A record without room in the middle of a run: each has 4 bytes (key and value).
    let found = fetch_keys(&brokers, &places("t", &[105, 106, 107]), 9);
    assert_eq!(found, [key(105), key(106), Err("not tried")]);
    let brief = Duration::from_secs(1);
    let found = fetch_keys_within(brief, &brokers, &places("elsewhere", &[0]), usize::MAX);
    assert_eq!(found, [Err("unreachable")]);
}

#[test]
fn records_that_nobody_hands_out_are_unreachable_in_time() {
    let limits = fetch::Limits { deadline: Instant::now() + Duration::from_millis(300), bytes: 1 };
    let started = Instant::now();
    let fetched = fetch::fetch(&config("127.0.0.1:1"), &places("t", &[0, 1]), limits).expect("a client");
    assert!(fetched.iter().all(|fetched| matches!(fetched, fetch::Fetched::Unreachable(_))), "{fetched:?}");
    assert!(started.elapsed() < LIMIT);
}
