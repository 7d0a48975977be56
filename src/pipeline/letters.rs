//! Dead letters that are tried again or given up, while the pipeline runs.
//!
//! Somebody who asks finds the dead letters and their records on a thread of his own ([`retry`]),
//! and hands them to the pipeline through its [`LetterDesk`]. The pipeline maps them with the mapping
//! and the remembered event ids of now and puts the changes into its next batch, so that rows, the
//! end of the dead letters and event ids are one transaction. No position moves, and the version of a
//! record is that of its place in the log: what is newer in the replica stays.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::domain::catalog::Catalog;
use crate::domain::change::Skip;
use crate::domain::checkpoint::TopicPartition;
use crate::domain::dead_letter::{LetterId, Produced, Rejection, digest};
use crate::domain::record::OwnedRecord;
use crate::metrics::{Metrics, RetryResult};
use crate::source::kafka::fetch::{Fetched, Limits, Place};
use crate::store::{Letter, LetterCursor, LetterFilter, LetterQuery, Reader, StoreError, is_forgotten};

/// Dead letters of one call.
pub const RETRIED_MAX: usize = 100;
/// Bytes of records of one call, at least one record.
pub const RETRIED_BYTES_MAX: usize = 8 << 20;
/// Dead letters of one call.
pub const DROPPED_MAX: usize = 1_000;
/// What reading the log may take.
const FETCH_MAX: Duration = Duration::from_secs(20);
/// What the pipeline may take to apply them.
const APPLY_MAX: Duration = Duration::from_secs(20);
/// Errands that wait for the pipeline.
const ERRANDS_MAX: usize = 4;

/// One per pipeline.
#[derive(Debug, Default)]
pub struct LetterDesk {
    /// Looked at in every round of the pipeline.
    any: AtomicBool,
    /// Counts what may have left dead letters in the replica.
    arrivals: AtomicU64,
    inside: Mutex<Inside>,
}

#[derive(Debug, Default)]
struct Inside {
    /// A pipeline takes errands.
    open: bool,
    errands: VecDeque<Errand>,
}

/// What the pipeline is asked to do.
#[derive(Debug)]
pub struct Errand {
    pub work: Work,
    pub reply: SyncSender<Done>,
}

#[derive(Debug)]
pub enum Work {
    Retry(Vec<Found>),
    Drop(Vec<LetterId>),
    /// What `dead_letters.topic` has now.
    Produced(Vec<Produced>),
}

/// A dead letter's record.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    pub at: TopicPartition,
    pub offset: i64,
    /// See [`crate::domain::dead_letter::Origin`].
    pub order_ms: i64,
    pub record: OwnedRecord,
}

/// What is in the replica now.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Done {
    /// In the order of the errand.
    pub outcomes: Vec<Outcome>,
    pub dropped: u64,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    Applied,
    /// Everything it says is older than what is there.
    Superseded,
    /// The mapping does not want it, or an event with its id was applied.
    Skipped(Skip),
    /// It is a dead letter still.
    Refused(Rejection),
    /// Left as it was for now; why.
    Waits(String),
}

impl LetterDesk {
    /// Whether something waits; cheap.
    pub fn has_errands(&self) -> bool {
        self.any.load(Ordering::Acquire)
    }

    /// Dead letters may have come into the replica.
    pub fn note_arrivals(&self) {
        self.arrivals.fetch_add(1, Ordering::Release);
    }

    /// Moves when dead letters may have come.
    pub fn arrivals(&self) -> u64 {
        self.arrivals.load(Ordering::Acquire)
    }

    /// Whether a pipeline takes errands.
    pub fn is_open(&self) -> bool {
        self.lock().open
    }

    pub fn open(&self) {
        self.lock().open = true;
    }

    /// What waits is answered by the end of its channel.
    pub fn close(&self) {
        let mut inside = self.lock();
        inside.open = false;
        inside.errands.clear();
        self.any.store(false, Ordering::Release);
    }

    pub fn take(&self) -> Option<Errand> {
        let mut inside = self.lock();
        let errand = inside.errands.pop_front();
        self.any.store(!inside.errands.is_empty(), Ordering::Release);
        errand
    }

    /// `None`: no pipeline takes it, or too many wait.
    pub fn ask(&self, work: Work) -> Option<Receiver<Done>> {
        let mut inside = self.lock();
        if !inside.open || inside.errands.len() >= ERRANDS_MAX {
            return None;
        }
        let (reply, done) = sync_channel(1);
        inside.errands.push_back(Errand { work, reply });
        self.any.store(true, Ordering::Release);
        Some(done)
    }

