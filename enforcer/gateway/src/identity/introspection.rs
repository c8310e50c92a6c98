//! Asking an issuer whether a token holds (RFC 7662): for tokens that only their issuer can read.
//!
//! An answer is kept for a while: that the token holds for as long as the policy says and never beyond
//! its `exp`, that it does not for less. Everybody who has the same token waits for the same question.
//! Questions are asked on the agent's own runtime, so that none is given up with the client that caused
//! it. Workers come here only with tokens that they do not have in their own
//! [`super::cache::TokenCache`], so that its lock is seldom taken.
//!
//! A token is asked about before anything is known of its client. So it must have the form of the issuer's tokens, a
//! source and the prefixes around it have a rate of tokens that are not known yet, and but a share of the places (see
//! [`Held::has_share`]), of which some are kept for sources that were verified lately. A question is held by the source
//! that caused it; who waits for it too holds nothing.

mod answers;
mod question;

use std::{
    collections::HashMap,
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
use crate::{levels::Held, sources::Budgets};
use enforcer_model::{Introspection, Issuer};

/// How many questions may be under way to one issuer.
const MOST_UNDER_WAY: usize = 256;
/// Of those, how many are kept for clients whose sources were verified lately.
const RESERVED: usize = 64;
/// How many answers of each kind are kept for one issuer. Good ones are kept if their claims are no heavier than
/// [`HEAVIEST`]; of others nothing but a hash is.
const MOST_ANSWERS: usize = 16_384;

/// What the subject of a token begins with that stands for no user but for a client.
const CLIENT: &str = "client:";

/// What came of a question.
type Outcome = Result<Arc<VerifiedToken>, TokenError>;
/// A token's keyed hash.
type Digest = [u8; 32];

/// For whom a token is asked about.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asker {
    /// The client's address.
    pub(crate) source: IpAddr,
    /// Somebody there was verified lately.
    pub(crate) known: bool,
}

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
    /// Tokens that are not known yet, by source. `None`: no limiter keeps the policy's rate, and nothing is asked.
    budgets: Option<Budgets>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    under_way: HashMap<Digest, watch::Receiver<Option<Outcome>>>,
    /// How many of them each source has caused.
    held: Held,
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
            budgets: Budgets::new(settings.rate, settings.burst()).ok(),
            state: Mutex::new(State {
                under_way: HashMap::new(),
                held: Held::default(),
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
    pub(super) async fn ask(&self, token: &str, client: Asker, now: SystemTime) -> Outcome {
        if token.len() > MAX_TOKEN {
            return Err(TokenError::TooLong);
        }
        if !self.0.settings.admits(token) {
            return Err(TokenError::Shape);
        }
        let digest = self.0.digest(token).ok_or(TokenError::NotIntrospected)?;
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
                    // One that has held before is not a stranger's guess.
                    let budgets = self.0.budgets.as_ref().ok_or(TokenError::NotIntrospected)?;
                    if !state.active.has(&digest) && !budgets.admit(client.source, client.known) {
                        return Err(TokenError::OverShare);
                    }
                    state.charge(client)?;
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
                source: client.source,
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
        state.held.remove(self.source);
    }
}

impl State {
    /// One more question of the client's source, if there is a place for it.
    fn charge(&mut self, client: Asker) -> Result<(), TokenError> {
        let kept = if client.known { 0 } else { RESERVED };
        let free = (MOST_UNDER_WAY - kept).saturating_sub(self.under_way.len());
        if free == 0 {
            return Err(TokenError::TooManyQuestions);
        }
        if !self.held.has_share(client.source, free) {
            return Err(TokenError::OverShare);
        }
        self.held.add(client.source);
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
    use enforcer_model::{CheckedBy, Dpop, Origin, Pattern, Profile};

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
                rate: "1000/s".parse().unwrap(),
                pattern: Some(Pattern::new(".+").unwrap()),
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

    /// Asks about one token after the other, all of them unknown. Nothing is run on the runtime, so that each question
    /// stays under way.
    struct Asking {
        introspector: Introspector,
        next: usize,
    }

    impl Asking {
        fn new(runtime: &tokio::runtime::Runtime, change: impl FnOnce(&mut Introspection)) -> Self {
            let issuer = Arc::new(issuer());
            let CheckedBy::Introspection(settings) = &issuer.checked_by else {
                unreachable!("it is asked")
            };
            let mut settings = settings.clone();
            change(&mut settings);
            Self {
                introspector: Introspector::new(&issuer, &settings, runtime.handle()),
                next: 0,
            }
        }

        fn ask(&self, token: &str, source: &str, known: bool) -> Option<Outcome> {
            let source = source.parse().unwrap();
            let client = Asker { source, known };
            self.introspector
                .ask(token, client, SystemTime::now())
                .now_or_never()
        }

        /// How many questions of `source` are taken, and why the next is not.
        fn takes(&mut self, source: &str, known: bool) -> (usize, TokenError) {
            for taken in 0..=MOST_UNDER_WAY {
                self.next += 1;
                if let Some(refused) = self.ask(&format!("t{}", self.next), source, known) {
                    return (taken, refused.unwrap_err());
                }
            }
            panic!("more than there are places")
        }

        fn under_way(&self) -> usize {
            self.introspector.0.state().under_way.len()
        }
    }

    #[test]
    fn no_source_has_all_places_and_none_is_left_behind() {
        let runtime = Builder::new_current_thread().build().unwrap();
        let mut asking = Asking::new(&runtime, |_| {});
        let most = (MOST_UNDER_WAY - RESERVED) / 8;
        assert_eq!(asking.takes("192.0.2.1", false), (most, TokenError::OverShare));
        assert_eq!(
            asking.takes("::ffff:192.0.2.1", false),
            (0, TokenError::OverShare)
        );
        let left = (MOST_UNDER_WAY - RESERVED - most) / 8;
        assert_eq!(
            asking.takes("2001:db8::1", false),
            (left, TokenError::OverShare),
            "of what the first left"
        );
        let before = asking.under_way();
        assert_eq!(
            asking.ask("t1", "2001:db8:9::1", false),
            None,
            "who waits for another's holds nothing"
        );
        assert_eq!(asking.under_way(), before);

        drop(runtime);
        assert_eq!(
            asking.ask("t1", "192.0.2.1", false),
            Some(Err(TokenError::NotIntrospected)),
            "what is dropped has no answer"
        );
        let state = asking.introspector.0.state();
        assert!(state.held.is_empty() && state.under_way.is_empty());
    }

    #[test]
    fn m8_a_48_does_not_take_all_places_and_some_are_kept_for_verified_sources() {
        let runtime = Builder::new_current_thread().build().unwrap();
        let mut asking = Asking::new(&runtime, |_| {});
        let mut taken = 0;
        for network in 0..1_024 {
            taken += asking.takes(&format!("2001:db8:0:{network:x}::1"), false).0;
        }
        assert!(taken <= (MOST_UNDER_WAY - RESERVED) / 2, "{taken}");
        assert!(
            asking.takes("198.51.100.1", false).0 > 0,
            "a stranger from elsewhere"
        );
        for owner in 1..200 {
            for network in 0..64 {
                asking.takes(&format!("2001:db8:{owner:x}:{network:x}::1"), false);
            }
        }
        assert_eq!(
            asking.under_way(),
            MOST_UNDER_WAY - RESERVED,
            "many owners have the rest"
        );
        assert_eq!(
            asking.takes("203.0.113.1", false),
            (0, TokenError::TooManyQuestions)
        );
        assert!(asking.takes("203.0.113.1", true).0 > 0, "who was verified lately");
    }

    #[test]
    fn m8_unknown_tokens_have_a_rate_of_their_own_and_a_form() {
        let runtime = Builder::new_current_thread().build().unwrap();
        let mut asking = Asking::new(&runtime, |settings| {
            settings.rate = "3/h".parse().unwrap();
            settings.pattern = None;
        });
        let token = |n: usize| format!("opaque-token-{n:08}");
        for n in 0..3 {
            assert_eq!(asking.ask(&token(n), "192.0.2.1", false), None);
        }
        let refused = asking.ask(&token(3), "192.0.2.1", false);
        assert_eq!(refused, Some(Err(TokenError::OverShare)));
        assert_eq!(
            asking.ask(&token(2), "192.0.2.1", false),
            None,
            "it is asked about already"
        );
        assert_eq!(
            asking.ask(&token(4), "198.51.100.1", false),
            None,
            "another source"
        );
        assert_eq!(
            asking.takes("198.51.100.2", false),
            (0, TokenError::Shape),
            "a short token is not asked about"
        );
        let runtime = Builder::new_current_thread().build().unwrap();
        let asking = Asking::new(&runtime, |settings| {
            settings.pattern = Some(Pattern::new("at_[a-z]{4}").unwrap());
        });
        assert_eq!(asking.ask("at_abcd", "192.0.2.1", false), None);
        let refused = asking.ask("at_abcde", "192.0.2.1", false);
        assert_eq!(
            refused,
            Some(Err(TokenError::Shape)),
            "the pattern is about all of it"
        );
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
