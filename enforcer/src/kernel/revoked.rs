//! Connections that an operator has revoked: their packets are dropped, and their peers told so, until the
//! revocation ends. A map of their own, so that they take no verified connection's place. It is not kept: the
//! next agent begins without.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use aya::maps::{MapData, MapError};
use enforcer_common::layout::{FlowKey, MAX_REVOKED, control_flag};

use super::{
    KernelError,
    address::flow_key,
    clock::{after, monotonic_ns},
    control::ControlBlock,
};
use crate::gateway::signal::Flow;

/// The revoked connections.
pub struct Revoked(Mutex<State>);

struct State {
    map: aya::maps::HashMap<MapData, FlowKey, u64>,
    control: ControlBlock,
    /// When each ends, on the monotonic clock. At most [`MAX_REVOKED`].
    ends: HashMap<Flow, u64>,
}

impl Revoked {
    /// Over an empty map.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn new(
        map: aya::maps::HashMap<MapData, FlowKey, u64>,
        control: ControlBlock,
    ) -> Result<Self, KernelError> {
        control.set_flag(control_flag::REVOKED, false)?;
        Ok(Self(Mutex::new(State {
            map,
            control,
            ends: HashMap::new(),
        })))
    }

    /// Revokes a connection for a while. `Ok(false)`: there are [`MAX_REVOKED`] already.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn revoke(&self, flow: Flow, lasts: Duration) -> Result<bool, KernelError> {
        let mut state = self.state();
        let now_ns = monotonic_ns();
        state.expire(now_ns)?;
        if !state.ends.contains_key(&flow) && state.ends.len() >= MAX_REVOKED as usize {
            return Ok(false);
        }
        let ends_ns = after(now_ns, lasts);
        state
            .map
            .insert(flow_key(&flow), ends_ns, 0)
            .map_err(KernelError::map("REVOKED"))?;
        state.ends.insert(flow, ends_ns);
        state.control.set_flag(control_flag::REVOKED, true)?;
        Ok(true)
    }

    /// Those of `source`, and how long each still is.
    #[must_use]
    pub fn at(&self, source: IpAddr) -> Vec<(Flow, Duration)> {
        let now_ns = monotonic_ns();
        let source = source.to_canonical();
        let state = self.state();
        let at = |(flow, ends_ns): &(&Flow, &u64)| flow.peer.ip() == source && **ends_ns > now_ns;
        let mut found: Vec<_> = state
            .ends
            .iter()
            .filter(at)
            .map(|(flow, ends_ns)| (*flow, Duration::from_nanos(ends_ns - now_ns)))
            .collect();
        found.sort_by_key(|(flow, _)| (flow.peer, flow.local));
        found
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        let now_ns = monotonic_ns();
        self.state()
            .ends
            .values()
            .filter(|ends_ns| **ends_ns > now_ns)
            .count()
    }

    /// Forgets those that have ended; the kernel has not heeded them since.
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
        let ended = self.ends.iter().filter(|(_, ends_ns)| **ends_ns <= now_ns);
        let ended: Vec<Flow> = ended.map(|(flow, _)| *flow).collect();
        if ended.is_empty() {
            return Ok(());
        }
        for flow in ended {
            match self.map.remove(&flow_key(&flow)) {
                Ok(()) | Err(MapError::KeyNotFound) => drop(self.ends.remove(&flow)),
                Err(error) => return Err(KernelError::map("REVOKED")(error)),
            }
        }
        if self.ends.is_empty() {
            self.control.set_flag(control_flag::REVOKED, false)?;
        }
        Ok(())
    }
}
