//! Shadow only watches: for any set of policies, adding one in shadow changes no packet's fate.
//!
//! Random sets of policies, denials, connections and packets go through the programs twice, once without the policy
//! in shadow and once with it. What is remembered from one run is over by the next, which is hours later.
//!
//! `ENFORCER_FULL=1` tries ten thousand sets, and `ENFORCER_SETS=N` tries `N`.

mod sets;

use std::{
    collections::BTreeMap,
    env,
    net::{SocketAddr, TcpListener},
    sync::Arc,
    time::{Duration, Instant},
};

use enforcer_common::verdict::{Direction, Verdict};
use enforcer_dataplane::{Config, Need, Offline, XdpChoice};
use enforcer_model::{PolicySet, flow::Identity};
use lab::{netns::Namespace, privilege::root_or_skip, random::Random};

use self::sets::{Set, Way, random_set};
use crate::{
    packets::{NODE_V4, NODE_V6},
    rig::{INTERFACE, SECOND, wall},
};

const SETS: usize = 500;
const FULL: usize = 10_000;
const SEED: u64 = 20_261_201;
/// After this nothing of a run is remembered: limits are about minutes at most.
const APART: u64 = 2 * 3600 * SECOND;
/// Denials end by the real clock, and runs are ahead of it.
const FOR_LONG: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
/// How often a smaller counter-example is looked for.
const ATTEMPTS: usize = 400;

struct Bench {
    offline: Offline,
    now_ns: u64,
}

impl Bench {
    /// In a network namespace where the node's addresses are, and one listens for what SYN defence is about.
    fn new(now_ns: u64) -> Self {
        let config = Config {
            xdp: XdpChoice::Auto,
            management: vec![sets::MANAGEMENT.parse().unwrap()],
            sketch_bytes: 1 << 22,
            max_flows: 1024,
        };
        let offline = Offline::load(&config).unwrap();
        let need = Need {
            ready: true,
            answering: true,
        };
        offline.syn.prepare(need).unwrap();
        for flow in sets::revoked() {
            offline.revoked.revoke(flow, FOR_LONG).unwrap();
        }
        Self { offline, now_ns }
    }

    /// What becomes of each packet of the set.
    fn fates(&mut self, set: &Set, policies: &Arc<PolicySet>) -> Vec<Verdict> {
        self.now_ns += APART;
        let start_ns = self.now_ns;
        let offline = &mut self.offline;
        offline.set_time(start_ns).unwrap();
        offline.apply(policies, INTERFACE, wall(), start_ns).unwrap();
        for (prefix, by, action) in &set.denials {
            offline
                .denials
                .deny(*prefix, *by, "test", FOR_LONG, *action)
                .unwrap();
        }
        for (flow, identity) in &set.verified {
            let identity = Identity::Certificate(identity.as_str().into());
            offline.flows.enter(*flow, &identity).unwrap();
        }
        for source in &set.recent {
            offline.recents.saw(*source, start_ns).unwrap();
        }
        let alive_ns = set
            .agent_dies
            .map_or(u64::MAX, |after| start_ns + nanoseconds(after));
        offline.set_alive_until(alive_ns, set.keeps_denials).unwrap();
        offline.set_keeps_cookies(set.keeps_cookies).unwrap();
        let mut fates = Vec::new();
        for packet in &set.packets {
            self.now_ns += nanoseconds(packet.after);
            offline.set_time(self.now_ns).unwrap();
            let fate = match packet.way {
                Way::Arrives => offline.run(Direction::Ingress, &packet.frame),
                Way::Leaves => offline.run(Direction::Egress, &packet.frame),
                Way::LeavesPod => offline.leave_pod(&packet.frame),
            };
            fates.push(fate.unwrap());
        }
        for (prefix, ..) in &set.denials {
            offline.denials.allow(*prefix).unwrap();
        }
        for (flow, _) in &set.verified {
            offline.flows.leave(flow).unwrap();
        }
        fates
    }

    /// The fates without the trial and with it; `None`: the policies do not go together.
    fn both(&mut self, set: &Set) -> Option<(Vec<Verdict>, Vec<Verdict>)> {
        let (base, with) = (load(&set.base.concat())?, load(&set.with_trial())?);
        Some((self.fates(set, &base), self.fates(set, &with)))
    }

    fn differs(&mut self, set: &Set) -> bool {
        self.both(set).is_some_and(|(base, with)| base != with)
    }

    /// A smaller set that differs too.
    fn shrunk(&mut self, mut set: Set) -> Set {
        let mut attempts = 0;
        'smaller: while attempts < ATTEMPTS {
            for smaller in set.smaller() {
                attempts += 1;
                if self.differs(&smaller) {
                    set = smaller;
                    continue 'smaller;
                }
            }
            break;
        }
        set
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap()
}

