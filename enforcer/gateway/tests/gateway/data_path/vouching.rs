//! Several authorities vouch for clients, each for its own.

use std::{fs, net::SocketAddr, sync::Arc};

use enforcer_model::{
    CertificateRequirement, Requirement, Route, Rule,
    flow::{AuthorityId, Identity},
};
use enforcer_tls::config::{Authority, Bounds, ClientCertificates};
use rcgen::{DnType, SanType};
use rustls::HandshakeKind;

use crate::data_path::{
    quotas,
    support::{
        Lab, Plan,
        client::{self, Client, H1, H2},
        eventually,
        origin::Origin,
        pki::{self, Pki},
        policy,
    },
};

const CORP: &str = "spiffe://corp.example/admin";
const PARTNER: &str = "spiffe://partner.example/admin";

fn domain(name: &str) -> Option<Bounds> {
    Some(Bounds {
        trust_domains: vec![name.parse().unwrap()],
        ..Bounds::default()
    })
}

fn authority(name: &str, pki: &Pki, bounds: Option<Bounds>) -> Authority {
    Authority {
        id: Some(AuthorityId::Name(policy::name(name))),
        file: pki.path("ca.pem"),
        bounds,
    }
}

/// Two authorities, each bound to its trust domain.
fn two() -> (Pki, Pki, Vec<Authority>) {
    let (corp, partner) = (Pki::of("corp"), Pki::of("partner"));
    let both = vec![
        authority("corp", &corp, domain("corp.example")),
        authority("partner", &partner, domain("partner.example")),
    ];
    (corp, partner, both)
}

fn start(origin: &Origin, authorities: Vec<Vec<Authority>>, rules: Vec<Rule>) -> Lab {
    let listen = authorities.iter().map(|_| "127.0.0.1:0").collect();
    Plan {
        client_certificates: ClientCertificates::Required,
        authorities,
        listen,
        ..Plan::default()
    }
    .start(policy::set(rules, policy::service(&[origin.address])))
}

fn any_certificate() -> Rule {
    Rule {
        require: policy::certificate(&[]),
        ..policy::open_rule()
    }
}

/// The status of a request of the client. `None`: the handshake fails.
async fn ask(lab: &Lab, address: SocketAddr, client: pki::Client) -> Option<u16> {
    let config = lab.pki.client_config(Some(client), H1);
    let stream = client::tls(address, config).await.ok()?;
    let mut client: Client = Client::try_over(stream).await.ok()?;
    Some(client.send(client::get("/")).await.ok()?.status.as_u16())
}

#[tokio::test(flavor = "multi_thread")]
async fn m5_an_authority_vouches_for_its_own_alone() {
    let origin = Origin::start().await;
    let (corp, partner, both) = two();
    let stranger = Pki::of("stranger");
    let mut rule = any_certificate();
    rule.require = policy::certificate(&[CORP, PARTNER]);
    let lab = start(&origin, vec![both], vec![rule]);
    let address = lab.address;
    assert_eq!(ask(&lab, address, corp.client(CORP)).await, Some(200));
    assert_eq!(origin.last().headers["x-enforcer-identity"], CORP);
    assert_eq!(origin.last().headers["x-enforcer-authority"], "corp");
    assert_eq!(ask(&lab, address, partner.client(PARTNER)).await, Some(200));
    assert_eq!(origin.last().headers["x-enforcer-identity"], PARTNER);
    assert_eq!(origin.last().headers["x-enforcer-authority"], "partner");
    let served = origin.requests();
    for forged in [
        partner.client(CORP),
        corp.client(PARTNER),
        stranger.client(CORP),
        // A longer name is another domain.
        partner.client("spiffe://partner.example.org/admin"),
        // Nobody's identity: its subject is not the authority's to give.
        partner.unusual_client(PARTNER, |params| {
            params.subject_alt_names = vec![SanType::DnsName("admin.corp.example".try_into().unwrap())];
            params.distinguished_name.push(DnType::CommonName, "admin");
        }),
    ] {
        assert_eq!(ask(&lab, address, forged).await, None);
    }
    assert_eq!(origin.requests(), served);
}

#[tokio::test(flavor = "multi_thread")]
async fn m5_names_beyond_an_authoritys_bounds_are_not_used() {
    let origin = Origin::start().await;
    let (corp, partner, both) = two();
    let mut rule = any_certificate();
    rule.require = Requirement::Proof {
        mtls: Some(CertificateRequirement {
            authorities: Vec::new(),
            spiffe: Vec::new(),
            names: enforcer_model::CertificateNames {
                dns: vec!["admin.corp.example".parse().unwrap()],
                subject: Vec::new(),
            },
        }),
        token: None,
        api_key: None,
    };
    let unbound = vec![authority("corp", &corp, None), both[1].clone()];
    let lab = start(&origin, vec![unbound], vec![rule]);
    let with_name = |pki: &Pki| {
        pki.unusual_client(PARTNER, |params| {
            params
                .subject_alt_names
                .push(SanType::DnsName("admin.corp.example".try_into().unwrap()));
        })
    };
    assert_eq!(ask(&lab, lab.address, with_name(&corp)).await, Some(200));
    assert_eq!(ask(&lab, lab.address, with_name(&partner)).await, Some(403));
}