    fn lock(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads the log; see [`crate::source::kafka::fetch::fetch`].
pub type Log = dyn Fn(&[Place], Limits) -> Vec<Fetched> + Send + Sync;

/// With whom a retry deals.
pub struct Sides<'a> {
    pub catalog: &'a Catalog,
    pub reader: &'a dyn Reader,
    pub desk: &'a LetterDesk,
    pub metrics: &'a Metrics,
    pub now_ms: i64,
}

/// What is to be retried or dropped.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Selection {
    pub filter: LetterFilter,
    /// Behind this one: where an earlier call left off.
    pub after: Option<LetterCursor>,
}

/// Why nothing was done, or nobody knows whether it was.
#[derive(Debug, thiserror::Error)]
pub enum LettersError {
    #[error(
        "nothing is applied to the copy that serves, so that no dead letter can be retried or dropped now"
    )]
    NotTaken,
    #[error(
        "the replica did not take it in time; whether it has is not known, and asking again does no harm"
    )]
    Unknown,
    #[error("{0}")]
    Store(#[from] StoreError),
}

#[derive(Debug, Clone, PartialEq, Serialize, Default)]
pub struct RetryReport {
    /// One a record, in the order of the log.
    pub records: Vec<RecordReport>,
    /// There are more: where to go on.
    pub next: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RecordReport {
    pub topic: String,
    pub partition: i32,
    pub offset: i64,
    #[serde(serialize_with = "result_name")]
    pub result: RetryResult,
    /// Why it is refused.
    pub reason: Option<&'static str>,
    pub path: Option<String>,
    pub message: Option<String>,
}

fn result_name<S: serde::Serializer>(result: &RetryResult, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(result.name())
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Default)]
pub struct DropReport {
    pub dropped: u64,
    /// There are more: where to go on.
    pub next: Option<String>,
}

/// Tries dead letters again, at most [`RETRIED_MAX`]. Blocks, for less than a minute.
///
/// With `force` also those that are so old that a later delete of their row may have been forgotten.
pub fn retry(
    sides: &Sides<'_>,
    log: &Log,
    asked: &Selection,
    force: bool,
) -> Result<RetryReport, LettersError> {
    let query = LetterQuery {
        filter: asked.filter.clone(),
        after: asked.after.clone(),
        limit: RETRIED_MAX,
        bytes: true,
    };
    let page = sides.reader.dead_letters(&query)?;
    let mut more = page.more;
    let mut letters = page.letters;
    let mut next = letters.last().map(Letter::cursor);
    // A record is tried once for all its dead letters.
    letters.dedup_by(|b, a| (&a.topic, a.partition, a.offset) == (&b.topic, b.partition, b.offset));

    let wanted: Vec<Place> = letters
        .iter()
        .filter(|letter| force || !is_too_old(sides, letter))
        .map(|letter| Place {
            topic: letter.topic.clone(),
            partition: letter.partition,
            offset: letter.offset,
        })
        .collect();
    let limits = Limits { deadline: Instant::now() + FETCH_MAX, bytes: RETRIED_BYTES_MAX };
    let mut fetched = if wanted.is_empty() { Vec::new() } else { log(&wanted, limits) }.into_iter();

    let mut records = Vec::new();
    let mut found = Vec::new();
    let mut last = asked.after.clone();
    for letter in letters {
        let cursor = letter.cursor();
        let looked = match !force && is_too_old(sides, &letter) {
            true => Looked::Report(RetryResult::TooOld, TOO_OLD.to_owned()),
            false => match fetched.next() {
                None | Some(Fetched::NotTried) => {
                    (more, next) = (true, last);
                    break;
                }
                Some(fetched) => look(sides.catalog, &letter, fetched),
            },
        };
        last = Some(cursor);
        let (result, message) = match looked {
            Looked::Found(record) => {
                found.push((records.len(), record));
                (RetryResult::Applied, None)
            }
            Looked::Report(result, message) => (result, Some(message)),
        };
        records.push(RecordReport {
            topic: letter.topic,
            partition: letter.partition,
            offset: letter.offset,
            result,
            reason: None,
            path: None,
            message,
        });
    }
    hand_in(sides, found, &mut records)?;
    for record in &records {
        if let Ok(topic) = sides.catalog.topics.binary_search(&record.topic) {
            sides.metrics.dead_letter_retried(topic, record.result);
        }
    }
    let next = next.filter(|_| more).map(|cursor| cursor.to_string());
    Ok(RetryReport { records, next })
}

const TOO_OLD: &str = "a delete of its row that came after it may have been forgotten (delete_marks of the table), and \
                       the row would come back: rebuild, drop it, or retry with force";

