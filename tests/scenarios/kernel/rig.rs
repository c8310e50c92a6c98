//! The kernel programs on a bench: policies in, a packet in, and one counter must have moved.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    ops::{Deref, DerefMut},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use enforcer_common::{
    layout::Counter,
    verdict::{Direction, Reason, Verdict},
};
use enforcer_dataplane::{Config, Offline, XdpChoice};
use enforcer_model::flow::{Flow, Identity};
use lab::privilege::root_or_skip;
use time::OffsetDateTime;

/// The interface that all policies here are about.
pub const INTERFACE: &str = "bench0";

/// A second.
pub const SECOND: u64 = 1_000_000_000;

/// When a bench begins, on the injected clock: at the start of a window of every length used here.
pub const START: u64 = 1_000_000 * SECOND;

/// Which counter, and of which policy (`None`: of none).
pub type Place = (
    Option<&'static str>,
    &'static str,
    &'static str,
    &'static str,
    u32,
);

/// All counters that are not zero.
pub type Counts = BTreeMap<Place, Counter>;

/// One row of a table.
pub struct Case {
    pub description: &'static str,
    pub direction: Direction,
    /// Sent by the interface's other end, and judged as that one's egress.
    pub from_pod: bool,
    pub frame: Vec<u8>,
    /// As counted; what is counted as shadow passes.
    pub verdict: Verdict,
    pub reason: Reason,
    pub policy: Option<&'static str>,
}

impl Case {
    /// A packet that arrives, and what an enforced `policy` says of it.
    pub fn arrives(
        description: &'static str,
        frame: Vec<u8>,
        reason: Reason,
        policy: impl Into<Option<&'static str>>,
    ) -> Self {
        let verdict = if reason.drops() {
            Verdict::Drop
        } else {
            Verdict::Pass
        };
        Self {
            description,
            direction: Direction::Ingress,
            from_pod: false,
            frame,
            verdict,
            reason,
            policy: policy.into(),
        }
    }

    /// A packet that leaves.
    pub fn leaves(
        description: &'static str,
        frame: Vec<u8>,
        reason: Reason,
        policy: impl Into<Option<&'static str>>,
    ) -> Self {
        Self {
            direction: Direction::Egress,
            ..Self::arrives(description, frame, reason, policy)
        }
    }

    /// A packet that a pod sends, at the other end of the interface.
    pub fn leaves_pod(
        description: &'static str,
        frame: Vec<u8>,
        reason: Reason,
        policy: impl Into<Option<&'static str>>,
    ) -> Self {
        Self {
            from_pod: true,
            ..Self::leaves(description, frame, reason, policy)
        }
    }

    /// The same under a policy in shadow.
    pub fn in_shadow(mut self) -> Self {
        if self.verdict == Verdict::Drop {
            self.verdict = Verdict::Shadow;
        }
        self
    }

    /// Where the packet is to be counted.
    pub fn place(&self) -> Place {
        place(self.policy, self.direction, self.reason, self.verdict)
    }
}

/// A counter's place; the number tells limits apart, which have one name.
pub fn place(policy: Option<&'static str>, direction: Direction, reason: Reason, verdict: Verdict) -> Place {
    (
        policy,
        direction.name(),
        reason.name(),
        verdict.name(),
        reason as u32,
    )
}

/// Rigs that there have been.
static RIGS: AtomicUsize = AtomicUsize::new(0);

/// Rows of tables that have been run.
static CASES: AtomicUsize = AtomicUsize::new(0);

/// Loaded programs that nobody uses now: the verifier takes longer than most tests.
static IDLE: Mutex<Vec<Offline>> = Mutex::new(Vec::new());

/// Loaded programs, which the next test uses again.
pub struct Programs {
    loaded: Option<Offline>,
    entered: Vec<Flow>,
    /// There is no management list, and no source was verified.
    reusable: bool,
}

impl Programs {
    fn idle() -> Self {
        let idle = IDLE.lock().unwrap_or_else(PoisonError::into_inner).pop();
        match idle {
            Some(offline) => Self {
                loaded: Some(offline),
                entered: Vec::new(),
                reusable: true,
            },
            None => Self::load(&[]),
        }
    }

