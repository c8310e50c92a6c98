//! What leaves: the node, or a pod at the other end of an interface. Rules by destination and port first, then
//! replies to those that spoke first, then limits; what passes is counted by the service that it comes from.

mod limits;
mod rules;

use aya_ebpf::{
    bindings::{__sk_buff, TC_ACT_UNSPEC},
    programs::TcContext,
};
use enforcer_common::{
    layout::{Address, Control, Interface as Entry, NO_POLICY, control_flag, egress_side, interface_flag},
    verdict::{Direction, Reason},
};

use self::{
    limits::Load,
    rules::{Asked, Kind, Outcome, Ruling, nameless, ruling},
};
use crate::{
    clock, events,
    flow_memory::{self, Deed, Memory, Recalled},
    frame::Frame,
    ingress::opaque,
    interface::{self, Interface},
    lifeline,
    maps::CONTROL,
    parse::{
        self, Packet,
        reading::{self, Reading, enforcer_read_tc},
    },
    scratch, service,
    verdict::{self, Conclusion, Finding},
};

/// Enough for Ethernet, two tags, IPv6 with an extension header, and TCP.
const HEADERS: u32 = 128;
/// Enough for all headers that are looked through.
const ALL_HEADERS: u32 = 0x8000;

/// What needs the time.
const JUDGED: u32 = interface_flag::EGRESS
    | interface_flag::POD
    | interface_flag::POD_MEMORY
    | interface_flag::TRIED_POD_MEMORY
    | interface_flag::EGRESS_LIMITS;

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
    fn memory(self, memory: Memory) -> u32 {
        match (self, memory) {
            (Self::Node, Memory::Enforced) => interface_flag::EGRESS_MEMORY,
            (Self::Node, Memory::Tried) => interface_flag::TRIED_MEMORY,
            (Self::Pod, Memory::Enforced) => interface_flag::POD_MEMORY,
            (Self::Pod, Memory::Tried) => interface_flag::TRIED_POD_MEMORY,
        }
    }
}

/// A frame on its way.
struct Departure<'a> {
    control: &'a Control,
    interface: Interface,
    side: Side,
    /// Whose rules are asked.
    rules: Asked,
    /// Which flows are remembered.
    memory: Memory,
    /// The policies in shadow beside others that enforce, if these are asked.
    tried: Option<&'a Entry>,
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
    // Behind `POD` there are rules, which need the time.
    let now_ns = if side == Side::Pod || interface.has(JUDGED) {
        clock::now_ns()
    } else {
        0
    };
    let what = side as u64 | enforcer_what(ctx.skb.skb, interface.word());
    let number = enforcer_leave(interface.word(), what, sizes(ctx), now_ns);
    if what & MIXED != 0 {
        enforcer_tried_leave(ctx.skb.skb, what, now_ns);
    }
    let conclusion = Conclusion::from_number(number);
    if conclusion.is_event() {
        let due = events::due(now_ns);
        if due != 0 {
            events::enforcer_tell_egress(ctx.skb.skb, now_ns, u64::from(conclusion.place), due);
        }
    }
    verdict::tc(&conclusion)
}

/// Where a frame's reading is beside the side, and the interface's index above it.
const READING: u32 = 8;
/// Beside the side: policies in shadow are asked too.
const MIXED: u64 = 2;
const INDEX: u32 = 32;

/// What a frame is beside its side: reads it, and says which policies are asked about it, and the interface's index.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn enforcer_what(skb: *mut __sk_buff, interface: u64) -> u64 {
    let interface = Interface::from_word(interface);
    let ctx = TcContext::new(skb);
    // Headers may lie outside the part that can be read; short packets have fewer bytes than asked for.
    if Frame::of_tc(&ctx).readable() < HEADERS as usize {
        let wanted = if ctx.len() < HEADERS { ctx.len() } else { HEADERS };
        let _ = ctx.pull_data(wanted);
    }
    let frame = Frame::of_tc(&ctx);
    let plain = if interface.has(interface_flag::BARE) {
        None
    } else {
        parse::plain(&frame)
    };
    let reading = match plain {
        Some(packet) => {
            scratch::put(&packet);
            reading::IP
        }
        None => read(&ctx, interface),
    };
    let mixed = if interface.has(interface_flag::MIXED) {
        MIXED
    } else {
        0
    };
    // SAFETY: the context is valid while the program runs.
    let index = unsafe { (*skb).ifindex };
    mixed | reading << READING | u64::from(index) << INDEX
}

