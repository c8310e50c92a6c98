//! Packet policies become kernel tables: a pure function of the policies, the interfaces there are, and
//! the numbers that names have been given.

use std::collections::{BTreeMap, BTreeSet, btree_map::Entry};

use aya::maps::lpm_trie::Key;
use enforcer_common::{
    layout::{
        Access, AccessKey, BUDGET, Bank, EgressKey, EgressLimits, EgressRule, Interface, LIMITS_PER_BANK,
        Limit, MAX_IDENTITIES, MAX_PREFIXES, NO_POLICY, Policy, SLOTS, Service, ServiceKey, TRIED_BUDGET,
        family, interface_flag, limit_count, limit_key, policy_flag, table, table_kind, traffic,
    },
    limiter::{Algorithm, Params},
    sketch,
    verdict::Reason,
};
use time::OffsetDateTime;

use super::{
    KernelError,
    address::access_key,
    denials::MAX_DENIALS,
    egress::{self, EgressTables},
    numbers::Numbers,
};
use enforcer_model::{
    Action, Budget, Count, DenyEntry, Level, Mode, Opaque, PacketKey, PacketLimit, PacketPolicy, PolicySet,
    SynDefence, Transport,
};
use enforcer_sys::{clock::monotonic_at, interfaces};

/// A generation for each slot and all denials share one map.
const PREFIXES_PER_GENERATION: usize = (MAX_PREFIXES as usize - MAX_DENIALS) / SLOTS as usize;

/// From here on, a limiter's memory is so long that a tick of the clock, 10 ms at most, is 1 % of it. (What comes
/// in a second may come at once, unless a policy says otherwise; rounded, that can be a little less.)
const TICKS_NS: u64 = 900_000_000;

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
    pub services: BTreeMap<(u32, u8, u16), (ServiceKey, Service)>,
    /// By policy number.
    pub policies: BTreeMap<u32, Policy>,
    /// Access lists.
    pub access: Vec<(Key<AccessKey>, Access)>,
    /// Rules for what leaves.
    pub egress_rules: BTreeMap<EgressKey, EgressRule>,
    /// Limits on what leaves, by policy number.
    pub egress_limits: BTreeMap<u32, EgressLimits>,
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
    let mut groups: BTreeMap<Vec<u32>, Group> = BTreeMap::new();
    let mut egress = EgressTables::default();
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
        let group = match groups.entry(members) {
            Entry::Occupied(known) => *known.get(),
            Entry::Vacant(new) => {
                add_services(&mut tables, &about, next, slot);
                let place = egress::Place {
                    group: next,
                    slot,
                    now,
                };
                *new.insert(Group {
                    number: next,
                    egress: egress.add(&about, place)?,
                })
            }
        };
        let mut entry = describe(&about, slot, group, position);
        if interface.is_bare {
            entry.flags |= interface_flag::BARE;
        }
        tables.interfaces.insert(interface.index, entry);
    }
    tables.access.append(&mut egress.access);
    tables.egress_rules = egress.rules;
    for (number, policy) in &numbered {
        tables
            .egress_limits
            .insert(*number, egress::limits(policy, numbers)?);
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

/// Interfaces that have the same policies.
#[derive(Clone, Copy)]
struct Group {
    number: u32,
    /// What its egress has: [`interface_flag`]s.
    egress: u32,
}

fn describe(about: &[(u32, &PacketPolicy)], slot: u32, group: Group, position: u32) -> Interface {
    let (deciding, tried) = split(about);
    let any = number_of(deciding.iter().find(|(_, policy)| policy.ports.is_empty()));
    let tried_any = number_of(tried.iter().find(|(_, policy)| policy.ports.is_empty()));
    let base = if any < NO_POLICY {
        any
    } else {
        number_of(deciding.first())
    };
    let tried_base = if tried_any < NO_POLICY || any < NO_POLICY {
        tried_any
    } else {
        number_of(tried.first())
    };
    let drops_opaque = |policies: &[(u32, &PacketPolicy)]| {
        number_of(policies.iter().find(|(_, policy)| policy.opaque == Opaque::Drop))
    };
    let mut flags = group.egress;
    if about.iter().any(|(_, policy)| !policy.ports.is_empty()) {
        flags |= interface_flag::PORTS;
    }
    if deciding
        .iter()
        .any(|(number, policy)| *number != base && !policy.ports.is_empty())
    {
        flags |= interface_flag::BASE_AND_PORTS;
    }
    if !tried.is_empty() {
        flags |= interface_flag::MIXED;
    }
    if deciding.iter().all(|(_, policy)| policy.mode == Mode::Shadow) {
        flags |= interface_flag::SHADOW;
    }
    Interface {
        slot,
        group: group.number,
        any,
        base,
        position,
        flags,
        tried_any,
        tried_base,
        opaque: drops_opaque(&deciding),
        tried_opaque: drops_opaque(&tried),
    }
}

fn number_of(policy: Option<&(u32, &PacketPolicy)>) -> u32 {
    policy.map_or(NO_POLICY, |(number, _)| *number)
}

/// Policies with their numbers.
type Numbered<'a> = Vec<(u32, &'a PacketPolicy)>;

