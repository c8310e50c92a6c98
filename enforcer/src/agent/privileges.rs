//! Capabilities: the agent keeps what it needs while it runs and drops the rest at start.

use caps::{CapSet, Capability, CapsHashSet};
use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

/// What a running agent needs: to write maps and load programs, to attach them, to read their
/// counters, and to listen on low ports.
const NEEDED: [Capability; 4] = [
    Capability::CAP_BPF,
    Capability::CAP_NET_ADMIN,
    Capability::CAP_PERFMON,
    Capability::CAP_NET_BIND_SERVICE,
];

/// Has the process leave no dump of its memory, which holds keys and tokens, and lets no other process of its user look
/// into it: no core files, no `ptrace`, no `/proc/PID/mem`. What `/proc/self` shows stays readable to the process itself,
/// and to root.
///
/// # Errors
/// The kernel refuses.
pub fn forbid_dumps() -> rustix::io::Result<()> {
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    setrlimit(Resource::Core, none)?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)
}

/// Drops all capabilities of this thread that are not needed, for it and for all threads that it
/// starts. Must be called before any other thread is there but the log's, which does the same for itself.
///
/// # Errors
/// The kernel refuses.
pub fn drop_unneeded() -> Result<(), caps::errors::CapsError> {
    let kept: Vec<String> = reduce()?.iter().map(ToString::to_string).collect();
    tracing::info!(kept = kept.join(" "), "capabilities");
    Ok(())
}

/// The same for a thread that was started before, in silence.
pub fn drop_own_privileges() {
    if let Err(error) = reduce() {
        tracing::warn!(%error, "a thread keeps its capabilities");
    }
}

fn reduce() -> Result<CapsHashSet, caps::errors::CapsError> {
    let permitted = caps::read(None, CapSet::Permitted)?;
    let keep: CapsHashSet = NEEDED
        .into_iter()
        .filter(|needed| permitted.contains(needed))
        .collect();
    for bounded in caps::read(None, CapSet::Bounding)? {
        // Without CAP_SETPCAP the bounding set stays; what is not permitted is out of reach all the same.
        if !keep.contains(&bounded) && caps::has_cap(None, CapSet::Effective, Capability::CAP_SETPCAP)? {
            caps::drop(None, CapSet::Bounding, bounded)?;
        }
    }
    caps::clear(None, CapSet::Ambient)?;
    caps::set(None, CapSet::Effective, &keep)?;
    caps::set(None, CapSet::Permitted, &keep)?;
    caps::set(None, CapSet::Inheritable, &CapsHashSet::new())?;
    Ok(keep)
}

#[cfg(test)]
mod tests {
    use rustix::process::{dumpable_behavior, getrlimit};

    use super::*;

    #[test]
    fn l11_no_dump_is_left_and_the_process_still_knows_itself() {
        forbid_dumps().unwrap();
        assert_eq!(dumpable_behavior().unwrap(), DumpableBehavior::NotDumpable);
        assert_eq!(getrlimit(Resource::Core).current, Some(0));
        assert_eq!(getrlimit(Resource::Core).maximum, Some(0));
        for own in ["/proc/self/ns/net", "/proc/self/status", "/proc/self/maps"] {
            std::fs::metadata(own).unwrap();
        }
        assert!(std::fs::read_dir("/proc/self/fd").unwrap().count() > 0);
    }
}
