//! Connections that an operator has revoked: their packets are dropped, and their peers told so, until the
//! revocation ends. A map of their own, so that they take no verified connection's place. It is not kept: the
//! next agent begins without.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::atomic::{AtomicUsize, Ordering::SeqCst},
    time::Duration,
};

use aya::maps::MapData;
use enforcer_common::layout::{FlowKey, MAX_REVOKED, control_flag};

use super::{KernelError, address::flow_key, control::ControlBlock, elements::Elements as _, turns::Turns};
use enforcer_model::flow::Flow;
use enforcer_supervision::sync::{Rank, Ranked};
use enforcer_sys::clock::{after, monotonic_ns};

/// The revoked connections.
pub struct Revoked {
    map: aya::maps::HashMap<MapData, FlowKey, u64>,
    control: ControlBlock,
    state: Ranked<State>,
    /// How many there are.
    count: AtomicUsize,
}

#[derive(Default)]
struct State {
    turns: Turns<Flow>,
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
        Ok(Self {
            map,
            control,
            state: Ranked::new(Rank::Revoked, State::default()),
            count: AtomicUsize::new(0),
        })
    }

    /// Revokes a connection for a while. `Ok(false)`: there are [`MAX_REVOKED`] already.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn revoke(&self, flow: Flow, lasts: Duration) -> Result<bool, KernelError> {
        self.expire()?;
        let now_ns = monotonic_ns();
        let mut state = self.state.lock();
        if !state.ends.contains_key(&flow) && state.ends.len() >= MAX_REVOKED as usize {
            return Ok(false);
        }
        state.ends.insert(flow, after(now_ns, lasts));
        let mine = state.turns.begin(flow);
        self.count.store(state.ends.len(), SeqCst);
        drop(state);
        if mine && let Err(error) = self.settle(flow) {
            self.state.lock().ends.remove(&flow);
            return Err(error);
        }
        self.tell_whether_any()?;
        Ok(true)
    }

    /// Those of `source`, and how long each still is.
    #[must_use]
    pub fn at(&self, source: IpAddr) -> Vec<(Flow, Duration)> {
        let now_ns = monotonic_ns();
        let source = source.to_canonical();
        let state = self.state.lock();
        let at = |(flow, ends_ns): &(&Flow, &u64)| flow.peer.ip() == source && **ends_ns > now_ns;
        let mut found: Vec<_> = state
            .ends
            .iter()
            .filter(at)
            .map(|(flow, ends_ns)| (*flow, Duration::from_nanos(ends_ns - now_ns)))
            .collect();
        drop(state);
        found.sort_by_key(|(flow, _)| (flow.peer, flow.local));
        found
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        let now_ns = monotonic_ns();
        let state = self.state.lock();
        state.ends.values().filter(|ends_ns| **ends_ns > now_ns).count()
    }

    /// Forgets those that have ended; the kernel has not heeded them since.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn expire(&self) -> Result<(), KernelError> {
        let now_ns = monotonic_ns();
        let mut state = self.state.lock();
        let State { ends, turns } = &mut *state;
        let ended: Vec<Flow> = ends
            .extract_if(|_, ends_ns| *ends_ns <= now_ns)
            .map(|(flow, _)| flow)
            .filter(|flow| turns.begin(*flow))
            .collect();
        self.count.store(state.ends.len(), SeqCst);
        drop(state);
        if ended.is_empty() {
            return Ok(());
        }
        // All of them, whatever becomes of one.
        let settled = ended.into_iter().map(|flow| self.settle(flow));
        settled.fold(Ok(()), Result::and)?;
        self.tell_whether_any()
    }

    /// Tells the kernel what is known of a connection.
    fn settle(&self, flow: Flow) -> Result<(), KernelError> {
        loop {
            let ends_ns = self.state.lock().ends.get(&flow).copied();
            let written = match ends_ns {
                Some(ends_ns) => self.map.put("REVOKED", &flow_key(&flow), &ends_ns),
                None => self
                    .map
                    .remove_if_present("REVOKED", &flow_key(&flow))
                    .map(|_| ()),
            };
            if !self.state.lock().turns.again(flow) {
                return written;
            }
        }
    }

    fn tell_whether_any(&self) -> Result<(), KernelError> {
        self.control
            .follow(control_flag::REVOKED, || self.count.load(SeqCst) > 0)
    }
}
