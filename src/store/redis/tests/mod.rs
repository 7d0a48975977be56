//! What only a server can do wrong; the rest is in the contract suite.

mod copying;
mod cuts;
mod generations;
mod hidden;
mod indexes;
mod layout;
mod losses;
mod owners;
mod pieces;
mod prepared;
mod proxy;
pub(crate) mod server;
mod tls;
mod whole;

use std::collections::BTreeMap;
use std::sync::Arc;

use server::{Server, available};

use crate::config::{Redis, RowEncoding};
use crate::domain::batch::Batch;
use crate::domain::change::{Change, IfMissing, Operation};
use crate::store::contract::*;
use crate::store::{RedisSettings, StopCode, StoreError};
use crate::testing::{PATIENCE, skip_without};

fn bench(settings: RedisSettings) -> InRedis {
    InRedis::at(settings, Arc::new(catalog()))
}

const ENCODINGS: [RowEncoding; 2] = [RowEncoding::Hash, RowEncoding::Json];

fn stopped<T: std::fmt::Debug>(result: Result<T, StoreError>, expected: StopCode) -> String {
    match result {
        Err(StoreError::Stop { exit, message }) => {
            assert_eq!(exit, expected, "{message}");
            message
        }
        other => panic!("not stopped: {other:?}"),
    }
}

/// For a server that others use too, and for one of its own.
fn both(server: &Server) -> [RedisSettings; 2] {
    [false, true].map(|dedicated| {
        let mut settings = server.settings(RowEncoding::Hash);
        settings.redis.dedicated = dedicated;
        settings
    })
}

/// A row of a table without indexes, whose rows the script guards by itself.
fn order(nth: i64, number: i64) -> Change {
    let values = row(&catalog().tables[2], nth, number, 0xFF);
    Change {
        from: vec![],
        table: 2,
        topic: 1,
        operation: Operation::Write { if_missing: IfMissing::Hold },
        values,
        version: version(number, 0, number),
    }
}

/// A batch that moves the partition.
fn moving(from: Option<i64>, to: i64, batch: Batch) -> Batch {
    Batch { advances: advance(from, to), ..batch }
}

/// Before the names of tables.
fn rows(settings: &RedisSettings) -> String {
    super::names::rows_of(&settings.redis, 1)
}

/// Every key of a prefix with its content, except for what expires.
fn everything(client: &mut redis::Connection, prefix: &str) -> BTreeMap<String, Vec<Vec<u8>>> {
    let keys: Vec<String> = redis::cmd("KEYS").arg(format!("{prefix}*")).query(client).unwrap();
    let mut all = BTreeMap::new();
    for key in keys {
        let lasting: i64 = redis::cmd("PTTL").arg(&key).query(client).unwrap();
        if lasting != -1 {
            continue;
        }
        let ty: String = redis::cmd("TYPE").arg(&key).query(client).unwrap();
        let content: Vec<Vec<u8>> = match ty.as_str() {
            "string" => vec![redis::cmd("GET").arg(&key).query(client).unwrap()],
            "hash" => {
                let fields: BTreeMap<Vec<u8>, Vec<u8>> =
                    redis::cmd("HGETALL").arg(&key).query(client).unwrap();
                fields.into_iter().flat_map(|(name, value)| [name, value]).collect()
            }
            "set" => {
                let members: std::collections::BTreeSet<Vec<u8>> =
                    redis::cmd("SMEMBERS").arg(&key).query(client).unwrap();
                members.into_iter().collect()
            }
            "list" => redis::cmd("LRANGE").arg(&key).arg(0).arg(-1).query(client).unwrap(),
            "zset" => redis::cmd("ZRANGE").arg(&key).arg(0).arg(-1).query(client).unwrap(),
            other => panic!("{key} is a {other}"),
        };
        all.insert(key, content);
    }
    all
}

/// Keys of generations that neither serve nor are built.
pub(in crate::store) fn leftovers_of(server: &Server, settings: &RedisSettings) -> usize {
    let mut client = server.client();
    let prefix = &settings.redis.prefix;
    let mut all = 0;
    for database in [0, 1] {
        let () = redis::cmd("SELECT").arg(database).query(&mut client).unwrap();
        let get = |name: &str, client: &mut redis::Connection| -> Option<String> {
            redis::cmd("HGET").arg(format!("{prefix}readside:meta")).arg(name).query(client).unwrap()
        };
        let (rows, next) = (get("rows", &mut client), get("next", &mut client).unwrap_or_default());
        let is_live = get("role", &mut client).is_some_and(|role| role != "dropped");
        let keys: Vec<String> = redis::cmd("KEYS").arg(format!("{prefix}*")).query(&mut client).unwrap();
        let is_used = |key: &String| {
            let rest = &key[prefix.len()..];
            let digits = |text: &str| text.split(':').next().unwrap().parse::<u32>().ok();
            match rest.strip_prefix("readside:") {
                Some(rest) => digits(rest).map_or(is_live, |number| next == number.to_string()),
                None => {
                    is_live && rows.as_ref().is_some_and(|rows| key.starts_with(rows))
                        || digits(rest).is_some_and(|number| next == number.to_string())
                }
            }
        };
        all += keys.iter().filter(|key| !is_used(key)).count();
    }
    all
}

/// As after a writer that died.
pub(in crate::store) fn let_lease_expire(server: &Server, settings: &RedisSettings) {
    let mut client = server.client();
    for database in [0, 1] {
        let () = redis::cmd("SELECT").arg(database).query(&mut client).unwrap();
        let lease = format!("{}readside:lease", settings.redis.prefix);
        let () = redis::cmd("DEL").arg(lease).query(&mut client).unwrap();
    }
}
