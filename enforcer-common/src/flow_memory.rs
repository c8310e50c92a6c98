//! Who spoke first: a memory of flows that holds a fixed number of them, and into which packets insert nothing
//! but words.
//!
//! A keyed hash of a flow's ends picks a line of eight cells; the rest of the hash tells the flow in its cell.
//! A new flow takes a cell that has expired, else the oldest one that is not open in both directions. A flow
//! that has spoken in both directions is never given up for one that has not: a flood of forged sources
//! cannot make the memory forget real connections.
//!
//! The pure part, for the kernel programs and for tests: what a cell says, what becomes of it when a packet is
//! seen, and which cell a new flow takes.

/// Cells in a line: a cache line of them.
pub const CELLS: usize = 8;

/// One line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Line {
    /// The cells.
    pub cells: [u64; CELLS],
}

const _: () = assert!(size_of::<Line>() == 64);

/// Nanoseconds in a tick, as a power of two: 1.07 s.
const TICK: u32 = 30;
/// A cell: 40 bits of the flow's hash, one for its kind, three for its phase, 20 for the tick when it was seen.
const TICKS: u64 = (1 << 20) - 1;
const PHASE: u32 = 20;
const PHASES: u64 = 7 << PHASE;
const LONG: u64 = 1 << 23;
const TAG: u64 = !((1 << 24) - 1);

/// How far a flow has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Phase {
    /// The peer has spoken.
    Asked = 1,
    /// And was answered.
    Answered = 2,
    /// And has spoken again: whoever forges a source does not get that far by one packet.
    Open = 3,
    /// Either end has said that it ends.
    Closing = 4,
    /// This end spoke first.
    Ours = 5,
}

impl Phase {
    #[inline(always)]
    const fn from_number(number: u64) -> Option<Self> {
        match number {
            1 => Some(Self::Asked),
            2 => Some(Self::Answered),
            3 => Some(Self::Open),
            4 => Some(Self::Closing),
            5 => Some(Self::Ours),
            _ => None,
        }
    }

    /// Whether the peer spoke first, so that what this end says is an answer.
    #[inline(always)]
    #[must_use]
    pub const fn is_answerable(self) -> bool {
        !matches!(self, Self::Ours)
    }

    /// In ticks since the flow was seen last. `long`: of TCP, whose ends say when they end.
    #[inline(always)]
    const fn life(self, long: bool) -> u64 {
        const fn seconds(count: u64) -> u64 {
            (count * 1_000_000_000) >> TICK
        }
        match (self, long) {
            // A server sends its SYN-ACK for about a minute; and is a time to think of what to answer.
            (Self::Asked | Self::Answered | Self::Closing, true) => seconds(120),
            (Self::Asked | Self::Answered | Self::Closing, false) => seconds(30),
            (Self::Open | Self::Ours, true) => seconds(6 * 3_600),
            (Self::Open | Self::Ours, false) => seconds(180),
        }
    }
}

/// What a cell says at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry(u64);

/// The line of a flow in a memory of `lines`, a power of two.
#[inline(always)]
#[must_use]
pub const fn line(hash: u64, lines: u32) -> u32 {
    hash as u32 & (lines - 1)
}

#[inline(always)]
const fn ticks(now_ns: u64) -> u64 {
    (now_ns >> TICK) & TICKS
}

impl Entry {
    /// What lies in a cell.
    #[inline(always)]
    #[must_use]
    pub const fn read(word: u64) -> Self {
        Self(word)
    }

    /// As it lies in a cell.
    #[inline(always)]
    #[must_use]
    pub const fn word(self) -> u64 {
        self.0
    }

    #[inline(always)]
    const fn new(hash: u64, phase: Phase, long: bool, now_ns: u64) -> Self {
        let kind = if long { LONG } else { 0 };
        Self(hash & TAG | kind | (phase as u64) << PHASE | ticks(now_ns))
    }

    /// Whether it is about the flow of that hash.
    #[inline(always)]
    #[must_use]
    pub const fn is_of(self, hash: u64) -> bool {
        (self.0 ^ hash) & TAG == 0
    }

