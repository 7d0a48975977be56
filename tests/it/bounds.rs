//! Bounds hold: memory while a large backlog is read, and with records of the largest size.

use crate::daemon::{Daemon, header, reader, rows};
use crate::kafka::{self, Message, eventually};

/// The unoptimised build that tests run carries larger tables and stacks; the figure of the release
/// build is measured by `cargo bench --bench first_copy`. What matters here is that memory does not
/// follow the size of the backlog (60 MB of records) or of a record.
const PEAK_MAX_KIB: u64 = 64 * 1024;

#[test]
fn a_backlog_of_many_and_of_large_records_is_read_in_bounded_memory() {
    let Some(broker) = kafka::shared() else { return };
    let dir = tempfile::tempdir().unwrap();
    let topic = kafka::topic_name("large");
    broker.create_topic(&topic, 4, &[("max.message.bytes", "2000000")]);
    let filler = "x".repeat(1_000);
    broker.produce(
        &topic,
        (0..20_000).map(|id| Message::new(id.to_string(), format!(r#"{{"id":{id},"note":"{filler}"}}"#))),
    );
    let large = "y".repeat(1_000_000);
    broker.produce(
        &topic,
        (20_000..20_040).map(|id| Message::new(id.to_string(), format!(r#"{{"id":{id},"note":"{large}"}}"#))),
    );
    let yaml = format!(
        "{}tables:\n  notes:\n    topic: {topic}\n    key: id\n    columns: {{ id: integer, note: text }}\n",
        header(&broker.bootstrap(), dir.path())
    );
    let mut daemon = Daemon::start(dir.path(), &yaml);
    daemon.started();
    let found = rows(&reader(dir.path()), "SELECT count(*), max(length(note)) FROM notes");
    assert_eq!(found, ["20040|1000000"]);
    let peak = daemon.peak_kib();
    assert!(peak < PEAK_MAX_KIB, "peak resident memory was {peak} KiB");
}

/// Of everything that grows with the configuration: 500 partitions, 200 tables. Twice of what was seen
/// (docs/OPERATIONS.md, Memory).
const WIDE_PEAK_MAX_KIB: u64 = 120 * 1024;
const TOPICS: usize = 10;
const PARTITIONS: i32 = 50;
const TABLES: usize = 20;
/// Key and value together: `kafka.max_record_bytes` unless configured.
const LARGEST: usize = 1 << 20;

#[test]
fn a_burst_in_500_partitions_for_200_tables_is_read_in_bounded_memory() {
    let Some(broker) = kafka::shared() else { return };
    let dir = tempfile::tempdir().unwrap();
    let topics: Vec<String> = (0..TOPICS).map(|_| kafka::topic_name("wide")).collect();
    let mut tables = String::new();
    let mut types = String::new();
    for (nth, topic) in topics.iter().enumerate() {
        broker.create_topic(topic, PARTITIONS, &[("max.message.bytes", "2000000")]);
        types.push_str(&format!("  {topic}: {{ format: json, event_type: .type }}\n"));
        for table in 0..TABLES {
            tables.push_str(&format!(
                "  t{nth}_{table}:\n    topic: {topic}\n    key: id\n    columns: {{ id: integer, note: text, more: 'text?' }}\n    \
                 indexes: [[more]]\n    events: {{ T{table}: {{ upsert: {{ id: .id, note: .note, more: .more }} }} }}\n"
            ));
        }
    }
    let message = |id: usize, note: &str| {
        let value = format!(r#"{{"type":"T{}","id":{id},"more":"{}","note":"{note}"}}"#, id % TABLES, id % 7);
        Message::new(id.to_string(), value).to(id as i32 % PARTITIONS)
    };
    let small = "x".repeat(500);
    for topic in &topics {
        broker.produce(topic, (0..100).map(|id| message(id, &small)));
    }
    let yaml = format!("{}topics:\n{types}tables:\n{tables}", header(&broker.bootstrap(), dir.path()));
    let mut daemon = Daemon::start(dir.path(), &yaml);
    daemon.started();
    daemon.terminate();

    // What comes while it is away: many, and some of the largest size that is allowed.
    for topic in &topics {
        broker.produce(topic, (100..2_100).map(|id| message(id, &small)));
        let room = LARGEST - message(2_100, "").size();
        let large = "y".repeat(room);
        broker.produce(topic, (2_100..2_100 + PARTITIONS as usize / 5).map(|id| message(id, &large)));
    }
    let expected = TOPICS * (2_100 + PARTITIONS as usize / 5);
    let mut daemon = Daemon::start(dir.path(), &yaml);
    daemon.started();
    eventually("the burst is applied", || {
        let all =
            rows(&reader(dir.path()), "SELECT sum(rows) FROM _readside_status WHERE table_name IS NOT NULL");
        (all == [expected.to_string()]).then_some(())
    });
    let longest = (0..TABLES).map(|table| {
        rows(&reader(dir.path()), &format!("SELECT max(length(note)) FROM t0_{table}"))[0]
            .parse::<usize>()
            .unwrap()
    });
    assert!(longest.max() > Some(LARGEST - 100), "the largest records are there");
    let peak = daemon.peak_kib();
    for topic in &topics {
        broker.delete_topic(topic);
    }
    eprintln!("peak resident memory: {peak} KiB");
    assert!(peak < WIDE_PEAK_MAX_KIB, "peak resident memory was {peak} KiB");
}
