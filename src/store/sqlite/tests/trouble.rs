//! Full disks, locks, damage.

use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::os::fd::AsRawFd as _;
use std::time::Duration;

use rusqlite::params;

use super::*;
use crate::domain::change::Change;
use crate::domain::value::Value;

/// An upsert with a long text.
fn large(nth: i64, number: i64, bytes: usize) -> Change {
    let mut change = upsert(nth, number);
    change.values[1] = Value::Text("x".repeat(bytes));
    change
}

#[test]
fn a_full_disk_is_retried_and_leaves_nothing_behind() {
    let bench = bench();
    let mut store = bench.open();
    store.apply(&Batch { advances: advance(None, 1), ..batch([upsert(1, 1)]) }).unwrap();
    let limit = |store: &SqliteStore, pages: i64| {
        store.conn.query_row(&format!("PRAGMA max_page_count = {pages}"), [], |_| Ok(())).unwrap();
    };
    limit(&store, 1);
    let big = Batch { advances: advance(Some(1), 2), ..batch((2..50).map(|nth| large(nth, 2, 4_000))) };
    retried(store.apply(&big), RetryReason::DiskFull);
    assert_eq!(store.figures().rows[0], 1);
    assert_eq!(store.checkpoint().unwrap().positions[&AT].next_offset, 1);
    limit(&store, 1 << 30);
    store.apply(&big).unwrap();
    assert_eq!(store.figures().rows[0], 49);
}

#[test]
fn a_lock_of_another_program_is_retried() {
    let bench = bench();
    let mut store = bench.open();
    let rival = Connection::open(bench.path()).unwrap();
    rival.execute_batch("BEGIN IMMEDIATE").unwrap();
    let change = batch([upsert(1, 1)]);
    retried(store.apply(&change), RetryReason::Busy);
    rival.execute_batch("ROLLBACK").unwrap();
    store.apply(&change).unwrap();
    assert_eq!(look(&bench, 1), visible(1, 1));
}

#[test]
fn a_commit_that_fails_leaves_nothing_behind() {
    let bench = bench();
    let mut store = bench.open();
    let change = Batch { advances: advance(None, 1), ..batch([upsert(1, 1), delete(2, 2)]) };
    store.conn.commit_hook(Some(|| true)).unwrap();
    store.apply(&change).unwrap_err();
    assert_eq!((store.figures().rows[0], store.figures().delete_marks[0]), (0, 0));
    store.conn.commit_hook(None::<fn() -> bool>).unwrap();
    store.apply(&change).unwrap();
    assert_eq!((store.figures().rows[0], store.figures().delete_marks[0]), (1, 1));
}

#[test]
fn a_file_that_turns_read_only_stops() {
    let mut store = bench().open();
    store.conn.pragma_update(None, "query_only", true).unwrap();
    let message = stopped(store.apply(&batch([upsert(1, 1)])), StopCode::Io);
    assert!(message.contains("writable"), "{message}");
}

#[test]
fn a_damaged_file_stops() {
    let bench = bench();
    let mut store = bench.open();
    store.apply(&batch((0..2_000).map(|nth| upsert(nth, nth)))).unwrap();
    store.complete().unwrap();
    drop(store);
    let root: i64 = reading(&bench.path())
        .query_row("SELECT rootpage FROM sqlite_schema WHERE name = '_readside_g1_users'", [], |row| {
            row.get(0)
        })
        .unwrap();
    let mut file = fs::OpenOptions::new().write(true).open(bench.path()).unwrap();
    file.seek(SeekFrom::Start((root as u64 - 1) * 4096)).unwrap();
    file.write_all(&[0xAA; 4096]).unwrap();
    let mut store = bench.open();
    let message = stopped(store.apply(&batch([upsert(7, 9_999)])), StopCode::Io);
    assert!(message.contains("damaged"), "{message}");
}

#[test]
fn tampering_stops() {
    let bench = bench();
    let mut store = bench.open();
    store.apply(&batch([upsert(1, 1), patch(1, 5, 0b0100, IfMissing::Hold)])).unwrap();
    store.conn.execute("UPDATE _readside_g1_users SET _readside_d = ?1", params![b"\x09nonsense"]).unwrap();
    stopped(store.apply(&batch([upsert(1, 3)])), StopCode::Io);
    store.conn.execute_batch("DROP TABLE _readside_g1_users").unwrap();
    stopped(store.apply(&batch([upsert(1, 6)])), StopCode::Io);
}

#[test]
fn a_log_that_is_taken_away_stops() {
    let bench = bench();
    let mut store = bench.open();
    store.apply(&batch([upsert(1, 1)])).unwrap();
    store.maintain(NOW_MS).unwrap();
    fs::remove_file(owner::sibling(&bench.path(), "-wal")).unwrap();
    let message = stopped(store.maintain(NOW_MS), StopCode::Io);
    assert!(message.contains("-wal"), "{message}");
}

