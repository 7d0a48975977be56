//! A generation that is made of the live one: the same as one that was built under the new mapping.

use super::*;
use crate::domain::catalog::Catalog;
use crate::domain::change::IfMissing;
use crate::domain::checkpoint::TopicPartition;
use crate::domain::dead_letter::{DeadLetter, Kept, Origin, Reason, RecordBytes, Rejection};
use crate::store::{Completion, Live, Reader, Rebuild, RedisReader, RedisReplica, RedisStore, Store};

fn of_the_live_one() -> Rebuild {
    Rebuild {
        reason: "the mapping has changed".into(),
        may_go_back: false,
        accepts_loss: false,
        live_is_frozen: true,
        from_live: true,
    }
}

fn needs_log(replica: &RedisReplica, catalog: &Catalog) -> bool {
    match replica.survey(catalog).unwrap().live {
        Live::Changed { needs_log, complete: true, .. } => needs_log,
        other => panic!("{other:?}"),
    }
}

/// A whole copy of everything that the mapping makes of the history; it stands at 10.
fn built(settings: &RedisSettings, catalog: &Arc<Catalog>, narrow: bool) -> RedisStore {
    let mut store = RedisReplica::open(settings).unwrap().open_live(Arc::clone(catalog)).unwrap();
    for batch in users_history(catalog, narrow) {
        store.apply(&batch).unwrap();
    }
    store.apply(&moving(None, 10, batch([]))).unwrap();
    store.complete().unwrap();
    store
}

/// Keys behind the rows' prefix, without bookkeeping, with their content but for versions.
fn rows_and_entries(server: &Server, settings: &RedisSettings) -> BTreeMap<String, Vec<Vec<u8>>> {
    let mut client = server.client();
    let prefix = &settings.redis.prefix;
    let live: String =
        redis::cmd("HGET").arg(format!("{prefix}readside:status")).arg("live").query(&mut client).unwrap();
    let all = everything(&mut client, &live).into_iter();
    let all = all.filter(|(key, _)| !key.starts_with(&format!("{prefix}readside:")));
    all.map(|(key, content)| (key[live.len()..].to_owned(), content)).collect()
}

#[test]
fn it_is_the_same_as_one_that_was_built_under_the_new_mapping() {
    if !available() {
        return;
    }
    let (wide, narrow) = (Arc::new(described()), Arc::new(narrowed()));
    for (before, after) in [
        ((RowEncoding::Hash, false), (RowEncoding::Hash, false)),
        ((RowEncoding::Json, false), (RowEncoding::Json, false)),
        ((RowEncoding::Hash, true), (RowEncoding::Hash, true)),
        ((RowEncoding::Hash, false), (RowEncoding::Json, true)),
        ((RowEncoding::Json, true), (RowEncoding::Hash, false)),
    ] {
        let servers = [Server::start(), Server::start()];
        let mut settings = servers[0].settings(before.0);
        settings.redis.dedicated = before.1;
        drop(built(&settings, &wide, false));
        (settings.redis.encoding, settings.redis.dedicated) = after;
        let replica = RedisReplica::open(&settings).unwrap();
        assert!(!needs_log(&replica, &narrow));
        let mut copied = replica.begin(Arc::clone(&narrow), &of_the_live_one()).unwrap().unwrap();
        assert_eq!(copied.checkpoint().unwrap().positions[&AT].next_offset, 10, "the log is read on");
        assert!(copied.version_kinds().unwrap()[0].is_some());
        copied.apply(&moving(Some(10), 11, batch([]))).unwrap();
        assert_eq!(copied.complete().unwrap(), Completion::Done);
        assert_eq!(replica.survey(&narrow).unwrap().live, Live::Same);

        // The same, also for what comes later.
        let mut fresh = servers[1].settings(after.0);
        fresh.redis.dedicated = after.1;
        fresh.redis.prefix.clone_from(&settings.redis.prefix);
        let mut built = built(&fresh, &narrow, true);
        let readers = [&settings, &fresh].map(|settings| RedisReader::new(settings, Arc::clone(&narrow)));
        let same = || {
            for nth in 0..400 {
                let key = key(&catalog().tables[0], nth);
                let [copied, built] = readers.each_ref().map(|reader| reader.row(0, &key).unwrap());
                assert_eq!(copied, built, "row {nth}");
            }
            let [copied, built] = [(&servers[0], &settings), (&servers[1], &fresh)]
                .map(|(server, settings)| rows_and_entries(server, settings));
            assert!(copied == built, "rows or index entries differ");
        };
        while copied.maintain(NOW_MS).unwrap().more {}
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
            assert_eq!(copied.apply(&batch).unwrap(), built.apply(&batch).unwrap());
            same();
        }
        assert_eq!(copied.figures().rows, built.figures().rows);
        assert_eq!(copied.figures().delete_marks, built.figures().delete_marks);
    }
}

