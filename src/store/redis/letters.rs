//! Dead letters: kept once, taken out when they are retried or dropped, shown in pages.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};

use super::RedisStore;
use super::error::damaged;
use super::ledger::{Ledger, partition_field};
use super::link::Link;
use super::names::Names;
use super::step::Step;
use crate::domain::batch::{Batch, Step as Change};
use crate::domain::catalog::{Catalog, Table};
use crate::domain::change::IfMissing;
use crate::domain::checkpoint::TopicPartition;
use crate::domain::dead_letter::{DeadLetter, Kept, LetterId, Origin, Reason, RecordBytes, Rejection};
use crate::domain::version::Coordinates;
use crate::store::letters::{after_retry, split_off};
use crate::store::{Applied, Letter, LetterCursor, LetterPage, LetterQuery, StoreError, rules};

/// Dead letters that are asked for at once: with their bytes each may have a record's size.
const CHUNK: usize = 64;

/// What [`Names::dead_letters`] holds of one.
#[derive(Debug, Serialize, Deserialize)]
struct Stored {
    path: String,
    reason: String,
    message: String,
    first_seen_ms: i64,
    #[serde(default)]
    order_ms: i64,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    digest: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    value: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    headers: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    produced_ms: Option<i64>,
}

impl Stored {
    fn parse(name: &str, json: &[u8]) -> Result<Stored, StoreError> {
        serde_json::from_slice(json).map_err(|_| damaged("a dead letter", name))
    }

    fn digest(&self) -> Option<u128> {
        u128::from_str_radix(self.digest.as_ref()?, 16).ok()
    }

    fn record(&self) -> Option<RecordBytes> {
        let bytes = |text: &Option<String>| BASE64.decode(text.as_ref()?).ok();
        let record =
            RecordBytes { key: bytes(&self.key), value: bytes(&self.value), headers: self.headers.clone() };
        Some(record).filter(|record| *record != RecordBytes::default())
    }
}

/// Whether a dead letter, by its name, is of the record itself or of a table that there is.
pub(super) fn has_table(catalog: &Catalog, name: &str) -> bool {
    let table = name.rsplit('/').next().unwrap_or_default();
    table.is_empty() || catalog.tables.iter().any(|known| known.name == table)
}

/// Bytes of the record that is kept with one.
pub(super) fn record_bytes(name: &str, json: &[u8]) -> Result<u64, StoreError> {
    Ok(Stored::parse(name, json)?.record().map_or(0, |record| record.size() as u64))
}

/// Patches that become dead letters if their row is not there: of their table alone, because they do not say
/// which bytes they are of.
fn may_be_refused(batch: &Batch) -> impl Iterator<Item = LetterId> {
    batch.entries.iter().filter_map(|entry| match &entry.step {
        Change::PatchIfPresent { patch, if_missing: IfMissing::DeadLetter } => {
            let Coordinates { topic, partition, offset } = patch.version?.at();
            let at = TopicPartition { topic: topic as usize, partition };
            Some(LetterId { at, offset, table: Some(entry.table) })
        }
        _ => None,
    })
}

impl RedisStore {
    fn letter_name(&self, id: LetterId) -> String {
        let table = id.table.and_then(|index| self.catalog.tables.get(index));
        let table = table.map_or("", |table| table.name.as_str());
        format!("{}/{}/{table}", partition_field(&self.catalog, id.at), id.offset)
    }

    /// Every kept dead letter that a batch may move, by its name.
    pub(super) fn letters_of(&mut self, batch: &Batch) -> Result<BTreeMap<String, DeadLetter>, StoreError> {
        let mut ids: Vec<LetterId> = batch.dropped.clone();
        ids.extend(batch.produced.iter().map(|produced| produced.id));
        let of_record = |at, offset| {
            let tables = (0..self.catalog.tables.len()).map(Some).chain([None]);
            tables.map(move |table| LetterId { at, offset, table })
        };
        for retried in &batch.retried {
            ids.extend(of_record(retried.at, retried.offset));
        }
        let known = self.known_ledger()?;
        if !known.letters.is_empty() {
            ids.extend(may_be_refused(batch));
            for letter in &batch.dead_letters {
                ids.extend(of_record(letter.at, letter.offset));
            }
        }
        let ids: BTreeMap<String, LetterId> = ids
            .into_iter()
            .filter(|id| id.at.topic < self.catalog.topics.len())
            .map(|id| (self.letter_name(id), id))
            .filter(|(name, _)| known.letters.contains(name))
            .collect();
        let mut letters = BTreeMap::new();
        let names: Vec<&String> = ids.keys().collect();
        for names in names.chunks(CHUNK) {
            let mut cmd = redis::cmd("HMGET");
            cmd.arg(&self.names.dead_letters).arg(names);
            let found: Vec<Option<Vec<u8>>> = self.link.query(&cmd)?;
            for (name, json) in names.iter().zip(found) {
                let (Some(json), Some(id)) = (json, ids.get(*name)) else { continue };
                let stored = Stored::parse(name, &json)?;
                let letter = DeadLetter {
                    at: id.at,
                    offset: id.offset,
                    origin: Origin { order_ms: stored.order_ms, digest: stored.digest() },
                    record: stored.record(),
                    produced_ms: stored.produced_ms,
                    first_seen_ms: stored.first_seen_ms,
                    rejection: Rejection {
                        table: id.table,
                        path: stored.path,
                        // Of another version of readside, perhaps: it is about to get a reason of
                        // now, or to go.
                        reason: Reason::from_name(&stored.reason).unwrap_or(Reason::Malformed),
                        message: stored.message,
                    },
                };
                letters.insert((*name).clone(), letter);
            }
        }
        Ok(letters)
    }

