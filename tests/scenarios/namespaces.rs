//! The lab leaves nothing behind: not when dropped, not after a panic, not after a signal.

use std::{
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use lab::{
    kernel::Program,
    netns::{self, Namespace},
    privilege::root_or_skip,
    topology::{Lab, NEIGHBOUR_INTERFACE, NEIGHBOURS, Neighbour},
};

const PATIENCE: Duration = Duration::from_secs(10);

#[test]
fn neighbours_reach_the_node_and_nothing_is_left() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let lab = Lab::create()?;
    let prefix = lab.prefix().to_owned();
    for neighbour in NEIGHBOURS {
        // On the far end of each link, so that TCP works through native XDP too.
        let _pass = Program::Pass.attach(lab.neighbour(neighbour), NEIGHBOUR_INTERFACE)?;
        for address in [neighbour.node_ipv4(), neighbour.node_ipv6()] {
            let listener = lab
                .node()
                .run(|| Ok(std::net::TcpListener::bind((address, 0))?))?;
            let target = listener.local_addr()?;
            let connected = lab
                .neighbour(neighbour)
                .run(|| Ok(std::net::TcpStream::connect_timeout(&target, PATIENCE)?));
            assert!(connected.is_ok(), "{}: {connected:?}", neighbour.name());
        }
    }
    assert_eq!(netns::list(&prefix)?.len(), 5);
    drop(lab);
    assert_eq!(netns::list(&prefix)?, Vec::<String>::new());
    Ok(())
}

#[test]
fn a_panic_leaves_nothing() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let (sender, receiver) = std::sync::mpsc::channel();
    let panicked = std::thread::spawn(move || -> Result<()> {
        let lab = Lab::create()?;
        let _attached = Program::Count.attach(lab.node(), Neighbour::Attacker.node_interface())?;
        sender.send(lab.prefix().to_owned())?;
        panic!("on purpose");
    });
    assert!(panicked.join().is_err());
    let prefix = receiver.recv()?;
    assert_eq!(netns::list(&prefix)?, Vec::<String>::new());
    Ok(())
}

#[test]
fn a_thread_returns_to_its_namespace() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let here = || std::fs::read_link("/proc/thread-self/ns/net");
    let before = here()?;
    let namespace = Namespace::create(&format!("{}{}-visit", netns::PREFIX, std::process::id()))?;
    {
        let _entered = namespace.enter()?;
        assert_ne!(here()?, before);
    }
    assert_eq!(here()?, before);
    Ok(())
}

/// Starts `lab up` in a process of its own; gives it, once it is up, with its namespaces' prefix.
fn lab_process() -> Result<(Child, String)> {
    let mut child = Command::new(env!("CARGO_BIN_EXE_lab"))
        .args(["up"])
        .stdout(Stdio::piped())
        .spawn()?;
    let mut lines = BufReader::new(child.stdout.take().context("no output")?).lines();
    let ready = lines.any(|line| line.is_ok_and(|line| line.starts_with("ready")));
    ensure!(ready, "`lab up` ended early");
    let prefix = format!("{}{}-", netns::PREFIX, child.id());
    ensure!(netns::list(&prefix)?.len() == 5, "`lab up` made no lab");
    Ok((child, prefix))
}

fn send(signal: &str, child: &Child) -> Result<()> {
    let sent = Command::new("kill")
        .args([signal, &child.id().to_string()])
        .status()?;
    ensure!(sent.success(), "cannot send {signal}");
    Ok(())
}

#[test]
fn a_signal_leaves_nothing() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    for signal in ["-INT", "-TERM"] {
        let (mut child, prefix) = lab_process()?;
        send(signal, &child)?;
        assert_eq!(child.wait()?.code(), Some(0), "after {signal}");
        assert_eq!(netns::list(&prefix)?, Vec::<String>::new(), "after {signal}");
    }
    Ok(())
}

#[test]
fn the_next_lab_removes_what_a_killed_one_left() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let (mut child, prefix) = lab_process()?;
    send("-KILL", &child)?;
    child.wait()?;
    let _next = Lab::create()?;
    assert_eq!(netns::list(&prefix)?, Vec::<String>::new());
    Ok(())
}
