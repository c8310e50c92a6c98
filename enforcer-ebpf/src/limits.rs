//! Stage 6: the policy's limits. All must admit the packet, and only then all are charged.
//!
//! [`enforcer_limits`] goes through them, and one limit is one call of [`enforcer_limit`]: global functions
//! that the verifier looks at once and for themselves. They take numbers alone, so that nothing of the
//! packet's history is looked at with them.

use enforcer_common::{
    layout::{BUDGET, Bank, LIMITS_PER_BANK, Limit, family, limit_count, limit_key},
    limiter::{Algorithm, Params},
    sketch::is_mapped,
    verdict::Reason,
};

use crate::{
    atomic::Cell,
    interface::Interface,
    maps::{BUDGETS, CONTROL, POLICIES, SHARED},
    parse::Packet,
    service::Place,
    sketch::{Cells, words},
    syn::Handshake,
};

/// Compare-and-swap attempts of a loop before a contended charge is refused.
pub const ATTEMPTS: usize = 4;

/// A packet under limits.
pub struct Charge<'a> {
    pub interface: Interface,
    pub packet: &'a Packet,
    /// Of the frame.
    pub bytes: u64,
    pub now_ns: u64,
    pub handshake: Handshake,
}

/// What [`enforcer_limits`] is asked: where the limits are, and what the packet is to them, in one number.
#[derive(Clone, Copy)]
pub struct Question(u64);

impl Question {
    /// The limits are those of a verified identity.
    const OF_IDENTITY: u64 = 1 << 17;
    /// It is charged to limiters that sources share.
    pub const SHARED: u64 = 1 << 18;
    /// It opens a connection, to limits per source.
    pub const OPENS_OF_SOURCE: u64 = 1 << 19;
    /// It opens a connection, to the other limits.
    pub const OPENS_OF_ALL: u64 = 1 << 20;
    /// From here on, the kind of traffic that it is to limits per source.
    const TRAFFIC_OF_SOURCE: u32 = 24;
    /// From here on, the kind of traffic that it is to the other limits.
    const TRAFFIC_OF_ALL: u32 = 32;
    /// From here on, the interface's position.
    const POSITION: u32 = 40;
    /// From here on, which of the limits it is about.
    const LIMIT: u32 = 56;
    /// Nothing is charged.
    const ASKS: u64 = 1 << 60;

    #[inline(always)]
    pub fn new(place: Place) -> Self {
        Self(place.number())
    }

    /// As a global function takes it.
    #[inline(always)]
    pub fn number(self) -> u64 {
        self.0
    }

    /// As a global function has got it.
    #[inline(always)]
    pub fn from(number: u64) -> Self {
        Self(number)
    }

    /// Kinds of traffic, as terms of a [`Handshake`].
    #[inline(always)]
    pub const fn traffic(of_source: u8, of_all: u8) -> u64 {
        (of_source as u64) << Self::TRAFFIC_OF_SOURCE | (of_all as u64) << Self::TRAFFIC_OF_ALL
    }

    #[inline(always)]
    fn is(self, what: u64) -> bool {
        self.0 & what != 0
    }

    #[inline(always)]
    fn place(self) -> Place {
        Place::from_number(self.0)
    }

    #[inline(always)]
    fn position(self) -> u32 {
        (self.0 >> Self::POSITION) as u32 & 0xffff
    }

    /// What the limits are under.
    #[inline(always)]
    pub fn bank(self) -> Option<&'static Bank> {
        let place = self.place();
        let policy = POLICIES.get(place.index())?;
        Some(if place.bank() == 0 {
            &policy.banks[0]
        } else {
            &policy.banks[1]
        })
    }

    /// The same of one of the limits.
    #[inline(always)]
    fn of(self, limit: u32) -> u64 {
        self.0 | u64::from(limit) << Self::LIMIT
    }

    #[inline(always)]
    fn limit(self) -> Option<&'static Limit> {
        let number = (self.0 >> Self::LIMIT) as usize & (LIMITS_PER_BANK - 1);
        self.bank()?.limits.get(number)
    }

    /// What a packet of `bytes` costs under `limit`; zero if the limit is not about it.
    #[inline(always)]
    fn cost(self, limit: &Limit, family: u8, bytes: u64) -> u64 {
        let of_source = limit.key == limit_key::SOURCE;
        let (traffic, opens) = if of_source {
            (Self::TRAFFIC_OF_SOURCE, Self::OPENS_OF_SOURCE)
        } else {
            (Self::TRAFFIC_OF_ALL, Self::OPENS_OF_ALL)
        };
        let about = u64::from(limit.traffic) & self.0 >> traffic != 0 && limit.families & family != 0;
        if !about || !(of_source || self.is(Self::SHARED)) {
            return 0;
        }
        match limit.count {
            limit_count::BYTES => bytes,
            limit_count::CONNECTIONS => u64::from(self.is(opens)),
            _ => 1,
        }
    }
}

