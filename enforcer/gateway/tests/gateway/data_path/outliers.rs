//! Endpoints at which requests fail, or that go and come back.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use enforcer_model::{Balance, Outliers};

use crate::data_path::{
    bounds::{UNAVAILABLE, answering, counted, number, one_worker, set},
    support::{
        Lab, Plan,
        client::{Client, H1, H2},
        eventually,
        origin::Origin,
        policy,
    },
};

/// Round robin over a bad endpoint and a good one, with that law.
async fn with_outlier(answer: &'static str, law: Outliers) -> (Lab, SocketAddr, Arc<AtomicUsize>, Origin) {
    let (bad, tried) = answering(answer).await;
    let good = Origin::start().await;
    let mut service = policy::service(&[bad, good.address]);
    service.balance = Balance::RoundRobin;
    service.outliers = Some(law);
    (one_worker().start(set(service)), bad, tried, good)
}

async fn ejected(lab: &Lab, endpoint: SocketAddr, value: u8) {
    counted(
        lab,
        &format!(r#"enforcer_endpoint_ejected{{endpoint="{endpoint}",service="orders"}} {value}"#),
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_keeps_failing_is_taken_out_and_comes_back() {
    let law = Outliers {
        consecutive_5xx: number(3),
        base_ejection: Duration::from_millis(300),
        ..Outliers::default()
    };
    let (lab, bad, tried, good) = with_outlier(UNAVAILABLE, law).await;
    let mut client = Client::connect(&lab, H1).await;
    // Every other one fails, until three have.
    for _ in 0..6 {
        client.get("/").await;
    }
    eventually("it is out", async || {
        lab.metrics().contains(&format!(
            r#"enforcer_endpoint_ejections_total{{cause="errors",endpoint="{bad}",service="orders"}} 1"#
        ))
    })
    .await;
    ejected(&lab, bad, 0).await;
    let before = tried.load(Ordering::SeqCst);
    assert!(before >= 3 && good.requests() >= 3);
    eventually("it is used again", async || {
        client.get("/").await;
        tried.load(Ordering::SeqCst) > before
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_is_out_gets_no_request_and_the_last_one_stays() {
    let law = Outliers {
        consecutive_5xx: number(2),
        base_ejection: Duration::from_secs(3600),
        max_ejection: Duration::from_secs(3600),
        max_ejected_percent: 100,
        ..Outliers::default()
    };
    let (lab, bad, tried, good) = with_outlier(UNAVAILABLE, law).await;
    let mut client = Client::connect(&lab, H1).await;
    for _ in 0..4 {
        client.get("/").await;
    }
    ejected(&lab, bad, 1).await;
    let unused = lab.policies.unused_endpoints();
    assert_eq!(unused.len(), 1);
    assert_eq!(
        (unused[0].endpoint.clone(), unused[0].ejected, unused[0].unhealthy),
        (bad.to_string(), true, false)
    );
    let before = tried.load(Ordering::SeqCst);
    for _ in 0..10 {
        assert_eq!(client.get("/").await.status, 200);
    }
    assert_eq!(tried.load(Ordering::SeqCst), before);
    // A policy without the law lets it in again.
    let service = policy::service(&[bad, good.address]);
    lab.policies.replace(set(service));
    ejected(&lab, bad, 0).await;

    let mut alone = policy::service(&[bad]);
    alone.outliers = Some(law);
    let lab = one_worker().start(set(alone));
    let mut client = Client::connect(&lab, H1).await;
    for _ in 0..10 {
        assert_eq!(client.get("/").await.status, 503);
    }
    assert_eq!(
        tried.load(Ordering::SeqCst),
        before + 10,
        "the only one is never out"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn success_rates_are_judged() {
    let law = Outliers {
        consecutive_5xx: number(1000),
        success_rate: Some(enforcer_model::SuccessRate {
            below: 90,
            requests: number(5),
        }),
        interval: Duration::from_secs(1),
        base_ejection: Duration::from_secs(3600),
        max_ejection: Duration::from_secs(3600),
        ..Outliers::default()
    };
    let (lab, bad, _tried, _good) = with_outlier(UNAVAILABLE, law).await;
    let mut client = Client::connect(&lab, H1).await;
    eventually("it is out", async || {
        client.get("/").await;
        lab.metrics().contains(&format!(
            r#"enforcer_endpoint_ejections_total{{cause="success_rate",endpoint="{bad}",service="orders"}} 1"#
        ))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn loss_and_return_of_an_endpoint_under_load_fail_no_request() {
    let (stays, goes) = (Origin::start().await, Origin::start().await);
    let address = goes.address;
    let mut service = policy::service(&[stays.address, address]);
    service.outliers = Some(Outliers {
        base_ejection: Duration::from_millis(500),
        ..Outliers::default()
    });
    let lab = Arc::new(Plan::default().start(set(service)));
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let done = Arc::new(AtomicUsize::new(0));
    let mut load = Vec::new();
    for number in 0..8 {
        let (stop, done) = (Arc::clone(&stop), Arc::clone(&done));
        let mut client = Client::connect(&lab, if number % 2 == 0 { H1 } else { H2 }).await;
        load.push(tokio::spawn(async move {
            let mut failed = Vec::new();
            while !stop.load(Ordering::SeqCst) {
                let reply = client.get("/slow").await;
                if reply.status != 200 {
                    failed.push(reply.status.as_u16());
                }
                done.fetch_add(1, Ordering::SeqCst);
            }
            failed
        }));
    }
    let more = async |count: usize| {
        let before = done.load(Ordering::SeqCst);
        eventually("requests go on", async || {
            done.load(Ordering::SeqCst) >= before + count
        })
        .await;
    };
    let mut goes = Some(goes);
    for _ in 0..2 {
        more(50).await;
        // The listener and all connections end, with requests on them.
        goes.take().unwrap().stop().await;
        more(100).await;
        goes = Some(Origin::start_at(address).await);
        let back = goes.as_ref().unwrap();
        eventually("it serves again", async || back.requests() > 0).await;
    }
    stop.store(true, Ordering::SeqCst);
    for task in load {
        assert_eq!(task.await.unwrap(), Vec::<u16>::new());
    }
}
