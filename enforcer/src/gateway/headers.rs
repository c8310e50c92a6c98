//! Which header fields cross the gateway.
//!
//! Fields that concern one connection stay on it (RFC 9110 section 7.6.1). Fields by which a gateway
//! tells its upstream who a client is are removed from every request, whatever the client wrote, and
//! then set from what the gateway knows. So are fields by which some frameworks replace the method
//! or the path that the policy has looked at. `authorization` is forwarded, unless a rule says otherwise.

use std::net::IpAddr;

use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{CONNECTION, CONTENT_LENGTH, EXPECT, HOST, TE, TRAILER, TRANSFER_ENCODING, UPGRADE},
};

use crate::policy::model::ApiKey;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const IDENTITY: HeaderName = HeaderName::from_static("x-enforcer-identity");
const SUBJECT: HeaderName = HeaderName::from_static("x-enforcer-subject");
const CLIENT: HeaderName = HeaderName::from_static("x-enforcer-client");
const OWNER: HeaderName = HeaderName::from_static("x-enforcer-owner");
const KEY: HeaderName = HeaderName::from_static("x-enforcer-key");

/// Fields that end at this hop, besides those that `Connection` names.
const HOP_BY_HOP: [HeaderName; 9] = [
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

/// Fields that only the gateway may set, beside all that begin with one of [`OURS_BEFORE`]: by them
/// proxies and load balancers tell services who a client is, and frameworks believe them. `client-cert`
/// and `client-cert-chain` must be removed by RFC 9440 section 4.
const OURS: [&str; 19] = [
    // The client's address.
    "cf-connecting-ip",
    "client-ip",
    "fastly-client-ip",
    "forwarded",
    "proxy-client-ip",
    "true-client-ip",
    "wl-proxy-client-ip",
    "x-azure-clientip",
    "x-cluster-client-ip",
    "x-forwarded",
    "x-real-ip",
    // The client's certificate or name.
    "client-cert",
    "client-cert-chain",
    "remote-user",
    "x-remote-user",
    "x-webauth-user",
    // The method, the path, and where the service sends requests of its own.
    "proxy",
    "x-method-override",
    "x-rewrite-url",
];
const OURS_BEFORE: [&str; 9] = [
    "ssl-client-",
    "x-auth-request-",
    "x-client-",
    "x-enforcer",
    "x-envoy-",
    "x-forwarded-",
    "x-http-method",
    "x-original-",
    "x-ssl-",
];

/// What the gateway tells the upstream about the client.
#[derive(Clone, Copy, Debug)]
pub(super) struct Client<'a> {
    pub(super) address: IpAddr,
    /// Whether the client's connection is TLS.
    pub(super) tls: bool,
    /// The host, with port if the client named one.
    pub(super) authority: &'a HeaderValue,
    /// The client certificate's identity.
    pub(super) identity: Option<&'a str>,
    /// The token's `sub`.
    pub(super) subject: Option<&'a str>,
    /// The token's `client_id`.
    pub(super) client: Option<&'a str>,
    /// The API key.
    pub(super) key: Option<&'a ApiKey>,
}

/// A proven name that no header field can carry.
#[derive(Debug, thiserror::Error)]
#[error("the proven identity has a control character and cannot be told to the service")]
pub(super) struct UnspeakableIdentity;

/// Turns the client's fields into those that the upstream gets.
///
/// # Errors
/// When a proven name has control characters.
pub(super) fn prepare_request(
    headers: &mut HeaderMap,
    client: &Client<'_>,
) -> Result<(), UnspeakableIdentity> {
    let trailers = wants_trailers(headers);
    strip_hop_by_hop(headers);
    headers.remove(EXPECT);
    strip_ours(headers);
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
        headers.insert(CONNECTION, HeaderValue::from_static("te"));
    }
    headers.insert(HOST, client.authority.clone());
    headers.insert(FORWARDED_HOST, client.authority.clone());
    headers.insert(
        FORWARDED_PROTO,
        HeaderValue::from_static(if client.tls { "https" } else { "http" }),
    );
    let address = client.address.to_string();
    headers.insert(FORWARDED_FOR, speak(&address)?);
    for (name, value) in [
        (IDENTITY, client.identity),
        (SUBJECT, client.subject),
        (CLIENT, client.client),
        (OWNER, client.key.map(|key| &*key.owner)),
        (KEY, client.key.map(|key| &*key.id)),
    ] {
        if let Some(value) = value {
            headers.insert(name, speak(value)?);
        }
    }
    Ok(())
}

