//! A connection that is made when it is needed and given up when it fails.

use std::sync::LazyLock;
use std::time::Duration;

use redis::{
    Client, Cmd, Connection, ConnectionAddr, ConnectionInfo, FromRedisValue, IntoConnectionInfo, Pipeline,
    RedisConnectionInfo, RedisResult, Script, TlsCertificates, Value,
};

use super::error::{foreign, from_redis, keeps_connection};
use super::settings::{RedisServer, RedisSettings};
use super::words::{self, Command};
use crate::domain::retry::RetryReason;
use crate::store::StoreError;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(if cfg!(test) { 60 } else { 1 });
/// Longer than a server that is busy with somebody's slow command usually needs.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(if cfg!(test) { 60 } else { 5 });

const READ: &str = include_str!("read.lua");
static READ_SCRIPT: LazyLock<Script> = LazyLock::new(|| Script::new(READ));

/// Of one script, word by word.
pub(super) type Answer = Result<Vec<Vec<u8>>, StoreError>;

/// Bytes of rows that are asked for at once: Redis answers everything that is asked together before
/// it turns to anybody else, and takes one or two milliseconds for so much.
const ASKED_BYTES: usize = 1 << 20;
/// What a row is thought to take before any was seen.
const ROW_BYTES: usize = 32 << 10;

pub(super) struct Link {
    settings: RedisSettings,
    database: i64,
    connect_timeout: Duration,
    answer_timeout: Duration,
    conn: Option<Connection>,
    /// What a row took lately, at the most.
    row_bytes: usize,
}

impl Link {
    pub fn new(settings: &RedisSettings, database: i64) -> Link {
        Link {
            settings: settings.clone(),
            database,
            connect_timeout: CONNECT_TIMEOUT,
            answer_timeout: ANSWER_TIMEOUT,
            conn: None,
            row_bytes: ROW_BYTES,
        }
    }

    /// Rows that may be asked for at once.
    pub fn rows_at_once(&self) -> usize {
        (ASKED_BYTES / self.row_bytes).clamp(4, super::step::WORDS_MAX)
    }

    /// So many bytes were in so many rows that were asked for.
    pub fn has_read(&mut self, rows: usize, bytes: usize) {
        self.row_bytes = (bytes / rows.max(1)).max(self.row_bytes / 2).max(1);
    }

    /// For a command that a person waits for.
    pub fn with_timeout(mut self, timeout: Duration) -> Link {
        self.connect_timeout = timeout;
        self.answer_timeout = timeout;
        self
    }

    pub fn is_connected(&self) -> bool {
        self.conn.is_some()
    }

    pub fn database(&self) -> i64 {
        self.database
    }

    /// The next connection goes there.
    pub fn select(&mut self, database: i64) {
        if self.database != database {
            self.database = database;
            self.conn = None;
        }
    }

    pub fn query<T: FromRedisValue>(&mut self, cmd: &Cmd) -> Result<T, StoreError> {
        self.run(|conn| cmd.query(conn))
    }

    pub fn pipe<T: FromRedisValue>(&mut self, pipe: &Pipeline) -> Result<T, StoreError> {
        self.run(|conn| pipe.query(conn))
    }

    /// Some of the keys that match, and where to go on; 0: that was all. A key may come twice.
    pub fn scan(
        &mut self,
        pattern: &str,
        cursor: u64,
        count: usize,
    ) -> Result<(u64, Vec<Vec<u8>>), StoreError> {
        self.query(redis::cmd("SCAN").arg(cursor).arg("MATCH").arg(pattern).arg("COUNT").arg(count))
    }

    /// Several commands that only read, all at the same moment.
    pub fn read<T: FromRedisValue>(&mut self, commands: &[&[&[u8]]]) -> Result<T, StoreError> {
        self.script(&READ_SCRIPT, READ, |cmd| {
            cmd.arg(0).arg(commands.len());
            for words in commands {
                cmd.arg(words.len());
                for word in *words {
                    cmd.arg(*word);
                }
            }
        })
    }

    /// Runs a script by its hash; a server that does not know it (it was restarted) gets the text.
    /// `arguments` adds number of keys, keys and arguments.
    pub fn script<T: FromRedisValue>(
        &mut self,
        script: &Script,
        text: &str,
        arguments: impl Fn(&mut Cmd),
    ) -> Result<T, StoreError> {
        self.run(|conn| {
            let mut cmd = redis::cmd("EVALSHA");
            cmd.arg(script.get_hash());
            arguments(&mut cmd);
            match cmd.query(conn) {
                Err(error) if error.code() == Some("NOSCRIPT") => {
                    let mut cmd = redis::cmd("EVAL");
                    cmd.arg(text);
                    arguments(&mut cmd);
                    cmd.query(conn)
                }
                answer => answer,
            }
        })
    }