#[test]
fn there_is_a_sign_of_life_for_every_page_of_what_is_hidden() {
    if !available() {
        return;
    }
    let server = Server::start();
    let settings = server.settings(RowEncoding::Hash);
    let (wide, narrow) = (Arc::new(described()), Arc::new(narrowed()));
    let mut live = RedisReplica::open(&settings).unwrap().open_live(Arc::clone(&wide)).unwrap();
    let mut builder = crate::domain::batch::BatchBuilder::default();
    (0..2_000).for_each(|nth| builder.push(&wide, delete(nth, 10)));
    live.apply(&moving(None, 10, builder.seal(observed()))).unwrap();
    live.complete().unwrap();
    drop(live);
    let replica = RedisReplica::open(&settings).unwrap();
    let mut copied = replica.begin(Arc::clone(&narrow), &of_the_live_one()).unwrap().unwrap();
    let before = copied.sequence;
    let observed = observed();
    copied.ready().unwrap();
    copied.finish_copying(&mut crate::store::redis::pulse::Pulse::loud(&observed)).unwrap();
    // Pages of 500 are written, and between two of them there is a beat.
    assert!(copied.sequence - before >= 2 * 4, "{} steps", copied.sequence - before);
    assert_eq!(copied.figures().delete_marks[0], 2_000);
}

#[test]
fn another_index_needs_no_log_and_is_whole_when_it_is_seen() {
    if !available() {
        return;
    }
    let server = Server::start();
    let settings = server.settings(RowEncoding::Hash);
    let wide = Arc::new(described());
    drop(built(&settings, &wide, false));
    let mut other = described();
    other.tables[0].indexes = vec![vec![1]];
    let other = Arc::new(other);
    let replica = RedisReplica::open(&settings).unwrap();
    assert!(!needs_log(&replica, &other));
    let mut copied = replica.begin(Arc::clone(&other), &of_the_live_one()).unwrap().unwrap();
    let indexes = |of: &str| {
        let all = rows_and_entries(&server, &settings).into_iter();
        all.filter(|(key, _)| key.starts_with(&format!("users@{of}:")))
            .map(|(_, members)| members.len())
            .sum()
    };
    let rows = RedisReader::new(&settings, Arc::clone(&wide)).status(NOW_MS).unwrap().tables[0].rows as usize;
    let (email, name): (usize, usize) = (indexes("email"), indexes("name"));
    assert!(email > 0 && name == 0);
    copied.apply(&batch([])).unwrap();
    assert_eq!((indexes("email"), indexes("name")), (email, 0), "not before the switch");
    assert_eq!(copied.complete().unwrap(), Completion::Done);
    assert_eq!((indexes("email"), indexes("name")), (0, rows));
}

