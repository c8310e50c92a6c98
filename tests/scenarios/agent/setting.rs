//! What the agents of the scenarios are configured with, beside what each scenario is about.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use lab::{
    agent::Agent,
    client::{Answer, Ask, Client, Connection},
    demo::{
        policies::{AUDIENCE, HOST, ISSUER, PORT, SCOPE},
        screen::Screen,
        setup::{CLIENT_ID, Plan, Stage, jwks_address, upstream_addresses},
    },
    netns::Namespace,
    privilege::root_or_skip,
    resident::Resident,
};
use serde_json::Value;

/// How long scenarios wait for what should happen soon.
pub const PATIENCE: Duration = Duration::from_secs(15);
/// How often they look.
pub const POLL: Duration = Duration::from_millis(20);
/// The packet policy's file.
pub const EDGE: &str = "edge.yaml";
/// The gateway's file.
pub const GATEWAY: &str = "gateway.yaml";
/// With a certificate and a token.
pub const ORDERS: &str = "/v1/orders/7";
/// With a token.
pub const BY_TOKEN: &str = "/v1/by-token";
/// For everybody.
pub const OPEN: &str = "/v1/open";
/// With a certificate and a token, [`REPORTS_PER_MINUTE`] times.
pub const REPORTS: &str = "/v1/reports/daily";
/// The limit of [`REPORTS`].
pub const REPORTS_PER_MINUTE: u64 = 5;

/// The parts of the configuration that differ between scenarios. All of them are YAML.
pub struct Setting {
    /// `clientCertificates`
    pub certificates: &'static str,
    pub xdp: &'static str,
    pub management: String,
    pub auth_failures: &'static str,
    pub adapt: &'static str,
    pub drain: &'static str,
    /// The service's `health`.
    pub health: &'static str,
    /// The packet policies.
    pub edge: String,
}

impl Default for Setting {
    fn default() -> Self {
        Self {
            certificates: "required",
            xdp: "auto",
            management: "[]".to_owned(),
            auth_failures: "{rate: 1000/m, denyFor: 5m}",
            adapt: "{interval: 200ms, latency: 5s}",
            drain: "5s",
            health: "{path: /healthz, interval: 1s}",
            edge: packet_policy(
                "edge",
                "interfaces: [to-client, to-attacker]\n  ports: [tcp/8443]",
            ),
        }
    }
}

impl Setting {
    /// Makes the stage, unless this process is not root.
    pub fn stage(&self) -> Result<Option<Stage>> {
        if !root_or_skip() {
            return Ok(None);
        }
        Stage::build(&Screen::default(), &self.plan()).map(Some)
    }

    /// The files.
    pub fn plan(&self) -> Plan {
        Plan {
            config: self.config(),
            policies: BTreeMap::from([
                (EDGE.to_owned(), self.edge.clone()),
                (GATEWAY.to_owned(), gateway(self.health, REPORTS_PER_MINUTE)),
            ]),
        }
    }

    fn config(&self) -> String {
        let Self {
            certificates,
            xdp,
            management,
            auth_failures,
            adapt,
            drain,
            ..
        } = self;
        format!(
            r#"policies: [policies]
admin: {{address: 127.0.0.1:9600}}
runtimeDir: run
log: {{level: info, format: json}}
kernel: {{xdp: {xdp}, management: {management}, sketchMemory: 1MiB, maxFlows: 4096, pins: off}}
gateway:
  workers: 2
  drain: {drain}
  listeners:
    - name: edge
      address: "[::]:{PORT}"
      tls: {{certificate: server.pem, key: server-key.pem, clientCa: ca.pem, clientCertificates: {certificates}}}
  authFailures: {auth_failures}
adapt: {adapt}
"#
        )
    }
}

/// A packet policy with this `spec`, indented by two.
pub fn packet_policy(name: &str, spec: &str) -> String {
    format!("apiVersion: enforcer.dev/v1\nkind: PacketPolicy\nmetadata: {{name: {name}}}\nspec:\n  {spec}\n")
}

