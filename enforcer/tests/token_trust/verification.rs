//! Which tokens hold, and why others do not.

use std::{
    fs,
    sync::Arc,
    time::{Duration, SystemTime},
};

use crate::issuer::{NOW, SigningKey, base64url, claims, key_set, policy};
use enforcer::{
    gateway::identity::{
        cache::TokenCache,
        token::{Binding, TokenError, VerifiedToken},
        verifier::Verifier,
    },
    policy::model::{Issuer, JwksSource, Name},
};
use jsonwebtoken::Algorithm;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::runtime::Handle;

const ALGORITHMS: [Algorithm; 3] = [Algorithm::ES256, Algorithm::EdDSA, Algorithm::RS256];

/// A verifier of one issuer, whose keys come from a file.
struct Trust {
    directory: TempDir,
    policy: Issuer,
    verifier: Verifier,
}

impl Trust {
    async fn in_document(document: &Value) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("jwks.json");
        fs::write(&file, document.to_string()).unwrap();
        let policy = policy(JwksSource::File(file), &ALGORITHMS);
        let verifier = Verifier::new(&[Arc::new(policy.clone())], None, &Handle::current());
        verifier.first_attempts().await;
        Self {
            directory,
            policy,
            verifier,
        }
    }

    async fn in_keys(keys: &[&SigningKey]) -> Self {
        Self::in_document(&key_set(keys)).await
    }

    fn name(&self) -> &Name {
        &self.policy.name
    }

    fn verify_at(&self, token: &str, seconds: u64) -> Result<Arc<VerifiedToken>, TokenError> {
        self.verifier.verify(self.name(), token, at(seconds))
    }

    fn verify(&self, token: &str) -> Result<Arc<VerifiedToken>, TokenError> {
        self.verify_at(token, NOW)
    }
}

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

fn with(mut object: Value, name: &str, value: impl Into<Value>) -> Value {
    object[name] = value.into();
    object
}

fn without(mut object: Value, name: &str) -> Value {
    object.as_object_mut().unwrap().remove(name).unwrap();
    object
}

#[tokio::test]
async fn tokens_of_every_algorithm_hold() {
    let keys = [
        SigningKey::es256("e"),
        SigningKey::eddsa("d"),
        SigningKey::rs256("r"),
    ];
    let trust = Trust::in_keys(&keys.each_ref()).await;
    for key in &keys {
        let token = trust.verify(&key.good_token()).unwrap();
        assert_eq!(&token.issuer, trust.name());
        assert_eq!(&*token.subject, "alice");
        assert_eq!(token.client_id.as_deref(), Some("shop"));
        assert_eq!(
            token.scopes.iter().collect::<Vec<_>>(),
            ["orders:read", "orders:write"]
        );
        assert_eq!(token.expires, at(NOW + 300));
        assert_eq!(token.id.as_deref(), Some("1"));
        assert_eq!(token.binding, Binding::Bearer);
        assert_eq!(Value::Object(token.claims.clone()), claims());
        let anonymous = key.token(&without(key.header(), "kid"), &claims());
        assert!(
            trust.verify(&anonymous).is_ok(),
            "one key of {} only",
            key.algorithm()
        );
    }
}

#[tokio::test]
async fn what_the_standards_leave_open_is_accepted() {
    let key = SigningKey::es256("e");
    let trust = Trust::in_keys(&[&key]).await;
    for typ in ["AT+JWT", "application/at+jwt", "Application/At+Jwt"] {
        let token = key.token(&with(key.header(), "typ", typ), &claims());
        assert!(trust.verify(&token).is_ok(), "{typ}");
    }
    for claims in [
        with(claims(), "aud", json!(["other", "billing"])),
        with(claims(), "exp", NOW - 29),
        with(claims(), "exp", json!(1_800_000_300.75)),
        with(claims(), "nbf", NOW + 30),
        with(claims(), "iat", NOW + 30),
        with(claims(), "cnf", json!({"jkt": "x"})),
        without(claims(), "scope"),
        without(claims(), "client_id"),
        without(claims(), "iat"),
    ] {
        assert!(
            trust.verify(&key.token(&key.header(), &claims)).is_ok(),
            "{claims}"
        );
    }
    let hints = with(
        with(key.header(), "jku", "https://evil.example"),
        "jwk",
        SigningKey::es256("x").jwk(),
    );
    assert!(
        trust.verify(&key.token(&hints, &claims())).is_ok(),
        "hints are not followed, and harm nothing"
    );
}

