//! `readside run`: keep the replica until told to stop.

use std::path::Path;

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
    let watched = telemetry::is_watched(&loaded.config.log);
    app::run(&loaded.config, move |progress| async move {
        admin::show_building(&progress, watched).await;
    })
    .map_err(|failure| Exit { code: failure.exit_code, message: failure.reason })?;
    Ok(DONE)
}
