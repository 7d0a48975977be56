//! The librdkafka properties of our clients.

use std::fs;

use crate::config::Kafka;

use super::SourceError;

/// Values that are not the user's to choose: reading is only right with these.
const OWNED: [(&str, &str); 8] = [
    ("isolation.level", "read_committed"),
    ("enable.partition.eof", "true"),
    // Never jump anywhere: a position that is not in the log is a gap.
    ("auto.offset.reset", "error"),
    ("enable.auto.commit", "false"),
    ("enable.auto.offset.store", "false"),
    ("allow.auto.create.topics", "false"),
    // A damaged batch is noticed, not applied.
    ("check.crcs", "true"),
    ("log.queue", "false"),
];

/// Properties that would make us a member of a consumer group, which we never are, or replace our
/// brokers. The configuration refuses them; here they are left out.
const REFUSED: [&str; 7] = [
    "group.id",
    "group.instance.id",
    "group.protocol",
    "group.remote.assignor",
    "partition.assignment.strategy",
    "bootstrap.servers",
    "metadata.broker.list",
];

/// Defaults that a user may change. Small queues keep memory low: librdkafka's own are 64 MiB and
/// 50 MiB per fetch; `fetch.queue.backoff.ms` (1 s by default) would then be a throughput trap. The
/// first is for each queue of a [`super::lane::Lane`], which asks for more while it holds less: long
/// enough that what is in it lasts until a fetch has brought more.
const DEFAULTS: [(&str, &str); 10] = [
    ("client.id", "readside"),
    ("queued.max.messages.kbytes", "256"),
    ("fetch.message.max.bytes", "131072"),
    ("fetch.wait.max.ms", "500"),
    ("fetch.queue.backoff.ms", "2"),
    ("fetch.error.backoff.ms", "200"),
    ("reconnect.backoff.max.ms", "2000"),
    ("socket.timeout.ms", "15000"),
    ("socket.keepalive.enable", "true"),
    ("broker.address.ttl", "5000"),
];

const FETCH_MAX_BYTES: u64 = 1 << 20;

/// What a producer does not know, or has no use for; it says so for each.
const CONSUMER_ONLY: [&str; 10] = [
    "allow.auto.create.topics",
    "auto.offset.reset",
    "check.crcs",
    "coordinator.query.interval.ms",
    "heartbeat.interval.ms",
    "isolation.level",
    "log.queue",
    "max.partition.fetch.bytes",
    "max.poll.interval.ms",
    "session.timeout.ms",
];
const CONSUMER_ONLY_PREFIXES: [&str; 4] = ["enable.auto.", "enable.partition.", "fetch.", "queued."];

/// What a record may have beside what it is limited to: headers, framing.
const BESIDE_THE_RECORD: usize = 64 << 10;
/// librdkafka's own bounds of `message.max.bytes`.
const MESSAGE_MAX: (usize, usize) = (1_000_000, 1_000_000_000);

/// One property as it is set. Its value never shows in a message when it is a secret.
pub(super) struct Property {
    pub name: String,
    pub value: String,
    pub secret: bool,
}

/// All properties of a client, in the order in which they are set. Reads the secrets' files.
pub(super) fn properties(config: &Kafka) -> Result<Vec<Property>, SourceError> {
    let mut all = Vec::new();
    for (name, value) in DEFAULTS {
        all.push(plain(name, value));
    }
    // librdkafka refuses to start when a fetch is smaller than its `message.max.bytes`.
    let message_max = config.properties.get("message.max.bytes").and_then(|value| value.parse().ok());
    let fetch_max = message_max.unwrap_or(0).max(FETCH_MAX_BYTES);
    all.push(plain("fetch.max.bytes", &fetch_max.to_string()));
    for (name, value) in &config.properties {
        if !REFUSED.contains(&name.as_str()) {
            all.push(plain(name, value));
        }
    }
    for (name, value) in secrets(config)? {
        all.push(Property { name, value, secret: true });
    }
    for (name, value) in OWNED {
        all.push(plain(name, value));
    }
    all.push(plain("bootstrap.servers", &config.brokers.join(",")));
    Ok(all)
}

