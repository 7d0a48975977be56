//! `readside dead-letters`: what could not be applied is listed, shown, tried again, given up.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::client::{Answer, Endpoint, block_on, escape, get, post};
use super::status::{Lines, Sources};
use super::{DONE, Exit, FAILED, UNAVAILABLE, USAGE, print, printable};
use crate::app::replica::{drop_without_daemon, letters_without_daemon};
use crate::config::Config;
use crate::store::{LETTERS_PER_PAGE_MAX, LetterCursor, LetterFilter, LetterQuery};

const PATIENCE: Duration = Duration::from_secs(10);
/// One page of a retry: to read the log, and to apply what was found.
const RETRY_PATIENCE: Duration = Duration::from_secs(60);

/// Which dead letters.
#[derive(Debug, Clone, Default)]
pub struct Which {
    pub filter: LetterFilter,
    /// Where nothing else says which.
    pub all: bool,
}

impl Which {
    fn query(&self) -> Vec<(&'static str, String)> {
        let LetterFilter { topic, partition, offset, table, reason, produced: _ } = &self.filter;
        let mut query = Vec::new();
        let mut add = |name, value: Option<String>| query.extend(value.map(|value| (name, value)));
        add("topic", topic.clone());
        add("partition", partition.map(|partition| partition.to_string()));
        add("offset", offset.map(|offset| offset.to_string()));
        add("table", table.clone());
        add("reason", reason.clone());
        add("all", self.all.then(|| "true".to_owned()));
        query
    }
}

fn path(of: &str, query: &[(&str, String)]) -> String {
    let query: Vec<String> = query.iter().map(|(name, value)| format!("{name}={}", escape(value))).collect();
    format!("/dead-letters{of}?{}", query.join("&"))
}

fn answered<T: DeserializeOwned>(answer: &Answer) -> Result<T, Exit> {
    let code = match answer.status {
        200 => return answer.read(),
        400 | 403 | 404 | 405 => USAGE,
        503 => UNAVAILABLE,
        _ => FAILED,
    };
    Err(Exit { code, message: answer.message() })
}

#[derive(Debug, Deserialize)]
struct Page {
    dead_letters: Vec<Value>,
    next: Option<String>,
}

/// How much of a list.
#[derive(Debug, Clone, Default)]
pub struct Part {
    pub after: Option<String>,
    pub limit: usize,
}

/// 0 when it is shown, also when there is none; 69 when neither daemon nor replica can be asked.
pub fn list(sources: &Sources, which: &Which, part: &Part, json: bool) -> anyhow::Result<u8> {
    let page = block_on(async { Ok(page(sources, which, part, false).await?) })?;
    if json {
        print(&format!("{}\n", json!({ "dead_letters": page.dead_letters, "next": page.next })))?;
        return Ok(DONE);
    }
    print(&table(&page))?;
    Ok(DONE)
}

fn table(page: &Page) -> String {
    if page.dead_letters.is_empty() {
        return "no dead letters\n".to_owned();
    }
    let titles = ["TOPIC", "PARTITION", "OFFSET", "TABLE", "REASON", "PATH", "FIRST SEEN", "MESSAGE"];
    let mut lines = Lines::new(&titles, titles.len());
    for letter in &page.dead_letters {
        lines.push(
            ["topic", "partition", "offset", "table_name", "reason", "path", "first_seen", "message"]
                .map(|name| text(letter, name)),
        );
    }
    let mut shown = lines.finish();
    if let Some(next) = &page.next {
        shown.push_str(&format!("there are more: --after {}\n", printable(next)));
    }
    shown
}

/// A value for a terminal; nothing is a dash.
fn text(letter: &Value, name: &str) -> String {
    match letter.get(name) {
        None | Some(Value::Null) => "-".to_owned(),
        Some(Value::String(text)) if text.is_empty() => "-".to_owned(),
        Some(Value::String(text)) => printable(text),
        Some(other) => printable(&other.to_string()),
    }
}

