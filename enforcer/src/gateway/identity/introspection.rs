//! Asking an issuer whether a token holds (RFC 7662): for tokens that only their issuer can read.
//!
//! An answer is kept for a while: that the token holds for as long as the policy says and never beyond
//! its `exp`, that it does not for less. Everybody who has the same token waits for the same question.
//! Questions are asked on the agent's own runtime, so that none is given up with the client that caused
//! it. Workers come here only with tokens that they do not have in their own
//! [`super::cache::TokenCache`], so that its lock is seldom taken.
//!
//! A token is asked about before anything is known of its client, so a source has but a share of the places: as
//! with used proofs ([`super::dpop`]), whoever holds a seventh as many as are free gets no more. A question is
//! held by the source that caused it; who waits for it too holds nothing.

mod answers;
mod question;

use std::{
    collections::{HashMap, hash_map::Entry},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use aws_lc_rs::{
    digest::{Context, SHA256},
    rand,
};
use serde_json::{Map, Value};
use tokio::{runtime::Handle, sync::watch};

use self::{answers::Answers, question::Questioner};
use super::{
    cache::HEAVIEST,
    claims, kept,
    token::{Binding, MAX_TOKEN, TokenError, VerifiedToken},
};
use crate::{
    gateway::limit::key::source_prefix,
    policy::model::{Introspection, Issuer},
};

/// How many questions may be under way to one issuer.
const MOST_UNDER_WAY: usize = 256;
/// So many free places there must be for each one that a source has.
const FREE_FOR_EACH: usize = 7;
/// How many answers of each kind are kept for one issuer. Good ones are kept if their claims are no heavier than
/// [`HEAVIEST`]; of others nothing but a hash is.
const MOST_ANSWERS: usize = 16_384;

/// What the subject of a token begins with that stands for no user but for a client.
const CLIENT: &str = "client:";

/// What came of a question.
type Outcome = Result<Arc<VerifiedToken>, TokenError>;
/// A token's keyed hash.
type Digest = [u8; 32];

/// Asks one issuer about tokens.
#[derive(Debug)]
pub(super) struct Introspector(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    issuer: Arc<Issuer>,
    settings: Introspection,
    runtime: Handle,
    /// `None`: the system had no randomness, and nothing is asked.
    secret: Option<[u8; 32]>,
    questioner: Questioner,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    under_way: HashMap<Digest, watch::Receiver<Option<Outcome>>>,
    /// How many of them each source has caused.
    held: HashMap<IpAddr, usize>,
    active: Answers<Arc<VerifiedToken>>,
    refused: Answers<TokenError>,
}

/// A question's place among those under way, until it ends or is dropped.
#[derive(Debug)]
struct Place {
    shared: Arc<Shared>,
    digest: Digest,
    source: IpAddr,
}

impl Introspector {
    /// Asks as `settings` of `issuer` say, on `runtime`.
    pub(super) fn new(issuer: &Arc<Issuer>, settings: &Introspection, runtime: &Handle) -> Self {
        let mut secret = [0; 32];
        Self(Arc::new(Shared {
            issuer: Arc::clone(issuer),
            settings: settings.clone(),
            runtime: runtime.clone(),
            secret: rand::fill(&mut secret).is_ok().then_some(secret),
            questioner: Questioner::default(),
            state: Mutex::new(State {
                under_way: HashMap::new(),
                held: HashMap::new(),
                active: Answers::new(MOST_ANSWERS),
                refused: Answers::new(MOST_ANSWERS),
            }),
        }))
    }

    /// Whether this asks as `settings` say.
    pub(super) fn asks(&self, settings: &Introspection) -> bool {
        self.0.settings == *settings
    }

    /// What the issuer says about `token` of a client at `source`, or has said lately. Waits for `timeout` of
    /// the policy at most.
    ///
    /// # Errors
    /// Why the token does not hold, or that the issuer cannot be asked.
    pub(super) async fn ask(&self, token: &str, source: IpAddr, now: SystemTime) -> Outcome {
        if token.len() > MAX_TOKEN {
            return Err(TokenError::TooLong);
        }
        let digest = self.0.digest(token).ok_or(TokenError::NotIntrospected)?;
        let source = source_prefix(source);
        let (mut asked, begun) = {
            let mut state = self.0.state();
            if let Some(token) = state.active.get(&digest, now) {
                return Ok(token);
            }
            if let Some(error) = state.refused.get(&digest, now) {
                return Err(error);
            }
            match state.under_way.get(&digest) {
                Some(asked) => (asked.clone(), None),
                None => {
                    state.charge(source)?;
                    let (answer, asked) = watch::channel(None);
                    state.under_way.insert(digest, asked.clone());
                    (asked, Some(answer))
                }
            }
        };
        if let Some(answer) = begun {
            let place = Place {
                shared: Arc::clone(&self.0),
                digest,
                source,
            };
            // Without the lock, which the place takes at once if the runtime has ended.
            self.0.runtime.spawn(place.question(token.to_owned(), answer));
        }
        let answered = asked.wait_for(Option::is_some).await;
        // Without an answer only if the agent's runtime ends.
        answered
            .ok()
            .and_then(|outcome| outcome.clone())
            .unwrap_or(Err(TokenError::NotIntrospected))
    }
}

impl Place {
    async fn question(self, token: String, answer: watch::Sender<Option<Outcome>>) {
        let (shared, digest) = (&self.shared, self.digest);
        let told = shared.questioner.ask(&shared.settings, &token).await;
        let now = SystemTime::now();
        let outcome = match told {
            Ok(claims) => judge(claims, &shared.issuer, shared.settings.cache, now).map(Arc::new),
            Err(error) => {
                tracing::warn!(issuer = %shared.issuer.name, %error, "the issuer cannot be asked about tokens");
                Err(TokenError::NotIntrospected)
            }
        };
        let mut state = shared.state();
        match &outcome {
            Ok(token) if kept::weight(&token.claims) > HEAVIEST => {}
            Ok(token) => state.active.keep(digest, Arc::clone(token), token.expires, now),
            Err(error) if error.is_clients() => {
                let until = now + shared.settings.negative_cache;
                state.refused.keep(digest, *error, until, now);
            }
            // Who asks next asks anew.
            Err(_) => {}
        }
        drop(state);
        drop(self);
        answer.send_replace(Some(outcome));
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        state.under_way.remove(&self.digest);
        if let Entry::Occupied(mut held) = state.held.entry(self.source) {
            *held.get_mut() -= 1;
            if *held.get() == 0 {
                held.remove();
            }
        }
    }
}

impl State {
    /// One more question of `source`, if there is a place for it.
    fn charge(&mut self, source: IpAddr) -> Result<(), TokenError> {
        let free = MOST_UNDER_WAY.saturating_sub(self.under_way.len());
        if free == 0 {
            return Err(TokenError::TooManyQuestions);
        }
        let held = self.held.get(&source).copied().unwrap_or(0);
        // The first is always taken while there is a place.
        if held > 0 && held * FREE_FOR_EACH >= free {
            return Err(TokenError::OverShare);
        }
        self.held.insert(source, held + 1);
        Ok(())
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn digest(&self, token: &str) -> Option<Digest> {
        let mut context = Context::new(&SHA256);
        context.update(self.secret.as_ref()?);
        context.update(token.as_bytes());
        context.finish().as_ref().try_into().ok()
    }
}

/// The token that an answer (RFC 7662, section 2.2) tells of, which holds no longer than `cache` and its
/// `exp`. What the answer has is checked as a JWT's claims are; the issuer need not repeat its own name,
/// an end, or a subject beside the client. Then the client is the subject, as [`CLIENT`] and its name: a client that is
/// called like a user is another, so no user's subject may begin like that. An issuer that calls the token `DPoP` has to say by `cnf` to which
/// key it is bound (RFC 9449, section 6.2): without that, anybody who has read the token could use it.
fn judge(
    mut answer: Map<String, Value>,
    issuer: &Issuer,
    cache: Duration,
    now: SystemTime,
) -> Result<VerifiedToken, TokenError> {
    if answer.get("active") != Some(&Value::Bool(true)) {
        return Err(TokenError::Inactive);
    }
    let until = now + cache;
    let own_end = until
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    answer.entry("iss").or_insert_with(|| (*issuer.issuer).into());
    let has_end = answer.contains_key("exp");
    answer.entry("exp").or_insert_with(|| own_end.into());
    match (answer.get("sub"), answer.get("client_id")) {
        (Some(Value::String(subject)), _) if subject.starts_with(CLIENT) => {
            return Err(TokenError::Invalid("sub"));
        }
        (None, Some(Value::String(client))) if !client.is_empty() => {
            let subject = format!("{CLIENT}{client}");
            answer.insert("sub".to_owned(), subject.into());
        }
        _ => {}
    }
    let wants_key = match answer.get("token_type") {
        None => false,
        Some(Value::String(kind)) => kind.eq_ignore_ascii_case("DPoP"),
        Some(_) => return Err(TokenError::Invalid("token_type")),
    };
    let token = claims::check(&answer, issuer, now)?;
    if wants_key && !matches!(token.binding, Binding::Key(_)) {
        return Err(TokenError::Missing("cnf.jkt"));
    }
    Ok(VerifiedToken {
        expires: token.expires.min(until),
        holds_until: token.holds_until.filter(|_| has_end),
        ..token
    })
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use serde_json::json;
    use tokio::runtime::Builder;

    use super::*;
    use crate::policy::model::{CheckedBy, Dpop, Origin, Profile};

    fn issuer() -> Issuer {
        Issuer {
            name: "corp".parse().unwrap(),
            origin: Origin {
                file: "corp.yaml".into(),
                line: 3,
            },
            issuer: "https://idp.example.com".into(),
            checked_by: CheckedBy::Introspection(Introspection {
                url: "https://idp.example.com/introspect".parse().unwrap(),
                ca: None,
                client_id: "gateway".into(),
                secret_file: "secret".into(),
                cache: Duration::from_secs(60),
                negative_cache: Duration::from_secs(5),
                timeout: Duration::from_secs(2),
            }),
            audiences: vec!["orders".into()],
            algorithms: Vec::new(),
            types: Vec::new(),
            profile: Profile::default(),
            leeway: Duration::from_secs(30),
            tier: None,
            kept: Vec::new(),
            dpop: Dpop::default(),
        }
    }

    #[test]
    fn no_source_has_all_places_and_none_is_left_behind() {
        // Nothing is run on it, so that each question stays under way.
        let runtime = Builder::new_current_thread().build().unwrap();
        let issuer = Arc::new(issuer());
        let CheckedBy::Introspection(settings) = &issuer.checked_by else {
            unreachable!("it is asked")
        };
        let introspector = Introspector::new(&issuer, settings, runtime.handle());
        let ask = |token: &str, source: &str| {
            let source = source.parse().unwrap();
            introspector.ask(token, source, SystemTime::now()).now_or_never()
        };
        let mut next = 0;
        let mut refused = |source: &str| {
            next += 1;
            ask(&format!("t{next}"), source).map(Result::unwrap_err)
        };
        let mut takes = |source: &str| {
            let taken = (0..=MOST_UNDER_WAY).find(|_| refused(source).is_some());
            (taken.unwrap(), refused(source).unwrap())
        };
        let most = MOST_UNDER_WAY / 8;
        assert_eq!(takes("192.0.2.1"), (most, TokenError::OverShare));
        assert_eq!(takes("::ffff:192.0.2.1"), (0, TokenError::OverShare));
        let left = (MOST_UNDER_WAY - most) / 8;
        assert_eq!(
            takes("2001:db8::1"),
            (left, TokenError::OverShare),
            "of what the first left"
        );
        assert_eq!(
            takes("2001:db8::2"),
            (0, TokenError::OverShare),
            "one /64 is one source"
        );
        let full = (1..=MOST_UNDER_WAY).find(|other| {
            let (taken, error) = takes(&format!("2001:db8:1:{other:x}::1"));
            assert!(taken > 0, "there is always a place for another source's first");
            error == TokenError::TooManyQuestions
        });
        assert!(full.is_some_and(|sources| sources > 20), "{full:?}");
        let held = || introspector.0.state().held.values().sum::<usize>();
        assert_eq!(held(), MOST_UNDER_WAY);
        assert_eq!(
            ask("t1", "2001:db8::1"),
            None,
            "who waits for another's holds nothing"
        );
        assert_eq!(held(), MOST_UNDER_WAY);

        drop(runtime);
        assert_eq!(
            ask("t1", "192.0.2.1"),
            Some(Err(TokenError::NotIntrospected)),
            "what is dropped has no answer"
        );
        let state = introspector.0.state();
        assert!(state.held.is_empty() && state.under_way.is_empty());
    }

    fn told(answer: &Value) -> Result<(Arc<str>, u64), TokenError> {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        let answer = answer.as_object().unwrap().clone();
        let token = judge(answer, &issuer(), Duration::from_secs(60), now)?;
        let expires = token.expires.duration_since(SystemTime::UNIX_EPOCH).unwrap();
        Ok((token.subject, expires.as_secs()))
    }

    #[test]
    fn m5_a_client_is_not_the_user_who_is_called_like_it() {
        let token = |more: Value| {
            let mut answer = json!({"active": true, "aud": "orders"});
            answer
                .as_object_mut()
                .unwrap()
                .extend(more.as_object().unwrap().clone());
            told(&answer).map(|(subject, _)| subject)
        };
        let user = token(json!({"sub": "alice", "client_id": "web"})).unwrap();
        let client = token(json!({"client_id": "alice"})).unwrap();
        assert_eq!(&*user, "alice");
        assert_eq!(&*client, "client:alice");
        let imitates = token(json!({"sub": "client:alice", "client_id": "web"}));
        assert_eq!(imitates, Err(TokenError::Invalid("sub")));
        for client in [json!(""), json!(7), json!(null)] {
            assert!(token(json!({"client_id": client})).is_err(), "{client}");
        }
    }

    #[test]
    fn answers_hold_no_longer_than_the_policy_and_the_token_say() {
        for (answer, expected) in [
            (
                json!({"active": true, "aud": "orders", "sub": "alice"}),
                ("alice", 1060),
            ),
            (
                json!({"active": true, "aud": "orders", "client_id": "web"}),
                ("client:web", 1060),
            ),
            (
                json!({"active": true, "aud": ["orders"], "sub": "alice", "exp": 1010}),
                ("alice", 1010),
            ),
            (
                json!({
                    "active": true, "aud": "orders", "sub": "alice", "exp": 9999,
                    "iss": "https://idp.example.com",
                }),
                ("alice", 1060),
            ),
            (
                json!({"active": true, "aud": "orders", "sub": "alice", "token_type": "Bearer"}),
                ("alice", 1060),
            ),
            (
                json!({
                    "active": true, "aud": "orders", "sub": "alice", "token_type": "DPoP",
                    "cnf": {"jkt": "A".repeat(43)},
                }),
                ("alice", 1060),
            ),
        ] {
            assert_eq!(told(&answer), Ok((expected.0.into(), expected.1)), "{answer}");
        }
    }

    #[test]
    fn answers_that_do_not_say_yes_are_a_no() {
        for (answer, error) in [
            (json!({}), TokenError::Inactive),
            (
                json!({"active": false, "aud": "orders", "sub": "a"}),
                TokenError::Inactive,
            ),
            (
                json!({"active": "true", "aud": "orders", "sub": "a"}),
                TokenError::Inactive,
            ),
            (
                json!({"active": 1, "aud": "orders", "sub": "a"}),
                TokenError::Inactive,
            ),
            (json!({"active": true, "sub": "a"}), TokenError::Missing("aud")),
            (
                json!({"active": true, "aud": "orders"}),
                TokenError::Missing("sub"),
            ),
            (
                json!({"active": true, "aud": "billing", "sub": "a"}),
                TokenError::Audience,
            ),
            (
                json!({"active": true, "aud": "orders", "sub": "a", "iss": "https://evil.example"}),
                TokenError::Issuer,
            ),
            (
                json!({"active": true, "aud": "orders", "sub": "a", "exp": 900}),
                TokenError::Expired,
            ),
            (
                json!({"active": true, "aud": "orders", "sub": "a", "nbf": 1100}),
                TokenError::NotYetValid,
            ),
            (
                json!({"active": true, "aud": "orders", "sub": "a", "token_type": "DPoP"}),
                TokenError::Missing("cnf.jkt"),
            ),
            (
                json!({
                    "active": true, "aud": "orders", "sub": "a", "token_type": "dpop",
                    "cnf": {"x5t#S256": "A".repeat(43)},
                }),
                TokenError::Missing("cnf.jkt"),
            ),
            (
                json!({"active": true, "aud": "orders", "sub": "a", "token_type": ["DPoP"]}),
                TokenError::Invalid("token_type"),
            ),
        ] {
            assert_eq!(told(&answer), Err(error), "{answer}");
        }
    }
}
