//! Generations of packet policies on the interfaces that there are.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use aya::Ebpf;
use enforcer_common::layout::{Interface as InterfaceEntry, interface_flag};
use time::OffsetDateTime;

use super::{
    AccessMap, Attachment, KernelError, TcReached, XdpChoice, XdpReached,
    attach::{attach, attach_pod, detach},
    budgets::Budgets,
    compile::{Moment, concerned, missing},
    counters::Counters,
    numbers::Numbers,
    pins::Pins,
    store::Store,
    view::View,
};
use enforcer_model::PolicySet;
use enforcer_sys::{
    clock::monotonic_ns,
    interfaces::{self, Interface},
};

/// An interface that refused the programs is tried again after this time.
const RETRY: Duration = Duration::from_secs(5);

/// The programs, where they are attached, and the tables that they read.
pub struct Generations {
    /// The tables.
    pub store: Store,
    ebpf: Ebpf,
    xdp: XdpChoice,
    pins: Option<Pins>,
    /// What earlier agents had pinned and this one does not need is gone.
    swept: bool,
    attached: BTreeMap<u32, (Interface, Attachment)>,
    failures: BTreeMap<String, String>,
    /// Interfaces that refused the programs, and when they were tried last.
    refused: Vec<Interface>,
    tried: Instant,
    /// The interfaces there were when the tables were last written.
    present: Vec<Interface>,
}

/// An interface that the programs are on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attached {
    /// Its name.
    pub interface: String,
    /// How XDP runs.
    pub xdp: XdpReached,
    /// How TC is attached.
    pub tc: TcReached,
    /// What its other end sends is judged.
    pub pod: bool,
}

impl Generations {
    /// Nothing attached by this agent, and nothing in force but what an earlier one has left.
    ///
    /// # Errors
    /// The object lacks a map.
    pub fn new(
        mut ebpf: Ebpf,
        (access, budgets): (AccessMap, Budgets),
        xdp: XdpChoice,
        pins: Option<Pins>,
        numbers: Numbers,
    ) -> Result<Self, KernelError> {
        let store = Store::new(&mut ebpf, access, budgets, numbers)?;
        Ok(Self {
            store,
            ebpf,
            xdp,
            pins,
            swept: false,
            attached: BTreeMap::new(),
            failures: BTreeMap::new(),
            refused: Vec::new(),
            tried: Instant::now(),
            present: Vec::new(),
        })
    }

    /// Puts `set` in force on the interfaces that there are. On an error the old one stays in force.
    /// An interface to which the programs cannot be attached is no error: see [`Self::failures`].
    ///
    /// # Errors
    /// A map is full or the kernel refuses.
    pub fn apply(&mut self, set: &Arc<PolicySet>, counters: &Counters) -> Result<(), KernelError> {
        let present = interfaces::list().unwrap_or_else(|error| {
            tracing::error!(%error, "the kernel does not list the interfaces; those known before are taken");
            self.present.clone()
        });
        let now = Moment {
            wall: OffsetDateTime::now_utc(),
            monotonic_ns: monotonic_ns(),
        };
        let staged = self.store.stage(set, &present, counters, now)?;
        let entries = self.store.replace(staged, &present)?;
        tracing::debug!(written = self.store.writes(), "tables written by difference");
        self.follow(&entries, &present);
        for name in missing(set, &present) {
            self.failures.entry(name).or_insert_with_key(|name| {
                tracing::warn!(
                    interface = name,
                    "a policy names this interface, which is not there: nothing is filtered on it until it comes"
                );
                "no such interface yet".to_owned()
            });
        }
        self.present = present;
        self.sweep()
    }

    /// Removes what was pinned and has not been taken over, once.
    fn sweep(&mut self) -> Result<(), KernelError> {
        if let Some(pins) = self.pins.as_ref().filter(|_| !self.swept) {
            let attachments = self.attached.values();
            let links: Vec<String> = attachments
                .flat_map(|(_, attachment)| attachment.pinned().map(str::to_owned))
                .collect();
            pins.sweep(&links)?;
            self.swept = true;
        }
        Ok(())
    }

    /// Follows interfaces that have come or gone; whether anything has changed. `gone`: indices of interfaces that have
    /// left this network namespace; what has such an index now is another one. Those that refused the programs
    /// are tried again, every `RETRY` at most.
    ///
    /// # Errors
    /// As for [`Self::apply`]; or the kernel does not list the interfaces, and all stays as it is.
    pub fn refresh(&mut self, gone: &BTreeSet<u32>, counters: &Counters) -> Result<bool, KernelError> {
        for index in gone {
            self.detach_lost(*index);
            self.present.retain(|interface| interface.index != *index);
        }
        let present = interfaces::list().map_err(KernelError::Interfaces)?;
        if present != self.present {
            let set = self.store.set();
            if concerned(&set, &present) != concerned(&set, &self.present) {
                self.apply(&set, counters)?;
                return Ok(true);
            }
            self.present = present;
        }
        if self.tried.elapsed() >= RETRY {
            self.tried = Instant::now();
            for interface in std::mem::take(&mut self.refused) {
                if !self.attached.contains_key(&interface.index) {
                    self.attach(&interface);
                }
                let judged = self.store.in_force().lock().judges_pod(interface.index);
                self.attach_pod(&interface, judged);
            }
        }
        Ok(false)
    }

