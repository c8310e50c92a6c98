//! Limits that the controller has changed.

use std::collections::BTreeMap;

use enforcer_common::{
    layout::{Bank, Policy},
    limiter::Params,
};

use super::InForce;
use crate::{KernelError, numbers::Numbers};
use enforcer_model::{Level, Name, PolicySet};

/// A limit that the controller has changed, level by level.
#[derive(Clone)]
pub(super) struct Adapted {
    /// As the policy has it: a change of policy ends the adaptation.
    configured: Vec<Params>,
    now: Vec<Params>,
}

impl InForce {
    /// Lowers or raises a limit's rate at once, for the controller: `rate` says what each of its levels runs
    /// with. Unknown names change nothing.
    ///
    /// # Errors
    /// The kernel refuses, or a level cannot run so.
    pub fn adapt(
        &mut self,
        policy: &Name,
        limit: &Name,
        rate: impl Fn(&Level) -> Result<Params, KernelError>,
    ) -> Result<(), KernelError> {
        let Some((number, index, levels)) = self.find(policy, limit) else {
            return Ok(());
        };
        let now: Vec<Params> = levels.iter().map(rate).collect::<Result<_, _>>()?;
        let configured = configured(levels);
        self.change(number, |bank| set_levels(bank, index, &now))?;
        self.adapted
            .insert((policy.clone(), limit.clone()), Adapted { configured, now });
        Ok(())
    }

    fn find(&self, policy: &Name, limit: &Name) -> Option<(u32, usize, &[Level])> {
        let document = self
            .set
            .packet_policies
            .iter()
            .find(|document| document.name == *policy)?;
        let index = document
            .limits
            .iter()
            .position(|candidate| candidate.name == *limit)?;
        let number = self.number(policy)?;
        Some((number, index, &document.limits[index].levels))
    }

    /// Carries the controller's changes over to limits that the new generation has unchanged, and says which.
    pub(super) fn carry_adapted_over(
        &self,
        set: &PolicySet,
        policies: &mut BTreeMap<u32, Policy>,
        numbers: &Numbers,
    ) -> BTreeMap<(Name, Name), Adapted> {
        let mut carried = self.adapted.clone();
        carried.retain(|(policy, limit), adapted| {
            let mut known = numbers.policies();
            let number = known.find(|(name, _)| *name == policy).map(|(_, number)| number);
            let mut documents = set.packet_policies.iter();
            let document = documents.find(|document| document.name == *policy);
            let found = document.zip(number).and_then(|(document, number)| {
                let mut limits = document.limits.iter();
                let index = limits.position(|candidate| candidate.name == *limit)?;
                let unchanged = configured(&document.limits[index].levels) == adapted.configured;
                let entry = policies.get_mut(&number).filter(|_| unchanged)?;
                Some((entry, index))
            });
            let Some((entry, index)) = found else { return false };
            for bank in &mut entry.banks {
                set_levels(bank, index, &adapted.now);
            }
            true
        });
        carried
    }
}

/// What the levels of a limit run with by the policy.
fn configured(levels: &[Level]) -> Vec<Params> {
    levels.iter().map(|level| level.params).collect()
}

/// Has the levels of the limit at `index` of its policy run with `params`.
fn set_levels(bank: &mut Bank, index: usize, params: &[Params]) {
    for (level, params) in bank.levels_mut(index).zip(params) {
        level.params = *params;
    }
}
