//! `readside status`: how fresh the replica is, for people and (`-o json`) for programs.

use std::io::IsTerminal;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Deserialize;
use serde_json::json;

use super::client::{Answer, Endpoint, block_on, get};
use super::{DONE, Exit, print, printable};
use crate::app::replica::status_without_daemon;
use crate::config::Config;

const PATIENCE: Duration = Duration::from_secs(10);
const REFRESH: Duration = Duration::from_secs(2);
/// Cursor home, clear to the end of the screen.
const CLEAR: &str = "\x1b[H\x1b[2J";

#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    pub json: bool,
    /// Positions of all partitions, too.
    pub verbose: bool,
    /// Again every two seconds until interrupted.
    pub watch: bool,
}

/// Whom to ask.
#[derive(Debug, Clone)]
pub struct Sources {
    pub admin: Endpoint,
    /// Of the replica, which also knows when the daemon does not answer.
    pub config: Option<Box<Config>>,
}

/// 0 when the replica's status is shown, whatever it is; 69 when nobody answers or the replica
/// cannot be read.
pub fn run(sources: &Sources, options: Options) -> anyhow::Result<u8> {
    block_on(async {
        if options.watch {
            return watch(sources, options).await;
        }
        let answer = ask(sources).await?;
        print(&show(&answer, options)?)?;
        if answer.status != 200 {
            return Err(Exit::unavailable(answer.message()).into());
        }
        Ok(DONE)
    })
}

/// A daemon that does not answer for a while is what a watcher wants to see, not the end.
async fn watch(sources: &Sources, options: Options) -> anyhow::Result<u8> {
    let clear = if std::io::stdout().is_terminal() && !options.json { CLEAR } else { "" };
    let mut ticks = tokio::time::interval(REFRESH);
    loop {
        tokio::select! {
            interrupted = tokio::signal::ctrl_c() => {
                interrupted?;
                return Ok(DONE);
            }
            _ = ticks.tick() => {}
        }
        let text = match ask(sources).await {
            Ok(answer) => show(&answer, options)?,
            Err(exit) if options.json => {
                format!("{}\n", json!({ "error": "no_answer", "message": exit.message }))
            }
            Err(exit) => format!("{exit}\n"),
        };
        print(&format!("{clear}{text}"))?;
    }
}

async fn ask(sources: &Sources) -> Result<Answer, Exit> {
    let exit = match get(&sources.admin, "/status", PATIENCE).await {
        Ok(answer) => return Ok(answer),
        Err(exit) => exit,
    };
    match &sources.config {
        Some(config) => from_replica(config.clone(), exit).await,
        None => Err(exit),
    }
}

/// The same answer from the replica itself: its state is computed from the heartbeat that is
/// stored with the rows, so that it is true without a daemon.
async fn from_replica(config: Box<Config>, unanswered: Exit) -> Result<Answer, Exit> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now_ms = i64::try_from(since.as_millis()).unwrap_or(i64::MAX);
    // Reading blocks.
    let asked = tokio::task::spawn_blocking(move || status_without_daemon(&config, now_ms)).await;
    let status = match asked {
        Ok(Some(Ok(status))) => status,
        Ok(None) => return Err(unanswered),
        Ok(Some(Err(error))) => return Err(unreadable(&unanswered, &error)),
        Err(error) => return Err(unreadable(&unanswered, &error)),
    };
    let mut body = json!({
        "now_ms": now_ms, "version": env!("CARGO_PKG_VERSION"), "daemon": false, "message": unanswered.message,
        "gate_open": false, "connected": false, "build": null, "store_failing": null,
        "dead_letters_failing": null, "open_transactions": [], "long_reader": null,
    });
    if let (Some(body), Ok(serde_json::Value::Object(status))) =
        (body.as_object_mut(), serde_json::to_value(status))
    {
        body.extend(status);
    }
    Ok(Answer { status: 200, body: body.to_string() })
}

fn unreadable(unanswered: &Exit, error: &dyn std::fmt::Display) -> Exit {
    Exit::unavailable(format!("{}; the replica cannot be read either: {error}", unanswered.message))
}

/// An answer as a text that ends with a line feed.
fn show(answer: &Answer, options: Options) -> Result<String, Exit> {
    if options.json {
        return Ok(format!("{}\n", answer.body.trim_end()));
    }
    Ok(render(&answer.read()?, options.verbose))
}

