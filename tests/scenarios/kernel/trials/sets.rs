//! Random sets of policies, of what the agent knows besides, and of packets.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use enforcer_dataplane::DeniedBy;
use enforcer_model::{Action, flow::Flow};
use ipnet::IpNet;
use lab::{
    frame::layers::{TYPE_IPV4, TYPE_IPV6, V4, V6, carried, ethernet, icmp, packet, tcp, udp},
    random::Random,
};

use crate::{
    packets::{ACK, SYN, TCP, UDP, node},
    rig::INTERFACE,
};

/// Where a socket of the stack listens.
pub const LISTENING: u16 = 443;
/// Whom nothing ever stops.
pub const MANAGEMENT: &str = "192.0.2.200/32";

const SOURCES_V4: [Ipv4Addr; 4] = [
    Ipv4Addr::new(192, 0, 2, 1),
    Ipv4Addr::new(192, 0, 2, 2),
    Ipv4Addr::new(192, 0, 2, 200),
    Ipv4Addr::new(198, 51, 100, 1),
];
const SOURCES_V6: [Ipv6Addr; 2] = [
    Ipv6Addr::new(0x2001, 0xdb8, 1, 1, 0, 0, 0, 1),
    Ipv6Addr::new(0x2001, 0xdb8, 2, 1, 0, 0, 0, 1),
];
const PREFIXES: [&str; 9] = [
    "192.0.2.0/24",
    "192.0.2.1/32",
    "192.0.2.2/32",
    "198.51.100.0/24",
    "192.0.0.0/8",
    "0.0.0.0/1",
    "'2001:db8:1::/48'",
    "'2001:db8:1:1::1/128'",
    "'2001:db8::/32'",
];
/// Client ports: connections from the last are revoked.
const CLIENTS: [u16; 3] = [40_000, 40_001, 40_009];
const REVOKED: u16 = 40_009;
const PORTS: [u16; 4] = [LISTENING, 53, 80, 25];

/// Which program a packet meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Arrives,
    Leaves,
    LeavesPod,
}

#[derive(Clone, Debug)]
pub struct Packet {
    pub way: Way,
    /// Since the one before.
    pub after: Duration,
    pub frame: Vec<u8>,
}

impl fmt::Display for Packet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.frame.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// What is in force, and what comes.
#[derive(Clone, Debug)]
pub struct Set {
    pub base: Vec<String>,
    /// The policy in shadow.
    pub trial: String,
    pub denials: Vec<(IpNet, DeniedBy, Action)>,
    pub verified: Vec<(Flow, String)>,
    pub recent: Vec<IpAddr>,
    /// The agent is not heard of after this time.
    pub agent_dies: Option<Duration>,
    pub keeps_denials: bool,
    pub keeps_cookies: bool,
    pub packets: Vec<Packet>,
}

impl Set {
    pub fn with_trial(&self) -> String {
        self.base.concat() + &self.trial
    }

    /// The set without one of its parts each.
    pub fn smaller(&self) -> Vec<Self> {
        let mut smaller = Vec::new();
        let mut with = |change: &dyn Fn(&mut Self)| {
            let mut set = self.clone();
            change(&mut set);
            smaller.push(set);
        };
        let half = self.packets.len() / 2;
        if half > 1 {
            with(&|set| drop(set.packets.drain(..half)));
            with(&|set| set.packets.truncate(half));
        }
        for at in 0..self.base.len().saturating_sub(1) {
            with(&|set| drop(set.base.remove(at)));
        }
        for at in 0..self.denials.len() {
            with(&|set| {
                set.denials.remove(at);
            });
        }
        for at in 0..self.verified.len() {
            with(&|set| drop(set.verified.remove(at)));
        }
        for at in 0..self.recent.len() {
            with(&|set| {
                set.recent.remove(at);
            });
        }
        if self.agent_dies.is_some() {
            with(&|set| set.agent_dies = None);
        }
        for at in 0..self.packets.len() {
            with(&|set| drop(set.packets.remove(at)));
        }
        smaller
    }
}

