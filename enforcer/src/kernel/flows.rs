//! Verified connections: the gateway says who is behind a 4-tuple, and the kernel charges its packets
//! to that identity's own budget.

use std::{
    collections::{HashMap, VecDeque},
    net::IpAddr,
    sync::{Mutex, MutexGuard, PoisonError},
};

use aws_lc_rs::digest::{Context, SHA256};
use aya::maps::MapData;
use enforcer_common::layout::{Flow as FlowEntry, FlowKey, MAX_IDENTITIES, control_flag};

use super::{KernelError, address::flow_key, control::ControlBlock, object::Array};
use crate::gateway::signal::{Flow, Identity};

/// The verified connections and the identities behind them.
pub struct Flows(Mutex<State>);

struct State {
    flows: aya::maps::HashMap<MapData, FlowKey, FlowEntry>,
    budgets: Array<u64>,
    /// Whose each budget is: see [`State::holder`].
    holders: Array<u64>,
    control: ControlBlock,
    /// Budgets of identities that an earlier agent knew and this one has not met yet, by holder: they find
    /// them as spent as they were.
    inherited: HashMap<u64, u32>,
    /// Bounded by [`MAX_IDENTITIES`]: each entry has a budget.
    identities: HashMap<Identity, Budget>,
    /// Identities without connections, longest idle first, and possibly some that have come back. They
    /// keep their budgets as long as there are others, so that nobody refills one by reconnecting.
    idle: VecDeque<Identity>,
    /// Which identity each flow belongs to; bounded by the flows map.
    owners: HashMap<Flow, Identity>,
    /// Budgets that nobody has had yet.
    free: Vec<u32>,
    max_flows: usize,
}

struct Budget {
    index: u32,
    flows: u32,
    /// In the idle queue.
    queued: bool,
}

/// Why a connection was not entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// As many connections as the map holds are entered already.
    Flows,
    /// As many identities as there are budgets have connections already.
    Identities,
}

