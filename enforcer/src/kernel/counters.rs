//! The kernel's counters: packets and bytes by direction, policy, reason and verdict.

use std::sync::{Mutex, PoisonError};

use aya::maps::{MapData, PerCpuArray, PerCpuValues};
use enforcer_common::{
    layout::{Counter, counter},
    verdict::{Direction, Reason, Verdict},
};

use super::KernelError;

/// The counters.
pub struct Counters(Mutex<PerCpuArray<MapData, Counter>>);

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
        Self(Mutex::new(map))
    }

    /// All counters of a policy that can move, in a fixed order.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn of_policy(&self, policy: u32) -> Result<Vec<Count>, KernelError> {
        let map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        possible()
            .map(|(direction, reason, verdict)| {
                let place = counter(direction, policy, reason, verdict);
                let values = map.get(&place, 0).map_err(KernelError::map("COUNTERS"))?;
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
        let mut map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let cpus = aya::util::nr_cpus().map_err(|(_, error)| KernelError::Cpus(error))?;
        for (direction, reason, verdict) in possible() {
            let zero = PerCpuValues::try_from(vec![Counter::default(); cpus]).map_err(KernelError::Cpus)?;
            let place = counter(direction, policy, reason, verdict);
            map.set(place, zero, 0).map_err(KernelError::map("COUNTERS"))?;
        }
        Ok(())
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
