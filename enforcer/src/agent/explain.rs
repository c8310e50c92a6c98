//! Why a source is limited or not: kernel, identity and policy in one answer.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use enforcer_common::layout::Limit as KernelLimit;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::{
    events::EventView,
    explain_egress,
    state::{KernelHalf, Shared, Standing},
};
use enforcer_dataplane::{KernelError, SourceState};
use enforcer_model::{DenyEntry, Level, Mode, PacketKey, PacketLimit, PacketPolicy, Port, Transport};
use enforcer_sys::clock::monotonic_ns;

/// The answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// Who was asked about.
    pub address: IpAddr,
    /// In one sentence.
    pub verdict: String,
    /// The management prefix that it is in.
    pub management: Option<String>,
    /// The denial that it is under.
    pub denied: Option<Denied>,
    /// Who is verified there.
    pub verified: Vec<String>,
    /// Seconds since it last had a verified connection, if that is remembered.
    #[serde(default)]
    pub verified_seconds_ago: Option<u64>,
    /// Its connections that are revoked.
    #[serde(default)]
    pub revoked: Vec<String>,
    /// What the packet policies say of it as a destination.
    #[serde(default)]
    pub destination: Vec<String>,
    /// What each packet policy says of it.
    pub policies: Vec<PolicyView>,
    /// The latest of its packets that the kernel told of, if it is still kept.
    #[serde(default)]
    pub last_event: Option<EventView>,
}

/// A denial in force.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Denied {
    /// What is denied.
    pub prefix: String,
    /// The kernel's reason.
    pub kind: String,
    /// In words.
    pub reason: String,
    /// Seconds until it ends.
    pub ends_in_seconds: u64,
}

/// A packet policy's view of a source.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyView {
    /// Its name.
    pub policy: String,
    /// File and line.
    pub origin: String,
    /// `enforce` or `shadow`.
    pub mode: String,
    /// What it is about.
    pub ports: Vec<String>,
    /// The entry of its access list that matches.
    pub listed: Option<String>,
    /// Its limits.
    pub limits: Vec<LimitView>,
}

/// A limit's view of a source.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LimitView {
    /// Its name.
    pub limit: String,
    /// Whose it is: `source`, `service`, `interface` or `identity`.
    pub per: String,
    /// Of a limit with several prefixes: the one that is decisive for the source, and what follows is about.
    #[serde(default)]
    pub prefix: Option<String>,
    /// As configured, in units per second.
    pub rate_per_second: f64,
    /// As the controller has it, if it is adaptive.
    pub adapted_per_second: Option<f64>,
    /// What the source could send at once; `None` for limits that are not by source.
    pub remaining: Option<u64>,
    /// Milliseconds until the source is admitted again, if it is over this limit now.
    pub retry_after_ms: Option<u64>,
    /// Of a limit per identity: what each identity that is connected from the source has.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub identities: Vec<IdentityView>,
}

/// What an identity has of a limit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IdentityView {
    pub identity: String,
    /// What it could send at once.
    pub remaining: u64,
    /// Milliseconds until it is admitted again, if it is over the limit now.
    pub retry_after_ms: Option<u64>,
}

