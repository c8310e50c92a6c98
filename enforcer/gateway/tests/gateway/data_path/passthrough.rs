//! TLS that services end: by name, unread, and as bounded as requests are.

use std::{fs, net::SocketAddr, num::NonZeroU32, sync::Arc, time::Duration};

use enforcer_gateway::config::Timeouts;
use enforcer_model::{
    Destination as To, HostPattern, Mode, Passthrough, PolicySet, RequestKey, Requirement, Route, Rule,
    Service, flow::Whom,
};
use enforcer_telemetry::audit::config::{AuditConfig, Destination};
use enforcer_tls::config::ClientCertificates;
use rustls::{ClientConfig, ClientConnection};
use rustls_pki_types::ServerName;
use socket2::SockRef;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::oneshot,
};
use tokio_rustls::client::TlsStream;

use crate::data_path::{
    admission::limit,
    support::{
        Lab, Plan,
        client::{self, Client, H1, named},
        eventually, in_time,
        origin::Origin,
        pki::{HOST, Pki},
        policy,
    },
};

const NAME: &str = "db.example.com";
const BELOW: &str = "one.db.example.com";

/// A service that ends TLS itself, says every byte again, and `done` at the end of the client's half.
async fn echo(pki: &Pki) -> SocketAddr {
    pki.write_named("db", NAME, 1);
    let acceptor = pki.acceptor("db", &[]);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else {
                    return;
                };
                let (mut read, mut write) = tokio::io::split(stream);
                if tokio::io::copy(&mut read, &mut write).await.is_ok() {
                    drop(write.write_all(b"done").await);
                    drop(write.shutdown().await);
                }
            });
        }
    });
    address
}

/// One that takes a connection and tells the first bytes that come on it, as many as are asked for.
async fn recorder(wanted: usize) -> (SocketAddr, oneshot::Receiver<Vec<u8>>) {
    let listener = TcpListener::bind("[::1]:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (tell, told) = oneshot::channel();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut bytes = vec![0; wanted];
        stream.read_exact(&mut bytes).await.unwrap();
        tell.send(bytes).unwrap();
        drop(stream.read_to_end(&mut Vec::new()).await);
    });
    (address, told)
}

/// A route for requests to [`HOST`], and one that passes [`NAME`] and what is below it through by `rule`.
fn set(origin: SocketAddr, service: Service, rule: Rule) -> PolicySet {
    let mut set = policy::open(&[origin]);
    let destination = To::to(policy::name("db"));
    set.routes.push(Arc::new(Route {
        name: policy::name("db"),
        origin: policy::origin(),
        mode: Mode::Enforce,
        listeners: Vec::new(),
        hosts: vec![HostPattern::Exact(NAME.into()), HostPattern::Suffix(NAME.into())],
        rules: vec![Rule { destination, ..rule }],
        passthrough: Some(Passthrough {
            proxy_protocol: false,
        }),
    }));
    set.services.insert(
        0,
        Arc::new(Service {
            name: policy::name("db"),
            ..service
        }),
    );
    set
}

/// A gateway that passes through, without anybody for requests.
async fn start(plan: Plan, rule: Rule) -> (Lab, Pki) {
    let (origin, pki) = (Origin::start().await, Pki::of("services"));
    let service = policy::service(&[echo(&pki).await]);
    (plan.start(set(origin.address, service, rule)), pki)
}

async fn connect(lab: &Lab, pki: &Pki) -> std::io::Result<TlsStream<TcpStream>> {
    named(lab.address, pki.client_config(None, &[]), NAME).await
}

async fn converse(stream: &mut TlsStream<TcpStream>, bytes: usize) {
    let said = vec![7; bytes];
    let (mut read, mut write) = tokio::io::split(stream);
    let mut heard = vec![0; bytes];
    let both = async {
        tokio::try_join!(write.write_all(&said), read.read_exact(&mut heard)).unwrap();
    };
    in_time("the echo", both).await;
    assert!(heard == said);
}

