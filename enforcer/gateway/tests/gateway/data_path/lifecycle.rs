//! Policies and processes come and go; requests do not notice.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use enforcer_gateway::signal::Verdict;
use http::StatusCode;
use tokio::task::JoinSet;

use crate::data_path::support::{
    Lab, Plan,
    client::{self, Client, H1, H2},
    eventually, in_time,
    origin::Origin,
    policy,
};

/// Clients that ask without a pause until told to stop.
struct Load {
    tasks: JoinSet<Result<(), String>>,
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
}

impl Load {
    /// `count` clients, half of them HTTP/2. One whose connection the gateway has closed, or announced
    /// to close, opens another; that fails only once the gateway no longer listens.
    async fn start(lab: &Lab, count: usize) -> Self {
        let mut load = Self {
            tasks: JoinSet::new(),
            stop: Arc::default(),
            answered: Arc::default(),
        };
        for index in 0..count {
            let alpn = if index % 2 == 0 { H1 } else { H2 };
            let (address, config) = (lab.address, lab.pki.client_config(None, alpn));
            let (stop, answered) = (Arc::clone(&load.stop), Arc::clone(&load.answered));
            load.tasks.spawn(async move {
                while let Ok(stream) = client::tls(address, Arc::clone(&config)).await {
                    let mut client = Client::over(stream).await;
                    loop {
                        if stop.load(Ordering::SeqCst) {
                            return Ok(());
                        }
                        let reply = match client.send(client::get("/slow")).await {
                            Ok(reply) => reply,
                            // The gateway said that it does not take the request: nothing is lost.
                            Err(error) if refused_unseen(&error) => break,
                            Err(error) => return Err(format!("{index}: {error:?}")),
                        };
                        if reply.status != StatusCode::OK {
                            return Err(format!("{index}: {reply:?}"));
                        }
                        answered.fetch_add(1, Ordering::SeqCst);
                        if reply
                            .headers
                            .get("connection")
                            .is_some_and(|value| value == "close")
                        {
                            break;
                        }
                    }
                }
                Ok(())
            });
        }
        load.more_answers(count).await;
        load
    }

    async fn more_answers(&self, count: usize) {
        let before = self.answered.load(Ordering::SeqCst);
        eventually("requests are answered", async || {
            self.answered.load(Ordering::SeqCst) >= before + count
        })
        .await;
    }

    async fn end(mut self) {
        self.stop.store(true, Ordering::SeqCst);
        while let Some(result) = in_time("the clients end", self.tasks.join_next()).await {
            assert_eq!(result.unwrap(), Ok(()));
        }
    }
}

