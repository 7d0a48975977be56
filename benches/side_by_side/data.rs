//! The work: deterministic events, and the same rows as CSV.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;

use rdkafka::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keys {
    /// 0, 1, 2, …
    Integer,
    /// Integers in no order.
    Scattered,
    /// In no order.
    Uuid,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// One JSON object.
    Flat,
    /// The same columns in Debezium's envelope.
    Debezium,
}

/// What is in a topic.
#[derive(Debug, Clone, Copy)]
pub struct Events {
    pub count: usize,
    /// Fewer than events: the later ones are updates of keys in no order.
    pub rows: usize,
    pub keys: Keys,
    pub shape: Shape,
}

pub const COLUMNS: &str = "tenant: integer, name: text, email: text, city: text, balance: decimal, score: real, \
                           active: boolean, updated_at: timestamp";
/// The same columns in SQL, behind the key.
pub const SQL_COLUMNS: &str = "tenant INTEGER, name TEXT, email TEXT, city TEXT, balance TEXT, score REAL, active \
                               INTEGER, updated_at TEXT";

impl Events {
    /// The number of the row that the `nth` event is about.
    fn row(&self, nth: usize) -> usize {
        if self.rows >= self.count { nth } else { (mix(nth as u64) % self.rows as u64) as usize }
    }

    fn key(&self, row: usize) -> String {
        match self.keys {
            Keys::Integer => row.to_string(),
            Keys::Scattered => (mix(row as u64) >> 1).to_string(),
            Keys::Uuid => uuid(row as u64),
        }
    }

