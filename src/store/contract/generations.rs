//! Generations: one is begun beside the live one, resumed, switched to, refused, dropped.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::domain::dead_letter::{DeadLetter, Reason, Rejection};
use crate::domain::event_ids::{EventId, NewEventIds};
use crate::domain::state::State;
use crate::store::redis::tests::{leftovers_of, let_lease_expire};
use crate::store::{Completion, Live, Rebuild, Replica, Status, StopCode};

/// A place whose replica can have a second generation.
trait Place: Sync {
    fn new() -> Self;
    fn replica(&self) -> Box<dyn Replica>;
    fn reader(&self, catalog: Catalog) -> Box<dyn Reader>;

    /// Objects (tables, keys) of generations that neither serve nor are built.
    fn leftovers(&self) -> usize;

    /// The process ends without a word.
    fn kill(&self, replica: Box<dyn Replica>, stores: Vec<Box<dyn Store>>);

    fn status(&self) -> Status {
        self.status_at(NOW_MS)
    }

    fn status_at(&self, now_ms: i64) -> Status {
        self.reader(catalog()).status(now_ms).unwrap()
    }

    /// Of the first table; and which generation serves.
    fn seen(&self) -> (u64, u32) {
        let table = &self.status().tables[0];
        (table.rows, table.generation)
    }

    fn look(&self, nth: i64) -> RowLookup {
        self.reader(catalog()).row(0, &key(&super::catalog().tables[0], nth)).unwrap()
    }
}

struct OnDisk(InSqlite);

impl Place for OnDisk {
    fn new() -> OnDisk {
        OnDisk(InSqlite::new(Arc::new(catalog())))
    }

    fn replica(&self) -> Box<dyn Replica> {
        Box::new(crate::store::SqliteReplica::open(&self.0.path(), settings()).unwrap())
    }

    fn reader(&self, catalog: Catalog) -> Box<dyn Reader> {
        Box::new(SqliteReader::new(&self.0.path(), Arc::new(catalog)))
    }

    fn leftovers(&self) -> usize {
        crate::store::sqlite::tests::leftovers(&self.0.path())
    }

    fn kill(&self, replica: Box<dyn Replica>, stores: Vec<Box<dyn Store>>) {
        // What a crash leaves of a file is tried with the file.
        drop((replica, stores));
    }
}

/// In a server of its own: databases are exchanged.
struct OnServer {
    server: server::Server,
    settings: RedisSettings,
}

impl OnServer {
    fn with(encoding: RowEncoding, dedicated: bool) -> OnServer {
        let server = server::Server::start();
        let mut settings = server.settings(encoding);
        settings.redis.dedicated = dedicated;
        OnServer { server, settings }
    }

    fn replica(&self) -> Box<dyn Replica> {
        Box::new(crate::store::RedisReplica::open(&self.settings).unwrap())
    }

    fn reader(&self, catalog: Catalog) -> Box<dyn Reader> {
        Box::new(RedisReader::new(&self.settings, Arc::new(catalog)))
    }

    fn leftovers(&self) -> usize {
        leftovers_of(&self.server, &self.settings)
    }

    fn kill(&self, replica: Box<dyn Replica>, stores: Vec<Box<dyn Store>>) {
        std::mem::forget((replica, stores));
        let_lease_expire(&self.server, &self.settings);
    }
}

macro_rules! on_server {
    ($($place:ident: $encoding:ident, $dedicated:literal;)*) => {$(
        struct $place(OnServer);

        impl Place for $place {
            fn new() -> $place {
                $place(OnServer::with(RowEncoding::$encoding, $dedicated))
            }

            fn replica(&self) -> Box<dyn Replica> {
                self.0.replica()
            }

            fn reader(&self, catalog: Catalog) -> Box<dyn Reader> {
                self.0.reader(catalog)
            }

            fn leftovers(&self) -> usize {
                self.0.leftovers()
            }

            fn kill(&self, replica: Box<dyn Replica>, stores: Vec<Box<dyn Store>>) {
                self.0.kill(replica, stores)
            }
        }
    )*};
}

on_server! {
    InSharedRedis: Hash, false;
    InSharedRedisAsJson: Json, false;
    InDedicatedRedis: Hash, true;
}

