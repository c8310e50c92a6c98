//! A sender and a receiver, each in a network namespace of its own, and what is between them.

use std::{
    collections::BTreeSet,
    io,
    net::IpAddr,
    os::fd::OwnedFd,
    path::Path,
    process::{self, Command},
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Context as _, Result};

use super::{
    Way,
    addresses::{BARRIER_UDP, CASES, GATEWAY_V4, GATEWAY_V6, RECEIVER_MAC, SENDER_MAC, Standing},
    layers::{Ends, framed, sum_transport, v4},
    listeners::{Listeners, Seen},
};
use crate::{
    cleanup, interface,
    netns::{self, Namespace, PREFIX},
    reference::{Reading, read},
    sys::raw,
};

/// The receiver's interface, and the sender's.
pub const DEVICE: &str = "eth0";
/// VLANs that the receiver has devices for: the device below, the new one's name, its protocol and id.
const VLANS: [(&str, &str, &str, &str); 4] = [
    (DEVICE, "eth0.7", "802.1Q", "7"),
    (DEVICE, "eth0.8", "802.1ad", "8"),
    ("eth0.8", "eth0.8.9", "802.1Q", "9"),
    ("eth0.7", "eth0.7.7", "802.1Q", "7"),
];
const ETHERNET: usize = 14;

/// Where frames go in.
enum Entrance {
    Frames(OwnedFd),
    /// A descriptor that takes packets without an Ethernet header.
    Tun(OwnedFd),
}

/// A sender and a receiver.
pub struct Lane {
    sender: Namespace,
    receiver: Namespace,
    entrance: Entrance,
    listeners: Listeners,
    /// The receiver has devices for VLANs.
    pub vlans: bool,
}

impl Lane {
    pub fn build(way: Way) -> Result<Self> {
        static LANES: AtomicU32 = AtomicU32::new(0);
        cleanup::on_signals();
        let prefix = format!(
            "{PREFIX}{}-linux{}-",
            process::id(),
            LANES.fetch_add(1, Ordering::Relaxed)
        );
        let sender = Namespace::create(&format!("{prefix}sender"))?;
        let receiver = Namespace::create(&format!("{prefix}receiver"))?;
        configure(&receiver)?;
        let entrance = if way.has_ethernet() {
            veth(&sender, &receiver)?;
            let index = interface::index(&sender, DEVICE)?;
            Entrance::Frames(sender.run(|| Ok(raw::frame_socket(index)?))?)
        } else {
            Entrance::Tun(receiver.run(|| raw::tun(DEVICE).context("no tun device"))?)
        };
        address(&receiver, way)?;
        let vlans = way.has_ethernet() && add_vlans(&receiver);
        let listeners = Listeners::open(&receiver)?;
        Ok(Self {
            sender,
            receiver,
            entrance,
            listeners,
            vlans,
        })
    }

    /// The namespace of which the programs judge an interface.
    pub fn judged(&self, way: Way) -> &Namespace {
        if way == Way::Egress {
            &self.sender
        } else {
            &self.receiver
        }
    }

    /// Sends frames, and says what the stack has delivered until all of them have gone through it.
    pub fn deliver<'a>(&mut self, frames: impl Iterator<Item = &'a Vec<u8>>) -> Result<Vec<Seen>> {
        let frames: Vec<&[u8]> = frames.map(Vec::as_slice).collect();
        send(&self.entrance, &frames)?;
        let barrier = barrier();
        let entrance = &self.entrance;
        let mut delivered = self.listeners.until_barrier(|| send(entrance, &[&barrier]))?;
        // A socket of an extension header's protocol does not tell what is behind that.
        let discoverers = discoverers(&frames);
        for seen in &mut delivered {
            seen.neighbour_discovery &= discoverers.contains(&seen.source);
        }
        Ok(delivered)
    }
}

/// The sources of neighbour discovery.
fn discoverers(frames: &[&[u8]]) -> BTreeSet<IpAddr> {
    let source = |frame: &&[u8]| match read(frame) {
        Reading::Packet(packet) if packet.neighbour_discovery => Some(packet.source),
        _ => None,
    };
    frames.iter().filter_map(source).collect()
}

/// Sends frames in order. What the sender's own kernel refuses is no packet.
fn send(entrance: &Entrance, frames: &[&[u8]]) -> Result<()> {
    match entrance {
        Entrance::Frames(socket) => {
            raw::send_frames(socket, frames).context("cannot send")?;
        }
        Entrance::Tun(device) => {
            for frame in frames {
                match write(device, frame.get(ETHERNET..).unwrap_or_default()) {
                    Err(error) if error.raw_os_error() != Some(libc::EINVAL) => {
                        return Err(error).context("cannot write to the tun device");
                    }
                    _ => {}
                }
            }
        }
    }
    Ok(())
}