#[tokio::test]
async fn bound_tokens_say_to_what() {
    let key = SigningKey::es256("e");
    let trust = Trust::in_keys(&[&key]).await;
    let binding = |confirmation: Value| {
        let token = key.token(&key.header(), &with(claims(), "cnf", confirmation));
        trust.verify(&token).map(|token| token.binding)
    };
    let thumbprint = base64url([7; 32]);
    assert_eq!(
        binding(json!({"x5t#S256": thumbprint})),
        Ok(Binding::Certificate([7; 32]))
    );
    assert_eq!(binding(json!({"jkt": thumbprint})), Ok(Binding::Unsupported));
    assert_eq!(
        binding(json!({"x5t#S256": thumbprint, "jkt": thumbprint})),
        Ok(Binding::Unsupported)
    );
    assert_eq!(binding(json!({})), Ok(Binding::Unsupported));
    assert_eq!(
        binding(json!({"x5t#S256": "AAAA"})),
        Err(TokenError::Invalid("cnf"))
    );
    assert_eq!(binding(json!("x5t#S256")), Err(TokenError::Invalid("cnf")));
}

/// Headers that a token must not have, under a signature that holds.
fn hostile_headers(key: &SigningKey) -> Vec<(&'static str, String, TokenError)> {
    let header = |name: &str, value: Value| with(key.header(), name, value).to_string();
    let lacking = |name: &str| without(key.header(), name).to_string();
    let twice = format!(
        r#"{{"alg":"none","alg":"ES256","typ":"at+jwt","kid":"{}"}}"#,
        key.id
    );
    vec![
        ("alg none", header("alg", json!("none")), TokenError::Algorithm),
        ("alg None", header("alg", json!("None")), TokenError::Algorithm),
        ("alg empty", header("alg", json!("")), TokenError::Algorithm),
        (
            "alg in lower case",
            header("alg", json!("es256")),
            TokenError::Algorithm,
        ),
        (
            "alg not allowed",
            header("alg", json!("PS256")),
            TokenError::Algorithm,
        ),
        (
            "alg symmetric",
            header("alg", json!("HS256")),
            TokenError::Algorithm,
        ),
        ("alg null", header("alg", json!(null)), TokenError::Header),
        (
            "alg an array",
            header("alg", json!(["ES256"])),
            TokenError::Header,
        ),
        ("alg missing", lacking("alg"), TokenError::Header),
        ("alg twice", twice, TokenError::NotJson),
        (
            "alg of another key",
            header("alg", json!("RS256")),
            TokenError::OtherAlgorithm,
        ),
        ("typ JWT", header("typ", json!("JWT")), TokenError::Type),
        (
            "typ of an ID token",
            header("typ", json!("id+jwt")),
            TokenError::Type,
        ),
        (
            "typ of a proof",
            header("typ", json!("dpop+jwt")),
            TokenError::Type,
        ),
        (
            "typ of another tree",
            header("typ", json!("text/at+jwt")),
            TokenError::Type,
        ),
        (
            "typ with a space",
            header("typ", json!("at+jwt ")),
            TokenError::Type,
        ),
        ("typ a number", header("typ", json!(1)), TokenError::Header),
        ("typ missing", lacking("typ"), TokenError::Type),
        ("kid unknown", header("kid", json!("f")), TokenError::UnknownKey),
        ("kid empty", header("kid", json!("")), TokenError::UnknownKey),
        (
            "kid a path",
            header("kid", json!("../../../../dev/null")),
            TokenError::UnknownKey,
        ),
        (
            "kid an address",
            header("kid", json!("https://evil.example/e")),
            TokenError::UnknownKey,
        ),
        (
            "kid a query",
            header("kid", json!("' OR 1=1 --")),
            TokenError::UnknownKey,
        ),
        (
            "kid with NUL",
            header("kid", json!("e\u{0}")),
            TokenError::UnknownKey,
        ),
        (
            "kid in upper case",
            header("kid", json!("E")),
            TokenError::UnknownKey,
        ),
        ("kid null", header("kid", json!(null)), TokenError::Header),
        ("kid a number", header("kid", json!(0)), TokenError::Header),
        ("crit", header("crit", json!(["exp"])), TokenError::Critical),
        ("crit empty", header("crit", json!([])), TokenError::Critical),
        (
            "crit with b64",
            with(with(key.header(), "b64", false), "crit", json!(["b64"])).to_string(),
            TokenError::Critical,
        ),
        ("an array", "[]".to_owned(), TokenError::NotJson),
        ("no JSON", "alg=ES256".to_owned(), TokenError::NotJson),
        (
            "two objects",
            format!("{}{{}}", key.header()),
            TokenError::NotJson,
        ),
    ]
}

