//! Capabilities: the agent keeps what it needs while it runs and drops the rest at start.

use caps::{CapSet, Capability, CapsHashSet};

/// What a running agent needs: to write maps and load programs, to attach them, to read their
/// counters, and to listen on low ports.
const NEEDED: [Capability; 4] = [
    Capability::CAP_BPF,
    Capability::CAP_NET_ADMIN,
    Capability::CAP_PERFMON,
    Capability::CAP_NET_BIND_SERVICE,
];

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
