//! The kernel's counters: packets and bytes by direction, policy, reason and verdict.

use aya::maps::{MapData, PerCpuArray};
use enforcer_common::{
    layout::{Counter, counter, tried_counter},
    verdict::{Direction, Reason, Verdict},
};

use super::{KernelError, elements::clear_per_cpu};
use enforcer_supervision::sync::system_call;

type Map = PerCpuArray<MapData, Counter>;

/// The counters.
pub struct Counters {
    /// One verdict for each packet.
    verdicts: Map,
    /// What policies in shadow would have done besides.
    tried: Map,
}

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
    /// Over the given maps: of verdicts, and of what policies in shadow would have done.
    #[must_use]
    pub fn new(verdicts: Map, tried: Map) -> Self {
        Self { verdicts, tried }
    }

    /// All counters of a policy that can move, in a fixed order.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn of_policy(&self, policy: u32) -> Result<Vec<Count>, KernelError> {
        possible()
            .map(|(direction, reason, verdict)| {
                let place = counter(direction, policy, reason, verdict);
                Ok(Count {
                    direction,
                    reason,
                    verdict,
                    total: total(&self.verdicts, "COUNTERS", place)?,
                })
            })
            .collect()
    }

    /// What a policy in shadow would have done with packets that others decide about, in a fixed order: verdicts are
    /// `pass` and `shadow`.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn tried_of_policy(&self, policy: u32) -> Result<Vec<Count>, KernelError> {
        triable()
            .map(|(direction, reason)| {
                Ok(Count {
                    direction,
                    reason,
                    verdict: reason.verdict(true),
                    total: total(&self.tried, "TRIED", tried_counter(direction, policy, reason))?,
                })
            })
            .collect()
    }

    /// All that a policy has said, whether it has decided or was only tried.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn said_by_policy(&self, policy: u32) -> Result<Vec<Count>, KernelError> {
        let mut counts = self.of_policy(policy)?;
        counts.extend(self.tried_of_policy(policy)?);
        Ok(counts)
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
            clear_per_cpu(&self.verdicts, "COUNTERS", place, &zeroes)
        })?;
        triable().try_for_each(|(direction, reason)| {
            let place = tried_counter(direction, policy, reason);
            clear_per_cpu(&self.tried, "TRIED", place, &zeroes)
        })
    }
}

/// A counter, summed over the CPUs.
fn total(map: &Map, name: &'static str, place: u32) -> Result<Counter, KernelError> {
    system_call(name);
    let values = map.get(&place, 0).map_err(KernelError::map(name))?;
    Ok(values.iter().fold(Counter::default(), |sum, value| Counter {
        packets: sum.packets.wrapping_add(value.packets),
        bytes: sum.bytes.wrapping_add(value.bytes),
    }))
}

/// What policies in shadow may say.
fn triable() -> impl Iterator<Item = (Direction, Reason)> {
    Direction::ALL.into_iter().flat_map(|direction| {
        let reasons = Reason::ALL.iter().copied();
        reasons
            .filter(move |reason| occurs(direction, *reason))
            .map(move |reason| (direction, reason))
    })
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
        Reason::NoPolicy
        | Reason::NotIp
        | Reason::Lifeline
        | Reason::Management
        | Reason::AgentGone
        | Reason::Truncated
        | Reason::Malformed
        | Reason::Martian
        | Reason::ExtensionHeaders
        | Reason::VlanTags
        | Reason::Opaque
        | Reason::OpaqueDenied => true,
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
