//! A generation beside the live one in a file; what holds for every store is in the contract.

use super::*;
use crate::domain::catalog::Catalog;
use crate::domain::checkpoint::TopicPartition;
use crate::domain::dead_letter::{DeadLetter, Kept, Origin, Reason, Rejection};
use crate::store::sqlite::replica::SqliteReplica;
use crate::store::{Completion, Live, Reader, Rebuild};

fn replica(bench: &InSqlite) -> SqliteReplica {
    SqliteReplica::open(&bench.path(), settings()).unwrap()
}

fn begin(replica: &SqliteReplica, rebuild: &Rebuild) -> SqliteStore {
    replica.begin(Arc::new(catalog()), rebuild).unwrap().unwrap()
}

fn open_live(replica: &SqliteReplica) -> SqliteStore {
    replica.open_live(Arc::new(catalog())).unwrap()
}

/// Rows `rows` with version `number`, and the position that this leads to.
fn upserts(rows: std::ops::Range<i64>, number: i64, from: Option<i64>, to: i64) -> Batch {
    Batch { advances: advance(from, to), ..batch(rows.map(|nth| upsert(nth, number))) }
}

/// A whole copy of `rows` rows that stands at 10.
fn complete(replica: &SqliteReplica, rows: i64) -> SqliteStore {
    let mut live = open_live(replica);
    live.apply(&upserts(0..rows, 1, None, 10)).unwrap();
    assert_eq!(live.complete().unwrap(), Completion::Done);
    live
}

fn count(bench: &InSqlite, sql: &str) -> i64 {
    reading(&bench.path()).query_row(sql, [], |row| row.get(0)).unwrap()
}

const ROWS: &str = "SELECT COUNT(*) FROM users";
const LIVE: &str = "SELECT generation FROM _readside_status WHERE table_name IS NULL";
const OF_FIRST: &str = "SELECT COUNT(*) FROM sqlite_schema WHERE name LIKE '\\_readside\\_g1%' ESCAPE '\\'";

#[test]
fn open_statements_finish_on_what_they_began_with() {
    let bench = bench();
    let replica = replica(&bench);
    let _live = complete(&replica, 500);
    let reader = reading(&bench.path());
    let mut statement = reader.prepare("SELECT id, name FROM users ORDER BY id").unwrap();
    let mut rows = statement.query([]).unwrap();
    rows.next().unwrap().unwrap();
    let mut next = begin(&replica, &asked_for());
    next.apply(&upserts(0..600, 2, None, 10)).unwrap();
    assert_eq!(next.complete().unwrap(), Completion::Done);
    while next.maintain(NOW_MS).unwrap().more {}
    let mut seen = 1;
    while let Some(row) = rows.next().unwrap() {
        assert!(row.get::<_, String>(1).unwrap().starts_with("text 1 "), "a mixture");
        seen += 1;
    }
    assert_eq!(seen, 500);
    drop(rows);
    // The same statement, run again, has the new rows.
    let mut rows = statement.query([]).unwrap();
    let mut seen = 0;
    while let Some(row) = rows.next().unwrap() {
        assert!(row.get::<_, String>(1).unwrap().starts_with("text 2 "));
        seen += 1;
    }
    assert_eq!(seen, 600);
}

