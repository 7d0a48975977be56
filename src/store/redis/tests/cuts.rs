//! What takes many rows away goes in slices, and is finished whatever comes in between.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;

use super::proxy::Proxy;
use super::*;
use crate::domain::batch::{BatchBuilder, Sweep};
use crate::domain::catalog::Catalog;
use crate::domain::change::{Change, Cleared, Operation};
use crate::domain::checkpoint::TopicPartition;
use crate::domain::snapshot::Phase;
use crate::domain::value::Value;
use crate::store::redis::pulse::Pulse;
use crate::store::{MemoryStore, RedisStore, Store};

const LINES: usize = 4;

/// A table with prefixes, and one without.
fn lines(settings: RedisSettings) -> InRedis {
    InRedis::at(settings, Arc::new(with_prefixes()))
}

fn line(order: i64, nth: i64, number: i64) -> Change {
    let values = vec![
        Value::Text("a:b".into()),
        Value::Integer(order),
        Value::Integer(nth),
        Value::Text(format!("sku {number}")),
    ];
    Change { table: LINES, values, version: version(number, 0, number), ..upsert(0, 0) }
}

fn cleared(order: i64, number: i64) -> Change {
    let mut change = line(order, 0, number);
    change.values[2..].fill(Value::Absent);
    Change { operation: Operation::Clear(Cleared::Deleted), ..change }
}

fn truncated(table: usize, number: i64) -> Change {
    Change { table, operation: Operation::Truncate, values: vec![], ..upsert(0, number) }
}

fn heard(number: i64, phase: Phase) -> Change {
    let version = version(number, 0, 0).first_of_its_kind();
    Change { operation: Operation::Snapshot(phase), values: vec![], version, ..upsert(0, 0) }
}

fn of(catalog: &Catalog, changes: impl IntoIterator<Item = Change>) -> Batch {
    let mut builder = BatchBuilder::default();
    for change in changes {
        match change.operation {
            Operation::Snapshot(Phase::Swept) => {
                let sweep = Sweep { begin: change.version, is_whole: true };
                builder.push_sweep(change.table, change.topic, sweep)
            }
            _ => builder.push(catalog, change),
        }
    }
    builder.seal(observed())
}

/// In batches of some rows.
fn fill(store: &mut RedisStore, catalog: &Catalog, changes: impl IntoIterator<Item = Change>) {
    let changes: Vec<Change> = changes.into_iter().collect();
    for some in changes.chunks(250) {
        store.apply(&of(catalog, some.iter().cloned())).unwrap();
    }
}

#[test]
fn a_prefix_whose_rows_were_not_all_gone_is_finished() {
    if !available() {
        return;
    }
    for encoding in ENCODINGS {
        let bench = lines(server::shared().settings(encoding));
        let mut store = bench.open();
        let catalog = with_prefixes();
        fill(&mut store, &catalog, (0..200).map(|nth| line(nth % 2, nth, 10 + nth / 100)));
        let text = crate::store::redis::names::prefix_text(&line(1, 0, 0).values[..2]);
        store.begin_cut(LINES, text, version(10, 0, 10), NOW_MS).unwrap();
        // The process dies here: nothing is given back.
        std::mem::forget(store);
        let_lease_expire(server::shared(), &bench.settings);
        let mut store = bench.open();
        assert_eq!(store.figures().delete_marks[LINES], 1);
        store.apply(&moving(None, 20, of(&catalog, []))).unwrap();
        assert_eq!(store.figures().rows[LINES], 150);
        assert_eq!(store.apply(&of(&catalog, [line(1, 300, 9)])).unwrap().stale, [0]);
        // Nothing is left of it to be done.
        drop(store);
        let mut store = bench.open();
        store.apply(&moving(Some(20), 30, of(&catalog, []))).unwrap();
        assert_eq!((store.figures().rows[LINES], store.figures().delete_marks[LINES]), (150, 1));
    }
}

/// What it takes away is known by its mark, which may be old by the time the process is back.
#[test]
fn the_mark_of_a_prefix_stays_until_its_rows_are_gone() {
    if !available() {
        return;
    }
    let bench = lines(server::shared().settings(RowEncoding::Hash));
    let mut store = bench.open();
    let catalog = with_prefixes();
    fill(&mut store, &catalog, (0..200).map(|nth| line(nth % 2, nth, 10)));
    store.apply(&of(&catalog, [cleared(7, 10)])).unwrap();
    store.apply(&fresh_as_of(TopicPartition { topic: 1, partition: 0 }, NOW_MS + 60_001)).unwrap();
    let text = crate::store::redis::names::prefix_text(&line(1, 0, 0).values[..2]);
    store.begin_cut(LINES, text, version(10, 0, 10), NOW_MS).unwrap();
    std::mem::forget(store);
    let_lease_expire(server::shared(), &bench.settings);
    let mut store = bench.open();
    // The other one goes.
    assert_eq!(store.maintain(NOW_MS + 60_001).unwrap().delete_marks_dropped, 1);
    store.apply(&moving(None, 20, of(&catalog, []))).unwrap();
    assert_eq!((store.figures().rows[LINES], store.figures().delete_marks[LINES]), (100, 1));
    assert_eq!(store.maintain(NOW_MS + 60_001).unwrap().delete_marks_dropped, 1);
}

