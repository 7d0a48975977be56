//! The reading side, with a connection of its own.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::codec::{self, RESERVED};
use super::error::{at, foreign, stop_io};
use super::ledger::{Ledger, partition_field};
use super::letters;
use super::link::Link;
use super::names::{Names, TableNames, joined};
use super::open::{check_server, place};
use super::settings::{RedisSettings, RowEncoding};
use crate::domain::catalog::Catalog;
use crate::domain::checkpoint::TopicPartition;
use crate::domain::value::Value;
use crate::store::{LetterPage, LetterQuery, Reader, RowLookup, Status, StoreError};

/// Reads a replica in Redis while its daemon writes it, or while there is none.
pub struct RedisReader {
    settings: RedisSettings,
    catalog: Arc<Catalog>,
    names: Names,
    tables: Vec<TableNames>,
    link: Mutex<Link>,
}

impl RedisReader {
    pub fn new(settings: &RedisSettings, catalog: Arc<Catalog>) -> RedisReader {
        let names = Names::new(&settings.redis);
        RedisReader {
            tables: catalog.tables.iter().map(|table| TableNames::new(&names, table)).collect(),
            names,
            link: Mutex::new(Link::new(settings, i64::from(settings.redis.url.database))),
            settings: settings.clone(),
            catalog,
        }
    }

    fn read<T>(&self, look: impl FnOnce(&mut Link) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let mut link = self.link.lock().unwrap_or_else(PoisonError::into_inner);
        at(&place(&self.settings), look(&mut link))
    }

    fn read_status(&self, link: &mut Link, now_ms: i64) -> Result<Status, StoreError> {
        let live = i64::from(self.settings.redis.url.database);
        link.select(live);
        let mut found = Ledger::read(link, &self.names, &self.catalog)?;
        if found.is_none() && self.settings.redis.dedicated {
            // It is being built out of readers' sight.
            link.select(live + 1);
            let building = Ledger::read(link, &self.names, &self.catalog);
            link.select(live);
            found = building?.map(|ledger| Ledger { complete: false, ..ledger });
        }
        match found {
            Some(ledger) => Ok(ledger.status(&self.catalog, now_ms)),
            None => Err(foreign("there is no replica".into())),
        }
    }

    fn read_row(&self, link: &mut Link, table: usize, key: &[Value]) -> Result<RowLookup, StoreError> {
        let (Some(shape), Some(names)) = (self.catalog.tables.get(table), self.tables.get(table)) else {
            return Ok(RowLookup::Missing);
        };
        let parts: Vec<&Value> = key.iter().take(shape.key.len()).collect();
        let text = joined(&parts);
        let row_key = names.row_key(&text);
        let hidden: &[&[u8]] = &[b"HGET", names.hidden.as_bytes(), &text];
        let (row, hidden) = match self.settings.redis.encoding {
            RowEncoding::Hash => {
                let mut words: Vec<&[u8]> = vec![b"HMGET", &row_key, RESERVED.as_bytes()];
                words.extend(shape.columns.iter().map(|column| column.name.as_bytes()));
                let (fields, hidden): (Vec<Option<Vec<u8>>>, Option<Vec<u8>>) =
                    link.read(&[&words, hidden])?;
                (codec::row_of_fields(shape, fields)?, hidden)
            }
            RowEncoding::Json => {
                let (json, hidden): (Option<Vec<u8>>, Option<Vec<u8>>) =
                    link.read(&[&[b"GET", &row_key], hidden])?;
                (json.map(|json| codec::row_of_json(shape, &json)).transpose()?, hidden)
            }
        };
        if let Some(row) = row
            && let Some(version) = row.version
        {
            let null = |value| if value == Value::Absent { Value::Null } else { value };
            return Ok(RowLookup::Visible { values: row.values.into_iter().map(null).collect(), version });
        }
        let Some(bytes) = hidden else { return Ok(RowLookup::Missing) };
        let (row, _) = codec::unhide(shape, vec![Value::Absent; shape.columns.len()], &bytes)?;
        Ok(row.deleted.map_or(RowLookup::Missing, |version| RowLookup::Deleted { version }))
    }
}

impl Reader for RedisReader {
    fn status(&self, now_ms: i64) -> Result<Status, StoreError> {
        self.read(|link| self.read_status(link, now_ms))
    }

    fn row(&self, table: usize, key: &[Value]) -> Result<RowLookup, StoreError> {
        self.read(|link| self.read_row(link, table, key))
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
        let found: Vec<Option<Vec<u8>>> = self.read(|link| link.query(&cmd))?;
        Ok(found.iter().any(Option::is_some))
    }

    fn dead_letters(&self, query: &LetterQuery) -> Result<LetterPage, StoreError> {
        self.read(|link| letters::page(link, &self.names, query))
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
        ("TYPE", vec![&key]),
        ("PTTL", vec![&key]),
        ("SADD", vec![&key, "v"]),
        ("SREM", vec![&key, "v"]),
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
