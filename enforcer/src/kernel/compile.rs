//! Packet policies become kernel tables: a pure function of the policies, the interfaces there are, and
//! the numbers that names have been given.

use std::collections::{BTreeMap, BTreeSet};

use aya::maps::lpm_trie::Key;
use enforcer_common::{
    layout::{
        Access, AccessKey, Bank, Interface, LIMITS_PER_POLICY, Limit, MAX_PREFIXES, NO_POLICY, Policy,
        ServiceKey, interface_flag, limit_count, limit_key, policy_flag, table, table_kind,
    },
    limiter::{Algorithm, Params},
    sketch,
    verdict::Reason,
};
use time::OffsetDateTime;

use super::{
    KernelError, address::access_key, clock::monotonic_at, denials::MAX_DENIALS, interfaces, numbers::Numbers,
};
use crate::policy::model::{
    Action, Budget, Count, DenyEntry, Mode, PacketKey, PacketLimit, PacketPolicy, PolicySet, SynDefence,
    Transport,
};

/// Two generations and all denials share one map.
const PREFIXES_PER_GENERATION: usize = (MAX_PREFIXES as usize - MAX_DENIALS) / 2;

/// The moment of compiling, on both clocks, for entries with an end.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// The calendar's.
    pub wall: OffsetDateTime,
    /// The kernel's monotonic clock's.
    pub monotonic_ns: u64,
}

/// All that one generation writes into the maps.
#[derive(Default)]
pub struct Tables {
    /// By interface index.
    pub interfaces: BTreeMap<u32, Interface>,
    /// Protocols and ports with a policy.
    pub services: BTreeMap<(u32, u8, u16), (ServiceKey, u32)>,
    /// By policy number.
    pub policies: BTreeMap<u32, Policy>,
    /// Access lists.
    pub access: Vec<(Key<AccessKey>, Access)>,
}

/// Compiles for `slot`.
///
/// # Errors
/// More policies, interfaces or shared limiters than the maps hold.
pub fn compile(
    set: &PolicySet,
    present: &[interfaces::Interface],
    numbers: &mut Numbers,
    slot: u32,
    now: Moment,
) -> Result<Tables, KernelError> {
    let mut tables = Tables::default();
    let mut groups: BTreeMap<Vec<u32>, u32> = BTreeMap::new();
    let numbered = number(set, numbers)?;
    for interface in present {
        let about: Vec<_> = numbered
            .iter()
            .filter(|(_, policy)| {
                policy
                    .interfaces
                    .iter()
                    .any(|pattern| pattern.matches(&interface.name))
            })
            .copied()
            .collect();
        if about.is_empty() {
            continue;
        }
        let position = numbers.position(&interface.name)?;
        let members: Vec<u32> = about.iter().map(|(number, _)| *number).collect();
        let next = u32::try_from(groups.len()).unwrap_or(u32::MAX);
        let group = *groups.entry(members).or_insert_with(|| {
            add_group(&mut tables, &about, next, slot, now);
            next
        });
        tables
            .interfaces
            .insert(interface.index, describe(&about, slot, group, position));
    }
    for (number, policy) in &numbered {
        let bank = bank(policy, numbers)?;
        tables.policies.insert(
            *number,
            Policy {
                select: 0,
                banks: [bank; 2],
            },
        );
        let list = table(table_kind::INGRESS, slot, *number);
        add_prefixes(&mut tables, list, *number, policy, now);
    }
    if tables.access.len() > PREFIXES_PER_GENERATION {
        let (what, limit) = (
            "prefixes on the access lists of all policies",
            PREFIXES_PER_GENERATION,
        );
        return Err(KernelError::TooMany { what, limit });
    }
    Ok(tables)
}

/// The policies with their numbers, in order of name.
fn number<'a>(
    set: &'a PolicySet,
    numbers: &mut Numbers,
) -> Result<Vec<(u32, &'a PacketPolicy)>, KernelError> {
    set.packet_policies
        .iter()
        .map(|policy| Ok((numbers.policy(&policy.name)?, &**policy)))
        .collect()
}

