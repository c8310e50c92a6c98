//! Plain traffic to and past the agent: datagrams that are counted one by one, connections, floods.

use std::{
    io,
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    num::{NonZeroU16, NonZeroU32},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use lab::{
    agent::Agent,
    flood::{Flood, Running},
    frame::Payload,
    metrics::Metrics,
    netns::Namespace,
    topology::{Lab, NEIGHBOUR_INTERFACE, Neighbour},
};

use crate::setting::{any_like, wait_until};

/// How long a connection may take that should come about.
const CONNECT: Duration = Duration::from_secs(5);
/// How long is waited for one that should not: less than the first SYN's retransmission, so that each
/// attempt is one packet.
const IN_VAIN: Duration = Duration::from_millis(400);

/// A socket that counts the datagrams that get as far as the node's programs.
pub struct Sink(UdpSocket);

impl Sink {
    /// Listens at all addresses of `namespace`, IPv4 and IPv6.
    pub fn listen(namespace: &Namespace, port: u16) -> Result<Self> {
        let socket = namespace.run(|| {
            UdpSocket::bind(SocketAddr::from(([0u16; 8], port))).context("cannot listen for datagrams")
        })?;
        socket.set_nonblocking(true)?;
        Ok(Self(socket))
    }

    /// How many datagrams have come since the last call.
    pub fn take(&self) -> Result<u64> {
        let mut count = 0;
        let mut buffer = [0; 2048];
        loop {
            match self.0.recv_from(&mut buffer) {
                Ok(_) => count += 1,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(count),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Sends `count` datagrams from `namespace`, all from one port.
pub fn send(namespace: &Namespace, to: SocketAddr, count: u64) -> Result<()> {
    let socket = namespace.run(|| Ok(UdpSocket::bind(any_like(to))?))?;
    for _ in 0..count {
        socket
            .send_to(b"datagram", to)
            .with_context(|| format!("cannot send to {to}"))?;
    }
    Ok(())
}

/// Sends `sent` datagrams and waits until as many have a verdict of `policy`, and `expected` of them have
/// arrived. None comes later: each verdict is given before its datagram arrives.
pub fn expect_arrivals(
    agent: &Agent,
    sink: &Sink,
    from: &Namespace,
    to: SocketAddr,
    [sent, expected]: [u64; 2],
) -> Result<()> {
    let before = with_verdict(&agent.metrics()?);
    send(from, to, sent)?;
    agent.wait_for("a verdict for every datagram", |metrics| {
        with_verdict(metrics) >= before + sent
    })?;
    let mut arrived = 0;
    wait_until("datagrams within the limit", || {
        arrived += sink.take()?;
        Ok(arrived >= expected)
    })
    .with_context(|| format!("{arrived} of {sent} datagrams to {to} arrived"))?;
    arrived += sink.take()?;
    ensure!(
        arrived == expected,
        "{arrived} of {sent} datagrams to {to} arrived, {expected} should have"
    );
    let verdicts = with_verdict(&agent.metrics()?) - before;
    ensure!(
        verdicts == sent,
        "{sent} datagrams to {to} were sent, and {verdicts} have a verdict"
    );
    Ok(())
}

/// Packets that policies have decided about, on their way in.
fn with_verdict(metrics: &Metrics) -> u64 {
    let decided = metrics
        .samples("enforcer_packets_total")
        .filter(|sample| sample.label("direction") == "ingress" && !sample.label("policy").is_empty());
    decided.map(|sample| sample.value as u64).sum()
}

/// Packets by some of the labels of their metric.
pub fn packets(agent: &Agent, labels: &[(&str, &str)]) -> Result<u64> {
    Ok(agent.metrics()?.sum("enforcer_packets_total", labels) as u64)
}

/// Listens for connections, which the kernel completes: nothing accepts them.
pub fn listen(namespace: &Namespace, port: u16) -> Result<TcpListener> {
    namespace.run(|| Ok(TcpListener::bind(SocketAddr::from(([0u16; 8], port)))?))
}

/// Connects as one does where it should work.
pub fn connect(namespace: &Namespace, to: SocketAddr) -> Result<TcpStream> {
    namespace.run(|| {
        TcpStream::connect_timeout(&to, CONNECT).with_context(|| format!("{to} cannot be connected to"))
    })
}

/// Whether one SYN gets an answer.
pub fn is_answered(namespace: &Namespace, to: SocketAddr) -> Result<Option<TcpStream>> {
    namespace.run(|| match TcpStream::connect_timeout(&to, IN_VAIN) {
        Ok(stream) => Ok(Some(stream)),
        Err(error) if error.kind() == io::ErrorKind::TimedOut => Ok(None),
        Err(error) => Err(error).with_context(|| format!("connecting to {to}")),
    })
}

/// A flood from the attacker's link, from `sources` addresses, the first of which is `first`.
pub fn flood(
    lab: &Lab,
    payload: Payload,
    first: IpAddr,
    sources: u32,
    target: SocketAddr,
    rate: u32,
) -> Result<Running> {
    let flood = Flood {
        interface: NEIGHBOUR_INTERFACE.to_owned(),
        link: Neighbour::Attacker.link(),
        first_source: first,
        sources: NonZeroU32::new(sources).context("a flood has sources")?,
        source_ports: (1024, NonZeroU16::MIN.saturating_add(60_000)),
        target,
        payload,
        packets: u64::MAX,
        duration: Duration::from_secs(30),
        rate: NonZeroU32::new(rate),
        first: false,
        processor: None,
    };
    flood.start(lab.neighbour(Neighbour::Attacker))
}
