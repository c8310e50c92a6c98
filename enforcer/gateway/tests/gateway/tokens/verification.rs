//! Which tokens hold.

use enforcer_gateway::identity::token::{Binding, TokenError};
use enforcer_model::Profile;
use serde_json::{Value, json};

use crate::tokens::{
    issuer::{NOW, SigningKey, base64url, claims, key_set},
    trust::{Trust, at, with, without},
};

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
        assert_eq!(
            Value::Object(token.claims.clone()),
            json!({"client_id": "shop"}),
            "only what rules look at is kept"
        );
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
        with(claims(), "cnf", json!({"kid": "x"})),
        without(claims(), "scope"),
        without(claims(), "client_id"),
        without(claims(), "iat"),
        without(claims(), "jti"),
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
async fn the_profile_of_rfc_9068_demands_all_its_claims() {
    let key = SigningKey::es256("e");
    let trust = Trust::with_policy(&key_set(&[&key]), |policy| policy.profile = Profile::Rfc9068).await;
    let verify = |claims: &Value| trust.verify(&key.token(&key.header(), claims)).map(drop);
    assert_eq!(verify(&claims()), Ok(()));
    for name in ["iss", "exp", "aud", "sub", "client_id", "iat", "jti"] {
        let claims = without(claims(), name);
        assert_eq!(verify(&claims), Err(TokenError::Missing(name)), "{claims}");
    }
    for name in ["client_id", "jti"] {
        let empty = with(claims(), name, "");
        assert_eq!(verify(&empty), Err(TokenError::Invalid(name)), "{empty}");
    }
    // What stands for it elsewhere does not here.
    let other = with(without(claims(), "client_id"), "azp", "shop");
    assert_eq!(verify(&other), Err(TokenError::Missing("client_id")));
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
    assert_eq!(binding(json!({"jkt": thumbprint})), Ok(Binding::Key([7; 32])));
    assert_eq!(binding(json!({"jkt": 7})), Err(TokenError::Invalid("cnf")));
    assert_eq!(binding(json!({"kid": "1"})), Ok(Binding::Unsupported));
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
