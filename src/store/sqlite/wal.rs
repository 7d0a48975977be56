//! The write-ahead log: kept short, and what is known of a reader that does not let it be.
//!
//! Commits copy it into the file as they go, from 1,000 pages on, and begin it again from its start
//! when all of it is copied and nobody reads it. A read transaction that stays open keeps everything
//! that is written after its beginning from being copied: the log grows until it ends. Nobody can end
//! it but its own process, so that it is noticed and said, and writing stops before the volume is full
//! ([`Settings::wal_max`](super::Settings)).

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use super::error::{from_io, stop_io};
use super::{SqliteStore, owner};
use crate::domain::retry::RetryReason;
use crate::store::{LONG_READER, StoreError};

/// A log longer than this is cut, which needs a moment without old readers.
const LARGE_BYTES: u64 = 24 << 20;
/// SQLite's own default: from here on each commit tries to copy what it can.
const COPIED_FROM_PAGES: i64 = 1_000;
/// A reader that has been there for so long is not waited for when the log is to be cut.
const PATIENCE: Duration = Duration::from_secs(10);
/// Processes that are named, at most.
const PROCESSES_MAX: usize = 8;

/// A reader that keeps the log from being copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pinned {
    /// Where its snapshot ends, in pages of the log: as long as that does not move it is the same.
    copied: i64,
    /// When it was first seen, ms since 1970.
    since_ms: i64,
}

/// What was found in one look at the log.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Tended {
    pub pages_pinned: u64,
    pub pinned_for: Duration,
    /// Ids of the processes that read, where they can be known.
    pub processes: Vec<u32>,
}

impl SqliteStore {
    pub(super) fn tend_wal(&mut self, now_ms: i64) -> Result<Tended, StoreError> {
        let (pages, copied) = self.checkpoint("NOOP")?;
        self.pinned = (pages >= COPIED_FROM_PAGES && copied < pages).then(|| match self.pinned {
            // A clock that was set back does not make it younger than nothing.
            Some(known) if known.copied == copied => Pinned { since_ms: known.since_ms.min(now_ms), copied },
            _ => Pinned { since_ms: now_ms, copied },
        });
        let mut tended = Tended::default();
        if let Some(pinned) = self.pinned {
            tended.pages_pinned = (pages - copied).max(0) as u64;
            let age_ms = now_ms.saturating_sub(pinned.since_ms);
            tended.pinned_for = Duration::from_millis(u64::try_from(age_ms).unwrap_or(0));
            if tended.pinned_for >= LONG_READER {
                tended.processes = readers(&owner::sibling(&self.path, "-shm"));
            }
        }
        if self.wal_bytes() <= LARGE_BYTES {
            return Ok(tended);
        }
        if tended.pinned_for >= PATIENCE {
            // Without waiting for anybody: should it have gone, the next look cuts the log.
            self.checkpoint("PASSIVE")?;
            return Ok(tended);
        }
        // Readers that come after this one share its snapshot, so that short ones that overlap do
        // not keep an older one in use for ever.
        self.conn
            .prepare_cached("SELECT live FROM _readside_meta_replica")?
            .query_row([], |row| row.get::<_, i64>(0))?;
        let (pages, copied) = self.checkpoint("TRUNCATE")?;
        if copied >= pages {
            self.pinned = None;
            return Ok(Tended::default());
        }
        tended.pages_pinned = (pages - copied) as u64;
        Ok(tended)
    }

    /// Refuses to write on while a reader keeps a log of this length from being copied.
    pub(super) fn bound_wal(&mut self) -> Result<(), StoreError> {
        let bytes = self.wal_bytes();
        if bytes <= self.settings.wal_max_bytes {
            return Ok(());
        }
        let (pages, copied) = self.checkpoint("PASSIVE")?;
        if copied >= pages {
            return Ok(());
        }
        let readers = readers(&owner::sibling(&self.path, "-shm"));
        let who = match readers.is_empty() {
            true => String::new(),
            false => format!(" (processes that read: {readers:?})"),
        };
        Err(StoreError::Retry {
            reason: RetryReason::WalFull,
            message: format!(
                "a read transaction keeps {bytes} bytes of write-ahead log from being reused, and \
                 replica.sqlite.max_wal allows {}: end it{who}",
                self.settings.wal_max_bytes
            ),
        })
    }

