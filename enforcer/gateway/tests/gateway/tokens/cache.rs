//! When a token is verified anew.

use std::{cell::RefCell, fs, net::Ipv4Addr, sync::Arc};

use enforcer_gateway::identity::{
    cache::TokenCache,
    token::{TokenError, VerifiedToken},
    verifier::Verifier,
};
use enforcer_model::Issuer;
use tokio::runtime::Handle;

use crate::tokens::{
    issuer::{NOW, SigningKey, claims},
    trust::{Trust, at, with},
};

/// A worker's cache.
struct Cache(RefCell<TokenCache>);

impl Cache {
    fn new(capacity: usize) -> Self {
        Self(RefCell::new(TokenCache::new(capacity).unwrap()))
    }

    async fn verify(
        &self,
        verifier: &Verifier,
        trust: &Trust,
        token: &str,
        seconds: u64,
    ) -> Result<Arc<VerifiedToken>, TokenError> {
        let source = Ipv4Addr::LOCALHOST.into();
        verifier
            .verify_or_refresh(&self.0, trust.name(), token, source, at(seconds))
            .await
    }

    fn hits_and_misses(&self) -> (u64, u64) {
        self.0.borrow().hits_and_misses()
    }
}

#[tokio::test]
async fn the_cache_saves_signatures_and_forgets_in_time() {
    let key = SigningKey::es256("e");
    let trust = Trust::in_keys(&[&key]).await;
    let cache = Cache::new(16);
    let verify = async |token: &str, seconds| {
        let result = cache.verify(&trust.verifier, &trust, token, seconds).await;
        (result.map(|_| ()), cache.hits_and_misses())
    };
    let token = key.good_token();
    assert_eq!(verify(&token, NOW).await, (Ok(()), (0, 1)));
    assert_eq!(verify(&token, NOW + 299).await, (Ok(()), (1, 1)));
    assert_eq!(
        verify(&token, NOW + 300).await,
        (Ok(()), (1, 2)),
        "in the leeway it is verified each time"
    );
    assert_eq!(
        verify(&token, NOW + 330).await,
        (Err(TokenError::Expired), (1, 3))
    );
    let (message, signature) = token.rsplit_once('.').unwrap();
    let first = if signature.starts_with('A') { 'B' } else { 'A' };
    let tampered = format!("{message}.{first}{}", &signature[1..]);
    assert_eq!(verify(&tampered, NOW).await, (Err(TokenError::Signature), (1, 4)));
}

#[tokio::test]
async fn the_cache_is_bounded_and_keeps_what_is_used() {
    let key = SigningKey::eddsa("d");
    let trust = Trust::in_keys(&[&key]).await;
    let cache = Cache::new(4);
    let verify = async |subject: u32| {
        let token = key.token(&key.header(), &with(claims(), "sub", subject.to_string()));
        let token = cache.verify(&trust.verifier, &trust, &token, NOW).await.unwrap();
        assert_eq!(*token.subject, subject.to_string());
        cache.hits_and_misses()
    };
    for subject in 0..4 {
        verify(subject).await;
    }
    assert_eq!(verify(0).await, (1, 4));
    assert_eq!(
        verify(4).await,
        (1, 5),
        "takes the place of 1, the least recently used"
    );
    assert_eq!(verify(0).await, (2, 5));
    assert_eq!(verify(2).await, (3, 5));
    assert_eq!(verify(3).await, (4, 5));
    assert_eq!(verify(1).await, (4, 6));
}

#[tokio::test]
async fn a_new_policy_keeps_keys_and_judges_cached_tokens_anew() {
    let key = SigningKey::es256("e");
    let trust = Trust::in_keys(&[&key]).await;
    let cache = Cache::new(16);
    let token = key.good_token();
    cache.verify(&trust.verifier, &trust, &token, NOW).await.unwrap();
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
    assert!(cache.verify(&same, &trust, &token, NOW).await.is_ok());
    assert_eq!(cache.hits_and_misses(), (1, 1));
    let stricter = renew(&Issuer {
        audiences: vec!["billing".into()],
        ..trust.policy.clone()
    });
    assert_eq!(
        cache.verify(&stricter, &trust, &token, NOW).await,
        Err(TokenError::Audience)
    );
}
