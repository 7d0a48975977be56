//! `readside man`.

use std::path::Path;

use anyhow::Context;
use clap_mangen::Man;

use super::{DONE, print};

/// The page of the program on stdout, or one page a command in `dir`.
pub fn run(command: clap::Command, dir: Option<&Path>) -> anyhow::Result<u8> {
    // A page for `help` would repeat all the others.
    let mut command = command.disable_help_subcommand(true);
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

#[cfg(test)]
mod tests {
    use clap::{Arg, Command};

    use super::*;

    #[test]
    fn every_command_has_a_page() {
        let dir = tempfile::tempdir().unwrap();
        let pages = dir.path().join("man1");
        let command =
            Command::new("readside").subcommand(Command::new("run").arg(Arg::new("config").help("a file")));
        assert_eq!(run(command, Some(&pages)).unwrap(), DONE);
        let mut names: Vec<_> = std::fs::read_dir(&pages)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["readside-run.1", "readside.1"]);
        assert!(std::fs::read_to_string(pages.join("readside-run.1")).unwrap().contains("a file"));
    }
}
