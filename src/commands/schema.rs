//! `readside schema`: the JSON Schema of the configuration, for editors.

use std::io::Write;

use crate::config::schema::json_schema;

/// Prints the schema to stdout and gives the exit code.
pub fn run() -> anyhow::Result<u8> {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{:#}", json_schema())?;
    stdout.flush()?;
    Ok(0)
}
