//! The directory of the demo: its configuration, its replica, and what was left by an earlier one.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read, Seek, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use crate::pipeline::Failure;

/// The first line of the configuration: only a directory with such a file is the demo's to clear.
const MARKER: &str = "# Written by `readside demo`; every demo in this directory writes it anew.";
const TEMPLATE: &str = include_str!("readside.yaml");

/// A directory that belongs to this demo as long as this lives.
#[derive(Debug)]
pub struct Home {
    pub config_path: PathBuf,
    pub replica_path: PathBuf,
    /// Locked, so that a second demo does not take the replica away under this one.
    config_file: File,
}

/// What the configuration of a demo depends on.
#[derive(Debug, Clone, Copy)]
pub struct Addresses<'a> {
    pub brokers: &'a str,
    /// Socket of the Redis that holds the replica; `None`: the file.
    pub redis: Option<&'a Path>,
    pub http: SocketAddr,
    pub admin: SocketAddr,
}

impl Home {
    /// Makes the directory or takes over that of an earlier demo, whose replica goes: it belongs to
    /// a broker that is no more. Refuses, and changes nothing, where the files are not a demo's.
    pub fn prepare(directory: &Path) -> Result<Home, Failure> {
        std::fs::create_dir_all(directory).map_err(|error| Failure {
            exit_code: 74,
            reason: format!("{}: cannot make this directory: {error}", directory.display()),
        })?;
        let config_path = directory.join("readside.yaml");
        let replica_path = directory.join("replica.db");
        let parts = ["", "-wal", "-shm", "-journal"].map(|suffix| sibling(&replica_path, suffix));
        let config_file = match OpenOptions::new().read(true).write(true).open(&config_path) {
            Ok(mut file) => {
                lock(&file, &config_path)?;
                let mut first = Vec::new();
                let limit = MARKER.len() as u64;
                Read::by_ref(&mut file)
                    .take(limit)
                    .read_to_end(&mut first)
                    .map_err(|error| broken(&config_path, &error))?;
                if first != MARKER.as_bytes() {
                    return Err(foreign(&config_path));
                }
                file
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {
                if let Some(present) = parts.iter().find(|part| part.symlink_metadata().is_ok()) {
                    return Err(foreign(present));
                }
                let file = OpenOptions::new()
                    .read(true)
                    .write(true)
                    .create_new(true)
                    .open(&config_path)
                    .map_err(|error| broken(&config_path, &error))?;
                lock(&file, &config_path)?;
                file
            }
            Err(error) => return Err(broken(&config_path, &error)),
        };
        let mut home = Home { config_path, replica_path, config_file };
        home.write(&format!("{MARKER}\n"))?;
        home.remove_replica(&parts)?;
        Ok(home)
    }

    pub fn write_config(&mut self, addresses: Addresses<'_>) -> Result<(), Failure> {
        let path = addresses.redis.unwrap_or(&self.replica_path);
        let Some(text) = path.to_str() else {
            let reason = format!("{}: the path of the replica must be UTF-8", path.display());
            return Err(Failure { exit_code: 64, reason });
        };
        // A JSON string is a YAML string, whatever the path holds.
        let replica = match addresses.redis {
            Some(_) => {
                let url = serde_json::Value::from(format!("unix:{text}"));
                format!("  redis:\n    url: {url}\n    dedicated: true")
            }
            None => format!("  sqlite:\n    path: {}", serde_json::Value::from(text)),
        };
        let text = TEMPLATE
            .replace("@MARKER@", MARKER)
            .replace("@BROKERS@", addresses.brokers)
            .replace("@HTTP@", &addresses.http.to_string())
            .replace("@ADMIN@", &addresses.admin.to_string())
            .replace("@REPLICA@", &replica);
        self.write(&text)
    }

    fn write(&mut self, text: &str) -> Result<(), Failure> {
        let file = &mut self.config_file;
        file.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| file.write_all(text.as_bytes()))
            .map_err(|error| broken(&self.config_path, &error))
    }

    fn remove_replica(&self, parts: &[PathBuf]) -> Result<(), Failure> {
        // `readside run` with the demo's configuration may still write it.
        let lock_path = sibling(&self.replica_path, ".lock");
        let writer = match OpenOptions::new().read(true).write(true).open(&lock_path) {
            Ok(file) => {
                lock(&file, &self.replica_path)?;
                Some(file)
            }
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => return Err(broken(&lock_path, &error)),
        };
        for part in parts {
            match std::fs::remove_file(part) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(broken(part, &error)),
                _ => {}
            }
        }
        // The lock file stays, because a lock on a file that is gone protects nothing; what it
        // says about the replica does not.
        writer.map_or(Ok(()), |file| file.set_len(0)).map_err(|error| broken(&lock_path, &error))
    }
}

