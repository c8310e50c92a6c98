//! Faults on purpose, for tests: a part hangs or panics where it would say that it makes progress.
//!
//! In programs that are compiled with debug assertions alone, and there only if `ENFORCER_FAULTS` names a folder: a file in it
//! that is called like a part and says `hang` or `panic` has the part do so.

/// Where the part `name` hangs or panics, if it is to.
#[cfg(not(debug_assertions))]
pub fn point(_name: &str) {}

/// Where files of that kind are read: by the name `read-KIND`.
pub fn reading(_kind: &str) {
    #[cfg(debug_assertions)]
    point(&format!("read-{_kind}"));
}

/// Where the part `name` hangs or panics, if it is to.
#[cfg(debug_assertions)]
pub fn point(name: &str) {
    use std::{path::PathBuf, sync::LazyLock, thread, time::Duration};

    static FOLDER: LazyLock<Option<PathBuf>> =
        LazyLock::new(|| std::env::var_os("ENFORCER_FAULTS").map(PathBuf::from));
    let Some(folder) = &*FOLDER else { return };
    match std::fs::read_to_string(folder.join(name)) {
        Ok(fault) if fault.trim() == "panic" => panic!("a fault on purpose"),
        Ok(fault) if fault.trim() == "hang" => loop {
            thread::sleep(Duration::from_secs(3600));
        },
        _ => {}
    }
}
