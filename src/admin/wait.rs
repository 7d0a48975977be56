//! `GET /wait`: read your writes.
//!
//! A service that has produced an event knows its coordinates or its version. It waits here until
//! the replica holds the event, and then reads the replica.

use std::time::Duration;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use serde::Deserialize;
use serde_json::json;
use tokio::time::Instant;

use crate::domain::catalog::Catalog;
use crate::domain::checkpoint::TopicPartition;
use crate::domain::value::Value;
use crate::domain::version::Version;
use crate::store::{RowLookup, StoreError};

use super::listener::told_to_stop;
use super::parameters::{Wanted, parse_duration, parse_key, parse_version, version_as_json};
use super::{Context, OfServer, Server, refusal, store_refusal};

const TIMEOUT_DEFAULT: Duration = Duration::from_secs(5);
const TIMEOUT_MAX: Duration = Duration::from_secs(300);

/// Either `topic`, `partition`, `offset` or `table`, `key`, `version`, and `timeout` with both.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Parameters {
    topic: Option<String>,
    partition: Option<String>,
    offset: Option<String>,
    table: Option<String>,
    key: Option<String>,
    version: Option<String>,
    timeout: Option<String>,
}

/// What has to be in the replica.
#[derive(Debug)]
enum Target {
    /// Everything up to and with this offset.
    Offset { at: TopicPartition, offset: i64 },
    /// This version of a row, or a newer one.
    Version { table: usize, key: Vec<Value>, wanted: Wanted },
}

/// 200 once it is there, 409 when the event is a dead letter, 504 after `timeout`, 400 for what
/// cannot be asked, 404 for a topic, partition or table that is not replicated, 429 when too many
/// wait, 503 when it will not come.
pub(super) async fn wait(
    State(server): OfServer,
    parameters: Result<Query<Parameters>, QueryRejection>,
) -> Response {
    let parameters = match parameters {
        Ok(Query(parameters)) => parameters,
        Err(rejection) => return *malformed(&rejection.body_text()),
    };
    let mut serving = server.serving.clone();
    let mut context = serving.borrow_and_update().clone();
    let (mut target, timeout) = match resolve(&context.catalog, &parameters) {
        Ok(asked) => asked,
        Err(response) => return *response,
    };
    let Ok(_slot) = server.waiters.clone().try_acquire_owned() else {
        let mut response = refusal(
            StatusCode::TOO_MANY_REQUESTS,
            "too_many_waiters",
            "too many requests wait already; try again in a second",
        );
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        return response;
    };
    let deadline = Instant::now() + timeout;
    let mut stopping = server.stopping.clone();
    loop {
        let asked = Asked { server: &server, context: &context };
        // Also with a timeout of 0 it looks once.
        let mut seen = None;
        if let Ok(Some(response)) = look(asked, &target, &mut seen).await {
            return response;
        }
        tokio::select! {
            biased;
            response = until_there(asked, &target, seen) => return response,
            () = told_to_stop(&mut stopping) => {
                let message = "the daemon is shutting down";
                return refusal(StatusCode::SERVICE_UNAVAILABLE, "shutting_down", message);
            }
            // Another generation serves now; under its mapping things may have other places.
            Ok(()) = serving.changed() => {}
            () = tokio::time::sleep_until(deadline) => return too_late(asked, &target, timeout),
        }
        context = serving.borrow_and_update().clone();
        target = match resolve(&context.catalog, &parameters) {
            Ok((target, _)) => target,
            Err(response) => return *response,
        };
    }
}

/// Whom is asked, and the generation that is meant.
#[derive(Clone, Copy)]
struct Asked<'a> {
    server: &'a Server,
    context: &'a Context,
}

