//! How many files and connections this process may hold open.

use std::io;

use rustix::process::{Resource, getrlimit, setrlimit};

/// Raises the soft limit of file descriptors to the hard one, and returns what it is then.
///
/// # Errors
/// `setrlimit(2)` fails.
pub fn raise_descriptor_limit() -> io::Result<u64> {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit)?;
    Ok(limit.current.unwrap_or(u64::MAX))
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