impl fmt::Display for Set {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}# the trial:\n{}", self.base.concat(), self.trial)?;
        for (prefix, by, action) in &self.denials {
            writeln!(f, "denied: {prefix} by {by:?}, {action:?}")?;
        }
        for (flow, identity) in &self.verified {
            writeln!(f, "verified: {flow:?} as {identity}")?;
        }
        writeln!(
            f,
            "recent: {:?}; agent dies after {:?}, denials stay: {}, cookies stay: {}",
            self.recent, self.agent_dies, self.keeps_denials, self.keeps_cookies
        )
    }
}

/// Connections that are revoked in all sets.
pub fn revoked() -> Vec<Flow> {
    let flow = |peer: IpAddr, port| Flow {
        peer: SocketAddr::new(peer, REVOKED),
        local: SocketAddr::new(node(peer), port),
    };
    sources()
        .flat_map(|source| PORTS.map(|port| flow(source, port)))
        .collect()
}

fn sources() -> impl Iterator<Item = IpAddr> {
    SOURCES_V4
        .into_iter()
        .map(IpAddr::V4)
        .chain(SOURCES_V6.into_iter().map(IpAddr::V6))
}

/// A set: the same for the same numbers. `number` tells its identities from others'.
pub fn random_set(random: &mut Random, number: usize) -> Set {
    // The order of names is that of policies.
    let mut names = ["a", "b", "c", "d", "e"].to_vec();
    let mut name = |random: &mut Random| names.remove(random.below(names.len()));
    // Of one mode, a port is one policy's. One in shadow is often about what an enforced one is about.
    let (mut enforced, mut watched) = (Claims::default(), Claims::default());
    let mut about = Vec::new();
    // An interface that no policy names has no programs; from the first on, operators' decisions hold there.
    let base = (0..random.of(&[1, 1, 2, 2, 3]))
        .map(|_| {
            let name = name(random);
            if random.one_in(4) {
                let ports = watched.take(random, &about);
                return document(random, name, "shadow", &ports);
            }
            let ports = enforced.take(random, &[]);
            about.push(ports.clone());
            document(random, name, "enforce", &ports)
        })
        .collect();
    let trial = name(random);
    let ports = watched.take(random, &about);
    let trial = document(random, trial, "shadow", &ports);
    let mut denials: Vec<(IpNet, DeniedBy, Action)> = Vec::new();
    for _ in 0..random.of(&[0, 0, 1, 2, 3]) {
        let prefix: IpNet = random.of(&PREFIXES).trim_matches('\'').parse().unwrap();
        if denials.iter().all(|(other, ..)| *other != prefix) {
            let by = random.of(&[DeniedBy::Operator, DeniedBy::Authentication]);
            denials.push((prefix, by, random.of(&[Action::Drop, Action::Reset])));
        }
    }
    let verified = (0..random.of(&[0, 0, 1, 2]))
        .map(|at| {
            let peer = source(random);
            let flow = Flow {
                peer: SocketAddr::new(peer, 40_000 + at),
                local: SocketAddr::new(node(peer), random.of(&PORTS)),
            };
            (flow, format!("holder-{}", number % 64))
        })
        .collect();
    let recent = (0..random.of(&[0, 0, 1])).map(|_| source(random)).collect();
    let agent_dies = match random.below(6) {
        0 => Some(Duration::ZERO),
        1 => Some(Duration::from_millis(200)),
        _ => None,
    };
    let count = 20 + random.below(40);
    Set {
        base,
        trial,
        denials,
        verified,
        recent,
        agent_dies,
        keeps_denials: random.one_in(2),
        keeps_cookies: random.one_in(2),
        packets: (0..count).map(|_| random_packet(random)).collect(),
    }
}

fn source(random: &mut Random) -> IpAddr {
    let all: Vec<IpAddr> = sources().collect();
    random.of(&all)
}

