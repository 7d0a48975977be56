//! The broker as a process.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, OnceLock, PoisonError};

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};

use crate::children;

pub const USER: &str = "reader";
pub const STRANGER: &str = "stranger";
pub const PASSWORD: &str = "secret-canary";

pub struct Broker {
    dir: PathBuf,
    /// Locked as long as this process lives: by that leftovers are told, since process ids come again.
    _lock: fs::File,
    port: u16,
    sasl_port: u16,
    hidden_port: Option<u16>,
    /// `None` while it is down.
    process: Mutex<Option<Child>>,
}

impl Broker {
    /// Formats a new directory and starts a broker in it; returns when it answers.
    ///
    /// A free port can be taken by somebody else before the broker binds it, so a broker that ends
    /// while starting gets another try with other ports.
    pub fn start() -> Broker {
        Broker::start_behind(None)
    }

    /// One with a third listener, which tells its clients that it is at `advertised`: somebody else's
    /// port, who passes on what comes to [`Broker::hidden`].
    pub fn start_behind(advertised: Option<u16>) -> Broker {
        remove_leftovers();
        let mut last_words = String::new();
        for _ in 0..3 {
            let broker = Broker::format(advertised);
            match broker.launch() {
                Ok(()) => return broker,
                Err(words) => last_words = words,
            }
        }
        panic!("kafka does not start:\n{last_words}");
    }

