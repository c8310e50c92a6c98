//! What is attached to an interface, asked of the kernel and not of the agent.

use anyhow::{Context as _, Result};
use aya::programs::{SchedClassifier, TcAttachType, loaded_programs};
use lab::netns::Namespace;

/// `ip` calls the modes by number (`XDP_ATTACHED_DRV` and `XDP_ATTACHED_SKB` of `if_link.h`).
pub const NATIVE: u64 = 1;
pub const GENERIC: u64 = 2;

/// The programs on an interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hooks {
    /// Mode and program.
    pub xdp: Option<(u64, u32)>,
    /// Programs at TCX, on the way out.
    pub egress: Vec<u32>,
}

impl Hooks {
    /// Those of `interface` in `namespace`.
    pub fn of(namespace: &Namespace, interface: &str) -> Result<Self> {
        let output = namespace
            .command("ip")?
            .args(["-json", "-details", "link", "show", "dev", interface])
            .output()?;
        let links: serde_json::Value =
            serde_json::from_slice(&output.stdout).with_context(|| format!("no interface {interface}"))?;
        let xdp = &links[0]["xdp"];
        let xdp = xdp["mode"].as_u64().zip(xdp["prog"]["id"].as_u64());
        let egress = namespace.run(|| {
            let (_, programs) = SchedClassifier::query_tcx(interface, TcAttachType::Egress)?;
            Ok(programs.iter().map(aya::programs::ProgramInfo::id).collect())
        })?;
        Ok(Self {
            xdp: xdp
                .map(|(mode, id)| Ok((mode, u32::try_from(id)?)))
                .transpose()
                .map_err(|error: std::num::TryFromIntError| anyhow::Error::from(error))?,
            egress,
        })
    }

    /// Nothing is attached.
    pub fn is_empty(&self) -> bool {
        self.xdp.is_none() && self.egress.is_empty()
    }

    /// Whether any of the programs is still loaded.
    pub fn are_loaded(&self) -> bool {
        let ids: Vec<u32> = self
            .xdp
            .map(|(_, id)| id)
            .into_iter()
            .chain(self.egress.iter().copied())
            .collect();
        // A program that ended between being listed and being asked is not loaded.
        loaded_programs()
            .filter_map(Result::ok)
            .any(|program| ids.contains(&program.id()))
    }
}
