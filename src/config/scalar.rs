//! Single values: from the text of one to what it means.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::model::{Rate, RedisServer, RedisUrl};
use super::words::{Word, words};

/// Longer durations overflow what a store can compare; this is about a hundred years.
const DURATION_MAX: Duration = Duration::from_secs(36_500 * 86_400);

/// As many times as are remembered for a rate.
const RATE_MAX: u64 = 10_000;

/// Why a text is not a valid value: a sentence without the text, and the valid words if few.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Wrong {
    pub message: String,
    pub valid: Vec<&'static str>,
}

impl<T: Into<String>> From<T> for Wrong {
    fn from(message: T) -> Wrong {
        Wrong { message: message.into(), valid: Vec::new() }
    }
}

pub(super) fn text(text: &str) -> Result<String, Wrong> {
    if text.contains('\0') {
        return Err("text cannot hold a NUL character".into());
    }
    if text.is_empty() { Err("a value is missing".into()) } else { Ok(text.to_owned()) }
}

/// A whole number behind which comes a unit.
fn number_and_unit(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    Some((text[..end].parse().ok()?, text[end..].trim_start()))
}

pub(super) fn duration(text: &str) -> Result<Duration, Wrong> {
    let expected = || Wrong::from("expected a duration such as `500ms`, `30s`, `5m`, `1h` or `7d`");
    let (number, unit) = number_and_unit(text).ok_or_else(expected)?;
    let millis = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(expected()),
    };
    match number.checked_mul(millis).map(Duration::from_millis) {
        Some(duration) if duration <= DURATION_MAX => Ok(duration),
        _ => Err("a duration of more than 36500 days is not possible".into()),
    }
}

/// Bytes.
pub(super) fn size(text: &str) -> Result<u64, Wrong> {
    let expected = || Wrong::from("expected a size such as `64KiB`, `1MiB` or `2GiB`");
    let (number, unit) = number_and_unit(text).ok_or_else(expected)?;
    let bytes: u64 = match unit {
        "B" => 1,
        "kB" | "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return Err(expected()),
    };
    match number.checked_mul(bytes) {
        Some(bytes) if bytes <= i64::MAX as u64 => Ok(bytes),
        _ => Err("this size is too large".into()),
    }
}

pub(super) fn count(text: &str) -> Result<u64, Wrong> {
    match text.parse::<u64>() {
        Ok(number) if number <= i64::MAX as u64 && !text.starts_with('+') => Ok(number),
        _ => Err("expected a whole number".into()),
    }
}

/// A share from 0 to 1.
pub(super) fn percent(text: &str) -> Result<f64, Wrong> {
    let number = text.strip_suffix('%').and_then(|number| number.trim_end().parse::<u8>().ok());
    match number {
        Some(number @ 0..=100) if !text.starts_with('+') => Ok(f64::from(number) / 100.0),
        _ => Err("expected a percentage such as `10%`".into()),
    }
}

/// `none`, or how many within which time.
pub(super) fn rate(text: &str) -> Result<Option<Rate>, Wrong> {
    let expected = || Wrong::from("expected a rate such as `100/1m`, or `none`");
    if text == "none" {
        return Ok(None);
    }
    let (number, within) = text.split_once('/').ok_or_else(expected)?;
    let number = count(number.trim_end()).map_err(|_| expected())?;
    let within = duration(within.trim_start()).map_err(|_| expected())?;
    if !(1..=RATE_MAX).contains(&number) || within.is_zero() {
        return Err(format!("a rate is 1 to {RATE_MAX} within a time that is not zero").into());
    }
    Ok(Some(Rate { count: number, within }))
}

pub(super) fn address(text: &str) -> Result<SocketAddr, Wrong> {
    text.parse()
        .map_err(|_| "expected an IP address and a port such as `0.0.0.0:9464` or `[::1]:9464`".into())
}