/// Looking for what has to go takes as long as the database is large, however little is found.
#[test]
fn there_is_a_sign_of_life_for_every_page_that_is_looked_at() {
    if !available() {
        return;
    }
    let server = Server::start();
    let bench = bench(server.settings(RowEncoding::Hash));
    let mut client = server.client();
    let text = "for i = 1, 20000 do redis.call('SET', 'other:' .. i, '') end";
    let () = redis::cmd("EVAL").arg(text).arg(0).query(&mut client).unwrap();
    let meta = format!("{}readside:meta", bench.settings.redis.prefix);
    let mut steps = |work: &mut dyn FnMut()| -> u64 {
        let mut sequence =
            || -> u64 { redis::cmd("HGET").arg(&meta).arg("sequence").query(&mut client).unwrap() };
        let before = sequence();
        work();
        sequence() - before
    };
    // A scan looks at 500 keys.
    let pages = 20_000 / 500 - 4;
    let mut store = bench.open();
    let listed = (0..90).map(|nth| upsert(nth, 20)).chain([heard(20, Phase::Listed)]);
    store.apply(&of(&catalog(), (85..95).map(|nth| upsert(nth, 10)).chain(listed))).unwrap();
    let observed = observed();
    let mut pulse = Pulse::loud(&observed);
    let sweep = Sweep { begin: version(20, 0, 0).first_of_its_kind(), is_whole: true };
    // Counted first, and then taken away.
    let steps_taken = steps(&mut || {
        let swept = store.sweep_ghosts(0, sweep, &mut pulse).unwrap().unwrap();
        assert_eq!((swept.rows, swept.snapshot.phase), (5, Phase::Swept));
    });
    assert!(steps_taken >= 2 * pages, "{steps_taken} steps");
    let nothing = Vec::new();
    store.begin_cut(0, nothing, version(30, 0, 30), NOW_MS).unwrap();
    let steps_taken = steps(&mut || store.finish_cuts(&mut pulse).unwrap());
    assert!(steps_taken >= pages, "{steps_taken} steps");
    assert_eq!(store.figures().rows[0], 0);
}

/// Everything that commands do to a server, as lines of `MONITOR`.
fn watched(server: &Server, work: impl FnOnce()) -> Vec<String> {
    let mut monitor = UnixStream::connect(server.socket()).unwrap();
    monitor.write_all(b"MONITOR\r\n").unwrap();
    let mut lines = BufReader::new(monitor).split(b'\n');
    let mut next = move || String::from_utf8_lossy(&lines.next().unwrap().unwrap()).into_owned();
    assert!(next().starts_with("+OK"));
    let reader = std::thread::spawn(move || {
        let mut seen = Vec::new();
        loop {
            let line = next();
            if line.contains("\"that was all\"") {
                return seen;
            }
            seen.push(line);
        }
    });
    work();
    let () = redis::cmd("ECHO").arg("that was all").query(&mut server.client()).map(|_: String| ()).unwrap();
    reader.join().unwrap()
}

/// The commands of the longest script, and the most that are asked for between two scripts or scans: Redis
/// serves nobody else meanwhile.
fn longest(lines: &[String]) -> (usize, usize) {
    let (mut in_script, mut between) = (0, 0);
    let (mut most_in_script, mut most_between) = (0, 0);
    for line in lines {
        if line.contains(" lua] ") {
            in_script += 1;
            most_in_script = most_in_script.max(in_script);
        } else if ["EVAL", "SCAN", "HSCAN", "ZRANGE"].iter().any(|verb| line.contains(&format!("] \"{verb}")))
        {
            (in_script, between) = (0, 0);
        } else {
            between += 1;
            most_between = most_between.max(between);
        }
    }
    (most_in_script, most_between)
}

