//! Stage 6, SYN defence: SYNs are answered with a cookie before the stack sees them, and an ACK that
//! belongs to no connection must bring such a cookie back. `docs/adr/0009-syn-cookies.md` says why so.
//!
//! Both halves are global functions, which the verifier looks at once and for themselves: one looks at
//! the packet and asks the stack, the other writes the answer. The limits lie between them.

mod answer;
mod options;
mod proven;
mod socket;

use aya_ebpf::{bindings::xdp_md, programs::XdpContext};
use enforcer_common::{
    layout::{Bank, policy_flag, traffic},
    verdict::Reason,
};

use crate::{
    answer::family::{Family, Ipv4, Ipv6},
    atomic::Cell,
    clock,
    frame::Frame,
    limits::Question,
    maps::{CONTROL, LOCAL, SYNS},
    parse::{Packet, ethernet, protocol, tcp},
};

/// What a packet is to a service that answers SYNs with cookies. Numbers alone, of which the verifier
/// does not know how they hang together: so that it looks at the limits once, not once for each kind.
#[derive(Clone, Copy)]
pub struct Handshake {
    /// What it is, in the upper half; below it lies a challenge's cookie.
    kind: u64,
    /// What limits charge it for: bits of a [`Question`].
    terms: u64,
}

impl Handshake {
    /// Nothing to this stage.
    const NONE: u64 = 0;
    /// A SYN that gets a cookie.
    const CHALLENGE: u64 = 1;
    /// An ACK that brings one back.
    const PROVEN: u64 = 2;
    /// An ACK that belongs to no connection and brings none.
    const FORGED: u64 = 3;

    /// A SYN proves nothing of its sender, so it spends what belongs to its source alone: that bounds what
    /// is sent to an address that others forge. The budgets that all share are for those who are there:
    /// a connection is charged to them with the cookie that comes back, not with the SYN, which that ACK
    /// stands for.
    #[inline(always)]
    pub fn new(kind: u64, packet: &Packet, is_new_flow: bool, zero: u64) -> Self {
        let kind = kind.wrapping_add(zero);
        let traffic = packet.traffic();
        let opens = packet.opens_connection() || is_new_flow;
        let of_source = if opens { Question::OPENS_OF_SOURCE } else { 0 };
        let terms = match kind >> 32 {
            Self::CHALLENGE => of_source | Question::traffic(traffic, 0),
            Self::PROVEN => {
                let for_its_syn = Question::traffic(traffic, traffic | traffic::TCP_SYN);
                of_source | for_its_syn | Question::SHARED | Question::OPENS_OF_ALL
            }
            _ => {
                let of_all = if opens { Question::OPENS_OF_ALL } else { 0 };
                of_source | of_all | Question::SHARED | Question::traffic(traffic, traffic)
            }
        };
        Self {
            kind: kind.wrapping_add(zero),
            terms: zero.wrapping_add(terms),
        }
    }

    /// Of a packet that is not examined.
    #[inline(always)]
    pub fn unexamined(packet: &Packet, is_new_flow: bool, zero: u64) -> Self {
        Self::new(Self::NONE << 32, packet, is_new_flow, zero)
    }

    /// What limits charge it for.
    #[inline(always)]
    pub fn terms(self) -> u64 {
        self.terms
    }

    #[inline(always)]
    fn is(self, what: u64) -> bool {
        self.kind >> 32 == what
    }

    /// Whether it ends here whatever the limits say.
    #[inline(always)]
    pub fn is_forged(self) -> bool {
        self.is(Self::FORGED)
    }
}

/// What the packet is, for [`Handshake::new`]; counts SYNs where the controller wants to know.
#[inline(always)]
pub fn examine(ctx: *mut xdp_md, is_examined: bool, bank: &Bank, policy: u32, packet: &Packet) -> u64 {
    let is_tcp = packet.protocol == protocol::TCP && !packet.fragment;
    if bank.flags & policy_flag::SYN_COUNTED != 0
        && packet.opens_connection()
        && let Some(count) = SYNS.get_ptr_mut(policy)
    {
        // SAFETY: a per-CPU map's value of eight bytes.
        unsafe { Cell::new(count) }.add_local(1);
    }
    if is_tcp && bank.flags & policy_flag::SYN_ANSWERED != 0 && is_examined {
        enforcer_syn_examine(ctx)
    } else {
        Handshake::NONE
    }
}

/// The reason, given what the limits say; answers SYNs.
#[inline(always)]
pub fn conclude(ctx: *mut xdp_md, handshake: Handshake, limits: Reason, shadow: bool) -> Reason {
    if limits.drops() {
        return limits;
    }
    if handshake.is(Handshake::PROVEN) {
        return Reason::SynCookieValid;
    }
    if handshake.is(Handshake::CHALLENGE)
        && (shadow || enforcer_syn_answer(ctx, handshake.kind & 0xffff_ffff) == answer::WRITTEN)
    {
        return Reason::SynCookieSent;
    }
    limits
}

/// A [`Handshake`]. Packets with IPv4 options or IPv6 extension headers are left to the stack.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn enforcer_syn_examine(ctx: *mut xdp_md) -> u64 {
    let frame = Frame::of_xdp(&XdpContext::new(ctx));
    let Some(control) = CONTROL.get(0) else {
        return Handshake::NONE << 32;
    };
    match ethernet::parse(&frame, control.zero) {
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
    match ethernet::parse(&frame, control.zero) {
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
    let own = |address| unsafe { LOCAL.get(address) }.is_some();
    // A node that talks to itself floods nobody, and the agent looks at such a connection.
    if !own(F::destination(ip)) || (opens && own(F::source(ip))) {
        return NONE;
    }
    let Some(listener) = socket::Listener::of::<F>(ctx, ip, segment) else {
        return NONE;
    };
    if opens {
        let offer = options::Offer::read(ctx, start + F::LENGTH);
        return match listener.cookie::<F>(ip, segment, offer) {
            Some(cookie) => listener.release(Handshake::CHALLENGE << 32 | u64::from(cookie)),
            None => listener.release(NONE),
        };
    }
    let answer = listener.check::<F>(ip, segment);
    listener.release(0);
    let memory = proven::Memory::of(F::tuple(ip, segment.u32::<0>()), clock::now_ns());
    match (answer, memory) {
        (socket::VALID, memory) => {
            if let Some(memory) = memory {
                memory.remember();
            }
            Handshake::PROVEN << 32
        }
        (socket::INVALID, Some(memory)) if !memory.holds() => Handshake::FORGED << 32,
        // Close behind its ACK; or the stack has no cookies, or they are off: it is asked as usual.
        _ => NONE,
    }
}