fn describe(about: &[(u32, &PacketPolicy)], slot: u32, group: u32, position: u32) -> Interface {
    let any = about
        .iter()
        .find(|(_, policy)| policy.ports.is_empty())
        .map(|(number, _)| *number);
    let base = any
        .or_else(|| about.first().map(|(number, _)| *number))
        .unwrap_or(NO_POLICY);
    let mut flags = 0;
    if about.iter().any(|(_, policy)| !policy.ports.is_empty()) {
        flags |= interface_flag::PORTS;
    }
    if about.iter().any(|(_, policy)| !policy.egress_deny.is_empty()) {
        flags |= interface_flag::EGRESS;
    }
    Interface {
        slot,
        group,
        any: any.unwrap_or(NO_POLICY),
        base,
        position,
        flags,
    }
}

/// The services and egress lists of interfaces that have the same policies.
fn add_group(tables: &mut Tables, about: &[(u32, &PacketPolicy)], group: u32, slot: u32, now: Moment) {
    for (number, policy) in about {
        for port in &policy.ports {
            let protocol = match port.protocol {
                Transport::Tcp => 6,
                Transport::Udp => 17,
            };
            let slot = u8::from(slot != 0);
            let key = ServiceKey {
                group,
                port: port.number.to_be(),
                protocol,
                slot,
            };
            // Where two policies claim a port, the first by name has it.
            tables
                .services
                .entry((group, protocol, port.number))
                .or_insert((key, *number));
        }
    }
    let list = table(table_kind::EGRESS, slot, group);
    for (number, policy) in about {
        for entry in policy
            .egress_deny
            .iter()
            .filter(|entry| !has_ended(entry, now) && !is_tried_in_vain(about, policy.mode, entry, now))
        {
            let access = Access::new(expiry(entry.until, now), Reason::EgressDenied, *number);
            tables.access.push((access_key(list, entry.cidr), access));
        }
    }
}

/// Whether an entry in shadow lies within one that is enforced: it would hide that one, and lift it.
fn is_tried_in_vain(about: &[(u32, &PacketPolicy)], mode: Mode, entry: &DenyEntry, now: Moment) -> bool {
    let enforced = about.iter().filter(|(_, policy)| policy.mode == Mode::Enforce);
    mode == Mode::Shadow
        && enforced
            .flat_map(|(_, policy)| &policy.egress_deny)
            .any(|firm| firm.cidr.contains(&entry.cidr) && expiry(firm.until, now) > now.monotonic_ns)
}

/// A policy's own allow and deny lists.
fn add_prefixes(tables: &mut Tables, list: u32, number: u32, policy: &PacketPolicy, now: Moment) {
    for prefix in &policy.allow {
        let entry = Access::new(u64::MAX, Reason::Allowed, number);
        tables.access.push((access_key(list, *prefix), entry));
    }
    for entry in policy.deny.iter().filter(|entry| !has_ended(entry, now)) {
        let expires_ns = expiry(entry.until, now);
        let access = Access::new(expires_ns, Reason::Denied, number).resetting(entry.action == Action::Reset);
        tables.access.push((access_key(list, entry.cidr), access));
    }
}

/// Whether an entry no longer holds: it is not written at all.
fn has_ended(entry: &DenyEntry, now: Moment) -> bool {
    entry.until.is_some_and(|until| until <= now.wall)
}

fn expiry(until: Option<OffsetDateTime>, now: Moment) -> u64 {
    until.map_or(u64::MAX, |until| monotonic_at(until, now.wall, now.monotonic_ns))
}

