//! Real HTTP over loopback, with a replica that says what a test wants.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::{Mutex, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::{Value as JsonValue, json};
use tokio::sync::oneshot;

use super::*;
use crate::domain::catalog::{Column, Table};
use crate::domain::checkpoint::TopicPartition;
use crate::domain::dead_letter::digest;
use crate::domain::record::OwnedRecord;
use crate::domain::row::RowState;
use crate::domain::state::State as ReplicaState;
use crate::domain::value::{ColumnType, Value};
use crate::domain::version::{Coordinates, Version, VersionKind};
use crate::pipeline::letters::{Done, Outcome, Work};
use crate::pipeline::progress::Build;
use crate::source::kafka::fetch::Fetched;
use crate::store::{Letter, LetterPage, LetterQuery, RowLookup, Status, StopCode, TableStatus};
use crate::testing::PATIENCE;

#[derive(Default)]
struct FakeReplica {
    rows: Mutex<HashMap<String, RowLookup>>,
    unreadable: Mutex<Option<&'static str>>,
    /// Told of every lookup of a row, before it is answered.
    lookups: Mutex<Option<mpsc::Sender<String>>>,
    asked_letters: Mutex<Vec<LetterQuery>>,
}

/// The offset of the one dead letter.
const DEAD_LETTER: i64 = 4_004;

impl Reader for FakeReplica {
    fn status(&self, _now_ms: i64) -> Result<Status, StoreError> {
        if let Some(message) = *self.unreadable.lock().unwrap() {
            return Err(StoreError::Stop { exit: StopCode::Io, message: message.to_owned() });
        }
        Ok(Status {
            replica: "orders-side".to_owned(),
            state: ReplicaState::Stale,
            complete: true,
            fresh_as_of: Some("2026-01-31T10:30:00.000000Z".to_owned()),
            fresh_as_of_ms: Some(1_769_855_400_000),
            lag_records: None,
            dead_letters: 1,
            stopped: None,
            cluster_id: None,
            tables: vec![TableStatus {
                table_name: "users".to_owned(),
                state: ReplicaState::Stale,
                complete: true,
                rebuilding: false,
                missing_events: false,
                fresh_as_of: None,
                fresh_as_of_ms: None,
                lag_records: Some(3),
                max_staleness_ms: 30_000,
                rows: 42,
                dead_letters: 1,
                generation: 1,
            }],
            positions: vec![],
        })
    }

    fn state_of(&self, _: usize, _: &[Value]) -> Result<Option<RowState>, StoreError> {
        Ok(None)
    }

    fn row(&self, table: usize, key: &[Value]) -> Result<RowLookup, StoreError> {
        let name = format!("{table}{key:?}");
        let row = self.rows.lock().unwrap().get(&name).cloned().unwrap_or(RowLookup::Missing);
        if let Some(lookups) = &*self.lookups.lock().unwrap() {
            lookups.send(name).unwrap();
        }
        Ok(row)
    }

    fn is_dead_letter(&self, _at: TopicPartition, offset: i64) -> Result<bool, StoreError> {
        Ok(offset == DEAD_LETTER)
    }

    /// The one.
    fn dead_letters(&self, query: &LetterQuery) -> Result<LetterPage, StoreError> {
        self.asked_letters.lock().unwrap().push(query.clone());
        let letter = Letter {
            topic: "users".to_owned(),
            partition: 0,
            offset: DEAD_LETTER,
            table: Some("users".to_owned()),
            path: ".id".to_owned(),
            reason: "wrong_type".to_owned(),
            message: "is a string".to_owned(),
            first_seen: None,
            first_seen_ms: now_ms(),
            order_ms: 7,
            digest: Some(digest(Some(b"k"), Some(b"v"))),
            record: None,
            produced: None,
        };
        Ok(LetterPage { letters: vec![letter], more: query.limit == 1 })
    }
}