/// The verdict of all limits.
#[inline(always)]
pub fn check(charge: &Charge<'_>, place: Place, bank: &Bank) -> Reason {
    if bank.limit_count == 0 {
        return Reason::WithinLimits;
    }
    let question = question(charge, place);
    let (high, low) = words(&charge.packet.source);
    let (now_ns, bytes) = (charge.now_ns, charge.bytes);
    if let Some(reason) = refused_at_once(question, bank, high, low, now_ns, bytes) {
        return reason;
    }
    let mut answer = CONTENDED;
    // Most policies have one, and one call is less than two.
    if bank.limit_count == 1 {
        answer = enforcer_limit(question, high, low, now_ns, bytes);
    }
    if answer & CONTENDED != 0 {
        answer = enforcer_limits(question, high, low, now_ns, bytes);
    }
    reason(answer, Reason::WithinLimits)
}

/// What [`enforcer_limits`] is asked of a packet.
#[inline(always)]
pub fn question(charge: &Charge<'_>, place: Place) -> u64 {
    let position = u64::from(charge.interface.position()) << Question::POSITION;
    Question::new(place).0 | position | charge.handshake.terms()
}

/// The same of a packet of a verified connection, whose limits are those of its identity.
#[inline(always)]
pub fn identity_question(place: Place, traffic: u8) -> u64 {
    let terms = Question::OF_IDENTITY | Question::SHARED | Question::traffic(traffic, traffic);
    Question::new(place).0 | terms
}

/// The first limit's refusal, if that is a bucket by source: most of a flood goes no further.
///
/// It is said in place. Where the processor's speculation of returns is kept safe (Linux calls it
/// `spec_rstack_overflow`), none is predicted, and each call costs about as much as a stage.
#[inline(always)]
fn refused_at_once(
    question: u64,
    bank: &Bank,
    high: u64,
    low: u64,
    now_ns: u64,
    bytes: u64,
) -> Option<Reason> {
    let [limit, ..] = &bank.limits;
    let params = match limit.params.algorithm() {
        Some(Algorithm::TokenBucket | Algorithm::LeakyBucket) => {
            limit.params.known_as(Algorithm::TokenBucket)
        }
        _ => return None,
    };
    let cost = Question(question).cost(limit, family_of(high, low), bytes);
    if limit.key != limit_key::SOURCE || cost == 0 {
        return None;
    }
    let cells = Cells::of(CONTROL.get(0)?, limit, high, low)?;
    cells
        .refuse(&params, now_ns, cost)
        .then(|| Reason::limit(limit.index.into()))
}

/// The family of an address as [`words`].
#[inline(always)]
fn family_of(high: u64, low: u64) -> u8 {
    if is_mapped(high, low) {
        family::IPV4
    } else {
        family::IPV6
    }
}

/// The verdict of the limits that a verified identity has instead.
#[inline(always)]
pub fn check_identity(identity: u32, place: Place, traffic: u8, bytes: u64, now_ns: u64) -> Reason {
    let question = identity_question(place, traffic);
    let answer = enforcer_limits(question, 0, u64::from(identity), now_ns, bytes);
    reason(answer, Reason::Verified)
}

/// What an answer of [`enforcer_limits`] means.
#[inline(always)]
pub fn reason(answer: u64, within: Reason) -> Reason {
    const OVER_BUDGET: u64 = BUDGET as u64;
    match answer {
        WITHIN => within,
        OVER_BUDGET => Reason::OverBudget,
        index => Reason::limit(index as u32),
    }
}

/// The packet is within the limit, or within all: no index of a limit.
const WITHIN: u64 = 1 << 8;
/// Beside the index of the limit: nothing is decided.
const CONTENDED: u64 = 1 << 9;

/// Asks all limits, and charges them if all admit: which one refuses, by its `index`, or [`WITHIN`]. `high`
/// and `low` are the source; or `low` is the number of a verified identity.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn enforcer_limits(question: u64, high: u64, low: u64, now_ns: u64, bytes: u64) -> u64 {
    let question = Question(question);
    let Some(bank) = question.bank() else {
        return WITHIN;
    };
    let (first, count) = if question.is(Question::OF_IDENTITY) {
        (bank.limit_count, bank.identity_count)
    } else {
        (0, bank.limit_count)
    };
    let from = question.of(first);
    if count > 1 {
        let answer = refused_by(from | Question::ASKS, count, high, low, now_ns, bytes);
        if answer != WITHIN {
            return answer;
        }
    }
    refused_by(from, count, high, low, now_ns, bytes)
}

