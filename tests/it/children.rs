//! Processes that tests start: none outlives the test process, also when that is killed. And what of them
//! is missing.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread;

/// A test needs what is missing, and is skipped, unless all was promised: then it fails. `what` also says
/// how to get it.
pub fn skip_without(what: &str) {
    let promised = std::env::var("READSIDE_REQUIRE_SERVICES").is_ok_and(|value| value == "1");
    assert!(!promised, "READSIDE_REQUIRE_SERVICES=1, but there is no {what}");
    eprintln!("SKIPPED, no {what}");
}

/// Starts a process that is killed when the calling thread, that is its test, ends.
pub fn spawn(command: &mut Command) -> io::Result<Child> {
    // SAFETY: prctl is async-signal-safe.
    unsafe {
        command.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        });
    }
    command.spawn()
}

/// Starts a process that tests share: from one thread that lives as long as the test process, since
/// the tests' own come and go.
pub fn spawn_for_all(command: Command) -> io::Result<Child> {
    type Request = (Command, SyncSender<io::Result<Child>>);
    static KEEPER: OnceLock<Mutex<SyncSender<Request>>> = OnceLock::new();
    let keeper = KEEPER.get_or_init(|| {
        let (requests, inbox) = sync_channel::<Request>(1);
        let serve = move || {
            for (mut command, reply) in inbox {
                // The asker waits for exactly one reply.
                let _ = reply.send(spawn(&mut command));
            }
        };
        thread::Builder::new().name("keeper".into()).spawn(serve).expect("a thread");
        Mutex::new(requests)
    });
    let (reply, answer) = sync_channel(1);
    let requests = keeper.lock().unwrap_or_else(PoisonError::into_inner).clone();
    requests.send((command, reply)).expect("the keeper lives");
    answer.recv().expect("the keeper answers")
}
