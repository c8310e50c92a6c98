//! What operators and failed authentication have denied, each with a lifetime and a reason.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use aya::maps::{HashMap, MapData, lpm_trie::Key};
use enforcer_common::{
    layout::{
        Access, AccessKey, DenialReason, DeniedPrefix, IPV4_LIST, NO_POLICY, REASON_BYTES, access_flag,
        control_flag, table, table_kind,
    },
    verdict::Reason,
};
use ipnet::IpNet;

use super::{
    AccessMap, KernelError,
    address::{access_key, prefix},
    clock::{after, monotonic_ns},
    control::ControlBlock,
    elements::Elements as _,
    turns::Turns,
};
use crate::{
    policy::model::Action,
    sync::{Rank, Ranked, without_waiting},
};

/// Denials at one time, at most; a further one is refused.
pub const MAX_DENIALS: usize = enforcer_common::layout::MAX_DENIALS as usize;

/// Why denials are there, in words, by their key: kept with them.
pub type Reasons = HashMap<MapData, DeniedPrefix, DenialReason>;

/// Of those, how many failed authentication cannot use up.
const FOR_OPERATORS: usize = 4_096;

/// The denials in force. A clone speaks of the same ones. The memory is locked for moments; the kernel is told by each
/// thread for itself.
#[derive(Clone)]
pub struct Denials(Arc<Inner>);

struct Inner {
    access: AccessMap,
    control: ControlBlock,
    reasons: Reasons,
    state: Ranked<State>,
    /// How many there are.
    count: AtomicUsize,
}

struct State {
    entries: BTreeMap<IpNet, Denial>,
    turns: Turns<IpNet>,
}

/// One denial.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    /// Who asked for it.
    pub by: DeniedBy,
    /// Why, in words.
    pub reason: Arc<str>,
    /// When it ends, on the monotonic clock.
    pub expires_ns: u64,
    /// What becomes of its packets.
    pub action: Action,
}

/// Who asked for a denial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeniedBy {
    /// A person, by the command line.
    Operator,
    /// The gateway, for failed authentication.
    Authentication,
}

impl DeniedBy {
    /// The kernel's reason.
    #[must_use]
    pub fn reason(self) -> Reason {
        match self {
            Self::Operator => Reason::DeniedByOperator,
            Self::Authentication => Reason::DeniedForAuthentication,
        }
    }
}

