//! The stage: namespaces, certificates, an issuer, two upstreams, the agent and the verified client.
//! Scenarios use it too, with a [`Plan`] of their own.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::{HeaderValue, header};

use super::{
    policies::{self, AUDIENCE, CLIENT_SPIFFE, EDGE_FILE, GATEWAY_FILE, HOST, ISSUER, Mode, PORT, SCOPE},
    screen::{Screen, Tone},
};
use crate::{
    agent::{self, Agent},
    client::{Answer, Ask, Client, Failure, Protocol},
    issuer::{self, Issuer},
    pki::{Authority, Identity},
    resident::Resident,
    serve,
    topology::{Lab, Neighbour},
    upstream::Upstream,
    workspace::Workspace,
};

/// How long the demo waits for anything that should happen soon.
pub const PATIENCE: Duration = Duration::from_secs(15);

/// The registered OAuth2 client.
pub const CLIENT_ID: &str = "shop";
const CLIENT_SECRET: &str = "a-secret-of-the-lab";
/// A scope that the client may have and that opens nothing.
pub const OTHER_SCOPE: &str = "orders:list";

const UPSTREAMS: [Neighbour; 2] = [Neighbour::UpstreamA, Neighbour::UpstreamB];
const UPSTREAM_PORT: u16 = 8080;
const JWKS_PORT: u16 = 9700;
const TOKEN_PORT: u16 = 9701;

/// What the agent is configured with.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The configuration file.
    pub config: String,
    /// Policy files by name.
    pub policies: BTreeMap<String, String>,
}

impl Default for Plan {
    /// The demo's.
    fn default() -> Self {
        let gateway = policies::gateway(jwks_address(), upstream_addresses());
        Self {
            config: policies::config(),
            policies: BTreeMap::from([
                (EDGE_FILE.to_owned(), policies::edge(Mode::Enforce)),
                (GATEWAY_FILE.to_owned(), gateway),
            ]),
        }
    }
}

/// Everything that runs. Fields are dropped in this order: the agent first, the namespaces last.
pub struct Stage {
    agent: Agent,
    client: Resident,
    upstreams: [Upstream; 2],
    issuer: Issuer,
    workspace: Workspace,
    lab: Lab,
    authority: Authority,
    identity: Identity,
}

impl Stage {
    /// Builds it and waits until the agent is ready.
    ///
    /// # Errors
    /// What could not be made or started.
    pub fn build(screen: &Screen, plan: &Plan) -> Result<Self> {
        let binary = agent::binary()?;
        screen.step("Making five network namespaces: node, client, attacker, upstream-a, upstream-b");
        let lab = Lab::create()?;
        let workspace = Workspace::create()?;

        screen.step("Issuing certificates; starting an OAuth2 issuer and two upstreams");
        let authority = Authority::create("Lab CA")?;
        let identity = authority.client(CLIENT_SPIFFE)?;
        let server = authority.server(&[HOST], &[Neighbour::Client.node_ipv4()])?;
        authority.write(workspace.path(), "ca")?;
        server.write(workspace.path(), "server")?;
        identity.write(workspace.path(), "client")?;
        let issuer = start_issuer(&lab, &server)?;
        let [a, b] = UPSTREAMS;
        let upstreams = [start_upstream(&lab, a)?, start_upstream(&lab, b)?];

        screen.step("Starting the agent on the node");
        workspace.write_config(&plan.config)?;
        for (name, yaml) in &plan.policies {
            workspace.write_policy(name, yaml)?;
        }
        let agent = Agent::start(lab.node(), &binary, &workspace)?;
        let client = Resident::start(lab.neighbour(Neighbour::Client), "client")?;
        Ok(Self {
            agent,
            client,
            upstreams,
            issuer,
            workspace,
            lab,
            authority,
            identity,
        })
    }

    /// The namespaces.
    #[must_use]
    pub fn lab(&self) -> &Lab {
        &self.lab
    }

    /// The agent.
    #[must_use]
    pub fn agent(&self) -> &Agent {
        &self.agent
    }

    /// The agent, to signal it and to see it end.
    pub fn agent_mut(&mut self) -> &mut Agent {
        &mut self.agent
    }

