//! What leaves: the node, or a pod at the other end of an interface. Rules by destination and port first, then
//! replies to those that spoke first, then limits; what passes is counted by the service that it comes from.

mod limits;
mod rules;

use aya_ebpf::{
    bindings::{__sk_buff, TC_ACT_UNSPEC},
    programs::TcContext,
};
use enforcer_common::{
    layout::{Address, Control, NO_POLICY, control_flag, egress_side, interface_flag},
    verdict::{Direction, Reason},
};

use self::{
    limits::Load,
    rules::{Kind, Outcome, Ruling, ruling},
};
use crate::{
    clock, events,
    flow_memory::{self, Deed, Recalled},
    frame::Frame,
    interface::{self, Interface},
    lifeline,
    maps::CONTROL,
    parse::{Packet, Parsed, destination, parse},
    scratch, service,
    verdict::{self, Conclusion, Finding},
};

/// Enough for Ethernet, two tags, IPv6 with an extension header, and TCP.
const HEADERS: u32 = 128;

/// What needs the time.
const JUDGED: u32 =
    interface_flag::EGRESS | interface_flag::POD | interface_flag::POD_MEMORY | interface_flag::EGRESS_LIMITS;

/// Whose egress is judged: see `layout::egress_side`.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Side {
    Node = egress_side::NODE,
    Pod = egress_side::POD,
}

impl Side {
    /// The interface has rules.
    #[inline(always)]
    fn rules(self) -> u32 {
        match self {
            Self::Node => interface_flag::EGRESS,
            Self::Pod => interface_flag::POD,
        }
    }

    /// It has some for destinations on no prefix.
    #[inline(always)]
    fn root(self) -> u32 {
        match self {
            Self::Node => interface_flag::EGRESS_ROOT,
            Self::Pod => interface_flag::POD_ROOT,
        }
    }

    /// Something is denied by default.
    #[inline(always)]
    fn memory(self) -> u32 {
        match self {
            Self::Node => interface_flag::EGRESS_MEMORY,
            Self::Pod => interface_flag::POD_MEMORY,
        }
    }
}

/// A frame on its way.
struct Departure<'a> {
    control: &'a Control,
    interface: Interface,
    side: Side,
    /// As a limit on bytes counts them.
    bytes: u64,
    now_ns: u64,
}

#[inline(always)]
pub fn program(ctx: &TcContext, side: Side) -> i32 {
    // SAFETY: the context is valid while the program runs.
    let index = unsafe { (*ctx.skb.skb).ifindex };
    let Some(interface) = interface::find(index) else {
        return TC_ACT_UNSPEC;
    };
    if side == Side::Pod && !interface.has(interface_flag::POD) {
        return TC_ACT_UNSPEC;
    }
    let bytes = u64::from(ctx.len());
    // Headers may lie outside the part that can be read; short packets have fewer bytes than asked for.
    if Frame::of_tc(ctx).readable() < HEADERS as usize {
        let wanted = if ctx.len() < HEADERS { ctx.len() } else { HEADERS };
        let _ = ctx.pull_data(wanted);
    }
    let what = side as u64 | enforcer_read(ctx.skb.skb) << KIND;
    let wire = on_the_wire(ctx, bytes);
    let now_ns = if interface.has(JUDGED) { clock::now_ns() } else { 0 };
    let number = enforcer_leave(interface.word(), what, bytes, wire, now_ns);
    let conclusion = Conclusion::from_number(number);
    if conclusion.is_event() {
        let due = events::due(now_ns);
        if due != 0 {
            events::enforcer_tell_egress(ctx.skb.skb, now_ns, u64::from(conclusion.place), due);
        }
    }
    verdict::tc(&conclusion)
}

/// Where a frame's kind is beside the side.
const KIND: u32 = 8;

