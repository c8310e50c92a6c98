//! Generations of packet policies: written beside the one in force, then switched to.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use aya::{
    Ebpf,
    maps::{HashMap, MapData, lpm_trie::Key},
};
use enforcer_common::{
    layout::{AccessKey, Bank, Interface as InterfaceEntry, MAX_POLICIES, Policy, ServiceKey},
    limiter::Params,
};
use time::OffsetDateTime;

use super::{
    AccessMap, Attachment, KernelError, XdpChoice, XdpReached, TcReached,
    attach::{attach, detach},
    clock::monotonic_ns,
    compile::{Moment, Tables, compile, missing},
    counters::Counters,
    interfaces::{self, Interface},
    numbers::Numbers,
    object::{self, Array},
};
use crate::policy::model::{Name, PolicySet};

/// The programs, where they are attached, and the tables that they read.
pub struct Generations {
    ebpf: Ebpf,
    maps: Maps,
    xdp: XdpChoice,
    numbers: Numbers,
    slot: u32,
    set: Arc<PolicySet>,
    /// What each slot holds, so that it can be taken out again.
    written: [Written; 2],
    policies: BTreeMap<u32, Policy>,
    adapted: BTreeMap<(Name, Name), Adapted>,
    attached: BTreeMap<u32, (Interface, Attachment)>,
    failures: BTreeMap<String, String>,
}

struct Maps {
    access: AccessMap,
    interfaces: HashMap<MapData, u32, InterfaceEntry>,
    services: HashMap<MapData, ServiceKey, u32>,
    policies: Array<Policy>,
}

#[derive(Default)]
struct Written {
    services: Vec<ServiceKey>,
    access: Vec<Key<AccessKey>>,
}

/// A limit that the controller has changed.
#[derive(Clone, Copy)]
struct Adapted {
    /// As the policy has it: a change of policy ends the adaptation.
    configured: Params,
    now: Params,
}

/// An interface that the programs are on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attached {
    /// Its name.
    pub interface: String,
    /// How XDP runs.
    pub xdp: XdpReached,
    /// How TC is attached.
    pub tc: TcReached,
}

impl Generations {
    /// Nothing attached, nothing in force.
    ///
    /// # Errors
    /// The object lacks a map.
    pub fn new(mut ebpf: Ebpf, access: AccessMap, xdp: XdpChoice) -> Result<Self, KernelError> {
        let maps = Maps {
            access,
            interfaces: object::take(&mut ebpf, "INTERFACES")?,
            services: object::take(&mut ebpf, "SERVICES")?,
            policies: object::take(&mut ebpf, "POLICIES")?,
        };
        Ok(Self {
            ebpf,
            maps,
            xdp,
            numbers: Numbers::default(),
            slot: 0,
            set: Arc::default(),
            written: Default::default(),
            policies: BTreeMap::new(),
            adapted: BTreeMap::new(),
            attached: BTreeMap::new(),
            failures: BTreeMap::new(),
        })
    }

    /// Puts `set` in force on the interfaces that there are. On an error the old one stays in force.
    /// An interface to which the programs cannot be attached is no error: see [`Self::failures`].
    ///
    /// # Errors
    /// A map is full or the kernel refuses.
    pub fn apply(&mut self, set: Arc<PolicySet>, counters: &Counters) -> Result<(), KernelError> {
        let slot = 1 - self.slot;
        let present = interfaces::list();
        let mut numbers = self.numbers.clone();
        let now = Moment { wall: OffsetDateTime::now_utc(), monotonic_ns: monotonic_ns() };
        let mut tables = compile(&set, &present, &mut numbers, slot, now)?;
        let known: BTreeSet<u32> = self.numbers.policies().map(|(_, number)| number).collect();
        for (_, number) in numbers.policies().filter(|(_, number)| !known.contains(number)) {
            counters.clear(number)?;
        }
        self.set = Arc::clone(&set);
        self.keep_adapted(&mut tables, &numbers);
        self.write(slot, &tables)?;
        self.switch(&tables, &present)?;
        self.slot = slot;
        self.policies = tables.policies;
        self.forget(&mut numbers, &present);
        self.numbers = numbers;
        for name in missing(&set, &present) {
            self.failures.entry(name).or_insert_with(|| "no such interface yet".to_owned());
        }
        Ok(())
    }

    /// Looks at which interfaces there are now; whether that made a difference.
    ///
    /// # Errors
    /// As for [`Self::apply`].
    pub fn refresh(&mut self, counters: &Counters) -> Result<bool, KernelError> {
        let wanted: BTreeSet<u32> = interfaces::list()
            .into_iter()
            .filter(|interface| {
                let mut patterns = self.set.packet_policies.iter().flat_map(|policy| &policy.interfaces);
                patterns.any(|pattern| pattern.matches(&interface.name))
            })
            .map(|interface| interface.index)
            .collect();
        let attached: BTreeSet<u32> = self.attached.keys().copied().collect();
        let failing = self.failures.len();
        if wanted == attached && failing == 0 || wanted.len() == attached.len() + failing {
            return Ok(false);
        }
        let set = Arc::clone(&self.set);
        self.apply(set, counters)?;
        Ok(true)
    }

