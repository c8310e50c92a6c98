//! Stage 4: the access lists, one LPM trie for all of them and both families.

use aya_ebpf::maps::lpm_trie::Key;
use enforcer_common::{
    layout::{Access, AccessKey, Address, IPV4_LIST},
    presence,
};

use crate::{
    maps::{ACCESS, PRESENCE},
    parse::{
        address::{address, words},
        is_ipv4,
    },
};

/// A full key: the table's 32 bits and the address's 128.
const FULL: u32 = 160;

/// Entries that have ended, one within the other, behind which one that holds is still found.
const ENDED: usize = 2;

/// What a list says of an address.
#[derive(Clone, Copy)]
pub struct Found {
    /// See `layout::Access::reason`.
    pub reason: u32,
    /// See `layout::access_flag`.
    pub flags: u16,
    /// See `layout::Access::rules`.
    pub rules: u32,
}

impl Found {
    /// In every number that stands for one, so that none is zero.
    const ANY: u64 = 1 << 24;

    /// As a global function gives it.
    #[inline(always)]
    fn number(entry: &Access) -> u64 {
        u64::from(entry.rules) << 32
            | Self::ANY
            | u64::from(entry.flags & 0xff) << 8
            | u64::from(entry.reason as u8)
    }

    /// What [`Self::number`] gave; zero is nothing.
    #[inline(always)]
    fn from(number: u64) -> Option<Self> {
        (number != 0).then_some(Self {
            reason: number as u32 & 0xff,
            flags: (number >> 8) as u16 & 0xff,
            rules: (number >> 32) as u32,
        })
    }
}

/// What `list` says of `address`, by its longest prefix that still holds.
#[inline(always)]
pub fn lookup(list: u32, address: &Address, now_ns: u64) -> Option<Found> {
    if !may_hold(address) {
        return None;
    }
    let [high, low] = words(address);
    Found::from(enforcer_access(u64::from(list), high, low, now_ns))
}

/// The same as a number, once it is known that some list has something to say of an address around there. A
/// global function: the key takes up a stack that is short, and few packets come here.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn enforcer_access(list: u64, high: u64, low: u64, now_ns: u64) -> u64 {
    let (list, address) = (list as u32, address([high, low]));
    let table = if is_ipv4(&address) { list | IPV4_LIST } else { list };
    let mut key = Key::new(FULL, AccessKey { table, address });
    for _ in 0..=ENDED {
        let Some(entry) = ACCESS.get(&key) else {
            return 0;
        };
        if entry.expires_ns > now_ns {
            return Found::number(entry);
        }
        key = Key::new(
            u32::from(entry.prefix).saturating_sub(1),
            AccessKey { table, address },
        );
    }
    0
}

/// Whether any list may have anything to say of `address`.
#[inline(always)]
pub fn may_hold(address: &Address) -> bool {
    let number = presence::number(address);
    PRESENCE
        .get(number >> 6)
        .is_some_and(|word| word >> (number & 63) & 1 != 0)
}
