//! Bounds hold: memory while a large backlog is read, and with records of the largest size.

use crate::daemon::{Daemon, header, reader, rows};
use crate::kafka::{self, Message};

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
