//! What operators and failed authentication have denied, each with a lifetime and a reason.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use enforcer_common::{
    layout::{Access, NO_POLICY, control_flag, table, table_kind},
    verdict::Reason,
};
use ipnet::IpNet;

use super::{
    AccessMap, KernelError,
    address::access_key,
    clock::{after, monotonic_ns},
    control::ControlBlock,
};

/// Denials at one time, at most; a further one is refused.
pub const MAX_DENIALS: usize = 65_536;

/// Of those, how many failed authentication cannot use up.
const FOR_OPERATORS: usize = 4_096;

/// The denials in force. A clone speaks of the same ones.
#[derive(Clone)]
pub struct Denials(Arc<Mutex<State>>);

struct State {
    access: AccessMap,
    control: ControlBlock,
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
    /// None yet.
    #[must_use]
    pub fn new(access: AccessMap, control: ControlBlock) -> Self {
        Self(Arc::new(Mutex::new(State {
            access,
            control,
            entries: BTreeMap::new(),
        })))
    }

    /// Denies `prefix` for a while. An operator's denial is never shortened by an automatic one.
    ///
    /// # Errors
    /// There are [`MAX_DENIALS`] already, or the kernel refuses.
    pub fn deny(
        &self,
        prefix: IpNet,
        by: DeniedBy,
        reason: &str,
        lasts: Duration,
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
        let entry = Access::new(expires_ns, by.reason(), NO_POLICY);
        state.access.insert(&access_key(runtime_table(), prefix), entry)?;
        let reason = reason.into();
        state.entries.insert(
            prefix,
            Denial {
                by,
                reason,
                expires_ns,
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
        let state = self.state();
        let holds = |entry: &(&IpNet, &Denial)| entry.1.expires_ns > now_ns && entry.0.contains(&address);
        state
            .entries
            .iter()
            .filter(holds)
            .max_by_key(|(prefix, _)| prefix.prefix_len())
            .map(|(prefix, denial)| (*prefix, denial.clone()))
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
        self.access.remove(&access_key(runtime_table(), prefix))?;
        self.entries.remove(&prefix);
        if self.entries.is_empty() {
            self.control.set_flag(control_flag::RUNTIME, false)?;
        }
        Ok(true)
    }
}

fn runtime_table() -> u32 {
    table(table_kind::RUNTIME, 0, 0)
}
