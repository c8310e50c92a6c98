//! What a lab may have left behind.

use std::{
    fmt,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use crate::netns;

/// Where the agent pins its maps and links.
const PINS: &str = "/sys/fs/bpf";
const PIN_PREFIX: &str = "enforcer";
/// Names of the lab's and the agent's kernel programs begin with these.
const PROGRAM_PREFIXES: [&str; 2] = ["lab_", "enforcer"];

const POLL: Duration = Duration::from_millis(20);

/// Something that should be gone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Leftover {
    /// A network namespace.
    Namespace(String),
    /// One end of a veth pair in this namespace.
    Interface(String),
    /// An entry of bpffs.
    Pin(String),
    /// A loaded kernel program of the lab or the agent.
    Program { name: String, id: u32 },
    /// An interface of this namespace with an XDP program.
    Xdp(String),
    /// An interface of this namespace with the queueing discipline of TC programs.
    Qdisc(String),
}

impl fmt::Display for Leftover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Namespace(name) => write!(f, "namespace {name}: `ip netns delete {name}`"),
            Self::Interface(name) => write!(f, "interface {name}: `ip link delete {name}`"),
            Self::Pin(path) => write!(f, "pinned object {path}: `rm -r {path}`"),
            Self::Program { name, id } => {
                write!(
                    f,
                    "loaded program {name}: `bpftool prog show id {id}` says who holds it"
                )
            }
            Self::Xdp(interface) => {
                write!(f, "XDP program on {interface}: `ip link set {interface} xdp off`")
            }
            Self::Qdisc(interface) => {
                write!(
                    f,
                    "clsact on {interface}: `tc qdisc delete dev {interface} clsact`"
                )
            }
        }
    }
}

/// What is left of the labs whose namespaces' names begin with `prefix`, and in this namespace.
///
/// # Errors
/// If the kernel cannot be asked.
pub fn find(prefix: &str) -> Result<Vec<Leftover>> {
    let mut leftovers: Vec<Leftover> = netns::list(prefix)?
        .into_iter()
        .map(Leftover::Namespace)
        .collect();
    leftovers.extend(interfaces(prefix)?);
    leftovers.extend(qdiscs()?);
    leftovers.extend(pins(Path::new(PINS))?);
    leftovers.extend(programs());
    leftovers.sort();
    leftovers.dedup();
    Ok(leftovers)
}

/// Waits until [`find`] finds nothing but what was there `before`: the kernel takes namespaces and
/// programs apart in the background, and another agent may run on this machine.
///
/// # Errors
/// If something new is still there after `patience`: the message lists it.
pub fn wait_for_none(prefix: &str, before: &[Leftover], patience: Duration) -> Result<()> {
    let deadline = Instant::now() + patience;
    loop {
        let mut leftovers = find(prefix)?;
        leftovers.retain(|leftover| !before.contains(leftover));
        if leftovers.is_empty() {
            return Ok(());
        }
        if Instant::now() > deadline {
            let list: Vec<String> = leftovers.iter().map(ToString::to_string).collect();
            bail!("left behind:\n  {}", list.join("\n  "));
        }
        std::thread::sleep(POLL);
    }
}

fn interfaces(prefix: &str) -> Result<Vec<Leftover>> {
    let mut leftovers = Vec::new();
    for link in json("ip", &["-json", "-details", "link", "show"])? {
        let name = link["ifname"].as_str().unwrap_or_default();
        if name.starts_with(prefix) {
            leftovers.push(Leftover::Interface(name.to_owned()));
        }
        if link.get("xdp").is_some() {
            leftovers.push(Leftover::Xdp(name.to_owned()));
        }
    }
    Ok(leftovers)
}

fn qdiscs() -> Result<Vec<Leftover>> {
    let qdiscs = json("tc", &["-json", "qdisc", "show"])?;
    Ok(qdiscs
        .iter()
        .filter(|qdisc| qdisc["kind"] == "clsact")
        .map(|qdisc| Leftover::Qdisc(qdisc["dev"].as_str().unwrap_or("?").to_owned()))
        .collect())
}

fn pins(folder: &Path) -> Result<Vec<Leftover>> {
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.with_context(|| format!("cannot list {}", folder.display()))?,
    };
    let mut leftovers = Vec::new();
    for entry in entries {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(PIN_PREFIX) {
            leftovers.push(Leftover::Pin(entry.path().display().to_string()));
        }
    }
    Ok(leftovers)
}

fn programs() -> Vec<Leftover> {
    aya::programs::loaded_programs()
        // A program that ended between being listed and being asked is no leftover.
        .filter_map(Result::ok)
        .filter_map(|program| {
            Some(Leftover::Program {
                name: program.name_as_str()?.to_owned(),
                id: program.id(),
            })
        })
        .filter(|leftover| match leftover {
            Leftover::Program { name, .. } => PROGRAM_PREFIXES.iter().any(|prefix| name.starts_with(prefix)),
            _ => false,
        })
        .collect()
}

fn json(program: &str, arguments: &[&str]) -> Result<Vec<serde_json::Value>> {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .with_context(|| format!("`{program}` did not start; the lab needs iproute2"))?;
    serde_json::from_slice(&output.stdout)
        .with_context(|| format!("`{program} {}` gave no JSON", arguments.join(" ")))
}