/// Killed at every step: it goes on, and nothing is counted twice.
#[test]
fn who_is_killed_goes_on() {
    if !available() {
        return;
    }
    let server = Server::start();
    for settings in both(&server) {
        let (wide, narrow) = (Arc::new(described()), Arc::new(narrowed()));
        let mut before = built(&settings, &wide, false);
        let expected = (before.figures().rows[0], before.figures().delete_marks[0]);
        drop(before);
        let proxy = super::proxy::Proxy::before(&settings);
        let replica = RedisReplica::open(&proxy.settings).unwrap();
        let mut copied = replica.begin(Arc::clone(&narrow), &of_the_live_one()).unwrap().unwrap();
        for kills in 1..=6 {
            // In the midst of it the connection breaks, and the process is gone.
            proxy.swallow_answers(if kills % 2 == 0 { kills } else { 2 * kills });
            let _ = copied.apply(&moving(Some(10), 11, batch([])));
            drop(copied);
            proxy.swallow_answers(0);
            copied = replica.resume(Arc::clone(&narrow)).unwrap();
        }
        let from = copied.checkpoint().unwrap().positions[&AT].next_offset;
        copied.apply(&moving(Some(from), 12, batch([]))).unwrap();
        assert_eq!(copied.complete().unwrap(), Completion::Done);
        assert_eq!((copied.figures().rows[0], copied.figures().delete_marks[0]), expected);
        let reader = RedisReader::new(&settings, Arc::clone(&narrow));
        assert_eq!(reader.status(NOW_MS).unwrap().tables[0].rows, expected.0);
    }
}

#[test]
fn what_a_column_may_have_kept_away_needs_the_log() {
    if !available() {
        return;
    }
    let server = Server::start();
    let (wide, narrow) = (Arc::new(described()), narrowed());
    let prepared = |what: &dyn Fn(&mut RedisStore), catalog: &Catalog| {
        let settings = server.settings(RowEncoding::Hash);
        let replica = RedisReplica::open(&settings).unwrap();
        let mut live = replica.open_live(Arc::clone(&wide)).unwrap();
        live.complete().unwrap();
        what(&mut live);
        drop(live);
        let needs_log = needs_log(&replica, catalog);
        let begun = replica.begin(Arc::new(catalog.clone()), &of_the_live_one()).unwrap();
        assert_eq!(begun.is_err(), needs_log, "it is not read unasked");
        needs_log
    };
    assert!(!prepared(&|_| {}, &narrow));
    assert!(prepared(
        &|live| {
            live.apply(&batch([patch(1, 5, 0b0100, IfMissing::Hold)])).unwrap();
        },
        &narrow
    ));
    assert!(prepared(
        &|live| {
            let rejection = Rejection {
                table: None,
                path: String::new(),
                reason: Reason::WrongType,
                message: "a number".into(),
            };
            let letter = DeadLetter {
                at: AT,
                offset: 3,
                rejection,
                first_seen_ms: NOW_MS,
                origin: Default::default(),
                record: None,
                produced_ms: None,
            };
            live.apply(&Batch { dead_letters: vec![letter], ..batch([]) }).unwrap();
        },
        &narrow
    ));
    // Another type, another topic.
    let mut topics = described();
    topics.topics.push("z".into());
    topics.fingerprint = "topics".into();
    assert!(prepared(&|_| {}, &topics));
    let mut other = narrow.clone();
    other.tables[0].fingerprint = "users:score,id,other".into();
    assert!(prepared(&|_| {}, &other));
}

