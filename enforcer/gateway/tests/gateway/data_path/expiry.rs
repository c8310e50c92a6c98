//! What is told of the time until which certificates are valid.

use std::{fs, path::Path};

use enforcer_model::OwnCertificate;
use enforcer_tls::config::ClientCertificates;
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, date_time_ymd};

use crate::data_path::support::{Lab, Plan, eventually, origin::Origin, policy};

/// A certificate that signs itself, valid up to the beginning of that year, and its key.
fn until(year: i32, is_ca: bool) -> (String, String) {
    let mut params = CertificateParams::new(vec!["orders.internal".to_owned()]).unwrap();
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(year, 1, 1);
    if is_ca {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    }
    let key = KeyPair::generate().unwrap();
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

/// Whether it is told that the file's certificate expires at the beginning of that year.
fn is_told(lab: &Lab, (listener, service): (&str, &str), file: &Path, year: i32) -> bool {
    let line = format!(
        r#"enforcer_certificate_expiry_seconds{{certificate="{}",listener="{listener}",service="{service}"}} {}"#,
        file.display(),
        date_time_ymd(year, 1, 1).unix_timestamp()
    );
    lab.metrics().lines().any(|each| each == line)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_of_a_listeners_authorities_to_expire_is_told() {
    let origin = Origin::start().await;
    let plan = Plan {
        client_certificates: ClientCertificates::Required,
        ..Plan::default()
    };
    let lab = plan.start(policy::open(&[origin.address]));
    let file = lab.pki.path("ca.pem");
    let usual = fs::read_to_string(&file).unwrap();
    for years in [vec![2040], vec![2050, 2039], vec![2045]] {
        let more = years.iter().map(|year| until(*year, true).0);
        let bundle: String = std::iter::once(usual.clone()).chain(more).collect();
        lab.pki.write("ca.pem", bundle.as_bytes());
        let first = *years.iter().min().unwrap();
        eventually("it is told", async || is_told(&lab, ("main", ""), &file, first)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_service_trusts_and_shows_is_told_for_as_long_as_it_is_in_use() {
    let origin = Origin::start().await;
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, content: &str| {
        let path = directory.path().join(name);
        fs::write(&path, content).unwrap();
        path
    };
    let (ca, (own, key)) = (until(2040, true).0, until(2041, false));
    let mut service = policy::service(&[origin.address]);
    service.endpoints[0].https = true;
    service.tls.ca = Some(write("ca.pem", &ca));
    service.tls.own = Some(OwnCertificate {
        certificate: write("own.pem", &own),
        key: write("own.key", &key),
    });
    let set = |service| policy::set(vec![policy::open_rule()], service);
    let lab = Plan::default().start(set(service.clone()));
    let is_told = |name: &str, year| is_told(&lab, ("", "orders"), &directory.path().join(name), year);
    let about_service = || lab.metrics().matches(r#"listener="",service="orders""#).count();
    eventually("both are told", async || {
        is_told("ca.pem", 2040) && is_told("own.pem", 2041)
    })
    .await;

    write("ca.pem", &[ca, until(2039, true).0].concat());
    eventually("what changes is told anew", async || is_told("ca.pem", 2039)).await;
    assert!(is_told("own.pem", 2041));
    write("ca.pem", "nonsense");
    let failed = "enforcer_certificate_reload_failures_total 1";
    eventually("it is noticed", async || {
        lab.metrics().lines().any(|line| line == failed)
    })
    .await;
    assert!(is_told("ca.pem", 2039), "what is in use is told");

    write("ca.pem", &until(2042, true).0);
    service.tls.own = None;
    lab.policies.replace(set(service.clone()));
    eventually("one is told", async || {
        is_told("ca.pem", 2042) && about_service() == 1
    })
    .await;
    service.endpoints[0].https = false;
    lab.policies.replace(set(service));
    eventually("nothing is told", async || about_service() == 0).await;
}
