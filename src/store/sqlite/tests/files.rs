//! Whose file it is, and what is made of a crash.

use std::fs;

use rusqlite::hooks::{AuthAction, AuthContext, Authorization};

use super::*;

/// Everything in a directory, to show that nothing was touched.
fn contents(directory: &Path) -> Vec<(String, Vec<u8>)> {
    let mut all: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap()))
        .filter(|(name, _)| !name.ends_with("-shm"))
        .collect();
    all.sort();
    all
}

#[test]
fn a_second_writer_is_refused() {
    let bench = bench();
    let first = bench.open();
    let message = stopped(bench.try_open(), StopCode::Foreign);
    assert!(message.contains("another readside process"), "{message}");
    assert!(message.contains("replica.db"), "{message}");
    drop(first);
    bench.open();
}

#[test]
fn a_file_of_another_program_is_refused_and_left_as_it_is() {
    let text = bench();
    fs::write(text.path(), "dear diary, ".repeat(50)).unwrap();
    let short = bench();
    fs::write(short.path(), "x").unwrap();
    let database = bench();
    Connection::open(database.path()).unwrap().execute_batch("CREATE TABLE theirs (a)").unwrap();
    for bench in [&text, &short, &database] {
        let directory = bench.path().parent().unwrap().to_owned();
        let before = contents(&directory);
        stopped(bench.try_open(), StopCode::Foreign);
        assert_eq!(contents(&directory), before);
    }
}

#[test]
fn a_replica_that_is_not_ours_is_refused_and_left_as_it_is() {
    let open = |bench: &InSqlite, name: &str, change: &dyn Fn(&mut crate::domain::catalog::Catalog)| {
        let mut catalog = catalog();
        change(&mut catalog);
        let settings = Settings { replica_name: name.into(), ..settings() };
        SqliteStore::open(&bench.path(), Arc::new(catalog), settings)
    };
    let bench = bench();
    let mut store = bench.open();
    store.apply(&batch([upsert(1, 10)])).unwrap();
    store.complete().unwrap();
    store.apply(&batch([upsert(1, 11)])).unwrap();
    drop(store);
    let directory = bench.path().parent().unwrap().to_owned();
    let before = contents(&directory);

    let message = stopped(open(&bench, "invoices", &|_| {}), StopCode::Foreign);
    assert!(message.contains("\"orders\"") && message.contains("\"invoices\""), "{message}");
    let message = stopped(open(&bench, "orders", &|c| c.fingerprint = "other".into()), StopCode::Foreign);
    assert!(message.contains("built under another mapping"), "{message}");
    let message =
        stopped(open(&bench, "orders", &|c| c.tables[2].fingerprint = "other".into()), StopCode::Foreign);
    assert!(message.contains("Order"), "{message}");
    // The fingerprint should have told; if it did not, the definition does.
    let message =
        stopped(open(&bench, "orders", &|c| c.tables[0].columns[3].nullable = false), StopCode::Foreign);
    assert!(message.contains("of users"), "{message}");
    stopped(open(&bench, "orders", &|c| drop(c.tables.pop())), StopCode::Foreign);
    assert_eq!(contents(&directory), before);

    let conn = Connection::open(bench.path()).unwrap();
    conn.pragma_update(None, "user_version", super::super::layout::LAYOUT + 1).unwrap();
    drop(conn);
    let message = stopped(bench.try_open(), StopCode::Foreign);
    assert!(message.contains(&format!("knows layout {}", super::super::layout::LAYOUT)), "{message}");
}

#[test]
fn an_empty_file_and_a_missing_directory_are_fine() {
    let empty = bench();
    fs::write(empty.path(), "").unwrap();
    empty.open();
    let deep = bench();
    let path = deep.path().parent().unwrap().join("a/b/replica.db");
    SqliteStore::open(&path, Arc::new(catalog()), settings()).unwrap();
}

/// Permissions do not stop root, who runs these tests in a container; a directory in the place of
/// a file stops everybody.
#[test]
fn what_cannot_be_opened_stops() {
    let directory = bench();
    fs::create_dir(directory.path()).unwrap();
    stopped(directory.try_open(), StopCode::Io);
    let lock = bench();
    fs::create_dir(owner::sibling(&lock.path(), ".lock")).unwrap();
    stopped(lock.try_open(), StopCode::Io);
    let file = bench();
    fs::write(file.path(), "").unwrap();
    stopped(
        SqliteStore::open(&file.path().join("replica.db"), Arc::new(catalog()), settings()),
        StopCode::Io,
    );
}