macro_rules! generations {
    ($($case:ident),* $(,)?) => {
        mod sqlite {
            $(#[test] fn $case() { super::$case::<super::OnDisk>() })*
        }
        generations!(@redis shared_redis InSharedRedis $($case)*);
        generations!(@redis shared_redis_json InSharedRedisAsJson $($case)*);
        generations!(@redis dedicated_redis InDedicatedRedis $($case)*);
    };
    (@redis $module:ident $place:ident $($case:ident)*) => {
        mod $module {
            $(#[test] fn $case() {
                if super::server::available() {
                    super::$case::<super::$place>()
                }
            })*
        }
    };
}

generations! {
    readers_see_the_live_generation_until_the_switch_and_the_new_one_from_then_on,
    readers_that_never_pause_see_one_generation_or_the_other,
    a_copy_that_lost_much_is_refused_unless_a_person_accepts_it,
    a_position_may_go_back_only_where_it_means_nothing_any_more,
    a_killed_rebuild_is_resumed,
    another_mapping_is_built_beside_a_copy_that_stays_as_it_is,
    a_frozen_copy_says_why,
    a_first_copy_under_another_mapping_starts_over,
    a_first_copy_that_cannot_go_on_is_begun_again,
    a_rebuild_does_not_disturb_a_first_copy,
    freshness_does_not_go_back_with_a_switch,
    a_partition_that_nothing_was_read_of_keeps_its_freshness,
    two_writers_take_turns_and_neither_starves,
    what_was_given_up_goes_and_another_begins_at_once,
    everything_of_a_copy_comes_with_the_switch,
    a_writer_that_was_retired_is_told_so_whatever_it_finds,
}

fn begin(replica: &dyn Replica, rebuild: &Rebuild) -> Box<dyn Store> {
    replica.begin(Arc::new(catalog()), rebuild).unwrap().unwrap()
}

fn open_live(replica: &dyn Replica) -> Box<dyn Store> {
    replica.open_live(Arc::new(catalog())).unwrap()
}

/// Rows `rows` with version `number`, and the position that this leads to.
fn upserts(rows: std::ops::Range<i64>, number: i64, from: Option<i64>, to: i64) -> Batch {
    Batch { advances: advance(from, to), ..batch(rows.map(|nth| upsert(nth, number))) }
}

/// A whole copy of `rows` rows that stands at 10.
fn complete(replica: &dyn Replica, rows: i64) -> Box<dyn Store> {
    let mut live = open_live(replica);
    live.apply(&upserts(0..rows, 1, None, 10)).unwrap();
    assert_eq!(live.complete().unwrap(), Completion::Done);
    live
}

fn stopped<T: std::fmt::Debug>(result: Result<T, StoreError>, expected: StopCode) -> String {
    match result {
        Err(StoreError::Stop { exit, message }) => {
            assert_eq!(exit, expected, "{message}");
            message
        }
        other => panic!("not stopped: {other:?}"),
    }
}

fn tidy(store: &mut dyn Store) {
    while store.maintain(NOW_MS).unwrap().more {}
}