/// Takes out of a response's fields what concerns only the upstream's connection.
pub(super) fn prepare_response(headers: &mut HeaderMap) {
    strip_hop_by_hop(headers);
}

/// Takes out of trailers what may not come from a client.
pub(super) fn strip_ours(headers: &mut HeaderMap) {
    let forged: Vec<_> = headers
        .keys()
        .filter(|name| is_ours(name.as_str()))
        .cloned()
        .collect();
    for name in forged {
        headers.remove(name);
    }
}

fn speak(value: &str) -> Result<HeaderValue, UnspeakableIdentity> {
    HeaderValue::from_bytes(value.as_bytes()).map_err(|_| UnspeakableIdentity)
}

fn wants_trailers(headers: &HeaderMap) -> bool {
    headers
        .get_all(TE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|coding| coding.trim().eq_ignore_ascii_case("trailers"))
}

fn strip_hop_by_hop(headers: &mut HeaderMap) {
    if headers.contains_key(CONNECTION) {
        let named: Vec<_> = headers
            .get_all(CONNECTION)
            .iter()
            .flat_map(|value| value.as_bytes().split(|&byte| byte == b','))
            .filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok())
            .collect();
        for name in named {
            headers.remove(name);
        }
    }
    if headers.contains_key(TRANSFER_ENCODING) {
        // It overrides the length (RFC 9112 section 6.3), which may be a lie.
        headers.remove(CONTENT_LENGTH);
    }
    for name in &HOP_BY_HOP {
        headers.remove(name);
    }
}

/// Whether only the gateway may set the field. Servers that hand fields on by CGI's rules (RFC 3875
/// section 4.1.18) make no difference between `-` and `_`, and some none between these and `.`, so
/// neither does this.
pub(crate) fn is_ours(name: &str) -> bool {
    OURS.iter()
        .any(|ours| name.len() == ours.len() && begins(name, ours))
        || OURS_BEFORE.iter().any(|prefix| begins(name, prefix))
}

/// Whether the field is about one connection, or about how a message is carried on it.
pub(crate) fn is_of_hop(name: &HeaderName) -> bool {
    HOP_BY_HOP.contains(name) || matches!(*name, CONTENT_LENGTH | EXPECT | TRAILER)
}

/// Whether a field may be taken for `ours`, which is in lower case.
pub(super) fn is_same_field(name: &HeaderName, ours: &HeaderName) -> bool {
    let (name, ours) = (name.as_str(), ours.as_str());
    name.len() == ours.len() && name.bytes().map(fold).eq(ours.bytes().map(fold))
}

/// `-`, `_` and `.` are the same.
fn fold(byte: u8) -> u8 {
    if matches!(byte, b'_' | b'.') { b'-' } else { byte }
}

