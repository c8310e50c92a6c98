//! A node with pods behind veths, and services beside it.

use std::{
    io::{self, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use lab::{
    agent::{self, Agent},
    netns::Namespace,
    ping,
    privilege::root_or_skip,
    topology::{Lab, NEIGHBOUR_INTERFACE, NEIGHBOURS, Neighbour},
    workspace::Workspace,
};

/// A port of TCP and of UDP that policies allow.
pub const ALLOWED: u16 = 7000;
/// One that they do not.
pub const OTHER: u16 = 7002;
/// How long may take what should come about.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// How long is waited for what should not: less than a SYN's first retransmission.
const IN_VAIN: Duration = Duration::from_millis(400);

/// Interfaces are followed by what the kernel tells: the controller looks at them hardly ever.
const CONFIG: &str = "policies: [policies]
admin: {address: 127.0.0.1:9600}
runtimeDir: run
log: {level: info, format: json}
kernel: {xdp: auto, sketchMemory: 1MiB, maxFlows: 4096, pins: off, deadMan: 10m}
adapt: {interval: 60s}
";

/// The lab, with services on every neighbour and on the node.
pub struct Cluster {
    pub lab: Lab,
    pub workspace: Workspace,
    _services: Vec<Service>,
}

impl Cluster {
    /// `None`: this process is not root.
    pub fn build() -> Result<Option<Self>> {
        if !root_or_skip() {
            return Ok(None);
        }
        let lab = Lab::create()?;
        let workspace = Workspace::create()?;
        workspace.write_config(CONFIG)?;
        lab.node().sysctl("ipv4/ip_forward", "1")?;
        lab.node().sysctl("ipv6/conf/all/forwarding", "1")?;
        ping::permit(lab.node())?;
        let mut services = vec![Service::start(lab.node())?];
        for neighbour in NEIGHBOURS {
            ping::permit(lab.neighbour(neighbour))?;
            services.push(Service::start(lab.neighbour(neighbour))?);
        }
        Ok(Some(Self {
            lab,
            workspace,
            _services: services,
        }))
    }

    pub fn start(&self) -> Result<Agent> {
        Agent::start(self.lab.node(), &agent::binary()?, &self.workspace)
    }

    pub fn write(&self, policy: &str) -> Result<()> {
        self.workspace.write_policy("egress.yaml", policy).map(drop)
    }

    /// Rewrites the policy and waits until it is in force.
    pub fn put_in_force(&self, agent: &Agent, policy: &str) -> Result<()> {
        let generation = agent.metrics()?.sum("enforcer_generation", &[]);
        self.write(policy)?;
        agent.wait_for("the rewritten policy", |metrics| {
            metrics.sum("enforcer_generation", &[]) > generation
        })?;
        Ok(())
    }
}

/// A namespace behind a veth, as a container runtime makes it.
pub struct Pod {
    pub namespace: Namespace,
    /// The host's end.
    pub interface: String,
    number: u8,
    _service: Service,
}

impl Pod {
    /// Makes the `number`th pod; its interface is there when this begins to wait for anything.
    pub fn create(lab: &Lab, number: u8) -> Result<Self> {
        let namespace = Namespace::create(&format!("{}pod{number}", lab.prefix()))?;
        ping::permit(&namespace)?;
        let interface = format!("pod{number}");
        wire(lab, &namespace, &interface, number)?;
        Ok(Self {
            _service: Service::start(&namespace)?,
            namespace,
            interface,
            number,
        })
    }

    pub fn addresses(&self) -> [IpAddr; 2] {
        [v4(self.number, 2), v6(self.number, 2)]
    }

    /// The node's, on the link to it.
    pub fn node_addresses(&self) -> [IpAddr; 2] {
        [v4(self.number, 1), v6(self.number, 1)]
    }

    /// Removes the veth and makes another one by the same name.
    pub fn wire_anew(&self, lab: &Lab) -> Result<()> {
        lab.node().ip(&["link", "delete", &self.interface])?;
        wire(lab, &self.namespace, &self.interface, self.number)
    }
}

fn wire(lab: &Lab, namespace: &Namespace, interface: &str, number: u8) -> Result<()> {
    let far = NEIGHBOUR_INTERFACE;
    lab.node().ip(&[
        "link",
        "add",
        interface,
        "type",
        "veth",
        "peer",
        "name",
        far,
        "netns",
        namespace.name(),
    ])?;
    for (side, device, host) in [(lab.node(), interface, 1), (namespace, far, 2)] {
        side.ip(&[
            "address",
            "add",
            &format!("{}/24", v4(number, host)),
            "dev",
            device,
        ])?;
        let address = format!("{}/64", v6(number, host));
        side.ip(&["address", "add", &address, "dev", device, "nodad"])?;
        side.ip(&["link", "set", device, "up"])?;
    }
    namespace.ip(&["route", "add", "default", "via", &v4(number, 1).to_string()])?;
    namespace.ip(&["-6", "route", "add", "default", "via", &v6(number, 1).to_string()])
}

fn v4(number: u8, host: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 205, number, host))
}