fn readers_see_the_live_generation_until_the_switch_and_the_new_one_from_then_on<P: Place>() {
    let place = P::new();
    let replica = place.replica();
    let mut live = complete(&*replica, 3);
    let mut next = begin(&*replica, &asked_for());
    assert_eq!((live.generation(), next.generation()), (1, 2));
    assert!(next.checkpoint().unwrap().positions.is_empty(), "a checkpoint of its own");
    next.apply(&upserts(0..4, 2, None, 10)).unwrap();
    // The live one goes on.
    live.apply(&upserts(3..4, 1, Some(10), 12)).unwrap();
    assert_eq!(place.seen(), (4, 1));
    assert_eq!(place.look(1), visible(1, 1));
    let status = place.status();
    assert!(status.tables.iter().all(|table| table.rebuilding && table.generation == 1));
    let positions: Vec<_> = status.positions.iter().map(|at| (at.generation, at.next_offset)).collect();
    assert_eq!(positions, [(1, 12), (2, 10)]);

    assert_eq!(next.complete().unwrap(), Completion::Behind, "10 is before 12");
    next.apply(&upserts(4..5, 2, Some(10), 12)).unwrap();
    assert_eq!(next.complete().unwrap(), Completion::Done);
    assert_eq!(place.seen(), (5, 2));
    assert_eq!(place.look(1), visible(1, 2));
    assert!(!place.status().tables[0].rebuilding);
    assert_eq!(next.complete().unwrap(), Completion::Done, "twice is as good as once");

    // The old writer learns of it, and writes nothing any more.
    stopped(live.apply(&upserts(7..9, 9, Some(12), 20)), StopCode::Retired);
    live.maintain(NOW_MS).unwrap();
    drop(live);
    next.apply(&upserts(5..6, 2, Some(12), 13)).unwrap();
    assert_eq!(place.seen(), (6, 2));
    // What it has left behind goes, step by step, and the number is not used again.
    assert!(place.leftovers() > 0);
    tidy(&mut *next);
    assert_eq!(place.leftovers(), 0);
    drop(next);
    let mut again = open_live(&*replica);
    assert_eq!((again.generation(), again.checkpoint().unwrap().positions[&AT].next_offset), (2, 13));
    assert_eq!(begin(&*replica, &asked_for()).generation(), 3);
}

