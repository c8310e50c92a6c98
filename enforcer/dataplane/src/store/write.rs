//! Writing a generation into the slot that is not in force.

use aya::maps::{HashMap, MapData, lpm_trie::Key};
use enforcer_common::layout::{Access, AccessKey, EgressKey, EgressRule, MAX_POLICIES, Service, ServiceKey};

use super::{super::KernelError, Store, Tables};
use crate::{
    AccessMap,
    difference::{Table, same_moment, sorted, write_difference},
    elements::Elements as _,
};

type Services = HashMap<MapData, ServiceKey, Service>;
type EgressRules = HashMap<MapData, EgressKey, EgressRule>;

impl Store {
    /// Makes a slot hold what it is to hold, but for what a policy's limits are now: [`super::InForce`] writes that. What
    /// the slot held two generations ago stayed for packets that were on their way through.
    ///
    /// # Errors
    /// A map is full or the kernel refuses.
    pub(super) fn write(&mut self, slot: u32, tables: Tables) -> Result<usize, KernelError> {
        let held = &mut self.held[slot as usize];
        let services = tables.services.into_values().collect();
        let mut writes = write_difference(
            &mut self.services,
            &mut held.services,
            sorted::<_, _, Services>(services),
        )?;
        for (number, limits) in &tables.egress_limits {
            self.egress_limits
                .put("EGRESS_LIMITS", &(slot * MAX_POLICIES + number), limits)?;
        }
        // In this order, so that no list speaks of a rule that is not there.
        let rules = tables.egress_rules.into_iter().collect();
        writes += write_difference(
            &mut self.egress_rules,
            &mut held.egress_rules,
            sorted::<_, _, EgressRules>(rules),
        )?;
        let entries = tables
            .access
            .into_iter()
            .map(|(key, entry)| (key, AccessMap::entry(&key, entry)));
        let entries = sorted::<_, _, AccessMap>(entries.collect());
        writes += write_difference(&mut self.access, &mut held.access, entries)?;
        self.access.tidy()?;
        Ok(writes)
    }
}

impl Table<ServiceKey, Service> for Services {
    type Order = (u32, u8, u16, u8);

    fn order(key: &ServiceKey) -> Self::Order {
        (key.group, key.protocol, key.port, key.slot)
    }

    fn serves(held: &Service, wanted: &Service) -> bool {
        held == wanted
    }

    fn put(&mut self, key: &ServiceKey, service: &Service) -> Result<(), KernelError> {
        self.insert(key, service, 0).map_err(KernelError::map("SERVICES"))
    }

    fn remove(&mut self, key: &ServiceKey) -> Result<(), KernelError> {
        self.remove_if_present("SERVICES", key).map(|_| ())
    }
}

impl Table<EgressKey, EgressRule> for EgressRules {
    type Order = EgressKey;

    fn order(key: &EgressKey) -> EgressKey {
        *key
    }

    fn serves(held: &EgressRule, wanted: &EgressRule) -> bool {
        let timed = EgressRule {
            denied_until_ns: held.denied_until_ns,
            tried_until_ns: held.tried_until_ns,
            ..*wanted
        };
        *held == timed
            && same_moment(held.denied_until_ns, wanted.denied_until_ns)
            && same_moment(held.tried_until_ns, wanted.tried_until_ns)
    }

    fn put(&mut self, key: &EgressKey, rule: &EgressRule) -> Result<(), KernelError> {
        self.insert(key, rule, 0)
            .map_err(KernelError::map("EGRESS_RULES"))
    }

    fn remove(&mut self, key: &EgressKey) -> Result<(), KernelError> {
        self.remove_if_present("EGRESS_RULES", key).map(|_| ())
    }
}

impl Table<Key<AccessKey>, Access> for AccessMap {
    type Order = (u32, [u8; 16], u32);

    fn order(key: &Key<AccessKey>) -> Self::Order {
        let AccessKey { table, address } = key.data();
        (table, address, key.prefix_len())
    }

    fn serves(held: &Access, wanted: &Access) -> bool {
        let timed = Access {
            expires_ns: held.expires_ns,
            ..*wanted
        };
        *held == timed && same_moment(held.expires_ns, wanted.expires_ns)
    }

    fn put(&mut self, key: &Key<AccessKey>, entry: &Access) -> Result<(), KernelError> {
        self.insert(key, *entry)
    }

    fn remove(&mut self, key: &Key<AccessKey>) -> Result<(), KernelError> {
        AccessMap::remove(self, key)
    }
}
