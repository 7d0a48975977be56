//! What a server can do to a switch, and to those who share it; the rest is in the contract.

use std::sync::atomic::{AtomicBool, Ordering};

use super::proxy::Proxy;
use super::*;
use crate::domain::batch::BatchBuilder;
use crate::domain::value::{ColumnType, Value};
use crate::store::{Completion, Live, Rebuild, RedisReplica, RedisStore, RowLookup, Store};

fn begin(replica: &RedisReplica) -> RedisStore {
    replica.begin(Arc::new(catalog()), &asked_for()).unwrap().unwrap()
}

/// A whole copy that stands at 10.
fn complete(replica: &RedisReplica) -> RedisStore {
    let mut live = replica.open_live(Arc::new(catalog())).unwrap();
    live.apply(&moving(None, 10, batch([upsert(1, 10), delete(2, 10)]))).unwrap();
    live.complete().unwrap();
    live
}

/// Another one that stands there, too.
fn built(replica: &RedisReplica) -> RedisStore {
    let mut next = begin(replica);
    next.apply(&moving(None, 10, batch([upsert(1, 20), delete(3, 20)]))).unwrap();
    next
}

fn serving(settings: &RedisSettings) -> u32 {
    bench(settings.clone()).reader().status(NOW_MS).unwrap().tables[0].generation
}

#[test]
fn a_lost_answer_to_the_switch_is_found_out() {
    if !available() {
        return;
    }
    for lost in 1..=5 {
        let server = Server::start();
        for settings in both(&server) {
            let proxy = Proxy::before(&settings);
            let replica = RedisReplica::open(&proxy.settings).unwrap();
            let mut live = complete(&replica);
            let mut next = built(&replica);
            proxy.swallow_answers(lost);
            let mut attempts = 0;
            loop {
                match next.complete() {
                    Ok(completion) => break assert_eq!(completion, Completion::Done),
                    Err(StoreError::Retry { .. }) => attempts += 1,
                    Err(error) => panic!("{error}"),
                }
            }
            assert!(attempts > 0 && attempts <= lost, "{attempts} failed attempts");
            assert_eq!(serving(&settings), 2);
            stopped(live.apply(&moving(Some(10), 20, batch([upsert(1, 30)]))), StopCode::Retired);
            next.apply(&moving(Some(10), 20, batch([upsert(1, 30)]))).unwrap();
            assert_eq!(look(&bench(settings.clone()), 1), visible(1, 30));
            while next.maintain(NOW_MS).unwrap().more {}
            assert!(matches!(look(&bench(settings), 3), RowLookup::Deleted { .. }));
        }
    }
}

