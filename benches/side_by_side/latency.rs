//! From the moment an event is sent until a reader sees it, at a steady rate.

use std::io::BufRead as _;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rdkafka::ClientConfig;
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

use super::daemon::{Daemon, header, reader};
use super::peers::GlobalTable;
use super::report::{Report, percentile};
use super::{Bench, PARTITIONS, kafka};

const SECONDS: usize = 15;
/// How often a reader looks.
const LOOKS: Duration = Duration::from_micros(200);

pub(super) fn run(bench: &Bench<'_>, report: &mut Report) {
    report.note(
        "| event to visible | events/s | p50 ms | p99 ms | max ms |\n| --- | --- | --- | --- | --- |"
            .to_owned(),
    );
    for rate in [200, 2_000, 20_000] {
        println!("latency: {rate} events/s");
        line(report, "readside → SQLite", rate, of_readside(bench, rate));
        if rate == 2_000
            && let Some(jars) = GlobalTable::jars()
        {
            let topic = topic(bench);
            let state = tempfile::tempdir().expect("a directory");
            let count = rate * SECONDS;
            let (mut table, _) = GlobalTable::start(&jars, &bench.brokers, &topic, state.path(), Some(count));
            let brokers = bench.brokers.clone();
            let producer = std::thread::spawn(move || produce(&brokers, &topic, rate));
            let mut seen = Vec::with_capacity(count);
            for _ in 0..count {
                let mut text = String::new();
                table.output.read_line(&mut text).expect("a line");
                seen.push(text.trim().parse().expect("microseconds"));
            }
            producer.join().expect("all was sent");
            table.finish();
            line(report, "GlobalKTable", rate, seen);
        }
    }
}

fn line(report: &mut Report, who: &str, rate: usize, mut micros: Vec<i64>) {
    micros.sort_unstable();
    let ms = |share: f64| percentile(&micros, share) as f64 / 1e3;
    report.note(format!("| {who} | {rate} | {:.1} | {:.1} | {:.1} |", ms(0.5), ms(0.99), ms(1.0)));
    report.figure(&format!("event to visible p99 ms, {who}, {rate}/s"), ms(0.99));
}

fn topic(bench: &Bench<'_>) -> String {
    let topic = kafka::topic_name("latency");
    bench.broker.create_topic(&topic, PARTITIONS, &[]);
    topic
}

fn of_readside(bench: &Bench<'_>, rate: usize) -> Vec<i64> {
    let topic = topic(bench);
    let directory = tempfile::tempdir().expect("a directory");
    let yaml = format!(
        "{}topics: {{ {topic}: {{ format: raw }} }}\ntables:\n  events:\n    topic: {topic}\n    key: id\n    columns: {{ id: {{ \
         type: integer, from: $key }}, sent: {{ type: text, from: . }} }}\n",
        header(&bench.brokers, directory.path())
    );
    let mut daemon = Daemon::start(directory.path(), &yaml);
    daemon.started();
    let brokers = bench.brokers.clone();
    let producer = std::thread::spawn(move || produce(&brokers, &topic, rate));
    let db = reader(directory.path());
    let mut find = db.prepare("SELECT sent FROM events WHERE id = ?1").expect("a table");
    let mut seen = Vec::new();
    for next in 0..(rate * SECONDS) as i64 {
        let sent: i64 = loop {
            match find.query_row([next], |row| row.get::<_, String>(0)) {
                Ok(text) => break text.split(',').next().and_then(|sent| sent.parse().ok()).expect("a time"),
                Err(rusqlite::Error::QueryReturnedNoRows) => std::thread::park_timeout(LOOKS),
                Err(error) => panic!("{error}"),
            }
        };
        seen.push(now_us() - sent);
    }
    producer.join().expect("all was sent");
    assert!(daemon.terminate().0.success());
    seen
}

/// Keys 0, 1, 2, …; a value begins with the time at which it was sent, and has about 200 bytes.
fn produce(brokers: &str, topic: &str, rate: usize) {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("partitioner", "murmur2_random")
        .create()
        .expect("a producer");
    let (begin, filling) = (Instant::now(), "x".repeat(180));
    for nth in 0..rate * SECONDS {
        let due = begin + Duration::from_secs_f64(nth as f64 / rate as f64);
        while let Some(left) = due.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
            producer.poll(left.min(Duration::from_millis(1)));
        }
        let (key, value) = (nth.to_string(), format!("{},{filling}", now_us()));
        let mut record = BaseRecord::to(topic).key(&key).payload(&value);
        // A broker that takes less than it is sent makes the events late, which is counted.
        while let Err((error, refused)) = producer.send(record) {
            assert_eq!(error.rdkafka_error_code(), Some(RDKafkaErrorCode::QueueFull), "{error}");
            producer.poll(Duration::from_millis(1));
            record = refused;
        }
        if nth.is_multiple_of(64) {
            producer.poll(Duration::ZERO);
        }
    }
    producer.flush(Duration::from_secs(30)).expect("a broker that takes all");
}

fn now_us() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}
