use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::*;
use crate::domain::catalog::Catalog;

const LONG: Duration = crate::testing::PATIENCE;
const UNKNOWN: &str = r#"{"error_code":40403,"message":"Schema not found"}"#;

/// Answers one request after the other with what `answer` says to its path and credentials; the number
/// of each request is told, too.
fn serve(
    tls: bool,
    mut answer: impl FnMut(usize, &str, Option<&str>) -> (u16, String) + Send + 'static,
) -> (String, Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let scheme = if tls { "https" } else { "http" };
    let url = format!("{scheme}://{}/api", listener.local_addr().unwrap());
    let (seen, asked) = channel();
    thread::spawn(move || {
        for (number, stream) in listener.incoming().flatten().enumerate() {
            let mut reply = |stream: &mut dyn ReadWrite| {
                let mut lines = BufReader::new(stream);
                let mut head = String::new();
                while lines.read_line(&mut head).is_ok_and(|read| read > 2) {}
                let Some(path) = head.split(' ').nth(1).and_then(|path| path.strip_prefix("/api")) else {
                    return;
                };
                let credentials = head.lines().find_map(|line| {
                    line.to_ascii_lowercase().starts_with("authorization:").then(|| line[15..].trim())
                });
                let (status, body) = answer(number, path, credentials);
                let _ = seen.send(path.to_owned());
                let head = format!(
                    "HTTP/1.1 {status} X\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                    body.len()
                );
                let _ = lines.get_mut().write_all(format!("{head}{body}").as_bytes());
            };
            if tls { reply(&mut encrypted(stream)) } else { reply(&mut { stream }) }
        }
    });
    (url, asked)
}

trait ReadWrite: Read + Write {}
impl<T: Read + Write> ReadWrite for T {}

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/registry/tls").join(name)
}

fn encrypted(stream: TcpStream) -> impl Read + Write {
    let certificates = vec![CertificateDer::from_pem_file(file("cert.pem")).unwrap()];
    let key = PrivateKeyDer::from_pem_file(file("key.pem")).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(certificates, key)
        .unwrap();
    rustls::StreamOwned::new(rustls::ServerConnection::new(Arc::new(config)).unwrap(), stream)
}

fn settings(url: String) -> SchemaRegistry {
    SchemaRegistry { url, username: None, password_file: None, ca_file: None }
}

fn found(text: &str) -> (u16, String) {
    (200, serde_json::json!({ "schema": text }).to_string())
}

fn text(answer: Answer) -> String {
    match answer {
        Answer::Found(schema) => schema.text.clone(),
        other => panic!("{other:?}"),
    }
}

fn reason(answer: Answer) -> String {
    match answer {
        Answer::Pending { reason } => reason,
        other => panic!("{other:?}"),
    }
}

/// Asks until there is an answer.
fn settled(registry: &Registry, id: u32) -> Answer {
    let start = Instant::now();
    loop {
        match registry.get(id, Duration::from_secs(1)) {
            Answer::Pending { .. } if start.elapsed() < LONG => {
                thread::park_timeout(Duration::from_millis(10))
            }
            answer => return answer,
        }
    }
}

/// Asks until the reason has this word.
fn reason_with(word: &str, registry: &Registry) -> String {
    let start = Instant::now();
    loop {
        let reason = reason(registry.get(1, Duration::from_millis(10)));
        if reason.contains(word) {
            return reason;
        }
        assert!(start.elapsed() < LONG, "{reason}");
        thread::park_timeout(Duration::from_millis(10));
    }
}

#[test]
fn a_schema_is_fetched_once() {
    let (url, asked) = serve(false, |_, path, _| found(path));
    let registry = Registry::new(&settings(url));
    for _ in 0..3 {
        assert_eq!(text(registry.get(7, LONG)), "/schemas/ids/7");
    }
    assert!(registry.is_settled(7));
    assert_eq!(text(registry.clone().get(8, LONG)), "/schemas/ids/8");
    assert_eq!(asked.try_iter().count(), 2);
}

