//! Requests, good and bad, and what the gateway must answer.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result};
use http::StatusCode;
use serde::Serialize;

use super::{
    policies::{CLIENT_SPIFFE, REPORTS_PER_MINUTE, SCOPE},
    setup::{CLIENT_ID, OTHER_SCOPE, Stage},
};
use crate::{
    client::{Answer, Ask, Failure},
    pki::Authority,
    upstream::Echo,
};

const PATH: &str = "/v1/orders/7";
const LIMITED_PATH: &str = "/v1/reports/daily";
const ALLOWED_REQUESTS: usize = 20;

/// One expectation and what came.
#[derive(Clone, Debug, Serialize)]
pub struct Check {
    pub what: String,
    pub expected: String,
    pub got: String,
    pub holds: bool,
}

pub(super) fn run(stage: &Stage) -> Result<Vec<Check>> {
    let token = stage.fetch_token(SCOPE)?;
    Ok(vec![
        allowed(stage, &token)?,
        without_certificate(stage, &token)?,
        stranger(stage, &token)?,
        refused_token(stage, "a request without a token", None)?,
        refused_token(
            stage,
            "a token whose signature is altered",
            Some(&altered(&token)),
        )?,
        refused_token(
            stage,
            "an expired token",
            Some(&stage.issuer().mint_expired(CLIENT_ID, &[SCOPE])?),
        )?,
        missing_scope(stage)?,
        over_limit(stage, &token)?,
    ])
}

/// Good requests are answered, by both upstreams.
fn allowed(stage: &Stage, token: &str) -> Result<Check> {
    let mut answered = 0;
    let mut other = BTreeSet::new();
    let mut upstreams = BTreeSet::new();
    for _ in 0..ALLOWED_REQUESTS {
        match stage.ask(stage.verified_client()?, Ask::get(PATH).with_token(token)?)? {
            Ok(answer) if answer.status == StatusCode::OK => {
                let echo: Echo =
                    serde_json::from_slice(&answer.body).context("an upstream's answer is garbled")?;
                upstreams.insert(echo.upstream);
                answered += 1;
            }
            outcome => drop(other.insert(describe(&outcome))),
        }
    }
    let mut got = format!("{answered} × 200 from {}", join(&upstreams));
    if !other.is_empty() {
        got = format!("{got}; {}", join(&other));
    }
    Ok(Check {
        what: format!("{ALLOWED_REQUESTS} requests with certificate and token"),
        expected: format!("{ALLOWED_REQUESTS} × 200 from both upstreams"),
        holds: answered == ALLOWED_REQUESTS && upstreams.len() == 2,
        got,
    })
}

fn without_certificate(stage: &Stage, token: &str) -> Result<Check> {
    let outcome = stage.ask(stage.gateway_client(None)?, Ask::get(PATH).with_token(token)?)?;
    Ok(refused_handshake("a client without a certificate", &outcome))
}

/// The same name in the certificate, from an authority that nobody trusts.
fn stranger(stage: &Stage, token: &str) -> Result<Check> {
    let identity = Authority::create("Another CA")?.client(CLIENT_SPIFFE)?;
    let outcome = stage.ask(
        stage.gateway_client(Some(&identity))?,
        Ask::get(PATH).with_token(token)?,
    )?;
    Ok(refused_handshake(
        "a certificate of an unknown authority",
        &outcome,
    ))
}

fn refused_handshake(what: &str, outcome: &Result<Answer, Failure>) -> Check {
    Check {
        what: what.to_owned(),
        expected: "refused in the TLS handshake".to_owned(),
        got: describe(outcome),
        // The alert may be overtaken by the end of the connection.
        holds: matches!(outcome, Err(Failure::Tls(_) | Failure::Broken(_))),
    }
}

fn refused_token(stage: &Stage, what: &str, token: Option<&str>) -> Result<Check> {
    let mut ask = Ask::get(PATH);
    if let Some(token) = token {
        ask = ask.with_token(token)?;
    }
    let outcome = stage.ask(stage.verified_client()?, ask)?;
    Ok(status(what, StatusCode::UNAUTHORIZED, &outcome))
}

fn missing_scope(stage: &Stage) -> Result<Check> {
    let token = stage.fetch_token(OTHER_SCOPE)?;
    let outcome = stage.ask(stage.verified_client()?, Ask::get(PATH).with_token(&token)?)?;
    Ok(status(
        "a token without the scope",
        StatusCode::FORBIDDEN,
        &outcome,
    ))
}

/// The limit admits what it says; the next request hears how long to wait.
fn over_limit(stage: &Stage, token: &str) -> Result<Check> {
    let ask = Ask::get(LIMITED_PATH).with_token(token)?;
    let mut admitted = 0;
    let mut refusal = None;
    for _ in 0..=REPORTS_PER_MINUTE {
        match stage.ask(stage.verified_client()?, ask.clone())? {
            Ok(answer) if answer.status == StatusCode::OK => admitted += 1,
            outcome => refusal = Some(outcome),
        }
    }
    let retry_after = match &refusal {
        Some(Ok(answer)) if answer.status == StatusCode::TOO_MANY_REQUESTS => answer.header("retry-after"),
        _ => None,
    };
    let got = match (&refusal, retry_after) {
        (Some(_), Some(seconds)) => format!("{admitted} × 200, then 429, retry after {seconds} s"),
        (Some(outcome), None) => format!("{admitted} × 200, then {}", describe(outcome)),
        (None, _) => format!("{admitted} × 200"),
    };
    Ok(Check {
        what: format!(
            "{} requests where {REPORTS_PER_MINUTE} a minute are allowed",
            REPORTS_PER_MINUTE + 1
        ),
        expected: format!("{REPORTS_PER_MINUTE} × 200, then 429 with a time to retry"),
        got,
        holds: admitted == REPORTS_PER_MINUTE
            && retry_after.is_some_and(|seconds| seconds.parse::<u32>().is_ok()),
    })
}

fn status(what: &str, expected: StatusCode, outcome: &Result<Answer, Failure>) -> Check {
    Check {
        what: what.to_owned(),
        expected: expected.as_str().to_owned(),
        got: describe(outcome),
        holds: matches!(outcome, Ok(answer) if answer.status == expected),
    }
}

fn describe(outcome: &Result<Answer, Failure>) -> String {
    match outcome {
        Ok(answer) => answer.status.as_str().to_owned(),
        Err(failure) => failure.to_string(),
    }
}

fn join(words: &BTreeSet<String>) -> String {
    words.iter().map(String::as_str).collect::<Vec<_>>().join(", ")
}

/// The same token with one character of its signature changed.
fn altered(token: &str) -> String {
    let (signed, signature) = token.rsplit_once('.').unwrap_or((token, ""));
    let first = if signature.starts_with('A') { 'B' } else { 'A' };
    let rest: String = signature.chars().skip(1).collect();
    format!("{signed}.{first}{rest}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_altered_token_differs_in_its_signature_alone() {
        assert_eq!(altered("a.b.cd"), "a.b.Ad");
        assert_eq!(altered("a.b.Ad"), "a.b.Bd");
    }
}
