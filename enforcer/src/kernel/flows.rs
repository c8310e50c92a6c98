//! Verified connections: the gateway says who is behind a 4-tuple, and the kernel charges its packets
//! to that identity's own budget.

use std::{
    collections::{HashMap, VecDeque},
    net::IpAddr,
    sync::{Mutex, MutexGuard, PoisonError},
};

use aws_lc_rs::digest::{Context, SHA256};
use aya::maps::{MapData, MapError};
use enforcer_common::layout::{Flow as FlowEntry, FlowKey, MAX_IDENTITIES, control_flag};
use ipnet::IpNet;

use super::{
    KernelError,
    address::{client_prefix, flow_key},
    budgets::Budgets,
    control::ControlBlock,
    object::Array,
};
use crate::gateway::signal::{Flow, Identity};

/// The verified connections and the identities behind them.
pub struct Flows(Mutex<State>);

struct State {
    flows: aya::maps::HashMap<MapData, FlowKey, FlowEntry>,
    budgets: Budgets,
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
    /// How many flows each client has, by the addresses of one client; bounded by the flows map.
    clients: HashMap<IpNet, u32>,
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
        budgets: Budgets,
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
            clients: HashMap::new(),
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

    /// Whether anybody is verified at the addresses of one client, as [`client_prefix`] says them.
    #[must_use]
    pub fn has_client(&self, client: &IpNet) -> bool {
        self.state().clients.contains_key(client)
    }

    /// The clients with connections, as [`client_prefix`] says them.
    #[must_use]
    pub fn clients(&self) -> Vec<IpNet> {
        self.state().clients.keys().copied().collect()
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
        let index = match self.identities.get(identity) {
            Some(budget) => budget.index,
            None => match self.budget_for(identity)? {
                Some(index) => index,
                None => return Ok(Some(Full::Identities)),
            },
        };
        let entry = FlowEntry {
            identity: index,
            reserved: 0,
        };
        self.flows
            .insert(flow_key(&flow), entry, 0)
            .map_err(KernelError::map("FLOWS"))?;
        if let Some(budget) = self.identities.get_mut(identity) {
            budget.flows += 1;
        }
        self.owners.insert(flow, identity.clone());
        *self.clients.entry(client_prefix(flow.peer.ip())).or_default() += 1;
        if self.owners.len() == 1 {
            self.control.set_flag(control_flag::FLOWS, true)?;
        }
        Ok(None)
    }

    /// Gives an identity the budget that it had with an earlier agent, else a fresh one. It is idle until it
    /// has a connection. `None`: all budgets are in use.
    fn budget_for(&mut self, identity: &Identity) -> Result<Option<u32>, KernelError> {
        let holder = self.holder(identity);
        let index = match self.inherited.remove(&holder) {
            Some(index) => index,
            None => match self.vacant_budget() {
                Some(index) => self.renew(index, holder)?,
                None => return Ok(None),
            },
        };
        let budget = Budget {
            index,
            flows: 0,
            queued: true,
        };
        self.identities.insert(identity.clone(), budget);
        self.idle.push_back(identity.clone());
        Ok(Some(index))
    }

    /// Fills a budget, and notes whose it is now.
    fn renew(&mut self, index: u32, holder: u64) -> Result<u32, KernelError> {
        let filled = self.budgets.renew_identity(index);
        let noted = filled.and_then(|()| {
            self.holders
                .set(index, holder, 0)
                .map_err(KernelError::map("HOLDERS"))
        });
        if let Err(error) = noted {
            self.free.push(index);
            return Err(error);
        }
        Ok(index)
    }

    fn leave(&mut self, flow: &Flow) -> Result<(), KernelError> {
        let Some(identity) = self.owners.remove(flow) else {
            return Ok(());
        };
        let client = client_prefix(flow.peer.ip());
        if let Some(count) = self.clients.get_mut(&client) {
            *count -= 1;
            if *count == 0 {
                self.clients.remove(&client);
            }
        }
        if let Some(budget) = self.identities.get_mut(&identity) {
            budget.flows -= 1;
            if budget.flows == 0 && !budget.queued {
                budget.queued = true;
                self.idle.push_back(identity);
            }
        }
        if self.owners.is_empty() {
            self.control.set_flag(control_flag::FLOWS, false)?;
        }
        match self.flows.remove(&flow_key(flow)) {
            Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
            Err(error) => Err(KernelError::map("FLOWS")(error)),
        }
    }

    /// An identity as the map knows it: a hash under the sketch's secret, so that nobody can choose to share
    /// another's budget. Never zero.
    fn holder(&self, identity: &Identity) -> u64 {
        let key = self.control.current().key;
        let mut context = Context::new(&SHA256);
        context.update(&key.k0.to_ne_bytes());
        context.update(&key.k1.to_ne_bytes());
        match identity {
            Identity::Certificate(certified) => {
                context.update(b"certificate\0");
                context.update(certified.name.as_bytes());
                if let Some(authority) = &certified.authority {
                    // No identity holds a zero byte: control characters of subjects are escaped.
                    context.update(b"\0");
                    context.update(authority.to_string().as_bytes());
                }
            }
            Identity::Token { issuer, subject } => {
                context.update(b"token\0");
                // Names hold no zero byte.
                context.update(issuer.as_str().as_bytes());
                context.update(b"\0");
                context.update(subject.as_bytes());
            }
            // All keys of an owner have one budget.
            Identity::ApiKey { owner, .. } => {
                context.update(b"api-key\0");
                context.update(owner.as_bytes());
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