/// Cursors mean something to the process that gave them: with those of another one, keys were passed over
/// and left for ever.
#[test]
fn what_is_out_of_use_goes_although_the_server_is_restarted_meanwhile() {
    if !available() {
        return;
    }
    let mut server = Server::start();
    let settings = server.settings(RowEncoding::Hash);
    let replica = RedisReplica::open(&settings).unwrap();
    let mut live = replica.open_live(Arc::new(catalog())).unwrap();
    live.apply(&moving(None, 10, batch((1..=8_000).map(|id| upsert(id, 10))))).unwrap();
    live.complete().unwrap();
    let rebuild = Rebuild { accepts_loss: true, ..asked_for() };
    let mut next = replica.begin(Arc::new(catalog()), &rebuild).unwrap().unwrap();
    next.apply(&moving(None, 10, batch([upsert(1, 20)]))).unwrap();
    assert_eq!(next.complete().unwrap(), Completion::Done);
    let left = |server: &Server| -> usize {
        let pattern = format!("{}1:users:*", settings.redis.prefix);
        redis::cmd("KEYS").arg(pattern).query::<Vec<String>>(&mut server.client()).unwrap().len()
    };
    while left(&server) > 5_000 {
        assert!(next.maintain(NOW_MS).unwrap().more);
    }
    assert!(left(&server) > 3_000);
    let () = redis::cmd("SAVE").query(&mut server.client()).unwrap();
    server.restart();
    loop {
        match next.maintain(NOW_MS) {
            Ok(maintenance) if maintenance.more => {}
            Ok(_) => break,
            Err(StoreError::Retry { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(left(&server), 0);
}

#[test]
fn a_right_that_is_missing_switches_nothing() {
    if !available() {
        return;
    }
    let server = Server::start();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "secret\n").unwrap();
    for (settings, right) in both(&server).into_iter().zip(["rename", "swapdb"]) {
        let mut user = settings.clone();
        user.redis.username = Some("writer".into());
        user.redis.password_file = Some(file.path().to_owned());
        let mut client = server.client();
        let mut allow = |more: &str| {
            let mut cmd = redis::cmd("ACL");
            cmd.arg("SETUSER").arg("writer").arg("reset").arg("on").arg(">secret").arg("~*");
            let () = cmd.arg("+@all").arg(more).query(&mut client).unwrap();
        };
        allow("+get");
        let replica = RedisReplica::open(&user).unwrap();
        let mut live = complete(&replica);
        let mut next = built(&replica);
        allow(&format!("-{right}"));
        let before = everything(&mut server.client(), &settings.redis.prefix);
        let message = stopped(next.complete(), StopCode::Io);
        assert!(message.contains(&right.to_uppercase()), "{message}");
        assert_eq!(everything(&mut server.client(), &settings.redis.prefix), before);
        live.apply(&moving(Some(10), 20, batch([upsert(1, 15)]))).unwrap();
        allow("+get");
        next.apply(&moving(Some(10), 20, batch([upsert(1, 30)]))).unwrap();
        assert_eq!(next.complete().unwrap(), Completion::Done);
        assert_eq!(serving(&settings), 2);
    }
}

/// Who shares a database has no right to leave it.
#[test]
fn a_shared_replica_needs_no_right_to_select() {
    if !available() {
        return;
    }
    let server = Server::start();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "secret\n").unwrap();
    let mut settings = server.settings(RowEncoding::Hash);
    settings.redis.username = Some("writer".into());
    settings.redis.password_file = Some(file.path().to_owned());
    let mut cmd = redis::cmd("ACL");
    let user = ["SETUSER", "writer", "on", ">secret", "~*", "+@all", "-select"];
    let () = cmd.arg(&user[..]).query(&mut server.client()).unwrap();
    let replica = RedisReplica::open(&settings).unwrap();
    let mut live = complete(&replica);
    drop(built(&replica));
    replica.abandon().unwrap();
    while live.maintain(NOW_MS).unwrap().more {}
    let mut next = built(&replica);
    crate::store::Replica::keep(&replica).unwrap();
    assert_eq!(next.complete().unwrap(), Completion::Done);
    while next.maintain(NOW_MS).unwrap().more {}
    assert_eq!(leftovers_of(&server, &server_settings(&settings)), 0);
}

fn server_settings(settings: &RedisSettings) -> RedisSettings {
    let redis = Redis { username: None, password_file: None, ..settings.redis.clone() };
    RedisSettings { redis, ..settings.clone() }
}

/// In a dedicated Redis the rows of another mapping, or in another encoding, have the same names.
#[test]
fn a_row_of_another_mapping_is_no_damage() {
    if !available() {
        return;
    }
    let mut other = catalog();
    other.tables[0].columns[3].ty = ColumnType::Text;
    other.fingerprint = "another".into();
    let other = Arc::new(other);
    let server = Server::start();
    for [before, after] in
        [[RowEncoding::Hash; 2], [RowEncoding::Json; 2], ENCODINGS, [RowEncoding::Json, RowEncoding::Hash]]
    {
        let mut settings = server.settings(before);
        settings.redis.dedicated = true;
        drop(complete(&RedisReplica::open(&settings).unwrap()));
        let reader = bench(settings.clone()).reader();
        let key = key(&catalog().tables[0], 1);
        assert!(matches!(reader.row(0, &key).unwrap(), RowLookup::Visible { .. }));
        settings.redis.encoding = after;
        let replica = RedisReplica::open(&settings).unwrap();
        let rebuild = Rebuild { live_is_frozen: true, ..asked_for() };
        let mut next = replica.begin(Arc::clone(&other), &rebuild).unwrap().unwrap();
        let mut change = upsert(1, 20);
        change.values[3] = Value::Text("no number".into());
        let mut builder = BatchBuilder::default();
        builder.push(&other, change);
        next.apply(&moving(None, 10, builder.seal(observed()))).unwrap();
        assert_eq!(next.complete().unwrap(), Completion::Done);
        for _ in 0..2 {
            let found = reader.row(0, &key);
            assert!(
                matches!(&found, Err(StoreError::Retry { message, .. }) if message.contains("replaced")),
                "{found:?}"
            );
        }
        drop((next, replica));
        let () = redis::cmd("FLUSHALL").query(&mut server.client()).unwrap();
    }
}

/// The live generation goes on while the place of the next one is cleared.
#[test]
fn the_live_writer_has_its_turn_while_a_place_is_cleared() {
    if !available() {
        return;
    }
    const KEYS: u64 = 30_000;
    let server = Server::start();
    let mut settings = server.settings(RowEncoding::Hash);
    settings.redis.dedicated = true;
    let replica = RedisReplica::open(&settings).unwrap();
    let mut live = complete(&replica);
    drop(begin(&replica));
    replica.abandon().unwrap();
    let mut client = server.client();
    let () = redis::cmd("SELECT").arg(1).query(&mut client).unwrap();
    let text = "for i = 1, ARGV[2] do redis.call('SET', ARGV[1] .. i, '') end";
    let begin_of = format!("{}users:", settings.redis.prefix);
    let () = redis::cmd("EVAL").arg(text).arg(0).arg(begin_of).arg(KEYS).query(&mut client).unwrap();
    let mut next = begin(&replica);
    let over = AtomicBool::new(false);
    let mut amid = 0;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            next.apply(&moving(None, 10, batch([upsert(1, 20)]))).unwrap();
            over.store(true, Ordering::Release);
        });
        while !over.load(Ordering::Acquire) {
            live.apply(&batch([])).unwrap();
            let left: u64 = redis::cmd("DBSIZE").query(&mut client).unwrap();
            amid += u32::from((1_000..KEYS).contains(&left));
        }
    });
    // The first may have been written before the other's turn began.
    assert!(amid > 2, "{amid} batches meanwhile");
}