impl Denials {
    /// Those that are in the given maps: an earlier agent's.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn new(access: AccessMap, reasons: Reasons, control: ControlBlock) -> Result<Self, KernelError> {
        let mut entries = BTreeMap::new();
        for (key, entry) in access.entries()? {
            let Some(prefix) = prefix(&key).filter(|_| key.data().table & !IPV4_LIST == runtime_table())
            else {
                continue;
            };
            let by = if entry.reason == Reason::DeniedForAuthentication as u32 {
                DeniedBy::Authentication
            } else {
                DeniedBy::Operator
            };
            let reason = reasons.get(&denied(&key), 0).ok();
            entries.insert(
                prefix,
                Denial {
                    by,
                    reason: reason.as_ref().and_then(text).unwrap_or("not recorded").into(),
                    expires_ns: entry.expires_ns,
                    action: if entry.flags & access_flag::RESET == 0 {
                        Action::Drop
                    } else {
                        Action::Reset
                    },
                },
            );
        }
        control.set_flag(control_flag::RUNTIME, !entries.is_empty())?;
        let turns = Turns::default();
        let denials = Self(Arc::new(Inner {
            access,
            control,
            reasons,
            count: AtomicUsize::new(entries.len()),
            state: Ranked::new(Rank::Denials, State { entries, turns }),
        }));
        denials.expire()?;
        Ok(denials)
    }

    /// Denies `prefix` for a while. An operator's denial is never shortened by an automatic one.
    ///
    /// # Errors
    /// There are `MAX_DENIALS` already, or the kernel refuses.
    pub fn deny(
        &self,
        prefix: IpNet,
        by: DeniedBy,
        reason: &str,
        lasts: Duration,
        action: Action,
    ) -> Result<(), KernelError> {
        let prefix = prefix.trunc();
        let denial = Denial {
            by,
            reason: reason.into(),
            expires_ns: after(monotonic_ns(), lasts),
            action,
        };
        without_waiting(|| {
            self.expire()?;
            self.0.enter(prefix, &denial)
        })
    }

    /// Takes a denial back; whether there was one.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn allow(&self, prefix: IpNet) -> Result<bool, KernelError> {
        let prefix = prefix.trunc();
        let mut state = self.0.state.lock();
        let was_there = state.entries.remove(&prefix).is_some();
        let mine = was_there && state.turns.begin(prefix);
        self.0.count.store(state.entries.len(), SeqCst);
        drop(state);
        if mine {
            self.0.settle(prefix)?;
        }
        self.0.tell_whether_any()?;
        Ok(was_there)
    }

    /// The denial that `address` is under.
    #[must_use]
    pub fn find(&self, address: IpAddr) -> Option<(IpNet, Denial)> {
        if self.0.count.load(SeqCst) == 0 {
            return None;
        }
        let address = address.to_canonical();
        let now_ns = monotonic_ns();
        find(&self.0.state.lock().entries, address, |denial| {
            denial.expires_ns > now_ns
        })
    }

    /// All denials in force, in order of prefix.
    #[must_use]
    pub fn list(&self) -> Vec<(IpNet, Denial)> {
        let now_ns = monotonic_ns();
        let state = self.0.state.lock();
        let holds = |(_, denial): &(&IpNet, &Denial)| denial.expires_ns > now_ns;
        state
            .entries
            .iter()
            .filter(holds)
            .map(|(prefix, denial)| (*prefix, denial.clone()))
            .collect()
    }

    /// Forgets what has ended; the kernel has not heeded it since.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn expire(&self) -> Result<(), KernelError> {
        let now_ns = monotonic_ns();
        let mut state = self.0.state.lock();
        let State { entries, turns } = &mut *state;
        let ended = entries.extract_if(.., |_, denial| denial.expires_ns <= now_ns);
        let ended: Vec<IpNet> = ended
            .map(|(prefix, _)| prefix)
            .filter(|prefix| turns.begin(*prefix))
            .collect();
        self.0.count.store(state.entries.len(), SeqCst);
        drop(state);
        if ended.is_empty() {
            return Ok(());
        }
        // All of them, whatever becomes of one.
        let settled = ended.into_iter().map(|prefix| self.0.settle(prefix));
        settled.fold(Ok(()), Result::and)?;
        self.0.tell_whether_any()
    }
}

impl Inner {
    fn enter(&self, prefix: IpNet, denial: &Denial) -> Result<(), KernelError> {
        let mut state = self.state.lock();
        let known = state.entries.get(&prefix);
        if denial.by == DeniedBy::Authentication && known.is_some_and(|entry| entry.by == DeniedBy::Operator)
        {
            return Ok(());
        }
        let room = match denial.by {
            DeniedBy::Operator => MAX_DENIALS,
            DeniedBy::Authentication => MAX_DENIALS - FOR_OPERATORS,
        };
        if known.is_none() && state.entries.len() >= room {
            let (what, limit) = ("denials", room);
            return Err(KernelError::TooMany { what, limit });
        }
        let before = state.entries.insert(prefix, denial.clone());
        let mine = state.turns.begin(prefix);
        self.count.store(state.entries.len(), SeqCst);
        drop(state);
        if mine && let Err(error) = self.settle(prefix) {
            self.take_back(prefix, denial, before);
            return Err(error);
        }
        self.tell_whether_any()
    }

    /// A denial that the kernel refused does not count, unless another has taken its place meanwhile.
    fn take_back(&self, prefix: IpNet, denial: &Denial, before: Option<Denial>) {
        let mut state = self.state.lock();
        if state.entries.get(&prefix) != Some(denial) {
            return;
        }
        match before {
            Some(before) => drop(state.entries.insert(prefix, before)),
            None => drop(state.entries.remove(&prefix)),
        }
        self.count.store(state.entries.len(), SeqCst);
    }

    /// Tells the kernel whether a prefix is denied, and keeps the reason.
    fn settle(&self, prefix: IpNet) -> Result<(), KernelError> {
        loop {
            let denial = self.state.lock().entries.get(&prefix).cloned();
            let written = match denial {
                Some(denial) => self.write(prefix, &denial),
                None => self.remove(prefix),
            };
            if !self.state.lock().turns.again(prefix) {
                return written;
            }
        }
    }