    /// Starts an agent on the same files, once the one before has ended.
    ///
    /// # Errors
    /// If it does not start.
    pub fn restart_agent(&mut self) -> Result<()> {
        let binary = self.agent.binary().to_owned();
        self.agent = Agent::start(self.lab.node(), &binary, &self.workspace)?;
        Ok(())
    }

    /// The issuer.
    #[must_use]
    pub fn issuer(&self) -> &Issuer {
        &self.issuer
    }

    /// The thread that is in the client's namespace.
    #[must_use]
    pub fn client_thread(&self) -> &Resident {
        &self.client
    }

    /// The agent's files.
    #[must_use]
    pub fn workspace(&self) -> &Workspace {
        &self.workspace
    }

    /// The upstreams, a and b.
    #[must_use]
    pub fn upstreams(&self) -> &[Upstream; 2] {
        &self.upstreams
    }

    /// How many requests have reached each upstream.
    #[must_use]
    pub fn served(&self) -> [u64; 2] {
        self.upstreams.each_ref().map(Upstream::served)
    }

    /// The gateway's client with its certificate.
    ///
    /// # Errors
    /// If the certificates do not fit together.
    pub fn verified_client(&self) -> Result<Client> {
        self.gateway_client(Some(&self.identity))
    }

    /// curl at the verified client's place, with its certificate, to which the gateway's name is the node's address `node`.
    ///
    /// # Errors
    /// If the client's namespace is gone.
    pub fn curl(&self, node: IpAddr) -> Result<Command> {
        let address = match node {
            IpAddr::V4(address) => address.to_string(),
            IpAddr::V6(address) => format!("[{address}]"),
        };
        let mut curl = self.lab.neighbour(Neighbour::Client).command("curl")?;
        curl.args(["--silent", "--show-error", "--cacert", "ca.pem"])
            .args(["--cert", "client.pem", "--key", "client-key.pem"])
            .args(["--resolve", &format!("{HOST}:{PORT}:{address}")])
            .current_dir(self.workspace.path());
        Ok(curl)
    }

    /// The gateway's client with another certificate, or none.
    ///
    /// # Errors
    /// If the certificates do not fit together.
    pub fn gateway_client(&self, identity: Option<&Identity>) -> Result<Client> {
        let gateway = SocketAddr::new(Neighbour::Client.node_ipv4(), PORT);
        self.client_of(gateway, identity, Protocol::Http1)
    }

    /// A client of any listener of the gateway, over any protocol.
    ///
    /// # Errors
    /// If the certificates do not fit together.
    pub fn client_of(
        &self,
        listener: SocketAddr,
        identity: Option<&Identity>,
        protocol: Protocol,
    ) -> Result<Client> {
        Client::https(listener, HOST, self.authority.certificate(), identity, protocol)
    }

    /// The verified client's certificate.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Sends one request from the client's namespace, over a connection of its own.
    ///
    /// # Errors
    /// If the client's thread has ended. The inner one is the request's own.
    pub fn ask(&self, client: Client, ask: Ask) -> Result<Result<Answer, Failure>> {
        self.client.wait(async move { client.once(&ask).await })
    }

    /// Gets a token as RFC 6749 has it.
    ///
    /// # Errors
    /// If the issuer refuses.
    pub fn fetch_token(&self, scope: &str) -> Result<String> {
        let issuer = Client::https(
            SocketAddr::new(Neighbour::Client.node_ipv4(), TOKEN_PORT),
            HOST,
            self.authority.certificate(),
            None,
            Protocol::Http1,
        )?;
        let credentials = STANDARD.encode(format!("{CLIENT_ID}:{CLIENT_SECRET}"));
        let ask = Ask::post_form("/token", &format!("grant_type=client_credentials&scope={scope}"))
            .with_header(
                header::AUTHORIZATION,
                HeaderValue::from_str(&format!("Basic {credentials}"))?,
            );
        let answer = self.ask(issuer, ask)?.context("the issuer does not answer")?;
        let body: serde_json::Value = serde_json::from_slice(&answer.body)?;
        match body["access_token"].as_str() {
            Some(token) => Ok(token.to_owned()),
            None => bail!("the issuer gave no token: {} {body}", answer.status),
        }
    }