impl Shared {
    /// Explains what happens to packets from `address`, to `port` if one is given.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn explain(&self, address: IpAddr, port: Option<u16>) -> Result<Explanation, KernelError> {
        let address = address.to_canonical();
        let management = self
            .management
            .iter()
            .find(|prefix| prefix.contains(&address))
            .map(ToString::to_string);
        let verified: Vec<String> = self
            .verified_at(address)
            .iter()
            .map(ToString::to_string)
            .collect();
        let (denied, policies) = match &self.kernel {
            Some(kernel) => (denial(kernel, address), self.policy_views(kernel, address, port)?),
            None => (None, Vec::new()),
        };
        let seen_ns = self
            .kernel
            .as_ref()
            .and_then(|kernel| kernel.recents.seen_ns(address));
        let verified_seconds_ago =
            seen_ns.map(|seen_ns| monotonic_ns().saturating_sub(seen_ns) / 1_000_000_000);
        let mut explanation = Explanation {
            address,
            verdict: String::new(),
            management,
            denied,
            verified,
            verified_seconds_ago,
            revoked: self
                .kernel
                .as_ref()
                .map(|kernel| revoked(kernel, address))
                .unwrap_or_default(),
            destination: explain_egress::views(
                &self.standing().set.clone(),
                address,
                OffsetDateTime::now_utc(),
            ),
            policies,
            last_event: self.journal.last_of(address),
        };
        explanation.verdict = explanation.sum_up(self.kernel.is_some());
        Ok(explanation)
    }

    fn policy_views(
        &self,
        kernel: &KernelHalf,
        address: IpAddr,
        port: Option<u16>,
    ) -> Result<Vec<PolicyView>, KernelError> {
        let standing = self.standing();
        let set = &standing.kernel.set;
        // As the kernel chooses: a policy that names the port, else those about all traffic.
        let names = |policy: &PacketPolicy| policy.ports.iter().any(|each| Some(each.number) == port);
        let named = set.packet_policies.iter().any(|policy| names(policy));
        let about = |policy: &&Arc<PacketPolicy>| match port {
            None => true,
            Some(_) if named => names(policy),
            Some(_) => policy.ports.is_empty(),
        };
        set.packet_policies
            .iter()
            .filter(about)
            .map(|policy| {
                let bank = standing.kernel.bank(&policy.name);
                let limits = policy.limits.iter().enumerate().map(|(index, limit)| {
                    let running: Vec<KernelLimit> =
                        bank.map_or_else(Vec::new, |bank| bank.levels(index).copied().collect());
                    limit_view(kernel, &standing, (policy, limit), &running, address)
                });
                Ok(PolicyView {
                    policy: policy.name.to_string(),
                    origin: policy.origin.to_string(),
                    mode: match policy.mode {
                        Mode::Enforce => "enforce".to_owned(),
                        Mode::Shadow => "shadow".to_owned(),
                    },
                    ports: policy.ports.iter().map(port_name).collect(),
                    listed: listed(policy, address),
                    limits: limits.collect::<Result<_, _>>()?,
                })
            })
            .collect()
    }
}

fn limit_view(
    kernel: &KernelHalf,
    standing: &Standing,
    (policy, limit): (&PacketPolicy, &PacketLimit),
    running: &[KernelLimit],
    address: IpAddr,
) -> Result<LimitView, KernelError> {
    let mut decisive: Option<(SourceState, IpNet, u32)> = None;
    for (level, running) in limit.levels.iter().zip(running) {
        let Some(prefix) = level_prefix(level, address) else {
            continue;
        };
        if limit.per != PacketKey::Source {
            continue;
        }
        let state = kernel.sketch.state(running, address)?;
        if decisive.is_none_or(|(other, ..)| is_tighter(state, other)) {
            decisive = Some((state, prefix, level.times.get()));
        }
    }
    let identities = match running.first() {
        Some(running) if limit.per == PacketKey::Identity => kernel.flows.budgets_at(address, running)?,
        _ => BTreeMap::new(),
    };
    let state = decisive.map(|(state, ..)| state);
    let times = decisive.map_or(1.0, |(_, _, times)| f64::from(times));
    let adapted = standing
        .adaptive
        .get(&(policy.name.clone(), limit.name.clone()))
        .map(|rate| rate.now * times);
    Ok(LimitView {
        limit: limit.name.to_string(),
        per: match limit.per {
            PacketKey::Source => "source",
            PacketKey::Service => "service",
            PacketKey::Interface => "interface",
            PacketKey::Identity => "identity",
        }
        .to_owned(),
        prefix: decisive
            .filter(|_| limit.levels.len() > 1)
            .map(|(_, prefix, _)| prefix.to_string()),
        rate_per_second: limit.budget.rate.per_second() * times,
        adapted_per_second: adapted,
        remaining: state.map(|state| state.remaining),
        retry_after_ms: state.and_then(retry_after_ms),
        identities: identities
            .into_iter()
            .map(|(identity, state)| IdentityView {
                identity,
                remaining: state.remaining,
                retry_after_ms: retry_after_ms(state),
            })
            .collect(),
    })
}

fn retry_after_ms(state: SourceState) -> Option<u64> {
    (state.retry_after_ns > 0).then(|| state.retry_after_ns.div_ceil(1_000_000))
}

