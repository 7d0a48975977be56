//! `readside check`: connects to everything the daemon will need and says what failed, and what to
//! do about it. Reads a little, writes nothing but a probe file that it removes.

mod schemas;

use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use crate::app::replica::Place;
use crate::config::Config;
use crate::decode::registry;
use crate::mapping::Plan;
use crate::source::Cleanup;
use crate::source::kafka::{self, FoundTopic, Probe, Writable};

use super::{DONE, FOREIGN, IO, UNAVAILABLE};
use crate::store::{StopCode, StoreError, redis_check};

/// From Friday evening to Monday morning, with a night in reserve.
const WEEKEND: Duration = Duration::from_secs(3 * 86_400);
/// What a daemon should be able to be down for without a trace: Kafka's default for tombstones.
const DOWNTIME: Duration = Duration::from_secs(86_400);

#[derive(Debug, Clone, Copy, PartialEq)]
enum Outcome {
    Ok,
    /// It works, and a person should know something.
    Warning,
    Failed,
    /// What it needs has failed.
    Skipped,
}

/// One line of the result.
#[derive(Debug)]
struct Item {
    what: String,
    outcome: Outcome,
    found: String,
    /// Empty when there is nothing to do.
    advice: String,
}

/// What is to be checked.
#[derive(Debug, Clone, Default)]
pub struct Options {
    pub timeout: Duration,
    pub json: bool,
    /// Nothing but the mapping against schemas: neither brokers nor the replica are asked.
    pub schemas_only: bool,
    /// Topics with files of schemas that are not registered yet.
    pub candidates: Vec<(String, PathBuf)>,
}

/// Prints a line per item and gives the exit code: 69 when a service is missing, else 1 when a schema
/// would break the mapping, else 74 when the replica cannot be written, else 0. Takes no longer than
/// `timeout` for each service and a second.
pub fn run(config: &Config, options: &Options) -> anyhow::Result<u8> {
    let Options { timeout, json, schemas_only, candidates } = options;
    let (timeout, json) = (*timeout, *json);
    if !candidates.is_empty() || *schemas_only {
        let judged = match candidates.as_slice() {
            [] => schemas::registered(config, timeout),
            candidates => schemas::candidates(config, candidates)?,
        };
        let code = judged.code();
        super::print(&if json { format!("{:#}\n", judged.as_json()) } else { judged.as_text() })?;
        return Ok(code);
    }
    let names: Vec<String> = config.topics.iter().map(|topic| topic.name.clone()).collect();
    let mut items = match kafka::probe(&config.kafka, &names, timeout) {
        Ok(probe) => service_items(&probe, &config.kafka.brokers, &names),
        Err(error) => {
            vec![failed("kafka", &error.to_string(), "correct it under kafka in the configuration")]
        }
    };
    // Without a broker it would only wait for the same silence again.
    let reached = items.first().is_some_and(|item| item.outcome == Outcome::Ok);
    if let Some(topic) = &config.dead_letters.topic {
        items.push(match reached.then(|| kafka::probe_writable(&config.kafka, topic, timeout)) {
            Some(Ok(found)) => dead_letter_item(topic, found),
            Some(Err(error)) => {
                failed(&format!("topic {topic}"), &error.to_string(), "correct it under kafka")
            }
            None => not_asked(format!("topic {topic}")),
        });
    }
    items.extend(schema_items(config, timeout));
    let services_failed = items.iter().any(|item| item.outcome == Outcome::Failed);
    let judged = schemas::registered(config, timeout);
    let (replica, replica_code) = match Place::of(config) {
        Place::Sqlite(path) => (replica_item(&path), IO),
        Place::Redis(settings) => redis_item(redis_check(&settings, timeout)),
    };
    let replica_failed = replica.outcome == Outcome::Failed;
    items.push(replica);
    let text = match json {
        true => {
            let mut all = as_json(&items);
            judged.add_to(&mut all);
            format!("{all:#}\n")
        }
        false => format!("{}{}", as_text(&items), judged.as_text()),
    };
    super::print(&text)?;
    Ok(match (services_failed, judged.code(), replica_failed) {
        (true, ..) => UNAVAILABLE,
        (false, DONE, true) => replica_code,
        (false, code, _) => code,
    })
}

