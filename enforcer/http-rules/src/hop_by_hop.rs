//! What ends at this hop: fields that concern one connection stay on it (RFC 9110 section 7.6.1).

use http::{
    HeaderMap, HeaderName,
    header::{CONNECTION, CONTENT_LENGTH, EXPECT, TE, TRAILER, TRANSFER_ENCODING, UPGRADE},
};

use crate::known_fields::Present;

/// Fields that end at this hop, besides those that `Connection` names.
pub static HOP_BY_HOP: [HeaderName; 9] = [
    CONNECTION,
    TE,
    TRANSFER_ENCODING,
    UPGRADE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("proxy-authenticate"),
    HeaderName::from_static("proxy-authorization"),
    HeaderName::from_static("http2-settings"),
];

/// Takes those out that `Connection` names. Of a request before anything is judged by them: the service gets none.
pub fn strip_named(headers: &mut HeaderMap, present: Present) {
    if !present.has(Present::CONNECTION) {
        return;
    }
    let named: Vec<_> = headers
        .get_all(CONNECTION)
        .iter()
        .flat_map(|value| value.as_bytes().split(|&byte| byte == b','))
        .map(<[u8]>::trim_ascii)
        .filter(|name| !ends_here_unnamed(name))
        .filter_map(|name| HeaderName::from_bytes(name).ok())
        .collect();
    for name in named {
        headers.remove(name);
    }
}

/// Takes the others out of a message that has the fields that are `present`.
pub fn strip(headers: &mut HeaderMap, present: Present) {
    if !present.has(Present::OF_HOP) {
        return;
    }
    if present.has(Present::TRANSFER_ENCODING) && headers.contains_key(TRANSFER_ENCODING) {
        // It overrides the length (RFC 9112 section 6.3), which may be a lie.
        headers.remove(CONTENT_LENGTH);
    }
    for name in HOP_BY_HOP.iter().filter(|name| present.has(Present::named(name))) {
        headers.remove(name);
    }
}

/// Whether it is removed anyway, as one of [`HOP_BY_HOP`] that `Connection` often names: to make a name of it takes
/// memory.
fn ends_here_unnamed(name: &[u8]) -> bool {
    [&b"keep-alive"[..], b"te", b"upgrade"]
        .iter()
        .any(|known| name.eq_ignore_ascii_case(known))
}

/// Whether `TE` says that its sender takes trailers.
pub fn wants_trailers(headers: &HeaderMap) -> bool {
    headers
        .get_all(TE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|coding| coding.trim().eq_ignore_ascii_case("trailers"))
}

/// Whether the field is about one connection, or about how a message is carried on it.
pub fn is_of_hop(name: &HeaderName) -> bool {
    HOP_BY_HOP.contains(name) || matches!(*name, CONTENT_LENGTH | EXPECT | TRAILER)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::{prelude::*, sample::select};

    use super::*;

    const NAMES: [&str; 14] = [
        "accept",
        "connection",
        "content-length",
        "cookie",
        "http2-settings",
        "keep-alive",
        "keep_alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "transfer-encoding",
        "upgrade",
        "x-a",
    ];
    const VALUES: [&str; 8] = [
        "close",
        "x-a, te",
        "Keep-Alive",
        "Transfer-Encoding",
        "content-length,connection",
        "cookie, upgrade ,,",
        "keep_alive",
        "chunked",
    ];

    /// As it was before one look at the names stood for many.
    fn removed_one_by_one(headers: &mut HeaderMap) {
        let named: Vec<_> = headers
            .get_all(CONNECTION)
            .iter()
            .flat_map(|value| value.as_bytes().split(|&byte| byte == b','))
            .filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok())
            .collect();
        for name in named {
            headers.remove(name);
        }
        if headers.contains_key(TRANSFER_ENCODING) {
            headers.remove(CONTENT_LENGTH);
        }
        for name in &HOP_BY_HOP {
            headers.remove(name);
        }
    }

    proptest! {
        #[test]
        fn what_ends_here_is_what_a_look_for_each_finds(
            fields in proptest::collection::vec((select(&NAMES[..]), select(&VALUES[..])), 0..12),
        ) {
            let mut expected = HeaderMap::new();
            for (name, value) in fields {
                expected.append(name, HeaderValue::from_static(value));
            }
            let mut message = expected.clone();
            removed_one_by_one(&mut expected);
            let present = Present::in_response(&message);
            strip_named(&mut message, present);
            strip(&mut message, present);
            prop_assert_eq!(message, expected);
        }
    }
}