    fn write(&self, prefix: IpNet, denial: &Denial) -> Result<(), KernelError> {
        let key = access_key(runtime_table(), prefix);
        let resets = denial.action == Action::Reset;
        let entry = Access::new(denial.expires_ns, denial.by.reason(), NO_POLICY).resetting(resets);
        self.reasons
            .put("REASONS", &denied(&key), &recorded(&denial.reason))?;
        self.access.insert(&key, entry)
    }

    fn remove(&self, prefix: IpNet) -> Result<(), KernelError> {
        let key = access_key(runtime_table(), prefix);
        self.access.remove(&key)?;
        self.reasons
            .remove_if_present("REASONS", &denied(&key))
            .map(|_| ())
    }

    fn tell_whether_any(&self) -> Result<(), KernelError> {
        let any = || self.count.load(SeqCst) > 0;
        // Asked for each denial, and the answer seldom changes.
        if (self.control.current().flags & control_flag::RUNTIME != 0) == any() {
            return Ok(());
        }
        self.control.follow(control_flag::RUNTIME, any)
    }
}

/// The longest prefix of `address` whose denial `holds`. Each length is looked up, since the gateway asks for every
/// connection that a load balancer hands on, and there may be tens of thousands of denials.
fn find(
    entries: &BTreeMap<IpNet, Denial>,
    address: IpAddr,
    holds: impl Fn(&Denial) -> bool,
) -> Option<(IpNet, Denial)> {
    let longest = IpNet::from(address).max_prefix_len();
    (0..=longest).rev().find_map(|length| {
        let prefix = IpNet::new(address, length).ok()?.trunc();
        let denial = entries.get(&prefix).filter(|denial| holds(denial))?;
        Some((prefix, denial.clone()))
    })
}

fn denied(key: &Key<AccessKey>) -> DeniedPrefix {
    let AccessKey { table, address } = key.data();
    DeniedPrefix {
        table,
        address,
        length: key.prefix_len(),
    }
}

/// A reason as it is kept, cut at a character if it is too long.
fn recorded(reason: &str) -> DenialReason {
    let length = reason.floor_char_boundary(REASON_BYTES);
    let mut text = [0; REASON_BYTES];
    text[..length].copy_from_slice(&reason.as_bytes()[..length]);
    DenialReason {
        length: u32::try_from(length).unwrap_or(0),
        text,
    }
}

fn text(reason: &DenialReason) -> Option<&str> {
    std::str::from_utf8(reason.text.get(..reason.length as usize)?).ok()
}

fn runtime_table() -> u32 {
    table(table_kind::RUNTIME, 0, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_prefix_that_holds_is_found() {
        let denial = |reason: &str, expires_ns| Denial {
            by: DeniedBy::Operator,
            reason: reason.into(),
            expires_ns,
            action: Action::Drop,
        };
        let entries: BTreeMap<IpNet, Denial> = [
            ("192.0.2.0/24", "net", 20),
            ("192.0.2.7/32", "host", 10),
            ("0.0.0.0/1", "half", 30),
            ("2001:db8::/32", "v6", 20),
            ("2001:db8::7/128", "v6 host", 20),
        ]
        .into_iter()
        .map(|(prefix, reason, ends)| (prefix.parse().unwrap(), denial(reason, ends)))
        .collect();
        for (address, now_ns, expected) in [
            ("192.0.2.7", 5, Some("host")),
            ("192.0.2.7", 15, Some("net")),
            ("192.0.2.8", 5, Some("net")),
            ("127.0.0.1", 5, Some("half")),
            ("128.0.0.1", 5, None),
            ("2001:db8::7", 5, Some("v6 host")),
            ("2001:db8:1::", 5, Some("v6")),
            ("2001:db8::7", 25, None),
            ("::c000:207", 5, None),
        ] {
            let found = find(&entries, address.parse().unwrap(), |denial| {
                denial.expires_ns > now_ns
            });
            let reason = found.as_ref().map(|(_, denial)| &*denial.reason);
            assert_eq!(reason, expected, "{address} at {now_ns}");
        }
    }
}
