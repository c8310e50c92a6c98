//! The packet source. It is run with live frames (`BPF_F_TEST_XDP_LIVE_FRAMES`), whose buffers come
//! back as the last receiver left them: so the whole header is written anew for each packet.

use aya_ebpf::{
    bindings::xdp_action::XDP_REDIRECT, helpers::bpf_redirect, macros::map, maps::Array, programs::XdpContext,
};

use crate::layout::{CHECKSUM_ICMPV6, CHECKSUM_TCP, CHECKSUM_UDP, HEADER_V4, HEADER_V6, Plan};

const IPV4_CHECKSUM: usize = 14 + 10;
const IPV4_SOURCE: usize = 14 + 12;
const IPV4_TRANSPORT: usize = 14 + 20;
/// Bytes 4 to 7 of the source address.
const IPV6_SOURCE_WORD: usize = 14 + 8 + 4;
const IPV6_TRANSPORT: usize = 14 + 40;

/// What to send, and what to send in turn with it. Written by the lab before the first run.
#[map]
static PLAN: Array<Plan> = Array::with_max_entries(2, 0);

/// How many packets were sent. One flood, one thread: a plain increment is enough.
#[map]
static SENT: Array<u64> = Array::with_max_entries(1, 0);

/// Writes the next packet into the frame and sends it. `None`: the frame is too short for its family.
#[inline(always)]
pub(crate) fn send(ctx: &XdpContext) -> Option<u32> {
    let mut plan = PLAN.get(0)?;
    let sent = SENT.get_ptr_mut(0)?;
    // SAFETY: the pointer comes from the map just now, and only this flood's one thread uses it.
    let mut sequence = unsafe {
        *sent += 1;
        *sent - 1
    };
    if plan.alternates != 0 {
        plan = PLAN.get((sequence & 1) as u32)?;
        sequence >>= 1;
    }
    let source = plan
        .first_source
        .wrapping_add((sequence % u64::from(plan.sources.max(1))) as u32);
    if plan.family == 4 {
        write_v4(ctx, plan, sequence, source)?;
    } else {
        write_v6(ctx, plan, sequence, source)?;
    }
    // SAFETY: a helper without pointer arguments.
    let action = unsafe { bpf_redirect(plan.interface, 0) } as u32;
    (action == XDP_REDIRECT).then_some(action)
}

#[inline(always)]
fn write_v4(ctx: &XdpContext, plan: &Plan, sequence: u64, source: u32) -> Option<()> {
    let frame = writable::<HEADER_V4>(ctx)?;
    let ip_sum = checksum(plan.ip_sum + halves(source));
    // SAFETY: every offset is below `HEADER_V4`, which `writable` has checked against the frame's end.
    unsafe {
        copy_header(frame, &plan.header, HEADER_V4 / 8);
        put16(frame, IPV4_CHECKSUM, ip_sum);
        put16(frame, IPV4_SOURCE, (source >> 16) as u16);
        put16(frame, IPV4_SOURCE + 2, source as u16);
        write_transport(frame, IPV4_TRANSPORT, plan, sequence, source);
    }
    Some(())
}

#[inline(always)]
fn write_v6(ctx: &XdpContext, plan: &Plan, sequence: u64, source: u32) -> Option<()> {
    let frame = writable::<HEADER_V6>(ctx)?;
    // SAFETY: every offset is below `HEADER_V6`, which `writable` has checked against the frame's end.
    unsafe {
        copy_header(frame, &plan.header, HEADER_V6 / 8);
        put16(frame, IPV6_SOURCE_WORD, (source >> 16) as u16);
        put16(frame, IPV6_SOURCE_WORD + 2, source as u16);
        write_transport(frame, IPV6_TRANSPORT, plan, sequence, source);
    }
    Some(())
}

/// Writes the source port and the checksum of the segment that begins at `at`.
///
/// # Safety
/// `frame` has at least `at + 18` writable bytes.
#[inline(always)]
unsafe fn write_transport(frame: *mut u8, at: usize, plan: &Plan, sequence: u64, source: u32) {
    let mut sum = plan.transport_sum + halves(source);
    if plan.ports > 0 {
        let port = plan
            .first_port
            .wrapping_add((sequence % u64::from(plan.ports)) as u32) as u16;
        sum += u32::from(port);
        // SAFETY: as the caller promises.
        unsafe { put16(frame, at, port) };
    }
    let sum = checksum(sum);
    // SAFETY: as the caller promises; the largest offset is TCP's 16.
    unsafe {
        match plan.checksum {
            CHECKSUM_TCP => put16(frame, at + 16, sum),
            // RFC 768: zero means that there is no checksum, so a sum of zero is sent as its other form.
            CHECKSUM_UDP => put16(frame, at + 6, if sum == 0 { 0xffff } else { sum }),
            CHECKSUM_ICMPV6 => put16(frame, at + 2, sum),
            _ => {}
        }
    }
}

/// The start of the frame, if it has `N` bytes.
#[inline(always)]
fn writable<const N: usize>(ctx: &XdpContext) -> Option<*mut u8> {
    let start = ctx.data();
    (start + N <= ctx.data_end()).then_some(start as *mut u8)
}

/// # Safety
/// `frame` has at least `8 * words` writable bytes, and `words` is at most the header's length.
#[inline(always)]
unsafe fn copy_header(frame: *mut u8, header: &[u64; HEADER_V6 / 8], words: usize) {
    let frame = frame.cast::<u64>();
    for (at, word) in header.iter().take(words).enumerate() {
        // SAFETY: in bounds as the caller promises; frames begin at the page's headroom, which is
        // aligned to 8.
        unsafe { frame.add(at).write(*word) };
    }
}

/// # Safety
/// `frame` has at least `at + 2` writable bytes, and `at` is even.
#[inline(always)]
unsafe fn put16(frame: *mut u8, at: usize, value: u16) {
    // SAFETY: in bounds and aligned as the caller promises.
    unsafe { frame.add(at).cast::<u16>().write(value.to_be()) };
}

/// The two 16-bit words of `value`, summed.
#[inline(always)]
fn halves(value: u32) -> u32 {
    (value >> 16) + (value & 0xffff)
}

/// Folds a sum of 16-bit words into the Internet checksum (RFC 1071).
#[inline(always)]
fn checksum(sum: u32) -> u16 {
    let sum = (sum >> 16) + (sum & 0xffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    !(sum as u16)
}
