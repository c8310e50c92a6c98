//! The gateway as curl sees it: over IPv4 and IPv6, HTTP/1.1 and HTTP/2.

use std::{collections::BTreeMap, net::IpAddr};

use anyhow::{Context as _, Result, ensure};
use lab::{
    demo::{
        policies::{CLIENT_SPIFFE, HOST, PORT, SCOPE},
        setup::{CLIENT_ID, OTHER_SCOPE, Stage},
    },
    topology::Neighbour,
    upstream::Echo,
};
use serde_json::{Value, json};
use std::time::Duration;

use crate::setting::{ORDERS, REPORTS, REPORTS_PER_MINUTE, Setting};

/// Seconds until a sliding window of a minute that is full admits one more, at most: the next window must
/// have begun, and the share of this one in it have fallen by one request.
const LONGEST_WAIT: u64 = 60 + 60 / REPORTS_PER_MINUTE;

/// How a request is made.
#[derive(Clone, Copy)]
struct Way {
    node: IpAddr,
    http: &'static str,
    version: &'static str,
}

const HTTP1: [&str; 2] = ["--http1.1", "1.1"];
const HTTP2: [&str; 2] = ["--http2", "2"];

/// What curl got.
#[derive(Debug)]
struct Got {
    status: u16,
    version: String,
    /// By lower-case name.
    fields: BTreeMap<String, String>,
    body: Value,
}

impl Got {
    fn field(&self, name: &str) -> &str {
        self.fields.get(name).map(String::as_str).unwrap_or_default()
    }

    /// A problem (RFC 9457) that says the same as the status.
    fn expect_problem(&self, status: u16, title: &str) -> Result<()> {
        ensure!(self.status == status, "expected {status}: {self:?}");
        ensure!(
            self.field("content-type") == "application/problem+json",
            "{self:?}"
        );
        ensure!(self.field("cache-control") == "no-store", "{self:?}");
        ensure!(
            self.body["status"] == status && self.body["title"] == title,
            "{self:?}"
        );
        ensure!(
            self.body["type"].is_string() && self.body["detail"].is_string(),
            "{self:?}"
        );
        Ok(())
    }
}

fn ways() -> Vec<Way> {
    let nodes = [Neighbour::Client.node_ipv4(), Neighbour::Client.node_ipv6()];
    let ways = nodes
        .into_iter()
        .flat_map(|node| [HTTP1, HTTP2].map(|[http, version]| Way { node, http, version }));
    ways.collect()
}

