//! What a client is told that must prove more: status and `WWW-Authenticate` (RFC 6750, section 3).

use std::sync::Arc;

use http::{HeaderValue, StatusCode};

use super::{
    api_key::KeyError,
    bearer::{BearerError, Scheme},
    dpop::{self, ProofError},
    token::TokenError,
};
use crate::revocation::Revoked;

/// What a challenge asks access to, and how tokens for it are sent.
#[derive(Clone, Copy, Debug)]
pub struct Realm<'a> {
    pub name: &'a str,
    pub scheme: Scheme,
}

impl<'a> From<&'a str> for Realm<'a> {
    fn from(name: &'a str) -> Self {
        Self {
            name,
            scheme: Scheme::default(),
        }
    }
}

/// What is missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Challenge<'a> {
    /// No token was sent: no `error` says more than that one is wanted.
    TokenWanted,
    /// The request's credentials cannot be read.
    Unreadable(BearerError),
    /// The token does not hold.
    TokenRefused(TokenError),
    /// The token holds, and its proof (RFC 9449) does not.
    ProofRefused(ProofError),
    /// The token is bound to what the client has not proved.
    TokenBound,
    /// The token holds, and lacks some of these scopes.
    ScopesWanted(&'a [Arc<str>]),
    /// No client certificate was sent. There is no registered scheme to ask for one, and a 401 must
    /// have a challenge (RFC 9110, section 15.5.2).
    CertificateWanted,
    /// The API key does not do, or none was sent. There is no registered scheme for these either.
    ApiKey(KeyError),
    /// A proof has been revoked.
    Revoked(Revoked),
}

impl Challenge<'_> {
    /// The status to answer with.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Unreadable(_) => StatusCode::BAD_REQUEST,
            Self::ApiKey(error) => error.status(),
            Self::ScopesWanted(_) => StatusCode::FORBIDDEN,
            Self::TokenRefused(error) if error.is_over_share() => StatusCode::TOO_MANY_REQUESTS,
            Self::TokenRefused(error) if !error.is_clients() => StatusCode::SERVICE_UNAVAILABLE,
            Self::ProofRefused(error) => error.status(),
            Self::TokenWanted
            | Self::TokenRefused(_)
            | Self::TokenBound
            | Self::CertificateWanted
            | Self::Revoked(_) => StatusCode::UNAUTHORIZED,
        }
    }

    /// The value of `WWW-Authenticate`; none if the client's credentials are not the cause.
    #[must_use]
    pub fn header<'a>(&self, realm: impl Into<Realm<'a>>) -> Option<HeaderValue> {
        let Realm { name, scheme } = realm.into();
        let asked = match self {
            Self::CertificateWanted | Self::Revoked(Revoked::Certificate) => "ClientCertificate".to_owned(),
            Self::ApiKey(_) | Self::Revoked(Revoked::Key) => "ApiKey".to_owned(),
            _ => scheme.to_string(),
        };
        let mut text = format!("{asked} realm=\"{}\"", quotable(name));
        let mut say = |error: &str, description: &str| {
            text = format!(
                "{text}, error=\"{error}\", error_description=\"{}\"",
                quotable(description)
            );
        };
        match self {
            Self::TokenWanted | Self::CertificateWanted => {}
            Self::Revoked(revoked) => say("invalid_token", &revoked.to_string()),
            Self::ApiKey(error) => {
                if let Some(code) = error.code() {
                    say(code, &error.to_string());
                }
            }
            Self::Unreadable(error) => say("invalid_request", &error.to_string()),
            Self::TokenRefused(error) if !error.is_clients() => return None,
            Self::TokenRefused(error) => say("invalid_token", &error.to_string()),
            Self::ProofRefused(error) if error.status() != StatusCode::UNAUTHORIZED => return None,
            Self::ProofRefused(error) => say(error.code(), &error.to_string()),
            Self::TokenBound => say(
                "invalid_token",
                "the token is bound to a key that the client has not proved to have",
            ),
            Self::ScopesWanted(scopes) => {
                say("insufficient_scope", "the token lacks a scope");
                text = format!("{text}, scope=\"{}\"", quotable(&scopes.join(" ")));
            }
        }
        let algorithms = dpop::ALGORITHMS;
        match (self, scheme) {
            (Self::CertificateWanted | Self::ApiKey(_), _) => {}
            (_, Scheme::Dpop) => text = format!("{text}, algs=\"{algorithms}\""),
            // RFC 9449, section 7.2: how the token must be sent instead.
            (Self::ProofRefused(ProofError::SentAsBearer | ProofError::BindingRequired), Scheme::Bearer) => {
                text = format!("{text}, DPoP algs=\"{algorithms}\"");
            }
            (_, Scheme::Bearer) => {}
        }
        HeaderValue::try_from(text).ok()
    }
}

