//! `rediss`, with a certificate authority of its own.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};

use super::*;
use crate::config::{RedisServer, RedisUrl};
use crate::store::{Store, redis_check};

fn openssl(directory: &Path, words: &str) -> bool {
    let mut command = Command::new("openssl");
    command.args(words.split(' ')).current_dir(directory).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// `ca.pem`, and `server.pem` with `server.key` for `localhost`.
fn certificates(directory: &Path) -> bool {
    std::fs::write(directory.join("names"), "subjectAltName=DNS:localhost\n").unwrap();
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    openssl(directory, &format!("req -x509 {key} -keyout ca.key -out ca.pem -subj /CN=authority -days 2"))
        && openssl(directory, &format!("req {key} -keyout server.key -out server.csr -subj /CN=localhost"))
        && openssl(
            directory,
            "x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out server.pem -days 2 -extfile names",
        )
}

#[test]
fn a_server_is_believed_if_its_certificate_is() {
    if !available() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    if !certificates(directory.path()) {
        return skip_without("openssl");
    }
    let file = |name: &str| directory.path().join(name).display().to_string();
    let more = [
        ("--tls-cert-file", file("server.pem")),
        ("--tls-key-file", file("server.key")),
        ("--tls-ca-cert-file", file("ca.pem")),
        ("--tls-auth-clients", "no".into()),
    ];
    let more: Vec<String> = more.into_iter().flat_map(|(name, value)| [name.to_owned(), value]).collect();
    let start = |_| {
        // Free a moment ago; somebody else may have it now.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let of_port = ["--tls-port".to_owned(), port.to_string()];
        Some((Server::try_start_with([&of_port, &more[..]].concat())?, port))
    };
    let Some((server, port)) = (0..5).find_map(start) else {
        assert!(std::env::var_os("READSIDE_REDIS_SERVER").is_some(), "redis-server knows no TLS");
        eprintln!("skipped: {} was built without TLS", server::program());
        return;
    };
    let at = |host: &str, tls: bool| {
        let mut settings = server.settings(RowEncoding::Hash);
        settings.redis.url =
            RedisUrl { server: RedisServer::Tcp { host: host.into(), port, tls }, database: 0 };
        settings.redis.ca_file = Some(directory.path().join("ca.pem"));
        settings
    };
    let bench = bench(at("localhost", true));
    let mut store = bench.open();
    store.apply(&moving(None, 10, batch([upsert(1, 10)]))).unwrap();
    assert_eq!(look(&bench, 1), visible(1, 10));
    let refused = |settings: &RedisSettings| match redis_check(settings, PATIENCE) {
        Err(StoreError::Retry { message, .. }) => message,
        other => panic!("{other:?}"),
    };
    let mut unknown = at("localhost", true);
    unknown.redis.ca_file = None;
    let message = refused(&unknown);
    assert!(message.contains("certificate"), "{message}");
    let message = refused(&at("127.0.0.1", true));
    assert!(message.contains("certificate"), "{message}");
    refused(&at("localhost", false));
}
