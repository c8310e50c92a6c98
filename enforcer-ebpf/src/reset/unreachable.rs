//! A packet goes back within the ICMP error that says it is administratively prohibited (RFC 1812, 5.2.7.1;
//! RFC 4443, 3.1).

use aya_ebpf::{
    bindings::xdp_md,
    helpers::{bpf_xdp_adjust_head, bpf_xdp_adjust_tail},
    programs::XdpContext,
};

use super::{FAILED, WRITTEN};
use crate::{
    answer::{Sum, family::Family, turn_link, word},
    frame::Frame,
    parse::protocol,
};

/// An ICMP error's own header.
const LENGTH: usize = 8;
/// Words of the packet that are quoted, at most: room for either IP header and as much again. With that an
/// answer is at most 28 bytes longer than what it answers over IPv4, and 48 over IPv6.
const MOST_WORDS: usize = 32;

/// Writes the error about the packet whose IP header is at `start`.
///
/// The packet stays where it is and becomes the quotation: the frame grows at its head.
#[inline(always)]
pub fn write<F: Family>(ctx: *mut xdp_md, frame: &Frame, start: usize) -> u64 {
    let Some(ip) = F::header(frame, start) else {
        return FAILED;
    };
    let shift = F::LENGTH + LENGTH;
    let words = if F::total(ip) / 4 < MOST_WORDS {
        F::total(ip) / 4
    } else {
        MOST_WORDS
    };
    let change = ((start + words * 4) as i32).wrapping_sub(frame.len() as i32);
    // SAFETY: the context is valid; no pointer into the packet from before is used after.
    let moved =
        unsafe { bpf_xdp_adjust_tail(ctx, change) == 0 && bpf_xdp_adjust_head(ctx, -(shift as i32)) == 0 };
    if !moved {
        return FAILED;
    }
    let frame = Frame::of_xdp(&XdpContext::new(ctx));
    let Some(quoted) = sum_of(&frame, start + shift, words) else {
        return FAILED;
    };
    let (Some(ip), Some(old), Some(error)) = (
        F::header(&frame, start),
        F::header(&frame, start + shift),
        frame.header::<LENGTH>(start + F::LENGTH),
    ) else {
        return FAILED;
    };
    if copy_link(&frame, shift, start).is_none() {
        return FAILED;
    }
    F::copy_addresses(old, ip);
    let pseudo = F::turn(ip, F::ICMP, (LENGTH + words * 4) as u16);
    // ICMP over IPv4 is summed without one.
    let sum = if F::ICMP == protocol::ICMPV6 {
        pseudo
    } else {
        Sum::of(&[])
    };
    let [kind, code] = F::PROHIBITED;
    let head = word([kind, code, 0, 0]);
    error.put_u32::<0>(head);
    error.put_u32::<4>(0);
    error.put_u16::<2>(sum.add(head).plus(quoted).checksum());
    WRITTEN
}

/// Brings the link header of `length` bytes, 14 to 22, from `from` to the front, turned round.
#[inline(always)]
fn copy_link(frame: &Frame, from: usize, length: usize) -> Option<()> {
    let (old, new) = (frame.header::<12>(from)?, frame.header::<12>(0)?);
    new.put_u64::<0>(old.u64::<0>());
    new.put_u32::<8>(old.u32::<8>());
    turn_link(new);
    // The type, behind two tags at most.
    for pair in 6..11 {
        if pair * 2 >= length {
            break;
        }
        let pair_of = frame.header::<2>(from + pair * 2)?.u16::<0>();
        frame.header::<2>(pair * 2)?.put_u16::<0>(pair_of);
    }
    Some(())
}

/// The sum of `words` words from `from` on.
#[inline(always)]
fn sum_of(frame: &Frame, from: usize, words: usize) -> Option<Sum> {
    let mut sum = Sum::of(&[]);
    for at in 0..MOST_WORDS {
        if at >= words {
            break;
        }
        sum = sum.add(frame.header::<4>(from + at * 4)?.u32::<0>());
    }
    Some(sum)
}
