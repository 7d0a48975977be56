//! A real schema registry for tests: Apicurio Registry, which speaks the API of Confluent's, in memory
//! and on a free port. One is shared by all tests of the process; a [`Gate`] in front of it can be
//! closed, for tests in which it goes away. Where it is missing (`make services` gets it) a test skips
//! and says so, unless `READSIDE_REQUIRE_SERVICES=1`, which makes it fail.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::children;
use crate::kafka::eventually;

const API: &str = "/apis/ccompat/v7";

pub struct Registry {
    address: SocketAddr,
    /// Ends with the process of the tests.
    _process: Child,
}

/// The registry of this test process, started when first asked for; `None`: skip the test.
pub fn shared() -> Option<&'static Registry> {
    static SHARED: OnceLock<Option<Registry>> = OnceLock::new();
    SHARED
        .get_or_init(|| {
            if !home().join(".complete").exists() {
                children::skip_without("schema registry: run `make services`");
                return None;
            }
            Some(Registry::start())
        })
        .as_ref()
}

fn home() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(".cache/registry")
}

impl Registry {
    fn start() -> Registry {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("registry");
        fs::create_dir_all(&dir).expect("its directory");
        let output = dir.join(format!("output-{}", std::process::id()));
        for _ in 0..3 {
            // It may be taken by somebody else before the registry binds it.
            let held = TcpListener::bind("127.0.0.1:0").expect("a free port");
            let address = held.local_addr().expect("its address");
            drop(held);
            let log = fs::File::create(&output).expect("its log");
            let mut command = Command::new("java");
            command
                .args(["-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-jar"])
                .arg(home().join("apicurio-registry-app-2.6.13.Final-runner.jar"))
                .env("QUARKUS_HTTP_HOST", "127.0.0.1")
                .env("QUARKUS_HTTP_PORT", address.port().to_string())
                .current_dir(&dir)
                .stdin(Stdio::null())
                .stdout(log.try_clone().expect("its log"))
                .stderr(log);
            let mut process = children::spawn_for_all(command).expect("java");
            let up = eventually("the registry answers", || {
                match request(address, "GET", &format!("{API}/subjects"), "") {
                    Some((200, _)) => Some(true),
                    _ => process.try_wait().expect("its state").map(|_| false),
                }
            });
            if up {
                // It goes on writing to a file without a name, which ends with it.
                let _ = fs::remove_file(&output);
                return Registry { address, _process: process };
            }
        }
        panic!("the registry does not start:\n{}", fs::read_to_string(&output).unwrap_or_default());
    }

    /// For `schema_registry.url`.
    pub fn url(&self) -> String {
        format!("http://{}{API}", self.address)
    }

    /// `http://host:port`, below which it has other APIs too.
    pub fn origin(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Registers a schema and returns its id.
    pub fn register(&self, subject: &str, kind: &str, schema: &str, references: &[(&str, &str)]) -> u32 {
        let references: Vec<Value> = references
            .iter()
            .map(|(name, subject)| json!({ "name": name, "subject": subject, "version": 1 }))
            .collect();
        let body = json!({ "schema": schema, "schemaType": kind, "references": references }).to_string();
        let path = format!("{API}/subjects/{subject}/versions");
        let (status, answer) = request(self.address, "POST", &path, &body).expect("an answer");
        let answer: Value = serde_json::from_str(&answer).unwrap_or_default();
        let id = answer["id"].as_u64().unwrap_or_else(|| panic!("{subject}: HTTP {status}: {answer}"));
        id.try_into().expect("an id")
    }

    /// A way to it that can be closed.
    pub fn gate(&self) -> Gate {
        Gate::open(self.address)
    }
}

/// A way to a server: while it is closed, connections are cut as soon as they are made.
pub struct Gate {
    address: SocketAddr,
    is_open: Arc<AtomicBool>,
    requests: Arc<AtomicU64>,
}

impl Gate {
    fn open(server: SocketAddr) -> Gate {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("its address");
        let is_open = Arc::new(AtomicBool::new(true));
        let requests = Arc::new(AtomicU64::new(0));
        let (open, count) = (Arc::clone(&is_open), Arc::clone(&requests));
        // Ends with the process; there are few.
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                count.fetch_add(1, Ordering::SeqCst);
                if open.load(Ordering::SeqCst)
                    && let Ok(server) = TcpStream::connect(server)
                {
                    thread::spawn(move || pass(client, server));
                }
            }
        });
        Gate { address, is_open, requests }
    }

    pub fn url(&self) -> String {
        format!("http://{}{API}", self.address)
    }

    pub fn close(&self) {
        self.is_open.store(false, Ordering::SeqCst);
    }

    pub fn reopen(&self) {
        self.is_open.store(true, Ordering::SeqCst);
    }

    /// Connections so far, closed or not.
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::SeqCst)
    }
}

fn pass(client: TcpStream, server: TcpStream) {
    let (Ok(mut from), Ok(mut to)) = (client.try_clone(), server.try_clone()) else { return };
    thread::spawn(move || {
        let _ = io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Write);
    });
    let (mut from, mut to) = (server, client);
    let _ = io::copy(&mut from, &mut to);
    let _ = to.shutdown(Shutdown::Both);
}

/// Status and body of an answer; `None` when nobody answers.
pub fn request(address: SocketAddr, method: &str, path: &str, body: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(2)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(30))).ok()?;
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\
         Content-Type: application/vnd.schemaregistry.v1+json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok()?;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}
