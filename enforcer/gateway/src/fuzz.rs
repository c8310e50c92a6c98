//! What clients, load balancers and issuers send, as functions of bytes: the workspace's folder `fuzz` runs them.

mod lengths;

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, LazyLock},
    time::{Duration, SystemTime},
};

use aws_lc_rs::{
    digest::{SHA256, digest},
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{HeaderMap, HeaderValue, Method, Request, Uri, header};
use jsonwebtoken::Algorithm;
use serde_json::{Value, json};

use super::{
    framing,
    identity::{
        bearer::{Offered, Scheme},
        dpop::{Asked, DPOP, ProofChecker},
        jwks::KeySet,
        scope::Scopes,
        token::{self, Binding, VerifiedToken},
    },
    proxy_protocol,
};
use enforcer_http_rules::{
    host::Host,
    known_fields::Present,
    target::{normalise, origin_form},
};
use enforcer_model::{CheckedBy, Dpop, Issuer, Jwks, JwksSource, Origin, Profile};
use percent_encoding::percent_decode_str;

pub use lengths::lengths;

/// When everything is judged, in seconds since the epoch.
const NOW: u64 = 1_800_000_000;

/// The token that proofs go with.
const TOKEN: &str = "a.b.c";

/// A request target: what is matched is what is forwarded, and nobody reads another path out of it.
pub fn target(bytes: &[u8]) {
    let Ok(uri) = Uri::try_from(bytes) else { return };
    let Ok(forwarded) = origin_form(uri.clone()) else {
        return;
    };
    assert!(forwarded.to_string().starts_with('/'), "{uri}");
    assert_eq!(forwarded.query(), uri.query(), "{uri}");
    assert_eq!(
        origin_form(forwarded.clone()).ok().as_ref(),
        Some(&forwarded),
        "{uri}"
    );
    let path = forwarded.path();
    assert!(path.starts_with('/') && !path.contains("//"), "{path}");
    // Nobody can write the same path in another way that passes.
    for (segment, raw) in path
        .split('/')
        .map(|segment| (segment, percent_decode_str(segment).collect::<Vec<u8>>()))
    {
        let lower: String = raw.iter().map(|byte| format!("%{byte:02x}")).collect();
        let again = normalise(&format!("/{lower}"))
            .ok()
            .map(|again| again[1..].to_owned());
        assert_eq!(again.as_deref(), Some(segment), "{path}");
    }
    // As a server reads it that decodes escapes before it looks for segments, or afterwards.
    let decoded: Vec<u8> = percent_decode_str(path).collect();
    assert_eq!(
        decoded.iter().filter(|byte| **byte == b'/').count(),
        path.matches('/').count(),
        "{path}"
    );
    for segment in decoded.split(|byte| *byte == b'/') {
        assert!(segment != b"." && segment != b"..", "{path}");
        let harmful = |byte: &u8| matches!(byte, b'\\' | b';' | 0..0x20 | 0x7f);
        assert!(!segment.iter().any(harmful), "{path}");
    }
}

/// A request's target, `Host` and codings, each on a line: whose host it is has one reading, and at most one coding
/// passes.
pub fn head(bytes: &[u8]) {
    let mut lines = bytes.split(|byte| *byte == b'\n');
    let Ok(uri) = Uri::try_from(lines.next().unwrap_or_default()) else {
        return;
    };
    let mut request = Request::new(());
    *request.uri_mut() = uri;
    for (position, line) in lines.enumerate().take(8) {
        let Ok(value) = HeaderValue::from_bytes(line) else {
            return;
        };
        let name = if position == 0 {
            header::HOST
        } else {
            header::TRANSFER_ENCODING
        };
        request.headers_mut().append(name, value);
    }
    let (parts, ()) = request.into_parts();
    if framing::check(&parts, Present::in_request(&parts.headers), false).is_ok() {
        let mut codings = parts.headers.get_all(header::TRANSFER_ENCODING).iter();
        let is_chunked = |coding: &HeaderValue| coding.as_bytes().eq_ignore_ascii_case(b"chunked");
        assert!(codings.next().is_none_or(is_chunked) && codings.next().is_none());
        assert!(parts.headers.contains_key(header::HOST));
    }
    if let Ok(host) = Host::of(&parts.uri, &parts.headers) {
        let name = host.name();
        assert!(!name.is_empty());
        let harmful = |c: char| {
            c.is_ascii_uppercase() || c.is_control() || matches!(c, ' ' | '/' | '@' | '?' | '#' | '\\')
        };
        assert!(!name.contains(harmful), "{name:?}");
        // What services get is read as the same host.
        let fields = HeaderMap::from_iter([(header::HOST, host.value().clone())]);
        let again = Host::of(&Uri::from_static("/"), &fields).ok();
        assert!(again.as_ref().is_some_and(Host::is_as_written));
        assert_eq!(again.as_ref().map(Host::name), Some(name));
    }
}

/// A header of the PROXY protocol, of either version, as it stands and with its beginning put right.
pub fn proxy(bytes: &[u8]) {
    let agree = |client: Option<SocketAddr>| {
        let Some(client) = client else { return };
        let family = if client.is_ipv4() {
            ("TCP4", "192.0.2.1")
        } else {
            ("TCP6", "2001:db8::1")
        };
        let line = format!(
            "PROXY {} {} {} {} 443\r\n",
            family.0,
            client.ip(),
            family.1,
            client.port()
        );
        assert_eq!(
            proxy_protocol::version_1(line.as_bytes()).ok(),
            Some(Some(client)),
            "{line}"
        );
    };
    agree(proxy_protocol::version_1(bytes).ok().flatten());
    agree(proxy_protocol::version_2(bytes).ok().flatten());
    let mut signed = [&b"\r\n\r\n\0\r\nQUIT\n"[..], bytes].concat();
    if let (Some(length), true) = (signed.len().checked_sub(16), signed.len() <= 2048) {
        signed[14..16].copy_from_slice(&u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes());
        agree(proxy_protocol::version_2(&signed).ok().flatten());
    }
}

/// A key that signs whatever the fuzzer says.
struct Signer {
    pair: EcdsaKeyPair,
    keys: KeySet,
    jwk: Value,
    thumbprint: [u8; 32],
}

static SIGNER: LazyLock<Option<Signer>> = LazyLock::new(|| {
    let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).ok()?;
    let point = pair.public_key().as_ref().get(1..)?;
    let (x, y) = point.split_at(32);
    let [x, y] = [x, y].map(|part| URL_SAFE_NO_PAD.encode(part));
    let canonical = format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#);
    let jwk = json!({"kty": "EC", "crv": "P-256", "x": x, "y": y});
    let mut published = jwk.clone();
    published["kid"] = "1".into();
    let set = json!({"keys": [published]}).to_string();
    Some(Signer {
        keys: KeySet::parse(set.as_bytes(), &[Algorithm::ES256]).ok()?,
        thumbprint: digest(&SHA256, canonical.as_bytes()).as_ref().try_into().ok()?,
        jwk,
        pair,
    })
});