#[test]
fn an_unknown_id_is_believed_after_it_was_asked_for_twice() {
    let (url, asked) = serve(false, |_, _, _| (404, UNKNOWN.to_owned()));
    let registry = Registry::new(&settings(url));
    assert!(matches!(settled(&registry, 7), Answer::Unknown));
    assert!(matches!(registry.get(7, LONG), Answer::Unknown));
    assert_eq!(asked.try_iter().count(), 2);
    let late = |number: usize, path: &str, _: Option<&str>| {
        if number == 0 { (404, UNKNOWN.to_owned()) } else { found(path) }
    };
    let registry = Registry::new(&settings(serve(false, late).0));
    assert_eq!(text(settled(&registry, 7)), "/schemas/ids/7", "a follower that lagged behind");
}

#[test]
fn what_is_no_answer_is_asked_for_again() {
    for (status, body, outcome) in [
        (500, "", RegistryOutcome::Failed),
        (429, "", RegistryOutcome::Failed),
        (401, "", RegistryOutcome::Refused),
        (404, "<html>", RegistryOutcome::Malformed),
        (404, r#"{"error_code":0}"#, RegistryOutcome::Malformed),
        (200, "not json", RegistryOutcome::Malformed),
        (200, "{}", RegistryOutcome::Malformed),
    ] {
        let (url, _asked) = serve(
            false,
            move |number, path, _| if number == 0 { (status, body.to_owned()) } else { found(path) },
        );
        let registry = Registry::new(&settings(url));
        let catalog = Catalog { topics: vec![], tables: vec![], fingerprint: String::new() };
        let metrics = Arc::new(Metrics::new(&catalog));
        registry.report_to(&metrics);
        assert_eq!(text(settled(&registry, 1)), "/schemas/ids/1", "{status} {body}");
        let series = format!("readside_schema_registry_requests_total{{outcome=\"{}\"}} 1", outcome.name());
        assert!(metrics.render(0).contains(&series), "{status} {body}");
    }
}

/// Who asks does not wait for longer than it wants to, and once only.
#[test]
fn a_registry_that_hangs_holds_nobody() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let registry = Registry::new(&settings(format!("http://{}", listener.local_addr().unwrap())));
    let start = Instant::now();
    assert!(!reason(registry.get(1, Duration::from_millis(50))).is_empty());
    for _ in 0..100 {
        assert!(matches!(registry.get(1, LONG), Answer::Pending { .. }));
        assert!(!registry.is_settled(1));
    }
    assert!(start.elapsed() < LONG);
}

#[test]
fn after_failures_in_a_row_nobody_waits_and_the_cache_goes_on() {
    let registry = Registry::new(&settings("http://127.0.0.1:1".to_owned()));
    registry
        .0
        .shared
        .lock()
        .keep(7, Schema { kind: Kind::Avro, text: "kept".into(), references: vec![], versions: vec![] });
    assert!(matches!(registry.get(1, Duration::from_millis(10)), Answer::Pending { .. }));
    let start = Instant::now();
    while registry.0.shared.lock().breaker.is_closed() {
        assert!(start.elapsed() < LONG, "the breaker does not open");
        thread::park_timeout(Duration::from_millis(10));
    }
    let start = Instant::now();
    assert!(matches!(registry.get(2, LONG), Answer::Pending { .. }));
    assert!(start.elapsed() < LONG, "nobody waits for what was never asked for");
    assert_eq!(text(registry.get(7, LONG)), "kept");
}

#[test]
fn the_password_is_read_again_and_is_in_no_message() {
    let dir = tempfile::tempdir().unwrap();
    let password = dir.path().join("password");
    std::fs::write(&password, "old-canary\n").unwrap();
    // `reader:new`
    let (url, _asked) = serve(false, |_, path, credentials| match credentials {
        Some("Basic cmVhZGVyOm5ldw==") => found(path),
        _ => (401, String::new()),
    });
    let settings = SchemaRegistry {
        username: Some("reader".to_owned()),
        password_file: Some(password.clone()),
        ..settings(url)
    };
    let registry = Registry::new(&settings);
    let refused = reason_with("password_file", &registry);
    assert!(!refused.contains("canary"), "{refused}");
    std::fs::write(&password, "new\n").unwrap();
    assert_eq!(text(settled(&registry, 1)), "/schemas/ids/1");
}

