//! From the located tree to the checked model: one file per part of the configuration.
//!
//! Nothing stops at the first problem. A function gives `None` where it reported one; what depends
//! on the missing value is then left unchecked rather than reported twice.

mod columns;
mod events;
mod evolution;
mod kafka;
mod personal;
mod registry;
mod replica;
mod sources;
mod tables;
mod topics;

use std::time::Duration;

use super::fields::{Fields, Given, scalar};
use super::model::{
    Config, DeadLetters, Freshness, Listener, Log, OnConfigChange, OnError, OnGap, RebuildPolicy, Startup,
    Target,
};
use super::problem::{Problem, Report};
use super::scalar::{address, count, duration, log_level, rate, size, topic_name, word};
use super::sections::{ROOT, Section, Shape};
use super::tree::Node;
use super::words::Word as _;
use replica::Rebuilds;
use topics::Topics;

const MAX_STALENESS_MIN: Duration = Duration::from_millis(100);
const INTERVAL_MIN: Duration = Duration::from_millis(100);
const INTERVAL_MAX: Duration = Duration::from_secs(3600);

/// What topics and tables do unless they say otherwise.
struct Defaults {
    on_error: OnError,
    on_gap: OnGap,
    max_staleness: Duration,
}

/// `None` means that at least one problem was reported; a value does not mean that none was.
pub(super) fn lower(report: &mut Report, root: &Node) -> Option<Config> {
    let root = Fields::open(report, root, &ROOT)?;
    // Evaluated one by one, so that every section's problems are found.
    let kafka = required_section(report, &root, "kafka").and_then(|fields| kafka::lower(report, &fields));
    let schema_registry = match root.get("schema_registry") {
        // `None`: it is wrong, and reported.
        Some(_) => required_section(report, &root, "schema_registry")
            .and_then(|fields| registry::lower(report, &fields))
            .map(Some),
        None => Some(None),
    };
    let replica =
        required_section(report, &root, "replica").and_then(|fields| replica::lower(report, &fields));
    let policy = root.value(report, "rebuild_when_mapping_changes", word::<RebuildPolicy>);
    let limits = section(report, &root, "rebuild").and_then(|fields| replica::lower_rebuild(report, &fields));
    if let (Some(given), Some((_, Target::Redis(_)))) = (&policy, &replica) {
        warn_about_rebuilds(report, given);
    }
    let defaults = section(report, &root, "defaults").and_then(|fields| lower_defaults(report, &fields));
    let freshness = section(report, &root, "freshness").and_then(|fields| lower_freshness(report, &fields));
    let startup = section(report, &root, "startup").and_then(|fields| lower_startup(report, &fields));
    let dead_letters =
        section(report, &root, "dead_letters").and_then(|fields| lower_dead_letters(report, &fields));
    let listeners = lower_listeners(report, &root);
    let log = section(report, &root, "log").and_then(|fields| lower_log(report, &fields));
    let on_config_change = root.value(report, "on_config_change", word::<OnConfigChange>);

    let mut topics = Topics::default();
    if let Some(node) = root.get("topics") {
        topics.declare(report, node);
    }
    let mut declared = personal::Declared::default();
    let tables = root
        .require(report, "tables")
        .and_then(|node| tables::lower(report, node, &mut topics, &mut declared));
    if let (Some(tables), Some((_, target))) = (&tables, &replica) {
        tables.iter().for_each(|table| match target {
            Target::Redis(_) => table.check_keys(report),
            Target::Sqlite(_) => table.check_row_numbers(report),
        });
    }
    topics.check(report, root.get("schema_registry").is_some());
    let personal = section(report, &root, "personal").and_then(|fields| personal::lower(report, &fields));
    if let (Some(personal), Some(letters)) = (&personal, &dead_letters) {
        let at = |name: &str| root.get(name).map_or(&root.place, |node| &node.place);
        declared.check(report, at("personal"), personal, (letters, at("dead_letters")));
    }
    if let (Some(DeadLetters { topic: Some(topic), .. }), Some(node)) =
        (&dead_letters, root.get("dead_letters"))
        && topics.names().contains(topic)
    {
        let message = "`dead_letters.topic` cannot be a topic that is read: what is refused would come back";
        report.push(Problem::new(&node.place, message).about(topic));
    }

    let (defaults, tables, freshness) = (defaults?, tables?, freshness?);
    let topic_names = topics.names();
    let upcasts = topics.upcasts();
    let tables = tables
        .into_iter()
        .filter_map(|table| table.finish(report, &topic_names, &defaults, &freshness))
        .collect::<Vec<_>>();
    let (http, admin) = listeners?;
    let topics = topics.finish(&defaults);
    evolution::check_lifts(report, &upcasts, &topics, &tables);
    Some(Config {
        kafka: kafka?,
        schema_registry: schema_registry?,
        replica: replica::finish(replica?, Rebuilds { policy: policy?.value, limits: limits? }),
        topics,
        tables,
        freshness,
        startup: startup?,
        dead_letters: dead_letters?,
        personal: personal?,
        http,
        admin,
        log: log?,
        on_config_change: on_config_change?.value,
    })
}

