//! Egress rules become kernel tables. A packet finds its destination's longest prefix alone, so each prefix gets
//! the rules of all that contain it, with precedence resolved: see `EgressRule`.

use std::collections::{BTreeMap, BTreeSet};

use aya::maps::lpm_trie::Key;
use enforcer_common::{
    layout::{
        Access, AccessKey, EgressKey, EgressLimits, EgressRule, MAX_EGRESS_RULES, NO_POLICY, SLOTS, UNPARSED,
        egress_nameless, egress_root, egress_set, egress_side, interface_flag, limit_count, limit_key, table,
        table_kind,
    },
    sketch,
    verdict::Reason,
};
use ipnet::IpNet;

use super::{
    KernelError,
    address::access_key,
    compile::{Moment, UNUSED, expiry, has_ended, slot_byte},
    numbers::Numbers,
};
use enforcer_model::{EgressDefault, EgressKey as Per, EgressLimit, EgressOf, Mode, PacketPolicy, Traffic};

/// A generation for each slot shares one map.
const RULES_PER_GENERATION: usize = MAX_EGRESS_RULES as usize / SLOTS as usize;

/// A protocol number and a port; zero is any.
type Kind = (u8, u16);

/// All egress rules of a generation.
#[derive(Default)]
pub struct EgressTables {
    /// Access lists.
    pub access: Vec<(Key<AccessKey>, Access)>,
    /// The rules that these name.
    pub rules: BTreeMap<EgressKey, EgressRule>,
    /// Sets that are the same have one number.
    sets: BTreeMap<Vec<(Kind, EgressRule)>, u32>,
}

/// Where a generation is compiled for.
#[derive(Clone, Copy)]
pub struct Place {
    /// The group of interfaces.
    pub group: u32,
    /// The slot.
    pub slot: u32,
    /// When.
    pub now: Moment,
}

/// What an entry of a list does.
#[derive(Clone, Copy)]
enum Effect {
    Allow,
    Deny { policy: u32, until_ns: u64 },
}

/// An entry of a list.
#[derive(Clone, Copy)]
struct Entry<'a> {
    traffic: &'a [Traffic],
    effect: Effect,
    mode: Mode,
}

/// Whose defaults deny.
#[derive(Clone, Copy)]
struct Defaults {
    enforced: u32,
    shadow: u32,
}

impl EgressTables {
    /// Adds the rules of interfaces with the same policies. The flags say what there is.
    ///
    /// # Errors
    /// More rules than the map holds.
    pub fn add(&mut self, about: &[(u32, &PacketPolicy)], place: Place) -> Result<u32, KernelError> {
        let mut flags = self.add_side(EgressOf::Node, about, place);
        flags |= self.add_side(EgressOf::Pod, about, place);
        if about.iter().any(|(_, policy)| !policy.egress.limits.is_empty()) {
            flags |= interface_flag::EGRESS_LIMITS;
        }
        if self.rules.len() > RULES_PER_GENERATION {
            return Err(KernelError::TooMany {
                what: "egress rules of all policies",
                limit: RULES_PER_GENERATION,
            });
        }
        Ok(flags)
    }

