//! What gRPC has its own words for: refusals and deadlines
//! (<https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>).

use std::{fmt::Write, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, header::CONTENT_TYPE};

const GRPC: &str = "application/grpc";
const STATUS: HeaderName = HeaderName::from_static("grpc-status");
const MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// Whether a request is a call. gRPC-Web is something else.
pub(super) fn is_call(method: &Method, headers: &HeaderMap) -> bool {
    if *method != Method::POST {
        return false;
    }
    let kind = headers.get(CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
    kind.get(..GRPC.len())
        .is_some_and(|front| front.eq_ignore_ascii_case(GRPC.as_bytes()))
        && matches!(kind.get(GRPC.len()), None | Some(b'+' | b';'))
}

/// How long the caller waits, from `grpc-timeout`. `None` if it says nothing that can be understood.
pub(super) fn deadline(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(TIMEOUT)?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if !(1..=8).contains(&digits.len()) || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let value: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(value * 3600),
        "M" => Duration::from_secs(value * 60),
        "S" => Duration::from_secs(value),
        "m" => Duration::from_millis(value),
        "u" => Duration::from_micros(value),
        "n" => Duration::from_nanos(value),
        _ => return None,
    })
}

/// Makes an answer without a body of a refusal with `status`: the status goes where callers look for it,
/// and the other fields stay as they are.
pub(super) fn refuse(status: StatusCode, detail: &str, response: &mut Response<()>) {
    *response.status_mut() = StatusCode::OK;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(GRPC));
    headers.insert(STATUS, HeaderValue::from_static(code(status)));
    if let Ok(message) = HeaderValue::try_from(encoded(detail)) {
        headers.insert(MESSAGE, message);
    }
}

/// The status of a call that ended as `status` says
/// (<https://github.com/grpc/grpc/blob/master/doc/statuscodes.md>).
fn code(status: StatusCode) -> &'static str {
    match status {
        StatusCode::REQUEST_TIMEOUT | StatusCode::GATEWAY_TIMEOUT => "4", // DEADLINE_EXCEEDED
        StatusCode::FORBIDDEN => "7",                                     // PERMISSION_DENIED
        StatusCode::PAYLOAD_TOO_LARGE | StatusCode::TOO_MANY_REQUESTS => "8", // RESOURCE_EXHAUSTED
        StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED => "12", // UNIMPLEMENTED
        StatusCode::BAD_REQUEST => "13", // INTERNAL
        StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE => "14", // UNAVAILABLE
        StatusCode::UNAUTHORIZED => "16", // UNAUTHENTICATED
        _ => "2",                        // UNKNOWN
    }
}

/// Percent-encoded, as `grpc-message` is.
fn encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'%' | ..0x20 | 0x7f.. => write!(out, "%{byte:02X}").unwrap_or_default(),
            _ => out.push(char::from(byte)),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(name: &'static str, value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(HeaderName::from_static(name), HeaderValue::from_static(value))])
    }

    #[test]
    fn calls() {
        for (kind, expected) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("Application/GRPC; x=y", true),
            ("application/grpc-web", false),
            ("application/json", false),
            ("application/gr", false),
        ] {
            assert_eq!(
                is_call(&Method::POST, &with("content-type", kind)),
                expected,
                "{kind}"
            );
        }
        assert!(!is_call(&Method::POST, &HeaderMap::new()));
        let connect = with("content-type", "application/grpc");
        assert!(!is_call(&Method::CONNECT, &connect), "200 would open a tunnel");
    }

    #[test]
    fn deadlines() {
        for (text, expected) in [
            ("2H", Some(Duration::from_secs(7200))),
            ("3M", Some(Duration::from_secs(180))),
            ("4S", Some(Duration::from_secs(4))),
            ("99999999m", Some(Duration::from_millis(99_999_999))),
            ("5u", Some(Duration::from_micros(5))),
            ("6n", Some(Duration::from_nanos(6))),
            ("", None),
            ("S", None),
            ("+1S", None),
            ("100000000S", None),
            ("1s", None),
        ] {
            assert_eq!(deadline(&with("grpc-timeout", text)), expected, "{text}");
        }
    }

    #[test]
    fn refusals_are_statuses() {
        let mut response = Response::new(());
        refuse(StatusCode::UNAUTHORIZED, "100 % \u{e9}\n", &mut response);
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "application/grpc");
        assert_eq!(response.headers()["grpc-status"], "16");
        assert_eq!(response.headers()["grpc-message"], "100 %25 %C3%A9%0A");
    }
}
