//! Notices that the configuration file has changed, and says what comes of it.
//!
//! The log's level is taken at once. Nearly everything else belongs to the mapping or to places that are
//! open: it takes effect at a start, the next one or one made for it, as declared. What must not happen
//! is that a file that cannot be started with is found out at the next restart, months later.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tracing::{info, warn};

use crate::config::{self, Config, Loaded, OnConfigChange, process_environment};
use crate::domain::digest::Digest;
use crate::metrics::Metrics;
use crate::telemetry;

/// Between two looks. By content, not by time or inode: a ConfigMap is exchanged by a symbolic link two
/// levels up, an editor renames, and both may leave the time as it was.
const EVERY: Duration = Duration::from_secs(2);
/// As much of the file as is compared; a longer one is refused anyway.
const LENGTH_MAX: u64 = 8 << 20;

/// A file and what it held when it was last looked at.
#[derive(Debug)]
pub struct Watched {
    path: PathBuf,
    /// `None`: it could not be read.
    last: Option<u128>,
}

impl Watched {
    pub fn new(path: &Path) -> Watched {
        Watched { path: path.to_owned(), last: content(path) }
    }

    /// Reports every change once. Ends with a configuration that is to replace the running one.
    pub async fn replaced(
        &mut self,
        running: &Config,
        metrics: &Metrics,
        level: &telemetry::Level,
    ) -> Loaded {
        let mut level_now = running.log.level.clone();
        loop {
            tokio::time::sleep(EVERY).await;
            let (path, last) = (self.path.clone(), self.last);
            let looked = tokio::task::spawn_blocking(move || {
                let now = content(&path);
                (now, (now != last).then(|| config::load(&path, process_environment())))
            });
            let Ok((now, read)) = looked.await else { continue };
            self.last = now;
            match read {
                None => {}
                Some(Err(problems)) => {
                    metrics.config_read(false);
                    for problem in &problems.problems {
                        warn!(%problem, "the configuration file has changed and is refused; the running one stays");
                    }
                }
                Some(Ok(loaded)) => {
                    metrics.config_read(true);
                    let log = &loaded.config.log;
                    if log.level != level_now && level.set(&log.level).is_ok() {
                        level_now.clone_from(&log.level);
                        info!(log_level = level_now, "the level of the log has changed");
                    }
                    if takes_over(running, &loaded.config) {
                        return loaded;
                    }
                }
            }
        }
    }
}

/// Whether a start is to be made with the new configuration now; says what it changes.
fn takes_over(running: &Config, new: &Config) -> bool {
    let mut same_log = new.clone();
    same_log.log = running.log.clone();
    let sections = running.differences(&same_log).join(", ");
    if new.log.format != running.log.format {
        info!("the format of the log has changed; it takes effect when the process is started again");
    } else if sections.is_empty() {
        info!("the configuration file has changed; nothing in it needs a start");
    }
    match new.on_config_change {
        _ if sections.is_empty() => false,
        OnConfigChange::Wait => {
            info!(
                sections,
                "the configuration file has changed and is valid; it takes effect at the next start"
            );
            false
        }
        OnConfigChange::Restart => {
            info!(
                sections,
                "the configuration file has changed and is valid; committing what is complete to start with it"
            );
            true
        }
    }
}

fn content(path: &Path) -> Option<u128> {
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(LENGTH_MAX).read_to_end(&mut bytes).ok()?;
    Some(Digest::new().with(&bytes).value())
}
