//! One batch, one transaction.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params};

use super::direct::TOGETHER;
use super::generations::retired;
use super::layout::TableSql;
use super::order;
use super::table::{Outcome, TableWriter};
use super::{Memory, Role, SqliteStore, Unconfirmed};
use crate::domain::batch::{Advance, AfterGap, Batch, Observed, Step};
use crate::domain::catalog::Catalog;
use crate::domain::checkpoint::{AfterDelete, Checkpoint, PartitionMemory, Position, TopicPartition};
use crate::domain::event_ids::{EventId, NewEventIds};
use crate::domain::sample::Sample;
use crate::domain::shelf::Row;
use crate::domain::snapshot::Unlisted;
use crate::domain::version::Version;
use crate::store::rules::Floors;
use crate::store::{Applied, LossLimit, StoreError, Swept, rules};

impl SqliteStore {
    pub(super) fn apply_batch(&mut self, batch: &Batch) -> Result<Applied, StoreError> {
        self.bound_wal()?;
        self.floors.forget(&batch.observed.freshness_lost);
        let home = Arc::clone(&self.home);
        let turn = home.turn(self.role);
        let tx = Transaction::new_unchecked(&self.conn, TransactionBehavior::Immediate)?;
        let mut work = Work {
            conn: &self.conn,
            catalog: &self.catalog,
            sql: &self.sql,
            generation: self.generation,
            role: self.role,
            floors: &self.floors,
            samples: &mut self.samples,
            loss: self.settings.loss,
            memory: self.memory.clone(),
            dead_letter_bytes_max: i64::try_from(self.settings.dead_letter_bytes_max).unwrap_or(i64::MAX),
        };
        if work.was_applied(batch)? {
            drop(tx);
            drop(turn);
            return Ok(self.confirm(batch.id));
        }
        let applied = work.write(batch)?;
        let memory = work.memory;
        let unconfirmed = Unconfirmed { batch: batch.id, memory, applied };
        let committed = tx.commit();
        drop(turn);
        self.unconfirmed = Some(unconfirmed);
        committed?;
        self.floors.pass(&batch.observed.fresh_as_of_ms);
        Ok(self.confirm(batch.id))
    }

    /// The batch is in the file: what is kept in memory follows.
    fn confirm(&mut self, batch: u64) -> Applied {
        match self.unconfirmed.take() {
            Some(last) if last.batch == batch => {
                self.memory = last.memory;
                last.applied
            }
            // Committed before this process started: memory was loaded with it.
            _ => {
                let kept = self.memory.dead_letters.iter().sum();
                Applied { dead_letters_kept: kept, ..Applied::default() }
            }
        }
    }

    pub(super) fn read_checkpoint(&mut self) -> Result<Checkpoint, StoreError> {
        let mut checkpoint = Checkpoint {
            cluster_id: self.memory.cluster_id.clone(),
            topic_ids: self.memory.topic_ids.clone(),
            complete: self.complete,
            heartbeat_ms: self.conn.query_row(
                "SELECT heartbeat_ms FROM _readside_meta_generations WHERE generation = ?1",
                [self.generation],
                |row| row.get(0),
            )?,
            missing_events: self.read_missing_events()?,
            snapshots: self
                .memory
                .tables
                .iter()
                .enumerate()
                .filter_map(|(index, table)| Some((index, table.snapshot?)))
                .collect(),
            ..Checkpoint::default()
        };
        let mut statement = self.conn.prepare_cached(
            "SELECT topic, \"partition\", next_offset, leader_epoch, max_timestamp_ms, after_delete_key, \
             after_delete_version, fresh_as_of_ms, unlisted FROM _readside_meta_partitions WHERE generation = ?1",
        )?;
        let mut rows = statement.query([self.generation])?;
        while let Some(row) = rows.next()? {
            let Ok(topic) = self.catalog.topics.binary_search(&row.get::<_, String>(0)?) else { continue };
            let at = TopicPartition { topic, partition: row.get(1)? };
            if let Some(fresh) = row.get(7)? {
                checkpoint.fresh_as_of_ms.insert(at, fresh);
            }
            let Some(next_offset) = row.get(2)? else { continue };
            let version: Option<Vec<u8>> = row.get(6)?;
            let after_delete = match (row.get(5)?, version.as_deref().and_then(Version::from_bytes)) {
                (Some(key), Some(version)) => Some(AfterDelete { key, version }),
                _ => None,
            };
            let unlisted: Option<Vec<u8>> = row.get(8)?;
            let unlisted = unlisted.as_deref().and_then(Unlisted::from_bytes);
            let memory = PartitionMemory { max_timestamp_ms: row.get(4)?, after_delete, unlisted };
            checkpoint.positions.insert(at, Position { next_offset, leader_epoch: row.get(3)?, memory });
        }
        checkpoint.event_ids = self.read_event_ids()?;
        checkpoint.dead_letters = super::letters::all_kept(&self.conn, &self.catalog, self.generation)?;
        Ok(checkpoint)
    }

