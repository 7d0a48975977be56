//! The schema registry: schemas by id, fetched by a thread of its own.
//!
//! Who decodes never waits for the network longer than it wants to: a schema that is not here yet is
//! [`Answer::Pending`], and the thread goes on asking until the registry answers. What was fetched
//! once is kept (an id means one schema for ever), so that a registry that is away stops only records
//! with a schema that was never seen. An id that the registry does not know is asked for twice, since
//! a follower of a cluster may lag behind, and believed for a minute.

mod client;

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use tracing::{info, warn};

use crate::config::SchemaRegistry;
use crate::domain::breaker::Breaker;
use crate::metrics::{Metrics, RegistryOutcome};
use client::{Client, Failure};

/// Bytes of schemas that are kept; the ones not used for longest go first. What a decoder has made of
/// a schema it keeps itself.
const KEEP_BYTES: usize = 16 << 20;
/// How long an id that the registry does not know is not asked for again.
const UNKNOWN_FOR: Duration = Duration::from_secs(60);
/// Unknown ids that are remembered.
const UNKNOWN_MAX: usize = 10_000;
/// Between the two times that the registry has to say that it does not know an id.
const SECOND_OPINION: Duration = Duration::from_millis(500);
/// A repeated complaint is logged as often as this.
const COMPLAIN_EVERY: Duration = Duration::from_secs(30);

/// What a schema is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Avro,
    Protobuf,
    Json,
    /// Of a plug-in of the registry's.
    Other,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Avro => "AVRO",
            Kind::Protobuf => "PROTOBUF",
            Kind::Json => "JSON",
            Kind::Other => "unknown to readside",
        })
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schema {
    pub kind: Kind,
    pub text: String,
    /// All that it refers to, directly or not, each once.
    pub references: Vec<Reference>,
    /// Subject and version of each place where it is registered; only if somebody asks for it.
    pub versions: Vec<(String, i64)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// As the referring schema calls it: a type, a file, a URL.
    pub name: String,
    pub text: String,
}

/// A schema as one version of a subject.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registered {
    pub version: i64,
    pub id: Option<u32>,
    pub schema: Schema,
}

impl Schema {
    fn size(&self) -> usize {
        self.text.len() + self.references.iter().map(|each| each.name.len() + each.text.len()).sum::<usize>()
    }
}

#[derive(Debug)]
pub enum Answer {
    Found(Arc<Schema>),
    /// The registry has no schema with this id.
    Unknown,
    /// The registry has not answered, for this reason; it is being asked again.
    Pending {
        reason: String,
    },
}

/// A handle; its clones share what is known. The thread ends with the last one.
#[derive(Clone)]
pub struct Registry(Arc<Handle>);

struct Handle {
    shared: Arc<Shared>,
    /// `None`: there is nobody to ask.
    settings: Option<SchemaRegistry>,
    /// Whether to ask for the versions of schemas too.
    with_versions: bool,
    thread: OnceLock<()>,
}

struct Shared {
    state: Mutex<State>,
    /// Something was asked for, or answered.
    changed: Condvar,
    metrics: OnceLock<Arc<Metrics>>,
}

#[derive(Default)]
struct State {
    schemas: HashMap<u32, (Arc<Schema>, Instant)>,
    bytes: usize,
    unknown: HashMap<u32, Instant>,
    /// Asked for and not answered yet, first come, first served.
    wanted: VecDeque<Wanted>,
    breaker: Breaker,
    complaint: Option<(String, Instant)>,
    /// Nobody is left who could ask.
    closed: bool,
}

#[derive(Debug, Clone, Copy)]
struct Wanted {
    id: u32,
    /// Not to be asked for before.
    not_before: Option<Instant>,
    /// The registry said once that it does not know it.
    doubted: bool,
    /// Somebody has waited for it already.
    waited: bool,
}

/// Asks the registry something simple, for a person who waits: the kinds of schemas that it knows, or
/// what is wrong.
pub fn check(settings: &SchemaRegistry, timeout: Duration) -> Result<Vec<String>, String> {
    Client::new(settings).with_timeout(timeout).kinds().map_err(|failure| failure.message)
}

