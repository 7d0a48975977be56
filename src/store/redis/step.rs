//! One atomic step: what `apply.lua` is given, and what it says.

use std::collections::{BTreeMap, HashSet};
use std::sync::LazyLock;

use redis::{Cmd, Script};

use super::codec::{self, Form};
use super::error::{damaged, foreign, lost, rival, stop_io};
use super::ledger::Ledger;
use super::link::Link;
use super::names::Names;
use super::settings::{RedisSettings, RowEncoding};
use crate::domain::catalog::Catalog;
use crate::store::StoreError;

const TEXT: &str = include_str!("apply.lua");
static SCRIPT: LazyLock<Script> = LazyLock::new(|| Script::new(TEXT));

/// Words a command is given at most: Lua's stack ends at 8,000.
pub(super) const WORDS_MAX: usize = 4_000;

#[derive(Debug, Default)]
pub(super) struct Step {
    /// Field of [`Names::positions`], what it must hold ('': nothing), what it will (''; the same).
    pub positions: Vec<(String, String, String)>,
    /// Keys that the commands touch, with the only type that they may have. Rows are not among
    /// them: looking at how they begin tells it.
    types: BTreeMap<Vec<u8>, &'static str>,
    /// Rows that were read, with how they began ('': not there).
    pub expected: Vec<(Vec<u8>, Vec<u8>)>,
    pub whole: Vec<WholeRows>,
    pub commands: Vec<Vec<Vec<u8>>>,
    /// Set by the step that ends a batch.
    pub batch: Option<u64>,
    /// `Some(true)`: the copy follows the log at this moment, `Some(false)`: it does not.
    pub alive: Option<bool>,
}

/// What a step is taken in.
pub(super) struct Replica<'r> {
    pub names: &'r Names,
    pub catalog: &'r Catalog,
    pub settings: &'r RedisSettings,
    pub form: Form,
    /// As it will be, apart from rows that the script inserts, with the sequence as it is.
    pub ledger: &'r Ledger,
}

/// Whole rows of one table, which the script guards by itself.
#[derive(Debug)]
pub(super) struct WholeRows {
    pub table: usize,
    pub rows: Vec<WholeRow>,
}

#[derive(Debug)]
pub(super) struct WholeRow {
    /// Index of the batch's entry.
    pub entry: usize,
    pub key: Vec<u8>,
    /// See [`codec::body`].
    pub body: Vec<u8>,
}

/// What became of the whole rows, in order.
#[derive(Debug)]
pub(super) enum Answer {
    Done(Vec<u8>),
    /// Nothing was changed: those with `j` have to be joined in full.
    Join(Vec<u8>),
}

impl Step {
    pub fn command<const N: usize>(&mut self, words: [&[u8]; N]) {
        self.commands.push(words.iter().map(|word| word.to_vec()).collect());
    }

    pub fn typed(&mut self, key: &[u8], wanted: &'static str) {
        if !self.types.contains_key(key) {
            self.types.insert(key.to_vec(), wanted);
        }
    }

    pub fn set_fields(&mut self, key: &str, fields: Vec<(String, String)>) {
        for fields in fields.chunks(WORDS_MAX / 2) {
            let mut words = vec![b"HSET".to_vec(), key.as_bytes().to_vec()];
            for (name, value) in fields {
                words.extend([name.as_bytes().to_vec(), value.as_bytes().to_vec()]);
            }
            self.commands.push(words);
        }
    }

    pub fn run(&self, link: &mut Link, of: Replica<'_>) -> Result<Answer, StoreError> {
        let Replica { names, catalog, settings, form, ledger } = of;
        let limit = settings.heartbeat_limit_ms();
        let arguments = |cmd: &mut Cmd| {
            cmd.arg(5).arg(&names.meta).arg(&names.status).arg(&names.positions);
            cmd.arg(&names.lease).arg(&names.alive);
            cmd.arg(&ledger.writer).arg(ledger.epoch).arg(ledger.sequence);
            cmd.arg(self.batch.map_or(String::new(), |id| id.to_string())).arg(limit);
            match self.alive {
                None => cmd.arg(""),
                Some(true) => cmd.arg(limit),
                Some(false) => cmd.arg(0),
            };
            cmd.arg(form.name());
            cmd.arg(self.positions.len());
            for (name, from, to) in &self.positions {
                cmd.arg(name).arg(from).arg(to);
            }
            cmd.arg(self.types.len());
            for (key, wanted) in &self.types {
                cmd.arg(key).arg(*wanted);
            }
            cmd.arg(self.expected.len());
            for (key, beginning) in &self.expected {
                cmd.arg(key).arg(beginning);
            }
            cmd.arg(self.whole.len());
            for group in &self.whole {
                let shape = &catalog.tables[group.table];
                cmd.arg(format!("{}.rows", shape.name)).arg(ledger.tables[group.table].rows);
                cmd.arg(group.rows.len());
                for whole in &group.rows {
                    cmd.arg(&whole.key).arg(&whole.body);
                }
            }
            cmd.arg(self.commands.len());
            // Rights are given by prefix: one command of each kind and prefix stands for all.
            let mut samples = HashSet::new();
            for words in &self.commands {
                let sample = samples.insert((words.first(), group(names, words.get(1))));
                cmd.arg(words.len()).arg(u8::from(sample));
                for word in words {
                    cmd.arg(word);
                }
            }
        };
        let answer: Vec<Vec<u8>> = link.script(&SCRIPT, TEXT, arguments)?;
        let mut answer = answer.into_iter();
        let what = answer.next().unwrap_or_default();
        let first = answer.next().unwrap_or_default();
        let shown = String::from_utf8_lossy(&first).into_owned();
        match what.as_slice() {
            b"ok" => Ok(Answer::Done(first)),
            b"join" => Ok(Answer::Join(first)),
            b"gone" => Err(lost("is gone (flushed, or restarted without persistence)")),
            b"epoch" if shown.parse().unwrap_or(0) < ledger.epoch => {
                Err(lost("went back to an older state (restored or failed over)"))
            }
            b"epoch" => Err(rival()),
            b"sequence" | b"position" => {
                Err(lost("is not as it was left (restored, failed over, or changed by somebody else)"))
            }
            b"type" => Err(foreign(format!(
                "key {shown:?} holds something that readside did not put there; nothing was changed: delete the \
                 key, or choose another replica.redis.prefix"
            ))),
            b"denied" => Err(stop_io(format!(
                "the user may not {shown}; nothing was changed: give it the rights of the writer's ACL line"
            ))),
            b"row" => Err(damaged("a row", &shown)),
            _ => Err(damaged("the answer of a script", &String::from_utf8_lossy(&what))),
        }
    }
}

/// A key up to the table or index in it.
fn group<'k>(names: &Names, key: Option<&'k Vec<u8>>) -> &'k [u8] {
    let key = key.map_or(&[][..], Vec::as_slice);
    let end = key.iter().skip(names.prefix.len()).position(|byte| *byte == b':');
    &key[..end.map_or(key.len(), |end| names.prefix.len() + end)]
}

/// The beginning of a stored row, as the script compares it.
pub(super) fn beginning(encoding: RowEncoding, header: &[u8]) -> Vec<u8> {
    match encoding {
        RowEncoding::Hash => header.to_vec(),
        RowEncoding::Json => codec::json_head(header).into_bytes(),
    }
}