pub(super) fn file(path: &str) -> Result<PathBuf, Wrong> {
    let path = text(path)?;
    if path.ends_with('/') {
        return Err("expected the path of a file, not of a directory".into());
    }
    Ok(PathBuf::from(path))
}

pub(super) fn word<W: Word>(text: &str) -> Result<W, Wrong> {
    if let Some(value) = W::from_word(text) {
        return Ok(value);
    }
    let valid = words::<W>();
    let list = valid.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ");
    if W::UNSUPPORTED.contains(&text) {
        return Err(format!("this version does not support this; it supports {list}").into());
    }
    Err(Wrong { message: format!("expected one of {list}"), valid })
}

pub(super) fn boolean(text: &str) -> Result<bool, Wrong> {
    match text {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(Wrong { message: "expected `true` or `false`".into(), valid: vec!["true", "false"] }),
    }
}

/// A Redis server and database. The message never repeats the text, which may hold a password.
///
/// `redis://host[:port][/database]` and `rediss://…` are the registered schemes; `unix:/path?db=1`
/// and `redis+unix:///path?db=1` are what clients of several languages take for a socket.
pub(super) fn redis_url(text: &str) -> Result<RedisUrl, Wrong> {
    let expected = || {
        Wrong::from(
            "expected `redis://host:port/database`, `rediss://host:port/database` or `unix:/path?db=database`",
        )
    };
    let (scheme, rest) = text.split_once(':').ok_or_else(expected)?;
    match scheme {
        "redis" => tcp_url(rest, false),
        "rediss" => tcp_url(rest, true),
        "unix" | "redis+unix" => unix_url(rest),
        _ => None,
    }
    .ok_or_else(|| match rest.split_once('@') {
        Some((user, _)) if user.trim_start_matches('/').contains(':') => {
            "a password cannot be in the configuration; write it to a file and name that in `password_file`, the user in `username`".into()
        }
        Some(_) => "a user is not part of the url; write it as `username`".into(),
        None => expected(),
    })
}

/// A schema registry, without the `/` at the end. The message never repeats the text, which may hold
/// a password.
pub(super) fn registry_url(text: &str) -> Result<String, Wrong> {
    let expected = || Wrong::from("expected `https://host:port` or `http://host:port`, perhaps with a path");
    let (scheme, rest) = text.split_once("://").ok_or_else(expected)?;
    if !matches!(scheme, "http" | "https") {
        return Err(expected());
    }
    let authority = rest.split('/').next().unwrap_or_default();
    if rest.contains('@') {
        return Err(
            "user and password are not part of the url; write the user as `username`, and the password to a file that `password_file` names"
                .into(),
        );
    }
    let (host, port) = match authority.strip_prefix('[') {
        Some(bracketed) => {
            let (host, port) = bracketed.split_once(']').ok_or_else(expected)?;
            host.parse::<std::net::Ipv6Addr>().map_err(|_| expected())?;
            (host, port.strip_prefix(':'))
        }
        None => match authority.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        },
    };
    let is_port = |port: &str| port.parse::<u16>().is_ok_and(|port| port > 0);
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-._~%/:[]".contains(c);
    if host.is_empty() || !port.is_none_or(is_port) || !rest.chars().all(is_plain) {
        return Err(expected());
    }
    Ok(text.trim_end_matches('/').to_owned())
}

fn tcp_url(rest: &str, tls: bool) -> Option<RedisUrl> {
    let rest = rest.strip_prefix("//")?;
    let (authority, database) = rest.split_once('/').unwrap_or((rest, ""));
    let database = if database.is_empty() { 0 } else { redis_database(database)? };
    let (host, port) = match authority.strip_prefix('[') {
        Some(bracketed) => {
            let (host, port) = bracketed.split_once(']')?;
            host.parse::<std::net::Ipv6Addr>().ok()?;
            (host, if port.is_empty() { None } else { Some(port.strip_prefix(':')?) })
        }
        None => match authority.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        },
    };
    let is_host = |c: char| c.is_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
    let port = match port {
        Some(port) => port.parse().ok().filter(|port| *port > 0)?,
        None => 6379,
    };
    if host.is_empty() || !host.chars().all(is_host) {
        return None;
    }
    Some(RedisUrl { server: RedisServer::Tcp { host: host.to_owned(), port, tls }, database })
}

