//! Verified connections: the gateway says who is behind a 4-tuple, and the kernel charges its packets
//! to that identity's own budget.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    net::IpAddr,
    sync::atomic::{AtomicUsize, Ordering::SeqCst},
};

use aws_lc_rs::digest::{Context, SHA256};
use aya::maps::MapData;
use enforcer_common::{
    hash::Key,
    layout::{Flow as FlowEntry, FlowKey, Limit, MAX_IDENTITIES, control_flag},
};
use ipnet::IpNet;

use super::{
    KernelError, address::flow_key, budgets::Budgets, control::ControlBlock, elements::Elements as _,
    object::Array, sketch::SourceState, turns::Turns,
};
use enforcer_model::address::client_prefix;
use enforcer_model::flow::{Flow, Identity};
use enforcer_supervision::sync::{Rank, Ranked, without_waiting};

/// The verified connections and the identities behind them. The gateway's workers share the memory, for moments; the
/// kernel is told by each worker for itself.
pub struct Flows {
    flows: aya::maps::HashMap<MapData, FlowKey, FlowEntry>,
    budgets: Budgets,
    /// Whose each budget is: see [`Flows::holder`].
    holders: Array<u64>,
    control: ControlBlock,
    /// The sketch's secret.
    secret: Key,
    state: Ranked<State>,
    /// How many connections there are.
    count: AtomicUsize,
}

struct State {
    /// Budgets of identities that an earlier agent knew and this one has not met yet, by holder: they find
    /// them as spent as they were.
    inherited: HashMap<u64, u32>,
    /// Bounded by [`MAX_IDENTITIES`]: each entry has a budget.
    identities: HashMap<Identity, Budget>,
    /// Identities without connections, longest idle first, and possibly some that have come back. They
    /// keep their budgets as long as there are others, so that nobody refills one by reconnecting.
    idle: VecDeque<Identity>,
    /// Which identity and budget each flow belongs to; bounded by the flows map.
    owners: HashMap<Flow, (Identity, u32)>,
    /// How many flows each client has, by the addresses of one client; bounded by the flows map.
    clients: HashMap<IpNet, u32>,
    /// Budgets that nobody has had yet.
    free: Vec<u32>,
    max_flows: usize,
    turns: Turns<Flow>,
}

struct Budget {
    index: u32,
    flows: u32,
    /// In the idle queue.
    queued: bool,
    /// It is another identity's no more. Until then it is filled before a connection is charged to it, by whoever enters
    /// one.
    renewed: bool,
}

