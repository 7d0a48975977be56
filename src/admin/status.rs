//! `GET /status`: what `_readside_status` and `_readside_positions` show, and how the daemon does.

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use serde::Serialize;

use crate::pipeline::progress::{Build, LongReader, OpenTransaction};
use crate::pipeline::rebuild::RebuildStatus;
use crate::store::Status;

use super::{OfServer, now_ms};

#[derive(Serialize)]
struct Body {
    #[serde(flatten)]
    replica: Option<Status>,
    /// Why there is no `replica` part.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
    /// When this was read, ms since 1970: ages are differences to it.
    now_ms: i64,
    version: &'static str,
    /// Always true here; `readside status` says false when it has to read the replica itself.
    daemon: bool,
    /// Whether the start-up gate has opened in this process.
    gate_open: bool,
    /// Whether the last round of questions to the brokers was answered.
    connected: bool,
    /// How far the start has come; null while the ends captured at start are unknown.
    build: Option<Build>,
    /// Why the store refuses batches for now; they are retried.
    store_failing: Option<String>,
    /// Why `dead_letters.topic` does not take dead letters for now; they are tried again.
    dead_letters_failing: Option<String>,
    /// Transactions of producers that have held back what lies behind them for ten seconds and more.
    open_transactions: Vec<OpenTransaction>,
    /// A read transaction that keeps the write-ahead log from being reused for a minute and more.
    long_reader: Option<LongReader>,
    rebuild: RebuildStatus,
}

/// 200; 503 when the replica cannot be read, with what the daemon itself knows.
pub(super) async fn status(State(server): OfServer) -> Response {
    let now_ms = now_ms();
    let context = server.context();
    let replica = server.ask(&context, move |reader| reader.status(now_ms)).await;
    let progress = &context.progress;
    let gate_open = progress.is_gate_open();
    let mut body = progress.read(|shared| Body {
        replica: None,
        error: None,
        message: None,
        now_ms,
        version: env!("CARGO_PKG_VERSION"),
        daemon: true,
        gate_open,
        connected: shared.connected,
        build: shared.build,
        store_failing: shared.store_failing.clone(),
        dead_letters_failing: shared.letters_failing.clone(),
        open_transactions: shared.open_transactions.clone(),
        long_reader: shared.long_reader.clone(),
        rebuild: server.rebuilds.status(),
    });
    let code = match replica {
        Ok(replica) => {
            body.replica = Some(replica);
            StatusCode::OK
        }
        Err(error) => {
            body.error = Some("replica_unreadable");
            body.message = Some(error.to_string());
            StatusCode::SERVICE_UNAVAILABLE
        }
    };
    (code, [(header::CACHE_CONTROL, "no-store")], Json(body)).into_response()
}
