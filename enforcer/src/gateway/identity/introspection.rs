//! Asking an issuer whether a token holds (RFC 7662): for tokens that only their issuer can read.
//!
//! An answer is kept for a while: that the token holds for as long as the policy says and never beyond
//! its `exp`, that it does not for less. Everybody who has the same token waits for the same question.
//! Questions are asked on the agent's own runtime, so that none is given up with the client that caused
//! it. Workers come here only with tokens that they do not have in their own
//! [`super::cache::TokenCache`], so that its lock is seldom taken.

mod answers;
mod question;

use std::{
    collections::HashMap,
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
use crate::policy::model::{Introspection, Issuer};

/// How many questions may be under way to one issuer.
const MOST_UNDER_WAY: usize = 256;
/// How many answers of each kind are kept for one issuer. Good ones are kept if their claims are no heavier than
/// [`HEAVIEST`]; of others nothing but a hash is.
const MOST_ANSWERS: usize = 16_384;

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
    active: Answers<Arc<VerifiedToken>>,
    refused: Answers<TokenError>,
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
                active: Answers::new(MOST_ANSWERS),
                refused: Answers::new(MOST_ANSWERS),
            }),
        }))
    }

    /// Whether this asks as `settings` say.
    pub(super) fn asks(&self, settings: &Introspection) -> bool {
        self.0.settings == *settings
    }

    /// What the issuer says about `token`, or has said lately. Waits for `timeout` of the policy at most.
    ///
    /// # Errors
    /// Why the token does not hold, or that the issuer cannot be asked.
    pub(super) async fn ask(&self, token: &str, now: SystemTime) -> Outcome {
        if token.len() > MAX_TOKEN {
            return Err(TokenError::TooLong);
        }
        let digest = self.0.digest(token).ok_or(TokenError::NotIntrospected)?;
        let mut asked = {
            let mut state = self.0.state();
            if let Some(token) = state.active.get(&digest, now) {
                return Ok(token);
            }
            if let Some(error) = state.refused.get(&digest, now) {
                return Err(error);
            }
            match state.under_way.get(&digest) {
                Some(asked) => asked.clone(),
                None if state.under_way.len() >= MOST_UNDER_WAY => return Err(TokenError::TooManyQuestions),
                None => {
                    let (answer, asked) = watch::channel(None);
                    state.under_way.insert(digest, asked.clone());
                    let question = Arc::clone(&self.0).question(digest, token.to_owned(), answer);
                    self.0.runtime.spawn(question);
                    asked
                }
            }
        };
        let answered = asked.wait_for(Option::is_some).await;
        // Without an answer only if the agent's runtime ends.
        answered
            .ok()
            .and_then(|outcome| outcome.clone())
            .unwrap_or(Err(TokenError::NotIntrospected))
    }
}

impl Shared {
    async fn question(
        self: Arc<Self>,
        digest: Digest,
        token: String,
        answer: watch::Sender<Option<Outcome>>,
    ) {
        let told = self.questioner.ask(&self.settings, &token).await;
        let now = SystemTime::now();
        let outcome = match told {
            Ok(claims) => judge(claims, &self.issuer, self.settings.cache, now).map(Arc::new),
            Err(error) => {
                tracing::warn!(issuer = %self.issuer.name, %error, "the issuer cannot be asked about tokens");
                Err(TokenError::NotIntrospected)
            }
        };
        let mut state = self.state();
        match &outcome {
            Ok(token) if kept::weight(&token.claims) > HEAVIEST => {}
            Ok(token) => state.active.keep(digest, Arc::clone(token), token.expires, now),
            Err(error) if error.is_clients() => {
                let until = now + self.settings.negative_cache;
                state.refused.keep(digest, *error, until, now);
            }
            // Who asks next asks anew.
            Err(_) => {}
        }
        state.under_way.remove(&digest);
        drop(state);
        answer.send_replace(Some(outcome));
    }

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
/// an end, or a subject beside the client. An issuer that calls the token `DPoP` has to say by `cnf` to which
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
    if let Some(client) = answer.get("client_id").cloned() {
        answer.entry("sub").or_insert(client);
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
    use serde_json::json;

    use super::*;
    use crate::policy::model::{CheckedBy, Dpop, Origin};

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
            leeway: Duration::from_secs(30),
            tier: None,
            kept: Vec::new(),
            dpop: Dpop::default(),
        }
    }

    fn told(answer: &Value) -> Result<(Arc<str>, u64), TokenError> {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        let answer = answer.as_object().unwrap().clone();
        let token = judge(answer, &issuer(), Duration::from_secs(60), now)?;
        let expires = token.expires.duration_since(SystemTime::UNIX_EPOCH).unwrap();
        Ok((token.subject, expires.as_secs()))
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
                ("web", 1060),
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
