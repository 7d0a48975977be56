//! Parse, do it, print the error once, exit.

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;

use readside::app::heap;
use readside::cli::Cli;
use readside::commands;

fn main() -> ExitCode {
    heap::bound();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version come this way, too.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { commands::USAGE } else { commands::DONE });
        }
    };
    let code = cli.dispatch().unwrap_or_else(|error| {
        let code = commands::exit_code(&error);
        if code != commands::DONE {
            // Not `eprintln!`, which panics when nobody listens to stderr.
            let _ = writeln!(std::io::stderr(), "readside: {error:#}");
        }
        code
    });
    ExitCode::from(code)
}