/// What `/status` answers; the parts about the replica are missing when it cannot be read.
#[derive(Debug, Deserialize)]
struct Status {
    replica: Option<String>,
    state: Option<String>,
    fresh_as_of: Option<String>,
    fresh_as_of_ms: Option<i64>,
    stopped: Option<String>,
    #[serde(default)]
    tables: Vec<Table>,
    #[serde(default)]
    positions: Vec<Position>,
    now_ms: i64,
    version: String,
    daemon: bool,
    gate_open: bool,
    connected: bool,
    build: Option<Build>,
    store_failing: Option<String>,
    /// Of a daemon of another version, perhaps, that does not say.
    #[serde(default)]
    dead_letters_failing: Option<String>,
    #[serde(default)]
    open_transactions: Vec<OpenTransaction>,
    #[serde(default)]
    long_reader: Option<LongReader>,
    message: Option<String>,
    #[serde(default)]
    rebuild: Rebuild,
}

/// Missing where the replica speaks for itself.
#[derive(Debug, Default, Deserialize)]
struct Rebuild {
    running: Option<Running>,
    last: Option<Last>,
    frozen: Option<String>,
}

#[derive(Debug, Deserialize)]
struct OpenTransaction {
    topic: String,
    partition: i32,
    offset: i64,
    seconds: i64,
}

#[derive(Debug, Deserialize)]
struct LongReader {
    seconds: u64,
    pages: u64,
    processes: Vec<u32>,
}

#[derive(Debug, Deserialize)]
struct Running {
    generation: u32,
    reason: String,
    build: Option<Build>,
}

#[derive(Debug, Deserialize)]
struct Last {
    result: String,
    message: Option<String>,
    at_ms: i64,
}

#[derive(Debug, Deserialize)]
struct Table {
    table_name: String,
    state: String,
    fresh_as_of: Option<String>,
    fresh_as_of_ms: Option<i64>,
    lag_records: Option<i64>,
    rows: u64,
    dead_letters: u64,
}

#[derive(Debug, Deserialize)]
struct Position {
    topic: String,
    partition: i32,
    next_offset: i64,
    end_offset: Option<i64>,
    fresh_as_of_ms: Option<i64>,
}

#[derive(Debug, Deserialize)]
struct Build {
    remaining_records: u64,
    total_records: u64,
    rate: f64,
    eta_seconds: Option<f64>,
}

const UNKNOWN: &str = "unknown";

fn render(status: &Status, verbose: bool) -> String {
    let mut text = headline(status);
    let unanswered = if status.daemon { "cannot read the replica" } else { "this is what the replica says" };
    for (what, reason) in [
        (unanswered, &status.message),
        ("stopped", &status.stopped),
        ("the store refuses batches, they are retried", &status.store_failing),
        ("dead letters cannot be produced, they are retried", &status.dead_letters_failing),
    ] {
        if let Some(reason) = reason {
            text.push_str(&format!("{what}: {}\n", printable(reason)));
        }
    }
    text.push_str(&open_transactions(&status.open_transactions));
    if let Some(LongReader { seconds, pages, processes }) = &status.long_reader {
        let ids: Vec<String> = processes.iter().map(u32::to_string).collect();
        let who = if ids.is_empty() { String::new() } else { format!(" (process {})", ids.join(", ")) };
        text.push_str(&format!(
            "a read transaction{who} has kept {pages} pages of the write-ahead log for {seconds} s: end it\n"
        ));
    }
    if let Some(build) = status.build.as_ref().filter(|_| !status.gate_open) {
        text.push_str(&format!("building: {}\n", far(build)));
    }
    text.push_str(&rebuild(status));
    if !status.tables.is_empty() {
        text.push('\n');
        text.push_str(&tables(status));
    }
    if verbose && !status.positions.is_empty() {
        text.push('\n');
        text.push_str(&positions(status));
    }
    text
}

/// The first few; the others are told by their number.
fn open_transactions(open: &[OpenTransaction]) -> String {
    const SHOWN: usize = 5;
    let mut text = String::new();
    for OpenTransaction { topic, partition, offset, seconds } in open.iter().take(SHOWN) {
        let (topic, age) = (printable(topic), age_text(*seconds as f64));
        text.push_str(&format!(
            "an open transaction has held back {topic} [{partition}] from offset {offset} on for {age}: its \
             producer has to end it\n"
        ));
    }
    if open.len() > SHOWN {
        text.push_str(&format!("so do open transactions in {} more partitions\n", open.len() - SHOWN));
    }
    text
}

