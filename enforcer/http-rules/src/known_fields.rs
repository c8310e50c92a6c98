//! Which fields a message has, of those that the gateway acts on.
//!
//! A look-up among fields costs a hash, and on the way of a request nearly all of them would find nothing. One look at
//! every name answers them together.

use http::{
    HeaderMap, HeaderName,
    header::{
        CONNECTION, COOKIE, EXPECT, HOST, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRANSFER_ENCODING,
        UPGRADE,
    },
};

use super::reserved::is_ours;

/// A set of fields. Those of a message are as they were when it was looked at: what has been removed since still
/// counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Present(u16);

impl Present {
    pub const HOST: Self = Self(1);
    pub const CONNECTION: Self = Self(1 << 1);
    pub const TE: Self = Self(1 << 2);
    pub const TRANSFER_ENCODING: Self = Self(1 << 3);
    pub const UPGRADE: Self = Self(1 << 4);
    pub const EXPECT: Self = Self(1 << 5);
    pub const COOKIE: Self = Self(1 << 6);
    pub const DPOP: Self = Self(1 << 7);
    /// Of those that only the gateway may set.
    pub const OURS: Self = Self(1 << 8);
    /// Of those that end at this hop and have no place of their own here.
    const OTHER_OF_HOP: Self = Self(1 << 9);
    /// Of all that end at this hop.
    pub const OF_HOP: Self = Self(
        Self::CONNECTION.0 | Self::TE.0 | Self::TRANSFER_ENCODING.0 | Self::UPGRADE.0 | Self::OTHER_OF_HOP.0,
    );

    /// The fields of a request.
    pub fn in_request(headers: &HeaderMap) -> Self {
        headers.keys().fold(Self::default(), |all, name| {
            let one = Self::named(name);
            // What is something else is in no table of what is the gateway's.
            let ours = one == Self::default() && is_ours(name.as_str());
            all.with(if ours { Self::OURS } else { one })
        })
    }

    /// The fields of a response. Services may set what is the gateway's in requests.
    pub fn in_response(headers: &HeaderMap) -> Self {
        headers
            .keys()
            .fold(Self::default(), |all, name| all.with(Self::named(name)))
    }

    /// The place of a field, whoever may set it.
    pub fn named(name: &HeaderName) -> Self {
        match *name {
            HOST => Self::HOST,
            CONNECTION => Self::CONNECTION,
            TE => Self::TE,
            TRANSFER_ENCODING => Self::TRANSFER_ENCODING,
            UPGRADE => Self::UPGRADE,
            EXPECT => Self::EXPECT,
            COOKIE => Self::COOKIE,
            PROXY_AUTHENTICATE | PROXY_AUTHORIZATION => Self::OTHER_OF_HOP,
            _ => match name.as_str() {
                "dpop" => Self::DPOP,
                "keep-alive" | "proxy-connection" | "http2-settings" => Self::OTHER_OF_HOP,
                _ => Self::default(),
            },
        }
    }

    /// Whether one of `fields` is there.
    pub fn has(self, fields: Self) -> bool {
        self.0 & fields.0 != 0
    }

    fn with(self, fields: Self) -> Self {
        Self(self.0 | fields.0)
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::{prelude::*, sample::select};

    use super::*;
    use crate::hop_by_hop::HOP_BY_HOP;

    /// With names like those that are looked for.
    const NAMES: [&str; 34] = [
        "accept",
        "authorization",
        "client-cert",
        "connection",
        "connections",
        "content-length",
        "content-type",
        "cookie",
        "cookie2",
        "dpop",
        "dpop-nonce",
        "expect",
        "forwarded",
        "forwarded-by",
        "host",
        "http2-settings",
        "keep-alive",
        "keep_alive",
        "proxy",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "remote_user",
        "set-cookie",
        "te",
        "trailer",
        "transfer-encoding",
        "transfer_encoding",
        "upgrade",
        "upgrade-insecure-requests",
        "x-enforcer-identity",
        "x-forwarded-client-cert",
        "x-request-id",
        "x_forwarded_for",
    ];

    fn assert_agrees(headers: &HeaderMap) {
        let present = Present::in_request(headers);
        for (fields, name) in [
            (Present::HOST, &HOST),
            (Present::CONNECTION, &CONNECTION),
            (Present::TE, &TE),
            (Present::TRANSFER_ENCODING, &TRANSFER_ENCODING),
            (Present::UPGRADE, &UPGRADE),
            (Present::EXPECT, &EXPECT),
            (Present::COOKIE, &COOKIE),
            (Present::DPOP, &HeaderName::from_static("dpop")),
        ] {
            assert_eq!(present.has(fields), headers.contains_key(name), "{name}");
        }
        let of_hop = HOP_BY_HOP.iter().any(|name| headers.contains_key(name));
        assert_eq!(present.has(Present::OF_HOP), of_hop);
        let ours = headers.keys().any(|name| is_ours(name.as_str()));
        assert_eq!(present.has(Present::OURS), ours);
        let response = Present::in_response(headers);
        assert!(!response.has(Present::OURS));
        assert_eq!(
            present.with(Present::OURS),
            response.with(Present::OURS),
            "the rest is the same"
        );
    }

    proptest! {
        #[test]
        fn one_look_finds_what_a_look_for_each_finds(
            names in proptest::collection::vec(select(&NAMES[..]), 0..12),
        ) {
            let mut headers = HeaderMap::new();
            for name in names {
                headers.append(name, HeaderValue::from_static("a"));
            }
            assert_agrees(&headers);
        }
    }

    #[test]
    fn every_field_is_found_alone() {
        let of_hop = HOP_BY_HOP.iter().map(HeaderName::as_str);
        for name in NAMES.into_iter().chain(of_hop) {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            let headers = HeaderMap::from_iter([(name, HeaderValue::from_static("a"))]);
            assert_agrees(&headers);
        }
        assert_agrees(&HeaderMap::new());
    }
}