/// What was to be cleared has the names of the rows that come after it.
#[test]
fn what_is_cleared_late_takes_no_new_row() {
    if !available() {
        return;
    }
    let server = Server::start();
    let mut settings = server.settings(RowEncoding::Hash);
    settings.redis.dedicated = true;
    let proxy = Proxy::before(&settings);
    let replica = RedisReplica::open(&proxy.settings).unwrap();
    let _live = complete(&replica);
    drop(built(&replica));
    replica.abandon().unwrap();
    let mut next = begin(&replica);
    // The bookkeeping is read and shown, the place is cleared and said to be, the row is written.
    proxy.deliver_late(1, 5);
    let rows = moving(None, 10, batch([upsert(1, 20)]));
    assert!(matches!(next.apply(&rows), Err(StoreError::Retry { .. })));
    next.apply(&rows).unwrap();
    for _ in 0..3 {
        next.apply(&batch([])).unwrap();
    }
    assert_eq!(next.complete().unwrap(), Completion::Done);
    assert_eq!(look(&bench(settings), 1), visible(1, 20));
}

#[test]
fn a_key_in_the_way_switches_nothing() {
    if !available() {
        return;
    }
    let server = Server::start();
    for settings in both(&server) {
        let replica = RedisReplica::open(&settings).unwrap();
        let mut live = complete(&replica);
        let mut next = built(&replica);
        let mut client = server.client();
        let () = redis::cmd("SELECT").arg(i32::from(settings.redis.dedicated)).query(&mut client).unwrap();
        let beside = if settings.redis.dedicated { "" } else { "2:" };
        let key = format!("{}readside:{beside}partitions", settings.redis.prefix);
        let () = redis::cmd("RENAME").arg(&key).arg("aside").query(&mut client).unwrap();
        let () = redis::cmd("SET").arg(&key).arg("another's").query(&mut client).unwrap();
        let before = everything(&mut server.client(), &settings.redis.prefix);
        let message = stopped(next.complete(), StopCode::Foreign);
        assert!(message.contains(&key), "{message}");
        assert_eq!(everything(&mut server.client(), &settings.redis.prefix), before);
        let () = redis::cmd("DEL").arg(&key).query(&mut client).unwrap();
        let () = redis::cmd("RENAME").arg("aside").arg(&key).query(&mut client).unwrap();
        live.apply(&moving(Some(10), 11, batch([]))).unwrap();
        next.apply(&moving(Some(10), 11, batch([]))).unwrap();
        assert_eq!(next.complete().unwrap(), Completion::Done);
    }
}

