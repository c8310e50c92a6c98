//! Stage 7, before the verdict: the sender of what is dropped is told so, where a rule says `reset`. TCP gets
//! a reset, all else an ICMP error, in the packet's own frame and out of the interface that it came in by.
//! `docs/adr/0013-telling-the-sender.md` says why so.
//!
//! Two global functions, so that the verifier looks at each once: one says whether there is to be an answer,
//! the other writes it. What happens is told to people between them, while the packet is still there.

mod segment;
mod unreachable;

use aya_ebpf::{bindings::xdp_md, macros::map, maps::PerCpuArray, programs::XdpContext};
use enforcer_common::layout::{RESET_BURST_NS, RESET_SPACING_NS};

use crate::{
    answer::family::{Family, Ipv4, Ipv6},
    atomic::Cell,
    frame::{Frame, Header},
    maps::CONTROL,
    parse::{ethernet, protocol, tcp},
};

/// The answer is in the frame.
const WRITTEN: u64 = 1;
const FAILED: u64 = 0;

/// When this CPU's next answer is due, in the long run.
#[map]
static RESET_GATES: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// Echo requests: all of ICMP that is answered. Errors never are (RFC 1122, 3.2.2; RFC 4443, 2.4).
const ECHO_REQUEST: u8 = 8;
const ECHO_REQUEST_V6: u8 = 128;

/// Bytes of the transport header that an error quotes at least (RFC 792).
const LEAST_QUOTED: usize = 8;

/// The group bit of an Ethernet address, as the first byte has it: multicast and broadcast (IEEE 802).
const GROUP: u8 = 1;

/// 1 if the packet is to be answered now: it is one that may be, and this CPU has answers left. They are
/// taken as from a token bucket.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn enforcer_reset_due(ctx: *mut xdp_md, now_ns: u64) -> u64 {
    let Some(next) = RESET_GATES.get_ptr_mut(0) else {
        return 0;
    };
    // SAFETY: a per-CPU map's value of eight bytes.
    let next = unsafe { Cell::new(next) };
    let mut at = next.read();
    let most = now_ns.saturating_add(RESET_BURST_NS);
    // No answer has gone so far: whoever tells the time has turned it back.
    if at > most.saturating_add(RESET_SPACING_NS) {
        at = now_ns;
    }
    if at > most {
        return 0;
    }
    let frame = Frame::of_xdp(&XdpContext::new(ctx));
    let Some(control) = CONTROL.get(0) else {
        return 0;
    };
    let may = match ethernet::parse(&frame, control.zero) {
        Ok((ethernet::IPV4, start)) => may_be_answered::<Ipv4>(&frame, start),
        Ok((ethernet::IPV6, start)) => may_be_answered::<Ipv6>(&frame, start),
        _ => false,
    };
    if !may {
        return 0;
    }
    let from = if at > now_ns { at } else { now_ns };
    next.put_local(from.saturating_add(RESET_SPACING_NS));
    1
}

/// Turns the packet into its answer; whether it did.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn enforcer_reset(ctx: *mut xdp_md) -> u64 {
    let frame = Frame::of_xdp(&XdpContext::new(ctx));
    let Some(control) = CONTROL.get(0) else {
        return FAILED;
    };
    match ethernet::parse(&frame, control.zero) {
        Ok((ethernet::IPV4, start)) => write::<Ipv4>(ctx, &frame, start),
        Ok((ethernet::IPV6, start)) => write::<Ipv6>(ctx, &frame, start),
        _ => FAILED,
    }
}

/// Packets that are whole, between two hosts, with nothing between the IP and the transport header, and no
/// answers themselves.
#[inline(always)]
fn may_be_answered<F: Family>(frame: &Frame, start: usize) -> bool {
    let (Some(ip), Some(station)) = (F::header(frame, start), frame.header::<1>(0)) else {
        return false;
    };
    let Some(kind) = F::plain_protocol(ip) else {
        return false;
    };
    if station.u8::<0>() & GROUP != 0 || !F::is_between_hosts(ip) || F::total(ip) < F::LENGTH + LEAST_QUOTED {
        return false;
    }
    let place = start + F::LENGTH;
    let first = || frame.header::<1>(place).map(Header::u8::<0>);
    match kind {
        protocol::TCP => frame
            .header::<14>(place)
            .is_some_and(|segment| segment.u8::<13>() & tcp::RST == 0),
        protocol::ICMP => first() == Some(ECHO_REQUEST),
        protocol::ICMPV6 => first() == Some(ECHO_REQUEST_V6),
        _ => true,
    }
}

#[inline(always)]
fn write<F: Family>(ctx: *mut xdp_md, frame: &Frame, start: usize) -> u64 {
    match F::header(frame, start).and_then(F::plain_protocol) {
        Some(protocol::TCP) => segment::write::<F>(ctx, frame, start),
        Some(_) => unreachable::write::<F>(ctx, frame, start),
        None => FAILED,
    }
}
