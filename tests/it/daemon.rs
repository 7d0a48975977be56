//! The real daemon as a process: started, asked, killed.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use crate::children;
use crate::kafka::{WAIT_MAX, eventually};

/// A running `readside run`. Killed when dropped.
pub struct Daemon {
    child: Child,
    log: PathBuf,
    addresses: Option<(SocketAddr, SocketAddr)>,
}

impl Daemon {
    /// Starts it in `dir` with `yaml` plus listeners on ports of its own. The replica is meant to be
    /// at [`replica`] of the same directory.
    pub fn start(dir: &Path, yaml: &str) -> Daemon {
        let config = dir.join("readside.yaml");
        let listeners = "http: { listen: '127.0.0.1:0' }\nadmin: { listen: '127.0.0.1:0' }\n";
        std::fs::write(&config, format!("{yaml}\n{listeners}")).unwrap();
        Daemon::start_with(dir, &config, &[])
    }

    /// Starts it with a configuration that is there, and variables laid over it. Its log goes to `dir`.
    pub fn start_with(dir: &Path, config: &Path, variables: &[(&str, &str)]) -> Daemon {
        let log = dir.join("log");
        let out = std::fs::File::create(&log).unwrap();
        // Another build, such as the program of an image, where one is to be measured.
        let other = std::env::var_os("READSIDE_PROGRAM");
        let mut command = Command::new(other.unwrap_or_else(|| env!("CARGO_BIN_EXE_readside").into()));
        command
            .arg("run")
            .arg("--config")
            .arg(config)
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(out);
        Daemon { child: children::spawn(&mut command).unwrap(), log, addresses: None }
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Addresses of the two listeners, once they are logged; `None` when the process ended before.
    fn addresses(&mut self) -> Option<(SocketAddr, SocketAddr)> {
        if self.addresses.is_none() {
            self.addresses = eventually("the daemon listens", || {
                if self.child.try_wait().unwrap().is_some() {
                    return Some(None);
                }
                let log = self.log();
                let line = log.lines().find(|line| line.contains("\"listening\""))?;
                let line: serde_json::Value = serde_json::from_str(line).ok()?;
                let field = |name: &str| line["fields"][name].as_str().or(line[name].as_str())?.parse().ok();
                Some(Some((field("http")?, field("admin")?)))
            });
        }
        self.addresses
    }

    /// `host:port` of the read-only listener and of the admin one.
    pub fn listeners(&mut self) -> (String, String) {
        let (http, admin) = self.addresses().expect("the daemon listens");
        (http.to_string(), admin.to_string())
    }

    /// GET from the read-only listener: status code and body; `None` when nobody answers.
    pub fn get(&mut self, path: &str) -> Option<(u16, String)> {
        request(self.addresses()?.0, "GET", path)
    }

    /// GET from the admin listener.
    pub fn admin(&mut self, path: &str) -> Option<(u16, String)> {
        request(self.addresses()?.1, "GET", path)
    }

    /// POST to the admin listener, without a body.
    pub fn post(&mut self, path: &str) -> Option<(u16, String)> {
        request(self.addresses()?.1, "POST", path)
    }

    /// `GET /status`.
    pub fn status(&mut self) -> serde_json::Value {
        let (_, body) = self.admin("/status").expect("an answer");
        serde_json::from_str(&body).unwrap()
    }

    /// Waits until the start-up gate is open.
    pub fn started(&mut self) {
        self.started_within(WAIT_MAX);
    }

    pub fn started_within(&mut self, limit: Duration) {
        let begin = Instant::now();
        loop {
            match self.get("/startupz") {
                Some((200, _)) => return,
                _ if self.child.try_wait().unwrap().is_some() => panic!("the daemon ended:\n{}", self.log()),
                last => {
                    assert!(begin.elapsed() < limit, "not started within {limit:?}: {last:?}\n{}", self.log())
                }
            }
            std::thread::park_timeout(Duration::from_millis(10));
        }
    }

    /// The value of one series, `NaN` included; `None` when it is not there.
    pub fn metric(&mut self, series: &str) -> Option<f64> {
        let (_, body) = self.get("/metrics")?;
        let line =
            body.lines().find(|line| line.strip_prefix(series).is_some_and(|rest| rest.starts_with(' ')))?;
        line.rsplit(' ').next()?.parse().ok()
    }

    /// The sum of all series of a name.
    pub fn metric_sum(&mut self, name: &str) -> Option<f64> {
        let (_, body) = self.get("/metrics")?;
        let values = body
            .lines()
            .filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])))
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
        Some(values.sum())
    }

    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    pub fn signal(&self, signal: i32) {
        // SAFETY: a signal to a child that has not been reaped.
        unsafe { libc::kill(self.pid(), signal) };
    }

    /// Peak resident memory in KiB (VmHWM).
    pub fn peak_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// kill -9.
    pub fn kill(mut self) {
        self.signal(libc::SIGKILL);
        self.child.wait().unwrap();
    }

    /// SIGTERM, then the exit status and how long it took.
    pub fn terminate(mut self) -> (ExitStatus, Duration) {
        let begin = Instant::now();
        self.signal(libc::SIGTERM);
        let status = self.wait();
        (status, begin.elapsed())
    }

    /// Its exit status, if it has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Waits for it to end by itself.
    pub fn wait(&mut self) -> ExitStatus {
        // The log is printed when a test has failed.
        eventually("the daemon ends", || self.ended())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- log of the daemon ---\n{}", self.log());
        }
    }
}

