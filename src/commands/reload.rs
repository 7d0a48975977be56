//! Notices that the configuration file has changed, and says whether a daemon could start with it.
//!
//! A change takes effect at the next start: nearly everything in the file belongs to the mapping or to
//! places that are open. What must not happen is that a file that cannot be started with is found out
//! at the next restart, months later.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tracing::{info, warn};

use crate::config::{self, process_environment};
use crate::domain::digest::Digest;
use crate::metrics::Metrics;

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
    running: Option<u128>,
}

impl Watched {
    pub fn new(path: &Path) -> Watched {
        Watched { path: path.to_owned(), running: content(path) }
    }

    /// Never ends; reports every change once.
    pub async fn watch(self, metrics: &Metrics) {
        let mut last = self.running;
        loop {
            tokio::time::sleep(EVERY).await;
            let path = self.path.clone();
            let looked = tokio::task::spawn_blocking(move || {
                let now = content(&path);
                (now, (now != last).then(|| config::load(&path, process_environment())))
            });
            let Ok((now, read)) = looked.await else { return };
            last = now;
            match read {
                None => {}
                Some(Err(problems)) => {
                    metrics.config_read(false);
                    for problem in &problems.problems {
                        warn!(%problem, "the configuration file has changed and is refused; the running one stays");
                    }
                }
                Some(Ok(_)) => {
                    metrics.config_read(true);
                    if now == self.running {
                        info!("the configuration file is again the one that is running");
                    } else {
                        info!(
                            "the configuration file has changed and is valid; it takes effect at the next start"
                        );
                    }
                }
            }
        }
    }
}

fn content(path: &Path) -> Option<u128> {
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(LENGTH_MAX).read_to_end(&mut bytes).ok()?;
    Some(Digest::new().with(&bytes).value())
}
