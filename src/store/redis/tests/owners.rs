//! Whose replica it is, and who writes it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::*;
use crate::store::{RedisStore, Store, redis_check};

fn quick(server: &Server) -> RedisSettings {
    RedisSettings { heartbeat_limit: Duration::from_millis(300), ..server.settings(RowEncoding::Hash) }
}

#[test]
fn a_writer_that_was_replaced_stops_also_when_nothing_is_written() {
    if !available() {
        return;
    }
    let bench = bench(quick(server::shared()));
    let mut first = bench.open();
    first.apply(&moving(None, 10, batch([upsert(1, 10)]))).unwrap();
    // The first says nothing until its lease has run out.
    let mut second = bench.open();
    assert!(second.epoch() > first.epoch());
    second.apply(&moving(Some(10), 20, batch([upsert(1, 20)]))).unwrap();
    for _ in 0..2 {
        let message = stopped(first.apply(&batch([])), StopCode::Foreign);
        assert!(message.contains("another readside"), "{message}");
    }
    stopped(first.maintain(NOW_MS), StopCode::Foreign);
    stopped(first.apply(&moving(Some(20), 30, batch([upsert(1, 30)]))), StopCode::Foreign);
    stopped(first.complete(), StopCode::Foreign);
    // Its end does not take the lease of the second.
    drop(first);
    second.apply(&moving(Some(20), 30, batch([upsert(1, 30)]))).unwrap();
    assert_eq!(look(&bench, 1), visible(1, 30));
}

#[test]
fn a_living_writer_is_not_replaced() {
    if !available() {
        return;
    }
    // However long the first one is kept from renewing it.
    let heartbeat_limit = Duration::from_secs(600);
    let bench = bench(RedisSettings { heartbeat_limit, ..quick(server::shared()) });
    let mut first = bench.open();
    let (over, refused) = (AtomicBool::new(false), std::sync::mpsc::channel());
    std::thread::scope(|scope| {
        let (over, bench) = (&over, &bench);
        scope.spawn(move || {
            refused.0.send(bench.try_open()).unwrap();
            over.store(true, Ordering::Release);
        });
        while !over.load(Ordering::Acquire) {
            first.maintain(NOW_MS).unwrap();
        }
        let message = stopped(refused.1.recv().unwrap(), StopCode::Foreign);
        assert!(message.contains("another readside writes"), "{message}");
    });
    first.apply(&batch([upsert(1, 10)])).unwrap();
}

/// As after `PERSIST`, or a tool that moves keys without their expiry.
#[test]
fn a_lease_that_does_not_expire_is_not_waited_for() {
    if !available() {
        return;
    }
    let bench = bench(quick(server::shared()));
    std::mem::forget(bench.open());
    let lease = format!("{}readside:lease", bench.settings.redis.prefix);
    let mut client = server::shared().client();
    let () = redis::cmd("SET").arg(&lease).arg("somebody").query(&mut client).unwrap();
    let message = stopped(bench.try_open(), StopCode::Foreign);
    assert!(message.contains(&lease) && message.contains("delete"), "{message}");
    let () = redis::cmd("DEL").arg(&lease).query(&mut client).unwrap();
    bench.open();
}

#[test]
fn a_replica_of_another_name_or_mapping_is_not_touched() {
    if !available() {
        return;
    }
    let server = server::shared();
    let settings = server.settings(RowEncoding::Hash);
    let mine = bench(settings.clone());
    mine.open().apply(&batch([upsert(1, 10)])).unwrap();
    let mut client = server.client();
    let before = everything(&mut client, &settings.redis.prefix);
    let refused = |settings: &RedisSettings, catalog: crate::domain::catalog::Catalog, word: &str| {
        let message = stopped(RedisStore::open(settings, Arc::new(catalog)), StopCode::Foreign);
        assert!(message.contains(word), "{message}");
    };
    refused(&RedisSettings { replica_name: "other".into(), ..settings.clone() }, catalog(), "replica.name");
    assert_eq!(everything(&mut client, &settings.redis.prefix), before);
    // Of its own name it is taken, to see under which mapping it is, and left as it is apart from that.
    let meta = format!("{}readside:meta", settings.redis.prefix);
    let rest = |client: &mut redis::Connection| {
        let mut all = everything(client, &settings.redis.prefix);
        all.remove(&meta);
        all
    };
    let before = rest(&mut client);
    let redis = Redis { encoding: RowEncoding::Json, ..settings.redis.clone() };
    refused(&RedisSettings { redis, ..settings.clone() }, catalog(), "kept as hash");
    let mut other = catalog();
    other.fingerprint = "another".into();
    refused(&settings, other, "another mapping");
    let mut other = catalog();
    other.tables[0].indexes.pop();
    refused(&settings, other, "other indexes");
    let mut other = catalog();
    other.tables[0].name = "readside".into();
    refused(&settings, other, "rename");
    assert_eq!(rest(&mut client), before);
    // Rows without bookkeeping would never go.
    let strange = server.settings(RowEncoding::Hash);
    let () = redis::cmd("SET")
        .arg(format!("{}users:1", strange.redis.prefix))
        .arg("x")
        .query(&mut client)
        .unwrap();
    refused(&strange, catalog(), "users:1");
}

