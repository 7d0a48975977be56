//! Whole snapshots that were sent again: rows that are not in them go, slice by slice.
//!
//! They are counted first, because suspiciously many are not believed. The snapshot counts as swept
//! together with the positions behind it: whoever dies in between counts again, and finds less.

use std::collections::{HashMap, HashSet};
use std::hash::BuildHasher as _;

use super::RedisStore;
use super::codec;
use super::cut::ROWS_AT_ONCE;
use super::known::{Known, Wanted};
use super::pulse::Pulse;
use super::settings::RowEncoding;
use crate::domain::batch::Sweep;
use crate::domain::row::RowState;
use crate::domain::snapshot::{Phase, Snapshot};
use crate::domain::value::Value;
use crate::domain::version::Version;
use crate::store::{StoreError, Swept, rules};

impl RedisStore {
    /// What became of the rows that were last written before a snapshot; `None`: it is not the one that
    /// is waited for.
    pub(super) fn sweep_ghosts(
        &mut self,
        table: usize,
        sweep: Sweep,
        pulse: &mut Pulse<'_>,
    ) -> Result<Option<Swept>, StoreError> {
        let begin = sweep.begin;
        let ledger = &self.known_ledger()?.tables[table];
        if ledger.snapshot != Some(Snapshot { begin, phase: Phase::Listed }) {
            return Ok(None);
        }
        let all = ledger.rows;
        let loss = self.settings.loss;
        let is_suspicious = |rows: u64| rules::is_suspicious_loss(loss, all - rows as i64, all);
        // A scan may name a key twice. Beyond what is believed the number need not be exact.
        let (mut rows, mut seen) = (0, HashSet::new());
        let hasher = foldhash::quality::RandomState::default();
        let mut cursor = 0u64;
        loop {
            self.beat(pulse)?;
            let (next, keys) = self.scan_older(table, begin, cursor)?;
            for key in keys {
                rows += u64::from(is_suspicious(rows) || seen.insert(hasher.hash_one(&key)));
            }
            if next == 0 {
                break;
            }
            cursor = next;
        }
        let phase = rules::after_sweep(sweep, loss, rows as i64, all);
        if phase == Phase::Swept {
            self.forget_older(table, begin, pulse)?;
            self.forget_held(table, begin, pulse)?;
        }
        Ok(Some(Swept { table, rows, snapshot: Snapshot { begin, phase } }))
    }

    /// Keys of some visible rows that are older, and where to go on.
    fn scan_older(
        &mut self,
        table: usize,
        begin: Version,
        cursor: u64,
    ) -> Result<(u64, Vec<Vec<u8>>), StoreError> {
        let (next, keys) = self.scan_rows(table, cursor)?;
        let mut keys: Vec<Vec<u8>> = keys.into_iter().collect();
        let versions = self.read_versions(table, &keys)?;
        let mut older = versions.into_iter().map(|version| version.is_some_and(|version| version < begin));
        keys.retain(|_| older.next().unwrap_or(false));
        Ok((next, keys))
    }

    /// Versions of visible rows, without anything else of them.
    fn read_versions(&mut self, table: usize, keys: &[Vec<u8>]) -> Result<Vec<Option<Version>>, StoreError> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let encoding = self.settings.redis.encoding;
        let names = &self.tables[table];
        let mut pipe = redis::pipe();
        for key in keys {
            let row = names.row_key(key);
            match encoding {
                RowEncoding::Hash => pipe.cmd("HGET").arg(row).arg(codec::RESERVED),
                RowEncoding::Json => pipe.cmd("GETRANGE").arg(row).arg(0).arg(codec::JSON_HEAD - 1),
            };
        }
        let heads: Vec<Option<Vec<u8>>> = self.link.pipe(&pipe)?;
        let shape = &self.catalog.tables[table];
        let read = |head: Vec<u8>| match encoding {
            RowEncoding::Hash => codec::version_of(shape, &head),
            RowEncoding::Json => codec::version_of_json(shape, &head),
        };
        let heads = heads.into_iter().map(|head| head.filter(|head| !head.is_empty()));
        heads.map(|head| head.map(read).transpose()).collect()
    }

    /// As if nobody had ever heard of them: one that is still on its way comes back.
    fn forget_older(
        &mut self,
        table: usize,
        begin: Version,
        pulse: &mut Pulse<'_>,
    ) -> Result<(), StoreError> {
        let mut cursor = 0u64;
        loop {
            self.beat(pulse)?;
            let (next, keys) = self.scan_older(table, begin, cursor)?;
            for keys in keys.chunks(ROWS_AT_ONCE) {
                self.beat(pulse)?;
                let wanted: Vec<Wanted<'_>> =
                    keys.iter().map(|key| Wanted { table, key: key.clone(), values: None }).collect();
                let mut all = self.find(&wanted, HashMap::new())?;
                for known in &mut all {
                    known.state = RowState::unknown(known.state.values.clone());
                }
                self.keep_all(table, &all, pulse.now_ms())?;
            }
            if next == 0 {
                return Ok(());
            }
            cursor = next;
        }
    }

    /// The same of what waits for its row.
    fn forget_held(&mut self, table: usize, begin: Version, pulse: &mut Pulse<'_>) -> Result<(), StoreError> {
        let mut cursor = 0u64;
        while self.known_ledger()?.tables[table].held > 0 {
            self.beat(pulse)?;
            let (next, rows) = self.scan_hidden(table, cursor)?;
            let shape = &self.catalog.clone().tables[table];
            let mut all = Vec::new();
            for (key, bytes) in rows {
                let (row, _) = codec::unhide(shape, vec![Value::Absent; shape.columns.len()], &bytes)?;
                if row.version.is_some_and(|version| version < begin) {
                    let mut known = Known::new(table, key, row, Vec::new());
                    known.state = RowState::unknown(known.state.values.clone());
                    all.push(known);
                }
            }
            self.keep_all(table, &all, pulse.now_ms())?;
            if next == 0 {
                break;
            }
            cursor = next;
        }
        Ok(())
    }
}