fn unix_url(rest: &str) -> Option<RedisUrl> {
    // `unix:/path` and `unix:///path`, with no host between the slashes.
    let path = rest.strip_prefix("//").unwrap_or(rest);
    let (path, database) = match path.split_once('?') {
        Some((path, query)) => (path, redis_database(query.strip_prefix("db=")?)?),
        None => (path, 0),
    };
    let is_path = path.starts_with('/') && !path.ends_with('/') && !path.contains(['\0', '@']);
    is_path.then(|| RedisUrl { server: RedisServer::Unix { path: PathBuf::from(path) }, database })
}

fn redis_database(text: &str) -> Option<u16> {
    text.parse().ok().filter(|_| !text.starts_with('+'))
}

/// Nothing that means something in a pattern of `SCAN`, `KEYS` or an ACL, so that `prefix*` is
/// exactly the replica's keys.
pub(super) fn key_prefix(text: &str) -> Result<String, Wrong> {
    let valid = |c: char| c.is_ascii_alphanumeric() || ":_-.{}".contains(c);
    if text.is_empty() || text.len() > 128 || !text.chars().all(valid) {
        return Err("a prefix is at most 128 letters, digits and `:_-.{}`".into());
    }
    Ok(text.to_owned())
}

/// A filter of `tracing-subscriber`, of which only levels by module are of use: its own grammar
/// takes a misspelt level for the name of a module.
pub(super) fn log_level(text: &str) -> Result<String, Wrong> {
    const LEVELS: [&str; 6] = ["error", "warn", "info", "debug", "trace", "off"];
    for part in text.split(',') {
        let (module, level) = match part.split_once('=') {
            Some((module, level)) => (Some(module.trim()), level.trim()),
            None => (None, part.trim()),
        };
        if !LEVELS.contains(&level.to_ascii_lowercase().as_str()) {
            let message = "expected `error`, `warn`, `info`, `debug`, `trace` or `off`, or levels by module such as `info,readside=debug`";
            return Err(Wrong { message: message.into(), valid: LEVELS.to_vec() });
        }
        let is_module = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
        if module.is_some_and(|module| module.is_empty() || !module.chars().all(is_module)) {
            return Err("expected the name of a module before `=`".into());
        }
    }
    Ok(text.to_owned())
}

/// `host:port`.
pub(super) fn broker(text: &str) -> Result<String, Wrong> {
    let expected = || Wrong::from("expected a broker as `host:port`, such as `kafka:9092`");
    if text.contains("://") {
        return Err(
            "expected `host:port` without a protocol; `kafka.properties` has `security.protocol`".into()
        );
    }
    let (host, port) = text.rsplit_once(':').ok_or_else(expected)?;
    let bracketed = host.starts_with('[') && host.ends_with(']');
    let is_host = |c: char| {
        c.is_alphanumeric()
            || matches!(c, '.' | '-' | '_')
            || (bracketed && matches!(c, ':' | '[' | ']' | '%'))
    };
    if host.is_empty() || !host.chars().all(is_host) || !matches!(port.parse::<u16>(), Ok(1..)) {
        return Err(expected());
    }
    Ok(text.to_owned())
}

/// The rule for topic names is Kafka's (`org.apache.kafka.common.internals.Topic`).
pub(super) fn topic_name(text: &str) -> Result<String, Wrong> {
    let valid = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if text.is_empty() || text.len() > 249 || text == "." || text == ".." || !text.chars().all(valid) {
        return Err("expected the name of a topic: at most 249 letters, digits, `.`, `_` and `-`".into());
    }
    Ok(text.to_owned())
}

