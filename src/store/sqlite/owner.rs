//! Whose file is it: everything that is asked before the first write.

use std::ffi::{OsString, c_int};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags, ffi};

use super::error::{foreign, from_io, stop_io};
use super::layout::APPLICATION_ID;
use super::replica::BUSY_TIMEOUT;
use crate::store::StoreError;

const MAGIC: &[u8; 16] = b"SQLite format 3\0";
/// Place of `application_id` in the header: <https://sqlite.org/fileformat2.html#the_database_header>.
const APPLICATION_ID_AT: usize = 68;
const LOCK_ATTEMPTS: u32 = 5;
const LOCK_PAUSE: Duration = Duration::from_millis(20);
const BUILDING: &str = "building ";

/// The exclusive lock of a replica's writer, held as long as this lives.
///
/// The lock file also says whether a first copy is being built, and since which boot of the
/// machine: without fsync, such a copy survives a killed process but not a crash of the machine.
#[derive(Debug)]
pub(super) struct Lock {
    file: File,
    path: PathBuf,
}

/// The files beside a database, and itself.
pub(super) fn sibling(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    PathBuf::from(name)
}

/// Makes the directory, and refuses what is not a replica without touching it.
pub(super) fn inspect(path: &Path) -> Result<(), StoreError> {
    if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
        fs::create_dir_all(directory).map_err(|error| from_io(&error, directory))?;
    }
    let mut header = Vec::with_capacity(100);
    match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(from_io(&error, path)),
        Ok(file) => file.take(100).read_to_end(&mut header).map_err(|error| from_io(&error, path))?,
    };
    // A crash of the machine may leave zeros where an unfinished first copy had its header.
    if header.is_empty() || header.iter().all(|byte| *byte == 0) && is_interrupted(path)? {
        return Ok(());
    }
    if !header.starts_with(MAGIC) {
        return Err(foreign(
            "the file is not a SQLite database; it was not touched: choose another replica.sqlite.path or move \
             the file away"
                .into(),
        ));
    }
    let id = header.get(APPLICATION_ID_AT..APPLICATION_ID_AT + 4).and_then(|bytes| bytes.try_into().ok());
    if id.map(i32::from_be_bytes) != Some(APPLICATION_ID) {
        return Err(foreign(
            "the file is the database of another program; it was not touched: choose another \
             replica.sqlite.path"
                .into(),
        ));
    }
    Ok(())
}

impl Lock {
    /// Takes the lock, and clears away a first copy that a crash of the machine has interrupted.
    pub fn acquire(path: &Path) -> Result<Lock, StoreError> {
        let lock_path = sibling(path, ".lock");
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&lock_path)
            .map_err(|error| from_io(&error, &lock_path))?;
        let mut attempts = 0;
        loop {
            match file.try_lock() {
                Ok(()) => break,
                // A process that has just been started may still hold the descriptors of the one it
                // came from, for the moment until it is another program.
                Err(TryLockError::WouldBlock) if attempts < LOCK_ATTEMPTS => {
                    attempts += 1;
                    std::thread::sleep(LOCK_PAUSE);
                }
                Err(TryLockError::WouldBlock) => {
                    return Err(foreign(
                        "another readside process writes this replica; stop it or give each its own \
                         replica.sqlite.path"
                            .into(),
                    ));
                }
                Err(TryLockError::Error(error)) => return Err(from_io(&error, &lock_path)),
            }
        }
        if is_interrupted(path)? && !is_complete(path)? {
            tracing::warn!(
                path = %path.display(),
                "the machine went down while the first copy was being built: starting over"
            );
            for suffix in ["", "-wal", "-shm", "-journal"] {
                let part = sibling(path, suffix);
                match fs::remove_file(&part) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => {
                        return Err(from_io(&error, &part));
                    }
                    _ => {}
                }
            }
        }
        Ok(Lock { file, path: lock_path })
    }

    /// From here on a crash of the machine may damage the file.
    pub fn mark_building(&mut self) -> Result<(), StoreError> {
        self.write(&format!("{BUILDING}{}", boot_id()))?;
        sync_directory(&self.path)
    }

    /// Everything in the file is on the disk.
    pub fn mark_clean(&mut self) -> Result<(), StoreError> {
        self.write("")
    }

    fn write(&mut self, text: &str) -> Result<(), StoreError> {
        let mut write = || {
            self.file.set_len(0)?;
            self.file.rewind()?;
            self.file.write_all(text.as_bytes())?;
            self.file.sync_all()
        };
        write().map_err(|error| from_io(&error, &self.path))
    }
}

