//! The series of `/metrics`: bounded whatever strangers send, whole in every scrape, gone with their policies.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use anyhow::{Result, ensure};
use http::{HeaderValue, Method, header};
use lab::{
    agent::{ADMIN, Agent},
    client::{Ask, Client, Protocol},
    frame::Payload,
    metrics::Metrics,
    netns::Namespace,
    topology::Neighbour,
};

use crate::{
    exposition::{PORT, setting, touch_everything},
    setting::{Caller, EDGE, OPEN, REPORTS_PER_MINUTE, listener, put_in_force, wait_until},
    traffic::flood,
};

const STRANGERS: usize = 1000;

/// Every series that there is.
fn series(agent: &Agent) -> Result<BTreeSet<String>> {
    let answer = agent.get("/metrics")?;
    let text = String::from_utf8(answer.body.to_vec())?;
    Metrics::parse(&text)?;
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    Ok(lines
        .filter_map(|line| line.rsplit_once(' '))
        .map(|(series, _)| series.to_owned())
        .collect())
}

/// What only a stranger would send.
fn strange(number: usize) -> Result<[Ask; 3]> {
    let path = Ask::get(&format!("/v1/open/{number}?{number}"));
    let host = HeaderValue::from_str(&format!("host-{number}.example"))?;
    let host = Ask::get(OPEN).with_header(header::HOST, host);
    let mut method = Ask::get(OPEN);
    method.method = Method::from_bytes(format!("M{number}").as_bytes())?;
    Ok([path, host, method])
}

fn send_strange(caller: &Caller, client: &Client, numbers: std::ops::Range<usize>) -> Result<()> {
    let asks: Vec<Ask> = numbers
        .map(strange)
        .collect::<Result<Vec<_>>>()?
        .into_iter()
        .flatten()
        .collect();
    let client = client.clone();
    let (sent, expected) = (asks.len(), asks.len());
    let answered = caller.thread().wait(async move {
        let mut connection = client.connect().await?;
        let mut answered = 0;
        for ask in &asks {
            match connection.send(ask).await {
                Ok(_) => answered += 1,
                // The gateway may end the connection of who misbehaves.
                Err(_) => connection = client.connect().await?,
            }
        }
        Ok::<_, lab::client::Failure>(answered)
    })??;
    ensure!(
        answered * 10 >= expected * 9,
        "{answered} of {sent} requests were answered"
    );
    Ok(())
}

#[test]
fn strangers_make_no_series() -> Result<()> {
    let Some(stage) = setting().stage()? else {
        return Ok(());
    };
    touch_everything(&stage)?;
    let agent = stage.agent();
    let caller = Caller::at(stage.lab().neighbour(Neighbour::Client))?;
    let client = stage.client_of(listener(Neighbour::Client.node_ipv4()), None, Protocol::Http1)?;
    send_strange(&caller, &client, 0..1)?;
    let counted = |metrics: &Metrics| metrics.sum("enforcer_requests_total", &[]);
    let settle = |least: f64| agent.wait_for("requests counted", |metrics| counted(metrics) >= least);
    // Five, the reports and one too many, two, and the first three strange ones.
    let touched = (5 + REPORTS_PER_MINUTE + 1 + 2 + 3) as f64;
    settle(touched)?;
    let before = series(agent)?;

    send_strange(&caller, &client, 1..STRANGERS + 1)?;
    let first = IpAddr::V4(Ipv4Addr::new(100, 65, 0, 1));
    let to = SocketAddr::new(Neighbour::Attacker.node_ipv4(), PORT);
    let dropped = |metrics: &Metrics| metrics.sum("enforcer_packets_total", &[("verdict", "drop")]);
    let dropped_before = dropped(&agent.metrics()?);
    let flooding = flood(
        stage.lab(),
        Payload::Udp { bytes: 64 },
        first,
        100_000,
        to,
        100_000,
    )?;
    agent.wait_for("a flood from many sources", |metrics| {
        dropped(metrics) > dropped_before + 100_000.0
    })?;
    flooding.stop()?;
    settle(touched + 2.9 * STRANGERS as f64 * 0.9)?;
    let after = series(agent)?;
    let new: Vec<&String> = after.difference(&before).collect();
    ensure!(new.is_empty(), "new series: {new:#?}");
    Ok(())
}