/// What a frame carries.
const IP: u64 = 0;
const ARP: u64 = 1;
const LINK_CONTROL: u64 = 2;
const OTHER: u64 = 3;
/// What a parser refuses, with a destination that can be read.
const MISSHAPEN: u64 = 4;
/// The same without one.
const UNREADABLE: u64 = 5;

/// Reads a frame: its kind, and the packet in [`scratch`]. What is malformed, or not understood, is judged by where
/// it goes: nobody gets past a list by what a parser refuses.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn enforcer_read(skb: *mut __sk_buff) -> u64 {
    let frame = Frame::of_tc(&TcContext::new(skb));
    match parse(&frame) {
        Ok(Parsed::Ip(packet)) => {
            scratch::put(&packet);
            IP
        }
        Ok(Parsed::Arp) => ARP,
        Ok(Parsed::Other(kind)) if lifeline::is_link_control(kind) => LINK_CONTROL,
        Ok(Parsed::Other(_)) => OTHER,
        Err(_) => match destination(&frame) {
            Some(destination) => {
                scratch::put_destination(&destination);
                MISSHAPEN
            }
            None => UNREADABLE,
        },
    }
}

/// The length that a frame has when the card has cut it up: the kernel says so for what is on its way out.
#[inline(always)]
fn on_the_wire(ctx: &TcContext, bytes: u64) -> u64 {
    // SAFETY: the context is valid while the program runs.
    let wire = u64::from(unsafe { (*ctx.skb.skb).wire_len });
    if wire > bytes { wire } else { bytes }
}

/// Decides about the packet in [`scratch`], counts it and says so. `what` is the side and the kind of frame, `wire`
/// its bytes as a limit counts them.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn enforcer_leave(interface: u64, what: u64, bytes: u64, wire: u64, now_ns: u64) -> u64 {
    let (Some(control), Some(packet)) = (CONTROL.get(0), scratch::get()) else {
        return Conclusion::NOTHING.number();
    };
    let departure = Departure {
        control,
        interface: Interface::from_word(interface),
        side: if what & 1 == Side::Node as u64 {
            Side::Node
        } else {
            Side::Pod
        },
        bytes: wire,
        now_ns,
    };
    let finding = match what >> KIND {
        IP => departure.packet(&packet),
        ARP => Finding::pass(NO_POLICY, Reason::Lifeline),
        LINK_CONTROL => Finding::pass(NO_POLICY, Reason::NotIp),
        OTHER => departure.nameless(Reason::NotIp),
        MISSHAPEN => departure.misshapen(&packet.destination),
        _ => departure.nameless(Reason::EgressAllowed),
    };
    let conclusion = finding.conclude(Direction::Egress);
    conclusion.count(bytes);
    conclusion.number()
}

