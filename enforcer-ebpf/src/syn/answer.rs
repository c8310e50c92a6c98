//! A SYN becomes the SYN-ACK that answers it, in its own frame: tags stay, both ends change places.

use aya_ebpf::{
    bindings::xdp_md,
    helpers::{bpf_xdp_adjust_tail, generated::bpf_check_mtu},
    programs::XdpContext,
};
use enforcer_common::layout::{Control, syn_option};

use super::options::Offer;
use crate::{
    answer::{SHORTEST_FRAME, Sum, family::Family, turn_link, word},
    frame::{Frame, Header},
    parse::{protocol, tcp},
};

/// The answer is in the frame.
pub const WRITTEN: u64 = 1;
const FAILED: u64 = 0;

/// A TCP header with nothing but the MSS, and one with everything.
const SHORT: usize = 24;
const LONG: usize = 40;
/// Bytes that a client may send before the stack has told it more: what is right for a small receive
/// buffer too. Twenty segments of 1,460.
const WINDOW: u16 = 29_200;
/// Nothing is told in finer steps, so that the low bits are free (`TSBITS`, `net/ipv4/syncookies.c`).
const STAMP_STEP: u32 = 1 << 6;
/// The stack's timestamps count milliseconds.
const NS_PER_TICK: u64 = 1_000_000;
/// The largest MSS that the stack tells, for either family.
const MOST_MSS: u32 = 65_475;

/// Writes the answer to the SYN whose IP header is at `start`.
#[inline(always)]
pub fn write<F: Family>(ctx: *mut xdp_md, control: &Control, start: usize, cookie: u32, now_ns: u64) -> u64 {
    let place = start + F::LENGTH;
    let offer = Offer::read(ctx, place);
    // Without timestamps that come back as they were sent, the stack learns of no other option.
    let with_options = offer.timestamps() && control.syn_options & syn_option::TIMESTAMPS != 0;
    let length = if with_options { LONG } else { SHORT };
    let Some(mss) = own_mss::<F>(ctx) else {
        return FAILED;
    };
    let needed = place + length;
    let wanted = if needed < SHORTEST_FRAME {
        SHORTEST_FRAME
    } else {
        needed
    };
    let length_now = Frame::of_xdp(&XdpContext::new(ctx)).len();
    let change = (wanted as i32).wrapping_sub(length_now as i32);
    // SAFETY: the context is valid; no pointer into the packet from before is used after.
    if unsafe { bpf_xdp_adjust_tail(ctx, change) } != 0 {
        return FAILED;
    }
    let frame = Frame::of_xdp(&XdpContext::new(ctx));
    let (Some(link), Some(ip), Some(segment)) = (
        frame.header::<12>(0),
        F::header(&frame, start),
        frame.header::<SHORT>(place),
    ) else {
        return FAILED;
    };
    turn_link(link);
    let sum = F::turn(ip, protocol::TCP, length as u16);
    if !with_options {
        segment.fill(sum, cookie, mss, length);
        return WRITTEN;
    }
    let Some(rest) = frame.header::<{ LONG - SHORT }>(place + SHORT) else {
        return FAILED;
    };
    let options = accepted(offer, control, now_ns);
    rest.put_u32::<0>(options[0]);
    rest.put_u32::<4>(options[1]);
    rest.put_u32::<8>(options[2]);
    rest.put_u32::<12>(options[3]);
    let sum = sum
        .add(options[0])
        .add(options[1])
        .add(options[2])
        .add(options[3]);
    segment.fill(sum, cookie, mss, length);
    WRITTEN
}

/// What this node takes in one segment: what its interface does, less the headers.
#[inline(always)]
fn own_mss<F: Family>(ctx: *mut xdp_md) -> Option<u16> {
    let mut mtu = 0;
    // SAFETY: the context is valid, and the number is written by the call. The answer itself is about
    // the SYN's length, which is of no interest.
    unsafe { bpf_check_mtu(ctx.cast(), 0, &raw mut mtu, 0, 0) };
    let headers = F::LENGTH as u32 + 20;
    if mtu <= headers {
        return None;
    }
    let mss = mtu - headers;
    Some(if mss > MOST_MSS { MOST_MSS } else { mss } as u16)
}

/// The options besides the MSS: those that both sides have, and in the timestamp what the client's were.
#[inline(always)]
fn accepted(offer: Offer, control: &Control, now_ns: u64) -> [u32; 4] {
    let own_scale = control.syn_options & syn_option::SCALE;
    let scaled = own_scale != syn_option::NO_SCALE && offer.scale() != syn_option::NO_SCALE;
    let sack = control.syn_options & syn_option::SACK != 0 && offer.sack();
    let told = if scaled {
        offer.scale()
    } else {
        syn_option::NO_SCALE
    };
    let told = (told | if sack { syn_option::SACK } else { 0 }) as u32;
    let now = (now_ns / NS_PER_TICK) as u32;
    let stamp = now & !(STAMP_STEP - 1) | told;
    let stamp = if stamp > now {
        stamp.wrapping_sub(STAMP_STEP)
    } else {
        stamp
    };
    [
        if sack {
            word([4, 2, 8, 10])
        } else {
            word([1, 1, 8, 10])
        },
        stamp.to_be(),
        offer.stamp(),
        if scaled {
            word([1, 3, 3, own_scale as u8])
        } else {
            word([1, 1, 1, 1])
        },
    ]
}

impl Header<SHORT> {
    /// Writes the header of `length` bytes; `sum` is of the pseudo-header and of what follows.
    #[inline(always)]
    fn fill(self, sum: Sum, cookie: u32, mss: u16, length: usize) {
        let [high, low] = mss.to_be_bytes();
        let [window_high, window_low] = WINDOW.to_be_bytes();
        let flags = word([
            (length as u8 / 4) << 4,
            tcp::SYN | tcp::ACK,
            window_high,
            window_low,
        ]);
        let ports = self.u32::<0>().rotate_left(16);
        let sequence = cookie.to_be();
        let acknowledged = u32::from_be(self.u32::<4>()).wrapping_add(1).to_be();
        let mss = word([2, 4, high, low]);
        let sum = sum.add(ports).add(sequence).add(acknowledged).add(flags).add(mss);
        self.put_u32::<0>(ports);
        self.put_u32::<4>(sequence);
        self.put_u32::<8>(acknowledged);
        self.put_u32::<12>(flags);
        self.put_u16::<16>(sum.checksum());
        self.put_u16::<18>(0);
        self.put_u32::<20>(mss);
    }
}
