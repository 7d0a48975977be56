//! What the pod of the rendered chart would start, as processes: the sidecar with the rendered
//! configuration, its probes asked as the kubelet asks them, the application held back until the
//! start-up probe passes, and the order of the end.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::children;
use crate::daemon::{Daemon, reader, replica, rows};
use crate::kafka::{self, Broker, Message, WAIT_MAX, eventually};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn python() -> PathBuf {
    root().join(".cache/tools/venv/bin/python")
}

/// The pod of the application chart with the values of `tests/deploy/cases/minimal.yaml`.
struct Pod {
    sidecar: Value,
    /// `readside.yaml` of the ConfigMap that the sidecar mounts.
    config: String,
    mount: String,
}

impl Pod {
    /// `None`: skip the test, helm or Python are missing.
    fn render() -> Option<Pod> {
        let script = root().join("tests/deploy/check");
        let done = Command::new(script).args(["--render", "minimal"]).output().unwrap();
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        let objects: Vec<Value> = match serde_json::from_slice(&done.stdout) {
            Ok(objects) if done.status.success() => objects,
            _ => {
                children::skip_without(&format!("rendered chart: {said}"));
                return None;
            }
        };
        let of_kind = |kind: &str| objects.iter().find(|object| object["kind"] == kind).unwrap();
        let spec = &of_kind("Deployment")["spec"]["template"]["spec"];
        let sidecar = spec["initContainers"][0].clone();
        assert_eq!((&sidecar["name"], &sidecar["restartPolicy"]), (&"readside".into(), &"Always".into()));
        let app = &spec["containers"][0]["volumeMounts"][0];
        assert_eq!(app["readOnly"], true);
        let config = of_kind("ConfigMap")["data"]["readside.yaml"].as_str().unwrap().to_owned();
        Some(Pod { sidecar, config, mount: app["mountPath"].as_str().unwrap().to_owned() })
    }

    /// Starts the sidecar's container. Brokers, topic, volume and ports are the test's, as they would be
    /// the cluster's; everything else is what was rendered.
    fn start(&self, dir: &Path, brokers: &str, topic: &str) -> Daemon {
        assert_eq!(self.sidecar["args"], serde_json::json!(["run"]));
        let config = dir.join("readside.yaml");
        assert!(self.config.contains("kafka:9092") && self.config.contains("users.snapshots"));
        std::fs::write(&config, self.config.replace("users.snapshots", topic)).unwrap();
        let volume = replica(dir).parent().unwrap().display().to_string();
        std::fs::create_dir_all(&volume).unwrap();
        let mut variables: Vec<(String, String)> = Vec::new();
        for item in self.sidecar["env"].as_array().unwrap() {
            let (name, value) = (item["name"].as_str().unwrap(), item["value"].as_str().unwrap());
            let value = match name {
                "READSIDE__HTTP__LISTEN" | "READSIDE__ADMIN__LISTEN" => "127.0.0.1:0".to_owned(),
                _ => match value.strip_prefix(&self.mount) {
                    Some(rest) => format!("{volume}{rest}"),
                    None => value.to_owned(),
                },
            };
            variables.push((name.to_owned(), value));
        }
        variables.push(("READSIDE__KAFKA__BROKERS".to_owned(), brokers.to_owned()));
        let variables: Vec<(&str, &str)> =
            variables.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        Daemon::start_with(dir, &config, &variables)
    }

    fn probe(&self, name: &str) -> Probe {
        let probe = &self.sidecar[name];
        let seconds = |key: &str| Duration::from_secs(probe[key].as_u64().unwrap());
        assert_eq!(probe["httpGet"]["port"], self.sidecar["ports"][0]["name"]);
        Probe {
            path: probe["httpGet"]["path"].as_str().unwrap().to_owned(),
            period: seconds("periodSeconds"),
            timeout: seconds("timeoutSeconds"),
            threshold: u32::try_from(probe["failureThreshold"].as_u64().unwrap()).unwrap(),
        }
    }
}

/// As the kubelet asks: an answer from 200 to 399 within `timeout`, every `period`, given up after
/// `threshold` failures in a row.
struct Probe {
    path: String,
    period: Duration,
    timeout: Duration,
    threshold: u32,
}

#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Passed,
    GivenUp,
    Ended(Option<i32>),
}

