//! `replica`: its name, and where it is.

use std::path::PathBuf;

use crate::config::fields::{Fields, scalar_text};
use crate::config::model::{RebuildPolicy, Redis, Replica, Sqlite, Target};
use crate::config::problem::Report;
use crate::config::scalar::{boolean, file, key_prefix, redis_url, text, word};

use super::required_section;

/// With the default policy for rebuilds, which is given outside this section.
pub(super) fn lower(report: &mut Report, fields: &Fields) -> Option<Replica> {
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
    Some(Replica { name: name?.value, target: target?, rebuild_when_mapping_changes: RebuildPolicy::Auto })
}

fn lower_sqlite(report: &mut Report, fields: &Fields) -> Option<Sqlite> {
    Some(Sqlite { path: fields.value(report, "path", file)?.value })
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
