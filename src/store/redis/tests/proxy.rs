//! A connection that breaks at a given moment.

use std::io::{Read, Write};
use std::os::fd::AsRawFd as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use tempfile::TempDir;

use crate::config::RedisServer;
use crate::domain::batch::Batch;
use crate::store::{RedisSettings, RedisStore, Store as _, StoreError};

pub struct Proxy {
    pub settings: RedisSettings,
    plan: Arc<Plan>,
    _directory: TempDir,
}

#[derive(Default)]
struct Plan {
    /// Scripts whose answer is thrown away, and the connection with it.
    answers: AtomicUsize,
    /// Scripts that are thrown away with the connection.
    questions: AtomicUsize,
    /// Bytes that still come through to the server, if there is a limit.
    bytes: Mutex<Option<usize>>,
}

impl Proxy {
    pub fn before(settings: &RedisSettings) -> Proxy {
        let RedisServer::Unix { path: behind } = settings.redis.url.server.clone() else {
            panic!("a socket")
        };
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("proxy.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let plan = Arc::new(Plan::default());
        let shared = plan.clone();
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (plan, server) = (shared.clone(), UnixStream::connect(&behind).unwrap());
                thread::spawn(move || serve(client, server, &plan));
            }
        });
        let mut settings = settings.clone();
        settings.redis.url.server = RedisServer::Unix { path };
        Proxy { settings, plan, _directory: directory }
    }

    pub fn swallow_answers(&self, scripts: usize) {
        self.plan.answers.store(scripts, Ordering::SeqCst);
    }

    pub fn swallow_questions(&self, scripts: usize) {
        self.plan.questions.store(scripts, Ordering::SeqCst);
    }

    /// Cuts a connection as soon as so many bytes have come through; those after it are left alone.
    pub fn cut_after(&self, bytes: usize) {
        *self.plan.bytes.lock().unwrap() = Some(bytes);
    }

    /// Applies a batch over a connection that is cut so, again until it is applied. Returns how often it
    /// was refused, and leaves connections alone from then on.
    pub fn apply_cut_after(&self, bytes: usize, store: &mut RedisStore, batch: &Batch) -> usize {
        self.cut_after(bytes);
        let mut failed = 0;
        while let Err(error) = store.apply(batch) {
            assert!(matches!(error, StoreError::Retry { .. }), "{error}");
            failed += 1;
        }
        self.cut_after(usize::MAX);
        failed
    }
}

fn taken(count: &AtomicUsize) -> bool {
    count.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok()
}

/// What comes in between two answers of the server is one question, or several at once.
fn serve(mut client: UnixStream, mut server: UnixStream, plan: &Plan) {
    let mut buffer = vec![0; 1 << 20];
    let mut script = false;
    loop {
        let readable = wait(&client, &server);
        if readable[0] {
            let read = client.read(&mut buffer).unwrap_or(0);
            if read == 0 {
                return;
            }
            script |= buffer[..read].windows(7).any(|word| word == b"EVALSHA");
            if script && taken(&plan.questions) {
                return;
            }
            let mut limit = plan.bytes.lock().unwrap();
            let through = limit.map_or(read, |left| left.min(read));
            *limit = limit.map(|left| left - through);
            let is_cut = *limit == Some(0);
            if is_cut {
                *limit = None;
            }
            drop(limit);
            if server.write_all(&buffer[..through]).is_err() || is_cut {
                return;
            }
        }
        if readable[1] {
            let read = server.read(&mut buffer).unwrap_or(0);
            if read == 0 || script && taken(&plan.answers) || client.write_all(&buffer[..read]).is_err() {
                return;
            }
            script = false;
        }
    }
}

/// Until one of them has something to say.
fn wait(client: &UnixStream, server: &UnixStream) -> [bool; 2] {
    let poll =
        |stream: &UnixStream| libc::pollfd { fd: stream.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    let mut both = [poll(client), poll(server)];
    // SAFETY: two descriptors that are open, in an array of two.
    unsafe { libc::poll(both.as_mut_ptr(), 2, -1) };
    both.map(|one| one.revents != 0)
}