/// The dead letters of one record, with what was kept of it. 1 when there is none.
pub fn show(sources: &Sources, which: &Which, json: bool) -> anyhow::Result<u8> {
    let part = Part { after: None, limit: LETTERS_PER_PAGE_MAX };
    let page = block_on(async { Ok(page(sources, which, &part, true).await?) })?;
    if page.dead_letters.is_empty() {
        return Err(Exit { code: FAILED, message: "there is no such dead letter".to_owned() }.into());
    }
    if json {
        print(&format!("{}\n", json!({ "dead_letters": page.dead_letters })))?;
        return Ok(DONE);
    }
    let mut shown = Vec::new();
    for letter in &page.dead_letters {
        let mut one = String::new();
        for (title, name) in [
            ("topic", "topic"),
            ("partition", "partition"),
            ("offset", "offset"),
            ("table", "table_name"),
            ("reason", "reason"),
            ("path", "path"),
            ("message", "message"),
            ("first seen", "first_seen"),
            ("produced", "produced"),
            ("key", "key"),
            ("value", "value"),
            ("headers", "headers"),
        ] {
            if letter.get(name).is_some() {
                one.push_str(&format!("{title:<10}  {}\n", text(letter, name)));
            }
        }
        shown.push(one);
    }
    print(&shown.join("\n"))?;
    Ok(DONE)
}

async fn page(sources: &Sources, which: &Which, part: &Part, bytes: bool) -> Result<Page, Exit> {
    let mut query = which.query();
    query.push(("limit", part.limit.to_string()));
    query.push(("bytes", bytes.to_string()));
    query.extend(part.after.clone().map(|after| ("after", after)));
    let unanswered = match get(&sources.admin, &path("", &query), PATIENCE).await {
        Ok(answer) => return answered(&answer),
        Err(exit) => exit,
    };
    let Some(config) = sources.config.clone() else { return Err(unanswered) };
    let after = match &part.after {
        None => None,
        Some(text) => Some(LetterCursor::parse(text).ok_or_else(|| {
            Exit::usage("--after takes what an earlier list has named: topic/partition/offset/table")
        })?),
    };
    let query = LetterQuery { filter: which.filter.clone(), after, limit: part.limit, bytes };
    // Reading blocks.
    let read = tokio::task::spawn_blocking(move || letters_without_daemon(&config, &query)).await;
    let page = match read {
        Ok(Some(Ok(page))) => page,
        Ok(None) => return Err(unanswered),
        Ok(Some(Err(error))) => return Err(unreadable(&unanswered, &error)),
        Err(error) => return Err(unreadable(&unanswered, &error)),
    };
    let next = page.letters.last().filter(|_| page.more).map(|letter| letter.cursor().to_string());
    let dead_letters: Result<Vec<Value>, _> = page.letters.iter().map(serde_json::to_value).collect();
    Ok(Page { dead_letters: dead_letters.map_err(|error| unreadable(&unanswered, &error))?, next })
}

fn unreadable(unanswered: &Exit, error: &dyn std::fmt::Display) -> Exit {
    Exit::unavailable(format!("{}; the replica cannot be read either: {error}", unanswered.message))
}

#[derive(Debug, Deserialize)]
struct Retried {
    records: Vec<Value>,
    next: Option<String>,
}

/// What became of a record so that it is no dead letter any more.
const GONE_WELL: [&str; 3] = ["applied", "superseded", "skipped"];