/// A process that another test has just started holds what it inherits until it is another program. This
/// lets go for all who hold it, which closing does not.
#[cfg(test)]
impl Drop for Lock {
    fn drop(&mut self) {
        let _ = self.file.unlock();
    }
}

/// Whether a first copy was being built during another boot, and not left in order.
fn is_interrupted(path: &Path) -> Result<bool, StoreError> {
    let lock_path = sibling(path, ".lock");
    match fs::read_to_string(&lock_path) {
        Ok(text) => Ok(text.strip_prefix(BUILDING).is_some_and(|boot| boot.trim_end() != boot_id())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(from_io(&error, &lock_path)),
    }
}

/// Changes with every boot of the machine: random(4). A fixed word where there is none.
fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").map_or("unknown".into(), |id| id.trim().to_owned())
}

/// Whether there is a whole copy. What is damaged holds none, and neither does what has a rollback journal:
/// a copy has a write-ahead log before its first row. What cannot be read at the moment may be one.
fn is_complete(path: &Path) -> Result<bool, StoreError> {
    if !path.try_exists().map_err(|error| from_io(&error, path))? {
        return Ok(false);
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let complete = Connection::open_with_flags(path, flags).and_then(|conn| {
        conn.busy_timeout(BUSY_TIMEOUT)?;
        conn.query_row(
            "SELECT g.complete FROM _readside_meta_replica r JOIN _readside_meta_generations g \
             ON g.generation = r.live",
            [],
            |row| row.get::<_, bool>(0),
        )
    });
    complete.or_else(|error| match error.sqlite_error() {
        None => Ok(false),
        Some(known) if known.extended_code == ffi::SQLITE_READONLY_ROLLBACK => Ok(false),
        Some(known) => match known.code {
            ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase | ErrorCode::Unknown => Ok(false),
            _ => Err(error.into()),
        },
    })
}

/// Flushes a replica to the disk: the file, its WAL, and the directory that names them. With SQLite's own
/// descriptors: closing any other of the file gives up the locks that this process has on it
/// (<https://sqlite.org/howtocorrupt.html>, section 2.2).
pub(super) fn sync(conn: &Connection, path: &Path) -> Result<(), StoreError> {
    sync_part(conn, ffi::SQLITE_FCNTL_FILE_POINTER)?;
    sync_part(conn, ffi::SQLITE_FCNTL_JOURNAL_POINTER)?;
    sync_directory(path)
}

/// The file that this `SQLITE_FCNTL_…_POINTER` leads to.
fn sync_part(conn: &Connection, pointer: c_int) -> Result<(), StoreError> {
    let mut file: *mut ffi::sqlite3_file = std::ptr::null_mut();
    // SAFETY: the connection is open, and its files live as long as it does. One that is not open has no
    // methods.
    let code = unsafe {
        let code =
            ffi::sqlite3_file_control(conn.handle(), c"main".as_ptr(), pointer, (&raw mut file).cast());
        match file.as_ref().and_then(|file| file.pMethods.as_ref()).and_then(|methods| methods.xSync) {
            Some(sync) if code == ffi::SQLITE_OK => sync(file, ffi::SQLITE_SYNC_FULL),
            _ => code,
        }
    };
    match code {
        ffi::SQLITE_OK => Ok(()),
        code => Err(rusqlite::Error::SqliteFailure(ffi::Error::new(code), None).into()),
    }
}

fn sync_directory(path: &Path) -> Result<(), StoreError> {
    let directory = directory_of(path);
    File::open(directory).and_then(|file| file.sync_all()).map_err(|error| from_io(&error, directory))
}

pub(super) fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|directory| !directory.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// SQLite opens a file that it may not write without complaint, for reading only.
pub(super) fn refuse_read_only(conn: &Connection) -> Result<(), StoreError> {
    if conn.is_readonly(rusqlite::MAIN_DB)? {
        return Err(stop_io(
            "the file or its volume is read-only; mount it writable for readside (read-only mounts are for \
             readers)"
                .into(),
        ));
    }
    Ok(())
}