#[test]
fn readers_that_never_pause_see_one_generation_or_the_other() {
    let bench = bench();
    let replica = replica(&bench);
    let mut live = open_live(&replica);
    // With a number whose score is not null, as those below.
    live.apply(&upserts(0..50, 2, None, 10)).unwrap();
    live.complete().unwrap();
    let stop = std::sync::atomic::AtomicBool::new(false);
    let looks: [_; 3] = std::array::from_fn(|_| std::sync::atomic::AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let readers: Vec<_> = looks
            .each_ref()
            .map(|looks| {
                let (bench, stop) = (&bench, &stop);
                scope.spawn(move || {
                    let (reader, mut newest) = (reading(&bench.path()), 0);
                    while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                        let sql = "SELECT COUNT(*), MIN(score), MAX(score) FROM users";
                        let (all, least, most): (i64, f64, f64) = reader
                            .query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
                            .expect("a look");
                        assert_eq!((all, least), (50, most), "a mixture");
                        let generation = (least * 8.0) as i64;
                        assert!(generation >= newest, "{generation} after {newest}");
                        newest = generation;
                        looks.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    }
                })
            })
            .into();
        // Each has looked since, unless it has failed.
        let have_looked = || {
            for (reader, looks) in readers.iter().zip(&looks) {
                looks.store(0, std::sync::atomic::Ordering::Relaxed);
                while looks.load(std::sync::atomic::Ordering::Relaxed) == 0 && !reader.is_finished() {
                    std::thread::yield_now();
                }
            }
        };
        for number in [2, 3, 4, 6, 7, 8, 10, 11].map(|number| number * 8 + 2) {
            let mut next = begin(&replica, &asked_for());
            next.apply(&upserts(0..50, number, None, 10)).unwrap();
            assert_eq!(next.complete().unwrap(), Completion::Done);
            while next.maintain(NOW_MS).unwrap().more {}
            live = next;
            have_looked();
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        for reader in readers {
            reader.join().expect("nothing wrong was seen");
        }
    });
    drop(live);
}

/// Killed after every step, before and behind the switch: what is there can be gone on with.
#[test]
fn a_killed_rebuild_is_resumed() {
    let bench = bench();
    let replica = replica(&bench);
    let mut live = complete(&replica, 3);
    let mut next = begin(&replica, &asked_for());
    let catalog = Arc::new(catalog());
    for step in 1..=6 {
        let from = (step > 1).then(|| (step - 1) * 2);
        next.apply(&upserts(0..3, step, from, step * 2)).unwrap();
        live.apply(&upserts(0..1, step + 10, Some(9 + step), 10 + step)).unwrap();
        let killed = crashed(&bench);
        let again = self::replica(&killed);
        let survey = again.survey(&catalog).unwrap();
        assert_eq!(survey.live, Live::Same);
        let found = survey.next.unwrap();
        assert!((found.generation, found.same, found.live_is_frozen) == (2, true, false));
        let mut again_live = open_live(&again);
        assert_eq!(again_live.checkpoint().unwrap().positions[&AT].next_offset, 10 + step);
        let mut resumed = again.resume(Arc::clone(&catalog)).unwrap();
        assert_eq!(resumed.checkpoint().unwrap().positions[&AT].next_offset, step * 2);
        resumed.apply(&upserts(0..4, 50, Some(step * 2), 30)).unwrap();
        assert_eq!(resumed.complete().unwrap(), Completion::Done);
        assert_eq!(count(&killed, ROWS), 4);
        stopped(again_live.apply(&upserts(0..1, 60, Some(10 + step), 40)), StopCode::Retired);
    }
    next.apply(&upserts(0..4, 7, Some(12), 20)).unwrap();
    assert_eq!(next.complete().unwrap(), Completion::Done);
    let killed = crashed(&bench);
    let again = self::replica(&killed);
    assert_eq!(again.survey(&catalog).unwrap().next, None);
    let mut after = open_live(&again);
    assert_eq!((after.generation(), after.checkpoint().unwrap().positions[&AT].next_offset), (2, 20));
    assert_eq!(count(&killed, ROWS), 4);
    while after.maintain(NOW_MS).unwrap().more {}
    assert_eq!(count(&killed, OF_FIRST), 0);
}

#[test]
fn a_commit_that_fails_switches_nothing() {
    let bench = bench();
    let replica = replica(&bench);
    let mut live = complete(&replica, 3);
    let mut next = begin(&replica, &asked_for());
    next.apply(&upserts(0..4, 2, None, 10)).unwrap();
    next.conn.commit_hook(Some(|| true)).unwrap();
    next.complete().unwrap_err();
    assert_eq!((count(&bench, ROWS), count(&bench, LIVE)), (3, 1));
    live.apply(&upserts(0..1, 3, Some(10), 11)).unwrap();
    next.conn.commit_hook(None::<fn() -> bool>).unwrap();
    next.apply(&upserts(0..1, 4, Some(10), 11)).unwrap();
    assert_eq!(next.complete().unwrap(), Completion::Done);
}