/// The versions of a subject, the latest `max` of them, oldest first; `None`: there is no such subject.
pub fn subject(
    settings: &SchemaRegistry,
    subject: &str,
    max: usize,
    timeout: Duration,
) -> Result<Option<Vec<Registered>>, String> {
    let client = Client::new(settings).with_timeout(timeout);
    client.subject(subject, max, Instant::now() + timeout).map_err(|failure| failure.message)
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry").field("url", &self.0.settings.as_ref().map(|found| &found.url)).finish()
    }
}

impl Registry {
    /// Nothing is asked before the first schema is wanted.
    pub fn new(settings: &SchemaRegistry) -> Registry {
        Registry::with(Some(settings.clone()), false, [])
    }

    /// The same, and of each schema its versions are asked for too.
    pub fn with_versions(settings: &SchemaRegistry) -> Registry {
        Registry::with(Some(settings.clone()), true, [])
    }

    /// One that holds these schemas and asks nobody.
    pub fn fixed(schemas: impl IntoIterator<Item = (u32, Schema)>) -> Registry {
        Registry::with(None, false, schemas)
    }

    fn with(
        settings: Option<SchemaRegistry>,
        with_versions: bool,
        schemas: impl IntoIterator<Item = (u32, Schema)>,
    ) -> Registry {
        let mut state = State::default();
        for (id, schema) in schemas {
            state.keep(id, schema);
        }
        let shared = Shared { state: Mutex::new(state), changed: Condvar::new(), metrics: OnceLock::new() };
        Registry(Arc::new(Handle {
            shared: Arc::new(shared),
            settings,
            with_versions,
            thread: OnceLock::new(),
        }))
    }

    /// Counts requests there from now on.
    pub fn report_to(&self, metrics: &Arc<Metrics>) {
        // A second time changes nothing.
        let _ = self.0.shared.metrics.set(Arc::clone(metrics));
    }