/// The answer when time is up. A partition counts as unknown only now, because one that was just
/// added takes a moment until the replica knows it, and only if others of its topic are known:
/// before the first contact with the brokers nobody can tell.
fn too_late(asked: Asked<'_>, target: &Target, timeout: Duration) -> Response {
    if let Target::Offset { at, .. } = target {
        let known = asked.context.progress.read(|shared| {
            let mut of_topic = shared.positions.keys().filter(|known| known.topic == at.topic).peekable();
            of_topic.peek().is_none() || of_topic.any(|known| known == at)
        });
        if !known {
            let topic = asked.context.catalog.topics.get(at.topic).map_or("", String::as_str);
            let message = format!("the replica knows no partition {} of topic {topic}", at.partition);
            return refusal(StatusCode::NOT_FOUND, "unknown_partition", &message);
        }
    }
    let message = format!("not in the replica after {timeout:?}");
    refusal(StatusCode::GATEWAY_TIMEOUT, "timeout", &message)
}

fn position(asked: Asked<'_>, at: TopicPartition) -> Option<i64> {
    asked.context.progress.read(|shared| shared.positions.get(&at).copied())
}

/// Looks now and with every commit.
async fn until_there(asked: Asked<'_>, target: &Target, mut seen: Option<Seen>) -> Response {
    let progress = &asked.context.progress;
    let mut commits = progress.subscribe();
    loop {
        commits.mark_unchanged();
        // Read before looking: what stopped the daemon came after the last commit.
        let stopped = progress.read(|shared| shared.stopped.clone());
        match look(asked, target, &mut seen).await {
            Ok(Some(response)) => return response,
            Ok(None) => {}
            // Rows can be looked at again with the next commit.
            Err(StoreError::Retry { message, .. }) => {
                tracing::debug!(error = message, "cannot look up a row that somebody waits for");
            }
            Err(error) => return store_refusal(&error),
        }
        if let Some(reason) = stopped {
            let message = format!("the daemon has stopped applying events: {reason}");
            return refusal(StatusCode::SERVICE_UNAVAILABLE, "stopped", &message);
        }
        if commits.changed().await.is_err() {
            return refusal(StatusCode::SERVICE_UNAVAILABLE, "shutting_down", "the daemon is shutting down");
        }
    }
}

/// What a row can only have changed with: the positions of its table's topics, and whether the
/// first copy is done.
type Seen = (Vec<(TopicPartition, i64)>, bool);

async fn look(
    asked: Asked<'_>,
    target: &Target,
    seen: &mut Option<Seen>,
) -> Result<Option<Response>, StoreError> {
    match target {
        Target::Offset { at, offset } => {
            let there = position(asked, *at).filter(|next| next > offset);
            // While the first copy is being built, readers see nothing of it.
            let Some(next_offset) = there.filter(|_| asked.context.progress.is_gate_open()) else {
                return Ok(None);
            };
            let (at, offset) = (*at, *offset);
            let topic = asked.context.catalog.topics.get(at.topic);
            if asked.server.ask(asked.context, move |reader| reader.is_dead_letter(at, offset)).await? {
                return Ok(Some(refusal(
                    StatusCode::CONFLICT,
                    "dead_letter",
                    "the event could not be applied: see _readside_dead_letters for the reason",
                )));
            }
            let body = json!({
                "outcome": "applied",
                "topic": topic,
                "partition": at.partition,
                "offset": offset,
                "next_offset": next_offset,
            });
            Ok(Some(Json(body).into_response()))
        }
        Target::Version { table, key, wanted } => {
            let now = seen_by(asked, *table);
            if !asked.context.progress.is_gate_open() || seen.as_ref() == Some(&now) {
                return Ok(None);
            }
            let (index, key) = (*table, key.clone());
            let row = asked.server.ask(asked.context, move |reader| reader.row(index, &key)).await?;
            // Only what was answered counts as seen.
            *seen = Some(now);
            Ok(judge(asked, *table, wanted, &row))
        }
    }
}

fn seen_by(asked: Asked<'_>, table: usize) -> Seen {
    let context = asked.context;
    let topics = context.catalog.tables.get(table).map_or(&[][..], |table| &table.topics);
    let positions = context.progress.read(|shared| {
        let of_table = shared.positions.iter().filter(|(at, _)| topics.contains(&at.topic));
        of_table.map(|(at, next)| (*at, *next)).collect()
    });
    (positions, context.progress.is_gate_open())
}

