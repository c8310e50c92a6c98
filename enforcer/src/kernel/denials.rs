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
    entries: BTreeMap<IpNet, Denial>,
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
        let mut state = State {
            access,
            control,
            reasons,
            entries,
        };
        state.expire(monotonic_ns())?;
        Ok(Self(Arc::new(Mutex::new(state))))
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
        let mut state = self.state();
        let now_ns = monotonic_ns();
        state.expire(now_ns)?;
        let expires_ns = after(now_ns, lasts);
        let known = state.entries.get(&prefix);
        if by == DeniedBy::Authentication && known.is_some_and(|entry| entry.by == DeniedBy::Operator) {
            return Ok(());
        }
        let room = match by {
            DeniedBy::Operator => MAX_DENIALS,
            DeniedBy::Authentication => MAX_DENIALS - FOR_OPERATORS,
        };
        if known.is_none() && state.entries.len() >= room {
            let (what, limit) = ("denials", room);
            return Err(KernelError::TooMany { what, limit });
        }
        let entry = Access::new(expires_ns, by.reason(), NO_POLICY).resetting(action == Action::Reset);
        let key = access_key(runtime_table(), prefix);
        state
            .reasons
            .insert(denied(&key), recorded(reason), 0)
            .map_err(KernelError::map("REASONS"))?;
        state.access.insert(&key, entry)?;
        let reason = reason.into();
        state.entries.insert(
            prefix,
            Denial {
                by,
                reason,
                expires_ns,
                action,
            },
        );
        state.control.set_flag(control_flag::RUNTIME, true)
    }

    /// Takes a denial back; whether there was one.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn allow(&self, prefix: IpNet) -> Result<bool, KernelError> {
        self.state().remove(prefix.trunc())
    }

    /// The denial that `address` is under.
    #[must_use]
    pub fn find(&self, address: IpAddr) -> Option<(IpNet, Denial)> {
        let address = address.to_canonical();
        let now_ns = monotonic_ns();
        find(&self.state().entries, address, |denial| {
            denial.expires_ns > now_ns
        })
    }

    /// All denials in force, in order of prefix.
    #[must_use]
    pub fn list(&self) -> Vec<(IpNet, Denial)> {
        let now_ns = monotonic_ns();
        let state = self.state();
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
        self.state().expire(monotonic_ns())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn expire(&mut self, now_ns: u64) -> Result<(), KernelError> {
        let ended: Vec<IpNet> = self
            .entries
            .iter()
            .filter(|(_, denial)| denial.expires_ns <= now_ns)
            .map(|(prefix, _)| *prefix)
            .collect();
        for prefix in ended {
            self.remove(prefix)?;
        }
        Ok(())
    }

    fn remove(&mut self, prefix: IpNet) -> Result<bool, KernelError> {
        if !self.entries.contains_key(&prefix) {
            return Ok(false);
        }
        let key = access_key(runtime_table(), prefix);
        self.access.remove(&key)?;
        if let Err(error) = self.reasons.remove(&denied(&key)) {
            tracing::debug!(%prefix, %error, "the denial had no reason recorded");
        }
        self.entries.remove(&prefix);
        if self.entries.is_empty() {
            self.control.set_flag(control_flag::RUNTIME, false)?;
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
