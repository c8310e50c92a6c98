//! Why a request goes no further, and how the client is told.

use std::fmt::Display;

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Response, StatusCode,
    header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, WWW_AUTHENTICATE},
};

use super::{
    body::ResponseBody,
    identity::{authorize::Denial, bearer::BearerError, challenge::Challenge, token::TokenError},
    signal::Verdict,
};

/// A request's end, decided by the gateway.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) verdict: Verdict,
    status: StatusCode,
    detail: String,
    /// On the heap, so that the way of admitted requests does not carry its size.
    fields: Box<HeaderMap>,
}

impl Refusal {
    /// For `verdict`, answered with `status` and a sentence for the client.
    pub(super) fn new(verdict: Verdict, status: StatusCode, detail: impl Into<String>) -> Self {
        Self {
            verdict,
            status,
            detail: detail.into(),
            fields: Box::default(),
        }
    }

    /// The request cannot be understood.
    pub(super) fn invalid(reason: impl Display) -> Self {
        Self::new(Verdict::Invalid, StatusCode::BAD_REQUEST, reason.to_string())
    }

    pub(super) fn too_large(limit: u64) -> Self {
        let detail = format!("the request's body is larger than {limit} bytes");
        Self::new(Verdict::Invalid, StatusCode::PAYLOAD_TOO_LARGE, detail)
    }

    /// Also where the host exists and the path does not: nothing is revealed.
    pub(super) fn no_route() -> Self {
        Self::new(Verdict::NoRoute, StatusCode::NOT_FOUND, "no route leads there")
    }

    /// What was proved does not suffice.
    pub(super) fn denied(denial: &Denial<'_>, realm: &str) -> Self {
        let mut refusal = Self::new(denial.verdict(), denial.status(), denial.to_string());
        if let Some(challenge) = denial.challenge() {
            refusal.challenge(&challenge, realm);
        }
        refusal
    }

    /// The credentials cannot be read.
    pub(super) fn unreadable(error: BearerError, realm: &str) -> Self {
        Self::challenging(&Challenge::Unreadable(error), error.to_string(), realm)
    }

    /// The token does not hold.
    pub(super) fn token(error: TokenError, realm: &str) -> Self {
        Self::challenging(&Challenge::TokenRefused(error), error.to_string(), realm)
    }

    fn challenging(challenge: &Challenge<'_>, detail: String, realm: &str) -> Self {
        let verdict = match challenge.status() {
            StatusCode::SERVICE_UNAVAILABLE => Verdict::Upstream,
            _ => Verdict::Unauthenticated,
        };
        let mut refusal = Self::new(verdict, challenge.status(), detail);
        refusal.challenge(challenge, realm);
        refusal
    }

    fn challenge(&mut self, challenge: &Challenge<'_>, realm: &str) {
        if let Some(value) = challenge.header(realm) {
            self.fields.insert(WWW_AUTHENTICATE, value);
        }
    }

    /// Problem details (RFC 9457).
    pub(super) fn into_response<G>(self, held: G) -> Response<ResponseBody<G>> {
        let document = serde_json::json!({
            "title": self.status.canonical_reason().unwrap_or("Refused"),
            "status": self.status.as_u16(),
            "detail": self.detail,
        });
        let mut response = Response::new(ResponseBody::own(Bytes::from(document.to_string()), held));
        *response.status_mut() = self.status;
        *response.headers_mut() = *self.fields;
        let fields = response.headers_mut();
        fields.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        fields.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if self.status == StatusCode::METHOD_NOT_ALLOWED {
            // A 405 must say what is allowed; which methods are depends on the route (RFC 9110 15.5.6).
            fields.insert(ALLOW, HeaderValue::from_static(""));
        }
        response
    }
}