    fn read_missing_events(&self) -> Result<BTreeSet<usize>, StoreError> {
        let mut missing = BTreeSet::new();
        let mut statement = self.conn.prepare_cached(
            "SELECT table_name FROM _readside_meta_tables WHERE generation = ?1 AND missing_events",
        )?;
        let mut rows = statement.query([self.generation])?;
        while let Some(row) = rows.next()? {
            let name: String = row.get(0)?;
            missing.extend(self.catalog.tables.iter().position(|table| table.name == name));
        }
        Ok(missing)
    }

    fn read_event_ids(&self) -> Result<BTreeMap<usize, Vec<EventId>>, StoreError> {
        let mut all: BTreeMap<usize, Vec<EventId>> = BTreeMap::new();
        let mut statement = self.conn.prepare_cached(
            "SELECT topic_index, event_id FROM _readside_meta_event_ids WHERE generation = ?1 \
             ORDER BY topic_index, nth",
        )?;
        let mut rows = statement.query([self.generation])?;
        while let Some(row) = rows.next()? {
            all.entry(row.get::<_, u32>(0)? as usize).or_default().push(EventId::from_bytes(row.get(1)?));
        }
        Ok(all)
    }
}

/// By table index.
type Writers<'a> = Vec<Option<TableWriter<'a>>>;

/// A batch on its way into an open transaction. `memory` is what will be true after it.
pub(super) struct Work<'a> {
    pub conn: &'a Connection,
    pub catalog: &'a Catalog,
    sql: &'a [TableSql],
    pub generation: i64,
    role: Role,
    floors: &'a Floors,
    samples: &'a mut [Sample],
    loss: LossLimit,
    pub memory: Memory,
    pub dead_letter_bytes_max: i64,
}