fn table(name: &str, ordered_by_position: bool) -> Table {
    let column = |name: &str, ty| Column { name: name.to_owned(), ty, nullable: false };
    Table {
        name: name.to_owned(),
        columns: vec![column("id", ColumnType::Integer), column("name", ColumnType::Text)],
        key: vec![0],
        indexes: vec![],
        prefixes: vec![],
        topics: vec![1],
        max_staleness_ms: 30_000,
        ordered_by_position,
        delete_marks_ms: 3_600_000,
        fingerprint: String::new(),
    }
}

struct Running {
    http: SocketAddr,
    admin: SocketAddr,
    context: Context,
    serving: watch::Sender<Context>,
    rebuilds: Arc<RebuildDesk>,
    replica: Arc<FakeReplica>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

fn context() -> (Context, Arc<FakeReplica>) {
    let catalog = Catalog {
        topics: vec!["prices".to_owned(), "users".to_owned()],
        tables: vec![table("users", false), table("log", true)],
        fingerprint: String::new(),
    };
    let replica = Arc::new(FakeReplica::default());
    let context = Context {
        metrics: Arc::new(Metrics::new(&catalog)),
        catalog: Arc::new(catalog),
        progress: Arc::default(),
        reader: replica.clone(),
    };
    (context, replica)
}

/// Every record is in the log, with this key and value.
fn desks(rebuilds: Arc<RebuildDesk>) -> Desks {
    let record =
        || OwnedRecord { key: Some(b"k".to_vec()), value: Some(b"v".to_vec()), ..OwnedRecord::default() };
    Desks {
        rebuilds,
        log: Arc::new(move |places, _| places.iter().map(|_| Fetched::Record(record())).collect()),
    }
}

/// With the start-up gate open.
fn started() -> Running {
    let running = start();
    running.context.progress.open_gate();
    running
}

fn start() -> Running {
    let (context, replica) = context();
    let free = "127.0.0.1:0".parse().unwrap();
    let listeners = Listeners { http: bind(free).unwrap(), admin: bind(free).unwrap() };
    let (http, admin) = (listeners.http.local_addr().unwrap(), listeners.admin.local_addr().unwrap());
    let (stop, stopped) = oneshot::channel();
    let (serving, served) = watch::channel(context.clone());
    let rebuilds = Arc::new(RebuildDesk::default());
    let desks = desks(Arc::clone(&rebuilds));
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        runtime.block_on(serve(served, desks, listeners, async {
            let _ = stopped.await;
        }))
    });
    Running { http, admin, context, serving, rebuilds, replica, stop: Some(stop), thread: Some(thread) }
}

impl Running {
    fn get(&self, path: &str) -> Answer {
        receive(request(self.admin, "GET", path))
    }

    fn probe(&self, path: &str) -> Answer {
        receive(request(self.http, "GET", path))
    }

    fn commit(&self, partition: i32, next_offset: i64) {
        let at = TopicPartition { topic: 1, partition };
        self.context.progress.update(|shared| {
            shared.positions.insert(at, next_offset);
        });
    }

    fn put(&self, row: RowLookup) {
        self.replica.rows.lock().unwrap().insert("0[Integer(7)]".to_owned(), row);
    }

    fn tell_lookups(&self) -> mpsc::Receiver<String> {
        let (sender, receiver) = mpsc::channel();
        *self.replica.lookups.lock().unwrap() = Some(sender);
        receiver
    }

    /// Returns how long the end took.
    fn end(&mut self) -> Duration {
        let begun = Instant::now();
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap().unwrap();
        }
        begun.elapsed()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.end();
        }
    }
}

#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn json(&self) -> JsonValue {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error} in {self:?}"))
    }

    /// The status and the word that names the error.
    fn error(&self) -> (u16, String) {
        (self.status, self.json()["error"].as_str().unwrap_or_default().to_owned())
    }
}

fn request(to: SocketAddr, method: &str, path: &str) -> TcpStream {
    send(to, &format!("{method} {path} HTTP/1.1\r\nHost: {to}\r\nConnection: close\r\n\r\n"))
}

