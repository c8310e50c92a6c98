//! The policies in the way, and what they deny.

use std::{fs, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, ensure};
use enforcer_dataplane::{Config, DeniedBy, Kernel, Staying, XdpChoice};
use enforcer_model::Action;

use super::{
    Way,
    addresses::{GUARDED_TCP, GUARDED_UDP, Standing},
    lane::DEVICE,
    listeners::Seen,
};
use crate::netns::Namespace;

const FOR_LONG: Duration = Duration::from_secs(24 * 3600);

/// Whether policies deny what a socket has got.
pub fn is_denied(way: Way, seen: &Seen) -> bool {
    let standing = if way.is_egress() {
        Standing::of_destination(seen.destination)
    } else {
        Standing::of_source(seen.source).map(|(standing, _)| standing)
    };
    match standing {
        Some(Standing::Listed) => way.is_egress() || !seen.neighbour_discovery,
        Some(Standing::Denied) => !way.is_egress() && !seen.neighbour_discovery,
        Some(Standing::ListedAtPorts) => seen.at_guarded_port,
        Some(Standing::Free) | None => false,
    }
}

fn documents(way: Way) -> String {
    let policy = |name: &str, spec: &str| {
        format!(
            "---\napiVersion: enforcer.dev/v1\nkind: PacketPolicy\nmetadata: {{name: {name}}}\nspec: {{mode: enforce, interfaces: [{DEVICE}], {spec}}}\n"
        )
    };
    if way.is_egress() {
        let side = if way == Way::Pod { "pod" } else { "node" };
        let to = |standing: Standing, rest: &str| {
            let [v4, v6] = [true, false].map(|ipv4| standing.destination(ipv4));
            format!("{{cidr: {v4}/32{rest}}}, {{cidr: '{v6}/128'{rest}}}")
        };
        let ports = format!(", ports: [udp/{GUARDED_UDP}, tcp/{GUARDED_TCP}]");
        return policy(
            "all",
            &format!(
                "egress: {{of: {side}, deny: [{}, {}]}}",
                to(Standing::Listed, ""),
                to(Standing::ListedAtPorts, &ports)
            ),
        );
    }
    let list = |standing: Standing| {
        let [v4, v6] = standing.sources();
        format!("deny: [{v4}, '{v6}']")
    };
    // Whoever is denied at ports alone has been denied at none by the policy that all others are under.
    let both = |one: Standing, other: Standing| {
        let ([v4, v6], [w4, w6]) = (one.sources(), other.sources());
        format!("deny: [{v4}, '{v6}', {w4}, '{w6}']")
    };
    policy("all", &list(Standing::Listed))
        + &policy(
            "ports",
            &format!(
                "ports: [udp/{GUARDED_UDP}, tcp/{GUARDED_TCP}], {}",
                both(Standing::Listed, Standing::ListedAtPorts)
            ),
        )
}

/// Puts the programs on the interface of `namespace`.
pub fn guard(namespace: &Namespace, way: Way) -> Result<Kernel> {
    let config = Config {
        xdp: match way {
            Way::Native => XdpChoice::Native,
            Way::Generic | Way::Tun => XdpChoice::Generic,
            Way::Egress | Way::Pod => XdpChoice::Auto,
        },
        management: Vec::new(),
        sketch_bytes: 1 << 16,
        max_flows: 64,
    };
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("policies.yaml");
    fs::write(&file, documents(way))?;
    let loaded = enforcer_policy::load(&[file])?;
    namespace.run(move || {
        let mut kernel = Kernel::load(&config, &Staying::NOT)?;
        kernel
            .generations
            .apply(&Arc::new(loaded.set), &kernel.counters)?;
        let attached = kernel.generations.attached();
        ensure!(
            attached.iter().any(|attached| attached.interface == DEVICE),
            "the programs are not on {DEVICE}: {:?}",
            kernel.generations.failures()
        );
        for prefix in Standing::Denied.sources() {
            let prefix = prefix.parse().context("a prefix of the lab")?;
            kernel
                .denials
                .deny(prefix, DeniedBy::Operator, "test", FOR_LONG, Action::Drop)?;
        }
        Ok(kernel)
    })
}
