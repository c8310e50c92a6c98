//! TLS to endpoints: whom the gateway believes, whom it shows itself as, and what happens when files change.

use std::{
    convert::Infallible,
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use enforcer_model::{Health, OwnCertificate, PolicySet, Service};
use http::{Request, Response};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, KeyUsagePurpose, SanType};
use rustls::{RootCertStore, ServerConfig, crypto::aws_lc_rs, server::WebPkiClientVerifier};
use rustls_pki_types::PrivateKeyDer;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::data_path::support::{
    Lab, Plan,
    client::{Client, H1, H2},
    eventually, policy,
};

const SPIFFE: &str = "spiffe://example.com/ns/shop/sa/orders";

/// An authority and a directory for its files.
struct Authority {
    directory: TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let authority = Self {
            directory: TempDir::new().unwrap(),
            issuer: CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap(),
        };
        authority.write("ca.pem", &authority.issuer.pem());
        authority
    }

    /// Replaces a file at once.
    fn write(&self, name: &str, content: &str) -> PathBuf {
        let (new, path) = (
            self.directory.path().join("new"),
            self.directory.path().join(name),
        );
        std::fs::write(&new, content).unwrap();
        std::fs::rename(new, &path).unwrap();
        path
    }

    fn issue(&self, name: SanType, serial: u8) -> (rcgen::Certificate, KeyPair) {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.subject_alt_names = vec![name];
        params.serial_number = Some(vec![serial].into());
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.issuer).unwrap(), key)
    }

    /// Writes a certificate for the gateway with that serial number.
    fn own(&self, serial: u8) -> OwnCertificate {
        let name = SanType::URI("spiffe://example.com/gateway".try_into().unwrap());
        let (certificate, key) = self.issue(name, serial);
        // Certificate and key do not change at once: a look in between is refused, and the next one is not.
        OwnCertificate {
            key: self.write("own.key", &key.serialize_pem()),
            certificate: self.write("own.pem", &certificate.pem()),
        }
    }

    /// A server of that name; with `mutual` clients must be of this authority too.
    fn server(&self, name: SanType, mutual: bool) -> Arc<ServerConfig> {
        let (certificate, key) = self.issue(name, 1);
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap();
        let builder = if mutual {
            let mut roots = RootCertStore::empty();
            roots.add(self.issuer.der().clone()).unwrap();
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            builder.with_client_cert_verifier(verifier.build().unwrap())
        } else {
            builder.with_no_client_auth()
        };
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        Arc::new(
            builder
                .with_single_cert(vec![certificate.der().clone()], key)
                .unwrap(),
        )
    }
}

fn dns(name: &str) -> SanType {
    SanType::DnsName(name.try_into().unwrap())
}

/// What a TLS origin has seen.
#[derive(Default)]
struct Seen {
    requests: AtomicUsize,
    /// The last byte of the last client certificate's serial number.
    serial: AtomicUsize,
    unhealthy: AtomicBool,
}

async fn origin(config: Arc<ServerConfig>) -> (SocketAddr, Arc<Seen>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, seen) = (listener.local_addr().unwrap(), Arc::new(Seen::default()));
    let shared = Arc::clone(&seen);
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let (config, seen) = (Arc::clone(&config), Arc::clone(&shared));
            tokio::spawn(async move {
                let Ok(stream) = TlsAcceptor::from(config).accept(stream).await else {
                    return;
                };
                let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
                let serial = chain.first().map_or(0, |leaf| {
                    use x509_parser::prelude::{FromDer, X509Certificate};
                    let (_, leaf) = X509Certificate::from_der(leaf).unwrap();
                    usize::from(*leaf.raw_serial().last().unwrap())
                });
                let service = service_fn(move |request: Request<Incoming>| {
                    let seen = Arc::clone(&seen);
                    async move {
                        let mut response = Response::new(Full::new(Bytes::from_static(b"ok")));
                        if request.uri().path() == "/healthz" {
                            if seen.unhealthy.load(Ordering::SeqCst) {
                                *response.status_mut() = http::StatusCode::SERVICE_UNAVAILABLE;
                            }
                        } else {
                            seen.serial.store(serial, Ordering::SeqCst);
                            seen.requests.fetch_add(1, Ordering::SeqCst);
                        }
                        Ok::<_, Infallible>(response)
                    }
                });
                // A client that goes away is no matter.
                drop(
                    http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await,
                );
            });
        }
    });
    (address, seen)
}

fn service(address: SocketAddr, authority: &Authority) -> Service {
    let mut service = policy::service(&[address]);
    service.endpoints[0].https = true;
    service.tls.ca = Some(authority.directory.path().join("ca.pem"));
    service.tls.server_name = Some("orders.internal".into());
    service
}

fn set(service: Service) -> PolicySet {
    policy::set(vec![policy::open_rule()], service)
}

