//! One atomic step: what `apply.lua` is given, and what it says.

use std::collections::{BTreeMap, HashSet};
use std::sync::LazyLock;

use redis::Script;

use super::codec::{self, Form};
use super::described::Role;
use super::error::{damaged, foreign, lost, rival, stop_io};
use super::ledger::Ledger;
use super::link::Link;
use super::names::{Names, TableNames};
use super::settings::{RedisSettings, RowEncoding};
use super::words::{Command, Words};
use crate::domain::catalog::{Catalog, Table};
use crate::domain::row::RowState;
use crate::domain::version::Version;
use crate::store::StoreError;

const TEXT: &str = include_str!("apply.lua");
static SCRIPT: LazyLock<Script> = LazyLock::new(|| Script::new(TEXT));

/// Words a command is given at most: Lua's stack ends at 8,000.
pub(super) const WORDS_MAX: usize = 4_000;

#[derive(Debug, Default)]
pub(super) struct Step<'a> {
    /// Field of [`Names::positions`], what it must hold ('': nothing), what it will (''; the same).
    pub positions: Vec<(String, String, String)>,
    /// Keys that the commands touch, with the only type that they may have. Rows are not among
    /// them: looking at how they begin tells it.
    types: BTreeMap<Vec<u8>, &'static str>,
    /// Rows that were read, with how they began ('': not there).
    pub expected: Vec<(Vec<u8>, Vec<u8>)>,
    pub whole: Vec<WholeRows<'a>>,
    pub commands: Vec<Vec<Vec<u8>>>,
    /// Index entries by the key of their set: what leaves and comes in one command each.
    index: BTreeMap<Vec<u8>, Entries>,
    /// The same of [`TableNames::keys`], which are sorted.
    listed: BTreeMap<Vec<u8>, Entries>,
    /// The sequence behind it, if that is not the next one.
    pub leaves: Option<u64>,
    /// Set by the step that ends a batch.
    pub batch: Option<u64>,
    /// `Some(true)`: the copy follows the log at this moment, `Some(false)`: it does not.
    pub alive: Option<bool>,
    /// What is said of the live generation by the one that is built beside it.
    pub carried: Option<Carried>,
}

/// The heartbeat of a generation that nobody writes any more. See [`Role::Next`].
#[derive(Debug)]
pub(super) struct Carried {
    pub meta: String,
    pub generation: u32,
    /// Its database and that of the connection, where they differ.
    pub databases: Option<(i64, i64)>,
    pub status: String,
    pub alive: String,
    pub fields: Vec<(String, String)>,
}

/// Members that leave and come to a set.
#[derive(Debug, Default)]
pub(super) struct Entries {
    pub left: Vec<Vec<u8>>,
    pub came: Vec<Vec<u8>>,
}

/// A command that moves members of a set.
struct Moves<'s> {
    verb: &'static [u8],
    key: &'s [u8],
    members: &'s [Vec<u8>],
    /// Each member comes behind a score.
    scored: bool,
}

impl Moves<'_> {
    fn words(&self) -> usize {
        2 + self.members.len() * if self.scored { 2 } else { 1 }
    }
}

/// What a step is taken in.
#[derive(Clone, Copy)]
pub(super) struct Replica<'r> {
    pub names: &'r Names,
    pub tables: &'r [TableNames],
    pub catalog: &'r Catalog,
    pub settings: &'r RedisSettings,
    pub form: Form,
    pub role: Role,
    /// As it will be, apart from rows that the scripts insert, with the sequence as it is.
    pub ledger: &'r Ledger,
}

/// Whole rows of one table, which the script guards by itself.
#[derive(Debug)]
pub(super) struct WholeRows<'a> {
    pub table: usize,
    pub rows: Vec<WholeRow<'a>>,
    /// What the commands of the step do to the number of its rows.
    pub joined: i64,
}

#[derive(Debug)]
pub(super) struct WholeRow<'a> {
    /// Index of the batch's entry.
    pub entry: usize,
    /// The text of the key.
    pub key: Vec<u8>,
    pub row: &'a RowState,
    pub version: Version,
    /// What [`tell_row`] has made of it before, if it has.
    pub words: Option<&'a [u8]>,
}

/// Words of one row in a step: its key and its content.
const ROW_WORDS: usize = 2;