/// Asks with the client's certificate and `more` arguments.
fn curl(stage: &Stage, way: Way, path: &str, more: &[&str]) -> Result<Got> {
    let output = stage
        .curl(way.node)?
        .args(["--max-time", "10", way.http])
        .args(["--dump-header", "head.txt", "--output", "body.txt"])
        .args(["--write-out", "%{http_code} %{http_version}"])
        .args(more)
        .arg(format!("https://{HOST}:{PORT}{path}"))
        .output()
        .context("curl did not start: the scenarios need it, from the package of that name")?;
    let said = String::from_utf8(output.stdout)?;
    ensure!(
        output.status.success(),
        "curl: {said} {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let (status, version) = said.split_once(' ').context("curl says status and version")?;
    let read = |name| std::fs::read_to_string(stage.workspace().path().join(name));
    let head = read("head.txt")?;
    let fields = head.lines().filter_map(|line| line.split_once(": "));
    Ok(Got {
        status: status.parse()?,
        version: version.to_owned(),
        fields: fields
            .map(|(name, value)| (name.to_lowercase(), value.trim().to_owned()))
            .collect(),
        body: serde_json::from_str(&read("body.txt")?).context("the body is no JSON")?,
    })
}

fn bearer(token: &str) -> String {
    format!("Authorization: Bearer {token}")
}

#[test]
fn curl_gets_what_it_may_and_is_told_why_not() -> Result<()> {
    let Some(stage) = Setting::default().stage()? else {
        return Ok(());
    };
    let mint = |scope| stage.issuer().mint(CLIENT_ID, &[scope], Duration::from_secs(600));
    let (good, other) = (bearer(&mint(SCOPE)?), bearer(&mint(OTHER_SCOPE)?));
    let expired = bearer(&stage.issuer().mint_expired(CLIENT_ID, &[SCOPE])?);
    let forged = [
        "-H",
        "X-Forwarded-Client-Cert: forged",
        "-H",
        "X-Enforcer-Subject: forged",
    ];
    for way in ways() {
        let got = curl(
            &stage,
            way,
            "/v1/orders/7?page=2",
            &[["-H", &good].as_slice(), &forged].concat(),
        )?;
        ensure!(got.status == 200 && got.version == way.version, "{got:?}");
        let echo: Echo = serde_json::from_value(got.body)?;
        ensure!(
            echo.method == "GET" && echo.path == "/v1/orders/7?page=2",
            "{echo:?}"
        );
        // Identity comes from the handshake, never from the client's headers.
        ensure!(
            !echo.headers.values().any(|value| value.contains("forged")),
            "{echo:?}"
        );
        ensure!(
            echo.headers.values().any(|value| value.contains(CLIENT_SPIFFE)),
            "{echo:?}"
        );

        let none = curl(&stage, way, ORDERS, &[])?;
        none.expect_problem(401, "Unauthorized")?;
        ensure!(none.field("www-authenticate").starts_with("Bearer"), "{none:?}");
        ensure!(
            !none.field("www-authenticate").contains("error="),
            "RFC 6750, section 3.1: {none:?}"
        );
        let late = curl(&stage, way, ORDERS, &["-H", &expired])?;
        late.expect_problem(401, "Unauthorized")?;
        ensure!(
            late.field("www-authenticate")
                .contains(r#"error="invalid_token""#),
            "{late:?}"
        );
        let short = curl(&stage, way, ORDERS, &["-H", &other])?;
        short.expect_problem(403, "Forbidden")?;
        let challenge = short.field("www-authenticate");
        ensure!(
            challenge.contains(r#"error="insufficient_scope""#) && challenge.contains(SCOPE),
            "{short:?}"
        );
        curl(&stage, way, "/nowhere", &["-H", &good])?.expect_problem(404, "Not Found")?;
        curl(&stage, way, ORDERS, &["-H", &good, "-X", "DELETE"])?.expect_problem(404, "Not Found")?;
    }
    Ok(())
}

#[test]
fn a_limit_counts_over_all_ways_and_says_when_to_come_back() -> Result<()> {
    let Some(stage) = Setting::default().stage()? else {
        return Ok(());
    };
    let token = stage
        .issuer()
        .mint(CLIENT_ID, &[SCOPE], Duration::from_secs(600))?;
    let token = bearer(&token);
    // draft-ietf-httpapi-ratelimit-headers-11: a quota in a window of seconds, and what remains of it.
    let policy = format!(r#""reports";q={REPORTS_PER_MINUTE};w=60"#);
    let mut ways = ways().into_iter().cycle();
    let mut way = || ways.next().context("there are ways");
    for left in (0..REPORTS_PER_MINUTE).rev() {
        let got = curl(&stage, way()?, REPORTS, &["-H", &token])?;
        ensure!(got.status == 200, "with {left} to come: {got:?}");
        ensure!(got.field("ratelimit-policy") == policy, "{got:?}");
        ensure!(
            got.field("ratelimit")
                .starts_with(&format!(r#""reports";r={left};t="#)),
            "{got:?}"
        );
        ensure!(got.field("retry-after").is_empty(), "{got:?}");
    }
    for way in [way()?, way()?, way()?] {
        let got = curl(&stage, way, REPORTS, &["-H", &token])?;
        got.expect_problem(
            429,
            "Request cannot be satisfied as assigned quota has been exceeded",
        )?;
        ensure!(got.body["violated-policies"] == json!(["reports"]), "{got:?}");
        let seconds: u64 = got
            .field("retry-after")
            .parse()
            .with_context(|| format!("{got:?}"))?;
        ensure!((1..=LONGEST_WAIT).contains(&seconds), "{got:?}");
        ensure!(
            got.field("ratelimit") == format!(r#""reports";r=0;t={seconds}"#),
            "{got:?}"
        );
        ensure!(got.field("ratelimit-policy") == policy, "{got:?}");
    }
    ensure!(
        stage.served().iter().sum::<u64>() == REPORTS_PER_MINUTE,
        "{:?}",
        stage.served()
    );
    Ok(())
}
