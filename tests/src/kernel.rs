//! The lab's kernel programs: loading, attaching, reading what they counted.

use anyhow::{Context as _, Result, anyhow};
use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, MapData, PerCpuArray},
    programs::{Xdp, XdpMode},
};

use crate::netns::Namespace;

#[path = "../ebpf/src/layout.rs"]
mod layout;

pub(crate) use layout::{
    CHECKSUM_ICMPV6, CHECKSUM_NONE, CHECKSUM_TCP, CHECKSUM_UDP, HEADER_V4, HEADER_V6, Plan,
};

/// How many IPv4 sources [`Attached::sources`] can tell apart.
pub const SOURCES_SEEN: u32 = layout::SOURCES_SEEN;

static PROGRAMS: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/lab-ebpf"));

/// What an attached program does with each packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// Passes it. A veth peer needs any program to accept frames that XDP sends.
    Pass,
    /// Counts and passes it.
    Count,
    /// Counts and drops it.
    Sink,
    /// Drops it, and nothing else: no program can be faster.
    Drop,
}

/// A program on an interface. Dropping it detaches it.
#[derive(Debug)]
pub struct Attached {
    programs: Ebpf,
}

impl Program {
    const fn name(self) -> &'static str {
        match self {
            Self::Pass => "lab_pass",
            Self::Count => "lab_count",
            Self::Sink => "lab_sink",
            Self::Drop => "lab_drop",
        }
    }

    /// Attaches the program to an interface, in the driver.
    ///
    /// # Errors
    /// If the interface is missing, has a program already, or the verifier refuses.
    pub fn attach(self, namespace: &Namespace, interface: &str) -> Result<Attached> {
        let mut programs = load()?;
        namespace
            .run(|| {
                let program = program(&mut programs, self.name())?;
                program.attach(interface, XdpMode::Driver)?;
                Ok(())
            })
            .with_context(|| format!("cannot attach {} to {interface}", self.name()))?;
        Ok(Attached { programs })
    }
}

impl Attached {
    /// How many packets arrived.
    ///
    /// # Errors
    /// If the map cannot be read.
    pub fn packets(&self) -> Result<u64> {
        self.arrived(0)
    }

    /// How many of them were IPv4: no more than what somebody sent, for only IPv6 talks by itself.
    ///
    /// # Errors
    /// If the map cannot be read.
    pub fn ipv4_packets(&self) -> Result<u64> {
        self.arrived(1)
    }

    fn arrived(&self, which: u32) -> Result<u64> {
        let arrived: PerCpuArray<&MapData, u64> = PerCpuArray::try_from(self.map("ARRIVED")?)?;
        Ok(arrived.get(&which, 0)?.iter().sum())
    }

    /// How many IPv4 sources they came from, told apart by the last 22 bits: at most [`SOURCES_SEEN`].
    ///
    /// # Errors
    /// If the map cannot be read.
    pub fn sources(&self) -> Result<u64> {
        let seen: Array<&MapData, u64> = Array::try_from(self.map("SEEN")?)?;
        let mut sources = 0;
        for word in seen.iter() {
            sources += u64::from(word?.count_ones());
        }
        Ok(sources)
    }

    fn map(&self, name: &str) -> Result<&aya::maps::Map> {
        self.programs
            .map(name)
            .ok_or_else(|| anyhow!("the lab's programs have no map {name}"))
    }
}

pub(crate) fn load() -> Result<Ebpf> {
    EbpfLoader::new()
        .load(PROGRAMS)
        .context("cannot load the lab's kernel programs")
}

/// The program `name`, which is loaded already.
pub(crate) fn loaded<'a>(programs: &'a Ebpf, name: &str) -> Result<&'a Xdp> {
    let program = programs
        .program(name)
        .ok_or_else(|| anyhow!("the lab has no program {name}"))?;
    Ok(program.try_into()?)
}

/// Loads the program `name`.
pub(crate) fn program<'a>(programs: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp> {
    let program: &mut Xdp = programs
        .program_mut(name)
        .ok_or_else(|| anyhow!("the lab has no program {name}"))?
        .try_into()?;
    program
        .load()
        .with_context(|| format!("the kernel refuses {name}"))?;
    Ok(program)
}
