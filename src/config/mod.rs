//! Configuration: YAML and environment in, a checked [`Config`] out.
//!
//! [`Config`] holds no default that was not made visible in `sections`, no secret (only the files
//! they come from), and nothing that was not checked. Errors carry file, line, column, the
//! offending text and the nearest valid name, all of them at once.
//!
//! text → `tree` (located YAML) → `environment` (variables laid over it) → `lower` (the checked
//! model); `sections` describes the file once for all of them and for the JSON [`schema`].

mod environment;
mod expression;
mod fields;
pub mod fixture;
pub mod lift;
mod lower;
mod model;
mod problem;
mod properties;
mod scalar;
pub mod schema;
mod sections;
mod tree;
mod words;

use std::fs::File;
use std::io::Read;
use std::path;
use std::sync::Arc;

pub use environment::process_environment;
pub use model::*;
pub use problem::{ConfigErrors, Place, Problem};
pub use words::Word;

use problem::Report;

/// Larger files are refused.
const FILE_MAX: u64 = 4 << 20;

/// A configuration without errors.
#[derive(Debug, Clone)]
pub struct Loaded {
    pub config: Config,
    pub warnings: Vec<Problem>,
}

/// Reads and checks a file, with `env` (see [`process_environment`]) laid over it. Nothing else is
/// opened: neither secrets nor the replica.
pub fn load(path: &path::Path, env: impl Iterator<Item = (String, String)>) -> Result<Loaded, ConfigErrors> {
    let name = path.display().to_string();
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(FILE_MAX + 1).read_to_end(&mut bytes));
    if let Err(error) = read {
        let message = format!("the configuration cannot be read: {error}");
        let problem = Problem::new(&Place::File(name.into()), message);
        return Err(ConfigErrors { problems: vec![problem], warnings: Vec::new() });
    }
    parse_bytes(&bytes, &name, env)
}

/// Checks a configuration; `file_name` is what its problems are said to be in.
pub fn parse(
    text: &str,
    file_name: &str,
    env: impl Iterator<Item = (String, String)>,
) -> Result<Loaded, ConfigErrors> {
    parse_bytes(text.as_bytes(), file_name, env)
}

fn parse_bytes(
    bytes: &[u8],
    file_name: &str,
    env: impl Iterator<Item = (String, String)>,
) -> Result<Loaded, ConfigErrors> {
    let file: Arc<str> = file_name.into();
    let mut report = Report::default();
    let config = match text_of(bytes) {
        Err((place, message)) => {
            let (line, column) = place;
            report.error(&Place::Position { file, line, column }, message);
            None
        }
        Ok(text) => tree::read(text, &file, &mut report).and_then(|mut root| {
            environment::overlay(&mut root, env, &mut report);
            lower::lower(&mut report, &root)
        }),
    };
    let (config, warnings) = report.finish(config)?;
    Ok(Loaded { config, warnings })
}

/// The text of a file, or the line and column at which it is no text.
fn text_of(bytes: &[u8]) -> Result<&str, ((usize, usize), String)> {
    if bytes.len() as u64 > FILE_MAX {
        return Err(((1, 1), format!("the file is larger than {} MiB", FILE_MAX >> 20)));
    }
    std::str::from_utf8(bytes).map_err(|error| {
        let before = bytes.get(..error.valid_up_to()).unwrap_or_default();
        let before = String::from_utf8_lossy(before);
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        ((line, column), "the file is not UTF-8 text".to_owned())
    })
}

#[cfg(test)]
mod tests;
