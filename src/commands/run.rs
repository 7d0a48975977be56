//! `readside run`: keep the replica until told to stop.

use std::path::Path;

use tracing::warn;

use super::{DONE, Exit, reload};
use crate::config::{self, process_environment};
use crate::{admin, app, telemetry};

/// Ends with the exit code of the failure that needs a person, or 0 after a signal.
pub fn run(path: &Path) -> anyhow::Result<u8> {
    // Taken first: what changes while it is read must not go unnoticed.
    let file = reload::Watched::new(path);
    let loaded = config::load(path, process_environment())?;
    telemetry::init(&loaded.config.log)?;
    for warning in &loaded.warnings {
        warn!("{warning}");
    }
    let watched = telemetry::is_watched(&loaded.config.log);
    app::run(&loaded.config, move |progress, metrics| async move {
        tokio::join!(admin::show_building(&progress, watched), file.watch(&metrics));
    })
    .map_err(|failure| Exit { code: failure.exit_code, message: failure.reason })?;
    Ok(DONE)
}