/// The first of `count` limits that refuses, or [`WITHIN`].
#[inline(always)]
fn refused_by(from: u64, count: u32, high: u64, low: u64, now_ns: u64, bytes: u64) -> u64 {
    for step in 0..LIMITS_PER_BANK as u32 {
        if step >= count {
            break;
        }
        let question = from + (u64::from(step) << Question::LIMIT);
        let mut answer = CONTENDED;
        for _ in 0..ATTEMPTS {
            answer = enforcer_limit(question, high, low, now_ns, bytes);
            if answer & CONTENDED == 0 {
                break;
            }
        }
        if answer != WITHIN {
            return answer & (WITHIN - 1);
        }
    }
    WITHIN
}

/// What one attempt has come to.
#[derive(Clone, Copy)]
pub enum Outcome {
    Refused,
    Admitted,
    /// Another CPU was faster: nothing is decided.
    Contended,
}

/// What an expression says under parameters of which it knows the algorithm.
///
/// Told apart here once, not at each step: otherwise the verifier follows every mixture. The buckets admit
/// alike. No function: the compiler would call it, and the stack is short.
macro_rules! by_algorithm {
    ($params:expr, $known:ident => $outcome:expr) => {
        match $params.algorithm() {
            Some(Algorithm::TokenBucket | Algorithm::LeakyBucket) => {
                let $known = $params.known_as(Algorithm::TokenBucket);
                $outcome
            }
            Some(Algorithm::FixedWindow) => {
                let $known = $params.known_as(Algorithm::FixedWindow);
                $outcome
            }
            Some(Algorithm::SlidingWindow) => {
                let $known = $params.known_as(Algorithm::SlidingWindow);
                $outcome
            }
            None => Outcome::Refused,
        }
    };
}
pub(crate) use by_algorithm;

/// Asks or charges one limit, in one attempt: [`WITHIN`], or the limit's `index`, with [`CONTENDED`] if another
/// CPU was faster.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn enforcer_limit(question: u64, high: u64, low: u64, now_ns: u64, bytes: u64) -> u64 {
    let question = Question(question);
    let Some(limit) = question.limit() else {
        return WITHIN;
    };
    let cost = question.cost(limit, family_of(high, low), bytes);
    if cost == 0 {
        return WITHIN;
    }
    let (params, charges) = (&limit.params, !question.is(Question::ASKS));
    // One that is missing, for which there is no way, limits nothing.
    let outcome = if limit.key == limit_key::SOURCE {
        let Some(control) = CONTROL.get(0) else {
            return WITHIN;
        };
        let Some(cells) = Cells::of(control, limit, high, low) else {
            return WITHIN;
        };
        by_algorithm!(params, known => cells.decide(&known, now_ns, cost, charges))
    } else {
        let cell = match limit.key {
            limit_key::IDENTITY => BUDGETS.get_ptr_mut(limit.shared + low as u32),
            limit_key::SERVICE => SHARED.get_ptr_mut(limit.shared),
            _ => SHARED.get_ptr_mut(limit.shared + question.position()),
        };
        let Some(cell) = cell else {
            return WITHIN;
        };
        // SAFETY: a map's value of eight bytes.
        let cell = unsafe { Cell::new(cell) };
        by_algorithm!(params, known => charge_once(cell, &known, now_ns, cost, charges))
    };
    match outcome {
        Outcome::Refused => u64::from(limit.index),
        Outcome::Admitted => WITHIN,
        Outcome::Contended => u64::from(limit.index) | CONTENDED,
    }
}

/// One attempt at a limiter of its own.
#[inline(always)]
pub fn charge_once(cell: Cell, params: &Params, now_ns: u64, cost: u64, charges: bool) -> Outcome {
    let state = cell.read();
    match params.admit(state, now_ns, cost) {
        None => Outcome::Refused,
        Some(next) if charges && next != state && !cell.swap(state, next) => Outcome::Contended,
        Some(_) => Outcome::Admitted,
    }
}

/// Charges one packet to a bucket of its own, by as many attempts as contention may take.
#[inline(always)]
pub fn charge_bucket(cell: Cell, params: &Params, now_ns: u64) -> bool {
    let params = params.known_as(Algorithm::TokenBucket);
    for _ in 0..ATTEMPTS {
        match charge_once(cell, &params, now_ns, 1, true) {
            Outcome::Contended => {}
            outcome => return matches!(outcome, Outcome::Admitted),
        }
    }
    false
}