#[test]
fn dead_letters_event_ids_and_marks_of_truncates_come_along() {
    if !available() {
        return;
    }
    let server = Server::start();
    let settings = server.settings(RowEncoding::Hash);
    let wide = Arc::new(described());
    let mut live = built(&settings, &wide, false);
    let ids: Vec<_> =
        (0..5_000u128).map(|nth| crate::domain::event_ids::EventId::from_bytes(nth.to_be_bytes())).collect();
    let news = crate::domain::event_ids::NewEventIds { window: 10_000, ids: ids.clone() };
    let rejection = Rejection {
        table: Some(1),
        path: String::new(),
        reason: Reason::WrongType,
        message: "a number".into(),
    };
    let letter = DeadLetter {
        at: AT,
        offset: 3,
        rejection,
        first_seen_ms: NOW_MS,
        origin: Default::default(),
        record: None,
        produced_ms: None,
    };
    let truncate = crate::domain::change::Change {
        operation: crate::domain::change::Operation::Truncate,
        values: vec![],
        ..delete(0, 11)
    };
    let full = Batch {
        dead_letters: vec![letter],
        event_ids: BTreeMap::from([(0, news)]),
        advances: advance(Some(10), 20),
        ..batch([truncate])
    };
    live.apply(&full).unwrap();
    let before = (live.checkpoint().unwrap(), live.figures());
    drop(live);
    // The order of columns alone: nothing depends on it.
    let mut moved = described();
    moved.tables[0].columns.swap(2, 3);
    moved.tables[0].indexes = vec![vec![3], vec![1, 3]];
    moved.tables[0].fingerprint = "users:id,name,score,email".into();
    moved.fingerprint = "moved".into();
    let moved = Arc::new(moved);
    let replica = RedisReplica::open(&settings).unwrap();
    let mut copied = replica.begin(Arc::clone(&moved), &of_the_live_one()).unwrap().unwrap();
    let checkpoint = copied.checkpoint().unwrap();
    assert_eq!((checkpoint.event_ids, checkpoint.dead_letters), (before.0.event_ids, before.0.dead_letters));
    assert_eq!(checkpoint.positions, before.0.positions);
    copied.apply(&moving(Some(20), 21, batch([]))).unwrap();
    assert_eq!(copied.complete().unwrap(), Completion::Done);
    assert_eq!(
        (copied.figures().rows, copied.figures().dead_letters),
        (before.1.rows, before.1.dead_letters)
    );
    // What the truncate took stays away.
    let mut builder = crate::domain::batch::BatchBuilder::default();
    let mut late = upsert(2, 9);
    late.values.swap(2, 3);
    builder.push(&moved, late);
    let applied = copied.apply(&builder.seal(observed())).unwrap();
    assert_eq!(applied.stale, [0]);
}