fn v6(number: u8, host: u8) -> IpAddr {
    IpAddr::V6(Ipv6Addr::new(
        0xfd00,
        0x205,
        number.into(),
        0,
        0,
        0,
        0,
        host.into(),
    ))
}

/// Says back what it hears, at both ports of TCP and UDP.
struct Service {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

/// How often a service looks whether it is to end.
const POLL: Duration = Duration::from_millis(50);

impl Service {
    fn start(namespace: &Namespace) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let mut threads = Vec::new();
        for port in [ALLOWED, OTHER] {
            let any = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port);
            let (listener, socket) =
                namespace.run(|| Ok((TcpListener::bind(any)?, UdpSocket::bind(any)?)))?;
            listener.set_nonblocking(true)?;
            socket.set_read_timeout(Some(POLL))?;
            let stopped = Arc::clone(&stop);
            threads.push(thread::spawn(move || {
                while !stopped.load(Ordering::Relaxed) {
                    match listener.accept() {
                        Ok((stream, _)) => drop(greet(stream)),
                        Err(_) => thread::sleep(POLL / 10),
                    }
                }
            }));
            let stopped = Arc::clone(&stop);
            threads.push(thread::spawn(move || {
                let mut buffer = [0; 2_048];
                while !stopped.load(Ordering::Relaxed) {
                    if let Ok((length, from)) = socket.recv_from(&mut buffer) {
                        // Whoever cannot be answered hears nothing.
                        drop(socket.send_to(&buffer[..length], from));
                    }
                }
            }));
        }
        Ok(Self { stop, threads })
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // Its panic has been shown.
            drop(thread.join());
        }
    }
}

fn greet(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_write_timeout(Some(IN_VAIN))?;
    stream.write_all(b"hello")
}

/// What is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Tcp(u16),
    Udp(u16),
    Echo,
}

/// Whether `to` is reached and answers, within `patience`.
fn is_reached(from: &Namespace, to: IpAddr, way: Way, patience: Duration) -> Result<bool> {
    match way {
        Way::Echo => ping::is_answered(from, to, patience),
        Way::Tcp(port) => from.run(|| {
            let address = SocketAddr::new(to, port);
            let mut stream = match TcpStream::connect_timeout(&address, patience) {
                Ok(stream) => stream,
                Err(error) if error.kind() == io::ErrorKind::TimedOut => return Ok(false),
                Err(error) => return Err(error).with_context(|| format!("connecting to {address}")),
            };
            stream.set_read_timeout(Some(patience))?;
            let mut heard = [0; 5];
            stream
                .read_exact(&mut heard)
                .context("connected, and not greeted")?;
            Ok(heard == *b"hello")
        }),
        Way::Udp(port) => from.run(|| {
            let any: IpAddr = if to.is_ipv4() {
                Ipv4Addr::UNSPECIFIED.into()
            } else {
                Ipv6Addr::UNSPECIFIED.into()
            };
            let socket = UdpSocket::bind((any, 0))?;
            socket.set_read_timeout(Some(patience))?;
            match socket.send_to(b"echo", (to, port)) {
                Ok(_) => {}
                // What a program drops on its way out, the kernel has no room for.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => return Ok(false),
                Err(error) => return Err(error.into()),
            }
            let mut heard = [0; 16];
            match socket.recv_from(&mut heard) {
                Ok((length, from)) => Ok(heard[..length] == *b"echo" && from.ip() == to),
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                    Ok(false)
                }
                Err(error) => Err(error.into()),
            }
        }),
    }
}

/// Fails unless `to` is reached by all of `ways`.
pub fn expect(from: &Namespace, to: IpAddr, ways: &[Way]) -> Result<()> {
    for way in ways {
        // The first packet may be lost while neighbours find each other.
        let deadline = Instant::now() + PATIENCE;
        while !is_reached(from, to, *way, Duration::from_secs(1))? {
            if Instant::now() > deadline {
                bail!("{to} is not reached by {way:?} from {}", from.name());
            }
        }
    }
    Ok(())
}

/// Fails if `to` is reached by any of `ways`.
pub fn expect_none(from: &Namespace, to: IpAddr, ways: &[Way]) -> Result<()> {
    for way in ways {
        if is_reached(from, to, *way, IN_VAIN)? {
            bail!("{to} is reached by {way:?} from {}", from.name());
        }
    }
    Ok(())
}

/// All ways at the port that policies allow.
pub const ALLOWED_WAYS: [Way; 3] = [Way::Tcp(ALLOWED), Way::Udp(ALLOWED), Way::Echo];
/// All ways.
pub const ALL_WAYS: [Way; 5] = [
    Way::Tcp(ALLOWED),
    Way::Udp(ALLOWED),
    Way::Echo,
    Way::Tcp(OTHER),
    Way::Udp(OTHER),
];

/// Both addresses of a neighbour.
pub fn addresses(neighbour: Neighbour) -> [IpAddr; 2] {
    [neighbour.ipv4(), neighbour.ipv6()]
}