fn send(to: SocketAddr, text: &str) -> TcpStream {
    let mut stream = TcpStream::connect(to).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.write_all(text.as_bytes()).unwrap();
    stream
}

fn receive(mut stream: TcpStream) -> Answer {
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer in {text:?}"));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer { status, head: head.to_ascii_lowercase(), body: body.to_owned() }
}

fn version(kind: VersionKind, integers: &[i64]) -> Version {
    Version::new(kind, integers, Coordinates { topic: 1, partition: 0, offset: 5 }).unwrap()
}

fn visible(integers: &[i64]) -> RowLookup {
    RowLookup::Visible {
        values: vec![Value::Integer(7), Value::Text("Ada".to_owned())],
        version: version(VersionKind::Integers, integers),
    }
}

#[test]
fn metrics_are_answered_in_the_text_format() {
    let answer = start().probe("/metrics");
    assert_eq!(answer.status, 200);
    assert!(answer.head.contains("content-type: text/plain; version=0.0.4"), "{}", answer.head);
    assert!(answer.body.contains("readside_state{state=\"building\",table=\"users\"} 1\n"));
}

#[test]
fn startup_says_what_remains_until_the_gate_opens() {
    let running = start();
    let answer = running.probe("/startupz");
    assert_eq!(answer.status, 503);
    assert_eq!(answer.json()["caught_up"], false);
    assert_eq!(answer.json()["remaining_records"], JsonValue::Null, "unknown is not 0");
    assert_eq!(
        answer.json()["message"],
        "how much there is to read is not known yet: no broker has answered"
    );

    running.context.progress.update(|shared| {
        shared.build =
            Some(Build { remaining_records: 250, total_records: 1_000, rate: 125.0, eta_seconds: Some(2.0) });
    });
    let answer = running.probe("/startupz");
    assert_eq!(answer.status, 503);
    assert_eq!(answer.json()["remaining_records"], 250);
    assert_eq!(answer.json()["eta_seconds"], 2.0);
    assert_eq!(answer.json()["message"], "250 of 1000 records to go");
    assert_eq!(running.probe("/readyz").error(), (503, "starting".to_owned()));

    running.context.progress.open_gate();
    let answer = running.probe("/startupz");
    assert_eq!((answer.status, &answer.json()["gate"]), (200, &json!("open")));
}

#[test]
fn a_stale_replica_is_ready_and_an_unreadable_one_is_not() {
    let running = start();
    running.context.progress.open_gate();
    let answer = running.probe("/readyz");
    assert_eq!((answer.status, answer.json()), (200, json!({ "ready": true, "state": "stale" })));
    *running.replica.unreadable.lock().unwrap() = Some("the file is gone");
    assert_eq!(running.probe("/readyz").error(), (503, "replica_unreadable".to_owned()));
}

#[tokio::test]
async fn a_loop_that_hangs_is_not_live_but_may_take_long_while_building() {
    let (context, _) = context();
    let progress = context.progress.clone();
    let (_stop, stopping) = watch::channel(false);
    let (_serving, served) = watch::channel(context);
    let server = Arc::new(Server { started_ms: 0, ..Server::new(served, desks(Arc::default()), stopping) });
    let live = async || probes::livez(State(server.clone())).await.status().as_u16();

    assert_eq!(live().await, 503, "no round since 1970");
    progress.tick_pipeline(now_ms() - 60_000);
    progress.tick_writer(now_ms());
    assert_eq!(live().await, 200, "the first copy has time");
    progress.open_gate();
    assert_eq!(live().await, 503, "the pipeline hangs");
    progress.tick_pipeline(now_ms());
    assert_eq!(live().await, 200);
    progress.update(|shared| shared.connected = false);
    assert_eq!(live().await, 200, "a lost broker is no reason to be restarted");
    progress.tick_writer(now_ms() - 60_000);
    assert_eq!(live().await, 503, "the writer hangs");
    progress.enter_store(now_ms() - 60_000);
    assert_eq!(live().await, 200, "an index of a large table is made");
    progress.enter_store(now_ms() - 16 * 60_000);
    assert_eq!(live().await, 503, "no index takes so long");
    progress.enter_store(now_ms() - 60_000);
    progress.tick_pipeline(now_ms() - 60_000);
    assert_eq!(live().await, 503, "the pipeline has nothing to do with it");
}