/// RFC 6750, section 3: visible ASCII and spaces, without `"` and `\`.
fn quotable(text: &str) -> String {
    text.chars()
        .filter(|&c| matches!(c, ' '..='~') && c != '"' && c != '\\')
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_follow_rfc_6750() {
        let scopes: [Arc<str>; 2] = ["orders:read".into(), "orders:write".into()];
        for (challenge, status, header) in [
            (Challenge::TokenWanted, 401, r#"Bearer realm="orders""#),
            (
                Challenge::Unreadable(BearerError::Several),
                400,
                r#"Bearer realm="orders", error="invalid_request", error_description="several Authorization headers: send one""#,
            ),
            (
                Challenge::TokenRefused(TokenError::Expired),
                401,
                r#"Bearer realm="orders", error="invalid_token", error_description="the token is expired""#,
            ),
            (
                Challenge::ScopesWanted(&scopes),
                403,
                r#"Bearer realm="orders", error="insufficient_scope", error_description="the token lacks a scope", scope="orders:read orders:write""#,
            ),
            (
                Challenge::CertificateWanted,
                401,
                r#"ClientCertificate realm="orders""#,
            ),
            (
                Challenge::ApiKey(KeyError::Missing),
                401,
                r#"ApiKey realm="orders""#,
            ),
            (
                Challenge::ApiKey(KeyError::Expired),
                401,
                r#"ApiKey realm="orders", error="invalid_token", error_description="the API key has expired""#,
            ),
        ] {
            assert_eq!(challenge.status(), status);
            assert_eq!(challenge.header("orders").unwrap(), header);
        }
    }

    #[test]
    fn what_is_not_the_clients_fault_is_no_challenge() {
        for (error, status) in [(TokenError::KeysUnavailable, 503), (TokenError::OverShare, 429)] {
            let challenge = Challenge::TokenRefused(error);
            assert_eq!(
                (challenge.status().as_u16(), challenge.header("orders")),
                (status, None)
            );
        }
    }

    #[test]
    fn challenges_follow_rfc_9449() {
        let algs = r#"algs="ES256 ES384 EdDSA RS256 RS384 RS512 PS256 PS384 PS512""#;
        let bound = ProofError::SentAsBearer;
        for (challenge, scheme, header) in [
            (
                Challenge::TokenWanted,
                Scheme::Dpop,
                format!(r#"DPoP realm="orders", {algs}"#),
            ),
            (
                Challenge::TokenRefused(TokenError::Expired),
                Scheme::Dpop,
                format!(
                    r#"DPoP realm="orders", error="invalid_token", error_description="the token is expired", {algs}"#
                ),
            ),
            (
                Challenge::ProofRefused(ProofError::Replayed),
                Scheme::Dpop,
                format!(
                    r#"DPoP realm="orders", error="invalid_dpop_proof", error_description="the proof was used before", {algs}"#
                ),
            ),
            (
                Challenge::ProofRefused(bound),
                Scheme::Bearer,
                format!(
                    r#"Bearer realm="orders", error="invalid_token", error_description="{bound}", DPoP {algs}"#
                ),
            ),
            (
                Challenge::CertificateWanted,
                Scheme::Dpop,
                r#"ClientCertificate realm="orders""#.to_owned(),
            ),
        ] {
            let name = "orders";
            assert_eq!(challenge.header(Realm { name, scheme }).unwrap(), header);
            assert_eq!(challenge.status(), 401);
        }
        for (error, status) in [(ProofError::Full, 503), (ProofError::OverShare, 429)] {
            let challenge = Challenge::ProofRefused(error);
            assert_eq!(
                (challenge.status().as_u16(), challenge.header("orders")),
                (status, None)
            );
        }
    }

    #[test]
    fn a_realm_cannot_end_its_quotes() {
        let header = Challenge::TokenWanted.header("a\"\\, b=\"\r\nc\u{e4}").unwrap();
        assert_eq!(header, r#"Bearer realm="a, b=c""#);
    }
}
