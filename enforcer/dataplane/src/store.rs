//! The tables that the programs read: two slots, one in force and one being written.

mod adapting;
mod answering;
mod in_force;
mod write;

use std::{collections::BTreeMap, collections::BTreeSet, sync::Arc};

use aya::{
    Ebpf,
    maps::{HashMap, MapData, lpm_trie::Key},
};
use enforcer_common::{
    layout::{
        Access, AccessKey, EgressKey, EgressLimits, EgressRule, Interface as InterfaceEntry, Policy, SLOTS,
        Service, ServiceKey, table_kind, table_parts,
    },
    limiter::FRESH,
};

pub use self::in_force::InForce;
use super::{
    AccessMap, KernelError,
    budgets::Budgets,
    compile::{Moment, Tables, compile},
    counters::Counters,
    difference::{Entries, sorted},
    elements::Elements as _,
    notes::Notes,
    numbers::Numbers,
    object::{self, Array},
    seats::Seats,
};
use enforcer_model::{Level, Name, PolicySet};
use enforcer_supervision::sync::{Rank, Serial};
use enforcer_sys::interfaces::Interface;

/// The tables in force, and what is needed to follow them with others. Writing takes its time; what is in force has a lock of
/// its own, and is changed and replaced in short steps.
pub struct Store {
    access: AccessMap,
    services: HashMap<MapData, ServiceKey, Service>,
    egress_rules: HashMap<MapData, EgressKey, EgressRule>,
    egress_limits: Array<EgressLimits>,
    /// Limiter states of services and interfaces.
    shared: Array<u64>,
    /// Limiter states of identities.
    budgets: Budgets,
    notes: Notes,
    /// What each slot holds, so that only differences are written.
    held: [Held; SLOTS as usize],
    /// Entries that the latest generation has written or removed.
    writes: usize,
    in_force: Arc<Serial<InForce>>,
}

#[derive(Default)]
struct Held {
    services: Entries<ServiceKey, Service>,
    access: Entries<Key<AccessKey>, Access>,
    egress_rules: Entries<EgressKey, EgressRule>,
}

/// A generation that is written and not yet in force.
#[must_use]
pub struct Staged {
    set: Arc<PolicySet>,
    numbers: Numbers,
    slot: u32,
    interfaces: BTreeMap<u32, InterfaceEntry>,
    policies: BTreeMap<u32, Policy>,
}

impl Store {
    /// Over the object's maps, with the numbers that are in them: an earlier agent's generation, if there is
    /// one, stays in force until the first of this agent's.
    ///
    /// # Errors
    /// The object lacks a map, or the kernel refuses.
    pub fn new(
        ebpf: &mut Ebpf,
        access: AccessMap,
        budgets: Budgets,
        numbers: Numbers,
    ) -> Result<Self, KernelError> {
        let mut store = Self {
            access,
            in_force: Arc::new(Serial::new(
                Rank::InForce,
                InForce::inherit(
                    object::take(ebpf, "INTERFACES")?,
                    Seats::new(object::take(ebpf, "SEATS")?)?,
                    object::take(ebpf, "POLICIES")?,
                    numbers,
                )?,
            )),
            services: object::take(ebpf, "SERVICES")?,
            egress_rules: object::take(ebpf, "EGRESS_RULES")?,
            egress_limits: object::take(ebpf, "EGRESS_LIMITS")?,
            shared: object::take(ebpf, "SHARED")?,
            budgets,
            notes: Notes::new(object::take(ebpf, "NOTES")?)?,
            held: Default::default(),
            writes: 0,
        };
        store.inherit()?;
        Ok(store)
    }

