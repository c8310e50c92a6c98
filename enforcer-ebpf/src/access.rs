//! Stage 4: the access lists, one LPM trie for all of them and both families.

use aya_ebpf::maps::lpm_trie::Key;
use enforcer_common::{
    layout::{Access, AccessKey, Address, IPV4_LIST},
    presence,
};

use crate::{
    maps::{ACCESS, PRESENCE},
    parse::is_ipv4,
};

/// A full key: the table's 32 bits and the address's 128.
const FULL: u32 = 160;

/// Entries that have ended, one within the other, behind which one that holds is still found.
const ENDED: usize = 2;

/// What `list` says of `address`, by its longest prefix that still holds.
#[inline(always)]
pub fn lookup(list: u32, address: &Address, now_ns: u64) -> Option<Access> {
    if !may_hold(address) {
        return None;
    }
    let table = if is_ipv4(address) { list | IPV4_LIST } else { list };
    let mut key = Key::new(
        FULL,
        AccessKey {
            table,
            address: *address,
        },
    );
    for _ in 0..=ENDED {
        let entry = ACCESS.get(&key)?;
        if entry.expires_ns > now_ns {
            return Some(*entry);
        }
        key = Key::new(
            u32::from(entry.prefix).saturating_sub(1),
            AccessKey {
                table,
                address: *address,
            },
        );
    }
    None
}

/// Whether any list may have anything to say of `address`.
#[inline(always)]
fn may_hold(address: &Address) -> bool {
    let number = presence::number(address);
    PRESENCE
        .get(number >> 6)
        .is_some_and(|word| word >> (number & 63) & 1 != 0)
}