impl Flows {
    /// Over the given maps; there are no flows yet, and possibly budgets of an earlier agent.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn new(
        flows: aya::maps::HashMap<MapData, FlowKey, FlowEntry>,
        budgets: Array<u64>,
        holders: Array<u64>,
        control: ControlBlock,
        max_flows: u32,
    ) -> Result<Self, KernelError> {
        let mut inherited = HashMap::new();
        let mut free = Vec::new();
        for index in (0..MAX_IDENTITIES).rev() {
            match holders.get(&index, 0).map_err(KernelError::map("HOLDERS"))? {
                0 => free.push(index),
                holder => drop(inherited.insert(holder, index)),
            }
        }
        Ok(Self(Mutex::new(State {
            flows,
            budgets,
            holders,
            control,
            inherited,
            identities: HashMap::new(),
            idle: VecDeque::new(),
            owners: HashMap::new(),
            free,
            max_flows: max_flows as usize,
        })))
    }

    /// Enters a connection. `Ok(Some(..))` says that there was no room; the connection is then limited
    /// as a stranger's.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn enter(&self, flow: Flow, identity: &Identity) -> Result<Option<Full>, KernelError> {
        self.state().enter(flow, identity)
    }

    /// Forgets a connection.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn leave(&self, flow: &Flow) -> Result<(), KernelError> {
        self.state().leave(flow)
    }

    /// How many connections are entered, and of how many identities.
    #[must_use]
    pub fn count(&self) -> (usize, usize) {
        let state = self.state();
        (
            state.owners.len(),
            state
                .identities
                .values()
                .filter(|budget| budget.flows > 0)
                .count(),
        )
    }

    /// Who is behind the connections from `source`.
    #[must_use]
    pub fn identities_at(&self, source: IpAddr) -> Vec<(Flow, Identity)> {
        let state = self.state();
        let at = |flow: &&Flow| flow.peer.ip().to_canonical() == source.to_canonical();
        state
            .owners
            .iter()
            .filter(|(flow, _)| at(flow))
            .map(|(flow, id)| (*flow, id.clone()))
            .collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn enter(&mut self, flow: Flow, identity: &Identity) -> Result<Option<Full>, KernelError> {
        // The same 4-tuple again: its earlier connection is gone, whatever the order of events.
        self.leave(&flow)?;
        if self.owners.len() >= self.max_flows {
            return Ok(Some(Full::Flows));
        }
        let index = if let Some(budget) = self.identities.get_mut(identity) {
            budget.flows += 1;
            budget.index
        } else {
            let Some(index) = self.budget_for(identity)? else {
                return Ok(Some(Full::Identities));
            };
            self.identities.insert(
                identity.clone(),
                Budget {
                    index,
                    flows: 1,
                    queued: false,
                },
            );
            index
        };
        self.owners.insert(flow, identity.clone());
        if self.owners.len() == 1 {
            self.control.set_flag(control_flag::FLOWS, true)?;
        }
        let entry = FlowEntry {
            identity: index,
            reserved: 0,
        };
        self.flows
            .insert(flow_key(&flow), entry, 0)
            .map_err(KernelError::map("FLOWS"))?;
        Ok(None)
    }

    fn leave(&mut self, flow: &Flow) -> Result<(), KernelError> {
        let Some(identity) = self.owners.remove(flow) else {
            return Ok(());
        };
        if let Some(budget) = self.identities.get_mut(&identity) {
            budget.flows -= 1;
            if budget.flows == 0 && !budget.queued {
                budget.queued = true;
                self.idle.push_back(identity);
            }
        }
        self.flows
            .remove(&flow_key(flow))
            .map_err(KernelError::map("FLOWS"))?;
        if self.owners.is_empty() {
            self.control.set_flag(control_flag::FLOWS, false)?;
        }
        Ok(())
    }

    /// The budget that the identity had with an earlier agent, else a full one. `None`: all are in use.
    fn budget_for(&mut self, identity: &Identity) -> Result<Option<u32>, KernelError> {
        let holder = self.holder(identity);
        if let Some(index) = self.inherited.remove(&holder) {
            return Ok(Some(index));
        }
        let Some(index) = self.vacant_budget() else {
            return Ok(None);
        };
        self.budgets
            .set(index, 0, 0)
            .map_err(KernelError::map("BUDGETS"))?;
        self.holders
            .set(index, holder, 0)
            .map_err(KernelError::map("HOLDERS"))?;
        Ok(Some(index))
    }

    /// An identity as the map knows it: a hash under the sketch's secret, so that nobody can choose to share
    /// another's budget. Never zero.
    fn holder(&self, identity: &Identity) -> u64 {
        let key = self.control.current().key;
        let mut context = Context::new(&SHA256);
        context.update(&key.k0.to_ne_bytes());
        context.update(&key.k1.to_ne_bytes());
        match identity {
            Identity::Certificate(name) => {
                context.update(b"certificate\0");
                context.update(name.as_bytes());
            }
            Identity::Token { issuer, subject } => {
                context.update(b"token\0");
                // Names hold no zero byte.
                context.update(issuer.as_str().as_bytes());
                context.update(b"\0");
                context.update(subject.as_bytes());
            }
        }
        let mut word = [0; 8];
        word.copy_from_slice(&context.finish().as_ref()[..8]);
        u64::from_ne_bytes(word).max(1)
    }

    /// A budget that was never used, or one of an identity that has not been seen since the agent started,
    /// or that of the identity which has been idle longest.
    fn vacant_budget(&mut self) -> Option<u32> {
        if let Some(index) = self.free.pop() {
            return Some(index);
        }
        if let Some(holder) = self.inherited.keys().next().copied() {
            return self.inherited.remove(&holder);
        }
        while let Some(identity) = self.idle.pop_front() {
            let Some(budget) = self.identities.get_mut(&identity) else {
                continue;
            };
            budget.queued = false;
            if budget.flows == 0 {
                let index = budget.index;
                self.identities.remove(&identity);
                return Some(index);
            }
        }
        None
    }
}
