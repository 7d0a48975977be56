//! `kafka`: brokers, librdkafka's properties, secrets.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::config::fields::{Fields, entries, one_or_many, scalar, scalar_text, wrong_value};
use crate::config::model::Kafka;
use crate::config::problem::{Place, Problem, Report};
use crate::config::properties::{KNOWN, is_known, is_secret, owned};
use crate::config::scalar::{broker, file, size, text};
use crate::config::tree::{Entry, Node};

use super::within;

const RECORD_BYTES_MIN: u64 = 1 << 10;
const RECORD_BYTES_MAX: u64 = 1 << 30;

pub(super) fn lower(report: &mut Report, fields: &Fields) -> Option<Kafka> {
    let brokers = fields.require(report, "brokers").and_then(|node| brokers(report, node));
    let properties = match fields.get("properties") {
        Some(node) => lower_properties(report, node),
        None => Some(BTreeMap::new()),
    };
    let secrets = match fields.get("secrets") {
        Some(node) => lower_secrets(report, node, properties.as_ref()),
        None => Some(BTreeMap::new()),
    };
    let max_record_bytes = fields.value(report, "max_record_bytes", size).and_then(|given| {
        let message = "`kafka.max_record_bytes` is between 1KiB and 1GiB";
        within(report, given, RECORD_BYTES_MIN..=RECORD_BYTES_MAX, message)
    });
    Some(Kafka {
        brokers: brokers?,
        properties: properties?,
        secrets: secrets?,
        max_record_bytes: usize::try_from(max_record_bytes?).ok()?,
    })
}

/// A list, or one text with commas; both may be mixed.
fn brokers(report: &mut Report, node: &Node) -> Option<Vec<String>> {
    let mut brokers = Vec::new();
    let mut complete = true;
    for item in one_or_many(node) {
        let Some(text) = scalar_text(report, item) else {
            complete = false;
            continue;
        };
        for part in text.split(',') {
            match broker(part.trim()) {
                Ok(broker) => brokers.push(broker),
                Err(wrong) => {
                    report.push(wrong_value(item, part.trim(), wrong));
                    complete = false;
                }
            }
        }
    }
    if complete && brokers.is_empty() {
        report.error(&node.place, "`kafka.brokers` needs at least one broker");
        return None;
    }
    complete.then_some(brokers)
}

fn lower_properties(report: &mut Report, node: &Node) -> Option<BTreeMap<String, String>> {
    let mut properties = BTreeMap::new();
    for entry in entries(report, node, "`kafka.properties`")? {
        let name = entry.key.as_str();
        if is_secret(name) {
            // The value is in nobody's message.
            let message = format!(
                "a secret cannot be in the configuration; write the name of a file that holds it: `kafka.secrets: {{ {name}: /run/secrets/… }}`"
            );
            report.push(Problem::new(&entry.key_place, message).about(name));
            continue;
        }
        if !may_be_set(report, entry) {
            continue;
        }
        if let Some(value) = scalar(report, &entry.value, text) {
            properties.insert(name.to_owned(), value.value);
        }
    }
    warn_about_sasl(report, node, &properties);
    Some(properties)
}

/// Reports a property that readside owns or nobody knows.
fn may_be_set(report: &mut Report, entry: &Entry) -> bool {
    let name = entry.key.as_str();
    if let Some(reason) = owned(name) {
        let message = format!("this property cannot be set: {reason}");
        report.push(Problem::new(&entry.key_place, message).about(name));
        return false;
    }
    if !is_known(name) {
        let problem = Problem::new(&entry.key_place, "librdkafka knows no such property of a consumer");
        report.push(problem.about(name).suggest(name, KNOWN.iter().copied()));
        return false;
    }
    true
}

fn warn_about_sasl(report: &mut Report, node: &Node, properties: &BTreeMap<String, String>) {
    let protocol = properties.get("security.protocol").map_or("plaintext", String::as_str);
    let sasl = properties.keys().any(|name| name.starts_with("sasl."));
    if sasl && !protocol.to_ascii_lowercase().starts_with("sasl_") {
        let message = "the `sasl.` properties have no effect: `security.protocol` is neither SASL_SSL nor SASL_PLAINTEXT";
        report.warn(&node.place, message);
    }
}

fn lower_secrets(
    report: &mut Report,
    node: &Node,
    properties: Option<&BTreeMap<String, String>>,
) -> Option<BTreeMap<String, PathBuf>> {
    let mut secrets = BTreeMap::new();
    for entry in entries(report, node, "`kafka.secrets`")? {
        if !may_be_set(report, entry) {
            continue;
        }
        if properties.is_some_and(|properties| properties.contains_key(&entry.key)) {
            let message = "this property is given in both `kafka.properties` and `kafka.secrets`";
            report.push(Problem::new(&entry.key_place, message).about(&entry.key));
        }
        if let Some(path) = secret_file(report, entry) {
            secrets.insert(entry.key.clone(), path);
        }
    }
    Some(secrets)
}

/// What is written here may be the secret itself, by mistake: its text is in no message.
fn secret_file(report: &mut Report, entry: &Entry) -> Option<PathBuf> {
    let place: &Place = &entry.value.place;
    let written = scalar_text(report, &entry.value)?;
    match file(written) {
        Ok(path) => {
            if !written.contains('/') {
                let message =
                    format!("`{}` takes the path of a file that holds the secret, not the secret", entry.key);
                report.warn(place, message);
            }
            Some(path)
        }
        Err(wrong) => {
            report.error(place, wrong.message);
            None
        }
    }
}
