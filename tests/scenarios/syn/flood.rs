//! Connections in the lab: through `auto` under a flood, through `always` in peace, and what becomes of
//! them without SYN defence.

use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr},
    num::{NonZeroU16, NonZeroU32},
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use lab::{
    agent::Signal,
    client::{Ask, Client},
    demo::{
        policies::{self, HOST, PORT},
        screen::Screen,
        setup::{Plan, Stage},
    },
    flood::{Flood, Running},
    frame::Payload,
    kernel::{Attached, Program},
    netns::Namespace,
    privilege::root_or_skip,
    tcp::{self, Agreed, Teller},
    topology::{Lab, NEIGHBOUR_INTERFACE, Neighbour},
};

const EDGE_FILE: &str = "edge.yaml";
/// The plain service's port.
const PLAIN: u16 = 7000;
/// Connections to each service: half of them over IPv4, half over IPv6.
const CONNECTIONS: usize = 1_000;
const AT_ONCE: usize = 8;
const PATIENCE: Duration = Duration::from_secs(20);
const IMPATIENCE: Duration = Duration::from_secs(2);

const SPOOFED: NonZeroU32 = NonZeroU32::MIN.saturating_add(3_999_999);
/// To each service by each family.
const SYNS_PER_SECOND: NonZeroU32 = NonZeroU32::MIN.saturating_add(12_499);
const FLOOD_AT_MOST: Duration = Duration::from_secs(55);

/// The demo's gateway on both families, beside a plain service; SYN defence as said.
struct Scene {
    stage: Stage,
    _plain: Teller,
    /// Without programs, veths would not take frames that XDP sends.
    _client: Attached,
    attacker: Attached,
}

impl Scene {
    fn build(syn: &str) -> Result<Self> {
        let mut plan = Plan {
            config: policies::config().replace(&format!("0.0.0.0:{PORT}"), &format!("[::]:{PORT}")),
            ..Plan::default()
        };
        plan.policies.insert(
            EDGE_FILE.to_owned(),
            format!(
                "apiVersion: enforcer.dev/v1\nkind: PacketPolicy\nmetadata: {{name: edge}}\nspec:\n  interfaces: [to-client, to-attacker]\n  ports: [tcp/{PORT}, tcp/{PLAIN}]\n  syn: {syn}\n"
            ),
        );
        let stage = Stage::build(&Screen::default(), &plan)?;
        let lab = stage.lab();
        let client = Program::Pass.attach(lab.neighbour(Neighbour::Client), NEIGHBOUR_INTERFACE)?;
        let attacker = Program::Sink.attach(lab.neighbour(Neighbour::Attacker), NEIGHBOUR_INTERFACE)?;
        let plain = Teller::start(lab.node(), SocketAddr::from((Ipv6Addr::UNSPECIFIED, PLAIN)))?;
        Ok(Self {
            _plain: plain,
            _client: client,
            attacker,
            stage,
        })
    }

    /// SYNs from four million sources of each family to both services.
    fn flood(&self) -> Result<Vec<Running>> {
        let attacker = Neighbour::Attacker;
        let spoofed = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 7);
        let families = [
            (IpAddr::from([100, 64, 0, 0]), attacker.node_ipv4()),
            (IpAddr::from(spoofed), attacker.node_ipv6()),
        ];
        families
            .into_iter()
            .flat_map(|family| [(family, PORT), (family, PLAIN)])
            .map(|((first_source, node), port)| {
                let flood = Flood {
                    interface: NEIGHBOUR_INTERFACE.to_owned(),
                    link: Neighbour::Attacker.link(),
                    first_source,
                    sources: SPOOFED,
                    source_ports: (1024, NonZeroU16::MIN.saturating_add(60_000)),
                    target: SocketAddr::new(node, port),
                    payload: Payload::TcpSyn,
                    packets: u64::MAX,
                    duration: FLOOD_AT_MOST,
                    rate: Some(SYNS_PER_SECOND),
                    first: false,
                    processor: None,
                };
                flood.start(self.stage.lab().neighbour(Neighbour::Attacker))
            })
            .collect()
    }

    fn counted(&self, reason: &str, verdict: &str) -> Result<f64> {
        let labels = [("policy", "edge"), ("reason", reason), ("verdict", verdict)];
        Ok(self
            .stage
            .agent()
            .metrics()?
            .sum("enforcer_packets_total", &labels))
    }
}

fn nodes() -> [IpAddr; 2] {
    [Neighbour::Client.node_ipv4(), Neighbour::Client.node_ipv6()]
}

