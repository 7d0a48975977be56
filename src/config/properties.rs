//! What readside knows about librdkafka's properties: which it owns, which are secrets, and all
//! names, so that a misspelt one is found without a broker.

/// Why a property cannot be set: it decides whether the replica is right, or means nothing here.
pub(super) fn owned(name: &str) -> Option<&'static str> {
    const POSITIONS: &str = "positions are kept in the replica, together with the rows";
    const NO_GROUP: &str = "readside reads every partition itself, without a consumer group";
    const BROKERS: &str = "the brokers are given in `kafka.brokers`";
    const EMBEDDED: &str = "it can only be set by the program itself";
    Some(match name {
        "bootstrap.servers" | "metadata.broker.list" => BROKERS,
        "enable.auto.commit"
        | "auto.commit.enable"
        | "auto.commit.interval.ms"
        | "enable.auto.offset.store"
        | "offset.store.method"
        | "offset.store.path"
        | "offset.store.sync.interval.ms" => POSITIONS,
        "auto.offset.reset" => "a position that the log no longer has is a gap, which `on_gap` decides about",
        "enable.partition.eof" => "it tells when a partition has been read to its end",
        "isolation.level" => "a replica shows committed events only",
        "check.crcs" => "a damaged batch must never reach the replica",
        "statistics.interval.ms" => "freshness is measured by readside's own requests",
        "allow.auto.create.topics" => "a misspelt topic must not come into being",
        "group.id"
        | "group.instance.id"
        | "group.protocol"
        | "group.protocol.type"
        | "group.remote.assignor"
        | "partition.assignment.strategy" => NO_GROUP,
        "enabled_events"
        | "interceptors"
        | "opaque"
        | "default_topic_conf"
        | "log.queue"
        | "ssl_ca"
        | "ssl_certificate"
        | "ssl_key"
        | "ssl_engine_callback_data" => EMBEDDED,
        _ if name.ends_with("_cb") => EMBEDDED,
        _ => return None,
    })
}

/// Properties that hold a secret and therefore may only come from a file.
pub(super) fn is_secret(name: &str) -> bool {
    matches!(
        name,
        "sasl.password"
            | "ssl.key.password"
            | "ssl.key.pem"
            | "ssl.keystore.password"
            | "sasl.oauthbearer.client.secret"
            | "sasl.oauthbearer.client.credentials.client.secret"
            | "sasl.oauthbearer.assertion.private.key.passphrase"
            | "sasl.oauthbearer.assertion.private.key.pem"
    )
}

pub(super) fn is_known(name: &str) -> bool {
    KNOWN.contains(&name) || owned(name).is_some()
}

/// The properties of a consumer that may be set, from librdkafka 2.12.1's CONFIGURATION.md.
///
/// `max.partition.fetch.bytes` and the like are the operator's to trade memory for speed.
pub(super) const KNOWN: &[&str] = &[
    "api.version.fallback.ms",
    "api.version.request",
    "api.version.request.timeout.ms",
    "broker.address.family",
    "broker.address.ttl",
    "broker.version.fallback",
    "client.dns.lookup",
    "client.id",
    "client.rack",
    "connections.max.idle.ms",
    "coordinator.query.interval.ms",
    "debug",
    "enable.metrics.push",
    "enable.random.seed",
    "enable.sasl.oauthbearer.unsecure.jwt",
    "enable.ssl.certificate.verification",
    "fetch.error.backoff.ms",
    "fetch.max.bytes",
    "fetch.message.max.bytes",
    "fetch.min.bytes",
    "fetch.queue.backoff.ms",
    "fetch.wait.max.ms",
    "heartbeat.interval.ms",
    "https.ca.location",
    "https.ca.pem",
    "internal.termination.signal",
    "log.connection.close",
    "log.thread.name",
    "log_level",
    "max.in.flight",
    "max.in.flight.requests.per.connection",
    "max.partition.fetch.bytes",
    "max.poll.interval.ms",
    "message.copy.max.bytes",
    "message.max.bytes",
    "metadata.max.age.ms",
    "metadata.recovery.rebootstrap.trigger.ms",
    "metadata.recovery.strategy",
    "plugin.library.paths",
    "queued.max.messages.kbytes",
    "queued.min.messages",
    "receive.message.max.bytes",
    "reconnect.backoff.jitter.ms",
    "reconnect.backoff.max.ms",
    "reconnect.backoff.ms",
    "retry.backoff.max.ms",
    "retry.backoff.ms",
    "sasl.kerberos.keytab",
    "sasl.kerberos.kinit.cmd",
    "sasl.kerberos.min.time.before.relogin",
    "sasl.kerberos.principal",
    "sasl.kerberos.service.name",
    "sasl.mechanism",
    "sasl.mechanisms",
    "sasl.oauthbearer.assertion.algorithm",
    "sasl.oauthbearer.assertion.claim.aud",
    "sasl.oauthbearer.assertion.claim.exp.seconds",
    "sasl.oauthbearer.assertion.claim.iss",
    "sasl.oauthbearer.assertion.claim.jti.include",
    "sasl.oauthbearer.assertion.claim.nbf.seconds",
    "sasl.oauthbearer.assertion.claim.sub",
    "sasl.oauthbearer.assertion.file",
    "sasl.oauthbearer.assertion.jwt.template.file",
    "sasl.oauthbearer.assertion.private.key.file",
    "sasl.oauthbearer.assertion.private.key.passphrase",
    "sasl.oauthbearer.assertion.private.key.pem",
    "sasl.oauthbearer.client.credentials.client.id",
    "sasl.oauthbearer.client.credentials.client.secret",
    "sasl.oauthbearer.client.id",
    "sasl.oauthbearer.client.secret",
    "sasl.oauthbearer.config",
    "sasl.oauthbearer.extensions",
    "sasl.oauthbearer.grant.type",
    "sasl.oauthbearer.metadata.authentication.type",
    "sasl.oauthbearer.method",
    "sasl.oauthbearer.scope",
    "sasl.oauthbearer.token.endpoint.url",
    "sasl.password",
    "sasl.username",
    "security.protocol",
    "session.timeout.ms",
    "socket.connection.setup.timeout.ms",
    "socket.keepalive.enable",
    "socket.max.fails",
    "socket.nagle.disable",
    "socket.receive.buffer.bytes",
    "socket.send.buffer.bytes",
    "socket.timeout.ms",
    "ssl.ca.certificate.stores",
    "ssl.ca.location",
    "ssl.ca.pem",
    "ssl.certificate.location",
    "ssl.certificate.pem",
    "ssl.cipher.suites",
    "ssl.crl.location",
    "ssl.curves.list",
    "ssl.endpoint.identification.algorithm",
    "ssl.engine.id",
    "ssl.engine.location",
    "ssl.key.location",
    "ssl.key.password",
    "ssl.key.pem",
    "ssl.keystore.location",
    "ssl.keystore.password",
    "ssl.providers",
    "ssl.sigalgs.list",
    "topic.blacklist",
    "topic.metadata.propagation.max.ms",
    "topic.metadata.refresh.fast.interval.ms",
    "topic.metadata.refresh.interval.ms",
    "topic.metadata.refresh.sparse",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_property_is_either_owned_or_free_and_secrets_are_free() {
        for name in KNOWN {
            assert_eq!(owned(name), None, "{name}");
        }
        for name in ["sasl.password", "ssl.key.password", "ssl.key.pem", "sasl.oauthbearer.client.secret"] {
            assert!(is_secret(name) && is_known(name), "{name}");
        }
        assert!(owned("group.id").is_some_and(|reason| reason.contains("without a consumer group")));
    }
}
