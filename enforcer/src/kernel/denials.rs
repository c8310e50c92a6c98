//! What operators and failed authentication have denied, each with a lifetime and a reason.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
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
};
use crate::policy::model::Action;

/// Denials at one time, at most; a further one is refused.
pub const MAX_DENIALS: usize = enforcer_common::layout::MAX_DENIALS as usize;

/// Why denials are there, in words, by their key: kept with them.
pub type Reasons = HashMap<MapData, DeniedPrefix, DenialReason>;

/// Of those, how many failed authentication cannot use up.
const FOR_OPERATORS: usize = 4_096;

/// The denials in force. A clone speaks of the same ones.
#[derive(Clone)]
pub struct Denials(Arc<Mutex<State>>);

struct State {
    access: AccessMap,
    control: ControlBlock,
    reasons: Reasons,
    entries: Entries,
}

/// Operators' denials and automatic ones, by prefix. Neither hides the other.
#[derive(Default)]
struct Entries {
    operator: BTreeMap<IpNet, Denial>,
    automatic: BTreeMap<IpNet, Denial>,
}

impl Entries {
    fn of(&self, by: DeniedBy) -> &BTreeMap<IpNet, Denial> {
        match by {
            DeniedBy::Operator => &self.operator,
            DeniedBy::Authentication => &self.automatic,
        }
    }

    fn of_mut(&mut self, by: DeniedBy) -> &mut BTreeMap<IpNet, Denial> {
        match by {
            DeniedBy::Operator => &mut self.operator,
            DeniedBy::Authentication => &mut self.automatic,
        }
    }

    fn len(&self) -> usize {
        self.operator.len() + self.automatic.len()
    }

    /// All of them, an operator's first.
    fn all(&self) -> impl Iterator<Item = (&IpNet, &Denial)> {
        self.operator.iter().chain(&self.automatic)
    }
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

    /// Both.
    const ALL: [Self; 2] = [Self::Operator, Self::Authentication];

    /// Whose list it is on.
    fn list(self) -> u32 {
        let kind = match self {
            Self::Operator => table_kind::OPERATOR,
            Self::Authentication => table_kind::AUTOMATIC,
        };
        table(kind, 0, 0)
    }

    /// Says to the programs that there are any.
    fn flag(self) -> u64 {
        match self {
            Self::Operator => control_flag::OPERATOR,
            Self::Authentication => control_flag::AUTOMATIC,
        }
    }
}

impl Denials {
    /// Those that are in the given maps: an earlier agent's.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn new(access: AccessMap, reasons: Reasons, control: ControlBlock) -> Result<Self, KernelError> {
        let mut entries = Entries::default();
        for (key, entry) in access.entries()? {
            let list = key.data().table & !IPV4_LIST;
            let by = DeniedBy::ALL.into_iter().find(|by| by.list() == list);
            let Some((by, prefix)) = by.zip(prefix(&key)) else {
                continue;
            };
            let reason = reasons.get(&denied(&key), 0).ok();
            entries.of_mut(by).insert(
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
        for by in DeniedBy::ALL {
            control.set_flag(by.flag(), !entries.of(by).is_empty())?;
        }
        let mut state = State {
            access,
            control,
            reasons,
            entries,
        };
        state.expire(monotonic_ns())?;
        Ok(Self(Arc::new(Mutex::new(state))))
    }

    /// Denies `prefix` for a while. What an operator and what the agent has denied holds apart from each other.
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
        let mut state = self.state();
        let now_ns = monotonic_ns();
        state.expire(now_ns)?;
        let expires_ns = after(now_ns, lasts);
        let is_known = state.entries.of(by).contains_key(&prefix);
        let room = match by {
            DeniedBy::Operator => MAX_DENIALS,
            DeniedBy::Authentication => MAX_DENIALS - FOR_OPERATORS,
        };
        if !is_known && state.entries.len() >= room {
            let (what, limit) = ("denials", room);
            return Err(KernelError::TooMany { what, limit });
        }
        let entry = Access::new(expires_ns, by.reason(), NO_POLICY).resetting(action == Action::Reset);
        let key = access_key(by.list(), prefix);
        state
            .reasons
            .insert(denied(&key), recorded(reason), 0)
            .map_err(KernelError::map("REASONS"))?;
        state.access.insert(&key, entry)?;
        let reason = reason.into();
        state.entries.of_mut(by).insert(
            prefix,
            Denial {
                by,
                reason,
                expires_ns,
                action,
            },
        );
        state.control.set_flag(by.flag(), true)
    }

    /// Takes denials of exactly this prefix back, an operator's and an automatic one; whether there was any.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn allow(&self, prefix: IpNet) -> Result<bool, KernelError> {
        let (mut state, prefix) = (self.state(), prefix.trunc());
        let removed = [
            state.remove(DeniedBy::Operator, prefix)?,
            state.remove(DeniedBy::Authentication, prefix)?,
        ];
        Ok(removed.contains(&true))
    }

    /// The denial that `address` is under: an operator's, else an automatic one.
    #[must_use]
    pub fn find(&self, address: IpAddr) -> Option<(IpNet, Denial)> {
        let address = address.to_canonical();
        let now_ns = monotonic_ns();
        let state = self.state();
        DeniedBy::ALL
            .into_iter()
            .find_map(|by| find(state.entries.of(by), address, |denial| denial.expires_ns > now_ns))
    }

    /// All denials in force, in order of prefix. A prefix may be denied by an operator, and automatically too.
    #[must_use]
    pub fn list(&self) -> Vec<(IpNet, Denial)> {
        let now_ns = monotonic_ns();
        let state = self.state();
        let mut list: Vec<(IpNet, Denial)> = state
            .entries
            .all()
            .filter(|(_, denial)| denial.expires_ns > now_ns)
            .map(|(prefix, denial)| (*prefix, denial.clone()))
            .collect();
        list.sort_by_key(|(prefix, _)| *prefix);
        list
    }

    /// Forgets what has ended; the kernel has not heeded it since.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn expire(&self) -> Result<(), KernelError> {
        self.state().expire(monotonic_ns())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn expire(&mut self, now_ns: u64) -> Result<(), KernelError> {
        let ended: Vec<(DeniedBy, IpNet)> = self
            .entries
            .all()
            .filter(|(_, denial)| denial.expires_ns <= now_ns)
            .map(|(prefix, denial)| (denial.by, *prefix))
            .collect();
        for (by, prefix) in ended {
            self.remove(by, prefix)?;
        }
        Ok(())
    }

    fn remove(&mut self, by: DeniedBy, prefix: IpNet) -> Result<bool, KernelError> {
        if !self.entries.of(by).contains_key(&prefix) {
            return Ok(false);
        }
        let key = access_key(by.list(), prefix);
        self.access.remove(&key)?;
        if let Err(error) = self.reasons.remove(&denied(&key)) {
            tracing::debug!(%prefix, %error, "the denial had no reason recorded");
        }
        self.entries.of_mut(by).remove(&prefix);
        if self.entries.of(by).is_empty() {
            self.control.set_flag(by.flag(), false)?;
        }
        Ok(true)
    }
}

/// The longest prefix of `address` whose denial `holds`. Each length is looked up, since the gateway asks for every
/// connection that a load balancer hands on, and there may be tens of thousands of denials.
fn find(
    entries: &BTreeMap<IpNet, Denial>,
    address: IpAddr,
    holds: impl Fn(&Denial) -> bool,
) -> Option<(IpNet, Denial)> {
    if entries.is_empty() {
        return None;
    }
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
