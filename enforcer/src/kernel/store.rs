//! The tables that the programs read: two slots, one in force and one being written.

mod adapting;
mod answering;
mod write;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use aya::{
    Ebpf,
    maps::{HashMap, MapData, MapError, lpm_trie::Key},
};
use enforcer_common::{
    layout::{
        AccessKey, Bank, EgressKey, EgressLimits, EgressRule, Interface as InterfaceEntry, MAX_POLICIES,
        Policy, SLOTS, Service, ServiceKey, interface_flag, table_kind, table_parts,
    },
    limiter::FRESH,
};

use self::adapting::Adapted;
use super::{
    AccessMap, KernelError,
    budgets::Budgets,
    compile::{Moment, Tables, compile},
    counters::Counters,
    interfaces::Interface,
    notes::Notes,
    numbers::Numbers,
    object::{self, Array},
    seats::Seats,
};
use crate::policy::model::{Name, PolicySet};

/// The tables in force, and what is needed to follow them with others.
pub struct Store {
    access: AccessMap,
    interfaces: HashMap<MapData, u32, InterfaceEntry>,
    seats: Seats,
    services: HashMap<MapData, ServiceKey, Service>,
    policies: Array<Policy>,
    egress_rules: HashMap<MapData, EgressKey, EgressRule>,
    egress_limits: Array<EgressLimits>,
    /// Limiter states of services and interfaces.
    shared: Array<u64>,
    /// Limiter states of identities.
    budgets: Budgets,
    notes: Notes,
    numbers: Numbers,
    slot: u32,
    set: Arc<PolicySet>,
    /// What each slot holds, so that it can be taken out again.
    written: [Written; SLOTS as usize],
    /// What the policies map holds in the slot in force.
    in_force: BTreeMap<u32, Policy>,
    adapted: BTreeMap<(Name, Name), Adapted>,
    /// Policies whose SYNs the controller has answered.
    answering: BTreeSet<Name>,
    /// What the interfaces map holds.
    switched: BTreeMap<u32, InterfaceEntry>,
}

#[derive(Default)]
struct Written {
    services: Vec<ServiceKey>,
    access: Vec<Key<AccessKey>>,
    egress_rules: Vec<EgressKey>,
}

/// A generation that is written and not yet in force.
#[must_use]
pub struct Staged {
    set: Arc<PolicySet>,
    numbers: Numbers,
    slot: u32,
    tables: Tables,
}