/// How far a copy is.
fn far(build: &Build) -> String {
    let left = build.eta_seconds.map(|eta| format!("about {} left", age_text(eta)));
    format!(
        "{} of {} records to go, {:.0} records/s, {}",
        build.remaining_records,
        build.total_records,
        build.rate,
        left.as_deref().unwrap_or("time left unknown")
    )
}

fn rebuild(status: &Status) -> String {
    let Rebuild { running, last, frozen } = &status.rebuild;
    let mut text = String::new();
    if let Some(reason) = frozen {
        text.push_str(&format!("the copy that serves is left as it is: {}\n", printable(reason)));
    }
    if let Some(Running { generation, reason, build }) = running {
        let far = build.as_ref().map_or("how much there is to read is being asked".to_owned(), far);
        text.push_str(&format!("rebuilding (generation {generation}, {}): {far}\n", printable(reason)));
    } else if let Some(Last { result, message: Some(message), at_ms }) = last {
        let ago = age(status.now_ms, Some(*at_ms));
        text.push_str(&format!("the last rebuild {} {ago} ago: {}\n", ended(result), printable(message)));
    }
    text
}

fn ended(result: &str) -> &'static str {
    match result {
        "refused" => "was refused",
        "failed" => "failed",
        _ => "ended",
    }
}

fn headline(status: &Status) -> String {
    let freshness = match (&status.fresh_as_of, status.fresh_as_of_ms) {
        (Some(at), Some(ms)) => {
            format!("fresh as of {} ({} ago)", printable(at), age(status.now_ms, Some(ms)))
        }
        _ => "freshness unknown".to_owned(),
    };
    format!(
        "{}  {}  {freshness}  Kafka {}  version {}\n",
        printable(status.replica.as_deref().unwrap_or("readside")),
        printable(status.state.as_deref().unwrap_or(UNKNOWN)),
        if status.connected { "connected" } else { "not connected" },
        printable(&status.version),
    )
}

fn tables(status: &Status) -> String {
    let mut lines =
        Lines::new(&["TABLE", "STATE", "FRESH AS OF", "AGE", "BEHIND", "ROWS", "DEAD LETTERS"], 3);
    for table in &status.tables {
        lines.push([
            printable(&table.table_name),
            printable(&table.state),
            printable(table.fresh_as_of.as_deref().unwrap_or(UNKNOWN)),
            age(status.now_ms, table.fresh_as_of_ms),
            or_unknown(table.lag_records),
            table.rows.to_string(),
            table.dead_letters.to_string(),
        ]);
    }
    lines.finish()
}

fn positions(status: &Status) -> String {
    let mut lines = Lines::new(&["TOPIC", "PARTITION", "NEXT OFFSET", "END OFFSET", "BEHIND", "AGE"], 1);
    for at in &status.positions {
        lines.push([
            printable(&at.topic),
            at.partition.to_string(),
            at.next_offset.to_string(),
            or_unknown(at.end_offset),
            or_unknown(at.end_offset.map(|end| end.saturating_sub(at.next_offset).max(0))),
            age(status.now_ms, at.fresh_as_of_ms),
        ]);
    }
    lines.finish()
}

fn or_unknown(number: Option<i64>) -> String {
    number.map_or(UNKNOWN.to_owned(), |number| number.to_string())
}

fn age(now_ms: i64, then_ms: Option<i64>) -> String {
    let Some(then_ms) = then_ms else { return UNKNOWN.to_owned() };
    age_text(now_ms.saturating_sub(then_ms).max(0) as f64 / 1000.0)
}

fn age_text(seconds: f64) -> String {
    match seconds {
        ..10.0 => format!("{seconds:.1} s"),
        ..120.0 => format!("{seconds:.0} s"),
        ..7200.0 => format!("{:.0} min", seconds / 60.0),
        _ => format!("{:.0} h", seconds / 3600.0),
    }
}

/// Lines with aligned columns; those from `right` on are aligned to the right.
pub(super) struct Lines {
    cells: Vec<Vec<String>>,
    right: usize,
}

impl Lines {
    pub(super) fn new(titles: &[&str], right: usize) -> Lines {
        Lines { cells: vec![titles.iter().map(|title| (*title).to_owned()).collect()], right }
    }

