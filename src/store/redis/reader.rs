//! The reading side, with a connection of its own.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::codec::{self, RESERVED};
use super::described::{Described, Role};
use super::error::{at, foreign, stop_io};
use super::ledger::{Ledger, partition_field};
use super::letters;
use super::link::Link;
use super::names::{Names, Spot, TableNames, joined};
use super::open::{check_server, place};
use super::settings::{RedisSettings, RowEncoding};
use crate::domain::catalog::{Catalog, Table};
use crate::domain::checkpoint::TopicPartition;
use crate::domain::retry::RetryReason;
use crate::domain::row::RowState;
use crate::domain::value::Value;
use crate::store::{LetterPage, LetterQuery, Reader, RowLookup, Status, StoreError};

/// Reads a replica in Redis while its daemon writes it, or while there is none: always the live
/// generation, whichever that is when it is asked.
pub struct RedisReader {
    settings: RedisSettings,
    catalog: Arc<Catalog>,
    names: Names,
    open: Mutex<Open>,
}

struct Open {
    link: Link,
    /// Where the rows of the live generation are, as it was found the last time.
    asked: Option<Asked>,
}

/// What has to be known of a generation to read a row of it.
#[derive(PartialEq)]
struct Asked {
    /// `None`: none is where readers look.
    generation: Option<String>,
    rows: String,
    encoding: RowEncoding,
}

impl RedisReader {
    /// `catalog` is the mapping under which the live generation was built.
    pub fn new(settings: &RedisSettings, catalog: Arc<Catalog>) -> RedisReader {
        let link = Link::new(settings, Spot::Live.database(&settings.redis));
        RedisReader {
            names: Names::new(&settings.redis, Spot::Live, String::new()),
            open: Mutex::new(Open { link, asked: None }),
            settings: settings.clone(),
            catalog,
        }
    }

    fn read<T>(&self, look: impl FnOnce(&mut Open) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        at(&place(&self.settings), look(&mut open))
    }

    fn read_row(&self, open: &mut Open, table: usize, key: &[Value]) -> Result<Option<RowState>, StoreError> {
        let Some(shape) = self.catalog.tables.get(table) else { return Ok(None) };
        let parts: Vec<&Value> = key.iter().take(shape.key.len()).collect();
        let text = joined(&parts);
        // Another generation may take its place between two looks, and hardly again between the next.
        for _ in 0..3 {
            let asked = match open.asked.take() {
                Some(asked) => asked,
                None => self.find(&mut open.link)?,
            };
            let names = Names::new(&self.settings.redis, Spot::Live, asked.rows.clone());
            let names = TableNames::new(&names, shape);
            let row_key = names.row_key(&text);
            let generation: &[&[u8]] = &[b"HGET", self.names.meta.as_bytes(), b"generation"];
            let hidden: &[&[u8]] = &[b"HGET", names.hidden.as_bytes(), &text];
            type Read<R> = (Option<String>, R, Option<Vec<u8>>);
            let read = match asked.encoding {
                RowEncoding::Hash => {
                    let mut words: Vec<&[u8]> = vec![b"HMGET", &row_key, RESERVED.as_bytes()];
                    words.extend(shape.columns.iter().map(|column| column.name.as_bytes()));
                    let read = open.link.read(&[generation, &words, hidden]);
                    read.map(|(now, fields, hidden): Read<_>| {
                        (now, codec::row_of_fields(shape, fields), hidden)
                    })
                }
                RowEncoding::Json => {
                    let read = open.link.read(&[generation, &[b"GET", &row_key], hidden]);
                    read.map(|(now, json, hidden): Read<Option<Vec<u8>>>| {
                        (now, json.map(|json| codec::row_of_json(shape, &json)).transpose(), hidden)
                    })
                }
            };
            match read {
                Ok((now, row, hidden)) if now == asked.generation => {
                    open.asked = Some(asked);
                    return kept(shape, key, row?, hidden);
                }
                Ok(_) => {}
                // What another one has under the same name may be of another type.
                Err(StoreError::Stop { .. }) if self.find(&mut open.link)? != asked => {}
                Err(error) => return Err(error),
            }
        }
        Err(replaced())
    }