impl Departure<'_> {
    #[inline(always)]
    fn packet(&self, packet: &Packet) -> Finding {
        let finding = self.judged(packet);
        // On its way to a pod: what the pod says to that is a reply.
        if self.side == Side::Node
            && self.interface.has(interface_flag::POD_MEMORY)
            && (finding.shadow || !finding.reason.drops())
        {
            self.recall(Deed::Arrives);
        }
        finding
    }

    #[inline(always)]
    fn judged(&self, packet: &Packet) -> Finding {
        let ruling = self.ruling(&packet.destination, Kind::of(packet));
        if ruling.outcome() != Outcome::Pass {
            if lifeline::must_leave(packet) {
                return Finding::pass(NO_POLICY, Reason::Lifeline);
            }
            if self.is_management(&packet.destination) {
                return Finding::pass(NO_POLICY, Reason::Management);
            }
            let recalled = if self.remembers() {
                self.recall(Deed::Answers)
            } else {
                Recalled::Nothing
            };
            let reason = match recalled {
                Recalled::Answer => Reason::EgressReply,
                Recalled::Rest => Reason::EgressAllowed,
                Recalled::Nothing => {
                    // What goes on in shadow has been said nevertheless: what comes back is no reason to answer.
                    if ruling.is_shadow() && self.remembers() {
                        self.recall(Deed::Tries);
                    }
                    return ruling.finding();
                }
            };
            let pass = Finding::pass(ruling.policy(), reason);
            return self.limited(packet, pass);
        }
        if self.remembers() {
            self.recall(Deed::Speaks);
        }
        self.limited(packet, self.counted(packet))
    }

    /// What the rules say, as long as they hold.
    #[inline(always)]
    fn ruling(&self, destination: &Address, kind: Kind) -> Ruling {
        if !self.interface.has(self.side.rules()) || self.have_lapsed() {
            return Ruling::PASS;
        }
        ruling(self.interface, self.side, destination, kind, self.now_ns)
    }

    /// Whether rules no longer hold because the agent is gone, where that is configured.
    #[inline(always)]
    fn have_lapsed(&self) -> bool {
        self.control.flags & control_flag::DENIALS_LAPSE != 0 && self.now_ns > self.control.alive_until_ns
    }

    /// Replies of the node to whoever manages it leave whatever the rules say. A pod manages nothing.
    #[inline(always)]
    fn is_management(&self, destination: &Address) -> bool {
        self.side == Side::Node && lifeline::is_management(destination, self.now_ns)
    }

    #[inline(always)]
    fn recall(&self, deed: Deed) -> Recalled {
        flow_memory::recall(deed, self.now_ns)
    }

    #[inline(always)]
    fn remembers(&self) -> bool {
        self.interface.has(self.side.memory())
    }

    /// What passes is counted by the service that it comes from, or that it goes to in a pod.
    #[inline(always)]
    fn counted(&self, packet: &Packet) -> Finding {
        if self.side == Side::Node && self.interface.has(interface_flag::POD) {
            let policy = service::find(self.interface, packet, packet.destination_port);
            return Finding::pass(policy, Reason::ToPod);
        }
        match service::find(self.interface, packet, packet.source_port) {
            NO_POLICY => Finding::pass(NO_POLICY, Reason::NoPolicy),
            policy => Finding::pass(policy, Reason::EgressAllowed),
        }
    }

    /// What limits say of a packet that passes.
    #[inline(always)]
    fn limited(&self, packet: &Packet, pass: Finding) -> Finding {
        if !self.interface.has(interface_flag::EGRESS_LIMITS) {
            return pass;
        }
        let policy = service::find(self.interface, packet, packet.source_port);
        self.load(&packet.destination).under(policy, pass)
    }

    #[inline(always)]
    fn load<'a>(&'a self, destination: &'a Address) -> Load<'a> {
        Load {
            interface: self.interface,
            side: self.side,
            destination,
            bytes: self.bytes,
            now_ns: self.now_ns,
        }
    }

    /// What a parser refuses, by its destination alone: where the default is to deny, only rules about all
    /// protocols and ports let it go.
    #[inline(always)]
    fn misshapen(&self, destination: &Address) -> Finding {
        let ruling = self.ruling(destination, Kind::UNKNOWN);
        if ruling.outcome() == Outcome::Pass {
            let pass = Finding::pass(NO_POLICY, Reason::EgressAllowed);
            if !self.interface.has(interface_flag::EGRESS_LIMITS) {
                return pass;
            }
            return self.load(destination).under(self.interface.base(), pass);
        }
        if self.is_management(destination) {
            return Finding::pass(NO_POLICY, Reason::Management);
        }
        ruling.finding()
    }

    /// What has no destination that could be read: it passes where nothing is denied by default.
    #[inline(always)]
    fn nameless(&self, reason: Reason) -> Finding {
        if self.remembers() {
            let ruling = self.ruling(&UNSPECIFIED, Kind::UNKNOWN);
            if ruling.outcome() != Outcome::Pass {
                return ruling.finding();
            }
        }
        Finding::pass(NO_POLICY, reason)
    }
}

/// The IPv6 address of nobody, which no prefix but the longest is about.
const UNSPECIFIED: Address = [0; 16];