impl Staged {
    /// What each interface is to be switched to, by its index.
    pub fn interfaces(&self) -> &BTreeMap<u32, InterfaceEntry> {
        &self.tables.interfaces
    }
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
            interfaces: object::take(ebpf, "INTERFACES")?,
            seats: Seats::new(object::take(ebpf, "SEATS")?)?,
            services: object::take(ebpf, "SERVICES")?,
            policies: object::take(ebpf, "POLICIES")?,
            egress_rules: object::take(ebpf, "EGRESS_RULES")?,
            egress_limits: object::take(ebpf, "EGRESS_LIMITS")?,
            shared: object::take(ebpf, "SHARED")?,
            budgets,
            notes: Notes::new(object::take(ebpf, "NOTES")?)?,
            numbers,
            slot: 0,
            set: Arc::default(),
            written: Default::default(),
            in_force: BTreeMap::new(),
            adapted: BTreeMap::new(),
            answering: BTreeSet::new(),
            switched: BTreeMap::new(),
        };
        store.inherit()?;
        Ok(store)
    }

    /// Finds out what the maps hold: which slot is in force, and what is to be taken out of either.
    fn inherit(&mut self) -> Result<(), KernelError> {
        let mut entries: BTreeMap<u32, InterfaceEntry> = self
            .interfaces
            .iter()
            .collect::<Result<_, _>>()
            .map_err(KernelError::map("INTERFACES"))?;
        // Where a seat says otherwise than the map, packets have seen the seat.
        entries.extend(self.seats.taken());
        let second = entries.values().filter(|entry| entry.slot == 1).count();
        self.slot = u32::from(second * 2 > entries.len());
        for (index, entry) in entries {
            if entry.slot == self.slot {
                self.enter(index, entry)?;
            } else {
                // The agent ended while it switched interfaces over. The other slot is written next, and no packet
                // may see that half-way: until the switch these pass.
                self.vacate(index)?;
            }
        }
        for key in self.services.keys() {
            let key = key.map_err(KernelError::map("SERVICES"))?;
            self.written[usize::from(key.slot) % SLOTS as usize]
                .services
                .push(key);
        }
        for key in self.egress_rules.keys() {
            let key = key.map_err(KernelError::map("EGRESS_RULES"))?;
            self.written[usize::from(key.slot) % SLOTS as usize]
                .egress_rules
                .push(key);
        }
        for (key, _) in self.access.entries()? {
            let (kind, slot) = table_parts(key.data().table);
            if matches!(kind, table_kind::INGRESS | table_kind::EGRESS | table_kind::POD) {
                self.written[(slot % SLOTS) as usize].access.push(key);
            }
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
        let slot = 1 - self.slot;
        let mut numbers = self.numbers.clone();
        let mut tables = compile(set, present, &mut numbers, slot, now)?;
        let known: BTreeSet<u32> = self.numbers.policies().map(|(_, number)| number).collect();
        for (_, number) in numbers.policies().filter(|(_, number)| !known.contains(number)) {
            counters.clear(number)?;
        }
        for place in numbers.newly_shared(&self.numbers) {
            self.shared
                .set(place, FRESH, 0)
                .map_err(KernelError::map("SHARED"))?;
        }
        for column in numbers.new_columns(&self.numbers) {
            self.budgets.renew_column(column)?;
        }
        self.carry_adapted_over(set, &mut tables, &numbers);
        self.carry_answering_over(set, &mut tables, &numbers);
        // Before any packet is counted or limited by a number, the next agent can tell whose it is.
        self.notes.write(&numbers)?;
        self.write(slot, &tables)?;
        Ok(Staged {
            set: Arc::clone(set),
            numbers,
            slot,
            tables,
        })
    }

    /// Switches interfaces to a staged generation: from here on their packets see that one alone.
    /// Interfaces that it does not speak of are taken out, and their packets pass. All or none: if one
    /// cannot be switched, those that were go back.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn switch(&mut self, staged: &Staged) -> Result<(), KernelError> {
        let before = self.switched.clone();
        let result = staged
            .interfaces()
            .iter()
            .try_for_each(|(index, entry)| self.enter(*index, *entry));
        if let Err(error) = result {
            for (index, entry) in before {
                // What was written a moment ago can be written again.
                self.enter(index, entry)?;
            }
            return Err(error);
        }
        let gone: Vec<u32> = self
            .switched
            .keys()
            .filter(|index| !staged.interfaces().contains_key(index))
            .copied()
            .collect();
        for index in gone {
            self.switched.remove(&index);
            if let Err(error) = self.seats.leave(index) {
                tracing::error!(index, %error, "an interface keeps its policies");
            }
            if let Err(error) = self.interfaces.remove(&index) {
                tracing::error!(index, %error, "an interface's entry is not removed");
            }
        }
        Ok(())
    }

    /// Whether policies in force are about what the other end of an interface sends.
    #[must_use]
    pub fn judges_pod(&self, index: u32) -> bool {
        self.switched
            .get(&index)
            .is_some_and(|entry| entry.flags & interface_flag::POD != 0)
    }

    /// Whether some policy in force enforces, on any interface: else nothing that the agent concludes by itself may end
    /// anything.
    #[must_use]
    pub fn enforces(&self) -> bool {
        self.switched
            .values()
            .any(|entry| entry.flags & interface_flag::SHADOW == 0)
    }

    /// Takes an interface out of map and seat.
    fn vacate(&mut self, index: u32) -> Result<(), KernelError> {
        match self.interfaces.remove(&index) {
            Ok(()) | Err(MapError::KeyNotFound) => self.seats.leave(index),
            Err(error) => Err(KernelError::map("INTERFACES")(error)),
        }
    }

    fn enter(&mut self, index: u32, entry: InterfaceEntry) -> Result<(), KernelError> {
        self.interfaces
            .insert(index, entry, 0)
            .map_err(KernelError::map("INTERFACES"))?;
        self.seats.enter(index, entry)?;
        self.switched.insert(index, entry);
        Ok(())
    }

    /// Makes a staged generation the one in force, once all interfaces are switched to it.
    pub fn commit(&mut self, staged: Staged, present: &[Interface]) {
        let Staged {
            set,
            mut numbers,
            slot,
            tables,
        } = staged;
        let interfaces = present.iter().map(|interface| interface.name.clone()).collect();
        numbers.retain(&set, &interfaces);
        self.numbers = numbers;
        self.slot = slot;
        self.set = set;
        self.in_force = tables.policies;
    }

    /// The number that the kernel knows a policy by.
    #[must_use]
    pub fn number(&self, policy: &Name) -> Option<u32> {
        let (_, number) = self.numbers.policies().find(|(name, _)| *name == policy)?;
        Some(number)
    }

    /// Changes what a policy says at once: first the bank that nobody reads, then the switch to it.
    fn change(&mut self, number: u32, how: impl FnOnce(&mut Bank)) -> Result<(), KernelError> {
        let Some(entry) = self.in_force.get_mut(&number) else {
            return Ok(());
        };
        let current = usize::from(entry.select & 1 == 1);
        let mut bank = entry.banks[current];
        how(&mut bank);
        entry.banks[1 - current] = bank;
        let place = self.slot * MAX_POLICIES + number;
        self.policies
            .set(place, *entry, 0)
            .map_err(KernelError::map("POLICIES"))?;
        entry.select = 1 - (entry.select & 1);
        self.policies
            .set(place, *entry, 0)
            .map_err(KernelError::map("POLICIES"))
    }

    /// What is in force.
    #[must_use]
    pub fn set(&self) -> &Arc<PolicySet> {
        &self.set
    }

    /// The policies and the numbers that the counters know them by.
    pub fn numbered(&self) -> impl Iterator<Item = (&Name, u32)> {
        self.numbers.policies()
    }

    /// What the kernel runs for a policy now.
    #[must_use]
    pub fn bank(&self, policy: &Name) -> Option<&Bank> {
        let entry = self.in_force.get(&self.number(policy)?)?;
        Some(&entry.banks[usize::from(entry.select & 1 == 1)])
    }
}
