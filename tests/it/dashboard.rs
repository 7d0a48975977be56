//! Every query of the dashboard and every alert, asked of a real Prometheus that scrapes a real daemon.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::children;
use crate::daemon::{Daemon, header};
use crate::kafka::{self, Message, WAIT_MAX, eventually};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A Prometheus with its data in a test's directory. Killed when dropped.
struct Prometheus {
    child: Child,
    port: u16,
}

/// Where the server is; `None`: skip the test.
fn server() -> Option<PathBuf> {
    let cached = root().join(".cache/tools/bin/prometheus");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .map(|directory| directory.join("prometheus"))
        .chain([cached])
        .find(|path| path.is_file());
    if found.is_none() {
        children::skip_without("prometheus: run `make deploy-tools`");
    }
    found
}

impl Prometheus {
    /// Scrapes `target` every second, with the shipped rules.
    fn start(program: &Path, dir: &Path, target: &str) -> Prometheus {
        let config = dir.join("prometheus.yaml");
        let rules = root().join("deploy/prometheus/rules.yaml");
        let text = format!(
            "global: {{ scrape_interval: 1s, evaluation_interval: 1s }}\nrule_files: ['{}']\n\
             scrape_configs: [{{ job_name: readside, static_configs: [{{ targets: ['{target}'] }}] }}]\n",
            rules.display()
        );
        std::fs::write(&config, text).unwrap();
        let log = dir.join("prometheus.log");
        for _ in 0..5 {
            // Taken and given back, and somebody else may get it first: Prometheus does not say which port
            // it was given.
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let mut command = Command::new(program);
            command
                .arg(format!("--config.file={}", config.display()))
                .arg(format!("--storage.tsdb.path={}", dir.join("data").display()))
                .arg(format!("--web.listen-address=127.0.0.1:{port}"))
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(std::fs::File::create(&log).unwrap());
            let child = children::spawn(&mut command).unwrap();
            let mut started = Prometheus { child, port };
            let answers = eventually("Prometheus answers", || match started.child.try_wait().unwrap() {
                Some(_) => Some(false),
                None => started.get("/api/v1/status/buildinfo").map(|_| true),
            });
            if answers {
                return started;
            }
        }
        panic!("Prometheus does not start:\n{}", std::fs::read_to_string(&log).unwrap_or_default());
    }

    /// `data` of an answer of the HTTP API; `None` when it does not answer or refuses.
    fn get(&self, path: &str) -> Option<Value> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).ok()?;
        // HTTP/1.0: the answer comes in one piece and ends with the connection.
        write!(stream, "GET {path} HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n").ok()?;
        let mut reply = String::new();
        stream.read_to_string(&mut reply).ok()?;
        let answer: Value = serde_json::from_str(reply.split_once("\r\n\r\n")?.1).ok()?;
        assert_ne!(answer["status"], "error", "{path}: {answer}");
        Some(answer["data"].clone())
    }

    /// Values of an instant query.
    fn query(&self, expression: &str) -> Option<Vec<f64>> {
        let data = self.get(&format!("/api/v1/query?query={}", encoded(expression)))?;
        let samples = data["result"].as_array()?;
        Some(samples.iter().filter_map(|sample| sample["value"][1].as_str()?.parse().ok()).collect())
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn encoded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

/// (panel, expression) of every query, with Grafana's variables filled in.
fn queries() -> Vec<(String, String)> {
    let text = std::fs::read_to_string(root().join("deploy/grafana/readside.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&text).unwrap();
    let mut found = Vec::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().into_iter().flatten() {
            let expression = target["expr"].as_str().unwrap();
            let filled = expression
                .replace("$job", ".*")
                .replace("$instance", ".*")
                .replace("$__rate_interval", "20s")
                .replace("$__range", "1m");
            assert!(!filled.contains('$'), "a variable is left: {filled}");
            found.push((panel["title"].as_str().unwrap().to_owned(), filled));
        }
    }
    found
}

#[test]
fn every_query_of_every_panel_returns_data_and_every_rule_can_be_evaluated() {
    let (Some(program), Some(broker)) = (server(), kafka::shared()) else { return };
    let dir = tempfile::tempdir().unwrap();
    let topic = kafka::topic_name("dashboard");
    broker.create_topic(&topic, 3, &[]);
    let row = |id: u32| Message::new(id.to_string(), format!(r#"{{"id":{id},"name":"Ada"}}"#));
    broker.produce(&topic, (0..100).map(row));
    let yaml = format!(
        "{}dead_letters: {{ max: 1000000, max_rate: none }}\ntables:\n  users:\n    topic: {topic}\n    key: id\n    \
         columns: {{ id: integer, name: text }}\n",
        header(&broker.bootstrap(), dir.path())
    );
    let mut daemon = Daemon::start(dir.path(), &yaml);
    daemon.started();
    let prometheus = Prometheus::start(&program, dir.path(), &daemon.listeners().0);

    // Rates need events while it scrapes; each round adds a row, a delete and a dead letter.
    let mut next = 100;
    let mut waiting = queries();
    assert!(waiting.len() >= 35, "{}", waiting.len());
    let begin = std::time::Instant::now();
    while !waiting.is_empty() {
        broker.produce(
            &topic,
            [row(next), Message::tombstone((next - 50).to_string()), Message::new("0", "not json")],
        );
        next += 1;
        std::thread::park_timeout(std::time::Duration::from_millis(200));
        waiting.retain(|(_, expression)| {
            !prometheus.query(expression).is_some_and(|values| values.iter().any(|value| !value.is_nan()))
        });
        assert!(begin.elapsed() < WAIT_MAX, "no data for {waiting:#?}");
    }

    // As the stat panels would show it.
    let fit = queries().into_iter().find(|(panel, _)| panel == "Copies that are fit to be read").unwrap().1;
    eventually("the copy is fit to be read", || (prometheus.query(&fit)? == [1.0]).then_some(()));

    // One that is pending may come to nothing.
    let firing = |rule: &Value| {
        let alerts = rule["alerts"].as_array();
        alerts.is_some_and(|alerts| alerts.iter().any(|alert| alert["state"] == "firing"))
    };
    let health = eventually("every rule was evaluated, and the dead letters are noticed", || {
        let data = prometheus.get("/api/v1/rules")?;
        let rules = data["groups"][0]["rules"].as_array()?.clone();
        (rules.iter().all(|rule| rule["health"] != "unknown") && rules.iter().any(firing)).then_some(rules)
    });
    assert!(health.len() >= 15);
    for rule in &health {
        assert_eq!(rule["health"], "ok", "{rule}");
        // The only thing that is wrong with it: what was planted.
        assert_eq!(firing(rule), rule["name"] == "ReadsideDeadLetters", "{rule}");
    }
}

/// It was 0 until the store had refused a batch and taken it again.
#[test]
fn a_store_that_has_never_refused_a_batch_is_connected() {
    let dir = tempfile::tempdir().unwrap();
    let yaml = format!(
        "{}tables:\n  users:\n    topic: nobody.answers\n    key: id\n    columns: {{ id: integer }}\n",
        header("127.0.0.1:1", dir.path())
    );
    let mut daemon = Daemon::start(dir.path(), &yaml);
    eventually("connected", || (daemon.metric("readside_store_connected")? == 1.0).then_some(()));
    assert_eq!(daemon.metric("readside_kafka_connected"), Some(0.0));
}
