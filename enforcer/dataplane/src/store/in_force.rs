//! What is in force: the policies' limits as they are now, and which interfaces follow which slot. Changed in steps of a
//! bounded number of entries, so that the controller never waits for an application as a whole.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use aya::maps::{HashMap, MapData};
use enforcer_common::layout::{Bank, Interface as InterfaceEntry, MAX_POLICIES, Policy, interface_flag};

use super::{
    super::{
        Attached, KernelError,
        elements::Elements as _,
        numbers::Numbers,
        object::Array,
        seats::Seats,
        view::{Running, View},
    },
    Staged,
    adapting::Adapted,
};
use enforcer_model::{Name, PolicySet};
use enforcer_sys::interfaces::Interface;

/// The policies that packets see.
pub struct InForce {
    interfaces: HashMap<MapData, u32, InterfaceEntry>,
    seats: Seats,
    policies: Array<Policy>,
    pub(super) numbers: Numbers,
    pub(super) slot: u32,
    pub(super) set: Arc<PolicySet>,
    /// What the policies map holds in the slot in force.
    pub(super) in_force: BTreeMap<u32, Policy>,
    pub(super) adapted: BTreeMap<(Name, Name), Adapted>,
    /// Policies whose SYNs the controller has answered.
    pub(super) answering: BTreeSet<Name>,
    /// What the interfaces map holds.
    switched: BTreeMap<u32, InterfaceEntry>,
    attached: Vec<Attached>,
    failures: BTreeMap<String, String>,
    /// Of the latest view.
    version: u64,
}

impl InForce {
    /// With what an earlier agent has left in force, if it has.
    ///
    /// # Errors
    /// The kernel refuses.
    pub(super) fn inherit(
        interfaces: HashMap<MapData, u32, InterfaceEntry>,
        seats: Seats,
        policies: Array<Policy>,
        numbers: Numbers,
    ) -> Result<Self, KernelError> {
        let mut in_force = Self {
            interfaces,
            seats,
            policies,
            numbers,
            slot: 0,
            set: Arc::default(),
            in_force: BTreeMap::new(),
            adapted: BTreeMap::new(),
            answering: BTreeSet::new(),
            switched: BTreeMap::new(),
            attached: Vec::new(),
            failures: BTreeMap::new(),
            version: 0,
        };
        in_force.find_slot()?;
        Ok(in_force)
    }

    /// Finds out which slot is in force.
    fn find_slot(&mut self) -> Result<(), KernelError> {
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
        Ok(())
    }

    /// Puts a staged generation in force: from here on packets see that one alone. Interfaces that it does not speak of
    /// are taken out, and their packets pass. All or none: if one cannot be switched, those that were go back. What each
    /// interface is switched to.
    ///
    /// # Errors
    /// The kernel refuses.
    pub(super) fn replace(
        &mut self,
        staged: Staged,
        present: &[Interface],
    ) -> Result<BTreeMap<u32, InterfaceEntry>, KernelError> {
        let Staged {
            set,
            mut numbers,
            slot,
            interfaces,
            mut policies,
            ..
        } = staged;
        let adapted = self.carry_adapted_over(&set, &mut policies, &numbers);
        let answering = self.carry_answering_over(&set, &mut policies, &numbers);
        for (number, policy) in &policies {
            self.policies
                .put("POLICIES", &(slot * MAX_POLICIES + number), policy)?;
        }
        self.switch(&interfaces)?;
        let names = present.iter().map(|interface| interface.name.clone()).collect();
        numbers.retain(&set, &names);
        self.numbers = numbers;
        self.slot = slot;
        self.set = set;
        self.in_force = policies;
        self.adapted = adapted;
        self.answering = answering;
        Ok(interfaces)
    }

    fn switch(&mut self, to: &BTreeMap<u32, InterfaceEntry>) -> Result<(), KernelError> {
        let before = self.switched.clone();
        let result = to
            .iter()
            .try_for_each(|(index, entry)| self.enter(*index, *entry));
        if let Err(error) = result {
            let new: Vec<u32> = self
                .switched
                .keys()
                .copied()
                .filter(|index| !before.contains_key(index))
                .collect();
            for index in new {
                self.vacate(index)?;
            }
            for (index, entry) in before {
                // What was written a moment ago can be written again.
                self.enter(index, entry)?;
            }
            return Err(error);
        }
        let gone: Vec<u32> = self
            .switched
            .keys()
            .filter(|index| !to.contains_key(index))
            .copied()
            .collect();
        for index in gone {
            self.switched.remove(&index);
            if let Err(error) = self.vacate(index) {
                tracing::error!(index, %error, "an interface keeps its policies");
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

    /// Takes an interface out of seat and map, wherever it is: an agent that was killed may have left one of the two.
    fn vacate(&mut self, index: u32) -> Result<(), KernelError> {
        let left = self.seats.leave(index);
        left.and(
            self.interfaces
                .remove_if_present("INTERFACES", &index)
                .map(|_| ()),
        )
    }

    fn enter(&mut self, index: u32, entry: InterfaceEntry) -> Result<(), KernelError> {
        self.interfaces.put("INTERFACES", &index, &entry)?;
        self.seats.enter(index, entry)?;
        self.switched.insert(index, entry);
        Ok(())
    }

    /// The number that the kernel knows a policy by.
    #[must_use]
    pub fn number(&self, policy: &Name) -> Option<u32> {
        let (_, number) = self.numbers.policies().find(|(name, _)| *name == policy)?;
        Some(number)
    }

    /// Changes what a policy says at once: first the bank that nobody reads, then the switch to it.
    pub(super) fn change(&mut self, number: u32, how: impl FnOnce(&mut Bank)) -> Result<(), KernelError> {
        let Some(entry) = self.in_force.get_mut(&number) else {
            return Ok(());
        };
        let current = usize::from(entry.select & 1 == 1);
        let mut bank = entry.banks[current];
        how(&mut bank);
        entry.banks[1 - current] = bank;
        let place = self.slot * MAX_POLICIES + number;
        self.policies.put("POLICIES", &place, entry)?;
        entry.select = 1 - (entry.select & 1);
        self.policies.put("POLICIES", &place, entry)
    }

    /// What the kernel runs for a policy now.
    fn bank(&self, number: u32) -> Option<&Bank> {
        let entry = self.in_force.get(&number)?;
        Some(&entry.banks[usize::from(entry.select & 1 == 1)])
    }

    /// Notes where the programs are, for views.
    pub fn reach(&mut self, attached: Vec<Attached>, failures: BTreeMap<String, String>) {
        self.attached = attached;
        self.failures = failures;
    }

    /// What is in force now, for whoever asks later.
    pub fn view(&mut self) -> Arc<View> {
        self.version += 1;
        let running = self.numbers.policies().map(|(name, number)| {
            let bank = self.bank(number).map(|bank| Arc::new(*bank));
            (name.clone(), Running { number, bank })
        });
        Arc::new(View {
            version: self.version,
            set: Arc::clone(&self.set),
            policies: running.collect(),
            adapted: self.adapted.keys().cloned().collect(),
            attached: self.attached.clone(),
            failures: self.failures.clone(),
        })
    }
}