const VISITS: &str = "READSIDE_TEST_VISITS";

/// No test of its own: looks, as another program that opens the file for writing does when it closes it,
/// whether anybody else has it open. Then the write-ahead log stays.
#[test]
fn another_process_that_visits() {
    let Some(path) = std::env::var_os(VISITS) else { return };
    let file = fs::OpenOptions::new().write(true).open(path).unwrap();
    // The bytes that an open file has locked: <https://sqlite.org/src/file/src/os.h>, SHARED_FIRST.
    let mut lock = libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0x4000_0002,
        l_len: 510,
        l_pid: 0,
    };
    // SAFETY: an open file, and a lock that outlives the call.
    assert_eq!(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETLK, &raw mut lock) }, 0);
    println!("it is {}", if lock.l_type == libc::F_UNLCK as libc::c_short { "free" } else { "in use" });
}

/// Closing a descriptor of our own, in order to flush the file, gave up the locks that tell others of us.
#[test]
fn a_file_whose_first_copy_was_completed_is_still_in_use() {
    let bench = bench();
    let visit = || {
        let child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "store::sqlite::tests::trouble::another_process_that_visits", "--nocapture"])
            .env(VISITS, bench.path())
            .output()
            .unwrap();
        String::from_utf8(child.stdout).unwrap()
    };
    let mut store = bench.open();
    store.apply(&batch([upsert(1, 1)])).unwrap();
    assert!(visit().contains("it is in use"));
    store.complete().unwrap();
    assert!(visit().contains("it is in use"));
    drop(store);
    assert!(visit().contains("it is free"));
}

#[test]
fn a_file_that_is_moved_away_stops() {
    let bench = bench();
    let mut store = bench.open();
    store.apply(&batch([upsert(1, 1)])).unwrap();
    store.maintain(NOW_MS).unwrap();
    fs::rename(bench.path(), bench.path().with_extension("old")).unwrap();
    stopped(store.maintain(NOW_MS), StopCode::Io);
}

#[test]
fn a_wal_that_a_reader_pins_is_cut_once_it_is_gone() {
    let bench = bench();
    let mut store = bench.open();
    store.complete().unwrap();
    let reader = reading(&bench.path());
    reader.execute_batch("BEGIN; SELECT COUNT(*) FROM users;").unwrap();
    reader.query_row("SELECT COUNT(*) FROM users", [], |row| row.get::<_, i64>(0)).unwrap();
    for number in 0..16 {
        store.apply(&batch((0..4).map(|nth| large(nth, number, 500_000)))).unwrap();
    }
    assert!(store.figures().wal_bytes > Some(24 << 20), "{:?}", store.figures());
    assert!(store.maintain(NOW_MS).unwrap().wal_pages_pinned > 0);
    reader.execute_batch("COMMIT").unwrap();
    assert_eq!(store.maintain(NOW_MS).unwrap().wal_pages_pinned, 0);
    assert_eq!(store.figures().wal_bytes, Some(0));
}

#[test]
fn without_readers_the_wal_stays_short() {
    let bench = bench();
    let mut store = bench.open();
    store.complete().unwrap();
    for number in 0..40 {
        store.apply(&batch((0..4).map(|nth| large(nth, number, 250_000)))).unwrap();
        assert!(store.figures().wal_bytes < Some(16 << 20), "{:?}", store.figures());
    }
}

#[test]
fn a_large_truncate_looks_at_every_page_of_details() {
    let bench = bench();
    let mut store = bench.open();
    let rows = 1_000;
    // Whole rows, patched rows, held patches and marks; every other one newer than the truncate.
    let number = |nth: i64| if nth % 2 == 0 { 10 } else { 30 };
    store.apply(&batch((0..rows).map(|nth| upsert(nth, number(nth))))).unwrap();
    let patched = (0..rows).filter(|nth| nth % 3 == 0);
    let later = |nth: i64| number(nth) + 1;
    store.apply(&batch(patched.map(|nth| patch(nth, later(nth), 0b0100, IfMissing::Hold)))).unwrap();
    store
        .apply(&batch((rows..2 * rows).map(|nth| patch(nth, number(nth), 0b0100, IfMissing::Hold))))
        .unwrap();
    store.apply(&batch((2 * rows..3 * rows).map(|nth| delete(nth, number(nth))))).unwrap();
    let truncate = Change { operation: Operation::Truncate, values: vec![], ..delete(0, 20) };
    store.apply(&batch([truncate])).unwrap();
    let figures = store.figures();
    assert_eq!((figures.rows[0], figures.held[0], figures.delete_marks[0]), (500, 500, 500));
    let counted: i64 =
        store.conn.query_row("SELECT COUNT(*) FROM _readside_g1_users", [], |row| row.get(0)).unwrap();
    assert_eq!(counted, 500);
    assert_eq!(look(&bench, 2 * rows), RowLookup::Missing);
}

