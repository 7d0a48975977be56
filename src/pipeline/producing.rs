//! Dead letters on their way to `dead_letters.topic`.
//!
//! The replica says which of them the topic has: each carries the time at which it was written there,
//! set through the pipeline as the end of a retry is. One whose write was confirmed and whose note was
//! lost is written again, so that the topic has each at least once; none is ever passed over. Nothing
//! here holds the pipeline up: what cannot be written stays in the replica, where it counts as ever.

use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use super::letters::{Log, Sides, Work, letter_id};
use crate::domain::dead_letter::{LetterId, Produced, digest};
use crate::domain::record::OwnedRecord;
use crate::metrics::ProduceResult;
use crate::source::kafka::fetch::{Fetched, Limits, Place};
use crate::source::kafka::produce::{NotWritten, Outgoing};
use crate::store::{LETTERS_PER_PAGE_MAX, Letter, LetterFilter, LetterQuery, StoreError};

/// Dead letters of one round.
const ROUND_MAX: usize = 100;
/// Bytes of their records, at least one record.
const ROUND_BYTES_MAX: usize = 8 << 20;
/// What reading the log may take.
const FETCH_MAX: Duration = Duration::from_secs(20);
/// What the pipeline may take to note what was written.
const NOTE_MAX: Duration = Duration::from_secs(20);

/// Writes to the topic: one answer a record, in the same order.
pub type Outlet<'a> = dyn Fn(&[Outgoing]) -> Vec<Result<(), NotWritten>> + Send + 'a;

/// How a round went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Round {
    /// The topic has everything that the replica has.
    Done,
    /// There is more.
    More,
    /// Nothing is applied to the copy that serves, so that nothing could be noted.
    Closed,
    /// Why; to be tried again later.
    Failed(String),
}

/// What is known between two rounds of one generation.
#[derive(Debug, Default)]
pub struct Producing {
    /// Written, and not known to be noted.
    unnoted: Vec<Produced>,
    /// How many to pass over at first: behind a round with a failure the next one begins with others, so
    /// that those that cannot be read or written now hold nobody up.
    from: usize,
}

/// Dead letters that the topic does not have.
struct Waiting {
    /// Those of one round.
    letters: Vec<Letter>,
    /// How many come before the first of them.
    from: usize,
    count: usize,
}

/// What a dead letter is written as.
struct Sending {
    id: LetterId,
    record: Outgoing,
    result: ProduceResult,
}

impl Producing {
    /// Writes some of the dead letters that the topic does not have. Blocks, for less than a minute and
    /// a half.
    pub fn round(&mut self, sides: &Sides<'_>, replica: &str, log: &Log, outlet: &Outlet<'_>) -> Round {
        if !sides.desk.is_open() {
            return Round::Closed;
        }
        let round = self.try_round(sides, replica, log, outlet);
        round.unwrap_or_else(|error| Round::Failed(format!("the replica cannot be read: {error}")))
    }

    fn try_round(
        &mut self,
        sides: &Sides<'_>,
        replica: &str,
        log: &Log,
        outlet: &Outlet<'_>,
    ) -> Result<Round, StoreError> {
        if let Err(round) = self.note(sides) {
            return Ok(round);
        }
        let Waiting { letters, from, count: waiting } = self.look(sides)?;
        sides.metrics.dead_letters_unproduced(waiting as u64);
        if letters.is_empty() {
            return Ok(Round::Done);
        }
        let (sending, mut trouble) = self.find(sides, replica, log, letters)?;
        let mut written = 0;
        for (id, result) in write(sending, outlet) {
            match result {
                Ok(result) => {
                    written += 1;
                    self.unnoted.push(Produced { id, at_ms: sides.now_ms });
                    sides.metrics.dead_letter_produced(id.at.topic, result);
                }
                Err(reason) => {
                    sides.metrics.dead_letter_produced(id.at.topic, ProduceResult::Failed);
                    trouble.get_or_insert(reason);
                }
            }
        }
        if let Err(round) = self.note(sides) {
            return Ok(round);
        }
        sides.metrics.dead_letters_unproduced((waiting - written) as u64);
        self.from = if trouble.is_some() { from + ROUND_MAX } else { 0 };
        Ok(trouble.map_or(Round::More, Round::Failed))
    }