    /// The schema with this id, waiting for at most `patience` while the registry answers. One that
    /// was waited for once in vain is not waited for again.
    pub fn get(&self, id: u32, patience: Duration) -> Answer {
        let deadline = Instant::now() + patience;
        let mut state = self.0.shared.lock();
        let mut asked = false;
        loop {
            let now = Instant::now();
            if let Some(answer) = state.settled(id, now) {
                return answer;
            }
            if self.0.settings.is_none() {
                return Answer::Unknown;
            }
            let breaker_closed = state.breaker.is_closed();
            let last_words = state.complaint.as_ref().map(|(words, _)| words.clone());
            let wanted = state.want(id);
            let may_wait = breaker_closed && !wanted.doubted && (asked || !wanted.waited);
            wanted.waited = true;
            asked = true;
            self.start_thread();
            self.0.shared.changed.notify_all();
            let left = deadline.saturating_duration_since(now);
            if !may_wait || left.is_zero() {
                let reason = match state.wanted.iter().any(|wanted| wanted.id == id && wanted.doubted) {
                    true => format!("the registry does not know schema {id}; asking once more"),
                    false => last_words.unwrap_or_else(|| "the registry has not answered yet".to_owned()),
                };
                return Answer::Pending { reason };
            }
            let waited = self.0.shared.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Whether who waits for a schema should [`get`](Registry::get) it: there is an answer, or there was
    /// one that is forgotten again, so that nobody asks any more.
    pub fn is_settled(&self, id: u32) -> bool {
        if self.0.settings.is_none() {
            return true;
        }
        let mut state = self.0.shared.lock();
        let is_asked_for = state.wanted.iter().any(|wanted| wanted.id == id);
        !is_asked_for || state.settled(id, Instant::now()).is_some()
    }

    fn start_thread(&self) {
        self.0.thread.get_or_init(|| {
            let Some(settings) = &self.0.settings else { return };
            let (shared, client) = (Arc::clone(&self.0.shared), Client::new(settings));
            let client = client.with_versions(self.0.with_versions);
            let serve = move || shared.serve(&client);
            if let Err(error) = std::thread::Builder::new().name("registry".into()).spawn(serve) {
                warn!(%error, "cannot start the thread that asks the schema registry");
            }
        });
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.changed.notify_all();
    }
}

impl State {
    fn settled(&mut self, id: u32, now: Instant) -> Option<Answer> {
        if let Some((schema, used)) = self.schemas.get_mut(&id) {
            *used = now;
            return Some(Answer::Found(Arc::clone(schema)));
        }
        match self.unknown.get(&id) {
            Some(until) if *until > now => Some(Answer::Unknown),
            Some(_) => {
                self.unknown.remove(&id);
                None
            }
            None => None,
        }
    }

    fn keep(&mut self, id: u32, schema: Schema) {
        self.bytes += schema.size();
        while self.bytes > KEEP_BYTES && !self.schemas.is_empty() {
            let oldest = self.schemas.iter().min_by_key(|(_, (_, used))| *used).map(|(id, _)| *id);
            if let Some((gone, _)) = oldest.and_then(|id| self.schemas.remove(&id)) {
                self.bytes -= gone.size();
            }
        }
        if let Some((replaced, _)) = self.schemas.insert(id, (Arc::new(schema), Instant::now())) {
            self.bytes -= replaced.size();
        }
    }

    fn want(&mut self, id: u32) -> &mut Wanted {
        let at = match self.wanted.iter().position(|wanted| wanted.id == id) {
            Some(at) => at,
            None => {
                self.wanted.push_back(Wanted { id, not_before: None, doubted: false, waited: false });
                self.wanted.len() - 1
            }
        };
        // It is there.
        &mut self.wanted[at]
    }

    fn take(&mut self, id: u32) -> Option<Wanted> {
        let at = self.wanted.iter().position(|wanted| wanted.id == id)?;
        self.wanted.remove(at)
    }

    fn doubt(&mut self, id: u32, now: Instant) {
        let Some(mut wanted) = self.take(id) else { return };
        if wanted.doubted {
            if self.unknown.len() >= UNKNOWN_MAX {
                self.unknown.clear();
            }
            self.unknown.insert(id, now + UNKNOWN_FOR);
            return;
        }
        wanted.doubted = true;
        wanted.not_before = Some(now + SECOND_OPINION);
        self.wanted.push_back(wanted);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(&self, client: &Client) {
        while let Some(id) = self.next() {
            let fetched = client.schema(id);
            let now = Instant::now();
            let mut state = self.lock();
            let outcome = match fetched {
                Ok(Some(schema)) => {
                    state.wanted.retain(|wanted| wanted.id != id);
                    state.keep(id, schema);
                    RegistryOutcome::Found
                }
                Ok(None) => {
                    state.doubt(id, now);
                    RegistryOutcome::Unknown
                }
                Err(failure) => {
                    // The others first: it may be the only one that cannot be had.
                    if let Some(wanted) = state.take(id) {
                        state.wanted.push_back(wanted);
                    }
                    self.failed(&mut state, &failure, now);
                    failure.outcome
                }
            };
            if matches!(outcome, RegistryOutcome::Found | RegistryOutcome::Unknown) {
                state.breaker.succeeded();
                if state.complaint.take().is_some() {
                    info!("the schema registry answers again");
                }
            }
            if let Some(metrics) = self.metrics.get() {
                metrics.registry_asked(outcome, !state.breaker.is_closed());
            }
            drop(state);
            self.changed.notify_all();
        }
    }

    fn failed(&self, state: &mut State, failure: &Failure, now: Instant) {
        state.breaker.failed(now, random());
        let due = state.complaint.as_ref().is_none_or(|(words, at)| {
            *words != failure.message || now.saturating_duration_since(*at) >= COMPLAIN_EVERY
        });
        if due {
            warn!(reason = failure.message, "no schema from the registry; trying again");
            state.complaint = Some((failure.message.clone(), now));
        }
    }

    /// Waits for the next id that may be asked for; `None`: it is over.
    fn next(&self) -> Option<u32> {
        let mut state = self.lock();
        loop {
            if state.closed {
                return None;
            }
            let now = Instant::now();
            let breaker = state.breaker.not_before();
            let due = |wanted: &Wanted| wanted.not_before.max(breaker);
            let next =
                state.wanted.iter().min_by_key(|wanted| due(wanted)).map(|wanted| (wanted.id, due(wanted)));
            let wait = match next {
                Some((id, at)) if at.is_none_or(|at| at <= now) => return Some(id),
                Some((_, Some(at))) => at - now,
                _ => Duration::from_secs(3600),
            };
            state = self.changed.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// For the jitter of a backoff, where the low bits of the clock will do.
fn random() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::from(now.subsec_nanos()).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 24
}

#[cfg(test)]
mod tests;
