//! Dead letters: kept once, taken out when they are retried or dropped, shown in pages.

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::apply::Work;
use crate::domain::batch::Batch;
use crate::domain::catalog::{Catalog, Table};
use crate::domain::checkpoint::TopicPartition;
use crate::domain::dead_letter::{DeadLetter, Kept, LetterId, Origin, Reason, RecordBytes, Rejection};
use crate::store::letters::{after_retry, split_off};
use crate::store::{Applied, Letter, LetterPage, LetterQuery, StoreError, rules};

const COLUMNS: &str = "topic, \"partition\", \"offset\", table_name, path, reason, message, first_seen_ms, order_ms, \
                       digest, \"key\", \"value\", headers, produced_ms";

impl Work<'_> {
    /// Everything a batch does to dead letters, after its rows.
    pub(super) fn move_dead_letters(
        &mut self,
        batch: &Batch,
        applied: &mut Applied,
    ) -> Result<(), StoreError> {
        for produced in &batch.produced {
            let (id, at_ms) = (produced.id, produced.at_ms);
            let Some(topic) = self.catalog.topics.get(id.at.topic) else { continue };
            self.conn
                .prepare_cached(
                    "UPDATE _readside_meta_dead_letters SET produced_ms = ?6 WHERE generation = ?1 AND topic = ?2 AND \
                     \"partition\" = ?3 AND \"offset\" = ?4 AND table_name = ?5",
                )?
                .execute(params![
                    self.generation,
                    topic,
                    id.at.partition,
                    id.offset,
                    self.table_name(id.table),
                    at_ms
                ])?;
        }
        for id in &batch.dropped {
            if let Some(letter) = self.take_letter(*id)? {
                applied.letters.removed.push(letter.kept());
                applied.letters.dropped += 1;
            }
        }
        for (nth, retried) in batch.retried.iter().enumerate() {
            let (at, offset) = (retried.at, retried.offset);
            let found =
                split_off(&mut applied.dead_letters, |letter| (letter.at, letter.offset) == (at, offset));
            let there = self.take_letters_of(at, offset)?;
            let refused = retried.refused.as_ref();
            for letter in after_retry(there, refused, found, &mut applied.letters, nth) {
                self.keep_dead_letter(&letter)?;
            }
        }
        for letter in batch.dead_letters.iter().chain(&applied.dead_letters) {
            applied.letters.removed.extend(self.give_way(letter)?);
        }
        for letter in batch.dead_letters.iter().chain(&applied.dead_letters) {
            self.keep_dead_letter(letter)?;
        }
        Ok(())
    }

    /// Keeps the first of a record and table, and bytes only within their bound.
    fn keep_dead_letter(&mut self, letter: &DeadLetter) -> Result<(), StoreError> {
        let size = letter.record.as_ref().map_or(0, |record| record.size() as i64);
        let fits = self.memory.dead_letter_bytes.saturating_add(size) <= self.dead_letter_bytes_max;
        let record = letter.record.as_ref().filter(|_| fits);
        let added = self
            .conn
            .prepare_cached(&format!(
                "INSERT INTO _readside_meta_dead_letters (generation, {COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, \
                 ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15) ON CONFLICT DO NOTHING"
            ))?
            .execute(params![
                self.generation,
                self.catalog.topics[letter.at.topic],
                letter.at.partition,
                letter.offset,
                self.table_name(letter.rejection.table),
                letter.rejection.path,
                letter.rejection.reason.name(),
                letter.rejection.message,
                letter.first_seen_ms,
                letter.origin.order_ms,
                letter.origin.digest.map(u128::to_be_bytes),
                record.and_then(|record| record.key.as_ref()),
                record.and_then(|record| record.value.as_ref()),
                record.and_then(|record| record.headers.as_ref()),
                letter.produced_ms,
            ])?;
        if added > 0 {
            self.memory.dead_letters[letter.at.topic] += 1;
            self.memory.dead_letter_bytes += record.map_or(0, |record| record.size() as i64);
        }
        Ok(())
    }

    /// Takes out those whose place a new one takes; see [`rules::takes_place_of`].
    fn give_way(&mut self, new: &DeadLetter) -> Result<Vec<Kept>, StoreError> {
        let mut there = self.conn.prepare_cached(
            "SELECT table_name, order_ms, digest FROM _readside_meta_dead_letters WHERE generation = ?1 AND \
             topic = ?2 AND \"partition\" = ?3 AND \"offset\" = ?4",
        )?;
        let topic = &self.catalog.topics[new.at.topic];
        let mut rows = there.query(params![self.generation, topic, new.at.partition, new.offset])?;
        let mut gone = Vec::new();
        while let Some(row) = rows.next()? {
            let name: String = row.get(0)?;
            let table = self.catalog.tables.iter().position(|table| table.name == name);
            let known = Origin { order_ms: row.get(1)?, digest: digest(row.get(2)?) };
            if rules::takes_place_of(new, table, known) {
                gone.push(LetterId { at: new.at, offset: new.offset, table });
            }
        }
        drop(rows);
        let mut removed = Vec::new();
        for id in gone {
            removed.extend(self.take_letter(id)?.map(|letter| letter.kept()));
        }
        Ok(removed)
    }

    fn table_name(&self, table: Option<usize>) -> &str {
        table.and_then(|index| self.catalog.tables.get(index)).map_or("", |table| table.name.as_str())
    }

    fn take_letters_of(&mut self, at: TopicPartition, offset: i64) -> Result<Vec<DeadLetter>, StoreError> {
        let mut taken = Vec::new();
        for table in std::iter::once(None).chain((0..self.catalog.tables.len()).map(Some)) {
            taken.extend(self.take_letter(LetterId { at, offset, table })?);
        }
        Ok(taken)
    }

    fn take_letter(&mut self, id: LetterId) -> Result<Option<DeadLetter>, StoreError> {
        let Some(topic) = self.catalog.topics.get(id.at.topic) else { return Ok(None) };
        let key = params![self.generation, topic, id.at.partition, id.offset, self.table_name(id.table)];
        let found = self
            .conn
            .prepare_cached(&format!(
                "SELECT {COLUMNS} FROM _readside_meta_dead_letters WHERE generation = ?1 AND topic = ?2 AND \
                 \"partition\" = ?3 AND \"offset\" = ?4 AND table_name = ?5"
            ))?
            .query_row(key, |row| Ok((letter(row, true)?, row.get(13)?)))
            .optional()?;
        let Some((letter, produced_ms)) = found else { return Ok(None) };
        let Letter { path, reason, message, first_seen_ms, order_ms, digest, record, .. } = letter;
        self.conn
            .prepare_cached(
                "DELETE FROM _readside_meta_dead_letters WHERE generation = ?1 AND topic = ?2 AND \
                 \"partition\" = ?3 AND \"offset\" = ?4 AND table_name = ?5",
            )?
            .execute(key)?;
        let kept = &mut self.memory.dead_letters[id.at.topic];
        *kept = kept.saturating_sub(1);
        self.memory.dead_letter_bytes -= record.as_ref().map_or(0, |record| record.size() as i64);
        // Of another version of readside, perhaps: it is about to get a reason of now, or to go.
        let reason = Reason::from_name(&reason).unwrap_or(Reason::Malformed);
        Ok(Some(DeadLetter {
            at: id.at,
            offset: id.offset,
            rejection: Rejection { table: id.table, path, reason, message },
            first_seen_ms,
            origin: Origin { order_ms, digest },
            record,
            produced_ms,
        }))
    }
}

