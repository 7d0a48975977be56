use std::collections::BTreeSet;
use std::io::Write;
use std::process::{Command, Stdio};

use super::*;
use crate::domain::catalog::{Column, Table};
use crate::domain::value::ColumnType;

fn table(name: &str, topics: &[usize]) -> Table {
    Table {
        name: name.to_owned(),
        columns: vec![Column { name: "id".to_owned(), ty: ColumnType::Integer, nullable: false }],
        key: vec![0],
        indexes: vec![],
        prefixes: vec![],
        topics: topics.to_vec(),
        max_staleness_ms: 30_000,
        ordered_by_position: false,
        delete_marks_ms: 1_000,
        fingerprint: String::new(),
    }
}

fn metrics() -> Metrics {
    Metrics::new(&Catalog {
        topics: vec!["orders".to_owned(), "users".to_owned()],
        tables: vec![table("orders", &[0]), table("lines", &[0]), table("users", &[1])],
        fingerprint: String::new(),
    })
}

/// The value of the one series that is written exactly so.
fn value(text: &str, series: &str) -> f64 {
    let line = text.lines().find(|line| line.split_once(' ').is_some_and(|(name, _)| name == series));
    let line = line.unwrap_or_else(|| panic!("no {series} in\n{text}"));
    line[series.len()..].trim().parse().unwrap()
}

fn live(fresh_as_of_ms: i64) -> Facts {
    Facts {
        complete: true,
        connected: true,
        heartbeat_ms: Some(fresh_as_of_ms),
        heartbeat_limit_ms: 4_000,
        fresh_as_of_ms: Some(fresh_as_of_ms),
        ..nothing_known(30_000)
    }
}

/// The names of contracts.md that this version has, and those it adds.
const PROMISED: &[&str] = &[
    "replication_lag_seconds",
    "fresh_as_of_timestamp_seconds",
    "caught_up",
    "bootstrap_remaining_records",
    "event_to_visible_seconds",
    "events_applied_total",
    "events_skipped_total",
    "dead_letters_total",
    "dead_letters",
    "apply_duration_seconds",
    "batch_events",
    "store_retries_total",
    "source_errors_total",
    "gaps_total",
    "kafka_connected",
    "store_connected",
    "table_rows",
    "replica_size_bytes",
    "wal_size_bytes",
    "config_reload_success",
    "build_info",
    "state",
    "max_staleness_seconds",
];

