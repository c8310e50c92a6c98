//! Tokens that are bound to a client certificate (RFC 8705, section 3), over real connections.

use aws_lc_rs::digest::{SHA256, digest};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use enforcer_tls::config::ClientCertificates;
use serde_json::json;

use crate::data_path::{
    hostile_tokens::Forge,
    support::{
        Plan,
        client::{self, Client, H1, H2},
        origin::Origin,
    },
};

#[tokio::test(flavor = "multi_thread")]
async fn a_token_bound_to_a_certificate_needs_that_certificate() {
    let (origin, forge) = (Origin::start().await, Forge::new());
    let lab = Plan {
        client_certificates: ClientCertificates::Optional,
        ..Plan::default()
    }
    .start(forge.set(&origin));
    for alpn in [H1, H2] {
        let [cart, other] =
            ["cart", "other"].map(|name| lab.pki.client(&format!("spiffe://example.com/{name}")));
        let thumbprint = URL_SAFE_NO_PAD.encode(digest(&SHA256, &cart.certificate));
        let bound = forge.claim("cnf", json!({"x5t#S256": thumbprint}));
        let plain = forge.sign(&forge.header(), &forge.claims());
        for (what, certificate, token, status) in [
            ("its certificate", Some(cart), &bound, 200),
            ("another certificate", Some(other), &bound, 401),
            ("no certificate", None, &bound, 401),
            ("no certificate and a plain token", None, &plain, 200),
        ] {
            let config = lab.pki.client_config(certificate, alpn);
            let mut client = Client::over(client::tls(lab.address, config).await.unwrap()).await;
            let mut request = client::get("/");
            let value = format!("Bearer {token}").parse().unwrap();
            request.headers_mut().insert("authorization", value);
            let reply = client.send(request).await.unwrap();
            assert_eq!(reply.status, status, "{what}: {reply:?}");
            if status == 401 {
                let told = reply.headers["www-authenticate"].to_str().unwrap();
                assert!(told.contains("error=\"invalid_token\""), "{what}: {told}");
            }
        }
    }
    assert_eq!(origin.requests(), 4);
}
