//! The kernel programs without any interface: packets are handed to them through
//! `BPF_PROG_TEST_RUN`, at a time that the caller says.

use std::{sync::Arc, time::Duration};

use aya::{
    Ebpf,
    programs::{TestRun as _, TestRunOptions},
};
use enforcer_common::{
    flow_memory::{CELLS, Line},
    layout::{FLOW_MEMORY_LINES, control_flag},
    verdict::{Direction, Verdict},
};
use time::OffsetDateTime;

use super::{
    Config, Count, Counters, Decision, Denials, EventCounts, EventRate, Events, Flows, KernelError, Parts,
    Recents, Revoked, Sketch,
    compile::Moment,
    control::ControlBlock,
    decision::carried_out,
    numbers::Numbers,
    object::{self, Array, Sizes},
    store::Store,
    syn::Syn,
};
use enforcer_model::PolicySet;
use enforcer_sys::interfaces::Interface;

/// The index of the loopback interface, from which test runs say that their packets come.
const LOOPBACK: u32 = 1;

/// Bytes that a program may add to a frame: the options of an answer to a SYN.
const GROWTH: usize = 64;

/// The programs, and the tables that they read.
pub struct Offline {
    /// Verified connections.
    pub flows: Arc<Flows>,
    /// Sources that were verified recently.
    pub recents: Arc<Recents>,
    /// Denials. They end by the real monotonic clock.
    pub denials: Denials,
    /// Revoked connections. They end by the real monotonic clock.
    pub revoked: Arc<Revoked>,
    /// What has been decided.
    pub counters: Arc<Counters>,
    /// SYN defence.
    pub syn: Syn,
    flow_memory: Array<Line>,
    sketch: Arc<Sketch>,
    /// The tables.
    pub store: Store,
    control: ControlBlock,
    /// What the programs tell.
    pub events: Events,
    /// What they do not tell.
    pub event_counts: EventCounts,
    ebpf: Ebpf,
    clock: Array<u64>,
    bare: bool,
}

