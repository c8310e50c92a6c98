//! The kernel half, seen from the agent: loading, attaching, and writing the maps. Nothing else in the
//! agent names aya.

mod access;
mod address;
mod attach;
mod clock;
mod compile;
mod control;
mod counters;
mod decision;
mod denials;
mod descriptors;
mod error;
mod events;
mod flows;
mod generation;
mod interfaces;
mod numbers;
mod object;
mod offline;
mod presence;
mod seats;
mod sketch;
mod store;
mod syn;

use std::sync::Arc;

use aya::Ebpf;
use enforcer_common::{
    layout::{Access, NO_POLICY, control_flag, table, table_kind},
    verdict::Reason,
};
use ipnet::IpNet;

pub use access::AccessMap;
pub use address::client_prefix;
pub use attach::{Attachment, TcReached, XdpChoice, XdpReached};
pub use clock::monotonic_ns;
pub use counters::{Count, Counters};
pub use decision::Decision;
pub use denials::{Denial, Denials, DeniedBy};
pub use descriptors::raise_descriptor_limit;
pub use error::KernelError;
pub use events::{Event, EventCounts, EventRate, Events, Seen};
pub use flows::{Flows, Full};
pub use generation::{Attached, Generations};
pub use interfaces::names as interface_names;
pub use offline::Offline;
pub use sketch::{Sketch, SourceState};
pub use store::Store;
pub use syn::{Need, Shortfall, Syn};

use self::{address::access_key, control::ControlBlock, object::Sizes, presence::Presence};

/// Events a second on each CPU, at most.
const EVENTS_PER_SECOND: u32 = 1_000;

/// What the kernel half needs to be told.
#[derive(Clone, Debug)]
pub struct Config {
    /// Which XDP mode is wanted.
    pub xdp: XdpChoice,
    /// Sources that are never dropped.
    pub management: Vec<IpNet>,
    /// Memory of the sketch in bytes: a power of two, at least 64.
    pub sketch_bytes: u64,
    /// Verified connections at once.
    pub max_flows: u32,
}

/// The kernel half, loaded. Dropping it detaches everything.
pub struct Kernel {
    /// Verified connections.
    pub flows: Arc<Flows>,
    /// Denials with a lifetime.
    pub denials: Denials,
    /// What has been decided.
    pub counters: Arc<Counters>,
    /// Limiter states of unknown sources.
    pub sketch: Arc<Sketch>,
    /// Samples of what is dropped, for one reader.
    pub events: Events,
    /// What became of those that it does not get.
    pub event_counts: EventCounts,
    /// SYN defence.
    pub syn: Syn,
    /// Programs, attachments and the tables of policies.
    pub generations: Generations,
}

impl Kernel {
    /// Loads the programs and fills what does not depend on policies. Nothing is attached yet.
    ///
    /// # Errors
    /// The kernel refuses: no permission, no memory, or the verifier.
    pub fn load(config: &Config) -> Result<Self, KernelError> {
        let sketch_lines = u32::try_from(config.sketch_bytes / 64).unwrap_or(u32::MAX);
        let sizes = Sizes {
            sketch_lines,
            max_flows: config.max_flows,
            injected_time: false,
            events: EventRate::PerSecond(EVENTS_PER_SECOND),
        };
        let mut ebpf = object::load(sizes)?;
        Parts::over(&mut ebpf, config, sketch_lines)?.finish(ebpf, config.xdp)
    }
}

/// What [`Kernel`] is made of before it owns the programs.
struct Parts {
    flows: Arc<Flows>,
    denials: Denials,
    counters: Arc<Counters>,
    sketch: Arc<Sketch>,
    syn: Syn,
    access: AccessMap,
}

impl Parts {
    fn over(ebpf: &mut Ebpf, config: &Config, sketch_lines: u32) -> Result<Self, KernelError> {
        let control = ControlBlock::new(object::take(ebpf, "CONTROL")?, sketch_lines)?;
        let presence = Presence::new(object::take(ebpf, "PRESENCE")?);
        let access = AccessMap::new(object::take(ebpf, "ACCESS")?, presence);
        let management = table(table_kind::MANAGEMENT, 0, 0);
        for prefix in &config.management {
            let entry = Access::new(u64::MAX, Reason::Management, NO_POLICY);
            access.insert(&access_key(management, *prefix), entry)?;
        }
        control.set_flag(control_flag::MANAGEMENT, !config.management.is_empty())?;
        let flows = Flows::new(
            object::take(ebpf, "FLOWS")?,
            object::take(ebpf, "BUDGETS")?,
            control.clone(),
            config.max_flows,
        );
        Ok(Self {
            flows: Arc::new(flows),
            denials: Denials::new(access.clone(), control.clone()),
            counters: Arc::new(Counters::new(object::take(ebpf, "COUNTERS")?)),
            syn: Syn::new(
                object::take(ebpf, "LOCAL")?,
                object::take(ebpf, "SYNS")?,
                control.clone(),
            ),
            sketch: Arc::new(Sketch::new(object::take(ebpf, "SKETCH")?, control)),
            access,
        })
    }

    fn finish(self, mut ebpf: Ebpf, xdp: XdpChoice) -> Result<Kernel, KernelError> {
        let Self {
            flows,
            denials,
            counters,
            sketch,
            syn,
            access,
        } = self;
        let events = Events::new(object::take(&mut ebpf, "EVENTS")?);
        let event_counts = EventCounts::new(object::take(&mut ebpf, "EVENT_GATES")?);
        let generations = Generations::new(ebpf, access, xdp)?;
        Ok(Kernel {
            flows,
            denials,
            counters,
            sketch,
            events,
            event_counts,
            syn,
            generations,
        })
    }
}