    /// `host:port`.
    pub fn bootstrap(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// `host:port` of the listener that wants a user (SASL_PLAINTEXT, PLAIN): [`USER`] may do
    /// everything, [`STRANGER`] nothing, and both have [`PASSWORD`].
    pub fn sasl_bootstrap(&self) -> String {
        format!("127.0.0.1:{}", self.sasl_port)
    }

    /// Address of the listener that says it is somewhere else.
    pub fn hidden(&self) -> std::net::SocketAddr {
        ([127, 0, 0, 1], self.hidden_port.expect("started behind something")).into()
    }

    /// Asks it to end and waits until it has.
    pub fn stop(&self) {
        self.end_with(libc::SIGTERM);
    }

    /// Ends it without a chance to tidy up.
    pub fn kill(&self) {
        self.end_with(libc::SIGKILL);
    }

    /// Stops it in its tracks, and returns when no thread of it runs any more: connections stay open,
    /// nothing answers.
    pub fn freeze(&self) {
        self.signal(libc::SIGSTOP);
        let process = self.process.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(process) = process.as_ref() else { return };
        let tasks = Path::new("/proc").join(process.id().to_string()).join("task");
        super::eventually("every thread of the broker has stopped", || {
            let stopped = |task: fs::DirEntry| {
                let stat = fs::read_to_string(task.path().join("stat")).ok()?;
                // The state is behind the name, which may hold anything.
                Some(stat.rsplit_once(") ")?.1.starts_with(['T', 'Z', 'X']))
            };
            let mut tasks = fs::read_dir(&tasks).ok()?.flatten();
            // A task that is gone does not run.
            tasks.all(|task| stopped(task) != Some(false)).then_some(())
        });
    }

    pub fn thaw(&self) {
        self.signal(libc::SIGCONT);
    }

    /// Starts it again after [`Broker::stop`] or [`Broker::kill`]: same ports, same log.
    pub fn restart(&self) {
        // While it was away somebody's connection may have been given one of its ports.
        let mut words = String::new();
        for _ in 0..5 {
            match self.launch() {
                Ok(()) => return,
                Err(ended) => words = ended,
            }
        }
        panic!("kafka does not start again:\n{words}");
    }

    /// Where the logs of partitions are, one directory each (`topic-partition`).
    pub fn log_dir(&self) -> PathBuf {
        self.dir.join("log")
    }

    /// Kills it and removes its directory. It cannot be started again.
    pub fn discard(&self) {
        self.kill();
        // Nobody is left to tell, and the next run removes what stays.
        let _ = fs::remove_dir_all(&self.dir);
    }

    fn format(advertised: Option<u16>) -> Broker {
        static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let nth = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let (dir, lock) = {
            let _turn = turn();
            let dir = tempfile::Builder::new().prefix("broker-").tempdir_in(brokers_dir());
            let dir = dir.expect("the broker's directory").keep();
            let lock = fs::File::open(&dir).expect("the broker's directory");
            lock.lock().expect("a lock on it");
            (dir, lock)
        };
        // Held together, so that they differ.
        let held = [free_port(), free_port(), free_port(), free_port()];
        let [port, sasl_port, controller, hidden_port] = held.each_ref().map(local_port);
        drop(held);
        let hidden = advertised.map(|advertised| (hidden_port, advertised));
        let ports = Ports { port, sasl_port, controller, hidden };
        fs::write(dir.join("server.properties"), properties(&dir, &ports)).expect("its properties");
        let formatted = java()
            .args(["kafka.tools.StorageTool", "format", "-t", &cluster_id(nth), "-c"])
            .arg(dir.join("server.properties"))
            .output()
            .expect("java");
        assert!(formatted.status.success(), "kafka format: {}", String::from_utf8_lossy(&formatted.stderr));
        let hidden_port = hidden.map(|(port, _)| port);
        Broker { dir, _lock: lock, port, sasl_port, hidden_port, process: Mutex::new(None) }
    }

    /// Returns when it answers, or what it said before it ended.
    fn launch(&self) -> Result<(), String> {
        let output = fs::OpenOptions::new().create(true).append(true).open(self.dir.join("output"));
        let output = output.map_err(|error| error.to_string())?;
        let mut command = java();
        command
            .args(["kafka.Kafka"])
            .arg(self.dir.join("server.properties"))
            .stdin(Stdio::null())
            .stdout(output.try_clone().map_err(|error| error.to_string())?)
            .stderr(output);
        let child = children::spawn_for_all(command).map_err(|error| error.to_string())?;
        *self.process.lock().unwrap_or_else(PoisonError::into_inner) = Some(child);
        let ended = super::eventually("kafka answers", || {
            if self.answers() {
                return Some(false);
            }
            let mut process = self.process.lock().unwrap_or_else(PoisonError::into_inner);
            match process.as_mut().map(Child::try_wait) {
                Some(Ok(None)) => None,
                _ => Some(true),
            }
        });
        if !ended {
            return Ok(());
        }
        Err(self.words())
    }

    /// What it has printed.
    fn words(&self) -> String {
        fs::read_to_string(self.dir.join("output")).unwrap_or_default()
    }

    fn answers(&self) -> bool {
        let probe: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", self.bootstrap())
            .set("log_level", "0")
            .create()
            .expect("a client");
        probe
            .fetch_metadata(None, std::time::Duration::from_secs(1))
            .is_ok_and(|metadata| !metadata.brokers().is_empty())
    }

    fn signal(&self, signal: libc::c_int) {
        if let Some(child) = self.process.lock().unwrap_or_else(PoisonError::into_inner).as_ref() {
            // SAFETY: a child that was not waited for keeps its id.
            unsafe { libc::kill(child.id() as libc::pid_t, signal) };
        }
    }

    fn end_with(&self, signal: libc::c_int) {
        self.signal(signal);
        // A frozen one hears a polite signal only when it goes on.
        self.signal(libc::SIGCONT);
        if let Some(mut child) = self.process.lock().unwrap_or_else(PoisonError::into_inner).take() {
            child.wait().expect("the broker's end");
        }
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.discard();
    }
}

/// What is missing for a broker, and how to get it.
pub fn available() -> Result<(), String> {
    static FOUND: OnceLock<Result<(), String>> = OnceLock::new();
    FOUND
        .get_or_init(|| {
            if !library().join(".complete").exists() {
                return Err("the jars of Apache Kafka are missing: run `make services`".to_owned());
            }
            match Command::new("java").arg("-version").stdout(Stdio::null()).stderr(Stdio::null()).status() {
                Ok(status) if status.success() => Ok(()),
                _ => Err("java is missing: run `make setup`".to_owned()),
            }
        })
        .clone()
}

fn library() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(".cache/kafka/lib")
}

