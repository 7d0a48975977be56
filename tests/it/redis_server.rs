//! A private redis-server on a unix socket in a directory of its own, and what a reader finds in it.
//!
//! A test starts and restarts its server from the test's own thread: the server is killed when the
//! thread that started it ends (`PR_SET_PDEATHSIG`). Where redis-server is missing (`make setup`
//! installs it) a test skips and says so, unless `READSIDE_REQUIRE_SERVICES=1`, which makes it fail.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use redis::{
    Client, Connection, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, RedisConnectionInfo, cmd,
};

use crate::children;
use crate::kafka::eventually;

pub struct RedisServer {
    dir: tempfile::TempDir,
    arguments: Vec<String>,
    process: Option<Child>,
}

/// Starts one with these arguments besides the socket's; `None`: skip the test.
pub fn start(arguments: &[&str]) -> Option<RedisServer> {
    if !is_installed() {
        children::skip_without("redis-server: run `make setup`");
        return None;
    }
    let mut server = RedisServer {
        dir: tempfile::tempdir().unwrap(),
        arguments: arguments.iter().map(|argument| (*argument).to_owned()).collect(),
        process: None,
    };
    server.launch();
    Some(server)
}

/// What is started as a Redis: another version, or a Valkey, where the environment names one.
fn program() -> String {
    std::env::var("READSIDE_REDIS_SERVER").unwrap_or_else(|_| "redis-server".to_owned())
}

fn is_installed() -> bool {
    static FOUND: OnceLock<bool> = OnceLock::new();
    *FOUND.get_or_init(|| {
        let asked = Command::new(program()).arg("--version").stdout(Stdio::null()).status();
        asked.is_ok_and(|status| status.success())
    })
}

impl RedisServer {
    /// Where its files are; only `redis.sock`, `redis.log` and what persistence writes is in use.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("redis.sock")
    }

    /// For `replica.redis.url`.
    pub fn url(&self) -> String {
        format!("unix:{}", self.socket().display())
    }

    /// A connection of the default user.
    pub fn connect(&self) -> Connection {
        self.try_connect(RedisConnectionInfo::default()).unwrap()
    }

    pub fn connect_as(&self, user: &str, password: &str) -> Connection {
        self.try_connect(RedisConnectionInfo::default().set_username(user).set_password(password)).unwrap()
    }

    pub fn try_connect(&self, login: RedisConnectionInfo) -> redis::RedisResult<Connection> {
        connect(&self.socket(), login)
    }

    /// kill -9; what it had not written is gone.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    /// `SHUTDOWN NOSAVE`.
    pub fn shut_down(&mut self) {
        // It answers by going away.
        let _ = cmd("SHUTDOWN").arg("NOSAVE").query::<()>(&mut self.connect());
        if let Some(mut process) = self.process.take() {
            eventually("redis has ended", || process.try_wait().unwrap());
        }
    }

    /// After [`RedisServer::kill`] or [`RedisServer::shut_down`]: same socket, same files.
    pub fn restart(&mut self) {
        assert!(self.process.is_none());
        self.launch();
    }

    fn launch(&mut self) {
        let dir = self.dir.path();
        let mut command = Command::new(program());
        command
            .args(["--port", "0", "--save", "", "--daemonize", "no", "--enable-debug-command", "yes"])
            .arg("--unixsocket")
            .arg(self.socket())
            .arg("--dir")
            .arg(dir)
            .arg("--logfile")
            .arg(dir.join("redis.log"))
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let mut child = children::spawn(&mut command).unwrap();
        eventually("redis answers", || {
            let log = || std::fs::read_to_string(dir.join("redis.log")).unwrap_or_default();
            assert!(child.try_wait().unwrap().is_none(), "redis ended:\n{}", log());
            let mut connection = match self.try_connect(RedisConnectionInfo::default()) {
                Ok(connection) => connection,
                // The default user may be off.
                Err(error) if error.kind() == redis::ErrorKind::AuthenticationFailed => return Some(()),
                Err(_) => return None,
            };
            match cmd("PING").query::<String>(&mut connection) {
                Ok(_) => Some(()),
                Err(error) if matches!(error.code(), Some("NOAUTH" | "NOPERM")) => Some(()),
                // It still reads its files.
                Err(_) => None,
            }
        });
        self.process = Some(child);
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// A connection of the default user to a server that may not be there.
pub fn connect_to(socket: &Path) -> redis::RedisResult<Connection> {
    connect(socket, RedisConnectionInfo::default())
}

fn connect(socket: &Path, login: RedisConnectionInfo) -> redis::RedisResult<Connection> {
    let info: ConnectionInfo = ConnectionAddr::Unix(socket.to_owned()).into_connection_info()?;
    let connection = Client::open(info.set_redis_settings(login))?.get_connection_with_timeout(LIMIT)?;
    connection.set_read_timeout(Some(LIMIT))?;
    Ok(connection)
}

const LIMIT: std::time::Duration = std::time::Duration::from_secs(20);

/// All keys that match a pattern.
pub fn keys(connection: &mut Connection, pattern: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut cursor = 0u64;
    loop {
        let (next, keys): (u64, Vec<String>) = cmd("SCAN")
            .arg(cursor)
            .arg("MATCH")
            .arg(pattern)
            .arg("COUNT")
            .arg(1000)
            .query(connection)
            .unwrap();
        found.extend(keys);
        cursor = next;
        if cursor == 0 {
            return found;
        }
    }
}

/// The members of all sets of a table's indexes, by the sets' names behind the table's.
pub fn indexes(connection: &mut Connection, prefix: &str, table: &str) -> BTreeMap<String, BTreeSet<String>> {
    let before = format!("{prefix}{table}@");
    let mut found = BTreeMap::new();
    for key in keys(connection, &format!("{before}*")) {
        let members: BTreeSet<String> = cmd("SMEMBERS").arg(&key).query(connection).unwrap();
        found.insert(key[before.len()..].to_owned(), members);
    }
    found
}
