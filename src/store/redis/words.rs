//! A command that is sent while it is made: the server reads its beginning meanwhile.

use std::io::Write as _;

use redis::{Connection, RedisResult, Value};

use crate::store::StoreError;

/// Sent as soon as so much has come together.
const PIECE: usize = 32 << 10;

/// What takes the words of a command, one after the other.
pub(super) trait Words {
    fn word(&mut self, word: &[u8]);

    /// A word that takes some work; `make` may not be called by what only counts.
    fn made(&mut self, make: impl FnOnce(&mut Vec<u8>) -> Result<(), StoreError>);

    fn number(&mut self, number: impl std::fmt::Display) {
        self.made(|out| {
            let _ = write!(out, "{number}");
            Ok(())
        });
    }
}

/// How many words a command has comes first in the protocol.
#[derive(Default)]
pub(super) struct Counted(usize);

impl Words for Counted {
    fn word(&mut self, _: &[u8]) {
        self.0 += 1;
    }

    fn made(&mut self, _: impl FnOnce(&mut Vec<u8>) -> Result<(), StoreError>) {
        self.0 += 1;
    }
}

struct Sent<'c> {
    conn: &'c mut Connection,
    buffer: Vec<u8>,
    scratch: Vec<u8>,
    /// Of what came after a failure nothing is sent.
    sent: RedisResult<()>,
    made: Result<(), StoreError>,
}

impl Words for Sent<'_> {
    fn word(&mut self, word: &[u8]) {
        let _ = write!(self.buffer, "${}\r\n", word.len());
        self.buffer.extend_from_slice(word);
        self.buffer.extend_from_slice(b"\r\n");
        if self.buffer.len() >= PIECE {
            self.flush();
        }
    }

    fn made(&mut self, make: impl FnOnce(&mut Vec<u8>) -> Result<(), StoreError>) {
        if self.made.is_err() {
            return;
        }
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear();
        self.made = make(&mut scratch);
        self.word(&scratch);
        self.scratch = scratch;
    }
}

impl Sent<'_> {
    fn flush(&mut self) {
        if self.sent.is_ok() && self.made.is_ok() {
            self.sent = self.conn.send_packed_command(&self.buffer);
        }
        self.buffer.clear();
    }
}

/// Something that can tell its words, the same each time.
pub(super) trait Command {
    fn tell(&self, words: &mut impl Words);
}

/// Sends one command and waits for its answer. The outer error is of what could not be made; the
/// connection has seen a part of the command then and must be given up.
pub(super) fn ask(
    conn: &mut Connection,
    before: [&str; 2],
    command: &impl Command,
) -> Result<RedisResult<Value>, StoreError> {
    let mut counted = Counted(before.len());
    command.tell(&mut counted);
    let mut sent = Sent {
        conn,
        buffer: Vec::with_capacity(PIECE + PIECE / 4),
        scratch: Vec::with_capacity(256),
        sent: Ok(()),
        made: Ok(()),
    };
    let _ = write!(sent.buffer, "*{}\r\n", counted.0);
    for word in before {
        sent.word(word.as_bytes());
    }
    command.tell(&mut sent);
    sent.flush();
    let Sent { conn, sent, made, .. } = sent;
    made?;
    Ok(sent.and_then(|()| conn.recv_response()).and_then(Value::extract_error))
}
