//! Tokens that must not let anybody in, sent over real connections: the status, the error code of RFC 6750
//! section 3.1, and that nothing of them reaches the service.

use std::{
    fs,
    sync::Arc,
    time::{Duration, SystemTime},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use enforcer_model::{
    CheckedBy, Dpop, Issuer, Jwks, JwksSource, PolicySet, Profile, Requirement, TokenContent,
    TokenRequirement,
};
use jsonwebtoken::{Algorithm, EncodingKey, crypto};
use rcgen::{KeyPair, PublicKeyData};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::data_path::support::{
    Plan,
    client::{self, Client, H1, H2, Reply},
    origin::Origin,
    policy,
};

/// An issuer whose key signs whatever it is given.
pub(crate) struct Forge {
    directory: TempDir,
    key: KeyPair,
    other: KeyPair,
    pub(crate) now: u64,
}

impl Forge {
    pub(crate) fn new() -> Self {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        let forge = Self {
            directory: TempDir::new().unwrap(),
            key: KeyPair::generate().unwrap(),
            other: KeyPair::generate().unwrap(),
            now: now.as_secs(),
        };
        let set = json!({"keys": [forge.public(&forge.key)]});
        fs::write(forge.directory.path().join("jwks.json"), set.to_string()).unwrap();
        forge
    }

    pub(crate) fn public(&self, key: &KeyPair) -> Value {
        let point = key.der_bytes();
        let part = |range: std::ops::Range<usize>| URL_SAFE_NO_PAD.encode(&point[range]);
        json!({"kty": "EC", "crv": "P-256", "kid": "1", "x": part(1..33), "y": part(33..65)})
    }

    pub(crate) fn set(&self, origin: &Origin) -> PolicySet {
        self.set_with(origin, Dpop::default())
    }

    /// With proofs as told.
    pub(crate) fn set_with(&self, origin: &Origin, dpop: Dpop) -> PolicySet {
        let issuer = Issuer {
            name: policy::name("corp"),
            origin: policy::origin(),
            issuer: "https://idp.example.com".into(),
            checked_by: CheckedBy::Keys(Jwks {
                source: JwksSource::File(self.directory.path().join("jwks.json")),
                refresh: Duration::from_secs(600),
            }),
            audiences: vec!["orders".into()],
            algorithms: vec![Algorithm::ES256],
            types: vec!["at+jwt".into()],
            profile: Profile::default(),
            leeway: Duration::from_secs(5),
            tier: None,
            kept: Vec::new(),
            dpop,
        };
        let mut rule = policy::open_rule();
        rule.require = Requirement::Proof {
            mtls: None,
            token: Some(TokenRequirement {
                issuer: policy::name("corp"),
                scopes: vec!["orders:read".into()],
                content: TokenContent::default(),
            }),
            api_key: None,
        };
        let mut set = policy::set(vec![rule], policy::service(&[origin.address]));
        set.issuers = vec![Arc::new(issuer)];
        set
    }

    pub(crate) fn header(&self) -> Value {
        json!({"alg": "ES256", "typ": "at+jwt", "kid": "1"})
    }

    pub(crate) fn claims(&self) -> Value {
        json!({
            "iss": "https://idp.example.com", "aud": "orders", "sub": "alice", "client_id": "web",
            "iat": self.now, "exp": self.now + 300, "scope": "orders:read", "jti": "1",
        })
    }

    pub(crate) fn signed_by(key: &KeyPair, header: &str, claims: &str) -> String {
        let message = format!(
            "{}.{}",
            URL_SAFE_NO_PAD.encode(header),
            URL_SAFE_NO_PAD.encode(claims)
        );
        let key = EncodingKey::from_ec_der(&key.serialize_der());
        let signature = crypto::sign(message.as_bytes(), &key, Algorithm::ES256).unwrap();
        format!("{message}.{signature}")
    }

    pub(crate) fn sign(&self, header: &Value, claims: &Value) -> String {
        Self::signed_by(&self.key, &header.to_string(), &claims.to_string())
    }

    /// With one member of the header replaced, or taken out by null.
    fn head(&self, name: &str, value: Value) -> String {
        self.sign(&with(self.header(), name, value), &self.claims())
    }

    /// With one claim replaced, or taken out by null.
    pub(crate) fn claim(&self, name: &str, value: Value) -> String {
        self.sign(&self.header(), &with(self.claims(), name, value))
    }
}

pub(crate) fn with(mut object: Value, name: &str, value: Value) -> Value {
    let members = object.as_object_mut().unwrap();
    if value.is_null() {
        members.remove(name);
    } else {
        members.insert(name.to_owned(), value);
    }
    object
}

const TOKEN: (u16, &str) = (401, "invalid_token");
const REQUEST: (u16, &str) = (400, "invalid_request");
const SCOPE: (u16, &str) = (403, "insufficient_scope");
/// No token was sent: no error code says more.
const NONE: (u16, &str) = (401, "");

type Case = (String, Vec<String>, (u16, &'static str));

fn bearer(name: impl Into<String>, token: impl AsRef<str>, expected: (u16, &'static str)) -> Case {
    (name.into(), vec![format!("Bearer {}", token.as_ref())], expected)
}

fn by_header(forge: &Forge) -> Vec<Case> {
    let jwk = forge.public(&forge.other);
    let mut cases: Vec<Case> = [
        ("alg", json!("none")),
        ("alg", json!("None")),
        ("alg", json!("nOnE")),
        ("alg", json!("HS256")),
        ("alg", json!("HS512")),
        ("alg", json!("RS256")),
        ("alg", json!("PS256")),
        ("alg", json!("ES384")),
        ("alg", json!("EdDSA")),
        ("alg", json!("es256")),
        ("alg", json!("")),
        ("alg", json!(null)),
        ("alg", json!(1)),
        ("alg", json!(["ES256"])),
        ("typ", json!(null)),
        ("typ", json!("JWT")),
        ("typ", json!("id+jwt")),
        ("typ", json!("dpop+jwt")),
        ("typ", json!("logout+jwt")),
        ("typ", json!("at+jwt ")),
        ("typ", json!(["at+jwt"])),
        ("kid", json!("2")),
        ("kid", json!("")),
        ("kid", json!("../../dev/null")),
        ("kid", json!("1' OR '1'='1")),
        ("kid", json!(1)),
        ("crit", json!(["exp"])),
        ("crit", json!([])),
        ("crit", json!("b64")),
    ]
    .into_iter()
    .map(|(name, value)| bearer(format!("{name}: {value}"), forge.head(name, value), TOKEN))
    .collect();
    // Keys that the token itself brings or names are not looked at.
    for (name, value) in [
        ("jwk", jwk),
        ("jku", json!("http://127.0.0.1:1/jwks")),
        ("x5u", json!("http://169.254.169.254/")),
        ("x5c", json!(["MIIB"])),
    ] {
        let header = with(forge.header(), name, value).to_string();
        let token = Forge::signed_by(&forge.other, &header, &forge.claims().to_string());
        cases.push(bearer(format!("key by {name}"), token, TOKEN));
    }
    cases
}

fn by_claim(forge: &Forge) -> Vec<Case> {
    let now = forge.now;
    let mut cases: Vec<Case> = [
        ("iss", json!(null)),
        ("iss", json!("https://idp.example.com/")),
        ("iss", json!("https://IDP.example.com")),
        ("iss", json!("https://evil.example")),
        ("iss", json!(["https://idp.example.com"])),
        ("aud", json!(null)),
        ("aud", json!("billing")),
        ("aud", json!("ORDERS")),
        ("aud", json!("orders ")),
        ("aud", json!([])),
        ("aud", json!(["billing"])),
        ("aud", json!(["orders", 1])),
        ("aud", json!({"orders": true})),
        ("exp", json!(null)),
        ("exp", json!(now - 60)),
        ("exp", json!(0)),
        ("exp", json!(-1)),
        ("exp", json!((now + 300).to_string())),
        ("exp", json!(1e300)),
        ("exp", json!(true)),
        ("nbf", json!(now + 120)),
        ("nbf", json!("now")),
        ("nbf", json!(-1)),
        ("iat", json!(now + 120)),
        ("iat", json!("now")),
        ("sub", json!(null)),
        ("sub", json!("")),
        ("sub", json!(7)),
        ("jti", json!(7)),
        ("client_id", json!(7)),
        ("scope", json!(7)),
        ("cnf", json!("key")),
        ("cnf", json!({"x5t#S256": "AAAA"})),
        ("cnf", json!({"x5t#S256": "A".repeat(43)})),
        ("cnf", json!({"jkt": "A".repeat(43)})),
        ("cnf", json!({})),
    ]
    .into_iter()
    .map(|(name, value)| bearer(format!("{name}: {value}"), forge.claim(name, value), TOKEN))
    .collect();
    for scope in [
        json!(null),
        json!(""),
        json!("orders"),
        json!("orders:reader"),
        json!("ORDERS:READ"),
        json!("orders:write"),
    ] {
        cases.push(bearer(
            format!("scope: {scope}"),
            forge.claim("scope", scope),
            SCOPE,
        ));
    }
    cases
}

fn by_form(forge: &Forge) -> Vec<Case> {
    let good = forge.sign(&forge.header(), &forge.claims());
    let parts: Vec<&str> = good.split('.').collect();
    let [header, claims, signature] = parts[..] else {
        unreachable!("a token has three parts")
    };
    let forged = URL_SAFE_NO_PAD.encode(with(forge.claims(), "sub", json!("root")).to_string());
    let twice = forge.claims().to_string().replacen('{', "{\"sub\":\"root\",", 1);
    let zeros = URL_SAFE_NO_PAD.encode([0; 64]);
    let field = |name: &str, values: &[String], expected| (name.to_owned(), values.to_vec(), expected);
    vec![
        bearer("another payload", format!("{header}.{forged}.{signature}"), TOKEN),
        bearer("no signature", format!("{header}.{claims}."), TOKEN),
        bearer("no third part", format!("{header}.{claims}"), TOKEN),
        bearer("four parts", format!("{good}.x"), TOKEN),
        bearer("five parts", format!("{good}.x.y"), TOKEN),
        bearer("empty header", format!(".{claims}.{signature}"), TOKEN),
        bearer("empty payload", format!("{header}..{signature}"), TOKEN),
        bearer(
            "zeros for a signature",
            format!("{header}.{claims}.{zeros}"),
            TOKEN,
        ),
        bearer("cut", &good[..good.len() - 4], TOKEN),
        bearer("lengthened", format!("{good}AAAA"), TOKEN),
        bearer("padded", format!("{good}=="), TOKEN),
        bearer(
            "standard base64",
            format!("{header}.{claims}.+/{}", &signature[2..]),
            TOKEN,
        ),
        bearer("one word", "token", TOKEN),
        bearer("dots", "...", TOKEN),
        bearer("too long", "a".repeat(8193), TOKEN),
        bearer(
            "another key",
            Forge::signed_by(
                &forge.other,
                &forge.header().to_string(),
                &forge.claims().to_string(),
            ),
            TOKEN,
        ),
        bearer(
            "a name twice",
            Forge::signed_by(&forge.key, &forge.header().to_string(), &twice),
            TOKEN,
        ),
        bearer(
            "no object",
            Forge::signed_by(&forge.key, &forge.header().to_string(), "[]"),
            TOKEN,
        ),
        bearer(
            "no JSON",
            Forge::signed_by(&forge.key, &forge.header().to_string(), "{"),
            TOKEN,
        ),
        field("nothing", &[], NONE),
        field("another scheme", &["Basic YTpi".to_owned()], NONE),
        field("no scheme", std::slice::from_ref(&good), NONE),
        field("scheme alone", &["Bearer".to_owned()], REQUEST),
        field("two tokens in one", &[format!("Bearer {good} {good}")], REQUEST),
        field("a list", &[format!("Bearer {good},Bearer {good}")], REQUEST),
        field("in quotes", &[format!("Bearer \"{good}\"")], REQUEST),
        field(
            "twice",
            &[format!("Bearer {good}"), format!("Bearer {good}")],
            REQUEST,
        ),
        field(
            "and another scheme",
            &[format!("Bearer {good}"), "Basic YTpi".to_owned()],
            REQUEST,
        ),
    ]
}

async fn send(client: &mut Client, values: &[String]) -> Reply {
    let mut request = client::get("/");
    for value in values {
        request
            .headers_mut()
            .append("authorization", value.parse().unwrap());
    }
    client.send(request).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_tokens_are_refused_and_told_as_rfc_6750_says() {
    let (origin, forge) = (Origin::start().await, Forge::new());
    let lab = Plan::default().start(forge.set(&origin));
    let cases = [by_header(&forge), by_claim(&forge), by_form(&forge)].concat();
    assert!(cases.len() >= 80, "{}", cases.len());
    for alpn in [H1, H2] {
        let mut client = Client::connect(&lab, alpn).await;
        let before = origin.requests();
        let good = forge.sign(&forge.header(), &forge.claims());
        // Before and after the others: neither they nor the cache of tokens change what is right.
        assert_eq!(send(&mut client, &[format!("Bearer {good}")]).await.status, 200);
        for (name, values, (status, error)) in &cases {
            let reply = send(&mut client, values).await;
            assert_eq!(reply.status, *status, "{name}: {reply:?}");
            let told = reply.headers["www-authenticate"].to_str().unwrap();
            assert!(told.starts_with("Bearer realm=\"main\""), "{name}: {told}");
            if error.is_empty() {
                assert_eq!(told, "Bearer realm=\"main\"", "{name}");
            } else {
                assert!(told.contains(&format!("error=\"{error}\"")), "{name}: {told}");
            }
            assert_eq!(
                reply.headers["content-type"], "application/problem+json",
                "{name}"
            );
        }
        assert_eq!(send(&mut client, &[format!("Bearer {good}")]).await.status, 200);
        assert_eq!(
            origin.requests(),
            before + 2,
            "nothing hostile reaches the service"
        );
    }
}
