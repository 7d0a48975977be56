//! Whether the volume has room for a second copy.

use std::path::Path;

use rusqlite::Connection;

use super::error::from_io;
use super::owner;
use crate::store::StoreError;

/// What a second copy needs beyond the size of the first: trees are filled in another order.
const MARGIN: f64 = 0.2;
/// For the WAL of two writers.
const WAL_BYTES: u64 = 64 << 20;

/// `Err` inside: a sentence about what is missing.
pub(super) fn check(
    conn: &Connection,
    path: &Path,
    min_free_bytes: u64,
) -> Result<Result<(), String>, StoreError> {
    let pragma = |name: &str| conn.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    let page = pragma("page_size")?.max(0) as u64;
    let unused = pragma("freelist_count")?.max(0) as u64 * page;
    let used = (pragma("page_count")?.max(0) as u64 * page).saturating_sub(unused);
    Ok(enough(used, unused, free(path)?, min_free_bytes))
}

/// Bytes that this process may still fill on the volume.
pub(super) fn free(path: &Path) -> Result<u64, StoreError> {
    let directory = owner::directory_of(path);
    let stat = rustix::fs::statvfs(directory).map_err(|error| from_io(&error.into(), directory))?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

fn enough(used: u64, unused: u64, free: u64, min_free: u64) -> Result<(), String> {
    let grows = (used as f64 * (1.0 + MARGIN)) as u64;
    let needed = grows.saturating_sub(unused).saturating_add(WAL_BYTES).saturating_add(min_free);
    if free >= needed {
        return Ok(());
    }
    let mib = |bytes: u64| bytes.div_ceil(1 << 20);
    Err(format!(
        "the volume has {} MiB free, and a second copy beside the live one ({} MiB) takes {} MiB: make room, or \
         lower rebuild.min_free",
        mib(free),
        mib(used),
        mib(needed)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_copy_takes_what_the_first_does_with_a_margin() {
        let gib = 1 << 30;
        assert!(enough(gib, 0, 2 * gib, 0).is_ok());
        let lack = enough(gib, 0, gib, 0).unwrap_err();
        assert!(lack.contains("1024 MiB free") && lack.contains("takes 1293 MiB"), "{lack}");
        // What an earlier generation has left in the file is used again.
        assert!(enough(gib, 2 * gib, 100 << 20, 0).is_ok());
        assert!(enough(0, 0, 10 * gib, 10 * gib).is_err(), "what is to stay free");
        assert!(enough(u64::MAX, 0, u64::MAX, u64::MAX).is_ok(), "no overflow");
    }
}