/// Compares a row with what is wanted; `None`: not there yet.
fn judge(asked: Asked<'_>, table: usize, wanted: &Wanted, row: &RowLookup) -> Option<Response> {
    let (version, visible): (&Version, bool) = match row {
        RowLookup::Visible { version, .. } => (version, true),
        RowLookup::Deleted { version } => (version, false),
        RowLookup::Missing => return None,
    };
    let parts = version.parts();
    let name = asked.context.catalog.tables.get(table).map_or("", |table| table.name.as_str());
    if parts.kind != wanted.kind {
        let example = version_as_json(&parts);
        let message = format!("versions of table {name} are of another kind; this row's is {example}");
        return Some(*malformed(&message));
    }
    if parts.integers < wanted.integers {
        return None;
    }
    let outcome = match visible {
        false => "deleted",
        true if parts.integers == wanted.integers => "visible",
        true => "superseded",
    };
    let body = json!({ "outcome": outcome, "table": name, "version": version_as_json(&parts) });
    Some(Json(body).into_response())
}

/// Boxed, because a response is large and seldom one of these.
type Refused = Box<Response>;

fn malformed(message: &str) -> Refused {
    Box::new(refusal(StatusCode::BAD_REQUEST, "malformed", message))
}

fn unknown(error: &str, message: &str) -> Refused {
    Box::new(refusal(StatusCode::NOT_FOUND, error, message))
}

fn resolve(catalog: &Catalog, parameters: &Parameters) -> Result<(Target, Duration), Refused> {
    let timeout = match &parameters.timeout {
        Some(text) => parse_duration(text).map_err(|message| malformed(&format!("timeout: {message}")))?,
        None => TIMEOUT_DEFAULT,
    };
    if timeout > TIMEOUT_MAX {
        return Err(malformed("timeout must not be longer than 5m"));
    }
    let target = match parameters {
        Parameters {
            topic: Some(topic),
            partition: Some(partition),
            offset: Some(offset),
            table: None,
            key: None,
            version: None,
            ..
        } => offset_target(catalog, topic, partition, offset)?,
        Parameters {
            table: Some(table),
            key: Some(key),
            version: Some(version),
            topic: None,
            partition: None,
            offset: None,
            ..
        } => version_target(catalog, table, key, version)?,
        _ => return Err(malformed("wait for topic, partition and offset, or for table, key and version")),
    };
    Ok((target, timeout))
}

fn offset_target(catalog: &Catalog, topic: &str, partition: &str, offset: &str) -> Result<Target, Refused> {
    let whole = |name: &str, text: &str, max: i64| match text.parse::<i64>() {
        Ok(number) if (0..=max).contains(&number) => Ok(number),
        _ => Err(malformed(&format!("{name} must be an integer from 0 to {max}, not {text:?}"))),
    };
    let partition = whole("partition", partition, i64::from(i32::MAX))?;
    let offset = whole("offset", offset, i64::MAX - 1)?;
    let Some(topic) = catalog.topics.iter().position(|name| name == topic) else {
        let message = format!("no table is fed from topic {topic:?}; there is {}", catalog.topics.join(", "));
        return Err(unknown("unknown_topic", &message));
    };
    let partition = i32::try_from(partition).map_err(|_| malformed("partition is out of range"))?;
    Ok(Target::Offset { at: TopicPartition { topic, partition }, offset })
}

fn version_target(catalog: &Catalog, table: &str, key: &str, version: &str) -> Result<Target, Refused> {
    let Some(index) = catalog.tables.iter().position(|each| each.name == table) else {
        let names: Vec<_> = catalog.tables.iter().map(|table| table.name.as_str()).collect();
        let message = format!("there is no table {table:?}; there is {}", names.join(", "));
        return Err(unknown("unknown_table", &message));
    };
    let table = &catalog.tables[index];
    if table.ordered_by_position {
        return Err(malformed(&format!(
            "rows of table {} have no version from the events; wait for topic, partition and offset",
            table.name
        )));
    }
    let key = parse_key(table, key).map_err(|message| malformed(&message))?;
    let wanted = parse_version(version).map_err(|message| malformed(&message))?;
    Ok(Target::Version { table: index, key, wanted })
}