#[test]
fn a_process_that_was_replaced_neither_switches_nor_removes_anything() {
    if !available() {
        return;
    }
    let server = Server::start();
    for settings in both(&server) {
        let first = RedisReplica::open(&settings).unwrap();
        let mut live = complete(&first);
        let mut next = built(&first);
        // It was frozen, and its lease has run out.
        let mut client = server.client();
        for database in [0, 1] {
            let () = redis::cmd("SELECT").arg(database).query(&mut client).unwrap();
            let lease = format!("{}readside:lease", settings.redis.prefix);
            let () = redis::cmd("DEL").arg(lease).query(&mut client).unwrap();
        }
        let second = RedisReplica::open(&settings).unwrap();
        let mut taken = second.open_live(Arc::new(catalog())).unwrap();
        stopped(next.complete(), StopCode::Foreign);
        stopped(live.apply(&batch([])), StopCode::Foreign);
        stopped(first.abandon(), StopCode::Foreign);
        stopped(first.begin(Arc::new(catalog()), &asked_for()).map(drop), StopCode::Foreign);
        let mut resumed = second.resume(Arc::new(catalog())).unwrap();
        stopped(next.apply(&batch([])), StopCode::Foreign);
        // Its end takes nothing from the second.
        drop((live, next, first));
        taken.apply(&moving(Some(10), 11, batch([]))).unwrap();
        resumed.apply(&moving(Some(10), 11, batch([]))).unwrap();
        assert_eq!(resumed.complete().unwrap(), Completion::Done);
        assert_eq!(serving(&settings), 2);
    }
}

/// `dedicated` may be set or taken away: the copy is built anew where it then belongs.
#[test]
fn a_copy_moves_when_the_server_becomes_dedicated_and_back() {
    if !available() {
        return;
    }
    let server = Server::start();
    let mut settings = server.settings(RowEncoding::Hash);
    drop(complete(&RedisReplica::open(&settings).unwrap()));
    let places = [(true, "".to_owned()), (false, "3:".to_owned()), (true, "".to_owned())];
    for (number, (dedicated, place)) in (2..).zip(places) {
        settings.redis.dedicated = dedicated;
        let replica = RedisReplica::open(&settings).unwrap();
        let survey = replica.survey(&catalog()).unwrap();
        assert!(matches!(survey.live, Live::Changed { complete: true, .. }), "{survey:?}");
        let rebuild = Rebuild { live_is_frozen: true, ..asked_for() };
        let mut next = replica.begin(Arc::new(catalog()), &rebuild).unwrap().unwrap();
        next.apply(&moving(None, 10, batch([upsert(1, 10 * number)]))).unwrap();
        assert_eq!(next.complete().unwrap(), Completion::Done);
        assert_eq!(serving(&settings), number as u32);
        let prefix = &settings.redis.prefix;
        let mut client = server.client();
        let live: String = redis::cmd("HGET")
            .arg(format!("{prefix}readside:status"))
            .arg("live")
            .query(&mut client)
            .unwrap();
        assert_eq!(live, format!("{prefix}{place}"));
        while next.maintain(NOW_MS).unwrap().more {}
        let rows: Vec<String> =
            redis::cmd("KEYS").arg(format!("{prefix}*users:*")).query(&mut client).unwrap();
        assert_eq!(rows, [format!("{live}users:-1")]);
    }
}

