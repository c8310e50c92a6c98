//! The credentials that a connection sends again with each of its requests: the same bytes as before cost a
//! comparison instead of a hash.
//!
//! Only the comparison is saved on. Whether issuer, policy and keys are still those by which the token was verified,
//! whether it has expired, is bound or is revoked is looked at for every request.
//!
//! What is remembered is a copy, since the field itself would keep the buffer that it was read into for as long as the
//! connection is idle. It is made when a token comes for the second time in a row, and connections with the same
//! credentials share it by way of the worker's [`super::cache::TokenCache`].

use std::{
    cell::{Ref, RefCell},
    sync::Arc,
    time::SystemTime,
};

use super::{
    bearer::{Offered, Scheme},
    token::VerifiedToken,
    verifier::Circumstances,
};
use enforcer_model::Name;

/// The longest field that is remembered, in bytes: as much as a connection may keep in memory by it.
const LONGEST: usize = 4 * 1024;

/// What a connection has sent, and what it was verified to be.
pub(crate) struct Accepted {
    /// The whole value of the `Authorization` field, which ends with the token.
    field: Box<str>,
    /// Where the token begins.
    start: usize,
    scheme: Scheme,
    circumstances: Circumstances,
    token: Arc<VerifiedToken>,
}

/// What a connection remembers of its last request with a token.
#[derive(Default)]
pub(crate) struct Repeated(RefCell<Last>);

#[derive(Default)]
enum Last {
    #[default]
    Nothing,
    /// Verified, not in a row with the same.
    Once(Arc<VerifiedToken>),
    Accepted(Arc<Accepted>),
}

impl Accepted {
    /// `None` if that is too long to be remembered. `field` ends with the token that was `offered`.
    pub(super) fn new(
        field: &[u8],
        offered: &Offered<'_>,
        circumstances: Circumstances,
        token: &Arc<VerifiedToken>,
    ) -> Option<Self> {
        if field.len() > LONGEST {
            return None;
        }
        Some(Self {
            field: str::from_utf8(field).ok()?.into(),
            start: field.len().checked_sub(offered.token.len())?,
            scheme: offered.scheme,
            circumstances,
            token: Arc::clone(token),
        })
    }

    /// As it was sent.
    pub(crate) fn offered(&self) -> Offered<'_> {
        Offered {
            scheme: self.scheme,
            token: &self.field[self.start..],
        }
    }

    /// What the token says.
    pub(crate) fn token(&self) -> &Arc<VerifiedToken> {
        &self.token
    }

    /// Whether `field` is the same in every byte, and was verified to be `token` under these circumstances.
    pub(super) fn is(&self, field: &[u8], circumstances: Circumstances, token: &Arc<VerifiedToken>) -> bool {
        self.circumstances == circumstances && Arc::ptr_eq(&self.token, token) && self.has(field)
    }

    fn has(&self, field: &[u8]) -> bool {
        same(self.field.as_bytes(), field)
    }
}

/// Looks at every byte, so that the time says nothing about where two fields differ, and many at once.
fn same(one: &[u8], other: &[u8]) -> bool {
    one.len() == other.len() && one.iter().zip(other).fold(0, |seen, (a, b)| seen | (a ^ b)) == 0
}

impl Repeated {
    /// What was remembered, if `field` is the same again, `issuer` would verify it under the same circumstances, and
    /// the token has not expired.
    pub(super) fn recall(
        &self,
        issuer: &Name,
        circumstances: Circumstances,
        field: &[u8],
        now: SystemTime,
    ) -> Option<Ref<'_, Accepted>> {
        let holds = |accepted: &Accepted| {
            accepted.circumstances == circumstances
                && accepted.token.issuer == *issuer
                && now < accepted.token.expires
                && accepted.has(field)
        };
        Ref::filter_map(self.0.borrow(), |last| match last {
            Last::Accepted(accepted) if holds(accepted) => Some(&**accepted),
            _ => None,
        })
        .ok()
    }

    /// The connection has sent what was verified to be `token`. What is remembered of that, which `accepted` makes, is
    /// of use only if it was the same the last time: requests with several tokens in turn would make it for nothing.
    pub(super) fn note(&self, token: &Arc<VerifiedToken>, accepted: impl FnOnce() -> Option<Arc<Accepted>>) {
        let mut last = self.0.borrow_mut();
        let is_again = match &*last {
            Last::Nothing => false,
            Last::Once(before) => Arc::ptr_eq(before, token),
            Last::Accepted(before) => Arc::ptr_eq(&before.token, token),
        };
        *last = match is_again.then(accepted).flatten() {
            Some(accepted) => Last::Accepted(accepted),
            None => Last::Once(Arc::clone(token)),
        };
    }
}

