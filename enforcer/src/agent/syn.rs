//! SYN defence in the controller's interval: which policies answer SYNs, and what the node needs for it.

use std::{collections::BTreeMap, time::Duration};

use super::state::{KernelHalf, Shared};
use crate::adapt::syn::Guard;
use enforcer_dataplane::{KernelError, Need};
use enforcer_model::{Mode, Name, PacketPolicy, PolicySet, SynDefence};

/// What is remembered between intervals.
#[derive(Default)]
pub struct SynWatch {
    policies: BTreeMap<Name, Watched>,
}

#[derive(Clone, Copy, Default)]
struct Watched {
    guard: Guard,
    /// SYNs so far; `None` before the first reading.
    arrived: Option<u64>,
}

impl SynWatch {
    /// One interval.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn tick(
        &mut self,
        shared: &Shared,
        kernel: &KernelHalf,
        set: &PolicySet,
        interval: Duration,
    ) -> Result<(), KernelError> {
        let mut need = Need::default();
        let mut answering = BTreeMap::new();
        let mut failed = Ok(());
        for policy in &set.packet_policies {
            let active = match policy.syn {
                SynDefence::Off => continue,
                SynDefence::Always => true,
                SynDefence::Auto { above } => {
                    let watched = self.watch(shared, kernel, policy, above.per_second(), interval);
                    // The others are looked at all the same.
                    watched.unwrap_or_else(|error| {
                        failed = Err(error);
                        self.answers(&policy.name)
                    })
                }
            };
            // The sysctls are the whole node's: a policy that only counts must not change them.
            if policy.mode == Mode::Enforce {
                need.ready = true;
                need.answering |= active;
            }
            answering.insert(policy.name.clone(), active);
        }
        self.policies.retain(|name, _| answering.contains_key(name));
        let shortfalls = kernel.syn.prepare(need)?;
        let before = shared.standing();
        for shortfall in &shortfalls {
            if !before.syn_shortfalls.contains(shortfall) {
                tracing::warn!(%shortfall, "SYN defence lacks something");
            }
        }
        shared.change(|standing| {
            standing.answering = answering;
            standing.syn_shortfalls = shortfalls;
        });
        failed
    }

    fn answers(&self, policy: &Name) -> bool {
        self.policies
            .get(policy)
            .is_some_and(|watched| watched.guard.answering())
    }

    /// Whether an `auto` policy answers from now on.
    fn watch(
        &mut self,
        shared: &Shared,
        kernel: &KernelHalf,
        policy: &PacketPolicy,
        above: f64,
        interval: Duration,
    ) -> Result<bool, KernelError> {
        let Some(number) = shared.standing().kernel.number(&policy.name) else {
            return Ok(false);
        };
        let arrived = kernel.syn.arrived(number)?;
        let watched = self.policies.entry(policy.name.clone()).or_default();
        let before = watched.guard.answering();
        let Some(last) = watched.arrived.replace(arrived) else {
            return Ok(before);
        };
        #[expect(clippy::cast_precision_loss, reason = "a rate for deciding, not for counting")]
        let per_second = arrived.saturating_sub(last) as f64 / interval.as_secs_f64().max(0.001);
        let after = watched.guard.observe(per_second, above, interval);
        if after != before {
            shared.answer_syns(kernel, &policy.name, after)?;
            tracing::warn!(
                policy = %policy.name,
                answered = after,
                syns_per_second = per_second.round(),
                above_per_second = above.round(),
                "SYN cookies"
            );
        }
        Ok(after)
    }
}
