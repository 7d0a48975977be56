//! Kafka Connect in one process (standalone) with Debezium's connector for PostgreSQL. Where the jars are
//! missing (`make services` gets them) a test skips and says so, unless `READSIDE_REQUIRE_SERVICES=1`.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::postgres::{Postgres, USER};
use crate::children;
use crate::kafka::eventually;
use crate::registry;

pub struct Connect {
    dir: PathBuf,
    brokers: String,
    process: Option<Child>,
}

/// How a connector writes keys and values.
#[derive(Clone, Copy)]
pub enum Converter {
    Json,
    JsonWithSchemas,
    /// With the schemas in a registry, behind the header that Confluent's converter writes.
    Avro,
}

/// A connector.
pub struct Connector {
    /// Also the prefix of its topics.
    pub name: &'static str,
    /// What readside has to call it.
    pub format: &'static str,
    pub converter: Converter,
    /// What it is told beside that.
    pub properties: &'static [(&'static str, &'static str)],
}

impl Converter {
    /// For both sides. `registry`: its address.
    fn properties(self, registry: &str) -> String {
        const JSON: &str = "org.apache.kafka.connect.json.JsonConverter";
        const AVRO: &str = "io.apicurio.registry.utils.converter.AvroConverter";
        ["key", "value"]
            .map(|side| match self {
                Converter::Json => {
                    format!("{side}.converter={JSON}\n{side}.converter.schemas.enable=false\n")
                }
                Converter::JsonWithSchemas => format!("{side}.converter={JSON}\n"),
                Converter::Avro => format!(
                    "{side}.converter={AVRO}\n\
                     {side}.converter.apicurio.registry.url={registry}/apis/registry/v2\n\
                     {side}.converter.apicurio.registry.auto-register=true\n\
                     {side}.converter.apicurio.registry.as-confluent=true\n\
                     {side}.converter.apicurio.registry.use-id=contentId\n\
                     {side}.converter.apicurio.registry.headers.enabled=false\n"
                ),
            })
            .concat()
    }
}

/// `false`: skip the test.
pub fn is_there() -> bool {
    if library().join(".complete").exists() {
        return true;
    }
    children::skip_without("Kafka Connect: run `make services`");
    false
}

fn library() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(".cache/connect/lib")
}

impl Connect {
    /// Everything that it keeps, the offsets of its connectors among it, is in `dir`.
    pub fn start(
        dir: &Path,
        brokers: &str,
        registry: &str,
        postgres: &Postgres,
        connectors: &[Connector],
    ) -> Connect {
        for Connector { name, converter, properties, .. } in connectors {
            let mut text = format!(
                "name={name}\n\
                 topic.prefix={name}\n\
                 slot.name={name}\n\
                 publication.name={name}\n\
                 connector.class=io.debezium.connector.postgresql.PostgresConnector\n\
                 plugin.name=pgoutput\n\
                 database.hostname=127.0.0.1\n\
                 database.port={}\n\
                 database.user={USER}\n\
                 database.password=unused\n\
                 database.dbname=postgres\n\
                 signal.data.collection=public.signals\n\
                 slot.retry.delay.ms=500\n\
                 slot.max.retries=60\n\
                 poll.interval.ms=50\n\
                 topic.creation.default.replication.factor=1\n\
                 topic.creation.default.partitions=3\n",
                postgres.port()
            );
            text.push_str(&converter.properties(registry));
            for (key, value) in *properties {
                text.push_str(&format!("{key}={value}\n"));
            }
            fs::write(dir.join(format!("{name}.properties")), text).unwrap();
        }
        let mut connect = Connect { dir: dir.to_owned(), brokers: brokers.to_owned(), process: None };
        connect.launch(connectors);
        connect
    }

    /// Ends it without a chance to store how far it is.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    /// After [`Connect::kill`].
    pub fn restart(&mut self, connectors: &[Connector]) {
        assert!(self.process.is_none());
        self.launch(connectors);
    }

    /// The end of what it has printed.
    pub fn words(&self) -> String {
        let output = fs::read_to_string(self.dir.join("output")).unwrap_or_default();
        let lines: Vec<&str> = output.lines().collect();
        lines[lines.len().saturating_sub(60)..].join("\n")
    }

    /// Returns when it answers. Its port can be taken by somebody else before it binds it.
    fn launch(&mut self, connectors: &[Connector]) {
        for _ in 0..3 {
            let held = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = held.local_addr().unwrap();
            drop(held);
            self.spawn(address, connectors);
            let process = self.process.as_mut().expect("spawned");
            let is_up =
                eventually("Kafka Connect answers", || match registry::request(address, "GET", "/", "") {
                    Some((200, body)) if body.contains("kafka_cluster_id") => Some(true),
                    _ => process.try_wait().unwrap().map(|_| false),
                });
            if is_up {
                return;
            }
        }
        panic!("Kafka Connect does not start");
    }

    fn spawn(&mut self, address: SocketAddr, connectors: &[Connector]) {
        let worker = format!(
            "bootstrap.servers={}\n\
             key.converter=org.apache.kafka.connect.json.JsonConverter\n\
             value.converter=org.apache.kafka.connect.json.JsonConverter\n\
             offset.storage.file.filename={}\n\
             offset.flush.interval.ms=500\n\
             plugin.discovery=service_load\n\
             listeners=http://{address}\n",
            self.brokers,
            self.dir.join("offsets").display()
        );
        fs::write(self.dir.join("worker.properties"), worker).unwrap();
        let output = fs::OpenOptions::new().create(true).append(true).open(self.dir.join("output")).unwrap();
        let mut command = Command::new("java");
        command
            .args(["-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"])
            .arg("-Dorg.slf4j.simpleLogger.defaultLogLevel=warn")
            .arg("-cp")
            .arg(library().join("*"))
            .arg("org.apache.kafka.connect.cli.ConnectStandalone")
            .arg(self.dir.join("worker.properties"))
            .args(connectors.iter().map(|connector| self.dir.join(format!("{}.properties", connector.name))))
            .current_dir(&self.dir)
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output);
        self.process = Some(children::spawn(&mut command).unwrap());
    }
}

impl Drop for Connect {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("--- the end of what Connect printed ---\n{}", self.words());
        }
    }
}