    /// Lets go of an interface that is gone. One that was moved into another namespace takes programs along, which
    /// end here.
    fn detach_lost(&mut self, index: u32) {
        let Some((interface, attachment)) = self.attached.remove(&index) else {
            return;
        };
        match detach(&mut self.ebpf, &interface, attachment, self.pins.as_ref()) {
            Ok(()) => tracing::info!(interface = interface.name, "gone"),
            Err(error) => {
                tracing::debug!(interface = interface.name, %error, "gone, and its programs with it");
            }
        }
    }

    /// Detaches everything, and leaves no pin behind.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn detach(&mut self) -> Result<(), KernelError> {
        let mut result = Ok(());
        let pins = self.pins.as_ref();
        for (_, (interface, attachment)) in std::mem::take(&mut self.attached) {
            result = result.and(detach(&mut self.ebpf, &interface, attachment, pins));
        }
        if let Some(pins) = pins {
            pins.remove_all()?;
        }
        result
    }

    /// Whether what is attached stays so when this process ends.
    #[must_use]
    pub fn stays(&self) -> bool {
        self.pins.is_some()
    }

    /// What is in force now, for whoever asks later.
    #[must_use]
    pub fn view(&self) -> Arc<View> {
        let mut in_force = self.store.in_force().lock();
        in_force.reach(self.attached(), self.failures.clone());
        in_force.view()
    }

    /// Where the programs are.
    #[must_use]
    pub fn attached(&self) -> Vec<Attached> {
        self.attached
            .values()
            .map(|(interface, attachment)| Attached {
                interface: interface.name.clone(),
                xdp: attachment.xdp,
                tc: attachment.tc,
                pod: attachment.has_pod(),
            })
            .collect()
    }

    /// Interfaces where the programs should be and are not, and why.
    #[must_use]
    pub fn failures(&self) -> &BTreeMap<String, String> {
        &self.failures
    }

    /// Attaches to interfaces that are new, and detaches from those that no policy names. The tables are
    /// switched already: an attached program without an entry passes everything.
    fn follow(&mut self, entries: &BTreeMap<u32, InterfaceEntry>, present: &[Interface]) {
        self.failures.clear();
        self.refused.clear();
        self.tried = Instant::now();
        for interface in present {
            if let Some((known, _)) = self.attached.get_mut(&interface.index) {
                known.name.clone_from(&interface.name);
            }
            let Some(entry) = entries.get(&interface.index) else {
                continue;
            };
            if !self.attached.contains_key(&interface.index) {
                self.attach(interface);
            }
            self.attach_pod(interface, entry.flags & interface_flag::POD != 0);
        }
        let gone: Vec<u32> = self
            .attached
            .keys()
            .filter(|index| !entries.contains_key(index))
            .copied()
            .collect();
        for (interface, attachment) in gone.iter().filter_map(|index| self.attached.remove(index)) {
            match detach(&mut self.ebpf, &interface, attachment, self.pins.as_ref()) {
                Ok(()) => tracing::info!(interface = interface.name, "detached"),
                Err(error) => tracing::error!(interface = interface.name, %error, "not detached"),
            }
        }
    }

    /// Sees to it that what the other end sends is judged, or no longer.
    fn attach_pod(&mut self, interface: &Interface, wanted: bool) {
        let Some((_, attachment)) = self.attached.get_mut(&interface.index) else {
            return;
        };
        let had = attachment.has_pod();
        match attach_pod(&mut self.ebpf, interface, attachment, wanted, self.pins.as_ref()) {
            Ok(()) if had != wanted => {
                tracing::info!(
                    interface = interface.name,
                    wanted,
                    "what its other end sends is judged"
                );
            }
            Ok(()) => {}
            Err(error) => self.refuse(interface, &error),
        }
    }

    fn attach(&mut self, interface: &Interface) {
        match attach(&mut self.ebpf, interface, self.xdp, self.pins.as_ref()) {
            Ok(attachment) => {
                let Attachment { xdp, tc, .. } = &attachment;
                tracing::info!(interface = interface.name, %xdp, %tc, "attached");
                self.attached
                    .insert(interface.index, (interface.clone(), attachment));
                self.failures.remove(&interface.name);
            }
            Err(error) => self.refuse(interface, &error),
        }
    }

    fn refuse(&mut self, interface: &Interface, error: &KernelError) {
        let why = error.to_string();
        // Said once, however often it is tried.
        if self.failures.get(&interface.name) != Some(&why) {
            tracing::error!(
                interface = interface.name,
                error = why,
                "not attached; tried again"
            );
        }
        self.failures.insert(interface.name.clone(), why);
        self.refused.push(interface.clone());
    }
}
