//! Dead letters on their way to a topic.

use std::cell::RefCell;
use std::sync::Mutex;

use super::letters::{read_on, record, until};
use super::support::{Daemon, START_MS, Shared, at};
use super::{USERS, live_with};
use crate::mapping::Plan;
use crate::metrics::Metrics;
use crate::pipeline::letters::Sides;
use crate::pipeline::producing::{Producing, Round};
use crate::source::kafka::fetch::{Fetched, Limits, Place};
use crate::source::kafka::produce::{NotWritten, Outgoing};
use crate::store::{MemoryStore, Reader};

type Answer = Result<(), NotWritten>;

/// A daemon with dead letters at the offsets from 1 on, and what came out for them.
struct Bench {
    shared: Shared,
    store: MemoryStore,
    daemon: RefCell<Daemon>,
    plan: Plan,
    metrics: Metrics,
    reader: Box<dyn Reader>,
}

impl Bench {
    fn new(letters: usize, more: &str) -> Bench {
        let text = USERS.replace("{ max: 3 }", &format!("{{ max: 2000, max_rate: none{more} }}"));
        let (config, shared, store, mut daemon) = live_with(&text, 1);
        for n in 1..=letters {
            shared.world().append(at(0, 0), "k", Some(&format!("bad {n}")));
        }
        read_on(&mut daemon, &shared);
        assert_eq!(store.dead_letters().len(), letters);
        let plan = Plan::compile(&config);
        let metrics = Metrics::new(plan.catalog());
        let reader = Box::new(store.reader());
        daemon.progress.letters.open();
        Bench { shared, store, daemon: RefCell::new(daemon), plan, metrics, reader }
    }

    /// One round, while the pipeline goes on unless it `stands`.
    fn round(
        &self,
        producing: &mut Producing,
        log: impl Fn(&[Place]) -> Vec<Fetched> + Send + Sync + 'static,
        outlet: impl Fn(&[Outgoing]) -> Vec<Answer> + Send,
        stands: bool,
    ) -> Round {
        let mut daemon = self.daemon.borrow_mut();
        let progress = std::sync::Arc::clone(&daemon.progress);
        std::thread::scope(|scope| {
            let sides = Sides {
                catalog: self.plan.catalog(),
                reader: &*self.reader,
                desk: &progress.letters,
                metrics: &self.metrics,
                now_ms: START_MS,
            };
            let log = move |places: &[Place], _: Limits| log(places);
            let doing = scope.spawn(move || producing.round(&sides, "test", &log, &outlet));
            until(|| {
                if progress.letters.has_errands() {
                    match stands {
                        true => drop(progress.letters.take()),
                        false => daemon.settle(&self.shared).unwrap(),
                    }
                }
                doing.is_finished().then_some(())
            });
            doing.join().unwrap()
        })
    }

    fn unproduced(&self) -> Vec<i64> {
        let letters = self.store.dead_letters();
        letters.iter().filter(|letter| letter.produced_ms.is_none()).map(|letter| letter.offset).collect()
    }

    fn end(self) {
        self.daemon.into_inner().kill();
    }
}

fn as_they_are(places: &[Place]) -> Vec<Fetched> {
    places.iter().map(|place| Fetched::Record(record(&format!("bad {}", place.offset)))).collect()
}

fn header(record: &Outgoing, name: &str) -> Option<String> {
    let found = record.headers.iter().find(|(header, _)| header == name)?;
    found.1.clone().map(|value| String::from_utf8(value).unwrap())
}

#[test]
fn every_dead_letter_is_produced_with_where_it_was_and_why_and_then_no_more() {
    let bench = Bench::new(3, "");
    let mut producing = Producing::default();
    let sent = Mutex::new(Vec::new());
    let outlet = |records: &[Outgoing]| {
        sent.lock().unwrap().extend_from_slice(records);
        records.iter().map(|_| Ok(())).collect()
    };
    assert_eq!(bench.round(&mut producing, as_they_are, outlet, false), Round::More);
    let first = sent.lock().unwrap()[0].clone();
    assert_eq!((first.key.as_deref(), first.value.as_deref()), (Some(&b"k"[..]), Some(&b"bad 1"[..])));
    for (name, value) in [
        ("readside.replica", "test"),
        ("readside.topic", "users"),
        ("readside.partition", "0"),
        ("readside.offset", "1"),
        ("readside.reason", "malformed"),
        ("readside.record", "whole"),
    ] {
        assert_eq!(header(&first, name).as_deref(), Some(value), "{name}");
    }
    assert_eq!(bench.unproduced(), [0; 0]);
    assert_eq!(
        bench.round(&mut producing, |_| panic!("nothing is left"), |_| panic!("nothing"), false),
        Round::Done
    );
    assert_eq!(sent.lock().unwrap().len(), 3);
    bench.end();
}

/// A page of them was looked at, and what was in it had to go before anything behind it came through.
#[test]
fn behind_many_that_cannot_be_produced_one_that_can_comes_through() {
    let bench = Bench::new(1_001, "");
    let mut producing = Producing::default();
    let outlet = |records: &[Outgoing]| {
        let is_last = |record: &Outgoing| header(record, "readside.offset").as_deref() == Some("1001");
        let failed = || Err(NotWritten::Failed("no".into()));
        records.iter().map(|record| if is_last(record) { Ok(()) } else { failed() }).collect()
    };
    for _ in 0..11 {
        assert_eq!(bench.round(&mut producing, as_they_are, outlet, false), Round::Failed("no".into()));
        if bench.unproduced().len() == 1_000 {
            break;
        }
        let text = bench.metrics.render(START_MS);
        assert!(text.contains("readside_dead_letters_unproduced 1001\n"), "all of them are counted");
    }
    assert_eq!(bench.unproduced(), (1..=1_000).collect::<Vec<_>>());
    bench.end();
}

