//! How many files and connections this process may hold open.

use std::io;

use super::KernelError;

/// Raises the soft limit of file descriptors to the hard one, and says what it is then.
///
/// # Errors
/// The kernel refuses.
pub fn raise_descriptor_limit() -> Result<u64, KernelError> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: `limit` is a whole `rlimit` that outlives the call.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 {
        return Err(KernelError::Descriptors(io::Error::last_os_error()));
    }
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: as above; it is only read.
    if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) } != 0 {
        return Err(KernelError::Descriptors(io::Error::last_os_error()));
    }
    Ok(limit.rlim_cur)
}

#[cfg(test)]
mod tests {
    use super::raise_descriptor_limit;

    #[test]
    fn the_limit_is_raised_once() {
        let raised = raise_descriptor_limit().unwrap();
        assert!(raised > 0);
        assert_eq!(raise_descriptor_limit().unwrap(), raised);
    }
}
