//! `replica`: its name, and where it is.

use std::path::PathBuf;

use crate::config::fields::{Fields, scalar_text};
use crate::config::model::{Rebuild, RebuildPolicy, Redis, Replica, Sqlite, Target};
use crate::config::problem::Report;
use crate::config::scalar::{boolean, count, file, key_prefix, percent, redis_url, size, text, word};

use super::{required_section, within};

/// Several of the largest batches: what is written without any reader must fit.
const MAX_WAL_MIN: u64 = 64 << 20;

/// What is said of rebuilds is given outside this section.
pub(super) struct Rebuilds {
    pub policy: RebuildPolicy,
    pub limits: Rebuild,
}

pub(super) fn lower_rebuild(report: &mut Report, fields: &Fields) -> Option<Rebuild> {
    let max_loss = fields.value(report, "max_loss", percent);
    let min_rows = fields.value(report, "min_rows", count);
    let min_free = fields.value(report, "min_free", size);
    Some(Rebuild { max_loss: max_loss?.value, min_rows: min_rows?.value, min_free_bytes: min_free?.value })
}

pub(super) fn finish((name, target): (String, Target), rebuilds: Rebuilds) -> Replica {
    let Rebuilds { policy, limits } = rebuilds;
    Replica { name, target, rebuild_when_mapping_changes: policy, rebuild: limits }
}

/// Name and place.
pub(super) fn lower(report: &mut Report, fields: &Fields) -> Option<(String, Target)> {
    let name = fields.value(report, "name", text);
    let target = match (fields.get("sqlite"), fields.get("redis")) {
        (Some(_), None) => required_section(report, fields, "sqlite")
            .and_then(|fields| lower_sqlite(report, &fields))
            .map(Target::Sqlite),
        (None, Some(_)) => required_section(report, fields, "redis")
            .and_then(|fields| lower_redis(report, &fields))
            .map(Target::Redis),
        (Some(_), Some(redis)) => {
            let message =
                "a replica is either in SQLite or in Redis: remove `sqlite` or `redis` from `replica`";
            report.error(&redis.place, message);
            // What is wrong inside is worth knowing all the same.
            let sqlite = required_section(report, fields, "sqlite");
            sqlite.and_then(|fields| lower_sqlite(report, &fields));
            let redis = required_section(report, fields, "redis");
            redis.and_then(|fields| lower_redis(report, &fields));
            None
        }
        (None, None) => {
            report.error(&fields.place, "`sqlite` or `redis` is missing in `replica`");
            None
        }
    };
    Some((name?.value, target?))
}

fn lower_sqlite(report: &mut Report, fields: &Fields) -> Option<Sqlite> {
    let path = fields.value(report, "path", file);
    let max_wal = fields.value(report, "max_wal", size).and_then(|given| {
        within(report, given, MAX_WAL_MIN..=u64::MAX, "`max_wal` cannot be less than 64MiB")
    });
    Some(Sqlite { path: path?.value, max_wal_bytes: max_wal? })
}

fn lower_redis(report: &mut Report, fields: &Fields) -> Option<Redis> {
    let url = fields.require(report, "url").and_then(|node| {
        let written = scalar_text(report, node)?;
        match redis_url(written) {
            Ok(url) => Some(url),
            Err(wrong) => {
                // What is written may hold a password: its text is in no message.
                report.error(&node.place, wrong.message);
                None
            }
        }
    });
    let username = optional(fields, "username", || fields.value(report, "username", text));
    let password_file = optional(fields, "password_file", || password_file(report, fields));
    let ca_file = optional(fields, "ca_file", || fields.value(report, "ca_file", file));
    let prefix = match fields.get("prefix") {
        // `prefix: ""` says that there is none.
        Some(node) if !node.is_null() && scalar_text(&mut Report::default(), node) == Some("") => {
            Some(String::new())
        }
        Some(_) => fields.value(report, "prefix", key_prefix).map(|given| given.value),
        None => Some(String::new()),
    };
    let dedicated = fields.value(report, "dedicated", boolean);
    let encoding = fields.value(report, "encoding", word);
    Some(Redis {
        url: url?,
        username: username?.map(|given| given.value),
        password_file: password_file?,
        ca_file: ca_file?.map(|given| given.value),
        prefix: prefix?,
        dedicated: dedicated?.value,
        encoding: encoding?.value,
    })
}

/// `Some(None)` for what is not written.
pub(super) fn optional<T>(
    fields: &Fields,
    name: &str,
    read: impl FnOnce() -> Option<T>,
) -> Option<Option<T>> {
    match fields.get(name) {
        Some(_) => read().map(Some),
        None => Some(None),
    }
}

/// What is written here may be the password itself, by mistake: its text is in no message.
pub(super) fn password_file(report: &mut Report, fields: &Fields) -> Option<PathBuf> {
    let node = fields.get("password_file")?;
    let written = scalar_text(report, node)?;
    match file(written) {
        Ok(path) => {
            if !written.contains('/') {
                let message =
                    "`password_file` takes the path of a file that holds the password, not the password";
                report.warn(&node.place, message);
            }
            Some(path)
        }
        Err(wrong) => {
            report.error(&node.place, wrong.message);
            None
        }
    }
}
