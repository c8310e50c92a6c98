//! The packet sink: counts frames, and which IPv4 sources they claim to come from.

use aya_ebpf::{
    macros::map,
    maps::{Array, PerCpuArray},
    programs::XdpContext,
};

use crate::layout::SOURCES_SEEN;

const IPV4_ETHERTYPE: [u8; 2] = [0x08, 0x00];
const IPV4_SOURCE: usize = 14 + 12;

/// Frames that arrived: all, and those of IPv4. IPv6 also carries what the stack says by itself.
#[map]
static ARRIVED: PerCpuArray<u64> = PerCpuArray::with_max_entries(2, 0);
const ALL: u32 = 0;
const IPV4: u32 = 1;

/// One bit for each source, by its last 22 bits. Two processors may lose a bit to each other: veth
/// hands all frames of one sender to one.
#[map]
static SEEN: Array<u64> = Array::with_max_entries(SOURCES_SEEN / 64, 0);

#[inline(always)]
pub(crate) fn count(ctx: &XdpContext) {
    add(ALL);
    mark_source(ctx);
}

#[inline(always)]
fn add(which: u32) {
    if let Some(arrived) = ARRIVED.get_ptr_mut(which) {
        // SAFETY: this processor's own slot, and programs are not preempted by themselves.
        unsafe { *arrived += 1 };
    }
}

#[inline(always)]
fn mark_source(ctx: &XdpContext) {
    let start = ctx.data();
    if start + IPV4_SOURCE + 4 > ctx.data_end() {
        return;
    }
    // SAFETY: the offsets lie below the end just checked; byte arrays need no alignment.
    let (ethertype, source) = unsafe {
        (
            *((start + 12) as *const [u8; 2]),
            *((start + IPV4_SOURCE) as *const [u8; 4]),
        )
    };
    if ethertype != IPV4_ETHERTYPE {
        return;
    }
    add(IPV4);
    let source = u32::from_be_bytes(source) & (SOURCES_SEEN - 1);
    if let Some(word) = SEEN.get_ptr_mut(source / 64) {
        // SAFETY: the pointer comes from the map just now.
        unsafe { *word |= 1 << (source % 64) };
    }
}