    fn add_side(&mut self, of: EgressOf, about: &[(u32, &PacketPolicy)], place: Place) -> u32 {
        let Place { group, slot, now } = place;
        let about: Vec<_> = about
            .iter()
            .filter(|(_, policy)| policy.egress.of == of)
            .copied()
            .collect();
        let denies = |mode| {
            let mut denying = about
                .iter()
                .filter(|(_, policy)| policy.mode == mode && policy.egress.default == EgressDefault::Deny);
            denying.next().map_or(NO_POLICY, |(number, _)| *number)
        };
        let defaults = Defaults {
            enforced: denies(Mode::Enforce),
            shadow: denies(Mode::Shadow),
        };
        let denies_by_default = defaults.enforced < NO_POLICY || defaults.shadow < NO_POLICY;
        let entries = entries(&about, now);
        let (side, kind, [any, root, memory, tried_memory]) = match of {
            EgressOf::Node => (
                egress_side::NODE,
                table_kind::EGRESS,
                [
                    interface_flag::EGRESS,
                    interface_flag::EGRESS_ROOT,
                    interface_flag::EGRESS_MEMORY,
                    interface_flag::TRIED_MEMORY,
                ],
            ),
            EgressOf::Pod => (
                egress_side::POD,
                table_kind::POD,
                [
                    interface_flag::POD,
                    interface_flag::POD_ROOT,
                    interface_flag::POD_MEMORY,
                    interface_flag::TRIED_POD_MEMORY,
                ],
            ),
        };
        let mut flags = 0;
        if defaults.enforced < NO_POLICY {
            flags |= any | memory;
        }
        if defaults.shadow < NO_POLICY {
            flags |= any | tried_memory;
        }
        if !entries.is_empty() || (of == EgressOf::Pod && !about.is_empty()) {
            flags |= any;
        }
        if let Some(rule) = nameless(&about, now) {
            self.write(egress_nameless(side, group), slot, &[((0, 0), rule)]);
        }
        let list = table(kind, slot, group);
        // Those that contain the prefix at hand, from the shortest on: prefixes come in that order.
        let mut containing: Vec<(IpNet, &[Entry<'_>])> = Vec::new();
        for (net, own) in &entries {
            containing.retain(|(outer, _)| outer.contains(net));
            containing.push((*net, own));
            if net.prefix_len() == 0 {
                continue;
            }
            let applying = containing.iter().flat_map(|(_, entries)| entries.iter().copied());
            let rules = self.number(&resolve(&applying.collect::<Vec<_>>(), defaults), slot);
            let entry = Access {
                rules,
                ..Access::new(u64::MAX, Reason::EgressDenied, NO_POLICY)
            };
            self.access.push((access_key(list, *net), entry));
        }
        let nothing: &[Entry<'_>] = &[];
        for ipv4 in [true, false] {
            let everything = entries
                .iter()
                .find(|(net, _)| net.prefix_len() == 0 && net.addr().is_ipv4() == ipv4)
                .map(|(_, own)| &own[..]);
            if denies_by_default || everything.is_some() {
                flags |= root;
                let set = egress_root(side, group, ipv4);
                self.write(set, slot, &resolve(everything.unwrap_or(nothing), defaults));
            }
        }
        flags
    }

    /// The number of a set of rules, with what a packet looks for in it.
    fn number(&mut self, rules: &[(Kind, EgressRule)], slot: u32) -> u32 {
        let known = self.sets.get(rules).copied();
        let number = known.unwrap_or_else(|| {
            let next = u32::try_from(self.sets.len()).unwrap_or(egress_set::NUMBER) & egress_set::NUMBER;
            self.sets.insert(rules.to_vec(), next);
            self.write(next, slot, rules);
            next
        });
        let has = |what: fn(&Kind) -> bool, flag| {
            if rules.iter().any(|(kind, _)| what(kind)) {
                flag
            } else {
                0
            }
        };
        number
            | has(
                |(protocol, port)| !matches!(*protocol, 0 | UNPARSED) && *port == 0,
                egress_set::PROTOCOLS,
            )
            | has(|(protocol, _)| *protocol == UNPARSED, egress_set::UNPARSED)
            | has(|(_, port)| *port != 0, egress_set::PORTS)
    }

    fn write(&mut self, set: u32, slot: u32, rules: &[(Kind, EgressRule)]) {
        for ((protocol, port), rule) in rules {
            let key = EgressKey {
                set,
                port: port.to_be(),
                protocol: *protocol,
                slot: slot_byte(slot),
            };
            self.rules.insert(key, *rule);
        }
    }
}

/// The entries of all lists by prefix: in order of family, address and length, so that what contains a prefix
/// comes before it.
fn entries<'a>(about: &[(u32, &'a PacketPolicy)], now: Moment) -> BTreeMap<IpNet, Vec<Entry<'a>>> {
    let mut entries: BTreeMap<IpNet, Vec<Entry<'_>>> = BTreeMap::new();
    for (number, policy) in about {
        let mode = policy.mode;
        for allow in &policy.egress.allow {
            entries.entry(allow.cidr.trunc()).or_default().push(Entry {
                traffic: &allow.traffic,
                effect: Effect::Allow,
                mode,
            });
        }
        for deny in policy
            .egress
            .deny
            .iter()
            .filter(|deny| !has_ended(&deny.entry, now))
        {
            let effect = Effect::Deny {
                policy: *number,
                until_ns: expiry(deny.entry.until, now),
            };
            entries.entry(deny.entry.cidr.trunc()).or_default().push(Entry {
                traffic: &deny.traffic,
                effect,
                mode,
            });
        }
    }
    entries
}