/// The issuer, the service and the route.
pub fn gateway(health: &str, reports_per_minute: u64) -> String {
    let [a, b] = upstream_addresses();
    let jwks = jwks_address();
    let token = format!(r#"token: {{issuer: lab, scopes: ["{SCOPE}"]}}"#);
    let both = format!(r#"mtls: {{spiffe: ["spiffe://lab.example/ns/shop/sa/*"]}}, {token}"#);
    format!(
        r#"apiVersion: enforcer.dev/v1
kind: Issuer
metadata: {{name: lab}}
spec:
  issuer: {ISSUER}
  jwks: {{url: "http://{jwks}/jwks", refresh: 10m}}
  audiences: [{AUDIENCE}]
  algorithms: [ES256]
---
apiVersion: enforcer.dev/v1
kind: Service
metadata: {{name: orders}}
spec:
  endpoints: ["http://{a}", "http://{b}"]
  health: {health}
---
apiVersion: enforcer.dev/v1
kind: Route
metadata: {{name: orders}}
spec:
  hosts: [{HOST}]
  rules:
    - match: {{path: {{prefix: /v1/reports}}, methods: [GET]}}
      require: {{{both}}}
      limits:
        - {{name: reports, per: [token.sub], algorithm: sliding-window, rate: {reports_per_minute}/m}}
      service: orders
    - match: {{path: {{prefix: /v1/orders}}, methods: [GET]}}
      require: {{{both}}}
      service: orders
    - match: {{path: {{prefix: /v1/by-token}}, methods: [GET]}}
      require: {{{token}}}
      service: orders
    - match: {{path: {{prefix: /v1/open}}, methods: [GET]}}
      require: {{anonymous: true}}
      service: orders
"#
    )
}

/// The gateway's listener at one of the node's addresses.
pub fn listener(node: IpAddr) -> SocketAddr {
    SocketAddr::new(node, PORT)
}

/// Any address and any port of the family of `other`.
pub fn any_like(other: SocketAddr) -> SocketAddr {
    if other.is_ipv4() {
        SocketAddr::from(([0, 0, 0, 0], 0))
    } else {
        SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), 0)
    }
}

/// A token that opens everything that takes one.
pub fn good_token(stage: &Stage) -> Result<String> {
    stage.issuer().mint(CLIENT_ID, &[SCOPE], Duration::from_secs(600))
}

/// A token that no key of the issuer has signed.
pub const BAD_TOKEN: &str = "eyJhbGciOiJFUzI1NiIsInR5cCI6ImF0K2p3dCJ9.eyJzdWIiOiJub2JvZHkifQ.AAAA";

/// Waits until `holds`.
pub fn wait_until(what: &str, mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !holds()? {
        if Instant::now() > deadline {
            bail!("{what}: not within {PATIENCE:?}");
        }
        std::thread::sleep(POLL);
    }
    Ok(())
}

/// Rewrites a policy file and waits until it is in force.
pub fn put_in_force(stage: &Stage, file: &str, yaml: &str) -> Result<()> {
    let before = generation(stage.agent())?;
    stage.workspace().write_policy(file, yaml)?;
    stage
        .agent()
        .wait_for("the rewritten policy in force", |metrics| {
            metrics.sum("enforcer_generation", &[]) > before
        })?;
    Ok(())
}

/// The generation in force.
pub fn generation(agent: &Agent) -> Result<f64> {
    Ok(agent.metrics()?.sum("enforcer_generation", &[]))
}

/// What an address of the admin interface answers as JSON.
pub fn json(agent: &Agent, path: &str) -> Result<Value> {
    let answer = agent.get(path)?;
    Ok(serde_json::from_slice(&answer.body)?)
}

/// A neighbour that asks the gateway, from its own namespace.
pub struct Caller(Resident);

impl Caller {
    pub fn at(namespace: &Namespace) -> Result<Self> {
        Ok(Self(Resident::start(namespace, "caller")?))
    }

    pub fn thread(&self) -> &Resident {
        &self.0
    }

    /// Opens a connection and leaves it open.
    pub fn open(&self, client: &Client) -> Result<Connection> {
        let client = client.clone();
        Ok(self.0.wait(async move { client.connect().await })??)
    }

    /// Sends a request over an open connection.
    pub fn send(&self, mut connection: Connection, ask: &Ask) -> Result<(Connection, Answer)> {
        let ask = ask.clone();
        let (connection, answer) = self.0.wait(async move {
            let answer = connection.send(&ask).await;
            (connection, answer)
        })?;
        Ok((connection, answer?))
    }

    /// Sends a request over a connection of its own.
    pub fn once(&self, client: &Client, ask: &Ask) -> Result<Result<Answer, lab::client::Failure>> {
        let (client, ask) = (client.clone(), ask.clone());
        self.0.wait(async move { client.once(&ask).await })
    }
}