fn readers_that_never_pause_see_one_generation_or_the_other<P: Place>() {
    let place = P::new();
    let replica = place.replica();
    let mut live = open_live(&*replica);
    live.apply(&upserts(0..50, 2, None, 10)).unwrap();
    live.complete().unwrap();
    let stop = AtomicBool::new(false);
    let looked: [AtomicBool; 3] = Default::default();
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..looked.len())
            .map(|nth| {
                let (place, stop, looked) = (&place, &stop, &looked[nth]);
                scope.spawn(move || {
                    let reader = place.reader(catalog());
                    let (mut looks, mut newest) = (0, 0);
                    while !stop.load(Ordering::Relaxed) {
                        let before = reader.status(NOW_MS).expect("a status").tables[0].generation;
                        let row = reader.row(0, &key(&catalog().tables[0], looks % 50)).expect("a look");
                        let after = reader.status(NOW_MS).expect("a status");
                        let RowLookup::Visible { version, .. } = row else { panic!("{nth} saw {row:?}") };
                        assert_eq!(after.tables[0].rows, 50, "half a copy");
                        assert!(after.tables[0].generation >= before);
                        let number = version.at().offset;
                        assert!(number >= newest, "{number} after {newest}");
                        (looks, newest) = (looks + 1, number);
                        looked.store(true, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        let is_at_it = |nth: usize| looked[nth].load(Ordering::Relaxed) || readers[nth].is_finished();
        while !(0..readers.len()).all(is_at_it) {
            std::thread::yield_now();
        }
        for number in 3..11 {
            let mut next = begin(&*replica, &asked_for());
            next.apply(&upserts(0..50, number, None, 10)).unwrap();
            assert_eq!(next.complete().unwrap(), Completion::Done);
            tidy(&mut *next);
            live = next;
        }
        stop.store(true, Ordering::Relaxed);
        for reader in readers {
            reader.join().expect("nothing wrong was seen");
        }
    });
    drop(live);
}

fn a_copy_that_lost_much_is_refused_unless_a_person_accepts_it<P: Place>() {
    let place = P::new();
    let replica = place.replica();
    let mut live = complete(&*replica, 200);
    let mut next = begin(&*replica, &asked_for());
    next.apply(&upserts(0..179, 2, None, 10)).unwrap();
    let Completion::Refused { reason } = next.complete().unwrap() else { panic!("not refused") };
    assert!(reason.contains("users would have 179 rows instead of 200"), "{reason}");
    assert_eq!(place.seen(), (200, 1));
    // One row more is little enough.
    next.apply(&upserts(179..180, 2, Some(10), 11)).unwrap();
    replica.abandon().unwrap();
    stopped(next.complete(), StopCode::Retired);
    stopped(next.apply(&upserts(0..1, 3, Some(11), 12)), StopCode::Retired);
    live.apply(&upserts(0..1, 3, Some(10), 11)).unwrap();
    assert!(!place.status().tables[0].rebuilding);

    let mut next = begin(&*replica, &Rebuild { accepts_loss: true, ..asked_for() });
    next.apply(&upserts(0..1, 2, None, 11)).unwrap();
    assert_eq!(next.complete().unwrap(), Completion::Done);
    assert_eq!(place.seen(), (1, 3));
}

fn a_position_may_go_back_only_where_it_means_nothing_any_more<P: Place>() {
    let begun = |rebuild: &Rebuild, topic_id: &str| {
        let place = P::new();
        let replica = place.replica();
        let named = |id: &str, mut batch: Batch| {
            batch.observed.topic_ids.insert(0, id.into());
            batch
        };
        let mut live = complete(&*replica, 3);
        live.apply(&named("one", upserts(0..1, 2, Some(10), 12))).unwrap();
        let mut next = begin(&*replica, rebuild);
        next.apply(&named(topic_id, upserts(0..3, 2, None, 5))).unwrap();
        next.complete().unwrap()
    };
    assert_eq!(begun(&asked_for(), "one"), Completion::Behind);
    assert_eq!(begun(&asked_for(), "another"), Completion::Done, "another topic has other offsets");
    assert_eq!(begun(&Rebuild { may_go_back: true, ..asked_for() }, "one"), Completion::Done);
}

/// Killed after every step, before and behind the switch: what is there can be gone on with.
fn a_killed_rebuild_is_resumed<P: Place>() {
    let place = P::new();
    let catalog = Arc::new(catalog());
    let mut replica = place.replica();
    let mut live = complete(&*replica, 3);
    let mut next = begin(&*replica, &asked_for());
    for step in 1..=6 {
        let from = (step > 1).then(|| (step - 1) * 2);
        next.apply(&upserts(0..3, step, from, step * 2)).unwrap();
        live.apply(&upserts(0..1, step + 10, Some(9 + step), 10 + step)).unwrap();
        place.kill(replica, vec![live, next]);
        replica = place.replica();
        let survey = replica.survey(&catalog).unwrap();
        assert_eq!(survey.live, Live::Same);
        let found = survey.next.unwrap();
        assert!((found.generation, found.same, found.live_is_frozen) == (2, true, false));
        live = open_live(&*replica);
        assert_eq!(live.checkpoint().unwrap().positions[&AT].next_offset, 10 + step);
        next = replica.resume(Arc::clone(&catalog)).unwrap();
        assert_eq!(next.checkpoint().unwrap().positions[&AT].next_offset, step * 2);
        assert!(place.status().tables[0].rebuilding);
    }
    next.apply(&upserts(0..4, 50, Some(12), 30)).unwrap();
    assert_eq!(next.complete().unwrap(), Completion::Done);
    assert_eq!(place.seen(), (4, 2));
    stopped(live.apply(&upserts(0..1, 60, Some(16), 40)), StopCode::Retired);
    place.kill(replica, vec![live, next]);
    let replica = place.replica();
    assert_eq!(replica.survey(&catalog).unwrap().next, None);
    let mut after = open_live(&*replica);
    assert_eq!((after.generation(), after.checkpoint().unwrap().positions[&AT].next_offset), (2, 30));
    assert_eq!(place.seen(), (4, 2));
    tidy(&mut *after);
    assert_eq!(place.leftovers(), 0);
}

/// `users` without a column, and a table less.
fn changed() -> Catalog {
    let mut changed = catalog();
    changed.fingerprint = "changed".into();
    changed.tables.remove(3);
    changed.tables[0].columns.pop();
    changed.tables[0].fingerprint = "users, changed".into();
    changed
}

/// Row `nth` of `users` under [`changed`].
fn under_changed(nth: i64, number: i64, from: Option<i64>, to: i64) -> Batch {
    let catalog = changed();
    let mut builder = BatchBuilder::default();
    let values = upsert(nth, number).values[..3].to_vec();
    builder.push(&catalog, Change { values, ..upsert(nth, number) });
    Batch { advances: advance(from, to), ..builder.seal(observed()) }
}

fn another_mapping_is_built_beside_a_copy_that_stays_as_it_is<P: Place>() {
    let place = P::new();
    let live = {
        let replica = place.replica();
        complete(&*replica, 3)
    };
    drop(live);
    let changed = Arc::new(changed());
    let replica = place.replica();
    let survey = replica.survey(&changed).unwrap();
    let Live::Changed { tables, complete: true, needs_log: true } = survey.live else { panic!("{survey:?}") };
    assert_eq!(tables, ["users", "odd \"name\""]);
    assert_eq!(replica.live_catalog().unwrap(), Some(catalog()), "as it was when it was built");
    stopped(replica.open_live(Arc::clone(&changed)).map(drop), StopCode::Foreign);
    let rebuild = Rebuild { live_is_frozen: true, ..asked_for() };
    let mut next = replica.begin(Arc::clone(&changed), &rebuild).unwrap().unwrap();
    let mut fresh = batch([]);
    fresh.observed.heartbeat_ms = NOW_MS + 500_000;
    fresh.observed.stopped = Some("why".into());
    next.apply(&fresh).unwrap();
    // The live generation has nobody else to write its heartbeat.
    let status = place.status_at(NOW_MS + 500_000);
    assert_eq!((status.state, status.stopped.as_deref()), (State::Stopped, Some("why")));
    fresh.observed.stopped = Some(String::new());
    fresh.id = 7;
    next.apply(&fresh).unwrap();
    let status = place.status_at(NOW_MS + 500_000);
    assert_ne!(status.state, State::Disconnected);
    assert_eq!((status.tables.len(), status.tables[0].rows), (4, 3));
    assert_eq!(place.look(1), visible(1, 1));
    place.kill(replica, vec![next]);

    // A third mapping: what was half-built is of no use.
    let replica = place.replica();
    let mut third = self::changed();
    third.fingerprint = "third".into();
    let survey = replica.survey(&third).unwrap();
    assert!(!survey.next.unwrap().same);
    assert!(replica.survey(&changed).unwrap().next.unwrap().live_is_frozen);
    let mut next = replica.resume(Arc::clone(&changed)).unwrap();
    fresh.id = 8;
    fresh.observed.heartbeat_ms += 500_000;
    next.apply(&fresh).unwrap();
    assert_ne!(place.status_at(NOW_MS + 1_000_000).state, State::Disconnected, "also when it is resumed");
    next.apply(&under_changed(1, 2, None, 10)).unwrap();
    assert_eq!(next.complete().unwrap(), Completion::Done);
    let status = place.status();
    let names: Vec<_> = status.tables.iter().map(|table| table.table_name.as_str()).collect();
    assert_eq!(names, ["users", "users_hidden", "Order"], "a table that is not in the mapping any more");
    // A reader of the mapping before does not take the new tables for its own.
    let key = key(&catalog().tables[0], 1);
    assert!(matches!(place.reader(catalog()).row(0, &key), Err(StoreError::Retry { .. })));
    let RowLookup::Visible { values, .. } = place.reader((*changed).clone()).row(0, &key).unwrap() else {
        panic!("the row is not there")
    };
    assert_eq!(values.len(), 3);
    tidy(&mut *next);
    assert_eq!(place.leftovers(), 0);
}

fn a_frozen_copy_says_why<P: Place>() {
    let place = P::new();
    let replica = place.replica();
    drop(complete(&*replica, 3));
    replica.freeze(Some("a person is needed")).unwrap();
    let status = place.status();
    assert_eq!((status.state, status.stopped.as_deref()), (State::Stopped, Some("a person is needed")));
    replica.keep().unwrap();
    let rebuild = Rebuild { live_is_frozen: true, ..asked_for() };
    let mut next = begin(&*replica, &rebuild);
    replica.freeze(None).unwrap();
    let status = place.status();
    assert_eq!(status.stopped, None);
    assert!(status.tables[0].rebuilding);
    next.apply(&upserts(0..3, 2, None, 10)).unwrap();
    assert_eq!(next.complete().unwrap(), Completion::Done);
    assert_eq!((place.seen(), place.status().stopped), ((3, 2), None));
}

fn a_first_copy_under_another_mapping_starts_over<P: Place>() {
    let place = P::new();
    let replica = place.replica();
    let mut store = open_live(&*replica);
    store.apply(&upserts(0..3, 1, None, 10)).unwrap();
    drop(store);
    let catalog = Arc::new(changed());
    let survey = replica.survey(&catalog).unwrap();
    assert!(matches!(survey.live, Live::Changed { complete: false, .. }));
    let mut store = replica.start_over(Arc::clone(&catalog)).unwrap();
    assert!(store.checkpoint().unwrap().positions.is_empty());
    store.apply(&under_changed(1, 2, None, 10)).unwrap();
    assert_eq!(store.complete().unwrap(), Completion::Done);
    tidy(&mut *store);
    assert_eq!((place.seen().0, place.leftovers()), (1, 0));
    drop(store);
    assert_eq!(replica.survey(&catalog).unwrap().live, Live::Same);
}

/// A gap before the first copy was whole.
fn a_first_copy_that_cannot_go_on_is_begun_again<P: Place>() {
    let place = P::new();
    let replica = place.replica();
    let mut first = open_live(&*replica);
    first.apply(&upserts(0..300, 1, None, 10)).unwrap();
    drop(first);
    replica.freeze(None).unwrap();
    let rebuild = Rebuild { live_is_frozen: true, may_go_back: true, ..asked_for() };
    let mut again = begin(&*replica, &rebuild);
    replica.freeze(None).unwrap();
    assert!(again.checkpoint().unwrap().positions.is_empty());
    again.apply(&upserts(5..8, 2, None, 5)).unwrap();
    assert!(!place.status().complete);
    assert_eq!(again.complete().unwrap(), Completion::Done);
    assert_eq!((place.seen(), place.status().complete), ((3, 2), true));
    assert_eq!(place.look(1), RowLookup::Missing);
    tidy(&mut *again);
    assert_eq!(place.leftovers(), 0);
}

/// Where there is no place for a second one yet, it is refused.
fn a_rebuild_does_not_disturb_a_first_copy<P: Place>() {
    let place = P::new();
    let replica = place.replica();
    let mut first = open_live(&*replica);
    first.apply(&upserts(0..3, 1, None, 10)).unwrap();
    let begun = replica.begin(Arc::new(catalog()), &asked_for()).unwrap();
    first.apply(&upserts(3..5, 1, Some(10), 12)).unwrap();
    assert_eq!(first.complete().unwrap(), Completion::Done);
    assert_eq!(place.seen(), (5, 1));
    match begun {
        Err(lack) => assert!(lack.contains("first copy"), "{lack}"),
        Ok(mut next) => {
            next.apply(&upserts(0..6, 2, None, 12)).unwrap();
            assert_eq!(next.complete().unwrap(), Completion::Done);
            assert_eq!(place.seen(), (6, 2));
        }
    }
}

fn freshness_does_not_go_back_with_a_switch<P: Place>() {
    let place = P::new();
    let replica = place.replica();
    let mut live = complete(&*replica, 1);
    let fresh = |mut batch: Batch, at_ms: i64| {
        batch.observed.topic_ids.insert(0, "one".into());
        batch.observed.fresh_as_of_ms.insert(AT, at_ms);
        batch
    };
    live.apply(&fresh(upserts(0..1, 2, Some(10), 11), 1_000)).unwrap();
    let mut next = begin(&*replica, &asked_for());
    next.apply(&fresh(upserts(0..1, 2, None, 11), 400)).unwrap();
    assert_eq!(next.complete().unwrap(), Completion::Done);
    let stored = || place.status().tables[0].fresh_as_of_ms;
    assert_eq!(stored(), Some(1_000), "proven for 11, so it holds for whoever stands there");
    next.apply(&fresh(upserts(0..1, 3, Some(11), 12), 700)).unwrap();
    assert_eq!(stored(), Some(1_000), "an older proof that was on its way");
    next.apply(&fresh(upserts(0..1, 4, Some(12), 13), 1_200)).unwrap();
    assert_eq!(stored(), Some(1_200));
    // A clock that is set back later is taken as it is.
    next.apply(&fresh(upserts(0..1, 5, Some(13), 14), 900)).unwrap();
    assert_eq!(stored(), Some(900));
}

/// The live one has proven an empty partition; the new one has an older proof of it under way, or has
/// not heard of it.
fn a_partition_that_nothing_was_read_of_keeps_its_freshness<P: Place>() {
    let empty = TopicPartition { partition: 1, ..AT };
    let fresh = |mut batch: Batch, proofs: &[(TopicPartition, i64)]| {
        batch.observed.topic_ids.insert(0, "one".into());
        batch.observed.fresh_as_of_ms.extend(proofs.iter().copied());
        batch
    };
    for known in [true, false] {
        let place = P::new();
        let replica = place.replica();
        let mut live = complete(&*replica, 1);
        live.apply(&fresh(upserts(0..1, 2, Some(10), 11), &[(AT, 1_000), (empty, 1_000)])).unwrap();
        assert_eq!(place.status().tables[0].fresh_as_of_ms, Some(1_000));
        let mut next = begin(&*replica, &asked_for());
        // One that only it has heard of, because it was added since the live one's proof.
        let young = TopicPartition { partition: 3, ..AT };
        let proofs = if known { vec![(AT, 400), (empty, 400), (young, 400)] } else { vec![(AT, 400)] };
        next.apply(&fresh(upserts(0..1, 2, None, 11), &proofs)).unwrap();
        assert_eq!(next.complete().unwrap(), Completion::Done);
        assert_eq!(place.status().tables[0].fresh_as_of_ms, Some(1_000));
        next.apply(&fresh(upserts(0..1, 3, Some(11), 12), &[(empty, 700)])).unwrap();
        assert_eq!(place.status().tables[0].fresh_as_of_ms, Some(1_000), "on its way since before");
        // One that was added since the live one's proof had nothing before that.
        let added = TopicPartition { partition: 2, ..AT };
        next.apply(&fresh(upserts(0..1, 3, Some(12), 13), &[(added, 600)])).unwrap();
        assert_eq!(place.status().tables[0].fresh_as_of_ms, Some(1_000), "added later than that");
        let proofs = [(AT, 1_200), (empty, 1_100), (added, 1_150), (young, 1_180)];
        next.apply(&fresh(upserts(0..1, 4, Some(13), 14), &proofs)).unwrap();
        assert_eq!(place.status().tables[0].fresh_as_of_ms, Some(1_100));
    }
}

fn two_writers_take_turns_and_neither_starves<P: Place>() {
    let place = P::new();
    let replica = place.replica();
    let mut live = complete(&*replica, 1);
    let mut next = begin(&*replica, &asked_for());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for step in 0..150 {
                live.apply(&upserts(0..20, step, Some(10 + step), 11 + step)).unwrap();
            }
        });
        scope.spawn(|| {
            for step in 0..150 {
                let from = (step > 0).then_some(step);
                next.apply(&upserts(0..20, step, from, step + 1)).unwrap();
            }
        });
    });
    assert_eq!(next.complete().unwrap(), Completion::Behind);
}