fn service_items(probe: &Probe, brokers: &[String], names: &[String]) -> Vec<Item> {
    let mut items = Vec::new();
    match &probe.cluster {
        Ok(cluster) => items.push(ok("kafka", &format!("cluster {cluster}"))),
        Err(reason) => {
            let found = format!("{}: {reason}", brokers.join(", "));
            items.push(failed("kafka", &found, "check kafka.brokers, the network and the credentials"));
        }
    }
    for (index, name) in names.iter().enumerate() {
        let what = format!("topic {name}");
        items.push(match probe.topics.get(index) {
            Some(Ok(found)) => topic_item(what, found),
            Some(Err(reason)) => failed(&what, reason, "create it, correct its name, or grant access to it"),
            None => not_asked(what),
        });
    }
    items
}

fn not_asked(what: String) -> Item {
    Item { what, outcome: Outcome::Skipped, found: "no broker was asked".into(), advice: String::new() }
}

fn dead_letter_item(topic: &str, found: Result<Writable, String>) -> Item {
    let what = format!("topic {topic}");
    let advice = "it is dead_letters.topic: create it, correct its name, or grant Write to it";
    match found {
        Ok(Writable { may_write: Some(false), .. }) => failed(&what, "it may not be written to", advice),
        Ok(Writable { may_write: Some(true), .. }) => ok(&what, "dead letters can be written to it"),
        Ok(Writable { may_write: None, .. }) => {
            ok(&what, "it is there; the broker does not say whether dead letters can be written to it")
        }
        Err(reason) => failed(&what, &reason, advice),
    }
}

/// The registry, and the schema files of topics.
fn schema_items(config: &Config, timeout: Duration) -> Vec<Item> {
    let what = "schema registry";
    let mut items = Vec::new();
    if let Some(settings) = &config.schema_registry {
        items.push(match registry::check(settings, timeout) {
            Ok(kinds) => ok(what, &format!("{} ({})", settings.url, kinds.join(", "))),
            Err(reason) => failed(what, &reason, "correct it under schema_registry in the configuration"),
        });
    }
    let files = Plan::compile(config).problems();
    items.extend(
        files
            .iter()
            .map(|problem| failed("file", problem, "correct what the configuration names, or the file")),
    );
    items
}

fn topic_item(what: String, topic: &FoundTopic) -> Item {
    let plural = if topic.partitions == 1 { "partition" } else { "partitions" };
    let mut found = format!("{} {plural}", topic.partitions);
    let Some(cleanup) = &topic.cleanup else {
        found.push_str(", its configuration cannot be read: whether old records are deleted is not known");
        return ok(&what, &found);
    };
    let mut advice = Vec::new();
    if let Some(lost) = what_is_deleted(cleanup) {
        let _ = write!(found, ", {lost}");
        advice.push(
            "a replica that is built later has only what that period touched: compact the topic \
             (cleanup.policy=compact), or keep everything (retention.ms=-1, retention.bytes=-1)"
                .to_owned(),
        );
        if cleanup.deletes_after.is_some_and(|age| age < WEEKEND) {
            advice.push(format!(
                "a daemon that is down over a weekend misses events for good: keep them for more than {}",
                days(WEEKEND)
            ));
        }
    }
    if let Some(kept) = cleanup.keeps_tombstones {
        let _ = write!(found, ", compacted, tombstones are kept for {}", days(kept));
        if kept < DOWNTIME {
            advice.push(
                "a daemon that is down for longer keeps rows that were deleted, or has to be rebuilt: raise \
                 delete.retention.ms above the longest downtime you expect"
                    .to_owned(),
            );
        }
    }
    if advice.is_empty() {
        return ok(&what, &found);
    }
    Item { what, outcome: Outcome::Warning, found, advice: advice.join("; ") }
}

fn what_is_deleted(cleanup: &Cleanup) -> Option<String> {
    let by_age = cleanup.deletes_after.map(|age| format!("records older than {} are deleted", days(age)));
    let by_size = cleanup
        .deletes_beyond_bytes
        .map(|bytes| format!("records beyond {bytes} bytes of a partition are deleted"));
    match (by_age, by_size) {
        (Some(age), Some(size)) => Some(format!("{age}, {size}")),
        (age, size) => age.or(size),
    }
}

/// `7d`, `36h`, `90s`: the largest unit that says it exactly.
fn days(age: Duration) -> String {
    let seconds = age.as_secs();
    for (unit, name) in [(86_400, "d"), (3_600, "h"), (60, "m")] {
        if seconds >= unit && seconds.is_multiple_of(unit) {
            return format!("{}{name}", seconds / unit);
        }
    }
    format!("{seconds}s")
}