/// Gives the records that were found to the pipeline and notes what became of them.
fn hand_in(
    sides: &Sides<'_>,
    found: Vec<(usize, Found)>,
    records: &mut [RecordReport],
) -> Result<(), LettersError> {
    if found.is_empty() {
        return Ok(());
    }
    let (places, found): (Vec<usize>, Vec<Found>) = found.into_iter().unzip();
    let done = sides.desk.ask(Work::Retry(found)).ok_or(LettersError::NotTaken)?;
    let Done { outcomes, .. } = wait_for(&done)?;
    for (place, outcome) in places.into_iter().zip(outcomes) {
        let Some(record) = records.get_mut(place) else { continue };
        record.result = match outcome {
            Outcome::Applied => RetryResult::Applied,
            Outcome::Superseded => RetryResult::Superseded,
            Outcome::Skipped(skip) => {
                record.reason = Some(skip.name());
                RetryResult::Skipped
            }
            Outcome::Refused(rejection) => {
                record.reason = Some(rejection.reason.name());
                record.path = Some(rejection.path);
                record.message = Some(rejection.message);
                RetryResult::Refused
            }
            Outcome::Waits(reason) => {
                record.message = Some(reason);
                RetryResult::Unreachable
            }
        };
    }
    Ok(())
}

fn wait_for(done: &Receiver<Done>) -> Result<Done, LettersError> {
    match done.recv_timeout(APPLY_MAX) {
        Ok(done) => Ok(done),
        Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => Err(LettersError::Unknown),
    }
}

enum Looked {
    Found(Found),
    Report(RetryResult, String),
}

/// Takes the record from the log or, where that no longer has it, from what was kept; never another
/// record that is at its place now.
fn look(catalog: &Catalog, letter: &Letter, fetched: Fetched) -> Looked {
    let Ok(topic) = catalog.topics.binary_search(&letter.topic) else {
        return Looked::Report(RetryResult::Gone, "its topic is not in the configuration any more".into());
    };
    let found = |record| {
        let at = TopicPartition { topic, partition: letter.partition };
        Looked::Found(Found { at, offset: letter.offset, order_ms: letter.order_ms, record })
    };
    let (result, message) = match fetched {
        Fetched::Record(record) => {
            let here = digest(record.key.as_deref(), record.value.as_deref());
            if letter.digest.is_none_or(|digest| digest == here) {
                return found(record);
            }
            let message = "another record is at its place: the topic was made anew, or its log was truncated";
            (RetryResult::Gone, message.to_owned())
        }
        Fetched::Gone(reason) => (RetryResult::Gone, reason),
        Fetched::Unreachable(reason) => (RetryResult::Unreachable, reason),
        Fetched::NotTried => (RetryResult::Unreachable, "it was not tried".to_owned()),
    };
    let kept = letter.record.clone().unwrap_or_default();
    if letter.digest == Some(digest(kept.key.as_deref(), kept.value.as_deref())) {
        return found(OwnedRecord { key: kept.key, value: kept.value, ..OwnedRecord::default() });
    }
    Looked::Report(result, message)
}

/// Whether the order of this event and later ones of its row can no longer be told for sure.
fn is_too_old(sides: &Sides<'_>, letter: &Letter) -> bool {
    let topic = sides.catalog.topics.binary_search(&letter.topic);
    sides.catalog.tables.iter().any(|table| {
        topic.is_ok_and(|topic| table.topics.contains(&topic))
            && is_forgotten(table, letter.first_seen_ms, sides.now_ms)
    })
}

/// Gives dead letters up, at most [`DROPPED_MAX`].
pub fn drop_letters(sides: &Sides<'_>, asked: &Selection) -> Result<DropReport, LettersError> {
    let query = LetterQuery {
        filter: asked.filter.clone(),
        after: asked.after.clone(),
        limit: DROPPED_MAX,
        bytes: false,
    };
    let page = sides.reader.dead_letters(&query)?;
    let next = page.letters.last().filter(|_| page.more).map(|letter| letter.cursor().to_string());
    let ids: Vec<LetterId> =
        page.letters.iter().filter_map(|letter| letter_id(sides.catalog, letter)).collect();
    if ids.is_empty() {
        return Ok(DropReport { dropped: 0, next });
    }
    let done = sides.desk.ask(Work::Drop(ids)).ok_or(LettersError::NotTaken)?;
    Ok(DropReport { dropped: wait_for(&done)?.dropped, next })
}

/// `None` where the mapping of now has no such topic or table.
pub fn letter_id(catalog: &Catalog, letter: &Letter) -> Option<LetterId> {
    let topic = catalog.topics.binary_search(&letter.topic).ok()?;
    let table = match &letter.table {
        None => None,
        Some(name) => Some(catalog.tables.iter().position(|table| table.name == *name)?),
    };
    Some(LetterId { at: TopicPartition { topic, partition: letter.partition }, offset: letter.offset, table })
}