async fn status(lab: &Lab) -> u16 {
    Client::connect(lab, H1).await.get("/").await.status.as_u16()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_must_be_who_it_should_be() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let spiffe = || SanType::URI(SPIFFE.try_into().unwrap());
    let address = SanType::IpAddress("127.0.0.1".parse().unwrap());
    let (named, seen) = origin(authority.server(dns("orders.internal"), false)).await;
    let (identified, _) = origin(authority.server(spiffe(), false)).await;
    let (by_address, _) = origin(authority.server(address, false)).await;
    let (strange, strange_seen) = origin(stranger.server(dns("orders.internal"), false)).await;
    let lab = Plan::default().start(set(service(named, &authority)));
    assert_eq!(status(&lab).await, 200);
    assert_eq!(seen.requests.load(Ordering::SeqCst), 1);
    type Change = fn(&mut Service);
    let cases: [(SocketAddr, Change, u16); 8] = [
        (
            named,
            |service| service.tls.server_name = Some("other.internal".into()),
            502,
        ),
        // Its host is an address.
        (named, |service| service.tls.server_name = None, 502),
        (by_address, |service| service.tls.server_name = None, 200),
        (strange, |_| (), 502),
        (identified, |_| (), 502),
        (
            identified,
            |service| service.tls.spiffe = vec![SPIFFE.parse().unwrap()],
            200,
        ),
        (
            identified,
            |service| service.tls.spiffe = vec!["spiffe://example.com/ns/shop/sa/carts".parse().unwrap()],
            502,
        ),
        (
            named,
            |service| service.tls.spiffe = vec!["spiffe://example.com/*".parse().unwrap()],
            502,
        ),
    ];
    for (position, (address, change, expected)) in cases.into_iter().enumerate() {
        let mut service = service(address, &authority);
        change(&mut service);
        lab.policies.replace(set(service));
        assert_eq!(status(&lab).await, expected, "case {position}");
    }
    // Trust that is a stranger's is none, whatever the identity.
    let mut service = service(strange, &authority);
    service.tls.spiffe = vec![SPIFFE.parse().unwrap()];
    lab.policies.replace(set(service));
    assert_eq!(status(&lab).await, 502);
    assert_eq!(strange_seen.requests.load(Ordering::SeqCst), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_endpoints_are_not_taken_for_tls_nor_the_other_way() {
    let authority = Authority::new();
    let plain = crate::data_path::support::origin::Origin::start().await;
    let (secure, seen) = origin(authority.server(dns("orders.internal"), false)).await;
    let lab = Plan::default().start(set(service(plain.address, &authority)));
    assert_eq!(status(&lab).await, 502);
    lab.policies.replace(policy::open(&[secure]));
    assert_eq!(status(&lab).await, 502);
    assert_eq!((plain.requests(), seen.requests.load(Ordering::SeqCst)), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gateway_shows_its_certificate_also_to_health_checks() {
    let authority = Authority::new();
    let (address, seen) = origin(authority.server(dns("orders.internal"), true)).await;
    let mut service = service(address, &authority);
    let lab = Plan::default().start(set(service.clone()));
    assert_eq!(status(&lab).await, 502, "it shows none");
    service.tls.own = Some(authority.own(7));
    service.health = Some(Health {
        path: "/healthz".into(),
        interval: Duration::from_millis(20),
        timeout: Duration::from_secs(5),
        healthy_after: 1,
        unhealthy_after: 1,
    });
    lab.policies.replace(set(service));
    assert_eq!(status(&lab).await, 200);
    assert_eq!(seen.serial.load(Ordering::SeqCst), 7);
    seen.unhealthy.store(true, Ordering::SeqCst);
    eventually("it is out", async || status(&lab).await == 503).await;
    seen.unhealthy.store(false, Ordering::SeqCst);
    eventually("it is back", async || status(&lab).await == 200).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_rotate_under_load_without_a_failed_request() {
    let authority = Authority::new();
    let (address, seen) = origin(authority.server(dns("orders.internal"), true)).await;
    let mut service = service(address, &authority);
    service.tls.own = Some(authority.own(1));
    let lab = Plan::default().start(set(service));
    let stop = Arc::new(AtomicBool::new(false));
    let mut load = Vec::new();
    for number in 0..4 {
        let stop = Arc::clone(&stop);
        let mut client = Client::connect(&lab, if number % 2 == 0 { H1 } else { H2 }).await;
        load.push(tokio::spawn(async move {
            let mut failed = 0;
            while !stop.load(Ordering::SeqCst) {
                failed += usize::from(client.get("/").await.status != 200);
            }
            failed
        }));
    }
    for serial in [1, 2, 3] {
        authority.own(serial);
        eventually("the new certificate is shown", async || {
            seen.serial.load(Ordering::SeqCst) == usize::from(serial)
        })
        .await;
    }
    // What cannot be used changes nothing.
    authority.write("own.pem", "nonsense");
    eventually("it is noticed", async || {
        lab.metrics().lines().any(|line| {
            line.starts_with("enforcer_certificate_reload_failures_total ") && !line.ends_with(" 0")
        })
    })
    .await;
    stop.store(true, Ordering::SeqCst);
    for task in load {
        assert_eq!(task.await.unwrap(), 0);
    }
    assert_eq!(status(&lab).await, 200);
}