/// With the exit code that fits when it failed.
fn redis_item(checked: Result<String, StoreError>) -> (Item, u8) {
    let what = "replica";
    match checked {
        Ok(found) => (ok(what, &found), DONE),
        Err(StoreError::Retry { message, .. }) => {
            let advice = "check replica.redis: url, username, password_file and the network";
            (failed(what, &message, advice), UNAVAILABLE)
        }
        Err(StoreError::Stop { exit, message }) => {
            let code = match exit {
                StopCode::Io => IO,
                StopCode::Foreign | StopCode::Lost | StopCode::Retired => FOREIGN,
            };
            (failed(what, &message, "see docs/OPERATIONS.md, Redis"), code)
        }
    }
}

fn replica_item(path: &Path) -> Item {
    let what = "replica";
    match writable(path) {
        Ok(()) => ok(what, &format!("{} can be written", path.display())),
        Err((place, error)) => {
            let found = format!("{}: {error}", place.display());
            failed(what, &found, "make it writable for this user, mount a volume, or free some space")
        }
    }
}

/// Whether a replica at `path` could be written now. Directories that are missing are made at
/// start, so the nearest one that exists counts.
fn writable(path: &Path) -> Result<(), (PathBuf, io::Error)> {
    if path.exists() {
        let opened = OpenOptions::new().write(true).open(path);
        opened.map_err(|error| (path.to_path_buf(), error))?;
    }
    let directory = path.ancestors().skip(1).find(|directory| directory.is_dir());
    // A relative name without a directory is in the working directory.
    let directory = directory.unwrap_or(Path::new("."));
    let probe = directory.join(format!(".readside-check-{}", std::process::id()));
    let written = fs::write(&probe, b"readside check\n");
    let removed = fs::remove_file(&probe);
    written.and(removed).map_err(|error| (directory.to_path_buf(), error))
}

fn ok(what: &str, found: &str) -> Item {
    Item { what: what.into(), outcome: Outcome::Ok, found: found.into(), advice: String::new() }
}

fn failed(what: &str, found: &str, advice: &str) -> Item {
    Item { what: what.into(), outcome: Outcome::Failed, found: found.into(), advice: advice.into() }
}

fn as_text(items: &[Item]) -> String {
    let mut out = String::new();
    for item in items {
        let outcome = match item.outcome {
            Outcome::Ok => "ok",
            Outcome::Warning => "warning",
            Outcome::Failed => "FAILED",
            Outcome::Skipped => "skipped",
        };
        let found = super::printable(&item.found);
        let _ = write!(out, "{outcome:<8}{}: {found}", super::printable(&item.what));
        if !item.advice.is_empty() {
            let _ = write!(out, "; {}", item.advice);
        }
        out.push('\n');
    }
    out
}