/// The reading of what is not plain.
#[inline(always)]
fn read(ctx: &TcContext, interface: Interface) -> u64 {
    let reading = enforcer_read_tc(ctx.skb.skb, interface.bare());
    if !Reading::from(reading).is_cut_off() || Frame::of_tc(ctx).readable() >= ctx.len() as usize {
        return reading;
    }
    let wanted = if ctx.len() < ALL_HEADERS {
        ctx.len()
    } else {
        ALL_HEADERS
    };
    let _ = ctx.pull_data(wanted);
    enforcer_read_tc(ctx.skb.skb, interface.bare())
}

/// The bytes of a frame, and above them those that it has when the card has cut it up: the kernel says so for what is on
/// its way out.
#[inline(always)]
fn sizes(ctx: &TcContext) -> u64 {
    let bytes = u64::from(ctx.len());
    // SAFETY: the context is valid while the program runs.
    let wire = u64::from(unsafe { (*ctx.skb.skb).wire_len });
    bytes | (if wire > bytes { wire } else { bytes }) << WIRE
}

const WIRE: u32 = 32;

/// Decides about the packet in [`scratch`], counts it and says so. `what` is the side, the reading and the interface's
/// index, `sizes` as [`sizes`] has them.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn enforcer_leave(interface: u64, what: u64, sizes: u64, now_ns: u64) -> u64 {
    let bytes = sizes & ((1 << WIRE) - 1);
    let (Some(control), Some(packet)) = (CONTROL.get(0), scratch::get()) else {
        return Conclusion::NOTHING.number();
    };
    let interface = Interface::from_word(interface);
    let mixed = interface.has(interface_flag::MIXED);
    let departure = Departure {
        control,
        interface,
        side: if what & 1 == Side::Node as u64 {
            Side::Node
        } else {
            Side::Pod
        },
        rules: if mixed { Asked::Enforced } else { Asked::All },
        memory: if interface.has(interface_flag::SHADOW) {
            Memory::Tried
        } else {
            Memory::Enforced
        },
        tried: None,
        bytes: sizes >> WIRE,
        now_ns,
    };
    let reading = Reading::from(what >> READING);
    let index = (what >> INDEX) as u32;
    let finding = match reading.kind() {
        reading::IP => departure.packet(&packet),
        reading::ARP => Finding::pass(NO_POLICY, Reason::Lifeline),
        reading::LINK_CONTROL => Finding::pass(NO_POLICY, Reason::NotIp),
        reading::OPAQUE => {
            opaque(index, Direction::Egress, bytes).unwrap_or_else(|| departure.foreign(Reason::Opaque))
        }
        reading::OTHER => departure.foreign(Reason::NotIp),
        reading::MISSHAPEN => departure.misshapen(&packet.destination),
        _ => departure.nameless(reading.reason()),
    };
    let conclusion = finding.conclude(Direction::Egress);
    conclusion.count(bytes);
    conclusion.number()
}

/// What the policies in shadow would have done with the packet in [`scratch`], where others enforce. `what` as for
/// [`enforcer_leave`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn enforcer_tried_leave(skb: *mut __sk_buff, what: u64, now_ns: u64) -> u64 {
    let sizes = sizes(&TcContext::new(skb));
    let bytes = sizes & ((1 << WIRE) - 1);
    let index = (what >> INDEX) as u32;
    let (Some(control), Some(packet), Some(entry)) =
        (CONTROL.get(0), scratch::get(), interface::entry(index))
    else {
        return 0;
    };
    let departure = Departure {
        control,
        interface: Interface::of(entry),
        side: if what & 1 == Side::Node as u64 {
            Side::Node
        } else {
            Side::Pod
        },
        rules: Asked::Tried,
        memory: Memory::Tried,
        tried: Some(entry),
        bytes: sizes >> WIRE,
        now_ns,
    };
    let reading = Reading::from(what >> READING);
    let finding = match reading.kind() {
        reading::IP => departure.packet(&packet),
        reading::OPAQUE | reading::OTHER => departure.foreign(Reason::NotIp),
        reading::MISSHAPEN => departure.misshapen(&packet.destination),
        reading::UNREADABLE => departure.nameless(reading.reason()),
        _ => return 0,
    };
    if finding.policy < NO_POLICY {
        verdict::count_tried(Direction::Egress, finding.policy, finding.reason, bytes);
    }
    0
}

