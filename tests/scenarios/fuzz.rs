//! The kernel's parser and a second one read the same of half a million random and mutated packets.

use anyhow::Result;
use lab::{fuzz, privilege::root_or_skip};

const PACKETS: u64 = 500_000;
const SEED: u64 = 20_231_114;
/// Of each kind, at least so many are among them: else nothing is shown about it.
const OF_EACH: u64 = 1_000;

#[test]
fn no_packet_is_read_otherwise_than_by_the_reference() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let outcome = fuzz::run(PACKETS, SEED, &mut |line| println!("{line}"))?;
    println!("{outcome}");
    for kind in [
        ("-", "not-ip"),
        ("-", "lifeline"),
        ("all", "truncated"),
        ("all", "malformed"),
        ("all", "martian"),
        ("all", "extension-headers"),
        ("all", "denied"),
        ("ports", "denied"),
    ] {
        let count = outcome.kinds.get(&kind).copied().unwrap_or_default();
        assert!(count >= OF_EACH, "{kind:?}: only {count}\n{outcome}");
    }
    Ok(())
}
