//! A private Redis on a unix socket in a temporary directory.

use std::io;
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::config::{Redis, RedisServer, RedisUrl, RowEncoding};
use crate::store::contract::HEARTBEAT_LIMIT;
use crate::store::{LossLimit, RedisSettings};
use crate::testing::skip_without;

/// Killed when it is dropped, and when the process ends however it ends.
pub(crate) struct Server {
    directory: TempDir,
    process: Option<Child>,
    /// Further words of its command line.
    more: Vec<String>,
}

/// What is started as a Redis: another version, or a Valkey, where the environment names one.
pub(crate) fn program() -> String {
    std::env::var("READSIDE_REDIS_SERVER").unwrap_or_else(|_| "redis-server".to_owned())
}

/// Whether there is a Redis to start; says so if not, unless its absence is a failure.
pub(crate) fn available() -> bool {
    static FOUND: OnceLock<bool> = OnceLock::new();
    *FOUND.get_or_init(|| {
        let found = Command::new(program()).arg("--version").stdout(Stdio::null()).status().is_ok();
        if !found {
            skip_without("redis-server; `apt-get install redis-server`");
        }
        found
    })
}

/// One for all tests that do it no harm.
pub(crate) fn shared() -> &'static Server {
    static SHARED: OnceLock<Server> = OnceLock::new();
    SHARED.get_or_init(Server::start)
}

impl Server {
    pub fn start() -> Server {
        Server::start_with(Vec::new())
    }

    pub fn start_with(more: Vec<String>) -> Server {
        Server::try_start_with(more).expect("redis-server listens")
    }

    /// `None`: it ends at once, because it does not know what it is told.
    pub fn try_start_with(more: Vec<String>) -> Option<Server> {
        let directory = tempfile::Builder::new().prefix("readside-redis").tempdir().expect("a directory");
        let mut server = Server { directory, process: None, more };
        server.launch().then_some(server)
    }

    /// One that listens on a port, too.
    pub fn start_on_a_port() -> (Server, u16) {
        // Free a moment ago; whoever was faster is asked again.
        let start = || {
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            Some((Server::try_start_with(vec!["--port".into(), port.to_string()])?, port))
        };
        (0..9).find_map(|_| start()).expect("redis-server listens")
    }

    /// Kills it, and starts one without its data.
    pub fn restart(&mut self) {
        assert!(self.launch(), "redis-server listens");
    }

    fn launch(&mut self) -> bool {
        self.kill();
        let _ = std::fs::remove_file(self.socket());
        let mut command = Command::new(program());
        command
            .args(["--port", "0", "--save", "", "--appendonly", "no", "--daemonize", "no"])
            .args(["--loglevel", "warning"])
            .arg("--unixsocket")
            .arg(self.socket())
            .args(&self.more)
            .current_dir(self.directory.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        // SAFETY: prctl is safe between fork and exec.
        unsafe {
            command.pre_exec(|| {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                Ok(())
            });
        }
        self.process = Some(spawn_from_keeper(command).expect("redis-server starts"));
        let until = Instant::now() + Duration::from_secs(60);
        while UnixStream::connect(self.socket()).is_err() {
            assert!(Instant::now() < until, "redis-server listens");
            if self.process.as_mut().is_none_or(|process| process.try_wait().is_ok_and(|end| end.is_some())) {
                return false;
            }
            thread::park_timeout(Duration::from_millis(5));
        }
        true
    }

    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().expect("it can be killed");
            process.wait().expect("it ends");
        }
    }

    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("redis.sock")
    }

    /// A replica under a prefix that nobody else uses.
    pub fn settings(&self, encoding: RowEncoding) -> RedisSettings {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        RedisSettings {
            redis: Redis {
                url: RedisUrl { server: RedisServer::Unix { path: self.socket() }, database: 0 },
                username: None,
                password_file: None,
                ca_file: None,
                prefix: format!("shop{}:", NEXT.fetch_add(1, Ordering::Relaxed)),
                dedicated: false,
                encoding,
            },
            replica_name: "orders".into(),
            heartbeat_limit: HEARTBEAT_LIMIT,
            dead_letter_bytes_max: 1_000,
            loss: LossLimit::default(),
            min_free_bytes: 0,
        }
    }

    /// As somebody else's client.
    pub fn client(&self) -> redis::Connection {
        redis::Client::open(format!("unix:{}", self.socket().display())).unwrap().get_connection().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A child is killed when the *thread* that started it ends (`PR_SET_PDEATHSIG`), and tests come
/// and go: servers are started from one thread that lives as long as the process.
fn spawn_from_keeper(command: Command) -> io::Result<Child> {
    type Request = (Command, SyncSender<io::Result<Child>>);
    static KEEPER: OnceLock<Arc<Mutex<SyncSender<Request>>>> = OnceLock::new();
    let keeper = KEEPER.get_or_init(|| {
        let (requests, inbox) = sync_channel::<Request>(1);
        thread::spawn(move || {
            for (mut command, reply) in inbox {
                // The asker waits for exactly one reply.
                let _ = reply.send(command.spawn());
            }
        });
        Arc::new(Mutex::new(requests))
    });
    let (reply, answer) = sync_channel(1);
    let requests = keeper.lock().unwrap_or_else(PoisonError::into_inner).clone();
    requests.send((command, reply)).expect("the keeper lives");
    answer.recv().expect("the keeper answers")
}
