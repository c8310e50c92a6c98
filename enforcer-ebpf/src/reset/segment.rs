//! A TCP segment becomes the reset that answers it, as if there were no connection (RFC 9293, 3.10.7.1).

use aya_ebpf::{bindings::xdp_md, helpers::bpf_xdp_adjust_tail, programs::XdpContext};

use super::{FAILED, WRITTEN};
use crate::{
    answer::{SHORTEST_FRAME, family::Family, turn_link, word},
    frame::{Frame, Header},
    parse::{protocol, tcp},
};

/// A TCP header without options.
const LENGTH: usize = 20;

/// Writes the reset that answers the segment whose IP header is at `start`. It is never longer than that.
#[inline(always)]
pub fn write<F: Family>(ctx: *mut xdp_md, frame: &Frame, start: usize) -> u64 {
    let place = start + F::LENGTH;
    let (Some(ip), Some(segment)) = (F::header(frame, start), frame.header::<LENGTH>(place)) else {
        return FAILED;
    };
    let reset = Reset::of(segment, F::total(ip).wrapping_sub(F::LENGTH));
    let needed = place + LENGTH;
    let length_now = frame.len();
    let wanted = if needed >= SHORTEST_FRAME {
        needed
    } else if length_now < SHORTEST_FRAME {
        length_now
    } else {
        SHORTEST_FRAME
    };
    // SAFETY: the context is valid; no pointer into the packet from before is used after.
    if unsafe { bpf_xdp_adjust_tail(ctx, (wanted as i32).wrapping_sub(length_now as i32)) } != 0 {
        return FAILED;
    }
    let frame = Frame::of_xdp(&XdpContext::new(ctx));
    let (Some(link), Some(ip), Some(segment)) = (
        frame.header::<12>(0),
        F::header(&frame, start),
        frame.header::<LENGTH>(place),
    ) else {
        return FAILED;
    };
    turn_link(link);
    let sum = F::turn(ip, protocol::TCP, LENGTH as u16);
    let ports = segment.u32::<0>().rotate_left(16);
    let flags = word([(LENGTH as u8 / 4) << 4, reset.flags, 0, 0]);
    let sum = sum
        .add(ports)
        .add(reset.sequence)
        .add(reset.acknowledged)
        .add(flags);
    segment.put_u32::<0>(ports);
    segment.put_u32::<4>(reset.sequence);
    segment.put_u32::<8>(reset.acknowledged);
    segment.put_u32::<12>(flags);
    segment.put_u16::<16>(sum.checksum());
    segment.put_u16::<18>(0);
    pad(&frame, needed);
    WRITTEN
}

/// What a reset says, as it is to lie there.
struct Reset {
    sequence: u32,
    acknowledged: u32,
    flags: u8,
}

impl Reset {
    /// Of a segment of `length` bytes, header included.
    #[inline(always)]
    fn of(segment: Header<LENGTH>, length: usize) -> Self {
        let flags = segment.u8::<13>();
        if flags & tcp::ACK != 0 {
            return Self {
                sequence: segment.u32::<8>(),
                acknowledged: 0,
                flags: tcp::RST,
            };
        }
        let header = u32::from(segment.u8::<12>() >> 4) * 4;
        let ends = u32::from(flags & tcp::SYN != 0) + u32::from(flags & tcp::FIN != 0);
        let taken = (length as u32).wrapping_sub(header).wrapping_add(ends);
        Self {
            sequence: 0,
            acknowledged: u32::from_be(segment.u32::<4>()).wrapping_add(taken).to_be(),
            flags: tcp::RST | tcp::ACK,
        }
    }
}

/// Nothing of the segment is left behind the reset in a frame that is padded: up to three pairs of bytes.
#[inline(always)]
fn pad(frame: &Frame, from: usize) {
    for pair in 0..3 {
        if let Some(rest) = frame.header::<2>(from + 2 * pair) {
            rest.put_u16::<0>(0);
        }
    }
}
