//! Policies whose SYNs are answered now: the controller says so, and the next generation goes on.

use std::collections::{BTreeMap, BTreeSet};

use enforcer_common::layout::{Policy, policy_flag};

use super::InForce;
use crate::{KernelError, numbers::Numbers};
use enforcer_model::{Name, PolicySet, SynDefence};

impl InForce {
    /// Begins or ends answering SYNs under an `auto` policy, for the controller. Unknown names change
    /// nothing.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn answer_syns(&mut self, policy: &Name, on: bool) -> Result<(), KernelError> {
        let Some(number) = self.number(policy) else {
            return Ok(());
        };
        self.change(number, |bank| {
            bank.flags &= !policy_flag::SYN_ANSWERED;
            if on {
                bank.flags |= policy_flag::SYN_ANSWERED;
            }
        })?;
        if on {
            self.answering.insert(policy.clone());
        } else {
            self.answering.remove(policy);
        }
        Ok(())
    }

    /// Ends answering everywhere, because the agent ends and with it what makes the stack take cookies. The
    /// next agent begins anew.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn end_answering(&mut self) -> Result<(), KernelError> {
        let answers = |entry: &Policy| {
            entry
                .banks
                .iter()
                .any(|bank| bank.flags & policy_flag::SYN_ANSWERED != 0)
        };
        let answering: Vec<u32> = self
            .in_force
            .iter()
            .filter(|(_, entry)| answers(entry))
            .map(|(number, _)| *number)
            .collect();
        for number in answering {
            self.change(number, |bank| bank.flags &= !policy_flag::SYN_ANSWERED)?;
        }
        self.answering.clear();
        Ok(())
    }

    /// Goes on answering where policies are still `auto`, and says which.
    pub(super) fn carry_answering_over(
        &self,
        set: &PolicySet,
        policies: &mut BTreeMap<u32, Policy>,
        numbers: &Numbers,
    ) -> BTreeSet<Name> {
        let auto = |name: &Name| {
            set.packet_policies
                .iter()
                .any(|policy| policy.name == *name && matches!(policy.syn, SynDefence::Auto { .. }))
        };
        let mut carried = self.answering.clone();
        carried.retain(auto);
        for (name, number) in numbers.policies() {
            if let Some(entry) = policies.get_mut(&number)
                && carried.contains(name)
            {
                for bank in &mut entry.banks {
                    bank.flags |= policy_flag::SYN_ANSWERED;
                }
            }
        }
        carried
    }
}
