//! A connection that breaks at a given moment, or over which something comes late.

use std::io::{Read, Write};
use std::os::fd::AsRawFd as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use tempfile::TempDir;

use super::ENCODINGS;
use crate::config::{RedisServer, RowEncoding};
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
    /// Where new connections go.
    behind: Mutex<PathBuf>,
    late: Mutex<Option<Late>>,
    between: Mutex<Option<Between>>,
}

/// Scripts that the server gets after their client has hung up, as when it stalls with them in its
/// buffers.
struct Late {
    scripts: usize,
    /// Scripts whose answers come first, over other connections.
    answers: usize,
    /// Once it is all there.
    asked: Option<(UnixStream, Vec<u8>)>,
}

/// What happens before the server gets a script.
struct Between {
    /// Scripts that come through before.
    scripts: usize,
    act: Box<dyn FnOnce() + Send>,
}

const SCRIPT: &[u8] = b"EVALSHA";

impl Proxy {
    pub fn before(settings: &RedisSettings) -> Proxy {
        let RedisServer::Unix { path: behind } = settings.redis.url.server.clone() else {
            panic!("a socket")
        };
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("proxy.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let plan = Arc::new(Plan { behind: Mutex::new(behind), ..Plan::default() });
        let shared = plan.clone();
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let server = UnixStream::connect(&*shared.behind.lock().unwrap()).unwrap();
                let plan = shared.clone();
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

    /// New connections go there.
    pub fn point_at(&self, socket: &Path) {
        socket.clone_into(&mut self.plan.behind.lock().unwrap());
    }

    /// Hangs up on the next scripts, so many, and lets them through when so many others were answered.
    pub fn deliver_late(&self, scripts: usize, answers: usize) {
        *self.plan.late.lock().unwrap() = Some(Late { scripts, answers, asked: None });
    }

    /// Does something when so many scripts of the next question have come through.
    pub fn between(&self, scripts: usize, act: impl FnOnce() + Send + 'static) {
        *self.plan.between.lock().unwrap() = Some(Between { scripts, act: Box::new(act) });
    }

    /// Does something with connections that are cut after more and more bytes, `step` by `step`, until they
    /// come through as a whole: that is when it says that nothing was refused.
    pub fn cut_at_any_byte(step: usize, mut attempt: impl FnMut(RowEncoding, usize) -> usize) {
        let mut cuts = 0;
        for encoding in ENCODINGS {
            for bytes in (1..).step_by(step) {
                let failed = attempt(encoding, bytes);
                cuts += failed;
                if failed == 0 {
                    break;
                }
            }
        }
        assert!(cuts > 40, "{cuts} cuts only");
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

/// Where the scripts in some bytes are.
fn scripts(bytes: &[u8]) -> impl Iterator<Item = usize> {
    bytes.windows(SCRIPT.len()).enumerate().filter(|(_, word)| *word == SCRIPT).map(|(place, _)| place)
}

/// Lets everything through that is asked, and returns when it is answered.
fn deliver((mut server, mut asked): (UnixStream, Vec<u8>)) {
    asked.extend_from_slice(b"*1\r\n$4\r\nPING\r\n");
    server.write_all(&asked).unwrap();
    let (mut answered, mut buffer) = (Vec::new(), [0; 4096]);
    while !answered.ends_with(b"+PONG\r\n") {
        let read = server.read(&mut buffer).unwrap();
        assert!(read > 0, "the server hangs up");
        answered.extend_from_slice(&buffer[..read]);
    }
}

/// What comes in between two answers of the server is one question, or several at once.
fn serve(mut client: UnixStream, mut server: UnixStream, plan: &Plan) {
    let mut buffer = vec![0; 1 << 20];
    let mut script = false;
    let mut withheld = Vec::new();
    loop {
        let readable = wait(&client, &server);
        if readable[0] {
            let read = client.read(&mut buffer).unwrap_or(0);
            if read == 0 {
                return;
            }
            script |= scripts(&buffer[..read]).next().is_some();
            if script && taken(&plan.questions) {
                return;
            }
            if script && let Some(late @ Late { asked: None, .. }) = &mut *plan.late.lock().unwrap() {
                withheld.extend_from_slice(&buffer[..read]);
                if scripts(&withheld).count() >= late.scripts {
                    late.asked = Some((server, withheld));
                    return;
                }
                continue;
            }
            let mut between = plan.between.lock().unwrap();
            if let Some(Between { scripts: left, .. }) = &mut *between {
                let here = scripts(&buffer[..read]).count();
                if *left < here {
                    let place = scripts(&buffer[..read]).nth(*left).unwrap();
                    let act = between.take().unwrap().act;
                    server.write_all(&buffer[..place]).unwrap();
                    act();
                    server.write_all(&buffer[place..read]).unwrap();
                    continue;
                }
                *left -= here;
            }
            drop(between);
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
            if script {
                let mut late = plan.late.lock().unwrap();
                if let Some(Late { answers, asked: Some(_), .. }) = &mut *late {
                    *answers -= 1;
                }
                if let Some(Late { asked: Some(asked), .. }) = late.take_if(|late| late.answers == 0) {
                    deliver(asked);
                }
            }
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