    pub(super) fn push(&mut self, cells: impl IntoIterator<Item = String>) {
        self.cells.push(cells.into_iter().collect());
    }

    pub(super) fn finish(&self) -> String {
        let width = |column: usize| {
            let cells = self.cells.iter().filter_map(|line| line.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let mut text = String::new();
        for line in &self.cells {
            let mut shown = String::new();
            for (column, cell) in line.iter().enumerate() {
                let width = width(column);
                if column >= self.right {
                    shown.push_str(&format!("{cell:>width$}  "));
                } else {
                    shown.push_str(&format!("{cell:<width$}  "));
                }
            }
            text.push_str(shown.trim_end());
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::client::tests::{answering, response};
    use super::super::{UNAVAILABLE, exit_code};
    use super::*;

    fn shown(body: &serde_json::Value, options: Options) -> String {
        show(&Answer { status: 200, body: body.to_string() }, options).unwrap()
    }

    fn only(admin: Endpoint) -> Sources {
        Sources { admin, config: None }
    }

    fn live() -> serde_json::Value {
        json!({
            "replica": "orders-side", "state": "stale", "complete": true,
            "fresh_as_of": "2026-01-31T10:30:00.000000Z", "fresh_as_of_ms": 1_000_000,
            "lag_records": 3, "dead_letters": 1, "stopped": null, "cluster_id": null,
            "tables": [
                { "table_name": "users", "state": "stale", "fresh_as_of": "2026-01-31T10:30:00.000000Z",
                  "fresh_as_of_ms": 1_000_000, "lag_records": 3, "rows": 1_234, "dead_letters": 0 },
                { "table_name": "o\u{1b}[2J", "state": "live", "fresh_as_of": null, "fresh_as_of_ms": null,
                  "lag_records": null, "rows": 5, "dead_letters": 1 },
            ],
            "positions": [
                { "topic": "users", "partition": 0, "next_offset": 97, "end_offset": 100, "fresh_as_of_ms": 999_500 },
                { "topic": "users", "partition": 11, "next_offset": 5, "end_offset": null, "fresh_as_of_ms": null },
            ],
            "now_ms": 1_042_400, "version": "0.1.0", "daemon": true, "gate_open": true, "connected": true,
            "build": null, "store_failing": null,
        })
    }

    #[test]
    fn people_get_a_table() {
        assert_eq!(
            shown(&live(), Options::default()),
            "\
orders-side  stale  fresh as of 2026-01-31T10:30:00.000000Z (42 s ago)  Kafka connected  version 0.1.0

TABLE  STATE  FRESH AS OF                      AGE   BEHIND  ROWS  DEAD LETTERS
users  stale  2026-01-31T10:30:00.000000Z     42 s        3  1234             0
o\u{fffd}[2J  live   unknown                      unknown  unknown     5             1
"
        );
        let text = shown(&live(), Options { verbose: true, ..Options::default() });
        let positions = "
TOPIC  PARTITION  NEXT OFFSET  END OFFSET   BEHIND      AGE
users          0           97         100        3     43 s
users         11            5     unknown  unknown  unknown
";
        assert!(text.ends_with(positions), "{text}");
    }

    #[test]
    fn programs_get_what_the_endpoint_says() {
        let text = shown(&live(), Options { json: true, ..Options::default() });
        assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap(), live());
    }

    #[test]
    fn a_first_copy_says_how_long_it_takes() {
        let mut body = live();
        body["gate_open"] = json!(false);
        body["build"] =
            json!({ "remaining_records": 250, "total_records": 1000, "rate": 125.4, "eta_seconds": 2.0 });
        body["store_failing"] = json!("disk full");
        body["stopped"] = json!("topic recreated");
        let text = shown(&body, Options::default());
        for line in [
            "building: 250 of 1000 records to go, 125 records/s, about 2.0 s left\n",
            "the store refuses batches, they are retried: disk full\n",
            "stopped: topic recreated\n",
        ] {
            assert!(text.contains(line), "{text}");
        }
    }

    #[test]
    fn who_holds_something_back_is_shown() {
        let mut body = live();
        let open =
            |partition| json!({ "topic": "users", "partition": partition, "offset": 97, "seconds": 190 });
        body["open_transactions"] = json!([open(0)]);
        body["long_reader"] = json!({ "seconds": 75, "pages": 2_000, "processes": [41] });
        let text = shown(&body, Options::default());
        for line in [
            "an open transaction has held back users [0] from offset 97 on for 3 min: its producer has to end it\n",
            "a read transaction (process 41) has kept 2000 pages of the write-ahead log for 75 s: end it\n",
        ] {
            assert!(text.contains(line), "{text}");
        }
        body["open_transactions"] = (0..8).map(open).collect();
        let text = shown(&body, Options::default());
        assert_eq!(text.matches("an open transaction").count(), 5, "{text}");
        assert!(text.contains("so do open transactions in 3 more partitions\n"), "{text}");
    }

    #[test]
    fn a_replica_that_cannot_be_read_is_shown_and_is_exit_code_69() {
        let body = json!({
            "error": "replica_unreadable", "message": "the file is gone", "now_ms": 1, "version": "0.1.0",
            "daemon": true, "gate_open": false, "connected": false, "build": null, "store_failing": null,
        });
        let (endpoint, _asked) = answering(response("503 Service Unavailable", &body.to_string()));
        let error = run(&only(endpoint), Options::default()).unwrap_err();
        assert_eq!((exit_code(&error), error.to_string().as_str()), (UNAVAILABLE, "the file is gone"));
        let text = shown(&body, Options::default());
        assert!(text.contains("cannot read the replica: the file is gone"), "{text}");
    }

    #[test]
    fn another_server_is_not_taken_for_readside() {
        let (endpoint, _asked) = answering(response("200 OK", "<html>"));
        let error = run(&only(endpoint), Options::default()).unwrap_err();
        assert_eq!(exit_code(&error), UNAVAILABLE);
        assert!(error.to_string().contains("not readside's answer"), "{error}");
    }

    fn nobody() -> Endpoint {
        "127.0.0.1:1".parse().unwrap()
    }

    fn config_for(path: &Path) -> Box<Config> {
        let yaml = format!(
            "kafka: {{ brokers: kafka:9092 }}\nreplica: {{ sqlite: {{ path: {} }} }}\n\
             tables: {{ users: {{ topic: users, key: id, columns: {{ id: integer }} }} }}\n",
            path.display()
        );
        Box::new(crate::config::parse(&yaml, "f.yaml", std::iter::empty()).unwrap().config)
    }

    #[test]
    fn without_a_daemon_the_replica_speaks_for_itself() {
        use crate::domain::catalog::{Catalog, Column, Table as Shape};
        use crate::domain::value::ColumnType;
        use crate::store::{LossLimit, Settings, SqliteStore};

        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("replica.db");
        let shape = Shape {
            name: "users".to_owned(),
            columns: vec![Column { name: "id".to_owned(), ty: ColumnType::Integer, nullable: false }],
            key: vec![0],
            indexes: vec![],
            prefixes: vec![],
            topics: vec![0],
            max_staleness_ms: 30_000,
            ordered_by_position: true,
            delete_marks_ms: 1_000,
            fingerprint: "t".to_owned(),
        };
        let catalog =
            Catalog { topics: vec!["users".to_owned()], tables: vec![shape], fingerprint: "f".to_owned() };
        let sources = Sources { admin: nobody(), config: Some(config_for(&path)) };
        let error = run(&sources, Options::default()).unwrap_err();
        assert_eq!(exit_code(&error), UNAVAILABLE, "no daemon and no file");

        let settings = Settings {
            replica_name: "orders-side".to_owned(),
            heartbeat_limit: Duration::from_secs(4),
            dead_letter_bytes_max: 0,
            loss: LossLimit::default(),
            min_free_bytes: 0,
            wal_max_bytes: u64::MAX,
        };
        drop(SqliteStore::open(&path, catalog.into(), settings).unwrap());
        let answer = block_on(async { Ok(ask(&sources).await?) }).unwrap();
        let text = show(&answer, Options::default()).unwrap();
        assert!(text.contains("this is what the replica says: cannot ask http://127.0.0.1:"), "{text}");
        assert!(text.contains("\nusers  building"), "{text}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&answer.body).unwrap()["daemon"], false);
    }

    #[test]
    fn a_file_that_is_no_replica_is_not_shown_as_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("replica.db");
        std::fs::write(&path, "shopping list").unwrap();
        let sources = Sources { admin: nobody(), config: Some(config_for(&path)) };
        let error = run(&sources, Options::default()).unwrap_err();
        assert_eq!(exit_code(&error), UNAVAILABLE);
        assert!(error.to_string().contains("the replica cannot be read either"), "{error}");
    }
}