/// Also in the place where the rows of the other one are still being removed.
fn what_was_given_up_goes_and_another_begins_at_once<P: Place>() {
    let place = P::new();
    let replica = place.replica();
    let mut live = complete(&*replica, 3);
    let mut next = begin(&*replica, &asked_for());
    next.apply(&upserts(0..3_000, 2, None, 5)).unwrap();
    // Begun again without having been given up first, and half-removed.
    let mut again = begin(&*replica, &asked_for());
    stopped(next.apply(&upserts(0..1, 2, Some(5), 6)), StopCode::Retired);
    live.maintain(NOW_MS).unwrap();
    again.apply(&upserts(2..5, 3, None, 10)).unwrap();
    live.maintain(NOW_MS).unwrap();
    assert_eq!(again.complete().unwrap(), Completion::Done);
    assert_eq!(place.seen(), (3, 3));
    assert_eq!(place.look(1), RowLookup::Missing, "of the one that was given up");
    assert_eq!(place.look(4), visible(4, 3));
    tidy(&mut *again);
    assert_eq!(place.leftovers(), 0);
    assert_eq!(place.look(4), visible(4, 3));
}

/// Delete marks, held rows, dead letters, event ids, truncates: what a checkpoint holds of the new
/// generation is its own, before and after.
fn everything_of_a_copy_comes_with_the_switch<P: Place>() {
    let place = P::new();
    let replica = place.replica();
    let mut live = complete(&*replica, 3);
    let letter = |offset: i64| DeadLetter {
        at: AT,
        offset,
        rejection: Rejection {
            table: None,
            path: String::new(),
            reason: Reason::WrongType,
            message: "a number".into(),
        },
        first_seen_ms: NOW_MS,
        origin: Default::default(),
        record: None,
        produced_ms: None,
    };
    let full = |offset: i64, from: Option<i64>, to: i64| {
        let id = EventId::from_bytes([offset as u8; 16]);
        let ids = NewEventIds { window: 100, ids: vec![id] };
        let changes =
            [upsert(1, 20 + offset), delete(2, 21 + offset), patch(7, 22 + offset, 0b0100, IfMissing::Hold)];
        Batch {
            advances: advance(from, to),
            dead_letters: vec![letter(offset)],
            event_ids: BTreeMap::from([(0, ids)]),
            ..batch(changes)
        }
    };
    live.apply(&full(1, Some(10), 12)).unwrap();
    let mut next = begin(&*replica, &asked_for());
    next.apply(&full(2, None, 12)).unwrap();
    let before = (live.checkpoint().unwrap(), next.checkpoint().unwrap());
    assert!(place.reader(catalog()).is_dead_letter(AT, 1).unwrap());
    assert!(!place.reader(catalog()).is_dead_letter(AT, 2).unwrap());
    assert_eq!(next.complete().unwrap(), Completion::Done);
    let after = next.checkpoint().unwrap();
    assert_eq!(after.event_ids, before.1.event_ids);
    assert_ne!(after.event_ids, before.0.event_ids);
    assert_eq!((after.dead_letters.len(), after.complete), (1, true));
    assert!(place.reader(catalog()).is_dead_letter(AT, 2).unwrap());
    assert!(!place.reader(catalog()).is_dead_letter(AT, 1).unwrap());
    let figures = next.figures();
    assert_eq!((figures.rows[0], figures.held[0], figures.delete_marks[0]), (1, 1, 1));
    // The delete is remembered, and the held patch waits for its row.
    next.apply(&Batch { advances: advance(Some(12), 14), ..batch([upsert(2, 5), upsert(7, 6)]) }).unwrap();
    assert!(matches!(place.look(2), RowLookup::Deleted { .. }));
    assert!(matches!(place.look(7), RowLookup::Visible { .. }));
    drop(next);
    let mut again = open_live(&*replica);
    assert_eq!(again.checkpoint().unwrap().event_ids, before.1.event_ids);
    assert_eq!(again.figures().rows[0], 2);
    tidy(&mut *again);
    assert_eq!(place.leftovers(), 0);
}