#[test]
fn a_server_that_drops_keys_is_refused() {
    if !available() {
        return;
    }
    let server = Server::start();
    let mut client = server.client();
    let bench = bench(server.settings(RowEncoding::Hash));
    for policy in ["allkeys-lru", "volatile-ttl"] {
        let () =
            redis::cmd("CONFIG").arg("SET").arg("maxmemory-policy").arg(policy).query(&mut client).unwrap();
        let message = stopped(bench.try_open(), StopCode::Foreign);
        assert!(message.contains(policy) && message.contains("noeviction"), "{message}");
        stopped(redis_check(&bench.settings, PATIENCE), StopCode::Foreign);
    }
    assert_eq!(redis::cmd("DBSIZE").query::<u64>(&mut client).unwrap(), 0);
}

#[test]
fn a_check_says_what_the_user_may_not_do() {
    if !available() {
        return;
    }
    let server = Server::start();
    let mut client = server.client();
    let settings = server.settings(RowEncoding::Hash);
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "secret\n").unwrap();
    let mut user = settings.clone();
    user.redis.username = Some("writer".into());
    user.redis.password_file = Some(file.path().to_owned());
    let mut allow = |rules: &[&str]| {
        let mut cmd = redis::cmd("ACL");
        cmd.arg("SETUSER").arg("writer").arg("reset").arg("on").arg(">secret");
        let () = cmd.arg(rules).query(&mut client).unwrap();
    };
    let keys = format!("~{}*", settings.redis.prefix);
    allow(&[&keys, "+@all", "-hset", "-@dangerous", "+info"]);
    let message = stopped(redis_check(&user, PATIENCE), StopCode::Io);
    assert!(message.contains("HSET") && !message.contains("HGET"), "{message}");
    // These are the rights of a writer.
    let rights =
        [&keys, "+@read", "+@write", "+@connection", "+@transaction", "+@scripting", "-@dangerous", "+info"];
    allow(&rights);
    assert!(redis_check(&user, PATIENCE).unwrap().starts_with("Redis "));
    let bench = bench(user.clone());
    bench.open().apply(&moving(None, 10, batch([upsert(1, 10), delete(2, 10)]))).unwrap();
    assert_eq!(look(&bench, 1), visible(1, 10));
    // Rights that are taken away while it writes: the last command is the one that is missing.
    for (more, right, table) in [
        ("+hset", "-del", 0),
        ("+hset", "-srem", 0),
        ("+hset", "-hset", 2),
        ("+hset", "-sadd", 0),
        ("+restore", "-restore", 2),
        ("+restore", "-restore", 0),
    ] {
        let rights = [&rights[..], &[more]].concat();
        allow(&rights);
        let mut store = bench.open();
        let position =
            |store: &mut RedisStore| store.checkpoint().unwrap().positions.get(&AT).map(|at| at.next_offset);
        let from = position(&mut store);
        let before = everything(&mut server.client(), &settings.redis.prefix);
        let to = from.unwrap_or(0) + 10;
        let mut change = upsert(1, to);
        if table == 2 {
            change.table = 2;
            change.values = row(&catalog().tables[2], 1, to, 0xFF);
        }
        let mut moved = upsert(3, to);
        moved.values[2] = crate::domain::value::Value::Text(format!("{to}@x.org"));
        let next = moving(from, to, batch([moved, delete(1, to - 1), change]));
        allow(&[&rights[..], &[right]].concat());
        stopped(store.apply(&next), StopCode::Io);
        assert_eq!(everything(&mut server.client(), &settings.redis.prefix), before, "{right}");
        allow(&rights);
        store.apply(&next).unwrap();
    }
    // Another prefix is not its own.
    let redis = Redis { prefix: "other:".into(), ..user.redis.clone() };
    stopped(redis_check(&RedisSettings { redis, ..user.clone() }, PATIENCE), StopCode::Io);
    std::fs::write(file.path(), "wrong").unwrap();
    assert!(matches!(redis_check(&user, PATIENCE), Err(StoreError::Retry { .. })));
}
