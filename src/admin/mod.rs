//! HTTP: metrics, probes, status, wait.
//!
//! Two listeners. The read-only one (`http.listen`) is for the cluster: `/metrics`, `/startupz`,
//! `/readyz`, `/livez`. The admin one (`admin.listen`, loopback) is for the service beside us and
//! for people: `/status`, `/wait`, `/dead-letters`, `POST /rebuild`, `/`. Every answer but metrics and the page is JSON; an error is
//! `{"error": <one word>, "message": <a sentence>}`.

mod building;
mod letters;
mod listener;
mod page;
mod parameters;
mod probes;
mod rebuild;
mod status;
mod wait;

use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::extract::{Request, State};
use axum::http::uri::Authority;
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, post};
use tokio::sync::{Semaphore, watch};

use crate::domain::catalog::Catalog;
use crate::domain::retry::RetryReason;
use crate::metrics::Metrics;
use crate::pipeline::letters::Log;
use crate::pipeline::progress::Progress;
use crate::pipeline::rebuild::RebuildDesk;
use crate::store::{Reader, StoreError};

pub use building::show_building;
pub use parameters::{parse_duration, parse_key, version_as_json};

/// Requests that wait at the same time; more are told to come back (429).
const WAITERS_MAX: usize = 256;
/// Questions to the replica at the same time: each takes a thread that may block.
const QUESTIONS_MAX: usize = 4;
/// Connections at the same time; further ones are not accepted until one ends.
const HTTP_CONNECTIONS_MAX: usize = 64;
const ADMIN_CONNECTIONS_MAX: usize = WAITERS_MAX + 64;

/// What the endpoints look at: the generation that serves. Another one takes its place when a
/// rebuild switches.
#[derive(Clone)]
pub struct Context {
    pub catalog: Arc<Catalog>,
    pub metrics: Arc<Metrics>,
    pub progress: Arc<Progress>,
    pub reader: Arc<dyn Reader>,
}

/// Where what changes something is asked for.
#[derive(Clone)]
pub struct Desks {
    pub rebuilds: Arc<RebuildDesk>,
    /// For records of dead letters.
    pub log: Arc<Log>,
}

/// Both listeners, bound. See [`bind`].
pub struct Listeners {
    /// Reachable from elsewhere, read-only.
    pub http: TcpListener,
    /// Loopback.
    pub admin: TcpListener,
}

/// Takes the address. Done before anything is started, so that a port that is taken ends the
/// process with a clear message and not after minutes of work.
pub fn bind(listen: SocketAddr) -> io::Result<TcpListener> {
    let listener = TcpListener::bind(listen)
        .map_err(|error| io::Error::new(error.kind(), format!("cannot listen on {listen}: {error}")))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Serves both listeners until `shutdown`, and then as long as answers take that have begun, but
/// at most `listener::GRACE`. Requests that wait are answered with 503 at once.
pub async fn serve(
    serving: watch::Receiver<Context>,
    desks: Desks,
    listeners: Listeners,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    let http = tokio::net::TcpListener::from_std(listeners.http)?;
    let admin = tokio::net::TcpListener::from_std(listeners.admin)?;
    let (stop, stopping) = watch::channel(false);
    let server = Arc::new(Server::new(serving, desks, stopping.clone()));
    let http = listener::serve(http, http_router(&server), HTTP_CONNECTIONS_MAX, stopping.clone());
    let admin = listener::serve(admin, admin_router(&server), ADMIN_CONNECTIONS_MAX, stopping);
    let announce = async {
        shutdown.await;
        stop.send_replace(true);
    };
    tokio::join!(http, admin, announce);
    Ok(())
}

struct Server {
    serving: watch::Receiver<Context>,
    rebuilds: Arc<RebuildDesk>,
    log: Arc<Log>,
    /// Of the one who may move dead letters.
    letters: Arc<Semaphore>,
    started_ms: i64,
    waiters: Arc<Semaphore>,
    questions: Arc<Semaphore>,
    stopping: watch::Receiver<bool>,
}

impl Server {
    fn new(serving: watch::Receiver<Context>, desks: Desks, stopping: watch::Receiver<bool>) -> Server {
        Server {
            serving,
            rebuilds: desks.rebuilds,
            log: desks.log,
            letters: Arc::new(Semaphore::new(1)),
            started_ms: now_ms(),
            waiters: Arc::new(Semaphore::new(WAITERS_MAX)),
            questions: Arc::new(Semaphore::new(QUESTIONS_MAX)),
            stopping,
        }
    }

    /// The generation that serves now.
    fn context(&self) -> Context {
        self.serving.borrow().clone()
    }

    /// Asks the replica on a thread that may block. The permit goes along, so that a question
    /// whose asker has gone still counts.
    async fn ask<T: Send + 'static>(
        &self,
        context: &Context,
        question: impl FnOnce(&dyn Reader) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let lost = |_| StoreError::Retry {
            reason: RetryReason::Io,
            message: "the replica was not asked: the process is ending".to_owned(),
        };
        let permit = self.questions.clone().acquire_owned().await.map_err(|_| lost(()))?;
        let reader = context.reader.clone();
        let task = tokio::task::spawn_blocking(move || {
            let answer = question(reader.as_ref());
            drop(permit);
            answer
        });
        task.await.map_err(|_| lost(()))?
    }
}