    /// The live generation; one under another mapping cannot be read with this one: whoever asks is
    /// to be told of the switch first.
    fn find(&self, link: &mut Link) -> Result<Asked, StoreError> {
        let meta = link.query(redis::cmd("HGETALL").arg(&self.names.meta))?;
        if std::collections::HashMap::is_empty(&meta) {
            // A first copy that is built out of sight, or nothing.
            return Ok(Asked {
                generation: None,
                rows: self.settings.redis.prefix.clone(),
                encoding: self.settings.redis.encoding,
            });
        }
        let live = Described::parse(&meta)?;
        if live.catalog.fingerprint != self.catalog.fingerprint {
            return Err(replaced());
        }
        Ok(Asked { generation: Some(live.number.to_string()), rows: live.rows, encoding: live.encoding })
    }
}

fn replaced() -> StoreError {
    StoreError::Retry {
        reason: RetryReason::Busy,
        message: "the copy has just been replaced by one under another mapping".into(),
    }
}

/// A row that readers see, else what is hidden from them.
fn kept(
    shape: &Table,
    key: &[Value],
    row: Option<RowState>,
    hidden: Option<Vec<u8>>,
) -> Result<Option<RowState>, StoreError> {
    if row.as_ref().is_some_and(|row| row.version.is_some()) {
        return Ok(row);
    }
    let Some(bytes) = hidden else { return Ok(None) };
    let mut values = vec![Value::Absent; shape.columns.len()];
    for (&column, value) in shape.key.iter().zip(key) {
        values[column].clone_from(value);
    }
    Ok(Some(codec::unhide(shape, values, &bytes)?.0))
}

fn lookup(shape: &Table, row: Option<RowState>) -> RowLookup {
    let Some(row) = row else { return RowLookup::Missing };
    match (row.version, row.deleted) {
        (Some(version), _) if row.is_visible(shape) => {
            let null = |value| if value == Value::Absent { Value::Null } else { value };
            RowLookup::Visible { values: row.values.into_iter().map(null).collect(), version }
        }
        (_, Some(version)) => RowLookup::Deleted { version },
        _ => RowLookup::Missing,
    }
}

/// The status of a replica, whatever its mapping is.
pub fn redis_status(settings: &RedisSettings, now_ms: i64) -> Result<Status, StoreError> {
    let mut link = Link::new(settings, Spot::Live.database(&settings.redis));
    at(&place(settings), status(&mut link, settings, now_ms))
}

/// The dead letters of a replica, whatever its mapping is.
pub fn redis_dead_letters(settings: &RedisSettings, query: &LetterQuery) -> Result<LetterPage, StoreError> {
    let mut link = Link::new(settings, Spot::Live.database(&settings.redis));
    let names = Names::new(&settings.redis, Spot::Live, String::new());
    at(&place(settings), letters::page(&mut link, &names, query))
}

fn status(link: &mut Link, settings: &RedisSettings, now_ms: i64) -> Result<Status, StoreError> {
    let redis = &settings.redis;
    let read = |link: &mut Link, spot: Spot| {
        let names = Names::new(redis, spot, String::new());
        link.select(spot.database(redis));
        let found = Ledger::read(link, &names, None);
        link.select(Spot::Live.database(redis));
        found
    };
    if let Some((live, ledger)) = read(link, Spot::Live)? {
        let mut status = ledger.status(&live.catalog, now_ms);
        if let Some(number) = live.next
            && let Some((next, ledger)) = read(link, Spot::of_next(redis, number))?
            && next.number == number
        {
            status.positions.extend(ledger.position_status(&next.catalog));
        }
        return Ok(status);
    }
    if redis.dedicated
        && let Some((first, ledger)) = read(link, Spot::Elsewhere)?
        && first.role == Role::Live
    {
        // It is being built out of readers' sight.
        return Ok(Ledger { complete: false, ..ledger }.status(&first.catalog, now_ms));
    }
    Err(foreign("there is no replica".into()))
}

impl Reader for RedisReader {
    fn status(&self, now_ms: i64) -> Result<Status, StoreError> {
        self.read(|open| status(&mut open.link, &self.settings, now_ms))
    }

    fn row(&self, table: usize, key: &[Value]) -> Result<RowLookup, StoreError> {
        let Some(shape) = self.catalog.tables.get(table) else { return Ok(RowLookup::Missing) };
        Ok(lookup(shape, self.state_of(table, key)?))
    }

