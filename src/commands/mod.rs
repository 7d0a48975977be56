//! Subcommands, one file each. A command returns the exit code, or an error that
//! [`exit_code`] turns into one.

pub mod check;
pub mod client;
pub mod completions;
pub mod dead_letters;
pub mod demo;
pub mod explain;
pub mod health;
pub mod man;
pub mod rebuild;
mod reload;
pub mod run;
pub mod sample;
pub mod schema;
pub mod status;
pub mod test;
pub mod validate;
pub mod wait;

use std::io::{self, Write};

use anyhow::Context;

use crate::config::ConfigErrors;
use crate::store::{StopCode, StoreError};
use crate::telemetry::TelemetryError;

/// Exit codes (contracts, section 6).
pub const DONE: u8 = 0;
pub const FAILED: u8 = 1;
pub const USAGE: u8 = 64;
pub const UNAVAILABLE: u8 = 69;
pub const IO: u8 = 74;
pub const FOREIGN: u8 = 78;

/// An error that knows its exit code.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Exit {
    pub code: u8,
    pub message: String,
}

impl Exit {
    pub fn usage(message: impl Into<String>) -> Exit {
        Exit { code: USAGE, message: message.into() }
    }

    pub fn unavailable(message: impl Into<String>) -> Exit {
        Exit { code: UNAVAILABLE, message: message.into() }
    }
}

/// The exit code of the first cause that has one.
pub fn exit_code(error: &anyhow::Error) -> u8 {
    if let Some(exit) = error.downcast_ref::<Exit>() {
        return exit.code;
    }
    for cause in error.chain() {
        if let Some(exit) = cause.downcast_ref::<Exit>() {
            return exit.code;
        }
        if let Some(error) = cause.downcast_ref::<StoreError>() {
            return match error {
                StoreError::Stop { exit: StopCode::Foreign | StopCode::Lost | StopCode::Retired, .. } => {
                    FOREIGN
                }
                StoreError::Stop { exit: StopCode::Io, .. } | StoreError::Retry { .. } => IO,
            };
        }
        if cause.is::<ConfigErrors>() || cause.is::<TelemetryError>() {
            return USAGE;
        }
        if let Some(error) = cause.downcast_ref::<io::Error>() {
            // Whoever reads stdout has seen enough, as `head` does: then we are done.
            return if error.kind() == io::ErrorKind::BrokenPipe { DONE } else { IO };
        }
    }
    FAILED
}

/// Writes a result to stdout.
pub fn print(text: &str) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).context("cannot write to stdout")
}

/// Text from elsewhere, for a terminal: control characters could move the cursor or worse.
fn printable(text: &str) -> String {
    text.chars().map(|char| if char.is_control() { '\u{fffd}' } else { char }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::retry::RetryReason;

    #[test]
    fn the_first_cause_that_knows_decides_the_exit_code() {
        let stop = |exit| StoreError::Stop { exit, message: "no".to_owned() };
        let retry = StoreError::Retry { reason: RetryReason::DiskFull, message: "full".to_owned() };
        for (error, code) in [
            (anyhow::Error::new(Exit::usage("no")), USAGE),
            (anyhow::Error::new(Exit::unavailable("no")).context("while asking"), UNAVAILABLE),
            (anyhow::Error::new(io::Error::other("no")).context(Exit::unavailable("no")), UNAVAILABLE),
            (anyhow::Error::new(stop(StopCode::Foreign)).context("while opening"), FOREIGN),
            (anyhow::Error::new(stop(StopCode::Io)), IO),
            (anyhow::Error::new(retry), IO),
            (anyhow::Error::new(crate::telemetry::filter("loud").unwrap_err()), USAGE),
            (Err::<(), _>(io::Error::other("no")).context("while writing").unwrap_err(), IO),
            (anyhow::Error::new(io::Error::from(io::ErrorKind::BrokenPipe)), DONE),
            (anyhow::anyhow!("something else"), FAILED),
        ] {
            assert_eq!(exit_code(&error), code, "{error:#}");
        }
    }

    #[test]
    fn control_characters_do_not_reach_a_terminal() {
        assert_eq!(printable("a\u{1b}[2Jb\nc"), "a\u{fffd}[2Jb\u{fffd}c");
    }
}
