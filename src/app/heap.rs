//! What the process keeps of the memory that it has used. Only glibc is told; other allocators have
//! their own ways.

use std::time::Duration;

/// How long after the start-up gate has opened the last buffers of the start are free.
const AFTER_START: Duration = Duration::from_secs(2);

/// glibc gives each thread a heap of its own, which grows resident memory by what each keeps back.
/// Two are enough for one thread that allocates and one that frees. Without a fixed threshold it also
/// learns to keep every large buffer; this one is above those that fetches are unpacked into, because a
/// mapping of its own for each costs more than it saves. To be called before there is another thread.
pub fn bound() {
    #[cfg(target_env = "gnu")]
    // SAFETY: called before any other thread exists; a refusal changes nothing.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 2);
        libc::mallopt(libc::M_MMAP_THRESHOLD, 1 << 20);
    }
}

/// Gives back what only the start needed: batches are smaller from then on.
pub async fn give_back_after_start() {
    tokio::time::sleep(AFTER_START).await;
    #[cfg(target_env = "gnu")]
    // SAFETY: thread-safe; it only returns pages that nobody uses.
    unsafe {
        libc::malloc_trim(0);
    }
}