    /// How long ago it was seen, in ticks. The clock of another CPU may be a tick ahead.
    #[inline(always)]
    const fn age(self, now_ns: u64) -> u64 {
        (ticks(now_ns) + 1).wrapping_sub(self.0 & TICKS) & TICKS
    }

    /// The phase, unless it has expired.
    #[inline(always)]
    #[must_use]
    pub const fn phase(self, now_ns: u64) -> Option<Phase> {
        match Phase::from_number((self.0 & PHASES) >> PHASE) {
            Some(phase) if self.age(now_ns) <= phase.life(self.0 & LONG != 0) + 1 => Some(phase),
            _ => None,
        }
    }

    /// How readily it is given up for a new flow: the highest first; zero is not at all.
    #[inline(always)]
    #[must_use]
    pub const fn worth_giving_up(self, now_ns: u64) -> u64 {
        match self.phase(now_ns) {
            None => u64::MAX,
            Some(Phase::Open) => 0,
            Some(_) => self.age(now_ns) + 1,
        }
    }
}

/// A packet, as far as its flow is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sighting(u64);

/// What a packet does to its flow, in the lowest bits of a [`Sighting`].
mod event {
    /// The peer goes on.
    pub const ARRIVES: u64 = 0;
    /// The peer opens a TCP connection.
    pub const OPENS: u64 = 1;
    /// The peer says that it ends.
    pub const ENDS: u64 = 2;
    /// This end speaks, and rules allow it.
    pub const SPEAKS: u64 = 3;
    /// This end answers, if the peer spoke first.
    pub const ANSWERS: u64 = 4;
    /// The same, and says that it ends.
    pub const LEAVES: u64 = 5;
    /// Nothing: it only asks.
    pub const ASKS: u64 = 6;
    pub const ALL: u64 = 7;
}
/// In which phase a flow begins that is not there yet; zero: it does not.
const BEGINS: u32 = 3;
const IS_LONG: u64 = 1 << 6;

/// IP protocol numbers; both families' ICMP is the first.
const ICMP: u8 = 1;
const TCP: u8 = 6;

/// ICMPv6's types (RFC 4861, 4.3 and 4.4).
const NEIGHBOUR_SOLICITATION: u8 = 135;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;

/// TCP's flags (RFC 9293, 3.1).
const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

impl Sighting {
    #[inline(always)]
    const fn new(event: u64, begins: Option<Phase>, protocol: u8) -> Self {
        let begins = match begins {
            Some(phase) => (phase as u64) << BEGINS,
            None => 0,
        };
        Self(event | begins | if protocol == TCP { IS_LONG } else { 0 })
    }

    /// As a number.
    #[inline(always)]
    #[must_use]
    pub const fn number(self) -> u64 {
        self.0
    }

    /// From a number.
    #[inline(always)]
    #[must_use]
    pub const fn from_number(number: u64) -> Self {
        Self(number)
    }

    /// A packet from the peer, with TCP's flags or ICMP's type. `None`: it says nothing about its flow.
    ///
    /// A segment of a connection whose beginning was not seen begins one too, so that an agent that is new
    /// on a node cuts none. One with SYN and ACK does not: it is an answer.
    #[inline(always)]
    #[must_use]
    pub const fn arriving(protocol: u8, detail: u8) -> Option<Self> {
        let asked = Some(Phase::Asked);
        match protocol {
            TCP if detail & RST != 0 => None,
            TCP if detail & (SYN | ACK) == SYN => Some(Self::new(event::OPENS, asked, TCP)),
            TCP if detail & FIN != 0 => Some(Self::new(event::ENDS, None, TCP)),
            TCP if detail & SYN != 0 => Some(Self::new(event::ARRIVES, None, TCP)),
            // Echo requests (RFC 792, RFC 4443), and what neighbours say to each other (RFC 4861).
            ICMP if !matches!(detail, 8 | 128 | NEIGHBOUR_SOLICITATION | NEIGHBOUR_ADVERTISEMENT) => None,
            _ => Some(Self::new(event::ARRIVES, asked, protocol)),
        }
    }

