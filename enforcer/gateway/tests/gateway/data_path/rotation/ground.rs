//! The gateway, with all that changes around it.

use std::{fs, net::SocketAddr, os::unix::fs::symlink, path::PathBuf, sync::Arc, time::SystemTime};

use enforcer_tls::config::{ClientCertificates, Unsure};
use rustls::ClientConfig;

use super::{
    certificates,
    keys::Idp,
    load::{Caller, Load, Shared},
    policies,
    upstreams::Upstream,
};
use crate::data_path::support::{
    Lab, Plan,
    client::{self, Client, H1, H2},
    pki::{self, DAY, HOST, Pki},
};

/// How many upstreams there are: one of each family.
pub(super) const UPSTREAMS: usize = 2;

pub(super) const SPIFFE: &str = "spiffe://example.com/ns/shop/sa/cart";

pub(super) struct Ground {
    pub(super) lab: Lab,
    pub(super) idp: Idp,
    pub(super) policy: PathBuf,
    pub(super) upstreams: [Option<Upstream>; UPSTREAMS],
    pub(super) addresses: [SocketAddr; UPSTREAMS],
    pub(super) load: Load,
    pub(super) shared: Arc<Shared>,
    /// What clients that only look are configured with.
    prober: Arc<ClientConfig>,
}

impl Ground {
    pub(super) async fn start() -> Self {
        let upstreams = [
            Upstream::start_at("127.0.0.1:0".parse().unwrap()).await,
            Upstream::start_at("[::1]:0".parse().unwrap()).await,
        ];
        let addresses = [upstreams[0].address, upstreams[1].address];
        let idp = Idp::start().await;
        let plan = Plan {
            client_certificates: ClientCertificates::Required,
            certificates: vec!["data/server"],
            // An authority that joins later has no list.
            unsure: Some((Unsure::Allow, Unsure::Deny)),
            listen: vec!["127.0.0.1:0", "[::1]:0"],
            prepare: |pki| {
                certificates::write_version(pki, certificates::FIRST);
                symlink(certificates::FIRST.to_string(), pki.path("..data")).unwrap();
                symlink("..data", pki.path("data")).unwrap();
                pki.write_crl(&[], SystemTime::now() + DAY);
            },
            ..Plan::default()
        };
        let policy = idp.directory.path().join("policy.yaml");
        let first = policies::Content::first(addresses, idp.address);
        fs::write(&policy, first.to_string()).unwrap();
        let loaded = enforcer_policy::load(std::slice::from_ref(&policy))
            .unwrap_or_else(|problems| panic!("{problems}"));
        let lab = plan.start(policies::impatient(loaded.set));
        let shared = Arc::new(Shared::default());
        *shared.token.lock().unwrap() = idp.first.token();
        let callers = callers(&lab, |_| lab.pki.client(SPIFFE), &[true, true, false], false);
        let prober = lab.pki.client_config(Some(lab.pki.client(SPIFFE)), H1);
        let load = Load::start(callers, &shared);
        load.answers(4).await;
        Self {
            lab,
            idp,
            policy,
            upstreams: upstreams.map(Some),
            addresses,
            load,
            shared,
            prober,
        }
    }

    /// Further clients, whose certificate will be revoked.
    pub(super) async fn doomed(&self) -> Load {
        let certificate = |pki: &Pki| certificates::numbered(pki, certificates::DOOMED);
        let callers = callers(&self.lab, certificate, &[true], true);
        let load = Load::start(callers, &self.shared);
        load.answers(2).await;
        load
    }

    /// The status that a client with this certificate gets on a new connection to each listener, by each protocol;
    /// 0 where there is no answer.
    pub(super) async fn asks_with(&self, certificate: impl Fn() -> pki::Client) -> Vec<u16> {
        let mut found = Vec::new();
        for (_, address) in self.lab.gateway.addresses() {
            for alpn in [H1, H2] {
                let config = self.lab.pki.client_config(Some(certificate()), alpn);
                let token = self.shared.token.lock().unwrap().clone();
                found.push(ask(address, config, "/orders/2", &token).await.unwrap_or(0));
            }
        }
        found
    }

    /// The status of a request by a client that is admitted, with that token.
    pub(super) async fn status(&self, path: &str, token: &str) -> u16 {
        ask(self.lab.address, Arc::clone(&self.prober), path, token)
            .await
            .unwrap()
    }

    pub(super) async fn served_by(&self, listener: usize) -> rustls_pki_types::CertificateDer<'static> {
        let address = self.lab.gateway.addresses()[listener].1;
        let stream = client::named(address, Arc::clone(&self.prober), HOST)
            .await
            .unwrap();
        stream.get_ref().1.peer_certificates().unwrap()[0].clone()
    }
}

/// Clients of both families and protocols.
fn callers(lab: &Lab, certificate: impl Fn(&Pki) -> pki::Client, ways: &[bool], doomed: bool) -> Vec<Caller> {
    let mut callers = Vec::new();
    for (_, address) in lab.gateway.addresses() {
        for (alpn, http2) in [(H1, false), (H2, true)] {
            for &kept in ways {
                let family = if address.is_ipv6() { "IPv6" } else { "IPv4" };
                let protocol = if http2 { "HTTP/2" } else { "HTTP/1.1" };
                let connection = if kept {
                    "kept connection"
                } else {
                    "new connections"
                };
                callers.push(Caller {
                    name: format!("{family}, {protocol}, {connection}"),
                    address,
                    config: lab.pki.client_config(Some(certificate(&lab.pki)), alpn),
                    http2,
                    kept,
                    doomed,
                });
            }
        }
    }
    callers
}

async fn ask(address: SocketAddr, config: Arc<ClientConfig>, path: &str, token: &str) -> Option<u16> {
    let stream = client::tls(address, config).await.ok()?;
    let mut client = Client::try_over(stream).await.ok()?;
    let mut request = client::get(path);
    request
        .headers_mut()
        .insert("authorization", format!("Bearer {token}").parse().unwrap());
    Some(client.send(request).await.ok()?.status.as_u16())
}
