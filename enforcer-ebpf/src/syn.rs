//! Stage 6, SYN defence: SYNs are answered with a cookie before the stack sees them, and an ACK that
//! belongs to no connection must bring such a cookie back. `docs/adr/0009-syn-cookies.md` says why so.
//!
//! Both halves are global functions, which the verifier looks at once and for themselves: one looks at
//! the packet and asks the stack, the other writes the answer. The limits lie between them.

mod answer;
mod family;
mod options;
mod socket;

use aya_ebpf::{bindings::xdp_md, programs::XdpContext};
use enforcer_common::{
    layout::{Bank, Limit, limit_count, limit_key, policy_flag},
    verdict::Reason,
};

use self::family::{Family, Ipv4, Ipv6};
use crate::{
    atomic::Cell,
    clock,
    frame::Frame,
    maps::{CONTROL, LOCAL, SYNS},
    parse::{Packet, ethernet, protocol, tcp},
};

/// What a packet is to a service that answers SYNs with cookies: one number, in the upper half; below
/// it lies a challenge's cookie.
#[derive(Clone, Copy)]
pub struct Handshake(u64);

impl Handshake {
    /// Nothing to this stage.
    const NONE: u64 = 0;
    /// A SYN that gets a cookie.
    const CHALLENGE: u64 = 1;
    /// An ACK that brings one back.
    const PROVEN: u64 = 2;
    /// An ACK that belongs to no connection and brings none.
    const FORGED: u64 = 3;

    #[inline(always)]
    fn is(self, what: u64) -> bool {
        self.0 >> 32 == what
    }

    /// What the packet costs under `limit`, given what it would cost otherwise.
    ///
    /// A SYN proves nothing of its sender, so it spends what belongs to its source alone: that bounds what
    /// is sent to an address that others forge. The budgets that all share are for those who are there:
    /// a connection is charged to them with the cookie that comes back, not with the SYN.
    #[inline(always)]
    pub fn cost(self, limit: &Limit, otherwise: u64) -> u64 {
        let of_source = limit.key == limit_key::SOURCE;
        if self.is(Self::CHALLENGE) && !of_source {
            return 0;
        }
        if self.is(Self::PROVEN) && limit.count == limit_count::CONNECTIONS {
            return if of_source { 0 } else { 1 };
        }
        otherwise
    }
}

/// What the packet is; counts SYNs where the controller wants to know.
#[inline(always)]
pub fn examine(ctx: *mut xdp_md, bank: &Bank, policy: u32, packet: &Packet) -> Handshake {
    if packet.protocol != protocol::TCP || packet.fragment {
        return Handshake(Handshake::NONE);
    }
    if bank.flags & policy_flag::SYN_COUNTED != 0
        && packet.opens_connection()
        && let Some(count) = SYNS.get_ptr_mut(policy)
    {
        // SAFETY: a per-CPU map's value of eight bytes.
        unsafe { Cell::new(count) }.add_local(1);
    }
    if bank.flags & policy_flag::SYN_ANSWERED == 0 {
        return Handshake(Handshake::NONE);
    }
    Handshake(enforcer_syn_examine(ctx))
}

/// The reason, given what the limits say; answers SYNs.
#[inline(always)]
pub fn conclude(ctx: *mut xdp_md, handshake: Handshake, limits: Reason, shadow: bool) -> Reason {
    if !matches!(limits, Reason::WithinLimits) {
        return limits;
    }
    if handshake.is(Handshake::PROVEN) {
        return Reason::SynCookieValid;
    }
    if handshake.is(Handshake::CHALLENGE)
        && (shadow || enforcer_syn_answer(ctx, handshake.0 & 0xffff_ffff) == answer::WRITTEN)
    {
        return Reason::SynCookieSent;
    }
    limits
}

impl Handshake {
    /// Whether it ends here whatever the limits say.
    #[inline(always)]
    pub fn is_forged(self) -> bool {
        self.is(Self::FORGED)
    }
}

/// A [`Handshake`]. Packets with IPv4 options or IPv6 extension headers are left to the stack.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn enforcer_syn_examine(ctx: *mut xdp_md) -> u64 {
    let frame = Frame::of_xdp(&XdpContext::new(ctx));
    match ethernet::parse(&frame) {
        Ok((ethernet::IPV4, start)) => examine_as::<Ipv4>(ctx, &frame, start),
        Ok((ethernet::IPV6, start)) => examine_as::<Ipv6>(ctx, &frame, start),
        _ => Handshake::NONE << 32,
    }
}

/// Turns the SYN into its answer; whether it did.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn enforcer_syn_answer(ctx: *mut xdp_md, cookie: u64) -> u64 {
    let frame = Frame::of_xdp(&XdpContext::new(ctx));
    let now_ns = clock::now_ns();
    let Some(control) = CONTROL.get(0) else {
        return 0;
    };
    match ethernet::parse(&frame) {
        Ok((ethernet::IPV4, start)) => answer::write::<Ipv4>(ctx, control, start, cookie as u32, now_ns),
        Ok((ethernet::IPV6, start)) => answer::write::<Ipv6>(ctx, control, start, cookie as u32, now_ns),
        _ => 0,
    }
}

#[inline(always)]
fn examine_as<F: Family>(ctx: *mut xdp_md, frame: &Frame, start: usize) -> u64 {
    const NONE: u64 = Handshake::NONE << 32;
    let (Some(ip), Some(segment)) = (F::header(frame, start), frame.header::<20>(start + F::LENGTH)) else {
        return NONE;
    };
    if !F::is_plain_tcp(ip) {
        return NONE;
    }
    let flags = segment.u8::<13>();
    let opens = flags & (tcp::SYN | tcp::ACK | tcp::FIN | tcp::RST) == tcp::SYN;
    let acknowledges = flags & (tcp::SYN | tcp::ACK | tcp::RST) == tcp::ACK;
    if !opens && !acknowledges {
        return NONE;
    }
    // SAFETY: the agent writes whole values, and only that there is one matters.
    if unsafe { LOCAL.get(F::destination(ip)) }.is_none() {
        return NONE;
    }
    let Some(listener) = socket::Listener::of::<F>(ctx, ip, segment) else {
        return NONE;
    };
    if opens {
        let Some(control) = CONTROL.get(0) else {
            return listener.release(NONE);
        };
        let offer = options::Offer::read(frame, start + F::LENGTH, segment, control.zero);
        return match listener.cookie::<F>(ip, segment, &offer) {
            Some(cookie) => listener.release(Handshake::CHALLENGE << 32 | u64::from(cookie)),
            None => listener.release(NONE),
        };
    }
    let answer = listener.check::<F>(ip, segment);
    listener.release(match answer {
        socket::VALID => Handshake::PROVEN << 32,
        socket::INVALID => Handshake::FORGED << 32,
        // The stack has no cookies, or they are off: it is asked as usual.
        _ => NONE,
    })
}
