//! What the stack delivers: sockets of UDP, and raw ones of many protocols, in both families.

use std::{
    net::IpAddr,
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use super::addresses::{BARRIER_UDP, CASES, GUARDED_TCP, GUARDED_UDP, OPEN_UDP, Standing};
use crate::{
    netns::Namespace,
    sys::raw::{self, Received},
};

/// Protocols with a raw socket, among them the extension headers.
const PROTOCOLS: [u8; 25] = [
    1, 2, 4, 6, 17, 41, 43, 44, 47, 50, 51, 58, 59, 60, 103, 115, 132, 135, 136, 137, 139, 140, 253, 254, 33,
];
const PATIENCE: Duration = Duration::from_secs(60);
const AGAIN_MS: libc::c_int = 200;

/// Which socket got a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Socket {
    /// UDP at a port.
    Udp(u16),
    /// Raw, of a protocol.
    Raw(u8),
}

/// What a socket got.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    pub socket: Socket,
    pub source: IpAddr,
    pub destination: IpAddr,
    /// It is for a port that the second policy is about.
    pub at_guarded_port: bool,
    /// Neighbour discovery from the link itself, which no policy is about.
    pub neighbour_discovery: bool,
}

/// The sockets of one network namespace.
pub struct Listeners {
    sockets: Vec<(Socket, bool, OwnedFd)>,
    /// Ends of batches seen.
    barriers: u64,
}

impl Listeners {
    pub fn open(namespace: &Namespace) -> Result<Self> {
        let sockets = namespace.run(|| {
            let mut sockets = Vec::new();
            for ipv4 in [true, false] {
                for port in [GUARDED_UDP, OPEN_UDP, BARRIER_UDP] {
                    let socket = raw::stack_socket(ipv4, libc::SOCK_DGRAM, 0)?;
                    raw::bind_port(&socket, ipv4, port).context("cannot bind a port")?;
                    sockets.push((Socket::Udp(port), ipv4, socket));
                }
                for protocol in PROTOCOLS {
                    let socket = raw::stack_socket(ipv4, libc::SOCK_RAW, protocol)
                        .with_context(|| format!("no raw socket of protocol {protocol}"))?;
                    sockets.push((Socket::Raw(protocol), ipv4, socket));
                }
            }
            Ok(sockets)
        })?;
        Ok(Self { sockets, barriers: 0 })
    }

    /// Takes what the sockets hold until a barrier has come, which `send` sends: again where it is lost.
    pub fn until_barrier(&mut self, mut send: impl FnMut() -> Result<()>) -> Result<Vec<Seen>> {
        let mut seen = Vec::new();
        let started = Instant::now();
        // What the first has overtaken, in a list of the driver's, is there before the second.
        for _ in 0..2 {
            let before = self.barriers;
            send()?;
            while self.barriers == before {
                if !self.take(&mut seen, AGAIN_MS)? {
                    send()?;
                }
                if started.elapsed() > PATIENCE {
                    bail!("the end of a batch does not arrive: neither this nor anything else gets through");
                }
            }
        }
        while self.take(&mut seen, 0)? {}
        Ok(seen)
    }

    /// Takes what is there after `milliseconds` at most; whether there was anything.
    fn take(&mut self, seen: &mut Vec<Seen>, milliseconds: libc::c_int) -> Result<bool> {
        let ready = raw::readable(self.sockets.iter().map(|(_, _, socket)| socket), milliseconds)?;
        for at in &ready {
            let (which, ipv4, socket) = &self.sockets[*at];
            let barriers = &mut self.barriers;
            raw::receive_all(socket, |received| {
                if *which == Socket::Udp(BARRIER_UDP) {
                    *barriers += 1;
                } else if Standing::of_source(received.source).is_some_and(|(_, case)| case < CASES) {
                    seen.push(judged(*which, *ipv4, &received));
                }
            })
            .with_context(|| format!("{which:?} cannot be read"))?;
        }
        Ok(!ready.is_empty())
    }
}

fn judged(socket: Socket, ipv4: bool, received: &Received<'_>) -> Seen {
    // Raw sockets of IPv4 get the IP header too.
    let header = match socket {
        Socket::Raw(_) if ipv4 => received
            .bytes
            .first()
            .map_or(0, |first| usize::from(first & 15) * 4),
        _ => 0,
    };
    let transport = received.bytes.get(header..).unwrap_or_default();
    let at_guarded_port = match socket {
        Socket::Udp(port) => port == GUARDED_UDP,
        // What is too short for TCP's header reaches no port.
        Socket::Raw(6) => {
            transport.len() >= 20 && transport[2..4] == GUARDED_TCP.to_be_bytes() && transport[12] >> 4 >= 5
        }
        Socket::Raw(_) => false,
    };
    // From the link itself, if its packet says that it is that.
    let neighbour_discovery = matches!(socket, Socket::Raw(_)) && received.hops == Some(255);
    Seen {
        socket,
        source: received.source,
        destination: received.destination,
        at_guarded_port,
        neighbour_discovery,
    }
}