fn as_json(items: &[Item]) -> Value {
    let ok = items.iter().all(|item| matches!(item.outcome, Outcome::Ok | Outcome::Warning));
    let items: Vec<Value> = items
        .iter()
        .map(|item| {
            let outcome = match item.outcome {
                Outcome::Ok => "ok",
                Outcome::Warning => "warning",
                Outcome::Failed => "failed",
                Outcome::Skipped => "skipped",
            };
            let advice = (!item.advice.is_empty()).then_some(&item.advice);
            json!({ "what": item.what, "outcome": outcome, "found": item.found, "advice": advice })
        })
        .collect();
    json!({ "ok": ok, "checks": items })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topic(deletes_after: Option<Duration>) -> FoundTopic {
        let cleanup =
            Cleanup { compacts: false, deletes_after, deletes_beyond_bytes: None, keeps_tombstones: None };
        FoundTopic { partitions: 6, cleanup: Some(cleanup) }
    }

    #[test]
    fn every_item_is_a_line_that_says_what_and_what_to_do() {
        let probe = Probe {
            cluster: Ok("abc".into()),
            topics: vec![
                Ok(topic(None)),
                Ok(topic(Some(Duration::from_secs(7 * 86_400)))),
                Err("it does not exist".into()),
            ],
        };
        let names = ["kept", "pruned", "gone\u{1b}"].map(str::to_owned);
        let items = service_items(&probe, &["a:1".into()], &names);
        let text = as_text(&items);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "ok      kafka: cluster abc");
        assert_eq!(lines[1], "ok      topic kept: 6 partitions");
        let warning = "warning topic pruned: 6 partitions, records older than 7d are deleted; a replica";
        assert!(lines[2].starts_with(warning), "{}", lines[2]);
        assert!(
            lines[3].starts_with("FAILED  topic gone\u{fffd}: it does not exist; create it"),
            "{}",
            lines[3]
        );
        let json = as_json(&items);
        assert_eq!((&json["ok"], &json["checks"][3]["outcome"]), (&json!(false), &json!("failed")));
        assert_eq!(json["checks"][0]["advice"], Value::Null);
    }

    #[test]
    fn a_dead_letter_topic_has_to_be_there_and_take_what_is_written() {
        let found = |may_write| Ok(Writable { partitions: 1, may_write });
        for (found, outcome) in [
            (found(Some(true)), Outcome::Ok),
            (found(None), Outcome::Ok),
            (found(Some(false)), Outcome::Failed),
            (Err("it does not exist".to_owned()), Outcome::Failed),
        ] {
            let item = dead_letter_item("dead", found.clone());
            assert_eq!(item.outcome, outcome, "{found:?}");
            assert_eq!(item.advice.contains("dead_letters.topic"), outcome == Outcome::Failed, "{item:?}");
        }
    }

    #[test]
    fn a_topic_that_can_lose_events_is_warned_of_before_the_first_start() {
        const HOUR: Duration = Duration::from_secs(3_600);
        let item = |compacts: bool, deletes_after: Option<Duration>, keeps_tombstones: Option<Duration>| {
            let cleanup = Cleanup { compacts, deletes_after, deletes_beyond_bytes: None, keeps_tombstones };
            topic_item("topic users".into(), &FoundTopic { partitions: 1, cleanup: Some(cleanup) })
        };
        let compacted = item(true, None, Some(24 * HOUR));
        assert_eq!((compacted.outcome, compacted.advice.as_str()), (Outcome::Ok, ""));
        assert_eq!(compacted.found, "1 partition, compacted, tombstones are kept for 1d");
        let hasty = item(true, None, Some(HOUR));
        assert_eq!(hasty.outcome, Outcome::Warning);
        assert!(hasty.advice.contains("delete.retention.ms"), "{}", hasty.advice);
        let weekly = item(false, Some(7 * 24 * HOUR), None);
        assert!(weekly.advice.contains("what that period touched"), "{}", weekly.advice);
        assert!(!weekly.advice.contains("weekend"), "{}", weekly.advice);
        let short = item(false, Some(48 * HOUR), None);
        assert!(short.advice.contains("weekend"), "{}", short.advice);
        let both = item(true, Some(48 * HOUR), Some(HOUR));
        for word in ["what that period touched", "weekend", "delete.retention.ms"] {
            assert!(both.advice.contains(word), "{}", both.advice);
        }
        let unseen = topic_item("topic users".into(), &FoundTopic { partitions: 1, cleanup: None });
        assert_eq!((unseen.outcome, unseen.advice.as_str()), (Outcome::Ok, ""));
        assert!(unseen.found.contains("cannot be read"), "{}", unseen.found);
    }

    #[test]
    fn without_a_broker_topics_are_skipped_and_not_called_missing() {
        let probe = Probe { cluster: Err("connection refused".into()), topics: vec![] };
        let items = service_items(&probe, &["a:1".into(), "b:2".into()], &["users".into()]);
        let text = as_text(&items);
        assert!(
            text.starts_with("FAILED  kafka: a:1, b:2: connection refused; check kafka.brokers"),
            "{text}"
        );
        assert!(text.ends_with("skipped topic users: no broker was asked\n"), "{text}");
        assert_eq!(as_json(&items)["ok"], json!(false));
    }

    #[test]
    fn a_replica_is_writable_where_its_directory_can_be_made_and_nothing_is_left_behind() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("later/replica.db");
        assert_eq!(replica_item(&path).outcome, Outcome::Ok);
        assert_eq!(fs::read_dir(dir.path()).expect("readable").count(), 0);
        let file = dir.path().join("file");
        fs::write(&file, "").expect("written");
        // A directory where the file should be can be written by nobody, root included.
        assert_eq!(replica_item(dir.path()).outcome, Outcome::Failed);
        assert_eq!(replica_item(&file).outcome, Outcome::Ok);
    }

    #[test]
    fn an_age_is_said_in_the_largest_exact_unit() {
        for (seconds, said) in [(604_800, "7d"), (129_600, "36h"), (90, "90s"), (120, "2m"), (0, "0s")] {
            assert_eq!(days(Duration::from_secs(seconds)), said);
        }
    }
}
