//! A change of the bookkeeping as a whole: what `change.lua` is given, and what it says.

use std::sync::LazyLock;

use redis::Script;

use super::error::{damaged, foreign, lost, overtaken, rival, stop_io};
use super::link::Link;
use crate::store::{StopCode, StoreError};

const TEXT: &str = include_str!("change.lua");
static SCRIPT: LazyLock<Script> = LazyLock::new(|| Script::new(TEXT));

/// Who must own a generation for the change to be made.
#[derive(Debug, Clone)]
pub(super) struct Owner {
    pub database: i64,
    pub meta: String,
    /// With the epoch; `None`: whoever it is.
    pub writer: Option<(String, u64)>,
    pub generation: u32,
    pub role: &'static str,
    pub sequence: Option<u64>,
}

#[derive(Debug, Default)]
pub(super) struct Change {
    owners: Vec<[String; 7]>,
    /// By owner, for messages.
    expected: Vec<(u32, u64)>,
    types: Vec<(i64, String, &'static str)>,
    commands: Vec<Vec<Vec<u8>>>,
}

impl Change {
    pub fn by(mut self, owner: Owner) -> Change {
        let (writer, epoch) = owner.writer.clone().unwrap_or_default();
        self.expected.push((owner.generation, epoch));
        let word = |number: Option<u64>| number.map_or(String::new(), |number| number.to_string());
        self.owners.push([
            owner.database.to_string(),
            owner.meta,
            writer,
            word(owner.writer.map(|(_, epoch)| epoch)),
            owner.generation.to_string(),
            owner.role.to_owned(),
            word(owner.sequence),
        ]);
        self
    }

    /// There must be no generation.
    pub fn if_nobody(mut self, database: i64, meta: &str) -> Change {
        self.expected.push((0, 0));
        let none = String::new;
        self.owners.push([database.to_string(), meta.to_owned(), "-".into(), none(), none(), none(), none()]);
        self
    }

    pub fn typed(&mut self, database: i64, key: &str, wanted: &'static str) {
        self.types.push((database, key.to_owned(), wanted));
    }

    pub fn command<W: AsRef<[u8]>>(&mut self, words: impl IntoIterator<Item = W>) {
        self.commands.push(words.into_iter().map(|word| word.as_ref().to_vec()).collect());
    }

    pub fn select(&mut self, database: i64) {
        self.command(["SELECT", &database.to_string()]);
    }

    pub fn set_fields<N: AsRef<str>>(&mut self, key: &str, fields: &[(N, String)]) {
        for fields in fields.chunks(super::step::WORDS_MAX / 2) {
            let mut words = vec![b"HSET".to_vec(), key.as_bytes().to_vec()];
            for (name, value) in fields {
                words.extend([name.as_ref().as_bytes().to_vec(), value.as_bytes().to_vec()]);
            }
            self.commands.push(words);
        }
    }

    /// All of it, or nothing and why.
    pub fn run(&self, link: &mut Link) -> Result<(), StoreError> {
        match self.judge(&self.ask(link)?) {
            None => Ok(()),
            Some(error) => Err(error),
        }
    }

    fn ask(&self, link: &mut Link) -> Result<Vec<String>, StoreError> {
        let here = link.database();
        link.script(&SCRIPT, TEXT, |cmd| {
            cmd.arg(0).arg(here).arg(self.owners.len());
            for owner in &self.owners {
                cmd.arg(owner);
            }
            cmd.arg(self.types.len());
            for (database, key, wanted) in &self.types {
                cmd.arg(*database).arg(key).arg(*wanted);
            }
            cmd.arg(self.commands.len());
            for words in &self.commands {
                cmd.arg(words.len()).arg(words);
            }
        })
    }

    fn judge(&self, answer: &[String]) -> Option<StoreError> {
        let word = |nth: usize| answer.get(nth).map_or("", String::as_str);
        let expected = word(1).parse().ok().and_then(|nth: usize| self.expected.get(nth.checked_sub(1)?));
        let (number, epoch) = expected.copied().unwrap_or_default();
        Some(match word(0) {
            "ok" => return None,
            "gone" => lost("is gone (flushed, or restarted without persistence)"),
            "there" => lost("has just been made by another readside"),
            "epoch" if word(2).parse().unwrap_or(0) < epoch => {
                lost("went back to an older state (restored or failed over)")
            }
            "epoch" => rival(),
            "generation" if word(2).parse().is_ok_and(|found: u32| found >= number) => retired(number),
            "generation" => lost("went back to an older state (restored or failed over)"),
            "sequence" => overtaken(),
            "type" => foreign(format!(
                "key {:?} holds something that readside did not put there; nothing was changed: delete the key, or \
                 choose another replica.redis.prefix",
                word(1)
            )),
            "denied" => stop_io(format!(
                "the user may not {}; nothing was changed: give it the rights of the writer's ACL line",
                word(1)
            )),
            other => damaged("the answer of a script", other),
        })
    }
}

/// What a store finds about its generation when it is about to write.
pub(super) fn retired(number: u32) -> StoreError {
    StoreError::Stop {
        exit: StopCode::Retired,
        message: format!("generation {number} is not in use any more"),
    }
}
