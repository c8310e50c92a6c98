//! The kernel half, seen from the agent: loading, attaching, and writing the maps. Nothing else in the
//! agent names aya.
#![forbid(unsafe_code)]

mod access;
mod address;
mod attach;
mod budgets;
mod clock;
mod compile;
mod control;
mod counters;
mod decision;
mod denials;
mod difference;
mod egress;
mod elements;
mod error;
mod events;
mod filter;
mod flows;
mod generation;
mod heartbeat;
mod log;
mod notes;
mod numbers;
mod object;
mod offline;
mod pins;
mod presence;
mod recents;
mod revoked;
mod seats;
mod sketch;
pub mod sockets;
mod store;
mod syn;
mod turns;
mod view;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use aya::Ebpf;
use enforcer_common::{
    layout::{Access, NO_POLICY, control_flag, table, table_kind, table_parts},
    verdict::Reason,
};
use enforcer_sys::{clock::tick_ns, interfaces};
use ipnet::IpNet;

pub use access::AccessMap;
pub use attach::{Attachment, TcReached, XdpChoice, XdpReached};
pub use counters::{Count, Counters};
pub use decision::Decision;
pub use denials::{Denial, Denials, DeniedBy, MAX_DENIALS};
pub use error::KernelError;
pub use events::{Event, EventCounts, EventRate, Events, Seen};
pub use flows::{Flows, Full};
pub use generation::{Attached, Generations};
pub use heartbeat::Heartbeat;
pub use log::KernelLog;
pub use offline::Offline;
pub use pins::PinsError;
pub use recents::Recents;
pub use revoked::Revoked;
pub use sketch::{Sketch, SourceState};
pub use store::{InForce, Store};
pub use syn::{Need, Syn};
pub use view::{Running, View};

use self::{
    address::{access_key, prefix},
    budgets::Budgets,
    control::ControlBlock,
    numbers::Numbers,
    object::{Inheritance, Sizes},
    pins::Pins,
    presence::Presence,
};

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

/// How the kernel half outlives the agent.
#[derive(Clone, Debug)]
pub struct Staying {
    /// Where links and maps are pinned: a folder on a BPF file system. `None`: nowhere.
    pub pins: Option<PathBuf>,
    /// How long limits hold without a sign of the agent. `None`: for ever.
    pub dead_man: Option<Duration>,
    /// Deny lists hold on when limits have lapsed.
    pub keeps_denials: bool,
    /// SYNs go on being answered with cookies when limits have lapsed.
    pub keeps_cookies: bool,
}

impl Staying {
    /// It ends with the agent: nothing is pinned, and nothing lapses.
    pub const NOT: Self = Self {
        pins: None,
        dead_man: None,
        keeps_denials: true,
        keeps_cookies: false,
    };
}

/// What became of what an earlier agent had left, and what will become of this one's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Where links and maps are pinned, or why they are not.
    pub pins: Result<PathBuf, String>,
    /// `None`: limiter states, counters and denials go on. Else why all began anew.
    pub fresh: Option<String>,
}

/// The kernel half, loaded. Dropping it detaches everything that is not pinned.
pub struct Kernel {
    /// Verified connections.
    pub flows: Arc<Flows>,
    /// Sources that were verified recently.
    pub recents: Arc<Recents>,
    /// Denials with a lifetime.
    pub denials: Denials,
    /// Revoked connections.
    pub revoked: Arc<Revoked>,
    /// What has been decided.
    pub counters: Arc<Counters>,
    /// Limiter states of unknown sources.
    pub sketch: Arc<Sketch>,
    /// The agent's sign of life.
    pub heartbeat: Heartbeat,
    /// Samples of what is dropped, for one reader.
    pub events: Events,
    /// What became of those that it does not get.
    pub event_counts: EventCounts,
    /// What the programs log, if the agent's log takes it in; for one reader.
    pub log: Option<KernelLog>,
    /// SYN defence.
    pub syn: Syn,
    /// Programs, attachments and the tables of policies.
    pub generations: Generations,
    /// What it began with.
    pub standing: Standing,
}

impl Kernel {
    /// Loads the programs and fills what does not depend on policies. Nothing is attached yet; what an
    /// earlier agent has left attached goes on until the first policies are applied.
    ///
    /// # Errors
    /// The kernel refuses: no permission, no memory, or the verifier. Another agent uses the same pins.
    pub fn load(config: &Config, staying: &Staying) -> Result<Self, KernelError> {
        let sketch_lines = u32::try_from(config.sketch_bytes / 64).unwrap_or(u32::MAX);
        let sizes = Sizes {
            sketch_lines,
            max_flows: config.max_flows,
            injected_time: false,
            tick_ns: tick_ns(),
            events: EventRate::PerSecond(EVENTS_PER_SECOND),
            debug_log: log::is_wanted(),
        };
        let pins = match staying.pins.as_deref().map(Pins::open) {
            None => Err("`kernel.pins` is off".to_owned()),
            Some(Err(error @ PinsError::InUse(_))) => return Err(error.into()),
            Some(Err(error)) => Err(error.to_string()),
            Some(Ok(pins)) => Ok(pins),
        };
        let (mut ebpf, inheritance) = match &pins {
            Ok(pins) => object::load_pinned(sizes, pins)?,
            Err(why) => (object::load(sizes)?, Inheritance::Fresh(why.clone())),
        };
        let (numbers, fresh) = match inheritance {
            Inheritance::Kept(numbers) => (numbers, None),
            Inheritance::Fresh(why) => (Numbers::default(), Some(why)),
        };
        let standing = Standing {
            pins: pins
                .as_ref()
                .map(|pins| pins.folder().to_owned())
                .map_err(Clone::clone),
            fresh,
        };
        standing.log();
        if sizes.tick_ns != 0 {
            clock::measure_origin(&mut ebpf)?;
        }
        let parts = Parts::over(&mut ebpf, config, sketch_lines, standing.fresh.is_none())?;
        let heartbeat = Heartbeat::new(parts.control.clone(), staying)?;
        Ok(Self {
            flows: parts.flows,
            recents: parts.recents,
            denials: parts.denials,
            revoked: parts.revoked,
            counters: parts.counters,
            sketch: parts.sketch,
            heartbeat,
            log: sizes.debug_log.then(|| KernelLog::new(&mut ebpf)).transpose()?,
            events: Events::new(object::take(&mut ebpf, "EVENTS")?),
            event_counts: EventCounts::new(object::take(&mut ebpf, "EVENT_GATES")?),
            syn: parts.syn,
            generations: Generations::new(
                ebpf,
                (parts.access, parts.budgets),
                config.xdp,
                pins.ok(),
                numbers,
            )?,
            standing,
        })
    }
}

