//! Who is compared: each decides about the same packets on a link of its own.

use std::{
    io::Write as _,
    net::{Ipv4Addr, SocketAddr},
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use enforcer_dataplane::{Config, DeniedBy, Kernel, Staying, XdpChoice, XdpReached};
use enforcer_model::{
    Action, PolicySet,
    flow::{Flow, Identity},
};

use super::{
    link::{INTERFACE, NODE, Pair},
    policies,
    traffic::{self, Column, FIRST_VERIFIED, PORT, VERIFIED, VERIFIED_PORT},
};
use crate::{
    kernel::{Attached, Program},
    netns::Namespace,
    workspace::Workspace,
};

/// Bytes of the sketch: the agent's default.
const SKETCH_BYTES: u64 = 4 << 20;
/// Sources that peers' tables have room for: all that are sent.
const TABLE: u32 = 1 << 22;

/// A row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Contender {
    /// A program that drops everything.
    Empty,
    /// Ours with one limit per source.
    OneLimit,
    /// Ours with access lists, services, denials, a management list and two limits.
    Everything,
    /// Ours with one limit, in generic mode.
    Generic,
    /// A meter at the netdev hook.
    Nftables,
    /// hashlimit in the raw table.
    Iptables,
}

impl Contender {
    pub(super) const ALL: [Self; 6] = [
        Self::Empty,
        Self::OneLimit,
        Self::Everything,
        Self::Generic,
        Self::Nftables,
        Self::Iptables,
    ];

    /// The empty program and those named; all if none is.
    pub(super) fn chosen(names: &[String]) -> Result<Vec<Self>> {
        for name in names {
            if !Self::ALL.iter().any(|contender| contender.key() == name) {
                let keys = Self::ALL.map(Self::key).join(", ");
                bail!("there is no row `{name}`: the rows are {keys}");
            }
        }
        let chosen = |contender: &Self| {
            names.is_empty() || *contender == Self::Empty || names.iter().any(|name| name == contender.key())
        };
        Ok(Self::ALL.into_iter().filter(chosen).collect())
    }

    /// What tables call it.
    pub(super) const fn title(self) -> &'static str {
        match self {
            Self::Empty => "empty XDP program, drops all",
            Self::OneLimit => "enforcer, one limit",
            Self::Everything => "enforcer, everything on",
            Self::Generic => "enforcer, one limit, generic XDP",
            Self::Nftables => "nftables, netdev ingress meter",
            Self::Iptables => "iptables-legacy, raw hashlimit",
        }
    }

    /// What files call it, and its namespaces.
    pub(super) const fn key(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::OneLimit => "one_limit",
            Self::Everything => "everything",
            Self::Generic => "generic",
            Self::Nftables => "nftables",
            Self::Iptables => "iptables",
        }
    }
}

/// The programs that the peers need.
pub(super) fn require_tools(contenders: &[Contender]) -> Result<()> {
    for (program, package, row) in [
        ("nft", "nftables", Contender::Nftables),
        ("iptables-legacy", "iptables", Contender::Iptables),
        ("ethtool", "ethtool", Contender::Generic),
        ("ethtool", "ethtool", Contender::Nftables),
        ("ethtool", "ethtool", Contender::Iptables),
    ] {
        if !contenders.contains(&row) {
            continue;
        }
        let started = Command::new(program)
            .arg("--version")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        if !started.is_ok_and(|status| status.success()) {
            bail!(
                "`{program}` is missing, and one of the rows needs it: install Debian's package `{package}`, \
                 or run `cargo xtask bench kernel`, which does"
            );
        }
    }
    Ok(())
}

/// A contender in place. Dropping it removes it.
pub(super) struct Standing {
    contender: Contender,
    // Before its namespaces, from which it detaches.
    _held: Held,
    pair: Pair,
}

/// What drops the packets.
enum Held {
    Program { _attached: Attached },
    Ours { _kernel: Box<Kernel> },
    Rules,
}

impl Standing {
    /// Puts a contender in place.
    ///
    /// # Errors
    /// If the kernel or a tool refuses.
    pub(super) fn new(contender: Contender) -> Result<Self> {
        let pair = Pair::create(contender.key())?;
        let held = match contender {
            Contender::Empty => Held::Program {
                _attached: Program::Drop.attach(&pair.node, INTERFACE)?,
            },
            Contender::OneLimit => ours(&pair, &policies::one_limit(), XdpChoice::Native)?,
            Contender::Everything => everything(&pair)?,
            Contender::Generic => {
                accept_frames(&pair)?;
                ours(&pair, &policies::one_limit(), XdpChoice::Generic)?
            }
            Contender::Nftables => {
                accept_frames(&pair)?;
                nftables(&pair.node)?
            }
            Contender::Iptables => {
                accept_frames(&pair)?;
                iptables(&pair.node)?
            }
        };
        Ok(Self {
            contender,
            _held: held,
            pair,
        })
    }

    /// Lets its tables see each source of a column once.
    ///
    /// # Errors
    /// If the kernel refuses to send.
    pub(super) fn warm(&self, column: Column) -> Result<()> {
        traffic::fill(&self.pair, column).with_context(|| self.contender.title())
    }

    /// Packets a second.
    ///
    /// # Errors
    /// If the kernel refuses to send, or packets are lost.
    pub(super) fn measure(&self, column: Column, each: Duration) -> Result<f64> {
        traffic::rate(&self.pair, column, each).with_context(|| self.contender.title())
    }
}

