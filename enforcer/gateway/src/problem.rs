//! What an answer that the gateway makes itself says: problem details (RFC 9457).

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use serde_json::{Map, Value};

/// draft-ietf-httpapi-ratelimit-headers-11, section 6.
const QUOTA_EXCEEDED: &str = "https://iana.org/assignments/http-problem-types#quota-exceeded";

/// A problem, as JSON. It names nothing that the client does not know or may not know.
#[derive(Clone, Debug, PartialEq)]
pub struct Problem {
    status: StatusCode,
    members: Map<String, Value>,
}

impl Problem {
    /// A problem that the status says all about, and `detail` in words for people.
    #[must_use]
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        // RFC 9457, section 4.2.1: with `about:blank` the title is the status's phrase.
        let title = status.canonical_reason().unwrap_or("Error");
        Self::of_type("about:blank", title, status, detail.into())
    }

    /// A limit on requests is used up: 429.
    #[must_use]
    pub fn quota_exceeded(policy: &str, detail: impl Into<String>) -> Self {
        let mut problem = Self::of_type(
            QUOTA_EXCEEDED,
            "Request cannot be satisfied as assigned quota has been exceeded",
            StatusCode::TOO_MANY_REQUESTS,
            detail.into(),
        );
        problem
            .members
            .insert("violated-policies".into(), vec![policy].into());
        problem
    }

    fn of_type(kind: &str, title: &str, status: StatusCode, detail: String) -> Self {
        let mut members = Map::new();
        members.insert("type".into(), kind.into());
        members.insert("title".into(), title.into());
        members.insert("status".into(), status.as_u16().into());
        members.insert("detail".into(), detail.into());
        Self { status, members }
    }

    /// The status.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The words for people.
    #[must_use]
    pub fn detail(&self) -> &str {
        self.members
            .get("detail")
            .and_then(Value::as_str)
            .unwrap_or_default()
    }

    /// The body.
    #[must_use]
    pub fn body(&self) -> Bytes {
        Value::Object(self.members.clone()).to_string().into()
    }

    /// The whole answer. No cache keeps it (RFC 6585, section 4).
    #[must_use]
    pub fn response(&self) -> Response<Bytes> {
        let mut response = Response::new(self.body());
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn json(problem: &Problem) -> Value {
        serde_json::from_slice(&problem.body()).unwrap()
    }

    #[test]
    fn a_problem_repeats_its_status() {
        let problem = Problem::new(StatusCode::NOT_FOUND, "No route has this \"path\".");
        assert_eq!(
            json(&problem),
            json!({
                "type": "about:blank",
                "title": "Not Found",
                "status": 404,
                "detail": "No route has this \"path\".",
            })
        );
        let response = problem.response();
        assert_eq!(response.status(), 404);
        assert_eq!(response.headers()["content-type"], "application/problem+json");
        assert_eq!(response.headers()["cache-control"], "no-store");
    }

    #[test]
    fn an_exceeded_quota_names_the_policy() {
        let problem = Problem::quota_exceeded("per-client", "Later.");
        assert_eq!(problem.status(), 429);
        assert_eq!(json(&problem)["violated-policies"], json!(["per-client"]));
        assert_eq!(json(&problem)["type"], QUOTA_EXCEEDED);
    }
}
