//! A command that is sent in pieces while it is put together: the server reads its beginning meanwhile.

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

    /// So many words that were made before, by a [`Wire`].
    fn prepared(&mut self, count: usize, bytes: &[u8]);

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

    fn prepared(&mut self, count: usize, _: &[u8]) {
        self.0 += count;
    }
}

/// Words as they go over the wire.
pub(super) struct Wire {
    pub bytes: Vec<u8>,
    scratch: Vec<u8>,
    /// Behind a word that could not be made there is nothing.
    pub made: Result<(), StoreError>,
}

impl Wire {
    pub fn with_capacity(bytes: usize) -> Wire {
        Wire { bytes: Vec::with_capacity(bytes), scratch: Vec::with_capacity(256), made: Ok(()) }
    }
}

impl Words for Wire {
    fn word(&mut self, word: &[u8]) {
        let _ = write!(self.bytes, "${}\r\n", word.len());
        self.bytes.extend_from_slice(word);
        self.bytes.extend_from_slice(b"\r\n");
    }

    fn made(&mut self, make: impl FnOnce(&mut Vec<u8>) -> Result<(), StoreError>) {
        if self.made.is_err() {
            return;
        }
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear();
        self.made = make(&mut scratch);
        if self.made.is_ok() {
            self.word(&scratch);
        }
        self.scratch = scratch;
    }

    fn prepared(&mut self, _: usize, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }
}

struct Sent<'c> {
    conn: &'c mut Connection,
    wire: Wire,
    /// Of what came after a failure nothing is sent.
    sent: RedisResult<()>,
}

impl Words for Sent<'_> {
    fn word(&mut self, word: &[u8]) {
        self.wire.word(word);
        self.send_from(PIECE);
    }

    fn made(&mut self, make: impl FnOnce(&mut Vec<u8>) -> Result<(), StoreError>) {
        self.wire.made(make);
        self.send_from(PIECE);
    }

    fn prepared(&mut self, count: usize, bytes: &[u8]) {
        self.wire.prepared(count, bytes);
        self.send_from(PIECE);
    }
}

impl Sent<'_> {
    /// Sends what there is, if it is so much at least. (Nothing must not be sent: the client takes it
    /// for a mistake.)
    fn send_from(&mut self, bytes: usize) {
        if self.wire.bytes.len() < bytes {
            return;
        }
        if self.sent.is_ok() && self.wire.made.is_ok() {
            self.sent = self.conn.send_packed_command(&self.wire.bytes);
        }
        self.wire.bytes.clear();
    }
}

/// Something that can tell its words, the same each time.
pub(super) trait Command {
    fn tell(&self, words: &mut impl Words);
}

/// Sends commands one behind the other and waits for their answers, in order. The outer error is of
/// what could not be made; the connection has seen a part of a command then and must be given up.
pub(super) fn ask<C: Command>(
    conn: &mut Connection,
    before: [&str; 2],
    commands: &[C],
) -> Result<RedisResult<Vec<RedisResult<Value>>>, StoreError> {
    let mut sent = Sent { conn, wire: Wire::with_capacity(PIECE + PIECE / 4), sent: Ok(()) };
    for command in commands {
        let mut counted = Counted(before.len());
        command.tell(&mut counted);
        let _ = write!(sent.wire.bytes, "*{}\r\n", counted.0);
        for word in before {
            sent.word(word.as_bytes());
        }
        command.tell(&mut sent);
        // What comes next is put together while the server is at work on this.
        sent.send_from(1);
    }
    let Sent { conn, sent, wire } = sent;
    wire.made?;
    if let Err(error) = sent {
        return Ok(Err(error));
    }
    let mut answers = Vec::with_capacity(commands.len());
    for _ in commands {
        match conn.recv_response() {
            Ok(answer) => answers.push(answer.extract_error()),
            Err(error) => return Ok(Err(error)),
        }
    }
    Ok(Ok(answers))
}

#[cfg(test)]
mod tests {
    use super::super::tests::server;
    use super::*;
    use crate::config::RowEncoding;

    struct Nothing;

    impl Command for Nothing {
        fn tell(&self, _: &mut impl Words) {}
    }

    /// A word that was made before.
    struct Made(Vec<u8>);

    impl Command for Made {
        fn tell(&self, words: &mut impl Words) {
            words.prepared(1, &self.0);
        }
    }

    /// The last word of a command may fill the last piece to its end.
    #[test]
    fn a_command_of_any_length_is_sent_and_nothing_behind_it() {
        if !server::available() {
            return;
        }
        let mut conn = server::shared().client();
        let beside = b"*2\r\n$4\r\nECHO\r\n$32749\r\n\r\n".len();
        for length in [0, 1, PIECE - beside - 1, PIECE - beside, PIECE - beside + 1, PIECE, 3 * PIECE] {
            let text = "x".repeat(length);
            let answers = ask(&mut conn, ["ECHO", &text], &[Nothing, Nothing]).unwrap().unwrap();
            for answer in answers {
                let answer: String = redis::from_redis_value(answer.unwrap()).unwrap();
                assert_eq!(answer.len(), length);
            }
        }
        // What was made before fills a piece, and what is around it comes before or behind.
        for length in (PIECE - 80..PIECE + 8).chain([0, 3 * PIECE]) {
            let key = server::shared().settings(RowEncoding::Hash).redis.prefix;
            let mut wire = Wire::with_capacity(0);
            wire.word("x".repeat(length).as_bytes());
            let made = [Made(wire.bytes.clone()), Made(wire.bytes)];
            for answer in ask(&mut conn, ["APPEND", &key], &made).unwrap().unwrap() {
                answer.unwrap();
            }
            let left: usize = redis::cmd("STRLEN").arg(&key).query(&mut conn).unwrap();
            assert_eq!(left, 2 * length);
        }
    }
}
