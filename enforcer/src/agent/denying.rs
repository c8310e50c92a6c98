//! Denies sources whose authentication keeps failing.
//!
//! Workers only put a failure into a bounded queue. One thread counts and decides; a second one ends what a source that
//! was denied still has open, for all sources that wait at once. So a storm of failures costs a source one map entry,
//! one line in the log and one audit record for each time that it is denied, however often it fails.

use std::{
    collections::HashSet,
    io,
    net::IpAddr,
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    thread,
    time::Duration,
};

use arc_swap::ArcSwapOption;
use enforcer_common::limiter::ParamsError;
use ipnet::IpNet;
use prometheus::IntCounter;

use super::{denials::Order, state::Shared};
use crate::{
    adapt::failures::Failures,
    config::{AuthFailures, Ends},
};
use enforcer_dataplane::{DeniedBy, View, sockets};
use enforcer_model::{Action, Mode, PolicySet, address::client_prefix, flow::Flow};
use enforcer_supervision::Part;
use enforcer_sys::clock::monotonic_ns;

/// Failures that wait to be counted. More are not counted, and a metric says how many.
const WAITING: usize = 8_192;
/// Denied sources whose connections wait to be ended, at most.
const ENDING: usize = 4_096;
/// From one round of ending to the next at least: each looks through all connections.
const PAUSE: Duration = Duration::from_millis(100);

/// When a source is denied, and for how long.
#[derive(Debug)]
struct Rule {
    /// How often a source may fail.
    failures: Failures,
    /// How long it is denied if it fails more often.
    lasts: Duration,
}

/// Says that a part is there, how often at least.
const BEAT: Duration = Duration::from_secs(1);

