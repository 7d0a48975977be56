//! A redis-server of the demo's own: on a socket in its directory, without a port and without files.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::pipeline::Failure;

/// In the order in which they are looked for.
const PROGRAMS: [&str; 2] = ["redis-server", "valkey-server"];
/// It takes a few milliseconds; longer than this and something is wrong.
const START_MAX: Duration = Duration::from_secs(if cfg!(test) { 60 } else { 10 });
const ANSWER_MAX: Duration = Duration::from_secs(if cfg!(test) { 60 } else { 1 });
/// What `sockaddr_un` holds, less the final NUL.
const SOCKET_PATH_MAX: usize = 107;
/// Of its log, for a person who wants to know why it did not start.
const LAST_WORDS_MAX: usize = 400;

/// Runs until dropped, and not longer than this process.
#[derive(Debug)]
pub struct Server {
    pub socket: PathBuf,
    /// Dropped to end it.
    stop: Option<Sender<()>>,
    keeper: Option<JoinHandle<()>>,
}

impl Server {
    /// Returns when it answers. Exit code 69 where no server is installed.
    pub fn start(directory: &Path) -> Result<Server, Failure> {
        let broken = |path: &Path, error: &dyn std::fmt::Display| Failure {
            exit_code: 74,
            reason: format!("{}: {error}", path.display()),
        };
        let directory = fs::canonicalize(directory).map_err(|error| broken(directory, &error))?;
        let (socket, log) = (directory.join("redis.sock"), directory.join("redis.log"));
        if socket.as_os_str().len() > SOCKET_PATH_MAX {
            let reason = format!("{}: too long for a socket; choose a shorter --dir", socket.display());
            return Err(Failure { exit_code: 64, reason });
        }
        for path in [&socket, &log] {
            match fs::remove_file(path) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(broken(path, &error)),
                _ => {}
            }
        }
        let program = installed()?;
        let (stop, stopped) = channel();
        let (spawned, outcome) = channel();
        let command = command(program, &directory, &socket, &log);
        let keeper = std::thread::Builder::new()
            .name("redis".into())
            .spawn(move || keep(command, spawned, stopped))
            .map_err(|error| Failure::other(format!("cannot start a thread: {error}")))?;
        let server = Server { socket, stop: Some(stop), keeper: Some(keeper) };
        match outcome.recv() {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(Failure::unavailable(format!("{program}: {error}"))),
            Err(_) => return Err(Failure::other(format!("{program}: its thread ended"))),
        }
        let begun = Instant::now();
        while !answers(&server.socket) {
            if begun.elapsed() >= START_MAX || outcome.recv_timeout(Duration::from_millis(10)).is_ok() {
                let words = fs::read_to_string(&log).unwrap_or_default();
                let from = words.len().saturating_sub(LAST_WORDS_MAX);
                let words = words.get(from..).unwrap_or_default().trim();
                return Err(Failure::unavailable(format!("{program} does not start: {words}")));
            }
        }
        Ok(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(keeper) = self.keeper.take() {
            // A panic there has killed the server already.
            let _ = keeper.join();
        }
        let _ = fs::remove_file(&self.socket);
    }
}

fn installed() -> Result<&'static str, Failure> {
    let answers = |program: &&str| {
        let asked =
            Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        asked.is_ok_and(|status| status.success())
    };
    PROGRAMS.into_iter().find(answers).ok_or_else(|| {
        Failure::unavailable(
            "no redis-server is installed; on Debian and Ubuntu: sudo apt-get install redis-server \
             (or valkey-server); then try again, or leave out --redis",
        )
    })
}

fn command(program: &str, directory: &Path, socket: &Path, log: &Path) -> Command {
    let mut command = Command::new(program);
    command
        .args(["--port", "0", "--save", "", "--appendonly", "no", "--daemonize", "no"])
        .args(["--maxmemory-policy", "noeviction", "--unixsocketperm", "700"])
        .arg("--unixsocket")
        .arg(socket)
        .arg("--dir")
        .arg(directory)
        .arg("--logfile")
        .arg(log)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        // Ctrl-C ends the shop first and compares; the rows are needed until then.
        .process_group(0);
    // SAFETY: prctl is async-signal-safe; the server must not outlive a demo that is killed.
    #[cfg(target_os = "linux")]
    unsafe {
        command.pre_exec(|| {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            Ok(())
        });
    }
    command
}

/// The thread that starts the server also ends it: the signal that follows a parent's death follows
/// the death of the *thread* (prctl(2), `PR_SET_PDEATHSIG`). Reports once that it runs, and again
/// when it has ended by itself.
fn keep(mut command: Command, spawned: Sender<std::io::Result<()>>, stopped: Receiver<()>) {
    let mut child: Child = match command.spawn() {
        Ok(child) => child,
        Err(error) => {
            let _ = spawned.send(Err(error));
            return;
        }
    };
    let _ = spawned.send(Ok(()));
    while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(Duration::from_millis(50)) {
        if matches!(child.try_wait(), Ok(Some(_))) {
            let _ = spawned.send(Ok(()));
            return;
        }
    }
    // Nothing of it is to be kept.
    let _ = child.kill();
    let _ = child.wait();
}

fn answers(socket: &Path) -> bool {
    let ask = || {
        let mut stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(ANSWER_MAX))?;
        stream.write_all(b"PING\r\n")?;
        let mut reply = [0; 5];
        stream.read_exact(&mut reply)?;
        std::io::Result::Ok(reply)
    };
    ask().is_ok_and(|reply| &reply == b"+PONG")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_answers_until_it_is_dropped_and_leaves_no_socket() {
        if let Err(missing) = installed() {
            return crate::testing::skip_without(&format!("server: {missing}"));
        }
        let directory = tempfile::tempdir().unwrap();
        let server = Server::start(directory.path()).unwrap();
        let socket = server.socket.clone();
        assert!(answers(&socket));
        drop(server);
        assert!(!answers(&socket) && !socket.exists());
    }

    #[test]
    fn a_path_that_is_too_long_for_a_socket_is_said_to_be() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x".repeat(120));
        fs::create_dir(&path).unwrap();
        let failure = Server::start(&path).unwrap_err();
        assert_eq!(failure.exit_code, 64);
        assert!(failure.reason.contains("--dir"), "{failure}");
    }
}