fn bank(policy: &PacketPolicy, numbers: &mut Numbers) -> Result<Bank, KernelError> {
    let mut flags = 0;
    if policy.mode == Mode::Shadow {
        flags |= policy_flag::SHADOW;
    }
    if !policy.allow.is_empty() || !policy.deny.is_empty() {
        flags |= policy_flag::ACCESS;
    }
    let verified = verified(policy)?;
    if verified.is_some() {
        flags |= policy_flag::VERIFIED;
    }
    flags |= match policy.syn {
        SynDefence::Off => 0,
        SynDefence::Auto { .. } => policy_flag::SYN_COUNTED,
        SynDefence::Always => policy_flag::SYN_ANSWERED,
    };
    let mut limits = [UNUSED; LIMITS_PER_POLICY];
    for (place, limit) in limits.iter_mut().zip(&policy.limits) {
        *place = compile_limit(policy, limit, numbers)?;
    }
    let limit_count = u32::try_from(policy.limits.len().min(LIMITS_PER_POLICY)).unwrap_or(0);
    Ok(Bank {
        flags,
        limit_count,
        resets: resets(policy),
        verified: verified.unwrap_or(UNUSED.params),
        limits,
    })
}

/// Of which drops the sender is told, as bits of their reasons; deny lists say so in each entry.
fn resets(policy: &PacketPolicy) -> u64 {
    let limits = (0..).zip(&policy.limits);
    let of_limits = limits
        .filter(|(_, limit)| limit.action == Action::Reset)
        .map(|(index, _)| Reason::limit(index).bit());
    let of_budget = (policy.action == Action::Reset).then(|| Reason::OverBudget.bit());
    of_limits.chain(of_budget).fold(0, |bits, bit| bits | bit)
}

/// The budget of each verified identity: what the policy says, else the same as a stranger has by the
/// first limit on its packets, but for itself.
fn verified(policy: &PacketPolicy) -> Result<Option<Params>, KernelError> {
    let own = |limit: &&PacketLimit| limit.per == PacketKey::Source && limit.count == Count::Packets;
    let budget = policy
        .verified
        .or_else(|| policy.limits.iter().find(own).map(|limit| limit.budget));
    // A bucket always: one state is charged by every policy that an identity's packets are under.
    let params = |budget: Budget| {
        let period_ns = u64::try_from(budget.rate.period().as_nanos()).unwrap_or(u64::MAX);
        let amount = budget.rate.amount().get();
        Params::new(Algorithm::TokenBucket, amount, period_ns, budget.burst.get())
    };
    budget.map(params).transpose().map_err(KernelError::Params)
}

fn compile_limit(
    policy: &PacketPolicy,
    limit: &PacketLimit,
    numbers: &mut Numbers,
) -> Result<Limit, KernelError> {
    let (mask_v6_high, mask_v6_low, mask_v4_low) = sketch::masks(limit.prefix_v4, limit.prefix_v6);
    let key = match limit.per {
        PacketKey::Source => limit_key::SOURCE,
        PacketKey::Service => limit_key::SERVICE,
        PacketKey::Interface => limit_key::INTERFACE,
    };
    let count = match limit.count {
        Count::Packets => limit_count::PACKETS,
        Count::Bytes => limit_count::BYTES,
        Count::Connections => limit_count::CONNECTIONS,
    };
    let id = numbers.limit(&policy.name, limit);
    let shared = match limit.per {
        PacketKey::Source => 0,
        PacketKey::Service => numbers.shared(id, 1)?,
        PacketKey::Interface => numbers.shared_per_interface(id)?,
    };
    Ok(Limit {
        params: limit.params,
        key,
        count,
        id,
        shared,
        mask_v6_high,
        mask_v6_low,
        mask_v4_low,
    })
}

/// A limit that is not there: beyond `limit_count`, and its zero parameters refuse everything.
const UNUSED: Limit = Limit {
    params: Params::REFUSE_ALL,
    key: 0,
    count: 0,
    id: 0,
    shared: 0,
    mask_v6_high: 0,
    mask_v6_low: 0,
    mask_v4_low: 0,
};

/// Interfaces named exactly by a policy that are not there.
#[must_use]
pub fn missing(set: &PolicySet, present: &[interfaces::Interface]) -> BTreeSet<String> {
    let named = set.packet_policies.iter().flat_map(|policy| &policy.interfaces);
    named
        .filter_map(|pattern| pattern.exact())
        .filter(|name| !present.iter().any(|interface| interface.name == *name))
        .map(str::to_owned)
        .collect()
}