/// Several servers scrape at the same time. Each sees counters that only rise, and all of the series.
#[test]
fn scrapes_at_the_same_time_do_not_disturb_each_other() -> Result<()> {
    const SCRAPERS: usize = 8;
    const SCRAPES: usize = 80;
    let Some(stage) = setting().stage()? else {
        return Ok(());
    };
    let first = IpAddr::V4(Ipv4Addr::new(100, 64, 0, 1));
    let to = SocketAddr::new(Neighbour::Attacker.node_ipv4(), PORT);
    let flooding = flood(stage.lab(), Payload::Udp { bytes: 64 }, first, 100, to, 20_000)?;
    let node = stage.lab().node();
    let histories = std::thread::scope(|scope| {
        let scrapers: Vec<_> = (0..SCRAPERS)
            .map(|_| scope.spawn(|| scrape_often(node, SCRAPES)))
            .collect();
        let histories = scrapers.into_iter().map(std::thread::ScopedJoinHandle::join);
        histories
            .map(|history| history.map_err(|_| anyhow::anyhow!("a scraper panicked"))?)
            .collect::<Result<Vec<_>>>()
    })?;
    flooding.stop()?;
    for metrics in histories.iter().flatten() {
        let attached = metrics.sum("enforcer_interface_attached", &[]);
        ensure!(attached == 3.0, "{attached} of 3 interfaces are in a scrape");
    }
    for history in &histories {
        let counts: Vec<f64> = history
            .iter()
            .map(|metrics| metrics.sum("enforcer_packets_total", &[("verdict", "drop")]))
            .collect();
        ensure!(counts.is_sorted(), "a counter fell: {counts:?}");
        ensure!(counts.last() > counts.first(), "no traffic: {counts:?}");
    }
    Ok(())
}

fn scrape_often(node: &Namespace, times: usize) -> Result<Vec<Metrics>> {
    let scraper = Caller::at(node)?;
    let client = Client::plain(ADMIN);
    let scrape = |_| {
        let answer = scraper.once(&client, &Ask::get("/metrics"))??;
        Metrics::parse(std::str::from_utf8(&answer.body)?)
    };
    (0..times).map(scrape).collect()
}

/// What no policy is called any more is no series any more.
#[test]
fn series_go_with_their_policies() -> Result<()> {
    let Some(stage) = setting().stage()? else {
        return Ok(());
    };
    touch_everything(&stage)?;
    let of = |policy: &str, limit: &str| -> Result<usize> {
        let metrics = stage.agent().metrics()?;
        let names = [
            "enforcer_packets_total",
            "enforcer_packet_bytes_total",
            "enforcer_policy_state",
        ];
        let samples = names.iter().flat_map(|name| metrics.samples(name));
        Ok(samples
            .filter(|sample| sample.label("policy") == policy && sample.label("limit") == limit)
            .count())
    };
    ensure!(of("enforced", "")? > 0 && of("enforced", "first")? > 0 && of("shadow", "only")? > 0);
    let edge = setting()
        .edge
        .replace("name: enforced", "name: renamed")
        .replace("name: only", "name: sole");
    put_in_force(&stage, EDGE, &edge)?;
    ensure!(of("renamed", "first")? > 0 && of("shadow", "sole")? > 0 && of("shadow", "")? > 0);
    // The controller forgets a policy's state in its next interval.
    wait_until("no series of what is gone", || {
        Ok(of("enforced", "")? + of("enforced", "first")? + of("shadow", "only")? == 0)
    })?;
    Ok(())
}