    fn load(management: &[&str]) -> Self {
        let config = Config {
            xdp: XdpChoice::Auto,
            management: management.iter().map(|prefix| prefix.parse().unwrap()).collect(),
            sketch_bytes: 1 << 20,
            max_flows: 64,
        };
        Self {
            loaded: Some(Offline::load(&config).unwrap()),
            entered: Vec::new(),
            reusable: management.is_empty(),
        }
    }
}

impl Deref for Programs {
    type Target = Offline;

    fn deref(&self) -> &Offline {
        self.loaded.as_ref().unwrap()
    }
}

impl DerefMut for Programs {
    fn deref_mut(&mut self) -> &mut Offline {
        self.loaded.as_mut().unwrap()
    }
}

impl Drop for Programs {
    /// A source that shares its cells with those of an earlier test would have less than the test expects.
    /// Other limiters are forgotten with their policies; of denials something might be left.
    fn drop(&mut self) {
        let Some(mut offline) = self.loaded.take() else {
            return;
        };
        if self.reusable && offline.denials.list().is_empty() && !thread::panicking() {
            offline.apply(&Arc::default(), INTERFACE, wall(), START).unwrap();
            for flow in &self.entered {
                offline.flows.leave(flow).unwrap();
            }
            offline.forget_sources().unwrap();
            IDLE.lock().unwrap_or_else(PoisonError::into_inner).push(offline);
        }
    }
}

/// The programs under some policies.
pub struct Rig {
    pub offline: Programs,
    policies: Vec<&'static str>,
    now_ns: u64,
    /// Tells its identities from those of other rigs.
    number: usize,
}

impl Rig {
    /// Loads the programs and puts `documents` in force. `None`: the machine does not allow it, which
    /// has been said.
    pub fn new(documents: &str) -> Option<Self> {
        Self::managed(documents, &[])
    }

    /// The same with a management list.
    pub fn managed(documents: &str, management: &[&str]) -> Option<Self> {
        if !root_or_skip() {
            return None;
        }
        let offline = if management.is_empty() {
            Programs::idle()
        } else {
            Programs::load(management)
        };
        let mut rig = Self {
            offline,
            policies: Vec::new(),
            now_ns: START,
            number: RIGS.fetch_add(1, Ordering::Relaxed),
        };
        rig.at(START);
        rig.apply(documents, START);
        Some(rig)
    }