#[test]
fn a_process_that_has_just_started_is_live() {
    assert_eq!(start().probe("/livez").status, 200);
}

#[test]
fn status_is_what_the_replica_says_and_how_the_daemon_does() {
    let running = start();
    running.context.progress.update(|shared| {
        shared.connected = true;
        shared.store_failing = Some("disk full".to_owned());
    });
    let answer = running.get("/status");
    assert_eq!(answer.status, 200);
    let status = answer.json();
    for (path, expected) in [
        ("/replica", json!("orders-side")),
        ("/state", json!("stale")),
        ("/fresh_as_of_ms", json!(1_769_855_400_000_i64)),
        ("/lag_records", JsonValue::Null),
        ("/tables/0/table_name", json!("users")),
        ("/tables/0/state", json!("stale")),
        ("/tables/0/rows", json!(42)),
        ("/connected", json!(true)),
        ("/gate_open", json!(false)),
        ("/build", JsonValue::Null),
        ("/store_failing", json!("disk full")),
    ] {
        assert_eq!(status.pointer(path), Some(&expected), "{path} in {status}");
    }

    *running.replica.unreadable.lock().unwrap() = Some("the file is gone");
    let answer = running.get("/status");
    assert_eq!(answer.error(), (503, "replica_unreadable".to_owned()));
    assert_eq!(answer.json()["message"], "the file is gone");
    assert_eq!(answer.json()["store_failing"], "disk full", "what the daemon knows is said all the same");
}

#[test]
fn the_page_needs_nobody_else() {
    let answer = start().get("/");
    assert_eq!(answer.status, 200);
    assert!(answer.head.contains("content-security-policy: default-src 'none'"), "{}", answer.head);
    for foreign in ["http://", "https://", "//cdn", "innerHTML", "src="] {
        assert!(!answer.body.contains(foreign), "{foreign}");
    }
}

#[test]
fn unknown_paths_and_methods_are_refused_on_both_listeners() {
    let running = start();
    assert_eq!(running.probe("/status").error(), (404, "unknown_path".to_owned()), "not on this listener");
    assert_eq!(running.get("/metrics").error(), (404, "unknown_path".to_owned()), "not on this listener");
    for (to, path) in [(running.http, "/metrics"), (running.admin, "/status"), (running.admin, "/wait")] {
        for method in ["POST", "DELETE"] {
            let answer = receive(request(to, method, path));
            assert_eq!(answer.status, 405, "{method} {path}");
            assert!(answer.head.contains("allow: get,head"), "{}", answer.head);
        }
    }
}

#[test]
fn only_loopback_names_reach_the_admin_listener() {
    let running = start();
    let ask = |head: &str| receive(send(running.admin, &format!("{head}Connection: close\r\n\r\n"))).status;
    for host in ["localhost", "LocalHost:8080", "127.0.0.1:9465", "[::1]:9465", "[::1]"] {
        assert_eq!(ask(&format!("GET /status HTTP/1.1\r\nHost: {host}\r\n")), 200, "{host}");
    }
    for host in [
        "rebound.example",
        "rebound.example:9465",
        "127.0.0.1.rebound.example",
        "localhost@rebound.example",
        "rebound.example@localhost",
        "localhost, rebound.example",
        "",
    ] {
        assert_eq!(ask(&format!("GET /status HTTP/1.1\r\nHost: {host}\r\n")), 403, "{host}");
    }
    assert_eq!(ask("GET /status HTTP/1.1\r\n"), 403, "no name at all");
    assert_eq!(ask("GET /status HTTP/1.1\r\nHost: localhost\r\nHost: rebound.example\r\n"), 403);
    assert_eq!(ask("GET http://rebound.example/status HTTP/1.1\r\nHost: localhost\r\n"), 403);
    assert_eq!(ask("GET /nowhere HTTP/1.1\r\nHost: rebound.example\r\n"), 403, "also where there is nothing");
    let answer =
        receive(send(running.http, "GET /livez HTTP/1.1\r\nHost: pod.example\r\nConnection: close\r\n\r\n"));
    assert_eq!(answer.status, 200, "the read-only listener is for the cluster");
}

