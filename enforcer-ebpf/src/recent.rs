//! Stage 7: what the limits refuse of a source that was verified recently may spend the share that is kept
//! for that source, so that it can open new connections while others use the limits up.

use enforcer_common::{
    layout::{Address, Bank, Control, MAX_RECENT, control_flag, policy_flag, recent_bit, recent_words},
    verdict::Reason,
};

use crate::{
    atomic::Cell,
    limits::{Question, charge_bucket},
    maps::{RECENT, RECENT_BITS, RESERVES},
    parse::{Packet, address, protocol},
    service::Place,
    sketch::words,
};

/// The reason to let a packet pass that the limits refuse, if there is one. Only TCP has verified
/// connections.
#[inline(always)]
pub fn check(control: &Control, place: Place, bank: &Bank, packet: &Packet, now_ns: u64) -> Option<Reason> {
    if control.flags & control_flag::RECENTS == 0
        || bank.flags & policy_flag::RECENT == 0
        || packet.protocol != protocol::TCP
    {
        return None;
    }
    let (high, low) = words(&packet.source);
    let admitted = enforcer_recent(Question::new(place).number(), high, low, now_ns);
    (admitted == ADMITTED).then_some(Reason::RecentlyVerified)
}

const REFUSED: u64 = 0;
const ADMITTED: u64 = 1;

/// Charges the share of a source, given as two words, if it has one. The place is that of a [`Question`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn enforcer_recent(question: u64, high: u64, low: u64, now_ns: u64) -> u64 {
    let (high, low) = recent_words(high, low);
    let (word, bit) = recent_bit(high, low);
    if RECENT_BITS.get(word).is_none_or(|bits| bits & bit == 0) {
        return REFUSED;
    }
    let source: Address = address::address([high.to_be(), low.to_be()]);
    #[expect(
        clippy::needless_borrows_for_generic_args,
        reason = "a key by value is copied, on a stack that is short"
    )]
    // SAFETY: the agent replaces values as a whole, and a replaced one outlives the packet (RCU).
    let entry = unsafe { RECENT.get(&source) };
    let (Some(entry), Some(bank)) = (entry, Question::from(question).bank()) else {
        return REFUSED;
    };
    // A clock that is read on another processor may be a little behind.
    if now_ns.saturating_sub(entry.seen_ns) > bank.recent_for_ns {
        return REFUSED;
    }
    let shares = if bank.flags & policy_flag::SHADOW == 0 {
        0
    } else {
        MAX_RECENT
    };
    let Some(cell) = RESERVES.get_ptr_mut(entry.place + shares) else {
        return REFUSED;
    };
    // SAFETY: a map's value of eight bytes.
    let cell = unsafe { Cell::new(cell) };
    u64::from(charge_bucket(cell, &bank.recent, now_ns))
}