#[test]
fn what_is_too_large_or_gone_is_produced_as_its_coordinates() {
    let bench = Bench::new(2, "");
    let log = |_: &[Place]| vec![Fetched::Record(record("bad 1")), Fetched::Gone("retention".into())];
    let sent = Mutex::new(Vec::new());
    let outlet = |records: &[Outgoing]| {
        let answer = |record: &Outgoing| match record.value {
            Some(_) => Err(NotWritten::TooLarge),
            None => {
                sent.lock().unwrap().push(record.clone());
                Ok(())
            }
        };
        records.iter().map(answer).collect()
    };
    assert_eq!(bench.round(&mut Producing::default(), log, outlet, false), Round::More);
    let sent = sent.into_inner().unwrap();
    let said: Vec<_> = sent
        .iter()
        .map(|record| {
            assert_eq!((&record.key, &record.value), (&None, &None));
            (header(record, "readside.offset").unwrap(), header(record, "readside.record").unwrap())
        })
        .collect();
    assert_eq!(said, [("2".into(), "gone".into()), ("1".into(), "too_large".to_string())]);
    assert_eq!(bench.unproduced(), [0; 0]);
    bench.end();
}

#[test]
fn what_was_kept_speaks_for_what_the_log_has_lost_and_another_record_never_does() {
    let bench = Bench::new(2, ", keep: bytes");
    let log =
        |_: &[Place]| vec![Fetched::Record(record("somebody else's")), Fetched::Gone("retention".into())];
    let sent = Mutex::new(Vec::new());
    let outlet = |records: &[Outgoing]| {
        sent.lock().unwrap().extend(records.iter().map(|record| record.value.clone().unwrap()));
        records.iter().map(|_| Ok(())).collect()
    };
    assert_eq!(bench.round(&mut Producing::default(), log, outlet, false), Round::More);
    assert_eq!(sent.into_inner().unwrap(), [b"bad 1", b"bad 2"]);
    bench.end();
}

#[test]
fn what_could_not_be_written_or_noted_is_not_lost() {
    let bench = Bench::new(3, "");
    let mut producing = Producing::default();
    // The second record cannot be read, the third not be written.
    let log = |places: &[Place]| {
        let mut found = as_they_are(places);
        found[1] = Fetched::Unreachable("down".into());
        found
    };
    let outlet = |_: &[Outgoing]| vec![Ok(()), Err(NotWritten::Failed("no leader".into()))];
    let Round::Failed(reason) = bench.round(&mut producing, log, outlet, false) else { panic!("it failed") };
    assert!(reason.contains("down"), "{reason}");
    assert_eq!(bench.unproduced(), [2, 3]);
    // Written, and the pipeline ends before it takes note.
    let fine = |records: &[Outgoing]| records.iter().map(|_| Ok(())).collect();
    assert_eq!(bench.round(&mut producing, as_they_are, fine, true), Round::Closed);
    assert_eq!(bench.unproduced(), [2, 3]);
    // It is noted before anything else, and not written again.
    assert_eq!(
        bench.round(&mut producing, |_| panic!("all are written"), |_| panic!("all"), false),
        Round::Done
    );
    assert_eq!(bench.unproduced(), [0; 0]);
    // Nothing is written while nothing could be noted.
    bench.daemon.borrow().progress.letters.close();
    assert_eq!(bench.round(&mut producing, |_| panic!("closed"), |_| panic!("closed"), false), Round::Closed);
    bench.end();
}

#[test]
fn a_round_is_bounded_and_a_short_answer_is_a_failure_of_the_rest() {
    let bench = Bench::new(150, "");
    let mut producing = Producing::default();
    let short = |records: &[Outgoing]| {
        assert_eq!(records.len(), 100);
        vec![Ok(()); 60]
    };
    assert!(matches!(bench.round(&mut producing, as_they_are, short, false), Round::Failed(_)));
    assert_eq!(bench.unproduced().len(), 90);
    let untried = |places: &[Place]| {
        let mut found = as_they_are(places);
        found.truncate(10);
        found.resize(places.len(), Fetched::NotTried);
        found
    };
    let fine = |records: &[Outgoing]| records.iter().map(|_| Ok(())).collect();
    assert_eq!(bench.round(&mut producing, untried, fine, false), Round::More);
    assert_eq!(bench.unproduced().len(), 80);
    bench.end();
}

#[test]
fn those_that_cannot_be_read_hold_up_nobody_behind_them() {
    let bench = Bench::new(150, "");
    let mut producing = Producing::default();
    let fine = |records: &[Outgoing]| records.iter().map(|_| Ok(())).collect();
    let log = |places: &[Place]| {
        let found = as_they_are(places).into_iter().zip(places);
        let down = Fetched::Unreachable("down".into());
        found.map(|(found, place)| if place.offset <= 100 { down.clone() } else { found }).collect()
    };
    for left in [150, 100] {
        assert!(matches!(bench.round(&mut producing, log, fine, false), Round::Failed(_)));
        assert_eq!(bench.unproduced().len(), left);
    }
    // All in turn, also after the last one.
    assert_eq!(bench.round(&mut producing, as_they_are, fine, false), Round::More);
    assert_eq!(bench.unproduced(), [0; 0]);
    bench.end();
}