#[test]
fn waiting_for_an_offset_ends_when_the_position_has_passed_it() {
    let running = started();
    running.commit(0, 7);
    assert_eq!(running.get("/wait?topic=users&partition=0&offset=6").status, 200);
    let waiting = request(running.admin, "GET", "/wait?topic=users&partition=0&offset=7&timeout=20s");
    let too_late = running.get("/wait?topic=users&partition=0&offset=7&timeout=20ms");
    assert_eq!(too_late.error(), (504, "timeout".to_owned()), "position 7 has not passed offset 7");
    running.commit(1, 100);
    running.commit(0, 9);
    let answer = receive(waiting);
    assert_eq!(answer.status, 200);
    assert_eq!(
        answer.json(),
        json!({ "outcome": "applied", "topic": "users", "partition": 0, "offset": 7, "next_offset": 9 })
    );
}

#[test]
fn waiting_for_a_dead_letter_ends_with_a_conflict() {
    let running = started();
    running.commit(0, DEAD_LETTER + 1);
    let answer = running.get(&format!("/wait?topic=users&partition=0&offset={DEAD_LETTER}"));
    assert_eq!(answer.error(), (409, "dead_letter".to_owned()));
}

#[test]
fn nothing_is_there_while_the_gate_is_closed() {
    let running = start();
    running.commit(0, 7);
    let early = running.get("/wait?topic=users&partition=0&offset=6&timeout=20ms");
    assert_eq!(early.error(), (504, "timeout".to_owned()));
    running.context.progress.open_gate();
    assert_eq!(running.get("/wait?topic=users&partition=0&offset=6&timeout=20s").status, 200);
}

#[test]
fn a_timeout_of_zero_looks_once() {
    let running = started();
    running.commit(0, 7);
    assert_eq!(running.get("/wait?topic=users&partition=0&offset=6&timeout=0s").status, 200);
    assert_eq!(running.get("/wait?topic=users&partition=0&offset=7&timeout=0s").status, 504);
}

#[test]
fn a_partition_may_appear_while_somebody_waits_for_it() {
    let running = started();
    let untold = running.get("/wait?topic=users&partition=3&offset=0&timeout=20ms");
    assert_eq!(untold.error(), (504, "timeout".to_owned()), "before the first contact nobody can tell");
    running.commit(0, 1);
    let waiting = request(running.admin, "GET", "/wait?topic=users&partition=3&offset=0&timeout=20s");
    let unknown = running.get("/wait?topic=users&partition=3&offset=0&timeout=20ms");
    assert_eq!(unknown.error(), (404, "unknown_partition".to_owned()));
    running.commit(3, 1);
    assert_eq!(receive(waiting).status, 200);
}

#[test]
fn waiting_for_a_version_says_what_became_of_it() {
    let running = started();
    let ask =
        |version: &str| running.get(&format!("/wait?table=users&key=[7]&version={version}&timeout=20ms"));
    assert_eq!(ask("[1,5]").error(), (504, "timeout".to_owned()), "no such row");
    running.put(visible(&[1, 5]));
    let answer = ask("[1,5]");
    assert_eq!(answer.json(), json!({ "outcome": "visible", "table": "users", "version": [1, 5] }));
    assert_eq!(ask("[1,4]").json()["outcome"], "superseded");
    assert_eq!(ask("[0,9]").json()["outcome"], "superseded");
    assert_eq!(ask("[1,6]").status, 504);
    assert_eq!(ask("5").error(), (400, "malformed".to_owned()), "another kind of version");
    running.put(RowLookup::Deleted { version: version(VersionKind::Integers, &[1, 9]) });
    assert_eq!(ask("[1,6]").json(), json!({ "outcome": "deleted", "table": "users", "version": [1, 9] }));
    assert_eq!(ask("[2,0]").status, 504);
}

