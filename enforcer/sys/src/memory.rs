//! Memory that the process has from the kernel and does not use.

use std::{io, ops::Deref, ptr, slice, sync::atomic::AtomicU64};

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

/// Lets go of the program's code and constants that only the start needed: whatever is used again comes back from the
/// file, sixteen pages at a time, and whatever is not leaves the process's resident memory.
pub fn forget_code() {
    // SAFETY: the function is called for each object while none is loaded or unloaded, and gets no data.
    unsafe { libc::dl_iterate_phdr(Some(forget_program), ptr::null_mut()) };
}

/// Forgets what is read-only of the first object, which is the program itself, and goes no further.
unsafe extern "C" fn forget_program(
    object: *mut libc::dl_phdr_info,
    _size: libc::size_t,
    _data: *mut libc::c_void,
) -> libc::c_int {
    const STOP: libc::c_int = 1;
    // SAFETY: the loader hands over an object that is there during the call, with so many headers.
    let (base, headers) = unsafe {
        let object = &*object;
        (
            object.dlpi_addr,
            slice::from_raw_parts(object.dlpi_phdr, object.dlpi_phnum.into()),
        )
    };
    for header in headers {
        // What can be written has been relocated: it is not in the file as it is in memory.
        if header.p_type != libc::PT_LOAD || header.p_flags & libc::PF_W != 0 {
            continue;
        }
        let start = base + header.p_vaddr;
        let slack = start % PAGE;
        // SAFETY: the pages are a private mapping of a file, and come back as they are there. Nobody in this process
        // writes to them; a debugger's or a uprobe's breakpoints are lost, which must be set anew.
        unsafe {
            libc::madvise(
                (start - slack) as *mut libc::c_void,
                (header.p_memsz + slack) as libc::size_t,
                libc::MADV_DONTNEED,
            );
        }
    }
    STOP
}

/// The smallest page that there is: segments begin at one.
const PAGE: u64 = 4096;

/// Words that are zero until they are written to, of which only those pages are in memory. An allocator's own zeroes may
/// be written ones.
#[derive(Debug)]
pub struct Words {
    start: ptr::NonNull<AtomicU64>,
    count: usize,
}

// SAFETY: the memory is this value's alone, and holds atomic words.
unsafe impl Send for Words {}
// SAFETY: as for `Send`.
unsafe impl Sync for Words {}

impl Words {
    /// `count` zeroes, which begin at a page.
    ///
    /// # Panics
    /// When `count` is zero, or the kernel has no addresses left for as many.
    pub fn zero(count: usize) -> Self {
        let bytes = count.checked_mul(size_of::<AtomicU64>());
        let bytes = bytes.filter(|bytes| (1..=isize::MAX.cast_unsigned()).contains(bytes));
        let Some(bytes) = bytes else {
            panic!("{count} words are none, or more than there can be");
        };
        // SAFETY: a new mapping touches no other.
        let start = unsafe {
            libc::mmap(
                ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        assert!(
            start != libc::MAP_FAILED,
            "no memory for {count} words: {}",
            io::Error::last_os_error()
        );
        match ptr::NonNull::new(start.cast()) {
            Some(start) => Self { start, count },
            None => unreachable!("the kernel maps nothing at zero unasked"),
        }
    }
}

impl Deref for Words {
    type Target = [AtomicU64];

    fn deref(&self) -> &[AtomicU64] {
        // SAFETY: the mapping is so long, begins at a page, is zero or what was written, and lives as long as this value.
        unsafe { slice::from_raw_parts(self.start.as_ptr(), self.count) }
    }
}

impl Drop for Words {
    fn drop(&mut self) {
        // SAFETY: nobody has a reference into it any more.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.count * size_of::<AtomicU64>()) };
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;

    #[test]
    fn words_are_zero_until_they_are_written() {
        let words = Words::zero(100_000);
        assert_eq!(words.len(), 100_000);
        words[77_777].store(7, Ordering::Relaxed);
        let sum: u64 = words.iter().map(|word| word.load(Ordering::Relaxed)).sum();
        assert_eq!(sum, 7);
    }

    #[test]
    fn code_that_was_forgotten_runs() {
        static CONSTANT: [u8; 5] = *b"still";
        forget_code();
        assert_eq!(
            format!("{} here", String::from_utf8_lossy(&CONSTANT)),
            "still here"
        );
    }
}
