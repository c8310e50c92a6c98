//! What clients cost that ask and never read what is answered.

use std::fs;

use anyhow::{Context as _, Result, bail, ensure};
use http::StatusCode;
use lab::{
    client::{Ask, Protocol},
    demo::{screen::Screen, setup::Stage},
    privilege::root_or_skip,
    topology::Neighbour,
};
use tokio::io::AsyncWriteExt as _;

use crate::setting::{Caller, OPEN, Setting, listener};

/// How many clients do so at once.
const CLIENTS: usize = 32;
/// What each would send, in bytes.
const FLOOD: usize = 1 << 30;
/// What each may cost the agent, in KiB: the buffers of TLS and HTTP/2, and what the allocator keeps beside.
const EACH: u64 = 256;

/// The preface, empty SETTINGS, and then PINGs (RFC 9113 sections 3.4, 6.5 and 6.7).
const HELLO: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
const PING: &[u8] = b"\0\0\x08\x06\0\0\0\0\0\0\0\0\0\0\0\0\0";

/// A line of what the kernel says of the agent's memory, in KiB.
fn memory(stage: &Stage, name: &str) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{}/status", stage.agent().pid()))?;
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|rest| rest.split_whitespace().nth(1));
    Ok(number.with_context(|| format!("no {name}"))?.parse()?)
}

/// RFC 9113 section 10.5: the answers to PINGs wait in bounded buffers, then nothing more of the client is read, and in
/// the end it is cut.
#[test]
fn floods_of_pings_cost_the_agent_no_memory() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let mut plan = Setting::default().plan();
    let tls = "clientCertificates: required}";
    ensure!(plan.config.contains(tls), "{}", plan.config);
    plan.config = plan
        .config
        .replace(tls, &format!("{tls}\n      timeouts: {{header: 2s, idle: 2s}}"));
    let stage = Stage::build(&Screen::default(), &plan)?;
    let caller = Caller::at(stage.lab().neighbour(Neighbour::Client))?;
    let node = listener(Neighbour::Client.node_ipv4());
    let client = stage
        .client_of(node, Some(stage.identity()), Protocol::Http2)?
        .with_receive_buffer(4096);
    let flood = |bytes: usize| {
        let client = client.clone();
        caller.thread().begin(async move {
            let Ok(Some(mut stream)) = client.connect_raw().await else {
                bail!("there is no connection");
            };
            stream.write_all(HELLO).await?;
            let (pings, mut sent) = (PING.repeat(1000), 0);
            while sent < bytes {
                match stream.write(&pings[sent % pings.len()..]).await {
                    Ok(more) => sent += more,
                    Err(_cut) => break,
                }
            }
            Ok(sent)
        })
    };
    // What connections cost at first is no matter here.
    let few: Vec<_> = (0..CLIENTS).map(|_| flood(PING.len())).collect();
    for each in few {
        each.wait()??;
    }
    let before = memory(&stage, "VmRSS")?;
    // The peak is counted from here.
    fs::write(format!("/proc/{}/clear_refs", stage.agent().pid()), "5")?;
    let floods: Vec<_> = (0..CLIENTS).map(|_| flood(FLOOD)).collect();
    let mut taken = 0;
    for each in floods {
        let sent = each.wait()??;
        ensure!(sent < FLOOD, "all of it was taken");
        taken += sent;
    }
    let grown = memory(&stage, "VmHWM")?.saturating_sub(before);
    println!(
        "{CLIENTS} clients sent {} KiB, and the agent grew by {grown} KiB",
        taken >> 10
    );
    ensure!(grown <= CLIENTS as u64 * EACH, "{grown} KiB from {before} KiB");
    let (_, answer) = caller.send(caller.open(&client)?, &Ask::get(OPEN))?;
    ensure!(answer.status == StatusCode::OK, "{}", answer.status);
    Ok(())
}