    /// What a batch does to dead letters that were kept before it; `letters` are those of
    /// [`RedisStore::letters_of`].
    pub(super) fn move_letters(
        &self,
        (batch, letters): (&Batch, &BTreeMap<String, DeadLetter>),
        step: &mut Step<'_>,
        ledger: &mut Ledger,
        applied: &mut Applied,
    ) {
        for produced in &batch.produced {
            if let Some(letter) = letters.get(&self.letter_name(produced.id))
                && self.take_letter(step, ledger, letter)
            {
                let letter = DeadLetter { produced_ms: Some(produced.at_ms), ..letter.clone() };
                self.keep_dead_letter(step, ledger, &letter);
            }
        }
        for id in &batch.dropped {
            if let Some(letter) = letters.get(&self.letter_name(*id))
                && self.take_letter(step, ledger, letter)
            {
                applied.letters.removed.push(letter.kept());
                applied.letters.dropped += 1;
            }
        }
        for (nth, retried) in batch.retried.iter().enumerate() {
            let of = |letter: &DeadLetter| (letter.at, letter.offset) == (retried.at, retried.offset);
            let found = split_off(&mut applied.dead_letters, of);
            let mut there: Vec<DeadLetter> = letters.values().filter(|letter| of(letter)).cloned().collect();
            there.retain(|letter| self.take_letter(step, ledger, letter));
            let refused = retried.refused.as_ref();
            for letter in after_retry(there, refused, found, &mut applied.letters, nth) {
                self.keep_dead_letter(step, ledger, &letter);
            }
        }
    }

    /// Takes out those whose place new ones take; see [`rules::takes_place_of`].
    pub(super) fn give_way(
        &self,
        (batch, letters): (&Batch, &BTreeMap<String, DeadLetter>),
        step: &mut Step<'_>,
        ledger: &mut Ledger,
        applied: &mut Applied,
    ) {
        for new in batch.dead_letters.iter().chain(&applied.dead_letters) {
            for known in letters.values() {
                if (known.at, known.offset) == (new.at, new.offset)
                    && rules::takes_place_of(new, known.rejection.table, known.origin)
                    && self.take_letter(step, ledger, known)
                {
                    applied.letters.removed.push(known.kept());
                }
            }
        }
    }

    /// False when it was taken already.
    fn take_letter(&self, step: &mut Step<'_>, ledger: &mut Ledger, letter: &DeadLetter) -> bool {
        let name = self.letter_name(letter.id());
        if !ledger.letters.remove(&name) {
            return false;
        }
        let size = letter.record.as_ref().map_or(0, |record| record.size() as u64);
        ledger.letter_bytes = ledger.letter_bytes.saturating_sub(size);
        for key in [&self.names.dead_letters, &self.names.dead_letter_times] {
            step.typed(key.as_bytes(), "hash");
            step.command([b"HDEL", key.as_bytes(), name.as_bytes()]);
        }
        self.note_letter_bytes(step, ledger);
        true
    }

    /// Keeps the first of a record and table, and bytes only within their bound.
    pub(super) fn keep_dead_letter(&self, step: &mut Step<'_>, ledger: &mut Ledger, letter: &DeadLetter) {
        let rejection = &letter.rejection;
        let name = self.letter_name(letter.id());
        if !ledger.letters.insert(name.clone()) {
            return;
        }
        let fits =
            |size: u64| ledger.letter_bytes.saturating_add(size) <= self.settings.dead_letter_bytes_max;
        let record = letter.record.as_ref().filter(|record| fits(record.size() as u64));
        ledger.letter_bytes += record.map_or(0, |record| record.size() as u64);
        let stored = Stored {
            path: rejection.path.clone(),
            reason: rejection.reason.name().to_owned(),
            message: rejection.message.clone(),
            first_seen_ms: letter.first_seen_ms,
            order_ms: letter.origin.order_ms,
            digest: letter.origin.digest.map(|digest| format!("{digest:x}")),
            key: record.and_then(|record| record.key.as_ref()).map(|key| BASE64.encode(key)),
            value: record.and_then(|record| record.value.as_ref()).map(|value| BASE64.encode(value)),
            headers: record.and_then(|record| record.headers.clone()),
            produced_ms: letter.produced_ms,
        };
        let json = serde_json::to_vec(&stored).unwrap_or_default();
        let times = format!("{} {}", letter.first_seen_ms, letter.origin.order_ms);
        for (key, value) in
            [(&self.names.dead_letters, &json[..]), (&self.names.dead_letter_times, times.as_bytes())]
        {
            step.typed(key.as_bytes(), "hash");
            step.command([b"HSET", key.as_bytes(), name.as_bytes(), value]);
        }
        self.note_letter_bytes(step, ledger);
    }