    /// Puts other policies in force at `now_ns`. Policies are named once and leaked: tests end soon.
    pub fn apply(&mut self, documents: &str, now_ns: u64) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("policies.yaml");
        std::fs::write(&file, documents).unwrap();
        let loaded = enforcer_policy::load(&[file]).unwrap_or_else(|problems| panic!("{problems}"));
        for policy in &loaded.set.packet_policies {
            if !self.policies.contains(&policy.name.as_str()) {
                self.policies.push(String::leak(policy.name.to_string()));
            }
        }
        self.offline
            .apply(&Arc::new(loaded.set), INTERFACE, wall(), now_ns)
            .unwrap();
    }

    /// Sets the time that packets are told.
    pub fn at(&mut self, now_ns: u64) {
        self.now_ns = now_ns;
        self.offline.set_time(now_ns).unwrap();
    }

    /// Moves it on.
    pub fn later(&mut self, by: Duration) {
        self.at(self.now_ns + u64::try_from(by.as_nanos()).unwrap());
    }

    /// Programs that no other test uses: something of what happens to them is not forgotten.
    pub fn keep_to_itself(&mut self) {
        self.offline.reusable = false;
    }

    /// Enters a verified connection. An identity keeps its budget, so each rig has identities of its own.
    pub fn enter(&mut self, flow: Flow, identity: &str) {
        self.offline.entered.push(flow);
        let identity = Identity::Certificate(format!("{identity}-{}", self.number).into());
        assert_eq!(self.offline.flows.enter(flow, &identity).unwrap(), None);
    }

    /// Has a source been verified at `now_ns`. It stays remembered, so the programs are not used again.
    pub fn saw(&mut self, source: IpAddr, now_ns: u64) {
        self.offline.reusable = false;
        self.offline.recents.saw(source, now_ns).unwrap();
    }

    /// Whether a packet that arrives passes.
    pub fn passes(&mut self, frame: &[u8]) -> bool {
        self.offline.run(Direction::Ingress, frame).unwrap() == Verdict::Pass
    }

    /// How many of `count` equal packets that arrive pass.
    pub fn passing(&mut self, count: u32, frame: &[u8]) -> u32 {
        (0..count).map(|_| u32::from(self.passes(frame))).sum()
    }

    /// All counters of all policies that there have been.
    pub fn counts(&self) -> Counts {
        let names = self.policies.iter().copied().map(Some).chain([None]);
        let mut counts = Counts::new();
        for name in names {
            for count in self.offline.counts(name).unwrap() {
                if count.total != Counter::default() {
                    counts.insert(
                        place(name, count.direction, count.reason, count.verdict),
                        count.total,
                    );
                }
            }
        }
        counts
    }

    /// What policies in shadow would have done with packets that others decided about.
    pub fn tried(&self) -> Counts {
        let names = self.policies.iter().copied().map(Some).chain([None]);
        let mut counts = Counts::new();
        for name in names {
            for count in self.offline.tried_counts(name).unwrap() {
                if count.total != Counter::default() {
                    counts.insert(
                        place(name, count.direction, count.reason, count.verdict),
                        count.total,
                    );
                }
            }
        }
        counts
    }

    /// Runs one case. The complaint says what was decided and counted instead.
    pub fn complaint(&mut self, case: &Case) -> Option<String> {
        let before = self.counts();
        let verdict = if case.from_pod {
            self.offline.leave_pod(&case.frame).unwrap()
        } else {
            self.offline.run(case.direction, &case.frame).unwrap()
        };
        let moved = moved(&before, &self.counts());
        let expected = if case.verdict == Verdict::Drop {
            Verdict::Drop
        } else {
            Verdict::Pass
        };
        let one = Counter {
            packets: 1,
            bytes: case.frame.len() as u64,
        };
        if verdict == expected && moved == Counts::from([(case.place(), one)]) {
            return None;
        }
        let Case {
            description, frame, ..
        } = case;
        let place = case.place();
        Some(format!(
            "{description}: expected {expected:?}, counted once at {place:?}; was {verdict:?}, counted {moved:?}; {frame:02x?}"
        ))
    }

    /// Runs a table in order, and fails with all that is not as it says.
    pub fn check(&mut self, cases: &[Case]) {
        assert!(!cases.is_empty());
        let ran = CASES.fetch_add(cases.len(), Ordering::Relaxed) + cases.len();
        println!("{} cases, {ran} in this run so far", cases.len());
        let complaints: Vec<String> = cases.iter().filter_map(|case| self.complaint(case)).collect();
        assert!(
            complaints.is_empty(),
            "{} of {} cases:\n{}",
            complaints.len(),
            cases.len(),
            complaints.join("\n")
        );
    }
}

/// By how much each counter has moved, where it has.
pub fn moved(before: &Counts, after: &Counts) -> Counts {
    let difference = |(place, now): (&Place, &Counter)| {
        let then = before.get(place).copied().unwrap_or_default();
        let by = Counter {
            packets: now.packets - then.packets,
            bytes: now.bytes - then.bytes,
        };
        (by != Counter::default()).then_some((*place, by))
    };
    after.iter().filter_map(difference).collect()
}

/// The calendar's time at which policies come into force.
pub fn wall() -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(1_800_000_000).unwrap()
}

/// A packet policy's document: its name, its mode, and the rest of its `spec` in flow style or lines
/// indented by two.
pub fn document(name: &str, mode: &str, rest: &str) -> String {
    format!(
        "---\napiVersion: enforcer.dev/v1\nkind: PacketPolicy\nmetadata: {{name: {name}}}\nspec:\n  mode: {mode}\n  interfaces: [{INTERFACE}]\n{rest}\n"
    )
}

/// Runs a table under a policy that is enforced, and then under the same in shadow.
pub fn check_both(name: &str, rest: &str, cases: impl Fn() -> Vec<Case>) {
    let Some(mut rig) = Rig::new(&document(name, "enforce", rest)) else {
        return;
    };
    rig.check(&cases());
    let Some(mut rig) = Rig::new(&document(name, "shadow", rest)) else {
        return;
    };
    rig.check(&cases().into_iter().map(Case::in_shadow).collect::<Vec<_>>());
}
