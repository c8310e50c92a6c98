//! Memory that the process has from the kernel and does not use.

use std::io;

/// Keeps the process from having huge pages, of which one that is touched counts whole: an idle agent would have four
/// times the memory. Pages that are there stay as they are (`PR_SET_THP_DISABLE`, Linux 3.15).
///
/// # Errors
/// The kernel has no huge pages to refuse.
pub fn small_pages() -> io::Result<()> {
    const YES: libc::c_ulong = 1;
    const UNUSED: libc::c_ulong = 0;
    // SAFETY: the call reads numbers only, and a kernel that does not know it says so.
    match unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, YES, UNUSED, UNUSED, UNUSED) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Gives back what the allocator keeps of the calling thread's memory, and of that of threads that have ended.
pub fn give_back() {
    // SAFETY: any thread may call it at any time; it touches nothing that is in use.
    unsafe { libmimalloc_sys::mi_collect(true) }
}