    fn note_letter_bytes(&self, step: &mut Step<'_>, ledger: &Ledger) {
        let bytes = ledger.letter_bytes.to_string();
        step.command([b"HSET", self.names.meta.as_bytes(), b"dead_letter_bytes", bytes.as_bytes()]);
    }

    /// Every kept dead letter with its two times.
    fn letter_times(&mut self) -> Result<Vec<(LetterId, i64, i64)>, StoreError> {
        if self.known_ledger()?.letters.is_empty() {
            return Ok(Vec::new());
        }
        let mut cmd = redis::cmd("HGETALL");
        cmd.arg(&self.names.dead_letter_times);
        let all: BTreeMap<String, String> = self.link.query(&cmd)?;
        let known = self.known_ledger()?;
        let times = |name: &String| {
            let (first_seen_ms, order_ms) = all.get(name)?.split_once(' ')?;
            Some((first_seen_ms.parse().ok()?, order_ms.parse().ok()?))
        };
        let id = |name: &str| {
            let LetterCursor { topic, partition, offset, table } = LetterCursor::parse(name)?;
            let topic = self.catalog.topics.iter().position(|known| *known == topic)?;
            let table = self.catalog.tables.iter().position(|known| known.name == table);
            Some(LetterId { at: TopicPartition { topic, partition }, offset, table })
        };
        Ok(known
            .letters
            .iter()
            .filter_map(|name| {
                let (first_seen_ms, order_ms) = times(name).unwrap_or((0, 0));
                Some((id(name)?, first_seen_ms, order_ms))
            })
            .collect())
    }

    /// What limits count, of every kept dead letter.
    pub(super) fn kept_letters(&mut self) -> Result<Vec<Kept>, StoreError> {
        let times = self.letter_times()?.into_iter();
        let kept = times.map(|(id, _, order_ms)| Kept { topic: id.at.topic, table: id.table, order_ms });
        let mut kept: Vec<Kept> = kept.collect();
        kept.sort();
        Ok(kept)
    }

    /// The time of the oldest that may hold an event of a table.
    pub(super) fn oldest_letter_ms(&mut self, shape: &Table) -> Result<Option<i64>, StoreError> {
        if !shape.ordered_by_position {
            return Ok(None);
        }
        let times = self.letter_times()?.into_iter();
        let theirs = times.filter(|(id, _, _)| shape.topics.contains(&id.at.topic));
        Ok(theirs.map(|(_, first_seen_ms, order_ms)| rules::letter_ms(first_seen_ms, order_ms)).min())
    }
}

pub(super) fn page(link: &mut Link, names: &Names, query: &LetterQuery) -> Result<LetterPage, StoreError> {
    let all: Vec<String> = link.query(redis::cmd("HKEYS").arg(&names.dead_letters))?;
    let mut places: Vec<LetterCursor> = all.iter().filter_map(|name| LetterCursor::parse(name)).collect();
    places.retain(|place| {
        query.filter.takes_place(place) && query.after.as_ref().is_none_or(|after| place > after)
    });
    places.sort();
    let mut page = LetterPage::default();
    for places in places.chunks(CHUNK) {
        let mut cmd = redis::cmd("HMGET");
        cmd.arg(&names.dead_letters);
        for place in places {
            cmd.arg(place.to_string());
        }
        let found: Vec<Option<Vec<u8>>> = link.query(&cmd)?;
        for (place, json) in places.iter().zip(found) {
            // Gone since its name was read.
            let Some(json) = json else { continue };
            let stored = Stored::parse(&place.to_string(), &json)?;
            let (digest, record) = (stored.digest(), stored.record().filter(|_| query.bytes));
            let letter = Letter {
                topic: place.topic.clone(),
                partition: place.partition,
                offset: place.offset,
                table: Some(place.table.clone()).filter(|table| !table.is_empty()),
                path: stored.path,
                reason: stored.reason,
                message: stored.message,
                first_seen: rules::rfc3339(stored.first_seen_ms),
                first_seen_ms: stored.first_seen_ms,
                produced: stored.produced_ms.and_then(rules::rfc3339),
                order_ms: stored.order_ms,
                digest,
                record,
            };
            if !query.filter.takes(&letter) {
                continue;
            }
            if page.letters.len() == query.limit() {
                page.more = true;
                return Ok(page);
            }
            page.letters.push(letter);
        }
    }
    Ok(page)
}
