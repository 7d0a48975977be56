//! `readside run`: keep the replica until told to stop.

use std::path::Path;

use tracing::{info, warn};

use super::{DONE, Exit, reload};
use crate::config::{self, Loaded, process_environment};
use crate::pipeline::Failure;
use crate::{admin, app, telemetry};

/// Ends with the exit code of the failure that needs a person, or 0 after a signal.
pub fn run(path: &Path) -> anyhow::Result<u8> {
    // Taken first: what changes while it is read must not go unnoticed.
    let file = reload::Watched::new(path);
    let loaded = config::load(path, process_environment())?;
    let level = telemetry::init(&loaded.config.log)?;
    let ended = app::runtime().and_then(|runtime| runtime.block_on(keep(file, loaded, level)));
    ended.map_err(|failure| Exit { code: failure.exit_code, message: failure.reason })?;
    Ok(DONE)
}

/// Runs with one configuration after the other.
async fn keep(mut file: reload::Watched, loaded: Loaded, level: telemetry::Level) -> Result<(), Failure> {
    let mut signals = app::Signals::new().map_err(|error| Failure::other(format!("signals: {error}")))?;
    let Loaded { mut config, mut warnings } = loaded;
    loop {
        for warning in warnings.drain(..) {
            warn!("{warning}");
        }
        let a_person_watches = telemetry::is_watched(&config.log);
        let (watched, level) = (&mut file, &level);
        let running = config.clone();
        let replaced = app::run(&config, &mut signals, |progress, metrics| async move {
            tokio::select! {
                never = async {
                    admin::show_building(&progress, a_person_watches).await;
                    app::heap::give_back_after_start().await;
                    std::future::pending().await
                } => never,
                replaced = watched.replaced(&running, &metrics, level) => replaced,
            }
        });
        match replaced.await? {
            None => return Ok(()),
            Some(replaced) => {
                info!("starting with the new configuration");
                Loaded { config, warnings } = replaced;
            }
        }
    }
}