fn letter(row: &Row<'_>, bytes: bool) -> rusqlite::Result<Letter> {
    let table: String = row.get(3)?;
    let first_seen_ms = row.get(7)?;
    let produced_ms: Option<i64> = row.get(13)?;
    let record = match bytes {
        true => RecordBytes { key: row.get(10)?, value: row.get(11)?, headers: row.get(12)? },
        false => RecordBytes::default(),
    };
    Ok(Letter {
        topic: row.get(0)?,
        partition: row.get(1)?,
        offset: row.get(2)?,
        table: Some(table).filter(|table| !table.is_empty()),
        path: row.get(4)?,
        reason: row.get(5)?,
        message: row.get(6)?,
        first_seen: rules::rfc3339(first_seen_ms),
        first_seen_ms,
        produced: produced_ms.and_then(rules::rfc3339),
        order_ms: row.get(8)?,
        digest: digest(row.get(9)?),
        record: Some(record).filter(|record| *record != RecordBytes::default()),
    })
}

fn digest(bytes: Option<Vec<u8>>) -> Option<u128> {
    bytes.and_then(|bytes| bytes.try_into().ok()).map(u128::from_be_bytes)
}

/// A page of the live generation's.
pub(super) fn page(conn: &Connection, query: &LetterQuery) -> Result<LetterPage, StoreError> {
    let limit = query.limit();
    let (filter, after) = (&query.filter, query.after.as_ref());
    let mut statement = conn.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM _readside_meta_dead_letters WHERE generation = (SELECT live FROM \
         _readside_meta_replica) AND (?1 IS NULL OR topic = ?1) AND (?2 IS NULL OR \"partition\" = ?2) \
         AND (?3 IS NULL OR \"offset\" = ?3) AND (?4 IS NULL OR table_name = ?4) AND (?5 IS NULL OR reason = ?5) \
         AND (?6 IS NULL OR (topic, \"partition\", \"offset\", table_name) > (?6, ?7, ?8, ?9)) \
         AND (?11 IS NULL OR (produced_ms IS NOT NULL) = ?11) \
         ORDER BY topic, \"partition\", \"offset\", table_name LIMIT ?10"
    ))?;
    let mut rows = statement.query(params![
        filter.topic,
        filter.partition,
        filter.offset,
        filter.table,
        filter.reason,
        after.map(|after| &after.topic),
        after.map(|after| after.partition),
        after.map(|after| after.offset),
        after.map(|after| &after.table),
        limit as i64 + 1,
        filter.produced,
    ])?;
    let mut page = LetterPage::default();
    while let Some(row) = rows.next()? {
        if page.letters.len() == limit {
            page.more = true;
            break;
        }
        page.letters.push(letter(row, query.bytes)?);
    }
    Ok(page)
}