    fn state_of(&self, table: usize, key: &[Value]) -> Result<Option<RowState>, StoreError> {
        self.read(|open| self.read_row(open, table, key))
    }

    fn is_dead_letter(&self, at: TopicPartition, offset: i64) -> Result<bool, StoreError> {
        if at.topic >= self.catalog.topics.len() {
            return Ok(false);
        }
        let record = format!("{}/{offset}/", partition_field(&self.catalog, at));
        let mut cmd = redis::cmd("HMGET");
        cmd.arg(&self.names.dead_letters).arg(&record);
        for table in &self.catalog.tables {
            cmd.arg(format!("{record}{}", table.name));
        }
        let found: Vec<Option<Vec<u8>>> = self.read(|open| open.link.query(&cmd))?;
        Ok(found.iter().any(Option::is_some))
    }

    fn dead_letters(&self, query: &LetterQuery) -> Result<LetterPage, StoreError> {
        self.read(|open| letters::page(&mut open.link, &self.names, query))
    }
}

/// Whether the server answers, keeps what it is given, and lets the user do what a writer does.
/// Says what it found in a few words; changes nothing.
pub fn redis_check(settings: &RedisSettings, timeout: Duration) -> Result<String, StoreError> {
    at(&place(settings), check(settings, timeout))
}

fn check(settings: &RedisSettings, timeout: Duration) -> Result<String, StoreError> {
    let mut link = Link::new(settings, i64::from(settings.redis.url.database)).with_timeout(timeout);
    link.query::<String>(&redis::cmd("PING"))?;
    let version = check_server(&mut link)?;
    // The server is asked what the user may do; nothing is done.
    let key = format!("{}readside:meta", settings.redis.prefix);
    let mut wanted: Vec<(&str, Vec<&str>)> = vec![
        ("HSET", vec![&key, "f", "v"]),
        ("HDEL", vec![&key, "f"]),
        ("HGET", vec![&key, "f"]),
        ("HMGET", vec![&key, "f"]),
        ("HGETALL", vec![&key]),
        ("HKEYS", vec![&key]),
        ("HSCAN", vec![&key, "0"]),
        ("GET", vec![&key]),
        ("GETRANGE", vec![&key, "0", "1"]),
        ("SET", vec![&key, "v"]),
        ("DEL", vec![&key]),
        ("EXISTS", vec![&key]),
        ("UNLINK", vec![&key]),
        ("RENAME", vec![&key, &key]),
        ("DBSIZE", vec![]),
        ("TYPE", vec![&key]),
        ("PTTL", vec![&key]),
        ("SADD", vec![&key, "v"]),
        ("SREM", vec![&key, "v"]),
        ("ZADD", vec![&key, "0", "v"]),
        ("ZREM", vec![&key, "v"]),
        ("ZRANGE", vec![&key, "[v", "(w", "BYLEX"]),
        ("RPUSH", vec![&key, "v"]),
        ("LTRIM", vec![&key, "0", "1"]),
        ("LRANGE", vec![&key, "0", "1"]),
        ("SCAN", vec!["0"]),
        ("EVALSHA", vec!["0", "0"]),
        ("EVAL", vec!["", "0"]),
        ("INFO", vec![]),
    ];
    if settings.redis.dedicated {
        wanted.extend([("SWAPDB", vec!["0", "1"]), ("SELECT", vec!["1"])]);
    }
    let mut cmd = redis::cmd("EVAL");
    cmd.arg(
        "#!lua flags=no-writes\nlocal denied = {}\nlocal at = 1\nwhile ARGV[at] do\n\
         local n = tonumber(ARGV[at])\n\
         if not redis.acl_check_cmd(unpack(ARGV, at + 1, at + n)) then denied[#denied + 1] = ARGV[at + 1] end\n\
         at = at + n + 1\nend\nreturn denied",
    )
    .arg(0);
    for (command, words) in &wanted {
        cmd.arg(words.len() + 1).arg(*command);
        for word in words {
            cmd.arg(*word);
        }
    }
    let denied: Vec<String> = link.query(&cmd)?;
    if !denied.is_empty() {
        return Err(stop_io(format!(
            "the user may not {} on keys that begin with {}; give it the rights of the writer's ACL line",
            denied.join(", "),
            settings.redis.prefix
        )));
    }
    Ok(format!("Redis {version}, keeps what it is given"))
}
