//! Clients cannot use up the file descriptors that the agent needs for itself.

use std::{fs, net::TcpStream, os::unix::fs::PermissionsExt as _, time::Duration};

use anyhow::{Result, ensure};
use http::StatusCode;
use lab::{
    agent::{self, Agent, Signal},
    client::Ask,
    topology::Neighbour,
};

use crate::setting::{EDGE, OPEN, Setting, json, listener, packet_policy, wait_until};

/// Connections that the descriptors below leave room for, and how many more are tried.
const ROOM: usize = 72;
const TRIED: usize = 400;

#[test]
fn connections_are_bounded_by_the_descriptors_that_there_are() -> Result<()> {
    let Some(mut stage) = Setting::default().stage()? else {
        return Ok(());
    };
    stage.agent().signal(Signal::Terminate)?;
    stage.agent_mut().wait_until_ended()?;
    let limited = stage.workspace().path().join("limited");
    let script = format!(
        "#!/bin/sh\nulimit -n 400\nexec {} \"$@\"\n",
        agent::binary()?.display()
    );
    fs::write(&limited, script)?;
    fs::set_permissions(&limited, fs::Permissions::from_mode(0o755))?;
    let agent = Agent::start(stage.lab().node(), &limited, stage.workspace())?;
    ensure!(
        agent.log().contains("gateway.maxConnections is lowered"),
        "{}",
        agent.log_tail()
    );

    let target = listener(Neighbour::Attacker.node_ipv4());
    let held: Vec<TcpStream> = stage.lab().neighbour(Neighbour::Attacker).run(|| {
        let connect = |_| TcpStream::connect_timeout(&target, Duration::from_secs(1)).ok();
        Ok((0..TRIED).filter_map(connect).collect())
    })?;
    ensure!(held.len() > ROOM, "{} connections", held.len());
    // The agent answers, reads files and changes maps meanwhile.
    for _ in 0..5 {
        let answer = agent.get("/readyz")?;
        ensure!(answer.status == StatusCode::OK, "{}", answer.status);
    }
    let open = agent.metrics()?.sum("enforcer_connections", &[]);
    ensure!(open <= 1.0 + ROOM as f64, "{open} connections are open");
    let policy = packet_policy("edge", "interfaces: [to-client]\n  ports: [tcp/8443, tcp/8444]");
    stage.workspace().write_policy(EDGE, &policy)?;
    wait_until("the changed policy in force", || {
        Ok(json(&agent, "/v1/status")?["generation"] == 2)
    })?;
    drop(held);
    wait_until("others are served", || {
        let answer = stage.ask(stage.verified_client()?, Ask::get(OPEN))?;
        Ok(answer.is_ok_and(|answer| answer.status == StatusCode::OK))
    })
}
