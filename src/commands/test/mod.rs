//! `readside test`: does the mapping make of these events what somebody expects, however often and in
//! whatever order of the partitions they come? Needs no network and no replica.

mod compare;
mod deliveries;
mod judge;
mod report;

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::Context;

use super::{DONE, Exit, FAILED, USAGE, print};
use crate::config::ConfigErrors;
use crate::config::fixture;
pub use compare::shown;
pub use judge::registry;
use judge::{Verdict, judge};

/// Deeper folders are left alone: links may go round.
const DEPTH_MAX: usize = 16;

#[derive(Debug, Clone, Default)]
pub struct Options {
    pub json: bool,
    pub junit: Option<PathBuf>,
}

/// What became of one file.
#[derive(Debug)]
pub struct Tested {
    pub file: String,
    /// `Err`: it is no file of fixtures.
    pub cases: Result<Vec<Verdict>, ConfigErrors>,
}

impl Tested {
    fn failed(&self) -> usize {
        self.cases.iter().flatten().filter(|verdict| !verdict.passed()).count()
    }
}

/// Prints what was found. 0: all cases pass; 1: some do not; 64: a file is wrong, or there are none.
pub fn run(paths: &[PathBuf], options: &Options) -> anyhow::Result<u8> {
    let files = files(paths)?;
    if files.is_empty() {
        let places: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
        return Err(Exit::usage(format!("there are no fixtures (*.yaml) in {}", places.join(", "))).into());
    }
    let tested: Vec<Tested> = files.iter().map(|file| test_file(file)).collect();
    if let Some(junit) = &options.junit {
        fs::write(junit, report::junit(&tested)).with_context(|| junit.display().to_string())?;
    }
    print(&if options.json { format!("{:#}\n", report::json(&tested)) } else { report::text(&tested) })?;
    Ok(code(&tested))
}

fn code(tested: &[Tested]) -> u8 {
    if tested.iter().any(|tested| tested.cases.is_err()) {
        USAGE
    } else if tested.iter().any(|tested| tested.failed() > 0) {
        FAILED
    } else {
        DONE
    }
}

pub fn test_file(file: &Path) -> Tested {
    let cases = fixture::load(file).map(|cases| cases.iter().map(judge).collect());
    Tested { file: file.display().to_string(), cases }
}

/// Files that were named, and those in folders, each once and in order.
fn files(paths: &[PathBuf]) -> anyhow::Result<BTreeSet<PathBuf>> {
    let mut found = BTreeSet::new();
    for path in paths {
        let about = || Exit { code: USAGE, message: format!("{}: cannot be read", path.display()) };
        if fs::metadata(path).with_context(about)?.is_dir() {
            walk(path, 0, &mut found).with_context(about)?;
        } else {
            found.insert(path.clone());
        }
    }
    Ok(found)
}

fn walk(folder: &Path, depth: usize, found: &mut BTreeSet<PathBuf>) -> io::Result<()> {
    if depth == DEPTH_MAX {
        return Ok(());
    }
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let is_yaml = path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml");
        if path.is_dir() {
            walk(&path, depth + 1, found)?;
        } else if is_yaml && !is_configuration(&path) {
            found.insert(path);
        }
    }
    Ok(())
}

/// A configuration may lie among the fixtures that name it.
fn is_configuration(path: &Path) -> bool {
    let Ok(text) = fs::read_to_string(path) else { return false };
    let has = |key: &str| text.lines().any(|line| line.starts_with(key));
    has("tables:") && !has("cases:")
}

#[cfg(test)]
mod tests;
