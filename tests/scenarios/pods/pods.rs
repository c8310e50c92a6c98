//! Pods reach what their policy allows, are answered and answer, and reach nothing else.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use lab::{agent::Agent, agent::Signal, netns::Namespace, topology::Neighbour};

use crate::cluster::{
    ALL_WAYS, ALLOWED, ALLOWED_WAYS, Cluster, OTHER, Pod, Way, addresses, expect, expect_none,
};

const A: Neighbour = Neighbour::UpstreamA;
const B: Neighbour = Neighbour::UpstreamB;

/// Upstream a by one port and echo requests; of b the IPv4 address by echo requests.
fn policy(mode: &str) -> String {
    let ports = format!("[tcp/{ALLOWED}, udp/{ALLOWED}, icmp]");
    format!(
        "apiVersion: enforcer.dev/v1
kind: PacketPolicy
metadata: {{name: pods}}
spec:
  mode: {mode}
  interfaces: [\"pod*\"]
  egress:
    of: pod
    default: deny
    allow:
      - {{cidr: {}/32, ports: {ports}}}
      - {{cidr: {}/128, ports: {ports}}}
      - {{cidr: {}/32, ports: icmp}}
",
        A.ipv4(),
        A.ipv6(),
        B.ipv4(),
    )
}

/// That the policy holds for a pod, and holds nobody up who speaks to it.
fn check(cluster: &Cluster, pod: &Pod) -> Result<()> {
    let inside = &pod.namespace;
    for address in addresses(A) {
        expect(inside, address, &ALLOWED_WAYS)?;
        expect_none(inside, address, &[Way::Tcp(OTHER), Way::Udp(OTHER)])?;
    }
    expect(inside, B.ipv4(), &[Way::Echo])?;
    expect_none(inside, B.ipv4(), &[Way::Tcp(ALLOWED), Way::Udp(ALLOWED)])?;
    expect_none(inside, B.ipv6(), &ALL_WAYS)?;
    // The node is a destination as any other.
    for address in pod.node_addresses() {
        expect_none(inside, address, &ALL_WAYS)?;
    }
    let client = cluster.lab.neighbour(Neighbour::Client);
    for address in pod.addresses() {
        expect(client, address, &ALL_WAYS).context("from the client")?;
        expect(cluster.lab.node(), address, &ALL_WAYS).context("from the node")?;
    }
    // Who was answered is not reached for that.
    for address in addresses(Neighbour::Client) {
        expect_none(inside, address, &ALL_WAYS)?;
    }
    Ok(())
}

fn check_open(pod: &Pod) -> Result<()> {
    for address in [addresses(A), addresses(B), pod.node_addresses()].concat() {
        expect(&pod.namespace, address, &ALL_WAYS)?;
    }
    Ok(())
}

/// Whether status says that what an interface's other end sends is judged.
fn is_covered(agent: &Agent, interface: &str) -> Result<bool> {
    let answer = agent.get("/v1/status")?;
    let status: serde_json::Value = serde_json::from_slice(&answer.body)?;
    let interfaces = status["kernel"]["interfaces"]
        .as_array()
        .context("no interfaces")?;
    Ok(interfaces
        .iter()
        .any(|each| each["name"] == interface && each["pod"] == true))
}

/// Waits until an interface is covered, and says how long it has been there.
fn covered(agent: &Agent, interface: &str, since: Instant) -> Result<Duration> {
    while !is_covered(agent, interface)? {
        ensure!(
            since.elapsed() < Duration::from_secs(20),
            "{interface} is not covered: {}",
            agent.log_tail()
        );
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(since.elapsed())
}

fn counted(agent: &Agent, reason: &str, verdict: &str) -> Result<f64> {
    let labels = [
        ("policy", "pods"),
        ("direction", "egress"),
        ("reason", reason),
        ("verdict", verdict),
    ];
    Ok(agent.metrics()?.sum("enforcer_packets_total", &labels))
}

#[test]
fn a_pod_reaches_what_its_policy_allows_and_answers_whoever_asks() -> Result<()> {
    let Some(cluster) = Cluster::build()? else {
        return Ok(());
    };
    let first = Pod::create(&cluster.lab, 1)?;
    check_open(&first).context("without an agent")?;
    cluster.write(&policy("shadow"))?;
    let agent = cluster.start()?;
    ensure!(is_covered(&agent, &first.interface)?);
    check_open(&first).context("in shadow")?;
    ensure!(counted(&agent, "egress-default", "shadow")? > 0.0);
    ensure!(counted(&agent, "egress-default", "drop")? == 0.0);

    cluster.put_in_force(&agent, &policy("enforce"))?;
    check(&cluster, &first).context("enforced")?;
    for (reason, verdict) in [
        ("egress-default", "drop"),
        ("egress-allowed", "pass"),
        ("egress-reply", "pass"),
        ("to-pod", "pass"),
    ] {
        ensure!(counted(&agent, reason, verdict)? > 0.0, "no {reason} {verdict}");
    }

    // A pod that comes later.
    let since = Instant::now();
    let second = Pod::create(&cluster.lab, 2)?;
    let there = since.elapsed();
    let after = covered(&agent, &second.interface, since)?;
    println!(
        "a new interface was covered at most {after:?} after its creation began, which itself took {there:?}"
    );
    check(&cluster, &second).context("of a pod that came later")?;
    check(&cluster, &first).context("of the first pod, again")?;

    // One by the same name.
    second.wire_anew(&cluster.lab)?;
    covered(&agent, &second.interface, Instant::now())?;
    check(&cluster, &second).context("of an interface made anew")?;
    let failures = agent.metrics()?.sum("enforcer_interface_failures", &[]);
    ensure!(failures == 0.0, "{failures} failures");

    agent.stop(Signal::Terminate)?;
    check_open(&first).context("after the agent")
}

/// Linux before 6.2 renames no interface that is up, and one that goes down loses its IPv6 addresses.
fn rename(node: &Namespace, pod: &Pod, from: &str, to: &str) -> Result<()> {
    if node.ip(&["link", "set", from, "name", to]).is_ok() {
        return Ok(());
    }
    node.ip(&["link", "set", from, "down"])?;
    node.ip(&["link", "set", from, "name", to])?;
    node.ip(&["link", "set", to, "up"])?;
    let [_, v6] = pod.node_addresses();
    node.ip(&["address", "add", &format!("{v6}/64"), "dev", to, "nodad"])
}

#[test]
fn interfaces_are_followed_as_they_are_renamed_and_moved() -> Result<()> {
    let Some(cluster) = Cluster::build()? else {
        return Ok(());
    };
    cluster.write(&policy("enforce"))?;
    let agent = cluster.start()?;
    let pod = Pod::create(&cluster.lab, 1)?;
    let node = cluster.lab.node();
    covered(&agent, "pod1", Instant::now())?;
    let gone = |name: &str| -> Result<()> {
        let since = Instant::now();
        while is_covered(&agent, name)? {
            ensure!(since.elapsed() < Duration::from_secs(20), "{name} is still there");
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    };
    rename(node, &pod, "pod1", "other1")?;
    gone("pod1")?;
    expect(&pod.namespace, B.ipv4(), &ALL_WAYS).context("under a name that no policy is about")?;
    // Under one that another had.
    rename(node, &pod, "other1", "pod9")?;
    covered(&agent, "pod9", Instant::now())?;
    expect_none(&pod.namespace, B.ipv4(), &[Way::Tcp(ALLOWED)])?;
    // To another namespace, and back under the same index.
    let elsewhere = cluster.lab.neighbour(Neighbour::Attacker);
    node.ip(&["link", "set", "pod9", "netns", elsewhere.name()])?;
    gone("pod9")?;
    elsewhere.ip(&["link", "set", "pod9", "name", "pod1"])?;
    elsewhere.ip(&["link", "set", "pod1", "netns", node.name()])?;
    covered(&agent, "pod1", Instant::now())?;
    let [v4, v6] = pod.node_addresses();
    node.ip(&["address", "add", &format!("{v4}/24"), "dev", "pod1"])?;
    node.ip(&["address", "add", &format!("{v6}/64"), "dev", "pod1", "nodad"])?;
    node.ip(&["link", "set", "pod1", "up"])?;
    check(&cluster, &pod).context("back in its namespace")?;
    agent.stop(Signal::Terminate)?;
    Ok(())
}