    /// All that wait are counted, and those of this round kept: the next ones, and behind the last the
    /// first.
    fn look(&self, sides: &Sides<'_>) -> Result<Waiting, StoreError> {
        let filter = LetterFilter { produced: Some(false), ..LetterFilter::default() };
        let mut query = LetterQuery { filter, after: None, limit: LETTERS_PER_PAGE_MAX, bytes: false };
        let (mut first, mut next, mut count) = (Vec::new(), Vec::new(), 0);
        loop {
            let page = sides.reader.dead_letters(&query)?;
            query.after = page.letters.last().filter(|_| page.more).map(Letter::cursor);
            for letter in page.letters {
                if letter_id(sides.catalog, &letter).is_none() {
                    continue;
                }
                let place = if count < self.from { &mut first } else { &mut next };
                if place.len() < ROUND_MAX {
                    place.push(letter);
                }
                count += 1;
            }
            if query.after.is_none() {
                break;
            }
        }
        let from = if next.is_empty() { 0 } else { self.from };
        first.truncate(ROUND_MAX - next.len());
        next.append(&mut first);
        Ok(Waiting { letters: next, from, count })
    }

    /// The records of dead letters, as they are to be written; those that could not be looked for are
    /// left out, with the reason.
    fn find(
        &self,
        sides: &Sides<'_>,
        replica: &str,
        log: &Log,
        letters: Vec<Letter>,
    ) -> Result<(Vec<Sending>, Option<String>), StoreError> {
        let mut places: Vec<Place> = Vec::with_capacity(letters.len());
        for letter in &letters {
            let place =
                Place { topic: letter.topic.clone(), partition: letter.partition, offset: letter.offset };
            // A record is read once for all its dead letters.
            if places.last() != Some(&place) {
                places.push(place);
            }
        }
        let limits = Limits { deadline: Instant::now() + FETCH_MAX, bytes: ROUND_BYTES_MAX };
        let fetched = log(&places, limits);
        let mut found = places.iter().zip(&fetched);
        let mut here = found.next();
        let (mut sending, mut trouble) = (Vec::new(), None);
        for letter in letters {
            let is_here = |place: &Place| {
                (&place.topic, place.partition, place.offset)
                    == (&letter.topic, letter.partition, letter.offset)
            };
            while here.is_some_and(|(place, _)| !is_here(place)) {
                here = found.next();
            }
            let Some((_, fetched)) = here else { break };
            let Some(id) = letter_id(sides.catalog, &letter) else { continue };
            let record = match fetched {
                Fetched::Record(record) if is_same(&letter, record) => Some(record.clone()),
                Fetched::Record(_) | Fetched::Gone(_) => kept(sides, &letter)?,
                Fetched::Unreachable(reason) => {
                    trouble.get_or_insert_with(|| format!("its record cannot be read: {reason}"));
                    continue;
                }
                Fetched::NotTried => break,
            };
            let result = if record.is_some() { ProduceResult::Whole } else { ProduceResult::Gone };
            let record = outgoing(replica, &letter, record, result);
            sending.push(Sending { id, record, result });
        }
        Ok((sending, trouble))
    }

    /// Tells the replica what was written.
    fn note(&mut self, sides: &Sides<'_>) -> Result<(), Round> {
        if self.unnoted.is_empty() {
            return Ok(());
        }
        let Some(done) = sides.desk.ask(Work::Produced(self.unnoted.clone())) else {
            return Err(match sides.desk.is_open() {
                true => Round::Failed("too many errands wait for the pipeline".into()),
                false => Round::Closed,
            });
        };
        match done.recv_timeout(NOTE_MAX) {
            Ok(_) => {
                self.unnoted.clear();
                Ok(())
            }
            Err(RecvTimeoutError::Timeout) => {
                Err(Round::Failed("the replica does not take note of what was written".into()))
            }
            Err(RecvTimeoutError::Disconnected) => Err(Round::Closed),
        }
    }
}