impl Signer {
    /// Both parts, encoded and signed.
    fn sign(&self, header: &[u8], payload: &[u8]) -> Option<String> {
        let [header, payload] = [header, payload].map(|part| URL_SAFE_NO_PAD.encode(part));
        let message = format!("{header}.{payload}");
        let signature = self.pair.sign(&SystemRandom::new(), message.as_bytes()).ok()?;
        Some(format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }

    /// What the bytes stand for: all of it, or its header or its claims, of which the rest is as it should be.
    fn jws(&self, bytes: &[u8], header: &Value, claims: &Value) -> Option<String> {
        let (way, rest) = bytes.split_first()?;
        match way {
            b'h' => self.sign(rest, claims.to_string().as_bytes()),
            b'c' => self.sign(header.to_string().as_bytes(), rest),
            _ => String::from_utf8(rest.to_vec()).ok(),
        }
    }
}

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(NOW)
}

fn issuer() -> Option<Issuer> {
    let name = "corp".parse().ok()?;
    Some(Issuer {
        name,
        origin: Origin {
            file: "fuzz.yaml".into(),
            line: 1,
        },
        issuer: "https://idp.example.com".into(),
        checked_by: CheckedBy::Keys(Jwks {
            source: JwksSource::File(PathBuf::new()),
            refresh: Duration::from_secs(600),
        }),
        audiences: vec!["orders".into()],
        algorithms: vec![Algorithm::ES256],
        types: vec!["at+jwt".into()],
        profile: Profile::default(),
        leeway: Duration::from_secs(5),
        tier: None,
        kept: Vec::new(),
        dpop: Dpop::default(),
    })
}