fn http_router(server: &Arc<Server>) -> Router {
    Router::new()
        .route("/metrics", get(probes::metrics))
        .route("/startupz", get(probes::startupz))
        .route("/readyz", get(probes::readyz))
        .route("/livez", get(probes::livez))
        .fallback(|| async { unknown_path("/metrics, /startupz, /readyz and /livez") })
        .with_state(server.clone())
}

fn admin_router(server: &Arc<Server>) -> Router {
    Router::new()
        .route("/", get(page::page))
        .route("/status", get(status::status))
        .route("/wait", get(wait::wait))
        .route("/rebuild", post(rebuild::rebuild))
        .route("/dead-letters", get(letters::list))
        .route("/dead-letters/retry", post(letters::retry))
        .route("/dead-letters/drop", post(letters::drop))
        .fallback(|| async {
            unknown_path("/, /status, /wait, /dead-letters, POST /dead-letters/retry, POST /dead-letters/drop and POST /rebuild")
        })
        .layer(middleware::from_fn(only_loopback_names))
        .with_state(server.clone())
}

fn unknown_path(known: &str) -> Response {
    refusal(StatusCode::NOT_FOUND, "unknown_path", &format!("there is {known} here"))
}

/// Against DNS rebinding: a page on the web that makes its own name resolve to 127.0.0.1 reaches
/// this listener from the browser of whoever opens it, but with its own name in `Host`. One that
/// posts to 127.0.0.1 from elsewhere says where it comes from in `Origin`.
async fn only_loopback_names(request: Request, next: Next) -> Response {
    if names_loopback(&request) && comes_from_loopback(&request) {
        return next.run(request).await;
    }
    let message =
        "this listener answers to localhost, 127.0.0.1 and [::1] only; ask it under one of these names";
    refusal(StatusCode::FORBIDDEN, "foreign_host", message)
}

/// Whether the request says whom it asks, and every name it says is a loopback name.
fn names_loopback(request: &Request) -> bool {
    let mut named = false;
    for host in request.headers().get_all(header::HOST) {
        named = true;
        if !is_loopback_name(host.as_bytes()) {
            return false;
        }
    }
    match request.uri().authority() {
        Some(authority) => is_loopback_name(authority.as_str().as_bytes()),
        None => named,
    }
}

/// Browsers send `Origin` with whatever a page posts; other clients do not.
fn comes_from_loopback(request: &Request) -> bool {
    request.headers().get_all(header::ORIGIN).iter().all(|origin| {
        let origin = origin.as_bytes();
        let host = origin.strip_prefix(b"http://").or_else(|| origin.strip_prefix(b"https://"));
        host.is_some_and(is_loopback_name)
    })
}

/// `Host` with or without a port; any port, since forwarding may change it.
fn is_loopback_name(host: &[u8]) -> bool {
    let Ok(authority) = Authority::try_from(host) else { return false };
    !authority.as_str().contains('@')
        && ["localhost", "127.0.0.1", "[::1]"].iter().any(|name| authority.host().eq_ignore_ascii_case(name))
}

/// An answer that is not what was asked for.
fn refusal(status: StatusCode, error: &str, message: &str) -> Response {
    (status, Json(serde_json::json!({ "error": error, "message": message }))).into_response()
}

fn store_refusal(error: &StoreError) -> Response {
    refusal(StatusCode::SERVICE_UNAVAILABLE, "replica_unreadable", &error.to_string())
}

type OfServer = State<Arc<Server>>;

/// Wall clock, ms since 1970.
fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