#[test]
fn a_volume_without_room_refuses_a_rebuild_and_leaves_no_trace() {
    let bench = bench();
    let settings = Settings { min_free_bytes: 1 << 60, ..settings() };
    let replica = SqliteReplica::open(&bench.path(), settings).unwrap();
    let mut live = complete(&replica, 3);
    let lack = replica.begin(Arc::new(catalog()), &asked_for()).unwrap().unwrap_err();
    assert!(lack.contains("MiB free"), "{lack}");
    assert!(replica.lacks_room().unwrap().unwrap().contains("rebuild.min_free"));
    assert_eq!(replica.survey(&catalog()).unwrap().next, None);
    live.apply(&upserts(0..1, 3, Some(10), 11)).unwrap();
}

#[test]
fn columns_and_tables_that_are_left_out_or_moved_need_no_log() {
    let (wide, narrow) = (Arc::new(described()), Arc::new(narrowed()));
    let bench = bench();
    let replica = replica(&bench);
    let mut live = replica.open_live(Arc::clone(&wide)).unwrap();
    for batch in users_history(&wide, false) {
        live.apply(&batch).unwrap();
    }
    live.complete().unwrap();
    assert!(live.figures().delete_marks[0] > 0 && live.figures().held[0] == 0);
    drop(live);
    assert!(matches!(replica.survey(&narrow).unwrap().live, Live::Changed { complete: true, .. }));
    assert!(replica.adapt(&narrow).unwrap());
    assert_eq!(replica.survey(&narrow).unwrap().live, Live::Same);
    let mut adapted = replica.open_live(Arc::clone(&narrow)).unwrap();
    assert_eq!(adapted.generation(), 1);

    // The same as a copy that was built under the new mapping, also for what comes later.
    let fresh = self::bench();
    let mut built = self::replica(&fresh).open_live(Arc::clone(&narrow)).unwrap();
    for batch in users_history(&narrow, true) {
        built.apply(&batch).unwrap();
    }
    built.complete().unwrap();
    let readers = [&bench, &fresh].map(|bench| SqliteReader::new(&bench.path(), Arc::clone(&narrow)));
    let same = || {
        for nth in 0..400 {
            let key = key(&catalog().tables[0], nth);
            let [adapted, built] = readers.each_ref().map(|reader| reader.row(0, &key).unwrap());
            assert_eq!(adapted, built, "row {nth}");
        }
    };
    same();
    for number in [12, 20, 21, 24, 26, 40] {
        let later = (0..400).map(|nth| match (nth + number) % 3 {
            0 => upsert(nth, number),
            1 => patch(nth, number, 0b1010, IfMissing::Hold),
            _ => delete(nth, number),
        });
        let mut builder = crate::domain::batch::BatchBuilder::default();
        for mut change in later {
            change.values = [3, 0, 1].map(|column| change.values[column].clone()).to_vec();
            builder.push(&narrow, change);
        }
        let batch = builder.seal(observed());
        assert_eq!(adapted.apply(&batch).unwrap(), built.apply(&batch).unwrap());
        same();
    }
    assert_eq!(adapted.figures().rows, built.figures().rows);
    let columns = |bench: &InSqlite| -> Vec<String> {
        let reader = reading(&bench.path());
        let mut statement = reader.prepare("SELECT name FROM pragma_table_info('users')").unwrap();
        statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    };
    assert_eq!(columns(&bench), ["score", "id", "name"]);
    let objects = |bench: &InSqlite| -> Vec<String> {
        let reader = reading(&bench.path());
        let mut statement = reader.prepare("SELECT name FROM sqlite_schema ORDER BY name").unwrap();
        statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    };
    assert_eq!(objects(&bench), objects(&fresh), "nothing of the old mapping is left");
}