/// Where the tests' replicas are.
pub fn replica(dir: &Path) -> PathBuf {
    dir.join("replica").join("replica.db")
}

/// `kafka:` and `replica:` of a configuration.
pub fn header(brokers: &str, dir: &Path) -> String {
    format!(
        "kafka: {{ brokers: '{brokers}' }}\nreplica: {{ sqlite: {{ path: {} }} }}\n",
        replica(dir).display()
    )
}

/// Runs a command to its end, which has to come.
pub fn output(command: &mut Command) -> Output {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    output_of(child, &format!("{command:?}"))
}

/// What a process leaves when it has ended; `what` names it where it does not.
pub fn output_of(child: Child, what: &str) -> Output {
    let pid = child.id() as i32;
    let (ended, waiting) = std::sync::mpsc::channel();
    std::thread::spawn(move || ended.send(child.wait_with_output()));
    let Ok(output) = waiting.recv_timeout(WAIT_MAX) else {
        // SAFETY: a signal to a child that nobody has reaped: its waiter is still at it.
        unsafe { libc::kill(pid, libc::SIGKILL) };
        panic!("still running after {WAIT_MAX:?}: {what}");
    };
    output.unwrap()
}

/// Exit code of a command, and what it said to both sides.
pub fn said(output: &Output) -> (i32, String) {
    let [out, err] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
    (output.status.code().unwrap(), format!("{out}{err}"))
}

/// A reader as a service would have it: a read-only connection of another process than the daemon.
pub fn reader(dir: &Path) -> rusqlite::Connection {
    let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
    let connection = rusqlite::Connection::open_with_flags(replica(dir), flags).unwrap();
    connection.busy_timeout(WAIT_MAX).unwrap();
    connection
}

/// All rows of a query as text, columns joined by `|`, null as `NULL`.
pub fn rows(connection: &rusqlite::Connection, sql: &str) -> Vec<String> {
    try_rows(connection, sql).unwrap_or_else(|error| panic!("{sql}: {error}"))
}

pub fn try_rows(connection: &rusqlite::Connection, sql: &str) -> rusqlite::Result<Vec<String>> {
    use rusqlite::types::ValueRef;
    let mut statement = connection.prepare(sql)?;
    let columns = statement.column_count();
    let mut found = statement.query([])?;
    let mut rows = Vec::new();
    while let Some(row) = found.next()? {
        let cells: Vec<String> = (0..columns)
            .map(|column| match row.get_ref(column).unwrap() {
                ValueRef::Null => "NULL".to_owned(),
                ValueRef::Integer(number) => number.to_string(),
                ValueRef::Real(number) => number.to_string(),
                ValueRef::Text(text) => String::from_utf8_lossy(text).into_owned(),
                ValueRef::Blob(bytes) => format!("{bytes:?}"),
            })
            .collect();
        rows.push(cells.join("|"));
    }
    Ok(rows)
}

fn request(address: SocketAddr, method: &str, path: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&address, WAIT_MAX).ok()?;
    stream.set_read_timeout(Some(WAIT_MAX)).ok()?;
    write!(stream, "{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").ok()?;
    let mut reply = String::new();
    stream.read_to_string(&mut reply).ok()?;
    let (head, body) = reply.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}