/// The fields of a section, all defaults if it is not written.
fn section<'a>(report: &mut Report, parent: &Fields<'a>, name: &str) -> Option<Fields<'a>> {
    let description = described(parent.section, name)?;
    match parent.get(name) {
        Some(node) => Fields::open(report, node, description),
        None => Some(Fields::absent(description, &parent.place)),
    }
}

fn required_section<'a>(report: &mut Report, parent: &Fields<'a>, name: &str) -> Option<Fields<'a>> {
    let node = parent.require(report, name)?;
    Fields::open(report, node, described(parent.section, name)?)
}

fn described(parent: &'static Section, name: &str) -> Option<&'static Section> {
    match parent.key(name).map(|key| &key.shape) {
        Some(Shape::Section(section)) => Some(section),
        _ => None,
    }
}

fn lower_defaults(report: &mut Report, fields: &Fields) -> Option<Defaults> {
    let on_error = fields.value(report, "on_error", word::<OnError>);
    let on_gap = fields.value(report, "on_gap", word::<OnGap>);
    let max_staleness =
        fields.value(report, "max_staleness", duration).and_then(|given| staleness(report, given));
    Some(Defaults { on_error: on_error?.value, on_gap: on_gap?.value, max_staleness: max_staleness? })
}

fn warn_about_rebuilds(report: &mut Report, policy: &Given<RebuildPolicy>) {
    if policy.value == RebuildPolicy::Always {
        let message = "a replica in Redis is not rebuilt by itself: under another mapping this version stops, as \
                       with `rebuild_when_mapping_changes: never`";
        report.push_warning(Problem::new(&policy.place, message).about(policy.value.word()));
    }
}

fn staleness(report: &mut Report, given: Given<Duration>) -> Option<Duration> {
    within(report, given, MAX_STALENESS_MIN..=Duration::MAX, "`max_staleness` cannot be shorter than 100ms")
}

fn within<T: PartialOrd>(
    report: &mut Report,
    given: Given<T>,
    range: std::ops::RangeInclusive<T>,
    message: &str,
) -> Option<T> {
    if range.contains(&given.value) {
        return Some(given.value);
    }
    report.error(&given.place, message);
    None
}

fn lower_freshness(report: &mut Report, fields: &Fields) -> Option<Freshness> {
    let interval = fields.value(report, "interval", duration)?;
    let message = "`freshness.interval` is between 100ms and 1h";
    Some(Freshness { interval: within(report, interval, INTERVAL_MIN..=INTERVAL_MAX, message)? })
}

fn lower_startup(report: &mut Report, fields: &Fields) -> Option<Startup> {
    let gate = fields.value(report, "gate", word);
    let max_age = fields.value(report, "max_age", duration);
    Some(Startup { gate: gate?.value, max_age: max_age?.value })
}

fn lower_dead_letters(report: &mut Report, fields: &Fields) -> Option<DeadLetters> {
    let max = fields.value(report, "max", count);
    let keep = fields.value(report, "keep", word);
    let max_bytes = fields.value(report, "max_bytes", size);
    let max_rate = fields.value(report, "max_rate", rate);
    let topic = match fields.get("topic") {
        Some(node) => Some(scalar(report, node, topic_name)?.value),
        None => None,
    };
    Some(DeadLetters {
        max: max?.value,
        max_rate: max_rate?.value,
        keep: keep?.value,
        max_bytes: max_bytes?.value,
        topic,
    })
}

fn lower_listeners(report: &mut Report, root: &Fields) -> Option<(Listener, Listener)> {
    let http = section(report, root, "http").and_then(|fields| fields.value(report, "listen", address));
    let admin = section(report, root, "admin").and_then(|fields| fields.value(report, "listen", address));
    let (http, admin) = (http?, admin?);
    if http.value == admin.value && http.value.port() != 0 {
        report.push(
            Problem::new(&admin.place, "`http.listen` and `admin.listen` cannot be the same")
                .about(&admin.value.to_string()),
        );
    }
    if !admin.value.ip().is_loopback() {
        report.push_warning(
            Problem::new(
                &admin.place,
                "`admin.listen` can be reached from other machines, and asks nobody for a password",
            )
            .about(&admin.value.to_string()),
        );
    }
    Some((Listener { listen: http.value }, Listener { listen: admin.value }))
}

fn lower_log(report: &mut Report, fields: &Fields) -> Option<Log> {
    let level = fields.value(report, "level", log_level);
    let format = fields.value(report, "format", word);
    Some(Log { level: level?.value, format: format?.value })
}
