//! What leaves the node: an egress deny list holds for the node's own connections.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Result, ensure};
use http::StatusCode;
use lab::{client::Ask, demo::setup::Stage, topology::Neighbour};

use crate::{
    setting::{EDGE, OPEN, Setting, packet_policy, put_in_force},
    traffic::{connect, is_answered, listen, packets},
};

const SERVICE: u16 = 7000;

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
