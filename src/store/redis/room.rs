//! Whether the server has memory for a second copy.

use std::collections::HashMap;

use super::link::Link;
use super::names::{Names, Spot, TableNames};
use super::replica::Home;
use crate::store::StoreError;

/// What a second copy may take beyond what a sample of the first says.
const MARGIN: f64 = 0.2;
/// Keys that are looked at. They come in an order that has nothing to do with their names.
const SAMPLE: usize = 1_000;
/// A place in the tables of names, beside what `MEMORY USAGE` counts.
const PER_KEY: u64 = 24;

/// Bytes of the server: what it may use, if there is a limit, and what it uses.
struct Memory {
    limit: Option<u64>,
    used: u64,
    data: u64,
}

fn memory(link: &mut Link) -> Result<Memory, StoreError> {
    let info: String = link.query(redis::cmd("INFO").arg("memory"))?;
    let fields: HashMap<&str, &str> = info.lines().filter_map(|line| line.split_once(':')).collect();
    let bytes = |name: &str| fields.get(name).and_then(|text| text.trim().parse().ok()).unwrap_or(0);
    let limit = Some(bytes("maxmemory")).filter(|limit| *limit > 0);
    Ok(Memory { limit, used: bytes("used_memory"), data: bytes("used_memory_dataset") })
}

/// `Err` inside: a sentence about what is missing. A server without `maxmemory` says nothing of what
/// it may use, so nothing is known to be missing.
pub(super) fn check(home: &Home) -> Result<Result<(), String>, StoreError> {
    let mut link = home.link(Spot::Live);
    let memory = memory(&mut link)?;
    let Some(limit) = memory.limit else { return Ok(Ok(())) };
    let copy = size_of_copy(home, &mut link)?.map_or(memory.data, |bytes| bytes.min(memory.data));
    Ok(enough(copy, limit.saturating_sub(memory.used), home.settings.min_free_bytes))
}

/// While a rebuild runs: whether less is free than it has to leave.
pub(super) fn lack(home: &Home) -> Result<Option<String>, StoreError> {
    let memory = memory(&mut home.link(Spot::Live))?;
    let Some(limit) = memory.limit else { return Ok(None) };
    let is_short = limit.saturating_sub(memory.used) < home.settings.min_free_bytes;
    Ok(is_short.then(|| "Redis has less memory left below maxmemory than rebuild.min_free".to_owned()))
}

/// Of rows and index entries, by a sample of keys, and of lists of keys; `None`: the user may not ask.
fn size_of_copy(home: &Home, link: &mut Link) -> Result<Option<u64>, StoreError> {
    let Some(live) = home.described(Spot::Live)? else { return Ok(Some(0)) };
    let names = Names::new(&home.settings.redis, Spot::Live, live.rows);
    let books = format!("{}readside:", names.prefix).into_bytes();
    let keys: u64 = link.query(&redis::cmd("DBSIZE"))?;
    let (mut cursor, mut seen, mut ours) = (0, 0, Vec::new());
    loop {
        let (next, some) = link.scan("*", cursor, SAMPLE)?;
        seen += some.len() as u64;
        let is_ours = |key: &Vec<u8>| key.starts_with(names.rows.as_bytes()) && !key.starts_with(&books);
        ours.extend(some.into_iter().filter(is_ours));
        cursor = next;
        if cursor == 0 || seen >= SAMPLE as u64 {
            break;
        }
    }
    if ours.is_empty() {
        return Ok(Some(0));
    }
    let mut pipe = redis::pipe();
    for key in &ours {
        pipe.cmd("MEMORY").arg("USAGE").arg(key);
    }
    let listed = live.catalog.tables.iter().filter(|table| !table.prefixes.is_empty());
    for names in listed.map(|table| TableNames::new(&names, table)) {
        pipe.cmd("MEMORY").arg("USAGE").arg(names.keys);
    }
    let Ok(sizes) = link.pipe::<Vec<Option<u64>>>(&pipe) else { return Ok(None) };
    let (sizes, listed) = sizes.split_at(ours.len().min(sizes.len()));
    let sizes: u64 = sizes.iter().flatten().map(|bytes| bytes + PER_KEY).sum();
    let listed: u64 = listed.iter().flatten().sum();
    Ok(Some((sizes as f64 * keys as f64 / seen as f64) as u64 + listed))
}

fn enough(copy: u64, free: u64, min_free: u64) -> Result<(), String> {
    let needed = ((copy as f64 * (1.0 + MARGIN)) as u64).saturating_add(min_free);
    if free >= needed {
        return Ok(());
    }
    let mib = |bytes: u64| bytes.div_ceil(1 << 20);
    Err(format!(
        "Redis has {} MiB left below maxmemory, and a second copy beside the live one ({} MiB) takes {} MiB: raise \
         maxmemory, or lower rebuild.min_free",
        mib(free),
        mib(copy),
        mib(needed)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_copy_takes_what_the_first_does_with_a_margin() {
        let gib = 1 << 30;
        assert!(enough(gib, 2 * gib, 0).is_ok());
        let lack = enough(gib, gib, 64 << 20).unwrap_err();
        assert!(lack.contains("1024 MiB left") && lack.contains("takes 1293 MiB"), "{lack}");
        assert!(enough(0, 10 * gib, 10 * gib).is_ok());
        assert!(enough(0, 10 * gib - 1, 10 * gib).is_err(), "what is to stay free");
        assert!(enough(u64::MAX, u64::MAX, u64::MAX).is_ok(), "no overflow");
    }
}