    /// A packet of this end that rules allow. `None`: it says nothing about its flow.
    #[inline(always)]
    #[must_use]
    pub const fn allowed(protocol: u8, detail: u8) -> Option<Self> {
        let ours = Some(Phase::Ours);
        match protocol {
            TCP if detail & (FIN | RST) != 0 => Some(Self::new(event::LEAVES, None, TCP)),
            TCP if detail & (SYN | ACK) == SYN | ACK => Some(Self::new(event::SPEAKS, None, TCP)),
            ICMP => None,
            _ => Some(Self::new(event::SPEAKS, ours, protocol)),
        }
    }

    /// A packet of this end that no rule allows, and that goes on all the same, for rules are only tried. `None`:
    /// it does not say who spoke first.
    #[inline(always)]
    #[must_use]
    pub const fn tried(protocol: u8, detail: u8) -> Option<Self> {
        match protocol {
            // As under rules that are enforced, a connection that was there before is the peer's once it speaks.
            TCP if detail & (SYN | ACK | RST) != SYN => None,
            _ => Self::allowed(protocol, detail),
        }
    }

    /// A packet of this end that passes only as an answer. `None`: it cannot be one.
    #[inline(always)]
    #[must_use]
    pub const fn answering(protocol: u8, detail: u8) -> Option<Self> {
        match protocol {
            // Whoever opens a connection answers nobody.
            TCP if detail & (SYN | ACK | RST) == SYN => None,
            TCP if detail & (FIN | RST) != 0 => Some(Self::new(event::LEAVES, None, TCP)),
            // Echo replies. Neighbours ask each other again whether they are there.
            ICMP if !matches!(detail, 0 | 129 | NEIGHBOUR_SOLICITATION | NEIGHBOUR_ADVERTISEMENT) => None,
            _ => Some(Self::new(event::ANSWERS, None, protocol)),
        }
    }

    /// A first fragment that passes, so that the others may: as an answer, or because rules allow it.
    #[inline(always)]
    #[must_use]
    pub const fn first_fragment(is_answer: bool) -> Self {
        if is_answer {
            Self::new(event::ARRIVES, Some(Phase::Asked), 0)
        } else {
            Self::new(event::SPEAKS, Some(Phase::Ours), 0)
        }
    }

    /// A later fragment.
    pub const LATER_FRAGMENT: Self = Self::new(event::ASKS, None, 0);

    /// What becomes of the flow in `entry`, which is in `phase`.
    #[inline(always)]
    #[must_use]
    pub const fn next(self, entry: Entry, phase: Phase, now_ns: u64) -> Entry {
        let (next, refreshes) = match (self.0 & event::ALL, phase) {
            (event::ARRIVES, Phase::Answered) => (Phase::Open, true),
            (event::ARRIVES, _) => (phase, true),
            // A forged SYN takes nothing away from a connection that is there.
            (event::OPENS, Phase::Open | Phase::Answered) => (phase, true),
            (event::OPENS, _) => (Phase::Asked, true),
            (event::ENDS, Phase::Ours) => (phase, true),
            (event::ENDS, _) => (Phase::Closing, true),
            (event::SPEAKS, Phase::Ours) => (phase, true),
            (event::SPEAKS | event::ANSWERS, Phase::Asked) => (Phase::Answered, false),
            (event::LEAVES, Phase::Asked | Phase::Answered | Phase::Open) => (Phase::Closing, false),
            // What this end says keeps no flow alive of which the peer has fallen silent.
            _ => (phase, false),
        };
        let seen = if refreshes { ticks(now_ns) } else { entry.0 & TICKS };
        Entry(entry.0 & (TAG | LONG) | (next as u64) << PHASE | seen)
    }

    /// The entry of a flow that is not there yet, if it begins with this packet.
    #[inline(always)]
    #[must_use]
    pub const fn first(self, hash: u64, now_ns: u64) -> Option<Entry> {
        match Phase::from_number((self.0 >> BEGINS) & 7) {
            Some(phase) => Some(Entry::new(hash, phase, self.0 & IS_LONG != 0, now_ns)),
            None => None,
        }
    }
}

#[cfg(test)]
mod tests;
