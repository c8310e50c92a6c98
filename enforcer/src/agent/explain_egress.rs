//! What policies say of an address as a destination.

use std::net::IpAddr;

use time::OffsetDateTime;

use enforcer_model::{EgressDefault, EgressOf, Mode, PacketPolicy, PolicySet, Traffic};

/// A line for each policy that denies what is sent there, or admits it where nothing else may leave.
pub(super) fn views(set: &PolicySet, address: IpAddr, now: OffsetDateTime) -> Vec<String> {
    let policies = set.packet_policies.iter();
    policies.filter_map(|policy| view(policy, address, now)).collect()
}

fn view(policy: &PacketPolicy, address: IpAddr, now: OffsetDateTime) -> Option<String> {
    let egress = &policy.egress;
    let file = policy.origin.file.display();
    let denied = egress
        .deny
        .iter()
        .filter(|deny| deny.entry.until.is_none_or(|until| until > now))
        .filter(|deny| deny.entry.cidr.contains(&address))
        .max_by_key(|deny| (deny.traffic.is_empty(), deny.entry.cidr.prefix_len()));
    let allowed = || {
        let entries = egress.allow.iter().filter(|allow| allow.cidr.contains(&address));
        entries.max_by_key(|allow| (allow.traffic.is_empty(), allow.cidr.prefix_len()))
    };
    let what = match denied {
        Some(deny) => {
            let reason = deny.entry.reason.as_deref();
            let reason = reason.map(|reason| format!(": {reason}")).unwrap_or_default();
            let (cidr, line, traffic) = (deny.entry.cidr, deny.entry.line, traffic(&deny.traffic));
            format!(
                "denied{traffic} by policy {} ({cidr} at {file}:{line}{reason})",
                policy.name
            )
        }
        None if egress.default == EgressDefault::Allow => return None,
        None => match allowed() {
            Some(allow) => format!(
                "allowed{} by policy {} ({} at {})",
                traffic(&allow.traffic),
                policy.name,
                allow.cidr,
                policy.origin
            ),
            None => format!(
                "denied by the default of policy {} at {}",
                policy.name, policy.origin
            ),
        },
    };
    let of = match egress.of {
        EgressOf::Node => "",
        EgressOf::Pod => ", for pods",
    };
    let mode = match policy.mode {
        Mode::Enforce => "",
        Mode::Shadow => " (shadow: only counted)",
    };
    Some(format!("{what}{of}{mode}"))
}

/// Of which traffic that holds; nothing if of all.
fn traffic(traffic: &[Traffic]) -> String {
    let named = traffic.iter().map(|each| match each {
        Traffic::Tcp(None) => "tcp".to_owned(),
        Traffic::Tcp(Some(port)) => format!("tcp/{port}"),
        Traffic::Udp(None) => "udp".to_owned(),
        Traffic::Udp(Some(port)) => format!("udp/{port}"),
        Traffic::Icmp => "icmp".to_owned(),
    });
    let named: Vec<String> = named.collect();
    match named.is_empty() {
        true => String::new(),
        false => format!(" for {}", named.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_denied_destination_is_named_with_its_line() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("uplink.yaml");
        let text = "apiVersion: enforcer.dev/v1\nkind: PacketPolicy\nmetadata: {name: uplink}\nspec:\n  \
                    interfaces: [eth0]\n  egress:\n    default: deny\n    allow: [10.0.0.0/8]\n    deny:\n    \
                    - 192.0.2.0/24\n    - {cidr: 169.254.169.254/32, reason: cloud metadata, ports: tcp/80}\n";
        std::fs::write(&file, text).unwrap();
        let set = enforcer_policy::load(&[file]).unwrap().set;
        let say = |address: &str| views(&set, address.parse().unwrap(), OffsetDateTime::now_utc()).join("; ");
        let said = say("169.254.169.254");
        assert!(
            said.starts_with("denied for tcp/80 by policy uplink (169.254.169.254/32 at ")
                && said.ends_with("uplink.yaml:11: cloud metadata)"),
            "{said}"
        );
        assert!(
            say("192.0.2.7").contains("uplink.yaml:10)"),
            "{}",
            say("192.0.2.7")
        );
        assert!(say("10.1.2.3").starts_with("allowed by policy uplink (10.0.0.0/8"));
        assert!(say("198.51.100.1").starts_with("denied by the default of policy uplink"));
    }
}