#[test]
fn what_prefixes_and_snapshots_have_taken_stays_away_from_a_copy() {
    use crate::domain::batch::BatchBuilder;
    use crate::domain::change::{Change, Cleared, Operation};
    use crate::domain::snapshot::Phase;
    use crate::domain::value::Value;
    if !available() {
        return;
    }
    for dedicated in [false, true] {
        let server = Server::start();
        let mut settings = server.settings(RowEncoding::Hash);
        settings.redis.dedicated = dedicated;
        let mut catalog = with_prefixes();
        for table in &mut catalog.tables {
            let columns: Vec<_> = table.columns.iter().map(|column| column.name.as_str()).collect();
            table.fingerprint = format!("{}:{}", table.name, columns.join(","));
        }
        catalog.fingerprint = "before".into();
        let mut indexed = catalog.clone();
        indexed.tables[4].indexes = vec![vec![3]];
        indexed.fingerprint = "indexed".into();
        let line = |order: i64, nth: i64, number: i64| Change {
            table: 4,
            values: vec![
                Value::Text("a".into()),
                Value::Integer(order),
                Value::Integer(nth),
                Value::Text("sku".into()),
            ],
            version: version(number, 0, number),
            ..upsert(0, 0)
        };
        let cleared = |order: i64, number: i64| {
            let mut change = line(order, 0, number);
            change.values[2..].fill(Value::Absent);
            Change { operation: Operation::Clear(Cleared::Deleted), ..change }
        };
        let listed = Change {
            operation: Operation::Snapshot(Phase::Listed),
            values: vec![],
            version: version(20, 0, 0).first_of_its_kind(),
            ..upsert(0, 0)
        };
        let of = |catalog: &crate::domain::catalog::Catalog, changes: Vec<Change>| {
            let mut builder = BatchBuilder::default();
            changes.into_iter().for_each(|change| builder.push(catalog, change));
            builder.seal(observed())
        };
        let replica = RedisReplica::open(&settings).unwrap();
        let mut live = replica.open_live(Arc::new(catalog.clone())).unwrap();
        let mut changes: Vec<Change> = (0..600).map(|nth| line(nth % 300, nth, 10)).collect();
        changes.extend((0..200).map(|order| cleared(order, 15)));
        changes.push(listed);
        live.apply(&moving(None, 10, of(&catalog, changes))).unwrap();
        live.complete().unwrap();
        // One is still being taken away.
        let text = crate::store::redis::names::prefix_text(&line(250, 0, 0).values[..2]);
        live.begin_cut(4, text, version(12, 0, 12), NOW_MS).unwrap();
        let before = live.checkpoint().unwrap();
        drop((live, replica));

        let replica = RedisReplica::open(&settings).unwrap();
        let mut copied = replica.begin(Arc::new(indexed.clone()), &of_the_live_one()).unwrap().unwrap();
        copied.apply(&moving(Some(10), 20, of(&indexed, vec![]))).unwrap();
        let figures = copied.figures();
        assert_eq!((figures.rows[4], figures.delete_marks[4]), (198, 201));
        assert_eq!(copied.checkpoint().unwrap().snapshots, before.snapshots);
        assert_eq!(copied.complete().unwrap(), Completion::Done);
        let late = of(&indexed, vec![line(7, 7, 14), line(250, 1, 11), line(299, 1, 11)]);
        assert_eq!(copied.apply(&late).unwrap().stale, [0, 1]);
        copied.apply(&of(&indexed, vec![cleared(299, 30)])).unwrap();
        assert_eq!((copied.figures().rows[4], copied.figures().delete_marks[4]), (196, 202));
        while copied.maintain(NOW_MS).unwrap().more {}
        assert_eq!(leftovers_of(&server, &settings), 0);
        // As Redis has it.
        drop((copied, replica));
        let mut again = RedisReplica::open(&settings).unwrap().open_live(Arc::new(indexed)).unwrap();
        assert_eq!((again.figures().rows[4], again.figures().delete_marks[4]), (196, 202));
    }
}

/// As in a file.
#[test]
fn dead_letters_go_with_their_table() {
    if !available() {
        return;
    }
    let (wide, narrow) = (Arc::new(described()), Arc::new(narrowed()));
    let server = Server::start();
    let settings = server.settings(RowEncoding::Hash);
    let replica = RedisReplica::open(&settings).unwrap();
    let mut live = replica.open_live(Arc::clone(&wide)).unwrap();
    // `Order`, which is left out, and another table of its topic.
    let letters = [None, Some(2), Some(3)].map(|table| DeadLetter {
        at: TopicPartition { topic: 1, partition: 0 },
        offset: 3,
        rejection: Rejection { table, path: String::new(), reason: Reason::WrongType, message: "a".into() },
        first_seen_ms: NOW_MS,
        origin: Origin::default(),
        record: Some(RecordBytes { key: None, value: Some(vec![b'x'; 300]), headers: None }),
        produced_ms: None,
    });
    live.apply(&Batch { dead_letters: letters.to_vec(), ..moving(None, 10, batch([])) }).unwrap();
    live.complete().unwrap();
    drop(live);
    let mut copied = replica.begin(Arc::clone(&narrow), &of_the_live_one()).unwrap().unwrap();
    copied.apply(&moving(Some(10), 11, batch([]))).unwrap();
    assert_eq!(copied.complete().unwrap(), Completion::Done);
    assert_eq!(copied.figures().dead_letters, [0, 2]);
    let kept = |table| Kept { topic: 1, table, order_ms: 0 };
    assert_eq!(copied.checkpoint().unwrap().dead_letters, [kept(None), kept(Some(2))]);
    let meta = format!("{}readside:meta", settings.redis.prefix);
    let bytes: u64 =
        redis::cmd("HGET").arg(meta).arg("dead_letter_bytes").query(&mut server.client()).unwrap();
    assert_eq!(bytes, 600);
}
