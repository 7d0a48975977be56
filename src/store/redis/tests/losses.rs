//! Lost answers, lost connections, lost data.

use std::time::Instant;

use super::proxy::Proxy;
use super::*;
use crate::config::{RedisServer, RedisUrl};
use crate::domain::retry::RetryReason;
use crate::store::{RedisStore, RowLookup, Store, redis_check};

/// A store that has just moved to 10.
fn begun(bench: &InRedis) -> RedisStore {
    let mut store = bench.open();
    store.apply(&moving(None, 10, batch([upsert(1, 10)]))).unwrap();
    store
}

/// Until the server is back; the first attempt finds the connection gone.
fn insist(store: &mut RedisStore, batch: &Batch) -> Result<crate::store::Applied, StoreError> {
    let until = Instant::now() + PATIENCE;
    loop {
        match store.apply(batch) {
            Err(StoreError::Retry { .. }) if Instant::now() < until => std::thread::yield_now(),
            other => return other,
        }
    }
}

#[test]
fn a_server_that_forgot_the_scripts_gets_them_again() {
    if !available() {
        return;
    }
    let bench = bench(server::shared().settings(RowEncoding::Hash));
    let mut store = begun(&bench);
    let () = redis::cmd("SCRIPT").arg("FLUSH").query(&mut server::shared().client()).unwrap();
    store.apply(&moving(Some(10), 20, batch([upsert(1, 20)]))).unwrap();
    assert_eq!(look(&bench, 1), visible(1, 20));
}

#[test]
fn a_restart_that_loses_nothing_is_survived() {
    if !available() {
        return;
    }
    let mut server = Server::start();
    let bench = bench(server.settings(RowEncoding::Hash));
    let mut store = begun(&bench);
    let () = redis::cmd("SAVE").query(&mut server.client()).unwrap();
    server.kill();
    let next = moving(Some(10), 20, batch([upsert(1, 20)]));
    assert!(matches!(store.apply(&next), Err(StoreError::Retry { .. })));
    server.restart();
    insist(&mut store, &next).unwrap();
    assert_eq!(look(&bench, 1), visible(1, 20));
}

#[test]
fn an_older_state_is_noticed_by_a_heartbeat() {
    if !available() {
        return;
    }
    let mut server = Server::start();
    let bench = bench(server.settings(RowEncoding::Hash));
    let mut store = begun(&bench);
    let () = redis::cmd("SAVE").query(&mut server.client()).unwrap();
    store.apply(&moving(Some(10), 20, batch([upsert(1, 20)]))).unwrap();
    store.apply(&batch([])).unwrap();
    server.restart();
    let message = stopped(insist(&mut store, &batch([])), StopCode::Lost);
    assert!(message.contains("older state"), "{message}");
    stopped(store.maintain(NOW_MS), StopCode::Lost);
    // Opened again it goes on from there, and the log fills in the rest.
    drop(store);
    let mut store = bench.open();
    assert_eq!(store.checkpoint().unwrap().positions[&AT].next_offset, 10);
    store.apply(&moving(Some(10), 20, batch([upsert(1, 20)]))).unwrap();
    assert_eq!(look(&bench, 1), visible(1, 20));
}

#[test]
fn an_emptied_server_is_noticed_by_a_heartbeat_and_built_again() {
    if !available() {
        return;
    }
    let server = Server::start();
    for settings in both(&server) {
        let bench = bench(settings);
        let mut store = begun(&bench);
        store.complete().unwrap();
        let () = redis::cmd("FLUSHALL").query(&mut server.client()).unwrap();
        for nothing in [batch([]), moving(Some(10), 20, batch([upsert(1, 20)]))] {
            let message = stopped(store.apply(&nothing), StopCode::Lost);
            assert!(message.contains("flushed"), "{message}");
        }
        stopped(store.maintain(NOW_MS), StopCode::Lost);
        assert_eq!(redis::cmd("DBSIZE").query::<u64>(&mut server.client()).unwrap(), 0, "never a mixture");
        drop(store);
        let mut store = bench.open();
        let checkpoint = store.checkpoint().unwrap();
        assert!(checkpoint.positions.is_empty() && !checkpoint.complete);
        store.apply(&moving(None, 10, batch([upsert(1, 10)]))).unwrap();
        store.complete().unwrap();
        assert_eq!(look(&bench, 1), visible(1, 10));
    }
}