    /// Lowers or raises a limit's rate at once, for the controller. Unknown names change nothing.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn adapt(&mut self, policy: &Name, limit: &Name, params: Params) -> Result<(), KernelError> {
        let Some((number, index, configured)) = self.find(policy, limit) else { return Ok(()) };
        let Some(entry) = self.policies.get_mut(&number) else { return Ok(()) };
        let current = usize::from(entry.select & 1 == 1);
        let mut bank = entry.banks[current];
        bank.limits[index].params = params;
        entry.banks[1 - current] = bank;
        let place = self.slot * MAX_POLICIES + number;
        // First the bank that nobody reads, then the switch to it.
        self.maps.policies.set(place, *entry, 0).map_err(KernelError::map("POLICIES"))?;
        entry.select = 1 - (entry.select & 1);
        self.maps.policies.set(place, *entry, 0).map_err(KernelError::map("POLICIES"))?;
        self.adapted.insert((policy.clone(), limit.clone()), Adapted { configured, now: params });
        Ok(())
    }

    /// Detaches everything.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn detach(&mut self) -> Result<(), KernelError> {
        let mut result = Ok(());
        for (_, (interface, attachment)) in std::mem::take(&mut self.attached) {
            result = result.and(detach(&mut self.ebpf, &interface, attachment));
        }
        result
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
        let (_, number) = self.numbers.policies().find(|(name, _)| *name == policy)?;
        let entry = self.policies.get(&number)?;
        Some(&entry.banks[usize::from(entry.select & 1 == 1)])
    }

    /// Where the programs are.
    #[must_use]
    pub fn attached(&self) -> Vec<Attached> {
        self.attached
            .values()
            .map(|(interface, attachment)| Attached {
                interface: interface.name.clone(),
                xdp: attachment.xdp,
                tc: attachment.tc,
            })
            .collect()
    }

    /// Interfaces where they should be and are not, and why.
    #[must_use]
    pub fn failures(&self) -> &BTreeMap<String, String> {
        &self.failures
    }

    fn find(&self, policy: &Name, limit: &Name) -> Option<(u32, usize, Params)> {
        let document = self.set.packet_policies.iter().find(|document| document.name == *policy)?;
        let index = document.limits.iter().position(|candidate| candidate.name == *limit)?;
        let (_, number) = self.numbers.policies().find(|(name, _)| *name == policy)?;
        Some((number, index, document.limits[index].params))
    }

    /// Carries the controller's changes over to limits that the new generation has unchanged.
    fn keep_adapted(&mut self, tables: &mut Tables, numbers: &Numbers) {
        let set = &self.set;
        self.adapted.retain(|(policy, limit), adapted| {
            let number = numbers.policies().find(|(name, _)| *name == policy).map(|(_, number)| number);
            let document = set.packet_policies.iter().find(|document| document.name == *policy);
            let found = document.zip(number).and_then(|(document, number)| {
                let index = document.limits.iter().position(|candidate| candidate.name == *limit)?;
                let unchanged = document.limits[index].params == adapted.configured;
                tables.policies.get_mut(&number).filter(|_| unchanged).map(|entry| (entry, index))
            });
            let Some((entry, index)) = found else { return false };
            for bank in &mut entry.banks {
                bank.limits[index].params = adapted.now;
            }
            true
        });
    }

    /// Writes the slot that is not in force.
    fn write(&mut self, slot: u32, tables: &Tables) -> Result<(), KernelError> {
        // What this slot held two generations ago. It stayed for packets that were on their way through.
        let old = std::mem::take(&mut self.written[slot as usize]);
        for key in &old.services {
            self.maps.services.remove(key).map_err(KernelError::map("SERVICES"))?;
        }
        for key in &old.access {
            self.maps.access.remove(key)?;
        }
        for (number, policy) in &tables.policies {
            let place = slot * MAX_POLICIES + number;
            self.maps.policies.set(place, *policy, 0).map_err(KernelError::map("POLICIES"))?;
        }
        for (key, policy) in tables.services.values() {
            self.maps.services.insert(*key, *policy, 0).map_err(KernelError::map("SERVICES"))?;
            self.written[slot as usize].services.push(*key);
        }
        for (key, entry) in &tables.access {
            self.maps.access.insert(key, *entry)?;
            self.written[slot as usize].access.push(*key);
        }
        Ok(())
    }

    /// Switches each interface over, attaches new ones and detaches those that no policy names.
    fn switch(&mut self, tables: &Tables, present: &[Interface]) -> Result<(), KernelError> {
        self.failures.clear();
        for interface in present {
            let Some(entry) = tables.interfaces.get(&interface.index) else { continue };
            let map = &mut self.maps.interfaces;
            map.insert(interface.index, *entry, 0).map_err(KernelError::map("INTERFACES"))?;
            if self.attached.contains_key(&interface.index) {
                continue;
            }
            match attach(&mut self.ebpf, interface, self.xdp) {
                Ok(attachment) => {
                    tracing::info!(
                        interface = interface.name,
                        xdp = %attachment.xdp,
                        tc = %attachment.tc,
                        "attached"
                    );
                    self.attached.insert(interface.index, (interface.clone(), attachment));
                }
                Err(error) => {
                    tracing::error!(interface = interface.name, %error, "not attached");
                    self.failures.insert(interface.name.clone(), error.to_string());
                }
            }
        }
        let gone: Vec<u32> =
            self.attached.keys().filter(|index| !tables.interfaces.contains_key(index)).copied().collect();
        for index in gone {
            // The entry goes first: an attached program without one passes everything.
            if let Err(error) = self.maps.interfaces.remove(&index) {
                tracing::debug!(index, %error, "the interface had no entry");
            }
            if let Some((interface, attachment)) = self.attached.remove(&index) {
                tracing::info!(interface = interface.name, "detached");
                detach(&mut self.ebpf, &interface, attachment)?;
            }
        }
        Ok(())
    }

    /// Gives back the numbers of what neither this generation nor its interfaces have.
    fn forget(&self, numbers: &mut Numbers, present: &[Interface]) {
        let policies = self.set.packet_policies.iter().map(|policy| policy.name.clone()).collect();
        let interfaces = present.iter().map(|interface| interface.name.clone()).collect();
        numbers.retain(&policies, &interfaces);
    }
}
