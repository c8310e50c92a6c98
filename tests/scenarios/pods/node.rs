//! The node's own egress.

use anyhow::{Context as _, Result};
use lab::{agent::Signal, topology::Neighbour};

use crate::cluster::{
    ALL_WAYS, ALLOWED, ALLOWED_WAYS, Cluster, OTHER, Pod, Way, addresses, expect, expect_none,
};

#[test]
fn the_node_reaches_what_its_policy_allows_and_answers_whoever_asks() -> Result<()> {
    let Some(cluster) = Cluster::build()? else {
        return Ok(());
    };
    let (a, b, client) = (Neighbour::UpstreamA, Neighbour::UpstreamB, Neighbour::Client);
    let ports = format!("[tcp/{ALLOWED}, udp/{ALLOWED}, icmp]");
    cluster.write(&format!(
        "apiVersion: enforcer.dev/v1
kind: PacketPolicy
metadata: {{name: node}}
spec:
  interfaces: [\"to-*\"]
  egress:
    default: deny
    allow:
      - {{cidr: {}/32, ports: {ports}}}
      - {{cidr: {}/128, ports: {ports}}}
",
        a.ipv4(),
        a.ipv6()
    ))?;
    let pod = Pod::create(&cluster.lab, 1)?;
    let agent = cluster.start()?;
    let node = cluster.lab.node();
    for address in addresses(a) {
        expect(node, address, &ALLOWED_WAYS)?;
        expect_none(node, address, &[Way::Tcp(OTHER), Way::Udp(OTHER)])?;
        // What the node forwards leaves by the same interfaces.
        expect(&pod.namespace, address, &ALLOWED_WAYS)?;
    }
    for address in addresses(b) {
        expect_none(node, address, &ALL_WAYS)?;
        expect_none(&pod.namespace, address, &ALL_WAYS)?;
    }
    let outside = cluster.lab.neighbour(client);
    for address in [client.node_ipv4(), client.node_ipv6()] {
        expect(outside, address, &ALL_WAYS).context("the node's services")?;
    }
    for address in pod.addresses() {
        expect(outside, address, &ALL_WAYS).context("services behind the node")?;
    }
    for address in addresses(client) {
        expect_none(node, address, &ALL_WAYS)?;
    }
    agent.stop(Signal::Terminate)?;
    Ok(())
}
