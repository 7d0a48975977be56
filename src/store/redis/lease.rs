//! The lease: who writes a replica, and how long a writer that died keeps others waiting.

use std::sync::LazyLock;
use std::time::Duration;

use redis::Script;

use super::change::Change;
use super::described::LAYOUT;
use super::error::foreign;
use super::names::Spot;
use super::replica::Home;
use super::settings::RedisSettings;
use crate::store::StoreError;

const TEXT: &str = include_str!("open.lua");
static SCRIPT: LazyLock<Script> = LazyLock::new(|| Script::new(TEXT));

/// What `PTTL` says of a key without expiry.
const NEVER: i64 = -1;
const POLL: Duration = Duration::from_millis(100);
/// A server that does not answer does not keep the process from ending.
const GIVE_BACK_MAX: Duration = Duration::from_millis(500);

/// Takes over the generation that is in a spot, and gives the new epoch; `None`: there is none.
/// Waits for the lease of a writer that died, and refuses that of one that lives.
pub(super) fn take(home: &Home, spot: Spot) -> Result<Option<u64>, StoreError> {
    let identity = [("layout", LAYOUT), ("name", &home.settings.replica_name)];
    let names = home.names(spot);
    let mut link = home.link(spot);
    let mut left_before = None;
    loop {
        let answer: Vec<String> = link.script(&SCRIPT, TEXT, |cmd| {
            cmd.arg(2).arg(&names.meta).arg(&names.lease);
            cmd.arg(&home.writer).arg(home.settings.heartbeat_limit_ms());
            for (field, value) in identity {
                cmd.arg(field).arg(value);
            }
        })?;
        let word = |nth: usize| answer.get(nth).map_or("", String::as_str);
        match word(0) {
            "ok" => return Ok(Some(word(1).parse().unwrap_or(0))),
            "none" => return Ok(None),
            "foreign" => return Err(foreign_field(&home.settings, word(1), word(2))),
            "held" => {
                let left: i64 = word(2).parse().unwrap_or(0);
                if left == NEVER {
                    return Err(foreign(format!(
                        "key {:?} names a writer and does not expire: if no other readside writes this replica, \
                         delete it",
                        names.lease
                    )));
                }
                // Time only takes from a lease; a living writer gives to it.
                if left_before.is_some_and(|before| left > before) {
                    return Err(foreign(
                        "another readside writes this replica; stop it or give each its own \
                         replica.redis.prefix"
                            .into(),
                    ));
                }
                left_before = Some(left);
                std::thread::sleep(POLL);
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

fn foreign_field(settings: &RedisSettings, field: &str, found: &str) -> StoreError {
    foreign(match field {
        "name" => format!(
            "it belongs to replica {found:?}, and replica.name is {:?}: correct one of them or choose another \
             replica.redis.prefix",
            settings.replica_name
        ),
        _ => format!(
            "it has layout {found} and this readside knows layout {LAYOUT}: use the version of readside that \
             wrote it, or delete every key with its prefix to build it anew"
        ),
    })
}

/// Makes a generation that of this process; the change is at its database.
pub(super) fn own(home: &Home, change: &mut Change, spot: Spot) {
    let fields = [("writer", home.writer.clone()), ("epoch", home.epoch().to_string())];
    change.set_fields(&home.names(spot).meta, &fields);
    renew(home, change);
}

/// At the database that the change has selected.
pub(super) fn renew(home: &Home, change: &mut Change) {
    let limit = home.settings.heartbeat_limit_ms().to_string();
    change.command(["SET", &home.names(Spot::Live).lease, &home.writer, "PX", &limit]);
}

/// What was not held, or is somebody else's, stays.
pub(super) fn give_back(home: &Home) {
    if home.epoch() == 0 {
        return;
    }
    let names = home.names(Spot::Live);
    for spot in [Spot::Live, Spot::Elsewhere] {
        if spot == Spot::Elsewhere && !home.settings.redis.dedicated {
            continue;
        }
        let mut cmd = redis::cmd("EVAL");
        cmd.arg(
            "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1], KEYS[2]) end",
        )
        .arg(2)
        .arg(&names.lease)
        .arg(&names.alive)
        .arg(&home.writer);
        // Who cannot be told will see the lease expire.
        if home.link(spot).with_timeout(GIVE_BACK_MAX).query::<redis::Value>(&cmd).is_err() {
            return;
        }
    }
}
