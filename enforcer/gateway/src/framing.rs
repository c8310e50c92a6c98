//! What hyper takes of HTTP/1.1 and the gateway does not hand on, because servers read it in different ways.

use http::{
    HeaderMap, HeaderValue, StatusCode, Version,
    header::{CONTENT_LENGTH, TRANSFER_ENCODING},
    request::Parts,
};

use super::{refusal::Refusal, signal::Verdict};
use enforcer_http_rules::known_fields::Present;

/// Makes one of several equal `Content-Length`, which HTTP/2 admits, and which services would read in different ways.
///
/// # Errors
/// When they differ (RFC 9110 section 8.6).
pub(super) fn one_length(headers: &mut HeaderMap) -> Result<(), Refusal> {
    // The first look costs nothing, and is enough where no field of any name is there twice.
    if headers.keys_len() == headers.len() {
        return Ok(());
    }
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    let (Some(first), Some(second)) = (lengths.next(), lengths.next()) else {
        return Ok(());
    };
    if first != second || lengths.any(|other| other != first) {
        return Err(Refusal::invalid("the request says twice how long it is, and not the same").closing());
    }
    let one = first.clone();
    headers.insert(CONTENT_LENGTH, one);
    Ok(())
}

/// Refuses what others may read in another way. The connection ends with the refusal. `present`: the request's fields;
/// `has_two_lengths`: whether the client sent more of them than hyper tells of.
///
/// # Errors
/// - Both `Content-Length` and `Transfer-Encoding` (RFC 9112 section 6.1).
/// - Another `Transfer-Encoding` than `chunked`, once (RFC 9112 section 6.1): no service gets to see two codings.
/// - No `Host`, also with an absolute target (RFC 9112 section 3.2).
/// - A target of another scheme than HTTP's.
pub(super) fn check(parts: &Parts, present: Present, has_two_lengths: bool) -> Result<(), Refusal> {
    if has_two_lengths {
        let detail = "the request has both Content-Length and Transfer-Encoding (RFC 9112 section 6.1)";
        return Err(Refusal::invalid(detail).closing());
    }
    if present.has(Present::TRANSFER_ENCODING) {
        let mut codings = parts.headers.get_all(TRANSFER_ENCODING).iter();
        let is_chunked = |coding: &HeaderValue| coding.as_bytes().eq_ignore_ascii_case(b"chunked");
        if !codings.next().is_some_and(is_chunked) || codings.next().is_some() {
            let detail = "the only transfer coding that is understood is chunked, once";
            return Err(Refusal::new(Verdict::Invalid, StatusCode::NOT_IMPLEMENTED, detail).closing());
        }
    }
    if parts.version == Version::HTTP_11 && !present.has(Present::HOST) {
        return Err(Refusal::invalid("the request has no Host field").closing());
    }
    match parts.uri.scheme_str() {
        None | Some("http" | "https") => Ok(()),
        Some(_) => Err(Refusal::invalid("the target is of another scheme than HTTP's").closing()),
    }
}