/// Why nobody can be denied.
#[derive(Debug, thiserror::Error)]
pub enum DenierError {
    #[error("gateway.authFailures.rate: {0}")]
    Rate(#[from] ParamsError),
    #[error("no thread for automatic denials: {0}")]
    Thread(#[from] io::Error),
}

/// Who takes failures in, which can change while the agent runs.
#[derive(Debug, Default)]
pub struct Failing(ArcSwapOption<Denier>);

impl Failing {
    /// `None`: nobody is denied.
    pub fn new(denier: Option<Denier>) -> Self {
        Self(ArcSwapOption::from_pointee(denier))
    }

    /// From now on. What was counted so far is forgotten; who is denied stays so.
    pub fn set(&self, denier: Option<Denier>) {
        self.0.store(denier.map(Arc::new));
    }

    /// A credential from `source` was forged or guessed. Does not wait.
    pub fn failed(&self, source: IpAddr) {
        if let Some(denier) = self.0.load().as_deref() {
            denier.failed(source);
        }
    }
}

/// Takes failures in.
#[derive(Debug)]
pub struct Denier {
    queue: SyncSender<IpAddr>,
    /// Failures for which the queue had no room.
    uncounted: IntCounter,
}

/// Sources whose connections are to be ended.
#[derive(Debug, Default)]
struct Ending {
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    prefixes: HashSet<IpNet>,
    /// Nothing more comes.
    over: bool,
}

impl Denier {
    /// Starts both threads. They end when this is dropped.
    ///
    /// # Errors
    /// No limiter keeps the rate, or the system has no thread left.
    pub fn start(shared: &Arc<Shared>, limits: AuthFailures) -> Result<Self, DenierError> {
        let rule = Rule {
            failures: Failures::new(limits.rate)?,
            lasts: limits.deny_for,
        };
        let (queue, waiting) = sync_channel(WAITING);
        let ending = Arc::new(Ending::default());
        let (judge, end) = (Arc::clone(shared), Arc::clone(shared));
        let (from, ends) = (Arc::clone(&ending), limits.ends);
        thread::Builder::new().name("denials".to_owned()).spawn(move || {
            let part = judge.parts.part("denials");
            judge_all(&judge, rule, &waiting, &ending, &part);
            part.end();
        })?;
        thread::Builder::new()
            .name("denials-end".to_owned())
            .spawn(move || {
                let part = end.parts.part("denials-end");
                end_all(&end, ends, &from, &part);
                part.end();
            })?;
        Ok(Self {
            queue,
            uncounted: shared.metrics.failures_uncounted.clone(),
        })
    }

    /// A credential from `source` was forged or guessed. Does not wait.
    pub fn failed(&self, source: IpAddr) {
        if self.queue.try_send(source).is_err() {
            self.uncounted.inc();
        }
    }
}

fn judge_all(shared: &Shared, mut rule: Rule, failures: &Receiver<IpAddr>, ending: &Ending, part: &Part) {
    loop {
        part.beat();
        let source = match failures.recv_timeout(BEAT) {
            Ok(source) => source,
            Err(RecvTimeoutError::Timeout) => continue,
            Err(RecvTimeoutError::Disconnected) => break,
        };
        if source.to_canonical().is_loopback() || !rule.failures.record(source, monotonic_ns()) {
            continue;
        }
        if let Some(prefix) = deny(shared, source, rule.lasts)
            && enforces_everywhere(&shared.standing().kernel)
            && !ending.add(prefix)
        {
            shared.metrics.endings_skipped.inc();
        }
    }
    ending.close();
}

/// Denies the source, unless it is denied already or spared. What to end, if it was denied now.
fn deny(shared: &Shared, source: IpAddr, lasts: Duration) -> Option<IpNet> {
    let spared = |why: &str| shared.metrics.denials_spared.with_label_values(&[why]).inc();
    let Some(kernel) = &shared.kernel else {
        spared("kernel");
        return None;
    };
    let set = Arc::clone(&shared.standing().set);
    if !enforces(&set) {
        spared("shadow");
        return None;
    }
    let enough = monotonic_ns().saturating_add(u64::try_from(lasts.as_nanos() / 2).unwrap_or(u64::MAX));
    if kernel
        .denials
        .find(source)
        .is_some_and(|(_, denial)| denial.expires_ns > enough)
    {
        return None;
    }
    let prefix = client_prefix(source);
    // A client behind the same address has proved who it is, and must not suffer for its neighbour.
    if shared.is_client_verified(&prefix) {
        spared("verified-client");
        return None;
    }
    let order = Order {
        operator: None,
        reason: "authentication keeps failing".into(),
        lasts,
    };
    match shared.deny(prefix, DeniedBy::Authentication, &order, Action::Drop) {
        Ok(None) => {
            shared.metrics.denials.inc();
            Some(prefix)
        }
        Ok(Some(_)) => {
            spared("management");
            None
        }
        Err(error) => {
            spared("kernel");
            tracing::debug!(%source, %error, "not denied");
            None
        }
    }
}

/// Whether a denial would drop anything.
fn enforces(set: &PolicySet) -> bool {
    set.packet_policies
        .iter()
        .any(|policy| policy.mode == Mode::Enforce)
}

/// Whether a denial drops what comes, by whatever interface. Where policies only watch nothing is dropped, and so nothing is
/// ended and nobody refused either; and by which interface a connection came the gateway does not know.
pub(super) fn enforces_everywhere(view: &View) -> bool {
    let enforces = |interface: &str| {
        let about = view.set.packet_policies.iter();
        let mut about = about.filter(|policy| policy.interfaces.iter().any(|each| each.matches(interface)));
        about.any(|policy| policy.mode == Mode::Enforce)
    };
    view.attached.iter().all(|each| enforces(&each.interface))
}

fn end_all(shared: &Shared, ends: Ends, ending: &Ending, part: &Part) {
    while let Some(prefixes) = ending.take() {
        part.beat();
        if prefixes.is_empty() {
            continue;
        }
        let prefixes = Arc::new(prefixes);
        let own = match shared.revoker() {
            Some(revoker) => revoker.end_clients(&prefixes),
            None => Vec::new(),
        };
        tracing::debug!(
            sources = prefixes.len(),
            connections = own.len(),
            "connections of denied sources ended"
        );
        if ends == Ends::All {
            destroy(shared, &prefixes, &own.into_iter().collect());
        }
        thread::sleep(PAUSE);
    }
}

/// Destroys what other processes have open with the sources: one look through the node's sockets for all of them.
fn destroy(shared: &Shared, prefixes: &HashSet<IpNet>, except: &HashSet<Flow>) {
    let _turn = shared.destroying.blocking_lock();
    let is_theirs = |peer: IpAddr| prefixes.contains(&client_prefix(peer));
    match sockets::destroy_where(|flow| is_theirs(flow.peer.ip()), except) {
        Ok(destroyed) => {
            let metrics = &shared.metrics.sockets_destroyed;
            metrics.with_label_values(&["tcp"]).inc_by(destroyed.tcp as u64);
            metrics.with_label_values(&["udp"]).inc_by(destroyed.udp as u64);
        }
        Err(error) => tracing::debug!(shortfall = sockets::shortfall(&error), "after a denial"),
    }
}

impl Ending {
    /// Has the connections of `prefix` ended soon; whether there was room for it.
    fn add(&self, prefix: IpNet) -> bool {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.prefixes.len() >= ENDING && !waiting.prefixes.contains(&prefix) {
            return false;
        }
        waiting.prefixes.insert(prefix);
        drop(waiting);
        self.changed.notify_one();
        true
    }

    fn close(&self) {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).over = true;
        self.changed.notify_one();
    }

    /// Waits for prefixes for a [`BEAT`] at most and takes all of them. `None`: there will be no more.
    fn take(&self) -> Option<HashSet<IpNet>> {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let idle = |waiting: &mut Waiting| waiting.prefixes.is_empty() && !waiting.over;
        let (mut waiting, _) = self
            .changed
            .wait_timeout_while(waiting, BEAT, idle)
            .unwrap_or_else(PoisonError::into_inner);
        let taken = std::mem::take(&mut waiting.prefixes);
        (!taken.is_empty() || !waiting.over).then_some(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(n: u16) -> IpNet {
        let [a, b] = n.to_be_bytes();
        IpNet::from(IpAddr::from([10, 0, a, b]))
    }

    #[test]
    fn h3_sources_to_be_ended_are_taken_together_and_bounded() {
        let ending = Ending::default();
        for _ in 0..3 {
            for n in 0..100 {
                assert!(ending.add(prefix(n)));
            }
        }
        assert_eq!(ending.take().map(|taken| taken.len()), Some(100));
        let fits = (0..=ENDING).filter(|&n| ending.add(prefix(u16::try_from(n).unwrap())));
        assert_eq!(fits.count(), ENDING);
        assert!(ending.add(prefix(0)), "it waits already");
        ending.close();
        assert_eq!(ending.take().map(|taken| taken.len()), Some(ENDING));
        assert_eq!(ending.take(), None);
    }
}
