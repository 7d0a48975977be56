//! `readside run`: keep the replica until told to stop.

use std::io::IsTerminal;
use std::path::Path;
use std::sync::Arc;

use tracing::warn;

use super::{DONE, Exit};
use crate::config::{self, process_environment};
use crate::{admin, app, telemetry};

/// Ends with the exit code of the failure that needs a person, or 0 after a signal.
pub fn run(path: &Path) -> anyhow::Result<u8> {
    let loaded = config::load(path, process_environment())?;
    telemetry::init(&loaded.config.log)?;
    for warning in &loaded.warnings {
        warn!("{warning}");
    }
    let terminal = std::io::stderr().is_terminal();
    app::run(&loaded.config, move |progress| async move {
        admin::show_building(&Arc::clone(&progress), terminal).await;
    })
    .map_err(|failure| Exit { code: failure.exit_code, message: failure.reason })?;
    Ok(DONE)
}
