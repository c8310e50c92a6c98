//! Ending the process at once.

/// Ends the process with an exit code, without a last word of any thread: what is buffered is lost, and nothing that
/// hangs is waited for. A thread inside a write to a disk that does not answer still holds the process back, for the kernel
/// ends no thread there.
pub fn end_now(code: i32) -> ! {
    // SAFETY: the call takes a number and does not return.
    unsafe { libc::_exit(code) }
}

/// Gives the calling thread a network namespace of its own, which ends with the thread: for tests.
///
/// # Errors
/// `unshare(2)` fails: it takes root.
pub fn enter_new_network() -> std::io::Result<()> {
    // SAFETY: a flag; no descriptor or memory of other threads is concerned.
    match unsafe { libc::unshare(libc::CLONE_NEWNET) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}
