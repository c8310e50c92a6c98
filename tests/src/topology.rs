//! The lab: a node and its neighbours, each behind a veth of the node.
//!
//! ```text
//!   client ── to-client ┐        ┌ to-upstream-a ── upstream-a
//!                       ├─ node ─┤
//! attacker ─ to-attacker┘        └ to-upstream-b ── upstream-b
//! ```
//! The attacker's side is the node's default route: what answers spoofed sources get goes there.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    num::NonZeroUsize,
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Context as _, Result, bail};

use crate::{
    cleanup,
    frame::{Link, Mac},
    netns::{self, Namespace, PREFIX},
    privilege,
};

/// The neighbours' only interface.
pub const NEIGHBOUR_INTERFACE: &str = "eth0";

/// Queues of each link at most.
const MOST_QUEUES: usize = 16;

/// Who stands beside the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Neighbour {
    Client,
    Attacker,
    UpstreamA,
    UpstreamB,
}

/// All neighbours.
pub const NEIGHBOURS: [Neighbour; 4] = [
    Neighbour::Client,
    Neighbour::Attacker,
    Neighbour::UpstreamA,
    Neighbour::UpstreamB,
];

/// The namespaces, wired. Dropping it removes them.
#[derive(Debug)]
pub struct Lab {
    prefix: String,
    node: Namespace,
    neighbours: [Namespace; 4],
}

impl Neighbour {
    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Attacker => "attacker",
            Self::UpstreamA => "upstream-a",
            Self::UpstreamB => "upstream-b",
        }
    }

    /// The node's interface that leads there.
    #[must_use]
    pub const fn node_interface(self) -> &'static str {
        match self {
            Self::Client => "to-client",
            Self::Attacker => "to-attacker",
            Self::UpstreamA => "to-upstream-a",
            Self::UpstreamB => "to-upstream-b",
        }
    }

    /// Its own IPv4 address.
    #[must_use]
    pub const fn ipv4(self) -> IpAddr {
        IpAddr::V4(self.address_v4(2))
    }

    /// Its own IPv6 address.
    #[must_use]
    pub const fn ipv6(self) -> IpAddr {
        IpAddr::V6(self.address_v6(2))
    }

    /// The node's IPv4 address on the link to it.
    #[must_use]
    pub const fn node_ipv4(self) -> IpAddr {
        IpAddr::V4(self.address_v4(1))
    }

    /// The node's IPv6 address on the link to it.
    #[must_use]
    pub const fn node_ipv6(self) -> IpAddr {
        IpAddr::V6(self.address_v6(1))
    }

    /// The Ethernet addresses of a frame from it to the node.
    #[must_use]
    pub const fn link(self) -> Link {
        Link {
            from: self.mac(2),
            to: self.mac(1),
        }
    }

    const fn number(self) -> u8 {
        self as u8 + 1
    }

    const fn address_v4(self, host: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 203, self.number(), host)
    }

    const fn address_v6(self, host: u8) -> Ipv6Addr {
        Ipv6Addr::new(0xfd00, 0x203, self.number() as u16, 0, 0, 0, 0, host as u16)
    }

    /// Locally administered.
    const fn mac(self, host: u8) -> Mac {
        [2, 0, 0, 203, self.number(), host]
    }
}

impl Lab {
    /// Makes the namespaces and wires them.
    ///
    /// # Errors
    /// If this process is not root, or `ip` refuses.
    pub fn create() -> Result<Self> {
        /// Labs of this process so far, so that tests in one process do not meet.
        static LABS: AtomicU32 = AtomicU32::new(0);
        if !privilege::is_root() {
            bail!("the lab makes network namespaces, which needs root: run it with sudo");
        }
        cleanup::on_signals();
        netns::remove_stale()?;
        let number = LABS.fetch_add(1, Ordering::Relaxed);
        let prefix = format!("{PREFIX}{}-{number}-", std::process::id());
        let namespace = |name: &str| Namespace::create(&format!("{prefix}{name}"));
        let node = namespace("node")?;
        let neighbours = [
            namespace(NEIGHBOURS[0].name())?,
            namespace(NEIGHBOURS[1].name())?,
            namespace(NEIGHBOURS[2].name())?,
            namespace(NEIGHBOURS[3].name())?,
        ];
        let lab = Self {
            prefix,
            node,
            neighbours,
        };
        configure_node(&lab.node)?;
        for neighbour in NEIGHBOURS {
            lab.wire(neighbour)
                .with_context(|| format!("cannot wire the node to {}", neighbour.name()))?;
        }
        lab.node.ip(&[
            "route",
            "add",
            "default",
            "via",
            &Neighbour::Attacker.ipv4().to_string(),
        ])?;
        lab.node.ip(&[
            "-6",
            "route",
            "add",
            "default",
            "via",
            &Neighbour::Attacker.ipv6().to_string(),
        ])?;
        Ok(lab)
    }