/// 0 when all of them could be applied or need not be, 1 when one is a dead letter still, 69 when the
/// daemon does not answer.
pub fn retry(admin: &Endpoint, which: &Which, force: bool, json: bool) -> anyhow::Result<u8> {
    let mut records = Vec::new();
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    block_on(async {
        let mut after: Option<String> = None;
        loop {
            let mut query = which.query();
            query.extend(force.then(|| ("force", "true".to_owned())));
            query.extend(after.take().map(|after| ("after", after)));
            let answer = post(admin, &path("/retry", &query), RETRY_PATIENCE).await?;
            let page: Retried = answered(&answer)?;
            for record in &page.records {
                *counts.entry(text(record, "result")).or_default() += 1;
            }
            match json {
                true => records.extend(page.records),
                false => print(&remaining(&page.records))?,
            }
            match page.next {
                Some(next) => after = Some(next),
                None => return Ok(()),
            }
        }
    })?;
    if json {
        print(&format!("{}\n", json!({ "counts": counts, "records": records })))?;
    } else {
        print(&summary(&counts))?;
    }
    let all_well = counts.keys().all(|result| GONE_WELL.contains(&result.as_str()));
    Ok(if all_well { DONE } else { FAILED })
}

/// A line for each record that is a dead letter still.
fn remaining(records: &[Value]) -> String {
    let mut lines = String::new();
    for record in records {
        let result = text(record, "result");
        if GONE_WELL.contains(&result.as_str()) {
            continue;
        }
        let place = ["topic", "partition", "offset"].map(|name| text(record, name)).join("/");
        let why: Vec<String> = ["reason", "path", "message"]
            .iter()
            .map(|name| text(record, name))
            .filter(|text| text != "-")
            .collect();
        lines.push_str(&format!("{place}  {result}  {}\n", why.join("  ")));
    }
    lines
}

fn summary(counts: &BTreeMap<String, u64>) -> String {
    if counts.is_empty() {
        return "no dead letter is meant\n".to_owned();
    }
    let parts: Vec<String> = counts.iter().map(|(result, count)| format!("{count} {result}")).collect();
    format!("{}\n", parts.join(", "))
}

#[derive(Debug, Deserialize)]
struct Dropped {
    dropped: u64,
    next: Option<String>,
}

/// 0 when they are gone, also when there were none. Where no daemon runs, the replica itself is
/// written: one that stops for too many dead letters could not be helped otherwise.
pub fn drop(sources: &Sources, which: &Which, json: bool) -> anyhow::Result<u8> {
    let dropped = block_on(async {
        let mut dropped = 0;
        let mut after: Option<String> = None;
        loop {
            let mut query = which.query();
            query.extend(after.take().map(|after| ("after", after)));
            let unanswered = match post(&sources.admin, &path("/drop", &query), RETRY_PATIENCE).await {
                Ok(answer) => {
                    let page: Dropped = answered(&answer)?;
                    dropped += page.dropped;
                    match page.next {
                        Some(next) => after = Some(next),
                        None => return Ok(dropped),
                    }
                    continue;
                }
                Err(exit) => exit,
            };
            return match sources.config.clone() {
                Some(config) => Ok(dropped + from_replica(config, which.filter.clone(), unanswered).await?),
                None => Err(unanswered.into()),
            };
        }
    })?;
    match json {
        true => print(&format!("{}\n", json!({ "dropped": dropped })))?,
        false => print(&format!("{dropped} dropped\n"))?,
    }
    Ok(DONE)
}

