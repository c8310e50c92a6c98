//! Listeners come, go and change while the gateway runs.

use std::{net::SocketAddr, num::NonZeroU64, time::Duration};

use enforcer_gateway::{
    GatewayError, ListenerChanges,
    config::{HandshakeBudget, ListenerConfig},
};
use tokio::net::TcpStream;

use crate::data_path::support::{
    Lab, Plan,
    client::{self, Client, H1, H2},
    eventually, in_time,
    origin::Origin,
    policy,
};

async fn lab() -> (Lab, Origin) {
    let origin = Origin::start().await;
    (Plan::default().start(policy::open(&[origin.address])), origin)
}

/// Where the listener of this name listens.
fn address_of(lab: &Lab, name: &str) -> SocketAddr {
    let addresses = lab.gateway.addresses();
    let found = addresses.iter().find(|(each, _)| each.as_str() == name);
    found.expect("it listens").1
}

fn change(lab: &Lab, listeners: &[ListenerConfig]) -> Result<ListenerChanges, GatewayError> {
    lab.gateway.listeners().change(listeners, None)
}

/// A change that names listeners of these names.
fn changes(added: &[&str], changed: &[&str], removed: &[&str]) -> ListenerChanges {
    let names = |names: &[&str]| names.iter().map(|name| name.parse().unwrap()).collect();
    ListenerChanges {
        added: names(added),
        changed: names(changed),
        removed: names(removed),
    }
}

async fn refuses(address: SocketAddr) -> bool {
    TcpStream::connect(address).await.is_err()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_that_is_added_serves_and_one_that_is_removed_lets_requests_finish() {
    let (lab, _origin) = lab().await;
    let first = lab.config.listeners[0].clone();
    let second = ListenerConfig {
        name: "second".parse().unwrap(),
        ..first.clone()
    };
    let done = change(&lab, &[first.clone(), second.clone()]).unwrap();
    assert_eq!(done, changes(&["second"], &[], &[]));
    let address = address_of(&lab, "second");
    let stream = client::tls(address, lab.pki.client_config(None, H2))
        .await
        .unwrap();
    let mut client = Client::over(stream).await;
    assert_eq!(client.get("/").await.status, 200);
    let idle = client::tls(address, lab.pki.client_config(None, H1))
        .await
        .unwrap();
    let mut idle = Client::over(idle).await;
    assert_eq!(idle.get("/").await.status, 200);

    // The response comes although its listener goes meanwhile.
    let (reply, done) = tokio::join!(client.get("/slow"), async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        change(&lab, std::slice::from_ref(&first)).unwrap()
    });
    assert_eq!(reply.status, 200);
    assert_eq!(done, changes(&[], &[], &["second"]));
    eventually("nothing listens there", async || refuses(address).await).await;
    in_time("the HTTP/2 connection ends", client.closed()).await;
    in_time("the idle connection ends", idle.closed()).await;
    // The gateway forgets a connection a moment after the client has seen its end.
    eventually("its metrics are gone", async || {
        !lab.metrics().contains("listener=\"second\"")
    })
    .await;
    assert_eq!(Client::connect(&lab, H1).await.get("/").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_change_for_later_connections_without_ending_any() {
    let (lab, _origin) = lab().await;
    let mut old = Client::connect(&lab, H1).await;
    assert_eq!(old.get("/").await.status, 200);
    let mut listener = lab.config.listeners[0].clone();
    listener.timeouts.idle = Duration::from_millis(200);
    let done = change(&lab, std::slice::from_ref(&listener)).unwrap();
    assert_eq!(done, changes(&[], &["main"], &[]));
    let mut new = Client::connect(&lab, H1).await;
    assert_eq!(new.get("/").await.status, 200);
    in_time("the new connection is idle for too long", new.closed()).await;
    assert_eq!(old.get("/").await.status, 200);
    assert!(change(&lab, &[listener]).unwrap().is_empty());
    // A listener that goes later ends these, too.
    let mut moved = lab.config.listeners[0].clone();
    moved.name = "other".parse().unwrap();
    change(&lab, &[moved]).unwrap();
    in_time("the old connection ends", old.closed()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_certificate_is_served_and_connections_with_the_old_end() {
    let (lab, _origin) = lab().await;
    let mut old = Client::connect(&lab, H2).await;
    assert_eq!(old.get("/").await.status, 200);
    lab.pki.write_server(9);
    let mut listener = lab.config.listeners[0].clone();
    let tls = listener.tls.as_mut().unwrap();
    for (of, to) in [("server.pem", "other.pem"), ("server.key", "other.key")] {
        std::fs::copy(lab.pki.path(of), lab.pki.path(to)).unwrap();
    }
    tls.certificates[0].certificate = lab.pki.path("other.pem");
    tls.certificates[0].key = lab.pki.path("other.key");
    let done = change(&lab, &[listener]).unwrap();
    assert_eq!(done, changes(&[], &["main"], &[]));
    in_time("the old connection ends", old.closed()).await;
    eventually("metrics name the new certificate alone", async || {
        let metrics = lab.metrics();
        metrics.contains("other.pem") && !metrics.contains("server.pem")
    })
    .await;
    assert_eq!(Client::connect(&lab, H2).await.get("/").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_with_one_bad_listener_changes_nothing() {
    let (lab, _origin) = lab().await;
    let mut first = lab.config.listeners[0].clone();
    first.timeouts.idle = Duration::from_millis(1);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let second = ListenerConfig {
        name: "second".parse().unwrap(),
        address: taken.local_addr().unwrap(),
        ..first.clone()
    };
    let error = change(&lab, &[first.clone(), second]).unwrap_err();
    assert!(
        matches!(&error, GatewayError::Listen { listener, .. } if listener.as_str() == "second"),
        "{error}"
    );
    let mut unreadable = first.clone();
    unreadable.tls.as_mut().unwrap().certificates[0].certificate = lab.pki.path("absent.pem");
    assert!(matches!(
        change(&lab, &[unreadable]),
        Err(GatewayError::Tls { .. })
    ));
    // The first listener still has its old time-out.
    let mut client = Client::connect(&lab, H1).await;
    assert_eq!(client.get("/").await.status, 200);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(client.get("/").await.status, 200);
    assert_eq!(lab.gateway.addresses().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_shared_budget_of_handshakes_can_change() {
    let (lab, _origin) = lab().await;
    let listeners = &lab.config.listeners;
    let budget = HandshakeBudget {
        rate: "1/h".parse().unwrap(),
        burst: NonZeroU64::MIN,
    };
    let done = lab.gateway.listeners().change(listeners, Some(budget)).unwrap();
    assert!(done.is_empty(), "no listener has other settings of its own");
    let connect = || client::tls(lab.address, lab.pki.client_config(None, H1));
    eventually("one handshake an hour and no more", async || {
        connect().await.is_err()
    })
    .await;
    lab.gateway.listeners().change(listeners, None).unwrap();
    eventually("handshakes are free again", async || connect().await.is_ok()).await;
}