/// Those that decide about packets, and those in shadow beside them. Where none enforces, all decide, and what they say
/// is counted as shadow.
fn split<'a>(about: &[(u32, &'a PacketPolicy)]) -> (Numbered<'a>, Numbered<'a>) {
    let (deciding, tried): (Numbered<'_>, Numbered<'_>) = about
        .iter()
        .copied()
        .partition(|(_, policy)| policy.mode == Mode::Enforce);
    if deciding.is_empty() {
        (tried, deciding)
    } else {
        (deciding, tried)
    }
}

/// The services of interfaces that have the same policies.
fn add_services(tables: &mut Tables, about: &[(u32, &PacketPolicy)], group: u32, slot: u32) {
    let (deciding, tried) = split(about);
    // Where two policies of one mode claim a port, the first by name has it.
    let decides = claims(&deciding);
    let counts = claims(&tried);
    let any = number_of(deciding.iter().find(|(_, policy)| policy.ports.is_empty()));
    let ports: BTreeSet<(u8, u16)> = decides.keys().chain(counts.keys()).copied().collect();
    for (protocol, port) in ports {
        let key = ServiceKey {
            group,
            port: port.to_be(),
            protocol,
            slot: slot_byte(slot),
        };
        let service = Service {
            policy: decides.get(&(protocol, port)).copied().unwrap_or(any),
            // One that is about all traffic would not be asked about a port that another one names.
            tried: counts.get(&(protocol, port)).copied().unwrap_or(NO_POLICY),
        };
        tables.services.insert((group, protocol, port), (key, service));
    }
}

/// Whose each port is.
fn claims(policies: &[(u32, &PacketPolicy)]) -> BTreeMap<(u8, u16), u32> {
    let mut claims = BTreeMap::new();
    for (number, policy) in policies {
        for port in &policy.ports {
            let protocol = match port.protocol {
                Transport::Tcp => 6,
                Transport::Udp => 17,
            };
            claims.entry((protocol, port.number)).or_insert(*number);
        }
    }
    claims
}

