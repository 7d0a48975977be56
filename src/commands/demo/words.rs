//! What the demo prints.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use super::proof::Comparison;
use super::shop::Sent;
use crate::config::{Config, Redis, RedisServer, Target};
use crate::store::Status;

/// Prints a line or several. Somebody who stopped reading does not stop the demo.
pub fn say(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// Replaces the line the cursor is in.
pub fn replace_line(text: &str) {
    let mut stdout = std::io::stdout().lock();
    let _ = write!(stdout, "\r\x1b[2K{text}").and_then(|()| stdout.flush());
}

/// How this process was called, so that what is printed can be typed again.
pub fn program() -> String {
    std::env::args().next().filter(|name| name.contains('/')).unwrap_or_else(|| "readside".to_owned())
}

pub fn heading(replica: &Target) -> String {
    format!(
        "A shop in this process publishes users, products and orders to Kafka topics;\n\
         readside keeps a replica of them in {replica}."
    )
}

/// What to try while the demo runs. `program` is how this process was called.
pub fn guide(program: &str, config: &Config, config_path: &Path) -> String {
    let rows = match &config.replica.target {
        Target::Sqlite(sqlite) => in_sqlite(&sqlite.path),
        Target::Redis(redis) => in_redis(redis),
    };
    let config_path = quoted(&config_path.display().to_string());
    let program = quoted(program);
    let (http, admin) = (config.http.listen, config.admin.listen);
    format!(
        r#"
Try in another terminal:

{rows}
    {program} status --admin http://{admin}
  a second copy beside the one that serves, and the switch to it
    {program} rebuild --wait --admin http://{admin}
  probes and metrics
    curl -s http://{http}/startupz
    curl -s http://{http}/metrics | grep replication_lag
  the configuration behind it, to read and to copy
    cat {config_path}

The shop goes on trading, about 20 events a second: users register, change and leave, orders are
placed, shipped and cancelled, events come twice or too late. Ctrl-C ends it.
"#
    )
}

fn in_sqlite(path: &Path) -> String {
    let replica = quoted(&path.display().to_string());
    format!(
        r#"  the rows, as an application reads them
    sqlite3 -box {replica} "SELECT id, name, country, plan, balance FROM users LIMIT 5"
    sqlite3 -box {replica} "SELECT u.country, count(*) AS orders FROM orders o JOIN users u ON u.id = o.user_id GROUP BY 1 ORDER BY 2 DESC"
  how fresh they are
    sqlite3 -box {replica} "SELECT table_name, state, fresh_as_of, rows FROM _readside_status""#
    )
}

fn in_redis(redis: &Redis) -> String {
    let cli = match &redis.url.server {
        RedisServer::Unix { path } => format!("redis-cli -s {}", quoted(&path.display().to_string())),
        RedisServer::Tcp { host, port, .. } => format!("redis-cli -h {} -p {port}", quoted(host)),
    };
    format!(
        r#"  the rows, as an application reads them
    {cli} HGETALL users:7
    {cli} --scan --pattern 'orders@status:*'
    {cli} SRANDMEMBER orders@status:placed 5
  how fresh they are
    {cli} HGETALL readside:status"#
    )
}

/// `users 1,941   products 500   orders 2,850   live, fresh as of 0.4 s ago`
pub fn status_line(status: &Status, now_ms: i64) -> String {
    let mut line = String::new();
    for table in &status.tables {
        let _ = write!(line, "{} {}   ", table.table_name, grouped(table.rows));
    }
    let _ = write!(line, "{}, {}", status.state.name(), age(status.fresh_as_of_ms, now_ms));
    if status.dead_letters > 0 {
        let _ = write!(line, ", {} dead letters", grouped(status.dead_letters));
    }
    line
}

/// `first copy complete: 2,000 users, 500 products, 2,850 orders in 0.4 s`
pub fn first_copy(status: &Status, took: Duration) -> String {
    let tables: Vec<String> =
        status.tables.iter().map(|table| format!("{} {}", grouped(table.rows), table.table_name)).collect();
    format!("first copy complete: {} in {:.1} s", tables.join(", "), took.as_secs_f64())
}

pub fn summary(sent: Sent, comparisons: &[Comparison], status: &Status, now_ms: i64) -> String {
    let mut text = format!(
        "events produced   {} ({} sent twice, {} behind newer ones)\n",
        grouped(sent.records),
        grouped(sent.repeated),
        grouped(sent.late),
    );
    let _ = writeln!(text, "replica           {}", age(status.fresh_as_of_ms, now_ms));
    let _ = writeln!(text, "\n  {:<10} {:>10} {:>10}", "table", "expected", "replica");
    for comparison in comparisons {
        let verdict = match comparison.differing {
            _ if comparison.is_equal() => "every row equal".to_owned(),
            0 => "more or fewer rows than expected".to_owned(),
            differing => format!("{} rows differ", grouped(differing)),
        };
        let (expected, rows) = (grouped(comparison.expected), grouped(comparison.rows));
        let _ = writeln!(text, "  {:<10} {expected:>10} {rows:>10}   {verdict}", comparison.table);
    }
    for example in comparisons.iter().flat_map(|comparison| &comparison.examples) {
        let _ = writeln!(text, "  {example}");
    }
    text
}

fn age(fresh_as_of_ms: Option<i64>, now_ms: i64) -> String {
    match fresh_as_of_ms {
        Some(at) => format!("fresh as of {:.1} s ago", now_ms.saturating_sub(at).max(0) as f64 / 1_000.0),
        None => "freshness not known yet".to_owned(),
    }
}

/// Digits in groups of three.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// For a shell.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_paths_are_readable() {
        assert_eq!(["0", "999", "1,000", "1,234,567"], [0, 999, 1_000, 1_234_567].map(grouped));
        assert_eq!(quoted("demo/replica.db"), "demo/replica.db");
        assert_eq!(quoted("my demo"), "'my demo'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
    }

    #[test]
    fn age_is_unknown_rather_than_zero() {
        assert_eq!(age(None, 5_000), "freshness not known yet");
        assert_eq!(age(Some(4_600), 5_000), "fresh as of 0.4 s ago");
        assert_eq!(age(Some(6_000), 5_000), "fresh as of 0.0 s ago");
    }

    #[test]
    fn the_summary_says_which_table_is_wrong() {
        let equal = Comparison { table: "users", expected: 2, rows: 2, differing: 0, examples: Vec::new() };
        let extra = Comparison { rows: 3, ..equal.clone() };
        let wrong = Comparison { differing: 1, examples: vec!["users: row 7".into()], ..equal.clone() };
        let status = Status {
            replica: "demo".into(),
            state: crate::domain::state::State::Live,
            complete: true,
            fresh_as_of: None,
            fresh_as_of_ms: Some(1_000),
            lag_records: Some(0),
            dead_letters: 0,
            stopped: None,
            cluster_id: None,
            tables: Vec::new(),
            positions: Vec::new(),
        };
        let of = |comparison: &Comparison| {
            summary(Sent::default(), std::slice::from_ref(comparison), &status, 1_000)
        };
        assert!(equal.is_equal() && of(&equal).contains("every row equal"));
        assert!(!extra.is_equal() && of(&extra).contains("more or fewer rows"));
        assert!(!wrong.is_equal() && of(&wrong).contains("1 rows differ") && of(&wrong).contains("row 7"));
    }
}