impl Explanation {
    /// The stages in the kernel's order; the first that applies decides.
    fn sum_up(&self, kernel: bool) -> String {
        if !kernel {
            return "the kernel half is off: no packet is limited".to_owned();
        }
        if let Some(prefix) = &self.management {
            return format!("passes: on the management list ({prefix})");
        }
        if let Some(denied) = &self.denied {
            return format!(
                "dropped: {} {} ({}), for another {} s",
                denied.kind, denied.prefix, denied.reason, denied.ends_in_seconds
            );
        }
        let shadow = |view: &PolicyView| {
            if view.mode == "shadow" {
                " (shadow: only counted)"
            } else {
                ""
            }
        };
        if let Some(view) = self.policies.iter().find(|view| view.listed.is_some()) {
            let entry = view.listed.as_deref().unwrap_or_default();
            return format!(
                "{entry}, by policy {} at {}{}",
                view.policy,
                view.origin,
                shadow(view)
            );
        }
        let over = self.policies.iter().find_map(|view| {
            view.limits
                .iter()
                .find(|limit| limit.retry_after_ms.is_some())
                .map(|limit| (view, limit))
        });
        if let Some((view, limit)) = over {
            let ms = limit.retry_after_ms.unwrap_or_default();
            let verified = if self.verified.is_empty() {
                ""
            } else {
                "; verified connections are not affected"
            };
            let prefix = limit.prefix.as_deref();
            let prefix = prefix.map(|prefix| format!(" for {prefix}")).unwrap_or_default();
            return format!(
                "limited: over limit {}{prefix} of policy {} at {}, admitted again in {ms} ms{}{verified}",
                limit.limit,
                view.policy,
                view.origin,
                shadow(view)
            );
        }
        match self.policies.is_empty() {
            true => "passes: no packet policy is about it".to_owned(),
            false => "passes: within all limits".to_owned(),
        }
    }
}

/// What of a level's prefix the source is in; `None` if the level is not about its family.
fn level_prefix(level: &Level, source: IpAddr) -> Option<IpNet> {
    let bits = match source {
        IpAddr::V4(_) => level.ipv4?,
        IpAddr::V6(_) => level.ipv6?,
    };
    IpNet::new(source, bits).ok().map(|prefix| prefix.trunc())
}

/// Whether one level's state is what holds the source back, and not another's.
fn is_tighter(state: SourceState, other: SourceState) -> bool {
    (state.retry_after_ns, other.remaining) > (other.retry_after_ns, state.remaining)
}

fn denial(kernel: &KernelHalf, address: IpAddr) -> Option<Denied> {
    let (prefix, denial) = kernel.denials.find(address)?;
    Some(Denied {
        prefix: prefix.to_string(),
        kind: denial.by.reason().name().to_owned(),
        reason: denial.reason.to_string(),
        ends_in_seconds: denial
            .expires_ns
            .saturating_sub(monotonic_ns())
            .div_ceil(1_000_000_000),
    })
}

/// The revoked connections of an address, in words.
fn revoked(kernel: &KernelHalf, address: IpAddr) -> Vec<String> {
    let revoked = kernel.revoked.at(address).into_iter();
    revoked
        .map(|(flow, left)| {
            let seconds = left.as_secs_f64().ceil();
            format!("{} to {}, for another {seconds} s", flow.peer, flow.local)
        })
        .collect()
}

/// The access list's longest matching prefix, in words.
fn listed(policy: &PacketPolicy, address: IpAddr) -> Option<String> {
    let allowed = policy
        .allow
        .iter()
        .filter(|prefix| prefix.contains(&address))
        .max_by_key(|prefix| prefix.prefix_len());
    let denied = policy.denies(address, OffsetDateTime::now_utc());
    match (allowed, denied) {
        (Some(allow), Some(deny)) if allow.prefix_len() < deny.cidr.prefix_len() => {
            Some(deny_words(policy, deny))
        }
        (Some(allow), _) => Some(format!("passes: allow list ({allow})")),
        (None, Some(deny)) => Some(deny_words(policy, deny)),
        (None, None) => None,
    }
}

fn deny_words(policy: &PacketPolicy, entry: &DenyEntry) -> String {
    let reason = entry
        .reason
        .as_deref()
        .map(|reason| format!(": {reason}"))
        .unwrap_or_default();
    let file = policy.origin.file.display();
    format!(
        "dropped: deny list ({} at {file}:{}{reason})",
        entry.cidr, entry.line
    )
}

fn port_name(port: &Port) -> String {
    match port.protocol {
        Transport::Tcp => format!("tcp/{}", port.number),
        Transport::Udp => format!("udp/{}", port.number),
    }
}