/// Claims that a token must not have, under a signature that holds.
fn hostile_claims() -> Vec<(&'static str, String, TokenError)> {
    let claim = |name: &str, value: Value| with(claims(), name, value).to_string();
    let lacking = |name: &str| without(claims(), name).to_string();
    let again = |member: &str| claims().to_string().replacen('{', &format!("{{{member},"), 1);
    vec![
        (
            "iss of another",
            claim("iss", json!("https://idp.example.org")),
            TokenError::Issuer,
        ),
        (
            "iss with a slash",
            claim("iss", json!("https://idp.example.com/")),
            TokenError::Issuer,
        ),
        (
            "iss in upper case",
            claim("iss", json!("HTTPS://idp.example.com")),
            TokenError::Issuer,
        ),
        (
            "iss an array",
            claim("iss", json!(["https://idp.example.com"])),
            TokenError::Invalid("iss"),
        ),
        ("iss missing", lacking("iss"), TokenError::Missing("iss")),
        (
            "aud of another",
            claim("aud", json!("payments")),
            TokenError::Audience,
        ),
        (
            "aud of others",
            claim("aud", json!(["payments", "orders2"])),
            TokenError::Audience,
        ),
        ("aud none", claim("aud", json!([])), TokenError::Audience),
        (
            "aud several in one",
            claim("aud", json!("orders billing")),
            TokenError::Audience,
        ),
        (
            "aud an object",
            claim("aud", json!({"orders": 1})),
            TokenError::Invalid("aud"),
        ),
        (
            "aud with a number",
            claim("aud", json!(["orders", 1])),
            TokenError::Invalid("aud"),
        ),
        ("aud null", claim("aud", json!(null)), TokenError::Invalid("aud")),
        ("aud missing", lacking("aud"), TokenError::Missing("aud")),
        ("exp missing", lacking("exp"), TokenError::Missing("exp")),
        ("exp past", claim("exp", json!(NOW - 30)), TokenError::Expired),
        (
            "exp past, with a fraction",
            claim("exp", json!(1_799_999_970.9)),
            TokenError::Expired,
        ),
        ("exp zero", claim("exp", json!(0)), TokenError::Expired),
        (
            "exp negative",
            claim("exp", json!(-1)),
            TokenError::Invalid("exp"),
        ),
        (
            "exp a string",
            claim("exp", json!("1900000000")),
            TokenError::Invalid("exp"),
        ),
        ("exp null", claim("exp", json!(null)), TokenError::Invalid("exp")),
        ("exp true", claim("exp", json!(true)), TokenError::Invalid("exp")),
        (
            "exp an array",
            claim("exp", json!([NOW + 1])),
            TokenError::Invalid("exp"),
        ),
        (
            "exp in milliseconds, as good as never",
            claim("exp", json!(1_800_000_300_000_u64)),
            TokenError::Invalid("exp"),
        ),
        (
            "exp out of range",
            claim("exp", json!(1e300)),
            TokenError::Invalid("exp"),
        ),
        (
            "exp the largest",
            claim("exp", json!(u64::MAX)),
            TokenError::Invalid("exp"),
        ),
        ("exp infinite", again(r#""x":1e999"#), TokenError::NotJson),
        ("exp twice", again(r#""exp":9999999999"#), TokenError::NotJson),
        (
            "sub twice, once escaped",
            again(r#""\u0073ub":"admin""#),
            TokenError::NotJson,
        ),
        (
            "twice further down",
            again(r#""x":{"y":1,"y":2}"#),
            TokenError::NotJson,
        ),
        (
            "nbf future",
            claim("nbf", json!(NOW + 31)),
            TokenError::NotYetValid,
        ),
        (
            "nbf future, by a fraction",
            claim("nbf", json!(1_800_000_030.1)),
            TokenError::NotYetValid,
        ),
        (
            "nbf a string",
            claim("nbf", json!("0")),
            TokenError::Invalid("nbf"),
        ),
        (
            "iat future",
            claim("iat", json!(NOW + 31)),
            TokenError::IssuedInFuture,
        ),
        (
            "iat an object",
            claim("iat", json!({})),
            TokenError::Invalid("iat"),
        ),
        ("sub missing", lacking("sub"), TokenError::Missing("sub")),
        ("sub empty", claim("sub", json!("")), TokenError::Invalid("sub")),
        ("sub a number", claim("sub", json!(0)), TokenError::Invalid("sub")),
        (
            "client_id a number",
            claim("client_id", json!(7)),
            TokenError::Invalid("client_id"),
        ),
        (
            "jti an object",
            claim("jti", json!({})),
            TokenError::Invalid("jti"),
        ),
        (
            "scope beyond ASCII",
            claim("scope", json!("orders:re\u{430}d")),
            TokenError::Invalid("scope"),
        ),
        (
            "scope with a tab",
            claim("scope", json!("orders:read\torders:write")),
            TokenError::Invalid("scope"),
        ),
        (
            "scope an array",
            claim("scope", json!(["orders:read"])),
            TokenError::Invalid("scope"),
        ),
        ("an array", "[]".to_owned(), TokenError::NotJson),
        (
            "deep",
            format!("{}{}", "[".repeat(3000), "]".repeat(3000)),
            TokenError::NotJson,
        ),
        ("empty", String::new(), TokenError::NotJson),
    ]
}

#[tokio::test]
async fn hostile_headers_and_claims_are_refused() {
    let key = SigningKey::es256("e");
    let trust = Trust::in_keys(&[&key]).await;
    for (what, header, error) in hostile_headers(&key) {
        assert_eq!(
            trust.verify(&key.token(&header, &claims())),
            Err(error),
            "{what}: {header}"
        );
    }
    for (what, claims, error) in hostile_claims() {
        let token = key.token(&key.header(), &claims);
        assert_eq!(trust.verify(&token), Err(error), "{what}: {claims}");
    }
}

/// Another letter, which differs only in bits that the encoding does not use.
fn with_unused_bits(part: &str) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    assert_ne!(part.len() % 4, 0, "the last letter has unused bits");
    let last = part.as_bytes()[part.len() - 1];
    let value = ALPHABET.iter().position(|&letter| letter == last).unwrap();
    format!("{}{}", &part[..part.len() - 1], char::from(ALPHABET[value | 1]))
}

#[tokio::test]
async fn hostile_forms_are_refused() {
    let key = SigningKey::es256("e");
    let trust = Trust::in_keys(&[&key]).await;
    // So long that the encodings of header and claims have unused bits.
    let header = with(key.header(), "x", "");
    let good = key.token(&header, &with(claims(), "x", "12"));
    assert!(trust.verify(&good).is_ok());
    let parts: Vec<&str> = good.split('.').collect();
    let [header_part, claims_part, signature] = parts[..] else {
        panic!("a token has three parts");
    };
    let resigned = |header: &str, claims: &str| {
        let message = format!("{header}.{claims}");
        format!("{message}.{}", base64url(key.sign(message.as_bytes())))
    };
    let flipped = format!(
        "{}{}",
        if signature.starts_with('A') { 'B' } else { 'A' },
        &signature[1..]
    );
    let huge = key.token(&key.header(), &with(claims(), "x", "x".repeat(8000)));
    let zeroes = base64url([0; 64]);
    for (what, token, error) in [
        ("nothing", String::new(), TokenError::Malformed),
        ("dots", "..".to_owned(), TokenError::Malformed),
        (
            "no signature",
            format!("{header_part}.{claims_part}"),
            TokenError::Malformed,
        ),
        (
            "an empty signature",
            format!("{header_part}.{claims_part}."),
            TokenError::Malformed,
        ),
        (
            "an empty header",
            format!(".{claims_part}.{signature}"),
            TokenError::NotJson,
        ),
        ("four parts", format!("{good}.x"), TokenError::Malformed),
        (
            "five parts, as if encrypted",
            format!("{good}.x.y"),
            TokenError::Malformed,
        ),
        ("a dot behind", format!("{good}."), TokenError::Malformed),
        ("garbage behind", format!("{good}AAAA"), TokenError::Signature),
        ("a line end", format!("{good}\n"), TokenError::Malformed),
        ("a space in front", format!(" {good}"), TokenError::Malformed),
        ("a padded signature", format!("{good}=="), TokenError::Malformed),
        (
            "a padded header",
            resigned(&format!("{header_part}="), claims_part),
            TokenError::Malformed,
        ),
        (
            "padded claims",
            resigned(header_part, &format!("{claims_part}=")),
            TokenError::Malformed,
        ),
        (
            "standard letters",
            resigned(header_part, &format!("{claims_part}++//")),
            TokenError::Malformed,
        ),
        (
            "unused bits in the header",
            resigned(&with_unused_bits(header_part), claims_part),
            TokenError::Malformed,
        ),
        (
            "unused bits in the claims",
            resigned(header_part, &with_unused_bits(claims_part)),
            TokenError::Malformed,
        ),
        (
            "unused bits in the signature",
            format!("{header_part}.{claims_part}.{}", with_unused_bits(signature)),
            TokenError::Malformed,
        ),
        (
            "a changed signature",
            format!("{header_part}.{claims_part}.{flipped}"),
            TokenError::Signature,
        ),
        (
            "a signature of zeroes",
            format!("{header_part}.{claims_part}.{zeroes}"),
            TokenError::Signature,
        ),
        (
            "a short signature",
            format!("{header_part}.{claims_part}.AAAA"),
            TokenError::Signature,
        ),
        (
            "another's signature",
            SigningKey::es256("e").token(&header, &claims()),
            TokenError::Signature,
        ),
        (
            "another's claims",
            format!(
                "{header_part}.{}.{signature}",
                base64url(with(claims(), "sub", "bob").to_string())
            ),
            TokenError::Signature,
        ),
        ("huge", huge, TokenError::TooLong),
        (
            "beyond ASCII",
            format!("{header_part}.{claims_part}.ä"),
            TokenError::Malformed,
        ),
    ] {
        assert_eq!(trust.verify(&token), Err(error), "{what}");
    }
}

#[tokio::test]
async fn a_public_key_is_no_shared_secret() {
    use aws_lc_rs::hmac;
    let keys = [SigningKey::es256("e"), SigningKey::rs256("r")];
    let trust = Trust::in_keys(&keys.each_ref()).await;
    for key in &keys {
        let header = with(key.header(), "alg", "HS256").to_string();
        let message = format!("{}.{}", base64url(header), base64url(claims().to_string()));
        let secret = hmac::Key::new(hmac::HMAC_SHA256, key.public());
        let token = format!("{message}.{}", base64url(hmac::sign(&secret, message.as_bytes())));
        assert_eq!(trust.verify(&token), Err(TokenError::Algorithm));
    }
}

#[tokio::test]
async fn a_doubtful_choice_of_key_is_none() {
    let [one, other] = [SigningKey::es256("e"), SigningKey::es256("e")];
    let trust = Trust::in_keys(&[&one, &other]).await;
    assert_eq!(trust.verify(&one.good_token()), Err(TokenError::AmbiguousKey));
    let trust = Trust::in_keys(&[&one, &SigningKey::es256("f")]).await;
    let anonymous = one.token(&without(one.header(), "kid"), &claims());
    assert_eq!(trust.verify(&anonymous), Err(TokenError::AmbiguousKey));
    assert!(trust.verify(&one.good_token()).is_ok());
}

#[tokio::test]
async fn without_keys_or_issuer_nothing_holds() {
    let key = SigningKey::es256("e");
    let trust = Trust::in_document(&json!({"keys": [{"kty": "oct", "k": "AAAA"}]})).await;
    assert_eq!(trust.verify(&key.good_token()), Err(TokenError::KeysUnavailable));
    let status = &trust.verifier.status()[0];
    assert_eq!((status.keys, status.state.last_success), (0, None));
    assert!(
        status
            .state
            .last_error
            .as_ref()
            .unwrap()
            .contains("no key that can be used")
    );
    let stranger = "stranger".parse().unwrap();
    let result = trust.verifier.verify(&stranger, &key.good_token(), at(NOW));
    assert_eq!(result, Err(TokenError::UnknownIssuer));
}

#[tokio::test]
async fn the_cache_saves_signatures_and_forgets_in_time() {
    let key = SigningKey::es256("e");
    let trust = Trust::in_keys(&[&key]).await;
    let mut cache = TokenCache::new(16).unwrap();
    let mut verify = |token: &str, seconds| {
        let result = cache.verify(&trust.verifier, trust.name(), token, at(seconds));
        (result.map(|_| ()), cache.hits_and_misses())
    };
    let token = key.good_token();
    assert_eq!(verify(&token, NOW), (Ok(()), (0, 1)));
    assert_eq!(verify(&token, NOW + 299), (Ok(()), (1, 1)));
    assert_eq!(
        verify(&token, NOW + 300),
        (Ok(()), (1, 2)),
        "in the leeway it is verified each time"
    );
    assert_eq!(verify(&token, NOW + 330), (Err(TokenError::Expired), (1, 3)));
    let (message, signature) = token.rsplit_once('.').unwrap();
    let first = if signature.starts_with('A') { 'B' } else { 'A' };
    let tampered = format!("{message}.{first}{}", &signature[1..]);
    assert_eq!(verify(&tampered, NOW), (Err(TokenError::Signature), (1, 4)));
}

#[tokio::test]
async fn the_cache_is_bounded_and_keeps_what_is_used() {
    let key = SigningKey::eddsa("d");
    let trust = Trust::in_keys(&[&key]).await;
    let mut cache = TokenCache::new(4).unwrap();
    let mut verify = |subject: u32| {
        let token = key.token(&key.header(), &with(claims(), "sub", subject.to_string()));
        let token = cache
            .verify(&trust.verifier, trust.name(), &token, at(NOW))
            .unwrap();
        assert_eq!(*token.subject, subject.to_string());
        cache.hits_and_misses()
    };
    for subject in 0..4 {
        verify(subject);
    }
    assert_eq!(verify(0), (1, 4));
    assert_eq!(verify(4), (1, 5), "takes the place of 1, the least recently used");
    assert_eq!(verify(0), (2, 5));
    assert_eq!(verify(2), (3, 5));
    assert_eq!(verify(3), (4, 5));
    assert_eq!(verify(1), (4, 6));
}

#[tokio::test]
async fn a_new_policy_keeps_keys_and_judges_cached_tokens_anew() {
    let key = SigningKey::es256("e");
    let trust = Trust::in_keys(&[&key]).await;
    let mut cache = TokenCache::new(16).unwrap();
    let token = key.good_token();
    cache
        .verify(&trust.verifier, trust.name(), &token, at(NOW))
        .unwrap();
    // The keys are not read again: they are gone.
    fs::remove_file(trust.directory.path().join("jwks.json")).unwrap();
    let renew = |policy: &Issuer| {
        Verifier::new(
            &[Arc::new(policy.clone())],
            Some(&trust.verifier),
            &Handle::current(),
        )
    };
    let same = renew(&trust.policy);
    assert!(cache.verify(&same, trust.name(), &token, at(NOW)).is_ok());
    assert_eq!(cache.hits_and_misses(), (1, 1));
    let stricter = renew(&Issuer {
        audiences: vec!["billing".into()],
        ..trust.policy.clone()
    });
    assert_eq!(
        cache.verify(&stricter, trust.name(), &token, at(NOW)),
        Err(TokenError::Audience)
    );
}