/// Tells a row that is written as a whole. What `scratch` holds is lost.
pub(super) fn tell_row(
    words: &mut impl Words,
    scratch: &mut Vec<u8>,
    (form, shape, begin): (Form, &Table, &[u8]),
    (key, row, version): (&[u8], &RowState, &Version),
) {
    words.made(|out| {
        out.extend_from_slice(begin);
        out.extend_from_slice(key);
        Ok(())
    });
    scratch.clear();
    codec::push_header(shape, row, version, scratch);
    words.made(|out| codec::body(form, shape, row, scratch, out));
}

/// What became of the whole rows, in order.
#[derive(Debug)]
pub(super) enum Answer {
    Done(Vec<u8>),
    /// Nothing was changed: those with `j` have to be joined in full, and those with `h`, which are hidden.
    Join(Vec<u8>),
    /// Nothing was changed: the generation is not where it was, or not what it was.
    Moved,
}

impl Step<'_> {
    pub fn whole_rows(&self) -> usize {
        self.whole.iter().map(|group| group.rows.len()).sum()
    }

    pub fn command<const N: usize>(&mut self, words: [&[u8]; N]) {
        self.commands.push(words.iter().map(|word| word.to_vec()).collect());
    }

    pub fn typed(&mut self, key: &[u8], wanted: &'static str) {
        if !self.types.contains_key(key) {
            self.types.insert(key.to_vec(), wanted);
        }
    }

    pub fn entries(&mut self, key: &[u8]) -> &mut Entries {
        if !self.index.contains_key(key) {
            self.typed(key, "set");
        }
        self.index.entry(key.to_vec()).or_default()
    }

    /// Members of a sorted set.
    pub fn listed(&mut self, key: &str) -> &mut Entries {
        if !self.listed.contains_key(key.as_bytes()) {
            self.typed(key.as_bytes(), "zset");
        }
        self.listed.entry(key.as_bytes().to_vec()).or_default()
    }

    /// Puts what was collected by set behind the other commands.
    fn with_entries(&self) -> Vec<Moves<'_>> {
        let mut commands = Vec::with_capacity(self.index.len());
        let verbs: [(_, &[u8], &[u8]); 2] =
            [(&self.index, b"SREM", b"SADD"), (&self.listed, b"ZREM", b"ZADD")];
        for (sets, removes, adds) in verbs {
            for (key, entries) in sets {
                for (verb, members) in [(removes, &entries.left), (adds, &entries.came)] {
                    let scored = verb == b"ZADD";
                    let all = members.chunks(WORDS_MAX / 2);
                    commands.extend(all.map(|members| Moves { verb, key, members, scored }));
                }
            }
        }
        commands
    }

    pub fn is_empty(&self) -> bool {
        self.commands.is_empty() && self.index.is_empty() && self.listed.is_empty() && self.whole.is_empty()
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

    /// Runs steps that follow each other. Each expects that those before it were done, so that behind
    /// one that was not, none is: there are answers up to and with the first of that kind.
    pub fn run(
        steps: &[Step<'_>],
        link: &mut Link,
        of: Replica<'_>,
    ) -> Result<Vec<Result<Answer, StoreError>>, StoreError> {
        let told: Vec<Told> =
            steps.iter().zip(0..).map(|(step, ahead)| Told { step, of: &of, ahead }).collect();
        let mut judged = Vec::with_capacity(steps.len());
        for answer in link.stream(&SCRIPT, TEXT, &told)? {
            let answer = answer.and_then(|answer| judge(of.ledger, answer));
            let done = matches!(answer, Ok(Answer::Done(_)));
            judged.push(answer);
            if !done {
                break;
            }
        }
        Ok(judged)
    }
}

fn judge(ledger: &Ledger, answer: Vec<Vec<u8>>) -> Result<Answer, StoreError> {
    {
        let mut answer = answer.into_iter();
        let what = answer.next().unwrap_or_default();
        let first = answer.next().unwrap_or_default();
        let shown = String::from_utf8_lossy(&first).into_owned();
        match what.as_slice() {
            b"ok" => Ok(Answer::Done(first)),
            b"join" => Ok(Answer::Join(first)),
            b"gone" | b"moved" => Ok(Answer::Moved),
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

/// A step with what it is taken in, as the arguments of `apply.lua`.
struct Told<'t> {
    step: &'t Step<'t>,
    of: &'t Replica<'t>,
    /// Steps that are sent before it and have not been answered.
    ahead: u64,
}

impl Command for Told<'_> {
    fn tell(&self, words: &mut impl Words) {
        let Replica { names, tables, catalog, settings, form, role, ledger } = *self.of;
        let step = self.step;
        let limit = settings.heartbeat_limit_ms();
        words.word(b"5");
        for key in [&names.meta, &names.status, &names.positions, &names.lease, &names.alive] {
            words.word(key.as_bytes());
        }
        words.word(ledger.writer.as_bytes());
        words.number(ledger.epoch);
        words.number(ledger.sequence + self.ahead);
        match step.batch {
            Some(id) => words.number(id),
            None => words.word(b""),
        }
        words.number(limit);
        match step.alive {
            None => words.word(b""),
            Some(true) => words.number(limit),
            Some(false) => words.word(b"0"),
        }
        words.word(form.name().as_bytes());
        // While the first copy is built most rows are new.
        words.word(if ledger.complete { b"0" } else { b"1" });
        words.number(ledger.generation);
        words.word(role.name().as_bytes());
        words.number(step.leaves.unwrap_or(ledger.sequence + self.ahead + 1));
        words.number(step.positions.len());
        for (name, from, to) in &step.positions {
            for word in [name, from, to] {
                words.word(word.as_bytes());
            }
        }
        words.number(step.types.len());
        for (key, wanted) in &step.types {
            words.word(key);
            words.word(wanted.as_bytes());
        }
        words.number(step.expected.len());
        for (key, beginning) in &step.expected {
            words.word(key);
            words.word(beginning);
        }
        words.number(step.whole.len());
        let mut scratch = Vec::with_capacity(64);
        for group in &step.whole {
            let shape = &catalog.tables[group.table];
            words.number(format_args!("{}.rows", shape.name));
            words.number(group.joined);
            let hides = ledger.tables[group.table].hidden();
            words.word(if hides { tables[group.table].hidden.as_bytes() } else { b"" });
            words.number(tables[group.table].row.len());
            words.number(group.rows.len());
            for whole in &group.rows {
                match whole.words {
                    Some(bytes) => words.prepared(ROW_WORDS, bytes),
                    None => {
                        let row = (&whole.key[..], whole.row, &whole.version);
                        tell_row(words, &mut scratch, (form, shape, &tables[group.table].row), row);
                    }
                }
            }
        }
        let entries = step.with_entries();
        words.number(step.commands.len() + entries.len());
        // Rights are given by prefix: one command of each kind and prefix stands for all.
        let mut samples = HashSet::new();
        for command in &step.commands {
            let key = command.get(1).map_or(&[][..], Vec::as_slice);
            let sample = samples.insert((command.first().map_or(&[][..], Vec::as_slice), group(names, key)));
            words.number(command.len());
            words.word(if sample { b"1" } else { b"0" });
            for word in command {
                words.word(word);
            }
        }
        for moves in entries {
            let sample = samples.insert((moves.verb, group(names, moves.key)));
            words.number(moves.words());
            words.word(if sample { b"1" } else { b"0" });
            words.word(moves.verb);
            words.word(moves.key);
            for member in moves.members {
                if moves.scored {
                    words.word(b"0");
                }
                words.word(member);
            }
        }
        let Some(carried) = &step.carried else { return words.word(b"") };
        words.word(carried.meta.as_bytes());
        words.number(carried.generation);
        let database = |database: Option<i64>| database.map_or(String::new(), |number| number.to_string());
        for number in [carried.databases.map(|(there, _)| there), carried.databases.map(|(_, here)| here)] {
            words.word(database(number).as_bytes());
        }
        words.word(carried.status.as_bytes());
        words.word(carried.alive.as_bytes());
        words.number(2 * carried.fields.len());
        for (name, value) in &carried.fields {
            words.word(name.as_bytes());
            words.word(value.as_bytes());
        }
    }
}

/// A key up to the table or index in it.
fn group<'k>(names: &Names, key: &'k [u8]) -> &'k [u8] {
    let before = if key.starts_with(names.rows.as_bytes()) { names.rows.len() } else { names.prefix.len() };
    let end = key.iter().skip(before).position(|byte| *byte == b':');
    &key[..end.map_or(key.len(), |end| before + end)]
}

/// The beginning of a stored row, as the script compares it.
pub(super) fn beginning(encoding: RowEncoding, header: &[u8]) -> Vec<u8> {
    match encoding {
        RowEncoding::Hash => header.to_vec(),
        RowEncoding::Json => codec::json_head(header).into_bytes(),
    }
}
