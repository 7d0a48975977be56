//! Whether the cost of an event stays what it is as the work grows.

use std::time::{Duration, Instant};

use super::daemon::{Daemon, header};
use super::report::Report;
use super::{Bench, Events, Keys, Shape, kafka, number, used};

/// One point: how much is read, and into what.
#[derive(Clone, Copy)]
struct Point {
    rows: usize,
    partitions: i32,
    tables: usize,
    bytes: usize,
    indexes: usize,
}

pub(super) fn run(bench: &Bench<'_>, report: &mut Report) {
    report.note(
        "| rows | partitions | tables | bytes an event | indexes | rows/s | MB/s | CPU µs a row | peak MB |\n| --- | --- \
         | --- | --- | --- | --- | --- | --- | --- |"
            .to_owned(),
    );
    let usual = Point { rows: 500_000, partitions: 4, tables: 1, bytes: 200, indexes: 0 };
    let largest = number("READSIDE_BENCH_ROWS_MAX", 10_000_000);
    let rows = [100_000, 1_000_000, 10_000_000].into_iter().filter(|rows| *rows <= largest);
    let mut points: Vec<Point> = rows.map(|rows| Point { rows, ..usual }).collect();
    points.extend([1, 4, 16, 64].map(|partitions| Point { partitions, ..usual }));
    points.extend([10, 50].map(|tables| Point { tables, ..usual }));
    let bytes = [(100_000, 2_000), (20_000, 20_000), (4_000, 100_000)];
    points.extend(bytes.map(|(rows, bytes)| Point { rows, bytes, ..usual }));
    points.extend([1, 2, 3].map(|indexes| Point { indexes, ..usual }));
    for point in points {
        measure(bench, report, point);
    }
}

fn measure(bench: &Bench<'_>, report: &mut Report, point: Point) {
    let Point { rows, partitions, tables, bytes, indexes } = point;
    println!(
        "scale: {rows} rows, {partitions} partitions, {tables} tables, {bytes} bytes, {indexes} indexes"
    );
    let of_each = rows / tables;
    let topics: Vec<String> = (0..tables)
        .map(|_| {
            let topic = kafka::topic_name("scale");
            bench.broker.create_topic(&topic, partitions, &[]);
            let events = Events { count: of_each, rows: of_each, keys: Keys::Integer, shape: Shape::Flat };
            events.produce_padded(&bench.brokers, &topic, bytes);
            topic
        })
        .collect();
    let directory = tempfile::tempdir().expect("a directory");
    let mut yaml = header(&bench.brokers, directory.path()) + "tables:\n";
    for (nth, topic) in topics.iter().enumerate() {
        let all = ["[email]", "[city]", "[tenant, name]"][..indexes].join(", ");
        yaml += &format!(
            "  t{nth}: {{ topic: {topic}, key: id, columns: {{ id: integer, {}, more: 'text?' }}, indexes: [{all}] }}\n",
            super::COLUMNS
        );
    }
    let begin = Instant::now();
    let mut daemon = Daemon::start(directory.path(), &yaml);
    daemon.started_within(Duration::from_secs(600));
    let seconds = begin.elapsed().as_secs_f64();
    let rate = rows as f64 / seconds;
    report.note(format!(
        "| {rows} | {partitions} | {tables} | {bytes} | {indexes} | {rate:.0} | {:.0} | {:.2} | {:.1} |",
        rate * bytes as f64 / 1e6,
        used(&daemon).0 / rows as f64 * 1e6,
        daemon.peak_kib() as f64 / 1024.0
    ));
    report.figure(&format!("rows/s, {rows} rows, {partitions} p, {tables} t, {bytes} B, {indexes} i"), rate);
    assert!(daemon.terminate().0.success());
    for topic in &topics {
        bench.broker.delete_topic(topic);
    }
}