/// `None`: they are refused.
fn load(documents: &str) -> Option<Arc<PolicySet>> {
    if documents.is_empty() {
        return Some(Arc::default());
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("policies.yaml");
    std::fs::write(&file, documents).unwrap();
    enforcer_policy::load(&[file])
        .ok()
        .map(|loaded| Arc::new(loaded.set))
}

fn wanted() -> usize {
    match env::var("ENFORCER_SETS") {
        Ok(count) => count.parse().unwrap(),
        Err(_) if env::var("ENFORCER_FULL").is_ok_and(|full| full == "1") => FULL,
        Err(_) => SETS,
    }
}

/// The injected clock begins at the real one, by which denials end.
fn begin() -> u64 {
    enforcer_sys::clock::monotonic_ns() + APART
}

fn shown(set: &Set, (base, with): &(Vec<Verdict>, Vec<Verdict>)) -> String {
    let mut text = format!("{set}");
    for (at, packet) in set.packets.iter().enumerate() {
        let differs = if base[at] == with[at] {
            ""
        } else {
            "   <-- differs"
        };
        text += &format!(
            "{:?} after {:?}: {:?}, with the trial {:?}{differs}\n    {}\n",
            packet.way, packet.after, base[at], with[at], packet
        );
    }
    text
}

/// Listens, once the kernel has made sure that nobody else has the address (RFC 4862, section 5.4).
fn listen(address: SocketAddr) -> TcpListener {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        match TcpListener::bind(address) {
            Ok(listener) => return listener,
            Err(error) if Instant::now() > deadline => panic!("cannot listen on {address}: {error}"),
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

fn search(sets: usize) {
    let listeners = [
        listen((NODE_V4, sets::LISTENING).into()),
        listen((NODE_V6, sets::LISTENING).into()),
    ];
    let mut bench = Bench::new(begin());
    let mut random = Random(SEED);
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let (mut tried, mut refused) = (0, 0);
    let started = Instant::now();
    while tried < sets {
        let set = random_set(&mut random, tried);
        let Some((base, with)) = bench.both(&set) else {
            refused += 1;
            assert!(refused < 1000 + 3 * tried, "hardly any set is accepted");
            continue;
        };
        tried += 1;
        for (packet, fate) in set.packets.iter().zip(&base) {
            *seen.entry(format!("{:?} {fate:?}", packet.way)).or_default() += 1;
        }
        if base == with {
            continue;
        }
        // Sources share the cells of a sketch by chance, and by which of them is another in each object.
        let mut other = Bench::new(bench.now_ns);
        if !other.differs(&set) {
            println!("set {tried} differs by the sketch's noise alone");
            continue;
        }
        let set = other.shrunk(set);
        let fates = other.both(&set).unwrap();
        panic!(
            "set {tried} of seed {SEED}: a policy in shadow changes a packet's fate\n{}",
            shown(&set, &fates)
        );
    }
    println!(
        "{tried} sets in {:.1} s, {refused} refused: {seen:?}",
        started.elapsed().as_secs_f64()
    );
    for fate in [
        "Arrives Pass",
        "Arrives Drop",
        "Arrives Reset",
        "Arrives Answer",
        "Leaves Pass",
        "Leaves Drop",
        "LeavesPod Drop",
    ] {
        assert!(
            seen.get(fate).is_some_and(|count| *count >= tried / 50),
            "{fate} hardly occurred: {seen:?}"
        );
    }
    drop(listeners);
}

#[test]
fn h2_a_policy_in_shadow_changes_no_packets_fate() {
    if !root_or_skip() {
        return;
    }
    let namespace =
        Namespace::create(&format!("{}{}-shadow", lab::netns::PREFIX, std::process::id())).unwrap();
    for address in [format!("{NODE_V4}/32"), format!("{NODE_V6}/128")] {
        namespace.ip(&["address", "add", &address, "dev", "lo"]).unwrap();
    }
    namespace
        .run(|| {
            search(wanted());
            Ok(())
        })
        .unwrap();
}

/// The search can fail: an enforced policy in the place of the trial changes fates.
#[test]
fn an_enforced_policy_does_change_fates() {
    if !root_or_skip() {
        return;
    }
    let mut bench = Bench::new(begin());
    let mut random = Random(SEED);
    let found = (0..200).any(|number| {
        let mut set = random_set(&mut random, number);
        set.trial = set.trial.replace("mode: shadow", "mode: enforce");
        bench.differs(&set)
    });
    assert!(found, "no enforced policy has changed anything");
}