/// What policies of one mode are about already: ports, or all other traffic.
#[derive(Default)]
struct Claims(Vec<&'static str>);

impl Claims {
    /// Ports for another policy, the empty one for all other traffic: often what a policy of the other mode is about.
    fn take(&mut self, random: &mut Random, others: &[Vec<&'static str>]) -> Vec<&'static str> {
        let is_free = |port: &&str| !self.0.contains(port);
        let theirs = (!others.is_empty() && !random.one_in(3)).then(|| &others[random.below(others.len())]);
        let theirs = theirs.filter(|ports| ports.iter().all(is_free));
        let ports = theirs.cloned().unwrap_or_else(|| {
            let mut free = ["", "tcp/443", "udp/53", "tcp/80", "tcp/25", "udp/443"].to_vec();
            free.retain(is_free);
            let mut ports = vec![free.remove(random.below(free.len()))];
            free.retain(|port| !port.is_empty());
            if !ports[0].is_empty() && free.len() > 2 && random.one_in(4) {
                ports.push(random.of(&free));
            }
            ports
        });
        self.0.extend(&ports);
        ports
    }
}

fn document(random: &mut Random, name: &str, mode: &str, ports: &[&str]) -> String {
    let mut spec = vec![format!("mode: {mode}"), format!("interfaces: [{INTERFACE}]")];
    let ports: Vec<&str> = ports.iter().copied().filter(|port| !port.is_empty()).collect();
    if !ports.is_empty() {
        spec.push(format!("ports: [{}]", ports.join(", ")));
    }
    if random.one_in(3) {
        spec.push("action: reset".to_owned());
    }
    let mut prefixes = PREFIXES.to_vec();
    let mut some = |random: &mut Random, most: usize| {
        let count = 1 + random.below(most);
        let some: Vec<&str> = (0..count)
            .map(|_| prefixes.remove(random.below(prefixes.len())))
            .collect();
        some.join(", ")
    };
    if random.one_in(3) {
        spec.push(format!("allow: [{}]", some(random, 2)));
    }
    if random.one_in(2) {
        spec.push(format!("deny: [{}]", some(random, 2)));
    }
    if random.one_in(2) {
        let limits: Vec<String> = (0..=random.below(2)).map(|_| limit(random)).collect();
        spec.push(format!("limits: [{}]", limits.join(", ")));
        if random.one_in(3) {
            spec.push("verified: {rate: 1/s, burst: 3, recent: {rate: 1/s, burst: 2}}".to_owned());
        }
    }
    if random.one_in(4) {
        spec.push("syn: {cookies: always}".to_owned());
    }
    if random.one_in(2) {
        spec.push(format!("egress: {{{}}}", egress(random)));
    }
    format!(
        "---\napiVersion: enforcer.dev/v1\nkind: PacketPolicy\nmetadata: {{name: {name}}}\nspec: {{{}}}\n",
        spec.join(", ")
    )
}

fn limit(random: &mut Random) -> String {
    let per = random.of(&["source", "service", "interface", "identity"]);
    let traffic = random.of(&[
        "",
        "",
        ", traffic: tcp-syn",
        ", traffic: udp",
        ", traffic: [icmp, other]",
    ]);
    let count = random.of(&["packets", "packets", "connections"]);
    let algorithm = random.of(&["token-bucket", "leaky-bucket"]);
    let burst = 1 + random.below(6);
    let rate = random.of(&["1/s", "6/m", "20/s"]);
    format!("{{per: {per}, count: {count}, rate: {rate}, burst: {burst}, algorithm: {algorithm}{traffic}}}")
}

fn egress(random: &mut Random) -> String {
    let mut rules = vec![format!("of: {}", random.of(&["node", "node", "pod"]))];
    let mut prefixes = PREFIXES.to_vec();
    let mut entry = |random: &mut Random| {
        let prefix = prefixes.remove(random.below(prefixes.len()));
        match random.below(3) {
            0 => format!(
                "{{cidr: {prefix}, ports: [{}]}}",
                random.of(&["tcp/443", "udp", "udp/53", "icmp"])
            ),
            _ => prefix.to_owned(),
        }
    };
    if random.one_in(3) {
        rules.push("default: deny".to_owned());
        rules.push(format!("allow: [{}]", entry(random)));
    }
    if random.one_in(2) {
        rules.push(format!("deny: [{}]", entry(random)));
    }
    if random.one_in(3) {
        let per = random.of(&["destination", "interface"]);
        rules.push(format!("limits: [{{per: {per}, rate: 1kB/s, burst: 300B}}]"));
    }
    rules.join(", ")
}

fn random_packet(random: &mut Random) -> Packet {
    let peer = source(random);
    let (client, service) = (random.of(&CLIENTS), random.of(&PORTS));
    let way = random.of(&[
        Way::Arrives,
        Way::Arrives,
        Way::Arrives,
        Way::Leaves,
        Way::LeavesPod,
    ]);
    let (from, to) = match way {
        Way::Arrives => (peer, node(peer)),
        Way::Leaves | Way::LeavesPod => (node(peer), peer),
    };
    // What leaves is a reply, or begins something.
    let ports = match way {
        Way::Arrives => (client, service),
        _ if random.one_in(2) => (service, client),
        _ => (client, service),
    };
    Packet {
        way,
        // Answers that tell a sender are rationed by the millisecond.
        after: Duration::from_millis(random.of(&[2, 2, 5, 20, 300])),
        frame: frame(random, (from, to), ports),
    }
}

fn frame(random: &mut Random, (from, to): (IpAddr, IpAddr), (source, destination): (u16, u16)) -> Vec<u8> {
    let plain = |protocol, segment: &[u8]| carried(&packet(from, to, protocol, segment));
    match random.below(12) {
        0..=2 => plain(TCP, &tcp(source, destination, 5, SYN)),
        3 | 4 => plain(TCP, &tcp(source, destination, 5, ACK)),
        5..=7 => plain(UDP, &udp(source, destination, 8, 0)),
        8 => match from {
            IpAddr::V4(_) => plain(1, &icmp(8, 8)),
            IpAddr::V6(_) => plain(58, &icmp(random.of(&[128, 135]), 24)),
        },
        9 => plain(random.of(&[47, 132]), &[0; 16]),
        10 => misshapen(random, (from, to)),
        _ => {
            let segment = udp(source, destination, 8, 0);
            let whole = packet(from, to, UDP, &segment);
            let kind = if from.is_ipv4() { TYPE_IPV4 } else { TYPE_IPV6 };
            let tags = vec![random.of(&[0x8100, 0x88a8]); random.of(&[1, 2, 3, 8, 9])];
            ethernet(&tags, kind, &whole)
        }
    }
}

/// What cannot be followed to its end, or lies.
fn misshapen(random: &mut Random, ends: (IpAddr, IpAddr)) -> Vec<u8> {
    match ends {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let plain = V4::new(from, to, UDP);
            let header = random.of(&[
                V4 { fragment: 5, ..plain },
                V4 {
                    fragment: 0x2000,
                    ..plain
                },
                V4 {
                    total: Some(19),
                    ..plain
                },
                V4 {
                    total: Some(200),
                    ..plain
                },
                V4 {
                    words: Some(4),
                    ..plain
                },
            ]);
            carried(&header.packet(&udp(40_000, random.of(&PORTS), 8, 0)))
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let mut header = V6::new(from, to, UDP);
            for _ in 0..random.of(&[1, 6, 7, 12, 30]) {
                header = header.extended(60, 8);
            }
            if random.one_in(3) {
                header.length = Some(1000);
            }
            if random.one_in(3) {
                header = header.fragment(random.of(&[1, 8]));
            }
            carried(&header.packet(&udp(40_000, random.of(&PORTS), 8, 0)))
        }
        _ => unreachable!("both ends are of one family"),
    }
}