/// Those of a client that writes: what the configuration says about the connection, and what makes a
/// write safe. Each record is a request of its own, so that one that is refused takes none with it.
pub(super) fn producer_properties(config: &Kafka) -> Result<Vec<Property>, SourceError> {
    let mut all = properties(config)?;
    all.retain(|Property { name, .. }| {
        !CONSUMER_ONLY.contains(&name.as_str())
            && !CONSUMER_ONLY_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
    });
    let configured = config.properties.get("message.max.bytes").and_then(|value| value.parse().ok());
    let message_max = config.max_record_bytes.saturating_add(BESIDE_THE_RECORD).max(configured.unwrap_or(0));
    all.push(plain("message.max.bytes", &message_max.clamp(MESSAGE_MAX.0, MESSAGE_MAX.1).to_string()));
    for (name, value) in [("acks", "all"), ("batch.num.messages", "1"), ("linger.ms", "0")] {
        all.push(plain(name, value));
    }
    let delivery_max = super::produce::DELIVERY_MAX.as_millis().to_string();
    all.push(plain("message.timeout.ms", &delivery_max));
    // A topic that is not there is told, instead of the time being waited out.
    all.push(plain("topic.metadata.propagation.max.ms", "5000"));
    let id = all.iter().rev().find(|property| property.name == "client.id");
    let id = format!("{}-dead-letters", id.map_or("readside", |id| id.value.as_str()));
    all.push(plain("client.id", &id));
    Ok(all)
}

/// The secrets as their files hold them now, without one trailing newline.
pub(super) fn secrets(config: &Kafka) -> Result<Vec<(String, String)>, SourceError> {
    let mut all = Vec::new();
    for (name, path) in &config.secrets {
        let mut value = fs::read_to_string(path).map_err(|source| SourceError::Secret {
            property: name.clone(),
            path: path.clone(),
            source,
        })?;
        if value.ends_with('\n') {
            value.pop();
        }
        all.push((name.clone(), value));
    }
    Ok(all)
}

/// SASL user and password, if both are known: they can be replaced in a running client.
pub(super) fn credentials(config: &Kafka) -> Result<Option<(String, String)>, SourceError> {
    let secrets = secrets(config)?;
    let find = |name: &str| {
        let secret = secrets.iter().find(|(secret, _)| secret == name).map(|(_, value)| value.clone());
        secret.or_else(|| config.properties.get(name).cloned())
    };
    Ok(find("sasl.username").zip(find("sasl.password")))
}

pub(super) fn plain(name: &str, value: &str) -> Property {
    Property { name: name.to_owned(), value: value.to_owned(), secret: false }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn config() -> Kafka {
        Kafka {
            brokers: vec!["a:9092".into(), "b:9092".into()],
            properties: BTreeMap::new(),
            secrets: BTreeMap::new(),
            max_record_bytes: 1 << 20,
        }
    }

    /// What librdkafka ends up with: the last one set wins.
    fn effective(config: &Kafka, name: &str) -> Option<String> {
        let all = properties(config).expect("no secret to read");
        all.into_iter().rev().find(|property| property.name == name).map(|property| property.value)
    }

    #[test]
    fn a_user_changes_defaults_but_never_how_we_read() {
        let mut config = config();
        config.properties.insert("client.id".into(), "orders".into());
        config.properties.insert("isolation.level".into(), "read_uncommitted".into());
        config.properties.insert("group.id".into(), "g".into());
        assert_eq!(effective(&config, "client.id").as_deref(), Some("orders"));
        assert_eq!(effective(&config, "isolation.level").as_deref(), Some("read_committed"));
        assert_eq!(effective(&config, "group.id"), None);
        assert_eq!(effective(&config, "bootstrap.servers").as_deref(), Some("a:9092,b:9092"));
    }

    #[test]
    fn a_fetch_is_never_smaller_than_a_message_may_be() {
        let mut config = config();
        assert_eq!(effective(&config, "fetch.max.bytes").as_deref(), Some("1048576"));
        config.properties.insert("message.max.bytes".into(), "5000000".into());
        assert_eq!(effective(&config, "fetch.max.bytes").as_deref(), Some("5000000"));
    }

    #[test]
    fn a_secret_comes_from_its_file_without_one_newline() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("password");
        fs::write(&file, "se cret\n\n").expect("written");
        let mut config = config();
        config.secrets.insert("sasl.password".into(), file.clone());
        config.properties.insert("sasl.username".into(), "orders".into());
        assert_eq!(credentials(&config).unwrap(), Some(("orders".into(), "se cret\n".into())));
        fs::remove_file(&file).expect("removed");
        let error = properties(&config).err().expect("no file").to_string();
        assert!(error.contains("sasl.password") && error.contains("password"), "{error}");
    }
}