/// What limits count, of every dead letter of a generation.
pub(super) fn all_kept(
    conn: &Connection,
    catalog: &Catalog,
    generation: i64,
) -> Result<Vec<Kept>, StoreError> {
    let mut statement = conn.prepare_cached(
        "SELECT topic, table_name, order_ms FROM _readside_meta_dead_letters WHERE generation = ?1",
    )?;
    let mut rows = statement.query([generation])?;
    let mut all = Vec::new();
    while let Some(row) = rows.next()? {
        let (topic, table): (String, String) = (row.get(0)?, row.get(1)?);
        let Ok(topic) = catalog.topics.binary_search(&topic) else { continue };
        let table = catalog.tables.iter().position(|known| known.name == table);
        all.push(Kept { topic, table, order_ms: row.get(2)? });
    }
    all.sort();
    Ok(all)
}

/// The time of the oldest dead letter that may hold an event of a table; see
/// [`rules::marks_before_ms`].
pub(super) fn oldest_ms(
    conn: &Connection,
    shape: &Table,
    generation: i64,
) -> Result<Option<i64>, StoreError> {
    Ok(conn
        .prepare_cached(
            "SELECT MIN(MIN(d.first_seen_ms, d.order_ms)) FROM _readside_meta_dead_letters d WHERE \
             d.generation = ?1 AND d.topic IN (SELECT s.topic FROM _readside_meta_sources s WHERE \
             s.generation = ?1 AND s.table_name = ?2)",
        )?
        .query_row(params![generation, shape.name], |row| row.get(0))?)
}