impl Standing {
    fn log(&self) {
        match &self.pins {
            Ok(folder) => tracing::info!(
                pins = %folder.display(),
                state = if self.fresh.is_none() { "kept" } else { "fresh" },
                why = self.fresh,
                "links and maps are pinned"
            ),
            Err(why) => tracing::warn!(
                why,
                "nothing is pinned: when the agent ends, its limits end with it and their state is lost"
            ),
        }
    }
}

/// Detaches what agents have left attached, and removes all pins below `root`; whether there were any.
///
/// # Errors
/// An agent is running; the file system refuses.
pub fn detach_all(root: &Path) -> Result<bool, PinsError> {
    let mut found = false;
    let present = interfaces::list().map_err(|error| PinsError::Io {
        path: PathBuf::from("the list of interfaces"),
        error,
    })?;
    for interface in present {
        found |= filter::remove_all(&interface);
    }
    if !root.exists() {
        return Ok(found);
    }
    Pins::open(root)?.remove_all()?;
    Ok(true)
}

/// What [`Kernel`] is made of before it owns the programs.
struct Parts {
    flows: Arc<Flows>,
    recents: Arc<Recents>,
    budgets: Budgets,
    denials: Denials,
    revoked: Arc<Revoked>,
    counters: Arc<Counters>,
    sketch: Arc<Sketch>,
    syn: Syn,
    access: AccessMap,
    control: ControlBlock,
}

impl Parts {
    /// `kept`: the maps are an earlier agent's.
    fn over(ebpf: &mut Ebpf, config: &Config, sketch_lines: u32, kept: bool) -> Result<Self, KernelError> {
        let control = object::take(ebpf, "CONTROL")?;
        let control = if kept {
            ControlBlock::inherited(control)?
        } else {
            ControlBlock::new(control, sketch_lines)?
        };
        let presence = object::take(ebpf, "PRESENCE")?;
        let presence = if kept {
            Presence::inherited(presence)?
        } else {
            Presence::new(presence)
        };
        let access = AccessMap::new(object::take(ebpf, "ACCESS")?, presence);
        set_management(&access, &config.management)?;
        control.set_flag(control_flag::MANAGEMENT, !config.management.is_empty())?;
        let budgets = Budgets::new(object::take(ebpf, "BUDGETS")?);
        let flows = Flows::new(
            object::take(ebpf, "FLOWS")?,
            budgets.clone(),
            object::take(ebpf, "HOLDERS")?,
            control.clone(),
            config.max_flows,
        )?;
        let recents = Recents::new(
            object::take(ebpf, "RECENT")?,
            object::take(ebpf, "RECENT_BITS")?,
            object::take(ebpf, "RESERVES")?,
            control.clone(),
        )?;
        let denials = Denials::new(access.clone(), object::take(ebpf, "REASONS")?, control.clone())?;
        Ok(Self {
            flows: Arc::new(flows),
            recents: Arc::new(recents),
            budgets,
            denials,
            revoked: Arc::new(Revoked::new(object::take(ebpf, "REVOKED")?, control.clone())?),
            counters: Arc::new(Counters::new(
                object::take(ebpf, "COUNTERS")?,
                object::take(ebpf, "TRIED")?,
            )),
            syn: Syn::new(
                object::take(ebpf, "LOCAL")?,
                object::take(ebpf, "SYNS")?,
                control.clone(),
            ),
            sketch: Arc::new(Sketch::new(object::take(ebpf, "SKETCH")?, control.clone())),
            access,
            control,
        })
    }
}

/// Enters the sources that are never dropped, and takes out those that an earlier agent had.
fn set_management(access: &AccessMap, wanted: &[IpNet]) -> Result<(), KernelError> {
    let list = table(table_kind::MANAGEMENT, 0, 0);
    for net in wanted {
        let entry = Access::new(u64::MAX, Reason::Management, NO_POLICY);
        access.insert(&access_key(list, *net), entry)?;
    }
    for (key, _) in access.entries()? {
        let (kind, _) = table_parts(key.data().table);
        let stays = prefix(&key).is_some_and(|net| wanted.iter().any(|wanted| wanted.trunc() == net));
        if kind == table_kind::MANAGEMENT && !stays {
            access.remove(&key)?;
        }
    }
    Ok(())
}