/// What it reads first may be under names that belong to the new generation now.
fn a_writer_that_was_retired_is_told_so_whatever_it_finds<P: Place>() {
    let place = P::new();
    let replica = place.replica();
    let mut live = complete(&*replica, 5);
    let mut next = begin(&*replica, &asked_for());
    next.apply(&upserts(0..5, 2, None, 5)).unwrap();
    // Rows of the old one are delete marks of the new one.
    let deletes = batch([delete(1, 3), delete(2, 3), patch(9, 4, 0b0100, IfMissing::Hold)]);
    next.apply(&Batch { advances: advance(Some(5), 10), ..deletes }).unwrap();
    // The old one hides something, too, so that it looks there.
    live.apply(&batch([delete(4, 3)])).unwrap();
    assert_eq!(next.complete().unwrap(), Completion::Done);
    let changes = [upsert(1, 6), patch(2, 7, 0b0100, IfMissing::Hold), patch(9, 8, 0b0010, IfMissing::Hold)];
    let batch = Batch { advances: advance(Some(10), 14), ..batch(changes) };
    stopped(live.apply(&batch), StopCode::Retired);
    live.maintain(NOW_MS).unwrap();
    next.apply(&batch).unwrap();
    assert!(matches!(place.look(1), RowLookup::Visible { .. }));
}