/// A veth without an XDP program takes frames that XDP sends only if it polls, as it does with GRO.
fn accept_frames(pair: &Pair) -> Result<()> {
    let status = pair
        .node
        .command("ethtool")?
        .args(["-K", INTERFACE, "gro", "on"])
        .stdout(Stdio::null())
        .status()?;
    if !status.success() {
        bail!("`ethtool -K {INTERFACE} gro on` failed ({status})");
    }
    Ok(())
}

fn load(management: &[&str], xdp: XdpChoice) -> Result<Kernel> {
    let config = Config {
        xdp,
        management: management
            .iter()
            .map(|prefix| prefix.parse())
            .collect::<Result<_, _>>()?,
        sketch_bytes: SKETCH_BYTES,
        max_flows: 65_536,
    };
    Ok(Kernel::load(&config, &Staying::NOT)?)
}

fn ours(pair: &Pair, policy: &str, xdp: XdpChoice) -> Result<Held> {
    attach(load(&[], xdp)?, pair, parse(policy)?, xdp)
}

fn everything(pair: &Pair) -> Result<Held> {
    let kernel = load(&["198.18.0.0/24"], XdpChoice::Native)?;
    let denied = "192.0.2.0/24".parse()?;
    kernel.denials.deny(
        denied,
        DeniedBy::Operator,
        "benchmark",
        Duration::from_secs(3600),
        Action::Drop,
    )?;
    let mut set = parse(&policies::everything())?;
    for policy in &mut set.packet_policies {
        if policy.name.as_str() == policies::ATTACKED {
            Arc::make_mut(policy).deny = policies::long_list()?;
        }
    }
    attach(kernel, pair, set, XdpChoice::Native)
}

/// Puts policies in force and enters the verified connections.
fn attach(mut kernel: Kernel, pair: &Pair, set: PolicySet, xdp: XdpChoice) -> Result<Held> {
    let set = Arc::new(set);
    for number in 0..VERIFIED {
        let peer = Ipv4Addr::from_bits(FIRST_VERIFIED.to_bits() + u32::from(number));
        let flow = Flow {
            peer: SocketAddr::from((peer, VERIFIED_PORT)),
            local: SocketAddr::from((NODE, PORT)),
        };
        let identity = Identity::Certificate(format!("spiffe://bench.example/{number}").into());
        kernel.flows.enter(flow, &identity)?;
    }
    let kernel = pair.node.run(move || {
        kernel.generations.apply(&set, &kernel.counters)?;
        Ok(kernel)
    })?;
    let wanted = match xdp {
        XdpChoice::Generic => XdpReached::Generic,
        XdpChoice::Auto | XdpChoice::Native => XdpReached::Native,
    };
    match &*kernel.generations.attached() {
        [attached] if attached.xdp == wanted => {}
        other => bail!(
            "the programs are not attached as they should be ({wanted}): {other:?}, {:?}",
            kernel.generations.failures()
        ),
    }
    Ok(Held::Ours {
        _kernel: Box::new(kernel),
    })
}

/// Policies as the agent loads them.
pub(super) fn parse(policy: &str) -> Result<PolicySet> {
    let folder = Workspace::create()?;
    let file = folder.write_policy("bench.yaml", policy)?;
    match enforcer_policy::load(&[file]) {
        Ok(loaded) => Ok(loaded.set),
        Err(problems) => bail!("the benchmark's own policy does not load: {problems}"),
    }
}

fn nftables(node: &Namespace) -> Result<Held> {
    let rules = format!(
        "table netdev bench {{\n\
           set sources {{ type ipv4_addr; size {TABLE}; flags dynamic; }}\n\
           chain ingress {{\n\
             type filter hook ingress device {INTERFACE} priority 0; policy accept;\n\
             update @sources {{ ip saddr limit rate over 1/hour burst 1 packets }} drop\n\
           }}\n\
         }}\n"
    );
    let mut child = node
        .command("nft")?
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .spawn()
        .context("`nft` did not start")?;
    if let Some(mut input) = child.stdin.take() {
        input.write_all(rules.as_bytes())?;
    }
    let status = child.wait()?;
    if !status.success() {
        bail!("nft refused the meter ({status}): its message is above");
    }
    Ok(Held::Rules)
}

fn iptables(node: &Namespace) -> Result<Held> {
    let table = TABLE.to_string();
    let status = node
        .command("iptables-legacy")?
        .args([
            "-t",
            "raw",
            "-A",
            "PREROUTING",
            "-i",
            INTERFACE,
            "-m",
            "hashlimit",
        ])
        .args(["--hashlimit-name", "bench", "--hashlimit-mode", "srcip"])
        .args(["--hashlimit-above", "1/hour", "--hashlimit-burst", "1"])
        .args([
            "--hashlimit-htable-size",
            &table,
            "--hashlimit-htable-max",
            &table,
        ])
        .args([
            "--hashlimit-htable-expire",
            "3600000",
            "--hashlimit-htable-gcinterval",
            "3600000",
        ])
        .args(["-j", "DROP"])
        .status()
        .context("`iptables-legacy` did not start")?;
    if !status.success() {
        bail!("iptables-legacy refused the rule ({status}): its message is above");
    }
    Ok(Held::Rules)
}