#[test]
fn settings_that_change_no_row_are_adopted_in_place() {
    let bench = bench();
    let mut store = bench.open();
    store.apply(&batch([upsert(1, 10)])).unwrap();
    store.complete().unwrap();
    drop(store);
    let indexes = || -> Vec<String> {
        let sql = "SELECT sql FROM sqlite_schema WHERE type = 'index' AND name LIKE '\\_readside\\_g1i%' ESCAPE '\\' \
                   ORDER BY name";
        let conn = reading(&bench.path());
        let mut statement = conn.prepare(sql).unwrap();
        statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    };
    assert_eq!(indexes().len(), 2);
    let mut changed = catalog();
    changed.tables[0].indexes = vec![vec![2], vec![3]];
    changed.tables[0].max_staleness_ms = 7;
    let settings = Settings { heartbeat_limit: std::time::Duration::from_millis(9), ..settings() };
    let store = SqliteStore::open(&bench.path(), Arc::new(changed), settings).unwrap();
    let found = indexes();
    assert_eq!(found.len(), 2);
    assert!(found[0].ends_with("(\"email\")") && found[1].ends_with("(\"score\")"), "{found:?}");
    let limits: (i64, i64) = store
        .conn
        .query_row(
            "SELECT max_staleness_ms, heartbeat_limit_ms FROM _readside_facts WHERE ordinal = 0",
            [],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
        .unwrap();
    assert_eq!(limits, (7, 9));
}

#[test]
fn a_killed_writer_leaves_whole_batches() {
    let bench = bench();
    let mut store = bench.open();
    for nth in 1..=20 {
        let from = (nth > 1).then(|| (nth - 1) * 10);
        store.apply(&Batch { advances: advance(from, nth * 10), ..batch([upsert(nth, nth)]) }).unwrap();
        if nth == 10 {
            store.complete().unwrap();
        }
        let copy = crashed(&bench);
        let mut again = copy.open();
        let checkpoint = again.checkpoint().unwrap();
        assert_eq!(checkpoint.positions[&AT].next_offset, nth * 10);
        assert_eq!(checkpoint.complete, nth >= 10);
        assert_eq!(again.figures().rows[0], nth as u64);
        assert_eq!(look(&copy, nth), visible(nth, nth));
    }
}

#[test]
fn a_first_copy_starts_over_after_the_machine_went_down() {
    let bench = bench();
    let mut store = bench.open();
    store.apply(&Batch { advances: advance(None, 10), ..batch([upsert(1, 10)]) }).unwrap();
    let lock = |bench: &InSqlite| owner::sibling(&bench.path(), ".lock");
    assert!(fs::read_to_string(lock(&bench)).unwrap().starts_with("building "));

    // Killed, same boot: goes on.
    let killed = crashed(&bench);
    assert_eq!(killed.open().checkpoint().unwrap().positions[&AT].next_offset, 10);

    // The machine went down, and left a hole in the file.
    let lost = crashed(&bench);
    fs::write(lock(&lost), "building another-boot").unwrap();
    fs::write(lost.path(), vec![0; 8192]).unwrap();
    let mut again = lost.open();
    assert!(again.checkpoint().unwrap().positions.is_empty());
    again.apply(&Batch { advances: advance(None, 10), ..batch([upsert(1, 10)]) }).unwrap();

    // Somebody else's file in its place is still somebody else's.
    let taken = crashed(&bench);
    fs::write(lock(&taken), "building another-boot").unwrap();
    fs::write(taken.path(), "dear diary").unwrap();
    stopped(taken.try_open(), StopCode::Foreign);
    assert_eq!(fs::read_to_string(taken.path()).unwrap(), "dear diary");

    // Closed in order: as good as complete, on any machine.
    drop(store);
    assert_eq!(fs::read_to_string(lock(&bench)).unwrap(), "");
    let mut store = bench.open();
    assert_eq!(store.checkpoint().unwrap().positions[&AT].next_offset, 10);

    // The machine went down right after the copy was complete.
    store.complete().unwrap();
    assert_eq!(fs::read_to_string(lock(&bench)).unwrap(), "");
    let complete = crashed(&bench);
    fs::write(lock(&complete), "building another-boot").unwrap();
    assert_eq!(complete.open().checkpoint().unwrap().positions[&AT].next_offset, 10);

    // It went down before the first copy had its write-ahead log.
    let early = crashed(&bench);
    fs::write(lock(&early), "building another-boot").unwrap();
    let other = Connection::open(early.path()).unwrap();
    other.execute_batch("PRAGMA journal_mode = DELETE; PRAGMA cache_size = 1; BEGIN").unwrap();
    other.execute_batch("CREATE TABLE large AS SELECT hex(zeroblob(500000))").unwrap();
    let halfway = self::bench();
    for suffix in ["", "-journal", ".lock"] {
        let part = |bench: &InSqlite| owner::sibling(&bench.path(), suffix);
        fs::copy(part(&early), part(&halfway)).unwrap();
    }
    assert!(halfway.open().checkpoint().unwrap().positions.is_empty());
    drop(other);

    // It cannot be read at the moment: nobody knows that it is not complete.
    let locked = crashed(&bench);
    fs::write(lock(&locked), "building another-boot").unwrap();
    let other = Connection::open(locked.path()).unwrap();
    other.execute_batch("PRAGMA locking_mode = EXCLUSIVE; BEGIN EXCLUSIVE").unwrap();
    retried(locked.try_open(), RetryReason::Busy);
    drop(other);
    assert_eq!(locked.open().checkpoint().unwrap().positions[&AT].next_offset, 10);
}

/// The lock file says that the copy is whole, and commits are as fast as those of a live one.
#[test]
fn what_fails_behind_the_commit_of_a_first_copy_is_done_again() {
    let bench = bench();
    let mut store = bench.open();
    store.apply(&batch([upsert(1, 10)])).unwrap();
    let refuse = |context: AuthContext<'_>| match context.action {
        AuthAction::Pragma { pragma_name: "synchronous", pragma_value: Some("'NORMAL'" | "NORMAL") } => {
            Authorization::Deny
        }
        _ => Authorization::Allow,
    };
    store.conn.authorizer(Some(refuse)).unwrap();
    store.complete().unwrap_err();
    store.conn.authorizer(None::<fn(AuthContext<'_>) -> Authorization>).unwrap();
    store.complete().unwrap();
    let synchronous: i64 = store.conn.pragma_query_value(None, "synchronous", |row| row.get(0)).unwrap();
    assert_eq!(synchronous, 1, "NORMAL");
    assert_eq!(fs::read_to_string(owner::sibling(&bench.path(), ".lock")).unwrap(), "");
    assert!(bench.reader().status(NOW_MS).unwrap().complete);
}