fn begins(name: &str, prefix: &str) -> bool {
    name.len() >= prefix.len() && name.bytes().map(fold).zip(prefix.bytes()).all(|(a, b)| a == b)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(fields: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            headers.append(name, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    fn prepared(fields: &[(&str, &str)]) -> HeaderMap {
        let mut headers = map(fields);
        let client = Client {
            address: "203.0.113.9".parse().unwrap(),
            tls: true,
            authority: &HeaderValue::from_static("api.example.com"),
            identity: Some("spiffe://example.com/a"),
            subject: None,
            client: Some("web"),
            key: None,
        };
        prepare_request(&mut headers, &client).unwrap();
        headers
    }

    #[test]
    fn the_gateway_alone_says_who_the_client_is() {
        let headers = prepared(&[
            ("x-forwarded-for", "10.0.0.1"),
            ("x_forwarded_for", "10.0.0.1"),
            ("X-Forwarded-Client-Cert", "Subject=root"),
            ("x-enforcer-identity", "admin"),
            ("x-enforcer_subject", "admin"),
            ("X_Enforcer_Client", "admin"),
            ("x-enforcer-anything", "admin"),
            ("forwarded", "for=10.0.0.1"),
            ("x-real-ip", "10.0.0.1"),
            ("x-http-method-override", "DELETE"),
            ("x-original-url", "/admin"),
            ("x-request-id", "7"),
            ("cookie", "a=b"),
            ("connection", "x-enforcer-client"),
        ]);
        let expected = map(&[
            ("x-request-id", "7"),
            ("cookie", "a=b"),
            ("host", "api.example.com"),
            ("x-forwarded-host", "api.example.com"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-for", "203.0.113.9"),
            ("x-enforcer-identity", "spiffe://example.com/a"),
            ("x-enforcer-client", "web"),
        ]);
        assert_eq!(headers, expected);
    }

    #[test]
    fn claims_of_an_identity_reach_no_service() {
        let names = [
            "client-cert",
            "client-cert-chain",
            "client-ip",
            "fastly-client-ip",
            "proxy-client-ip",
            "remote-user",
            "ssl-client-verify",
            "wl-proxy-client-ip",
            "x-auth-request-email",
            "x-azure-clientip",
            "x-client-cert",
            "x-enforcer",
            "x-enforcer-subject",
            "x-envoy-external-address",
            "x-forwarded",
            "x-forwarded-user",
            "x-remote-user",
            "x-ssl-client-cert",
            "x-webauth-user",
        ];
        for name in names {
            for name in [name.to_owned(), name.replace('-', "_"), name.replace('-', ".")] {
                let mut trailers = map(&[(&name, "admin"), ("x-kept", "1")]);
                strip_ours(&mut trailers);
                assert_eq!(trailers, map(&[("x-kept", "1")]), "{name} in trailers");
                let headers = prepared(&[(&name, "admin")]);
                assert!(headers.values().all(|value| value != "admin"), "{name}");
            }
        }
        for name in [
            "client-certificate",
            "x-client",
            "x-sslx",
            "remote-users",
            "forwarded-by",
        ] {
            assert!(!is_ours(name), "{name}");
        }
    }

    #[test]
    fn what_concerns_the_connection_stays_on_it() {
        let headers = prepared(&[
            ("connection", "keep-alive, X-Secret"),
            ("connection", "upgrade"),
            ("x-secret", "1"),
            ("keep-alive", "timeout=5"),
            ("upgrade", "websocket"),
            ("proxy-authorization", "Basic eA=="),
            ("transfer-encoding", "chunked"),
            ("expect", "100-continue"),
            ("te", "gzip;q=0.5"),
            ("authorization", "Bearer x"),
        ]);
        let left: Vec<_> = headers
            .keys()
            .map(HeaderName::as_str)
            .filter(|name| !name.starts_with("x-"))
            .collect();
        assert_eq!(left.len(), 2, "{left:?}");
        assert!(headers.contains_key("authorization") && headers.contains_key("host"));
        assert!(!headers.contains_key("x-secret"));
    }

    #[test]
    fn trailers_are_asked_for_again() {
        let headers = prepared(&[("te", "gzip, Trailers"), ("connection", "te, close")]);
        assert_eq!(headers["te"], "trailers");
        assert_eq!(headers["connection"], "te");
    }

    #[test]
    fn a_name_with_a_line_end_is_refused() {
        let client = Client {
            address: "203.0.113.9".parse().unwrap(),
            tls: false,
            authority: &HeaderValue::from_static("a"),
            identity: None,
            subject: Some("a\r\nx-enforcer-client: root"),
            client: None,
            key: None,
        };
        assert!(prepare_request(&mut HeaderMap::new(), &client).is_err());
    }
}