/// It was proven of the copy before, by a clock that has been set back since.
#[test]
fn freshness_that_was_taken_over_and_lost_is_proven_anew() {
    let bench = bench();
    let replica = replica(&bench);
    let added = TopicPartition { partition: 1, ..AT };
    let fresh = |proofs: &[(TopicPartition, i64)]| {
        let mut batch = batch([]);
        batch.observed.topic_ids.insert(0, "one".into());
        batch.observed.fresh_as_of_ms.extend(proofs.iter().copied());
        batch
    };
    let mut live = complete(&replica, 1);
    live.apply(&fresh(&[(AT, 1_000)])).unwrap();
    let mut next = begin(&replica, &asked_for());
    next.apply(&upserts(0..1, 1, None, 10)).unwrap();
    next.apply(&fresh(&[(AT, 990)])).unwrap();
    assert_eq!(next.complete().unwrap(), Completion::Done);
    let stored = |store: &mut SqliteStore, at| store.checkpoint().unwrap().fresh_as_of_ms.get(&at).copied();
    assert_eq!(stored(&mut next, AT), Some(1_000));
    let mut lost = fresh(&[(AT, 500), (added, 510)]);
    lost.observed.freshness_lost.insert(AT);
    next.apply(&lost).unwrap();
    assert_eq!((stored(&mut next, AT), stored(&mut next, added)), (Some(500), Some(510)));
    next.apply(&fresh(&[(AT, 600)])).unwrap();
    assert_eq!(stored(&mut next, AT), Some(600));
}

/// Its tables have rows already, and the switch makes no indexes.
#[test]
fn a_resumed_rebuild_has_the_indexes_of_now() {
    let bench = bench();
    let replica = replica(&bench);
    let mut live = complete(&replica, 3);
    begin(&replica, &asked_for()).apply(&upserts(0..3, 2, None, 10)).unwrap();
    let mut changed = catalog();
    changed.tables[0].indexes = vec![vec![3], vec![1, 2]];
    let mut next = replica.resume(Arc::new(changed)).unwrap();
    live.apply(&upserts(0..1, 3, Some(10), 11)).unwrap();
    next.apply(&upserts(0..4, 4, Some(10), 11)).unwrap();
    assert_eq!(next.complete().unwrap(), Completion::Done);
    let reader = reading(&bench.path());
    let sql = "SELECT name FROM sqlite_schema WHERE name LIKE '%g2i%' ORDER BY name";
    let mut statement = reader.prepare(sql).unwrap();
    let names: Vec<String> = statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
    assert_eq!(names, ["_readside_g2i1-2_users", "_readside_g2i3_users"]);
}

/// The stored catalog has the indexes that the copy was built with, not those of its last start.
#[test]
fn indexes_of_a_later_start_are_adapted_too() {
    let with = |columns: [usize; 4], left_out: usize, indexes: &[&[usize]]| {
        let mut catalog = described();
        let users = &mut catalog.tables[0];
        let kept = &columns[..columns.len() - left_out];
        users.columns = kept.iter().map(|&column| users.columns[column].clone()).collect();
        users.indexes = indexes.iter().map(|index| index.to_vec()).collect();
        let names: Vec<_> = users.columns.iter().map(|column| column.name.as_str()).collect();
        users.fingerprint = format!("users:{}", names.join(","));
        catalog.fingerprint.clone_from(&users.fingerprint);
        Arc::new(catalog)
    };
    let indexes = |bench: &InSqlite| -> Vec<(String, String)> {
        let sql =
            "SELECT name, sql FROM sqlite_schema WHERE type = 'index' AND sql IS NOT NULL ORDER BY name";
        let reader = reading(&bench.path());
        let mut statement = reader.prepare(sql).unwrap();
        let found = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
        found.map(Result::unwrap).collect()
    };
    let build = |bench: &InSqlite, catalog: &Arc<Catalog>| {
        let mut live = replica(bench).open_live(Arc::clone(catalog)).unwrap();
        live.apply(&batch([upsert(1, 10), upsert(2, 11)])).unwrap();
        live.complete().unwrap();
    };
    let first = with([0, 1, 2, 3], 0, &[]);
    let then = with([0, 1, 2, 3], 0, &[&[2], &[3, 1]]);
    let narrower = with([0, 1, 3, 2], 1, &[&[2]]);
    // The second column is another one, and so is its index, whose name is the same.
    let reordered = with([0, 3, 2, 1], 0, &[&[2], &[3, 1]]);
    for last in [narrower, reordered] {
        let (bench, fresh) = (bench(), self::bench());
        build(&bench, &first);
        let replica = replica(&bench);
        drop(replica.open_live(Arc::clone(&then)).unwrap());
        assert_eq!(count(&bench, "SELECT COUNT(*) FROM sqlite_schema WHERE name LIKE '%g1i%'"), 2);
        assert!(replica.adapt(&last).unwrap());
        drop(replica.open_live(Arc::clone(&last)).unwrap());
        let mut built = self::replica(&fresh).open_live(Arc::clone(&last)).unwrap();
        built.complete().unwrap();
        assert_eq!(indexes(&bench), indexes(&fresh));
        assert_eq!(count(&bench, ROWS), 2);
    }
}