fn brokers_dir() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("kafka")
}

/// Directories of test processes that were killed.
fn remove_leftovers() {
    let _turn = turn();
    let Ok(entries) = fs::read_dir(brokers_dir()) else { return };
    for path in entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()) {
        let is_left = fs::File::open(&path).is_ok_and(|dir| dir.try_lock().is_ok());
        if is_left {
            // A broker that is being discarded may be removing it itself.
            let _ = fs::remove_dir_all(&path);
        }
    }
}

/// One process at a time makes or removes directories; it ends when it is dropped.
fn turn() -> fs::File {
    fs::create_dir_all(brokers_dir()).expect("a directory for brokers");
    let turn = fs::File::create(brokers_dir().join("turn")).expect("a file to lock");
    turn.lock().expect("a lock");
    turn
}

fn java() -> Command {
    let mut command = Command::new("java");
    // A small heap and the first compiler only: it starts in half the time.
    command.args(["-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]);
    command.arg("-cp").arg(library().join("*"));
    command
}

fn free_port() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").expect("a free port")
}

fn local_port(listener: &TcpListener) -> u16 {
    listener.local_addr().expect("its address").port()
}

/// 16 bytes in unpadded URL-safe base64, different for every broker.
fn cluster_id(nth: u32) -> String {
    use base64::Engine;
    let number = (u128::from(std::process::id()) << 64) | u128::from(nth) << 8 | 1;
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(number.to_be_bytes())
}

struct Ports {
    port: u16,
    sasl_port: u16,
    controller: u16,
    /// Where it listens, and where it says that it does.
    hidden: Option<(u16, u16)>,
}

fn properties(dir: &Path, ports: &Ports) -> String {
    let log = dir.join("log");
    let Ports { port, sasl_port, controller, hidden } = ports;
    let (hidden, advertised) = hidden.map_or_else(Default::default, |(port, advertised)| {
        let own = format!(
            "PLAINTEXT://127.0.0.1:{port_},SASL_PLAINTEXT://127.0.0.1:{sasl_port}",
            port_ = ports.port
        );
        (
            format!("HIDDEN://127.0.0.1:{port},"),
            format!("advertised.listeners={own},HIDDEN://127.0.0.1:{advertised}\n"),
        )
    });
    format!(
        "\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{port},SASL_PLAINTEXT://127.0.0.1:{sasl_port},{hidden}CONTROLLER://127.0.0.1:{controller}
{advertised}controller.listener.names=CONTROLLER
listener.security.protocol.map=CONTROLLER:PLAINTEXT,HIDDEN:PLAINTEXT,PLAINTEXT:PLAINTEXT,SASL_PLAINTEXT:SASL_PLAINTEXT
sasl.enabled.mechanisms=PLAIN
listener.name.sasl_plaintext.plain.sasl.jaas.config=\
 org.apache.kafka.common.security.plain.PlainLoginModule required \
 user_{USER}=\"{PASSWORD}\" user_{STRANGER}=\"{PASSWORD}\";
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS;User:{USER}
log.dirs={log}
auto.create.topics.enable=false
group.initial.rebalance.delay.ms=0
offsets.topic.num.partitions=1
offsets.topic.replication.factor=1
transaction.state.log.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
num.network.threads=2
num.io.threads=2
background.threads=2
log.cleaner.backoff.ms=100
log.cleaner.dedupe.buffer.size=4194304
log.initial.task.delay.ms=500
log.retention.check.interval.ms=500
log.retention.ms=-1
file.delete.delay.ms=100
",
        log = log.display()
    )
}