/// Shows no token.
impl std::fmt::Debug for Accepted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Accepted")
            .field("scheme", &self.scheme)
            .field("circumstances", &self.circumstances)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::Map;

    use super::{
        super::{bearer, scope::Scopes, token::Binding},
        *,
    };

    fn token(issuer: &str, expires: SystemTime) -> Arc<VerifiedToken> {
        Arc::new(VerifiedToken {
            issuer: issuer.parse().unwrap(),
            subject: "alice".into(),
            client_id: None,
            scopes: Scopes::default(),
            expires,
            holds_until: Some(expires),
            id: None,
            binding: Binding::Bearer,
            tier: None,
            claims: Map::new(),
        })
    }

    fn accepted(field: &str, circumstances: Circumstances, token: &Arc<VerifiedToken>) -> Arc<Accepted> {
        let offered = bearer::token(field.as_bytes()).unwrap().unwrap();
        let accepted = Accepted::new(field.as_bytes(), &offered, circumstances, token);
        Arc::new(accepted.unwrap())
    }

    const FIELD: &str = "Bearer  a.b.c";
    const HERE: Circumstances = Circumstances {
        epoch: 1,
        generation: Some(7),
    };

    #[test]
    fn what_is_recalled_is_the_same_under_the_same_circumstances_until_it_expires() {
        let now = SystemTime::now();
        let token = token("corp", now + Duration::from_secs(5));
        let repeated = Repeated::default();
        let recalled = |issuer: &str, circumstances, field: &str, seconds| {
            let now = now + Duration::from_secs(seconds);
            repeated
                .recall(&issuer.parse().unwrap(), circumstances, field.as_bytes(), now)
                .is_some()
        };
        repeated.note(&token, || panic!("it is the first time"));
        assert!(!recalled("corp", HERE, FIELD, 0));
        repeated.note(&token, || Some(accepted(FIELD, HERE, &token)));
        assert!(recalled("corp", HERE, FIELD, 0));
        assert!(recalled("corp", HERE, FIELD, 4));
        assert!(!recalled("corp", HERE, FIELD, 5), "it has expired");
        assert!(!recalled("other", HERE, FIELD, 0));
        let elsewhere = [(2, Some(7)), (1, Some(8)), (1, None)];
        for (epoch, generation) in elsewhere {
            let circumstances = Circumstances { epoch, generation };
            assert!(!recalled("corp", circumstances, FIELD, 0), "{circumstances:?}");
        }
        for other in [
            "Bearer  a.b.d",
            "bearer  a.b.c",
            "Bearer a.b.c",
            "Bearer  a.b.c=",
            "",
        ] {
            assert!(!recalled("corp", HERE, other, 0), "{other}");
        }
        let offered = accepted(FIELD, HERE, &token);
        assert_eq!(offered.offered().token, "a.b.c");
    }

    #[test]
    fn tokens_that_come_in_turn_are_not_remembered() {
        let end = SystemTime::now() + Duration::from_secs(5);
        let [one, other] = [token("corp", end), token("corp", end)];
        let repeated = Repeated::default();
        for token in [&one, &other, &one, &other] {
            repeated.note(token, || panic!("another came between"));
        }
        repeated.note(&other, || Some(accepted(FIELD, HERE, &other)));
        repeated.note(&one, || panic!("another came between"));
    }

    #[test]
    fn a_long_field_is_not_remembered() {
        let token = token("corp", SystemTime::now());
        let field = format!("Bearer {}", "a".repeat(LONGEST));
        let offered = bearer::token(field.as_bytes()).unwrap().unwrap();
        assert!(Accepted::new(field.as_bytes(), &offered, HERE, &token).is_none());
    }

    #[test]
    fn one_other_byte_or_length_is_another_field() {
        let field: Vec<u8> = (0..=u8::MAX).cycle().take(1000).collect();
        assert!(same(&field, &field.clone()));
        assert!(same(b"", b""));
        for place in 0..field.len() {
            for bit in [0x01, 0x20, 0x80] {
                let mut other = field.clone();
                other[place] ^= bit;
                assert!(!same(&field, &other), "{place} {bit}");
            }
            assert!(!same(&field, &field[..place]), "{place}");
            assert!(!same(&field[..place], &field), "{place}");
        }
    }
}
