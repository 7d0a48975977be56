//! Opening: whether the server can keep a replica, whose it is, and who writes it.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use redis::Script;
use tracing::info;

use super::codec::{Form, RESERVED};
use super::error::{at, foreign, lost, rival};
use super::ledger::Ledger;
use super::link::Link;
use super::names::{Names, TableNames, literal, to_hex};
use super::payload::Payload;
use super::settings::RedisSettings;
use super::settings::RowEncoding;
use super::{RedisStore, Taken};
use crate::domain::catalog::{Catalog, Table};
use crate::store::StoreError;

const TEXT: &str = include_str!("open.lua");
static SCRIPT: LazyLock<Script> = LazyLock::new(|| Script::new(TEXT));

/// Of keys and fields; another one cannot be read.
const LAYOUT: &str = "2";
/// The first version whose scripts can be refused as a whole when memory is out.
const REDIS_MIN: u32 = 7;
const LEASE_POLL: Duration = Duration::from_millis(100);

impl RedisStore {
    /// Opens or creates the replica. Refuses (`Stop`) a server that evicts keys, a replica of
    /// another name or mapping, and one that another process writes; waits until the lease of a
    /// writer that died has expired, at most [`RedisSettings::heartbeat_limit`].
    pub fn open(settings: &RedisSettings, catalog: Arc<Catalog>) -> Result<RedisStore, StoreError> {
        at(&place(settings), open(settings, catalog))
    }
}

pub(super) fn place(settings: &RedisSettings) -> String {
    format!("{} ({}*)", settings.redis.url, settings.redis.prefix)
}

fn open(settings: &RedisSettings, catalog: Arc<Catalog>) -> Result<RedisStore, StoreError> {
    if let Some(table) = catalog.tables.iter().find(|table| table.name == "readside") {
        return Err(foreign(format!(
            "table {:?} would have the keys of readside's bookkeeping; rename it",
            table.name
        )));
    }
    let reserved = |table: &&Table| table.columns.iter().any(|column| column.name == RESERVED);
    if let Some(table) = catalog.tables.iter().find(reserved) {
        return Err(foreign(format!(
            "column {RESERVED:?} of table {:?} would have the name of the version's field; rename it",
            table.name
        )));
    }
    let live = i64::from(settings.redis.url.database);
    let mut link = Link::new(settings, live);
    check_server(&mut link)?;
    let names = Names::new(&settings.redis);
    let writer = to_hex(&RandomState::new().build_hasher().finish().to_be_bytes());
    let taken = take_over(&mut link, settings, &names, &catalog, &writer)?;
    let ledger = Ledger::read(&mut link, &names, &catalog)?
        .ok_or_else(|| lost("is gone (flushed while it was opened)"))?;
    let form = find_form(&mut link, settings, &names)?;
    let mut store = RedisStore {
        form,
        tables: catalog.tables.iter().map(|table| TableNames::new(&names, table)).collect(),
        names,
        writer,
        epoch: taken.epoch,
        settings: settings.clone(),
        link,
        catalog,
        ledger: None,
        sequence: ledger.sequence,
        in_flight: false,
        unconfirmed: None,
        cursors: Vec::new(),
    };
    store.cursors = vec![0; store.tables.len()];
    store.settle(ledger)?;
    Ok(store)
}

/// Version and eviction, which no replica survives.
pub(super) fn check_server(link: &mut Link) -> Result<String, StoreError> {
    let (server, memory): (String, String) =
        link.pipe(redis::pipe().cmd("INFO").arg("server").cmd("INFO").arg("memory"))?;
    let value = |info: &str, name: &str| {
        info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':').map(str::to_owned))
    };
    let version = value(&server, "redis_version").unwrap_or_default();
    if version
        .split('.')
        .next()
        .and_then(|major| major.parse().ok())
        .is_some_and(|major: u32| major < REDIS_MIN)
    {
        return Err(foreign(format!("Redis {version} is too old; readside needs {REDIS_MIN}.0 or newer")));
    }
    match value(&memory, "maxmemory_policy").as_deref() {
        None | Some("noeviction") => Ok(version),
        Some(policy) => Err(foreign(format!(
            "maxmemory-policy {policy} lets Redis drop keys of the replica; set it to noeviction, or use another \
             Redis"
        ))),
    }
}