/// A second client waits for one slice at most, however large the table is.
#[test]
fn no_script_takes_more_than_a_slice() {
    if !available() {
        return;
    }
    for encoding in ENCODINGS {
        let server = Server::start();
        let bench = lines(server.settings(encoding));
        let catalog = with_prefixes();
        let mut store = bench.open();
        fill(&mut store, &catalog, (0..2_000).map(|nth| line(nth % 2, nth, 10)));
        fill(&mut store, &catalog, (0..2_000).map(|nth| upsert(nth, 10)));
        store.complete().unwrap();
        // Each row has three index entries at the most, and is looked at before it goes.
        let bound = 64 * 6 + 60;
        let work = |store: &mut RedisStore, changes: Vec<Change>, table: usize, left: u64| {
            let slices = (store.figures().rows[table] - left).div_ceil(64) as usize;
            let batch = of(&catalog, changes);
            let lines = watched(&server, || {
                store.apply(&batch).unwrap();
            });
            assert_eq!(store.figures().rows[table], left);
            let scripts = lines.iter().filter(|line| line.contains("] \"EVALSHA\"")).count();
            assert!(scripts >= slices, "{scripts} scripts");
            let (in_script, between) = longest(&lines);
            assert!(in_script <= bound, "{in_script} commands in one script");
            assert!(between <= 1_000, "{between} commands asked for at once");
        };
        work(&mut store, vec![cleared(1, 20)], LINES, 1_000);
        work(&mut store, vec![truncated(LINES, 30)], LINES, 0);
        // As many ghosts as are believed.
        let listed = (0..1_800).map(|nth| upsert(nth, 20)).chain([heard(20, Phase::Listed)]);
        fill(&mut store, &catalog, listed);
        work(&mut store, vec![heard(20, Phase::Swept)], 0, 1_800);
        work(&mut store, vec![truncated(0, 40)], 0, 0);
    }
}

#[test]
fn a_connection_that_breaks_at_any_byte_leaves_what_the_model_has() {
    if !available() {
        return;
    }
    let server = Server::start();
    let catalog = with_prefixes();
    let shape = Arc::new(catalog.clone());
    let before = of(
        &catalog,
        (0..40).map(|nth| line(nth % 3, nth, 10 + nth % 4)).chain((0..8).map(|nth| upsert(nth, 10))),
    );
    let after = || {
        let changes = [line(1, 50, 9), cleared(1, 12), line(1, 51, 30), line(1, 4, 30), truncated(0, 5)];
        let more = [heard(20, Phase::Listed), upsert(1, 20), heard(20, Phase::Swept), upsert(2, 21)];
        of(&catalog, changes.into_iter().chain(more).chain([cleared(0, 40)]))
    };
    let mut model = MemoryStore::new(Arc::clone(&shape), HEARTBEAT_LIMIT);
    model.apply(&before).unwrap();
    let expected = model.apply(&after()).unwrap();
    assert_eq!(expected.swept.len(), 1);
    Proxy::cut_at_any_byte(311, |encoding, cut| {
        let direct = lines(server.settings(encoding));
        let proxy = Proxy::before(&direct.settings);
        let mut store = lines(proxy.settings.clone()).open();
        store
            .apply(&moving(None, 10, Batch { entries: before.entries.clone(), ..of(&catalog, []) }))
            .unwrap();
        let next = Batch { id: 7, ..moving(Some(10), 20, after()) };
        let failed = proxy.apply_cut_after(cut, &mut store, &next);
        let (found, wanted) = (store.figures(), model.figures());
        assert_eq!(found.rows, wanted.rows, "cut after {cut} bytes");
        assert_eq!((found.held, found.delete_marks), (wanted.held, wanted.delete_marks));
        let checkpoint = store.checkpoint().unwrap();
        assert_eq!(checkpoint.positions[&AT].next_offset, 20);
        assert_eq!(checkpoint.snapshots, model.checkpoint().unwrap().snapshots);
        drop(store);
        let mut store = direct.open();
        assert_eq!(store.figures().rows, model.figures().rows, "as Redis has it");
        assert_eq!(store.figures().delete_marks, model.figures().delete_marks);
        failed
    });
}

/// The shipped user may do all that clearing by prefix needs.
#[test]
fn the_shipped_writer_may_clear_by_prefix() {
    if !available() {
        return;
    }
    let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/redis/users.acl");
    let directory = tempfile::tempdir().unwrap();
    let (users, password) = (directory.path().join("users.acl"), directory.path().join("password"));
    std::fs::copy(file, &users).unwrap();
    std::fs::write(&password, "writer-password").unwrap();
    let server = Server::start_with(vec!["--aclfile".into(), users.display().to_string()]);
    let mut settings = server.settings(RowEncoding::Hash);
    settings.redis.prefix = "shop:".into();
    settings.redis.username = Some("readside".into());
    settings.redis.password_file = Some(password);
    let bench = lines(settings);
    let catalog = with_prefixes();
    let mut store = bench.open();
    fill(&mut store, &catalog, (0..9).map(|nth| line(nth % 2, nth, 10)));
    store.apply(&of(&catalog, [cleared(1, 20), line(1, 1, 21)])).unwrap();
    assert_eq!((store.figures().rows[LINES], store.figures().delete_marks[LINES]), (6, 1));
    store.apply(&fresh_as_of(TopicPartition { topic: 1, partition: 0 }, NOW_MS + 60_001)).unwrap();
    assert_eq!(store.maintain(NOW_MS + 60_001).unwrap().delete_marks_dropped, 1);
}