async fn from_replica(config: Box<Config>, filter: LetterFilter, unanswered: Exit) -> anyhow::Result<u64> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now_ms = i64::try_from(since.as_millis()).unwrap_or(i64::MAX);
    let dropped = tokio::task::spawn_blocking(move || drop_without_daemon(&config, &filter, now_ms)).await?;
    match dropped {
        Some(dropped) => Ok(dropped?),
        None => Err(unanswered.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::client::tests::{answering, response};
    use super::super::exit_code;
    use super::*;

    fn sources(admin: Endpoint) -> Sources {
        Sources { admin, config: None }
    }

    fn which() -> Which {
        let filter =
            LetterFilter { topic: Some("a&b".into()), partition: Some(3), ..LetterFilter::default() };
        Which { filter, all: false }
    }

    #[test]
    fn a_list_is_a_table_and_says_where_to_go_on() {
        let page = Page {
            dead_letters: vec![json!({
                "topic": "t", "partition": 0, "offset": 12, "table_name": null, "reason": "malformed",
                "path": "", "first_seen": "2026-01-31T10:30:00.000Z", "message": "no\u{1b}[2J JSON",
            })],
            next: Some("t/0/12/".to_owned()),
        };
        let shown = table(&page);
        assert!(!shown.contains('\u{1b}'), "{shown}");
        let lines: Vec<&str> = shown.lines().collect();
        assert!(lines[0].starts_with("TOPIC  PARTITION  OFFSET  TABLE"), "{shown}");
        assert!(lines[1].starts_with("t      0          12      -      malformed  -"), "{shown}");
        assert_eq!(lines[2], "there are more: --after t/0/12/");
        assert_eq!(table(&Page { dead_letters: vec![], next: None }), "no dead letters\n");
    }

    #[test]
    fn what_is_asked_survives_the_query() {
        let (endpoint, asked) = answering(response("200 OK", r#"{"dead_letters":[],"next":null}"#));
        let part = Part { after: Some("t/0/1/u v".into()), limit: 7 };
        assert_eq!(list(&sources(endpoint), &which(), &part, false).unwrap(), DONE);
        let asked = asked.join().unwrap();
        let path = "GET /dead-letters?topic=a%26b&partition=3&limit=7&bytes=false&after=t%2F0%2F1%2Fu%20v ";
        assert!(asked.starts_with(path), "{asked}");
    }

    #[test]
    fn a_retry_that_leaves_dead_letters_ends_with_1() {
        for (result, code) in [
            ("applied", DONE),
            ("superseded", DONE),
            ("skipped", DONE),
            ("refused", FAILED),
            ("gone", FAILED),
            ("unreachable", FAILED),
            ("too_old", FAILED),
        ] {
            let body = json!({ "records": [{ "topic": "t", "partition": 0, "offset": 1, "result": result }], "next": null });
            let (endpoint, asked) = answering(response("200 OK", &body.to_string()));
            assert_eq!(retry(&endpoint, &which(), true, true).unwrap(), code, "{result}");
            let asked = asked.join().unwrap();
            assert!(
                asked.starts_with("POST /dead-letters/retry?topic=a%26b&partition=3&force=true "),
                "{asked}"
            );
        }
    }

    #[test]
    fn a_retry_says_why_something_is_left() {
        let record = json!({
            "topic": "t", "partition": 0, "offset": 1, "result": "refused", "reason": "wrong_type", "path": ".id",
            "message": "is a string",
        });
        assert_eq!(remaining(&[record]), "t/0/1  refused  wrong_type  .id  is a string\n");
        let counts = BTreeMap::from([("applied".to_owned(), 3), ("refused".to_owned(), 1)]);
        assert_eq!(summary(&counts), "3 applied, 1 refused\n");
    }

    #[test]
    fn the_exit_code_says_whether_to_try_again() {
        for (status, code) in [
            ("400 Bad Request", USAGE),
            ("403 Forbidden", USAGE),
            ("409 Conflict", FAILED),
            ("503 Service Unavailable", UNAVAILABLE),
        ] {
            let (endpoint, _asked) = answering(response(status, r#"{"message":"no"}"#));
            let error = drop(&sources(endpoint), &which(), false).unwrap_err();
            assert_eq!((exit_code(&error), error.to_string().as_str()), (code, "no"), "{status}");
        }
        let (endpoint, _asked) = answering(response("200 OK", r#"{"dead_letters":[],"next":null}"#));
        let error = show(&sources(endpoint), &which(), false).unwrap_err();
        assert_eq!(exit_code(&error), FAILED);
        let (endpoint, _asked) = answering(response("200 OK", r#"{"dropped":2,"next":null}"#));
        assert_eq!(drop(&sources(endpoint), &which(), true).unwrap(), DONE);
    }
}
