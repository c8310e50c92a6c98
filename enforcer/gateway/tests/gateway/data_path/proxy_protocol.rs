//! Load balancers that say whose connections they hand on.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use enforcer_gateway::config::Timeouts;
use enforcer_model::{PolicySet, flow::Whom};
use enforcer_tls::config::ClientCertificates;
use http::StatusCode;
use rustls_pki_types::ServerName;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

use crate::data_path::{
    audit,
    support::{
        Lab, Plan,
        client::{Client, H1, H2},
        eventually, in_time,
        origin::Origin,
        pki::{self, HOST},
        policy,
    },
};

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
const LOOPBACK: &str = "127.0.0.0/8";

/// A header of version 2.
fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
    [SIGNATURE, &[command, family], &length, rest].concat()
}

/// What is behind the fixed part: 192.0.2.7:1234 to 198.51.100.1:443, and TLVs.
fn tcp4(tlvs: &[u8]) -> Vec<u8> {
    let addresses = [192, 0, 2, 7, 198, 51, 100, 1, 0x04, 0xd2, 0x01, 0xbb];
    [&addresses, tlvs].concat()
}

/// The same of [2001:db8::7]:1234.
fn tcp6() -> Vec<u8> {
    let address = |last| [0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last];
    [&address(7)[..], &address(1), &[0x04, 0xd2, 0x01, 0xbb]].concat()
}

fn request() -> Vec<u8> {
    format!("GET / HTTP/1.1\r\nhost: {HOST}\r\nconnection: close\r\n\r\n").into_bytes()
}

