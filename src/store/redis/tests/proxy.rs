//! A connection that breaks at a given moment.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use tempfile::TempDir;

use crate::config::RedisServer;
use crate::store::RedisSettings;

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
}

fn taken(count: &AtomicUsize) -> bool {
    count.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok()
}

/// The client asks one thing at a time and waits: what it sends until the server answers is one
/// question.
fn serve(mut client: UnixStream, mut server: UnixStream, plan: &Plan) {
    let mut buffer = vec![0; 1 << 20];
    loop {
        let read = client.read(&mut buffer).unwrap_or(0);
        if read == 0 {
            return;
        }
        let script = buffer[..read].windows(7).any(|word| word == b"EVALSHA");
        if script && taken(&plan.questions) {
            return;
        }
        if server.write_all(&buffer[..read]).is_err() {
            return;
        }
        let read = server.read(&mut buffer).unwrap_or(0);
        if read == 0 || script && taken(&plan.answers) || client.write_all(&buffer[..read]).is_err() {
            return;
        }
    }
}
