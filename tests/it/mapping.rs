//! What a mapping can say, against a real broker: the examples of `config/examples` that are about it.

use crate::daemon::{reader, rows};
use crate::examples::{dead_letters, example, feed, start};
use crate::kafka::{self, Message};

#[test]
fn what_the_log_knows_of_a_record_becomes_columns() {
    let Some(broker) = kafka::shared() else { return };
    let dir = tempfile::tempdir().unwrap();
    for (topic, partitions) in [("parcels.eu", 2), ("parcels.us", 1), ("parcels.audit", 2)] {
        broker.create_topic(topic, partitions, &[]);
    }
    let event = |message: Message, kind: &str, id: &str, sequence: u32| {
        let message = message.header("type", kind.as_bytes()).header("id", id.as_bytes());
        message.header("sequence", sequence.to_string().as_bytes())
    };
    broker.produce(
        "parcels.eu",
        [
            event(Message::new("1", "{}"), "ParcelDelivered", "e2", 2).to(0),
            event(Message::new("1", "{}"), "ParcelSent", "e1", 1).header("trace-id", b"t1").to(1),
            event(Message::new("2", "{}"), "ParcelSent", "e3", 3).to(0),
            // Once more, and a type that the tombstone has.
            event(Message::new("2", "{}"), "ParcelSent", "e3", 9).to(0),
            event(Message::tombstone("2"), "ParcelForgotten", "e4", 4).to(0),
            // Without a version, without a type, with another key than a number.
            Message::new("3", "{}").header("type", b"ParcelSent").header("id", b"e5").to(0),
            Message::new("3", "{}").to(0),
            event(Message::new("three", "{}"), "ParcelSent", "e6", 1).to(0),
        ],
    );
    broker.produce("parcels.us", [event(Message::new("1", "{}"), "ParcelSent", "e1", 1)]);
    broker.produce(
        "parcels.audit",
        [
            Message::without_key(r#"{"what":"a"}"#).to(1),
            Message::without_key(r#"{"what":"b"}"#).to(1),
            Message::without_key(r#"{"what":"c"}"#).to(0),
        ],
    );
    let mut daemon = start(dir.path(), &example("metadata.yaml"), &broker.bootstrap(), &[]);
    daemon.started();
    let connection = reader(dir.path());
    let parcels = "SELECT origin, id, status, trace FROM parcels ORDER BY origin, id";
    let expected = ["parcels.eu|1|delivered|t1", "parcels.us|1|sent|NULL"];
    assert_eq!(rows(&connection, parcels), expected);
    let now = "SELECT count(*) FROM parcels WHERE changed_at > datetime('now', '-1 day')";
    assert_eq!(rows(&connection, now), ["2"]);
    let journal = "SELECT part, nr, what FROM journal ORDER BY part, nr";
    assert_eq!(rows(&connection, journal), ["0|0|c", "1|0|a", "1|1|b"]);
    assert_eq!(
        dead_letters(dir.path()),
        [
            "parcels.eu|version|$headers.sequence",
            "parcels.eu|unknown_type|$headers.type",
            "parcels.eu|wrong_type|$key",
        ]
    );
    let forgotten = event(Message::tombstone("1"), "ParcelForgotten", "e2", 2);
    feed(&mut daemon, broker, "parcels.us", [forgotten]);
    assert_eq!(rows(&connection, parcels), expected[..1]);
}