    /// Rewrites the packet policy and waits until the agent has loaded it.
    ///
    /// # Errors
    /// If the agent has not loaded it in time.
    pub fn set_mode(&self, mode: Mode) -> Result<()> {
        let before = self.agent.metrics()?.sum("enforcer_generation", &[]);
        self.workspace.write_policy(EDGE_FILE, &policies::edge(mode))?;
        self.agent.wait_for("the rewritten policy in force", |metrics| {
            metrics.sum("enforcer_generation", &[]) > before
        })?;
        Ok(())
    }

    /// Says what can be tried by hand.
    pub fn print_commands(&self, screen: &Screen) {
        let folder = self.workspace.path().display();
        let client = self.lab.neighbour(Neighbour::Client).path();
        let node = self.lab.node().path();
        let gateway = Neighbour::Client.node_ipv4();
        let token = format!(
            "nsenter --net={} curl -s --cacert {folder}/ca.pem --resolve {HOST}:{TOKEN_PORT}:{gateway} \
             -u {CLIENT_ID}:{CLIENT_SECRET} -d grant_type=client_credentials -d scope={SCOPE} https://{HOST}:{TOKEN_PORT}/token",
            client.display()
        );
        let request = format!(
            "nsenter --net={} curl -i --cacert {folder}/ca.pem --cert {folder}/client.pem --key {folder}/client-key.pem \
             --resolve {HOST}:{PORT}:{gateway} -H \"Authorization: Bearer $TOKEN\" https://{HOST}:{PORT}/v1/orders/7",
            client.display()
        );
        screen.line("\nThe lab is running. In another terminal:", Tone::Strong);
        println!("  # a token");
        println!("  TOKEN=$({token} | sed 's/.*\"access_token\":\"\\([^\"]*\\).*/\\1/')");
        println!("  # a request as the verified client");
        println!("  {request}");
        println!("  # what the agent says; policies are in {folder}/policies: edit them and look again");
        let attacker = Neighbour::Attacker.ipv4();
        for command in [
            format!("status --runtime-dir {folder}/run"),
            format!("explain {attacker} --runtime-dir {folder}/run"),
            format!("deny {attacker} --for 10m --reason 'tried by hand' --runtime-dir {folder}/run"),
            format!("allow {attacker} --runtime-dir {folder}/run"),
        ] {
            println!(
                "  nsenter --net={} {} {command}",
                node.display(),
                self.agent.binary().display()
            );
        }
        screen.line("Ctrl-C removes it.", Tone::Strong);
    }
}

fn start_issuer(lab: &Lab, server: &Identity) -> Result<Issuer> {
    let settings = issuer::Settings {
        issuer: ISSUER.to_owned(),
        audience: AUDIENCE.to_owned(),
        clients: vec![issuer::Client {
            id: CLIENT_ID.to_owned(),
            secret: CLIENT_SECRET.to_owned(),
            scopes: vec![SCOPE.to_owned(), OTHER_SCOPE.to_owned()],
        }],
    };
    let issuer = Issuer::start(Resident::start(lab.node(), "issuer")?, settings)?;
    // The agent reads the keys over loopback; clients ask for tokens over TLS.
    issuer.listen(jwks_address(), None)?;
    let token_address = SocketAddr::new(Neighbour::Client.node_ipv4(), TOKEN_PORT);
    issuer.listen(token_address, Some(serve::tls(server)?))?;
    Ok(issuer)
}

fn start_upstream(lab: &Lab, neighbour: Neighbour) -> Result<Upstream> {
    let thread = Resident::start(lab.neighbour(neighbour), neighbour.name())?;
    Upstream::start(
        thread,
        SocketAddr::new(neighbour.ipv4(), UPSTREAM_PORT),
        neighbour.name(),
    )
}

/// Where the upstreams listen, a and b.
#[must_use]
pub fn upstream_addresses() -> [SocketAddr; 2] {
    UPSTREAMS.map(|neighbour| SocketAddr::new(neighbour.ipv4(), UPSTREAM_PORT))
}

/// Where the agent reads the issuer's keys.
#[must_use]
pub const fn jwks_address() -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), JWKS_PORT)
}
