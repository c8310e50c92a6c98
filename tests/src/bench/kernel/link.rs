//! Where one contender stands: a node and a sender, each in a namespace, joined by a veth. Each contender
//! has its own, so that all can stand at once and rounds need no set-up.

use anyhow::Result;

use crate::{
    frame::{Link, Mac},
    netns::{self, Namespace, PREFIX},
};

/// The interface of both sides.
pub(super) const INTERFACE: &str = "bench0";
/// The node's address.
pub(super) const NODE: [u8; 4] = [10, 203, 9, 1];

const NODE_MAC: Mac = [2, 0, 0, 203, 9, 1];
const SENDER_MAC: Mac = [2, 0, 0, 203, 9, 2];

/// The pair. Dropping it removes it.
#[derive(Debug)]
pub(super) struct Pair {
    pub(super) node: Namespace,
    pub(super) sender: Namespace,
}

impl Pair {
    /// Makes the pair `name`.
    ///
    /// # Errors
    /// If `ip` refuses.
    pub(super) fn create(name: &str) -> Result<Self> {
        let namespace =
            |end: &str| Namespace::create(&format!("{PREFIX}{}-{name}-{end}", std::process::id()));
        let pair = Self {
            node: namespace("node")?,
            sender: namespace("from")?,
        };
        let [node_mac, sender_mac] = [NODE_MAC, SENDER_MAC].map(text);
        netns::ip(&[
            "link",
            "add",
            INTERFACE,
            "netns",
            pair.node.name(),
            "address",
            &node_mac,
            "type",
            "veth",
            "peer",
            "name",
            INTERFACE,
            "netns",
            pair.sender.name(),
            "address",
            &sender_mac,
        ])?;
        for (key, value) in [
            ("ipv4/conf/all/rp_filter", "0"),
            (&*format!("ipv4/conf/{INTERFACE}/rp_filter"), "0"),
            ("ipv6/conf/all/disable_ipv6", "1"),
        ] {
            pair.node.sysctl(key, value)?;
        }
        let [a, b, c, d] = NODE;
        pair.node
            .ip(&["address", "add", &format!("{a}.{b}.{c}.{d}/24"), "dev", INTERFACE])?;
        pair.node.ip(&["link", "set", INTERFACE, "up"])?;
        pair.sender.ip(&["link", "set", INTERFACE, "up"])?;
        Ok(pair)
    }

    /// The Ethernet addresses of a frame to the node.
    pub(super) const fn link(&self) -> Link {
        Link {
            from: SENDER_MAC,
            to: NODE_MAC,
        }
    }
}

fn text(mac: Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}