/// Makes connections to the plain service from the client's side, several at once: those that worked, and
/// what both ends agreed on.
fn connect_plain(lab: &Lab, count: usize, patience: Duration) -> Vec<(IpAddr, Agreed, Agreed)> {
    let client = lab.neighbour(Neighbour::Client);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..AT_ONCE)
            .map(|worker| scope.spawn(move || connect_some(client, worker, count, patience)))
            .collect();
        workers
            .into_iter()
            .flat_map(|worker| worker.join().unwrap())
            .collect()
    })
}

fn connect_some(
    client: &Namespace,
    worker: usize,
    count: usize,
    patience: Duration,
) -> Vec<(IpAddr, Agreed, Agreed)> {
    let _entered = client.enter().unwrap();
    (worker..count)
        .step_by(AT_ONCE)
        .filter_map(|number| {
            let node = nodes()[number % 2];
            let agreed = tcp::ask(SocketAddr::new(node, PLAIN), patience).ok()?;
            Some((node, agreed.0, agreed.1))
        })
        .collect()
}

/// Requests to the gateway, each over a connection of its own: how many were answered.
fn connect_gateway(stage: &Stage, count: usize) -> Result<usize> {
    let demo = stage.verified_client()?.with_patience(PATIENCE);
    let clients: [Client; 2] = nodes().map(|node| demo.clone().at(SocketAddr::new(node, PORT)));
    let pending: Vec<_> = (0..AT_ONCE)
        .map(|worker| {
            let clients = clients.clone();
            stage.client_thread().begin(async move {
                let mut answered = 0;
                for number in (worker..count).step_by(AT_ONCE) {
                    // Without a token it is refused, which is an answer.
                    let answer = clients[number % 2].once(&Ask::get("/v1/orders/7")).await;
                    answered += usize::from(answer.is_ok());
                }
                answered
            })
        })
        .collect();
    let mut answered = 0;
    for each in pending {
        answered += each.wait()?;
    }
    Ok(answered)
}

/// Requests to the gateway by curl, each over a connection of its own, both families at once: how many were answered.
fn connect_curl(stage: &Stage, count: usize) -> Result<usize> {
    let each = count / nodes().len();
    let running: Vec<_> = nodes()
        .into_iter()
        .map(|node| {
            let mut curl = stage.curl(node)?;
            curl.args(["--http1.1", "--header", "connection: close"])
                .args(["--max-time", &PATIENCE.as_secs().to_string()])
                .args(["--write-out", "%{stderr}%{num_connects} %{http_code}\n"])
                .args(["--output", "/dev/null"])
                .arg(format!("https://{HOST}:{PORT}/v1/orders/[1-{each}]"));
            let child = curl.stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
            child.context("curl did not start: the scenarios need it, from the package of that name")
        })
        .collect::<Result<_>>()?;
    let mut answered = 0;
    for child in running {
        let said = String::from_utf8(child.wait_with_output()?.stderr)?;
        // Without a token it is refused, which is an answer.
        let answers = said.lines().filter(|line| *line == "1 401").count();
        ensure!(answers == each, "{answers} of {each}: {said}");
        answered += answers;
    }
    Ok(answered)
}

/// As good as without cookies: everything that the stack offers, the same at both ends.
fn assert_agreed(connections: &[(IpAddr, Agreed, Agreed)]) {
    for (node, client, server) in connections {
        let what = format!("{node}: {client:?} {server:?}");
        assert!(server.timestamps && server.sack && server.scaled, "{what}");
        assert!(client.timestamps && client.sack && client.scaled, "{what}");
        assert_eq!(
            (client.peer_scale, client.own_scale),
            (server.own_scale, server.peer_scale),
            "{what}"
        );
        assert!(server.peer_scale > 0, "{what}");
        // An MTU of 1500, less IP and TCP headers and timestamps.
        let mss = if node.is_ipv4() { 1_448 } else { 1_428 };
        assert_eq!((client.mss, server.mss), (mss, mss), "{what}");
    }
}

fn sysctl(namespace: &Namespace, name: &str) -> Result<String> {
    namespace.run(|| {
        Ok(std::fs::read_to_string(format!("/proc/sys/net/ipv4/{name}"))?
            .trim()
            .to_owned())
    })
}

