//! What the kernel programs log for people who look for a fault of theirs.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use lab::{
    demo::{screen::Screen, setup::Stage},
    privilege::root_or_skip,
    topology::Neighbour,
};

use crate::{
    setting::{Setting, packet_policy, wait_until},
    traffic::{packets, send},
};

#[test]
fn the_programs_log_where_the_agents_log_takes_that_in() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    for (level, wanted) in [("debug", true), ("info", false)] {
        let setting = Setting {
            edge: packet_policy("edge", "interfaces: [to-client]\n  deny: [10.203.0.0/16]"),
            ..Setting::default()
        };
        let mut plan = setting.plan();
        plan.config = plan.config.replace("level: info", &format!("level: {level}"));
        let stage = Stage::build(&Screen::default(), &plan)?;
        let target = SocketAddr::new(Neighbour::Client.node_ipv4(), 7000);
        send(stage.lab().neighbour(Neighbour::Client), target, 3)?;
        wait_until("the drops", || {
            Ok(packets(stage.agent(), &[("reason", "denied")])? >= 3)
        })?;
        // An IPv4 packet of 50 bytes behind an Ethernet header.
        let line = "50 bytes, counted at";
        let said = || {
            stage
                .agent()
                .log()
                .lines()
                .filter(|said| said.contains(line))
                .count()
        };
        if wanted {
            wait_until("a line for each", || Ok(said() >= 3))?;
            let log = stage.agent().log();
            ensure!(log.contains("type 800 at 14"), "{log}");
        } else {
            ensure!(said() == 0, "{}", stage.agent().log());
        }
    }
    Ok(())
}