/// The payload, as another reader has it.
fn payload(jws: &str) -> Option<Value> {
    let part = jws.split('.').nth(1)?;
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?).ok()
}

/// An access token; one that holds says so to another reader too.
pub fn token(bytes: &[u8]) {
    let (Some(signer), Some(issuer)) = (&*SIGNER, issuer()) else {
        return;
    };
    let header = json!({"alg": "ES256", "typ": "at+jwt", "kid": "1"});
    let claims = json!({
        "iss": "https://idp.example.com", "aud": "orders", "sub": "alice", "client_id": "web",
        "iat": NOW - 10, "exp": NOW + 300, "jti": "1", "scope": "orders:read",
    });
    let Some(jws) = signer.jws(bytes, &header, &claims) else {
        return;
    };
    let Ok(verified) = token::verify(&issuer, &signer.keys, &jws, now()) else {
        return;
    };
    let claims = payload(&jws).unwrap_or_default();
    assert_eq!(claims["iss"], "https://idp.example.com");
    let is_ours = |audience: &Value| audience == "orders";
    assert!(
        is_ours(&claims["aud"])
            || claims["aud"]
                .as_array()
                .is_some_and(|all| all.iter().any(is_ours))
    );
    assert_eq!(claims["sub"].as_str(), Some(&*verified.subject));
    assert!(
        claims["exp"]
            .as_f64()
            .is_some_and(|ends| ends + 5.0 >= NOW as f64)
    );
    assert!(verified.expires + issuer.leeway >= now());
}

/// A proof of possession; one that holds is for this request and this token.
pub fn proof(bytes: &[u8]) {
    let (Some(signer), Some(issuer)) = (&*SIGNER, issuer()) else {
        return;
    };
    let header = json!({"alg": "ES256", "typ": "dpop+jwt", "jwk": signer.jwk});
    let bound_to = URL_SAFE_NO_PAD.encode(digest(&SHA256, TOKEN.as_bytes()));
    let claims = json!({
        "jti": "1", "htm": "GET", "htu": "https://api.example.com/a", "iat": NOW, "ath": bound_to,
    });
    // A fuzzer cannot guess the hash.
    let bytes = String::from_utf8_lossy(bytes).replace("ATH", &bound_to);
    let Some(jws) = signer.jws(bytes.as_bytes(), &header, &claims) else {
        return;
    };
    let Ok(value) = HeaderValue::from_str(&jws) else {
        return;
    };
    let fields = HeaderMap::from_iter([(DPOP, value)]);
    let Ok(host) = Host::of(&Uri::from_static("https://api.example.com/a"), &HeaderMap::new()) else {
        return;
    };
    let verified = VerifiedToken {
        issuer: issuer.name.clone(),
        subject: Arc::from("alice"),
        client_id: None,
        scopes: Scopes::default(),
        expires: now() + Duration::from_secs(300),
        holds_until: Some(now() + Duration::from_secs(300)),
        id: None,
        binding: Binding::Key(signer.thumbprint),
        tier: None,
        claims: serde_json::Map::new(),
    };
    let offered = Offered {
        scheme: Scheme::Dpop,
        token: TOKEN,
    };
    let asked = Asked {
        method: &Method::GET,
        tls: true,
        host: &host,
        path: "/a",
    };
    let checker = ProofChecker::default();
    let check = || {
        checker.check(
            &issuer,
            (&offered, &verified),
            &asked,
            &fields,
            now,
            &mut HeaderMap::new(),
        )
    };
    if check().is_ok() {
        let claims = payload(&jws).unwrap_or_default();
        assert_eq!(claims["htm"], "GET");
        assert_eq!(claims["ath"].as_str(), Some(&*bound_to));
        assert!(
            claims["iat"]
                .as_f64()
                .is_some_and(|made| made <= NOW as f64 + 600.0)
        );
        assert!(check().is_err(), "a proof is used once");
    }
}

/// A set of keys: no more of them than may be, and the same ones each time.
pub fn keys(bytes: &[u8]) {
    let allowed = [Algorithm::ES256, Algorithm::RS256, Algorithm::EdDSA];
    if let Ok(set) = KeySet::parse(bytes, &allowed) {
        assert!(!set.is_empty() && set.len() + set.unused().len() <= super::identity::jwks::MAX_KEYS);
        let again = KeySet::parse(bytes, &allowed);
        assert!(again.is_ok_and(|again| again.same_keys(&set)));
    }
}