#[test]
fn auto_lets_every_connection_through_a_flood() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let scene = Scene::build("{cookies: auto, above: 1000/s}")?;
    let stage = &scene.stage;
    let quiet = connect_plain(stage.lab(), 20, PATIENCE);
    assert_eq!(quiet.len(), 20);
    assert_agreed(&quiet);
    assert_eq!(
        scene.counted("syn-cookie-sent", "answer")?,
        0.0,
        "nothing is wrong yet"
    );
    assert_eq!(sysctl(stage.lab().node(), "tcp_syncookies")?, "1");

    let flood = scene.flood()?;
    stage.agent().wait_for("SYNs are answered", |metrics| {
        metrics.sum("enforcer_syn_answering", &[("policy", "edge")]) > 0.0
    })?;
    let begun = Instant::now();
    let plain = connect_plain(stage.lab(), CONNECTIONS, PATIENCE);
    let plain_took = begun.elapsed();
    let begun = Instant::now();
    let gateway = connect_gateway(stage, CONNECTIONS)?;
    let gateway_took = begun.elapsed();
    let begun = Instant::now();
    let curl = connect_curl(stage, CONNECTIONS)?;
    let curl_took = begun.elapsed();
    let (mut sent, mut elapsed) = (0, Duration::ZERO);
    for each in flood {
        let each = each.stop()?;
        sent += each.packets;
        elapsed = elapsed.max(each.elapsed);
    }
    println!(
        "auto, {sent} spoofed SYNs in {elapsed:.1?}: plain service {} of {CONNECTIONS} in {plain_took:.1?}, gateway {gateway} of {CONNECTIONS} in {gateway_took:.1?}, by curl {curl} of {CONNECTIONS} in {curl_took:.1?}; {} answers reached the attacker's link",
        plain.len(),
        scene.attacker.packets()?
    );
    assert_eq!(
        (plain.len(), gateway, curl),
        (CONNECTIONS, CONNECTIONS, CONNECTIONS)
    );
    assert_agreed(&plain);
    let valid = scene.counted("syn-cookie-valid", "pass")?;
    assert!(valid >= 3.0 * CONNECTIONS as f64, "{valid} cookies came back");
    assert!(scene.counted("syn-cookie-sent", "answer")? > sent as f64 / 2.0);
    assert_eq!(
        stage.agent().metrics()?.sum("enforcer_syn_sysctl_missing", &[]),
        0.0
    );

    let node = stage.lab().node().clone();
    let Scene { mut stage, .. } = scene;
    stage.agent_mut().signal(Signal::Terminate)?;
    stage.agent_mut().wait_until_ended()?;
    assert_eq!(sysctl(&node, "tcp_syncookies")?, "1");
    assert_eq!(sysctl(&node, "tcp_timestamps")?, "1");
    Ok(())
}

#[test]
fn always_answers_every_syn_in_peace() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let scene = Scene::build("{cookies: always}")?;
    let stage = &scene.stage;
    stage.agent().wait_for("SYNs are answered", |metrics| {
        metrics.sum("enforcer_syn_answering", &[("policy", "edge")]) > 0.0
    })?;
    let plain = connect_plain(stage.lab(), 200, PATIENCE);
    assert_eq!(plain.len(), 200);
    assert_agreed(&plain);
    assert_eq!(connect_gateway(stage, 100)?, 100);
    assert_eq!(scene.counted("within-limits", "drop")?, 0.0);
    // More if an answer was late and a SYN sent again, or if data came close behind the ACK.
    assert!(scene.counted("syn-cookie-sent", "answer")? >= 300.0);
    assert!(scene.counted("syn-cookie-valid", "pass")? >= 300.0);
    Ok(())
}

/// Prints what SYN defence is for; asserts only that the measurement took place.
#[test]
fn without_it() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    const TRIED: usize = 100;
    let scene = Scene::build("{cookies: off}")?;
    let lab = scene.stage.lab();
    for (what, value) in [("the stack's own cookies", "1"), ("no cookies at all", "0")] {
        lab.node().sysctl("ipv4/tcp_syncookies", value)?;
        let flood = scene.flood()?;
        scene.stage.agent().wait_for("the flood arrives", |metrics| {
            let labels = [("policy", "edge"), ("direction", "ingress")];
            metrics.sum("enforcer_packets_total", &labels) > 20_000.0
        })?;
        let plain = connect_plain(lab, TRIED, IMPATIENCE);
        let whole = plain
            .iter()
            .filter(|(_, _, server)| server.scaled && server.sack)
            .count();
        println!(
            "off, {what}: {} of {TRIED} connections complete within {IMPATIENCE:?}, {whole} with window scale and SACK",
            plain.len()
        );
        for each in flood {
            assert!(each.stop()?.packets > 0);
        }
    }
    assert_eq!(scene.counted("syn-cookie-sent", "answer")?, 0.0);
    Ok(())
}
