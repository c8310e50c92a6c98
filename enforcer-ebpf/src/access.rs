//! Stage 4: the access lists, one LPM trie for all of them and both families.

use aya_ebpf::maps::lpm_trie::Key;
use enforcer_common::layout::{Access, AccessKey, Address};

use crate::maps::ACCESS;

/// A full key: the table's 32 bits and the address's 128.
const FULL: u32 = 160;

/// What `list` says of `address`, by its longest prefix that still holds.
#[inline(always)]
pub fn lookup(list: u32, address: &Address, now_ns: u64) -> Option<Access> {
    let key = Key::new(
        FULL,
        AccessKey {
            table: list,
            address: *address,
        },
    );
    ACCESS
        .get(&key)
        .filter(|entry| entry.expires_ns > now_ns)
        .copied()
}
