//! Which header fields cross the gateway.
//!
//! Fields that concern one connection stay on it: see [`enforcer_http_rules::hop_by_hop`]. Fields by which a gateway
//! tells its upstream who a client is are removed from every request, whatever the client wrote, and
//! then set from what the gateway knows. So are fields by which some frameworks replace the method
//! or the path that the policy has looked at. `authorization` is forwarded, unless a rule says otherwise.

use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{CONNECTION, COOKIE, EXPECT, HOST, TE},
};

use super::spoken::{Proven, Spoken, UnspeakableIdentity};
use enforcer_http_rules::{
    hop_by_hop,
    host::Host,
    known_fields::Present,
    reserved::{is_ours, remove_where},
};

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const IDENTITY: HeaderName = HeaderName::from_static("x-enforcer-identity");
const AUTHORITY: HeaderName = HeaderName::from_static("x-enforcer-authority");
const ISSUER: HeaderName = HeaderName::from_static("x-enforcer-issuer");
const SUBJECT: HeaderName = HeaderName::from_static("x-enforcer-subject");
const CLIENT: HeaderName = HeaderName::from_static("x-enforcer-client");
const OWNER: HeaderName = HeaderName::from_static("x-enforcer-owner");
const KEY: HeaderName = HeaderName::from_static("x-enforcer-key");

/// What the gateway tells the upstream about the client.
#[derive(Clone, Copy, Debug)]
pub(super) struct Client<'a> {
    pub(super) address: &'a Spoken,
    /// Whether the client's connection is TLS.
    pub(super) tls: bool,
    /// The client certificate's identity.
    pub(super) identity: Option<&'a Spoken>,
    /// The authority that vouches for it, where it has a name.
    pub(super) authority: Option<&'a Spoken>,
    /// By a token and an API key.
    pub(super) proven: Option<&'a Proven>,
}

/// Turns the client's fields, without those that `Connection` names, into those that the upstream gets. `present`: which
/// of them there were. `host`: which the request is for.
///
/// # Errors
/// When a proven name has control characters.
pub(super) fn prepare_request(
    headers: &mut HeaderMap,
    present: Present,
    host: Host,
    client: &Client<'_>,
) -> Result<(), UnspeakableIdentity> {
    let trailers = present.has(Present::TE) && hop_by_hop::wants_trailers(headers);
    hop_by_hop::strip(headers, present);
    if present.has(Present::EXPECT) {
        headers.remove(EXPECT);
    }
    if present.has(Present::OURS) {
        strip_ours(headers);
    }
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
        headers.insert(CONNECTION, HeaderValue::from_static("te"));
    }
    // `Connection` may have named it.
    if !host.is_as_written() || present.has(Present::CONNECTION) {
        headers.insert(HOST, host.value().clone());
    }
    headers.insert(FORWARDED_HOST, host.into_value());
    headers.insert(
        FORWARDED_PROTO,
        HeaderValue::from_static(if client.tls { "https" } else { "http" }),
    );
    headers.insert(FORWARDED_FOR, client.address.value()?);
    if let Some(identity) = client.identity {
        headers.insert(IDENTITY, identity.value()?);
    }
    if let Some(authority) = client.authority {
        headers.insert(AUTHORITY, authority.value()?);
    }
    let Some(proven) = client.proven else {
        return Ok(());
    };
    for (name, value) in [
        (ISSUER, &proven.issuer),
        (SUBJECT, &proven.subject),
        (CLIENT, &proven.client),
        (OWNER, &proven.owner),
        (KEY, &proven.key),
    ] {
        if let Some(value) = value {
            headers.insert(name, value.value()?);
        }
    }
    Ok(())
}

/// HTTP/2 may split cookies; HTTP/1.1 has one field (RFC 9113 section 8.2.3).
pub(super) fn join_cookies(fields: &mut HeaderMap) {
    // The first look costs nothing, and is enough where no field of any name is there twice.
    if fields.keys_len() == fields.len() || fields.get_all(COOKIE).iter().nth(1).is_none() {
        return;
    }
    let cookies: Vec<_> = fields.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    // Field values joined by characters that are allowed in one are a field value.
    if let Ok(joined) = HeaderValue::from_bytes(&cookies.join(&b"; "[..])) {
        fields.insert(COOKIE, joined);
    }
}

/// Takes out of a response's fields what concerns only the upstream's connection.
pub(super) fn prepare_response(headers: &mut HeaderMap) {
    let present = Present::in_response(headers);
    hop_by_hop::strip_named(headers, present);
    hop_by_hop::strip(headers, present);
}

/// Takes out of trailers what may not come from a client.
pub(super) fn strip_ours(headers: &mut HeaderMap) {
    remove_where(headers, |name| is_ours(name.as_str()));
}

#[cfg(test)]
mod tests {
    use http::Uri;
    use proptest::{prelude::*, sample::select};

    use super::*;