/// A slot as keys have it.
pub fn slot_byte(slot: u32) -> u8 {
    u8::try_from(slot).unwrap_or(u8::MAX)
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
pub fn has_ended(entry: &DenyEntry, now: Moment) -> bool {
    entry.until.is_some_and(|until| until <= now.wall)
}

pub fn expiry(until: Option<OffsetDateTime>, now: Moment) -> u64 {
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
    flags |= match policy.syn {
        SynDefence::Off => 0,
        SynDefence::Auto { .. } => policy_flag::SYN_COUNTED,
        SynDefence::Always => policy_flag::SYN_ANSWERED,
    };
    let strangers = levels(policy, numbers, |limit| limit.per != PacketKey::Identity)?;
    let mut identities: Vec<Limit> = verified(policy)?.into_iter().collect();
    identities.extend(levels(policy, numbers, |limit| limit.per == PacketKey::Identity)?);
    if !identities.is_empty() {
        flags |= policy_flag::VERIFIED;
    }
    let counts_flows =
        |limit: &&Limit| limit.count == limit_count::CONNECTIONS && limit.traffic & traffic::UDP != 0;
    let udp_id = strangers.iter().find(counts_flows).map(|limit| limit.id);
    if udp_id.is_some() {
        flags |= policy_flag::UDP_FLOWS;
    }
    if policy.recent.is_some() {
        flags |= policy_flag::RECENT;
    }
    let mut limits = [UNUSED; LIMITS_PER_BANK];
    for (place, limit) in limits.iter_mut().zip(strangers.iter().chain(&identities)) {
        *place = *limit;
    }
    let all = limits.iter().map(|limit| limit.params);
    if all
        .chain(policy.recent.map(|recent| recent.params))
        .any(|params| params.span_ns() < TICKS_NS)
    {
        flags |= policy_flag::EXACT_TIME;
    }
    let count = |limits: &[Limit]| u32::try_from(limits.len()).unwrap_or(0);
    let recent = policy.recent.as_ref();
    Ok(Bank {
        flags,
        limit_count: count(&strangers),
        identity_count: count(&identities),
        udp_id: udp_id.unwrap_or(0),
        recent_for_ns: recent.map_or(0, |recent| {
            u64::try_from(recent.lasts.as_nanos()).unwrap_or(u64::MAX)
        }),
        recent: recent.map_or(Params::REFUSE_ALL, |recent| recent.params),
        resets: resets(policy),
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

/// The levels of the policy's limits that are `meant`, in order.
fn levels(
    policy: &PacketPolicy,
    numbers: &mut Numbers,
    meant: impl Fn(&PacketLimit) -> bool,
) -> Result<Vec<Limit>, KernelError> {
    let mut limits = Vec::new();
    for (index, limit) in (0..).zip(&policy.limits) {
        for (number, level) in (0..).zip(&limit.levels).filter(|_| meant(limit)) {
            let id = numbers.limit(&policy.name, limit, number);
            limits.push(compile_level(limit, level, (index, id), numbers)?);
        }
    }
    Ok(limits)
}

/// The budget of each verified identity: what the policy says, else, unless it has limits per identity, the
/// same as a stranger has by the first limit on its packets, but for itself.
fn verified(policy: &PacketPolicy) -> Result<Option<Limit>, KernelError> {
    let limits_identities = policy.limits.iter().any(|limit| limit.per == PacketKey::Identity);
    let own = |limit: &&PacketLimit| {
        limit.per == PacketKey::Source
            && limit.count == Count::Packets
            && limit.traffic & traffic::TCP_OTHER != 0
            && !limits_identities
    };
    let budget = policy
        .verified
        .or_else(|| policy.limits.iter().find(own).map(|limit| limit.budget));
    // A bucket always: one state is charged by every policy that an identity's packets are under.
    let limit = |budget: Budget| {
        let period_ns = u64::try_from(budget.rate.period().as_nanos()).unwrap_or(u64::MAX);
        let amount = budget.rate.amount().get();
        Params::new(Algorithm::TokenBucket, amount, period_ns, budget.burst.get()).map(|params| Limit {
            params,
            key: limit_key::IDENTITY,
            traffic: traffic::ALL,
            families: family::BOTH,
            index: BUDGET,
            shared: match policy.mode {
                Mode::Enforce => 0,
                Mode::Shadow => TRIED_BUDGET * MAX_IDENTITIES,
            },
            ..UNUSED
        })
    };
    budget.map(limit).transpose().map_err(KernelError::Params)
}

/// `index`: which of the policy's limits it is. `id`: the level's own number.
fn compile_level(
    limit: &PacketLimit,
    level: &Level,
    (index, id): (u8, u32),
    numbers: &mut Numbers,
) -> Result<Limit, KernelError> {
    let bits = (level.ipv4.unwrap_or(32), level.ipv6.unwrap_or(128));
    let (mask_v6_high, mask_v6_low, mask_v4_low) = sketch::masks(bits.0, bits.1);
    let key = match limit.per {
        PacketKey::Source => limit_key::SOURCE,
        PacketKey::Service => limit_key::SERVICE,
        PacketKey::Interface => limit_key::INTERFACE,
        PacketKey::Identity => limit_key::IDENTITY,
    };
    let count = match limit.count {
        Count::Packets => limit_count::PACKETS,
        Count::Bytes => limit_count::BYTES,
        Count::Connections => limit_count::CONNECTIONS,
    };
    let shared = match limit.per {
        PacketKey::Source => 0,
        PacketKey::Service => numbers.shared(id, 1)?,
        PacketKey::Interface => numbers.shared_per_interface(id)?,
        PacketKey::Identity => numbers.column(id)? * MAX_IDENTITIES,
    };
    Ok(Limit {
        params: level.params,
        key,
        count,
        traffic: limit.traffic,
        families: level.families(),
        index,
        id,
        shared,
        mask_v6_high,
        mask_v6_low,
        mask_v4_low,
    })
}

/// A limit that is not there: beyond `limit_count`, and its zero parameters refuse everything.
pub const UNUSED: Limit = Limit {
    params: Params::REFUSE_ALL,
    key: 0,
    count: 0,
    traffic: 0,
    families: 0,
    index: 0,
    id: 0,
    shared: 0,
    mask_v6_high: 0,
    mask_v6_low: 0,
    mask_v4_low: 0,
};

/// The interfaces that policies are about. While these are the same, others may come and go without a change of tables.
#[must_use]
pub fn concerned<'a>(
    set: &PolicySet,
    present: &'a [interfaces::Interface],
) -> Vec<&'a interfaces::Interface> {
    let patterns = || set.packet_policies.iter().flat_map(|policy| &policy.interfaces);
    let named =
        |interface: &&interfaces::Interface| patterns().any(|pattern| pattern.matches(&interface.name));
    present.iter().filter(named).collect()
}

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
