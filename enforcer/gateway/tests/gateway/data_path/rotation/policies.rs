//! Policy files that are written again and again, some of them broken.

use std::{fmt, fs, net::SocketAddr, sync::Arc, time::Duration};

use enforcer_model::{CheckedBy, PolicySet};
use enforcer_policy::{Watch, watch::Outcome};
use tokio::sync::mpsc;

use super::ground::{Ground, SPIFFE, UPSTREAMS};
use crate::data_path::support::{in_time, pki::HOST};

/// How often the files are written.
const TIMES: usize = 50;

/// Every so many times the file is broken.
const BROKEN: usize = 5;

const BALANCES: [&str; 4] = ["least-request", "round-robin", "p2c", "{maglev: {header: x-id}}"];
const ALGORITHMS: [&str; 4] = ["token-bucket", "leaky-bucket", "fixed-window", "sliding-window"];
const KEYS: [&str; 3] = ["[source]", "[rule]", "[token.sub]"];

/// A policy file, one of many.
pub(super) struct Content {
    number: usize,
    upstreams: [SocketAddr; UPSTREAMS],
    issuer: SocketAddr,
}

impl Content {
    pub(super) fn first(upstreams: [SocketAddr; UPSTREAMS], issuer: SocketAddr) -> Self {
        Self {
            number: 0,
            upstreams,
            issuer,
        }
    }

    /// The `endpoints`: one, the other, both, both the other way round.
    fn endpoints(&self) -> String {
        let [one, other] = self.upstreams;
        match self.number % 4 {
            0 => format!("['http://{one}', 'http://{other}']"),
            1 => format!("['http://{one}']"),
            2 => format!("[{{url: 'http://{other}', weight: 3}}, 'http://{one}']"),
            _ => format!("['http://{other}']"),
        }
    }

    /// One of the ways in which a file is broken.
    fn broken(&self) -> String {
        let good = self.to_string();
        match self.number / BROKEN % 5 {
            0 => good[..good.len() / 2].to_owned() + "\n  [",
            1 => good.replace("service: calls", "service: nobody"),
            2 => good.replace("spec:", "spek:"),
            3 => good.replace("1000000/s", "1000000/fortnight"),
            _ => String::from_utf8_lossy(&[0xff, 0xfe, 0]).into_owned(),
        }
    }
}

impl fmt::Display for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { number, issuer, .. } = self;
        let endpoints = self.endpoints();
        let balance = BALANCES[number % BALANCES.len()];
        let algorithm = ALGORITHMS[number / 2 % ALGORITHMS.len()];
        let key = KEYS[number % KEYS.len()];
        let require = format!(
            "require: {{mtls: {{spiffe: ['{SPIFFE}']}}, token: {{issuer: corp, scopes: ['orders:read']}}}}"
        );
        for (name, protocol) in [("orders", "http1"), ("calls", "http2")] {
            write!(
                f,
                "apiVersion: enforcer.dev/v1
kind: Service
metadata: {{name: {name}}}
spec: {{endpoints: {endpoints}, balance: {balance}, protocol: {protocol}}}
---
"
            )?;
        }
        write!(
            f,
            "apiVersion: enforcer.dev/v1
kind: Issuer
metadata: {{name: corp}}
spec: {{issuer: 'https://idp.example.com', jwks: {{url: 'http://{issuer}/jwks'}}, audiences: orders, algorithms: ES256}}
---
apiVersion: enforcer.dev/v1
kind: Route
metadata: {{name: route-{route}}}
spec:
  hosts: [{HOST}]
  rules:
  - match: {{path: {{exact: /number/{number}}}}}
    require: {{anonymous: true}}
    redirect: {{path: {{replace: /}}, status: 308}}
  - match: {{path: {{prefix: /orders}}}}
    {require}
    limits: [{{per: {key}, algorithm: {algorithm}, rate: 1000000/s}}]
    service: orders
  - match: {{path: {{prefix: /calls}}}}
    {require}
    timeout: {timeout}s
    service: calls
",
            route = number % 3,
            timeout = 20 + number % 7,
        )
    }
}

/// The same, with an issuer whose keys are read each second, so that nobody need wait for long.
pub(super) fn impatient(mut set: PolicySet) -> PolicySet {
    for issuer in &mut set.issuers {
        if let CheckedBy::Keys(keys) = &mut Arc::make_mut(issuer).checked_by {
            keys.refresh = Duration::from_secs(1);
        }
    }
    set
}

/// The watched file.
pub(super) struct Files {
    outcomes: mpsc::Receiver<Outcome>,
    _watch: Watch,
}

impl Files {
    pub(super) fn watch(ground: &Ground) -> Self {
        let paths = vec![ground.policy.clone()];
        let known = enforcer_policy::load(&paths)
            .unwrap_or_else(|problems| panic!("{problems}"))
            .digest;
        let (sender, outcomes) = mpsc::channel(1);
        Self {
            outcomes,
            _watch: enforcer_policy::watch(paths, Some(known), sender).unwrap(),
        }
    }

    /// Writes the file, and puts in force what the watch makes of it, as the agent does.
    pub(super) async fn rewrite(&mut self, ground: &Ground) {
        let mut in_force = 0;
        for number in 1..=TIMES {
            let content = Content {
                number,
                ..Content::first(ground.addresses, ground.idp.address)
            };
            let is_broken = number % BROKEN == 0;
            let text = if is_broken {
                content.broken()
            } else {
                content.to_string()
            };
            let draft = ground.policy.with_extension("draft");
            fs::write(&draft, text).unwrap();
            fs::rename(&draft, &ground.policy).unwrap();
            match in_time("an outcome", self.outcomes.recv()).await.unwrap() {
                Ok(loaded) => {
                    assert!(!is_broken, "{number}");
                    ground.lab.policies.replace(impatient(loaded.set));
                    assert_eq!(ground.status(&format!("/number/{in_force}"), "").await, 404);
                    in_force = number;
                }
                Err(problems) => {
                    assert!(is_broken, "{number}: {problems}");
                    let problems = problems.to_string();
                    assert!(problems.contains("policy.yaml:"), "{number}: {problems}");
                }
            }
            assert_eq!(
                ground.status(&format!("/number/{in_force}"), "").await,
                308,
                "{number}"
            );
        }
        // What follows has both upstreams.
        let last = Content::first(ground.addresses, ground.idp.address).to_string();
        fs::write(&ground.policy, last).unwrap();
        let last = in_time("an outcome", self.outcomes.recv()).await.unwrap();
        let last = last.unwrap_or_else(|problems| panic!("{problems}"));
        ground.lab.policies.replace(impatient(last.set));
    }
}