    fn map(fields: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            headers.append(name, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    /// A request to `api.example.com`, which it says as the upstream is to get it.
    fn prepared(fields: &[(&str, &str)]) -> HeaderMap {
        let mut headers = map(&[("host", "api.example.com")]);
        for (name, value) in &map(fields) {
            headers.append(name, value.clone());
        }
        let proven = Proven {
            issuer: Some(Spoken::new("corp")),
            client: Some(Spoken::new("web")),
            ..Proven::default()
        };
        let client = Client {
            address: &Spoken::new("203.0.113.9"),
            tls: true,
            identity: Some(&Spoken::new("spiffe://example.com/a")),
            authority: Some(&Spoken::new("partners")),
            proven: Some(&proven),
        };
        let present = Present::in_request(&headers);
        let host = Host::of(&Uri::from_static("/"), &headers).unwrap();
        hop_by_hop::strip_named(&mut headers, present);
        prepare_request(&mut headers, present, host, &client).unwrap();
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
            ("x-enforcer-issuer", "admin"),
            ("x_enforcer_authority", "admin"),
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
            ("x-enforcer-authority", "partners"),
            ("x-enforcer-issuer", "corp"),
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
    fn the_host_is_told_whatever_the_client_calls_a_field_of_the_connection() {
        let headers = prepared(&[("connection", "host, x-forwarded-host")]);
        assert_eq!(headers["host"], "api.example.com");
        assert_eq!(headers["x-forwarded-host"], "api.example.com");
        assert!(!headers.contains_key("connection"));
    }

    #[test]
    fn cookies_are_one_field() {
        for (fields, joined) in [
            (&[("x-a", "1"), ("x-a", "2")][..], None),
            (&[("cookie", "a=b")], Some("a=b")),
            (&[("cookie", "a=b"), ("x-a", "1"), ("x-a", "2")], Some("a=b")),
            (
                &[("cookie", "a=b"), ("x-a", "1"), ("cookie", "c=d; e=f")],
                Some("a=b; c=d; e=f"),
            ),
        ] {
            let mut headers = map(fields);
            join_cookies(&mut headers);
            let cookies: Vec<_> = headers.get_all(COOKIE).iter().collect();
            assert_eq!(cookies, joined.as_slice(), "{fields:?}");
        }
    }

    #[test]
    fn a_name_with_a_line_end_is_refused() {
        let proven = Proven {
            subject: Some(Spoken::new("a\r\nx-enforcer-client: root")),
            ..Proven::default()
        };
        let client = Client {
            address: &Spoken::new("203.0.113.9"),
            tls: false,
            identity: None,
            authority: None,
            proven: Some(&proven),
        };
        let mut headers = HeaderMap::new();
        let host = Host::of(&Uri::from_static("http://a/"), &headers).unwrap();
        assert!(prepare_request(&mut headers, Present::default(), host, &client).is_err());
    }

    /// Names, and what `Connection` may say.
    fn fields() -> impl Strategy<Value = Vec<(&'static str, &'static str)>> {
        const NAMES: [&str; 20] = [
            "accept",
            "connection",
            "content-length",
            "cookie",
            "expect",
            "http2-settings",
            "keep-alive",
            "proxy-authenticate",
            "proxy-authorization",
            "proxy-connection",
            "te",
            "transfer-encoding",
            "upgrade",
            "x-a",
            "x-enforcer-identity",
            "x-enforcer-subject",
            "x-forwarded-client-cert",
            "x-forwarded-for",
            "x_forwarded_host",
            "x-request-id",
        ];
        const VALUES: [&str; 8] = [
            "close",
            "x-a, te",
            "Keep-Alive",
            "Transfer-Encoding",
            "content-length,connection",
            "host, x-enforcer-client, upgrade",
            "trailers",
            "chunked",
        ];
        proptest::collection::vec((select(&NAMES[..]), select(&VALUES[..])), 0..12)
    }

    proptest! {
        #[test]
        fn services_get_what_they_got_from_a_look_for_each(fields in fields()) {
            let headers = prepared(&fields);
            let mut expected = map(&fields);
            let trailers = hop_by_hop::wants_trailers(&expected);
            let present = Present::in_response(&expected);
            hop_by_hop::strip_named(&mut expected, present);
            hop_by_hop::strip(&mut expected, present);
            strip_ours(&mut expected);
            expected.remove(EXPECT);
            if trailers {
                expected.insert("te", HeaderValue::from_static("trailers"));
                expected.insert("connection", HeaderValue::from_static("te"));
            }
            for (name, value) in [
                ("host", "api.example.com"),
                ("x-forwarded-host", "api.example.com"),
                ("x-forwarded-proto", "https"),
                ("x-forwarded-for", "203.0.113.9"),
                ("x-enforcer-identity", "spiffe://example.com/a"),
                ("x-enforcer-authority", "partners"),
                ("x-enforcer-issuer", "corp"),
                ("x-enforcer-client", "web"),
            ] {
                expected.insert(name, HeaderValue::from_static(value));
            }
            prop_assert_eq!(headers, expected);
        }
    }
}