#[test]
fn a_row_is_looked_at_again_only_when_its_topics_have_moved() {
    let running = started();
    let lookups = running.tell_lookups();
    let waiting =
        request(running.admin, "GET", "/wait?table=users&key=%5B7%5D&version=%5B1,5%5D&timeout=20s");
    let patience = Duration::from_secs(20);
    assert_eq!(lookups.recv_timeout(patience).unwrap(), "0[Integer(7)]");
    // Not a topic of this table.
    running.context.progress.update(|shared| {
        shared.positions.insert(TopicPartition { topic: 0, partition: 0 }, 1);
    });
    running.commit(0, 6);
    lookups.recv_timeout(patience).unwrap();
    running.put(visible(&[1, 5]));
    running.commit(0, 7);
    let answer = receive(waiting);
    assert_eq!((answer.status, &answer.json()["outcome"]), (200, &json!("visible")));
    // The second lookup may have come before the row or behind it, a further one only with the
    // second commit.
    assert!(lookups.try_iter().count() <= 1);
}

#[test]
fn what_cannot_be_waited_for_is_refused_at_once() {
    let running = started();
    for query in [
        "",
        "topic=users",
        "topic=users&partition=0",
        "topic=users&partition=0&offset=1&table=users",
        "topic=users&partition=-1&offset=1",
        "topic=users&partition=4294967296&offset=1",
        "topic=users&partition=0&offset=-1",
        "topic=users&partition=0&offset=9223372036854775808",
        "topic=users&partition=zero&offset=1",
        "topic=users&partition=0&offset=1&timeout=5",
        "topic=users&partition=0&offset=1&timeout=301s",
        "topic=users&partition=0&offset=1&colour=red",
        "topic=users&topic=users&partition=0&offset=1",
        "table=users&key=[7]",
        "table=users&key=7&version=[1]",
        "table=users&key=[7,8]&version=[1]",
        "table=users&key=[%22seven%22]&version=[1]",
        "table=users&key=%00&version=[1]",
        "table=users&key=[7]&version=newest",
        "table=log&key=[7]&version=1",
    ] {
        let answer = running.get(&format!("/wait?{query}"));
        assert_eq!(answer.error(), (400, "malformed".to_owned()), "{query}");
        assert!(!answer.json()["message"].as_str().unwrap().is_empty());
    }
    for (query, error) in [
        ("topic=nobody&partition=0&offset=1", "unknown_topic"),
        ("table=nobody&key=[7]&version=1", "unknown_table"),
    ] {
        assert_eq!(running.get(&format!("/wait?{query}")).error(), (404, error.to_owned()), "{query}");
    }
}