/// A connection that is entered in memory.
struct Begun {
    index: u32,
    /// The budget is to be filled first.
    renew: bool,
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
        let secret = control.current().key;
        let state = State {
            inherited,
            identities: HashMap::new(),
            idle: VecDeque::new(),
            owners: HashMap::new(),
            free,
            clients: HashMap::new(),
            max_flows: max_flows as usize,
            turns: Turns::default(),
        };
        Ok(Self {
            flows,
            budgets,
            holders,
            control,
            secret,
            state: Ranked::new(Rank::Flows, state),
            count: AtomicUsize::new(0),
        })
    }

    /// Enters a connection. `Ok(Some(..))` says that there was no room; the connection is then limited
    /// as a stranger's.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn enter(&self, flow: Flow, identity: &Identity) -> Result<Option<Full>, KernelError> {
        without_waiting(|| self.enter_now(flow, identity))
    }

    fn enter_now(&self, flow: Flow, identity: &Identity) -> Result<Option<Full>, KernelError> {
        let holder = self.holder(identity);
        let mut state = self.state.lock();
        // The same 4-tuple again: its earlier connection is gone, whatever the order of events.
        let again = state.leave(&flow);
        let begun = state.enter(flow, identity, holder);
        let first = state.owners.len() == 1;
        self.count.store(state.owners.len(), SeqCst);
        let ended = begun.is_err() && again && state.turns.begin(flow);
        drop(state);
        if ended {
            self.settle(flow)?;
        }
        let Begun { index, renew } = match begun {
            Ok(begun) => begun,
            Err(full) => return Ok(Some(full)),
        };
        let renewed = if renew {
            self.renew(index, identity, holder)
        } else {
            Ok(())
        };
        let mine = self.state.lock().turns.begin(flow);
        let entered = renewed.and_then(|()| if mine { self.settle(flow) } else { Ok(()) });
        if let Err(error) = entered {
            self.leave(&flow)?;
            return Err(error);
        }
        if first {
            self.tell_whether_any()?;
        }
        Ok(None)
    }

    /// Forgets a connection.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn leave(&self, flow: &Flow) -> Result<(), KernelError> {
        let mut state = self.state.lock();
        if !state.leave(flow) {
            return Ok(());
        }
        let mine = state.turns.begin(*flow);
        let last = state.owners.is_empty();
        self.count.store(state.owners.len(), SeqCst);
        drop(state);
        if last {
            self.tell_whether_any()?;
        }
        if mine { self.settle(*flow) } else { Ok(()) }
    }

    /// Tells the kernel what is known of a connection.
    fn settle(&self, flow: Flow) -> Result<(), KernelError> {
        let key = flow_key(&flow);
        loop {
            let index = self.state.lock().owners.get(&flow).map(|(_, index)| *index);
            let written = match index {
                Some(identity) => {
                    let reserved = 0;
                    self.flows.put("FLOWS", &key, &FlowEntry { identity, reserved })
                }
                None => self.flows.remove_if_present("FLOWS", &key).map(|_| ()),
            };
            if !self.state.lock().turns.again(flow) {
                return written;
            }
        }
    }

    /// Fills a budget, and notes whose it is now. Two connections of one identity may both do so: it is the same.
    fn renew(&self, index: u32, identity: &Identity, holder: u64) -> Result<(), KernelError> {
        self.budgets.renew_identity(index)?;
        self.holders.put("HOLDERS", &index, &holder)?;
        if let Some(budget) = self.state.lock().identities.get_mut(identity) {
            budget.renewed = true;
        }
        Ok(())
    }

    fn tell_whether_any(&self) -> Result<(), KernelError> {
        self.control
            .follow(control_flag::FLOWS, || self.count.load(SeqCst) > 0)
    }

    /// How many connections are entered, and of how many identities.
    #[must_use]
    pub fn count(&self) -> (usize, usize) {
        let state = self.state.lock();
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
        self.state.lock().clients.contains_key(client)
    }

    /// The clients with connections, as [`client_prefix`] says them.
    #[must_use]
    pub fn clients(&self) -> Vec<IpNet> {
        self.state.lock().clients.keys().copied().collect()
    }

    /// Who is behind the connections from `source`.
    #[must_use]
    pub fn identities_at(&self, source: IpAddr) -> Vec<(Flow, Identity)> {
        let state = self.state.lock();
        let at = |flow: &&Flow| flow.peer.ip().to_canonical() == source.to_canonical();
        state
            .owners
            .iter()
            .filter(|(flow, _)| at(flow))
            .map(|(flow, (identity, _))| (*flow, identity.clone()))
            .collect()
    }

    /// What a limit per identity has to say of each identity behind the connections from `source`.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn budgets_at(
        &self,
        source: IpAddr,
        limit: &Limit,
    ) -> Result<BTreeMap<String, SourceState>, KernelError> {
        let places: Vec<_> = {
            let here = self.identities_at(source);
            let state = self.state.lock();
            let place =
                |identity: &Identity| Some((identity.to_string(), state.identities.get(identity)?.index));
            here.iter().filter_map(|(_, identity)| place(identity)).collect()
        };
        let read = |(identity, place)| Ok((identity, self.budgets.state(limit, place)?));
        places.into_iter().map(read).collect()
    }

    /// An identity as the map knows it: a hash under the sketch's secret, so that nobody can choose to share
    /// another's budget. Never zero.
    fn holder(&self, identity: &Identity) -> u64 {
        let mut context = Context::new(&SHA256);
        context.update(&self.secret.k0.to_ne_bytes());
        context.update(&self.secret.k1.to_ne_bytes());
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
}

impl State {
    /// Enters a connection in memory.
    fn enter(&mut self, flow: Flow, identity: &Identity, holder: u64) -> Result<Begun, Full> {
        if self.owners.len() >= self.max_flows {
            return Err(Full::Flows);
        }
        if !self.identities.contains_key(identity) {
            self.give_budget(identity, holder)?;
        }
        let Some(budget) = self.identities.get_mut(identity) else {
            return Err(Full::Identities);
        };
        budget.flows += 1;
        let begun = Begun {
            index: budget.index,
            renew: !budget.renewed,
        };
        self.owners.insert(flow, (identity.clone(), begun.index));
        *self.clients.entry(client_prefix(flow.peer.ip())).or_default() += 1;
        Ok(begun)
    }

    /// Gives an identity the budget that it had with an earlier agent, else one that is to be filled. It is idle until it
    /// has a connection.
    fn give_budget(&mut self, identity: &Identity, holder: u64) -> Result<(), Full> {
        let inherited = self.inherited.remove(&holder);
        let index = inherited.or_else(|| self.vacant_budget());
        let budget = Budget {
            index: index.ok_or(Full::Identities)?,
            flows: 0,
            queued: true,
            renewed: inherited.is_some(),
        };
        self.identities.insert(identity.clone(), budget);
        self.idle.push_back(identity.clone());
        Ok(())
    }

    /// Forgets a connection in memory; whether it was known.
    fn leave(&mut self, flow: &Flow) -> bool {
        let Some((identity, _)) = self.owners.remove(flow) else {
            return false;
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
        true
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
