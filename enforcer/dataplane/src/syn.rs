//! SYN defence, seen from the agent: the sysctls that it needs, what this node's stack takes on in a
//! connection, and the node's own addresses. `docs/adr/0009-syn-cookies.md` says why.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use aya::maps::{HashMap, MapData, PerCpuArray};
use enforcer_common::layout::{Address, MAX_LOCAL, syn_option};
use enforcer_sys::{stack, sysctl::Shortfall};

use super::{KernelError, control::ControlBlock, elements::Elements as _};
use enforcer_supervision::sync::{Guard, Rank, Serial, system_call};
use enforcer_sys::sysctl::Borrowed;

/// How long what the stack takes on is believed: it follows the largest receive buffer, which an
/// operator may change.
const BELIEVED: Duration = Duration::from_secs(30);
/// How long the timestamps of answers stay readable after the last one: a round trip and more.
const GRACE: Duration = Duration::from_secs(2);

/// What the policies in force ask for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Need {
    /// Some policy has SYN defence, active or not, and is enforced.
    pub ready: bool,
    /// Some enforced policy answers SYNs now.
    pub answering: bool,
}

/// SYN defence's part of the kernel half. Dropping it gives sysctls their values back.
pub struct Syn {
    inner: Serial<Inner>,
    syns: PerCpuArray<MapData, u64>,
    control: ControlBlock,
}

struct Inner {
    local: HashMap<MapData, Address, u32>,
    addresses: BTreeSet<Address>,
    cookies: Borrowed,
    timestamps: Borrowed,
    options: Option<(u64, Instant)>,
    /// Answers went out until then.
    answered: Option<Instant>,
}

impl Syn {
    pub fn new(
        local: HashMap<MapData, Address, u32>,
        syns: PerCpuArray<MapData, u64>,
        control: ControlBlock,
    ) -> Self {
        let inner = Inner {
            local,
            addresses: BTreeSet::new(),
            cookies: Borrowed::cookies(),
            timestamps: Borrowed::timestamps(),
            options: None,
            answered: None,
        };
        Self {
            inner: Serial::new(Rank::Syn, inner),
            syns,
            control,
        }
    }

    /// SYNs that have come under a policy by number, while it is `auto`.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn arrived(&self, policy: u32) -> Result<u64, KernelError> {
        system_call("SYNS");
        let values = self.syns.get(&policy, 0).map_err(KernelError::map("SYNS"))?;
        Ok(values.iter().fold(0, |sum, value| sum.wrapping_add(*value)))
    }

    /// Brings the node into the state that is needed now; gives what is lacking.
    ///
    /// # Errors
    /// The kernel refuses a map.
    pub fn prepare(&self, need: Need) -> Result<Vec<Shortfall>, KernelError> {
        let mut inner = self.inner();
        let now = Instant::now();
        if need.answering {
            inner.answered = Some(now);
        }
        let in_flight = inner
            .answered
            .is_some_and(|last| now.duration_since(last) < GRACE);
        let mut shortfalls = Vec::new();
        shortfalls.extend(inner.timestamps.want(need.ready || in_flight));
        shortfalls.extend(inner.cookies.want(need.answering));
        if need.ready {
            inner.follow_addresses()?;
            self.follow_options(&mut inner, now)?;
        }
        Ok(shortfalls)
    }

    /// Gives sysctls their values back. Waits for answers that may still be on their way: their
    /// timestamps must be read as they were written.
    pub fn restore(&self) {
        let mut inner = self.inner();
        if let Some(last) = inner.answered.take() {
            std::thread::sleep(GRACE.saturating_sub(last.elapsed()));
        }
        inner.restore();
    }

    fn follow_options(&self, inner: &mut Inner, now: Instant) -> Result<(), KernelError> {
        let known = inner
            .options
            .filter(|(_, since)| now.duration_since(*since) < BELIEVED)
            .map(|(options, _)| options);
        let options = known.unwrap_or_else(|| {
            stack::options().unwrap_or_else(|error| {
                tracing::debug!(%error, "the stack's TCP options are not known");
                syn_option::NO_SCALE
            })
        });
        if known.is_none() {
            inner.options = Some((options, now));
        }
        let timestamps = if inner.timestamps.holds() {
            syn_option::TIMESTAMPS
        } else {
            0
        };
        if self.control.current().syn_options == options | timestamps {
            return Ok(());
        }
        self.control.set_syn_options(options | timestamps)
    }

    fn inner(&self) -> Guard<'_, Inner> {
        self.inner.lock()
    }
}

impl Inner {
    fn follow_addresses(&mut self) -> Result<(), KernelError> {
        let mut present: BTreeSet<Address> = stack::addresses();
        while present.len() > MAX_LOCAL as usize {
            present.pop_last();
        }
        for gone in self.addresses.difference(&present) {
            self.local.remove_if_present("LOCAL", gone)?;
        }
        for new in present.difference(&self.addresses) {
            self.local.put("LOCAL", new, &1)?;
        }
        self.addresses = present;
        Ok(())
    }

    fn restore(&mut self) {
        self.cookies.restore();
        self.timestamps.restore();
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.restore();
    }
}
