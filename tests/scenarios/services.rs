//! The lab's own issuer, upstreams, client and load do what scenarios take for granted.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    num::NonZeroU32,
    path::Path,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{HeaderValue, StatusCode, header};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, jwk::JwkSet};
use lab::{
    agent::Agent,
    client::{Answer, Ask, Client, Failure, Protocol},
    issuer::{self, Issuer},
    load::{Load, Pace, Reuse},
    pki::Authority,
    privilege::root_or_skip,
    resident::Resident,
    serve,
    topology::{Lab, Neighbour},
    upstream::{Echo, Upstream},
    workspace::Workspace,
};

const ANY_PORT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
const HOST: &str = "issuer.lab.example";

fn start_issuer() -> Result<Issuer> {
    let settings = issuer::Settings {
        issuer: format!("https://{HOST}"),
        audience: "orders".to_owned(),
        clients: vec![issuer::Client {
            id: "shop".to_owned(),
            secret: "s3cret".to_owned(),
            scopes: vec!["orders:read".to_owned(), "orders:write".to_owned()],
        }],
    };
    Issuer::start(Resident::start_here("issuer")?, settings)
}

fn ask(thread: &Resident, target: SocketAddr, ask: Ask) -> Result<Answer> {
    Ok(thread.wait(async move { Client::plain(target).once(&ask).await })??)
}

fn token_of(answer: &Answer) -> Result<String> {
    let body: serde_json::Value = serde_json::from_slice(&answer.body)?;
    Ok(body["access_token"].as_str().context("no token")?.to_owned())
}

/// Verifies as a relying party would: by the published keys.
fn verify(thread: &Resident, target: SocketAddr, token: &str) -> Result<serde_json::Value> {
    let keys: JwkSet = serde_json::from_slice(&ask(thread, target, Ask::get("/jwks"))?.body)?;
    let header = jsonwebtoken::decode_header(token)?;
    assert_eq!(header.typ.as_deref(), Some("at+jwt"));
    let key = keys.find(&header.kid.context("no kid")?).context("unknown kid")?;
    let mut validation = Validation::new(Algorithm::ES256);
    validation.set_audience(&["orders"]);
    validation.set_issuer(&[format!("https://{HOST}")]);
    Ok(jsonwebtoken::decode(token, &DecodingKey::from_jwk(key)?, &validation)?.claims)
}

#[test]
fn tokens_are_issued_and_verify_across_a_rotation() -> Result<()> {
    let issuer = start_issuer()?;
    let address = issuer.listen(ANY_PORT, None)?;
    let thread = Resident::start_here("client")?;
    let post = Ask::post_form(
        "/token",
        "grant_type=client_credentials&scope=orders:read&client_id=shop&client_secret=s3cret",
    );
    let first = ask(&thread, address, post)?;
    assert_eq!(first.header("cache-control"), Some("no-store"));
    let first = token_of(&first)?;
    issuer.rotate()?;
    let second = issuer.mint("shop", &["orders:read"], Duration::from_secs(60))?;

    let claims = verify(&thread, address, &first)?;
    for claim in ["iss", "sub", "aud", "client_id", "scope", "iat", "exp", "jti"] {
        assert!(!claims[claim].is_null(), "{claim} in {claims}");
    }
    assert_eq!(claims["scope"], "orders:read");
    assert_ne!(
        jsonwebtoken::decode_header(&first)?.kid,
        jsonwebtoken::decode_header(&second)?.kid
    );
    verify(&thread, address, &second)?;
    assert!(verify(&thread, address, &issuer.mint_expired("shop", &[])?).is_err());
    Ok(())
}

#[test]
fn bad_token_requests_are_refused_as_rfc_6749_says() -> Result<()> {
    let issuer = start_issuer()?;
    let address = issuer.listen(ANY_PORT, None)?;
    let thread = Resident::start_here("client")?;
    let basic = |credentials: &str| {
        let value = base64::engine::general_purpose::STANDARD.encode(credentials);
        HeaderValue::from_str(&format!("Basic {value}"))
    };
    let grant = "grant_type=client_credentials";
    for (credentials, form, status, error) in [
        ("shop:s3cret", grant, 200, None),
        ("shop:wrong", grant, 401, Some("invalid_client")),
        ("other:s3cret", grant, 401, Some("invalid_client")),
        (
            "shop:s3cret",
            "grant_type=password",
            400,
            Some("unsupported_grant_type"),
        ),
        (
            "shop:s3cret",
            "grant_type=client_credentials&scope=admin",
            400,
            Some("invalid_scope"),
        ),
    ] {
        let request = Ask::post_form("/token", form).with_header(header::AUTHORIZATION, basic(credentials)?);
        let answer = ask(&thread, address, request)?;
        let body: serde_json::Value = serde_json::from_slice(&answer.body)?;
        assert_eq!(answer.status.as_u16(), status, "{credentials} {form}");
        assert_eq!(body["error"].as_str(), error, "{credentials} {form}");
    }
    Ok(())
}