/// What was refused as too large is written once more, with nothing but its coordinates: the log has
/// it as long as it has it.
fn write(mut sending: Vec<Sending>, outlet: &Outlet<'_>) -> Vec<(LetterId, Result<ProduceResult, String>)> {
    let mut done = Vec::with_capacity(sending.len());
    // An outlet that answers less than it was asked has failed for the rest.
    let unanswered = || Err(NotWritten::Failed("no answer".into()));
    for attempt in 0..2 {
        if sending.is_empty() {
            break;
        }
        let records: Vec<Outgoing> =
            sending.iter_mut().map(|sending| std::mem::take(&mut sending.record)).collect();
        let answers = outlet(&records).into_iter().chain(std::iter::repeat_with(unanswered));
        let mut again = Vec::new();
        for ((sent, record), answer) in std::mem::take(&mut sending).into_iter().zip(records).zip(answers) {
            match answer {
                Ok(()) => done.push((sent.id, Ok(sent.result))),
                Err(NotWritten::TooLarge) if attempt == 0 => {
                    let result = ProduceResult::TooLarge;
                    again.push(Sending { record: without_contents(record), result, ..sent });
                }
                Err(NotWritten::TooLarge) => {
                    let reason =
                        "the topic refuses even the coordinates as too large: raise its max.message.bytes";
                    done.push((sent.id, Err(reason.to_owned())));
                }
                Err(NotWritten::Failed(reason)) => done.push((sent.id, Err(reason))),
            }
        }
        sending = again;
    }
    done
}

/// Never another record that is at its place now.
fn is_same(letter: &Letter, record: &OwnedRecord) -> bool {
    let here = || digest(record.key.as_deref(), record.value.as_deref());
    letter.digest.is_none_or(|digest| digest == here())
}

/// What the replica has kept of a record that the log no longer has.
fn kept(sides: &Sides<'_>, letter: &Letter) -> Result<Option<OwnedRecord>, StoreError> {
    let filter = LetterFilter {
        topic: Some(letter.topic.clone()),
        partition: Some(letter.partition),
        offset: Some(letter.offset),
        ..LetterFilter::default()
    };
    let query = LetterQuery { filter, after: None, limit: LETTERS_PER_PAGE_MAX, bytes: true };
    let page = sides.reader.dead_letters(&query)?;
    let found = page.letters.into_iter().find(|found| found.table == letter.table);
    let kept = found.and_then(|found| found.record).map(|record| OwnedRecord {
        key: record.key,
        value: record.value,
        ..OwnedRecord::default()
    });
    Ok(kept.filter(|record| letter.digest.is_some() && is_same(letter, record)))
}

const PREFIX: &str = "readside.";

fn outgoing(replica: &str, letter: &Letter, record: Option<OwnedRecord>, result: ProduceResult) -> Outgoing {
    let OwnedRecord { timestamp_ms, key, value, mut headers } = record.unwrap_or_default();
    let mut add = |name: &str, text: Option<String>| {
        if let Some(text) = text {
            headers.push((format!("{PREFIX}{name}"), Some(text.into_bytes())));
        }
    };
    add("replica", Some(replica.to_owned()));
    add("topic", Some(letter.topic.clone()));
    add("partition", Some(letter.partition.to_string()));
    add("offset", Some(letter.offset.to_string()));
    add("timestamp_ms", timestamp_ms.map(|ms| ms.to_string()));
    add("table", letter.table.clone());
    add("path", Some(letter.path.clone()));
    add("reason", Some(letter.reason.clone()));
    add("message", Some(letter.message.clone()));
    add("first_seen", letter.first_seen.clone());
    add(RECORD, Some(result.name().to_owned()));
    Outgoing { key, value, headers }
}

/// Whether the record is all there.
const RECORD: &str = "record";

fn without_contents(record: Outgoing) -> Outgoing {
    let mut headers = record.headers;
    // Ours are the last ones.
    let ours = headers.iter().rposition(|(name, _)| *name == format!("{PREFIX}replica")).unwrap_or(0);
    headers.drain(..ours);
    if let Some((_, value)) = headers.last_mut() {
        *value = Some(ProduceResult::TooLarge.name().into());
    }
    Outgoing { key: None, value: None, headers }
}
