//! `POST /rebuild`: builds a new generation beside the one that serves.

use std::time::Duration;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use serde::Deserialize;
use serde_json::json;

use crate::pipeline::rebuild::Answer;

use super::{OfServer, refusal};

/// The supervisor comes round several times a second; beginning a generation takes little more.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Parameters {
    #[serde(default)]
    accept_loss: bool,
}

/// 202 once it has begun, 409 while one is running, 507 when it cannot begin (the message says
/// why).
pub(super) async fn rebuild(
    State(server): OfServer,
    parameters: Result<Query<Parameters>, QueryRejection>,
) -> Response {
    let Query(Parameters { accept_loss }) = match parameters {
        Ok(parameters) => parameters,
        Err(rejection) => return refusal(StatusCode::BAD_REQUEST, "malformed", &rejection.body_text()),
    };
    match tokio::time::timeout(PATIENCE, server.rebuilds.ask(accept_loss)).await {
        Ok(Ok(Answer::Begun(generation))) => {
            (StatusCode::ACCEPTED, Json(json!({ "generation": generation }))).into_response()
        }
        Ok(Ok(Answer::Running(generation))) => {
            let message =
                format!("generation {generation} is being built already; /status says how far it is");
            refusal(StatusCode::CONFLICT, "running", &message)
        }
        Ok(Ok(Answer::Refused(reason))) => refusal(StatusCode::INSUFFICIENT_STORAGE, "refused", &reason),
        Ok(Err(_)) | Err(_) => {
            let message = "nobody took the request: the daemon is ending, or too many wait";
            refusal(StatusCode::SERVICE_UNAVAILABLE, "not_taken", message)
        }
    }
}