#[test]
fn a_lost_answer_of_ours_is_recognised() {
    if !available() {
        return;
    }
    let server = Server::start();
    for encoding in ENCODINGS {
        let direct = bench(server.settings(encoding));
        let proxy = Proxy::before(&direct.settings);
        let bench = bench(proxy.settings.clone());
        let mut store = begun(&bench);
        let next = moving(
            Some(10),
            20,
            batch([
                upsert(1, 20),
                delete(2, 15),
                patch(3, 16, 0b0010, crate::domain::change::IfMissing::DeadLetter),
            ]),
        );
        // Heard by the server, not by us.
        proxy.swallow_answers(1);
        assert!(matches!(store.apply(&next), Err(StoreError::Retry { .. })), "the answer is lost");
        let applied = store.apply(&next).unwrap();
        assert_eq!((applied.dead_letters.len(), applied.dead_letters_kept), (1, 1));
        assert_eq!(look(&bench, 1), visible(1, 20));
        assert_eq!((store.figures().rows[0], store.figures().delete_marks[0]), (1, 1));
        store.apply(&moving(Some(20), 30, batch([upsert(1, 30)]))).unwrap();
        // Not even heard by the server.
        proxy.swallow_questions(1);
        let next = moving(Some(30), 40, batch([upsert(1, 40)]));
        assert!(matches!(store.apply(&next), Err(StoreError::Retry { .. })), "the question is lost");
        assert_eq!(look(&direct, 1), visible(1, 30));
        store.apply(&next).unwrap();
        assert_eq!(look(&bench, 1), visible(1, 40));
    }
}

#[test]
fn a_truncate_that_was_interrupted_is_finished() {
    if !available() {
        return;
    }
    let bench = bench(server::shared().settings(RowEncoding::Hash));
    let mut store = bench.open();
    store.apply(&moving(None, 10, batch((0..9).map(|nth| upsert(nth, 10 + nth))))).unwrap();
    store.begin_cut(0, Vec::new(), version(15, 0, 15), NOW_MS).unwrap();
    // The process dies here: nothing is given back.
    let lease = format!("{}readside:lease", bench.settings.redis.prefix);
    let () = redis::cmd("DEL").arg(lease).query(&mut server::shared().client()).unwrap();
    std::mem::forget(store);
    let mut store = bench.open();
    store.apply(&moving(Some(10), 20, batch([]))).unwrap();
    assert_eq!(store.figures().rows[0], 3);
    for nth in 0..6 {
        assert_eq!(look(&bench, nth), RowLookup::Missing);
    }
    assert_eq!(look(&bench, 6), visible(6, 16));
}

/// Redis reads a large command piece by piece, and a small one of a new connection may be in between:
/// what we gave up runs after we have looked.
#[test]
fn a_script_that_runs_after_it_was_given_up_is_no_loss() {
    if !available() {
        return;
    }
    let server = Server::start();
    for encoding in ENCODINGS {
        let direct = bench(server.settings(encoding));
        let proxy = Proxy::before(&direct.settings);
        let mut store = begun(&bench(proxy.settings.clone()));
        for (id, answers) in (1..).zip([1, 1, 2, 3]) {
            let from = 10 * id as i64;
            let next = Batch { id, ..moving(Some(from), from + 10, batch([upsert(1, from + 10)])) };
            proxy.deliver_late(1, answers);
            insist(&mut store, &next).unwrap();
            store.apply(&batch([])).unwrap();
            assert_eq!(look(&direct, 1), visible(1, from + 10));
            assert_eq!(store.checkpoint().unwrap().positions[&AT].next_offset, from + 10);
        }
    }
}

/// Of pieces that come late all are applied or none: the last one moves the positions.
#[test]
fn pieces_that_run_after_they_were_given_up_leave_no_row_out() {
    if !available() {
        return;
    }
    let server = Server::start();
    for answers in 1..=4 {
        let direct = bench(server.settings(RowEncoding::Hash));
        let proxy = Proxy::before(&direct.settings);
        let mut store = bench(proxy.settings.clone()).open();
        store.apply(&moving(None, 10, batch([order(0, 1)]))).unwrap();
        let next = Batch { id: 7, ..moving(Some(10), 20, batch((0..30).map(|nth| order(nth, 2)))) };
        proxy.deliver_late(30usize.div_ceil(crate::store::redis::PIECE_ROWS), answers);
        insist(&mut store, &next).unwrap();
        store.apply(&batch([])).unwrap();
        drop(store);
        let reader = direct.reader();
        for nth in 0..30 {
            let found = reader.row(2, &key(&catalog().tables[2], nth)).unwrap();
            assert!(
                matches!(found, RowLookup::Visible { version, .. } if version == super::version(2, 0, 2))
            );
        }
        assert_eq!(direct.open().figures().rows[2], 30);
    }
}

