//! Ending connections: what senders are told of drops, and what `enforcer revoke` ends.

use std::{
    io::{self, Read as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    num::{NonZeroU16, NonZeroU32},
    process::Output,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use http::StatusCode;
use lab::{
    client::{Ask, Protocol},
    demo::{
        policies::CLIENT_SPIFFE,
        setup::{CLIENT_ID, Stage},
    },
    flood::Flood,
    frame::Payload,
    kernel::Program,
    topology::{NEIGHBOUR_INTERFACE, Neighbour},
};
use serde_json::Value;

use crate::{
    setting::{
        BAD_TOKEN, BY_TOKEN, Caller, OPEN, Setting, any_like, good_token, json, listener, packet_policy,
    },
    traffic::{connect, is_answered, packets},
};

/// A service beside the gateway.
const SERVICE: u16 = 7000;
/// How long a socket may take to notice its end.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

/// The client's address and the node's, in each family.
pub(crate) fn families() -> [(IpAddr, IpAddr); 2] {
    [
        (Neighbour::Client.ipv4(), Neighbour::Client.node_ipv4()),
        (Neighbour::Client.ipv6(), Neighbour::Client.node_ipv6()),
    ]
}

pub(crate) fn setting() -> Setting {
    Setting {
        certificates: "optional",
        management: format!("[{}/32]", Neighbour::UpstreamA.ipv4()),
        edge: packet_policy(
            "edge",
            "interfaces: [to-client, to-attacker]\n  ports: [tcp/8443, tcp/7000, udp/7000]",
        ),
        ..Setting::default()
    }
}

/// Runs a command of the binary; expects this exit code. Gives standard output and error.
pub(crate) fn run(stage: &Stage, code: i32, arguments: &[&str]) -> Result<(String, String)> {
    let Output {
        status,
        stdout,
        stderr,
    } = stage.agent().command(arguments)?;
    let (stdout, stderr) = (String::from_utf8(stdout)?, String::from_utf8(stderr)?);
    ensure!(
        status.code() == Some(code),
        "{arguments:?}: {status}, expected {code}\n{stdout}{stderr}"
    );
    Ok((stdout, stderr))
}

/// Revokes for ten minutes: what the command prints as JSON.
pub(crate) fn revoke(stage: &Stage, whom: &[&str]) -> Result<Value> {
    let rest = [
        "--for",
        "10m",
        "--reason",
        "test",
        "--runtime-dir",
        "run",
        "--output",
        "json",
    ];
    let (text, _) = run(stage, 0, &[&["revoke"], whom, &rest].concat())?;
    Ok(serde_json::from_str(&text)?)
}

fn allow(stage: &Stage, address: IpAddr) -> Result<()> {
    run(stage, 0, &["allow", &address.to_string(), "--runtime-dir", "run"]).map(drop)
}

/// `stream` is at its end, and this is why.
pub fn expect_broken(mut stream: &TcpStream, error: i32) -> Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    match stream.read(&mut [0; 64]) {
        Err(said) if said.raw_os_error() == Some(error) => Ok(()),
        other => bail!("expected {}, was {other:?}", io::Error::from_raw_os_error(error)),
    }
}

#[test]
fn senders_are_told_what_they_are_refused() -> Result<()> {
    for xdp in ["native", "generic"] {
        let setting = Setting {
            xdp,
            edge: packet_policy(
                "edge",
                "interfaces: [to-client]\n  ports: [tcp/7000, udp/7000]\n  action: reset\n  deny: [10.203.0.0/16, \"fd00:203::/32\"]",
            ),
            ..setting()
        };
        let Some(stage) = setting.stage()? else {
            return Ok(());
        };
        let client = stage.lab().neighbour(Neighbour::Client);
        // Without programs, a veth would not take frames that XDP sends.
        let _takes = Program::Pass.attach(client, NEIGHBOUR_INTERFACE)?;
        for (_, node) in families() {
            let service = SocketAddr::new(node, SERVICE);
            let refused = client.run(|| Ok(TcpStream::connect_timeout(&service, PATIENCE).err()))?;
            ensure!(
                refused.as_ref().map(io::Error::kind) == Some(io::ErrorKind::ConnectionRefused),
                "{xdp}, {service}: {refused:?}"
            );
            let told = client.run(|| {
                let socket = UdpSocket::bind(any_like(service))?;
                socket.connect(service)?;
                socket.set_read_timeout(Some(PATIENCE))?;
                socket.send(b"datagram")?;
                Ok(socket.recv(&mut [0; 64]).err())
            })?;
            // As Linux translates that it is administratively prohibited (`icmp_err_convert`,
            // `icmpv6_err_convert`).
            let expected = if node.is_ipv4() {
                libc::EHOSTUNREACH
            } else {
                libc::EACCES
            };
            ensure!(
                told.as_ref().and_then(io::Error::raw_os_error) == Some(expected),
                "{xdp}, {service}: {told:?}"
            );
        }
        let told = packets(
            stage.agent(),
            &[("policy", "edge"), ("reason", "denied"), ("verdict", "reset")],
        )?;
        ensure!(told == 4, "{xdp}: {told}");
    }
    Ok(())
}

#[test]
fn live_connections_of_the_gateway_end() -> Result<()> {
    let Some(stage) = setting().stage()? else {
        return Ok(());
    };
    let namespace = stage.lab().neighbour(Neighbour::Client);
    let caller = Caller::at(namespace)?;
    for (own, node) in families() {
        for protocol in [Protocol::Http1, Protocol::Http2] {
            let client = stage
                .client_of(listener(node), Some(stage.identity()), protocol)?
                .with_patience(PATIENCE);
            let (open, answer) = caller.send(caller.open(&client)?, &Ask::get(OPEN))?;
            ensure!(answer.status == StatusCode::OK);
            let silent = connect(namespace, listener(node))?;
            let revoked = revoke(&stage, &[&own.to_string()])?;
            ensure!(
                revoked["gatewayConnections"] == 2 && revoked["denied"] == true,
                "{protocol:?} {own}: {revoked}"
            );
            expect_broken(&silent, libc::ECONNRESET)?;
            ensure!(
                caller.send(open, &Ask::get(OPEN)).is_err(),
                "{protocol:?} {own}: the connection still works"
            );
            let denied = json(stage.agent(), &format!("/v1/explain?address={own}"))?["denied"].clone();
            ensure!(denied["kind"] == "denied-by-operator", "{denied}");
            allow(&stage, own)?;
            let (_, answer) = caller.send(caller.open(&client)?, &Ask::get(OPEN))?;
            ensure!(answer.status == StatusCode::OK);
        }
    }
    stage.agent().wait_for("the revoked connections", |metrics| {
        metrics.sum("enforcer_connections_revoked_total", &[]) >= 8.0
            && metrics.sum("enforcer_verified_flows", &[]) == 0.0
    })?;
    Ok(())
}

#[test]
fn connections_to_other_processes_end() -> Result<()> {
    let Some(stage) = setting().stage()? else {
        return Ok(());
    };
    let (client, node) = (stage.lab().neighbour(Neighbour::Client), stage.lab().node());
    // One listener for both families: its IPv4 connections have mapped addresses.
    let service = node.run(|| Ok(TcpListener::bind(SocketAddr::from(([0u16; 8], SERVICE)))?))?;
    for (own, address) in families() {
        let target = SocketAddr::new(address, SERVICE);
        let pair = || -> Result<_> {
            let stream = connect(client, target)?;
            Ok((stream, service.accept()?.0))
        };
        let ((ended, its_server), (other, _other_server)) = (pair()?, pair()?);
        let peer = ended.local_addr()?;
        // A connected datagram socket of the same peer.
        let datagrams = node.run(|| {
            let socket = UdpSocket::bind(target)?;
            socket.connect(peer)?;
            socket.set_read_timeout(Some(PATIENCE))?;
            Ok(socket)
        })?;
        let revoked = revoke(&stage, &[&peer.to_string()])?;
        ensure!(
            revoked["gatewayConnections"] == 0
                && revoked["tcpSockets"] == 1
                && revoked["udpSockets"] == 1
                && revoked["denied"] == false
                && revoked["shortfalls"] == serde_json::json!([]),
            "{peer}: {revoked}"
        );
        expect_broken(&ended, libc::ECONNRESET)?;
        expect_broken(&its_server, libc::ECONNABORTED)?;
        let error = datagrams.recv(&mut [0; 64]).err();
        ensure!(
            error.as_ref().and_then(io::Error::raw_os_error) == Some(libc::ECONNABORTED),
            "{error:?}"
        );
        let explained = json(stage.agent(), &format!("/v1/explain?address={own}"))?["revoked"].clone();
        let begins = format!("{peer} to {target}, for another ");
        ensure!(
            explained[0]
                .as_str()
                .is_some_and(|line| line.starts_with(&begins)),
            "{explained}"
        );

        // Whatever else comes of it is dropped, and nothing of the connection beside it.
        let before = packets(stage.agent(), &[("reason", "revoked")])?;
        segments(&stage, peer, target, 10)?;
        stage.agent().wait_for("the drops", |metrics| {
            metrics.sum("enforcer_packets_total", &[("reason", "revoked")]) as u64 >= before + 10
        })?;
        other.set_nonblocking(true)?;
        let quiet = (&other).read(&mut [0; 64]).map_err(|error| error.kind());
        ensure!(quiet == Err(io::ErrorKind::WouldBlock), "{quiet:?}");
    }
    let status = json(stage.agent(), "/v1/status")?["kernel"].clone();
    // TCP and UDP of each are the same addresses and ports.
    ensure!(
        status["revokedFlows"] == 2 && status["revokeShortfall"].is_null(),
        "{status}"
    );
    let destroyed = |protocol| -> Result<f64> {
        let metrics = stage.agent().metrics()?;
        Ok(metrics.sum("enforcer_sockets_destroyed_total", &[("protocol", protocol)]))
    };
    ensure!(destroyed("tcp")? == 2.0 && destroyed("udp")? == 2.0);
    Ok(())
}

/// Segments of a connection, as its peer would send them.
fn segments(stage: &Stage, from: SocketAddr, to: SocketAddr, count: u64) -> Result<()> {
    let flood = Flood {
        interface: NEIGHBOUR_INTERFACE.to_owned(),
        link: Neighbour::Client.link(),
        first_source: from.ip(),
        sources: NonZeroU32::MIN,
        source_ports: (from.port(), NonZeroU16::MIN),
        target: to,
        payload: Payload::TcpAck,
        packets: count,
        duration: PATIENCE,
        rate: NonZeroU32::new(1_000),
        first: false,
        processor: None,
    };
    let running = flood.start(stage.lab().neighbour(Neighbour::Client))?;
    running.wait().map(drop)
}

#[test]
fn an_identity_is_revoked_and_its_neighbour_is_not() -> Result<()> {
    let Some(stage) = setting().stage()? else {
        return Ok(());
    };
    let caller = Caller::at(stage.lab().neighbour(Neighbour::Client))?;
    let token = good_token(&stage)?;
    for (own, node) in families() {
        for protocol in [Protocol::Http1, Protocol::Http2] {
            let open = |identity, ask: &Ask| -> Result<_> {
                let client = stage
                    .client_of(listener(node), identity, protocol)?
                    .with_patience(PATIENCE);
                let (open, answer) = caller.send(caller.open(&client)?, ask)?;
                ensure!(answer.status == StatusCode::OK);
                Ok(open)
            };
            let asks = Ask::get(BY_TOKEN).with_token(&token)?;
            let by_certificate = open(Some(stage.identity()), &Ask::get(OPEN))?;
            let by_token = open(None, &asks)?;
            let name = format!("certificate {CLIENT_SPIFFE}");
            let revoked = revoke(&stage, &["--identity", &name])?;
            ensure!(
                revoked["gatewayConnections"] == 1
                    && revoked["droppedConnections"] == 1
                    && revoked["denied"] == false,
                "{own}: {revoked}"
            );
            ensure!(caller.send(by_certificate, &Ask::get(OPEN)).is_err());
            let (by_token, answer) = caller.send(by_token, &asks)?;
            ensure!(answer.status == StatusCode::OK, "{}", answer.status);
            let revoked = revoke(&stage, &["--identity", &format!("token {CLIENT_ID} of lab")])?;
            ensure!(revoked["gatewayConnections"] == 1, "{own}: {revoked}");
            ensure!(caller.send(by_token, &asks).is_err());
            // The source is not denied.
            open(None, &Ask::get(OPEN))?;
        }
    }
    Ok(())
}

#[test]
fn what_cannot_be_revoked_is_said() -> Result<()> {
    let Some(stage) = setting().stage()? else {
        return Ok(());
    };
    let rest = ["--for", "1m", "--reason", "test", "--runtime-dir", "run"];
    let managed = Neighbour::UpstreamA.ipv4().to_string();
    let port = format!("{managed}:443");
    let nobody = format!("{}:9", Neighbour::Client.ipv4());
    for (code, whom, expected) in [
        (1, &[managed.as_str()][..], "on the management list"),
        (1, &["10.203.0.0/16"], "on the management list"),
        (1, &[&port], "on the management list"),
        (1, &["127.0.0.1"], "this node itself"),
        (1, &["[::1]:9600"], "this node itself"),
        (1, &[&nobody], "no connection from"),
        (
            1,
            &["--identity", "certificate nobody"],
            "nobody is connected as `certificate nobody`",
        ),
        (2, &[], "required"),
        (2, &["192.0.2.1", "--identity", "a"], "cannot be used with"),
        (2, &["192.0.2.1/24"], "192.0.2.0/24"),
        (2, &["192.0.2.1:0"], "port 0"),
        (2, &["0.0.0.0/0"], "large part of the internet"),
    ] {
        let (_, said) = run(&stage, code, &[&["revoke"], whom, &rest].concat())?;
        ensure!(said.contains(expected), "{whom:?}: {said}");
    }
    ensure!(json(stage.agent(), "/v1/denials")? == serde_json::json!([]));
    let (text, _) = run(&stage, 0, &["revoke", "--help"])?;
    ensure!(text.contains("enforcer revoke --identity"), "{text}");
    Ok(())
}

/// Who is denied for failing loses what it has open already.
#[test]
fn a_source_that_keeps_failing_loses_its_connections() -> Result<()> {
    let setting = Setting {
        auth_failures: "{rate: 3/m, denyFor: 10m, ends: all}",
        ..setting()
    };
    let Some(stage) = setting.stage()? else {
        return Ok(());
    };
    let attacker = stage.lab().neighbour(Neighbour::Attacker);
    let caller = Caller::at(attacker)?;
    let service = stage
        .lab()
        .node()
        .run(|| Ok(TcpListener::bind(SocketAddr::from(([0u16; 8], SERVICE)))?))?;
    for node in [Neighbour::Attacker.node_ipv4(), Neighbour::Attacker.node_ipv6()] {
        let silent = connect(attacker, listener(node))?;
        let beside = connect(attacker, SocketAddr::new(node, SERVICE))?;
        let (accepted, _) = service.accept()?;
        let client = stage
            .client_of(listener(node), None, Protocol::Http1)?
            .with_patience(Duration::from_secs(1));
        for _ in 0..4 {
            // The last answer may be cut off by its own consequence.
            drop(caller.once(&client, &Ask::get(BY_TOKEN).with_token(BAD_TOKEN)?)?);
        }
        expect_broken(&silent, libc::ECONNRESET).context("a connection of the gateway")?;
        expect_broken(&beside, libc::ECONNRESET).context("a connection beside it")?;
        expect_broken(&accepted, libc::ECONNABORTED)?;
        ensure!(is_answered(attacker, listener(node))?.is_none());
    }
    Ok(())
}