    /// What all its namespaces' names begin with.
    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The namespace where the agent runs.
    #[must_use]
    pub fn node(&self) -> &Namespace {
        &self.node
    }

    /// A neighbour's namespace.
    #[must_use]
    pub fn neighbour(&self, neighbour: Neighbour) -> &Namespace {
        &self.neighbours[neighbour as usize]
    }

    fn wire(&self, neighbour: Neighbour) -> Result<()> {
        let (ours, theirs) = (neighbour.node_interface(), NEIGHBOUR_INTERFACE);
        let peer = self.neighbour(neighbour);
        let queues = queues();
        netns::ip(&[
            "link",
            "add",
            ours,
            "numtxqueues",
            &queues,
            "numrxqueues",
            &queues,
            "netns",
            self.node.name(),
            "address",
            &mac_text(neighbour.mac(1)),
            "type",
            "veth",
            "peer",
            "name",
            theirs,
            "numtxqueues",
            &queues,
            "numrxqueues",
            &queues,
            "netns",
            peer.name(),
            "address",
            &mac_text(neighbour.mac(2)),
        ])?;
        let node_side = End {
            namespace: &self.node,
            interface: ours,
            ipv4: neighbour.node_ipv4(),
            ipv6: neighbour.node_ipv6(),
        };
        let far_side = End {
            namespace: peer,
            interface: theirs,
            ipv4: neighbour.ipv4(),
            ipv6: neighbour.ipv6(),
        };
        node_side.configure()?;
        far_side.configure()?;
        // Under a flood neither end should have to ask who the other is.
        node_side.know(&far_side, neighbour.mac(2))?;
        far_side.know(&node_side, neighbour.mac(1))?;
        peer.ip(&[
            "route",
            "add",
            "default",
            "via",
            &neighbour.node_ipv4().to_string(),
        ])?;
        peer.ip(&[
            "-6",
            "route",
            "add",
            "default",
            "via",
            &neighbour.node_ipv6().to_string(),
        ])
    }
}

/// One end of a link.
struct End<'a> {
    namespace: &'a Namespace,
    interface: &'a str,
    ipv4: IpAddr,
    ipv6: IpAddr,
}

impl End<'_> {
    fn configure(&self) -> Result<()> {
        let device = self.interface;
        self.namespace
            .ip(&["address", "add", &format!("{}/24", self.ipv4), "dev", device])?;
        self.namespace.ip(&[
            "address",
            "add",
            &format!("{}/64", self.ipv6),
            "dev",
            device,
            "nodad",
        ])?;
        self.namespace.ip(&["link", "set", device, "up"])
    }

    fn know(&self, other: &Self, mac: Mac) -> Result<()> {
        for address in [other.ipv4, other.ipv6] {
            self.namespace.ip(&[
                "neighbour",
                "replace",
                &address.to_string(),
                "lladdr",
                &mac_text(mac),
                "dev",
                self.interface,
                "nud",
                "permanent",
            ])?;
        }
        Ok(())
    }
}

/// Spoofed sources come in by the attacker's link whatever they claim, so nothing may be filtered
/// before the programs under test see it.
fn configure_node(node: &Namespace) -> Result<()> {
    for (key, value) in [
        ("ipv4/conf/all/rp_filter", "0"),
        ("ipv4/conf/default/rp_filter", "0"),
        ("ipv4/ip_forward", "0"),
    ] {
        node.sysctl(key, value)?;
    }
    Ok(())
}

/// As a network card has: a queue for each processor. A veth's receiver works on its sender's processor.
fn queues() -> String {
    std::thread::available_parallelism()
        .map_or(1, NonZeroUsize::get)
        .min(MOST_QUEUES)
        .to_string()
}

fn mac_text(mac: Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}
