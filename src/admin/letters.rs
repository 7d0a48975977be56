//! `/dead-letters`: what could not be applied is listed, tried again, given up.

use std::sync::Arc;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use serde::{Deserialize, Serialize};

use super::{OfServer, Server, now_ms, refusal, store_refusal};
use crate::pipeline::letters::{self, LettersError, Selection, Sides};
use crate::store::{LETTERS_PER_PAGE_MAX, Letter, LetterCursor, LetterFilter, LetterQuery};

const LIMIT_DEFAULT: usize = 100;

/// Which dead letters, for all three.
#[derive(Debug, Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct Parameters {
    topic: Option<String>,
    partition: Option<i32>,
    offset: Option<i64>,
    table: Option<String>,
    reason: Option<String>,
    /// The `next` of the answer before.
    after: Option<String>,
    /// Of a page, for the list only.
    limit: Option<usize>,
    /// Kept records, too, for the list only.
    #[serde(default)]
    bytes: bool,
    /// Where nothing else says which.
    #[serde(default)]
    all: bool,
    /// For a retry only.
    #[serde(default)]
    force: bool,
}

impl Parameters {
    fn selection(self) -> Result<Selection, Refused> {
        let malformed = |message: &str| refused(StatusCode::BAD_REQUEST, "malformed", message);
        let after = match self.after {
            None => None,
            Some(text) => match LetterCursor::parse(&text) {
                Some(cursor) => Some(cursor),
                None => return Err(malformed("after is the `next` of an earlier answer")),
            },
        };
        let filter = LetterFilter {
            topic: self.topic,
            partition: self.partition,
            offset: self.offset,
            table: self.table,
            reason: self.reason,
            produced: None,
        };
        Ok(Selection { filter, after })
    }

    /// What changes something needs to be told what.
    fn choice(self) -> Result<Selection, Refused> {
        let all = self.all;
        let selection = self.selection()?;
        if all == (selection.filter == LetterFilter::default()) {
            return Ok(selection);
        }
        let message = match all {
            true => "all=true goes with no other choice",
            false => "say which: topic, partition, offset, table, reason, or all=true",
        };
        Err(refused(StatusCode::BAD_REQUEST, "malformed", message))
    }
}

/// An answer that is not what was asked for.
type Refused = Box<Response>;

type Asked = Result<Query<Parameters>, QueryRejection>;

fn parameters(asked: Asked) -> Result<Parameters, Refused> {
    match asked {
        Ok(Query(parameters)) => Ok(parameters),
        Err(rejection) => Err(refused(StatusCode::BAD_REQUEST, "malformed", &rejection.body_text())),
    }
}

#[derive(Serialize)]
struct List {
    dead_letters: Vec<Letter>,
    next: Option<String>,
}

/// 200 with a page; 400 for a question that cannot be read, 503 when the replica cannot be.
pub(super) async fn list(State(server): OfServer, asked: Asked) -> Response {
    answer(list_page(&server, asked).await)
}

async fn list_page(server: &Server, asked: Asked) -> Result<Response, Refused> {
    let parameters = parameters(asked)?;
    let (limit, bytes) =
        (parameters.limit.unwrap_or(LIMIT_DEFAULT).min(LETTERS_PER_PAGE_MAX), parameters.bytes);
    let Selection { filter, after } = parameters.selection()?;
    let query = LetterQuery { filter, after, limit, bytes };
    let context = server.context();
    let page = server.ask(&context, move |reader| reader.dead_letters(&query)).await;
    let page = page.map_err(|error| Box::new(store_refusal(&error)))?;
    let next = page.letters.last().filter(|_| page.more).map(|letter| letter.cursor().to_string());
    Ok(Json(List { dead_letters: page.letters, next }).into_response())
}

/// 200 with what became of each record, 409 while nothing is applied or another one is moving dead
/// letters, 503 when the replica cannot be read or does not take it in time.
pub(super) async fn retry(State(server): OfServer, asked: Asked) -> Response {
    answer(retry_some(&server, asked).await)
}

async fn retry_some(server: &Arc<Server>, asked: Asked) -> Result<Response, Refused> {
    let parameters = parameters(asked)?;
    let force = parameters.force;
    let selection = parameters.choice()?;
    let log = Arc::clone(&server.log);
    let report = move_letters(server, move |sides| letters::retry(sides, &*log, &selection, force)).await?;
    Ok(Json(report).into_response())
}

/// 200 with how many are gone; else like [`retry`].
pub(super) async fn drop(State(server): OfServer, asked: Asked) -> Response {
    answer(drop_some(&server, asked).await)
}

async fn drop_some(server: &Arc<Server>, asked: Asked) -> Result<Response, Refused> {
    let selection = parameters(asked)?.choice()?;
    let report = move_letters(server, move |sides| letters::drop_letters(sides, &selection)).await?;
    Ok(Json(report).into_response())
}

/// On a thread that may block; one at a time. It goes on when the asker has gone.
async fn move_letters<T: Send + 'static>(
    server: &Arc<Server>,
    work: impl FnOnce(&Sides<'_>) -> Result<T, LettersError> + Send + 'static,
) -> Result<T, Refused> {
    let Ok(permit) = server.letters.clone().try_acquire_owned() else {
        let message = "dead letters are being retried or dropped already; ask again when that is done";
        return Err(refused(StatusCode::CONFLICT, "running", message));
    };
    let context = server.context();
    let task = tokio::task::spawn_blocking(move || {
        let sides = Sides {
            catalog: &context.catalog,
            reader: context.reader.as_ref(),
            desk: &context.progress.letters,
            metrics: &context.metrics,
            now_ms: now_ms(),
        };
        let done = work(&sides);
        std::mem::drop(permit);
        done
    });
    let done = task.await.unwrap_or(Err(LettersError::Unknown));
    done.map_err(|error| match error {
        LettersError::NotTaken => refused(StatusCode::CONFLICT, "not_applying", &error.to_string()),
        LettersError::Unknown => refused(StatusCode::SERVICE_UNAVAILABLE, "not_known", &error.to_string()),
        LettersError::Store(error) => Box::new(store_refusal(&error)),
    })
}

fn answer(result: Result<Response, Refused>) -> Response {
    result.unwrap_or_else(|refused| *refused)
}

fn refused(status: StatusCode, error: &str, message: &str) -> Refused {
    Box::new(refusal(status, error, message))
}