    /// Record key and value.
    fn event(&self, nth: usize) -> (String, String) {
        let row = self.row(nth);
        let key = self.key(row);
        let quote = if self.keys == Keys::Uuid { "\"" } else { "" };
        let Cells { tenant, city, balance, score, active, stamp } = Cells::of(nth);
        let mut json = String::with_capacity(700);
        let _ = write!(
            json,
            r#"{{"id":{quote}{key}{quote},"tenant":{tenant},"name":"Customer number {row}","email":"customer.{row}@mail.example","city":"{city}","balance":"{balance}","score":{score},"active":{active},"updated_at":"{stamp}"}}"#
        );
        match self.shape {
            Shape::Flat => (key, json),
            Shape::Debezium => {
                let lsn = 135_000_000 + nth * 8;
                let envelope = format!(
                    r#"{{"before":null,"after":{json},"source":{{"version":"3.6.1.Final","connector":"postgresql","name":"shop","ts_ms":1795435949113,"snapshot":null,"db":"shop","sequence":"[\"{}\",\"{lsn}\"]","ts_us":1795435949113000,"ts_ns":1795435949113000000,"schema":"public","table":"users","txId":{nth},"lsn":{lsn},"xmin":null,"origin":null,"origin_lsn":null}},"transaction":null,"op":"c","ts_ms":1795435949683,"ts_us":1795435949683000,"ts_ns":1795435949683000000}}"#,
                    lsn - 8
                );
                (format!(r#"{{"id":{quote}{key}{quote}}}"#), envelope)
            }
        }
    }

    /// Writes the topic as a usual producer does: lz4, batches of 256 KiB.
    pub fn produce(&self, brokers: &str, topic: &str) {
        self.produce_padded(brokers, topic, 0);
    }

    /// With one more column that makes an event at least so long.
    pub fn produce_padded(&self, brokers: &str, topic: &str, bytes: usize) {
        let producer: BaseProducer = ClientConfig::new()
            .set("bootstrap.servers", brokers)
            .set("compression.type", "lz4")
            .set("linger.ms", "20")
            .set("batch.size", "262144")
            .set("queue.buffering.max.messages", "200000")
            .set("partitioner", "murmur2_random")
            .create()
            .expect("a producer");
        for nth in 0..self.count {
            let (key, mut value) = self.event(nth);
            if let Some(lacking) = bytes.checked_sub(value.len() + 10).filter(|lacking| *lacking > 0) {
                value.pop();
                // Not of one letter only: that would be nothing when compressed.
                let filling: String =
                    (0..lacking).map(|at| (b'a' + ((at * at + nth) % 23) as u8) as char).collect();
                let _ = write!(value, r#","more":"{filling}"}}"#);
            }
            let mut record = BaseRecord::to(topic).key(&key).payload(&value);
            while let Err((error, back)) = producer.send(record) {
                assert_eq!(
                    error.rdkafka_error_code(),
                    Some(rdkafka::types::RDKafkaErrorCode::QueueFull),
                    "{error}"
                );
                producer.poll(std::time::Duration::from_millis(20));
                record = back;
            }
        }
        producer.flush(std::time::Duration::from_secs(120)).expect("a broker that takes all");
    }

    /// The rows that the events leave, as the first event of each says them.
    pub fn write_csv(&self, path: &Path) {
        let mut file = std::io::BufWriter::new(std::fs::File::create(path).expect("a file"));
        for row in 0..self.rows.min(self.count) {
            let key = self.key(row);
            let Cells { tenant, city, balance, score, active, stamp } = Cells::of(row);
            writeln!(
                file,
                "{key},{tenant},Customer number {row},customer.{row}@mail.example,{city},{balance},{score},{},{stamp}",
                u8::from(active)
            )
            .expect("disk space");
        }
        file.flush().expect("disk space");
    }
}

impl Events {
    /// The rows of [`Events::write_csv`] as hashes, or as JSON strings, and nothing else.
    pub fn write_redis(&self, socket: &Path, as_json: bool) {
        let mut child = std::process::Command::new("redis-cli")
            .args(["-s", &socket.display().to_string(), "--pipe"])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::null())
            .spawn()
            .expect("redis-cli is installed");
        let mut pipe = std::io::BufWriter::new(child.stdin.take().expect("a pipe"));
        for row in 0..self.rows {
            let (key, json) = self.event(row);
            let name = format!("users:{key}");
            let Cells { tenant, city, balance, score, active, stamp } = Cells::of(row);
            let command = if as_json {
                vec!["SET".to_owned(), name, json]
            } else {
                let fields = [
                    ("id", key),
                    ("tenant", tenant.to_string()),
                    ("name", format!("Customer number {row}")),
                    ("email", format!("customer.{row}@mail.example")),
                    ("city", city.to_owned()),
                    ("balance", balance),
                    ("score", score.to_string()),
                    ("active", u8::from(active).to_string()),
                    ("updated_at", stamp),
                ];
                let fields = fields.into_iter().flat_map(|(name, value)| [name.to_owned(), value]);
                ["HSET".to_owned(), name].into_iter().chain(fields).collect()
            };
            write!(pipe, "*{}\r\n", command.len()).expect("redis-cli reads");
            for word in command {
                write!(pipe, "${}\r\n{word}\r\n", word.len()).expect("redis-cli reads");
            }
        }
        drop(pipe.into_inner().expect("redis-cli reads"));
        assert!(child.wait().expect("redis-cli ends").success());
    }
}

struct Cells {
    tenant: usize,
    city: &'static str,
    balance: String,
    score: f64,
    active: bool,
    stamp: String,
}

impl Cells {
    fn of(nth: usize) -> Cells {
        let cents = nth * 37 % 10_000_000;
        Cells {
            tenant: nth % 97,
            city: ["Lisbon", "Oslo", "Graz", "Turin", "Leeds"][nth % 5],
            balance: format!("{}.{:02}", cents / 100, cents % 100),
            score: (nth % 1000) as f64 / 8.0,
            active: nth.is_multiple_of(3),
            stamp: format!(
                "2026-{:02}-{:02}T12:{:02}:{:02}.000000Z",
                nth % 12 + 1,
                nth % 28 + 1,
                nth % 60,
                nth / 60 % 60
            ),
        }
    }
}

/// SplitMix64 (Steele et al., 2014).
fn mix(seed: u64) -> u64 {
    let mut z = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// Random-looking and repeatable.
fn uuid(id: u64) -> String {
    let (high, low) = (mix(id * 2 + 1), mix(id * 2 + 2));
    format!(
        "{:08x}-{:04x}-4{:03x}-8{:03x}-{:012x}",
        high >> 32,
        (high >> 16) & 0xFFFF,
        high & 0xFFF,
        low >> 52,
        low & 0xFFFF_FFFF_FFFF
    )
}