#[test]
fn the_memory_of_a_second_copy_is_known_before_it_begins() {
    if !available() {
        return;
    }
    let server = Server::start();
    let mut client = server.client();
    let used = |client: &mut redis::Connection| -> u64 {
        let info: String = redis::cmd("INFO").arg("memory").query(client).unwrap();
        info.lines().find_map(|line| line.strip_prefix("used_memory:")).unwrap().trim().parse().unwrap()
    };
    // Of somebody else, who has more.
    let strange = "x".repeat(100);
    let mut pipe = redis::pipe();
    (0..60_000).for_each(|nth| {
        pipe.cmd("SET").arg(format!("other:{nth}")).arg(&strange).ignore();
    });
    let () = pipe.query(&mut client).unwrap();
    let settings = server.settings(RowEncoding::Hash);
    let replica = RedisReplica::open(&settings).unwrap();
    let mut live = replica.open_live(Arc::new(catalog())).unwrap();
    let before = used(&mut client);
    let rows = |from: Option<i64>, nth: i64| {
        moving(from, nth + 1, batch((nth * 500..(nth + 1) * 500).map(|nth| upsert(nth, 10))))
    };
    for nth in 0..40 {
        live.apply(&rows((nth > 0).then_some(nth), nth)).unwrap();
    }
    live.complete().unwrap();
    let copy = used(&mut client) - before;
    let limit = |client: &mut redis::Connection, bytes: u64| {
        let () = redis::cmd("CONFIG").arg("SET").arg("maxmemory").arg(bytes).query(client).unwrap();
    };
    let now = used(&mut client);
    limit(&mut client, now + copy * 9 / 10);
    let lack = replica.begin(Arc::new(catalog()), &asked_for()).unwrap().unwrap_err();
    assert!(lack.contains("below maxmemory"), "{lack}");
    assert_eq!(replica.survey(&catalog()).unwrap().next, None, "it leaves no trace");
    // What a key takes is told a little too high by some.
    limit(&mut client, now + copy * 2);
    let mut next = begin(&replica);
    for nth in 0..40 {
        next.apply(&rows((nth > 0).then_some(nth), nth)).unwrap();
    }
    let second = used(&mut client) - now;
    assert!(second < copy * 3 / 2, "a copy of {copy} bytes, and a second of {second}");
    // What others take meanwhile is noticed.
    let settings = RedisSettings { min_free_bytes: 1 << 40, ..settings };
    drop((live, next, replica));
    let replica = RedisReplica::open(&settings).unwrap();
    let lack = crate::store::Replica::lacks_room(&replica).unwrap().unwrap();
    assert!(lack.contains("rebuild.min_free"), "{lack}");
}

/// It was proven of the copy before, by a clock that has been set back since.
#[test]
fn freshness_that_was_taken_over_and_lost_is_proven_anew() {
    if !available() {
        return;
    }
    let server = Server::start();
    let settings = server.settings(RowEncoding::Hash);
    let replica = RedisReplica::open(&settings).unwrap();
    let fresh = |fresh_as_of_ms| {
        let mut batch = fresh_as_of(AT, fresh_as_of_ms);
        batch.observed.topic_ids.insert(0, "one".into());
        batch
    };
    let mut live = complete(&replica);
    live.apply(&fresh(1_000)).unwrap();
    let mut next = built(&replica);
    next.apply(&fresh(990)).unwrap();
    assert_eq!(next.complete().unwrap(), Completion::Done);
    let stored = |store: &mut RedisStore| store.checkpoint().unwrap().fresh_as_of_ms.get(&AT).copied();
    assert_eq!(stored(&mut next), Some(1_000));
    let mut lost = fresh(500);
    lost.observed.freshness_lost.insert(AT);
    next.apply(&lost).unwrap();
    assert_eq!(stored(&mut next), Some(500));
    next.apply(&fresh(600)).unwrap();
    assert_eq!(stored(&mut next), Some(600));
}
