//! Parse, do it, print the error once, exit.

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;

use readside::cli::Cli;
use readside::commands;

fn main() -> ExitCode {
    bound_heap();
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

/// glibc gives each thread a heap of its own, which grows resident memory by what each keeps back.
/// Two are enough for one thread that allocates and one that frees. Without a fixed threshold it also
/// learns to keep the large buffers that fetches arrive in.
fn bound_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: called before any other thread exists; a refusal changes nothing.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 2);
        libc::mallopt(libc::M_MMAP_THRESHOLD, 128 << 10);
    }
}