/// How rows are to be written: `RESTORE` only if this server makes of a payload what it should.
fn find_form(link: &mut Link, settings: &RedisSettings, names: &Names) -> Result<Form, StoreError> {
    if settings.redis.encoding == RowEncoding::Json {
        return Ok(Form::Json);
    }
    let long = "x".repeat(100);
    let fields = [("_v", "\u{1}v"), ("id", "-70000"), ("name", "a"), ("empty", ""), ("long", &long)];
    let mut bytes = Vec::new();
    let mut payload = Payload::new(&mut bytes);
    for text in fields.iter().flat_map(|(name, value)| [name, value]) {
        payload.push(text.as_bytes());
    }
    payload.finish();
    let mut pipe = redis::pipe();
    pipe.cmd("RESTORE").arg(&names.probe).arg(1_000).arg(bytes).arg("REPLACE").ignore();
    pipe.cmd("HGETALL").arg(&names.probe);
    pipe.cmd("DEL").arg(&names.probe).ignore();
    let tried: Result<(HashMap<String, String>,), StoreError> = link.pipe(&pipe);
    match tried {
        Ok((found,)) if found == HashMap::from(fields.map(|(name, value)| (name.into(), value.into()))) => {
            Ok(Form::Restore)
        }
        // Nothing that the server said of the payload: it is not there, or has no memory.
        Err(StoreError::Retry { reason, message }) => Err(StoreError::Retry { reason, message }),
        found => {
            info!(?found, "rows are written with HSET: this Redis does not take them with RESTORE");
            Ok(Form::Fields)
        }
    }
}

/// What must be the same as when the replica was made.
fn identity(settings: &RedisSettings, catalog: &Catalog) -> Vec<(&'static str, String)> {
    // The mapping's fingerprint leaves indexes out: for SQLite they are rebuilt in place.
    let indexes: Vec<_> = catalog.tables.iter().map(|table| (&table.name, &table.indexes)).collect();
    vec![
        ("layout", LAYOUT.to_owned()),
        ("name", settings.replica_name.clone()),
        ("fingerprint", catalog.fingerprint.clone()),
        ("indexes", serde_json::to_string(&indexes).unwrap_or_default()),
        ("encoding", settings.redis.encoding.name().to_owned()),
    ]
}

fn foreign_field(settings: &RedisSettings, field: &str, found: &str) -> StoreError {
    let again = "delete every key with its prefix to build it anew";
    foreign(match field {
        "name" => format!(
            "it belongs to replica {found:?}, and replica.name is {:?}: correct one of them or choose another \
             replica.redis.prefix",
            settings.replica_name
        ),
        "fingerprint" => {
            format!("it was built under another mapping: restore the mapping, or {again}")
        }
        "indexes" => format!("it was built with other indexes: restore them, or {again}"),
        "encoding" => format!("its rows are kept as {found}: set replica.redis.encoding to that, or {again}"),
        _ => format!(
            "it has layout {found} and this readside knows layout {LAYOUT}: use the version of readside that \
             wrote it, or {again}"
        ),
    })
}

