//! `readside completions SHELL`.

use clap_complete::Shell;

use super::{DONE, print};

pub fn run(mut command: clap::Command, shell: Shell) -> anyhow::Result<u8> {
    let name = command.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, name, &mut script);
    print(&String::from_utf8_lossy(&script))?;
    Ok(DONE)
}
