//! What a scenario needs to run at all, and how it says so when it cannot.

use crate::sys;

/// Whether a scenario that needs root may run. If not, it has printed why.
///
/// # Panics
/// If `ENFORCER_NO_SKIP=1` forbids skipping, so that a skip is never taken for a pass.
#[must_use]
pub fn root_or_skip() -> bool {
    if sys::is_root() {
        return true;
    }
    assert!(
        std::env::var_os("ENFORCER_NO_SKIP").is_none_or(|value| value != "1"),
        "needs root, and ENFORCER_NO_SKIP=1 forbids to skip: run the tests as root"
    );
    eprintln!("skipped: needs root");
    false
}

/// Whether this process may make namespaces.
#[must_use]
pub fn is_root() -> bool {
    sys::is_root()
}