    /// The same for commands that are sent while they are made, without waiting for the answers of
    /// those before. Answers in order; the outer error is of all of them.
    pub fn stream<C: Command>(
        &mut self,
        script: &Script,
        text: &str,
        commands: &[C],
    ) -> Result<Vec<Answer>, StoreError> {
        let mut conn = match self.conn.take() {
            Some(conn) => conn,
            None => self.connect()?,
        };
        let by_hash = ["EVALSHA", script.get_hash()];
        let mut asked = words::ask(&mut conn, by_hash, commands)?;
        let forgotten = |answer: &RedisResult<Value>| {
            answer.as_ref().is_err_and(|error| error.code() == Some("NOSCRIPT"))
        };
        if let (Ok(answers), [first, rest @ ..]) = (&asked, commands)
            && answers.first().is_some_and(forgotten)
        {
            // None of the others can have done anything without it.
            asked = words::ask(&mut conn, ["EVAL", text], std::slice::from_ref(first))?;
            if let Ok(answers) = &mut asked
                && !rest.is_empty()
            {
                match words::ask(&mut conn, by_hash, rest)? {
                    Ok(more) => answers.extend(more),
                    Err(error) => asked = Err(error),
                }
            }
        }
        let answers = asked.map_err(|error| from_redis(&error))?;
        if answers.iter().all(|answer| answer.as_ref().err().is_none_or(keeps_connection)) {
            self.conn = Some(conn);
        }
        let read = |answer: RedisResult<Value>| answer.and_then(|value| Ok(redis::from_redis_value(value)?));
        Ok(answers.into_iter().map(|answer| read(answer).map_err(|error| from_redis(&error))).collect())
    }

    fn run<T>(&mut self, ask: impl FnOnce(&mut Connection) -> RedisResult<T>) -> Result<T, StoreError> {
        let mut conn = match self.conn.take() {
            Some(conn) => conn,
            None => self.connect()?,
        };
        match ask(&mut conn) {
            Ok(answer) => {
                self.conn = Some(conn);
                Ok(answer)
            }
            Err(error) => {
                // After a timeout an answer may still be under way: such a connection is not used again.
                if keeps_connection(&error) {
                    self.conn = Some(conn);
                }
                Err(from_redis(&error))
            }
        }
    }

    fn connect(&self) -> Result<Connection, StoreError> {
        let client = self.client()?;
        let connect = || {
            let mut conn = client.get_connection_with_timeout(self.connect_timeout)?;
            conn.set_read_timeout(Some(self.answer_timeout))?;
            conn.set_write_timeout(Some(self.answer_timeout))?;
            if self.database != 0 {
                // The client would not tell why this is refused: for now, or because there is none.
                let () = redis::cmd("SELECT").arg(self.database).query(&mut conn)?;
            }
            Ok(conn)
        };
        connect().map_err(|error| from_redis(&error))
    }

    fn client(&self) -> Result<Client, StoreError> {
        let refused = |error: redis::RedisError| foreign(format!("{error}; correct replica.redis.url"));
        let (address, tls) = match &self.settings.redis.url.server {
            RedisServer::Unix { path } => (ConnectionAddr::Unix(path.clone()), false),
            RedisServer::Tcp { host, port, tls: false } => (ConnectionAddr::Tcp(host.clone(), *port), false),
            RedisServer::Tcp { host, port, tls: true } => {
                let host = host.clone();
                (ConnectionAddr::TcpTls { host, port: *port, insecure: false, tls_params: None }, true)
            }
        };
        // Naming the client's library needs a right, and Redis 7.2.
        let mut login = RedisConnectionInfo::default().set_skip_set_lib_name();
        if let Some(username) = &self.settings.redis.username {
            login = login.set_username(username);
        }
        if let Some(file) = &self.settings.redis.password_file {
            let password = std::fs::read_to_string(file).map_err(|error| unreadable(file, &error))?;
            login = login.set_password(password.trim_end_matches(['\r', '\n']));
        }
        let info: ConnectionInfo = address.into_connection_info().map_err(refused)?.set_redis_settings(login);
        if !tls {
            return Client::open(info).map_err(refused);
        }
        let root_cert = match &self.settings.redis.ca_file {
            Some(file) => Some(std::fs::read(file).map_err(|error| unreadable(file, &error))?),
            None => None,
        };
        Client::build_with_tls(info, TlsCertificates { client_tls: None, root_cert }).map_err(refused)
    }
}

/// The file may be about to be mounted or replaced.
fn unreadable(file: &std::path::Path, error: &std::io::Error) -> StoreError {
    StoreError::Retry { reason: RetryReason::Io, message: format!("{}: {error}", file.display()) }
}
