//! Why a request goes no further, and how the client is told.

use std::fmt::Display;

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Response, StatusCode,
    header::{ALLOW, CONNECTION, RETRY_AFTER, WWW_AUTHENTICATE},
};

use super::{
    body::ResponseBody,
    grpc,
    identity::{
        api_key::KeyError,
        authorize::Denial,
        bearer::BearerError,
        challenge::{Challenge, Realm},
        dpop::ProofError,
        reason::Reason,
        token::TokenError,
    },
    limit::{self, RuleLimits},
    problem::Problem,
    revocation::Revoked,
    signal::Verdict,
};

/// A request's end, decided by the gateway.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) verdict: Verdict,
    /// What was missing, if a rule does not admit it.
    pub(super) denied: Option<Reason>,
    /// On the heap, so that the way of admitted requests does not carry its size.
    answer: Box<Answer>,
}

#[derive(Debug)]
struct Answer {
    problem: Problem,
    fields: HeaderMap,
}

impl Refusal {
    /// For `verdict`, answered with `status` and a sentence for the client.
    pub(super) fn new(verdict: Verdict, status: StatusCode, detail: impl Into<String>) -> Self {
        Self::of(verdict, Problem::new(status, detail))
    }

    fn of(verdict: Verdict, problem: Problem) -> Self {
        let answer = Box::new(Answer {
            problem,
            fields: HeaderMap::new(),
        });
        Self {
            verdict,
            denied: None,
            answer,
        }
    }

    /// With how soon, in seconds, it may be tried again (RFC 9110 section 10.2.3).
    pub(super) fn retry_after(mut self, seconds: u64) -> Self {
        self.answer.fields.insert(RETRY_AFTER, seconds.into());
        self
    }

    /// With the end of an HTTP/1 connection.
    pub(super) fn closing(mut self) -> Self {
        let close = HeaderValue::from_static("close");
        self.answer.fields.insert(CONNECTION, close);
        self
    }

    /// A limit of the rule is used up.
    pub(super) fn limited(limits: &RuleLimits, refusal: &limit::Refusal) -> Self {
        Self::of(Verdict::Limited, limit::headers::problem(limits, refusal))
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
    pub(super) fn denied<'a>(denial: &Denial<'_>, realm: impl Into<Realm<'a>>) -> Self {
        let mut refusal = Self::new(denial.verdict(), denial.status(), denial.to_string());
        refusal.denied = Some(denial.reason());
        if let Some(challenge) = denial.challenge() {
            refusal.challenge(&challenge, realm);
        }
        refusal
    }

    /// The credentials cannot be read.
    pub(super) fn unreadable<'a>(error: BearerError, realm: impl Into<Realm<'a>>) -> Self {
        let refusal = Self::challenging(&Challenge::Unreadable(error), error.to_string(), realm);
        refusal.because(Reason::TokenUnreadable)
    }

    /// The token does not hold.
    pub(super) fn token<'a>(error: TokenError, realm: impl Into<Realm<'a>>) -> Self {
        let refusal = Self::challenging(&Challenge::TokenRefused(error), error.to_string(), realm);
        let refusal = refusal.because(error.reason());
        match error {
            // Places come free with each answer.
            error if error.is_over_share() => refusal.retry_after(1),
            _ => refusal,
        }
    }

    /// The API key does not do, or there is none.
    pub(super) fn api_key(error: KeyError, realm: &str) -> Self {
        let mut refusal = Self::new(error.verdict(), error.status(), error.to_string());
        refusal.denied = Some(error.reason());
        refusal.challenge(&Challenge::ApiKey(error), realm);
        refusal
    }

    /// A proof that held has been revoked.
    pub(super) fn revoked<'a>(revoked: Revoked, realm: impl Into<Realm<'a>>) -> Self {
        let detail = revoked.to_string();
        let mut refusal = Self::new(Verdict::Unauthenticated, StatusCode::UNAUTHORIZED, detail);
        refusal.denied = Some(Reason::Revoked);
        refusal.challenge(&Challenge::Revoked(revoked), realm);
        refusal
    }

    /// The proof of the token's key does not hold.
    pub(super) fn proof<'a>(error: ProofError, realm: impl Into<Realm<'a>>) -> Self {
        let refusal = Self::challenging(&Challenge::ProofRefused(error), error.to_string(), realm);
        let refusal = refusal.because(Reason::TokenProof);
        match error {
            // Places come free each second.
            ProofError::OverShare | ProofError::Full => refusal.retry_after(1),
            _ => refusal,
        }
    }

    fn because(self, reason: Reason) -> Self {
        Self {
            denied: Some(reason),
            ..self
        }
    }

    fn challenging<'a>(challenge: &Challenge<'_>, detail: String, realm: impl Into<Realm<'a>>) -> Self {
        let verdict = match challenge.status() {
            StatusCode::SERVICE_UNAVAILABLE => Verdict::Upstream,
            StatusCode::TOO_MANY_REQUESTS => Verdict::Limited,
            _ => Verdict::Unauthenticated,
        };
        let mut refusal = Self::new(verdict, challenge.status(), detail);
        refusal.challenge(challenge, realm);
        refusal
    }

    fn challenge<'a>(&mut self, challenge: &Challenge<'_>, realm: impl Into<Realm<'a>>) {
        if let Some(value) = challenge.header(realm) {
            self.answer.fields.insert(WWW_AUTHENTICATE, value);
        }
    }

    /// What the client is told in words.
    pub(super) fn detail(&self) -> &str {
        self.answer.problem.detail()
    }

    /// What the client is told by a status of HTTP.
    pub(super) fn status(&self) -> StatusCode {
        self.answer.problem.status()
    }

    /// The whole response to a call of gRPC: a head alone.
    pub(super) fn into_call_response<G>(self, held: G) -> Response<ResponseBody<G>> {
        let Answer { problem, fields } = *self.answer;
        let mut response = Response::new(());
        grpc::refuse(problem.status(), problem.detail(), &mut response);
        response.headers_mut().extend(fields);
        response.map(|()| ResponseBody::own(Bytes::new(), held))
    }

    /// The whole response.
    pub(super) fn into_response<G>(self, held: G) -> Response<ResponseBody<G>> {
        let Answer { problem, fields } = *self.answer;
        let mut response = problem.response().map(|content| ResponseBody::own(content, held));
        response.headers_mut().extend(fields);
        if response.status() == StatusCode::METHOD_NOT_ALLOWED {
            // A 405 has it (RFC 9110 section 15.5.6); which methods there are depends on the route.
            response.headers_mut().insert(ALLOW, HeaderValue::from_static(""));
        }
        response
    }
}