#[test]
fn a_node_that_was_demoted_is_left() {
    if !available() {
        return;
    }
    let [(first, one), (second, other)] = [Server::start_on_a_port(), Server::start_on_a_port()];
    let follow = |server: &Server, host: &str, port: &str| {
        let () = redis::cmd("REPLICAOF").arg(host).arg(port).query(&mut server.client()).unwrap();
    };
    follow(&second, "127.0.0.1", &one.to_string());
    let settings = first.settings(RowEncoding::Hash);
    let proxy = Proxy::before(&settings);
    let mut store = begun(&bench(proxy.settings.clone()));
    // Until the other one has everything that was written before.
    let mut client = first.client();
    let () = redis::cmd("SET").arg("other").arg(1).query(&mut client).unwrap();
    assert_eq!(redis::cmd("WAIT").arg(1).arg(0).query::<u64>(&mut client).unwrap(), 1);
    follow(&second, "NO", "ONE");
    follow(&first, "127.0.0.1", &other.to_string());
    proxy.point_at(&second.socket());
    insist(&mut store, &moving(Some(10), 20, batch([upsert(1, 20)]))).unwrap();
    let mut there = settings.clone();
    there.redis.url.server = RedisServer::Unix { path: second.socket() };
    assert_eq!(look(&bench(there), 1), visible(1, 20));
}

fn retried<T: std::fmt::Debug>(result: Result<T, StoreError>) -> RetryReason {
    match result {
        Err(StoreError::Retry { reason, .. }) => reason,
        other => panic!("not retried: {other:?}"),
    }
}

#[test]
fn a_server_that_takes_no_more_clients_is_asked_again() {
    if !available() {
        return;
    }
    let (server, port) = Server::start_on_a_port();
    let mut settings = server.settings(RowEncoding::Hash);
    settings.redis.url.server = RedisServer::Tcp { host: "127.0.0.1".into(), port, tls: false };
    let mut client = server.client();
    let mut at_most = |clients: u32| {
        let () = redis::cmd("CONFIG").arg("SET").arg("maxclients").arg(clients).query(&mut client).unwrap();
    };
    let mut store = begun(&bench(settings.clone()));
    for database in [0, 1] {
        at_most(1);
        let mut settings = settings.clone();
        settings.redis.url.database = database;
        assert_eq!(retried(bench(settings.clone()).try_open()), RetryReason::Io);
        at_most(100);
        settings.redis.prefix = format!("again{database}:");
        bench(settings).open();
    }
    store.apply(&moving(Some(10), 20, batch([upsert(1, 20)]))).unwrap();
}

#[test]
fn a_server_that_is_busy_with_a_script_is_asked_again_in_any_database() {
    if !available() {
        return;
    }
    let server = Server::start_with(["--busy-reply-threshold", "1"].map(str::to_owned).to_vec());
    let mut settings = server.settings(RowEncoding::Hash);
    settings.redis.url.database = 1;
    let mut client = server.client();
    let mut busy = std::os::unix::net::UnixStream::connect(server.socket()).unwrap();
    std::io::Write::write_all(&mut busy, b"EVAL \"while true do end\" 0\r\n").unwrap();
    while redis::cmd("PING").query::<String>(&mut client).is_ok() {}
    assert_eq!(retried(bench(settings.clone()).try_open()), RetryReason::Busy);
    let () = redis::cmd("SCRIPT").arg("KILL").query(&mut client).unwrap();
    bench(settings.clone()).open();
    // One that is not there is not waited for.
    settings.redis.url = RedisUrl { database: 99, ..settings.redis.url };
    for message in [
        stopped(bench(settings.clone()).try_open(), StopCode::Io),
        stopped(redis_check(&settings, std::time::Duration::from_secs(1)), StopCode::Io),
    ] {
        assert!(message.contains("out of range"), "{message}");
    }
}

/// Somebody may change the policy of a server that runs, or start another one in its place.
#[test]
fn a_server_that_has_begun_to_drop_keys_is_noticed_when_it_is_connected_to() {
    if !available() {
        return;
    }
    let server = Server::start();
    let bench = bench(server.settings(RowEncoding::Hash));
    let mut store = begun(&bench);
    let mut client = server.client();
    let policy = |client: &mut redis::Connection, policy: &str| {
        let () = redis::cmd("CONFIG").arg("SET").arg("maxmemory-policy").arg(policy).query(client).unwrap();
    };
    policy(&mut client, "allkeys-lru");
    let kill = ["KILL", "TYPE", "normal", "SKIPME", "yes"];
    let _: i64 = redis::cmd("CLIENT").arg(&kill[..]).query(&mut client).unwrap();
    let next = moving(Some(10), 20, batch([upsert(1, 20)]));
    let message = stopped(insist(&mut store, &next), StopCode::Foreign);
    assert!(message.contains("allkeys-lru") && message.contains("noeviction"), "{message}");
    policy(&mut client, "noeviction");
    insist(&mut store, &next).unwrap();
}
