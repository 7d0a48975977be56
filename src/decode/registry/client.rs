//! Requests to the registry: Confluent's REST API, of which two reading calls are needed.

use std::collections::HashSet;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{fmt, fs};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde::Deserialize;
use ureq::Agent;
use ureq::tls::{Certificate, RootCerts, TlsConfig};

use super::{Kind, Reference, Registered, Schema};
use crate::config::SchemaRegistry;
use crate::metrics::RegistryOutcome;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(if cfg!(test) { 60 } else { 2 });
const TIMEOUT: Duration = Duration::from_secs(if cfg!(test) { 60 } else { 5 });
/// A larger answer is no schema.
const ANSWER_BYTES_MAX: u64 = 4 << 20;
/// Schemas that one schema may refer to, directly or not.
const REFERENCES_MAX: usize = 200;

/// The registry did not give the answer.
#[derive(Debug)]
pub struct Failure {
    pub outcome: RegistryOutcome,
    /// Never holds credentials.
    pub message: String,
}

pub struct Client {
    settings: SchemaRegistry,
    /// Of a whole request.
    timeout: Duration,
    /// Whether the versions of a schema are asked for too.
    with_versions: bool,
}

#[derive(Deserialize)]
struct Found {
    schema: String,
    #[serde(default, rename = "schemaType")]
    kind: Option<String>,
    #[serde(default)]
    references: Vec<Link>,
    /// Where it was asked for by subject and version.
    #[serde(default)]
    id: Option<u32>,
}

#[derive(Deserialize, Clone)]
struct Link {
    name: String,
    subject: String,
    version: i64,
}

#[derive(Deserialize)]
struct Place {
    subject: String,
    version: i64,
}

#[derive(Deserialize)]
struct Refusal {
    #[serde(default)]
    error_code: Option<i64>,
}

impl Client {
    pub fn new(settings: &SchemaRegistry) -> Client {
        Client { settings: settings.clone(), timeout: TIMEOUT, with_versions: false }
    }

    /// For a command that a person waits for.
    pub fn with_timeout(self, timeout: Duration) -> Client {
        Client { timeout: timeout.min(TIMEOUT), ..self }
    }

    pub fn with_versions(self, with_versions: bool) -> Client {
        Client { with_versions, ..self }
    }

    /// The kinds of schemas that the registry knows, to see that it is one.
    pub fn kinds(&self) -> Result<Vec<String>, Failure> {
        let (status, body) = self.ask(&self.agent()?, "/schemas/types")?;
        match (status, serde_json::from_slice(&body)) {
            (200, Ok(kinds)) => Ok(kinds),
            _ => Err(self.refusal(status)),
        }
    }

    /// A schema with all that it refers to; `None`: the registry does not know the id.
    pub fn schema(&self, id: u32) -> Result<Option<Schema>, Failure> {
        // A new one each time: schemas are rare, and certificates and passwords change.
        let agent = self.agent()?;
        let Some(found) = self.get(&agent, &format!("/schemas/ids/{id}"))? else { return Ok(None) };
        let kind = kind_of(found.kind.as_deref());
        let references = self.references(&agent, found.references)?;
        let versions = if self.with_versions { self.versions(&agent, id)? } else { Vec::new() };
        Ok(Some(Schema { kind, text: found.schema, references, versions }))
    }

    /// All versions of a subject, the latest `max` of them, oldest first; `None`: there is no such subject.
    pub fn subject(
        &self,
        subject: &str,
        max: usize,
        deadline: Instant,
    ) -> Result<Option<Vec<Registered>>, Failure> {
        let agent = self.agent()?;
        let path = format!("/subjects/{}/versions", escape(subject));
        let (status, body) = self.ask(&agent, &path)?;
        let mut numbers: Vec<i64> = match status {
            200 => serde_json::from_slice(&body).map_err(|_| self.refusal(status))?,
            404 if is_unknown_schema(&body) => return Ok(None),
            _ => return Err(self.refusal(status)),
        };
        numbers.sort_unstable();
        let mut registered = Vec::new();
        for version in numbers.split_off(numbers.len().saturating_sub(max)) {
            if Instant::now() >= deadline {
                let message =
                    format!("{}: there was no time for all versions of {subject}", self.settings.url);
                return Err(Failure { outcome: RegistryOutcome::Unreachable, message });
            }
            // One that was deleted meanwhile is not missed.
            let Some(found) = self.get(&agent, &format!("{path}/{version}"))? else { continue };
            let id = found.id;
            let references = self.references(&agent, found.references)?;
            let versions = vec![(subject.to_owned(), version)];
            let schema =
                Schema { kind: kind_of(found.kind.as_deref()), text: found.schema, references, versions };
            registered.push(Registered { version, id, schema });
        }
        Ok(Some(registered))
    }

    /// Where a schema is registered: subjects and versions.
    fn versions(&self, agent: &Agent, id: u32) -> Result<Vec<(String, i64)>, Failure> {
        let (status, body) = self.ask(agent, &format!("/schemas/ids/{id}/versions"))?;
        let found: Vec<Place> = match status {
            200 => serde_json::from_slice(&body).map_err(|_| self.refusal(status))?,
            _ => return Err(self.refusal(status)),
        };
        Ok(found.into_iter().map(|place| (place.subject, place.version)).collect())
    }