fn write(device: &OwnedFd, bytes: &[u8]) -> io::Result<usize> {
    use io::Write as _;
    std::fs::File::from(device.try_clone()?).write(bytes)
}

/// A datagram that ends a batch.
fn barrier() -> Vec<u8> {
    let ends = Ends {
        source: Standing::Free.source(true, CASES + 1),
        destination: Standing::Free.destination(true),
    };
    let mut segment = [1_u16, BARRIER_UDP, 8, 0].map(u16::to_be_bytes).concat();
    sum_transport(ends, 17, &mut segment);
    framed(&[], 0x0800, &v4(ends, 17, (0, 0x4000), &[], &segment))
}

/// Sources come in whatever they claim, and what is left of fragments goes soon.
fn configure(receiver: &Namespace) -> Result<()> {
    for (key, value) in [
        ("ipv4/conf/all/rp_filter", "0"),
        ("ipv4/conf/default/rp_filter", "0"),
        ("ipv4/ip_forward", "0"),
        ("ipv4/ipfrag_time", "1"),
        ("ipv4/ipfrag_high_thresh", "67108864"),
        ("ipv6/ip6frag_time", "1"),
        ("ipv6/ip6frag_high_thresh", "67108864"),
        ("ipv6/conf/all/accept_ra", "0"),
        ("ipv6/conf/default/accept_ra", "0"),
        ("ipv6/conf/all/accept_redirects", "0"),
        ("ipv4/conf/all/accept_redirects", "0"),
    ] {
        receiver.sysctl(key, value)?;
    }
    Ok(())
}

/// One queue, so that what is sent last arrives last.
fn veth(sender: &Namespace, receiver: &Namespace) -> Result<()> {
    let (ours, theirs) = (mac(RECEIVER_MAC), mac(SENDER_MAC));
    let one = ["numtxqueues", "1", "numrxqueues", "1"];
    let mut arguments = vec!["link", "add", DEVICE, "netns", receiver.name()];
    arguments.extend(one);
    arguments.extend(["address", &ours, "type", "veth", "peer", "name", DEVICE]);
    arguments.extend(["netns", sender.name()]);
    arguments.extend(one);
    arguments.extend(["address", &theirs]);
    netns::ip(&arguments)?;
    sender.sysctl("ipv6/conf/eth0/disable_ipv6", "1")?;
    sender.ip(&["link", "set", DEVICE, "up"])
}

fn mac(bytes: [u8; 6]) -> String {
    bytes.map(|byte| format!("{byte:02x}")).join(":")
}

/// The receiver's addresses, and the way of its answers.
fn address(receiver: &Namespace, way: Way) -> Result<()> {
    receiver.ip(&["link", "set", DEVICE, "up"])?;
    for standing in Standing::ALL {
        for ipv4 in [true, false] {
            let address = standing.destination(ipv4);
            let prefix = if ipv4 { 24 } else { 64 };
            let mut arguments = vec![
                "address".to_owned(),
                "add".to_owned(),
                format!("{address}/{prefix}"),
            ];
            arguments.extend(["dev", DEVICE].map(str::to_owned));
            if !ipv4 {
                arguments.push("nodad".to_owned());
            }
            receiver.ip(&arguments.iter().map(String::as_str).collect::<Vec<_>>())?;
        }
    }
    let gateways = [GATEWAY_V4.to_string(), GATEWAY_V6.to_string()];
    for (family, gateway) in [("-4", &gateways[0]), ("-6", &gateways[1])] {
        if way.has_ethernet() {
            let lladdr = mac(SENDER_MAC);
            receiver.ip(&[
                family,
                "neighbour",
                "replace",
                gateway,
                "lladdr",
                &lladdr,
                "dev",
                DEVICE,
                "nud",
                "permanent",
            ])?;
            receiver.ip(&[family, "route", "add", "default", "via", gateway])?;
        } else {
            receiver.ip(&[family, "route", "add", "default", "dev", DEVICE])?;
        }
    }
    Ok(())
}

/// Adds devices for VLANs, where the kernel knows them.
fn add_vlans(receiver: &Namespace) -> bool {
    if !Path::new("/proc/net/vlan").exists() {
        // It may be a module that nobody has needed so far; its absence is said where the run is told of.
        let _ = Command::new("modprobe").args(["-q", "8021q"]).status();
    }
    VLANS.into_iter().all(|(below, name, protocol, id)| {
        let made = receiver.ip(&[
            "link", "add", "link", below, "name", name, "type", "vlan", "protocol", protocol, "id", id,
        ]);
        made.and_then(|()| receiver.ip(&["link", "set", name, "up"]))
            .is_ok()
    })
}
