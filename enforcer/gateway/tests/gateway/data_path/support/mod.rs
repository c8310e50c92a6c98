//! A gateway with everything around it.

pub(crate) mod client;
pub(crate) mod corp;
pub(crate) mod origin;
pub(crate) mod pki;
pub(crate) mod policy;

use std::{
    collections::HashSet,
    future::Future,
    net::{IpAddr, SocketAddr},
    num::NonZeroUsize,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use enforcer_gateway::{
    Gateway,
    config::{
        GatewayConfig, HandshakeBudget, Handshakes, ListenerConfig, PerSource, ProxyProtocol, Timeouts,
    },
    policies::Policies,
    pressure::Shedding,
    signal::{Observer, Outcome, Verdict},
};
use enforcer_model::{
    PolicySet, Rate,
    flow::{Class, Flow, Identity},
};
use enforcer_telemetry::audit::{self, Audit, AuditThread, config::AuditConfig};
use enforcer_tls::config::{
    Authority, CertificateFiles, ClientCertificates, Depth, Revocation, TlsConfig, Unsure,
};
use prometheus::Registry;
use tokio::runtime::Handle;

use self::pki::Pki;

/// How long a condition may take to come true. Generous: the machine may be busy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A running gateway.
pub(crate) struct Lab {
    pub(crate) gateway: Gateway,
    /// What the gateway was started with.
    pub(crate) config: GatewayConfig,
    pub(crate) policies: Policies,
    pub(crate) recorder: Arc<Recorder>,
    pub(crate) audit: Option<AuditThread>,
    pub(crate) registry: Registry,
    pub(crate) address: SocketAddr,
    pub(crate) pki: Pki,
}

/// How a lab differs from the usual one: TLS without client certificates, two workers.
pub(crate) struct Plan {
    pub(crate) tls: bool,
    pub(crate) client_certificates: ClientCertificates,
    pub(crate) timeouts: Timeouts,
    pub(crate) workers: usize,
    pub(crate) max_connections: usize,
    pub(crate) audit: Option<AuditConfig>,
    pub(crate) zone: Option<Arc<str>>,
    pub(crate) max_per_source: usize,
    pub(crate) shedding: Shedding,
    pub(crate) handshakes: Option<HandshakeBudget>,
    /// Credentials of one source that are refused before more are not looked at.
    pub(crate) attempts: Option<Rate>,
    /// The listener's own.
    pub(crate) own_budget: Option<HandshakeBudget>,
    /// TLS handshakes at one time.
    pub(crate) concurrent: Option<usize>,
    /// Names of the files of the listener's certificates.
    pub(crate) certificates: Vec<&'static str>,
    /// With a revocation list in `crl.pem`: what becomes of unknown and of expired.
    pub(crate) unsure: Option<(Unsure, Unsure)>,
    /// Whose PROXY headers the listener believes.
    pub(crate) proxies: Option<Vec<&'static str>>,
    /// Who vouches for clients at each listener. Empty: the lab's authority, in `ca.pem`, for anybody.
    pub(crate) authorities: Vec<Vec<Authority>>,
    /// Where it listens. The first is the lab's address.
    pub(crate) listen: Vec<&'static str>,
    /// Writes further files, before the gateway reads them.
    pub(crate) prepare: fn(&Pki),
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            tls: true,
            client_certificates: ClientCertificates::Off,
            timeouts: Timeouts::default(),
            workers: 2,
            max_connections: 1000,
            audit: None,
            zone: None,
            max_per_source: 1000,
            shedding: Shedding::default(),
            handshakes: None,
            attempts: None,
            own_budget: None,
            concurrent: None,
            certificates: vec!["server"],
            unsure: None,
            proxies: None,
            authorities: Vec::new(),
            listen: vec!["127.0.0.1:0"],
            prepare: |_| (),
        }
    }
}

