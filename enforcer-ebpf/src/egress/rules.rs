//! What the egress rules of an interface say of a destination, a protocol and a port.

use enforcer_common::layout::{
    Address, EgressKey, EgressRule, NO_POLICY, UNPARSED, egress_nameless, egress_root, egress_set, table,
    table_kind,
};
use enforcer_common::verdict::Reason;

use super::Side;
use crate::{
    access,
    interface::Interface,
    maps::EGRESS_RULES,
    parse::{
        Packet,
        address::{address, words},
        both_families, is_ipv4,
    },
    verdict::Finding,
};

/// What rules say of a packet.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing against it.
    Pass,
    /// A list denies it.
    Denied,
    /// No rule allows it, and the default is to deny.
    Default,
}

/// An outcome, whose policy it is, and whether that only counts.
#[derive(Clone, Copy)]
pub struct Ruling(u64);

const OUTCOME: u64 = 3;
const DENIED: u64 = 1;
const DEFAULT: u64 = 2;
const SHADOW: u64 = 1 << 2;
const POLICY: u32 = 8;

impl Ruling {
    pub const PASS: Self = Self((NO_POLICY as u64) << POLICY);

    #[inline(always)]
    pub fn outcome(self) -> Outcome {
        match self.0 & OUTCOME {
            DENIED => Outcome::Denied,
            DEFAULT => Outcome::Default,
            _ => Outcome::Pass,
        }
    }

    #[inline(always)]
    pub fn policy(self) -> u32 {
        (self.0 >> POLICY) as u32 & 0xff
    }

    /// Of what does not pass.
    #[inline(always)]
    pub fn finding(self) -> Finding {
        let reason = if self.outcome() == Outcome::Default {
            Reason::EgressDefault
        } else {
            Reason::EgressDenied
        };
        Finding {
            policy: self.policy(),
            reason,
            shadow: self.is_shadow(),
            resets: 0,
        }
    }

    #[inline(always)]
    pub fn is_shadow(self) -> bool {
        self.0 & SHADOW != 0
    }
}

/// By what rules are found beside the destination: protocol and port, as far as they are known.
#[derive(Clone, Copy)]
pub struct Kind(u64);

const PORT: u32 = 16;
const SIDE: u32 = 32;

impl Kind {
    /// Neither is there.
    pub const UNKNOWN: Self = Self(0);
    /// There may be both, and neither can be read.
    pub const UNPARSED: Self = Self(UNPARSED as u64);

    /// Those of a packet. A later fragment has no port.
    #[inline(always)]
    pub fn of(packet: &Packet) -> Self {
        let protocol = u64::from(both_families(packet.protocol));
        Self(protocol | u64::from(packet.destination_port) << PORT)
    }
}

/// Whose rules are asked.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
pub enum Asked {
    /// Those that are enforced; where there are none, those in shadow.
    All = 0,
    /// Those that are enforced.
    Enforced = 1,
    /// Those in shadow.
    Tried = 2,
}

const ASKED: u32 = 34;
/// In place of a destination: it cannot be read.
const NAMELESS: u64 = 1 << 36;

/// The ruling about what has no destination that can be read.
#[inline(always)]
pub fn nameless(interface: Interface, side: Side, asked: Asked, now_ns: u64) -> Ruling {
    let what = NAMELESS | (side as u64) << SIDE | (asked as u64) << ASKED;
    Ruling(enforcer_egress_rule(interface.word(), 0, 0, what, now_ns))
}

/// The ruling about `destination`.
#[inline(always)]
pub fn ruling(
    interface: Interface,
    side: Side,
    asked: Asked,
    destination: &Address,
    kind: Kind,
    now_ns: u64,
) -> Ruling {
    let [high, low] = words(destination);
    let what = kind.0 | (side as u64) << SIDE | (asked as u64) << ASKED;
    Ruling(enforcer_egress_rule(interface.word(), high, low, what, now_ns))
}

/// The ruling about a destination in two words as they lie in the packet.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn enforcer_egress_rule(interface: u64, high: u64, low: u64, what: u64, now_ns: u64) -> u64 {
    let interface = Interface::from_word(interface);
    let side = if what >> SIDE & 1 == 0 {
        Side::Node
    } else {
        Side::Pod
    };
    let asked = what >> ASKED & 3;
    if what & NAMELESS != 0 {
        let key = EgressKey {
            set: egress_nameless(side as u32, interface.group()),
            port: 0,
            protocol: 0,
            slot: interface.slot() as u8,
        };
        return lookup(&key)
            .map_or(Ruling::PASS, |rule| judge(rule, asked, now_ns))
            .0;
    }
    let destination = address([high, low]);
    let kind = match side {
        Side::Node => table_kind::EGRESS,
        Side::Pod => table_kind::POD,
    };
    let list = table(kind, interface.slot(), interface.group());
    let (set, has) = match access::lookup(list, &destination, now_ns) {
        Some(entry) => (entry.rules & egress_set::NUMBER, entry.rules),
        None if interface.has(side.root()) => {
            let ipv4 = is_ipv4(&destination);
            (egress_root(side as u32, interface.group(), ipv4), u32::MAX)
        }
        None => return Ruling::PASS.0,
    };
    find(interface, set, has, what)
        .map_or(Ruling::PASS, |rule| judge(rule, asked, now_ns))
        .0
}

/// The rule of `set` for a protocol and port: the port's, else the protocol's, else that for all. `has` says
/// which of these there may be.
#[inline(always)]
fn find(interface: Interface, set: u32, has: u32, what: u64) -> Option<&'static EgressRule> {
    let (protocol, port) = (what as u8, (what >> PORT) as u16);
    let mut key = EgressKey {
        set,
        port,
        protocol,
        slot: interface.slot() as u8,
    };
    if port != 0
        && has & egress_set::PORTS != 0
        && let Some(rule) = lookup(&key)
    {
        return Some(rule);
    }
    key.port = 0;
    let of_protocol = if protocol == UNPARSED {
        egress_set::UNPARSED
    } else {
        egress_set::PROTOCOLS
    };
    if protocol != 0
        && has & of_protocol != 0
        && let Some(rule) = lookup(&key)
    {
        return Some(rule);
    }
    key.protocol = 0;
    lookup(&key)
}

#[inline(always)]
fn lookup(key: &EgressKey) -> Option<&'static EgressRule> {
    // SAFETY: the agent replaces values as a whole, and a replaced one outlives the packet (RCU).
    unsafe { EGRESS_RULES.get(key) }
}

#[inline(always)]
fn judge(rule: &EgressRule, asked: u64, now_ns: u64) -> Ruling {
    let enforced = asked != Asked::Tried as u64;
    let tried = asked != Asked::Enforced as u64;
    let (outcome, policy) = if enforced && rule.denied_until_ns > now_ns {
        (DENIED, rule.denied_by)
    } else if enforced && rule.default_by < NO_POLICY {
        (DEFAULT, rule.default_by)
    } else if tried && rule.tried_until_ns > now_ns {
        (DENIED | SHADOW, rule.tried_by)
    } else if tried && rule.default_tried_by < NO_POLICY {
        (DEFAULT | SHADOW, rule.default_tried_by)
    } else {
        return Ruling::PASS;
    };
    Ruling(outcome | u64::from(policy) << POLICY)
}