#[tokio::test(flavor = "multi_thread")]
async fn m5_rules_name_authorities_and_the_same_name_of_two_is_two_identities() {
    let origin = Origin::start().await;
    let (corp, partner) = (Pki::of("corp"), Pki::of("partner"));
    let both = vec![
        authority("corp", &corp, None),
        authority("partner", &partner, None),
    ];
    let mut rule = any_certificate();
    if let Requirement::Proof { mtls: Some(mtls), .. } = &mut rule.require {
        mtls.authorities = vec![policy::name("corp")];
    }
    let lab = start(&origin, vec![both], vec![rule]);
    assert_eq!(ask(&lab, lab.address, corp.client(CORP)).await, Some(200));
    assert_eq!(ask(&lab, lab.address, partner.client(CORP)).await, Some(403));
    eventually("the refusal is counted by its reason", async || {
        lab.metrics()
            .contains(r#"reason="certificate_authority",route="main"} 1"#)
    })
    .await;
    lab.recorder.all_closed().await;
    lab.recorder.look(|seen| {
        let [(_, first), (_, second)] = &seen.verified[..] else {
            panic!("{:?}", seen.verified);
        };
        assert_ne!(first, second);
        assert_eq!(first.to_string(), format!("certificate {CORP} of corp"));
        assert!(matches!(second, Identity::Certificate(certified) if *certified.name == *CORP));
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn m5_limits_of_two_authorities_identities_are_not_shared() {
    let origin = Origin::start().await;
    let (corp, partner) = (Pki::of("corp"), Pki::of("partner"));
    let both = vec![
        authority("corp", &corp, None),
        authority("partner", &partner, None),
    ];
    let spec = "  rules: [{require: {mtls: {}}, service: shop, limits: [{rate: 1/h, per: [certificate]}]}]";
    let lab = Plan {
        client_certificates: ClientCertificates::Required,
        authorities: vec![both],
        ..Plan::default()
    }
    .start(quotas::set(spec, &origin));
    for pki in [&corp, &partner] {
        assert_eq!(ask(&lab, lab.address, pki.client(CORP)).await, Some(200));
        assert_eq!(ask(&lab, lab.address, pki.client(CORP)).await, Some(429));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn m5_a_route_is_served_at_the_listeners_that_it_names() {
    let origin = Origin::start().await;
    let (corp, partner) = (Pki::of("corp"), Pki::of("partner"));
    let listeners = vec![
        vec![authority("corp", &corp, None)],
        vec![authority("partner", &partner, None)],
    ];
    let lab = start(&origin, listeners, vec![any_certificate()]);
    let [main, second] = [0, 1].map(|index| lab.gateway.addresses()[index].1);
    assert_eq!(ask(&lab, main, corp.client(CORP)).await, Some(200));
    assert_eq!(ask(&lab, second, partner.client(CORP)).await, Some(200));
    let mut set = lab.policies.current().set.clone();
    let route = Route {
        listeners: vec![policy::name("main")],
        ..(*set.routes[0]).clone()
    };
    set.routes = vec![Arc::new(route)];
    lab.policies.replace(set);
    assert_eq!(ask(&lab, main, corp.client(CORP)).await, Some(200));
    assert_eq!(ask(&lab, second, partner.client(CORP)).await, Some(404));
}

#[tokio::test(flavor = "multi_thread")]
async fn m5_sessions_resume_with_their_authority_and_end_with_it() {
    let origin = Origin::start().await;
    let (corp, partner, both) = two();
    let lab = start(&origin, vec![both], vec![any_certificate()]);
    let config = lab.pki.client_config(Some(partner.client(PARTNER)), H1);
    for expected in [HandshakeKind::Full, HandshakeKind::Resumed] {
        let stream = client::tls(lab.address, config.clone()).await.unwrap();
        assert_eq!(stream.get_ref().1.handshake_kind(), Some(expected));
        assert_eq!(Client::over(stream).await.get("/").await.status, 200);
        assert_eq!(origin.last().headers["x-enforcer-authority"], "partner");
    }
    let live = lab.pki.client_config(Some(partner.client(PARTNER)), H2);
    let mut live = Client::over(client::tls(lab.address, live).await.unwrap()).await;
    let other = lab.pki.client_config(Some(corp.client(CORP)), H2);
    let mut other = Client::over(client::tls(lab.address, other).await.unwrap()).await;
    assert_eq!(live.get("/").await.status, 200);
    // The partner has a new authority: whom only the old one vouched for is not trusted any more.
    partner.write("ca.pem", Pki::of("partner").authority_pem().as_bytes());
    lab.gateway.reload_certificates().unwrap();
    eventually("the connection ends", async || {
        live.send(client::get("/")).await.is_err()
    })
    .await;
    assert_eq!(other.get("/").await.status, 200);
    // The same root in the other's file does not move its clients to the other.
    assert_eq!(ask(&lab, lab.address, partner.client(PARTNER)).await, None);
    let moved = [corp.authority_pem(), partner.authority_pem()].concat();
    fs::write(corp.path("ca.pem"), moved).unwrap();
    lab.gateway.reload_certificates().unwrap();
    assert_eq!(ask(&lab, lab.address, partner.client(PARTNER)).await, None);
    assert_eq!(other.get("/").await.status, 200);
}
