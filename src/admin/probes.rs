//! The read-only listener: metrics and the three probes.

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use serde::Serialize;

use super::{OfServer, now_ms, refusal, store_refusal};
use crate::pipeline::progress::Shared;

/// The text format of Prometheus, as its content type (version included) says.
const TEXT_FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A loop that has not come round for so long hangs.
const HANGS_AFTER_MS: i64 = 30_000;
/// One step of the store may take long: indexes of a large table are made at the end of its copy. So it
/// is while the first copy is built, when the start-up probe has its own budget, and for a writer that is
/// inside of such a step.
const STEP_MAX_MS: i64 = 15 * 60_000;

pub(super) async fn metrics(State(server): OfServer) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, TEXT_FORMAT)], server.context().metrics.render(now_ms()))
}

#[derive(Serialize)]
struct Startup {
    /// `open` or `closed`; once open it stays so in this process.
    gate: &'static str,
    /// Whether the ends captured at start are reached; null while nobody can tell.
    caught_up: Option<bool>,
    remaining_records: Option<u64>,
    total_records: Option<u64>,
    records_per_second: Option<f64>,
    eta_seconds: Option<f64>,
    connected: bool,
    /// Why nothing more is applied, for a person.
    stopped: Option<String>,
    /// What keeps the gate closed, for a person.
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
}

fn what_remains(shared: &Shared) -> String {
    match (&shared.stopped, &shared.build) {
        (Some(reason), _) => format!("the daemon has stopped applying events: {reason}"),
        (None, Some(build)) => {
            format!("{} of {} records to go", build.remaining_records, build.total_records)
        }
        (None, None) if shared.connected => "how much there is to read is being asked".to_owned(),
        (None, None) => "how much there is to read is not known yet: no broker has answered".to_owned(),
    }
}

/// 200 once the start-up gate has opened in this process, else 503 and how much remains.
pub(super) async fn startupz(State(server): OfServer) -> Response {
    let context = server.context();
    let progress = &context.progress;
    let open = progress.has_started();
    let body = progress.read(|shared| Startup {
        gate: if open { "open" } else { "closed" },
        caught_up: match shared.build {
            Some(build) => Some(build.remaining_records == 0),
            None if open => None,
            None => Some(false),
        },
        remaining_records: shared.build.map(|build| build.remaining_records),
        total_records: shared.build.map(|build| build.total_records),
        records_per_second: shared.build.map(|build| build.rate),
        eta_seconds: shared.build.and_then(|build| build.eta_seconds),
        connected: shared.connected,
        stopped: shared.stopped.clone(),
        message: (!open).then(|| what_remains(shared)),
    });
    (if open { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, Json(body)).into_response()
}

/// 200 when the gate is open and the replica can be read. How old the replica may be is for the
/// reader to decide: a stale copy is ready, too, and the body says its state.
pub(super) async fn readyz(State(server): OfServer) -> Response {
    let context = server.context();
    if !context.progress.is_gate_open() {
        let message = "the copy is not whole yet; /startupz says how much remains";
        return refusal(StatusCode::SERVICE_UNAVAILABLE, "starting", message);
    }
    match server.ask(&context, |reader| reader.status(now_ms())).await {
        Ok(status) => {
            Json(serde_json::json!({ "ready": true, "state": status.state.name() })).into_response()
        }
        Err(error) => store_refusal(&error),
    }
}

/// 200 while both loops come round. A broker or a disk that does not answer is no reason to be
/// restarted, a loop that hangs is.
pub(super) async fn livez(State(server): OfServer) -> Response {
    let context = server.context();
    let progress = &context.progress;
    let limit_ms = if progress.is_gate_open() { HANGS_AFTER_MS } else { STEP_MAX_MS };
    let loops = progress.loops();
    let writer_limit_ms = if loops.in_store { STEP_MAX_MS } else { limit_ms };
    for (tick_ms, limit_ms) in [(loops.pipeline_ms, limit_ms), (loops.writer_ms, writer_limit_ms)] {
        // Before the first round the loops are as old as the server.
        let silent_ms = now_ms() - tick_ms.max(server.started_ms);
        if silent_ms > limit_ms {
            let message = format!("a loop has not come round for {} s", silent_ms / 1000);
            return refusal(StatusCode::SERVICE_UNAVAILABLE, "hangs", &message);
        }
    }
    Json(serde_json::json!({ "live": true })).into_response()
}
