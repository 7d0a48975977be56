//! What the process keeps of the memory that it has used. Of allocators only glibc's is told; others have
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

/// Lets go of the pages of the program itself that nobody has written to, most of which only the start
/// needed: readers of configurations, formats that are not in use, relocations. They are the kernel's page
/// cache, from which those that are needed again come back at the price of a minor fault.
pub fn let_go_of_code() {
    unsafe extern "C" fn of_program(
        object: *mut libc::dl_phdr_info,
        _: libc::size_t,
        _: *mut libc::c_void,
    ) -> libc::c_int {
        // SAFETY: the loader's description of an object that is loaded, valid during the call. Only whole
        // segments that are mapped without the right to write are let go of, so that nothing is lost.
        unsafe {
            let object = &*object;
            for nth in 0..usize::from(object.dlpi_phnum) {
                let segment = &*object.dlpi_phdr.add(nth);
                if segment.p_type == libc::PT_LOAD && segment.p_flags & libc::PF_W == 0 {
                    let page = libc::sysconf(libc::_SC_PAGESIZE).max(1) as u64;
                    let from = (object.dlpi_addr + segment.p_vaddr) / page * page;
                    let to = (object.dlpi_addr + segment.p_vaddr + segment.p_memsz).next_multiple_of(page);
                    libc::madvise(from as *mut libc::c_void, (to - from) as usize, libc::MADV_DONTNEED);
                }
            }
        }
        // The first one is the program; libraries are left alone.
        1
    }
    // SAFETY: the function keeps nothing of what it is given.
    unsafe {
        libc::dl_iterate_phdr(Some(of_program), std::ptr::null_mut());
    }
}

/// Gives back what only the start needed: batches are smaller from then on.
pub async fn give_back_after_start() {
    tokio::time::sleep(AFTER_START).await;
    let_go_of_code();
    #[cfg(target_env = "gnu")]
    // SAFETY: thread-safe; it only returns pages that nobody uses.
    unsafe {
        libc::malloc_trim(0);
    }
}