#[test]
fn dead_letters_go_with_their_table() {
    let (wide, narrow) = (Arc::new(described()), Arc::new(narrowed()));
    let bench = bench();
    let replica = replica(&bench);
    let mut live = replica.open_live(Arc::clone(&wide)).unwrap();
    live.complete().unwrap();
    // `Order`, which is left out, and another table of its topic.
    let letters = [None, Some(2), Some(3)]
        .map(|table| DeadLetter { at: TopicPartition { topic: 1, partition: 0 }, ..letter(table) });
    live.apply(&Batch { dead_letters: letters.to_vec(), ..batch([]) }).unwrap();
    drop(live);
    assert!(replica.adapt(&narrow).unwrap());
    let mut adapted = replica.open_live(Arc::clone(&narrow)).unwrap();
    assert_eq!(adapted.figures().dead_letters, [0, 2]);
    let kept = |table| Kept { topic: 1, table, order_ms: 0 };
    assert_eq!(adapted.checkpoint().unwrap().dead_letters, [kept(None), kept(Some(2))]);
    assert_eq!(count(&bench, "SELECT COUNT(*) FROM _readside_dead_letters"), 2);
}

fn letter(table: Option<usize>) -> DeadLetter {
    let (path, message) = (String::new(), "a number".into());
    DeadLetter {
        at: AT,
        offset: 3,
        rejection: Rejection { table, path, reason: Reason::WrongType, message },
        first_seen_ms: NOW_MS,
        origin: Origin::default(),
        record: None,
        produced_ms: None,
    }
}

#[test]
fn what_a_column_may_have_kept_away_needs_the_log() {
    let (wide, narrow) = (Arc::new(described()), narrowed());
    let prepared = |what: &dyn Fn(&mut SqliteStore)| {
        let bench = bench();
        let replica = replica(&bench);
        let mut live = replica.open_live(Arc::clone(&wide)).unwrap();
        live.complete().unwrap();
        what(&mut live);
        drop(live);
        let schema = || count(&bench, "SELECT COUNT(*) FROM pragma_table_info('_readside_g1_users')");
        let before = schema();
        let adapted = replica.adapt(&narrow).unwrap();
        assert_eq!(schema() < before, adapted, "all or nothing");
        adapted
    };
    assert!(prepared(&|_| {}));
    assert!(!prepared(&|live| {
        live.apply(&batch([patch(1, 5, 0b0100, IfMissing::Hold)])).unwrap();
    }));
    assert!(!prepared(&|live| {
        live.apply(&Batch { dead_letters: vec![letter(None)], ..batch([]) }).unwrap();
    }));
    // A column more, another type, another topic.
    let bench = bench();
    let replica = replica(&bench);
    replica.open_live(Arc::new(narrow.clone())).unwrap().complete().unwrap();
    assert!(!replica.adapt(&wide).unwrap());
    let mut topics = narrow.clone();
    topics.topics.push("z".into());
    assert!(!replica.adapt(&topics).unwrap());
    let mut other = narrow;
    other.tables[0].fingerprint = "users:score,id,other".into();
    assert!(!replica.adapt(&other).unwrap());
}