/// A gateway without TLS, behind load balancers at `proxies`.
fn plain(proxies: &[&'static str], set: PolicySet) -> Lab {
    Plan {
        tls: false,
        workers: 1,
        proxies: Some(proxies.to_vec()),
        timeouts: Timeouts {
            handshake: Duration::from_millis(500),
            ..Timeouts::default()
        },
        ..Plan::default()
    }
    .start(set)
}

/// Sends `bytes` and returns all that comes until the connection ends.
async fn exchange(lab: &Lab, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(lab.address).await.unwrap();
    let mut answer = Vec::new();
    // Whoever is refused may be reset at any time.
    drop(stream.write_all(bytes).await);
    drop(in_time("the gateway closes", stream.read_to_end(&mut answer)).await);
    answer
}

fn refused(lab: &Lab) -> usize {
    let start = r#"enforcer_handshakes_total{listener="main",result="proxy_header"} "#;
    let metrics = lab.metrics();
    let value = metrics.lines().find_map(|line| line.strip_prefix(start));
    value.map_or(0, |value| value.parse().unwrap())
}

#[tokio::test]
async fn services_learn_whom_a_trusted_load_balancer_names() {
    let origin = Origin::start().await;
    let lab = plain(&[LOOPBACK], policy::open(&[origin.address]));
    // RFC 3720's CRC32C, over the header with four zeros in its place.
    let summed = {
        let mut header = v2(0x21, 0x11, &tcp4(&[3, 0, 4, 0, 0, 0, 0, 0xe0, 0, 1, 9]));
        let crc = !header.iter().fold(u32::MAX, |crc, byte| {
            (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
                if crc & 1 == 1 {
                    crc >> 1 ^ 0x82f6_3b78
                } else {
                    crc >> 1
                }
            })
        });
        header[31..35].copy_from_slice(&crc.to_be_bytes());
        header
    };
    let longest = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
    let cases: [(Vec<u8>, &str); 11] = [
        (
            b"PROXY TCP4 192.0.2.7 198.51.100.1 1234 443\r\n".to_vec(),
            "192.0.2.7",
        ),
        (
            b"PROXY TCP6 2001:db8::7 2001:db8::1 1234 443\r\n".to_vec(),
            "2001:db8::7",
        ),
        (
            format!("PROXY TCP6 {longest} {longest} 65535 65535\r\n").into_bytes(),
            longest,
        ),
        (
            b"PROXY TCP6 ::ffff:192.0.2.7 ::1 1234 443\r\n".to_vec(),
            "192.0.2.7",
        ),
        (b"PROXY UNKNOWN\r\n".to_vec(), "127.0.0.1"),
        (
            b"PROXY UNKNOWN ffff::1 ffff::2 65535 65535\r\n".to_vec(),
            "127.0.0.1",
        ),
        (v2(0x21, 0x11, &tcp4(&[])), "192.0.2.7"),
        (v2(0x21, 0x21, &tcp6()), "2001:db8::7"),
        (v2(0x21, 0x11, &tcp4(&[0xe0, 0, 2, 1, 2, 4, 0, 0])), "192.0.2.7"),
        (summed, "192.0.2.7"),
        // A health check of the load balancer's own.
        (v2(0x20, 0x00, &[]), "127.0.0.1"),
    ];
    for (header, client) in &cases {
        let answer = exchange(&lab, &[&header[..], &request()].concat()).await;
        let shown = String::from_utf8_lossy(header);
        assert!(answer.starts_with(b"HTTP/1.1 200 "), "{shown:?}");
        assert_eq!(origin.last().headers["x-forwarded-for"], client, "{shown:?}");
    }
    // The same in pieces of one byte.
    for (header, client) in cases {
        let mut stream = TcpStream::connect(lab.address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        for byte in header.iter().chain(&request()) {
            stream.write_all(&[*byte]).await.unwrap();
        }
        let mut answer = Vec::new();
        in_time("200", stream.read_to_end(&mut answer)).await.unwrap();
        assert!(answer.starts_with(b"HTTP/1.1 200 "));
        assert_eq!(origin.last().headers["x-forwarded-for"], client);
    }
    assert_eq!(refused(&lab), 0);
}

#[tokio::test]
async fn connections_of_nobody_end_before_a_request() {
    let origin = Origin::start().await;
    let lab = plain(&[LOOPBACK], policy::open(&[origin.address]));
    let checksum = [&[3, 0, 4][..], &[1, 2, 3, 4]].concat();
    let too_long = {
        let mut header = v2(0x21, 0x11, &tcp4(&[]));
        header[14..16].copy_from_slice(&2033u16.to_be_bytes());
        header.resize(4096, 0);
        header
    };
    let hostile: Vec<Vec<u8>> = vec![
        // None at all: a request, a TLS client, nothing, the beginning of one.
        request(),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03abcdef".to_vec(),
        Vec::new(),
        b"PROXY TCP4 192.0.2.7".to_vec(),
        SIGNATURE.to_vec(),
        v2(0x21, 0x11, &tcp4(&[]))[..20].to_vec(),
        // Version 1.
        [b"PROXY TCP4 192.0.2.7 198.51.100.1 1234 443\n", &request()[..]].concat(),
        [b"proxy TCP4 192.0.2.7 198.51.100.1 1234 443\r\n", &request()[..]].concat(),
        [b"PROXY TCP4 192.0.2.7 198.51.100.1 1234\r\n", &request()[..]].concat(),
        [
            b"PROXY TCP4 192.0.2.7 198.51.100.1 1234 443 5\r\n",
            &request()[..],
        ]
        .concat(),
        [
            b"PROXY TCP4 192.0.2.256 198.51.100.1 1234 443\r\n",
            &request()[..],
        ]
        .concat(),
        [b"PROXY TCP4 192.0.2.7 198.51.100.1 01234 443\r\n", &request()[..]].concat(),
        [b"PROXY TCP4 192.0.2.7 198.51.100.1 65536 443\r\n", &request()[..]].concat(),
        [b"PROXY TCP4  192.0.2.7 198.51.100.1 1234 443\r\n", &request()[..]].concat(),
        [b"PROXY TCP4 2001:db8::7 2001:db8::1 1234 443\r\n", &request()[..]].concat(),
        [b"PROXY UDP4 192.0.2.7 198.51.100.1 1234 443\r\n", &request()[..]].concat(),
        [
            b"PROXY TCP4 192.0.2.7\xff 198.51.100.1 1234 443\r\n",
            &request()[..],
        ]
        .concat(),
        [
            b"PROXY TCP4 192.0.2.7 198.51.100.1 1234 443\r\r\n",
            &request()[..],
        ]
        .concat(),
        [b"PROXY UNKNOWN ", &[b'x'; 92][..], b"\r\n", &request()[..]].concat(),
        // Version 2: version, command, family, transport, lengths, TLVs, checksum.
        [v2(0x11, 0x11, &tcp4(&[])), request()].concat(),
        [v2(0x22, 0x11, &tcp4(&[])), request()].concat(),
        [v2(0x21, 0x41, &tcp4(&[])), request()].concat(),
        [v2(0x21, 0x12, &tcp4(&[])), request()].concat(),
        [v2(0x21, 0x13, &tcp4(&[])), request()].concat(),
        [v2(0x21, 0x31, &[0; 216]), request()].concat(),
        [v2(0x21, 0x11, &tcp4(&[])[..11]), request()].concat(),
        [v2(0x21, 0x21, &tcp4(&[])), request()].concat(),
        [v2(0x21, 0x11, &tcp4(&[4, 0])), request()].concat(),
        [v2(0x21, 0x11, &tcp4(&[4, 0, 9, 1])), request()].concat(),
        [v2(0x21, 0x11, &tcp4(&checksum)), request()].concat(),
        [v2(0x21, 0x11, &tcp4(&[3, 0, 1, 7])), request()].concat(),
        too_long,
    ];
    let count = hostile.len();
    for (index, bytes) in hostile.into_iter().enumerate() {
        let answer = exchange(&lab, &bytes).await;
        let shown = String::from_utf8_lossy(&bytes);
        assert_eq!(answer, b"", "{index}: {shown:?}");
    }
    assert_eq!(refused(&lab), count);
    assert_eq!(origin.requests(), 0);
}

#[tokio::test]
async fn others_are_not_believed() {
    let origin = Origin::start().await;
    let lab = plain(&["10.0.0.0/8", "2001:db8::/32"], policy::open(&[origin.address]));
    for header in [
        b"PROXY TCP4 192.0.2.7 198.51.100.1 1234 443\r\n".to_vec(),
        v2(0x21, 0x11, &tcp4(&[])),
    ] {
        let answer = exchange(&lab, &[header, request()].concat()).await;
        assert!(
            !answer.starts_with(b"HTTP/1.1 2"),
            "{}",
            String::from_utf8_lossy(&answer)
        );
    }
    assert_eq!(origin.requests(), 0);
    // Without a header they are clients like any other.
    assert!(exchange(&lab, &request()).await.starts_with(b"HTTP/1.1 200 "));
    assert_eq!(origin.last().headers["x-forwarded-for"], "127.0.0.1");
}

/// TLS behind a header.
async fn behind(lab: &Lab, client: &str, certificate: bool, alpn: &[&[u8]]) -> (Client, SocketAddr) {
    let mut stream = TcpStream::connect(lab.address).await.unwrap();
    let address = stream.local_addr().unwrap();
    let header = format!("PROXY TCP4 {client} 198.51.100.1 1234 443\r\n");
    stream.write_all(header.as_bytes()).await.unwrap();
    let certificate = certificate.then(|| lab.pki.client("spiffe://example.com/a"));
    let connector = TlsConnector::from(lab.pki.client_config(certificate, alpn));
    let stream = connector
        .connect(ServerName::try_from(HOST).unwrap(), stream)
        .await
        .unwrap();
    (Client::over(stream).await, address)
}

#[tokio::test]
async fn rules_see_the_client_and_the_kernel_its_own_flow() {
    let origin = Origin::start().await;
    let mut rule = policy::open_rule();
    rule.access.from = vec!["192.0.2.0/24".parse().unwrap()];
    let lab = Plan {
        client_certificates: ClientCertificates::Optional,
        proxies: Some(vec![LOOPBACK]),
        ..Plan::default()
    }
    .start(policy::set(vec![rule], policy::service(&[origin.address])));
    for alpn in [H1, H2] {
        let (mut client, address) = behind(&lab, "192.0.2.7", true, alpn).await;
        assert_eq!(client.get("/").await.status, StatusCode::OK);
        assert_eq!(origin.last().headers["x-forwarded-for"], "192.0.2.7");
        let flow = lab.recorder.look(|seen| seen.verified.last().unwrap().0);
        assert_eq!((flow.peer, flow.local), (address, lab.address));
        let (mut other, _) = behind(&lab, "198.51.100.9", false, alpn).await;
        assert_eq!(other.get("/").await.status, StatusCode::FORBIDDEN);

        // An operator names the client, and is told what the kernel knows.
        let whom = Whom::Source("192.0.2.7/32".parse().unwrap());
        let ended = lab.gateway.revoker().revoke(&whom).await;
        assert_eq!((ended.flows, ended.silent), (vec![flow], 0));
        assert_eq!(other.get("/").await.status, StatusCode::FORBIDDEN);
    }
    lab.recorder.all_closed().await;
}

#[tokio::test]
async fn who_is_denied_is_refused_behind_a_load_balancer_too() {
    let (origin, directory) = (Origin::start().await, TempDir::new().unwrap());
    let file = directory.path().join("audit.log");
    let mut lab = Plan {
        tls: false,
        workers: 1,
        proxies: Some(vec![LOOPBACK]),
        audit: Some(audit::config(file.clone(), 0, 1000)),
        ..Plan::default()
    }
    .start(policy::open(&[origin.address]));
    let headers = [v2(0x21, 0x11, &tcp4(&[])), v2(0x21, 0x21, &tcp6())];
    let ask = async |header: &[u8]| exchange(&lab, &[header, &request()].concat()).await;
    for header in &headers {
        assert!(ask(header).await.starts_with(b"HTTP/1.1 200 "));
    }
    let denied = ["192.0.2.7", "2001:db8::7"].map(|address| address.parse().unwrap());
    lab.recorder.state.lock().unwrap().denied = denied.to_vec();
    for header in &headers {
        assert_eq!(ask(header).await, b"");
    }
    // Neither the load balancer nor other clients of it.
    let other = b"PROXY TCP4 192.0.2.8 198.51.100.1 1234 443\r\n";
    assert!(ask(other).await.starts_with(b"HTTP/1.1 200 "));
    assert!(ask(b"PROXY UNKNOWN\r\n").await.starts_with(b"HTTP/1.1 200 "));
    lab.recorder.state.lock().unwrap().denied.clear();
    for header in &headers {
        assert!(ask(header).await.starts_with(b"HTTP/1.1 200 "), "it has ended");
    }
    let line = r#"enforcer_handshakes_total{listener="main",result="denied"} 2"#;
    assert!(lab.metrics().contains(line), "{}", lab.metrics());
    lab.end_audit();
    let records = audit::records(&file);
    assert_eq!(records.len(), 2, "{records:?}");
    for (record, source) in records.iter().zip(denied) {
        assert_eq!(record["event"], "connection");
        assert_eq!(record["result"], "denied");
        assert_eq!(record["detail"], "ticket 4711");
        assert_eq!(record["source"], source.to_string());
        assert_eq!(record["proxy"], "127.0.0.1");
    }
}

#[tokio::test]
async fn who_fails_behind_a_load_balancer_is_not_blamed_on_an_address_that_the_kernel_never_sees() {
    let origin = Origin::start().await;
    let lab = Plan {
        client_certificates: ClientCertificates::Optional,
        proxies: Some(vec![LOOPBACK]),
        ..Plan::default()
    }
    .start(policy::open(&[origin.address]));
    let mut stream = TcpStream::connect(lab.address).await.unwrap();
    let header = b"PROXY TCP4 192.0.2.7 198.51.100.1 1234 443\r\n";
    stream.write_all(header).await.unwrap();
    let forged = pki::stranger("spiffe://example.com/a");
    let connector = TlsConnector::from(lab.pki.client_config(Some(forged), H1));
    let name = ServerName::try_from(HOST).unwrap();
    // With TLS 1.3 the client hears of it only behind its own handshake.
    let connected = connector.connect(name, stream).await;
    eventually("it is told", async || {
        lab.recorder
            .look(|seen| seen.failed_behind == ["127.0.0.1".parse::<IpAddr>().unwrap()])
    })
    .await;
    drop(connected);
    assert!(lab.recorder.look(|seen| seen.failed.is_empty()));
}

#[tokio::test]
async fn a_client_has_a_share_of_its_own_behind_a_load_balancer() {
    let origin = Origin::start().await;
    let lab = Plan {
        workers: 1,
        max_per_source: 1,
        proxies: Some(vec![LOOPBACK]),
        ..Plan::default()
    }
    .start(policy::open(&[origin.address]));
    let (mut first, _) = behind(&lab, "192.0.2.7", false, H1).await;
    let (mut second, _) = behind(&lab, "192.0.2.8", false, H1).await;
    for client in [&mut first, &mut second] {
        assert_eq!(client.get("/").await.status, StatusCode::OK);
    }
    let answer = exchange(&lab, b"PROXY TCP4 192.0.2.7 198.51.100.1 1 443\r\n\x16\x03\x01").await;
    assert_eq!(answer, b"");
    eventually("the third is over its share", async || {
        let line = r#"enforcer_handshakes_total{listener="main",result="source_share"} 1"#;
        lab.metrics().contains(line)
    })
    .await;
    drop(first);
    eventually("its place is free again", async || {
        let mut stream = TcpStream::connect(lab.address).await.unwrap();
        let header = b"PROXY TCP4 192.0.2.7 198.51.100.1 1 443\r\n";
        stream.write_all(header).await.unwrap();
        let connector = TlsConnector::from(lab.pki.client_config(None, H1));
        let name = ServerName::try_from(HOST).unwrap();
        connector.connect(name, stream).await.is_ok()
    })
    .await;
}

/// Headers by which a load balancer says nothing of the client, and one by which it names somebody at its own address.
fn without_a_name() -> [Vec<u8>; 5] {
    [
        b"PROXY UNKNOWN\r\n".to_vec(),
        b"PROXY UNKNOWN ffff::1 ffff::2 65535 65535\r\n".to_vec(),
        // `LOCAL`, and `PROXY` of an unspecified family.
        v2(0x20, 0x00, &[]),
        v2(0x21, 0x00, &[]),
        b"PROXY TCP4 127.0.0.1 198.51.100.1 1234 443\r\n".to_vec(),
    ]
}

#[tokio::test]
async fn m6_a_load_balancer_is_not_blamed_for_clients_that_it_does_not_name() {
    let origin = Origin::start().await;
    let lab = Plan {
        client_certificates: ClientCertificates::Optional,
        proxies: Some(vec![LOOPBACK]),
        ..Plan::default()
    }
    .start(policy::open(&[origin.address]));
    for (index, header) in without_a_name().into_iter().enumerate() {
        let mut stream = TcpStream::connect(lab.address).await.unwrap();
        stream.write_all(&header).await.unwrap();
        let forged = pki::stranger("spiffe://example.com/a");
        let connector = TlsConnector::from(lab.pki.client_config(Some(forged), H1));
        let connected = connector
            .connect(ServerName::try_from(HOST).unwrap(), stream)
            .await;
        let shown = String::from_utf8_lossy(&header);
        eventually("the failure is told", async || {
            lab.recorder
                .look(|seen| seen.failed.len() + seen.failed_behind.len() > index)
        })
        .await;
        drop(connected);
        lab.recorder.look(|seen| {
            assert_eq!(seen.failed, [] as [IpAddr; 0], "{shown:?}");
            assert_eq!(seen.failed_behind.len(), index + 1, "{shown:?}");
        });
    }
}

#[tokio::test]
async fn m6_connections_without_a_name_have_the_load_balancers_share_and_take_nobody_elses() {
    let origin = Origin::start().await;
    let lab = Plan {
        tls: false,
        workers: 1,
        max_per_source: 1,
        proxies: Some(vec![LOOPBACK]),
        ..Plan::default()
    }
    .start(policy::open(&[origin.address]));
    let mut first = TcpStream::connect(lab.address).await.unwrap();
    let ask = format!("GET / HTTP/1.1\r\nhost: {HOST}\r\n\r\n");
    let bytes = [b"PROXY UNKNOWN\r\n", ask.as_bytes()].concat();
    first.write_all(&bytes).await.unwrap();
    let mut answer = [0; 12];
    in_time("an answer", first.read_exact(&mut answer)).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");
    for header in without_a_name() {
        let answer = exchange(&lab, &[header, request()].concat()).await;
        assert_eq!(answer, b"", "the load balancer's share is taken");
    }
    let named = b"PROXY TCP4 192.0.2.8 198.51.100.1 1234 443\r\n";
    let answer = exchange(&lab, &[&named[..], &request()].concat()).await;
    assert!(answer.starts_with(b"HTTP/1.1 200 "));
    let line = r#"enforcer_handshakes_total{listener="main",result="source_share"} 5"#;
    assert!(lab.metrics().contains(line), "{}", lab.metrics());
}