const READS: &str = "READSIDE_TEST_READS";

/// A reader in a process of its own, in a transaction until it is told to end it.
struct Reading(std::process::Child);

impl Reading {
    fn start(path: &Path) -> Reading {
        use std::io::BufRead as _;
        let mut child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "store::sqlite::tests::trouble::another_process_that_reads", "--nocapture"])
            .env(READS, path)
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = std::io::BufReader::new(child.stdout.as_mut().unwrap());
        let mut line = String::new();
        while !line.contains("it reads") {
            line.clear();
            assert!(said.read_line(&mut line).unwrap() > 0, "it has not begun to read");
        }
        Reading(child)
    }

    fn end(mut self) {
        drop(self.0.stdin.take());
        self.0.wait().unwrap();
    }
}

/// No test of its own: what [`Reading`] starts.
#[test]
fn another_process_that_reads() {
    let Some(path) = std::env::var_os(READS) else { return };
    let reader = reading(Path::new(&path));
    reader.execute_batch("BEGIN; SELECT COUNT(*) FROM users;").unwrap();
    reader.query_row("SELECT COUNT(*) FROM users", [], |row| row.get::<_, i64>(0)).unwrap();
    println!("it reads");
    std::io::Read::read_to_end(&mut std::io::stdin(), &mut Vec::new()).unwrap();
}

#[test]
fn a_reader_that_stays_is_seen_with_its_age_and_its_process() {
    let bench = bench();
    let mut store = bench.open();
    store.complete().unwrap();
    let grow = |store: &mut SqliteStore, number| {
        store.apply(&batch((0..4).map(|nth| large(nth, number, 600_000)))).unwrap();
    };
    grow(&mut store, 1);
    grow(&mut store, 2);
    grow(&mut store, 3);
    let done = store.maintain(NOW_MS).unwrap();
    assert_eq!((done.wal_pages_pinned, done.wal_pinned_for), (0, Duration::ZERO), "nobody reads");
    let reader = Reading::start(&bench.path());
    let id = reader.0.id();
    for number in 4..8 {
        grow(&mut store, number);
    }
    let first = store.maintain(NOW_MS).unwrap();
    assert!(first.wal_pages_pinned > 1_000, "{first:?}");
    assert_eq!(first.wal_pinned_for, Duration::ZERO);
    // Others come and go: it is the same one still.
    let short = reading(&bench.path());
    short.query_row("SELECT COUNT(*) FROM users", [], |row| row.get::<_, i64>(0)).unwrap();
    grow(&mut store, 8);
    let later = store.maintain(NOW_MS + 61_000).unwrap();
    assert_eq!(later.wal_pinned_for, Duration::from_secs(61));
    assert!(later.wal_pages_pinned > first.wal_pages_pinned);
    // Here, where /proc/locks shows it.
    if fs::metadata("/proc/locks").is_ok() {
        assert_eq!(later.wal_readers, [id]);
    }
    // A clock that is set back makes nothing younger than it is, and nothing older.
    assert_eq!(store.maintain(NOW_MS - 5_000).unwrap().wal_pinned_for, Duration::ZERO);
    reader.end();
    grow(&mut store, 9);
    let after = store.maintain(NOW_MS + 62_000).unwrap();
    assert_eq!((after.wal_pages_pinned, after.wal_pinned_for), (0, Duration::ZERO));
    assert_eq!(
        store.figures().wal_bytes.unwrap_or(u64::MAX).min(24 << 20),
        store.figures().wal_bytes.unwrap()
    );
}

#[test]
fn a_wal_that_a_reader_keeps_is_written_on_up_to_its_bound_only() {
    let bench = bench();
    let settings = Settings { wal_max_bytes: 8 << 20, ..settings() };
    let mut store = SqliteStore::open(&bench.path(), Arc::new(catalog()), settings).unwrap();
    store.complete().unwrap();
    let large_batch = |number| batch((0..4).map(|nth| large(nth, number, 600_000)));
    // Without a reader the same amount is no matter.
    for number in 1..8 {
        store.apply(&large_batch(number)).unwrap();
    }
    let reader = Reading::start(&bench.path());
    let refused = (8..20).find_map(|number| store.apply(&large_batch(number)).err());
    let Some(StoreError::Retry { reason: RetryReason::WalFull, message }) = refused else {
        panic!("{refused:?}")
    };
    assert!(message.contains("max_wal"), "{message}");
    let kept = store.figures().wal_bytes.unwrap();
    assert!(kept < 16 << 20, "{kept}");
    retried(store.apply(&batch([upsert(9, 1)])), RetryReason::WalFull);
    reader.end();
    store.apply(&batch([upsert(9, 1)])).unwrap();
    assert_eq!(look(&bench, 9), visible(9, 1));
}