impl Offline {
    /// Loads the programs.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn load(config: &Config) -> Result<Self, KernelError> {
        Self::with_events(config, EventRate::None)
    }

    /// Loads the programs, and has them tell of packets that are dropped.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn with_events(config: &Config, events: EventRate) -> Result<Self, KernelError> {
        let sketch_lines = u32::try_from(config.sketch_bytes / 64).unwrap_or(u32::MAX);
        let sizes = Sizes {
            sketch_lines,
            max_flows: config.max_flows,
            injected_time: true,
            tick_ns: 0,
            events,
            debug_log: false,
        };
        let mut ebpf = object::load(sizes)?;
        let Parts {
            flows,
            recents,
            budgets,
            denials,
            revoked,
            counters,
            access,
            control,
            syn,
            sketch,
            ..
        } = Parts::over(&mut ebpf, config, sketch_lines, false)?;
        let store = Store::new(&mut ebpf, access, budgets, Numbers::default())?;
        let clock = object::take(&mut ebpf, "CLOCK")?;
        let flow_memory = object::take(&mut ebpf, "FLOW_MEMORY")?;
        let events = Events::new(object::take(&mut ebpf, "EVENTS")?);
        let event_counts = EventCounts::new(object::take(&mut ebpf, "EVENT_GATES")?);
        Ok(Self {
            flows,
            recents,
            denials,
            revoked,
            counters,
            syn,
            flow_memory,
            sketch,
            store,
            control,
            events,
            event_counts,
            ebpf,
            clock,
            bare: false,
        })
    }

    /// Says whether packets begin with the IP header, as on a device without an Ethernet header. Holds from the next
    /// [`Self::apply`] on.
    pub fn set_bare(&mut self, bare: bool) {
        self.bare = bare;
    }

    /// Puts policies in force, as if all packets came through `interface`.
    ///
    /// # Errors
    /// A map is full or the kernel refuses.
    pub fn apply(
        &mut self,
        set: &Arc<PolicySet>,
        interface: &str,
        wall: OffsetDateTime,
        now_ns: u64,
    ) -> Result<(), KernelError> {
        let present = [Interface {
            name: interface.to_owned(),
            index: LOOPBACK,
            is_bare: self.bare,
        }];
        let now = Moment {
            wall,
            monotonic_ns: now_ns,
        };
        let staged = self.store.stage(set, &present, &self.counters, now)?;
        self.store.replace(staged, &present)?;
        Ok(())
    }

    /// Sets the time that packets are told, in nanoseconds of the monotonic clock.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn set_time(&mut self, now_ns: u64) -> Result<(), KernelError> {
        self.clock.set(0, now_ns, 0).map_err(KernelError::map("CLOCK"))
    }

    /// Sets until when, on the injected clock, the agent counts as alive (`u64::MAX`: for ever, as it is at
    /// first), and whether deny lists then hold on.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn set_alive_until(&mut self, moment_ns: u64, keeps_denials: bool) -> Result<(), KernelError> {
        self.control
            .set_flag(control_flag::DENIALS_LAPSE, !keeps_denials)?;
        self.control.alive_until(moment_ns)
    }

    /// Sets whether SYNs go on being answered with cookies once the agent no longer counts as alive.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn set_keeps_cookies(&mut self, keeps: bool) -> Result<(), KernelError> {
        self.control.set_flag(control_flag::COOKIES_HOLD, keeps)
    }

    /// Hands `frame` to the program of its direction. A frame that goes on in shadow passes.
    ///
    /// # Errors
    /// The kernel refuses the run: frames are at least 14 bytes long, and such as leave have a byte behind
    /// that (a whole IP header if their type says so).
    pub fn run(&mut self, direction: Direction, frame: &[u8]) -> Result<Verdict, KernelError> {
        self.run_often(direction, frame, 1).map(|(verdict, _)| verdict)
    }

    /// Hands `frame` to the ingress program: the verdict, and the frame as the program leaves it.
    ///
    /// # Errors
    /// As for [`Self::run`].
    pub fn arrive(&mut self, frame: &[u8]) -> Result<(Verdict, Vec<u8>), KernelError> {
        let mut left = vec![0; frame.len() + GROWTH];
        let options = TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut left),
            ..TestRunOptions::default()
        };
        let run = object::xdp(&mut self.ebpf, object::XDP)?
            .test_run(options)
            .map_err(|error| KernelError::TestRun(Box::new(error)))?;
        left.truncate(run.data_size_out as usize);
        let decision = Decision::from_number(Direction::Ingress, run.return_value)?;
        Ok((carried_out(decision.verdict), left))
    }

    /// Hands `frame` to the program for what an interface's other end sends, as if a pod had sent it. A frame
    /// that goes on in shadow passes.
    ///
    /// # Errors
    /// As for [`Self::run`].
    pub fn leave_pod(&mut self, frame: &[u8]) -> Result<Verdict, KernelError> {
        let options = TestRunOptions {
            data_in: Some(frame),
            ..TestRunOptions::default()
        };
        let run = object::tc(&mut self.ebpf, object::TC_INGRESS)?
            .test_run(options)
            .map_err(|error| KernelError::TestRun(Box::new(error)))?;
        let decision = Decision::from_number(Direction::Egress, run.return_value)?;
        Ok(carried_out(decision.verdict))
    }

    /// Forgets who spoke first.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn forget_flows(&mut self) -> Result<(), KernelError> {
        (0..FLOW_MEMORY_LINES).try_for_each(|line| {
            self.flow_memory
                .set(line, Line { cells: [0; CELLS] }, 0)
                .map_err(KernelError::map("FLOW_MEMORY"))
        })
    }

    /// Forgets what sources have used.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn forget_sources(&self) -> Result<(), KernelError> {
        self.sketch.forget()
    }

    /// Hands `frame` over `repeat` times: the last verdict, and how long each took on average.
    ///
    /// # Errors
    /// As for [`Self::run`].
    pub fn run_often(
        &mut self,
        direction: Direction,
        frame: &[u8],
        repeat: u32,
    ) -> Result<(Verdict, Duration), KernelError> {
        let (decision, each) = self.test_run(direction, frame, repeat)?;
        Ok((carried_out(decision.verdict), each))
    }

    /// Hands `frame` to the program of its direction: the verdict with its policy and reason.
    ///
    /// # Errors
    /// As for [`Self::run`].
    pub fn decide(&mut self, direction: Direction, frame: &[u8]) -> Result<Decision, KernelError> {
        self.test_run(direction, frame, 1).map(|(decision, _)| decision)
    }

    fn test_run(
        &mut self,
        direction: Direction,
        frame: &[u8],
        repeat: u32,
    ) -> Result<(Decision, Duration), KernelError> {
        let options = || TestRunOptions {
            data_in: Some(frame),
            repeat,
            ..TestRunOptions::default()
        };
        let run = match direction {
            Direction::Ingress => object::xdp(&mut self.ebpf, object::XDP)?.test_run(options()),
            Direction::Egress => object::tc(&mut self.ebpf, object::TC_EGRESS)?.test_run(options()),
        };
        let run = run.map_err(|error| KernelError::TestRun(Box::new(error)))?;
        Ok((Decision::from_number(direction, run.return_value)?, run.duration))
    }

    /// All counters of a policy by name, or of packets that no policy is about.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn counts(&self, policy: Option<&str>) -> Result<Vec<Count>, KernelError> {
        let number = self.number(policy);
        number.map_or(Ok(Vec::new()), |number| self.counters.of_policy(number))
    }

    /// What a policy in shadow would have done with packets that others decide about, by name, or what nothing but
    /// shadow has let pass that no policy is about.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn tried_counts(&self, policy: Option<&str>) -> Result<Vec<Count>, KernelError> {
        let number = self.number(policy);
        number.map_or(Ok(Vec::new()), |number| self.counters.tried_of_policy(number))
    }

    fn number(&self, policy: Option<&str>) -> Option<u32> {
        let Some(policy) = policy else {
            return Some(enforcer_common::layout::NO_POLICY);
        };
        let mut numbered = self.store.numbered();
        let found = numbered.find(|(name, _)| name.as_str() == policy);
        found.map(|(_, number)| number)
    }
}

impl Offline {
    /// Instructions that the verifier looked at, of each program.
    ///
    /// # Errors
    /// The kernel does not say.
    pub fn verified_instructions(&mut self) -> Result<[(&'static str, u32); 3], KernelError> {
        let count = |info: Result<aya::programs::ProgramInfo, aya::programs::ProgramError>| {
            info.map(|info| info.verified_instruction_count().unwrap_or(0))
                .map_err(|error| KernelError::TestRun(Box::new(error)))
        };
        Ok([
            (
                object::XDP,
                count(object::xdp(&mut self.ebpf, object::XDP)?.info())?,
            ),
            (
                object::TC_EGRESS,
                count(object::tc(&mut self.ebpf, object::TC_EGRESS)?.info())?,
            ),
            (
                object::TC_INGRESS,
                count(object::tc(&mut self.ebpf, object::TC_INGRESS)?.info())?,
            ),
        ])
    }
}