/// What the entries that apply to a prefix come to, for each protocol and port that they name and for the rest.
fn resolve(entries: &[Entry<'_>], defaults: Defaults) -> Vec<(Kind, EgressRule)> {
    let named = entries
        .iter()
        .flat_map(|entry| entry.traffic)
        .map(|traffic| kind(*traffic));
    let mut kinds: BTreeSet<Kind> = BTreeSet::from([(0, 0), (UNPARSED, 0)]);
    for (protocol, port) in named {
        // A port's packets may be later fragments, which have none: these are judged by the protocol.
        kinds.extend([(protocol, 0), (protocol, port)]);
    }
    let mut rules: BTreeMap<Kind, EgressRule> = BTreeMap::new();
    for kind in kinds {
        let rule = rule(entries.iter().filter(|entry| is_about(entry, kind)), defaults);
        // Where the wider rule says the same, a packet finds that one.
        let (protocol, port) = kind;
        let of_protocol = rules.get(&(protocol, 0)).filter(|_| port != 0);
        let wider = of_protocol.or_else(|| rules.get(&(0, 0)));
        if wider != Some(&rule) {
            rules.insert(kind, rule);
        }
    }
    rules.into_iter().collect()
}

fn kind(traffic: Traffic) -> Kind {
    let number = |port: Option<std::num::NonZeroU16>| port.map_or(0, std::num::NonZeroU16::get);
    match traffic {
        Traffic::Icmp => (1, 0),
        Traffic::Tcp(port) => (6, number(port)),
        Traffic::Udp(port) => (17, number(port)),
    }
}

/// What becomes of frames that may be IP and have no destination that can be read: whatever is denied or limited might
/// be in them. `None`: they pass.
fn nameless(about: &[(u32, &PacketPolicy)], now: Moment) -> Option<EgressRule> {
    let mut rule = EgressRule::PASS;
    for (number, policy) in about {
        let egress = &policy.egress;
        let lists = egress.deny.iter().filter(|deny| !has_ended(&deny.entry, now));
        let lists_until = lists.map(|deny| expiry(deny.entry.until, now)).max();
        let is_lasting = egress.default == EgressDefault::Deny || !egress.limits.is_empty();
        let until_ns = if is_lasting {
            u64::MAX
        } else {
            lists_until.unwrap_or(0)
        };
        match policy.mode {
            Mode::Enforce if until_ns > rule.denied_until_ns => {
                (rule.denied_by, rule.denied_until_ns) = (*number, until_ns);
            }
            Mode::Shadow if until_ns > rule.tried_until_ns => {
                (rule.tried_by, rule.tried_until_ns) = (*number, until_ns);
            }
            Mode::Enforce | Mode::Shadow => {}
        }
    }
    (rule != EgressRule::PASS).then_some(rule)
}

/// Whether an entry applies to a kind of packets. What cannot be parsed might be anything: what denies anything denies
/// it, and what allows it allows everything.
fn is_about(entry: &Entry<'_>, kind: Kind) -> bool {
    match entry.effect {
        Effect::Deny { .. } if kind.0 == UNPARSED => true,
        Effect::Allow | Effect::Deny { .. } => covers(entry.traffic, kind),
    }
}

/// Whether an entry is about all packets of a kind.
fn covers(traffic: &[Traffic], (protocol, port): Kind) -> bool {
    traffic.is_empty()
        || traffic
            .iter()
            .map(|traffic| kind(*traffic))
            .any(|(of, at)| of == protocol && (at == 0 || at == port))
}

fn rule<'a, 'b: 'a>(entries: impl Iterator<Item = &'a Entry<'b>>, defaults: Defaults) -> EgressRule {
    let mut rule = EgressRule {
        default_by: defaults.enforced,
        default_tried_by: defaults.shadow,
        ..EgressRule::PASS
    };
    for entry in entries {
        match (entry.effect, entry.mode) {
            // What is in shadow opens nothing that is closed.
            (Effect::Allow, Mode::Shadow) => rule.default_tried_by = NO_POLICY,
            (Effect::Allow, Mode::Enforce) => {
                (rule.default_by, rule.default_tried_by) = (NO_POLICY, NO_POLICY);
            }
            (Effect::Deny { policy, until_ns }, Mode::Enforce) if until_ns > rule.denied_until_ns => {
                (rule.denied_by, rule.denied_until_ns) = (policy, until_ns);
            }
            (Effect::Deny { policy, until_ns }, Mode::Shadow) if until_ns > rule.tried_until_ns => {
                (rule.tried_by, rule.tried_until_ns) = (policy, until_ns);
            }
            (Effect::Deny { .. }, _) => {}
        }
    }
    rule
}

/// A policy's limits on what leaves.
///
/// # Errors
/// More shared limiters than the map holds.
pub fn limits(policy: &PacketPolicy, numbers: &mut Numbers) -> Result<EgressLimits, KernelError> {
    let side = match policy.egress.of {
        EgressOf::Node => egress_side::NODE,
        EgressOf::Pod => egress_side::POD,
    };
    let mut compiled = EgressLimits {
        side,
        count: 0,
        limits: [UNUSED; _],
    };
    for (place, limit) in compiled.limits.iter_mut().zip(&policy.egress.limits) {
        *place = compile_limit(policy, limit, numbers)?;
        compiled.count += 1;
    }
    Ok(compiled)
}

fn compile_limit(
    policy: &PacketPolicy,
    limit: &EgressLimit,
    numbers: &mut Numbers,
) -> Result<enforcer_common::layout::Limit, KernelError> {
    let (mask_v6_high, mask_v6_low, mask_v4_low) = sketch::masks(limit.prefix_v4, limit.prefix_v6);
    let id = numbers.egress_limit(&policy.name, limit);
    let (key, shared) = match limit.per {
        Per::Destination => (limit_key::SOURCE, 0),
        Per::Interface => (limit_key::INTERFACE, numbers.shared_per_interface(id)?),
    };
    Ok(enforcer_common::layout::Limit {
        params: limit.params,
        key,
        count: limit_count::BYTES,
        id,
        shared,
        mask_v6_high,
        mask_v6_low,
        mask_v4_low,
        ..UNUSED
    })
}

#[cfg(test)]
mod tests;
