//! `schema_registry`: where schemas are fetched.

use crate::config::fields::{Fields, scalar_text};
use crate::config::model::SchemaRegistry;
use crate::config::problem::Report;
use crate::config::scalar::{file, registry_url, text};

use super::replica::{optional, password_file};

pub(super) fn lower(report: &mut Report, fields: &Fields) -> Option<SchemaRegistry> {
    let url = fields.require(report, "url").and_then(|node| {
        let written = scalar_text(report, node)?;
        match registry_url(written) {
            Ok(url) => Some(url),
            Err(wrong) => {
                // What is written may hold a password: its text is in no message.
                report.error(&node.place, wrong.message);
                None
            }
        }
    });
    let username = optional(fields, "username", || fields.value(report, "username", text))?;
    let password_file = optional(fields, "password_file", || password_file(report, fields))?;
    let ca_file = optional(fields, "ca_file", || fields.value(report, "ca_file", file))?;
    let url = url?;
    match (&username, &password_file) {
        (Some(user), None) => {
            report.error(&user.place, "`username` needs `password_file`");
            return None;
        }
        (None, Some(_)) => {
            report.error(&fields.place, "`password_file` needs `username`");
            return None;
        }
        (Some(user), Some(_)) if url.starts_with("http://") => {
            report.warn(&user.place, "the password goes to the registry in clear: its url is not `https`");
        }
        _ => {}
    }
    if let (Some(ca_file), true) = (&ca_file, url.starts_with("http://")) {
        report.warn(&ca_file.place, "`ca_file` has no effect: the registry's url is not `https`");
    }
    Some(SchemaRegistry {
        url,
        username: username.map(|given| given.value),
        password_file,
        ca_file: ca_file.map(|given| given.value),
    })
}