impl Probe {
    /// One question; an answer that comes too late counts as none.
    fn once(&self, daemon: &mut Daemon) -> bool {
        let begin = Instant::now();
        let answer = daemon.get(&self.path);
        begin.elapsed() <= self.timeout && answer.is_some_and(|(status, _)| (200..400).contains(&status))
    }

    fn until_passed(&self, daemon: &mut Daemon) -> Outcome {
        for _ in 0..self.threshold {
            if let Some(status) = daemon.ended() {
                return Outcome::Ended(status.code());
            }
            if self.once(daemon) {
                return Outcome::Passed;
            }
            std::thread::park_timeout(self.period);
        }
        Outcome::GivenUp
    }

    /// One failure is none: only `threshold` of them are.
    fn passes(&self, daemon: &mut Daemon) -> bool {
        self.until_passed(daemon) == Outcome::Passed
    }
}

/// The application's container: deploy/compose/reader.py, which opens the replica with `mode=ro`.
struct App {
    child: Child,
    lines: Receiver<String>,
}

impl App {
    fn start(dir: &Path) -> App {
        let mut command = Command::new(python());
        command
            .args(["-u", "deploy/compose/reader.py"])
            .arg(replica(dir))
            .current_dir(root())
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        let mut child = children::spawn(&mut command).unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let (said, lines) = channel();
        std::thread::spawn(move || out.lines().map_while(Result::ok).try_for_each(|line| said.send(line)));
        App { child, lines }
    }

    /// The next thing that it says, state and rows; it says something when they change.
    fn line(&mut self) -> String {
        self.lines.recv_timeout(WAIT_MAX).expect("the application goes on")
    }

    /// Listens until it has said that.
    fn says(&mut self, wanted: &str) {
        eventually(wanted, || self.line().contains(wanted).then_some(()));
    }

    fn terminate(&mut self) -> ExitStatus {
        // SAFETY: a signal to a child that has not been reaped.
        unsafe { libc::kill(self.child.id() as i32, libc::SIGTERM) };
        self.child.wait().unwrap()
    }
}