impl Plan {
    /// Starts it. Must be called in a runtime, which reads issuers' keys.
    pub(crate) fn start(self, set: PolicySet) -> Lab {
        let pki = Pki::new();
        (self.prepare)(&pki);
        let files = |name: &str| CertificateFiles {
            certificate: pki.path(&format!("{name}.pem")),
            key: pki.path(&format!("{name}.key")),
        };
        let tls = TlsConfig {
            certificates: self.certificates.iter().map(|name| files(name)).collect(),
            authorities: vec![Authority {
                id: None,
                file: pki.path("ca.pem"),
                bounds: None,
            }],
            client_certificates: self.client_certificates,
            revocation: self.unsure.map(|(unknown, expired)| Revocation {
                lists: vec![pki.path("crl.pem")],
                unknown,
                expired,
                depth: Depth::Chain,
            }),
        };
        let mut authorities = self.authorities.into_iter();
        let names = ["main", "second"].iter();
        let listeners = names.zip(&self.listen).map(|(name, address)| ListenerConfig {
            name: name.parse().unwrap(),
            address: address.parse().unwrap(),
            tls: self.tls.then(|| TlsConfig {
                authorities: authorities.next().unwrap_or_else(|| tls.authorities.clone()),
                ..tls.clone()
            }),
            proxy_protocol: self.proxies.as_ref().map(|proxies| ProxyProtocol {
                from: proxies.iter().map(|prefix| prefix.parse().unwrap()).collect(),
            }),
            handshakes: Handshakes {
                concurrent: self.concurrent.and_then(NonZeroUsize::new),
                per_source: self.own_budget,
            },
            timeouts: self.timeouts,
        });
        let config = GatewayConfig {
            workers: NonZeroUsize::new(self.workers).unwrap(),
            max_connections: NonZeroUsize::new(self.max_connections).unwrap(),
            zone: self.zone,
            shedding: self.shedding,
            per_source: PerSource {
                connections: NonZeroUsize::new(self.max_per_source).unwrap(),
                handshakes: self.handshakes,
                attempts: self.attempts,
            },
            drain: PATIENCE,
            listeners: listeners.collect(),
        };
        let policies = Policies::new(set, Handle::current());
        let recorder = Arc::new(Recorder::default());
        let observer: Arc<dyn Observer> = recorder.clone();
        let registry = Registry::new();
        let audit = self.audit.map(|config| {
            let (audit, thread) = audit::start(&config, &registry).unwrap();
            recorder.audit.set(audit).unwrap();
            thread
        });
        let gateway = Gateway::start(&config, &policies, &observer, &registry).unwrap();
        let address = gateway.addresses()[0].1;
        Lab {
            gateway,
            config,
            policies,
            recorder,
            audit,
            registry,
            address,
            pki,
        }
    }
}

impl Lab {
    /// Ends the audit log, so that all of it is in its file.
    pub(crate) fn end_audit(&mut self) {
        let audit = self.audit.take().expect("the lab has an audit log");
        assert!(
            audit.stop(Instant::now() + PATIENCE),
            "the audit log is written in time"
        );
    }

    /// All metrics, as they are scraped.
    pub(crate) fn metrics(&self) -> String {
        prometheus::TextEncoder::new()
            .encode_to_string(&self.registry.gather())
            .unwrap()
    }
}

/// Remembers what the gateway tells.
#[derive(Default)]
pub(crate) struct Recorder {
    audit: OnceLock<Audit>,
    pub(crate) state: Mutex<Recorded>,
    /// Keeps the worker busy for so many milliseconds at the end of each request.
    pub(crate) busy: AtomicU64,
}

#[derive(Default)]
pub(crate) struct Recorded {
    pub(crate) verified: Vec<(Flow, Identity)>,
    pub(crate) closed: Vec<Flow>,
    pub(crate) failed: Vec<IpAddr>,
    /// Load balancers behind which somebody failed.
    pub(crate) failed_behind: Vec<IpAddr>,
    /// Who may not connect through a load balancer.
    pub(crate) denied: Vec<IpAddr>,
    pub(crate) verdicts: Vec<(Verdict, u16)>,
    /// In step with `verdicts`.
    pub(crate) latencies: Vec<Option<Duration>>,
}

impl Recorder {
    pub(crate) fn look<T>(&self, at: impl FnOnce(&Recorded) -> T) -> T {
        at(&self.state.lock().unwrap())
    }

    /// Waits until each connection that was verified is closed, and checks that it is once.
    pub(crate) async fn all_closed(&self) {
        eventually("all verified connections are closed", async || {
            self.look(|seen| seen.verified.len() == seen.closed.len())
        })
        .await;
        self.look(|seen| {
            let verified: HashSet<_> = seen.verified.iter().map(|(flow, _)| *flow).collect();
            let closed: HashSet<_> = seen.closed.iter().copied().collect();
            assert_eq!(verified.len(), seen.verified.len(), "verified once");
            assert_eq!(closed.len(), seen.closed.len(), "closed once");
            assert_eq!(verified, closed);
        });
    }
}

impl Observer for Recorder {
    fn verified(&self, flow: Flow, identity: &Identity) -> Class {
        self.state.lock().unwrap().verified.push((flow, identity.clone()));
        Class::Verified
    }

    fn closed(&self, flow: Flow) {
        self.state.lock().unwrap().closed.push(flow);
    }

    fn authentication_failed(&self, source: IpAddr) {
        self.state.lock().unwrap().failed.push(source);
    }

    fn denied(&self, client: IpAddr) -> Option<Arc<str>> {
        let state = self.state.lock().unwrap();
        state.denied.contains(&client).then(|| "ticket 4711".into())
    }

    fn audit(&self) -> Option<&Audit> {
        self.audit.get()
    }

    fn authentication_failed_behind(&self, proxy: IpAddr) {
        self.state.lock().unwrap().failed_behind.push(proxy);
    }

    fn finished(&self, outcome: Outcome<'_>) {
        std::thread::sleep(Duration::from_millis(self.busy.load(Ordering::SeqCst)));
        let mut state = self.state.lock().unwrap();
        state.verdicts.push((outcome.verdict, outcome.status));
        state.latencies.push(outcome.latency);
    }
}

/// Asks again and again until the answer is yes.
pub(crate) async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let wait = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    assert!(
        tokio::time::timeout(PATIENCE, wait).await.is_ok(),
        "in {PATIENCE:?} not: {what}"
    );
}

/// The value, if it comes in time.
pub(crate) async fn in_time<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("took more than {PATIENCE:?}: {what}"),
    }
}
