//! What leaves the node: an egress deny list holds for the node's own connections.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use anyhow::{Result, ensure};
use http::StatusCode;
use lab::{client::Ask, demo::setup::Stage, topology::Neighbour};

use crate::{
    setting::{EDGE, OPEN, Setting, packet_policy, put_in_force},
    traffic::{connect, is_answered, listen, packets},
};

const SERVICE: u16 = 7000;
/// Bytes written at once: many segments, and less than a socket's buffer holds.
const PIECE: usize = 32 * 1024;
/// How long what should not arrive is waited for.
const PATIENCE: Duration = Duration::from_secs(2);

fn edge(mode: &str) -> String {
    packet_policy(
        "edge",
        &format!(
            "mode: {mode}
  interfaces: [to-upstream-a, to-upstream-b]
  egress:
    deny: [{}/32, {}/128]",
            Neighbour::UpstreamA.ipv4(),
            Neighbour::UpstreamA.ipv6()
        ),
    )
}

fn counted(stage: &Stage, verdict: &str) -> Result<u64> {
    packets(
        stage.agent(),
        &[
            ("direction", "egress"),
            ("reason", "egress-denied"),
            ("verdict", verdict),
        ],
    )
}

#[test]
fn an_egress_deny_list_stops_the_node_itself() -> Result<()> {
    let setting = Setting {
        edge: edge("shadow"),
        ..Setting::default()
    };
    let Some(stage) = setting.stage()? else {
        return Ok(());
    };
    let node = stage.lab().node();
    let (a, b) = (Neighbour::UpstreamA, Neighbour::UpstreamB);
    let _services = [
        listen(stage.lab().neighbour(a), SERVICE)?,
        listen(stage.lab().neighbour(b), SERVICE)?,
    ];
    let service = |address: IpAddr| SocketAddr::new(address, SERVICE);
    for address in [a.ipv4(), a.ipv6(), b.ipv4(), b.ipv6()] {
        connect(node, service(address))?;
    }
    ensure!(counted(&stage, "shadow")? >= 4 && counted(&stage, "drop")? == 0);

    put_in_force(&stage, EDGE, &edge("enforce"))?;
    let before = counted(&stage, "shadow")?;
    for address in [a.ipv4(), a.ipv6()] {
        ensure!(
            is_answered(node, service(address))?.is_none(),
            "{address} is reached"
        );
    }
    for address in [b.ipv4(), b.ipv6()] {
        connect(node, service(address))?;
    }
    ensure!(counted(&stage, "drop")? >= 2 && counted(&stage, "shadow")? == before);
    // The gateway's own connections are the node's: its health checks find upstream a gone.
    let client = stage.verified_client()?;
    stage
        .agent()
        .wait_for("the unreachable upstream taken out", |metrics| {
            let of =
                |authority: String| metrics.sum("enforcer_endpoint_healthy", &[("endpoint", &authority)]);
            of(format!("{}:8080", a.ipv4())) == 0.0 && of(format!("{}:8080", b.ipv4())) == 1.0
        })?;
    let served = stage.served();
    for _ in 0..10 {
        let answer = stage.ask(client.clone(), Ask::get(OPEN))??;
        ensure!(answer.status == StatusCode::OK, "{}", answer.status);
    }
    ensure!(
        stage.served() == [served[0], served[1] + 10],
        "{:?}",
        stage.served()
    );
    Ok(())
}

/// Large segments have their payload outside the part of a packet that a program reads directly.
#[test]
fn an_egress_deny_list_stops_connections_that_are_there() -> Result<()> {
    let setting = Setting {
        edge: edge("shadow"),
        ..Setting::default()
    };
    let Some(stage) = setting.stage()? else {
        return Ok(());
    };
    let upstream = Neighbour::UpstreamA;
    let listener = listen(stage.lab().neighbour(upstream), SERVICE)?;
    let mut connections = Vec::new();
    for address in [upstream.ipv4(), upstream.ipv6()] {
        let mut near = connect(stage.lab().node(), SocketAddr::new(address, SERVICE))?;
        let (mut far, _) = listener.accept()?;
        near.write_all(&[1; PIECE])?;
        far.set_read_timeout(Some(PATIENCE))?;
        far.read_exact(&mut [0; PIECE])?;
        connections.push((near, far));
    }
    put_in_force(&stage, EDGE, &edge("enforce"))?;
    for (mut near, mut far) in connections {
        near.write_all(&[2; PIECE])?;
        let arrived = far.read(&mut [0; PIECE]);
        ensure!(
            arrived
                .as_ref()
                .is_err_and(|error| matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)),
            "{arrived:?} arrived of what the list denies"
        );
    }
    ensure!(counted(&stage, "drop")? >= 2);
    Ok(())
}
