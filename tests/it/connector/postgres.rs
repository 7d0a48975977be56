//! A private PostgreSQL with logical decoding, on a free port and in a directory of its own. Where it is
//! missing (`make setup` installs it) a test skips and says so, unless `READSIDE_REQUIRE_SERVICES=1`.

use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::children;
use crate::daemon::output_of;
use crate::kafka::eventually;

pub const USER: &str = "shop";
/// It refuses to run as root; this user owns nothing else.
const NOBODY: u32 = 65_534;

pub struct Postgres {
    dir: tempfile::TempDir,
    programs: PathBuf,
    port: u16,
    process: Option<Child>,
}

impl Postgres {
    /// `None`: skip the test.
    pub fn start() -> Option<Postgres> {
        let Some(programs) = programs() else {
            children::skip_without("PostgreSQL: run `make setup`");
            return None;
        };
        let dir = tempfile::tempdir().unwrap();
        if is_root() {
            chown(dir.path(), Some(NOBODY), Some(NOBODY)).unwrap();
        }
        let mut postgres = Postgres { dir, programs, port: 0, process: None };
        let data = postgres.data();
        let initdb = postgres
            .command("initdb")
            .args(["--auth=trust", "--no-sync", "--encoding=UTF8", "--locale=C.UTF-8", "-U", USER, "-D"])
            .arg(&data)
            .output()
            .unwrap();
        assert!(initdb.status.success(), "initdb: {}", String::from_utf8_lossy(&initdb.stderr));
        let settings = "listen_addresses = '127.0.0.1'\nunix_socket_directories = ''\nwal_level = logical\n\
                        max_wal_senders = 8\nmax_replication_slots = 8\nfsync = off\n";
        let mut file = fs::OpenOptions::new().append(true).open(data.join("postgresql.conf")).unwrap();
        file.write_all(settings.as_bytes()).unwrap();
        postgres.launch();
        Some(postgres)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Runs a script, each statement a transaction of its own unless it says otherwise.
    pub fn run(&self, sql: &str) {
        let done = self.psql(sql);
        assert!(done.status.success(), "{}\n{sql}", String::from_utf8_lossy(&done.stderr));
    }

    /// All rows of a query as text, columns joined by `|`, null as `NULL`.
    pub fn rows(&self, sql: &str) -> Vec<String> {
        let done = self.psql(sql);
        assert!(done.status.success(), "{}\n{sql}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8(done.stdout).unwrap().lines().map(str::to_owned).collect()
    }

    fn psql(&self, sql: &str) -> std::process::Output {
        let mut psql = Command::new(self.programs.join("psql"))
            .args(["--no-psqlrc", "--quiet", "--no-align", "--tuples-only", "--set=ON_ERROR_STOP=1"])
            .args(["--pset=null=NULL", "--host=127.0.0.1", "--username", USER, "--dbname=postgres"])
            .arg(format!("--port={}", self.port))
            .env("PGCLIENTENCODING", "UTF8")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        psql.stdin.take().unwrap().write_all(sql.as_bytes()).unwrap();
        output_of(psql, "psql")
    }

    /// Returns when it answers. Its port can be taken by somebody else before it binds it.
    fn launch(&mut self) {
        let log = self.dir.path().join("log");
        for _ in 0..3 {
            let held = TcpListener::bind("127.0.0.1:0").unwrap();
            self.port = held.local_addr().unwrap().port();
            drop(held);
            let out = fs::File::create(&log).unwrap();
            let mut command = self.command("postgres");
            command.arg("-D").arg(self.data()).arg(format!("--port={}", self.port));
            command.stdin(Stdio::null()).stdout(out.try_clone().unwrap()).stderr(out);
            let mut child = children::spawn(&mut command).unwrap();
            let is_up = eventually("PostgreSQL answers", || match self.psql("SELECT 1").status.success() {
                true => Some(true),
                false => child.try_wait().unwrap().map(|_| false),
            });
            self.process = Some(child);
            if is_up {
                return;
            }
        }
        panic!("PostgreSQL does not start:\n{}", fs::read_to_string(&log).unwrap_or_default());
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.programs.join(program));
        command.current_dir(self.dir.path());
        if is_root() {
            command.uid(NOBODY).gid(NOBODY);
        }
        command
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            // Its children go with it when it is asked to end at once; killed, it would leave them.
            // SAFETY: a child that was not waited for keeps its id.
            unsafe { libc::kill(process.id() as libc::pid_t, libc::SIGQUIT) };
            let _ = process.wait();
        }
    }
}

fn is_root() -> bool {
    // SAFETY: always succeeds.
    unsafe { libc::geteuid() == 0 }
}

/// Debian keeps each version's in a directory of its own.
fn programs() -> Option<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> = versions.map(|version| version.path().join("bin")).collect();
    found.sort();
    found.extend([PathBuf::from("/usr/local/bin"), PathBuf::from("/usr/bin")]);
    found
        .into_iter()
        .find(|dir| ["initdb", "postgres", "psql"].iter().all(|name| Path::new(dir).join(name).exists()))
}