    /// Finds out what either slot holds.
    fn inherit(&mut self) -> Result<(), KernelError> {
        for entry in &self.services {
            let (key, service) = entry.map_err(KernelError::map("SERVICES"))?;
            self.held[usize::from(key.slot) % SLOTS as usize]
                .services
                .push((key, service));
        }
        for entry in &self.egress_rules {
            let (key, rule) = entry.map_err(KernelError::map("EGRESS_RULES"))?;
            self.held[usize::from(key.slot) % SLOTS as usize]
                .egress_rules
                .push((key, rule));
        }
        for (key, entry) in self.access.entries()? {
            let (kind, slot) = table_parts(key.data().table);
            if matches!(kind, table_kind::INGRESS | table_kind::EGRESS | table_kind::POD) {
                self.held[(slot % SLOTS) as usize].access.push((key, entry));
            }
        }
        for held in &mut self.held {
            held.services =
                sorted::<_, _, HashMap<MapData, ServiceKey, Service>>(std::mem::take(&mut held.services));
            held.egress_rules = sorted::<_, _, HashMap<MapData, EgressKey, EgressRule>>(std::mem::take(
                &mut held.egress_rules,
            ));
            held.access = sorted::<_, _, AccessMap>(std::mem::take(&mut held.access));
        }
        Ok(())
    }

    /// Writes a generation into the slot that is not in force. Packets see nothing of it yet.
    ///
    /// # Errors
    /// A map is full or the kernel refuses; the generation in force is untouched.
    pub fn stage(
        &mut self,
        set: &Arc<PolicySet>,
        present: &[Interface],
        counters: &Counters,
        now: Moment,
    ) -> Result<Staged, KernelError> {
        // Nobody else gives numbers or changes slots meanwhile.
        let (slot, before) = {
            let in_force = self.in_force.lock();
            (1 - in_force.slot, in_force.numbers.clone())
        };
        let mut numbers = before.clone();
        let mut tables = compile(set, present, &mut numbers, slot, now)?;
        let known: BTreeSet<u32> = before.policies().map(|(_, number)| number).collect();
        for (_, number) in numbers.policies().filter(|(_, number)| !known.contains(number)) {
            counters.clear(number)?;
        }
        for place in numbers.newly_shared(&before) {
            self.shared.put("SHARED", &place, &FRESH)?;
        }
        for column in numbers.new_columns(&before) {
            self.budgets.renew_column(column)?;
        }
        // Before any packet is counted or limited by a number, the next agent can tell whose it is.
        self.notes.write(&numbers)?;
        let staged = Staged {
            set: Arc::clone(set),
            numbers,
            slot,
            interfaces: std::mem::take(&mut tables.interfaces),
            policies: std::mem::take(&mut tables.policies),
        };
        self.writes = self.write(slot, tables)?;
        Ok(staged)
    }

    /// Puts a staged generation in force, on all interfaces or none. What each is switched to.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn replace(
        &self,
        staged: Staged,
        present: &[Interface],
    ) -> Result<BTreeMap<u32, InterfaceEntry>, KernelError> {
        self.in_force.lock().replace(staged, present)
    }

    /// What is in force, for those who change it in short steps.
    #[must_use]
    pub fn in_force(&self) -> &Arc<Serial<InForce>> {
        &self.in_force
    }

    /// Entries of access lists, services and egress rules that the latest generation has written or removed: the
    /// difference from what its slot held.
    #[must_use]
    pub fn writes(&self) -> usize {
        self.writes
    }

    /// What is in force.
    #[must_use]
    pub fn set(&self) -> Arc<PolicySet> {
        Arc::clone(&self.in_force.lock().set)
    }

    /// The policies and the numbers that the counters know them by.
    pub fn numbered(&self) -> impl Iterator<Item = (Name, u32)> + use<> {
        let in_force = self.in_force.lock();
        let policies = in_force.numbers.policies();
        let policies: Vec<_> = policies.map(|(name, number)| (name.clone(), number)).collect();
        policies.into_iter()
    }

    /// As [`InForce::adapt`].
    ///
    /// # Errors
    /// As that.
    pub fn adapt(
        &self,
        policy: &Name,
        limit: &Name,
        rate: impl Fn(&Level) -> Result<enforcer_common::limiter::Params, KernelError>,
    ) -> Result<(), KernelError> {
        self.in_force.lock().adapt(policy, limit, rate)
    }

    /// As [`InForce::end_answering`].
    ///
    /// # Errors
    /// As that.
    pub fn end_answering(&self) -> Result<(), KernelError> {
        self.in_force.lock().end_answering()
    }
}