impl Departure<'_> {
    #[inline(always)]
    fn packet(&self, packet: &Packet) -> Finding {
        let finding = self.judged(packet);
        // On its way to a pod: what the pod says to that is a reply.
        if self.side == Side::Node
            && self.interface.has(Side::Pod.memory(self.memory))
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
        ruling(
            self.interface,
            self.side,
            self.rules,
            destination,
            kind,
            self.now_ns,
        )
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
        flow_memory::recall(deed, self.memory, self.now_ns)
    }

    #[inline(always)]
    fn remembers(&self) -> bool {
        self.interface.has(self.side.memory(self.memory))
    }

    /// What passes is counted by the service that it comes from, or that it goes to in a pod.
    #[inline(always)]
    fn counted(&self, packet: &Packet) -> Finding {
        if self.side == Side::Node && self.interface.has(interface_flag::POD) {
            return Finding::pass(self.policy(packet, packet.destination_port), Reason::ToPod);
        }
        match self.policy(packet, packet.source_port) {
            NO_POLICY => Finding::pass(NO_POLICY, Reason::NoPolicy),
            policy => Finding::pass(policy, Reason::EgressAllowed),
        }
    }

    /// The policy of a local port.
    #[inline(always)]
    fn policy(&self, packet: &Packet, port: u16) -> u32 {
        match self.tried {
            Some(entry) => service::tried(entry, packet, port),
            None => service::find(self.interface, packet, port),
        }
    }

    /// What limits say of a packet that passes.
    #[inline(always)]
    fn limited(&self, packet: &Packet, pass: Finding) -> Finding {
        if !self.interface.has(interface_flag::EGRESS_LIMITS) {
            return pass;
        }
        let policy = self.policy(packet, packet.source_port);
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

    /// What a parser refuses, by its destination alone. Lists that are about some protocols or ports are about it too,
    /// for it might have them; where the default is to deny, only rules about all of them let it go.
    #[inline(always)]
    fn misshapen(&self, destination: &Address) -> Finding {
        let ruling = self.ruling(destination, Kind::UNPARSED);
        if ruling.outcome() == Outcome::Pass {
            let pass = Finding::pass(NO_POLICY, Reason::EgressAllowed);
            if !self.interface.has(interface_flag::EGRESS_LIMITS) {
                return pass;
            }
            let base = match self.tried {
                Some(entry) => entry.tried_base,
                None => self.interface.base(),
            };
            return self.load(destination).under(base, pass);
        }
        if self.is_management(destination) {
            return Finding::pass(NO_POLICY, Reason::Management);
        }
        ruling.finding()
    }

    /// What may be IP, and has no destination that can be read: it passes where no list, limit or default might be
    /// about it.
    #[inline(always)]
    fn nameless(&self, reason: Reason) -> Finding {
        if !self
            .interface
            .has(self.side.rules() | interface_flag::EGRESS_LIMITS)
            || self.have_lapsed()
        {
            return Finding::pass(NO_POLICY, Reason::EgressAllowed);
        }
        let ruling = nameless(self.interface, self.side, self.rules, self.now_ns);
        if ruling.outcome() == Outcome::Pass {
            return Finding::pass(NO_POLICY, Reason::EgressAllowed);
        }
        Finding {
            reason,
            ..ruling.finding()
        }
    }

    /// What is not IP passes where nothing is denied by default.
    #[inline(always)]
    fn foreign(&self, reason: Reason) -> Finding {
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