    fn references(&self, agent: &Agent, links: Vec<Link>) -> Result<Vec<Reference>, Failure> {
        let mut references = Vec::new();
        let mut known = HashSet::new();
        let mut todo = links;
        while let Some(link) = todo.pop() {
            if !known.insert((link.subject.clone(), link.version, link.name.clone())) {
                continue;
            }
            if references.len() >= REFERENCES_MAX {
                return Err(malformed(format!("a schema refers to more than {REFERENCES_MAX} others")));
            }
            let path = format!("/subjects/{}/versions/{}", escape(&link.subject), link.version);
            let Some(found) = self.get(agent, &path)? else {
                return Err(malformed("a schema refers to one that is not there".to_owned()));
            };
            todo.extend(found.references);
            references.push(Reference { name: link.name, text: found.schema });
        }
        Ok(references)
    }

    /// Status and body of an answer.
    fn ask(&self, agent: &Agent, path: &str) -> Result<(u16, Vec<u8>), Failure> {
        let mut request = agent
            .get(format!("{}{path}", self.settings.url))
            .header("Accept", "application/vnd.schemaregistry.v1+json, application/json");
        if let Some(credentials) = self.credentials()? {
            request = request.header("Authorization", credentials);
        }
        let answer = request.call().map_err(|error| unreachable(&self.settings.url, &error))?;
        let status = answer.status().as_u16();
        let mut body = Vec::new();
        let read = answer.into_body().into_reader().take(ANSWER_BYTES_MAX + 1).read_to_end(&mut body);
        read.map_err(|error| Failure {
            outcome: RegistryOutcome::Unreachable,
            message: format!("{}: {error}", self.settings.url),
        })?;
        if body.len() as u64 > ANSWER_BYTES_MAX {
            return Err(malformed(format!(
                "{}: an answer of more than {ANSWER_BYTES_MAX} bytes",
                self.settings.url
            )));
        }
        Ok((status, body))
    }

    /// `None`: there is no such schema.
    fn get(&self, agent: &Agent, path: &str) -> Result<Option<Found>, Failure> {
        let (status, body) = self.ask(agent, path)?;
        match status {
            200 => serde_json::from_slice(&body).map(Some).map_err(|_| self.refusal(status)),
            // A registry says so with a code of its own; a proxy or a wrong path does not.
            404 if is_unknown_schema(&body) => Ok(None),
            _ => Err(self.refusal(status)),
        }
    }

    /// Of an answer that is not what was asked for.
    fn refusal(&self, status: u16) -> Failure {
        let url = &self.settings.url;
        match status {
            200 => malformed(format!("{url}: the answer is not that of a schema registry")),
            401 | 403 => Failure {
                outcome: RegistryOutcome::Refused,
                message: format!("{url}: HTTP {status}: check schema_registry.username and password_file"),
            },
            404 => malformed(format!("{url}: HTTP 404: check schema_registry.url and its path")),
            _ => Failure { outcome: RegistryOutcome::Failed, message: format!("{url}: HTTP {status}") },
        }
    }

    fn credentials(&self) -> Result<Option<String>, Failure> {
        let (Some(user), Some(file)) = (&self.settings.username, &self.settings.password_file) else {
            return Ok(None);
        };
        let password = fs::read_to_string(file).map_err(|error| unreadable(file, &error))?;
        let password = password.trim_end_matches(['\r', '\n']);
        Ok(Some(format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))))
    }

    fn agent(&self) -> Result<Agent, Failure> {
        let mut config = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_connect(Some(CONNECT_TIMEOUT.min(self.timeout)))
            .timeout_global(Some(self.timeout))
            .max_redirects(2)
            .max_idle_connections(1)
            .user_agent(concat!("readside/", env!("CARGO_PKG_VERSION")));
        if self.settings.url.starts_with("https://") {
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            let tls = TlsConfig::builder()
                .root_certs(RootCerts::new_with_certs(&self.trusted()?))
                .unversioned_rustls_crypto_provider(provider)
                .build();
            config = config.tls_config(tls);
        }
        Ok(Agent::new_with_config(config.build()))
    }

    fn trusted(&self) -> Result<Vec<Certificate<'static>>, Failure> {
        let found: Vec<CertificateDer<'static>> = match &self.settings.ca_file {
            Some(file) => {
                let read = CertificateDer::pem_file_iter(file).and_then(Iterator::collect);
                read.map_err(|error| unreadable(file, &error))?
            }
            None => rustls_native_certs::load_native_certs().certs,
        };
        Ok(found.iter().map(|certificate| Certificate::from_der(certificate).to_owned()).collect())
    }
}

fn kind_of(name: Option<&str>) -> Kind {
    match name {
        None | Some("AVRO") => Kind::Avro,
        Some("PROTOBUF") => Kind::Protobuf,
        Some("JSON") => Kind::Json,
        Some(_) => Kind::Other,
    }
}

/// Codes of Confluent's API: 40401 subject, 40402 version, 40403 schema.
fn is_unknown_schema(body: &[u8]) -> bool {
    let refusal = serde_json::from_slice::<Refusal>(body).ok();
    refusal.and_then(|refusal| refusal.error_code).is_some_and(|code| (40401..=40403).contains(&code))
}

fn malformed(message: String) -> Failure {
    Failure { outcome: RegistryOutcome::Malformed, message }
}

fn unreachable(url: &str, error: &ureq::Error) -> Failure {
    Failure { outcome: RegistryOutcome::Unreachable, message: format!("{url}: {error}") }
}

/// The file may be about to be mounted or replaced.
fn unreadable(file: &Path, error: &dyn fmt::Display) -> Failure {
    Failure { outcome: RegistryOutcome::Failed, message: format!("{}: {error}", file.display()) }
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => escaped.push(byte.into()),
            _ => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped
}