fn counted(lab: &Lab, verdict: &str, times: usize) -> bool {
    let line = format!(
        "enforcer_passthrough_connections_total{{route=\"db\",service=\"db\",verdict=\"{verdict}\"}} {times}\n"
    );
    lab.metrics().contains(&line)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_service_ends_tls_of_its_names_and_the_gateway_all_other() {
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let plan = Plan {
            client_certificates: ClientCertificates::Required,
            listen: vec![address],
            ..Plan::default()
        };
        let (origin, pki) = (Origin::start().await, Pki::of("services"));
        let service = policy::service(&[echo(&pki).await]);
        let lab = plan.start(set(origin.address, service, policy::open_rule()));
        // By the service's authority, and without the certificate that the listener requires.
        let mut stream = connect(&lab, &pki).await.unwrap();
        converse(&mut stream, 3 << 20).await;
        stream.shutdown().await.unwrap();
        let mut rest = Vec::new();
        in_time("the other half", stream.read_to_end(&mut rest))
            .await
            .unwrap();
        assert_eq!(rest, b"done", "one half ends after the other");
        let error = named(lab.address, pki.client_config(None, &[]), BELOW)
            .await
            .unwrap_err();
        assert!(
            error
                .to_string()
                .contains("only valid for DnsName(\"db.example.com\")"),
            "the service's certificate: {error}"
        );
        eventually("both are counted", async || counted(&lab, "allowed", 2)).await;
        let passed = "enforcer_handshakes_total{listener=\"main\",result=\"passed\"} 2";
        assert!(lab.metrics().contains(passed));

        let without = named(lab.address, pki.client_config(None, &[]), HOST).await;
        assert!(
            without.is_err(),
            "the gateway's own certificate is of another authority"
        );
        let config = lab.pki.client_config(Some(lab.pki.client("spiffe://a/b")), H1);
        let stream = client::tls(lab.address, Arc::clone(&config)).await.unwrap();
        assert_eq!(Client::over(stream).await.get("/").await.status, 200);
        // Without a name as with one that nobody has.
        let mut nameless = ClientConfig::clone(&config);
        nameless.enable_sni = false;
        let stream = client::tls(lab.address, Arc::new(nameless)).await.unwrap();
        assert_eq!(Client::over(stream).await.get("/").await.status, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_for_the_name_on_a_connection_that_the_gateway_ends_finds_no_route() {
    let (lab, _pki) = start(Plan::default(), policy::open_rule()).await;
    let mut client = Client::connect(&lab, H1).await;
    let mut request = client::get("/");
    request.headers_mut().insert("host", NAME.parse().unwrap());
    assert_eq!(client.send(request).await.unwrap().status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_admit_as_elsewhere_and_say_so_in_the_audit_log() {
    let closed = Rule {
        require: Requirement::Nobody,
        ..policy::open_rule()
    };
    let mut elsewhere = policy::open_rule();
    elsewhere.access.from = vec!["192.0.2.0/24".parse().unwrap(), "2001:db8::/32".parse().unwrap()];
    for (rule, reason) in [(closed, "nobody"), (elsewhere, "source")] {
        let directory = TempDir::new().unwrap();
        let file = directory.path().join("audit.log");
        let plan = Plan {
            audit: Some(AuditConfig {
                to: Destination::File {
                    path: file.clone(),
                    max_size: 1 << 20,
                    keep: 1,
                },
                sample: 0,
                per_second: NonZeroU32::new(100).unwrap(),
            }),
            ..Plan::default()
        };
        let (mut lab, pki) = start(plan, rule).await;
        assert!(connect(&lab, &pki).await.is_err());
        assert!(counted(&lab, "forbidden", 1));
        lab.end_audit();
        let text = fs::read_to_string(file).unwrap();
        let record: serde_json::Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
        assert_eq!(record["event"], "passthrough");
        assert_eq!(record["verdict"], "forbidden");
        assert_eq!(record["reason"], reason, "{record}");
        assert_eq!(record["source"], "127.0.0.1");
        assert_eq!((&record["route"], &record["name"]), (&"db".into(), &NAME.into()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_limited_by_source_and_shadow_lets_them_through() {
    let limited = |mode| {
        let limit = limit(RequestKey::Source { ipv4: 32, ipv6: 64 }, 2);
        let mut rule = policy::open_rule();
        rule.limits = vec![limit];
        rule.access.mode = Some(mode);
        rule
    };
    let (lab, pki) = start(Plan::default(), limited(Mode::Enforce)).await;
    for _ in 0..2 {
        converse(&mut connect(&lab, &pki).await.unwrap(), 10).await;
    }
    assert!(connect(&lab, &pki).await.is_err());
    assert!(counted(&lab, "limited", 1) && counted(&lab, "allowed", 2));
    let (lab, pki) = start(Plan::default(), limited(Mode::Shadow)).await;
    for _ in 0..3 {
        converse(&mut connect(&lab, &pki).await.unwrap(), 10).await;
    }
    assert!(counted(&lab, "limited", 1) && counted(&lab, "allowed", 2));
}

/// The first message of a client that asks for [`NAME`].
fn hello(pki: &Pki) -> Vec<u8> {
    let name = ServerName::try_from(NAME).unwrap();
    let mut client = ClientConnection::new(pki.client_config(None, H1), name).unwrap();
    let mut hello = Vec::new();
    client.write_tls(&mut hello).unwrap();
    hello
}

#[tokio::test(flavor = "multi_thread")]
async fn the_service_gets_each_byte_and_is_told_whose_they_are() {
    let (origin, pki) = (Origin::start().await, Pki::of("services"));
    let hello = hello(&pki);
    for introduces in [false, true] {
        let header = if introduces { 28 } else { 0 };
        let (address, told) = recorder(header + hello.len() + 5).await;
        let mut set = set(origin.address, policy::service(&[address]), policy::open_rule());
        Arc::make_mut(&mut set.routes[1]).passthrough = Some(Passthrough {
            proxy_protocol: introduces,
        });
        let lab = Plan::default().start(set);
        let mut stream = TcpStream::connect(lab.address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        // In pieces, and with more behind it than the hello.
        for piece in [&hello[..3], &hello[3..60], &hello[60..], b"more!"] {
            stream.write_all(piece).await.unwrap();
            tokio::task::yield_now().await;
        }
        let bytes = in_time("what the service got", told).await.unwrap();
        let (front, rest) = bytes.split_at(header);
        assert!(rest == [&hello[..], b"more!"].concat());
        if introduces {
            let port = |address: SocketAddr| address.port().to_be_bytes();
            let expected = [
                b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\x7f\0\0\x01\x7f\0\0\x01".as_slice(),
                &port(stream.local_addr().unwrap()),
                &port(lab.address),
            ];
            assert_eq!(front, expected.concat());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hello_is_bounded_in_bytes_and_time() {
    let plan = Plan {
        timeouts: Timeouts {
            handshake: Duration::from_millis(300),
            ..Timeouts::default()
        },
        ..Plan::default()
    };
    let (lab, pki) = start(plan, policy::open_rule()).await;
    let mut slow = TcpStream::connect(lab.address).await.unwrap();
    slow.write_all(&hello(&pki)[..50]).await.unwrap();
    in_time("its end", slow.read_to_end(&mut Vec::new())).await.ok();
    let line = r#"enforcer_handshakes_total{listener="main",result="timed_out"} 1"#;
    eventually("it is counted", async || lab.metrics().contains(line)).await;

    let (lab, _pki) = start(Plan::default(), policy::open_rule()).await;
    let mut long = TcpStream::connect(lab.address).await.unwrap();
    // A handshake message of 60,000 bytes in records of 16,384 (RFC 8446 sections 4 and 5.1).
    let message = [&[1, 0, 0xea, 0x60][..], &[0; 60_000]].concat();
    for piece in message.chunks(16_384) {
        let length = u16::try_from(piece.len()).unwrap().to_be_bytes();
        let record = [&[22, 3, 1, length[0], length[1]][..], piece].concat();
        // It may be closed before all is written.
        drop(long.write_all(&record).await);
    }
    in_time("its end", long.read_to_end(&mut Vec::new())).await.ok();
    let line = r#"enforcer_handshakes_total{listener="main",result="failed"} 1"#;
    eventually("it is counted", async || lab.metrics().contains(line)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn revocation_and_silence_end_it_and_new_policies_do_not() {
    let (lab, pki) = start(Plan::default(), policy::open_rule()).await;
    let mut stream = connect(&lab, &pki).await.unwrap();
    converse(&mut stream, 10).await;
    lab.policies.replace(PolicySet::default());
    converse(&mut stream, 10).await;
    let ended = lab
        .gateway
        .revoker()
        .revoke(&Whom::Source("127.0.0.0/8".parse().unwrap()))
        .await;
    assert_eq!(ended.flows.len(), 1);
    assert!(in_time("a reset", stream.read_u8()).await.is_err());

    let mut rule = policy::open_rule();
    rule.routing.idle = Some(Duration::from_millis(300));
    let (lab, pki) = start(Plan::default(), rule).await;
    let mut stream = connect(&lab, &pki).await.unwrap();
    assert!(in_time("its end", stream.read_u8()).await.is_err());
    let line = r#"enforcer_connections{listener="main"} 0"#;
    eventually("nothing is left", async || lab.metrics().contains(line)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_count_at_their_service_and_go_where_there_is_an_endpoint() {
    let (origin, pki) = (Origin::start().await, Pki::of("services"));
    let gone = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap()
    };
    let mut service = policy::service(&[gone, echo(&pki).await]);
    service.limits.requests = NonZeroU32::MIN;
    let plan = Plan {
        workers: 1,
        ..Plan::default()
    };
    let lab = plan.start(set(origin.address, service, policy::open_rule()));
    let mut first = connect(&lab, &pki).await.unwrap();
    converse(&mut first, 10).await;
    assert!(connect(&lab, &pki).await.is_err(), "there may be one");
    assert!(counted(&lab, "saturated", 1));
    drop(first);
    eventually("there is room again", async || connect(&lab, &pki).await.is_ok()).await;

    let lab = Plan::default().start(set(origin.address, policy::service(&[gone]), policy::open_rule()));
    assert!(connect(&lab, &pki).await.is_err());
    assert!(counted(&lab, "upstream", 1));
}

/// A gateway whose service may have one connection, for which others wait so long.
async fn narrow(patience: Duration) -> (Lab, Pki) {
    let (origin, pki) = (Origin::start().await, Pki::of("services"));
    let mut service = policy::service(&[echo(&pki).await]);
    service.limits.connections = NonZeroU32::MIN;
    service.connect_timeout = patience;
    let plan = Plan {
        workers: 1,
        ..Plan::default()
    };
    (plan.start(set(origin.address, service, policy::open_rule())), pki)
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_a_place_is_reset_in_time() {
    let (lab, pki) = narrow(Duration::from_millis(500)).await;
    let mut first = connect(&lab, &pki).await.unwrap();
    converse(&mut first, 10).await;
    assert!(in_time("a reset", connect(&lab, &pki)).await.is_err());
    assert!(counted(&lab, "saturated", 1));
    let line = "enforcer_upstream_overflows_total{bound=\"connections\",service=\"db\"} 1";
    eventually("the bound is counted", async || lab.metrics().contains(line)).await;
    converse(&mut first, 10).await;
    drop(first);
    eventually("there is room again", async || connect(&lab, &pki).await.is_ok()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_leaves_waits_no_more() {
    let (lab, pki) = narrow(Duration::from_secs(60)).await;
    let mut first = connect(&lab, &pki).await.unwrap();
    converse(&mut first, 10).await;
    let hello = hello(&pki);
    for (left, breaks) in [(1, false), (2, true)] {
        let mut next = TcpStream::connect(lab.address).await.unwrap();
        next.write_all(&hello).await.unwrap();
        let line = format!(
            "enforcer_handshakes_total{{listener=\"main\",result=\"passed\"}} {}\n",
            left + 1
        );
        eventually("it waits", async || lab.metrics().contains(&line)).await;
        if breaks {
            next.write_all(b"more!").await.unwrap();
            SockRef::from(&next).set_linger(Some(Duration::ZERO)).unwrap();
        }
        drop(next);
        eventually("it is gone", async || counted(&lab, "invalid", left)).await;
    }
    converse(&mut first, 10).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn draining_waits_for_it() {
    let (lab, pki) = start(Plan::default(), policy::open_rule()).await;
    let mut stream = connect(&lab, &pki).await.unwrap();
    converse(&mut stream, 10).await;
    let draining = tokio::spawn(lab.gateway.drain(None));
    converse(&mut stream, 10).await;
    drop(stream);
    assert_eq!(in_time("the end", draining).await.unwrap(), 0, "nothing was cut");
}