#[test]
fn a_request_head_that_is_too_long_is_refused() {
    let running = started();
    let key = "1".repeat(64 * 1024);
    let mut stream = TcpStream::connect(running.admin).unwrap();
    // The server may close before it has read everything.
    let _ = stream.write_all(format!("GET /wait?key={key} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes());
    let mut start = Vec::new();
    let _ = stream.take(16).read_to_end(&mut start);
    assert!(!start.starts_with(b"HTTP/1.1 2"), "{start:?}");
    assert_eq!(running.get("/status").status, 200);
}

#[test]
fn waiters_are_bounded_and_those_that_go_away_make_room() {
    let running = started();
    let lookups = running.tell_lookups();
    let path = "/wait?table=users&key=[7]&version=[1]&timeout=60s";
    let waiting: Vec<_> = (0..WAITERS_MAX).map(|_| request(running.admin, "GET", path)).collect();
    for _ in &waiting {
        lookups.recv_timeout(Duration::from_secs(20)).unwrap();
    }
    let refused = running.get(path);
    assert_eq!(refused.error(), (429, "too_many_waiters".to_owned()));
    assert!(refused.head.contains("retry-after: 1"), "{}", refused.head);
    assert_eq!(running.get("/status").status, 200, "others are not kept out");
    drop(waiting);
    let deadline = Instant::now() + Duration::from_secs(20);
    let brief = "/wait?table=users&key=[7]&version=[1]&timeout=1ms";
    while running.get(brief).status == 429 {
        assert!(Instant::now() < deadline, "slots of waiters that went away are not given back");
    }
}

#[test]
fn a_stop_ends_waiting_at_once() {
    let mut running = started();
    let lookups = running.tell_lookups();
    let waiting = request(running.admin, "GET", "/wait?table=users&key=[7]&version=[1]&timeout=120s");
    lookups.recv_timeout(Duration::from_secs(20)).unwrap();
    let idle = TcpStream::connect(running.admin).unwrap();
    let took = running.end();
    assert_eq!(receive(waiting).error(), (503, "shutting_down".to_owned()));
    assert!(took < PATIENCE, "{took:?}");
    drop(idle);
}

#[test]
fn a_daemon_that_has_stopped_for_good_says_so_to_who_waits() {
    let running = started();
    running.commit(0, 7);
    let waiting = request(running.admin, "GET", "/wait?topic=users&partition=0&offset=7&timeout=60s");
    running.context.progress.update(|shared| shared.stopped = Some("topic recreated".to_owned()));
    let answer = receive(waiting);
    assert_eq!(answer.error(), (503, "stopped".to_owned()));
    assert!(answer.body.contains("topic recreated"));
    assert_eq!(running.get("/wait?topic=users&partition=0&offset=6").status, 200, "what is there is there");
}

#[test]
fn an_address_that_is_taken_is_named() {
    let taken = bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = taken.local_addr().unwrap();
    let error = bind(address).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    assert!(error.to_string().contains(&address.to_string()), "{error}");
}

#[test]
fn a_rebuild_is_begun_by_post_only_and_says_what_became_of_it() {
    use crate::pipeline::rebuild::Answer as Began;

    let running = started();
    assert_eq!(running.get("/rebuild").status, 405);
    assert_eq!(
        receive(request(running.http, "POST", "/rebuild")).status,
        404,
        "not on the read-only listener"
    );
    let foreign = "POST /rebuild HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n";
    assert_eq!(receive(send(running.admin, foreign)).error(), (403, "foreign_host".to_owned()));
    assert_eq!(receive(request(running.admin, "POST", "/rebuild?loss=yes")).status, 400);
    assert!(running.rebuilds.take_requests().is_empty(), "none of these got through");

    for (path, accepts_loss, answer, status) in [
        ("/rebuild", false, Began::Begun(2), 202),
        ("/rebuild?accept_loss=true", true, Began::Running(2), 409),
        ("/rebuild?accept_loss=false", false, Began::Refused("no room".to_owned()), 507),
    ] {
        let asking = request(running.admin, "POST", path);
        let until = Instant::now() + Duration::from_secs(20);
        let request = loop {
            if let Some(request) = running.rebuilds.take_requests().pop() {
                break request;
            }
            assert!(Instant::now() < until, "{path} did not arrive");
            std::thread::yield_now();
        };
        assert_eq!(request.accepts_loss, accepts_loss, "{path}");
        request.reply.send(answer).unwrap();
        let answer = receive(asking);
        assert_eq!(answer.status, status, "{path}: {answer:?}");
    }
}

#[test]
fn dead_letters_are_listed_as_asked() {
    let running = started();
    let answer = running.get("/dead-letters?topic=users&offset=4004&limit=1&bytes=true&after=users/0/7/");
    let json = answer.json();
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(json["dead_letters"][0]["reason"], "wrong_type");
    assert_eq!(json["dead_letters"][0]["table_name"], "users");
    assert_eq!(json["next"], format!("users/0/{DEAD_LETTER}/users"));
    let asked = running.replica.asked_letters.lock().unwrap().pop().unwrap();
    assert_eq!((asked.limit, asked.bytes, asked.filter.offset), (1, true, Some(4004)));
    assert_eq!(asked.after.unwrap().to_string(), "users/0/7/");
    for path in ["/dead-letters?after=x", "/dead-letters?offset=x", "/dead-letters?colour=red"] {
        assert_eq!(running.get(path).error(), (400, "malformed".to_owned()), "{path}");
    }
}

#[test]
fn a_retry_is_handed_to_the_pipeline_and_told_of() {
    let running = started();
    running.context.progress.letters.open();
    let asking = request(running.admin, "POST", "/dead-letters/retry?table=users");
    let errand = loop {
        match running.context.progress.letters.take() {
            Some(errand) => break errand,
            None => std::thread::yield_now(),
        }
    };
    let Work::Retry(found) = &errand.work else { panic!("{errand:?}") };
    assert_eq!((found[0].at.topic, found[0].offset, found[0].order_ms), (1, DEAD_LETTER, 7));
    // Meanwhile nobody else may.
    let busy = receive(request(running.admin, "POST", "/dead-letters/drop?all=true"));
    assert_eq!(busy.error(), (409, "running".to_owned()));
    errand.reply.send(Done { outcomes: vec![Outcome::Superseded], dropped: 0 }).unwrap();
    let answer = receive(asking);
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.json()["records"][0]["result"], "superseded");
    let metrics = running.context.metrics.render(0);
    let series = r#"readside_dead_letters_retried_total{result="superseded",topic="users"} 1"#;
    assert!(metrics.contains(series), "{metrics}");
}

#[test]
fn what_is_dropped_has_to_be_said_and_somebody_has_to_apply() {
    let running = started();
    for path in ["/dead-letters/drop", "/dead-letters/drop?all=true&table=users", "/dead-letters/retry"] {
        let answer = receive(request(running.admin, "POST", path));
        assert_eq!(answer.error(), (400, "malformed".to_owned()), "{path}");
    }
    // The copy that serves is left as it is.
    for path in ["/dead-letters/drop?all=true", "/dead-letters/retry?all=true"] {
        let answer = receive(request(running.admin, "POST", path));
        assert_eq!(answer.error(), (409, "not_applying".to_owned()), "{path}");
    }
    assert_eq!(running.get("/dead-letters/drop?all=true").status, 405);
}

#[test]
fn a_page_from_elsewhere_changes_nothing() {
    let running = started();
    running.context.progress.letters.open();
    for (origin, status) in [
        ("http://shop.example", 403),
        ("null", 403),
        ("http://127.0.0.1.shop.example", 403),
        ("http://localhost:9465", 400),
    ] {
        let mut stream = TcpStream::connect(running.admin).unwrap();
        let host = running.admin;
        write!(
            stream,
            "POST /dead-letters/drop HTTP/1.1\r\nHost: {host}\r\nOrigin: {origin}\r\nConnection: close\r\n\
             Content-Length: 0\r\n\r\n"
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{origin}: {answer}");
    }
}

/// A generation under another mapping takes over while somebody waits.
#[test]
fn a_wait_goes_on_in_the_generation_that_takes_over() {
    let running = started();
    running.commit(0, 3);
    let asking = request(running.admin, "GET", "/wait?topic=users&partition=0&offset=7&timeout=20s");
    // Topic `users` has another place in the new mapping, and the old one moves no more.
    let catalog = Catalog {
        topics: vec!["users".to_owned()],
        tables: vec![Table { topics: vec![0], ..table("users", false) }],
        fingerprint: "new".to_owned(),
    };
    let next = Context {
        metrics: Arc::new(running.context.metrics.beside(&catalog)),
        catalog: Arc::new(catalog),
        progress: Arc::default(),
        reader: running.context.reader.clone(),
    };
    next.progress.open_gate();
    running.serving.send(next.clone()).unwrap();
    next.progress.update(|shared| {
        shared.positions.insert(TopicPartition { topic: 0, partition: 0 }, 8);
    });
    let answer = receive(asking);
    assert_eq!((answer.status, answer.json()["next_offset"].as_i64()), (200, Some(8)), "{answer:?}");
}