    /// Pages in the log, and how many of them are in the file.
    fn checkpoint(&self, mode: &str) -> Result<(i64, i64), StoreError> {
        Ok(self
            .conn
            .prepare_cached(&format!("PRAGMA wal_checkpoint({mode})"))?
            .query_row([], |row| Ok((row.get(1)?, row.get(2)?)))?)
    }

    /// What is written into a log that has no name any more is seen by nobody, and gone with the process.
    pub(super) fn look_at_wal(&mut self) -> Result<(), StoreError> {
        use std::os::unix::fs::MetadataExt;
        let path = owner::sibling(&self.path, "-wal");
        let inode = match fs::metadata(&path) {
            Ok(found) => Some(found.ino()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(from_io(&error, &path)),
        };
        match self.wal_inode {
            Some(known) if inode != Some(known) => Err(stop_io(
                "its write-ahead log (-wal) was deleted or replaced while readside writes it; restart: what was \
                 lost is read again from the log of Kafka"
                    .into(),
            )),
            _ => {
                self.wal_inode = inode;
                Ok(())
            }
        }
    }

    pub(super) fn wal_bytes(&self) -> u64 {
        fs::metadata(owner::sibling(&self.path, "-wal")).map_or(0, |found| found.len())
    }
}

/// The processes that hold a lock for reading in the index of the log, from `/proc/locks`: those of
/// other containers are not in it. The file itself must not be opened: closing it would give up the
/// locks of this process.
fn readers(index: &Path) -> Vec<u32> {
    use std::os::unix::fs::MetadataExt;
    let (Ok(found), Ok(locks)) = (fs::metadata(index), fs::read_to_string("/proc/locks")) else {
        return Vec::new();
    };
    holders(&locks, found.ino(), std::process::id())
}

/// Bytes of the index that readers lock: <https://sqlite.org/walformat.html#wal_locks>. The first of the
/// five reads the file alone, which nothing may be copied into then.
const READ_MARKS: std::ops::RangeInclusive<u64> = 123..=127;

fn holders(locks: &str, inode: u64, own: u32) -> Vec<u32> {
    let mut found = Vec::new();
    for line in locks.lines() {
        // `7: POSIX  ADVISORY  READ 4321 08:02:131090 124 124`; waiting ones have `->` in the second place.
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let [_, "POSIX" | "OFDLCK", _, "READ", process, file, from, to] = words[..] else { continue };
        let is_this = file.rsplit(':').next().and_then(|text| text.parse().ok()) == Some(inode);
        let number = |text: &str| text.parse::<u64>().ok();
        let (Some(from), Some(to)) = (number(from), number(to)) else { continue };
        let marks = from <= *READ_MARKS.end() && to >= *READ_MARKS.start();
        match process.parse::<u32>() {
            Ok(process) if is_this && marks && process != own && !found.contains(&process) => {
                found.push(process);
            }
            _ => {}
        }
        if found.len() == PROCESSES_MAX {
            break;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readers_are_found_by_the_file_and_the_bytes_they_lock() {
        let locks = "\
1: POSIX  ADVISORY  READ 100 08:02:77 124 124
1: -> POSIX  ADVISORY  WRITE 101 08:02:77 124 124
2: POSIX  ADVISORY  READ 102 08:02:77 128 128
3: POSIX  ADVISORY  READ 103 08:02:78 125 125
4: POSIX  ADVISORY  WRITE 104 08:02:77 126 126
5: FLOCK  ADVISORY  WRITE 105 08:02:77 0 EOF
6: POSIX  ADVISORY  READ 106 00:2e:77 123 127
7: POSIX  ADVISORY  READ 107 08:02:77 127 127
8: POSIX  ADVISORY  READ 100 08:02:77 125 125
9: POSIX  ADVISORY  READ 108 08:02:77 122 122
nonsense
";
        assert_eq!(holders(locks, 77, 107), [100, 106]);
        let many: String =
            (0..50).map(|n| format!("1: POSIX ADVISORY READ {} 0:0:7 124 124\n", n + 1)).collect();
        assert_eq!(holders(&many, 7, 0).len(), PROCESSES_MAX);
    }
}