fn take_over(
    link: &mut Link,
    settings: &RedisSettings,
    names: &Names,
    catalog: &Catalog,
    writer: &str,
) -> Result<Taken, StoreError> {
    let identity = identity(settings, catalog);
    let live = i64::from(settings.redis.url.database);
    let mut lease_left = None;
    let mut may_begin = false;
    loop {
        let answer: Vec<String> = link.script(&SCRIPT, TEXT, |cmd| {
            cmd.arg(2).arg(&names.meta).arg(&names.lease);
            cmd.arg(writer).arg(settings.heartbeat_limit_ms()).arg(u8::from(may_begin));
            for (field, value) in &identity {
                cmd.arg(*field).arg(value);
            }
        })?;
        let word = |nth: usize| answer.get(nth).map_or("", String::as_str);
        match word(0) {
            "ok" => return Ok(Taken { epoch: word(1).parse().unwrap_or(0) }),
            // A dedicated Redis is built in its next database, out of readers' sight.
            "none" if settings.redis.dedicated && link.database() == live => {
                refuse_strangers(link, settings, names)?;
                link.select(live + 1);
            }
            "none" => {
                refuse_strangers(link, settings, names)?;
                may_begin = true;
            }
            "foreign" => return Err(foreign_field(settings, word(1), word(2))),
            "held" => {
                let left: i64 = word(2).parse().unwrap_or(0);
                // Time only takes from a lease; a living writer gives to it.
                if lease_left.is_some_and(|before| left > before) {
                    return Err(foreign(
                        "another readside writes this replica; stop it or give each its own \
                         replica.redis.prefix"
                            .into(),
                    ));
                }
                lease_left = Some(left);
                std::thread::sleep(LEASE_POLL);
            }
            _ => {
                return Err(foreign(format!(
                    "key {:?} belongs to another program; choose another replica.redis.prefix",
                    word(1)
                )));
            }
        }
    }
}

/// A new replica begins among no keys of its prefix: rows without bookkeeping would never go.
fn refuse_strangers(link: &mut Link, settings: &RedisSettings, names: &Names) -> Result<(), StoreError> {
    let pattern = format!("{}*", literal(&settings.redis.prefix));
    let mut cursor = 0u64;
    loop {
        let (next, keys) = link.scan(&pattern, cursor, 5_000)?;
        // Of a build that has not begun to be written, or of one in the other database.
        let ours = [&names.lease, &names.alive, &names.status, &names.probe];
        if let Some(key) = keys.iter().find(|key| !ours.iter().any(|name| name.as_bytes() == key.as_slice()))
        {
            return Err(foreign(format!(
                "there is key {:?} but no replica; choose another replica.redis.prefix, or delete every key with \
                 this prefix",
                String::from_utf8_lossy(key)
            )));
        }
        if next == 0 {
            return Ok(());
        }
        cursor = next;
    }
}

impl RedisStore {
    /// Makes sure that what is kept in memory is what Redis has. After a lost connection the
    /// bookkeeping is read again, and must be as it was left, or one step further if the last
    /// answer was lost.
    pub(super) fn ready(&mut self) -> Result<(), StoreError> {
        if self.ledger.is_some() && self.link.is_connected() {
            return Ok(());
        }
        self.ledger = None;
        let live = i64::from(self.settings.redis.url.database);
        let mut found = Ledger::read(&mut self.link, &self.names, &self.catalog)?;
        if found.is_none() && self.link.database() != live {
            // The answer to the exchange of databases was lost.
            self.link.select(live);
            found = Ledger::read(&mut self.link, &self.names, &self.catalog)?;
        }
        let Some(ledger) = found else {
            return Err(lost("is gone (flushed, or restarted without persistence)"));
        };
        if ledger.epoch > self.epoch || ledger.epoch == self.epoch && ledger.writer != self.writer {
            return Err(rival());
        }
        let further = u64::from(self.in_flight);
        if ledger.epoch < self.epoch
            || ledger.sequence < self.sequence
            || ledger.sequence > self.sequence + further
        {
            return Err(lost("went back to an older state (restored or failed over)"));
        }
        self.settle(ledger)
    }

    fn settle(&mut self, ledger: Ledger) -> Result<(), StoreError> {
        self.sequence = ledger.sequence;
        self.in_flight = false;
        self.ledger = Some(Ledger {
            replica: self.settings.replica_name.clone(),
            heartbeat_limit_ms: self.settings.heartbeat_limit_ms(),
            ..ledger
        });
        self.show_status()
    }
}
