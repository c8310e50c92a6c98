//! Writing a generation into the slot that is not in force.

use aya::maps::MapError;
use enforcer_common::layout::MAX_POLICIES;

use super::{super::KernelError, Store, Tables};

impl Store {
    /// Takes out what the slot held, and writes what it is to hold.
    ///
    /// # Errors
    /// A map is full or the kernel refuses.
    pub(super) fn write(&mut self, slot: u32, tables: &Tables) -> Result<(), KernelError> {
        // What this slot held two generations ago. It stayed for packets that were on their way through.
        // One at a time, so that none is forgotten if the kernel refuses.
        let written = &mut self.written[slot as usize];
        while let Some(key) = written.services.last() {
            match self.services.remove(key) {
                Ok(()) | Err(MapError::KeyNotFound) => written.services.pop(),
                Err(error) => return Err(KernelError::map("SERVICES")(error)),
            };
        }
        while let Some(key) = written.access.last() {
            self.access.remove(key)?;
            written.access.pop();
        }
        while let Some(key) = written.egress_rules.last() {
            match self.egress_rules.remove(key) {
                Ok(()) | Err(MapError::KeyNotFound) => written.egress_rules.pop(),
                Err(error) => return Err(KernelError::map("EGRESS_RULES")(error)),
            };
        }
        for (number, limits) in &tables.egress_limits {
            self.egress_limits
                .set(slot * MAX_POLICIES + number, *limits, 0)
                .map_err(KernelError::map("EGRESS_LIMITS"))?;
        }
        for (number, policy) in &tables.policies {
            let place = slot * MAX_POLICIES + number;
            self.policies
                .set(place, *policy, 0)
                .map_err(KernelError::map("POLICIES"))?;
        }
        let written = &mut self.written[slot as usize];
        for (key, policy) in tables.services.values() {
            self.services
                .insert(*key, *policy, 0)
                .map_err(KernelError::map("SERVICES"))?;
            written.services.push(*key);
        }
        for (key, rule) in &tables.egress_rules {
            self.egress_rules
                .insert(*key, *rule, 0)
                .map_err(KernelError::map("EGRESS_RULES"))?;
            written.egress_rules.push(*key);
        }
        for (key, entry) in &tables.access {
            self.access.insert(key, *entry)?;
            written.access.push(*key);
        }
        self.access.tidy()
    }
}