#[test]
fn a_token_is_altered_by_changing_any_part() -> Result<()> {
    let issuer = start_issuer()?;
    let address = issuer.listen(ANY_PORT, None)?;
    let thread = Resident::start_here("client")?;
    let token = issuer.mint("shop", &["orders:read"], Duration::from_secs(60))?;
    let mut parts: Vec<String> = token.split('.').map(str::to_owned).collect();
    let mut claims: serde_json::Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(&parts[1])?)?;
    claims["scope"] = "orders:read orders:write".into();
    parts[1] = URL_SAFE_NO_PAD.encode(claims.to_string());
    assert!(verify(&thread, address, &token).is_ok());
    assert!(verify(&thread, address, &parts.join(".")).is_err());
    Ok(())
}

#[test]
fn a_client_in_one_namespace_reaches_tls_in_another() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let lab = Lab::create()?;
    let authority = Authority::create("Lab CA")?;
    let server = authority.server(&[HOST], &[])?;
    let router = axum::Router::new().route("/", axum::routing::get(|| async { "here" }));
    let node = Resident::start(lab.node(), "server")?;
    let address = SocketAddr::new(Neighbour::Client.node_ipv6(), 0);
    let address = serve::start(&node, address, router, Some(serve::tls(&server)?))?;
    let thread = Resident::start(lab.neighbour(Neighbour::Client), "client")?;
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let client = Client::https(address, HOST, authority.certificate(), None, protocol)?;
        let answer = thread.wait(async move { client.once(&Ask::get("/")).await })??;
        assert_eq!(
            (answer.status, &answer.body[..]),
            (StatusCode::OK, &b"here"[..]),
            "{protocol:?}"
        );
    }
    let stranger = Authority::create("Lab CA")?.certificate();
    let client = Client::https(address, HOST, stranger, None, Protocol::Http1)?;
    let outcome = thread.wait(async move { client.once(&Ask::get("/")).await })?;
    assert!(matches!(outcome, Err(Failure::Tls(_))), "{outcome:?}");
    Ok(())
}

#[test]
fn an_upstream_echoes_delays_and_fails() -> Result<()> {
    let upstream = Upstream::start(Resident::start_here("upstream")?, ANY_PORT, "a")?;
    let thread = Resident::start_here("client")?;
    let request = Ask::get("/v1/x?y=z").with_token("t")?;
    let echo: Echo = serde_json::from_slice(&ask(&thread, upstream.address(), request)?.body)?;
    assert_eq!((echo.upstream.as_str(), echo.path.as_str()), ("a", "/v1/x?y=z"));
    assert_eq!(
        echo.headers.get("authorization").map(String::as_str),
        Some("Bearer t")
    );

    let (target, impatient) = (upstream.address(), Duration::from_millis(50));
    upstream.set_delay(Duration::from_secs(5));
    let outcome = thread.wait(async move {
        Client::plain(target)
            .with_patience(impatient)
            .once(&Ask::get("/"))
            .await
    })?;
    assert!(matches!(outcome, Err(Failure::TimedOut)), "{outcome:?}");

    upstream.set_delay(Duration::ZERO);
    upstream.set_failing(true);
    for path in ["/", "/healthz"] {
        let answer = ask(&thread, target, Ask::get(path))?;
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{path}");
    }
    Ok(())
}

#[test]
fn load_keeps_its_rate_and_counts_failures_by_kind() -> Result<()> {
    let upstream = Upstream::start(Resident::start_here("upstream")?, ANY_PORT, "a")?;
    let thread = Resident::start_here("client")?;
    let client = Client::plain(upstream.address());
    let load = Load {
        connections: 4,
        pace: Pace::PerSecond(NonZeroU32::MIN.saturating_add(99)),
        reuse: Reuse::KeepAlive,
        warm_up: Duration::ZERO,
        duration: Duration::from_millis(500),
    };
    let report = thread.wait(load.run(client.clone(), Ask::get("/")))?;
    assert_eq!(report.requests, 50, "{report:?}");
    assert_eq!(report.succeeded, 50, "{report:?}");
    assert!(report.percentile(50) <= report.percentile(99) && report.percentile(99) <= report.max());

    upstream.set_failing(true);
    let per_request = Load {
        reuse: Reuse::PerRequest,
        ..load
    };
    let report = thread.wait(per_request.run(client, Ask::get("/")))?;
    assert_eq!(report.failures.get("status 503"), Some(&50), "{report:?}");

    let closed = Load {
        pace: Pace::Closed,
        duration: Duration::from_millis(100),
        ..load
    };
    let nobody = Client::plain(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 1));
    let report = thread.wait(closed.run(nobody, Ask::get("/")))?;
    assert_eq!(report.succeeded, 0);
    assert!(
        report.failures.get("connect").is_some_and(|count| *count > 0),
        "{report:?}"
    );
    Ok(())
}

#[test]
fn an_agent_that_ends_early_is_reported_with_its_log() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let lab = Lab::create()?;
    let workspace = Workspace::create()?;
    // Takes the agent's arguments for files, and finds none.
    match Agent::start(lab.node(), Path::new("/bin/cat"), &workspace) {
        Ok(_agent) => bail!("an agent that cannot be"),
        Err(error) => {
            let message = format!("{error:#}");
            assert!(message.contains("ended before it was ready"), "{message}");
            assert!(message.contains("/bin/cat"), "{message}");
        }
    }
    Ok(())
}
