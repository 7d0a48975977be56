//! A list in an event as the rows of a child table, against a real broker.

use crate::daemon::{reader, rows};
use crate::examples::{dead_letters, example, feed, start};
use crate::kafka::{self, Message};

fn order(kind: &str, sequence: u32, (id, customer): (u32, &str), lines: &str, tags: &str) -> Message {
    Message::without_key(format!(
        r#"{{"type":"{kind}","sequence":{sequence},"at":"2026-03-01T12:00:00Z","order":{{"id":{id},"customer":"{customer}","lines":{lines},"tags":{tags}}}}}"#
    ))
}

#[test]
fn the_rows_of_a_list_are_replaced_in_whatever_order_events_come() {
    let Some(broker) = kafka::shared() else { return };
    let dir = tempfile::tempdir().unwrap();
    let topic = "orders.changes";
    broker.create_topic(topic, 2, &[]);
    let two = r#"[{"no":1,"sku":"a","qty":1},{"no":2,"sku":"b","qty":2}]"#;
    let one = r#"[{"no":2,"sku":"c","qty":3}]"#;
    let cancelled = |sequence: u32, id: u32| {
        Message::without_key(format!(r#"{{"type":"OrderCancelled","sequence":{sequence},"order_id":{id}}}"#))
    };
    broker.produce(
        topic,
        [
            order("OrderPlaced", 1, (1, "ada"), two, r#"["new","gift","new"]"#).to(0),
            // Line 1 is gone.
            order("OrderChanged", 2, (1, "ada"), one, "[]").to(1),
            // The change comes before what it changes.
            order("OrderChanged", 2, (2, "bob"), one, r#"["x"]"#).to(0),
            order("OrderPlaced", 1, (2, "bob"), two, "null").to(1),
            // No lines at all.
            order("OrderPlaced", 1, (3, "cleo"), "[]", "[]").to(0),
            // Cancelled before it was placed.
            cancelled(2, 4).to(0),
            order("OrderPlaced", 1, (4, "dan"), two, r#"["y"]"#).to(1),
            // Placed again behind that.
            cancelled(2, 5).to(0),
            order("OrderPlaced", 3, (5, "eve"), one, r#"["z"]"#).to(1),
            // A line twice, and no list.
            order(
                "OrderPlaced",
                1,
                (6, "fay"),
                r#"[{"no":1,"sku":"a","qty":1},{"no":1,"sku":"b","qty":1}]"#,
                "[]",
            )
            .to(0),
            order("OrderPlaced", 1, (7, "gus"), "null", "[]").to(0),
        ],
    );
    let mut daemon = start(dir.path(), &example("children.yaml"), &broker.bootstrap(), &[]);
    daemon.started();
    let connection = reader(dir.path());
    let orders = "SELECT id, customer FROM orders ORDER BY id";
    let lines = "SELECT order_id, line, sku, quantity, ordered_by FROM order_lines ORDER BY order_id, line";
    let tags = "SELECT order_id, tag FROM order_tags ORDER BY order_id, tag";
    assert_eq!(rows(&connection, orders), ["1|ada", "2|bob", "3|cleo", "5|eve"]);
    assert_eq!(rows(&connection, lines), ["1|2|c|3|ada", "2|2|c|3|bob", "5|2|c|3|eve"]);
    assert_eq!(rows(&connection, tags), ["2|x", "5|z"]);
    // All tables of an event or none.
    assert_eq!(
        dead_letters(dir.path()),
        ["orders.changes|malformed|.order.lines[1]", "orders.changes|missing_value|.order.lines"]
    );
    let more = [
        order("OrderChanged", 3, (2, "bob"), two, r#"["a","b"]"#).to(1),
        cancelled(3, 1).to(0),
        order("OrderChanged", 2, (5, "eve"), two, "[]").to(0),
    ];
    feed(&mut daemon, broker, topic, more);
    assert_eq!(rows(&connection, lines), ["2|1|a|1|bob", "2|2|b|2|bob", "5|2|c|3|eve"]);
    assert_eq!(rows(&connection, tags), ["2|a", "2|b", "5|z"]);
    let replaced =
        format!("readside_events_applied_total{{op=\"replace\",table=\"order_lines\",topic=\"{topic}\"}}");
    assert!(daemon.metric(&replaced) > Some(0.0), "{:?}", daemon.get("/metrics"));
}