/// Stricter than SQLite, so that the same name can be used in every store and unquoted in SQL.
pub(super) fn table_name(text: &str) -> Result<String, Wrong> {
    let mut chars = text.chars();
    let first = chars.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_');
    if !first || !chars.all(|c| c.is_ascii_alphanumeric() || c == '_') || text.len() > 128 {
        return Err(
            "the name of a table is at most 128 letters, digits and `_`, and begins with no digit".into()
        );
    }
    let lower = text.to_ascii_lowercase();
    if lower.starts_with("_readside") || lower.starts_with("sqlite_") {
        return Err("names that begin with `_readside` or `sqlite_` are reserved".into());
    }
    Ok(text.to_owned())
}

pub(super) fn column_name(text: &str) -> Result<String, Wrong> {
    if text.is_empty() || text.contains('\0') || text.len() > 256 {
        return Err("the name of a column is 1 to 256 bytes of text without NUL".into());
    }
    if text.to_ascii_lowercase().starts_with("_readside") {
        return Err("names that begin with `_readside` are reserved".into());
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates() {
        let rate_of = |count, seconds| Some(Rate { count, within: Duration::from_secs(seconds) });
        for (text, expected) in [
            ("100/1m", rate_of(100, 60)),
            ("1 / 30s", rate_of(1, 30)),
            ("10000/1d", rate_of(10_000, 86_400)),
            ("none", None),
        ] {
            assert_eq!(rate(text), Ok(expected), "{text}");
        }
        for text in
            ["", "100", "100/", "/1m", "0/1m", "10001/1m", "1/0s", "-1/1m", "1/minute", "1/1m/1m", "off"]
        {
            assert!(rate(text).is_err(), "{text}");
        }
    }

    #[test]
    fn durations() {
        for (text, millis) in [
            ("500ms", 500),
            ("30s", 30_000),
            ("5m", 300_000),
            ("1h", 3_600_000),
            ("7d", 604_800_000),
            ("0s", 0),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in [
            "",
            "30",
            "s",
            "-1s",
            "1.5s",
            "1h30m",
            "30sec",
            "99999999999999999999s",
            "18446744073709551615d",
            "40000d",
        ] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes() {
        for (text, bytes) in
            [("1B", 1), ("2kB", 2000), ("64KiB", 65_536), ("16 MiB", 16 << 20), ("1GiB", 1 << 30)]
        {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for text in ["", "64", "64M", "1.5MiB", "-1B", "99999999999GiB"] {
            assert!(size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn urls_of_redis_are_written_back_the_same() {
        for text in [
            "redis://127.0.0.1:6379/0",
            "rediss://cache.example:6380/15",
            "redis://[::1]:6379/1",
            "unix:/run/redis/redis.sock",
            "unix:/run/redis/redis.sock?db=3",
        ] {
            assert_eq!(redis_url(text).map(|url| url.to_string()), Ok(text.to_owned()));
        }
        for (text, same) in [
            ("redis://cache", "redis://cache:6379/0"),
            ("redis://cache:1/", "redis://cache:1/0"),
            ("redis://[::1]", "redis://[::1]:6379/0"),
            ("redis+unix:///s.sock?db=0", "unix:/s.sock"),
            ("unix:///s.sock", "unix:/s.sock"),
        ] {
            assert_eq!(redis_url(text).map(|url| url.to_string()), Ok(same.to_owned()), "{text}");
        }
        for text in [
            "",
            "cache",
            "cache:6379",
            "http://cache",
            "redis:cache",
            "redis://",
            "redis://:6379",
            "redis://a:0",
            "redis://a:x",
            "redis://a:70000",
            "redis://a/x",
            "redis://a/0/1",
            "redis://a/+1",
            "redis://a?db=1",
            "redis://::1:6379",
            "redis://[a]:1",
            "redis://[::1]x",
            "redis://a b",
            "unix:",
            "unix:s.sock",
            "unix:/",
            "unix://host/s.sock",
            "unix:/s?db=x",
            "unix:/s?x=1",
        ] {
            assert!(redis_url(text).is_err_and(|wrong| wrong.message.contains("expected")), "{text}");
        }
    }

    #[test]
    fn urls_of_registries() {
        for (text, expected) in [
            ("https://registry:8081", Some("https://registry:8081")),
            ("http://registry/", Some("http://registry")),
            ("http://[::1]:8081/apis/ccompat/v7/", Some("http://[::1]:8081/apis/ccompat/v7")),
            ("registry:8081", None),
            ("ftp://registry", None),
            ("https://", None),
            ("https://:8081", None),
            ("https://registry:0", None),
            ("https://registry:x", None),
            ("https://registry/a?b=c", None),
            ("https://registry/a b", None),
        ] {
            assert_eq!(registry_url(text).ok().as_deref(), expected, "{text}");
        }
        for text in ["https://u:canary@registry", "http://canary@registry", "http://r/canary@x"] {
            let wrong = registry_url(text).unwrap_err();
            assert!(wrong.message.contains("password_file"), "{text}");
            assert!(!format!("{wrong:?}").contains("canary"), "{wrong:?}");
        }
    }

    #[test]
    fn a_url_with_credentials_is_refused_and_not_repeated() {
        for (text, advice) in [
            ("redis://u:canary@a:1", "password_file"),
            ("redis://:canary@a", "password_file"),
            ("rediss://:can/ary@a", "password_file"),
            ("unix://u:canary@/s", "password_file"),
            ("redis:u:canary@a", "password_file"),
            ("redis://u@a", "username"),
        ] {
            let wrong = redis_url(text).unwrap_err();
            assert!(wrong.message.contains(advice) && wrong.valid.is_empty(), "{text}");
            assert!(!format!("{wrong:?}").contains("canary"), "{wrong:?}");
        }
    }

    #[test]
    fn prefixes_hold_no_pattern() {
        for text in ["shop:", "{shop}:", "a.b-c_d:"] {
            assert!(key_prefix(text).is_ok(), "{text}");
        }
        for text in ["", "a*", "a?", "[a]", "a b", "a\\", "ä", &"x".repeat(129)] {
            assert!(key_prefix(text).is_err(), "{text}");
        }
    }

    #[test]
    fn brokers_and_topics() {
        for text in ["kafka:9092", "10.0.0.1:9093", "[::1]:9092", "a-b.c_d:1"] {
            assert!(broker(text).is_ok(), "{text}");
        }
        for text in [
            "kafka",
            "kafka:",
            ":9092",
            "kafka:0",
            "kafka:99999",
            "PLAINTEXT://kafka:9092",
            "a b:1",
            "::1:9092",
        ] {
            assert!(broker(text).is_err(), "{text}");
        }
        assert!(topic_name("shop.public.Order_Items-1").is_ok());
        for text in ["", ".", "..", "a b", "ä", &"x".repeat(250)] {
            assert!(topic_name(text).is_err(), "{text}");
        }
    }

    #[test]
    fn names_of_tables_and_columns() {
        for text in ["users", "_u1", "Order_Items"] {
            assert!(table_name(text).is_ok(), "{text}");
        }
        for text in
            ["", "1a", "a-b", "a b", "größe", "_readside_status", "_READSIDE", "sqlite_master", "Sqlite_x"]
        {
            assert!(table_name(text).is_err(), "{text}");
        }
        for text in ["a b", "Größe", "select", "\"", "."] {
            assert!(column_name(text).is_ok(), "{text}");
        }
        for text in ["", "a\0b", "_readside_version", &"x".repeat(300)] {
            assert!(column_name(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_misspelt_level_is_not_taken_for_a_module() {
        for text in ["info", "WARN", "info,readside=debug", "off, readside::source=trace"] {
            assert!(log_level(text).is_ok(), "{text}");
        }
        for text in ["", "inof", "readside", "info,", "=info", "info,read side=debug", "[span]=info"] {
            assert!(log_level(text).is_err(), "{text}");
        }
    }
}