impl<'a> Work<'a> {
    /// Whether this very batch is in the file: its reply was lost, and it was sent again. Refuses
    /// when the generation has been put out of use.
    fn was_applied(&self, batch: &Batch) -> Result<bool, StoreError> {
        let (role, last): (String, i64) = self
            .conn
            .prepare_cached("SELECT role, last_batch FROM _readside_meta_generations WHERE generation = ?1")?
            .query_row([self.generation], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?
            .ok_or_else(|| retired(self.generation))?;
        let expected = match self.role {
            Role::Live => "live",
            Role::Next { .. } => "next",
        };
        if role != expected {
            return Err(retired(self.generation));
        }
        if batch.id == 0 || last != batch.id as i64 {
            return Ok(false);
        }
        for (at, advance) in &batch.advances {
            if self.stored_position(*at)? != Some(advance.to.next_offset) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn write(&mut self, batch: &Batch) -> Result<Applied, StoreError> {
        for (at, advance) in &batch.advances {
            self.advance(*at, advance)?;
        }
        if let Some(after) = &batch.after_gap {
            self.go_on(after)?;
        }
        self.identify(&batch.observed)?;
        let before = self.memory.tables.clone();
        let mut applied = self.write_entries(batch)?;
        self.move_dead_letters(batch, &mut applied)?;
        for (topic, news) in &batch.event_ids {
            self.remember(*topic, news)?;
        }
        applied.dead_letters_kept = self.memory.dead_letters.iter().sum();
        self.observe(batch)?;
        for (index, table) in self.memory.tables.iter().enumerate() {
            if before[index] != *table {
                self.conn
                    .prepare_cached(
                        "UPDATE _readside_meta_tables SET rows = ?3, held = ?4, delete_marks = ?5, truncated = ?6, \
                         snapshot = ?7, snapshot_phase = ?8 WHERE generation = ?1 AND table_name = ?2",
                    )?
                    .execute(params![
                        self.generation,
                        self.catalog.tables[index].name,
                        table.rows,
                        table.held,
                        table.marks,
                        table.truncated.as_ref().map(Version::as_bytes),
                        table.snapshot.as_ref().map(|snapshot| snapshot.begin.as_bytes()),
                        table.snapshot.map(|snapshot| snapshot.phase.name()),
                    ])?;
            }
        }
        Ok(applied)
    }

    fn write_entries(&mut self, batch: &Batch) -> Result<Applied, StoreError> {
        let now_ms = batch.observed.heartbeat_ms;
        let mut applied = Applied::default();
        let mut writers: Writers<'a> = self.catalog.tables.iter().map(|_| None).collect();
        for index in order::by_key(self.catalog, &batch.entries) {
            let index = index as usize;
            let entry = &batch.entries[index];
            if let Step::Shelved { set } = entry.step {
                self.unshelve(batch, set, &mut writers)?;
                continue;
            }
            let shape = &self.catalog.tables[entry.table];
            if let (Step::Row(row), true) = (&entry.step, self.memory.tables[entry.table].appending) {
                self.samples[entry.table].look(shape.key_of(&row.values));
            }
            let writer = self.writer(&mut writers, entry.table, now_ms);
            match writer.step(&mut self.memory.tables[entry.table], &entry.step)? {
                Outcome::Changed => {}
                Outcome::Stale => applied.stale.push(index),
                Outcome::Ignored => applied.missing_row.push(index),
                Outcome::Swept { rows, snapshot } => {
                    applied.swept.push(Swept { table: entry.table, rows, snapshot });
                }
                Outcome::MissingRow(version) => {
                    applied.dead_letters.push(rules::missing_row(entry.table, shape, version, now_ms));
                }
            }
        }
        for (index, writer) in writers.iter_mut().enumerate() {
            let memory = &mut self.memory.tables[index];
            if let Some(writer) = writer
                && memory.appending
                && self.samples[index].is_mostly_again()
            {
                writer.end_appending(memory, true)?;
            }
        }
        applied.appends = self.memory.tables.iter().any(|table| table.appending);
        applied.stale.sort_unstable();
        Ok(applied)
    }

    /// Of a table, made when it is first written to.
    fn writer<'w>(&self, writers: &'w mut Writers<'a>, table: usize, now_ms: i64) -> &'w mut TableWriter<'a> {
        let new =
            || TableWriter::new(self.conn, &self.catalog.tables[table], &self.sql[table], now_ms, self.loss);
        writers[table].get_or_insert_with(new)
    }

    /// Rows that were put aside, in the order of table and key: neighbours share pages.
    fn unshelve(&mut self, batch: &Batch, set: u32, writers: &mut Writers<'a>) -> Result<(), StoreError> {
        let mut rows = rules::set_of(batch, set)?;
        let mut together: [Vec<u8>; TOGETHER] = Default::default();
        let mut next = Vec::new();
        let (mut table, mut count) = (0, 0);
        loop {
            let row = rows.next(&mut next).map_err(rules::not_on_the_shelf)?;
            if count > 0 && (count == TOGETHER || row.is_none_or(|row| row.table != table)) {
                let packed = together[..count].iter().map(|bytes| Some(Row::read(bytes)?.packed()));
                let packed: Option<Vec<_>> = packed.collect();
                let packed = packed.ok_or_else(|| rules::not_on_the_shelf("one is no row"))?;
                let writer = self.writer(writers, table, batch.observed.heartbeat_ms);
                writer.shelved(&mut self.memory.tables[table], &packed)?;
                count = 0;
            }
            let Some(row) = row else { return Ok(()) };
            table = row.table;
            if self.memory.tables[table].appending {
                self.samples[table].look_at(row.hash.into());
            }
            std::mem::swap(&mut together[count], &mut next);
            count += 1;
        }
    }

    fn go_on(&mut self, after: &AfterGap) -> Result<(), StoreError> {
        for at in &after.gone {
            self.conn.execute(
                "DELETE FROM _readside_meta_partitions WHERE generation = ?1 AND topic = ?2 AND \"partition\" = ?3",
                params![self.generation, self.catalog.topics[at.topic], at.partition],
            )?;
        }
        for (&topic, id) in &after.topic_ids {
            self.name_topic(topic, id)?;
        }
        for &topic in &after.forgotten_ids {
            self.conn.execute(
                "DELETE FROM _readside_meta_event_ids WHERE generation = ?1 AND topic_index = ?2",
                params![self.generation, topic as i64],
            )?;
        }
        for &table in &after.missing_events {
            self.conn.execute(
                "UPDATE _readside_meta_tables SET missing_events = 1 WHERE generation = ?1 AND table_name = ?2",
                params![self.generation, self.catalog.tables[table].name],
            )?;
        }
        Ok(())
    }

    /// Numbers are given without gaps, so that they tell which are the newest.
    fn remember(&self, topic: usize, news: &NewEventIds) -> Result<(), StoreError> {
        // The mapping that the file belongs to has fixed the list of topics; versions hold the
        // index too.
        let topic = topic as i64;
        let mut last: i64 = self
            .conn
            .prepare_cached(
                "SELECT COALESCE(MAX(nth), 0) FROM _readside_meta_event_ids \
                 WHERE generation = ?1 AND topic_index = ?2",
            )?
            .query_row([self.generation, topic], |row| row.get(0))?;
        let mut insert = self.conn.prepare_cached(
            "INSERT INTO _readside_meta_event_ids (generation, topic_index, nth, event_id) VALUES (?1, ?2, ?3, ?4)",
        )?;
        for id in news.kept() {
            last += 1;
            insert.execute(params![self.generation, topic, last, id.to_bytes()])?;
        }
        self.conn
            .prepare_cached(
                "DELETE FROM _readside_meta_event_ids WHERE generation = ?1 AND topic_index = ?2 AND nth <= ?3",
            )?
            .execute([self.generation, topic, last - news.window as i64])?;
        Ok(())
    }

    /// Compare and set, in one statement.
    fn advance(&self, at: TopicPartition, advance: &Advance) -> Result<(), StoreError> {
        let topic = &self.catalog.topics[at.topic];
        let Position { next_offset, leader_epoch, memory } = &advance.to;
        let after = memory.after_delete.as_ref();
        let changed = self
            .conn
            .prepare_cached(
                "INSERT INTO _readside_meta_partitions (generation, topic, \"partition\", next_offset, leader_epoch, \
                 max_timestamp_ms, after_delete_key, after_delete_version, unlisted) \
                 SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?10 WHERE ?9 IS NULL OR EXISTS (SELECT 1 FROM \
                 _readside_meta_partitions WHERE generation = ?1 AND topic = ?2 AND \"partition\" = ?3) \
                 ON CONFLICT (generation, topic, \"partition\") DO UPDATE SET next_offset = ?4, leader_epoch = ?5, \
                 max_timestamp_ms = ?6, after_delete_key = ?7, after_delete_version = ?8, unlisted = ?10 \
                 WHERE next_offset IS ?9",
            )?
            .execute(params![
                self.generation,
                topic,
                at.partition,
                next_offset,
                leader_epoch,
                memory.max_timestamp_ms,
                after.map(|after| &after.key),
                after.map(|after| after.version.as_bytes()),
                advance.from,
                memory.unlisted.as_ref().map(Unlisted::as_bytes),
            ])?;
        if changed == 1 {
            return Ok(());
        }
        Err(rules::another_writer(topic, at.partition, self.stored_position(at)?, advance.from))
    }

    fn stored_position(&self, at: TopicPartition) -> Result<Option<i64>, StoreError> {
        let found = self
            .conn
            .prepare_cached(
                "SELECT next_offset FROM _readside_meta_partitions \
                 WHERE generation = ?1 AND topic = ?2 AND \"partition\" = ?3",
            )?
            .query_row(params![self.generation, self.catalog.topics[at.topic], at.partition], |row| {
                row.get(0)
            })
            .optional()?;
        Ok(found.flatten())
    }

    fn identify(&mut self, observed: &Observed) -> Result<(), StoreError> {
        if let Some(seen) = &observed.cluster_id {
            match &self.memory.cluster_id {
                Some(stored) if stored != seen => return Err(rules::another_cluster(stored, seen)),
                Some(_) => {}
                None => {
                    self.conn.execute(
                        "UPDATE _readside_meta_generations SET cluster_id = ?2 WHERE generation = ?1",
                        params![self.generation, seen],
                    )?;
                    self.memory.cluster_id = Some(seen.clone());
                }
            }
        }
        for (&topic, seen) in &observed.topic_ids {
            match self.memory.topic_ids.get(&topic) {
                Some(stored) if stored != seen => {
                    return Err(rules::another_topic(&self.catalog.topics[topic], stored, seen));
                }
                Some(_) => {}
                None => self.name_topic(topic, seen)?,
            }
        }
        Ok(())
    }

    /// From now on the topic is the one with this id.
    fn name_topic(&mut self, topic: usize, id: &str) -> Result<(), StoreError> {
        self.conn.execute(
            "UPDATE _readside_meta_topics SET topic_id = ?3 WHERE generation = ?1 AND topic = ?2",
            params![self.generation, self.catalog.topics[topic], id],
        )?;
        self.memory.topic_ids.insert(topic, id.to_owned());
        Ok(())
    }

    fn observe(&self, batch: &Batch) -> Result<(), StoreError> {
        let observed = &batch.observed;
        for at in &observed.freshness_lost {
            self.conn
                .prepare_cached(
                    "UPDATE _readside_meta_partitions SET fresh_as_of_ms = NULL \
                     WHERE generation = ?1 AND topic = ?2 AND \"partition\" = ?3",
                )?
                .execute(params![self.generation, self.catalog.topics[at.topic], at.partition])?;
        }
        let seen: BTreeSet<&TopicPartition> =
            observed.fresh_as_of_ms.keys().chain(observed.end_offsets.keys()).collect();
        if !seen.is_empty() {
            let mut statement = self.conn.prepare_cached(
                "INSERT INTO _readside_meta_partitions (generation, topic, \"partition\", end_offset, fresh_as_of_ms) \
                 VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT (generation, topic, \"partition\") DO UPDATE SET \
                 end_offset = COALESCE(?4, end_offset), fresh_as_of_ms = COALESCE(?5, fresh_as_of_ms)",
            )?;
            for at in seen {
                statement.execute(params![
                    self.generation,
                    self.catalog.topics[at.topic],
                    at.partition,
                    observed.end_offsets.get(at),
                    observed.fresh_as_of_ms.get(at).and_then(|fresh| self.floors.raise(*at, *fresh)),
                ])?;
            }
        }
        self.conn
            .prepare_cached(
                "UPDATE _readside_meta_generations SET heartbeat_ms = ?2, connected = ?3, last_batch = ?4, \
                 stopped = CASE WHEN ?5 IS NULL THEN stopped ELSE NULLIF(?5, '') END WHERE generation = ?1",
            )?
            .execute(params![
                self.generation,
                observed.heartbeat_ms,
                observed.connected,
                batch.id as i64,
                observed.stopped
            ])?;
        if self.role == (Role::Next { carries_live: true }) {
            self.conn
                .prepare_cached(
                    "UPDATE _readside_meta_generations SET heartbeat_ms = ?1, connected = ?2, \
                     stopped = CASE WHEN ?3 IS NULL THEN stopped ELSE NULLIF(?3, '') END WHERE role = 'live'",
                )?
                .execute(params![observed.heartbeat_ms, observed.connected, observed.stopped])?;
        }
        Ok(())
    }
}