#[test]
fn references_are_fetched_with_theirs_each_once() {
    let (url, asked) = serve(false, |_, path, _| {
        let link = |subject: &str| serde_json::json!({ "name": subject, "subject": subject, "version": 1 });
        let references = match path {
            "/schemas/ids/1" => vec![link("a b"), link("c")],
            // It refers back to where it comes from.
            "/subjects/a%20b/versions/1" => vec![link("c")],
            "/subjects/c/versions/1" => vec![link("a b")],
            other => panic!("{other}"),
        };
        (
            200,
            serde_json::json!({ "schema": path, "schemaType": "PROTOBUF", "references": references })
                .to_string(),
        )
    });
    let Answer::Found(schema) = Registry::new(&settings(url)).get(1, LONG) else { panic!("not found") };
    let mut names: Vec<&str> = schema.references.iter().map(|reference| reference.name.as_str()).collect();
    names.sort_unstable();
    assert_eq!((schema.kind, names), (Kind::Protobuf, vec!["a b", "c"]));
    assert_eq!(asked.try_iter().count(), 3);
}

#[test]
fn an_endless_answer_is_cut_off() {
    let (url, _asked) = serve(false, |_, _, _| (200, "x".repeat(5 << 20)));
    reason_with("more than", &Registry::new(&settings(url)));
}

#[test]
fn https_is_checked_against_the_certificates_of_the_file() {
    let (url, _asked) = serve(true, |_, path, _| found(path));
    let trusting = SchemaRegistry { ca_file: Some(file("cert.pem")), ..settings(url.clone()) };
    assert_eq!(text(settled(&Registry::new(&trusting), 1)), "/schemas/ids/1");
    reason_with("certificate", &Registry::new(&settings(url.clone())));
    let missing = SchemaRegistry { ca_file: Some(file("none.pem")), ..settings(url) };
    reason_with("none.pem", &Registry::new(&missing));
}

#[test]
fn what_is_kept_is_bounded() {
    let mut state = State::default();
    for id in 0..100 {
        state.keep(
            id,
            Schema { kind: Kind::Avro, text: "x".repeat(1 << 20), references: vec![], versions: vec![] },
        );
    }
    assert!(state.bytes <= KEEP_BYTES && state.schemas.len() == KEEP_BYTES >> 20, "{}", state.schemas.len());
    assert!(state.schemas.contains_key(&99));
    for id in 0..3 * UNKNOWN_MAX as u32 {
        state.want(id);
        state.doubt(id, Instant::now());
        state.doubt(id, Instant::now());
    }
    assert!(state.unknown.len() <= UNKNOWN_MAX && state.wanted.is_empty());
}

/// The registry cannot give one of its schemas: the others come.
#[test]
fn a_schema_that_fails_keeps_no_other_from_being_fetched() {
    let (url, _asked) =
        serve(false, |_, path, _| if path == "/schemas/ids/1" { (500, String::new()) } else { found(path) });
    let registry = Registry::new(&settings(url));
    assert!(matches!(registry.get(1, Duration::from_millis(10)), Answer::Pending { .. }));
    assert_eq!(text(settled(&registry, 2)), "/schemas/ids/2");
}

/// What the registry has said is forgotten again; who waits for it has to ask once more.
#[test]
fn an_id_that_nobody_asks_for_any_more_is_settled() {
    let registry = Registry::new(&settings(serve(false, |_, _, _| (404, UNKNOWN.to_owned())).0));
    assert!(matches!(settled(&registry, 7), Answer::Unknown));
    registry.0.shared.lock().unknown.insert(7, Instant::now());
    assert!(registry.is_settled(7));
    assert!(matches!(registry.get(7, Duration::ZERO), Answer::Pending { .. }));
    assert!(!registry.is_settled(7), "it is asked for again");
}