fn sibling(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn lock(file: &File, path: &Path) -> Result<(), Failure> {
    match file.try_lock() {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => Err(Failure {
            exit_code: 74,
            reason: format!(
                "{} is in use by another readside; stop it, or choose another directory with --dir",
                path.display()
            ),
        }),
        Err(TryLockError::Error(error)) => Err(broken(path, &error)),
    }
}

fn broken(path: &Path, error: &io::Error) -> Failure {
    Failure { exit_code: 74, reason: format!("{}: {error}", path.display()) }
}

fn foreign(path: &Path) -> Failure {
    Failure {
        exit_code: 64,
        reason: format!(
            "{} was not made by `readside demo` and was not touched; choose another directory with --dir",
            path.display()
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::demo::shop::Shop;
    use std::fs;

    /// A process that another test has just started holds what it inherits until it is another program.
    /// This lets go for all who hold it, which closing does not.
    impl Drop for Home {
        fn drop(&mut self) {
            let _ = self.config_file.unlock();
        }
    }

    fn addresses() -> Addresses<'static> {
        let loopback = |port| SocketAddr::from(([127, 0, 0, 1], port));
        Addresses { brokers: "127.0.0.1:9092", redis: None, http: loopback(9464), admin: loopback(9465) }
    }

    #[test]
    fn an_earlier_demo_is_cleared_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("new/demo");
        let mut home = Home::prepare(&path).unwrap();
        home.write_config(addresses()).unwrap();
        drop(home);
        for name in ["replica.db", "replica.db-wal", "replica.db-shm", "replica.db.lock", "notes.txt"] {
            fs::write(path.join(name), "old").unwrap();
        }
        drop(Home::prepare(&path).unwrap());
        let mut left: Vec<_> = fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["notes.txt", "readside.yaml", "replica.db.lock"]);
    }

    #[test]
    fn the_configuration_is_valid_and_has_the_columns_of_the_shop() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("it's a \"demo\": #1");
        let mut home = Home::prepare(&path).unwrap();
        home.write_config(addresses()).unwrap();
        let loaded = crate::config::load(&home.config_path, std::iter::empty()).unwrap();
        assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
        let config = loaded.config;
        assert_eq!(config.replica.target.to_string(), home.replica_path.display().to_string());
        assert_eq!((config.http.listen, config.admin.listen), (addresses().http, addresses().admin));
        assert_eq!(config.kafka.brokers, ["127.0.0.1:9092"]);
        let mut shop = Shop::new(1);
        shop.open(1_795_434_797_275);
        let expected = shop.expected();
        assert_eq!(config.tables.len(), expected.len());
        for (table, expected) in config.tables.iter().zip(expected) {
            assert_eq!(table.name, expected.table);
            assert!(expected.rows.iter().all(|row| row.len() == table.columns.len()), "{}", table.name);
        }
    }

    #[test]
    fn a_replica_in_redis_is_another_section_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let mut home = Home::prepare(directory.path()).unwrap();
        let socket = Path::new("/it's a \"demo\": #1/redis.sock");
        home.write_config(Addresses { redis: Some(socket), ..addresses() }).unwrap();
        let loaded = crate::config::load(&home.config_path, std::iter::empty()).unwrap();
        assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
        assert_eq!(loaded.config.replica.target.to_string(), format!("unix:{}", socket.display()));
    }

    #[test]
    fn files_of_somebody_else_are_refused_and_stay() {
        for name in ["readside.yaml", "replica.db", "replica.db-wal"] {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join(name);
            fs::write(&path, "kafka: {}\n").unwrap();
            let failure = Home::prepare(directory.path()).unwrap_err();
            assert_eq!(failure.exit_code, 64, "{name}");
            assert!(failure.reason.contains(name) && failure.reason.contains("--dir"), "{failure}");
            assert_eq!(fs::read_to_string(&path).unwrap(), "kafka: {}\n");
            assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
        }
    }

    #[test]
    fn a_directory_in_use_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let first = Home::prepare(directory.path()).unwrap();
        assert_eq!(Home::prepare(directory.path()).unwrap_err().exit_code, 74);
        fs::write(&first.replica_path, "rows").unwrap();
        drop(first);
        // A writer that is not a demo.
        let writer = File::create(directory.path().join("replica.db.lock")).unwrap();
        writer.lock().unwrap();
        assert_eq!(Home::prepare(directory.path()).unwrap_err().exit_code, 74);
        assert!(directory.path().join("replica.db").exists());
    }

    #[test]
    fn a_path_that_is_no_directory_is_an_io_error() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert_eq!(Home::prepare(file.path()).unwrap_err().exit_code, 74);
    }
}
