//! The kernel's counters: packets and bytes by direction, policy, reason and verdict.

use aya::maps::{MapData, PerCpuArray};
use enforcer_common::{
    layout::{Counter, counter},
    verdict::{Direction, Reason, Verdict},
};

use super::{KernelError, elements::clear_per_cpu};
use crate::sync::system_call;

/// The counters.
pub struct Counters(PerCpuArray<MapData, Counter>);

/// One of them, summed over the CPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Count {
    /// Which way.
    pub direction: Direction,
    /// Why.
    pub reason: Reason,
    /// What.
    pub verdict: Verdict,
    /// How many.
    pub total: Counter,
}

impl Counters {
    /// Over the given map.
    #[must_use]
    pub fn new(map: PerCpuArray<MapData, Counter>) -> Self {
        Self(map)
    }

    /// All counters of a policy that can move, in a fixed order.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn of_policy(&self, policy: u32) -> Result<Vec<Count>, KernelError> {
        system_call("COUNTERS");
        possible()
            .map(|(direction, reason, verdict)| {
                let place = counter(direction, policy, reason, verdict);
                let values = self.0.get(&place, 0).map_err(KernelError::map("COUNTERS"))?;
                let total = values.iter().fold(Counter::default(), |sum, value| Counter {
                    packets: sum.packets.wrapping_add(value.packets),
                    bytes: sum.bytes.wrapping_add(value.bytes),
                });
                Ok(Count {
                    direction,
                    reason,
                    verdict,
                    total,
                })
            })
            .collect()
    }

    /// Begins a policy's counters anew, for a number that another policy had before.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn clear(&self, policy: u32) -> Result<(), KernelError> {
        let cpus = aya::util::nr_cpus().map_err(|(_, error)| KernelError::Cpus(error))?;
        let zeroes = vec![0; cpus * size_of::<Counter>().div_ceil(8)];
        possible().try_for_each(|(direction, reason, verdict)| {
            let place = counter(direction, policy, reason, verdict);
            clear_per_cpu(&self.0, "COUNTERS", place, &zeroes)
        })
    }
}

/// The combinations that occur.
fn possible() -> impl Iterator<Item = (Direction, Reason, Verdict)> {
    let all = Direction::ALL.into_iter().flat_map(|direction| {
        Reason::ALL
            .iter()
            .flat_map(move |&reason| Verdict::ALL.map(|verdict| (direction, reason, verdict)))
    });
    all.filter(|&(direction, reason, verdict)| {
        let told = verdict == Verdict::Reset && reason.may_be_told();
        let possible = verdict == reason.verdict(false) || verdict == reason.verdict(true) || told;
        possible && occurs(direction, reason)
    })
}

/// Whether a reason occurs in a direction.
fn occurs(direction: Direction, reason: Reason) -> bool {
    match reason {
        Reason::NoPolicy | Reason::NotIp | Reason::Lifeline | Reason::Management | Reason::AgentGone => true,
        Reason::EgressAllowed
        | Reason::EgressDenied
        | Reason::EgressDefault
        | Reason::EgressReply
        | Reason::EgressLimit0
        | Reason::EgressLimit1
        | Reason::ToPod => direction == Direction::Egress,
        _ => direction == Direction::Ingress,
    }
}
