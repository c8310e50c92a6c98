//! Limits on the bytes that leave.

use std::{
    net::{SocketAddr, UdpSocket},
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use lab::{agent::Signal, topology::Neighbour};

use crate::cluster::{ALLOWED, Cluster, Pod};

/// Bytes a second: 8 Mbit/s.
const RATE: f64 = 1e6;
/// More than a second's worth, so that a sender that is held up for that long loses nothing.
const BURST: f64 = 1_500_000.0;
/// How long is sent.
const TIME: Duration = Duration::from_secs(4);
/// The payload of a datagram.
const PAYLOAD: usize = 1_000;

fn policy(per: &str) -> String {
    format!(
        "apiVersion: enforcer.dev/v1
kind: PacketPolicy
metadata: {{name: pods}}
spec:
  interfaces: [\"pod*\"]
  egress:
    of: pod
    limits: [{{name: bytes, per: {per}, rate: 8Mbit/s, burst: 1500000}}]
"
    )
}

#[test]
fn limits_on_bytes_hold() -> Result<()> {
    let Some(cluster) = Cluster::build()? else {
        return Ok(());
    };
    let pod = Pod::create(&cluster.lab, 1)?;
    for per in ["destination", "interface"] {
        cluster.write(&policy(per))?;
        let agent = cluster.start()?;
        let to = Neighbour::UpstreamA;
        let bytes = || -> Result<f64> {
            let labels = [
                ("policy", "pods"),
                ("reason", "egress-allowed"),
                ("verdict", "pass"),
            ];
            Ok(agent.metrics()?.sum("enforcer_packet_bytes_total", &labels))
        };
        let before = bytes()?;
        let began = Instant::now();
        pod.namespace.run(|| {
            let socket = UdpSocket::bind("0.0.0.0:0")?;
            while began.elapsed() < TIME {
                // More than four times the rate.
                for _ in 0..9 {
                    socket.send_to(&[0; PAYLOAD], SocketAddr::new(to.ipv4(), ALLOWED))?;
                }
                std::thread::sleep(Duration::from_millis(2));
            }
            Ok(())
        })?;
        let elapsed = began.elapsed().as_secs_f64();
        let passed = bytes()? - before;
        let expected = BURST + RATE * elapsed;
        println!("per {per}: {passed} bytes of {expected:.0} in {elapsed:.3} s");
        ensure!(
            (passed / expected - 1.0).abs() < 0.02,
            "{passed} bytes passed, {expected} should have"
        );
        let labels = [("policy", "pods"), ("limit", "bytes"), ("verdict", "drop")];
        ensure!(agent.metrics()?.sum("enforcer_packets_total", &labels) > 0.0);
        agent.stop(Signal::Terminate)?;
    }
    Ok(())
}
