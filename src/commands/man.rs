//! `readside man`.

use std::path::Path;

use anyhow::Context;
use clap_mangen::Man;

use super::{DONE, print};

/// The page of the program on stdout, or one page a command in `dir`.
pub fn run(mut command: clap::Command, dir: Option<&Path>) -> anyhow::Result<u8> {
    // Pages of subcommands are named for the whole command: readside-status.1.
    command.build();
    if let Some(dir) = dir {
        let failed = || format!("cannot write manual pages to {}", dir.display());
        std::fs::create_dir_all(dir).with_context(failed)?;
        clap_mangen::generate_to(command, dir).with_context(failed)?;
        return Ok(DONE);
    }
    let mut page = Vec::new();
    Man::new(command).render(&mut page)?;
    print(&String::from_utf8_lossy(&page))?;
    Ok(DONE)
}