/// Whether the request has not been sent, because the gateway had said good-bye (GOAWAY).
fn refused_unseen(error: &hyper::Error) -> bool {
    error.is_canceled() || error.is_closed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn draining_loses_no_request() {
    let origin = Origin::start().await;
    let lab = Plan::default().start(policy::open(&[origin.address]));
    let load = Load::start(&lab, 16).await;
    let Lab {
        gateway, recorder, ..
    } = lab;
    assert_eq!(in_time("the drain", gateway.drain(None)).await, 0, "none is cut");
    load.end().await;
    recorder.look(|seen| {
        let lost: Vec<_> = seen
            .verdicts
            .iter()
            .filter(|verdict| **verdict != (Verdict::Allowed, 200))
            .collect();
        assert!(lost.is_empty(), "{lost:?}");
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn draining_waits_and_then_cuts() {
    let origin = Origin::start().await;
    let lab = Plan::default().start(policy::open(&[origin.address]));
    let mut held = Client::connect(&lab, H1).await;
    let held = tokio::spawn(async move { held.send(client::get("/held")).await });
    eventually("it is under way", async || origin.requests() == 1).await;
    let mut idle = Client::connect(&lab, H2).await;
    idle.get("/").await;
    let cut = in_time("the drain", lab.gateway.drain(Some(Duration::from_millis(300)))).await;
    assert_eq!(cut, 1);
    assert!(held.await.unwrap().is_err());
    assert!(
        client::tls(lab.address, lab.pki.client_config(None, H1))
            .await
            .is_err(),
        "nobody listens"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_under_way_ends_while_draining() {
    let origin = Origin::start().await;
    let lab = Plan::default().start(policy::open(&[origin.address]));
    let mut waits = Vec::new();
    for alpn in [H1, H2] {
        let mut client = Client::connect(&lab, alpn).await;
        waits.push(tokio::spawn(
            async move { client.send(client::get("/held")).await },
        ));
    }
    eventually("both are under way", async || origin.requests() == 2).await;
    let drain = tokio::spawn(lab.gateway.drain(None));
    eventually("nobody listens", async || {
        tokio::net::TcpStream::connect(lab.address).await.is_err()
    })
    .await;
    assert!(!drain.is_finished());
    origin.state.gate.add_permits(2);
    assert_eq!(in_time("the drain", drain).await.unwrap(), 0);
    for wait in waits {
        assert_eq!(wait.await.unwrap().unwrap().body, "released");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_meets_the_drain_is_answered() {
    // An idle connection stays open for 500 ms, and what is to be seen must happen within them.
    const SOON: Duration = Duration::from_millis(250);
    let origin = Origin::start().await;
    for _ in 0..20 {
        let lab = Plan::default().start(policy::open(&[origin.address]));
        let mut idle = Client::connect(&lab, H1).await;
        assert_eq!(idle.get("/").await.status, 200);
        let began = Instant::now();
        let drain = tokio::spawn(lab.gateway.drain(None));
        eventually("nobody listens", async || {
            tokio::net::TcpStream::connect(lab.address).await.is_err()
        })
        .await;
        let late = began.elapsed() > SOON;
        let reply = idle.send(client::get("/")).await;
        assert_eq!(in_time("the drain", drain).await.unwrap(), 0);
        if !late {
            assert_eq!(reply.unwrap().headers["connection"], "close");
            return;
        }
    }
    panic!("the machine is too busy to see what happens within {SOON:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_to_endpoints_that_stay_are_kept() {
    let origin = Origin::start().await;
    let plan = Plan {
        workers: 1,
        ..Plan::default()
    };
    let lab = plan.start(policy::open(&[origin.address]));
    let mut client = Client::connect(&lab, H1).await;
    for _ in 0..5 {
        assert_eq!(client.get("/").await.status, 200);
        lab.policies.replace(policy::open(&[origin.address]));
    }
    assert_eq!(origin.state.connections.load(Ordering::SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replacing_policies_loses_no_request() {
    let (a, b) = (Origin::start().await, Origin::start().await);
    let lab = Plan::default().start(policy::open(&[a.address]));
    let load = Load::start(&lab, 8).await;
    let sets = [
        policy::open(&[b.address]),
        policy::open(&[a.address, b.address]),
        policy::open(&[a.address]),
    ];
    for set in sets.iter().cycle().take(30) {
        lab.policies.replace(set.clone());
        load.more_answers(4).await;
    }
    let connections = a.state.connections.load(Ordering::SeqCst);
    assert!(a.requests() > 0 && b.requests() > 0);
    assert!(
        connections <= 40 * 8,
        "{connections} connections to a, for {} requests",
        a.requests()
    );
    load.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_policy_holds_for_the_next_request() {
    let origin = Origin::start().await;
    let lab = Plan::default().start(policy::open(&[origin.address]));
    let mut clients = [Client::connect(&lab, H1).await, Client::connect(&lab, H2).await];
    for client in &mut clients {
        assert_eq!(client.get("/").await.status, 200);
    }
    lab.policies.replace(enforcer_model::PolicySet::default());
    for client in &mut clients {
        assert_eq!(client.get("/").await.status, 404);
    }
    lab.policies.replace(policy::open(&[origin.address]));
    for client in &mut clients {
        assert_eq!(client.get("/").await.status, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_gateway_is_gone() {
    let origin = Origin::start().await;
    let lab = Plan::default().start(policy::open(&[origin.address]));
    let mut client = Client::connect(&lab, H1).await;
    assert_eq!(client.get("/").await.status, 200);
    drop(lab.gateway);
    assert!(tokio::net::TcpStream::connect(lab.address).await.is_err());
}