impl Drop for App {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn users(broker: &Broker, topic: &str, count: u32) {
    let user = |id: u32| Message::new(id.to_string(), format!(r#"{{"id":{id},"name":"user {id}"}}"#));
    broker.produce(topic, (1..=count).map(user));
}

#[test]
fn the_application_starts_with_a_whole_copy_reads_it_and_ends_first() {
    let Some(pod) = Pod::render() else { return };
    let Some(broker) = kafka::shared() else { return };
    let dir = tempfile::tempdir().unwrap();
    let topic = kafka::topic_name("pod");
    broker.create_topic(&topic, 3, &[("cleanup.policy", "compact")]);
    users(broker, &topic, 20_000);

    let mut sidecar = pod.start(dir.path(), &broker.bootstrap(), &topic);
    assert_eq!(pod.probe("startupProbe").until_passed(&mut sidecar), Outcome::Passed);
    // Only now does the kubelet start the application; its very first query finds everything.
    assert_eq!(rows(&reader(dir.path()), "SELECT count(*), max(id) FROM users"), ["20000|20000"]);
    let mut app = App::start(dir.path());
    let (first, whole) = (app.line(), "[(1, 'user 1', None), (2, ");
    assert!(first.contains(whole), "{first}");
    if !first.starts_with("live") {
        app.says(&format!("live {whole}"));
    }

    let (live, ready) = (pod.probe("livenessProbe"), pod.probe("readinessProbe"));
    assert!(live.passes(&mut sidecar) && ready.passes(&mut sidecar));
    broker.produce(&topic, [Message::new("1", r#"{"id":1,"name":"renamed","email":"a@example.org"}"#)]);
    app.says("(1, 'renamed', 'a@example.org')");
    assert!(live.passes(&mut sidecar) && ready.passes(&mut sidecar));

    // Native sidecars get their SIGTERM when the other containers have ended, and until then go on.
    let status = app.terminate();
    assert_eq!(status.signal(), Some(libc::SIGTERM));
    assert!(ready.passes(&mut sidecar), "the sidecar outlives the application");
    let (status, took) = sidecar.terminate();
    assert_eq!(status.code(), Some(0), "or the pod counts as failed");
    assert!(took < Duration::from_secs(60), "{took:?}");
    // A volume that outlives the pod can be read without a writer.
    assert_eq!(rows(&reader(dir.path()), "SELECT name FROM users WHERE id = 1"), ["renamed"]);
}

#[test]
fn a_start_up_probe_that_fails_keeps_the_application_out_and_the_next_start_goes_on() {
    let Some(pod) = Pod::render() else { return };
    let Some(broker) = kafka::shared() else { return };
    let dir = tempfile::tempdir().unwrap();
    let topic = kafka::topic_name("pod-late");
    // The topic is not there yet: the probe has to be given up.
    let startup = Probe { threshold: 3, ..pod.probe("startupProbe") };
    let mut sidecar = pod.start(dir.path(), &broker.bootstrap(), &topic);
    assert_eq!(startup.until_passed(&mut sidecar), Outcome::GivenUp);
    let (status, body) = sidecar.get("/startupz").unwrap();
    assert_eq!(status, 503, "{body}");
    assert!(body.contains("\"caught_up\":false"), "{body}");
    assert!(pod.probe("livenessProbe").passes(&mut sidecar), "waiting is no reason to be killed");
    assert!(!pod.probe("readinessProbe").once(&mut sidecar));
    assert_eq!(sidecar.terminate().0.code(), Some(0));

    broker.create_topic(&topic, 1, &[]);
    users(broker, &topic, 3);
    let mut sidecar = pod.start(dir.path(), &broker.bootstrap(), &topic);
    assert_eq!(pod.probe("startupProbe").until_passed(&mut sidecar), Outcome::Passed);
    // The container dies and is restarted: the complete copy lets it start at once, where it was.
    sidecar.kill();
    let mut sidecar = pod.start(dir.path(), &broker.bootstrap(), &topic);
    assert_eq!(pod.probe("startupProbe").until_passed(&mut sidecar), Outcome::Passed);
    assert_eq!(sidecar.metric_sum("readside_events_applied_total"), Some(0.0), "nothing is read again");
    assert_eq!(rows(&reader(dir.path()), "SELECT count(*) FROM users"), ["3"]);
}

/// What `kubectl describe pod` shows as the exit code of a container that cannot start.
#[test]
fn a_sidecar_that_cannot_start_says_why_by_its_exit_code() {
    let Some(pod) = Pod::render() else { return };
    let startup = pod.probe("startupProbe");
    let dir = tempfile::tempdir().unwrap();
    let wrong = Pod {
        config: pod.config.replace("text", "texte"),
        sidecar: pod.sidecar.clone(),
        mount: pod.mount.clone(),
    };
    assert_eq!(
        startup.until_passed(&mut wrong.start(dir.path(), "127.0.0.1:1", "t")),
        Outcome::Ended(Some(64))
    );

    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(replica(dir.path())).unwrap();
    assert_eq!(
        startup.until_passed(&mut pod.start(dir.path(), "127.0.0.1:1", "t")),
        Outcome::Ended(Some(74))
    );

    // The volume holds the replica of another name.
    let dir = tempfile::tempdir().unwrap();
    let mut before = pod.start(dir.path(), "127.0.0.1:1", "t");
    eventually("the replica was made", || before.get("/livez").map(|_| ()));
    assert_eq!(before.terminate().0.code(), Some(0));
    let other = Pod { config: format!("{}\nreplica: {{ name: other }}\n", pod.config), ..pod };
    assert_eq!(
        startup.until_passed(&mut other.start(dir.path(), "127.0.0.1:1", "t")),
        Outcome::Ended(Some(78))
    );
}

/// A mounted ConfigMap.
struct ConfigMap {
    volume: PathBuf,
    revisions: u32,
}

impl ConfigMap {
    fn new(dir: &Path, text: &str) -> ConfigMap {
        let mut map = ConfigMap { volume: dir.join("etc"), revisions: 0 };
        map.exchange(text);
        std::os::unix::fs::symlink("..data/readside.yaml", map.file()).unwrap();
        map
    }

    fn file(&self) -> PathBuf {
        self.volume.join("readside.yaml")
    }

    /// As the kubelet does it: a new directory, then the link `..data` is renamed over.
    fn exchange(&mut self, text: &str) {
        self.revisions += 1;
        let name = format!("..{}", self.revisions);
        std::fs::create_dir_all(self.volume.join(&name)).unwrap();
        std::fs::write(self.volume.join(&name).join("readside.yaml"), text).unwrap();
        let link = self.volume.join("..data_tmp");
        std::os::unix::fs::symlink(name, &link).unwrap();
        std::fs::rename(&link, self.volume.join("..data")).unwrap();
    }
}

#[test]
fn a_changed_configmap_is_noticed_and_checked() {
    let dir = tempfile::tempdir().unwrap();
    let good = format!(
        "{}http: {{ listen: '127.0.0.1:0' }}\nadmin: {{ listen: '127.0.0.1:0' }}\n\
         tables: {{ users: {{ topic: t, key: id, columns: {{ id: integer }} }} }}\n",
        crate::daemon::header("127.0.0.1:1", dir.path())
    );
    let mut map = ConfigMap::new(dir.path(), &good);
    let mut daemon = Daemon::start_with(dir.path(), &map.file(), &[]);
    let mut becomes = |value: f64, said: &str| {
        eventually(said, || {
            let known = daemon.metric("readside_config_reload_success")? == value;
            (known && daemon.log().contains(said)).then_some(())
        });
    };
    becomes(1.0, "listening");
    map.exchange(&good.replace("integer", "intger"));
    becomes(0.0, "has changed and is refused");
    map.exchange(&good.replace("columns: { id: integer", "columns: { name: text, id: integer"));
    becomes(1.0, "takes effect at the next start");
    map.exchange("tables: [");
    becomes(0.0, "has changed and is refused");
    map.exchange(&good);
    becomes(1.0, "nothing in it needs a start");
    assert!(daemon.log().contains("intger"), "which word");
    assert_eq!(daemon.terminate().0.code(), Some(0));
}

/// Ports that the system gives to nobody by itself: they are free while a daemon starts anew, too.
fn quiet_ports() -> [u16; 2] {
    let first = 20_000 + (std::process::id() % 10_000) as u16;
    let mut free = (first..32_000).filter(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok());
    [free.next().unwrap(), free.next().unwrap()]
}

/// The new mapping is there without a new process, and a listener is where it was.
#[test]
fn a_changed_configmap_is_started_with_where_that_is_declared() {
    let Some(broker) = kafka::shared() else { return };
    let topic = kafka::topic_name("reloaded");
    broker.create_topic(&topic, 1, &[]);
    users(broker, &topic, 3);
    let dir = tempfile::tempdir().unwrap();
    let [http, admin] = quiet_ports().map(|port| format!("127.0.0.1:{port}"));
    let text = |columns: &str, admin: &str, level: &str| {
        format!(
            "{}http: {{ listen: '{http}' }}\nadmin: {{ listen: '{admin}' }}\non_config_change: restart\n\
             log: {{ level: {level} }}\ntables: {{ users: {{ topic: {topic}, key: id, columns: {{ {columns} }} }} }}\n",
            crate::daemon::header(&broker.bootstrap(), dir.path())
        )
    };
    let mut map = ConfigMap::new(dir.path(), &text("id: integer", "127.0.0.1:0", "info"));
    let mut daemon = Daemon::start_with(dir.path(), &map.file(), &[]);
    daemon.started();
    let sql = reader(dir.path());
    assert_eq!(rows(&sql, "SELECT * FROM users"), ["1", "2", "3"]);

    map.exchange(&text("id: integer, name: text", &admin, "info"));
    let name = eventually("the new column is there", || {
        assert!(daemon.ended().is_none(), "{}", daemon.log());
        crate::daemon::try_rows(&sql, "SELECT name FROM users WHERE id = 2").ok()
    });
    assert_eq!(name.len(), 1);
    let listening = || {
        let log = daemon.log();
        log.lines().filter(|line| line.contains("\"listening\"")).map(str::to_owned).collect::<Vec<_>>()
    };
    let second = eventually("it listens again", || listening().get(1).cloned());
    assert!(second.contains(&format!("\"{http}\"")), "{second}");
    daemon.started();
    let log = daemon.log();
    assert!(log.contains("\"sections\":\"tables, admin\""), "{log}");

    // The level of the log needs no start.
    map.exchange(&text("id: integer, name: text", &admin, "debug"));
    eventually("the level is taken", || daemon.log().contains("\"log_level\":\"debug\"").then_some(()));
    // What is refused replaces nothing.
    map.exchange(&text("id: integr", &admin, "info"));
    eventually("it is refused", || daemon.log().contains("is refused").then_some(()));
    assert_eq!(daemon.log().matches("\"listening\"").count(), 2);
    assert!(daemon.ended().is_none());
    assert_eq!(rows(&sql, "SELECT count(*) FROM users"), ["3"]);
    assert_eq!(daemon.terminate().0.code(), Some(0));
}