#[test]
fn every_series_exists_from_the_start() {
    let text = metrics().render(1_000);
    for name in PROMISED {
        assert!(text.contains(&format!("# TYPE readside_{name} ")), "{name} is missing in\n{text}");
    }
    // The one family whose series cannot be named before the brokers have answered.
    let late = [names::LAG_RECORDS.name];
    for family in names::ALL {
        let declared = format!("# TYPE {} {}\n", family.name, family.kind.name());
        assert_eq!(text.contains(&declared), !late.contains(&family.name), "{declared}{text}");
    }
    for reason in Reason::ALL {
        let series = format!("readside_dead_letters_total{{reason=\"{}\",topic=\"users\"}}", reason.name());
        assert_eq!(value(&text, &series), 0.0);
    }
    assert_eq!(
        value(&text, r#"readside_events_applied_total{op="patch",table="lines",topic="orders"}"#),
        0.0
    );
    assert!(!text.contains(r#"table="lines",topic="users""#), "a pair that cannot be");
    assert_eq!(value(&text, r#"readside_event_to_visible_seconds_count{topic="users"}"#), 0.0);
}

#[test]
fn what_is_unknown_is_nan_and_never_zero() {
    let metrics = metrics();
    let text = metrics.render(1_000);
    for series in [
        r#"readside_replication_lag_seconds{topic="users"}"#,
        r#"readside_fresh_as_of_timestamp_seconds{table="users"}"#,
        "readside_bootstrap_remaining_records",
        r#"readside_dead_letters{topic="users"}"#,
        "readside_dead_letters_unproduced",
        r#"readside_table_rows{table="users"}"#,
        r#"readside_held_rows{table="users"}"#,
        r#"readside_delete_marks{table="users"}"#,
        "readside_replica_size_bytes",
        "readside_wal_size_bytes",
        "readside_wal_pages_pinned",
        "readside_wal_pinned_seconds",
    ] {
        assert!(value(&text, series).is_nan(), "{series}");
    }
    let at = TopicPartition { topic: 1, partition: 0 };
    metrics.partition(at, 7, None, None);
    let text = metrics.render(1_000);
    assert!(value(&text, r#"readside_replication_lag_records{partition="0",topic="users"}"#).is_nan());
    assert!(value(&text, r#"readside_replication_lag_seconds{topic="users"}"#).is_nan());
}

#[test]
fn the_worst_partition_speaks_for_the_topic_and_time_alone_makes_it_worse() {
    let metrics = metrics();
    metrics.partition(TopicPartition { topic: 1, partition: 0 }, 90, Some(100), Some(9_000));
    metrics.partition(TopicPartition { topic: 1, partition: 1 }, 50, Some(40), Some(5_000));
    let text = metrics.render(10_000);
    assert_eq!(value(&text, r#"readside_replication_lag_seconds{topic="users"}"#), 5.0);
    assert_eq!(value(&text, r#"readside_replication_lag_records{partition="0",topic="users"}"#), 10.0);
    assert_eq!(value(&text, r#"readside_replication_lag_records{partition="1",topic="users"}"#), 0.0);
    assert_eq!(value(&metrics.render(12_500), r#"readside_replication_lag_seconds{topic="users"}"#), 7.5);

    metrics.partition(TopicPartition { topic: 1, partition: 2 }, 0, None, None);
    assert!(value(&metrics.render(12_500), r#"readside_replication_lag_seconds{topic="users"}"#).is_nan());
}

#[test]
fn a_table_is_building_until_somebody_knows_better_and_stale_by_itself() {
    let metrics = metrics();
    let is = |now_ms, state: &str| {
        let text = metrics.render(now_ms);
        let of = |state| value(&text, &format!("readside_state{{state=\"{state}\",table=\"users\"}}"));
        assert_eq!(State::ALL.map(|each| of(each.name())).iter().sum::<f64>(), 1.0, "exactly one");
        assert_eq!(of(state), 1.0, "{text}");
    };
    is(10_000, "building");
    metrics.facts(2, live(10_000));
    is(10_000, "live");
    assert_eq!(
        value(&metrics.render(10_000), r#"readside_fresh_as_of_timestamp_seconds{table="users"}"#),
        10.0
    );
    is(14_001, "disconnected");
    metrics.facts(2, Facts { heartbeat_limit_ms: i64::MAX, ..live(10_000) });
    is(40_001, "stale");
}

#[test]
fn what_happened_is_counted_where_it_happened() {
    let metrics = metrics();
    metrics.events_applied(1, 2, Effect::Delete, 3);
    metrics.events_skipped(0, Skip::Stale, 2);
    metrics.dead_letter(1, Reason::WrongType);
    metrics.dead_letters_kept(1, 4);
    metrics.dead_letter_produced(1, ProduceResult::TooLarge);
    metrics.dead_letters_unproduced(2);
    metrics.dead_letter_topic_breaker(true);
    metrics.batch_applied(250, Duration::from_millis(2));
    metrics.became_visible(1, -3.0);
    metrics.store_retried(RetryReason::DiskFull);
    metrics.source_error(SourceErrorKind::TopicMissing);
    metrics.gap(GapReason::Recreated);
    metrics.kafka_connected(true);
    metrics.store_connected(true);
    metrics.gate(true, Some(0));
    metrics.sizes(Sizes {
        rows: &[5, 6, 7],
        held: &[0, 0, 1],
        delete_marks: &[2, 0, 0],
        replica_bytes: Some(4_096),
        wal_bytes: Some(8_192),
    });
    metrics.snapshot(0, true);
    metrics.rows_swept(0, 12);
    metrics.moved_row_incomplete(0);
    metrics.delete_marks_dropped(9);
    metrics.wal_pinned(11, Duration::from_millis(1_500));
    metrics.open_transaction(1, Some(12));
    metrics.long_reader();
    metrics.replica_lost();
    let text = metrics.render(0);
    for (series, expected) in [
        (r#"readside_events_applied_total{op="delete",table="users",topic="users"}"#, 3.0),
        (r#"readside_events_skipped_total{reason="stale",topic="orders"}"#, 2.0),
        (r#"readside_dead_letters_total{reason="wrong_type",topic="users"}"#, 1.0),
        (r#"readside_dead_letters{topic="users"}"#, 4.0),
        (r#"readside_dead_letters_produced_total{result="too_large",topic="users"}"#, 1.0),
        ("readside_dead_letters_unproduced", 2.0),
        ("readside_dead_letter_topic_breaker_open", 1.0),
        ("readside_batch_events_sum", 250.0),
        ("readside_apply_duration_seconds_sum", 0.002),
        (r#"readside_event_to_visible_seconds_bucket{topic="users",le="0.001"}"#, 1.0),
        (r#"readside_store_retries_total{reason="disk_full"}"#, 1.0),
        (r#"readside_source_errors_total{reason="topic_missing"}"#, 1.0),
        (r#"readside_gaps_total{reason="recreated"}"#, 1.0),
        (r#"readside_open_transaction_seconds{topic="users"}"#, 12.0),
        ("readside_kafka_connected", 1.0),
        ("readside_store_connected", 1.0),
        ("readside_caught_up", 1.0),
        ("readside_bootstrap_remaining_records", 0.0),
        (r#"readside_table_rows{table="lines"}"#, 6.0),
        (r#"readside_held_rows{table="users"}"#, 1.0),
        (r#"readside_delete_marks{table="orders"}"#, 2.0),
        ("readside_replica_size_bytes", 4_096.0),
        ("readside_wal_size_bytes", 8_192.0),
        (r#"readside_snapshot_unfinished{table="orders"}"#, 1.0),
        (r#"readside_snapshot_unfinished{table="users"}"#, 0.0),
        (r#"readside_rows_swept_total{table="orders"}"#, 12.0),
        (r#"readside_moved_rows_incomplete_total{table="orders"}"#, 1.0),
        ("readside_delete_marks_dropped_total", 9.0),
        ("readside_wal_pages_pinned", 11.0),
        ("readside_wal_pinned_seconds", 1.5),
        ("readside_long_readers_total", 1.0),
        ("readside_replica_losses_total", 1.0),
        (r#"readside_max_staleness_seconds{table="users"}"#, 30.0),
    ] {
        assert_eq!(value(&text, series), expected, "{series}");
    }
}

#[test]
fn an_index_outside_the_catalog_is_ignored() {
    let metrics = metrics();
    let before = metrics.render(0);
    metrics.events_applied(9, 9, Effect::Upsert, 1);
    metrics.events_skipped(9, Skip::Stale, 1);
    metrics.dead_letter(9, Reason::Version);
    metrics.dead_letters_kept(9, 1);
    metrics.became_visible(9, 1.0);
    metrics.facts(9, live(1));
    metrics.partition(TopicPartition { topic: 9, partition: 0 }, 1, None, None);
    assert_eq!(metrics.render(0), before);
}

/// A switch must not look like a restart: counters go on, and so does what belongs to the process.
/// Gauges speak of one generation.
#[test]
fn a_generation_beside_another_counts_into_the_same_series() {
    let live = metrics();
    live.events_applied(0, 0, Effect::Upsert, 3);
    live.gap(GapReason::Retention);
    live.kafka_connected(true);
    live.config_read(false);
    let catalog = Catalog {
        topics: vec!["orders".to_owned()],
        tables: vec![table("orders", &[0])],
        fingerprint: String::new(),
    };
    let next = live.beside(&catalog);
    next.events_applied(0, 0, Effect::Upsert, 4);
    next.rebuilt(RebuildResult::Switched);
    next.generations(Some(2), false, None);
    let (before, after) = (live.render(0), next.render(0));
    for text in [&before, &after] {
        let applied = "readside_events_applied_total{op=\"upsert\",table=\"orders\",topic=\"orders\"}";
        assert_eq!(value(text, applied), 7.0);
        assert_eq!(value(text, "readside_gaps_total{reason=\"retention\"}"), 1.0);
        assert_eq!(value(text, "readside_rebuilds_total{result=\"switched\"}"), 1.0);
        assert_eq!(value(text, "readside_config_reload_success"), 0.0, "the file is as wrong as before");
    }
    assert_eq!(
        (value(&before, "readside_kafka_connected"), value(&after, "readside_kafka_connected")),
        (1.0, 0.0)
    );
    assert!(value(&before, "readside_generation").is_nan());
    assert_eq!(value(&after, "readside_generation"), 2.0);
    let of_users = "readside_table_rows{table=\"users\"}";
    assert!(before.contains(of_users) && !after.contains(of_users), "a table that is not in the new mapping");
}

#[test]
fn the_documentation_lists_the_same_series() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/METRICS.md");
    let documentation = std::fs::read_to_string(path).unwrap();
    let mut documented = BTreeSet::new();
    for line in documentation.lines().filter(|line| line.starts_with("| `readside_")) {
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        documented.insert((
            cells[1].trim_matches('`').to_owned(),
            cells[2].to_owned(),
            cells[3].replace('`', ""),
        ));
    }
    let existing: BTreeSet<_> = names::ALL
        .iter()
        .map(|family| (family.name.to_owned(), family.kind.name().to_owned(), family.labels.join(", ")))
        .collect();
    assert_eq!(documented, existing);
}

#[test]
fn promtool_finds_nothing_to_complain_about() {
    let metrics = metrics();
    metrics.partition(TopicPartition { topic: 0, partition: 3 }, 1, Some(2), Some(3));
    let promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut promtool = match promtool {
        Ok(child) => child,
        Err(error) => {
            eprintln!("skipped: promtool is not installed ({error})");
            return;
        }
    };
    promtool.stdin.take().unwrap().write_all(metrics.render(5_000).as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    let said =
        String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.trim().is_empty(), "{said}");
}
